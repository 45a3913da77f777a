"""The held-out loss as the published protocol measures it (measuring/published.py says what else belongs to it)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from auditor.diffusion import denoising, noise, schedules
from auditor.diffusion.model import DiffusionModel
from auditor.inputs.asked import Asked
from auditor.run.columns import CELL_TIME, Column
from auditor.run.places import FilePlace
from auditor.stages import Cost, Stage, Task, keys
from auditor.stages.bench import Bench

REVISION = 1
LOSS_IMAGES = 50
SUBSET_SEED = 1
TIMES_AT_ONCE = 20  # one resumable part of the losses
NOT_ASKED = ("images", "times", "seed", "sets", "classes")  # of the losses' key: what this protocol settles itself

PUBLISHED_LOSSES = (
    Column("id", "category", "held-out image"),
    CELL_TIME,
    Column("loss", "float64", "squared error of the prediction for one noise, mean over pixels"),
)


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
    values: np.ndarray = found.reshape(len(times), n) * weights[:, None]
    return values


class PublishedLosses(Stage):
    """One row per held-out image and time."""

    name, word, per = "published_losses", "published-losses", "checkpoint"
    alone = True
    row_bytes = 10
    places = (FilePlace("losses", part=".published"),)
    columns = PUBLISHED_LOSSES
    network = True

    def applies(self, asked: Asked) -> bool:
        """Wherever this protocol is asked for and there are images to measure it on."""
        return asked.config.protocol == "paper" and asked.scope.with_heldout and asked.with_model

    def key(self, asked: Asked, of: str, space: str) -> dict[str, Any]:
        """Return what determines the losses of one checkpoint by this protocol."""
        losses = keys.network(asked, of)
        kept = {name: losses[name] for name in losses if name not in NOT_ASKED}
        classes = {"classes": losses["classes"]["heldout"]} if "classes" in losses else {}
        own = {"stage": "published losses", "revision": [denoising.REVISION, REVISION]}
        return kept | own | classes | {"images": keys.asked_images(asked, "heldout")}

    def rows(self, asked: Asked, of: str) -> int | None:
        """Return the number of images and times."""
        return min(LOSS_IMAGES, asked.sets["heldout"].originals) * schedules.n_times(asked.scheduler)

    def cost(self, asked: Asked, of: str, space: str, have: int) -> Cost:
        """Return the calls for all times."""
        n, n_times = asked.sets["heldout"].originals, schedules.n_times(asked.scheduler)
        return Cost(
            calls=n_calls(n, n_times, asked.batch_size),
            bytes=(self.rows(asked, of) or 0) * self.row_bytes,
        )

    def make(self, bench: Bench, task: Task) -> Iterator[int]:
        """Measure the held-out loss of one checkpoint; some times are a resumable part."""
        asked, heldout = bench.asked, bench.loaded.sets["heldout"]
        n_times = schedules.n_times(asked.scheduler)
        rows_of = loss_images(asked.sets["heldout"].originals)
        pictures = heldout.images[rows_of]
        classes = bench.loaded.classes["heldout"][rows_of] if "heldout" in bench.loaded.classes else None

        def compute(rows: range) -> np.ndarray:
            times = np.arange(rows.start, min(rows.stop, n_times))
            return losses(bench.network(task.of), pictures, times, asked.batch_size, asked.device, classes)

        found = yield from bench.in_parts(task, range(0, n_times, TIMES_AT_ONCE), compute)
        bench.write(
            task,
            {
                "id": [heldout.ids[i] for _ in range(n_times) for i in rows_of],
                "t": np.repeat(np.arange(n_times), len(rows_of)),
                "loss": np.concatenate(found).ravel(),
            },
        )


STAGE = PublishedLosses()
