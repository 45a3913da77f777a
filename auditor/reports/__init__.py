"""From a run directory to a Report, read from files only; the formats beside this file render it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from auditor import registry
from auditor.errors import AuditError
from auditor.reports.album import SHOWN, Album, album_of, open_album
from auditor.reports.caveats import caveats
from auditor.reports.formats import FolderFormat, TextFormat
from auditor.reports.names import Names, hidden_in, hide_in, names_of
from auditor.run import RunDirectory, columns, restored, tables
from auditor.run.files import atomic
from auditor.scope import Scope

WITH_PICTURES = ("html",)  # texts that show pictures; folders do, too
TOP_TABLES = ("checkpoints", "measurements", "onsets", "verdicts")
LATER_TABLES = {
    "metrics": columns.METRICS,
    "attacks": columns.ATTACKS,
    "exposure": columns.EXPOSURE,
    "profiles": columns.PROFILES,
    "scales": columns.SCALES,
    "protocol": columns.PROTOCOL,
}

ADVICE = {"exposed": "Who is exposed", "what_now": "What now"}  # sentences of run.json, and what they answer


@dataclass(frozen=True)
class Report:
    """What every report format shows."""

    root: Path
    record: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]  # the run's top tables by name
    caveats: tuple[str, ...]
    pictures: str = SHOWN  # or LEFT_OUT
    names: Names | None = None  # what hides the names of images and files, where they are not to be seen

    @property
    def album(self) -> Album:
        """The pictures of the run, in the state that was asked for; of three or more trainings, see ``albums``."""
        return replace(album_of(RunDirectory(self.root), self.record, self.pictures), names=self.names)

    @property
    def albums(self) -> dict[str, Album]:
        """The pictures by pair of trainings, ``first|second``; of twins, or of one training, under the empty name."""
        if not self.record.get("pairs"):
            return {"": self.album}
        run = RunDirectory(self.root)
        albums = {"|".join(pair): open_album(run.pair(*pair).root, self.pictures) for pair in self.record["pairs"]}
        return {name: replace(album, names=self.names) for name, album in albums.items()}

    @cached_property
    def scope(self) -> Scope:
        """What was looked at: steps, spaces, trainings."""
        return restored(Scope, self.record["scope"], self.root)

    @property
    def steps(self) -> tuple[int, ...]:
        """The audited steps, ascending."""
        return self.scope.steps

    @property
    def has_samples(self) -> bool:
        """Whether samples lie in this run itself: a quick audit draws none, of three trainings the pairs have."""
        return self.scope.with_samples and not self.record.get("pairs") and not self.record.get("purged")

    @property
    def shown_spaces(self) -> tuple[str, ...]:
        """The spaces that verdicts rest on as tables show them: of a group only the strongest at each step."""
        return tuple(dict.fromkeys(map(told_as, self.scope.judged_spaces)))

    @cached_property
    def drawn_spaces(self) -> tuple[str, ...]:
        """The spaces of figures, and of what is told by space: of a group the one member that is strongest.

        That has the least corrected p of the own share at any step, then the most samples flagged as copies.
        """

        def strength(space: str) -> tuple[float, float]:
            p = self.estimates("own_share", "both", space).p_corrected.min()
            copies = [self.estimates("memorized_fraction", twin, space).value.max() for twin in self.scope.twins]
            return (1.0 if pd.isna(p) else p, -max((each for each in copies if pd.notna(each)), default=0.0))

        groups: dict[str, list[str]] = {}
        for space in self.scope.spaces:
            groups.setdefault(told_as(space), []).append(space)
        return tuple(members[0] if len(members) == 1 else min(members, key=strength) for members in groups.values())

    @cached_property
    def told_onsets(self) -> pd.DataFrame:
        """The rows of onsets.parquet as they are told: a group of spaces as one.

        Its risk begins where that of any member is first not shown small, and is found where it is first found in any.
        """
        rows = self.tables["onsets"]
        told = [
            each.iloc[0] if each.space.iloc[0] == space else as_one(each, space)
            for (_, space), each in rows.groupby(["onset", rows.space.map(told_as)], sort=False)
        ]
        return pd.DataFrame(told, columns=rows.columns).reset_index(drop=True)

    @property
    def with_lean(self) -> bool:
        """Whether samples could be asked which half they lean on: two trainings, both with their images."""
        return self.scope.with_lean and self.scope.with_samples

    @property
    def with_copies(self) -> bool:
        """Whether samples could be compared with training images."""
        return self.scope.with_train and self.scope.with_samples

    @property
    def alpha(self) -> float:
        """The level that corrected p-values are compared with."""
        return float(self.record["budgets"]["alpha"])

    @property
    def recommended(self) -> int | None:
        """The step to release by the rule, or None."""
        verdicts = self.tables["verdicts"]
        chosen = verdicts.step[verdicts.recommended]
        return None if chosen.empty else int(chosen.iloc[0])

    def estimates(self, metric: str, twin: str, space: str = "") -> pd.DataFrame:
        """Return the rows of one metric by step, index = step; of a group of spaces that of the strongest at a step.

        The strongest has the least corrected p, then the largest value.
        """
        if space in registry.TOLD_TOGETHER and space not in self.scope.spaces:
            found = [
                self.estimates(metric, twin, each) for each in registry.SPACE_GROUPS[space] if each in self.scope.spaces
            ]
            rows = pd.concat(found).sort_values(["p_corrected", "value"], ascending=[True, False], kind="stable")
            return rows[~rows.index.duplicated()].sort_index()
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
        return (
            self.onset("divergence", self.scope.headline_space)
            if self.scope.with_samples
            else self.onset("predictions")
        )

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
    def weights(self) -> str:
        """Which weights were audited, and of raw ones why, in words."""
        resolved = self.record["resolved"]
        plain = f"{resolved['weights']} weights" if resolved["weights"] else "samples as given"
        return str(resolved.get("weights_said") or plain)

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
        if not self.scope.with_train:
            return "No checkpoint can be recommended: without training images their risks are not known."
        said = str(self.record["checks"]["recommendation"]["sentence"])
        final = self.record["checks"].get("final")
        return f"{final['sentence']} The trainings beside it: {said}" if final else said


def advice_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Return what stands beside the decision, who is exposed and what to do now; nothing in runs of before."""
    checks = record["checks"]
    said = (checks.get("final") or checks).get("advice") or {}
    return {key: said[key] for key in ADVICE if key in said} if record["status"] == "complete" else {}


def told_beside(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the same as sentences, each after what it answers."""
    return tuple(f"{ADVICE[key]}: {said}" for key, said in advice_of(record).items())


def told_as(space: str) -> str:
    """Return the group under whose name a space is told, or its own name."""
    return next((group for group in registry.TOLD_TOGETHER if space in registry.SPACE_GROUPS[group]), space)


def as_one(rows: pd.DataFrame, name: str) -> pd.Series:
    """Return the row of an onset of several spaces as one, called ``name``."""
    low, high = (min((at for at in column if at >= 0), default=-1) for column in (rows.low, rows.high))
    first = rows[rows.low == low].iloc[0]  # which says whether that is the first step of all
    status = first.status if high < 0 or first.status == "edge" else rows[rows.high == high].iloc[0].status
    return pd.Series({**first, "space": name, "status": status, "low": low, "high": high, "step": high})


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
    render: TextFormat = registry.lookup("report", form)
    render(report, out, 80)
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
    shows = report.pictures == SHOWN
    for form in targets:
        if form in registry.FOLDER_REPORTS:
            write: FolderFormat = registry.lookup("folder report", form)
            with owners_alone(shows):
                write(report, targets[form])
    for form, content in texts.items():
        if str(targets[form]) == "-":
            sys.stdout.write(content.decode())
        else:
            write_file(targets[form], content, private=shows and form in WITH_PICTURES)


def write_file(path: Path, content: bytes, remedy: str = "Choose another file.", private: bool = False) -> None:
    """Write a file atomically, where a link leads, and for its owner alone where it is ``private``.

    What is no regular file (a pipe, a device) is written through and stays. ``remedy`` is what the error says.

    Raises
    ------
    AuditError
        If it cannot be written there.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            with open(path, "wb") as stream:
                stream.write(content)
            return
        with owners_alone(private), atomic(Path(os.path.realpath(path))) as temporary:
            temporary.unlink(missing_ok=True)  # one that a kill left may be open to others
            temporary.write_bytes(content)
    except OSError as error:
        raise AuditError(f"Cannot write here: {error.strerror}.", path, remedy) from None


@contextmanager
def owners_alone(private: bool) -> Iterator[None]:
    """Let nobody but the owner read what is written meanwhile, where it is ``private``."""
    mask = os.umask(0o077) if private else None
    try:
        yield
    finally:
        if mask is not None:
            os.umask(mask)


def read_report(root: str | Path, pictures: str = SHOWN, with_names: bool = True) -> Report:
    """Return the report of a run; its pictures, and the names of images and files, are shown or left out.

    Raises
    ------
    AuditError
        If there is no run, or its tables are missing.
    """
    run = RunDirectory(root)
    record = run.read_record()
    frames = {name: tables.read(run.table(name)) for name in TOP_TABLES}
    frames |= {name: optional(run, name, columns) for name, columns in LATER_TABLES.items()}
    names = None if with_names else names_of(run, record, frames)
    if names is not None:
        record, frames = hidden_in(record, names), hide_in(names, frames)
    return Report(run.root, record, frames, tuple(caveats(record, frames)), pictures, names)


def optional(run: RunDirectory, name: str, columns: Sequence[columns.Column]) -> pd.DataFrame:
    """Return a table that not every run holds: without rows in one that was made before, or of what was not given."""
    path = run.table(name)
    return tables.read(path) if path.exists() else pd.DataFrame(columns=[column.name for column in columns])
