"""Figures 1a and 2 of arXiv 2603.03469 from a finished audit of K trainings, with intervals over trainings.

    python benchmarks/real_images/figure.py OUT     # what ``make.py figure`` does

writes ``OUT/figure``: ``curves.csv`` and ``cosines.csv`` (means over pairs or trainings; 95 % intervals by the node
jackknife, trainings being the units, Student's t with K - 1 degrees of freedom), ``onsets.csv`` (the sets of steps that
may hold each minimum: over trainings, and for these trainings as the audit has it), and the figures as PNG and SVG.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from auditor.config import HEADLINE_SPACE, LEVEL
from auditor.records import Estimate
from auditor.reports import write_file
from auditor.reports.charts import BLUE, COLORS, DASHES, MARKERS, VERMILLION, Bar, Chart, Curve, Panel, Style
from auditor.reports.drawing.printed import picture
from auditor.run import RunDirectory
from auditor.run.places import EVIDENCE
from auditor.stages import agreement
from auditor.stats import intervals

Pairs = Mapping[tuple[str, str], np.ndarray]  # by pair of trainings, float64 [steps]
SHOWN_TIMES = (50, 100, 150, 200)  # of figure 2; the measured times nearest to them are shown
LABELS = {"distance": "1 - r", "loss": "squared error"}
LOOKS = {"distance": ("twins", BLUE, "solid", "circle"), "loss": ("held-out loss", VERMILLION, "dashed", "square")}


def main() -> None:
    """Draw the figures of one folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--smoke", action="store_true", help="of an experiment at toy size: does it start?")
    write(folder_of(parser))


def folder_of(parser: argparse.ArgumentParser) -> Path:
    """Return the experiment that a command line names."""
    given = parser.parse_args()
    if given.smoke:
        from make import smoke

        return smoke()
    if given.out is None:
        parser.error("OUT is needed")
    return given.out


def write(out: Path) -> None:
    """Write tables and figures into ``out/figure``; print where the minima may lie."""
    run, folder = RunDirectory(out / "audit"), out / "figure"
    record = json.loads(run.record.read_text())
    steps, names = record["scope"]["steps"], record["scope"]["twins"]
    pairs = [tuple(pair) for pair in record["pairs"]]
    found = {"distance": distances(run, pairs, steps), "loss": pairwise(losses(run, names, steps))}
    curves = {name: [jackknife(each, i, names) for i in range(len(steps))] for name, each in found.items()}
    own = own_curves(run, steps)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row_of(name, step, each) for name in curves for step, each in zip(steps, curves[name], strict=True)]
    pd.DataFrame([*rows, *own]).to_csv(folder / "curves.csv", index=False, float_format="%.6g")
    onsets = onset_table(run, found, steps, names)
    onsets.to_csv(folder / "onsets.csv", index=False)
    cosines = cosine_table(run, pairs, steps, names)
    cosines.to_csv(folder / "cosines.csv", index=False, float_format="%.6g")
    for chart in (learning(curves, onsets, steps), predictions(cosines, steps)):
        for suffix in ("png", "svg"):
            write_file(folder / f"{chart.key}.{suffix}", picture(chart, suffix))
    print(onsets.to_string(index=False))
    print(ordering(found, onsets, steps, names))


# What is read off the audit


def distances(run: RunDirectory, pairs: list[tuple[str, str]], steps: list[int]) -> Pairs:
    """Return D(c) = 1 - r of the samples of each pair, mean over seeds."""
    found = {}
    for pair in pairs:
        paths = [run.pair(*pair).place(EVIDENCE, f"a/{step}", HEADLINE_SPACE) for step in steps]
        frames = [pd.read_parquet(path, columns=["twin_distance"]) for path in paths]
        found[pair] = np.array([float((each.twin_distance.astype(float) ** 2).mean()) / 2 for each in frames])
    return found


def losses(run: RunDirectory, names: list[str], steps: list[int]) -> dict[str, np.ndarray]:
    """Return the held-out loss of each training."""
    rows = pd.read_parquet(run.table("measurements"))
    rows = rows[rows.metric == "loss_heldout"].set_index(["twin", "step"]).value
    return {name: np.array([rows[name, step] for step in steps]) for name in names}


def pairwise(values: Mapping[str, np.ndarray]) -> Pairs:
    """Return the mean of both trainings of each pair: the jackknife over nodes is then that over trainings."""
    return {(a, b): (values[a] + values[b]) / 2 for a, b in combinations(values, 2)}


def own_curves(run: RunDirectory, steps: list[int]) -> list[dict[str, object]]:
    """Return the lean of samples and the rate of copies, as the audit has them."""
    rows = pd.read_parquet(run.table("measurements"))
    chosen = rows[(rows.metric == "own_share") & (rows.twin == "both") & rows.step.isin(steps)]
    own = [
        {"curve": f"own_share {r.space}", "step": r.step, "value": r.value, "low": r.low, "high": r.high}
        for r in chosen.sort_values(["space", "step"]).itertuples()
    ]
    copied = rows[
        (rows.metric == "memorized_fraction") & (rows.space == "pixel") & ~rows.twin.str.contains("|", regex=False)
    ]
    most = copied.groupby("step").value.max()
    return own + [{"curve": "copies, most of any training", "step": s, "value": most[s]} for s in steps if s in most]


def cosine_table(run: RunDirectory, pairs: list[tuple[str, str]], steps: list[int], names: list[str]) -> pd.DataFrame:
    """Return the cosine of two trainings' noise predictions by step, time and set, with intervals over trainings."""
    by_pair = {}
    for pair in pairs:
        for step in steps:
            frame = pd.read_parquet(
                run.pair(*pair).place(agreement.STAGE.places[0], f"a/{step}"), columns=["set", "t", "cosine"]
            )
            on = np.where(frame["set"].astype(str) == "heldout", "held-out", "own")  # own: trained on by one of the two
            for (t, where), value in frame.cosine.groupby([frame.t, on]).mean().items():
                by_pair.setdefault((step, int(t), where), {})[pair] = float(value)
    rows = []
    for (step, t, where), values in sorted(by_pair.items()):
        each = intervals.node_jackknife(values, names)
        rows.append({"step": step, "t": t, "images": where, "value": each.value, "low": each.low, "high": each.high})
    return pd.DataFrame(rows)


# Intervals and sets over trainings


def jackknife(values: Pairs, i: int, names: list[str], level: float = LEVEL) -> Estimate:
    """Return the mean over pairs at the i-th step, with its interval over trainings."""
    return intervals.node_jackknife({pair: float(each[i]) for pair, each in values.items()}, names, level)


def set_over_trainings(values: Pairs, steps: list[int], names: list[str]) -> list[int]:
    """Return the steps that may hold the minimum: no other is shown to lie below, Bonferroni over the others."""
    level = 1 - 2 * (1 - LEVEL) / (len(steps) - 1)  # one-sided
    kept = []
    for i, step in enumerate(steps):
        above = [
            jackknife({pair: each - each[j] for pair, each in values.items()}, i, names, level).low > 0
            for j in range(len(steps))
            if j != i
        ]
        if not any(above):
            kept.append(step)
    return kept


def onset_table(run: RunDirectory, found: Mapping[str, Pairs], steps: list[int], names: list[str]) -> pd.DataFrame:
    """Return where each minimum lies: the least value, and two sets."""
    audited = pd.read_parquet(run.table("onsets"))
    of = {"distance": ("divergence", HEADLINE_SPACE), "loss": ("loss", "")}
    rows = []
    for name, values in found.items():
        onset, space = of[name]
        row = audited[(audited.onset == onset) & (audited.space == space)].iloc[0]
        least = steps[int(np.mean(list(values.values()), axis=0).argmin())]
        over = " ".join(map(str, set_over_trainings(values, steps, names)))
        these = row.steps.replace(",", " ")
        rows.append(
            {"curve": name, "least": least, "over_trainings": over, "these_trainings": these, "status": row.status}
        )
    return pd.DataFrame(rows)


def ordering(found: Mapping[str, Pairs], onsets: pd.DataFrame, steps: list[int], names: list[str]) -> str:
    """Return in words whether the twins part before the loss is least."""
    at = onsets.set_index("curve")
    sets = {name: [[int(s) for s in at.loc[name, col].split()] for col in SETS] for name in found}
    said = [
        f"{words}: {'shown' if first and second and max(first) < min(second) else 'not shown'}"
        for words, first, second in zip(SETS.values(), sets["distance"], sets["loss"], strict=True)
    ]
    first, second = (steps.index(at.loc[name, "least"]) for name in ("distance", "loss"))
    changes = [
        jackknife({pair: each - each[first] for pair, each in values.items()}, second, names)
        for values in found.values()
    ]
    d, loss = (f"{each.value:+.4f} [{each.low:+.4f}, {each.high:+.4f}]" for each in changes)
    return (
        f"every step of the twins' set lies before every step of the loss's ({'; '.join(said)}); "
        f"from step {steps[first]:,} to {steps[second]:,} D changes by {d}, the loss by {loss}"
    )


SETS = {"over_trainings": "over trainings", "these_trainings": "these only"}


def row_of(curve: str, step: int, each: Estimate) -> dict[str, object]:
    """Return one row of curves.csv."""
    return {"curve": curve, "step": step, "value": each.value, "low": each.low, "high": each.high}


# Figures


def learning(curves: Mapping[str, list[Estimate]], onsets: pd.DataFrame, steps: list[int]) -> Chart:
    """Return figure 1a: how alike the twins draw, the held-out loss, and where each is least."""
    panels, bars = [], []
    for name, each in curves.items():
        label, color, dash, marker = LOOKS[name]
        style = Style(color, dash, marker)
        panels.append(Panel(f"{label}, with 95 % over trainings", LABELS[name], (drawn(label, steps, each, style),)))
        row = onsets[onsets.curve == name].iloc[0]
        for column, words in SETS.items():
            inside = [int(step) for step in row[column].split()]
            if inside:
                bars.append(
                    Bar(f"{label.split()[-1]}, {words}", min(inside), max(inside), True, f"least at {row.least}", style)
                )
    panels.append(Panel("steps that may hold the minimum", "", bars=tuple(bars)))
    title = "How alike the twins draw, and the held-out loss"
    return Chart("figure-1a", title, title, tuple(panels), tuple(steps), is_stacked=True)


def predictions(cosines: pd.DataFrame, steps: list[int]) -> Chart:
    """Return figure 2: cosine of the twins' noise predictions on own and held-out images."""
    measured = sorted(cosines.t.unique())
    chosen = sorted({min(measured, key=lambda t: abs(t - asked)) for asked in SHOWN_TIMES})
    panels = []
    for t in chosen:
        found = []
        for i, where in enumerate(("own", "held-out")):
            rows = cosines[(cosines.t == t) & (cosines.images == where)].sort_values("step")
            style = Style(COLORS[i], DASHES[i], MARKERS[i])
            values = [rows[name].to_numpy(dtype=float) for name in ("step", "value", "low", "high")]
            found.append(Curve(f"{where} images", values[0], values[1], style, values[2], values[3]))
        panels.append(Panel(f"t = {t}", "cosine", tuple(found)))
    title = "Cosine of the twins' noise predictions"
    return Chart("figure-2", title, title, tuple(panels), tuple(steps))


def drawn(name: str, steps: list[int], each: list[Estimate], style: Style) -> Curve:
    """Return a curve with its band."""
    x = np.array(steps, dtype=float)
    values, low, high = (np.array([getattr(one, part) for one in each]) for part in ("value", "low", "high"))
    return Curve(name, x, values, style, low, high)


if __name__ == "__main__":
    main()
