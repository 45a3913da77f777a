"""The training halves as what samples are compared with, and the searches among them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from auditor.config import N_NEIGHBORS
from auditor.neighbors import search
from auditor.records import Features, Neighbors, set_of
from auditor.stages import cells, features
from auditor.stages.bench import Bench
from auditor.stages.classes import counted_classes, nearest_in_class

MEAN_OVER = 50  # neighbors in own_mean_distance_50 (Carlini et al. 2023)


@dataclass(frozen=True)
class Reference:
    """A training set in one space, and which of its images take part in own-versus-other statistics."""

    features: Features
    in_pool: np.ndarray  # bool [n]
    clusters: np.ndarray | None = None  # int64 [n], equal images share a number; None: all differ
    centers: np.ndarray | None = None  # float64 [cells, d], k-means centers of the set
    mirrored: bool = False  # the second half of the images are mirror images of the first, in the same order
    classes: np.ndarray | None = None  # int64 [n], number of each image's class; None: not known
    in_class_pool: np.ndarray | None = None  # bool [n], takes part in comparisons within classes; None: no image does

    @property
    def pool(self) -> Features:
        """The features of the pool images alone."""
        if self.in_pool.all():
            return self.features
        return self.features.rows(np.flatnonzero(self.in_pool))


def nearest_images(
    queries: Features, reference: Reference, k: int, pool: bool = False, exclude_self: bool = False
) -> Neighbors:
    """Return the ``k`` nearest images of a training set or its pool; a mirror image counts as its original.

    Of an image and its mirror image the nearer is kept, so that no rank is taken by the
    mirror image of another; ``exclude_self`` leaves out both.
    """
    features = reference.pool if pool else reference.features
    if not reference.mirrored:
        return search(queries, features, k, exclude_self)
    found = search(queries, features, 2 * k + 2 * exclude_self)
    n = len(features.ids) // 2
    original = np.where(found.indices < 0, -1, found.indices % n)
    kept = first_of_each(original, np.arange(len(queries.ids)) % n if exclude_self else None)
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    missing = ~np.take_along_axis(kept, order, 1)
    distances = np.where(missing, np.nan, np.take_along_axis(found.distances, order, 1)).astype(found.distances.dtype)
    indices = np.where(missing, -1, np.take_along_axis(found.indices, order, 1))
    return replace(found, distances=distances, indices=indices)


def first_of_each(numbers: np.ndarray, but: np.ndarray | None) -> np.ndarray:
    """Return bool ``[n, k]``: a number that is the first of its kind in its row, not -1, and not that of ``but``."""
    kept = numbers >= 0
    for j in range(1, numbers.shape[1]):
        kept[:, j] &= (numbers[:, :j] != numbers[:, [j]]).all(axis=1)
    return kept if but is None else kept & (numbers != but[:, None])


def of_class(
    queries: Features, classes: np.ndarray | None, reference: Reference, found: Neighbors
) -> tuple[list[str], np.ndarray]:
    """Return id and distance of the nearest image of each query's class, empty and NaN where there is none."""
    if classes is None or reference.classes is None or reference.in_class_pool is None:
        return [""] * len(queries.ids), np.full(len(queries.ids), np.nan)
    counted = counted_classes(reference.classes, reference.in_class_pool)
    index, distances = nearest_in_class(queries, classes, reference.features, counted, found)
    return [reference.features.ids[i] if i >= 0 else "" for i in index], distances


def cluster_sizes(found: Neighbors, reference: Reference) -> np.ndarray:
    """Return how many images equal the nearest one, itself included, ``[n]``."""
    if reference.clusters is None:
        return np.ones(len(found.indices))
    sizes = np.bincount(reference.clusters) // (2 if reference.mirrored else 1)
    values: np.ndarray = sizes[reference.clusters[found.indices[:, 0]]]
    return values


def outside_distance(queries: Features, reference: Reference, found: Neighbors) -> np.ndarray:
    """Return the distance to the nearest image that is no duplicate of the nearest one, ``[n]``.

    An image may have more duplicates than neighbors were looked for; its queries are
    searched again among one image of each cluster, and its mirror image.
    """
    distance = outside_cluster(found, reference.clusters)
    if reference.clusters is None:
        return distance
    known = found.indices >= 0
    alike = reference.clusters[found.indices] == reference.clusters[found.indices[:, [0]]]
    hidden = np.flatnonzero((alike | ~known).all(axis=1) & (known.sum(axis=1) < len(reference.clusters)))
    n, clusters = len(reference.clusters), reference.clusters
    turned = np.arange(n) >= n // 2 if reference.mirrored else np.zeros(n, dtype=bool)
    _, one_of_each = np.unique(np.column_stack([clusters, turned]), axis=0, return_index=True)
    if len(hidden) and len(np.unique(clusters)) > 1:
        again = search(queries.rows(hidden), reference.features.rows(one_of_each), 3)
        distance[hidden] = outside_cluster(again, clusters[one_of_each])
    return distance


def outside_cluster(found: Neighbors, clusters: np.ndarray | None) -> np.ndarray:
    """Return the distance to the nearest image that is no duplicate of the nearest one, ``[n]``.

    Where all neighbors found are duplicates, the farthest of them stands for it, which it
    does not exceed; NaN where the set has one image.
    """
    if found.distances.shape[1] < 2:
        return np.full(len(found.distances), np.nan)
    numbers = np.arange(len(found.reference_ids)) if clusters is None else clusters
    cluster = numbers[found.indices]
    outside = (cluster != cluster[:, [0]]) & ~np.isnan(found.distances)
    known = (~np.isnan(found.distances)).sum(axis=1)
    farthest = np.where(known < 2, found.distances.shape[1] - 1, known - 1)  # NaN where there is no second image
    position = np.where(outside.any(axis=1), outside.argmax(axis=1), farthest)
    return np.take_along_axis(found.distances, position[:, None], axis=1)[:, 0]


def in_pool(queries: Features, reference: Reference, full: Neighbors) -> Neighbors:
    """Return the eight nearest pool images, or more: those of the full set that are in the pool, where they suffice."""
    if reference.in_pool.all():
        return full
    pool = reference.pool
    kept = (full.indices >= 0) & reference.in_pool[full.indices]
    wanted = min(N_NEIGHBORS, len(pool.ids) // (2 if reference.mirrored else 1))
    order = np.argsort(~kept, axis=1, kind="stable")[:, :N_NEIGHBORS]
    few = np.flatnonzero(kept.sum(axis=1) < wanted)
    known = np.take_along_axis(kept, order, axis=1)
    number = np.cumsum(reference.in_pool) - 1  # of an image of the set among those of the pool
    indices = np.where(known, number[np.take_along_axis(full.indices, order, axis=1)], -1)
    distances = np.where(known, np.take_along_axis(full.distances, order, axis=1), np.nan).astype(np.float32)
    if len(few):
        again = nearest_images(queries.rows(few), reference, N_NEIGHBORS, pool=True)
        indices[few], distances[few] = again.indices[:, : indices.shape[1]], again.distances[:, : indices.shape[1]]
    return replace(full, distances=distances, indices=indices, reference_ids=pool.ids)


def nearest_of_another_group(features: Features, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return index and distance of each image's nearest one of another group; -1 and NaN where there is none."""
    found = search(features, features, max(1, min(MEAN_OVER, len(groups) - 1)), exclude_self=True)
    other = (groups[found.indices] != groups[:, None]) & (found.indices >= 0)
    position = other.argmax(axis=1)
    rows = np.arange(len(groups))
    known = other.any(axis=1)
    index = np.where(known, found.indices[rows, position], -1)
    distance = np.where(known, found.distances[rows, position], np.nan)
    hidden, first_of_each = np.flatnonzero(~known), np.unique(groups, return_index=True)[1]
    if len(hidden) and len(first_of_each) > 1:  # behind more duplicates than were looked for
        again = search(features.rows(hidden), features.rows(first_of_each), 2)
        index[hidden], distance[hidden] = first_of_each[again.indices[:, 1]], again.distances[:, 1]
    return index, distance


def of_half(bench: Bench, space: str, name: str) -> Reference:
    """Return a training set in one space."""
    loaded, found = bench.loaded, features.of_set(bench, space, name)
    facts = bench.asked.sets[name]
    return Reference(
        features=found,
        in_pool=loaded.in_pool[name],
        clusters=loaded.groups[name],
        centers=bench.once("centers", space, name, make=lambda: cells.centers(found.vectors))
        if space not in bench.asked.scope.distance_spaces
        else None,
        mirrored=facts.originals < facts.images,
        classes=loaded.classes.get(name),
        in_class_pool=loaded.class_pools.get(name),
    )


def by_role(bench: Bench, space: str, twin: str) -> dict[str, Reference]:
    """Return the sets by role for a twin, ``own`` and ``other``: its half and the twin's, or decoys; those given."""
    halves = {"own": set_of(twin), "other": set_of(bench.asked.scope.rival(twin))}
    return {role: of_half(bench, space, name) for role, name in halves.items() if name in bench.asked.sets}


def by_half(bench: Bench, space: str) -> dict[str, Reference]:
    """Return the sets by half: by the twin that was trained on each, and the decoys."""
    return {half: of_half(bench, space, set_of(half)) for half in bench.asked.scope.halves}
