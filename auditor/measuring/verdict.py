"""Facts to decisions: two words and one verdict per checkpoint, onsets of risks, one recommendation.

The rules of docs/statistics.md 6.5, 10 and 11. Everything here is a pure function of
a few numbers per checkpoint (auditor/measuring/facts.py); every reason is a sentence that carries them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from auditor.config import Budgets
from auditor.measuring.facts import Context, Copying, StepFacts
from auditor.records import RISKS

NO_SAMPLES = "No samples were drawn (--quick): whether they lean on training images or copy them is not known."
NO_HELDOUT = "Without held-out images nothing can be shown safe (--heldout)."
NO_TWIN = "Without training images, and those of a twin or held-out ones, nothing can be shown safe."
NO_MEMBERSHIP = (
    "Membership cannot be judged without losses on training and on held-out images: give both, and checkpoints; or, "
    "where samples alone are to be released, --release samples."
)
NOT_LOOKED_FOR = (
    "Not looked for: parts under a quarter of the picture, parts moved, shifts beyond 3 px in 28, mixtures below one "
    "half."
)
FOUND = RISKS[:3]
NAMED = 5  # images that a sentence names


@dataclass(frozen=True)
class Decision:
    """One row of verdicts.parquet: whether images are at risk, whether the model is any good, and both in one word."""

    step: int
    verdict: str  # memorizing, biased, underfit, overfit, generalizing or undecided
    recommended: bool
    reasons: tuple[str, ...]
    risk: str = "undecided"  # one of RISKS
    quality: str = "unknown"  # one of QUALITIES


@dataclass(frozen=True)
class Recommendation:
    """The step to release, or why there is none."""

    status: str  # found, none, undecided
    step: int  # -1 if none
    sentence: str


# ---------------------------------------------------------------------------
# One checkpoint (10)
# ---------------------------------------------------------------------------


def judge(facts: StepFacts, context: Context, budgets: Budgets) -> Decision:
    """Return the decision on one checkpoint: its risk, its quality, and the verdict that follows from both (10).

    A risk that is found comes first; then what makes the model useless; generalizing takes a risk that is shown
    small and a good quality.
    """
    risk, why = risk_of(facts, context, budgets)
    quality, lacking = quality_of(facts, context, budgets)
    if risk in FOUND:
        return Decision(facts.step, "memorizing" if risk == "memorizing" else "biased", False, why, risk, quality)
    if barred(context, budgets):
        return Decision(facts.step, "undecided", False, why, risk, quality)
    if quality in ("underfit", "overfit"):
        return Decision(facts.step, quality, False, lacking, risk, quality)
    verdict = "generalizing" if risk == "shown small" and quality == "good" else "undecided"
    return Decision(facts.step, verdict, False, why, risk, quality)


def risk_of(facts: StepFacts, context: Context, budgets: Budgets) -> tuple[str, tuple[str, ...]]:
    """Return the first of ``RISKS`` that holds, with its reasons.

    Where the run cannot be trusted, or the halves may differ, only copying is told; where these are not the halves
    that were trained on, exposure, too, which does not rest on them alone.
    """
    copied = copy_reasons(facts, budgets)
    if copied:
        return "memorizing", tuple(copied)
    exposed = exposure_reasons(facts, context)
    closed = barred(context, budgets)
    if closed:
        trusted = not context.distrust and not context.not_exchangeable
        return ("exposed", tuple(exposed)) if exposed and trusted else ("undecided", closed)
    biased = bias_reasons(facts, context, budgets)
    also = [reproduced_sentence(facts, budgets)] if context.single and reproduced(facts, budgets) else []
    if biased:
        return "biased", (*biased, *also)
    if exposed:
        return "exposed", (*exposed, *also)
    unsafe = unsafe_reasons(facts, context, budgets)
    if unsafe:
        return "undecided", tuple(unsafe)
    return "shown small", tuple(safe_sentences(facts, context, budgets))


def quality_of(facts: StepFacts, context: Context, budgets: Budgets) -> tuple[str, tuple[str, ...]]:
    """Return one of ``QUALITIES``, with reasons: underfit by any rule that can be judged, overfit where losses are."""
    if facts.underfit:
        return "underfit", facts.underfit
    if context.loss and facts.step > max(context.loss) and facts.loss_rise > budgets.overfit_rise:
        rise = f"The held-out loss is at least {facts.loss_rise:.1%} above its least value, before this step."
        return "overfit", (rise,)
    if not facts.fit_judged:
        return "unknown", ("Whether the model is any good cannot be judged without held-out images.",)
    return "good", () if context.loss else ("Overfit not judged: no losses.",)


def barred(context: Context, budgets: Budgets) -> tuple[str, ...]:
    """Return why no verdict but memorizing (and exposed) can be given on any checkpoint, in sentences."""
    few: tuple[str, ...] = ()
    if 0 < context.n_seeds < budgets.least_seeds:
        few = (f"{context.n_seeds} seeds are fewer than the {budgets.least_seeds} that a verdict needs.",)
    return (*context.distrust, *context.not_exchangeable, *context.not_the_halves, *few)


def copy_reasons(facts: StepFacts, budgets: Budgets) -> list[str]:
    """Return what shows that samples copy training images (4.3)."""
    return [
        f"Copies: {each.sentence(space)}."
        for space, each in facts.copying.items()
        if each.is_copy(budgets) and each.counts(space, budgets)
    ]


def bias_reasons(facts: StepFacts, context: Context, budgets: Budgets) -> list[str]:
    """Return what shows that samples, or losses where weights are released, lean beyond a smooth model."""
    reasons = [
        f"Leans: {each.sentence(space, budgets)}." for space, each in facts.lean.items() if each.is_bias(budgets)
    ]
    reasons += [f"Leans: {each.sentence(space)}." for space, each in facts.tails.items() if each.is_bias(budgets)]
    reasons += facts.leaning_classes
    # without a located minimum of the twin distance nothing excuses a lean of the losses
    diverged = not context.divergence or facts.step > max(context.divergence)
    if releases_weights(context) and facts.loss is not None and facts.loss.is_bias(budgets) and diverged:
        reasons.append(f"Leans: {facts.loss.sentence(budgets)}.")
    return reasons


def exposure_reasons(facts: StepFacts, context: Context) -> list[str]:
    """Return what shows that the weights give away who was trained on; none where only samples are released (5.4)."""
    if not releases_weights(context) or facts.membership is None:
        return []
    return list(facts.membership.exposed)


def unsafe_reasons(facts: StepFacts, context: Context, budgets: Budgets) -> list[str]:
    """Return what keeps this checkpoint from being shown safe, none if it is."""
    reasons = [reproduced_sentence(facts, budgets)] if reproduced(facts, budgets) else []
    if not context.n_seeds:
        reasons.append(NO_SAMPLES)
    elif not facts.lean:
        reasons.append(NO_TWIN)
    if not context.with_heldout:
        reasons.append(NO_HELDOUT)
    for space, each in facts.lean.items():
        if not each.is_safe(budgets):
            needed = each.seeds_needed(budgets)
            more = f"about {needed:,} seeds would settle it" if needed else "more seeds cannot settle it"
            reasons.append(f"Lean not shown small: {each.sentence(space, budgets)}; {more}.")
    for space, copying in facts.copying.items():
        if copying.counts(space, budgets):
            reasons += copies_unsafe(space, copying, budgets)
    reasons += [f"Named: {each.sentence(space)}." for space, each in facts.named.items() if each.images]
    if releases_weights(context):
        if facts.loss is not None and not facts.loss.is_safe(budgets):
            reasons.append(f"Loss lean not shown small: {facts.loss.sentence(budgets)}; more seeds do not change it.")
        if facts.membership is None:
            reasons.append(NO_MEMBERSHIP)
        elif not facts.membership.hidden:
            reasons += facts.membership.missing
    return reasons


def copies_unsafe(space: str, copying: Copying, budgets: Budgets) -> Iterator[str]:
    """Yield why copies are not shown rare in a space (4.4)."""
    if not copying.is_rare(budgets):
        yield f"Copies not shown rare: {copying.rare_sentence(space, budgets)}."
    if not copying.shared_is_rare(budgets):
        yield (
            f"Images that both halves hold are reproduced in {space}, by {copying.shared_hits} of {copying.n} samples, "
            f"beside {copying.shared_control_hits} of {copying.control_n} held-out images: de-duplicate, deal anew, "
            "train again."
        )


def reproduced(facts: StepFacts, budgets: Budgets) -> tuple[str, ...]:
    """Return the images, as half/id, that only the twin that saw them reproduces, in the space where they are most.

    Of spaces in which this is not shown rare, and in which the twin that saw them flags more; of a single training,
    those that more of its samples are flagged on than held-out images are on any.
    """
    of = [
        each.revealed
        for space, each in facts.copying.items()
        if not each.is_rare(budgets) and flags_more(each) and each.counts(space, budgets)
    ]
    return max(of, key=len, default=())


def flags_more(copying: Copying) -> bool:
    """Tell whether the own samples are flagged more often than their control."""
    if copying.pairs:
        return copying.own_only > copying.twin_only
    return copying.hits * copying.control_n > copying.control_hits * copying.n


def reproduced_sentence(facts: StepFacts, budgets: Budgets) -> str:
    """Say how many images only the twin that saw them reproduces, which, and how many a finding takes."""
    images = reproduced(facts, budgets)
    if not any(each.pairs for each in facts.copying.values()):
        more = "" if len(images) <= NAMED else f" and {len(images) - NAMED} more"
        most = max((each for each in facts.copying.values() if each.revealed == images), key=lambda each: each.hits)
        return (
            f"{len(images)} images are reproduced by {most.hits} of {most.n} samples, one by {most.most_of_one}: "
            f"{', '.join(images[:NAMED])}{more}. (Of {most.control_n} held-out images {most.control_hits} are flagged.)"
        )
    needed = max(each.groups_needed for each in facts.copying.values())
    more = "" if len(images) <= NAMED else f" and {len(images) - NAMED} more"
    return (
        f"{len(images)} images are reproduced only by the twin that saw them: {', '.join(images[:NAMED])}{more}. "
        f"(A finding takes {needed} distinct images here, all by their own twin.)"
    )


def releases_weights(context: Context) -> bool:
    """Return whether the weights are to be released; where it was not said, they are."""
    return context.release != "samples"


def safe_sentences(facts: StepFacts, context: Context, budgets: Budgets) -> list[str]:
    """Return the numbers behind "shown small"."""
    sentences = [each.sentence(space, budgets) for space, each in facts.lean.items()]
    if facts.loss is not None and releases_weights(context):
        sentences.append(facts.loss.sentence(budgets))
    sentences += [each.rare_sentence(s, budgets) for s, each in facts.copying.items() if each.counts(s, budgets)]
    hidden = [facts.membership.shown] if facts.membership is not None and releases_weights(context) else []
    return [*(f"Shown small: {each}." for each in sentences), *filter(None, hidden)]


# ---------------------------------------------------------------------------
# The series (11)
# ---------------------------------------------------------------------------


def recommend(facts: Sequence[StepFacts], context: Context, budgets: Budgets) -> Recommendation:
    """Walk forward over the checkpoints, stop at the first that is neither underfit nor shown small (11).

    Among those passed whose quality is good, the earliest whose KID is not significantly worse than the best. What an
    attack at 10 % false positives finds stands behind it, whatever is released.
    """
    found = walked(facts, context, budgets)
    known = [each for each in facts if each.membership is not None and each.membership.headline]
    at = [each for each in known if found.step in (each.step, -1)][:1]  # of the step to release, else the first
    headlines = [f.membership.headline for f in at if f.membership]
    said, end, _ = found.sentence.partition(f" {NOT_LOOKED_FOR}")  # a release ends with what was not looked for
    return replace(found, sentence=" ".join([said, *headlines]) + end)


def walked(facts: Sequence[StepFacts], context: Context, budgets: Budgets) -> Recommendation:
    """Return the recommendation without what an attack finds that makes no verdict."""
    decisions = [judge(each, context, budgets) for each in facts]
    closed = bars(context, budgets, decisions)
    if closed is not None:
        return closed
    if not context.n_seeds:
        return from_networks(decisions)
    passed, stopped = walk(decisions)
    good = [f for f, d in zip(facts, decisions, strict=True) if d in passed and d.quality == "good"]
    if good:
        best = earliest_good(good)
        return Recommendation("found", best.step, release_sentence(best, passed, stopped, context, budgets))
    return no_release(decisions, stopped)


def walk(decisions: Sequence[Decision]) -> tuple[list[Decision], Decision | None]:
    """Return the checkpoints that are passed, and the one that stops the walk; underfit ones do neither."""
    passed: list[Decision] = []
    for each in decisions:
        if each.quality == "underfit":
            continue
        if each.risk != "shown small":
            return passed, each
        passed.append(each)
    return passed, None


def bars(context: Context, budgets: Budgets, decisions: Sequence[Decision] = ()) -> Recommendation | None:
    """Return why nothing can be recommended at all, or None; what was found all the same is told."""
    found = [f" Step {each.step:,} is {each.risk} all the same." for each in decisions if each.risk in FOUND][:1]
    end = "".join(found)
    if context.distrust:
        return Recommendation("undecided", -1, "The run is not to be trusted: " + " ".join(context.distrust) + end)
    closed = (*context.not_exchangeable, *context.not_the_halves)
    if closed:
        return Recommendation("undecided", -1, " ".join(closed) + end)
    if 0 < context.n_seeds < budgets.least_seeds:
        said = f"{context.n_seeds} seeds are too few: give {budgets.least_seeds}."
        return Recommendation("undecided", -1, said + end)
    return None


def from_networks(decisions: Sequence[Decision]) -> Recommendation:
    """Say what the networks alone tell: from where on a checkpoint is out, and that none is shown safe."""
    said = "Nothing is recommended without samples."
    risky = next((each for each in decisions if each.risk in FOUND), None)
    overfit = next((each for each in decisions if each.quality == "overfit"), None)
    if risky is not None:
        said += f" Do not release step {risky.step:,}, the first found {risky.risk}, or a later one: {risky.reasons[0]}"
    elif overfit is not None:
        said += f" Do not release step {overfit.step:,}, the first found overfit, or a later one."
    else:
        said += " The networks show no step that leans on its training images: no finding is no proof."
    return Recommendation("undecided", -1, said + " An audit with samples (without --quick) can recommend a step.")


def earliest_good(passed: Sequence[StepFacts]) -> StepFacts:
    """Return the earliest whose KID is not significantly worse than the best of those passed (paired 95 %)."""
    known = [(f, f.kid) for f in passed if f.kid is not None and np.isfinite(f.kid).all()]
    if not known:
        return passed[-1]
    best, least = min(known, key=lambda each: each[1].mean())
    for each, kid in known:
        difference = kid - least
        se = difference.std(ddof=1) / np.sqrt(len(difference))
        if difference.mean() <= 1.96 * se:
            return each
    return best


def release_sentence(
    best: StepFacts, passed: Sequence[Decision], stopped: Decision | None, context: Context, budgets: Budgets
) -> str:
    """Say what is released, what was judged, and what was not."""
    worst = max(best.lean.items(), key=lambda item: item[1].value - item[1].safe_margin(budgets))
    judged = "lean, copies and the losses" if releases_weights(context) else "lean and copies of samples"
    end = f" The first that does not pass is step {stopped.step:,}: {stopped.risk}." if stopped else ""
    return (
        f"Release step {best.step:,} ({what_is_released(context)}): up to step {passed[-1].step:,} {judged} are shown "
        f"small in {', '.join(best.lean)} (the largest lean: {worst[1].sentence(worst[0], budgets)}; "
        f"{expected_copies(best, context)}), and its quality is not shown to be worse than that of any of them."
        f"{end} {not_judged(context)} {NOT_LOOKED_FOR}"
    )


def final_sentence(name: str, facts: StepFacts, context: Context, budgets: Budgets) -> str:
    """Say that the final model may be released: which file, by what, and what was not judged."""
    worst = max(facts.lean.items(), key=lambda item: item[1].value - item[1].safe_margin(budgets))
    judged = "lean, copies, losses and membership" if releases_weights(context) else "lean and copies of samples"
    whole = "" if releases_weights(context) else " Samples only; the weights themselves must not be released."
    return (
        f"Release the final model {name}: {judged} are shown small in {', '.join(facts.lean)} (the largest lean: "
        f"{worst[1].sentence(worst[0], budgets)}; {expected_copies(facts, context)}).{whole} {not_judged(context)} "
        f"{NOT_LOOKED_FOR}"
    )


def what_is_released(context: Context) -> str:
    """Say what may be released, and that it is a twin's, or this training's and no other's."""
    whose, other = ("this training", "a model trained anew") if context.single else ("the twins", "your final model")
    which = f"{whose}'{'s' * context.single} {context.weights} weights" if context.weights else whose
    if not releases_weights(context):
        return f"samples of {which}, not of {other}; the weights themselves must not be released"
    assumed = "" if context.release else "; assumed, for --release was not given"
    return f"{which}, not {other}{assumed}"


def expected_copies(facts: StepFacts, context: Context) -> str:
    """Say which rate of copies is excluded, in the space where it is largest, and how many that may be."""
    space, worst = max(facts.copying.items(), key=lambda item: item[1].rate_excluded)
    rate = max(worst.rate_excluded, 0.0)
    said = f"more than {rate:.2%} copies are excluded in every space, the most in {space}"
    if context.release_size is None:
        return said
    return f"{said}: at most {int(np.ceil(rate * context.release_size)):,} among {context.release_size:,} samples"


def not_judged(context: Context) -> str:
    """Say what took no part in the decision."""
    left = [] if releases_weights(context) else ["membership"]
    left += [] if context.classes_judged else ["single classes and groups"]
    return f"Not judged: {' and '.join(left)}." if left else "Membership and classes were judged, too."


def no_release(decisions: Sequence[Decision], stopped: Decision | None) -> Recommendation:
    """Say that no checkpoint qualifies or that it is undecided, and what was found at underfit ones."""
    early = next((each for each in decisions if each.quality == "underfit" and each.risk in FOUND), None)
    beside = f" Already step {early.step:,}, which is underfit, is {early.risk}: {early.reasons[0]}" if early else ""
    if stopped is None:
        candidates = [each for each in decisions if each.quality != "underfit"]
        if not candidates:
            said = f"Every checkpoint is underfit{', and risks are found all the same' if early else ''}."
            return Recommendation("none", -1, said + beside)
        said = "Release none of these: every checkpoint that is not underfit is overfit."
        return Recommendation("none", -1, said + beside)
    where = f"step {stopped.step:,}, the first that is neither underfit nor shown small,"
    if stopped.risk in FOUND:
        said = f"Release none of these: already {where} is {stopped.risk}. {stopped.reasons[0]}"
        return Recommendation("none", -1, said + beside)
    said = f"Release none of these yet: {where} is undecided. {stopped.reasons[0]}"
    return Recommendation("undecided", -1, said + beside)


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
