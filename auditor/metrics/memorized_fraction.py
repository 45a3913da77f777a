"""Share of samples that are copies of one training image by the gap ratio."""

from auditor.metrics import gap_ratio_flag, over_seeds
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return 1 for a sample whose nearest own image is at 0 or three times nearer than the second nearest, else 0."""
    if evidence.own is None:
        return over_seeds(evidence, None)
    return over_seeds(evidence, gap_ratio_flag(evidence.own[:, 0], evidence.own[:, 1]))


METRIC = Metric(
    name="memorized_fraction",
    question="Which share of samples copies one training image?",
    unit="share",
    direction="larger means more copies; compare with heldout_memorized_fraction, the rule's false alarms",
    reference="mean_s 1{d1 = 0 or d1 < d2 / 3}; Yoon et al. 2023; Gu et al. 2023 (2310.02664); blind to duplicates",
    k=2,
    twins=("a", "b"),
    interval="proportion",
    scores=scores,
)
