"""Training images to which samples lead back: a condition of "shown small", and a table (docs/statistics.md 4.5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import numpy as np

from auditor.measuring.facts import Named
from auditor.measuring.series import Series
from auditor.records import Evidence
from auditor.stats.landing import Landing
from auditor.stats.named import Competition, compete
from auditor.stats.relabeling import Pool

LISTS = ("gap", "wide")


def magnitudes(evidence: Evidence, landing: Landing, of: str) -> np.ndarray:
    """Return how much each sample's nearest pool image stands out, float64 ``[S]`` in [0, 1].

    ``gap``: before the next image of another group, which sees no labels, so that the list is exact. ``wide``: before
    the nearest image of the other half, |d_other - d_own| / (d_other + d_own); it also catches a neighborhood of own
    images, and its rate rests on simulation.
    """
    if of == "gap":
        return np.nan_to_num(landing.gap)
    assert evidence.pool_own is not None and evidence.pool_other is not None, "both halves were searched"
    total = evidence.pool_own + evidence.pool_other
    difference = np.abs(evidence.pool_other - evidence.pool_own)
    return np.nan_to_num(np.divide(difference, total, out=np.zeros_like(total), where=total > 0))


def competition(evidence: Mapping[str, Evidence], landings: Mapping[str, Landing], pool: Pool, of: str) -> Competition:
    """Return the competition for the samples of the twins given, one list over all of them.

    An image is a target if the twin whose sample speaks most for it was trained on it. Where halves differ in size a
    decoy stands for n / m chance targets (14.2).
    """
    first = {twin: land.first for twin, land in landings.items()}
    own = [land.in_a if twin == "a" else 1 - land.in_a for twin, land in landings.items()]
    own = [np.where(each == 0.5, 0.5, each > 0.5) for each in own]
    strength = [magnitudes(evidence[twin], land, of) for twin, land in landings.items()]
    groups = [pool.groups[each] for each in first.values()]
    decoys_per_target = (1 - pool.chance) / pool.chance
    return compete(np.concatenate(strength), np.concatenate(groups), np.concatenate(own), decoys_per_target)


def named_images(series: Series) -> tuple[dict[tuple[int, str], Named], list[dict[str, Any]]]:
    """Return the named list of each checkpoint and space, over all twins, and the rows of named.parquet.

    The table also holds the wide list and those of each twin by itself; listed images only.
    """
    found, rows, both = {}, [], series.scope.twins
    named = {"both": both} | ({twin: (twin,) for twin in both} if len(both) > 1 else {})
    for step, space in product(series.scope.steps, series.scope.judged_spaces):
        evidence = {twin: series.evidence[step, twin, space] for twin in both}
        landings = series.lands(step, space)
        listed = {}
        for of in LISTS:
            for name, twins in named.items():
                chosen = {twin: evidence[twin] for twin in twins}, {twin: landings[twin] for twin in twins}
                more = list(listed_rows(*chosen, series, of))
                rows += [{"step": step, "space": space, "twin": name, "list": of} | each for each in more]
                listed[of, name] = more
        images = tuple((each["half"], each["id"]) for each in listed["gap", "both"])
        found[step, space] = Named(images, len(listed["wide", "both"]))
    return found, rows


def listed_rows(
    evidence: Mapping[str, Evidence], landings: Mapping[str, Landing], series: Series, of: str
) -> Iterator[dict[str, Any]]:
    """Yield the listed images of one competition, strongest first."""
    assert series.pool is not None, "images are named where there are some"
    result = competition(evidence, landings, series.pool, of)
    if not result.listed.any():
        return
    index = np.concatenate([land.first for land in landings.values()])
    seeds = np.concatenate([each.seeds for each in evidence.values()])
    strength = np.concatenate([magnitudes(evidence[twin], land, of) for twin, land in landings.items()])
    for place in np.flatnonzero(result.listed):
        row = result.strongest[place]
        half, image = series.pool.ids[index[row]]
        yield {
            "half": half,
            "id": str(image),
            "seed": int(seeds[row]),
            "magnitude": float(strength[row]),
            "wins": int(result.wins[place]),
            "q_value": float(result.q_value[place]),
        }
