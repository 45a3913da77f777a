"""Predictions where samples come from: along the networks' own trajectories, and on samples that are noised again.

Training supervises a network near noised training images only. Whether it memorizes beyond,
where sampling leads it, shows on its own trajectories; finished samples that are noised again
lie where noised images would, and tell location from the kind of noise (arXiv 2510.01378).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from auditor.diffusion import denoising, noise, sampling, schedules
from auditor.diffusion.model import DiffusionModel
from auditor.errors import CheckpointError
from auditor.inputs.asked import Asked
from auditor.run import RunDirectory
from auditor.run.places import FilePlace
from auditor.stages import Cost, Stage, Task, agreement
from auditor.stages.bench import Bench

REVISION = 1


@dataclass(frozen=True)
class Trajectories:
    """States of one network's sampling at some times, and where they end."""

    states: Any  # float32 tensor [n, n_times, c, h, w]
    samples: np.ndarray  # uint8 [n, h, w, c]


def state_times(levels: np.ndarray, scheduler: Mapping[str, Any]) -> np.ndarray:
    """Return the times of the states, int64, ascending: the sampler's own that are nearest to the losses' times."""
    path = sampling.descending_times(scheduler)
    return np.unique([path[np.abs(path - t).argmin()] for t in levels])


def n_calls(n_seeds: int, levels: np.ndarray, scheduler: Mapping[str, Any], batch_size: int) -> int:
    """Return how many network calls the states of both twins take, with both networks' answers at them."""
    batches = -(-n_seeds // batch_size)
    asked = -(-n_seeds * len(state_times(levels, scheduler)) // batch_size)
    again = -(-n_seeds * len(levels) * 2 // batch_size)
    return 2 * (batches * len(sampling.descending_times(scheduler)) + 2 * asked + 2 * again)


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
    steps = sampling.resolve_steps(sampling.WITHOUT_NOISE, None, model.scheduler)
    for start in range(0, len(seeds), batch_size):
        rows = list(seeds[start : start + batch_size])
        stepper = sampling.make_scheduler(sampling.WITHOUT_NOISE, steps, model.scheduler)
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
    values: np.ndarray = torch.cat(said).numpy().reshape(len(states), len(times), 1, -1)
    return values


class TrajectoryStage(Stage):
    """One row per seed and time: how predictions compare along trajectories and on samples noised again."""

    name, word, per = "trajectories", "trajectories", "step"
    places = (FilePlace("trajectories", by_step=True),)
    columns = agreement.AGREEMENT
    row_bytes = agreement.AgreementStage.row_bytes

    def applies(self, asked: Asked) -> bool:
        """Wherever it is asked for, predictions can be compared, and what memorizing says is known."""
        return asked.compares_predictions and asked.scope.with_train and asked.config.trajectories > 0

    def key(self, asked: Asked, of: str, space: str) -> dict[str, Any]:
        """Return what determines how the twins' predictions compare where samples come from."""
        return {
            "stage": "trajectories",
            "revision": [noise.REVISION, agreement.REVISION, REVISION],
            "losses": agreement.losses_of_both(asked, of),
            "seeds": [asked.config.seed, asked.config.trajectories],
            **asked.conditions,
        }

    def cost(self, asked: Asked, of: str, space: str, have: int) -> Cost:
        """Return the calls of both networks."""
        n = asked.config.trajectories
        rows = 2 * n * (len(state_times(asked.times, asked.scheduler)) + len(asked.times))
        return Cost(calls=n_calls(n, asked.times, asked.scheduler, asked.batch_size), bytes=rows * self.row_bytes)

    def make(self, bench: Bench, task: Task) -> Iterator[int]:
        """Compare both networks' predictions along the trajectories of both, and on their samples noised again."""
        asked, twins, drawn_as = bench.asked, bench.asked.scope.twins, bench.loaded.conditions
        seeds = [asked.config.seed + i for i in range(asked.config.trajectories)]
        numbers = drawn_as.of(seeds) if drawn_as else np.full(len(seeds), -1)
        times = state_times(asked.times, asked.scheduler)
        abar = np.asarray(schedules.forward_process(asked.scheduler).alphas_cumprod.double())
        followed = {
            twin: follow(
                bench.network(f"{twin}/{task.step}"),
                seeds,
                times,
                asked.batch_size,
                device=asked.device,
                conditions=drawn_as,
            )
            for twin in twins
        }
        model = bench.network(f"{twins[-1]}/{task.step}")
        h, w, c = model.x_shape
        eps = denoising.cell_noise(asked.config.seed, list(map(str, seeds)), "samples", len(asked.times), (c, h, w))
        on_the_way, again = {}, {}
        for twin in reversed(twins):  # the last one is loaded
            network, how = bench.network(f"{twin}/{task.step}"), (asked.batch_size, asked.device, numbers)
            for of, each in followed.items():
                on_the_way[of, twin] = answers(network, each.states, times, *how)
                again[of, twin] = denoising.predict(network, each.samples, eps, asked.times, *how).noise
        columns: dict[str, Any] = {name: [] for name in ("set", "id", "t", *agreement.COLUMNS)}
        ids = list(map(str, seeds))
        for twin, each in followed.items():
            halves = {twin: agreement.seen(bench, f"train-{twin}", model)}
            states = each.states.flatten(2).double()[:, :, None]
            x_t = denoising.noised(model, each.samples, eps, asked.times, asked.device)
            for name, said, noise_of, z, at in (
                ("trajectory", on_the_way, None, states, times),
                ("samples", again, eps.flatten(2).double().numpy(), x_t, asked.times),
            ):
                predictions = {other: said[twin, other] for other in twins}
                found = agreement.cell_columns(predictions, noise_of, z, halves, abar[at])
                agreement.add_rows(columns, f"{name}-{twin}", ids, at.tolist(), found)
        bench.write(task, agreement.as_columns(columns))
        yield task.calls

    def read(self, run: RunDirectory, twin: str, step: int, space: str) -> dict[str, Any]:
        """Return how one model's predictions compare on its own trajectories and samples."""
        return {"agreement": agreement.read_agreement(run.place(self.places[0], f"a/{step}"), twin)}


STAGE = TrajectoryStage()
