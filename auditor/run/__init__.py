"""The run directory: names, keys, atomic writes, resume, lock. It knows files, not their meaning.

Beside a finished artifact ``X.npy`` lies ``X.npy.key.json``: everything that changes its bytes
(the key), their sha256 and size, and the files of the run that it was made of, with their
sha256. It is written before the artifact appears, so an artifact without a matching key is
never taken for finished.
"""

from __future__ import annotations

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
    drop_batches,
    drop_parts,
    header,
    key_path,
    n_rows,
    opens,
    part_path,
    parts_folder,
    prepare_parts,
    read_beside,
    read_key,
    remove_if_empty,
    rows_of_part,
    save_part,
    sha256_of,
    sha256_of_rows,
    shorten,
    write_beside,
    write_json,
)
from auditor.run.machine import lock
from auditor.run.places import FilePlace

T = TypeVar("T")
MARK = "a run of audit\n"  # in .lock, which is written before anything else
SIGNS = ("format", "given", "versions")  # names in run.json, by which a run of an earlier version is known
OTHERS = 0o077  # what anybody but the owner may do
FORMAT_VERSION = 1  # of the run directory; raised when an older auditor could misread a newer run


class RunDirectory:
    """Owner of every path of one run.

    Parameters
    ----------
    root
        The run directory. It need not exist.
    shared
        Whether others may read it, as far as the folder and the user's umask let them.
    """

    def __init__(self, root: str | Path, shared: bool = False) -> None:
        self.root, self.shared, self._within = Path(root), shared, False

    def _inner(self, *names: str) -> RunDirectory:
        """Return a run within this one, which needs no proof of its own."""
        inner = RunDirectory(self.root.joinpath(*names), self.shared)
        inner._within = True
        return inner

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
    def names(self) -> Path:
        """The key by which names are hidden in what leaves, and what each stands for."""
        return self.root / "names.json"

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
        return self._inner("same-data")

    @property
    def final(self) -> RunDirectory:
        """The audit of the model that is to be released."""
        return self._inner("final")

    def pair(self, first: str, second: str) -> RunDirectory:
        """The audit of two of three or more trainings."""
        return self._inner("pairs", f"{first}+{second}")

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
            record = json.loads(self.record.read_bytes())
            version = int(record["format"])
            if version <= FORMAT_VERSION:
                require_shape(record)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
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

    def earlier(self) -> dict[str, Any]:
        """Return run.json where there is one that can be read, else nothing: a kill or a crash may have torn it.

        Raises
        ------
        AuditError
            If a newer auditor wrote it.
        """
        if not self.record.is_file():
            return {}
        try:
            torn = not isinstance(json.loads(self.record.read_bytes()), dict)
        except (OSError, ValueError, RecursionError):
            torn = True
        return {} if torn else self.read_record()

    # writing ---------------------------------------------------------------

    def require_ours(self) -> None:
        """Refuse a folder that is neither empty nor a run: nothing of somebody's is overwritten or removed.

        Raises
        ------
        AuditError
            If it is a file, cannot be looked at, or holds something else.
        """
        remedy = "Choose another --out."
        try:
            if not self.root.exists():
                return
            if not self.root.is_dir():
                raise AuditError("The run directory is a file.", self.root, remedy)
            names = {each.name for each in os.scandir(self.root)}
            if names and not (self._within or self._is_run(names)):
                raise AuditError("This folder is neither empty nor a run.", self.root, f"{remedy} Nothing was written.")
        except OSError as error:
            raise AuditError(f"Cannot look at this folder: {error.strerror}.", self.root, remedy) from None

    def _is_run(self, names: set[str]) -> bool:
        """Return whether a folder of these names is a run, begun or finished, of this version or an earlier one."""
        if ".lock" in names:
            lock = self.root / ".lock"
            if lock.is_file() and lock.read_bytes()[: len(MARK)] == MARK.encode():
                return True
            if names <= {".lock", "log.txt"} or next(self.root.rglob("*.key.json"), None) is not None:
                return True  # an earlier version's, stopped early or without its record
        try:
            record = json.loads(self.record.read_bytes())
        except (OSError, ValueError, RecursionError):
            return False
        return isinstance(record, dict) and all(name in record for name in SIGNS)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for one writer; a second one gets an error at once.

        What is written meanwhile is the owner's alone, whatever the umask, unless the run is ``shared``.
        """
        self.require_ours()
        mask = None if self.shared else os.umask(OTHERS)
        try:
            try:
                self.root.mkdir(parents=True, exist_ok=True, mode=0o777 if self.shared else 0o700)
                handle = open(self.root / ".lock", "a")  # noqa: SIM115  closed below, when the lock is given back
            except OSError as error:
                raise AuditError(f"Cannot write here: {error.strerror}.", self.root, "Choose another --out.") from None
            with handle:
                try:
                    lock(handle)
                except BlockingIOError:
                    raise AuditError(
                        "Another process is writing this run.", self.root, "Wait for it, or choose another --out."
                    ) from None
                self._mark()
                if not self.shared:
                    self._make_private()
                yield
        finally:
            if mask is not None:
                os.umask(mask)

    def _mark(self) -> None:
        """Say that this folder is a run, before anything else is written."""
        path = self.root / ".lock"
        if path.read_bytes() != MARK.encode():
            path.write_text(MARK)  # in place: the lock is held on this very file

    def _make_private(self) -> None:
        """Take from others what they may do in this folder, or refuse it."""
        try:
            if self.root.stat().st_mode & OTHERS:
                self.root.chmod(0o700)
            is_open = self.root.stat().st_mode & OTHERS
        except OSError:
            is_open = OTHERS
        if is_open:
            raise AuditError(
                "Others may look into this folder, and it cannot be made private: a run holds training images.",
                self.root,
                "Choose another --out, or add --shared if they may see them.",
            )

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write run.json atomically."""
        write_json(self.record, {"format": FORMAT_VERSION, **record})

    # keys ------------------------------------------------------------------

    def beside(self, path: Path) -> Beside | None:
        """Return what lies beside a finished artifact, or None where there is none."""
        return read_beside(path) if path.is_file() else None

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
        yield from self.make_parts(path, key, range(have, n, batch_size), compute, made_of)
        self._assemble(path, key, range(have, n, batch_size), made_of)

    def make_parts(
        self,
        path: Path,
        key: Mapping[str, Any],
        starts: range,
        compute: Callable[[range], np.ndarray],
        made_of: Mapping[str, str] | None = None,
    ) -> Iterator[int]:
        """Make the batches that are not on disk yet; yield the rows finished after each."""
        prepare_parts(parts_folder(path), {"key": key, "made_of": made_of or {}})
        for start in starts:
            part = part_path(path, start)
            # A source that has grown since (more samples are asked for) leaves a last part that is too short.
            if rows_of_part(part) < min(starts.step, starts.stop - start):
                rows = compute(range(start, start + starts.step))
                with atomic(part) as temporary:
                    save_part(temporary, rows)
            yield min(start + starts.step, starts.stop)

    def adopt(self, path: Path, source: Path, made_of: Mapping[str, str] | None = None) -> None:
        """Take over a finished array of another run that differs or is longer: a hard link, or else a copy."""
        beside = read_beside(source) if source.exists() else None
        if beside is None or self.damage(source):
            return
        if self.key(path) == beside.key and n_rows(path) >= n_rows(source) and not self.damage(path):
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

    def table_digests(self) -> dict[str, str]:
        """Return the sha256 of the top tables, by name."""
        return {path.stem: sha256_of(path) for path in sorted(self.root.glob("*.parquet"))}

    def place(self, place: FilePlace, of: str, space: str = "") -> Path:
        """Return where the file of an image set, a control, or twin/step lies, in a space where there are any."""
        return self.root / place.file(of, space)

    def damage(self, path: Path) -> str:
        """Return what is wrong with the bytes of an artifact that is there, in a few words; empty where nothing is.

        A file of an earlier version, beside which no digest lies, passes where it can be opened.
        """
        if not path.exists():
            return ""
        beside = read_beside(path)
        if beside is None:
            return f"{path.name} has no readable key beside it"
        if beside.sha256:
            has_others = sha256_of(path) not in (beside.sha256, beside.becoming)
            return f"{path.name} has other bytes than when it was made" if has_others else ""
        return "" if n_rows(path) or opens(path) else f"{path.name} cannot be read"

    def other_sources(self, path: Path) -> list[str]:
        """Return the files of the run that an artifact was made from and that are others now.

        What is gone is told of itself. An array that has grown since is what it was where its first rows are.
        """
        beside = self.beside(path)
        found = []
        for name, sha256 in (beside.made_of if beside is not None else {}).items():
            now = self.digests([name]).get(name)
            grown = now not in (None, sha256) and path.suffix == ".npy" and n_rows(path) < n_rows(self.root / name)
            if now not in (None, sha256) and not (grown and sha256_of_rows(self.root / name, n_rows(path)) == sha256):
                found.append(name)
        return found

    def sweep(self, transient: Iterable[str] = (), folders: Iterable[str] = ()) -> None:
        """Remove batches that outlived their artifact: a kill can come between its renaming and their removal.

        What lies in the ``transient`` folders and was not needed until now never will be. In the ``folders`` of
        artifacts files that a kill left half-written are removed, too. A file that is not the run's own stays.
        """
        dropped = list(transient)
        for name in {*folders, *dropped}:
            for path in list((self.root / name).rglob(".*.tmp")):
                path.unlink(missing_ok=True)
            for folder in list((self.root / name).rglob("*.partial")):
                self._sweep_parts(folder)
        for name in dropped:
            for beside in list((self.root / name).rglob("*.key.json")):
                self.drop(beside.with_name(beside.name.removesuffix(".key.json")))
            for folder in sorted((self.root / name).rglob("*"), reverse=True):
                remove_if_empty(folder)
            remove_if_empty(self.root / name)

    def _sweep_parts(self, folder: Path) -> None:
        """Remove batches whose artifact is finished, and those of which nothing says what they are parts of."""
        key = read_key(folder / "key.json")
        finished = (self.key(folder.with_suffix(suffix)) for suffix in (".npy", ".parquet"))
        if key is None or key.get("key", key) in finished:
            drop_batches(folder)

    def _reusable_rows(self, path: Path, key: Mapping[str, Any], batch_size: int) -> int:
        """Return how many whole batches' rows of a shorter finished artifact can be kept."""
        if self.key(path) != as_json(key) or self.damage(path):
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


def require_shape(record: Any) -> None:
    """Raise a ValueError that names the first part of run.json that is not of its kind; a part may be missing."""
    for path, kind in SHAPE.items():
        value = record
        for name in path.split("."):
            value = value.get(name, MISSING) if isinstance(value, dict) else MISSING
        if value is not MISSING and not isinstance(value, kind):
            raise ValueError(f"{path} is {shorten(repr(value))}, not {kind.__name__}")
    for path in REQUIRED:
        if path not in record:
            raise ValueError(f"it lacks {path}")


MISSING = object()
REQUIRED = ("status", "given", "scope", "budgets", "checks")
SHAPE: dict[str, type] = {
    **{name: str for name in ("status", "checks.recommendation.sentence", "resolved.device", "resolved.weights")},
    **{name: list for name in ("notes", "pairs", "scope.steps", "scope.spaces", "resolved.steps", "resolved.spaces")},
    **{name: list for name in ("checks.distrust", "checks.not_exchangeable", "checks.not_the_halves")},
    **{name: list for name in ("checks.caveats", "resolved.image_shape")},
    **{name: dict for name in ("given", "asked", "resolved", "scope", "budgets", "sets", "preflight", "checks")},
    **{
        name: dict
        for name in ("versions", "tables", "seconds", "resolved.flips", "resolved.pixels", "resolved.scheduler")
    },
    **{name: dict for name in ("resolved.model", "asked.sets", "asked.spaces", "asked.checkpoints")},
    **{name: dict for name in ("checks.recommendation", "checks.phase", "checks.smooth_reference")},
}  # of run.json, as far as reports, checks and plans go into it


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
