"""Percentage of samples that are farther from their nearest training image than that image is from any other."""

import numpy as np

from auditor.metrics import over_seeds
from auditor.records import Evidence, Metric, Scores


def authentic(distance: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return 100 where the nearest training image has a training image nearer than this one, else 0; NaN if unknown."""
    return np.where(np.isnan(distance) | np.isnan(spacing), np.nan, 100.0 * (distance > spacing))


def scores(evidence: Evidence) -> Scores:
    """Return 100 for an authentic sample, else 0; duplicates of the nearest image are passed over."""
    if evidence.own is None:
        return over_seeds(evidence, None)
    return over_seeds(evidence, authentic(evidence.own[:, 0], evidence.own_spacing))


METRIC = Metric(
    name="authenticity",
    question="How many samples are no nearer to a training image than training images are to one another?",
    unit="percent",
    direction="larger means fewer copies; read it beside heldout_authenticity, for real images do not reach 100 either",
    reference="100 mean_s 1{d(s, x) > min d(x, x')}, x nearest to s, x' no duplicate; Alaa et al. 2022 (2102.08921)",
    k=1,
    twins=("a", "b"),
    interval="percent",
    scores=scores,
)
