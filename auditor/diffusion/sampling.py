"""Samples of a diffusion model from shared noise, stepped by a diffusers scheduler."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from auditor.diffusion import noise, schedules
from auditor.diffusion.model import DiffusionModel
from auditor.errors import AuditError, CheckpointError

REVISION = 1
WITHOUT_NOISE = "ddim"  # the sampler of U-turns and trajectories: where they end depends on one noise alone

STOCHASTIC = ("ddpm", "published")
PUBLISHED = {"clip_sample": False, "thresholding": False, "timestep_spacing": "leading", "steps_offset": 0}

# name -> (diffusers scheduler class, settings that override the checkpoint's own, default number of steps)
SAMPLERS: dict[str, tuple[str, dict[str, Any], int | None]] = {
    "ddim": ("DDIMScheduler", {}, 50),
    "ddpm": ("DDPMScheduler", {}, None),  # None: every training step
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}, 20),
    # Steps between adjacent times only; clipping and spacing of the checkpoint's own sampler have no place in it.
    "published": ("DDPMScheduler", PUBLISHED, None),
}


def resolve_steps(sampler: str, asked: int | None, scheduler: Mapping[str, Any]) -> int:
    """Return the number of sampling steps: as asked, or the sampler's default.

    Raises
    ------
    AuditError
        If the sampler is unknown, or the number cannot be spread evenly over the
        training schedule (DDIM with linspace or trailing spacing then steps to
        inconsistent times), or exceeds it.
    """
    if sampler not in SAMPLERS:
        raise AuditError(f"There is no sampler {sampler!r}.", "--sampler", f"Choose from: {', '.join(SAMPLERS)}.")
    train_steps = schedules.n_times(scheduler)
    steps = asked or min(SAMPLERS[sampler][2] or train_steps, train_steps)
    if steps > train_steps:
        raise AuditError(
            f"{steps} sampling steps were asked for, the schedule has {train_steps}.",
            "--sampling-steps",
            f"Give at most {train_steps}.",
        )
    if sampler == "published" and steps != train_steps:
        what = f"The published sampler takes all {train_steps} steps, {steps} were asked for."
        raise AuditError(what, "--sampling-steps", "Leave it out.")
    spacing = schedules.as_diffusers(scheduler).get("timestep_spacing", "leading")
    if sampler == "ddim" and spacing != "leading" and train_steps % steps:
        raise AuditError(
            f"DDIM with {spacing} spacing needs a number of steps that divides {train_steps}; {steps} does not.",
            "--sampling-steps",
            "Give for instance 50.",
        )
    return steps


def make_scheduler(sampler: str, steps: int, scheduler: Mapping[str, Any]) -> Any:
    """Return a fresh diffusers scheduler for one batch, from the checkpoint's own configuration.

    Schedulers keep a history, so each batch gets a new one.
    """
    import diffusers

    class_name, overrides, _ = SAMPLERS[sampler]
    of_class = getattr(diffusers, class_name)
    config = {**schedules.as_diffusers(scheduler), **overrides}
    if steps == schedules.n_times(scheduler):
        config["steps_offset"] = 0  # all times are visited: none is left to move on to
    if sampler == "published" and config["prediction_type"] != "sample":
        of_class = published_class(of_class)
    stepper = of_class.from_config(config)
    stepper.set_timesteps(steps)
    return stepper


def published_class(ancestral: type) -> type:
    """Return the reverse chain of arXiv 2603.03469 for images: variance beta_t, and no noise in the last two steps.

    Its chain for sequences, whose networks predict x_0, has the posterior variance, as DDPM has by default.
    """

    class Published(ancestral):
        def _get_variance(self, t: Any, predicted_variance: Any = None, variance_type: str | None = None) -> Any:
            before = self.previous_timestep(t)
            kept = self.alphas_cumprod[t] / (self.alphas_cumprod[before] if before >= 0 else self.one)
            return (1 - kept) if t > 1 else 0 * kept

    return Published


@dataclass(frozen=True)
class Conditions:
    """What samples are drawn under: the condition numbers in turn, seed after seed, and the guidance scale."""

    numbers: tuple[int, ...]
    guidance: float = 1.0

    def of(self, seeds: Sequence[int]) -> np.ndarray:
        """Return the condition of each seed, int64 ``[n]``: a function of the seed alone, so twins share it."""
        return np.array([self.numbers[seed % len(self.numbers)] for seed in seeds], dtype=np.int64)


def sample_batch(
    model: DiffusionModel,
    seeds: Sequence[int],
    sampler: str,
    steps: int,
    device: str = "cpu",
    conditions: Conditions | None = None,
) -> np.ndarray:
    """Return one sample per seed, uint8 ``[len(seeds), h, w, c]``: `draw_batch`, decoded.

    Row i depends on ``seeds[i]`` and the weights; on the other rows and their number
    only by float rounding of the network's arithmetic.
    """
    return model.codec.decode(draw_batch(model, seeds, sampler, steps, device, conditions))


def draw_batch(
    model: DiffusionModel,
    seeds: Sequence[int],
    sampler: str,
    steps: int,
    device: str = "cpu",
    conditions: Conditions | None = None,
) -> Any:
    """Return one sample per seed in the network's own units, float32 ``[len(seeds), c, h, w]``."""
    import torch

    h, w, c = model.x_shape
    streams = noise.generators(seeds)
    stepper = make_scheduler(sampler, steps, model.scheduler)
    # eta = 0 makes DDIM deterministic; a stochastic step draws from each seed's own stream.
    step_options = {"generator": streams} if sampler in STOCHASTIC else {}
    network = model.given(conditions.of(seeds), conditions.guidance) if conditions else model.network
    with torch.inference_mode():
        x = noise.draw(streams, (c, h, w), device) * stepper.init_noise_sigma
        for t in stepper.timesteps:
            times = torch.full((len(seeds),), int(t), device=device, dtype=torch.int64)
            output = network(stepper.scale_model_input(x, t), times)
            x = stepper.step(output, t, x, **step_options).prev_sample
        if not torch.isfinite(x).all():
            raise CheckpointError(
                "the network returns values that are not finite", f"seeds {seeds[0]} to {seeds[-1]}", "Leave it out."
            )
        return x


def descending_times(scheduler: Mapping[str, Any]) -> np.ndarray:
    """Return the times of the sampler without noise, in its usual number of steps, int64, descending."""
    return np.array(_times_of(json.dumps(dict(scheduler), sort_keys=True)), dtype=np.int64)


@cache
def _times_of(scheduler: str) -> tuple[int, ...]:
    """Return the same of a schedule as JSON; a plan asks once per checkpoint, and making a scheduler takes 5 ms."""
    known = json.loads(scheduler)
    steps = resolve_steps(WITHOUT_NOISE, None, known)
    return tuple(int(t) for t in make_scheduler(WITHOUT_NOISE, steps, known).timesteps)
