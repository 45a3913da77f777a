"""Where a training stands, from the names that trainers give their files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from auditor.errors import AuditError
from auditor.records import UNITS, Found

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pkl")
MAX_ENTRIES = 200_000  # of folders listed in one search
MAX_DEPTH = 4
MAX_DIGITS = 15  # of a step
# The first that is found in the stem of a file names its progress; docs/formats.md lists them.
PROGRESS = (
    (re.compile(r"(?:^|[^a-z])(?:global_?step|step|iteration|iter)s?[-_=]?([0-9]+)", re.I), "step"),
    (re.compile(r"^(?:network-snapshot|phema|edm2-\w+-\w+)-([0-9]{6,7})(?![0-9])"), "kimg"),
    (re.compile(r"(?:^|[^a-z])kimg[-_=]?([0-9]+)", re.I), "kimg"),
    (re.compile(r"(?:^|[^a-z])(?:epoch|ep)[-_=]?([0-9]+)", re.I), "epoch"),
    (re.compile(r"^model-([0-9]+)$"), "milestone"),
    (re.compile(r"(?:^|[^0-9.=])([0-9]+)$"), "step"),
)
STEP_FOLDER = re.compile(r"(?:(?:checkpoint|step|epoch)[-_]?)?[0-9]+")
# Folders that are parts of a checkpoint or of a pipeline.
PARTS = ("unet", "unet_ema", "transformer", "transformer_ema", "vae", "vqvae", "text_encoder", "tokenizer", "scheduler")
COPY = re.compile(r"-v[0-9]+$")  # Lightning's second file of one name
SHARD = re.compile(r"-[0-9]+-of-[0-9]+$")
# What trainers save beside the network.
NO_MODEL = re.compile(
    r"(?:optimizer|opt[0-9]*|scheduler|scaler|training_args|training[-_]state|random_states|rng_state).*"
)
STATE_FOLDER = re.compile(r".*-state")  # kohya's, of what a training needs to go on


def progress(stem: str) -> tuple[int, str]:
    """Return the number that a file's stem gives for the progress of training, and its unit; -1 where it gives none."""
    stem = COPY.sub("", stem)
    if SHARD.search(stem):
        return -1, "step"
    for pattern, unit in PROGRESS:
        if match := pattern.search(stem):
            return number(match[1]), unit
    return -1, "step"


def number(digits: str) -> int:
    """Return a count of progress; -1 for more digits than any training counts, such as those of a date and a hash."""
    return int(digits) if len(digits) <= MAX_DIGITS else -1


def stem_of(path: Path) -> str:
    """Return the name without an accepted suffix: ``Model_500`` has none, and ``epoch=3-loss=0.25.ckpt`` one."""
    return path.name.removesuffix(path.suffix) if path.suffix in WEIGHT_SUFFIXES else path.name


def is_numbered(name: str) -> bool:
    """Whether a file without a suffix is called like a step: ``Model_500``, ``Model_epoch_3``."""
    return "." not in name and name.lower().startswith("model_") and progress(name)[0] >= 0


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds, sorted by name, without what is hidden."""
    with os.scandir(folder) as listed:
        return sorted((entry for entry in listed if not entry.name.startswith(".")), key=lambda entry: entry.name)


def series_folders(root: Path) -> list[Path]:
    """Return the folders below ``root`` that may each hold a series, by the names of files in them.

    Links to folders are not followed, and the search ends at MAX_ENTRIES files and MAX_DEPTH folders below.
    """
    found: dict[Path, None] = {}
    left = MAX_ENTRIES
    folders = [(root, 0)]
    while folders:
        folder, depth = folders.pop()
        try:
            listed = entries(folder)
        except OSError:
            continue  # unreadable: it cannot be audited
        left -= len(listed)
        if left < 0:
            what = f"The search for checkpoints stopped at {MAX_ENTRIES:,} files."
            raise AuditError(what, root, "Give the folder of the checkpoints.")
        is_pipeline = any(entry.name == "model_index.json" for entry in listed)  # its other folders are its components
        for entry in listed:
            if entry.is_dir(follow_symlinks=False):
                if depth < MAX_DEPTH and (not is_pipeline or STEP_FOLDER.fullmatch(entry.name)):
                    folders.append((folder / entry.name, depth + 1))
            elif _may_hold_weights(entry.name):
                found[_above_steps(folder, root)] = None
    return sorted(one for one in found if one != root)


def _may_hold_weights(name: str) -> bool:
    return name == "model_index.json" or os.path.splitext(name)[1] in WEIGHT_SUFFIXES or is_numbered(name)


def _above_steps(folder: Path, root: Path) -> Path:
    """Return the folder of the series that a folder with weights belongs to."""
    if folder != root and folder.name in PARTS:
        folder = folder.parent
    return folder.parent if folder != root and STEP_FOLDER.fullmatch(folder.name) else folder


def one_unit(found: Sequence[Found]) -> tuple[list[Found], list[tuple[int, Path, str]]]:
    """Return what is counted in the unit that most have (steps where that is equal), and the rest with reasons."""
    counts = Counter(one.unit for one in found)
    if len(counts) < 2:
        return list(found), []
    chosen = max(UNITS, key=lambda unit: counts[unit])  # the first of equals
    reason = "it is counted in {}, and most files here in " + UNITS[chosen]
    rest = [one for one in found if one.unit != chosen]
    return [one for one in found if one.unit == chosen], [
        (one.step, a_path(one), reason.format(UNITS[one.unit])) for one in rest
    ]


def a_path(found: Found) -> Path:
    """Return one of the paths of what was found."""
    return next(iter(found.paths.values()))
