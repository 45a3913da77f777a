"""Estimates to decisions: one verdict per checkpoint, onsets of bias and copying, one recommendation.

The rules of docs/statistics.md 6.1, 6.5, 10 and 11. Everything here is a pure function of
a few numbers per checkpoint; every reason is a sentence that carries them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auditor.config import Budgets
from auditor.measuring.facts import ONE_SIDED, Context, Lean, StepFacts

NO_SAMPLES = "No samples were drawn (--quick): whether they lean on training images or copy them is not known."
NEVER_RELEASED = ("memorizing", "overfit")


@dataclass(frozen=True)
class Decision:
    """One row of verdicts.parquet."""

    step: int
    verdict: str
    recommended: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Recommendation:
    """The step to release, or why there is none."""

    status: str  # found, none, undecided
    step: int  # -1 if none
    sentence: str


def judge(facts: StepFacts, context: Context, budgets: Budgets) -> Decision:
    """Return the verdict on one checkpoint: the first rung of the ladder that applies (10)."""
    copied = [
        f"Copies: {each.sentence(space)}."
        for space, each in facts.copying.items()
        if each.is_copy(budgets) and each.counts(space, budgets)
    ]
    if copied:
        return Decision(facts.step, "memorizing", False, tuple(copied))
    if context.distrust or context.not_exchangeable:
        return Decision(facts.step, "undecided", False, (*context.distrust, *context.not_exchangeable))
    if 0 < context.n_seeds < budgets.least_seeds:
        reason = f"{context.n_seeds} seeds are fewer than the {budgets.least_seeds} that a verdict needs."
        return Decision(facts.step, "undecided", False, (reason,))
    if facts.underfit:
        return Decision(facts.step, "underfit", False, facts.underfit)
    if context.loss and facts.step > max(context.loss) and facts.loss_rise > budgets.overfit_rise:
        rise = f"The held-out loss is at least {facts.loss_rise:.1%} above its least value, before this step."
        return Decision(facts.step, "overfit", False, (rise,))
    biased = bias_reasons(facts, context, budgets)
    unsafe = unsafe_reasons(facts, budgets) if context.n_seeds else [*attack_reasons(facts, budgets), NO_SAMPLES]
    if biased:
        return Decision(facts.step, "biased", False, tuple(biased))
    if not unsafe:
        return Decision(facts.step, "generalizing", False, tuple(safe_sentences(facts, budgets)))
    return Decision(facts.step, "undecided", False, tuple(unsafe))


def bias_reasons(facts: StepFacts, context: Context, budgets: Budgets) -> list[str]:
    """Return what shows that samples or losses lean on the own images beyond a smooth model (rule 4)."""
    reasons = [
        f"Leans: {each.sentence(space, budgets)}." for space, each in facts.lean.items() if each.is_bias(budgets)
    ]
    diverged = bool(context.divergence) and facts.step > max(context.divergence)
    if facts.loss is not None and facts.loss.is_bias(budgets) and diverged:
        reasons.append(f"Leans: {facts.loss.sentence(budgets)}.")
    return reasons


def unsafe_reasons(facts: StepFacts, budgets: Budgets) -> list[str]:
    """Return what keeps this checkpoint from being shown safe, none if it is (rule 5)."""
    if not facts.lean:
        return ["Without two trainings and the images of both halves nothing can be shown safe."]
    reasons = []
    for space, each in facts.lean.items():
        if not each.is_safe(budgets):
            needed = each.seeds_needed(budgets)
            more = f"about {needed:,} seeds would settle it" if needed else "more seeds cannot settle it"
            reasons.append(f"Lean not shown small: {each.sentence(space, budgets)}; {more}.")
    if facts.loss is not None and not facts.loss.is_safe(budgets):
        reasons.append(f"Loss lean not shown small: {facts.loss.sentence(budgets)}; more seeds do not change it.")
    reasons += [
        f"Copies not shown rare: {each.sentence(space)}."
        for space, each in facts.copying.items()
        if each.counts(space, budgets) and not each.is_safe(budgets)
    ]
    return reasons


def safe_sentences(facts: StepFacts, budgets: Budgets) -> list[str]:
    """Return the numbers behind "generalizing"."""
    sentences = [each.sentence(space, budgets) for space, each in facts.lean.items()]
    sentences += [facts.loss.sentence(budgets)] if facts.loss is not None else []
    sentences += [each.sentence(space) for space, each in facts.copying.items() if each.counts(space, budgets)]
    return [f"Shown small: {each}." for each in sentences]


def recommend(facts: Sequence[StepFacts], context: Context, budgets: Budgets) -> Recommendation:
    """Walk forward over the checkpoints that are not underfit, stop at the first that does not pass (11).

    Among those passed, the earliest whose quality is not significantly worse than the best.
    """
    barred = bars(context, budgets)
    if barred is not None:
        return barred
    if not context.n_seeds:
        return from_networks(facts, context, budgets)
    candidates = [f for f in facts if not f.underfit]
    if not candidates:
        return Recommendation("none", -1, "Every checkpoint is underfit.")
    passed: list[StepFacts] = []
    for each in candidates:
        if not passes(each, context, budgets):
            break
        passed.append(each)
    if passed:
        best = earliest_good(passed)
        said = release_sentence(best, passed, candidates, budgets)
        if judge(best, context, budgets).verdict == "biased":
            said += " Its samples do lean, significantly and more than a smooth model's, but within the accepted lean."
        return Recommendation("found", best.step, said)
    return no_release(candidates[0], candidates, context, budgets)


def bars(context: Context, budgets: Budgets) -> Recommendation | None:
    """Return why nothing can be recommended at all, or None."""
    if context.distrust:
        return Recommendation("undecided", -1, "The run is not to be trusted: " + " ".join(context.distrust))
    if context.not_exchangeable:
        return Recommendation("undecided", -1, " ".join(context.not_exchangeable))
    if 0 < context.n_seeds < budgets.least_seeds:
        return Recommendation("undecided", -1, f"{context.n_seeds} seeds are too few: give {budgets.least_seeds}.")
    return None


def from_networks(facts: Sequence[StepFacts], context: Context, budgets: Budgets) -> Recommendation:
    """Say what the networks alone tell: from where on a checkpoint is out, and that none is shown safe."""
    known = {f.step: judge(f, context, budgets).verdict for f in facts}
    out = [step for step, said in known.items() if said in ("biased", "overfit")]
    exposed = [f.step for f in facts if not f.underfit and attack_reasons(f, budgets)]
    said = "Nothing is recommended without samples."
    if out:
        found = next(f for f in facts if f.step == out[0])
        said += f" Do not release step {out[0]:,}, the first found {known[out[0]]}, or a later one"
        said += f": {found.loss.sentence(budgets)}." if found.loss is not None and known[out[0]] == "biased" else "."
    if exposed:
        first = next(f for f in facts if f.step == exposed[0])
        said += f" From step {exposed[0]:,} on membership is not shown hidden. {attack_reasons(first, budgets)[0]}"
    if not out and not exposed:
        said += " The networks show no step that leans on its training images: no finding is no proof."
    return Recommendation("undecided", -1, said + " An audit with samples (without --quick) can recommend a step.")


def passes(facts: StepFacts, context: Context, budgets: Budgets) -> bool:
    """Return whether a checkpoint is shown safe, from attacks too, and is neither memorizing nor overfit."""
    open_ = [*unsafe_reasons(facts, budgets), *attack_reasons(facts, budgets)]
    return not open_ and judge(facts, context, budgets).verdict not in NEVER_RELEASED


def attack_reasons(facts: StepFacts, budgets: Budgets) -> list[str]:
    """Return which attacks are not shown to find few members; those that were withheld are no reason (11)."""
    allowed = {0.01: budgets.attack_tpr_at_1_percent, 0.001: budgets.attack_tpr_at_1_permille}
    return [
        f"Membership not shown hidden: an attack set to flag {rate:.1%} of other images finds up to "
        f"{facts.attacks[rate]:.1%} of training images; accepted {limit:.1%}."
        for rate, limit in allowed.items()
        if facts.attacks.get(rate, 0.0) > limit
    ]


def earliest_good(passed: Sequence[StepFacts]) -> StepFacts:
    """Return the earliest whose KID is not significantly worse than the best of those passed (paired 95 %)."""
    known = [(f, f.quality) for f in passed if f.quality is not None and np.isfinite(f.quality).all()]
    if not known:
        return passed[-1]
    best, least = min(known, key=lambda each: each[1].mean())
    for each, quality in known:
        difference = quality - least
        se = difference.std(ddof=1) / np.sqrt(len(difference))
        if difference.mean() <= 1.96 * se:
            return each
    return best


def release_sentence(
    best: StepFacts, passed: Sequence[StepFacts], candidates: Sequence[StepFacts], budgets: Budgets
) -> str:
    """Say why this step is released."""
    worst = max(best.lean.items(), key=lambda item: item[1].value - item[1].safe_margin(budgets))
    beyond = [f.step for f in candidates if f.step > passed[-1].step]
    end = f" The first that does not pass is step {beyond[0]:,}." if beyond else ""
    return (
        f"Release step {best.step:,}: all risks up to step {passed[-1].step:,} are shown to be within their budgets "
        f"({worst[1].sentence(worst[0], budgets)}), and its quality is not shown to be worse than that of any of them."
        f"{end}"
    )


def no_release(first: StepFacts, candidates: Sequence[StepFacts], context: Context, budgets: Budgets) -> Recommendation:
    """Say that no checkpoint qualifies or that it is undecided, and how much lean there is."""
    over = over_budget(first, budgets)
    where = f"step {first.step:,}, the first that is not underfit,"
    found = judge(first, context, budgets)
    if found.verdict in NEVER_RELEASED:
        said = f"Release none of these: already {where} is {found.verdict}. {found.reasons[0]}"
        return Recommendation("none", -1, said)
    if over:
        return Recommendation(
            "none",
            -1,
            f"Release none of these: already {where} exceeds a budget. {over[0]}.{carried(candidates, budgets)}",
        )
    reason = [*unsafe_reasons(first, budgets), *attack_reasons(first, budgets)][0]
    said = f"Release none of these yet: {where} is not shown to be within the budgets. {reason}"
    return Recommendation("undecided", -1, said + carried(candidates, budgets))


def carried(candidates: Sequence[StepFacts], budgets: Budgets) -> str:
    """Say where the samples lean least and what budget would accept it; nothing without training images."""
    least = least_lean(candidates)
    if least is None:
        return ""
    step, space, lean = least
    needed = lean.value + ONE_SIDED * lean.se - 0.5
    return (
        f" The least lean of any candidate is at step {step:,}: own_share {lean.value:.3f} in {space}; "
        f"accepting it takes a lean budget of {needed:.3f} instead of {lean.safe_margin(budgets):.3f}."
    )


def over_budget(facts: StepFacts, budgets: Budgets) -> list[str]:
    """Return the risks whose lower bound is already above their budget."""
    over = [
        each.sentence(space, budgets)
        for space, each in facts.lean.items()
        if each.value - ONE_SIDED * each.se > 0.5 + each.safe_margin(budgets)
    ]
    if facts.loss is not None and facts.loss.low > facts.loss.bias_margin(budgets) + budgets.loss_safe_beyond_bias:
        over.append(facts.loss.sentence(budgets))
    over += [
        each.sentence(space)
        for space, each in facts.copying.items()
        if each.is_copy(budgets) and each.counts(space, budgets)
    ]
    return over


def least_lean(candidates: Sequence[StepFacts]) -> tuple[int, str, Lean] | None:
    """Return the step whose worst space leans least, with that space."""
    worst = [(f.step, *max(f.lean.items(), key=lambda item: item[1].value)) for f in candidates if f.lean]
    return min(worst, key=lambda item: item[2].value, default=None)


def risk_onset(steps: Sequence[int], safe: Sequence[bool], found: Sequence[bool]) -> tuple[str, int, int]:
    """Return status, first step not shown safe, and first of two consecutive findings or the last (6.5).

    Either end may be open (-1): nothing was found, or nothing was shown safe to begin with.
    """
    passed = [ok and not hit for ok, hit in zip(safe, found, strict=True)]  # bias may be found within what is accepted
    low = next((step for step, ok in zip(steps, passed, strict=True) if not ok), -1)
    high = -1
    for i, step in enumerate(steps):
        if found[i] and (i + 1 == len(steps) or found[i + 1]):
            high = step
            break
    if high < 0:
        return ("none" if low < 0 else "undecided"), low, high
    return ("edge" if low == steps[0] else "found"), low, high
