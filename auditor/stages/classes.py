"""Nearest training images within the class of a sample: what a class-conditional model is fairly compared with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from auditor.metrics import LEAST_IN_CLASS
from auditor.neighbors import search
from auditor.records import Features, Neighbors
from auditor.seeds import derived_seed

NO_CLASS = -1


def class_pools(
    pools: Mapping[str, np.ndarray], classes: Mapping[str, np.ndarray], seed: int, mirrored: bool = False
) -> dict[str, np.ndarray]:
    """Return which pool images take part in comparisons within classes, bool ``[n]`` per half.

    Of each class as many from either half as the half with fewer has, chosen by ``seed``, since
    a nearest image is nearer where there are more; a class with fewer than LEAST_IN_CLASS has
    none. Mirrored images go with their originals. Nothing where the classes of a half are not known.
    """
    if len(pools) < 2 or not set(pools) <= set(classes):
        return {}
    n = {name: len(mask) // 2 if mirrored else len(mask) for name, mask in pools.items()}
    kept = {name: np.zeros(n[name], dtype=bool) for name in pools}
    for number in np.unique(np.concatenate([classes[name] for name in pools])):
        members = {
            name: np.flatnonzero(pools[name][: n[name]] & (classes[name][: n[name]] == number)) for name in pools
        }
        size = min(map(len, members.values()))
        if size < LEAST_IN_CLASS:
            continue
        for name, rows in members.items():
            rng = np.random.default_rng(derived_seed("class pool", name, int(number), seed))
            kept[name][rng.permutation(rows)[:size]] = True
    return {name: np.tile(mask, 2) for name, mask in kept.items()} if mirrored else kept


def pool_notes(masks: Mapping[str, np.ndarray], classes: Mapping[str, np.ndarray], n_classes: int) -> list[str]:
    """Return which classes have too few training images to be compared within, in one sentence."""
    if not masks:
        return []
    counted = {number for name, mask in masks.items() for number in np.unique(classes[name][mask]).tolist()}
    few = [number for number in range(n_classes) if number not in counted]
    if not few:
        return []
    named = ", ".join(map(str, few[:5])) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
    few_of = f"Classes with fewer than {LEAST_IN_CLASS} images in a half"
    return [f"{few_of} ({named}) are left out of comparisons within classes."]


def counted_classes(classes: np.ndarray, in_class_pool: np.ndarray) -> np.ndarray:
    """Return the class that each training image counts for, NO_CLASS where it does for none; int64 ``[n]``."""
    return np.where(in_class_pool, classes, NO_CLASS).astype(np.int64)


def nearest_in_class(
    queries: Features, numbers: np.ndarray, reference: Features, counted: np.ndarray, found: Neighbors
) -> tuple[np.ndarray, np.ndarray]:
    """Return index and distance of each query's nearest image of its class, -1 and NaN where there is none.

    ``counted`` are the classes that the images of the reference count for. ``found`` are the
    nearest images of the queries in the whole reference: the first of them that is of the class
    is the nearest of the class. Only queries that have none there are searched for again.
    """
    index, distance = np.full(len(numbers), -1), np.full(len(numbers), np.nan)
    same = (counted[found.indices] == numbers[:, None]) & (found.indices >= 0) & (numbers[:, None] != NO_CLASS)
    seen = same.any(axis=1)
    first = same.argmax(axis=1)
    index[seen] = found.indices[seen, first[seen]]
    distance[seen] = found.distances[seen, first[seen]]
    for number in np.unique(numbers[~seen & (numbers != NO_CLASS)]):
        members, asked = np.flatnonzero(counted == number), np.flatnonzero(~seen & (numbers == number))
        if len(members):
            again = search(queries.rows(asked), reference.rows(members), 1)
            index[asked], distance[asked] = members[again.indices[:, 0]], again.distances[:, 0]
    return index, distance
