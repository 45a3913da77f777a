"""The rate at which the calibrated L2 distance flags real held-out images: its false alarms."""

from auditor.metrics import carlini_flag, over_heldout
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return 1 for a held-out image that the calibrated L2 distance would call a copy, else 0."""
    if evidence.heldout_own is None:
        return over_heldout(evidence, None)
    return over_heldout(evidence, carlini_flag(evidence.heldout_own[:, 0], evidence.heldout_own_mean_50))


METRIC = Metric(
    name="heldout_memorized_fraction_carlini",
    question="How often would the calibrated L2 distance flag a real image that was never trained on?",
    unit="share",
    direction="larger means a less specific rule here; the control of memorized_fraction_carlini",
    reference="mean_h 1{l < 1}, l = d1 / (0.5 mean of the 50 nearest), h held-out",
    k=50,
    twins=("a", "b"),
    interval="proportion",
    scores=scores,
)
