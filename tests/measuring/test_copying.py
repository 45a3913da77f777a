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
