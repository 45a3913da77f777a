"""One verdict and one recommendation for three or more trainings, from those of every pair of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from auditor.config import Budgets
from auditor.measuring.facts import Context, StepFacts
from auditor.measuring.verdict import Decision, Recommendation, bars, earliest_good, no_release, passes


def judge_together(decisions: Mapping[str, Decision]) -> Decision:
    """Return the verdict on one checkpoint of three or more trainings, from those of every pair of them.

    The first rung that any pair stands on; generalizing takes all pairs.
    """
    step = next(iter(decisions.values())).step
    said = {pair: [f"{pair}: {reason}" for reason in each.reasons] for pair, each in decisions.items()}
    for rung in ("memorizing", "underfit", "overfit", "biased"):
        found = [reason for pair, each in decisions.items() if each.verdict == rung for reason in said[pair]]
        if found:
            return Decision(step, rung, False, tuple(found))
    open_ = [reason for pair, each in decisions.items() if each.verdict != "generalizing" for reason in said[pair]]
    if open_:
        return Decision(step, "undecided", False, tuple(open_))
    return Decision(step, "generalizing", False, tuple(reason for reasons in said.values() for reason in reasons))


def recommend_together(
    facts: Mapping[str, Sequence[StepFacts]], contexts: Mapping[str, Context], budgets: Budgets
) -> Recommendation:
    """Return the step to release of three or more trainings: the rule of ``recommend``, to be passed in every pair."""
    for pair, context in contexts.items():
        barred = bars(context, budgets)
        if barred is not None:
            return replace(barred, sentence=f"{pair}: {barred.sentence}")
    by_step = [dict(zip(facts, each, strict=True)) for each in zip(*facts.values(), strict=True)]
    candidates = [each for each in by_step if not any(f.underfit for f in each.values())]
    if not candidates:
        return Recommendation("none", -1, "Every checkpoint is underfit in some pair of trainings.")
    passed: list[StepFacts] = []
    stopped = ""
    for each in candidates:
        failing = [pair for pair, f in each.items() if not passes(f, contexts[pair], budgets)]
        if failing:
            step = each[failing[0]].step
            stopped = f" The first that does not pass is step {step:,} ({', '.join(failing)})."
            break
        qualities = [f.quality for f in each.values()]
        known = all(q is not None for q in qualities)
        passed.append(replace(each[next(iter(each))], quality=np.mean(qualities, axis=0) if known else None))
    if passed:
        best = earliest_good(passed)
        said = f"Release step {best.step:,}: in every pair of trainings all risks up to step {passed[-1].step:,} are "
        said += "shown to be within their budgets, and its quality is not shown to be worse than that of any of them."
        return Recommendation("found", best.step, said + stopped)
    pair = failing[0]
    alone = no_release(candidates[0][pair], [f[pair] for f in candidates], contexts[pair], budgets)
    return replace(alone, sentence=f"{alone.sentence} (Of the trainings {pair}.)")
