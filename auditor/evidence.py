"""Evidence tables: from features to rows on disk, and from rows back to what metrics and tests need.

Everything up to these tables may need a GPU; nothing after them does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from auditor import tables
from auditor.config import N_NEIGHBORS
from auditor.errors import AuditError
from auditor.metrics import closer, gap_ratio_flag
from auditor.neighbors import paired_distance, search, shifted_distance
from auditor.records import TWINS, Evidence, Features, LossTable, Neighbors, other_twin
from auditor.run import RunDirectory
from auditor.stats import Landing, Pool

REVISION = 1
MEAN_OVER = 50  # neighbours in own_mean_distance_50 (Carlini et al. 2023)


@dataclass(frozen=True)
class Reference:
    """A training set in one space, and which of its images take part in own-versus-other statistics."""

    features: Features
    in_pool: np.ndarray  # bool [n]

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
        "heldout_distance": np.full(n, np.nan) if heldout is None else search(samples, heldout, 1).distances[:, 0],
    }
    if not references:
        return data | unknown_columns(n)
    full = {role: search(samples, reference.features, MEAN_OVER) for role, reference in references.items()}
    for role, found in full.items():
        data |= neighbour_columns(role, found)
        data[f"{role}_mean_distance_{MEAN_OVER}"] = found.distances[:, :MEAN_OVER].mean(axis=1)
    data |= pool_columns({role: in_pool(samples, references[role], full[role]) for role in full})
    data["memorized"] = gap_ratio_flag(full["own"].distances) == 1
    return data


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
    """Return the columns of the merged search in both pool halves, nearest first."""
    roles = list(found)
    distances = np.hstack([found[role].distances[:, :N_NEIGHBORS] for role in roles])
    ids = np.hstack([named(found[role])[:, :N_NEIGHBORS] for role in roles])
    role_of = np.repeat(roles, [found[role].distances[:, :N_NEIGHBORS].shape[1] for role in roles])
    order = np.argsort(distances, axis=1, kind="stable")  # NaN sorts last
    data: dict[str, Any] = {f"pool_{role}_distance": found[role].distances[:, 0] for role in roles}
    for j in tables.RANKS:
        column = order[:, j - 1]
        rows = np.arange(len(order))
        data[f"pool_distance_{j}"] = distances[rows, column]
        data[f"pool_id_{j}"] = ids[rows, column]
        data[f"pool_role_{j}"] = role_of[column]
    return data


def named(found: Neighbors) -> np.ndarray:
    """Return neighbour ids, the empty id where there are fewer images than ranks."""
    ids = np.asarray([*found.reference_ids, ""], dtype=object)
    return ids[found.indices]  # index -1 is the empty id


def heldout_rows(heldout: Features, references: Mapping[str, Reference]) -> dict[str, Any]:
    """Return the columns of the held-out table; ``references`` holds halves ``a`` and ``b``."""
    data: dict[str, Any] = {"id": list(heldout.ids)}
    for twin, reference in references.items():
        full = search(heldout, reference.features, N_NEIGHBORS)
        data |= neighbour_columns(twin, full)
        data[f"pool_{twin}_distance"] = in_pool(heldout, reference, full).distances[:, 0]
    return data


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
        self.with_train = with_train
        self._heldout = tables.read(run.evidence(space, "heldout")) if with_heldout and with_train else None
        self.pool = self._read_pool() if with_train else None
        self._index = index_of_halves(self.pool) if self.pool else {}

    def _read_pool(self) -> Pool:
        """Return the pool of both halves, a's images first."""
        halves = []
        for half in TWINS:
            frame = tables.read(self.run.evidence(self.space, f"train-{half}"), ["id", "cluster", "in_pool"])
            halves.append(frame[frame.in_pool])
        ids = tuple((half, i) for half, frame in zip(TWINS, halves, strict=True) for i in frame.id)
        labels = np.repeat([1.0, -1.0], [len(frame) for frame in halves])
        offset = int(halves[0].cluster.max()) + 1 if len(halves[0]) else 0
        groups = np.concatenate([halves[0].cluster.to_numpy(), halves[1].cluster.to_numpy() + offset])
        return Pool(ids, labels, groups)

    def read(self, twin: str, step: int) -> tuple[Evidence, Landing | None]:
        """Return the evidence of one twin and step, and where its samples land in the pool.

        Raises
        ------
        AuditError
            If seeds are missing: a missing sample is never counted as anything.
        """
        path = self.run.evidence(self.space, f"{twin}/{step}")
        frame = tables.read(path, self._columns()).head(self.n_samples)
        if len(frame) < self.n_samples:
            raise AuditError(
                f"The evidence has {len(frame)} of {self.n_samples} seeds.", path, "Give the audit run command again."
            )
        evidence = Evidence(
            twin,
            step,
            self.space,
            frame.seed.to_numpy(),
            frame.twin_distance.to_numpy(),
            frame.different_seed_distance.to_numpy(),
            **self._train_fields(frame),
            **self._heldout_fields(twin),
        )
        return evidence, self._landing(frame, twin) if self.pool else None

    def _columns(self) -> list[str]:
        """Return the columns that metrics and tests read; the others are for people."""
        columns = ["seed", "twin_distance", "different_seed_distance"]
        if not self.with_train:
            return columns
        own = [f"{role}_distance_{j}" for role in ("own", "other") for j in tables.RANKS]
        pool = [f"pool_{what}_{j}" for what in ("role", "id", "distance") for j in tables.RANKS]
        return [*columns, *own, *pool, "pool_own_distance", "pool_other_distance"]

    def _train_fields(self, frame: pd.DataFrame) -> dict[str, Any]:
        """Return the Evidence fields that need training images."""
        if not self.with_train:
            return {}
        return {
            "own": distance_matrix(frame, "own"),
            "other": distance_matrix(frame, "other"),
            "pool_own": frame.pool_own_distance.to_numpy(float),
            "pool_other": frame.pool_other_distance.to_numpy(float),
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


def read_losses(run: RunDirectory, twin: str, step: int) -> dict[str, LossTable]:
    """Return the losses of one twin and step by role: own, other, heldout, as far as measured."""
    path = run.losses(twin, step)
    if not path.exists():
        return {}
    frame = tables.read(path)
    found = {}
    for role, rows in frame.groupby("set", observed=True, sort=False):
        times = np.unique(rows.t)
        values = rows.loss.to_numpy().reshape(-1, len(times))
        found[str(role)] = LossTable(rows.id.astype(object).to_numpy()[:: len(times)], times, values)
    return found
