"""What weight files say of themselves, read without torch and without running anything that is in them.

A safetensors file begins with a JSON header. A file of ``torch.save`` is a zip archive (or, of old, a stream) of
pickles. They are not unpickled: their opcodes are followed by an interpreter that can build dictionaries, lists and
numbers, and that writes down the name of everything that a real unpickler would import or call.
"""

from __future__ import annotations

import io
import json
import pickletools
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from auditor.errors import CheckpointError

MAX_HEADER = 16 * 2**20  # bytes: some hundred for each of 100,000 tensors
MAX_OPCODES = 1_000_000  # of a pickle's structure: some 30 for each tensor
MAX_WEIGHT = 10_000  # of a tuple with all within it, counted as often as it occurs: what hashing it would take
MAX_SIDES, MAX_SIDE = 16, 2**48  # of the shape of a tensor
MAX_PICKLE = 64 * 2**20  # bytes: of the structure, without the numbers
MAX_DIRECTORY = 64 * 2**20  # bytes of a zip archive's list of files
MAX_DEPTH = 12
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
SAVE_AGAIN = "Copy or save it again."
POINTER = b"version https://git-lfs"


class Tensor(NamedTuple):
    """A tensor of which only the shape is known."""

    shape: tuple[int, ...]
    dtype: str
    storage: str = ""  # of torch: the file in the archive that holds its numbers
    offset: int = 0  # of the first one, in its storage: values in torch, bytes after the header in safetensors

    @property
    def size(self) -> int:
        """Number of values."""
        n = 1
        for side in self.shape:
            n *= side
        return n


@dataclass
class Opaque:
    """Something that only the code called ``name`` could make."""

    name: str
    args: Any = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes it would have, where it keeps them in ``__dict__``."""
        return self.state if isinstance(self.state, dict) else {}


@dataclass(frozen=True)
class Header:
    """The structure of a weights file."""

    kind: str  # safetensors, torch (zip), legacy (torch before 1.6) or pickle
    content: Any  # nested dictionaries and lists with Tensor and Opaque leaves
    names: tuple[str, ...]  # what unpickling would import, sorted; empty for safetensors
    metadata: Mapping[str, str] = field(default_factory=dict)  # of safetensors

    def stated(self, name: str) -> dict[str, Any]:
        """Return the JSON object that the metadata hold under a name; empty where they hold none."""
        try:
            found = json.loads(self.metadata.get(name, "{}"))
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


def read_header(path: Path) -> Header:
    """Return the structure of a weights file; whatever is wrong with it is a ``CheckpointError``."""
    if path.exists() and not path.is_file():  # a pipe would keep whoever opens it waiting
        raise CheckpointError(f"{path.name} is no regular file.", path, SAVE_AGAIN)
    try:
        stat = path.stat()
        return _read_header(path, stat.st_size, (stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns))
    except OSError as problem:
        raise CheckpointError(f"{path.name} cannot be read: {problem.strerror}.", path, SAVE_AGAIN) from problem


@lru_cache(maxsize=4096)
def _read_header(path: Path, size: int, state: tuple[int, ...]) -> Header:
    with path.open("rb") as file:
        start = file.read(len(POINTER))
        if start == POINTER:
            what = f"{path.name} is a git-lfs pointer, not the file itself."
            raise CheckpointError(what, path, "Run git lfs pull where it was cloned.")
        if path.suffix == ".safetensors":
            return _safetensors(file, start, size, path)
        if start.startswith(b"PK\x03\x04"):
            return _archive(file, size, path)
        if start.startswith(LEGACY_MAGIC) or start[:1] == b"\x80":
            file.seek(0)
            return _stream(file.read(MAX_PICKLE), path)
    if size == 0:
        raise CheckpointError(f"{path.name} is empty.", path, SAVE_AGAIN)
    raise CheckpointError(f"{path.name} is no file of weights: it begins with {start[:8]!r}.", path, SAVE_AGAIN)


# How safetensors stores numbers; bfloat16 is the upper half of a float32.
KINDS = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8"}
NUMBERS = {name: np.dtype(kind) for name, kind in KINDS.items()}


def scalars(path: Path, suffix: str) -> dict[str, float]:
    """Return the single numbers of a safetensors file whose names end so."""
    found = {}
    state = tensors_in(read_header(path).content)
    with path.open("rb") as file:
        start = 8 + struct.unpack("<Q", file.read(8))[0]
        for name, one in state.items():
            if name.endswith(suffix) and one.size == 1 and one.dtype in NUMBERS:
                file.seek(start + one.offset)
                data, kind = file.read(NUMBERS[one.dtype].itemsize), NUMBERS[one.dtype]
                if one.dtype == "BF16":
                    data, kind = b"\0\0" + data, NUMBERS["F32"]
                found[name] = float(np.frombuffer(data, kind)[0])
    return found


def _safetensors(file: Any, start: bytes, size: int, path: Path) -> Header:
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
    if len(start) < 8 or length > min(size - 8, MAX_HEADER):
        what = f"{path.name} is truncated or no safetensors file: {size} bytes, with a header of {length} bytes."
        raise CheckpointError(what, path, SAVE_AGAIN)
    file.seek(8)
    try:
        header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", None) or {}
        tensors = {name: _stored(one, size - 8 - length) for name, one in header.items()}
        return Header("safetensors", tensors, (), {str(key): str(value) for key, value in metadata.items()})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as problem:
        raise CheckpointError(f"{path.name} is corrupt: its header is {problem!r}.", path, SAVE_AGAIN) from problem


def _stored(said: Mapping[str, Any], room: int) -> Tensor:
    """Return a tensor as the header of a safetensors file states it, its place within the ``room`` after the header."""
    shape, kind = stated_shape(said["shape"]), said["dtype"]
    first, last = said["data_offsets"]
    if type(kind) is not str or type(first) is not int or type(last) is not int or not 0 <= first <= last <= room:
        raise ValueError(f"a tensor of type {kind!r:.40} from byte {first!r:.40} to {last!r:.40} of {room}")
    tensor = Tensor(shape, kind, offset=first)
    if kind in NUMBERS and last - first != tensor.size * NUMBERS[kind].itemsize:
        raise ValueError(f"a tensor of {last - first} bytes for {tensor.size:.6g} numbers of type {kind}")
    return tensor


def stated_shape(sides: Any) -> tuple[int, ...]:
    """Return the shape that a file states, or raise that no tensor has it."""
    if not isinstance(sides, (list, tuple)) or len(sides) > MAX_SIDES:
        raise ValueError("a shape of more sides than any tensor has")
    shape = tuple(map(int, sides))
    if not all(0 <= side <= MAX_SIDE for side in shape):
        raise ValueError("a shape of sides that no tensor has")
    return shape


def _archive(file: Any, size: int, path: Path) -> Header:
    if _directory_size(file, size) > MAX_DIRECTORY:
        raise CheckpointError(f"{path.name} lists more files than any checkpoint has.", path, SAVE_AGAIN)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            stored = all(one.compress_type == zipfile.ZIP_STORED for one in members)
            if not stored or sum(one.file_size for one in members) > size:  # torch compresses nothing: this is a bomb
                raise CheckpointError(f"{path.name} is no archive of torch.save: it is compressed.", path, SAVE_AGAIN)
            inside = [each for each in archive.namelist() if each.endswith("data.pkl") and each.count("/") <= 1]
            if len(inside) != 1:
                raise CheckpointError(f"{path.name} is a zip archive, but not of torch.save.", path, SAVE_AGAIN)
            with archive.open(inside[0]) as member:
                data = member.read(MAX_PICKLE + 1)
            folder = inside[0].removesuffix("data.pkl") + "data/"
            rooms = {one.filename.removeprefix(folder): one.file_size for one in members}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError) as problem:
        raise CheckpointError(f"{path.name} is truncated or corrupt: {problem}.", path, SAVE_AGAIN) from problem
    if len(data) > MAX_PICKLE:
        raise CheckpointError(f"The structure of {path.name} takes more than {MAX_PICKLE} bytes.", path, SAVE_AGAIN)
    content, names = _follow(io.BytesIO(data), path, rooms)
    return Header("torch", content, tuple(sorted(names)))


def _directory_size(file: Any, size: int) -> int:
    """Return the bytes of a zip archive's list of files, 0 where its end cannot be found."""
    file.seek(max(0, size - 65_557))  # the longest end record with its comment
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    length = struct.unpack("<L", tail[at + 12 : at + 16])[0] if 0 <= at <= len(tail) - 22 else 0
    large = tail.rfind(b"PK\x06\x06")
    if length == 0xFFFFFFFF and 0 <= large <= len(tail) - 56:
        length = struct.unpack("<Q", tail[large + 40 : large + 48])[0]
    return length


def _stream(data: bytes, path: Path) -> Header:
    """Read a file of consecutive pickles: of torch before 1.6 the fourth is the object, else the first."""
    stream = io.BytesIO(data)
    legacy = data.startswith(LEGACY_MAGIC)
    names: set[str] = set()
    for _ in range(4 if legacy else 1):
        content, more = _follow(stream, path)
        names |= more
    return Header("legacy" if legacy else "pickle", content, tuple(sorted(names)))


MARK = object()
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": list}
SHORT_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Numbers and texts, which pickletools has read.
VALUES = {opcode.name for opcode in pickletools.opcodes if opcode.arg is not None} - {
    *("PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET", "GLOBAL", "INST", "PROTO", "FRAME", "PERSID"),
    *("EXT1", "EXT2", "EXT4", "BYTEARRAY8", "NEXT_BUFFER"),
}
MEMO_PUT = {"PUT", "BINPUT", "LONG_BINPUT"}
MEMO_GET = {"GET", "BINGET", "LONG_BINGET"}
PLAIN_TYPES = (int, float, str, bytes, bool, type(None))


def _follow(stream: io.BytesIO, path: Path, rooms: Mapping[str, int] | None = None) -> tuple[Any, set[str]]:
    """Follow the opcodes of one pickle; return what it builds, and the names it would import.

    ``rooms`` are the bytes of each storage of an archive.
    """
    names: set[str] = set()
    try:
        return _interpret(pickletools.genops(stream), names, rooms), names
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as problem:
        what = f"{path.name} is truncated or corrupt: its structure cannot be followed ({problem})."
        raise CheckpointError(what, path, SAVE_AGAIN) from problem


def _interpret(opcodes: Iterator[Any], names: set[str], rooms: Mapping[str, int] | None) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    items: list[Any]
    weights: dict[int, tuple[tuple[Any, ...], int]] = {}  # of tuples that hold tuples, which are kept: ids come again

    def weighed(items: list[Any]) -> tuple[Any, ...]:
        """Return a tuple, unless shared parts within it would be met more often than any data needs."""
        inner = [one for one in items if type(one) is tuple]
        made = tuple(items)
        if inner:
            weight = len(items) + sum(weights[id(one)][1] if id(one) in weights else len(one) for one in inner)
            if weight > MAX_WEIGHT + len(items):
                raise ValueError("tuples within tuples that no checkpoint has")
            weights[id(made)] = made, weight
        return made

    def to_mark() -> list[Any]:
        items: list[Any] = []
        while (item := stack.pop()) is not MARK:
            items.append(item)
        return items[::-1]

    def named(module: Any, name: Any) -> Opaque:
        names.add(f"{module}.{name}")
        return Opaque(f"{module}.{name}")

    for number, (opcode, argument, _) in enumerate(opcodes):
        if number == MAX_OPCODES:
            raise ValueError(f"it takes more than {MAX_OPCODES:,} steps")
        code = opcode.name  # the most frequent first: this loop is most of a scan
        if code in MEMO_PUT:
            memo[argument] = stack[-1]
        elif code in VALUES:
            stack.append(argument)
        elif code in MEMO_GET:
            stack.append(memo[argument])
        elif code == "MARK":
            stack.append(MARK)
        elif code == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif code == "STOP":
            return stack.pop()
        elif code in ("PROTO", "FRAME"):
            continue
        elif code in CONSTANTS:
            stack.append(CONSTANTS[code])
        elif code in EMPTY:
            stack.append(EMPTY[code]())
        elif code in SHORT_TUPLES:
            n = SHORT_TUPLES[code]
            items = stack[len(stack) - n :]
            del stack[len(stack) - n :]
            stack.append(weighed(items))
        elif code == "TUPLE":
            stack.append(weighed(to_mark()))
        elif code in ("LIST", "FROZENSET"):
            stack.append(to_mark())
        elif code == "DICT":
            stack.append(_pairs({}, to_mark()))
        elif code in ("SETITEMS", "SETITEM"):
            items = to_mark() if code == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            _pairs(stack[-1], items)
        elif code in ("APPENDS", "ADDITEMS", "APPEND"):
            items = to_mark() if code != "APPEND" else [stack.pop()]
            if isinstance(stack[-1], list):
                stack[-1].extend(items)
        elif code == "GLOBAL":
            stack.append(named(*str(argument).split(" ", 1)))
        elif code == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(named(module, name))
        elif code in ("REDUCE", "NEWOBJ"):
            args, callee = stack.pop(), stack.pop()
            stack.append(_called(callee, args, rooms))
        elif code == "NEWOBJ_EX":
            _, args, callee = stack.pop(), stack.pop(), stack.pop()
            stack.append(_called(callee, args, rooms))
        elif code in ("INST", "OBJ"):
            items = to_mark()
            callee = named(*str(argument).split(" ", 1)) if code == "INST" else items.pop(0)
            stack.append(_called(callee, tuple(items), rooms))
        elif code == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Opaque):
                stack[-1].state = state
        elif code == "BINPERSID":
            stack.append(Opaque("storage", stack.pop()))
        elif code == "POP":
            stack.pop()
        elif code == "POP_MARK":
            to_mark()
        elif code == "DUP":
            stack.append(stack[-1])
        else:
            raise ValueError(f"opcode {code} has no place in a checkpoint")
    raise ValueError("it does not end")


def whole_bytes(storage: Any) -> int:
    """Return the bytes of a storage that lies in the pickle itself, as plain pickling of tensors writes it, else 0."""
    within = storage.args if isinstance(storage, Opaque) and isinstance(storage.args, tuple) else ()
    return max((len(each) for each in within if isinstance(each, bytes)), default=0)


def _pairs(target: Any, items: list[Any]) -> Any:
    """Put keys and values into a dictionary, or beside something opaque."""
    into = target.items if isinstance(target, Opaque) else target
    for key, value in zip(items[::2], items[1::2], strict=True):
        into[key if isinstance(key, PLAIN_TYPES) else f"<{type(key).__name__} {len(into)}>"] = value
    return target


def _called(callee: Any, args: Any, rooms: Mapping[str, int] | None) -> Any:
    """Return what a call would give: tensors and dictionaries are known, everything else stays opaque."""
    name = callee.name if isinstance(callee, Opaque) else "?"
    if name == "collections.OrderedDict" and args == ():
        return {}
    if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        storage, shape = args[0], args[2]
        stored: Any = storage.args if isinstance(storage, Opaque) and storage.name == "storage" else ()
        kind = stored[1].name if len(stored) > 1 and isinstance(stored[1], Opaque) else ""
        where = str(stored[2]) if len(stored) > 2 else ""
        tensor = Tensor(stated_shape(shape), kind.rsplit(".", 1)[-1].removesuffix("Storage"), where, int(args[1]))
        room = int(stored[4]) if len(stored) > 4 else whole_bytes(storage)
        if tensor.size > room or (rooms is not None and room > rooms.get(where, 0)):
            raise ValueError(f"a tensor of {tensor.size:,} numbers in a storage that holds fewer")
        return tensor
    if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        return args[0]
    return Opaque(name, args)


def read_floats(path: Path, tensor: Tensor) -> np.ndarray:
    """Return the numbers of one float32 tensor in an archive of torch, without torch; float64, flat."""
    if tensor.dtype != "Float" or not tensor.storage:
        raise CheckpointError(f"{path.name} does not hold these numbers as float32.", path, SAVE_AGAIN)
    start, end = 4 * tensor.offset, 4 * (tensor.offset + tensor.size)
    try:
        with zipfile.ZipFile(path) as archive:
            folder = next(name for name in archive.namelist() if name.endswith("data.pkl")).removesuffix("data.pkl")
            with archive.open(f"{folder}data/{tensor.storage}") as member:
                data = member.read(end)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError, OSError) as problem:
        raise CheckpointError(f"{path.name} is truncated or corrupt: {problem}.", path, SAVE_AGAIN) from problem
    if len(data) < end:
        raise CheckpointError(f"{path.name} is truncated.", path, SAVE_AGAIN)
    return np.frombuffer(data[start:end], dtype="<f4").astype(np.float64)


def tensors_in(content: Any) -> dict[str, Tensor]:
    """Return the tensors directly in a dictionary: a state dict."""
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
