"""Configurations beside weights: JSON files that are read whole, or an error that says what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from auditor.errors import AuditError

LONGEST_SIDE = 8192  # pixels of a picture
MAX_JSON = 16 * 2**20  # bytes of a configuration


def absence(path: Path) -> str:
    """Return why ``path`` is not what it should be, as the end of a sentence."""
    if path.is_file():
        return "is a file, not a folder"
    if path.exists() and not path.is_dir():
        return "is no regular file"
    if path.is_dir():
        return "is a folder, not a file"
    return "is a symbolic link that leads nowhere" if path.is_symlink() else "does not exist"


def read_json(path: Path, error: type[AuditError] = AuditError) -> dict[str, Any]:
    """Return the object in a JSON file; whatever is wrong with it is raised as ``error``."""
    remedy = "Save it again."
    if not path.is_file():
        raise error(f"{path.name} {absence(path)}.", path, remedy)
    try:
        if path.stat().st_size > MAX_JSON:
            raise error(f"{path.name} has {path.stat().st_size:,} bytes, more than any configuration.", path, remedy)
        value = json.loads(path.read_bytes())
    except OSError as problem:
        raise error(f"{path.name} cannot be read: {problem.strerror}.", path, remedy) from problem
    except (ValueError, RecursionError) as problem:  # bad JSON, bad UTF-8, absurd nesting
        raise error(f"{path.name} is not valid JSON: {problem}.", path, remedy) from problem
    if not isinstance(value, dict):
        raise error(f"{path.name} holds a {type(value).__name__}, not an object.", path, remedy)
    return value
