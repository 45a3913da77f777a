"""What a plan will cost: time from a short trial on this machine, disk, memory."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auditor import spaces
from auditor.config import N_NEIGHBORS
from auditor.diffusion import sampling
from auditor.inputs.loaded import Loaded
from auditor.neighbors import search
from auditor.registry import SPACE_GROUPS, TOLD_TOGETHER
from auditor.run import RunDirectory
from auditor.run.machine import peak_memory
from auditor.stages import Task
from auditor.stages.bench import Bench
from auditor.stages.features import EMBEDDED_AT_ONCE
from auditor.stages.halves import MEAN_OVER

QUICK = 0.5  # seconds: a trial call that is faster is repeated at the run's batch size
TRIAL_IMAGES = 8
TRIAL_SECONDS, TRIAL_STEPS = 2.0, 5
TRIAL_COMPARED, TRIAL_QUERIES = 500, 64
FAST = 10_000  # images per second: more is told as this
SHARE_OF_TABLES = 0.1  # of the time: tables and tests, measured on the demo


@dataclass(frozen=True)
class Forecast:
    """Expected cost of what is still to be made."""

    seconds_per_call: float  # of a network, at the run's batch size; NaN without a model or nothing to do
    seconds_per_image: dict[str, float]  # of embedding, by space
    seconds_compared: dict[str, float]  # of finding the nearest images, by space
    seconds: float
    disk: int  # bytes
    disk_free: int
    memory: int  # bytes

    @property
    def sentences(self) -> list[str]:
        """What a reader wants to know."""
        embedding = ", ".join(f"{name} {rate(each)} images/s" for name, each in self.seconds_per_image.items())
        call = "" if math.isnan(self.seconds_per_call) else f"{self.seconds_per_call:.2g} s per network call; "
        room = "" if self.disk < self.disk_free else " MORE THAN THERE IS"
        return [
            f"expected time {duration(self.seconds)} (trial on this machine: {call}{embedding or 'no embedding'})",
            *self.comparing,
            f"disk {size(self.disk)} of {size(self.disk_free)} free{room}, memory about {size(self.memory)}",
        ]

    @property
    def comparing(self) -> list[str]:
        """What finding the nearest images costs, group by group of spaces."""
        by_group: dict[str, float] = {}
        for name, seconds in self.seconds_compared.items():
            group = next((group for group in TOLD_TOGETHER if name in SPACE_GROUPS[group]), name)
            by_group[group] = by_group.get(group, 0) + seconds
        told = ", ".join(f"{group} {duration(seconds)}" for group, seconds in by_group.items())
        return [f"of it to find the nearest images: {told}"] if told else []


def forecast(loaded: Loaded, run: RunDirectory, tasks: Sequence[Task]) -> Forecast:
    """Return the expected cost of a plan, after timing a few network calls and embeddings."""
    calls = sum(task.calls for task in tasks)
    per_call = seconds_per_call(loaded, run, tasks) if calls else math.nan
    rows = {name: 0 for name in loaded.asked.config.space_names}
    for task in tasks:
        if task.space:
            rows[task.space] += task.cost.embedded
    per_image = {name: seconds_per_image(loaded, name) for name, n in rows.items() if n}
    compared = seconds_compared(loaded, tasks)
    work = (calls * per_call if calls else 0) + sum(rows[name] * each for name, each in per_image.items())
    folder = next(each for each in (run.root.absolute(), *run.root.absolute().parents) if each.is_dir())
    return Forecast(
        seconds_per_call=per_call,
        seconds_per_image=per_image,
        seconds_compared=compared,
        seconds=work / (1 - SHARE_OF_TABLES) + sum(compared.values()),
        disk=disk(tasks),
        disk_free=shutil.disk_usage(folder).free,
        memory=memory(loaded),
    )


def seconds_per_call(loaded: Loaded, run: RunDirectory, tasks: Sequence[Task]) -> float:
    """Return the time of one network call at the run's batch size, the larger of batches scaled up."""
    asked = loaded.asked
    of = next(task.of for task in tasks if task.calls and "/" in task.of)
    model = Bench(loaded, run).network(of)

    def timed(n: int, steps: int) -> float:
        seeds = [asked.config.seed + i for i in range(n)]
        started = time.perf_counter()
        sampling.sample_batch(model, seeds, asked.config.sampler, steps, asked.device, loaded.conditions)
        return (time.perf_counter() - started) / steps

    few = min(asked.batch_size, TRIAL_IMAGES)
    timed(few, 1)  # the first call is slower than those to come
    first = timed(few, 1)
    if first > QUICK:
        return first * asked.batch_size / few
    end, found = time.perf_counter() + TRIAL_SECONDS, [timed(asked.batch_size, TRIAL_STEPS)]
    while time.perf_counter() < end:
        found.append(timed(asked.batch_size, TRIAL_STEPS))
    return float(np.median(found))


def seconds_per_image(loaded: Loaded, name: str) -> float:
    """Return the time to embed one image."""
    shape, space = loaded.asked.image_shape, loaded.spaces[name]
    noise = np.random.default_rng(0).integers(0, 256, (EMBEDDED_AT_ONCE, *shape), dtype=np.uint8)
    spaces.embed(space, noise[:2], 2)
    few = noise[:TRIAL_IMAGES]
    started = time.perf_counter()
    spaces.embed(space, few, EMBEDDED_AT_ONCE)
    first = (time.perf_counter() - started) / len(few)
    if first * EMBEDDED_AT_ONCE > QUICK:
        return first
    started = time.perf_counter()
    spaces.embed(space, noise, EMBEDDED_AT_ONCE)
    return (time.perf_counter() - started) / len(noise)


def seconds_compared(loaded: Loaded, tasks: Sequence[Task]) -> dict[str, float]:
    """Return by space the time to find the nearest images of what is to be made, after a trial among real ones."""
    pairs: dict[str, int] = {}
    for task in tasks:
        if task.cost.compared:
            pairs[task.space] = pairs.get(task.space, 0) + task.cost.compared
    images = max(loaded.sets.values(), key=len, default=None)
    if images is None:
        return {}
    few = np.asarray(images.images[:TRIAL_COMPARED])
    return {name: n * seconds_per_pair(loaded.spaces[name], few) for name, n in pairs.items()}


def seconds_per_pair(space: spaces.Space, few: np.ndarray) -> float:
    """Return the time of one query among these images, per image; what is prepared once is done before."""
    known = spaces.features(space, "trial", spaces.embed(space, few), tuple(map(str, range(len(few)))), few)
    asked = known.rows(np.arange(min(TRIAL_QUERIES, len(few))))
    search(asked.rows(np.arange(1)), known, N_NEIGHBORS)
    started = time.perf_counter()
    search(asked, known, MEAN_OVER)
    return (time.perf_counter() - started) / (len(asked.ids) * len(few))


def disk(tasks: Sequence[Task]) -> int:
    """Return about how many bytes will be on the disk at most: what stays, and what is dropped within a step."""
    scratch: dict[str, int] = {}
    most = 0
    for task in tasks:
        step = task.of.split("/")[-1]
        scratch[step] = scratch.get(step, 0) + task.cost.scratch
        most = max(most, scratch[step] + task.cost.parts)
    return sum(task.cost.bytes for task in tasks) + most


def memory(loaded: Loaded) -> int:
    """Return about how many bytes the run will hold: what this process held at most, and the features of one space."""
    here = peak_memory() or 0
    images = sum(map(len, loaded.sets.values())) + 2 * loaded.asked.n_samples
    return here + images * max(each.dim for each in loaded.asked.spaces.values()) * 4


def rate(seconds_per_image: float) -> str:
    """Return images per second as text."""
    return f"over {FAST:,}" if seconds_per_image * FAST < 1 else f"{1 / seconds_per_image:,.0f}"


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(n: int) -> str:
    """Return bytes as people say them."""
    return f"{n / 2**20:,.0f} MiB" if n < 2**30 else f"{n / 2**30:,.1f} GiB"
