"""Estimates to decisions: which checkpoint would be released, and why. Rules in docs/statistics.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from auditor.stats import Onset

OWN_SHARE_MARGIN = 0.05  # lean of the corrected lower limit above 1/2 that is still accepted


@dataclass(frozen=True)
class StepFacts:
    """What the provisional rule looks at, for one checkpoint."""

    step: int
    underfit: bool
    own_share_low: Mapping[str, float]  # space -> corrected lower limit of own_share, both twins
    copies: tuple[float, float]  # flagged share of samples (larger of the twins), of held-out images; in the copy space


@dataclass(frozen=True)
class Decision:
    """One row of verdicts.parquet."""

    step: int
    verdict: str
    recommended: bool
    reasons: tuple[str, ...]


def provisional(facts: Sequence[StepFacts], divergence: Onset) -> list[Decision]:
    """Return one decision per checkpoint by the provisional rule.

    Recommended is the latest checkpoint that is not underfit, not after the confidence set
    of the least twin distance, whose corrected lower limit of ``own_share`` is at most
    1/2 + margin in every space, and whose samples are not flagged as copies more often
    than held-out images are.
    """
    objections = {f.step: objections_to(f, divergence) for f in facts}
    passing = [step for step, reasons in objections.items() if not reasons]
    best = max(passing, default=None)
    return [
        Decision(f.step, "underfit" if f.underfit else "undecided", f.step == best, tuple(objections[f.step]))
        for f in facts
    ]


def objections_to(facts: StepFacts, divergence: Onset) -> list[str]:
    """Return the sentences that speak against releasing this checkpoint, none if it passes."""
    reasons = []
    if facts.underfit:
        reasons.append("Its held-out loss is still more than 1.25 times the least: it is underfit.")
    if not divergence.steps:
        reasons.append("Where the twins begin to diverge could not be judged.")
    elif facts.step > max(divergence.steps):
        reasons.append(f"The twins' samples diverge after step {max(divergence.steps)}.")
    for space, low in facts.own_share_low.items():
        if not low <= 0.5 + OWN_SHARE_MARGIN:  # NaN objects too
            reasons.append(f"Samples lean on their own half in {space}: own_share is at least {low:.3f}.")
    flagged, control = facts.copies
    if not flagged <= control:
        reasons.append(f"{flagged:.1%} of the samples are flagged as copies, {control:.1%} of held-out images.")
    return reasons
