"""Where a training stands, from the names that trainers give their files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from auditor.errors import AuditError
from auditor.records import UNITS, Found

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pkl")
MAX_ENTRIES = 200_000  # of folders listed in one search
MAX_DEPTH = 4
# The first that is found in the stem of a file names its progress; docs/formats.md lists them.
PROGRESS = (
    (re.compile(r"(?:^|[^a-z])(?:global_?step|step|iteration|iter)s?[-_=]?([0-9]+)", re.I), "step"),
    (re.compile(r"^network-snapshot-([0-9]{6,7})"), "kimg"),
    (re.compile(r"(?:^|[^a-z])kimg[-_=]?([0-9]+)", re.I), "kimg"),
    (re.compile(r"(?:^|[^a-z])(?:epoch|ep)[-_=]?([0-9]+)", re.I), "epoch"),
    (re.compile(r"^model-([0-9]+)$"), "milestone"),
    (re.compile(r"(?:^|[^0-9.=])([0-9]+)$"), "step"),
)
COPY = re.compile(r"-v[0-9]+$")  # Lightning's second file of one name
SHARD = re.compile(r"-[0-9]+-of-[0-9]+$")
# What trainers save beside the network.
NO_MODEL = re.compile(
    r"(?:optimizer|opt[0-9]*|scheduler|scaler|training_args|training[-_]state|random_states|rng_state).*"
)


def progress(stem: str) -> tuple[int, str]:
    """Return the number that a file's stem gives for the progress of training, and its unit; -1 where it gives none."""
    stem = COPY.sub("", stem)
    if SHARD.search(stem):
        return -1, "step"
    for pattern, unit in PROGRESS:
        if match := pattern.search(stem):
            return int(match[1]), unit
    return -1, "step"


def stem_of(path: Path) -> str:
    """Return the name without an accepted suffix: ``Model_500`` has none, and ``epoch=3-loss=0.25.ckpt`` one."""
    return path.name.removesuffix(path.suffix) if path.suffix in WEIGHT_SUFFIXES else path.name


def files(root: Path, depth: int = 0) -> Iterator[Path]:
    """Yield the files under ``root``, sorted, down to ``depth`` folders below; links to folders are not followed."""
    budget = [MAX_ENTRIES]
    yield from _files(root, depth, budget)


def _files(folder: Path, depth: int, budget: list[int]) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        listed = []
        for entry in entries:
            budget[0] -= 1
            if budget[0] < 0:
                raise AuditError(
                    f"The search stopped at {MAX_ENTRIES:,} files.", folder, "Give the folder of the checkpoints."
                )
            listed.append((entry.name, entry.is_dir(follow_symlinks=False)))
    for name, is_folder in sorted(listed):
        if name.startswith("."):
            continue
        if not is_folder:
            yield folder / name
        elif depth > 0:
            yield from _files(folder / name, depth - 1, budget)


def one_unit(found: Sequence[Found]) -> tuple[list[Found], list[tuple[int, Path, str]]]:
    """Return what is counted in the unit that most have (steps where that is equal), and the rest with reasons."""
    counts = Counter(one.unit for one in found)
    if len(counts) < 2:
        return list(found), []
    chosen = max(UNITS, key=lambda unit: counts[unit])  # the first of equals
    reason = "it is counted in {}, and most files here in " + UNITS[chosen]
    rest = [one for one in found if one.unit != chosen]
    return [one for one in found if one.unit == chosen], [
        (one.step, next(iter(one.paths.values())), reason.format(UNITS[one.unit])) for one in rest
    ]
