"""What the tasks of one process share: what was loaded, the run folder, the network in use, what is made once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from auditor import checkpoints
from auditor.diffusion.model import DiffusionModel
from auditor.inputs.asked import Asked
from auditor.inputs.loaded import Loaded
from auditor.run import RunDirectory, columns, tables
from auditor.run.files import drop_parts, part_path
from auditor.stages import Item, Task, expected_key, made_of, stage, step_of

T = TypeVar("T")


class Bench:
    """Where the tasks of one process are carried out."""

    def __init__(self, loaded: Loaded, run: RunDirectory) -> None:
        self.loaded, self.run = loaded, run
        self._network: tuple[str, DiffusionModel] | None = None
        self._made: dict[tuple[str, ...], Any] = {}

    @property
    def asked(self) -> Asked:
        """What the run was asked for."""
        return self.loaded.asked

    def network(self, of: str) -> DiffusionModel:
        """Return the model of ``twin/step``; the one in use stays loaded."""
        if self._network is None or self._network[0] != of:
            checkpoint = self.loaded.pair.series(of[0]).at(step_of(of))
            how = (self.asked.device, self.loaded.settings, self.loaded.pixels[of[0]])
            self._network = (of, checkpoints.load(checkpoint, self.asked.scheduler, *how))
        return self._network[1]

    def once(self, *name: str, make: Callable[[], T]) -> T:
        """Return what ``make`` returns, made once per name."""
        if name not in self._made:
            self._made[name] = make()
        made: T = self._made[name]
        return made

    def path(self, item: Item) -> Path:
        """Return where the first file of an artifact lies."""
        return self.run.root / stage(item.stage).files(item.of, item.space)[0]

    def array(self, item: Item) -> np.ndarray:
        """Return a finished array, memory-mapped."""
        values: np.ndarray = np.load(self.path(item), mmap_mode="r")
        return values

    def grow(self, task: Task, rows_at_once: int, compute: Callable[[range], np.ndarray]) -> Iterator[int]:
        """Make an array in batches that are files of their own until it is whole; yield the rows finished."""
        n = stage(task.item.stage).rows(self.asked, task.of)
        assert n is not None, f"an array knows its rows: {task.item}"
        made = made_of(self.run, self.asked, task.item)
        yield from self.run.build(
            self.path(task.item), expected_key(self.asked, task.item), n, rows_at_once, compute, made_of=made
        )

    def in_parts(
        self, task: Task, parts: range, compute: Callable[[range], np.ndarray]
    ) -> Generator[int, None, list[np.ndarray]]:
        """Compute the rows of a table in parts that survive a kill; yield finished calls, return the parts.

        ``compute(rows)`` returns one part, ``rows`` being as long as the step of ``parts``; calls are taken to spread
        evenly over them. :meth:`write` takes the parts away.
        """
        path, told, made = self.path(task.item), 0, made_of(self.run, self.asked, task.item)
        for done in self.run.make_parts(path, expected_key(self.asked, task.item), parts, compute, made):
            finished = task.calls * (done - parts.start) // (parts.stop - parts.start)
            yield finished - told
            told = finished
        return [np.load(part_path(path, start), mmap_mode="r") for start in parts]

    def write(self, task: Task, *data: Mapping[str, Any], columns: Sequence[Sequence[columns.Column]] = ()) -> None:
        """Write the tables of an artifact, ``data`` in the order of its files, the first one last; drop its parts."""
        made, key = made_of(self.run, self.asked, task.item), expected_key(self.asked, task.item)
        kind = stage(task.item.stage)
        layouts = columns or [kind.columns] * len(data)
        files = kind.files(task.of, task.space)
        for name, layout, values in reversed(list(zip(files, layouts, data, strict=True))):
            with self.run.artifact(self.run.root / name, key, made) as temporary:
                tables.write_here(temporary, layout, values)
        drop_parts(self.path(task.item))

    def write_rows(self, task: Task, data: Mapping[str, Any]) -> Iterator[int]:
        """Write the one table of an artifact that asks no network."""
        self.write(task, data)
        yield 0
