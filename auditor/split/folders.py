"""``audit split --for TRAINER``: each half as the folder that a trainer reads, with captions and configuration.

Pictures get numbers for names: some trainers read names. Files that every trainer reads are linked (copied where the
disk differs); all others, and what lies in arrays and archives, are written as PNG. Configurations stand in
``trainers.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from auditor.errors import AuditError
from auditor.images.sources import suffix_of
from auditor.split import Split, sets_of
from auditor.split.trainers import SEVERAL_LINES, STARTED, TRAINERS, Half

LINKED = (".png", ".jpg", ".jpeg", ".webp")  # read by every trainer below


def write(done: Split, out: Path) -> tuple[list[str], list[str]]:
    """Write ``train-a``, ``train-b`` and their configurations; return where each image lies and what is to be said.

    Nothing is left behind where something fails.
    """
    trainer = str(done.options.trainer)
    repeats = done.items.repeats or (1.0,) * len(done.items)
    inside = folders(done, repeats)
    trained = sets_of(done.options)[:-1]
    halves = [
        Half(name, out.resolve(), dict(sorted(of_half.items())), bool(done.items.captions))
        for name, of_half in (
            (name, {inside[row]: repeats[row] for row in np.flatnonzero(done.of == name)}) for name in trained
        )
    ]
    files = {name: content for half in halves for name, content in TRAINERS[trainer](half).items()}
    out.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".folders-", dir=out))
    try:
        written = write_pictures(done, temporary, inside)
        if trainer == "diffusers":
            write_metadata(done, temporary, written)
        else:
            write_captions(done, temporary, written)
        for name, content in files.items():
            (temporary / name).write_text(content, encoding="utf-8")
        for name in (*trained, *files):
            os.replace(temporary / name, out / name)
    except OSError as error:
        said = f"The folders cannot be written: {error.strerror}"
        raise AuditError(said, error.filename or out, "Free some space, or give another --out.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return written, notes(done, list(files))


# Pictures and captions


def folders(done: Split, repeats: Sequence[float]) -> list[str]:
    """Return the folder of each image, relative to that of the split; those of one number of repeats lie together."""
    flat = done.options.trainer == "diffusers"
    return [str(of) if flat else f"{of}/{each:g}_images" for of, each in zip(done.of, repeats, strict=True)]


def write_pictures(done: Split, root: Path, inside: Sequence[str]) -> list[str]:
    """Write the pictures of both halves; return the place of each image, "" of held-out ones."""
    source, digits = done.items.source, len(str(len(done.items)))
    written, decoded = [""] * len(done.items), []
    for row in map(int, np.flatnonzero(done.of != "heldout")):
        (root / inside[row]).mkdir(parents=True, exist_ok=True)
        path, within = source.origin(row) if source.origin else ("", "")
        as_it_is = bool(path) and not within and not done.options.window and suffix_of(path) in LINKED
        written[row] = f"{inside[row]}/{row + 1:0{digits}}{suffix_of(path) if as_it_is else '.png'}"
        if as_it_is:
            link(os.path.realpath(path), root / written[row])
        else:
            decoded.append(row)
    for row, picture in zip(decoded, source.pictures(decoded, Counter()), strict=True):
        picture.save(root / written[row])
    return written


def link(path: str, to: Path) -> None:
    """Give a file a second name, or copy it where that cannot be."""
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)


def write_captions(done: Split, root: Path, written: Sequence[str]) -> None:
    """Write a ``.txt`` beside each picture of both halves."""
    for place, caption in zip(written, done.items.captions, strict=True):
        if place:
            (root / place).with_suffix(".txt").write_text(caption, encoding="utf-8")


def write_metadata(done: Split, root: Path, written: Sequence[str]) -> None:
    """Write the ``metadata.jsonl`` of each half, where there are captions."""
    for name in sets_of(done.options)[:-1] if done.items.captions else ():
        lines = [
            json.dumps({"file_name": place.removeprefix(f"{name}/"), "text": caption}, ensure_ascii=False)
            for place, caption in zip(written, done.items.captions, strict=True)
            if place.startswith(f"{name}/")
        ]
        (root / name / "metadata.jsonl").write_text("\n".join([*lines, ""]), encoding="utf-8")


def notes(done: Split, files: Sequence[str]) -> list[str]:
    """Return what the card says of the folders."""
    trainer = str(done.options.trainer)
    said = [
        f"For {trainer}: `train-a`, `train-b` and {', '.join(f'`{each}`' for each in files)}. "
        f"They keep every save and mirror nothing; {STARTED[trainer]}",
        "File names are numbers; column `written` of the lists says whose.",
    ]
    several = sum("\n" in each for each in done.items.captions)
    if several and trainer in SEVERAL_LINES:
        said.append(f"{several} captions have several lines: {SEVERAL_LINES[trainer]}.")
    return said
