"""Recompute what a finished run says from its evidence, and compare it with what lies on disk.

Up to rounding (1e-12) every number must come out the same. What made the evidence,
network and search, is not repeated; that it belongs to this run's samples is read from the
keys.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from auditor import measuring
from auditor.config import SETS_SPACE, Budgets
from auditor.diffusion import schedules
from auditor.errors import AuditError
from auditor.measuring import LAYOUTS, Measured, published
from auditor.pipeline import trainings
from auditor.run import RunDirectory, as_json, n_rows, restored, tables
from auditor.scope import Scope, control_names
from auditor.stages import published_losses

ROUNDING = 1e-12  # relative; another BLAS sums in another order
ZERO = 1e-15  # absolute, for differences that cancel
SHOWN = 10  # differences that the error tells
BRIEF = 60  # characters of a sentence that is told
SCHEMA_VERSION = 1  # of the JSON
KEYS = {
    "measurements": ("step", "space", "metric", "twin"),
    "onsets": ("onset", "space"),
    "verdicts": ("step",),
    "profiles": ("step", "metric", "twin", "t"),
    "scales": ("step", "scale", "metric"),
    "attacks": ("step", "twin", "target_fpr"),
    "exposure": ("step", "half", "id"),
    "protocol": ("quantity", "twin", "space", "step"),
}
COLUMNS = LAYOUTS | {"protocol": tables.PROTOCOL}
NOT_RECOMPUTED = ("redraw", "pixel_range")  # of the checks in run.json: they need the network
DECIDING = ("auditor", "numpy", "pandas")  # packages that turn evidence into numbers

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Difference:
    """One value on disk that the evidence does not give."""

    table: str
    key: Mapping[str, Any]  # names the row; empty in run.json
    column: str
    stored: Any
    recomputed: Any

    @property
    def sentence(self) -> str:
        """Say where, and both values."""
        where = "".join(f", {name} {value}" for name, value in self.key.items() if value != "")
        return (
            f"{self.table}{where}: {self.column} is {brief(self.stored)}, the evidence gives {brief(self.recomputed)}"
        )


@dataclass(frozen=True)
class Verification:
    """What was compared, and what does not agree."""

    root: Path
    values: int
    problems: tuple[str, ...] = ()  # missing or foreign artefacts; then nothing is recomputed
    differences: tuple[Difference, ...] = ()
    versions: tuple[str, ...] = ()  # packages that are not those of the run

    @property
    def agrees(self) -> bool:
        """Whether nothing is missing and nothing differs."""
        return not self.problems and not self.differences

    @property
    def sentence(self) -> str:
        """What a verified run is told."""
        return f"{self.values:,} values in {len(LAYOUTS)} tables and run.json agree with the evidence."

    def require(self) -> None:
        """Raise an AuditError that tells the first problems or differences, if there are any."""
        if self.problems:
            raise AuditError(
                f"The run is not whole ({len(self.problems)} problems).{listed(self.problems)}",
                self.root,
                "Give the audit run command again: it makes what is missing.",
            )
        if self.differences:
            remade = f" The versions differ: {', '.join(self.versions)}." if self.versions else ""
            raise AuditError(
                f"{len(self.differences):,} of {self.values:,} values differ from what the evidence gives."
                f"{listed([each.sentence for each in self.differences])}",
                self.root,
                "The tables or the evidence were changed after the run, or another version of auditor made them. If the"
                f" evidence is to be trusted, give the audit run command again: it writes the tables anew.{remade}",
            )

    def as_json(self) -> str:
        """Return everything as one JSON object."""
        facts = {
            "schema": SCHEMA_VERSION,
            "agrees": self.agrees,
            "values": self.values,
            "problems": list(self.problems),
            "differences": [{k: plain(v) for k, v in flat(each).items()} for each in self.differences],
            "versions": list(self.versions),
        }
        return json.dumps(facts, indent=2)


def verify(root: str | Path, say: Callable[[str], None] = lambda text: None) -> Verification:
    """Return whether the tables of a run are what its evidence gives.

    Raises
    ------
    AuditError
        If there is no finished run.
    """
    run = RunDirectory(root)
    record = run.read_record()
    if record["status"] != "complete":
        raise AuditError(
            "The run is not finished: there is nothing to compare.", root, "Give the audit run command again."
        )
    if "pairs" in record:
        return verify_pairs(run, record, say)
    scope, budgets = restored(Scope, record["scope"], run.record), restored(Budgets, record["budgets"], run.record)
    problems = tuple(problems_of(run, record, scope))
    if problems:
        return Verification(run.root, 0, problems)
    measured = measuring.compute(run, scope, budgets, say)
    say("comparing")
    return compare_run(run, record, measured)


def compare_run(run: RunDirectory, record: Mapping[str, Any], measured: Measured) -> Verification:
    """Return how the tables and the record of a run compare with what was measured anew."""
    n, found = compare_checks(record["checks"], as_json(measured.checks))
    for name in LAYOUTS:
        stored = tables.read(run.table(name)).to_dict("records")
        more, differences = compare(name, stored, measured.rows[name])
        n, found = n + more, [*found, *differences]
    if by_paper(record):
        scope = restored(Scope, record["scope"], run.record)
        pairs = {tuple(pair): run.pair(*pair) for pair in record.get("pairs", [])} or {scope.twins: run}
        stored = tables.read(run.table("protocol")).to_dict("records")
        more, differences = compare("protocol", stored, published.protocol_rows(run, scope, pairs))
        n, found = n + more, [*found, *differences]
    return Verification(run.root, n, (), tuple(found), tuple(changed_versions(record["versions"])))


def verify_pairs(run: RunDirectory, record: Mapping[str, Any], say: Callable[[str], None]) -> Verification:
    """Return whether the tables of three or more trainings, and of each pair of them, are what the evidence gives."""
    found = [verify(run.pair(*pair).root, say) for pair in record["pairs"]]
    if any(each.problems for each in found):
        told = (f"{each.root.name}: {problem}" for each in found for problem in each.problems)
        return Verification(run.root, 0, tuple(told))
    found.append(compare_run(run, record, trainings.compute(run, record, say)))
    return Verification(
        run.root,
        sum(each.values for each in found),
        (),
        tuple(difference for each in found for difference in each.differences),
        found[-1].versions,
    )


# ---------------------------------------------------------------------------
# Is everything there?
# ---------------------------------------------------------------------------


def problems_of(run: RunDirectory, record: Mapping[str, Any], scope: Scope) -> Iterator[str]:
    """Yield what is missing, too short, or made from something else."""
    digests = checkpoint_digests(run)
    losses = loss_rows(record)
    if scope.same_data:
        for space in scope.spaces:
            for step in scope.steps:
                yield from missing(run, run.same_data.evidence(space, f"a/{step}"))
    for path in set_artefacts(run, record, scope):
        yield from missing(run, path)
    for step in scope.steps:
        for twin in scope.twins:
            yield from sample_problems(run, twin, step, scope, digests.get((twin, step)))
            if losses:
                yield from cell_problems(run, run.losses(twin, step), losses, digests.get((twin, step)))
            if cells := published_rows(record):
                yield from cell_problems(run, run.published_losses(twin, step), cells, digests.get((twin, step)))
            if scores := attack_rows(record, twin):
                yield from cell_problems(run, run.attack_scores(twin, step), scores, digests.get((twin, step)))


def missing(run: RunDirectory, path: Path) -> list[str]:
    """Return that an artefact or its key is not there."""
    name = path.relative_to(run.root).as_posix()
    if not path.is_file():
        return [f"{name} is missing"]
    return [] if run.key(path) is not None else [f"{name} has no readable key beside it"]


def set_artefacts(run: RunDirectory, record: Mapping[str, Any], scope: Scope) -> Iterator[Path]:
    """Yield what is made once per run: features and tables of the image sets and the controls."""
    sets = list(record["sets"])
    controls = [f"{name}-{twin}" for name in control_names(scope) for twin in scope.twins]
    for space in scope.spaces or ((SETS_SPACE,) if scope.with_train else ()):
        yield from (run.features(space, name) for name in (*sets, *controls) if not name.startswith("heldout-"))
        if scope.with_train:
            yield from (run.evidence(space, name) for name in (*sets, "pool", *controls))
    if scope.with_lean:
        yield from (run.control_losses(f"linear-{twin}") for twin in scope.twins if loss_rows(record))


def sample_problems(run: RunDirectory, twin: str, step: int, scope: Scope, digest: str | None) -> Iterator[str]:
    """Yield what is wrong with the samples of one checkpoint and what was made from them."""
    if not scope.with_samples:
        return
    of = f"{twin}/{step}"
    yield from artefact_problems(run, run.samples(twin, step), digest) or short(
        run, run.samples(twin, step), scope.n_samples
    )
    for space in scope.spaces:
        features, evidence = run.features(space, of), run.evidence(space, of)
        gone = [*missing(run, features), *missing(run, evidence)]
        gone += missing(run, run.evidence(space, f"{of}.coverage")) if scope.with_heldout else []
        yield from gone
        if not gone:
            yield from short(run, features, scope.n_samples)
            yield from evidence_problems(run, space, twin, step, scope)


def evidence_problems(run: RunDirectory, space: str, twin: str, step: int, scope: Scope) -> Iterator[str]:
    """Yield where one evidence table is not of these seeds, these features, these samples."""
    path, of = run.evidence(space, f"{twin}/{step}"), f"{twin}/{step}"
    name = path.relative_to(run.root).as_posix()
    seeds = tables.read(path, ["seed"]).seed.to_numpy()
    if not np.array_equal(seeds, scope.seed + np.arange(scope.n_samples)):
        yield f"{name} has {len(seeds)} seeds, not {scope.n_samples} from {scope.seed} on"
    features, samples = run.key(run.features(space, of)), run.key(run.samples(twin, step))
    if run.key(path).get("samples") != features or (samples is not None and features.get("of") != samples):
        yield f"{name} was made from other samples or features than those on disk"


def cell_problems(run: RunDirectory, path: Path, rows: int, digest: str | None) -> Iterator[str]:
    """Yield what is wrong with the losses of one checkpoint, or with its attack scores."""
    gone = artefact_problems(run, path, digest)
    yield from gone
    if not gone and (found := len(tables.read(path, ["t"]))) != rows:
        yield f"{path.relative_to(run.root).as_posix()} has {found} of {rows} cells"


def short(run: RunDirectory, path: Path, rows: int) -> list[str]:
    """Return that an array has fewer rows than there are seeds."""
    found = n_rows(path)
    return [] if found >= rows else [f"{path.relative_to(run.root).as_posix()} has {found} of {rows} rows"]


def checkpoint_digests(run: RunDirectory) -> dict[tuple[str, int], str]:
    """Return the digest of every audited checkpoint by twin and step."""
    frame = tables.read(run.table("checkpoints"))
    return {(row.twin, row.step): row.digest for row in frame[frame.audited].itertuples()}


def artefact_problems(run: RunDirectory, path: Path, digest: str | None) -> list[str]:
    """Return that what a checkpoint gave is missing, or was given by another checkpoint."""
    gone = missing(run, path)
    if gone or run.key(path).get("checkpoint") == digest:
        return gone
    return [f"{path.relative_to(run.root).as_posix()} is of another checkpoint than checkpoints.parquet names"]


def loss_rows(record: Mapping[str, Any]) -> int:
    """Return how many loss cells each checkpoint has."""
    return measured_images(record, record["sets"]) * len(record["resolved"]["loss_times"])


def by_paper(record: Mapping[str, Any]) -> bool:
    """Tell whether a run also says what the published protocol would have."""
    return record["given"].get("protocol") == "paper"


def published_rows(record: Mapping[str, Any]) -> int:
    """Return how many cells of the published loss each checkpoint has; none where it was not asked for."""
    if not by_paper(record) or "heldout" not in record["sets"]:
        return 0
    images = min(published_losses.LOSS_IMAGES, record["sets"]["heldout"]["images"])
    return images * schedules.n_times(record["resolved"]["scheduler"])


def attack_rows(record: Mapping[str, Any], twin: str) -> int:
    """Return how many attack scores a checkpoint has: none in runs without non-members, and in older ones."""
    columns = sum(map(len, record["resolved"].get("attack_times", {}).values()))
    return columns and columns * measured_images(record, (f"train-{twin}", "heldout"))


def measured_images(record: Mapping[str, Any], names: Iterable[str]) -> int:
    """Return on how many images of these sets the losses are measured."""
    return sum(min(record["given"]["loss_images"], record["sets"][name]["images"]) for name in names)


# ---------------------------------------------------------------------------
# Is it the same?
# ---------------------------------------------------------------------------


def compare(table: str, stored: Rows, recomputed: Rows) -> tuple[int, list[Difference]]:
    """Return how many values were compared and which differ; rows are matched by their key, not their place."""
    keys = KEYS[table]
    columns = [c.name for c in COLUMNS[table] if c.name not in keys]
    old, new = by_key(stored, keys), by_key(recomputed, keys)
    found = [
        Difference(table, dict(zip(keys, key, strict=True)), "row", f"there {n} times", "one")
        for key, n in Counter(tuple(row[k] for k in keys) for row in stored).items()
        if n > 1
    ]
    for key in {**new, **old}:
        where = dict(zip(keys, key, strict=True))
        if key not in old or key not in new:
            found.append(Difference(table, where, "row", *("there" if key in x else "missing" for x in (old, new))))
            continue
        pairs = ((name, old[key].get(name), new[key][name]) for name in columns)
        found += [Difference(table, where, *each) for each in pairs if not same(*each[1:])]
    return len(new) * len(columns), found


def by_key(rows: Rows, keys: Sequence[str]) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    """Return rows by the values of their key columns."""
    return {tuple(row[name] for name in keys): row for row in rows}


def compare_checks(stored: Mapping[str, Any], recomputed: Mapping[str, Any]) -> tuple[int, list[Difference]]:
    """Return how many values of run.json's checks were compared and which differ."""
    kept = {name: value for name, value in stored.items() if name not in NOT_RECOMPUTED}
    old, new = dict(leaves(kept)), dict(leaves(recomputed))
    pairs = [(name, old.get(name), new.get(name)) for name in {**new, **old}]
    return len(pairs), [Difference("run.json", {}, f"checks.{name}", a, b) for name, a, b in pairs if not same(a, b)]


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted name and value of everything in nested JSON; an empty list is a value."""
    if isinstance(value, (dict, list)) and value:
        for name, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(each, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, value


def same(stored: Any, recomputed: Any) -> bool:
    """Return whether two values agree: numbers up to rounding, NaN with NaN, everything else exactly."""
    if not all(isinstance(each, (float, np.floating)) for each in (stored, recomputed)):
        return bool(stored == recomputed)
    both_nan = math.isnan(stored) and math.isnan(recomputed)
    return both_nan or math.isclose(stored, recomputed, rel_tol=ROUNDING, abs_tol=ZERO)


def changed_versions(recorded: Mapping[str, str]) -> Iterator[str]:
    """Yield the packages whose version is not that of the run."""
    for name in DECIDING:
        here = metadata.version(name)
        if recorded.get(name) not in (None, here):
            yield f"{name} {recorded[name]} then, {here} now"


def listed(lines: Sequence[str]) -> str:
    """Return the first lines, one below the other, and how many more there are."""
    more = [f"and {len(lines) - SHOWN:,} more; --json lists all"] if len(lines) > SHOWN else []
    return "".join(f"\n  {line}" for line in [*lines[:SHOWN], *more])


def brief(value: Any) -> str:
    """Return a value as text; a long sentence is cut, an empty one is shown."""
    text = str(value)
    return text[: BRIEF - 3] + "..." if len(text) > BRIEF else text or "empty"


def flat(difference: Difference) -> dict[str, Any]:
    """Return a difference as one object, its key beside the values."""
    facts = asdict(difference)
    return {"table": facts.pop("table"), **facts.pop("key"), **facts}


def plain(value: Any) -> Any:
    """Return a value as JSON knows it: NaN becomes null."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and math.isnan(value) else value
