"""Mirrored training images are looked for where the trainer's own files say that it mirrored its images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from repository import FIXTURES
from safetensors.torch import save_file

from auditor.checkpoints import ModelSettings, flips, flips_of
from auditor.config import AuditConfig, from_file
from auditor.inputs import mirroring
from auditor.records import NOT_SAID, Checkpoint, CheckpointSeries, Flips, TwinPair


def checkpoint(name: str, path: Path, twin: str = "a") -> Checkpoint:
    return Checkpoint(twin, 2, path, name, "raw", None)


def kohya(path: Path, **metadata: str) -> Flips:
    """What is said of a file saved as kohya's train_network.py does: metadata are texts, sets of images JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(2, 2)}, path, metadata)
    return flips_of(checkpoint("lora", path))


def subsets(*flipped: bool) -> str:
    inside = [{"img_count": 10, "num_repeats": 1, "color_aug": False, "flip_aug": each} for each in flipped]
    return json.dumps([{"is_dreambooth": True, "batch_size_per_device": 1, "subsets": inside}])


def tracked(root: Path, **settings: object) -> Path:
    """Let accelerate's tracker write what the training scripts of diffusers give it."""
    from accelerate.tracking import TensorBoardTracker

    tracker = TensorBoardTracker("text2image-fine-tune", root / "logs")
    tracker.start()
    tracker.store_init_configuration({"resolution": 8, "learning_rate": 1e-4, "center_crop": False, **settings})
    tracker.finish()
    return root


def twins_of(a: Path, b: Path, name: str = "lora") -> TwinPair:
    series = [CheckpointSeries(twin, (checkpoint(name, path, twin),)) for twin, path in (("a", a), ("b", b))]
    return TwinPair(*series, excluded=())


@pytest.mark.parametrize("name", ["dit", "sit"])
def test_the_training_scripts_of_dit_and_sit_always_mirror(name):
    said = flips_of(checkpoint("dit", FIXTURES / name / "0000002.pt"))
    assert said == Flips(True, f"the fixed transform of {'DiT' if name == 'dit' else 'SiT'}'s train.py")


def test_kohya_says_it_in_the_header_for_all_images_or_for_each_subset(tmp_path):
    path = tmp_path / "face.safetensors"
    assert kohya(path, ss_flip_aug="True") == Flips(True, "ss_flip_aug in the header")
    assert kohya(path, ss_flip_aug="False").mirrored is False
    assert kohya(path, ss_datasets=subsets(False, True)) == Flips(True, "flip_aug of ss_datasets in the header")
    assert kohya(path, ss_datasets=subsets(False, False)).mirrored is False
    assert kohya(path, ss_steps="4") == NOT_SAID


@pytest.mark.parametrize("damaged", ["{", "[[]]", '[{"subsets": [{}]}]', "[" * 100_000, "null"])
def test_a_damaged_header_says_nothing_and_why(damaged, tmp_path):
    said = kohya(tmp_path / "face.safetensors", ss_datasets=damaged)
    assert said == Flips(None, "ss_datasets in the header cannot be read")


@pytest.mark.parametrize(
    ("options", "mirrored"),
    [
        ({"dataset_kwargs": {"use_labels": False, "xflip": True}}, True),
        ({"dataset_kwargs": {"use_labels": False, "xflip": False}}, False),
        ({"dataset_kwargs": {"use_labels": True}}, False),  # EDM2 has no such option
        ({"dataset_kwargs": {"xflip": False}, "augment_kwargs": {"p": 0.12, "xflip": 1e8}}, True),
        ({"loss_kwargs": {}}, None),
    ],
)
def test_edm_says_it_in_the_options_of_the_training(options, mirrored, tmp_path):
    (tmp_path / "training_options.json").write_text(json.dumps(options))
    for name in ("edm", "plain"):
        assert flips_of(checkpoint(name, tmp_path / "network-snapshot-000002.pkl")).mirrored is mirrored


def test_options_that_cannot_be_read_say_nothing_and_why(tmp_path):
    (tmp_path / "training_options.json").write_text("{")
    said = flips_of(checkpoint("edm", tmp_path / "network-snapshot-000002.pkl"))
    assert said.mirrored is None and "training_options.json is not valid JSON" in said.source


def test_ai_toolkit_says_it_in_the_configuration_beside_the_series(tmp_path):
    path = tmp_path / "face_000000250.safetensors"
    text = "job: extension\nconfig:\n  name: face\n  process:\n  - type: sd_trainer\n    datasets:\n"
    (tmp_path / "config.yaml").write_text(text + "    - folder_path: a\n    - folder_path: b\n      flip_x: true\n")
    assert kohya(path, software="{}") == Flips(True, "flip_x in config.yaml")
    (tmp_path / "config.yaml").write_text(text + "    - folder_path: a\n      flip_x: false\n      flip_y: true\n")
    assert kohya(path).mirrored is False
    (tmp_path / "config.yaml").write_text("unrelated: 1\n")
    assert kohya(path) == NOT_SAID


@pytest.mark.parametrize(
    "text",
    ["a: [", "!!python/object/apply:os.system ['touch pwned']", "\0", "&a [*a, *a]\n: {", "[" * 50_000, "x" * 2**21],
    ids=["truncated", "code", "binary", "itself", "deep", "large"],
)
def test_a_damaged_or_malicious_yaml_file_says_nothing_and_runs_nothing(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    said = kohya(tmp_path / "face_000000250.safetensors")
    assert said.mirrored is None and not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("flipped", [True, False])
def test_the_scripts_of_diffusers_say_it_in_what_their_tracker_wrote(flipped, tmp_path):
    root = tracked(tmp_path, random_flip=flipped)
    said = Flips(flipped, "random_flip in hparams.yml")
    assert flips_of(checkpoint("diffusers", root / "checkpoint-500/unet")) == said
    assert flips_of(checkpoint("diffusers", root / "checkpoint-500")) == said
    assert kohya(root / "checkpoint-500/pytorch_lora_weights.safetensors") == said


def test_a_training_that_was_resumed_with_flips_mirrored_and_one_without_the_setting_says_nothing(tmp_path):
    for flipped in (False, True, False):
        tracked(tmp_path / "resumed", random_flip=flipped)
    assert flips.of_tracker(tmp_path / "resumed").mirrored is True
    assert flips.of_tracker(tracked(tmp_path / "other")) == NOT_SAID


def test_a_trainer_that_mirrors_unless_told_otherwise_and_records_nothing_is_told(tmp_path):
    pair = twins_of(tmp_path / "a/model-1.pt", tmp_path / "b/model-1.pt", "denoising-diffusion-pytorch")
    said = mirroring.resolve(None, pair, ModelSettings())
    (note,) = mirroring.notes(said, None)
    assert said.mirrored is None and "mirrors images unless told otherwise" in note and "add --flip-train" in note
    assert mirroring.notes(mirroring.resolve(False, pair, ModelSettings()), False) == []


def test_where_the_twins_differ_mirror_images_are_looked_for_and_the_note_says_so(tmp_path):
    paths = tmp_path / "a/x.safetensors", tmp_path / "b/x.safetensors"
    kohya(paths[0], ss_flip_aug="False"), kohya(paths[1], ss_flip_aug="True")
    said = mirroring.resolve(None, twins_of(*paths), ModelSettings())
    assert said.mirrored is True and mirroring.resolve(False, twins_of(*paths), ModelSettings()).mirrored is False
    (note,) = mirroring.notes(said, None)
    assert "differ: a: no (ss_flip_aug in the header); b: yes (ss_flip_aug" in note and "--no-flip-train" in note
    kohya(paths[1])
    unsure = mirroring.resolve(None, twins_of(*paths), ModelSettings())
    assert unsure.mirrored is None and "add --flip-train" in mirroring.notes(unsure, None)[0]


def test_files_that_say_nothing_leave_mirror_images_out_without_a_word(tmp_path):
    kohya(tmp_path / "x.safetensors")
    said = mirroring.resolve(None, twins_of(*[tmp_path / "x.safetensors"] * 2), ModelSettings())
    assert said == NOT_SAID and mirroring.notes(said, None) == []
    assert mirroring.resolve(None, twins_of(*[tmp_path / "x.safetensors"] * 2), None) == NOT_SAID  # samples


def test_the_setting_has_three_values_on_the_command_line_and_in_a_file(tmp_path):
    assert AuditConfig().flip_train is None
    for text, value in (("true", True), ("false", False)):
        (tmp_path / "x.toml").write_text(f"flip-train = {text}\n")
        assert from_file(tmp_path / "x.toml") == {"flip_train": value}


def test_a_run_on_dit_looks_for_mirror_images_unless_told_not_to_and_records_why(audit_args, audit, tmp_path):
    b = Path(shutil.copytree(FIXTURES / "dit", tmp_path / "b"))
    content = torch.load(b / "0000002.pt", weights_only=False)
    content["ema"] = {name: one * 1.1 for name, one in content["ema"].items()}
    torch.save(content, b / "0000002.pt")
    given = {"ckpts_a": FIXTURES / "dit", "ckpts_b": b, "spaces": "pixel", "loss_images": "4", "loss_levels": "2"}
    outcome = audit(*audit_args(**given))
    assert outcome.status == 0, outcome.err
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["resolved"]["flips"] == {"mirrored": True, "source": "the fixed transform of DiT's train.py"}
    assert record["given"]["flip_train"] is None and "--no-flip-train" in " ".join(record["notes"])
    plan = audit(*audit_args(**given), "--no-flip-train", "--dry-run")
    assert plan.status == 0 and "looked for mirrored" not in plan.out
    assert "remake" in plan.out and "reuse" in plan.out  # features of the halves; samples stay


def test_scan_shows_what_the_files_say(audit):
    shown = audit("scan", FIXTURES / "dit")
    assert shown.status == 0 and "yes (the fixed transform of DiT's train.py)" in shown.out
    (one,) = json.loads(audit("scan", FIXTURES / "dit", "--json").out)["series"]
    assert one["flips"] == {"mirrored": True, "source": "the fixed transform of DiT's train.py"}
