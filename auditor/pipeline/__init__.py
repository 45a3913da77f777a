"""The order of an audit: plan what is missing, execute the plan, measure.

``plan`` is pure: it compares what is on disk with what is asked. Only this file knows the
order of the stages.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from importlib import metadata
from typing import Any

from auditor import measuring
from auditor.errors import AuditError, RunExists
from auditor.inputs.prepared import Prepared, Say
from auditor.measuring import Measured, published
from auditor.pipeline import spot_checks
from auditor.pipeline.execute import Executor
from auditor.records import TWINS, CheckpointSeries, Excluded, TwinPair, other_twin
from auditor.reports.caveats import pixel_range
from auditor.run import RunDirectory, tables
from auditor.run.files import as_json, differences, n_rows, save_array
from auditor.scope import Scope, control_names
from auditor.stages import published_losses
from auditor.stages.keys import Keys
from auditor.stages.task import Task, artefact, calls_of

VERSIONED = ("torch", "diffusers", "open_clip_torch", "faiss-gpu", "faiss-cpu", "numpy", "pandas", "pyarrow", "auditor")

# ---------------------------------------------------------------------------
# Plan
# ---------------------------------------------------------------------------


def plan(prepared: Prepared, run: RunDirectory) -> list[Task]:
    """Return every artefact of the run in the order of making, each with what is to be done and why."""
    keys = Keys(prepared)
    wanted = [*control_artefacts(prepared), *set_artefacts(prepared), *checkpoint_artefacts(prepared)]
    return with_needed_predictions(prepared, run, [plan_task(prepared, run, keys, *each) for each in wanted])


def control_artefacts(prepared: Prepared) -> Iterator[tuple[str, str, str]]:
    """Yield kind, set and space of what the controls need before anything can be compared with them."""
    for name in drawn_controls(prepared.scope):
        yield "control", name, ""
    for twin in prepared.scope.twins if prepared.scope.with_lean and prepared.with_losses else ():
        yield "control-losses", f"linear-{twin}", ""


def drawn_controls(scope: Scope) -> list[str]:
    """Return the controls that have images of their own: ``smooth-a``, ``copier-b``, ..."""
    return [f"{name}-{twin}" for name in control_names(scope) if name != "heldout" for twin in scope.twins]


def set_artefacts(prepared: Prepared) -> Iterator[tuple[str, str, str]]:
    """Yield kind, set and space of what is made once per image set."""
    scope = prepared.scope
    for space in prepared.config.space_names if scope.with_samples or scope.with_train else ():
        for name in (*prepared.sets, *drawn_controls(scope)):
            yield "features", name, space
        for name in (*prepared.sets, "pool") if scope.with_train else ():
            yield "set-evidence", name, space
        for name in control_names(scope):
            for twin in scope.twins:
                yield "control-evidence", f"{name}-{twin}", space


def checkpoint_artefacts(prepared: Prepared) -> Iterator[tuple[str, str, str]]:
    """Yield kind, twin/step and space of what is made per checkpoint, both twins of a step together."""
    names = prepared.scope.spaces
    for step in prepared.pair.steps:
        for twin in prepared.scope.twins:
            of = f"{twin}/{step}"
            if prepared.scope.with_samples:
                yield "samples", of, ""
            if prepared.with_losses:
                yield "losses", of, ""
            if published_losses.measures_losses(prepared.config, prepared.sets):
                yield "published-losses", of, ""
            if prepared.with_attacks:
                yield "attack-scores", of, ""
            if prepared.with_u_turns:
                yield "u-turns", of, ""
            for space in names:
                yield "sample-features", of, space
        if prepared.compares_predictions:
            yield "agreement", f"a/{step}", ""
        if prepared.with_trajectories:
            yield "trajectories", f"a/{step}", ""
        for space in names:
            for twin in prepared.scope.twins:
                yield "evidence", f"{twin}/{step}", space
                if "heldout" in prepared.sets:
                    yield "coverage", f"{twin}/{step}", space
                if prepared.sets:
                    yield "quality", f"{twin}/{step}", space


def with_needed_predictions(prepared: Prepared, run: RunDirectory, tasks: list[Task]) -> list[Task]:
    """Return the plan in which losses are measured again where their predictions are needed and gone."""
    asked = {task.step for task in tasks if task.kind == "agreement" and task.action != "reuse"}
    return [
        replace(
            task, action="make", reason="its predictions are needed", calls=calls_of(prepared, "losses", task.of, 0)
        )
        if task.kind == "losses"
        and task.action == "reuse"
        and task.step in asked
        and run.key(run.predictions(task.twin, task.step)) != run.key(run.losses(task.twin, task.step))
        else task
        for task in tasks
    ]


def plan_task(prepared: Prepared, run: RunDirectory, keys: Keys, kind: str, of: str, space: str = "") -> Task:
    """Compare one artefact on disk with what is asked."""
    path, key, rows = artefact(prepared, run, keys, kind, of, space)
    old = run.key(path)
    have = 0
    if old is None:
        action, reason = "make", "not there"
    elif old != as_json(key):
        action, reason = "remake", "; ".join(differences(old, as_json(key))[:3])
    elif rows is not None and n_rows(path) < rows:
        have = n_rows(path)
        action, reason = "extend", f"{have} of {rows} rows are there"
    else:
        return Task(kind, of, space, "reuse", "up to date", 0)
    return Task(kind, of, space, action, reason, calls_of(prepared, kind, of, have))


def refuse_loss_of_work(tasks: list[Task], run: RunDirectory, remake: bool) -> None:
    """Stop before finished network results would be thrown away, unless --remake says so."""
    lost = [t for t in tasks if t.action == "remake" and t.calls and t.kind in ("samples", "losses")]
    if lost and not remake:
        raise RunExists(
            f"This command would discard {len(lost)} finished artefacts; the first is {lost[0].kind} {lost[0].of} "
            f"({lost[0].reason}).",
            run.root,
            "Add --remake to make them anew, or choose another --out.",
        )


def keep_neighbour_images(prepared: Prepared, run: RunDirectory) -> None:
    """Write the training images that are some sample's nearest or second nearest, with their ids."""
    wanted: dict[str, set[str]] = {name: set() for name in prepared.sets if name != "heldout"}
    columns = [f"{role}_id_{j}" for role in ("own", "other") for j in (1, 2)]
    for space in prepared.config.space_names:
        for step in prepared.pair.steps:
            for twin in prepared.scope.twins:
                frame = tables.read(run.evidence(space, f"{twin}/{step}"), columns)
                for role, half in (("own", twin), ("other", other_twin(twin)))[: len(wanted)]:
                    wanted[f"train-{half}"] |= {i for j in (1, 2) for i in frame[f"{role}_id_{j}"].unique()} - {""}
    for name, ids in wanted.items():
        kept = [i for i, each in enumerate(prepared.sets[name].ids) if each in ids]
        key = {"ids": [prepared.sets[name].ids[i] for i in kept], "images": prepared.set_digests[name]}
        if run.key(run.images(name)) == as_json(key):
            continue  # then no image need be decoded
        with run.artefact(run.images(name), key) as temporary:
            save_array(temporary, prepared.sets[name].images[kept])


# ---------------------------------------------------------------------------
# The audit
# ---------------------------------------------------------------------------


def checkpoint_rows(prepared: Prepared) -> list[dict[str, Any]]:
    """Return one row per checkpoint found, sorted by twin and step."""
    rows = []
    for twin in TWINS:
        for c in prepared.pair.series(twin).checkpoints:
            rows.append(checkpoint_row(c.twin, c.step, c.path, "", prepared, c))
    rows += [checkpoint_row(e.twin, e.step, e.path, e.reason, prepared) for e in prepared.pair.excluded]
    return sorted(rows, key=lambda row: (row["twin"], row["step"], row["path"]))


def checkpoint_row(
    twin: str, step: int, path: Any, reason: str, prepared: Prepared, checkpoint: Any = None
) -> dict[str, Any]:
    """Return one row of checkpoints.parquet; paths are relative to the series, so a run can be moved."""
    c = prepared.config
    root = {"a": c.samples_a or c.ckpts_a, "b": c.samples_b or c.ckpts_b}[twin]
    try:
        shown = path.relative_to(root).as_posix()
    except ValueError:
        shown = path.name
    return {
        "twin": twin,
        "step": step,
        "unit": checkpoint.unit if checkpoint else "",
        "path": shown,
        "format": checkpoint.format if checkpoint else "",
        "weights": checkpoint.weights if checkpoint else "",
        "audited": checkpoint is not None,
        "reason": reason,
        "digest": checkpoint.digest if checkpoint else "",
    }


def record(prepared: Prepared, status: str, seconds: Mapping[str, float], checks: Mapping[str, Any]) -> dict[str, Any]:
    """Return run.json: the configuration as given and as resolved, versions, digests, times."""
    p = prepared
    return {
        "status": status,
        "given": asdict(p.config),
        "resolved": {
            "device": p.device,
            "batch_size": p.batch_size,
            "sampling_steps": p.sampling_steps,
            "weights": p.pair.a.checkpoints[0].weights,
            "steps": list(p.pair.steps),
            "spaces": list(p.config.space_names),
            "image_shape": list(p.image_shape),
            "unit": p.unit,
            "model": {"class": p.facts.model, "parameters": p.facts.parameters, "conditioning": p.facts.conditioning},
            "flips": asdict(p.flips),
            "pixels": {twin: each.text for twin, each in p.pixels.items()},
            "scheduler": dict(p.scheduler),
            "loss_times": p.times.tolist(),
            "loss_log_snr": p.level_log_snr.round(4).tolist(),
            "attack_times": {name: each.tolist() for name, each in p.attack_times.items()},
        },
        "scope": asdict(p.scope),
        "budgets": asdict(p.budgets),
        "sets": {name: {"images": p.n_originals(name), "digest": p.set_digests[name]} for name in p.sets},
        "notes": list(p.notes),
        "preflight": dict(p.preflight),
        "checks": dict(checks),
        "versions": versions(),
        "seconds": {kind: round(value, 2) for kind, value in seconds.items()},
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that make the numbers."""
    installed = {}
    for name in VERSIONED:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def without_failed(prepared: Prepared, failed: Mapping[int, Excluded]) -> Prepared:
    """Return the audit without the steps at which a checkpoint failed in use, in both twins, with the reasons."""
    if not failed:
        return prepared
    pair, series, excluded = prepared.pair, [], [*prepared.pair.excluded, *failed.values()]
    for twin in TWINS:
        kept = [c for c in pair.series(twin).checkpoints if c.step not in failed]
        series.append(CheckpointSeries(twin, tuple(kept)))
        excluded += [
            Excluded(twin, c.step, c.path, "the twin's checkpoint of this step is not usable")
            for c in pair.series(twin).checkpoints
            if c.step in failed and failed[c.step].twin != twin
        ]
    if not series[0].checkpoints:
        first = next(iter(failed.values()))
        raise AuditError(f"No checkpoint can be audited: {first.reason}.", first.path, "Look at the training.")
    return replace(prepared, pair=TwinPair(*series, excluded=tuple(excluded)))


def audit(prepared: Prepared, run: RunDirectory, tasks: list[Task], say: Say) -> Measured:
    """Carry out a plan, write the run's tables, and return what they say. The caller holds the lock."""
    run.write_record(record(prepared, "started", {}, {}))
    tables.write(run.table("checkpoints"), tables.CHECKPOINTS, checkpoint_rows(prepared))
    executor = Executor(prepared, run, say)
    ranges = spot_checks.ranges(prepared, executor.asking.model) if prepared.scope.with_samples else None
    for sentence in pixel_range({"checks": {"pixel_range": ranges}}):
        say(f"warning: {sentence}", 0)
    executor.execute(tasks)
    run.sweep()
    prepared = without_failed(prepared, executor.failed)
    tables.write(run.table("checkpoints"), tables.CHECKPOINTS, checkpoint_rows(prepared))
    started = time.perf_counter()
    with_samples = prepared.scope.with_samples
    checks: dict[str, Any] = {}
    if with_samples and prepared.given is None:
        checks["redraw"] = spot_checks.redrawn(prepared, run, executor.asking.model)
    checks |= {"pixel_range": ranges} if ranges is not None else {}
    if prepared.scope.with_train and with_samples:
        keep_neighbour_images(prepared, run)
    measured = measuring.measure(run, prepared.scope, prepared.budgets, lambda text: say(text, 0))
    checks |= measured.checks
    published.write(run, prepared.config, prepared.scope, {prepared.scope.twins: run})
    executor.seconds["measuring"] = time.perf_counter() - started
    run.write_record(record(prepared, "complete", executor.seconds, checks))
    say("drawing the report", 0)
    write_page(run)
    return measured


def write_page(run: RunDirectory) -> None:
    """Write the report as a page beside the tables it is made from."""
    from auditor.reports import read_report, write_reports

    write_reports(read_report(run.root), {"html": run.report})
