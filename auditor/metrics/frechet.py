"""Distance of Gaussians fitted to samples and to held-out images."""

import numpy as np

from auditor.metrics import ABSENT_HELDOUT, absent
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return the distance: one value for the set of samples, since it is no mean over them."""
    if evidence.heldout_quality is None:
        return absent("set", ABSENT_HELDOUT)
    values = evidence.heldout_quality["frechet"]
    note = "biased upwards, the more the fewer samples: compare equal numbers only"
    if np.isnan(values).any():
        note = "there are not more samples and held-out images than dimensions"
    return Scores("set", np.zeros(1, dtype=int), values, note)


METRIC = Metric(
    name="frechet",
    question="How far are mean and covariance of the samples from those of held-out images?",
    unit="squared distance of the space",
    direction="larger means worse samples; KID is the one to prefer at these numbers of samples",
    reference="||m1 - m2||^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), if both sets outnumber the dimension; Heusel et al. 2017",
    k=0,
    twins=("a", "b"),
    interval="shown",
    scores=scores,
)
