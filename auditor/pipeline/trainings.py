"""Three or more trainings: every pair of them is audited as twins, and the pairs are put together (statistics 12).

A training is sampled once: the pairs share its samples and features by hard links. Their
own run directories lie in ``pairs/`` and are complete audits.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from auditor import inputs, measuring, pipeline
from auditor.config import AuditConfig, Budgets, budgets_from_file, kept_budgets
from auditor.errors import AuditError
from auditor.inputs.asked import Asked
from auditor.inputs.loaded import Loaded, Say
from auditor.measuring import Measured, advice, onsets, published, together
from auditor.measuring.estimates import estimate_fields
from auditor.pipeline.plan import in_order, plan, refuse_loss_of_work
from auditor.pipeline.record import checkpoint_rows, record
from auditor.records import TWINS
from auditor.run import RunDirectory, columns, restored, tables
from auditor.scope import Scope
from auditor.stages import made_of, stage, step_of
from auditor.stats import intervals

LEAST = 3  # trainings; two are --ckpts-a and --ckpts-b
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
RESERVED = ("both",)  # of the column `twin`

Pair = tuple[str, str]
Expect = Callable[[int], None]  # told how many network calls the next part takes


@dataclass(frozen=True)
class Training:
    """One training: where its checkpoints and its images lie."""

    name: str
    ckpts: str
    train: str


def trainings_of(config: AuditConfig) -> dict[str, Training]:
    """Return the trainings given by ``--ckpts NAME=DIR --train NAME=PATH``, in the order given.

    Raises
    ------
    AuditError
        If there are fewer than three, a name is repeated or not usable, or one lacks its images.
    """
    ckpts, train = (named(getattr(config, name), f"--{name}") for name in ("ckpts", "train"))
    if config.ckpts_a or config.ckpts_b or config.train_a or config.train_b:
        raise AuditError("--ckpts and --ckpts-a are both given.", "--ckpts", "Name every training by --ckpts NAME=DIR.")
    if len(ckpts) < LEAST:
        remedy = "Give --ckpts-a DIR --ckpts-b DIR for two trainings, or name a third."
        raise AuditError(f"{len(ckpts)} trainings are named.", "--ckpts", remedy)
    if set(train) != set(ckpts):
        odd = ", ".join(sorted(set(train) ^ set(ckpts)))
        raise AuditError(
            f"Not both checkpoints and images are given: {odd}.", "--train", "Give --train NAME=PATH each."
        )
    return {name: Training(name, path, train[name]) for name, path in ckpts.items()}


def named(values: Sequence[str], flag: str) -> dict[str, str]:
    """Return ``NAME=PATH`` arguments by name."""
    found: dict[str, str] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals or not path or not NAME.fullmatch(name) or name in RESERVED:
            remedy = f"Write {flag} NAME=PATH, NAME of letters, digits, '.', '_' and '-', and not 'both'."
            raise AuditError(f"{value!r} names no training.", flag, remedy)
        if name in found:
            raise AuditError(f"The training {name!r} is given twice.", flag, "Give each training a name of its own.")
        found[name] = path
    return found


def pair_config(config: AuditConfig, first: Training, second: Training, out: str) -> AuditConfig:
    """Return the settings of one pair, audited as twins."""
    return replace(
        config,
        ckpts=(),
        train=(),
        ckpts_a=first.ckpts,
        ckpts_b=second.ckpts,
        train_a=first.train,
        train_b=second.train,
        out=out,
    )


def label(pair: Pair) -> str:
    """Return the pair as the column ``twin`` has it."""
    return "|".join(pair)


# ---------------------------------------------------------------------------
# Auditing
# ---------------------------------------------------------------------------


def prepare(config: AuditConfig, run: RunDirectory, say: Say) -> dict[Pair, Loaded]:
    """Read and check every pair before the first network call; alpha is shared among the pairs."""
    found = trainings_of(config)
    pairs = {}
    for pair in combinations(found, 2):
        folder = run.pair(*pair)
        settings = pair_config(config, found[pair[0]], found[pair[1]], str(folder.root))
        loaded = inputs.prepare(settings, folder, say)
        alpha = loaded.asked.budgets.alpha * 2 / (len(found) * (len(found) - 1))
        shared = replace(loaded.asked, budgets=replace(loaded.asked.budgets, alpha=alpha))
        pairs[pair] = replace(loaded, asked=shared)
    first = next(iter(pairs.values()))
    for pair, loaded in pairs.items():
        if loaded.pair.steps != first.pair.steps:
            raise AuditError(
                f"The trainings {label(pair)} have other steps in common than the first pair.",
                run.root,
                "Give the steps that all trainings have by --steps.",
            )
    return pairs


def audit(
    config: AuditConfig, pairs: Mapping[Pair, Loaded], run: RunDirectory, say: Say, expect: Expect, remake: bool
) -> None:
    """Audit every pair, then write the tables of all. The caller holds the lock of ``run``."""
    done: dict[Pair, Measured] = {}
    for pair, loaded in pairs.items():
        share(run, pair, list(done), loaded.asked)
        done[pair] = audit_part(loaded, run.pair(*pair), label(pair), say=say, expect=expect, remake=remake)
    first = next(iter(pairs.values()))
    scope, budgets = whole_scope(pairs), budgets_from_file(config.budgets)
    measured = combine(done, scope, budgets)
    rows = [row for pair, each in pairs.items() for row in named_checkpoints(pair, each)]
    unique = {(row["twin"], row["step"], row["path"]): row for row in rows}
    tables.write(run.table("checkpoints"), columns.CHECKPOINTS, [unique[key] for key in sorted(unique)])
    measuring.write(run, measured)
    published.write(run, config, scope, {pair: run.pair(*pair) for pair in done})
    facts = record(first, "complete", {}, measured.checks)
    notes = [f"{label(pair)}: {note}" for pair, each in pairs.items() for note in each.notes]
    facts |= {"given": asdict(config), "scope": scope.as_record(), "budgets": asdict(budgets), "notes": notes}
    run.write_record(facts | {"pairs": [list(pair) for pair in pairs], "tables": run.table_digests()})
    pipeline.write_page(run)


def audit_part(loaded: Loaded, folder: RunDirectory, name: str, *, say: Say, expect: Expect, remake: bool) -> Measured:
    """Audit one pair of several in its own folder; ``name`` stands before what is said."""
    tasks = plan(loaded.asked, folder)
    refuse_loss_of_work(tasks, folder, remake)
    with folder.locked():
        expect(sum(task.calls for task in tasks))
        return pipeline.audit(loaded, folder, tasks, lambda text, calls: say(f"{name}: {text}", calls))


def share(run: RunDirectory, pair: Pair, done: Sequence[Pair], asked: Asked) -> None:
    """Give a pair what an earlier pair made of the same training."""
    for twin, name in zip(TWINS, pair, strict=True):
        for earlier in (each for each in done if name in each):
            adopt(run.pair(*pair), twin, run.pair(*earlier), TWINS[earlier.index(name)], asked)


def adopt(target: RunDirectory, twin: str, source: RunDirectory, letter: str, asked: Asked) -> None:
    """Take over what another run made of one training alone, which is ``letter`` there and ``twin`` here."""
    for item in in_order(asked):
        kind = stage(item.stage)
        if kind.alone and item.of.startswith(f"{twin}/"):
            names = kind.files(item.of, item.space)
            theirs = kind.files(f"{letter}/{step_of(item.of)}", item.space)
            for mine, other in zip(names, theirs, strict=True):
                target.adopt(target.root / mine, source.root / other, made_of(target, asked, item))


def whole_scope(pairs: Mapping[Pair, Loaded]) -> Scope:
    """Return the axes of the tables of all trainings."""
    names = tuple(dict.fromkeys(name for pair in pairs for name in pair))
    return replace(next(iter(pairs.values())).asked.scope, twins=names)


def named_checkpoints(pair: Pair, loaded: Loaded) -> list[dict[str, Any]]:
    """Return the rows of checkpoints.parquet with the trainings' names for a and b."""
    names = dict(zip(TWINS, pair, strict=True))
    return [row | {"twin": names[row["twin"]]} for row in checkpoint_rows(loaded)]


# ---------------------------------------------------------------------------
# A second training on half a
# ---------------------------------------------------------------------------


def prepare_same_data(config: AuditConfig, loaded: Loaded, run: RunDirectory, say: Say) -> Loaded:
    """Read and check the second training on half a: it is compared with twin a, on held-out images alone."""
    alone: dict[str, Any] = {name: None for name in ("train_a", "train_b", "fpr", "ckpts_a2", "pair")}
    alone |= {name: getattr(loaded.asked.config, name) for name in ("loss_images", "loss_levels")}  # the same cells
    steps = ",".join(map(str, loaded.pair.steps))
    given: dict[str, Any] = {"ckpts_b": config.ckpts_a2, "steps": steps, "spaces": loaded.asked.config.spaces}
    plain = replace(config.without_extras(), **alone, **given, out=str(run.same_data.root))
    found = inputs.prepare(plain, run.same_data, say)
    missing = sorted(set(loaded.pair.steps) - set(found.pair.steps))
    if missing:
        raise AuditError(
            f"The second training on half a has no usable checkpoint at steps {', '.join(map(str, missing))}.",
            "--ckpts-a2",
            "Save it at the same steps, or name the steps that all have by --steps.",
        )
    return found


def audit_same_data(loaded: Loaded, run: RunDirectory, say: Say, expect: Expect, remake: bool) -> None:
    """Audit the two trainings on half a, and give their samples of twin a to the run that they belong to."""
    folder, samples = run.same_data, stage("samples")
    for of in (f"a/{step}" for step in loaded.pair.steps):
        (name,) = samples.files(of)
        folder.adopt(folder.root / name, run.root / name)
    audit_part(loaded, folder, "same data", say=say, expect=expect, remake=remake)
    adopt(run, "a", folder, "a", loaded.asked)


# ---------------------------------------------------------------------------
# Putting the pairs together
# ---------------------------------------------------------------------------


def compute(run: RunDirectory, record: Mapping[str, Any], say: Callable[[str], None] = lambda text: None) -> Measured:
    """Return what the evidence of all pairs says together; nothing is written."""
    done = {}
    for pair in (tuple(names) for names in record["pairs"]):
        folder = run.pair(*pair)
        say(f"reading {label(pair)}")
        done[pair] = measuring.compute(folder, *scope_and_budgets(folder, folder.read_record()), say)
    return combine(done, *scope_and_budgets(run, record))


def scope_and_budgets(run: RunDirectory, record: Mapping[str, Any]) -> tuple[Scope, Budgets]:
    """Return what a run was asked to look at, and its margins."""
    return restored(Scope, record["scope"], run.record), restored(Budgets, kept_budgets(record["budgets"]), run.record)


def combine(done: Mapping[Pair, Measured], scope: Scope, budgets: Budgets) -> Measured:
    """Return tables, onsets and verdicts of all trainings from those of their pairs."""
    facts = {label(pair): each.facts for pair, each in done.items()}
    contexts = {label(pair): each.context for pair, each in done.items() if each.context is not None}
    shared = replace(budgets, alpha=budgets.alpha / len(done))
    recommendation = together.recommend_together(facts, contexts, shared)
    judged = [
        together.judge_together({label(pair): each.decisions[i] for pair, each in done.items()})
        for i in range(len(scope.steps))
    ]
    decisions = [replace(each, recommended=each.step == recommendation.step) for each in judged]
    first = next(iter(done.values()))
    checks = {
        "rules": measuring.RULES,
        **{
            name: [f"{label(p)}: {said}" for p, each in done.items() for said in each.checks[name]]
            for name in ("distrust", "not_exchangeable", "not_the_halves", "caveats")
        },
        "smooth_reference": {
            space: float(np.mean([each.checks["smooth_reference"][space] for each in done.values()]))
            for space in first.checks["smooth_reference"]
        },
        "phase": {"note": "see the pairs"},
        "recommendation": asdict(recommendation),
        "advice": advice.advice_of_pairs(recommendation, decisions, facts, contexts, shared),
    }
    return Measured(
        estimate_rows(done, scope),
        onset_rows(done, scope, shared),
        decisions,
        recommendation,
        checks,
        first.facts,
        first.context,
        first.curves,
    )


def estimate_rows(done: Mapping[Pair, Measured], scope: Scope) -> list[dict[str, Any]]:
    """Return the rows of measurements.parquet: of every training, of every pair, and ``both`` for all pairs."""
    by_name: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    by_pair: dict[Any, dict[Pair, dict[str, Any]]] = defaultdict(dict)
    rows: list[dict[str, Any]] = []
    for pair, each in done.items():
        names = dict(zip(TWINS, pair, strict=True))
        for row in map(dict, each.estimates):
            key = (row["step"], row["space"], row["metric"])
            if row["twin"] == "both":
                by_pair[key][pair] = row
                rows.append(row | {"twin": label(pair)})
            else:
                by_name[*key, names[row["twin"]]].append(row)
    rows += [of_training(found) | {"twin": key[-1]} for key, found in by_name.items()]
    rows += [of_all(found, scope.twins) for found in by_pair.values()]
    return sorted(rows, key=lambda row: (row["step"], row["space"], row["metric"], row["twin"]))


def of_training(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a training's row from those of its pairs: the same in all of them, or their mean without an interval."""
    values = np.array([row["value"] for row in found])
    if np.isnan(values).any() or np.ptp(values) <= 1e-12 * np.abs(values).max():
        return max(found, key=lambda row: np.isnan(row["value"]))
    note = f"mean over {len(found)} pairs, which are not independent: each has its own interval"
    return blank_interval(found[0]) | {"value": float(values.mean()), "note": note}


def of_all(found: Mapping[Pair, dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Return the mean over pairs with the interval of the node jackknife, trainings being the units."""
    row = blank_interval(next(iter(found.values())))
    estimate = intervals.node_jackknife({pair: each["value"] for pair, each in found.items()}, names)
    p = [each["p_corrected"] for each in found.values()]
    corrected = min(1.0, len(p) * min(p)) if np.isfinite(p).all() else intervals.NAN
    return row | estimate_fields(estimate) | {"p_corrected": corrected}


def blank_interval(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without its interval and its p values."""
    lost = ("low", "high", "low_corrected", "high_corrected", "p_value", "p_corrected")
    return {**row, **dict.fromkeys(lost, intervals.NAN), "method": ""}


def onset_rows(done: Mapping[Pair, Measured], scope: Scope, budgets: Budgets) -> list[dict[str, Any]]:
    """Return the onsets of the mean over pairs; a risk begins where it is not shown small, or found, in any pair."""
    measured = list(done.values())
    underfit = {f.step for each in measured for f in each.facts if f.underfit}
    kept = [i for i, step in enumerate(scope.steps) if step not in underfit]
    evaluable = [scope.steps[i] for i in kept]
    curves = [each.curves for each in measured if each.curves is not None]
    losses = np.mean([each.losses for each in curves], axis=0)
    rows = [onsets.onset_row("loss", "", onsets.loss_onset(scope, losses))]
    for space in scope.vector_spaces:
        distances = np.mean([each.distances[space] for each in curves], axis=0)[kept]
        rows.append(onsets.onset_row("divergence", space, onsets.divergence_onset(scope, space, evaluable, distances)))
    for space in scope.spaces:
        for name, of in (
            (("bias", onsets.lean_state), ("copying", onsets.copy_state)) if space in scope.judged_spaces else ()
        ):
            states = [[of(each.facts[i], space, budgets) for each in measured] for i in kept]
            together = [(all(safe for safe, _ in each), any(found for _, found in each)) for each in states]
            rows.append(onsets.states_row(name, space, evaluable, together))
    return sorted(rows, key=lambda row: (row["onset"], row["space"]))
