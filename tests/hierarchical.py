"""Twin "trainings" blended from the exact denoisers of the lab, measured at one time of the noise; and brute force.

Sequences are int64 ``[n, length]``; noisy sequences and posteriors of the letters are float64 ``[n, length, q]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch

from auditor.lab import exact
from auditor.lab.blend import Course, bent
from auditor.lab.decomposition import cross_entropy, divergence
from auditor.lab.diffusion import Diffusion
from auditor.lab.grammar import Grammar, one_hot

# ---------------------------------------------------------------------------
# G0: twin trainings without training
# ---------------------------------------------------------------------------

TAUS = tuple(range(21))
SETS = ("a", "b", "heldout")


@dataclass(frozen=True)
class Measured:
    """What is known of both models at all taus: arrays ``[taus, sequences]``."""

    loss: dict[str, np.ndarray]  # by model: cross-entropy per token, on the sequences of all sets
    excess: dict[str, np.ndarray]  # by model: its part -(x_0 - mu) ln p, whose mean is 0 for what was not remembered
    split: dict[tuple[str, str], np.ndarray]  # KL(first || second) of two models, on held-out sequences
    oracle: dict[str, np.ndarray]  # KL(BP_0 || model), on held-out sequences


@dataclass(frozen=True)
class Twins:
    """Two models that descend the hierarchy together and, unless ``memory`` is 0, end by remembering their halves.

    At tau = 0 both know only that letters share a root (BP_4), from 16 on they know the
    grammar (BP_0). Each carries the noise of its own initialisation, which decays, and from
    7 on mixes in the empirical denoiser of its own half.
    """

    seed: int = 0
    memory: float = 0.10  # weight of the empirical denoiser at tau = 20
    n_train: int = 5000  # sequences per half
    n_measured: int = 1500  # sequences per set: some of a, some of b, and held out
    t: int = 75
    depth: int = 4

    @property
    def diffusion(self) -> Diffusion:
        """That of the paper."""
        return Diffusion()

    @property
    def grammar(self) -> Grammar:
        """The grammar of seed 0, whatever the seed of the twins."""
        return Grammar(depth=self.depth)

    @property
    def h(self) -> float:
        """The field of the noise."""
        return float(Diffusion().fields[self.t])

    @cached_property
    def sequences(self) -> dict[str, np.ndarray]:
        """Both halves and the held-out sequences."""
        ends = np.cumsum([self.n_train, self.n_train, self.n_measured])
        drawn = self.grammar.draw(ends[-1], np.random.default_rng([self.seed, 0]))
        return dict(zip(SETS, np.split(drawn, ends[:-1]), strict=True))

    @cached_property
    def measured(self) -> dict[str, np.ndarray]:
        """The sequences that are noised, by set; of the halves only what the other half does not have, too (F.3)."""
        known = {half: set(map(tuple, self.sequences[half].tolist())) for half in "ab"}
        found = {"heldout": self.sequences["heldout"]}
        for half, other in (("a", "b"), ("b", "a")):
            apart = [tuple(each) not in known[other] for each in self.sequences[half].tolist()]
            found[half] = self.sequences[half][apart][: self.n_measured]
        return found

    def rows(self, name: str) -> slice:
        """Return the rows of one set in ``x0``, ``x_t`` and every posterior."""
        first = SETS.index(name) * self.n_measured
        return slice(first, first + self.n_measured)

    @cached_property
    def x0(self) -> torch.Tensor:
        """The measured sequences of a, b and held-out, one-hot."""
        return torch.from_numpy(one_hot(np.concatenate([self.measured[name] for name in SETS]), self.grammar.q))

    @cached_property
    def x_t(self) -> torch.Tensor:
        """The same, noised once for all taus and both models."""
        eps = np.random.default_rng([self.seed, 1]).standard_normal(self.x0.shape)
        return self.diffusion.noisy(self.x0, self.t, torch.from_numpy(eps))

    @cached_property
    def filtered(self) -> list[torch.Tensor]:
        """BP_0 ... BP_depth."""
        return exact.posteriors(self.x_t, self.h, self.grammar, range(self.depth + 1))

    @cached_property
    def remembered(self) -> dict[str, torch.Tensor]:
        """The empirical denoiser of each half."""
        return {twin: exact.empirical(self.x_t, self.h, torch.from_numpy(self.sequences[twin])) for twin in "ab"}

    @cached_property
    def initial(self) -> dict[str, torch.Tensor]:
        """What the initialization of each model does to its logits."""
        dim = self.x0[0].numel()
        weights = {
            twin: np.random.default_rng([self.seed, 2, i]).normal(size=(dim, dim)) for i, twin in enumerate("ab")
        }
        return {twin: bent(self.x_t, torch.from_numpy(w / np.sqrt(dim))) for twin, w in weights.items()}

    def posterior(self, twin: str, tau: float) -> torch.Tensor:
        """Return what the model of ``twin`` at ``tau`` believes of every letter of the measured sequences."""
        none = np.empty((0, 0))
        blend = Course(memory=self.memory).blend(tau, self.grammar, none, none, self.diffusion)
        remembered = self.remembered[twin] if blend.memory > 0 else None
        return blend.mixed(dict(enumerate(self.filtered)), remembered, self.initial[twin])

    @cached_property
    def results(self) -> Measured:
        """Everything that is measured, at all taus."""
        mu, new = self.filtered[0], self.rows("heldout")
        loss, excess, split, oracle = {}, {}, {}, {}
        for tau in TAUS:
            p = {twin: self.posterior(twin, tau) for twin in "ab"}
            for twin in "ab":
                loss[twin, tau] = cross_entropy(p[twin], self.x0).numpy()
                excess[twin, tau] = cross_entropy(p[twin], self.x0 - mu).numpy()
                oracle[twin, tau] = divergence(mu[new], p[twin][new]).numpy()
            for one, two in product("ab", repeat=2):
                split[(one, two), tau] = divergence(p[one][new], p[two][new]).numpy()
        return Measured(*({key: stacked(by_tau, key) for key, _ in by_tau} for by_tau in (loss, excess, split, oracle)))


def stacked(by_tau: dict, key: object) -> np.ndarray:
    """Return the arrays of one key in the order of tau."""
    return np.array([by_tau[key, tau] for tau in TAUS])


# ---------------------------------------------------------------------------
# Checks
# ---------------------------------------------------------------------------


def brute_force(x_t: np.ndarray, h: float, m: np.ndarray, k: int) -> np.ndarray:
    """The posterior by summing over all sequences of 8 letters.

    With the top k levels cut, the blocks below level k are independent given the root.
    """
    q = len(m)
    four = np.einsum("rlm,lab,mcd->rabcd", m, m, m)
    eight = np.einsum("rlm,labcd,mefgh->rabcdefgh", m, four, four)  # p(sequence | root)
    size, letters = 8 // 2**k, "abcdefgh"
    blocks = [letters[i : i + size] for i in range(0, 8, size)]
    marginals = [np.einsum(f"r{letters}->r{block}", eight) for block in blocks]
    prior = np.einsum(",".join(f"r{block}" for block in blocks) + f"->{letters}", *marginals) / q
    answer = np.empty_like(x_t)
    for n, each in enumerate(np.exp(h * x_t)):
        joint = np.einsum(",".join([letters, *letters]) + f"->{letters}", prior, *each)
        answer[n] = [joint.sum(axis=tuple(j for j in range(8) if j != i)) for i in range(8)]
    return answer / answer.sum(axis=2, keepdims=True)


def mean_of(values) -> float:
    """Return the mean of an array or tensor."""
    return float(values.mean())


def error_of(values) -> float:
    """Return the standard error of the mean of an array or tensor."""
    return float(np.std(np.asarray(values), ddof=1) / np.sqrt(len(values)))
