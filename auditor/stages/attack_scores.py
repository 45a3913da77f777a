"""Membership attacks that ask a network about an image itself: SimA, PIA, SecMI. Smaller scores are more member-like.

All are statistics of the noise f(x, t) that the network's output amounts to at input x and time
t, with x_t = alpha_t x_0 + sigma_t eps; means are over the d values of x. No noise is drawn.

- SimA (arXiv 2509.25003): mean |f(x_0, t)|^4, the image itself, not noised nor scaled. One call per
  image and time.
- PIA (arXiv 2305.18355): mean |e - f(alpha_t x_0 + sigma_t e, t)|^4 with e = f(x_0, 0). One call per
  image and time, and one at t = 0.
- SecMI (arXiv 2302.01316, its statistic without a second network): the t-error
  mean (psi(phi(x_t)) - x_t)^2, where phi is the deterministic DDIM step from t to t + k, psi the one
  back, and x_t is reached from x_0 by such steps. phi's next call is psi's, too, so that n errors
  take n calls and the one at t = 0, which is PIA's.

The published scores are sums or norms in place of means, hence of the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from auditor.diffusion import schedules
from auditor.diffusion.denoising import as_noise
from auditor.diffusion.model import DiffusionModel
from auditor.errors import CheckpointError

REVISION = 1
POWER = 4  # of the norms of SimA and PIA, as published
ERRORS = 11  # t-errors of SecMI: at 0, 1, ..., 10 hundredths of the process, as published for 1,000 times
ENCODED_AT_ONCE = 32
WORTHWHILE = 400  # held-out images of a quick audit: with fewer no attack can be judged at a false-positive rate of 1 %

Times = Mapping[str, np.ndarray]  # attack -> int64 [n], the times that it scores, ascending


def attack_times(levels: np.ndarray, train_steps: int, with_steps: bool = True) -> dict[str, np.ndarray]:
    """Return the times at which each attack scores an image.

    SimA and PIA: the lower half of the losses' times, where their authors found members to stand
    out; at all of them the attacks on a single training would cost more than its losses. SecMI: see
    ``ERRORS``, fewer in a short process; none without ``with_steps``, for its calls, one after the
    other, are more than all others of few images.
    """
    low = levels[: -(-len(levels) // 2)]
    stepped = {"SecMI": inversion_times(train_steps)[:-1]} if with_steps else {}
    return {"SimA": low, "PIA": low, **stepped}


def inversion_times(train_steps: int) -> np.ndarray:
    """Return the times of SecMI's steps, int64, ascending from 0: one more than it has t-errors."""
    times = max(1, train_steps // 100) * np.arange(ERRORS + 1)
    return times[times < train_steps]


def columns(times: Times) -> list[tuple[str, int]]:
    """Return attack and time of each column of scores."""
    return [(name, int(t)) for name, each in times.items() for t in each]


def n_calls(n_images: int, times: Times, batch_size: int) -> int:
    """Return how many network calls the scores of some images take: at t = 0, of SimA and PIA, of SecMI."""
    batches = -(-n_images // batch_size)
    return batches * (1 + len(times.get("SecMI", ()))) - (
        -n_images * (len(times["SimA"]) + len(times["PIA"])) // batch_size
    )


def scores(
    model: DiffusionModel,
    images: np.ndarray,
    times: Times,
    batch_size: int,
    device: str = "cpu",
    numbers: np.ndarray | None = None,
) -> np.ndarray:
    """Return every attack's score of each image, float64 ``[n_images, n_columns]``, 0 or more; smaller is a member's.

    Parameters
    ----------
    images
        uint8 ``[n, h, w, c]``, as for the losses (``denoising.predict``): so are codec, scaling and
        ``numbers``, the conditions. All calls have exactly ``batch_size`` rows.

    Raises
    ------
    CheckpointError
        If a score is not finite.
    """
    import torch

    with torch.inference_mode():
        parts = [images[i : i + ENCODED_AT_ONCE] for i in range(0, len(images), ENCODED_AT_ONCE)]
        x0 = torch.cat([model.codec.encode(part, device).cpu().double() for part in parts])
        ask = questions(model, batch_size, device, np.full(len(images), -1) if numbers is None else numbers)
        everyone = np.arange(len(images))
        first = ask(x0, everyone, np.zeros(len(images), dtype=np.int64))
        found = image_scores(ask, model, x0, first, times, batch_size)
        if "SecMI" in times:
            found = np.hstack([found, step_errors(ask, model, x0, first)])
    if not np.isfinite(found).all():
        raise CheckpointError("a membership score is not finite", "membership attacks", "Leave it out.")
    return found


Ask = Callable[[Any, np.ndarray, np.ndarray], Any]  # x [m, c, h, w], images [m], times [m] -> noise of x's shape


def questions(model: DiffusionModel, batch_size: int, device: str, numbers: np.ndarray) -> Ask:
    """Return a function that asks a network for noise, float64 on the CPU, in calls of ``batch_size`` rows."""
    import torch

    forward = schedules.forward_process(model.scheduler)

    def ask(x: Any, images: np.ndarray, times: np.ndarray) -> Any:
        said = []
        for start in range(0, len(x), batch_size):
            rows = np.minimum(np.arange(start, start + batch_size), len(x) - 1)  # the last row fills the batch
            inputs, t = x[rows].float().to(device), torch.from_numpy(times[rows]).to(device)
            output = model.given(numbers[images[rows]])(inputs, t)
            said.append(as_noise(forward, output, inputs, t)[: len(x) - start].double().cpu())
        return torch.cat(said)

    return ask


def image_scores(ask: Ask, model: DiffusionModel, x0: Any, first: Any, times: Times, batch_size: int) -> np.ndarray:
    """Return the scores of SimA and PIA, float64 ``[n_images, n_columns]``; ``first`` is f(x_0, 0)."""
    cells = [(i, name, int(t)) for i in range(len(x0)) for name in ("SimA", "PIA") for t in times[name]]
    found = []
    for start in range(0, len(cells), batch_size):
        i, t = (np.array([cell[axis] for cell in cells[start : start + batch_size]]) for axis in (0, 2))
        proximal = across(np.array([cell[1] == "PIA" for cell in cells[start : start + batch_size]], dtype=float))
        signal, sigma = map(across, levels(model, t))
        noised = signal * x0[i] + sigma * first[i]
        said = ask(proximal * noised + (1 - proximal) * x0[i], i, t)
        found.append((said - proximal * first[i]).abs().pow(POWER).flatten(1).mean(1).numpy())
    return np.concatenate(found).reshape(len(x0), -1)


def step_errors(ask: Ask, model: DiffusionModel, x0: Any, first: Any) -> np.ndarray:
    """Return SecMI's t-errors, float64 ``[n_images, n_times]``, at all times of the inversion but the last."""
    times = inversion_times(schedules.n_times(model.scheduler))
    everyone, signal, sigma = np.arange(len(x0)), *levels(model, times)

    def step(x: Any, said: Any, start: int, end: int) -> Any:
        return signal[end] * (x - sigma[start] * said) / signal[start] + sigma[end] * said

    x, said, found = x0, first, []
    for j in range(len(times) - 1):
        onwards = step(x, said, j, j + 1)
        said = ask(onwards, everyone, np.full(len(x0), times[j + 1]))
        found.append((step(onwards, said, j + 1, j) - x).square().flatten(1).mean(1).numpy())
        x = onwards
    return np.stack(found, axis=1)


def levels(model: DiffusionModel, times: np.ndarray) -> tuple[Any, Any]:
    """Return alpha_t and sigma_t, float64 tensors ``[n]``."""
    import torch

    abar = schedules.forward_process(model.scheduler).alphas_cumprod.double()[torch.from_numpy(times)]
    return abar.sqrt(), (1 - abar).sqrt()


def across(values: Any) -> Any:
    """Return one number per row as something to multiply ``[n, c, h, w]`` by."""
    import torch

    return torch.as_tensor(values).view(-1, 1, 1, 1)
