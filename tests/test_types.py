"""Types, by mypy: no error where the foundations lie, and never more of them elsewhere than were left."""

import json
import subprocess
import sys
import tomllib
import warnings
from collections import Counter
from pathlib import Path

import pytest
from repository import ROOT

# errors that are left outside the strict rooms; the number may only fall
LEFT = json.loads((ROOT / "tests" / "types.json").read_text())["elsewhere"]


def strict_rooms() -> set[str]:
    """Return the rooms, and the modules of the hall, that pyproject.toml holds to the strict rules."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["overrides"]
    named = next(each["module"] for each in settings if each.get("disallow_any_generics"))
    return {name.split(".")[1] for name in named}


def errors(folder: Path, *options: str) -> list[str]:
    """Return what mypy finds wrong in the package of a folder that holds a pyproject.toml."""
    done = subprocess.run([sys.executable, "-m", "mypy", *options], cwd=folder, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error:" in line]


def room_of(error: str) -> str:
    """Return the room in whose file, or the module of the hall in which, an error lies."""
    return error.split(":")[0].split("/")[1].removesuffix(".py")


@pytest.fixture(scope="module")
def found() -> list[str]:
    """The errors of the package."""
    return errors(ROOT)


def test_the_strict_rooms_are_the_foundations():
    hall = {"errors", "records", "registry", "config", "scope", "seeds", "neighbors"}
    assert strict_rooms() == hall | {"run", "stats", "metrics", "stages"}


def test_the_strict_rooms_have_no_error(found):
    assert [error for error in found if room_of(error) in strict_rooms()] == []


def test_elsewhere_there_are_no_more_errors_than_were_left(found):
    counted = Counter(room_of(error) for error in found if room_of(error) not in strict_rooms())
    assert counted.total() <= LEFT, counted
    if counted.total() < LEFT:
        warnings.warn(f"tests/types.json: {counted.total()} errors are left now, not {LEFT}", stacklevel=1)


def test_an_error_that_is_added_is_found_in_its_room(tmp_path):
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    for room in ("stats", "lab"):
        (tmp_path / "auditor" / room).mkdir(parents=True)
        (tmp_path / "auditor" / room / "__init__.py").write_text("def one() -> int:\n    return ''\n")
    (tmp_path / "auditor" / "__init__.py").write_text("def untyped(x):\n    return x\n")
    assert sorted(map(room_of, errors(tmp_path))) == ["__init__", "lab", "stats"]


def test_users_of_the_package_get_its_types():
    """PEP 561: the marker lies in the package, all of which the wheel takes."""
    assert (ROOT / "auditor" / "py.typed").exists()
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"] == {
        "packages": ["auditor"]
    }
