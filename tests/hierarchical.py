"""The random hierarchy, its exact denoisers, and twin "trainings" blended from them: twins whose truth is known.

Formulas of methods B.1 (grammar), B.2 (diffusion of one-hot letters), B.3 and B.4 (belief propagation BP_0 ... BP_l,
the empirical denoiser) and G0 (the blend). Sequences are int64 ``[n, length]``; noisy sequences and posteriors of the
letters are float64 ``[n, length, q]``. Numpy only; nothing is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

FLOOR = 1e-8  # probabilities are clipped here before a logarithm (methods B.6)


# ---------------------------------------------------------------------------
# Grammar and sequences (B.1)
# ---------------------------------------------------------------------------


def grammar(seed: int = 0, q: int = 6, q_eff: int = 4, sigma: float = 1.0) -> np.ndarray:
    """Return M, float64 ``[parent, left, right]``: how often a parent letter has these two children.

    The q^2 pairs are shuffled and dealt out, q to each parent, so that a pair has one
    possible parent; a parent uses the first q_eff of its pairs.
    """
    random = np.random.RandomState(seed)  # the legacy generator: the paper's grammar is its seed 0
    pairs = np.array([(left, right) for left in range(q) for right in range(q)])
    random.shuffle(pairs)
    m = np.zeros((q, q, q))
    for parent in range(q):
        weights = np.exp(sigma * random.randn(q_eff))
        left, right = pairs[parent * q : parent * q + q_eff].T
        m[parent, left, right] = weights / weights.sum()
    return m


def draw_sequences(m: np.ndarray, depth: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n sequences of 2^depth letters, drawn from the root (uniform) down."""
    q = len(m)
    cumulated = m.reshape(q, q * q).cumsum(axis=1)
    cumulated /= cumulated[:, -1:]
    letters = rng.integers(q, size=(n, 1))
    for _ in range(depth):
        pair = (rng.random((*letters.shape, 1)) >= cumulated[letters]).sum(axis=2)
        letters = np.stack([pair // q, pair % q], axis=2).reshape(n, -1)
    return letters


# ---------------------------------------------------------------------------
# Diffusion of one-hot letters (B.2)
# ---------------------------------------------------------------------------


def alpha_bar(t: int, n_steps: int = 500) -> float:
    """Return the signal variance kept at time t in 1 ... n_steps: betas are linear, scaled by 1000 / n_steps."""
    scale = 1000 / n_steps
    return float(np.prod(1 - np.linspace(1e-4 * scale, 0.02 * scale, n_steps)[:t]))


def field(t: int) -> float:
    """Return h_t: p(x_t[i] | letter a at i) is proportional to exp(h_t x_t[i, a]), for one-hots have equal norms."""
    return np.sqrt(alpha_bar(t)) / (1 - alpha_bar(t))


def noisy(x0: np.ndarray, t: int, rng: np.random.Generator) -> np.ndarray:
    """Return x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, one eps per sequence."""
    return np.sqrt(alpha_bar(t)) * x0 + np.sqrt(1 - alpha_bar(t)) * rng.standard_normal(x0.shape)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return exp(logits), normalised along the last axis."""
    return normalized(np.exp(logits - logits.max(axis=-1, keepdims=True)))


def normalized(weights: np.ndarray) -> np.ndarray:
    """Return weights that sum to 1 along the last axis."""
    return weights / weights.sum(axis=-1, keepdims=True)


# ---------------------------------------------------------------------------
# Denoisers: the posterior mean of x_0 (B.3, B.4)
# ---------------------------------------------------------------------------


def belief_propagation(x_t: np.ndarray, h: float, m: np.ndarray, k: int = 0) -> np.ndarray:
    """Return the posterior of every letter under the hierarchy whose top k levels are cut: BP_k, exact for k = 0.

    Leaf evidence is positive, so every message is: each letter has a pair of children. No
    floor inside the tree is needed, and each message is normalised, so nothing underflows.
    """
    depth = int(np.log2(x_t.shape[1]))
    evidence = [softmax(h * x_t)]  # by level, leaves first: p(leaves below | letter), float64 [n, nodes, q]
    for _ in range(depth - k):
        below = evidence[-1]
        parents = np.einsum("abc,njb,njc->nja", m, below[:, 0::2], below[:, 1::2], optimize=True)
        evidence.append(normalized(parents))
    context = top_context(evidence[-1], m, k)  # p(letter, leaves outside)
    for below in evidence[-2::-1]:
        left = np.einsum("nja,abc,njc->njb", context, m, below[:, 1::2], optimize=True)
        right = np.einsum("nja,abc,njb->njc", context, m, below[:, 0::2], optimize=True)
        context = normalized(np.stack([left, right], axis=2).reshape(below.shape))
    return normalized(evidence[0] * context)


def top_context(evidence: np.ndarray, m: np.ndarray, k: int) -> np.ndarray:
    """Return the context of the 2^k nodes that hang on the root by independent channels.

    The channel P_j of a node is the product of left and right marginals of M along its
    path. Each node hears the root's uniform prior and what all other nodes say.
    """
    channels = np.eye(len(m))[None]  # [nodes, root, letter]
    for _ in range(k):
        children = [channels @ m.sum(axis=2), channels @ m.sum(axis=1)]  # left, right
        channels = np.stack(children, axis=1).reshape(-1, *m.shape[:2])
    heard = np.log(np.einsum("jab,njb->nja", channels, evidence))  # ln p(leaves below j | root letter)
    others = np.einsum("ij,nja->nia", 1 - np.eye(2**k), heard)
    return normalized(np.einsum("nja,jab->njb", softmax(others), channels))


def empirical(x_t: np.ndarray, h: float, train: np.ndarray) -> np.ndarray:
    """Return sum_p w_p x^p with w_p proportional to exp(-||x_t - alpha x^p||^2 / 2 sigma^2): a pure memoriser."""
    q = x_t.shape[2]
    x_train = np.eye(q)[train].reshape(len(train), -1)
    rows = [softmax(h * part @ x_train.T) @ x_train for part in np.array_split(x_t.reshape(len(x_t), -1), 16)]
    return np.concatenate(rows).reshape(x_t.shape)


# ---------------------------------------------------------------------------
# What is measured on posteriors (B.6)
# ---------------------------------------------------------------------------


def divergence(p: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return KL(p || other), summed over positions: nats per sequence, ``[n]``."""
    p, other = np.maximum(p, FLOOR), np.maximum(other, FLOOR)
    return (p * np.log(p / other)).sum(axis=(1, 2))


def cross_entropy(p: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return -sum_a target(a) ln p(a), the mean over positions: nats per token, ``[n]``."""
    return -(target * np.log(np.maximum(p, FLOOR))).sum(axis=2).mean(axis=1)


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

    @cached_property
    def grammar(self) -> np.ndarray:
        """The grammar of seed 0, whatever the seed of the twins."""
        return grammar(0)

    @cached_property
    def sequences(self) -> dict[str, np.ndarray]:
        """Both halves and the held-out sequences."""
        ends = np.cumsum([self.n_train, self.n_train, self.n_measured])
        drawn = draw_sequences(self.grammar, self.depth, ends[-1], np.random.default_rng([self.seed, 0]))
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
    def x0(self) -> np.ndarray:
        """The measured sequences of a, b and held-out, one-hot."""
        return np.eye(len(self.grammar))[np.concatenate([self.measured[name] for name in SETS])]

    @cached_property
    def x_t(self) -> np.ndarray:
        """The same, noised once for all taus and both models."""
        return noisy(self.x0, self.t, np.random.default_rng([self.seed, 1]))

    @cached_property
    def filtered(self) -> list[np.ndarray]:
        """BP_0 ... BP_depth."""
        return [belief_propagation(self.x_t, field(self.t), self.grammar, k) for k in range(self.depth + 1)]

    @cached_property
    def remembered(self) -> dict[str, np.ndarray]:
        """The empirical denoiser of each half."""
        return {twin: empirical(self.x_t, field(self.t), self.sequences[twin]) for twin in "ab"}

    @cached_property
    def initial(self) -> dict[str, np.ndarray]:
        """tanh(x_t W_m), entries of W_m with standard deviation 1/sqrt(96): what the initialisation does to logits."""
        x = self.x_t.reshape(len(self.x_t), -1)
        dim = x.shape[1]
        weights = {
            twin: np.random.default_rng([self.seed, 2, i]).normal(size=(dim, dim)) for i, twin in enumerate("ab")
        }
        return {twin: np.tanh(x @ w / np.sqrt(dim)).reshape(self.x_t.shape) for twin, w in weights.items()}

    def posterior(self, twin: str, tau: float) -> np.ndarray:
        """Return what the model of ``twin`` at ``tau`` believes of every letter of the measured sequences."""
        level = max(0.0, self.depth * (1 - tau / 16))  # 4 at tau = 0, 0 from 16 on
        k = min(int(level), self.depth - 1)
        p = (k + 1 - level) * self.filtered[k] + (level - k) * self.filtered[k + 1]
        eta = self.memory * (max(0, tau - 6) / 14) ** 1.5
        if eta > 0:
            p = (1 - eta) * p + eta * self.remembered[twin]
        return normalized(p * np.exp(0.6 * 2 ** (-tau / 2.5) * self.initial[twin]))

    @cached_property
    def results(self) -> Measured:
        """Everything that is measured, at all taus."""
        mu, new = self.filtered[0], self.rows("heldout")
        loss, excess, split, oracle = {}, {}, {}, {}
        for tau in TAUS:
            p = {twin: self.posterior(twin, tau) for twin in "ab"}
            for twin in "ab":
                loss[twin, tau] = cross_entropy(p[twin], self.x0)
                excess[twin, tau] = cross_entropy(p[twin], self.x0 - mu)
                oracle[twin, tau] = divergence(mu[new], p[twin][new])
            for one, two in product("ab", repeat=2):
                split[(one, two), tau] = divergence(p[one][new], p[two][new])
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
    return normalized(answer)


def mean_of(values) -> float:
    """Return the mean of an array or tensor."""
    return float(values.mean())


def error_of(values) -> float:
    """Return the standard error of the mean of an array or tensor."""
    return float(np.std(np.asarray(values), ddof=1) / np.sqrt(len(values)))
