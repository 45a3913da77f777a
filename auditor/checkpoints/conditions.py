"""Conditional networks as functions of condition numbers, with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from auditor.checkpoints.text import Prompts
from auditor.diffusion.model import Conditioned, Network
from auditor.errors import CheckpointError

Call = Callable[[Any, Any, Any], Any]  # (x, t, condition) -> output


def unconditional(conditioned: Conditioned) -> Network:
    """Return the network for rows without a condition."""
    return lambda x, t: conditioned(np.full(len(x), -1), 1.0)(x, t)


def by_class(call: Call, n_classes: int, null: int | None, numbers: np.ndarray, guidance: float) -> Network:
    """Return the network for rows of these classes; ``null`` is the class that stands for none, if it was trained."""
    import torch

    numbers = np.asarray(numbers)
    if numbers.max(initial=-1) >= n_classes:
        raise CheckpointError(f"There is no class {numbers.max()}: the network has {n_classes}.", "--labels")
    if null is None and (numbers.min(initial=0) < 0 or guidance != 1):
        what = (
            "The network is class-conditional and has no class that stands for none, so each picture needs its class."
        )
        raise CheckpointError(what, "--labels", "Give images with class labels, and no --guidance-scale.")
    classes = torch.from_numpy(np.where(numbers < 0, -1 if null is None else null, numbers)).long()
    without = torch.full_like(classes, 0 if null is None else null)
    return guided(call, classes, without, guidance)


def by_text(call: Call, prompts: Prompts, numbers: np.ndarray, guidance: float) -> Network:
    """Return the network for rows of these prompts; -1 is the empty prompt."""
    import torch

    rows = torch.from_numpy(np.asarray(numbers)).long()
    return guided(call, prompts.rows(rows), prompts.rows(torch.full_like(rows, -1)), guidance)


def guided(call: Call, condition: Any, without: Any, guidance: float) -> Network:
    """Return classifier-free guidance: without + guidance (with - without); one call where guidance is 1."""

    def network(x: Any, t: Any) -> Any:
        found = call(x, t, condition.to(x.device))
        if guidance == 1:
            return found
        free = call(x, t, without.to(x.device))
        return free + guidance * (found - free)

    return network
