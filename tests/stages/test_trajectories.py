"""Trajectories: exact denoisers play networks, and on the way to their samples they are what theory says."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import planned_calls
from denoisers import SHAPE, flat, memorizer, population

from auditor.diffusion import sampling, schedules
from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.schedules import DDPM
from auditor.stages import agreement, trajectories

A = np.random.default_rng(1).integers(0, 256, (40, *SHAPE), dtype=np.uint8)
FEW = 6


def followed(model: DiffusionModel, n: int = FEW, batch_size: int = 64) -> trajectories.Trajectories:
    return trajectories.follow(model, range(n), trajectories.state_times(np.array([100, 500, 900]), DDPM), batch_size)


def test_a_trajectory_ends_in_the_sample_that_the_sampler_draws():
    expected = sampling.sample_batch(population(), list(range(FEW)), "ddim", 50)
    np.testing.assert_array_equal(followed(population()).samples, expected)


def test_states_become_the_sample_step_by_step():
    found = followed(population(), 40)
    spread = found.states.flatten(2).std(dim=2).mean(dim=0)
    assert spread[-1] == pytest.approx(1, abs=0.1)  # nearly noise at t = 900
    target = torch.from_numpy(found.samples.reshape(40, -1) / 127.5 - 1)
    near = [torch.corrcoef(torch.stack([found.states[:, j].flatten(), target.flatten()]))[0, 1] for j in range(3)]
    assert near[0] > near[1] > near[2]


def test_on_its_own_trajectories_a_memorizer_is_one_on_the_way_and_a_population_denoiser_zero():
    times = trajectories.state_times(np.array([100, 500, 900]), DDPM)
    abar = np.asarray(schedules.forward_process(DDPM).alphas_cumprod.double())[times]

    def share(a, b):
        states = followed(a).states
        said = {
            name: trajectories.answers(m, states, times, 64, "cpu", np.full(FEW, -1))
            for name, m in (("a", a), ("b", b))
        }
        z = states.flatten(2).double()[:, :, None]
        found = agreement.cell_columns(said, None, z, {"a": flat(A)}, abar)
        assert np.isnan(found["noise_loss_a"]).all() and np.isnan(found["error_b"]).all()
        return found["along_a"].sum() / found["reach_a"].sum(), found

    one, of_memorizer = share(memorizer(A), population())
    assert one == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(of_memorizer["error_a"], 0, atol=1e-6)
    assert share(population(), population())[0] == pytest.approx(0, abs=1e-9)
    # The memorizer's trajectories end at single images; those of the population do so only by chance.
    assert of_memorizer["largest_a"][:, 0].mean() > 0.99


def test_as_many_calls_are_made_for_trajectories_as_are_counted(audit, audit_args, network_calls, tmp_path):
    """The whole run: trajectories and what is asked at them, by the plan of the dry run."""
    total = planned_calls(audit(*audit_args(trajectories=3, steps="90"), "--dry-run"))
    network_calls.clear()
    outcome = audit(*audit_args(trajectories=3, steps="90"))
    assert outcome.status == 0, outcome.err
    beside = 50 + 2 * 2 * 50  # the check of ranges, and samples that are drawn again
    assert total <= len(network_calls) <= total + beside
    known = pd.read_parquet(tmp_path / "run" / "measurements.parquet").set_index("metric")
    assert known.loc[["memorizer_share_trajectory", "collapse_time"]].value.notna().all()
    again = pd.read_parquet(tmp_path / "run" / "trajectories" / "90.parquet")
    assert set(again.set) == {"trajectory-a", "trajectory-b", "samples-a", "samples-b"}
    assert audit("verify", tmp_path / "run").status == 0
