"""``audit purge``: a run without anything from which an image or a person follows; its decision and numbers stay."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from auditor.measuring import LAYOUTS
from auditor.reports.names import Names, hidden_in, hide_in, known_names
from auditor.run import RunDirectory, columns, tables
from auditor.run.files import drop_batches, read_beside, remove_if_empty
from auditor.stages import stages

TABLES = {**LAYOUTS, "checkpoints": columns.CHECKPOINTS, "metrics": columns.METRICS, "protocol": columns.PROTOCOL}
ENDINGS = (".npy", ".parquet", ".key.json", ".tmp")  # of what a run writes into its folders
FORGOTTEN = ("asked", "preflight")  # of run.json: prompts, and pairs of images that are alike


@dataclass(frozen=True)
class Purged:
    """What was removed, and what is not the run's own and was left."""

    root: Path
    removed: int
    left: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What a person is told."""
        said = (
            f"{self.removed:,} files were removed from {self.root}: samples, images, features, evidence, page, log. "
            "Decision, tables of numbers and digests are kept; names of images and files are replaced by digests whose "
            "key is gone. audit report and audit check go on; galleries, audit show and audit verify do not: nobody "
            "can recompute the tables any more."
        )
        left = ", ".join(self.left[:5]) + (", ..." if len(self.left) > 5 else "")
        return f"{said} Not the run's own, and left: {left}." if self.left else said


def purge(root: str | Path) -> Purged:
    """Remove everything from which an image or a person follows.

    Raises
    ------
    AuditError
        If there is no run, or another process writes it.
    """
    run = RunDirectory(root)
    run.read_record()
    with run.locked():
        runs = list(nested_runs(run))
        known = set().union(*(every_name(each) for each in runs))
        hiding = Names(secrets.token_bytes(32), known)
        removed = sum(purge_one(each, hiding) for each in runs)
    return Purged(run.root, removed, tuple(sorted(strangers(runs))))


def nested_runs(run: RunDirectory) -> Iterator[RunDirectory]:
    """Yield the runs within a run, and the run itself at last."""
    record = run.read_record()
    inner = [run.pair(*pair) for pair in record.get("pairs", [])]
    inner += [each for each in (run.same_data, run.final) if each.record.is_file()]
    for each in inner:
        if each.record.is_file():
            yield from nested_runs(each)
    yield run


def every_name(run: RunDirectory) -> set[str]:
    """Return the name of every image and file that the run holds anywhere."""
    found = known_names(run, run.read_record(), top_frames(run))
    for path in run.root.rglob("*.parquet"):
        frame = tables.read(path)
        for name in (each for each in frame if each == "id" or "_id_" in each):
            found |= set(frame[name].dropna().astype(str))
    return found


def top_frames(run: RunDirectory) -> dict[str, pd.DataFrame]:
    """Return the top tables that are there."""
    paths = {name: run.table(name) for name in TABLES}
    empty = {name: pd.DataFrame(columns=[each.name for each in TABLES[name]]) for name in TABLES}
    return {name: tables.read(path) if path.is_file() else empty[name] for name, path in paths.items()}


def purge_one(run: RunDirectory, hiding: Names) -> int:
    """Purge one folder; return how many files were removed."""
    record, frames = run.read_record(), top_frames(run)
    digests = {path.relative_to(run.root).as_posix(): beside_of(path) for path in artifacts(run)}
    shorn: dict[str, Any] = hidden_in({name: each for name, each in record.items() if name not in FORGOTTEN}, hiding)
    for name, frame in hide_in(hiding, frames).items():
        if run.table(name).is_file():
            tables.write(run.table(name), TABLES[name], {each.name: frame[each.name] for each in TABLES[name]})
    shorn["purged"] = {"files": {**record.get("purged", {}).get("files", {}), **digests}}
    shorn["tables"] = run.table_digests()
    run.write_record({name: value for name, value in shorn.items() if name != "format"})
    removed = 0
    for folder in folders_of_artifacts(run):
        for path in list(folder.rglob("*.partial")):
            drop_batches(path)
        for path in [each for each in folder.rglob("*") if each.is_file() and each.name.endswith(ENDINGS)]:
            path.unlink(missing_ok=True)
            removed += 1
        for path in sorted(folder.rglob("*"), reverse=True):
            remove_if_empty(path)
        remove_if_empty(folder)
    for path in (run.report, run.log, run.names):
        removed += path.is_file()
        path.unlink(missing_ok=True)
    return removed


def folders_of_artifacts(run: RunDirectory) -> list[Path]:
    """Return the folders of artifacts."""
    places = {place.folder for kind in stages().values() for place in (*kind.places, *kind.transient)}
    return [run.root / name for name in sorted(places) if (run.root / name).is_dir()]


def artifacts(run: RunDirectory) -> Iterator[Path]:
    """Yield every artifact that is there."""
    for folder in folders_of_artifacts(run):
        for key in folder.rglob("*.key.json"):
            yield key.with_name(key.name.removesuffix(".key.json"))


def beside_of(path: Path) -> str:
    """Return the digest that lies beside an artifact, empty where none does."""
    beside = read_beside(path)
    return beside.sha256 if beside is not None else ""


def strangers(runs: list[RunDirectory]) -> Iterator[str]:
    """Yield files that purging keeps though the run did not write them."""
    own = {run.root / name for run in runs for name in ("run.json", ".lock")}
    own |= {run.table(name) for run in runs for name in TABLES}
    root = runs[-1].root
    for path in root.rglob("*"):
        if path.is_file() and path not in own:
            yield path.relative_to(root).as_posix()
