"""The report as one page for a browser: nothing outside it is loaded, and its words hold without its script."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, TextIO

from auditor.config import COPY_RATIO
from auditor.reports import Report, gallery, members, percent, printable, sections, told_beside
from auditor.reports.album import LEFT_OUT, copy_ratios
from auditor.reports.charts import Chart, Curve, Style, curves, distances, distinct, networks
from auditor.reports.drawing import interactive, printed

if TYPE_CHECKING:
    from jinja2 import Environment

SYMBOLS = {  # never by color alone
    "underfit": ("○", "not trained far enough to be judged"),
    "generalizing": ("✓", "lean, losses and copies are shown to be within their budgets"),
    "biased": ("!", "samples or losses lean on the own training images, more than a smooth model's"),
    "overfit": ("↗", "after the least held-out loss, and significantly above it"),
    "memorizing": ("✕", "samples copy training images"),
    "undecided": ("?", "the evidence does not settle it"),
}
LONGEST_HEADLINE = 160


@dataclass(frozen=True)
class Choice:
    """One entry of a figure's legend; with ``group`` it can be switched on and off."""

    group: str  # "space", "series", or nothing
    value: str
    label: str
    swatch: str  # svg
    shown: bool = True


@dataclass(frozen=True)
class Drawing:
    """A chart as the page holds it."""

    chart: Chart
    image: str  # data URI of the static picture
    panels: int  # how many interactive parts take its place
    legend: tuple[Choice, ...]

    def choices(self, group: str) -> list[Choice]:
        """The legend's entries of one group."""
        return [each for each in self.legend if each.group == group]


def render(report: Report, out: TextIO, width: int | None = None) -> None:
    """Write the page. ``width`` has no meaning here."""
    out.write(page(report))


def page(report: Report) -> str:
    """Return the page as text; the same run gives the same page."""
    nearest = distances.Nearest(report)
    series, by_noise = curves.charts(report), networks.charts(report)
    histograms = distances.charts(report, nearest)
    script, library = asset("page.js"), interactive.library()
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            **{each.__name__.rpartition(".")[2]: each for each in (gallery, members, networks, sections)},
            record=report.record,
            scope=report.scope,
            headline=split_sentence(report.conclusion)[0],
            detail=split_sentence(report.conclusion)[1],
            beside=told_beside(report.record),
            verdicts=report.tables["verdicts"].to_dict("records"),
            two_words="risk" in report.tables["verdicts"],  # runs of before have but one
            symbols=SYMBOLS,
            drawings={chart.key: drawing(chart) for chart in (*series, *by_noise)},
            histograms=[drawing(chart) for chart in histograms],
            copy_below=copy_ratios(report.record).get(report.scope.picture_space, COPY_RATIO),
            agreed=report.scope.with_train and report.has_samples,
            left_out=report.pictures == LEFT_OUT,
            hidden=report.names is not None,
            spaces=sections.space_rows(report, nearest),
            style=asset("page.css"),
            script=script,
            library=library,
            allowed=" ".join(f"'{interactive.digest(each)}'" for each in (library, script)),
            charts={chart.key: interactive.documents(chart) for chart in (*series, *by_noise, *histograms)},
        )
    )


@cache
def environment() -> Environment:
    """Return jinja2 with everything escaped that is not said to be safe."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("auditor.reports", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"printable": lambda value: printable(str(value)), "percent": percent}
    made.policies["json.dumps_kwargs"] = {
        "sort_keys": False,
        "separators": (",", ":"),
    }  # bokeh: definitions before references
    return made


@cache
def asset(name: str) -> str:
    """Return a file that is a part of the page."""
    return (resources.files("auditor.reports") / "page" / name).read_text(encoding="utf-8")


def split_sentence(text: str) -> tuple[str, str]:
    """Return the first sentence, or of a long one what stands before its colon, and the rest."""
    if len(text) <= LONGEST_HEADLINE:
        return text, ""
    for end in (r"\.", ":"):
        found = re.match(rf"(.+?){end}\s+(?=\S)", text, re.DOTALL)
        if found and len(found[1]) <= LONGEST_HEADLINE:
            rest = text[found.end() :]
            return f"{found[1]}.", rest[0].upper() + rest[1:]
    return text, ""


# ---------------------------------------------------------------------------
# Figures
# ---------------------------------------------------------------------------


def drawing(chart: Chart) -> Drawing:
    """Return a chart with its static picture and its legend."""
    image = "data:image/svg+xml;base64," + base64.b64encode(printed.picture(chart, "svg")).decode()
    return Drawing(chart, image, 1 if chart.is_stacked else len(chart.panels), tuple(legend(chart)))


def legend(chart: Chart) -> Iterable[Choice]:
    """Yield what a figure shows: the spaces and the curves to choose from, then what is always there."""
    spaces, series = chart.spaces, chart.series
    for space in spaces:
        own = [each for each in chart.curves if each.space == space]
        yield Choice("space", space, space, swatch_of(own), any(each.shown for each in own))
    if len(series) > 1:
        for name in series:
            own = [each for each in chart.curves if each.series == name]
            yield Choice("series", name, name, swatch_of(own), any(each.shown for each in own))
    drawn = {each.name: each.style for each in chart.curves if not spaces or len(series) < 2} if not spaces else {}
    levels = {each.name: each.style for panel in chart.panels for each in panel.levels}
    marks = {each.name: each.style for panel in chart.panels for each in panel.marks}
    for name, style in (drawn | levels | marks).items():
        if name not in series or len(series) < 2:
            yield Choice("", name, name, interactive.swatch(style))
    for span in {each.name: each for panel in chart.panels for each in panel.spans}.values():
        yield Choice("", span.name, span.name, interactive.patch(span))


def swatch_of(drawn: Sequence[Curve]) -> str:
    """Return a line in what several curves have in common: nothing where they share no look."""
    shown = [each for each in drawn if each.shown] or drawn
    styles = [each.style for each in shown if not each.is_control]
    common = {name: distinct(getattr(each, name) for each in styles) for name in ("color", "dash", "marker")}
    one = {name: values[0] for name, values in common.items() if len(values) == 1}
    return interactive.swatch(Style(**({"marker": "", "dash": ""} | one)))
