"""How near samples come to each held-out image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from auditor.inputs.asked import Asked
from auditor.neighbors import search
from auditor.records import DECOYS, Features
from auditor.run.columns import HELDOUT_IMAGE, distance
from auditor.run.places import FilePlace
from auditor.stages import Stage, Task, features, nearest
from auditor.stages.bench import Bench

COVERAGE = (
    HELDOUT_IMAGE,
    distance("distance", "distance to the nearest sample, of at most as many as the smaller half has images"),
)


def coverage_rows(heldout: Features, samples: Features, n: int) -> dict[str, Any]:
    """Return how near the first ``n`` samples come to each held-out image."""
    few = replace(samples, vectors=samples.vectors[:n], ids=samples.ids[:n])
    return {"id": list(heldout.ids), "distance": search(heldout, few, 1).distances[:, 0]}


class Coverage(Stage):
    """One row per held-out image."""

    name, word, per = "coverage", "coverage", "checkpoint"
    places = (FilePlace("evidence", part=".coverage"),)
    by_space = True
    columns = COVERAGE
    made_from, among_sets, row_bytes = ("sample_features",), True, 8

    def applies(self, asked: Asked) -> bool:
        """Wherever there are held-out images."""
        return asked.scope.with_heldout

    def wanted(self, asked: Asked) -> Iterator[tuple[str, str]]:
        """Yield every checkpoint in the spaces where it is told how samples are spread."""
        yield from ((of, space) for of, space in super().wanted(asked) if space in asked.scope.compared_spaces)

    def rows(self, asked: Asked, of: str) -> int | None:
        """Return the number of held-out images."""
        return asked.sets["heldout"].images

    def key(self, asked: Asked, of: str, space: str) -> dict[str, Any]:
        """Return what determines the table: the same as the evidence of these samples."""
        return nearest.STAGE.key(asked, of, space)

    def make(self, bench: Bench, task: Task) -> Iterator[int]:
        """Search the nearest sample of each held-out image, among no more samples than a half has images."""
        pools = [mask for name, mask in bench.loaded.in_pool.items() if name != DECOYS]
        size = min((int(mask.sum()) for mask in pools), default=bench.asked.n_samples)
        n = min(bench.asked.n_samples, size)
        samples = features.of_samples(bench, task.space, task.of, n)
        yield from bench.write_rows(task, coverage_rows(features.of_set(bench, task.space, "heldout"), samples, n))


STAGE = Coverage()
