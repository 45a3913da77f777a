"""Which curves over the series a report shows (divergence, loss, lean, copies, quality), and the same in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from auditor.records import TWINS
from auditor.reports import Report, percent, where
from auditor.reports.charts import (
    BLACK,
    BLUE,
    COLORS,
    DASHES,
    GREY,
    MARKERS,
    ORANGE,
    PURPLE,
    VERMILLION,
    Bar,
    Chart,
    Curve,
    Level,
    Mark,
    Panel,
    Span,
    Style,
)

TWIN_MARKERS = {"a": "triangle", "b": "inverted_triangle"}
TWIN_DASHES = {"a": "solid", "b": "dashed"}


def charts(report: Report) -> list[Chart]:
    """Return the charts over the series, in the order of reading; those of distances are in ``distances``."""
    made = [divergence(report)]
    if report.record["scope"]["with_train"]:
        made += [lean(report), copies(report)]
    if has_quality(report):
        made.append(quality(report))
    return made


# ---------------------------------------------------------------------------
# Curves
# ---------------------------------------------------------------------------


def space_style(report: Report, space: str) -> Style:
    """Return the style that a space has in every figure."""
    at = report.record["scope"]["spaces"].index(space)
    return Style(COLORS[at % len(COLORS)], DASHES[at % len(DASHES)], MARKERS[at % len(MARKERS)])


def curve(report: Report, metric: str, twin: str, space: str, name: str, style: Style, **more: object) -> Curve:
    """Return a metric along the series, with the band over all checkpoints where there is one, else the intervals."""
    rows = report.estimates(metric, twin, space)
    banded = rows.low_corrected.notna() & rows.high_corrected.notna()
    return Curve(
        name,
        rows.index.to_numpy(float),
        rows.value.to_numpy(float),
        style,
        rows.low_corrected.where(banded, rows.low).to_numpy(float),
        rows.high_corrected.where(banded, rows.high).to_numpy(float),
        says=tuple(says(row) for row in rows.itertuples()),
        definition=definition(report, metric),
        **{"space": space, **more},
    )


def says(row: object) -> str:
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


# ---------------------------------------------------------------------------
# Divergence and loss: the figure that an audit is about
# ---------------------------------------------------------------------------


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
    spans, marks = tuple(minima(report)), tuple(onset_marks(report))
    panels = [Panel("Twin distance", "twin distance\n(1 = different seeds)", distance, spans=spans, marks=marks)]
    note = "" if losses else "no losses were measured: no images were given"
    panels.append(Panel("Denoising loss", "denoising loss", losses, spans=spans, marks=marks, note=note))
    panels.append(Panel("Where minima and onsets lie", "", bars=tuple(onset_bars(report))))
    return Chart(
        "divergence-and-loss",
        "When the twins part, and when the held-out loss is least",
        divergence_words(report),
        tuple(panels),
        tuple(report.steps),
        is_stacked=True,
        note=(
            "Upper part: distance between what both twins draw from the same noise, 1 being that of different seeds; "
            "it is least early and grows as the models turn to their own images. Middle: denoising loss. Bands hold "
            "for all checkpoints together (95%). Shaded: steps that may hold each minimum (95% confidence sets)."
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
        for row in rows[rows.onset == onset].itertuples():
            label = f"{name}, {row.space}" if row.space else name
            style = ONSET_STYLES[onset]
            found = row.status in ("found", "edge") and row.high >= 0
            yield Bar(label, int(row.low), int(row.high), found, f"{where(row)} ({row.status})", style, row.space)


def divergence_words(report: Report) -> str:
    """Say what the figure shows."""
    distance = report.estimates("twin_distance_ratio", "both", report.headline_space).value
    sentences = [f"Twin distance in {report.headline_space} {course(distance)}."]
    loss = report.estimates("loss_heldout", "both").value
    sentences.append(f"Held-out loss {course(loss)}." if loss.notna().any() else "No held-out loss was measured.")
    named = (("the least twin distance", "divergence", report.headline_space), ("the least held-out loss", "loss", ""))
    for name, onset, space in named:
        row = report.onset(onset, space)
        sentences.append(f"{name.capitalize()}: {where(row)} ({row.status}).")
    return " ".join([*sentences, *(f"{mark.name.capitalize()}: step {mark.step:,}." for mark in onset_marks(report))])


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


# ---------------------------------------------------------------------------
# Lean, copies, quality
# ---------------------------------------------------------------------------


def lean(report: Report) -> Chart:
    """Own share against the step, with one half, and what a smooth model shows."""
    alpha, references = report.record["budgets"]["alpha"], report.record["checks"].get("smooth_reference") or {}
    curves, levels = [], [Level("no lean: 50%", 0.5, Style(BLACK, "solid", ""))]
    for space in report.record["scope"]["spaces"]:
        style = space_style(report, space)
        both = curve(report, "own_share", "both", space, f"{space}, both twins", style, series="both twins")
        p = report.estimates("own_share", "both", space).p_corrected.to_numpy(float)
        curves.append(replace(both, marked=p <= alpha))
        for twin in TWINS:
            look = replace(style, marker=TWIN_MARKERS[twin])
            one = curve(report, "own_share", twin, space, f"{space}, twin {twin}", look, shown=False)
            curves.append(replace(one, series=f"twin {twin}"))
        if space in references:
            levels.append(
                Level(f"smooth reference, {space}", references[space], replace(style, dash="dotted", marker=""), space)
            )
    panel = Panel("Own share", "samples closer to own half", tuple(curves), tuple(levels), is_share=True)
    return Chart(
        "own-share",
        "Do samples lean towards the images of their own training?",
        " ".join(lean_words(report, alpha, references)),
        (panel,),
        tuple(report.steps),
        note=(
            "Share of samples that lie closer to a training image of their own half than to one of the other. Filled "
            "markers: more than relabelling the images explains, corrected over all checkpoints and spaces. Dotted "
            "level: the same share for a smooth model of each half, which memorizes nothing."
        ),
    )


def lean_words(report: Report, alpha: float, references: dict[str, float]) -> Iterable[str]:
    """Say per space how much lean there is and since when it is significant."""
    for space in report.record["scope"]["spaces"]:
        rows = report.estimates("own_share", "both", space)
        found = rows.index[rows.p_corrected <= alpha]
        since = (
            f"significant at {len(found)} of {len(rows)} checkpoints, first at step {found[0]:,}"
            if len(found)
            else ("significant at no checkpoint")
        )
        smooth = f"; a smooth model shows {percent(references[space])}" if space in references else ""
        yield f"In {space} own share {course(rows.value, '{:.1%}')}, {since}{smooth}."


COPY_RULES = {
    "memorized_fraction": "gap ratio 1/3",
    "memorized_fraction_cluster": "gap ratio 1/3, duplicates as one",
    "memorized_fraction_carlini": "Carlini's rule",
}


def copies(report: Report) -> Chart:
    """Memorized fractions of both twins with the rate of the same rule on held-out images, a panel per space."""
    panels = []
    for space in report.record["scope"]["spaces"]:
        curves = []
        for metric, rule in COPY_RULES.items():
            shown = metric == "memorized_fraction"
            for twin, look in zip(TWINS, (Style(BLUE, "solid", "circle"), Style(VERMILLION, "dashed", "square"))):
                curves.append(curve(report, metric, twin, space, f"twin {twin}", look, series=rule, shown=shown))
                control = curve(
                    report,
                    f"heldout_{metric}",
                    twin,
                    space,
                    f"held-out images, half {twin}",
                    Style(GREY, "dotted" if twin == "a" else "dashdot", ""),
                    series=rule,
                    shown=shown,
                    is_control=True,
                )
                curves.append(control)
        panels.append(
            Panel(space, "share flagged as copies", tuple(filter(is_drawn, curves)), is_share=True, from_zero=True)
        )
    return Chart(
        "copies",
        "How many samples copy a training image?",
        " ".join(copy_words(report)),
        tuple(panels),
        tuple(report.steps),
        note=(
            "Share of samples that a rule takes for copies of one training image (Clopper-Pearson intervals). Gray, "
            "without markers: the same rule applied to real held-out images, which cannot be copies. Only what lies "
            "above it counts."
        ),
    )


def copy_words(report: Report) -> Iterable[str]:
    """Say per space how many copies there are at the last step and at most, beside held-out images."""
    for space in report.record["scope"]["spaces"]:
        rows = {twin: report.estimates("memorized_fraction", twin, space) for twin in TWINS}
        most = {twin: percent(each.value.max()) for twin, each in rows.items()}
        last = {twin: percent(each.value.iloc[-1]) for twin, each in rows.items()}
        control = [report.estimates("heldout_memorized_fraction", twin, space).value for twin in TWINS]
        rates = [percent(each.iloc[0]) for each in control if len(each) and pd.notna(each.iloc[0])]
        beside = f"held-out images {' and '.join(rates)}" if rates else "no rate on held-out images is known"
        yield (
            f"In {space} twin a copies at most {most['a']} and twin b {most['b']}, at the last step {last['a']} and "
            f"{last['b']}; {beside}."
        )


QUALITY = {
    "kid": "KID (less is better)",
    "precision_heldout": "precision",
    "recall_heldout": "recall",
    "density_heldout": "density",
    "coverage_heldout": "coverage",
}


def has_quality(report: Report) -> bool:
    """Return whether samples were compared with held-out images at all."""
    spaces = report.record["scope"]["spaces"]
    return any(report.estimates(name, "a", space).value.notna().any() for name in QUALITY for space in spaces)


def quality(report: Report) -> Chart:
    """KID, precision, recall, density and coverage against held-out images."""
    panels = []
    for metric, label in QUALITY.items():
        curves = [
            curve(
                report,
                metric,
                twin,
                space,
                f"{space}, twin {twin}",
                replace(space_style(report, space), dash=TWIN_DASHES[twin]),
                series=f"twin {twin}",
                shown=space == report.quality_space,
            )
            for space in report.record["scope"]["spaces"]
            for twin in TWINS
        ]
        panels.append(Panel(label, "", tuple(filter(is_drawn, curves))))
    return Chart(
        "quality",
        "Are the samples good?",
        " ".join(quality_words(report)),
        tuple(panels),
        tuple(report.steps),
        note=(
            "Samples beside held-out images. KID is a distance: less is better. Precision and density: do samples look "
            "real; recall and coverage: is everything real among them. Intervals cover other seeds, not other images."
        ),
    )


def quality_words(report: Report) -> Iterable[str]:
    """Say how quality goes, in the space in which it decides."""
    space = report.quality_space
    for metric, label in QUALITY.items():
        values = pd.concat([report.estimates(metric, twin, space).value for twin in TWINS], axis=1).mean(axis=1)
        name = label.split(" (")[0]
        yield f"{name[0].upper()}{name[1:]} in {space}, mean of both twins, {course(values)}."
