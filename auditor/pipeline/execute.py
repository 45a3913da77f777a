"""Carries out the tasks of a plan in its order: those that ask networks, and those that compare features."""

from __future__ import annotations

import time
from pathlib import Path

from auditor.errors import CheckpointError
from auditor.inputs.prepared import Prepared, Say
from auditor.records import Excluded
from auditor.run import RunDirectory
from auditor.stages.bench import Asking
from auditor.stages.features import Comparing
from auditor.stages.keys import Keys
from auditor.stages.task import Task


class Executor:
    """Carries out the tasks of a plan; knows how long each kind took, and which checkpoints failed."""

    def __init__(self, prepared: Prepared, run: RunDirectory, say: Say) -> None:
        self.prepared, self.say = prepared, say
        keys = Keys(prepared)
        self.asking, self.comparing = Asking(prepared, run, keys), Comparing(prepared, run, keys)
        self.seconds: dict[str, float] = {}
        self.failed: dict[int, Excluded] = {}  # checkpoints that turned out unusable, by step

    def execute(self, tasks: list[Task]) -> None:
        """Do what is not up to date, in the order given; a checkpoint that fails is left out, the rest goes on."""
        work = self.asking.work | self.comparing.work
        todo = [task for task in tasks if task.action != "reuse"]
        for number, task in enumerate(todo, 1):
            if "/" in task.of and task.step in self.failed:
                continue
            where = f"{task.of} in {task.space}" if task.space else task.of
            label = f"{task.kind.replace('-', ' ')} of {where} ({number} of {len(todo)})"
            self.say(label, 0)
            started = time.perf_counter()
            try:
                for calls in work[task.kind](task):
                    self.say(label, calls)
            except CheckpointError as error:
                self.failed[task.step] = Excluded(task.twin, task.step, self._path(task), error.what)
            self.seconds[task.kind] = self.seconds.get(task.kind, 0.0) + time.perf_counter() - started

    def _path(self, task: Task) -> Path:
        return self.prepared.pair.series(task.twin).at(task.step).path
