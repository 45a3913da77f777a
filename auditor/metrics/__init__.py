"""Metrics, a file for each family: their definitions and their scores, a control beside its metric. Numpy only.

A metric turns the Evidence of one twin, step and space into one number per unit;
auditor.stats alone turns the scores of a whole series into Estimates. The files' objects
are called as their metrics, in capitals; the registry lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from auditor.records import Evidence, Metric, Scores

ABSENT_TRAIN = "no training images were given (--train-a, --train-b)"
ABSENT_TWIN = "a single training has no twin to be compared with (--ckpts-b)"
ABSENT_VECTORS = "the space compares pictures and has no vectors: there are distances to images, and nothing else"
ABSENT_HELDOUT = "no held-out images were given (--heldout)"
LEAST_IN_CLASS = 10  # images of a class in each half; with fewer, its samples are not compared within it
ABSENT_CLASS = "the models are not class-conditional, or the classes of the images are not known"
FEW_IN_CLASS = f"no class has {LEAST_IN_CLASS} images in both halves"
UNPAIRED = "the twins' samples do not share their noise, so single ones cannot be compared"
SETS = {"own": "its own training images", "other": "the twin's training images", "heldout": "held-out images"}

network_metric = partial(Metric, k=0, interval="mean", per_space=False, needs_twin=True)  # of what networks answer


def absent(unit: str, reason: str) -> Scores:
    """Return the scores of something that was not given: none, and why."""
    return Scores(unit, np.empty(0), np.empty(0), reason)


def closer(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return 1 where own is nearer, 0 where other is, 1/2 on ties, NaN where either is unknown; float64."""
    share = np.where(own < other, 1.0, np.where(own == other, 0.5, 0.0))
    return np.where(np.isnan(own) | np.isnan(other), np.nan, share)


def gap(nearest: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (d2 - d1) / (d2 + d1), 1 where d1 = 0: how much the nearest image stands out, NaN where d2 is unknown."""
    total = nearest + second
    return np.where((nearest == 0) & ~np.isnan(second), 1.0, (second - nearest) / np.where(total == 0, 1.0, total))


def shares_below(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return for each of ``x`` which share of ``y`` lies below it, ties counting one half; float64 ``[len(x)]``."""
    y = np.sort(y)
    return (np.searchsorted(y, x, "left") + np.searchsorted(y, x, "right")) / (2 * len(y))


def over_seeds(evidence: Evidence, values: np.ndarray | None) -> Scores:
    """Return per-seed scores, or none where training images are missing."""
    if values is None:
        return absent("seed", ABSENT_TRAIN)
    return Scores("seed", evidence.seeds, np.asarray(values, dtype=float), reason_for_nan(values))


def over_heldout(evidence: Evidence, values: np.ndarray | None) -> Scores:
    """Return per-image scores of the held-out set, or none where it or the training images are missing."""
    if evidence.own is None:  # then held-out images have nothing to be compared with, given or not
        return absent("image", ABSENT_TRAIN)
    if evidence.heldout_ids is None or values is None:
        return absent("image", ABSENT_HELDOUT)
    return Scores("image", evidence.heldout_ids, np.asarray(values, dtype=float), reason_for_nan(values))


def by_rule(evidence: Evidence, rule: Callable[..., np.ndarray], names: Sequence[str], of: str = "samples") -> Scores:
    """Return what a rule makes of fields of the evidence, none where these are missing.

    ``of`` is ``samples``, or ``heldout`` for the held-out images, whose fields begin with ``heldout_``.
    """
    prefix, over = ("", over_seeds) if of == "samples" else ("heldout_", over_heldout)
    fields = [getattr(evidence, prefix + name) for name in names]
    return over(evidence, None if any(each is None for each in fields) else rule(*fields))


def sides(rule: Callable[..., np.ndarray], *names: str) -> tuple[Callable[[Evidence], Scores], ...]:
    """Return the scores of samples by a rule, and those of held-out images: its control."""
    return tuple(partial(by_rule, rule=rule, names=names, of=of) for of in ("samples", "heldout"))


def within_class(ids: np.ndarray, unit: str, known: np.ndarray | None, values: np.ndarray | None) -> Scores:
    """Return scores of the units that are ``known`` to be of a class with images enough, and how many are left out."""
    if known is None or values is None:
        return absent(unit, ABSENT_CLASS)
    if not known.any():
        return absent(unit, FEW_IN_CLASS)
    kept = np.asarray(values, dtype=float)[known]
    left = "" if known.all() else f"{(~known).sum()} of {len(known)} are left out: too few images of their classes"
    return Scores(unit, ids[known], kept, reason_for_nan(kept) or left)


def over_classed_seeds(evidence: Evidence, values: np.ndarray | None) -> Scores:
    """Return per-seed scores of samples compared within their class, or none where there are no classes."""
    if evidence.own is None:
        return absent("seed", ABSENT_TRAIN)
    return within_class(evidence.seeds, "seed", evidence.pool_classed, values)


def reason_for_nan(values: np.ndarray) -> str:
    """Return why there is a NaN among per-unit values, or nothing."""
    return "the reference set has fewer images than neighbours are needed" if np.isnan(values).any() else ""
