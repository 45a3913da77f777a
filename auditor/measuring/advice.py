"""What a person reads beside the decision: who is exposed, and what to do now (docs/statistics.md 11)."""

from __future__ import annotations

from collections.abc import Sequence

from auditor.config import Budgets
from auditor.measuring.facts import Context, StepFacts
from auditor.measuring.verdict import FOUND, Decision, Recommendation, barred, releases_weights, walk

PRIVATE = "differentially private training bounds what any single image can do, at a price in quality"
LESS = "fewer passes over each image (earlier checkpoints), a smaller network, or augmentation"


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
    doubted = context.distrust or context.not_exchangeable or context.not_the_halves
    exposed = f"Not told: {doubted[0]}" if doubted and at.risk not in FOUND else who_is_exposed(step)
    return {"exposed": exposed, "what_now": what_now(recommendation, decisions, step, context, budgets)}


def told_of(recommendation: Recommendation, decisions: Sequence[Decision]) -> Decision:
    """Return the decision that the sentences are about."""
    chosen = next((d for d in decisions if d.step == recommendation.step), None)
    risky = next((d for d in decisions if d.risk in FOUND), None)
    return chosen or walk(decisions)[1] or risky or decisions[-1]


def who_is_exposed(facts: StepFacts) -> str:
    """Say how many people's images are touched at one step, at what rate, and which most."""
    named = {image for each in facts.named.values() for image in each.images}
    parts = []
    if facts.copying:
        space, worst = max(facts.copying.items(), key=lambda item: item[1].own_only - item[1].twin_only)
        if worst.pairs:
            parts.append(
                f"{len(worst.revealed)} images are reproduced only by the twin that saw them, in {worst.own_only} of "
                f"{worst.pairs} samples ({space}; the other way {worst.twin_only})"
            )
        else:
            parts.append(
                f"{worst.hits} of {worst.n} samples are flagged as copies, of {worst.sources} images ({space})"
            )
    if facts.named:
        parts.append(f"samples lead back to {len(named)} training images by name (false ones at most 10%)")
    if facts.membership is not None:
        parts.append(
            f"of membership: {facts.membership.outcome}"
            + (f", with {facts.membership.listed} images on the exposed list" if facts.membership.listed else "")
        )
    if not parts:
        return f"At step {facts.step:,} nothing was measured that tells who is exposed."
    return f"At step {facts.step:,}: {'; '.join(parts)}."


def what_now(
    recommendation: Recommendation,
    decisions: Sequence[Decision],
    facts: StepFacts,
    context: Context,
    budgets: Budgets,
) -> str:
    """Say what to do, by outcome; never only to accept more. ``facts`` are those of the step that it is about."""
    at = next(d for d in decisions if d.step == facts.step)
    if recommendation.status == "found":
        kept = " Keep the weights to yourself." if not releases_weights(context) else ""
        return f"Release what was judged, and nothing else: a model trained on further was not judged.{kept}"
    if barred(context, budgets):
        return "First mend what keeps this audit from a verdict (above), in a new folder (--out) where files change."
    first = decisions[0].step == at.step
    before = "Save and audit earlier checkpoints" if first else f"Audit denser checkpoints before step {at.step:,}"
    if at.risk == "memorizing":
        return (
            f"De-duplicate the training images, deal anew and train again; or train with {LESS}; or on more images. "
            f"{before}. {PRIVATE.capitalize()}."
        )
    if at.risk == "biased":
        return f"{before}; train on more images, or with {LESS}. {PRIVATE.capitalize()}."
    if at.risk == "exposed":
        return (
            f"Release samples alone (--release samples) or an earlier checkpoint; or train with {LESS}. "
            f"{PRIVATE.capitalize()}."
        )
    if all(d.quality == "underfit" for d in decisions):
        return "Train on, and save denser: no checkpoint is any good yet."
    if walk(decisions)[1] is None:
        return f"Save and audit checkpoints before the held-out loss rises; train with {LESS}."
    return undecided(facts, context, budgets)


def undecided(facts: StepFacts, context: Context, budgets: Budgets) -> str:
    """Say what would settle an undecided step, by what keeps it open."""
    weights, steps = releases_weights(context), []
    if not context.n_seeds:
        steps.append("audit with samples (without --quick)")
    if not context.with_heldout:
        steps.append("give held-out images (--heldout)")
    open_leans = [each for each in facts.lean.values() if not each.is_safe(budgets)]
    needed = [each.seeds_needed(budgets) for each in open_leans]
    known = [each for each in needed if each is not None]
    if known:
        steps.append(f"draw about {max(known):,} seeds (--n-samples; it goes on from those that are there)")
    elif any(not each.is_rare(budgets) for each in facts.copying.values()):
        steps.append("draw more seeds (--n-samples; it goes on from those that are there)")
    if len(known) < len(needed):
        steps.append("train on more images, for more seeds cannot settle the lean")
    if weights and facts.loss is not None and not facts.loss.is_safe(budgets):
        steps.append("take an earlier checkpoint or train on more images, for the losses lean")
    if weights and (facts.membership is None or not facts.membership.hidden):
        steps.append("measure losses on more images (--loss-images, --heldout)")
    if steps and weights and (facts.loss is not None or facts.membership is not None):
        steps.append("or release samples alone (--release samples)")
    if any(not each.shared_is_rare(budgets) for each in facts.copying.values()):
        steps.append("de-duplicate, deal anew, train again")
    if any(each.images for each in facts.named.values()):
        steps.append("look at the images that are named (named.parquet), and take out those that must not be shown")
    if not facts.lean and context.n_seeds:
        steps.append("train a twin on another half (--ckpts-b, --train-b)")
    return f"To settle step {facts.step:,}: {'; '.join(steps)}. {PRIVATE.capitalize()}."
