"""What is measured of a denoiser beside the exact one: divergences, and its loss in two parts.

Probabilities are ``[n, length, q]`` and clipped at 1e-8 before a logarithm. Divergences are sums
over positions (nats per sequence), losses means over positions (nats per letter), as in arXiv 2603.03469.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FLOOR = 1e-8


def divergence(p: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return KL(p || other) of the letters' marginals, summed over positions, ``[n]``; nats per sequence."""
    p, other = p.clamp_min(FLOOR), other.clamp_min(FLOOR)
    return (p * (p / other).log()).sum(dim=(1, 2))


def cross_entropy(p: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return -sum_a target(a) ln p(a), the mean over positions, ``[n]``; nats per letter."""
    return -(target * p.clamp_min(FLOOR).log()).sum(dim=2).mean(dim=1)


@dataclass(frozen=True)
class LossParts:
    """The cross-entropy of a denoiser, per sequence; loss = distillation + excess.

    ``distillation`` is the cross-entropy against the exact posterior: how well the model knows
    the grammar. ``excess`` pairs the model with what the posterior leaves open, so its mean is
    0 on sequences that the model did not see, whatever the model; below 0 it remembers.
    """

    loss: torch.Tensor  # [n]
    distillation: torch.Tensor  # [n]
    excess: torch.Tensor  # [n]
    adjusted_excess: torch.Tensor  # [n], the excess with less noise and the same mean


def decompose(p: torch.Tensor, x0: torch.Tensor, mu: torch.Tensor) -> LossParts:
    """Split the loss of a denoiser p on sequences x0, given the exact posterior mu of the same noisy sequences.

    The excess of mu itself, -(x_0 - mu) ln mu, has mean 0 by construction and nearly the noise
    of the model's: ``adjusted_excess`` subtracts it, times the regression coefficient of these
    sequences (a bias of order 1/n of the standard error).
    """
    excess, control = cross_entropy(p, x0 - mu), cross_entropy(mu, x0 - mu)
    centered = control - control.mean()
    variance = (centered**2).sum()
    beta = (excess * centered).sum() / variance if variance > 0 else variance
    return LossParts(cross_entropy(p, x0), cross_entropy(p, mu), excess, excess - beta * control)
