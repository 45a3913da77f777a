"""The held-out loss as the published protocol measures it (measuring/published.py says what else belongs to it)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from auditor.config import AuditConfig
from auditor.diffusion import denoising, noise, schedules
from auditor.diffusion.model import DiffusionModel

REVISION = 1
LOSS_IMAGES = 50
SUBSET_SEED = 1
TIMES_AT_ONCE = 20  # one resumable part of the losses


def measures_losses(config: AuditConfig, sets: Iterable[str]) -> bool:
    """Tell whether the published loss is asked for and there are images to measure it on."""
    return config.protocol == "paper" and "heldout" in sets


def loss_images(n_heldout: int) -> np.ndarray:
    """Return which held-out images the loss is measured on, int64 ``[min(50, n)]``."""
    import torch

    order = torch.randperm(n_heldout, generator=torch.Generator().manual_seed(SUBSET_SEED))
    return np.sort(order[:LOSS_IMAGES].numpy())


def n_calls(n_heldout: int, n_times: int, batch_size: int) -> int:
    """Return how many network calls the loss of one checkpoint takes."""
    parts = [min(TIMES_AT_ONCE, n_times - start) for start in range(0, n_times, TIMES_AT_ONCE)]
    return sum(-(-part * min(LOSS_IMAGES, n_heldout) // batch_size) for part in parts)


def losses(
    model: DiffusionModel,
    images: np.ndarray,
    times: np.ndarray,
    batch_size: int,
    device: str = "cpu",
    numbers: np.ndarray | None = None,
) -> np.ndarray:
    """Return the squared error of the checkpoint's own target, mean over pixels, float64 ``[n_times, n_images]``.

    The noise of a time comes from a generator seeded with it. All calls have ``batch_size`` rows.
    """
    import torch

    forward, n = schedules.forward_process(model.scheduler), len(images)
    weights = schedules.target_weights(model.scheduler)[times]
    h, w, c = model.x_shape
    with torch.inference_mode():
        x0 = model.codec.encode(images, device)
        eps = torch.cat([torch.randn((n, c, h, w), generator=g) for g in noise.generators(times.tolist())])
        found = np.empty(len(eps))
        for start in range(0, len(eps), batch_size):
            rows = torch.arange(start, start + batch_size).clamp(max=len(eps) - 1)
            image, t = rows % n, torch.from_numpy(times)[rows // n].to(device)
            target, x_t = denoising.target_and_input(forward, x0[image.to(device)], eps[rows].to(device), t)
            given = np.full(batch_size, -1) if numbers is None else numbers[image.numpy()]
            error = (model.given(given)(x_t, t) - target).double().square().flatten(1).mean(1)
            found[start : start + batch_size] = error[: len(eps) - start].cpu().numpy()
    return found.reshape(len(times), n) * weights[:, None]
