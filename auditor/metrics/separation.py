"""How well the losses of the twins tell the two halves apart. Both halves are members: no attack's success."""

import numpy as np

from auditor.metrics import absent, shares_below
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return placement values over the images of half a, and of half b; the mean of either is the AUC."""
    mine, twins = evidence.losses, evidence.twin_losses
    if "own" not in mine or "other" not in mine or "own" not in twins:
        return absent("image", "no losses were measured on training images")
    own = np.log(twins["other"].means / mine["own"].means)  # ln of the loss without the image over that with it
    other = -np.log(mine["other"].means / twins["own"].means)
    ids = mine["own"].ids
    if not np.isfinite(own).all() or not np.isfinite(other).all():
        return Scores("image", ids, np.full(len(ids), np.nan), "some losses are not defined")
    return Scores("image", ids, shares_below(own, other), second=1 - shares_below(other, own))


METRIC = Metric(
    name="separation",
    question="Do the twins' losses tell which half an image belongs to?",
    unit="probability",
    direction="larger means better told apart; 0.5 is not at all. Both sides were trained on: no attack's success",
    reference="AUC of r = ln(l_B / l_A) between images of half a and of half b (docs/statistics.md 5.3)",
    k=0,
    twins=("both",),
    interval="auc",
    scores=scores,
    per_space=False,
    needs_twin=True,
)
