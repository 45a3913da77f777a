"""Intervals, permutation tests, confidence sets of a minimum: arrays in, numbers with their uncertainty out.

Each section names the rule of docs/statistics.md it implements. What is random is drawn
from generators whose seeds are given, never from a global state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import special

from auditor.config import LEVEL, N_RELABELINGS, N_RESAMPLES
from auditor.records import Estimate, Scores

NAN = float("nan")

# ---------------------------------------------------------------------------
# One value and its interval
# ---------------------------------------------------------------------------


def undefined(reason: str, unit: str = "", n: int = 0, level: float = LEVEL) -> Estimate:
    """Return the estimate of something that has no value, with the reason."""
    return Estimate(NAN, NAN, NAN, level, n, unit, "", reason)


def without_value(scores: Scores, level: float) -> Estimate | None:
    """Return the undefined estimate of scores that are missing or NaN; None where all are numbers."""
    x = scores.values
    if len(x) and np.isfinite(x).all() and (scores.second is None or np.isfinite(scores.second).all()):
        return None
    return undefined(scores.note or "some scores are not defined", scores.unit, len(x), level)


def without_interval(scores: Scores, value: float, level: float, note: str, method: str = "") -> Estimate:
    """Return a value that has no honest interval, and why."""
    return Estimate(float(value), NAN, NAN, level, len(scores.values), scores.unit, method, join(scores.note, note))


def mean_interval(scores: Scores, level: float = LEVEL) -> Estimate:
    """Return the mean of per-unit scores with Student's t interval over the units."""
    x = scores.values
    if (missing := without_value(scores, level)) is not None:
        return missing
    value = float(x.mean())
    if len(x) == 1:
        return Estimate(value, NAN, NAN, level, 1, scores.unit, "", f"one {scores.unit} has no interval")
    half = student_half(x, level)
    return Estimate(value, value - half, value + half, level, len(x), scores.unit, "t over units", scores.note)


def student_half(x: np.ndarray, level: float = LEVEL) -> float:
    """Return half the length of Student's t interval of a mean; NaN for fewer than two values."""
    if len(x) < 2:
        return NAN
    return float(special.stdtrit(len(x) - 1, (1 + level) / 2) * x.std(ddof=1) / np.sqrt(len(x)))


def clopper_pearson(hits: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Return the exact interval of a proportion; 0 of n has a positive upper limit.

    Half hits (ties) are allowed: the beta quantiles interpolate.
    """
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(special.betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits == n else float(special.betaincinv(hits + 1, n - hits, 1 - tail))
    return low, high


def proportion(scores: Scores, level: float = LEVEL) -> Estimate:
    """Return the share of units (scores 0, 1, and 1/2 for ties) with its Clopper-Pearson interval."""
    x = scores.values
    if (missing := without_value(scores, level)) is not None:
        return missing
    value = float(x.mean())
    low, high = clopper_pearson(float(x.sum()), len(x), level)
    return Estimate(
        value, min(low, value), max(high, value), level, len(x), scores.unit, "Clopper-Pearson", scores.note
    )


def percent(scores: Scores, level: float = LEVEL) -> Estimate:
    """Return a proportion whose scores are 0 and 100, in percent."""
    share = proportion(replace(scores, values=scores.values / 100), level)
    return replace(share, value=100 * share.value, low=100 * share.low, high=100 * share.high)


def jackknife(scores: Scores, level: float = LEVEL) -> Estimate:
    """Return a statistic that is no mean over seeds, from its scores per block of seeds.

    The scores are theta + (B - 1) (mean theta_-b - theta_-b), theta_-b without block b: their
    mean is theta, and their variance over B is the delete-block jackknife's.
    """
    if (missing := without_value(scores, level)) is not None:
        return missing
    if np.ptp(scores.values) == 0:
        return without_interval(scores, scores.values[0], level, "no block of seeds changes it: no interval")
    return replace(mean_interval(scores, level), method="delete-block jackknife")


def jackknife_share(scores: Scores, level: float = LEVEL) -> Estimate:
    """Return the same for a value in [0, 1], its limits kept there."""
    found = jackknife(scores, level)
    if np.isnan(found.low):
        return found
    value = float(np.clip(found.value, 0, 1))  # rounding
    return replace(found, value=value, low=max(0.0, found.low), high=min(1.0, found.high))


def standard_error(scores: Scores) -> float:
    """Return the standard error of a comparison of two samples, both of which vary.

    With placement values this is DeLong's, with differences from the other sample's mean Welch's.
    """
    return float(np.sqrt(sum(x.var(ddof=1) / len(x) if len(x) > 1 else np.inf for x in (scores.values, scores.second))))


def two_sample(scores: Scores, level: float = LEVEL) -> Estimate:
    """Return a difference of means with its normal interval over both samples."""
    if (missing := without_value(scores, level)) is not None:
        return missing
    value, se = float(scores.values.mean()), standard_error(scores)
    if not np.isfinite(se):
        return without_interval(scores, value, level, "one unit on a side has no interval")
    half = special.ndtri((1 + level) / 2) * se
    n = len(scores.values)
    return Estimate(value, value - half, value + half, level, n, scores.unit, "Welch, normal", scores.note)


def auc(scores: Scores, level: float = LEVEL) -> Estimate:
    """Return a Mann-Whitney AUC with DeLong's interval on the logit scale.

    Where the samples do not overlap, DeLong's variance is 0 and would claim certainty: then
    the limits are Clopper-Pearson's for as many independent pairs as the smaller sample has.
    """
    if (missing := without_value(scores, level)) is not None:
        return missing
    value, se = float(np.clip(scores.values.mean(), 0, 1)), standard_error(scores)
    n, pairs = len(scores.values), min(len(scores.values), len(scores.second))
    if not np.isfinite(se) or se == 0 or not 0 < value < 1:
        low, high = clopper_pearson(value * pairs, pairs, level)
        method = "Clopper-Pearson over pairs"
    else:
        half = special.ndtri((1 + level) / 2) * se / (value * (1 - value))
        low, high = (float(special.expit(special.logit(value) + shift)) for shift in (-half, half))
        method = "DeLong, logit"
    return Estimate(value, min(low, value), max(high, value), level, n, scores.unit, method, scores.note)


def shown(scores: Scores, level: float = LEVEL) -> Estimate:
    """Return a value that no resampling gives an honest interval; its note carries its noise instead."""
    missing = without_value(scores, level)
    return missing or without_interval(scores, scores.values.mean(), level, "shown without an interval")


def quantile_99(scores: Scores, level: float = LEVEL) -> Estimate:
    """Return the 99 % quantile with the order statistics that bound it whatever the distribution."""
    if (missing := without_value(scores, level)) is not None:
        return missing
    x, n, tail = np.sort(scores.values), len(scores.values), (1 - level) / 2
    value = x[int(np.ceil(0.99 * n)) - 1]
    low, high = np.searchsorted(special.bdtr(np.arange(n + 1), n, 0.99), (tail, 1 - tail)).tolist()
    if low < 1 or high >= n:
        return without_interval(scores, value, level, f"{n} are too few to bound a 99 % quantile")
    return Estimate(
        float(value), float(x[low - 1]), float(x[high]), level, n, scores.unit, "order statistics", scores.note
    )


def maximum(scores: Scores, level: float = LEVEL) -> Estimate:
    """Return the largest score; it grows with their number, and a resample cannot exceed it."""
    missing = without_value(scores, level)
    return missing or without_interval(
        scores, scores.values.max(initial=-np.inf), level, f"the largest of {len(scores.values)}: no interval"
    )


def node_jackknife(values: Mapping[tuple[str, str], float], nodes: Sequence[str], level: float = LEVEL) -> Estimate:
    """Return the mean over pairs of trainings, with the interval that trainings, not pairs, are the units of.

    Pairs that share a training are dependent. se^2 = (K - 1)/K sum_m (theta_-m - mean)^2, theta_-m
    the mean over the pairs without training m; Student's t with K - 1 degrees of freedom.
    """
    n = len(nodes)
    if not all(np.isfinite(value) for value in values.values()):
        return undefined("not defined for every pair of trainings", "training", n, level)
    value = float(np.mean(list(values.values())))
    without = np.array([np.mean([v for pair, v in values.items() if node not in pair]) for node in nodes])
    se = np.sqrt((n - 1) / n * np.sum((without - without.mean()) ** 2))
    half = float(special.stdtrit(n - 1, (1 + level) / 2) * se)
    return Estimate(value, value - half, value + half, level, n, "training", "node jackknife over trainings")


INTERVALS: Mapping[str, Callable[[Scores], Estimate]] = {
    "mean": mean_interval,
    "proportion": proportion,
    "percent": percent,
    "jackknife": jackknife,
    "jackknife_share": jackknife_share,
    "two_sample": two_sample,
    "auc": auc,
    "shown": shown,
    "quantile_99": quantile_99,
    "maximum": maximum,
    "lean": mean_interval,  # only where there is nothing to relabel: then there are no scores either
    "lean_in_class": mean_interval,
    "loss_lean": mean_interval,
}


def split_information(accuracy: Estimate) -> Estimate:
    """Return the least information, in bits, that samples carry on which half trained their model.

    Fano's inequality for two equally likely halves: I >= 1 - H2(accuracy), and 0 where the
    guess by the nearest image is no better than chance. Its limits are those of the accuracy.
    """
    if np.isnan(accuracy.value):
        return accuracy
    value, low, high = (fano(x) for x in (accuracy.value, accuracy.low, accuracy.high))
    return replace(accuracy, value=value, low=low, high=high)


def fano(accuracy: float) -> float:
    """Return 1 - H2(accuracy) in bits, 0 at and below one half."""
    a = max(0.5, accuracy)
    return float(1 - (special.entr(a) + special.entr(1 - a)) / np.log(2))


# ---------------------------------------------------------------------------
# The relabelling engine (statistics 2): which half an image belongs to is the unit of chance
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Pool:
    """The images of both halves that take part in own-versus-other statistics.

    ``labels`` is +1 for half a and -1 for half b; images of one ``group`` (duplicates,
    one patient) share a label and are relabelled together.
    """

    ids: tuple[tuple[str, str], ...]  # (half, image id)
    labels: np.ndarray  # float64 [N], +1 or -1
    groups: np.ndarray  # int64 [N]


@dataclass(frozen=True)
class Relabeling:
    """R + 1 assignments of the pool's groups to the halves; row 0 is the true one."""

    labels: np.ndarray  # float32 [R + 1, N]
    mean: np.ndarray  # float64 [N], expected label of each image


def relabel(pool: Pool, seed: int, n: int = N_RELABELINGS, strata: np.ndarray | None = None) -> Relabeling:
    """Return ``n`` random assignments beside the true one, labels permuted among groups of equal size.

    This keeps the size profile of each half, and is exact when the halves were split at
    random by group. With ``strata``, int64 ``[N]``, labels stay in the stratum of a group's first image.
    """
    _, first, member = np.unique(pool.groups, return_index=True, return_inverse=True)
    sizes, label = np.bincount(member), pool.labels[first]
    rng = np.random.default_rng(seed)
    rows = np.tile(label.astype(np.float32), (n + 1, 1))
    mean = np.empty(len(label))
    stratum = np.zeros(len(label), np.int64) if strata is None else strata[first]
    kinds, kind = np.unique(np.column_stack([sizes, stratum]), axis=0, return_inverse=True)
    for number in range(len(kinds)):
        same = np.flatnonzero(kind.ravel() == number)
        rows[1:, same] = rng.permuted(rows[1:, same], axis=1)
        mean[same] = label[same].mean()
    return Relabeling(rows[:, member], mean[member])


@dataclass(frozen=True)
class RelabelingTest:
    """Statistics T = w.y under all relabelings, standardised."""

    value: np.ndarray  # float64 [M]: w.y minus its expectation
    sd: np.ndarray  # float64 [M]: over relabelings
    z: np.ndarray  # float64 [R + 1, M]
    p: np.ndarray  # float64 [M], one-sided


def relabeling_test(relabeling: Relabeling, weights: np.ndarray) -> RelabelingTest:
    """Test M linear statistics, rows of ``weights`` ``[M, N]``, for being larger than labels explain (2.3).

    p counts the true labelling itself, so it is never 0. A statistic that no relabelling
    changes (identical twins), or that is not defined, has z = 0 and p = 1.
    """
    t = relabeling.labels.astype(float) @ weights.T - weights @ relabeling.mean
    sd = t.std(axis=0)
    flat = ~(sd > 1e-12 * np.maximum(1, np.abs(weights).sum(axis=1)))  # NaN is flat, too
    z = np.where(flat, 0.0, t / np.where(flat, 1.0, sd))
    p = at_least(z, z[0]).mean(axis=0)
    return RelabelingTest(t[0], np.where(flat, 0.0, sd), z, p)


def at_least(z: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return z >= observed, rounding aside: relabelings that tie with the truth count."""
    return z >= observed - 1e-9


def step_down_max_t(z: np.ndarray) -> np.ndarray:
    """Return family-wise p values ``[M]`` of the statistics whose relabelled z are ``[R + 1, M]`` (7.1).

    Westfall and Young's step-down maximum: the joint distribution under relabelling is
    used as it is, so any dependence between checkpoints and spaces is covered.
    """
    order = np.argsort(-z[0], kind="stable")
    # running maximum over the statistics not yet rejected, from the least extreme upwards
    maxima = np.maximum.accumulate(z[:, order[::-1]], axis=1)[:, ::-1]
    p = at_least(maxima, z[0, order]).mean(axis=0)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(p)
    return adjusted


def effective_images(weights: np.ndarray) -> np.ndarray:
    """Return n_eff = (sum |w|)^2 / sum w^2 of each row: on how many images the evidence rests (2.4)."""
    total, squares = np.abs(weights).sum(-1) ** 2, (weights**2).sum(-1)
    return np.divide(total, squares, out=np.zeros_like(total), where=squares > 0)


# ---------------------------------------------------------------------------
# Own-versus-other lean (statistics 3)
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Landing:
    """Where one twin's samples land in the pool: the nearest image of each half and how near.

    A sample that is equally near to both halves lands half on each.
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
    return Estimate(float(value), low, high, level, n, "seed", "two-way: seeds and split"), v_seed, v_hub


def gap_variance(a: Landing, b: Landing, pool: Pool) -> float:
    """Return the two-way variance of gap lean, 1/2 sum_i y_i w_i: 3.4 with every landing weighted by its gap.

    The spread under relabelling is that of no lean, and too narrow where coupled twins lean.
    """
    (a_on_a, a_on_b), (b_on_a, b_on_b) = a.parts(True), b.parts(True)
    signed = (a_on_a - a_on_b - b_on_a + b_on_b) / 2
    n = len(signed)
    w = a.weights(len(pool.labels), True) - b.weights(len(pool.labels), True)
    return float(signed.var() / n + 4 * hub_variance(w, pool, differing(a, b, pool.groups, True), n))


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
    """Return one twin's share nearer to its own half; the interval is its spread under relabelling (3.3).

    ``sign`` is +1 for twin a and -1 for twin b. The interval is wide: it holds the hubs of
    the split, which one twin cannot tell from a lean.
    """
    value = float(0.5 + sign * (landing.in_a.mean() - 0.5))
    if not np.isfinite(value):
        return undefined("some samples have no nearest image", "seed", len(landing.in_a), level)
    half = special.ndtri((1 + level) / 2) * test_sd
    low, high = max(0.0, value - half), min(1.0, value + half)
    return Estimate(value, low, high, level, len(landing.in_a), "seed", "spread under relabelling")


def widen(estimate: Estimate, n_looks: int) -> tuple[float, float]:
    """Return the interval of a share when ``n_looks`` are looked at together (Bonferroni, normal)."""
    if np.isnan(estimate.low):
        return NAN, NAN
    one = special.ndtri((1 + estimate.level) / 2)
    many = special.ndtri(1 - (1 - estimate.level) / (2 * n_looks))
    grow = lambda end: estimate.value + (end - estimate.value) * many / one  # noqa: E731
    return max(0.0, grow(estimate.low)), min(1.0, grow(estimate.high))


# ---------------------------------------------------------------------------
# Copying (statistics 4)
# ---------------------------------------------------------------------------


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


def paired_hits(own_only: int, other_only: int) -> float:
    """Return McNemar's exact one-sided p: discordant pairs that speak for own against other."""
    n = own_only + other_only
    return 1.0 if n == 0 else float(special.bdtrc(own_only - 1, n, 0.5))


def holm(p: np.ndarray) -> np.ndarray:
    """Return Holm's family-wise p values, valid under any dependence."""
    order = np.argsort(p, kind="stable")
    raised = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    adjusted = np.empty(len(p))
    adjusted[order] = raised
    return adjusted


# ---------------------------------------------------------------------------
# Curves over the series and the set of steps that may hold the minimum (statistics 6)
# ---------------------------------------------------------------------------


@lru_cache(maxsize=4)  # all checkpoints share their resamples, and drawing them takes longer than using them
def resamples(n_units: int, seed: int, n: int = N_RESAMPLES) -> np.ndarray:
    """Return how often each unit is drawn in each resample, float32 ``[n, n_units]``; rows sum to n_units."""
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=n).astype(np.float32)
    draws.flags.writeable = False
    return draws


def simultaneous_band(curve: np.ndarray, draws: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper limits that hold all checkpoints' means at once, each ``[checkpoints]`` (max-T).

    mean +- q se, with q the ``level`` quantile over resamples of the largest deviation in
    standard errors; the same ``draws`` serve every curve of these units.
    """
    mean, se = curve.mean(axis=1), curve.std(axis=1, ddof=1) / np.sqrt(curve.shape[1])
    deviation = np.abs(draws @ curve.T / curve.shape[1] - mean)
    largest = np.divide(deviation, se, out=np.zeros_like(deviation), where=se > 0).max(axis=1)
    reach = np.quantile(largest, level) * se
    return mean - reach, mean + reach


@dataclass(frozen=True)
class Jitter:
    """Weights that jitter between checkpoints (6.2), as the third differences of a curve show it."""

    total: float  # variance of a checkpoint's mean, jitter and units together
    from_units: float  # what the units alone explain of it

    @property
    def v(self) -> float:
        """The variance of a checkpoint's mean that comes from its weights."""
        return max(0.0, self.total - self.from_units)

    def draw(self, n: int, n_checkpoints: int, seed: int) -> np.ndarray:
        """Return draws of this noise, float64 ``[n, n_checkpoints]``, that know how little it is known.

        ``total`` is found from a dozen or so differences, and in a quarter of the series it is
        less than half of the truth. So each draw has its own, ``total`` over the estimate that
        white noise of variance one gives: as Student's t has for the mean of few values.
        """
        if self.total == 0:
            return np.zeros((n, n_checkpoints))
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=(n, n_checkpoints))
        estimated = white_variance(np.diff(rng.normal(size=noise.shape), n=3, axis=1))
        return noise * np.sqrt(np.maximum(0.0, self.total / estimated - self.from_units))[:, None]


NO_JITTER = Jitter(0.0, 0.0)


def jitter_of(curve: np.ndarray) -> Jitter | None:
    """Return the jitter of a curve ``[checkpoints, units]``; None with fewer than 8 checkpoints.

    From third differences along the series, because the bend of a smooth valley shows in
    second differences as if it were jitter.
    """
    if len(curve) < 8:
        return None
    third = np.diff(curve, n=3, axis=0)
    from_units = (third.var(axis=1, ddof=1) / third.shape[1]).mean() / 20
    return Jitter(float(white_variance(third.mean(axis=1))), float(from_units))


def white_variance(third: np.ndarray) -> np.ndarray:
    """Return the variance of white noise from its third differences along the last axis, by their median size."""
    return (1.4826 * np.median(np.abs(third), axis=-1)) ** 2 / 20


def argmin_set(
    curve: np.ndarray, draws: np.ndarray, seed: int, jitter: Jitter | None = None, level: float = LEVEL
) -> np.ndarray:
    """Return which checkpoints may hold the minimum, bool ``[checkpoints]`` (6.3).

    c stays when no c' lies below it by more than resampling and ``jitter`` explain:
    max_c' (m_c - m_c') / se_cc' <= q_c, with q_c the ``level`` quantile of the same maximum
    of resampled deviations. ``draws`` are the resamples shared by all curves of these units.
    """
    mean = curve.mean(axis=1)
    jitter = jitter or NO_JITTER
    deviation = draws @ curve.T / curve.shape[1] - mean + jitter.draw(len(draws), len(curve), seed)
    return np.array([stays(c, curve, mean, deviation, jitter.v, level) for c in range(len(curve))])


def stays(c: int, curve: np.ndarray, mean: np.ndarray, deviation: np.ndarray, v: float, level: float) -> bool:
    """Return whether checkpoint c stays in the argmin set; zero standard errors are ties."""
    difference = curve[c] - curve  # [checkpoints, units]
    se = np.sqrt(difference.var(axis=1, ddof=1) / curve.shape[1] + 2 * v)
    rivals = (np.arange(len(curve)) != c) & (se > 0)
    if not rivals.any():
        return True
    t = (mean[c] - mean[rivals]) / se[rivals]
    resampled = (deviation[:, [c]] - deviation[:, rivals]) / se[rivals]
    return bool(t.max() <= np.quantile(resampled.max(axis=1), level))


@dataclass(frozen=True)
class Onset:
    """The steps that may hold the minimum of a curve, and what can be said of it."""

    status: str  # found, edge, undecided, none
    step: int  # of the least mean
    steps: tuple[int, ...]  # the confidence set
    note: str = ""


def locate_minimum(
    curve: np.ndarray, steps: Sequence[int], draws: np.ndarray, seed: int, last_is_none: bool = False
) -> Onset:
    """Return the confidence set of the minimum of ``curve`` over evaluable ``steps``, with its status (6.3).

    ``edge`` if the set holds the first or last step, ``undecided`` if it holds more than
    half of them; with ``last_is_none``, a set that reaches the last step has no onset yet.
    """
    known = np.isfinite(curve).all(axis=1)
    if not known.all():
        steps = np.asarray(steps)
        onset = locate_minimum(curve[known], steps[known], draws, seed, last_is_none)
        return replace(onset, note=join(onset.note, f"without values at {', '.join(map(str, steps[~known]))}"))
    if len(steps) < 3:
        return Onset("undecided", -1, (), "fewer than three checkpoints can be judged")
    jitter = jitter_of(curve)
    inside = argmin_set(curve, draws, seed, jitter)
    chosen = tuple(int(step) for step in np.asarray(steps)[inside])
    note = "" if jitter is not None else "conditional on these weights: fewer than 8 checkpoints show no iterate noise"
    least = int(steps[int(curve.mean(axis=1).argmin())])
    if len(chosen) > len(steps) / 2:
        return Onset("undecided", least, chosen, join(note, "the curve is flat"))
    if last_is_none and steps[-1] in chosen:
        return Onset("none", least, chosen, join(note, "no minimum before the end of the series so far"))
    if steps[0] in chosen or steps[-1] in chosen:
        return Onset("edge", least, chosen, join(note, "the minimum may lie outside the series"))
    return Onset("found", least, chosen, note)


def join(*sentences: str) -> str:
    """Return the non-empty sentences joined by semicolons."""
    return "; ".join(s for s in sentences if s)


# ---------------------------------------------------------------------------
# Two groups of images: the loss lean (statistics 5), and whether the halves are exchangeable (1.2)
# ---------------------------------------------------------------------------


def half_difference_test(relabeling: Relabeling, columns: np.ndarray, r: np.ndarray) -> RelabelingTest:
    """Test half the difference of the mean of ``r`` between the halves, for the pool images ``columns``.

    ``r`` is ``[n]``, or ``[n, M]`` for M statistics at once. The two-sample mean is taken anew
    under each relabelling, since a subset of the pool need not stay balanced.
    """
    r = r.reshape(len(r), -1)
    in_a = (relabeling.labels[:, columns] > 0).astype(float)
    n_a = in_a.sum(axis=1)[:, None]
    sum_a = in_a @ r
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (sum_a / n_a - (r.sum(axis=0) - sum_a) / (len(r) - n_a)) / 2
    t = np.nan_to_num(t)
    sd = t.std(axis=0)
    flat = ~(sd > 1e-12 * np.abs(r).max(axis=0, initial=0.0))  # rounding alone is no spread, nor is NaN
    z = np.where(flat, 0.0, t / np.where(flat, 1.0, sd))
    return RelabelingTest(t[0], np.where(flat, 0.0, sd), z, at_least(z, z[0]).mean(axis=0))


def half_difference_draws(r: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return bootstrap draws of half the difference between the halves; groups are drawn within halves.

    ``[draws]`` for ``r`` ``[n]``, ``[draws, M]`` for ``r`` ``[n, M]``.
    """
    parts = []
    for sign in (1, -1):
        _, member = np.unique(groups[labels == sign], return_inverse=True)
        sums, sizes = np.zeros((member.max() + 1, *r.shape[1:])), np.bincount(member)
        np.add.at(sums, member, r[labels == sign])
        counts = resamples(len(sizes), seed + sign)
        drawn = counts @ sizes
        parts.append((counts @ sums) / drawn.reshape(-1, *[1] * (r.ndim - 1)))
    return (parts[0] - parts[1]) / 2


def exchangeability(nearest: np.ndarray, relabeling: Relabeling) -> tuple[float, float]:
    """Return the share of pool images whose nearest image of another group is of their half, and its p.

    A share that is larger than relabelling explains says that the halves differ (site,
    time, preprocessing), so that leaning on a half need not be leaning on its images.
    """
    known = np.flatnonzero(nearest >= 0)
    labels = relabeling.labels
    same = (labels[:, known] == labels[:, nearest[known]]).mean(axis=1)
    return float(same[0]), float(at_least(same, same[0]).mean())


def two_sided_p(relabeling: Relabeling, x: np.ndarray) -> float:
    """Return the two-sided relabelling p that the halves differ in the mean of ``x``."""
    deviation = np.abs(relabeling.labels @ (x - x.mean()))
    return float(at_least(deviation, deviation[0] * (1 - 1e-6)).mean())


def paired_lower(first: np.ndarray, second: np.ndarray, level: float = LEVEL) -> float:
    """Return the one-sided lower limit of mean(first - second), units paired."""
    difference = first - second
    se = difference.std(ddof=1) / np.sqrt(len(difference))
    return float(difference.mean() - special.stdtrit(len(difference) - 1, level) * se)


def upper_limit(hits: int, n: int, level: float = LEVEL) -> float:
    """Return the one-sided Clopper-Pearson upper limit; 0 of n gives about 3 / n at 95 %."""
    if n == 0 or hits >= n:
        return 1.0
    return float(special.betaincinv(hits + 1, n - hits, level))


def lower_limit(hits: int, n: int, level: float = LEVEL) -> float:
    """Return the one-sided Clopper-Pearson lower limit."""
    return 0.0 if hits == 0 else float(special.betaincinv(hits, n - hits + 1, 1 - level))
