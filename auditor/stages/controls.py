"""Controls that every run carries: a model that only smooths its half, and one that only copies it.

The smooth reference is that of diffusion/gaussian.py; the copier must be found to copy.
"""

from __future__ import annotations

import numpy as np

from auditor.diffusion.gaussian import Gaussian, sample
from auditor.diffusion.noise import draw, generators
from auditor.records import ImageSet
from auditor.seeds import derived_seed

REVISION = 1
N_SMOOTH = 4000  # images of the smooth reference per half
N_COPIES = 512  # images of the copier per half
COPY_NOISE = 2.0  # standard deviation of the copier's noise, grey levels of 255


def smooth_images(gaussian: Gaussian, rows: range, shape: tuple[int, int, int], run_seed: int) -> np.ndarray:
    """Return images of the smooth reference, uint8 ``[len(rows), h, w, c]``.

    Row i of both halves comes from the same noise, as the samples of twins do.
    """
    h, w, c = shape
    eps = draw(generators([derived_seed("smooth", run_seed, i) for i in rows]), (h, w, c)).numpy().astype(float)
    x = sample(gaussian, eps.reshape(len(rows), -1))
    return np.clip(np.round((x + 1) * 127.5), 0, 255).astype(np.uint8).reshape(len(rows), h, w, c)


def copied_images(training: ImageSet, rows: range, run_seed: int) -> np.ndarray:
    """Return training images with slight noise, uint8 ``[len(rows), h, w, c]``: what a copier would draw."""
    copies = np.empty((len(rows), *training.images.shape[1:]), dtype=np.uint8)
    for at, row in enumerate(rows):
        rng = np.random.default_rng(derived_seed("copier", training.name, run_seed, row))
        original = training.images[rng.integers(len(training))]
        copies[at] = np.clip(np.round(original + rng.normal(0, COPY_NOISE, original.shape)), 0, 255)
    return copies
