"""Pictures in Hugging Face data sets on disk: ``save_to_disk`` folders (Arrow) and Parquet files or folders.

Read with pyarrow a few rows at a time: the ``datasets`` library would first copy Parquet into its cache. Features
(which column holds the pictures, names of classes) are what ``datasets`` writes into the schema.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.errors import AuditError
from auditor.images import captions, pictures
from auditor.images.sources import (
    Kind,
    Place,
    Reading,
    Source,
    holds,
    json_within,
    one_of,
    refuse_bomb,
    require_room,
    stamp,
    suffix_of,
    told_as,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image

AT_ONCE = 64  # rows
MOST_SHARDS = 100_000
DATA_SUFFIXES = (".arrow", ".parquet")
SHARD = re.compile(r"(?:(.+)-)?([0-9]{3,})-of-([0-9]{3,})(?:-[0-9a-f]+)?\.(?:arrow|parquet)")
# Words by which the Hub tells splits where files are called otherwise.
SPLIT_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test"} | {
    word: "validation" for word in ("validation", "valid", "val", "dev")
}
MOST_JSON = 16 * 2**20  # bytes of what is said of a data set
GROUPS = ("group", "groups", "patient", "patient_id")
_REMEDY = "Write it again with datasets' save_to_disk or to_parquet, or copy it again."


def claims(path: Path) -> bool:
    """Return whether this is a Parquet file, a folder of them, or a saved data set."""
    if path.is_dir():
        saved = (path / "dataset_dict.json").is_file()
        return saved or holds(path, DATA_SUFFIXES) or bool(hub_files(path))
    return path.suffix.lower() in (".parquet", ".arrow")


def open_table(place: Place, reading: Reading) -> Source:
    """Return the pictures of a data set; the part is the split of a saved dictionary of data sets."""
    with told_as_damaged(place.path):
        files = files_of(place)
        looked_at = [look(file) for file in files]
        schema, counts = looked_at[0][0], [count for _, count in looked_at]
        features = features_of(schema, place)
        column = picture_column(schema, features, place)
    require_room(sum(counts), sum(file.stat().st_size for file in files), place)
    ids = [f"row/{row}" for row in range(sum(counts))]
    if not ids:
        raise AuditError("The data set has no rows", place, "Give one with pictures.")

    def decoded(rows: Sequence[int], tally: Counter[str]) -> Iterator[Image]:
        with told_as_damaged(place.path):
            for row, value in entries(files, counts, column, set(rows)):
                where = f"{place}: row {row}"
                yield pictures.decode(content_of(value, where), where, reading, tally)

    columns = {
        name: values_reader(files, counts, name, class_names(features.get(name, {}), place), place.path)
        for name in schema.names
        if name != column and is_plain(schema.field(name).type)
    }
    classes = [name for name in columns if features.get(name, {}).get("_type") == "ClassLabel"]
    label, group, caption = (one_of(columns, n) for n in ((*classes, "label"), GROUPS, captions.COLUMNS))
    with told_as_damaged(place.path):
        stamps = [stamp(file) for file in files] + stamps_of_named(files, column, schema)
    return Source(ids, stamps, decoded, columns=columns, label=label, group=group, caption=caption)


def told_as_damaged(path: Path) -> AbstractContextManager[None]:
    """Turn what pyarrow raises about a damaged file into one error."""
    import pyarrow as pa

    errors = (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError)
    return told_as("This data set cannot be read", path, _REMEDY, errors)


def files_of(place: Place) -> list[Path]:
    """Return the files of a data set, in order."""
    path = place.path
    if not path.is_dir():
        if place.part is not None:
            raise AuditError(f"A single file has no split {place.part!r}", place, f"Give {path}.")
        return [path]
    if (path / "dataset_dict.json").is_file():
        path = split_folder(path, place)
    elif not (path / "state.json").is_file():
        return of_split(splits_in(path), place)
    elif place.part is not None:
        raise AuditError(f"The data set has no splits, so it has no {place.part!r}", place, f"Give {path}.")
    state = path / "state.json"
    if state.is_file():
        listed = read_facts(state, place)
        parts = listed.get("_data_files") if isinstance(listed, dict) else None
        parts = parts if isinstance(parts, list) else [None]
        names = [str(each.get("filename") or "") if isinstance(each, dict) else "" for each in parts]
        if not all(names):
            raise AuditError("Its state.json names no files", place, _REMEDY)
        if any(os.path.basename(name) != name for name in names):
            raise AuditError("Its state.json names files outside of its folder", place, _REMEDY)
    else:
        names = sorted(each.name for each in path.iterdir() if each.suffix.lower() in DATA_SUFFIXES)
    if not names:
        raise AuditError("The data set has no data files", place, _REMEDY)
    return [path / name for name in names]


def hub_files(path: Path) -> list[Path]:
    """Return the data files of a folder as the Hub lays it out: in ``data/``, or in a folder for each split."""
    try:
        folders = [one for one in path.iterdir() if one.is_dir() and not one.name.startswith(".")]
    except OSError:
        return []
    here = [one for one in folders if one.name == "data" or one.name.lower() in SPLIT_WORDS]
    return sorted(one for folder in here for one in folder.glob("*") if suffix_of(one.name) in DATA_SUFFIXES)


def splits_in(path: Path) -> dict[str, list[Path]]:
    """Return the data files of a folder by split, in order; the empty name where names tell no split."""
    files = sorted(one for one in path.iterdir() if suffix_of(one.name) in DATA_SUFFIXES) or hub_files(path)
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(split_of(file), []).append(file)
    return found


def split_of(file: Path) -> str:
    """Return the split that the name of a data file, or of its folder, says; empty where it says none."""
    shard = SHARD.fullmatch(file.name)
    name = (shard[1] or "") if shard else file.stem
    words = re.split(r"[^a-z]+", name.lower())
    known = next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "")
    return (known if shard is None or known == name else name) or SPLIT_WORDS.get(file.parent.name.lower(), "")


def of_split(splits: Mapping[str, list[Path]], place: Place) -> list[Path]:
    """Return the files of the split asked for, or of the only one; all of its shards must be there."""
    names = sorted(splits)
    if not names:
        raise AuditError("The data set has no data files", place, _REMEDY)
    wanted = place.part if place.part is not None else names[0] if len(names) == 1 else None
    if wanted is None or wanted not in splits:
        shown = ", ".join(name or "files whose names tell none" for name in names)
        said = "Several splits could be the images" if wanted is None else f"There is no split {wanted!r}"
        first = "train" if "train" in splits else max(names)
        remedy = f"Write {place.path}:{first}." if first else f"Give {place.path}."
        raise AuditError(f"{said}; there are: {shown}", place, remedy)
    files = splits[wanted]
    numbers: dict[tuple[Path, str, str], set[int]] = {}
    for file in files:
        if shard := SHARD.fullmatch(file.name):
            numbers.setdefault((file.parent, shard[1] or "", shard[3]), set()).add(int(shard[2]))
    for (_, name, n), found in numbers.items():
        if absent := sorted(set(range(min(int(n), MOST_SHARDS))) - found):
            what = (
                f"{len(absent)} of {int(n)} shards of {name or 'the data set'} are missing, such as number {absent[0]}"
            )
            raise AuditError(what, place, "Copy the data set again: without them it is another one.")
    if len(numbers) > 1 and len({key[:2] for key in numbers}) < len(numbers):
        raise AuditError("Shards of two savings lie in one folder", place, "Keep those of one data set.")
    return files


def split_folder(path: Path, place: Place) -> Path:
    """Return the folder of the split asked for, or of the only one."""
    listed = read_facts(path / "dataset_dict.json", place)
    splits = listed.get("splits") if isinstance(listed, dict) else None
    if not isinstance(splits, list) or not all(isinstance(each, str) for each in splits):
        raise AuditError("Its dataset_dict.json names no splits", place, _REMEDY)
    if any(os.path.basename(str(name)) != name for name in splits):
        raise AuditError("Its dataset_dict.json names no splits", place, _REMEDY)
    wanted = splits[0] if place.part is None and len(splits) == 1 else place.part
    if wanted is None or wanted not in splits:
        said = "Several splits could be the images" if wanted is None else f"There is no split {wanted!r}"
        raise AuditError(f"{said}; there are: {', '.join(splits)}", place, f"Write {path}:{(splits or ['train'])[0]}.")
    return path / wanted


def read_facts(path: Path, place: Place) -> Any:
    """Return the value of a JSON file beside the data."""
    with open(path, "rb") as stream:
        return json_within(stream.read(MOST_JSON + 1), MOST_JSON, place, _REMEDY)


def look(file: Path) -> tuple[pa.Schema, int]:
    """Return schema and number of rows of one file, from its metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    if suffix_of(file.name) == ".parquet":
        with parquet.ParquetFile(file) as table:
            found = table.metadata
            groups = [found.row_group(i).total_byte_size for i in range(found.num_row_groups)]
            refuse_bomb(file.stat().st_size, max(groups, default=0), file)
            return table.schema_arrow, found.num_rows
    with pa.memory_map(str(file)) as source:  # mapped: batches are looked at, not read
        stream = pa.ipc.open_stream(source)
        return stream.schema, sum(batch.num_rows for batch in stream)


def features_of(schema: pa.Schema, place: Place) -> dict[str, dict[str, Any]]:
    """Return what ``datasets`` wrote about the columns, nothing where it did not write."""
    found = json_within((schema.metadata or {}).get(b"huggingface", b"{}"), MOST_JSON, place, _REMEDY)
    for name in ("info", "features"):
        found = object_in(found, name, place)
    return {name: each for name, each in found.items() if isinstance(each, dict)}


def object_in(found: Any, name: str, place: Place) -> dict[str, Any]:
    """Return an object within an object, an empty one where it is not there or null."""
    inner = found.get(name) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not isinstance(inner, (dict, type(None))):
        raise AuditError(f"What is said of its columns is no object: {str(inner)[:60]}", place, _REMEDY)
    return inner or {}


def class_names(feature: dict[str, Any], place: Place) -> list[str] | None:
    """Return the names of classes that a column has, None where none are said."""
    names = feature.get("names")
    if names is not None and not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
        raise AuditError(f"The names of its classes are no list of texts: {str(names)[:60]}", place, _REMEDY)
    return names


def stamps_of_named(files: Sequence[Path], column: str, schema: pa.Schema) -> list[Any]:
    """Return the state of every file of a picture that the table names instead of holding it."""
    import pyarrow as pa

    kind = schema.field(column).type
    if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
        return []
    places: dict[str, None] = {}
    for file in files:
        for values in batches(file, f"{column}.path" if suffix_of(file.name) == ".parquet" else column):
            places |= dict.fromkeys(path for path in values.field("path").to_pylist() if isinstance(path, str))
    return [(place, *stamp(place)) for place in places if os.path.isfile(place)]


def picture_column(schema: pa.Schema, features: dict[str, dict[str, Any]], place: Place) -> str:
    """Return the one column that holds pictures."""
    import pyarrow as pa

    found = [name for name in schema.names if features.get(name, {}).get("_type") == "Image"]
    for field in () if found else schema:
        is_struct = pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
        if is_struct or pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            found.append(field.name)
    if len(found) != 1:
        kinds = ", ".join(f"{field.name} ({field.type})" for field in schema)[:300]
        raise AuditError(
            f"{len(found)} columns hold pictures; there are: {kinds}",
            place,
            "Save a data set with one Image column: dataset.select_columns([...]).",
        )
    return found[0]


def is_plain(kind: pa.DataType) -> bool:
    """Return whether a column holds one number or text per row."""
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def batches(file: Path, column: str) -> Iterator[pa.Array]:
    """Yield one column of a file, some rows at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    if suffix_of(file.name) == ".parquet":
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(AT_ONCE, columns=[column], use_threads=False):
                yield batch.column(0)
        return
    with pa.memory_map(str(file)) as source:
        for batch in pa.ipc.open_stream(source):
            yield batch.column(column)


def entries(files: Sequence[Path], counts: Sequence[int], column: str, wanted: set[int]) -> Iterator[tuple[int, Any]]:
    """Yield row number and value of the rows that are wanted."""
    start = 0
    for file, count in zip(files, counts, strict=True):
        row = start
        start += count
        if not wanted.isdisjoint(range(row, start)):
            for values in batches(file, column):
                for value in values:
                    if row in wanted:
                        yield row, value.as_py()
                    row += 1


def content_of(value: Any, where: str) -> BytesIO | str:
    """Return the bytes of one picture, or the path of its file."""
    content = value.get("bytes") if isinstance(value, dict) else value
    path = value.get("path") if isinstance(value, dict) else None
    if isinstance(content, bytes):
        return BytesIO(content)
    if isinstance(path, str) and os.path.isfile(path):
        return path
    raise AuditError("This row holds no picture", where, "Drop the row, or embed the pictures when saving.")


def values_reader(
    files: Sequence[Path], counts: Sequence[int], column: str, names: Sequence[str] | None, path: Path
) -> Callable[[], list[str]]:
    """Return a function that reads one column as text: the names of classes, the empty one for what is missing."""

    def text(value: Any) -> str:
        if names and isinstance(value, int) and 0 <= value < len(names):
            return names[value]
        return "" if value is None else str(value)

    def read() -> list[str]:
        with told_as_damaged(path):
            found = [value for _, value in entries(files, counts, column, set(range(sum(counts))))]
        return [text(value) for value in found]

    return read


KIND = Kind(claims, open_table)
