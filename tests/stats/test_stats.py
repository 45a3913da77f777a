"""Statistics agree with closed forms, with exhaustive counting, with scipy, and with their nominal error rates.

Simulations are seeded; their tolerance is said where it stands. Rules are numbered as in docs/statistics.md.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from auditor.records import Scores
from auditor.stats import intervals, minima
from auditor.stats.counts import clopper_pearson, holm, more_hits, paired_hits
from auditor.stats.landing import Landing, hub_variance, own_share_both, own_share_one
from auditor.stats.relabeling import Pool, at_least, effective_images, relabel, relabeling_test, step_down_max_t


def scores(values, note: str = "", unit: str = "seed") -> Scores:
    values = np.asarray(values, dtype=float)
    return Scores(unit, np.arange(len(values)), values, note)


def pool_of(labels, groups=None) -> Pool:
    labels = np.asarray(labels, dtype=float)
    ids = tuple(("a" if label > 0 else "b", f"{i}.png") for i, label in enumerate(labels))
    return Pool(ids, labels, np.arange(len(labels)) if groups is None else np.asarray(groups))


def halves(n: int) -> Pool:
    """A pool of n images per half, a's first, every image its own group."""
    return pool_of([1] * n + [-1] * n)


def landing(images, pool: Pool, gap=1.0) -> Landing:
    """Samples whose nearest pool image is given, one per seed; the other half's nearest is any image of it."""
    images = np.asarray(images)
    in_a = (pool.labels[images] > 0).astype(float)
    some_a, some_b = np.flatnonzero(pool.labels > 0)[0], np.flatnonzero(pool.labels < 0)[0]
    nearest_a, nearest_b = np.where(in_a == 1, images, some_a), np.where(in_a == 1, some_b, images)
    return Landing(nearest_a, nearest_b, in_a, np.broadcast_to(np.asarray(gap, float), images.shape))


def numbers(both) -> list[float]:
    """What own_share_both returns, as one list."""
    estimate, v_seed, v_hub = both
    return [estimate.value, estimate.low, estimate.high, v_seed, v_hub]


def random_landing(rng, pool: Pool, n_seeds: int) -> Landing:
    """Samples that land anywhere, one in four of them equally near to both halves."""
    a, b = np.flatnonzero(pool.labels > 0), np.flatnonzero(pool.labels < 0)
    in_a = rng.choice([0.0, 0.5, 0.5, 1.0, 1.0, 1.0, 0.0, 0.0], n_seeds)
    return Landing(rng.choice(a, n_seeds), rng.choice(b, n_seeds), in_a, rng.uniform(size=n_seeds))


# ---------------------------------------------------------------------------
# One value and its interval
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 10, 2000])
def test_zero_hits_still_have_a_positive_upper_limit(n):
    low, high = clopper_pearson(0, n)
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / n), rel=1e-9)


@pytest.mark.parametrize("n", [1, 10, 2000])
def test_n_hits_of_n_still_have_a_lower_limit_below_one(n):
    low, high = clopper_pearson(n, n)
    assert low == pytest.approx(0.025 ** (1 / n), rel=1e-9)
    assert high == 1


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (1, 7), (3, 7), (7, 7), (13, 2000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_clopper_pearson_agrees_with_scipy(hits, n, level):
    expected = scipy_stats.binomtest(hits, n).proportion_ci(level, method="exact")
    assert clopper_pearson(hits, n, level) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_half_a_hit_lies_between_its_neighbors():
    ends = np.array([clopper_pearson(hits, 10) for hits in np.arange(0, 10.5, 0.5)])
    assert (np.diff(ends, axis=0) > 0).all()


def test_a_proportion_is_the_mean_inside_its_interval():
    estimate = intervals.proportion(scores([1, 0, 0.5, 0, 0]))
    assert estimate.value == pytest.approx(0.3)
    assert (estimate.low, estimate.high) == pytest.approx(clopper_pearson(1.5, 5))
    assert (estimate.n, estimate.unit, estimate.level) == (5, "seed", 0.95)


def test_the_t_interval_agrees_with_scipy():
    x = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    expected = scipy_stats.ttest_1samp(x, 0).confidence_interval(0.95)
    estimate = intervals.mean_interval(scores(x, "some note"))
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((2.8, expected.low, expected.high))
    assert estimate.note == "some note"


@pytest.mark.parametrize("interval", [intervals.mean_interval, intervals.proportion])
@pytest.mark.parametrize("values", [[], [0.5, np.nan], [np.inf, 1.0]])
def test_undefined_scores_give_nan_and_a_note(interval, values):
    for note in ("", "why"):
        estimate = interval(scores(values, note))
        assert np.isnan([estimate.value, estimate.low, estimate.high]).all()
        assert estimate.note == (note or "some scores are not defined")
        assert estimate.n == len(values)


def test_one_unit_has_a_value_and_no_interval():
    estimate = intervals.mean_interval(scores([7.0], unit="image"))
    assert estimate.value == 7
    assert np.isnan([estimate.low, estimate.high]).all()
    assert "one image" in estimate.note


# ---------------------------------------------------------------------------
# Relabeling (2.1 to 2.4)
# ---------------------------------------------------------------------------


@pytest.fixture
def grouped() -> Pool:
    """Half a has groups of 1, 1, 1, 2, 3 images, half b of 1, 1, 2, 2, 2: 8 images each."""
    sizes = {"a": [1, 1, 1, 2, 3], "b": [1, 1, 2, 2, 2]}
    groups = np.repeat(np.arange(10), sizes["a"] + sizes["b"])
    return pool_of(np.repeat([1, -1], [8, 8]), 7 * groups + 3)  # group numbers need not be 0, 1, 2, ...


def test_row_zero_is_the_true_labelling(grouped):
    np.testing.assert_array_equal(relabel(grouped, 0, 10).labels[0], grouped.labels)


def test_every_relabeling_keeps_the_number_of_images_per_half(grouped):
    rows = relabel(grouped, 0, 200).labels
    assert rows.shape == (201, 16)
    np.testing.assert_array_equal((rows == 1).sum(axis=1), 8)
    np.testing.assert_array_equal((rows == -1).sum(axis=1), 8)


def test_images_of_one_group_move_together(grouped):
    rows = relabel(grouped, 0, 200).labels
    for group in np.unique(grouped.groups):
        members = rows[:, grouped.groups == group]
        np.testing.assert_array_equal(members, np.broadcast_to(members[:, :1], members.shape))


def test_groups_move_even_if_their_images_are_not_neighbors_in_the_pool():
    pool = pool_of([1, 1, 1, 1, -1, -1, -1, -1], groups=[5, 2, 5, 2, 9, 1, 9, 1])
    rows = relabel(pool, 0, 50).labels
    np.testing.assert_array_equal(rows[:, [0, 1, 4, 5]], rows[:, [2, 3, 6, 7]])
    assert len(np.unique(rows, axis=0)) == 6  # C(4, 2) ways to choose the groups of half a


def test_every_relabeling_keeps_the_sizes_of_the_groups_of_each_half(grouped):
    _, first, sizes = np.unique(grouped.groups, return_index=True, return_counts=True)
    for row in relabel(grouped, 0, 200).labels:
        assert sorted(sizes[row[first] == 1]) == [1, 1, 1, 2, 3]
        assert sorted(sizes[row[first] == -1]) == [1, 1, 2, 2, 2]


def test_the_expected_label_of_an_image_is_the_share_of_its_group_size(grouped):
    """Groups of 1: three of five in a, so (3 - 2) / 5; of 2: one of four, so (1 - 3) / 4; of 3: the only one, in a."""
    relabeling = relabel(grouped, 0, 4000)
    expected = {1: 0.2, 2: -0.5, 3: 1.0}
    size = np.array([(grouped.groups == group).sum() for group in grouped.groups])
    np.testing.assert_allclose(relabeling.mean, [expected[s] for s in size])
    # a mean of 4,000 labels of variance at most 1 has a standard error of at most 0.016
    np.testing.assert_allclose(relabeling.labels[1:].mean(axis=0), relabeling.mean, atol=4 * 0.016)


def test_a_statistic_is_what_exceeds_its_expectation_under_relabeling(grouped):
    """With groups of unequal size w.y has no mean of zero; z over 4,000 relabelings has, to 4 / sqrt(4,000)."""
    w = np.random.default_rng(30).uniform(size=(1, 16))
    relabeling = relabel(grouped, 0, 4000)
    test = relabeling_test(relabeling, w)
    assert abs(w @ relabeling.mean)[0] > 0.1
    assert test.value == pytest.approx(w @ grouped.labels - w @ relabeling.mean)
    assert test.z[1:].mean() == pytest.approx(0, abs=4 / np.sqrt(4000))
    assert test.z[0] == pytest.approx(test.value / test.sd)


def test_relabeling_depends_on_its_seed_alone(grouped):
    np.testing.assert_array_equal(relabel(grouped, 1, 20).labels, relabel(grouped, 1, 20).labels)
    assert (relabel(grouped, 1, 20).labels != relabel(grouped, 2, 20).labels).any()


def test_p_agrees_with_counting_all_splits():
    """All 20 splits of six images: sd and p of a statistic are known exactly."""
    pool, w = halves(3), np.array([[3.0, 1.0, 2.0, 0.5, -1.0, 2.5]])
    splits = np.full((20, 6), -1.0)
    for row, chosen in zip(splits, combinations(range(6), 3), strict=True):
        row[list(chosen)] = 1
    every = splits @ w[0]
    test = relabeling_test(relabel(pool, 3, 20_000), w)
    assert test.value[0] == pytest.approx(w[0] @ pool.labels)
    assert test.sd[0] == pytest.approx(every.std(), rel=0.03)  # Monte Carlo: relative error about 1 / sqrt(2 * 20,000)
    exact = np.mean(every >= w[0] @ pool.labels - 1e-9)
    assert test.p[0] == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))


def test_p_counts_the_true_labelling_and_is_never_zero():
    pool = halves(50)
    test = relabeling_test(relabel(pool, 0, 99), pool.labels[None])
    assert test.p[0] == 1 / 100


def test_relabelings_that_tie_with_the_truth_count():
    """One image carries all: half of the relabelings put it where it is (a copy alone has p = 1/2)."""
    w = np.zeros((1, 20))
    w[0, 0] = 0.1
    test = relabeling_test(relabel(halves(10), 0, 2000), w)
    assert test.p[0] == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 2000))


def test_identical_twins_have_z_zero_and_p_one():
    test = relabeling_test(relabel(halves(10), 0, 99), np.zeros((2, 20)))
    assert (test.z == 0).all()
    assert (test.p == 1).all() and (test.sd == 0).all() and (test.value == 0).all()


def test_a_statistic_that_no_relabeling_changes_is_no_evidence():
    """Equal weights give the same sum in every row, and rounding must not be divided by rounding."""
    test = relabeling_test(relabel(halves(30), 0, 200), np.full((1, 60), 0.1))
    assert test.p[0] == 1 and test.z[0, 0] == 0


def test_an_undefined_statistic_is_never_evidence():
    """NaN compares as false, so an undefined statistic had p = 0 and pulled every corrected p to 0 with it."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(3, 20))
    relabeling = relabel(halves(10), 0, 99)
    sound = relabeling_test(relabeling, w)
    w[1, 4] = np.nan
    test = relabeling_test(relabeling, w)
    assert test.p[1] == 1 and np.isnan(test.value[1])
    np.testing.assert_array_equal(test.p[[0, 2]], sound.p[[0, 2]])
    assert (step_down_max_t(test.z) >= test.p).all()


def test_p_is_uniform_if_nothing_depends_on_the_labels():
    """400 random splits with fixed weights; Kolmogorov-Smirnov at 1 %, p spread over its steps of 1/200."""
    rng = np.random.default_rng(4)
    w = rng.exponential(size=(1, 30))
    p = []
    for seed in range(400):
        pool = pool_of(rng.permutation([1] * 15 + [-1] * 15))
        p.append(relabeling_test(relabel(pool, seed, 199), w).p[0])
    spread = np.array(p) - rng.uniform(0, 1 / 200, len(p))
    assert scipy_stats.kstest(spread, "uniform").pvalue > 0.01


def test_step_down_max_t_errs_at_the_nominal_rate_over_a_whole_series():
    """1,000 random splits; 12 dependent statistics, two of them on few images (collapsed checkpoints).

    At .05 the standard error of the rate is .0069; three of them are allowed. Uncorrected, one false alarm among the
    twelve is far more frequent, so the correction is shown to bite.
    """
    rng = np.random.default_rng(5)
    common = rng.normal(size=(1, 40))
    w = 0.7 * common + rng.normal(size=(12, 40))
    w[0, 1:] = 0  # one image
    w[1, 5:] = 0
    alarms, uncorrected = [], []
    for seed in range(1000):
        pool = pool_of(rng.permutation([1] * 20 + [-1] * 20))
        test = relabeling_test(relabel(pool, seed, 199), w)
        alarms.append(step_down_max_t(test.z).min() <= 0.05)
        uncorrected.append(test.p.min() <= 0.05)
    assert np.mean(alarms) == pytest.approx(0.05, abs=3 * 0.0069)
    assert np.mean(uncorrected) > 0.15


def test_step_down_p_agrees_with_three_statistics_by_hand():
    """Order of the truth: 3, 2, 1. Largest of all: >= 3 in rows 0, 2. Of the last two: >= 2 in rows 0, 3, 4.

    Of the last alone: >= 1 in rows 0, 4, which is raised to 3/5 because corrected p may not fall.
    """
    z = np.array([[3.0, 1.0, 2.0], [0.5, 0.9, 0.0], [3.5, 0.0, 1.0], [0.0, 0.5, 2.5], [1.0, 2.0, 0.2]])
    np.testing.assert_allclose(step_down_max_t(z), [2 / 5, 3 / 5, 3 / 5])


def test_corrected_p_is_never_below_raw_p_and_keeps_its_order():
    z = np.random.default_rng(6).normal(size=(500, 25))
    raw, corrected = at_least(z, z[0]).mean(axis=0), step_down_max_t(z)
    assert (corrected >= raw).all()
    assert (np.diff(corrected[np.argsort(-z[0])]) >= 0).all()


def test_one_statistic_needs_no_correction():
    z = np.random.default_rng(7).normal(size=(100, 1))
    np.testing.assert_array_equal(step_down_max_t(z), at_least(z, z[0]).mean(axis=0))


def test_effective_images_are_all_for_equal_weights_and_one_for_one_image():
    w = np.array([[1.0] * 4, [-1.0, 1.0, -1.0, 1.0], [0, 0, 5.0, 0], [0.0] * 4, [2.0, 1.0, 1.0, 0]])
    np.testing.assert_allclose(effective_images(w), [4, 4, 1, 0, 16 / 6])


# ---------------------------------------------------------------------------
# Own-versus-other lean (3.3, 3.4)
# ---------------------------------------------------------------------------


def test_identical_twins_share_exactly_one_half():
    rng, pool = np.random.default_rng(8), halves(30)
    a = random_landing(rng, pool, 100)
    estimate, v_seed, v_hub = own_share_both(a, a, pool)
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0.5, 0.5)
    assert (v_seed, v_hub) == (0, 0)


def test_perfect_copiers_share_one():
    rng, pool = np.random.default_rng(9), halves(30)
    a, b = landing(rng.integers(0, 30, 200), pool), landing(rng.integers(30, 60, 200), pool)
    assert own_share_both(a, b, pool)[0].value == 1
    assert own_share_one(a, pool, 1.0, 0.1).value == 1
    assert own_share_one(b, pool, -1.0, 0.1).value == 1


def test_copiers_of_one_image_each_share_one_and_admit_that_it_may_be_two_hubs():
    pool = halves(30)
    estimate, v_seed, v_hub = own_share_both(landing([0] * 50, pool), landing([30] * 50, pool), pool)
    assert estimate.value == 1 and v_seed == 0
    assert estimate.low < 0.5  # sum a^2 = 2, mean a = 2/60: V_hub = (2 - 4/60) / 16
    assert v_hub == pytest.approx((2 - 4 / 60) / 16)


def test_naming_the_twins_the_other_way_round_changes_nothing():
    rng, pool = np.random.default_rng(10), halves(20)
    a, b = random_landing(rng, pool, 300), random_landing(rng, pool, 300)
    renamed = Pool(pool.ids, -pool.labels, pool.groups)
    flip = lambda each: Landing(each.nearest_b, each.nearest_a, 1 - each.in_a, each.gap)  # noqa: E731
    assert numbers(own_share_both(flip(b), flip(a), renamed)) == pytest.approx(numbers(own_share_both(a, b, pool)))


def test_swapping_own_and_other_mirrors_the_lean_about_one_half():
    rng, pool = np.random.default_rng(11), halves(20)
    a, b = random_landing(rng, pool, 300), random_landing(rng, pool, 300)
    true, swapped = own_share_both(a, b, pool)[0], own_share_both(b, a, pool)[0]
    assert true.value != 0.5
    assert (swapped.value, swapped.low, swapped.high) == pytest.approx((1 - true.value, 1 - true.high, 1 - true.low))


def test_the_share_is_the_mean_of_its_indicators_and_linear_in_labels():
    """T = 1/2 + 1/4 sum_i y_i c_i = mean of [1{A in a} + 1{B in b}] / 2, ties counting one half."""
    rng, pool = np.random.default_rng(12), halves(20)
    a, b = random_landing(rng, pool, 301), random_landing(rng, pool, 301)
    estimate = own_share_both(a, b, pool)[0]
    assert estimate.value == pytest.approx(np.mean((a.in_a + 1 - b.in_a) / 2))
    assert estimate.value == pytest.approx(0.5 + pool.labels @ (a.weights(40) - b.weights(40)) / 4)
    assert (a.in_a == 0.5).any()


def test_the_share_of_one_twin_is_linear_in_labels_too():
    rng, pool = np.random.default_rng(13), halves(20)
    a = random_landing(rng, pool, 301)
    share = 0.5 + pool.labels @ a.weights(40) / 2
    assert own_share_one(a, pool, 1.0, 0.01).value == pytest.approx(share)
    assert own_share_one(a, pool, -1.0, 0.01).value == pytest.approx(1 - share)


def test_landing_weights_sum_to_one_and_by_gap_to_the_mean_gap():
    rng, pool = np.random.default_rng(14), halves(20)
    a = random_landing(rng, pool, 100)
    assert a.weights(40).sum() == pytest.approx(1)
    assert a.weights(40, by_gap=True).sum() == pytest.approx(a.gap.mean())


@pytest.mark.parametrize("n_seeds", [4, 400])
def test_both_variances_agree_with_four_images_by_hand(n_seeds):
    """A lands on a0 a0 a0 b0, B on b0 a0 b1 b0, over and over: c = (1/2, 0, -1/4, -1/4), y c = (1/2, 0, 1/4, 1/4).

    Spread about the mean 1/4: 1/8. The twins differ on half of the seeds: seeds explain (1 - 3/8) / (S - 1).
    e = (1, 0, 1, 0) has variance 1/4, and T = 1/2 + 1/4.
    """
    pool, times = halves(2), n_seeds // 4
    estimate, v_seed, v_hub = own_share_both(
        landing([0, 0, 0, 2] * times, pool), landing([2, 0, 3, 2] * times, pool), pool
    )
    assert estimate.value == 0.75
    assert v_seed == pytest.approx(0.25 / (4 * n_seeds))
    assert v_hub == pytest.approx(max(0, 1 / 8 - (5 / 8) / (n_seeds - 1)) / 16)
    half = 1.959964 * np.sqrt(v_seed + v_hub)
    assert (estimate.low, estimate.high) == pytest.approx((max(0, 0.75 - half), min(1, 0.75 + half)))


def test_hub_variance_is_summed_within_groups_first():
    """Two groups of two: c = (1/2, 1/4, -3/4, 0), y c per group = (3/4, 3/4): no spread at all."""
    pool = pool_of([1, 1, -1, -1], groups=[0, 0, 1, 1])
    c = np.array([0.5, 0.25, -0.75, 0.0])
    assert hub_variance(c, pool, 1.0, 10**9) == 0
    assert hub_variance(c, replace(pool, groups=np.arange(4)), 1.0, 10**9) == pytest.approx(
        (0.25 + 0.0625 + 0.5625 - 1.5**2 / 4) / 16, rel=1e-6
    )


def test_which_image_of_a_group_is_nearest_changes_nothing():
    """Twins that land on two copies of one image differ by nothing; they were counted as differing by seeds."""
    pool = pool_of([1, 1, -1, -1, 1, -1], groups=[0, 0, 1, 1, 2, 3])
    b = landing([0, 2, 2, 0] * 25, pool)
    one = own_share_both(landing([0, 0, 4, 0] * 25, pool), b, pool)
    two = own_share_both(landing([1, 0, 4, 1] * 25, pool), b, pool)
    assert one[2] > 0
    assert numbers(one) == pytest.approx(numbers(two))


def test_independent_samples_that_land_anywhere_show_no_hubs():
    """Without truncation the mean of V_hub would be 0; it stays a small part of V_seed (100 images, 50 runs)."""
    rng, pool = np.random.default_rng(15), halves(50)
    variances = []
    for _ in range(50):
        a, b = (landing(rng.integers(0, 100, 500), pool) for _ in range(2))
        variances.append(own_share_both(a, b, pool)[1:])
    v_seed, v_hub = np.mean(variances, axis=0)
    assert v_seed == pytest.approx(0.5 / (4 * 500), rel=0.02)
    assert v_hub < 0.15 * v_seed


def test_the_two_variances_are_that_of_the_share_over_splits_and_seeds():
    """Twins of different style, neither of them leaning: 400 random splits, relative error 4 sqrt(2/400)."""
    rng = np.random.default_rng(16)
    style = rng.dirichlet(np.full(40, 0.3), size=2)
    values, variances = [], []
    for _ in range(400):
        pool = pool_of(rng.permutation([1] * 20 + [-1] * 20))
        a, b = (landing(rng.choice(40, 200, p=p), pool) for p in style)
        estimate, *parts = own_share_both(a, b, pool)
        values.append(estimate.value)
        variances.append(sum(parts))
    assert np.mean(values) == pytest.approx(0.5, abs=4 * np.std(values) / 20)
    assert np.mean(variances) == pytest.approx(np.var(values), rel=4 * np.sqrt(2 / 400))


def test_an_undefined_landing_gives_nan_and_a_note():
    pool = halves(5)
    a, b = landing([0, 1, 2], pool), landing([5, 6, 7], pool)
    a = replace(a, in_a=np.array([1.0, np.nan, 1.0]))
    for estimate in (own_share_both(a, b, pool)[0], own_share_one(a, pool, 1.0, 0.1)):
        assert np.isnan([estimate.value, estimate.low, estimate.high]).all() and estimate.note


def test_one_look_widens_nothing_and_more_looks_widen_by_bonferroni():
    pool = halves(20)
    rng = np.random.default_rng(17)
    estimate = own_share_both(random_landing(rng, pool, 400), random_landing(rng, pool, 400), pool)[0]
    assert intervals.widen(estimate, 1) == pytest.approx((estimate.low, estimate.high))
    low, high = intervals.widen(estimate, 10)
    ratio = scipy_stats.norm.ppf(1 - 0.05 / 20) / scipy_stats.norm.ppf(0.975)
    assert low == pytest.approx(estimate.value - ratio * (estimate.value - estimate.low))
    assert high == pytest.approx(estimate.value + ratio * (estimate.high - estimate.value))


# ---------------------------------------------------------------------------
# Copying (4.3)
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(0, 10, 0, 10), (3, 10, 0, 12), (20, 2000, 1, 700), (1, 10, 9, 10)])
def test_more_hits_is_the_tail_of_the_hypergeometric_distribution(counts):
    hits, n, control_hits, control_n = counts
    expected = scipy_stats.hypergeom.sf(hits - 1, n + control_n, hits + control_hits, n)
    assert more_hits(*counts) == pytest.approx(expected)


@pytest.mark.parametrize(("own_only", "other_only"), [(5, 0), (0, 5), (7, 3), (12, 12)])
def test_paired_hits_are_a_fair_coin_over_the_pairs_that_differ(own_only, other_only):
    expected = scipy_stats.binomtest(own_only, own_only + other_only, 0.5, alternative="greater").pvalue
    assert paired_hits(own_only, other_only) == pytest.approx(expected)


def test_no_hits_at_all_are_no_evidence():
    assert paired_hits(0, 0) == 1
    assert more_hits(0, 100, 0, 100) == 1


def test_holm_agrees_with_four_p_values_by_hand():
    """Sorted: .005 * 4, .01 * 3, .03 * 2, .04 * 1 raised to the one before."""
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])


def test_holm_never_exceeds_one():
    np.testing.assert_array_equal(holm(np.array([0.9, 0.4, 0.8])), 1)


# ---------------------------------------------------------------------------
# The set of steps that may hold the minimum (6.2, 6.3)
# ---------------------------------------------------------------------------

U = (np.arange(9) - 4.0) ** 2 / 8  # minimum at position 4, 1/8 below its neighbors
V = 100 * np.abs(np.arange(9) - 4.0)  # as steep on both sides: its second differences are 0, but for the tip


def noisy(rng, shape, n_units: int = 60, v: float = 0.0) -> np.ndarray:
    """A curve of this mean shape: units differ, react differently to checkpoints, and the weights jitter by v."""
    steps = len(shape)
    jitter = rng.normal(0, np.sqrt(v), (steps, 1))
    return np.asarray(shape)[:, None] + jitter + rng.normal(size=n_units) + 0.5 * rng.normal(size=(steps, n_units))


def test_every_resample_draws_as_many_units_as_there_are():
    draws = minima.resamples(37, 0, 50)
    assert draws.shape == (50, 37)
    np.testing.assert_array_equal(draws.sum(axis=1), 37)
    np.testing.assert_array_equal(draws, minima.resamples(37, 0, 50))


@pytest.mark.parametrize(("name", "shape", "position"), [("u", U, 4), ("edge", U[4:], 0), ("flat", 0 * U, 6)])
def test_the_argmin_set_covers_the_minimum(name, shape, position):
    """Nominal .95; 200 runs have a standard error of .015, so .93 is the nominal rate less about one and a half."""
    rng, draws = np.random.default_rng(18), minima.resamples(60, 18, 500)
    inside = [minima.argmin_set(noisy(rng, shape), draws, seed)[position] for seed in range(200)]
    assert np.mean(inside) >= 0.93


def test_jittering_weights_need_their_variance_in_the_argmin_set():
    """With jitter twice the standard error of the units, the set from units alone misses the minimum too often."""
    rng, draws, v = np.random.default_rng(19), minima.resamples(60, 19, 500), 4 * 0.25 / 60
    curves = [noisy(rng, 0 * U, v=v) for _ in range(200)]
    inside = {
        given: np.mean([minima.argmin_set(c, draws, i, minima.Jitter(given, 0))[3] for i, c in enumerate(curves)])
        for given in (0, v)
    }
    assert inside[v] >= 0.93
    assert inside[0] < 0.7


def argmin_set_written_out(curve, draws, seed: int, v: float, level: float) -> list[bool]:
    """c stays if max_c' (m_c - m_c') / se <= the quantile of max_c' [(m*_c - m*_c') - (m_c - m_c')] / se."""
    n_steps, n_units = curve.shape
    jitter = minima.Jitter(v, 0).draw(len(draws), n_steps, seed)
    m, resampled = curve.mean(axis=1), draws @ curve.T / n_units + jitter
    inside = []
    for c in range(n_steps):
        rivals = [r for r in range(n_steps) if r != c]
        se = [np.sqrt((curve[c] - curve[r]).var(ddof=1) / n_units + 2 * v) for r in rivals]
        t = max((m[c] - m[r]) / s for r, s in zip(rivals, se, strict=True))
        shifts = [((resampled[:, c] - resampled[:, r]) - (m[c] - m[r])) / s for r, s in zip(rivals, se, strict=True)]
        inside.append(t <= np.quantile(np.max(shifts, axis=0), level))
    return inside


@pytest.mark.parametrize("v", [0.0, 0.02])
def test_the_argmin_set_agrees_with_its_definition_written_out(v):
    """Thirty curves whose checkpoints are noisy to different degrees, so that each standard error matters."""
    rng, draws = np.random.default_rng(31), minima.resamples(60, 31, 200)
    noise = np.array([0.1, 2, 0.1, 1, 0.1, 3, 0.1, 2, 0.1])[:, None]
    for seed in range(30):
        curve = U[:, None] + noise * rng.normal(size=(9, 60)) + rng.normal(0, np.sqrt(v), (9, 1))
        expected = argmin_set_written_out(curve, draws, seed, v, 0.9)
        np.testing.assert_array_equal(minima.argmin_set(curve, draws, seed, minima.Jitter(v, 0), level=0.9), expected)


def test_a_flat_curve_keeps_nearly_everything():
    rng, draws = np.random.default_rng(20), minima.resamples(60, 20, 500)
    kept = [minima.argmin_set(noisy(rng, 0 * U), draws, seed).mean() for seed in range(20)]
    assert np.mean(kept) > 0.9


def test_a_steep_curve_leaves_one_step():
    curve = noisy(np.random.default_rng(21), 100 * U)
    np.testing.assert_array_equal(minima.argmin_set(curve, minima.resamples(60, 21), 0), np.arange(9) == 4)


def test_equal_checkpoints_tie():
    """Checkpoints that are the same to the last bit differ with standard error 0: neither excludes the other."""
    curve = noisy(np.random.default_rng(22), 100 * U)
    curve[7] = curve[4]
    np.testing.assert_array_equal(np.flatnonzero(minima.argmin_set(curve, minima.resamples(60, 22), 0)), [4, 7])


def test_a_constant_curve_keeps_everything():
    assert minima.argmin_set(np.ones((5, 10)), minima.resamples(10, 0, 100), 0).all()


def test_the_argmin_set_does_not_depend_on_the_order_of_checkpoints():
    curve, draws = noisy(np.random.default_rng(23), U), minima.resamples(60, 23)
    order = np.random.default_rng(24).permutation(9)
    inside = minima.argmin_set(curve, draws, 0)
    assert 0 < inside.sum() < 9
    np.testing.assert_array_equal(minima.argmin_set(curve[order], draws, 0), inside[order])


def test_the_argmin_set_does_not_depend_on_the_units_of_measurement():
    curve, draws = noisy(np.random.default_rng(25), U), minima.resamples(60, 25)
    np.testing.assert_array_equal(minima.argmin_set(curve, draws, 0), minima.argmin_set(1000 * curve - 7, draws, 0))


def test_a_higher_level_keeps_at_least_as_much():
    curve, draws = noisy(np.random.default_rng(26), U), minima.resamples(60, 26)
    usual, wide = (minima.argmin_set(curve, draws, 0, level=level) for level in (0.95, 0.975))
    assert (wide >= usual).all()


@pytest.mark.parametrize("v", [0.0, 0.04, 1.0])
def test_the_iterate_variance_is_recovered(v):
    """Mean of 30 series of 200 checkpoints. One has a relative error of about .2, so .16 is four standard errors.

    At v = 0 what the units explain (.25 / 60 per mean, with an error of .2) is all there is.
    """
    rng = np.random.default_rng(27)
    found = [minima.jitter_of(noisy(rng, np.linspace(3, 0, 200), v=v)).v for _ in range(30)]
    assert np.mean(found) == pytest.approx(v, rel=0.16, abs=0.2 * 0.25 / 60)


def test_the_least_of_three_checkpoints_is_found():
    """Three checkpoints have no third difference; noise of unknown size must not empty the set."""
    curve = noisy(np.random.default_rng(33), np.array([9.0, 0.0, 9.0]))
    found = minima.locate_minimum(curve, (1, 2, 3), minima.resamples(60, 33, 200), 0)
    assert (found.status, found.steps) == ("found", (2,))


def test_iterate_noise_has_the_spread_of_a_variance_that_is_itself_estimated():
    """Half of the draws are within .74 standard deviations or so of zero; far more than normal lie beyond three."""
    noise = minima.Jitter(0.04, 0).draw(20_000, 16, 3) / 0.2
    assert np.median(np.abs(noise)) == pytest.approx(0.674, rel=0.1)
    assert (np.abs(noise) > 3).mean() > 5 * 0.0027


def test_weights_that_do_not_jitter_have_no_iterate_noise():
    assert (minima.NO_JITTER.draw(10, 9, 3) == 0).all()


def test_the_iterate_variance_of_one_spike_agrees_by_hand():
    """Every unit sees 0 0 0 0 1 0 0 0: third differences 0 1 -3 3 -1, median of their sizes 1."""
    curve = np.tile(np.array([0, 0, 0, 0, 1.0, 0, 0, 0])[:, None], 5)
    assert minima.jitter_of(curve).v == pytest.approx(1.4826**2 / 20)


def test_the_bend_of_a_smooth_valley_is_no_jitter():
    """Second differences, which see the bend, gave an exact denoiser's curve a jitter of two grid steps."""
    valley = (np.arange(10.0) - 4) ** 2
    assert minima.jitter_of(valley[:, None] + np.arange(5)).v == pytest.approx(0, abs=1e-20)


def test_a_straight_curve_does_not_jitter():
    assert minima.jitter_of(np.linspace(0, 7, 8)[:, None] + np.arange(5)).v == pytest.approx(0)


def test_fewer_than_eight_checkpoints_show_no_iterate_variance():
    assert minima.jitter_of(np.ones((7, 5))) is None
    assert minima.jitter_of(np.ones((8, 5))).v == 0


def locate(shape, **options) -> minima.Onset:
    curve = noisy(np.random.default_rng(28), shape)
    return minima.locate_minimum(
        curve, [100 * (i + 1) for i in range(len(shape))], minima.resamples(60, 28), 0, **options
    )


def test_a_minimum_inside_the_series_is_found():
    onset = locate(V)
    assert (onset.status, onset.step) == ("found", 500)
    assert 500 in onset.steps and len(onset.steps) <= 4
    assert onset.note == ""


def test_a_minimum_at_either_end_is_at_the_edge():
    assert locate(V[4:]).status == "edge"
    assert locate(V[:5]).status == "edge"


def test_a_minimum_at_the_last_step_is_none_so_far_where_that_is_asked():
    assert locate(V[:5], last_is_none=True).status == "none"
    assert locate(V[4:], last_is_none=True).status == "edge"
    assert locate(V, last_is_none=True).status == "found"


@pytest.mark.parametrize("last_is_none", [False, True])
def test_a_flat_curve_is_undecided(last_is_none):
    onset = locate(0 * U, last_is_none=last_is_none)
    assert onset.status == "undecided" and "flat" in onset.note
    assert len(onset.steps) > 4


def test_fewer_than_three_checkpoints_are_undecided():
    onset = locate(U[:2])
    assert (onset.status, onset.step, onset.steps) == ("undecided", -1, ()) and onset.note


def test_a_short_series_says_that_it_is_conditional_on_these_weights():
    assert "conditional on these weights" in locate(V[1:]).note + locate(V[2:]).note
    assert "conditional" not in locate(V).note


def test_a_checkpoint_without_a_curve_is_left_out_and_named():
    """A checkpoint of NaN was given as the step of the minimum, and made the iterate variance 0."""
    curve, steps = noisy(np.random.default_rng(29), np.append(V, 0)), range(10, 110, 10)
    draws = minima.resamples(60, 29)
    without = minima.locate_minimum(curve[:9], list(steps)[:9], draws, 0)
    curve[9] = np.nan
    onset = minima.locate_minimum(curve, steps, draws, 0)
    assert (onset.status, onset.step, onset.steps) == (without.status, without.step, without.steps)
    assert "100" in onset.note


def test_a_simultaneous_band_holds_all_means_at_once():
    """300 series of 8 means: 95 % of bands hold all eight truths, where single intervals hold them in 66 %."""
    rng, held, single = np.random.default_rng(31), 0, 0
    draws = minima.resamples(100, 31, n=500)
    for _ in range(300):
        curve = rng.normal(0, 1, (8, 100))
        low, high = minima.simultaneous_band(curve, draws)
        held += bool((low <= 0).all() and (high >= 0).all())
        single += bool((np.abs(curve.mean(axis=1)) <= 0.196).all())
    assert held / 300 > 0.91 and single / 300 < 0.75


def test_a_band_around_a_constant_has_no_width():
    low, high = minima.simultaneous_band(np.full((4, 30), 2.0), minima.resamples(30, 1))
    np.testing.assert_array_equal([low, high], 2.0)
