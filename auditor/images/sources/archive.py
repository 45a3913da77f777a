"""Pictures inside a ``.zip`` or ``.tar`` (webdataset shards among them), read in place: nothing is unpacked to disk.

Labels come from ``dataset.json`` inside a zip (EDM), from ``.cls`` members beside the pictures (webdataset), else from
folders.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from auditor.errors import AuditError
from auditor.images import pictures, sources
from auditor.images.sources import SUFFIXES, Kind, Place, Reading, Source

if TYPE_CHECKING:
    from PIL.Image import Image

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LARGEST_HEADER = 2**20  # bytes of a tar member's extended header, which tarfile reads at once
EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_DAMAGED = (
    *(OSError, EOFError, ValueError, RuntimeError, NotImplementedError, MemoryError),
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error),
)
_REMEDY = "Copy the archive again, or pack the pictures anew without encryption."


def claims(path: Path) -> bool:
    """Return whether this is an archive, or a folder of webdataset shards."""
    if path.is_dir():
        return sources.holds(path, (".tar",))
    return path.name.lower().endswith((".zip", *TAR_SUFFIXES))


def open_archive(place: Place, reading: Reading) -> Source:
    """Return the pictures of an archive by their member names; of several shards by shard and member name."""
    if place.part is not None:
        raise AuditError(f"An archive of pictures has no part {place.part!r}", place, f"Give {place.path}.")
    if place.path.is_dir():
        shards = sorted(place.path.glob("*.tar"))
        return joined([open_tar(shard, reading) for shard in shards], [shard.name for shard in shards])
    return (open_zip if place.path.suffix.lower() == ".zip" else open_tar)(place.path, reading)


def told_as_damaged(where: object) -> AbstractContextManager[None]:
    """Turn what a damaged archive raises into one error."""
    return sources.told_as("This archive cannot be read", where, _REMEDY, _DAMAGED)


def refuse_large(name: str, size: int, path: Path) -> None:
    """Refuse a picture that no memory should hold."""
    if size > pictures.LARGEST_FILE:
        raise AuditError(f"The picture has {size / 2**20:,.0f} MiB", f"{path}: {name}", "Save it smaller.")


def is_hidden(name: str) -> bool:
    """Return whether a member is what systems put beside pictures."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def sort_members(names: Sequence[str], path: Path, reading: Reading) -> tuple[list[str], list[str]]:
    """Return the names of pictures, and sentences on what was left out."""
    seen, outside, others = [], 0, Counter[str]()
    for name in names:
        if sources.is_outside(name):
            outside += 1
        elif not is_hidden(name):
            suffix = sources.suffix_of(name)
            if suffix in SUFFIXES:
                seen.append(name)
            else:
                others[suffix or "no suffix"] += 1
    sources.refuse_left_out(others, len(seen), reading, path)
    notes = sources.told_others("Members", others)
    if outside:
        notes.append(f"Members whose names lead out of the archive were left out: {outside}.")
    if not seen:
        raise AuditError(" ".join(("The archive holds no pictures.", *notes)), path, f"Pack {' '.join(SUFFIXES)}.")
    return seen, notes


# Zip


def open_zip(path: Path, reading: Reading) -> Source:
    """Return the pictures of a zip, sorted by name."""
    with told_as_damaged(path), zipfile.ZipFile(path) as archive:
        every = [member for member in archive.infolist() if not member.is_dir()]
        members = {member.filename: member for member in every}
        repeated = len(every) - len(members)
        names, notes = sort_members(sorted(members), path, reading)
        packed, unpacked = (sum(getattr(m, size) for m in members.values()) for size in ("compress_size", "file_size"))
        sources.refuse_bomb(packed, unpacked, path)
        labels = edm_labels(archive, members, len(names), path)
    if repeated:
        raise AuditError(f"{repeated} members of the archive have the name of another one", path, _REMEDY)
    for name in names:
        refuse_large(name, members[name].file_size, path)

    def decoded(rows: Sequence[int], tally: Counter[str]) -> Iterator[Image]:
        with told_as_damaged(path), zipfile.ZipFile(path) as archive:
            for row in rows:
                with told_as_damaged(f"{path}: {names[row]}"):
                    content = archive.read(members[names[row]])
                yield pictures.decode(BytesIO(content), f"{path}: {names[row]}", reading, tally)

    classes = [labels.get(name, "") for name in names] if labels else sources.classes_of(names)
    return Source(names, [sources.stamp(path)], decoded, tuple(notes)).with_classes(classes)


def edm_labels(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], pictures: int, path: Path
) -> dict[str, str]:
    """Return the classes that ``dataset.json`` gives, none where there is no such file."""
    member = members.get("dataset.json")
    if member is None:
        return {}
    most = sources.JSON_ROOM[0] + sources.JSON_ROOM[1] * pictures
    remedy = 'Write {"labels": [["a.png", 0], ...]}.'
    with archive.open(member) as stream:
        found = sources.json_within(stream.read(most + 1), most, f"{path}: dataset.json", remedy)
    try:
        pairs = found.get("labels") or []
        return {str(name): str(label) for name, label in pairs}
    except (ValueError, TypeError, AttributeError) as error:
        raise AuditError(f"The labels in dataset.json cannot be read: {error}", path, remedy) from error


# Tar


class _Member(tarfile.TarInfo):
    """A member whose extended header is not read into memory whatever size it claims."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in EXTENDED and self.size > LARGEST_HEADER:
            raise tarfile.ReadError(f"an extended header claims {self.size:,} bytes")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]  # tarfile does not show it
        return member


def members_of(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield the regular files of a tar one after the other, in bounded memory."""
    packed = path.stat().st_size
    with tarfile.open(path, "r:*", tarinfo=_Member) as archive:
        while (member := archive.next()) is not None:
            sources.refuse_bomb(packed, member.offset_data + max(member.size, 0), path)
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile would remember every member, of millions
            member.name = member.name.removeprefix("./")
            if member.isreg() and not member.issparse():
                yield archive, member


def content_of(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """Return the bytes of a regular file, which may end before the size that its header claims."""
    stream = archive.extractfile(member)
    assert stream is not None, "only regular files are read"
    return stream.read()


def open_tar(path: Path, reading: Reading) -> Source:
    """Return the pictures of a tar, in the order of the archive; links and devices inside it are not followed."""
    every, classes = [], {}
    with told_as_damaged(path):
        for archive, member in members_of(path):
            every.append(member.name)
            if member.name.endswith(".cls") and member.size < LARGEST_HEADER:
                classes[stem(member.name)] = content_of(archive, member).decode("utf-8", "replace").strip()
    names, notes = sort_members(every, path, reading)
    wanted_at = {name: row for row, name in enumerate(names)}
    if len(wanted_at) < len(names):
        raise AuditError(f"{len(names) - len(wanted_at)} members have the name of another one", path, _REMEDY)

    def decoded(rows: Sequence[int], tally: Counter[str]) -> Iterator[Image]:
        wanted = set(rows)
        for name, content in contents(path, {name for name in names if wanted_at[name] in wanted}):
            yield pictures.decode(BytesIO(content), f"{path}: {name}", reading, tally)

    labels = [classes.get(stem(name), "") for name in names] if classes else sources.classes_of(names)
    return Source(names, [sources.stamp(path)], decoded, tuple(notes)).with_classes(labels)


def contents(path: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the bytes of the members that are wanted."""
    with told_as_damaged(path):
        for archive, member in members_of(path):
            if member.name in wanted:
                refuse_large(member.name, member.size, path)
                content = content_of(archive, member)
                if len(content) < member.size:
                    raise tarfile.ReadError(f"{member.name} ends early")
                yield member.name, content


def stem(name: str) -> str:
    """Return what the members of one webdataset example share: the name up to the first dot of its last part."""
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.split('.')[0]}"


def joined(shards: Sequence[Source], names: Sequence[str]) -> Source:
    """Return several shards as one source; ids begin with the name of theirs."""
    ids = [f"{name}/{each}" for name, shard in zip(names, shards, strict=True) for each in shard.ids]
    notes = tuple(f"{name}: {note}" for name, shard in zip(names, shards, strict=True) for note in shard.notes)
    labels = [each for shard in shards for each in shard.column("label")] if all(each.label for each in shards) else []
    stamps = [each for shard in shards for each in shard.stamps]
    return Source(ids, stamps, sources.in_turn(shards), notes).with_classes(labels)


KIND = Kind(claims, open_archive)
