"""Networks worse than a linear model: hardly trained, or taken for another kind (docs/statistics.md 1.5, 6.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from auditor.measuring.series import Series

ANOTHER = 0.5  # of the relative error, at most, that another kind of prediction has where a network is misread


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

    At every checkpoint both are worse than a linear model, and at the last another of the three targets of a discrete
    process is missed by at most half as much, relative to a network that says nothing (zeros).
    """
    worse = worse_than_linear(series)
    step = series.scope.steps[-1]
    known = [series.network(step, twin).more.get("readings", {}) for twin in series.scope.twins] if worse else []
    if not known or not all(known):
        return []
    relative = [relative_errors(each) for each in known]
    given = str(known[0]["given"])
    sums = {kind: sum(each[kind] for each in relative) for kind in relative[0]}
    best = min(sums, key=lambda kind: sums[kind])
    if not all(each[best] <= ANOTHER * each[given] for each in relative):
        return []
    errors = ", ".join(
        f"{twin} {each[best]:.2f} instead of {each[given]:.2f}"
        for twin, each in zip(series.scope.twins, relative, strict=True)
    )
    return [
        "At every checkpoint both networks denoise held-out images worse than a linear model of their half does (at "
        f"step {step:,}: {beside_linear(worse[step])}), and taken for networks that predict {best} instead of {given} "
        f"they err less than half as much (relative to an output of zeros: {errors}): check --prediction and --scheduler."
    ]


def relative_errors(read: Mapping[str, Any]) -> dict[str, float]:
    """Return by kind of prediction the mean over noise levels and images of error, over that of the target's square."""
    return {kind: float(np.mean(read["error"][kind]) / np.mean(read["power"][kind])) for kind in read["error"]}
