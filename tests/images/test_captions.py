"""Captions in every layout that trainers read: the same pictures, the same captions; what is wrong is one error."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from auditor import images
from auditor.errors import AuditError

N = 4
CAPTIONS = [f"a photo of thing {i}" for i in range(N)]


def draw(root: Path, names) -> Path:
    rng = np.random.default_rng(0)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return root


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        (root / name).write_text(text, encoding="utf-8")


def told(source: object, column: str = "caption") -> dict[str, str]:
    """The caption of each picture, by the end of its id."""
    opened = images.open_source(source)
    assert opened.caption, "no captions"
    return dict(zip(opened.ids, opened.columns[column](), strict=True))


def lines(*pairs: tuple[str, str]) -> str:
    return "".join(json.dumps({"file_name": name, "text": text}) + "\n" for name, text in pairs)


NAMES = [f"p{i}.png" for i in range(N)]
EXPECTED = dict(zip(NAMES, CAPTIONS, strict=True))


@pytest.mark.parametrize("suffix", [".txt", ".caption"])
def test_a_caption_lies_beside_its_picture(tmp_path, suffix):
    root = draw(tmp_path / "d", NAMES)
    write(root, **{f"p{i}{suffix}": f"{CAPTIONS[i]}\n" for i in range(N)}, **{"README.txt": "of no picture"})
    assert told(root) == EXPECTED
    assert images.open_source(root).notes == ("Files that are not pictures were ignored: 1 .txt.",)


def test_metadata_names_pictures_relative_to_its_folder(tmp_path):
    root = draw(tmp_path / "d", [f"train/{name}" for name in NAMES])
    write(root / "train", **{"metadata.jsonl": lines(*EXPECTED.items())})
    expected = {f"train/{name}": text for name, text in EXPECTED.items()}
    assert told(root) == expected
    write(root, **{"metadata.jsonl": lines(*expected.items())})
    assert told(root) == expected  # two that agree


@pytest.mark.parametrize("column", ["caption", "text"])
def test_a_list_has_a_column_of_captions(tmp_path, column):
    root = draw(tmp_path / "d", NAMES)
    with open(root / "list.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("file_name", column), *EXPECTED.items()])
    assert told(root / "list.csv", column) == EXPECTED


def test_folders_of_kohya_say_repeats_and_a_caption_where_no_file_does(tmp_path):
    root = draw(tmp_path / "d", ["img/10_sks dog/a.png", "img/10_sks dog/b.png", "img/2_a dog of mine/c.png"])
    write(root / "img/10_sks dog", **{"b.txt": "sks dog, running"})
    assert list(told(root).values()) == ["sks dog", "sks dog, running", "a dog of mine"]
    assert list(told(root, "repeats").values()) == ["10", "10", "2"]


@pytest.mark.parametrize("names", [("2019_scans", "2020_scans"), ("0_cat", "1_dog"), ("10_dog", "cats")])
def test_other_folders_with_numbers_are_classes_and_no_repeats(tmp_path, names):
    found = images.open_source(draw(tmp_path / "d", [f"{name}/{i}.png" for name in names for i in range(2)]))
    assert not found.caption and found.column(found.label) == (names[0],) * 2 + (names[1],) * 2


def test_pictures_that_are_kept_for_other_ends_are_told_apart(tmp_path):
    mine = ["img/5_me/a.png", "img/5_me/b.jpg"]
    others = ["reg/1_person/x.png", "img/5_me/a-masklabel.png", "img/5_me/b-condlabel.png", "img/5_me/_controls/a.png"]
    found = images.open_source(draw(tmp_path / "d", [*mine, *others]))
    assert found.ids == mine
    assert found.notes == (
        "Left out, for trainers keep them as control images: 1.",
        "Left out, for trainers keep them as masks and conditions of others: 2.",
        "Left out, for trainers keep them as regularization images: 1.",
    )


@pytest.mark.parametrize(
    "names",
    [
        ["reg/a.png", "img/b.png"],  # two classes
        ["reg/1_dog/a.png", "other/b.png"],  # a folder called reg among others than kohya's
        ["reg/1_dog/a.png", "reg/1_dog/b.png"],  # nothing else
        ["c-masklabel.png", "d.png"],  # a mask of nothing
    ],
)
def test_pictures_that_only_look_so_stay(tmp_path, names):
    found = images.open_source(draw(tmp_path / "d", names))
    assert sorted(found.ids) == sorted(names) and not found.notes


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"p0.txt": "one", "p0.caption": "another"}, "Two captions disagree: p0.txt says 'one', p0.caption says"),
        ({"p0.txt": "one", "metadata.jsonl": lines(("p0.png", "another"))}, "metadata.jsonl, line 1 says 'another'"),
        ({"metadata.jsonl": lines(("p0.png", "one"), ("./p0.png", "another"))}, "line 2 says 'another'"),
        ({"metadata.jsonl": '{"file_name": "p0.png", "text"\n'}, "The line is no JSON"),
        ({"metadata.jsonl": "[" * 100_000}, "The line is no JSON"),
        ({"metadata.jsonl": '["p0.png"]\n'}, "names no picture"),
        ({"metadata.jsonl": '{"text": "one"}\n'}, "names no picture"),
        ({"metadata.jsonl": lines(("../d/p0.png", "one"))}, "leads out of the folder: '../d/p0.png'"),
        ({"metadata.jsonl": lines(("/etc/p0.png", "one"))}, "leads out"),
        ({"metadata.jsonl": lines(("C:\\p0.png", "one"))}, "leads out"),
        ({"metadata.jsonl": lines(("gone.png", "one"))}, "names a picture that is not there: 'gone.png'"),
        ({"metadata.jsonl": '{"file_name": "p0.png", "text": 5}\n'}, "is no text: 5"),
        ({"metadata.jsonl": lines(("p0.png", "x" * 2**20))}, "more than 1,048,576 bytes"),
        ({"p0.txt": "x" * (2**20 + 1)}, "more than 1,048,576 bytes"),
    ],
)
def test_captions_that_cannot_be_right_are_one_error(tmp_path, files, what):
    root = draw(tmp_path / "d", NAMES)
    write(root, **files)
    assert images.read(root, "train-a", (8, 8, 3)).ids  # an audit needs none
    with pytest.raises(AuditError) as caught:
        told(root)
    assert what in caught.value.what and caught.value.where and caught.value.remedy


def test_a_caption_that_is_not_utf8_is_one_error(tmp_path):
    root = draw(tmp_path / "d", NAMES)
    (root / "p1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(AuditError, match="cannot be read") as caught:
        told(root)
    assert caught.value.where.endswith("p1.txt")
