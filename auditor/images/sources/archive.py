"""Pictures inside a ``.zip`` or ``.tar`` (webdataset shards among them), read in place: nothing is unpacked to disk.

Labels come from ``dataset.json`` inside a zip (EDM), from ``.cls`` members beside the pictures (webdataset), else from
folders.
"""

from __future__ import annotations

import json
import os
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.errors import AuditError
from auditor.images import SUFFIXES, Kind, Place, Reading, Source, pictures
from auditor.images.sources.folder import classes_of, holds

if TYPE_CHECKING:
    from PIL.Image import Image

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
BOMB_SIZE, BOMB_RATIO = 2**28, 200  # what unpacks to more than this and by more than this factor is refused
LARGEST_HEADER = 2**20  # bytes of a tar member's extended header, which tarfile reads at once
EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_DAMAGED = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, tarfile.TarError)
_REMEDY = "Copy the archive again, or pack the pictures anew without encryption."


def claims(path: Path) -> bool:
    """Return whether this is an archive, or a folder of webdataset shards."""
    if path.is_dir():
        return holds(path, (".tar",))
    return path.name.lower().endswith((".zip", *TAR_SUFFIXES))


def open_archive(place: Place, reading: Reading) -> Source:
    """Return the pictures of an archive by their member names; of several shards by shard and member name."""
    if place.part is not None:
        raise AuditError(f"An archive of pictures has no part {place.part!r}", place, f"Give {place.path}.")
    if place.path.is_dir():
        shards = sorted(place.path.glob("*.tar"))
        return joined(place.path, [open_tar(shard, reading) for shard in shards], [shard.name for shard in shards])
    return (open_zip if place.path.suffix.lower() == ".zip" else open_tar)(place.path, reading)


@contextmanager
def told_as_damaged(path: Path) -> Iterator[None]:
    """Turn what a damaged archive raises into one error."""
    try:
        yield
    except (*_DAMAGED, zlib.error, MemoryError) as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise AuditError(f"This archive cannot be read: {said}", path, _REMEDY) from error


def refuse_bomb(packed: int, unpacked: int, path: Path) -> None:
    """Refuse what a few bytes would unpack to."""
    if unpacked > BOMB_SIZE and unpacked > BOMB_RATIO * max(packed, 1):
        raise AuditError(
            f"It would unpack to {unpacked / 2**20:,.0f} MiB, more than {BOMB_RATIO} times what is stored",
            path,
            "If that is what you packed, save it without compression.",
        )


def refuse_large(name: str, size: int, path: Path) -> None:
    """Refuse a picture that no memory should hold."""
    if size > pictures.LARGEST_FILE:
        raise AuditError(f"The picture has {size / 2**20:,.0f} MiB", f"{path}: {name}", "Save it smaller.")


def is_outside(name: str) -> bool:
    """Return whether a member's name leads out of the archive."""
    parts = name.replace("\\", "/").split("/")
    return name.startswith("/") or ".." in parts or (len(name) > 1 and name[1] == ":")


def is_hidden(name: str) -> bool:
    """Return whether a member is what systems put beside pictures."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def sort_members(names: Sequence[str], path: Path) -> tuple[list[str], list[str]]:
    """Return the names of pictures, and sentences on what was left out."""
    seen, outside, others = [], 0, Counter()
    for name in names:
        if is_outside(name):
            outside += 1
        elif not is_hidden(name):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in SUFFIXES:
                seen.append(name)
            else:
                others[suffix or "no suffix"] += 1
    notes = []
    if others:
        kinds = ", ".join(f"{others[suffix]} {suffix}" for suffix in sorted(others))
        notes.append(f"Members that are not pictures were ignored: {kinds}.")
    if outside:
        notes.append(f"Members whose names lead out of the archive were left out: {outside}.")
    if not seen:
        raise AuditError(" ".join(("The archive holds no pictures.", *notes)), path, f"Pack {' '.join(SUFFIXES)}.")
    return seen, notes


def stamp(path: Path) -> tuple[str, int, int]:
    """Return name, size and time of change of a file."""
    found = os.stat(path)
    return path.name, found.st_size, found.st_mtime_ns


# Zip


def open_zip(path: Path, reading: Reading) -> Source:
    """Return the pictures of a zip, sorted by name."""
    with told_as_damaged(path), zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist() if not member.is_dir()}
        repeated = len([m for m in archive.infolist() if not m.is_dir()]) - len(members)
        names, notes = sort_members(sorted(members), path)
        refuse_bomb(sum(m.compress_size for m in members.values()), sum(m.file_size for m in members.values()), path)
        labels = edm_labels(archive, members, path)
    if repeated:
        raise AuditError(f"{repeated} members of the archive have the name of another one", path, _REMEDY)
    for name in names:
        refuse_large(name, members[name].file_size, path)

    def decoded(rows: Sequence[int], tally: Counter[str]) -> Iterator[Image]:
        with told_as_damaged(path), zipfile.ZipFile(path) as archive:
            for row in rows:
                with told_as_damaged(Path(f"{path}: {names[row]}")):
                    content = archive.read(members[names[row]])
                yield pictures.decode(BytesIO(content), f"{path}: {names[row]}", reading, tally)

    found = [labels.get(name, "") for name in names] if labels else classes_of(names)
    return with_labels(names, [stamp(path)], decoded, notes, found)


def edm_labels(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], path: Path) -> dict[str, str]:
    """Return the classes that ``dataset.json`` gives, none where there is no such file."""
    member = members.get("dataset.json")
    if member is None:
        return {}
    refuse_large("dataset.json", member.file_size, path)
    try:
        pairs = json.loads(archive.read(member)).get("labels") or []
        return {str(name): str(label) for name, label in pairs}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise AuditError(
            f"The labels in dataset.json cannot be read: {error}", path, 'Write {"labels": [["a.png", 0], ...]}.'
        ) from error


def with_labels(
    names: list[str],
    stamps: list[Any],
    decoded: Callable[[Sequence[int], Counter[str]], Iterator[Image]],
    notes: Sequence[str],
    labels: Sequence[str],
) -> Source:
    """Return a source whose labels, if any, are known."""
    columns = {"label": lambda: labels} if labels else {}
    return Source(names, stamps, decoded, tuple(notes), columns, "label" if labels else "")


# Tar


class _Member(tarfile.TarInfo):
    """A member whose extended header is not read into memory whatever size it claims."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in EXTENDED and self.size > LARGEST_HEADER:
            raise tarfile.ReadError(f"an extended header claims {self.size:,} bytes")
        return super()._proc_member(archive)


def members_of(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield the regular files of a tar one after the other, in bounded memory."""
    packed = path.stat().st_size
    with tarfile.open(path, "r:*", tarinfo=_Member) as archive:
        while (member := archive.next()) is not None:
            refuse_bomb(packed, member.offset_data + max(member.size, 0), path)
            archive.members.clear()  # tarfile would remember every member, of millions
            member.name = member.name.removeprefix("./")
            if member.isreg() and not member.issparse():
                yield archive, member


def open_tar(path: Path, reading: Reading) -> Source:
    """Return the pictures of a tar, in the order of the archive; links and devices inside it are not followed."""
    every, classes = [], {}
    with told_as_damaged(path):
        for archive, member in members_of(path):
            every.append(member.name)
            if member.name.endswith(".cls") and member.size < LARGEST_HEADER:
                classes[stem(member.name)] = archive.extractfile(member).read().decode("utf-8", "replace").strip()
    names, notes = sort_members(every, path)
    wanted_at = {name: row for row, name in enumerate(names)}
    if len(wanted_at) < len(names):
        raise AuditError(f"{len(names) - len(wanted_at)} members have the name of another one", path, _REMEDY)

    def decoded(rows: Sequence[int], tally: Counter[str]) -> Iterator[Image]:
        wanted = set(rows)
        for name, content in contents(path, {name for name in names if wanted_at[name] in wanted}):
            yield pictures.decode(BytesIO(content), f"{path}: {name}", reading, tally)

    labels = [classes.get(stem(name), "") for name in names] if classes else classes_of(names)
    return with_labels(names, [stamp(path)], decoded, notes, labels)


def contents(path: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the bytes of the members that are wanted."""
    with told_as_damaged(path):
        for archive, member in members_of(path):
            if member.name in wanted:
                refuse_large(member.name, member.size, path)
                content = archive.extractfile(member).read()
                if len(content) < member.size:
                    raise tarfile.ReadError(f"{member.name} ends early")
                yield member.name, content


def stem(name: str) -> str:
    """Return what the members of one webdataset example share: the name up to the first dot of its last part."""
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.split('.')[0]}"


def joined(folder: Path, sources: Sequence[Source], names: Sequence[str]) -> Source:
    """Return several sources as one; ids begin with the name of theirs."""
    ids = [f"{name}/{each}" for name, source in zip(names, sources, strict=True) for each in source.ids]
    starts = [sum(len(source.ids) for source in sources[:i]) for i in range(len(sources))]

    def decoded(rows: Sequence[int], tally: Counter[str]) -> Iterator[Image]:
        for start, source in zip(starts, sources, strict=True):
            inside = [row - start for row in rows if 0 <= row - start < len(source.ids)]
            yield from source.pictures(inside, tally)

    shared = [name for name in sources[0].columns if all(name in source.columns for source in sources)]
    columns = {
        name: (lambda name=name: [each for source in sources for each in source.columns[name]()]) for name in shared
    }
    notes = tuple(f"{name}: {note}" for name, source in zip(names, sources, strict=True) for note in source.notes)
    stamps = [each for source in sources for each in source.stamps]
    return Source(ids, stamps, decoded, notes, columns, "label" if "label" in columns else "")


KIND = Kind(claims, open_archive)
