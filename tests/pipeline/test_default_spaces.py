"""What is looked for where no space is named: all that weights and pictures allow, and what a run that is there has."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import FAST, as_arguments, audited, call, measurements

from auditor.config import AUTO, AuditConfig
from auditor.errors import AuditError
from auditor.inputs import feature_spaces
from auditor.registry import ALIGNED, DEFAULT_SPACES, WINDOWS
from auditor.reports import read_report
from auditor.scope import Scope, rare_ratio
from auditor.spaces import SpaceSettings
from auditor.stages import controls

CONFIG = AuditConfig(out="run")
SMALL = ("pixel", "correlation", "aligned-whole", *WINDOWS)  # of pictures of 8x8, without weights


def opened(spaces=AUTO, size=(28, 28), n_images=100, **settings):
    config = replace(CONFIG, spaces=spaces, **settings)
    found = feature_spaces.opened(config, SpaceSettings(clip_model=config.clip_model, clip_weights=config.clip_weights))
    return feature_spaces.fitting(found, config, *size, n_images)


def test_the_default_is_everything_but_a_deep_space_without_weights_which_is_said():
    found = opened()
    assert tuple(found.spaces) == tuple(name for name in DEFAULT_SPACES if name != "clip")
    (note,) = found.notes
    assert "default space clip is left out" in note and "--clip-weights FILE" in note


@pytest.mark.parametrize(
    ("spaces", "settings"),
    [
        ("pixel,clip", {}),
        ("auto,clip", {}),
        (AUTO, {"clip_weights": "there/is/none.pt"}),
        (AUTO, {"clip_model": "ViT-L-14"}),
    ],
)
def test_a_deep_space_that_was_asked_for_is_not_left_out(spaces, settings):
    with pytest.raises(AuditError):
        opened(spaces, **settings)


@pytest.mark.parametrize(
    ("size", "gone"),
    [((28, 28), ()), ((12, 12), ()), ((11, 40), ("aligned-overlap",)), ((3, 3), ("aligned-overlap", *WINDOWS))],
)
def test_what_shows_nothing_of_such_pictures_is_left_out_of_the_default_alone(size, gone):
    found = opened(size=size)
    assert set(DEFAULT_SPACES) - {"clip"} - set(found.spaces) == set(gone)
    told = [note for note in found.notes if "nothing more of" in note]
    assert len(told) == bool(gone) and all(name in "".join(told) for name in gone)
    asked = opened("pixel,aligned,windows", size=size)
    assert tuple(asked.spaces) == ("pixel", *ALIGNED, *WINDOWS)


def test_the_plan_says_what_pictures_are_too_small_for_and_what_was_cut_for_large_sets():
    assert any("not shifted, zoomed or rotated" in note for note in opened("pixel,aligned", size=(8, 8)).notes)
    assert opened("pixel,aligned", n_images=5004).notes == ()
    (note,) = opened("pixel,aligned", n_images=20_000).notes
    assert "among the 1,000 of 20,000 images" in note


@pytest.mark.parametrize("name", DEFAULT_SPACES)
def test_parts_are_shown_rare_by_a_smaller_ratio(name):
    assert rare_ratio(name) == (1 / 5 if name in WINDOWS else 1 / 3)


def test_a_run_keeps_its_spaces_unless_others_are_named():
    record = {"resolved": {"spaces": ["pixel", "clip"]}, "given": {"quick": False}}
    assert feature_spaces.kept(CONFIG, record).spaces == "pixel,clip"
    assert feature_spaces.kept(replace(CONFIG, spaces="correlation"), record).spaces == "correlation"
    assert feature_spaces.kept(CONFIG, record | {"given": {"quick": True}}).spaces == AUTO
    assert feature_spaces.kept(CONFIG, {}).spaces == AUTO


def test_spread_is_told_where_vectors_are_used_or_else_in_the_first_space():
    scope = Scope((1,), ("aligned-whole", "pixel"), 9, 0, True, True, distance_spaces=("aligned-whole",))
    assert scope.compared_spaces == ("pixel",)
    assert replace(
        scope, spaces=("aligned-whole", "window-row"), distance_spaces=ALIGNED + WINDOWS
    ).compared_spaces == ("aligned-whole",)


@pytest.fixture(scope="module")
def default_run(saved_inputs, made_once):
    """A complete run of one step in the default spaces; read it only."""
    options = {**saved_inputs.options, **FAST, "steps": "90", "spaces": None}
    return made_once("default-run", lambda folder: audited(options, folder / "run")) / "run"


def test_a_run_without_named_spaces_looks_in_all_of_them(default_run):
    record = json.loads((default_run / "run.json").read_text())
    assert tuple(record["resolved"]["spaces"]) == SMALL and tuple(record["scope"]["spaces"]) == SMALL
    assert set(measurements(default_run).space) >= set(SMALL)
    assert any("clip is left out" in note for note in record["notes"])
    assert any("8x8" in note for note in record["notes"])


def test_in_spaces_for_copies_nothing_is_made_that_nobody_reads(default_run):
    found = measurements(default_run)
    known = found[found.value.notna()].groupby("space").metric.agg(set)
    for name in ("aligned-whole", "window-row"):
        assert {"own_share", "memorized_fraction", "nearest_own", "authenticity"} <= known[name]
        assert not known[name] & {"kid", "precision_own", "frechet", "twin_distance", "coverage_heldout"}
        folder = default_run / "evidence" / name
        assert not list(folder.rglob("*.coverage.parquet")) and not list(folder.rglob("*.quality.parquet"))
        assert np.isnan(pd.read_parquet(folder / "a" / "90.parquet").heldout_distance).all()
    assert list((default_run / "evidence" / "pixel").rglob("*.coverage.parquet"))


def test_tables_show_the_strongest_of_the_windows_in_one_column(default_run):
    report = read_report(default_run)
    assert report.shown_spaces == ("pixel", "correlation", "aligned", "windows")
    rows = measurements(default_run)
    rows = rows[(rows.metric == "own_share") & (rows.twin == "both") & rows.space.isin(WINDOWS)]
    strongest = rows.sort_values(["p_corrected", "value"], ascending=[True, False]).iloc[0]
    (shown,) = report.estimates("own_share", "both", "windows").itertuples()
    assert (shown.space, shown.value) == (strongest.space, strongest.value)
    assert report.estimates("own_share", "both", "aligned").space.tolist() == ["aligned-whole"]
    heading = next(
        line
        for line in call("report", str(default_run), "--width", "100").out.splitlines()
        if line.split()[:1] == ["step"]
    )
    assert all(heading.count(name) == 1 for name in ("pixel", "corre", "align", "windo"))


def test_fewer_smooth_images_are_compared_where_distances_alone_are_found():
    smooth, few, copies = controls.N_SMOOTH, controls.N_SMOOTH_AMONG_MANY, controls.N_COPIES
    assert [controls.n_compared("smooth-a", alone) for alone in (False, True)] == [smooth, few]
    assert [controls.n_compared("copier-b", alone) for alone in (False, True)] == [copies, copies]


def test_the_plan_of_a_run_that_is_there_reuses_all_and_keeps_its_spaces(default_run, saved_inputs):
    settings = {**FAST, "steps": "90", "spaces": None}
    arguments = as_arguments({**saved_inputs.options, **settings, "out": str(default_run)})
    plan = call("run", *arguments, "--dry-run")
    assert plan.status == 0, plan.err
    lines = plan.out.split("\ntotal ")[0].splitlines()
    assert all(line.startswith("reuse") for line in lines if " x " in line), plan.out
    assert "it lacks clip" in " ".join(plan.out.split())
