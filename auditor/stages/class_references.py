"""How much a model that memorizes nothing leans within each class: a Gaussian per class and half (3.9)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from auditor import spaces
from auditor.diffusion.gaussian import fit
from auditor.inputs.asked import Asked
from auditor.metrics import closer
from auditor.neighbors import search
from auditor.records import TWINS, Features
from auditor.run import RunDirectory, tables
from auditor.run.columns import Column
from auditor.run.places import FilePlace
from auditor.seeds import derived_seed
from auditor.stages import Cost, Stage, Task, features, halves, keys
from auditor.stages.bench import Bench
from auditor.stages.classes import NO_CLASS, counted_classes
from auditor.stages.controls import smooth_images

REVISION = 1
ALL_CLASSES = 4000  # images per half, shared among the classes
LEAST, MOST = 40, 400  # of one class
PER_CLASS = (
    Column("class", "int64", "number of the class"),
    Column("images", "int64", "images of either half that a Gaussian was fitted to"),
    Column("n", "int64", "images drawn from each of both Gaussians, from the same noise"),
    Column("own_share", "float64", "share of them nearer to the half that theirs was fitted to, within the class"),
    Column("se", "float64", "its standard error over these images"),
)


def drawn_per_class(n_classes: int) -> int:
    """Return how many images of one class are drawn per half."""
    return max(LEAST, min(MOST, ALL_CLASSES // max(n_classes, 1)))


def share_of_pairs(in_a: np.ndarray, twin_in_a: np.ndarray) -> tuple[float, float]:
    """Return own_share of two models from what of each is nearer to half a, and its standard error over pairs."""
    e = in_a - twin_in_a
    return float(0.5 + e.mean() / 2), float(np.sqrt(e.var() / (4 * len(e))))


class ClassReferences(Stage):
    """One row per class that samples are compared within, in one space."""

    name, word, per = "class_references", "class-references", "set"
    places = (FilePlace("evidence", part=".classes"),)
    by_space, among_sets = True, True
    columns = PER_CLASS

    def applies(self, asked: Asked) -> bool:
        """Wherever samples are drawn by class and the classes of both halves are known."""
        known = all(name in asked.sets and asked.sets[name].classes for name in ("train-a", "train-b"))
        return asked.scope.with_lean and asked.scope.with_samples and known

    def wanted(self, asked: Asked) -> Iterator[tuple[str, str]]:
        """Yield the pool in every space."""
        yield from (("pool", space) for space in features.set_spaces(asked) if self.applies(asked))

    def key(self, asked: Asked, of: str, space: str) -> dict[str, Any]:
        """Return what determines the table."""
        return {
            "stage": "class references",
            "revision": REVISION,
            "space": keys.of_features(asked, space, {}),
            "seed": asked.config.seed,
            **keys.of_references(asked),
        }

    def cost(self, asked: Asked, of: str, space: str, have: int) -> Cost:
        """Return how many pictures are embedded, as long as there are no more than a hundred classes."""
        return Cost(embedded=len(TWINS) * ALL_CLASSES)

    def make(self, bench: Bench, task: Task) -> Iterator[int]:
        """Fit, draw, embed and compare, class by class."""
        trained = halves.by_half(bench, task.space)
        counted = {
            twin: np.full(len(each.in_pool), NO_CLASS)
            if each.classes is None or each.in_class_pool is None
            else counted_classes(each.classes, each.in_class_pool)
            for twin, each in trained.items()
        }
        numbers = np.unique(counted["a"][counted["a"] != NO_CLASS])
        rows = []
        for number in numbers:
            members = {twin: np.flatnonzero(each == number) for twin, each in counted.items()}
            n = drawn_per_class(len(numbers))
            references = {twin: trained[twin].features.rows(members[twin]) for twin in TWINS}
            in_a = {twin: in_half_a(self.drawn(bench, task, twin, members[twin], n), references) for twin in TWINS}
            share, se = share_of_pairs(in_a["a"], in_a["b"])
            row = {"class": int(number), "images": len(members["a"]), "n": n, "own_share": share, "se": se}
            rows.append(row)
        yield from bench.write_rows(task, {c.name: [row[c.name] for row in rows] for c in PER_CLASS})

    def drawn(self, bench: Bench, task: Task, twin: str, members: np.ndarray, n: int) -> Features:
        """Return the features of n images of a Gaussian fitted to some images of a half."""
        gaussian = fit(bench.loaded.sets[f"train-{twin}"].images[members])
        seed = derived_seed("class reference", bench.asked.config.seed)
        pictures = smooth_images(gaussian, range(n), bench.asked.image_shape, seed)
        space = bench.loaded.spaces[task.space]
        vectors = spaces.embed(space, pictures, features.EMBEDDED_AT_ONCE)
        return spaces.features(space, f"class-{twin}", vectors, tuple(map(str, range(n))), pictures)


def read_table(run: RunDirectory, space: str) -> dict[str, np.ndarray]:
    """Return the columns of the table in a space, by name; empty where there is none, as in runs from before it."""
    path = run.place(STAGE.places[0], "pool", space)
    found = tables.arrays(path) if path.is_file() else {c.name: np.empty(0) for c in PER_CLASS}
    return dict(found)


def in_half_a(queries: Features, references: dict[str, Features]) -> np.ndarray:
    """Return which pictures are nearer to half a: 1, 0, or 1/2 on ties; float64 ``[n]``."""
    return closer(*(search(queries, references[twin], 1).distances[:, 0] for twin in TWINS))


STAGE = ClassReferences()
