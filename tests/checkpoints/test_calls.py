"""Networks that cannot be called: one error that says what, where and what to do, whatever their code raises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import call as audit_command

from auditor.checkpoints import ModelSettings, calls
from auditor.diffusion.model import DiffusionModel
from auditor.errors import AuditError, CheckpointError
from auditor.records import Checkpoint

CHECKPOINT = Checkpoint("a", 500, Path("runs/a/step-500.pt"), "plain", "raw", None)
OWN = ModelSettings(model="mine:make", image_shape=(8, 8, 3))
TIMES = torch.tensor([3])


def raising(problem: BaseException):
    def network(x, t):
        raise problem

    return network


def model_of(network, conditioned=None) -> DiffusionModel:
    model = DiffusionModel(network, {}, (8, 8, 3), 1, conditioned=conditioned)
    return calls.told(model, CHECKPOINT, OWN)


def called(network) -> AuditError:
    with pytest.raises(AuditError) as error:
        model_of(network).network(torch.zeros(1, 3, 8, 8), TIMES)
    return error.value


def test_a_network_of_other_channels_is_told_with_the_shape_and_the_option():
    error = called(lambda x, t: torch.nn.Conv2d(1, 4, 3)(x))
    assert "fails on 1 pictures of 8 x 8 with 3 channels: RuntimeError: Given groups=1" in error.what
    assert error.where == str(CHECKPOINT.path) and "--image-shape" in error.remedy and "mine:make" in error.remedy


@pytest.mark.parametrize(
    "problem", [RuntimeError("sizes"), TypeError("missing y"), KeyError("t"), AssertionError(), ZeroDivisionError("n")]
)
def test_whatever_a_network_raises_is_told_by_its_kind(problem):
    assert type(problem).__name__ in called(raising(problem)).what


@pytest.mark.parametrize(
    "problem", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: not enough memory")]
)
def test_too_little_memory_is_told_as_that_with_the_batch_size(problem):
    error = called(raising(problem))
    assert "The memory of cpu does not suffice for 1 pictures at once" in error.what and "--batch-size" in error.remedy


def test_what_is_known_to_be_wrong_with_one_checkpoint_and_interrupts_pass_through():
    known = CheckpointError("not finite", "a/500")
    with pytest.raises(CheckpointError, match="not finite"):
        model_of(raising(known)).network(torch.zeros(1, 3, 8, 8), TIMES)
    with pytest.raises(KeyboardInterrupt):
        model_of(raising(KeyboardInterrupt())).network(torch.zeros(1, 3, 8, 8), TIMES)


def test_conditioned_networks_are_told_too_and_sound_ones_give_what_they_gave():
    model = model_of(lambda x, t: 2 * x, lambda numbers, guidance: raising(RuntimeError("no class")))
    assert torch.equal(model.network(torch.ones(1, 3, 8, 8), TIMES), torch.full((1, 3, 8, 8), 2.0))
    calls.require_call(model, None, 1.0, 1000, "cpu")
    with pytest.raises(AuditError, match="no class"):
        calls.require_call(model, np.array([4]), 1.0, 1000, "cpu")


def test_an_audit_of_a_network_that_does_not_fit_ends_before_anything_is_made(saved_inputs, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\nclass Net(torch.nn.Conv2d):\n    def forward(self, x, t):\n        return super().forward(x)\n"
        "def make():\n    return Net(3, 3, 3, padding=1)\n"
    )
    monkeypatch.chdir(tmp_path)
    for twin in "ab":
        (tmp_path / twin).mkdir()
        for step in (1, 2):
            torch.save(torch.nn.Conv2d(3, 3, 3, padding=1).state_dict(), tmp_path / twin / f"step-{step}.pt")
    options = ["--ckpts-a", "a", "--ckpts-b", "b", "--out", "run", "--spaces", "pixel", "--scheduler", "ddpm"]
    options += ["--model", "mine:make", "--prediction", "epsilon"]
    for name in ("train-a", "train-b", "heldout"):
        options += [f"--{name}", saved_inputs.options[name]]
    outcome = audit_command("run", *options, "--image-shape", "8x8x1")
    assert outcome.status == 1 and "fails on 1 pictures of 8 x 8 with 1 channels" in outcome.err
    assert "fault" not in outcome.err and not (tmp_path / "run").exists()
