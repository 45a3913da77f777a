"""The upper tail of the gap, where copying appears first: samples beside held-out images."""

from auditor.metrics import gap, over_heldout, over_seeds
from auditor.records import Evidence, Metric, Scores

TAILS = {"gap_q99": ("quantile_99", "99 % quantile"), "gap_max": ("maximum", "maximum")}


def of_samples(evidence: Evidence) -> Scores:
    """Return the gap of each sample among own images, duplicates of the nearest passed over."""
    return over_seeds(evidence, None if evidence.own is None else gap(evidence.own[:, 0], evidence.own_outside))


def of_heldout(evidence: Evidence) -> Scores:
    """Return the gap of each held-out image among own images."""
    if evidence.heldout_own is None:
        return over_heldout(evidence, None)
    return over_heldout(evidence, gap(evidence.heldout_own[:, 0], evidence.heldout_own_outside))


def tail_metric(tail: str, prefix: str) -> Metric:
    """Return the metric of one tail, of samples or of held-out images."""
    interval, words = TAILS[tail]
    sampled = prefix == ""
    return Metric(
        name=prefix + tail,
        question="How much does one training image stand out for the "
        + ("most copied samples?" if sampled else "real images nearest to one?"),
        unit="gap",
        direction="larger means nearer to a copy; 0.5 is a gap ratio of 1/3, 1 a copy; "
        + (f"read it beside heldout_{tail}" if sampled else f"the control of {tail}"),
        reference=f"{words} of (d2 - d1) / (d2 + d1) in own, over {'samples' if sampled else 'held-out images'}",
        k=8,
        twins=("a", "b"),
        interval=interval,
        scores=of_samples if sampled else of_heldout,
    )


Q99, HELDOUT_Q99, MAX, HELDOUT_MAX = (tail_metric(tail, prefix) for tail in TAILS for prefix in ("", "heldout_"))
