"""How much better the twins denoise the images they were trained on: the loss's own-versus-other comparison."""

import numpy as np

from auditor.metrics import absent
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return ln(loss of the model not trained on an image / loss of the one trained on it), over both halves.

    With equal halves the mean is the difference-in-differences 1/2 (mean_A r - mean_B r)
    of r = ln(l_B / l_A): a twin that is worse everywhere cancels.
    """
    mine, twins = evidence.losses, evidence.twin_losses
    if "own" not in mine or "other" not in mine or "own" not in twins:
        return absent("image", "no losses were measured on training images")
    ratios = [
        np.log(twins["other"].means / mine["own"].means),  # the twin's "other" are this twin's own images
        np.log(mine["other"].means / twins["own"].means),
    ]
    ids = np.concatenate([mine["own"].ids, mine["other"].ids])
    return Scores("image", ids, np.concatenate(ratios))


METRIC = Metric(
    name="loss_lean",
    question="Do the models denoise their own training images better than their twin does?",
    unit="log ratio, about the relative difference of the losses",
    direction="larger means more fitted to the own training images; 0 is none",
    reference="1/2 (mean_A r - mean_B r), r = ln(l_B / l_A), image means first (docs/statistics.md 5.1)",
    k=0,
    twins=("both",),
    interval="loss_lean",
    scores=scores,
    per_space=False,
    needs_twin=True,
)
