"""What networks tell by noise level: losses, their lean, predictions against the memorizer's, U-turns (5.1 by t)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from auditor.measuring import lean
from auditor.measuring.series import Series
from auditor.records import LossTable
from auditor.seeds import derived_seed
from auditor.stats import intervals
from auditor.stats.relabeling import Relabeling, half_difference_draws, half_difference_test, step_down_max_t


def profile_rows(series: Series, relabeling: Relabeling | None) -> list[dict[str, Any]]:
    """Return the rows of profiles.parquet: losses by noise level, and the lean of the losses by noise level.

    The lean's tests at all steps and noise levels are one family, corrected by the maximum of
    z over the common relabelings; it makes no verdict, whose family holds the mean over levels.
    """
    rows = [
        level_row(step, twin, role, table, j)
        for step in series.scope.steps
        for twin in series.scope.twins
        for role, table in series.network(step, twin).losses.items()
        for j in range(len(table.times))
    ]
    rows += lean_rows(series, relabeling) if relabeling is not None else []
    networks = [(step, twin) for step in series.scope.steps for twin in series.scope.twins]
    rows += [
        row for step, twin in networks for row in (*model_rows(series, step, twin), *turn_rows(series, step, twin))
    ]
    return sorted(rows, key=lambda row: (row["step"], row["metric"], row["twin"], row["t"]))


def model_rows(series: Series, step: int, twin: str) -> Iterator[dict[str, Any]]:
    """Yield by noise level how the predictions of one model compare with its twin's and with the memorizer's."""
    for role, table in series.network(step, twin).agreement.items():
        known = {
            f"memorizer_share_{role}": ratio_scores(table.along, table.reach),
            f"empirical_error_{role}": table.error,
            f"sharing_{role}": table.sharing,
            f"largest_{role}": table.largest,
            f"shell_{role}": table.shell,
        }
        if role == "own":
            known["empirical_identity"] = table.error - (table.noise_loss - table.spread)
        if twin == "a" or role in ("trajectory", "samples"):
            known |= {f"agreement_{role}": table.cosine, f"prediction_variance_{role}": table.half_squared}
        for metric, values in known.items():
            of_both = metric.startswith(("agreement", "prediction")) and role in ("own", "other", "heldout")
            for j, t in enumerate(table.times):
                yield mean_row(step, metric, "both" if of_both else twin, int(t), values[:, j])


def turn_rows(series: Series, step: int, twin: str) -> Iterator[dict[str, Any]]:
    """Yield by turning time what comes back of each set's images, and on which of them the twin does worse."""
    evidence = series.network(step, twin)
    for role, table in evidence.u_turns.items():
        shown = {f"u_turn_distance_{role}": table.distance, f"return_rate_{role}": table.returned.astype(float)}
        for metric, values in shown.items():
            for j, t in enumerate(table.times):
                yield mean_row(step, metric, twin, int(t), values[:, j])


def ratio_scores(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return linearized scores of mean(above) / mean(below) per noise level, whose mean is the ratio."""
    total = below.mean(axis=0)
    share = np.divide(above.mean(axis=0), total, out=np.full(len(total), np.nan), where=total > 0)
    return share + np.divide(above - share * below, total, out=np.full(above.shape, np.nan), where=total > 0)


def level_row(step: int, twin: str, role: str, table: LossTable, j: int) -> dict[str, Any]:
    """Return the loss of one twin on one set at one noise level."""
    return mean_row(step, f"loss_{role}", twin, int(table.times[j]), table.values[:, j])


def mean_row(step: int, metric: str, twin: str, t: int, x: np.ndarray) -> dict[str, Any]:
    """Return a mean over images at one noise level, with Student's t interval."""
    value, half = float(x.mean()), intervals.student_half(x)
    row = {"step": step, "metric": metric, "twin": twin, "t": t, "value": value, "low": value - half}
    return row | {"high": value + half, "n": len(x), "p_value": intervals.NAN, "p_corrected": intervals.NAN}


def lean_rows(series: Series, relabeling: Relabeling) -> list[dict[str, Any]]:
    """Return the loss lean of both twins at every step and noise level."""
    losses = {step: series.losses(step) for step in series.scope.steps}
    found = lean_by_column({step: each for step, each in losses.items() if "own" in each["a"]}, series, relabeling)
    shared = {"metric": "loss_lean", "twin": "both"}
    return [{"step": step, "t": column} | shared | row for step, column, row in found]


def lean_by_column(
    losses: Mapping[int, lean.Losses], series: Series, relabeling: Relabeling
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield step, time (or scale) and loss lean with its tests, corrected over all steps and columns together."""
    pool = series.pool
    assert pool is not None, "images were relabeled"
    scored = {step: lean.loss_scores(each, pool, by_time=True) for step, each in losses.items()}
    scored = {step: (columns, r) for step, (columns, r) in scored.items() if len(r) and np.isfinite(r).all()}
    if not scored:
        return
    tests = [half_difference_test(relabeling, columns, r) for columns, r in scored.values()]
    corrected = iter(step_down_max_t(np.hstack([test.z for test in tests])))
    for (step, (columns, r)), test in zip(scored.items(), tests, strict=True):
        labels, groups = pool.labels[columns], pool.groups[columns]
        draws = half_difference_draws(r, labels, groups, derived_seed("groups", series.scope.seed))
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        value = (r[labels > 0].mean(axis=0) - r[labels < 0].mean(axis=0)) / 2
        for j, column in enumerate(losses[step]["a"]["own"].times):
            row = {"value": float(value[j]), "low": float(min(low[j], value[j])), "high": float(max(high[j], value[j]))}
            p = {"p_value": float(test.p[j]), "p_corrected": float(next(corrected))}
            yield step, int(column), row | {"n": len(r)} | p
