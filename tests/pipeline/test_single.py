"""One training alone: held-out images stand in the place of another half; nothing that needs a twin is said."""

import json

import pandas as pd
import pytest
from conftest import measurements

TWINLESS = {"twin_distance", "twin_distance_ratio", "loss_other", "nearest_other"}
BESIDE_DECOYS = {"own_share"}  # what compares with another half, of which there is none but held-out images


def test_what_needs_a_twin_has_no_value_and_says_why(single):
    rows = measurements(single)
    rows = rows[rows.metric.isin(TWINLESS)]
    assert set(rows.metric) == TWINLESS
    assert rows.value.isna().all() and rows.note.str.contains("no twin").all()


def test_what_needs_no_twin_is_that_of_the_audit_of_both(single, finished):
    """The same samples, images and rules: the numbers of twin a do not depend on whether b was audited, too."""
    key = ["step", "space", "metric", "twin"]
    alone, both = (measurements(run).set_index(key) for run in (single, finished))
    names, twins = (alone.index.get_level_values(each) for each in ("metric", "twin"))
    alone = alone[(twins == "a") & alone.value.notna() & ~names.isin(BESIDE_DECOYS)]
    assert len(alone.index.get_level_values("metric").unique()) > 20
    pd.testing.assert_series_equal(alone.value, both.value.loc[alone.index], rtol=1e-9)


def test_its_lean_is_told_with_an_interval_and_a_test_beside_held_out_images(single):
    rows = measurements(single)
    for metric in ("own_share", "gap_lean", "loss_lean"):
        found = rows[(rows.metric == metric) & (rows.twin == "both")]
        assert found[["value", "low", "high", "p_value", "p_corrected"]].notna().all(axis=None), metric
    pool = pd.read_parquet(single / "evidence" / "pixel" / "pool.parquet")
    assert set(pool.half) == {"a", "decoys"}
    record = json.loads((single / "run.json").read_text())
    assert record["scope"]["decoys"] is True and set(record["sets"]) == {"train-a", "heldout"}
    assert record["checks"]["phase"]["sentence"] and record["checks"]["smooth_reference"]["pixel"] > 0.4


def test_a_copier_and_a_smooth_model_are_the_controls_of_a_single_training(single):
    record = json.loads((single / "run.json").read_text())
    assert record["checks"]["distrust"] == []
    assert (single / "controls" / "copier-a.npy").exists() and (single / "controls" / "smooth-a.npy").exists()


def test_its_report_says_what_it_cannot_know(audit, single):
    outcome = audit("report", single)
    assert outcome.status == 0 and "single training" in outcome.out
    assert "samples closer to training than to held-out images" in " ".join(outcome.out.split())
    assert "least twin distance" not in outcome.out


def test_one_training_is_given_by_ckpts_and_train_and_makes_the_same_tables(audit, audit_args, single, tmp_path):
    """Also where a = stands in the name of the folder, as long as there is such a folder."""
    given = audit_args(ckpts_b=None, train_b=None)
    options = dict(zip(given[1::2], given[2::2], strict=False))
    plan = audit(*given, "--dry-run")
    assert plan.status == 0, plan.err
    folder = tmp_path / "lr=1"
    folder.symlink_to(options["--ckpts-a"])
    swapped = ["run", "--ckpts", folder, "--train", options["--train-a"]]
    for name, value in options.items():
        swapped += [] if name in ("--ckpts-a", "--train-a") else [name, value]
    again = audit(*swapped, "--dry-run")
    assert again.status == 0, again.err
    assert again.out.split("expected time")[0] == plan.out.split("expected time")[0]


def test_its_numbers_are_verified_and_its_gate_is_undecided(audit, single):
    assert audit("verify", single).status == 0
    assert audit("check", single).status == 4


@pytest.mark.parametrize("lacking", ["train_a", "heldout"])
def test_without_images_to_compare_with_a_single_training_is_refused(audit, audit_args, lacking):
    outcome = audit(*audit_args(ckpts_b=None, train_b=None, **{lacking: None}))
    assert outcome.status == 1 and "single training" in outcome.err


def test_images_of_a_half_that_nobody_trained_on_are_refused(audit, audit_args):
    outcome = audit(*audit_args(ckpts_b=None))
    assert outcome.status == 1 and "--ckpts-b" in outcome.err


def test_a_quick_audit_of_one_training_tells_the_lean_of_its_losses(audit, audit_args, tmp_path):
    outcome = audit(*audit_args(ckpts_b=None, train_b=None, n_samples=None), "--quick")
    assert outcome.status == 0, outcome.err
    told = " ".join(outcome.out.split())
    assert "lean of losses: lower on own training images than on held-out images" in told
    assert "predictions apart" not in told and audit("verify", tmp_path / "run").status == 0
