"""``--protocol paper``: the published choices on the same run, beside the tool's own, which alone make the verdict."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FAST, STEPS, as_arguments, call, write_series
from denoisers import unet_model

from auditor.diffusion import denoising, noise
from auditor.diffusion.sampling import draw_batch
from auditor.diffusion.schedules import DDPM
from auditor.stages import published_losses
from auditor.stats import intervals

T = 16  # times of the trainings here, so that all of them are few
PAPER = {**FAST, "sampling-steps": None, "protocol": "paper"}


@pytest.fixture(scope="module")
def short(saved_inputs, tmp_path_factory):
    """Three trainings with a short noise schedule, x, y and z."""
    from diffusers import DDPMScheduler

    root = tmp_path_factory.mktemp("short")
    for seed, name in enumerate("xyz", start=30):
        write_series(root / name, seed)
        DDPMScheduler(num_train_timesteps=T).save_pretrained(root / name / "scheduler")
    return root


def twin_options(short, saved_inputs, **changes) -> list[str]:
    ckpts = {"ckpts-a": str(short / "x"), "ckpts-b": str(short / "y")}
    return as_arguments({**saved_inputs.options, **ckpts, **PAPER, **changes})


@pytest.fixture(scope="module")
def twins(short, saved_inputs):
    """A finished audit of two trainings by the published protocol."""
    outcome = call("run", *twin_options(short, saved_inputs, out=str(short / "twins")))
    assert outcome.status == 0, outcome.err
    return short / "twins"


def rows_of(run, quantity: str) -> pd.DataFrame:
    rows = pd.read_parquet(run / "protocol.parquet")
    return rows[rows.quantity == quantity].set_index("step")


# The sampler --------------------------------------------------------------


def test_samples_follow_the_published_formula():
    """x <- (x - beta_t / sqrt(1 - abar_t) eps) / sqrt(1 - beta_t) + sqrt(beta_t) z, without z at times 1 and 0."""
    model, seeds = unet_model(num_train_timesteps=T), [3, 4]
    betas = torch.linspace(DDPM["beta_start"], DDPM["beta_end"], T)
    abar, streams = torch.cumprod(1 - betas, 0), noise.generators(seeds)
    x = noise.draw(streams, (1, 8, 8))
    with torch.inference_mode():
        for t in reversed(range(T)):
            eps = model.network(x, torch.full((2,), t))
            x = (x - betas[t] / (1 - abar[t]).sqrt() * eps) / (1 - betas[t]).sqrt()
            x = x + betas[t].sqrt() * noise.draw(streams, (1, 8, 8)) if t > 1 else x
    torch.testing.assert_close(draw_batch(model, seeds, "published", T), x, rtol=1e-4, atol=1e-4)


def test_networks_of_sequences_are_sampled_with_the_posterior_variance():
    model = unet_model(num_train_timesteps=T, prediction_type="sample", clip_sample=False)
    assert torch.equal(draw_batch(model, [1, 2], "published", T), draw_batch(model, [1, 2], "ddpm", T))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "published"])
def test_a_schedule_with_an_offset_is_sampled_over_all_of_its_own_times(sampler):
    moved, plain = (
        draw_batch(unet_model(num_train_timesteps=T, steps_offset=offset), [1], sampler, T) for offset in (1, 0)
    )
    assert torch.equal(moved, plain)


# The loss -----------------------------------------------------------------


def test_the_loss_is_the_plain_mean_over_50_images_and_all_times():
    model, images = (
        unet_model(num_train_timesteps=T),
        np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8),
    )
    found = published_losses.losses(model, images, np.arange(T), 7)
    assert found.shape == (T, 3)
    eps = torch.randn((3, 1, 8, 8), generator=torch.Generator().manual_seed(4))
    x0 = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    kept = torch.cumprod(1 - torch.linspace(DDPM["beta_start"], DDPM["beta_end"], T), 0)[4]
    with torch.inference_mode():
        said = model.network(kept.sqrt() * x0 + (1 - kept).sqrt() * eps, torch.full((3,), 4))
    np.testing.assert_allclose(found[4], (said - eps).square().flatten(1).mean(1).numpy(), rtol=1e-4)
    assert len(published_losses.loss_images(700)) == len(set(published_losses.loss_images(700))) == 50
    assert list(published_losses.loss_images(20)) == list(range(20))


def test_no_time_is_left_out_as_the_tools_own_levels_do():
    assert 0 not in denoising.time_levels(16, T)
    assert published_losses.n_calls(50, 30, 64) == 16 + 8  # 20 and 10 times of 50 images


# Two trainings ------------------------------------------------------------


def test_the_distance_is_one_minus_the_correlation_of_the_samples(twins):
    rows = rows_of(twins, "distance")
    for step in STEPS:
        a, b = (np.load(twins / "samples" / twin / f"{step}.npy").reshape(12, -1) for twin in "ab")
        r = [np.corrcoef(x, y)[0, 1] for x, y in zip(a.astype(float), b.astype(float), strict=True)]
        assert rows.published[step] == pytest.approx(1 - np.mean(r), abs=1e-6)
        assert rows.published_error[step] == pytest.approx(np.std(r, ddof=1) / np.sqrt(12), abs=1e-6)
        assert rows.own[step] == pytest.approx(rows.published[step])  # 12 seeds are fewer than 512
        assert rows.own_low[step] < rows.own[step] < rows.own_high[step]


def test_the_published_onset_is_the_least_value_and_ours_is_the_set(twins):
    onsets = pd.read_parquet(twins / "onsets.parquet")
    for quantity, onset, space in (("distance", "divergence", "correlation"), ("loss", "loss", "")):
        rows = rows_of(twins, quantity)
        assert list(rows.index[rows.published_onset]) == [rows.published.idxmin()]
        of = onsets[(onsets.onset == onset) & (onsets.space == space)].iloc[0]
        assert [str(step) for step in rows.index[rows.own_onset]] == [s for s in of.steps.split(",") if s]


def test_the_loss_stands_beside_that_of_the_tools_own_cells(twins):
    rows = rows_of(twins, "loss")
    measured = pd.read_parquet(twins / "measurements.parquet")
    own = measured[(measured.metric == "loss_heldout") & (measured.twin == "both")].set_index("step")
    for step in STEPS:
        cells = [pd.read_parquet(twins / "losses" / twin / f"{step}.published.parquet") for twin in "ab"]
        assert all(len(each) == 30 * T for each in cells)  # all held-out images, as there are fewer than 50
        assert rows.published[step] == pytest.approx(np.mean([each.loss.mean() for each in cells]))
        assert (rows.own[step], rows.own_low[step]) == (own.value[step], own.low[step])


def test_memorizing_begins_at_a_thousandth_by_the_published_rule(twins):
    rows = pd.read_parquet(twins / "protocol.parquet")
    copies = rows[rows.quantity == "copies"]
    begun = sorted(set(copies.step[copies.published >= 0.001]))[:1]
    assert sorted(set(copies.step[copies.published_onset])) == begun
    assert set(rows.twin[rows.quantity == "nn_kl"]) == {"a", "b"}


def test_the_reports_tell_it_and_verdicts_do_not_rest_on_it(twins, audit):
    shown = audit("report", twins)
    assert "By the published protocol" in shown.out and "no part of the verdict" in shown.out
    told = json.loads(audit("report", twins, "--json").out)
    assert {row["quantity"] for row in told["protocol"]} == {"distance", "loss", "nn_kl", "copies"}
    assert not any("published" in row["reasons"] for row in told["verdicts"])


def test_a_changed_number_or_a_lost_part_is_found_by_verification(twins, audit, tmp_path):
    run = shutil.copytree(twins, tmp_path / "run")
    assert audit("verify", run).status == 0
    frame = pd.read_parquet(run / "protocol.parquet")
    frame.loc[frame.quantity == "loss", "published"] += 1e-6
    frame.to_parquet(run / "protocol.parquet")
    changed = audit("verify", run)
    assert changed.status == 1 and "protocol, quantity loss" in changed.err
    (run / "losses" / "a" / "90.published.parquet").unlink()
    assert "90.published.parquet is missing" in audit("verify", run).err


def test_the_same_command_makes_nothing_anew_and_a_lost_part_alone_is_made_again(twins, short, saved_inputs):
    arguments = ["run", *twin_options(short, saved_inputs, out=str(twins))]
    lost = twins / "losses" / "b" / "200.published.parquet"
    before, table = lost.read_bytes(), (twins / "protocol.parquet").read_bytes()
    lost.unlink()
    planned = call(*arguments, "--dry-run").out
    assert "make        1 x published losses: not there, 96 network calls" in planned
    assert "reuse       6 x samples: up to date" in planned
    assert call(*arguments).status == 0
    assert (lost.read_bytes(), (twins / "protocol.parquet").read_bytes()) == (before, table)


def test_another_protocol_does_not_discard_the_samples_unasked(twins, short, saved_inputs):
    outcome = call("run", *twin_options(short, saved_inputs, out=str(twins), protocol=None))
    assert outcome.status == 1 and "discard" in outcome.err and "published" in outcome.err


# Three trainings ----------------------------------------------------------


@pytest.fixture(scope="module")
def three_by_paper(short, three):
    """A finished audit of three trainings by the published protocol."""
    root, options = three
    renamed = [each.replace(f"={root}/{each[:1]}", f"={short}/{each[:1]}") for each in options]
    renamed = [each if ".npz" not in each else options[i] for i, each in enumerate(renamed)]
    steps = {"steps": f"{STEPS[0]},{STEPS[2]}"}
    outcome = call("run", *renamed, *as_arguments({**PAPER, **steps, "out": str(short / "three")}))
    assert outcome.status == 0, outcome.err
    return short / "three"


def test_pairs_are_units_as_published_and_trainings_are_here(three_by_paper):
    pairs = [("x", "y"), ("x", "z"), ("y", "z")]
    found = {p: rows_of(three_by_paper / "pairs" / "+".join(p), "distance") for p in pairs}
    whole = rows_of(three_by_paper, "distance")
    for step in (STEPS[0], STEPS[2]):
        values = {pair: rows.published[step] for pair, rows in found.items()}
        x = np.array(list(values.values()))
        assert whole.published[step] == pytest.approx(np.median(x))
        assert whole.published_error[step] == pytest.approx(x.std(ddof=1) / np.sqrt(3))
        own = intervals.node_jackknife(values, "xyz")
        assert (whole.own[step], whole.own_high[step]) == pytest.approx((own.value, own.high))
    assert set(whole.error_over) == {"pairs"}
    assert set(rows_of(three_by_paper, "loss").error_over) == {"trainings"}


def test_a_trainings_loss_is_measured_once(three_by_paper):
    first, second = (three_by_paper / "pairs" / pair / "losses" for pair in ("x+y", "y+z"))
    name = f"{STEPS[0]}.published.parquet"
    assert (first / "b" / name).stat().st_ino == (second / "a" / name).stat().st_ino


# What cannot be -----------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sampler": "ddim"}, "--protocol paper and --sampler are both given"),
        ({"sampler": "dpm++"}, "--protocol paper and --sampler are both given"),
        ({"sampling-steps": "50"}, "--protocol paper and --sampling-steps are both given"),
        ({"quick": ""}, "--protocol paper and --quick are both given"),
        ({"ckpts-b": None, "train-b": None}, "compares trainings"),
        ({"spaces": "pixel"}, "not among the spaces"),
        ({"protocol": "papers"}, "no protocol 'papers'"),
    ],
)
def test_what_contradicts_the_protocol_is_one_clear_error(short, saved_inputs, tmp_path, changes, said):
    outcome = call("run", *twin_options(short, saved_inputs, **changes, out=str(tmp_path / "run")))
    assert outcome.status == 1 and said in outcome.err and "to do:" in outcome.err
    assert not (tmp_path / "run").exists()


def test_without_it_nothing_is_told_of_it(finished, audit):
    assert not (finished / "protocol.parquet").exists()
    assert json.loads(audit("report", finished, "--json").out)["protocol"] == []
    assert "published protocol" not in audit("report", finished).out


def test_the_sampler_alone_can_be_had_in_all_its_steps(short, saved_inputs, tmp_path):
    options = twin_options(short, saved_inputs, protocol=None, sampler="published", out=str(tmp_path / "run"))
    refused = call("run", *options, "--sampling-steps", "5")
    assert refused.status == 1 and "takes all 16 steps" in refused.err
    planned = call("run", *options, "--dry-run").out
    assert "published losses" not in planned and "x samples" in planned
