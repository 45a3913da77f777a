"""Which images networks are asked about: a function of the run's seed, fewer being some of more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from auditor.inputs.asked import Asked
from auditor.inputs.loaded import Loaded
from auditor.seeds import derived_seed


def image_counts(asked: Asked, n: int) -> dict[str, int]:
    """Return how many images of each set are taken where ``n`` are asked for: no mirrored, shared or blank ones."""
    return {name: each.asked_about(n) for name, each in asked.sets_asked_about.items()}


def loss_counts(asked: Asked) -> dict[str, int]:
    """Return on how many images of each set the loss is measured."""
    return image_counts(asked, asked.loss_images)


def eligible_rows(loaded: Loaded, name: str, n: int) -> np.ndarray:
    """Return which ``n`` images of a set are asked about, int64, ascending.

    Of a set that was joined from several, those that would be asked about of each of them.
    """
    parts = loaded.sets[name].parts or ((name, loaded.asked.sets[name].originals),)
    starts = np.cumsum([0, *(size for _, size in parts)])
    orders = []
    for (part, size), start in zip(parts, starts, strict=False):
        rng = np.random.default_rng(derived_seed("loss images", part, loaded.asked.config.seed))
        order = start + rng.permutation(size)
        eligible = order[loaded.in_pool[name][order]] if name in loaded.in_pool else order
        orders.append(eligible)
    ranks = np.concatenate([np.arange(len(each)) for each in orders])  # in turn one of each part
    return np.sort(np.concatenate(orders)[np.argsort(ranks, kind="stable")][:n])


def measured_rows(loaded: Loaded, name: str) -> np.ndarray:
    """Return on which images of a set the loss is measured, int64, ascending."""
    return eligible_rows(loaded, name, loss_counts(loaded.asked)[name])


def each_of(loaded: Loaded, counted: dict[str, int]) -> list[tuple[str, int]]:
    """Return set and row of every image that is asked about, ``counted`` saying how many of each set."""
    return [(name, int(i)) for name, n in counted.items() for i in eligible_rows(loaded, name, n)]


def pictures_of(loaded: Loaded, images: Sequence[tuple[str, int]]) -> np.ndarray:
    """Return the pictures of images by set and row, uint8 ``[n, h, w, c]``."""
    return np.stack([loaded.sets[name].images[i] for name, i in images])


def classes_of(loaded: Loaded, images: Sequence[tuple[str, int]]) -> np.ndarray | None:
    """Return their class numbers, int64 ``[n]``; None where the models have no classes."""
    return np.array([loaded.classes[name][i] for name, i in images]) if loaded.classes else None


def ids_of(loaded: Loaded, images: Sequence[tuple[str, int]]) -> list[str]:
    """Return their ids."""
    return [loaded.sets[name].ids[i] for name, i in images]
