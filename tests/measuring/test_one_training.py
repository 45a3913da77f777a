"""One training: held-out images stand in the place of another half, however many there are (docs/statistics.md 14)."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from auditor.config import Budgets
from auditor.measuring import copies, halves, phase, verdict
from auditor.measuring.controls import DEAL_AGAIN, differing_halves
from auditor.measuring.copies import Flags, beside_decoys_p, beside_heldout_p, copy_p
from auditor.measuring.facts import Context, Copying, Lean, StepFacts
from auditor.measuring.lean import lean_fact, lean_tests, loss_scores, reference_share
from auditor.measuring.tail import tail_fact
from auditor.records import BEYOND_POOL, DECOYS, LossTable
from auditor.scope import Scope, control_names
from auditor.stats.landing import Landing
from auditor.stats.minima import Onset
from auditor.stats.named import compete
from auditor.stats.relabeling import Pool, exchangeability, relabel

N = 400  # training images
SIZES = (400, 100, 50)  # held-out images


def pool_of(m: int, n: int = N) -> Pool:
    ids = tuple(("a", str(i)) for i in range(n)) + tuple((DECOYS, str(i)) for i in range(m))
    return Pool(ids, np.repeat([1.0, -1.0], [n, m]), np.arange(n + m))


def land(m: int, leaning: float, copied: int = 0, seed: int = 0, s: int = 1000) -> dict[str, Landing]:
    """Samples that land anywhere; a share of them on training images alone, and the first ``copied`` close to one."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, N + m, s)
    own = rng.uniform(size=s) < leaning
    index[own] = rng.integers(0, N, own.sum())
    index[:copied] = rng.permutation(N)[:copied]
    gap = rng.uniform(0, 0.3, s)
    gap[:copied] = 0.9
    nearest_a, nearest_b = np.where(index < N, index, 0), np.where(index < N, N, index)
    return {"a": Landing(nearest_a, nearest_b, (index < N).astype(float), gap)}


def result_of(lands: dict[str, Landing], m: int):
    pool = pool_of(m)
    return lean_tests(pool, relabel(pool, 0, 1000), {(1, "pixel"): lands}, {}, 0)[0][1, "pixel"]


# The balanced scale -----------------------------------------------------------


def test_a_share_is_told_as_if_there_were_as_many_held_out_images():
    equal, few = pool_of(N), pool_of(100)
    assert equal.stretch == 1 and all(equal.balanced(x) == x for x in (0.1, 1 / 3, 0.7, 1.0))  # to the last bit
    assert few.chance == 0.8 and few.balanced(0.8) == pytest.approx(0.5)
    assert few.balanced(12 / 13) == pytest.approx(0.75)  # odds 12 are three times chance's odds 4
    assert few.balanced(1.0) == 1 and few.balanced(0.0) == 0
    share, h = 0.85, 1e-6
    assert few.balanced_slope(share) == pytest.approx((few.balanced(share + h) - few.balanced(share - h)) / (2 * h))


@pytest.mark.parametrize("m", SIZES)
def test_samples_that_land_anywhere_show_no_lean_and_those_that_lean_the_same_share_at_any_size(m):
    null = result_of(land(m, 0.0, seed=m), m)
    assert null.share["both"].value == pytest.approx(0.5, abs=3 * np.sqrt(null.v_seed + null.v_hub))
    assert null.gap_p_corrected > 0.01
    found = result_of(land(m, 0.5, seed=m), m)
    expected = pool_of(m).balanced(0.5 + 0.5 * pool_of(m).chance)
    assert found.share["both"].value == pytest.approx(expected, abs=3 * np.sqrt(found.v_seed + found.v_hub))
    assert found.gap_p_corrected < 0.01 and set(found.share) == {"a", "both"}


def test_the_error_of_the_share_is_its_spread_over_deals():
    """Samples fixed, labels dealt anew: what the interval claims to cover."""
    m, s = 100, 1000
    pool, rng = pool_of(m), np.random.default_rng(5)
    weights = rng.dirichlet(np.full(N + m, 0.3))  # hubs: few images take many samples
    index = rng.choice(N + m, s, p=weights)
    shares = []
    for _ in range(400):
        own = np.zeros(N + m, bool)
        own[rng.permutation(N + m)[:N]] = True
        shares.append(pool.balanced(own[index].mean()))
    found = result_of({"a": Landing(index, index, (index < N).astype(float), np.ones(s))}, m)
    assert np.sqrt(found.v_seed + found.v_hub) == pytest.approx(np.std(shares), rel=0.2)


def test_gap_lean_is_the_mean_signed_gap_whatever_the_number_of_held_out_images():
    for m in SIZES:
        on = {1.0: np.arange(N), 0.0: np.arange(N, N + m)}
        every = np.concatenate([np.repeat(on[1.0], 2), on[0.0]])  # training images twice as often as chance has it
        lands = {"a": Landing(every, every, (every < N).astype(float), np.full(len(every), 0.3))}
        result = result_of(lands, m)
        share = 2 * N / (2 * N + m)
        expected = 0.3 * 2 * pool_of(m).stretch * (share - pool_of(m).chance)
        assert result.gap.value == pytest.approx(expected, rel=1e-3)
        assert reference_share(lands, pool_of(m)).gap == pytest.approx(expected, rel=1e-6)


def test_equal_numbers_give_the_very_numbers_of_one_of_two_trainings():
    lands = land(N, 0.2)
    alone = result_of(lands, N)
    ids = tuple(("a", str(i)) for i in range(N)) + tuple(("b", str(i)) for i in range(N))
    pool = Pool(ids, np.repeat([1.0, -1.0], N), np.arange(2 * N))
    rest = land(N, 0.0, seed=9)["a"]
    both = lean_tests(pool, relabel(pool, 0, 1000), {(1, "x"): {"a": lands["a"], "b": rest}}, {}, 0)[0][1, "x"]
    assert alone.share["a"].value == both.share["a"].value and alone.share_p["a"] == both.share_p["a"]


# Findings ----------------------------------------------------------------------


@pytest.mark.parametrize("m", SIZES[:2])
def test_a_tail_of_copies_of_many_images_is_bias_and_one_of_no_copies_is_not(m):
    for lands, biased in ((land(m, 0.0, copied=80), True), (land(m, 0.0), False)):
        result = result_of(lands, m)
        assert tail_fact(lands, pool_of(m), result.tail_p_corrected, pool_of(m).chance).is_bias(Budgets()) is biased


def test_a_decoy_among_the_strongest_counts_for_as_many_training_images_as_there_are_for_it():
    magnitude, groups = np.linspace(1, 0.5, 31), np.arange(31)
    own = np.ones(31)
    own[25] = 0
    assert compete(magnitude, groups, own).listed.sum() == 30
    assert compete(magnitude, groups, own, decoys_per_target=0.25).listed.sum() == 0  # (1 + 0) * 4 / 25 > .1
    assert compete(magnitude, groups, np.ones(31)[:31], decoys_per_target=0.5).listed.sum() == 31


def flags(own: list[int], other: list[int], s: int = 1000, heldout: int = 0, h: int = 400) -> Flags:
    """Flags of samples on these groups of training images, and on these decoys."""
    mine, theirs, groups, decoys = (np.zeros(s, kind) for kind in (bool, bool, np.int64, np.int64))
    mine[: len(own)], groups[: len(own)] = True, own
    theirs[: len(other)], decoys[: len(other)] = True, other
    return Flags(mine, theirs, np.arange(h) < heldout, groups, decoys)


def test_copies_of_a_single_training_are_told_beside_held_out_images_and_beside_decoys_each_at_half_the_level():
    found = flags(list(range(20)), [N, N + 1])
    fisher = stats.fisher_exact([[20, 980], [0, 400]], alternative="greater").pvalue
    binomial = stats.binomtest(20, 22, 0.8, alternative="greater").pvalue
    assert beside_heldout_p(found) == pytest.approx(fisher)
    assert beside_decoys_p(found, None, 0.8) == pytest.approx(binomial)
    assert copy_p({"a": found}, chance=0.8) == pytest.approx(2 * min(fisher, binomial))


def test_copies_of_one_image_and_of_images_outside_the_pool_are_few_tosses_of_a_coin():
    one = flags([7] * 40, [])
    assert beside_decoys_p(one, None, 0.5) == 0.5 and beside_heldout_p(one) > 0.5
    outside = flags([BEYOND_POOL + i for i in range(40)], [])
    assert beside_decoys_p(outside, None, 0.5) == 1
    assert beside_heldout_p(outside) < 1e-3  # but held-out images are flagged on them, too, as often as they are


def test_training_and_held_out_images_given_the_wrong_way_round_are_told():
    lands = land(N, 0.5)["a"]
    turned = {"a": Landing(lands.nearest_b - N, lands.nearest_a + N, 1 - lands.in_a, lands.gap)}
    for found, told in ((turned, True), (land(N, 0.5), False), (land(N, 0.0), False)):
        result = result_of(found, N)
        tests = SimpleNamespace(lean={(1, "pixel"): result}, loss={})
        scope = Scope((1,), ("pixel",), 1000, 0, True, True, twins=("a",), decoys=True)
        said = halves.look_at(SimpleNamespace(scope=scope, pool=pool_of(N)), tests, Budgets())
        assert bool(said.wrong) is told
    assert halves.EXCHANGE_ALONE.startswith("Give --train and --heldout the other way round")


# Losses --------------------------------------------------------------------------


def test_the_lean_of_losses_is_the_log_ratio_of_held_out_to_own_losses():
    def table(values: np.ndarray) -> LossTable:
        return LossTable(np.array([str(i) for i in range(len(values))], object), np.zeros(1, int), values[:, None])

    rng = np.random.default_rng(0)
    own, held = rng.lognormal(0.0, 0.1, N), rng.lognormal(0.2, 0.1, 100)
    losses = {"a": {"own": table(own), "heldout": table(held)}}
    pool = pool_of(100)
    columns, _ = loss_scores(losses, pool)
    assert pool.labels[columns].tolist() == [1.0] * N + [-1.0] * 100
    found = lean_tests(pool, relabel(pool, 0, 500), {}, {1: losses}, 1)[1][1]
    assert found.estimate.value == pytest.approx(np.log(held).mean() - np.log(own).mean())
    assert found.p_corrected < 0.01 and found.low > 0.15


# Is held-out held out? ---------------------------------------------------------


def test_held_out_images_of_another_source_are_no_control_and_those_of_the_same_deal_are():
    rng, m = np.random.default_rng(1), 100
    pool = pool_of(m)
    relabeling = relabel(pool, 0, 500)
    alike = rng.permutation(N + m)
    own_set = np.where(np.arange(N + m) < N, (np.arange(N + m) + 1) % N, N + (np.arange(N + m) + 1 - N) % m)
    brightness = rng.normal(100, 10, N + m)
    assert differing_halves({"pixel": alike}, brightness, relabeling, True) == []
    (said,) = differing_halves({"pixel": own_set}, brightness, relabeling, True)
    assert said.startswith("Training and held-out images do not come from one deal (in pixel 100.0%")
    assert said.endswith(DEAL_AGAIN)
    (darker,) = differing_halves({"pixel": alike}, brightness - 10 * (pool.labels < 0), relabeling, True)
    assert "differ in mean brightness" in darker
    assert exchangeability(alike, relabeling)[1] > 0.01


# The paper's question -------------------------------------------------------------


def facts(leans: list[bool]) -> list[StepFacts]:
    """Return the facts of steps 100, 200, ... that lean or do not."""
    return [
        StepFacts(100 * (i + 1), {"pixel": Lean(0.7 if each else 0.5, 1e-5, 0.0, 2000, 0.001 if each else 1.0, 0.5)})
        for i, each in enumerate(leans)
    ]


def test_the_stopping_rule_of_one_training_looks_at_the_lean_beside_the_loss():
    late = phase.of_one_training(facts([False, True, True, True]), Onset("found", 400, (300, 400)), Budgets())
    assert late["before_loss"] and late["lean_step"] == 200
    assert late["sentence"].endswith("Stopping at the least loss is too late: stop by the lean.")
    early = phase.of_one_training(facts([False, False, False, True]), Onset("found", 200, (200, 300)), Budgets())
    assert not early["before_loss"] and early["sentence"].endswith("Stop by whichever comes first.")
    none = phase.of_one_training(facts([False] * 4), Onset("found", 200, (200,)), Budgets())
    assert none["sentence"].startswith("No lean is found at any checkpoint")
    unknown = phase.of_one_training(facts([False, True, True, True]), Onset("undecided", -1, ()), Budgets())
    assert not unknown["before_loss"] and "no minimum is seen" in unknown["sentence"]


def test_a_single_training_has_a_smooth_reference_and_decoys_as_its_rival():
    scope = Scope((1,), ("pixel",), 10, 0, True, True, twins=("a",), decoys=True)
    assert scope.halves == ("a", DECOYS) and scope.rival("a") == DECOYS and scope.with_lean
    assert control_names(scope) == ("smooth", "copier", "heldout")
    twins = Scope((1,), ("pixel",), 10, 0, True, True)
    assert twins.halves == ("a", "b") and twins.rival("b") == "a" and "decoys" not in twins.as_record()
    assert copies.copy_p({"a": flags([], [])}) == 1.0
    assert lean_fact(result_of(land(N, 0.0), N), reference_share(land(N, 0.0), pool_of(N)), 1000).value < 0.6


def test_a_single_training_that_shows_a_few_images_again_and_again_names_them_also_where_it_is_biased():
    """Ten images are ten tosses of a coin, and make no finding of copies; who is shown must be told all the same."""
    ids = tuple(f"scan-{i}" for i in range(10))
    shown = Copying(269, 1000, 0, 348, 1.0, 10, revealed=ids, most_of_one=35)
    context = Context((), (), 2000, release="samples", single=True)
    leaning = Lean(0.71, 1e-5, 0.0, 2000, 0.001, 0.5)
    biased = verdict.judge(StepFacts(1, {"pixel": leaning}, copying={"pixel": shown}), context, Budgets())
    assert biased.risk == "biased" and "10 images are reproduced by 269 of 1000 samples, one by 35: scan-0" in str(
        biased.reasons
    )
    clean = replace(shown, hits=0, revealed=(), most_of_one=0)
    quiet = verdict.judge(StepFacts(1, {"pixel": leaning}, copying={"pixel": clean}), context, Budgets())
    assert quiet.risk == "biased" and "reproduced" not in str(quiet.reasons)
    alike = replace(shown, control_hits=100)  # held-out images are flagged as often: the rule says nothing here
    assert verdict.reproduced(StepFacts(1, {}, copying={"pixel": alike}), Budgets()) == ()


def test_a_rule_that_depends_on_the_number_of_images_is_compared_with_held_out_images_alone():
    """Samples and images at random: the mean of the 50 nearest flags more among fewer images, d1 / d2 does not."""
    rng, n, m, s = np.random.default_rng(3), 200, 800, 1500
    samples, own, decoys, held = (rng.normal(size=(size, 8)) for size in (s, n, m, m))

    def apart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T, 0))

    def near(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.sort(apart(x, y), axis=1)

    def flagged(distance: np.ndarray, rule: str) -> np.ndarray:
        second, limit = (distance[:, 1], 1 / 3) if rule == "gap" else (distance[:, :50].mean(1), 0.5)
        return distance[:, 0] < limit * second

    shown = {}
    for rule in ("gap", "carlini"):
        to_own, to_decoys = (flagged(near(samples, each), rule) for each in (own, decoys))
        nearest = [apart(samples, each).argmin(1) for each in (own, decoys)]
        found = Flags(to_own, to_decoys, flagged(near(held, own), rule), nearest[0], n + nearest[1])
        shown[rule] = found
    assert beside_decoys_p(shown["carlini"], None, n / (n + m)) < 1e-6  # what is not asked, for it would be wrong
    p = copies.corrected({((1, "x"), rule): {"a": each} for rule, each in shown.items()}, n / (n + m))
    assert min(p.values()) > 0.05
