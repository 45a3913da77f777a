"""Denoising losses of one checkpoint on every image set, at fixed cells; the same of the linear reference of a half.

A cell is an image, a noise level and a noise with its negative. Where the twins' predictions are to be compared, those
of every cell are kept until `agreement` has them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from auditor.diffusion import denoising
from auditor.diffusion.gaussian import fit_vectors, linear_denoiser
from auditor.diffusion.model import DiffusionModel
from auditor.inputs.asked import Asked
from auditor.inputs.loaded import Loaded
from auditor.records import LossTable
from auditor.run import RunDirectory, tables
from auditor.run.columns import CELL_TIME, IMAGE, IMAGE_SET, Column
from auditor.run.files import save_array
from auditor.run.places import FilePlace
from auditor.stages import Cost, Stage, Task, chosen, controls, expected_key, keys
from auditor.stages.bench import Bench

IMAGES_AT_ONCE = 32  # images whose cells make one resumable part
ENCODED_AT_ONCE = 64
PREDICTIONS = FilePlace("predictions", ".npy")  # float32 [cells, 2, d], the noise predicted in eps and in -eps

LOSSES = (
    IMAGE_SET,
    IMAGE,
    CELL_TIME,
    Column("loss", "float64", "squared error of the prediction, mean over pixels and an antithetic noise pair"),
    Column("share", "float64", "share of uniform diffusion times that the cell's noise level stands for"),
)


class Losses(Stage):
    """One row per image and noise level."""

    name, word, per = "losses", "losses", "checkpoint"
    places = (FilePlace("losses"),)
    columns = LOSSES
    row_bytes = 12
    transient: ClassVar[tuple[FilePlace, ...]] = (PREDICTIONS,)
    network = True

    def applies(self, asked: Asked) -> bool:
        """Wherever there are images and a model."""
        return asked.with_losses

    def key(self, asked: Asked, of: str, space: str) -> dict[str, Any]:
        """Return what determines the losses of a checkpoint."""
        return keys.network(asked, of)

    def rows(self, asked: Asked, of: str) -> int | None:
        """Return the number of images and noise levels."""
        return sum(chosen.loss_counts(asked).values()) * len(asked.times)

    def cost(self, asked: Asked, of: str, space: str, have: int) -> Cost:
        """Return the calls for all cells; predictions lie on the disk beside the parts they are put together from."""
        parts = [min(IMAGES_AT_ONCE, n - at) for n in chosen.loss_counts(asked).values() for at in part_starts(n)]
        cells = sum(parts) * len(asked.times)
        d = int(np.prod(asked.image_shape))
        return Cost(
            calls=sum(-(-n * len(asked.times) * 2 // asked.batch_size) for n in parts),
            bytes=cells * self.row_bytes,
            parts=cells * (1 + 2 * d) * 8,
            scratch=cells * 2 * d * 4 * asked.compares_predictions,
        )

    def make(self, bench: Bench, task: Task) -> Iterator[int]:
        """Measure the losses of one checkpoint on every set."""
        parts = yield from self.measured(bench, task, bench.network(task.of))
        if bench.asked.compares_predictions:
            key = expected_key(bench.asked, task.item)
            with bench.run.artifact(bench.run.place(PREDICTIONS, task.of), key) as temporary:
                save_array(temporary, np.concatenate([part[..., 1:].astype(np.float32) for part in parts]))
        bench.write(task, loss_columns(bench.loaded, task.twin, parts))

    def measured(self, bench: Bench, task: Task, model: DiffusionModel) -> Generator[int, None, list[np.ndarray]]:
        """Return losses and predictions of every part, ``[n_images, n_levels, 1 + 2 d]``."""
        parts = part_list(bench.asked)

        def compute(rows: range) -> np.ndarray:
            return loss_part(bench.loaded, model, *parts[rows.start])

        return (yield from bench.in_parts(task, range(len(parts)), compute))

    def read(self, run: RunDirectory, twin: str, step: int, space: str) -> dict[str, Any]:
        """Return the losses by role: own, other, heldout, as far as measured."""
        return {"losses": read_losses(run.place(self.places[0], f"{twin}/{step}"))}


class ControlLosses(Losses):
    """The same of a half's linear reference, the exact denoiser of the Gaussian fitted to it."""

    name, word, per = "control_losses", "control-losses", "control"
    transient, network = (), False

    def wanted(self, asked: Asked) -> Iterator[tuple[str, str]]:
        """Yield the reference of either half, where samples can be asked which half they lean on."""
        if asked.scope.with_lean and asked.with_losses:
            yield from ((f"linear-{twin}", "") for twin in asked.scope.twins)

    def key(self, asked: Asked, of: str, space: str) -> dict[str, Any]:
        """Return what determines the losses of a reference."""
        losses = keys.network(asked, f"a/{asked.scope.steps[0]}")
        del losses["checkpoint"]
        return losses | {"denoiser": of, "controls": controls.REVISION}

    def cost(self, asked: Asked, of: str, space: str, have: int) -> Cost:
        """Return what lies on the disk: no network is called."""
        return replace(super().cost(asked, of, space, have), calls=0, scratch=0)

    def make(self, bench: Bench, task: Task) -> Iterator[int]:
        """Measure the losses of one half's linear reference."""
        parts = yield from self.measured(bench, task, linear_reference(bench, task.of[-1]))
        bench.write(task, loss_columns(bench.loaded, task.of[-1], parts))

    def read(self, run: RunDirectory, twin: str, step: int, space: str) -> dict[str, Any]:
        """Return nothing: references are no checkpoints; see `read_reference`."""
        return {}


def linear_reference(bench: Bench, twin: str) -> DiffusionModel:
    """Return the linear reference of one twin, in the coordinates of its network."""
    loaded = bench.loaded
    training = loaded.sets[f"train-{twin}"].images
    if not loaded.facts.autoencoder and loaded.pixels[twin].is_standard:
        return linear_denoiser(controls.gaussian(bench, twin), bench.asked.image_shape, bench.asked.scheduler)
    like = bench.network(f"{twin}/{bench.asked.scope.steps[0]}")
    encoded = [
        like.codec.encode(training[start : start + ENCODED_AT_ONCE], bench.asked.device)
        .permute(0, 2, 3, 1)
        .cpu()
        .numpy()
        for start in range(0, len(training), ENCODED_AT_ONCE)
    ]
    vectors = np.concatenate(encoded).reshape(len(training), -1).astype(np.float64)
    linear = linear_denoiser(fit_vectors(vectors), like.x_shape, bench.asked.scheduler)
    return replace(linear, image_shape=bench.asked.image_shape, codec=like.codec, latent_shape=like.latent_shape)


def part_starts(n: int) -> range:
    """Return the first of the images of each part of ``n``."""
    return range(0, n, IMAGES_AT_ONCE)


def part_list(asked: Asked) -> list[tuple[str, int]]:
    """Return set and first image of each part of the loss cells."""
    return [(name, start) for name, n in chosen.loss_counts(asked).items() for start in part_starts(n)]


def cell_inputs(loaded: Loaded, name: str, start: int, model: DiffusionModel) -> tuple[np.ndarray, list[str], Any]:
    """Return pictures, ids and noise of the images of one part."""
    rows = chosen.measured_rows(loaded, name)[start : start + IMAGES_AT_ONCE]
    h, w, c = model.x_shape
    ids = [loaded.sets[name].ids[i] for i in rows]
    n_levels = len(loaded.asked.times)
    eps = denoising.cell_noise(loaded.asked.config.seed, ids, name, n_levels, (c, h, w))
    return loaded.sets[name].images[rows], ids, eps


def loss_part(loaded: Loaded, model: DiffusionModel, name: str, start: int) -> np.ndarray:
    """Return losses and predicted noise of the images of one part, ``[n_images, n_levels, 1 + 2 d]``."""
    asked = loaded.asked
    pictures, _, eps = cell_inputs(loaded, name, start, model)
    rows = chosen.measured_rows(loaded, name)[start : start + len(pictures)]
    classes = loaded.classes[name][rows] if name in loaded.classes else None
    found = denoising.predict(model, pictures, eps, asked.times, asked.batch_size, asked.device, classes)
    noise_of = found.noise.reshape(*found.losses.shape, -1)
    return np.concatenate([found.losses[..., None], noise_of], axis=2)


def loss_columns(loaded: Loaded, twin: str, parts: list[np.ndarray]) -> dict[str, Any]:
    """Return the columns of the loss table: sets named by their role for this twin."""
    times, roles = loaded.asked.times, loaded.roles(twin)
    losses = [np.asarray(part[..., 0], float) for part in parts]
    columns: dict[str, Any] = {"set": [], "id": [], "t": [], "loss": np.concatenate([x.ravel() for x in losses])}
    for (name, start), part in zip(part_list(loaded.asked), losses, strict=True):
        rows = chosen.measured_rows(loaded, name)[start : start + len(part)]
        columns["set"] += [roles[name]] * part.size
        columns["id"] += [loaded.sets[name].ids[i] for i in rows for _ in times]
        columns["t"] += times.tolist() * len(part)
    return columns | {"share": np.tile(loaded.asked.level_shares, len(columns["t"]) // len(times))}


def read_losses(path: Path) -> dict[str, LossTable]:
    """Return the losses of one checkpoint by role: own, other, heldout, as far as measured."""
    if not path.exists():
        return {}
    data = tables.arrays(path)
    found = {}
    for rows, role in tables.runs_of(data["set"]):
        times = np.unique(data["t"][rows])
        values = data["loss"][rows].reshape(-1, len(times))
        shares = data["share"][rows][: len(times)] if "share" in data else np.ones(1)  # earlier runs have no column
        unequal = shares if np.ptp(shares) > 0 else None
        found[role] = LossTable(data["id"].values[rows][:: len(times)], times, values, unequal)
    return found


def read_reference(run: RunDirectory, twin: str) -> dict[str, LossTable]:
    """Return the losses of a half's linear reference by role."""
    return read_losses(run.place(Losses.places[0], f"linear-{twin}"))


STAGE, CONTROL = Losses(), ControlLosses()
