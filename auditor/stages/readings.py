"""What a network's output is nearest to: the noise, the image, or their velocity (docs/statistics.md 1.5).

Nothing in a file of weights says what a network predicts. One that is taken for another kind draws garbage and has huge
losses, like one that was hardly trained. One more question tells them apart: its output at noised held-out images,
compared with each of the three targets. Few images suffice, for the errors differ by factors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from auditor.diffusion import denoising, noise, schedules
from auditor.diffusion.model import DiffusionModel
from auditor.inputs.asked import Asked
from auditor.run import RunDirectory, tables
from auditor.run.columns import CELL_TIME, IMAGE, Column
from auditor.run.places import FilePlace
from auditor.stages import Cost, Stage, Task, chosen, keys
from auditor.stages.bench import Bench

REVISION = 1
IMAGES = 32  # held-out images
LEVELS = 4  # noise levels

READINGS = (
    IMAGE,
    CELL_TIME,
    Column("prediction", "category", "what the output is taken for: epsilon, sample or v_prediction"),
    Column("given", "bool", "whether the run takes it for that"),
    Column("error", "float64", "squared difference of output and target, mean over pixels"),
    Column("power", "float64", "square of the target, mean over pixels: the error of an output of zeros"),
)


def errors(
    model: DiffusionModel, x0: Any, eps: Any, times: np.ndarray, device: str, numbers: np.ndarray | None
) -> np.ndarray:
    """Return error and power by kind of prediction, float64 ``[n, 3, 2]``.

    Parameters
    ----------
    x0, eps
        Float32 tensors ``[n, c, h, w]``, images in the model's coordinates and the noise that is added.
    times
        int64 ``[n]``.
    numbers
        Conditions of the rows, int64 ``[n]``; None where the model has none.
    """
    import torch

    forward = schedules.forward_process(model.scheduler)
    with torch.inference_mode():
        t = torch.from_numpy(times).to(device)
        x0, eps = x0.to(device), eps.to(device)
        output = model.given(numbers)(forward.add_noise(x0, eps, t), t).double()
        targets = {"epsilon": eps, "sample": x0, "v_prediction": forward.get_velocity(x0, eps, t)}
        found = [
            torch.stack([(output - target).square().flatten(1).mean(1), target.square().flatten(1).mean(1)], dim=1)
            for target in (targets[kind].double() for kind in schedules.DISCRETE)
        ]
    values: np.ndarray = torch.stack(found, dim=1).cpu().numpy()
    return values


class Readings(Stage):
    """One row per held-out image, noise level and kind of prediction."""

    name, word, per = "readings", "readings", "checkpoint"
    places = (FilePlace("readings"),)
    columns = READINGS
    network = True
    row_bytes = 12

    def applies(self, asked: Asked) -> bool:
        """Wherever there is a linear reference to fall short of, and the given kind is one of three."""
        known = asked.whole and asked.with_losses and asked.scope.with_lean and asked.scope.with_heldout
        return known and asked.scheduler["prediction_type"] in schedules.DISCRETE

    def key(self, asked: Asked, of: str, space: str) -> dict[str, Any]:
        """Return what determines the errors."""
        return {
            "stage": "readings",
            "revision": [noise.REVISION, denoising.REVISION, REVISION],
            "checkpoint": asked.checkpoints[of],
            "scheduler": dict(asked.scheduler),
            "heldout": keys.asked_images(asked, "heldout"),
            "seed": asked.config.seed,
            **keys.of_classes(asked),
            **keys.of_scaling(asked, of.split("/")[0]),
            **keys.machine(asked),
        }

    def rows(self, asked: Asked, of: str) -> int | None:
        """Return the number of images, noise levels and kinds."""
        return few_images(asked) * len(reading_times(asked)) * len(schedules.DISCRETE)

    def cost(self, asked: Asked, of: str, space: str, have: int) -> Cost:
        """Return the calls, which are few: every cell is asked once."""
        cells = few_images(asked) * len(reading_times(asked))
        return Cost(calls=-(-cells // asked.batch_size), bytes=cells * len(schedules.DISCRETE) * self.row_bytes)

    def make(self, bench: Bench, task: Task) -> Iterator[int]:
        """Ask one checkpoint about noised held-out images; a batch of them is a resumable part."""
        import torch

        asked, loaded, model = bench.asked, bench.loaded, bench.network(task.of)
        images, times = chosen.each_of(loaded, {"heldout": few_images(asked)}), reading_times(asked)
        ids, classes = chosen.ids_of(loaded, images), chosen.classes_of(loaded, images)
        h, w, c = model.x_shape
        eps = denoising.cell_noise(asked.config.seed, ids, "readings", len(times), (c, h, w)).flatten(0, 1)
        with torch.inference_mode():
            x0 = model.codec.encode(chosen.pictures_of(loaded, images), asked.device).cpu()
        n = len(images) * len(times)

        def compute(rows: range) -> np.ndarray:
            at = np.minimum(np.arange(rows.start, rows.start + asked.batch_size), n - 1)  # the last row fills the batch
            image, level = at // len(times), at % len(times)
            numbers = np.full(len(at), -1) if classes is None else classes[image]
            return errors(model, x0[image], eps[at], times[level], asked.device, numbers)

        parts = yield from bench.in_parts(task, range(0, n, asked.batch_size), compute)
        found, kinds = np.concatenate(parts)[:n].reshape(-1, 2), list(schedules.DISCRETE)
        bench.write(
            task,
            {
                "id": np.repeat(ids, len(times) * len(kinds)).tolist(),
                "t": np.tile(np.repeat(times, len(kinds)), len(images)),
                "prediction": kinds * n,
                "given": [kind == asked.scheduler["prediction_type"] for kind in kinds] * n,
                "error": found[:, 0],
                "power": found[:, 1],
            },
        )

    def read(self, run: RunDirectory, twin: str, step: int, space: str) -> dict[str, Any]:
        """Return error and power of every cell by kind, and the kind that was given."""
        path = run.place(self.places[0], f"{twin}/{step}")
        if not path.exists():
            return {}
        data = tables.arrays(path)
        kinds = data["prediction"].values
        return {
            "error": {kind: data["error"][kinds == kind] for kind in schedules.DISCRETE},
            "power": {kind: data["power"][kinds == kind] for kind in schedules.DISCRETE},
            "given": str(kinds[data["given"]][0]),
        }


def few_images(asked: Asked) -> int:
    """Return how many held-out images are asked about."""
    return chosen.image_counts(asked, IMAGES)["heldout"]


def reading_times(asked: Asked) -> np.ndarray:
    """Return the diffusion times of the cells, int64, ascending."""
    return np.unique(denoising.time_levels(LEVELS, schedules.n_times(asked.scheduler)))


STAGE = Readings()
