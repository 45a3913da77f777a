"""Pictures and numbers of single samples: found by seed and id, ordered as documented, and never made up."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from auditor.errors import AuditError
from auditor.reports import album as pictures
from auditor.reports import read_report
from auditor.reports.album import open_album


def evidence(root, space, twin, step):
    return pd.read_parquet(root / "evidence" / space / twin / f"{step}.parquet").set_index("seed")


@pytest.fixture(scope="module")
def album(finished):
    return open_album(finished)


@pytest.mark.parametrize("twin", "ab")
def test_a_case_shows_the_numbers_and_names_of_the_evidence(album, finished, twin):
    row = evidence(finished, "correlation", twin, 200).loc[5]
    case = album.case("correlation", twin, 200, 5)
    assert (case.mine.own.id, case.mine.other.id) == (row.own_id_1, row.other_id_1)
    assert case.mine.own_distance == row.own_distance_1 and case.mine.other_distance == row.other_distance_1
    assert case.mine.ratio == pytest.approx(row.own_distance_1 / row.other_distance_1)
    assert case.mine.gap == pytest.approx(row.own_distance_1 / row.own_outside_distance)
    assert case.twin_distance == row.twin_distance


def test_the_other_side_of_a_case_is_the_other_twins_own_case(album):
    one, other = (album.case("pixel", twin, 90, 3) for twin in "ab")
    for mine, theirs in ((one.mine, other.theirs), (one.theirs, other.mine)):
        assert (mine.twin, mine.own.id, mine.own_distance) == (theirs.twin, theirs.own.id, theirs.own_distance)
        assert (mine.sample.pixels == theirs.sample.pixels).all()


def test_pictures_are_the_samples_and_training_images_of_these_names(album, finished, saved_inputs):
    case = album.case("pixel", "b", 1000, 7)
    assert (case.mine.sample.pixels == np.load(finished / "samples" / "b" / "1000.npy")[7]).all()
    assert (case.theirs.sample.pixels == np.load(finished / "samples" / "a" / "1000.npy")[7]).all()
    for picture, half in ((case.mine.own, "b"), (case.mine.other, "a"), (case.theirs.own, "a")):
        number = int(picture.id.rpartition("/")[2])
        training = np.load(saved_inputs.root / f"train-{half}.npz")["images"]
        assert (picture.pixels[..., 0] == training[number]).all()


def test_rows_are_found_by_seed_whatever_their_order(album, run_copy):
    path = run_copy / "evidence" / "pixel" / "a" / "90.parquet"
    pd.read_parquet(path).iloc[::-1].to_parquet(path)
    before, after = album.case("pixel", "a", 90, 2).mine, open_album(run_copy).case("pixel", "a", 90, 2).mine
    assert (after.own.id, after.own_distance) == (before.own.id, before.own_distance)
    assert (after.own.pixels == before.own.pixels).all()


def test_seeds_count_from_the_first_seed_of_the_run(album, run_copy):
    record = json.loads((run_copy / "run.json").read_text())
    record["scope"]["seed"] = 100
    (run_copy / "run.json").write_text(json.dumps(record))
    for path in (run_copy / "evidence" / "pixel").glob("[ab]/90.parquet"):
        frame = pd.read_parquet(path)
        frame.assign(seed=frame.seed + 100).to_parquet(path)
    moved = open_album(run_copy).case("pixel", "a", 90, 104)
    assert (moved.mine.sample.pixels == album.case("pixel", "a", 90, 4).mine.sample.pixels).all()


@pytest.mark.parametrize(
    ("name", "roles"),
    [("samples/a/90.npy", ["sample"]), ("images/train-a.npy", ["own"]), ("images/train-b.npy.key.json", ["other"])],
)
def test_a_picture_that_the_run_no_longer_holds_is_none_with_a_reason(run_copy, name, roles):
    (run_copy / name).unlink()
    side = open_album(run_copy).case("pixel", "a", 90, 1).mine
    for role in ("sample", "own", "other"):
        picture = getattr(side, role)
        assert (picture.pixels is None) == (role in roles) == bool(picture.reason) == (picture.png() is None)
    assert side.own.id and not np.isnan(side.own_distance)


def test_a_damaged_picture_file_is_none_with_a_reason(run_copy):
    (run_copy / "samples" / "b" / "90.npy").write_bytes(b"\x93NUMPY")
    picture = open_album(run_copy).case("pixel", "a", 90, 1).theirs.sample
    assert picture.pixels is None and picture.reason == "samples/b/90.npy cannot be read"


def test_without_training_images_there_are_samples_and_no_neighbors(without_training):
    album = open_album(without_training)
    case = album.case("pixel", "a", 90, 0)
    assert case.mine.sample.pixels is not None and case.mine.own.reason == "no training images were given"
    assert np.isnan([case.mine.ratio, case.mine.gap, case.mine.own_distance]).all()
    assert not case.mine.is_copy and case.mine.is_closer_to_own is None
    farthest = evidence(without_training, "pixel", "a", 90).twin_distance.sort_values(ascending=False, kind="stable")
    assert [case.seed for case in album.worst("pixel", 90, 4, "a")] == list(farthest.index[:4])


def test_a_single_training_has_its_own_side_and_held_out_images_in_the_place_of_the_other(single, finished):
    alone, both = (open_album(root).case("pixel", "a", 90, 2) for root in (single, finished))
    assert alone.mine.own.id == both.mine.own.id and alone.mine.own_distance == both.mine.own_distance
    assert not alone.is_paired and both.is_paired and np.isnan(alone.twin_distance)
    assert alone.mine.rival == "decoys" and alone.mine.other.pixels is not None and both.mine.rival == "b"
    for picture in alone.theirs.pictures:
        assert picture.pixels is None and "no twin" in picture.reason
    ranked = open_album(single).worst("pixel", 90, 12)
    assert {case.twin for case in ranked} == {"a"} and len({case.seed for case in ranked}) == 12
    with pytest.raises(AuditError, match="There is no twin b"):
        open_album(single).case("pixel", "b", 90, 2)


def test_the_samples_of_three_trainings_are_found_in_their_pairs(three_audited):
    with pytest.raises(AuditError) as error:
        open_album(three_audited)
    assert error.value.remedy == "Choose one of them: pairs/x+y, pairs/x+z, pairs/y+z."
    albums = read_report(three_audited).albums
    assert list(albums) == ["x|y", "x|z", "y|z"]
    assert albums["x|z"].case("pixel", "b", 90, 0).mine.sample.pixels is not None


def test_a_copying_rule_set_to_a_false_positive_rate_is_the_one_applied(run_copy):
    record = json.loads((run_copy / "run.json").read_text())
    record["checks"]["copy_ratio"] = {"pixel": 0.999, "correlation": None}
    (run_copy / "run.json").write_text(json.dumps(record))
    album = open_album(run_copy)
    side = album.worst("pixel", 90, 1)[0].mine
    assert side.copy_below == 0.999 and side.is_copy == (side.gap < 0.999)
    assert album.worst("correlation", 90, 1)[0].mine.copy_below == 1 / 3


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("pixel", "a", 90, 12), "Choose --seed from 0 to 11."),
        (("pixel", "a", 91, 1), "Choose --step from: 90, 200, 1000."),
        (("pixel", "c", 90, 1), "Choose --twin from: a, b."),
        (("clip", "a", 90, 1), "Choose --space from: pixel, correlation."),
    ],
)
def test_what_was_not_audited_is_an_error_that_names_what_was(album, asked, said):
    with pytest.raises(AuditError) as error:
        album.case(*asked)
    assert error.value.remedy == said


def test_the_worst_are_copies_and_then_those_nearest_to_their_own_image(run_copy):
    frames = {twin: evidence(run_copy, "pixel", twin, 90) for twin in "ab"}
    frames["a"].loc[3, ["own_distance_1", "own_outside_distance"]] = 0.1, 0.31  # a copy by a little
    frames["b"].loc[8, ["own_distance_1", "own_outside_distance"]] = 0.0, 0.0  # on a training image
    frames["b"].loc[1, ["own_distance_1", "own_outside_distance", "other_distance_1"]] = 0.1, 0.29, 9.0  # nearly one
    for twin, frame in frames.items():
        frame.reset_index().to_parquet(run_copy / "evidence" / "pixel" / twin / "90.parquet")
    album = open_album(run_copy)
    found = album.worst("pixel", 90, 24)
    assert [(case.twin, case.seed) for case in found[:3]] == [("b", 8), ("a", 3), ("b", 1)]
    assert [case.mine.is_copy for case in found] == [True, True] + [False] * 22
    rest = [case.mine.own_distance / min(case.mine.next_distance, case.mine.other_distance) for case in found[2:]]
    assert rest == sorted(rest)
    assert {case.twin for case in album.worst("pixel", 90, 24, ["a"])} == {"a"}
    assert album.worst("pixel", 90, 2)[1].seed == 3


def test_copies_here_are_the_copies_of_the_measurements(album, finished):
    m = pd.read_parquet(finished / "measurements.parquet").set_index(["metric", "space", "step", "twin"]).value
    for twin in "ab":
        share = np.mean([case.mine.is_copy for case in album.cases("pixel", twin, 90, range(12))])
        leaning = np.mean([case.mine.is_closer_to_own for case in album.cases("pixel", twin, 90, range(12))])
        assert share == m["memorized_fraction_cluster", "pixel", 90, twin]
        assert leaning == pytest.approx(m["own_share", "pixel", 90, twin])


def test_a_film_follows_one_seed_through_all_steps(album):
    film = album.film("pixel", "b", 6)
    assert [(case.twin, case.step, case.seed) for case in film] == [("b", 90, 6), ("b", 200, 6), ("b", 1000, 6)]
    assert film[1].mine.own.id == album.case("pixel", "b", 200, 6).mine.own.id
    assert [case.seed for case in album.films("pixel", "b", [2, 6])[2]] == [2, 2, 2]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_png_bytes_hold_the_pixels_and_are_the_same_each_time(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    shown = pixels[..., 0] if channels == 1 else pixels if channels < 5 else pixels[..., :3]
    image = np.asarray(Image.open(io.BytesIO(pictures.png(pixels))))
    assert (image == shown).all() and pictures.png(pixels) == pictures.png(pixels.copy())
    large = np.asarray(Image.open(io.BytesIO(pictures.png(pixels, scale=3))))
    assert (large == shown.repeat(3, axis=0).repeat(3, axis=1)).all()


def test_leaving_out_reaches_every_picture_and_keeps_the_numbers(album):
    case = album.case("pixel", "a", 1000, 0)
    changed = case.in_state(pictures.LEFT_OUT)
    for old, new in ((case.mine, changed.mine), (case.theirs, changed.theirs)):
        assert new.own_distance == old.own_distance and new.own.id == old.own.id
        assert all(each.pixels is None for each in new.pictures)
    assert case.in_state(pictures.LEFT_OUT).mine.own.reason == "pictures are left out of this report"


def test_pictures_are_read_without_torch_and_scipy(album):
    code = (
        f"from auditor.reports.album import open_album; open_album({str(album.run.root)!r}).worst('pixel', 90, 3); "
        "import sys; print([name for name in ('torch', 'scipy', 'diffusers', 'faiss') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
