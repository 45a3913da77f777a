"""The order of docs/architecture.md: rooms know the rooms below them, files know no circle, names are said once."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import auditor
from auditor import registry
from auditor.records import Metric

ROOT = Path(auditor.__file__).parent
HALL = ("__init__", "errors", "records", "registry", "config", "scope", "seeds", "neighbors")
CHAIN = (  # a room knows the rooms before it and none beside it
    HALL,
    ("run", "stats", "metrics"),
    ("images",),
    ("spaces", "diffusion"),
    ("checkpoints",),
    ("inputs",),
    ("stages",),
    ("split", "measuring"),
    ("pipeline",),
    ("demo", "lab"),
    ("cli",),
    ("__main__",),
)
TIER = {room: number for number, rooms in enumerate(CHAIN) for room in rooms}
READER = "reports"  # beside the chain: it reads what a run wrote and computes nothing
READ_BY_IT = {*HALL, "run"}
ABOVE_IT = TIER["pipeline"]  # the first tier that may have reports written
HEAVY = {"torch", "torchvision", "diffusers", "open_clip", "faiss", "transformers", "peft", "monai"}
SLOW = {"scipy", "sklearn"}  # a second to import
READING = {*HALL, "run", READER, "cli", "__main__"}  # what runs when a finished run is read
FILES = sorted(ROOT.rglob("*.py"))
LEFTOVERS = {"utils", "util", "helpers", "helper", "common", "misc"}
EXTENSIONS = {  # the folder that each table of the registry fills
    "metric": "metrics",
    "space": "spaces",
    "format": "checkpoints.formats",
    "source": "images.sources",
    "report": "reports.formats",
    "folder report": "reports.formats",
}
OUTSIDE = "lab"  # a room that adds components of its own, as a plugin would

# Several files define these because a caller takes whichever file it is given.
CONTRACTS = {
    "scores": "a file of metrics/: what a metric gives each sample",
    "claims": "a checkpoint format or image source: whether a path is one of its kind",
    "render": "a report format: a report as text",
    "write": "a report format that is a folder",
    "charts": "a file of reports/charts/: its charts",
}
SHARED_CLASSES = 5  # public class names that stand in several files; may only fall
SHARED_FUNCTIONS = 114  # public function names; may only fall


def name_of(path: Path, root: Path) -> str:
    """Return ``diffusion.sampling`` for diffusion/sampling.py and ``spaces`` for spaces/__init__.py."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"


def room_of(module: str) -> str:
    """Return the room, or the file of the hall, in which a module stands."""
    return module.split(".")[0]


def imported(path: Path, everywhere: bool = True, for_types: bool = True) -> set[str]:
    """Return the full names that a file imports: also inside functions, also for type checkers only."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not for_types:
            return
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not everywhere:
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}, line {node.lineno}: import by full names; the order is read from them"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def arrows(root: Path, **which: bool) -> dict[str, set[str]]:
    """Return, for every module of a package, the modules of the package that it imports."""
    files = {name_of(path, root): path for path in sorted(root.rglob("*.py"))}
    found: dict[str, set[str]] = {}
    for module, path in files.items():
        names = {name.removeprefix("auditor.") for name in imported(path, **which) if name.split(".")[0] == "auditor"}
        names = {"__init__" if name == "auditor" else name for name in names}
        found[module] = {target_of(name, files) for name in names} - {module}
    return found


def target_of(name: str, files: dict[str, Path]) -> str:
    """Return the module of a full name, which may be that of a module or of something in one."""
    while name not in files:
        name = name.rpartition(".")[0] or "__init__"
    return name


def against_the_order(root: Path) -> list[str]:
    """Return the imports that do not point down the chain, as sentences."""
    wrong = []
    for module, others in arrows(root).items():
        for other in sorted(others):
            here, there = room_of(module), room_of(other)
            if here == there:
                continue
            if here == READER:
                right = there in READ_BY_IT
            elif there == READER:
                right = TIER[here] >= ABOVE_IT
            else:
                right = TIER[there] < TIER[here] or (here in HALL and there in HALL)
            if not right:
                wrong.append(f"{module} imports {other}")
    return wrong


def circle(root: Path) -> list[str]:
    """Return the modules of one circle of imports, or none."""
    try:
        TopologicalSorter(arrows(root, for_types=False)).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def defined(kinds: type | tuple[type, ...]) -> dict[str, list[str]]:
    """Return, for every public top-level name of such a definition, the modules that define it."""
    found = defaultdict(list)
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, kinds) and not node.name.startswith("_"):
                found[node.name].append(name_of(path, ROOT))
    return found


def test_every_room_has_its_place_in_the_chain():
    rooms = {room_of(name_of(path, ROOT)) for path in FILES}
    assert rooms == {*TIER, READER}, "as low in CHAIN as what the room imports allows"


def test_the_hall_is_a_closed_list():
    """A module that several rooms need belongs into the lowest of them."""
    assert {path.stem for path in ROOT.glob("*.py")} == {*HALL, "__main__"}


def test_imports_point_down_the_chain():
    assert against_the_order(ROOT) == []


def test_no_files_import_one_another_in_a_circle():
    assert circle(ROOT) == []


SMALL = {  # a package of the same rooms, in order
    "__init__.py": "",
    "errors.py": "class AuditError(Exception): ...",
    "run/__init__.py": "from auditor.errors import AuditError",
    "run/tables.py": "from auditor import errors",
    "stats.py": "import numpy",
    "images/__init__.py": "from auditor.run import tables",
    "reports/__init__.py": "from auditor.run.tables import read",
    "stages/nearest.py": "from auditor import images, stats",
    "stages/cells.py": "from auditor.stages.nearest import search",
    "pipeline/__init__.py": "from auditor import reports\nfrom auditor.stages import nearest",
}
TURNED = {
    "an import upward": ("images/__init__.py", "from auditor.stages import nearest", "images imports stages.nearest"),
    "one inside a function": ("stats.py", "def f():\n    from auditor import images", "stats imports images"),
    "one for type checkers": ("stats.py", "if TYPE_CHECKING:\n    import auditor.images", "stats imports images"),
    "of a room beside": ("stats.py", "import auditor.run.tables", "stats imports run.tables"),
    "of a room by the hall": ("errors.py", "from auditor.run import tables", "errors imports run.tables"),
    "of statistics by a report": ("reports/__init__.py", "from auditor import stats", "reports imports stats"),
    "of reports by a stage": ("stages/cells.py", "import auditor.reports", "stages.cells imports reports"),
}


def written(root: Path, files: dict[str, str]) -> Path:
    """Write files of these names and texts."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_package_in_order_passes(tmp_path):
    root = written(tmp_path, SMALL)
    assert against_the_order(root) == [] and circle(root) == []


@pytest.mark.parametrize("case", TURNED)
def test_one_import_that_is_turned_around_is_found(case, tmp_path):
    file, text, said = TURNED[case]
    assert against_the_order(written(tmp_path, {**SMALL, file: text})) == [said]


def test_a_circle_of_files_within_a_room_is_found(tmp_path):
    root = written(tmp_path, {**SMALL, "stages/nearest.py": "def f():\n    from auditor.stages.cells import g"})
    assert against_the_order(root) == []
    assert set(circle(root)) == {"stages.cells", "stages.nearest"}


def test_a_relative_import_is_refused(tmp_path):
    with pytest.raises(AssertionError, match="full names"):
        arrows(written(tmp_path, {**SMALL, "stages/cells.py": "from . import nearest"}))


# What is imported when ----------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_heavy_libraries_are_imported_inside_functions_only(path):
    roots = {name.split(".")[0] for name in imported(path, everywhere=False, for_types=False)}
    assert not roots & HEAVY


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_scipy_costs_a_second_and_is_not_needed_to_read_a_run(path):
    if room_of(name_of(path, ROOT)) in READING:
        assert not {name.split(".")[0] for name in imported(path)} & SLOW


def test_the_command_line_imports_no_module_of_ours_but_settings_and_errors_before_a_command_is_chosen():
    at_start, loaded, waiting = arrows(ROOT, everywhere=False, for_types=False), set(), ["__main__"]
    while waiting:
        module = waiting.pop()
        loaded.add(module)
        waiting += at_start[module] - loaded
    known = {"__init__", "__main__", "config", "errors", "registry", "cli"}  # the registry: names alone
    assert {room_of(module) for module in loaded} <= known
    assert "cli.run" in loaded


# Names ------------------------------------------------------------------------


def test_no_module_of_ours_is_a_box_of_leftovers():
    assert not {part for path in FILES for part in name_of(path, ROOT).split(".")} & LEFTOVERS


def test_no_function_of_the_package_looks_like_a_test():
    """pytest collects what begins so wherever it is imported."""
    assert [name for name in defined(ast.FunctionDef) if name.startswith("test_")] == []


def shared(kinds: type) -> dict[str, list[str]]:
    """Return the public names that several modules define, but those of a contract."""
    found = defined(kinds)
    return {name: where for name, where in sorted(found.items()) if len(where) > 1 and name not in CONTRACTS}


def test_few_names_of_classes_and_functions_stand_for_several_things():
    """Who adds a name takes one that is free; who renames lowers the number."""
    classes, functions = shared(ast.ClassDef), shared(ast.FunctionDef)
    assert len(classes) <= SHARED_CLASSES, classes
    assert len(functions) <= SHARED_FUNCTIONS, functions


def test_every_name_of_a_contract_is_one():
    found = defined(ast.FunctionDef)
    assert all(found[name] for name in CONTRACTS)


# The registry and the folders that it fills ----------------------------------------


def test_every_table_of_the_registry_has_its_folder():
    """A stage's folder also holds what stages share: tests/stages/test_contract.py compares these."""
    assert EXTENSIONS.keys() | {"stage"} == registry.TABLES.keys()


@pytest.mark.parametrize("folder", sorted(set(EXTENSIONS.values())))
def test_every_file_of_an_extension_folder_is_registered_and_every_registered_module_is_there(folder):
    tables = [registry.TABLES[kind] for kind, place in EXTENSIONS.items() if place == folder]
    named = {value.split(":")[0].removeprefix("auditor.") for table in tables for value in table.values()}
    ours = {module for module in named if room_of(module) != OUTSIDE}
    assert ours == {f"{folder}.{path.stem}" for path in (ROOT / folder.replace(".", "/")).glob("[!_]*.py")}


def test_every_metric_that_a_file_defines_is_registered_and_no_other():
    named = {tuple(value.split(":")) for value in registry.METRICS.values()}
    modules = [import_module(f"auditor.metrics.{path.stem}") for path in (ROOT / "metrics").glob("[!_]*.py")]
    found = {(m.__name__, name) for m in modules for name, value in vars(m).items() if isinstance(value, Metric)}
    assert found == named


def test_run_scan_report_and_check_are_imported_where_there_is_no_posix():
    """LoRA users train on Windows: what only POSIX has must not stand on their way."""
    absent = "import sys; sys.modules.update(dict.fromkeys(('fcntl', 'resource', 'pwd', 'grp', 'termios')))"
    needed = "auditor.pipeline.trainings, auditor.pipeline.final_model, auditor.inputs.scan, auditor.reports.gate"
    code = f"{absent}; import {needed}, auditor.cli.run, auditor.reports.formats.html"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
