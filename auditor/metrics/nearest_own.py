"""Mean distance from samples to their nearest own training image."""

from auditor.metrics import over_seeds
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return the distance to the nearest own training image, one per seed."""
    return over_seeds(evidence, None if evidence.own is None else evidence.own[:, 0])


METRIC = Metric(
    name="nearest_own",
    question="How near do samples come to the images their model was trained on?",
    unit="distance of the space",
    direction="larger means farther from the own training set; read it beside nearest_other",
    reference="mean_s min_{x in own} d(g_s, x)",
    k=1,
    twins=("a", "b"),
    interval="mean",
    scores=scores,
)
