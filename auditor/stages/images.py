"""The images of a training set that are some sample's nearest or second nearest, for whoever reads the reports."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from auditor.inputs.asked import Asked
from auditor.run import RunDirectory, places, tables
from auditor.run.files import save_array
from auditor.stages import Cost, Item, Stage, Task, made_of, per_checkpoint
from auditor.stages.bench import Bench


class NeighborImages(Stage):
    """uint8 ``[n, h, w, c]``; the file beside it has the ids in the order of the rows."""

    name, word, per = "images", "images", "set"
    places = (places.IMAGES,)
    follows = True

    def wanted(self, asked: Asked) -> Iterator[tuple[str, str]]:
        """Yield the training sets, where there are samples."""
        if asked.scope.with_train and asked.scope.with_samples:
            yield from ((name, "") for name in asked.sets if name != "heldout")

    def needs(self, asked: Asked, of: str, space: str) -> Iterator[Item]:
        """Yield all evidence."""
        for each in per_checkpoint(asked):
            yield from (Item("evidence", each, name) for name in asked.scope.spaces)

    def key(self, asked: Asked, of: str, space: str) -> dict[str, Any]:
        """Return of which set they are; which of its images, the evidence says, and the key on disk as ``ids``."""
        return {"images": asked.sets[of].digest}

    def cost(self, asked: Asked, of: str, space: str, have: int) -> Cost:
        """Return the bytes of all images: any of them can be somebody's neighbor."""
        return Cost(bytes=asked.sets[of].images * math.prod(asked.image_shape))

    def found(self, run: RunDirectory, asked: Asked, of: str, space: str) -> dict[str, Any] | None:
        """Return the key on disk without the ids."""
        key = super().found(run, asked, of, space)
        return None if key is None else {name: value for name, value in key.items() if name != "ids"}

    def make(self, bench: Bench, task: Task) -> Iterator[int]:
        """Write the images in the order of their set."""
        whole, wanted = bench.loaded.sets[task.of], neighbors_in(bench.run, bench.asked, task.of)
        kept = [i for i, each in enumerate(whole.ids) if each in wanted]
        key = {"ids": [whole.ids[i] for i in kept], **self.key(bench.asked, task.of, "")}
        made = made_of(bench.run, bench.asked, task.item)
        with bench.run.artifact(bench.path(task.item), key, made) as temporary:
            save_array(temporary, whole.images[kept])
        yield 0


def neighbors_in(run: RunDirectory, asked: Asked, name: str) -> set[str]:
    """Return the ids of a training set's images that are nearest or second nearest to some sample in some space."""
    ids: set[str] = set()
    for of in per_checkpoint(asked):
        role = "own" if name == f"train-{of[0]}" else "other"
        for space in asked.scope.spaces:
            frame = tables.read(run.place(places.EVIDENCE, of, space), [f"{role}_id_1", f"{role}_id_2"])
            ids |= {each for column in frame for each in frame[column].unique()}
    return ids - {""}


STAGE = NeighborImages()
