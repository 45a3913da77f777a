"""Three trainings and more: every pair is audited as twins, a training is sampled once, trainings are the units."""

import json
import os
import shutil
from pathlib import Path

import conftest
import numpy as np
import pandas as pd
import pytest
from conftest import FAST, as_arguments, call, measurements

from auditor.stats import intervals

NAMES = ("x", "y", "z")


PREDICTION_PARTS = ("prediction_variance_seed", "prediction_variance_data")


@pytest.fixture(scope="module")
def audited(three_audited):
    """A finished audit of three trainings."""
    return three_audited


def test_every_pair_is_a_whole_audit_of_its_own(audit, audited):
    pairs = sorted(path.name for path in (audited / "pairs").iterdir())
    assert pairs == ["x+y", "x+z", "y+z"]
    assert audit("report", audited / "pairs" / "x+y").status == 0


def test_a_training_is_sampled_once(audited):
    """Both pairs of y hold the same file, as b of one and a of the other."""
    first, second = (audited / "pairs" / of / "samples" for of in ("x+y/", "y+z/"))
    for path in (first / "b").glob("*.npy"):
        assert os.stat(path).st_ino == os.stat(second / "a" / path.name).st_ino


def test_the_column_twin_holds_trainings_pairs_and_both(audited):
    assert set(measurements(audited).twin) == {*NAMES, "x|y", "x|z", "y|z", "both"}


def test_a_pairs_rows_are_those_of_its_own_audit(audited):
    key = ["step", "space", "metric"]
    own = measurements(audited / "pairs" / "x+z")
    whole = measurements(audited)
    own, whole = (f.set_index(key).value for f in (own[own.twin == "both"], whole[whole.twin == "x|z"]))
    pd.testing.assert_series_equal(whole.loc[own.index], own)


def test_both_is_the_mean_over_pairs_with_trainings_as_units(audited):
    whole = measurements(audited)
    rows = whole[(whole.metric == "twin_distance") & (whole.space == "pixel")]
    step = rows.step.max()
    by_twin = rows[rows.step == step].set_index("twin")
    values = {tuple(pair.split("|")): by_twin.value[pair] for pair in ("x|y", "x|z", "y|z")}
    expected = intervals.node_jackknife(values, NAMES)
    both = by_twin.loc["both"]
    assert (both.value, both.low, both.high) == pytest.approx((expected.value, expected.low, expected.high))
    assert both.unit == "training" and both.n == 3


def test_the_report_the_gate_and_the_verification_know_three_trainings(audit, audited):
    report = audit("report", audited)
    assert report.status == 0 and "x / y / z" in audit("report", audited, "--width", 160).out
    assert audit("verify", audited).status == 0
    assert audit("check", audited).status == 4  # 12 seeds are too few
    record = json.loads((audited / "run.json").read_text())
    assert record["pairs"] == [["x", "y"], ["x", "z"], ["y", "z"]]


def test_the_same_command_again_makes_nothing_anew(three, audited, tmp_path):
    _, options = three
    run = Path(shutil.copytree(audited, tmp_path / "run"))
    before = {path: path.stat().st_mtime_ns for path in run.rglob("samples/*/*.npy")}
    assert before
    assert call("run", *options, *as_arguments({**FAST, "out": str(run)})).status == 0
    assert {path: path.stat().st_mtime_ns for path in run.rglob("samples/*/*.npy")} == before


def test_a_changed_number_of_any_pair_is_found_by_verification(audit, audited, tmp_path):
    run = shutil.copytree(audited, tmp_path / "run")
    path = run / "pairs" / "x+z" / "measurements.parquet"
    frame = pd.read_parquet(path)
    frame.loc[frame.metric == "twin_distance", "value"] += 1e-6
    frame.to_parquet(path)
    outcome = audit("verify", run)
    assert outcome.status == 1 and "twin_distance" in outcome.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ckpts", "x=1", "--ckpts", "y=2", "--train", "x=3", "--train", "y=4"], "2 trainings are named"),
        (["--ckpts", "x=1", "--ckpts", "x=2", "--ckpts", "y=3"], "given twice"),
        (["--ckpts", "both=1"], "names no training"),
        (["--ckpts", "nothing", "--train", "x=3", "--train", "y=4"], "training images are given more than once"),
        (["--ckpts", "x=1", "--ckpts", "y=2", "--ckpts", "z=3", "--train", "x=4"], "Not both"),
        (["--ckpts", "x=1", "--ckpts", "y=2", "--ckpts", "z=3", "--ckpts-a", "w"], "both given"),
    ],
)
def test_trainings_that_are_not_named_well_are_refused(audit, tmp_path, options, said):
    outcome = audit("run", *options, "--out", tmp_path / "run")
    assert outcome.status == 1 and said in outcome.err
    assert not (tmp_path / "run").exists()


# The interval -------------------------------------------------------------


def test_the_node_jackknife_agrees_with_three_trainings_by_hand():
    """Pairs 1, 2, 6: without each training 6, 2, 1 stay; se^2 = 2/3 * (9 + 1 + 4); t_2 = 4.3027."""
    found = intervals.node_jackknife({("x", "y"): 1.0, ("x", "z"): 2.0, ("y", "z"): 6.0}, NAMES)
    assert found.value == 3
    assert found.high - found.value == pytest.approx(4.302653 * np.sqrt(2 / 3 * 14))


def test_the_node_jackknife_covers_where_pairs_as_units_do_not():
    """Six trainings whose own effects are three times those of pairs; nominal 95 %."""
    rng, nodes = np.random.default_rng(0), "abcdef"
    held = naive = 0
    for _ in range(1000):
        own = dict(zip(nodes, rng.normal(0, 1, 6), strict=True))
        values = {(i, j): own[i] + own[j] + rng.normal(0, 0.3) for i in nodes for j in nodes if i < j}
        found = intervals.node_jackknife(values, nodes)
        held += found.low <= 0 <= found.high
        x = np.array(list(values.values()))
        naive += abs(x.mean()) <= 2.145 * x.std(ddof=1) / np.sqrt(len(x))
    assert held / 1000 > 0.92
    assert naive / 1000 < 0.7


# Another training on the same half -----------------------------------------


@pytest.fixture(scope="module")
def with_second(three, saved_inputs, tmp_path_factory):
    """An audit of two trainings with a second one on half a."""
    root, _ = three
    options = {**saved_inputs.options, **FAST, "ckpts-a2": str(root / "z")}
    return conftest.audited(options, tmp_path_factory.mktemp("second") / "run")


def test_the_variance_of_predictions_is_split_into_that_of_seeds_and_that_of_halves(with_second):
    rows = pd.read_parquet(with_second / "measurements.parquet").set_index(["metric", "step"]).value
    whole, seed, data = (rows[name] for name in ("prediction_variance", *PREDICTION_PARTS))
    np.testing.assert_allclose(seed + data, whole)
    same = pd.read_parquet(with_second / "same-data" / "measurements.parquet").set_index(["metric", "step"]).value
    pd.testing.assert_series_equal(seed, same["prediction_variance"], check_names=False)
    assert (seed > 0).all()


def test_the_twin_variance_is_split_into_seed_and_data(with_second):
    frame = measurements(with_second).set_index(["metric", "space", "step"]).value
    for key in frame["twin_variance"].index:
        assert frame["twin_variance_seed"][key] + frame["twin_variance_data"][key] == pytest.approx(
            frame["twin_variance"][key]
        )
    assert (frame["twin_variance_seed"] > 0).all()


def test_the_second_training_takes_a_samples_of_the_first_as_they_are(with_second):
    for path in (with_second / "samples" / "a").glob("*.npy"):
        assert os.stat(path).st_ino == os.stat(with_second / "same-data" / "samples" / "a" / path.name).st_ino


def test_an_audit_with_a_second_training_is_verified(audit, with_second):
    assert audit("verify", with_second).status == 0


def test_without_a_second_training_the_parts_have_no_value_and_say_why(finished):
    rows = measurements(finished)
    rows = rows[rows.metric.str.startswith("twin_variance_")]
    assert rows.value.isna().all() and rows.note.str.contains("--ckpts-a2").all()
