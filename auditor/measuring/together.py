"""One verdict and one recommendation for three or more trainings, from those of every pair of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from auditor.config import Budgets
from auditor.measuring.facts import Context, StepFacts
from auditor.measuring.verdict import (
    NOT_LOOKED_FOR,
    Decision,
    Recommendation,
    bars,
    earliest_good,
    judge,
    no_release,
    not_judged,
    walk,
    what_is_released,
)
from auditor.records import QUALITIES, RISKS

LADDER = ("memorizing", "biased", "underfit", "overfit", "undecided", "generalizing")  # the first that any pair has


def judge_together(decisions: Mapping[str, Decision]) -> Decision:
    """Return the decision on one checkpoint of three or more trainings, from those of every pair of them.

    The first risk and the worst quality that any pair has, and the verdict that follows; generalizing takes all pairs.
    """
    each = decisions.values()
    risk = min((d.risk for d in each), key=RISKS.index)
    quality = min((d.quality for d in each), key=QUALITIES.index)
    verdict = min((d.verdict for d in each), key=LADDER.index)
    open_ = verdict == "undecided"  # whichever pairs are not generalizing leave it open
    deciding = {p: d for p, d in decisions.items() if d.verdict == verdict or (open_ and d.verdict != "generalizing")}
    reasons = tuple(f"{pair}: {reason}" for pair, d in deciding.items() for reason in d.reasons)
    return Decision(next(iter(each)).step, verdict, False, reasons, risk, quality)


def recommend_together(
    facts: Mapping[str, Sequence[StepFacts]], contexts: Mapping[str, Context], budgets: Budgets
) -> Recommendation:
    """Return the step to release of three or more trainings: the rule of ``recommend``, to be passed in every pair."""
    for pair, context in contexts.items():
        closed = bars(context, budgets)
        if closed is not None:
            return replace(closed, sentence=f"{pair}: {closed.sentence}")
    by_step = [dict(zip(facts, each, strict=True)) for each in zip(*facts.values(), strict=True)]
    decisions = [
        judge_together({pair: judge(f, contexts[pair], budgets) for pair, f in each.items()}) for each in by_step
    ]
    passed, stopped = walk(decisions)
    good = [with_mean_kid(f) for f, d in zip(by_step, decisions, strict=True) if d in passed and d.quality == "good"]
    if not good:
        return no_release(decisions, stopped)
    best = earliest_good(good)
    context = next(iter(contexts.values()))
    end = f" The first that does not pass is step {stopped.step:,}: {stopped.risk}." if stopped else ""
    said = (
        f"Release step {best.step:,} ({what_is_released(context)}): in every pair of trainings all that was judged is "
        f"shown small up to step {passed[-1].step:,}, and its quality is not shown to be worse than that of any of "
        f"them.{end} {not_judged(context)} {NOT_LOOKED_FOR}"
    )
    return Recommendation("found", best.step, said)


def with_mean_kid(facts: Mapping[str, StepFacts]) -> StepFacts:
    """Return the facts of one step with the mean KID of all pairs, none where any lacks it."""
    known = [f.kid for f in facts.values() if f.kid is not None]
    first = next(iter(facts.values()))
    return replace(first, kid=np.mean(known, axis=0) if len(known) == len(facts) else None)
