"""Deals: training images of a bank dealt to two halves at random, and what every row of the bank is near to then.

A world is a deal and the rows that play its samples. It becomes the `Series` that the project reads from a run
directory, so that nothing of its tests and rules is written anew here: see calibrating/asking.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from hidden_copies import as_bytes

from auditor.diffusion import gaussian
from auditor.measuring.series import Series
from auditor.metrics import closer, gap
from auditor.neighbors import search
from auditor.records import TWINS, Evidence, other_twin
from auditor.registry import ALIGNED
from auditor.scope import Scope
from auditor.stages import controls, features
from auditor.stats.landing import Landing
from auditor.stats.relabeling import Pool, Relabeling, relabel
from calibrating.banks import COMPARED, VECTOR_SPACES, Bank, as_rows, keep, more_compared, opened

STEP = 1000
N_LISTED, N_MEAN = 8, 50  # neighbors of a half that are kept, and whose mean is
N_RELABELINGS_KEPT = 8  # relabelings that deals share: positions are relabeled, and images come to them at random
SIGNS = {"a": 1, "b": -1}
BOTH = 2  # label of images that both halves hold
SHARED_PART = 10  # of the images of a half, one in so many is shared where any are
FIRST_STRANGER = 10**6  # numbers of the deals whose smooth reference others borrow


@dataclass(frozen=True)
class Seen:
    """What rows are near to in one space, by half."""

    at: Mapping[str, np.ndarray]  # int64 [rows], number of the nearest image: its pool position, or beyond the pool
    to: Mapping[str, np.ndarray]  # float32 [rows, 8]
    mean_50: Mapping[str, np.ndarray]  # float32 [rows], NaN where fewer are known
    pool_at: Mapping[str, np.ndarray]  # int64 [rows], pool position of the nearest image of the pool
    pool_to: Mapping[str, np.ndarray]  # float32 [rows, 2]
    gap: np.ndarray  # float64 [rows]

    def put(self, rows: np.ndarray, found: Seen) -> None:
        """Put what was found of some rows in their places."""
        for mine, new in zip(self.parts(), found.parts(), strict=True):
            mine[rows] = new

    def parts(self) -> list[np.ndarray]:
        """Return all arrays."""
        by_half = (self.at, self.to, self.mean_50, self.pool_at, self.pool_to)
        return [each[half] for each in by_half for half in TWINS] + [self.gap]

    def landing(self, rows: np.ndarray) -> Landing:
        """Return where samples land that are these rows."""
        in_a = closer(self.pool_to["a"][rows, 0].astype(float), self.pool_to["b"][rows, 0].astype(float))
        return Landing(self.pool_at["a"][rows], self.pool_at["b"][rows], in_a, self.gap[rows])


def blank(n: int) -> Seen:
    """Return arrays for ``n`` rows."""

    def halves(*shape: int, kind: type = np.float32) -> dict[str, np.ndarray]:
        return {half: np.zeros((n, *shape), kind) for half in TWINS}

    numbers = halves(kind=np.int64), halves(N_LISTED), halves(), halves(kind=np.int64), halves(2)
    return Seen(*numbers, np.zeros(n))


def seen(label: np.ndarray, position: np.ndarray, index: np.ndarray, distance: np.ndarray) -> Seen:
    """Return what rows are near to, whose nearest training images are given, nearest first.

    ``label`` is +1 or -1 for the halves, 0 for images of neither and ``BOTH`` for those that both hold, which are in no
    pool; ``position`` is their number, ``[train images]``. Every image is a group of its own, so that the next image is
    that of the next group, too.
    """
    sign = label[index]
    at, to, mean, pool_at, pool_to = {}, {}, {}, {}, {}
    shared = sign == BOTH
    for half, mine in SIGNS.items():
        known = (sign == mine) | shared
        rank = np.cumsum(known, axis=1, dtype=np.uint8)  # of 192 at most
        column, there = first_known(known, rank, N_LISTED)
        to[half] = np.where(there, np.take_along_axis(distance, column, 1), np.nan)
        at[half] = position[np.take_along_axis(index, column[:, :1], 1)[:, 0]]
        total = np.einsum("ij,ij->i", distance, known & (rank <= N_MEAN))
        mean[half] = np.where(rank[:, -1] >= N_MEAN, total / N_MEAN, np.nan)
        pool_at[half], pool_to[half] = at[half], to[half][:, :2]
        if shared.any():
            column, _ = first_known(sign == mine, np.cumsum(sign == mine, axis=1, dtype=np.uint8), 2)
            pool_to[half] = np.take_along_axis(distance, column, 1)
            pool_at[half] = position[np.take_along_axis(index, column[:, :1], 1)[:, 0]]
    two = np.sort(np.hstack([pool_to["a"][:, :2], pool_to["b"][:, :2]]).astype(float), axis=1)
    return Seen(at, to, mean, pool_at, pool_to, gap(two[:, 0], two[:, 1]))


def first_known(known: np.ndarray, rank: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first ``n`` columns of each row that are known, int64 ``[rows, n]``, and whether there are so many.

    ``rank`` counts them. The first two are always there.
    """
    enough = int((rank >= n).argmax(axis=1).max()) + 1 if (rank[:, -1] >= n).all() else rank.shape[1]
    n_known = np.minimum(rank[:, -1], n)
    assert (n_known >= 2).all(), "a row has too few known neighbors of one half"
    there = np.arange(n) < n_known[:, None]
    found = np.zeros(there.shape, np.int64)
    found[there] = np.nonzero(known[:, :enough] & (rank[:, :enough] <= n))[1]
    return found, there


class Deal:
    """Halves dealt at random among the training images of a bank; everything about it follows from its number."""

    def __init__(self, bank: Bank, number: int, n_shared: int = 0) -> None:
        self.bank, self.number = bank, number
        n, m = bank.size.n, bank.size.heldout
        rng = np.random.default_rng([number, n])
        order = rng.permutation(bank.n_train)
        self.n = n - n_shared  # images of a half in the pool
        self.images, self.shared = order[: 2 * self.n], order[2 * self.n : 2 * n]
        self.label = np.zeros(bank.n_train, np.int8)
        self.label[self.images] = np.repeat([1, -1], self.n)
        self.label[self.shared] = BOTH
        self.position = np.zeros(bank.n_train, np.int64)
        self.position[order[: 2 * n]] = np.arange(2 * n)
        self.ids = order[: 2 * n].astype(str).astype(object)
        real = rng.permutation(bank.rows.of["fresh"])
        self.heldout = real[: min(m, len(real) // 2)]
        self.free = np.concatenate([real[len(self.heldout) :], self.mirrored(real[len(self.heldout) :])])
        self._seen: dict[str, tuple[Seen, np.ndarray]] = {}
        self.made: dict[object, Any] = {}

    @cached_property
    def sharing(self) -> Deal:
        """The same deal, where both halves hold some images: these are in no pool."""
        return Deal(self.bank, self.number, self.bank.size.n // SHARED_PART)

    def mirrored(self, real: np.ndarray) -> np.ndarray:
        """Return the rows of mirrored real images of these, where the bank has them."""
        known = self.bank.rows.of.get("fresh mirrored", np.empty(0, int))
        return known[real - self.bank.rows.of["fresh"][0]] if len(known) else known

    @cached_property
    def pool(self) -> Pool:
        """Both halves, a's images first; each image is a group."""
        names = ["a"] * self.n + ["b"] * self.n
        ids = tuple(zip(names, self.ids[: 2 * self.n], strict=True))
        return Pool(ids, np.repeat([1.0, -1.0], self.n), np.arange(2 * self.n))

    @property
    def relabeling(self) -> Relabeling:
        """Assignments that deals of one size share."""
        key = self.n, self.number % N_RELABELINGS_KEPT
        if key not in RELABELINGS:
            RELABELINGS[key] = relabel(self.pool, key[1])
        return RELABELINGS[key]

    @cached_property
    def half_of(self) -> np.ndarray:
        """+1 or -1 where all training images in a row are of one half, else 0, int8 ``[rows]``."""
        sources = self.bank.rows.sources
        label = np.where(sources < 0, self.label[sources[:, :1]], self.label[sources])
        label[sources[:, 0] < 0] = 0
        return np.where((label == label[:, :1]).all(axis=1), label[:, 0], 0)

    def copies(self, kind: str, half: str) -> np.ndarray:
        """Return the rows of this kind that are copies of images of a half."""
        rows = self.bank.rows.of[kind]
        return rows[self.half_of[rows] == SIGNS[half]]

    def seen(self, space: str, rows: np.ndarray) -> Seen:
        """Return what rows of the bank are near to in a space, in arrays over all rows; a training image not to itself.

        Rows that nobody asked for hold zeros.
        """
        near, n_rows = self.bank.near(space), len(self.bank.rows.kinds)
        if space not in self._seen:
            self._seen[space] = blank(n_rows), np.zeros(n_rows, bool)
        known, done = self._seen[space]
        missing = np.unique(rows[~done[rows]])
        if len(missing):
            index = near.index[missing]
            itself = (index == self.bank.rows.sources[missing, :1]) & (self.bank.rows.kinds[missing] == "train")[
                :, None
            ]
            index = np.where(itself, self.bank.n_train, index)
            label, position = np.append(self.label, 0).astype(np.int8), np.append(self.position, 0)
            known.put(missing, self.found(label, position, index, near.distance[missing]))
            done[missing] = True
        return known

    def found(self, label: np.ndarray, position: np.ndarray, index: np.ndarray, distance: np.ndarray) -> Seen:
        """Return `seen`, which needs two known images of either half."""
        return seen(label, position, index, distance)

    def smooth(self, space: str) -> dict[str, Landing]:
        """Return where the smooth reference of some deal of this bank lands: its spread over deals is the true one."""
        found = stranger(self.bank, FIRST_STRANGER + self.number % self.bank.size.strangers, space)
        if self.n == self.bank.size.n:
            return found
        n = self.bank.size.n
        return {
            t: replace(each, nearest_a=each.nearest_a % self.n, nearest_b=self.n + (each.nearest_b - n) % self.n)
            for t, each in found.items()
        }

    def nearest_in_pool(self, space: str) -> np.ndarray:
        """Return the pool position of each pool image's nearest other image, int64 ``[N]``."""
        rows = self.bank.rows.of["train"][self.images]
        found = self.seen(space, rows)
        is_a = found.pool_to["a"][rows, 0] <= found.pool_to["b"][rows, 0]
        return np.where(is_a, found.pool_at["a"][rows], found.pool_at["b"][rows])

    def spacing(self, half: str) -> np.ndarray:
        """Return by pool position the distance to the nearest other image of a half, in the space pixel."""
        rows = self.bank.rows.of["train"][np.concatenate([self.images, self.shared])]
        return self.seen("pixel", rows).to[half][rows, 0]


RELABELINGS: dict[tuple[int, int], Relabeling] = {}
STRANGERS: dict[tuple[str, int, str], dict[str, Landing]] = {}


def stranger(bank: Bank, number: int, space: str) -> dict[str, Landing]:
    """Return where the smooth reference of a deal lands, searched once and kept beside the bank."""
    key = str(bank.folder), number, space
    if key not in STRANGERS:
        path = bank.folder / "smooth" / f"{number}-{opened(space).revision}.npz"
        if not path.exists():
            of = Deal(bank, number)
            images = gaussian_twins(of, bank.size.smooth_aligned if space in ALIGNED else bank.size.smooth)
            found = {t: landing_of(of, space, images[t]) for t in TWINS}
            fields = ("nearest_a", "nearest_b", "in_a", "gap")
            keep(path, {f"{t}_{name}": getattr(found[t], name) for t in TWINS for name in fields})
        with np.load(path) as kept:
            STRANGERS[key] = {
                t: Landing(*(kept[f"{t}_{name}"] for name in ("nearest_a", "nearest_b", "in_a", "gap"))) for t in TWINS
            }
    return STRANGERS[key]


def gaussian_twins(deal: Deal, n_images: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return images of the Gaussian fitted to each half, from the same noise, uint8."""
    n, shape = deal.bank.size.n, deal.bank.train.shape[1:]
    eps = np.random.default_rng([deal.number, seed]).standard_normal((n_images, int(np.prod(shape))))
    found = {}
    for t, part in (("a", slice(0, n)), ("b", slice(n, None))):
        fitted = gaussian.fit(deal.bank.train[deal.images[part]])
        found[t] = as_bytes((gaussian.sample(fitted, eps) + 1) * 127.5).reshape(n_images, *shape)
    return found


def landing_of(deal: Deal, space: str, images: np.ndarray) -> Landing:
    """Return where new images land in the pool."""
    return near_images(deal, space, images).landing(np.arange(len(images)))


def near_images(deal: Deal, space: str, images: np.ndarray) -> Seen:
    """Return what new images are near to; where vectors tell, by float32 products: enough for what is no copy."""
    reference = deal.bank.train[deal.images]
    n, k = deal.bank.size.n, 128
    label, position = np.repeat(np.array([1, -1], np.int8), n), np.arange(2 * n)
    if space not in VECTOR_SPACES:
        queries, known = deal.bank.features(space, images), deal.bank.features(space, reference)
        with more_compared():
            found = search(queries, known, min(COMPARED, 2 * n))
        return seen(label, position, found.indices, found.distances.astype(np.float32))
    x, y = (as_rows(opened(space).embed(each)) for each in (images, reference))
    squared = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * (x @ y.T)
    index = np.argpartition(squared, min(k, 2 * n) - 1, axis=1)[:, :k]
    near = np.take_along_axis(squared, index, 1)
    order = np.argsort(near, axis=1)
    distance = np.sqrt(np.maximum(np.take_along_axis(near, order, 1), 0))
    return seen(label, position, np.take_along_axis(index, order, 1), distance)


@dataclass(frozen=True)
class World:
    """A deal and the rows of its bank that play samples of either twin, ``[S]``, and held-out images."""

    deal: Deal
    rows: Mapping[str, np.ndarray]
    heldout: np.ndarray
    spaces: Sequence[str]
    others: Mapping[str, Mapping[str, Seen]] = field(default_factory=dict)  # space, twin: samples that are no rows
    reference: Mapping[str, Mapping[str, Landing]] = field(default_factory=dict)  # space, twin: not that of the deal
    later: tuple[Mapping[str, np.ndarray], ...] = ()  # rows that play the samples of later checkpoints

    @property
    def n_samples(self) -> int:
        """Seeds a twin."""
        return len(self.rows["a"])

    @property
    def steps(self) -> dict[int, Mapping[str, np.ndarray]]:
        """The rows that play samples, by checkpoint and twin."""
        return dict(enumerate((self.rows, *self.later), STEP))

    def evidence(self, twin: str, space: str, found: Seen, rows: np.ndarray, step: int) -> Evidence:
        """Return what is read of samples, seen from the half of a twin, with held-out images beside them."""
        real = self.deal.seen(space, self.heldout)
        other = other_twin(twin)
        own, beyond, held = found.to[twin][rows], found.to[other][rows], real.to[twin][self.heldout]
        unknown = np.full(len(rows), np.nan)
        images, spacing, n_pool = self.deal.ids, self.deal.spacing(twin), 2 * self.deal.n
        return Evidence(
            twin,
            step,
            space,
            np.arange(len(rows)),
            unknown,
            unknown,
            own=own.astype(float),
            other=beyond.astype(float),
            pool_own=own[:, 0].astype(float),
            pool_other=beyond[:, 0].astype(float),
            heldout_ids=self.heldout.astype(str).astype(object),
            heldout_own=held.astype(float),
            heldout_pool_own=held[:, 0].astype(float),
            heldout_pool_other=real.to[other][self.heldout, 0].astype(float),
            own_nearest=images[found.at[twin][rows]],
            own_group=found.at[twin][rows],
            own_shared=found.at[twin][rows] >= n_pool,
            other_group=found.at[other][rows],
            other_shared=found.at[other][rows] >= n_pool,
            heldout_own_group=real.at[twin][self.heldout],
            heldout_own_shared=real.at[twin][self.heldout] >= n_pool,
            own_outside=own[:, 1].astype(float),
            other_outside=beyond[:, 1].astype(float),
            heldout_own_outside=held[:, 1].astype(float),
            own_mean_50=found.mean_50[twin][rows].astype(float),
            other_mean_50=found.mean_50[other][rows].astype(float),
            heldout_own_mean_50=real.mean_50[twin][self.heldout].astype(float),
            own_spacing=spacing[found.at[twin][rows]].astype(float),
            heldout_own_spacing=spacing[real.at[twin][self.heldout]].astype(float),
            own_cell=np.zeros(len(rows)),
            heldout_own_cell=np.zeros(len(self.heldout)),
            kid_scores=np.zeros(len(rows)),
            gap=found.gap[rows],
        )

    def series(self, with_controls: bool = True) -> Series:
        """Return the world as what is read from a run; controls do not depend on samples."""
        deal = self.deal
        evidence, landings = self.controls() if with_controls else ({}, {})
        for space in self.spaces:
            for twin in TWINS:
                for step, rows in self.steps.items():
                    found = self.others[space][twin] if space in self.others else deal.seen(space, rows[twin])
                    evidence[step, twin, space] = self.evidence(twin, space, found, rows[twin], step)
                    landings[step, twin, space] = found.landing(rows[twin])
                landings["smooth", twin, space] = self.smooth(space)[twin]
        scope = Scope(
            steps=tuple(self.steps),
            spaces=tuple(self.spaces),
            n_samples=self.n_samples,
            seed=0,
            with_train=True,
            with_heldout=True,
            distance_spaces=tuple(space for space in self.spaces if not opened(space).vectors),
            release="samples",
        )
        table = pd.DataFrame(
            {"half": [half for half, _ in deal.pool.ids], "id": deal.ids[: 2 * deal.n], "group": deal.pool.groups}
            | {"brightness": deal.bank.train[deal.images].mean(axis=(1, 2, 3))}
        )
        return Series(
            scope=scope,
            evidence=evidence,
            landings=landings,
            pool=deal.pool,
            pool_tables=dict.fromkeys(self.spaces, table),
            nearest_in_pool={
                space: deal.nearest_in_pool(space) for space in self.spaces if space in deal.bank.spaces_of_pool
            },
            coverage={},
            heldout=pd.DataFrame({"id": self.heldout.astype(str)}),
            saturated={},
            linear={},
            scales={},
            near_heldout=frozenset(self.heldout[deal.bank.rows.sources[self.heldout, 0] >= 0].astype(str)),
        )

    def controls(self) -> tuple[dict, dict]:
        """Return evidence and landings of what stands for a twin: a copier, and held-out images."""
        deal, rng = self.deal, np.random.default_rng([self.deal.number, 5])
        evidence, landings = {}, {}
        n_third = len(self.heldout) // features.HELDOUT_FOLDS
        for i, twin in enumerate(TWINS):
            copier = rng.choice(deal.copies("copier", twin), controls.N_COPIES)
            for name, rows in (("copier", copier), ("heldout", self.heldout[i :: features.HELDOUT_FOLDS][:n_third])):
                for space in self.spaces:
                    found = deal.seen(space, rows)
                    evidence[name, twin, space] = self.evidence(twin, space, found, rows, -1)
                    landings[name, twin, space] = found.landing(rows)
        return evidence, landings

    def smooth(self, space: str) -> Mapping[str, Landing]:
        """Return where the smooth reference lands."""
        return self.reference[space] if space in self.reference else self.deal.smooth(space)
