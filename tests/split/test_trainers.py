"""``audit split --for TRAINER``: pictures and captions come back from every layout; what configurations say."""

from __future__ import annotations

import argparse
import csv
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from test_splitting import films, write_folder

from auditor import images, split
from auditor.errors import AuditError
from auditor.split.card import write
from auditor.split.items import Options
from auditor.split.trainers import TRAINERS

N = 60
SHAPE = (16, 16, 1)
CAPTIONS = [f'film "{i}", grün' for i in range(N)]
HALVES = ("train-a", "train-b")
CONFIGURED = {"sd-scripts": ".toml", "ai-toolkit": ".yaml", "onetrainer": ".json", "simpletuner": ".json"}


def beside(root: Path, suffix: str, folder=lambda i: "") -> Path:
    write_folder(root, films(N), lambda i: f"{folder(i)}p{i:02d}.png")
    for i, caption in enumerate(CAPTIONS):
        (root / f"{folder(i)}p{i:02d}{suffix}").write_text(caption, encoding="utf-8")
    return root


def listed(root: Path) -> Path:
    write_folder(root, films(N), lambda i: f"p{i:02d}.png")
    lines = [json.dumps({"file_name": f"p{i:02d}.png", "text": caption}) for i, caption in enumerate(CAPTIONS)]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return root


def as_list(root: Path) -> Path:
    write_folder(root, films(N), lambda i: f"p{i:02d}.png")
    with open(root / "list.csv", "w", newline="", encoding="utf-8") as stream:
        rows = [(f"p{i:02d}.png", caption) for i, caption in enumerate(CAPTIONS)]
        csv.writer(stream).writerows([("path", "caption"), *rows])
    return root / "list.csv"


def configured(root: Path) -> Path:
    beside(root / "pictures", ".txt")
    write_folder(root / "others", films(5, seed=1), lambda i: f"r{i}.png")
    (root / "data.toml").write_text(
        '[general]\ncaption_extension = ".txt"\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = "pictures"\n'
        '[[datasets.subsets]]\nimage_dir = "others"\nis_reg = true\nclass_tokens = "film"\n'
    )
    return root / "data.toml"


LAYOUTS = {
    "txt": lambda root: beside(root, ".txt"),
    "caption": lambda root: beside(root, ".caption"),
    "metadata": listed,
    "csv": as_list,
    "kohya": lambda root: beside(root, ".txt", lambda i: "img/3_film/"),
    "toml": configured,
}


def halved(source: Path, out: Path, trainer: str | None) -> dict:
    return write(split.split(Options(str(source), trainer=trainer), out), out)


def pairs(source: Path) -> dict[str, str]:
    """Content of each picture -> its caption."""
    opened = images.open_source(source)
    found = images.read(source, "train-a", SHAPE)
    return dict(zip(images.digests(found), opened.column(opened.caption), strict=True))


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pictures_and_captions_come_back_from_folders_and_configurations(layout, trainer, tmp_path):
    source, out = LAYOUTS[layout](tmp_path / "d"), tmp_path / "out"
    halved(source, out, trainer)
    everything, sought = pairs(source), {}
    assert sorted(everything.values()) == sorted(CAPTIONS)
    for half in HALVES:
        sought[half] = pairs(out / f"{half}.csv")
        assert pairs(out / half) == sought[half] and sought[half].items() <= everything.items()
        if trainer in CONFIGURED:
            assert pairs(out / f"{half}{CONFIGURED[trainer]}") == sought[half]
    held = pairs(out / "heldout.csv")
    assert len(sought["train-a"]) == len(sought["train-b"]) and len(held) + 2 * len(sought["train-a"]) == N
    assert not sought["train-a"].keys() & sought["train-b"].keys()


def files(folder: Path) -> str:
    """Everything that is written in a folder, names and texts."""
    texts = [path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.suffix in (".txt", ".jsonl")]
    return "\n".join([*texts, *(path.name for path in folder.rglob("*"))])


@pytest.mark.parametrize("trainer", TRAINERS)
def test_no_caption_and_no_name_of_one_half_is_in_the_other(trainer, tmp_path):
    source, out = LAYOUTS["txt"](tmp_path / "d"), tmp_path / "out"
    halved(source, out, trainer)
    there = {half: files(out / half) for half in HALVES}
    for half, other in (HALVES, HALVES[::-1]):
        captions = list(images.open_source(out / f"{half}.csv").column("caption"))
        escaped = [json.dumps(each, ensure_ascii=False)[1:-1] if trainer == "diffusers" else each for each in captions]
        assert all(each in there[half] for each in escaped)
        assert not any(each in there[other] for each in escaped)
        assert not any(f"p{i:02d}" in there[half] for i in range(N))  # names are numbers
    names = {half: {path.name for path in (out / half).rglob("*.png")} for half in HALVES}
    assert not names["train-a"] & names["train-b"]


def test_a_caption_that_all_share_is_in_both_halves(tmp_path):
    source = write_folder(tmp_path / "d", films(N), lambda i: f"4_sks dog/p{i:02d}.png")
    halved(source, tmp_path / "out", "sd-scripts")
    assert {*pairs(tmp_path / "out/train-a").values(), *pairs(tmp_path / "out/train-b").values()} == {"sks dog"}


@pytest.mark.parametrize("trainer", CONFIGURED)
def test_repeats_go_into_the_configuration_and_come_back(trainer, tmp_path):
    source, out = beside(tmp_path / "d", ".txt", lambda i: f"{1 + 4 * (i % 2)}_film/"), tmp_path / "out"
    halved(source, out, trainer)
    for half in HALVES:
        wanted, found = (
            images.open_source(out / f"{half}.csv"),
            images.open_source(out / f"{half}{CONFIGURED[trainer]}"),
        )
        repeats = dict(zip(wanted.column("caption"), wanted.column("repeats"), strict=True))
        assert repeats == dict(zip(found.column("caption"), found.column("repeats"), strict=True))
        assert set(repeats.values()) == {"1", "5"}


def test_files_that_trainers_read_are_linked_and_others_written_as_png(tmp_path):
    source, out = beside(tmp_path / "d", ".txt"), tmp_path / "out"
    for i in range(0, N, 3):
        Image.open(source / f"p{i:02d}.png").save(source / f"p{i:02d}.bmp")
        (source / f"p{i:02d}.png").unlink()
    halved(source, out, "ai-toolkit")
    assert pairs(out / "train-a") == pairs(out / "train-a.csv")
    with open(out / "train-a.csv", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    same = [(out / each["written"]).samefile(out / each["path"]) for each in lines]
    assert same == [not each["path"].endswith(".bmp") for each in lines] and not all(same) and any(same)


def test_pictures_in_an_array_become_files_and_16_bits_the_window_that_was_given(tmp_path):
    np.save(tmp_path / "films.npy", films(N))
    halved(tmp_path / "films.npy", tmp_path / "out", "diffusers")
    assert sorted(digests(tmp_path / "out/train-a")) == sorted(digests(tmp_path / "out/train-a.csv"))
    assert not (tmp_path / "out/train-a/metadata.jsonl").exists()  # no captions: unconditional
    assert "caption_column" not in (tmp_path / "out/train-a.options.txt").read_text()
    write_folder(tmp_path / "deep", films(N).astype(np.uint16) * 16, lambda i: f"{i:02d}.png")
    write(
        split.split(Options(str(tmp_path / "deep"), window=(0, 4080), trainer="diffusers"), tmp_path / "two"),
        tmp_path / "two",
    )
    assert sorted(digests(tmp_path / "two/train-a")) == sorted(digests(tmp_path / "out/train-a"))


def digests(source: Path) -> tuple[str, ...]:
    return images.digests(images.read(source, "train-a", SHAPE))


# What stands in the configurations ------------------------------------------------------------------------------------


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def test_sd_scripts_is_told_to_keep_every_save_and_not_to_mirror(tmp_path, out):
    halved(LAYOUTS["kohya"](tmp_path / "d"), out, "sd-scripts")
    (data_set,) = tomllib.loads((out / "train-b.toml").read_text())["datasets"]
    assert data_set == {
        "subsets": [
            {
                "image_dir": str(out / "train-b/3_images"),
                "num_repeats": 3,
                "caption_extension": ".txt",
                "flip_aug": False,
            }
        ]
    }
    options = tomllib.loads((out / "train-b.options.toml").read_text())
    assert options["dataset_config"] == str(out / "train-b.toml") and options["save_every_n_epochs"] == 1
    assert not [key for key in options if key.startswith("save_last")]


def test_ai_toolkit_is_told_to_keep_every_save_and_not_to_mirror(tmp_path, out):
    halved(LAYOUTS["txt"](tmp_path / "d"), out, "ai-toolkit")
    config = yaml.safe_load((out / "train-a.yaml").read_text())
    (process,) = config["config"]["process"]
    assert config["config"]["name"] == "a" and process["save"]["max_step_saves_to_keep"] == 1_000_000
    assert process["datasets"] == [
        {
            "folder_path": str(out / "train-a/1_images"),
            "caption_ext": "txt",
            "num_repeats": 1,
            "flip_x": False,
            "flip_y": False,
        }
    ]


def test_onetrainer_is_told_to_save_and_not_to_mirror(tmp_path, out):
    halved(LAYOUTS["txt"](tmp_path / "d"), out, "onetrainer")
    (concept,) = json.loads((out / "train-a.json").read_text())
    assert concept["path"] == str(out / "train-a/1_images") and concept["balancing"] == 1.0
    assert concept["image"]["enable_random_flip"] is concept["image"]["enable_fixed_flip"] is False
    options = json.loads((out / "train-a.options.json").read_text())
    assert (options["save_every"], options["save_every_unit"]) == (1, "EPOCH")
    assert options["concept_file_name"] == str(out / "train-a.json")


def test_simpletuner_is_told_to_keep_every_save_and_counts_further_repeats(tmp_path, out):
    card = halved(LAYOUTS["kohya"](tmp_path / "d"), out, "simpletuner")
    pictures, texts = json.loads((out / "train-a.json").read_text())
    assert (pictures["repeats"], pictures["caption_strategy"], texts["default"]) == (2, "textfile", True)
    options = json.loads((out / "train-a.options.json").read_text())
    assert options["--checkpoints_total_limit"] == 1_000_000  # 0 deletes all of them up to 3.1.6
    assert any("cannot mirror" in each for each in card["training"])


def test_diffusers_options_are_those_of_its_parser_and_nothing_is_deleted_or_mirrored(tmp_path, out):
    halved(LAYOUTS["txt"](tmp_path / "d"), out, "diffusers")
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("train_data_dir", "image_column", "caption_column", "output_dir", "checkpoints_total_limit"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--checkpointing_steps", type=int)
    parser.add_argument("--random_flip", action="store_true")
    told = parser.parse_args((out / "train-a.options.txt").read_text().split())
    assert (told.train_data_dir, told.caption_column) == (str(out / "train-a"), "text")
    assert told.checkpointing_steps == 500 and told.checkpoints_total_limit is None and not told.random_flip


def test_the_reader_of_diffusers_scripts_finds_images_and_texts(tmp_path, out):
    datasets = pytest.importorskip("datasets")
    halved(LAYOUTS["txt"](tmp_path / "d"), out, "diffusers")
    found = datasets.load_dataset("imagefolder", data_dir=str(out / "train-b"), cache_dir=str(tmp_path / "cache"))
    assert found["train"].column_names == ["image", "text"]
    assert sorted(found["train"]["text"]) == sorted(pairs(out / "train-b.csv").values())


def test_the_command_tells_every_trainer_and_how_to_start(tmp_path, audit):
    source = LAYOUTS["txt"](tmp_path / "d")
    (source / "p03.txt").write_text("one\ntwo")
    outcome = audit("split", source, "--out", tmp_path / "out", "--for", "sd-scripts")
    assert outcome.status == 0, outcome.err
    assert "--config_file train-a.options.toml" in outcome.out and "1 captions have several lines" in outcome.out
    assert all(name in audit("split", "--help").out for name in TRAINERS)


# What cannot be written -----------------------------------------------------------------------------------------------


def without_captions(root: Path) -> Path:
    return write_folder(root, films(N), lambda i: f"p{i:02d}.png")


def spoiled(name: str, text: str | None):
    def make(root: Path) -> Path:
        beside(root, ".txt")
        path = root / name
        path.unlink() if text is None else path.write_text(text)
        return root

    return make


def of_one_stem(root: Path) -> Path:
    beside(root, ".txt")
    Image.fromarray(films(1, seed=9)[0]).save(root / "p00.bmp")
    return root


def half_repeated(root: Path) -> Path:
    beside(root / "x", ".txt")
    (root / "c.json").write_text(json.dumps([{"path": "x", "balancing": 0.5}]))
    return root / "c.json"


@pytest.mark.parametrize(
    ("make", "trainer", "what"),
    [
        (without_captions, "sd-scripts", "The pictures have no captions, and sd-scripts trains on captions"),
        (spoiled("p07.txt", None), "diffusers", "1 of 60 pictures have no caption, such as 'p07.png'"),
        (spoiled("p07.txt", "\n"), "ai-toolkit", "1 of 60 pictures have no caption"),
        (spoiled("p07.caption", "other"), "onetrainer", "Two captions disagree"),
        (spoiled("metadata.jsonl", "{"), "simpletuner", "The line is no JSON"),
        (spoiled("p07.txt", "[trigger] at home"), "sd-scripts", "1 captions hold [trigger]"),
        (of_one_stem, "sd-scripts", "2 pictures share one caption file"),
        (lambda root: beside(root, ".txt", lambda i: f"{1 + i % 2}_f/"), "diffusers", "every picture equally often"),
        (half_repeated, "sd-scripts", "0.5 repeats cannot be said to sd-scripts"),
        (without_captions, "kohya", "There is no trainer called 'kohya'"),
    ],
)
def test_what_a_trainer_could_not_read_is_one_error_and_nothing_is_written(make, trainer, what, tmp_path):
    source, out = make(tmp_path / "d"), tmp_path / "out"
    with pytest.raises(AuditError) as caught:
        halved(source, out, trainer)
    assert what in caught.value.what and caught.value.where and caught.value.remedy
    assert not out.exists() or not list(out.iterdir())


def test_one_trainer_takes_half_repeats(tmp_path):
    halved(half_repeated(tmp_path / "d"), tmp_path / "out", "onetrainer")
    assert set(images.open_source(tmp_path / "out/train-a.json").column("repeats")) == {"0.5"}


def test_halves_that_are_there_are_not_overwritten(tmp_path, out):
    (out / "train-b").mkdir(parents=True)
    with pytest.raises(AuditError, match="a half already: train-b"):
        halved(LAYOUTS["txt"](tmp_path / "d"), out, "diffusers")
    assert [each.name for each in out.iterdir()] == ["train-b"]


def test_a_failure_while_writing_leaves_nothing_behind(tmp_path, out, monkeypatch):
    monkeypatch.setattr("auditor.split.folders.link", lambda path, to: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(AuditError, match="cannot be written: full"):
        halved(LAYOUTS["txt"](tmp_path / "d"), out, "diffusers")
    assert not list(out.iterdir())
