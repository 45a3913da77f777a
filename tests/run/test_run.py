"""The run directory: atomic writes, keys, batches that survive, one writer, a format version."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from auditor import run as run_module
from auditor.errors import AuditError
from auditor.run import FORMAT_VERSION, RunDirectory
from auditor.run import files as run_files_module
from auditor.run.files import atomic, differences, part_path, parts_folder
from auditor.run.places import SAMPLES

KEY = {"stage": "samples", "steps": 50, "sizes": (8, 8)}
OTHER_KEY = {**KEY, "steps": 100}


class Work:
    """Makes rows [[start], [start + 1], ...] and remembers which batches it was asked for."""

    def __init__(self, factor: int = 1, stop_at: int | None = None) -> None:
        self.starts: list[int] = []
        self.factor, self.stop_at = factor, stop_at

    def __call__(self, rows: range) -> np.ndarray:
        if rows.start == self.stop_at:
            raise KeyboardInterrupt
        self.starts.append(rows.start)
        return np.array(rows, dtype=np.uint8)[:, None] * np.uint8(self.factor)


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def path(run) -> Path:
    return run.place(SAMPLES, "a/100")


def build(run: RunDirectory, path: Path, n: int, work: Work, key: dict = KEY, batch_size: int = 4) -> list[int]:
    """Make the artifact; returns the rows finished after each batch."""
    return list(run.build(path, key, n, batch_size, work))


def files(root: Path) -> set[str]:
    return {each.relative_to(root).as_posix() for each in root.rglob("*") if each.is_file()}


# Atomic writes


def test_an_error_while_writing_leaves_the_old_file_and_no_temporary_one(tmp_path):
    target = tmp_path / "table.parquet"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic(target) as temporary:
        temporary.write_text("half of the n")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert files(tmp_path) == {"table.parquet"}


def test_an_interrupt_while_writing_leaves_no_temporary_file(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "new.json") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert files(tmp_path) == set()


def test_a_file_appears_under_its_name_only_when_it_is_whole_and_synced(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(run_files_module, "sync", lambda each: events.append(("sync", each.name)))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (events.append(("rename", Path(new).name)), replace(old, new)))
    with atomic(tmp_path / "x.json") as temporary:
        temporary.write_text("{}")
        assert not (tmp_path / "x.json").exists()
    assert events == [("sync", temporary.name), ("rename", "x.json"), ("sync", tmp_path.name)]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_users_error_that_says_how_to_resume(tmp_path, monkeypatch, number):
    (tmp_path / "run.json").write_text("old")

    def full(old, new):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(AuditError, match="disk is full") as caught, atomic(tmp_path / "run.json") as temporary:
        temporary.write_text("new")
    assert "the run resumes" in caught.value.remedy
    assert files(tmp_path) == {"run.json"} and (tmp_path / "run.json").read_text() == "old"


def test_other_errors_of_the_system_keep_their_traceback(tmp_path):
    with pytest.raises(OSError, match="Input/output"), atomic(tmp_path / "x"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


# Artifacts in batches


def test_an_array_is_made_in_full_batches_and_cut_to_its_length(run, path):
    work = Work()
    assert build(run, path, 10, work) == [4, 8, 10]
    assert np.load(path).ravel().tolist() == list(range(10))
    assert work.starts == [0, 4, 8]
    assert not parts_folder(path).exists()
    assert run.key(path) == json.loads(json.dumps(KEY))


def test_an_interrupted_array_goes_on_from_the_last_finished_batch(run, path):
    with pytest.raises(KeyboardInterrupt):
        build(run, path, 12, Work(stop_at=8))
    assert run.key(path) is None
    work = Work()
    build(run, path, 12, work)
    assert work.starts == [8]
    assert np.load(path).ravel().tolist() == list(range(12))


def test_batches_begun_under_another_key_are_thrown_away(run, path):
    with pytest.raises(KeyboardInterrupt):
        build(run, path, 12, Work(factor=2, stop_at=8), OTHER_KEY)
    build(run, path, 12, Work())
    assert np.load(path).ravel().tolist() == list(range(12))


def test_batches_without_a_readable_key_are_thrown_away(run, path):
    with pytest.raises(KeyboardInterrupt):
        build(run, path, 12, Work(factor=2, stop_at=8))
    (parts_folder(path) / "key.json").write_text("{")
    build(run, path, 12, Work())
    assert np.load(path).ravel().tolist() == list(range(12))


def test_a_finished_array_under_another_key_is_made_anew(run, path):
    build(run, path, 6, Work(factor=2), OTHER_KEY)
    work = Work()
    build(run, path, 6, work)
    assert work.starts == [0, 4]
    assert np.load(path).ravel().tolist() == list(range(6))


def test_a_longer_array_keeps_the_whole_batches_of_the_shorter_one(run, path):
    """Row 8 and 9 came from a padded batch; they are drawn again with the batch they belong to."""
    build(run, path, 10, Work())
    work = Work()
    build(run, path, 15, work)
    assert work.starts == [8, 12]
    assert np.load(path).ravel().tolist() == list(range(15))


def test_a_batch_that_was_cut_short_by_its_source_is_made_again_when_more_is_asked(run, path):
    """Features of 6 samples end in a batch of 2; a kill before they were joined, then more samples: that batch has
    to grow. It was once joined as it was, and the run could not be resumed any more."""

    def cut(n):
        return lambda rows: np.array(range(rows.start, min(rows.stop, n)), dtype=np.uint8)[:, None]

    list(run.make_parts(path, KEY, range(0, 6, 4), cut(6)))
    list(run.build(path, KEY, 9, 4, cut(9)))
    assert np.load(path).ravel().tolist() == list(range(9))


def test_a_truncated_batch_is_made_again(run, path):
    """Renaming is atomic, but a copied or rescued run may hold a damaged file."""
    with pytest.raises(KeyboardInterrupt):
        build(run, path, 12, Work(stop_at=8))
    part = part_path(path, 4)
    part.write_bytes(part.read_bytes()[:40])
    work = Work()
    build(run, path, 12, work)
    assert work.starts == [4, 8]
    assert np.load(path).ravel().tolist() == list(range(12))


def test_an_artifact_without_its_key_counts_as_unfinished(run, path):
    build(run, path, 4, Work())
    run_module.key_path(path).unlink()
    assert run.key(path) is None


def test_the_new_key_never_stands_beside_the_old_bytes(run, path, monkeypatch):
    """A kill at any write leaves old bytes with the old key, new bytes with the new key, or no artifact."""
    build(run, path, 4, Work(factor=2), OTHER_KEY)
    seen = []
    replace = os.replace

    def watched(old, new):
        seen.append((run.key(path), np.load(path)[3, 0] if path.exists() else None))
        replace(old, new)

    monkeypatch.setattr(os, "replace", watched)
    build(run, path, 4, Work())
    seen.append((run.key(path), np.load(path)[3, 0]))
    new = json.loads(json.dumps(KEY))
    states = {("none" if key is None else "new" if key == new else "old", None if key is None else int(value))
              for key, value in seen}  # fmt: skip
    assert states == {("old", 6), ("none", None), ("new", 3)}


def test_joining_batches_does_not_go_through_a_memory_map(run, path, monkeypatch):
    """On a full disk a write through a memory map ends the process by SIGBUS; an ordinary write raises ENOSPC."""
    opened = []
    open_memmap = np.lib.format.open_memmap
    monkeypatch.setattr(
        np.lib.format, "open_memmap", lambda file, mode, **rest: opened.append(mode) or open_memmap(file, mode, **rest)
    )
    build(run, path, 10, Work())
    assert set(opened) == {"r"}
    assert np.load(path).shape == (10, 1)


# One writer


def test_a_second_writer_is_refused_at_once(run):
    code = (
        "import sys; from auditor.errors import AuditError; from auditor.run import RunDirectory\n"
        "try:\n    RunDirectory(sys.argv[1]).locked().__enter__()\nexcept AuditError as error:\n    print(error)"
    )
    command = [sys.executable, "-c", code, str(run.root)]
    with run.locked():
        second = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert "Another process is writing this run." in second.stdout
    assert subprocess.run(command, capture_output=True, text=True, timeout=20).stdout == ""  # the lock was given back


def test_a_run_directory_is_private(run):
    with run.locked():
        assert stat.S_IMODE(run.root.stat().st_mode) == 0o700


def test_a_run_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(AuditError, match="is a file"), RunDirectory(tmp_path / "run").locked():
        pass


# run.json


def test_the_record_reads_back_with_its_format_version(run):
    record = {"status": "complete", "given": {}, "scope": {}, "budgets": {}, "checks": {}}
    run.write_record(record)
    assert run.read_record() == {"format": FORMAT_VERSION, **record}


def test_a_run_of_a_newer_format_is_refused_with_both_versions(run):
    run.write_record({"format": FORMAT_VERSION + 1})
    with pytest.raises(AuditError, match=f"format {FORMAT_VERSION + 1}, this auditor reads up to {FORMAT_VERSION}"):
        run.read_record()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": null}', '{"format": "x"}', "\xff"])
def test_an_unreadable_record_is_a_users_error_with_a_remedy_that_keeps_the_work(run, text):
    run.root.mkdir()
    run.record.write_bytes(text.encode("latin-1"))
    with pytest.raises(AuditError, match="run.json cannot be read") as caught:
        run.read_record()
    assert "Remove this file" in caught.value.remedy


def test_a_folder_without_a_record_is_no_run(tmp_path):
    with pytest.raises(AuditError, match="There is no audit here"):
        RunDirectory(tmp_path).read_record()


def test_a_record_cannot_hold_nan(run):
    with pytest.raises(ValueError):
        run.write_record({"value": float("nan")})
    assert not run.record.exists()


# Why a key differs


def test_differences_name_the_setting_and_both_values():
    old = {"steps": 50, "scheduler": {"beta": 1, "kind": "linear"}, "same": [1, 2]}
    new = {"steps": 100, "scheduler": {"beta": 2, "kind": "linear"}, "same": [1, 2]}
    assert differences(old, new) == ["scheduler.beta: 1 -> 2", "steps: 50 -> 100"]
    assert differences(new, new) == []


def test_differences_tell_what_came_and_went_and_cut_digests():
    assert differences({"a": 1}, {"b": "f" * 64}) == ["a: 1 -> None", "b: None -> ffffffffffff..."]


# What is on disk is what was made


def flip(path: Path, at: int = -1) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [
        flip,
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: run_module.key_path(path).write_text("{"),
        lambda path: run_module.key_path(path).write_text('{"key": {}, "sha256": 5}'),
        lambda path: run_module.key_path(path).unlink(),
    ],
)
def test_an_artifact_of_other_bytes_is_damaged_and_no_row_of_it_is_kept(run, path, harm):
    build(run, path, 8, Work())
    assert run.damage(path) == ""
    harm(path)
    assert path.name in run.damage(path)
    work = Work()
    build(run, path, 12, work)
    assert work.starts == [0, 4, 8] and run.damage(path) == ""
    assert np.load(path).ravel().tolist() == list(range(12))


def test_a_batch_whose_end_was_never_written_is_made_again(run, path):
    """As a power loss leaves it: the length is right, the last bytes are zero."""
    with pytest.raises(KeyboardInterrupt):
        build(run, path, 12, Work(stop_at=8))
    part = part_path(path, 4)
    part.write_bytes(part.read_bytes()[:-34] + bytes(34))
    work = Work()
    build(run, path, 12, work)
    assert work.starts == [4, 8] and np.load(path).ravel().tolist() == list(range(12))


def test_what_was_made_of_another_file_than_is_there_is_told_unless_that_one_only_grew(run, path):
    made = run.root / "features" / "x.npy"
    build(run, path, 8, Work())
    list(run.build(made, KEY, 8, 4, Work(), run.digests(["samples/a/100.npy"])))
    assert run.other_sources(made) == []
    build(run, path, 12, Work())
    assert run.other_sources(made) == []
    build(run, path, 12, Work(factor=3), OTHER_KEY)
    assert run.other_sources(made) == ["samples/a/100.npy"]


# Whose folder it is


@pytest.mark.parametrize("name", ["notes.txt", "samples/a/613.npy", "run.json", ".lock"])
def test_a_folder_that_is_neither_empty_nor_a_run_is_refused_and_stays_as_it_is(run, name):
    theirs = run.root / name
    theirs.parent.mkdir(parents=True, exist_ok=True)
    theirs.write_text('{"format": 1, "mine": true}')
    (run.root / "mine.txt").touch()
    before = {each: each.read_bytes() for each in run.root.rglob("*") if each.is_file()}
    with pytest.raises(AuditError, match="neither empty nor a run"), run.locked():
        raise AssertionError("it was entered")
    assert before == {each: each.read_bytes() for each in run.root.rglob("*") if each.is_file()}


def test_a_run_that_was_begun_by_this_or_an_earlier_version_is_entered(run):
    run.root.mkdir()
    with run.locked():
        pass
    (run.root / "slurm-1.out").touch()
    with run.locked():
        pass
    (run.root / ".lock").write_bytes(b"")  # as earlier versions left it
    run.write_record({"given": {}, "versions": {}, "status": "started", "scope": {}, "budgets": {}, "checks": {}})
    with run.locked():
        pass


def test_files_within_a_run_that_are_not_its_own_are_never_touched(run, path):
    build(run, path, 8, Work())
    theirs = [path.parent / "mine.txt", run.root / "predictions/a/mine.txt", path.parent / "100.partial" / "mine.txt"]
    for each in theirs:
        each.parent.mkdir(parents=True, exist_ok=True)
        each.write_text("mine")
    (path.parent / "100.partial" / "00000000.npy").write_bytes(b"x" * 100)  # of a kill that took the key first
    build(run, run.root / "predictions/a/5.npy", 4, Work())
    run.sweep(["predictions"], ["samples"])
    assert all(each.read_text() == "mine" for each in theirs)
    assert files(run.root) == {"samples/a/100.npy", "samples/a/100.npy.key.json"} | {
        each.relative_to(run.root).as_posix() for each in theirs
    }


def test_orphaned_batches_are_swept_and_those_of_work_to_come_are_not(run, path):
    (path.parent / "9.partial").mkdir(parents=True)
    (path.parent / "9.partial" / "00000000.npy").write_bytes(b"x")
    with pytest.raises(KeyboardInterrupt):
        build(run, path, 12, Work(stop_at=8))
    run.sweep([], ["samples"])
    assert not (path.parent / "9.partial").exists() and part_path(path, 4).exists()


@pytest.mark.parametrize(("shared", "mode"), [(False, 0o700), (True, 0o755)])
def test_a_folder_that_was_there_is_made_private_unless_it_is_shared(tmp_path, shared, mode):
    root = tmp_path / "run"
    root.mkdir()
    root.chmod(0o755)
    run, before = RunDirectory(root, shared), os.umask(0o022)
    try:
        with run.locked():
            run.write_record({"status": "started"})
    finally:
        assert os.umask(before) == 0o022
    assert stat.S_IMODE(root.stat().st_mode) == mode
    assert stat.S_IMODE(run.record.stat().st_mode) == (0o644 if shared else 0o600)


@pytest.mark.parametrize(
    "change",
    [{"scope": []}, {"checks": None}, {"status": 5}, {"budgets": "x"}, {"checks": {"recommendation": {"sentence": 1}}}],
)
def test_a_record_of_other_types_is_told_by_name(run, change):
    sound = {"given": {}, "status": "complete", "scope": {}, "budgets": {}, "checks": {}}
    run.write_record(sound | change)
    with pytest.raises(AuditError, match=next(iter(change))) as caught:
        run.read_record()
    assert caught.value.where == str(run.record)
