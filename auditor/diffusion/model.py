"""A loaded network with what is needed to sample from it and to measure its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from auditor.diffusion.scaling import Codec, Pixels

Network = Callable[[Any, Any], Any]  # (x_t, t) -> output
Conditioned = Callable[[np.ndarray, float], Network]  # (condition numbers, guidance) -> network for such rows


@dataclass(frozen=True)
class DiffusionModel:
    """A loaded network with what is needed to sample from it and to measure its loss.

    ``network(x, t)`` takes float32 ``[n, c, h, w]`` in the model's own value range and
    int64 ``[n]`` diffusion times and returns what the schedule says it predicts, ``[n, c, h, w]``
    (diffusion/schedules.py). ``conditioned(numbers, guidance)`` returns such a network for rows of
    the given condition numbers, int64 ``[n]``: a class, the row of a prompt, or -1 for none.
    """

    network: Network
    scheduler: Mapping[str, Any]  # configuration of a diffusers scheduler; see schedules.py
    image_shape: tuple[int, int, int]  # (h, w, c) of pictures
    n_parameters: int
    codec: Codec = field(default_factory=Pixels)  # from pictures to x_0, and back
    latent_shape: tuple[int, int, int] | None = None  # (h, w, c) of x_0 where it is no picture
    conditioned: Conditioned | None = None

    @property
    def x_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of what is diffused."""
        return self.latent_shape or self.image_shape

    def given(self, numbers: np.ndarray | None, guidance: float = 1.0) -> Network:
        """Return the network for rows of these conditions, or the unconditional one."""
        return self.network if self.conditioned is None or numbers is None else self.conditioned(numbers, guidance)
