"""One simulated audit: samples as rows of a lookup go through the project's tests and its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from auditor.config import Budgets
from auditor.measuring import copies as copying
from auditor.measuring import lean as leaning
from auditor.measuring import verdict
from auditor.measuring.facts import Context, LossLean, Reference, StepFacts
from auditor.measuring.lean import lean_fact
from auditor.measuring.verdict import Decision
from auditor.records import TWINS, LossTable
from auditor.scope import rare_ratio
from auditor.stats import intervals, relabeling
from calibrating.worlds import Lookup, Split, nearest_in_pool, smooth_reference

SPACES = ("pixel", "correlation")


@dataclass(frozen=True)
class Losses:
    """Losses of both models on the measured pool images at every checkpoint."""

    columns: np.ndarray  # pool positions
    a: np.ndarray  # float64 [checkpoints, images], of model a
    b: np.ndarray
    reference: float = 0.0  # of the linear denoiser


@dataclass(frozen=True)
class Audit:
    """What a series of checkpoints gave: rows ``[checkpoints, S]`` into the lookups, by twin."""

    split: Split
    lookups: Mapping[str, Lookup]  # by space
    rows: Mapping[str, np.ndarray]
    losses: Losses | None = None
    heldout: np.ndarray | None = None  # rows of held-out images [default: those of the split]
    divergence: tuple[int, ...] = (0,)  # the gate on loss lean is open after this step
    loss: tuple[int, ...] = ()
    rises: Sequence[float] = field(default_factory=tuple)  # lower limits of the rise of the held-out loss


@dataclass(frozen=True)
class Judged:
    """The verdicts on a series, and the corrected p values behind them."""

    decisions: tuple[Decision, ...]
    facts: tuple[StepFacts, ...]
    recommended: str  # found, none, undecided

    def any(self, *verdicts: str) -> bool:
        """Whether any checkpoint got one of these verdicts."""
        return any(decision.verdict in verdicts for decision in self.decisions)

    @property
    def lean_p(self) -> float:
        """The least corrected p of family 1."""
        p = [lean.p_corrected for facts in self.facts for lean in facts.lean.values()]
        return min(p + [facts.loss.p_corrected for facts in self.facts if facts.loss])

    @property
    def copy_p(self) -> float:
        """The least corrected p of family 2."""
        return min(found.p_corrected for facts in self.facts for found in facts.copying.values())


def judge(audit: Audit, copies: bool = True, may_be_safe: bool = False) -> Judged:
    """Test the series and judge every checkpoint as ``audit`` does. No checkpoint is set aside as underfit.

    This is the harder case: in a run, collapsed checkpoints are judged underfit before they can be called biased.
    The smooth reference, most of the work, is made where a lean is significant, for no other can be
    called biased; ``may_be_safe`` makes it always, as the verdict "generalizing" needs.
    """
    budgets = Budgets()
    split, names = audit.split, tuple(audit.lookups)
    steps = range(1, len(audit.rows["a"]) + 1)
    cells = [(step, name) for step in steps for name in names]
    lands = {(i, name): {t: audit.lookups[name].landing(audit.rows[t][i - 1]) for t in TWINS} for i, name in cells}
    losses = {} if audit.losses is None else {step: loss_tables(split, audit.losses, step - 1) for step in steps}
    leans, loss_leans = leaning.lean_tests(split.pool, split.relabeling, lands, losses, seed=1)
    significant = min(each.gap_p_corrected for each in leans.values()) <= budgets.alpha
    references = smooth_reference(split, names) if significant or may_be_safe else dict.fromkeys(names, Reference(0.5))
    n_seeds = len(audit.rows["a"][0])
    found = copying.copying_tests(copy_evidence(audit, cells), {s: rare_ratio(s) for s in names}) if copies else {}
    facts = tuple(
        StepFacts(
            step,
            {name: lean_fact(leans[step, name], references[name], n_seeds, len(names)) for name in names},
            loss_fact(loss_leans[step], audit.losses.reference) if losses else None,
            {name: found[step, name] for name in names if found},
            loss_rise=audit.rises[step - 1] if len(audit.rises) else intervals.NAN,
        )
        for step in steps
    )
    # nothing can be shown safe for the release of weights without membership, which is not simulated here
    context = Context(audit.divergence, audit.loss, n_seeds, release="samples" if may_be_safe else None)
    decisions = tuple(verdict.judge(each, context, budgets) for each in facts)
    return Judged(decisions, facts, verdict.recommend(facts, context, budgets).status)


def copy_evidence(audit: Audit, cells: Sequence[tuple[int, str]]) -> dict:
    """Return the evidence that the copying test reads, by step and space."""
    heldout = audit.split.heldout if audit.heldout is None else audit.heldout
    return {
        (step, name): {t: audit.lookups[name].evidence(t, step, name, audit.rows[t][step - 1], heldout) for t in TWINS}
        for step, name in cells
    }


def loss_tables(split: Split, losses: Losses, i: int) -> dict[str, dict[str, LossTable]]:
    """Return the losses of both models by role, as they are read from a run."""
    found = {}
    for twin, values in (("a", losses.a[i]), ("b", losses.b[i])):
        found[twin] = {}
        for half in TWINS:
            mine = split.pool.labels[losses.columns] == (1 if half == "a" else -1)
            ids = np.array([split.pool.ids[c][1] for c in losses.columns[mine]], dtype=object)
            table = LossTable(ids, np.zeros(1, dtype=int), values[mine][:, None])
            found[twin]["own" if half == twin else "other"] = table
    return found


def loss_fact(result: leaning.LossLeanResult, reference: float) -> LossLean:
    """Return what the verdict needs of the loss lean."""
    return LossLean(result.estimate.value, result.low, result.high, result.p_corrected, reference)


def halves_differ(split: Split, names: Sequence[str] = SPACES) -> bool:
    """Return whether the halves check 1.2 stops this audit, though the halves were dealt at random."""
    p = [relabeling.exchangeability(nearest_in_pool(split, name), split.relabeling)[1] for name in names]
    brightness = split.world.images.mean(axis=(1, 2, 3))[split.images]
    return min(p) < 0.01 / len(p) or relabeling.two_sided_p(split.relabeling, brightness) < 0.01
