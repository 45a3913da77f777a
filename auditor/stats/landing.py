"""Lean towards the own half: where samples land, and its two-way interval (docs/statistics.md 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from auditor.config import LEVEL
from auditor.records import Estimate
from auditor.stats.intervals import NAN, undefined
from auditor.stats.relabeling import Pool


@dataclass(frozen=True)
class Landing:
    """Where one twin's samples land in the pool: the nearest image of each half and how near.

    A sample that is equally near to both halves lands half on each. Half b is the decoys' beside a single training.
    """

    nearest_a: np.ndarray  # int64 [S], pool index of the nearest image of half a
    nearest_b: np.ndarray  # int64 [S]
    in_a: np.ndarray  # float64 [S]: 1 nearer to half a, 0 nearer to b, 1/2 tie
    gap: np.ndarray  # float64 [S] in [0, 1]: (d2 - d1) / (d2 + d1), d2 of another group
    in_class: Landing | None = None  # of the samples that are compared within their class, among images of it; gaps 1

    def weights(self, n_pool: int, by_gap: bool = False) -> np.ndarray:
        """Return mean over seeds of the weight that lands on each pool image, ``[N]``."""
        on_a, on_b = self.parts(by_gap)
        total = np.bincount(self.nearest_a, on_a, n_pool) + np.bincount(self.nearest_b, on_b, n_pool)
        return total / len(self.in_a)

    def parts(self, by_gap: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return what each sample puts on its nearest image of half a and of half b, each ``[S]``."""
        g = self.gap if by_gap else np.ones_like(self.in_a)
        return g * self.in_a, g * (1 - self.in_a)

    @property
    def first(self) -> np.ndarray:
        """Pool index of the nearest image, ``[S]`` (half a's on ties)."""
        return np.where(self.in_a >= 0.5, self.nearest_a, self.nearest_b)


def own_share_both(a: Landing, b: Landing, pool: Pool, level: float = LEVEL) -> tuple[Estimate, float, float]:
    """Return the twin average of the share of samples nearer to their own half, with V_seed and V_hub (3.3, 3.4).

    T = 1/2 + 1/4 sum_i y_i c_i, c_i the share of A's samples on image i minus that of
    B's. The interval is two-way: seeds, and hubs of this split.
    """
    e = a.in_a - b.in_a
    n = len(e)
    if not np.isfinite(e).all():
        return undefined("some samples have no nearest image", "seed", n, level), NAN, NAN
    value = 0.5 + e.mean() / 2
    c = a.weights(len(pool.labels)) - b.weights(len(pool.labels))
    v_seed = e.var() / (4 * n)
    v_hub = hub_variance(c, pool, differing(a, b, pool.groups), n)
    half = special.ndtri((1 + level) / 2) * np.sqrt(v_seed + v_hub)
    low, high = max(0.0, value - half), min(1.0, value + half)
    method = "two-way: seeds and split"
    share = Estimate(value=float(value), low=low, high=high, level=level, n=n, unit="seed", method=method)
    return share, v_seed, v_hub


def gap_variance(a: Landing, b: Landing, pool: Pool) -> float:
    """Return the two-way variance of gap lean, 1/2 sum_i y_i w_i: 3.4 with every landing weighted by its gap.

    The spread under relabeling is that of no lean, and too narrow where coupled twins lean.
    """
    (a_on_a, a_on_b), (b_on_a, b_on_b) = a.parts(True), b.parts(True)
    signed = (a_on_a - a_on_b - b_on_a + b_on_b) / 2
    n = len(signed)
    w = a.weights(len(pool.labels), True) - b.weights(len(pool.labels), True)
    return float(signed.var() / n + 4 * hub_variance(w, pool, differing(a, b, pool.groups, True), n))


def own_share_alone(a: Landing, pool: Pool, test_sd: float, level: float = LEVEL) -> tuple[Estimate, float, float]:
    """Return a single training's share of samples nearer to its own images than to decoys, with V_seed and V_hub.

    On the balanced scale (14.1). ``test_sd`` is the standard deviation of sum_i y_i w_i over relabelings, whose half is
    the error of the share: it holds the seeds and the hubs of this deal; V_hub is what seeds leave of it.
    """
    n, raw = len(a.in_a), float(a.in_a.mean())
    if not np.isfinite(raw):
        return undefined("some samples have no nearest image", "seed", n, level), NAN, NAN
    slope = pool.balanced_slope(raw)
    v_seed = float(a.in_a.var() / n) * slope**2
    v_hub = max(0.0, float(test_sd / 2 * slope) ** 2 - v_seed)
    value, half = pool.balanced(raw), special.ndtri((1 + level) / 2) * np.sqrt(v_seed + v_hub)
    low, high = max(0.0, value - half), min(1.0, value + half)
    method = "spread under relabelling, balanced"
    return (
        Estimate(value=value, low=float(low), high=float(high), level=level, n=n, unit="seed", method=method),
        v_seed,
        v_hub,
    )


def gap_variance_alone(a: Landing, pool: Pool, test_sd: float) -> float:
    """Return the variance of a single training's gap lean: over relabelings, and over seeds where that is more."""
    on_a, on_b = a.parts(True)
    return pool.stretch**2 * max(test_sd**2, float((on_a - on_b).var() / len(on_a)))


def differing(a: Landing, b: Landing, groups: np.ndarray, by_gap: bool = False) -> float:
    """Return q of 3.4: the share of seeds whose twins land on different groups.

    With ties, or weighted by gaps, half the mean squared difference of what both twins put
    on each group, which is the same where nothing ties and all gaps are 1.
    """
    (a_on_a, a_on_b), (b_on_a, b_on_b) = a.parts(by_gap), b.parts(by_gap)
    on_a = np.where(groups[a.nearest_a] == groups[b.nearest_a], (a_on_a - b_on_a) ** 2, a_on_a**2 + b_on_a**2)
    on_b = np.where(groups[a.nearest_b] == groups[b.nearest_b], (a_on_b - b_on_b) ** 2, a_on_b**2 + b_on_b**2)
    return float((on_a + on_b).mean() / 2)


def hub_variance(c: np.ndarray, pool: Pool, q: float, n_seeds: int) -> float:
    """Return V_hub of 3.4: the part of the spread of y_i c_i over groups that seeds do not explain."""
    _, member = np.unique(pool.groups, return_inverse=True)
    a = np.bincount(member, pool.labels * c)
    spread = np.sum((a - a.mean()) ** 2)
    seed_part = (2 * q - np.sum(np.bincount(member, c) ** 2)) / max(n_seeds - 1, 1)
    return max(0.0, float(spread - seed_part)) / 16


def own_share_one(landing: Landing, pool: Pool, sign: float, test_sd: float, level: float = LEVEL) -> Estimate:
    """Return one twin's share nearer to its own half; the interval is its spread under relabeling (3.3).

    ``sign`` is +1 for twin a and -1 for twin b. The interval is wide: it holds the hubs of
    the split, which one twin cannot tell from a lean.
    """
    value = float(0.5 + sign * (landing.in_a.mean() - 0.5))
    if not np.isfinite(value):
        return undefined("some samples have no nearest image", "seed", len(landing.in_a), level)
    half = special.ndtri((1 + level) / 2) * test_sd
    low, high = max(0.0, value - half), min(1.0, value + half)
    n, method = len(landing.in_a), "spread under relabelling"
    return Estimate(value=value, low=low, high=high, level=level, n=n, unit="seed", method=method)
