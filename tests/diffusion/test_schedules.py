"""What networks predict: flows and EDM denoisers become networks of the process inside, exactly."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from trained import TinyNet

from auditor.config import AuditConfig
from auditor.diffusion import noise, schedules
from auditor.diffusion.denoising import predict, target_and_input, time_levels
from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.sampling import resolve_steps, sample_batch
from auditor.diffusion.scaling import Pixels, compare_ranges
from auditor.diffusion.schedules import (
    DDPM,
    EDM,
    FLOW,
    as_diffusers,
    completed,
    convert,
    forward_process,
    noise_ratios,
    problem,
)
from auditor.errors import AuditError
from auditor.inputs.models import conditions, image_classes, pixels, range_from
from auditor.records import Facts, ImageSet
from auditor.reports.caveats import pixel_range

SEEDS = [3, 4, 5]
SHIFTED = FLOW | {"shift": 3.0}
IN_UNITS = FLOW | {"num_train_timesteps": 1}


def network():
    torch.manual_seed(0)
    return TinyNet().eval().requires_grad_(False)


def model(net, config) -> DiffusionModel:
    return DiffusionModel(convert(net, config), config, (8, 8, 1), 0)


def initial() -> torch.Tensor:
    return noise.draw(noise.generators(SEEDS), (1, 8, 8))


def difference(one, other) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


@pytest.mark.parametrize("config", [FLOW, SHIFTED, IN_UNITS], ids=["flow", "shifted", "time in 0 to 1"])
def test_ddim_of_a_converted_flow_is_the_euler_sampler_of_diffusers_for_flows(config):
    net, steps = network(), 10
    ratios = noise_ratios(config)[99::100][::-1]  # the levels that ten trailing steps visit
    sigmas = ratios / (1 + ratios)
    theirs = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    theirs.set_timesteps(sigmas=sigmas.tolist())
    x = initial()
    for t in theirs.timesteps:
        time = t / 1000 * config["num_train_timesteps"]
        x = theirs.step(net(x, time.expand(len(x))), t, x).prev_sample
    drawn = sample_batch(model(net, config), SEEDS, "ddim", steps)
    assert difference(drawn, Pixels().decode(x)) <= 1


def test_ddim_of_a_converted_denoiser_is_the_euler_sampler_of_edm():
    net, steps = network(), 10
    sigmas = [*noise_ratios(EDM)[99::100][::-1], 0.0]
    x = initial() * sigmas[0]
    for sigma, following in itertools.pairwise(sigmas):
        slope = (
            x - net(x, torch.full((len(x),), sigma))
        ) / sigma  # Karras et al. 2022, algorithm 1 without its correction
        x = x + (following - sigma) * slope
    drawn = sample_batch(model(net, EDM), SEEDS, "ddim", steps)
    assert difference(drawn, Pixels().decode(x)) <= 1


def test_the_levels_of_edm_are_the_grid_of_karras_et_al():
    theirs = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_schedule="karras")
    theirs.set_timesteps(1000)
    np.testing.assert_allclose(noise_ratios(EDM), theirs.sigmas[:-1].flip(0).numpy(), rtol=1e-4)


def test_the_levels_of_a_flow_are_those_of_diffusers():
    for config in (FLOW, SHIFTED):
        theirs = FlowMatchEulerDiscreteScheduler(shift=config["shift"]).sigmas.flip(0).double().numpy()
        ratios = noise_ratios(config)
        np.testing.assert_allclose(ratios[:-1] / (1 + ratios[:-1]), theirs[:-1], rtol=1e-5)


@pytest.mark.parametrize("config", [FLOW, SHIFTED, IN_UNITS, EDM])
def test_a_network_is_called_at_the_noise_level_of_its_input(config):
    """What is passed on has the network's own scale and time, at every time of the process inside."""
    seen = []

    def net(x, t):
        seen.append((x, t))
        return x

    t = torch.tensor([0, 10, 500, 990, 999])
    forward = forward_process(config)
    x0, eps = torch.full((5, 1, 2, 2), 0.5), torch.ones(5, 1, 2, 2)
    convert(net, config)(forward.add_noise(x0, eps, t), t)
    ((x, time),) = seen
    if config is EDM:
        expected = x0 + time.view(-1, 1, 1, 1) * eps
        np.testing.assert_allclose(time, noise_ratios(EDM)[t], rtol=2e-2)  # float32 schedules of diffusers
    else:
        level = (time / config["num_train_timesteps"]).view(-1, 1, 1, 1)
        expected = (1 - level) * x0 + level * eps
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [FLOW, SHIFTED, EDM])
def test_the_loss_of_a_network_that_knows_the_picture_is_zero(config):
    picture = np.random.default_rng(0).integers(0, 255, (2, 8, 8, 1), dtype=np.uint8)
    x0 = Pixels().encode(picture)

    def oracle(x, t):
        if config is EDM:
            return x0[:1].expand_as(x)
        return (x - x0[:1]) / (t / 1000).view(-1, 1, 1, 1)  # eps - x0 = (x - x0) / s

    eps = torch.randn(1, 3, 1, 8, 8)
    found = predict(model(oracle, config), picture[:1], eps, time_levels(3, 1000), 4).losses
    assert found.max() < 1e-4


def test_the_loss_of_a_flow_is_the_error_of_noise_minus_picture():
    picture = np.random.default_rng(0).integers(0, 255, (1, 8, 8, 1), dtype=np.uint8)
    x0, net = Pixels().encode(picture), network()
    eps, times = torch.randn(1, 3, 1, 8, 8), time_levels(3, 1000)
    found = predict(model(net, FLOW), picture, eps, times, 6).losses
    for level, t in enumerate(times):
        s = (t + 1) / 1000
        both = [
            (
                net((1 - s) * x0 + s * sign * eps[:, level], torch.tensor([s * 1000.0])) - (sign * eps[:, level] - x0)
            ).square()
            for sign in (1, -1)
        ]
        assert found[0, level] == pytest.approx(float(torch.stack(both).mean()), rel=1e-3)


def test_the_loss_of_a_denoiser_is_its_error_with_edms_weight_for_unit_variance():
    picture = np.random.default_rng(0).integers(0, 255, (1, 8, 8, 1), dtype=np.uint8)
    x0, net = Pixels().encode(picture), network()
    eps, times = torch.randn(1, 3, 1, 8, 8), time_levels(3, 1000)
    found = predict(model(net, EDM), picture, eps, times, 6).losses
    for level, sigma in enumerate(noise_ratios(EDM)[times]):
        both = [
            (net(x0 + sigma * sign * eps[:, level], torch.tensor([sigma])) - x0).square().mean()
            * (1 + sigma**2)
            / sigma**2
            for sign in (1, -1)
        ]
        assert found[0, level] == pytest.approx(float(torch.stack(both).mean()), rel=2e-2)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm++"])
@pytest.mark.parametrize("config", [FLOW, EDM])
def test_every_sampler_draws_finite_pictures_from_converted_networks(sampler, config):
    drawn = sample_batch(model(network(), config), SEEDS, sampler, resolve_steps(sampler, 20, config))
    assert drawn.shape == (3, 8, 8, 1)


def test_discrete_networks_are_passed_on_unchanged():
    net = network()
    assert convert(net, DDPM) is net
    assert as_diffusers(DDPM) == DDPM


def test_a_learned_variance_is_left_to_nobody_to_look_for():
    config = DDPM | {"variance_type": "learned_range"}
    assert as_diffusers(config)["variance_type"] == "fixed_small"
    assert sample_batch(model(network(), config), SEEDS, "ddpm", 10).shape == (3, 8, 8, 1)


def test_what_is_predicted_is_completed_from_the_class_of_the_scheduler_or_by_the_user():
    assert completed({"_class_name": "FlowMatchEulerDiscreteScheduler"})["prediction_type"] == "flow"
    assert completed(DDPM, "v_prediction") == DDPM | {"prediction_type": "v_prediction"}
    assert completed(DDPM, "flow") == FLOW and completed(DDPM, "edm") == EDM
    own = {"_class_name": "EDMEulerScheduler", "sigma_min": 0.01, "sigma_max": 50.0, "rho": 5.0}
    assert completed(own, "edm")["sigma_max"] == 50.0
    assert problem(completed(own, "edm")) == ""
    assert "are no schedule" in problem(EDM | {"sigma_min": 100.0})


def test_the_target_of_a_discrete_network_is_weighed_by_one():
    forward = forward_process(DDPM)
    assert target_and_input(forward, torch.ones(1), torch.zeros(1), torch.tensor([5]))[0] == 0
    assert schedules.target_weights(DDPM).tolist() == [1.0] * 1000


@pytest.mark.parametrize(
    "scaling",
    [
        Pixels(),
        Pixels(0.0, 1.0),
        Pixels(0.0, 1.0, np.full((4, 4, 3), 0.3, np.float32)),
        Pixels(mean=np.float32([0.1, 0, -0.2])),
    ],
)
def test_pictures_come_back_from_every_scaling(scaling):
    pictures = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    x = scaling.encode(pictures)
    assert x.shape == (5, 3, 4, 4) and x.dtype == torch.float32
    assert np.array_equal(scaling.decode(x), pictures)


def test_the_mean_is_in_the_units_of_the_range():
    picture = np.full((1, 1, 1, 1), 255, np.uint8)
    assert Pixels(0.0, 1.0, np.float32([0.25])).encode(picture).item() == pytest.approx(0.75)
    assert Pixels().encode(picture).item() == 1


def test_samples_of_another_range_than_the_pictures_name_the_range_that_fits():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (16, 8, 8, 1), dtype=np.uint8)
    drawn = Pixels(0.0, 1.0).encode(rng.integers(0, 256, (16, 8, 8, 1), dtype=np.uint8)).numpy()
    assert compare_ranges(drawn, pictures, Pixels())["fits_better"] == [0.0, 1.0]
    assert compare_ranges(drawn, pictures, Pixels(0.0, 1.0))["fits_better"] is None
    assert compare_ranges(2 * drawn - 1, pictures, Pixels(0.0, 1.0))["fits_better"] == [-1.0, 1.0]
    centered = Pixels(0.0, 1.0, np.float32([0.5]))
    assert compare_ranges(centered.encode(pictures).numpy(), pictures, centered)["fits_better"] is None


def test_the_report_warns_of_a_range_that_fits_better():
    check = {"samples": [0.0, 1.0], "pictures": [-1.0, 1.0], "assumed": [-1.0, 1.0], "fits_better": [0.0, 1.0]}
    (sentence,) = pixel_range({"checks": {"pixel_range": check}})
    assert "--pixel-range 0,1 fits better" in sentence
    assert pixel_range({"checks": {"pixel_range": check | {"fits_better": None}}}) == []
    assert pixel_range({"checks": {}}) == []


def labeled(*labels: str) -> ImageSet:
    pictures = np.zeros((len(labels), 8, 8, 1), np.uint8)
    return ImageSet("train-a", pictures, tuple(map(str, range(len(labels)))), labels=labels)


def test_classes_of_images_are_their_numbers_or_numbered_in_alphabetical_order_over_all_sets():
    facts = Facts((8, 8, 1), "", 1, "class", 3)
    found = image_classes(facts, {"train-a": labeled("dog", "cat"), "heldout": labeled("eel", "cat")})
    assert found["train-a"].tolist() == [1, 0] and found["heldout"].tolist() == [2, 0]
    assert image_classes(facts, {"train-a": labeled("2", "0")})["train-a"].tolist() == [2, 0]
    assert image_classes(facts, {"train-a": labeled()}) == {}
    assert image_classes(replace(facts, conditioning="none"), {"train-a": labeled("x")}) == {}
    with pytest.raises(AuditError, match="have class 3, the models classes 0 to 2"):
        image_classes(facts, {"train-a": labeled("3")})
    with pytest.raises(AuditError, match="no class that stands for none"):
        image_classes(replace(facts, needs_class=True), {"train-a": labeled()})


def test_the_loss_of_a_class_conditional_network_is_measured_given_the_class_of_each_image():
    seen = []

    def conditioned(numbers, guidance):
        seen.extend(numbers.tolist())
        return lambda x, t: x

    net = DiffusionModel(lambda x, t: x, DDPM, (8, 8, 1), 0, conditioned=conditioned)
    pictures, eps = np.zeros((2, 8, 8, 1), np.uint8), torch.zeros(2, 1, 1, 8, 8)
    predict(net, pictures, eps, time_levels(1, 1000), 4, "cpu", np.array([2, 5]))
    assert seen == [2, 2, 5, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": "4"}, "asks for class 3; the models have classes 0 to 2"),
        ({"labels": "0"}, "asks for class -1"),
        ({"labels": "nowhere.txt"}, "cannot be read"),
        ({"prompts": "nowhere.txt"}, "--prompts is given, and the conditioning of the models is class"),
        ({"guidance_scale": float("nan")}, "not finite"),
    ],
)
def test_conditions_that_the_models_do_not_have_are_one_clear_error(changes, message):
    facts = Facts((8, 8, 1), "", 1, "class", 3)
    with pytest.raises(AuditError, match=message):
        conditions(AuditConfig(**changes), facts)


def test_every_class_is_sampled_in_turn_and_the_class_of_a_seed_does_not_depend_on_the_batch():
    drawn = conditions(AuditConfig(), Facts((8, 8, 1), "", 1, "class", 3))
    assert drawn.of([0, 1, 2, 3]).tolist() == [0, 1, 2, 0] and drawn.of([3]).tolist() == [0]


@pytest.mark.parametrize(
    ("given", "message"), [("1,0", "no range"), ("x", "no range"), ("0,inf", "no range"), ("1", "no range")]
)
def test_a_range_that_is_none_is_one_clear_error(given, message):
    with pytest.raises(AuditError, match=message):
        range_from(given)


def test_a_mean_of_another_shape_than_the_pictures_is_one_clear_error(tmp_path):
    facts = Facts((8, 8, 1), "", 1)
    np.save(tmp_path / "mean.npy", np.zeros((3, 3)))
    for given, message in ((str(tmp_path / "mean.npy"), "has shape"), ("x", "cannot be read"), ("nan", "not finite")):
        with pytest.raises(AuditError, match=message):
            pixels(AuditConfig(pixel_mean=given), facts, {}, ("a", "b"))
    with pytest.raises(AuditError, match="training images are not given"):
        pixels(AuditConfig(pixel_mean="own"), facts, {}, ("a", "b"))
