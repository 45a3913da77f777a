"""Lean towards the own half, each sample weighted by how much one image stands out: the headline test's statistic."""

import numpy as np

from auditor.metrics import closer, over_seeds
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return the gap of each sample, positive if it lands on its own half, negative if on the other."""
    if evidence.pool_own is None:
        return over_seeds(evidence, None)
    side = 2 * closer(evidence.pool_own, evidence.pool_other) - 1
    return over_seeds(evidence, np.asarray(side) * evidence.gap)


METRIC = Metric(
    name="gap_lean",
    question="Do samples lean towards single images of their own half?",
    unit="mean signed gap",
    direction="larger means more lean on the own half; 0 is none",
    reference="mean_s +-(d2 - d1) / (d2 + d1) in the pool of both halves, d2 of another group (docs/statistics.md 3.2)",
    k=8,
    twins=("both",),
    interval="lean",
    scores=scores,
    needs_twin=True,
)
