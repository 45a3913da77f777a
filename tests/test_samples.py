"""The sample reports are what the code writes today, and the run they show is what the demo measures today."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from repository import ROOT

from auditor import registry
from auditor.reports import read_report
from auditor.reports.album import open_album

RUN = Path("sample_reports") / "run"  # as make samples names it, from the root of the repository
FORMATS = [*registry.REPORTS, *registry.FOLDER_REPORTS]
AGAIN = {"n-samples": 64, "steps": "18000", "spaces": "pixel", "loss-images": 2, "loss-levels": 1}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def samples():
    """docs/samples.py"""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import samples
    finally:
        sys.path.remove(str(ROOT / "docs"))
    return samples


@pytest.fixture(scope="module")
def again(samples, tmp_path_factory):
    """The sample reports, written again."""
    folder, before = tmp_path_factory.mktemp("again"), Path.cwd()
    os.chdir(ROOT)
    samples.render(RUN, folder)
    os.chdir(before)
    return folder


def files(path: Path) -> dict[str, bytes]:
    return {each.relative_to(path).as_posix(): each.read_bytes() for each in sorted(path.rglob("*")) if each.is_file()}


@pytest.mark.parametrize("form", FORMATS)
def test_the_sample_report_is_what_is_written_today(samples, again, form):
    """Remade by ``make samples``."""
    shown, made = samples.targets(Path("sample_reports"))[form], samples.targets(again)[form]
    if form in registry.FOLDER_REPORTS:
        assert files(shown) == files(made) != {}
    else:
        assert shown.read_bytes() == made.read_bytes()


def test_the_sample_run_holds_the_pictures_of_every_sample(samples):
    report = read_report(RUN)
    for space in report.record["scope"]["spaces"]:
        for case in report.album.worst(space, 18000, 3):
            assert not [picture.reason for picture in (*case.mine.pictures, *case.theirs.pictures) if picture.reason]


def test_the_samples_name_no_machine():
    for path in (ROOT / "sample_reports").rglob("*"):
        if path.suffix in (".json", ".txt", ".md", ".csv", ".html", ".svg"):
            text = path.read_text()
            assert not [root for root in ("/home/", "/root/", "/tmp/", "/work", "/Users/") if root in text], path
    given = json.loads((RUN / "run.json").read_text())["given"]
    assert given["ckpts_a"] == "auditor/demo/shipped/twins/a" and given["out"] == "audit-demo"


def test_the_samples_are_small():
    assert sum(path.stat().st_size for path in (ROOT / "sample_reports").rglob("*") if path.is_file()) < 20_000_000


def test_the_first_samples_of_a_fresh_demo_are_those_of_the_sample_run(samples, audit, tmp_path):
    from conftest import as_arguments

    from auditor.demo import demo_config

    config = demo_config(tmp_path / "run")
    sources = {name: getattr(config, name.replace("-", "_")) for name in ("ckpts-a", "ckpts-b", "train-a", "train-b")}
    rest = {"heldout": config.heldout, "sampling-steps": config.sampling_steps, "out": str(tmp_path / "run")}
    outcome = audit("run", *as_arguments({name: str(v) for name, v in {**sources, **rest, **AGAIN}.items()}))
    assert outcome.status == 0, outcome.err
    fresh, kept = open_album(tmp_path / "run"), open_album(RUN)
    for twin in "ab":
        pairs = zip(*(album.cases("pixel", twin, 18000, range(64)) for album in (fresh, kept)), strict=True)
        far = [abs(new.mine.own_distance - old.mine.own_distance) for new, old in pairs]
        assert np.median(far) < 0.01 and np.mean(np.array(far) < 0.05) > 0.9, twin


def test_a_fresh_demo_has_the_verdicts_and_the_numbers_of_the_sample_run():
    """The whole demo takes minutes: ``make test-demo`` gives it here."""
    if "AUDITOR_DEMO_RUN" not in os.environ:
        pytest.skip("AUDITOR_DEMO_RUN names no fresh run of the demo; make test-demo makes one")
    kept, fresh = read_report(RUN), read_report(os.environ["AUDITOR_DEMO_RUN"])
    assert fresh.recommended == kept.recommended
    names = ["step", "verdict", "recommended"]
    pd.testing.assert_frame_equal(fresh.tables["verdicts"][names], kept.tables["verdicts"][names])
    key = ["metric", "twin", "space", "step"]
    both = fresh.tables["measurements"].merge(kept.tables["measurements"], on=key, suffixes=("_new", "_old"))
    assert len(both) == len(kept.tables["measurements"]) == len(fresh.tables["measurements"])
    for metric, tolerance in {"own_share": 0.02, "twin_distance_ratio": 0.01, "loss_heldout": 0.001}.items():
        rows = both[both.metric == metric]
        assert len(rows) and (rows.value_new - rows.value_old).abs().max() < tolerance, metric
