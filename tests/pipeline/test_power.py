"""The power statement holds in simulation, and the cost of a plan is what is then spent."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from auditor.config import Budgets
from auditor.pipeline import power
from auditor.stats import counts

BUDGETS = Budgets()


def test_copies_at_the_stated_rate_are_found_in_nine_of_ten_audits():
    n_seeds, n_tests = 1000, 48
    rate = power.detectable_copies(n_seeds, n_tests)
    hits = np.random.default_rng(0).binomial(2 * n_seeds, rate, 400)
    p = np.array([2 * 2 * n_tests * counts.paired_hits(int(h), 0) for h in hits])  # two rules, half the level
    assert 0.87 <= np.mean(p <= BUDGETS.alpha) <= 0.96  # the number of hits is whole, so a little above .9


def test_the_plan_says_beforehand_where_so_few_images_let_no_weights_be_released():
    (few,) = [x for x in power.statement(2000, 348, 10, True, BUDGETS, (256, 348)) if "membership" in x]
    assert "no weights be released" in few and "give 1,000 training images (--loss-images 1000) and held-out" in few
    (enough,) = [x for x in power.statement(2000, 348, 10, True, BUDGETS, (500, 1000)) if "membership" in x]
    assert "in about 91% of audits." in enough
    (scarce,) = [x for x in power.statement(2000, 500, 10, True, BUDGETS, (500, 500)) if "membership" in x]
    assert "in about 60% of audits; give 1,000" in scarce
    assert not [x for x in power.statement(2000, 348, 10, True, BUDGETS) if "membership" in x]


def test_the_rate_of_copies_that_is_found_falls_with_seeds_and_rises_with_tests():
    rates = [power.detectable_copies(n, tests) for n, tests in ((500, 20), (2000, 20), (2000, 200))]
    assert rates[0] > rates[2] > rates[1]
    assert np.isnan(power.detectable_copies(5, 1000))


def test_a_lean_at_the_stated_size_exceeds_the_margin_in_nine_of_ten_audits():
    n = 1000
    lean = power.detectable_lean(n, BUDGETS)
    draws = np.random.default_rng(0).normal(0.5 + lean, power.standard_error(n), 20000)
    assert np.mean(draws - 1.645 * power.standard_error(n) > 0.5 + BUDGETS.lean_bias) == pytest.approx(0.9, abs=0.01)


def test_the_error_of_one_training_is_that_of_deals_among_images_of_which_some_take_more_samples_than_others():
    n, m, s, rng = 500, 100, 1000, np.random.default_rng(0)
    hubs = rng.exponential(size=n + m)  # their mean square is twice the squared mean
    shares, hubs = [], hubs / hubs.sum()
    for _ in range(2000):
        own = np.zeros(n + m, bool)
        own[rng.permutation(n + m)[:n]] = True
        shares.append(own[rng.choice(n + m, s, p=hubs)].mean())
    slope = (n + m) ** 2 / (4 * n * m)  # of the balanced scale at chance
    assert power.standard_error_alone(s, n, m) == pytest.approx(np.std(shares) * slope, rel=0.07)


def test_the_plan_says_how_many_held_out_images_would_show_a_single_training_not_to_lean():
    few, enough = (power.lean_sentences_alone(2000, 500, m, BUDGETS) for m in (50, 500))
    needed = power.heldout_needed(2000, 500, BUDGETS.lean_safe_most)
    assert f"with {needed} held-out images" in few[1] and "accepted at most" not in enough[1]
    assert power.standard_error_alone(2000, 500, needed) < power.standard_error_alone(2000, 500, needed - 5)
    assert "give more seeds" in power.lean_sentences_alone(100, 500, 50, BUDGETS)[1]
    assert power.heldout_needed(100, 500, 0.10) is None


def test_a_single_training_finds_copies_of_as_many_images_as_the_plan_says():
    said = power.copy_sentence_alone(1000, 10, 500, 500)
    k = int(said.split("a finding takes ")[1].split(",")[0])
    found = [min(counts.more_hits(j, 1000, 0, 500), 0.5**j) * 2 * 2 * 10 for j in (k - 1, k)]
    assert found[1] <= 0.025 < found[0]


def test_no_lean_is_shown_small_with_the_seeds_of_the_statistics_page():
    """docs/statistics.md 8: margin .05 takes 430 seeds."""
    assert "which takes" in power.lean_sentences(400, BUDGETS)[1]
    assert "which takes" not in power.lean_sentences(431, BUDGETS)[1]


def test_a_shift_at_the_stated_size_is_found_in_nine_of_ten_audits():
    n, m = 400, 300
    shift = power.detectable_shift(n, m)
    rng, found = np.random.default_rng(0), 0
    offset = np.sqrt(2) * NormalDist().inv_cdf(0.5 + shift)  # then P(X < Y) = .5 + shift
    for _ in range(300):
        x, y = np.sort(rng.normal(0, 1, n)), rng.normal(offset, 1, m)
        auc = np.searchsorted(x, y).mean() / n
        found += abs(auc - 0.5) > 1.96 * np.sqrt((n + m + 1) / (12 * n * m))
    assert 0.85 <= found / 300 <= 0.95


def test_what_cannot_be_found_is_said():
    said = " ".join(power.statement(100, 0, 10, True, BUDGETS))
    assert "no shift of distances" in said and "give 1000" in said
    assert len(power.statement(2000, 500, 10, False, BUDGETS)) == 1


def test_a_dry_run_tells_time_disk_memory_and_power_and_writes_nothing(audit, audit_args, tmp_path):
    outcome = audit(*audit_args(), "--dry-run")
    assert outcome.status == 0, outcome.err
    for text in ("total ", "expected time ", "per network call", "disk ", "memory about", "power: An own_share of"):
        assert text in outcome.out, text
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_a_finished_run_has_nothing_to_time(audit, audit_args, run_copy):
    outcome = audit(*audit_args(), "--dry-run")
    assert outcome.status == 0, outcome.err
    assert (
        "total 0 network calls" in outcome.out
        and "expected time 0 s (trial on this machine: no embedding)" in outcome.out
    )
