"""One scale of the pictures at a time: a band of the Haar wavelet, or a principal subspace of the training images."""

from __future__ import annotations

from functools import cached_property, partial
from hashlib import sha256

import numpy as np

from auditor.errors import AuditError
from auditor.images import scales
from auditor.registry import HAAR, PCA
from auditor.spaces import Space, SpaceSettings


class HaarSpace(Space):
    """Wavelet coefficients of one band, scaled so that Euclidean distance is their root mean squared difference.

    Coefficients are those of the orthonormal transform of pixels in [0, 1]: where a band of all
    coarser numbers changes by a gray level everywhere, they change by more than in a fine one.
    """

    def __init__(self, settings: SpaceSettings, level: int) -> None:
        """Need nothing of the settings."""
        self.level = level
        self.name = HAAR[level]
        self.revision = f"{self.name}-{scales.REVISION}"
        self.metric_note = f"Root mean squared difference of the Haar coefficients at level {level}, 0 the coarsest."

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return float32 ``[n, dim of the band]`` for uint8 ``[n, h, w, c]``, 0 to 255."""
        bands = scales.haar_bands(images.transpose(0, 3, 1, 2).astype(np.float64) / 255)
        if self.name not in bands:
            h, w = images.shape[1:3]
            raise AuditError(f"Pictures of {h}x{w} have no band {self.name}.", "--spaces", "Leave this space out.")
        band = bands[self.name]
        return (band / np.sqrt(band.shape[1])).astype(np.float32)


class PcaSpace(Space):
    """Coordinates in one principal subspace of both halves, so that distance is their root mean squared difference."""

    def __init__(self, settings: SpaceSettings, level: int) -> None:
        """Take the training images, which are read when the first picture is embedded."""
        self.level = level
        self.name = PCA[level]
        self.metric_note = f"Root mean squared difference in principal subspace {level}, 0 the leading one."
        if settings.training is None:
            what = f"The space {self.name} is spanned by training images, and none are given."
            raise AuditError(what, "--spaces", "Give --train-a, or leave this space out.")
        self.training = settings.training

    @cached_property
    def pictures(self) -> np.ndarray:
        """The images that the axes are fitted to, uint8 ``[n, d]``: at most 1,024 of each half."""
        steps = [(half, max(1, -(-len(half) // scales.FITTED))) for half in self.training()]
        return np.concatenate([np.asarray(half[::step]).reshape(-1, half[0].size) for half, step in steps])

    @cached_property
    def revision(self) -> str:  # type: ignore[override]  # known once the images are read
        """The images decide about the axes."""
        return f"{self.name}-{scales.REVISION}-{sha256(self.pictures.tobytes()).hexdigest()[:12]}"

    @cached_property
    def axes(self) -> scales.Axes:
        """The principal axes."""
        found = scales.principal_axes(self.pictures / 255)
        if found is None:
            what = f"The space {self.name} needs more than {scales.LEAST_AXES} training images and pixels."
            raise AuditError(what, "--spaces", "Leave this space out.")
        return found

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return float32 ``[n, dim]`` for uint8 ``[n, h, w, c]``, 0 to 255."""
        flat = images.reshape(len(images), -1) / 255
        part = scales.principal_parts(flat, self.axes)[self.level]
        rank = flat.shape[1] - self.axes.ends[-1] if self.level == len(self.axes.ends) else part.shape[1]
        return (part / np.sqrt(rank)).astype(np.float32)


haar_0, haar_1, haar_2, haar_3 = (partial(HaarSpace, level=level) for level in range(4))
pca_0, pca_1, pca_2, pca_3 = (partial(PcaSpace, level=level) for level in range(4))
