"""What the charts over a series are made of: a metric as a curve, the looks of spaces and trainings, words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from auditor.reports import Report, printable, shortened
from auditor.reports.charts import COLORS, DASHES, MARKERS, Curve, Style

TWIN_MARKERS = ("triangle", "inverted_triangle", "diamond", "plus", "square", "circle")
TWIN_STYLES = tuple(Style(*look) for look in zip(COLORS, DASHES * 2, ("circle", "square", *TWIN_MARKERS), strict=False))


def space_style(report: Report, space: str) -> Style:
    """Return the style that a space has in every figure."""
    at = report.scope.spaces.index(space)
    return Style(COLORS[at % len(COLORS)], DASHES[at % len(DASHES)], MARKERS[at % len(MARKERS)])


def curve(
    report: Report,
    metric: str,
    name: str,
    style: Style,
    *,
    twin: str = "both",
    space: str = "",
    series: str = "",
    shown: bool = True,
    is_control: bool = False,
) -> Curve:
    """Return a metric along the series, with the band over all checkpoints where there is one, else the intervals."""
    rows = report.estimates(metric, twin, space)
    banded = rows.low_corrected.notna() & rows.high_corrected.notna()
    return Curve(
        name=name,
        x=rows.index.to_numpy(float),
        y=rows.value.to_numpy(float),
        style=style,
        low=rows.low_corrected.where(banded, rows.low).to_numpy(float),
        high=rows.high_corrected.where(banded, rows.high).to_numpy(float),
        says=tuple(says(row) for row in rows.itertuples()),
        definition=definition(report, metric),
        space=space,
        series=series,
        shown=shown,
        is_control=is_control,
    )


def says(row: Any) -> str:
    """Return interval, number of units and note of one measurement."""
    parts = [
        f"{row.level:.0%} interval {row.low:.4g} to {row.high:.4g}" if pd.notna(row.low) else "no interval",
        f"over the series {row.low_corrected:.4g} to {row.high_corrected:.4g}" if pd.notna(row.low_corrected) else "",
        f"n = {row.n:,} ({row.unit})",
        f"corrected p {row.p_corrected:.3g}" if pd.notna(row.p_corrected) else "",
        row.note,
    ]
    return "; ".join(part for part in parts if part)


def definition(report: Report, metric: str) -> str:
    """Return question and definition of a metric, where the run holds them."""
    if metric not in report.definitions.index:
        return ""
    found = report.definitions.loc[metric]
    return f"{found.question} {found.reference}"


def is_drawn(each: Curve) -> bool:
    """Return whether a curve has any value."""
    return bool(np.isfinite(each.y).any())


def text(name: str) -> str:
    """Return a user's name as a figure can show it: one line, not too long."""
    return shortened(printable(name), 40)


def course(values: pd.Series, form: str = "{:.3g}") -> str:
    """Say from where to where a curve goes, and its extremes."""
    known = values.dropna()
    if known.empty:
        return "is not known at any step"
    first, last = form.format(known.iloc[0]), form.format(known.iloc[-1])
    least, most = form.format(known.min()), form.format(known.max())
    return (
        f"goes from {first} at step {known.index[0]:,} to {last} at step {known.index[-1]:,} "
        f"(least {least} at step {known.idxmin():,}, most {most} at step {known.idxmax():,})"
    )
