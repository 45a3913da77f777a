"""Charts for a paper, by matplotlib: no browser, no display, the same bytes each time."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.reports.charts import (
    BLACK,
    GRAY,
    Bar,
    Chart,
    Curve,
    Panel,
    mixed,
    padded,
    ticks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.2  # inches: two columns of a paper
GAP = 0.5  # inches between rows of panels
LEGEND_COLUMNS = 3
DASH = {"solid": "-", "dashed": (0, (5, 2)), "dotted": (0, (1, 1.4)), "dashdot": (0, (6, 2, 1.2, 2))}
MARKER = {
    "circle": "o",
    "square": "s",
    "triangle": "^",
    "inverted_triangle": "v",
    "diamond": "D",
    "plus": "P",
    "": "",
}
LOOK = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.edgecolor": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
    "svg.hashsalt": "auditor",  # else ids are random
}


def picture(chart: Chart, suffix: str) -> bytes:
    """Return a chart as the bytes of a PNG (200 dpi) or SVG file."""
    import matplotlib

    with matplotlib.rc_context(LOOK):
        return saved(draw(chart), suffix)


def saved(figure: Figure, suffix: str) -> bytes:
    """Return a figure as the bytes of a file, without a date."""
    import matplotlib

    out = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if suffix == "svg" else {"Software": None}
    with warnings.catch_warnings(), matplotlib.rc_context(LOOK):
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # names may be in any script
        figure.savefig(out, format=suffix, dpi=200, metadata=metadata)
    return out.getvalue()


def draw(chart: Chart) -> Figure:
    """Return a chart as a matplotlib figure."""
    from matplotlib.figure import Figure

    rows, columns = grid(chart)
    heights = [panel_height(panel) for panel in chart.panels] if chart.is_stacked else [1.75] * rows
    foot = 0.55 + 0.18 * -(-len(named(chart)) // LEGEND_COLUMNS)
    height = sum(heights) + GAP * (rows - 1) + 0.3 + foot
    figure = Figure(figsize=(WIDTH, height))
    # Margins in inches rather than a constrained layout, which takes as long as all the drawing.
    left = 1.75 if any(panel.bars for panel in chart.panels) else 0.75
    axes = figure.subplots(rows, columns, squeeze=False, sharex=chart.is_stacked, height_ratios=heights)
    spacing = {"hspace": GAP * rows / sum(heights), "wspace": 0.34}
    figure.subplots_adjust(left / WIDTH, foot / height, 1 - 0.2 / WIDTH, 1 - 0.3 / height, **spacing)
    for ax, panel in zip(axes.flat, chart.panels, strict=False):
        draw_panel(ax, chart, panel)
    for ax in list(axes.flat)[len(chart.panels) :]:
        ax.set_axis_off()
    for ax in axes[:, 1:].flat:
        ax.set_ylabel("")
    label = f"{chart.label}{' (log scale)' if chart.is_logarithmic else ''}"
    x = (left + WIDTH - 0.2) / 2 / WIDTH
    figure.text(x, (foot - 0.42) / height, label, ha="center", va="center", fontsize=LOOK["font.size"])
    add_legend(figure, list(axes.flat)[: len(chart.panels)])
    return figure


def named(chart: Chart) -> set[str]:
    """Return the names that the legend explains."""
    drawn = {each.name for each in chart.curves if each.shown}
    for panel in chart.panels:
        drawn |= {span.name for span in panel.spans}
        drawn |= {mark.name for mark in panel.marks} | {level.name for level in panel.levels}
    return drawn


def grid(chart: Chart) -> tuple[int, int]:
    """Return how many rows and columns of panels a chart has."""
    n = len(chart.panels)
    if chart.is_stacked:
        return n, 1
    columns = 2 if n == 4 else min(n, 3)
    return -(-n // columns), columns


def panel_height(panel: Panel) -> float:
    """Return inches: enough for each row of bars."""
    return 0.2 * len(panel.bars) if panel.bars else 1.9


def draw_panel(ax: Axes, chart: Chart, panel: Panel) -> None:
    """Draw one pair of axes."""
    ax.set_title(panel.title)
    ax.set_ylabel(panel.label)
    ax.grid(True)
    ax.set_axisbelow(True)
    scale_steps(ax, chart)
    for span in panel.spans:
        left, right = span.ends(chart.steps, chart.is_logarithmic)
        # Opaque and below the grid: a hatch with opacity vanishes in SVG and turns black in print.
        ax.axvspan(
            left,
            right,
            facecolor=mixed(span.color, 0.14),
            edgecolor=mixed(span.color, 0.5),
            hatch=span.hatch * 3,
            linewidth=0,
            zorder=0.3,
            label=span.name,
        )
    for mark in panel.marks:
        ax.axvline(mark.step, color=mark.style.color, linestyle=DASH[mark.style.dash], linewidth=1.1, label=mark.name)
    for level in panel.levels:
        ax.axhline(level.y, color=level.style.color, linestyle=DASH[level.style.dash], linewidth=1, label=level.name)
    shown = [each for each in panel.curves if each.shown]
    for each in shown:
        draw_curve(ax, each)
    draw_bars(ax, panel.bars, chart)
    if panel.is_logarithmic:
        ax.set_yscale("log")
    if panel.from_zero:
        ax.set_ylim(bottom=0)
    if panel.is_share:
        ax.yaxis.set_major_formatter(lambda value, at: f"{100 * value:.4g}%")
    if not shown and not panel.bars:
        ax.text(0.5, 0.5, panel.note or "no values", transform=ax.transAxes, ha="center", color=GRAY)


def scale_steps(ax: Axes, chart: Chart) -> None:
    """Set the axis of steps: its scale, and audited steps as ticks."""
    from matplotlib.ticker import FixedLocator, NullLocator

    if not chart.steps:
        return
    if chart.is_logarithmic:
        ax.set_xscale("log")
    at = ticks(chart.steps, chart.is_logarithmic, 7 if len(chart.panels) == 1 or chart.is_stacked else 3)
    ax.xaxis.set_major_locator(FixedLocator(at))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda value, at: f"{value:,.0f}")
    ax.set_xlim(*padded(chart.steps, chart.is_logarithmic))


def draw_curve(ax: Axes, each: Curve) -> None:
    """Draw a curve, its band, and its markers: hollow where it is not marked."""
    style = each.style
    if each.steps_like:
        ax.stairs(each.y[:-1], each.x, color=style.color, linestyle=DASH[style.dash], label=each.name, linewidth=1.3)
        return
    if each.low is not None and each.high is not None and np.isfinite(each.low).any():
        ax.fill_between(
            each.x, each.low, each.high, color=style.color, alpha=0.07 if each.is_control else 0.16, linewidth=0
        )
    ax.plot(
        each.x,
        each.y,
        color=style.color,
        linestyle=DASH[style.dash],
        marker=MARKER[style.marker],
        label=each.name,
        markeredgecolor=style.color,
    )
    if each.marked is not None:
        at = ~each.marked
        hollow: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": style.color}
        ax.plot(each.x[at], each.y[at], linestyle="", marker=MARKER[style.marker], **hollow)


def draw_bars(ax: Axes, bars: Sequence[Bar], chart: Chart) -> None:
    """Draw one row per onset: a bar over its steps, hollow where nothing was found, an arrow where it is open."""
    if not bars:
        return
    for at, bar in enumerate(bars):
        if not bar.known:
            ax.text(0.01, at, bar.says, transform=ax.get_yaxis_transform(), va="center", color=GRAY, fontsize=7)
            continue
        low, high = bar.ends(chart.steps, chart.is_logarithmic)
        ax.plot([low, high], [at, at], color=bar.style.color, linewidth=3 if bar.found else 1, solid_capstyle="butt")
        look: dict[str, Any] = {"marker": MARKER[bar.style.marker], "color": bar.style.color}
        face = bar.style.color if bar.found else "white"
        ax.plot(bar.known, [at] * len(bar.known), linestyle="", markerfacecolor=face, **look)
        label_bar(ax, bar, at, high)
    ax.set_yticks(range(len(bars)), [bar.row for bar in bars])
    ax.set_ylim(len(bars) - 0.4, -0.6)
    ax.grid(False, axis="y")


def label_bar(ax: Axes, bar: Bar, at: int, high: float) -> None:
    """Write what a bar says beside it, on the side that has room."""
    transform = ax.transData
    place = ax.transAxes.inverted().transform(transform.transform((high, at)))[0]
    beside, offset, align = (bar.low if bar.low >= 0 else high, -7, "right") if place > 0.6 else (high, 7, "left")
    ax.annotate(
        bar.says,
        (beside, at),
        xytext=(offset, 0),
        textcoords="offset points",
        va="center",
        ha=align,
        fontsize=7,
        color=BLACK,
    )


def add_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Name everything drawn, once, under the panels."""
    found: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(found.values(), found.keys(), loc="lower left", ncols=LEGEND_COLUMNS, handlelength=3.2)
