"""Whether a run can be trusted: its controls, and whether the halves were exchangeable (docs/statistics.md 1.2, 10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from auditor.config import N_EXCHANGEABLE, Budgets
from auditor.measuring import copies, lean
from auditor.measuring.facts import Reference, is_specific
from auditor.measuring.series import Series
from auditor.records import TWINS, other_twin
from auditor.scope import control_names
from auditor.stats import counts
from auditor.stats.relabeling import Relabeling, exchangeability, two_sided_p

COPIER_SHARE = 50  # one held-out image in 50 is replaced by a copy: the 2 % control


def failed_controls(
    series: Series, relabeling: Relabeling | None, references: Mapping[str, Reference], budgets: Budgets
) -> list[str]:
    """Return which controls fail: then no verdict but "memorizing" is given (statistics 10, rule 0).

    ``relabeling`` is None for a single training, whose lean is not tested.
    """
    failures = []
    level = budgets.alpha / max(len(series.scope.judged_spaces), 1)
    for space in series.scope.judged_spaces:
        copier = {twin: copies.flags(series.evidence["copier", twin, space]) for twin in series.scope.twins}
        rate = control_rate(series, space)
        if is_specific(space, rate, budgets) and copies.copy_p(with_heldout(series, copier, space)) > level:
            failures.append(f"Control failed: a model that draws only copies is not found to copy in {space}.")
        if "heldout" not in control_names(series.scope):
            continue
        if rate <= 0.004 and could_be_found(series, level) and mixed_p(series, copier, space) > level:
            failures.append(f"Control failed: 2% copies among held-out images are not found in {space}.")
        if relabeling is not None:
            failures += leaning_heldout(series, relabeling, space, references[space], level, budgets)
        failures += copied_heldout(series, space, level)
    return failures


def could_be_found(series: Series, level: float) -> bool:
    """Return whether 2 % copies are significant at all with this many seeds and held-out images."""
    n, twins = series.scope.n_samples, len(series.scope.twins)
    n_copies = max(1, n // COPIER_SHARE)
    assert series.heldout is not None, "copies are mixed into held-out images"
    p = counts.more_hits(twins * n_copies, twins * n, 0, twins * len(series.heldout))
    if series.scope.with_twin:  # the twin's samples must be fewer, too
        p = max(p, counts.paired_hits(twins * n_copies, 0))
    return p <= level


def control_rate(series: Series, space: str) -> float:
    """Return the share of held-out images that the copying rule flags."""
    if not series.scope.with_heldout:
        return 0.0
    return float(np.concatenate([each.heldout for each in real_flags(series, space).values()]).mean())


def real_flags(series: Series, space: str) -> dict[str, copies.Flags]:
    """Return by twin the flags of a checkpoint, of which those of held-out images are the same for all."""
    first = series.scope.steps[0]
    return {twin: copies.flags(series.evidence[first, twin, space]) for twin in series.scope.twins}


def with_heldout(series: Series, found: Mapping[str, copies.Flags], space: str) -> dict[str, copies.Flags]:
    """Return a control's flags with those of real held-out images beside them."""
    return {twin: replace(found[twin], heldout=real.heldout) for twin, real in real_flags(series, space).items()}


def mixed_p(series: Series, copier: Mapping[str, copies.Flags], space: str) -> float:
    """Return the copying p of held-out images of which one in 50 is a copy, as many as the run has seeds."""
    real = with_heldout(series, copier, space)
    n = series.scope.n_samples
    n_copies = max(1, n // COPIER_SHARE)
    mixed = {}
    for twin, flags in real.items():
        honest = -1 - np.arange(n)  # a group of its own for each held-out image
        own_group, other_group = honest.copy(), honest.copy()
        own_group[:n_copies] = np.resize(copier[twin].own_group, n_copies)
        own = np.resize(flags.heldout, n).copy()
        own[:n_copies] = np.resize(flags.own, n_copies)
        other = None
        if flags.other is not None:
            other = np.resize(real[other_twin(twin)].heldout, n).copy()
            other[:n_copies] = np.resize(flags.other, n_copies)
            other_group[:n_copies] = np.resize(np.asarray(copier[twin].other_group), n_copies)
        mixed[twin] = copies.Flags(own, other, flags.heldout, own_group, other_group)
    return copies.copy_p(mixed)


def leaning_heldout(
    series: Series, relabeling: Relabeling, space: str, reference: Reference, level: float, budgets: Budgets
) -> list[str]:
    """Return whether real held-out images, taken as samples, are called biased."""
    assert series.pool is not None, "images were relabeled"
    lands = {twin: series.landings["heldout", twin, space] for twin in TWINS}
    result, _ = lean.lean_tests(series.pool, relabeling, {(0, space): lands}, {}, 0)
    found = lean.lean_fact(result[0, space], reference, len(lands["a"].in_a))
    if replace(found, p_corrected=found.p_corrected * budgets.alpha / level).is_bias(budgets):
        return [f"Control failed: real held-out images are called biased in {space}."]
    return []


def copied_heldout(series: Series, space: str, level: float) -> list[str]:
    """Return whether real held-out images, taken as samples, are called copies."""
    found = {
        twin: replace(copies.flags(series.evidence["heldout", twin, space]), heldout=real.heldout[2::3])
        for twin, real in real_flags(series, space).items()
    }
    if copies.copy_p(found) <= level:
        return [f"Control failed: real held-out images are called copies in {space}."]
    return []


def differing_halves(series: Series, relabeling: Relabeling) -> list[str]:
    """Return why the halves may not be exchangeable (statistics 1.2)."""
    reasons = []
    for space, nearest in series.nearest_in_pool.items():
        share, p = exchangeability(nearest, relabeling)
        if p < N_EXCHANGEABLE / len(series.nearest_in_pool):
            reasons.append(
                f"The halves are not exchangeable (site, time, preprocessing?): in {space} {share:.1%} of training "
                f"images have their nearest image in their own half, p {p:.3g}."
            )
    table = next(iter(series.pool_tables.values()))
    p = two_sided_p(relabeling, table.brightness.to_numpy())
    if p < N_EXCHANGEABLE:
        reasons.append(f"The halves differ in mean brightness more than chance explains, p {p:.3g}.")
    return reasons
