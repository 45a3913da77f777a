"""Share of samples that lie closer to their own training images of their class than to the twin's."""

from auditor.metrics import closer, over_classed_seeds
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return 1 for a sample nearer to own, 0 for one nearer to other, 1/2 on ties, all among images of its class."""
    if evidence.own_in_class is None:
        return over_classed_seeds(evidence, None)
    return over_classed_seeds(evidence, closer(evidence.own_in_class, evidence.other_in_class))


METRIC = Metric(
    name="own_share_in_class",
    question="Do samples lean towards the images of their class that their own model was trained on?",
    unit="share",
    direction="larger means closer to the own training set; for both twins together 0.5 is no lean",
    reference="own_share among images of the sample's class, as many of either half; tested by relabelling images "
    "within classes (docs/statistics.md 3.7)",
    k=1,
    twins=("a", "b", "both"),
    interval="lean_in_class",
    scores=scores,
    needs_twin=True,
)
