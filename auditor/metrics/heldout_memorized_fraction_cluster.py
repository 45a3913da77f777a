"""The rate at which the cluster-aware gap ratio flags real held-out images: its false alarms."""

from auditor.metrics import gap_ratio_flag, over_heldout
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return 1 for a held-out image that the cluster-aware gap ratio would call a copy, else 0."""
    if evidence.heldout_own is None:
        return over_heldout(evidence, None)
    return over_heldout(evidence, gap_ratio_flag(evidence.heldout_own[:, 0], evidence.heldout_own_outside))


METRIC = Metric(
    name="heldout_memorized_fraction_cluster",
    question="How often would the cluster-aware gap ratio flag a real image that was never trained on?",
    unit="share",
    direction="larger means a less specific rule here; the control of memorized_fraction_cluster",
    reference="mean_h 1{d1 = 0 or d1 < d2 / 3}, d2 the nearest that is no duplicate of it, h held-out",
    k=8,
    twins=("a", "b"),
    interval="proportion",
    scores=scores,
)
