"""Carries out the tasks of a plan in its order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from auditor.errors import AuditError, CheckpointError
from auditor.inputs import checkpoint_digests
from auditor.inputs.loaded import Loaded, Say
from auditor.pipeline.plan import plan_task
from auditor.records import TWINS, CheckpointSeries, Excluded, TwinPair
from auditor.stages import Item, Task, stage
from auditor.stages.bench import Bench


class Executor:
    """Carries out the tasks of a plan; knows how long each kind took. A checkpoint that fails leaves the audit."""

    def __init__(self, bench: Bench, say: Say) -> None:
        self.bench, self.say = bench, say
        self.seconds: dict[str, float] = {}

    def execute(self, tasks: Sequence[Task], before_networks: Callable[[], None] = lambda: None) -> None:
        """Do what is not up to date, in the order given; a checkpoint that fails is left out, the rest goes on.

        ``before_networks`` is called once sets and controls are made, before anything of a checkpoint is.
        """
        n_todo, number = sum(task.action != "reuse" for task in tasks), 0
        made: set[Item] = set()
        told = not any("/" in task.of and task.action != "reuse" for task in tasks)
        for each in tasks:
            task = self._now(each, made)
            if task.action == "reuse":
                continue
            number, n_todo = number + 1, n_todo + (each.action == "reuse")
            if not told and "/" in task.of:
                told = True
                before_networks()
            if "/" in task.of and task.step not in self.bench.asked.scope.steps:
                continue
            made.add(task.item)
            self._clear(task)
            where = f"{task.of} in {task.space}" if task.space else task.of
            label = f"{task.word.replace('-', ' ')} of {where} ({number} of {n_todo})"
            self.say(label, 0)
            started = time.perf_counter()
            try:
                for calls in stage(task.item.stage).make(self.bench, task):
                    self.say(label, calls)
            except CheckpointError as error:
                failed = Excluded(task.twin, task.step, self._path(task), error.what)
                self.bench.loaded = without(self.bench.loaded, failed)
            self.seconds[task.word] = self.seconds.get(task.word, 0.0) + time.perf_counter() - started

    def _now(self, task: Task, made: set[Item]) -> Task:
        """Return a task as it stands: what was up to date is not where what it is made from came out otherwise."""
        kind, asked = stage(task.item.stage), self.bench.asked
        if task.action != "reuse" or made.isdisjoint(kind.needs(asked, task.of, task.space)):
            return task
        return plan_task(asked, self.bench.run, task.item)

    def _clear(self, task: Task) -> None:
        """Remove the files of an artifact that are damaged, so that nothing is taken from them."""
        run, kind = self.bench.run, stage(task.item.stage)
        places = [place.file(task.of, task.space) for place in kind.transient]
        for name in (*kind.files(task.of, task.space), *places):
            if run.damage(run.root / name) or run.other_sources(run.root / name):
                run.drop(run.root / name)

    def _path(self, task: Task) -> Path:
        return self.bench.loaded.pair.series(task.twin).at(task.step).path


def without(loaded: Loaded, failed: Excluded) -> Loaded:
    """Return the audit without the step at which a checkpoint failed in use, in both twins, with the reasons.

    Raises
    ------
    AuditError
        If no step is left.
    """
    pair, series, excluded = loaded.pair, {}, [*loaded.pair.excluded, failed]
    for twin in TWINS:
        kept = tuple(c for c in pair.series(twin).checkpoints if c.step != failed.step)
        series[twin] = CheckpointSeries(twin, kept)
        excluded += [
            Excluded(twin, c.step, c.path, "the twin's checkpoint of this step is not usable")
            for c in pair.series(twin).checkpoints
            if c.step == failed.step and twin != failed.twin
        ]
    if not series["a"].checkpoints:
        raise AuditError(f"No checkpoint can be audited: {failed.reason}.", failed.path, "Look at the training.")
    left = TwinPair(series["a"], series["b"], tuple(excluded), pair.weights)
    scope = replace(loaded.asked.scope, steps=left.steps)
    asked = replace(loaded.asked, scope=scope, checkpoints=checkpoint_digests(left))
    return replace(loaded, pair=left, asked=asked)
