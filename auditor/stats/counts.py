"""Counts and what they allow: exact limits of proportions, and tests of copying (docs/statistics.md 4)."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from auditor.config import LEVEL


def clopper_pearson(hits: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the exact interval of a proportion; 0 of n has a positive upper limit.

    Half hits (ties) are allowed: the beta quantiles interpolate.
    """
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(special.betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits == n else float(special.betaincinv(hits + 1, n - hits, 1 - tail))
    return low, high


def upper_limit(hits: float, n: int, level: float = LEVEL) -> float:
    """Return the one-sided Clopper-Pearson upper limit; 0 of n gives about 3 / n at 95 %."""
    if n == 0 or hits >= n:
        return 1.0
    return float(special.betaincinv(hits + 1, n - hits, level))


def lower_limit(hits: float, n: int, level: float = LEVEL) -> float:
    """Return the one-sided Clopper-Pearson lower limit; half hits (ties) are allowed."""
    return 0.0 if hits == 0 else float(special.betaincinv(hits, n - hits + 1, 1 - level))


def more_hits(hits: int, n: int, control_hits: int, control_n: int) -> float:
    """Return Fisher's one-sided p that hits/n exceeds control_hits/control_n: the hypergeometric tail from hits on."""
    total = hits + control_hits
    x = np.arange(hits, min(n, total) + 1)  # hits among the n, had the same total fallen at random
    ways = log_binomial(n, x) + log_binomial(control_n, total - x) - log_binomial(n + control_n, total)
    return min(1.0, float(np.exp(ways).sum()))


def log_binomial(n: int, k: Any) -> Any:
    """Return ln of n over k; -inf where k is no number of elements."""
    inside = (k >= 0) & (k <= n)
    found = special.gammaln(n + 1) - special.gammaln(np.where(inside, k, 0) + 1)
    return np.where(inside, found - special.gammaln(n - np.where(inside, k, 0) + 1), -np.inf)


def above_rank(hits: int, n: int, rank: int, m: int) -> float:
    """Return the exact p that so many of ``n`` lie above the ``rank``-th largest of ``m`` others that are like them.

    Under exchangeability the number above is negative hypergeometric: the tail from ``hits`` on.
    """
    x = np.arange(hits, n + 1)
    ways = log_binomial(n, x) + special.betaln(rank + x, m + 1 - rank + n - x) - special.betaln(rank, m + 1 - rank)
    return min(1.0, float(np.exp(ways).sum()))


def least_rank(m: int, rate: float, confidence: float = LEVEL) -> int:
    """Return the least rank whose value, of ``m`` others, at least ``rate`` of all others exceed with ``confidence``.

    The share that exceeds the k-th largest of m is Beta(k, m + 1 - k), whatever their distribution.
    """
    ranks = np.arange(1, m + 1)
    return int(np.argmax(special.betaincc(ranks, m + 1 - ranks, rate) >= confidence)) + 1


def rank_limits(rank: int, m: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the exact interval of the share of others that exceed the ``rank``-th largest of ``m``."""
    low, high = special.betaincinv(rank, m + 1 - rank, np.array([(1 - level) / 2, (1 + level) / 2]))
    return float(low), float(high)


def gain_over_rank(hits: float, n: int, rank: int, m: int, level: float = LEVEL) -> float:
    """Return the one-sided lower limit of the share of ``n`` above the ``rank``-th largest of ``m``, less theirs.

    Both one-sided limits put together as Newcombe does (Statistics in Medicine 17, 1998, method 10).
    """
    share, others = hits / n, rank / (m + 1)
    least = 0.0 if hits == 0 else float(special.betaincinv(hits, n - hits + 1, 1 - level))
    most = float(special.betaincinv(rank, m + 1 - rank, level))
    return share - others - float(np.hypot(share - least, most - others))


def paired_hits(own_only: int, other_only: int, chance: float = 0.5) -> float:
    """Return the exact one-sided p that so many speak for own against other: McNemar's, where both are as likely.

    ``chance`` is the probability of own.
    """
    n = own_only + other_only
    return 1.0 if own_only == 0 else float(special.bdtrc(own_only - 1, n, chance))


def holm(p: np.ndarray) -> np.ndarray:
    """Return Holm's family-wise p values, valid under any dependence."""
    order = np.argsort(p, kind="stable")
    raised = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    adjusted = np.empty(len(p))
    adjusted[order] = raised
    return adjusted
