"""A folder of picture files, at any depth; the first folder names are classes where all pictures lie in folders."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from stat import S_ISREG
from typing import Any

from auditor.errors import AuditError
from auditor.images import captions, pictures, sources
from auditor.images.sources import SUFFIXES, Kind, Place, Reading, Source
from auditor.registry import SOURCES, lookup


def claims(path: Path) -> bool:
    """Return whether this is a folder that no other kind reads."""
    return path.is_dir() and not any(lookup("source", name).claims(path) for name in SOURCES if name != "folder")


def open_folder(place: Place, reading: Reading) -> Source:
    """Return the pictures of a folder, by relative path."""
    folder = place.path
    if place.part is not None:
        raise AuditError(f"A folder of pictures has no part {place.part!r}", place, f"Give {folder}.")
    stamps, texts, notes, others = list_pictures(folder)
    sources.refuse_left_out(others, len(stamps), reading, folder)
    ends = captions.not_trained_on([name for name, *_ in stamps])
    stamps = [each for each in stamps if each[0] not in ends]
    notes += [f"Left out, for trainers keep them as {end}: {n}." for end, n in sorted(Counter(ends.values()).items())]
    ids = [name for name, *_ in stamps]
    stems = {os.path.splitext(name)[0] for name in (*ids, *ends)}
    beside = {
        name for name in texts if os.path.basename(name) == captions.METADATA or os.path.splitext(name)[0] in stems
    }
    notes += sources.told_others(
        "Files", others + Counter(sources.suffix_of(name) for name in texts if name not in beside)
    )
    if not ids:
        raise AuditError(
            " ".join(("The folder holds no pictures.", *notes)),
            folder,
            f"Give a folder with {' '.join(SUFFIXES)} files at any depth, or another kind of source.",
        )

    places = [os.path.join(folder, each) for each in ids]
    decoded = pictures.of_files(places, reading)
    found = Source(ids, stamps, decoded, tuple(notes), origin=lambda row: (places[row], ""))
    found = found.with_classes(sources.classes_of(ids))
    repeated = captions.kohya(ids)
    if not beside and not repeated:
        return found

    def told() -> list[str]:
        read = captions.of(folder, ids)
        return [one or each.name for one, each in zip(read, repeated, strict=True)] if repeated else read

    return found.with_captions(told, [each.repeats for each in repeated])


def list_pictures(folder: Path) -> tuple[list[tuple[Any, ...]], list[str], list[str], Counter[str]]:
    """Return the pictures under a folder, sorted, files that may hold captions, notes on what was left out, and others.

    Others are counted by suffix. Of each picture its relative POSIX path, and what changes with its content. Linked
    folders are not followed, so no loop is endless.
    """
    stamps, texts, links, irregular, others = [], [], 0, 0, Counter[str]()
    pending = [""]
    while pending:
        inside = pending.pop()
        for entry in sources.entries_of(os.path.join(folder, inside) if inside else str(folder)):
            if entry.name.startswith("."):
                continue
            name = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(name)
            elif entry.is_symlink() and is_folder(entry):
                links += 1
            elif (suffix := sources.suffix_of(entry.name)) in captions.TEXTS or entry.name == captions.METADATA:
                texts.append(name)
            elif suffix not in SUFFIXES:
                others[suffix or "no suffix"] += 1
            elif (stamp := stamp_of(entry)) is None:
                irregular += 1
            else:
                stamps.append((name, *stamp))
    notes = []
    if links:
        notes.append(f"Linked folders were not followed: {links}.")
    if irregular:
        notes.append(f"Pipes, sockets and devices with the name of a picture were left out: {irregular}.")
    return sorted(stamps), texts, notes, others


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether a link leads to a folder; a link that leads nowhere does not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def stamp_of(entry: os.DirEntry[str]) -> tuple[int, ...] | None:
    """Return what changes with the content; None for what is no file. A dead link is an unreadable picture later on."""
    try:
        found = entry.stat()
    except OSError:
        return 0, 0
    return sources.file_state(found) if S_ISREG(found.st_mode) else None


KIND = Kind(claims, open_folder)
