"""Membership attacks on the network: closed forms, exact denoisers that know their images or none, calls, order."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny_unet
from denoisers import HELDOUT, SHAPE, A, memorizer, pictures, population
from diffusers import UNet2DModel
from scipy.stats import rankdata

from auditor.diffusion import schedules
from auditor.diffusion.denoising import time_levels
from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.schedules import DDPM
from auditor.errors import CheckpointError
from auditor.measuring.series import read_stages
from auditor.run import RunDirectory
from auditor.stages import attack_scores

TIMES = attack_scores.attack_times(time_levels(4, 1000), 1000)
ABAR = schedules.forward_process(DDPM).alphas_cumprod.double().numpy()
FORMS = {
    "epsilon": lambda x, a: (1 - a).sqrt() * x,
    "sample": lambda x, a: a.sqrt() * x,
    "v_prediction": lambda x, a: torch.zeros_like(x),
}


def found(model: DiffusionModel, images: np.ndarray, times: attack_scores.Times = TIMES) -> pd.DataFrame:
    scores = attack_scores.scores(model, images, times, 16)
    return pd.DataFrame(scores, columns=pd.MultiIndex.from_tuples(attack_scores.columns(times)))


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """Return how often a member's score is below another's."""
    ranks = rankdata(np.concatenate([others, members]))
    return (ranks[: len(others)].sum() - len(others) * (len(others) + 1) / 2) / len(others) / len(members)


@pytest.mark.parametrize("kind", FORMS)
def test_the_scores_of_the_denoiser_of_standard_normal_images_follow_their_formulas(kind):
    """It says f(x, t) = sigma_t x, whatever it predicts, so that every step of every attack multiplies x."""

    def network(x, t):
        return FORMS[kind](x.double(), torch.from_numpy(ABAR)[t].view(-1, 1, 1, 1)).to(x)

    images = pictures(5, 7)
    scores = found(DiffusionModel(network, {**DDPM, "prediction_type": kind}, SHAPE, 0), images)
    x = (images / 127.5 - 1).reshape(5, -1)
    alpha, sigma = np.sqrt(ABAR), np.sqrt(1 - ABAR)
    for t in TIMES["SimA"]:
        np.testing.assert_allclose(scores["SimA", t], sigma[t] ** 4 * (x**4).mean(1), rtol=1e-5)
        left = sigma[0] - sigma[t] * (alpha[t] + sigma[t] * sigma[0])
        np.testing.assert_allclose(scores["PIA", t], left**4 * (x**4).mean(1), rtol=1e-3)  # float32 over sigma_0
    grown = 1.0
    for t in TIMES["SecMI"]:
        step = alpha[t] * alpha[t + 10] + sigma[t] * sigma[t + 10]
        expected = ((step**2 - 1) * grown) ** 2 * (x**2).mean(1)
        np.testing.assert_allclose(scores["SecMI", t], expected, rtol=2e-2)  # likewise, small differences
        grown *= step


def test_every_attack_tells_the_images_of_a_network_that_knows_nothing_else():
    """At the least time, that is: where noise is strong this network, too, says a mean of its images.

    SecMI only there: from any image this network's path is straight until another of its images is nearest.
    """
    times = attack_scores.attack_times(time_levels(16, 1000), 1000)
    members, others = (found(memorizer(A), images, times) for images in (A, HELDOUT))
    for name, (least, *_) in times.items():
        assert auc(members[name, least], others[name, least]) > 0.99, name


def test_no_attack_tells_members_where_the_network_knows_no_image():
    """300 images of the same population on either side; the standard error of the area is .024."""
    error = np.sqrt(2 / (12 * 300))
    members, others = (np.log(found(population(), pictures(300, seed))) for seed in (11, 12))
    for name in TIMES:
        assert abs(auc(members[name].mean(axis=1), others[name].mean(axis=1)) - 0.5) < 3 * error, name


def test_scores_depend_on_neither_the_order_nor_the_number_of_images_in_a_call():
    unet = tiny_unet(1)
    model = DiffusionModel(lambda x, t: unet(x, t, return_dict=False)[0], DDPM, (8, 8, 1), 0)
    images = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1), dtype=np.uint8)
    scores = attack_scores.scores(model, images, TIMES, 4)
    assert np.array_equal(attack_scores.scores(model, images, TIMES, 4), scores)
    np.testing.assert_allclose(attack_scores.scores(model, images[::-1], TIMES, 4)[::-1], scores, rtol=1e-6)
    np.testing.assert_allclose(attack_scores.scores(model, images[2:3], TIMES, 4)[0], scores[2], rtol=1e-6)
    np.testing.assert_allclose(
        attack_scores.scores(model, images, TIMES, 3), scores, rtol=2e-2
    )  # SecMI: tiny differences
    early = scores.shape[1] - len(TIMES["SecMI"])
    np.testing.assert_allclose(attack_scores.scores(model, images, TIMES, 3)[:, :early], scores[:, :early], rtol=1e-4)


@pytest.mark.parametrize("with_steps", [True, False])
@pytest.mark.parametrize(("n", "batch_size"), [(1, 1), (7, 3), (8, 8), (3, 64)])
def test_as_many_calls_are_made_as_are_counted_and_all_are_whole(n, batch_size, with_steps):
    times = attack_scores.attack_times(time_levels(4, 1000), 1000, with_steps)
    sizes = []

    def network(x, t):
        sizes.append((len(x), len(t)))
        return x

    found = attack_scores.scores(DiffusionModel(network, DDPM, SHAPE, 0), pictures(n, 0), times, batch_size)
    assert sizes == [(batch_size, batch_size)] * attack_scores.n_calls(n, times, batch_size)
    assert found.shape == (n, len(attack_scores.columns(times)))


def test_the_attacks_cost_less_than_the_losses_of_a_pair_of_twins():
    """At the default of 16 levels: 28 queries of an own or held-out image, and 32 for the loss of one of three sets."""
    times = attack_scores.attack_times(time_levels(16, 1000), 1000)
    assert attack_scores.n_calls(64, times, 64) == 28
    assert 2 * 28 < 0.6 * 3 * 32


def test_images_are_asked_about_under_their_own_condition():
    asked = []

    def conditioned(numbers, guidance):
        def network(x, t):
            asked.append((numbers.copy(), x[:, 0, 0, 0].numpy().copy(), t.numpy().copy()))
            return x

        return network

    model = DiffusionModel(None, DDPM, SHAPE, 0, conditioned=conditioned)
    images = np.repeat(np.arange(3, dtype=np.uint8), 16).reshape(3, *SHAPE) * 100
    attack_scores.scores(model, images, TIMES, 4, numbers=np.array([5, 6, 7]))
    for numbers, pixel, t in asked[:1]:
        assert numbers.tolist() == [5, 6, 7, 7] and (t == 0).all()
        np.testing.assert_allclose(pixel, [-1, 100 / 127.5 - 1, 200 / 127.5 - 1, 200 / 127.5 - 1], rtol=1e-6)
    assert all(set(numbers) <= {5, 6, 7} for numbers, _, _ in asked)


@pytest.mark.parametrize("train_steps", [2, 4, 50, 1000, 4000])
def test_the_times_of_the_attacks_are_times_of_the_process(train_steps):
    times = attack_scores.attack_times(time_levels(min(16, train_steps - 1), train_steps), train_steps)
    for each in times.values():
        assert len(each) and (np.diff(each) > 0).all() and each[-1] < train_steps
    if train_steps >= 100:
        assert times["SecMI"].tolist() == [train_steps // 100 * j for j in range(11)]


def test_scores_that_are_not_finite_are_the_checkpoints_fault():
    broken = DiffusionModel(lambda x, t: x * float("nan"), DDPM, SHAPE, 0)
    with pytest.raises(CheckpointError, match="not finite"):
        attack_scores.scores(broken, A[:2], TIMES, 4)


# In a run ------------------------------------------------------------------


def scores_of(finished, twin, step):
    """The scores of all attacks, as measuring reads them."""
    return read_stages(RunDirectory(finished), twin, step)["attack_scores"]


def test_a_run_keeps_the_scores_of_own_and_heldout_images_and_reads_them_back(finished):
    folder = finished / "attack-scores" / "b"
    table = pd.concat([pd.read_parquet(folder / name) for name in ("200.parquet", "200.stepped.parquet")])
    losses = pd.read_parquet(finished / "losses" / "b" / "200.parquet")
    for role in ("own", "heldout"):
        assert set(table.id[table.set == role]) == set(losses.id[losses.set == role])
    assert set(table.set) == {"own", "heldout"} and (table.score >= 0).all()
    read = scores_of(finished, "b", 200)
    assert list(read) == ["SimA", "PIA", "SecMI"]
    for name, by_role in read.items():
        for role, scored in by_role.items():
            rows = table[(table.attack == name) & (table.set == role)].set_index(["id", "t"]).score
            for i, each in enumerate(scored.ids):
                np.testing.assert_array_equal(scored.values[i], rows.loc[each].loc[scored.times])


def test_the_scores_of_a_run_are_those_of_its_checkpoint(finished, saved_inputs):
    """Asked anew, about the held-out images alone."""
    unet = UNet2DModel.from_pretrained(Path(saved_inputs.options["ckpts-a"]) / "checkpoint-200" / "unet_ema")
    model = DiffusionModel(lambda x, t: unet(x, t, return_dict=False)[0], DDPM, (8, 8, 1), 0)
    stored = scores_of(finished, "a", 200)
    pictures_of_set = np.load(saved_inputs.options["heldout"])["images"]
    chosen = pictures_of_set[[int(each.removeprefix("images/")) for each in stored["SimA"]["heldout"].ids]]
    times = {name: each["heldout"].times for name, each in stored.items()}
    anew = attack_scores.scores(model, chosen.reshape(-1, 8, 8, 1), times, 5)
    kept = np.hstack([each["heldout"].values for each in stored.values()])
    np.testing.assert_allclose(anew, kept, rtol=1e-6)
