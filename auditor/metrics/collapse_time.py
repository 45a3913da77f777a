"""From when on a single training image holds a trajectory: the collapse time of sampling (arXiv 2510.01378)."""

import numpy as np

from auditor.metrics import absent
from auditor.metrics.memorizer_share import NO_TRAJECTORIES
from auditor.records import Evidence, Metric, Scores

HELD = 0.99  # weight of one image in the posterior from which on it holds it


def scores(evidence: Evidence) -> Scores:
    """Return per seed the largest time at which one training image has more than .99 of the posterior; 0 if at none."""
    table = evidence.agreement.get("trajectory")
    if table is None or not np.isfinite(table.largest).all():
        return absent("trajectory", NO_TRAJECTORIES)
    return Scores("trajectory", table.ids, np.where(table.largest > HELD, table.times, 0).max(axis=1).astype(float))


METRIC = Metric(
    name="collapse_time",
    question="From which noise on does one training image alone explain where sampling is?",
    unit="training time steps",
    direction="larger means earlier on the way from noise to a sample; a property of the trajectories, not of copying",
    reference="per seed the largest t with max_i w_i > .99 in the posterior over the own half, at the state there",
    k=0,
    twins=("a", "b", "both"),
    interval="mean",
    scores=scores,
    per_space=False,
    needs_twin=True,
)
