"""The dependency direction of docs/architecture.md: arrows point down, and heavy libraries stay inside functions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import auditor

ROOT = Path(auditor.__file__).parent
LAYERS = (
    ("pixels", "records", "errors", "registry"),
    ("config", "stats", "tables", "run", "schedules", "gaps", "scales"),
    ("checkpoints", "noise", "sampling", "images", "spaces", "neighbors", "denoising", "empirical", "metrics"),
    ("verdict", "checks", "reports", "copying", "phase", "gate"),
    (
        *("evidence", "reading", "series", "artefacts", "stages", "asking", "comparing", "spot_checks", "executor"),
        *("cells", "quality", "controls", "leaning", "trust", "measuring", "verify", "trainings", "membership"),
        *("agreement", "attacks", "u_turns", "trajectories"),
        *("profiles", "scale_curves", "onsets", "classwise", "nearness", "doctor", "groups", "given_samples"),
        *("splitting", "split_items", "split_card", "power", "forecast", "preflight"),
        *("inputs", "prepared", "demands", "machine", "twins", "image_sets", "mirroring", "models", "scan"),
        *("keys", "pipeline", "protocol", "demo", "lab", "console"),
    ),
    ("cli", "cli_run", "cli_report", "cli_prepare", "cli_lab"),
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
HEAVY = {"torch", "torchvision", "diffusers", "open_clip", "faiss", "transformers"}
WITHOUT_SCIPY = ("tables", "run", "reports", "checks", *LAYERS[-1], "config", "registry", "records", "errors")
FILES = sorted(
    path for path in ROOT.rglob("*.py") if path.name not in ("__init__.py", "__main__.py") or path.parent != ROOT
)


def module_of(path: Path) -> str:
    """Return ``sampling`` for auditor/diffusion/sampling.py and ``spaces`` for auditor/spaces/pixel.py."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports(path: Path, everywhere: bool) -> set[str]:
    """Return the modules that a file names: also inside functions if ``everywhere``, never for type checkers only."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.FunctionDef) and not everywhere:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(inner if node.module == "auditor" else [node.module])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def of_ours(names: set[str]) -> set[str]:
    """Return the modules of this package among them, as the table of layers calls them."""
    return {name.split(".")[1] for name in names if name.startswith("auditor.")}


def test_every_module_has_its_layer():
    unknown = {module_of(path) for path in FILES} - set(LAYER)
    assert not unknown, "put them into a layer above, as low as what they import allows"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_downwards(path):
    """Within a layer modules may use one another, but layer 2 is made of parts that do not know one another."""
    module = module_of(path)
    for other in of_ours(imports(path, everywhere=True)) - {module}:
        assert LAYER[other] <= LAYER[module], f"{module} imports {other}, which is above it"
        if LAYER[module] == 3:
            assert LAYER[other] != 2, f"{module} reads files and never computes, but imports {other}"
        if LAYER[module] == LAYER[other] == 2:
            assert other == "noise", f"{module} and {other} are siblings"  # one seed rule for all


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_heavy_libraries_are_imported_inside_functions_only(path):
    roots = {name.split(".")[0] for name in imports(path, everywhere=False)}
    assert not roots & HEAVY


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_scipy_costs_a_second_and_is_not_needed_to_read_a_run(path):
    if module_of(path) in WITHOUT_SCIPY:
        assert not {name for name in imports(path, everywhere=True) if name.split(".")[0] == "scipy"}


def test_the_command_line_imports_no_module_of_ours_but_settings_and_errors_before_a_command_is_chosen():
    for path in ROOT.glob("cli*.py"):
        assert of_ours(imports(path, everywhere=False)) <= {"config", "errors", *LAYERS[-1]}


def test_no_module_of_ours_is_a_box_of_leftovers():
    assert not {"utils", "util", "helpers", "common", "misc"} & set(LAYER)
