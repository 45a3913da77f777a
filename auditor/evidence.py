"""Evidence tables: from features to rows on disk, and from rows back to what metrics and tests need.

Everything up to these tables may need a GPU; nothing after them does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from auditor import tables
from auditor.config import N_NEIGHBORS
from auditor.errors import AuditError
from auditor.metrics import closer, gap_ratio_flag
from auditor.metrics.kid import seed_scores
from auditor.neighbors import paired_distance, search, shifted_distance
from auditor.records import TWINS, Evidence, Features, LossTable, Neighbors, other_twin
from auditor.run import RunDirectory
from auditor.stats import Landing, Pool

REVISION = 1
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

    @property
    def pool(self) -> Features:
        """The features of the pool images alone."""
        if self.in_pool.all():
            return self.features
        kept = np.flatnonzero(self.in_pool)
        ids = tuple(self.features.ids[i] for i in kept)
        return Features(self.features.space, self.features.of, self.features.vectors[kept], ids)


# ---------------------------------------------------------------------------
# Features -> rows
# ---------------------------------------------------------------------------


def sample_rows(
    samples: Features,
    twin_samples: Features,
    references: Mapping[str, Reference],
    heldout: Features | None,
    seeds: np.ndarray,
    saturated: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return the columns of one evidence table: one row per seed.

    ``references`` holds ``own`` and ``other``, or nothing where no training images were
    given; what is unknown becomes NaN and the empty id.
    """
    n = len(seeds)
    data: dict[str, Any] = {
        "seed": seeds,
        "twin_distance": paired_distance(samples.vectors, twin_samples.vectors),
        "different_seed_distance": shifted_distance(samples.vectors, twin_samples.vectors),
        "saturated": np.full(n, np.nan) if saturated is None else saturated,
        **heldout_columns(samples, heldout),
    }
    if not references:
        return data | unknown_columns(n)
    full = {role: search(samples, reference.features, MEAN_OVER) for role, reference in references.items()}
    for role, found in full.items():
        data |= neighbour_columns(role, found)
        data[f"{role}_mean_distance_{MEAN_OVER}"] = found.distances[:, :MEAN_OVER].mean(axis=1)
        data[f"{role}_outside_distance"] = outside_cluster(found, references[role].clusters)
    data |= pool_columns({role: in_pool(samples, references[role], full[role]) for role in full})
    data["memorized"] = gap_ratio_flag(full["own"].distances, data["own_outside_distance"]) == 1
    return data


def heldout_columns(samples: Features, heldout: Features | None) -> dict[str, Any]:
    """Return how samples compare with held-out images: nearest distance, and shares of KID."""
    if heldout is None:
        unknown = np.full(len(samples.ids), np.nan)
        return {"heldout_distance": unknown, "kid_score": unknown}
    return {
        "heldout_distance": search(samples, heldout, 1).distances[:, 0],
        "kid_score": seed_scores(samples.vectors, heldout.vectors[:KID_HELDOUT]),
    }


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
    return full if reference.in_pool.all() else search(queries, reference.pool, N_NEIGHBORS)


def unknown_columns(n: int) -> dict[str, Any]:
    """Return the neighbour columns of a run without training images."""
    columns = [c for c in tables.EVIDENCE if c.name.startswith(("own_", "other_", "pool_"))]
    data: dict[str, Any] = {c.name: [""] * n if c.type == "category" else np.full(n, np.nan) for c in columns}
    return data | {"memorized": np.zeros(n, dtype=bool)}


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


def heldout_rows(heldout: Features, references: Mapping[str, Reference], n_samples: int = MANY) -> dict[str, Any]:
    """Return the columns of the held-out table; ``references`` holds halves ``a`` and ``b``."""
    data: dict[str, Any] = {"id": list(heldout.ids)}
    for twin, reference in references.items():
        full = search(heldout, reference.features, N_NEIGHBORS)
        data |= neighbour_columns(twin, full)
        data[f"pool_{twin}_distance"] = in_pool(heldout, reference, full).distances[:, 0]
        data[f"{twin}_outside_distance"] = outside_cluster(full, reference.clusters)
        data[f"cover_{twin}_distance"] = search(heldout, first(reference.pool, n_samples), 1).distances[:, 0]
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
    parts = [references[half].pool for half in TWINS]
    kept = {half: np.flatnonzero(references[half].in_pool) for half in TWINS}
    halves = np.repeat(list(TWINS), [len(part.ids) for part in parts])
    groups = pool_groups([references[half].clusters[kept[half]] for half in TWINS])
    vectors = np.concatenate([part.vectors for part in parts])
    everyone = Features(parts[0].space, "pool", vectors, tuple(map(str, range(len(vectors)))))
    nearest, distance = nearest_of_another_group(everyone, groups)
    ids = np.asarray([i for part in parts for i in part.ids], dtype=object)
    unknown = np.full(len(ids), np.nan)
    return {
        "half": list(halves),
        "id": list(ids),
        "group": groups,
        **{name: np.concatenate([pixels[half][name][kept[half]] for half in TWINS]) for name in pixels["a"]},
        "nearest_half": [halves[i] if i >= 0 else "" for i in nearest],
        "nearest_id": [ids[i] if i >= 0 else "" for i in nearest],
        "nearest_distance": distance,
        "heldout_distance": unknown if heldout is None else search(everyone, heldout, 1).distances[:, 0],
    }


def pool_groups(clusters: Sequence[np.ndarray]) -> np.ndarray:
    """Return group numbers over both halves; groups never span halves, since shared images are not in the pool."""
    offset = int(clusters[0].max()) + 1 if len(clusters[0]) else 0
    return np.concatenate([clusters[0], clusters[1] + offset])


def nearest_of_another_group(features: Features, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return index and distance of each image's nearest one of another group; -1 and NaN where none is known."""
    found = search(features, features, min(MEAN_OVER, len(groups) - 1), exclude_self=True)
    other = (groups[found.indices] != groups[:, None]) & (found.indices >= 0)
    position = other.argmax(axis=1)
    rows = np.arange(len(groups))
    known = other.any(axis=1)
    index = np.where(known, found.indices[rows, position], -1)
    return index, np.where(known, found.distances[rows, position], np.nan)


def train_rows(reference: Reference, digests: Sequence[str], clusters: np.ndarray) -> dict[str, Any]:
    """Return the columns of one half's table: identity, clusters of equal images, neighbours within the half."""
    features = reference.features
    within = search(features, features, N_NEIGHBORS, exclude_self=True)
    identity = {"id": list(features.ids), "digest": list(digests), "cluster": clusters, "in_pool": reference.in_pool}
    return identity | neighbour_columns("own", within)


# ---------------------------------------------------------------------------
# Rows -> values
# ---------------------------------------------------------------------------


class EvidenceReader:
    """Reads the evidence of one space of a finished or growing run; shared tables are read once."""

    def __init__(self, run: RunDirectory, space: str, n_samples: int, with_train: bool, with_heldout: bool) -> None:
        self.run, self.space, self.n_samples = run, space, n_samples
        self.with_train, self.with_heldout = with_train, with_heldout
        self._heldout = tables.read(run.evidence(space, "heldout")) if with_heldout and with_train else None
        self.pool_table = tables.read(run.evidence(space, "pool")) if with_train else None
        self.pool = self._read_pool() if with_train else None
        self._index = index_of_halves(self.pool) if self.pool else {}

    def _read_pool(self) -> Pool:
        """Return the pool of both halves, a's images first."""
        frame = self.pool_table
        labels = np.where(frame.half == "a", 1.0, -1.0)
        return Pool(tuple(zip(frame.half, frame.id, strict=True)), labels, frame.group.to_numpy())

    def nearest_in_pool(self) -> np.ndarray:
        """Return the pool index of each pool image's nearest image of another group, -1 where unknown."""
        frame = self.pool_table
        index = np.full(len(frame), -1)
        for half, (offset, ids) in self._index.items():
            rows = np.flatnonzero(frame.nearest_half == half)
            index[rows] = ids.get_indexer(frame.nearest_id.to_numpy(object)[rows]) + offset
        return index

    def read(self, twin: str, step: int) -> tuple[Evidence, Landing | None]:
        """Return the evidence of one twin and step, and where its samples land in the pool.

        Raises
        ------
        AuditError
            If seeds are missing: a missing sample is never counted as anything.
        """
        path = self.run.evidence(self.space, f"{twin}/{step}")
        frame = tables.read(path, self._columns())
        if len(frame) != self.n_samples:
            raise AuditError(
                f"The evidence has {len(frame)} of {self.n_samples} seeds.", path, "Give the audit run command again."
            )
        return self._values(frame, twin, step)

    def read_control(self, name: str, twin: str) -> tuple[Evidence, Landing]:
        """Return the evidence of a control (``smooth``, ``copier``) that stands for a twin."""
        frame = tables.read(self.run.evidence(self.space, f"{name}-{twin}"), self._columns())
        return self._values(frame, twin, -1)

    def _values(self, frame: pd.DataFrame, twin: str, step: int) -> tuple[Evidence, Landing | None]:
        evidence = Evidence(
            twin,
            step,
            self.space,
            frame.seed.to_numpy(),
            frame.twin_distance.to_numpy(),
            frame.different_seed_distance.to_numpy(),
            heldout_distance=frame.heldout_distance.to_numpy(float),
            kid_scores=frame.kid_score.to_numpy(float) if self.with_heldout else None,
            **self._train_fields(frame),
            **self._heldout_fields(twin),
        )
        if self.pool is None:
            return evidence, None
        landing = self._landing(frame, twin)
        return replace(evidence, gap=landing.gap), landing

    def _columns(self) -> list[str]:
        """Return the columns that metrics and tests read; the others are for people."""
        columns = ["seed", "twin_distance", "different_seed_distance", "heldout_distance", "kid_score"]
        if not self.with_train:
            return columns
        own = [f"{role}_distance_{j}" for role in ("own", "other") for j in tables.RANKS]
        pool = [f"pool_{what}_{j}" for what in ("role", "id", "distance") for j in tables.RANKS]
        single = (
            "own_id_1",
            "pool_own_distance",
            "pool_other_distance",
            "own_outside_distance",
            "other_outside_distance",
        )
        return [*columns, *own, *pool, *single]

    def _train_fields(self, frame: pd.DataFrame) -> dict[str, Any]:
        """Return the Evidence fields that need training images."""
        if not self.with_train:
            return {}
        return {
            "own": distance_matrix(frame, "own"),
            "other": distance_matrix(frame, "other"),
            "pool_own": frame.pool_own_distance.to_numpy(float),
            "pool_other": frame.pool_other_distance.to_numpy(float),
            "own_nearest": frame.own_id_1.to_numpy(object),
            "own_outside": frame.own_outside_distance.to_numpy(float),
            "other_outside": frame.other_outside_distance.to_numpy(float),
        }

    def _heldout_fields(self, twin: str) -> dict[str, Any]:
        """Return the Evidence fields of the held-out control, seen from this twin."""
        if self._heldout is None:
            return {}
        return {
            "heldout_ids": self._heldout.id.to_numpy(object),
            "heldout_own": distance_matrix(self._heldout, twin),
            "heldout_pool_own": self._heldout[f"pool_{twin}_distance"].to_numpy(float),
            "heldout_pool_other": self._heldout[f"pool_{other_twin(twin)}_distance"].to_numpy(float),
            "heldout_own_outside": self._heldout[f"{twin}_outside_distance"].to_numpy(float),
        }

    def _landing(self, frame: pd.DataFrame, twin: str) -> Landing:
        """Return where the samples of ``twin`` land: roles turned into halves, ids into pool indices."""
        own = np.column_stack([(frame[f"pool_role_{j}"] == "own").to_numpy() for j in tables.RANKS])
        ids = [frame[f"pool_id_{j}"] for j in tables.RANKS]
        as_own = np.column_stack([self._pool_index(twin, column) for column in ids])
        as_other = np.column_stack([self._pool_index(other_twin(twin), column) for column in ids])
        index = np.where(own, as_own, as_other)
        in_half_a = own if twin == "a" else ~own
        to_own, to_other = (frame[f"pool_{role}_distance"].to_numpy(float) for role in ("own", "other"))
        in_own = closer(to_own, to_other)
        return Landing(
            first_where(in_half_a, index),
            first_where(~in_half_a, index),
            in_own if twin == "a" else 1 - in_own,
            gaps(distance_matrix(frame, "pool"), self.pool.groups[index]),
        )

    def _pool_index(self, half: str, ids: pd.Series) -> np.ndarray:
        """Return the pool index of each id taken as an image of ``half``; 0 where it is none of them."""
        offset, index = self._index[half]
        position = index.get_indexer(ids.cat.categories)
        return np.where(position < 0, 0, position + offset)[ids.cat.codes]


def index_of_halves(pool: Pool) -> dict[str, tuple[int, pd.Index]]:
    """Return per half the pool index of its first image and its ids in order."""
    ids = {half: pd.Index([i for h, i in pool.ids if h == half], dtype=object) for half in TWINS}
    return {"a": (0, ids["a"]), "b": (len(ids["a"]), ids["b"])}


def distance_matrix(frame: pd.DataFrame, role: str) -> np.ndarray:
    """Return float64 ``[n, 8]`` distances of one role."""
    return frame[[f"{role}_distance_{j}" for j in tables.RANKS]].to_numpy(float)


def first_where(mask: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return per row the first index whose mask holds; 0 where none does (it then carries no weight)."""
    position = mask.argmax(axis=1)
    found = np.take_along_axis(index, position[:, None], axis=1)[:, 0]
    return np.where(mask.any(axis=1), found, 0)


def gaps(distances: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return (d2 - d1) / (d2 + d1) per sample, d2 the next pool image of another group (statistics 3.1).

    1 where d1 is 0. Where all known neighbours are of one group, the farthest of them
    stands for d2, which it does not exceed.
    """
    nearest = distances[:, 0]
    other_group = (groups != groups[:, [0]]) & ~np.isnan(distances)
    position = np.where(other_group.any(axis=1), other_group.argmax(axis=1), (~np.isnan(distances)).sum(axis=1) - 1)
    second = np.take_along_axis(distances, position[:, None], axis=1)[:, 0]
    total = nearest + second
    return np.where(nearest == 0, 1.0, (second - nearest) / np.where(total == 0, 1.0, total))


def read_losses(path: Path) -> dict[str, LossTable]:
    """Return the losses of one checkpoint by role: own, other, heldout, as far as measured."""
    if not path.exists():
        return {}
    frame = tables.read(path)
    found = {}
    for role, rows in frame.groupby("set", observed=True, sort=False):
        times = np.unique(rows.t)
        values = rows.loss.to_numpy().reshape(-1, len(times))
        found[str(role)] = LossTable(rows.id.astype(object).to_numpy()[:: len(times)], times, values)
    return found
