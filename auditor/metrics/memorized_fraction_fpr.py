"""Share of samples that are copies by a rule with a chosen false-positive rate (--fpr)."""

from auditor.metrics import over_seeds, with_ratio
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return 1 for a sample whose d1 / d2 lies below that of all but --fpr of held-out images, else 0."""
    if evidence.own is None:
        return over_seeds(evidence, None)
    return with_ratio(over_seeds, evidence, evidence.own[:, 0], evidence.own_outside)


METRIC = Metric(
    name="memorized_fraction_fpr",
    question="Which share of samples copies a training image, by a rule that flags few real images here?",
    unit="share",
    direction="larger means more copies; compare with heldout_memorized_fraction_fpr, the rate the rule really has",
    reference="mean_s 1{d1 = 0 or d1 < c d2}, c the --fpr quantile of d1 / d2 of half of the held-out images",
    k=8,
    twins=("a", "b"),
    interval="proportion",
    scores=scores,
)
