"""Diffusion of one-hot letters: the schedule, the noise, and the reverse steps that any denoiser can drive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.diffusion import noise

if TYPE_CHECKING:
    import torch

# x_t [n, length, q] and times int64 [n] (1 ... n_steps) -> probabilities of the letters [n, length, q]
Denoiser = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


@dataclass(frozen=True)
class Diffusion:
    """Variance-preserving noise at times 1 ... n_steps; time 0 is the data.

    The variances of the steps are linear from 1e-4 to .02, both times 1000 / n_steps.
    """

    n_steps: int = 500

    @cached_property
    def kept(self) -> np.ndarray:
        """abar_t, the share of the signal's variance kept at t, float64 ``[n_steps + 1]``; 1 at t = 0."""
        scale = 1000 / self.n_steps
        betas = np.linspace(1e-4 * scale, 0.02 * scale, self.n_steps)
        return np.concatenate([[1.0], np.cumprod(1 - betas)])

    @cached_property
    def fields(self) -> np.ndarray:
        """h_t = sqrt(abar_t) / (1 - abar_t), float64 ``[n_steps + 1]``; infinite at t = 0.

        p(x_t[i] | letter a at i) is proportional to exp(h_t x_t[i, a]), for one-hots have equal norms.
        """
        with np.errstate(divide="ignore"):
            return np.sqrt(self.kept) / (1 - self.kept)

    def at(self, values: np.ndarray, t: Any, like: torch.Tensor) -> torch.Tensor:
        """Return ``values`` at the times t (one, or one per row), broadcastable over rows of ``like``."""
        import torch

        picked = torch.as_tensor(values, dtype=like.dtype)[torch.as_tensor(t).cpu()]
        return picked.to(like.device).reshape(-1, *[1] * (like.ndim - 1))

    def noisy(self, x0: torch.Tensor, t: Any, eps: torch.Tensor) -> torch.Tensor:
        """Return x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps."""
        return self.at(np.sqrt(self.kept), t, x0) * x0 + self.at(np.sqrt(1 - self.kept), t, x0) * eps

    def backward(self, x_t: torch.Tensor, t: int, x0: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        """Return x_{t-1} given the predicted x_0, with the variance of the posterior (0 at t = 1)."""
        before, now = self.kept[t - 1], self.kept[t]
        step = now / before
        mean = np.sqrt(before) * (1 - step) * x0 + np.sqrt(step) * (1 - before) * x_t
        return mean / (1 - now) + np.sqrt((1 - step) * (1 - before) / (1 - now)) * eps


def reverse(denoiser: Denoiser, diffusion: Diffusion, x_t: torch.Tensor, t: int, streams: Sequence[Any]) -> Any:
    """Return x_0 from x_t by all reverse steps, noise from one stream per row."""
    import torch

    with torch.inference_mode():
        for now in range(t, 0, -1):
            times = torch.full((len(x_t),), now, dtype=torch.int64)
            eps = noise.draw(streams, tuple(x_t.shape[1:])).to(x_t) if now > 1 else torch.zeros_like(x_t)
            x_t = diffusion.backward(x_t, now, denoiser(x_t, times), eps)
    return x_t
