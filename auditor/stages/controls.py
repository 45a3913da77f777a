"""Controls that every run carries: a model that only smooths its half, and one that only copies it.

The smooth reference says how much lean and loss difference a model shows that memorizes
nothing (docs/statistics.md 3.5, 5.2); the copier must be found to copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.noise import draw, generators
from auditor.diffusion.schedules import forward_process
from auditor.records import ImageSet
from auditor.seeds import derived_seed

REVISION = 1
N_SMOOTH = 4000  # images of the smooth reference per half
N_COPIES = 512  # images of the copier per half
COPY_NOISE = 2.0  # standard deviation of the copier's noise, grey levels of 255
MAX_AXES = 50


@dataclass(frozen=True)
class Gaussian:
    """Mean, leading principal axes and one variance for the rest, of images in [-1, 1]."""

    mean: np.ndarray  # float64 [d]
    axes: np.ndarray  # float64 [d, r], orthonormal
    scale: np.ndarray  # float64 [r], root eigenvalues
    rest: float  # root mean eigenvalue of the other d - r directions


def fit(images: np.ndarray) -> Gaussian:
    """Fit the Gaussian of the smooth reference to uint8 ``[n, h, w, c]``, scaled to [-1, 1]."""
    return fit_vectors(images.reshape(len(images), -1) / 127.5 - 1)


def fit_vectors(x: np.ndarray) -> Gaussian:
    """Fit the Gaussian of the smooth reference to float64 ``[n, d]``: r = min(50, n / 8) axes (3.5)."""
    mean = x.mean(axis=0)
    n, d = x.shape
    r = max(1, min(MAX_AXES, n // 8, d - 1))
    _, singular, rows = np.linalg.svd(x - mean, full_matrices=False)
    eigenvalues = singular**2 / (n - 1)
    rest = np.sqrt(eigenvalues[r:].sum() / max(d - r, 1))
    return Gaussian(mean, rows[:r].T, np.sqrt(eigenvalues[:r]), float(rest))


def sample(gaussian: Gaussian, eps: np.ndarray) -> np.ndarray:
    """Return x = m + rest (eps - V V' eps) + V diag(s) V' eps for eps ``[n, d]``."""
    along = eps @ gaussian.axes
    return gaussian.mean + gaussian.rest * (eps - along @ gaussian.axes.T) + (along * gaussian.scale) @ gaussian.axes.T


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


def linear_denoiser(gaussian: Gaussian, shape: tuple[int, int, int], scheduler: Mapping[str, Any]) -> DiffusionModel:
    """Return the exact denoiser of the Gaussian as a model: the reference of the loss lean (5.2).

    E[x_0 | x_t] = m + a C (a^2 C + s^2 I)^-1 (x_t - a m), with a = sqrt(abar_t),
    s^2 = 1 - abar_t; turned into what the checkpoint predicts.
    """
    import torch

    forward = forward_process(scheduler)
    kind = forward.config.prediction_type
    mean, axes = torch.from_numpy(gaussian.mean), torch.from_numpy(gaussian.axes)
    variances, rest = torch.from_numpy(gaussian.scale**2), gaussian.rest**2
    h, w, c = shape

    def network(x: Any, t: Any) -> Any:
        abar = forward.alphas_cumprod.double()[t.cpu()][:, None]
        a, s2 = abar.sqrt(), 1 - abar
        flat = x.cpu().permute(0, 2, 3, 1).reshape(len(x), -1).double()
        centred = flat - a * mean
        along = centred @ axes
        gain, gain_rest = a * variances / (abar * variances + s2), a * rest / (abar * rest + s2)
        x0 = mean + gain_rest * (centred - along @ axes.T) + (gain * along) @ axes.T
        eps = (flat - a * x0) / s2.sqrt()
        output = {"epsilon": eps, "sample": x0, "v_prediction": a * eps - s2.sqrt() * x0}[kind]
        return output.reshape(len(x), h, w, c).permute(0, 3, 1, 2).to(x)

    return DiffusionModel(network, scheduler, shape, n_parameters=gaussian.mean.size * (1 + len(gaussian.scale)))
