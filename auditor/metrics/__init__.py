"""Metrics: one file each, ``METRIC`` = its definition and its scores. Numpy only.

A metric turns the Evidence of one twin, step and space into one number per unit;
stats.py alone turns the scores of a whole series into Estimates.
"""

from __future__ import annotations

import numpy as np

from auditor.records import Evidence, Scores

ABSENT_TRAIN = "no training images were given (--train-a, --train-b)"
ABSENT_HELDOUT = "no held-out images were given (--heldout)"


def absent(unit: str, reason: str) -> Scores:
    """Return the scores of something that was not given: none, and why."""
    return Scores(unit, np.empty(0), np.empty(0), reason)


def closer(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return 1 where own is nearer, 0 where other is, 1/2 on ties, NaN where either is unknown; float64."""
    share = np.where(own < other, 1.0, np.where(own == other, 0.5, 0.0))
    return np.where(np.isnan(own) | np.isnan(other), np.nan, share)


def gap_ratio_flag(distances: np.ndarray, outside: np.ndarray | None = None) -> np.ndarray:
    """Return 1.0 where d1 = 0 or d1 < d2 / 3, else 0.0, NaN where d2 is unknown (fewer than two images).

    ``outside`` is d2 where the training set has duplicates: the distance to the nearest
    image that is no duplicate of the nearest one, without which no near copy of a
    duplicated image would be flagged. The multiplicative form also holds for 0 and 0.
    """
    nearest, second = distances[:, 0], distances[:, 1] if outside is None else outside
    return np.where(np.isnan(second), np.nan, (nearest == 0) | (nearest < second / 3))


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


def reason_for_nan(values: np.ndarray) -> str:
    """Return why there is a NaN among per-unit values, or nothing."""
    return "the reference set has fewer images than neighbours are needed" if np.isnan(values).any() else ""
