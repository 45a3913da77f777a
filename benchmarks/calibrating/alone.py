"""Worlds of one training: a deal of training and held-out images, and the rows that play its samples.

Held-out images are dealt from the bank's training images, so that both are of one deal; of another source, where a
world says so. All else is that of two trainings: see calibrating/deals.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from hidden_copies import as_bytes

from auditor import measuring
from auditor.config import Budgets
from auditor.diffusion import gaussian
from auditor.measuring import families, halves, verdict
from auditor.measuring.facts import Named
from auditor.measuring.named import listed_rows
from auditor.measuring.series import Series
from auditor.metrics import gap
from auditor.neighbors import search
from auditor.records import DECOYS, LossTable
from auditor.registry import ALIGNED, WINDOWS
from auditor.scope import Scope
from auditor.stages import controls
from auditor.stats.landing import Landing
from auditor.stats.relabeling import Pool, Relabeling, relabel
from calibrating.asking import NOWHERE, condition
from calibrating.banks import COMPARED, VECTOR_SPACES, Bank, as_rows, more_compared, opened
from calibrating.deals import FIRST_STRANGER, N_LISTED, N_MEAN, STEP, Deal, Seen, World, blank, seen

ALARM = 0.05


class DealAlone(Deal):
    """Some images that were trained on and some that were held out, dealt at random; all follows from its number."""

    def __init__(self, bank: Bank, number: int, m: int, n: int | None = None) -> None:
        self.bank, self.number, self.m = bank, number, m
        self.n = bank.size.n if n is None else n
        rng = np.random.default_rng([number, self.n, m])
        order = rng.permutation(bank.n_train)
        assert self.n + m <= bank.n_train, "the bank has fewer images"
        self.images, self.shared = order[: self.n + m], np.empty(0, np.int64)
        self.label = np.zeros(bank.n_train, np.int8)
        self.label[self.images] = np.repeat([1, -1], [self.n, m])
        self.position = np.zeros(bank.n_train, np.int64)
        self.position[self.images] = np.arange(self.n + m)
        self.ids = self.images.astype(str).astype(object)
        self.heldout = bank.rows.of["train"][self.images[self.n :]]
        real = rng.permutation(bank.rows.of["fresh"])
        self.free = np.concatenate([real, self.mirrored(real)])
        self._seen: dict[str, tuple[Seen, np.ndarray]] = {}
        self.made: dict[object, object] = {}

    @cached_property
    def pool(self) -> Pool:
        """Training images, then held-out ones; each image is a group."""
        names = ["a"] * self.n + [DECOYS] * self.m
        ids = tuple(zip(names, self.ids, strict=True))
        return Pool(ids, np.repeat([1.0, -1.0], [self.n, self.m]), np.arange(self.n + self.m))

    @property
    def relabeling(self) -> Relabeling:
        """Assignments that deals of one size share."""
        key = self.n, self.m, self.number % 8
        if key not in RELABELINGS:
            RELABELINGS[key] = relabel(self.pool, key[2])
        return RELABELINGS[key]

    def smooth(self, space: str) -> dict[str, Landing]:
        """Return where the Gaussian of some deal of this size lands; a few deals stand for all."""
        number = FIRST_STRANGER + self.number % self.bank.size.strangers
        key = str(self.bank.folder), number, self.n, self.m, space
        if key not in STRANGERS:
            of = DealAlone(self.bank, number, self.m, self.n)
            size = self.bank.size.smooth_aligned if space in ALIGNED else self.bank.size.smooth
            images = of.gaussian_images(size)
            STRANGERS[key] = of.near_images(space, images).landing(np.arange(size))
        return {"a": STRANGERS[key]}

    def seen(self, space: str, rows: np.ndarray) -> Seen:
        """Return what rows of the bank are near to in a space; of few held-out images all distances are needed."""
        if space not in VECTOR_SPACES:
            return super().seen(space, rows)
        n_rows = len(self.bank.rows.kinds)
        if space not in self._seen:
            self._seen[space] = blank(n_rows), np.zeros(n_rows, bool)
        known, done = self._seen[space]
        missing = np.unique(rows[~done[rows]])
        if len(missing):
            known.put(missing, self.of_distances(distances_of(self.bank, space, missing), missing))
            done[missing] = True
        return known

    def of_distances(self, distance: np.ndarray, rows: np.ndarray) -> Seen:
        """Return what rows are near to by their distances to all training images of the bank; none to itself."""
        own = self.bank.rows.kinds[rows] == "train"
        distance[np.flatnonzero(own), self.bank.rows.sources[rows[own], 0]] = np.inf
        return by_side({"a": distance[:, self.images[: self.n]], "b": distance[:, self.images[self.n :]]}, self.n)

    def found(self, label: np.ndarray, position: np.ndarray, index: np.ndarray, distance: np.ndarray) -> Seen:
        """Return `seen`; where fewer than two of the nearest are held out, the farthest known stand for them."""
        return padded(label, position, index, distance)

    def gaussian_images(self, n_images: int) -> np.ndarray:
        """Return images of the Gaussian fitted to what was trained on, uint8."""
        shape = self.bank.train.shape[1:]
        eps = np.random.default_rng([self.number, 0]).standard_normal((n_images, int(np.prod(shape))))
        fitted = gaussian.fit(self.bank.train[self.images[: self.n]])
        return as_bytes((gaussian.sample(fitted, eps) + 1) * 127.5).reshape(n_images, *shape)

    def near_images(self, space: str, images: np.ndarray) -> Seen:
        """Return what new images are near to."""
        reference = self.bank.train[self.images]
        label, position = np.repeat(np.array([1, -1], np.int8), [self.n, self.m]), np.arange(self.n + self.m)
        if space not in VECTOR_SPACES:
            queries, known = self.bank.features(space, images), self.bank.features(space, reference)
            with more_compared():
                found = search(queries, known, min(COMPARED, len(reference)))
            return padded(label, position, found.indices, found.distances.astype(np.float32))
        distance = between(*(as_rows(opened(space).embed(each)) for each in (images, reference)))
        return by_side({"a": distance[:, : self.n], "b": distance[:, self.n :]}, self.n)


def between(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return distances of all rows, float32; good to a few units in the last place times the length of the vectors."""
    squared = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * (x @ y.T)
    return np.sqrt(np.maximum(squared, 0, out=squared), out=squared)


def distances_of(bank: Bank, space: str, rows: np.ndarray) -> np.ndarray:
    """Return distances of rows of a bank to all its training images; those of rows asked for before are kept."""
    key = str(bank.folder), space
    if key not in DISTANCES:
        n = len(bank.rows.kinds)
        known = as_rows(opened(space).embed(bank.train))
        DISTANCES[key] = known, np.zeros((n, bank.n_train), np.float32), np.zeros(n, bool)
    known, distance, done = DISTANCES[key]
    missing = rows[~done[rows]]
    if len(missing):
        distance[missing] = between(as_rows(opened(space).embed(bank.rows.pictures[missing])), known)
        done[missing] = True
    return distance[rows]


def by_side(distance: dict[str, np.ndarray], n: int) -> Seen:
    """Return what rows are near to by their distances to the images of either side, ``[rows, n]`` and ``[rows, m]``."""
    at, to, mean = {}, {}, {}
    for side, first in (("a", 0), ("b", n)):
        values, k = distance[side], min(N_MEAN, distance[side].shape[1])
        near = np.argpartition(values, k - 1, axis=1)[:, :k] if k < values.shape[1] else np.argsort(values, axis=1)
        found = np.take_along_axis(values, near, 1)
        order = np.argsort(found, axis=1)[:, :N_LISTED]
        to[side] = np.take_along_axis(found, order, 1)
        at[side] = first + np.take_along_axis(near, order[:, :1], 1)[:, 0]
        mean[side] = np.where(np.isfinite(found).all(axis=1), found.mean(axis=1), np.nan) if k == N_MEAN else np.nan
        mean[side] = np.broadcast_to(mean[side], len(values))
    two = np.sort(np.hstack([to["a"][:, :2], to["b"][:, :2]]).astype(float), axis=1)
    return Seen(at, to, mean, at, {side: each[:, :2] for side, each in to.items()}, gap(two[:, 0], two[:, 1]))


def padded(label: np.ndarray, position: np.ndarray, index: np.ndarray, distance: np.ndarray) -> Seen:
    """Return `seen`; where fewer than two images of a side are among the nearest known, others stand for them, far off.

    They are no nearer than all that is known, so that neither where a sample lands nor a copy changes.
    """
    for sign, places in ((1, slice(-4, -2)), (-1, slice(-2, None))):
        few = (label[index] == sign).sum(axis=1) < 2
        if few.any():
            index, distance = index.copy(), distance.copy()
            index[few, places] = np.flatnonzero(label == sign)[:2]
            distance[few, places] = distance[few, -1:]
    return seen(label, position, index, distance)


DISTANCES: dict[tuple[str, str], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
RELABELINGS: dict[tuple[int, int, int], Relabeling] = {}
STRANGERS: dict[tuple[str, int, int, int, str], Landing] = {}


@dataclass(frozen=True)
class WorldAlone(World):
    """A deal and the rows of its bank that play the samples of its training."""

    def series(self, with_controls: bool = True) -> Series:
        """Return the world as what is read from a run."""
        deal = self.deal
        assert isinstance(deal, DealAlone), "one training"
        evidence, landings = self.controls() if with_controls else ({}, {})
        for space in self.spaces:
            for step, rows in self.steps.items():
                found = deal.seen(space, rows["a"])
                evidence[step, "a", space] = self.evidence("a", space, found, rows["a"], step)
                landings[step, "a", space] = found.landing(rows["a"])
            landings["smooth", "a", space] = deal.smooth(space)["a"]
        scope = Scope(
            steps=tuple(self.steps),
            spaces=tuple(self.spaces),
            n_samples=self.n_samples,
            seed=0,
            with_train=True,
            with_heldout=True,
            twins=("a",),
            decoys=True,
            distance_spaces=tuple(space for space in self.spaces if not opened(space).vectors),
            release="samples",
        )
        table = pd.DataFrame(
            {"half": [half for half, _ in deal.pool.ids], "id": deal.ids, "group": deal.pool.groups}
            | {"brightness": deal.bank.train[deal.images].mean(axis=(1, 2, 3))}
        )
        nearest = {space: deal.nearest_in_pool(space) for space in self.spaces if space in deal.bank.spaces_of_pool}
        return Series(
            scope=scope,
            evidence=evidence,
            landings=landings,
            pool=deal.pool,
            pool_tables=dict.fromkeys(self.spaces, table),
            nearest_in_pool=nearest,
            coverage={},
            heldout=pd.DataFrame({"id": self.heldout.astype(str)}),
            saturated={},
            linear={},
            scales={},
        )

    def controls(self) -> tuple[dict, dict]:
        """Return evidence and landings of a copier and of held-out images."""
        deal, rng = self.deal, np.random.default_rng([self.deal.number, 5])
        copier = rng.choice(deal.copies("copier", "a"), controls.N_COPIES)
        evidence, landings = {}, {}
        for name, rows in (("copier", copier), ("heldout", self.heldout)):
            for space in self.spaces:
                found = deal.seen(space, rows)
                evidence[name, "a", space] = self.evidence("a", space, found, rows, -1)
                landings[name, "a", space] = found.landing(rows)
        return evidence, landings


def with_losses(series: Series, losses: np.ndarray) -> Series:
    """Return the series with these losses of its network on training and held-out images, in the order of the pool."""
    assert series.pool is not None, "one training and its held-out images"
    own = series.pool.labels > 0
    ids = np.array([name for _, name in series.pool.ids], dtype=object)
    tables = {
        role: LossTable(ids[mine], np.zeros(1, np.int64), losses[mine][:, None])
        for role, mine in (("own", own), ("heldout", ~own))
    }
    key = STEP, "a", series.scope.first_space
    evidence = {**series.evidence, key: replace(series.evidence[key], losses=tables)}
    linear = {"a": {role: LossTable(each.ids, each.times, np.ones_like(each.values)) for role, each in tables.items()}}
    return replace(series, evidence=evidence, linear=linear)


def named(series: Series) -> dict[tuple[int, str], Named]:
    """Return the named list that is a condition, in every space."""
    found = {}
    for space in series.scope.judged_spaces:
        listed = listed_rows({"a": series.evidence[STEP, "a", space]}, series.lands(STEP, space), series, "gap")
        found[STEP, space] = Named(tuple((row["half"], row["id"]) for row in listed))
    return found


def answered(world: WorldAlone, losses: np.ndarray | None = None, with_controls: bool = False) -> dict[str, object]:
    """Return what the audit finds in a world: every finding by itself, the risk, and whether samples are released."""
    series, budgets = world.series(with_controls), Budgets()
    series = series if losses is None else with_losses(series, losses)
    tests = families.all_tests(series, world.deal.relabeling)
    references = measuring.smooth_references(series)
    lists = named(series)
    facts = measuring.step_facts(series, tests, references, lists, {STEP: ()}, np.empty((1, 0)))
    spaces = tuple(world.spaces)
    context = context_of(world, tests, references, budgets)
    judged = verdict.judge(facts[0], context, budgets)
    released = verdict.recommend(facts, context, budgets).status == "found"
    p = {space: tests.lean[STEP, space] for space in spaces}
    least = {space: min(each.gap_p_corrected, each.tail_p_corrected) for space, each in p.items()}
    return {
        "lean": min(each.gap_p_corrected for each in p.values()) <= ALARM,
        "tail": min(each.tail_p_corrected for each in p.values()) <= ALARM,
        "windows": min([1.0, *(each for space, each in least.items() if space in WINDOWS)]) <= ALARM,
        "losses": losses is not None and tests.loss[STEP].p_corrected <= ALARM,
        "named": any(each.images for each in lists.values()),
        "copies": min(each.p_corrected for each in facts[0].copying.values()) <= ALARM,
        "called biased": judged.risk == "biased",
        "called memorizing": judged.risk == "memorizing",
        "told not to be one deal": bool(context.not_exchangeable),
        "released": released,
        "why": [] if released else list(dict.fromkeys(map(condition, judged.reasons))),
    }


def context_of(world: WorldAlone, tests: families.SeriesTests, references: dict, budgets: Budgets) -> measuring.Context:
    """Return what holds for the whole run; its controls, which no sample enters, once for each deal."""
    key = "context", world.n_samples
    if key not in world.deal.made:
        nowhere = dict.fromkeys(world.spaces, NOWHERE)
        located = measuring.Located({STEP: ()}, [0], [STEP], NOWHERE, nowhere, NOWHERE)
        whole = world.series()
        found = measuring.context_of(whole, tests, world.deal.relabeling, references, located, budgets)
        world.deal.made[key] = found
    looked = halves.look_at(world.series(with_controls=False), tests, budgets)
    return replace(world.deal.made[key], not_the_halves=looked.wrong)


def difficulty(bank: Bank) -> np.ndarray:
    """Return a loss for every training image that does not know who was trained on it: larger for odd images."""
    near = bank.near("pixel")
    rows = bank.rows.of["train"]
    distance = near.distance[rows, 1].astype(float)  # itself is nearest
    score = np.log(distance) + np.random.default_rng(0).normal(0, 0.05, len(rows))
    return np.exp((score - score.mean()) / 4)
