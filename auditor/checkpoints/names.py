"""Where a training stands, from the names that trainers give their files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from auditor.errors import AuditError
from auditor.records import UNITS, Found

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pkl")
MAX_ENTRIES = 200_000  # of folders listed in one search
MAX_DEPTH = 4
MAX_DIGITS = 15  # of a step
# The first that is found in the stem of a file names its progress; docs/formats.md lists them.
PROGRESS = (
    (re.compile(r"-save-([0-9]+)-[0-9]+-[0-9]+$"), "step"),  # OneTrainer: DATE_TIME-save-STEP-EPOCH-EPOCHSTEP
    (re.compile(r"^(?:network-snapshot|phema|edm2-\w+-\w+)-([0-9]{6,7})(?![0-9])"), "kimg"),
    (re.compile(r"(?:^|[^a-z])(?:global_?step|step|iteration|iter)s?[-_=]?([0-9]+[kKM]?)(?![0-9])", re.I), "step"),
    (re.compile(r"(?:^|[^a-z])kimg[-_=]?([0-9]+)", re.I), "kimg"),
    (re.compile(r"(?:^|[^a-z])(?:epoch|ep)[-_=]?([0-9]+)", re.I), "epoch"),
    (re.compile(r"^model-([0-9]+)$"), "milestone"),
    (re.compile(r"(?:^|[^0-9.=])([0-9]+)$"), "step"),
    (re.compile(r"(?:^|[-_ ])([0-9]+[kKM]?)(?=[-_ ]|$)"), "step"),
)
# Numbers in names that are no progress, whatever they are called: dates and times, sizes of pictures, decimals, and
# numbers that follow one of these words (diffusion steps, FIDs, rates).
NO_PROGRESS = (
    re.compile(
        r"(?<![0-9])(?:19|20)[0-9]{2}([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12][0-9]|3[01])"
        r"(?:[-_T ]+[0-2][0-9][-_.:h]?[0-5][0-9](?:[-_.:m]?[0-5][0-9])?)?(?![0-9])"
    ),
    re.compile(r"(?<![0-9])[0-9]+x[0-9]+(?:x[0-9]+)?(?![0-9])"),
    re.compile(r"(?<![0-9])[0-9]+px(?![a-z])", re.I),
    re.compile(r"[0-9]+e[-+][0-9]+", re.I),
    re.compile(
        r"(?<![a-z])(?:(?:diffusion|noise|noising|sampling|sample|inference|denoising|ddim|ddpm)[-_]?(?:time)?[-_]?steps?"
        r"|num[-_]?(?:train[-_]?)?(?:time)?steps|time[-_]?steps?|ddim|nfe|fid|kid|loss|lr|acc|psnr|ssim|mse|mae|rmse"
        r"|score|seed|fold|rank|gpus?|bs|batch(?:[-_]?size)?|dim|ch|channels|size|res|resolution|layers|depth|width|heads"
        r"|cfg|guidance|beta|sigma|dropout|wd|workers?)[-_=]?[0-9]+(?:\.[0-9]+)?",
        re.I,
    ),
)
RATE = re.compile(r"((?:ema|decay|rate|phema|beta)[-_=]?)([0-9]*\.[0-9]+)", re.I)  # tells averages of one step apart
DECIMAL = re.compile(r"(?<![0-9])[0-9]*\.[0-9]+(?![0-9])")
NUMBER = re.compile(r"([0-9]+)([kKM](?![A-Za-z]))?")
BEFORE = re.compile(r"(?:^|[^a-z])(global_?step|step|iteration|iter|it|s|kimg|epoch|ep|e)s?[-_=]?$", re.I)
AFTER = re.compile(r"^[-_ ]?(step|iteration|iter|it|kimg|epoch|ep)s?(?![a-z])(?![-_=]?[0-9])", re.I)
UNIT_OF = {"kimg": "kimg", "epoch": "epoch", "ep": "epoch", "e": "epoch"}  # the others are steps
THOUSANDS = {"k": 1_000, "K": 1_000, "M": 1_000_000}
LABELS = ("step", "kimg", "epoch", "")  # of numbers that agree in order the first counts
N_EXACT = 2  # of them are whole layouts of names: what their numbers mean is known
STEP_FOLDER = re.compile(
    r"(?:(?:checkpoint|ckpt|step|epoch|global_?step|iter)[-_=]?)?[0-9]+(?:\.(?:ckpt|pt|pth|dir))?|.*-save(?:-[0-9]+){3}",
    re.I,
)
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
    stem = without_others(stem)
    for pattern, unit in PROGRESS:
        if match := pattern.search(stem):
            digits = match[1].rstrip("kKM")
            return number(digits) * THOUSANDS.get(match[1][-1], 1) if number(digits) >= 0 else -1, unit
    return -1, "step"


def without_others(stem: str) -> str:
    """Return a stem in which numbers that are no progress are blanked; rates of averages and decimals stay."""
    for pattern in NO_PROGRESS:
        stem = pattern.sub(lambda found: re.sub("[0-9]", "#", found[0]), stem)
    return stem


class Slot(NamedTuple):
    """One of the numbers that vary among names that are otherwise alike."""

    label: str  # step, kimg, epoch, or nothing
    values: tuple[int, ...]
    shown: str


def of_series(stems: Sequence[str], stated: Mapping[str, int], times: Mapping[str, int]) -> dict[str, tuple[int, str]]:
    """Return the progress of every stem, and its unit, by one rule for all names of a series.

    Of names that differ in numbers only, the number that varies and never repeats is the progress. Of several,
    one that is called step, then kimg, then epoch, where they agree in their order; else the one that rises with what
    the files state of themselves, or with their times. Names that are alone are read by `progress`.

    Parameters
    ----------
    stems
        Of the files or folders of one series.
    stated, times
        What the headers say of the progress, and when the files were written, by stem, where that is known.

    Raises
    ------
    AuditError
        If two numbers remain, or none of several never repeats.
    """
    alike: dict[tuple[str, ...], list[str]] = {}
    for stem in dict.fromkeys(stems):
        alike.setdefault(tuple(_texts(stem)), []).append(stem)
    found = {stem: progress(stem) for stem in stems}
    for group in alike.values():
        if len(group) < 2 or all(any(known.search(stem) for known, _ in PROGRESS[:N_EXACT]) for stem in group):
            continue
        slots = _slots(group)
        kept = _progressing(slots, [stated.get(stem, -1) for stem in group], [times.get(stem, -1) for stem in group])
        if len(kept) != 1:
            if not slots:
                continue  # they differ in numbers that are no progress
            named = " and ".join(f"{slot.shown}" for slot in kept or slots)
            how = "may each be the progress" if kept else "repeat, or disagree in their order"
            what = f"In {', '.join(group[:3])} the numbers {named} {how}."
            raise AuditError(what, group[0], "Rename the files so that one number counts the training: step-500, say.")
        for stem, value in zip(group, kept[0].values, strict=True):
            label = kept[0].label
            milestone = progress(stem)[1] == "milestone" and "milestone"
            found[stem] = value, label or milestone or "step"
    return found


def _texts(stem: str) -> list[str]:
    """Return what stands between the numbers of a stem: equal for names of one series."""
    return NUMBER.sub("\0", DECIMAL.sub("\1", _told_by_rate(without_others(COPY.sub("", stem))))).split("\0")


def _told_by_rate(stem: str) -> str:
    """Return a stem whose rates of averages are no numbers any more: averages of two rates are two series."""
    return RATE.sub(lambda found: found[1] + found[2].translate(str.maketrans("0123456789.", "abcdefghij,")), stem)


def _slots(group: Sequence[str]) -> list[Slot]:
    """Return the numbers that vary among names and may be a progress."""
    texts = [DECIMAL.sub("\1", _told_by_rate(without_others(COPY.sub("", stem)))) for stem in group]
    matches = [list(NUMBER.finditer(text)) for text in texts]
    slots = []
    for at in zip(*matches, strict=True):
        values = tuple(number(one[1]) * THOUSANDS.get(one[2] or "", 1) for one in at)
        if len(set(values)) == 1 or min(values) < 0:
            continue
        before, after = texts[0][: at[0].start()], texts[0][at[0].end() :]
        label = BEFORE.search(before) or AFTER.search(after)
        word = label[1].lower() if label else ""
        shown = f"{word or 'number'} {', '.join(map(str, values[:3]))}"
        slots.append(Slot(UNIT_OF.get(word, "step") if word else "", values, shown))
    return slots


def _progressing(slots: Sequence[Slot], stated: Sequence[int], times: Sequence[int]) -> list[Slot]:
    """Return the numbers that may be the progress of a series: one, where the names or the files decide."""
    unique = [slot for slot in slots if len(set(slot.values)) == len(slot.values)]
    named = [slot for label in LABELS[:-1] for slot in unique if slot.label == label]
    counted = [slot for slot in slots if slot.label]
    # A step that falls while the epoch rises is counted within the epoch.
    broken = any(not rises(one.values, other.values, strictly=False) for one in counted for other in counted)
    if named and not broken:
        return named[:1]
    if named and [slot.label for slot in counted].count("epoch") == 1 and any(s.label == "epoch" for s in named):
        return [slot for slot in named if slot.label == "epoch"]
    if broken:
        return []
    if len(unique) > 1:
        for known in (stated, times):
            if len(set(known)) == len(known) and min(known) >= 0:
                by = [slot for slot in unique if rises(slot.values, known)]
                exact = [slot for slot in by if slot.values == tuple(known)]
                unique = exact or by or unique
    return unique


def rises(values: Sequence[int], other: Sequence[int], strictly: bool = True) -> bool:
    """Whether values rise with others; where ``strictly`` is false, equal ones of either may differ in the other."""
    ordered = sorted(zip(other, values, strict=True))
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(ordered)]
    return all((up > 0) if strictly else (up >= 0 or not by) for by, up in steps)


def number(digits: str) -> int:
    """Return a count of progress; -1 for more digits than any training counts, such as those of a date and a hash."""
    return int(digits) if len(digits) <= MAX_DIGITS else -1


def stem_of(path: Path) -> str:
    """Return the name without an accepted suffix: ``Model_500`` has none, and ``epoch=3-loss=0.25.ckpt`` one."""
    return path.name.removesuffix(path.suffix) if path.suffix in WEIGHT_SUFFIXES else path.name


def is_average(stem: str) -> bool:
    """Whether a file is called as averages are: ``ema_0.9999_010000``, ``nnet_ema``, ``ema1-200``."""
    return re.search(r"(?:^|[^a-z])ema(?![a-z])", stem, re.I) is not None


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
