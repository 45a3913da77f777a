"""Exact nearest neighbors, distances between paired rows, and the rule of a copy.

faiss finds candidates in float32; every distance that is returned is the norm of a
difference in float64. The choice of neighbors is exact too: a bound on the float32 error
tells for which queries the candidates surely hold the k nearest, and the few others are
compared with every row in float64. Views of a picture (as it is, and mirrored) and the
comparison of pictures themselves, where a space has them, are known here alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from auditor.config import COPY_RATIO
from auditor.records import Features, Neighbors

EXTRA_CANDIDATES = 32  # beyond k: enough to be certain for nearly every query outside large clusters of duplicates
PROPOSED = 128  # pictures compared where a space refines: more than anything asks for, so that no answer depends on k
FLOAT32_ROUNDOFF, FLOAT64_ROUNDOFF = 2.0**-24, 2.0**-53


def search(
    queries: Features, reference: Features, k: int, exclude_self: bool = False, memory_mib: int = 256
) -> Neighbors:
    """Return the ``k`` nearest reference vectors of each query, nearest first.

    Parameters
    ----------
    queries, reference
        Vectors of one space, float32 ``[n, d]`` or ``[n, views, d]``; may be memory-mapped.
        They are read in blocks, and on all GPUs if faiss sees any.
    k
        Neighbors per query, at least 1.
    exclude_self
        Whether query i must not find reference i; for one image set against itself.
    memory_mib
        Budget for the blocks, in MiB. It changes the time taken, never the result.

    Returns
    -------
    Neighbors
        float32 distances in the units of the space, computed in float64: exactly 0 for
        identical vectors, however long they are. Of several views the least counts, that of
        view v of the query to view v of the reference. Equal distances are ordered by the
        smaller reference index. Where the reference has fewer than ``k`` vectors, the
        last columns hold NaN and index -1.

    Notes
    -----
    The result is that of a float64 search over all pairs. A query is slow only if
    thousands of reference vectors lie at one distance from it (as many blank images do):
    then each of them is compared by its difference.

    In a space that refines, vectors only propose: the nearest ``PROPOSED``, but at least k, are
    compared as pictures, and distances and order are those of the pictures. A space that looks
    for the nearest itself may compare fewer than k: the last columns then hold NaN and -1.
    """
    assert queries.space == reference.space, f"queries in {queries.space}, reference in {reference.space}"
    assert queries.vectors.shape[1:] == reference.vectors.shape[1:], "queries and reference differ in dimension"
    assert not exclude_self or len(queries.ids) == len(reference.ids), "exclude_self takes one set twice"
    assert k >= 1 and len(reference.ids), "there is something to find"
    if reference.nearest is not None:
        own = np.arange(len(queries.ids)) if exclude_self else np.full(len(queries.ids), -1)
        exact, index = reference.nearest(np.asarray(queries.vectors), np.asarray(reference.vectors), own, k)
        return _neighbors(queries, reference, *_ranked(exact, index, own, k))
    nearest = _Search(reference.vectors, k if reference.refine is None else max(k, PROPOSED), memory_mib)
    shape = (len(queries.vectors), k)
    distances, indices = np.empty(shape, np.float32), np.empty(shape, np.int64)
    for rows in _blocks(len(queries.vectors), nearest.query_rows):
        own = np.arange(rows.start, rows.stop) if exclude_self else np.full(rows.stop - rows.start, -1)
        found = nearest(queries.vectors[rows], own)
        if reference.refine is not None:
            found = _refined(queries, rows, reference, found[1], k=k, memory_mib=memory_mib)
        distances[rows], indices[rows] = found
    return _neighbors(queries, reference, distances, indices)


def _neighbors(queries: Features, reference: Features, distances: np.ndarray, indices: np.ndarray) -> Neighbors:
    """Return what was found of the queries' neighbors in the reference."""
    return Neighbors(
        space=queries.space,
        queries=queries.of,
        reference=reference.of,
        distances=distances.astype(np.float32),
        indices=indices,
        reference_ids=reference.ids,
    )


def paired_distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the distance of row i to row i, float64 ``[n]``, for two float32 ``[n, d]`` or ``[n, views, d]``."""
    rows = np.arange(len(first))
    return _least_distance(first, second, rows)


def is_copy(nearest: ArrayLike, second: ArrayLike, ratio: float | None = None) -> np.ndarray:
    """Return where a picture is a copy of its nearest image: d1 = 0 or d1 < c d2 (docs/statistics.md 4.1).

    Parameters
    ----------
    nearest, second
        d1 and d2, float ``[n]`` or numbers, in the units of one space: distances to the nearest image and to the
        second nearest, or to the nearest that is no duplicate of it.
    ratio
        c in [0, 1]; None for 1/3, the gap ratio of Yoon et al. 2023 and Gu et al. 2023 (arXiv 2310.02664).

    Returns
    -------
    np.ndarray
        bool of the shape of ``nearest``. False where d1 is NaN, and where d2 is unless d1 is 0.
    """
    d1, d2 = np.asarray(nearest), np.asarray(second)
    return np.asarray((d1 == 0) | (d1 < (COPY_RATIO if ratio is None else ratio) * d2))


def shifted_distance(first: np.ndarray, second: np.ndarray, n_shifts: int = 16) -> np.ndarray:
    """Return each seed's mean distance to *different* seeds of the twin, float64 ``[n]``.

    Row i of ``first`` is compared with rows i+1, ..., i+``n_shifts`` of ``second``,
    cyclically: the same pairs in every run, and a score per seed that can be resampled
    like any other. With n <= ``n_shifts`` all n - 1 other rows are taken; a single row has
    no other seed, so its score is NaN.
    """
    rows = np.arange(len(first))
    shifts = range(1, min(n_shifts, len(first) - 1) + 1)
    if not shifts:
        return np.full(len(first), np.nan)
    total = np.zeros(len(first))
    for shift in shifts:
        total += _least_distance(first, second, (rows + shift) % len(first))
    return total / len(shifts)


class _Search:
    """The search of one reference set for ``k`` neighbors within a memory budget."""

    def __init__(self, reference: np.ndarray, k: int, memory_mib: int) -> None:
        self.reference, self.k = _with_views(reference), k
        # Distances do not change when both sides are centered, but rounding errors shrink with the norms.
        self.center = np.asarray(np.mean(self.reference, axis=0, dtype=np.float64), np.float32)  # [views, d]
        n_reference, n_views, dim = self.reference.shape
        part = memory_mib * 2**20 // 4  # each for queries, reference, pairs and whole rows; faiss has its own buffers
        candidates = (32 + 8 * n_views) * (k + EXTRA_CANDIDATES)  # bytes of faiss's heap, of these and their distances
        self.query_rows = max(1, part // (n_views * (4 * dim + candidates)))  # and a centered copy
        self.reference_rows = max(1, part // (16 * dim))  # centered copy and faiss's copy of it, or two in float64
        self.pair_rows = max(1, part // (32 * n_views * dim))  # two float32 vectors, their difference, its square
        self.whole_rows = max(1, part // (24 * n_reference))  # float64 distances, twice while sorting, and indices

    def __call__(self, queries: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return float64 distances and int64 indices, ``[n, k]``; query i may not find reference ``own[i]``."""
        queries = _with_views(queries)
        shape = (len(queries), self.k)
        distances, indices, certain = np.empty(shape), np.empty(shape, np.int64), np.zeros(len(queries), bool)
        if self.k + EXTRA_CANDIDATES < len(self.reference):
            distances, indices, certain = self._among_candidates(queries, own)
        uncertain = np.flatnonzero(~certain)
        for rows in _blocks(len(uncertain), self.whole_rows):
            part = uncertain[rows]
            distances[part], indices[part] = self._among_all(queries[part], own[part])
        return distances, indices

    def _among_candidates(self, queries: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return distances and indices by faiss, and for which queries these are surely the k nearest.

        Each view proposes its own candidates. A vector that none of them proposes is farther
        than the k-th if every view is certain of that.
        """
        centered = queries - self.center
        squared, candidates = zip(*(self._proposed(centered[:, v], v) for v in range(queries.shape[1])), strict=True)
        every = np.concatenate(candidates, axis=1)
        exact = self._exact(queries, every)
        distances, indices = _ranked(np.where(_repeated(every), np.inf, exact.min(axis=2)), every, own, self.k)
        certain = np.ones(len(queries), bool)
        for v, of_view in enumerate(np.split(exact, len(candidates), axis=1)):
            norms = np.linalg.norm(centered[:, v].astype(np.float64), axis=1)
            certain &= _are_certain(squared[v], of_view[:, :, v], distances[:, -1], norms, queries.shape[2])
        return distances, indices, certain

    def _proposed(self, centered: np.ndarray, view: int) -> tuple[np.ndarray, np.ndarray]:
        """Return squared distances and indices of the nearest in one view, ``[n, k + EXTRA_CANDIDATES]``."""
        from faiss.contrib.exhaustive_search import knn_ground_truth

        reference, center = self.reference[:, view], self.center[view]
        blocks = (reference[rows] - center for rows in _blocks(len(reference), self.reference_rows))
        squared, candidates = knn_ground_truth(np.ascontiguousarray(centered), blocks, self.k + EXTRA_CANDIDATES)
        return squared, candidates

    def _among_all(self, queries: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return distances and indices after a float64 look at every row of the reference."""
        squared, norms = self._expanded(queries)
        last = min(self.k, squared.shape[1]) - 1
        found = [self._among_near(*row, last) for row in zip(queries, own, squared, norms, strict=True)]
        return np.concatenate([distances for distances, _ in found]), np.concatenate([indices for _, indices in found])

    def _among_near(
        self, query: np.ndarray, own: int, squared: np.ndarray, norm: np.ndarray, last: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest, ``[1, k]``, among all rows that rounding does not place behind the k-th."""
        others = np.where(np.arange(len(squared)) == own, np.inf, squared)
        kth = np.partition(others, last)[last]
        # The error can have moved the k-th and another by one bound each; twice that costs nothing in float64.
        reach = kth + 4 * _expansion_error(norm, np.sqrt(np.maximum(kth, 0)), query.shape[1], FLOAT64_ROUNDOFF)
        near = np.flatnonzero(others <= reach)[None]
        return _ranked(self._exact(query[None], near).min(axis=2), near, np.array([own]), self.k)

    def _expanded(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return squared distances |q|^2 + |x|^2 - 2 q.x to every row, float64 ``[n, n_reference]``, and all |q|.

        Of several views the least distance is taken, and the largest norm, whose error bounds every view's.
        """
        centered = np.subtract(queries, self.center, dtype=np.float64)
        norms = np.linalg.norm(centered, axis=2)
        squared = np.full((len(queries), len(self.reference)), np.inf)
        for rows in _blocks(len(self.reference), self.reference_rows):
            for v in range(queries.shape[1]):
                reference = np.subtract(self.reference[rows, v], self.center[v], dtype=np.float64)
                of_view = np.square(reference).sum(axis=1) - 2 * (centered[:, v] @ reference.T)
                squared[:, rows] = np.minimum(squared[:, rows], of_view + norms[:, [v]] ** 2)
        return squared, norms.max(axis=1)

    def _exact(self, queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Return the float64 distances of each query to its candidates by view, ``[n, n_candidates, views]``."""
        rows = np.repeat(np.arange(len(queries)), candidates.shape[1])
        found = _distances(queries, rows, self.reference, candidates.ravel(), self.pair_rows)
        return found.reshape(*candidates.shape, -1)


def _refined(
    queries: Features, rows: slice, reference: Features, proposed: np.ndarray, k: int, memory_mib: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return distances and indices, ``[n, k]``, of the proposed images that are nearest as pictures.

    ``proposed`` are reference indices for some rows of the queries, int64 ``[n, proposed]``; -1 where there are fewer.
    """
    assert queries.pictures is not None and reference.pictures is not None, "what refines is given pictures"
    assert reference.refine is not None
    distances = np.empty(proposed.shape)
    size = queries.pictures(np.array([rows.start])).nbytes
    for part in _blocks(len(proposed), max(1, memory_mib * 2**20 // (4 * size * proposed.shape[1]))):
        asked = queries.pictures(np.arange(rows.start + part.start, rows.start + part.stop))
        each, of_each = np.unique(np.maximum(proposed[part], 0), return_inverse=True)  # read once, if named often
        candidates = reference.pictures(each)[of_each.reshape(proposed[part].shape)]
        distances[part] = reference.refine(asked, candidates)
    assert np.isfinite(distances).all(), f"the {reference.space} space gave a distance of pictures that is not finite"
    return _ranked(distances, proposed, np.full(len(proposed), -1), k)


def _with_views(vectors: np.ndarray) -> np.ndarray:
    """Return vectors as ``[n, views, d]``."""
    return vectors if vectors.ndim == 3 else vectors[:, None]


def _least_distance(first: np.ndarray, second: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the distance of row i of ``first`` to row ``rows[i]`` of ``second``, float64 ``[n]``."""
    assert first.shape == second.shape, f"{first.shape} and {second.shape} cannot be paired"
    found = _distances(_with_views(first), np.arange(len(first)), _with_views(second), rows)
    return np.asarray(found.min(axis=1))


def _are_certain(squared: np.ndarray, exact: np.ndarray, kth: np.ndarray, norms: np.ndarray, dim: int) -> np.ndarray:
    """Return for which queries no vector outside the candidates can be among the k nearest.

    A vector left out has a float32 distance of at least that of the last candidate. Were
    it as near as the k-th, its float32 distance could not exceed ``kth^2`` by more than the
    error bound; so it suffices that the last candidate does. The candidates' own errors
    are checked as well, in case the arithmetic (TF32, overflow) is not what the bound assumes.
    """
    in_bound = np.abs(squared - exact**2) <= _expansion_error(norms[:, None], exact, dim, FLOAT32_ROUNDOFF)
    reach = kth**2 + _expansion_error(norms, kth, dim, FLOAT32_ROUNDOFF)
    return np.asarray(in_bound.all(axis=1) & (squared.max(axis=1) > reach))


def _expansion_error(norm: np.ndarray, distance: np.ndarray, dim: int, roundoff: float) -> np.ndarray:
    """Return a bound on the error of a squared distance computed as |q|^2 + |x|^2 - 2 q.x.

    Each term is a sum of ``dim`` products, wrong by at most ``gamma = dim u / (1 - dim u)``
    of the sum of their sizes, in whatever order they are added (Higham 2002, equation 3.5);
    16 more roundings cover centering and the final sums. With |x| <= |q| + distance the
    whole is at most ``gamma (|q| + |x|)^2``.
    """
    roundings = (dim + 16) * roundoff
    return np.asarray(roundings / (1 - roundings) * (2 * norm + distance) ** 2)


def _repeated(numbers: np.ndarray) -> np.ndarray:
    """Return whether a number stands farther left in its row, too, bool ``[n, m]``."""
    order = np.argsort(numbers, axis=1, kind="stable")
    ascending = np.take_along_axis(numbers, order, 1)
    repeated = np.zeros(numbers.shape, bool)
    np.put_along_axis(repeated, order[:, 1:], ascending[:, 1:] == ascending[:, :-1], 1)
    return repeated


def _ranked(exact: np.ndarray, candidates: np.ndarray, own: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest by (distance, index) without ``own``; NaN and -1 where there are fewer."""
    exact = np.where(candidates == own[:, None], np.inf, exact)
    order = np.lexsort((candidates, exact), axis=-1)[:, :k]
    distances, indices = np.take_along_axis(exact, order, 1), np.take_along_axis(candidates, order, 1)
    missing = ((0, 0), (0, k - order.shape[1]))
    distances = np.pad(distances, missing, constant_values=np.inf)
    indices = np.pad(indices, missing, constant_values=-1)
    absent = np.isinf(distances)
    return np.where(absent, np.nan, distances), np.where(absent, -1, indices)


def _distances(
    first: np.ndarray, first_rows: np.ndarray, second: np.ndarray, second_rows: np.ndarray, block: int = 4096
) -> np.ndarray:
    """Return the distance of ``first[first_rows[i]]`` to ``second[second_rows[i]]`` by view, float64 ``[n, views]``."""
    distances = np.empty((len(first_rows), first.shape[1]))
    for pairs in _blocks(len(first_rows), block):
        difference = np.subtract(first[first_rows[pairs]], second[second_rows[pairs]], dtype=np.float64)
        distances[pairs] = np.sqrt(np.square(difference, out=difference).sum(axis=2))
    return distances


def _blocks(n_rows: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of at most ``size`` rows."""
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))
