"""Curves over the series and the set of steps that may hold the minimum (docs/statistics.md 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from auditor.config import LEVEL, N_RESAMPLES
from auditor.stats.intervals import join_notes


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
    return np.asarray((1.4826 * np.median(np.abs(third), axis=-1)) ** 2 / 20)


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
        judged = [step for step, kept in zip(steps, known, strict=True) if kept]
        others = ", ".join(str(step) for step, kept in zip(steps, known, strict=True) if not kept)
        onset = locate_minimum(curve[known], judged, draws, seed, last_is_none)
        return replace(onset, note=join_notes(onset.note, f"without values at {others}"))
    if len(steps) < 3:
        return Onset("undecided", -1, (), "fewer than three checkpoints can be judged")
    jitter = jitter_of(curve)
    inside = argmin_set(curve, draws, seed, jitter)
    chosen = tuple(int(step) for step in np.asarray(steps)[inside])
    note = "" if jitter is not None else "conditional on these weights: fewer than 8 checkpoints show no iterate noise"
    least = int(steps[int(curve.mean(axis=1).argmin())])
    if len(chosen) > len(steps) / 2:
        return Onset("undecided", least, chosen, join_notes(note, "the curve is flat"))
    if last_is_none and steps[-1] in chosen:
        return Onset("none", least, chosen, join_notes(note, "no minimum before the end of the series so far"))
    if steps[0] in chosen or steps[-1] in chosen:
        return Onset("edge", least, chosen, join_notes(note, "the minimum may lie outside the series"))
    return Onset("found", least, chosen, note)
