"""Every registered metric keeps one contract; and each one's value where it is known in advance.

Evidence is made here from a few points in the plane by brute force, not by auditor.evidence, so that an error there
cannot hide itself. A new metric is tested by being registered; it must say in SWAPPED what exchanging own and other
does to it.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest

from auditor import registry, stats
from auditor.metrics import kid
from auditor.records import TWINS, Estimate, Evidence, LossTable, Metric, Scores

NAMES = tuple(registry.METRICS)
K = 8


def metric(name: str) -> Metric:
    return registry.lookup("metric", name)


def distances(queries, reference) -> np.ndarray:
    """All distances, float64 [n queries, n reference]."""
    return np.linalg.norm(np.asarray(queries, float)[:, None] - np.asarray(reference, float)[None], axis=2)


def nearest(queries, reference) -> np.ndarray:
    """The 8 least distances, NaN where there are fewer points."""
    d = np.sort(distances(queries, reference), axis=1)[:, :K]
    return np.pad(d, ((0, 0), (0, K - d.shape[1])), constant_values=np.nan)


def outside(queries, reference) -> np.ndarray:
    """The distance to the nearest point that does not equal the nearest one; 0 where all points are equal to it."""
    reference = np.asarray(reference, float)
    d = distances(queries, reference)
    same = (reference[d.argmin(axis=1)][:, None] == reference[None]).all(axis=2)
    far = np.where(same, np.inf, d).min(axis=1)
    return np.where(np.isfinite(far), far, d.max(axis=1) if len(reference) > 1 else np.nan)


def gaps(queries, pool) -> np.ndarray:
    first, second = nearest(queries, pool)[:, 0], outside(queries, pool)
    return np.where(first == 0, 1.0, (second - first) / np.where(second + first == 0, 1.0, second + first))


def loss_table(seed: int, n: int, prefix: str) -> LossTable:
    values = np.random.default_rng(seed).uniform(0.1, 0.2, (n, 3))
    return LossTable(np.array([f"{prefix}{i}" for i in range(n)], dtype=object), np.array([10, 50, 90]), values)


OWN_LOSSES = {
    "own": loss_table(1, 6, "own"),
    "other": loss_table(2, 6, "other"),
    "heldout": loss_table(3, 5, "heldout"),
}
TWIN_LOSSES = {
    "own": loss_table(4, 6, "other"),
    "other": loss_table(5, 6, "own"),
    "heldout": loss_table(6, 5, "heldout"),
}


def evidence_of(samples, own, other, heldout=None, twin_samples=None) -> Evidence:
    """What there is to know of these points; halves of equal size are their own pool."""
    samples = np.asarray(samples, float)
    twin_samples = samples[::-1] if twin_samples is None else np.asarray(twin_samples, float)
    n = len(samples)
    apart = distances(samples, twin_samples)
    known = {
        "own": nearest(samples, own),
        "other": nearest(samples, other),
        "pool_own": nearest(samples, own)[:, 0],
        "pool_other": nearest(samples, other)[:, 0],
        "own_outside": outside(samples, own),
        "other_outside": outside(samples, other),
        "gap": gaps(samples, np.concatenate([own, other])),
    }
    if heldout is not None:
        known |= {
            "heldout_ids": np.array([f"h{i}.png" for i in range(len(heldout))], dtype=object),
            "heldout_own": nearest(heldout, own),
            "heldout_pool_own": nearest(heldout, own)[:, 0],
            "heldout_pool_other": nearest(heldout, other)[:, 0],
            "heldout_own_outside": outside(heldout, own),
            "heldout_distance": nearest(samples, heldout)[:, 0],
            "kid_scores": kid.seed_scores(samples, np.asarray(heldout, float)),
        }
    return Evidence(
        "a",
        100,
        "pixel",
        np.arange(7, 7 + n),
        np.diag(apart),
        (apart.sum(axis=1) - np.diag(apart)) / (n - 1),
        losses=OWN_LOSSES,
        twin_losses=TWIN_LOSSES,
        **known,
    )


def points(seed: int, n: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 2)) + shift


OWN, OTHER = points(1, 20), points(2, 20)
HELDOUT = np.concatenate([OWN[:2] + 1e-4, points(3, 11)])
SAMPLES = np.concatenate([OWN[:5] + 1e-4, OTHER[:1] + 1e-4, points(4, 25)])


def typical(own=OWN, other=OTHER) -> Evidence:
    return evidence_of(SAMPLES, own, other, HELDOUT, points(5, 31))


def mapped(evidence: Evidence, change) -> Evidence:
    """The evidence with every array changed, those of the loss tables too."""

    def one(value):
        if isinstance(value, np.ndarray):
            return change(value)
        if is_dataclass(value):
            return mapped(value, change)
        if isinstance(value, dict):
            return {key: one(each) for key, each in value.items()}
        return value

    return replace(evidence, **{f.name: one(getattr(evidence, f.name)) for f in fields(evidence)})


def estimate(metric: Metric, scores: Scores) -> Estimate:
    return stats.proportion(scores) if metric.interval == "proportion" else stats.mean_interval(scores)


def value(name: str, evidence: Evidence) -> float:
    return estimate(metric(name), metric(name).scores(evidence)).value


# ---------------------------------------------------------------------------
# The contract
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_says_what_it_is(name):
    one = metric(name)
    assert one.name == name
    assert one.question.endswith("?")
    assert "larger means" in one.direction
    assert one.unit and one.reference
    assert 0 <= one.k <= K
    assert set(one.twins) <= {*TWINS, "both"} and one.twins
    assert one.interval in {"mean", "proportion", "lean", "loss_lean"}


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_one_finite_number_per_unit(name):
    evidence = typical()
    scores = metric(name).scores(evidence)
    assert scores.unit in {"seed", "image"}
    assert scores.values.dtype == float and scores.values.shape == scores.ids.shape
    assert np.isfinite(scores.values).all() and len(scores.values)
    assert scores.note == ""
    if scores.unit == "seed":
        np.testing.assert_array_equal(scores.ids, evidence.seeds)
    result = estimate(metric(name), scores)
    assert result.low < result.high
    assert (result.unit, result.n) == (scores.unit, len(scores.ids))


@pytest.mark.parametrize("name", NAMES)
def test_a_proportion_lies_between_zero_and_one(name):
    if metric(name).unit == "share":
        scores = metric(name).scores(typical()).values
        assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_seeds_and_images_is_irrelevant(name):
    evidence = typical()
    shuffled = mapped(evidence, lambda array: array[np.random.default_rng(len(array)).permutation(len(array))])
    shuffled = replace(shuffled, losses=shuffle_images(OWN_LOSSES), twin_losses=shuffle_images(TWIN_LOSSES))
    assert value(name, shuffled) == pytest.approx(value(name, evidence))
    before, after = (dict(zip(s.ids, s.values, strict=True)) for s in map(metric(name).scores, (evidence, shuffled)))
    assert after == pytest.approx(before)


def shuffle_images(losses):
    """The same losses with images in another order; their cells stay as they are."""
    order = {n: np.random.default_rng(n).permutation(n) for n in (5, 6)}
    return {
        role: LossTable(table.ids[order[len(table.ids)]], table.times, table.values[order[len(table.ids)]])
        for role, table in losses.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_leaves_its_input_alone(name):
    def locked(array):
        array = array.copy()
        array.flags.writeable = False
        return array

    metric(name).scores(mapped(typical(), locked))


@pytest.mark.parametrize("name", NAMES)
def test_nan_in_gives_nan_and_a_note_out(name):
    def poisoned(array):
        array = array.copy()
        if array.dtype == float:
            array[0] = np.nan
        return array

    result = estimate(metric(name), metric(name).scores(mapped(typical(), poisoned)))
    assert np.isnan([result.value, result.low, result.high]).all()
    assert result.note


TRAIN_FIELDS = [f.name for f in fields(Evidence) if f.name.startswith(("own", "other", "pool", "gap", "heldout_own"))]
HELDOUT_FIELDS = [f.name for f in fields(Evidence) if f.name.startswith(("heldout", "kid"))]
ALWAYS = {"twin_distance", "twin_distance_ratio"}


def without(evidence: Evidence, absent: list[str], roles: tuple[str, ...]) -> Evidence:
    kept = lambda tables: {role: table for role, table in tables.items() if role not in roles}  # noqa: E731
    losses = {name: kept(getattr(evidence, name)) for name in ("losses", "twin_losses")}
    return replace(evidence, **dict.fromkeys(absent), **losses)


@pytest.mark.parametrize("name", NAMES)
def test_without_training_images_there_is_a_note_and_never_another_number(name):
    """A metric either does not need them and stays as it is, or has no value and says what was not given."""
    pool = [f for f in HELDOUT_FIELDS if f in ("heldout_ids", "heldout_pool_own", "heldout_pool_other")]
    scores = metric(name).scores(without(typical(), TRAIN_FIELDS + pool, ("own", "other")))
    if name in ALWAYS | {"kid", "loss_heldout"}:
        assert estimate(metric(name), scores).value == value(name, typical())
    else:
        assert len(scores.values) == 0 and np.isnan(estimate(metric(name), scores).value)
        assert "no training images" in scores.note or "no loss" in scores.note


@pytest.mark.parametrize("name", NAMES)
def test_without_heldout_images_there_is_a_note_and_never_another_number(name):
    scores = metric(name).scores(without(typical(), HELDOUT_FIELDS, ("heldout",)))
    if name == "kid" or "heldout" in name:
        assert len(scores.values) == 0 and np.isnan(estimate(metric(name), scores).value)
        assert "no held-out images" in scores.note or "no loss" in scores.note
    else:
        assert estimate(metric(name), scores).value == value(name, typical())


# What a metric is after own and other have been exchanged, from what all metrics were before.
SWAPPED = {
    "twin_distance": lambda before: before["twin_distance"],
    "twin_distance_ratio": lambda before: before["twin_distance_ratio"],
    "nearest_own": lambda before: before["nearest_other"],
    "nearest_other": lambda before: before["nearest_own"],
    "nearest_heldout": lambda before: distances(HELDOUT, OTHER).min(axis=1).mean(),
    "own_share": lambda before: 1 - before["own_share"],
    "heldout_share": lambda before: 1 - before["heldout_share"],
    "memorized_fraction": lambda before: flagged(SAMPLES, OTHER),
    "heldout_memorized_fraction": lambda before: flagged(HELDOUT, OTHER),
    "gap_lean": lambda before: -before["gap_lean"],
    "kid": lambda before: before["kid"],
    "loss_own": lambda before: before["loss_other"],
    "loss_other": lambda before: before["loss_own"],
    "loss_heldout": lambda before: before["loss_heldout"],
    "loss_lean": lambda before: -before["loss_lean"],
}


def flagged(queries, reference) -> float:
    """The share with d1 < d2 / 3, written out."""
    d = np.sort(distances(queries, reference), axis=1)
    return np.mean(d[:, 0] < d[:, 1] / 3)


def swapped() -> Evidence:
    exchange = {"own": "other", "other": "own", "heldout": "heldout"}
    mine, twins = ({role: table[exchange[role]] for role in exchange} for table in (OWN_LOSSES, TWIN_LOSSES))
    return replace(typical(own=OTHER, other=OWN), losses=mine, twin_losses=twins)


@pytest.mark.parametrize("name", NAMES)
def test_swapping_own_and_other_moves_a_metric_as_documented(name):
    assert name in SWAPPED, f"say in SWAPPED what exchanging own and other does to {name}"
    before = {each: value(each, typical()) for each in NAMES}
    assert value(name, swapped()) == pytest.approx(SWAPPED[name](before))


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_of_the_halves_would_notice_a_swap(name):
    """The two halves of these tests are unlike enough that only what knows no half stays as it is."""
    knows_no_half = ALWAYS | {"kid", "loss_heldout"}
    assert (value(name, swapped()) == pytest.approx(value(name, typical()))) == (name in knows_no_half)


# ---------------------------------------------------------------------------
# Documented extremes
# ---------------------------------------------------------------------------


def test_a_perfect_copier_is_at_every_extreme():
    copier = evidence_of(OWN, OWN, OTHER, HELDOUT)
    assert value("own_share", copier) == 1
    assert value("memorized_fraction", copier) == 1
    assert value("nearest_own", copier) == 0
    assert value("nearest_other", copier) > 0


def test_a_copier_of_the_other_half_is_at_the_opposite_ones():
    copier = evidence_of(OTHER, OWN, OTHER, HELDOUT)
    assert value("own_share", copier) == 0
    assert value("nearest_other", copier) == 0
    assert value("nearest_own", copier) > 0


def test_heldout_images_as_samples_give_the_values_of_the_controls():
    control = evidence_of(HELDOUT, OWN, OTHER, HELDOUT)
    assert value("own_share", control) == value("heldout_share", control)
    assert value("memorized_fraction", control) == value("heldout_memorized_fraction", control)
    assert value("nearest_own", control) == value("nearest_heldout", control)


def test_a_copier_of_one_image_is_caught():
    copier = evidence_of(np.tile(OWN[3], (10, 1)), OWN, OTHER, HELDOUT)
    assert value("memorized_fraction", copier) == 1
    assert value("own_share", copier) == 1
    assert value("nearest_own", copier) == 0


def test_samples_that_are_all_alike_have_no_twin_distance_ratio():
    """One collapsed checkpoint gave no scores at all, and the curve of a series could not be put together."""
    scores = metric("twin_distance_ratio").scores(evidence_of(np.zeros((10, 2)), OWN, OTHER))
    assert np.isnan(scores.values).all() and len(scores.values) == 10
    assert "no distance" in scores.note


def test_samples_that_are_all_alike_and_no_copies_are_not_called_copies():
    between = (OWN[0] + OWN[1]) / 2 + 100
    alike = evidence_of(np.tile(between, (10, 1)), OWN, OTHER)
    assert value("memorized_fraction", alike) == 0


def test_identical_twins_have_no_twin_distance():
    evidence = evidence_of(SAMPLES, OWN, OTHER, twin_samples=SAMPLES)
    assert value("twin_distance", evidence) == 0
    assert value("twin_distance_ratio", evidence) == 0


def test_twins_that_share_nothing_have_a_ratio_of_about_one():
    """2,000 independent pairs: a distance varies by half of its mean, so .05 is four SE."""
    evidence = evidence_of(points(6, 2000), OWN, OTHER, twin_samples=points(7, 2000))
    assert value("twin_distance_ratio", evidence) == pytest.approx(1, abs=0.05)


def test_the_ratio_of_twin_distances_is_that_of_the_means():
    evidence = typical()
    expected = evidence.twin_distance.mean() / evidence.different_seed_distance.mean()
    assert value("twin_distance_ratio", evidence) == pytest.approx(expected)


def test_the_ratio_has_the_spread_of_the_delta_method():
    """Agrees with the jackknife of a ratio of means, which is the same to first order."""
    evidence = typical()
    d, c = evidence.twin_distance, evidence.different_seed_distance
    left_out = (d.sum() - d) / (c.sum() - c)
    jackknife = np.sqrt((len(d) - 1) * left_out.var())
    scores = metric("twin_distance_ratio").scores(evidence).values
    assert scores.std(ddof=1) / np.sqrt(len(d)) == pytest.approx(jackknife, rel=0.1)


def test_equal_distances_count_one_half():
    """Samples on the line between the halves."""
    evidence = evidence_of([[0, 0], [0, 5], [0.1, 1]], [[1, 0], [1, 5]], [[-1, 0], [-1, 5]])
    np.testing.assert_array_equal(metric("own_share").scores(evidence).values, [0.5, 0.5, 1])


def test_no_flagged_sample_still_has_a_positive_upper_limit():
    far = evidence_of(OWN + 100, OWN, OTHER, HELDOUT)
    result = estimate(metric("memorized_fraction"), metric("memorized_fraction").scores(far))
    assert (result.value, result.low) == (0, 0)
    assert result.high == pytest.approx(1 - 0.025 ** (1 / len(OWN)))


# ---------------------------------------------------------------------------
# The gap ratio
# ---------------------------------------------------------------------------


def flags(samples, own) -> list[float]:
    other = np.asarray(own, float) + 1000
    return metric("memorized_fraction").scores(evidence_of(samples, own, other)).values.tolist()


def test_the_gap_ratio_flags_below_a_third_and_not_at_a_third():
    """Images at 0 and 4 on a line: at 1 the distances are 1 and 3."""
    assert flags([[1, 0], [0.99, 0], [1.01, 0], [2, 0]], [[0, 0], [4, 0]]) == [0, 1, 0, 0]


def test_an_exact_copy_of_a_duplicated_image_is_a_copy():
    """Both distances are 0, and 0/0 < 1/3 is false in the field's own code."""
    assert flags([[0, 0], [9, 9]], [[0, 0], [0, 0], [4, 0]]) == [1, 0]


def test_a_near_copy_of_a_duplicated_image_is_a_copy():
    """The second nearest image is the duplicate, as near as the first: it must be passed over (statistics 4.1)."""
    assert flags([[0.1, 0], [1.9, 0]], [[0, 0], [0, 0], [4, 0]]) == [1, 0]


def test_a_set_of_one_image_gives_nan_and_a_note():
    evidence = evidence_of([[0, 0], [3, 3]], [[0, 0]], [[1, 1]])
    scores = metric("memorized_fraction").scores(evidence)
    assert np.isnan(scores.values).all()
    assert "fewer images" in scores.note
    assert value("nearest_own", evidence) == pytest.approx(np.sqrt(18) / 2)
    assert value("own_share", evidence) == 0.5


# ---------------------------------------------------------------------------
# Losses and KID
# ---------------------------------------------------------------------------


def test_the_loss_averages_noise_levels_first_and_images_then():
    table = LossTable(np.array(["x", "y"], dtype=object), np.array([10, 90]), np.array([[1.0, 3.0], [5.0, 7.0]]))
    scores = metric("loss_own").scores(replace(typical(), losses={"own": table}))
    np.testing.assert_array_equal(scores.values, [2, 6])
    assert scores.unit == "image" and list(scores.ids) == ["a/x", "a/y"]


def test_kid_agrees_with_the_unbiased_estimate_written_out():
    x, y = points(8, 9, 0.5), points(9, 7)
    scale = np.sqrt((y**2).mean())
    k = lambda u, v: (u @ v / scale**2 / 2 + 1) ** 3  # noqa: E731
    within = lambda z: np.mean([k(u, v) for i, u in enumerate(z) for j, v in enumerate(z) if i != j])  # noqa: E731
    expected = within(x) + within(y) - 2 * np.mean([k(u, v) for u in x for v in y])
    assert kid.seed_scores(x, y).mean() == pytest.approx(expected)


def test_kid_of_the_same_distribution_is_about_zero_and_of_a_shifted_one_is_not():
    heldout = points(10, 500)
    same, shifted = (
        stats.mean_interval(Scores("seed", np.arange(500), kid.seed_scores(x, heldout)))
        for x in (points(11, 500), points(11, 500, 0.5))
    )
    assert abs(same.value) < 0.1 * shifted.value
    assert shifted.low > 0


def test_kid_does_not_depend_on_blocks(monkeypatch):
    x, y = points(12, 50), points(13, 40)
    whole = kid.seed_scores(x, y)
    monkeypatch.setattr(kid, "BLOCK", 7)
    np.testing.assert_allclose(kid.seed_scores(x, y), whole)


def test_kid_needs_two_images_on_both_sides():
    assert np.isnan(kid.seed_scores(points(14, 1), points(15, 5))).all()
    assert np.isnan(kid.seed_scores(points(14, 5), points(15, 1))).all()
