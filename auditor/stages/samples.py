"""Samples of one checkpoint, from noise that both twins share; or samples that exist already."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from auditor.diffusion import noise, sampling
from auditor.inputs.asked import Asked
from auditor.run import places
from auditor.stages import Cost, Stage, Task, keys
from auditor.stages.bench import Bench


class Samples(Stage):
    """uint8 ``[n, h, w, c]``; row i has the run's first seed + i."""

    name, word, per = "samples", "samples", "checkpoint"
    alone = True
    places = (places.SAMPLES,)
    network = True

    def applies(self, asked: Asked) -> bool:
        """Not to a quick audit."""
        return asked.scope.with_samples

    def key(self, asked: Asked, of: str, space: str) -> dict[str, Any]:
        """Return what determines the samples of one checkpoint; how many there are does not."""
        if not asked.with_model:
            return {
                "stage": "given samples",
                "checkpoint": asked.checkpoints[of],
                "first_seed": asked.config.seed,
            }
        return {
            "stage": "samples",
            "revision": [noise.REVISION, sampling.REVISION],
            "checkpoint": asked.checkpoints[of],
            "scheduler": dict(asked.scheduler),
            "sampler": asked.config.sampler,
            "sampling_steps": asked.sampling_steps,
            "first_seed": asked.config.seed,
            **asked.conditions,
            **keys.of_scaling(asked, of.split("/")[0]),
            **keys.machine(asked),
        }

    def rows(self, asked: Asked, of: str) -> int | None:
        """Return how many samples there are to be."""
        return asked.n_samples

    def cost(self, asked: Asked, of: str, space: str, have: int) -> Cost:
        """Return the calls for the batches that are not there."""
        whole = have // asked.batch_size * asked.batch_size
        batches = -(-(asked.n_samples - whole) // asked.batch_size)
        return Cost(
            calls=batches * asked.sampling_steps if asked.with_model else 0,
            bytes=(asked.n_samples - have) * math.prod(asked.image_shape),
        )

    def make(self, bench: Bench, task: Task) -> Iterator[int]:
        """Sample one checkpoint from the shared noise."""
        asked, given = bench.asked, bench.loaded.given

        def compute(rows: range) -> np.ndarray:
            if given is not None:
                return np.asarray(given.sets[task.twin, task.step].images[rows.start : rows.stop])
            return sampling.sample_batch(
                bench.network(task.of),
                [asked.config.seed + i for i in rows],
                asked.config.sampler,
                asked.sampling_steps,
                device=asked.device,
                conditions=bench.loaded.conditions,
            )

        for _ in bench.grow(task, asked.batch_size, compute):
            yield asked.sampling_steps  # network calls: none where samples were given


STAGE = Samples()
