"""Nearest neighbors are exact: the same as a float64 search over all pairs, whatever faiss rounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from vectors import features

from auditor import neighbors
from auditor.neighbors import paired_distance, search, shifted_distance
from auditor.records import Features


def brute_force(queries, reference, k, exclude_self=False):
    """Distances and indices by float64 differences of all pairs; the stable sort puts the smaller index first."""
    queries, reference = (np.asarray(v, np.float32).astype(np.float64) for v in (queries, reference))
    distances = np.stack([np.linalg.norm(reference - query, axis=1) for query in queries])
    if exclude_self:
        np.fill_diagonal(distances, np.inf)
    indices = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, indices, axis=1), indices


def assert_exact(queries, reference, k, **options):
    found = search(features(queries), features(reference), k, **options)
    distances, indices = brute_force(queries, reference, k, options.get("exclude_self", False))
    np.testing.assert_array_equal(found.indices, indices)
    # float64 sums of d terms in another order, then rounded to float32
    np.testing.assert_allclose(found.distances, distances, rtol=1e-6)


def unit_vectors(rng, n, d):
    vectors = rng.normal(size=(n, d))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_four_points_on_a_line_are_found_in_order():
    found = search(features([[0.0]]), features([[5.0], [-1.0], [3.0], [2.0]]), k=3)
    np.testing.assert_array_equal(found.indices, [[1, 3, 2]])
    np.testing.assert_array_equal(found.distances, [[1, 2, 3]])
    assert found.distances.dtype == np.float32 and found.indices.dtype == np.int64
    np.testing.assert_array_equal(found.ids, [["1", "3", "2"]])


@pytest.mark.parametrize("k", [1, 8, 50])
def test_random_vectors_agree_with_brute_force(k):
    rng = np.random.default_rng(0)
    assert_exact(rng.normal(size=(500, 64)), rng.normal(size=(500, 64)), k)


def test_exact_duplicates_have_distance_zero_however_long_the_vectors():
    """float32 expansion returned 24 for the distance of identical vectors with squared norm 3e7."""
    rng = np.random.default_rng(1)
    reference = 5000 + 100 * rng.normal(size=(300, 64))
    found = search(features(reference[::3]), features(reference), k=1)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(0, 300, 3))
    assert (found.distances == 0).all()


def test_planted_copies_are_found():
    rng = np.random.default_rng(2)
    reference = unit_vectors(rng, 2000, 128)
    planted = rng.choice(2000, size=100, replace=False)
    found = search(features(reference[planted] + 1e-3 * rng.normal(size=(100, 128))), features(reference), k=2)
    np.testing.assert_array_equal(found.indices[:, 0], planted)
    assert (3 * found.distances[:, 0] < found.distances[:, 1]).all()


def test_ties_go_to_the_smallest_index():
    reference = np.vstack([np.eye(8), np.eye(8), np.eye(8)])
    found = search(features([np.zeros(8)]), features(reference), k=5)
    np.testing.assert_array_equal(found.indices, [[0, 1, 2, 3, 4]])
    found = search(features([np.eye(8)[3]]), features(reference), k=4)
    np.testing.assert_array_equal(found.indices, [[3, 11, 19, 0]])


def test_more_ties_than_candidates_still_go_to_the_smallest_index():
    """On a small grid of integers hundreds of points are equally near, more than faiss is asked for."""
    rng = np.random.default_rng(3)
    assert_exact(1000 * rng.integers(-1, 2, size=(100, 6)), 1000 * rng.integers(-1, 2, size=(4000, 6)), k=8)


def test_a_cluster_of_near_duplicates_is_named_right():
    """A hundred unit vectors 1e-4 apart: float32 cannot order them, and only 40 are candidates."""
    rng = np.random.default_rng(4)
    center = unit_vectors(rng, 1, 64)
    cluster = center + 1e-4 / np.sqrt(64) * rng.normal(size=(100, 64))
    queries = center + 1e-4 / np.sqrt(64) * rng.normal(size=(50, 64))
    assert_exact(queries, np.vstack([unit_vectors(rng, 3000, 64), cluster]), k=8)


@pytest.mark.parametrize("scale", [1e-25, 1e19])
def test_scales_at_which_float32_squares_vanish_or_overflow_are_searched_right(scale):
    rng = np.random.default_rng(5)
    assert_exact(scale * rng.normal(size=(20, 16)), scale * rng.normal(size=(300, 16)), k=3)


def test_too_coarse_arithmetic_is_noticed_and_made_good(monkeypatch):
    """Squared distances wrong by 5e-4, as products in TF32 make them on some GPUs, must not be believed."""
    rng = np.random.default_rng(6)

    def coarse(queries, blocks, k):
        reference = np.concatenate(list(blocks))
        squared = np.square(queries[:, None] - reference).sum(axis=2)
        squared += rng.normal(scale=5e-4, size=squared.shape).astype(np.float32)
        order = np.argsort(squared, axis=1)[:, :k]
        return np.take_along_axis(squared, order, axis=1), order

    monkeypatch.setattr("faiss.contrib.exhaustive_search.knn_ground_truth", coarse)
    centers = unit_vectors(rng, 10, 32)
    # Distances of about 0.04 inside a cluster, 0.0016 squared: plain to float32.
    reference, queries = (centers.repeat(n, axis=0) + 0.005 * rng.normal(size=(10 * n, 32)) for n in (100, 20))
    assert_exact(queries, reference, k=3)


def test_nearly_every_query_is_settled_by_the_candidates(monkeypatch):
    """The look at every row is for exceptions: features of 512 dimensions must not need it."""
    monkeypatch.delattr(neighbors._Search, "_among_all")
    rng = np.random.default_rng(7)
    with pytest.raises(AttributeError):
        search(features(np.zeros((1, 4))), features(np.zeros((100, 4))), k=1)
    assert_exact(unit_vectors(rng, 50, 512), unit_vectors(rng, 2000, 512), k=50)


def test_missing_neighbors_are_nan_with_index_minus_one():
    found = search(features([[0.0], [10.0]]), features([[1.0], [3.0]]), k=4)
    np.testing.assert_array_equal(found.indices, [[0, 1, -1, -1], [1, 0, -1, -1]])
    np.testing.assert_array_equal(found.distances, [[1, 3, np.nan, np.nan], [7, 9, np.nan, np.nan]])


def test_the_result_does_not_depend_on_the_memory_budget(monkeypatch):
    rng = np.random.default_rng(8)
    queries, reference = rng.normal(size=(300, 32)), np.repeat(rng.normal(size=(700, 32)), 2, axis=0)
    wide = search(features(queries), features(reference), k=45)
    block_rows = {"query_rows": 7, "reference_rows": 11, "pair_rows": 13, "whole_rows": 3}
    original = neighbors._Search.__init__

    def narrow_blocks(self, *arguments):
        original(self, *arguments)
        vars(self).update(block_rows)

    monkeypatch.setattr(neighbors._Search, "__init__", narrow_blocks)
    narrow = search(features(queries), features(reference), k=45)
    np.testing.assert_array_equal(narrow.indices, wide.indices)
    np.testing.assert_array_equal(narrow.distances, wide.distances)


def test_a_smaller_budget_means_smaller_blocks():
    reference = np.zeros((1000, 512), np.float32)
    small, large = (neighbors._Search(reference, 8, mib) for mib in (1, 64))
    assert small.query_rows < large.query_rows and small.reference_rows < large.reference_rows
    assert small.reference_rows * 16 * 512 <= 2**20


def test_exclude_self_drops_the_image_and_keeps_its_duplicate():
    found = search(features([[0.0], [4.0], [0.0]]), features([[0.0], [4.0], [0.0]]), k=2, exclude_self=True)
    np.testing.assert_array_equal(found.indices, [[2, 1], [0, 2], [0, 1]])
    np.testing.assert_array_equal(found.distances, [[0, 4], [4, 4], [0, 4]])
    single = search(features([[1.0]]), features([[1.0]]), k=1, exclude_self=True)
    assert np.isnan(single.distances).all() and (single.indices == -1).all()


def test_exclude_self_agrees_with_brute_force_across_query_blocks():
    vectors = np.random.default_rng(9).normal(size=(1500, 16))
    assert_exact(vectors, vectors, k=8, exclude_self=True, memory_mib=2)


def test_vectors_of_two_dimensions_cannot_be_compared():
    with pytest.raises(AssertionError):
        search(features(np.zeros((2, 3))), features(np.zeros((2, 4))), k=1)


def test_paired_distance_is_the_norm_of_the_difference():
    distances = paired_distance(np.float32([[0, 0], [1, 1]]), np.float32([[3, 4], [1, 1]]))
    np.testing.assert_array_equal(distances, [5, 0])
    assert distances.dtype == np.float64


def test_paired_distance_keeps_a_small_difference_of_long_vectors():
    first = np.full((1, 100), 1000, np.float32)
    assert paired_distance(first, first + np.float32(0.125))[0] == 1.25


def test_shifted_distance_of_three_seeds_is_the_mean_to_the_two_others():
    first, second = np.float32([[0], [0], [0]]), np.float32([[1], [2], [4]])
    np.testing.assert_array_equal(shifted_distance(first, second), [3, 2.5, 1.5])


def test_shifted_distance_takes_the_sixteen_following_seeds():
    n = 40
    first, second = np.zeros((n, 1), np.float32), np.arange(n, dtype=np.float32)[:, None]
    others = (np.arange(n)[:, None] + np.arange(1, 17)) % n
    np.testing.assert_allclose(shifted_distance(first, second), others.mean(axis=1))


@pytest.mark.parametrize("n", [2, 16, 17, 18])
def test_shifted_distance_never_compares_a_seed_with_itself(n):
    """One-hot rows are at distance 0 from themselves and sqrt(2) from all others."""
    rows = np.eye(n, dtype=np.float32)
    np.testing.assert_allclose(shifted_distance(rows, rows), np.sqrt(2))


def test_a_single_seed_has_no_different_seed():
    assert np.isnan(shifted_distance(np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32))).all()


def test_a_copy_is_nearer_than_a_third_of_the_second_or_at_distance_zero():
    assert neighbors.is_copy([0.0, 0.9, 1.0, 1.1], [0.0, 3.0, 3.0, 3.0]).tolist() == [True, True, False, False]
    assert neighbors.is_copy([1.4, 1.6], [3.0, 3.0], ratio=0.5).tolist() == [True, False]
    assert neighbors.is_copy(0.9, 3.0) and not neighbors.is_copy(1.0, 3.0)


def test_a_ratio_of_zero_flags_identical_images_alone():
    assert neighbors.is_copy([0.0, 0.1], [3.0, 3.0], ratio=0.0).tolist() == [True, False]


def test_what_is_not_known_is_no_copy_unless_the_nearest_image_is_identical():
    assert neighbors.is_copy([np.nan, 1.0, 0.0], [3.0, np.nan, np.nan]).tolist() == [False, False, True]


# Several views of a picture, and spaces that compare pictures


def least_over_views(queries, reference, k, exclude_self=False):
    """Distances and indices by float64 differences of all pairs, the least over equal views."""
    queries, reference = (np.asarray(v, np.float32).astype(np.float64) for v in (queries, reference))
    distances = np.stack([np.linalg.norm(reference - query, axis=2).min(axis=1) for query in queries])
    if exclude_self:
        np.fill_diagonal(distances, np.inf)
    indices = np.argsort(distances, axis=1, kind="stable")[:, :k]
    distances = np.take_along_axis(distances, indices, axis=1)
    return np.where(np.isinf(distances), np.nan, distances), np.where(np.isinf(distances), -1, indices)


def assert_exact_by_views(queries, reference, k, **options):
    found = search(features(queries), features(reference), k, **options)
    distances, indices = least_over_views(queries, reference, k, options.get("exclude_self", False))
    known = indices.shape[1]
    np.testing.assert_array_equal(found.indices[:, :known], indices)
    np.testing.assert_allclose(found.distances[:, :known], distances, rtol=1e-6)
    assert (found.indices[:, known:] == -1).all() and np.isnan(found.distances[:, known:]).all()


@pytest.mark.parametrize("n_views", [1, 2, 3])
@pytest.mark.parametrize(("n", "k"), [(500, 1), (500, 8), (40, 50), (3, 8), (1, 1)])
def test_of_several_views_the_nearest_counts(n_views, n, k):
    rng = np.random.default_rng(20)
    assert_exact_by_views(rng.normal(size=(60, n_views, 24)), rng.normal(size=(n, n_views, 24)), k)


@pytest.mark.parametrize("seed", range(12))
def test_views_agree_with_brute_force_on_grids_full_of_ties_and_duplicates(seed):
    """Shapes and sizes are drawn too; on a grid of few integers most distances are tied, within and across views."""
    rng = np.random.default_rng([21, seed])
    n_views, dim, k, n = rng.integers(1, (4, 7, 12, 400)).tolist()
    reference = rng.integers(-1, 2, size=(n, n_views, dim))
    reference = reference[rng.integers(0, n, size=2 * n)]  # each about twice
    assert_exact_by_views(rng.integers(-1, 2, size=(30, n_views, dim)), reference, k)
    assert_exact_by_views(reference, reference, k, exclude_self=True, memory_mib=1)


def test_a_single_view_is_found_bit_for_bit_as_vectors_are():
    rng = np.random.default_rng(22)
    queries, reference = rng.normal(size=(200, 48)), np.repeat(rng.normal(size=(300, 48)), 2, axis=0)
    flat = search(features(queries), features(reference), k=9)
    viewed = search(features(queries[:, None]), features(reference[:, None]), k=9)
    np.testing.assert_array_equal(viewed.indices, flat.indices)
    np.testing.assert_array_equal(viewed.distances, flat.distances)


def test_views_are_compared_with_equal_views_only():
    reference = np.float32([[[0], [9]], [[9], [0]]])
    found = search(features(np.float32([[[0], [4]]])), features(reference), k=2)
    np.testing.assert_array_equal(found.indices, [[0, 1]])
    np.testing.assert_array_equal(found.distances, [[0, 4]])


def test_a_view_too_coarse_for_float32_is_noticed_and_made_good():
    """A hundred rows that only the second view tells apart, by less than float32 can order."""
    rng = np.random.default_rng(23)
    reference = np.stack([unit_vectors(rng, 3000, 64), unit_vectors(rng, 3000, 64)], axis=1)
    center = unit_vectors(rng, 1, 64)
    reference[:100, 1] = center + 1e-4 / 8 * rng.normal(size=(100, 64))
    queries = np.stack([unit_vectors(rng, 50, 64), center + 1e-4 / 8 * rng.normal(size=(50, 64))], axis=1)
    assert_exact_by_views(queries, reference, k=8)


def test_nearly_every_query_with_views_is_settled_by_the_candidates(monkeypatch):
    monkeypatch.delattr(neighbors._Search, "_among_all")
    rng = np.random.default_rng(24)
    queries, reference = (unit_vectors(rng, 2 * n, 256).reshape(n, 2, 256) for n in (50, 2000))
    assert_exact_by_views(queries, reference, k=50)


def test_paired_and_shifted_distances_take_the_least_over_equal_views():
    first, second = np.float32([[[0], [0]], [[0], [0]]]), np.float32([[[3], [4]], [[9], [1]]])
    np.testing.assert_array_equal(paired_distance(first, second), [3, 1])
    np.testing.assert_array_equal(shifted_distance(first, second), [1, 3])


def with_pictures(values, refine, vectors=None):
    """Features of pictures of one pixel, which vectors show rightly unless others are given."""
    pictures = np.asarray(values, np.uint8)[:, None, None, None]
    found = features(pictures.reshape(-1, 1) if vectors is None else vectors)
    return replace(found, pictures=lambda rows: pictures[rows], refine=refine)


def difference(queries, candidates):
    """How far the pictures' pixels are apart."""
    assert queries.dtype == candidates.dtype == np.uint8 and candidates.shape[0] == len(queries)
    return np.abs(queries[:, None].astype(float) - candidates).mean(axis=(2, 3, 4))


def test_what_refines_orders_what_the_search_proposes():
    pictures = [10, 20, 30, 40]
    known = with_pictures(pictures, lambda queries, candidates: 255 - difference(queries, candidates))
    found = search(with_pictures([10], None), known, k=3)
    np.testing.assert_array_equal(found.indices, [[3, 2, 1]])
    np.testing.assert_array_equal(found.distances, [[225, 235, 245]])


@pytest.mark.parametrize(("n", "k"), [(500, 1), (500, 8), (90, 8), (3, 8), (1, 1)])
@pytest.mark.parametrize("exclude_self", [False, True])
def test_refined_neighbors_are_the_nearest_pictures_among_those_proposed(n, k, exclude_self):
    """Vectors that tell a little less than the pictures: of equal distances the smaller index comes first."""
    rng = np.random.default_rng(25)
    pictures = rng.integers(0, 256, size=n)
    known = with_pictures(pictures, difference, pictures[:, None] // 8)
    found = search(known, known, k, exclude_self=exclude_self)
    proposed = search(features(known.vectors), features(known.vectors), max(k, neighbors.PROPOSED), exclude_self)
    for i, candidates in enumerate(proposed.indices):
        candidates = np.sort(candidates[candidates >= 0])
        apart = np.abs(pictures[candidates] - pictures[i])
        nearest = candidates[np.argsort(apart, kind="stable")[:k]]
        np.testing.assert_array_equal(found.indices[i, : len(nearest)], nearest)
        np.testing.assert_array_equal(found.distances[i, : len(nearest)], np.sort(apart)[:k])
        assert (found.indices[i, len(nearest) :] == -1).all()


def test_the_nearest_picture_does_not_depend_on_how_many_are_asked_for():
    rng = np.random.default_rng(26)
    pictures = rng.integers(0, 256, size=400)
    known = with_pictures(pictures, difference, rng.normal(size=(400, 3)))
    asked = with_pictures(pictures[:50] ^ 1, None, rng.normal(size=(50, 3)))
    one, many = search(asked, known, 1), search(asked, known, 50)
    np.testing.assert_array_equal(one.indices[:, 0], many.indices[:, 0])
    np.testing.assert_array_equal(many.indices, search(asked, known, 50, memory_mib=0).indices)


def test_features_of_some_rows_know_the_pictures_of_these_rows():
    known = with_pictures([10, 20, 30], difference).rows(np.array([2, 0]))
    found = search(with_pictures([29], None), known, k=2)
    np.testing.assert_array_equal(found.ids, [["2", "0"]])
    np.testing.assert_array_equal(found.distances, [[1, 19]])


def test_joined_features_know_the_pictures_of_every_part():
    parts = [with_pictures(each, difference) for each in ([10, 20], [30, 41, 50])]
    found = search(with_pictures([42], None), Features.joined(parts, "pool"), k=5)
    np.testing.assert_array_equal(found.ids, [["3", "4", "2", "1", "0"]])
    np.testing.assert_array_equal(found.distances, [[1, 8, 12, 22, 32]])
    plain = Features.joined([features([[1.0]]), features([[2.0], [3.0]])], "pool")
    assert plain.ids == ("0", "1", "2") and plain.pictures is None and plain.vectors.tolist() == [[1], [2], [3]]


# Spaces that look for the nearest themselves


def on_a_line(values, compared=9):
    """Numbers, of which a space compares the nearest few, in no order."""

    def nearest(queries, reference, own, k):
        apart = np.abs(queries.astype(float) - reference[:, 0])
        apart[np.flatnonzero(own >= 0), own[own >= 0]] = np.inf
        chosen = np.argsort(apart, axis=1, kind="stable")[:, :compared][:, ::-1]
        return np.take_along_axis(apart, chosen, axis=1), chosen

    return replace(features(np.array(values, float)[:, None]), nearest=nearest)


def test_what_a_space_finds_itself_is_ordered_by_distance_and_then_by_number():
    found = search(on_a_line([4.0]), on_a_line([9, 3, 5, 4.5, 0]), k=4)
    np.testing.assert_array_equal(found.indices, [[3, 1, 2, 4]])
    np.testing.assert_array_equal(found.distances, np.float32([[0.5, 1, 1, 4]]))


def test_ranks_beyond_what_a_space_compared_are_empty():
    found = search(on_a_line([0.0]), on_a_line(range(50), compared=3), k=5)
    np.testing.assert_array_equal(found.indices, [[0, 1, 2, -1, -1]])
    np.testing.assert_array_equal(found.distances, [[0, 1, 2, np.nan, np.nan]])


@pytest.mark.parametrize("n", [1, 2, 30])
def test_a_set_whose_space_looks_for_the_nearest_leaves_out_each_picture_alone(n):
    known = on_a_line(range(n))
    found = search(known, known, k=2, exclude_self=True)
    assert (found.indices != np.arange(n)[:, None]).all()
    assert (found.distances[:, : min(n - 1, 1)] == 1).all()


def test_features_of_some_rows_and_joined_ones_keep_how_the_nearest_are_found():
    known = on_a_line(range(9))
    assert not known.are_points and known.rows(np.array([2, 0])).nearest is known.nearest
    assert Features.joined([known, known], "pool").nearest is known.nearest
