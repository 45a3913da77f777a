"""The rate at which the gap ratio flags real held-out images: its false alarms on this data in this space."""

from auditor.metrics import gap_ratio_flag, over_heldout
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return 1 for a held-out image that the gap ratio would call a copy of an own training image, else 0."""
    if evidence.heldout_own is None:
        return over_heldout(evidence, None)
    return over_heldout(evidence, gap_ratio_flag(evidence.heldout_own[:, 0], evidence.heldout_own[:, 1]))


METRIC = Metric(
    name="heldout_memorized_fraction",
    question="How often would the gap ratio flag a real image that was never trained on?",
    unit="share",
    direction="larger means a less specific rule here; the control of memorized_fraction",
    reference="mean_h 1{d1 = 0 or d1 < d2 / 3}, h held-out",
    k=2,
    twins=("a", "b"),
    interval="proportion",
    scores=scores,
)
