"""The figure that an audit is about: twin distance and held-out loss, their minima, the biased phase, the onsets."""

from __future__ import annotations

from collections.abc import Iterable

from auditor.reports import Report, where
from auditor.reports.charts import BLACK, BLUE, ORANGE, PURPLE, VERMILLION, Bar, Chart, Curve, Mark, Panel, Span, Style
from auditor.reports.traces import course, curve, is_drawn, space_style


def divergence(report: Report) -> Chart:
    """Twin distance and held-out loss against the step, their minima, the biased phase and the onsets of both risks."""
    spaces = report.record["scope"]["spaces"]
    distance = tuple(
        curve(
            report,
            "twin_distance_ratio",
            "both",
            space,
            f"twin distance, {space}",
            space_style(report, space),
            shown=space == report.headline_space,
            series="twin distance",
        )
        for space in [report.headline_space, *(each for each in spaces if each != report.headline_space)]
    )
    losses = tuple(each for each in loss_curves(report) if is_drawn(each))
    shade = {"spans": tuple(minima(report)), "marks": tuple(onset_marks(report))}
    panels = []
    if any(map(is_drawn, distance)):
        panels.append(Panel("Twin distance", "twin distance\n(1 = different seeds)", distance, **shade))
    note = "" if losses else "no losses were measured: no images were given"
    panels.append(Panel("Denoising loss", "denoising loss", losses, **shade, note=note))
    panels.append(Panel("Where minima and onsets lie", "", bars=tuple(onset_bars(report))))
    return Chart(
        "divergence-and-loss",
        "When the twins part, and when the held-out loss is least" if len(panels) > 2 else "The held-out loss",
        divergence_words(report),
        tuple(panels),
        tuple(report.steps),
        is_stacked=True,
        note=(
            "Twin distance: between what both twins draw from the same noise, 1 being that of different seeds; it is "
            "least early and grows as the models turn to their own images. Bands hold for all checkpoints together "
            "(95%). Shaded: steps that may hold each minimum (95% confidence sets)."
        ),
    )


def loss_curves(report: Report) -> list[Curve]:
    """Return the losses on held-out, own and other images, means of both twins."""
    looks = {
        "loss_heldout": ("held-out images", Style(BLACK, "solid", "circle"), True),
        "loss_own": ("own training images", Style(PURPLE, "dashed", "triangle"), False),
        "loss_other": ("the twin's training images", Style(ORANGE, "dotted", "square"), False),
    }
    return [
        curve(report, metric, "both", "", f"loss, {name}", style, shown=shown, series=f"loss, {name}")
        for metric, (name, style, shown) in looks.items()
    ]


def minima(report: Report) -> Iterable[Span]:
    """Yield the confidence sets of both minima, and the phase between them where it is claimed."""
    distance, loss = report.onset("divergence", report.headline_space), report.onset("loss")
    claimed = (report.record["checks"].get("phase") or {}).get("claimed")
    if claimed and 0 <= distance.high < loss.low:
        yield Span("biased phase", int(distance.high), int(loss.low), "#f0c419", ".", is_between=True)
    if distance.low >= 0:
        yield Span("steps of least twin distance (τ_div)", int(distance.low), int(distance.high), BLUE, "/")
    if loss.low >= 0:
        yield Span("steps of least held-out loss (τ_loss)", int(loss.low), int(loss.high), BLACK, "\\")


def onset_marks(report: Report) -> Iterable[Mark]:
    """Yield the first step at which each risk was found, in any space."""
    for onset, name, style in (
        ("bias", "lean found", Style(VERMILLION, "dashed", "")),
        ("copying", "copying found", Style(PURPLE, "dotted", "")),
    ):
        rows = report.tables["onsets"]
        found = rows[(rows.onset == onset) & (rows.step >= 0)]
        if len(found):
            first = found[found.step == found.step.min()]
            yield Mark(f"{name} ({', '.join(first.space)})", int(first.step.iloc[0]), style)


ONSET_ROWS = {"divergence": "least distance", "loss": "least loss", "bias": "leaning", "copying": "copying"}
ONSET_STYLES = {
    "divergence": Style(BLUE, "solid", "circle"),
    "loss": Style(BLACK, "solid", "square"),
    "bias": Style(VERMILLION, "solid", "triangle"),
    "copying": Style(PURPLE, "solid", "diamond"),
}


def onset_bars(report: Report) -> Iterable[Bar]:
    """Yield one bar per onset and space, the minima first."""
    rows = report.tables["onsets"]
    for onset, name in ONSET_ROWS.items():
        for row in rows[(rows.onset == onset) & (len(report.twins) > 1 or onset != "divergence")].itertuples():
            label = f"{name}, {row.space}" if row.space else name
            style = ONSET_STYLES[onset]
            found = row.status in ("found", "edge") and row.high >= 0
            yield Bar(label, int(row.low), int(row.high), found, f"{where(row)} ({row.status})", style, row.space)


def divergence_words(report: Report) -> str:
    """Say what the figure shows."""
    distance = report.estimates("twin_distance_ratio", "both", report.headline_space).value
    twinned = len(report.twins) > 1
    sentences = [f"Twin distance in {report.headline_space} {course(distance)}."] if twinned else []
    loss = report.estimates("loss_heldout", "both").value
    sentences.append(f"Held-out loss {course(loss)}." if loss.notna().any() else "No held-out loss was measured.")
    named = (("the least twin distance", "divergence", report.headline_space), ("the least held-out loss", "loss", ""))
    for name, onset, space in named if twinned else named[1:]:
        row = report.onset(onset, space)
        sentences.append(f"{name.capitalize()}: {where(row)} ({row.status}).")
    return " ".join([*sentences, *(f"{mark.name.capitalize()}: step {mark.step:,}." for mark in onset_marks(report))])
