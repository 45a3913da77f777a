"""Twin variance split in two: what another seed changes, and what another half changes beyond that."""

import numpy as np

from auditor.metrics import over_pairs
from auditor.records import Evidence, Metric, Scores

ABSENT = "no second training on the same half was given (--ckpts-a2)"


def parts(evidence: Evidence, of_data: bool) -> Scores:
    """Return half the squared distance of same-data twins per seed, or the twins' beyond it."""
    if evidence.same_data_distance is None:
        return Scores("seed", np.empty(0), np.empty(0), ABSENT)
    seed = evidence.same_data_distance**2 / 2
    return over_pairs(evidence, evidence.twin_distance**2 / 2 - seed if of_data else seed)


SEED = Metric(
    name="twin_variance_seed",
    question="How much of the twin variance is there between trainings on the same images?",
    unit="squared distance of the space",
    direction="larger means that samples depend more on initialisation and batch order",
    reference="1/2 mean_s d(A_s, A2_s)^2, A2 a second training on half a (docs/statistics.md 12)",
    k=0,
    twins=("both",),
    interval="mean",
    scores=lambda evidence: parts(evidence, of_data=False),
    needs_twin=True,
)

DATA = Metric(
    name="twin_variance_data",
    question="How much of the twin variance comes from which half was trained on?",
    unit="squared distance of the space",
    direction="larger means that samples depend more on the training images; 0 if the halves do not matter",
    reference="V - V_seed, seeds paired; negative values are chance (docs/statistics.md 12)",
    k=0,
    twins=("both",),
    interval="mean",
    scores=lambda evidence: parts(evidence, of_data=True),
    needs_twin=True,
)
