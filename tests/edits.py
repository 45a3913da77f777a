"""Changes to JSON files that a run, a trainer or the laboratory wrote."""

import json
from collections.abc import Callable
from pathlib import Path


def change_json(path: Path, change: Callable[[dict], object]) -> None:
    """Write a file anew after ``change`` was made to what it held."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_json(path: Path, **changes: object) -> None:
    """Replace values of a file by name."""
    change_json(path, lambda value: value.update(changes))
