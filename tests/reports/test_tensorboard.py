"""TensorBoard's own reader finds the run's numbers, words and pictures at the training steps."""

from __future__ import annotations

import dataclasses
import io
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from auditor.reports import read_report
from auditor.reports.album import LEFT_OUT, open_album
from auditor.reports.formats.tensorboard import FILE, RUNS, gallery, write


def opened(folder) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    return accumulator.Reload()


@pytest.fixture(scope="module")
def board(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    write(read_report(finished), folder)
    return folder


@pytest.mark.parametrize(("run", "column"), RUNS.items())
def test_scalars_are_the_measurements_against_the_training_step(board, finished, run, column):
    found, m = opened(board / run), pd.read_parquet(finished / "measurements.parquet")
    known = m[m[column].notna()].sort_values("step")
    expected = {
        f"{metric}/{'.'.join(filter(None, (twin, space)))}": list(zip(rows.step, rows[column], strict=True))
        for (metric, twin, space), rows in known.groupby(["metric", "twin", "space"])
    }
    assert set(found.Tags()["scalars"]) == set(expected)
    for tag, pairs in expected.items():
        assert [each.step for each in found.Scalars(tag)] == [step for step, _ in pairs]
        assert [each.value for each in found.Scalars(tag)] == pytest.approx([value for _, value in pairs], rel=1e-6)


def test_the_verdict_is_a_text_per_step(board, finished):
    events = opened(board / "audit").Tensors("verdict")
    verdicts = pd.read_parquet(finished / "verdicts.parquet").verdict
    assert [each.step for each in events] == [90, 200, 1000]
    for each, verdict in zip(events, verdicts, strict=True):
        assert each.tensor_proto.string_val[0].decode().startswith(f"**{verdict}**")


def test_the_gallery_shows_the_worst_samples_of_each_step(board, finished):
    album, found = open_album(finished), opened(board / "audit")
    for space in ("pixel", "correlation"):
        events = found.Images(f"worst/{space}")
        assert [each.step for each in events] == [90, 200, 1000]
        drawn = np.asarray(Image.open(io.BytesIO(events[1].encoded_image_string)))
        assert (drawn == gallery(album.worst(space, 200, 8))).all()
    first = album.worst("correlation", 200, 1)[0].mine.sample.pixels
    assert (drawn[: 6 * 8 : 6, : 6 * 8 : 6, 0] == first[..., 0]).all()


def test_pictures_can_be_left_out(finished, tmp_path):
    write(read_report(finished, LEFT_OUT), tmp_path / "without")
    assert opened(tmp_path / "without" / "audit").Tags()["images"] == []


def test_the_same_run_gives_the_same_files(board, finished, tmp_path, audit):
    outcome = audit("report", finished, "--tensorboard", tmp_path / "again")
    assert outcome.status == 0, outcome.err
    for run in RUNS:
        assert (tmp_path / "again" / run / FILE).read_bytes() == (board / run / FILE).read_bytes()


def test_a_run_without_training_images_has_samples_and_no_invented_numbers(without_training, tmp_path):
    write(read_report(without_training), tmp_path)
    found = opened(tmp_path / "audit")
    assert "twin_distance/both.pixel" in found.Tags()["scalars"]
    assert not [tag for tag in found.Tags()["scalars"] if tag.startswith("own_share")]
    assert len(found.Images("worst/pixel")) == 3


def test_three_trainings_have_a_gallery_per_pair_and_one_has_its_own(three_audited, single, tmp_path):
    write(read_report(three_audited), tmp_path / "three")
    tags = opened(tmp_path / "three" / "audit").Tags()
    assert {"worst/pixel/x|y", "worst/pixel/x|z", "worst/pixel/y|z"} <= set(tags["images"])
    write(read_report(single), tmp_path / "single")
    (first, *_) = opened(tmp_path / "single" / "audit").Images("worst/pixel")
    assert first.width == 3 * 50


def test_hostile_names_are_text_in_the_text_dashboard(finished, tmp_path):
    """The dashboard reads Markdown and shows what HTML it holds."""
    report = read_report(finished)
    verdicts = report.tables["verdicts"].assign(reasons="<b onclick=x>[a](http://x)\n# `code`")
    write(dataclasses.replace(report, tables={**report.tables, "verdicts": verdicts}), tmp_path)
    shown = opened(tmp_path / "audit").Tensors("verdict")[0].tensor_proto.string_val[0].decode()
    assert shown.endswith(r"\<b onclick=x\>[a\](http\://x)\\n\# \`code\`")


def test_without_tensorboard_the_error_names_the_remedy(finished, tmp_path, audit, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    outcome = audit("report", finished, "--tensorboard", tmp_path / "board", "--csv", tmp_path / "board" / "r.csv")
    assert outcome.status == 1 and "pip install 'auditor[tensorboard]'" in outcome.err
    assert not (tmp_path / "board").exists()
