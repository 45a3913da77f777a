"""Share of samples that lie closer to their own training set than to the twin's."""

from auditor.metrics import closer, over_seeds
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return 1 for a sample nearer to own, 0 for one nearer to other, 1/2 on ties; halves of equal size."""
    if evidence.pool_own is None:
        return over_seeds(evidence, None)
    return over_seeds(evidence, closer(evidence.pool_own, evidence.pool_other))


METRIC = Metric(
    name="own_share",
    question="Do samples lean towards the images their own model was trained on?",
    unit="share",
    direction="larger means closer to the own training set; for both twins together 0.5 is no lean",
    reference="mean_s 1{d(g_s, own) < d(g_s, other)}, ties 1/2; tested by relabelling images (docs/statistics.md 2, 3)",
    k=1,
    twins=("a", "b", "both"),
    interval="lean",
    scores=scores,
    needs_twin=True,
)
