"""The command line: what it imports, what it refuses and how, and that every option has its effect."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SMALL_CONTROLS, Inputs, Outcome, as_arguments, smooth_images, tiny_unet
from edits import edit_json
from PIL import Image
from safetensors.torch import load_file, save_file

from auditor import registry
from auditor.checkpoints.networks import WEIGHTS
from auditor.errors import AuditError

HEAVY = ("torch", "diffusers", "open_clip", "faiss", "pandas", "pyarrow", "scipy", "numpy")
VERBS = ("run", "report", "demo", "list")


def assert_refused(outcome: Outcome, *parts: str) -> None:
    """Exit status 1, nothing on stdout, and three lines that say what, where and what to do, with these parts."""
    assert outcome.status == 1 and outcome.out == ""
    what, where, remedy = outcome.err.splitlines()[-3:]
    assert what.startswith("error: ") and where.startswith("where: ") and remedy.startswith("to do: "), outcome.err
    for part in parts:
        assert part in "\n".join((what, where, remedy))


def make_huge(weights: Path) -> None:
    """Leave every weight finite, but so large that the network overflows when it is used."""
    tensors = {name: tensor.float().fill_(3e37) for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})


def make_nan(weights: Path) -> None:
    tensors = load_file(weights)
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, weights, metadata={"format": "pt"})


def both_kinds(inputs: Inputs, twin: str, step: int) -> list[Path]:
    return [inputs.root / twin / f"checkpoint-{step}" / kind for kind in ("unet", "unet_ema")]


# What is imported


def imported_by(*arguments: str) -> set[str]:
    """Return which heavy libraries a fresh process has loaded after a command."""
    code = (
        "import sys, auditor.cli as cli\nsys.argv = ['audit', *sys.argv[1:]]\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"finally:\n    print('loaded:', *[name for name in {HEAVY} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(found.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["report", "-h"], ["list"]])
def test_help_and_list_import_no_heavy_library(arguments):
    assert imported_by(*arguments) == set()


def test_a_report_needs_neither_torch_nor_scipy(finished):
    assert imported_by("report", str(finished)) <= {"pandas", "pyarrow", "numpy"}


def test_the_package_runs_as_a_module():
    found = subprocess.run([sys.executable, "-m", "auditor", "list"], capture_output=True, text=True, check=True)
    assert "space: pixel, correlation, clip" in found.stdout


# Usage


@pytest.mark.parametrize(
    "arguments", [["run", "--no-such-option"], ["no-such-verb"], ["run", "--n-samples", "many"], ["report"]]
)
def test_a_usage_error_exits_with_2_and_says_so_on_stderr(audit, arguments):
    outcome = audit(*arguments)
    assert outcome.status == 2 and outcome.out == "" and "Usage: " in outcome.err


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_ends_with_a_runnable_example(audit, verb):
    assert f"Example: audit {verb}" in " ".join(audit(verb, "--help").out.split())


def test_a_fault_of_ours_is_told_in_three_lines_and_keeps_its_traceback_in_a_file(audit, monkeypatch):
    monkeypatch.setattr("auditor.reports.read_report", lambda root: 1 / 0)
    outcome = audit("report", "somewhere")
    assert outcome.status == 70 and len(outcome.err.splitlines()) == 3 and "ZeroDivisionError" in outcome.err
    kept = Path(outcome.err.split("where: ")[1].splitlines()[0])
    assert "Traceback" in kept.read_text() and "1 / 0" in kept.read_text()
    kept.unlink()
    monkeypatch.setenv("AUDITOR_DEBUG", "1")
    assert "Traceback" in audit("report", "somewhere").err


@pytest.mark.parametrize("arguments", [("split", "x.npz", "--out", ""), ("run", "--out="), ("report", "")])
def test_an_empty_argument_is_refused_and_never_means_the_current_folder(audit, arguments):
    assert_refused(audit(*arguments), "An argument is empty.", "is a variable not set?")


OTHER_USER = """
import contextlib, io, json, os, sys, unittest.mock
from auditor import cli
def every():
    for arguments in json.loads(sys.argv[1]):
        with unittest.mock.patch.object(sys, "argv", ["audit", *arguments]), contextlib.suppress(SystemExit):
            cli.main()
with contextlib.redirect_stderr(io.StringIO()):
    every()  # imports what it needs, which the other user may have no right to
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
every()
"""


def test_a_folder_that_may_not_be_entered_is_one_clear_error_wherever_it_is_named():
    """As the system refuses it: to a process without the right, since whoever runs these tests may have every right."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        locked = Path(name) / "locked"
        locked.mkdir(mode=0)
        given = {"ckpts-a": name, "ckpts-b": name, "out": name + "/run", "spaces": "pixel"}
        changes = [{"out": f"{locked}/run"}, {"ckpts-a": f"{locked}/a"}, {"config": f"{locked}/x.toml"}]
        commands = [["run", *as_arguments({**given, **change})] for change in changes]
        command = [sys.executable, "-c", OTHER_USER, json.dumps(commands)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        locked.chmod(0o700)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.count("ermission denied") == done.stderr.count("to do: ") == 3, done.stderr
    assert done.stderr.count(f"where: {locked}") == 3, done.stderr


def test_a_users_error_is_three_lines_without_a_traceback(audit, monkeypatch):
    def refuse(root):
        raise AuditError("This happened.", "here", "Do that.")

    monkeypatch.setattr("auditor.reports.read_report", refuse)
    outcome = audit("report", "somewhere")
    assert outcome == Outcome(1, "", "error: This happened.\nwhere: here\nto do: Do that.\n")


@pytest.mark.parametrize("missing", ["ckpts_a", "out"])
def test_a_run_without_what_it_needs_is_refused(audit, audit_args, missing):
    assert_refused(audit(*audit_args(**{missing: None})), f"--{missing.replace('_', '-')} is missing")


def test_results_go_to_stdout_and_progress_to_stderr(audit, audit_args):
    outcome = audit(*audit_args(steps="90", spaces="pixel"))
    assert outcome.out.startswith("Audit of 1 checkpoint")
    assert outcome.err.startswith("loading the libraries\n") and "Audit of" not in outcome.err


def test_the_chatter_of_libraries_goes_to_the_log_and_not_to_the_screen(audit, audit_args, monkeypatch, tmp_path):
    import logging
    import warnings

    from auditor.diffusion import sampling

    sample_batch = sampling.sample_batch

    def chatty(*arguments, **named):
        warnings.warn("an advice of a library", stacklevel=1)
        logging.getLogger("diffusers.models").warning("another advice")
        return sample_batch(*arguments, **named)

    monkeypatch.setattr(sampling, "sample_batch", chatty)
    outcome = audit(*audit_args(steps="90", spaces="pixel"))
    assert outcome.status == 0 and "advice" not in outcome.out + outcome.err
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "an advice of a library" in log and "another advice" in log


# Errors of checkpoints


def test_missing_checkpoint_folders_are_refused(audit, audit_args):
    assert_refused(audit(*audit_args(ckpts_b="/no/such/folder")), "twin b", "/no/such/folder does not exist")


def test_a_folder_without_checkpoints_is_refused_with_the_layouts_that_are_read(audit, audit_args, tmp_path):
    (tmp_path / "empty").mkdir()
    refused = audit(*audit_args(ckpts_a=tmp_path / "empty"))
    assert_refused(refused, "no usable checkpoint of twin a", "checkpoint-500/unet/")


def test_twins_without_a_common_step_are_refused_with_the_steps_of_both(audit, audit_args, inputs):
    for step in (90, 200, 1000):
        (inputs.root / f"b/checkpoint-{step}").rename(inputs.root / f"b/checkpoint-{step + 1}")
    refused = audit(*audit_args(inputs))
    assert refused.status == 1
    assert "error: The twins have no step in common: a has 90, 200, 1000; b has 91, 201, 1001.\n" in refused.err
    assert refused.err.endswith("or --pair STEP_OF_A:STEP_OF_B.\n")


def test_twins_of_different_image_shapes_are_refused_with_both_values(audit, audit_args, inputs):
    for folder in both_kinds(inputs, "b", 200):
        tiny_unet(0, channels=3).save_pretrained(folder)
    assert_refused(audit(*audit_args(inputs)), "differ in image_shape", "(8, 8, 1) at a/step-90", "(8, 8, 3)")


def test_twins_of_different_noise_schedules_are_refused_with_both_values(audit, audit_args, inputs):
    edit_json(inputs.root / "b/scheduler/scheduler_config.json", beta_end=0.03)
    assert_refused(audit(*audit_args(inputs)), "differ in beta_end: 0.02 at a/step-90, 0.03 at b/step-90")


def test_checkpoints_without_a_noise_schedule_need_scheduler_ddpm_which_the_report_mentions(audit, audit_args, inputs):
    for twin in "ab":
        shutil.rmtree(inputs.root / twin / "scheduler")
    assert_refused(audit(*audit_args(inputs)), "No noise scheduler is saved", "--scheduler ddpm")
    outcome = audit(*audit_args(inputs, scheduler="ddpm", steps="90"))
    assert outcome.status == 0
    assert "given by --scheduler ddpm, because none is saved" in " ".join(outcome.out.split())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(make_nan, "NaN"), (make_huge, "values that are not finite")],
    ids=["nan", "overflow in use"],
)
def test_a_broken_checkpoint_is_left_out_with_its_reason_and_the_rest_goes_on(
    audit, audit_args, inputs, tmp_path, damage, reason
):
    damage(inputs.root / "b/checkpoint-200/unet_ema" / WEIGHTS)
    outcome = audit(*audit_args(inputs, spaces="pixel"))
    assert outcome.status == 0
    rows = pd.read_parquet(tmp_path / "run" / "checkpoints.parquet").set_index(["twin", "step"])
    assert rows.audited.to_dict() == {(t, s): s != 200 for t in "ab" for s in (90, 200, 1000)}
    assert reason in rows.reason["b", 200] and rows.reason["a", 200] != ""
    assert rows.reason["b", 200] in " ".join(outcome.out.split())
    steps = pd.read_parquet(tmp_path / "run" / "measurements.parquet").step
    assert sorted(steps.unique()) == [90, 1000]


@pytest.mark.parametrize("kept", [2000, -4], ids=["header cut", "tail cut"])
def test_ema_weights_that_cannot_be_read_switch_no_step_to_raw_weights(audit, audit_args, inputs, tmp_path, kept):
    weights = inputs.root / "b/checkpoint-200/unet_ema" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:kept])
    assert_refused(audit(*audit_args(inputs, spaces="pixel")), "Some checkpoints have EMA weights", "--steps 90,1000")
    outcome = audit(*audit_args(inputs, spaces="pixel", steps="90,1000"))
    assert outcome.status == 0, outcome.err
    rows = pd.read_parquet(tmp_path / "run" / "checkpoints.parquet")
    assert set(rows.weights[rows.audited]) == {"ema"}


def test_a_series_in_which_every_checkpoint_is_broken_is_refused(audit, audit_args, inputs):
    for step in (90, 200, 1000):
        make_nan(inputs.root / f"a/checkpoint-{step}/unet_ema" / WEIGHTS)
    assert_refused(audit(*audit_args(inputs)), "No checkpoint can be audited", "a/90", "NaN")


def test_steps_of_one_twin_alone_are_listed_with_the_reason(audit, audit_args, inputs, tmp_path):
    shutil.rmtree(inputs.root / "b/checkpoint-200")
    outcome = audit(*audit_args(inputs, spaces="pixel"))
    assert outcome.status == 0 and "no checkpoint at step 200 in twin b" in outcome.out
    rows = pd.read_parquet(tmp_path / "run" / "checkpoints.parquet")
    assert rows.reason[~rows.audited].to_list() == ["no checkpoint at step 200 in twin b"]


# Errors of images


@pytest.mark.parametrize(("given", "lacking"), [("a", "b"), ("b", "a")])
def test_one_training_half_without_the_other_is_refused(audit, audit_args, given, lacking):
    refused = audit(*audit_args(**{f"train_{lacking}": None}))
    assert_refused(refused, f"--train-{given} is given and --train-{lacking} is not")


def test_halves_that_share_images_are_refused_by_file_name_and_audited_with_allow_overlap(
    audit, audit_args, tmp_path, inputs
):
    folders = {}
    for name, images in (("a", smooth_images(20, 7)), ("b", smooth_images(20, 8))):
        folders[name] = tmp_path / f"half-{name}"
        folders[name].mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(folders[name] / f"{name}{i:02d}.png")
    shutil.copy(folders["a"] / "a03.png", folders["b"] / "stolen.png")
    halves = {"train_a": folders["a"], "train_b": folders["b"], "spaces": "pixel", "steps": "90"}
    assert_refused(audit(*audit_args(**halves)), "train-a and train-b", "a03.png = stolen.png", "--allow-overlap")
    outcome = audit(*audit_args(**halves, allow_overlap=""))
    assert outcome.status == 0
    assert "left out of every own-versus-other statistic" in " ".join(outcome.out.split())
    pool = {half: pd.read_parquet(tmp_path / f"run/evidence/pixel/train-{half}.parquet") for half in "ab"}
    assert not pool["a"].set_index("id").in_pool["a03.png"] and not pool["b"].set_index("id").in_pool["stolen.png"]


def test_held_out_images_that_were_trained_on_are_refused(audit, audit_args, inputs):
    refused = audit(*audit_args(heldout=inputs.root / "train-a.npz"))
    assert_refused(refused, "40 pairs of images are in both heldout and train-a")


def test_unreadable_pictures_are_refused_by_name(audit, audit_args, tmp_path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert_refused(audit(*audit_args(train_a=tmp_path / "half")), "broken.png")


def test_pixels_of_a_wrong_range_are_refused(audit, audit_args, tmp_path):
    np.savez(tmp_path / "x.npz", images=np.linspace(-1, 1, 640).reshape(10, 8, 8))
    assert_refused(audit(*audit_args(train_a=tmp_path / "x.npz")), "(x + 1) / 2")


# Errors of settings


def test_missing_clip_weights_are_an_error_before_anything_is_sampled(audit, audit_args, tmp_path):
    refused = audit(*audit_args(spaces="pixel,clip", clip_weights=tmp_path / "none.safetensors"))
    assert_refused(refused, "none.safetensors", "--spaces")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"sampler": "euler"}, "There is no sampler 'euler'"),
        ({"sampling_steps": 2000}, "2000 sampling steps"),
        ({"weights": "best"}, "no weights called 'best'"),
        ({"steps": "90,91"}, "No twin has a usable checkpoint at step 91"),
        ({"device": "tpu"}, "The device 'tpu' is not known"),
        ({"base": "no/such"}, "The folder no/such does not exist."),
        ({"autoencoder": str(Path(__file__).parent)}, "holds no config.json and no vae"),
        ({"format": "plane"}, "--format\n"),
        ({"model": "no.module:nothing"}, "no.module:nothing cannot be imported"),
        ({"device": "cpu:x"}, "The device 'cpu:x' is not known"),
        ({"batch_size": "²"}, "The batch size '²' is no count"),
        ({"batch_size": "9" * 5000}, "is no count"),
        ({"n_samples": 10**20}, "Give at most 10000000"),
        ({"seed": 10**20}, "--seed is 100000000000000000000"),
        ({"image_shape": "8x²x1"}, "'8x²x1' is no image shape"),
        ({"steps": "9" * 5000}, "is no list of steps"),
        ({"loss_levels": 1000}, "1000 noise levels"),
        ({"spaces": "pixle"}, "Did you mean pixel?"),
        ({"n_samples": 1}, "Give at least 2"),
        ({"scheduler": "/no/such.json"}, "'/no/such.json'"),
    ],
)
def test_a_setting_that_cannot_be_met_is_refused_before_anything_is_written(audit, audit_args, tmp_path, changes, part):
    assert_refused(audit(*audit_args(**changes)), part)
    assert not (tmp_path / "run").exists()


def test_a_report_of_no_run_is_refused(audit, tmp_path):
    assert_refused(audit("report", tmp_path), "There is no audit here")


def test_a_report_of_a_run_with_a_damaged_table_says_which(audit, run_copy):
    (run_copy / "onsets.parquet").write_bytes(b"PAR1")
    assert_refused(audit("report", run_copy), "onsets.parquet")


# Every option's effect


def samples(tmp_path: Path, step: int = 90, twin: str = "a", run: str = "run") -> np.ndarray:
    return np.load(tmp_path / run / "samples" / twin / f"{step}.npy")


def test_steps_audits_only_these_and_lists_the_others(audit, audit_args, tmp_path):
    outcome = audit(*audit_args(steps="1000,90", spaces="pixel"))
    assert outcome.status == 0
    assert sorted(pd.read_parquet(tmp_path / "run/measurements.parquet").step.unique()) == [90, 1000]
    rows = pd.read_parquet(tmp_path / "run/checkpoints.parquet")
    assert set(rows.reason[~rows.audited]) == {"not asked for (--steps)"} and set(rows.step[~rows.audited]) == {200}


def test_seed_shifts_the_seeds_of_the_samples(audit, audit_args, tmp_path, finished):
    assert audit(*audit_args(seed=3, steps="90", spaces="pixel", batch_size=5)).status == 0
    shifted, original = samples(tmp_path), np.load(finished / "samples/a/90.npy")
    assert np.abs(shifted[:9].astype(int) - original[3:]).max() <= 1  # another place in the batch is no difference
    assert pd.read_parquet(tmp_path / "run/evidence/pixel/a/90.parquet").seed.to_list() == list(range(3, 15))


def test_weights_chooses_between_raw_and_ema_and_auto_takes_ema(audit, audit_args, tmp_path):
    for weights in ("raw", "ema", "auto"):
        outcome = audit(*audit_args(weights=weights, out=tmp_path / weights, steps="90", spaces="pixel"))
        said = "(raw weights, as asked; EMA weights, which are" if weights == "raw" else "(ema weights)"
        assert outcome.status == 0 and said in " ".join(outcome.out.split())
    raw, ema, auto = (samples(tmp_path, run=weights) for weights in ("raw", "ema", "auto"))
    assert np.array_equal(ema, auto) and not np.array_equal(raw, ema)
    assert set(pd.read_parquet(tmp_path / "raw/checkpoints.parquet").query("audited").weights) == {"raw"}


def test_scheduler_replaces_the_saved_one_and_the_report_says_so(audit, audit_args, inputs, tmp_path, finished):
    path = tmp_path / "cosine.json"
    shutil.copy(inputs.root / "a/scheduler/scheduler_config.json", path)
    edit_json(path, beta_schedule="squaredcos_cap_v2")
    outcome = audit(*audit_args(scheduler=path, steps="90", spaces="pixel"))
    assert outcome.status == 0 and "instead of the one saved" in " ".join(outcome.out.split())
    assert not np.array_equal(samples(tmp_path), np.load(finished / "samples/a/90.npy"))


def test_samplers_give_different_samples_and_take_their_own_steps(audit, audit_args, tmp_path):
    drawn = {}
    for sampler in ("ddim", "ddpm", "dpm++"):
        out = tmp_path / sampler
        assert audit(*audit_args(sampler=sampler, out=out, steps="90", spaces="pixel")).status == 0
        drawn[sampler] = samples(tmp_path, run=sampler)
        assert json.loads((out / "run.json").read_text())["resolved"]["sampling_steps"] == 4
    assert len({images.tobytes() for images in drawn.values()}) == 3


def test_n_samples_and_loss_settings_set_the_sizes_of_the_tables(audit, audit_args, tmp_path):
    changes = {"n_samples": 7, "loss_images": 4, "loss_levels": 3}
    assert audit(*audit_args(**changes, steps="90", spaces="pixel")).status == 0
    assert samples(tmp_path).shape == (7, 8, 8, 1)
    losses = pd.read_parquet(tmp_path / "run/losses/a/90.parquet")
    assert losses.groupby("set", observed=True).size().to_dict() == {"own": 12, "other": 12, "heldout": 12}
    assert losses.t.nunique() == 3


def test_spaces_sets_what_is_measured(audit, audit_args, tmp_path):
    assert audit(*audit_args(spaces="correlation", steps="90")).status == 0
    assert set(pd.read_parquet(tmp_path / "run/measurements.parquet").space) == {"correlation", ""}
    assert not (tmp_path / "run/features/pixel").exists()


def test_a_config_file_takes_the_place_of_options_and_the_command_line_wins(audit, audit_args, tmp_path):
    (tmp_path / "audit.toml").write_text('steps = [90]\nspaces = "pixel"\nn-samples = 8\n')
    arguments = audit_args(spaces=None, n_samples=9, config=tmp_path / "audit.toml")
    assert audit(*arguments).status == 0
    given = json.loads((tmp_path / "run/run.json").read_text())["given"]
    assert (given["steps"], given["spaces"], given["n_samples"]) == ("90", "pixel", 9)


def test_an_unknown_name_in_a_config_file_is_refused_with_a_hint(audit, audit_args, tmp_path):
    (tmp_path / "audit.toml").write_text("sampling-step = 4\n")
    refused = audit(*audit_args(config=tmp_path / "audit.toml"))
    assert_refused(refused, "There is no setting 'sampling-step'", "Did you mean sampling-steps?")


def test_held_out_images_alone_still_give_the_held_out_loss(audit, audit_args, tmp_path):
    assert audit(*audit_args(train_a=None, train_b=None, spaces="pixel")).status == 0
    rows = pd.read_parquet(tmp_path / "run/measurements.parquet").query("twin == 'both'").set_index(["metric", "step"])
    assert rows.value["loss_heldout"].notna().all() and rows.value["twin_distance"].notna().all()
    onsets = pd.read_parquet(tmp_path / "run/onsets.parquet").set_index("onset")
    assert onsets.low["loss"] > 0


def test_training_images_without_held_out_ones_are_audited_and_the_gap_is_named(audit, audit_args):
    outcome = audit(*audit_args(heldout=None, spaces="pixel"))
    assert outcome.status == 0 and "Without --heldout there is no held-out loss" in " ".join(outcome.out.split())


def test_a_run_records_what_was_given_and_what_it_resolved_to(finished):
    record = json.loads((finished / "run.json").read_text())
    assert record["status"] == "complete" and record["format"] == 1
    assert record["given"]["batch_size"] == "5" and record["resolved"]["batch_size"] == 5
    assert record["resolved"]["steps"] == [90, 200, 1000] and record["resolved"]["weights"] == "ema"
    assert {"torch", "diffusers", "numpy", "pandas"} <= set(record["versions"])


def test_pandas_reads_every_table_and_finds_the_meaning_of_every_column(finished):
    paths = sorted(finished.rglob("*.parquet"))
    assert len(paths) > 20
    for path in paths:
        frame = pd.read_parquet(path)
        assert set(frame.attrs) == set(frame.columns), path
        assert len(frame) or path.name in ("classes.parquet", "named.parquet"), path  # nobody was found there


def test_no_table_holds_an_absolute_path(finished, saved_inputs):
    for path in [*finished.rglob("*.parquet"), *finished.rglob("*.key.json")]:
        assert str(saved_inputs.root).encode() not in path.read_bytes(), path


def test_the_controls_of_these_tests_are_small(finished):
    """Else each of them would take seconds longer; the real sizes belong to the tests of the controls."""
    assert len(np.load(finished / "controls/smooth-a.npy")) == SMALL_CONTROLS["N_SMOOTH"]


def test_every_option_of_run_stands_in_one_section_of_its_help(audit):
    from dataclasses import fields

    from auditor.cli.run import PANELS
    from auditor.config import AuditConfig

    named = [name for names in PANELS.values() for name in names]
    assert len(named) == len(set(named)) and set(named) - {each.name for each in fields(AuditConfig)} == {
        *("config", "dry_run", "remake", "shared", "help")
    }
    told = audit("run", "--help").out
    listed = told.split("\n" + next(iter(PANELS)) + ":\n")[1]
    for each in fields(AuditConfig):
        assert len(re.findall(rf"(?m)^  --{each.name.replace('_', '-')}[ \n]", listed)) == 1, each.name
    places = [told.index(f"\n{title}:\n") for title in PANELS]
    assert places == sorted(places) and "--dry-run" in told[places[-1] :]
    bare = audit("run")
    assert told.strip() in (bare.out + bare.err)


def test_an_option_that_the_format_does_not_look_at_is_an_error_and_one_that_it_does_is_none(
    audit, audit_args, tmp_path
):
    config = tmp_path / "model.json"
    config.write_text("{}")
    outcome = audit(*audit_args(model_config=config))
    assert outcome.status == 1 and "--model-config says nothing of diffusers checkpoints" in outcome.err
    assert "diffusers looks at --base and --autoencoder and --prompts" in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", list(registry.FORMATS))
def test_every_format_says_which_options_it_looks_at(name):
    from auditor.checkpoints.formats import open_format

    assert set(open_format(name).uses) <= {"base", "autoencoder", "model", "model_config", "prompts"}
