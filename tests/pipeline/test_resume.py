"""A run that was killed, stopped, extended or moved ends with the bytes of one that was left alone."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import FAST, arguments_of_run, audited
from PIL import Image

from auditor import run as run_module
from auditor.run import RunDirectory

SMALL = {**FAST, "steps": "90", "spaces": "pixel"}
OF_THE_PROCESS = {"run.json", "log.txt", ".lock"}  # times, versions and where it ran


def contents(root: Path) -> dict[str, bytes]:
    """Return every file of a run but those that tell of the process."""
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name not in OF_THE_PROCESS}


def assert_same_run(root: Path, expected: Path) -> None:
    """The files are the same, byte for byte: nothing is missing, nothing is left over."""
    found, wanted = contents(root), contents(expected)
    assert sorted(found) == sorted(wanted)
    assert [name for name in wanted if found[name] != wanted[name]] == []


@pytest.fixture
def audit_args(saved_inputs, tmp_path):
    """The arguments of an even smaller run than that of the other tests: one step, one space."""
    return arguments_of_run(saved_inputs, tmp_path / "run", SMALL)


@pytest.fixture(scope="module")
def finished(saved_inputs, tmp_path_factory) -> Path:
    """Such a run, never disturbed; read it only."""
    return audited({**saved_inputs.options, **SMALL}, tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "run"


def test_two_undisturbed_runs_are_identical(audit, audit_args, finished, out):
    assert audit(*audit_args()).status == 0
    assert_same_run(out, finished)


def test_a_run_killed_between_any_two_states_of_a_file_ends_with_the_same_bytes(spawn, audit_args, finished, out):
    """Each process dies by its own SIGKILL before (odd) or after (even) one of its renamings, the next one resumes."""
    for number in (1, 2, 15, 16, 21, 25, 30):
        child = spawn(audit_args(), kill_at=number)
        assert child.status() == -signal.SIGKILL
    assert spawn(audit_args()).status() == 0
    assert_same_run(out, finished)


def test_a_run_killed_from_outside_at_random_ends_with_the_same_bytes(spawn, audit_args, finished, out):
    rng = random.Random(0)
    for attempt in range(1, 6):
        child = spawn(audit_args())
        child.process.join(rng.uniform(0.2, 0.5) * attempt)  # each time a little later
        child.process.kill()
        child.status()
    assert spawn(audit_args()).status() == 0
    assert_same_run(out, finished)


def test_a_kill_loses_at_most_one_batch(spawn, audit_args, out):
    parts = out / "samples/a/90.partial"
    child = spawn(audit_args(n_samples=2000, sampling_steps=20))
    child.wait_for((parts / "00000010.npy").exists)
    child.process.kill()
    child.status()
    before = {path.name: path.stat().st_mtime_ns for path in parts.glob("0*.npy")}
    child = spawn(audit_args(n_samples=2000, sampling_steps=20))
    child.wait_for((parts / f"{5 * len(before) + 5:08d}.npy").exists)
    child.process.kill()
    child.status()
    assert {name: (parts / name).stat().st_mtime_ns for name in before} == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_ends_with_one_line_and_the_command_that_resumes(spawn, audit_args, out, number):
    arguments = audit_args(n_samples=2000, out=str(out.with_name("my run")))
    child = spawn(arguments)
    child.wait_for((out.with_name("my run") / "samples/a/90.partial/00000005.npy").exists)
    os.kill(child.process.pid, number)
    assert child.status() == 130
    *_, last = child.log.read_text().splitlines()
    assert last.startswith("stopped; to go on from the last finished batch: audit run --ckpts-a ")
    assert f"'{out.with_name('my run')}'" in last  # quoted: it can be pasted
    assert "Traceback" not in child.log.read_text()
    assert not list(out.with_name("my run").rglob("*.tmp"))


def test_a_full_disk_ends_with_three_lines_and_the_run_resumes(audit, audit_args, finished, out, monkeypatch):
    replace, calls = os.replace, []

    def full(old, new):
        calls.append(new)
        if len(calls) == 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        stopped = audit(*audit_args())
    assert stopped.status == 1
    what, where, remedy = stopped.err.splitlines()[-3:]
    assert what == "error: The disk is full." and where == f"where: {calls[39]}" and "the run resumes" in remedy
    assert audit(*audit_args()).status == 0
    assert_same_run(out, finished)


def test_batches_that_outlived_their_artifact_are_cleared_away(audit, audit_args, finished, out, monkeypatch):
    """Killed between the renaming of an artifact and the removal of its batches, a run kept them for ever."""

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "drop_parts", killed)
        assert audit(*audit_args()).status == 130
    assert list(out.rglob("*.partial"))
    assert audit(*audit_args()).status == 0
    assert_same_run(out, finished)


# Extending and changing


def test_more_samples_extend_a_run_and_keep_the_earlier_ones(audit, audit_args, run_copy, tmp_path):
    earlier = np.load(run_copy / "samples/a/90.npy")
    assert audit(*audit_args(n_samples=18)).status == 0
    assert np.array_equal(np.load(run_copy / "samples/a/90.npy")[:12], earlier)
    assert audit(*audit_args(n_samples=18, out=tmp_path / "anew")).status == 0
    assert_same_run(run_copy, tmp_path / "anew")


def test_fewer_samples_measure_the_first_ones(audit, audit_args, run_copy, tmp_path):
    assert audit(*audit_args(n_samples=9)).status == 0
    assert audit(*audit_args(n_samples=9, out=tmp_path / "anew")).status == 0
    for name in ("measurements", "onsets", "verdicts"):
        assert (run_copy / f"{name}.parquet").read_bytes() == (tmp_path / f"anew/{name}.parquet").read_bytes()


def test_another_space_extends_a_run_without_a_network_call(audit, audit_args, run_copy, tmp_path):
    assert "total 0 network calls" in audit(*audit_args(spaces="correlation,pixel"), "--dry-run").out
    assert audit(*audit_args(spaces="correlation,pixel")).status == 0
    assert audit(*audit_args(spaces="correlation,pixel", out=tmp_path / "anew")).status == 0
    assert_same_run(run_copy, tmp_path / "anew")


def test_other_sampling_steps_are_refused_with_the_reason_until_remake_is_given(audit, audit_args, run_copy):
    before = contents(run_copy)
    refused = audit(*audit_args(sampling_steps=5))
    assert refused.status == 1
    assert "would discard 2 finished artefacts" in refused.err and "sampling_steps: 4 -> 5" in refused.err
    assert "--remake" in refused.err
    assert contents(run_copy) == before
    assert audit(*audit_args(sampling_steps=5), "--remake").status == 0
    assert contents(run_copy)["samples/a/90.npy"] != before["samples/a/90.npy"]


def test_changed_weights_are_noticed_by_their_digest(audit, audit_args, inputs, run_copy):
    other = inputs.root / "b/checkpoint-90/unet_ema"
    shutil.copytree(inputs.root / "b/checkpoint-200/unet_ema", other, dirs_exist_ok=True)
    refused = audit(*audit_args(inputs))
    assert refused.status == 1 and "samples b/90 (checkpoint: " in refused.err


def test_automatic_settings_are_those_the_run_began_with(audit, audit_args, run_copy):
    again = audit(*audit_args(batch_size=None), "--dry-run")  # auto would be 64 on a CPU
    assert "total 0 network calls of 5 images" in again.out


# Looking without touching


def test_a_dry_run_of_a_new_audit_writes_nothing(audit, audit_args, out):
    plan = audit(*audit_args(), "--dry-run")
    assert plan.status == 0 and not out.exists()
    lines = plan.out.splitlines()
    assert "make        2 x samples: not there, 24 network calls" in lines  # 2 x 3 batches x 4 steps
    assert any(line.startswith("total ") and line.endswith(" network calls of 5 images on cpu") for line in lines)


def test_a_dry_run_of_a_finished_audit_changes_nothing_and_finds_nothing_to_do(audit, audit_args, run_copy):
    before = {path: path.stat().st_mtime_ns for path in run_copy.rglob("*")}
    plan = audit(*audit_args(), "--dry-run")
    assert not {"make", "extend", "remake"} & {line.split()[0] for line in plan.out.splitlines()}
    assert "total 0 network calls" in plan.out
    assert {path: path.stat().st_mtime_ns for path in run_copy.rglob("*")} == before


def test_a_dry_run_says_what_would_be_remade_and_why(audit, audit_args, run_copy):
    plan = audit(*audit_args(seed=1), "--dry-run")
    assert plan.status == 0
    assert "remake      2 x samples: first_seed: 0 -> 1" in plan.out


def test_a_moved_run_can_be_reported_and_resumed(audit, audit_args, run_copy, tmp_path):
    moved = tmp_path / "elsewhere" / "audit"
    moved.parent.mkdir()
    run_copy.rename(moved)
    assert audit("report", moved).status == 0
    assert "total 0 network calls" in audit(*audit_args(out=moved), "--dry-run").out


def test_a_run_that_somebody_else_writes_is_refused(audit, audit_args, out):
    with RunDirectory(out).locked():
        refused = audit(*audit_args())
    assert refused.status == 1 and "Another process is writing this run." in refused.err


def test_a_run_of_a_newer_auditor_is_neither_read_nor_overwritten(audit, audit_args, run_copy):
    record = run_copy / "run.json"
    record.write_text(record.read_text().replace('"format": 1', '"format": 99'))
    before = contents(run_copy)
    for command in (["report", run_copy], audit_args(), [*audit_args(), "--remake"]):
        refused = audit(*command)
        assert refused.status == 1 and "Upgrade auditor" in refused.err
    assert contents(run_copy) == before


def test_a_lost_record_is_written_again_and_the_work_is_kept(audit, audit_args, run_copy, finished):
    (run_copy / "run.json").unlink()
    assert "total 0 network calls" in audit(*audit_args(), "--dry-run").out
    assert audit(*audit_args()).status == 0
    assert_same_run(run_copy, finished)


def test_other_images_under_the_same_name_are_noticed_by_their_content(audit, audit_args, inputs, run_copy):
    """Fault: statistics that are cached by the name of a set are taken for those of whatever has the name now."""
    path = Path(inputs.options["heldout"])
    images = np.load(path)["images"]
    np.savez(path, images=255 - images)
    outcome = audit(*audit_args(inputs, out=run_copy), "--dry-run")
    assert outcome.status == 0, outcome.err
    changed = [line for line in outcome.out.splitlines() if line.startswith("remake")]
    assert any("features" in line for line in changed) and any("evidence" in line for line in changed)


def test_image_folders_of_the_same_name_are_kept_apart(audit, audit_args, inputs, tmp_path):
    """Fault: two folders of one basename share a cache, and every image is found in both halves."""
    given = {}
    for twin in "ab":
        folder = tmp_path / twin / "images"
        folder.mkdir(parents=True)
        for i, image in enumerate(np.load(inputs.options[f"train-{twin}"])["images"]):
            Image.fromarray(image).save(folder / f"{i:03d}.png")
        given[f"train_{twin}"] = folder
    outcome = audit(*audit_args(inputs, **given))
    assert outcome.status == 0, outcome.err
    vectors = [np.load(tmp_path / "run" / "features" / "pixel" / f"train-{twin}.npy") for twin in "ab"]
    assert not np.isclose(vectors[0], vectors[1]).all(axis=1).any()
