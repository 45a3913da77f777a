"""What a few samples, drawn for this alone, tell before and after a run."""

from __future__ import annotations

from typing import Any

import numpy as np

from auditor.diffusion import sampling, scaling
from auditor.errors import CheckpointError
from auditor.run.places import SAMPLES
from auditor.stages.bench import Bench

RANGED = 16  # samples, and pictures, whose ranges are compared
REDRAWN = 4  # seeds drawn again at another batch size


def ranges(bench: Bench) -> dict[str, Any] | None:
    """Compare the range of a few samples of the last checkpoint with that of the training images, as scaled.

    None where there is nothing to compare: no images, no model, or an autoencoder between.
    """
    loaded, asked = bench.loaded, bench.asked
    if not loaded.sets or loaded.given is not None or loaded.facts.autoencoder:
        return None
    images = next(iter(loaded.sets.values())).images[:RANGED]
    seeds, how = [asked.config.seed + i for i in range(RANGED)], (asked.config.sampler, asked.sampling_steps)
    try:
        model = bench.network(f"a/{asked.scope.steps[-1]}")
        drawn = sampling.draw_batch(model, seeds, *how, asked.device, loaded.conditions).cpu().numpy()
    except CheckpointError:
        return None  # the stage of samples says so
    return scaling.compare_ranges(drawn, np.asarray(images), loaded.pixels["a"])


def redrawn(bench: Bench) -> dict[str, Any]:
    """Draw a few seeds again at another batch size; return how far they are from the run's samples."""
    asked, of = bench.asked, f"a/{bench.asked.scope.steps[-1]}"
    n = min(REDRAWN, asked.n_samples)
    seeds, how = [asked.config.seed + i for i in range(n)], (asked.config.sampler, asked.sampling_steps)
    again = sampling.sample_batch(bench.network(of), seeds, *how, asked.device, bench.loaded.conditions)
    drawn = np.load(bench.run.place(SAMPLES, of), mmap_mode="r")[:n]
    deviation = np.abs(again.astype(int) - drawn.astype(int))
    return {
        "of": of,
        "seeds": n,
        "batch_size": n,
        "largest_deviation": int(deviation.max()),
        "unit": "grey levels of 255",
    }
