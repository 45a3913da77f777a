"""Every measurement as one wide table: a row per step, a column per metric, twin and space, for a sheet."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any, TextIO

import pandas as pd

from auditor import registry
from auditor.reports import Report, printable

ENDS = ("value", "low", "high")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a sheet computes a cell that begins with one of these


def render(report: Report, out: TextIO, width: int | None = None) -> None:
    """Write the table; an empty cell is a number that is not known. ``width`` has no meaning here."""
    writer = csv.writer(out, lineterminator="\n")
    columns = list(series(report))
    names = [name for each, _ in columns for name in (each, f"{each}.low", f"{each}.high")]
    writer.writerow(map(text, ["step", "verdict", "recommended", *names]))
    verdicts = report.tables["verdicts"].set_index("step")
    for step in report.steps:
        said = [text(verdicts.verdict.get(step, "")), "yes" if step == report.recommended else "no"]
        writer.writerow([step, *said, *(cell for _, rows in columns for cell in cells(rows, step))])


def series(report: Report) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield every series of the run: ``metric.twin.space`` and its rows by step, in the order of the registry."""
    order = {name: i for i, name in enumerate(registry.METRICS)}
    spaces = {name: i for i, name in enumerate(("", *report.record["scope"]["spaces"]))}
    found = {
        key: rows.set_index("step")
        for key, rows in report.tables["measurements"].groupby(["metric", "space", "twin"], sort=True)
    }
    for metric, space, twin in sorted(
        found, key=lambda key: (order.get(key[0], len(order)), spaces.get(key[1], 0), key)
    ):
        yield ".".join(filter(None, (metric, twin, space))), found[metric, space, twin]


def cells(rows: pd.DataFrame, step: int) -> list[str]:
    """Return value, low and high at a step: the shortest text that reads back as the same number."""
    if step not in rows.index:
        return [""] * len(ENDS)
    return ["" if pd.isna(value) else repr(float(value)) for value in rows.loc[step, list(ENDS)]]


def text(value: Any) -> str:
    """Return a text cell: one line, and no formula."""
    shown = printable(str(value))
    return f"'{shown}" if shown.startswith(FORMULA) else shown
