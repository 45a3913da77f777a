"""The published protocol by name: what arXiv 2603.03469 would have read off this run, beside what is read off it here.

``--protocol paper`` draws the samples by the published chain (``sampling.published_class``), measures the held-out loss
on the published number of cells, and writes ``protocol.parquet``. The verdict stays the tool's own.

Reproduced: all steps of DDPM with variance beta_t, without clipping and without noise at times 1 and 0; starting noise
and the noise of every step shared by all trainings and checkpoints; 512 seeds; the correlation of the twins' samples,
its mean over seeds, the median over pairs; 50 held-out images at every time from 0 on, one noise each, and their plain
mean; the least value of a curve as its onset; errors over pairs and over trainings; KL over 20 bins; the gap ratio 1/3
and its onset at 0.1 %.

Not reproduced: which numbers the noise is (drawn there per batch on the compute device, here per seed on the CPU), and
with it that the first batch's first step re-uses the starting noise (``benchmarks/paper_protocol.py`` measures that);
samples kept in float16 without clipping (here: pictures of 8 bits); which 50 images are taken; centering of the images
for the loss by another mean than that of the training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from auditor.config import HEADLINE_SPACE, AuditConfig
from auditor.records import Scores
from auditor.run import RunDirectory, columns, tables
from auditor.run.places import EVIDENCE
from auditor.scope import Scope
from auditor.stages import published_losses
from auditor.stats import intervals

SEEDS = 512
COPIES_FROM = 0.001  # share of copies at which memorizing is said to begin
KL_SPACES = ("onehot", "pixel")

Runs = Mapping[tuple[str, ...], RunDirectory]  # by pair of trainings
Rows = list[dict[str, Any]]


def write(run: RunDirectory, config: AuditConfig, scope: Scope, pairs: Runs) -> None:
    """Write protocol.parquet beside the finished tables of a run; remove an older one where it was not asked for."""
    path = run.table("protocol")
    if config.protocol == "paper":
        tables.write(path, columns.PROTOCOL, protocol_rows(run, scope, pairs))
    else:
        path.unlink(missing_ok=True)


def protocol_rows(run: RunDirectory, scope: Scope, pairs: Runs) -> Rows:
    """Return the rows of protocol.parquet: by quantity, training and step."""
    measured, onsets = tables.read(run.table("measurements")), tables.read(run.table("onsets"))
    rows = distance_rows(scope, pairs, steps_in(onsets, "divergence", HEADLINE_SPACE))
    if scope.with_heldout:
        rows += loss_rows(scope, pairs, measured_curve(measured, "loss_heldout", "both"), steps_in(onsets, "loss", ""))
    space = next((name for name in KL_SPACES if name in scope.spaces), None)
    if space is not None and scope.with_train:
        rows += kl_rows(scope, space, measured) if scope.with_heldout else []
        rows += copy_rows(scope, space, measured, steps_in(onsets, "copying", space))
    return sorted(rows, key=lambda row: (row["quantity"], row["twin"], row["step"]))


def distance_rows(scope: Scope, pairs: Runs, onset: set[int]) -> Rows:
    """Return D(c) = 1 - r of samples from the same noise: the median over pairs, beside the mean with its interval."""
    found = {pair: distances(run, scope.steps) for pair, run in pairs.items()}
    means = np.array([each[:, :SEEDS].mean(axis=1) for each in found.values()])  # [pairs, steps]
    published = np.median(means, axis=0)
    if len(pairs) > 1:
        errors, over = standard_error(means), "pairs"
    else:
        errors, over = standard_error(next(iter(found.values()))[:, :SEEDS].T), "seeds"
    rows = []
    for i, step in enumerate(scope.steps):
        if len(pairs) > 1:
            own = intervals.node_jackknife(
                {(pair[0], pair[1]): float(each[i].mean()) for pair, each in found.items()}, scope.twins
            )
        else:
            values = next(iter(found.values()))[i]
            own = intervals.mean_interval(Scores("seed", np.arange(len(values)), values))
        row = blank("distance", "both", HEADLINE_SPACE, step)
        row |= {"published": float(published[i]), "published_error": float(errors[i]), "error_over": over}
        rows.append(row | {"own": own.value, "own_low": own.low, "own_high": own.high, "own_onset": step in onset})
    return with_onset(rows, least(published))


def distances(run: RunDirectory, steps: Iterable[int]) -> np.ndarray:
    """Return 1 - r of two trainings' samples by step and seed, float64: half the squared distance of unit vectors."""
    frames = (tables.read(run.place(EVIDENCE, f"a/{step}", HEADLINE_SPACE), ["twin_distance"]) for step in steps)
    return np.array([np.asarray(each.twin_distance, dtype=float) ** 2 / 2 for each in frames])


def loss_rows(scope: Scope, pairs: Runs, own: pd.DataFrame, onset: set[int]) -> Rows:
    """Return the held-out loss: the median over trainings of the mean over all cells, beside the tool's own."""
    of = {name: (run, "ab"[pair.index(name)]) for pair, run in pairs.items() for name in pair}
    means = np.array(
        [
            [
                tables.read(run.place(published_losses.STAGE.places[0], f"{letter}/{step}"), ["loss"]).loss.mean()
                for step in scope.steps
            ]
            for run, letter in of.values()
        ]
    )
    published, errors = np.median(means, axis=0), standard_error(means)
    rows = []
    for i, step in enumerate(scope.steps):
        row = blank("loss", "both", "", step) | own_of(own, step)
        row |= {"published": float(published[i]), "published_error": float(errors[i]), "error_over": "trainings"}
        rows.append(row | {"own_onset": step in onset})
    return with_onset(rows, least(published))


def kl_rows(scope: Scope, space: str, measured: pd.DataFrame) -> Rows:
    """Return the divergence of nearest distances, beside their signed shift; the onset is that of the mean."""
    rows, curves = [], []
    for twin in scope.twins:
        published, own = (measured_curve(measured, name, twin, space) for name in ("nn_kl_paper", "nn_shift"))
        curves.append([float(published.value.get(step, np.nan)) for step in scope.steps])
        for step, value in zip(scope.steps, curves[-1], strict=True):
            rows.append(blank("nn_kl", twin, space, step) | own_of(own, step) | {"published": value})
    return with_onset(rows, least(np.mean(curves, axis=0)))


def copy_rows(scope: Scope, space: str, measured: pd.DataFrame, onset: set[int]) -> Rows:
    """Return the share of copies by the gap ratio; published memorizing begins at a thousandth, in any training."""
    rows, curves = [], []
    for twin in scope.twins:
        found = measured_curve(measured, "memorized_fraction", twin, space)
        curves.append([float(found.value.get(step, np.nan)) for step in scope.steps])
        for step, value in zip(scope.steps, curves[-1], strict=True):
            row = blank("copies", twin, space, step) | own_of(found, step)
            rows.append(row | {"published": value, "own_onset": step in onset})
    begun = np.flatnonzero(np.max(curves, axis=0) >= COPIES_FROM)
    return with_onset(rows, scope.steps.index(scope.steps[begun[0]]) if len(begun) else None)


def blank(quantity: str, twin: str, space: str, step: int) -> dict[str, Any]:
    """Return a row in which nothing is known yet."""
    unknown = dict.fromkeys(("published", "published_error", "own", "own_low", "own_high"), intervals.NAN)
    named = {"quantity": quantity, "twin": twin, "space": space, "step": step}
    return named | unknown | {"error_over": "", "published_onset": False, "own_onset": False}


def with_onset(rows: Rows, position: int | None) -> Rows:
    """Mark the step at one position of the series in the rows of every training."""
    steps = sorted({row["step"] for row in rows})
    return [row | {"published_onset": position is not None and row["step"] == steps[position]} for row in rows]


def least(values: np.ndarray) -> int | None:
    """Return the position of the least value; None where a value is missing."""
    return int(np.argmin(values)) if np.isfinite(values).all() else None


def standard_error(values: np.ndarray) -> np.ndarray:
    """Return SD / sqrt(n) over the first axis, as if its entries were independent; NaN for one."""
    n = len(values)
    return values.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.full(values.shape[1:], intervals.NAN)


def measured_curve(measured: pd.DataFrame, metric: str, twin: str, space: str = "") -> pd.DataFrame:
    """Return the measurements of one metric by step."""
    chosen = (measured.metric == metric) & (measured.twin == twin) & (measured.space == space)
    return measured[chosen].set_index("step")


def own_of(found: pd.DataFrame, step: int) -> dict[str, float]:
    """Return a measurement as the tool's own part of a row."""
    if step not in found.index:
        return {}
    row = found.loc[step]
    return {"own": float(row.value), "own_low": float(row.low), "own_high": float(row.high)}


def steps_in(onsets: pd.DataFrame, name: str, space: str) -> set[int]:
    """Return the steps of an onset's set."""
    chosen = onsets[(onsets.onset == name) & (onsets.space == space)]
    return {int(step) for text in chosen.steps for step in text.split(",") if step}
