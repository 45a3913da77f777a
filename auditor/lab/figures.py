"""The published figures of the hierarchical world, drawn from the tables of a run, with intervals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from auditor.lab import oracle, sweeps
from auditor.reports import write_file
from auditor.reports.charts import COLORS, DASHES, MARKERS, Chart, Curve, Panel, Style
from auditor.reports.drawing.printed import picture
from auditor.run import tables

if TYPE_CHECKING:
    import pandas as pd

Say = Callable[[str, int], None]


def write(root: Path, out: Path, t: int, n: int, seed: int = 0, say: Say = lambda text, calls: None) -> list[Path]:
    """Make what tables are missing, draw every figure as PNG and SVG into ``out``, and return their paths."""
    if not (root / f"{oracle.TABLE}.parquet").exists():
        oracle.write(root, t, n, seed, say)
    if not (root / f"{sweeps.TABLE}.parquet").exists():
        sweeps.write(root, n, seed, say)
    paths = []
    for chart in charts(root):
        for suffix in ("png", "svg"):
            paths.append(out / f"{chart.key}.{suffix}")
            write_file(paths[-1], picture(chart, suffix))
    return paths


def charts(root: Path) -> list[Chart]:
    """Return the figures of a run."""
    known = tables.read(root / f"{oracle.TABLE}.parquet")
    measured = tables.read(root / "measurements.parquet")
    swept = tables.read(root / f"{sweeps.TABLE}.parquet")
    return [
        learning(known),
        nearest(measured, known),
        parts(known),
        along_t(swept),
        uturns(swept),
        random_starts(swept),
    ]


def learning(known: pd.DataFrame) -> Chart:
    """Levels are learned one after the other; the twins part before the loss is least (Fig. 1b, 6)."""
    twin = "both" if (known.twin == "both").any() else "a"
    levels = sorted({name for name in known.metric if name.startswith("oracle_kl_")})
    by_level = [curve(known, name, twin, f"BP_{name[-1]} to model", i) for i, name in enumerate(levels)]
    split = [
        curve(known, name, twin, label, i)
        for i, (name, label) in enumerate(
            {"split_kl": "twins, held-out", "split_kl_own": "twins, trained on by a"}.items(), len(levels)
        )
        if (known.metric == name).any()
    ]
    label = "KL, nats per sequence"
    panels = (
        Panel("distance to every level", label, tuple(by_level)),
        Panel("distance of the twins", label, tuple(split)),
    )
    return by_step("lab-learning", "What is learned when", panels, known)


def nearest(measured: pd.DataFrame, known: pd.DataFrame) -> Chart:
    """Samples draw nearer to the training set than held-out sequences are (Fig. 4a)."""
    rows = measured[measured.space == ("onehot" if (measured.space == "onehot").any() else measured.space.max())]
    panels = [Panel("test loss", "nats per letter", tuple(twin_curves(known, "cross_entropy_heldout")))]
    panels.append(Panel("nearer than held-out (AUC)", "probability", tuple(twin_curves(rows, "nn_shift"))))
    panels.append(Panel("KL of nearest distances", "nats", tuple(twin_curves(rows, "nn_kl_paper"))))
    return by_step("lab-nearest", "Nearness to the training set", tuple(panels), known)


def parts(known: pd.DataFrame) -> Chart:
    """The loss in its two parts, on own and on held-out sequences (Fig. 4b)."""
    twin = "both" if (known.twin == "both").any() else "a"
    panels = []
    for part in ("cross_entropy", "distillation", "excess"):
        names = {f"{part}_own": "trained on", f"{part}_heldout": "held-out"}
        found = tuple(curve(known, name, twin, label, i) for i, (name, label) in enumerate(names.items()))
        panels.append(Panel(part.replace("_", "-"), "nats per letter", found))
    return by_step("lab-loss-parts", "The loss in two parts", tuple(panels), known)


def along_t(swept: pd.DataFrame) -> Chart:
    """Distance to the exact denoiser along the time of the noise (Fig. 3b)."""
    rows = swept[swept.measure == "divergence"]
    return by_time("lab-times", "Distance to the exact denoiser", "KL, nats per sequence", {"": rows})


def uturns(swept: pd.DataFrame) -> Chart:
    """What a U-turn recovers of own and of held-out sequences (Fig. 5)."""
    rows = swept[swept.measure == "uturn"]
    parted = {name: rows[rows.on == on] for on, name in (("own", "trained on"), ("heldout", "held-out"))}
    return by_time("lab-uturns", "Letters recovered by a U-turn", "share of letters", parted)


def random_starts(swept: pd.DataFrame) -> Chart:
    """What a U-turn recovers of sequences that no rule made (Fig. 11)."""
    rows = swept[swept.measure == "random_uturn"]
    return by_time("lab-random-uturns", "U-turns of random sequences", "share of letters", {"": rows})


def by_step(key: str, title: str, panels: tuple[Panel, ...], known: pd.DataFrame) -> Chart:
    """Return a chart over the steps of a run."""
    return Chart(key, title, title, panels, tuple(sorted({int(step) for step in known.step})))


def by_time(key: str, title: str, label: str, parted: dict[str, pd.DataFrame]) -> Chart:
    """Return a chart over the times of the noise, one curve per denoiser and step."""
    panels = []
    for name, rows in parted.items():
        groups = rows.groupby(["of", "step"], sort=True)
        found = [
            drawn(part, "t", f"{of} (step {step:,})" if step >= 0 else of, i)
            for i, ((of, step), part) in enumerate(groups)
        ]
        panels.append(Panel(name or title, label, tuple(found)))
    return Chart(key, title, title, tuple(panels), label="time of the noise")


def twin_curves(rows: pd.DataFrame, metric: str) -> list[Curve]:
    """Return one curve per twin."""
    twins = [twin for twin in ("a", "b") if ((rows.metric == metric) & (rows.twin == twin)).any()]
    return [curve(rows, metric, twin, twin, i) for i, twin in enumerate(twins)]


def curve(rows: pd.DataFrame, metric: str, twin: str, name: str, i: int) -> Curve:
    """Return the curve of one metric of one twin."""
    return drawn(rows[(rows.metric == metric) & (rows.twin == twin)], "step", name, i)


def drawn(rows: pd.DataFrame, x: str, name: str, i: int) -> Curve:
    """Return the i-th curve of a panel, with its band."""
    rows = rows.sort_values(x)
    values = {column: rows[column].to_numpy(dtype=np.float64) for column in (x, "value", "low", "high")}
    style = Style(COLORS[i % len(COLORS)], DASHES[i % len(DASHES)], MARKERS[i % len(MARKERS)])
    return Curve(name=name, x=values[x], y=values["value"], style=style, low=values["low"], high=values["high"])
