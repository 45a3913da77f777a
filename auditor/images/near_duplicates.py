"""Near-duplicates: pictures that are the same but for brightness, contrast, compression or slight noise.

Each picture is reduced to at most 32 pixels a side, its mean subtracted and its length made one; the distance of two
is then sqrt(2 (1 - r)), r the correlation of their pixels. Below 0.2 (r > .98) two pictures are called near-duplicates.
On chest X-rays, blood cells, portraits and hands (28 and 32 pixels a side) no two different pictures are nearer than
.205; on drawings of clothes 59 of 4,443 are. A change of brightness moves a picture by .01 to .05, a JPEG of quality 75
by .02 to .25, noise of 5 gray levels by .05 to .27. Shifted or cropped copies are farther away than different pictures
and are not found: group them by patient or source.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from auditor.images import pixels
from auditor.neighbors import search
from auditor.records import Features, ImageSet

SIDE = 32
NEAR = 0.2  # of sqrt(2 (1 - r))
FIRST_K = 8  # neighbors looked at; more for pictures all of whose neighbors are near


def reduced(picture: np.ndarray) -> np.ndarray:
    """Return a picture uint8 ``[h, w, c]`` as a vector of length one, float32; zeros where it is flat."""
    from PIL import Image

    height, width, channels = picture.shape
    image = Image.fromarray(picture[..., 0] if channels == 1 else picture)
    if max(height, width) > SIDE:
        image = image.resize((min(width, SIDE), min(height, SIDE)), Image.Resampling.BOX)
    values = np.asarray(image, dtype=np.float32).ravel()
    values = values - values.mean()
    length = float(np.linalg.norm(values))
    return values / length if length > 0 else values


def likeness(name: str, ids: tuple[str, ...], pictures: Iterable[np.ndarray], scratch: Path | None = None) -> Features:
    """Return the vectors of pictures of one shape, in which distance is sqrt(2 (1 - r))."""
    vectors = pixels.stored(len(ids), map(reduced, pictures), scratch)
    return Features("likeness", name, vectors, ids)


def of_set(image_set: ImageSet, rows: np.ndarray) -> Features:
    """Return the vectors of some images of a set."""
    ids = tuple(image_set.ids[i] for i in rows)
    return likeness(image_set.name, ids, (image_set.images[i] for i in rows))


def near_pairs(features: Features, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return which pairs of a set are nearer than ``threshold``, int64 ``[m, 2]``, and each image's nearest distance.

    Images with more near ones than were looked at are searched again for more, so that no pair is missed.
    """
    n, k, rows = len(features.ids), FIRST_K, np.arange(len(features.ids))
    pairs, nearest = [], np.full(n, np.nan)
    while len(rows) and n > 1:
        k = min(k, n)
        found = search(features.rows(rows), features, k)  # each finds itself, too
        other = (found.indices != rows[:, None]) & (found.indices >= 0)
        distances = np.where(other, found.distances, np.inf)
        nearest[rows] = distances.min(axis=1)
        near = distances < threshold
        at, column = np.nonzero(near)
        pairs.append(np.column_stack([rows[at], found.indices[at, column]]))
        rows = rows[found.distances[:, -1] < threshold] if k < n else rows[:0]
        k *= 4
    return np.concatenate(pairs) if pairs else np.empty((0, 2), np.int64), nearest


def near_between(queries: Features, reference: Features, threshold: float) -> np.ndarray:
    """Return which reference image each query is a near-duplicate of, int64 ``[n]``; -1 for none."""
    found = search(queries, reference, 1)
    return np.where(found.distances[:, 0] < threshold, found.indices[:, 0], -1)
