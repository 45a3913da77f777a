"""Remakes sample_reports from a run of the demo: ``make samples``, or ``python docs/samples.py DEMO_RUN``.

``sample_reports/run`` keeps what reports read of the run: its top tables, the evidence
columns that they show, its samples, and the training images that are somebody's neighbor
(handwritten digits that come with scikit-learn). Beside it lies the report in every format.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from auditor import registry
from auditor.records import TWINS
from auditor.reports import LATER_TABLES, TOP_TABLES, album, read_report, write_reports
from auditor.reports.charts.distances import HELDOUT_COLUMNS, SAMPLE_COLUMNS
from auditor.run import RunDirectory, columns, tables
from auditor.run.files import key_path
from auditor.run.places import EVIDENCE, IMAGES
from auditor.run.places import SAMPLES as SAMPLES_PLACE
from auditor.stages import sets

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = Path("sample_reports")  # from the root of the repository: reports that name the run name it so
TABLES = (*TOP_TABLES, *LATER_TABLES)
KEPT = {*album.COLUMNS, *SAMPLE_COLUMNS}
NAMES = {"terminal": "report.txt", "markdown": "report.md", "pull-request": "pull-request.md"}


def targets(folder: Path) -> dict[str, Path]:
    """Return where each registered format goes."""
    texts = {form: folder / NAMES.get(form, f"report.{form}") for form in registry.REPORTS}
    return texts | {form: folder / form for form in registry.FOLDER_REPORTS}


def render(run: Path, folder: Path) -> None:
    """Write the report of a run in every format."""
    write_reports(read_report(run), targets(folder))


def prune(source: RunDirectory, target: RunDirectory) -> None:
    """Copy of a run what reports read, without paths of this machine and without times."""
    record = source.read_record()
    for name in ("seconds", "peak_memory_mib", "format"):
        record.pop(name)
    places = (str(source.root), record["given"]["out"])  # the second as it was given, which may be relative
    record["given"] = {name: without_machine(value, places) for name, value in record["given"].items()}
    target.write_record(record)
    for name in TABLES:
        if source.table(name).exists():  # protocol is there where it was asked for
            shutil.copy(source.table(name), target.table(name))
    scope = record["scope"]
    for twin in TWINS:
        copy_with_key(source.place(IMAGES, f"train-{twin}"), target.place(IMAGES, f"train-{twin}"))
        for step in scope["steps"]:
            copy(source.place(SAMPLES_PLACE, f"{twin}/{step}"), target.place(SAMPLES_PLACE, f"{twin}/{step}"))
    for space in scope["spaces"]:
        narrow(
            source.place(EVIDENCE, "heldout", space),
            target.place(EVIDENCE, "heldout", space),
            sets.HELDOUT,
            HELDOUT_COLUMNS,
        )
        for of in (f"{twin}/{step}" for twin in TWINS for step in scope["steps"]):
            narrow(source.place(EVIDENCE, of, space), target.place(EVIDENCE, of, space), columns.EVIDENCE, KEPT)


def without_machine(value: Any, places: tuple[str, ...]) -> Any:
    """Return a setting with its path, if it is one, relative to the repository; the run is ``audit-demo``."""
    if not isinstance(value, str):
        return value
    for place in places:
        value = value.replace(place, "audit-demo")
    return value.replace(f"{ROOT}/", "")


def copy(source: Path, target: Path) -> None:
    """Copy one file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def copy_with_key(source: Path, target: Path) -> None:
    """Copy an artifact and its key, which names its rows."""
    copy(source, target)
    shutil.copy(key_path(source), key_path(target))


def narrow(source: Path, target: Path, columns: tuple[columns.Column, ...], kept: Any) -> None:
    """Copy some columns of a table."""
    chosen = [column for column in columns if column.name in kept]
    frame = tables.read(source, [column.name for column in chosen])
    tables.write(target, chosen, {name: frame[name].to_numpy() for name in frame})


def main(demo: Path) -> None:
    """Remake the samples from a finished demo run."""
    demo = demo.resolve()
    read_report(demo)  # before anything is removed: is it a run at all?
    os.chdir(ROOT)
    for path in (SAMPLES / "run", *targets(SAMPLES).values()):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    prune(RunDirectory(demo), RunDirectory(SAMPLES / "run"))
    render(SAMPLES / "run", SAMPLES)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
