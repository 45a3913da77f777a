"""A folder of picture files, at any depth; the first folder names are classes where all pictures lie in folders."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
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

    Others are counted by suffix. Of each picture its relative POSIX path, and what changes with its content.
    """
    stamps, texts, links, irregular, others = [], [], 0, 0, Counter[str]()
    for name, entry in sources.below(folder):
        if sources.is_linked_folder(entry):
            links += 1
        elif (suffix := sources.suffix_of(entry.name)) in captions.TEXTS or entry.name == captions.METADATA:
            texts.append(name)
        elif suffix not in SUFFIXES:
            others[".dcm" if sources.begins_as_dicom(entry.path) else suffix or "no suffix"] += 1
        elif (state := sources.entry_state(entry)) is None:
            irregular += 1
        else:
            stamps.append((name, *state))
    notes: list[str] = []
    if links:
        notes.append(f"Linked folders were not followed: {links}.")
    if irregular:
        notes.append(f"Pipes, sockets and devices with the name of a picture were left out: {irregular}.")
    return sorted(stamps), texts, notes, others


KIND = Kind(claims, open_folder)
