"""Evidence on disk to measurements, onsets and verdicts: no network, no kernels, seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from auditor.config import SETS_SPACE, Budgets
from auditor.measuring import (
    advice,
    by_noise,
    by_scale,
    classes,
    controls,
    final,
    halves,
    lean,
    membership,
    misread,
    onsets,
    phase,
    verdict,
)
from auditor.measuring.estimates import curve, definition_rows, estimate_rows
from auditor.measuring.facts import Context, LossLean, Named, Reference, StepFacts
from auditor.measuring.families import SeriesTests, all_tests
from auditor.measuring.named import named_images
from auditor.measuring.reading import EvidenceReader
from auditor.measuring.series import Series, read_series
from auditor.measuring.tail import tail_fact
from auditor.measuring.underfit import underfit_reasons
from auditor.measuring.verdict import Decision, Recommendation
from auditor.run import RunDirectory, columns, restored, tables
from auditor.scope import Scope
from auditor.seeds import derived_seed
from auditor.stats.intervals import NAN, paired_lower
from auditor.stats.minima import Onset
from auditor.stats.relabeling import Relabeling, relabel

RULES = 2  # of the verdict; 1: before every checkpoint had a risk and a quality (docs/statistics.md 10)
LOCATED = ("found", "edge")  # onsets whose confidence set says where a minimum is
LAYOUTS = {
    "measurements": columns.MEASUREMENTS,
    "onsets": columns.ONSETS,
    "verdicts": columns.VERDICTS,
    "profiles": columns.PROFILES,
    "attacks": columns.ATTACKS,
    "exposure": columns.EXPOSURE,
    "scales": columns.SCALES,
    "named": columns.NAMED,
    "classes": classes.CLASSES,
}


@dataclass(frozen=True)
class Curves:
    """The curves whose minima are located, by checkpoint and unit."""

    losses: np.ndarray  # float64 [checkpoints, images], held-out loss of both twins
    distances: Mapping[str, np.ndarray]  # by space, float64 [checkpoints, seeds], chance-normalized twin distance
    predictions: np.ndarray  # float64 [checkpoints, images], variance of the twins' predictions on held-out images


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


@dataclass(frozen=True)
class Located:
    """Which checkpoints are underfit, and where the curves have their minima over the others."""

    underfit: Mapping[int, tuple[str, ...]]  # reasons by step
    kept: Sequence[int]  # positions of the steps that are not underfit
    steps: Sequence[int]  # these steps
    loss: Onset  # over all steps
    divergence: Mapping[str, Onset]  # by space
    predictions: Onset


def measure(
    run: RunDirectory, scope: Scope, budgets: Budgets, say: Callable[[str], None] = lambda text: None
) -> Measured:
    """Write measurements, onsets and verdicts of a run from its evidence."""
    measured = compute(run, scope, budgets, say)
    write(run, measured)
    return measured


def write(run: RunDirectory, measured: Measured) -> None:
    """Write measurements, onsets and verdicts."""
    for name, layout in LAYOUTS.items():
        tables.write(run.table(name), layout, measured.rows[name])
    tables.write(run.table("metrics"), columns.METRICS, definition_rows())


def compute(
    run: RunDirectory, scope: Scope, budgets: Budgets, say: Callable[[str], None] = lambda text: None
) -> Measured:
    """Return what the evidence of a run says; nothing is written."""
    say("reading the evidence")
    series = read_series(run, scope)
    say("testing and estimating")
    relabeling = relabeling_of(series)
    tests = all_tests(series, relabeling)
    references = smooth_references(series)
    curves = curves_of(series)
    located = locate(series, curves, budgets)
    context = context_of(series, tests, relabeling, references, located, budgets)
    members = membership.told_of_members(series, budgets)
    named = named_images(series) if relabeling is not None else ({}, [])
    in_classes = classes.class_rows(series, budgets)
    context = replace(
        context,
        classes_judged=bool(in_classes),
        caveats=(*context.caveats, *classes.unjudged_classes(series, in_classes)),
    )
    facts = [
        replace(
            each,
            membership=members.steps.get(each.step),
            leaning_classes=classes.leaning_classes(in_classes, each.step),
        )
        for each in step_facts(series, tests, references, named[0], located.underfit, curves.losses)
    ]
    recommendation = verdict.recommend(facts, context, budgets)
    shipped = final_model(run, series, budgets, say) if scope.final else {}
    judged = [verdict.judge(each, context, budgets) for each in facts]
    scales = by_scale.scale_rows(series, relabeling)
    return Measured(
        estimates=estimate_rows(series, tests),
        onsets=all_onsets(series, tests, references, located, facts, scales, budgets),
        decisions=[replace(each, recommended=each.step == recommendation.step) for each in judged],
        recommendation=recommendation,
        checks=checks_of(series, references, curves, located, context, facts, judged, members, recommendation, budgets)
        | shipped,
        facts=facts,
        context=context,
        curves=curves,
        images={
            "profiles": by_noise.profile_rows(series, relabeling),
            "attacks": members.attacks,
            "exposure": members.exposure,
            "scales": scales,
            "named": named[1],
            "classes": in_classes,
        },
    )


def final_model(run: RunDirectory, beside: Series, budgets: Budgets, say: Callable[[str], None]) -> dict[str, Any]:
    """Return what is said of the model that is to be released, by its own audit within the run."""
    scope = restored(Scope, run.final.read_record()["scope"], run.final.record)
    found = compute(run.final, scope, budgets, say)
    assert found.context is not None, "it was measured"
    said = final.concluded(run, found.facts[-1], found.context, read_series(run.final, scope), beside, budgets)
    return {"final": said}


def too_few_images(run: RunDirectory, scope: Scope, budgets: Budgets) -> list[str]:
    """Return in which spaces a smooth model leans so much that the cap of the accepted lean binds (3.5).

    It takes the evidence of the controls alone, and can so be told before the first sample is drawn.
    """
    references = {}
    for space in scope.judged_spaces if scope.with_lean else ():
        reader = EvidenceReader(run, space, scope)
        assert reader.pool is not None, "training images were given"
        lands = {twin: reader.read_control("smooth", twin)[1] for twin in scope.twins}
        references[space] = lean.reference_share(lands, reader.pool)
    return capped_leans(references, budgets)


def unlike_sets(run: RunDirectory, scope: Scope) -> list[str]:
    """Return that training and held-out images of a single training do not come from one deal (14.3).

    Like the above it is known before the first sample is drawn, from the tables of the image sets.
    """
    if not scope.decoys:
        return []
    readers = {space: EvidenceReader(run, space, scope) for space in scope.spaces or (SETS_SPACE,)}
    first = next(iter(readers.values()))
    assert first.pool is not None, "training images were given"
    relabeling = relabel(first.pool, derived_seed("relabel", scope.seed))
    nearest = {space: reader.nearest_in_pool() for space, reader in readers.items()}
    return controls.differing_halves(nearest, first.pool_table.brightness.to_numpy(), relabeling, scope.decoys)


def capped_leans(references: Mapping[str, Reference], budgets: Budgets) -> list[str]:
    """Return in which spaces the cap of the accepted lean binds, in a sentence; none where it does in no space."""
    beyond = 0.5 + budgets.lean_safe_most - budgets.lean_safe_beyond_reference
    capped = [f"{space} (own_share {each.share:.3f})" for space, each in references.items() if each.share > beyond]
    if not capped:
        return []
    return [
        "Too few training images to tell a smooth model from one that leans: a Gaussian fitted to each half leans as "
        f"much in {', '.join(capped)}, and own_share is accepted up to {0.5 + budgets.lean_safe_most:.2f}."
    ]


def relabeling_of(series: Series) -> Relabeling | None:
    """Return the assignments of images to halves that all tests of the run share; None without two halves."""
    if not series.scope.with_lean or series.pool is None:
        return None
    return relabel(series.pool, derived_seed("relabel", series.scope.seed))


def smooth_references(series: Series) -> dict[str, Reference]:
    """Return by space the own_share of the smooth reference; none without two halves."""
    if not series.scope.with_lean or series.pool is None:
        return {}
    return {space: lean.reference_share(series.lands("smooth", space), series.pool) for space in series.scope.spaces}


def curves_of(series: Series) -> Curves:
    """Return the curves along the series whose minima are located."""
    scope = series.scope
    return Curves(
        curve(series, "loss_heldout", scope.steps, scope.first_space),
        {space: curve(series, "twin_distance_ratio", scope.steps, space) for space in scope.vector_spaces},
        curve(series, "prediction_variance", scope.steps, scope.first_space),
    )


def locate(series: Series, curves: Curves, budgets: Budgets) -> Located:
    """Return which checkpoints are underfit, and the minima of the curves over the others."""
    scope = series.scope
    loss = onsets.loss_onset(scope, curves.losses)
    underfit = underfit_reasons(series, curves.losses, loss, budgets)
    kept = [i for i, step in enumerate(scope.steps) if not underfit[step]]
    steps = [scope.steps[i] for i in kept]
    return Located(
        underfit=underfit,
        kept=kept,
        steps=steps,
        loss=loss,
        divergence={
            space: onsets.divergence_onset(scope, space, steps, each[kept]) for space, each in curves.distances.items()
        },
        predictions=onsets.predictions_onset(scope, steps, curves.predictions[kept]),
    )


def context_of(
    series: Series,
    tests: SeriesTests,
    relabeling: Relabeling | None,
    references: Mapping[str, Reference],
    located: Located,
    budgets: Budgets,
) -> Context:
    """Return what holds for the whole run: onsets, and whether it can be trusted."""
    scope = series.scope
    divergence = located.divergence[scope.headline_space] if scope.with_samples else located.predictions
    failed = controls.failed_controls(series, relabeling, budgets) if scope.with_train else []
    looked = halves.look_at(series, tests, budgets)
    return Context(
        divergence=divergence.steps if divergence.status in LOCATED else (),
        loss=located.loss.steps,
        n_seeds=scope.n_samples if scope.with_samples else 0,
        distrust=(*failed, *misread.misread_networks(series)),
        not_exchangeable=tuple(differing_halves(series, relabeling)) if relabeling else (),
        not_the_halves=looked.wrong,
        with_heldout=scope.with_heldout,
        release=scope.release,
        release_size=scope.release_size,
        weights=scope.weights,
        single=scope.decoys,
        caveats=(
            *capped_leans({s: each for s, each in references.items() if s in scope.judged_spaces}, budgets),
            *looked.caveats,
            *controls.near_heldout_told(series),
        ),
    )


def differing_halves(series: Series, relabeling: Relabeling) -> list[str]:
    """Return why the halves may not be exchangeable (1.2)."""
    brightness = next(iter(series.pool_tables.values())).brightness.to_numpy()
    return controls.differing_halves(series.nearest_in_pool, brightness, relabeling, series.scope.decoys)


def step_facts(
    series: Series,
    tests: SeriesTests,
    references: Mapping[str, Reference],
    named: Mapping[tuple[int, str], Named],
    underfit: Mapping[int, tuple[str, ...]],
    losses: np.ndarray,
) -> list[StepFacts]:
    """Gather what the verdict on each checkpoint rests on."""
    scope, n, judged = series.scope, series.scope.n_samples, series.scope.judged_spaces
    facts = []
    loss_reference = lean.reference_loss(series.linear, series.pool) if tests.loss and series.pool else NAN
    least = int(np.nan_to_num(losses.mean(axis=1), nan=np.inf).argmin()) if losses.shape[1] else 0
    for i, step in enumerate(scope.steps):
        found = tests.loss.get(step)
        rise = paired_lower(losses[i], losses[least]) / losses[least].mean() if losses.shape[1] else NAN
        with_kid = scope.with_heldout and tests.copying
        facts.append(
            StepFacts(
                step=step,
                lean={
                    s: lean.lean_fact(tests.lean[step, s], references[s], n, len(judged)) for s in judged if tests.lean
                },
                loss=LossLean(found.estimate.value, found.low, found.high, found.p_corrected, loss_reference)
                if found
                else None,
                copying={space: tests.copying[step, space] for space in judged if tests.copying},
                underfit=underfit[step],
                loss_rise=rise,
                kid=curve(series, "kid", [step], scope.quality_space)[0] if with_kid else None,
                tails={
                    s: tail_fact(
                        series.lands(step, s),
                        series.pool,
                        tests.lean[step, s].tail_p_corrected,
                        references[s].tail,
                    )
                    for s in judged
                    if tests.lean and series.pool is not None
                },
                named={s: named[step, s] for s in judged if (step, s) in named},
                fit_judged=scope.with_heldout,
            )
        )
    return facts


def all_onsets(
    series: Series,
    tests: SeriesTests,
    references: Mapping[str, Reference],
    located: Located,
    facts: Sequence[StepFacts],
    scales: Sequence[Mapping[str, Any]],
    budgets: Budgets,
) -> list[dict[str, Any]]:
    """Return the rows of onsets.parquet, of all scales together and of each; ``scales`` are those of scales.parquet."""
    found = onsets.onset_rows(located.divergence, located.predictions, located.loss, facts, budgets)
    found += by_scale.scale_onset_rows(series, scales, located.steps, budgets)
    n = series.scope.n_samples
    for space in series.scope.scale_spaces if tests.lean else ():
        leans = [lean.lean_fact(tests.lean[step, space], references[space], n) for step in located.steps]
        found.append(onsets.lean_row("bias", space, located.steps, leans, budgets))
    if series.scope.unlike_progress:
        found = [onsets.unclaimed(row) for row in found]
    return sorted(found, key=lambda row: (row["onset"], row["space"]))


def checks_of(
    series: Series,
    references: Mapping[str, Reference],
    curves: Curves,
    located: Located,
    context: Context,
    facts: Sequence[StepFacts],
    judged: Sequence[Decision],
    members: membership.ToldOfMembers,
    recommendation: Recommendation,
    budgets: Budgets,
) -> dict[str, Any]:
    """Return the checks that the record of a run holds."""
    return {
        "rules": RULES,
        "distrust": list(context.distrust),
        "not_exchangeable": list(context.not_exchangeable),
        "not_the_halves": list(context.not_the_halves),
        "caveats": list(context.caveats),
        "near_heldout": sorted(series.near_heldout),
        "smooth_reference": {space: each.share for space, each in references.items()},
        "smooth_reference_se": {space: each.se for space, each in references.items()},
        "phase": phase.of_one_training(facts, located.loss, budgets)
        if series.scope.decoys and series.scope.with_samples
        else phase.phase_check(series.scope, curves.losses, curves.distances, located.kept),
        "copy_ratio": copy_ratios(series),
        "membership": members.record,
        "linear_reference": facts[0].loss.reference if facts[0].loss else None,
        "recommendation": asdict(recommendation),
        "advice": advice.advice(recommendation, judged, facts, context, budgets),
    }


def copy_ratios(series: Series) -> dict[str, float | None]:
    """Return by space the ratio d1 / d2 below which --fpr flags a copy; empty without --fpr."""
    if series.scope.fpr is None:
        return {}
    first = series.scope.steps[0]
    return {space: series.evidence[first, "a", space].copy_ratio for space in series.scope.spaces}


def decision_row(decision: Decision) -> dict[str, Any]:
    """Return one row of verdicts.parquet."""
    return {
        "step": decision.step,
        "risk": decision.risk,
        "quality": decision.quality,
        "verdict": decision.verdict,
        "recommended": decision.recommended,
        "reasons": " ".join(decision.reasons),
    }
