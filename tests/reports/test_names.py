"""What leaves without pictures says no name, and what a purged run holds shows nobody."""

from __future__ import annotations

import json
import re

import auditor
from auditor.pipeline import purge
from auditor.reports import read_report, text_of
from auditor.reports.album import LEFT_OUT
from auditor.run import RunDirectory, tables
from auditor.run.places import IMAGES

TEXTS = ("markdown", "json", "csv", "terminal")


def ids_of(run) -> set[str]:
    """Return the names of the training images that a run keeps."""
    run = RunDirectory(run)
    return {each for half in "ab" for each in run.key(run.place(IMAGES, f"train-{half}"))["ids"]}


def test_without_pictures_no_report_names_an_image_or_a_path_and_the_runs_key_maps_back(run_copy):
    report = read_report(run_copy, LEFT_OUT, with_names=False)
    paths = {value for name, value in RunDirectory(run_copy).read_record()["given"].items() if "/" in str(value)}
    for form in TEXTS:
        text = text_of(report, form).decode()
        assert not [each for each in ids_of(run_copy) if re.search(rf"(?<![\w]){re.escape(each)}(?![\w])", text)], form
        assert not [each for each in paths if each in text], form
    kept = json.loads((run_copy / "names.json").read_text())["names"]
    assert ids_of(run_copy) <= set(kept.values()) and (run_copy / "names.json").stat().st_mode & 0o077 == 0
    case = report.album.worst("pixel", 90, 1)[0]
    assert kept[case.mine.own.id] in ids_of(run_copy)
    again = read_report(run_copy, LEFT_OUT, with_names=False)
    assert text_of(again, "json") == text_of(report, "json")


def test_the_command_hides_names_unless_ids_are_asked_for(run_copy, audit, tmp_path):
    outcome = audit("report", run_copy, "--no-pictures", "--html", tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    assert outcome.status == 0 and "are hidden" in page
    assert not [each for each in ids_of(run_copy) if f">{each}<" in page or f" {each}" in page]
    shown, hidden = (audit("report", run_copy, "--no-pictures", *ids, "--json").out for ids in (("--ids",), ()))
    one = read_report(run_copy).tables["checkpoints"].path[0]
    assert one in shown and one not in hidden


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
    assert audit("report", run_copy, "--html", run_copy / "page.html").status == 0
    assert audit("check", run_copy).status in (3, 4)
    refused = audit("verify", run_copy)
    assert refused.status == 1 and "purged" in refused.err
