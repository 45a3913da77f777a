"""Share of samples that are copies of one training image or of its duplicates."""

from dataclasses import replace

from auditor.metrics import gap_ratio_flag, over_seeds
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return 1 for a copy by the gap ratio, where the second nearest image is no duplicate of the nearest, else 0.

    Without this no near copy of a duplicated image would be flagged: both distances are
    the same. The note says how often the most duplicated of the copied images occurs.
    """
    if evidence.own is None:
        return over_seeds(evidence, None)
    found = over_seeds(evidence, gap_ratio_flag(evidence.own[:, 0], evidence.own_outside))
    largest = evidence.own_cluster_size[found.values == 1].max(initial=0)
    if largest <= 1:
        return found
    return replace(found, note=f"copied images occur up to {largest:.0f} times in the training set")


METRIC = Metric(
    name="memorized_fraction_cluster",
    question="Which share of samples copies one training image, however often that image occurs?",
    unit="share",
    direction="larger means more copies; compare with heldout_memorized_fraction_cluster, the rule's false alarms",
    reference="mean_s 1{d1 = 0 or d1 < d2 / 3}, d2 the nearest that is no duplicate of it (docs/statistics.md 4.1)",
    k=8,
    twins=("a", "b"),
    interval="proportion",
    scores=scores,
)
