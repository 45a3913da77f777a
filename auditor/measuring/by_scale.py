"""What the twins' predictions say scale by scale: losses, lean and agreement, and when each turns.

Coarse structure should stay shared between the twins while fine detail turns to the training
images. None of it makes a verdict: it says where in the picture, not whether.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from auditor.config import Budgets
from auditor.measuring import by_noise
from auditor.measuring.onsets import onset_row, risk_row
from auditor.measuring.series import Series
from auditor.records import CellScales
from auditor.seeds import derived_seed
from auditor.stats import minima
from auditor.stats.relabeling import Relabeling


def scale_rows(series: Series, relabeling: Relabeling | None) -> list[dict[str, Any]]:
    """Return the rows of scales.parquet, by step, scale and metric."""
    found = [row for step, cells in series.scales.items() for row in scale_mean_rows(step, cells)]
    if relabeling is not None and series.scales:
        losses = {step: cells.losses for step, cells in series.scales.items()}
        names = next(iter(series.scales.values())).names
        for step, column, row in by_noise.lean_by_column(losses, series, relabeling):
            found.append({"step": step, "scale": names[column], "metric": "loss_lean"} | row)
    return sorted(found, key=lambda row: (row["step"], row["scale"], row["metric"]))


def scale_mean_rows(step: int, cells: CellScales) -> Iterator[dict[str, Any]]:
    """Yield the means over images at one step: losses of both models, and the variance on held-out images."""
    for metric, values in curves_of(cells).items():
        for j, scale in enumerate(cells.names):
            row = by_noise.mean_row(step, metric, "", 0, values[:, j])
            yield {"scale": scale} | {name: value for name, value in row.items() if name not in ("twin", "t")}


def curves_of(cells: CellScales) -> dict[str, np.ndarray]:
    """Return by metric one number per image and scale; the held-out loss is the mean of both models."""
    a, b = cells.losses["a"], cells.losses["b"]
    found = {f"loss_{role}": np.concatenate([a[role].values, b[role].values]) for role in ("own", "other") if role in a}
    if "heldout" in a:
        found["loss_heldout"] = (a["heldout"].values + b["heldout"].values) / 2
        found["prediction_variance"] = cells.half_squared["heldout"].values
    return found


def scale_onset_rows(
    series: Series, leans: Sequence[Mapping[str, Any]], evaluable: Sequence[int], budgets: Budgets
) -> Iterator[dict[str, Any]]:
    """Yield the rows of onsets.parquet by scale; ``leans`` are the rows of scales.parquet."""
    if not series.scales:
        return
    steps, names = list(series.scales), next(iter(series.scales.values())).names
    curves = [curves_of(series.scales[step]) for step in steps]
    for j, scale in enumerate(names):
        for onset, metric, at in (
            ("scale_loss", "loss_heldout", steps),
            ("scale_predictions", "prediction_variance", evaluable),
        ):
            if metric in curves[0] and not at:
                yield onset_row(onset, scale, minima.Onset("undecided", -1, (), "no checkpoint can be judged"))
            elif metric in curves[0]:
                values = np.array([each[metric][:, j] for step, each in zip(steps, curves, strict=True) if step in at])
                draws = minima.resamples(values.shape[1], derived_seed("images", series.scope.seed))
                jitter = derived_seed("jitter", onset, scale, series.scope.seed)
                late = onset == "scale_predictions"  # as for all scales together
                yield onset_row(onset, scale, minima.locate_minimum(values, at, draws, jitter, last_is_none=late))
        found = {row["step"]: row for row in leans if row["scale"] == scale and row["metric"] == "loss_lean"}
        if all(step in found for step in evaluable):
            yield lean_onset(scale, evaluable, found, budgets)


def lean_onset(
    scale: str, steps: Sequence[int], found: Mapping[int, Mapping[str, Any]], budgets: Budgets
) -> dict[str, Any]:
    """Return the row of the onset of the lean: by the margins of the loss lean, whose smooth reference is not known."""
    limit = budgets.loss_bias + budgets.loss_safe_beyond_bias
    safe = [found[step]["high"] < limit for step in steps]
    leans = [found[step]["p_corrected"] <= budgets.alpha and found[step]["low"] > budgets.loss_bias for step in steps]
    return risk_row("scale_loss_bias", scale, steps, safe, leans)
