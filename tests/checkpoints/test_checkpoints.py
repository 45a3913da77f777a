"""Checkpoint series: real folders, written by diffusers itself as its training scripts do."""

import json
import logging
import pickle
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from hostile import Hostile
from safetensors.torch import load_file, save_file

from auditor import registry
from auditor.checkpoints import (
    Discovery,
    check_compatible,
    discover,
    inspect,
    load,
    model_facts,
    scheduler_config,
)
from auditor.checkpoints.formats.diffusers import DiffusersFormat
from auditor.checkpoints.networks import WEIGHTS
from auditor.checkpoints.pairing import pair
from auditor.diffusion.schedules import DDPM
from auditor.errors import AuditError, CheckpointError
from auditor.records import Checkpoint, Found


def tiny_unet(seed=0, channels=1, **settings):
    torch.manual_seed(seed)
    defaults = {
        "sample_size": 8,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
    }
    return UNet2DModel(**{**defaults, **settings})


def write_training(root, steps, ema=True, scheduler=True, **settings):
    """Write what train_unconditional.py writes: its save hook per step, and the final pipeline into the root."""
    for step in steps:
        unet = tiny_unet(step, **settings)
        folder = root / f"checkpoint-{step}"
        if ema:
            average = EMAModel(unet.parameters(), model_cls=UNet2DModel, model_config=unet.config)
            average.shadow_params[0].mul_(0.5)
            average.save_pretrained(folder / "unet_ema")
        unet.save_pretrained(folder / "unet")
        (folder / "optimizer.bin").write_bytes(b"not read")
    if scheduler:
        DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=100)).save_pretrained(root)
    return root


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """One training of two steps, to be copied; writing is slower than copying."""
    return write_training(tmp_path_factory.mktemp("training"), (500, 1000))


@pytest.fixture
def training(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "a"))


@pytest.fixture
def unet_folder(training):
    return training / "checkpoint-500" / "unet"


@pytest.fixture
def checkpoint(unet_folder):
    return Checkpoint("a", 500, unet_folder, "diffusers", "raw", None)


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def found_in_memory(twin, *steps, ema=()):
    """Return a discovery as it would come from disk, for the rules of pairing."""
    found = tuple(
        Found(s, {"raw": Path(f"{twin}/{s}"), **({"ema": Path(f"{twin}/{s}-ema")} if s in ema else {})}, None)
        for s in steps
    )
    return Discovery(twin, Path(twin), "diffusers", found, ())


def reasons(excluded):
    return {(one.twin, one.step): one.reason for one in excluded}


@pytest.mark.parametrize("name", registry.FORMATS)
def test_a_format_finds_nothing_in_an_empty_folder(name, tmp_path):
    assert registry.lookup("format", name)().find(tmp_path) == ([], [])


def test_discovery_imports_neither_torch_nor_diffusers(training):
    code = "import sys; from auditor.checkpoints import discover; print(discover(sys.argv[1], 'a').found[0].step)"
    code += "; assert not {'torch', 'diffusers', 'safetensors'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, training], capture_output=True, text=True, check=True)
    assert done.stdout == "500\n"


def test_a_training_script_folder_gives_raw_and_ema_weights_and_the_scheduler_of_the_root(training):
    discovery = discover(training, "a")
    assert [one.step for one in discovery.found] == [500, 1000]  # as numbers: "1000" < "500" as text
    folder = training / "checkpoint-500"
    assert discovery.found[0].paths == {"raw": folder / "unet", "ema": folder / "unet_ema"}
    assert discovery.found[0].scheduler == training / "scheduler" / "scheduler_config.json"


def test_the_final_pipeline_in_the_root_is_not_a_checkpoint_and_is_listed(training):
    (final,) = discover(training, "a").excluded
    assert (final.step, final.path, final.reason) == (-1, training / "unet", "no step in its name")


@pytest.mark.parametrize("name", ["checkpoint-7", "step-7", "step_0007", "7", "my-run-7"])
def test_a_bare_save_pretrained_folder_is_found_under_each_kind_of_name(name, tmp_path):
    tiny_unet().save_pretrained(tmp_path / name)
    (found,) = discover(tmp_path, "a").found
    assert (found.step, found.paths, found.scheduler) == (7, {"raw": tmp_path / name}, None)


def test_the_root_itself_may_be_the_only_checkpoint(unet_folder, training):
    tiny_unet().save_pretrained(training / "alone-20")
    assert discover(training / "alone-20", "a").found[0].step == 20
    assert set(discover(training / "checkpoint-500", "a").found[0].paths) == {"raw", "ema"}


def test_whole_pipelines_per_step_bring_their_own_scheduler(tmp_path):
    for step in (2, 10):
        DDPMPipeline(tiny_unet(), DDPMScheduler()).save_pretrained(tmp_path / f"step-{step}")
    found = discover(tmp_path, "a").found
    assert [one.step for one in found] == [2, 10]
    assert found[1].scheduler == tmp_path / "step-10" / "scheduler" / "scheduler_config.json"


def test_a_scheduler_beside_the_weights_goes_before_that_of_the_series(training):
    DDIMScheduler().save_pretrained(training / "checkpoint-500" / "scheduler")
    first, second = discover(training, "a").found
    assert first.scheduler.parent.parent == training / "checkpoint-500"
    assert second.scheduler.parent.parent == training


def test_a_numbered_model_folder_beside_named_steps_is_left_out_with_its_reason(training):
    tiny_unet().save_pretrained(training.parent / "b" / "epoch-3")
    tiny_unet().save_pretrained(training.parent / "b" / "checkpoint-9")
    tiny_unet().save_pretrained(training.parent / "b" / "final")
    discovery = discover(training.parent / "b", "b")
    assert [one.step for one in discovery.found] == [9]
    listed = {one.path.name: one.reason for one in discovery.excluded}
    assert "may not be a step" in listed["epoch-3"] and listed["final"] == "no step in its name"


def test_the_components_of_a_pipeline_are_no_steps(training):
    shutil.copytree(training / "unet", training / "text_encoder_2")
    shutil.rmtree(training / "checkpoint-500")
    shutil.rmtree(training / "checkpoint-1000")
    with pytest.raises(AuditError, match="no step in its name"):
        discover(training, "a")


def remove_weights(folder):
    (folder / WEIGHTS).unlink()


def make_weights_a_folder(folder):
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


def make_config_a_folder(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


def loop_the_config(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("config.json")


UNUSABLE = {
    "no weights": (remove_weights, "does not exist"),
    "weights are a folder": (make_weights_a_folder, "is a folder, not a file"),
    "config is a folder": (make_config_a_folder, "config.json is a folder, not a file"),
    "config is a link loop": (loop_the_config, "symbolic link that leads nowhere"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
    "config is nested absurdly": (lambda f: (f / "config.json").write_text("[" * 100_000), "not valid JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "holds a list"),
    "another class": (
        lambda f: edit_config(f, _class_name="UNet1DModel"),
        "The model class is UNet1DModel; UNet2DModel",
    ),
    "missing keys": (lambda f: edit_config(f, in_channels=None, up_block_types=None), "lacks in_channels, up_block"),
    "no number of classes": (lambda f: edit_config(f, num_class_embeds=-1), "-1 is no number of classes"),
    "class embedding": (lambda f: edit_config(f, class_embed_type="timestep"), "class_embed_type timestep"),
    "channels of no number": (lambda f: edit_config(f, in_channels={}), "with in_channels {} is no image shape"),
    "odd channels": (lambda f: edit_config(f, out_channels=3), "3 channels for 1"),
    "latents without autoencoder": (
        lambda f: edit_config(f, in_channels=4, out_channels=4),
        "no autoencoder is there",
    ),
    "no sample size": (lambda f: edit_config(f, sample_size=None), "Write it into config.json"),
    "an absurd sample size": (lambda f: edit_config(f, sample_size=[8, -8]), "is no image shape"),
}


@pytest.mark.parametrize(("spoil", "reason"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_checkpoint_is_left_out_with_its_reason_and_the_rest_goes_on(spoil, reason, training, unet_folder):
    spoil(unet_folder)
    shutil.rmtree(unet_folder.parent / "unet_ema")
    discovery = discover(training, "a")
    assert [one.step for one in discovery.found] == [1000]
    (excluded,) = [one for one in discovery.excluded if one.step == 500]
    assert excluded.path == unet_folder
    with pytest.raises(CheckpointError, match=reason) as caught:
        inspect(Checkpoint("a", 500, unet_folder, "diffusers", "raw", None))
    assert caught.value.what in excluded.reason


def test_broken_ema_weights_leave_the_raw_ones_usable(training):
    remove_weights(training / "checkpoint-500" / "unet_ema")
    discovery = discover(training, "a")
    assert [set(one.paths) for one in discovery.found] == [{"raw"}, {"raw", "ema"}]
    assert 500 in [one.step for one in discovery.excluded]


def test_a_step_folder_without_a_model_is_listed(training):
    (training / "checkpoint-700").mkdir()
    (training / "checkpoint-800").symlink_to("checkpoint-800")
    (training / "checkpoint-900").write_text("")
    found = reasons(discover(training, "a").excluded)
    assert found["a", 700] == "no unet/ and no config.json in it"
    assert found["a", 800] == "it is a symbolic link that leads nowhere"
    assert found["a", 900] == "it is a file, not a folder"


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", WEIGHTS])
def test_a_hostile_pickle_is_never_executed(name, training, unet_folder, monkeypatch):
    monkeypatch.chdir(training)
    shutil.rmtree(unet_folder.parent / "unet_ema")
    (unet_folder / WEIGHTS).unlink()
    (unet_folder / name).write_bytes(pickle.dumps(Hostile()))
    discovery = discover(training, "a")
    checkpoint = Checkpoint("a", 500, unet_folder, "diffusers", "raw", None)
    for read in (inspect, lambda one: load(one, DDPM, "cpu")):
        with pytest.raises(CheckpointError):
            read(checkpoint)
    assert not Path("executed").exists()
    if name != WEIGHTS:
        assert "runs code when it is read: it calls posix.mkdir" in reasons(discovery.excluded)["a", 500]


def test_a_missing_root_a_file_a_loop_and_an_empty_folder_are_one_clear_error_each(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").mkdir()
    for name, what in {
        "absent": "does not exist",
        "file": "is a file, not a folder",
        "loop": "symbolic link that leads nowhere",
        "empty": "There is no usable checkpoint of twin b.",
    }.items():
        with pytest.raises(AuditError) as caught:
            discover(tmp_path / name, "b")
        assert what in caught.value.what and caught.value.where == str(tmp_path / name)
        assert "checkpoint-500/unet/" in caught.value.remedy


def test_two_folders_of_one_step_are_an_error_that_names_both(training):
    tiny_unet().save_pretrained(training / "step-0500")
    with pytest.raises(AuditError, match=r"step 500: .*checkpoint-500/unet and .*step-0500"):
        discover(training, "a")


class GreedyFormat(DiffusersFormat):
    """A second format that claims every folder of the first."""


def test_two_formats_that_claim_one_path_are_an_error_that_names_both(training, monkeypatch):
    monkeypatch.setitem(registry.FORMATS, "greedy", f"{__name__}:GreedyFormat")
    with pytest.raises(AuditError, match="as diffusers and as greedy"):
        discover(training, "a")


def test_twins_are_aligned_on_common_steps_and_the_rest_is_listed():
    twins = pair(found_in_memory("a", 5, 7, 10), found_in_memory("b", 5, 10, 20))
    assert twins.steps == (5, 10) == tuple(one.step for one in twins.b.checkpoints)
    assert reasons(twins.excluded) == {
        ("a", 7): "no checkpoint at step 7 in twin b",
        ("b", 20): "no checkpoint at step 20 in twin a",
    }


def test_what_discovery_left_out_stays_listed(training, saved):
    twins = pair(discover(training, "a"), discover(saved, "b"))
    assert reasons(twins.excluded) == {(twin, -1): "no step in its name" for twin in "ab"}


def test_steps_keeps_only_these_and_lists_the_others():
    twins = pair(found_in_memory("a", 5, 7, 10), found_in_memory("b", 5, 10), steps=[10, 7])
    assert twins.steps == (10,)
    not_asked = "not asked for (--steps)"
    expected = {("a", 5): not_asked, ("a", 7): "no checkpoint at step 7 in twin b", ("b", 5): not_asked}
    assert reasons(twins.excluded) == expected


def test_asking_for_a_step_that_no_twin_has_lists_the_available_ones():
    with pytest.raises(AuditError, match=r"step 6\.\nwhere: --steps\nto do: Choose from 5, 7, 10\."):
        pair(found_in_memory("a", 5, 7), found_in_memory("b", 5, 10), steps=[5, 6])


def test_no_common_step_is_an_error_with_both_lists_shortened():
    with pytest.raises(AuditError, match=r"a has 0, 1, 2, 3 \.\.\. 98, 99 \(100 steps\); b has 500\."):
        pair(found_in_memory("a", *range(100)), found_in_memory("b", 500))


def test_one_folder_for_both_twins_is_refused():
    a = found_in_memory("a", 5)
    with pytest.raises(AuditError, match="same folder"):
        pair(a, replace(found_in_memory("b", 5), root=a.root))


@pytest.mark.parametrize(
    ("ema_a", "ema_b", "expected"),
    [((5, 10), (5, 10), "ema"), ((), (), "raw"), ((5, 10, 7), (5, 10), "ema"), ((7,), (), "raw")],
)
def test_auto_takes_ema_where_every_common_step_of_both_twins_has_it_and_raw_where_none_has(ema_a, ema_b, expected):
    twins = pair(found_in_memory("a", 5, 7, 10, ema=ema_a), found_in_memory("b", 5, 10, ema=ema_b))
    assert {one.weights for one in twins.a.checkpoints + twins.b.checkpoints} == {expected}
    assert twins.b.at(10).path == Path("b/10-ema" if expected == "ema" else "b/10")


def test_raw_weights_are_said_with_the_reason():
    said = [
        pair(found_in_memory("a", 5, 10, ema=ema), found_in_memory("b", 5, 10, ema=ema), weights).weights
        for ema, weights in [((5, 10), "auto"), ((), "auto"), ((), "raw"), ((5,), "raw")]
    ]
    assert said[0] == "ema weights"
    assert said[1] == said[2] == "raw weights: no audited checkpoint holds EMA weights"
    assert said[3].startswith("raw weights, as asked; EMA weights") and "at 2 of 4 checkpoints" in said[3]


@pytest.mark.parametrize(
    ("ema_a", "ema_b", "told", "ways"),
    [
        ((5, 10), (5,), r"twin a at 2 of 2 steps, twin b at 1 of 2 steps \(not at 10\)", "--steps 5"),
        ((5,), (5,), r"twin a at 1 of 2 steps \(not at 10\), twin b at 1 of 2", "--steps 5"),
        ((5, 10), (), "twin a at 2 of 2 steps, twin b at 0 of 2 steps", "--weights raw"),
        ((5,), (10,), r"\(not at 10\), twin b at 1 of 2 steps \(not at 5\)", "--weights raw"),
        ((10,), (), r"twin a at 1 of 2 steps \(not at 5\), twin b at 0", "--weights raw"),
    ],
)
def test_a_missing_ema_file_never_switches_to_raw_weights_in_silence(ema_a, ema_b, told, ways):
    with pytest.raises(AuditError, match=told) as error:
        pair(found_in_memory("a", 5, 7, 10, ema=ema_a), found_in_memory("b", 5, 10, ema=ema_b))
    assert ways in error.value.remedy and "--weights raw" in error.value.remedy


def test_a_missing_ema_file_of_one_training_alone_is_refused_too():
    with pytest.raises(AuditError, match=r"twin a at 1 of 2 steps \(not at 10\)"):
        pair(found_in_memory("a", 5, 10, ema=(5,)), None)
    assert pair(found_in_memory("a", 5, 10, ema=(5,)), None, steps=[5]).a.at(5).weights == "ema"


def test_raw_weights_are_no_way_out_where_a_step_has_none():
    a, b = found_in_memory("a", 5, 10, ema=(5,)), found_in_memory("b", 5, 10, ema=(5, 10))
    only_ema = replace(a.found[0], paths={"ema": Path("a/5-ema")})
    with pytest.raises(AuditError) as error:
        pair(replace(a, found=(only_ema, *a.found[1:])), b)
    assert "--steps 5" in error.value.remedy and "--weights raw" not in error.value.remedy


@pytest.mark.parametrize("twins", [("a",), ("a", "b")])
@pytest.mark.parametrize("spoil", [remove_weights, shutil.rmtree])
def test_ema_weights_that_are_gone_or_broken_at_one_step_are_refused_and_taken_where_the_step_is_left_out(
    training, saved, tmp_path, twins, spoil
):
    """``training`` has unet_ema at each step; one of them is lost on the way to the audit, in one twin or both."""
    given = {"a": training, "b": Path(shutil.copytree(saved, tmp_path / "b"))}
    for twin in twins:
        spoil(given[twin] / "checkpoint-500" / "unet_ema")
    a, b = (discover(given[twin], twin) for twin in "ab")
    with pytest.raises(AuditError, match=r"Some checkpoints have EMA weights and some have not.*not at 500"):
        pair(a, b)
    assert pair(a, b, steps=[1000]).weights == "ema weights"
    assert pair(a, b, "raw").weights.startswith("raw weights, as asked; EMA weights")


@pytest.mark.parametrize(("spoil", "raw"), [(remove_weights, False), (shutil.rmtree, True)])
def test_ema_weights_that_are_broken_at_every_step_are_refused_and_those_that_never_were_are_not(training, spoil, raw):
    for folder in training.glob("checkpoint-*/unet_ema"):
        spoil(folder)
    found = discover(training, "a")
    if raw:
        assert pair(found, None).weights == "raw weights: no audited checkpoint holds EMA weights"
        return
    with pytest.raises(AuditError, match=r"EMA weights are there and cannot be used: .*unet_ema"):
        pair(found, None)


def test_asking_for_weights_that_a_step_lacks_names_the_first_such_step():
    with pytest.raises(AuditError, match="Twin b has no ema weights at step 10"):
        pair(found_in_memory("a", 5, 10, 20, ema=(5, 10, 20)), found_in_memory("b", 5, 10, 20, ema=(5,)), "ema")
    with pytest.raises(AuditError, match="no weights called 'best'"):
        pair(found_in_memory("a", 5), found_in_memory("b", 5), "best")


def test_the_digest_is_the_sha256_of_configuration_and_weights(checkpoint):
    concatenated = f"cat {checkpoint.path}/config.json {checkpoint.path}/{WEIGHTS} | sha256sum"
    expected = subprocess.check_output(concatenated, shell=True, text=True).split()[0]
    assert inspect(checkpoint) == replace(checkpoint, digest=expected)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 5000, -1])
def test_truncated_weights_are_one_bad_checkpoint(keep, checkpoint):
    path = checkpoint.path / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="truncated|corrupt") as caught:
        inspect(checkpoint)
    assert caught.value.where == str(path)


def test_a_lying_header_length_is_refused_by_the_size_of_the_file(checkpoint):
    path = checkpoint.path / WEIGHTS
    path.write_bytes(struct.pack("<Q", 50 * 2**30) + path.read_bytes()[8:])
    with pytest.raises(CheckpointError, match="with a header of 53687091200 bytes"):
        inspect(checkpoint)


@pytest.mark.parametrize("position", [0, 8, 12, 40, 60])
def test_a_flipped_bit_in_the_header_is_one_bad_checkpoint(position, checkpoint):
    path = checkpoint.path / WEIGHTS
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        inspect(checkpoint)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(value, checkpoint):
    edit_weights(checkpoint.path, lambda tensors: tensors["conv_in.weight"].view(-1)[3].fill_(value))
    with pytest.raises(CheckpointError, match="conv_in.weight hold NaN or infinite"):
        inspect(checkpoint)


def test_weights_in_another_number_type_are_refused(checkpoint):
    edit_weights(checkpoint.path, lambda tensors: tensors.update({"conv_in.bias": torch.zeros(8, dtype=torch.int64)}))
    with pytest.raises(CheckpointError, match=r"conv_in.bias are torch.int64"):
        inspect(checkpoint)


MISFITS = {
    "another width": (lambda f: edit_config(f, block_out_channels=[8, 32]), "do not fit config.json: .*is .* in the"),
    "a tensor missing": (lambda f: edit_weights(f, lambda t: t.pop("conv_out.bias")), "conv_out.bias is absent in"),
    "a tensor too many": (lambda f: edit_weights(f, lambda t: t.update(x=torch.zeros(1))), "x is .1,. in the file"),
    "an unknown block": (lambda f: edit_config(f, down_block_types=["Odd", "Odd"]), "no network that diffusers can"),
    "zero groups": (lambda f: edit_config(f, norm_num_groups=0), "no network that diffusers can build"),
    "text for a number": (lambda f: edit_config(f, layers_per_block="1"), "no network that diffusers can build"),
    "an odd image size": (lambda f: edit_config(f, sample_size=7), "fails on an image of its size 7 x 7"),
    "a newer setting": (lambda f: edit_config(f, gated_skips=True), "unknown to the installed diffusers: gated_skips"),
}


@pytest.mark.parametrize(("spoil", "message"), MISFITS.values(), ids=MISFITS)
def test_weights_that_do_not_fit_the_configuration_are_one_bad_checkpoint(spoil, message, checkpoint):
    spoil(checkpoint.path)
    for read in (inspect, lambda one: load(one, DDPM, "cpu")):
        with pytest.raises(CheckpointError, match=message):
            read(checkpoint)


def test_files_that_change_after_inspection_are_noticed_at_loading(checkpoint):
    inspected = inspect(checkpoint)
    edit_weights(checkpoint.path, lambda tensors: tensors["conv_in.bias"].add_(1))
    with pytest.raises(CheckpointError, match="changed after they were first read"):
        load(inspected, DDPM, "cpu")


@pytest.mark.parametrize("kind", ["unet", "unet_ema"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_loading_gives_what_from_pretrained_gives(kind, dtype, training):
    folder = training / "checkpoint-500" / kind
    edit_weights(folder, lambda tensors: tensors.update({name: one.to(dtype) for name, one in tensors.items()}))
    reference = UNet2DModel.from_pretrained(folder, low_cpu_mem_usage=False).float()
    model = load(Checkpoint("a", 500, folder, "diffusers", "raw", None), DDPM, "cpu")
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 40, 99])
    with torch.no_grad():
        assert torch.equal(model.network(x, t), reference(x, t).sample)
    assert model.n_parameters == reference.num_parameters()


def test_loading_says_nothing_where_from_pretrained_does(training, caplog):
    folder = training / "checkpoint-500" / "unet_ema"
    # diffusers keeps the stderr it was imported with and does not propagate, so listen at its own logger.
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        UNet2DModel.from_pretrained(folder)
        assert caplog.records
        caplog.clear()
        load(inspect(Checkpoint("a", 500, folder, "diffusers", "ema", None)), DDPM, "cpu")
        assert not caplog.records
    finally:
        logger.removeHandler(caplog.handler)


def test_dropout_is_off_in_a_loaded_network(tmp_path):
    tiny_unet(dropout=0.5).save_pretrained(tmp_path)
    model = load(Checkpoint("a", 1, tmp_path, "diffusers", "raw", None), DDPM, "cpu")
    x, t = torch.randn(1, 1, 8, 8), torch.tensor([3])
    assert torch.equal(model.network(x, t), model.network(x, t))


def test_attention_weights_under_their_old_names_are_read(tmp_path):
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "attention_head_dim": 8}
    tiny_unet(**blocks).save_pretrained(tmp_path)
    checkpoint = Checkpoint("a", 1, tmp_path, "diffusers", "raw", None)
    x, t = torch.randn(1, 1, 8, 8), torch.tensor([3])
    expected = load(checkpoint, DDPM, "cpu").network(x, t)
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def rename(tensors):
        for new, name in old.items():
            for key in [key for key in tensors if new in key]:
                tensors[key.replace(new, name)] = tensors.pop(key)

    edit_weights(tmp_path, rename)
    assert inspect(checkpoint).digest
    assert torch.equal(load(checkpoint, DDPM, "cpu").network(x, t), expected)


@pytest.mark.parametrize(("size", "shape"), [(8, (8, 8, 1)), ([8, 16], (8, 16, 1))])
def test_the_image_shape_is_height_width_channels(size, shape, checkpoint):
    edit_config(checkpoint.path, sample_size=size)
    facts = model_facts(checkpoint)
    assert (facts.image_shape, facts.model, facts.conditioning) == (shape, "UNet2DModel", "none")


def test_the_ddpm_schedule_is_the_default_of_diffusers():
    saved = json.loads(DDPMScheduler().to_json_string())
    saved.pop("_diffusers_version")
    assert saved == DDPM


def test_the_saved_scheduler_is_returned_and_an_override_wins(training, checkpoint, tmp_path):
    checkpoint = replace(checkpoint, scheduler=training / "scheduler" / "scheduler_config.json")
    assert scheduler_config(checkpoint, None)["num_train_timesteps"] == 100
    assert scheduler_config(checkpoint, "ddpm") == DDPM
    DDIMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path / "other")
    path = str(tmp_path / "other" / "scheduler_config.json")
    assert scheduler_config(checkpoint, path)["prediction_type"] == "v_prediction"


def test_no_saved_scheduler_is_an_error_that_says_what_ddpm_would_assume(checkpoint):
    with pytest.raises(AuditError, match="--scheduler ddpm, which assumes the 1000-step linear DDPM schedule"):
        scheduler_config(checkpoint, None)


def test_an_old_scheduler_without_prediction_type_means_epsilon(checkpoint, tmp_path):
    old = {key: value for key, value in DDPM.items() if key not in ("prediction_type", "rescale_betas_zero_snr")}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(old))
    assert scheduler_config(checkpoint, str(path))["prediction_type"] == "epsilon"
    path.write_text(json.dumps({**old, "predict_epsilon": False}))
    assert scheduler_config(checkpoint, str(path))["prediction_type"] == "sample"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ('{"_class_name": "VQDiffusionScheduler", "num_train_timesteps": 1000}', "beta_schedule is None"),
        (
            '{"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": true}',
            "depend on the image size",
        ),
        ('{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 0}', "shift is 0"),
        ('{"_class_name": "EDMEulerScheduler", "num_train_timesteps": 1000}', "preconditions raw networks"),
        (json.dumps({**DDPM, "beta_schedule": "sigmoid"}), "beta_schedule is sigmoid"),
        (json.dumps({**DDPM, "prediction_type": "flow"}), "prediction_type is flow"),
        (json.dumps({**DDPM, "num_train_timesteps": None}), "num_train_timesteps is None"),
        (json.dumps({**DDPM, "trained_betas": [0.1]}), "trained_betas is no list of 1000"),
        (json.dumps({**DDPM, "beta_end": "high"}), "a beta is high"),
    ],
)
def test_a_scheduler_that_is_no_ddpm_schedule_is_refused(content, message, checkpoint, tmp_path):
    (tmp_path / "scheduler.json").write_text(content)
    with pytest.raises(AuditError, match=message):
        scheduler_config(checkpoint, str(tmp_path / "scheduler.json"))


def test_a_scheduler_file_that_is_not_there_is_an_error(checkpoint):
    with pytest.raises(
        AuditError, match=r"'ddmp' is not there: it does not exist.\nwhere: --scheduler\nto do: Give ddpm"
    ):
        scheduler_config(checkpoint, "ddmp")


def twins_on_disk(training, tmp_path, name="b"):
    b = tmp_path / name
    shutil.copytree(training, b)
    return b, lambda: pair(discover(training, "a"), discover(b, "b"))


def test_compatible_twins_give_their_shape_and_schedule(training, tmp_path):
    _, twins = twins_on_disk(training, tmp_path)
    assert twins().a.at(500).weights == "ema"  # whose configuration also carries decay and optimization_step
    facts, config = check_compatible(twins(), None)
    assert facts.image_shape == (8, 8, 1) and config["num_train_timesteps"] == 100
    assert check_compatible(twins(), "ddpm")[1] == DDPM


def test_another_image_shape_names_twin_step_and_both_values(training, tmp_path):
    b, twins = twins_on_disk(training, tmp_path)
    edit_config(b / "checkpoint-1000" / "unet_ema", sample_size=16)
    message = r"image_shape: \(8, 8, 1\) at a/step-500, \(16, 16, 1\) at b/step-1000"
    with pytest.raises(AuditError, match=message):
        check_compatible(twins(), None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction_type": "v_prediction"}, "prediction_type: 'epsilon' at a/step-500, 'v_prediction' at b/step-500"),
        ({"num_train_timesteps": 1000}, "num_train_timesteps: 100 at a/step-500, 1000 at b"),
        ({"beta_end": 0.01}, "beta_end: 0.02 at a/step-500, 0.01 at b"),
        ({"trained_betas": [0.1] * 100}, r"trained_betas: None at a/step-500, \[0.1, 0.1, .*\.\.\.\] at b"),
    ],
)
def test_another_schedule_names_twin_step_and_both_values(change, message, training, tmp_path):
    b, twins = twins_on_disk(training, tmp_path)
    path = b / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(AuditError, match=message):
        check_compatible(twins(), None)
    assert check_compatible(twins(), "ddpm")[1] == DDPM


def test_a_scheduler_class_that_differs_without_changing_the_schedule_is_accepted(training, tmp_path):
    b, twins = twins_on_disk(training, tmp_path)
    DDIMScheduler(num_train_timesteps=100).save_pretrained(b / "scheduler")
    assert check_compatible(twins(), None)[1]["_class_name"] == "DDPMScheduler"
