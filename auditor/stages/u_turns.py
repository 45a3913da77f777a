"""U-turns: images are noised to a time and denoised again, and what comes back is held against them.

A network that knows an image finds the way back to it from more noise than one that does not.
Between twins, from the same noise, on images of either half, that is a membership test by
samples (arXiv 2603.03469, Fig. 5; on-shell return rate of arXiv 2510.01378).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from auditor.diffusion import sampling, schedules
from auditor.diffusion.model import DiffusionModel
from auditor.errors import CheckpointError

REVISION = 1
SAMPLER = "ddim"  # without noise: what comes back depends on the image and one noise alone
SHARES = (0.1, 0.2, 0.4, 0.6)  # of the process, at which images turn


def turning_times(scheduler: Mapping[str, Any]) -> np.ndarray:
    """Return the times at which images turn, int64, ascending: the sampler's own that are nearest to the shares."""
    path = descending_times(scheduler)
    nearest = [path[np.abs(path - share * schedules.n_times(scheduler)).argmin()] for share in SHARES]
    return np.unique(nearest)


def descending_times(scheduler: Mapping[str, Any]) -> np.ndarray:
    """Return the times of the sampler, int64, descending."""
    steps = sampling.resolve_steps(SAMPLER, None, scheduler)
    return np.asarray(sampling.make_scheduler(SAMPLER, steps, scheduler).timesteps, dtype=np.int64)


def n_calls(n_images: int, scheduler: Mapping[str, Any], batch_size: int) -> int:
    """Return how many network calls the U-turns of some images take."""
    times = turning_times(scheduler)
    return sum(-(-n_images * int((times >= t).sum()) // batch_size) for t in descending_times(scheduler))


def come_back(
    model: DiffusionModel,
    images: np.ndarray,
    eps: Any,
    batch_size: int,
    device: str = "cpu",
    numbers: np.ndarray | None = None,
) -> np.ndarray:
    """Return what comes back from every turning time, uint8 ``[n_images, n_times, h, w, c]``.

    Parameters
    ----------
    images
        uint8 ``[n, h, w, c]``.
    eps
        The noise of each turn, float32 ``[n, n_times, *latent shape]``: twins get the same.
    batch_size
        Rows per network call, at most; the turns from late times are joined by those from earlier ones on the way.
    numbers
        The images' conditions; None means none. No guidance is applied.

    Raises
    ------
    CheckpointError
        If what comes back is not finite.
    """
    import torch

    times, numbers = turning_times(model.scheduler), np.full(len(images), -1) if numbers is None else numbers
    start, numbers = np.tile(times, len(images)), np.repeat(numbers, len(times))
    stepper = sampling.make_scheduler(SAMPLER, len(descending_times(model.scheduler)), model.scheduler)
    with torch.inference_mode():
        x0 = model.codec.encode(images, device).repeat_interleave(len(times), 0)
        x = noised(model.scheduler, x0, eps.flatten(0, 1).to(device), start)
        for t in stepper.timesteps:
            under_way = np.flatnonzero(start >= int(t))
            for at in range(0, len(under_way), batch_size):
                rows = under_way[at : at + batch_size]
                now = torch.full((len(rows),), int(t), device=device, dtype=torch.int64)
                output = model.given(numbers[rows])(stepper.scale_model_input(x[rows], t), now)
                x[rows] = stepper.step(output, t, x[rows]).prev_sample
        if not torch.isfinite(x).all():
            raise CheckpointError("a U-turn does not come back finite", "u-turns", "Leave it out.")
        return model.codec.decode(x).reshape(len(images), len(times), *images.shape[1:])


def noised(scheduler: Mapping[str, Any], x0: Any, eps: Any, times: np.ndarray) -> Any:
    """Return x_t = alpha_t x_0 + sigma_t eps, a time per row."""
    import torch

    abar = schedules.forward_process(scheduler).alphas_cumprod[torch.from_numpy(times)].view(-1, 1, 1, 1).to(x0.device)
    return abar.sqrt() * x0 + (1 - abar).sqrt() * eps


def distances(images: np.ndarray, returned: np.ndarray) -> np.ndarray:
    """Return the mean squared difference of images and what came back, float64 ``[n, n_times]``, pixels in [0, 1]."""
    difference = returned.astype(np.float64) - images[:, None]
    return np.square(difference / 255).reshape(*returned.shape[:2], -1).mean(axis=2)
