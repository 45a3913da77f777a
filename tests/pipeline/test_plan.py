"""The plan knows what work is worth, what it will take on the disk, and what a smaller audit leaves to a larger one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import EVERYTHING, FAST, as_arguments, call, config_of, make_fast, smooth_images
from edits import change_json

from auditor import inputs as read_inputs
from auditor.pipeline import forecast, trainings
from auditor.pipeline.execute import Executor
from auditor.pipeline.plan import plan
from auditor.run import RunDirectory
from auditor.stages import bench as benches
from auditor.stages.bench import Bench


@pytest.fixture
def run(everything, tmp_path) -> Path:
    """A copy of the run with everything switched on."""
    return Path(shutil.copytree(everything.root / "run", tmp_path / "run"))


@pytest.fixture
def small(monkeypatch):
    """The small controls that the command line has in these tests."""
    make_fast(monkeypatch)


def again(everything, run: Path, **changes: str) -> list[str]:
    """Return the command that made the run, with changes."""
    changed = {name.replace("_", "-"): value for name, value in changes.items()}
    return ["run", *as_arguments({**everything.options, **EVERYTHING, **changed, "out": str(run)})]


# What is refused -----------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "changes", "why"),
    [
        ("u-turns", {"u_turns": "5"}, "images: 4 -> 5"),
        ("trajectories", {"trajectories": "5"}, r"seeds: [0, 4] -> [0, 5]"),
    ],
)
def test_another_setting_does_not_silently_discard_what_networks_were_asked(everything, run, word, changes, why):
    before = {path: path.stat().st_mtime_ns for path in (run / word).rglob("*")}
    refused = call(*again(everything, run, **changes))
    assert refused.status == 1
    assert f"the first is {word} a/90 ({why})" in refused.err and "Add --remake" in refused.err
    assert {path: path.stat().st_mtime_ns for path in (run / word).rglob("*")} == before


@pytest.mark.parametrize(
    ("word", "file"),
    [
        ("attack-scores", "attack-scores/a/90.parquet"),
        ("stepped-scores", "attack-scores/a/90.stepped.parquet"),
        ("published-losses", "losses/a/90.published.parquet"),
    ],
)
def test_scores_and_losses_of_another_checkpoint_are_not_silently_discarded(everything, run, word, file):
    change_json(run / f"{file}.key.json", lambda beside: beside["key"].update(checkpoint="other"))
    refused = call(*again(everything, run))
    assert refused.status == 1
    assert f"would discard 1 finished artefacts; the first is {word} a/90 (checkpoint: other -> " in refused.err


# What is forecast ----------------------------------------------------------


def bytes_in(folder: Path) -> int:
    """Return how many bytes the files of a folder have."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_forecast_of_the_disk_is_what_the_run_takes_at_most(saved_inputs, tmp_path, small, monkeypatch):
    """Losses and the predictions beside them are most of it; tables of few rows would be most of all else."""
    sizes = {"n-samples": "400", "batch-size": "100", "loss-images": "30", "loss-levels": "16", "spaces": "pixel"}
    options = {**saved_inputs.options, **FAST, **sizes, "steps": "90", "out": str(tmp_path / "run")}
    run = RunDirectory(tmp_path / "run")
    loaded = read_inputs.prepare(config_of(options), run)
    tasks, seen, drop = plan(loaded.asked, run), [], benches.drop_parts

    def drop_parts(path: Path) -> None:
        seen.append(bytes_in(run.root))  # artifact and parts: now there is most
        drop(path)

    monkeypatch.setattr(benches, "drop_parts", drop_parts)
    Executor(Bench(loaded, run), lambda text, calls: None).execute(tasks)
    expected = forecast.disk(tasks)
    assert max(seen) > 1.5 * bytes_in(run.root)  # what is there for a while counts
    assert max(seen) / 1.25 < expected < 1.25 * max(seen)
    stays = sum(task.cost.bytes for task in tasks)
    assert bytes_in(run.root) / 1.5 < stays < 1.5 * bytes_in(run.root)


# What is looked for --------------------------------------------------------


def test_a_file_of_any_stage_that_is_gone_is_named_and_made_again(everything, run):
    files = ["u-turns/b/200.parquet", "trajectories/90.parquet", "agreement/200.parquet", "agreement/90.scales.parquet"]
    files.append("evidence/pixel/b/90.quality.parquet")
    files = [name for name in files if (run / name).exists()]  # of the stages that there are
    assert len(files) >= 2
    kept = {name: (run / name).read_bytes() for name in files}
    for name in files:
        (run / name).unlink()
    found = call("verify", run)
    assert found.status == 1 and f"not whole ({len(files)} problems)" in found.err
    assert all(f"{name} is missing" in found.err for name in files)
    assert call(*again(everything, run)).status == 0
    assert {name: (run / name).read_bytes() for name in files} == kept
    assert call("verify", run).status == 0


def test_three_trainings_are_audited_with_a_plain_function_that_is_told(three, three_audited, tmp_path, small):
    run = RunDirectory(shutil.copytree(three_audited, tmp_path / "run"))
    given = {"heldout": three[1][1], **FAST, "out": str(run.root)}
    named = {"ckpts": three[1][3::4], "train": three[1][5::4]}
    config = config_of(given, **{name: tuple(each) for name, each in named.items()})
    told, expected = [], []

    def say(text: str, calls: int) -> None:
        told.append(text)

    pairs = trainings.prepare(config, run, say)
    trainings.audit(config, pairs, run, say=say, expect=expected.append, remake=False)
    assert expected == [0, 0, 0] and any(text.startswith("x|y: ") for text in told)


# A quick audit and a full one ----------------------------------------------


def test_a_full_audit_adds_to_the_scores_of_a_quick_one(saved_inputs, tmp_path):
    np.savez(tmp_path / "heldout.npz", images=smooth_images(400, 9))  # so many that a quick audit attacks
    sizes = {"n-samples": "4", "batch-size": "100", "loss-images": "400", "loss-levels": "2", "spaces": "pixel"}
    options = {**saved_inputs.options, **FAST, **sizes, "steps": "90", "heldout": str(tmp_path / "heldout.npz")}
    command = ["run", *as_arguments({**options, "out": str(tmp_path / "run")})]
    quick = call(*command, "--quick")
    assert quick.status == 0, quick.err
    scores = tmp_path / "run" / "attack-scores"
    before = {path: path.stat().st_mtime_ns for path in scores.rglob("*.parquet")}
    assert sorted(path.relative_to(scores).as_posix() for path in before) == ["a/90.parquet", "b/90.parquet"]
    full = call(*command)
    assert full.status == 0, full.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    added = set(scores.rglob("*.parquet")) - set(before)
    assert sorted(path.relative_to(scores).as_posix() for path in added) == [
        "a/90.stepped.parquet",
        "b/90.stepped.parquet",
    ]
    assert call("verify", tmp_path / "run").status == 0
