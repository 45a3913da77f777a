"""What each section of a page says beside its figures, as plain data: tables, controls, definitions, settings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from auditor import config
from auditor.reports import Report, percent, printable
from auditor.reports.charts import distances, distinct
from auditor.reports.charts.curves import copy_rule
from auditor.reports.charts.onsets import known_onsets, placed

ORDER = ("divergence", "loss", "predictions", "loss_bias", "bias", "copying")  # of onsets: minima first
STATUS = {
    "found": "found",
    "edge": "at the edge of what can be judged",
    "undecided": "undecided",
    "none": "none in this series",
}


def warnings(report: Report) -> list[str]:
    """Return what a reader must know before anything else."""
    scope, said = report.scope, []
    if report.record["status"] != "complete":
        said.append("This audit is not finished: what follows may be missing steps, and recommends nothing.")
    if not report.is_trusted:
        said.append("This run is not to be trusted: a control failed. " + " ".join(report.record["checks"]["distrust"]))
    said += report.record["checks"].get("not_exchangeable") or []
    if not scope.with_train:
        said.append("No training images were given: whether samples lean on them or copy them is not known.")
    if not scope.with_lean and not scope.with_twin:
        said.append(
            "A single training was audited: without a twin, whether its samples lean on its images is not known."
        )
    if not scope.with_samples:
        said.append(
            "A quick audit: the networks were asked and no samples were drawn. Copies, the lean of samples and their "
            "quality are not known, so no checkpoint is shown safe."
        )
    if not scope.with_heldout:
        said.append(
            "No held-out images were given: neither a held-out loss nor the copying rule's false alarms are known."
        )
    if len(scope.spaces) == 1:
        said.append(f"Only one feature space was looked at ({scope.spaces[0]}): another might show other risks.")
    return said


# ---------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A value with its interval; ``marked`` where it is significant."""

    value: str
    interval: str = ""
    marked: bool = False


FORMS = {"loss": "{:.4f}", "distance": "{:.3f}", "share": "{:.1%}"}
WITHOUT_SAMPLES = {  # what a quick audit has in their place: metric -> heading
    "prediction_variance": "distance of predictions",
    "loss_lean": "lean of losses",
    "separation": "separation",
}
MARKED = ("loss_lean", "own_share", "own_share_in_class")  # significant by their corrected p


def checkpoint_table(report: Report) -> dict[str, Any]:
    """Return headings, each with the metric that it shows, and a row of cells per step."""
    scope, rule = report.scope, copy_rule(report)
    wanted = [("held-out loss", "loss_heldout", "both", "", "loss")]  # heading, metric, twin, space, form
    if not scope.with_samples and (scope.with_twin or scope.decoys):
        shown = WITHOUT_SAMPLES if scope.with_twin else {"loss_lean": WITHOUT_SAMPLES["loss_lean"]}
        wanted += [(name, metric, "both", "", "loss") for metric, name in shown.items()]
    elif scope.with_twin:
        space = scope.headline_space
        wanted.append((f"twin distance ({space})", "twin_distance_ratio", "both", space, "distance"))
    for space in report.shown_spaces if report.with_lean else ():
        wanted.append((f"own share, {space}", "own_share", "both", space, "share"))
        if report.with_classes:
            wanted.append((f"own share in class, {space}", "own_share_in_class", "both", space, "share"))
    if report.with_copies:
        named = {twin: f"copies, twin {printable(twin)}" for twin in scope.twins}
        wanted += [(name, rule, twin, scope.picture_space, "share") for twin, name in named.items()]
    found = [
        cells(report.estimates(metric, twin, space), FORMS[form], report.alpha if metric in MARKED else None)
        for _, metric, twin, space, form in wanted
    ]
    return {
        "columns": [(name, metric) for name, metric, *_ in wanted],
        "rows": {step: [each.get(step, Cell("–")) for each in found] for step in report.steps},
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
        (
            onset.full_name,
            row.space or "–",
            placed(report, row),
            STATUS[row.status],
            row.note.removesuffix("; -1 is open"),
        )
        for onset, rows in known_onsets(report, ORDER)
        for row in rows.itertuples()
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
    agreed: Mapping[str, distances.Agreement] = {}
    if report.scope.with_train and report.has_samples:
        agreed = {each.space: each for each in distances.agreements(report, nearest, report.steps[-1])}
    rows = []
    for space in report.drawn_spaces:
        found = report.estimates("own_share", "both", space)
        lean = found.index[found.p_corrected <= report.alpha]
        since = f"{len(lean)} of {len(found)} steps, first {lean[0]:,}" if len(lean) else "no step"
        said = {name: onset_text(report, name, space) for name in ("divergence", "bias", "copying")}
        since = since if report.with_lean else "not known"
        rows.append(SpaceRow(space=space, lean_steps=since, agreement=agreed.get(space), **said))
    return rows


def onset_text(report: Report, name: str, space: str) -> str:
    """Return where an onset lies, with its status, or that it is not known."""
    rows = report.tables["onsets"]
    found = rows[(rows.onset == name) & (rows.space == space)]
    if found.empty:
        return "not known"
    row = found.iloc[0]
    said = placed(report, row)
    return said if row.status == "none" else f"{said} ({STATUS[row.status]})"


def excluded(report: Report) -> list[tuple[str, list[str]]]:
    """Return the checkpoints that were found and not audited, by reason."""
    rows = report.tables["checkpoints"]
    return [
        (reason, [f"{row.twin}/{row.path} (step {row.step:,})" for row in group.itertuples()])
        for reason, group in rows[~rows.audited].groupby("reason", sort=False)
    ]


def controls(report: Report) -> list[tuple[str, str, str]]:
    """Return every control: what it is, its outcome in one word, and its numbers."""
    checks = report.record["checks"]
    if not checks:
        return [("all controls", "not known", "The run is not finished.")]
    rows = []
    if report.with_copies:
        failed = checks.get("distrust") or []
        what = "a copier must be found to copy, and held-out images must be neither biased nor copied"
        said = " ".join(failed) or "Every control came out as it must, in every space."
        rows.append((what, "failed" if failed else "passed", said))
    if report.scope.with_lean:
        what = "training and held-out images" if report.scope.decoys else "the halves"
        differing = checks.get("not_exchangeable") or []
        said = " ".join(differing) or f"Nothing shows that {what} differ in more than chance."
        rows.append((f"{what} must be exchangeable", "failed" if differing else "passed", said))
        rows += references(checks)
    return [*rows, *redrawn(checks.get("redraw"))]


def references(checks: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what models that memorize nothing show."""
    smooth = ", ".join(f"{space} {percent(value)}" for space, value in (checks.get("smooth_reference") or {}).items())
    linear = checks.get("linear_reference")
    found = [("a smooth model of each half: its own share", "reference", smooth or "not known")]
    if not smooth and "smooth_reference" in checks:
        found = []
    said = "not known" if linear is None else f"{linear:.4f}"
    return [*found, ("a linear denoiser of each half: its loss lean", "reference", said)]


def redrawn(found: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """Return how far seeds differ that were drawn again, where they were."""
    if not found:
        return []
    said = (
        f"{found['seeds']} seeds of {found['of']} in a batch of {found['batch_size']} differ by at most "
        f"{found['largest_deviation']} {found['unit']}."
    )
    outcome = "passed" if found["largest_deviation"] <= 1 else "see caveats"
    return [("seeds drawn again at another batch size", outcome, said)]


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
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {plain(each)}" for name, each in value.items() if each not in (None, ""))
    return "not given" if value is None else "yes" if value is True else "no" if value is False else str(value)


def command(given: Mapping[str, Any]) -> str:
    """Return the command that makes this run again: what differs from the defaults."""
    parts = ["audit", "run"]
    for each in fields(config.AuditConfig):
        value = given.get(each.name)
        if value is None or value is False or value == each.default:
            continue
        name = config.option(each.name)
        if value is True:
            parts.append(name)
        else:
            parts += [part for one in (value if isinstance(value, list) else [value]) for part in (name, str(one))]
    return shlex.join(parts)
