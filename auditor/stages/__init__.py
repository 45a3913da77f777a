"""What a kind of evidence is: a *stage*. One file of this folder, and one line of the registry.

A stage says where its files lie, what it needs, what changes their bytes and what they cost, makes them in resumable
parts, and reads them back. The plan, the executor, the forecast, the reader, ``verify`` and the refusal to lose work go
through the registry and know no stage by name.

``of`` is an image set (``train-a``, ``heldout``), a control (``smooth-a``), or twin/step (``a/500``); stages that are
made once for both twins of a step have ``a/step``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from auditor import registry
from auditor.inputs.asked import Asked
from auditor.run import RunDirectory
from auditor.run.columns import Column
from auditor.run.files import as_json
from auditor.run.places import FilePlace

if TYPE_CHECKING:
    from auditor.stages.bench import Bench


class Item(NamedTuple):
    """One artifact: a stage by its name in the registry, what it is of, and its space where it has one."""

    stage: str
    of: str
    space: str = ""


@dataclass(frozen=True)
class Cost:
    """What an artifact still costs."""

    calls: int = 0  # of networks, at the run's batch size
    embedded: int = 0  # pictures that its space embeds
    compared: int = 0  # pairs of pictures whose distance in its space is asked for
    bytes: int = 0  # on disk, in the end
    parts: int = 0  # on disk, while it is made
    scratch: int = 0  # on disk, until what needs it is made


class Stage(ABC):
    """A kind of evidence."""

    name: ClassVar[str]  # in Python and the registry
    word: ClassVar[str]  # in the plan and run.json
    per: ClassVar[str]  # "set", "control", "checkpoint" or "step"
    places: ClassVar[tuple[FilePlace, ...]]  # of its files, the one whose key counts first
    columns: ClassVar[tuple[Column, ...]] = ()  # of its table; none where it writes an array
    made_from: ClassVar[tuple[str, ...]] = ()  # stages that it needs of the same checkpoint
    among_sets: ClassVar[bool] = False  # needs the features of every image set in its space
    row_bytes: ClassVar[int] = 0  # of a compressed row of its table, measured on the demo
    transient: ClassVar[tuple[FilePlace, ...]] = ()  # files that need not exist once all that needs them is up to date
    by_space: ClassVar[bool] = False  # its files lie in a folder per space
    network: ClassVar[bool] = False  # asks the network of one checkpoint
    alone: ClassVar[bool] = False  # depends on one training, so that the pairs of three or more share it
    follows: ClassVar[bool] = False  # the key does not say all: it is made again whenever what it needs was

    def applies(self, asked: Asked) -> bool:
        """Tell whether a run consists of it at all."""
        return True

    def wanted(self, asked: Asked) -> Iterator[tuple[str, str]]:
        """Yield ``of`` and space of every artifact that a run consists of: by default every checkpoint, or step."""
        ofs = per_step(asked) if self.per == "step" else per_checkpoint(asked)
        for of in ofs if self.applies(asked) else ():
            yield from ((of, space) for space in (asked.scope.spaces if self.by_space else ("",)))

    @abstractmethod
    def key(self, asked: Asked, of: str, space: str) -> dict[str, Any]:
        """Return everything that changes the bytes, readable as JSON, but the count by which an array can grow."""

    @abstractmethod
    def make(self, bench: Bench, task: Task) -> Iterator[int]:
        """Make an artifact, in resumable parts where networks are asked; yield the calls finished since the last."""

    def files(self, of: str, space: str = "") -> tuple[str, ...]:
        """Return everything it writes that stays, as paths within the run; the first one's key counts."""
        return tuple(place.file(of, space) for place in self.places)

    def needs(self, asked: Asked, of: str, space: str) -> Iterator[Item]:
        """Yield the artifacts that it is made from; by default ``made_from`` of the same, and features of the sets."""
        for name in self.made_from:
            yield Item(name, of, space if stage(name).by_space else "")
        yield from (Item("features", name, space) for name in (asked.sets if self.among_sets else ()))

    def rows(self, asked: Asked, of: str) -> int | None:
        """Return how many rows it has to have, None where only the key says; an array with fewer is extended."""
        return None

    def cost(self, asked: Asked, of: str, space: str, have: int) -> Cost:
        """Return what it still costs where ``have`` rows are there; by default the bytes of its rows."""
        return Cost(bytes=self.row_bytes * (self.rows(asked, of) or 0))

    def found(self, run: RunDirectory, asked: Asked, of: str, space: str) -> dict[str, Any] | None:
        """Return the key of what is on disk, None where nothing is; a stage may know an earlier layout of its files."""
        return run.key(run.root / self.files(of, space)[0])

    def read(self, run: RunDirectory, twin: str, step: int, space: str) -> dict[str, Any]:
        """Return what its files say of one twin at one step, as fields of ``records.Evidence``; nothing without files.

        What Evidence has no field for, it holds in ``more`` by the name of the stage.
        """
        return {}

    def resolved(self, asked: Asked) -> dict[str, Any]:
        """Return what run.json tells of its settings beside what was given."""
        return {}


@dataclass(frozen=True)
class Task:
    """One artifact of a run, what must be done for it, and why."""

    item: Item
    word: str  # what it is called in the plan
    action: str  # make, extend, reuse, remake
    reason: str
    cost: Cost

    @property
    def of(self) -> str:
        """An image set or a control, or twin/step."""
        return self.item.of

    @property
    def space(self) -> str:
        """The space; empty where there is none."""
        return self.item.space

    @property
    def calls(self) -> int:
        """Network calls it still needs."""
        return self.cost.calls

    @property
    def twin(self) -> str:
        """Twin of a checkpoint's task."""
        return self.of.split("/")[0]

    @property
    def step(self) -> int:
        """Step of a checkpoint's task."""
        return step_of(self.of)


def step_of(of: str) -> int:
    """Return the step of twin/step."""
    return int(of.split("/")[1])


@cache
def stage(name: str) -> Stage:
    """Return the stage called ``name``."""
    found: Stage = registry.lookup("stage", name)
    return found


def stages() -> Mapping[str, Stage]:
    """Return every stage by its name, in the order of the registry."""
    return {name: stage(name) for name in registry.STAGES}


def per_checkpoint(asked: Asked) -> Iterator[str]:
    """Yield every twin/step, step by step."""
    for step in asked.scope.steps:
        for twin in asked.scope.twins:
            yield f"{twin}/{step}"


def per_step(asked: Asked) -> Iterator[str]:
    """Yield a/step for every step."""
    for step in asked.scope.steps:
        yield f"a/{step}"


def expected_key(asked: Asked, item: Item) -> dict[str, Any]:
    """Return the key that an artifact should have, as it reads back from JSON."""
    key: dict[str, Any] = as_json(stage(item.stage).key(asked, item.of, item.space))
    return key


def made_of(run: RunDirectory, asked: Asked, item: Item) -> dict[str, str]:
    """Return the files that an artifact is made from, with their sha256 as they are now."""
    files: dict[str, str] = {}
    for need in stage(item.stage).needs(asked, item.of, item.space):
        needed = stage(need.stage)
        transient = [place.file(need.of, need.space) for place in needed.transient]
        files |= run.digests([*needed.files(need.of, need.space), *transient])
    return files
