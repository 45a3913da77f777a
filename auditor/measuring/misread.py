"""Networks worse than a linear model: hardly trained, or taken for another kind (docs/statistics.md 1.5, 6.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from auditor.measuring.series import Series

HALF = 0.5  # of the error, or of the relative one, at most, that another kind has where a network is misread
LOWER = 0.9  # of the other of both


def losses_beside_linear(series: Series, step: int) -> dict[str, tuple[float, float]] | None:
    """Return by twin its mean held-out loss and that of the linear denoiser of its half; None where not all is known.

    None, too, where a network beats it on held-out or on its own images: one that knows its own by heart is neither
    hardly trained nor misread, however bad it is elsewhere.
    """
    found = {}
    for twin, tables in series.losses(step).items():
        linear = series.linear.get(twin, {})
        if not {"own", "heldout"} <= set(tables) & set(linear):
            return None
        mine, beside = (
            {role: float(each[role].means.mean()) for role in ("own", "heldout")} for each in (tables, linear)
        )
        if not all(mine[role] > beside[role] for role in mine):
            return None
        found[twin] = mine["heldout"], beside["heldout"]
    return found


def worse_than_linear(series: Series) -> dict[int, dict[str, tuple[float, float]]]:
    """Return by step what ``losses_beside_linear`` does, if that is so at every checkpoint and for both twins."""
    if not series.scope.with_lean:
        return {}
    found = {step: losses_beside_linear(series, step) for step in series.scope.steps}
    return {step: each for step, each in found.items() if each} if all(found.values()) else {}


def beside_linear(beside: Mapping[str, tuple[float, float]]) -> str:
    """Say the losses of both twins and of the linear denoisers."""
    return ", ".join(f"{twin} {mine:.3g}, linear {linear:.3g}" for twin, (mine, linear) in beside.items())


def misread_networks(series: Series) -> list[str]:
    """Return that the networks seem to predict something else than the run takes them for.

    At every checkpoint both are worse than a linear model, and at the last both are another of the three kinds.
    """
    worse = worse_than_linear(series)
    step = series.scope.steps[-1]
    known = [series.network(step, twin).more.get("readings", {}) for twin in series.scope.twins] if worse else []
    if not known or not all(known):
        return []
    kinds = {another_kind(each) for each in known}
    kind, given = kinds.pop(), str(known[0]["given"])
    if kind is None or kinds:
        return []
    errors = ", ".join(
        f"{twin} {mean_reading(each, 'error', kind):.2g} instead of {mean_reading(each, 'error', given):.2g}"
        for twin, each in zip(series.scope.twins, known, strict=True)
    )
    return [
        "At every checkpoint both networks denoise held-out images worse than a linear model of their half does (at "
        f"step {step:,}: {beside_linear(worse[step])}), and taken for networks that predict {kind} instead of {given} "
        f"they err less (squared error {errors}): check --prediction and --scheduler."
    ]


def another_kind(read: Mapping[str, Any]) -> str | None:
    """Return what a network's output misses by far less than what it is taken for; None where nothing does.

    The squared error is at most half as large and, relative to an output of zeros, at most .9 times, or the other way
    round. Targets differ in size: the error alone would call a network that says nothing one that predicts the image;
    the relative error alone would take one that predicts a velocity, much of which nobody can know, for one of noise.
    """
    error = {kind: mean_reading(read, "error", kind) for kind in read["error"]}
    relative = {kind: error[kind] / mean_reading(read, "power", kind) for kind in error}

    def compared(kind: str) -> list[float]:
        return sorted(each[kind] / each[read["given"]] for each in (error, relative))

    best = min(error, key=lambda kind: sum(compared(kind)))
    return best if compared(best)[0] <= HALF and compared(best)[1] <= LOWER else None


def mean_reading(read: Mapping[str, Any], what: str, kind: str) -> float:
    """Return the mean of ``error`` or ``power`` over images and noise levels."""
    return float(np.mean(read[what][kind]))
