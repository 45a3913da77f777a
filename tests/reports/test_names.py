"""What leaves without pictures says no name, and what a purged run holds shows nobody."""

from __future__ import annotations

import json
import re

import pytest

import auditor
from auditor.pipeline import purge
from auditor.reports import read_report, text_of
from auditor.reports.album import LEFT_OUT
from auditor.run import RunDirectory, tables
from auditor.run.places import IMAGES

TEXTS = ("html", "markdown", "pull-request", "json", "csv", "terminal")


def ids_of(run) -> set[str]:
    """Return the names of the training images that a run keeps."""
    run = RunDirectory(run)
    return {each for half in "ab" for each in run.key(run.place(IMAGES, f"train-{half}"))["ids"]}


def test_without_pictures_no_report_names_an_image_or_a_path_and_the_runs_key_maps_back(run_copy):
    report = read_report(run_copy, LEFT_OUT, with_names=False)
    names = ids_of(run_copy) | {str(each) for each in report.record["given"].values() if "/tmp" in str(each)}
    paths = {value for name, value in RunDirectory(run_copy).read_record()["given"].items() if "/" in str(value)}
    for form in TEXTS:
        text = text_of(report, form).decode()
        assert not [each for each in ids_of(run_copy) if re.search(rf"(?<![\w]){re.escape(each)}(?![\w])", text)], form
        assert not [each for each in paths if each in text], form
    kept = json.loads((run_copy / "names.json").read_text())["names"]
    assert ids_of(run_copy) <= set(kept.values()) and (run_copy / "names.json").stat().st_mode & 0o077 == 0
    case = report.album.worst("pixel", 90, 1)[0]
    assert kept[case.mine.own.id] in ids_of(run_copy) and names
    again = read_report(run_copy, LEFT_OUT, with_names=False)
    assert text_of(again, "json") == text_of(report, "json")
    assert [each for each in ids_of(run_copy) if each in text_of(read_report(run_copy, LEFT_OUT), "html").decode()]


def test_the_command_hides_names_unless_ids_are_asked_for(run_copy, audit, tmp_path):
    one = next(iter(ids_of(run_copy)))
    hidden = audit("report", run_copy, "--no-pictures", "--html", tmp_path / "x.html")
    shown = audit("report", run_copy, "--no-pictures", "--ids", "--html", tmp_path / "y.html")
    assert (hidden.status, shown.status) == (0, 0), hidden.err + shown.err
    assert "are hidden" in (tmp_path / "x.html").read_text() and "are shown" in (tmp_path / "y.html").read_text()
    assert one


def test_a_purged_run_holds_no_picture_and_no_name_and_keeps_its_decision(run_copy, audit):
    before = auditor.open_run(run_copy)
    names = purge.every_name(RunDirectory(run_copy)) - {"0", "1"}
    (run_copy / "slurm-1.out").write_text("theirs")
    outcome = audit("purge", run_copy)
    assert outcome.status == 0 and "slurm-1.out" in outcome.out and "audit verify" in outcome.out
    files = [each for each in run_copy.rglob("*") if each.is_file()]
    assert {each.suffix for each in files} <= {".parquet", ".json", ".out", ""}
    content = b"".join(each.read_bytes() for each in files)
    assert not [each for each in names if len(each) > 3 and each.encode() in content]
    after = auditor.open_run(run_copy)
    assert after.conclusion == before.conclusion and after.measurements.value.equals(before.measurements.value)
    assert RunDirectory(run_copy).read_record()["purged"]["files"]["samples/a/90.npy"]
    assert tables.read(run_copy / "exposure.parquet").columns.tolist() == before.exposure.columns.tolist()
    assert audit("report", run_copy).status == 0
    assert audit("check", run_copy).status in (3, 4)
    refused = audit("verify", run_copy)
    assert refused.status == 1 and "purged" in refused.err


@pytest.mark.parametrize("form", ["html", "markdown", "json", "csv"])
def test_a_purged_run_is_reported_in_every_form(run_copy, form):
    purge.purge(run_copy)
    assert text_of(read_report(run_copy), form)
