"""From a run directory to a Report, read from files only; the formats beside this file render it."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from auditor import registry
from auditor.config import HEADLINE_SPACE
from auditor.errors import AuditError
from auditor.records import TWINS
from auditor.registry import SCALES
from auditor.reports import caveats as checks
from auditor.reports.album import SHOWN, Album, album_of, open_album
from auditor.run import RunDirectory, tables
from auditor.run.files import atomic

TOP_TABLES = ("checkpoints", "measurements", "onsets", "verdicts")
LATER_TABLES = {
    "metrics": tables.METRICS,
    "attacks": tables.ATTACKS,
    "exposure": tables.EXPOSURE,
    "profiles": tables.PROFILES,
    "scales": tables.SCALES,
    "protocol": tables.PROTOCOL,
}


@dataclass(frozen=True)
class Report:
    """What every report format shows."""

    root: Path
    record: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]  # the run's top tables by name
    caveats: tuple[str, ...]
    pictures: str = SHOWN  # or BLURRED, or LEFT_OUT

    @property
    def album(self) -> Album:
        """The pictures of the run, in the state that was asked for; of three or more trainings, see ``albums``."""
        return album_of(RunDirectory(self.root), self.record, self.pictures)

    @property
    def albums(self) -> dict[str, Album]:
        """The pictures by pair of trainings, ``first|second``; of twins, or of one training, under the empty name."""
        if not self.record.get("pairs"):
            return {"": self.album}
        run = RunDirectory(self.root)
        return {"|".join(pair): open_album(run.pair(*pair).root, self.pictures) for pair in self.record["pairs"]}

    @property
    def judged_spaces(self) -> list[str]:
        """The spaces that verdicts rest on: all but those of one scale."""
        return [space for space in self.record["scope"]["spaces"] if space not in SCALES]

    @property
    def headline_space(self) -> str:
        """The space in which the twin distance is headlined: correlation, else the first one."""
        spaces = self.record["scope"]["spaces"]
        return HEADLINE_SPACE if HEADLINE_SPACE in spaces else (spaces or [""])[0]

    @property
    def copy_space(self) -> str:
        """The space in which copies are counted: pixel, else the first one."""
        spaces = self.record["scope"]["spaces"]
        return "pixel" if "pixel" in spaces else (spaces or [""])[0]

    @property
    def quality_space(self) -> str:
        """The space in which quality decides between checkpoints: clip, else that of copies."""
        return "clip" if "clip" in self.record["scope"]["spaces"] else self.copy_space

    @property
    def with_samples(self) -> bool:
        """Whether samples were drawn or given; a quick audit asks the networks only."""
        return bool(self.record["scope"]["spaces"])

    @property
    def twins(self) -> tuple[str, ...]:
        """``a`` and ``b``, or ``a`` alone for a single training."""
        return tuple(self.record["scope"].get("twins", TWINS))

    @property
    def with_lean(self) -> bool:
        """Whether samples could be asked which half they lean on: two trainings, both with their images."""
        return bool(self.record["scope"]["with_train"]) and len(self.twins) > 1 and self.with_samples

    @property
    def steps(self) -> list[int]:
        """The audited steps, ascending."""
        return list(self.record["scope"]["steps"])

    @property
    def recommended(self) -> int | None:
        """The step to release by the rule, or None."""
        verdicts = self.tables["verdicts"]
        chosen = verdicts.step[verdicts.recommended]
        return None if chosen.empty else int(chosen.iloc[0])

    def estimates(self, metric: str, twin: str, space: str = "") -> pd.DataFrame:
        """Return the rows of one metric by step, index = step."""
        rows = self._curves.get((metric, twin, space), [])
        return self.tables["measurements"].iloc[rows].set_index("step").sort_index()

    @cached_property
    def _curves(self) -> Mapping[tuple[str, str, str], Any]:
        """Which rows of the measurements belong to a metric, twin and space."""
        return self.tables["measurements"].groupby(["metric", "twin", "space"], sort=False).indices

    @property
    def with_classes(self) -> bool:
        """Whether samples were compared with training images of their class."""
        rows = self.tables["measurements"]
        return bool(rows.value[rows.metric == "own_share_in_class"].notna().any())

    def onset(self, name: str, space: str = "") -> pd.Series:
        """Return one row of the onsets."""
        o = self.tables["onsets"]
        return o[(o.onset == name) & (o.space == space)].iloc[0]

    @property
    def parting(self) -> pd.Series:
        """Return where the twins are most alike, in what they draw; of a quick audit, in what they predict."""
        return self.onset("divergence", self.headline_space) if self.with_samples else self.onset("predictions")

    @property
    def key_steps(self) -> dict[int, str]:
        """The steps that a decision turns on, ascending, and what each is: recommended, both minima, the last."""
        divergence, loss = self.parting, self.onset("loss")
        named = [
            (self.recommended, "recommended"),
            (divergence.step, "least twin distance"),
            (loss.step, "least held-out loss"),
            (self.steps[-1], "last"),
        ]
        known = [(int(step), name) for step, name in named if step is not None and step in self.steps]
        return {step: " and ".join(name for at, name in known if at == step) for step in sorted(dict(known))}

    @property
    def definitions(self) -> pd.DataFrame:
        """What each metric means, by name; empty in a run that does not hold it."""
        return self.tables["metrics"].set_index("metric")

    @property
    def is_trusted(self) -> bool:
        """Whether the run's own controls passed."""
        return not self.record["checks"].get("distrust")

    @property
    def conclusion(self) -> str:
        """The one sentence a decision-maker reads."""
        if self.record["status"] != "complete":
            return "The audit is not finished; give the same command again."
        if not self.record["scope"]["with_train"]:
            return "No checkpoint can be recommended: without training images their risks are not known."
        return self.record["checks"]["recommendation"]["sentence"]


def percent(value: float) -> str:
    """Return a share as text, or a dash where it is not defined."""
    return "-" if pd.isna(value) else f"{100 * value:.1f}%"


def where(row: Any) -> str:
    """Return the steps of one onset in words."""
    if row.low < 0 and row.high < 0:
        return "nowhere in this series" if row.status == "none" else "not known"
    if row.low == row.high:
        return f"step {row.low:,}"
    if row.high < 0:
        return f"step {row.low:,} or later"
    return f"steps {row.low:,} to {row.high:,}" if row.low >= 0 else f"step {row.high:,} or earlier"


def printable(name: str) -> str:
    """Return a name of the user's as one line of visible characters: what is not printable becomes its escape.

    Names of files and images may hold line breaks, terminal commands, and characters that
    turn the direction of writing; none of them reaches a report.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def shortened(name: str, letters: int) -> str:
    """Return a name of at most so many letters: the middle of a longer one is left out."""
    if len(name) <= letters:
        return name
    tail = letters // 2
    return f"{name[: letters - tail - 1]}…{name[-tail:]}"


def text_of(report: Report, form: str) -> bytes:
    """Return a report in one of the text formats of the registry: UTF-8, plain line ends, where it matters 80 wide."""
    out = io.StringIO(newline="")
    registry.lookup("report", form)(report, out, 80)
    return out.getvalue().encode(errors="backslashreplace")  # a name that is no Unicode shows its bytes


def write_reports(report: Report, targets: Mapping[str, Path]) -> None:
    """Write a report in several formats, to a file or folder each; ``-`` for a text is stdout.

    Every text is made before anything is written, so one that cannot be made leaves nothing.

    Raises
    ------
    AuditError
        If a target cannot be written.
    """
    texts = {form: text_of(report, form) for form in targets if form in registry.REPORTS}
    for form in targets:
        if form in registry.FOLDER_REPORTS:
            registry.lookup("folder report", form)(report, targets[form])
    for form, content in texts.items():
        if str(targets[form]) == "-":
            sys.stdout.write(content.decode())
        else:
            write_file(targets[form], content)


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises
    ------
    AuditError
        If it cannot be written there.
    """
    try:
        with atomic(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise AuditError(f"Cannot write here: {error.strerror}.", path, "Choose another file.") from None


def read_report(root: str | Path, pictures: str = SHOWN) -> Report:
    """Return the report of a run; its pictures are shown as they are, blurred, or left out.

    Raises
    ------
    AuditError
        If there is no run, or its tables are missing.
    """
    run = RunDirectory(root)
    record = run.read_record()
    frames = {name: tables.read(run.table(name)) for name in TOP_TABLES}
    frames |= {name: optional(run, name, columns) for name, columns in LATER_TABLES.items()}
    return Report(run.root, record, frames, tuple(checks.caveats(record, frames)), pictures)


def optional(run: RunDirectory, name: str, columns: Sequence[tables.Column]) -> pd.DataFrame:
    """Return a table that not every run holds: without rows in one that was made before, or of what was not given."""
    path = run.table(name)
    return tables.read(path) if path.exists() else pd.DataFrame(columns=[column.name for column in columns])
