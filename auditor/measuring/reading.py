"""Evidence tables read back as what metrics and tests need: Evidence, Landing, losses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from auditor.errors import AuditError
from auditor.images import near_duplicates
from auditor.metrics import closer, gap
from auditor.neighbors import is_copy
from auditor.records import BEYOND_POOL, DECOYS, TWINS, Evidence, other_twin, set_of
from auditor.run import RunDirectory, columns, tables
from auditor.run.places import EVIDENCE
from auditor.scope import Scope
from auditor.stats.landing import Landing
from auditor.stats.relabeling import Pool

NO_STRATUM = -1


class EvidenceReader:
    """Reads the evidence of one space of a finished or growing run; shared tables are read once."""

    def __init__(self, run: RunDirectory, space: str, scope: Scope) -> None:
        self.run, self.space, self.scope = run, space, scope
        with_train = scope.with_train
        known = scope.with_heldout and with_train
        self._heldout = tables.arrays(run.place(EVIDENCE, "heldout", space)) if known else None
        self._pool_table = tables.read(run.place(EVIDENCE, "pool", space)) if with_train else None
        self.pool = self._read_pool() if with_train else None
        self._index = index_of_halves(self.pool) if self.pool else {}
        self._train = {half: self._read_train(half) for half in scope.halves} if with_train else {}
        self._held_by_all = shared_digests(self._train.values())
        self._heldout_fields = {twin: self._fields_of_heldout(twin) for twin in scope.twins}

    @property
    def pool_table(self) -> pd.DataFrame:
        """The table of the pool; there is one where training images were given."""
        assert self._pool_table is not None, "no training images were given"
        return self._pool_table

    def _read_pool(self) -> Pool:
        """Return the pool of both halves, a's images first."""
        frame = self.pool_table
        labels = np.where(frame.half == "a", 1.0, -1.0)
        return Pool(tuple(zip(frame.half, frame.id, strict=True)), labels, frame.group.to_numpy())

    def _read_train(self, half: str) -> pd.DataFrame:
        """Return what is known of the images of one half, by id.

        ``spacing`` is the distance to the nearest image that is no duplicate, ``group`` the number of images that
        are counted as one: that of the pool, and outside it of equal images.
        """
        names = ["id", "digest", "cluster", "outside_distance"]
        frame = tables.read(self.run.place(EVIDENCE, set_of(half), self.space), names)
        index = pd.Index(frame.id, dtype=object)
        pool = self.pool_table[self.pool_table.half == half]
        pooled = pd.Series(pool.group.to_numpy(), index=pd.Index(pool.id, dtype=object)).reindex(index)
        outside_pool = frame.cluster.to_numpy() + (1 + self.scope.halves.index(half)) * BEYOND_POOL
        group = np.where(pooled.isna(), outside_pool, pooled.fillna(0)).astype(np.int64)
        spacing = frame.outside_distance.to_numpy(float)
        return pd.DataFrame({"spacing": spacing, "group": group, "digest": frame.digest.to_numpy(object)}, index=index)

    def _of_nearest(self, half: str, ids: tables.Categories) -> tuple[np.ndarray, np.ndarray]:
        """Return the group of each image of a half that a column of ids names, and whether all halves hold it."""
        known = self._train[half]
        position = known.index.get_indexer(pd.Index(ids.names, dtype=object))
        there = position >= 0
        group = np.where(there, known.group.to_numpy()[position], -1)
        shared = there & known.digest.isin(self._held_by_all).to_numpy()[position]
        return group[ids.codes], shared[ids.codes]

    @property
    def strata(self) -> np.ndarray:
        """The class of each pool image that takes part in comparisons within classes, -1 of others; int64 ``[N]``."""
        frame = self.pool_table
        return np.where(frame.in_class_pool, frame["class"].fillna(NO_STRATUM), NO_STRATUM).astype(np.int64)

    def nearest_in_pool(self) -> np.ndarray:
        """Return the pool index of each pool image's nearest image of another group, -1 where unknown."""
        frame = self.pool_table
        index = np.full(len(frame), -1)
        for half, (offset, ids) in self._index.items():
            rows = np.flatnonzero(frame.nearest_half == half)
            index[rows] = ids.get_indexer(frame.nearest_id.to_numpy(object)[rows]) + offset
        return index

    def near_heldout(self) -> frozenset[str]:
        """Return the held-out images that are nearly training images: those are no non-members.

        By their correlation, as image sets are compared (auditor/images/near_duplicates.py); in another space by the
        rule of a copy.
        """
        if self._heldout is None:
            return frozenset()
        near = np.zeros(len(self._heldout["id"]), dtype=bool)
        for twin in self.scope.twins:
            first, second = (self._heldout[f"{twin}_{which}"] for which in ("distance_1", "outside_distance"))
            near |= first < near_duplicates.NEAR if self.space == "correlation" else is_copy(first, second)
        return frozenset(np.asarray(self._heldout["id"], dtype=object)[near].tolist())

    def read(self, twin: str, step: int) -> tuple[Evidence, Landing | None]:
        """Return the evidence of one twin and step, and where its samples land in the pool.

        Raises
        ------
        AuditError
            If seeds are missing: a missing sample is never counted as anything.
        """
        path = self.run.place(EVIDENCE, f"{twin}/{step}", self.space)
        data = tables.arrays(path, self._columns())
        n = len(data["seed"])
        if n != self.scope.n_samples:
            raise AuditError(
                f"The evidence has {n} of {self.scope.n_samples} seeds.", path, "Give the audit run command again."
            )
        return self._values(data, twin, step)

    def read_control(self, name: str, twin: str) -> tuple[Evidence, Landing]:
        """Return the evidence of a control (``smooth``, ``copier``) that stands for a twin."""
        data = tables.arrays(self.run.place(EVIDENCE, f"{name}-{twin}", self.space), self._columns())
        evidence, landing = self._values(data, twin, -1)
        assert landing is not None, "controls are drawn from training images"
        return evidence, landing

    def _values(self, data: Mapping[str, Any], twin: str, step: int) -> tuple[Evidence, Landing | None]:
        evidence = Evidence(
            twin,
            step,
            self.space,
            data["seed"],
            data["twin_distance"],
            data["different_seed_distance"],
            heldout_distance=data["heldout_distance"],
            kid_scores=data["kid_score"] if self.scope.with_heldout else None,
            saturated=data["saturated"],
            **self._train_fields(data, twin),
            **self._heldout_fields[twin],
        )
        if self.pool is None:
            return evidence, None
        landing = self._landing(data, twin)
        return replace(evidence, gap=landing.gap), landing

    def _columns(self) -> list[str]:
        """Return the columns that metrics and tests read; the others are for people."""
        always = ["seed", "twin_distance", "different_seed_distance", "heldout_distance", "kid_score", "saturated"]
        if not self.scope.with_train:
            return always
        own = [f"{role}_distance_{j}" for role in ("own", "other") for j in columns.RANKS]
        pool = [f"pool_{what}_{j}" for what in ("role", "id", "distance") for j in columns.RANKS]
        single = (
            "own_id_1",
            "other_id_1",
            "pool_own_distance",
            "pool_other_distance",
            "own_outside_distance",
            "other_outside_distance",
            "own_mean_distance_50",
            "other_mean_distance_50",
            "own_cluster_size",
            "own_cell",
            "class",
            "own_class_id",
            "own_class_distance",
            "other_class_id",
            "other_class_distance",
        )
        return [*always, *own, *pool, *single]

    def _train_fields(self, data: Mapping[str, Any], twin: str) -> dict[str, Any]:
        """Return the Evidence fields that need training images."""
        if not self.scope.with_train:
            return {}
        group, shared = self._of_nearest(twin, data["own_id_1"])
        return {
            **(self._rival_fields(data, twin) if self.scope.with_lean else {}),
            "own": distance_matrix(data, "own"),
            "own_nearest": data["own_id_1"].values,
            "own_group": group,
            "own_shared": shared,
            "own_outside": data["own_outside_distance"],
            "own_mean_50": data["own_mean_distance_50"],
            "own_cluster_size": data["own_cluster_size"],
            "own_cell": data["own_cell"],
            "own_spacing": spacing_of(self._train[twin].spacing, data["own_id_1"]),
        }

    def _rival_fields(self, data: Mapping[str, Any], twin: str) -> dict[str, Any]:
        """Return the Evidence fields that need the images of the twin's half, or the decoys, too."""
        group, shared = self._of_nearest(self.scope.rival(twin), data["other_id_1"])
        return {
            "other": distance_matrix(data, "other"),
            "other_group": group,
            "other_shared": shared,
            "other_outside": data["other_outside_distance"],
            "other_mean_50": data["other_mean_distance_50"],
            "pool_own": data["pool_own_distance"],
            "pool_other": data["pool_other_distance"],
            **(class_fields(data, "own", "other") if self.scope.with_twin else {}),
        }

    def _fields_of_heldout(self, twin: str) -> dict[str, Any]:
        """Return the Evidence fields of the held-out control, seen from this twin."""
        if self._heldout is None:
            return {}
        group, shared = self._of_nearest(twin, self._heldout[f"{twin}_id_1"])
        return {
            "heldout_ids": self._heldout["id"],
            "heldout_own": distance_matrix(self._heldout, twin),
            "heldout_pool_own": self._heldout[f"pool_{twin}_distance"],
            "heldout_pool_other": self._heldout[f"pool_{other_twin(twin)}_distance"],
            "heldout_own_outside": self._heldout[f"{twin}_outside_distance"],
            "heldout_own_mean_50": self._heldout[f"{twin}_mean_distance_50"],
            "heldout_own_cell": self._heldout[f"{twin}_cell"],
            "heldout_own_spacing": spacing_of(self._train[twin].spacing, self._heldout[f"{twin}_id_1"]),
            "heldout_own_group": group,
            "heldout_own_shared": shared,
            **heldout_class_fields(self._heldout, twin),
        }

    def _landing(self, data: Mapping[str, Any], twin: str) -> Landing:
        """Return where the samples of ``twin`` land: roles turned into halves, ids into pool indices."""
        assert self.pool is not None, "samples land among training images"
        pool_groups = self.pool.groups
        names = data["pool_id_1"].names
        roles, ids = (
            np.column_stack([data[f"pool_{what}_{j}"].codes for j in columns.RANKS]) for what in ("role", "id")
        )
        own = (names == "own")[roles]
        named = pd.Index(names, dtype=object)
        index = np.where(own, self._pool_index(twin, named)[ids], self._pool_index(self.scope.rival(twin), named)[ids])
        in_half_a = own if twin == "a" else ~own
        in_own = closer(data["pool_own_distance"], data["pool_other_distance"])
        return Landing(
            first_where(in_half_a, index),
            first_where(~in_half_a, index),
            in_own if twin == "a" else 1 - in_own,
            gaps(distance_matrix(data, "pool"), pool_groups[index]),
            self._landing_in_class(data, twin) if self.scope.with_twin else None,
        )

    def _landing_in_class(self, data: Mapping[str, Any], twin: str) -> Landing | None:
        """Return where the samples that are compared within their class land among its images."""
        found = class_fields(data, "own", "other")
        known = found.get("pool_classed", np.zeros(1, dtype=bool))
        if not known.any():
            return None
        own, other = (
            self._pool_index(half, pd.Index(data[f"{role}_class_id"].names, dtype=object))[
                data[f"{role}_class_id"].codes[known]
            ]
            for role, half in (("own", twin), ("other", other_twin(twin)))
        )
        in_own = closer(found["own_in_class"][known], found["other_in_class"][known])
        in_a = in_own if twin == "a" else 1 - in_own
        return Landing(*((own, other) if twin == "a" else (other, own)), in_a, np.ones_like(in_a))

    def _pool_index(self, half: str, names: pd.Index) -> np.ndarray:
        """Return the pool index of each name taken as an image of ``half``; 0 where it is none of them."""
        offset, index = self._index[half]
        position = index.get_indexer(names)
        return np.where(position < 0, 0, position + offset)


def class_fields(data: Mapping[str, Any], own: str, other: str) -> dict[str, np.ndarray]:
    """Return the Evidence fields within classes; none where the queries have no class."""
    if np.isnan(data["class"]).all():
        return {}
    distances = [data[f"{role}_class_distance"] for role in (own, other)]
    known = ~np.isnan(distances).any(axis=0)
    return {"pool_classed": known, "own_in_class": distances[0], "other_in_class": distances[1]}


def heldout_class_fields(data: Mapping[str, Any], twin: str) -> dict[str, np.ndarray]:
    """Return the same of held-out images, seen from this twin."""
    found = class_fields(data, twin, other_twin(twin))
    return {f"heldout_{name.removeprefix('pool_')}": values for name, values in found.items()}


def index_of_halves(pool: Pool) -> dict[str, tuple[int, pd.Index]]:
    """Return per half the pool index of its first image and its ids in order; of a single training there is one."""
    found, start = {}, 0
    for half in (*TWINS, DECOYS):
        ids = pd.Index([i for h, i in pool.ids if h == half], dtype=object)
        found[half] = start, ids
        start += len(ids)
    return found


def shared_digests(train: Iterable[pd.DataFrame]) -> set[str]:
    """Return the contents that every half holds; none for a single training."""
    digests = [set(each.digest) for each in train]
    return set.intersection(*digests) if len(digests) > 1 else set()


def spacing_of(spacing: pd.Series, ids: tables.Categories) -> np.ndarray:
    """Return the spacing of each training image that a column of ids names, float64 ``[n]``."""
    position = spacing.index.get_indexer(pd.Index(ids.names, dtype=object))
    return np.where(position < 0, np.nan, spacing.to_numpy()[position])[ids.codes]


def distance_matrix(data: Mapping[str, Any], role: str) -> np.ndarray:
    """Return float64 ``[n, 8]`` distances of one role."""
    return np.column_stack([data[f"{role}_distance_{j}"] for j in columns.RANKS])


def first_where(mask: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return per row the first index whose mask holds; 0 where none does (it then carries no weight)."""
    position = mask.argmax(axis=1)
    found = np.take_along_axis(index, position[:, None], axis=1)[:, 0]
    return np.where(mask.any(axis=1), found, 0)


def gaps(distances: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return (d2 - d1) / (d2 + d1) per sample, d2 the next pool image of another group (statistics 3.1).

    1 where d1 is 0. Where all known neighbors are of one group, the farthest of them
    stands for d2, which it does not exceed.
    """
    nearest = distances[:, 0]
    other_group = (groups != groups[:, [0]]) & ~np.isnan(distances)
    position = np.where(other_group.any(axis=1), other_group.argmax(axis=1), (~np.isnan(distances)).sum(axis=1) - 1)
    second = np.take_along_axis(distances, position[:, None], axis=1)[:, 0]
    return gap(nearest, second)
