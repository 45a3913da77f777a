"""Half the mean squared distance of the twins' samples: the variance over trainings."""

from auditor.metrics import over_pairs
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return half the squared distance between the twins' samples, one per seed."""
    return over_pairs(evidence, evidence.twin_distance**2 / 2)


METRIC = Metric(
    name="twin_variance",
    question="How much does the image drawn from a noise vary with the training?",
    unit="squared distance of the space",
    direction="larger means that the samples depend more on which half was trained on, or on the initialization",
    reference="V = 1/2 mean_s ||f_A(s) - f_B(s)||^2, an unbiased estimate of the trace of the variance over trainings",
    k=0,
    twins=("both",),
    interval="mean",
    scores=scores,
    needs_twin=True,
)
