"""Mean distance between the samples that the twins draw from the same noise."""

from auditor.metrics import over_pairs
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return the distance between the twins' samples, one per seed."""
    return over_pairs(evidence, evidence.twin_distance)


METRIC = Metric(
    name="twin_distance",
    question="Do the twins still draw the same image from the same noise?",
    unit="distance of the space",
    direction="larger means that the samples depend more on which half was trained on, or on the initialisation",
    reference="mean_s d(A_s, B_s); arXiv 2603.03469, Fig. 1a plots 1 - Pearson correlation = d^2 / 2 in `correlation`",
    k=0,
    twins=("both",),
    interval="mean",
    scores=scores,
    needs_twin=True,
)
