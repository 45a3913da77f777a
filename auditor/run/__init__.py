"""The run directory: names, keys, atomic writes, resume, lock. It knows files, not their meaning.

Beside a finished artifact ``X.npy`` lies ``X.npy.key.json``: everything that changes its bytes
(the key), their sha256 and size, and the files of the run that it was made of, with their
sha256. It is written before the artifact appears, so an artifact without a matching key is
never taken for finished.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from auditor.errors import AuditError
from auditor.run.files import (
    Beside,
    as_json,
    atomic,
    drop_parts,
    header,
    key_path,
    n_rows,
    part_path,
    parts_folder,
    prepare_parts,
    read_beside,
    read_key,
    save_array,
    sha256_of,
    write_beside,
    write_json,
)
from auditor.run.places import FilePlace

T = TypeVar("T")
FORMAT_VERSION = 1  # of the run directory; raised when an older auditor could misread a newer run


class RunDirectory:
    """Owner of every path of one run.

    Parameters
    ----------
    root
        The run directory. It need not exist.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    # names -----------------------------------------------------------------

    @property
    def record(self) -> Path:
        """run.json"""
        return self.root / "run.json"

    @property
    def log(self) -> Path:
        """Libraries' chatter and progress, in words."""
        return self.root / "log.txt"

    @property
    def report(self) -> Path:
        """The report as a page for a browser."""
        return self.root / "report.html"

    def table(self, name: str) -> Path:
        """One of the top tables: checkpoints, measurements, metrics, onsets, verdicts."""
        return self.root / f"{name}.parquet"

    @property
    def same_data(self) -> RunDirectory:
        """The audit of twin a against another training on the same half."""
        return RunDirectory(self.root / "same-data")

    def pair(self, first: str, second: str) -> RunDirectory:
        """The audit of two of three or more trainings."""
        return RunDirectory(self.root / "pairs" / f"{first}+{second}")

    # reading ---------------------------------------------------------------

    def read_record(self) -> dict[str, Any]:
        """Return run.json.

        Raises
        ------
        AuditError
            If there is no run, its record is unreadable, or a newer auditor wrote it.
        """
        if not self.record.is_file():
            raise AuditError(
                "There is no audit here: run.json is missing.", self.root, "Give a folder that audit run wrote."
            )
        try:
            record = json.loads(self.record.read_text())
            version = int(record["format"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AuditError(
                f"run.json cannot be read: {error}.",
                self.record,
                "Remove this file and give the audit run command again: what is finished is kept.",
            ) from None
        if version > FORMAT_VERSION:
            raise AuditError(
                f"The run has format {version}, this auditor reads up to {FORMAT_VERSION}.",
                self.root,
                "Upgrade auditor.",
            )
        values: dict[str, Any] = record
        return values

    # writing ---------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for one writer; a second one gets an error at once."""
        if self.root.exists() and not self.root.is_dir():
            raise AuditError("The run directory is a file.", self.root, "Choose another --out.")
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = open(self.root / ".lock", "a")  # noqa: SIM115  closed below, when the lock is given back
        except OSError as error:
            raise AuditError(f"Cannot write here: {error.strerror}.", self.root, "Choose another --out.") from None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AuditError(
                    "Another process is writing this run.", self.root, "Wait for it, or choose another --out."
                ) from None
            yield

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write run.json atomically."""
        write_json(self.record, {"format": FORMAT_VERSION, **record})

    # keys ------------------------------------------------------------------

    def beside(self, path: Path) -> Beside | None:
        """Return what lies beside a finished artifact, or None where there is none."""
        return read_beside(path) if path.exists() else None

    def key(self, path: Path) -> dict[str, Any] | None:
        """Return the key of a finished artifact, or None where there is none."""
        beside = self.beside(path)
        return None if beside is None else beside.key

    def digests(self, files: Iterable[str]) -> dict[str, str]:
        """Return the sha256 of these files of the run, as recorded beside them or as they are; not of absent ones."""
        found = {}
        for name in files:
            path = self.root / name
            if path.is_file():
                beside = read_beside(path)
                found[name] = beside.sha256 if beside is not None and beside.sha256 else sha256_of(path)
        return found

    @contextmanager
    def artifact(self, path: Path, key: Mapping[str, Any], made_of: Mapping[str, str] | None = None) -> Iterator[Path]:
        """Yield a temporary path to write; afterwards it becomes the artifact, with what proves it beside it.

        ``made_of`` holds the files of the run that it was made from, with their sha256.
        """
        with atomic(path) as temporary:
            yield temporary
            beside = Beside(as_json(key), sha256_of(temporary), temporary.stat().st_size, dict(made_of or {}))
            old = self.beside(path)
            if old is not None and old.key == beside.key:
                # a longer one: whatever moment a kill picks, the bytes are those of one of both digests
                write_beside(path, replace(old, becoming=beside.sha256))
            else:
                path.unlink(missing_ok=True)  # so that no moment pairs the old bytes with the new key
                write_beside(path, beside)
        write_beside(path, beside)

    def build(
        self,
        path: Path,
        key: Mapping[str, Any],
        n: int,
        batch_size: int,
        compute: Callable[[range], np.ndarray],
        made_of: Mapping[str, str] | None = None,
    ) -> Iterator[int]:
        """Make an array artifact of ``n`` rows in batches; resume, or extend a shorter one.

        ``compute(rows)`` returns the rows of one full batch (the last range runs past n
        and is cut here). Yields the number of rows finished after each batch.
        """
        have = self._reusable_rows(path, key, batch_size)
        yield from self.make_parts(path, key, range(have, n, batch_size), compute)
        self._assemble(path, key, range(have, n, batch_size), made_of)

    def make_parts(
        self, path: Path, key: Mapping[str, Any], starts: range, compute: Callable[[range], np.ndarray]
    ) -> Iterator[int]:
        """Make the batches that are not on disk yet; yield the rows finished after each."""
        folder = parts_folder(path)
        prepare_parts(folder, key)
        for start in starts:
            part = part_path(path, start)
            # A source that has grown since (more samples are asked for) leaves a last part that is too short.
            if n_rows(part) < min(starts.step, starts.stop - start):
                rows = compute(range(start, start + starts.step))
                with atomic(part) as temporary:
                    save_array(temporary, rows)
            yield min(start + starts.step, starts.stop)

    def adopt(self, path: Path, source: Path, made_of: Mapping[str, str] | None = None) -> None:
        """Take over a finished array of another run that differs or is longer: a hard link, or else a copy."""
        beside = read_beside(source) if source.exists() else None
        if beside is None or (self.key(path) == beside.key and n_rows(path) >= n_rows(source)):
            return
        with self.artifact(path, beside.key, made_of) as temporary:
            temporary.unlink(missing_ok=True)
            try:
                os.link(source, temporary)
            except OSError:  # another file system
                shutil.copyfile(source, temporary)

    def drop(self, path: Path) -> None:
        """Remove an artifact that is not needed any more, and what lies beside it."""
        path.unlink(missing_ok=True)
        key_path(path).unlink(missing_ok=True)

    def place(self, place: FilePlace, of: str, space: str = "") -> Path:
        """Return where the file of an image set, a control, or twin/step lies, in a space where there are any."""
        return self.root / place.file(of, space)

    def sweep(self, transient: Iterable[str] = (), folders: Iterable[str] = ()) -> None:
        """Remove batches that outlived their artifact: a kill can come between its renaming and their removal.

        What lies in the ``transient`` folders and was not needed until now never will be. In the ``folders`` of
        artifacts files that a kill left half-written are removed, too; elsewhere such a file may be somebody's.
        """
        for name in folders:
            for path in list((self.root / name).rglob(".*.tmp")):
                path.unlink(missing_ok=True)
        for name in transient:
            shutil.rmtree(self.root / name, ignore_errors=True)
        for folder in list(self.root.rglob("*.partial")):
            key = read_key(folder / "key.json")
            for suffix in (".npy", ".parquet"):
                path = folder.with_suffix(suffix)
                if key is not None and self.key(path) == key:
                    drop_parts(path)

    def _reusable_rows(self, path: Path, key: Mapping[str, Any], batch_size: int) -> int:
        """Return how many whole batches' rows of a shorter finished artifact can be kept."""
        if self.key(path) != as_json(key):
            return 0
        return n_rows(path) // batch_size * batch_size

    def _assemble(self, path: Path, key: Mapping[str, Any], starts: range, made_of: Mapping[str, str] | None) -> None:
        """Join the rows that are kept, those before ``starts``, and the parts into the artifact, a batch at a time."""
        have, n, batch_size = starts.start, starts.stop, starts.step
        old: np.ndarray = np.load(path if have else part_path(path, have), mmap_mode="r")
        # Written in order and not through a memory map, which on a full disk ends the process by SIGBUS.
        with self.artifact(path, key, made_of) as temporary, open(temporary, "wb") as handle:
            np.lib.format.write_array_header_1_0(handle, header(old.dtype, (n, *old.shape[1:])))
            for start in range(0, have, batch_size):
                handle.write(old[start : min(start + batch_size, have)].tobytes())
            for start in starts:
                handle.write(np.load(part_path(path, start))[: n - start].tobytes())
        drop_parts(path)


def restored(kind: type[T], values: Mapping[str, Any], where: Path) -> T:
    """Return a frozen value (Scope, Budgets) as run.json holds it.

    Raises
    ------
    AuditError
        If it holds what this version does not know.
    """
    try:
        return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
    except TypeError as error:
        raise AuditError(
            f"run.json holds settings that this auditor does not know: {error}.",
            where,
            "Use the version of auditor that made the run; run.json names it.",
        ) from None
