"""U-turns: whether a model finds the way back to its own training images better than its twin, which never saw them."""

import numpy as np

from auditor.metrics import absent, network_metric
from auditor.records import Evidence, Scores, UTurns

ABSENT = "no images were noised and denoised again (--u-turns), or no training images are known"
LEAST = (0.5 / 255) ** 2  # of a mean squared difference: half a gray level everywhere


def lean(evidence: Evidence) -> Scores:
    """Return ln(distance of what comes back by the model without an image / with it), over both halves, image means."""
    mine, twins = evidence.u_turns, evidence.twin_u_turns
    if "own" not in mine or "own" not in twins:
        return absent("image", ABSENT)
    ratios = [
        log_ratio(twins["other"].distance, mine["own"].distance),
        log_ratio(mine["other"].distance, twins["own"].distance),
    ]
    return Scores("image", np.concatenate([mine["own"].ids, mine["other"].ids]), np.concatenate(ratios))


def log_ratio(without: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Return ln(distance without / distance with the image in training), mean over times, per image."""
    return np.asarray(np.log(np.maximum(without, LEAST) / np.maximum(trained, LEAST)).mean(axis=1))


def rate(evidence: Evidence) -> Scores:
    """Return the share of times from which each own image returns."""
    table = evidence.u_turns.get("own")
    if table is None:
        return absent("image", ABSENT)
    return Scores("image", table.ids, returned(table).mean(axis=1))


def returned(table: UTurns) -> np.ndarray:
    """Return whether images came back, float64 ``[n_images, n_times]``; NaN where it is not known."""
    return np.where(np.isnan(table.distance), np.nan, table.returned)


def rate_lean(evidence: Evidence) -> Scores:
    """Return the share of times from which the own model returns an image, less that of its twin, over both halves."""
    mine, twins = evidence.u_turns, evidence.twin_u_turns
    if "own" not in mine or "own" not in twins:
        return absent("image", ABSENT)
    pairs = ((mine["own"], twins["other"]), (twins["own"], mine["other"]))
    differences = [(returned(own) - returned(other)).mean(axis=1) for own, other in pairs]
    return Scores("image", np.concatenate([mine["own"].ids, mine["other"].ids]), np.concatenate(differences))


U_TURN_LEAN = network_metric(
    name="u_turn_lean",
    question="Do the models find the way back to their own training images better than their twin does?",
    unit="log ratio, about the relative difference of the distances",
    direction="larger means nearer to the own images; 0 is none",
    reference="mean over both halves and turning times of ln(d_twin / d_own), d the mean squared difference of an "
    "image and what comes back from the same noise by DDIM (arXiv 2603.03469, Fig. 5)",
    twins=("both",),
    scores=lean,
)
RETURN_RATE = network_metric(
    name="return_rate",
    question="How often does an own training image that was noised come back as itself?",
    unit="fraction of turns",
    direction="larger means that more come back; at little noise every good denoiser returns all: no sign by itself",
    reference="share of turns after which no other training or held-out image is nearer, in pixels",
    twins=("a", "b", "both"),
    scores=rate,
    needs_twin=False,
)
RETURN_RATE_LEAN = network_metric(
    name="return_rate_lean",
    question="Do own training images come back more often than by the twin, which never saw them?",
    unit="fraction of turns",
    direction="larger means more often; 0 is none",
    reference="mean over both halves of the difference of return rates, the same images and noise (arXiv 2510.01378)",
    twins=("both",),
    scores=rate_lean,
)
