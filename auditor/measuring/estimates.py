"""Rows of estimates: every metric at every step, twin and space, with its interval and its test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from auditor import registry
from auditor.measuring.families import SeriesTests
from auditor.measuring.lean import ClassLean, LeanResult
from auditor.measuring.series import Series
from auditor.records import Estimate, Metric
from auditor.seeds import derived_seed
from auditor.stats import intervals, minima

BANDED = ("twin_distance", "twin_distance_ratio", "loss_own", "loss_other", "loss_heldout")


def estimate_rows(series: Series, tests: SeriesTests) -> list[dict[str, Any]]:
    """Return the rows of measurements.parquet, sorted by their key."""
    rows = []
    for name in registry.METRICS:
        metric = registry.lookup("metric", name)
        for space in series.scope.spaces if metric.per_space else ("",):
            for step in series.scope.steps:
                rows += [
                    metric_row(series, tests, metric, step, twin, space)
                    for twin in metric.twins
                    if twin in (*series.scope.twins, "both")
                ]
    return sorted(with_bands(series, rows), key=lambda row: (row["step"], row["space"], row["metric"], row["twin"]))


def metric_row(series: Series, tests: SeriesTests, metric: Metric, step: int, twin: str, space: str) -> dict[str, Any]:
    """Return one row: the estimate, and its test where the metric has one."""
    row = {"step": step, "space": space, "metric": metric.name, "twin": twin}
    row |= dict.fromkeys(("low_corrected", "high_corrected", "p_value", "p_corrected"), intervals.NAN)
    if metric.interval == "lean" and (step, space) in tests.lean:
        return row | LEAN_FIELDS[metric.name](tests.lean[step, space], twin)
    if metric.interval == "lean_in_class" and (step, space) in tests.in_class:
        left_out = series.scores(metric, step, twin, space).note
        return row | class_fields(tests.in_class[step, space], twin, left_out)
    if metric.interval == "loss_lean" and step in tests.loss:
        found = tests.loss[step]
        return row | estimate_fields(found.estimate) | {"p_value": found.p, "p_corrected": found.p_corrected}
    scores = series.scores(metric, step, twin, space or series.scope.first_space)
    return row | estimate_fields(intervals.INTERVALS[metric.interval](scores))


def with_bands(series: Series, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with simultaneous bands over the series where the curve is a mean over shared units."""
    steps = series.scope.steps
    limits = {}
    for name in BANDED:
        metric = registry.lookup("metric", name)
        for space in series.scope.spaces if metric.per_space else ("",):
            scores = curve(series, name, steps, space or series.scope.first_space)
            if scores.shape[1] < 2 or not np.isfinite(scores).all():
                continue
            draws = minima.resamples(
                scores.shape[1], derived_seed("images" if not space else "seeds", series.scope.seed)
            )
            for step, low, high in zip(steps, *minima.simultaneous_band(scores, draws), strict=True):
                limits[step, space, name] = {"low_corrected": float(low), "high_corrected": float(high)}
    key = ("step", "space", "metric")
    return [row | limits.get(tuple(row[k] for k in key), {}) if row["twin"] == "both" else row for row in rows]


def gap_fields(result: LeanResult, twin: str) -> dict[str, Any]:
    """Return the columns of gap_lean: the headline test."""
    return estimate_fields(result.gap) | {"p_value": result.gap_p, "p_corrected": result.gap_p_corrected}


def share_fields(result: LeanResult, twin: str) -> dict[str, Any]:
    """Return the columns of own_share: estimate, relabeling p, and for both twins the corrected ones."""
    fields = estimate_fields(result.share[twin]) | {"p_value": result.share_p[twin]}
    if twin == "both":
        low, high = result.corrected
        fields |= {"p_corrected": result.gap_p_corrected, "low_corrected": low, "high_corrected": high}
        fields |= {"note": "p_corrected is that of gap_lean, the headline test"}
    return fields


def class_fields(result: ClassLean, twin: str, left_out: str) -> dict[str, Any]:
    """Return the columns of own_share_in_class: estimate, relabeling p, and for both twins the corrected ones."""
    fields = estimate_fields(result.share[twin]) | {"p_value": result.p[twin]}
    fields["note"] = intervals.join_notes(fields["note"], left_out)
    if twin == "both":
        low, high = result.corrected
        fields |= {"p_corrected": result.p_corrected, "low_corrected": low, "high_corrected": high}
    return fields


def information_fields(result: LeanResult, twin: str) -> dict[str, Any]:
    """Return the columns of split_information: what the accuracy's estimate says, with the accuracy's p."""
    return estimate_fields(intervals.split_information(result.share["both"])) | {"p_value": result.share_p["both"]}


LEAN_FIELDS = {
    "gap_lean": gap_fields,
    "own_share": share_fields,
    "split_identification": share_fields,
    "split_information": information_fields,
}


def estimate_fields(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as columns."""
    names = ("value", "low", "high", "level", "n", "unit", "method", "note")
    return {name: getattr(estimate, name) for name in names}


def curve(series: Series, name: str, steps: Sequence[int], space: str) -> np.ndarray:
    """Return the scores of one ``both`` metric along the series, float64 ``[checkpoints, units]``."""
    metric = registry.lookup("metric", name)
    return np.array([series.scores(metric, step, "both", space).values for step in steps])


def definition_rows() -> list[dict[str, Any]]:
    """Return the rows of metrics.parquet: what each metric means, so that a run explains itself wherever it is read."""
    names = ("question", "reference", "unit", "direction", "k", "per_space")
    found = [registry.lookup("metric", name) for name in registry.METRICS]
    return [
        {"metric": each.name, "twins": ",".join(each.twins), **{name: getattr(each, name) for name in names}}
        for each in found
    ]
