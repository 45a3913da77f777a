"""Copies, shifts and quality: agreement with maintained implementations, and the faults of published ones.

Each fault that docs/metrics.md lists is a test here whose docstring names it; the published behavior would fail it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import linalg, special
from scipy.stats import mannwhitneyu, wasserstein_distance
from vectors import distances, features

from auditor import registry
from auditor.errors import AuditError
from auditor.metrics import beside_heldout, gap, kid
from auditor.records import Evidence, Scores
from auditor.run import RunDirectory, columns, tables
from auditor.stages import cells, nearest, quality, sets
from auditor.stages import features as stage_features
from auditor.stages.halves import Reference
from auditor.stats import counts, intervals

K = 5


def normal(seed: int, n: int, dim: int = 8, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (n, dim)).astype(np.float32)


def reference(vectors, centers=None) -> Reference:
    """A training set whose equal vectors are duplicates."""
    vectors = np.asarray(vectors, dtype=np.float32)
    clusters = np.unique(vectors, axis=0, return_inverse=True)[1].ravel()
    return Reference(features(vectors), np.ones(len(vectors), bool), clusters, centers)


def measured(samples, own, heldout, twin_samples=None) -> Evidence:
    """The evidence of these vectors, made by the product's own code, read as the reader reads it."""
    samples, own, heldout = (np.asarray(x, dtype=np.float32) for x in (samples, own, heldout))
    half = reference(own, cells.centers(own))
    twin = features(samples[::-1] if twin_samples is None else twin_samples)
    n = np.arange(len(samples))
    rows = nearest.sample_rows(features(samples), twin, {"own": half, "other": half}, features(heldout), n)
    real = sets.heldout_rows(features(heldout), {"a": half, "b": half})
    spacing = sets.train_rows(half, ["x"] * len(own), half.clusters)["outside_distance"]
    place = {name: i for i, name in enumerate(half.features.ids)}
    matrix = lambda data, role: np.column_stack([data[f"{role}_distance_{j}"] for j in columns.RANKS])  # noqa: E731
    return Evidence(
        "a",
        1,
        "pixel",
        n,
        rows["twin_distance"],
        rows["different_seed_distance"],
        own=matrix(rows, "own").astype(float),
        own_outside=rows["own_outside_distance"].astype(float),
        own_mean_50=rows["own_mean_distance_50"].astype(float),
        own_cluster_size=rows["own_cluster_size"].astype(float),
        own_cell=rows["own_cell"],
        own_spacing=np.array([spacing[place[i]] for i in rows["own_id_1"]], dtype=float),
        heldout_ids=np.array(real["id"], dtype=object),
        heldout_own=matrix(real, "a").astype(float),
        heldout_own_outside=real["a_outside_distance"].astype(float),
        heldout_own_mean_50=real["a_mean_distance_50"].astype(float),
        heldout_own_cell=real["a_cell"],
        heldout_own_spacing=np.array([spacing[place[i]] for i in real["a_id_1"]], dtype=float),
    )


def scores(name: str, known: Evidence) -> Scores:
    return registry.lookup("metric", name).scores(known)


def estimate(name: str, known: Evidence):
    return intervals.INTERVALS[registry.lookup("metric", name).interval](scores(name, known))


def value(name: str, known: Evidence) -> float:
    return estimate(name, known).value


def fidelity(samples, target) -> dict[str, float]:
    found = quality.fidelity(features(samples), quality.targets({"own": features(target)}))["own"]
    return {name: each.mean() for name, each in found.items()}


# ---------------------------------------------------------------------------
# Agreement with maintained implementations
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "n"), [(60, 40), (40, 60), (50, 50)])
def test_precision_recall_density_and_coverage_agree_with_prdc(m, n):
    """Also for m != n, where the roles of the two sets show."""
    prdc = pytest.importorskip("prdc")
    samples, target = normal(1, m, scale=0.8), normal(2, n)
    expected = prdc.compute_prdc(target, samples, nearest_k=K)
    assert fidelity(samples, target) == pytest.approx({name: float(x) for name, x in expected.items()})


def test_leaving_out_a_block_is_what_prdc_gives_without_it():
    """The radii of the samples left change, too; theta_-b is read back from the linearized scores."""
    prdc = pytest.importorskip("prdc")
    samples, target = normal(3, 70, scale=0.7), normal(4, 50)
    found = quality.fidelity(features(samples), quality.targets({"own": features(target)}))["own"]
    blocks = quality.blocks_of(70)
    for name, each in found.items():
        left_out = np.array([prdc.compute_prdc(target, samples[blocks != b], nearest_k=K)[name] for b in range(20)])
        whole = prdc.compute_prdc(target, samples, nearest_k=K)[name]
        np.testing.assert_allclose(each, whole + 19 * (left_out.mean() - left_out), atol=1e-9)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_kid_agrees_with_torchmetrics_on_all_samples():
    torch = pytest.importorskip("torch")
    image = pytest.importorskip("torchmetrics.image.kid")
    samples, heldout = normal(5, 80, scale=0.9), normal(6, 80)
    metric = image.KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=80)
    metric.fake_features, metric.real_features = (
        [torch.from_numpy(x / kid.heldout_scale(heldout))] for x in (samples, heldout)
    )
    assert kid.seed_scores(samples, heldout).mean() == pytest.approx(float(metric.compute()[0]), rel=1e-4)


def test_the_part_of_kid_that_no_sample_enters_may_be_given():
    samples, heldout = normal(7, 30), normal(8, 40)
    given = kid.seed_scores(samples, heldout, kid.heldout_term(heldout))
    np.testing.assert_allclose(given, kid.seed_scores(samples, heldout))


def test_the_frechet_distance_agrees_with_scipy():
    x, y = normal(9, 200) @ np.diag(np.arange(1, 9)).astype(np.float32) + 1, normal(10, 150)
    first, second = np.cov(x.astype(float).T), np.cov(y.astype(float).T)
    root = linalg.sqrtm(first @ second).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(first + second - 2 * root)
    assert quality.frechet(x, y) == pytest.approx(expected, rel=1e-5)


def test_wasserstein_and_auc_agree_with_scipy_on_unequal_sets():
    known = measured(normal(11, 90, scale=0.9), normal(12, 80), normal(13, 57))
    d, h = known.own[:, 0], known.heldout_own[:, 0]
    assert value("wasserstein_1", known) == pytest.approx(wasserstein_distance(d, h))
    assert value("nn_shift", known) == pytest.approx(mannwhitneyu(h, d).statistic / (90 * 57))
    assert value("nn_mean_shift", known) == pytest.approx(h.mean() - d.mean())


def test_z_of_one_cell_agrees_with_scipy_with_ties():
    rng = np.random.default_rng(14)
    q, p = rng.integers(8, size=40).astype(float), rng.integers(1, 9, size=33).astype(float)
    test = mannwhitneyu(q, p, use_continuity=False, alternative="less", method="asymptotic")
    z = beside_heldout.cell_scores(q, p).sum()
    assert special.ndtr(z) == pytest.approx(test.pvalue)


# ---------------------------------------------------------------------------
# Duplicates, 0/0, copiers
# ---------------------------------------------------------------------------


def test_the_calibrated_distance_flags_copies_of_duplicated_images():
    """Fault: d1 / d2 is 1 for a near copy of an image that occurs twice."""
    own = np.concatenate([normal(15, 60), normal(15, 60)[:1]])
    known = measured(own[:1] + np.float32(1e-3), own, normal(16, 20))
    assert [value(f"memorized_fraction{form}", known) for form in ("", "_cluster", "_carlini")] == [0, 1, 1]
    assert "up to 2 times" in scores("memorized_fraction_cluster", known).note


def test_the_calibrated_distance_is_below_one_where_the_nearest_is_nearer_than_half_the_mean():
    """One image at 1, 49 at 2.1 and the mean is 2.078: l = 1 / (0.5 * 2.078) = 0.96; with 49 at 1.9, 1.06."""
    for far, flagged in ((2.1, 1), (1.9, 0)):
        own = np.zeros((50, 50), np.float32)
        np.fill_diagonal(own, far)
        own[0, 0] = 1
        assert value("memorized_fraction_carlini", measured(np.zeros((2, 50)), own, normal(17, 10, 50))) == flagged


def test_fewer_than_fifty_training_images_have_no_calibrated_distance():
    """Fault: the mean over fewer neighbors is another statistic under the same name."""
    found = estimate("memorized_fraction_carlini", measured(normal(18, 10), normal(19, 49), normal(20, 10)))
    assert np.isnan([found.value, found.low, found.high]).all() and "fewer images" in found.note


def test_an_image_with_more_duplicates_than_neighbors_are_kept_is_still_passed_over():
    """Fault: with 60 duplicates all 50 neighbors are alike, the ratio is 1 and no near copy is found."""
    own = np.concatenate([np.repeat(normal(21, 1), 60, axis=0), normal(22, 30) + 5])
    known = measured(own[:1] + np.float32(1e-3), own, own[:1] + np.float32(1e-3))
    assert value("memorized_fraction_cluster", known) == value("heldout_memorized_fraction_cluster", known) == 1
    expected = distances(own[:1] + np.float32(1e-3), own[60:]).min()
    assert known.own_outside[0] == pytest.approx(expected, rel=1e-5)
    assert known.own_spacing[0] == pytest.approx(distances(own[:1], own[60:]).min(), rel=1e-5)
    assert known.own_cluster_size[0] == 60


def test_an_exact_copy_counts_in_every_form_even_where_all_images_are_equal():
    """Fault: 0/0 is NaN, and NaN < 1/3 counts as not memorized."""
    own = np.repeat(normal(23, 1), 60, axis=0)
    known = measured(own[:3], own, normal(24, 10))
    assert [value(f"memorized_fraction{form}", known) for form in ("", "_cluster", "_carlini")] == [1, 1, 1]


def test_no_hits_have_a_positive_upper_limit_in_every_form():
    """Fault: a bootstrap of no hits gives the interval [0, 0]."""
    known = measured(normal(25, 40) + 30, normal(26, 60), normal(27, 20))
    for form in ("", "_cluster", "_carlini"):
        found = estimate(f"memorized_fraction{form}", known)
        assert (found.value, found.low) == (0, 0) and found.high == pytest.approx(1 - 0.025 ** (1 / 40))


def test_a_copier_of_one_image_is_precise_and_covers_nothing():
    """Fault: a single number calls it excellent."""
    own = normal(28, 100)
    found = fidelity(np.repeat(own[:1], 50, axis=0), own)
    assert found["precision"] == 1 and found["recall"] == 0 and found["coverage"] < 0.2
    known = measured(np.repeat(own[:1], 50, axis=0), own, normal(29, 50))
    assert value("memorized_fraction", known) == 1 and value("authenticity", known) == 0
    assert value("gap_max", known) == 1 and value("heldout_gap_max", known) < 0.5


def test_samples_that_are_all_alike_reach_nothing_and_have_no_nan():
    """Fault: rounding makes some of their equal distances positive radii."""
    found = fidelity(np.repeat(normal(30, 1, scale=0.1) + 100, 50, axis=0), normal(31, 60))
    assert found == {"precision": 0, "recall": 0, "density": 0, "coverage": 0}


def test_copies_of_duplicated_images_are_within_the_set():
    """Fault: six equal images have radius 0, and a strict comparison turns their copies away."""
    prdc = pytest.importorskip("prdc")
    target = np.concatenate([np.repeat(normal(32, 1), 6, axis=0), normal(33, 30) + 50])
    copies = np.repeat(target[:1], 20, axis=0)
    assert prdc.compute_prdc(target, copies, nearest_k=K)["precision"] == 0
    assert fidelity(copies, target)["precision"] == 1


def test_a_set_of_equal_images_has_no_radius():
    found = fidelity(normal(34, 20), np.repeat(normal(35, 1), 30, axis=0))
    assert np.isnan(list(found.values())).all()


def test_precision_and_recall_are_not_exchanged():
    """Fault: torch-fidelity had them swapped for years. One mode of two: precise, half of the set is out of reach."""
    two_modes = np.concatenate([normal(36, 60), normal(37, 60) + 40])
    found = fidelity(normal(38, 120), two_modes)
    assert found["precision"] > 0.9 and found["recall"] < 0.6
    found = fidelity(two_modes, normal(38, 120))
    assert found["precision"] < 0.6 and found["recall"] > 0.9


def test_copying_raises_precision_and_coverage_against_own_alone():
    own, other = normal(39, 100), normal(40, 100)
    against = quality.targets({"own": features(own), "other": features(other)})
    found = quality.fidelity(features(own + np.float32(1e-3)), against)
    assert found["own"]["precision"].mean() == found["own"]["coverage"].mean() == 1
    assert found["other"]["precision"].mean() < 0.97 and found["other"]["coverage"].mean() < 0.98


def test_all_sets_are_compared_at_one_size():
    """Fault: a larger set has smaller radii, so that own and held-out of unlike sizes cannot be compared."""
    sizes = {
        name: len(each.rows)
        for name, each in quality.targets(
            {"own": features(normal(41, 90)), "heldout": features(normal(42, 33))}
        ).items()
    }
    assert sizes == {"own": 33, "heldout": 33}


def test_a_folder_sorted_by_class_is_not_cut_off_after_its_first_class():
    """Fault: the first images of a sorted folder are one class; KID, coverage and radii were taken against it."""
    classes = features(np.repeat([[0.0], [1.0]], 500, axis=0))
    assert 0.4 < stage_features.subset(classes, 200).vectors.mean() < 0.6
    np.testing.assert_array_equal(stage_features.subset(classes, 1000).vectors, classes.vectors)


# ---------------------------------------------------------------------------
# Too few: dimension, seeds, images
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "n"), [(8, 100), (100, 8)])
def test_no_frechet_distance_with_fewer_images_than_dimensions(m, n):
    """Fault: a covariance without full rank gives a number, biased by more than what is measured."""
    assert np.isnan(quality.frechet(normal(43, m), normal(44, n)))
    known = replace(
        measured(normal(45, 10), normal(46, 60), normal(47, 10)), heldout_quality={"frechet": np.array([np.nan])}
    )
    found = estimate("frechet", known)
    assert np.isnan(found.value) and "not more samples" in found.note


def test_the_frechet_distance_of_equal_sets_is_zero_and_never_negative_or_complex():
    """Fault: sqrtm of nearly singular matrices is complex or gives a negative distance."""
    x = normal(48, 60) @ np.diag([1, 1, 1, 1, 1e-4, 1e-4, 1e-5, 0]).astype(np.float32)
    assert 0 <= quality.frechet(x, x) < 1e-6


def test_a_handful_of_seeds_has_no_recall():
    found = fidelity(normal(49, 5), normal(50, 30))
    assert np.isnan(found["recall"])


def test_a_statistic_that_no_block_changes_has_no_interval():
    """Fault: an interval of no width claims certainty."""
    found = intervals.jackknife_share(Scores("block of seeds", np.arange(20), np.ones(20)))
    assert found.value == 1 and np.isnan([found.low, found.high]).all() and "no interval" in found.note


def test_the_jackknife_interval_covers_the_spread_over_new_seeds():
    """60 sets of 200 seeds against one set: the standard error is that of coverage over new seeds, within a third."""
    target = quality.targets({"own": features(normal(51, 100, 3))})
    runs = [quality.fidelity(features(normal(1000 + i, 200, 3)), target)["own"]["coverage"] for i in range(60)]
    assert np.mean([x.std(ddof=1) / np.sqrt(20) for x in runs]) == pytest.approx(
        np.std([x.mean() for x in runs]), rel=0.35
    )


# ---------------------------------------------------------------------------
# Shifts against held-out images
# ---------------------------------------------------------------------------


def test_the_auc_is_that_of_all_pairs_with_ties_and_its_variance_is_delongs():
    rng = np.random.default_rng(52)
    d, h = rng.integers(6, size=30).astype(float), rng.integers(1, 8, size=23).astype(float)
    psi = (d[:, None] < h) + (d[:, None] == h) / 2
    given = Scores("seed", np.arange(30), psi.mean(axis=1), "", psi.mean(axis=0))
    expected = np.sqrt(psi.mean(axis=1).var(ddof=1) / 30 + psi.mean(axis=0).var(ddof=1) / 23)
    assert intervals.standard_error(given) == pytest.approx(expected)
    known = measured(normal(53, 30), normal(54, 60), normal(55, 23))
    shaped = replace(known, own=np.tile(d[:, None], 8), heldout_own=np.tile(h[:, None], 8))
    found = scores("nn_shift", shaped)
    np.testing.assert_allclose(found.values, psi.mean(axis=1))
    np.testing.assert_allclose(found.second, psi.mean(axis=0))


def test_the_auc_interval_holds_one_half_in_95_of_100_cases():
    """400 pairs of samples of one distribution: four standard errors of the rate are .044."""
    rng, covered = np.random.default_rng(56), 0
    for _ in range(400):
        d, h = rng.gamma(3, size=60), rng.gamma(3, size=45)
        psi = d[:, None] < h
        found = intervals.auc(Scores("seed", np.arange(60), psi.mean(axis=1), "", psi.mean(axis=0)))
        covered += found.low <= 0.5 <= found.high
    assert covered / 400 == pytest.approx(0.95, abs=0.044)


def test_samples_that_are_all_nearer_are_not_certainly_so():
    """Fault: DeLong's variance is 0 where the sets do not overlap, and the interval is [1, 1]."""
    found = intervals.auc(Scores("seed", np.arange(50), np.ones(50), "", np.ones(20)))
    assert found.value == found.high == 1 and found.low == pytest.approx(0.025 ** (1 / 20))


def test_noise_floors_are_what_as_many_real_images_would_show():
    rng = np.random.default_rng(57)
    pairs = [(rng.gamma(5, size=400), rng.gamma(5, size=300)) for _ in range(200)]
    shown = np.mean([beside_heldout.transport(d, h)[0].mean() for d, h in pairs])
    floor = np.mean([beside_heldout.noise_floor(np.sort(h), 400) for _, h in pairs])
    assert floor == pytest.approx(shown, rel=0.1)


def test_the_histogram_divergence_is_the_papers_and_says_its_noise():
    """Fault: the curve's minimum over checkpoints is read without the value that noise alone gives."""
    d, h = np.array([1.0, 1, 2, 2, 20]), np.array([1.0, 1, 1, 1, 20])
    found, _, note = beside_heldout.divergence(d, h)
    p, q = np.full(20, 1e-8), np.full(20, 1e-8)
    p[[1, 2, 19]], q[[1, 19]] = (0.4, 0.4, 0.2), (0.8, 0.2)
    assert found.mean() == pytest.approx(np.sum(p * np.log(p / q)))
    assert "noise floor 0.2:" in note and "1 bins hold samples and no held-out" in note
    rng = np.random.default_rng(58)
    alike = [beside_heldout.divergence(rng.uniform(0.5, 1, 2000), rng.uniform(0.5, 1, 2000)) for _ in range(50)]
    floors = [float(note.split(":")[0].removeprefix("noise floor ")) for _, _, note in alike]
    assert np.mean([x.mean() for x, _, _ in alike]) == pytest.approx(np.mean(floors), rel=0.25)


def test_copies_make_c_t_very_negative_and_wide_samples_very_positive():
    own, heldout = normal(59, 200), normal(60, 150)
    assert value("c_t", measured(own[:120] + np.float32(0.01), own, heldout)) < -5
    assert value("c_t", measured(normal(61, 120, scale=3), own, heldout)) > 5
    assert abs(value("c_t", measured(normal(62, 120), own, heldout))) < 3


def test_c_t_weighs_cells_by_heldout_images_and_leaves_out_small_ones():
    """Fault: the published loop runs over the number of cells in the held-out set and shifts them if one is empty."""
    q = np.concatenate([np.full(30, 1.0), np.full(30, 3.0), np.full(10, 9.0), np.full(30, 5.0)])
    p = np.concatenate([np.full(20, 2.0), np.full(60, 2.0), np.full(40, 2.0)])
    cell_q, cell_p = np.repeat([0.0, 1, 2, 3], [30, 30, 10, 30]), np.repeat([0.0, 1, 2], [20, 60, 40])
    known = measured(normal(63, 100), normal(64, 60), normal(65, 120))
    shaped = replace(
        known, own=np.tile(q[:, None], 8), heldout_own=np.tile(p[:, None], 8), own_cell=cell_q, heldout_own_cell=cell_p
    )
    z = [beside_heldout.cell_scores(q[cell_q == c], p[cell_p == c]).sum() for c in (0, 1)]
    assert value("c_t", shaped) == pytest.approx((20 * z[0] + 60 * z[1]) / 80)
    assert z[0] < 0 < z[1]


def test_c_t_of_distances_that_are_all_equal_is_zero():
    """Fault: the variance with ties is 0, and 0/0 is NaN."""
    known = measured(normal(66, 50), normal(67, 60), normal(68, 40))
    equal = {"own": np.ones((50, 8)), "heldout_own": np.ones((40, 8))}
    assert value("c_t", replace(known, **equal, own_cell=np.zeros(50), heldout_own_cell=np.zeros(40))) == 0


def test_c_t_without_a_cell_that_counts_has_no_value():
    found = estimate("c_t", measured(normal(69, 12), normal(70, 60), normal(71, 40)))
    assert np.isnan(found.value) and "no cell has more than 20 samples" in found.note


def test_cells_are_the_same_in_every_run_and_those_of_sklearn():
    """Fault: an unseeded k-means makes the statistic another one each time."""
    modes = np.concatenate([normal(72, 50) + shift for shift in (0, 30, 60)])
    found = cells.assign(modes, cells.centers(modes))
    np.testing.assert_array_equal(found, cells.assign(modes, cells.centers(modes)))
    assert [len(np.unique(part)) for part in np.split(found, 3)] == [1, 1, 1] and len(np.unique(found)) == 3
    assert len(cells.centers(np.zeros((10, 2), np.float32))) == 3  # equal images: cells that coincide, no warning


# ---------------------------------------------------------------------------
# Authenticity
# ---------------------------------------------------------------------------


def test_fresh_samples_are_as_authentic_as_heldout_images_and_neither_all():
    """Fault: 100 % is taken for the value of a model that copies nothing; in 8 dimensions it is about 60."""
    known = measured(normal(73, 300), normal(74, 300), normal(75, 300))
    assert value("authenticity", known) == pytest.approx(value("heldout_authenticity", known), abs=12)
    assert 45 < value("authenticity", known) < 75


def test_authenticity_compares_with_the_spacing_of_the_nearest_image():
    """Fault: indices of the wrong search. Images at 0, 1, 10 and 14: at 11 the spacing is 4, at 3 it is 1."""
    own = np.array([[0.0], [1], [10], [14]])
    known = measured([[11.0], [3.0], [10.0]], own, [[11.0], [3.0]])
    np.testing.assert_array_equal(scores("authenticity", known).values, [0, 100, 0])
    np.testing.assert_array_equal(scores("heldout_authenticity", known).values, [0, 100])


def test_duplicates_do_not_make_everything_authentic():
    """Fault: an image that occurs twice is at 0 from its nearest, so every near copy of it is farther."""
    own = np.array([[0.0], [0.0], [10.0], [10.0], [20.0]])
    known = measured([[0.1], [9.9]], own, [[5.0]])
    np.testing.assert_array_equal(scores("authenticity", known).values, [0, 0])


def test_percentages_keep_the_exact_interval_of_their_share():
    found = intervals.percent(Scores("seed", np.arange(20), np.repeat([0.0, 100.0], [20, 0])))
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(100 * counts.clopper_pearson(0, 20)[1])


# ---------------------------------------------------------------------------
# Tails, information
# ---------------------------------------------------------------------------


def test_the_gap_is_one_for_a_copy_and_zero_for_equal_distances():
    np.testing.assert_array_equal(gap(np.array([0.0, 0, 2, 1]), np.array([5.0, 0, 2, 3])), [1, 1, 0, 0.5])
    assert np.isnan(gap(np.array([0.0]), np.array([np.nan])))


def test_the_interval_of_a_99_percent_quantile_covers_it():
    """Any distribution will do; 1,000 uniform samples, whose quantile is .99."""
    rng = np.random.default_rng(76)
    found = [intervals.quantile_99(Scores("seed", np.arange(1000), rng.uniform(size=1000))) for _ in range(400)]
    assert np.mean([x.low <= 0.99 <= x.high for x in found]) >= 0.93


def test_a_few_samples_bound_no_99_percent_quantile():
    found = intervals.quantile_99(Scores("seed", np.arange(100), np.arange(100.0)))
    assert found.value == 98 and np.isnan(found.high) and "too few" in found.note


def test_two_percent_of_copies_show_in_the_tail_before_they_show_in_the_mean():
    own = normal(77, 200)
    samples = np.concatenate([normal(78, 490), own[:10] + np.float32(1e-4)])
    known = measured(samples, own, normal(79, 400))
    assert value("gap_q99", known) > 0.99 > 0.6 > value("heldout_gap_q99", known)


@pytest.mark.parametrize(("accuracy", "bits"), [(0.5, 0), (0.4, 0), (1, 1), (0.75, 1 - 0.811278)])
def test_information_on_the_half_is_fanos_bound(accuracy, bits):
    assert intervals.fano(accuracy) == pytest.approx(bits, abs=1e-6)


def test_twin_variance_is_half_the_mean_squared_distance():
    a, b = normal(80, 40), normal(81, 40)
    known = measured(a, normal(82, 60), normal(83, 10), twin_samples=b)
    assert value("twin_variance", known) == pytest.approx(((a - b) ** 2).sum(axis=1).mean() / 2, rel=1e-5)


# ---------------------------------------------------------------------------
# Whole runs
# ---------------------------------------------------------------------------


def test_every_metric_is_measured_in_a_run(finished):
    rows = pd.read_parquet(finished / "measurements.parquet")
    assert set(rows.metric) == set(registry.METRICS)
    with_value = set(rows.metric[rows.value.notna()])
    too_small = {"memorized_fraction_carlini", "heldout_memorized_fraction_carlini", "frechet", "c_t"}
    not_asked = {"memorized_fraction_fpr", "heldout_memorized_fraction_fpr"}  # --fpr
    not_asked |= {"twin_variance_seed", "twin_variance_data"}  # --ckpts-a2
    not_asked |= {"prediction_variance_seed", "prediction_variance_data"}  # likewise
    not_asked |= {"u_turn_lean", "return_rate", "return_rate_lean"}  # --u-turns
    not_asked |= {"memorizer_share_trajectory", "memorizer_share_samples", "collapse_time"}  # --trajectories
    not_asked |= {name for name in registry.METRICS if name.endswith("_in_class")}  # the models have no classes
    assert set(registry.METRICS) - with_value <= too_small | not_asked  # 12 seeds, 40 training images


def test_split_identification_is_own_share_of_both_twins_with_its_test(finished):
    rows = pd.read_parquet(finished / "measurements.parquet").query("twin == 'both'")
    columns = ["value", "low", "high", "p_value", "p_corrected"]
    accuracy, share, information = (
        rows[rows.metric == name].set_index(["space", "step"])[columns].sort_index()
        for name in ("split_identification", "own_share", "split_information")
    )
    pd.testing.assert_frame_equal(accuracy, share)
    expected = accuracy[["value", "low", "high"]].map(intervals.fano)
    pd.testing.assert_frame_equal(information[["value", "low", "high"]], expected)


def test_a_missing_quality_table_is_an_error_and_no_gap_in_the_report(finished, tmp_path):
    """Fault: what is missing is skipped and its rows stay 0."""
    with pytest.raises(AuditError, match="missing"):
        quality.STAGE.read(RunDirectory(tmp_path), "a", 90, "pixel")
    found = quality.STAGE.read(RunDirectory(finished), "a", 90, "pixel")
    assert set(found) == {"own_quality", "other_quality", "heldout_quality"}
    assert set(found["own_quality"]) == set(quality.STATISTICS)


def test_arrays_of_a_table_are_those_that_pandas_reads(finished):
    path = finished / "evidence" / "pixel" / "a" / "90.parquet"
    frame, data = tables.read(path), tables.arrays(path)
    assert list(frame.columns) == [c.name for c in columns.EVIDENCE] and set(data) == set(frame.columns)
    for name, column in data.items():
        values = column.values if isinstance(column, tables.Categories) else column
        np.testing.assert_array_equal(values, frame[name].to_numpy(values.dtype))
