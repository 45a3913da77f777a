"""Whether a run can be trusted: its controls, and whether the halves were exchangeable (docs/statistics.md 1.2, 10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from auditor import copying, leaning, stats
from auditor.config import N_EXCHANGEABLE, Budgets
from auditor.records import TWINS, other_twin
from auditor.series import Series, control_names
from auditor.stats import Relabeling
from auditor.verdict import Reference

COPIER_SHARE = 50  # one held-out image in 50 is replaced by a copy: the 2 % control


def failed_controls(
    series: Series, relabeling: Relabeling, references: Mapping[str, Reference], budgets: Budgets
) -> list[str]:
    """Return which controls fail: then no verdict but "memorizing" is given (statistics 10, rule 0)."""
    failures = []
    level = budgets.alpha / len(series.scope.spaces)
    for space in series.scope.spaces:
        copier = {twin: copying.flags(series.evidence["copier", twin, space]) for twin in TWINS}
        rate = control_rate(series, space)
        specific = space in ("pixel", "correlation") or rate <= budgets.copy_rule_false_alarms
        if (
            specific
            and copying.copy_p(with_heldout(series, copier, space)["a"], with_heldout(series, copier, space)["b"])
            > level
        ):
            failures.append(f"Control failed: a model that draws only copies is not found to copy in {space}.")
        if "heldout" not in control_names(series.scope):
            continue
        if rate <= 0.004 and could_be_found(series, level) and mixed_p(series, copier, space) > level:
            failures.append(f"Control failed: 2% copies among held-out images are not found in {space}.")
        failures += heldout_failures(series, relabeling, space, references[space], level, budgets)
    return failures


def could_be_found(series: Series, level: float) -> bool:
    """Return whether 2 % copies are significant at all with this many seeds and held-out images."""
    n, control = series.scope.n_samples, 2 * len(series.heldout)
    copies = max(1, n // COPIER_SHARE)
    return stats.more_hits(2 * copies, 2 * n, 0, control) <= level


def control_rate(series: Series, space: str) -> float:
    """Return the share of held-out images that the copying rule flags."""
    if not series.scope.with_heldout:
        return 0.0
    both = [copying.flags(series.evidence[series.scope.steps[0], twin, space]).heldout for twin in TWINS]
    return float(np.concatenate(both).mean())


def with_heldout(series: Series, found: Mapping[str, copying.Flags], space: str) -> dict[str, copying.Flags]:
    """Return a control's flags with those of real held-out images beside them."""
    real = {twin: copying.flags(series.evidence[series.scope.steps[0], twin, space]).heldout for twin in TWINS}
    return {twin: replace(found[twin], heldout=real[twin]) for twin in TWINS}


def mixed_p(series: Series, copier: Mapping[str, copying.Flags], space: str) -> float:
    """Return the copying p of held-out images of which one in 50 is a copy, as many as the run has seeds."""
    real = with_heldout(series, copier, space)
    n = series.scope.n_samples
    copies = max(1, n // COPIER_SHARE)
    mixed = {}
    for twin in TWINS:
        own = np.resize(real[twin].heldout, n).copy()
        other = np.resize(real[other_twin(twin)].heldout, n).copy()
        own[:copies], other[:copies] = (np.resize(x, copies) for x in (real[twin].own, real[twin].other))
        mixed[twin] = copying.Flags(own, other, real[twin].heldout)
    return copying.copy_p(mixed["a"], mixed["b"])


def heldout_failures(
    series: Series, relabeling: Relabeling, space: str, reference: Reference, level: float, budgets: Budgets
) -> list[str]:
    """Return whether real held-out images, taken as samples, are called biased or copied."""
    failures = []
    lands = {twin: series.landings["heldout", twin, space] for twin in TWINS}
    result, _ = leaning.test_all(series.pool, relabeling, {(0, space): lands}, {}, 0)
    lean = leaning.lean_fact(result[0, space], reference, len(lands["a"].in_a))
    if replace(lean, p_corrected=lean.p_corrected * budgets.alpha / level).is_bias(budgets):
        failures.append(f"Control failed: real held-out images are called biased in {space}.")
    generated = {twin: copying.flags(series.evidence["heldout", twin, space]) for twin in TWINS}
    real = {twin: copying.flags(series.evidence[series.scope.steps[0], twin, space]).heldout[2::3] for twin in TWINS}
    found = {twin: replace(generated[twin], heldout=real[twin]) for twin in TWINS}
    if copying.copy_p(found["a"], found["b"]) <= level:
        failures.append(f"Control failed: real held-out images are called copies in {space}.")
    return failures


def differing_halves(series: Series, relabeling: Relabeling) -> list[str]:
    """Return why the halves may not be exchangeable (statistics 1.2)."""
    reasons = []
    for space, nearest in series.nearest_in_pool.items():
        share, p = stats.exchangeability(nearest, relabeling)
        if p < N_EXCHANGEABLE / len(series.nearest_in_pool):
            reasons.append(
                f"The halves are not exchangeable (site, time, preprocessing?): in {space} {share:.1%} of training "
                f"images have their nearest image in their own half, p {p:.3g}."
            )
    table = next(iter(series.pool_tables.values()))
    p = stats.two_sided_p(relabeling, table.brightness.to_numpy())
    if p < N_EXCHANGEABLE:
        reasons.append(f"The halves differ in mean brightness more than chance explains, p {p:.3g}.")
    return reasons
