"""The plan of a run: what is on disk compared with what is asked, in an order that follows from what stages need.

Pure but for reading keys: nothing is made or removed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from auditor.errors import RunExists
from auditor.inputs.asked import Asked
from auditor.run import RunDirectory
from auditor.run.files import differences, n_rows
from auditor.stages import Cost, Item, Task, expected_key, made_of, stage, stages, step_of

ONCE = ("set", "control")  # stages of which nothing belongs to a step
SHOWN = 3  # differences of a key that a reason tells


def plan(asked: Asked, run: RunDirectory) -> list[Task]:
    """Return every artifact of the run in the order of making, each with what is to be done and why."""
    tasks = [plan_task(asked, run, item) for item in in_order(asked)]
    return following(asked, run, with_needed_transients(asked, run, tasks))


def in_order(asked: Asked) -> list[Item]:
    """Return every artifact that the run consists of: sets and controls, then step by step, each after what it needs.

    Within a step the questions to one network stand together, so that it is loaded once.
    """
    wanted = [Item(name, *each) for name, kind in stages().items() for each in kind.wanted(asked)]
    ordered: dict[Item, None] = {}
    known = set(wanted)

    def put(item: Item) -> None:
        if item in ordered:
            return
        for need in stage(item.stage).needs(asked, item.of, item.space):
            if need in known:
                put(need)
        ordered[item] = None

    for item in sorted(wanted, key=lambda each: rank(asked, each)):
        put(item)
    return list(ordered)


def rank(asked: Asked, item: Item) -> tuple[int, ...]:
    """Return where an artifact stands as far as needs leave it open."""
    kind, names = stage(item.stage), list(stages())
    space = asked.config.space_names.index(item.space) if item.space in asked.config.space_names else -1
    if kind.per in ONCE:
        late = any(stage(need.stage).per not in ONCE for need in kind.needs(asked, item.of, item.space))
        return (2 if late else 0, 0, 0, space, names.index(item.stage))
    step = asked.scope.steps.index(step_of(item.of))
    twin = asked.scope.twins.index(item.of[0]) if kind.network else len(asked.scope.twins)
    return (1, step, twin, space, names.index(item.stage))


def plan_task(asked: Asked, run: RunDirectory, item: Item) -> Task:
    """Compare one artifact on disk with what is asked."""
    kind, have = stage(item.stage), 0
    old, key = kind.found(run, asked, item.of, item.space), expected_key(asked, item)
    wrong = damage(asked, run, item) if old in (None, key) else ""
    rows = None if kind.columns else kind.rows(asked, item.of)
    files = [run.root / name for name in kind.files(item.of, item.space)]
    if wrong:
        action, reason = "make", f"damaged: {wrong}"
    elif old is None:
        action, reason = "make", "not there"
    elif old != key:
        action, reason = "remake", "; ".join(differences(old, key)[:SHOWN])
    elif any(run.key(each) != key for each in files[1:]):
        action, reason = "make", f"{next(each.name for each in files[1:] if run.key(each) != key)} is not there"
    elif rows is not None and n_rows(files[0]) < rows:
        have = n_rows(files[0])
        action, reason = "extend", f"{have} of {rows} rows are there"
    else:
        return Task(item, kind.word, "reuse", "up to date", Cost())
    return Task(item, kind.word, action, reason, kind.cost(asked, item.of, item.space, have))


def damage(asked: Asked, run: RunDirectory, item: Item) -> str:
    """Return what is wrong with the content of an artifact on disk, in a few words; empty where nothing is.

    Its files have other bytes than when they were made, or it was made from others than are there now.
    """
    files = [run.root / name for name in stage(item.stage).files(item.of, item.space)]
    wrong = next((said for said in map(run.damage, files) if said), "")
    others = [name for path in files if not wrong for name in run.other_sources(path)]
    return wrong or (f"it was made from another {others[0]}" if others else "")


def with_needed_transients(asked: Asked, run: RunDirectory, tasks: Sequence[Task]) -> list[Task]:
    """Return the plan in which files that were dropped are made again where something that needs them is to be made."""
    needed = needed_by_work(asked, tasks)
    found = []
    for task in tasks:
        kind = stage(task.item.stage)
        gone = [
            place.folder
            for place in kind.transient
            if is_gone(run, run.place(place, task.of, task.space), expected_key(asked, task.item))
        ]
        if task.action == "reuse" and gone and task.item in needed:
            cost = kind.cost(asked, task.of, task.space, 0)
            task = replace(task, action="make", reason=f"its {gone[0]} are needed", cost=cost)
        found.append(task)
    return found


def is_gone(run: RunDirectory, path: Path, key: dict[str, Any]) -> bool:
    """Return whether a file is not there whole and under this key."""
    return run.key(path) != key or bool(run.damage(path))


def needed_by_work(asked: Asked, tasks: Iterable[Task]) -> set[Item]:
    """Return what the artifacts that are to be made need."""
    todo = (task.item for task in tasks if task.action != "reuse")
    return {need for item in todo for need in stage(item.stage).needs(asked, item.of, item.space)}


def following(asked: Asked, run: RunDirectory, tasks: Sequence[Task]) -> list[Task]:
    """Return the plan in which what follows others is made again where these are, or have been since."""
    made = {task.item for task in tasks if task.action != "reuse"}
    found = []
    for task in tasks:
        kind = stage(task.item.stage)
        if kind.follows and task.action == "reuse":
            needs = set(kind.needs(asked, task.of, task.space))
            beside = run.beside(run.root / kind.files(task.of, task.space)[0])
            stale = beside is not None and beside.sha256 and beside.made_of != made_of(run, asked, task.item)
            if needs & made or stale:
                cost = kind.cost(asked, task.of, task.space, 0)
                task = replace(task, action="make", reason="what it shows is made anew", cost=cost)
        found.append(task)
    return found


def refuse_loss_of_work(tasks: Sequence[Task], run: RunDirectory, remake: bool) -> None:
    """Stop before finished network results would be thrown away, unless --remake says so."""
    lost = [task for task in tasks if task.action == "remake" and task.calls]
    if lost and not remake:
        raise RunExists(
            f"This command would discard {len(lost)} finished artefacts; the first is {lost[0].word} {lost[0].of} "
            f"({lost[0].reason}).",
            run.root,
            "Add --remake to make them anew, or choose another --out.",
        )
