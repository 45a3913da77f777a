"""Which checkpoints are underfit, and why (docs/statistics.md 6.1)."""

from __future__ import annotations

import numpy as np

from auditor.config import Budgets
from auditor.measuring import misread
from auditor.measuring.series import Series
from auditor.records import other_twin
from auditor.stats.minima import Onset


def underfit_reasons(series: Series, losses: np.ndarray, loss: Onset, budgets: Budgets) -> dict[int, tuple[str, ...]]:
    """Return per step the sentences that say it is underfit, none where it is not."""
    mean = losses.mean(axis=1) if losses.shape[1] else np.full(len(series.scope.steps), np.nan)
    least = np.nanmin(mean, initial=np.inf)
    worse, found = misread.worse_than_linear(series), {}
    for step, value in zip(series.scope.steps, mean, strict=True):
        reasons = []
        before = bool(loss.steps) and step < min(loss.steps)
        if losses.shape[1] and np.isnan(value):
            reasons.append("Underfit: the held-out loss is not a number.")
        if before and value > budgets.underfit_loss * least:
            reasons.append(f"Underfit: the held-out loss {value:.4f} is {value / least:.2f} times the least, later on.")
        if step in worse:
            reasons.append(
                "Underfit: at every checkpoint both networks denoise held-out images worse than a linear model of "
                f"their half does (here {misread.beside_linear(worse[step])})."
            )
        for twin in series.scope.twins if series.heldout is not None else ():
            reasons += sample_underfit(series, step, twin, budgets)
        found[step] = tuple(reasons)
    return found


def sample_underfit(series: Series, step: int, twin: str, budgets: Budgets) -> list[str]:
    """Return what the samples of one twin lack: coverage of held-out images, a fitting distance, unsaturated pixels.

    Real images of the other half show what to expect; without a twin those of the own half.
    """
    other, table = other_twin(twin) if series.scope.with_twin else twin, series.pool_tables[series.scope.picture_space]
    assert series.heldout is not None, "samples are compared with held-out images"
    reach = series.heldout["within_distance_5"].to_numpy()
    covered = (series.coverage[step, twin] < reach).mean()
    real = (series.heldout[f"cover_{other}_distance"].to_numpy() < reach).mean()
    reasons = []
    if covered < budgets.underfit_coverage * real:
        reasons.append(
            f"Underfit: samples of {twin} cover {covered:.0%} of held-out images, as many real images {real:.0%}."
        )
    evidence = series.evidence[step, twin, series.scope.picture_space]
    near = np.median(np.asarray(evidence.heldout_distance)) / np.median(table.heldout_distance[table.half == other])
    if not budgets.underfit_near <= near <= budgets.underfit_far:
        reasons.append(
            f"Underfit: samples of {twin} lie {near:.2f} times as far from held-out images as real images do."
        )
    excess = series.saturated[step, twin] - table.saturated.mean()
    if excess > budgets.underfit_saturated:
        reasons.append(
            f"Underfit: {excess:.0%} more pixels of the samples of {twin} are saturated than of real images."
        )
    return reasons
