"""What a person reads beside the decision: who is exposed, and what to do now (docs/statistics.md 11).

Pure functions of decisions and what they rest on. The sentences stand in run.json, and every report shows them as they
are. They name no image: names stand in tables, where they can be hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, isfinite

from auditor.config import Budgets
from auditor.measuring.facts import ONE_SIDED, Context, Copying, StepFacts
from auditor.measuring.membership import ADVISED
from auditor.measuring.verdict import FOUND, Decision, Recommendation, releases_weights, walk

PRIVATE = "Differentially private training bounds what any single image can do, at a price in quality."
LESS = "fewer passes over each image, a smaller network, or augmentation"
GOES_ON = "it goes on from those that are there"
KNOWN = {  # what is said of membership, by its outcome
    "hidden": "whom the networks were trained on is shown to be hidden",
    "exposed": "the networks give away whom they were trained on",
    "undecided": "whether the networks give away whom they were trained on is undecided",
}
NO_TRAINING = "Nothing is known of who is exposed: no training images were given."


def advice(
    recommendation: Recommendation,
    decisions: Sequence[Decision],
    facts: Sequence[StepFacts],
    context: Context,
    budgets: Budgets,
) -> dict[str, str]:
    """Return the sentences that every report begins with: ``exposed`` and ``what_now``.

    They speak of the step that is recommended, or else of the one that stopped the walk, or the first with a risk.
    """
    at = told_of(recommendation, decisions)
    step = next(f for f in facts if f.step == at.step)
    return {
        "exposed": told_or_doubted(at, step, context),
        "what_now": " ".join(what_now(recommendation, decisions, at, step, context, budgets)),
    }


def advice_of_pairs(
    recommendation: Recommendation,
    decisions: Sequence[Decision],
    facts: Mapping[str, Sequence[StepFacts]],
    contexts: Mapping[str, Context],
    budgets: Budgets,
) -> dict[str, str]:
    """Return the same of three or more trainings: who is exposed by pair, and what to do by the pair that is worst.

    That is the pair of which the step the decision is about has most images reproduced, or named.
    """
    at = told_of(recommendation, decisions)
    steps = {pair: next(f for f in each if f.step == at.step) for pair, each in facts.items()}
    worst = max(steps, key=lambda pair: (most_reproduced(steps[pair]), len(named_in(steps[pair]))))
    now = what_now(recommendation, decisions, at, steps[worst], contexts[worst], budgets)
    said = [f"{pair}: {told_or_doubted(at, each, contexts[pair])}" for pair, each in steps.items()]
    return {"exposed": " ".join(said), "what_now": " ".join(now)}


def told_of(recommendation: Recommendation, decisions: Sequence[Decision]) -> Decision:
    """Return the decision that the sentences are about."""
    chosen = next((d for d in decisions if d.step == recommendation.step), None)
    risky = next((d for d in decisions if d.risk in FOUND), None)
    return chosen or walk(decisions)[1] or risky or decisions[-1]


# ---------------------------------------------------------------------------
# Who is exposed
# ---------------------------------------------------------------------------


def told_or_doubted(at: Decision, facts: StepFacts, context: Context) -> str:
    """Say who is exposed, or why no number tells; what was found all the same is told."""
    doubted = (*context.distrust, *context.not_exchangeable, *context.not_the_halves)
    return f"Not told: {doubted[0]}" if doubted and at.risk not in FOUND else who_is_exposed(facts, context)


def who_is_exposed(facts: StepFacts, context: Context) -> str:
    """Say how many people's images are touched at one step, at what rate, and how much the worst of them.

    Images that belong together (one patient, near-duplicates) are one group; without such groups each is a person.
    """
    parts = [*what_is_reproduced(facts.copying), *who_is_named(facts), *where_most_lean(facts, context)]
    if facts.membership is not None:
        listed = facts.membership.listed
        parts.append(KNOWN[facts.membership.outcome] + (f" ({listed:,} images are listed)" if listed else ""))
    if not parts:
        return NO_TRAINING
    return f"At step {facts.step:,}: {'; '.join(parts)}."


def what_is_reproduced(copying: Mapping[str, Copying]) -> Iterator[str]:
    """Yield what samples reproduce, in the space in which it is most."""
    if not copying:
        return
    space, worst = max(copying.items(), key=lambda item: beyond(item[1]))
    if not worst.pairs:
        yield (
            f"{worst.hits:,} of {worst.n:,} samples ({worst.hits / worst.n:.2%}) are flagged as copies, of "
            f"{people(worst.sources)} ({space}; of held-out images {worst.control_hits:,} of {worst.control_n:,})"
        )
    elif beyond(worst) <= 0:
        excluded = max(each.rate_excluded for each in copying.values())
        yield (
            "nobody's image is reproduced more often by the twin that saw it (in every space more than "
            f"{max(excluded, 0):.2%} of samples is excluded)"
        )
    else:
        one = f", one of them by {worst.most_of_one:,}" if len(worst.revealed) > 1 and worst.most_of_one else ""
        yield (
            f"{people(len(worst.revealed))} are reproduced only by the twin that saw them, by {worst.own_only:,} of "
            f"{worst.pairs:,} samples ({worst.own_only / worst.pairs:.2%}; {space}; the other way "
            f"{worst.twin_only:,}){one}"
        )


def who_is_named(facts: StepFacts) -> Iterator[str]:
    """Yield how many images can be named from the samples alone."""
    if facts.named:
        n = len(named_in(facts))
        yield (
            f"samples lead back to {people(n)} by name (of names at most 10% are false)"
            if n
            else ("samples lead back to nobody by name")
        )


def where_most_lean(facts: StepFacts, context: Context) -> Iterator[str]:
    """Yield how many samples land on their own half, where it is most: the worst of the spaces."""
    whose = "that was trained on, were as many held out" if context.single else "of their own half"
    if facts.lean:
        space, most = max(facts.lean.items(), key=lambda item: item[1].value - item[1].reference)
        yield (
            f"{most.value:.0%} of samples are nearest to an image {whose} ({space}; {most.reference:.0%} of "
            "a smooth model's, 50% without any lean)"
        )


def people(n: int) -> str:
    """Say of how many people images are, a group of images being one."""
    return "images of 1 person" if n == 1 else f"images of {n:,} people"


def named_in(facts: StepFacts) -> set[tuple[str, str]]:
    """Return the images that are named, in any space."""
    return {image for each in facts.named.values() for image in each.images}


def beyond(copying: Copying) -> int:
    """Return how many samples are flagged only by the twin that saw the image, beyond the other way round."""
    return copying.own_only - copying.twin_only if copying.pairs else copying.hits


def most_reproduced(facts: StepFacts) -> int:
    """Return the most that samples reproduce in any space, beyond the control."""
    return max(map(beyond, facts.copying.values()), default=0)


# ---------------------------------------------------------------------------
# What now
# ---------------------------------------------------------------------------


def what_now(
    recommendation: Recommendation,
    decisions: Sequence[Decision],
    at: Decision,
    facts: StepFacts,
    context: Context,
    budgets: Budgets,
) -> Iterator[str]:
    """Yield what to do, by outcome; never only to accept more."""
    if recommendation.status == "found":
        yield "Release what was judged, and nothing else: a model that is trained on, or on other images, was not."
        if not releases_weights(context):
            yield "Keep the weights to yourself."
        return
    if not (facts.copying or facts.lean or facts.loss or facts.membership):
        yield "Give the training images of both halves and held-out images (--train-a, --train-b, --heldout)."
        return
    mended = list(to_mend(context, budgets))
    yield from mended
    if mended and at.risk not in FOUND:
        return
    if all(d.quality == "underfit" for d in decisions) and at.risk not in FOUND:
        yield "Train on, and save checkpoints densely: none is any good yet."
    elif at.risk in FOUND:
        yield from after_finding(at, decisions, context)
    elif at.quality == "overfit" and at.risk == "shown small":
        yield (
            f"Save and audit denser checkpoints before step {at.step:,}, where the held-out loss is least; or train on "
            "more images, or with augmentation."
        )
    else:
        yield f"To settle step {at.step:,}: {'; '.join(to_settle(facts, context, budgets)) or 'see its reasons'}."
        yield PRIVATE


def to_mend(context: Context, budgets: Budgets) -> Iterator[str]:
    """Yield what has to be mended before anything can be judged."""
    if context.distrust:
        yield "First find out why a control fails: what was given is not what it is taken for, or the tool errs."
    if context.single and (context.not_the_halves or context.not_exchangeable):
        yield "Give the very images that were trained on, and images held out of the same deal, in a new --out."
        return
    if context.not_the_halves:
        yield "Give each training the very images that it was trained on (--train-a, --train-b), in a new --out."
    if context.not_exchangeable:
        yield "Deal all images anew, at random and by person (audit split), and train twins on these halves."
    if 0 < context.n_seeds < budgets.least_seeds:
        yield f"Draw {budgets.least_seeds:,} seeds (--n-samples {budgets.least_seeds}; {GOES_ON})."


def after_finding(at: Decision, decisions: Sequence[Decision], context: Context) -> Iterator[str]:
    """Yield the ways out of a risk that was found."""
    earlier = [d.step for d in decisions if d.step < at.step]
    denser = (
        f"save and audit denser checkpoints between step {earlier[-1]:,} and {at.step:,}"
        if earlier
        else f"save and audit checkpoints before step {at.step:,}"
    )
    if at.risk == "memorizing":
        yield (
            "Look at the images that are shown; de-duplicate the training images, deal anew and train again, on more "
            f"images, or with {LESS}; or {denser}."
        )
    elif at.risk == "biased":
        yield f"Train on more or other images, or with {LESS}; or {denser}."
    else:
        yield f"Release samples alone (--release samples), or {denser}; or train on more images, or with {LESS}."
    if not context.n_seeds:
        yield "An audit with samples (without --quick) tells what they show of training images."
    yield PRIVATE


def to_settle(facts: StepFacts, context: Context, budgets: Budgets) -> Iterator[str]:
    """Yield what would settle an undecided step, by what keeps it open."""
    if not context.n_seeds:
        yield "audit with samples (without --quick)"
    elif not facts.lean:
        yield "audit a twin beside it, trained alike on another half (--ckpts-b, --train-b)"
    if not context.with_heldout:
        yield f"give held-out images, {ADVISED:,} of them (--heldout)"
    yield from more_seeds(facts, budgets)
    if any(not each.shared_is_rare(budgets) for each in facts.copying.values()):
        yield "de-duplicate: both halves hold images that samples reproduce; deal anew and train again"
    if named_in(facts) or (most_reproduced(facts) > 0 and not all(c.is_rare(budgets) for c in facts.copying.values())):
        yield "look at the images that samples lead back to (named.parquet), and leave out who must not be shown"
    if not releases_weights(context):
        return
    if facts.loss is not None and not facts.loss.is_safe(budgets):
        yield f"the lean of the losses takes no seeds, but an earlier checkpoint, more images, or {LESS}"
    if facts.membership is None or not facts.membership.hidden:
        yield (
            f"ask the networks about {ADVISED:,} images of each half and as many held-out ones (--loss-images "
            f"{ADVISED}, --heldout), or release samples alone (--release samples)"
        )


def more_seeds(facts: StepFacts, budgets: Budgets) -> Iterator[str]:
    """Yield how many seeds settle lean and copies, and where no number does."""
    leans = [each.seeds_needed(budgets) for each in facts.lean.values() if not each.is_safe(budgets)]
    copies = [seeds_to_show_rare(each, budgets) for each in facts.copying.values() if not each.is_rare(budgets)]
    needed = max((n for n in (*leans, *copies) if n is not None), default=0)
    if needed:
        yield f"draw about {needed:,} seeds (--n-samples {needed}; {GOES_ON})"
    if None in leans:
        yield f"train on more images, or with {LESS}: no number of seeds shows the lean to be small"
    if None in copies:
        yield f"no number of seeds shows copies to be rare at this rate: de-duplicate, or train with {LESS}"


def seeds_to_show_rare(copying: Copying, budgets: Budgets) -> int | None:
    """Return the seeds a twin at which copies would be shown rare (4.4) if they came on as they did, or None.

    From rate + z sqrt(c m + 3) / m <= accepted for m pairs, c of them flagged by one twin alone; what is accepted
    depends on the number of seeds.
    """
    if not copying.pairs:
        return None
    rate, apart = (
        (copying.own_only - copying.twin_only) / copying.pairs,
        (copying.own_only + copying.twin_only) / copying.pairs,
    )
    seeds = copying.n / 2
    for accepted, low, high in (
        (budgets.copies_beyond_twin_few, 0, budgets.many_seeds),
        (budgets.copies_beyond_twin, budgets.many_seeds, float("inf")),
    ):
        room = accepted - rate
        if room <= 0:
            continue
        z = ONE_SIDED**2
        pairs = (z * apart + (z**2 * apart**2 + 12 * z * room**2) ** 0.5) / (2 * room**2)
        needed = max(ceil(pairs * seeds / copying.pairs), low)
        if isfinite(pairs) and needed < high:
            return needed
    return None
