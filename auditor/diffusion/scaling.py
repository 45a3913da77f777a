"""How a trainer scaled pictures for its network, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class Codec(Protocol):
    """What turns pictures into what a network sees, and back: a scaling, or an autoencoder."""

    def encode(self, images: np.ndarray, device: str = "cpu") -> Any:
        """Return float32 ``[n, c, h, w]`` from uint8 ``[n, h, w, c]``."""
        ...

    def decode(self, x: Any) -> np.ndarray:
        """Return uint8 ``[n, h, w, c]`` from float ``[n, c, h, w]``."""
        ...


@dataclass(frozen=True)
class Pixels:
    """x = low + (high - low) picture / 255 - mean, with the mean in the units of the range."""

    low: float = -1.0
    high: float = 1.0
    mean: np.ndarray | float = 0.0  # a number, float32 [c], or float32 [h, w, c]

    def encode(self, images: np.ndarray, device: str = "cpu") -> Any:
        """Return float32 ``[n, c, h, w]`` from uint8 ``[n, h, w, c]``."""
        import torch

        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().to(device)
        return x * (self.high - self.low) / 255 + self.low - self._mean(x)

    def decode(self, x: Any) -> np.ndarray:
        """Return uint8 ``[n, h, w, c]`` from float ``[n, c, h, w]``, clipped as diffusers pipelines do."""
        scaled = (x + self._mean(x) - self.low) / (self.high - self.low)
        return (scaled.clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy() * 255).round().astype(np.uint8)

    def _mean(self, like: Any) -> Any:
        import torch

        if isinstance(self.mean, float):
            return self.mean
        mean = torch.from_numpy(np.asarray(self.mean, dtype=np.float32)).to(like.device)
        return mean.permute(2, 0, 1) if mean.ndim == 3 else mean.view(-1, 1, 1)

    @property
    def is_standard(self) -> bool:
        """Whether pictures are scaled to [-1, 1], as most trainers do."""
        return (self.low, self.high) == (-1.0, 1.0) and isinstance(self.mean, float) and self.mean == 0

    @property
    def text(self) -> str:
        """What was done to pictures, in words."""
        offset = "" if isinstance(self.mean, float) and self.mean == 0 else " minus a mean"
        return f"[{self.low:g}, {self.high:g}]{offset}"


# Ranges to which trainers scale pictures.
USUAL = ((-1.0, 1.0), (0.0, 1.0))
TAILS = (0.01, 0.99)


def compare_ranges(drawn: np.ndarray, images: np.ndarray, assumed: Pixels) -> dict[str, Any]:
    """Return the range of samples and of pictures in a network's units, and which usual scaling fits clearly better.

    The mismatch of a scaling is how far the 1 % and 99 % quantiles of the samples lie from those of the pictures under
    it, in widths of the pictures. Another one fits clearly better where the assumed one misses by more than 0.3 and the
    other by less than half of that.
    """
    found = np.quantile(drawn, TAILS)

    def of_pictures(low: float, high: float) -> np.ndarray:
        scaled = low + (high - low) * np.quantile(images, TAILS) / 255
        return scaled - float(np.mean(assumed.mean))

    def mismatch(low: float, high: float) -> float:
        expected = of_pictures(low, high)
        return float(np.abs(found - expected).sum() / max(expected[1] - expected[0], 1e-6))

    here = mismatch(assumed.low, assumed.high)
    misses = {scale: mismatch(*scale) for scale in USUAL if scale != (assumed.low, assumed.high)}
    best = min(misses, key=lambda scale: misses[scale])
    return {
        "samples": [round(float(one), 3) for one in found],
        "pictures": [round(float(one), 3) for one in of_pictures(assumed.low, assumed.high)],
        "assumed": [assumed.low, assumed.high],
        "fits_better": list(best) if here > 0.3 and misses[best] < here / 2 else None,
    }
