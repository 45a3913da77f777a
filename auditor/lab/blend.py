"""Models whose truth is known: exact denoisers blended so that they learn, diverge and remember on schedule.

A blend knows the grammar down to a level, carries the noise of its own initialization, and mixes
in the empirical denoiser of its own training sequences with a weight. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from auditor.lab import exact
from auditor.lab.diffusion import Diffusion
from auditor.lab.grammar import Grammar
from auditor.seeds import derived_seed

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Blend:
    """A denoiser: ((1 - memory) BP_level + memory empirical) exp(initial tanh(x_t W)), normalized.

    A level between two whole ones interpolates their posteriors linearly.
    """

    grammar: Grammar
    diffusion: Diffusion
    level: float
    memory: float
    initial: float
    train: np.ndarray  # int64 [N, length], what is remembered
    weights: np.ndarray  # float [length q, length q], W

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of the letters at times t, in the type of x_t."""
        import torch

        h = self.diffusion.at(self.diffusion.fields, t, x_t)
        levels = self.levels
        known = dict(zip(levels, exact.posteriors(x_t, h, self.grammar, levels), strict=True))
        remembered = None
        if self.memory > 0:
            train = torch.as_tensor(self.train, dtype=torch.int64, device=x_t.device)
            remembered = exact.empirical(x_t, h, train)
        return self.mixed(known, remembered, bent(x_t, torch.as_tensor(self.weights).to(x_t)))

    @property
    def levels(self) -> list[int]:
        """The whole levels between which the model is."""
        low = min(int(self.level), self.grammar.depth - 1)
        return [low] if self.level == low else [low, low + 1]

    def mixed(
        self, known: Mapping[int, torch.Tensor], remembered: torch.Tensor | None, bend: torch.Tensor
    ) -> torch.Tensor:
        """Return the probabilities from BP_k by level, the empirical denoiser (None: no memory) and tanh(x_t W)."""
        low, *high = self.levels
        p = known[low] if not high else (low + 1 - self.level) * known[low] + (self.level - low) * known[high[0]]
        if remembered is not None:
            p = (1 - self.memory) * p + self.memory * remembered
        p = p * (self.initial * bend).exp()
        return p / p.sum(dim=2, keepdim=True)


def bent(x_t: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return tanh(x_t W), in the shape of x_t: what an initialization does to logits."""
    return (x_t.flatten(1) @ weights).tanh().reshape(x_t.shape)


def initial_weights(grammar: Grammar, seed: int, twin: str) -> np.ndarray:
    """Return W of one training, float32 ``[d, d]`` with entries of variance 1/d."""
    d = grammar.length * grammar.q
    rng = np.random.default_rng(derived_seed("lab initial", seed, twin))
    return (rng.normal(size=(d, d)) / np.sqrt(d)).astype(np.float32)


@dataclass(frozen=True)
class Course:
    """How a training goes, as a function of its time tau.

    The defaults are the fixture G0: all levels are learned by tau = 16, memory starts after 6.
    """

    memory: float = 0.10  # weight of the empirical denoiser at the end
    growth: float = 1.5  # exponent with which the weight grows
    onset: float = 6.0  # the last tau without memory
    learned: float = 16.0  # tau at which the grammar is known
    end: float = 20.0
    initial: float = 0.6  # size of the initialization's noise
    decay: float = 2.5  # taus that halve it

    def level(self, tau: float, depth: int) -> float:
        """Return the level down to which the grammar is not yet known; ``depth`` at the start, 0 in the end."""
        return max(0.0, depth * (1 - tau / self.learned))

    def memory_at(self, tau: float) -> float:
        """Return the weight of the empirical denoiser."""
        return self.memory * (max(0.0, tau - self.onset) / (self.end - self.onset)) ** self.growth

    def initial_at(self, tau: float) -> float:
        """Return the size of the initialization's noise."""
        return self.initial * 2 ** (-tau / self.decay)

    def blend(
        self, tau: float, grammar: Grammar, train: np.ndarray, weights: np.ndarray, diffusion: Diffusion
    ) -> Blend:
        """Return the model of one training at tau."""
        level, memory = self.level(tau, grammar.depth), self.memory_at(tau)
        return Blend(
            grammar=grammar,
            diffusion=diffusion,
            level=level,
            memory=memory,
            initial=self.initial_at(tau),
            train=train,
            weights=weights,
        )
