"""Precision, recall, density, coverage and Fréchet distance: from features to scores per block of seeds.

They compare every sample with every image, so they are computed once, with the evidence;
what is stored can be given an interval without the features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from auditor.inputs.asked import Asked
from auditor.neighbors import search
from auditor.records import Features
from auditor.run import RunDirectory, tables
from auditor.run.columns import Column
from auditor.run.places import FilePlace
from auditor.stages import Stage, Task, features, halves, stage
from auditor.stages.bench import Bench
from auditor.stages.features import drawn

K = 5  # neighbors that make a radius; Naeem et al. 2020
MOST = 2000  # images of each set, and samples, that are compared
N_BLOCKS = 20  # blocks of seeds that are left out in turn
LOOKED_AT = 32  # neighbors among which the radius without a block is found
STATISTICS = ("precision", "recall", "density", "coverage")

QUALITY = (
    Column("set", "category", "what samples are compared with: own, other or heldout"),
    Column("statistic", "category", "precision, recall, density, coverage or frechet"),
    Column("block", "int64", "block of seeds"),
    Column("score", "float64", "linearised share of this block; the mean over blocks is the value"),
)


@dataclass(frozen=True)
class Target:
    """A set of images that samples are compared with, and each image's radius."""

    features: Features
    rows: np.ndarray  # int64 [n], distinct images of the set, drawn by the set's size alone
    radii: np.ndarray  # float64 [n], distance to the fifth nearest other of them; NaN if there are fewer

    @property
    def vectors(self) -> np.ndarray:
        """The vectors of the images, float32 ``[n, d]``."""
        return np.asarray(self.features.vectors[self.rows])


def targets(sets: Mapping[str, Features]) -> dict[str, Target]:
    """Return the sets to compare with, all of one size: radii shrink as a set grows.

    Of equal vectors one is kept, because five duplicates have radius 0 and would turn
    away their own copies.
    """
    rows = {name: distinct(each, MOST) for name, each in sets.items()}
    n = min(map(len, rows.values()))
    return {name: target(each, rows[name][:n]) for name, each in sets.items()}


def distinct(features: Features, most: int) -> np.ndarray:
    """Return at most ``most`` rows with different vectors."""
    seen: dict[bytes, int] = {}
    for row in drawn(len(features.ids), len(features.ids)):
        seen.setdefault(features.vectors[row].tobytes(), int(row))
        if len(seen) == most:
            break
    return np.array(list(seen.values()), dtype=np.int64)


def target(features: Features, rows: np.ndarray) -> Target:
    """Return these rows of a set with their radii."""
    chosen = numbered(features, features.vectors[rows])
    return Target(features, rows, search(chosen, chosen, K, exclude_self=True).distances[:, K - 1].astype(float))


def numbered(features: Features, vectors: np.ndarray) -> Features:
    """Return vectors of a space with their numbers as ids."""
    return Features(features.space, features.of, np.asarray(vectors), tuple(map(str, range(len(vectors)))))


def fidelity(samples: Features, against: Mapping[str, Target]) -> dict[str, dict[str, np.ndarray]]:
    """Return by set and statistic the scores per block of seeds, float64 ``[n_blocks]``; their mean is the value."""
    few = numbered(samples, samples.vectors[:MOST])
    blocks = blocks_of(len(few.ids))
    radii = radii_without_blocks(few, blocks)
    return {name: of_one_set(few.vectors, radii, blocks, each) for name, each in against.items()}


def blocks_of(n: int) -> np.ndarray:
    """Return the block of each seed, int64 ``[n]``: equal runs of seeds."""
    return np.arange(n) * min(N_BLOCKS, n) // n


def radii_without_blocks(samples: Features, blocks: np.ndarray) -> np.ndarray:
    """Return each sample's radius without each block, and last with all, float64 ``[n_blocks + 1, n]``.

    Where the neighbors looked at do not hold five outside the block, the last known of
    them stands for it, which it does not exceed; NaN where there are not five others.
    """
    found = search(samples, samples, LOOKED_AT, exclude_self=True)
    known = ~np.isnan(found.distances)
    radii = np.empty((blocks.max() + 2, len(blocks)))
    for b in range(len(radii)):
        outside = known & (blocks[found.indices] != b)
        position = (np.cumsum(outside, axis=1) == K).argmax(axis=1)
        enough = outside.sum(axis=1) >= K
        radii[b] = found.distances[np.arange(len(blocks)), np.where(enough, position, LOOKED_AT - 1)]
    return radii


def of_one_set(samples: np.ndarray, radii: np.ndarray, blocks: np.ndarray, against: Target) -> dict[str, np.ndarray]:
    """Return the scores per block of every statistic against one set.

    A sample is within an image's radius, or the image within the sample's, if it is
    strictly nearer: an image of radius 0 has nothing within it.
    """
    squared = squared_distances(samples, against.vectors)
    n_blocks, images = blocks.max() + 1, len(against.rows)
    if images <= K or np.isnan(radii).any():
        return {name: np.full(n_blocks, np.nan) for name in STATISTICS}
    hits = squared < (against.radii**2).astype(np.float32)  # [samples, images]
    starts = np.flatnonzero(np.diff(blocks, prepend=-1))
    reached = np.logical_or.reduceat(hits, starts, axis=0)  # [blocks, images]
    n_reaching = reached.sum(axis=0)
    reach2 = (radii**2).astype(np.float32)
    recalled = [(squared < reach2[b][:, None])[blocks != b].any(axis=0).mean() for b in range(n_blocks + 1)]
    return {
        "precision": of_means(hits.any(axis=1).astype(float), blocks),
        "recall": linearized(recalled[-1], np.array(recalled[:-1])),
        "density": of_means(hits.sum(axis=1) / K, blocks),
        "coverage": linearized((n_reaching > 0).mean(), (n_reaching - reached > 0).mean(axis=1)),
    }


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return squared distances of all pairs, float32 ``[len(x), len(y)]``; centered, so that rounding stays small."""
    center = y.mean(axis=0, dtype=np.float64).astype(np.float32)
    x, y = x - center, y - center
    squared = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1) - 2 * (x @ y.T)
    values: np.ndarray = np.maximum(squared, 0, out=squared)
    return values


def of_means(values: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Return the scores per block of a mean over seeds."""
    sums, sizes = np.bincount(blocks, values), np.bincount(blocks)
    if len(sums) == 1:
        return np.array([values.mean()])
    return linearized(values.mean(), (values.sum() - sums) / (len(values) - sizes))


def linearized(whole: float, left_out: np.ndarray) -> np.ndarray:
    """Return theta + (B - 1) (mean theta_-b - theta_-b): the mean is theta, the spread the jackknife's."""
    values: np.ndarray = whole + (len(left_out) - 1) * (left_out.mean() - left_out)
    return values


def frechet(samples: np.ndarray, heldout: np.ndarray) -> float:
    """Return ||m1 - m2||^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)); NaN where a covariance has no full rank.

    The trace of the root is that of the symmetric (S2^(1/2) S1 S2^(1/2))^(1/2), whose
    eigenvalues are real: no imaginary part has to be thrown away.
    """
    if min(len(samples), len(heldout)) <= samples.shape[1]:
        return float("nan")
    means = [x.mean(axis=0, dtype=np.float64) for x in (samples, heldout)]
    first, second = (np.atleast_2d(np.cov(x.astype(np.float64), rowvar=False)) for x in (samples, heldout))
    values, vectors = np.linalg.eigh(second)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    product = np.linalg.eigvalsh(root @ first @ root)
    trace = np.trace(first) + np.trace(second) - 2 * np.sqrt(np.clip(product, 0, None)).sum()
    return float(max(0.0, np.sum((means[0] - means[1]) ** 2) + trace))


def rows(samples: Features, against: Mapping[str, Target], heldout: Features | None) -> dict[str, Any]:
    """Return the columns of the quality table of one checkpoint: one row per set, statistic and block of seeds."""
    columns: dict[str, list[Any]] = {"set": [], "statistic": [], "block": [], "score": []}
    found = fidelity(samples, against)
    if heldout is not None:
        found["heldout"]["frechet"] = np.array([frechet(samples.vectors, heldout.vectors)])
    for name, statistics in found.items():
        for statistic, scores in statistics.items():
            columns["set"] += [name] * len(scores)
            columns["statistic"] += [statistic] * len(scores)
            columns["block"] += range(len(scores))
            columns["score"] += scores.tolist()
    return columns


class Quality(Stage):
    """One row per image set, statistic and block of seeds."""

    name, word, per = "quality", "quality", "checkpoint"
    places = (FilePlace("evidence", part=".quality"),)
    by_space = True
    columns = QUALITY
    made_from, among_sets = ("sample_features",), True

    def applies(self, asked: Asked) -> bool:
        """Wherever there is a set to compare with."""
        return bool(asked.sets)

    def wanted(self, asked: Asked) -> Iterator[tuple[str, str]]:
        """Yield every checkpoint in the spaces that have vectors."""
        yield from ((of, space) for of, space in super().wanted(asked) if space in asked.scope.vector_spaces)

    def key(self, asked: Asked, of: str, space: str) -> dict[str, Any]:
        """Return what determines the table: the same as the evidence of these samples."""
        return stage("evidence").key(asked, of, space)

    def make(self, bench: Bench, task: Task) -> Iterator[int]:
        """Compare the samples of one checkpoint with every set."""
        roles, heldout = bench.loaded.roles(task.twin), features.of_heldout(bench, task.space)
        known = bench.once("targets", task.space, make=lambda: set_targets(bench, task.space))
        against = {roles[name]: each for name, each in known.items()}
        yield from bench.write_rows(task, rows(features.of_samples(bench, task.space, task.of), against, heldout))

    def read(self, run: RunDirectory, twin: str, step: int, space: str) -> dict[str, Any]:
        """Return by role the scores per block of every statistic: own_quality, other_quality, heldout_quality."""
        data = tables.arrays(run.place(self.places[0], f"{twin}/{step}", space), ["set", "statistic", "score"])
        found: dict[str, dict[str, np.ndarray]] = {}
        for where, name, statistic in tables.runs_of(data["set"], data["statistic"]):
            found.setdefault(f"{name}_quality", {})[statistic] = data["score"][where]
        return found


def set_targets(bench: Bench, space: str) -> dict[str, Target]:
    """Return the image sets of one space with their radii."""
    trained = [name for name in bench.asked.sets_asked_about if name != "heldout"]
    sets = {name: halves.of_half(bench, space, name).pool for name in trained}
    heldout = features.of_heldout(bench, space)
    return targets(sets if heldout is None else sets | {"heldout": heldout})


STAGE = Quality()
