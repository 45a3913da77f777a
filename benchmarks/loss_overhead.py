"""What the losses of 1,000 images at 32 noise levels cost beyond the network calls they must make, as a ratio.

    python benchmarks/loss_overhead.py

The stage is ``denoising.predict`` with the noise of its cells, as an audit calls it. The bare
calls are as many calls of the same network on batches of the same shape. Both run in turns,
a part of the images each, so that other work on the machine meets both. The ratio must be at
most 1.10.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from sampling_overhead import LIMIT, models

from auditor.diffusion import denoising, schedules
from auditor.stages.losses import IMAGES_AT_ONCE as LOSS_IMAGES_AT_ONCE


def seconds(model, images: np.ndarray, levels: int, batch: int) -> tuple[float, float]:
    """Return the time of the stage and of the bare calls, over all images."""
    times = denoising.time_levels(levels, schedules.n_times(model.scheduler))
    x = torch.randn(batch, images.shape[3], *images.shape[1:3])
    t = torch.zeros(batch, dtype=torch.long)
    network = model.given(np.full(batch, -1))
    with torch.inference_mode():
        network(x, t)
    stage = bare = 0.0
    for start in range(0, len(images), LOSS_IMAGES_AT_ONCE):
        part = images[start : start + LOSS_IMAGES_AT_ONCE]
        started = time.perf_counter()
        ids = [str(i) for i in range(start, start + len(part))]
        eps = denoising.cell_noise(0, ids, "heldout", levels, x.shape[1:])
        denoising.predict(model, part, eps, times, batch)
        stage += time.perf_counter() - started
        started = time.perf_counter()
        with torch.inference_mode():
            for _ in range(-(-2 * len(part) * levels // batch)):
                network(x, t)
        bare += time.perf_counter() - started
    return stage, bare


def main() -> None:
    """Measure every model and say whether it holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--levels", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--smoke", action="store_true", help="a few images: does it start?")
    given = parser.parse_args()
    if given.smoke:
        given.images, given.levels, given.batch = 4, 2, 4
    for name, make in models().items():
        model = make()
        images = np.random.default_rng(0).integers(0, 256, (given.images, *model.image_shape), dtype=np.uint8)
        stage, bare = seconds(model, images, given.levels, given.batch)
        held = "holds" if stage / bare <= LIMIT else "does not hold"
        print(f"{name:24} {stage:7.1f} s, bare calls {bare:7.1f} s, ratio {stage / bare:.3f}: {held}", flush=True)


if __name__ == "__main__":
    main()
