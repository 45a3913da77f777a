"""What every stage of the registry owes the plan, the executor, the reader, verification and the refusal to lose work.

All on one run with everything switched on.
"""

from __future__ import annotations

import ast
import inspect
import json
import pkgutil
import shutil
import signal
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
from conftest import EVERYTHING, as_arguments, config_of, make_fast
from edits import change_json
from repository import ROOT

import auditor.stages
from auditor import inputs as read_inputs
from auditor import registry
from auditor.errors import AuditError, RunExists
from auditor.inputs.asked import Asked, SetFacts
from auditor.inputs.loaded import Loaded
from auditor.pipeline import verify
from auditor.pipeline.plan import plan, refuse_loss_of_work
from auditor.run import RunDirectory, tables
from auditor.run.files import key_path, parts_folder
from auditor.stages import Item, Stage, Task, stage, stages
from auditor.stages.bench import Bench

# One is made for classes alone, which the models of that run do not have: tests/pipeline/test_run_formats.py has it.
NAMES = tuple(name for name in registry.STAGES if name != "class_references")


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """The small controls with which the run was made."""
    with pytest.MonkeyPatch.context() as patch:
        make_fast(patch)
        yield


@pytest.fixture(scope="module")
def loaded(everything, small) -> Loaded:
    """What the run was asked for, read again."""
    run = RunDirectory(everything.root / "run")
    return read_inputs.prepare(config_of({**everything.options, **EVERYTHING, "out": str(run.root)}), run)


@pytest.fixture(scope="module")
def asked(loaded) -> Asked:
    return loaded.asked


@pytest.fixture
def run(everything, tmp_path) -> RunDirectory:
    """A copy of the run that a test may damage."""
    return RunDirectory(shutil.copytree(everything.root / "run", tmp_path / "run"))


def first_item(asked: Asked, name: str) -> Item:
    """Return the first artifact of a stage."""
    return Item(name, *next(iter(stage(name).wanted(asked))))


def test_the_run_holds_an_artifact_of_every_stage(asked, everything):
    for name in NAMES:
        item = first_item(asked, name)
        assert all((everything.root / "run" / each).is_file() for each in stage(name).files(item.of, item.space)), name


# The registry --------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_name_in_the_registry_is_that_of_the_stage(name):
    kind = stage(name)
    assert kind.name == name and isinstance(kind, Stage)
    assert kind.per in ("set", "control", "checkpoint", "step")
    assert kind.word and kind.places


def test_every_stage_of_the_package_is_registered_and_no_other_is():
    found = set()
    for each in pkgutil.iter_modules(auditor.stages.__path__, "auditor.stages."):
        for attribute, value in vars(import_module(each.name)).items():
            if isinstance(value, Stage):
                found.add(f"{each.name}:{attribute}")
    assert found == set(registry.STAGES.values())


def test_no_two_stages_write_one_file_or_are_called_alike_in_the_plan(asked):
    assert len({kind.word for kind in stages().values()}) == len(registry.STAGES)
    files = [path for name, kind in stages().items() for each in kind.wanted(asked) for path in kind.files(*each)]
    assert len(files) == len(set(files))


KNOWING_NONE = ("pipeline/plan.py", "pipeline/execute.py", "pipeline/forecast.py", "pipeline/verify.py")
MODULES = {value.split(":")[0] for value in registry.STAGES.values()}
# Where else a stage is named, and why.
NAMED = {
    ("pipeline/trainings.py", "samples"): "a second training on half a takes the samples of the first over",
}
TOLD_APART = {each for name in NAMES for each in (name, stage(name).word) if set(each) & set("_-")}


def constants(tree: ast.AST) -> Iterator[str]:
    """Yield the texts of a module, without its docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    first = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body]
    told = {id(each.value) for each in first if isinstance(each, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.value


def looked_up(tree: ast.AST) -> Iterator[str]:
    """Yield the names by which a module asks for stages or their artifacts: stage("x"), Item("x", ...)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("stage", "Item"):
            yield from (each.value for each in node.args[:1] if isinstance(each, ast.Constant))


def test_a_stage_is_named_in_its_file_and_the_registry_alone():
    """Other stages name what they need; names that are plain words (samples, images) count where they are looked up."""
    found = set()
    for path in (ROOT / "auditor").rglob("*.py"):
        where, tree = path.relative_to(ROOT / "auditor").as_posix(), ast.parse(path.read_text())
        if where != "registry.py" and not where.startswith("stages/"):
            found |= {(where, each) for each in (*looked_up(tree), *(TOLD_APART & set(constants(tree))))}
    assert found <= set(NAMED)


def test_what_a_stage_needs_is_named_as_the_registry_names_it(asked):
    for name, kind in stages().items():
        for of, space in kind.wanted(asked):
            for need in kind.needs(asked, of, space):
                assert (need.of, need.space) in set(stage(need.stage).wanted(asked)), (name, need)


@pytest.mark.parametrize("where", KNOWING_NONE)
def test_the_plan_the_executor_the_forecast_and_verification_know_no_stage(where):
    tree = ast.parse((ROOT / "auditor" / where).read_text())
    imported = {
        f"{node.module}.{each.name}" if node.module == "auditor.stages" else node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for each in node.names
    }
    told = {"auditor.stages.features"} if where == "pipeline/forecast.py" else set()  # how many are embedded at once
    assert imported & MODULES == told
    assert not set(looked_up(tree)) and not TOLD_APART & set(constants(tree))


# Keys ----------------------------------------------------------------------


def other_sets(asked: Asked, **changes: Any) -> dict[str, SetFacts]:
    """Return the image sets with other facts."""
    return {name: replace(each, **changes) for name, each in asked.sets.items()}


CHANGES: dict[str, Callable[[Asked], Asked]] = {
    "config.n_samples": lambda a: replace(a, config=replace(a.config, n_samples=a.config.n_samples + 1)),
    "config.seed": lambda a: replace(a, config=replace(a.config, seed=7)),
    "config.sampler": lambda a: replace(a, config=replace(a.config, protocol="ours", sampler="dpm++")),
    "config.loss_images": lambda a: replace(a, config=replace(a.config, loss_images=5)),
    "config.loss_levels": lambda a: replace(a, config=replace(a.config, loss_levels=3)),
    "config.loss_strata": lambda a: replace(a, config=replace(a.config, loss_strata="log-snr")),
    "config.u_turns": lambda a: replace(a, config=replace(a.config, u_turns=5)),
    "config.trajectories": lambda a: replace(a, config=replace(a.config, trajectories=5)),
    "config.protocol": lambda a: replace(a, config=replace(a.config, protocol="ours", sampler="ddim")),
    "config.quick": lambda a: replace(a, config=replace(a.config, protocol="ours", sampler="ddim", quick=True)),
    "config.space_names": lambda a: replace(a, config=replace(a.config, spaces="correlation")),
    "scope": lambda a: replace(a, scope=replace(a.scope, steps=a.scope.steps[:1], spaces=(), with_train=False)),
    "device": lambda a: replace(a, device="cuda"),
    "batch_size": lambda a: replace(a, batch_size=6),
    "sampling_steps": lambda a: replace(a, sampling_steps=5),
    "scheduler": lambda a: replace(a, scheduler={**a.scheduler, "beta_end": 0.03}),
    "checkpoints": lambda a: replace(a, checkpoints=dict.fromkeys(a.checkpoints, "other")),
    "sets": lambda a: replace(a, sets=other_sets(a, digest="other", originals_digest="other")),
    "spaces": lambda a: replace(a, spaces={n: replace(each, revision="other") for n, each in a.spaces.items()}),
    "scaling": lambda a: replace(a, scaling={"a": [0.0, 1.0, 0.5], "b": [0.0, 1.0, 0.5]}),
    "conditions": lambda a: replace(a, conditions={"conditions": [0, 1], "guidance_scale": 2.0}),
    "with_model": lambda a: replace(a, with_model=False),
    "pairs_samples": lambda a: replace(a, pairs_samples=False),
    "sees_alike": lambda a: replace(a, sees_alike=False),
    "mirrored": lambda a: replace(a, mirrored=True),
}
DERIVED = {  # a property, and what it is made from
    "n_samples": "config.n_samples",
    "seeds": "config.seed",
    "times": "config.loss_levels",
    "level_shares": "config.loss_strata",
    "with_losses": "with_model",
    "loss_images": "config.loss_images",
    "compares_predictions": "sees_alike",
    "sets_asked_about": "sets",
}
NOT_IN_KEYS = {
    "image_shape": "checkpoints and images have it, whose digests are there",
    "whole": "says how much run.json told",
    "earlier": "run.json of an earlier version",
}
# What a stage reads and why its bytes do not change with it.
NOT_OF_THE_BYTES = {
    ("losses", "compares_predictions"): "predictions are kept or not; the plan looks for them where they are needed",
    ("control_losses", "checkpoints"): "taken out of the key of losses: a reference is no checkpoint",
    ("stepped_scores", "times"): "SecMI has times of its own, which follow from the process",
    **{
        ("published_losses", read): "taken out of the key of losses: this protocol settles it itself"
        for read in ("times", "loss_images", "config.seed")
    },
    **{
        ("u_turns", read): "taken out of the key of losses: U-turns have times and a number of images of their own"
        for read in ("times", "loss_images")
    },
    ("u_turns", "config.space_names"): "vectors in pixels are those of a stage, or made on the spot: the same",
}


def is_asked(node: ast.AST) -> bool:
    """Tell whether an expression is what was asked for: asked, bench.asked, loaded.asked."""
    return getattr(node, "id", getattr(node, "attr", "")) == "asked"


def called_by(function: FunctionType, tree: ast.AST) -> Iterator[FunctionType]:
    """Yield the functions of stages' modules that a function names, by themselves or after their module."""
    known = function.__globals__
    for node in ast.walk(tree):
        found = known.get(node.id) if isinstance(node, ast.Name) else None
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found = getattr(known.get(node.value.id), node.attr, None)
        if isinstance(found, FunctionType) and found.__module__.startswith("auditor.stages."):
            yield found


def reads_of(name: str) -> set[str]:
    """Return which settings a stage and what it calls read, apart from what it costs and needs by default.

    ``times`` is a property of what was asked for, ``config.seed`` a setting.
    """
    methods = dict(inspect.getmembers(type(stage(name)), inspect.isfunction))
    left = [each for at, each in methods.items() if at not in ("cost", "resolved") and each is not Stage.needs]
    found, seen = set(), set()
    while left:
        function = left.pop()
        if function in seen:
            continue
        seen.add(function)
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        left += called_by(function, tree)
        for node in (each for each in ast.walk(tree) if isinstance(each, ast.Attribute)):
            if is_asked(node.value) and node.attr != "config":
                found.add(node.attr)
            elif getattr(node.value, "attr", "") == "config" and is_asked(node.value.value):
                found.add(f"config.{node.attr}")
    return found - set(NOT_IN_KEYS)


def state(asked: Asked, name: str) -> dict[tuple[str, str], Any]:
    """Return by artifact of a stage what the plan compares: its key, and of an array how many rows it has."""
    kind = stage(name)
    return {
        each: (kind.key(asked, *each), None if kind.columns else kind.rows(asked, each[0]))
        for each in kind.wanted(asked)
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_key_changes_with_each_setting_that_the_stage_reads(asked, name):
    before, reads = state(asked, name), sorted(reads_of(name))
    kept = {read for read in reads if state(CHANGES[DERIVED.get(read, read)](asked), name) == before}
    assert kept == {read for of, read in NOT_OF_THE_BYTES if of == name}


# Calls ---------------------------------------------------------------------


def remove(run: RunDirectory, item: Item) -> dict[str, bytes]:
    """Remove an artifact; return what its files and what lay beside them held."""
    kept = {}
    for name in stage(item.stage).files(item.of, item.space):
        for path in (run.root / name, key_path(run.root / name)):
            kept[path.name] = path.read_bytes()
            path.unlink()
    return kept


def held(run: RunDirectory, item: Item) -> dict[str, bytes]:
    """Return what the files of an artifact and what lies beside them hold."""
    names = stage(item.stage).files(item.of, item.space)
    return {p.name: p.read_bytes() for name in names for p in (run.root / name, key_path(run.root / name))}


def ready(loaded: Loaded, run: RunDirectory, item: Item) -> Task:
    """Return the task of an artifact once everything before it in the plan is made."""
    tasks = plan(loaded.asked, run)
    wanted = next(task for task in tasks if task.item == item)
    for task in tasks[: tasks.index(wanted)]:
        if task.action != "reuse":
            assert task.item in set(stage(item.stage).needs(loaded.asked, item.of, item.space)), task
            list(stage(task.item.stage).make(Bench(loaded, run), task))
    return wanted


@pytest.mark.parametrize("name", NAMES)
def test_the_calls_that_are_announced_are_made_and_told_and_the_bytes_are_the_same(loaded, run, name, network_calls):
    item = first_item(loaded.asked, name)
    before = remove(run, item)
    task = ready(loaded, run, item)
    assert task.action == "make"
    network_calls.clear()
    told = sum(stage(name).make(Bench(loaded, run), task))
    assert task.calls == len(network_calls) == told
    assert max(network_calls, default=0) <= loaded.asked.batch_size
    assert held(run, item) == before
    assert bool(task.calls) <= stage(name).network or name == "trajectories"


KNOWN_TO_ASK = (
    "samples",
    "losses",
    "readings",
    "published_losses",
    "attack_scores",
    "stepped_scores",
    "u_turns",
    "trajectories",
)
ASKING = tuple(name for name in KNOWN_TO_ASK if name in NAMES)


def test_the_stages_that_ask_networks_are_these(asked):
    costs = {name: stage(name).cost(asked, *first_item(asked, name)[1:], 0) for name in NAMES}
    assert tuple(name for name, cost in costs.items() if cost.calls) == ASKING


@pytest.mark.parametrize("name", ASKING)
def test_making_that_is_stopped_after_its_first_part_goes_on_to_the_same_bytes(loaded, run, name, network_calls):
    item = first_item(loaded.asked, name)
    before = remove(run, item)
    task = ready(loaded, run, item)
    network_calls.clear()
    making = stage(name).make(Bench(loaded, run), task)
    next(making)
    making.close()
    first = len(network_calls)
    assert first
    again = next(each for each in plan(loaded.asked, run) if each.item == item)
    told = 0
    if again.action != "reuse":
        told = sum(stage(name).make(Bench(loaded, run), again))
    assert len(network_calls) == task.calls  # no call was made twice
    assert again.action == "reuse" or told == task.calls
    assert held(run, item) == before
    assert not parts_folder(run.root / stage(name).files(item.of, item.space)[0]).exists()


def test_making_that_is_killed_goes_on_to_the_same_bytes_with_fewer_calls(
    everything, loaded, run, spawn, network_calls
):
    name = ASKING[-2]
    item = first_item(loaded.asked, name)
    before = remove(run, item)
    task = ready(loaded, run, item)
    command = ["run", *as_arguments({**everything.options, **EVERYTHING, "out": str(run.root)})]
    parts = parts_folder(run.root / stage(name).files(item.of)[0])
    for number in range(6, 20, 2):  # what comes before the first part has renamings of its own
        assert spawn(command, kill_at=number).status() == -signal.SIGKILL
        if list(parts.glob("0*.npy")):
            break
    assert len(list(parts.glob("0*.npy"))) in (1, 2) and not (run.root / stage(name).files(item.of)[0]).exists()
    network_calls.clear()
    told = sum(stage(name).make(Bench(loaded, run), task))
    assert 0 < len(network_calls) < task.calls == told
    assert held(run, item) == before


# Reading back --------------------------------------------------------------

VALUES = {  # stage -> the column that every number of must be in what is read
    "losses": "loss",
    "readings": "error",
    "attack_scores": "score",
    "stepped_scores": "score",
    "u_turns": "distance",
    "agreement": "half_squared",
    "trajectories": "half_squared",
    "quality": "score",
}
VALUES = {name: column for name, column in VALUES.items() if name in NAMES}


def numbers(value: Any) -> Iterator[float]:
    """Yield every number in nested values."""
    if is_dataclass(value):
        yield from (x for each in fields(value) for x in numbers(getattr(value, each.name)))
    elif isinstance(value, Mapping):
        yield from (x for each in value.values() for x in numbers(each))
    elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
        yield from value.ravel().tolist()


def test_the_stages_that_give_measuring_what_they_wrote_are_these():
    own = {name for name, kind in stages().items() if type(kind).read is not Stage.read}
    assert own == {*VALUES, "control_losses"}  # whose reader is another: references are no checkpoints


@pytest.mark.parametrize("name", VALUES)
def test_every_number_that_is_written_is_read_back(asked, everything, name):
    run, kind, item = RunDirectory(everything.root / "run"), stage(name), first_item(asked, name)
    step = asked.scope.steps[0]
    written = tables.arrays(run.root / kind.files(item.of, item.space)[0])[VALUES[name]]
    twins = asked.scope.twins if kind.per == "step" else (item.of[0],)
    found = {x for twin in twins for x in numbers(kind.read(run, twin, step, item.space))}
    assert len(written) and set(written[~np.isnan(written)].tolist()) <= found


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_read_where_nothing_was_written(tmp_path, name):
    run = RunDirectory(tmp_path)
    if name == "quality":  # every run with images has it
        with pytest.raises((AuditError, FileNotFoundError)):
            stage(name).read(run, "a", 90, "pixel")
    else:
        assert not any(stage(name).read(run, "a", 90, "pixel").values())


# Verification --------------------------------------------------------------


def problems(run: RunDirectory) -> list[str]:
    """Return what verification finds missing or foreign."""
    return list(verify.problems_of(run, run.read_record()))


def test_verification_finds_nothing_wrong_with_an_untouched_run(everything):
    assert problems(RunDirectory(everything.root / "run")) == []


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", NAMES)
def test_verification_notices_what_is_wrong_with_any_file(asked, run, name):
    item = first_item(asked, name)
    for file in stage(name).files(item.of, item.space):
        path = run.root / file
        kept, beside = path.read_bytes(), key_path(path).read_text()
        path.unlink()
        assert problems(run) == [f"{file} is missing"]
        path.write_bytes(kept)
        flip(path)
        told = problems(run)  # a table may be unreadable then, and has no rows
        assert f"{file} has other bytes than when it was made" in told and all(each.startswith(file) for each in told)
        path.write_bytes(kept)
        change_json(key_path(path), lambda value: value["key"].update(revision="other"))
        assert any(each.startswith(f"{file} was made of something else: revision") for each in problems(run))
        key_path(path).write_text(beside)
        for source in list(json.loads(beside)["made_of"])[:1]:
            change_json(key_path(path), lambda value, at=source: value["made_of"].update({at: "0" * 64}))
            assert problems(run) == [f"{file} was made from another {source} than is there"]
        key_path(path).write_text(beside)


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_beside_a_file_names_all_that_it_was_made_of(asked, everything, name):
    run, item = RunDirectory(everything.root / "run"), first_item(asked, name)
    needed = {
        file
        for need in stage(name).needs(asked, item.of, item.space)
        for file in stage(need.stage).files(need.of, need.space)
    }
    for file in stage(name).files(item.of, item.space):
        assert needed <= set(run.beside(run.root / file).made_of)


# The refusal to lose work --------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_no_calls_are_thrown_away_unasked(asked, run, name):
    item = first_item(asked, name)
    path = run.root / stage(name).files(item.of, item.space)[0]
    change_json(key_path(path), lambda value: value["key"].update(revision="other"))
    tasks = plan(asked, run)
    (task,) = (each for each in tasks if each.item == item)
    assert task.action == "remake"
    if name in ASKING:
        with pytest.raises(RunExists, match=f"the first is {task.word} {task.of} .*revision: other"):
            refuse_loss_of_work(tasks, run, remake=False)
    else:
        refuse_loss_of_work(tasks, run, remake=False)
    refuse_loss_of_work(tasks, run, remake=True)


def test_what_is_kept_or_extended_is_no_loss(asked, everything):
    run = RunDirectory(everything.root / "run")
    tasks = plan(asked, run)
    assert {task.action for task in tasks} == {"reuse"}
    refuse_loss_of_work(tasks, run, remake=False)
    more = plan(CHANGES["config.n_samples"](asked), run)
    assert {task.action for task in more if task.calls} == {"extend"}
    refuse_loss_of_work(more, run, remake=False)
