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
    step = next((f for f in facts if at is not None and f.step == at.step), None)
    return {
        "exposed": who_is_exposed(step) if step is not None else "Nothing can be said of any step.",
        "what_now": what_now(recommendation, decisions, at, context, budgets),
    }


def told_of(recommendation: Recommendation, decisions: Sequence[Decision]) -> Decision | None:
    """Return the decision that the sentences are about."""
    chosen = next((d for d in decisions if d.step == recommendation.step), None)
    risky = next((d for d in decisions if d.risk in FOUND), None)
    return chosen or walk(decisions)[1] or risky or (decisions[-1] if decisions else None)


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
    at: Decision | None,
    context: Context,
    budgets: Budgets,
) -> str:
    """Say what to do, by outcome; never only to accept more."""
    if recommendation.status == "found":
        kept = " Keep the weights to yourself." if not releases_weights(context) else ""
        return f"Release what was judged, and nothing else: a model trained on further was not judged.{kept}"
    closed = barred(context, budgets)
    if closed:
        return "First mend what keeps the run from being judged (above), in a new folder (--out) where files change."
    if at is None or all(d.quality == "underfit" for d in decisions):
        return "Train on, and save denser: no checkpoint is any good yet."
    if at.risk == "memorizing":
        return (
            f"De-duplicate the training images, deal anew and train again; or {LESS}; or more images. "
            f"Audit denser checkpoints before step {at.step:,}. {PRIVATE.capitalize()}."
        )
    if at.risk == "biased":
        return (
            f"Save and audit denser checkpoints before step {at.step:,}; train on more images, or with {LESS}. "
            f"{PRIVATE.capitalize()}."
        )
    if at.risk == "exposed":
        return (
            f"Release samples alone (--release samples) or an earlier checkpoint; or train with {LESS}. "
            f"{PRIVATE.capitalize()}."
        )
    return undecided(at, context)


def undecided(at: Decision, context: Context) -> str:
    """Say what would settle an undecided step, by what keeps it open."""
    said = " ".join(at.reasons)
    steps = []
    if not context.n_seeds:
        steps.append("audit with samples (without --quick)")
    if not context.with_heldout:
        steps.append("give held-out images (--heldout)")
    if "seeds would settle it" in said or "Copies not shown rare" in said:
        steps.append("draw more seeds (--n-samples; the run goes on from those that are there)")
    if "seeds cannot settle it" in said:
        steps.append("train on more images: more seeds cannot settle the lean")
    if "Membership" in said:
        steps.append(
            "measure losses on more images (--loss-images, --heldout), or release samples alone (--release samples)"
        )
    if "both halves hold" in said:
        steps.append("de-duplicate, deal anew, train again")
    if "Named:" in said or "reproduced only by" in said:
        steps.append(
            "look at the images that are named (named.parquet, the gallery), and take out those that must not be shown"
        )
    return f"To settle step {at.step:,}: {'; '.join(steps) or 'see its reasons'}. {PRIVATE.capitalize()}."
