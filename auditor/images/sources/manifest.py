"""A CSV that lists pictures: a ``path`` column, and ``label``, ``group``, ``caption`` and other columns beside it.

Paths are relative to the CSV's folder. Where a ``source`` column is given, it names an archive, array or data set
(relative likewise), and ``path`` an image in it by its id: that is how ``audit split`` writes halves of a ``.npz``. In
a folder whose ids do not tell the files (DICOM, NIfTI), ``path`` may also be a file in it: all of its pictures.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from auditor.errors import AuditError
from auditor.images import captions, open_source, pictures, split_part
from auditor.images.sources import (
    OTHER_PICTURES,
    Kind,
    Place,
    Reading,
    Source,
    begins_as_dicom,
    in_turn,
    one_of,
    stamp,
    suffix_of,
)

if TYPE_CHECKING:
    from PIL.Image import Image

PATHS = ("path", "file_name", "filename", "image")  # names of the column of paths
LABELS = ("label", "class")
GROUPS = ("group", "patient", "patient_id")
_REMEDY = "Write a CSV in UTF-8 whose first line names its columns, one of them path."


class Row(NamedTuple):
    """One line: which picture, of which source, and everything else that is said of it."""

    path: str
    source: str
    facts: dict[str, str]


def claims(path: Path) -> bool:
    """Return whether the name says so."""
    return path.suffix.lower() == ".csv" and not path.is_dir()


def open_manifest(place: Place, reading: Reading) -> Source:
    """Return the pictures that a CSV lists: files first in its order, then those of each source in the source's."""
    if place.part is not None:
        raise AuditError(f"A list of pictures has no part {place.part!r}", place, f"Give {place.path}.")
    rows = read_rows(place.path)
    names = list(dict.fromkeys(row.source for row in rows))
    parts = [part(place.path, name, [row for row in rows if row.source == name], reading) for name in names]
    ids = [row.path for _, kept in parts for row in kept]
    facts = [row.facts for _, kept in parts for row in kept]
    listed_facts = {name: (lambda name=name: [each[name] for each in facts]) for name in facts[0]}
    known = set.intersection(*(set(source.columns) for source, _ in parts))  # what the sources themselves tell of all
    columns = {
        name: (lambda name=name: [each for source, _ in parts for each in source.column(name)]) for name in known
    } | listed_facts
    of_sources = {source.group for source, _ in parts}
    label, group, caption = (one_of(listed_facts, names) for names in (LABELS, GROUPS, captions.COLUMNS))
    group = group or (of_sources.pop() if len(of_sources) == 1 else "")  # a list of labels tears no patient apart
    listed = sha256("\0".join(ids).encode("utf-8", "surrogateescape")).hexdigest()  # which pictures, in which order
    stamps = [each for source, _ in parts for each in source.stamps] + [["rows", listed, 0]]
    notes = tuple(dict.fromkeys(note for source, _ in parts for note in source.notes))
    places = [(os.path.join(place.path.parent, row.source or row.path), row) for _, kept in parts for row in kept]

    def origin(row: int) -> tuple[str, str]:
        where, named = places[row]
        return (named.path, where) if named.source else (where, "")

    decoded = in_turn([source for source, _ in parts])
    return Source(
        ids, stamps, decoded, notes, columns=columns, label=label, group=group, caption=caption, origin=origin
    )


def read_rows(path: Path) -> list[Row]:
    """Return the lines of a CSV."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            columns = list(reader.fieldnames or [])
            column = next((name for name in PATHS if name in columns), None)
            if column is None:
                raise AuditError(f"It has no column of paths; its columns are: {', '.join(columns)}", path, _REMEDY)
            rows = [as_row(line, column, f"{path}: line {reader.line_num}") for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AuditError(f"This list of pictures cannot be read: {error}", path, _REMEDY) from error
    if not rows:
        raise AuditError("The list names no pictures", path, _REMEDY)
    return rows


def as_row(line: dict[str, str], column: str, where: str) -> Row:
    """Return one line, which must have as many cells as there are columns."""
    if None in line or None in line.values() or not line[column] or "\0" in line[column]:
        raise AuditError("The line has not one value per column", where, _REMEDY)
    return Row(line[column], line.get("source", ""), {k: v for k, v in line.items() if k not in (column, "source")})


def part(path: Path, name: str, rows: list[Row], reading: Reading) -> tuple[Source, list[Row]]:
    """Return the source that some lines name, with these pictures only, and the lines in its order."""
    if not name:
        places = [os.path.join(path.parent, row.path) for row in rows]
        refuse_unread(places, path)
        stamps = [stamp_of(place, path) for place in places]
        return Source([row.path for row in rows], stamps, pictures.of_files(places, reading)), rows
    source = os.path.join(path.parent, name)
    if split_part(source).path.suffix.lower() == ".csv":
        raise AuditError("A list of pictures names another list as its source", path, "Name the pictures themselves.")
    opened = open_source(source, reading)
    at = {image_id: [row] for row, image_id in enumerate(opened.ids)}
    for row in rows:
        if row.path not in at and row.path not in opened.files:
            what = f"There is no image {row.path!r} in {name}"
            if opened.files:
                what = f"A line names no image and no file in {name}"  # a name of such a file would name a person
            raise AuditError(what, path, "Write the list anew.")
    found = [(each, row) for row in rows for each in at.get(row.path) or opened.files[row.path]]
    kept = sorted(found, key=lambda pair: pair[0])
    chosen = [each for each, _ in kept]
    ids = [opened.ids[each] for each in chosen]

    def decoded(wanted: Sequence[int], tally: Counter[str]) -> Iterator[Image]:
        yield from opened.pictures([chosen[row] for row in wanted], tally)

    listed = [row._replace(path=image_id) for image_id, (_, row) in zip(ids, kept, strict=True)]
    columns = {name: (lambda name=name: picked(opened.column(name), chosen)) for name in opened.columns}
    return Source(ids, opened.stamps, decoded, opened.notes, columns=columns, group=opened.group), listed


def picked(facts: Sequence[str], rows: Sequence[int]) -> list[str]:
    """Return the facts of some pictures."""
    return [facts[row] for row in rows]


def refuse_unread(places: Sequence[str], path: Path) -> None:
    """Refuse pictures of kinds that are not read one by one; medical ones are not named."""
    found = sum(suffix_of(place) in OTHER_PICTURES or begins_as_dicom(place) for place in places)
    if found:
        raise AuditError(
            f"{found} lines name pictures that are not read one by one",
            path,
            "Of DICOM and NIfTI files write the folder into a column source, and the path inside it into path; convert "
            "others to PNG.",
        )


def stamp_of(place: str, path: Path) -> tuple[Any, ...]:
    """Return path of a file that must be there, and what changes with its content."""
    try:
        _, *state = stamp(place)
    except OSError as error:
        raise AuditError(
            f"A picture of the list is not there: {error.strerror}",
            place,
            f"Paths are relative to {path.parent}; correct {path.name}.",
        ) from error
    if not os.path.isfile(place):
        raise AuditError("A path of the list is no file", place, f"Correct {path.name}.")
    return place, *state


KIND = Kind(claims, open_manifest)
