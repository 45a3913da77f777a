"""``audit scan``: what would be audited, from headers alone; and what a pruned series leaves open."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import trained
from test_checkpoint_formats import FIXTURES, copied

from auditor.scope import gaps


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two series of DiT and one of bare weights."""
    root = tmp_path_factory.mktemp("runs")
    for twin in "ab":
        copied(FIXTURES / "dit", root / twin / "checkpoints")
    copied(FIXTURES / "lightning", root / "other")
    return root


def test_two_series_are_described_and_said_to_be_twins(runs, audit):
    outcome = audit("scan", runs / "a", runs / "b")
    assert outcome.status == 0
    for words in (
        "dit",
        "1 optimizer steps: 2",
        "ema at 1, raw at 1; auto takes ema",
        "8x8x1, scaled to [-1, 1]",
        "DDPMScheduler, predicts epsilon",
        "class (3 classes)",
        "As twins they have 1 steps in common",
    ):
        assert words in outcome.out


def test_the_same_facts_come_as_json(runs, audit):
    outcome = audit("scan", runs, "--json")
    found = json.loads(outcome.out)
    assert [one["format"] for one in found["series"]] == ["dit", "dit", ""]
    first = found["series"][0]
    assert first["steps"] == [2] and first["unit"] == "step" and first["weights"] == {"ema": 1, "raw": 1}
    assert first["image_shape"] == [8, 8, 1] and first["parameters"] > 1000 and not first["problems"]
    assert "--model MODULE:FACTORY" in found["series"][2]["excluded"][0]["reason"]


def test_bare_weights_are_described_once_the_factory_is_named_and_what_is_missing_is_said(runs, audit):
    found = json.loads(audit("scan", runs / "other", "--model", "trained:TinyNet", "--json").out)["series"][0]
    assert found["format"] == "plain" and found["weights"] == {"ema": 1, "raw": 1}
    assert any("--image-shape" in problem for problem in found["problems"])
    assert any("--scheduler ddpm" in problem for problem in found["problems"])
    settled = ("--model", "trained:TinyNet", "--image-shape", "8x8x1", "--prediction", "flow", "--json")
    found = json.loads(audit("scan", runs / "other", *settled).out)["series"][0]
    assert not found["problems"] and found["prediction"] == "flow" and found["image_shape"] == [8, 8, 1]


def test_pickles_are_described_where_they_are_trusted_and_the_refusal_names_the_option(tmp_path, audit):
    root = trained.edm2(tmp_path / "a")
    refused = audit("scan", root)
    assert refused.status == 1 and "read only with --trust-pickle" in refused.err
    (found,) = json.loads(audit("scan", root, "--trust-pickle", "--json").out)["series"]
    assert found["format"] == "edm" and found["steps"] == [0, 1048] and found["image_shape"] == [8, 8, 1]
    assert {each["reason"].split(";")[0] for each in found["excluded"]} == {"averages of width 0.050 are audited"}


def test_a_folder_without_checkpoints_is_one_clear_error(tmp_path, audit):
    outcome = audit("scan", tmp_path)
    assert outcome.status == 1 and "There is no usable checkpoint" in outcome.err
    outcome = audit("scan", tmp_path / "absent")
    assert outcome.status == 1 and "does not exist" in outcome.err


def test_scanning_imports_neither_torch_nor_pandas(runs):
    code = (
        "import sys; from pathlib import Path; from auditor.inputs.scan import scan;"
        "print(len(scan([Path(sys.argv[1])])));"
        "assert not {'torch', 'diffusers', 'pandas', 'safetensors'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, runs / "a"], capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


def test_the_schedule_of_denoising_diffusion_pytorch_is_read_without_torch(tmp_path):
    root = trained.denoising_diffusion_pytorch(tmp_path / "a", objective="pred_noise")
    code = (
        "import sys; from pathlib import Path; from auditor.inputs.scan import scan;"
        "found, = scan([Path(sys.argv[1])]);"
        "print(found.prediction, found.steps, found.parameters > 1000); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True)
    assert done.stdout == "epsilon (2, 4) True\n", done.stderr


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (range(500, 5001, 500), []),
        ((90, 200, 1000), []),  # spaced evenly on a logarithmic scale
        ((120, 240, 430, 770, 1390, 2500, 4500, 8000, 14000, 18000), []),
        ((10, 100, 1000, 10000), []),
        ((6000, 6500, 7000, 7500), ["starts at 6,000 of 7,500 optimizer steps (80 %)"]),
        ((500, 1000, 2500, 3000), ["between 1,000 and 2,500 optimizer steps, a hole of 3.0 times"]),
        ((500, 1000, 1500, 3000), ["between 1,500 and 3,000 optimizer steps"]),
        ((5, 6), []),
        ((2, 2, 4, 4, 6, 6), []),  # two series in one folder, which the scan says
    ],
)
def test_a_series_that_starts_late_or_has_a_hole_says_so(steps, said):
    found = gaps(tuple(steps), "step")
    assert len(found) == len(said)
    assert all(words in sentence for words, sentence in zip(said, found, strict=True))


def test_the_report_of_a_pruned_series_says_what_cannot_be_ruled_out(run_copy, audit):
    path = run_copy / "run.json"
    record = json.loads(path.read_text())
    record["scope"]["steps"] = [600, 650, 700]
    record["resolved"]["unit"] = "epoch"
    from auditor.reports import read_report
    from auditor.reports.caveats import series_limits

    found = " ".join(series_limits(record, read_report(run_copy).tables))
    assert "starts at 600 of 700 epochs" in found and "neither ruled in nor ruled out" in found


def test_copies_of_checkpoints_stop_an_audit_unless_they_are_allowed(inputs, audit, audit_args):
    a, b = inputs.root / "a", inputs.root / "b"
    for kind in ("unet", "unet_ema"):
        shutil.rmtree(b / "checkpoint-200" / kind)
        shutil.copytree(a / "checkpoint-90" / kind, b / "checkpoint-200" / kind)
    outcome = audit(*audit_args(inputs))
    assert outcome.status == 1
    assert "Some checkpoints are the same: a/90 and b/200." in outcome.err and "--allow-identical" in outcome.err
    outcome = audit(*audit_args(inputs, allow_identical=""), "--dry-run")
    assert outcome.status == 0 and "a/90 and b/200 (--allow-identical)" in outcome.out
