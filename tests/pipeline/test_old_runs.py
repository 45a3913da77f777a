"""Runs that the version of commit 8ed976b made are whole, up to date and reported as they were then."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest
from conftest import Outcome, as_arguments, call
from repository import FIXTURES

from auditor.pipeline import forecast
from auditor.stages import keys

LATER = {  # what is made, or made again, since then
    "whole": {"make        4 x readings": 96},
    "one": {  # held-out images stand in the place of another half now, in every table; no network is asked again
        "make        1 x control": 0,
        "make        1 x control losses": 0,
        "make        2 x features": 0,
        "remake      3 x set evidence": 0,
        "make        1 x set evidence": 0,
        "make        1 x control evidence": 0,
        "remake      2 x control evidence": 0,
        "make        2 x readings": 48,
        "remake      2 x evidence": 0,
        "remake      2 x coverage": 0,
        "remake      2 x quality": 0,
        "make        1 x images": 0,
    },
}
RUNS = ("whole", "one")  # two trainings with everything switched on; one training alone
FORMS = ("terminal", "json", "markdown", "csv", "pull-request", "html")
ARCHIVE, REPORTS = FIXTURES / "run-8ed976b.tar.xz", FIXTURES / "run-8ed976b.json"
WIDTH = "100"
GIVEN = {
    name: f"{value}"
    for name, value in {
        "ckpts-a": "a",
        "train-a": "train-a.npz",
        "heldout": "heldout.npz",
        "n-samples": 12,
        "batch-size": 5,
        "sampling-steps": 4,
        "loss-images": 6,
        "loss-levels": 2,
    }.items()
}
BOTH = {"ckpts-b": "b", "train-b": "train-b.npz", "u-turns": "4", "trajectories": "4"}
OPTIONS = {
    "whole": {**GIVEN, **BOTH, "spaces": "pixel,correlation,pca-1", "out": "whole"},
    "one": {**GIVEN, "spaces": "pixel", "out": "one"},
}


def unpacked(root: Path) -> Path:
    """Return ``root`` with the runs and their inputs in it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(root, filter="data")
    return root


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Path:
    """The folder in which the runs were made, with their inputs; read it only."""
    return unpacked(tmp_path_factory.mktemp("earlier"))


@pytest.fixture(scope="module")
def with_versions(tmp_path_factory) -> Path:
    """The same, as if made beside the libraries that are installed here: keys hold their versions."""
    root = unpacked(tmp_path_factory.mktemp("with-versions"))
    for path in root.rglob("*.key.json"):
        path.write_text(json.dumps(renewed(json.loads(path.read_text()))))
    return root


def renewed(value):
    """Return a key with the installed versions of libraries."""
    if isinstance(value, list):
        return [renewed(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {k: keys.version(k) if k in ("torch", "diffusers") else renewed(each) for k, each in value.items()}


def planned(root: Path, run: str, monkeypatch, **changes: str | None) -> Outcome:
    """Return the plan of the command that made a run, given where it was given then."""
    monkeypatch.chdir(root)
    monkeypatch.setattr(forecast, "TRIAL_SECONDS", 0.0)
    return call("run", *as_arguments(OPTIONS[run] | {k.replace("_", "-"): v for k, v in changes.items()}), "--dry-run")


def tasks_of(plan: Outcome) -> list[str]:
    """Return the lines of a plan that tell of artifacts."""
    assert plan.status == 0, plan.err
    which, *lines = plan.out.split("\ntotal ")[0].splitlines()
    assert which.endswith(" weights")
    return lines


def not_reused(lines: list[str]) -> list[str]:
    """Return what a plan makes, without its reasons."""
    return list(dict.fromkeys(line.split(":")[0] for line in lines if not line.startswith("reuse")))


@pytest.mark.parametrize("run", RUNS)
def test_the_same_command_finds_every_artifact_up_to_date_and_makes_what_came_later(with_versions, run, monkeypatch):
    plan = planned(with_versions, run, monkeypatch)
    lines = tasks_of(plan)
    assert all(line.endswith(": up to date") for line in lines if line.startswith("reuse"))
    assert not_reused(lines) == list(LATER[run])
    assert f"total {sum(LATER[run].values())} network calls of 5 images on cpu" in plan.out


def test_a_run_that_was_begun_keeps_its_number_of_loss_images_and_levels(with_versions, monkeypatch):
    lines = tasks_of(planned(with_versions, "whole", monkeypatch, loss_images=None, loss_levels=None))
    assert lines and not_reused(lines) == list(LATER["whole"])


@pytest.mark.parametrize("run", RUNS)
def test_a_command_that_names_no_spaces_keeps_those_of_the_run_and_says_so(with_versions, run, monkeypatch):
    plan = planned(with_versions, run, monkeypatch, spaces=None)
    assert not_reused(tasks_of(plan)) == list(LATER[run])
    assert "This run keeps its spaces" in plan.out and "windows" not in plan.out.split("note: ")[0]


def test_the_plan_names_every_kind_of_evidence_that_the_run_holds(with_versions, monkeypatch):
    told = {line.split(" x ")[1].split(":")[0] for line in tasks_of(planned(with_versions, "whole", monkeypatch))}
    assert told == {
        "control",
        "control losses",
        "features",
        "set evidence",
        "control evidence",
        "samples",
        "losses",
        "readings",
        "attack scores",
        "stepped scores",
        "u turns",
        "agreement",
        "trajectories",
        "sample features",
        "evidence",
        "coverage",
        "quality",
        "images",
    }


@pytest.mark.parametrize("run", RUNS)
def test_one_table_of_all_attacks_is_up_to_date_for_both_stages_that_make_it_now(with_versions, run, monkeypatch):
    assert not list((with_versions / run).rglob("*.stepped.parquet"))
    tables = len(list((with_versions / run / "attack-scores").rglob("*.parquet")))
    assert tables == (4 if run == "whole" else 2)
    lines = tasks_of(planned(with_versions, run, monkeypatch))
    for word in ("attack scores", "stepped scores"):
        assert f"{'reuse':7} {tables:5} x {word}: up to date" in lines


def test_a_changed_setting_is_still_told_apart_from_what_the_run_holds(with_versions, monkeypatch):
    """What is found up to date is found so because keys were compared."""
    lines = tasks_of(planned(with_versions, "whole", monkeypatch, u_turns="5"))
    assert [line.split(":")[0].split(" x ")[1] for line in lines if line.startswith("remake")] == ["u turns"]


@pytest.mark.parametrize("run", RUNS)
def test_verification_agrees_and_tells_that_no_digest_lies_beside_the_files(earlier, run, monkeypatch):
    monkeypatch.chdir(earlier)
    files = [path.name.removesuffix(".key.json") for path in (earlier / run).rglob("*.key.json")]
    outcome = call("verify", run)
    assert outcome.status == 0, outcome.err
    assert f"{len(files)} files were made by an earlier version, which left no digest beside them" in outcome.out


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("run", RUNS)
def test_a_report_has_the_bytes_that_the_earlier_version_wrote(earlier, run, form, tmp_path, monkeypatch):
    monkeypatch.chdir(earlier)
    written = tmp_path / "report"
    how = ["--width", WIDTH] if form == "terminal" else [f"--{form}", written]
    outcome = call("report", run, *how)
    assert outcome.status == 0, outcome.err
    found = outcome.out.encode() if form == "terminal" else written.read_bytes()
    assert hashlib.sha256(found).hexdigest() == json.loads(REPORTS.read_text())[run][form]
