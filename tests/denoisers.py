"""Networks whose predictions are known: exact denoisers of few images or of a population; and a U-Net."""

import numpy as np
import torch
from conftest import tiny_unet

from auditor.diffusion import empirical, schedules
from auditor.diffusion.gaussian import fit_vectors, linear_denoiser
from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.schedules import DDPM

TIMES = np.array([100, 300, 600])
ABAR = np.asarray(schedules.forward_process(DDPM).alphas_cumprod.double())[TIMES]
SHAPE = (4, 4, 1)


def pictures(n: int, seed: int) -> np.ndarray:
    """Smooth random pictures, uint8 [n, 4, 4, 1]: images of one population."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(16, 5))
    return np.clip(128 + 25 * rng.normal(size=(n, 5)) @ mixing.T, 0, 255).astype(np.uint8).reshape(n, *SHAPE)


def flat(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.reshape(len(images), -1) / 127.5 - 1)


def memorizer(images: np.ndarray) -> DiffusionModel:
    """The empirical denoiser of these images as a network that predicts noise."""
    known = flat(images)

    def network(x, t):
        out = torch.empty_like(x)
        for i, each in enumerate(t.tolist()):
            abar = float(schedules.forward_process(DDPM).alphas_cumprod[each])
            signal, sigma = abar**0.5, (1 - abar) ** 0.5
            z = x[i].double().flatten()[None]
            mean = empirical.posterior(z, signal, sigma, known).mean
            out[i] = empirical.noise_prediction(z, mean, signal, sigma).reshape(x[i].shape).to(x)
        return out

    return DiffusionModel(network, dict(DDPM), SHAPE, 0)


def population() -> DiffusionModel:
    """The exact denoiser of a Gaussian population: it knows no image."""
    return linear_denoiser(fit_vectors(flat(pictures(3000, 1000)).numpy()), SHAPE, DDPM)


A, B, HELDOUT = pictures(60, 1), pictures(60, 2), pictures(60, 3)


def unet_model(unet=None, **schedule) -> DiffusionModel:
    unet = unet or tiny_unet(1)

    def network(x, t):
        return unet(x, t, return_dict=False)[0]

    return DiffusionModel(network, {**DDPM, **schedule}, (8, 8, 1), 0)
