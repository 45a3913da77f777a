"""Samples that exist already are audited like drawn ones, and paired only where they share their noise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from repository import DOCS

from auditor.run import tables

STEPS = (90, 200, 1000)
SCHEMA = DOCS / "report.schema.json"


def as_folders(run: Path, root: Path) -> Path:
    """Write the samples of a finished run as numbered pictures."""
    for twin in "ab":
        for step in STEPS:
            folder = root / twin / f"step-{step}"
            folder.mkdir(parents=True)
            for i, each in enumerate(np.load(run / f"samples/{twin}/{step}.npy")):
                Image.fromarray(each[..., 0]).save(folder / f"sample_{i:06d}.png")
    return root


@pytest.fixture(scope="module")
def folders(finished, tmp_path_factory) -> Path:
    """The samples of a finished run, as people keep them; read them only."""
    return as_folders(finished, tmp_path_factory.mktemp("drawn"))


@pytest.fixture
def audited(audit, audit_args, tmp_path):
    """Audit samples; return the outcome, run.json and the measurements."""

    def run(root_a: Path, root_b: Path | None, **changes):
        given = {"samples_a": root_a, "samples_b": root_b, "ckpts_a": None, "ckpts_b": None}
        outcome = audit(*audit_args(**given, **changes))
        if outcome.status:
            return outcome, None, None
        record = json.loads((tmp_path / "run/run.json").read_text())
        return outcome, record, tables.read(tmp_path / "run/measurements.parquet")

    return run


def test_given_samples_have_the_measurements_of_the_run_that_drew_them(audited, folders, finished, audit, tmp_path):
    outcome, record, found = audited(folders / "a", folders / "b")
    expected = tables.read(finished / "measurements.parquet")
    keys = ["step", "space", "metric", "twin"]
    both = expected.merge(found, on=keys, suffixes=("", "_given"))
    both = both[(both.space != "") & (both.metric != "gap_lean")]  # corrected with the losses, which are missing
    assert len(both) > 200
    pd.testing.assert_series_equal(both.value, both.value_given, check_names=False)
    lost = found[(found.space == "") & found.metric.str.startswith("loss")]
    assert len(lost) and lost.value.isna().all() and lost.note.str.len().min() > 0
    assert any("no model was loaded" in note for note in record["notes"])
    assert any("paired by the numbers in their names" in note for note in record["notes"])
    assert "samples as given" in outcome.out
    assert audit("verify", tmp_path / "run").status == 0


def test_samples_of_other_noise_are_not_paired_and_the_report_says_why(audited, folders, audit, tmp_path):
    shutil.copytree(folders / "b", tmp_path / "b")
    for step in STEPS:
        paths = sorted((tmp_path / f"b/step-{step}").iterdir())
        moved = [path.read_bytes() for path in paths[5:] + paths[:5]]
        for path, content in zip(paths, moved, strict=True):
            path.write_bytes(content)
    outcome, record, found = audited(folders / "a", tmp_path / "b", spaces="pixel")
    assert any("cannot be paired" in note for note in record["notes"])
    for metric in ("twin_distance", "twin_distance_ratio", "twin_variance"):
        rows = found[found.metric == metric]
        assert rows.value.isna().all() and (rows.note.str.contains("do not share their noise")).all()
    assert found[(found.metric == "own_share") & (found.twin == "both")].value.notna().all()
    onsets = tables.read(tmp_path / "run/onsets.parquet")
    assert (onsets[onsets.onset == "divergence"].status == "undecided").all()
    assert "cannot be paired" in " ".join(outcome.out.split())
    shown = audit("show", tmp_path / "run", "--step", 90, "--seed", 1, "--twin", "b")
    assert "Twin b drew" in shown.out and "apart" not in shown.out and "Twin a" not in shown.out
    facts = json.loads(audit("report", tmp_path / "run", "--json").out)
    jsonschema.validate(facts, json.loads(SCHEMA.read_text()))


def test_unpaired_is_believed(audited, folders):
    _, record, _ = audited(folders / "a", folders / "b", unpaired="", spaces="pixel")
    assert any("--unpaired" in note for note in record["notes"])


def test_arrays_are_paired_by_their_order_and_steps_that_one_twin_lacks_are_left_out(audited, finished, tmp_path):
    for twin in "ab":
        (tmp_path / twin).mkdir()
        for step in STEPS[: 3 if twin == "a" else 2]:
            np.savez(tmp_path / twin / f"samples_{step}.npz", np.load(finished / f"samples/{twin}/{step}.npy"))
    (tmp_path / "a/readme.txt").write_text("")
    _, record, found = audited(tmp_path / "a", tmp_path / "b", spaces="pixel")
    assert sorted(found.step.unique()) == [90, 200]
    assert any("paired by their order" in note for note in record["notes"])
    rows = tables.read(tmp_path / "run/checkpoints.parquet")
    left_out = rows[~rows.audited]
    assert left_out.path.tolist() == ["readme.txt", "samples_1000.npz"] and (left_out.reason != "").all()


def test_a_single_training_can_be_judged_by_its_samples(audited, folders):
    outcome, record, _ = audited(folders / "a", None, train_b=None, spaces="pixel")
    assert outcome.status == 0 and record["scope"]["twins"] == ["a"]


def test_fewer_numbers_in_common_are_taken_as_they_are(audited, folders, tmp_path):
    shutil.copytree(folders / "b", tmp_path / "b")
    for step in STEPS:
        (tmp_path / f"b/step-{step}/sample_000000.png").unlink()
    _, record, _ = audited(folders / "a", tmp_path / "b", spaces="pixel")
    assert record["scope"]["n_samples"] == 11 and record["scope"]["seed"] == 1


def test_a_second_run_has_nothing_to_do_and_a_dry_run_says_so(audited, audit, audit_args, folders):
    audited(folders / "a", folders / "b", spaces="pixel")
    given = {
        "samples_a": folders / "a",
        "samples_b": folders / "b",
        "ckpts_a": None,
        "ckpts_b": None,
        "spaces": "pixel",
    }
    outcome = audit(*audit_args(**given), "--dry-run")
    assert outcome.status == 0 and "total 0 network calls" in outcome.out and "remake" not in outcome.out


def refused(audited, a: Path, b: Path | None, **changes) -> str:
    outcome, _, _ = audited(a, b, **changes)
    assert outcome.status == 1 and "to do:" in outcome.err and "Traceback" not in outcome.err
    return outcome.err


def test_what_cannot_be_audited_is_refused_in_one_error(audited, folders, tmp_path):
    assert "the same folder" in refused(audited, folders / "a", folders / "a")
    assert "not there" in refused(audited, tmp_path / "nowhere", folders / "b")
    assert "lie in no folder of a step" in refused(audited, folders / "a/step-90", folders / "b")
    assert "both given" in refused(audited, folders / "a", folders / "b", ckpts_a2=folders)
    (tmp_path / "empty").mkdir()
    assert "no samples of twin b" in refused(audited, folders / "a", tmp_path / "empty")
    shutil.copytree(folders / "b", tmp_path / "b")
    (tmp_path / "b/other-90").mkdir()
    assert "two sets of samples of step 90" in refused(audited, folders / "a", tmp_path / "b")
    (tmp_path / "b/other-90").rmdir()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "b/step-200/sample_000003.png")
    assert "This picture is 9x9, others are 8x8" in refused(audited, folders / "a", tmp_path / "b")
