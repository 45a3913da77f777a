"""Which tests stand together: families of statistics that are corrected for one another (docs/statistics.md 7.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from auditor.measuring import copies, lean
from auditor.measuring.facts import Copying
from auditor.measuring.lean import ClassLean, LeanResult, LossLeanResult
from auditor.measuring.series import Series
from auditor.scope import rare_ratio
from auditor.seeds import derived_seed
from auditor.stats.relabeling import Relabeling


@dataclass(frozen=True)
class SeriesTests:
    """Results of the tests that need the whole series at once."""

    lean: dict[tuple[int, str], LeanResult]
    loss: Mapping[int, LossLeanResult]
    copying: dict[tuple[int, str], Copying]
    in_class: dict[tuple[int, str], ClassLean] = field(default_factory=dict)


def all_tests(series: Series, relabeling: Relabeling | None) -> SeriesTests:
    """Run every test of the series; none without training images, of copying alone without another half."""
    scope = series.scope
    if not scope.with_train:
        return SeriesTests({}, {}, {})
    needed = {"own", "heldout"} if scope.decoys else {"own"}
    losses = {
        step: series.losses(step) for step in scope.steps if relabeling and needed <= set(series.losses(step)["a"])
    }
    judged = family(series, relabeling, scope.judged_spaces, losses)
    by_scale = family(series, relabeling, scope.scale_spaces, {})  # apart: they take nothing from the verdict
    copied, in_class = judged.copying | by_scale.copying, judged.in_class | by_scale.in_class
    return SeriesTests(judged.lean | by_scale.lean, judged.loss, copied, in_class)


def family(
    series: Series, relabeling: Relabeling | None, spaces: Sequence[str], losses: Mapping[int, lean.Losses]
) -> SeriesTests:
    """Run the tests of some spaces, and of the losses, corrected over all of them together."""
    scope = series.scope
    cells = [(step, space) for step in scope.steps for space in spaces]
    found = {(step, space): {t: series.evidence[step, t, space] for t in scope.twins} for step, space in cells}
    ratios = {space: rare_ratio(space) for space in spaces}
    copied = copies.copying_tests(found, ratios, series.chance) if cells else {}
    if relabeling is None or not (cells or losses):
        return SeriesTests({}, {}, copied)
    assert series.pool is not None, "images were relabeled"
    lands = {(step, space): series.lands(step, space) for step, space in cells}
    leans, loss = lean.lean_tests(series.pool, relabeling, lands, losses, derived_seed("groups", scope.seed))
    in_class = {}
    if series.strata is not None:
        in_class = lean.class_tests(series.pool, series.strata, lands, derived_seed("relabel", "class", scope.seed))
    return SeriesTests(leans, loss, copied, in_class)
