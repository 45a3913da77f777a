"""Pictures in ``.npy``, ``.npz`` (MedMNIST among them) and ``.pt`` arrays, read a few rows at a time.

Facts per picture are other arrays of the same file with one entry each: ``labels`` or, for the key ``train_images``,
``train_labels``; ``arr_1`` beside ``arr_0``, as sampling scripts write them.
"""

from __future__ import annotations

import math
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.errors import AuditError
from auditor.images import pictures
from auditor.images.sources import Kind, Place, Reading, Source, one_of, refuse_bomb, require_room, stamp, told_as

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".npy", ".npz", ".pt", ".pth")
AT_ONCE = 256  # rows
LABELS = ("labels", "label", "y")
GROUPS = ("groups", "group", "patient", "patients")
# What NumPy 2.4 raised on some 10,000 damaged files.
_UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, TokenError, NotImplementedError, MemoryError, OverflowError)
_ARCHIVE = (zipfile.BadZipFile, zlib.error, KeyError)
_SHAPE_REMEDY = "Save the pictures as [n, h, w] or [n, h, w, c] with c 1 or 3 (no alpha); n = 1 for a single one."


@dataclass(frozen=True)
class Array:
    """One array of a file: its shape and type, and its rows when they are wanted."""

    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Callable[[], Iterator[np.ndarray]]  # consecutive rows, some at a time


def claims(path: Path) -> bool:
    """Return whether the name says so."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def open_arrays(place: Place, reading: Reading) -> Source:
    """Return the pictures of one array, or of several joined by ``+``."""
    path, suffix = place.path, place.path.suffix.lower()
    with _told_as_no_array(path):
        arrays = {".npy": in_npy, ".npz": in_npz}.get(suffix, in_torch)(path)
    if suffix == ".npy" and place.part is not None:
        raise AuditError(f"A .npy holds one array, so it has no {place.part!r}", place, f"Give {path}.")
    keys = choose_keys(path, arrays, None if place.part is None else tuple(place.part.split("+")))
    chosen = {key: arrays[key] for key in keys}
    shown = {key: str(path) if len(arrays) == 1 and suffix != ".npz" else f"{path}:{key}" for key in keys}
    layouts = {key: check(array, shown[key]) for key, array in chosen.items()}

    def decoded(rows: Sequence[int], tally: Counter[str]) -> Iterator[Image]:
        wanted, start = set(rows), 0
        for key, array in chosen.items():
            with _told_as_no_array(path):
                for block in array.blocks():
                    kept = [i for i in range(len(block)) if start + i in wanted]
                    start += len(block)
                    if kept:
                        values = layouts[key](np.asarray(block))[kept]
                        yield from pictures.of_values(values, shown[key], reading, tally)

    require_room(sum(array.shape[0] for array in chosen.values()), path.stat().st_size, path)
    ids = [f"{key}/{index}" for key, array in chosen.items() for index in range(array.shape[0])]
    columns = columns_of(chosen, arrays)
    name, *state = stamp(path)
    label, group = one_of(columns, LABELS), one_of(columns, GROUPS)
    return Source(ids, [(name, list(keys), *state)], decoded, columns=columns, label=label, group=group)


def _told_as_no_array(path: Path) -> AbstractContextManager[None]:
    remedy = "Write it again with numpy.save, numpy.savez or torch.save (of tensors alone), or copy it again."
    return told_as("This is not an intact file of arrays", path, remedy, (*_UNREADABLE, *_ARCHIVE))


# What a file holds


def in_npy(path: Path) -> dict[str, Array]:
    """Return the array of a ``.npy``, memory-mapped."""
    with path.open("rb") as stream:
        shape, _, dtype = header(stream)
        begin = stream.tell()
    refuse_objects(dtype, path)  # before the map, whose own error would not say why
    if path.stat().st_size - begin < math.prod(shape) * dtype.itemsize or min(shape, default=0) < 0:
        raise ValueError(f"it does not hold as much as its shape {list(shape)} says")
    if 0 in shape:
        return {path.stem: Array(shape, dtype, lambda: iter(()))}
    return {path.stem: Array(shape, dtype, lambda: in_blocks(np.load(path, mmap_mode="r", allow_pickle=False)))}


def in_blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an array some rows at a time."""
    for start in range(0, len(array), AT_ONCE):
        yield array[start : start + AT_ONCE]


def in_npz(path: Path) -> dict[str, Array]:
    """Return the arrays of a ``.npz`` by headers alone, so that choosing among large ones loads none of them."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename.endswith(".npy"):
                refuse_bomb(member.compress_size, member.file_size, path)
                with archive.open(member) as stream:
                    shape, fortran, dtype = header(stream)
                    begin = stream.tell()
                if not dtype.hasobject and member.file_size - begin != math.prod(shape) * dtype.itemsize:
                    raise ValueError(f"{member.filename} does not hold as much as its shape {list(shape)} says")
                arrays[member.filename.removesuffix(".npy")] = Array(
                    shape, dtype, npz_reader(path, member, shape, dtype, fortran)
                )
    return arrays


def npz_reader(
    path: Path, member: zipfile.ZipInfo, shape: tuple[int, ...], dtype: np.dtype, fortran: bool
) -> Callable[[], Iterator[np.ndarray]]:
    """Return a function that yields the rows of one member, unpacking some at a time."""

    def blocks() -> Iterator[np.ndarray]:
        with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            if fortran:  # the first picture's pixels are spread over the whole file
                yield from in_blocks(np.lib.format.read_array(stream, allow_pickle=False))
                return
            header(stream)
            size = math.prod(shape[1:]) * dtype.itemsize
            for start in range(0, shape[0], AT_ONCE):
                n = min(AT_ONCE, shape[0] - start)
                content = stream.read(n * size)
                if len(content) < n * size:
                    raise EOFError(f"{member.filename} ends early")
                yield np.frombuffer(content, dtype).reshape(n, *shape[1:])
            stream.read(1)  # at its end the archive's checksum is compared

    return blocks


def header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, order and type of an array, leaving the stream at its first value."""
    old = np.lib.format.read_magic(stream) == (1, 0)
    read_rest = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    return read_rest(stream)


def in_torch(path: Path) -> dict[str, Array]:
    """Return the tensors of a ``.pt``: one, or a dictionary of them; nothing that executes code is loaded."""
    import pickle

    import torch

    try:
        found = load_tensors(path)
    except pickle.UnpicklingError as error:
        raise AuditError(
            "The file holds more than tensors, and loading that could run code",
            path,
            "Save the pictures alone: torch.save(images, 'images.pt') with a uint8 tensor [n, c, h, w].",
        ) from error
    found = {path.stem: found} if isinstance(found, torch.Tensor) else found
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        raise ValueError(f"it holds a {type(found).__name__}, not a tensor or a dictionary of tensors")
    tensors = {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}
    size = path.stat().st_size
    for key, tensor in tensors.items():
        if tensor.numel() * tensor.element_size() > size:  # an expanded tensor is larger than what is saved of it
            raise ValueError(f"{key} of shape {list(tensor.shape)} is larger than the file")
    return {key: tensor_array(tensor) for key, tensor in tensors.items()}


def load_tensors(path: Path) -> Any:
    """Return what ``torch.load`` finds, memory-mapped where the file allows it."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is refused anyway
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (AttributeError, IndexError, TypeError, AssertionError) as error:  # of damaged files
        raise ValueError(str(error)) from error


def tensor_array(tensor: Any) -> Array:
    """Return a tensor as an array; half precision that numpy does not know becomes single."""
    import torch

    tensor = tensor.detach()
    known = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return Array(tuple(tensor.shape), known[:0].numpy().dtype, lambda: in_blocks(known.numpy()))


# What of it is wanted


def choose_keys(path: Path, arrays: Mapping[str, Array], keys: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the arrays that are the pictures: those asked for, or the only candidate."""
    listed = ", ".join(f"{key} {list(array.shape)}" for key, array in arrays.items()) or "none"
    candidates = [key for key, array in arrays.items() if len(array.shape) in (3, 4)]
    remedy = f"Write {path}:{(candidates or list(arrays) or ['KEY'])[0]} to pick an array, KEY+KEY to join several."
    if keys is None and len(arrays) == 1:
        return tuple(arrays)
    if keys is None and len(candidates) == 1:
        return (candidates[0],)
    if keys is None:
        raise AuditError(f"{len(candidates)} arrays could be the images; the file holds: {listed}", path, remedy)
    for key in keys:
        if key not in arrays:
            raise AuditError(f"There is no array {key!r}; the file holds: {listed}", path, remedy)
        if keys.count(key) > 1:
            raise AuditError(f"The array {key!r} is asked for twice", path, remedy)
    return keys


def check(array: Array, where: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that turns rows into ``[n, h, w, c]``, or refuse the array."""
    refuse_objects(array.dtype, where)
    if array.dtype.kind not in "uif":
        raise AuditError(f"The array's type is {array.dtype}, not a pixel type", where, pictures.RANGE_REMEDY)
    if 0 in array.shape:
        remedy = "Give an array with at least one picture; check the script that wrote it."
        raise AuditError(f"The array is empty: its shape is {list(array.shape)}", where, remedy)
    shape = array.shape
    if len(shape) == 3 and shape[2] not in (1, 3):  # those look like one picture [h, w, c]
        return lambda rows: rows[..., None]
    if len(shape) == 4:
        first, last = (shape[axis] in (1, 3) for axis in (1, 3))
        if first != last:
            return (lambda rows: rows) if last else (lambda rows: np.moveaxis(rows, 1, -1))
    raise AuditError(
        f"It is unclear which axes of the shape {list(shape)} are images, height, width and channels",
        where,
        _SHAPE_REMEDY,
    )


def refuse_objects(dtype: np.dtype, where: object) -> None:
    """Refuse arrays of Python objects."""
    if dtype.hasobject:
        raise AuditError(
            "The array holds Python objects: it is ragged (pictures of several sizes) or needs pickle, which is never "
            "loaded because it can run code",
            where,
            "Save the pictures as files in a folder, or bring them to one size and save one uint8 [n, h, w, c] array.",
        )


def columns_of(chosen: Mapping[str, Array], arrays: Mapping[str, Array]) -> dict[str, Callable[[], Sequence[str]]]:
    """Return facts per picture: arrays of one entry per picture, found for every array that was chosen."""
    by_name: dict[str, list[Array]] = {}
    for key, images in chosen.items():
        for name, other in arrays.items():
            if is_column(other, images.shape[0]) and name not in chosen:
                by_name.setdefault(column_name(key, name), []).append(other)

    def reader(arrays: Sequence[Array]) -> Callable[[], list[str]]:
        return lambda: [str(each) for array in arrays for block in array.blocks() for each in np.ravel(block).tolist()]

    return {name: reader(found) for name, found in by_name.items() if len(found) == len(chosen)}


def is_column(array: Array, n: int) -> bool:
    """Return whether an array has one plain entry per picture."""
    return array.shape in ((n,), (n, 1)) and not array.dtype.hasobject and array.dtype.kind in "iufbU"


def column_name(key: str, name: str) -> str:
    """Return what ``name`` is called beside the pictures ``key``: ``labels`` for train_labels beside train_images."""
    if (key, name) == ("arr_0", "arr_1"):
        return "labels"
    prefix = key.removesuffix("images")
    return name.removeprefix(prefix) if key.endswith("images") and prefix else name


KIND = Kind(claims, open_arrays)
