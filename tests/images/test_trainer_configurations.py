"""Configurations of trainers name their training images: read as the trainers' own readers take them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from test_captions import draw, write

from auditor import images
from auditor.errors import AuditError


@pytest.fixture
def root(tmp_path) -> Path:
    """Two folders of pictures with captions, one inside the first, and one of regularization images."""
    draw(tmp_path, ["me/a.png", "me/b.png", "me/deep/c.png", "dog/d_e.png", "reg/r.png"])
    write(tmp_path / "me", **{"a.txt": "of me\nmine", "b.caption": "me too", "default.txt": "no picture's"})
    write(tmp_path / "me/deep", **{"c.txt": "far"})
    write(tmp_path / "dog", **{"d_e.txt": "a [trigger] runs"})
    return tmp_path


def told(path: Path) -> dict[str, tuple[str, str]]:
    """Caption and repeats of each picture."""
    found = images.open_source(path)
    return dict(zip(found.ids, zip(found.column("caption"), found.column("repeats"), strict=True), strict=True))


def configuration(root: Path, name: str, content: object) -> Path:
    text = content if isinstance(content, str) else (json.dumps if name.endswith("json") else yaml.safe_dump)(content)
    (root / name).write_text(text, encoding="utf-8")
    return root / name


SD_SCRIPTS = """
[general]
caption_prefix = "photo,"
[[datasets]]
resolution = 512
  [[datasets.subsets]]
  image_dir = "me"
  num_repeats = 4
  class_tokens = "sks person"
  caption_extension = ".txt"
  [[datasets.subsets]]
  image_dir = "dog"
  caption_suffix = "outside"
  [[datasets.subsets]]
  image_dir = "reg"
  is_reg = true
  class_tokens = "person"
  [[datasets.subsets]]
  image_dir = "not there"
  num_repeats = 0
"""


def test_the_toml_of_sd_scripts(root):
    path = configuration(root, "data.toml", SD_SCRIPTS)
    assert told(path) == {
        "me/a.png": ("photo, of me", "4"),  # the first line; folders in folders are not read
        "me/b.png": ("photo, sks person", "4"),  # its .caption is none
        "dog/d_e.png": ("photo, a [trigger] runs outside", "1"),
    }
    assert images.open_source(path).notes == (
        "Folders left out, for the configuration keeps them as regularization images: 1.",
        "Files that are not pictures were ignored: 1 .txt.",
    )
    configuration(root, "data.toml", SD_SCRIPTS.replace("[general]", "[general]\nenable_wildcard = true"))
    assert told(path)["me/a.png"] == ("photo, of me\nmine", "4")


def test_the_yaml_of_ai_toolkit_with_a_trigger_word_and_several_resolutions(root):
    me = {"folder_path": "me", "caption_ext": "txt", "default_caption": "nobody", "num_repeats": 2}
    sets = [me | {"resolution": 512}, me | {"resolution": 768}, {"folder_path": "dog", "trigger_word": "rex"}]
    sets.append({"folder_path": "reg", "is_reg": True})
    job = {"job": "extension", "config": {"name": "x", "process": [{"trigger_word": "p3r", "datasets": sets}]}}
    assert told(configuration(root, "job.yaml", job)) == {
        "me/a.png": ("p3r of me\nmine", "2"),
        "me/b.png": ("p3r nobody", "2"),
        "me/deep/c.png": ("p3r far", "2"),
        "dog/d_e.png": ("a rex runs", "1"),
    }


def test_the_concepts_of_onetrainer_alone_and_in_a_configuration(root):
    (root / "prompt.txt").write_text("one for all")
    concepts = [
        {"path": "me", "include_subdirectories": True, "balancing": 0.5, "text": {"prompt_source": "filename"}},
        {"path": "dog", "text": {"prompt_source": "concept", "prompt_path": "prompt.txt"}},
        {"path": "reg", "type": "PRIOR_PREDICTION"},
        {"path": "reg", "type": "VALIDATION"},
        {"path": "gone", "enabled": False},
    ]
    expected = {
        "me/a.png": ("a", "0.5"),
        "me/b.png": ("b", "0.5"),
        "me/deep/c.png": ("c", "0.5"),
        "dog/d_e.png": ("one for all", "1"),
    }
    assert told(configuration(root, "concepts.json", concepts)) == expected
    assert told(configuration(root, "config.json", {"batch_size": 1, "concepts": concepts})) == expected


def test_the_backends_of_simpletuner(root):
    backends = [
        {"id": "1", "instance_data_dir": "me", "caption_strategy": "instanceprompt", "instance_prompt": "me"},
        {"id": "2", "instance_data_dir": "dog", "caption_strategy": "filename", "repeats": 9},
        {"id": "3", "instance_data_dir": "reg", "is_regularization_data": True},
        {"id": "4", "dataset_type": "text_embeds", "default": True},
    ]
    assert told(configuration(root, "backend.json", backends)) == {
        "me/a.png": ("me", "1"),
        "me/b.png": ("me", "1"),
        "me/deep/c.png": ("me", "1"),
        "dog/d_e.png": ("d e", "10"),
    }


def of(subset: str) -> str:
    return f"[[datasets]]\n[[datasets.subsets]]\n{subset}\n"


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.toml", "[[datasets]\n", "cannot be read"),
        ("a.toml", "x = 1\n", "no configuration of sd-scripts"),
        ("a.toml", of("num_repeats = 2"), "KeyError: 'image_dir'"),
        ("a.toml", of('image_dir = "gone"'), "names a folder that is not there: 'gone'"),
        ("a.toml", of('image_dir = "me"\nnum_repeats = 20000'), "20000 is no number of repeats"),
        ("a.toml", of('image_dir = "me"\nmetadata_file = "m.json"'), "metadata_file is not read"),
        ("a.toml", of('image_dir = "me"\nis_reg = true'), "names no folder of training images"),
        ("a.toml", of('image_dir = "me"') + '[[datasets.subsets]]\nimage_dir = "me"\nnum_repeats = 2', "are called"),
        ("a.toml", '[[datasets]]\nsubsets = "me"\n', "not as its trainer reads it"),
        ("a.toml", "datasets = [5]", "not as its trainer reads it"),
        ("a.yaml", "job: [", "cannot be read"),
        ("a.yaml", "config: {process: [5]}", "not as its trainer reads it"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "cannot be read"),
        ("a.yaml", "config: {process: [{datasets: [{folder_path: me, num_repeats: many}]}]}", "could not convert"),
        ("a.json", "[" * 100_000, "cannot be read"),
        ("a.json", '{"labels": [["a.png", 0]]}', "no configuration"),
        ("a.json", '[{"path": "me", "text": {"prompt_source": "dream"}}]', "'dream' is no prompt_source"),
        ("a.json", '[{"path": "me", "text": {"prompt_source": "concept", "prompt_path": "no.txt"}}]', "cannot be read"),
        ("a.json", '[{"instance_data_dir": "me", "caption_strategy": "parquet"}]', "by 'parquet' are not read"),
        ("a.json", '[{"instance_data_dir": "me", "repeats": "1e999"}]', "not as its trainer reads it"),
        ("a.json", "[5]", "no configuration"),
        ("a.json", " " * (2**22 + 1), "more than any configuration"),
    ],
)
def test_a_configuration_that_no_trainer_reads_is_one_error(root, name, content, what):
    with pytest.raises(AuditError) as caught:
        images.open_source(configuration(root, name, content))
    assert what in caught.value.what and caught.value.where and caught.value.remedy


def test_a_configuration_has_no_part(root):
    path = configuration(root, "data.toml", SD_SCRIPTS)
    with pytest.raises(AuditError, match="has no part 'train'"):
        images.open_source(f"{path}:train")
