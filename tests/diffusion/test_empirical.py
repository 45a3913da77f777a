"""The empirical denoiser against sums written out, its limits, and the identity of the losses."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from auditor.diffusion import empirical


def cloud(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


def written_out(z, alpha, sigma, images):
    """Weights, mean, variance per pixel and effective number by plain sums."""
    z, images = z.numpy(), images.numpy()
    w = softmax(-((z[:, None] - alpha * images[None]) ** 2).sum(2) / (2 * sigma**2), axis=1)
    mean = w @ images
    variance = (w * ((images[None] - mean[:, None]) ** 2).sum(2)).sum(1) / z.shape[1]
    entropy = -(w * np.log(np.maximum(w, 1e-300))).sum(1)
    return w, mean, variance, np.exp(entropy)


@pytest.mark.parametrize(("alpha", "sigma"), [(0.9, 0.1), (0.7, 0.7), (0.1, 0.99)])
def test_the_posterior_agrees_with_sums_written_out(alpha, sigma, monkeypatch):
    monkeypatch.setattr(empirical, "AT_ONCE", 7)  # several blocks, the last one short
    images, z = cloud(30, 5), alpha * cloud(11, 5, 1) + sigma * cloud(11, 5, 2)
    w, mean, variance, n_effective = written_out(z, alpha, sigma, images)
    found = empirical.posterior(z, alpha, sigma, images)
    np.testing.assert_allclose(found.mean, mean, atol=1e-10)
    np.testing.assert_allclose(found.variance, variance, atol=1e-10)
    np.testing.assert_allclose(found.n_effective, n_effective, rtol=1e-9)
    np.testing.assert_allclose(found.largest, w.max(axis=1), rtol=1e-9)
    assert (found.omitted == 0).all()


def test_at_little_noise_a_training_image_is_its_own_posterior():
    images = cloud(50, 8)
    found = empirical.posterior(0.999 * images + 0.01 * cloud(50, 8, 3), 0.999, 0.01, images)
    torch.testing.assert_close(found.mean, images)
    np.testing.assert_allclose(found.n_effective, 1, atol=1e-6)


def test_at_much_noise_the_posterior_is_the_training_mean():
    images = cloud(50, 8)
    found = empirical.posterior(cloud(20, 8, 3), 1e-6, 1.0, images)
    np.testing.assert_allclose(found.mean, images.mean(0).expand(20, 8), atol=1e-4)
    np.testing.assert_allclose(found.n_effective, 50, rtol=1e-4)


def test_huge_log_likelihoods_do_not_overflow():
    images = 1e3 * cloud(20, 4)
    found = empirical.posterior(images[:5], 1.0, 1e-3, images)
    assert torch.isfinite(found.mean).all() and torch.isfinite(found.n_effective).all()


def test_the_likeliest_images_stand_for_all_within_the_stated_bound(monkeypatch):
    monkeypatch.setattr(empirical, "AT_ONCE", 64)
    images, z = cloud(500, 3), 0.8 * cloud(40, 3, 1) + 0.3 * cloud(40, 3, 2)
    w, mean, _, _ = written_out(z, 0.8, 0.3, images)
    found = empirical.posterior(z, 0.8, 0.3, images, nearest=60)
    missing = 1 - np.sort(w, axis=1)[:, -60:].sum(axis=1)
    assert (missing <= found.omitted.numpy() + 1e-12).all()
    reach = np.abs(images.numpy()).max() * 2
    assert (np.abs(found.mean.numpy() - mean).max(axis=1) <= reach * found.omitted.numpy() + 1e-12).all()


def test_more_noise_lets_more_images_share_the_weight():
    images = cloud(200, 6)
    shared = [
        empirical.posterior((1 - s**2) ** 0.5 * images + s * cloud(200, 6, 4), (1 - s**2) ** 0.5, s, images)
        for s in (0.1, 0.3, 0.6, 0.9)
    ]
    n = [float(found.n_effective.mean()) for found in shared]
    assert n == sorted(n) and n[0] < 1.05 and n[-1] > 50


@pytest.mark.parametrize("sigma", [0.3, 0.6, 0.9])
def test_the_loss_of_any_denoiser_on_its_training_set_is_its_error_plus_the_posteriors(sigma):
    """E ||f - eps||^2 = E ||f - eps*||^2 + alpha^2 / sigma^2 E Var[x_0 | z], over noised training images.

    4,000 draws; the difference of both sides is a mean of zero-mean terms, held to four of its standard errors.
    """
    alpha, images = (1 - sigma**2) ** 0.5, cloud(40, 6)
    rng = np.random.default_rng(5)
    x0, eps = images[rng.integers(0, 40, 4000)], torch.from_numpy(rng.normal(size=(4000, 6)))
    z = alpha * x0 + sigma * eps
    found = empirical.posterior(z, alpha, sigma, images)
    best = empirical.noise_prediction(z, found.mean, alpha, sigma)
    f = best + 0.3 * torch.sin(3 * z)  # any function of z
    left = (f - eps).square().mean(1)
    right = (f - best).square().mean(1) + alpha**2 / sigma**2 * found.variance
    difference = (left - right).numpy()
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(4000)
    assert (f - best).square().mean() > 0.01  # the identity is not empty
