"""How files of a run are written: atomically, with the file beside each that proves it, in resumable parts."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from auditor.errors import AuditError

PART = re.compile(r"\d{8}\.npy|key\.json|\..+\.tmp")  # what lies in a folder of finished batches
SETTLED = 0.05  # seconds: a file that changed a moment ago may change again within one tick of its time of change
HASHED = 2**20  # bytes at once


@dataclass(frozen=True)
class Beside:
    """What lies beside a finished artifact: everything that changes its bytes, and a digest of them.

    Runs of earlier versions have the key alone; ``sha256`` is empty then.
    """

    key: dict[str, Any]
    sha256: str = ""
    bytes: int = 0
    made_of: Mapping[str, str] = field(default_factory=dict)  # file of the run -> its sha256 when this was made
    becoming: str = ""  # sha256 of the longer artifact that is about to take this one's place


def parts_folder(path: Path) -> Path:
    """Return the folder that holds the finished batches of an artifact in the making."""
    return path.with_name(path.stem + ".partial")


def part_path(path: Path, start: int) -> Path:
    """Return where the batch that begins at row ``start`` lies."""
    return parts_folder(path) / f"{start:08d}.npy"


def drop_parts(path: Path) -> None:
    """Remove the batches of an artifact that is finished."""
    drop_batches(parts_folder(path))


def drop_batches(folder: Path) -> None:
    """Remove a folder of batches, what says their key last; a file that is none of ours stays, and its folder."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir(), key=lambda each: each.name == "key.json"):
        if PART.fullmatch(path.name):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # somebody's file is in it
        folder.rmdir()


def key_path(path: Path) -> Path:
    """Return where the key of an artifact lies."""
    return path.with_name(path.name + ".key.json")


def as_json(value: Any) -> Any:
    """Return a value as it reads back from JSON (tuples become lists)."""
    return json.loads(json.dumps(value))


def n_rows(path: Path) -> int:
    """Return the rows of an ``.npy`` or Parquet file as its header says; 0 where it is missing or damaged."""
    try:
        if path.suffix == ".parquet":
            from pyarrow.parquet import read_metadata

            return int(read_metadata(path).num_rows)
        return len(np.load(path, mmap_mode="r"))
    except (OSError, ValueError, EOFError, TypeError):  # pyarrow's errors are ValueErrors; no length: a single number
        return 0


def opens(path: Path) -> bool:
    """Return whether an ``.npy`` or Parquet file can be read as one, also where it has no rows."""
    try:
        if path.suffix == ".parquet":
            from pyarrow.parquet import read_metadata

            read_metadata(path)
        else:
            np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return False
    return True


def remove_if_empty(folder: Path) -> None:
    """Remove a folder where nothing is in it."""
    if folder.is_dir() and not folder.is_symlink():
        with suppress(OSError):
            folder.rmdir()


def header(dtype: np.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the header of an ``.npy`` file in C order."""
    return {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}


def read_key(path: Path) -> dict[str, Any] | None:
    """Return JSON as it was written, or None where it is missing or damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_beside(path: Path) -> Beside | None:
    """Return what lies beside an artifact, or None where that is missing or damaged; a bare key is an earlier one's."""
    found = read_key(key_path(path))
    if found is None or not isinstance(found.get("key"), dict) or "sha256" not in found:
        return None if found is None else Beside(found)
    known = {name: value for name, value in found.items() if name in Beside.__dataclass_fields__}
    texts = [known.get("sha256"), known.get("becoming", "")]
    made_of = known.get("made_of", {})
    texts += [*made_of, *made_of.values()] if isinstance(made_of, dict) else [None]
    return Beside(**known) if all(isinstance(each, str) for each in texts) else None


def write_beside(path: Path, beside: Beside) -> None:
    """Write what lies beside an artifact."""
    write_json(key_path(path), {name: value for name, value in asdict(beside).items() if value or name != "becoming"})


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, as hex digits; read once as long as the file stays what it is."""
    there = os.stat(path)
    if there.st_ctime > time.time() - SETTLED:
        return read_sha256(path)
    return remembered_sha256(path, (there.st_dev, there.st_ino, there.st_ctime_ns, there.st_mtime_ns, there.st_size))


@lru_cache(maxsize=100_000)
def remembered_sha256(path: Path, stamp: tuple[int, ...]) -> str:
    """Return the sha256 of a file that has this stamp."""
    return read_sha256(path)


def read_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, as hex digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_of_rows(path: Path, rows: int) -> str:
    """Return the sha256 that an ``.npy`` file had when it held its first rows alone; empty where it cannot be told."""
    try:
        whole = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return ""
    total, head = hashlib.sha256(), io.BytesIO()
    np.lib.format.write_array_header_1_0(head, header(whole.dtype, (rows, *whole.shape[1:])))
    total.update(head.getvalue())
    at_once = max(1, HASHED // max(1, whole[:1].nbytes))
    for start in range(0, rows, at_once):
        total.update(whole[start : min(start + at_once, rows)].tobytes())
    return total.hexdigest()


def save_part(path: Path, array: np.ndarray) -> None:
    """Write a batch: an ``.npy`` file with the sha256 of what precedes behind it, which readers of arrays pass over."""
    save_array(path, array)
    digest = bytes.fromhex(read_sha256(path))
    with open(path, "ab") as handle:
        handle.write(digest)


def rows_of_part(path: Path) -> int:
    """Return the rows of a batch, 0 where it is missing or not as it was written."""
    try:
        content = path.read_bytes()
    except OSError:
        return 0
    whole = hashlib.sha256(content[:-32]).digest() == content[-32:]
    return n_rows(path) if whole else 0


def prepare_parts(parts: Path, key: Mapping[str, Any]) -> None:
    """Make the folder of finished batches, emptied if it was begun under another key."""
    key_file = parts / "key.json"
    if parts.exists() and read_key(key_file) != as_json(key):
        drop_batches(parts)
    parts.mkdir(parents=True, exist_ok=True)
    write_json(key_file, key)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an ``.npy`` under exactly this name (``np.save`` would append a suffix).

    Not by ``np.save``: on a full disk numpy 2.4 raises an OSError without an errno.
    """
    with open(path, "wb") as handle:
        np.lib.format.write_array_header_1_0(handle, header(array.dtype, array.shape))
        handle.write(array.tobytes())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: sorted keys, two spaces, a final newline."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced and renamed, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise AuditError(
                "The disk is full.", path, "Free some space and give the same command: the run resumes."
            ) from error
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Return what differs between two keys, as ``path: old -> new`` lines."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        lines = []
        for name in sorted({*old, *new}):
            lines += differences(old.get(name), new.get(name), f"{prefix}.{name}" if prefix else name)
        return lines
    return [] if old == new else [f"{prefix}: {shorten(old)} -> {shorten(new)}"]


def shorten(value: Any) -> str:
    """Return a value as text; long digests are cut."""
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "..."
