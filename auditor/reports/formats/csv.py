"""Every measurement as one wide table: a row per step, a column per metric, twin and space, for a sheet."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import numpy as np
import pandas as pd

from auditor import registry
from auditor.reports import Report, printable

ENDS = {"": "value", ".low": "low", ".high": "high"}
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a sheet computes a cell that begins with one of these


def render(report: Report, out: TextIO, width: int | None = None) -> None:
    """Write the table; an empty cell is a number that is not known. ``width`` has no meaning here."""
    writer = csv.writer(out, lineterminator="\n")
    columns = {f"{name}{end}": each for name, rows in series(report) for end, each in _cells(rows, report.steps)}
    writer.writerow(map(_text, ["step", "verdict", "recommended", *columns]))
    verdicts = report.tables["verdicts"].set_index("step").verdict
    for i, step in enumerate(report.steps):
        said = [_text(verdicts.get(step, "")), "yes" if step == report.recommended else "no"]
        writer.writerow([step, *said, *(each[i] for each in columns.values())])


def series(report: Report) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield every series of the run: ``metric.twin.space`` and its rows by step, in the order of the registry."""
    order = {name: i for i, name in enumerate(registry.METRICS)}
    spaces = {name: i for i, name in enumerate(("", *report.scope.spaces))}
    found = {
        key: rows.set_index("step")
        for key, rows in report.tables["measurements"].groupby(["metric", "space", "twin"], sort=True)
    }
    for metric, space, twin in sorted(
        found, key=lambda key: (order.get(key[0], len(order)), spaces.get(key[1], 0), key)
    ):
        yield ".".join(filter(None, (metric, twin, space))), found[metric, space, twin]


def _cells(rows: pd.DataFrame, steps: Sequence[int]) -> Iterator[tuple[str, list[str]]]:
    """Yield value, low and high of one series, a cell per step: the shortest text that reads back as it."""
    known = rows.reindex(steps)
    for end, column in ENDS.items():
        yield end, ["" if np.isnan(each) else repr(each) for each in known[column].tolist()]


def _text(value: Any) -> str:
    """Return a text cell: one line, and no formula."""
    shown = printable(str(value))
    return f"'{shown}" if shown.startswith(FORMULA) else shown
