"""Evidence tables: from features to rows on disk; reading.py reads them back.

Everything up to these tables may need a GPU; nothing after them does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from auditor.config import N_NEIGHBORS
from auditor.metrics.copies import by_second
from auditor.metrics.kid import heldout_term, seed_scores
from auditor.neighbors import paired_distance, search, shifted_distance
from auditor.records import Features, Neighbors
from auditor.run import tables
from auditor.stages import cells
from auditor.stages.classes import NO_CLASS, counted_classes, nearest_in_class
from auditor.stages.quality import subset

REVISION = 3  # 2: calibrated and cluster-aware copies, cells and spacing; sets drawn, not cut off; 3: within classes
COVERAGE_K = 5  # statistics 6.1
KID_HELDOUT = 5000  # held-out images that KID is taken against; its cost grows with their square
MANY = 10**9
MEAN_OVER = 50  # neighbours in own_mean_distance_50 (Carlini et al. 2023)


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


# ---------------------------------------------------------------------------
# Features -> rows
# ---------------------------------------------------------------------------


def sample_rows(
    samples: Features,
    twin_samples: Features | None,
    references: Mapping[str, Reference],
    heldout: Features | None,
    seeds: np.ndarray,
    saturated: np.ndarray | None = None,
    kid_term: float | None = None,
    classes: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return the columns of one evidence table: one row per seed.

    ``references`` holds ``own`` and ``other``, ``own`` alone for a single training, which has
    no ``twin_samples`` either, or nothing where no training images were given; what is
    unknown becomes NaN and the empty id. ``kid_term`` is what
    ``kid_heldout_term`` returns, where it is known already. ``classes`` are the class numbers
    that the samples were drawn as, None where there are none.
    """
    n = len(seeds)
    data: dict[str, Any] = {
        "seed": seeds,
        **twin_columns(samples, twin_samples),
        "saturated": np.full(n, np.nan) if saturated is None else saturated,
        "class": class_column(classes, n),
        **heldout_columns(samples, heldout, kid_term),
    }
    data |= unknown_columns(n)
    if not references:
        return data
    full = {role: nearest_images(samples, reference, MEAN_OVER) for role, reference in references.items()}
    for role, found in full.items():
        data |= neighbour_columns(role, found)
        data[f"{role}_mean_distance_{MEAN_OVER}"] = found.distances[:, :MEAN_OVER].mean(axis=1)
        data[f"{role}_outside_distance"] = outside_distance(samples, references[role], found)
        ids, distances = of_class(samples, classes, references[role], found)
        data |= {f"{role}_class_id": ids, f"{role}_class_distance": distances}
    data |= pool_columns({role: in_pool(samples, references[role], full[role]) for role in full})
    data["own_cluster_size"] = cluster_sizes(full["own"], references["own"])
    data["own_cell"] = cells.assign(samples.vectors, references["own"].centers)
    data["memorized"] = by_second(full["own"].distances) == 1
    return data


def class_column(classes: np.ndarray | None, n: int) -> np.ndarray:
    """Return class numbers as a column, NaN where there is none."""
    if classes is None:
        return np.full(n, np.nan)
    return np.where(classes == NO_CLASS, np.nan, classes)


def of_class(
    queries: Features, classes: np.ndarray | None, reference: Reference, found: Neighbors
) -> tuple[list[str], np.ndarray]:
    """Return id and distance of the nearest image of each query's class, empty and NaN where there is none."""
    if classes is None or reference.in_class_pool is None:
        return [""] * len(queries.ids), np.full(len(queries.ids), np.nan)
    counted = counted_classes(reference.classes, reference.in_class_pool)
    index, distances = nearest_in_class(queries, classes, reference.features, counted, found)
    return [reference.features.ids[i] if i >= 0 else "" for i in index], distances


def twin_columns(samples: Features, twin_samples: Features | None) -> dict[str, Any]:
    """Return how far the twin's samples are, of the same seed and of others; NaN without a twin."""
    if twin_samples is None:
        return dict.fromkeys(("twin_distance", "different_seed_distance"), np.full(len(samples.ids), np.nan))
    return {
        "twin_distance": paired_distance(samples.vectors, twin_samples.vectors),
        "different_seed_distance": shifted_distance(samples.vectors, twin_samples.vectors),
    }


def heldout_columns(samples: Features, heldout: Features | None, kid_term: float | None) -> dict[str, Any]:
    """Return how samples compare with held-out images: nearest distance, and shares of KID."""
    if heldout is None:
        unknown = np.full(len(samples.ids), np.nan)
        return {"heldout_distance": unknown, "kid_score": unknown}
    return {
        "heldout_distance": search(samples, heldout, 1).distances[:, 0],
        "kid_score": seed_scores(samples.vectors, subset(heldout, KID_HELDOUT).vectors, kid_term),
    }


def kid_heldout_term(heldout: Features) -> float:
    """Return the part of KID that no sample enters."""
    return heldout_term(subset(heldout, KID_HELDOUT).vectors)


def cluster_sizes(found: Neighbors, reference: Reference) -> np.ndarray:
    """Return how many images equal the nearest one, itself included, ``[n]``."""
    if reference.clusters is None:
        return np.ones(len(found.indices))
    sizes = np.bincount(reference.clusters) // (2 if reference.mirrored else 1)
    return sizes[reference.clusters[found.indices[:, 0]]]


def outside_distance(queries: Features, reference: Reference, found: Neighbors) -> np.ndarray:
    """Return the distance to the nearest image that is no duplicate of the nearest one, ``[n]``.

    An image may have more duplicates than neighbours were looked for; its queries are
    searched again among one image of each cluster, and its mirror image.
    """
    distance = outside_cluster(found, reference.clusters)
    if reference.clusters is None:
        return distance
    alike = reference.clusters[found.indices] == reference.clusters[found.indices[:, [0]]]
    hidden = np.flatnonzero(alike.all(axis=1) & (found.indices >= 0).all(axis=1))
    n, clusters = len(reference.clusters), reference.clusters
    turned = np.arange(n) >= n // 2 if reference.mirrored else np.zeros(n, dtype=bool)
    _, one_of_each = np.unique(np.column_stack([clusters, turned]), axis=0, return_index=True)
    if len(hidden) and len(np.unique(clusters)) > 1:
        again = search(queries.rows(hidden), reference.features.rows(one_of_each), 3)
        distance[hidden] = outside_cluster(again, clusters[one_of_each])
    return distance


def outside_cluster(found: Neighbors, clusters: np.ndarray | None) -> np.ndarray:
    """Return the distance to the nearest image that is no duplicate of the nearest one, ``[n]``.

    Where all neighbours found are duplicates, the farthest of them stands for it, which it
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
    """Return the nearest pool images; the search over the full set serves where they are the same set."""
    return full if reference.in_pool.all() else nearest_images(queries, reference, N_NEIGHBORS, pool=True)


def unknown_columns(n: int) -> dict[str, Any]:
    """Return the neighbour columns of samples that nothing is known of."""
    columns = [c for c in tables.EVIDENCE if c.name.startswith(("own_", "other_", "pool_"))]
    return blank(columns, n) | {"memorized": np.zeros(n, dtype=bool)}


def blank(columns: Sequence[tables.Column], n: int) -> dict[str, Any]:
    """Return columns without values: NaN and the empty id."""
    return {c.name: [""] * n if c.type == "category" else np.full(n, np.nan) for c in columns}


def neighbour_columns(role: str, found: Neighbors) -> dict[str, Any]:
    """Return the id and distance columns of one search; absent ranks are NaN and the empty id."""
    data: dict[str, Any] = {}
    for j in tables.RANKS:
        known = found.indices.shape[1] >= j
        index = found.indices[:, j - 1] if known else np.full(len(found.indices), -1)
        data[f"{role}_id_{j}"] = [found.reference_ids[i] if i >= 0 else "" for i in index]
        data[f"{role}_distance_{j}"] = found.distances[:, j - 1] if known else np.full(len(index), np.nan)
    return data


def pool_columns(found: Mapping[str, Neighbors]) -> dict[str, Any]:
    """Return the columns of the merged search in both pool halves, nearest first.

    Equal distances are ordered by rank in their half, so that a tie for the nearest is
    between the nearest of either half, however many images of one half tie.
    """
    roles = list(found)
    distances, ids = (
        np.stack([values[:, :N_NEIGHBORS] for values in parts], axis=2).reshape(len(parts[0]), -1)
        for parts in ([found[role].distances for role in roles], [found[role].ids for role in roles])
    )
    role_of = np.tile(roles, N_NEIGHBORS)
    order = np.argsort(distances, axis=1, kind="stable")  # NaN sorts last
    data: dict[str, Any] = {f"pool_{role}_distance": found[role].distances[:, 0] for role in roles}
    for j in tables.RANKS:
        column = order[:, j - 1]
        rows = np.arange(len(order))
        data[f"pool_distance_{j}"] = distances[rows, column]
        data[f"pool_id_{j}"] = ids[rows, column]
        data[f"pool_role_{j}"] = role_of[column]
    return data


def heldout_rows(
    heldout: Features,
    references: Mapping[str, Reference],
    n_samples: int = MANY,
    classes: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return the columns of the held-out table; ``references`` holds halves ``a`` and ``b``, or ``a`` alone."""
    data: dict[str, Any] = blank(tables.HELDOUT, len(heldout.ids)) | {"id": list(heldout.ids)}
    data["class"] = class_column(classes, len(heldout.ids))
    for twin, reference in references.items():
        full = nearest_images(heldout, reference, MEAN_OVER)
        data |= neighbour_columns(twin, full)
        data[f"pool_{twin}_distance"] = in_pool(heldout, reference, full).distances[:, 0]
        data[f"{twin}_mean_distance_{MEAN_OVER}"] = full.distances.mean(axis=1)
        data[f"{twin}_outside_distance"] = outside_distance(heldout, reference, full)
        data[f"{twin}_cell"] = cells.assign(heldout.vectors, reference.centers)
        data[f"{twin}_class_distance"] = of_class(heldout, classes, reference, full)[1]
        data[f"cover_{twin}_distance"] = search(heldout, subset(reference.pool, n_samples), 1).distances[:, 0]
    within = search(heldout, heldout, COVERAGE_K, exclude_self=True)
    return data | {f"within_distance_{COVERAGE_K}": within.distances[:, COVERAGE_K - 1]}


def first(features: Features, n: int) -> Features:
    """Return the first ``n`` rows of features."""
    return Features(features.space, features.of, features.vectors[:n], features.ids[:n])


def coverage_rows(heldout: Features, samples: Features, n: int) -> dict[str, Any]:
    """Return how near the first ``n`` samples come to each held-out image."""
    return {"id": list(heldout.ids), "distance": search(heldout, first(samples, n), 1).distances[:, 0]}


def pool_rows(
    references: Mapping[str, Reference], pixels: Mapping[str, Mapping[str, np.ndarray]], heldout: Features | None
) -> dict[str, Any]:
    """Return the pool of both halves with each image's nearest image of another group.

    ``pixels`` holds per half and column (``brightness``, ``saturated``) one number per image.
    """
    parts = [each.pool for each in references.values()]
    kept = {half: np.flatnonzero(each.in_pool) for half, each in references.items()}
    halves = np.repeat(list(references), [len(part.ids) for part in parts])
    groups = pool_groups([each.clusters[kept[half]] for half, each in references.items()])
    vectors = np.concatenate([part.vectors for part in parts])
    everyone = Features(parts[0].space, "pool", vectors, tuple(map(str, range(len(vectors)))))
    nearest, distance = nearest_of_another_group(everyone, groups)
    ids = np.asarray([i for part in parts for i in part.ids], dtype=object)
    unknown = np.full(len(ids), np.nan)
    return {
        "half": list(halves),
        "id": list(ids),
        "group": groups,
        "class": np.concatenate(
            [class_column(each.classes, len(each.in_pool))[kept[h]] for h, each in references.items()]
        ),
        "in_class_pool": np.concatenate([in_class_pool(each)[kept[h]] for h, each in references.items()]),
        **{name: np.concatenate([pixels[half][name][kept[half]] for half in references]) for name in pixels["a"]},
        "nearest_half": [halves[i] if i >= 0 else "" for i in nearest],
        "nearest_id": [ids[i] if i >= 0 else "" for i in nearest],
        "nearest_distance": distance,
        "heldout_distance": unknown if heldout is None else search(everyone, heldout, 1).distances[:, 0],
    }


def in_class_pool(reference: Reference) -> np.ndarray:
    """Return which images of a half take part in comparisons within classes, bool ``[n]``."""
    none = np.zeros(len(reference.in_pool), dtype=bool)
    return none if reference.in_class_pool is None else reference.in_class_pool


def pool_groups(clusters: Sequence[np.ndarray]) -> np.ndarray:
    """Return group numbers over both halves; groups never span halves, since shared images are not in the pool."""
    offsets = np.cumsum([0, *(int(each.max(initial=-1)) + 1 for each in clusters)])
    return np.concatenate([each + offset for each, offset in zip(clusters, offsets, strict=False)])


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


def train_rows(reference: Reference, digests: Sequence[str], clusters: np.ndarray) -> dict[str, Any]:
    """Return the columns of one half's table: identity, clusters of equal images, neighbours within the half."""
    features = reference.features
    within = nearest_images(features, reference, N_NEIGHBORS, exclude_self=True)
    _, outside = nearest_of_another_group(features, clusters)
    identity = {"id": list(features.ids), "digest": list(digests), "cluster": clusters, "in_pool": reference.in_pool}
    return identity | neighbour_columns("own", within) | {"outside_distance": outside}
