"""Twins that share no step, as trainers leave that keep the best by validation loss alone, are paired by the user."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from conftest import FAST, as_arguments, audited, call

SAME = ("measurements", "verdicts", "profiles", "attacks", "exposure", "named", "classes", "scales")
OTHER = 7  # steps by which the twin's checkpoints are named later


def renamed(source: str, target: Path) -> Path:
    """Copy a series whose folders end in their step, each a few steps later."""
    for path in Path(source).iterdir():
        name, dash, step = path.name.rpartition("-")
        new = f"{name}{dash}{int(step) + OTHER}" if step.isdigit() else path.name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, target / new)
    return target


@pytest.fixture(scope="session")
def options(saved_inputs, tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("later")
    return {**saved_inputs.options, **FAST, "ckpts-b": renamed(saved_inputs.options["ckpts-b"], folder / "b")}


@pytest.fixture(scope="session")
def pairs(finished) -> str:
    steps = json.loads((finished / "run.json").read_text())["scope"]["steps"]
    return ",".join(f"{step}:{step + OTHER}" for step in steps)


@pytest.fixture(scope="session")
def paired(options, pairs, made_once) -> Path:
    return made_once("paired", lambda folder: audited({**options, "pair": pairs}, folder / "run")) / "run"


def test_the_tables_are_those_of_the_same_files_under_one_step(paired, finished):
    for name in SAME:
        assert (paired / f"{name}.parquet").read_bytes() == (finished / f"{name}.parquet").read_bytes(), name


def test_no_onset_is_claimed_of_unlike_progress_and_both_progresses_are_told(paired, finished, audit):
    onsets = pd.read_parquet(paired / "onsets.parquet")
    assert len(onsets) == len(pd.read_parquet(finished / "onsets.parquet"))
    assert (onsets.status == "undecided").all() and onsets.note.str.contains("unlike progress").all()
    first, own = json.loads((paired / "run.json").read_text())["scope"]["progress"][0]
    assert own == first + OTHER
    for how in ((), ("--markdown", paired.parent / "out"), ("--html", paired.parent / "out")):
        outcome = audit("report", paired, *how)
        said = outcome.out if not how else (paired.parent / "out").read_text()
        assert f"{first} of a with {own} of b" in " ".join(said.split())
    assert audit("verify", paired).status == 0


def test_equal_steps_that_are_paired_by_hand_keep_their_onsets(saved_inputs, finished, tmp_path):
    steps = json.loads((finished / "run.json").read_text())["scope"]["steps"]
    given = {**saved_inputs.options, **FAST, "pair": ",".join(f"{s}:{s}" for s in steps)}
    run = audited(given, tmp_path / "run")
    assert (tmp_path / "run" / "onsets.parquet").read_bytes() == (finished / "onsets.parquet").read_bytes(), run


def test_the_last_checkpoints_are_one_pair(options, tmp_path):
    outcome = call(
        "run", *as_arguments({**options, "pair": "last", "steps": None, "out": tmp_path / "run"}), "--dry-run"
    )
    assert outcome.status == 0 and outcome.out.startswith("1 checkpoints of each twin"), outcome.err


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (None, "or pair them: --pair last"),
        ("best", "of which 0 are called best"),
        ("43", "pairs no checkpoints"),
        ("43:57", "Twin a has no usable checkpoint at step 43"),
    ],
)
def test_what_cannot_be_paired_is_one_error(options, tmp_path, how, said):
    outcome = call("run", *as_arguments({**options, "pair": how, "steps": None, "out": tmp_path / "run"}))
    assert outcome.status == 1 and said in outcome.err and not (tmp_path / "run").exists()


def test_pairs_ascend_in_both_trainings(options, pairs, tmp_path):
    turned = ",".join(reversed(pairs.split(",")))
    outcome = call("run", *as_arguments({**options, "pair": turned, "out": tmp_path / "run"}))
    assert outcome.status == 1 and "do not ascend" in outcome.err
