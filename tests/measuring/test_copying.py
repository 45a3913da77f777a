"""The copying rule of a chosen false-positive rate: set by one fold of held-out images, judged by the other."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from auditor.measuring import copies
from auditor.records import Evidence
from auditor.stats import counts


def evidence(twin: str, ratios: np.ndarray) -> Evidence:
    """Held-out images whose nearest image of the half is ``ratios`` times as far as the next."""
    n = len(ratios)
    return Evidence(
        twin,
        100,
        "pixel",
        np.arange(4),
        np.ones(4),
        np.ones(4),
        own=np.full((4, 8), 1.0),
        other=np.full((4, 8), 1.0),
        own_group=np.arange(4),
        other_group=np.arange(4),
        own_outside=np.full(4, 2.0),
        other_outside=np.full(4, 4.0),
        heldout_ids=np.array([f"h{i}" for i in range(n)], dtype=object),
        heldout_own=np.repeat(ratios[:, None], 8, axis=1),
        heldout_own_outside=np.ones(n),
    )


def both(n: int = 1000) -> dict[str, Evidence]:
    rng = np.random.default_rng(0)
    return {twin: evidence(twin, rng.beta(5, 2, n)) for twin in ("a", "b")}


def test_the_threshold_flags_the_chosen_share_of_the_first_fold():
    found = both()
    ratio, judged = copies.calibrated(found, 0.05, seed=3)
    first = np.concatenate([each.heldout_own[~judged, 0] for each in found.values()])
    assert (first < ratio).sum() == 0.05 * len(first)


def test_the_folds_halve_the_heldout_images_and_depend_on_the_seed():
    _, judged = copies.calibrated(both(), 0.05, seed=3)
    _, again = copies.calibrated(both(), 0.05, seed=3)
    _, other = copies.calibrated(both(), 0.05, seed=4)
    assert judged.sum() == 500
    assert (judged == again).all() and (judged != other).any()


def test_the_rate_on_the_other_fold_is_near_the_chosen_one():
    """Over 200 draws of 1,000 images the mean is within four standard errors of .05, and 1/1,000 of rounding."""
    rates = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        found = {twin: evidence(twin, rng.beta(5, 2, 1000)) for twin in ("a", "b")}
        ratio, judged = copies.calibrated(found, 0.05, seed)
        flags = copies.flags(replace(found["a"], copy_ratio=ratio, heldout_judged=judged))
        rates.append(flags.heldout.mean())
    assert np.mean(rates) == pytest.approx(0.05, abs=4 * np.std(rates) / np.sqrt(200) + 1e-3)


def test_samples_are_flagged_by_the_threshold_that_is_given():
    found = evidence("a", np.full(10, 0.9))
    assert not copies.flags(found).own.any()  # 1/2 is not below 1/3
    assert copies.flags(found).other.sum() == 4  # 1/4 is
    assert copies.flags(replace(found, copy_ratio=0.6)).own.all()
    assert not copies.flags(replace(found, copy_ratio=0.2)).other.any()


def test_a_run_reports_the_chosen_rule_beside_the_rate_that_it_has(audit, audit_args, tmp_path):
    outcome = audit(*audit_args(fpr=0.1))
    assert outcome.status == 0, outcome.err
    frame = pd.read_parquet(tmp_path / "run" / "measurements.parquet")
    control = frame[(frame.metric == "heldout_memorized_fraction_fpr") & (frame.twin == "a")]
    whole = frame[(frame.metric == "heldout_memorized_fraction") & (frame.twin == "a")]
    assert (control.n.to_numpy() == whole.n.to_numpy() // 2).all()
    assert control.value.notna().all() and (control.low <= 0.1).all()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["scope"]["fpr"] == 0.1
    assert audit("verify", tmp_path / "run").status == 0


def test_without_a_chosen_rate_the_metric_says_so(finished):
    frame = pd.read_parquet(finished / "measurements.parquet")
    rows = frame[frame.metric.str.endswith("_fpr")]
    assert rows.value.isna().all() and rows.note.str.contains("--fpr").all()


def test_a_rate_that_the_heldout_images_cannot_set_is_refused(audit, audit_args, tmp_path):
    outcome = audit(*audit_args(fpr=0.0001))
    assert outcome.status == 1 and "20000 held-out images" in outcome.err
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("rate", [-0.1, 0.5, "much"])
def test_a_rate_out_of_range_is_refused(audit, audit_args, rate):
    assert audit(*audit_args(fpr=rate)).status in (1, 2)


# Fisher's test is what the counts go through; the hand-worked case pins its direction.
def test_more_flagged_samples_than_heldout_images_are_unlikely_by_chance():
    assert counts.more_hits(5, 5, 0, 5) == pytest.approx(1 / 252)


# ---------------------------------------------------------------------------
# Of whom: own against twin
# ---------------------------------------------------------------------------

N = 3000


def flagged(own: dict[int, int], other: dict[int, int], n: int = N) -> copies.Flags:
    """Flags of a twin: ``own`` and ``other`` map flagged seeds to the group of the image, of the own and other half."""
    masks = [np.isin(np.arange(n), list(rows)) for rows in (own, other)]
    groups = [np.array([rows.get(i, -1) for i in range(n)]) for rows in (own, other)]
    return copies.Flags(masks[0], masks[1], np.zeros(100, bool), groups[0], groups[1])


def test_copies_of_many_images_by_the_twin_that_saw_them_are_a_finding():
    """Twelve pairs on twelve images, none the other way: 2^-12 by pairs and by images."""
    found = {"a": flagged({i: i for i in range(12)}, {}), "b": flagged({}, {})}
    assert copies.copy_p(found) == pytest.approx(2**-12)
    assert copies.discordant(found).p(reverse=True) == 1


def test_many_copies_of_one_image_may_be_the_taste_of_one_twin():
    """Whether the favored image lies in its half is one coin toss, however many samples show it."""
    assert copies.copy_p({"a": flagged(dict.fromkeys(range(500), 7), {}), "b": flagged({}, {})}) == 0.5


def test_what_both_twins_flag_of_the_same_seed_counts_for_neither():
    """Sample 3 of both twins shows image 9 of half a: b never saw it, so that a need not have learned it by heart."""
    found = {"a": flagged({3: 9}, {}), "b": flagged({}, {3: 9})}
    apart = copies.discordant(found)
    assert len(apart.own_only) == len(apart.twin_only) == 0 and copies.copy_p(found) == 1


def test_exchanged_halves_speak_for_copying_the_other_way():
    found = {"a": flagged({}, {i: i for i in range(12)}), "b": flagged({}, {})}
    assert copies.copy_p(found) == 1
    assert copies.discordant(found).p(reverse=True) == pytest.approx(2**-12)


def test_more_seeds_never_take_a_finding_back():
    """Twenty copies among the first 1,000 seeds, then 2,000 seeds in which both twins flag alike by chance."""
    early = {i: i for i in range(20)}
    late = {1000 + i: 100 + i for i in range(300)}
    later = {1300 + i: 100 + i for i in range(300)}
    short = {"a": flagged({**early}, {}, 1000), "b": flagged({}, {}, 1000)}
    long = {"a": flagged(early | late, {}), "b": flagged({}, later)}
    cell = ((1, "pixel"), "gap")
    assert copies.copy_p(long) > 0.1  # 320 against 300
    before, after = (copies.corrected({cell: each})[cell] for each in (short, long))
    assert before == after == pytest.approx(2 * 2**-20)


def test_a_finding_takes_fifteen_images_among_22_cells_of_ten_checkpoints():
    needed = copies.groups_needed(220)
    assert needed == 15
    for k, found in ((needed, True), (needed - 1, False)):
        assert (220 * 2 * 2.0**-k <= 0.025) is found


def test_a_rule_that_flags_real_images_takes_the_ratio_that_flags_few_of_them():
    """Of 4,000 held-out ratios between .2 and 1 a sixth lies below 1/3; the rule then flags .05 % of them, two."""
    n = 2000
    found = {
        twin: replace(evidence(twin, np.linspace(0.2 + 0.0001 * i, 1, n)), twin=twin)
        for i, twin in enumerate(("a", "b"))
    }
    ratio = copies.calibrated_ratio(found, 1 / 5)
    ratios = np.concatenate([copies.ratio_of(each) for each in found.values()])
    assert (ratios < ratio).sum() == 2
    assert copies.calibrated_ratio({twin: evidence(twin, np.linspace(0.2, 1, 999)) for twin in "ab"}, 1 / 5) == 1 / 5
    assert copies.calibrated_ratio({twin: evidence(twin, np.linspace(0.4, 1, 9)) for twin in "ab"}, 1 / 5) == 1 / 3
