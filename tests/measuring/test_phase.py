"""Is there a biased phase: constructed curves whose minima are known."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest

from auditor.measuring import phase
from auditor.measuring.phase import without_nan
from auditor.reports.formats import terminal

STEPS = [100 * (i + 1) for i in range(11)]
SEEDS = (1, 2)


def valley(at: int, n: int, seed: int, depth: float = 1.0) -> np.ndarray:
    """Curves of n units with their least mean at one position, float64 [11, n]."""
    shape = depth * (np.arange(11.0)[:, None] - at) ** 2 / 25
    return 1 + shape + np.random.default_rng(seed).normal(0, 0.2, (11, n))


def test_twins_that_diverge_before_the_loss_is_least_have_a_biased_phase():
    found = phase.find(valley(2, 400, 3), valley(7, 300, 4), STEPS, SEEDS, 0)
    assert found.claimed and found.bootstrap_share == 1 and found.p < 1e-6
    assert 1 < found.ratio_low <= 8 / 3 <= found.ratio_high


def test_twins_that_are_closest_at_step_zero_have_a_phase_and_no_ratio():
    steps = [0, *STEPS[1:]]
    found = phase.find(valley(0, 400, 3), valley(7, 300, 4), steps, SEEDS, 0)
    assert found.claimed and found.bootstrap_share == 1
    assert np.isnan(found.ratio_low) and np.isnan(found.ratio_high) and "step 0" in found.note


def test_a_phase_without_a_ratio_can_be_written_and_is_told():
    found = phase.find(valley(0, 400, 3), valley(7, 300, 4), [0, *STEPS[1:]], SEEDS, 0)
    written = json.dumps({name: without_nan(value) for name, value in asdict(found).items()}, allow_nan=False)
    told = terminal.phase(SimpleNamespace(record={"checks": {"phase": json.loads(written)}}))
    assert "held-out loss still falls after the twins diverge (least twin distance before least loss in 100%" in told
    assert told.endswith("to which no step has a ratio)")


def test_minima_in_the_other_order_are_no_biased_phase():
    found = phase.find(valley(7, 400, 3), valley(2, 300, 4), STEPS, SEEDS, 0)
    assert not found.claimed and found.bootstrap_share == 0 and found.p == 1
    assert found.ratio_high < 1


def test_minima_at_the_same_step_are_no_biased_phase():
    found = phase.find(valley(5, 400, 3), valley(5, 300, 4), STEPS, SEEDS, 0)
    assert not found.claimed and found.ratio_low <= 1 <= found.ratio_high


def test_flat_curves_claim_nothing():
    claims = [
        phase.find(valley(5, 100, seed, 0.0), valley(5, 100, seed + 50, 0.0), STEPS, SEEDS, 0) for seed in range(10)
    ]
    assert not any(found.claimed for found in claims)


@pytest.mark.parametrize(("steps", "n_images"), [(STEPS[:2], 300), (STEPS, 0)])
def test_too_short_a_series_or_no_loss_gives_a_reason_and_no_number(steps, n_images):
    distances, losses = valley(2, 50, 3)[: len(steps)], valley(7, n_images, 4)[: len(steps)]
    found = phase.find(distances, losses, steps, SEEDS, 0)
    assert not found.claimed and np.isnan(found.ratio_low) and found.note
