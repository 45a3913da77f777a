"""Which charts over the series a report shows, in the order of reading: divergence, lean, copies, quality."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pandas as pd

from auditor.reports import Report, percent
from auditor.reports.charts import BLACK, DASHES, GRAY, Chart, Curve, Level, Panel, Style
from auditor.reports.charts.divergence import divergence
from auditor.reports.charts.series import TWIN_MARKERS, TWIN_STYLES, course, curve, is_drawn, space_style, text


def charts(report: Report) -> list[Chart]:
    """Return the charts over the series, in the order of reading; those of distances are in ``distances``."""
    made = [divergence(report)]
    if report.with_lean:
        made.append(lean(report))
    if report.with_copies:
        made.append(copies(report))
    if has_quality(report):
        made.append(quality(report))
    return made


def lean(report: Report) -> Chart:
    """Own share against the step, with one half, and what a smooth model shows."""
    alpha, references = report.alpha, report.record["checks"].get("smooth_reference") or {}
    curves, levels = [], [Level("no lean: 50%", 0.5, Style(BLACK, "solid", ""))]
    for space in report.drawn_spaces:
        style = space_style(report, space)
        both = curve(report, "own_share", f"{space}, both twins", style, space=space, series="both twins")
        p = report.estimates("own_share", "both", space).p_corrected.to_numpy(float)
        curves.append(replace(both, marked=p <= alpha))
        for i, twin in enumerate(report.scope.twins):
            look, name = replace(style, marker=TWIN_MARKERS[i % len(TWIN_MARKERS)]), f"twin {text(twin)}"
            curves.append(
                curve(report, "own_share", f"{space}, {name}", look, twin=twin, space=space, series=name, shown=False)
            )
        if space in references:
            levels.append(
                Level(f"smooth reference, {space}", references[space], replace(style, dash="dotted", marker=""), space)
            )
    axis = "samples closer to training images" if report.scope.decoys else "samples closer to own half"
    panel = Panel("Own share", axis, tuple(curves), tuple(levels), is_share=True)
    return Chart(
        "own-share",
        "Do samples lean towards the images of their own training?",
        " ".join(lean_words(report, alpha, references)),
        (panel,),
        report.steps,
        note=(
            f"Share of samples that lie closer to {whose_images(report)}. Filled "
            "markers: more than relabeling the images explains, corrected over all checkpoints and spaces. Dotted "
            "level: the same share for a smooth model of each half, which memorizes nothing." + of_groups(report)
        ),
    )


def whose_images(report: Report) -> str:
    """Say what the own share compares."""
    if report.scope.decoys:
        return "a training image than to a held-out one, as it were if there were as many of these"
    return "a training image of their own half than to one of the other"


def of_groups(report: Report) -> str:
    """Say that of a group of spaces one is drawn, where that is so."""
    if len(report.drawn_spaces) == len(report.scope.spaces):
        return ""
    return " Of the windows, and of the aligned spaces, the strongest is drawn; the tables of the run hold all."


def lean_words(report: Report, alpha: float, references: dict[str, float]) -> Iterable[str]:
    """Say per space how much lean there is and since when it is significant."""
    for space in report.drawn_spaces:
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
    "memorized_fraction_fpr": "gap ratio set by held-out images",
    "memorized_fraction": "gap ratio 1/3",
    "memorized_fraction_cluster": "gap ratio 1/3, duplicates as one",
    "memorized_fraction_carlini": "Carlini's rule",
}


def copy_rule(report: Report) -> str:
    """Return the metric of the rule by which copies make a verdict."""
    return "memorized_fraction" if report.scope.fpr is None else "memorized_fraction_fpr"


def copies(report: Report) -> Chart:
    """Memorized fractions of both twins with the rate of the same rule on held-out images, a panel per space."""
    panels = []
    for space in report.drawn_spaces:
        drawn = [each for rule in COPY_RULES for each in copy_curves(report, rule, space) if is_drawn(each)]
        panels.append(Panel(space, "share flagged as copies", tuple(drawn), is_share=True, from_zero=True))
    return Chart(
        "copies",
        "How many samples copy a training image?",
        " ".join(copy_words(report)),
        tuple(panels),
        report.steps,
        note=(
            "Share of samples that a rule takes for copies of one training image (Clopper-Pearson intervals). Gray, "
            "without markers: the same rule applied to real held-out images, which cannot be copies. Only what lies "
            "above it counts." + of_groups(report)
        ),
    )


def copy_curves(report: Report, rule: str, space: str) -> Iterable[Curve]:
    """Yield the curves of one rule: every twin's, with that of held-out images behind it."""
    series, shown = COPY_RULES[rule], rule == copy_rule(report)
    for i, twin in enumerate(report.scope.twins):
        look, behind = TWIN_STYLES[i % len(TWIN_STYLES)], Style(GRAY, ("dotted", "dashdot", "dashed")[i % 3], "")
        for metric, name, style, is_control in (
            (rule, f"twin {text(twin)}", look, False),
            (f"heldout_{rule}", f"held-out images, half {text(twin)}", behind, True),
        ):
            yield curve(
                report, metric, name, style, twin=twin, space=space, series=series, shown=shown, is_control=is_control
            )


def copy_words(report: Report) -> Iterable[str]:
    """Say per space how many copies there are at the last step and at most, beside held-out images."""
    for space in report.drawn_spaces:
        rule = copy_rule(report)
        rows = {twin: report.estimates(rule, twin, space).value for twin in report.scope.twins}
        each = ", ".join(
            f"twin {text(twin)} at most {percent(values.max())}, at the last step {percent(values.iloc[-1])}"
            for twin, values in rows.items()
        )
        control = [report.estimates(f"heldout_{rule}", twin, space).value for twin in report.scope.twins]
        rates = [percent(values.iloc[0]) for values in control if len(values) and pd.notna(values.iloc[0])]
        beside = f"held-out images {' and '.join(rates)}" if rates else "no rate on held-out images is known"
        yield f"Flagged as copies in {space}: {each}; {beside}."


QUALITY = {
    "kid": "KID (less is better)",
    "precision_heldout": "precision",
    "recall_heldout": "recall",
    "density_heldout": "density",
    "coverage_heldout": "coverage",
}


def has_quality(report: Report) -> bool:
    """Return whether samples were compared with held-out images at all."""
    first, spaces = report.scope.twins[0], report.scope.spaces
    return any(report.estimates(name, first, space).value.notna().any() for name in QUALITY for space in spaces)


def quality(report: Report) -> Chart:
    """KID, precision, recall, density and coverage against held-out images."""
    panels = []
    for metric, label in QUALITY.items():
        panels.append(Panel(label, "", tuple(filter(is_drawn, quality_curves(report, metric)))))
    return Chart(
        "quality",
        "Are the samples good?",
        " ".join(quality_words(report)),
        tuple(panels),
        report.steps,
        note=(
            "Samples beside held-out images. KID is a distance: less is better. Precision and density: do samples look "
            "real; recall and coverage: is everything real among them. Intervals cover other seeds, not other images."
        ),
    )


def quality_curves(report: Report, metric: str) -> Iterable[Curve]:
    """Yield one metric of every training in every space."""
    for space in report.scope.spaces:
        look, shown = space_style(report, space), space == report.scope.quality_space
        for i, twin in enumerate(report.scope.twins):
            name, style = f"twin {text(twin)}", replace(look, dash=DASHES[(0, 1, 3, 2)[i % 4]])
            yield curve(report, metric, f"{space}, {name}", style, twin=twin, space=space, series=name, shown=shown)


def quality_words(report: Report) -> Iterable[str]:
    """Say how quality goes, in the space in which it decides."""
    space = report.scope.quality_space
    for metric, label in QUALITY.items():
        each = [report.estimates(metric, twin, space).value for twin in report.scope.twins]
        name = label.split(" (")[0]
        said = course(pd.concat(each, axis=1).mean(axis=1))
        yield f"{name[0].upper()}{name[1:]} in {space}, mean of the trainings, {said}."
