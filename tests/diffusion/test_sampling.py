"""Samples are a function of weights, seed and sampler; a diffusers pipeline draws the same ones."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch
from conftest import tiny_unet
from denoisers import unet_model

from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.sampling import SAMPLERS, make_scheduler, resolve_steps, sample_batch
from auditor.diffusion.scaling import Pixels
from auditor.diffusion.schedules import DDPM
from auditor.errors import AuditError
from auditor.run import RunDirectory

SEEDS = [3, 4, 5, 6, 7]
STEPS = {"ddim": 5, "ddpm": 20, "published": 20, "dpm++": 5}
# Float rounding moves a pixel by some 1e-6 of its range; where it then crosses a rounding border it is one gray level.
ONE_GRAY_LEVEL = 1
BATCH_SHAPE = (len(SEEDS), 8, 8, 1)


def largest_difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_images_do_not_depend_on_the_batch_size_beyond_rounding(sampler):
    model, steps = unet_model(), STEPS[sampler]
    together = sample_batch(model, SEEDS, sampler, steps)
    apart = np.concatenate([sample_batch(model, part, sampler, steps) for part in (SEEDS[:1], SEEDS[1:3], SEEDS[3:])])
    assert together.shape == BATCH_SHAPE and together.dtype == np.uint8 and together.std() > 1
    assert largest_difference(together, apart) <= ONE_GRAY_LEVEL


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_position_and_neighbors_in_the_batch_change_no_bit(sampler):
    model, steps = unet_model(), STEPS[sampler]
    together = sample_batch(model, SEEDS, sampler, steps)
    assert np.array_equal(together, sample_batch(model, SEEDS[::-1], sampler, steps)[::-1])
    padded = sample_batch(model, [*SEEDS[:2], 900, 901, 902], sampler, steps)
    assert np.array_equal(together[:2], padded[:2])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_command_makes_the_same_bytes(sampler):
    first, second = (sample_batch(unet_model(), SEEDS, sampler, STEPS[sampler]) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["DDIM", "DDPM"])
def test_a_diffusers_pipeline_given_the_seeds_as_generators_makes_the_same_images(name, prediction_type):
    unet, sampler = tiny_unet(1), name.lower()
    model = unet_model(unet, prediction_type=prediction_type)
    scheduler = getattr(diffusers, f"{name}Scheduler").from_config(model.scheduler)
    pipeline = getattr(diffusers, f"{name}Pipeline")(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    streams = [torch.Generator("cpu").manual_seed(seed) for seed in SEEDS]
    pictures = pipeline(len(SEEDS), streams, num_inference_steps=STEPS[sampler], output_type="pil").images
    theirs = np.stack([np.asarray(picture) for picture in pictures])[..., None]
    assert largest_difference(theirs, sample_batch(model, SEEDS, sampler, STEPS[sampler])) <= ONE_GRAY_LEVEL


def test_the_per_step_noise_of_ddpm_is_shared_by_twins():
    """A network of zeros adds nothing of its own, so seeds differ by their noise alone, and twins share it."""
    twins = [DiffusionModel(lambda x, t: torch.zeros_like(x), DDPM, (8, 8, 1), 0) for _ in "ab"]
    torch.manual_seed(0)
    a = sample_batch(twins[0], SEEDS, "ddpm", 20)
    torch.manual_seed(1)  # the global generator takes no part
    assert np.array_equal(a, sample_batch(twins[1], SEEDS, "ddpm", 20))
    assert len({image.tobytes() for image in a}) == len(SEEDS)


def test_a_network_that_knows_the_noise_of_one_image_is_sampled_to_that_image():
    """eps = (x_t - sqrt(abar) x0) / sqrt(1 - abar) points DDIM to x0 from any noise."""
    x0 = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    abar = diffusers.DDPMScheduler.from_config(DDPM).alphas_cumprod

    def network(x, t):
        a = abar[t].view(-1, 1, 1, 1)
        return (x - a.sqrt() * x0) / (1 - a).sqrt()

    drawn = sample_batch(DiffusionModel(network, DDPM, (8, 8, 1), 0), SEEDS, "ddim", 50)
    assert largest_difference(drawn, np.repeat(Pixels().decode(x0), len(SEEDS), axis=0)) <= ONE_GRAY_LEVEL


def test_values_that_are_not_finite_stop_the_audit():
    broken = DiffusionModel(lambda x, t: x * float("nan"), DDPM, (8, 8, 1), 0)
    with pytest.raises(AuditError, match="not finite") as caught:
        sample_batch(broken, SEEDS, "ddim", 5)
    assert "seeds 3 to 7" in caught.value.where


def test_uint8_rounds_to_the_nearest_level_and_clips():
    x = torch.tensor([-5.0, -1.0, 0.0, 1.0, 5.0]).reshape(5, 1, 1, 1)
    assert Pixels().decode(x).ravel().tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(("sampler", "default"), [("ddim", 50), ("ddpm", 1000), ("dpm++", 20)])
def test_every_sampler_has_its_default_number_of_steps(sampler, default):
    assert resolve_steps(sampler, None, DDPM) == default
    assert resolve_steps(sampler, 10, DDPM) == 10


def test_a_default_number_of_steps_never_exceeds_the_schedule():
    assert resolve_steps("ddim", None, {**DDPM, "num_train_timesteps": 40}) == 40


def test_more_sampling_steps_than_the_schedule_has_are_refused():
    with pytest.raises(AuditError, match="1001 sampling steps"):
        resolve_steps("ddim", 1001, DDPM)


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_ddim_steps_that_do_not_divide_the_schedule_are_refused_where_they_would_be_uneven(spacing):
    with pytest.raises(AuditError, match="divides 1000; 60"):
        resolve_steps("ddim", 60, {**DDPM, "timestep_spacing": spacing})
    assert resolve_steps("ddim", 50, {**DDPM, "timestep_spacing": spacing}) == 50
    assert resolve_steps("ddim", 60, DDPM) == 60  # leading spacing is always even


def test_an_unknown_sampler_is_refused_with_the_known_ones():
    with pytest.raises(AuditError, match="'euler'") as caught:
        resolve_steps("euler", None, DDPM)
    assert "ddim, ddpm, dpm++, published" in caught.value.remedy


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [4, 50, 60])
def test_every_sampler_makes_exactly_the_network_calls_it_announces(sampler, steps):
    times = make_scheduler(sampler, steps, DDPM).timesteps.tolist()
    assert len(times) == steps and times == sorted(times, reverse=True)


def test_all_batches_are_full(tmp_path):
    asked = []

    def drawn(rows: range) -> np.ndarray:
        asked.append(list(rows))
        return np.zeros((len(rows), 1))

    list(RunDirectory(tmp_path).build(tmp_path / "samples.npy", {}, 5, 2, drawn))
    assert asked == [[0, 1], [2, 3], [4, 5]]
