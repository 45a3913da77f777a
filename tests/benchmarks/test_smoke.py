"""Every script of benchmarks/ starts: ``--smoke`` runs all of it at a size of seconds."""

import ast
import runpy
import sys
from pathlib import Path

import pytest
from conftest import make_fast
from repository import BENCHMARKS


def is_script(path: Path) -> bool:
    """Whether a file does something when it is run."""
    return any(
        isinstance(node, ast.If) and "__name__ == '__main__'" in ast.unparse(node.test)
        for node in ast.parse(path.read_text()).body
    )


SCRIPTS = [path for path in sorted(BENCHMARKS.rglob("*.py")) if is_script(path)]


def test_the_scripts_are_found():
    assert {path.name for path in SCRIPTS} >= {"known_truth.py", "measuring_speed.py", "make.py"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(BENCHMARKS).as_posix())
def test_it_starts(script, monkeypatch, tmp_path, capsys):
    """In this process, which has imported the libraries; from another folder, into which nothing is written."""
    make_fast(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), "--smoke"])
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        assert not end.code, capsys.readouterr().err
    assert capsys.readouterr().out.strip()
    assert list(tmp_path.iterdir()) == []
