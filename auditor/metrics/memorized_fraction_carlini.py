"""Share of samples that are copies by the calibrated L2 distance (cal_l2_carlini)."""

from auditor.metrics import carlini_flag, over_seeds
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return 1 for a sample whose nearest own image is at less than half the mean of the 50 nearest, else 0."""
    if evidence.own is None:
        return over_seeds(evidence, None)
    return over_seeds(evidence, carlini_flag(evidence.own[:, 0], evidence.own_mean_50))


METRIC = Metric(
    name="memorized_fraction_carlini",
    question="Which share of samples lies far nearer to one training image than to the 50 nearest?",
    unit="share",
    direction="larger means more copies; compare with heldout_memorized_fraction_carlini, the rule's false alarms",
    reference="mean_s 1{l < 1}, l = d1 / (0.5 mean of the 50 nearest); Carlini et al. 2023 (2301.13188)",
    k=50,
    twins=("a", "b"),
    interval="proportion",
    scores=scores,
)
