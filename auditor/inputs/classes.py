"""Which training images take part in comparisons within classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from auditor.metrics import LEAST_IN_CLASS
from auditor.seeds import derived_seed


def class_pools(
    pools: Mapping[str, np.ndarray], classes: Mapping[str, np.ndarray], seed: int, mirrored: bool = False
) -> dict[str, np.ndarray]:
    """Return which pool images take part in comparisons within classes, bool ``[n]`` per half.

    Of each class as many from either half as the half with fewer has, chosen by ``seed``, since
    a nearest image is nearer where there are more; a class with fewer than LEAST_IN_CLASS has
    none. Mirrored images go with their originals. Nothing where the classes of a half are not known.
    """
    if len(pools) < 2 or not set(pools) <= set(classes):
        return {}
    n = {name: len(mask) // 2 if mirrored else len(mask) for name, mask in pools.items()}
    kept = {name: np.zeros(n[name], dtype=bool) for name in pools}
    for number in np.unique(np.concatenate([classes[name] for name in pools])):
        members = {
            name: np.flatnonzero(pools[name][: n[name]] & (classes[name][: n[name]] == number)) for name in pools
        }
        size = min(map(len, members.values()))
        if size < LEAST_IN_CLASS:
            continue
        for name, rows in members.items():
            rng = np.random.default_rng(derived_seed("class pool", name, int(number), seed))
            kept[name][rng.permutation(rows)[:size]] = True
    return {name: np.tile(mask, 2) for name, mask in kept.items()} if mirrored else kept


def pool_notes(masks: Mapping[str, np.ndarray], classes: Mapping[str, np.ndarray], n_classes: int) -> list[str]:
    """Return which classes have too few training images to be compared within, in one sentence."""
    if not masks:
        return []
    counted = {number for name, mask in masks.items() for number in np.unique(classes[name][mask]).tolist()}
    few = [number for number in range(n_classes) if number not in counted]
    if not few:
        return []
    named = ", ".join(map(str, few[:5])) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
    few_of = f"Classes with fewer than {LEAST_IN_CLASS} images in a half"
    return [f"{few_of} ({named}) are left out of comparisons within classes."]
