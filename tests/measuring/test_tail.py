"""The samples for which one image stands out most: on whose half they land."""

import numpy as np
import pytest

from auditor.config import Budgets
from auditor.measuring.lean import lean_tests
from auditor.measuring.tail import tail_fact, tail_rows, tail_share
from auditor.stats.landing import Landing
from auditor.stats.relabeling import Pool, relabel

N = 400  # images of each half
POOL = Pool(tuple((half, str(i)) for half in "ab" for i in range(N)), np.repeat([1.0, -1.0], N), np.arange(2 * N))


def world(copies: int, seed: int = 0, n: int = 1000, of_one_image: bool = False) -> dict[str, Landing]:
    """Samples of twins that land anywhere, ``copies`` of each twin close to an own image."""
    rng = np.random.default_rng(seed)
    found = {}
    for twin, own in (("a", 0), ("b", N)):
        index = rng.integers(0, 2 * N, n)
        index[:copies] = own if of_one_image else own + rng.permutation(N)[:copies]
        gap = rng.uniform(0, 0.3, n)
        gap[:copies] = 0.9
        found[twin] = Landing(index % N, N + index % N, (index < N).astype(float), gap)
    return found


def test_the_tail_holds_the_samples_that_stand_out_most_of_both_twins():
    rows = tail_rows(world(20))
    assert rows["a"].tolist() == rows["b"].tolist() == list(range(20))
    assert sum(map(len, tail_rows(world(20, n=10_000)).values())) == 200  # 1 % of them


def test_twins_without_a_lean_have_a_tail_near_one_half_and_copiers_one_of_their_own():
    null = [tail_share(world(0, seed)) for seed in range(40)]
    assert np.mean(null) == pytest.approx(0.5, abs=4 * 0.079 / np.sqrt(40))  # .079 is the error of 40 tosses
    assert tail_share(world(20)) == 1
    assert tail_share({"a": world(20)["b"], "b": world(20)["a"]}) == 0  # exchanged halves


def test_copies_of_many_images_are_bias_and_those_of_one_are_not():
    relabeling = relabel(POOL, 0, 400)
    for lands, biased in ((world(20), True), (world(20, of_one_image=True), False), (world(0), False)):
        result = lean_tests(POOL, relabeling, {(1, "pixel"): lands}, {}, 0)[0][1, "pixel"]
        fact = tail_fact(lands, POOL, result.tail_p_corrected, reference=0.55)
        assert fact.is_bias(Budgets()) is biased
    assert fact.n == 40 and fact.low < fact.share


def test_ties_count_one_half():
    lands = {twin: Landing(np.zeros(50, int), np.full(50, N), np.full(50, 0.5), np.ones(50)) for twin in "ab"}
    assert tail_share(lands) == 0.5


def test_samples_that_tie_with_the_last_of_the_tail_are_all_in_it():
    """Else a tail of exact copies would be twin a's alone, and naming the twins the other way round would change it."""
    lands = world(100)
    rows = tail_rows(lands)
    assert rows["a"].tolist() == rows["b"].tolist() == list(range(100))
