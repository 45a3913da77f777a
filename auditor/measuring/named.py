"""The training images that samples lead back to: one list per checkpoint and space, and one per twin (4.5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from auditor.measuring.facts import Named
from auditor.measuring.series import Series
from auditor.records import TWINS, Evidence
from auditor.run.columns import STEP, TRAINING_IMAGE, Column
from auditor.stats.landing import Landing
from auditor.stats.named import NAME_FDR, Competition, Nearest, compete
from auditor.stats.relabeling import Pool

BESIDE = 3  # targets below the list that are kept: how far from being named the next ones are
KINDS = ("gap", "wide")
NAMED = (
    STEP,
    Column("space", "string", "feature space"),
    Column("twin", "string", "whose samples: a, b or both"),
    Column("list", "string", "gap: one image stands out; wide: the nearest image of the own half is nearer"),
    Column("rank", "int64", "place among the groups of either half that samples lead back to, from 1"),
    Column("half", "string", "a or b: the half that the image is of"),
    TRAINING_IMAGE,
    Column("group", "int64", "number of its group in the pool"),
    Column("seed", "int64", "seed of the sample that leads back to it most"),
    Column("strength", "float64", "of that sample: (d2 - d1) / (d2 + d1); other against own distance on the wide list"),
    Column("wins", "int64", "samples of the twin that was trained on it that lead back to its group"),
    Column("decoys", "int64", "groups of the other half among those that stand out at least as much"),
    Column("q_value", "float64", "least expected share of wrong names of a list that reaches as far"),
    Column("listed", "bool", "whether it is named at an expected share of wrong names of 10 %"),
)

Lists = Mapping[tuple[str, str], Competition]  # by kind (gap, wide) and twin (a, b, both)


def competitions(series: Series) -> dict[tuple[int, str], Lists]:
    """Return by step and judged space every list of its samples; none without two trained halves."""
    scope, pool = series.scope, series.pool
    if not scope.with_lean or pool is None:
        return {}
    return {
        (step, space): lists_of(
            pool,
            {twin: series.landings[step, twin, space] for twin in TWINS},
            {twin: series.evidence[step, twin, space] for twin in TWINS},
        )
        for step in scope.steps
        for space in scope.judged_spaces
    }


def lists_of(pool: Pool, lands: Mapping[str, Landing], evidence: Mapping[str, Evidence]) -> dict[Any, Competition]:
    """Return the gap list and the wide list of either twin, and of both together."""
    one = {
        (kind, twin): leading_to(pool, lands[twin], twin, strength)
        for twin in TWINS
        for kind, strength in (("gap", lands[twin].gap), ("wide", nearer_by(evidence[twin])))
    }
    both = {(kind, "both"): together([one[kind, twin] for twin in TWINS]) for kind in KINDS}
    return {which: compete(nearest, pool.groups) for which, nearest in (one | both).items()}


def leading_to(pool: Pool, land: Landing, twin: str, strength: np.ndarray) -> Nearest:
    """Return which pool image each sample of a twin is nearest to; a sample between both halves names none.

    Dropping it keeps images and strengths free of labels: between two images of one half a
    tie has gap 0, and counts for nothing either.
    """
    sign = 1.0 if twin == "a" else -1.0
    tied = ~((land.in_a == 0) | (land.in_a == 1))
    return Nearest(land.first, pool.labels[land.first] == sign, np.where(tied, 0.0, strength))


def nearer_by(evidence: Evidence) -> np.ndarray:
    """Return |d_other - d_own| / (d_other + d_own) of each sample, float64 ``[S]`` in [0, 1].

    Unlike the gap it is known only once images are dealt to halves, so that the wide list's share of wrong
    names rests on simulation.
    """
    own, other = np.asarray(evidence.pool_own), np.asarray(evidence.pool_other)
    total = own + other
    found: np.ndarray = np.abs(other - own) / np.where(total == 0, 1.0, total)
    return found


def together(parts: list[Nearest]) -> Nearest:
    """Return the samples of both twins as one."""
    return Nearest(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("image", "own", "strength")))


def named_fact(pool: Pool, lists: Lists) -> Named:
    """Return what the verdict needs: the gap list of both twins, and how long the wide one is."""
    images = tuple(pool.ids[i] for i in lists["gap", "both"].names)
    return Named(images, wide=int(lists["wide", "both"].listed.sum()), fdr=NAME_FDR)


def named_facts(series: Series, found: Mapping[tuple[int, str], Lists]) -> dict[tuple[int, str], Named]:
    """Return by step and space what the verdict needs of every list."""
    assert series.pool is not None or not found, "there are lists where there is a pool"
    return {cell: named_fact(series.pool, lists) for cell, lists in found.items() if series.pool is not None}


def named_rows(series: Series, found: Mapping[tuple[int, str], Lists]) -> list[dict[str, Any]]:
    """Return the rows of named.parquet: listed images, and the next few of each list that are not.

    All that samples lead back to would be most of the pool, per checkpoint, space, twin and list.
    """
    pool, seeds = series.pool, series.scope.seed + np.arange(series.scope.n_samples)
    rows = []
    for (step, space), lists in sorted(found.items()):
        for (kind, twin), one in sorted(lists.items()):
            shared = {"step": step, "space": space, "twin": twin, "list": kind}
            assert pool is not None, "there are lists where there is a pool"
            rows += [shared | row for row in list_rows(pool, seeds, one)]
    return rows


def list_rows(pool: Pool, seeds: np.ndarray, one: Competition) -> Iterator[dict[str, Any]]:
    """Yield what is known of each group of one list, strongest first, as far as the list and a little beyond."""
    decoys = np.searchsorted(-one.strength[~one.own], -one.strength, side="right")
    targets = np.flatnonzero(one.own)
    for k in targets[: int(one.listed.sum()) + BESIDE]:
        half, image = pool.ids[one.image[k]]
        yield {
            "rank": int(k) + 1,
            "half": half,
            "id": image,
            "group": int(one.group[k]),
            "seed": int(seeds[one.sample[k] % len(seeds)]),  # of both twins a's samples come first
            "strength": float(one.strength[k]),
            "wins": int(one.wins[k]),
            "decoys": int(decoys[k]),
            "q_value": float(one.q_value[k]),
            "listed": bool(one.listed[k]),
        }
