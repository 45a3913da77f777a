"""Every registered metric keeps one contract; and each one's value where it is known in advance.

Evidence is made here from a few points in the plane by brute force, not by auditor.evidence, so that an error there
cannot hide itself. A new metric is tested by being registered; it must say in SWAPPED what exchanging own and other
does to it.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm, wasserstein_distance
from vectors import distances

from auditor import registry
from auditor.metrics import kid
from auditor.records import TWINS, Agreement, Estimate, Evidence, LossTable, Metric, Scores, UTurns
from auditor.stats import intervals

NAMES = tuple(registry.METRICS)
K = 8


def metric(name: str) -> Metric:
    return registry.lookup("metric", name)


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


def mean_of_50(queries, reference) -> np.ndarray:
    d = np.sort(distances(queries, reference), axis=1)
    return d[:, :50].mean(axis=1) if d.shape[1] >= 50 else np.full(len(d), np.nan)


def spacing(queries, reference) -> np.ndarray:
    """How far the nearest point is from the nearest point that does not equal it."""
    reference = np.asarray(reference, float)
    within = distances(reference, reference)
    within[within == 0] = np.inf
    return within.min(axis=1)[distances(queries, reference).argmin(axis=1)]


def cluster_size(queries, reference) -> np.ndarray:
    reference = np.asarray(reference, float)
    nearest_one = reference[distances(queries, reference).argmin(axis=1)]
    return (nearest_one[:, None] == reference[None]).all(axis=2).sum(axis=1).astype(float)


def in_class(queries, reference) -> np.ndarray:
    """The nearest point on the same side, in height, of -.5: two classes."""
    queries, reference = np.asarray(queries, float), np.asarray(reference, float)
    same = (queries[:, [1]] > -0.5) == (reference[None, :, 1] > -0.5)
    return np.where(same, distances(queries, reference), np.inf).min(axis=1)


def cell(points) -> np.ndarray:
    """Two cells, few points in the second."""
    return (np.asarray(points, float)[:, 0] > 1.2).astype(float)


def quality(samples, reference) -> dict[str, np.ndarray]:
    """Precision, recall, density and coverage written out, as scores of the jackknife over four blocks of seeds."""
    samples, reference = np.asarray(samples, float), np.asarray(reference, float)
    radius = lambda x: np.sort(distances(x, x), axis=1)[:, 5] if len(x) > 5 else np.full(len(x), np.nan)  # noqa: E731
    blocks = np.arange(len(samples)) * 4 // len(samples)

    def values(kept):
        d = distances(kept, reference)
        of_images, of_samples = d < radius(reference), d < radius(kept)[:, None]
        shares = of_images.any(axis=1), of_samples.any(axis=0), of_images.sum(axis=1) / 5, of_images.any(axis=0)
        return np.array([share.mean() for share in shares])

    whole, left_out = values(samples), np.array([values(samples[blocks != b]) for b in range(4)])
    scores = whole + 3 * (left_out.mean(axis=0) - left_out)
    return dict(zip(("precision", "recall", "density", "coverage"), scores.T, strict=True))


def loss_table(seed: int, n: int, prefix: str) -> LossTable:
    values = np.random.default_rng(seed).uniform(0.1, 0.2, (n, 3))
    return LossTable(np.array([f"{prefix}{i}" for i in range(n)], dtype=object), np.array([10, 50, 90]), values)


OWN_LOSSES = {
    "own": loss_table(1, 6, "own"),
    "other": loss_table(2, 6, "other"),
    "heldout": loss_table(3, 5, "heldout"),
}


COMPARED = tuple(each.name for each in fields(Agreement) if each.name not in ("ids", "times"))


def agreement_table(seed: int, n: int, prefix: str) -> Agreement:
    rng = np.random.default_rng(seed)
    ids = np.array([f"{prefix}{i}" for i in range(n)], dtype=object)
    columns = dict(zip(COMPARED, rng.uniform(0.1, 0.9, (len(COMPARED), n, 3)), strict=True))
    return Agreement(
        ids,
        np.array([10, 50, 90]),
        **columns | {"sharing": rng.uniform(0.5, 4, (n, 3)), "largest": rng.uniform(0.97, 1, (n, 3))},
    )


def turn_table(seed: int, n: int, prefix: str) -> UTurns:
    rng = np.random.default_rng(seed)
    ids = np.array([f"{prefix}{i}" for i in range(n)], dtype=object)
    return UTurns(ids, np.array([20, 60]), rng.uniform(0.1, 0.9, (n, 2)), rng.random((n, 2)) < 0.6)


AGREEMENT = {
    "own": agreement_table(11, 6, "own"),
    "other": agreement_table(12, 6, "other"),
    "heldout": agreement_table(13, 5, "heldout"),
    "trajectory": agreement_table(14, 4, "seed"),
    "samples": agreement_table(15, 4, "seed"),
}
TWINS_HELDOUT = replace(AGREEMENT["heldout"], along=AGREEMENT["heldout"].along[::-1] / 2)  # of the other memorizer
TWINS_HELDOUT = replace(TWINS_HELDOUT, spread=AGREEMENT["heldout"].spread[::-1], sharing=TWINS_HELDOUT.sharing[::-1])
TWIN_AGREEMENT = {"heldout": TWINS_HELDOUT, "trajectory": agreement_table(16, 4, "seed")}
TWIN_AGREEMENT |= {"samples": agreement_table(17, 4, "seed")}
SAME_DATA = replace(AGREEMENT["heldout"], half_squared=AGREEMENT["heldout"].half_squared / 4)
U_TURNS = {role: turn_table(21 + i, n, role) for i, (role, n) in enumerate([("own", 6), ("other", 6), ("heldout", 5)])}
TWIN_U_TURNS = {"own": turn_table(24, 6, "other"), "other": turn_table(25, 6, "own")}
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
        "own_mean_50": mean_of_50(samples, own),
        "own_spacing": spacing(samples, own),
        "own_cluster_size": cluster_size(samples, own),
        "own_cell": cell(samples),
        "own_quality": quality(samples, own),
        "other_quality": quality(samples, other),
        "gap": gaps(samples, np.concatenate([own, other])),
        "pool_classed": np.ones(n, dtype=bool),
        "own_in_class": in_class(samples, own),
        "other_in_class": in_class(samples, other),
    }
    if heldout is not None:
        known |= {
            "heldout_ids": np.array([f"h{i}.png" for i in range(len(heldout))], dtype=object),
            "heldout_own": nearest(heldout, own),
            "heldout_pool_own": nearest(heldout, own)[:, 0],
            "heldout_pool_other": nearest(heldout, other)[:, 0],
            "heldout_own_outside": outside(heldout, own),
            "heldout_own_mean_50": mean_of_50(heldout, own),
            "heldout_own_spacing": spacing(heldout, own),
            "heldout_own_cell": cell(heldout),
            "heldout_classed": np.ones(len(heldout), dtype=bool),
            "heldout_own_in_class": in_class(heldout, own),
            "heldout_other_in_class": in_class(heldout, other),
            "heldout_quality": quality(samples, heldout) | {"frechet": np.array([0.25])},
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
        agreement=AGREEMENT,
        twin_agreement=TWIN_AGREEMENT,
        same_data_agreement=SAME_DATA,
        u_turns=U_TURNS,
        twin_u_turns=TWIN_U_TURNS,
        copy_ratio=0.6,  # as --fpr would set it
        same_data_distance=np.diag(apart) / 2,
        **known,
    )


def points(seed: int, n: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 2)) + shift


OWN, OTHER = points(1, 60), points(2, 60)
HELDOUT = np.concatenate([OWN[:2] + 1e-4, points(3, 11), 2.5 * points(187, 10)])
SAMPLES = np.concatenate([OWN[:8] + 1e-4, OTHER[:1] + 1e-4, points(4, 12), 2.5 * points(287, 10)])


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

    kept = [f.name for f in fields(evidence) if f.name != "times"]  # the columns of tables, no units
    return replace(evidence, **{name: one(getattr(evidence, name)) for name in kept})


def estimate(metric: Metric, scores: Scores) -> Estimate:
    return intervals.INTERVALS[metric.interval](scores)


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
    assert 0 <= one.k <= 50
    assert set(one.twins) <= {*TWINS, "both"} and one.twins
    assert one.interval in intervals.INTERVALS


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_one_finite_number_per_unit(name):
    evidence = typical()
    scores = metric(name).scores(evidence)
    assert scores.unit in {"seed", "image", "block of seeds", "set", "trajectory"}
    assert scores.values.dtype == float and scores.values.shape == scores.ids.shape
    assert np.isfinite(scores.values).all() and len(scores.values)
    assert scores.note == "" or metric(name).interval == "shown"
    if scores.unit == "seed":
        np.testing.assert_array_equal(scores.ids, evidence.seeds)
    result = estimate(metric(name), scores)
    if metric(name).interval in {"shown", "maximum", "quantile_99"}:  # of 31 seeds
        assert np.isnan([result.low, result.high]).all() and result.note
    else:  # of a lean, the interval that is printed is that of the relabeling
        assert result.low < result.high or metric(name).interval == "lean"
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
    blocks = ("own_quality", "other_quality", "heldout_quality")  # these are no rows
    shuffled = replace(shuffled, **{name: getattr(evidence, name) for name in blocks})
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
ALWAYS = {"twin_distance", "twin_distance_ratio", "twin_variance", "twin_variance_seed", "twin_variance_data"}
KNOWS_NO_HALF = ALWAYS | {"kid", "frechet", "loss_heldout", "prediction_agreement_heldout", "prediction_variance"}
# They need both halves, and do not tell them apart.
SYMMETRIC = {"prediction_agreement_train", "target_noise_correlation", "lone_disagreement"}
KNOWS_NO_HALF |= {"prediction_variance_seed", "prediction_variance_data"}
KNOWS_NO_HALF |= {f"{name}_heldout" for name in ("precision", "recall", "density", "coverage")}
BY_ROLE = ("losses", "twin_losses", "agreement", "twin_agreement", "u_turns", "twin_u_turns")
BESIDE_HELDOUT = {
    "target_noise_correlation",
    "lone_disagreement",
    "prediction_variance",
    "prediction_variance_seed",
    "prediction_variance_data",
    "kid",
    "frechet",
    "nn_shift",
    "nn_mean_shift",
    "wasserstein_1",
    "nn_kl_paper",
    "c_t",
}


def without(evidence: Evidence, absent: list[str], roles: tuple[str, ...]) -> Evidence:
    kept = lambda tables: {role: table for role, table in tables.items() if role not in roles}  # noqa: E731
    losses = {name: kept(getattr(evidence, name)) for name in BY_ROLE}
    if "own" in roles:  # without the images of the half there is no memorizer to compare with
        unknown = np.full_like(AGREEMENT["heldout"].along, np.nan)
        nothing = dict.fromkeys(("along", "reach", "spread", "sharing", "largest", "shell"), unknown)
        losses["agreement"] = {"heldout": replace(AGREEMENT["heldout"], **nothing)}
    return replace(evidence, **dict.fromkeys(absent), **losses)


@pytest.mark.parametrize("name", NAMES)
def test_without_training_images_there_is_a_note_and_never_another_number(name):
    """A metric either does not need them and stays as it is, or has no value and says what was not given."""
    pool = [f for f in HELDOUT_FIELDS if f in ("heldout_ids", "heldout_pool_own", "heldout_pool_other")]
    scores = metric(name).scores(without(typical(), TRAIN_FIELDS + pool, ("own", "other")))
    if name in KNOWS_NO_HALF:
        assert estimate(metric(name), scores).value == value(name, typical())
    else:
        assert len(scores.values) == 0 and np.isnan(estimate(metric(name), scores).value)
        assert "no training images" in scores.note or "no loss" in scores.note


@pytest.mark.parametrize("name", NAMES)
def test_without_heldout_images_there_is_a_note_and_never_another_number(name):
    scores = metric(name).scores(without(typical(), HELDOUT_FIELDS, ("heldout",)))
    if name in BESIDE_HELDOUT or "heldout" in name:
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
    "memorized_fraction_cluster": lambda before: flagged(SAMPLES, OTHER),  # no point occurs twice
    "heldout_memorized_fraction_cluster": lambda before: flagged(HELDOUT, OTHER),
    "memorized_fraction_carlini": lambda before: calibrated(SAMPLES, OTHER),
    "heldout_memorized_fraction_carlini": lambda before: calibrated(HELDOUT, OTHER),
    "memorized_fraction_fpr": lambda before: flagged(SAMPLES, OTHER, 0.6),
    "heldout_memorized_fraction_fpr": lambda before: flagged(HELDOUT, OTHER, 0.6),
    "gap_q99": lambda before: gaps(SAMPLES, OTHER).max(),  # of 31 and of 13 the 99 % quantile is the largest
    "heldout_gap_q99": lambda before: gaps(HELDOUT, OTHER).max(),
    "gap_max": lambda before: gaps(SAMPLES, OTHER).max(),
    "heldout_gap_max": lambda before: gaps(HELDOUT, OTHER).max(),
    "authenticity": lambda before: authentic(SAMPLES, OTHER),
    "heldout_authenticity": lambda before: authentic(HELDOUT, OTHER),
    "nn_shift": lambda before: mannwhitneyu(to(HELDOUT, OTHER), to(SAMPLES, OTHER)).statistic / 31 / 23,
    "nn_mean_shift": lambda before: to(HELDOUT, OTHER).mean() - to(SAMPLES, OTHER).mean(),
    "wasserstein_1": lambda before: wasserstein_distance(to(SAMPLES, OTHER), to(HELDOUT, OTHER)),
    "nn_kl_paper": lambda before: histogram_divergence(to(SAMPLES, OTHER), to(HELDOUT, OTHER)),
    "c_t": lambda before: mann_whitney_z(SAMPLES[cell(SAMPLES) == 0], HELDOUT[cell(HELDOUT) == 0], OTHER),
    "split_identification": lambda before: 1 - before["split_identification"],
    "split_information": lambda before: intervals.fano(1 - before["split_identification"]),
    "twin_variance": lambda before: before["twin_variance"],
    "twin_variance_seed": lambda before: before["twin_variance"] / 4,  # half as far, so a quarter of the variance
    "twin_variance_data": lambda before: before["twin_variance"] * 3 / 4,
    "frechet": lambda before: before["frechet"],
    **{
        f"{name}_{role}": lambda before, other=f"{name}_{other}": before[other]
        for name in ("precision", "recall", "density", "coverage")
        for role, other in (("own", "other"), ("other", "own"), ("heldout", "heldout"))
    },
    "own_share_in_class": lambda before: 1 - before["own_share_in_class"],
    "heldout_share_in_class": lambda before: 1 - before["heldout_share_in_class"],
    "nearest_own_in_class": lambda before: before["nearest_other_in_class"],
    "nearest_other_in_class": lambda before: before["nearest_own_in_class"],
    "gap_lean": lambda before: -before["gap_lean"],
    "kid": lambda before: before["kid"],
    "loss_own": lambda before: before["loss_other"],
    "loss_other": lambda before: before["loss_own"],
    "loss_heldout": lambda before: before["loss_heldout"],
    "loss_lean": lambda before: -before["loss_lean"],
    "prediction_agreement_heldout": lambda before: before["prediction_agreement_heldout"],
    "prediction_agreement_train": lambda before: before["prediction_agreement_train"],
    "prediction_variance": lambda before: before["prediction_variance"],
    "memorizer_share_own": lambda before: share_of(AGREEMENT["other"]),
    "memorizer_share_heldout": lambda before: share_of(TWINS_HELDOUT),
    "prediction_variance_seed": lambda before: before["prediction_variance"] / 4,
    "prediction_variance_data": lambda before: before["prediction_variance"] * 3 / 4,
    "memorizer_share_trajectory": lambda before: share_of(TWIN_AGREEMENT["trajectory"]),
    "memorizer_share_samples": lambda before: share_of(TWIN_AGREEMENT["samples"]),
    "collapse_time": lambda before: collapse(TWIN_AGREEMENT["trajectory"]),
    "target_noise_correlation": lambda before: before["target_noise_correlation"],
    "lone_disagreement": lambda before: before["lone_disagreement"],
    "u_turn_lean": lambda before: -before["u_turn_lean"],
    "return_rate": lambda before: U_TURNS["other"].returned.mean(),
    "return_rate_lean": lambda before: -before["return_rate_lean"],
    "separation": lambda before: 1 - before["separation"],
}


def flagged(queries, reference, ratio: float = 1 / 3) -> float:
    """The share with d1 < c d2, written out."""
    d = np.sort(distances(queries, reference), axis=1)
    return np.mean(d[:, 0] < ratio * d[:, 1])


def to(queries, reference) -> np.ndarray:
    return distances(queries, reference).min(axis=1)


def calibrated(queries, reference) -> float:
    d = np.sort(distances(queries, reference), axis=1)
    return np.mean(d[:, 0] / (0.5 * d[:, :50].mean(axis=1)) < 1)


def authentic(queries, reference) -> float:
    within = distances(reference, reference) + np.diag(np.full(len(reference), np.inf))
    return 100 * np.mean(to(queries, reference) > within.min(axis=1)[distances(queries, reference).argmin(axis=1)])


def histogram_divergence(samples, heldout) -> float:
    """As scripts/utils.py of the paper has it, for distances from 0 to the largest."""
    edges = np.linspace(0, max(samples.max(), heldout.max()), 21)
    p, q = (np.clip(np.histogram(d, edges)[0] / len(d), 1e-8, 1) for d in (samples, heldout))
    return np.sum(p * np.log(p / q))


def mann_whitney_z(samples, heldout, own) -> float:
    """The standardised U of one cell; the second cell of these tests has too few samples to count."""
    test = mannwhitneyu(to(samples, own), to(heldout, own), False, "less", method="asymptotic")
    return norm.ppf(test.pvalue)


def share_of(table: Agreement) -> float:
    return table.along.sum() / table.reach.sum()


def collapse(table: Agreement) -> float:
    return np.mean([max([0, *table.times[row > 0.99]]) for row in table.largest])


def swapped() -> Evidence:
    exchange = {"own": "other", "other": "own", "heldout": "heldout"}
    mine, twins = ({role: table[exchange[role]] for role in exchange} for table in (OWN_LOSSES, TWIN_LOSSES))
    agreement = {role: AGREEMENT[exchange[role]] for role in exchange} | TWIN_AGREEMENT
    turns, twin_turns = ({role: each[exchange[role]] for role in ("own", "other")} for each in (U_TURNS, TWIN_U_TURNS))
    changed = {"losses": mine, "twin_losses": twins, "agreement": agreement, "twin_agreement": AGREEMENT}
    return replace(typical(own=OTHER, other=OWN), **changed, u_turns=turns, twin_u_turns=twin_turns)


@pytest.mark.parametrize("name", NAMES)
def test_swapping_own_and_other_moves_a_metric_as_documented(name):
    assert name in SWAPPED, f"say in SWAPPED what exchanging own and other does to {name}"
    before = {each: value(each, typical()) for each in NAMES}
    assert value(name, swapped()) == pytest.approx(SWAPPED[name](before))


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_of_the_halves_would_notice_a_swap(name):
    """The two halves of these tests are unlike enough that only what knows no half stays as it is."""
    assert (value(name, swapped()) == pytest.approx(value(name, typical()))) == (name in KNOWS_NO_HALF | SYMMETRIC)


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


def flags(samples, own, name="memorized_fraction") -> list[float]:
    other = np.asarray(own, float) + 1000
    return metric(name).scores(evidence_of(samples, own, other)).values.tolist()


def test_the_gap_ratio_flags_below_a_third_and_not_at_a_third():
    """Images at 0 and 4 on a line: at 1 the distances are 1 and 3."""
    assert flags([[1, 0], [0.99, 0], [1.01, 0], [2, 0]], [[0, 0], [4, 0]]) == [0, 1, 0, 0]


def test_an_exact_copy_of_a_duplicated_image_is_a_copy():
    """Both distances are 0, and 0/0 < 1/3 is false in the field's own code."""
    assert flags([[0, 0], [9, 9]], [[0, 0], [0, 0], [4, 0]]) == [1, 0]


def test_a_near_copy_of_a_duplicated_image_is_a_copy():
    """The second nearest image is the duplicate, as near as the first: it must be passed over (statistics 4.1)."""
    near_copy, duplicated = [[0.1, 0], [1.9, 0]], [[0, 0], [0, 0], [4, 0]]
    assert flags(near_copy, duplicated, "memorized_fraction_cluster") == [1, 0]
    assert flags(near_copy, duplicated) == [0, 0]  # as the field has it


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


def test_levels_that_stand_for_different_shares_of_the_times_are_weighted_by_them():
    values, shares = np.array([[1.0, 3.0], [5.0, 7.0]]), np.array([0.75, 0.25])
    table = LossTable(np.array(["x", "y"], dtype=object), np.array([10, 90]), values, shares)
    assert metric("loss_own").scores(replace(typical(), losses={"own": table})).values.tolist() == [1.5, 5.5]


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
        intervals.mean_interval(Scores("seed", np.arange(500), kid.seed_scores(x, heldout)))
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
