"""Correlation of pixels: the similarity in which the twins' divergence is defined."""

from __future__ import annotations

import numpy as np

from auditor.spaces import Space


class CorrelationSpace(Space):
    """Unit vectors of pixels standardised per image and channel.

    Each channel loses its own mean and is divided by its own standard deviation; the
    whole is scaled to length 1. The scalar product of two vectors is then the Pearson
    correlation ``r`` of the two images, averaged over channels, and their Euclidean
    distance is ``sqrt(2 (1 - r))``: 0 for the same picture at any brightness and
    contrast, 1.414 for unrelated ones, 2 for a negative.

    Notes
    -----
    A constant channel has no correlation and contributes zeros; the others carry the
    length. For an image that is constant in every channel, r with any other is taken as
    0 and with another constant image as 1. One last coordinate does this: 1 for constant
    images, 0 for all others. (A zero vector would stand at distance 1 from everything, and
    a single blank training image would be the nearest neighbor of most samples.)

    References
    ----------
    The pixel similarity of "biased generalization", arXiv 2603.03469.
    """

    name = "correlation"
    revision = "correlation-1"
    metric_note = "sqrt(2 (1 - r)) with r the Pearson correlation of two images, averaged over channels."

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return unit vectors, float32 ``[n, h*w*c + 1]``, for uint8 ``[n, h, w, c]``, 0 to 255.

        Sums are taken in integers, hence without rounding (to 3000 x 3000 pixels), so that
        neither batch nor memory layout can change a bit of the result.
        """
        n_images, height, width, n_channels = images.shape
        n_pixels = height * width
        pixels = images.reshape(n_images, n_pixels, n_channels).astype(np.int64)
        total = pixels.sum(axis=1, keepdims=True)
        centered = n_pixels * pixels - total  # n (x - mean)
        spread = n_pixels * (pixels**2).sum(axis=1, keepdims=True) - total**2  # n^2 times the variance
        n_varied = (spread > 0).sum(axis=2, keepdims=True)  # channels that have a correlation, [n, 1, 1]
        length = np.sqrt(np.maximum(n_pixels * spread.astype(np.float64), 1) * np.maximum(n_varied, 1))
        vectors = (centered / length).reshape(n_images, -1)
        return np.hstack([vectors, n_varied[:, 0] == 0]).astype(np.float32)
