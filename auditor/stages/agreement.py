"""How the twins' predictions compare at shared cells: with each other, and with what memorizing alone would predict.

At a cell (image, t, eps) both networks predict the noise in the same x_t. Their difference is
due to their halves and their seeds; the empirical denoiser of a half (empirical.py) says what a
network that only memorized it would predict. Sources: arXiv 2603.03469, Fig. 2 (cosine); arXiv
2510.01378 (supervision region); docs/statistics.md 5.7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from auditor.diffusion import empirical
from auditor.images import scales

REVISION = 2
HALVES = ("a", "b")
MEMORIZER = ("noise_loss", "error", "along", "reach", "spread", "sharing", "largest", "shell")
COLUMNS = (
    "cosine",
    "half_squared",
    *(f"{name}_{twin}" for twin in HALVES for name in MEMORIZER),
)


def cell_columns(
    noise: Mapping[str, np.ndarray], eps: Any, x_t: Any, halves: Mapping[str, Any], abar: np.ndarray
) -> dict[str, np.ndarray]:
    """Return per image and noise level how the twins' predictions compare, each float64 ``[n_images, n_levels]``.

    Everything is a mean over the antithetic pair (or what else the third axis has) and, where
    squared, over the d pixels.

    Parameters
    ----------
    noise
        By twin, float32 ``[n_images, n_levels, 2, d]``, the predicted noise.
    eps, x_t
        The true noise ``[n_images, n_levels, d]``, None where there is none (states of a trajectory), and
        the noised images, float64 tensor of the shape of ``noise``.
    halves
        By twin, its training images as the network sees them, tensor ``[n, d]``; none where they are not known.
    abar
        float64 ``[n_levels]``.
    """
    a, b = (noise[twin].astype(np.float64) for twin in HALVES)
    found = {"cosine": cosine(a, b).mean(axis=2), "half_squared": ((a - b) ** 2).mean(axis=3).mean(axis=2) / 2}
    for twin, own, other in (("a", a, b), ("b", b, a)):
        if eps is not None:
            found[f"noise_loss_{twin}"] = ((own - np.stack([eps, -eps], axis=2)) ** 2).mean(axis=3).mean(axis=2)
        if twin in halves:
            against = memorizer_columns(own, other, x_t, halves[twin], abar)
            found |= {f"{name}_{twin}": values for name, values in against.items()}
    unknown = np.full(found["cosine"].shape, np.nan)
    return {name: found.get(name, unknown) for name in COLUMNS}


def scale_columns(
    noise: Mapping[str, np.ndarray], eps: np.ndarray, shape: tuple[int, int, int], axes: scales.Axes | None
) -> dict[str, dict[str, np.ndarray]]:
    """Return by column and scale each image's mean over noise levels and the antithetic pair, float64 ``[n_images]``.

    ``noise`` and ``eps`` are those of :func:`cell_columns`; ``shape`` is (c, h, w) of what the
    network sees, ``axes`` spans its principal subspaces.
    """
    a, b = (noise[twin].astype(np.float64) for twin in HALVES)
    both = np.stack([eps, -eps], axis=2)
    parts = {"loss_a": a - both, "loss_b": b - both, "half_squared": (a - b) / np.sqrt(2)}
    found = {
        column: scales.energies(difference.reshape(-1, difference.shape[-1]), shape, axes)
        for column, difference in parts.items()
    }
    return {
        column: {name: each.reshape(len(a), -1).mean(axis=1) for name, each in by_scale.items()}
        for column, by_scale in found.items()
    }


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine of vectors along the last axis; NaN where one is zero."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.divide((a * b).sum(axis=-1), lengths, out=np.full(lengths.shape, np.nan), where=lengths > 0)


def memorizer_columns(
    own: np.ndarray, other: np.ndarray, x_t: Any, images: Any, abar: np.ndarray
) -> dict[str, np.ndarray]:
    """Return how a network's predictions compare with those of the empirical denoiser of its half.

    ``error`` is the mean squared difference E_P; ``along`` / ``reach`` is the projection
    lambda = <f - g, m - g> / ||m - g||^2 of the network f, its twin g and the memorizer m: 0 no
    nearer to its own data than the twin, 1 the memorizer; ``spread`` is the least noise loss
    that any network can have on the half, alpha^2 / sigma^2 Var[x_0 | x_t]; ``sharing`` how many
    training images share the posterior, ``largest`` the weight of the likeliest; ``shell`` r*, the
    relative distance to the nearest shell of a noised training image, 1 on it.
    """
    shape = own.shape[:3]
    found = {name: np.empty(shape) for name in MEMORIZER[1:]}
    for j, kept in enumerate(abar):
        signal, sigma = float(np.sqrt(kept)), float(np.sqrt(1 - kept))
        z = x_t[:, j].reshape(-1, x_t.shape[-1])
        posterior = empirical.posterior(z, signal, sigma, images)
        m = empirical.noise_prediction(z, posterior.mean, signal, sigma).cpu().numpy()
        f, g = (each[:, j].reshape(len(m), -1) for each in (own, other))
        values = {
            "error": ((f - m) ** 2).mean(axis=1),
            "along": ((f - g) * (m - g)).mean(axis=1),
            "reach": ((m - g) ** 2).mean(axis=1),
            "spread": signal**2 / sigma**2 * posterior.variance.cpu().numpy(),
            "sharing": posterior.n_effective.cpu().numpy(),
            "largest": posterior.largest.cpu().numpy(),
            "shell": posterior.shell.cpu().numpy(),
        }
        for name, each in values.items():
            found[name][:, j] = each.reshape(shape[0], shape[2])
    return {name: values.mean(axis=2) for name, values in found.items()}
