"""Predictions where samples come from: along the networks' own trajectories, and on samples that are noised again.

Training supervises a network near noised training images only. Whether it memorizes beyond,
where sampling leads it, shows on its own trajectories; finished samples that are noised again
lie where noised images would, and tell location from the kind of noise (arXiv 2510.01378).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from auditor.diffusion import denoising, noise, sampling, schedules
from auditor.diffusion.model import DiffusionModel
from auditor.errors import CheckpointError
from auditor.stages import u_turns

REVISION = 1


@dataclass(frozen=True)
class Trajectories:
    """States of one network's sampling at some times, and where they end."""

    states: Any  # float32 tensor [n, n_times, c, h, w]
    samples: np.ndarray  # uint8 [n, h, w, c]


def state_times(levels: np.ndarray, scheduler: Mapping[str, Any]) -> np.ndarray:
    """Return the times of the states, int64, ascending: the sampler's own that are nearest to the losses' times."""
    path = u_turns.descending_times(scheduler)
    return np.unique([path[np.abs(path - t).argmin()] for t in levels])


def n_calls(n_seeds: int, levels: np.ndarray, scheduler: Mapping[str, Any], batch_size: int) -> int:
    """Return how many network calls the states of both twins take, with both networks' answers at them."""
    batches = -(-n_seeds // batch_size)
    asked = -(-n_seeds * len(state_times(levels, scheduler)) // batch_size)
    again = -(-n_seeds * len(levels) * 2 // batch_size)
    return 2 * (batches * len(u_turns.descending_times(scheduler)) + 2 * asked + 2 * again)


def follow(
    model: DiffusionModel,
    seeds: Sequence[int],
    times: np.ndarray,
    batch_size: int,
    device: str = "cpu",
    conditions: sampling.Conditions | None = None,
) -> Trajectories:
    """Sample from the noise of these seeds by DDIM; keep the states at ``times``, ascending.

    Raises
    ------
    CheckpointError
        If a state is not finite.
    """
    import torch

    h, w, c = model.x_shape
    states, samples = [], []
    steps = sampling.resolve_steps(u_turns.SAMPLER, None, model.scheduler)
    for start in range(0, len(seeds), batch_size):
        rows = list(seeds[start : start + batch_size])
        stepper = sampling.make_scheduler(u_turns.SAMPLER, steps, model.scheduler)
        network = model.given(conditions.of(rows), conditions.guidance) if conditions else model.network
        with torch.inference_mode():
            x, seen = noise.draw(noise.generators(rows), (c, h, w), device) * stepper.init_noise_sigma, {}
            for t in stepper.timesteps:
                seen[int(t)] = x
                at = torch.full((len(rows),), int(t), device=device, dtype=torch.int64)
                x = stepper.step(network(stepper.scale_model_input(x, t), at), t, x).prev_sample
            kept = torch.stack([seen[int(t)] for t in times], dim=1).cpu()
            if not (torch.isfinite(kept).all() and torch.isfinite(x).all()):
                raise CheckpointError("a trajectory is not finite", f"seeds {rows[0]} to {rows[-1]}", "Leave it out.")
            states.append(kept)
            samples.append(model.codec.decode(x))
    return Trajectories(torch.cat(states), np.concatenate(samples))


def answers(
    model: DiffusionModel, states: Any, times: np.ndarray, batch_size: int, device: str, numbers: np.ndarray
) -> np.ndarray:
    """Return the noise that a network sees in states, float32 ``[n, n_times, 1, d]``; ``numbers`` are conditions."""
    import torch

    forward = schedules.forward_process(model.scheduler)
    flat, at = states.flatten(0, 1), np.tile(times, len(states))
    numbers = np.repeat(numbers, len(times))
    said = []
    with torch.inference_mode():
        for start in range(0, len(flat), batch_size):
            rows = np.arange(start, min(start + batch_size, len(flat)))
            x, t = flat[rows].to(device), torch.from_numpy(at[rows]).to(device)
            output = model.given(numbers[rows])(x, t)
            said.append(denoising.as_noise(forward, output, x, t).flatten(1).float().cpu())
    return torch.cat(said).numpy().reshape(len(states), len(times), 1, -1)
