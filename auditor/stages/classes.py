"""Nearest training images within the class of a sample: what a class-conditional model is fairly compared with."""

from __future__ import annotations

import numpy as np

from auditor.neighbors import search
from auditor.records import Features, Neighbors

NO_CLASS = -1


def counted_classes(classes: np.ndarray, in_class_pool: np.ndarray) -> np.ndarray:
    """Return the class that each training image counts for, NO_CLASS where it does for none; int64 ``[n]``."""
    return np.where(in_class_pool, classes, NO_CLASS).astype(np.int64)


def nearest_in_class(
    queries: Features, numbers: np.ndarray, reference: Features, counted: np.ndarray, found: Neighbors
) -> tuple[np.ndarray, np.ndarray]:
    """Return index and distance of each query's nearest image of its class, -1 and NaN where there is none.

    ``counted`` are the classes that the images of the reference count for. ``found`` are the
    nearest images of the queries in the whole reference: the first of them that is of the class
    is the nearest of the class. Only queries that have none there are searched for again.
    """
    index, distance = np.full(len(numbers), -1), np.full(len(numbers), np.nan)
    same = (counted[found.indices] == numbers[:, None]) & (found.indices >= 0) & (numbers[:, None] != NO_CLASS)
    seen = same.any(axis=1)
    first = same.argmax(axis=1)
    index[seen] = found.indices[seen, first[seen]]
    distance[seen] = found.distances[seen, first[seen]]
    for number in np.unique(numbers[~seen & (numbers != NO_CLASS)]):
        members, asked = np.flatnonzero(counted == number), np.flatnonzero(~seen & (numbers == number))
        if len(members):
            again = search(queries.rows(asked), reference.rows(members), 1)
            index[asked], distance[asked] = members[again.indices[:, 0]], again.distances[:, 0]
    return index, distance
