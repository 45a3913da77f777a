"""Least mutual information of a sample and the half that trained its model."""

import numpy as np

from auditor.metrics import closer, over_seeds
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return linearized scores of 1 - H2(a), a the accuracy of split_identification: I + I'(a) (hit_s - a).

    0 where a is no better than a guess.
    """
    if evidence.pool_own is None:
        return over_seeds(evidence, None)
    hits = closer(evidence.pool_own, evidence.pool_other)
    a = hits.mean()
    if a <= 0.5:
        return over_seeds(evidence, np.zeros(len(hits)))
    if a == 1:
        return over_seeds(evidence, np.ones(len(hits)))
    information = 1 + a * np.log2(a) + (1 - a) * np.log2(1 - a)
    return over_seeds(evidence, information + np.log2(a / (1 - a)) * (hits - a))


METRIC = Metric(
    name="split_information",
    question="How much does a sample tell at least of the half that trained its model?",
    unit="bits",
    direction="larger means more telling samples; 0 says nothing, 1 names the half",
    reference="Fano: I(half; sample) >= 1 - H2(a), a = split_identification; Yi, Sun and Li 2023 (2305.14712)",
    k=1,
    twins=("both",),
    interval="lean",
    scores=scores,
    needs_twin=True,
)
