"""Evidence on disk to measurements, onsets and verdicts: no network, no kernels, seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from auditor import registry
from auditor.config import Budgets
from auditor.measuring import by_noise, controls, copies, membership, onsets, phase, verdict
from auditor.measuring import by_scale as scale_curves
from auditor.measuring import lean as leaning
from auditor.measuring.lean import ClassLean, LeanResult, LossLeanResult, lean_fact
from auditor.measuring.series import Series, read_series
from auditor.measuring.verdict import Context, Copying, Decision, LossLean, Recommendation, Reference, StepFacts
from auditor.records import TWINS, Metric, other_twin
from auditor.run import RunDirectory, tables
from auditor.scope import Scope
from auditor.seeds import derived_seed
from auditor.stats import intervals, minima
from auditor.stats.relabeling import Relabeling, relabel

BANDED = ("twin_distance", "twin_distance_ratio", "loss_own", "loss_other", "loss_heldout")
LAYOUTS = {
    "measurements": tables.MEASUREMENTS,
    "onsets": tables.ONSETS,
    "verdicts": tables.VERDICTS,
    "profiles": tables.PROFILES,
    "attacks": tables.ATTACKS,
    "exposure": tables.EXPOSURE,
    "scales": tables.SCALES,
}


@dataclass(frozen=True)
class Curves:
    """The curves whose minima are located, by checkpoint and unit."""

    losses: np.ndarray  # float64 [checkpoints, images], held-out loss of both twins
    distances: Mapping[str, np.ndarray]  # by space, float64 [checkpoints, seeds], chance-normalised twin distance


@dataclass(frozen=True)
class Measured:
    """What the evidence of a run says: the rows of its tables, and the checks of its record."""

    estimates: Sequence[Mapping[str, Any]]
    onsets: Sequence[Mapping[str, Any]]
    decisions: Sequence[Decision]
    recommendation: Recommendation
    checks: Mapping[str, Any]
    facts: Sequence[StepFacts] = ()  # what the decisions rest on, one per step
    context: Context | None = None
    curves: Curves | None = None
    images: Mapping[str, Sequence[Mapping[str, Any]]] = field(
        default_factory=dict
    )  # profiles, attacks, exposure, scales

    @property
    def rows(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """The rows by table."""
        verdicts = [decision_row(each) for each in self.decisions]
        made = {"measurements": self.estimates, "onsets": self.onsets, "verdicts": verdicts}
        return {name: made[name] if name in made else self.images.get(name, ()) for name in LAYOUTS}


# ---------------------------------------------------------------------------
# Measurements
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Tests:
    """Results of the tests that need the whole series at once."""

    lean: Mapping[tuple[int, str], LeanResult]
    loss: Mapping[int, LossLeanResult]
    copying: Mapping[tuple[int, str], Copying]
    in_class: Mapping[tuple[int, str], ClassLean] = field(default_factory=dict)


def test_series(series: Series, relabeling: Relabeling | None) -> Tests:
    """Run every test of the series; none without training images, and of copying alone without a twin."""
    scope = series.scope
    if not scope.with_train:
        return Tests({}, {}, {})
    losses = {step: series.losses(step) for step in scope.steps if relabeling and "own" in series.losses(step)["a"]}
    judged = family(series, relabeling, scope.judged_spaces, losses)
    by_scale = family(series, relabeling, scope.scale_spaces, {})  # apart: they take nothing from the verdict
    copied, in_class = judged.copying | by_scale.copying, judged.in_class | by_scale.in_class
    return Tests(judged.lean | by_scale.lean, judged.loss, copied, in_class)


def family(
    series: Series, relabeling: Relabeling | None, spaces: Sequence[str], losses: Mapping[int, leaning.Losses]
) -> Tests:
    """Run the tests of some spaces, and of the losses, corrected over all of them together."""
    scope = series.scope
    cells = [(step, space) for step in scope.steps for space in spaces]
    found = {(step, space): {t: series.evidence[step, t, space] for t in scope.twins} for step, space in cells}
    copied = copies.test_all(found) if cells else {}
    if relabeling is None or not (cells or losses):
        return Tests({}, {}, copied)
    lands = {(step, space): {t: series.landings[step, t, space] for t in TWINS} for step, space in cells}
    lean, loss = leaning.test_all(series.pool, relabeling, lands, losses, derived_seed("groups", scope.seed))
    in_class = leaning.test_in_class(series.pool, series.strata, lands, derived_seed("relabel", "class", scope.seed))
    return Tests(lean, loss, copied, in_class)


def estimate_rows(series: Series, tests: Tests) -> list[dict[str, Any]]:
    """Return the rows of measurements.parquet, sorted by their key."""
    rows = []
    for name in registry.METRICS:
        metric = registry.lookup("metric", name)
        for space in series.scope.spaces if metric.per_space else ("",):
            for step in series.scope.steps:
                rows += [
                    metric_row(series, tests, metric, step, twin, space)
                    for twin in metric.twins
                    if twin in (*series.scope.twins, "both")
                ]
    return sorted(with_bands(series, rows), key=lambda row: (row["step"], row["space"], row["metric"], row["twin"]))


def metric_row(series: Series, tests: Tests, metric: Metric, step: int, twin: str, space: str) -> dict[str, Any]:
    """Return one row: the estimate, and its test where the metric has one."""
    row = {"step": step, "space": space, "metric": metric.name, "twin": twin}
    row |= dict.fromkeys(("low_corrected", "high_corrected", "p_value", "p_corrected"), intervals.NAN)
    if metric.interval == "lean" and (step, space) in tests.lean:
        return row | LEAN_FIELDS[metric.name](tests.lean[step, space], twin)
    if metric.interval == "lean_in_class" and (step, space) in tests.in_class:
        left_out = series.scores(metric, step, twin, space).note
        return row | class_fields(tests.in_class[step, space], twin, left_out)
    if metric.interval == "loss_lean" and step in tests.loss:
        found = tests.loss[step]
        return row | estimate_fields(found.estimate) | {"p_value": found.p, "p_corrected": found.p_corrected}
    scores = series.scores(metric, step, twin, space or series.scope.first_space)
    return row | estimate_fields(intervals.INTERVALS[metric.interval](scores))


def with_bands(series: Series, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with simultaneous bands over the series where the curve is a mean over shared units."""
    steps = series.scope.steps
    limits = {}
    for name in BANDED:
        metric = registry.lookup("metric", name)
        for space in series.scope.spaces if metric.per_space else ("",):
            scores = curve(series, name, steps, space or series.scope.first_space)
            if scores.shape[1] < 2 or not np.isfinite(scores).all():
                continue
            draws = minima.resamples(
                scores.shape[1], derived_seed("images" if not space else "seeds", series.scope.seed)
            )
            for step, low, high in zip(steps, *minima.simultaneous_band(scores, draws), strict=True):
                limits[step, space, name] = {"low_corrected": float(low), "high_corrected": float(high)}
    key = ("step", "space", "metric")
    return [row | limits.get(tuple(row[k] for k in key), {}) if row["twin"] == "both" else row for row in rows]


def gap_fields(result: LeanResult, twin: str) -> dict[str, Any]:
    """Return the columns of gap_lean: the headline test."""
    return estimate_fields(result.gap) | {"p_value": result.gap_p, "p_corrected": result.gap_p_corrected}


def share_fields(result: LeanResult, twin: str) -> dict[str, Any]:
    """Return the columns of own_share: estimate, relabelling p, and for both twins the corrected ones."""
    fields = estimate_fields(result.share[twin]) | {"p_value": result.share_p[twin]}
    if twin == "both":
        low, high = result.corrected
        fields |= {"p_corrected": result.gap_p_corrected, "low_corrected": low, "high_corrected": high}
        fields |= {"note": "p_corrected is that of gap_lean, the headline test"}
    return fields


def class_fields(result: ClassLean, twin: str, left_out: str) -> dict[str, Any]:
    """Return the columns of own_share_in_class: estimate, relabelling p, and for both twins the corrected ones."""
    fields = estimate_fields(result.share[twin]) | {"p_value": result.p[twin]}
    fields["note"] = intervals.join_notes(fields["note"], left_out)
    if twin == "both":
        low, high = result.corrected
        fields |= {"p_corrected": result.p_corrected, "low_corrected": low, "high_corrected": high}
    return fields


def information_fields(result: LeanResult, twin: str) -> dict[str, Any]:
    """Return the columns of split_information: what the accuracy's estimate says, with the accuracy's p."""
    return estimate_fields(intervals.split_information(result.share["both"])) | {"p_value": result.share_p["both"]}


LEAN_FIELDS = {
    "gap_lean": gap_fields,
    "own_share": share_fields,
    "split_identification": share_fields,
    "split_information": information_fields,
}


def estimate_fields(estimate: Any) -> dict[str, Any]:
    """Return an estimate as columns."""
    names = ("value", "low", "high", "level", "n", "unit", "method", "note")
    return {name: getattr(estimate, name) for name in names}


# ---------------------------------------------------------------------------
# Underfit checkpoints (statistics 6.1)
# ---------------------------------------------------------------------------


def curve(series: Series, name: str, steps: Sequence[int], space: str) -> np.ndarray:
    """Return the scores of one ``both`` metric along the series, float64 ``[checkpoints, units]``."""
    metric = registry.lookup("metric", name)
    return np.array([series.scores(metric, step, "both", space).values for step in steps])


def underfit_reasons(
    series: Series, losses: np.ndarray, loss: minima.Onset, budgets: Budgets
) -> dict[int, tuple[str, ...]]:
    """Return per step the sentences that say it is underfit, none where it is not."""
    mean = losses.mean(axis=1) if losses.shape[1] else np.full(len(series.scope.steps), np.nan)
    least = np.nanmin(mean, initial=np.inf)
    found = {}
    for step, value in zip(series.scope.steps, mean, strict=True):
        reasons = []
        before = bool(loss.steps) and step < min(loss.steps)
        if losses.shape[1] and np.isnan(value):
            reasons.append("Underfit: the held-out loss is not a number.")
        if before and value > budgets.underfit_loss * least:
            reasons.append(f"Underfit: the held-out loss {value:.4f} is {value / least:.2f} times the least, later on.")
        for twin in series.scope.twins if series.heldout is not None else ():
            reasons += sample_underfit(series, step, twin, budgets)
        found[step] = tuple(reasons)
    return found


def sample_underfit(series: Series, step: int, twin: str, budgets: Budgets) -> list[str]:
    """Return what the samples of one twin lack: coverage of held-out images, a fitting distance, unsaturated pixels.

    Real images of the other half show what to expect; without a twin those of the own half.
    """
    other, table = other_twin(twin) if series.scope.with_twin else twin, series.pool_tables[series.scope.picture_space]
    reach = series.heldout["within_distance_5"].to_numpy()
    covered = (series.coverage[step, twin] < reach).mean()
    real = (series.heldout[f"cover_{other}_distance"].to_numpy() < reach).mean()
    reasons = []
    if covered < budgets.underfit_coverage * real:
        reasons.append(
            f"Underfit: samples of {twin} cover {covered:.0%} of held-out images, as many real images {real:.0%}."
        )
    evidence = series.evidence[step, twin, series.scope.picture_space]
    near = np.median(evidence.heldout_distance) / np.median(table.heldout_distance[table.half == other])
    if not budgets.underfit_near <= near <= budgets.underfit_far:
        reasons.append(
            f"Underfit: samples of {twin} lie {near:.2f} times as far from held-out images as real images do."
        )
    excess = series.saturated[step, twin] - table.saturated.mean()
    if excess > budgets.underfit_saturated:
        reasons.append(
            f"Underfit: {excess:.0%} more pixels of the samples of {twin} are saturated than of real images."
        )
    return reasons


# ---------------------------------------------------------------------------
# Facts, and all of it
# ---------------------------------------------------------------------------


def step_facts(
    series: Series,
    tests: Tests,
    references: Mapping[str, Reference],
    underfit: Mapping[int, tuple[str, ...]],
    losses: np.ndarray,
    attacks: Mapping[int, Mapping[float, float]],
) -> list[StepFacts]:
    """Gather what the verdict on each checkpoint rests on."""
    scope, facts, judged = series.scope, [], series.scope.judged_spaces
    loss_reference = leaning.reference_loss(series.linear, series.pool) if tests.loss else intervals.NAN
    least = int(np.nan_to_num(losses.mean(axis=1), nan=np.inf).argmin()) if losses.shape[1] else 0
    for i, step in enumerate(scope.steps):
        found = tests.loss.get(step)
        facts.append(
            StepFacts(
                step,
                {s: lean_fact(tests.lean[step, s], references[s], scope.n_samples) for s in judged if tests.lean},
                LossLean(found.estimate.value, found.low, found.high, found.p_corrected, loss_reference)
                if found
                else None,
                {space: tests.copying[step, space] for space in judged if tests.copying},
                underfit[step],
                intervals.paired_lower(losses[i], losses[least]) / losses[least].mean()
                if losses.shape[1]
                else intervals.NAN,
                curve(series, "kid", [step], scope.quality_space)[0] if scope.with_heldout and tests.copying else None,
                attacks.get(step, {}),
            )
        )
    return facts


def measure(
    run: RunDirectory, scope: Scope, budgets: Budgets, say: Callable[[str], None] = lambda text: None
) -> Measured:
    """Write measurements, onsets and verdicts of a run from its evidence."""
    measured = compute(run, scope, budgets, say)
    write(run, measured)
    return measured


def write(run: RunDirectory, measured: Measured) -> None:
    """Write measurements, onsets and verdicts."""
    for name, columns in LAYOUTS.items():
        tables.write(run.table(name), columns, measured.rows[name])
    tables.write(run.table("metrics"), tables.METRICS, definition_rows())


def definition_rows() -> list[dict[str, Any]]:
    """Return the rows of metrics.parquet: what each metric means, so that a run explains itself wherever it is read."""
    names = ("question", "reference", "unit", "direction", "k", "per_space")
    found = [registry.lookup("metric", name) for name in registry.METRICS]
    return [
        {"metric": each.name, "twins": ",".join(each.twins), **{name: getattr(each, name) for name in names}}
        for each in found
    ]


def compute(
    run: RunDirectory, scope: Scope, budgets: Budgets, say: Callable[[str], None] = lambda text: None
) -> Measured:
    """Return what the evidence of a run says; nothing is written."""
    say("reading the evidence")
    series = read_series(run, scope)
    say("testing and estimating")
    relabeling = relabel(series.pool, derived_seed("relabel", scope.seed)) if scope.with_lean else None
    tests = test_series(series, relabeling)
    references = {
        space: leaning.reference_share({t: series.landings["smooth", t, space] for t in TWINS}, series.pool)
        for space in (scope.spaces if scope.with_lean else ())
    }
    losses = curve(series, "loss_heldout", scope.steps, scope.first_space)
    distances = {space: curve(series, "twin_distance_ratio", scope.steps, space) for space in scope.spaces}
    predictions = curve(series, "prediction_variance", scope.steps, scope.first_space)
    loss = onsets.loss_onset(scope, losses)
    underfit = underfit_reasons(series, losses, loss, budgets)
    kept = [i for i, step in enumerate(scope.steps) if not underfit[step]]
    evaluable = [scope.steps[i] for i in kept]
    divergence = {
        space: onsets.divergence_onset(scope, space, evaluable, each[kept]) for space, each in distances.items()
    }
    alike = onsets.predictions_onset(scope, evaluable, predictions[kept])
    context = Context(
        (divergence[scope.headline_space] if scope.with_samples else alike).steps,
        loss.steps,
        scope.n_samples if scope.with_samples else 0,
        tuple(controls.failed_controls(series, relabeling, references, budgets)) if scope.with_train else (),
        tuple(controls.differing_halves(series, relabeling)) if relabeling else (),
    )
    attacks = membership.attack_rows(series)
    facts = step_facts(series, tests, references, underfit, losses, membership.upper_limits(attacks))
    recommendation = verdict.recommend(facts, context, budgets)
    decisions = [
        replace(verdict.judge(each, context, budgets), recommended=each.step == recommendation.step) for each in facts
    ]
    checks = {
        "distrust": list(context.distrust),
        "not_exchangeable": list(context.not_exchangeable),
        "smooth_reference": {space: each.share for space, each in references.items()},
        "smooth_reference_se": {space: each.se for space, each in references.items()},
        "phase": phase_check(scope, losses[kept], distances, kept, evaluable),
        "copy_ratio": copy_ratios(series),
        "attacks_withheld": sorted({row["target_fpr"] for row in attacks if np.isnan(row["tpr"])}),
        "linear_reference": facts[0].loss.reference if facts[0].loss else None,
        "recommendation": {
            "status": recommendation.status,
            "step": recommendation.step,
            "sentence": recommendation.sentence,
        },
    }
    by_scale = scale_curves.rows(series, relabeling)
    found = onsets.onset_rows(divergence, alike, loss, facts, budgets)
    found += scale_curves.onset_rows(series, by_scale, evaluable, budgets)
    for space in scope.scale_spaces if tests.lean else ():
        leans = [lean_fact(tests.lean[step, space], references[space], scope.n_samples) for step in evaluable]
        found.append(onsets.lean_row("bias", space, evaluable, leans, budgets))
    rows, curves = estimate_rows(series, tests), Curves(losses, distances)
    images = {
        "profiles": by_noise.profile_rows(series, relabeling),
        "attacks": attacks,
        "exposure": membership.exposure_rows(series),
        "scales": by_scale,
    }
    found.sort(key=lambda row: (row["onset"], row["space"]))
    return Measured(rows, found, decisions, recommendation, checks, facts, context, curves, images)


def copy_ratios(series: Series) -> dict[str, float | None]:
    """Return by space the ratio d1 / d2 below which --fpr flags a copy; empty without --fpr."""
    if series.scope.fpr is None:
        return {}
    first = series.scope.steps[0]
    return {space: series.evidence[first, "a", space].copy_ratio for space in series.scope.spaces}


def find_phase(scope: Scope, losses: np.ndarray, distances: np.ndarray, evaluable: Sequence[int]) -> phase.Phase:
    """Look for a span in which the held-out loss falls while the twins diverge, rows of both curves at these steps."""
    seeds = derived_seed("seeds", scope.seed), derived_seed("images", scope.seed)
    return phase.find(distances, losses, evaluable, seeds, derived_seed("jitter", "phase", scope.seed))


def phase_check(
    scope: Scope, losses: np.ndarray, distances: Mapping[str, np.ndarray], kept: Sequence[int], evaluable: Sequence[int]
) -> dict[str, Any]:
    """Return the biased phase as the record of a run holds it; what it needs, samples, a quick audit has not."""
    if not scope.with_samples:
        return {"note": "no samples were drawn"}
    found = find_phase(scope, losses, distances[scope.headline_space][kept], evaluable)
    return {name: without_nan(value) for name, value in asdict(found).items()}


def without_nan(value: Any) -> Any:
    """Return None for NaN, which JSON does not know."""
    return None if isinstance(value, float) and np.isnan(value) else value


def decision_row(decision: Decision) -> dict[str, Any]:
    """Return one row of verdicts.parquet."""
    return {
        "step": decision.step,
        "verdict": decision.verdict,
        "recommended": decision.recommended,
        "reasons": " ".join(decision.reasons),
    }
