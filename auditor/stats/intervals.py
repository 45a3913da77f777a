"""One value and its interval: scores in, estimates out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import special

from auditor.config import LEVEL
from auditor.records import Estimate, Scores
from auditor.stats.counts import clopper_pearson

NAN = float("nan")


def undefined(reason: str, unit: str = "", n: int = 0, level: float = LEVEL) -> Estimate:
    """Return the estimate of something that has no value, with the reason."""
    return Estimate(value=NAN, low=NAN, high=NAN, level=level, n=n, unit=unit, method="", note=reason)


def without_value(scores: Scores, level: float) -> Estimate | None:
    """Return the undefined estimate of scores that are missing or NaN; None where all are numbers."""
    x = scores.values
    if len(x) and np.isfinite(x).all() and (scores.second is None or np.isfinite(scores.second).all()):
        return None
    return undefined(scores.note or "some scores are not defined", scores.unit, len(x), level)


def without_interval(scores: Scores, value: float, level: float, note: str, method: str = "") -> Estimate:
    """Return a value that has no honest interval, and why."""
    noted = replace(scores, note=join_notes(scores.note, note))
    return with_limits(noted, float(value), (NAN, NAN), level, method)


def with_limits(scores: Scores, value: float, limits: tuple[float, float], level: float, method: str) -> Estimate:
    """Return a value of the scores with its lower and upper limit, and how these were found."""
    low, high = limits
    n, unit, note = len(scores.values), scores.unit, scores.note
    return Estimate(value=value, low=low, high=high, level=level, n=n, unit=unit, method=method, note=note)


def mean_interval(scores: Scores, level: float = LEVEL) -> Estimate:
    """Return the mean of per-unit scores with Student's t interval over the units."""
    x = scores.values
    if (missing := without_value(scores, level)) is not None:
        return missing
    value = float(x.mean())
    if len(x) == 1:
        return with_limits(replace(scores, note=f"one {scores.unit} has no interval"), value, (NAN, NAN), level, "")
    half = student_half(x, level)
    return with_limits(scores, value, (value - half, value + half), level, "t over units")


def student_half(x: np.ndarray, level: float = LEVEL) -> float:
    """Return half the length of Student's t interval of a mean; NaN for fewer than two values."""
    if len(x) < 2:
        return NAN
    return float(special.stdtrit(len(x) - 1, (1 + level) / 2) * x.std(ddof=1) / np.sqrt(len(x)))


def proportion(scores: Scores, level: float = LEVEL) -> Estimate:
    """Return the share of units (scores 0, 1, and 1/2 for ties) with its Clopper-Pearson interval."""
    x = scores.values
    if (missing := without_value(scores, level)) is not None:
        return missing
    value = float(x.mean())
    low, high = clopper_pearson(float(x.sum()), len(x), level)
    return with_limits(scores, value, (min(low, value), max(high, value)), level, "Clopper-Pearson")


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
    assert scores.second is not None, "two samples are compared"
    both = (scores.values, scores.second)
    return float(np.sqrt(sum(float(x.var(ddof=1)) / len(x) if len(x) > 1 else np.inf for x in both)))


def two_sample(scores: Scores, level: float = LEVEL) -> Estimate:
    """Return a difference of means with its normal interval over both samples."""
    if (missing := without_value(scores, level)) is not None:
        return missing
    value, se = float(scores.values.mean()), standard_error(scores)
    if not np.isfinite(se):
        return without_interval(scores, value, level, "one unit on a side has no interval")
    half = special.ndtri((1 + level) / 2) * se
    return with_limits(scores, value, (value - half, value + half), level, "Welch, normal")


def auc(scores: Scores, level: float = LEVEL) -> Estimate:
    """Return a Mann-Whitney AUC with DeLong's interval on the logit scale.

    Where the samples do not overlap, DeLong's variance is 0 and would claim certainty: then
    the limits are Clopper-Pearson's for as many independent pairs as the smaller sample has.
    """
    if (missing := without_value(scores, level)) is not None:
        return missing
    value, se = float(np.clip(scores.values.mean(), 0, 1)), standard_error(scores)
    pairs = min(len(x) for x in (scores.values, scores.second) if x is not None)
    if not np.isfinite(se) or se == 0 or not 0 < value < 1:
        low, high = clopper_pearson(value * pairs, pairs, level)
        method = "Clopper-Pearson over pairs"
    else:
        half = special.ndtri((1 + level) / 2) * se / (value * (1 - value))
        low, high = (float(special.expit(special.logit(value) + shift)) for shift in (-half, half))
        method = "DeLong, logit"
    return with_limits(scores, value, (min(low, value), max(high, value)), level, method)


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
    return with_limits(scores, float(value), (float(x[low - 1]), float(x[high])), level, "order statistics")


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
    method = "node jackknife over trainings"
    return Estimate(value=value, low=value - half, high=value + half, level=level, n=n, unit="training", method=method)


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


def widen(estimate: Estimate, n_looks: int) -> tuple[float, float]:
    """Return the interval of a share when ``n_looks`` are looked at together (Bonferroni, normal)."""
    if np.isnan(estimate.low):
        return NAN, NAN
    one = special.ndtri((1 + estimate.level) / 2)
    many = special.ndtri(1 - (1 - estimate.level) / (2 * n_looks))
    low, high = (estimate.value + (end - estimate.value) * many / one for end in (estimate.low, estimate.high))
    return max(0.0, low), min(1.0, high)


def paired_lower(first: np.ndarray, second: np.ndarray, level: float = LEVEL) -> float:
    """Return the one-sided lower limit of mean(first - second), units paired."""
    difference = first - second
    se = difference.std(ddof=1) / np.sqrt(len(difference))
    return float(difference.mean() - special.stdtrit(len(difference) - 1, level) * se)


def join_notes(*notes: str) -> str:
    """Return the notes that say something, joined by semicolons."""
    return "; ".join(note for note in notes if note)
