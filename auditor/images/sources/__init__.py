"""Where pictures come from: one file per kind of source, and one line in the registry.

A file offers ``KIND``: whether the kind reads a path, told by names and at most a few bytes, and how a path becomes
a `Source`, whose pictures are decoded one by one, so that never all are held at their full size. Nothing is unpacked
to disk, and nothing that executes code is loaded. What several kinds need stands here; they do not know one another.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, NamedTuple

from auditor.errors import AuditError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".avif"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
)
# Pictures that a training may have read and that are not read here.
OTHER_PICTURES = (
    *(".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpf", ".jpx", ".tga", ".pcx", ".psd", ".exr", ".hdr", ".pfm"),
    *(".dcm", ".dicom", ".nii", ".nii.gz", ".mha", ".mhd", ".svs", ".ndpi", ".dng", ".cr2", ".nef", ".arw"),
    *(".ico", ".sgi"),
)
MOST_PICTURES = 5_000_000  # of one set
LEAST_STORED, FREE_ROOM = 2, 2**20  # bytes of a picture in its file; bytes that any file may be taken to have
JSON_ROOM = 2**20, 200  # bytes of a file of facts, and further ones per picture
BOMB_SIZE, BOMB_RATIO = 2**28, 200  # what unpacks to more than this and by more than this factor is refused


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
    skip_unreadable
        Whether pictures of kinds that are not read are left out, with a note, rather than refused.
    """

    window: tuple[float, float] | None = None
    convert_color: bool = False
    exact_size: bool = False
    skip_unreadable: bool = False


class Place(NamedTuple):
    """Where a set lies: a path, and which part of it was asked for (None: not said)."""

    path: Path
    part: str | None

    def __str__(self) -> str:
        return str(self.path) if self.part is None else f"{self.path}:{self.part}"


Decoder = Callable[[Sequence[int], Counter[str]], "Iterator[Image]"]  # rows, ascending, and a tally of what was done


@dataclass(frozen=True)
class Source:
    """Pictures that can be decoded one by one, as often as needed."""

    ids: Sequence[str]
    stamps: Sequence[Any]  # what the pictures depend on: names, sizes and times of change of files; JSON
    pictures: Decoder  # mode L or RGB
    notes: tuple[str, ...] = ()
    columns: Mapping[str, Callable[[], Sequence[str]]] = field(default_factory=dict)  # facts per picture, by name
    label: str = ""  # the column that holds classes; "" if none does
    group: str = ""  # the column that holds groups (patient, slide, ...)
    caption: str = ""  # the column that holds captions, "" of those without
    origin: Callable[[int], tuple[str, str]] | None = None  # (path, "") of a file, or (id, source); None: as given
    files: Mapping[str, Sequence[int]] = field(default_factory=dict)  # rows by relative path, where ids do not tell it

    def column(self, name: str) -> tuple[str, ...]:
        """Return one fact per picture; nothing for the empty name."""
        return tuple(self.columns[name]()) if name else ()

    def with_captions(self, read: Callable[[], Sequence[str]], repeats: Sequence[float] = ()) -> Source:
        """Return the source with a caption for each picture, and how often each is shown per epoch where that is said.

        Captions are read when they are asked for: an audit never asks.
        """
        columns: dict[str, Callable[[], Sequence[str]]] = {**self.columns, "caption": read}
        if repeats:
            columns["repeats"] = lambda: [f"{each:g}" for each in repeats]
        return replace(self, columns=columns, caption="caption")

    def only(self, rows: Sequence[int]) -> Source:
        """Return the source with some of its pictures, in ascending order of rows."""

        def decoded(wanted: Sequence[int], tally: Counter[str]) -> Iterator[Image]:
            yield from self.pictures([rows[row] for row in wanted], tally)

        def kept(read: Callable[[], Sequence[str]]) -> Callable[[], Sequence[str]]:
            return lambda: [each for row, each in enumerate(read()) if row in chosen]

        chosen, origin = set(rows), self.origin
        return replace(
            self,
            ids=[self.ids[row] for row in rows],
            pictures=decoded,
            columns={name: kept(read) for name, read in self.columns.items()},
            origin=origin and (lambda row: origin(rows[row])),
        )

    def with_classes(self, classes: Sequence[str]) -> Source:
        """Return the source with a class for each picture; as it is where there are none."""
        return replace(self, columns={"label": lambda: classes}, label="label") if classes else self


class Kind(NamedTuple):
    """What one kind of source offers; the registry names one per file."""

    claims: Callable[[Path], bool]
    open: Callable[[Place, Reading], Source]


def stamp(path: str | Path) -> tuple[str | int, ...]:
    """Return the name of a file and what changes with its content."""
    return os.path.basename(path), *file_state(os.stat(path))


def file_state(found: os.stat_result) -> tuple[int, int, int, int]:
    """Return what changes with the content of a file: size, times in ns, place on the disk; the last nobody can set.

    Archives and rsync give other files of one size the same time of modification.
    """
    return found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns


def require_room(pictures: int, stored: int, where: object) -> None:
    """Refuse more pictures than a file has room for, before anything is made for each of them."""
    if pictures > MOST_PICTURES or pictures * LEAST_STORED > max(stored, FREE_ROOM):
        raise AuditError(
            f"It claims to hold {pictures:,} pictures in {stored:,} bytes",
            where,
            f"Give at most {MOST_PICTURES:,} pictures, each of which takes {LEAST_STORED} bytes or more.",
        )


def json_within(content: bytes, most: int, where: object, remedy: str) -> Any:
    """Return the value of JSON that is no longer than ``most`` bytes; whatever is wrong with it is told."""
    if len(content) > most:
        raise AuditError(f"Its JSON has {len(content):,} bytes, more than {most:,}", where, remedy)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AuditError(f"Its JSON cannot be read: {error}", where, remedy) from error


def one_of(columns: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the first of these names that is a column, "" if none is."""
    return next((name for name in names if name in columns), "")


def classes_of(ids: Sequence[str]) -> list[str]:
    """Return the first folder of each picture where all lie in two folders or more, else nothing."""
    first = [name.partition("/")[0] if "/" in name else "" for name in ids]
    return first if "" not in first and len(set(first)) > 1 else []


def in_turn(sources: Sequence[Source]) -> Decoder:
    """Return what decodes the pictures of several sources, numbered one source after the other."""
    starts = list(accumulate((len(source.ids) for source in sources), initial=0))

    def decoded(rows: Sequence[int], tally: Counter[str]) -> Iterator[Image]:
        for start, source in zip(starts, sources, strict=False):
            yield from source.pictures([row - start for row in rows if 0 <= row - start < len(source.ids)], tally)

    return decoded


def holds(folder: Path, suffixes: tuple[str, ...]) -> bool:
    """Return whether a folder has files of these suffixes at its top, and no pictures there."""
    found = {suffix_of(entry.name) for entry in entries_of(folder) if not entry.name.startswith(".")}
    return bool(found & set(suffixes)) and not found & set(SUFFIXES)


def below(folder: str | Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield what lies under a folder, by relative POSIX path: files of any kind, and links to folders.

    Hidden files and folders are passed over. Linked folders are not followed, so no loop is endless.
    """
    pending = [""]
    while pending:
        inside = pending.pop()
        for entry in entries_of(os.path.join(folder, inside) if inside else str(folder)):
            if entry.name.startswith("."):
                continue
            name = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(name)
            else:
                yield name, entry


def is_linked_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a link to a folder; a link that leads nowhere is not."""
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:
        return False


def entry_state(entry: os.DirEntry[str]) -> tuple[int, ...] | None:
    """Return what changes with the content; None for what is no file. A dead link is an unreadable picture later on."""
    try:
        found = entry.stat()
    except OSError:
        return 0, 0
    return file_state(found) if S_ISREG(found.st_mode) else None


def entries_of(folder: str | Path) -> list[os.DirEntry[str]]:
    """Return what a folder holds, or refuse: a folder that is skipped would be missed by nobody."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        where = error.filename or folder
        raise AuditError(f"This folder cannot be listed: {error.strerror}", where, "Make it readable.") from error


def is_outside(name: str) -> bool:
    """Return whether a relative name leads out of its folder or archive."""
    parts = name.replace("\\", "/").split("/")
    return name.startswith("/") or ".." in parts or (len(name) > 1 and name[1] == ":")


def suffix_of(name: str) -> str:
    """Return the suffix of a name, in lower case."""
    if name.lower().endswith(".nii.gz"):
        return ".nii.gz"
    return os.path.splitext(name)[1].lower()


def begins_as_dicom(path: str) -> bool:
    """Return whether a file is DICOM although no suffix says so: it has none, or a number as names of UIDs have."""
    suffix = suffix_of(os.path.basename(path))
    return (not suffix or suffix[1:].isdigit()) and has_preamble(path)


def has_preamble(path: str) -> bool:
    """Return whether a regular file begins as DICOM does."""
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _listed(suffixes: Mapping[str, int]) -> str:
    return ", ".join(f"{suffixes[suffix]} {suffix}" for suffix in sorted(suffixes))


def refuse_left_out(suffixes: Mapping[str, int], n: int, reading: Reading, where: object) -> None:
    """Refuse a set in which pictures of kinds that are not read lie: the training set would be another one.

    ``n`` pictures are of a kind that is read.
    """
    left = {suffix: count for suffix, count in suffixes.items() if suffix in OTHER_PICTURES}
    if left and n and not reading.skip_unreadable:  # none at all is told by who calls
        what = f"{sum(left.values())} pictures are of a kind that is not read: {_listed(left)}"
        remedy = "Convert them to PNG without loss; where the training left them out, too: --skip-unreadable."
        raise AuditError(f"{what}; {n} others would be the set", where, remedy)


def told_others(what: str, suffixes: Counter[str]) -> list[str]:
    """Return what was left out as no picture, by suffix, in one sentence; ``what`` are files or members."""
    kinds = _listed(suffixes)
    return [f"{what} that are not pictures were ignored: {kinds}."] if suffixes else []


@contextmanager
def told_as(what: str, where: object, remedy: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn what a library raises about damaged data into one error that says what to do."""
    try:
        yield
    except errors as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise AuditError(f"{what}: {said}", where, remedy) from error


def refuse_bomb(packed: int, unpacked: int, path: Path) -> None:
    """Refuse what a few bytes would unpack to."""
    if unpacked > BOMB_SIZE and unpacked > BOMB_RATIO * max(packed, 1):
        raise AuditError(
            f"It would unpack to {unpacked / 2**20:,.0f} MiB, more than {BOMB_RATIO} times what is stored",
            path,
            "If that is what you packed, save it without compression.",
        )
