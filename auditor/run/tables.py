"""Parquet tables: written with the type, unit and meaning of every column, and read.

Field metadata carries unit and description; because pandas drops field metadata, both
also go into the schema's ``PANDAS_ATTRS``, which pandas keeps as ``df.attrs``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.errors import AuditError
from auditor.run.columns import Column
from auditor.run.files import atomic

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def schema(columns: Sequence[Column]) -> pa.Schema:
    """Return the Arrow schema with units and descriptions."""
    import pyarrow as pa

    types = {"category": pa.dictionary(pa.int32(), pa.string()), "bool": pa.bool_()}
    fields = [
        pa.field(
            c.name,
            types.get(c.type) or getattr(pa, c.type)(),
            metadata={"unit": c.unit, "description": c.description},
        )
        for c in columns
    ]
    attrs = {c.name: f"{c.description} [{c.unit}]" if c.unit else c.description for c in columns}
    return pa.schema(fields, metadata={"PANDAS_ATTRS": json.dumps(attrs)})


def write(path: Path, columns: Sequence[Column], data: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Write a table atomically; ``data`` maps columns to arrays, or is a sequence of rows."""
    with atomic(path) as temporary:
        write_here(temporary, columns, data)


def write_here(path: Path, columns: Sequence[Column], data: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Write a table to exactly this path."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    layout = schema(columns)
    if isinstance(data, Mapping):
        table = pa.table([to_arrow(data[field.name], field.type) for field in layout], schema=layout)
    else:
        table = pa.Table.from_pylist([dict(row) for row in data], schema=layout)
    pq.write_table(table, path, compression="zstd")


def to_arrow(values: Any, kind: pa.DataType) -> pa.Array:
    """Return an Arrow array of this type; categories are encoded in order of first appearance."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return pa.array(list(values), pa.string()).dictionary_encode().cast(kind)
    return pa.array(values, kind)


@dataclass(frozen=True)
class Categories:
    """A column of names: ``names[codes]``. All such columns of one table share their ``names``."""

    codes: np.ndarray  # int64 [n]
    names: np.ndarray  # object [n names]

    @property
    def values(self) -> np.ndarray:
        """The column as an object array."""
        values: np.ndarray = self.names[self.codes]
        return values


def read(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return a table as pandas, with the columns' meaning in ``df.attrs``.

    Raises
    ------
    AuditError
        If it is missing or unreadable.
    """
    found = arrow_table(path, columns)
    frame: pd.DataFrame = found.to_pandas(use_threads=False)
    frame.attrs = json.loads((found.schema.metadata or {}).get(b"PANDAS_ATTRS", b"{}"))
    return frame


def arrow_table(path: Path, columns: Sequence[str] | None) -> pa.Table:
    """Return columns of a Parquet file as Arrow has them: the one reader, in one thread, that all others use."""
    import pyarrow.parquet as pq

    with readable(path):
        return pq.ParquetFile(path).read(None if columns is None else list(columns), use_threads=False)


def arrays(path: Path, columns: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the columns of a table as arrays, float32 as float64, and categories as ``Categories``.

    What hundreds of tables are read with: pandas would take several times as long.

    Raises
    ------
    AuditError
        If it is missing or unreadable.
    """
    import pyarrow as pa

    table = arrow_table(path, columns)
    single = {name: table.column(name).combine_chunks() for name in table.column_names}
    named = [name for name, column in single.items() if pa.types.is_dictionary(column.type)]
    found = {name: plain(column) for name, column in single.items() if name not in named}
    if named:
        shared = pa.chunked_array([single[name] for name in named]).unify_dictionaries()
        names = shared.chunk(0).dictionary.to_numpy(zero_copy_only=False)
        found |= {name: Categories(plain(shared.chunk(i).indices), names) for i, name in enumerate(named)}
    return found


def runs_of(*columns: Categories) -> Iterator[tuple[Any, ...]]:
    """Yield the slices of consecutive rows in which all columns stay the same, and what they are there."""
    codes = np.column_stack([column.codes for column in columns])
    ends = [*(np.flatnonzero((codes[1:] != codes[:-1]).any(axis=1)) + 1).tolist(), len(codes)]
    for start, end in pairwise([0, *ends]):
        yield slice(start, end), *(str(column.names[column.codes[start]]) for column in columns)


def plain(column: pa.Array) -> np.ndarray:
    """Return an Arrow array as numbers of 64 bits, truth values or objects."""
    values: np.ndarray = column.to_numpy(zero_copy_only=False)
    return values.astype({"f": np.float64, "i": np.int64}.get(values.dtype.kind, values.dtype))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a table is read into an error that says what to do."""
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise AuditError("A table of the run is missing.", path, "Give the audit run command again.") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise AuditError(
            f"A table cannot be read: {error}.", path, "Remove this file and give the audit run command again."
        ) from None
