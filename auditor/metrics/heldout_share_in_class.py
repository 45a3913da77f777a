"""Share of held-out images that lie closer to this twin's images of their class: the context of own_share_in_class."""

from auditor.metrics import closer, over_heldout, within_class
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return 1 for a held-out image nearer to this twin's half, 0 for one nearer to the other, 1/2 on ties."""
    if evidence.own is None or evidence.heldout_ids is None:
        return over_heldout(evidence, None)
    own, other = evidence.heldout_own_in_class, evidence.heldout_other_in_class
    shares = None if own is None or other is None else closer(own, other)
    return within_class(evidence.heldout_ids, "image", evidence.heldout_classed, shares)


METRIC = Metric(
    name="heldout_share_in_class",
    question="Which half's images of their class do real images that neither model saw lie closer to?",
    unit="share",
    direction="larger means that this half lies closer to the population; the two halves' shares sum to one",
    reference="heldout_share among images of the image's class, as many of either half; context, never a test",
    k=1,
    twins=("a", "b"),
    interval="proportion",
    scores=scores,
    needs_twin=True,
)
