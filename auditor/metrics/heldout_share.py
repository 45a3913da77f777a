"""Share of held-out images that lie closer to this twin's half: the context of own_share."""

from auditor.metrics import closer, over_heldout
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return 1 for a held-out image nearer to this twin's half, 0 for one nearer to the other, 1/2 on ties."""
    if evidence.heldout_pool_own is None:
        return over_heldout(evidence, None)
    return over_heldout(evidence, closer(evidence.heldout_pool_own, evidence.heldout_pool_other))


METRIC = Metric(
    name="heldout_share",
    question="Which half do real images that neither model saw lie closer to?",
    unit="share",
    direction="larger means that this half lies closer to the population; the two halves' shares sum to one",
    reference="mean_h 1{d(h, own) < d(h, other)}, ties 1/2; context, never a test: it differs from 1/2 by hubs alone",
    k=1,
    twins=("a", "b"),
    interval="proportion",
    scores=scores,
    needs_twin=True,
)
