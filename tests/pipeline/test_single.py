"""One training alone: its samples beside real images it did not see; nothing that needs a twin is said."""

import json

import pandas as pd
import pytest
from conftest import measurements

TWINLESS = {"own_share", "gap_lean", "twin_distance", "twin_distance_ratio", "loss_other", "nearest_other"}


def test_what_needs_a_twin_has_no_value_and_says_why(single):
    rows = measurements(single)
    rows = rows[rows.metric.isin(TWINLESS)]
    assert set(rows.metric) == TWINLESS
    assert rows.value.isna().all() and rows.note.str.contains("no twin").all()


def test_what_needs_no_twin_is_that_of_the_audit_of_both(single, finished):
    """The same samples, images and rules: the numbers of twin a do not depend on whether b was audited, too."""
    key = ["step", "space", "metric", "twin"]
    alone, both = (measurements(run).set_index(key) for run in (single, finished))
    alone = alone[(alone.index.get_level_values("twin") == "a") & alone.value.notna()]
    assert len(alone.index.get_level_values("metric").unique()) > 20
    pd.testing.assert_series_equal(alone.value, both.value.loc[alone.index], rtol=1e-9)


def test_no_checkpoint_is_called_biased_or_generalizing(single):
    verdicts = pd.read_parquet(single / "verdicts.parquet")
    assert not set(verdicts.verdict) & {"biased", "generalizing"}
    assert not verdicts.recommended.any()


def test_a_copier_is_the_control_of_a_single_training(single):
    record = json.loads((single / "run.json").read_text())
    assert record["checks"]["distrust"] == []
    assert (single / "controls" / "copier-a.npy").exists() and not (single / "controls" / "smooth-a.npy").exists()


def test_its_report_says_what_it_cannot_know(audit, single):
    outcome = audit("report", single)
    assert outcome.status == 0 and "single training" in outcome.out
    assert "own share" not in outcome.out


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
