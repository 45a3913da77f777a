"""Pixels at the model's shape: decoded on first use, in memory or, where a set is large, on disk."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auditor.errors import AuditError
from auditor.images import Reading, Source, pictures
from auditor.images.identity import BLANK_BELOW, digest

IN_MEMORY = 2**28  # bytes: larger sets are memory-mapped


@dataclass(frozen=True)
class Facts:
    """What is known of a set once all of it has been decoded."""

    digests: tuple[str, ...]
    blank: np.ndarray  # bool [n]
    tally: Counter[str]
    notes: tuple[str, ...]


class Pixels:
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

    def reshape(self, *shape: int) -> np.ndarray:
        """Return the decoded array in another shape."""
        return self.array.reshape(*shape)


def recalled(
    opened: Source,
    where: str,
    image_shape: tuple[int, int, int],
    reading: Reading,
    scratch: str | Path | None,
    known: Facts | None,
) -> tuple[Facts, np.ndarray | Pixels]:
    """Return what is known of a source and its pixels; nothing is decoded where it is known already."""
    shape = (len(opened.ids), *image_shape)

    def decode() -> tuple[Facts, np.ndarray]:
        looking = _Looking(opened, where, image_shape, reading)
        array = stored(shape, looking.rows(), scratch)
        return looking.facts(), array

    if known is None or len(known.digests) != len(opened.ids):
        return decode()

    def decode_again() -> np.ndarray:
        facts, array = decode()
        if facts.digests != known.digests:
            raise AuditError(
                "Pictures have changed although their files have the same sizes and times",
                where,
                "Give --no-cache once, or the same command again when nothing writes there.",
            )
        return array

    again = pictures.notes(known.tally, len(opened.ids), image_shape, reading)
    return Facts(known.digests, known.blank, known.tally, again), Pixels(shape, decode_again)


class _Looking:
    """One pass over a source: pixels are handed on, and what is to be known of them is kept."""

    def __init__(self, opened: Source, where: str, image_shape: tuple[int, int, int], reading: Reading) -> None:
        self.opened, self.where, self.image_shape, self.reading = opened, where, image_shape, reading
        self.tally: Counter[str] = Counter()
        self.digests: list[str] = []
        self.blank: list[bool] = []

    def rows(self) -> Iterator[np.ndarray]:
        """Yield the pictures at the model's shape."""
        ids = self.opened.ids
        found = self.opened.pictures(range(len(ids)), self.tally)
        for image_id, picture in zip(ids, found, strict=True):
            row = pictures.fit(picture, self.image_shape, f"{self.where}: {image_id}", self.reading, self.tally)
            self.digests.append(digest(row))
            self.blank.append(bool(row.std() < BLANK_BELOW))
            yield row

    def facts(self) -> Facts:
        """Return what was seen, after the last row."""
        notes = pictures.notes(self.tally, len(self.digests), self.image_shape, self.reading)
        return Facts(tuple(self.digests), np.array(self.blank, dtype=bool), self.tally, notes)


def stored(
    shape: tuple[int, ...],
    rows: Iterable[np.ndarray],
    scratch: str | Path | None,
    dtype: type[np.generic] = np.uint8,
) -> np.ndarray:
    """Return rows as one array: in memory, or memory-mapped from a file that ends with the process."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        array = np.empty(shape, dtype)
        for target, row in zip(array, rows, strict=True):
            target[...] = row
        return array
    folder = scratch if scratch is not None and Path(scratch).is_dir() else tempfile.gettempdir()
    if shutil.disk_usage(folder).free < size + 2**28:
        raise AuditError(
            f"{shape[0]:,} pictures need {size / 2**30:.1f} GiB at the model's shape, and the disk has less",
            folder,
            "Free some space, or set TMPDIR to a larger disk.",
        )
    # Written in order: writing through the map would end the process by SIGBUS on a full disk.
    with tempfile.TemporaryFile(dir=folder) as file:
        for row in rows:
            file.write(row.tobytes())
        file.flush()
        return np.memmap(file, dtype, "r", shape=shape)
