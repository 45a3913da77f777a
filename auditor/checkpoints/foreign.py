"""Weights of other frameworks, known by names and a few bytes; the refusal says what lies there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from auditor.checkpoints import names

INSTEAD = "Draw samples with its own code and audit those: --samples-a, --samples-b."
MOST = 500  # entries looked at
FILES = (
    (re.compile(r".*\.(h5|hdf5|keras)"), "Keras"),
    (re.compile(r".*\.msgpack"), "Flax"),
    (re.compile(r"manifest\.ocdbt|_CHECKPOINT_METADATA|_METADATA|\.zarray"), "Orbax (JAX)"),
    (re.compile(r"saved_model\.pb|.*\.ckpt(-[0-9]+)?\.index|.*\.data-[0-9]+-of-[0-9]+"), "TensorFlow"),
    (re.compile(r".*\.onnx"), "ONNX"),
    (re.compile(r".*\.gguf"), "GGUF"),
    (re.compile(r".*\.(pdparams|pdiparams)"), "PaddlePaddle"),
    (re.compile(r".*\.params"), "MXNet"),
    (re.compile(r".*\.(mlpackage|mlmodel|tflite|engine)"), "an exported model"),
)
FLAX = re.compile(r"(checkpoint|ckpt|state|params)[-_]?[0-9]*")  # Flax's own names have no suffix


def frameworks(root: Path) -> dict[str, Path]:
    """Return the frameworks whose weights lie under a folder, each with one of its files."""
    found: dict[str, Path] = {}
    for path in _files(root):
        known = next((name for pattern, name in FILES if pattern.fullmatch(path.name)), "")
        if not known and FLAX.fullmatch(path.name) and _is_msgpack(path):
            known = "Flax"
        if known:
            found.setdefault(known, path)
    return found


def refusal(root: Path) -> str:
    """Return what lies under a folder in one sentence, empty where no weights of other frameworks do."""
    found = frameworks(root)
    listed = " and ".join(f"{name} ({path.relative_to(root).as_posix()})" for name, path in found.items())
    return f"These are weights of {listed}, and weights of PyTorch are read" if found else ""


def _files(root: Path) -> Iterator[Path]:
    """Yield files under a folder, some levels deep."""
    pending, left = [(root, 0)], MOST
    while pending and left > 0:
        folder, depth = pending.pop()
        try:
            inside = [entry.name for entry in names.entries(folder)] + [".zarray"] * (folder / ".zarray").is_file()
        except OSError:
            continue
        for name in inside[:left]:
            path = folder / name
            left -= 1
            if path.is_file():  # a pipe would keep whoever opens it waiting
                yield path
            elif not path.is_dir():
                continue
            elif depth < names.MAX_DEPTH and not path.is_symlink():
                pending.append((path, depth + 1))


def _is_msgpack(path: Path) -> bool:
    """Whether a file begins with a map of msgpack whose first key is a text."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:
        return False
    if not start:
        return False
    after = {0xDE: start[3:4], 0xDF: start[5:6]}.get(start[0], start[1:2] if 0x80 <= start[0] <= 0x8F else b"")
    is_map_of_texts = bool(after) and (0xA0 <= after[0] <= 0xBF or after[0] in (0xD9, 0xDA))
    return is_map_of_texts and not (start[0] == 0x80 and start[1] in range(2, 6))  # no pickle
