"""Copies of single training images among samples; each rule beside its false alarms on real held-out images."""

from dataclasses import replace
from functools import partial

import numpy as np

from auditor.metrics import by_rule, gap, sides
from auditor.neighbors import is_copy
from auditor.records import Evidence, Metric, Scores

# ---------------------------------------------------------------------------
# Share of copies
# ---------------------------------------------------------------------------


def copy_scores(nearest: np.ndarray, second: np.ndarray, ratio: float | None = None) -> np.ndarray:
    """Return 1.0 for a copy (``neighbors.is_copy``), else 0.0, NaN where a distance is unknown; float64 ``[n]``."""
    return np.where(np.isnan(nearest) | np.isnan(second), np.nan, is_copy(nearest, second, ratio))


def by_second(near: np.ndarray) -> np.ndarray:
    """Return copies by the gap ratio of the two nearest images."""
    return copy_scores(near[:, 0], near[:, 1])


def by_cluster(near: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Return copies by the gap ratio, where the second nearest image is no duplicate of the nearest.

    Without this no near copy of a duplicated image would be flagged: both distances are the same.
    """
    return copy_scores(near[:, 0], outside)


def by_mean_of_50(near: np.ndarray, mean_50: np.ndarray) -> np.ndarray:
    """Return copies by the calibrated L2 distance: nearer than half the mean of the 50 nearest (cal_l2_carlini)."""
    return copy_scores(near[:, 0], mean_50, ratio=0.5)


def cluster_scores(evidence: Evidence) -> Scores:
    """Return copies among samples; the note says how often the most duplicated of the copied images occurs."""
    found = by_rule(evidence, by_cluster, ("own", "own_outside"))
    if evidence.own_cluster_size is None or not len(found.values):
        return found
    largest = evidence.own_cluster_size[found.values == 1].max(initial=0)
    if largest <= 1:
        return found
    return replace(found, note=f"copied images occur up to {largest:.0f} times in the training set")


def fpr_scores(evidence: Evidence, of: str = "samples") -> Scores:
    """Return copies by the ratio that --fpr chose, NaN without it; of held-out images those that did not set it."""

    def rule(near: np.ndarray, outside: np.ndarray) -> np.ndarray:
        if evidence.copy_ratio is None:
            return np.full(len(near), np.nan)
        return copy_scores(near[:, 0], outside, evidence.copy_ratio)

    found = by_rule(evidence, rule, ("own", "own_outside"), of)
    if not len(found.values):
        return found
    if evidence.copy_ratio is None:
        found = replace(found, note="no false-positive rate was chosen (--fpr)")
    if of == "samples" or evidence.heldout_judged is None:
        return found
    kept = np.flatnonzero(evidence.heldout_judged)
    return replace(found, ids=found.ids[kept], values=found.values[kept])


fraction = partial(Metric, unit="share", twins=("a", "b"), interval="proportion")
second_samples, second_heldout = sides(by_second, "own")
_, cluster_heldout = sides(by_cluster, "own", "own_outside")
carlini_samples, carlini_heldout = sides(by_mean_of_50, "own", "own_mean_50")

MEMORIZED_FRACTION = fraction(
    name="memorized_fraction",
    question="Which share of samples copies one training image?",
    direction="larger means more copies; compare with heldout_memorized_fraction, the rule's false alarms",
    reference="mean_s 1{d1 = 0 or d1 < d2 / 3}; Yoon et al. 2023; Gu et al. 2023 (2310.02664); blind to duplicates",
    k=2,
    scores=second_samples,
)
HELDOUT_MEMORIZED_FRACTION = fraction(
    name="heldout_memorized_fraction",
    question="How often would the gap ratio flag a real image that was never trained on?",
    direction="larger means a less specific rule here; the control of memorized_fraction",
    reference="mean_h 1{d1 = 0 or d1 < d2 / 3}, h held-out",
    k=2,
    scores=second_heldout,
)
MEMORIZED_FRACTION_CLUSTER = fraction(
    name="memorized_fraction_cluster",
    question="Which share of samples copies one training image, however often that image occurs?",
    direction="larger means more copies; compare with heldout_memorized_fraction_cluster, the rule's false alarms",
    reference="mean_s 1{d1 = 0 or d1 < d2 / 3}, d2 the nearest that is no duplicate of it (docs/statistics.md 4.1)",
    k=8,
    scores=cluster_scores,
)
HELDOUT_MEMORIZED_FRACTION_CLUSTER = fraction(
    name="heldout_memorized_fraction_cluster",
    question="How often would the cluster-aware gap ratio flag a real image that was never trained on?",
    direction="larger means a less specific rule here; the control of memorized_fraction_cluster",
    reference="mean_h 1{d1 = 0 or d1 < d2 / 3}, d2 the nearest that is no duplicate of it, h held-out",
    k=8,
    scores=cluster_heldout,
)
MEMORIZED_FRACTION_CARLINI = fraction(
    name="memorized_fraction_carlini",
    question="Which share of samples lies far nearer to one training image than to the 50 nearest?",
    direction="larger means more copies; compare with heldout_memorized_fraction_carlini, the rule's false alarms",
    reference="mean_s 1{l < 1}, l = d1 / (0.5 mean of the 50 nearest); Carlini et al. 2023 (2301.13188)",
    k=50,
    scores=carlini_samples,
)
HELDOUT_MEMORIZED_FRACTION_CARLINI = fraction(
    name="heldout_memorized_fraction_carlini",
    question="How often would the calibrated L2 distance flag a real image that was never trained on?",
    direction="larger means a less specific rule here; the control of memorized_fraction_carlini",
    reference="mean_h 1{l < 1}, l = d1 / (0.5 mean of the 50 nearest), h held-out",
    k=50,
    scores=carlini_heldout,
)
MEMORIZED_FRACTION_FPR = fraction(
    name="memorized_fraction_fpr",
    question="Which share of samples copies a training image, by a rule that flags few real images here?",
    direction="larger means more copies; compare with heldout_memorized_fraction_fpr, the rate the rule really has",
    reference="mean_s 1{d1 = 0 or d1 < c d2}, c the --fpr quantile of d1 / d2 of half of the held-out images",
    k=8,
    scores=fpr_scores,
)
HELDOUT_MEMORIZED_FRACTION_FPR = fraction(
    name="heldout_memorized_fraction_fpr",
    question="How often does the rule of --fpr flag real images that did not set its threshold?",
    direction="larger means a less specific rule; near --fpr where both folds are alike",
    reference="mean_h 1{d1 = 0 or d1 < c d2}, h the held-out images of the other fold (docs/statistics.md 4.1)",
    k=8,
    scores=partial(fpr_scores, of="heldout"),
)

# ---------------------------------------------------------------------------
# The upper tail of the gap, where copying appears first
# ---------------------------------------------------------------------------


def gap_of(near: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Return the gap among own images, duplicates of the nearest passed over."""
    return gap(near[:, 0], outside)


def tail_metrics(tail: str, interval: str, words: str) -> tuple[Metric, Metric]:
    """Return the metric of one tail for samples, and for held-out images."""
    shared = partial(Metric, unit="gap", k=8, twins=("a", "b"), interval=interval)
    question = "How much does one training image stand out for the "
    direction = "larger means nearer to a copy; 0.5 is a gap ratio of 1/3, 1 a copy; "
    of_samples, of_heldout = sides(gap_of, "own", "own_outside")
    return shared(
        name=tail,
        question=f"{question}most copied samples?",
        direction=f"{direction}read it beside heldout_{tail}",
        reference=f"{words} of (d2 - d1) / (d2 + d1) in own, over samples",
        scores=of_samples,
    ), shared(
        name=f"heldout_{tail}",
        question=f"{question}real images nearest to one?",
        direction=f"{direction}the control of {tail}",
        reference=f"{words} of (d2 - d1) / (d2 + d1) in own, over held-out images",
        scores=of_heldout,
    )


GAP_Q99, HELDOUT_GAP_Q99 = tail_metrics("gap_q99", "quantile_99", "99 % quantile")
GAP_MAX, HELDOUT_GAP_MAX = tail_metrics("gap_max", "maximum", "maximum")

# ---------------------------------------------------------------------------
# Authenticity
# ---------------------------------------------------------------------------


def authentic(near: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return 100 where the nearest training image has a training image nearer than this one, else 0; NaN if unknown.

    Duplicates of the nearest image are passed over.
    """
    distance = near[:, 0]
    return np.where(np.isnan(distance) | np.isnan(spacing), np.nan, 100.0 * (distance > spacing))


authentic_samples, authentic_heldout = sides(authentic, "own", "own_spacing")

AUTHENTICITY = Metric(
    name="authenticity",
    question="How many samples are no nearer to a training image than training images are to one another?",
    unit="percent",
    direction="larger means fewer copies; read it beside heldout_authenticity, for real images do not reach 100 either",
    reference="100 mean_s 1{d(s, x) > min d(x, x')}, x nearest to s, x' no duplicate; Alaa et al. 2022 (2102.08921)",
    k=1,
    twins=("a", "b"),
    interval="percent",
    scores=authentic_samples,
)
HELDOUT_AUTHENTICITY = Metric(
    name="heldout_authenticity",
    question="How many real images are no nearer to a training image than training images are to one another?",
    unit="percent",
    direction="larger means a sparser training set; the control of authenticity",
    reference="100 mean_h 1{d(h, x) > min d(x, x')}, x nearest to h, x' no duplicate of x, h held-out",
    k=1,
    twins=("a", "b"),
    interval="percent",
    scores=authentic_heldout,
)
