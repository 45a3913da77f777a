"""Controls that every run carries: a model that only smooths its half, and one that only copies it.

The smooth reference is that of diffusion/gaussian.py; the copier must be found to copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from auditor.diffusion.gaussian import Gaussian, fit, sample
from auditor.diffusion.noise import draw, generators
from auditor.inputs.asked import Asked
from auditor.records import ImageSet
from auditor.run.places import FilePlace
from auditor.scope import Scope, control_names
from auditor.seeds import derived_seed
from auditor.stages import Cost, Stage, Task, keys
from auditor.stages.bench import Bench

REVISION = 1
DRAWN_AT_ONCE = 64
N_SMOOTH = 4000  # images of the smooth reference per half
N_SMOOTH_AMONG_MANY = 2000  # of these, where distances alone are found: in ten spaces, at a cost that tells
N_COPIES = 512  # images of the copier per half
COPY_NOISE = 2.0  # standard deviation of the copier's noise, gray levels of 255


def smooth_images(gaussian: Gaussian, rows: range, shape: tuple[int, int, int], run_seed: int) -> np.ndarray:
    """Return images of the smooth reference, uint8 ``[len(rows), h, w, c]``.

    Row i of both halves comes from the same noise, as the samples of twins do.
    """
    h, w, c = shape
    eps = draw(generators([derived_seed("smooth", run_seed, i) for i in rows]), (h, w, c)).numpy().astype(float)
    x = sample(gaussian, eps.reshape(len(rows), -1))
    return np.clip(np.round((x + 1) * 127.5), 0, 255).astype(np.uint8).reshape(len(rows), h, w, c)


def copied_images(training: ImageSet, rows: range, run_seed: int) -> np.ndarray:
    """Return training images with slight noise, uint8 ``[len(rows), h, w, c]``: what a copier would draw."""
    copies = np.empty((len(rows), *training.images.shape[1:]), dtype=np.uint8)
    for at, row in enumerate(rows):
        rng = np.random.default_rng(derived_seed("copier", training.name, run_seed, row))
        original = training.images[rng.integers(len(training))]
        copies[at] = np.clip(np.round(original + rng.normal(0, COPY_NOISE, original.shape)), 0, 255)
    return copies


def gaussian(bench: Bench, twin: str) -> Gaussian:
    """Return the Gaussian of one half, fitted once."""
    return bench.once("gaussian", twin, make=lambda: fit(bench.loaded.sets[f"train-{twin}"].images))


def n_images(name: str) -> int:
    """Return how many images a control has."""
    return N_SMOOTH if name.startswith("smooth") else N_COPIES


def n_compared(name: str, distances_alone: bool) -> int:
    """Return how many images of a control are compared with others in a space."""
    return min(n_images(name), N_SMOOTH_AMONG_MANY) if distances_alone else n_images(name)


def with_images(scope: Scope) -> list[str]:
    """Return the controls that have images of their own: ``smooth-a``, ``copier-b``, ..."""
    return [f"{name}-{twin}" for name in control_names(scope) if name != "heldout" for twin in scope.twins]


class Controls(Stage):
    """The images of a control, uint8 ``[n, h, w, c]``."""

    name, word, per = "controls", "control", "control"
    places = (FilePlace("controls", ".npy"),)

    def wanted(self, asked: Asked) -> Iterator[tuple[str, str]]:
        """Yield every control that has images of its own."""
        yield from ((name, "") for name in with_images(asked.scope))

    def key(self, asked: Asked, of: str, space: str) -> dict[str, Any]:
        """Return what determines the images."""
        training = keys.image_set(asked, f"train-{of[-1]}")
        return {"stage": "control", "revision": REVISION, "name": of, "of": training, "seed": asked.config.seed}

    def rows(self, asked: Asked, of: str) -> int | None:
        """Return how many images there are to be."""
        return n_images(of)

    def cost(self, asked: Asked, of: str, space: str, have: int) -> Cost:
        """Return the bytes of the images."""
        return Cost(bytes=n_images(of) * math.prod(asked.image_shape))

    def make(self, bench: Bench, task: Task) -> Iterator[int]:
        """Draw the images from one training half."""
        seed, training = bench.asked.config.seed, bench.loaded.sets[f"train-{task.of[-1]}"]

        def compute(rows: range) -> np.ndarray:
            if task.of.startswith("copier"):
                return copied_images(training, rows, seed)
            return smooth_images(gaussian(bench, task.of[-1]), rows, bench.asked.image_shape, seed)

        for _ in bench.grow(task, DRAWN_AT_ONCE, compute):
            yield 0


STAGE = Controls()
