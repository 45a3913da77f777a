"""Scales of pictures, from coarse to fine: bands of the Haar wavelet, and principal subspaces of the training images.

Both split a picture into orthogonal parts; each part is measured per dimension, so that a band of
few numbers and one of many can be compared. Numbered as in the appendix of arXiv 2603.03469: 0
is what is left after three halvings of the resolution, 3 the finest detail; likewise 0 is the
leading principal subspace and 3 what the first half of the axes leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from auditor.registry import HAAR, PCA

REVISION = 1
FITTED = 1024  # training images that the principal axes are fitted to at most, spread evenly
SHARES = (1 / 32, 1 / 8, 1 / 2)  # of the axes: where a principal subspace ends and the next begins
LEAST_AXES = 8


def haar_bands(pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Return orthonormal Haar coefficients of ``[n, c, h, w]``, ``[n, dim]`` by band, coarse to fine.

    Where a side is odd its last row or column is repeated, at that halving; all sums of squares
    are kept otherwise. Details of the three directions are one band. A single pixel is not
    halved: then there is no such band.
    """
    approximation, bands = pictures, {}
    for name in reversed(HAAR[1:]):
        h, w = approximation.shape[-2:]
        if h * w == 1:
            break
        even = np.pad(approximation, ((0, 0), (0, 0), (0, h % 2), (0, w % 2)), "edge")
        above, below = even[..., 0::2, :], even[..., 1::2, :]
        parts = [
            (left + sign * right) / 2
            for rows in (above + below, above - below)
            for left, right in [(rows[..., 0::2], rows[..., 1::2])]
            for sign in (1, -1)
        ]
        approximation = parts[0]
        bands[name] = np.concatenate([part.reshape(len(pictures), -1) for part in parts[1:]], axis=1)
    bands[HAAR[0]] = approximation.reshape(len(pictures), -1)
    return dict(reversed(bands.items()))


@dataclass(frozen=True)
class Axes:
    """Leading principal axes of training images, and where one subspace ends and the next begins."""

    vectors: np.ndarray  # float64 [d, k], orthonormal, by falling variance
    ends: tuple[int, ...]  # axes up to the end of each subspace but the last, which is the rest; k = ends[-1]


def principal_axes(images: np.ndarray) -> Axes | None:
    """Return the principal axes of ``[n, d]``, images of both halves; None where there are fewer than 8 of them."""
    chosen = images[np.unique(np.linspace(0, len(images) - 1, min(len(images), FITTED)).astype(int))].astype(float)
    rank = min(chosen.shape[1], len(chosen) - 1)
    if rank < LEAST_AXES:
        return None
    ends: list[int] = []
    for share in SHARES:
        ends.append(max(int(rank * share), ends[-1] + 1 if ends else 1))
    rows = np.linalg.svd(chosen - chosen.mean(axis=0), full_matrices=False)[2]
    return Axes(np.ascontiguousarray(rows[: ends[-1]].T), tuple(ends))


def principal_parts(x: np.ndarray, axes: Axes) -> list[np.ndarray]:
    """Return coordinates of ``[n, d]`` in each subspace, ``[n, dim]``; of the rest, what is left of x, ``[n, d]``."""
    along = x @ axes.vectors
    return [*np.split(along, axes.ends[:-1], axis=1), x - along @ axes.vectors.T]


def dimensions(shape: tuple[int, int, int], axes: Axes | None) -> dict[str, int]:
    """Return by scale how many dimensions it has, for pictures of shape (c, h, w)."""
    known = {name: band.shape[1] for name, band in haar_bands(np.zeros((1, *shape))).items()}
    if axes is None:
        return known
    d = int(np.prod(shape))
    widths = np.diff((0, *axes.ends, d))
    return known | {name: int(width) for name, width in zip(PCA, widths, strict=True)}


def split(x: np.ndarray, shape: tuple[int, int, int], axes: Axes | None) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and part of every scale of ``[n, d]``, flat pictures of shape (c, h, w); bands only without axes."""
    yield from haar_bands(x.reshape(-1, *shape)).items()
    if axes is not None:
        yield from zip(PCA, principal_parts(x, axes), strict=True)


def energies(x: np.ndarray, shape: tuple[int, int, int], axes: Axes | None) -> Mapping[str, np.ndarray]:
    """Return by scale the sum of squares over its dimensions, ``[n]``, of ``[n, d]``."""
    wide = dimensions(shape, axes)
    return {name: np.square(part).sum(axis=1) / wide[name] for name, part in split(x, shape, axes)}
