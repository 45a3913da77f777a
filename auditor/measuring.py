"""Evidence on disk to measurements, onsets and verdicts: no network, no pixels, seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from auditor import registry, stats, tables
from auditor.config import HEADLINE_SPACE
from auditor.evidence import EvidenceReader, read_losses
from auditor.noise import derived_seed
from auditor.records import TWINS, Estimate, Evidence, Metric, Scores
from auditor.run import RunDirectory
from auditor.stats import Landing, Pool
from auditor.verdict import Decision, StepFacts, provisional

UNDERFIT_LOSS = 1.25  # statistics 6.1: above this multiple of the least held-out loss, before its minimum


@dataclass(frozen=True)
class Scope:
    """What a run was asked to look at: the axes of every table."""

    steps: tuple[int, ...]
    spaces: tuple[str, ...]
    n_samples: int
    seed: int
    with_train: bool
    with_heldout: bool


@dataclass(frozen=True)
class Series:
    """All evidence of a run, by (step, twin, space), and where samples land, by the same."""

    scope: Scope
    evidence: Mapping[tuple[int, str, str], Evidence]
    landings: Mapping[tuple[int, str, str], Landing]
    pool: Pool | None

    def scores(self, metric: Metric, step: int, twin: str, space: str) -> Scores:
        """Return the scores of one metric; for ``both`` of a per-twin metric, the twins' average."""
        if twin != "both":
            return metric.scores(self.evidence[step, twin, space])
        if "a" not in metric.twins:  # a comparison: the same from either side
            return metric.scores(self.evidence[step, "a", space])
        return average(*(metric.scores(self.evidence[step, each, space]) for each in TWINS))


def average(a: Scores, b: Scores) -> Scores:
    """Return the average of both twins: per unit where they share their units, else over all units."""
    if len(a.ids) == len(b.ids) and (a.ids == b.ids).all():
        return Scores(a.unit, a.ids, (a.values + b.values) / 2, stats.join(a.note, b.note if b.note != a.note else ""))
    return Scores(a.unit, np.concatenate([a.ids, b.ids]), np.concatenate([a.values, b.values]), a.note or b.note)


def read_series(run: RunDirectory, scope: Scope) -> Series:
    """Read all evidence of a run."""
    evidence, landings, pool = {}, {}, None
    losses = {(step, twin): read_losses(run, twin, step) for step in scope.steps for twin in TWINS}
    for space in scope.spaces:
        reader = EvidenceReader(run, space, scope.n_samples, scope.with_train, scope.with_heldout)
        pool = pool or reader.pool
        for step in scope.steps:
            for twin in TWINS:
                found, landing = reader.read(twin, step)
                evidence[step, twin, space] = replace(found, losses=losses[step, twin])
                if landing is not None:
                    landings[step, twin, space] = landing
    return Series(scope, evidence, landings, pool)


# ---------------------------------------------------------------------------
# Lean: one relabelling for all checkpoints and spaces
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class LeanResult:
    """Own-versus-other lean of one checkpoint and space."""

    estimates: Mapping[str, Estimate]  # own_share for a, b, both
    p: Mapping[str, float]  # one-sided, by relabelling
    p_corrected: float  # of both, over all checkpoints and spaces
    corrected: tuple[float, float]  # interval of both over all checkpoints and spaces


def lean_results(series: Series) -> dict[tuple[int, str], LeanResult]:
    """Test and estimate own_share for every checkpoint and space with one common relabelling."""
    if not series.landings:
        return {}
    pool = series.pool
    cells = [(step, space) for step in series.scope.steps for space in series.scope.spaces]
    relabeling = stats.relabel(pool, derived_seed("relabel", series.scope.seed))
    land = {cell: {twin: series.landings[cell[0], twin, cell[1]] for twin in TWINS} for cell in cells}
    weights = {twin: np.array([land[cell][twin].weights(len(pool.labels)) for cell in cells]) for twin in TWINS}
    tests = {
        "a": stats.relabeling_test(relabeling, weights["a"]),
        "b": stats.relabeling_test(relabeling, -weights["b"]),
        "both": stats.relabeling_test(relabeling, weights["a"] - weights["b"]),
    }
    corrected = stats.step_down_max_t(tests["both"].z)
    results = {}
    for i, cell in enumerate(cells):
        both = stats.own_share_both(land[cell]["a"], land[cell]["b"], pool)[0]
        one = {
            twin: stats.own_share_one(land[cell][twin], pool, sign, tests[twin].sd[i] / 2)
            for twin, sign in (("a", 1.0), ("b", -1.0))
        }
        p = {twin: float(test.p[i]) for twin, test in tests.items()}
        results[cell] = LeanResult({**one, "both": both}, p, float(corrected[i]), stats.widen(both, len(cells)))
    return results


# ---------------------------------------------------------------------------
# Measurements
# ---------------------------------------------------------------------------


def estimate_rows(series: Series, lean: Mapping[tuple[int, str], LeanResult]) -> list[dict[str, Any]]:
    """Return the rows of measurements.parquet, sorted by their key."""
    rows = []
    for name in registry.METRICS:
        metric = registry.lookup("metric", name)
        for space in series.scope.spaces if metric.per_space else ("",):
            for step in series.scope.steps:
                rows += [metric_row(series, lean, metric, step, twin, space) for twin in metric.twins]
    return sorted(rows, key=lambda row: (row["step"], row["space"], row["metric"], row["twin"]))


def metric_row(
    series: Series, lean: Mapping[tuple[int, str], LeanResult], metric: Metric, step: int, twin: str, space: str
) -> dict[str, Any]:
    """Return one row: the estimate, and its test where the metric has one."""
    row = {"step": step, "space": space, "metric": metric.name, "twin": twin}
    empty = dict.fromkeys(("low_corrected", "high_corrected", "p_value", "p_corrected"), stats.NAN)
    if metric.interval == "lean" and (step, space) in lean:
        return row | empty | lean_fields(lean[step, space], twin)
    scores = series.scores(metric, step, twin, space or series.scope.spaces[0])
    estimate = stats.proportion(scores) if metric.interval == "proportion" else stats.mean_interval(scores)
    return row | empty | estimate_fields(estimate)


def lean_fields(result: LeanResult, twin: str) -> dict[str, Any]:
    """Return the columns of own_share: estimate, relabelling p, and for both twins the corrected ones."""
    fields = estimate_fields(result.estimates[twin]) | {"p_value": result.p[twin]}
    if twin == "both":
        low, high = result.corrected
        fields |= {"p_corrected": result.p_corrected, "low_corrected": low, "high_corrected": high}
    return fields


def estimate_fields(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as columns."""
    names = ("value", "low", "high", "level", "n", "unit", "method", "note")
    return {name: getattr(estimate, name) for name in names}


# ---------------------------------------------------------------------------
# Onsets
# ---------------------------------------------------------------------------


def curve(series: Series, name: str, steps: Sequence[int], space: str) -> np.ndarray:
    """Return the scores of one ``both`` metric along the series, float64 ``[checkpoints, units]``."""
    metric = registry.lookup("metric", name)
    return np.array([series.scores(metric, step, "both", space).values for step in steps])


def loss_onset(series: Series) -> tuple[stats.Onset, tuple[int, ...]]:
    """Return the minimum of the held-out loss and the steps that are underfit before it."""
    steps, space = series.scope.steps, series.scope.spaces[0]
    losses = curve(series, "loss_heldout", steps, space)
    if losses.shape[1] == 0:
        return stats.Onset("undecided", -1, (), "no held-out loss was measured"), ()
    draws = stats.resamples(losses.shape[1], derived_seed("images", series.scope.seed))
    onset = stats.locate_minimum(losses, steps, draws, derived_seed("jitter", "loss", series.scope.seed), True)
    mean = losses.mean(axis=1)
    before = min(onset.steps, default=steps[-1])
    underfit = [s for s, value in zip(steps, mean, strict=True) if s < before and value > UNDERFIT_LOSS * mean.min()]
    return onset, tuple(underfit)


def divergence_onset(series: Series, space: str, evaluable: Sequence[int]) -> stats.Onset:
    """Return the minimum of the twin distance over the evaluable steps (tau_div)."""
    distances = curve(series, "twin_distance_ratio", evaluable, space) if evaluable else np.empty((0, 0))
    if distances.size == 0:
        return stats.Onset("undecided", -1, (), "no checkpoint can be judged")
    draws = stats.resamples(distances.shape[1], derived_seed("seeds", series.scope.seed))
    return stats.locate_minimum(distances, evaluable, draws, derived_seed("jitter", space, series.scope.seed))


def onset_row(name: str, space: str, onset: stats.Onset) -> dict[str, Any]:
    """Return one row of onsets.parquet."""
    return {
        "onset": name,
        "space": space,
        "status": onset.status,
        "step": onset.step,
        "low": min(onset.steps, default=-1),
        "high": max(onset.steps, default=-1),
        "steps": ",".join(map(str, onset.steps)),
        "level": stats.LEVEL,
        "note": onset.note,
    }


# ---------------------------------------------------------------------------
# All of it
# ---------------------------------------------------------------------------


def measure(run: RunDirectory, scope: Scope, say: Callable[[str], None] = lambda text: None) -> list[Decision]:
    """Write measurements, onsets and verdicts of a run from its evidence."""
    say("reading the evidence")
    series = read_series(run, scope)
    say("testing and estimating")
    lean = lean_results(series)
    rows = estimate_rows(series, lean)
    loss, underfit = loss_onset(series)
    evaluable = [step for step in scope.steps if step not in underfit]
    divergence = {space: divergence_onset(series, space, evaluable) for space in scope.spaces}
    decisions = decide(scope, rows, lean, divergence, underfit)
    tables.write(run.table("measurements"), tables.MEASUREMENTS, rows)
    onsets = [onset_row("divergence", space, onset) for space, onset in sorted(divergence.items())]
    tables.write(run.table("onsets"), tables.ONSETS, [*onsets, onset_row("loss", "", loss)])
    tables.write(run.table("verdicts"), tables.VERDICTS, [decision_row(d) for d in decisions])
    return decisions


def decide(
    scope: Scope,
    rows: Sequence[Mapping[str, Any]],
    lean: Mapping[tuple[int, str], LeanResult],
    divergence: Mapping[str, stats.Onset],
    underfit: Sequence[int],
) -> list[Decision]:
    """Gather what the rule looks at, and apply it. Without training images nothing is recommended."""
    value = {(r["step"], r["space"], r["metric"], r["twin"]): r["value"] for r in rows}
    copy_space = "pixel" if "pixel" in scope.spaces else scope.spaces[0]
    headline = HEADLINE_SPACE if HEADLINE_SPACE in scope.spaces else scope.spaces[0]
    facts = []
    for step in scope.steps:
        low = {space: lean[step, space].corrected[0] if lean else stats.NAN for space in scope.spaces}
        flagged, control = (
            float(np.max([value[step, copy_space, name, twin] for twin in TWINS]))  # NaN stays NaN
            for name in ("memorized_fraction", "heldout_memorized_fraction")
        )
        facts.append(StepFacts(step, step in underfit, low, (flagged, 0.0 if np.isnan(control) else control)))
    return provisional(facts, divergence[headline])


def decision_row(decision: Decision) -> dict[str, Any]:
    """Return one row of verdicts.parquet."""
    return {
        "step": decision.step,
        "verdict": decision.verdict,
        "recommended": decision.recommended,
        "reasons": " ".join(decision.reasons),
    }
