"""The report as one page for a browser: nothing outside it is loaded, and its words hold without its script."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, TextIO

import pandas as pd

from auditor import config
from auditor.reports import Report, curves, distances, figures, gallery, interactive, percent, printable, where
from auditor.reports.charts import Chart, Curve, Style, distinct
from auditor.reports.pictures import BLURRED, LEFT_OUT

if TYPE_CHECKING:
    from jinja2 import Environment

SYMBOLS = {  # never by colour alone
    "underfit": ("·", "not trained far enough to be judged"),
    "generalizing": ("✓", "lean, losses and copies are shown to be within their budgets"),
    "biased": ("!", "samples or losses lean on the own training images, more than a smooth model's"),
    "overfit": ("↗", "after the least held-out loss, and significantly above it"),
    "memorizing": ("✕", "samples copy training images"),
    "undecided": ("?", "the evidence does not settle it"),
}
ONSET_NAMES = {
    "divergence": "least twin distance (τ_div)",
    "loss": "least held-out loss (τ_loss)",
    "bias": "samples begin to lean",
    "copying": "samples begin to copy",
}
STATUS = {
    "found": "found",
    "edge": "at the edge of what can be judged",
    "undecided": "undecided",
    "none": "none in this series",
}


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


def render(report: Report, out: TextIO, width: int | None = None, color: bool = False) -> None:
    """Write the page. ``width`` and ``color`` have no meaning here."""
    out.write(page(report))


def page(report: Report) -> str:
    """Return the page as text; the same run gives the same page."""
    nearest = distances.Nearest(report)
    series = curves.charts(report)
    histograms = distances.charts(report, nearest)
    script, library = asset("page.js"), interactive.library()
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            record=report.record,
            scope=report.record["scope"],
            headline=split_sentence(report.conclusion)[0],
            detail=split_sentence(report.conclusion)[1],
            warnings=warnings(report),
            verdicts=report.tables["verdicts"].to_dict("records"),
            symbols=SYMBOLS,
            table=checkpoint_table(report),
            drawings={chart.key: drawing(chart) for chart in series},
            histograms=[drawing(chart) for chart in histograms],
            walls=gallery.walls(report),
            films=gallery.films(report),
            left_out=report.pictures == LEFT_OUT,
            blurred=report.pictures == BLURRED,
            onsets=onset_rows(report),
            spaces=space_rows(report, nearest),
            excluded=excluded(report),
            controls=controls(report),
            cards=cards(report),
            facts=facts(report),
            command=command(report.record["given"]),
            style=asset("page.css"),
            script=script,
            library=library,
            allowed=" ".join(f"'{interactive.digest(each)}'" for each in (library, script)),
            charts={chart.key: interactive.documents(chart) for chart in (*series, *histograms)},
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
    )
    made.filters |= {"printable": lambda value: printable(str(value)), "percent": percent}
    made.policies["json.dumps_kwargs"] = {"sort_keys": True, "separators": (",", ":")}
    return made


@cache
def asset(name: str) -> str:
    """Return a file that is a part of the page."""
    return (resources.files("auditor.reports") / "page" / name).read_text(encoding="utf-8")


def split_sentence(text: str) -> tuple[str, str]:
    """Return the first sentence, and the rest."""
    found = re.match(r"(.+?[.:])\s+(?=[A-Z(a-z])", text, re.DOTALL)
    if not found or len(found[1]) > 200:
        return text, ""
    return found[1].rstrip(":") + ("." if found[1].endswith(":") else ""), text[found.end() :]


def warnings(report: Report) -> list[str]:
    """Return what a reader must know before anything else."""
    scope, said = report.record["scope"], []
    if report.record["status"] != "complete":
        said.append("This audit is not finished: what follows may be missing steps, and recommends nothing.")
    if not report.is_trusted:
        said.append("This run is not to be trusted: a control failed. " + " ".join(report.record["checks"]["distrust"]))
    said += report.record["checks"].get("not_exchangeable") or []
    if not scope["with_train"]:
        said.append("No training images were given: whether samples lean on them or copy them is not known.")
    if not scope["with_heldout"]:
        said.append(
            "No held-out images were given: neither a held-out loss nor the copying rule's false alarms are known."
        )
    if len(scope["spaces"]) == 1:
        said.append(f"Only one feature space was looked at ({scope['spaces'][0]}): another might show other risks.")
    return said


# ---------------------------------------------------------------------------
# Figures
# ---------------------------------------------------------------------------


def drawing(chart: Chart) -> Drawing:
    """Return a chart with its static picture and its legend."""
    image = "data:image/svg+xml;base64," + base64.b64encode(figures.picture(chart, "svg")).decode()
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
    styles = [each.style for each in drawn if not each.is_control]
    common = {name: distinct(getattr(each, name) for each in styles) for name in ("color", "dash", "marker")}
    one = {name: values[0] for name, values in common.items() if len(values) == 1}
    if not {"color", "dash"} & set(one):
        return interactive.swatch(Style(dash="none", **one)) if one.get("marker") else ""
    return interactive.swatch(Style(**({"marker": ""} | one)))


# ---------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A value with its interval; ``marked`` where it is significant."""

    value: str
    interval: str = ""
    marked: bool = False


def checkpoint_table(report: Report) -> dict[str, Any]:
    """Return headings, each with the metric that it shows, and a row of cells per step."""
    scope, space = report.record["scope"], report.headline_space
    columns = [
        ("held-out loss", "loss_heldout", cells(report.estimates("loss_heldout", "both"), "{:.4f}")),
        (
            f"twin distance ({space})",
            "twin_distance_ratio",
            cells(report.estimates("twin_distance_ratio", "both", space), "{:.3f}"),
        ),
    ]
    if scope["with_train"]:
        alpha = report.record["budgets"]["alpha"]
        for each in scope["spaces"]:
            shares = cells(report.estimates("own_share", "both", each), "{:.1%}", alpha)
            columns.append((f"own share, {each}", "own_share", shares))
        for twin in "ab":
            copied = cells(report.estimates("memorized_fraction", twin, report.copy_space), "{:.1%}")
            columns.append((f"copies, twin {twin}", "memorized_fraction", copied))
    return {
        "columns": [(name, metric) for name, metric, _ in columns],
        "rows": {step: [found.get(step, Cell("–")) for *_, found in columns] for step in report.steps},
    }


def cells(rows: pd.DataFrame, form: str, alpha: float | None = None) -> dict[int, Cell]:
    """Return value and interval per step, marked where the corrected p is at most ``alpha``."""
    return {
        int(row.Index): Cell(
            "–" if pd.isna(row.value) else form.format(row.value),
            "" if pd.isna(row.low) else f"{form.format(row.low)} to {form.format(row.high)}",
            alpha is not None and bool(row.p_corrected <= alpha),
        )
        for row in rows.itertuples()
    }


def onset_rows(report: Report) -> list[tuple[str, str, str, str, str]]:
    """Return what, space, where, status and note of every minimum and onset."""
    return [
        (ONSET_NAMES[row.onset], row.space or "–", where(row), STATUS[row.status], row.note)
        for row in report.tables["onsets"].itertuples()
    ]


@dataclass(frozen=True)
class SpaceRow:
    """What one space says."""

    space: str
    divergence: str
    bias: str
    copying: str
    lean_steps: str
    agreement: distances.Agreement | None


def space_rows(report: Report, nearest: distances.Nearest) -> list[SpaceRow]:
    """Return per space what it says of the same things; the agreement is that of the last step."""
    scope = report.record["scope"]
    agreed: Mapping[str, distances.Agreement] = {}
    if scope["with_train"]:
        agreed = {each.space: each for each in distances.agreements(report, nearest, report.steps[-1])}
    rows = []
    for space in scope["spaces"]:
        found = report.estimates("own_share", "both", space)
        lean = found.index[found.p_corrected <= report.record["budgets"]["alpha"]]
        since = f"{len(lean)} of {len(found)} steps, first {lean[0]:,}" if len(lean) else "no step"
        rows.append(
            SpaceRow(
                space,
                onset_text(report, "divergence", space),
                onset_text(report, "bias", space),
                onset_text(report, "copying", space),
                since if scope["with_train"] else "not known",
                agreed.get(space),
            )
        )
    return rows


def onset_text(report: Report, name: str, space: str) -> str:
    """Return where an onset lies, with its status, or that it is not known."""
    rows = report.tables["onsets"]
    found = rows[(rows.onset == name) & (rows.space == space)]
    if found.empty:
        return "not known"
    row = found.iloc[0]
    return where(row) if row.status == "none" else f"{where(row)} ({STATUS[row.status]})"


def excluded(report: Report) -> list[tuple[str, list[str]]]:
    """Return the checkpoints that were found and not audited, by reason."""
    rows = report.tables["checkpoints"]
    return [
        (reason, [f"{row.twin}/{row.path} (step {row.step:,})" for row in group.itertuples()])
        for reason, group in rows[~rows.audited].groupby("reason", sort=False)
    ]


def controls(report: Report) -> list[tuple[str, str, str]]:
    """Return every control: what it is, its outcome in one word, and its numbers."""
    checks, scope = report.record["checks"], report.record["scope"]
    if not checks:
        return [("all controls", "not known", "The run is not finished.")]
    rows = []
    if scope["with_train"]:
        failed = checks.get("distrust") or []
        rows.append(
            (
                "a copier must be found to copy, and held-out images must be neither biased nor copied",
                "failed" if failed else "passed",
                " ".join(failed) or "Every control came out as it must, in every space.",
            )
        )
        differing = checks.get("not_exchangeable") or []
        rows.append(
            (
                "the halves must be exchangeable",
                "failed" if differing else "passed",
                " ".join(differing) or "Nothing shows that the halves differ in more than chance.",
            )
        )
        smooth = checks.get("smooth_reference") or {}
        rows.append(
            (
                "a smooth model of each half, which memorizes nothing: its own share",
                "reference",
                ", ".join(f"{space} {percent(value)}" for space, value in smooth.items()) or "not known",
            )
        )
        linear = checks.get("linear_reference")
        rows.append(
            (
                "a linear denoiser of each half: its loss lean",
                "reference",
                "not known" if linear is None else f"{linear:.4f}",
            )
        )
    redraw = checks.get("redraw")
    if redraw:
        rows.append(
            (
                "seeds drawn again at another batch size",
                "passed" if redraw["largest_deviation"] <= 1 else "see caveats",
                f"{redraw['seeds']} seeds of {redraw['of']} in a batch of {redraw['batch_size']} differ by at most "
                f"{redraw['largest_deviation']} {redraw['unit']}.",
            )
        )
    return rows


# ---------------------------------------------------------------------------
# Definitions, settings
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Card:
    """The definition of one metric, with how it was estimated in this run."""

    name: str
    question: str
    entries: tuple[tuple[str, str], ...]


def cards(report: Report) -> list[Card]:
    """Return a card per metric that the run measured."""
    rows, defined = report.tables["measurements"], report.definitions
    return [card(name, group, defined) for name, group in rows.groupby("metric", sort=True)]


def card(name: str, rows: pd.DataFrame, defined: pd.DataFrame) -> Card:
    """Return the card of one metric: its definition where the run holds it, its interval, units and spaces."""
    counts = distinct(f"{n:,} ({unit})" for n, unit in zip(rows.n, rows.unit, strict=True))
    entries = [
        ("interval", ", ".join(distinct(each for each in rows.method if each)) or "none: see the notes of its rows"),
        ("units", ", ".join(counts[:4]) + (", ..." if len(counts) > 4 else "")),
        ("given for", ", ".join(distinct(rows.twin))),
        ("spaces", ", ".join(distinct(rows.space)) or "none"),
    ]
    if name not in defined.index:
        return Card(name, "This run does not hold its definition; see docs/metrics.md.", tuple(entries))
    found = defined.loc[name]
    own = [("definition", found.reference), ("unit", found.unit), ("direction", found.direction)]
    own += [("neighbours", f"k = {found.k}")] if found.k else []
    return Card(name, found.question, (*own, *entries))


def facts(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return settings, sets, versions and digests, by heading."""
    record = report.record
    resolved = {**record["resolved"], **{f"scheduler: {k}": v for k, v in record["resolved"]["scheduler"].items()}}
    resolved.pop("scheduler")
    found = report.tables["checkpoints"]
    return [
        ("Settings as given", pairs(record["given"])),
        ("Settings as resolved", pairs(resolved)),
        ("Budgets of the verdict", pairs(record["budgets"])),
        (
            "Image sets",
            [(k, f"{v['images']:,} images, sha256 {v['digest']}") for k, v in sorted(record["sets"].items())],
        ),
        ("Checkpoints", [(f"{r.twin}/{r.path}", f"sha256 {r.digest}") for r in found[found.audited].itertuples()]),
        ("Versions", pairs(record["versions"])),
    ]


def pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return settings as text."""
    return [(name, plain(value)) for name, value in values.items()]


def plain(value: Any) -> str:
    """Return a setting as a reader would write it."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "not given" if value is None else "yes" if value is True else "no" if value is False else str(value)


def command(given: Mapping[str, Any]) -> str:
    """Return the command that makes this run again: what differs from the defaults."""
    parts = ["audit", "run"]
    for each in fields(config.AuditConfig):
        value = given.get(each.name)
        if value is None or value is False or value == each.default:
            continue
        parts += [config.option(each.name)] if value is True else [config.option(each.name), str(value)]
    return shlex.join(parts)


def as_json(value: Any) -> str:
    """Return JSON that may stand inside a script element."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).replace("<", "\\u003c")
