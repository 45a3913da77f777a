"""Tables of the image sets: held-out images, each training half, and the pool of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from auditor.config import N_NEIGHBORS
from auditor.inputs.asked import Asked
from auditor.neighbors import search
from auditor.records import Features, set_of
from auditor.run import places
from auditor.run.columns import HELDOUT_DISTANCE, HELDOUT_IMAGE, TRAINING_IMAGE, Column, distance, neighbors
from auditor.stages import Cost, Stage, Task, cells, features, halves, keys, nearest
from auditor.stages.bench import Bench
from auditor.stages.halves import (
    MEAN_OVER,
    Reference,
    in_pool,
    nearest_images,
    nearest_of_another_group,
    of_class,
    outside_distance,
)
from auditor.stages.nearest import blank, class_column, neighbor_columns

COVERAGE_K = 5  # statistics 6.1
MANY = 10**9
POOL = "pool"

HELDOUT = (
    HELDOUT_IMAGE,
    *neighbors("a", "nearest training image of half a"),
    *neighbors("b", "nearest training image of half b"),
    distance("pool_a_distance", "distance to the nearest pool image of half a"),
    distance("pool_b_distance", "distance to the nearest pool image of half b"),
    distance("a_outside_distance", "distance to the nearest image of half a that is no duplicate of rank 1"),
    distance("b_outside_distance", "the same in half b"),
    distance("a_mean_distance_50", "mean distance to the 50 nearest images of half a"),
    distance("b_mean_distance_50", "the same in half b"),
    Column("a_cell", "float32", "number of the k-means cell of half a that the image is in"),
    Column("b_cell", "float32", "the same of half b"),
    Column("class", "float32", "number of the image's class; NaN without classes"),
    distance("a_class_distance", "distance to the nearest image of its class in half a, as for samples"),
    distance("b_class_distance", "the same in half b"),
    distance("within_distance_5", "distance to the fifth nearest other held-out image"),
    distance("cover_a_distance", "distance to the nearest of as many pool images of half a as there are samples"),
    distance("cover_b_distance", "the same in half b"),
)

POOL_IMAGES = (
    Column("half", "string", "a or b; decoys, held-out images, beside a single training"),
    TRAINING_IMAGE,
    Column("group", "int64", "images that are relabelled together: duplicates"),
    Column("class", "float32", "number of its class; NaN without classes"),
    Column(
        "in_class_pool", "bool", "takes part in comparisons within classes: of each class equal numbers of both halves"
    ),
    Column("brightness", "float64", "mean over pixels", "gray levels of 255"),
    Column("saturated", "float64", "share of pixels that are 0 or 255", "share"),
    Column("nearest_half", "string", "half of the nearest pool image of another group"),
    Column("nearest_id", "string", "the nearest pool image of another group"),
    distance("nearest_distance", "distance to it"),
    HELDOUT_DISTANCE,
)

TRAIN = (
    TRAINING_IMAGE,
    Column("digest", "string", "sha256 of the pixels at the model's shape"),
    Column("cluster", "int64", "images of this half with equal content share a number"),
    Column(
        "in_pool", "bool", "takes part in own-versus-other statistics: not blank, not shared, subsampled to equal size"
    ),
    *neighbors("own", "nearest other image of the same half"),
    distance("outside_distance", "distance to the nearest image of the half that is no duplicate of it"),
)


def heldout_rows(
    heldout: Features,
    references: Mapping[str, Reference],
    n_samples: int = MANY,
    classes: np.ndarray | None = None,
    spread: bool = True,
) -> dict[str, Any]:
    """Return the columns of the held-out table; ``references`` holds halves ``a`` and ``b``, or ``a`` alone.

    How held-out images are spread among themselves and training images is found where ``spread`` says so, else NaN.
    """
    data: dict[str, Any] = blank(HELDOUT, len(heldout.ids)) | {"id": list(heldout.ids)}
    data["class"] = class_column(classes, len(heldout.ids))
    for twin, reference in references.items():
        full = nearest_images(heldout, reference, MEAN_OVER)
        data |= neighbor_columns(twin, full)
        data[f"pool_{twin}_distance"] = in_pool(heldout, reference, full).distances[:, 0]
        data[f"{twin}_mean_distance_{MEAN_OVER}"] = full.distances.mean(axis=1)
        data[f"{twin}_outside_distance"] = outside_distance(heldout, reference, full)
        data[f"{twin}_cell"] = cells.assign(heldout.vectors, reference.centers)
        data[f"{twin}_class_distance"] = of_class(heldout, classes, reference, full)[1]
        if spread:
            few = features.subset(reference.pool, n_samples)
            data[f"cover_{twin}_distance"] = search(heldout, few, 1).distances[:, 0]
    if not spread:
        return data
    within = search(heldout, heldout, COVERAGE_K, exclude_self=True)
    return data | {f"within_distance_{COVERAGE_K}": within.distances[:, COVERAGE_K - 1]}


def pool_rows(
    references: Mapping[str, Reference], pixels: Mapping[str, Mapping[str, np.ndarray]], heldout: Features | None
) -> dict[str, Any]:
    """Return the pool of both halves with each image's nearest image of another group.

    ``pixels`` holds per half and column (``brightness``, ``saturated``) one number per image.
    """
    parts = [each.pool for each in references.values()]
    kept = {half: np.flatnonzero(each.in_pool) for half, each in references.items()}
    halves = np.repeat(list(references), [len(part.ids) for part in parts])
    groups = pool_groups([clusters_of(each)[kept[half]] for half, each in references.items()])
    everyone = Features.joined(parts, "pool")
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


def clusters_of(reference: Reference) -> np.ndarray:
    """Return the cluster of each image of a half, int64 ``[n]``; where none are known each is its own."""
    return np.arange(len(reference.in_pool)) if reference.clusters is None else reference.clusters


def in_class_pool(reference: Reference) -> np.ndarray:
    """Return which images of a half take part in comparisons within classes, bool ``[n]``."""
    none = np.zeros(len(reference.in_pool), dtype=bool)
    return none if reference.in_class_pool is None else reference.in_class_pool


def pool_groups(clusters: Sequence[np.ndarray]) -> np.ndarray:
    """Return group numbers over both halves; groups never span halves, since shared images are not in the pool."""
    offsets = np.cumsum([0, *(int(each.max(initial=-1)) + 1 for each in clusters)])
    return np.concatenate([each + offset for each, offset in zip(clusters, offsets, strict=False)])


def train_rows(reference: Reference, digests: Sequence[str], clusters: np.ndarray) -> dict[str, Any]:
    """Return the columns of one half's table: identity, clusters of equal images, neighbors within the half."""
    features = reference.features
    within = nearest_images(features, reference, N_NEIGHBORS, exclude_self=True)
    _, outside = nearest_of_another_group(features, clusters)
    identity = {"id": list(features.ids), "digest": list(digests), "cluster": clusters, "in_pool": reference.in_pool}
    return identity | neighbor_columns("own", within) | {"outside_distance": outside}


def pixel_facts(pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Return mean brightness (0 to 255) and the share of saturated pixels of each image."""
    return {
        "brightness": np.array([float(picture.mean()) for picture in pictures]),
        "saturated": nearest.saturated(pictures),
    }


class SetEvidence(Stage):
    """One row per image: of held-out images, of a training half, or of the pool of both."""

    name, word, per = "sets", "set-evidence", "set"
    places = (places.EVIDENCE,)
    by_space, among_sets = True, True

    def wanted(self, asked: Asked) -> Iterator[tuple[str, str]]:
        """Yield every set and the pool in every space, where there are training images."""
        if asked.scope.with_train:
            yield from ((name, space) for space in features.set_spaces(asked) for name in (*asked.sets, POOL))

    def key(self, asked: Asked, of: str, space: str) -> dict[str, Any]:
        """Return what determines the table."""
        return {
            "stage": "evidence",
            "revision": nearest.REVISION,
            "of": of,
            "space": keys.of_features(asked, space, {}),
            "n_samples": asked.n_samples,
            **keys.of_spread(asked, space),
            **keys.of_references(asked),
        }

    def cost(self, asked: Asked, of: str, space: str, have: int) -> Cost:
        """Return the bytes of the table, and the distances to every image of every set."""
        pooled, known = (sum(getattr(each, name) or 0 for each in asked.sets.values()) for name in ("pooled", "images"))
        n = asked.sets[of].images if of in asked.sets else pooled
        return Cost(bytes=nearest.STAGE.row_bytes * n, compared=n * known)

    def make(self, bench: Bench, task: Task) -> Iterator[int]:
        """Write the table of one set, or of the pool."""
        loaded, references = bench.loaded, halves.by_half(bench, task.space)
        heldout = features.of_heldout(bench, task.space)
        spread = task.space in bench.asked.scope.compared_spaces
        if task.of == "heldout" and heldout is not None:
            n = min(bench.asked.n_samples, len(references["a"].pool.ids))
            trained = {twin: references[twin] for twin in bench.asked.scope.twins}
            columns, data = HELDOUT, heldout_rows(heldout, trained, n, loaded.classes.get("heldout"), spread)
        elif task.of == POOL:
            pixels = {half: pixel_facts(loaded.sets[set_of(half)].images) for half in references}
            columns, data = POOL_IMAGES, pool_rows(references, pixels, heldout if spread else None)
        else:
            half = next(each for name, each in references.items() if set_of(name) == task.of)
            columns, data = TRAIN, train_rows(half, loaded.digests[task.of], clusters_of(half))
        bench.write(task, data, columns=[columns])
        yield 0


STAGE = SetEvidence()
