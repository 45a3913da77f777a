"""Pictures on disk -> ImageSet: read, brought to the model's shape, identified by their content.

What a kind of source offers is told in ``sources/``, what is done to every picture in ``pictures.py``. Pixels are
decoded on first use. A set whose files have not changed is known by its content from the user's cache and need not be
decoded at all (``cache.py``).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from auditor.errors import AuditError
from auditor.images.identity import (
    check_overlap,
    digests,
    duplicate_groups,
    is_blank,
    set_digest,
    shared,
)
from auditor.images.sources import SUFFIXES, Kind, Place, Reading, Source
from auditor.records import ImageSet
from auditor.registry import SOURCES, lookup

__all__ = [
    "SUFFIXES",
    "Reading",
    "Source",
    "check_overlap",
    "digests",
    "duplicate_groups",
    "is_blank",
    "look_again",
    "native_shape",
    "open_source",
    "read",
    "set_digest",
    "shared",
]

ACCEPTED = (
    f"Give a folder of pictures ({' '.join(SUFFIXES)}), a .zip or .tar of them, a .npy, .npz or .pt array "
    "(PATH:KEY picks one), a .csv with a path column, a Hugging Face data set (save_to_disk folder, .parquet), a "
    "folder of DICOM or NIfTI files (DIR:axial=40-120), or the data configuration of a trainer (.toml, .yaml, .json)."
)


def read(
    source: str | Path,
    name: str,
    image_shape: tuple[int, int, int],
    reading: Reading | None = None,
    use_cache: bool = False,
    scratch: str | Path | None = None,
) -> ImageSet:
    """Return the pictures of a source at the model's shape.

    Parameters
    ----------
    source
        A folder of pictures (any nesting; hidden files and folders are left out, linked folders are not followed), a
        ``.zip`` or ``.tar`` of pictures, ``PATH.npy``, ``PATH.npz``, ``PATH.npz:KEY``, ``PATH.npz:KEY+KEY``, ``.pt``
        alike, a ``.csv`` with a ``path`` column, a Hugging Face data set on disk (``PATH:SPLIT``), a folder of DICOM
        files, or one of NIfTI files (``DIR:axial=40-120``), or a trainer's configuration of its data. Arrays are
        ``[n, h, w]``, ``[n, h, w, c]`` or ``[n, c, h, w]`` with c 1 or 3.
    name
        Name of the set, such as ``train-a``.
    image_shape
        (h, w, c) of the model, in pixels; c is 1 or 3.
    reading
        What may be done to pictures that are not as the model saw them.
    use_cache
        Whether contents of unchanged files are recalled from the user's cache, and remembered there.
    scratch
        Folder for the memory map of a set that is too large for memory; the system's default if None.

    Returns
    -------
    ImageSet
        uint8 ``[n, h, w, c]``, 0 to 255, n >= 1, with digests, and labels and groups where the source tells them.

    Raises
    ------
    AuditError
        For a missing path, an empty set, a file that cannot be read, or values that are no pixels; nothing is guessed.
    """
    from auditor.images import cache, pixels

    assert image_shape[2] in (1, 3), f"models of pictures have 1 or 3 channels, not {image_shape[2]}"
    reading = reading or Reading()
    opened = open_source(source, reading)
    key = cache.key(source, opened, image_shape, reading) if use_cache else ""
    facts, images = pixels.recalled(opened, str(source), image_shape, reading, scratch=scratch, known=cache.recall(key))
    if use_cache:
        cache.remember(key, facts, opened)
    return ImageSet(
        name,
        images,
        tuple(opened.ids),
        (*opened.notes, *facts.notes),
        labels=opened.column(opened.label),
        groups=opened.column(opened.group),
        digests=facts.digests,
        blank=facts.blank,
        files=sizes_and_dates(opened),
    )


def sizes_and_dates(opened: Source) -> np.ndarray | None:
    """Return bytes and time of change (s) of the file of each picture, float64 ``[n, 2]``; None where it has none."""
    of_each = opened.stamps[: len(opened.ids)]  # a list has a stamp of its own behind those of its pictures
    if not len(opened.ids) <= len(opened.stamps) <= len(opened.ids) + 1 or any(len(each) != 5 for each in of_each):
        return None
    return np.array([(each[1], each[2] / 1e9) for each in of_each], dtype=np.float64)


def look_again(image_set: ImageSet) -> None:
    """Compare a set with its pictures, where so far it was known from the cache alone.

    Raises
    ------
    AuditError
        If they are others than when they were remembered.
    """
    from auditor.images.pixels import Decoded

    if isinstance(image_set.images, Decoded):
        _ = image_set.images.array


def open_source(source: str | Path, reading: Reading | None = None) -> Source:
    """Return the source a path stands for, chosen by what is on disk; nothing is decoded yet."""
    place = split_part(str(source))
    # unlike Path.exists, os.path.exists does not raise where a parent folder is closed
    if not os.path.exists(place.path):
        raise AuditError(
            f"There is no readable file or folder {place.path}", source, "Check the path, or run from another folder."
        )
    kinds: dict[str, Kind] = {name: lookup("source", name) for name in SOURCES}
    claiming = [name for name, kind in kinds.items() if kind.claims(place.path)]
    if len(claiming) > 1:
        raise AuditError(
            f"It can be read as {' and as '.join(claiming)}", source, "Give a folder that holds one kind of data only."
        )
    if not claiming:
        raise AuditError(
            f"Images are not read from {place.path.suffix or 'a file without suffix'}", place.path, ACCEPTED
        )
    opened = kinds[claiming[0]].open(place, reading or Reading())
    refuse_bad_ids(opened.ids, place)
    return opened


def split_part(source: str) -> Place:
    """Split ``PATH:PART``; a path that exists as written is never split."""
    path, colon, part = source.rpartition(":")
    if not colon or not path or os.path.exists(source) or not os.path.exists(path):
        return Place(Path(source), None)
    return Place(Path(path), part)


def refuse_bad_ids(ids: Sequence[str], place: Place) -> None:
    """Refuse ids that are not unique, or that no Parquet table can hold."""
    for each in ids:
        try:
            each.encode()
        except UnicodeEncodeError as error:  # ids go into Parquet, which takes UTF-8 only
            raise AuditError(f"A file name is not UTF-8: {each!a}", place, "Rename this file.") from error
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise AuditError(f"Two pictures are called {twice!r}", place, "Rename one, or remove it.")


def native_shape(opened: Source) -> tuple[int, int, int]:
    """Return (h, w, c) of the first picture of a source as it is stored."""
    picture = next(iter(opened.pictures([0], Counter())))
    return picture.height, picture.width, 1 if picture.mode == "L" else 3
