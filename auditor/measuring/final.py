"""What is said of the model that is to be released: its own audit, and the twins that never saw an image as reference.

docs/statistics.md 14.7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from auditor.config import Budgets
from auditor.measuring import advice, membership, verdict
from auditor.measuring.facts import Context, Membership, StepFacts
from auditor.measuring.membership import FIXED, TWIN_RATIO, Score
from auditor.measuring.series import Series
from auditor.records import TWINS, LossTable, other_twin, set_of
from auditor.run import RunDirectory, tables
from auditor.run.places import EVIDENCE
from auditor.seeds import derived_seed

NAME = "the final model"


def concluded(
    run: RunDirectory, facts: StepFacts, context: Context, series: Series, beside: Series, budgets: Budgets
) -> dict[str, Any]:
    """Return what the record of a run holds of its final model: file, digest, both words, and the sentences.

    Parameters
    ----------
    run
        The run that the final model belongs to; its own audit is ``run.final``.
    facts, context, series
        What its own audit says of it.
    beside
        The series of the twins, or of the one training.
    """
    row = tables.read(run.final.table("checkpoints")).query("audited").iloc[0]
    if facts.membership is not None and beside.scope.with_twin:
        facts = replace(facts, membership=membership_of(run, series, beside, budgets))
    decision = verdict.judge(facts, context, budgets)
    file, digest = str(row.path), str(row.digest)
    name = f"{file} (sha256 {digest})"
    closed, images = verdict.barred(context, budgets), verdict.reproduced(facts, budgets)
    shown = [verdict.reproduced_sentence(facts, budgets)] if images else []
    if decision.verdict == "generalizing":
        status = "found"
        said = verdict.final_sentence(name, facts, context, budgets)
    elif decision.risk in verdict.FOUND or decision.quality in ("underfit", "overfit"):
        status, word = "none", decision.risk if decision.risk in verdict.FOUND else decision.quality
        said = f"Do not release the final model {name}: it is {word}. {' '.join([decision.reasons[0], *shown])}"
    else:
        status = "undecided"
        said = f"Do not release the final model {name} yet: undecided. {(closed or decision.reasons)[0]}"
    recommendation = verdict.Recommendation(status, decision.step if status == "found" else -1, said)
    return {
        "status": status,
        "file": file,
        "sha256": digest,
        "step": int(decision.step),
        "risk": decision.risk,
        "quality": decision.quality,
        "verdict": decision.verdict,
        "reasons": list(decision.reasons),
        "reproduced": list(images),
        "sentence": said,
        "advice": advice.advice(recommendation, [decision], [facts], context, budgets),
    }


def membership_of(run: RunDirectory, series: Series, beside: Series, budgets: Budgets) -> Membership:
    """Return what can be told of membership in the final model, by ln(l_out / l_final) instead of the twins' ratio.

    l_out is the loss of the twin that never saw the image, at the checkpoint with the least held-out loss; of
    images that neither saw, held-out ones among them, that of a twin that the run's seed names.
    """
    evidence = series.network(series.scope.steps[0], "a")
    evidence = membership.without_images(evidence, series.near_heldout)
    groups = membership.groups_of(series)
    scores = [each for each in membership.fixed_scores(evidence, groups) if each.name != TWIN_RATIO]
    ratio = twin_ratio(run, evidence.losses, beside, groups)
    scores = sorted([*scores, *([ratio] if ratio else [])], key=lambda each: FIXED.index(each.name))
    scores = [replace(each, twin=NAME) for each in scores]
    strict, loose = (
        [membership.judged(each, rate) for each in scores] for rate in (membership.STRICT, membership.LOOSE)
    )
    return membership.conclude(strict, loose, None, len(scores), budgets, listed_is_needed=False)


def twin_ratio(
    run: RunDirectory, losses: Mapping[str, LossTable], beside: Series, groups: Mapping[tuple[str, str], int]
) -> Score | None:
    """Return the score of every image whose loss the twins know, too; None where they know none of a set."""
    at = reference_step(beside)
    known = losses_without(run, beside, at)
    mine = digests_by_id(run.final, "train-a", beside.scope.spaces[0])
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for role in ("own", "heldout"):
        table = losses[role]
        names = [mine.get(image, "") if role == "own" else image for image in table.ids]
        rows = [i for i, name in enumerate(names) if name in known[role]]
        out = np.array([known[role][names[i]] for i in rows])
        if not rows or out.shape[1] != table.values.shape[1]:
            return None
        found[role] = np.log(out / table.values[rows]).mean(axis=1), table.ids[rows]
    (members, member_ids), (others, other_ids) = found["own"], found["heldout"]
    units = len({groups.get(("a", i), (i,)) for i in member_ids})
    return Score(TWIN_RATIO, "a", members, others, member_ids, other_ids, units)


def reference_step(beside: Series) -> int:
    """Return the checkpoint of the twins with the least mean held-out loss: what the same recipe knows of the data."""
    means = {
        step: np.mean([each["heldout"].means.mean() for each in beside.losses(step).values()])
        for step in beside.scope.steps
    }
    return min(means, key=lambda step: float(means[step]))


def losses_without(run: RunDirectory, beside: Series, step: int) -> dict[str, dict[str, np.ndarray]]:
    """Return the losses ``[levels]`` of a twin that never saw the image: ``own`` by digest, ``heldout`` by id."""
    found: dict[str, dict[str, np.ndarray]] = {"own": {}, "heldout": {}}
    losses = beside.losses(step)
    for twin in TWINS:  # what b's half holds, a never saw
        names = digests_by_id(run, set_of(other_twin(twin)), beside.scope.spaces[0])
        table = losses[twin]["other"]
        found["own"] |= {names[i]: row for i, row in zip(table.ids, table.values, strict=True) if i in names}
    for i, image in enumerate(losses["a"]["heldout"].ids):
        twin = TWINS[derived_seed("reference twin", image, beside.scope.seed) % len(TWINS)]
        found["heldout"][image] = losses[twin]["heldout"].values[i]
    return found


def digests_by_id(run: RunDirectory, name: str, space: str) -> dict[str, str]:
    """Return the digest of each image of a training set, by id."""
    frame = tables.read(run.place(EVIDENCE, name, space), ["id", "digest"])
    return dict(zip(frame.id, frame.digest, strict=True))
