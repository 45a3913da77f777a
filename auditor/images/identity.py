"""Identity by content: digests of pixels, duplicates, overlap of sets, blank pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from auditor.errors import AuditError
from auditor.records import ImageSet

BLANK_BELOW = 2.0  # standard deviation of a picture's pixels, in gray levels of 255 (docs/statistics.md 1.1)


def digests(image_set: ImageSet) -> tuple[str, ...]:
    """Return the sha256 of each picture's shape and pixels at the model's shape, as hex digits."""
    return image_set.digests or tuple(map(digest, image_set.images))


def digest(image: np.ndarray) -> str:
    """Return the sha256 of one picture's shape and pixels, as hex digits."""
    shape = "x".join(map(str, image.shape)).encode()
    return hashlib.sha256(shape + b":" + image.tobytes()).hexdigest()


def set_digest(image_set: ImageSet) -> str:
    """Return one sha256 over the ids and contents of the pictures, in order; the set's name does not count."""
    total = hashlib.sha256()
    for image_id, content in zip(image_set.ids, digests(image_set), strict=True):
        total.update(f"{image_id}\0{content}\0".encode())  # NUL is in no file name, so no two sets give one text
    return total.hexdigest()


def duplicate_groups(digest_list: Sequence[str]) -> np.ndarray:
    """Return the group of each image, int64 ``[n]``: equal digests share a group, numbered by first appearance."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(digest, len(first)) for digest in digest_list], dtype=np.int64)


def shared(first: ImageSet, second: ImageSet) -> tuple[tuple[str, str], ...]:
    """Return pairs (id in first, id in second) of images with equal content.

    Every shared image of either set is in at least one pair. Copies within a set are paired one to one and the rest
    with the other set's first copy, so the number of pairs grows with the images and not with their square.
    """
    in_first, in_second = _ids_by_digest(first), _ids_by_digest(second)
    common = [(ids, in_second[digest]) for digest, ids in in_first.items() if digest in in_second]
    return tuple((one or ones[0], two or twos[0]) for ones, twos in common for one, two in zip_longest(ones, twos))


def check_overlap(first: ImageSet, second: ImageSet, allow_overlap: bool) -> tuple[tuple[str, str], ...]:
    """Return the pairs of :func:`shared`, which may be some only if ``allow_overlap``.

    Raises
    ------
    AuditError
        If the sets share images and ``allow_overlap`` is False; it names up to five pairs and the total.
    """
    pairs = shared(first, second)
    if pairs and not allow_overlap:
        named = ", ".join(f"{one} = {two}" for one, two in pairs[:5]) + (", ..." if len(pairs) > 5 else "")
        raise AuditError(
            f"{len(pairs)} pairs of images are in both {first.name} and {second.name}: {named}",
            f"{first.name} and {second.name}, compared by their pixels at the model's shape",
            "Remove duplicates before splitting the images, or pass --allow-overlap, which excludes the shared images "
            "from every own-versus-other statistic.",
        )
    return pairs


def is_blank(image_set: ImageSet) -> np.ndarray:
    """Return bool ``[n]``: the standard deviation of the pixels is below 2 of 255 gray levels.

    Blank pictures carry no information on which set they came from (docs/statistics.md 1.1).
    """
    if image_set.blank is not None:
        return image_set.blank
    return np.array([is_flat(image) for image in image_set.images], dtype=bool)


def is_flat(image: np.ndarray) -> bool:
    """Return whether one picture is blank."""
    return bool(image.std() < BLANK_BELOW)


def _ids_by_digest(image_set: ImageSet) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {}
    for content, image_id in zip(digests(image_set), image_set.ids, strict=True):
        ids.setdefault(content, []).append(image_id)
    return ids
