"""The doctor finds what is wrong with a machine, and says what to do."""

from __future__ import annotations

import json
from collections import namedtuple
from importlib import metadata

import numpy as np
import pytest

from auditor import neighbors
from auditor.cli import doctor
from auditor.spaces import SpaceSettings


@pytest.fixture(scope="module")
def healthy():
    """What the command says here, as JSON."""
    from conftest import call

    return call("doctor", "--json")


def test_a_machine_that_runs_these_tests_can_audit(healthy):
    found = json.loads(healthy.out)
    assert healthy.status == 0 and found["ready"]
    assert {"auditor", "packages", "search", "GPU", "CLIP weights", "disk", "cache", "self-test"} <= {
        each["name"] for each in found["findings"]
    }


def test_weights_that_are_not_here_are_a_note_with_a_remedy_and_no_problem(healthy):
    (clip,) = [each for each in json.loads(healthy.out)["findings"] if each["name"] == "CLIP weights"]
    assert clip["status"] in ("ok", "note")
    if clip["status"] == "note":
        assert "not on this machine" in clip["what"] and "--clip-weights" in clip["remedy"]


def test_what_a_part_raises_is_a_problem_with_a_remedy():
    def broken():
        raise ImportError("libgomp.so.1: cannot open\nshared object file")
        yield

    (found,) = doctor.guarded(broken)
    assert found.status == "problem" and "libgomp.so.1: cannot open shared object file" in found.what and found.remedy


def test_every_problem_and_note_has_a_remedy_and_problems_are_counted(monkeypatch):
    monkeypatch.setattr(neighbors, "search", lambda *a, **b: namedtuple("Found", "indices")(np.zeros((300, 2))))
    monkeypatch.setattr(doctor, "is_installed", lambda name: True)
    found = [*doctor.guarded(doctor.faiss)]
    assert [each.status for each in found] == ["note", "problem"] and all(each.remedy for each in found)
    text = doctor.as_text(found)
    assert text.endswith("1 problem to be solved before an audit.") and text.count("to do:") == 2
    assert json.loads(doctor.as_json(found))["ready"] is False


def test_a_package_that_is_missing_or_too_old_is_named(monkeypatch):
    monkeypatch.setattr(
        metadata, "requires", lambda name: ["numpy>=99", "no-such-package", "pandas>=1", "x; extra == 'y'"]
    )
    found = [*doctor.guarded(doctor.installation)]
    assert found[-1].status == "problem" and "numpy>=99, no-such-package" in found[-1].what


def test_a_full_disk_and_a_cache_that_cannot_be_written_are_notes(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: namedtuple("Usage", "free")(2**30))
    monkeypatch.setattr(doctor.os, "access", lambda *a: False)
    for part in (lambda: doctor.disk(tmp_path), doctor.cache):
        (found,) = doctor.guarded(part)
        assert found.status == "note" and found.remedy


def test_a_weights_file_that_is_not_there_is_told_by_name(tmp_path):
    (found,) = doctor.clip_weights(SpaceSettings("cpu", "ViT-B-32", str(tmp_path / "gone.pt")))
    assert found.status == "note" and "gone.pt" in found.what and found.remedy
