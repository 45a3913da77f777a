"""Series of checkpoints as trainers write them, and what a user must say of each."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from auditor.checkpoints import ModelSettings, discover
from auditor.records import Checkpoint

FACTORY = "trained:TinyNet"
SHAPE = (8, 8, 1)


@dataclass(frozen=True)
class Case:
    """One format: a series that its trainer wrote, and what a user must say of it."""

    root: Path
    settings: ModelSettings = field(default_factory=ModelSettings)
    scheduler: str | None = None
    steps: tuple[int, ...] = (2, 4)
    unit: str = "step"
    kinds: tuple[str, ...] = ("raw",)
    shape: tuple[int, int, int] = SHAPE


def copied(source: Path, to: Path) -> Path:
    return Path(shutil.copytree(source, to))


def checkpoint_of(name: str, case: Case, at: int = 0, kind: str | None = None) -> Checkpoint:
    found = discover(case.root, "a", case.settings).found[at]
    kind = kind or next(iter(found.paths))
    return Checkpoint("a", found.step, found.paths[kind], name, kind, found.scheduler, unit=found.unit)
