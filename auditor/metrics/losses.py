"""Denoising losses at cells shared by all checkpoints: on each set, and on the own half beside the other."""

from functools import partial

import numpy as np

from auditor.metrics import SETS, absent, network_metric, shares_below
from auditor.records import Evidence, Metric, Scores, other_twin

ABSENT = "no losses were measured on training images"


def loss_scores(evidence: Evidence, role: str) -> Scores:
    """Return the loss per image of one set, averaged over noise levels."""
    table = evidence.losses.get(role)
    if table is None:
        return absent("image", f"no loss was measured on {SETS[role]}")
    half = {"own": evidence.twin, "other": other_twin(evidence.twin), "heldout": "heldout"}[role]
    ids = np.array([f"{half}/{i}" for i in table.ids], dtype=object)  # halves may use the same file names
    return Scores("image", ids, table.means)


def log_ratios(evidence: Evidence) -> tuple[np.ndarray, np.ndarray] | None:
    """Return ln(loss of the model not trained on an image / loss of the one trained on it), of own and other images.

    None where training images are missing.
    """
    mine, twins = evidence.losses, evidence.twin_losses
    if "own" not in mine or "other" not in mine or "own" not in twins:
        return None
    own = np.log(twins["other"].means / mine["own"].means)  # the twin's "other" are this twin's own images
    return own, np.log(mine["other"].means / twins["own"].means)


def lean(evidence: Evidence) -> Scores:
    """Return the log ratios of both halves.

    With equal halves the mean is the difference-in-differences 1/2 (mean_A r - mean_B r)
    of r = ln(l_B / l_A): a twin that is worse everywhere cancels.
    """
    found = log_ratios(evidence)
    if found is None:
        return absent("image", ABSENT)
    ids = np.concatenate([evidence.losses["own"].ids, evidence.losses["other"].ids])
    return Scores("image", ids, np.concatenate(found))


def separation(evidence: Evidence) -> Scores:
    """Return placement values over the images of half a, and of half b; the mean of either is the AUC."""
    found = log_ratios(evidence)
    if found is None:
        return absent("image", ABSENT)
    own, other, ids = found[0], -found[1], evidence.losses["own"].ids
    if not np.isfinite(own).all() or not np.isfinite(other).all():
        return Scores("image", ids, np.full(len(ids), np.nan), "some losses are not defined")
    return Scores("image", ids, shares_below(own, other), second=1 - shares_below(other, own))


def loss_metric(role: str) -> Metric:
    """Return the metric of the denoising loss on one set."""
    return network_metric(
        name=f"loss_{role}",
        question=f"How well does the model denoise {SETS[role]}?",
        unit="squared error per pixel",
        direction="larger means a worse denoiser; the image is the unit, averaged over its cells first",
        reference="mean over (image, t, eps) cells of ||f(x_t, t) - target||^2 / dim, unweighted (docs/metrics.md)",
        twins=("a", "b", "both"),
        scores=partial(loss_scores, role=role),
        needs_twin=role == "other",
    )


LOSS_OWN, LOSS_OTHER, LOSS_HELDOUT = (loss_metric(role) for role in SETS)
LOSS_LEAN = network_metric(
    name="loss_lean",
    question="Do the models denoise their own training images better than their twin does?",
    unit="log ratio, about the relative difference of the losses",
    direction="larger means more fitted to the own training images; 0 is none",
    reference="1/2 (mean_A r - mean_B r), r = ln(l_B / l_A), image means first (docs/statistics.md 5.1)",
    twins=("both",),
    interval="loss_lean",
    scores=lean,
)
SEPARATION = network_metric(
    name="separation",
    question="Do the twins' losses tell which half an image belongs to?",
    unit="probability",
    direction="larger means better told apart; 0.5 is not at all. Both sides were trained on: no attack's success",
    reference="AUC of r = ln(l_B / l_A) between images of half a and of half b (docs/statistics.md 5.3)",
    twins=("both",),
    interval="auc",
    scores=separation,
)
