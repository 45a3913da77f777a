"""Captions: what a trainer tells its network about each picture, in the layouts that trainers read.

In a folder a caption lies beside its picture, in a file of the same stem (``.txt``, ``.caption``), or in the
``metadata.jsonl`` of a folder above it (``{"file_name": ..., "text": ...}``). kohya's folders ``N_name/`` say how often
a picture is shown per epoch, and its caption where no file does. Pictures that trainers keep for other ends
(regularization, masks, control images) are told apart by their names.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from auditor.errors import AuditError
from auditor.images.sources import is_outside

TEXTS = (".txt", ".caption")
METADATA = "metadata.jsonl"
COLUMNS = ("caption", "text")  # of lists and tables
REPEATS = "repeats"  # name of the column that says how often a picture is shown per epoch
LARGEST = 2**20  # bytes of one caption, or of one line of metadata
REPEATED = re.compile(r"([1-9][0-9]{0,2})_(.+)")  # kohya: a folder's repeats and class; four digits are a year
REGULARIZATION = re.compile(r"regs?|reg_(?:data|images?)|regulari[sz]ation(?:_(?:data|images?))?", re.IGNORECASE)
BESIDE = ("-masklabel.png", "-condlabel.png")  # OneTrainer: a picture's mask, and what conditions it
CONTROLS = "_controls"  # ai-toolkit: a folder of control images


class Repeated(NamedTuple):
    """What kohya's ``N_name`` says of a picture in it."""

    repeats: int
    name: str


def kohya(ids: Sequence[str]) -> list[Repeated]:
    """Return what the folders of pictures say where each lies in one called ``N_name``, else nothing."""
    found = [REPEATED.fullmatch(posixpath.basename(posixpath.dirname(each))) for each in ids]
    return [Repeated(int(each[1]), each[2]) for each in found if each] if all(found) else []


def not_trained_on(ids: Sequence[str]) -> dict[str, str]:
    """Return which of the pictures in a folder trainers keep for other ends, and which end."""
    there, ends = set(ids), {}
    for each in ids:
        first, *inside = each.split("/")
        suffix = next((suffix for suffix in BESIDE if each.endswith(suffix)), "")
        if CONTROLS in inside[-2:-1] or (first == CONTROLS and len(inside) == 1):
            ends[each] = "control images"
        elif suffix and has_partner(each.removesuffix(suffix), there):
            ends[each] = "masks and conditions of others"
        elif REGULARIZATION.fullmatch(first) and len(inside) == 2 and REPEATED.fullmatch(inside[0]):
            ends[each] = "regularization images"
    regular = {each for each, end in ends.items() if end == "regularization images"}
    # a folder called reg is kohya's where all others lie in its folders, too; elsewhere it may be a class
    if regular and not (there - ends.keys() and kohya([each for each in ids if each not in ends])):
        ends = {each: end for each, end in ends.items() if each not in regular}
    return ends


def has_partner(stem: str, there: set[str]) -> bool:
    """Return whether the picture is there whose mask another one is."""
    return any(f"{stem}{suffix}" in there for suffix in (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"))


def of(folder: Path, ids: Sequence[str], extensions: Sequence[str] = TEXTS, listed: bool = True) -> list[str]:
    """Return the caption of each picture in a folder, "" where there is none; ``listed``: ``metadata.jsonl`` counts.

    Raises
    ------
    AuditError
        For a caption that cannot be read, a ``metadata.jsonl`` that names what is not there or lies outside, and two
        captions that disagree.
    """
    told: dict[str, dict[str, str]] = {each: {} for each in ids}  # picture -> file -> caption
    for each, found in told.items():
        for extension in extensions:
            name = os.path.splitext(each)[0] + extension
            if os.path.isfile(folder / name):
                found[name] = caption_in(folder / name)
    for inside in sorted({above for each in ids for above in folders_above(each)}) if listed else ():
        path = folder / inside / METADATA
        for number, name, caption in listed_in(path) if path.is_file() else ():
            each = posixpath.normpath(posixpath.join(inside, name))
            if each in told:
                told[each][f"{posixpath.join(inside, METADATA)}, line {number}"] = caption
            elif not (folder / each).is_file():
                raise AuditError(f"It names a picture that is not there: {name!r}", f"{path}: line {number}", _METADATA)
    return [agreed(folder, each, found) for each, found in told.items()]


def folders_above(name: str) -> Iterator[str]:
    """Yield the folders that a picture lies in, "" for the root."""
    while name:
        name = posixpath.dirname(name)
        yield name


def agreed(folder: Path, name: str, found: dict[str, str]) -> str:
    """Return the one caption that was found, in however many files."""
    if len(set(found.values())) > 1:
        (first, one), (second, other) = list({caption: file for file, caption in found.items()}.items())[:2]
        what = f"Two captions disagree: {one} says {in_short(first)}, {other} says {in_short(second)}"
        raise AuditError(what, folder / name, "Keep the one that the training read.")
    return next(iter(found.values()), "")


def in_short(caption: str) -> str:
    """Return a caption short enough for a sentence."""
    return repr(caption if len(caption) <= 60 else caption[:57] + "...")


def caption_in(path: Path) -> str:
    """Return the caption that a file holds."""
    try:
        with open(path, "rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise AuditError(f"A caption of more than {LARGEST:,} bytes is none", path, "Keep one caption in the file.")
        return content.decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AuditError(f"This caption cannot be read: {error}", path, "Write it again, in UTF-8.") from error


_METADATA = 'Write one line per picture: {"file_name": "0001.png", "text": "..."}, names relative to the file.'


def listed_in(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield number, picture and caption of each line of a ``metadata.jsonl`` that has a caption."""
    with open(path, "rb") as stream:
        number = 0
        while content := stream.readline(LARGEST + 1):
            number += 1
            where = f"{path}: line {number}"
            if len(content) > LARGEST:
                raise AuditError(f"The line has more than {LARGEST:,} bytes", where, _METADATA)
            if not content.strip():
                continue
            try:
                line = json.loads(content.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise AuditError(f"The line is no JSON: {error}", where, _METADATA) from error
            name = line.get("file_name") if isinstance(line, dict) else None
            if not isinstance(name, str) or not name or "\0" in name:
                raise AuditError("The line names no picture as file_name", where, _METADATA)
            if is_outside(name):
                raise AuditError(f"The name leads out of the folder: {name!r}", where, _METADATA)
            caption = next((line[key] for key in ("text", "caption") if key in line), None)
            if not isinstance(caption, (str, type(None))):
                raise AuditError(f"The caption of {name!r} is no text: {str(caption)[:60]}", where, _METADATA)
            if caption is not None:
                yield number, name, caption.strip()


def incomplete(captions: Sequence[str], ids: Sequence[str], where: object) -> AuditError | None:
    """Return what is wrong where some pictures have a caption and others have none."""
    without = [each for each, caption in zip(ids, captions, strict=True) if not caption]
    if not without or len(without) == len(captions):
        return None
    return AuditError(
        f"{len(without)} of {len(captions)} pictures have no caption, such as {without[0]!r}",
        where,
        "Write a caption beside each (.txt, metadata.jsonl), or remove these pictures.",
    )
