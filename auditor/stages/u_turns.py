"""U-turns: images are noised to a time and denoised again, and what comes back is held against them.

A network that knows an image finds the way back to it from more noise than one that does not.
Between twins, from the same noise, on images of either half, that is a membership test by
samples (arXiv 2603.03469, Fig. 5; on-shell return rate of arXiv 2510.01378).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from auditor import neighbors, spaces
from auditor.diffusion import denoising, noise, sampling, schedules
from auditor.diffusion.model import DiffusionModel
from auditor.errors import CheckpointError
from auditor.inputs.asked import Asked
from auditor.records import Features, UTurns
from auditor.run import RunDirectory, tables
from auditor.run.columns import IMAGE, IMAGE_SET, TIME, Column
from auditor.run.places import FilePlace
from auditor.spaces.pixel import PixelSpace
from auditor.stages import Cost, Item, Stage, Task, chosen, features, keys
from auditor.stages.bench import Bench

REVISION = 1
SEARCHED_AT_ONCE = 8192  # images that what comes back is searched among, a block at a time
SHARES = (0.1, 0.2, 0.4, 0.6)  # of the process, at which images turn

U_TURNS = (
    IMAGE_SET,
    IMAGE,
    Column("t", "int64", "diffusion time at which the image turns", TIME),
    Column("distance", "float64", "mean squared difference of the image and what came back, pixels in [0, 1]"),
    Column("returned", "bool", "no other training or held-out image is nearer to what came back"),
)


def turning_times(scheduler: Mapping[str, Any]) -> np.ndarray:
    """Return the times at which images turn, int64, ascending: the sampler's own that are nearest to the shares."""
    path = sampling.descending_times(scheduler)
    nearest = [path[np.abs(path - share * schedules.n_times(scheduler)).argmin()] for share in SHARES]
    return np.unique(nearest)


def n_calls(n_images: int, scheduler: Mapping[str, Any], batch_size: int) -> int:
    """Return how many network calls the U-turns of some images take."""
    times = turning_times(scheduler)
    return sum(-(-n_images * int((times >= t).sum()) // batch_size) for t in sampling.descending_times(scheduler))


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
    stepper = sampling.make_scheduler(
        sampling.WITHOUT_NOISE, len(sampling.descending_times(model.scheduler)), model.scheduler
    )
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
    values: np.ndarray = np.square(difference / 255).reshape(*returned.shape[:2], -1).mean(axis=2)
    return values


class UTurnStage(Stage):
    """One row per image and time: what comes back when it is noised and denoised again."""

    name, word, per = "u_turns", "u-turns", "checkpoint"
    places = (FilePlace("u-turns"),)
    columns = U_TURNS
    row_bytes = 16
    network = True

    def applies(self, asked: Asked) -> bool:
        """Wherever it is asked for and there is a model."""
        return asked.with_losses and asked.config.u_turns > 0

    def needs(self, asked: Asked, of: str, space: str) -> Iterator[Item]:
        """Yield the features of the sets in pixels, where there are any; else they are embedded here."""
        if PixelSpace.name in features.set_spaces(asked):
            yield from (Item("features", name, PixelSpace.name) for name in asked.sets_asked_about)

    def key(self, asked: Asked, of: str, space: str) -> dict[str, Any]:
        """Return what determines the U-turns of one checkpoint."""
        losses = keys.network(asked, of)
        kept = {name: losses[name] for name in losses if name not in ("times", "images")}
        searched = {name: keys.image_set(asked, name) for name in asked.sets_asked_about}
        own = {"stage": "u-turns", "revision": [noise.REVISION, REVISION], "searched": searched}
        return kept | own | {"images": asked.config.u_turns}

    def rows(self, asked: Asked, of: str) -> int | None:
        """Return the number of images and times."""
        return sum(chosen.image_counts(asked, asked.config.u_turns).values()) * len(turning_times(asked.scheduler))

    def cost(self, asked: Asked, of: str, space: str, have: int) -> Cost:
        """Return the calls for all images, a batch at a time."""
        n, batch = sum(chosen.image_counts(asked, asked.config.u_turns).values()), asked.batch_size
        return Cost(
            calls=sum(n_calls(min(batch, n - at), asked.scheduler, batch) for at in range(0, n, batch)),
            bytes=(self.rows(asked, of) or 0) * self.row_bytes,
        )

    def make(self, bench: Bench, task: Task) -> Iterator[int]:
        """Noise images of every set and denoise them again by one checkpoint; a batch is a resumable part."""
        asked, loaded = bench.asked, bench.loaded
        images = chosen.each_of(loaded, chosen.image_counts(asked, asked.config.u_turns))
        times, (h, w, c) = turning_times(asked.scheduler), bench.network(task.of).x_shape

        def compute(rows: range) -> np.ndarray:
            some = images[rows.start : rows.stop]
            pictures = chosen.pictures_of(loaded, some)
            names = [f"{name}/{loaded.sets[name].ids[i]}" for name, i in some]
            eps = denoising.cell_noise(asked.config.seed, names, "u-turn", len(times), (c, h, w))
            back = come_back(
                bench.network(task.of),
                pictures,
                eps,
                asked.batch_size,
                device=asked.device,
                numbers=chosen.classes_of(loaded, some),
            )
            return np.stack([distances(pictures, back), is_nearest(bench, pictures, back)], axis=2)

        parts = yield from bench.in_parts(task, range(0, len(images), asked.batch_size), compute)
        found, roles = np.concatenate(parts), loaded.roles(task.twin)
        bench.write(
            task,
            {
                "set": [roles[name] for name, _ in images for _ in times],
                "id": [each for each in chosen.ids_of(loaded, images) for _ in times],
                "t": times.tolist() * len(images),
                "distance": found[..., 0].ravel(),
                "returned": found[..., 1].ravel() > 0,
            },
        )

    def read(self, run: RunDirectory, twin: str, step: int, space: str) -> dict[str, Any]:
        """Return the U-turns by role: own, other, heldout."""
        path = run.place(self.places[0], f"{twin}/{step}")
        if not path.exists():
            return {"u_turns": {}}
        data, found = tables.arrays(path), {}
        for rows, role in tables.runs_of(data["set"]):
            times = np.unique(data["t"][rows])
            distance, returned = (data[name][rows].reshape(-1, len(times)) for name in ("distance", "returned"))
            found[role] = UTurns(data["id"].values[rows][:: len(times)], times, distance, returned.astype(bool))
        return {"u_turns": found}


def is_nearest(bench: Bench, images: np.ndarray, returned: np.ndarray) -> np.ndarray:
    """Return whether no image of any set is nearer to what came back than its source, bool ``[n, n_times]``."""
    space, n_times = spaces.open_space(PixelSpace.name, spaces.SpaceSettings()), returned.shape[1]
    vectors = spaces.embed(space, returned.reshape(-1, *images.shape[1:]))
    mine = Features(space.name, "u-turns", vectors, tuple(map(str, range(len(vectors)))))
    source = neighbors.paired_distance(vectors, np.repeat(spaces.embed(space, images), n_times, axis=0))
    nearest = np.full(len(vectors), np.inf)
    known = space.name in features.set_spaces(bench.asked)
    for name in bench.asked.sets_asked_about:
        each = bench.loaded.sets[name]
        embedded = bench.array(Item("features", name, space.name)) if known else None
        for start in range(0, len(each), SEARCHED_AT_ONCE):
            rows = slice(start, start + SEARCHED_AT_ONCE)
            block = spaces.embed(space, np.asarray(each.images[rows])) if embedded is None else embedded[rows]
            found = neighbors.search(mine, Features(space.name, name, block, each.ids[rows]), 1)
            nearest = np.minimum(nearest, found.distances[:, 0])
    near = source <= nearest * (1 + np.finfo(np.float32).eps)  # a duplicate of the source is the source
    return near.reshape(len(images), n_times)


STAGE = UTurnStage()
