"""The script that makes the published figures on real images: network, trainings that resume, all of it at toy size."""

from __future__ import annotations

import faults
import figure
import make
import numpy as np
import pandas as pd
import pytest
import torch
import unet
from conftest import make_fast, smooth_images
from safetensors.torch import load_file

from auditor.errors import AuditError
from auditor.run import RunDirectory

TOY = make.Experiment(8, 8, 40, 32, 16, 1e-3, (3, 6), 12, "ddim", 2, 6, 2, 0.1, trainings=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """160 pictures, ten copies of them and ten that are a little brighter."""
    images = smooth_images(160, 5, size=12)
    brighter = np.clip(images[10:20].astype(int) + 2, 0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "films.npz"
    np.savez(path, images=np.concatenate([images, images[:10], brighter]))
    return str(path)


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """The folder of a whole experiment."""
    out = tmp_path_factory.mktemp("experiment") / "out"
    with pytest.MonkeyPatch.context() as patch:
        make_fast(patch)
        patch.setitem(make.SCALES, "small", TOY)
        make.main(["all", data, str(out), "--scale", "small", "--trainings", "3"])
    return out


def test_the_network_has_the_published_number_of_weights():
    network = unet.make()
    assert sum(each.numel() for each in network.parameters()) == 4_023_233
    assert network.times.shape == (1000, 32) and "times" not in network.state_dict()  # 32,000 fixed numbers
    with torch.inference_mode():
        assert network(torch.zeros(2, 1, 32, 32), torch.tensor([0, 999])).shape == (2, 1, 32, 32)


def test_the_full_scale_is_the_published_one():
    full = make.SCALES["full"]
    assert (full.side, full.width, full.n_train, full.batch_size, full.steps[-1]) == (32, 32, 1024, 512, 10_000)
    assert full.learning_rate == 1e-4 and full.trainings >= 4 and full.average == 0


def test_the_sets_share_no_image_and_no_duplicate(made):
    sets = [np.load(made / "data" / f"{name}.npz")["images"] for name in ("s0", "s1", "s2", "heldout")]
    assert [len(each) for each in sets] == [40, 40, 40, 32]
    pixels = np.concatenate(sets).reshape(152, -1).astype(float)
    r = np.corrcoef(pixels)
    assert r[~np.eye(152, dtype=bool)].max() < 0.98


def test_too_few_images_are_one_clear_error(data, tmp_path):
    with pytest.raises(AuditError, match="too few"):
        make.prepare(make.replace(TOY, n_train=60), data, tmp_path / "out")


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(made, monkeypatch, tmp_path):
    (tmp_path / "data").symlink_to(made / "data")
    taken, one_step = [], make.one_step

    def stopping(*given):
        taken.append(1)
        if len(taken) == 6:
            raise KeyboardInterrupt
        return one_step(*given)

    monkeypatch.setattr(make, "one_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        make.train(TOY, tmp_path, "s0", "cpu")
    monkeypatch.setattr(make, "one_step", one_step)
    make.train(TOY, tmp_path, "s0", "cpu")
    for step in TOY.steps:
        name = f"runs/s0/step-{step}.safetensors"
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


def test_a_longer_training_goes_on_from_a_shorter(made, tmp_path):
    (tmp_path / "data").symlink_to(made / "data")
    for steps in ((3,), (3, 6)):
        make.train(make.replace(TOY, steps=steps), tmp_path, "s1", "cpu")
    name = "runs/s1/step-6.safetensors"
    assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


def test_a_checkpoint_holds_the_average_of_the_weights_of_all_steps(made, tmp_path):
    (tmp_path / "data").symlink_to(made / "data")
    make.train(make.replace(TOY, steps=(1, 2, 3), average=0.0), tmp_path, "s2", "cpu")
    each = [load_file(tmp_path / f"runs/s2/step-{step}.safetensors") for step in (1, 2, 3)]
    kept = [make.kept_share(step, 0.1) for step in (2, 3)]
    shares = [kept[0] * kept[1], (1 - kept[0]) * kept[1], 1 - kept[1]]
    for name, average in load_file(made / "runs/s2/step-3.safetensors").items():
        expected = sum(share * weights[name] for share, weights in zip(shares, each, strict=True))
        assert torch.allclose(average, expected, rtol=0, atol=1e-6), name


def test_the_same_folder_takes_no_other_recipe(made):
    with pytest.raises(AuditError, match="Another training"):
        make.train(make.replace(TOY, learning_rate=2e-3), made, "s0", "cpu")


def test_pictures_are_seen_less_the_mean_of_their_own_set():
    seen = make.as_seen(np.full((3, 4, 4, 1), 51, dtype=np.uint8))
    assert seen.shape == (3, 1, 4, 4) and float(seen.abs().max()) < 1e-6


def test_all_pairs_are_audited_and_the_figures_have_intervals_over_trainings(made):
    assert sorted(path.name for path in (made / "audit" / "pairs").iterdir()) == ["s0+s1", "s0+s2", "s1+s2"]
    curves = pd.read_csv(made / "figure" / "curves.csv")
    measured = pd.read_parquet(made / "audit" / "measurements.parquet")
    both = measured[(measured.metric == "loss_heldout") & (measured.twin == "both")].set_index("step")
    loss = curves[curves.curve == "loss"].set_index("step")
    assert list(loss.index) == list(TOY.steps)
    np.testing.assert_allclose(loss[["value", "low", "high"]], both[["value", "low", "high"]], rtol=1e-5)
    distance = curves[curves.curve == "distance"]
    assert (distance.low < distance.value).all() and (distance.value < distance.high).all()
    cosines = pd.read_csv(made / "figure" / "cosines.csv")
    assert set(cosines.images) == {"own", "held-out"} and cosines.value.between(-1, 1).all()
    for name in ("figure-1a", "figure-2"):
        assert (made / "figure" / f"{name}.png").stat().st_size > 1000
        assert "<svg" in (made / "figure" / f"{name}.svg").read_text()


def test_published_errors_and_losses_are_told_on_the_same_trainings(made):
    names = [f"s{i}" for i in range(3)]
    told = faults.errors(RunDirectory(made / "audit"), [("s0", "s1"), ("s0", "s2"), ("s1", "s2")], [3, 6], names)
    assert told.count("times 1.96 published errors") == 2
    network = unet.make(1, 8).eval()
    assert faults.cells(network, np.zeros((2, 8, 8, 1)), 250).shape == (5, 2)
    assert faults.losses(made, 6, names, 250).count("with the mean of") == 3


def test_the_set_over_trainings_holds_what_is_not_shown_to_lie_above():
    names = ["x", "y", "z", "w"]
    clear = {name: np.array([1.0, 0.0, 1.0]) + i / 1000 for i, name in enumerate(names)}
    torn = {name: np.array([1.0, 0.0, 1.0 - 2.0 * (i % 2)]) for i, name in enumerate(names)}
    assert figure.set_over_trainings(figure.pairwise(clear), [1, 2, 3], names) == [2]
    assert 3 in figure.set_over_trainings(figure.pairwise(torn), [1, 2, 3], names)


def test_the_plan_checks_the_images_and_takes_one_small_step(data, tmp_path, capsys):
    make.plan(TOY, data, tmp_path / "out", "cpu")
    told = capsys.readouterr().out
    assert "weights, 8x8 pictures" in told and "--ckpts s2=" in told
    assert not (tmp_path / "out" / "runs").exists()
