"""Pictures on disk -> ImageSet: read, brought to the model's shape, identified by their content.

One file per kind of source beside this one (``registry.SOURCES``); what is done to every picture is told in
``pictures.py``. A kind offers

- ``claims(path) -> bool``: names and at most a few bytes, no picture;
- ``open(place, reading) -> Source``: ids, and pictures that are decoded one by one, so that never all are held at
  their full size.

Pixels are decoded on first use. A set whose files have not changed is known by its content from the user's cache and
need not be decoded at all (``cache.py``).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from auditor.errors import AuditError
from auditor.images.identity import (
    check_overlap,
    digests,
    duplicate_groups,
    is_blank,
    set_digest,
    shared,
)
from auditor.records import ImageSet
from auditor.registry import SOURCES, lookup

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "SUFFIXES",
    "Kind",
    "Place",
    "Reading",
    "Source",
    "check_overlap",
    "digests",
    "duplicate_groups",
    "is_blank",
    "native_shape",
    "open_source",
    "read",
    "set_digest",
    "shared",
]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
ACCEPTED = (
    f"Give a folder of pictures ({' '.join(SUFFIXES)}), a .zip or .tar of them, a .npy, .npz or .pt array "
    "(PATH:KEY picks one), a .csv with a path column, or a Hugging Face data set (save_to_disk folder, .parquet)."
)


@dataclass(frozen=True)
class Reading:
    """How pictures become what the model saw, where that must be said.

    Parameters
    ----------
    window
        (low, high) in the files' own units: values up to ``low`` become 0, from ``high`` on 255, linear between.
        None: pictures of 16 bits, and floats outside 0 to 1, are refused.
    convert_color
        Whether color pictures may be turned gray for a gray model (ITU-R 601 luma), and gray ones repeated three
        times for a color model.
    exact_size
        Whether pictures of another size than asked for are refused: samples are as the model drew them.
    """

    window: tuple[float, float] | None = None
    convert_color: bool = False
    exact_size: bool = False


class Place(NamedTuple):
    """Where a set lies: a path, and which part of it was asked for (None: not said)."""

    path: Path
    part: str | None

    def __str__(self) -> str:
        return str(self.path) if self.part is None else f"{self.path}:{self.part}"


@dataclass(frozen=True)
class Source:
    """Pictures that can be decoded one by one, as often as needed."""

    ids: Sequence[str]
    stamps: Sequence[Any]  # what the pictures depend on: names, sizes and times of change of files; JSON
    pictures: Callable[[Sequence[int], Counter[str]], Iterator[Image]]  # of these rows, ascending; mode L or RGB
    notes: tuple[str, ...] = ()
    columns: Mapping[str, Callable[[], Sequence[str]]] = field(default_factory=dict)  # facts per picture, by name
    label: str = ""  # the column that holds classes; "" if none does
    group: str = ""  # the column that holds groups (patient, slide, ...)
    origin: Callable[[int], tuple[str, str]] | None = None  # (path, "") of a file, or (id, source); None: as given

    def column(self, name: str) -> tuple[str, ...]:
        """Return one fact per picture; nothing for the empty name."""
        return tuple(self.columns[name]()) if name else ()


class Kind(NamedTuple):
    """One kind of source; the registry names one per file."""

    claims: Callable[[Path], bool]
    open: Callable[[Place, Reading], Source]


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
        alike, a ``.csv`` with a ``path`` column, or a Hugging Face data set on disk (``PATH:SPLIT``). Arrays are
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
    key = cache.key(opened, image_shape, reading) if use_cache else ""
    facts, images = pixels.recalled(opened, str(source), image_shape, reading, scratch, cache.recall(key))
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
    )


def open_source(source: str | Path, reading: Reading | None = None) -> Source:
    """Return the source a path stands for, chosen by what is on disk; nothing is decoded yet."""
    place = split_part(str(source))
    # unlike Path.exists, os.path.exists does not raise where a parent folder is closed
    if not os.path.exists(place.path):
        raise AuditError(
            f"There is no readable file or folder {place.path}", source, "Check the path, or run from another folder."
        )
    claiming = [name for name in SOURCES if lookup("source", name).claims(place.path)]
    if len(claiming) > 1:
        raise AuditError(
            f"It can be read as {' and as '.join(claiming)}", source, "Give a folder that holds one kind of data only."
        )
    if not claiming:
        raise AuditError(
            f"Images are not read from {place.path.suffix or 'a file without suffix'}", place.path, ACCEPTED
        )
    opened = lookup("source", claiming[0]).open(place, reading or Reading())
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
    try:
        "\n".join(ids).encode()
    except UnicodeEncodeError as error:  # ids go into Parquet, which takes UTF-8 only
        bad = next(each for each in ids if not each.isprintable() and not can_encode(each))
        raise AuditError(f"A file name is not UTF-8: {bad!a}", place, "Rename this file.") from error
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise AuditError(f"Two pictures are called {twice!r}", place, "Rename one, or remove it.")


def can_encode(text: str) -> bool:
    """Return whether a name is valid text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def native_shape(source: str | Path, reading: Reading | None = None) -> tuple[int, int, int]:
    """Return (h, w, c) of the first picture of a source as it is stored."""
    opened = open_source(source, reading)
    picture = next(iter(opened.pictures([0], Counter())))
    return picture.height, picture.width, 1 if picture.mode == "L" else 3
