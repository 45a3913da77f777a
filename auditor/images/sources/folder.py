"""A folder of picture files, at any depth; the first folder names are classes where all pictures lie in folders."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from auditor.errors import AuditError
from auditor.images import pictures, sources
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
    stamps, notes, others = list_pictures(folder)
    sources.refuse_left_out(others, len(stamps), reading, folder)
    ids = [name for name, *_ in stamps]
    if not ids:
        raise AuditError(
            " ".join(("The folder holds no pictures.", *notes)),
            folder,
            f"Give a folder with {' '.join(SUFFIXES)} files at any depth, or another kind of source.",
        )

    places = [os.path.join(folder, each) for each in ids]
    decoded = pictures.of_files(places, reading)
    found = Source(ids, stamps, decoded, tuple(notes), origin=lambda row: (places[row], ""))
    return found.with_classes(sources.classes_of(ids))


def list_pictures(folder: Path) -> tuple[list[tuple[Any, ...]], list[str], Counter[str]]:
    """Return the picture files under a folder, sorted, sentences on what was left out, and other files by suffix.

    Of each file its relative POSIX path, and what changes with its content.
    """
    stamps, links, irregular, others = [], 0, 0, Counter[str]()
    for name, entry in sources.below(folder):
        if sources.is_linked_folder(entry):
            links += 1
        elif (suffix := sources.suffix_of(entry.name)) not in SUFFIXES:
            others[".dcm" if sources.begins_as_dicom(entry.path) else suffix or "no suffix"] += 1
        elif (state := sources.entry_state(entry)) is None:
            irregular += 1
        else:
            stamps.append((name, *state))
    notes = sources.told_others("Files", others)
    if links:
        notes.append(f"Linked folders were not followed: {links}.")
    if irregular:
        notes.append(f"Pipes, sockets and devices with the name of a picture were left out: {irregular}.")
    return sorted(stamps), notes, others


KIND = Kind(claims, open_folder)
