"""Metrics: one file each, ``METRIC`` = its definition and its scores. Numpy only.

A metric turns the Evidence of one twin, step and space into one number per unit;
auditor.stats alone turns the scores of a whole series into Estimates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from auditor.records import Evidence, Scores

ABSENT_TRAIN = "no training images were given (--train-a, --train-b)"
ABSENT_TWIN = "a single training has no twin to be compared with (--ckpts-b)"
ABSENT_HELDOUT = "no held-out images were given (--heldout)"
LEAST_IN_CLASS = 10  # images of a class in each half; with fewer, its samples are not compared within it
ABSENT_CLASS = "the models are not class-conditional, or the classes of the images are not known"
FEW_IN_CLASS = f"no class has {LEAST_IN_CLASS} images in both halves"
UNPAIRED = "the twins' samples do not share their noise, so single ones cannot be compared"
SETS = {"own": "its own training images", "other": "the twin's training images", "heldout": "held-out images"}


def absent(unit: str, reason: str) -> Scores:
    """Return the scores of something that was not given: none, and why."""
    return Scores(unit, np.empty(0), np.empty(0), reason)


def closer(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return 1 where own is nearer, 0 where other is, 1/2 on ties, NaN where either is unknown; float64."""
    share = np.where(own < other, 1.0, np.where(own == other, 0.5, 0.0))
    return np.where(np.isnan(own) | np.isnan(other), np.nan, share)


def gap_ratio_flag(nearest: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return 1.0 where d1 = 0 or d1 < d2 / 3, else 0.0, NaN where d2 is unknown; the form also holds for 0 and 0."""
    flag = (nearest == 0) | (nearest < second / 3)
    return np.where(np.isnan(nearest) | np.isnan(second), np.nan, flag)


def with_ratio(
    over: Callable[[Evidence, np.ndarray | None], Scores], evidence: Evidence, nearest: np.ndarray, second: np.ndarray
) -> Scores:
    """Return d1 = 0 or d1 < c d2 as scores over seeds or held-out images, c from --fpr; NaN where it is not given."""
    if evidence.copy_ratio is None:
        return replace(over(evidence, np.full(len(nearest), np.nan)), note="no false-positive rate was chosen (--fpr)")
    flag = (nearest == 0) | (nearest < evidence.copy_ratio * second)
    return over(evidence, np.where(np.isnan(nearest) | np.isnan(second), np.nan, flag))


def carlini_flag(nearest: np.ndarray, mean_50: np.ndarray) -> np.ndarray:
    """Return 1.0 where l = d1 / (0.5 * mean of the 50 nearest) < 1 or d1 = 0, else 0.0, NaN where it is unknown."""
    flag = (nearest == 0) | (nearest < 0.5 * mean_50)
    return np.where(np.isnan(nearest) | np.isnan(mean_50), np.nan, flag)


def gap(nearest: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (d2 - d1) / (d2 + d1), 1 where d1 = 0: how much the nearest image stands out, NaN where d2 is unknown."""
    total = nearest + second
    return np.where((nearest == 0) & ~np.isnan(second), 1.0, (second - nearest) / np.where(total == 0, 1.0, total))


def shares_below(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return for each of ``x`` which share of ``y`` lies below it, ties counting one half; float64 ``[len(x)]``."""
    y = np.sort(y)
    return (np.searchsorted(y, x, "left") + np.searchsorted(y, x, "right")) / (2 * len(y))


def beside_heldout(
    evidence: Evidence, compare: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray | None, str]]
) -> Scores:
    """Return scores that compare samples with held-out images by the distance to the nearest own image.

    ``compare`` takes the distances of samples and of held-out images and returns the
    samples' scores, the held-out images' (or None), and a note.
    """
    if evidence.own is None:
        return absent("seed", ABSENT_TRAIN)
    if evidence.heldout_own is None:
        return absent("seed", ABSENT_HELDOUT)
    samples, heldout = evidence.own[:, 0], evidence.heldout_own[:, 0]
    if np.isnan(samples).any() or np.isnan(heldout).any():
        return Scores("seed", evidence.seeds, np.full(len(samples), np.nan), "some distances are not defined")
    values, second, note = compare(samples, heldout)
    return Scores("seed", evidence.seeds, values, note, second)


def over_blocks(evidence: Evidence, role: str, statistic: str) -> Scores:
    """Return the scores per block of seeds of a statistic against own, other or held-out images."""
    found = {"own": evidence.own_quality, "other": evidence.other_quality, "heldout": evidence.heldout_quality}[role]
    if found is None:
        return absent("block of seeds", ABSENT_HELDOUT if role == "heldout" else ABSENT_TRAIN)
    values = found[statistic]
    return Scores("block of seeds", np.arange(len(values)), values, reason_for_nan(values))


def over_seeds(evidence: Evidence, values: np.ndarray | None) -> Scores:
    """Return per-seed scores, or none where training images are missing."""
    if values is None:
        return absent("seed", ABSENT_TRAIN)
    return Scores("seed", evidence.seeds, np.asarray(values, dtype=float), reason_for_nan(values))


def over_pairs(evidence: Evidence, values: np.ndarray) -> Scores:
    """Return scores that compare the twins' samples of each seed, NaN where these do not share their noise."""
    if np.isnan(evidence.twin_distance).all():
        return Scores("seed", evidence.seeds, np.full(len(evidence.seeds), np.nan), UNPAIRED)
    return over_seeds(evidence, values)


def over_heldout(evidence: Evidence, values: np.ndarray | None) -> Scores:
    """Return per-image scores of the held-out set, or none where it or the training images are missing."""
    if evidence.own is None:  # then held-out images have nothing to be compared with, given or not
        return absent("image", ABSENT_TRAIN)
    if evidence.heldout_ids is None or values is None:
        return absent("image", ABSENT_HELDOUT)
    return Scores("image", evidence.heldout_ids, np.asarray(values, dtype=float), reason_for_nan(values))


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
