"""Denoising losses at fixed (image, t, eps) cells, shared by all checkpoints and both twins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from auditor.diffusion import noise, schedules
from auditor.diffusion.model import DiffusionModel
from auditor.errors import CheckpointError
from auditor.seeds import derived_seed

if TYPE_CHECKING:
    import torch
    from diffusers import DDPMScheduler

REVISION = 1


def time_levels(n_levels: int, train_steps: int) -> np.ndarray:
    """Return the diffusion times of the cells, int64 ``[n_levels]``, ascending.

    The midpoints of ``n_levels`` equal strata of 1 ... T-1: a midpoint rule for the mean
    over uniform t, without the Monte Carlo noise of random times.
    """
    edges = np.linspace(1, train_steps, n_levels + 1)
    return np.floor((edges[:-1] + edges[1:]) / 2).astype(np.int64)


def snr_levels(n_levels: int, log_snr: np.ndarray) -> np.ndarray:
    """Return the diffusion times at the midpoints of equal strata of the log-SNR of 1 ... T-1, int64, ascending.

    Where two midpoints are nearest to one time, there is one level less.
    """
    inner = log_snr[1:]
    edges = np.linspace(inner[0], inner[-1], n_levels + 1)
    middle = (edges[:-1] + edges[1:]) / 2
    return np.unique(np.abs(inner[:, None] - middle).argmin(axis=0) + 1).astype(np.int64)


def shares_of(times: np.ndarray, log_snr: np.ndarray) -> np.ndarray:
    """Return the share of the times 1 ... T-1 whose log-SNR is nearest to that of each level, float64 ``[n_levels]``.

    With these weights the levels' mean is one over uniform t, as training has it.
    """
    nearest = np.abs(log_snr[1:, None] - log_snr[times]).argmin(axis=1)
    return np.bincount(nearest, minlength=len(times)) / len(nearest)


def cell_noise(
    run_seed: int, image_ids: Sequence[str], set_name: str, levels: int, shape: tuple[int, ...]
) -> torch.Tensor:
    """Return eps, float32 ``[n_images, levels, *shape]``: a function of run seed, set and image id alone."""
    streams = noise.generators([derived_seed("cell", run_seed, set_name, i) for i in image_ids])
    return noise.draw(streams, (levels, *shape))


def target_and_input(
    scheduler: DDPMScheduler, x0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the checkpoint's own regression target and the noised input x_t.

    epsilon: eps; sample: x_0; v_prediction: sqrt(abar_t) eps - sqrt(1 - abar_t) x_0.
    """
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        target = eps
    elif kind == "sample":
        target = x0
    else:
        target = scheduler.get_velocity(x0, eps, t)
    return target, scheduler.add_noise(x0, eps, t)


@dataclass(frozen=True)
class Predictions:
    """What one network says at the cells of some images."""

    losses: np.ndarray  # float64 [n_images, n_levels], mean over the antithetic pair
    noise: np.ndarray  # float32 [n_images, n_levels, 2, d], the noise that each output amounts to; of eps and of -eps


def predict(
    model: DiffusionModel,
    images: np.ndarray,
    eps: torch.Tensor,
    times: np.ndarray,
    batch_size: int,
    device: str = "cpu",
    numbers: np.ndarray | None = None,
) -> Predictions:
    """Return what a network predicts at cells, and its denoising losses; a smaller loss is a better denoiser.

    A loss is the squared error of the checkpoint's own target (``schedules.target_weights``),
    averaged over pixels and over the antithetic pair (eps, -eps), unweighted. All calls have
    exactly ``batch_size`` rows. ``numbers`` are the images' conditions; None means none.
    """
    import torch

    forward = schedules.forward_process(model.scheduler)
    weights = schedules.target_weights(model.scheduler)[times]
    with torch.inference_mode():
        x0 = model.codec.encode(images, device).cpu()
    numbers = np.full(len(images), -1) if numbers is None else numbers
    cells = [(i, level, sign) for i in range(len(images)) for level in range(len(times)) for sign in (1.0, -1.0)]
    squared, noise_of = np.empty(len(cells)), np.empty((len(cells), x0[0].numel()), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(cells), batch_size):
            chunk = cells[start : start + batch_size]
            padded = chunk + [chunk[-1]] * (batch_size - len(chunk))
            i, level = (torch.tensor([cell[axis] for cell in padded]) for axis in (0, 1))
            sign = torch.tensor([cell[2] for cell in padded]).view(-1, 1, 1, 1)
            t = torch.from_numpy(times)[level].to(device)
            target, x_t = target_and_input(forward, x0[i].to(device), (sign * eps[i, level]).to(device), t)
            network = model.given(numbers[i.numpy()])
            output = network(x_t, t)
            error = (output - target).double().square().flatten(1).mean(1)
            squared[start : start + len(chunk)] = error[: len(chunk)].cpu().numpy()
            said = as_noise(forward, output, x_t, t).flatten(1)
            noise_of[start : start + len(chunk)] = said[: len(chunk)].float().cpu().numpy()
    if not np.isfinite(squared).all():
        raise CheckpointError("the network's loss is not finite", "denoising loss", "Leave it out.")
    shape = (len(images), len(times), 2)
    return Predictions(squared.reshape(shape).mean(2) * weights, noise_of.reshape(*shape, -1))


def as_noise(scheduler: DDPMScheduler, output: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Return the noise that an output amounts to: eps with x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps."""
    abar = scheduler.alphas_cumprod.to(x_t.device)[t].view(-1, 1, 1, 1).double()
    signal, sigma = abar.sqrt(), (1 - abar).sqrt()
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return output
    if kind == "sample":
        return (x_t - signal * output) / sigma
    return signal * output + sigma * x_t


def noised(
    model: DiffusionModel, images: np.ndarray, eps: torch.Tensor, times: np.ndarray, device: str = "cpu"
) -> torch.Tensor:
    """Return x_t of the cells, float64 tensor ``[n_images, n_levels, 2, d]``, eps first and -eps second."""
    import torch

    abar = schedules.forward_process(model.scheduler).alphas_cumprod.double()[torch.from_numpy(times)]
    with torch.inference_mode():
        x0 = model.codec.encode(images, device).cpu().double().flatten(1)
    both = torch.stack([eps, -eps], dim=2).double().flatten(3)
    return abar.sqrt()[None, :, None, None] * x0[:, None, None] + (1 - abar).sqrt()[None, :, None, None] * both
