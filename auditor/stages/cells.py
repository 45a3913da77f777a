"""Cells of a training set, so that samples are compared with images of their kind (Meehan et al. 2020)."""

from __future__ import annotations

import warnings

import numpy as np

from auditor.stages.features import drawn

N_CELLS = 3
FITTED_TO = 10_000  # images


def centers(vectors: np.ndarray) -> np.ndarray:
    """Return the k-means centers of a training set, float64 ``[3, d]``; the same in every run.

    Fitted to at most 10,000 images in one thread: the sum of more would depend on their order.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    chosen = np.asarray(vectors[np.sort(drawn(len(vectors), FITTED_TO))], dtype=np.float64)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different images than cells: some cells coincide
        values: np.ndarray = KMeans(min(N_CELLS, len(chosen)), n_init=10, random_state=0).fit(chosen).cluster_centers_
        return values


def assign(vectors: np.ndarray, centers: np.ndarray | None) -> np.ndarray:
    """Return the cell of each vector, float64 ``[n]``: the nearest center; NaN where there are no cells."""
    if centers is None:
        return np.full(len(vectors), np.nan)
    x = np.asarray(vectors, dtype=np.float64)
    values: np.ndarray = (np.square(centers).sum(axis=1) - 2 * x @ centers.T).argmin(axis=1).astype(float)
    return values
