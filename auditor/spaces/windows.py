"""Copies of a part: the correlation of two pictures within one of eight fixed windows, each a space of its own.

The four quarters and the middle one: the parts of a collage, and the object of a picture without what is around it.
The middle row and column: belts of half the picture. The frame: what is left where the middle was replaced. Halves
are not among them, for who copies a half copies two quarters.
"""

from __future__ import annotations

from functools import partial
from hashlib import sha256

import numpy as np

from auditor.errors import AuditError
from auditor.spaces import Space, SpaceSettings, open_space

LEAST_SIDE = 4  # pixels of a picture that has windows
SEEN = 28  # pixels a side to which large pictures are brought, or somewhat more
BLANK = 4.0  # gray levels: a window of a lesser standard deviation shows nothing
APART = 16  # coordinates in which pictures with a blank window are told apart


class WindowSpace(Space):
    """sqrt(2 (1 - r)) with r the Pearson correlation of one window of two pictures, averaged over channels.

    Large pictures are seen as means over squares of pixels, so that 28 a side or more are left. Distances are those of
    the correlation space: 0 for the same at any brightness and contrast, 1.414 for what is unrelated.

    Notes
    -----
    A blank window is alike in nothing. (Corners of X-rays are blank, and would all be copies of each other.) It has a
    direction of its own, drawn from the bytes of the picture, in 16 coordinates that are 0 for all others: its
    distance is 1.414 from every window that is not blank, 0 from that of the very same picture, and from other blank
    ones anything about 1.414, hence no copy.

    Windows are there to find copies and leans. How a part is distributed is not asked: eight times KID, precision and
    the like would cost more than all distances.
    """

    vectors = False

    def __init__(self, settings: SpaceSettings, part: str) -> None:
        """Need nothing of the settings; ``part`` is a key of `PARTS`."""
        self.part, self.name = part, f"window-{part}"
        self.revision = f"{self.name}-2"
        self.metric_note = f"sqrt(2 (1 - r)) with r the Pearson correlation within one window: {PARTS[part]}."
        self.correlation = open_space("correlation", settings)

    def fits(self, height: int, width: int) -> bool:
        """Tell whether there are windows at all."""
        return min(height, width) >= LEAST_SIDE

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return unit vectors, float32 ``[n, pixels of the window * c + 16]``, for uint8 ``[n, h, w, c]``, 0 to 255."""
        height, width = images.shape[1:3]
        if min(height, width) < LEAST_SIDE:
            raise AuditError(f"Pictures of {height}x{width} have no windows.", "--spaces", "Leave the windows out.")
        square = max(1, min(height, width) // SEEN)
        seen = sums(images, square)
        seen = seen[:, inside(self.part, *seen.shape[1:3])]
        vectors = self.correlation.embed(seen[:, :, None])
        vectors[:, -1] = 0  # its word on constant pictures: here blank ones are told below
        blank = (spread(seen) < BLANK * square**2).all(axis=1)
        vectors[blank] = 0
        apart = np.zeros((len(images), APART), np.float32)
        for row in np.flatnonzero(blank):
            apart[row] = direction(images[row])
        return np.hstack([vectors[:, :-1], apart])


def sums(images: np.ndarray, square: int) -> np.ndarray:
    """Return sums over squares of pixels, int64 ``[n, h // square, w // square, c]``; a rest is left out."""
    n, height, width, c = images.shape
    rows, columns = height // square, width // square
    whole = images[:, : rows * square, : columns * square].reshape(n, rows, square, columns, square, c)
    return whole.sum(axis=(2, 4), dtype=np.int64)


def spread(pixels: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each channel, float64 ``[n, c]``, of whole numbers ``[n, pixels, c]``."""
    n_pixels = pixels.shape[1]
    squares = n_pixels * np.square(pixels).sum(axis=1) - pixels.sum(axis=1) ** 2  # n^2 times the variance, exactly
    return np.sqrt(squares) / n_pixels


def direction(image: np.ndarray) -> np.ndarray:
    """Return a unit vector, float32 ``[16]``, drawn by the bytes of a picture."""
    seed = int.from_bytes(sha256(np.ascontiguousarray(image).tobytes()).digest()[:8], "big")
    drawn = np.random.default_rng(seed).normal(size=APART)
    return np.asarray(drawn / np.linalg.norm(drawn), np.float32)


def inside(part: str, height: int, width: int) -> np.ndarray:
    """Return which pixels a window holds, bool ``[h, w]``."""
    place = np.zeros((height, width), bool)
    bands = [
        {
            "first": slice(None, size // 2),
            "last": slice(size - size // 2, None),
            "middle": slice(size // 4, size // 4 + size // 2),
            "all": slice(None),
        }
        for size in (height, width)
    ]
    row, column = PLACES[part]
    place[bands[0][row], bands[1][column]] = True
    return ~place if part == "frame" else place


PARTS = {  # how each window is told
    "top-left": "the upper left quarter",
    "top-right": "the upper right quarter",
    "bottom-left": "the lower left quarter",
    "bottom-right": "the lower right quarter",
    "center": "the middle half of rows and columns",
    "row": "the middle half of the rows",
    "column": "the middle half of the columns",
    "frame": "all but the middle half of rows and columns",
}
PLACES = {  # bands of rows and of columns
    "top-left": ("first", "first"),
    "top-right": ("first", "last"),
    "bottom-left": ("last", "first"),
    "bottom-right": ("last", "last"),
    "center": ("middle", "middle"),
    "row": ("middle", "all"),
    "column": ("all", "middle"),
    "frame": ("middle", "middle"),  # all around it
}
(top_left, top_right, bottom_left, bottom_right, center, row, column, frame) = (
    partial(WindowSpace, part=part) for part in PARTS
)
