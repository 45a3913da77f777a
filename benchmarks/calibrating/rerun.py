"""N6: a finished run whose images are dealt to the halves anew, so that its samples lean on neither.

Everything but the labels is the run's own: its hubs, its copies, its losses, the way its
twins differ. Distances to the new halves come from the eight pool neighbors of each
sample, which the evidence holds; where these do not hold two groups of a half, the eighth
stands for the missing one, which it does not exceed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from auditor.config import Budgets
from auditor.measuring import copies as copying
from auditor.measuring import lean, verdict
from auditor.measuring.facts import Context, LossLean, Reference, StepFacts
from auditor.measuring.lean import lean_fact
from auditor.measuring.series import Series, read_series
from auditor.records import TWINS, Evidence, other_twin
from auditor.run import RunDirectory, columns, tables
from auditor.run.places import EVIDENCE
from auditor.scope import Scope, rare_ratio
from auditor.stats.landing import Landing
from auditor.stats.relabeling import Pool, Relabeling, relabel
from calibrating.nulls import Size
from calibrating.table import Row


@dataclass(frozen=True)
class Near:
    """The eight pool images nearest to each of some images."""

    index: np.ndarray  # int64 [n, 8], pool positions
    distance: np.ndarray  # float64 [n, 8], ascending
    gap: np.ndarray | None = None  # float64 [n]; labels do not change it


def rows(root: Path, size: Size) -> Iterator[Row]:
    """Yield how often relabeled audits of a run are called biased."""
    run = RunDirectory(root)
    scope = scope_of(run)
    series = read_series(run, scope)
    near = {
        (step, twin, space): near_samples(series, run, step, twin, space)
        for space in scope.spaces
        for step in scope.steps
        for twin in TWINS
    }
    heldout = {space: near_heldout(series.pool, run, space) for space in scope.spaces} if scope.with_heldout else {}
    n = size.of(500)
    dealt, drawn = relabel(series.pool, 1, n), relabel(series.pool, 2)
    smooth = {space: {t: series.landings["smooth", t, space] for t in TWINS} for space in scope.spaces}
    references = {space: lean.reference_share(lands, series.pool) for space, lands in smooth.items()}
    counts: Counter[str] = Counter()
    for labels in dealt.labels[1:].astype(float):
        pool = replace(series.pool, labels=labels)
        relabeling = Relabeling(np.vstack([labels[None].astype(np.float32), drawn.labels[1:]]), drawn.mean)
        counts.update(alarms(series, pool, relabeling, near, heldout, references))
    named = {
        "any biased or memorizing": counts["biased"],
        "lean test p ≤ 0.025": counts["lean"],
        "copy test p ≤ 0.025": counts["copy"],
    }
    yield Row("False alarms", "N6 relabeled run", n, named, "at most", 0.05, root.name)


def scope_of(run: RunDirectory) -> Scope:
    """Return what the run looked at."""
    found = json.loads((run.root / "run.json").read_text())["scope"]
    return Scope(**{**found, "steps": tuple(found["steps"]), "spaces": tuple(found["spaces"])})


def positions(pool: Pool, half: str, ids: pd.Series) -> np.ndarray:
    """Return the pool positions of ids of one half, -1 where it has none of that name."""
    index = pd.Index([i if h == half else None for h, i in pool.ids], dtype=object)
    mine = np.flatnonzero([h == half for h, _ in pool.ids])
    found = index[mine].get_indexer(ids.to_numpy(object))
    return np.where(found < 0, -1, mine[found])


def near_samples(series: Series, run: RunDirectory, step: int, twin: str, space: str) -> Near:
    """Return the pool neighbors of the samples of one checkpoint."""
    names = [f"pool_{what}_{j}" for what in ("role", "id", "distance") for j in columns.RANKS]
    frame = tables.read(run.place(EVIDENCE, f"{twin}/{step}", space), names)
    found = []
    for j in columns.RANKS:
        own = (frame[f"pool_role_{j}"] == "own").to_numpy()
        as_own, as_other = (positions(series.pool, half, frame[f"pool_id_{j}"]) for half in (twin, other_twin(twin)))
        found.append(np.where(own, as_own, as_other))
    distance = frame[[f"pool_distance_{j}" for j in columns.RANKS]].to_numpy(float)
    return Near(np.column_stack(found), distance, series.landings[step, twin, space].gap)


def near_heldout(pool: Pool, run: RunDirectory, space: str) -> Near:
    """Return the pool neighbors of held-out images: the eight nearest of both halves."""
    frame = tables.read(run.place(EVIDENCE, "heldout", space))
    index = np.column_stack([positions(pool, half, frame[f"{half}_id_{j}"]) for half in TWINS for j in columns.RANKS])
    distance = np.column_stack([frame[f"{half}_distance_{j}"] for half in TWINS for j in columns.RANKS])
    order = np.argsort(np.where(index < 0, np.inf, distance), axis=1, kind="stable")[:, : len(columns.RANKS)]
    return Near(np.take_along_axis(index, order, 1), np.take_along_axis(distance, order, 1))


def two_nearest(near: Near, pool: Pool, sign: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return position and distance of the nearest image of a half, and the distance to its next other group."""
    mine, rows = pool.labels[near.index] == sign, np.arange(len(near.index))
    first = mine.argmax(axis=1)
    known = mine.any(axis=1)
    other = mine & (pool.groups[near.index] != pool.groups[near.index[rows, first]][:, None])
    second = np.where(other.any(axis=1), other.argmax(axis=1), near.index.shape[1] - 1)
    nearest = np.where(known, near.distance[rows, first], near.distance[:, -1])
    return near.index[rows, first], nearest, np.where(known, near.distance[rows, second], near.distance[:, -1])


def alarms(
    series: Series,
    pool: Pool,
    relabeling: Relabeling,
    near: Mapping,
    heldout: Mapping,
    references: Mapping[str, Reference],
) -> Counter[str]:
    """Return which alarms a relabeled run raises."""
    scope, budgets = series.scope, Budgets()
    cells = [(step, space) for step in scope.steps for space in scope.spaces]
    lands = {(c, s): {t: landing(near[c, t, s], pool) for t in TWINS} for c, s in cells}
    losses = {step: series.losses(step) for step in scope.steps if "own" in series.losses(step)["a"]}
    leans, loss_leans = lean.lean_tests(pool, relabeling, lands, losses, 1)
    reference = lean.reference_loss(series.linear, series.pool) if losses else 0.0
    copies = {(c, s): {t: evidence(near[c, t, s], heldout.get(s), pool, t, c, s) for t in TWINS} for c, s in cells}
    found = copying.copying_tests(copies, {s: rare_ratio(s) for s in scope.spaces}) if heldout else {}
    counts: Counter[str] = Counter()
    for step in scope.steps:
        facts = StepFacts(
            step,
            {s: lean_fact(leans[step, s], references[s], scope.n_samples, len(scope.spaces)) for s in scope.spaces},
            as_fact(loss_leans[step], reference) if step in loss_leans else None,
            {s: found[step, s] for s in scope.spaces if found},
        )
        judged = verdict.judge(facts, Context((0,), (), max(scope.n_samples, budgets.least_seeds)), budgets)
        counts["biased"] |= judged.verdict in ("biased", "memorizing")
    least = [each.gap_p_corrected for each in leans.values()] + [each.p_corrected for each in loss_leans.values()]
    counts["lean"] = min(least) <= budgets.alpha
    counts["copy"] = min((each.p_corrected for each in found.values()), default=1.0) <= budgets.alpha
    return counts


def landing(near: Near, pool: Pool) -> Landing:
    """Return where samples land under these labels."""
    in_a = (pool.labels[near.index[:, 0]] > 0).astype(float)
    return Landing(two_nearest(near, pool, 1)[0], two_nearest(near, pool, -1)[0], in_a, near.gap)


def evidence(near: Near, heldout: Near | None, pool: Pool, twin: str, step: int, space: str) -> Evidence | None:
    """Return what the copying test reads, under these labels."""
    if heldout is None:
        return None
    sign = 1.0 if twin == "a" else -1.0
    (image, own, own_outside), (beyond, other, other_outside) = (two_nearest(near, pool, y) for y in (sign, -sign))
    _, real, real_outside = two_nearest(heldout, pool, sign)
    unknown = np.full(len(own), np.nan)
    return Evidence(
        twin,
        step,
        space,
        np.arange(len(own)),
        unknown,
        unknown,
        own=own[:, None],
        other=other[:, None],
        own_nearest=image,
        own_group=pool.groups[image],
        other_group=pool.groups[beyond],
        own_mean_50=unknown,  # the evidence holds eight neighbors: the rule of Carlini et al. has no say here
        other_mean_50=unknown,
        heldout_own_mean_50=np.full(len(real), np.nan),
        own_outside=own_outside,
        other_outside=other_outside,
        heldout_own=real[:, None],
        heldout_own_outside=real_outside,
    )


def as_fact(result: lean.LossLeanResult, reference: float) -> LossLean:
    """Return what the verdict needs of the loss lean."""
    return LossLean(result.estimate.value, result.low, result.high, result.p_corrected, reference)
