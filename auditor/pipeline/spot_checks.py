"""What a few samples, drawn for this alone, tell before and after a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from auditor.diffusion import sampling, scaling
from auditor.diffusion.model import DiffusionModel
from auditor.errors import CheckpointError
from auditor.inputs.prepared import Prepared
from auditor.run import RunDirectory

Models = Callable[[str], DiffusionModel]  # the model of ``twin/step``
RANGED = 16  # samples, and pictures, whose ranges are compared
REDRAWN = 4  # seeds drawn again at another batch size


def ranges(p: Prepared, model: Models) -> dict[str, Any] | None:
    """Compare the range of a few samples of the last checkpoint with that of the training images, as scaled.

    None where there is nothing to compare: no images, no model, or an autoencoder between.
    """
    if not p.sets or p.given is not None or p.facts.autoencoder:
        return None
    of, images = f"a/{p.pair.steps[-1]}", next(iter(p.sets.values())).images[:RANGED]
    seeds = [p.config.seed + i for i in range(RANGED)]
    try:
        how = (p.config.sampler, p.sampling_steps, p.device, p.conditions)
        drawn = sampling.draw_batch(model(of), seeds, *how).cpu().numpy()
    except CheckpointError:
        return None  # the stage of samples says so
    return scaling.compare_ranges(drawn, np.asarray(images), p.pixels["a"])


def redrawn(p: Prepared, run: RunDirectory, model: Models) -> dict[str, Any]:
    """Draw a few seeds again at another batch size; return how far they are from the run's samples."""
    of = f"a/{p.pair.steps[-1]}"
    n = min(REDRAWN, p.config.n_samples)
    seeds = [p.config.seed + i for i in range(n)]
    how = (p.config.sampler, p.sampling_steps, p.device, p.conditions)
    again = sampling.sample_batch(model(of), seeds, *how)
    drawn = np.load(run.samples("a", p.pair.steps[-1]), mmap_mode="r")[:n]
    deviation = np.abs(again.astype(int) - drawn.astype(int))
    return {
        "of": of,
        "seeds": n,
        "batch_size": n,
        "largest_deviation": int(deviation.max()),
        "unit": "grey levels of 255",
    }
