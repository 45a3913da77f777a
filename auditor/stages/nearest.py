"""Evidence: one row per sample, with its nearest images of every set; measuring/reading.py reads it back.

Everything up to these tables may need a GPU; nothing after them does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from auditor.config import N_NEIGHBORS
from auditor.inputs.asked import Asked
from auditor.metrics.copies import by_second
from auditor.metrics.kid import heldout_term, seed_scores
from auditor.neighbors import paired_distance, search, shifted_distance
from auditor.records import Features, Neighbors, other_twin
from auditor.run import columns, places
from auditor.scope import control_names
from auditor.stages import Cost, Item, Stage, Task, cells, controls, features, halves, keys, stage
from auditor.stages.bench import Bench
from auditor.stages.classes import NO_CLASS
from auditor.stages.halves import (
    MEAN_OVER,
    Reference,
    cluster_sizes,
    in_pool,
    nearest_images,
    of_class,
    outside_distance,
)

REVISION = 3  # 2: calibrated and cluster-aware copies, cells and spacing; sets drawn, not cut off; 3: within classes
KID_HELDOUT = 5000  # held-out images that KID is taken against; its cost grows with their square


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
        data |= neighbor_columns(role, found)
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


def twin_columns(samples: Features, twin_samples: Features | None) -> dict[str, Any]:
    """Return how far the twin's samples are, of the same seed and of others; NaN without a twin or vectors."""
    if twin_samples is None or not samples.are_points:
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
        "kid_score": seed_scores(samples.vectors, features.subset(heldout, KID_HELDOUT).vectors, kid_term)
        if samples.are_points
        else np.full(len(samples.ids), np.nan),
    }


def kid_heldout_term(heldout: Features) -> float:
    """Return the part of KID that no sample enters."""
    return heldout_term(features.subset(heldout, KID_HELDOUT).vectors)


def unknown_columns(n: int) -> dict[str, Any]:
    """Return the neighbor columns of samples that nothing is known of."""
    unknown = [c for c in columns.EVIDENCE if c.name.startswith(("own_", "other_", "pool_"))]
    return blank(unknown, n) | {"memorized": np.zeros(n, dtype=bool)}


def blank(layout: Sequence[columns.Column], n: int) -> dict[str, Any]:
    """Return columns without values: NaN and the empty id."""
    return {c.name: [""] * n if c.type == "category" else np.full(n, np.nan) for c in layout}


def neighbor_columns(role: str, found: Neighbors) -> dict[str, Any]:
    """Return the id and distance columns of one search; absent ranks are NaN and the empty id."""
    data: dict[str, Any] = {}
    for j in columns.RANKS:
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
    for j in columns.RANKS:
        column = order[:, j - 1]
        rows = np.arange(len(order))
        data[f"pool_distance_{j}"] = distances[rows, column]
        data[f"pool_id_{j}"] = ids[rows, column]
        data[f"pool_role_{j}"] = role_of[column]
    return data


class SampleEvidence(Stage):
    """One row per seed, of one checkpoint in one space."""

    name, word, per = "evidence", "evidence", "checkpoint"
    places = (places.EVIDENCE,)
    by_space = True
    columns = columns.EVIDENCE
    made_from, among_sets, row_bytes = ("samples", "sample_features"), True, 400

    def needs(self, asked: Asked, of: str, space: str) -> Iterator[Item]:
        """Yield the samples, their features, those of the twin's samples and of every set."""
        yield from super().needs(asked, of, space)
        if paired(asked):
            yield Item("sample_features", twin_of(of), space)

    def key(self, asked: Asked, of: str, space: str) -> dict[str, Any]:
        """Return what determines the table; it holds the count, for different-seed distances use all seeds."""
        samples = stage("samples")
        return {
            "stage": "evidence",
            "revision": REVISION,
            "samples": keys.of_features(asked, space, samples.key(asked, of, "")),
            **({"twin_samples": samples.key(asked, twin_of(of), "")} if paired(asked) else {}),
            "n_samples": asked.n_samples,
            **keys.of_spread(asked, space),
            **keys.of_references(asked),
        }

    def rows(self, asked: Asked, of: str) -> int | None:
        """Return the number of pictures."""
        return asked.n_samples

    def cost(self, asked: Asked, of: str, space: str, have: int) -> Cost:
        """Return the bytes of the rows, and the distances to every image of every set."""
        n, known = self.rows(asked, of) or 0, sum(each.images for each in asked.sets.values())
        return Cost(bytes=self.row_bytes * n, compared=n * known)

    def make(self, bench: Bench, task: Task) -> Iterator[int]:
        """Search the nearest images of every sample."""
        asked, space = bench.asked, task.space
        heldout = features.of_heldout(bench, space)
        pictures = bench.array(Item("samples", task.of))[: asked.n_samples]
        drawn_as = bench.loaded.conditions.of(asked.seeds.tolist()) if bench.loaded.conditions else None
        data = sample_rows(
            samples=features.of_samples(bench, space, task.of),
            twin_samples=features.of_samples(bench, space, twin_of(task.of)) if paired(asked) else None,
            references=halves.by_role(bench, space, task.twin),
            heldout=heldout if space in asked.scope.compared_spaces else None,
            seeds=asked.seeds,
            saturated=saturated(pictures),
            kid_term=bench.once("kid", space, make=lambda: kid_heldout_term(heldout))
            if heldout is not None and heldout.are_points
            else None,
            classes=drawn_as if bench.loaded.facts.conditioning == "class" else None,
        )
        yield from bench.write_rows(task, data)


class ControlEvidence(SampleEvidence):
    """The same of a control that stands for a twin."""

    name, word, per = "control_evidence", "control-evidence", "control"

    def wanted(self, asked: Asked) -> Iterator[tuple[str, str]]:
        """Yield every control of every twin in every space."""
        for space in features.set_spaces(asked):
            yield from ((f"{name}-{twin}", space) for name in control_names(asked.scope) for twin in asked.scope.twins)

    def needs(self, asked: Asked, of: str, space: str) -> Iterator[Item]:
        """Yield the features of the control, of its twin, and of every set."""
        if not of.startswith("heldout"):
            twins = (of, of[:-1] + other_twin(of[-1])) if asked.scope.with_twin else (of,)
            yield from (Item("features", name, space) for name in twins)
        yield from (Item("features", name, space) for name in asked.sets)

    def key(self, asked: Asked, of: str, space: str) -> dict[str, Any]:
        """Return what determines the table: what does that of samples."""
        source = keys.image_set(asked, "heldout") if of.startswith("heldout") else controls.STAGE.key(asked, of, "")
        return {
            "stage": "evidence",
            "revision": REVISION,
            "samples": keys.of_features(asked, space, source),
            "of": of,
            **keys.of_references(asked),
            **({"images": self.compared(asked, of, space)} if space in asked.scope.distance_spaces else {}),
            "seed": asked.config.seed,
        }

    def compared(self, asked: Asked, of: str, space: str) -> int:
        """Return how many images of a control are compared with others in a space."""
        if of.startswith("heldout"):
            return asked.sets["heldout"].images // features.HELDOUT_FOLDS
        return controls.n_compared(of, space in asked.scope.distance_spaces)

    def cost(self, asked: Asked, of: str, space: str, have: int) -> Cost:
        """Return the bytes of the rows, and the distances to every image of every set."""
        n, known = self.compared(asked, of, space), sum(each.images for each in asked.sets.values())
        return Cost(bytes=self.row_bytes * n, compared=n * known)

    def rows(self, asked: Asked, of: str) -> None:
        """Return nothing: how many rows there are differs from space to space, and the key tells it."""

    def make(self, bench: Bench, task: Task) -> Iterator[int]:
        """Search the nearest images of every picture of the control."""
        twin = task.of[-1]
        mine = features.of_control(bench, task.space, task.of)
        twins = None
        if bench.asked.scope.with_twin:
            twins = features.of_control(bench, task.space, task.of[:-1] + other_twin(twin))
        references = halves.by_role(bench, task.space, twin)
        first = np.arange(self.compared(bench.asked, task.of, task.space))
        if len(first) < len(mine.ids):
            mine, twins = mine.rows(first), twins and twins.rows(first)
        yield from bench.write_rows(task, sample_rows(mine, twins, references, None, first))


def paired(asked: Asked) -> bool:
    """Tell whether samples of one seed can be compared with the twin's."""
    return asked.scope.with_twin and asked.pairs_samples


def twin_of(of: str) -> str:
    """Return twin/step of the other twin."""
    return f"{other_twin(of[0])}{of[1:]}"


def saturated(pictures: np.ndarray) -> np.ndarray:
    """Return the share of saturated pixels of each picture, float64 ``[n]``."""
    return np.array([float(((picture == 0) | (picture == 255)).mean()) for picture in pictures])


STAGE, CONTROL = SampleEvidence(), ControlEvidence()
