"""Lean towards the own half: samples nearer to it than to the twin's, and what held-out images show beside them."""

from functools import partial

import numpy as np

from auditor.metrics import by_rule, closer, over_classed_seeds, over_heldout, sides, within_class
from auditor.records import Evidence, Metric, Scores

in_pool_samples, in_pool_heldout = sides(closer, "pool_own", "pool_other")


def signed_gap(own: np.ndarray, other: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Return the gap of each sample, positive if it lands on its own half, negative if on the other."""
    return np.asarray((2 * closer(own, other) - 1) * gap)


def information(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return linearized scores of 1 - H2(a), a the accuracy of split_identification: I + I'(a) (hit_s - a).

    0 where a is no better than a guess.
    """
    hits = closer(own, other)
    a = hits.mean()
    if a <= 0.5:
        return np.zeros(len(hits))
    if a == 1:
        return np.ones(len(hits))
    value = 1 + a * np.log2(a) + (1 - a) * np.log2(1 - a)
    return np.asarray(value + np.log2(a / (1 - a)) * (hits - a))


def in_class(evidence: Evidence) -> Scores:
    """Return 1 for a sample nearer to own, 0 for one nearer to other, 1/2 on ties, all among images of its class."""
    own, other = evidence.own_in_class, evidence.other_in_class
    return over_classed_seeds(evidence, None if own is None or other is None else closer(own, other))


def heldout_in_class(evidence: Evidence) -> Scores:
    """Return 1 for a held-out image nearer to this twin's half, 0 for one nearer to the other, 1/2 on ties."""
    if evidence.own is None or evidence.heldout_ids is None:
        return over_heldout(evidence, None)
    own, other = evidence.heldout_own_in_class, evidence.heldout_other_in_class
    shares = None if own is None or other is None else closer(own, other)
    return within_class(evidence.heldout_ids, "image", evidence.heldout_classed, shares)


share = partial(Metric, unit="share", k=1, needs_twin=True)

OWN_SHARE = share(
    name="own_share",
    question="Do samples lean towards the images their own model was trained on?",
    direction="larger means closer to the own training set; for both twins together 0.5 is no lean",
    reference="mean_s 1{d(g_s, own) < d(g_s, other)}, ties 1/2; tested by relabelling images (docs/statistics.md 2, 3)",
    twins=("a", "b", "both"),
    interval="lean",
    scores=in_pool_samples,
)
HELDOUT_SHARE = share(
    name="heldout_share",
    question="Which half do real images that neither model saw lie closer to?",
    direction="larger means that this half lies closer to the population; the two halves' shares sum to one",
    reference="mean_h 1{d(h, own) < d(h, other)}, ties 1/2; context, never a test: it differs from 1/2 by hubs alone",
    twins=("a", "b"),
    interval="proportion",
    scores=in_pool_heldout,
)
OWN_SHARE_IN_CLASS = share(
    name="own_share_in_class",
    question="Do samples lean towards the images of their class that their own model was trained on?",
    direction="larger means closer to the own training set; for both twins together 0.5 is no lean",
    reference="own_share among images of the sample's class, as many of either half; tested by relabelling images "
    "within classes (docs/statistics.md 3.7)",
    twins=("a", "b", "both"),
    interval="lean_in_class",
    scores=in_class,
)
HELDOUT_SHARE_IN_CLASS = share(
    name="heldout_share_in_class",
    question="Which half's images of their class do real images that neither model saw lie closer to?",
    direction="larger means that this half lies closer to the population; the two halves' shares sum to one",
    reference="heldout_share among images of the image's class, as many of either half; context, never a test",
    twins=("a", "b"),
    interval="proportion",
    scores=heldout_in_class,
)
SPLIT_IDENTIFICATION = share(
    name="split_identification",
    question="Can one tell from a sample which half trained its model?",
    direction="larger means more telling samples; 0.5 is a guess. It is own_share of both twins, read as an accuracy",
    reference="accuracy of the nearest image's half over both twins' samples; tested by relabelling images",
    twins=("both",),
    interval="lean",
    scores=in_pool_samples,
)
SPLIT_INFORMATION = Metric(
    name="split_information",
    question="How much does a sample tell at least of the half that trained its model?",
    unit="bits",
    direction="larger means more telling samples; 0 says nothing, 1 names the half",
    reference="Fano: I(half; sample) >= 1 - H2(a), a = split_identification; Yi, Sun and Li 2023 (2305.14712)",
    k=1,
    twins=("both",),
    interval="lean",
    scores=partial(by_rule, rule=information, names=("pool_own", "pool_other")),
    needs_twin=True,
)
GAP_LEAN = Metric(
    name="gap_lean",
    question="Do samples lean towards single images of their own half?",
    unit="mean signed gap",
    direction="larger means more lean on the own half; 0 is none",
    reference="mean_s +-(d2 - d1) / (d2 + d1) in the pool of both halves, d2 of another group (docs/statistics.md 3.2)",
    k=8,
    twins=("both",),
    interval="lean",
    scores=partial(by_rule, rule=signed_gap, names=("pool_own", "pool_other", "gap")),
    needs_twin=True,
)
