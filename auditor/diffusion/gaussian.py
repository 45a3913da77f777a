"""The smooth reference of a half: a Gaussian, its samples and its exact denoiser (docs/statistics.md 3.5, 5.2).

It says how much lean and loss difference a model shows that memorizes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.schedules import forward_process

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
        centered = flat - a * mean
        along = centered @ axes
        gain, gain_rest = a * variances / (abar * variances + s2), a * rest / (abar * rest + s2)
        x0 = mean + gain_rest * (centered - along @ axes.T) + (gain * along) @ axes.T
        eps = (flat - a * x0) / s2.sqrt()
        output = {"epsilon": eps, "sample": x0, "v_prediction": a * eps - s2.sqrt() * x0}[kind]
        return output.reshape(len(x), h, w, c).permute(0, 3, 1, 2).to(x)

    return DiffusionModel(network, scheduler, shape, n_parameters=gaussian.mean.size * (1 + len(gaussian.scale)))
