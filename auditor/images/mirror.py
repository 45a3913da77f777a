"""Mirrored training images: most trainers flip pictures, and a model that was shown a mirror image can draw it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from auditor.images import identity, pixels
from auditor.records import ImageSet

SUFFIX = " (mirrored)"  # behind the id of the original


def with_mirrored(image_set: ImageSet, scratch: Path | None = None) -> ImageSet:
    """Return the images, then each of them mirrored left to right, in the same order."""
    plain = image_set.images
    n = len(plain)

    def rows() -> Iterator[np.ndarray]:
        yield from plain
        for image in plain:
            yield np.ascontiguousarray(image[:, ::-1])

    both = pixels.stored(2 * n, rows(), scratch)
    digests = (*identity.digests(image_set), *(identity.digest(image) for image in both[n:]))
    ids = (*image_set.ids, *(each + SUFFIX for each in image_set.ids))
    blank = np.tile(identity.is_blank(image_set), 2)
    labels, groups = image_set.labels * 2, image_set.groups * 2
    return replace(image_set, images=both, ids=ids, labels=labels, groups=groups, digests=digests, blank=blank)


def either(digests: tuple[str, ...]) -> tuple[str, ...]:
    """Return one digest per original, the same for an image, its mirror image, and copies of either."""
    n = len(digests) // 2
    return tuple(min(pair) for pair in zip(digests[:n], digests[n:], strict=True))
