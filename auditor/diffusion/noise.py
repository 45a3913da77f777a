"""Noise as a function of the seed alone: never of batch size, order or device.

One ``torch.Generator("cpu")`` per seed draws x_T first and then, in order, the noise of
every stochastic step, in float32; the numbers are moved to the device afterwards. This
is what a diffusers pipeline does with a list of generators, so any flagged sample can be
made again in the user's own pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

REVISION = 1


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Return one CPU generator per seed, each at the start of its stream."""
    import torch

    return [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]


def draw(streams: Sequence[torch.Generator], shape: tuple[int, ...], device: str = "cpu") -> torch.Tensor:
    """Return standard normal noise, float32 ``[len(streams), *shape]``.

    Row i comes from ``streams[i]`` alone and advances it.
    """
    import torch

    rows = [torch.randn(shape, generator=stream, dtype=torch.float32) for stream in streams]
    return torch.stack(rows).to(device)
