"""Where the networks turn to their images: agreement by noise, share of the memorizer by region, U-turns."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from auditor.reports import Report
from auditor.reports.charts import BLUE, GRAY, ORANGE, VERMILLION, Chart, Curve, Level, Panel, Style
from auditor.reports.charts.series import course, curve, is_drawn

LEVELS = 4  # noise levels that have a panel of their own
AGREEMENT = {  # rows of profiles.parquet, what the images are, and their look
    "agreement_own": ("images of half a", Style(BLUE, "solid", "circle")),
    "agreement_other": ("images of half b", Style(VERMILLION, "dashed", "square")),
    "agreement_heldout": ("held-out images", Style(GRAY, "dotted", "triangle")),
}
SHARES = {
    "memorizer_share_own": ("own images", Style(BLUE, "solid", "circle")),
    "memorizer_share_heldout": ("held-out images", Style(GRAY, "dotted", "triangle")),
    "memorizer_share_trajectory": ("own trajectories", Style(VERMILLION, "dashed", "square")),
    "memorizer_share_samples": ("samples noised again", Style(ORANGE, "dashdot", "diamond")),
}
PARTS = {  # panels of single curves: metric, what is shown, where it would be without any memory
    "return_rate_lean": ("U-turns: share that returns, own model less twin", 0.0),
    "u_turn_lean": ("U-turns: ln(distance of the twin's / own)", 0.0),
    "target_noise_correlation": ("disagreement with target noise, correlation", 0.0),
    "lone_disagreement": ("disagreement where one image stands alone", 0.0),
}


def charts(report: Report) -> list[Chart]:
    """Return the charts for which the run holds something."""
    return [each for each in (agreement(report), shares(report), parts(report)) if each is not None]


def agreement(report: Report) -> Chart | None:
    """Cosine of the twins' predictions on either half and on held-out images, a panel per noise level."""
    table = report.tables["profiles"]
    table = table[table.metric.isin(AGREEMENT)]
    if table.empty:
        return None
    times = np.unique(table.t)
    shown = np.unique(times[np.linspace(0, len(times) - 1, min(LEVELS, len(times))).round().astype(int)])
    panels = [
        Panel(f"t = {t}", "cosine of predictions", tuple(agreement_curves(table[table.t == t]))) for t in shown.tolist()
    ]
    words = [f"At t = {t} the predictions on held-out images {best(table[table.t == t])}." for t in shown.tolist()]
    return Chart(
        "agreement-by-noise",
        "Do the twins predict the same, and until when?",
        " ".join(words),
        tuple(panels),
        report.steps,
        note=(
            "Cosine of the noise that both twins predict in the same noised images, with 95% intervals over images: 1 "
            "where they are one function. On the halves it falls before it does on held-out images where each network "
            "turns to its own. Under much noise the noise itself is most of the prediction, and the cosine says "
            "little (arXiv 2603.03469, Fig. 2)."
        ),
    )


def agreement_curves(table: pd.DataFrame) -> Iterable[Curve]:
    """Yield the cosine on each set of images along the series, at one noise level."""
    for metric, (images, style) in AGREEMENT.items():
        rows = table[table.metric == metric].sort_values("step")
        if not rows.empty:
            x, y, low, high = (rows[name].to_numpy(float) for name in ("step", "value", "low", "high"))
            says = tuple(f"95% interval {a:.4g} to {b:.4g}; n = {n:,} (image)" for a, b, n in zip(low, high, rows.n))
            yield Curve(images, x, y, style, low, high, says=says)


def best(table: pd.DataFrame) -> str:
    """Say where the predictions on held-out images, or else on the halves, are most alike."""
    of = table[table.metric == "agreement_heldout"]
    values = (table if of.empty else of).groupby("step").value.mean()
    return f"are most alike at step {values.idxmax():,} (cosine {values.max():.3g}; {values.iloc[-1]:.3g} in the end)"


def shares(report: Report) -> Chart | None:
    """How far both networks have gone to the memorizers of their halves, by where they are asked."""
    curves = [curve(report, name, images, style) for name, (images, style) in SHARES.items()]
    drawn = tuple(each for each in curves if is_drawn(each))
    if not drawn:
        return None
    words = [
        f"On {images} the share {course(report.estimates(name, 'both').value)}."
        for name, (images, _) in SHARES.items()
        if report.estimates(name, "both").value.notna().any()
    ]
    ends = (Level("the twin", 0.0, Style(GRAY, "solid", "")), Level("the memorizer", 1.0, Style(GRAY, "dashed", "")))
    return Chart(
        "memorizer-share-by-region",
        "Do the networks memorize only where they were trained, or also where samples come from?",
        " ".join(words),
        (Panel("", "share of the memorizer λ", drawn, levels=ends),),
        report.steps,
        note=(
            "λ: 0 no nearer to the denoiser that only memorizes the own half than the twin is, 1 that denoiser; mean "
            "of the twins over noise levels. Training asks a network about its own noised images alone. Where λ rises "
            "along its own trajectories, memorizing has reached the sampler (--trajectories; arXiv 2510.01378)."
        ),
    )


def parts(report: Report) -> Chart | None:
    """U-turns, and what the twins' disagreement goes with."""
    style = Style(BLUE, "solid", "circle")
    panels, words = [], []
    for name, (label, none) in PARTS.items():
        each = curve(report, name, label, style)
        if is_drawn(each):
            levels = (Level("no memory", none, Style(GRAY, "dashed", "")),)
            panels.append(Panel(label, "", (each,), levels=levels))
            words.append(f"{label[0].upper()}{label[1:]}: {course(report.estimates(name, 'both').value)}.")
    if not panels:
        return None
    return Chart(
        "u-turns-and-target-noise",
        "Do the networks find the way back to their own images, and is their disagreement chance or memory?",
        " ".join(words),
        tuple(panels),
        report.steps,
        note=(
            "U-turns (--u-turns): images are noised and denoised again; above 0 a network brings back its own images "
            "better than its twin does. Disagreement that goes with the noise of the training target is chance; what "
            "is left where a single training image holds the posterior is memory. Intervals over images."
        ),
    )
