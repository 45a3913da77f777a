"""Predictions of the twins at shared cells: exact denoisers play networks, and theory says what must come out."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import planned_calls
from denoisers import ABAR, HELDOUT, SHAPE, TIMES, A, B, flat, memorizer, population

from auditor.diffusion import denoising
from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.schedules import DDPM
from auditor.stages import agreement
from auditor.stages.controls import fit_vectors, linear_denoiser


def compared(a: DiffusionModel, b: DiffusionModel, images: np.ndarray = A) -> dict[str, np.ndarray]:
    eps = torch.from_numpy(np.random.default_rng(5).normal(size=(len(images), 3, 1, 4, 4)).astype(np.float32))
    noise = {name: denoising.predict(m, images, eps, TIMES, 64).noise for name, m in (("a", a), ("b", b))}
    x_t = denoising.noised(a, images, eps, TIMES)
    halves = {"a": flat(A), "b": flat(B)}
    return agreement.cell_columns(noise, eps.flatten(2).double().numpy(), x_t, halves, ABAR)


def projection(found: dict[str, np.ndarray], twin: str) -> float:
    return found[f"along_{twin}"].sum() / found[f"reach_{twin}"].sum()


def test_a_network_that_memorized_its_half_is_at_one_on_the_way_to_the_memorizer():
    found = compared(memorizer(A), population())
    assert projection(found, "a") == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(found["error_a"], 0, atol=1e-8)


def test_a_network_that_knows_no_image_is_at_zero_between_twins_alike():
    found = compared(population(), population())
    assert projection(found, "a") == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(found["cosine"], 1, atol=1e-6)
    np.testing.assert_allclose(found["half_squared"], 0, atol=1e-9)


def test_exchanging_the_twins_exchanges_their_columns():
    straight, crossed = compared(memorizer(A), population()), compared(population(), memorizer(A))
    np.testing.assert_allclose(straight["cosine"], crossed["cosine"])
    np.testing.assert_allclose(straight["noise_loss_a"], crossed["noise_loss_b"])


def test_memorizers_of_two_halves_differ_most_where_one_image_holds_the_posterior():
    found = compared(memorizer(A), memorizer(B), HELDOUT)
    sharing, apart = found["sharing_a"].mean(axis=0), found["half_squared"].mean(axis=0)
    assert (np.diff(sharing) > 0).all()  # more noise, more images share
    assert apart[0] > apart[-1]


def test_the_loss_of_a_network_is_its_distance_to_the_memorizer_plus_the_least_loss():
    """E_S = L_train - L* over the half itself, within four standard errors over 60 images with two noises each."""
    found = compared(population(), memorizer(B))
    difference = (found["error_a"] - (found["noise_loss_a"] - found["spread_a"])).mean(axis=1)
    assert abs(difference.mean()) < 4 * difference.std(ddof=1) / np.sqrt(len(difference))
    assert found["error_a"].mean() > 10 * abs(difference.mean())


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_whatever_a_network_predicts_is_compared_as_noise(kind):
    config = {**DDPM, "prediction_type": kind}
    linear = linear_denoiser(fit_vectors(flat(A).numpy()), SHAPE, config)
    eps = torch.from_numpy(np.random.default_rng(6).normal(size=(4, 3, 1, 4, 4)).astype(np.float32))
    found = denoising.predict(linear, A[:4], eps, TIMES, 8).noise
    expected = denoising.predict(linear_denoiser(fit_vectors(flat(A).numpy()), SHAPE, DDPM), A[:4], eps, TIMES, 8).noise
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_twins_of_which_one_predicts_nothing_have_no_cosine():
    assert np.isnan(agreement.cosine(np.zeros((2, 3)), np.ones((2, 3)))).all()


# In a run ------------------------------------------------------------------


def test_every_cell_is_compared_and_predictions_are_not_kept(finished):
    table = pd.read_parquet(finished / "agreement" / "90.parquet")
    assert table.groupby("set", observed=True).size().eq(6 * 2).all() and table.set.nunique() == 3
    assert not (finished / "predictions").exists()
    assert table.cosine.between(-1, 1).all() and (table.half_squared >= 0).all()


def test_losses_of_the_cells_agree_with_the_loss_tables(finished):
    """These networks predict noise, so the loss of a cell is the squared error of its noise prediction."""
    cells = pd.read_parquet(finished / "agreement" / "200.parquet").set_index(["set", "id", "t"])
    losses = pd.read_parquet(finished / "losses" / "a" / "200.parquet")
    names = losses.set.astype(str).map({"own": "train-a", "other": "train-b", "heldout": "heldout"})
    keys = pd.MultiIndex.from_arrays([names, losses.id.astype(str), losses.t])
    levels = [cells.index.get_level_values(i).astype(str) for i in (0, 1)]
    cells.index = pd.MultiIndex.from_arrays([*levels, cells.index.get_level_values(2)])
    np.testing.assert_allclose(cells.noise_loss_a.loc[keys].to_numpy(), losses.loss, rtol=1e-5)


def test_comparing_predictions_costs_no_network_call(audit, audit_args, network_calls):
    """The networks are called as often as the plan says, which counts samples and losses alone."""
    total = planned_calls(audit(*audit_args(), "--dry-run"))
    network_calls.clear()
    assert audit(*audit_args()).status == 0
    assert sum(n == 5 for n in network_calls) == total  # the others are trial calls and seeds that are drawn again


def test_a_comparison_that_is_lost_is_made_again_from_losses_made_again(audit, audit_args, run_copy):
    path = run_copy / "agreement" / "90.parquet"
    before = path.read_bytes()
    path.unlink()
    assert "its predictions are needed" in audit(*audit_args(), "--dry-run").out
    assert audit(*audit_args()).status == 0
    assert path.read_bytes() == before
