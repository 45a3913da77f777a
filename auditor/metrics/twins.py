"""How far the samples are apart that the twins draw from the same noise, and what their distance comes from."""

from functools import partial

import numpy as np

from auditor.metrics import UNPAIRED, over_seeds
from auditor.records import Evidence, Metric, Scores

NO_SAME_DATA = "no second training on the same half was given (--ckpts-a2)"


def over_pairs(evidence: Evidence, values: np.ndarray) -> Scores:
    """Return scores that compare the twins' samples of each seed, NaN where these do not share their noise."""
    if np.isnan(evidence.twin_distance).all():
        return Scores("seed", evidence.seeds, np.full(len(evidence.seeds), np.nan), UNPAIRED)
    return over_seeds(evidence, values)


def distance(evidence: Evidence) -> Scores:
    """Return the distance between the twins' samples, one per seed."""
    return over_pairs(evidence, evidence.twin_distance)


def ratio(evidence: Evidence) -> Scores:
    """Return linearized scores of a ratio of means, whose chance level is 1: R + (d_s - R c_s) / mean(c).

    c is the distance between different seeds. The mean is R = mean(d) / mean(c) exactly, and the
    spread is the delta method's.
    """
    paired, chance = evidence.twin_distance, evidence.different_seed_distance
    if np.isnan(paired).all():
        return over_pairs(evidence, paired)
    if np.isnan(chance).any() or chance.mean() == 0:
        unknown = np.full(len(evidence.seeds), np.nan)
        return Scores("seed", evidence.seeds, unknown, "different seeds give no distance to compare with")
    value = paired.mean() / chance.mean()
    return over_pairs(evidence, value + (paired - value * chance) / chance.mean())


def variance(evidence: Evidence) -> Scores:
    """Return half the squared distance between the twins' samples, one per seed: the variance over trainings."""
    return over_pairs(evidence, evidence.twin_distance**2 / 2)


def variance_part(evidence: Evidence, of_data: bool) -> Scores:
    """Return half the squared distance of same-data twins per seed, or the twins' beyond it."""
    if evidence.same_data_distance is None:
        return Scores("seed", np.empty(0), np.empty(0), NO_SAME_DATA)
    seed = evidence.same_data_distance**2 / 2
    return over_pairs(evidence, evidence.twin_distance**2 / 2 - seed if of_data else seed)


of_twins = partial(Metric, k=0, twins=("both",), interval="mean", needs_twin=True, needs_vectors=True)

TWIN_DISTANCE = of_twins(
    name="twin_distance",
    question="Do the twins still draw the same image from the same noise?",
    unit="distance of the space",
    direction="larger means that the samples depend more on which half was trained on, or on the initialisation",
    reference="mean_s d(A_s, B_s); arXiv 2603.03469, Fig. 1a plots 1 - Pearson correlation = d^2 / 2 in `correlation`",
    scores=distance,
)
TWIN_DISTANCE_RATIO = of_twins(
    name="twin_distance_ratio",
    question="How far apart are the twins' samples, measured by how far different seeds are?",
    unit="ratio",
    direction="larger means less alike; 1 means no more alike than samples of different seeds",
    reference="mean_s d(A_s, B_s) / mean_{s != s'} d(A_s, B_s'), the denominator over 16 cyclic shifts of the seeds",
    scores=ratio,
)
TWIN_VARIANCE = of_twins(
    name="twin_variance",
    question="How much does the image drawn from a noise vary with the training?",
    unit="squared distance of the space",
    direction="larger means that the samples depend more on which half was trained on, or on the initialization",
    reference="V = 1/2 mean_s ||f_A(s) - f_B(s)||^2, an unbiased estimate of the trace of the variance over trainings",
    scores=variance,
)
TWIN_VARIANCE_SEED = of_twins(
    name="twin_variance_seed",
    question="How much of the twin variance is there between trainings on the same images?",
    unit="squared distance of the space",
    direction="larger means that samples depend more on initialisation and batch order",
    reference="1/2 mean_s d(A_s, A2_s)^2, A2 a second training on half a (docs/statistics.md 12)",
    scores=partial(variance_part, of_data=False),
)
TWIN_VARIANCE_DATA = of_twins(
    name="twin_variance_data",
    question="How much of the twin variance comes from which half was trained on?",
    unit="squared distance of the space",
    direction="larger means that samples depend more on the training images; 0 if the halves do not matter",
    reference="V - V_seed, seeds paired; negative values are chance (docs/statistics.md 12)",
    scores=partial(variance_part, of_data=True),
)
