"""Files as people really have them: found and read, or refused for the true reason, by scan as by run."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from series import FACTORY
from torch import nn
from trained import TinyNet

from auditor.checkpoints import ModelSettings, discover, inspect, names, weights
from auditor.checkpoints.discovery import checkpoint_of
from auditor.checkpoints.files import expected_of
from auditor.checkpoints.networks import header_problem
from auditor.diffusion import schedules
from auditor.errors import AuditError, CheckpointError
from auditor.inputs.scan import scan

PLAIN = ModelSettings(model=FACTORY, image_shape=(8, 8, 1))


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return TinyNet().state_dict()


def listed(seed: int = 1) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [one.detach() for one in TinyNet().parameters()]


def series(folder: Path, content: Callable[[int], Any], name: str = "net_{}.pt") -> Path:
    for step in (100, 200):
        path = folder / name.format(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content(step), path)
    return folder


def read(folder: Path) -> set[str]:
    """Return the kinds of weights that both scan and run read of a series of two steps."""
    found = discover(folder, "a", PLAIN)
    assert [one.step for one in found.found] == [100, 200]
    (scanned,) = scan([folder], PLAIN, "ddpm")
    kinds = set(found.found[0].paths)
    assert set(scanned.weights) == kinds and scanned.steps == (100, 200)
    for kind in kinds:
        assert inspect(checkpoint_of(found.found[0], "a", "plain", kind), PLAIN).digest
    return kinds


# Where weights lie

LIT = {"model_ema." + name.replace(".", ""): one for name, one in state(1).items()}
PLACES = {
    "any key": (lambda s: {"net_model": state(s), "sched": 3}, {"raw"}),
    "a key within a key": (lambda s: {"training": {"my_unet": state(s)}}, {"raw"}),
    "an item of a list": (lambda s: [state(s), {"lr": 1.0}, 3], {"raw"}),
    "a list with averages": (lambda s: [state(s), {"lr": 1.0}, 3, state(1)], {"raw", "ema"}),
    "a prefix in the middle": (
        lambda s: {k.replace("first.", "first._orig_mod.module."): v for k, v in state(s).items()},
        {"raw"},
    ),
    "averages under two keys": (
        lambda s: {"model": state(s), "model_ema1": state(1), "model_ema2": state(2)},
        {"raw", "ema"},
    ),
    "target_model": (lambda s: {"model": state(s), "target_model": state(1)}, {"raw", "ema"}),
    "averages of score_sde": (lambda s: {"model": state(s), "ema": {"shadow_params": listed()}}, {"raw", "ema"}),
    "averages of EMAModel": (
        lambda s: {"unet": state(s), "avg": {"decay": 0.9, "shadow_params": listed()}},
        {"raw", "ema"},
    ),
    "numbered averages": (
        lambda s: (
            {f"model.{k}": v for k, v in state(s).items()}
            | {f"shadow_params.{i}": one for i, one in enumerate(listed())}
        ),
        {"raw", "ema"},
    ),
    "averages of LitEma": (lambda s: {f"model.{k}": v for k, v in state(s).items()} | LIT, {"raw", "ema"}),
}


@pytest.mark.parametrize("place", PLACES)
def test_weights_are_found_by_scan_and_run_wherever_a_file_holds_exactly_these(place, tmp_path):
    content, kinds = PLACES[place]
    assert read(series(tmp_path, content)) == kinds


def test_averages_in_a_list_are_those_of_the_parameters_and_buffers_come_from_the_raw_weights():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.out = nn.BatchNorm2d(2), nn.Linear(2, 2)

    expected = expected_of(Net())
    raw, average = Net().state_dict(), [torch.full((2,), 7.0), *[p.detach() for p in Net().parameters()][1:]]
    found = weights.located({"model": raw, "ema": average}, expected).weights["ema"][1]
    assert torch.equal(found["norm.weight"], average[0]) and found["norm.running_mean"] is raw["norm.running_mean"]


@pytest.mark.parametrize("averages", [listed()[:-1], listed()[::-1], {"first.weight": torch.zeros(3)}])
def test_averages_that_are_there_and_not_read_are_told(averages, tmp_path):
    found = discover(series(tmp_path, lambda s: {"model": state(s), "ema": averages}), "a", PLAIN)
    assert set(found.found[0].paths) == {"raw"}
    assert "averages are under ema and are not read" in found.excluded[0].reason


def test_of_averages_under_two_keys_one_is_named(tmp_path):
    found = discover(series(tmp_path, lambda s: {"model": state(s), "ema1": state(1), "ema2": state(2)}), "a", PLAIN)
    assert "averages under ema2 are left out: those under ema1 are taken" in found.excluded[0].reason


def test_where_nothing_fits_the_keys_are_named_under_which_tensors_lie(tmp_path):
    other = {"a": torch.zeros(2), "b": torch.zeros(3)}
    with pytest.raises(AuditError, match="tensors lie under discus, weights_of_it"):
        discover(series(tmp_path, lambda s: {"discus": other, "weights_of_it": other}), "a", PLAIN)


def test_a_factory_may_hold_the_network_one_level_deeper_and_a_foreign_network_is_still_refused():
    class Wrapper(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

    expected = expected_of(Wrapper(TinyNet()))
    found = weights.located({"model": state(), "ema": {"shadow_params": listed()}}, expected).weights
    assert set(found) == {"raw", "ema"} and set(found["raw"][1]) == set(expected)
    assert not weights.located({"model": TinyNet(9).state_dict()}, expected).weights


# What lies beside them

BESIDE = {
    "a number": lambda: np.float64(0.25),
    "an array": lambda: np.arange(6.0).reshape(2, 3),
    "texts": lambda: np.array(["a", "b"]),
    "random states": lambda: {"numpy": np.random.RandomState(1).get_state(), "python": random.getstate()},
    "a time": lambda: datetime(2024, 1, 2),
}


@pytest.mark.parametrize("beside", BESIDE)
def test_numbers_arrays_and_random_states_beside_weights_are_data(beside, tmp_path):
    assert read(series(tmp_path, lambda s: {"model": state(s), "beside": BESIDE[beside]()})) == {"raw"}


# Names

NAMES = [
    (["diffusion_steps_1000_epoch_1", "diffusion_steps_1000_epoch_2"], [1, 2], "epoch"),
    (["T1000_timesteps_500_ckpt3", "T1000_timesteps_500_ckpt4"], [3, 4], "step"),
    (["ckpt_63_", "ckpt_127_"], [63, 127], "step"),
    (["100_Network", "200_Network"], [100, 200], "step"),
    (["model_100k", "model_1M"], [100_000, 1_000_000], "step"),
    (["epoch_10_fid_3.21", "epoch_20_fid_2.87"], [10, 20], "epoch"),
    (["run_20240101_64x64_5", "run_20240102_64x64_6"], [5, 6], "step"),
    (["epoch_1_step_500", "epoch_2_step_300"], [1, 2], "epoch"),
    (["epoch=0-step=400", "epoch=1-step=800"], [400, 800], "step"),
    (["2024-01-01_12-00-00-save-1500-3-0", "2024-01-02_13-00-00-save-2500-5-10"], [1500, 2500], "step"),
    (["net_lr_1e-4_e3", "net_lr_1e-5_e4"], [3, 4], "epoch"),
    (["network-snapshot-002500", "network-snapshot-005000"], [2500, 5000], "kimg"),
    (["last", "ckpt_63_"], [-1, 63], "step"),
]


@pytest.mark.parametrize(("stems", "steps", "unit"), NAMES)
def test_the_number_that_counts_the_training_is_told_from_the_others_in_a_name(stems, steps, unit):
    found = names.of_series(stems, {}, {})
    assert [found[stem][0] for stem in stems] == steps and found[stems[-1]][1] == unit


@pytest.mark.parametrize(
    "stems", [["m_3_1500", "m_4_2000"], ["epoch_1_step_100", "epoch_1_step_200", "epoch_2_step_100"]]
)
def test_numbers_of_which_none_or_two_may_count_are_refused_and_named(stems):
    with pytest.raises(AuditError, match=r"the numbers .*(3, 4 and number 1500|epoch 1, 1, 2 and step 100)"):
        names.of_series(stems, {}, {})


def test_of_two_numbers_that_disagree_the_one_that_rises_with_the_time_of_the_files_counts():
    stems = ["m_3_1500", "m_4_1000", "m_5_1200"]
    assert [n for n, _ in names.of_series(stems, {}, dict(zip(stems, (5, 7, 9), strict=True))).values()] == [3, 4, 5]


def test_steps_that_files_state_within_their_epochs_do_not_order_a_series(tmp_path):
    for epoch, step in ((1, 50), (2, 30), (3, 40)):
        torch.save({"model": state(epoch), "epoch": epoch, "step": step}, tmp_path / f"net-{epoch}.pt")
    found = discover(tmp_path, "a", PLAIN)
    assert [one.step for one in found.found] == [1, 2, 3] and found.unit == "epoch"
    torch.save({"model": state(4), "epoch": 3, "step": 60}, tmp_path / "net-4.pt")
    with pytest.raises(AuditError, match="counted within their epochs, which repeat"):
        discover(tmp_path, "a", PLAIN)


def test_a_count_that_is_the_same_in_all_files_does_not_hide_the_numbers_in_their_names(tmp_path):
    assert read(series(tmp_path, lambda s: {"model": state(s), "step": 7})) == {"raw"}


# Folders and files beside one another


@pytest.mark.parametrize(
    ("files", "kinds"),
    [
        ({"{}.ckpt/nnet.pth": state, "{}.ckpt/nnet_ema.pth": state}, {"raw", "ema"}),
        ({"checkpoint-{}/pytorch_model_fsdp.bin": state}, {"raw"}),
        ({"checkpoint-{}/pytorch_model/mp_rank_00_model_states.pt": lambda s: {"module": state(s)}}, {"raw"}),
        ({"net{:06d}.pt": state, "ema_0.99_{:06d}.pt": state, "ema_0.9999_{:06d}.pt": state}, {"raw", "ema"}),
        ({"{}.pt": lambda s: {"model": state(s)}, "{}_ema.pt": state}, {"raw", "ema"}),
    ],
)
def test_steps_of_several_files_are_put_together(files, kinds, tmp_path):
    for name, content in files.items():
        series(tmp_path, content, name)
    assert read(tmp_path) == kinds


def test_of_averages_of_two_rates_the_narrowest_is_taken_and_named(tmp_path):
    for rate in ("0.9999", "0.999"):
        series(tmp_path, state, f"ema_{rate}_{{}}.pt")
    excluded = discover(tmp_path, "a", PLAIN).excluded
    assert {one.path.name for one in excluded} == {"ema_0.9999_100.pt", "ema_0.9999_200.pt"}
    assert "ema_0.999_* are taken" in excluded[0].reason


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", b"short", None])
def test_pointers_and_truncated_files_are_seen_by_scan_in_folders_of_diffusers(content, tmp_path):
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(state(), path)
    header_problem(tmp_path)
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.raises(
        CheckpointError, match="git-lfs pointer" if content and content[:1] == b"v" else "corrupt|trunc"
    ):
        header_problem(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("checkpoint_100", b"\x82\xa6params\x80", "Flax"),
        ("model_100.weights.h5", b"\x89HDF\r\n", "Keras"),
        ("100/default/manifest.ocdbt", b"", "Orbax"),
        ("ckpt-5.ckpt.index", b"", "TensorFlow"),
        ("net.onnx", b"\x08", "ONNX"),
    ],
)
def test_files_of_other_frameworks_are_named_with_the_way_out(name, content, said, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
    for refused in (lambda: scan([tmp_path], PLAIN, "ddpm"), lambda: discover(tmp_path, "a", PLAIN)):
        with pytest.raises(AuditError, match=f"weights of {said}") as caught:
            refused()
        assert "--samples-a" in caught.value.remedy


def test_a_pickle_without_a_suffix_is_not_taken_for_another_framework(tmp_path):
    torch.save(state(), tmp_path / "checkpoint_100")
    (tmp_path / "state").write_bytes(b"\x80\x04\x95hello")
    with pytest.raises(AuditError) as caught:
        discover(tmp_path, "a", PLAIN)
    assert "Flax" not in caught.value.what


# Variance-exploding processes


def test_the_score_of_a_variance_exploding_process_becomes_the_same_prediction_inside():
    config = schedules.completed({"_class_name": "ScoreSdeVeScheduler", "sigma_min": 0.01, "sigma_max": 50.0})
    assert config["prediction_type"] == "ve" and schedules.problem(config) == ""
    mean, var = 0.3, 0.25  # of Gaussian data, whose score is known

    def score(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return (mean - x) / (var + sigma.view(-1, 1, 1, 1) ** 2)

    t, x = torch.tensor([10, 500, 990]), torch.randn(3, 1, 4, 4, dtype=torch.float64)
    abar = schedules.forward_process(config).alphas_cumprod.double()[t].view(-1, 1, 1, 1)
    x0 = mean + abar.sqrt() * var / (abar * var + 1 - abar) * (x - abar.sqrt() * mean)
    eps = (x - abar.sqrt() * x0) / (1 - abar).sqrt()
    wanted = abar.sqrt() * eps - (1 - abar).sqrt() * x0
    assert torch.allclose(schedules.convert(score, config)(x, t), wanted, atol=1e-6)
    assert np.allclose(schedules.target_weights(config)[t], abar.ravel(), rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"_class_name": "KarrasVeScheduler", "sigma_min": 0.02, "sigma_max": 100}, "variance-exploding"),
        (schedules.DDPM | {"rescale_betas_zero_snr": True}, "holds no signal"),
        ({"_class_name": "ScoreSdeVeScheduler", "sigma_min": 2.0, "sigma_max": 1.0}, "are no schedule"),
    ],
)
def test_schedules_that_cannot_be_used_are_refused_for_the_true_reason(config, said):
    assert said in schedules.problem(schedules.completed(config))
    assert (
        schedules.problem(schedules.completed(schedules.DDPM | {"rescale_betas_zero_snr": True}, "v_prediction")) == ""
    )


def test_the_factory_alone_names_no_step_of_a_folder_that_holds_something_else(tmp_path):
    os.makedirs(tmp_path / "100.ckpt")
    (tmp_path / "100.ckpt" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"x")
    with pytest.raises(AuditError, match=r"ZeRO|no file of weights|is no file of weights"):
        discover(tmp_path, "a", PLAIN)
