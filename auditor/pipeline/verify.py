"""Recompute what a finished run says from its evidence, and compare it with what lies on disk.

Up to rounding (1e-12) every number must come out the same. What made the evidence,
network and search, is not repeated; that it belongs to this run's samples is read from the
keys.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from auditor import measuring
from auditor.config import Budgets, kept_budgets
from auditor.errors import AuditError
from auditor.inputs.asked import Asked, from_record
from auditor.measuring import LAYOUTS, Measured, published
from auditor.pipeline import trainings
from auditor.pipeline.plan import in_order
from auditor.run import RunDirectory, columns, restored, tables
from auditor.run.files import as_json, differences, n_rows, sha256_of
from auditor.scope import Scope
from auditor.stages import Item, expected_key, stage

ROUNDING = 1e-12  # relative; another BLAS sums in another order
ZERO = 1e-15  # absolute, for differences that cancel
SHOWN = 10  # differences that the error tells
TOLD = 3  # differences of two keys
BRIEF = 60  # characters of a sentence that is told
SCHEMA_VERSION = 1  # of the JSON
KEYS = {
    "measurements": ("step", "space", "metric", "twin"),
    "onsets": ("onset", "space"),
    "verdicts": ("step",),
    "profiles": ("step", "metric", "twin", "t"),
    "scales": ("step", "scale", "metric"),
    "attacks": ("step", "twin", "target_fpr", "attack", "chosen"),
    "exposure": ("step", "half", "id"),
    "named": ("step", "space", "twin", "list", "half", "id"),
    "classes": ("step", "space", "class"),
    "protocol": ("quantity", "twin", "space", "step"),
}
COLUMNS = LAYOUTS | {"protocol": columns.PROTOCOL}
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
    problems: tuple[str, ...] = ()  # missing or foreign artifacts; then nothing is recomputed
    differences: tuple[Difference, ...] = ()
    versions: tuple[str, ...] = ()  # packages that are not those of the run
    unproven: int = 0  # files of earlier versions, beside which there is no digest
    changed: tuple[str, ...] = ()  # tables of other bytes than were written, where every value agrees
    rules: int = measuring.RULES  # of the verdicts in its tables; those of an earlier version are not compared

    @property
    def agrees(self) -> bool:
        """Whether nothing is missing and nothing differs."""
        return not self.problems and not self.differences and not self.changed

    @property
    def sentence(self) -> str:
        """What a verified run is told."""
        said = f"{self.values:,} values in {len(LAYOUTS)} tables and run.json agree with the evidence."
        if self.rules != measuring.RULES:
            said = (
                "The evidence is whole. Its tables were made by the rules of an earlier version and were not compared: "
                "give the audit run command again, and they are made anew from this evidence."
            )
        if not self.unproven:
            return said
        return (
            f"{said} {self.unproven:,} files were made by an earlier version, which left no digest beside them: that "
            "they are there, their keys and their sizes were looked at, not their bytes."
        )

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

        if self.changed:
            raise AuditError(
                f"Tables have other bytes than were written, though every value agrees: {', '.join(self.changed)}.",
                self.root,
                "Give the audit run command again: it writes the tables anew from the evidence.",
            )

    def as_json(self) -> str:
        """Return everything as one JSON object."""
        facts = {
            "schema": SCHEMA_VERSION,
            "agrees": self.agrees,
            "values": self.values,
            "problems": list(self.problems),
            "differences": [{k: plain(v) for k, v in flat(each).items()} for each in self.differences],
            "changed": list(self.changed),
            "versions": list(self.versions),
            "rules": {"of_the_run": self.rules, "now": measuring.RULES},
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
    if "purged" in record:
        same = not list(changed_tables(run, record))
        raise AuditError(
            "The run was purged: its evidence is gone, and nothing can be recomputed. Its tables are "
            + ("those that were kept." if same else "not even those that were kept."),
            root,
            "Verify a copy from before, or give the audit run command again, which makes everything anew.",
        )
    if "pairs" in record:
        return verify_pairs(run, record, say)
    scope, budgets = (
        restored(Scope, record["scope"], run.record),
        restored(Budgets, kept_budgets(record["budgets"]), run.record),
    )
    problems = tuple(problems_of(run, record))
    if problems:
        return Verification(run.root, 0, problems)
    rules = record["checks"].get("rules", 1)
    if rules != measuring.RULES:
        return Verification(run.root, 0, unproven=unproven(run, asked_of(run, record)), rules=rules)
    measured = measuring.compute(run, scope, budgets, say)
    say("comparing")
    return replace(compare_run(run, record, measured), unproven=unproven(run, asked_of(run, record)))


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
    versions = tuple(changed_versions(record["versions"]))
    return Verification(run.root, n, (), tuple(found), versions, changed=tuple(changed_tables(run, record)))


def changed_tables(run: RunDirectory, record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the top tables that are not, byte by byte, those that were written."""
    there = run.table_digests()
    for name, sha256 in record.get("tables", {}).items():
        if there.get(name) != sha256:
            yield f"{run.table(name).name}"


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
        sum(each.unproven for each in found),
        tuple(f"{each.root.name}/{name}" for each in found for name in each.changed),
    )


# ---------------------------------------------------------------------------
# Is everything there?
# ---------------------------------------------------------------------------


def asked_of(run: RunDirectory, record: Mapping[str, Any]) -> Asked:
    """Return what a run was asked for, from what it says of itself."""
    return from_record(run, record, digests_of(run))


def digests_of(run: RunDirectory) -> dict[str, str]:
    """Return the digest of every audited checkpoint by twin/step."""
    frame = tables.read(run.table("checkpoints"))
    return {f"{row.twin}/{row.step}": row.digest for row in frame[frame.audited].itertuples()}


def problems_of(run: RunDirectory, record: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is missing, too short, of other bytes or another key, or made from something else."""
    asked, digests = asked_of(run, record), digests_of(run)
    if asked.scope.same_data:
        within = problems_of(run.same_data, run.same_data.read_record())
        yield from (f"{run.same_data.root.name}/{each}" for each in within)
    if asked.scope.final:
        within = problems_of(run.final, run.final.read_record())
        yield from (f"{run.final.root.name}/{each}" for each in within)
    for item in in_order(asked):
        yield from missing_files(run, asked, item) or wrong_files(run, asked, item, digests)


def missing_files(run: RunDirectory, asked: Asked, item: Item) -> list[str]:
    """Return that a file of an artifact, or what lies beside it, is not there."""
    if stage(item.stage).found(run, asked, item.of, item.space) is None:
        names = stage(item.stage).files(item.of, item.space)
    else:  # which may be an earlier layout of its files
        names = tuple(n for n in stage(item.stage).files(item.of, item.space)[1:])
    found = []
    for name in names:
        if not (run.root / name).is_file():
            found.append(f"{name} is missing")
        elif run.beside(run.root / name) is None:
            found.append(f"{name} has no readable key beside it")
    return found


def wrong_files(run: RunDirectory, asked: Asked, item: Item, digests: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with an artifact that is there."""
    kind, names = stage(item.stage), stage(item.stage).files(item.of, item.space)
    key = kind.found(run, asked, item.of, item.space) or {}
    if "checkpoint" in key and key["checkpoint"] != digests.get(item.of, key["checkpoint"]):
        yield f"{names[0]} is of another checkpoint than checkpoints.parquet names"
    elif asked.whole and key != expected_key(asked, item):
        yield f"{names[0]} was made of something else: {told(key, expected_key(asked, item))}"
    elif of_other_needs(run, asked, item, key):
        yield f"{names[0]} was made from other samples or features than those on disk"
    rows, first = kind.rows(asked, item.of), run.root / names[0]
    drawn = item.of not in asked.sets and "/" not in item.of  # a control: as many as that version drew
    if rows is not None and not drawn and first.is_file() and (there := n_rows(first)) < rows:
        yield f"{names[0]} has {there} of {rows} {'rows' if first.suffix == '.npy' else 'cells'}"
    for name in names:
        beside = run.beside(run.root / name)
        if beside is None:
            continue
        if name != names[0] and asked.whole and beside.key != expected_key(asked, item):
            yield f"{name} was made of something else: {told(beside.key, expected_key(asked, item))}"
        if not beside.sha256:
            continue
        if sha256_of(run.root / name) not in (beside.sha256, beside.becoming):
            yield f"{name} has other bytes than when it was made"
        for source, sha256 in beside.made_of.items():
            now = run.digests([source]).get(source)
            if now not in (None, sha256):  # what is gone is told of itself
                yield f"{name} was made from another {source} than is there"


def told(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the first differences of two keys in one line."""
    return "; ".join(differences(old, new)[:TOLD])


def of_other_needs(run: RunDirectory, asked: Asked, item: Item, key: Mapping[str, Any]) -> bool:
    """Tell whether a key names another version of something that it needs of the same checkpoint, set or control."""
    for need in stage(item.stage).needs(asked, item.of, item.space):
        needed = stage(need.stage).found(run, asked, need.of, need.space)
        named = list(keys_within(key, (needed or {}).get("stage")))
        if need.of == item.of and needed is not None and named and needed not in named:
            return True
    return False


def keys_within(key: Any, kind: str | None) -> Iterator[dict[str, Any]]:
    """Yield the keys of one kind within a key."""
    for value in key.values() if isinstance(key, Mapping) else ():
        if isinstance(value, Mapping):
            if kind is not None and value.get("stage") == kind and value.get("of") != {}:  # {}: the space alone
                yield dict(value)
            yield from keys_within(value, kind)


def unproven(run: RunDirectory, asked: Asked) -> int:
    """Return how many files have no digest beside them, as runs of earlier versions had none."""
    names = [name for item in in_order(asked) for name in stage(item.stage).files(item.of, item.space)]
    found = (run.beside(run.root / name) for name in names)
    return sum(each is not None and not each.sha256 for each in found)


def by_paper(record: Mapping[str, Any]) -> bool:
    """Tell whether a run also says what the published protocol would have."""
    return record["given"].get("protocol") == "paper"


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
