"""What all tasks of a plan share: where an artefact lies, under which key, and how a table of one is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from auditor.inputs.prepared import Prepared
from auditor.run import RunDirectory, tables
from auditor.stages.keys import Keys
from auditor.stages.task import Task, artefact


class Stages:
    """Carries out some kinds of task; what is expensive to make is kept for the next one."""

    def __init__(self, prepared: Prepared, run: RunDirectory, keys: Keys) -> None:
        self.prepared, self.run, self.keys = prepared, run, keys

    def target(self, task: Task) -> tuple[Any, Any, int | None]:
        """Return path, key and number of rows of what a task makes."""
        return artefact(self.prepared, self.run, self.keys, task.kind, task.of, task.space)

    def write(self, task: Task, columns: Any, data: Mapping[str, Any]) -> Iterator[int]:
        """Write the table that a task makes; no network is called."""
        path, key, _ = self.target(task)
        with self.run.artefact(path, key) as temporary:
            tables.write_here(temporary, columns, data)
        yield 0
