"""Accuracy of telling from a sample which half trained its model, by the nearest training image."""

from auditor.metrics import closer, over_seeds
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return 1 where the half of the nearest image is the model's own, 0 where it is not, 1/2 on ties."""
    if evidence.pool_own is None:
        return over_seeds(evidence, None)
    return over_seeds(evidence, closer(evidence.pool_own, evidence.pool_other))


METRIC = Metric(
    name="split_identification",
    question="Can one tell from a sample which half trained its model?",
    unit="share",
    direction="larger means more telling samples; 0.5 is a guess. It is own_share of both twins, read as an accuracy",
    reference="accuracy of the nearest image's half over both twins' samples; tested by relabelling images",
    k=1,
    twins=("both",),
    interval="lean",
    scores=scores,
    needs_twin=True,
)
