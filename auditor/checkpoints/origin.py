"""What a network of the user's own is made from beside weights and arguments: source, and what is set within it."""

from __future__ import annotations

import ast
import inspect
import json
import sys
import sysconfig
from hashlib import sha256
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

PLAIN = (int, float, bool, str, type(None))
INSTALLED = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
MOST_FILES = 2000  # of somebody's own code


def sources_of(factory: Any) -> dict[str, str]:
    """Return the sha256 of the file that defines a factory and of all that it imports of the user's own, by module.

    Imports are read from the source, so that what is imported late counts, too. The user's own is what lies in the
    current folder, in the folder of the factory's package, or belongs to that package; not what is installed.
    """
    module = inspect.getmodule(factory)
    try:
        first = Path(inspect.getsourcefile(inspect.unwrap(factory)) or "").resolve(strict=True)
    except (OSError, TypeError):
        return {}
    name = module.__name__ if module is not None else first.stem
    top = name.partition(".")[0]
    root = first.parents[min(name.count(".") + (first.name == "__init__.py"), len(first.parents) - 1)]
    roots = [str(root), str(Path.cwd())]
    found: dict[str, str] = {}
    pending = [(name, first)]
    while pending and len(found) < MOST_FILES:
        name, path = pending.pop()
        if name in found:
            continue
        content = path.read_bytes()
        found[name] = sha256(content).hexdigest()
        for wanted in _imported(content, name, path.name == "__init__.py"):
            at = _own(wanted, roots, top)
            if at is not None and wanted not in found:
                pending.append((wanted, at))
    return found


def _imported(content: bytes, name: str, is_package: bool) -> set[str]:
    """Return every module that a source may import, those above it included; nothing where it is no Python."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return set()
    package = name if is_package else name.rpartition(".")[0]
    wanted: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wanted |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            start = ".".join(filter(None, [*base, node.module or ""]))
            wanted |= {start, *(f"{start}.{each.name}" if start else each.name for each in node.names)}
    above = {".".join(parts[:i]) for parts in (each.split(".") for each in wanted) for i in range(1, len(parts))}
    return (wanted | above) - {""}


def _own(name: str, roots: list[str], top: str) -> Path | None:
    """Return where a module of the user's own lies, None where it is none or is not there."""
    if name.partition(".")[0] in sys.builtin_module_names:
        return None
    paths: list[str] | None = roots
    parts = name.split(".")
    spec = None
    for i in range(len(parts)):
        if not paths:
            return None
        spec = PathFinder.find_spec(".".join(parts[: i + 1]), paths)
        if spec is None:
            return None
        paths = list(spec.submodule_search_locations or [])
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    path = Path(spec.origin).resolve()
    installed = any(str(path).startswith(f"{folder}/") for folder in INSTALLED) or "site-packages" in path.parts
    return None if installed and name.partition(".")[0] != top else path


def held(network: Any) -> dict[str, str]:
    """Return what a network holds beside its state dict: plain attributes, and buffers that are not saved."""
    import torch

    saved, own = set(network.state_dict()), set(vars(torch.nn.Module()))
    found: dict[str, str] = {}
    for name, part in network.named_modules():
        found[name] = f"{type(part).__module__}.{type(part).__qualname__}"
        for key, value in vars(part).items():
            if key not in own and _is_plain(value):
                found[f"{name}.{key}"] = json.dumps(value, sort_keys=True)
        loose = {key: one for key, one in vars(part).items() if isinstance(one, torch.Tensor)}
        for key, one in (loose | dict(part.named_buffers(recurse=False))).items():
            full = f"{name}.{key}" if name else key
            if full not in saved and one.device.type == "cpu":
                content = (
                    one.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if one.numel() else b""
                )
                found[f"{full} (buffer)"] = sha256(content).hexdigest()
    return found


def _is_plain(value: Any, depth: int = 4) -> bool:
    """Return whether a value is a number, a text, or few of these in lists and dictionaries."""
    if isinstance(value, (list, tuple)):
        return depth > 0 and len(value) < MOST_FILES and all(_is_plain(each, depth - 1) for each in value)
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(key, str) and _is_plain(each, depth - 1) for key, each in value.items())
    return isinstance(value, PLAIN)
