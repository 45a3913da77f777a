"""No picture of a training set is left out without a word: splits, shards and kinds of files."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from auditor import images
from auditor.errors import AuditError


def table(path, n: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({"image": [b"x"] * n, "n": list(range(n))}), path)


LAYOUTS = {
    "shards in data/": (
        ("data/train-00000-of-00002", 3),
        ("data/train-00001-of-00002", 4),
        ("data/test-00000-of-00001", 2),
    ),
    "files by split": (("train", 7), ("test", 2)),
    "folders by split": (("train/0000", 3), ("train/0001", 4), ("test/0000", 2)),
    "shards beside": (("train-00000-of-00001-abcdef12", 7), ("validation-00000-of-00001", 2)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_splits_of_a_hub_data_set_are_never_mixed(layout, tmp_path):
    for name, n in LAYOUTS[layout]:
        table(tmp_path / f"{name}.parquet", n)
    with pytest.raises(AuditError, match="Several splits could be the images") as caught:
        images.open_source(tmp_path)
    assert caught.value.remedy == f"Write {tmp_path}:train."
    assert len(images.open_source(f"{tmp_path}:train").ids) == 7
    with pytest.raises(AuditError, match="There is no split 'other'"):
        images.open_source(f"{tmp_path}:other")


@pytest.mark.parametrize("names", [["train-00001-of-00002"], ["data-00000-of-00003", "data-00002-of-00003"]])
def test_a_data_set_that_lacks_a_shard_is_refused(names, tmp_path):
    for name in names:
        table(tmp_path / f"{name}.parquet", 2)
    with pytest.raises(AuditError, match="shards of .* are missing"):
        images.open_source(tmp_path)


def test_files_whose_names_tell_no_split_are_one_data_set(tmp_path):
    for name in ("part-a", "part-b", "training_images"[8:]):
        table(tmp_path / f"{name}.parquet", 2)
    assert len(images.open_source(tmp_path).ids) == 6


def test_pictures_of_every_kind_that_trainers_read_are_read(tmp_path):
    kinds = {"png": "PNG", "pgm": "PPM", "ppm": "PPM", "gif": "GIF", "jfif": "JPEG", "avif": "AVIF", "dib": "DIB"}
    for i, (suffix, form) in enumerate(kinds.items()):
        Image.fromarray(np.full((8, 8), 30 * i, np.uint8)).save(tmp_path / f"{i}.{suffix}", format=form)
    opened = images.read(tmp_path, "all", (8, 8, 1), images.Reading(convert_color=True))
    assert len(opened) == len(kinds) and not [note for note in opened.notes if "ignored" in note]


@pytest.mark.parametrize("suffix", [".heic", ".jxl", ".dcm"])
def test_a_picture_of_a_kind_that_is_not_read_is_a_refusal_unless_it_is_to_be_left_out(suffix, tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / f"b{suffix}").write_bytes(b"x")
    (tmp_path / "list.txt").write_text("no picture")
    with pytest.raises(AuditError, match=f"1 {suffix}") as caught:
        images.open_source(tmp_path)
    assert "--skip-unreadable" in caught.value.remedy
    opened = images.open_source(tmp_path, images.Reading(skip_unreadable=True))
    assert len(opened.ids) == 1 and suffix in opened.notes[0]
    (tmp_path / f"b{suffix}").unlink()
    assert len(images.open_source(tmp_path).ids) == 1
