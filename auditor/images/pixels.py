"""Pixels at the model's shape: decoded on first use, in memory or, where a set is large, on disk."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np

from auditor.errors import AuditError
from auditor.images import identity, pictures
from auditor.images.sources import Reading, Source

IN_MEMORY = 2**28  # bytes: larger sets are memory-mapped


@dataclass(frozen=True)
class Facts:
    """What is known of a set once all of it has been decoded."""

    digests: tuple[str, ...]
    blank: np.ndarray  # bool [n]
    tally: Counter[str]
    notes: tuple[str, ...]


class Decoded:
    """An array uint8 ``[n, h, w, c]`` that is decoded when it is first looked at."""

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, shape: tuple[int, ...], decode: Callable[[], np.ndarray]) -> None:
        self.shape, self._decode = shape, decode
        self._array: np.ndarray | None = None

    @property
    def array(self) -> np.ndarray:
        """The decoded array."""
        if self._array is None:
            self._array = self._decode()
        return self._array

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.array[rows]

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array, dtype=dtype, copy=copy)

    def __getattr__(self, name: str) -> Any:
        """Return what the decoded array has: mean, reshape, ..."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.array, name)


def recalled(
    opened: Source,
    where: str,
    image_shape: tuple[int, int, int],
    reading: Reading,
    scratch: str | Path | None,
    known: Facts | None,
) -> tuple[Facts, np.ndarray]:
    """Return what is known of a source and its pixels; nothing is decoded where it is known already."""
    n = len(opened.ids)
    if known is None or len(known.digests) != n:
        return decoded(opened, where, image_shape, reading, scratch)

    def decode_again() -> np.ndarray:
        facts, array = decoded(opened, where, image_shape, reading, scratch)
        if facts.digests != known.digests:
            raise AuditError(
                "Pictures have changed although their files have the same sizes and times",
                where,
                "Give --no-cache once, or the same command again when nothing writes there.",
            )
        return array

    notes = pictures.notes(known.tally, n, image_shape, reading)
    # Looked at, it is an array.
    return replace(known, notes=notes), cast(np.ndarray, Decoded((n, *image_shape), decode_again))


def decoded(
    opened: Source, where: str, image_shape: tuple[int, int, int], reading: Reading, scratch: str | Path | None
) -> tuple[Facts, np.ndarray]:
    """Return what one pass over a source tells of its pictures, and these at the model's shape, ``[n, h, w, c]``."""
    n, tally = len(opened.ids), Counter[str]()
    digests: list[str] = []
    blank: list[bool] = []

    def rows() -> Iterator[np.ndarray]:
        for image_id, picture in zip(opened.ids, opened.pictures(range(n), tally), strict=True):
            row = pictures.fit(picture, image_shape, f"{where}: {image_id}", reading, tally)
            digests.append(identity.digest(row))
            blank.append(identity.is_flat(row))
            yield row

    array = stored(n, rows(), scratch)
    notes = pictures.notes(tally, n, image_shape, reading)
    return Facts(tuple(digests), np.array(blank, dtype=bool), tally, notes), array


def stored(n: int, rows: Iterable[np.ndarray], scratch: str | Path | None) -> np.ndarray:
    """Return ``n`` rows of one shape and type as one array, in memory or memory-mapped.

    The file that is mapped ends with the process. It lies in ``scratch`` where that is a folder, else in the system's
    folder for temporary files.
    """
    rows = iter(rows)
    first = next(rows)
    shape, size = (n, *first.shape), n * first.nbytes
    every = chain([first], rows)
    if size <= IN_MEMORY:
        array = np.empty(shape, first.dtype)
        for target, row in zip(array, every, strict=True):
            target[...] = row
        return array
    folder = scratch if scratch is not None and Path(scratch).is_dir() else tempfile.gettempdir()
    if shutil.disk_usage(folder).free < size + 2**28:
        raise AuditError(
            f"{n:,} pictures need {size / 2**30:.1f} GiB at the model's shape, and the disk has less",
            folder,
            "Free some space, or set TMPDIR to a larger disk.",
        )
    # Written in order: writing through the map would end the process by SIGBUS on a full disk.
    with tempfile.TemporaryFile(dir=folder) as file:
        for row in every:
            file.write(row.tobytes())
        file.flush()
        return np.memmap(file, first.dtype, "r", shape=shape)


def scratch_near(folder: Path) -> Path:
    """Return where maps lie for what is written to a folder: on its disk, the first of its parents that exists."""
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
