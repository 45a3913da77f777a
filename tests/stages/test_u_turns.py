"""U-turns: exact denoisers play networks, and what comes back is what theory says."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import planned_calls
from denoisers import SHAPE, memorizer, population

from auditor.diffusion import sampling
from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.schedules import DDPM
from auditor.errors import CheckpointError
from auditor.metrics import u_turn
from auditor.records import Evidence, UTurns
from auditor.stages import u_turns

A, B = np.random.default_rng(1).integers(0, 256, (2, 40, *SHAPE), dtype=np.uint8)  # far from one another
TIMES = u_turns.turning_times(DDPM)
FEW = 6


def turned(model: DiffusionModel, images: np.ndarray = A[:FEW], batch_size: int = 64) -> np.ndarray:
    eps = torch.from_numpy(np.random.default_rng(3).normal(size=(len(images), len(TIMES), 1, 4, 4)).astype(np.float32))
    return u_turns.come_back(model, images, eps, batch_size)


def returned(images: np.ndarray, back: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Whether no known image is nearer than the source, bool [n, times]."""
    apart = (
        np.square(back[:, :, None].astype(float) - known.astype(float)).reshape(*back.shape[:2], len(known), -1).sum(-1)
    )
    return apart.argmin(axis=2) == np.arange(len(images))[:, None]


def test_images_turn_at_times_of_the_sampler():
    path = sampling.descending_times(DDPM)
    assert set(TIMES) <= set(path) and (np.diff(TIMES) > 0).all() and (np.diff(path) < 0).all()


def test_a_memorizer_returns_every_own_image_from_little_noise():
    back = turned(memorizer(A))
    known = np.concatenate([A, B])
    assert returned(A[:FEW], back, known)[:, 0].all()
    assert u_turns.distances(A[:FEW], back)[:, 0].max() < 1e-4


def test_a_memorizer_of_other_images_returns_those_and_loses_the_source():
    back = turned(memorizer(B))
    found = (
        np.square(back[:, -1, None].astype(float) - B.astype(float)).reshape(FEW, len(B), -1).mean(axis=2).min(axis=1)
    )
    assert np.median(found) < 1  # gray levels squared: one of its own images
    assert (
        u_turns.distances(A[:FEW], back)[:, 0].mean()
        > 20 * u_turns.distances(A[:FEW], turned(memorizer(A)))[:, 0].mean()
    )


def test_more_noise_leads_farther_from_the_source():
    gone = u_turns.distances(A, turned(population(), A)).mean(axis=0)
    assert (np.diff(gone) > 0).all()


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_as_many_calls_are_made_as_are_counted(batch_size):
    sizes = []

    def network(x, t):
        sizes.append(len(x))
        return x

    turned(DiffusionModel(network, dict(DDPM), SHAPE, 0), batch_size=batch_size)
    assert len(sizes) == u_turns.n_calls(FEW, DDPM, batch_size) and max(sizes) <= batch_size


def test_what_comes_back_depends_on_no_other_image_and_no_batch():
    together, alone = turned(population(), A[:FEW]), turned(population(), A[:FEW], 3)
    np.testing.assert_allclose(together.astype(int), alone.astype(int), atol=1)


def test_a_network_that_returns_no_number_is_left_out():
    broken = DiffusionModel(lambda x, t: x * np.nan, dict(DDPM), SHAPE, 0)
    with pytest.raises(CheckpointError, match="does not come back finite"):
        turned(broken)


def evidence(own: UTurns, other: UTurns, twin_own: UTurns, twin_other: UTurns) -> Evidence:
    nothing = np.empty(0)
    turns = {"u_turns": {"own": own, "other": other}, "twin_u_turns": {"own": twin_own, "other": twin_other}}
    return Evidence("a", 1, "", nothing.astype(int), nothing, nothing, **turns)


def table(images: np.ndarray, back: np.ndarray) -> UTurns:
    ids = np.array([str(i) for i in range(len(images))], dtype=object)
    return UTurns(ids, TIMES, u_turns.distances(images, back), returned(images, back, np.concatenate([images, A, B])))


def test_the_lean_of_u_turns_is_large_for_memorizers_zero_for_one_network_twice_and_turns_its_sign_when_swapped():
    def lean(a, b):
        on_a, on_b = (lambda m: table(A[:FEW], turned(m))), (lambda m: table(B[:FEW], turned(m, B[:FEW])))
        return u_turn.lean(evidence(on_a(a), on_b(a), on_b(b), on_a(b))).values.mean()

    memorized = lean(memorizer(A), memorizer(B))
    assert memorized > 1
    assert lean(population(), population()) == 0
    assert lean(memorizer(B), memorizer(A)) == pytest.approx(-memorized)


def test_a_run_asks_as_often_as_it_plans_and_measures_what_comes_back(audit, audit_args, network_calls, tmp_path):
    total = planned_calls(audit(*audit_args(u_turns=3, steps="90"), "--dry-run"))
    network_calls.clear()
    outcome = audit(*audit_args(u_turns=3, steps="90"))
    assert outcome.status == 0, outcome.err
    beside = 50 + 2 * 2 * 50  # the check of ranges, and samples that are drawn again
    assert total <= len(network_calls) <= total + beside
    known = pd.read_parquet(tmp_path / "run" / "measurements.parquet").set_index("metric")
    assert known.loc[["u_turn_lean", "return_rate"]].value.notna().all()
    assert audit("verify", tmp_path / "run").status == 0
