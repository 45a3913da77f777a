"""Twin distance divided by the distance between different seeds: its chance level is 1."""

import numpy as np

from auditor.metrics import over_pairs
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return linearised scores of a ratio of means: R + (d_s - R c_s) / mean(c).

    Their mean is R = mean(d) / mean(c) exactly, and their spread is the delta method's.
    """
    paired, chance = evidence.twin_distance, evidence.different_seed_distance
    if np.isnan(paired).all():
        return over_pairs(evidence, paired)
    if np.isnan(chance).any() or chance.mean() == 0:
        unknown = np.full(len(evidence.seeds), np.nan)
        return Scores("seed", evidence.seeds, unknown, "different seeds give no distance to compare with")
    ratio = paired.mean() / chance.mean()
    return over_pairs(evidence, ratio + (paired - ratio * chance) / chance.mean())


METRIC = Metric(
    name="twin_distance_ratio",
    question="How far apart are the twins' samples, measured by how far different seeds are?",
    unit="ratio",
    direction="larger means less alike; 1 means no more alike than samples of different seeds",
    reference="mean_s d(A_s, B_s) / mean_{s != s'} d(A_s, B_s'), the denominator over 16 cyclic shifts of the seeds",
    k=0,
    twins=("both",),
    interval="mean",
    scores=scores,
    needs_twin=True,
)
