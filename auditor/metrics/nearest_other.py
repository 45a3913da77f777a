"""Mean distance from samples to the nearest training image of the twin: the control of nearest_own."""

from auditor.metrics import over_seeds
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return the distance to the nearest other training image, one per seed."""
    return over_seeds(evidence, None if evidence.other is None else evidence.other[:, 0])


METRIC = Metric(
    name="nearest_other",
    question="How near do samples come to images of the same kind that their model never saw?",
    unit="distance of the space",
    direction="larger means farther from the other training set",
    reference="mean_s min_{x in other} d(g_s, x)",
    k=1,
    twins=("a", "b"),
    interval="mean",
    scores=scores,
    needs_twin=True,
)
