"""Damage of any artifact is told by the plan, healed without --remake, and never becomes what a table says."""

from __future__ import annotations

import hashlib
from pathlib import Path

from conftest import make_fast

from auditor.pipeline import verify
from auditor.pipeline.plan import plan
from auditor.run import RunDirectory


def content(root: Path) -> dict[str, str]:
    """Return the digest of every table and array."""
    paths = [*root.rglob("*.parquet"), *root.rglob("*.npy")]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_one_bit_of_any_artifact_is_told_by_plan_and_verify(run_copy, monkeypatch):
    make_fast(monkeypatch)  # as many controls as that run has
    run = RunDirectory(run_copy)
    asked = verify.asked_of(run, run.read_record())
    assert {task.action for task in plan(asked, run)} == {"reuse"}
    for key in sorted(run_copy.rglob("*.key.json"))[::4]:
        path = key.with_name(key.name.removesuffix(".key.json"))
        kept = path.read_bytes()
        path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        todo = [task for task in plan(asked, run) if task.action != "reuse"]
        assert todo and all(task.action == "make" for task in todo), path
        assert any(path.name in task.reason and task.reason.startswith("damaged") for task in todo), path
        assert any(path.name in each for each in verify.problems_of(run, run.read_record()))
        path.write_bytes(kept)


def test_no_second_run_turns_damage_into_truth(run_copy, audit, audit_args):
    before = content(run_copy)
    harmed = ["samples/a/90.npy", "features/pixel/train-a.npy", "losses/a/200.parquet", "agreement/90.scales.parquet"]
    for name in (*harmed, "evidence/pixel/b/1000.parquet", "images/train-b.npy"):
        path = run_copy / name
        path.write_bytes(path.read_bytes()[:-40] + bytes(40))
    (run_copy / "run.json").write_bytes(bytes(500))  # torn by a power loss
    assert audit("verify", run_copy).status == 1
    outcome = audit(*audit_args(out=str(run_copy)))
    assert outcome.status == 0, outcome.err
    assert content(run_copy) == before and audit("verify", run_copy).status == 0
    path = run_copy / "verdicts.parquet"
    path.write_bytes(path.read_bytes()[:-12] + b"\0" + path.read_bytes()[-11:])
    assert audit("verify", run_copy).status == 1
