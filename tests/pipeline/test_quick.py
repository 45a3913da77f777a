"""A quick audit asks the networks only: what it measures, what it leaves open, and what it hands to a full audit."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from conftest import FAST, as_arguments, call

from auditor import registry
from auditor.pipeline import forecast
from auditor.reports import read_report, text_of
from auditor.reports.formats import html


def arguments(inputs, out, **changes):
    """The arguments of a small quick audit."""
    plain = {name.replace("_", "-"): value if value is None else str(value) for name, value in changes.items()}
    uneven = {"batch-size": "7"}  # divides neither samples nor the held-out images that readings ask about
    return ["run", *as_arguments({**inputs.options, "out": str(out), **FAST, **uneven, **plain}), "--quick"]


@pytest.fixture(scope="module")
def quick(saved_inputs, tmp_path_factory):
    """A finished quick audit; read it only."""
    out = tmp_path_factory.mktemp("quick") / "run"
    outcome = call(*arguments(saved_inputs, out))
    assert outcome.status == 0, outcome.err
    return out


def test_no_sample_is_drawn_and_nothing_is_recommended(quick):
    assert not (quick / "samples").exists()
    verdicts = pd.read_parquet(quick / "verdicts.parquet")
    assert not verdicts.recommended.any() and not (verdicts.verdict == "generalizing").any()
    record = json.loads((quick / "run.json").read_text())
    assert record["checks"]["recommendation"]["sentence"].startswith("Nothing is recommended without samples.")
    assert record["scope"]["n_samples"] == 0 and record["scope"]["spaces"] == []


def test_showing_a_sample_says_that_there_is_none(quick):
    for arguments in (["--step", 200], ["--step", 200, "--seed", 3, "--twin", "b"], ["--step", 90, "--space", "pixel"]):
        outcome = call("show", quick, *arguments)
        assert (outcome.status, outcome.out) == (1, "")
        assert "a quick audit draws none" in outcome.err and "without --quick" in outcome.err


def test_a_quick_audit_can_be_planned(saved_inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(forecast, "TRIAL_SECONDS", 0.0)
    plan = call(*arguments(saved_inputs, tmp_path / "run", steps="90"), "--dry-run")
    assert plan.status == 0, plan.err
    assert plan.out.startswith("1 checkpoints of each twin, ema weights\n")
    assert "power: Without samples (--quick) no lean and no copy is found" in plan.out


def test_everything_that_is_measured_is_of_the_network(quick):
    measured = set(pd.read_parquet(quick / "measurements.parquet").metric)
    assert measured == {n for n in registry.METRICS if not registry.lookup("metric", n).per_space}
    of_scales = {"scale_loss", "scale_loss_bias"}  # and scale_predictions where any network is better than a linear one
    found = set(pd.read_parquet(quick / "onsets.parquet").onset) - {"scale_predictions"}
    assert found == {"loss", "predictions", "loss_bias"} | of_scales


def test_a_full_audit_in_the_same_place_takes_the_losses_over(saved_inputs, quick, tmp_path):
    out = shutil.copytree(quick, tmp_path / "run")
    before = {path.name: path.stat().st_mtime_ns for path in (out / "losses").rglob("*.parquet")}
    full = [each for each in arguments(saved_inputs, out) if each != "--quick"]
    assert call(*full).status == 0
    assert {path.name: path.stat().st_mtime_ns for path in (out / "losses").rglob("*.parquet")} == before
    for name in ("profiles", "exposure"):  # the same question to the same networks
        pd.testing.assert_frame_equal(
            pd.read_parquet(out / f"{name}.parquet"), pd.read_parquet(quick / f"{name}.parquet")
        )


def test_noise_levels_may_be_spread_by_log_snr(saved_inputs, tmp_path):
    outcome = call(*arguments(saved_inputs, tmp_path / "run", loss_strata="log-snr", loss_levels=4))
    assert outcome.status == 0, outcome.err
    resolved = json.loads((tmp_path / "run" / "run.json").read_text())["resolved"]
    assert np.diff(np.diff(resolved["loss_log_snr"])) == pytest.approx(0, abs=0.8)
    losses = pd.read_parquet(tmp_path / "run" / "losses" / "a" / f"{resolved['steps'][0]}.parquet")
    own = losses[losses.set == "own"]
    told = pd.read_parquet(tmp_path / "run" / "measurements.parquet").query("metric == 'loss_own' and twin == 'a'")
    weighted = (own.loss * own.share).groupby(own.id, observed=True).sum().mean()
    assert told.value.iloc[0] == pytest.approx(weighted)
    assert call("verify", tmp_path / "run").status == 0


def test_the_same_checkpoint_twice_neither_leans_nor_differs(saved_inputs, tmp_path):
    copied = shutil.copytree(saved_inputs.options["ckpts-a"], tmp_path / "again")
    inputs = saved_inputs.options | {"ckpts-b": str(copied)}
    out = tmp_path / "run"
    options = as_arguments({**inputs, "out": str(out), **FAST})
    assert call("run", *options, "--quick", "--allow-identical").status == 0
    found = pd.read_parquet(out / "measurements.parquet").set_index(["metric", "twin"]).value
    assert (found["prediction_variance", "both"] == 0).all() and (found["loss_lean", "both"] == 0).all()
    assert (found["separation", "both"] == 0.5).all()
    assert ((found["prediction_agreement_heldout", "both"] - 1).abs() < 1e-6).all()


def test_swapping_the_twins_changes_no_value_of_both(saved_inputs, quick, tmp_path):
    swapped = {
        name: saved_inputs.options[other]
        for name, other in (("ckpts-a", "ckpts-b"), ("ckpts-b", "ckpts-a"), ("train-a", "train-b"))
    } | {"train-b": saved_inputs.options["train-a"], "heldout": saved_inputs.options["heldout"]}
    out = tmp_path / "run"
    assert call("run", *as_arguments({**swapped, "out": str(out), **FAST}), "--quick").status == 0
    frames = [pd.read_parquet(each / "measurements.parquet") for each in (quick, out)]
    names = ["loss_heldout", "prediction_variance", "prediction_agreement_heldout"]
    first, second = (f[(f.twin == "both") & f.metric.isin(names)].value.to_numpy() for f in frames)
    assert first == pytest.approx(second, rel=1e-9)


@pytest.mark.parametrize("form", registry.REPORTS)
def test_every_report_says_that_no_samples_were_drawn(quick, tmp_path, form):
    outcome = call("report", quick) if form == "terminal" else call("report", quick, f"--{form}", tmp_path / "report")
    assert outcome.status == 0, outcome.err
    text = outcome.out if form == "terminal" else (tmp_path / "report").read_text()
    if form not in ("csv",):
        assert "o samples were drawn" in " ".join(text.split())


def test_the_page_claims_no_control_that_was_not_run(quick, tmp_path):
    assert call("report", quick, "--html", tmp_path / "page.html").status == 0
    text = (tmp_path / "page.html").read_text()
    assert "copier" not in text and "the halves must be exchangeable" in text


def test_a_quick_audit_is_verified_from_its_evidence(quick):
    assert call("verify", quick).status == 0


@pytest.mark.parametrize(
    "more", [["--fpr", "0.01"], ["--ckpts-a2", "x"], ["--samples-a", "x"], ["--ckpts", "p=x", "--train", "p=x"]]
)
def test_what_needs_samples_is_refused_beside_quick(saved_inputs, tmp_path, more):
    outcome = call(*arguments(saved_inputs, tmp_path / "run"), *more)
    assert outcome.status != 0 and "--quick and " in outcome.err and not (tmp_path / "run").exists()


def test_a_single_training_is_asked_for_what_it_can_tell(saved_inputs, tmp_path):
    options = {k: v for k, v in saved_inputs.options.items() if k not in ("ckpts-b", "train-b")}
    out = tmp_path / "run"
    assert call("run", *as_arguments({**options, "out": str(out), **FAST}), "--quick").status == 0
    assert set(pd.read_parquet(out / "attacks.parquet").twin) == {"a"}
    assert call("report", out, "--html", tmp_path / "page.html").status == 0


def test_the_page_shows_what_the_networks_tell_without_a_sample(quick):
    page = html.page(read_report(quick))
    section = page.split('<section id="networks"')[1].split("</section>")[0]
    assert "figure-losses-by-noise" in section and "figure-loss-lean-by-noise" in section
    assert "Withheld at every step" in section and "Most exposed; about one in ten is listed wrongly" in section
    assert "## What the networks tell" in text_of(read_report(quick), "markdown").decode()
