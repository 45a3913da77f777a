"""The figure that an audit is about: twin distance and held-out loss, their minima, the biased phase, the onsets."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from auditor.reports import Report
from auditor.reports.charts import BLACK, BLUE, ORANGE, PURPLE, VERMILLION, Chart, Curve, Mark, Panel, Span, Style
from auditor.reports.charts.onsets import ONSETS, bars, known_onsets, placed
from auditor.reports.charts.series import course, curve, is_drawn, space_style

FOUND = {  # onset -> name and look of its vertical line
    "bias": ("lean found", Style(VERMILLION, "dashed", "")),
    "copying": ("copying found", Style(PURPLE, "dotted", "")),
    "loss_bias": ("lean of losses found", Style(ORANGE, "dotted", "")),
}
LOSSES = {  # metric -> what the images are, and the look
    "loss_heldout": ("held-out images", Style(BLACK, "solid", "circle")),
    "loss_own": ("own training images", Style(PURPLE, "dashed", "triangle")),
    "loss_other": ("the twin's training images", Style(ORANGE, "dotted", "square")),
}
DISTANCES = {
    True: "Twin distance: between what both twins draw from the same noise, 1 being that of different seeds",
    False: "Distance of predictions: half the mean squared difference of the noise that both twins predict in noised "
    "held-out images",
}


def divergence(report: Report) -> Chart:
    """Twin distance and held-out loss against the step, their minima, the biased phase and the onsets of both risks."""
    distance, losses = distance_curves(report), tuple(filter(is_drawn, loss_curves(report)))
    sampled, spans, marks = report.scope.with_samples, tuple(minima(report)), tuple(onset_marks(report))
    panels = []
    if any(map(is_drawn, distance)):
        axis = "twin distance\n(1 = different seeds)" if sampled else "distance of predictions"
        panels.append(Panel("Twin distance", axis, distance, spans=spans, marks=marks))
    note = "" if losses else "no losses were measured: no images were given"
    panels.append(Panel("Denoising loss", "denoising loss", losses, spans=spans, marks=marks, note=note))
    found = (bars(report, rows, onset.row, onset.style) for onset, rows in known_onsets(report, ONSETS))
    panels.append(Panel("Where minima and onsets lie", "", bars=tuple(chain.from_iterable(found))))
    return Chart(
        "divergence-and-loss",
        "When the twins part, and when the held-out loss is least" if len(panels) > 2 else "The held-out loss",
        divergence_words(report),
        tuple(panels),
        report.steps,
        is_stacked=True,
        note=(
            f"{DISTANCES[sampled]}; it is least early and grows as the models turn to their own images. "
            "Bands hold for all checkpoints together (95%). Shaded: steps that may hold each minimum (95% confidence "
            "sets)."
        ),
    )


def distance_curves(report: Report) -> tuple[Curve, ...]:
    """Return how far apart the twins' samples of the same noise are, by space; of a quick audit, their predictions."""
    if not report.scope.with_samples:
        return (curve(report, "prediction_variance", "distance of predictions", Style(BLUE, "solid", "circle")),)
    first = report.scope.headline_space
    drawn = []
    for space in sorted(report.drawn_spaces, key=lambda each: each != first):
        name, look = f"twin distance, {space}", space_style(report, space)
        shown = space == first
        drawn.append(curve(report, "twin_distance_ratio", name, look, space=space, series="twin distance", shown=shown))
    return tuple(drawn)


def loss_curves(report: Report) -> Iterable[Curve]:
    """Yield the losses on held-out, own and other images, means of both twins; the first is shown to begin with."""
    for metric, (images, style) in LOSSES.items():
        name = f"loss, {images}"
        yield curve(report, metric, name, style, shown=metric == "loss_heldout", series=name)


def minima(report: Report) -> Iterable[Span]:
    """Yield the confidence sets of both minima, and the phase between them where it is claimed."""
    distance, loss = report.parting, report.onset("loss")
    claimed = (report.record["checks"].get("phase") or {}).get("claimed")
    if claimed and 0 <= distance.high < loss.low:
        yield Span("biased phase", int(distance.high), int(loss.low), "#f0c419", ".", is_between=True)
    if distance.low >= 0:
        sampled = report.scope.with_samples
        name = "steps of least twin distance (τ_div)" if sampled else "steps of most alike predictions"
        yield Span(name, int(distance.low), int(distance.high), BLUE, "/")
    if loss.low >= 0:
        yield Span("steps of least held-out loss (τ_loss)", int(loss.low), int(loss.high), BLACK, "\\")


def onset_marks(report: Report) -> Iterable[Mark]:
    """Yield the first step at which each risk was found, in any space."""
    rows = report.tables["onsets"]
    for onset, (name, style) in FOUND.items():
        found = rows[(rows.onset == onset) & (rows.step >= 0)]
        if len(found):
            first = found[found.step == found.step.min()]
            spaces = ", ".join(each for each in first.space if each)
            yield Mark(f"{name} ({spaces})" if spaces else name, int(first.step.iloc[0]), style)


def distance_words(report: Report) -> str:
    """Say how the distance between the twins goes."""
    if report.scope.with_samples:
        distance = report.estimates("twin_distance_ratio", "both", report.scope.headline_space).value
        return f"Twin distance in {report.scope.headline_space} {course(distance)}."
    return f"The distance of the twins' predictions {course(report.estimates('prediction_variance', 'both').value)}."


def divergence_words(report: Report) -> str:
    """Say what the figure shows."""
    twinned = report.scope.with_twin
    sentences = [distance_words(report)] if twinned else []
    loss = report.estimates("loss_heldout", "both").value
    sentences += [said] if (said := (report.record["checks"].get("phase") or {}).get("sentence")) else []
    sentences.append(f"Held-out loss {course(loss)}." if loss.notna().any() else "No held-out loss was measured.")
    parted = "the least twin distance" if report.scope.with_samples else "the most alike predictions"
    named = ((parted, report.parting), ("the least held-out loss", report.onset("loss")))
    for name, row in named if twinned else named[1:]:
        sentences.append(f"{name.capitalize()}: {placed(report, row)} ({row.status}).")
    return " ".join([*sentences, *(f"{mark.name.capitalize()}: step {mark.step:,}." for mark in onset_marks(report))])
