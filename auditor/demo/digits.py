"""The images of the demo: scikit-learn's handwritten digits in four disjoint parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auditor.run.files import atomic

SHUFFLE_SEED = 20260303
# The last part takes the rest. ``clip`` is a fourth of the 1797 digits, seen by no diffusion model.
SIZES = {"train_a": 500, "train_b": 500, "clip": 449}
PARTS = (*SIZES, "heldout")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Part:
    """Some of the digits.

    ``images`` is uint8 ``[n, 8, 8]``, 0 to 255; ``labels`` int64 ``[n]``, 0 to 9;
    ``indices`` int64 ``[n]``, the positions in ``sklearn.datasets.load_digits()``.
    """

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)


def load() -> dict[str, Part]:
    """Return the disjoint parts ``train_a``, ``train_b``, ``clip`` and ``heldout``.

    The digits are shuffled once, by a fixed seed, so the four parts follow one
    distribution. An image that occurs twice is kept once: otherwise both halves could
    hold it.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # 17 gray levels
    kept = first_occurrences(images)
    order = np.random.default_rng(SHUFFLE_SEED).permutation(kept)
    cuts = np.split(order, np.cumsum(list(SIZES.values())))
    return {
        name: Part(images[indices], digits.target[indices].astype(np.int64), indices)
        for name, indices in zip(PARTS, cuts, strict=True)
    }


def first_occurrences(images: np.ndarray) -> np.ndarray:
    """Return the ascending positions of the images that equal no earlier one, int64 ``[m]``."""
    _, positions = np.unique(images.reshape(len(images), -1), axis=0, return_index=True)
    return np.sort(positions)


def captions(labels: np.ndarray) -> list[str]:
    """Return one caption per label, for example "the digit three"."""
    return [f"the digit {WORDS[label]}" for label in labels]


def write(out: Path) -> dict[str, Path]:
    """Write the parts to ``out/data`` and return their paths by name.

    The files are ``train-a.npz``, ``train-b.npz``, ``clip.npz`` and ``heldout.npz``, with
    the keys ``images``, ``labels`` and ``indices``. The same bytes are written every time.
    """
    paths = {}
    for name, part in load().items():
        paths[name] = out / "data" / f"{name.replace('_', '-')}.npz"
        with atomic(paths[name]) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, images=part.images, labels=part.labels, indices=part.indices)
    return paths
