"""Attacks, exposure and losses by noise level: known answers, chance where nothing is known, limits of the evidence."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

from auditor.measuring import membership
from auditor.records import Evidence, LossTable

TIMES = np.array([10, 50, 90])


def table(values: np.ndarray, prefix: str) -> LossTable:
    return LossTable(np.array([f"{prefix}{i}" for i in range(len(values))], dtype=object), TIMES, values)


def evidence(rng: np.random.Generator, n: int = 600, m: int = 600, gain: float = 0.0, level: int = 0) -> Evidence:
    """Losses that differ by image alike for both models; own images are denoised better by ``gain`` at one level."""
    own, heldout = (np.exp(rng.normal(0, 1, (k, 1)) + rng.normal(0, 0.1, (k, 3))) for k in (n, m))
    noise = lambda x: x * np.exp(rng.normal(0, 0.1, x.shape))  # noqa: E731
    fitted = noise(own)
    fitted[:, level] *= np.exp(-gain)
    mine = {"own": table(fitted, "x"), "heldout": table(noise(heldout), "h")}
    twins = {"other": table(noise(own), "x"), "heldout": table(noise(heldout), "h")}
    return Evidence("a", 100, "pixel", np.arange(4), np.ones(4), np.ones(4), losses=mine, twin_losses=twins)


def test_an_attack_on_a_model_that_remembers_nothing_finds_as_many_others_as_members():
    """The choice among attacks favours low thresholds, so the realised rate is above the target: it is reported."""
    rows = [membership.attack_row(evidence(np.random.default_rng(i)), 0.1, i) for i in range(40)]
    tpr, fpr = (np.mean([row[name] for row in rows]) for name in ("tpr", "fpr"))
    assert tpr == pytest.approx(fpr, abs=0.015) and 0.08 < fpr < 0.14
    assert np.mean([row["p_value"] <= 0.05 for row in rows]) <= 0.1


def test_an_attack_finds_members_where_the_model_remembers_them():
    row = membership.attack_row(evidence(np.random.default_rng(0), gain=1.0, level=1), 0.01, 0)
    assert row["attack"] == "twin ratio at t=50"  # the plain loss is blind: images differ more than that
    assert row["tpr"] > 0.95 and row["fpr_low"] <= 0.01 <= row["fpr_high"]
    assert row["p_value"] < 1e-20


def test_a_rate_that_too_few_heldout_images_support_is_withheld_with_their_number():
    row = membership.attack_row(evidence(np.random.default_rng(0), m=300), 0.01, 0)
    assert np.isnan(row["tpr"]) and "400 held-out images" in row["note"]
    assert not np.isnan(membership.attack_row(evidence(np.random.default_rng(0), m=400), 0.01, 0)["tpr"])


def test_a_single_training_is_attacked_by_its_loss_alone():
    alone = replace(evidence(np.random.default_rng(0), gain=5.0), twin_losses={})
    assert {each.name for each in membership.attacks_on(alone)} == {"loss"}
    assert membership.attack_row(alone, 0.1, 0)["tpr"] > 0.8


def test_an_attack_that_asks_the_network_is_chosen_where_it_finds_more():
    rng = np.random.default_rng(0)
    plain = evidence(rng)
    scores = {
        "own": table(np.exp(rng.normal(-5, 1, (600, 3))), "x"),
        "heldout": table(np.exp(rng.normal(0, 1, (600, 3))), "h"),
    }
    scores["own"].values[0] = 0  # an error of exactly 0 is a number, too
    asked = replace(plain, attack_scores={"PIA": scores})
    row = membership.attack_row(asked, 0.01, 0)
    assert row["attack"].startswith("PIA") and row["tpr"] > 0.95
    assert len(membership.attacks_on(asked)) == len(membership.attacks_on(plain)) + 4


def test_the_folds_of_an_image_do_not_depend_on_the_order_of_images():
    ids = [f"x{i}" for i in range(101)]
    chosen = dict(zip(ids, membership.folds(ids, "a", 0), strict=True))
    backwards = dict(zip(ids[::-1], membership.folds(ids[::-1], "a", 0), strict=True))
    assert chosen == backwards
    assert sum(chosen.values()) == 50


def test_the_threshold_never_flags_more_than_the_rate_of_the_fold_that_sets_it():
    rng = np.random.default_rng(1)
    attack = membership.Attack("loss", -1, rng.normal(size=100), rng.integers(0, 5, 100).astype(float))  # many ties
    marked = np.arange(100) < 50
    found = membership.one_direction([attack], marked, marked, 0.1)
    mirrored = replace(attack, members=attack.others)
    flagged = membership.one_direction([mirrored], ~marked, marked, 0.1)
    assert flagged.hits <= 0.1 * 50 and 0 <= found.false_hits <= 50


def test_conformal_p_by_hand():
    """Controls 1, 2, 2, 5: above 5 none, p = 1/5; at 2 three are as large, p = 4/5; below all, p = 1."""
    p = membership.conformal(np.array([6.0, 5.0, 2.0, 0.0]), np.array([5.0, 2.0, 1.0, 2.0]))
    assert p.tolist() == [1 / 5, 2 / 5, 4 / 5, 1]


def test_conformal_p_values_of_images_like_the_controls_are_no_smaller_than_uniform():
    rng = np.random.default_rng(2)
    p = np.concatenate([membership.conformal(rng.normal(size=50), rng.normal(size=99)) for _ in range(400)])
    for level in (0.01, 0.05, 0.2, 0.5):
        assert (p <= level).mean() <= level + 4 * np.sqrt(level / len(p)) + 0.005


def test_the_list_is_that_of_benjamini_and_hochberg():
    rng = np.random.default_rng(3)
    for _ in range(20):
        p = rng.uniform(size=60) ** rng.uniform(1, 6)
        expected = false_discovery_control(p) <= 0.1
        np.testing.assert_array_equal(membership.benjamini_hochberg(p, 0.1), expected)


def test_of_no_p_values_none_is_listed():
    assert membership.benjamini_hochberg(np.array([]), 0.1).tolist() == []


# In a run ------------------------------------------------------------------


def test_profiles_average_to_the_losses_of_the_run(finished):
    profiles, whole = (pd.read_parquet(finished / f"{name}.parquet") for name in ("profiles", "measurements"))
    key = ["step", "metric", "twin"]
    of_sets = profiles.metric.str.startswith("loss_") & (profiles.metric != "loss_lean")
    by_mean = profiles[of_sets].groupby(key).value.mean()
    losses = whole[whole.metric.isin(by_mean.index.get_level_values("metric").unique())].set_index(key).value
    pd.testing.assert_series_equal(by_mean, losses.loc[by_mean.index], rtol=1e-9)


def test_every_loss_image_has_its_exposure(finished):
    rows = pd.read_parquet(finished / "exposure.parquet")
    assert rows.groupby(["step", "half"]).size().eq(6).all()
    assert rows.p_value.between(0, 1).all()


def test_attacks_that_so_few_images_cannot_judge_are_withheld_and_the_report_says_so(audit, finished):
    rows = pd.read_parquet(finished / "attacks.parquet")
    assert rows.tpr.isna().all() and rows.note.str.startswith("withheld").all()
    assert "400 held-out" in " ".join(audit("report", finished).out.split())


# On the walk to a recommendation ---------------------------------------------
