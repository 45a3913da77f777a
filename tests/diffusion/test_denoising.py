"""Denoising losses against denoisers whose loss is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import smooth_images, tiny_unet
from diffusers import DDPMScheduler

from auditor.diffusion import schedules
from auditor.diffusion.denoising import cell_noise, predict, shares_of, snr_levels, target_and_input, time_levels
from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.schedules import DDPM, forward_process

IMAGES = smooth_images(3, 0)[..., None]  # uint8 [3, 8, 8, 1]
X0 = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 127.5 - 1
TIMES = time_levels(2, 1000)
EPS = cell_noise(0, ["x", "y", "z"], "heldout", 2, (1, 8, 8))
ABAR = DDPMScheduler.from_config(DDPM).alphas_cumprod


def measured(network, batch_size: int = 12, **schedule) -> np.ndarray:
    return predict(DiffusionModel(network, {**DDPM, **schedule}, (8, 8, 1), 0), IMAGES, EPS, TIMES, batch_size).losses


def of_known_image(formula):
    """Return a network that knows which image it is shown: the one for which x_t is one of the two noised inputs."""

    def network(x, t):
        a = ABAR[t].view(-1, 1, 1, 1)
        output = torch.empty_like(x)
        for row in range(len(x)):
            level = int(np.flatnonzero(int(t[row]) == TIMES)[0])
            candidates = [
                (i, sign * EPS[i, level])
                for i in range(3)
                for sign in (1, -1)
                if torch.allclose(x[row], a[row].sqrt() * X0[i] + (1 - a[row]).sqrt() * sign * EPS[i, level], atol=1e-5)
            ]
            ((i, eps),) = candidates
            output[row] = formula(X0[i], eps, a[row])
        return output

    return network


@pytest.mark.parametrize(
    ("prediction_type", "formula"),
    [
        ("epsilon", lambda x0, eps, a: eps),
        ("sample", lambda x0, eps, a: x0),
        ("v_prediction", lambda x0, eps, a: a.sqrt() * eps - (1 - a).sqrt() * x0),
    ],
)
def test_the_exact_denoiser_of_every_prediction_type_has_loss_0(prediction_type, formula):
    found = measured(of_known_image(formula), prediction_type=prediction_type)
    assert found.shape == (3, 2) and found.dtype == np.float64
    np.testing.assert_allclose(found, 0, atol=1e-12)  # squares of float32 rounding


def test_a_network_of_zeros_has_the_mean_square_of_the_noise_as_its_loss():
    expected = EPS.double().square().flatten(2).mean(2)  # eps and -eps have the same square
    np.testing.assert_allclose(measured(lambda x, t: torch.zeros_like(x)), expected, rtol=1e-6)
    assert abs(float(expected.mean()) - 1) < 0.2  # 384 numbers of variance 1: .2 is 2.8 standard errors


def test_a_loss_is_the_average_over_noise_and_its_mirror_image():
    """A constant output c has loss mean((c - eps)^2) and mean((c + eps)^2): the average is c^2 + mean(eps^2)."""
    expected = 0.25 + EPS.double().square().flatten(2).mean(2)
    np.testing.assert_allclose(measured(lambda x, t: torch.full_like(x, 0.5)), expected, rtol=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_targets_and_inputs_follow_their_formulas(prediction_type):
    forward = forward_process({**DDPM, "prediction_type": prediction_type})
    eps, t = EPS[:, 0], torch.tensor([10, 400, 990])
    a = ABAR[t].view(-1, 1, 1, 1)
    target, x_t = target_and_input(forward, X0, eps, t)
    velocity = a.sqrt() * eps - (1 - a).sqrt() * X0
    torch.testing.assert_close(target, {"epsilon": eps, "sample": X0, "v_prediction": velocity}[prediction_type])
    torch.testing.assert_close(x_t, a.sqrt() * X0 + (1 - a).sqrt() * eps)


def test_the_forward_process_follows_the_schedule_of_the_checkpoint():
    shifted = forward_process({**DDPM, "beta_schedule": "squaredcos_cap_v2"}).alphas_cumprod
    assert not torch.allclose(shifted, ABAR)
    betas = [0.1, 0.2, 0.3]
    given = forward_process({**DDPM, "num_train_timesteps": 3, "trained_betas": betas}).alphas_cumprod
    torch.testing.assert_close(given, torch.tensor([0.9, 0.72, 0.504]))


def test_time_levels_are_the_midpoints_of_equal_strata_of_1_to_the_last_time():
    assert time_levels(1, 1000).tolist() == [500]
    assert time_levels(2, 1001).tolist() == [251, 751]
    assert time_levels(4, 9).tolist() == [2, 4, 6, 8]
    levels = time_levels(16, 1000)
    assert len(set(levels)) == 16 and levels[0] >= 1 and levels[-1] <= 999
    assert set(np.diff(levels)) <= {62, 63}  # 999 / 16 = 62.4


def test_levels_by_log_snr_are_evenly_spread_in_it_and_stand_for_all_times():
    snr = schedules.log_snr(DDPM)
    levels = snr_levels(8, snr)
    width = (snr[1] - snr[999]) / 8
    assert np.abs(-np.diff(snr[levels]) / width - 1).max() < 0.1
    assert (levels < 200).sum() > (time_levels(8, 1000) < 200).sum()  # more of them at little noise
    shares = shares_of(levels, snr)
    assert shares.sum() == pytest.approx(1)
    assert 10 * shares[0] < shares.max()  # few times have little noise


def test_the_mean_over_levels_by_log_snr_is_that_over_uniform_times():
    """A smooth loss, 1 / (1 + signal / noise): its mean over all times against that over 16 levels of either kind."""
    snr = schedules.log_snr(DDPM)
    loss = 1 / (1 + np.exp(snr))
    by_time, by_snr = time_levels(16, 1000), snr_levels(16, snr)
    assert loss[by_time].mean() == pytest.approx(loss[1:].mean(), rel=0.002)
    assert loss[by_snr] @ shares_of(by_snr, snr) == pytest.approx(loss[1:].mean(), rel=0.01)
    assert loss[by_snr].mean() < 0.8 * loss[1:].mean()  # which their plain mean is not


def test_levels_that_fall_on_one_time_are_one():
    snr = np.array([5.0, 4.0, 0.0, -4.0])
    assert snr_levels(9, snr).tolist() == [1, 2, 3]
    assert shares_of(np.array([1, 3]), snr).tolist() == pytest.approx([2 / 3, 1 / 3])


def test_losses_do_not_depend_on_the_batch_size_beyond_rounding():
    unet = tiny_unet(1)
    found = [measured(lambda x, t: unet(x, t, return_dict=False)[0], size) for size in (12, 5, 1)]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)  # float32 convolutions
    np.testing.assert_allclose(found[2], found[0], rtol=1e-5)


def test_every_network_call_has_exactly_the_batch_size():
    sizes = []

    def network(x, t):
        sizes.append((len(x), len(t)))
        return x

    measured(network, 5)
    assert sizes == [(5, 5)] * 3  # 3 images x 2 levels x 2 signs = 12 cells


def test_the_loss_of_an_image_does_not_depend_on_the_images_beside_it():
    unet = tiny_unet(1)
    model = DiffusionModel(lambda x, t: unet(x, t, return_dict=False)[0], DDPM, (8, 8, 1), 0)
    alone = predict(model, IMAGES[1:2], EPS[1:2], TIMES, 4).losses
    assert np.array_equal(alone[0], predict(model, IMAGES, EPS, TIMES, 4).losses[1])  # same batch size: same bits
