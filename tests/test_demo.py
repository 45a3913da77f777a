"""The demo's images, trainer and shipped files."""

from __future__ import annotations

import dataclasses
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from auditor.demo import clip, demo_config, digits, load, recipe, retrain, shipped, trainer, write
from auditor.demo.recipe import STEPS, TWIN_SETTINGS
from auditor.lab.training import log_spaced
from auditor.records import TWINS

TINY = trainer.TrainSettings(steps=(5, 20), widths=(4, 8), batch_size=8, log_every=10)
WEIGHTS = Path("unet_ema") / "diffusion_pytorch_model.safetensors"
CHECKPOINTS = [(twin, step) for twin in TWINS for step in STEPS]


def noise_images(shape: tuple[int, int, int], n: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)


def rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def weights_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


# Images


def test_the_parts_share_no_digit_and_no_equal_image() -> None:
    for one, other in combinations(load().values(), 2):
        assert not set(one.indices) & set(other.indices)
        assert not rows(one.images) & rows(other.images)


def test_halves_are_equally_large_and_every_digit_is_in_one_part() -> None:
    parts = load()
    assert len(parts["train_a"]) == len(parts["train_b"]) == 500
    assert sum(len(part) for part in parts.values()) == 1797
    assert sum(len(rows(part.images)) for part in parts.values()) == 1797


def test_digits_use_the_whole_range_of_uint8() -> None:
    images = load()["heldout"].images
    assert images.dtype == np.uint8 and images.shape[1:] == (8, 8)
    assert (images.min(), images.max()) == (0, 255)


def test_an_image_that_occurs_twice_is_kept_once() -> None:
    images = np.array([3, 1, 3, 2, 1], dtype=np.uint8).reshape(5, 1, 1)
    assert digits.first_occurrences(images).tolist() == [0, 1, 3]


def test_written_parts_are_what_load_gives_in_the_same_bytes_each_time(tmp_path: Path) -> None:
    first, second = write(tmp_path / "one"), write(tmp_path / "two")
    assert [path.name for path in first.values()] == ["train-a.npz", "train-b.npz", "clip.npz", "heldout.npz"]
    assert [path.read_bytes() for path in first.values()] == [path.read_bytes() for path in second.values()]
    assert np.array_equal(np.load(first["heldout"])["images"], load()["heldout"].images)
    assert len(list((tmp_path / "one" / "data").iterdir())) == 4  # nothing temporary is left


# Trainer


def test_the_trainer_writes_a_series_that_diffusers_loads(tmp_path: Path) -> None:
    from diffusers import DDPMScheduler, UNet2DModel

    trainer.train(noise_images((8, 8, 1)), tmp_path, TINY)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-20",
        "checkpoint-5",
        "log.jsonl",
        "scheduler",
    ]
    network = UNet2DModel.from_pretrained(tmp_path / "checkpoint-20" / "unet_ema")
    assert network.config.sample_size == 8
    assert DDPMScheduler.from_pretrained(tmp_path / "scheduler").config.prediction_type == "epsilon"


def test_checkpoints_are_float16(tmp_path: Path) -> None:
    trainer.train(noise_images((8, 8, 1)), tmp_path, TINY)
    weights = load_file(tmp_path / "checkpoint-20" / WEIGHTS)
    assert {tensor.dtype for tensor in weights.values()} == {np.dtype(np.float16)}


def test_the_training_log_has_a_line_every_so_often(tmp_path: Path) -> None:
    calls = []
    trainer.train(noise_images((8, 8, 1)), tmp_path, TINY, lambda *call: calls.append(call))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20]
    assert [(step, last) for step, last, _ in calls] == [(10, 20), (20, 20)]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    images = noise_images((8, 8, 1))
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        trainer.train(images, tmp_path / name, dataclasses.replace(TINY, seed=seed))
    assert weights_of(tmp_path / "one") == weights_of(tmp_path / "again")
    assert weights_of(tmp_path / "one") != weights_of(tmp_path / "other")


def test_the_trainer_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    trainer.train(noise_images((8, 8, 1)), tmp_path, TINY)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("shape", [(16, 16, 3), (32, 32, 3), (16, 8, 1)])
def test_colored_and_other_shapes_are_trained_too(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    from diffusers import UNet2DModel

    trainer.train(noise_images(shape), tmp_path, dataclasses.replace(TINY, steps=(2,)))
    network = UNet2DModel.from_pretrained(tmp_path / "checkpoint-2" / "unet_ema")
    assert network.config.in_channels == network.config.out_channels == shape[2]


def test_bfloat16_computes_in_another_type_and_saves_the_same(tmp_path: Path) -> None:
    first = dataclasses.replace(TINY, steps=(2,))
    trainer.train(noise_images((8, 8, 1)), tmp_path / "float32", first)
    trainer.train(noise_images((8, 8, 1)), tmp_path / "bfloat16", dataclasses.replace(first, bfloat16=True))
    one, other = (load_file(tmp_path / name / "checkpoint-2" / WEIGHTS) for name in ("float32", "bfloat16"))
    assert {name: (w.shape, w.dtype) for name, w in one.items()} == {n: (w.shape, w.dtype) for n, w in other.items()}
    # Two steps of Adam at 1e-3 move a weight by at most about 0.002.
    assert 0 < max(np.abs(one[name] - other[name]).max() for name in one) < 0.005


def test_each_epoch_shows_every_image_once() -> None:
    import torch

    batches = trainer.index_batches(6, 4, torch.Generator().manual_seed(0))
    two_epochs = torch.cat([next(batches) for _ in range(3)])
    assert sorted(two_epochs[:6].tolist()) == sorted(two_epochs[6:].tolist()) == list(range(6))


def test_a_constant_network_is_its_own_average() -> None:
    average, network = trainer.new_network((8, 8, 1), TINY), trainer.new_network((8, 8, 1), TINY)
    trainer.update_average(average, network, 0.9, step=3)
    for old, new in zip(average.parameters(), network.parameters(), strict=True):
        assert old.equal(new)


def test_log_spaced_steps_have_equal_ratios() -> None:
    assert log_spaced(100, 1600, 5) == (100, 200, 400, 800, 1600)


# Recipe


def test_retraining_writes_the_layout_of_the_shipped_files(tmp_path: Path) -> None:
    calls = []
    short = {twin: dataclasses.replace(TINY, seed=seed) for seed, twin in enumerate(TWINS)}
    retrain(tmp_path, lambda *call: calls.append(call), short, clip.ClipSettings(steps=2, groups=1))
    assert {path.name for path in tmp_path.iterdir()} == {"twins", "clip"}
    for name in ("checkpoint-5", "checkpoint-20", "scheduler", "log.jsonl"):
        assert (tmp_path / "twins" / "a" / name).exists() and (tmp_path / "twins" / "b" / name).exists()
    assert {call[:3] for call in calls} >= {("twins/a", 20, 20), ("twins/b", 20, 20), ("clip", 2, 2)}


def test_the_demo_audits_the_shipped_twins_until_others_are_trained_in_its_folder(tmp_path: Path) -> None:
    config = demo_config(tmp_path)
    assert (config.ckpts_a, config.clip_model) == (str(shipped() / "twins" / "a"), f"local-dir:{shipped() / 'clip'}")
    assert Path(config.train_b) == tmp_path / "data" / "train-b.npz"
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / clip.WEIGHTS).touch()
    for twin in TWINS:
        (tmp_path / "twins" / twin / f"checkpoint-{STEPS[-1]}").mkdir(parents=True)
    assert demo_config(tmp_path).ckpts_a == str(tmp_path / "twins" / "a")


def test_a_half_written_line_of_a_log_is_not_read(tmp_path: Path) -> None:
    assert recipe.last_line(tmp_path / "absent") == {"step": 0}
    (tmp_path / "log").write_text('{"step": 10, "loss": 0.5}\n{"step": 2')
    assert recipe.last_line(tmp_path / "log") == {"step": 10, "loss": 0.5}


# Shipped files


def test_shipped_files_weigh_under_ten_megabytes() -> None:
    assert sum(path.stat().st_size for path in shipped().rglob("*") if path.is_file()) < 10_000_000


@pytest.mark.parametrize("twin", TWINS)
def test_shipped_series_have_the_steps_of_the_recipe_and_their_schedule(twin: str) -> None:
    folder = shipped() / "twins" / twin
    assert {path.name for path in folder.glob("checkpoint-*")} == {f"checkpoint-{step}" for step in STEPS}
    schedule = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert (schedule["beta_schedule"], schedule["num_train_timesteps"]) == ("linear", 1000)


@pytest.mark.parametrize(("twin", "step"), CHECKPOINTS)
def test_shipped_weights_are_finite_and_fit_the_recipe(twin: str, step: int) -> None:
    from diffusers import UNet2DModel

    network = UNet2DModel.from_pretrained(shipped() / "twins" / twin / f"checkpoint-{step}" / "unet_ema")
    assert network.config.sample_size == 8
    assert tuple(network.config.block_out_channels) == TWIN_SETTINGS[twin].widths
    assert all(weights.isfinite().all() for weights in network.parameters())


def test_the_shipped_twins_differ_from_the_first_checkpoint_on() -> None:
    first = [shipped() / "twins" / twin / f"checkpoint-{STEPS[0]}" for twin in TWINS]
    assert weights_of(first[0]) != weights_of(first[1])


def test_the_shipped_clip_tells_nine_of_ten_heldout_digits() -> None:
    """Chance is one in ten; it was trained on none of these."""
    heldout = load()["heldout"]
    told = clip.zero_shot(shipped() / "clip", heldout.images[..., None], digits.captions(np.arange(10)))
    assert (told == heldout.labels).mean() > 0.9


def test_the_small_clip_learns_to_tell_dark_from_light(tmp_path: Path) -> None:
    dark, light = noise_images((8, 8, 1), 16) // 4, 255 - noise_images((8, 8, 1), 16) // 4
    images, captions = np.concatenate([dark, light]), ["a dark picture"] * 16 + ["a light picture"] * 16
    clip.train(images, captions, tmp_path, clip.ClipSettings(steps=15, groups=4))
    told = clip.zero_shot(tmp_path, images, ["a dark picture", "a light picture"])
    assert told.tolist() == [0] * 16 + [1] * 16
