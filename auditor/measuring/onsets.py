"""When something begins: minima of curves with their confidence sets, and first findings of a risk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from auditor.config import LEVEL, Budgets
from auditor.measuring import verdict
from auditor.measuring.facts import Lean, LossLean, StepFacts
from auditor.metrics import ABSENT_TWIN, UNPAIRED
from auditor.scope import Scope
from auditor.seeds import derived_seed
from auditor.stats import minima

State = tuple[bool, bool]  # whether a risk is shown small at a step, and whether it is found


def loss_onset(scope: Scope, losses: np.ndarray) -> minima.Onset:
    """Return the minimum of the held-out loss (tau_loss) over all checkpoints."""
    if losses.shape[1] == 0:
        return minima.Onset("undecided", -1, (), "no held-out loss was measured")
    draws = minima.resamples(losses.shape[1], derived_seed("images", scope.seed))
    jitter = derived_seed("jitter", "loss", scope.seed)
    return minima.locate_minimum(losses, scope.steps, draws, jitter)


def divergence_onset(scope: Scope, space: str, evaluable: Sequence[int], distances: np.ndarray) -> minima.Onset:
    """Return the minimum of the twin distance (tau_div) over the evaluable steps, the rows of ``distances``."""
    if distances.size == 0:
        why = "no checkpoint can be judged" if scope.with_twin else ABSENT_TWIN
        return minima.Onset("undecided", -1, (), why)
    if np.isnan(distances).any():
        return minima.Onset("undecided", -1, (), UNPAIRED)
    draws = minima.resamples(distances.shape[1], derived_seed("seeds", scope.seed))
    jitter = derived_seed("jitter", space, scope.seed)
    return minima.locate_minimum(distances, evaluable, draws, jitter, last_is_none=True)


def predictions_onset(scope: Scope, evaluable: Sequence[int], distances: np.ndarray) -> minima.Onset:
    """Return where the twins' predictions on held-out images are most alike, over the evaluable steps."""
    if distances.size == 0:
        why = "no predictions of twins were compared on held-out images" if scope.with_twin else ABSENT_TWIN
        return minima.Onset("undecided", -1, (), why)
    draws = minima.resamples(distances.shape[1], derived_seed("images", scope.seed))
    jitter = derived_seed("jitter", "predictions", scope.seed)
    return minima.locate_minimum(distances, evaluable, draws, jitter, last_is_none=True)


def onset_rows(
    divergence: Mapping[str, minima.Onset],
    predictions: minima.Onset,
    loss: minima.Onset,
    facts: Sequence[StepFacts],
    budgets: Budgets,
) -> list[dict[str, Any]]:
    """Return the rows of onsets.parquet."""
    rows = [onset_row("divergence", space, onset) for space, onset in sorted(divergence.items())]
    rows += [onset_row("loss", "", loss), onset_row("predictions", "", predictions)]
    judged = [f for f in facts if not f.underfit]
    steps = [f.step for f in judged]
    for space in sorted(facts[0].lean):
        rows.append(states_row("bias", space, steps, [lean_state(f, space, budgets) for f in judged]))
    if all(f.loss is not None for f in facts):
        rows.append(lean_row("loss_bias", "", steps, [f.loss for f in judged if f.loss is not None], budgets))
    for space in sorted(facts[0].copying):
        rows.append(states_row("copying", space, steps, [copy_state(f, space, budgets) for f in judged]))
    return rows


def lean_state(facts: StepFacts, space: str, budgets: Budgets) -> State:
    """Return whether samples are shown not to lean in a space, and whether they are found to, as the verdict has it.

    They are found to all together or in the tail; where single classes lean they are not shown not to.
    """
    tail = facts.tails.get(space)
    found = facts.lean[space].is_bias(budgets) or (tail is not None and tail.is_bias(budgets))
    return facts.lean[space].is_safe(budgets) and not facts.leaning_classes, found


def copy_state(facts: StepFacts, space: str, budgets: Budgets) -> State:
    """Return whether copies are shown rare in a space, and whether samples are found to copy."""
    return facts.copying[space].is_safe(budgets), facts.copying[space].is_copy(budgets)


def states_row(name: str, space: str, steps: Sequence[int], states: Sequence[State]) -> dict[str, Any]:
    """Return one row for the onset of a risk."""
    return risk_row(name, space, steps, [safe for safe, _ in states], [found for _, found in states])


UNLIKE = "the twins were paired at checkpoints of unlike progress (--pair)"


def unclaimed(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without its place: a step that two trainings reached at different times is none of either."""
    return row | {"status": "undecided", "step": -1, "low": -1, "high": -1, "steps": "", "note": UNLIKE}


def onset_row(name: str, space: str, onset: minima.Onset) -> dict[str, Any]:
    """Return one row for the minimum of a curve."""
    return {
        "onset": name,
        "space": space,
        "status": onset.status,
        "step": onset.step,
        "low": min(onset.steps, default=-1),
        "high": max(onset.steps, default=-1),
        "steps": ",".join(map(str, onset.steps)),
        "level": LEVEL,
        "note": onset.note,
    }


def lean_row(
    name: str, space: str, steps: Sequence[int], leans: Sequence[Lean | LossLean], budgets: Budgets
) -> dict[str, Any]:
    """Return one row for the onset of a lean."""
    safe, found = [x.is_safe(budgets) for x in leans], [x.is_bias(budgets) for x in leans]
    return risk_row(name, space, steps, safe, found)


def risk_row(
    name: str, space: str, steps: Sequence[int], safe: Sequence[bool], found: Sequence[bool]
) -> dict[str, Any]:
    """Return one row for the onset of a risk: from the first step not shown safe to the first of two findings."""
    status, low, high = verdict.risk_onset(steps, safe, found) if steps else ("undecided", -1, -1)
    inside = [step for step in steps if low >= 0 and low <= step and (high < 0 or step <= high)]
    note = "from the first step not shown safe to the first of two consecutive findings; -1 is open"
    row = {"onset": name, "space": space, "status": status, "step": high, "low": low, "high": high}
    return row | {"steps": ",".join(map(str, inside)), "level": LEVEL, "note": note}
