"""audit show: one sample on the terminal, as a contact sheet and as JSON."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from auditor.reports import printable, shortened, show
from auditor.reports.album import Picture, open_album
from auditor.reports.drawing import sheet

HOSTILE = "<script>alert(1)</script>\n\x1b[2J\u202e|'\" 图片/" + "long" * 100


@pytest.fixture
def hostile(run_copy):
    """The run with its first own image of seed 0 called something hostile."""
    key = run_copy / "images" / "train-a.npy.key.json"
    path = run_copy / "evidence" / "pixel" / "a" / "90.parquet"
    frame = pd.read_parquet(path)
    old = frame.own_id_1[0]
    frame["own_id_1"] = frame.own_id_1.cat.rename_categories({old: HOSTILE})
    frame.to_parquet(path)
    beside = json.loads(key.read_text())
    beside["key"]["ids"] = [HOSTILE if each == old else each for each in beside["key"]["ids"]]
    key.write_text(json.dumps(beside))
    return run_copy


def test_the_terminal_shows_pictures_names_and_numbers(finished, audit):
    text = audit("show", finished, "--step", 200, "--seed", 3, "--twin", "b").out
    side = open_album(finished).case("pixel", "b", 200, 3).mine
    assert text.startswith("Step 200, seed 3, pixel space, twin b")
    assert side.own.id in text and side.other.id in text and f"{side.own_distance:.3g}" in text
    assert "Twin b drew " in text and "Twin a drew " in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_terminal_without_colors_gets_ascii(finished, audit):
    assert audit("show", finished, "--step", 200, "--seed", 3).out.isascii()


def test_a_color_terminal_gets_the_pixels_as_half_blocks(finished, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    case, out = open_album(finished).case("pixel", "a", 90, 0), io.TextIOWrapper(io.BytesIO(), "utf-8")
    show.render(case, out, 80)
    out.seek(0)
    value = case.mine.sample.pixels[0, 0, 0]
    assert f"38;2;{value};{value};{value}" in out.read()


def test_letters_are_denser_where_the_picture_is_lighter():
    picture = np.repeat(np.array([0, 100, 255], np.uint8), 16)[None, :, None].repeat(16, axis=0)
    first = str(show.letters(Picture("", picture))).split("\n")[0]
    assert first[0] == " " and first[-1] == "@" and len(first) == show.PICTURE_COLUMNS


def test_json_holds_the_numbers_and_null_where_they_are_unknown(finished, without_training, audit):
    facts = json.loads(audit("show", finished, "--step", 90, "--seed", 1, "--json").out)
    side = open_album(finished).case("pixel", "a", 90, 1).mine
    assert (facts["a"]["nearest_own"], facts["a"]["ratio"]) == (side.own.id, side.ratio)
    alone = json.loads(audit("show", without_training, "--step", 90, "--seed", 1, "--json").out)
    assert alone["a"]["ratio"] is None and alone["a"]["is_copy"] is None and alone["twin_distance"] > 0


def test_without_training_images_the_sample_is_shown_and_the_reason(without_training, audit):
    text = audit("show", without_training, "--step", 90, "--seed", 1).out
    assert "no training images were given" in text and "nan" not in text


def test_a_single_training_is_shown_alone(single, audit, tmp_path):
    outcome = audit("show", single, "--step", 90, "--seed", 1, "--out", tmp_path / "sheet.png")
    assert outcome.status == 0 and "Twin b" not in outcome.out and "apart" not in outcome.out
    assert "nearer to held-out images" in " ".join(outcome.out.split()) and "nan" not in outcome.out
    assert set(json.loads(audit("show", single, "--step", 90, "--json").out)) >= {"a"}


@pytest.mark.parametrize("twin", [None, "a", "b"])
def test_without_a_seed_the_worst_of_the_step_is_shown(finished, audit, twin):
    chosen = open_album(finished).worst("pixel", 1000, 1, "ab" if twin is None else twin)[0]
    extra = () if twin is None else ("--twin", twin)
    expected = f"Step 1,000, seed {chosen.seed}, pixel space, twin {chosen.twin}"
    assert audit("show", finished, "--step", 1000, *extra).out.startswith(expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--step", 91), "Choose --step from: 90, 200, 1000."),
        (("--step", 90, "--seed", 12), "Choose --seed from 0 to 11."),
        (("--step", 90, "--space", "clip"), "Choose --space from: pixel, correlation."),
    ],
)
def test_an_unknown_step_seed_or_space_names_what_exists_and_writes_nothing(finished, audit, tmp_path, options, said):
    out = tmp_path / "sheet.png"
    outcome = audit("show", finished, *options, "--out", out)
    assert outcome.status == 1 and said in outcome.err and not out.exists()


def test_the_sheet_holds_the_pictures_and_is_the_same_each_time(finished, audit, tmp_path):
    outcome = audit("show", finished, "--step", 90, "--seed", 1, "--out", tmp_path / "sheet.png")
    assert "as private as they are" in outcome.err
    case = open_album(finished).case("pixel", "a", 90, 1)
    assert (tmp_path / "sheet.png").read_bytes() == sheet.sheet(case)
    drawn = np.asarray(Image.open(tmp_path / "sheet.png"))
    block, top, left = sheet.SIDE // 8, sheet.MARGIN + 2 * sheet.LINE, sheet.MARGIN
    shown = drawn[top + block // 2 : top + sheet.SIDE : block, left + block // 2 : left + sheet.SIDE : block, 0]
    assert (shown == case.mine.sample.pixels[..., 0]).all()


def test_a_sheet_that_cannot_be_written_is_one_error(finished, audit, tmp_path):
    (tmp_path / "file").touch()
    outcome = audit("show", finished, "--step", 90, "--out", tmp_path / "file" / "sheet.png")
    assert outcome.status == 1 and outcome.err.startswith("error: Cannot write here")


def test_a_hostile_name_is_shown_as_text(hostile, audit, tmp_path):
    outcome = audit("show", hostile, "--step", 90, "--seed", 0, "--out", tmp_path / "sheet.png")
    assert "\x1b" not in outcome.out and "\u202e" not in outcome.out
    assert "<script>" in outcome.out
    assert (tmp_path / "sheet.png").stat().st_size > 0
    assert json.loads(audit("show", hostile, "--step", 90, "--seed", 0, "--json").out)["a"]["nearest_own"] == HOSTILE


def test_what_cannot_be_printed_becomes_its_escape():
    assert printable("a\nb\x1b[0m\u202e\udcff é图") == "a\\nb\\x1b[0m\\u202e\\udcff é图"
    assert sheet.drawable("é图") == "é\\u56fe"
    assert shortened("abcdefghij", 7) == "abc…hij" and shortened("abc", 3) == "abc"


@pytest.mark.parametrize("shape", [(300, 200, 3), (2, 40, 1), (5, 3, 4), (1, 1, 1)])
def test_pictures_of_any_shape_fit(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for form in (show.letters, show.blocks):
        assert max(map(len, str(form(Picture("", pixels))).split("\n"))) <= show.PICTURE_COLUMNS
