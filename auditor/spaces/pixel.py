"""Pixels themselves: the only space in which a distance of zero proves a copy."""

from __future__ import annotations

import numpy as np

from auditor.spaces import Space


class PixelSpace(Space):
    """Pixels in [0, 1], scaled so that Euclidean distance is the RMSE.

    The vector of an image is ``x / (255 sqrt(h w c))``, so the distance of two images is
    ``sqrt(mean((x - y)^2)) / 255``: 0 for identical images, 1 for black against white.
    Identical images have identical vectors, bit for bit.
    """

    name = "pixel"
    revision = "pixel-1"
    metric_note = "Root mean squared pixel difference, on a scale where black against white is 1."

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return float32 ``[n, h*w*c]``, 0 to ``1/sqrt(h w c)``, for uint8 ``[n, h, w, c]``."""
        flat = images.reshape(len(images), -1)
        return flat.astype(np.float32) / np.float32(255.0 * np.sqrt(flat.shape[1]))
