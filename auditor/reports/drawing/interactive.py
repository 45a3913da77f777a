"""The charts for a page: bokeh documents as JSON, which the page's own script shows when a reader gets to them.

What can be switched on and off is named: a reader's choice sets ``visible`` of the models of
that name. Ids count from one in every document, so that the same run gives the same bytes.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.reports.charts import BLACK, GRAY, Bar, Chart, Curve, Panel, Span, Style, padded, ticks

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource
    from bokeh.plotting import figure as Plot

HEIGHT, STACKED_HEIGHT, ROW_HEIGHT = 260, 270, 24  # pixels
DASH = {"solid": [], "dashed": [6, 3], "dotted": [2, 3], "dashdot": [7, 3, 2, 3]}
HATCH = {"/": "right_diagonal_line", "\\": "left_diagonal_line", ".": "dot", "": "blank"}
SVG = '<svg class="swatch" width="32" height="12" viewBox="0 0 32 12" aria-hidden="true" {look}>{inner}</svg>'
COUNTED = re.compile(r"^p\d+$")
TIP = """
<div style="max-width:22rem;font-size:13px"><b>@name</b><br>@at <b>@shown</b><br>@says<br><i>@definition</i></div>
"""


@cache
def library() -> str:
    """Return bokeh's script, the core bundle alone."""
    from bokeh.resources import Resources

    text = Resources(mode="inline", components=["bokeh"]).js_raw[0]
    return text.replace("</script", "<\\/script")


def digest(script: str) -> str:
    """Return a script's hash, by which a page allows it and no other."""
    return "sha256-" + base64.b64encode(sha256(script.encode()).digest()).decode()


def documents(chart: Chart) -> list[dict[str, Any]]:
    """Return the documents of a chart: one where its panels lie over one another, else one per panel."""
    parts = [chart.panels] if chart.is_stacked else [(panel,) for panel in chart.panels]
    return [document(chart, panels) for panels in parts]


def document(chart: Chart, panels: tuple[Panel, ...]) -> dict[str, Any]:
    """Return one bokeh document with the panels under one another."""
    from bokeh.document import Document
    from bokeh.layouts import column

    axis = Axis(chart)
    plots = [draw(axis, panel) for panel in panels]
    for plot in plots[:-1]:
        plot.xaxis.axis_label = None
    made = Document()
    made.add_root(column(*plots, sizing_mode="stretch_width") if len(plots) > 1 else plots[0])
    return renumbered(made.to_json(deferred=False))


@dataclass(frozen=True)
class Axis:
    """The horizontal axis of a chart, in both forms between which a reader can switch.

    Positions are logarithms or the steps themselves, on a linear axis of bokeh's with
    labels of ours. A model that has another position in each form carries both in its
    tags: ``{"property": [logarithmic, linear]}``; the page's script sets one of them.
    """

    chart: Chart

    @property
    def at_first(self) -> int:
        """Which form is shown at first: 0 is logarithmic, 1 linear."""
        return 0 if self.chart.is_logarithmic else 1

    def forms(self, logarithmic: float, linear: float) -> list[float]:
        """Return a position in both forms, given in steps for either axis."""
        return [math.log10(logarithmic) if self.chart.has_logarithm else float(linear), float(linear)]

    def ends(self, place: Callable[[Sequence[int], bool], tuple[float, float]]) -> tuple[list[float], list[float]]:
        """Return where something begins and ends in both forms; ``place`` returns both in steps, for either axis."""
        linear = place(self.chart.steps, False)
        first, last = zip(place(self.chart.steps, True) if self.chart.has_logarithm else linear, linear, strict=True)
        return self.forms(*first), self.forms(*last)

    def placed(self, model: Any, **forms: list[Any]) -> Any:
        """Return a model at its first positions, with both in its tags."""
        model.update(tags=[forms], **{name: each[self.at_first] for name, each in forms.items()})
        return model

    def range(self) -> Any:
        """Return the range of the axis."""
        from bokeh.models import Range1d

        start, end = self.ends(padded)
        return self.placed(Range1d(), start=start, end=end)

    def ticker(self) -> tuple[Any, dict[float, str]]:
        """Return the ticker and the labels of every tick in either form."""
        from bokeh.models import FixedTicker

        shown = [ticks(self.chart.steps, logarithmic, 5) for logarithmic in (self.chart.has_logarithm, False)]
        at: list[list[float]] = [np.log10(shown[0]).tolist() if self.chart.has_logarithm else [*shown[0]], [*shown[1]]]
        labels = {place: f"{step:,}" for i in (0, 1) for place, step in zip(at[i], shown[i], strict=True)}
        return self.placed(FixedTicker(), ticks=at), labels


def renumbered(value: Any, names: dict[str, str] | None = None) -> Any:
    """Return a document whose ids are counted from one, in the order in which they appear."""
    names = {} if names is None else names
    if isinstance(value, Mapping):
        return {
            key: names.setdefault(each, f"p{len(names) + 1}")
            if key == "id" and isinstance(each, str) and COUNTED.match(each)
            else renumbered(each, names)
            for key, each in value.items()
        }
    return [renumbered(each, names) for each in value] if isinstance(value, list) else value


def draw(axis: Axis, panel: Panel) -> Plot:
    """Return one plot."""
    from bokeh.models import DataRange1d, HoverTool
    from bokeh.plotting import figure

    chart = axis.chart
    ranges: dict[str, Any] = {"y_range": DataRange1d(only_visible=True, range_padding=0.08)}
    if panel.from_zero:
        ranges["y_range"].start = 0
    if chart.steps:
        ranges["x_range"] = axis.range()
    if panel.is_logarithmic:
        ranges["y_axis_type"] = "log"
    if panel.bars:
        ranges["y_range"] = list(reversed([bar.row for bar in panel.bars]))
    plot = figure(
        height=len(panel.bars) * ROW_HEIGHT + 70 if panel.bars else STACKED_HEIGHT if chart.is_stacked else HEIGHT,
        sizing_mode="stretch_width",
        tools="xbox_zoom,reset,save",
        active_drag=None,
        min_border_left=60,
        title=panel.title,
        **ranges,
    )
    plot.toolbar.update(logo=None, autohide=True)
    dress(plot, chart, panel)
    if chart.steps:
        ticker, labels = axis.ticker()
        plot.xaxis.update(ticker=ticker, major_label_overrides=labels)
    shade(plot, axis, panel)
    points = [renderer for each in panel.curves for renderer in draw_curve(plot, axis, panel, each)]
    points += [draw_bar(plot, axis, bar) for bar in panel.bars]
    plot.add_tools(HoverTool(renderers=points, tooltips=TIP, mode="mouse", point_policy="snap_to_data"))
    return plot


def dress(plot: Plot, chart: Chart, panel: Panel) -> None:
    """Set labels, fonts and number formats."""
    from bokeh.models import NumeralTickFormatter

    plot.title.text_font_size, plot.title.text_color = "13px", BLACK
    plot.xaxis.axis_label = chart.label
    plot.yaxis.axis_label = None if panel.bars else panel.label
    for axis in plot.axis:
        axis.axis_label_text_font_style, axis.axis_label_text_font_size = "normal", "12px"
        axis.major_label_text_font_size = "12px"
        axis.axis_label_text_color = axis.major_label_text_color = BLACK
        axis.minor_tick_line_color = None
    if chart.steps:
        plot.xaxis.formatter = NumeralTickFormatter(format="0,0")
    if panel.is_share:
        plot.yaxis.formatter = NumeralTickFormatter(format="0.[00]%")
    plot.grid.grid_line_color = "#e3e3e3"
    plot.outline_line_color = None


def shade(plot: Plot, axis: Axis, panel: Panel) -> None:
    """Draw spans, marks and levels."""
    from bokeh.models import BoxAnnotation
    from bokeh.models import Span as Line

    for span in panel.spans:
        look = {"fill_color": span.color, "hatch_color": span.color, "hatch_pattern": HATCH[span.hatch]}
        box = BoxAnnotation(**look, fill_alpha=0.13, hatch_alpha=0.3, hatch_scale=16, line_color=None)
        left, right = axis.ends(span.ends)
        plot.add_layout(axis.placed(box, left=left, right=right))
    for mark in panel.marks:
        line = Line(dimension="height", line_color=mark.style.color, line_dash=DASH[mark.style.dash], line_width=1.5)
        plot.add_layout(axis.placed(line, location=axis.forms(mark.step, mark.step)))
    for level in panel.levels:
        line = Line(dimension="width", line_color=level.style.color, line_dash=DASH[level.style.dash])
        line.update(location=level.y, name=named(level.space, ""))
        plot.add_layout(line)


def named(space: str, series: str) -> str:
    """Return the name by which models are switched on and off."""
    return f"{space}|{series}"


def source(axis: Axis, panel: Panel, each: Curve) -> ColumnDataSource:
    """Return the data of one curve with what hovering says; what is the same for all its points is in the tags."""
    from bokeh.models import ColumnDataSource

    form = "{:.2%}" if panel.is_share else "{:.4g}"
    title = " · ".join(part for part in (each.name, "" if each.series in each.name else each.series) if part)
    data = {
        "log": np.log10(each.x) if axis.chart.has_logarithm else each.x,
        "linear": each.x,
        "y": each.y,
        "shown": [form.format(value) if np.isfinite(value) else "not defined" for value in each.y],
        "says": list(each.says),
    }
    if each.marked is not None:
        data["fill"] = each.marked.astype(float)
    if each.low is not None:
        data |= {"low": each.low, "high": each.high}
    return ColumnDataSource(data, tags=[{"name": title, "definition": each.definition, "counted": axis.chart.counted}])


def draw_curve(plot: Plot, axis: Axis, panel: Panel, each: Curve) -> list[Any]:
    """Draw band, line and markers; return what can be hovered."""
    from bokeh.models import CDSView, Line, Scatter, Step, VArea

    data, style, x = source(axis, panel, each), each.style, ("log", "linear")[axis.at_first]
    common = {"name": named(each.space, each.series), "visible": each.shown, "view": CDSView()}  # one for all glyphs
    line = {"line_color": style.color, "line_dash": DASH[style.dash], "line_width": 2}
    if each.steps_like:
        return [plot.add_glyph(data, Step(x=x, y="y", mode="after", **line), **common)]
    if each.low is not None and np.isfinite(each.low).any():
        look = {"fill_color": style.color, "fill_alpha": 0.07 if each.is_control else 0.16}
        plot.add_glyph(data, VArea(x=x, y1="low", y2="high", **look), **common)
    plot.add_glyph(data, Line(x=x, y="y", **line), **common)
    dots = {"line_color": style.color, "fill_color": style.color, "marker": style.marker or "circle"}
    fill = 1.0 if each.marked is None else "fill"
    return [plot.add_glyph(data, Scatter(x=x, y="y", size=8 if style.marker else 5, fill_alpha=fill, **dots), **common)]


def draw_bar(plot: Plot, axis: Axis, bar: Bar) -> Any:
    """Draw one onset; return what can be hovered."""
    from bokeh.models import ColumnDataSource, Scatter, Segment

    low, high = axis.ends(bar.ends)
    at = [end for end, step in ((low, bar.low), (high, bar.high)) if step >= 0] or [low]
    columns = {"log": [end[0] for end in at], "linear": [end[1] for end in at], "y": [bar.row] * len(at)}
    said = {"shown": [bar.says] * len(at), "says": [""] * len(at)}
    data = ColumnDataSource(columns | said, tags=[{"name": bar.row, "definition": "", "counted": axis.chart.counted}])
    x = ("log", "linear")[axis.at_first]
    if bar.known:
        ends = {"log": low[:1], "linear": low[1:], "log1": high[:1], "linear1": high[1:], "y": [bar.row]}
        line = Segment(x0=x, x1=f"{x}1", y0="y", y1="y", line_color=bar.style.color, line_width=5 if bar.found else 2)
        plot.add_glyph(ColumnDataSource(ends), line)
    color = bar.style.color if bar.known else GRAY
    look = {"line_color": color, "fill_color": color, "fill_alpha": 1.0 if bar.found else 0.0, "size": 9}
    return plot.add_glyph(data, Scatter(x=x, y="y", marker=bar.style.marker if bar.known else "x", **look))


def swatch(style: Style) -> str:
    """Return a small SVG of a line in this style, for a legend in a page; of its marker alone where it has no dash."""
    shape = {
        "circle": '<circle cx="16" cy="6" r="3.6"/>',
        "square": '<rect x="12.6" y="2.6" width="6.8" height="6.8"/>',
        "triangle": '<path d="M16 1.8 20 9.4H12Z"/>',
        "inverted_triangle": '<path d="M16 10.2 20 2.6H12Z"/>',
        "diamond": '<path d="M16 1.4 20.4 6 16 10.6 11.6 6Z"/>',
        "plus": '<path d="M16 1.6V10.4M11.6 6H20.4" stroke-width="2.4"/>',
        "": "",
    }[style.marker]
    if not style.dash and not style.marker:
        return ""
    dash = " ".join(map(str, DASH.get(style.dash, [])))
    line = f'<path d="M0 6H32" stroke-width="2" stroke-dasharray="{dash}"/>' if style.dash else ""
    return SVG.format(look=f'stroke="{style.color}" fill="{style.color}"', inner=f"{line}{shape}")


def patch(span: Span) -> str:
    """Return a small SVG of a shaded span."""
    strokes = {
        "/": '<path d="M-2 14 14-2M6 14 22-2M14 14 30-2M22 14 38-2"/>',
        "\\": '<path d="M-6-2 10 14M2-2 18 14M10-2 26 14M18-2 34 14"/>',
        ".": '<path d="M2 3H32M2 9H32" stroke-dasharray="1.5 4.5" stroke-width="1.5"/>',
        "": "",
    }[span.hatch]
    box = f'<rect width="32" height="12" fill="{span.color}" fill-opacity=".16" stroke="none"/>'
    return SVG.format(look=f'stroke="{span.color}"', inner=f"{box}{strokes}")
