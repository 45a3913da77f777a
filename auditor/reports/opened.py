"""A run opened from Python: its tables as pandas frames, its conclusion, its figures and pictures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pandas as pd

from auditor.errors import AuditError
from auditor.reports import Report, advice_of, gate, printable, read_report
from auditor.reports.album import Album, refuse_pairs
from auditor.reports.formats.terminal import legend, table_columns
from auditor.run import RunDirectory, tables
from auditor.run import columns as layout
from auditor.run.places import EVIDENCE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
MAIN_FIGURE = "divergence-and-loss"


def frame(name: str, says: str) -> property:
    """Return a property that gives one table of the run, a new frame each time."""

    def copied(run: OpenedRun) -> pd.DataFrame:
        return run.report.tables[name].copy()

    return property(copied, doc=says)


@dataclass(frozen=True, repr=False)
class OpenedRun:
    """A run directory, read only. Frames say in ``frame.attrs`` what each column means.

    Every property that gives a frame gives a new one: changing it changes nothing else.
    """

    report: Report

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.report.root

    @property
    def verdict(self) -> str:
        """``pass``, ``fail`` or ``undecided``: what ``audit check`` says of the run; verdicts of steps are below."""
        return gate.check(self.path).outcome

    @property
    def recommended_step(self) -> int | None:
        """The step to release by the rule, or None."""
        return self.report.recommended

    @property
    def conclusion(self) -> str:
        """The one sentence a decision-maker reads."""
        return self.report.conclusion

    @property
    def sentences(self) -> dict[str, str]:
        """What every report begins with: ``decision``, ``exposed`` and ``what_now``; the last two not in old runs."""
        return {"decision": self.report.conclusion, **advice_of(self.report.record)}

    @property
    def caveats(self) -> tuple[str, ...]:
        """What must not be concluded, the most limiting first."""
        return self.report.caveats

    measurements = frame("measurements", "Every number with its interval: a row per step, space, metric and twin.")
    verdicts = frame("verdicts", "Verdict and reasons: a row per step.")
    onsets = frame("onsets", "Where curves have their minimum and risks begin, as sets of steps.")
    checkpoints = frame("checkpoints", "Every checkpoint found, with the reason where one was not audited.")
    metrics = frame("metrics", "What each metric asks, and its definition; empty in a run made before runs kept them.")
    attacks = frame("attacks", "What membership attacks find at fixed false-positive rates: by step, twin and rate.")
    exposure = frame("exposure", "How much its loss exposes each training image; ``listed`` marks the most exposed.")
    profiles = frame("profiles", "Losses and their lean by noise level.")
    scales = frame("scales", "Losses, their lean and the twins' disagreement by scale of the pictures, coarse to fine.")
    protocol = frame("protocol", "What ``--protocol paper`` would have concluded, beside the tool's own; else empty.")

    @property
    def album(self) -> Album:
        """The pictures of the run: ``album.worst(space, step, n)``, ``album.film(space, twin, seed)``."""
        return self.report.album

    def evidence(
        self,
        space: str | None = None,
        twin: str | None = None,
        step: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Return what is known of single samples: a row per seed, with space, twin and step in front.

        What is not named is read for all; naming ``columns`` (beside seed) keeps a large run
        small. Their meaning is in ``attrs``.

        Raises
        ------
        AuditError
            If the space, twin, step or a column does not exist; the message names what does.
        """
        scope, run = self.report.scope, RunDirectory(self.path)
        wanted = None if columns is None else list(dict.fromkeys(["seed", *columns]))
        require("column", wanted or [], [each.name for each in layout.EVIDENCE], self.path)
        refuse_pairs(run, self.report.record)
        places = product(
            self._those("space", space, scope.spaces),
            self._those("twin", twin, scope.twins),
            self._those("step", step, scope.steps),
        )
        parts = [
            tables.read(run.place(EVIDENCE, f"{t}/{s}", each), wanted).assign(space=each, twin=t, step=s)
            for each, t, s in places
        ]
        joined = pd.concat(parts, ignore_index=True)
        names = [column.name for column in layout.EVIDENCE if column.name in joined]
        found = joined[["space", "twin", "step", *names]].copy()
        found.attrs = parts[0].attrs
        return found

    def _those(self, kind: str, one: T | None, known: tuple[T, ...]) -> tuple[T, ...]:
        """Return the one that is asked for, if the run has it; all where none is named."""
        require(kind, [] if one is None else [one], known, self.path)
        return known if one is None else (one,)

    @property
    def figures(self) -> list[str]:
        """The names that ``plot`` takes."""
        return [chart.key for chart in self._charts()]

    def plot(self, figure: str = MAIN_FIGURE) -> Figure:
        """Return one figure of the report, by matplotlib: ``run.plot().savefig("figure.pdf")``.

        Raises
        ------
        AuditError
            If there is no figure of this name; the message names those there are.
        """
        import matplotlib

        from auditor.reports.drawing.printed import LOOK, draw

        charts = {chart.key: chart for chart in self._charts()}
        require("figure", [figure], list(charts), self.path)
        with matplotlib.rc_context(LOOK):
            return draw(charts[figure])

    def _charts(self) -> list:
        from auditor.reports.charts import curves, networks

        return [*curves.charts(self.report), *networks.charts(self.report)]

    def __repr__(self) -> str:
        return f"OpenedRun({str(self.path)!r}, {len(self.report.steps)} steps, recommended: {self.recommended_step})"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the conclusion, one row per step, the main figure; no picture of anyone."""
        return "".join((f"<p><strong>{text(self.conclusion)}</strong></p>", self._table(), self._figure()))

    def _table(self) -> str:
        columns = table_columns(self.report, wide=True)
        head = "".join(f"<th>{text(name.replace(chr(10), ' '))}</th>" for name, _ in columns)
        rows = ("".join(f"<td>{text(cells.get(step, '-'))}</td>" for _, cells in columns) for step in self.report.steps)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{text(legend(self.report))}</p>"

    def _figure(self) -> str:
        from auditor.reports.drawing.printed import picture

        chart = self._charts()[0]
        data = base64.b64encode(picture(chart, "png")).decode()
        return f'<img alt="{text(chart.words)}" style="max-width: 100%" src="data:image/png;base64,{data}">'


def open_run(path: str | Path) -> OpenedRun:
    """Return a finished or unfinished run; its top tables are read now, evidence and pictures when they are asked for.

    Raises
    ------
    AuditError
        If there is no run, or its tables are missing.
    """
    return OpenedRun(read_report(path))


def require(kind: str, values: Sequence[object], known: Sequence[object], where: Path) -> None:
    """Refuse what a run does not have, naming what it has."""
    for value in values:
        if value not in known:
            raise AuditError(
                f"There is no {kind} {value!r} in this run.", where, f"Choose from: {', '.join(map(str, known))}."
            )


def text(value: str) -> str:
    """Return text for a page."""
    return escape(printable(value))
