"""What the networks themselves tell, by noise level: their losses as curves, their lean as a map over the series."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from auditor.reports import Report, shortened
from auditor.reports.charts import BLUE, GRAY, VERMILLION, Chart, Curve, Heat, Panel, Style, by_scale, regions, signed
from auditor.reports.charts.series import text

SETS = {  # metric, what the images are, and their look
    "loss_own": ("own images", Style(BLUE, "solid", "circle")),
    "loss_other": ("other half's images", Style(VERMILLION, "dashed", "square")),
    "loss_heldout": ("held-out images", Style(GRAY, "dotted", "triangle")),
}
SIGNIFICANT = 0.05  # corrected p below which a cell is marked
TIME = "diffusion time t (right: more noise)"
SNR = "log-SNR, ln(signal / noise variance) (right: less noise)"


def missing(report: Report) -> str:
    """Say why a report cannot show losses by noise level; empty where it can."""
    if not report.tables["profiles"].empty:
        return ""
    if report.record.get("pairs"):
        return "The page of each pair shows what its networks tell."
    if report.record["status"] != "complete":
        return "The audit is not finished: losses by noise level are not tabulated yet."
    if not report.record["resolved"]["weights"]:
        return "Samples were given, and no networks that could be asked."
    if not report.scope.with_train and not report.scope.with_heldout:
        return "Neither training nor held-out images were given, so no losses are known."
    return "This run holds no losses by noise level (profiles.parquet): an earlier version made it. A new run has them."


def shown_steps(report: Report) -> dict[int, str]:
    """Return the steps whose losses are shown, ascending, and why: recommended, least held-out loss, last."""
    named = {
        step: " and ".join(part for part in name.split(" and ") if part != "least twin distance")
        for step, name in report.key_steps.items()
    }
    return {step: name for step, name in named.items() if name}


def rows(report: Report, metric: str, twin: str, step: int | None = None) -> pd.DataFrame:
    """Return the rows of one metric and twin, at one step or at all, by step and noise level."""
    table = report.tables["profiles"]
    table = table[(table.metric == metric) & (table.twin == twin)]
    return (table if step is None else table[table.step == step]).sort_values(["step", "t"])


# ---------------------------------------------------------------------------
# Losses by noise level
# ---------------------------------------------------------------------------


def charts(report: Report) -> list[Chart]:
    """Return the charts of losses and predictions by noise level, region and scale, as far as the run has them."""
    return [] if missing(report) else [losses(report), *regions.charts(report), *by_scale.charts(report)]


def losses(report: Report) -> Chart:
    """Losses of every training on own, other and held-out images, a panel per training and step that matters."""
    steps = shown_steps(report)
    panels = [
        Panel(
            f"step {step:,}, twin {shortened(text(twin), 16)}",
            "squared error",
            tuple(loss_curves(report, step, twin)),
            is_logarithmic=True,
        )
        for twin in report.scope.twins
        for step in steps
    ]
    return Chart(
        "losses-by-noise",
        "Do the networks know their own training images, and at which noise?",
        " ".join(loss_words(report, steps)),
        tuple(panels),
        label=SNR if log_snr(report) else TIME,
        counted="",
        note=(
            "Mean squared error of the prediction by noise level, with 95% intervals over images, on a log scale. "
            "Own images well below held-out ones: the network has learned these images, not only their kind. "
            "The curves do not show whether a sample ever looks like one of them."
        ),
    )


def log_snr(report: Report) -> dict[int, float]:
    """Return the log-SNR of each noise level of the losses; nothing where an earlier version made the run."""
    resolved = report.record["resolved"]
    return dict(zip(resolved["loss_times"], resolved.get("loss_log_snr", ()), strict=False))


def loss_curves(report: Report, step: int, twin: str) -> Iterator[Curve]:
    """Yield the loss of one training on each set of images."""
    for metric, (images, style) in SETS.items():
        found = rows(report, metric, twin, step)
        if not found.empty:
            ends = positive(found.low), positive(found.high)
            says = tuple(f"t = {row.t:,}; {interval(row)}; n = {row.n:,} (image)" for row in found.itertuples())
            places = log_snr(report)
            x = np.array([places.get(t, t) for t in found.t], dtype=float)
            yield Curve(images, x, positive(found.value), style, *ends, says=says)


def interval(row: Any) -> str:
    """Return the interval of one value in words."""
    return f"95% interval {row.low:.4g} to {row.high:.4g}" if np.isfinite(row.low) else "no interval"


def positive(values: pd.Series) -> np.ndarray:
    """Return what a logarithmic axis can show, NaN elsewhere."""
    return values.where(values > 0).to_numpy(float)


def loss_words(report: Report, steps: Mapping[int, str]) -> Iterator[str]:
    """Say per step and training what the losses are, where own images stand out most."""
    for step, name in steps.items():
        for twin in report.scope.twins:
            known = {
                images: rows(report, metric, twin, step).set_index("t").value for metric, (images, _) in SETS.items()
            }
            known = {images: values for images, values in known.items() if len(values)}
            own, beside = known.get("own images"), known.get("held-out images", known.get("other half's images"))
            if not known:
                continue
            ratio = pd.Series(dtype=float) if own is None or beside is None else (own / beside).dropna()
            t = next(iter(known.values())).index[0] if ratio.empty else ratio.idxmin()
            each = ", ".join(f"{values[t]:.3g} on {images}" for images, values in known.items())
            yield f"Step {step:,} ({name}), twin {text(twin)}, at t = {t}: {each}."
    if any(len(rows(report, "loss_own", twin)) for twin in report.scope.twins):
        yield "Named is the noise level at which own images stand out most."


# ---------------------------------------------------------------------------
# Maps over steps and noise levels
# ---------------------------------------------------------------------------


def heats(report: Report) -> list[Heat]:
    """Return the maps of loss lean and of the share of the memorizer, where the run holds them."""
    made = (lean_heat(report), share_heat(report))
    return [each for each in made if each is not None]


def lean_heat(report: Report) -> Heat | None:
    """The lean of the losses to the own images, marked where it is significant."""
    found = rows(report, "loss_lean", "both")
    if found.empty:
        return None
    value, p = (found.pivot(index="step", columns="t", values=name) for name in ("value", "p_corrected"))
    marked = p.to_numpy(float) < SIGNIFICANT
    first = value.index[marked.any(axis=1)]
    since = f"first at step {first[0]:,} (t = {times(value, marked, first[0])})" if len(first) else "at no step"
    return Heat(
        "loss-lean-by-noise",
        "Where do the losses lean towards the own images?",
        f"{extremes(value)} Significant in {marked.sum()} of {marked.size} cells, {since}.",
        *layout(value),
        marked,
        magnitude(value),
        "ln(loss of the twin / own loss) on a network's own training images, mean of both halves: 0 where each treats "
        f"the other's images like its own, above where it denoises its own better. “!”: p < {SIGNIFICANT:g} by "
        "relabelling images, corrected over all cells. It shows at which noise the networks part over their images, "
        "not whether samples do, and makes no verdict.",
        f"!: p < {SIGNIFICANT:g}, corrected",
    )


def times(value: pd.DataFrame, marked: np.ndarray, step: int) -> str:
    """Return the noise levels that are marked at a step, at most three."""
    found = [str(t) for t, mark in zip(value.columns, marked[value.index.get_loc(step)], strict=True) if mark]
    return ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")


def share_heat(report: Report) -> Heat | None:
    """How far each network has gone to the denoiser that only memorizes; the mean of the trainings."""
    known = [rows(report, "memorizer_share_own", twin) for twin in report.scope.twins]
    tables = [each.pivot(index="step", columns="t", values="value") for each in known if not each.empty]
    if not tables:
        return None
    value = sum(tables) / len(tables)
    return Heat(
        "memorizer-share-by-noise",
        "How far have the networks gone towards pure memorizing?",
        extremes(value),
        *layout(value),
        np.zeros(value.shape, bool),
        1.0,
        "λ on own images, mean of the trainings: 0 where a network is no nearer to its own images than its twin, 1 "
        "where it predicts like one that only memorized them. Under much noise two good networks have about 0.5, too: "
        "read it column by column, downwards. It is no test, and makes no verdict.",
    )


def layout(value: pd.DataFrame) -> tuple[tuple[int, ...], tuple[int, ...], np.ndarray]:
    """Return steps, diffusion times and values of a map."""
    return tuple(map(int, value.index)), tuple(map(int, value.columns)), value.to_numpy(float)


def magnitude(value: pd.DataFrame) -> float:
    """Return the largest magnitude, at least .1: noise about 0 has no strong color."""
    found = np.abs(value.to_numpy(float))
    return max(float(found[np.isfinite(found)].max(initial=0.0)), 0.1)


def extremes(value: pd.DataFrame) -> str:
    """Say what is least and what is most, and where."""
    known = value.stack().dropna()
    if known.empty:
        return "No value is known."
    (low, t_low), (high, t_high) = known.idxmin(), known.idxmax()
    least, most = signed(known.min()), signed(known.max())
    return f"Least {least} at step {low:,}, t = {t_low}; most {most} at step {high:,}, t = {t_high}."
