"""Malformed and hostile checkpoints: one clear error or one excluded item each; never a traceback, a hang, or code."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import trained
from edits import edit_json
from hostile import Hostile
from repository import FIXTURES
from safetensors.torch import save_file
from series import FACTORY, SHAPE, Case, checkpoint_of, copied

from auditor.checkpoints import ModelSettings, discover, inspect, load, model_facts, names, scheduler_config
from auditor.checkpoints.headers import read_header
from auditor.errors import AuditError, CheckpointError
from auditor.inputs.scan import scan
from auditor.records import Checkpoint

PLAIN = ModelSettings(model=FACTORY, image_shape=SHAPE)
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".safetensors", "")


class HostileState:
    """Unpickling it calls ``__setstate__``, a second door."""

    def __setstate__(self, state):
        os.mkdir("executed too")

    def __getstate__(self):
        return {"x": 1}


def as_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": Hostile(), "ema": HostileState()}))


def as_torch(path: Path) -> None:
    state = trained.TinyNet().state_dict()
    torch.save({"model": state, "ema": state, "step": 7, "args": Hostile(), "more": HostileState()}, path)


def as_old_torch(path: Path) -> None:
    state = {"model": trained.TinyNet().state_dict(), "args": Hostile()}
    torch.save(state, path, _use_new_zipfile_serialization=False)


def inside_tensors(path: Path) -> None:
    """The pickle of a module, which torch itself would read by running its classes."""
    torch.save(trained.TinyNet(), path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, pickle.dumps(Hostile(), 2) if name.endswith("data.pkl") else data)


WRITERS = (as_pickle, as_torch, as_old_torch, inside_tensors)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_hostile_pickle_in_any_accepted_suffix_is_never_run(suffix, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    series = tmp_path / "series"
    series.mkdir()
    path = series / f"model_7{suffix}"
    write(path)
    for settings in (ModelSettings(), PLAIN, ModelSettings(format="edm"), ModelSettings(format="dit")):
        for read in (lambda: discover(series, "a", settings), lambda: scan([series], settings)):
            with pytest.raises(AuditError):
                read()
        for weights in ("raw", "ema"):
            checkpoint = Checkpoint("a", 7, path, settings.format or "plain", weights, None)
            with pytest.raises(AuditError):
                inspect(checkpoint, settings)
            with pytest.raises(AuditError):
                load(checkpoint, {"prediction_type": "epsilon", "num_train_timesteps": 10}, "cpu", settings)
    assert not list(tmp_path.rglob("executed*"))


@pytest.mark.parametrize("write", WRITERS)
def test_the_refusal_names_what_would_run(write, tmp_path):
    write(tmp_path / "model_7.pt")
    with pytest.raises(AuditError, match=r"posix\.mkdir[\s\S]*--trust-pickle"):
        discover(tmp_path, "a", PLAIN)


def test_trusting_a_pickle_runs_it(tmp_path, monkeypatch):
    """The flag does what it says: otherwise the refusals above would prove nothing."""
    monkeypatch.chdir(tmp_path)
    as_torch(tmp_path / "model_7.pt")
    trusting = ModelSettings(model=FACTORY, image_shape=SHAPE, trust_pickle=True)
    (found,) = discover(tmp_path, "a", trusting).found
    assert not Path("executed").exists()  # finding reads headers only, even then
    inspect(Checkpoint("a", 7, found.paths["raw"], "plain", "raw", None), trusting)
    assert Path("executed").is_dir()


def test_the_command_lines_and_configurations_that_trainers_save_are_read_as_data(tmp_path):
    import argparse
    from collections import defaultdict

    state = trained.TinyNet().state_dict()
    more = {"args": argparse.Namespace(lr=0.1), "where": Path("x"), "log": defaultdict(list, a=[1])}
    torch.save({"model": state, "step": 7, **more}, tmp_path / "model_7.pt")
    (found,) = discover(tmp_path, "a", PLAIN).found
    assert inspect(Checkpoint("a", 7, found.paths["raw"], "plain", "raw", None), PLAIN).digest


# ---------------------------------------------------------------------------
# Files that are not what their names say
# ---------------------------------------------------------------------------


def header_of_a_terabyte(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**40) + b"{}")


def header_as_long_as_allowed_but_absent(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 99_999_999) + b"{}" * 10)


def with_header(header: str) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(64))


def of_pickle(data: bytes) -> Callable[[Path], None]:
    """Return a writer of an archive of torch whose structure is ``data``."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model_7/data.pkl", data)
            archive.writestr("model_7/version", "3")

    return write


def compressed(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model_7/data.pkl", b"N." + bytes(80 * 2**20))


def many_entries(path: Path) -> None:
    """An archive whose end record claims a list of files of four gigabytes."""
    of_pickle(b"N.")(path)
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x05\x06")
    data[at + 12 : at + 16] = struct.pack("<L", 0xFFFFFFF0)
    path.write_bytes(data)


def climbing(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../data.pkl", b"N.")


def two_structures(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a/data.pkl", "b/data.pkl"):
            archive.writestr(name, b"N.")


def truncated_torch(path: Path) -> None:
    torch.save({"model": trained.TinyNet().state_dict()}, path)
    path.write_bytes(path.read_bytes()[:1500])


def other_network(path: Path) -> None:
    torch.save({"model": trained.TinyNet(width=5).state_dict()}, path)


def other_names(path: Path) -> None:
    torch.save({f"x{name}x": one for name, one in trained.TinyNet().state_dict().items()}, path)


def of_state(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        state = dict(trained.TinyNet().state_dict())
        change(state)
        torch.save(state, path)

    return write


def huge_view(state: dict) -> None:
    """One number, seen as a trillion: memory must not follow."""
    state["first.bias"] = torch.zeros(1).expand(10**12)


def folder(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def pipe(path: Path) -> None:
    os.mkfifo(path)


NESTED = b"\x80\x02" + b"]" * 200_000 + b"."
SELF = b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s."  # a dictionary that holds itself
FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (lambda path: path.write_bytes(b""), ".pt"),
    "empty safetensors": (lambda path: path.write_bytes(b""), ".safetensors"),
    "text": (lambda path: path.write_text("weights"), ".pt"),
    "git-lfs pointer": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid"),
        ".safetensors",
    ),
    "a picture": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), ".ckpt"),
    "zeros": (lambda path: path.write_bytes(bytes(5000)), ".bin"),
    "a folder": (folder, ".pt"),
    "a link loop": (loop, ".pt"),
    "a dangling link": (dangling, ".safetensors"),
    "a named pipe": (pipe, ".pt"),
    "a header of a terabyte": (header_of_a_terabyte, ".safetensors"),
    "a header longer than the file": (header_as_long_as_allowed_but_absent, ".safetensors"),
    "a header that is no JSON": (with_header("{"), ".safetensors"),
    "a header nested absurdly": (with_header("[" * 90_000), ".safetensors"),
    "a header that is a list": (with_header("[]"), ".safetensors"),
    "a header without shapes": (with_header('{"a": {"dtype": "F32"}}'), ".safetensors"),
    "a header of wrong shapes": (
        with_header('{"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}'),
        ".safetensors",
    ),
    "offsets beyond the file": (
        with_header('{"first.bias": {"dtype": "F32", "shape": [8], "data_offsets": [0, 99999]}}'),
        ".safetensors",
    ),
    "a truncated archive": (truncated_torch, ".pt"),
    "a compressed archive": (compressed, ".pt"),
    "a list of files of gigabytes": (many_entries, ".pt"),
    "a path that climbs": (climbing, ".pt"),
    "two structures": (two_structures, ".pth"),
    "an archive of something else": (lambda path: zipfile.ZipFile(path, "w").writestr("x", "y"), ".ckpt"),
    "no structure": (of_pickle(b""), ".pt"),
    "a structure without end": (of_pickle(b"\x80\x02}q\x00"), ".pt"),
    "a structure of nothing": (of_pickle(b"\x80\x02N."), ".pt"),
    "a structure nested absurdly": (of_pickle(NESTED), ".pt"),
    "a structure that holds itself": (of_pickle(SELF), ".pt"),
    "an absurd memory index": (of_pickle(b"\x80\x02Nr\xff\xff\xff\xff."), ".pt"),
    "text of a terabyte": (of_pickle(b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x."), ".pt"),
    "bytes of a terabyte": (of_pickle(b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"."), ".pt"),
    "an unknown opcode": (of_pickle(b"\x80\x02\xfe."), ".pt"),
    "an empty stack": (of_pickle(b"\x80\x020."), ".pt"),
    "another network": (other_network, ".pt"),
    "other names": (other_names, ".pt"),
    "a weight missing": (of_state(lambda state: state.pop("last.bias")), ".pt"),
    "a weight too many": (of_state(lambda state: state.update(more=torch.zeros(1))), ".pt"),
    "NaN": (of_state(lambda state: state["last.bias"].fill_(float("nan"))), ".pt"),
    "infinity": (of_state(lambda state: state["last.bias"].fill_(float("inf"))), ".pth"),
    "whole numbers": (of_state(lambda state: state.update({"last.bias": torch.zeros(2, dtype=torch.int8)})), ".pt"),
    "a view of a trillion": (of_state(huge_view), ".pt"),
    "no weights": (lambda path: torch.save({"epoch": 3, "log": [1, 2]}, path), ".pt"),
    "a list of weights": (lambda path: torch.save([torch.zeros(3)], path), ".pt"),
    "one weight": (lambda path: torch.save(torch.zeros(3), path), ".pt"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_malformed_file_is_excluded_or_one_clear_error_and_the_rest_goes_on(name, tmp_path):
    write, suffix = FILES[name]
    torch.save(trained.TinyNet().state_dict(), tmp_path / "model_9.pt")
    path = tmp_path / f"model_7{suffix}"
    write(path)
    started = time.monotonic()
    discovery = discover(tmp_path, "a", PLAIN)
    listed = [one.reason for one in discovery.excluded if one.step == 7 or one.path.name == path.name]
    assert 9 in [one.step for one in discovery.found]
    scan([tmp_path], PLAIN, "ddpm")
    if 7 in [one.step for one in discovery.found]:
        checkpoint = Checkpoint("a", 7, path, "plain", "raw", None)
        with pytest.raises(CheckpointError) as caught:
            inspect(checkpoint, PLAIN)
        assert caught.value.what and "Traceback" not in str(caught.value)
    elif name != "a folder":  # a folder called like a file is no file of weights at all
        assert listed and all(listed)
    assert time.monotonic() - started < 20


def placed(offsets: str, kind: str = '"F32"') -> str:
    """Return a header of safetensors with a LoRA layer and an alpha that lies where one says."""
    layer = {name: {"dtype": "F32", "shape": shape, "data_offsets": at} for name, shape, at in LAYER}
    place = f', "data_offsets": {offsets}' if offsets else ""
    return json.dumps(layer)[:-1] + f', "x.alpha": {{"dtype": {kind}, "shape": []{place}}}}}'


LAYER = (("x.lora_down.weight", [1, 2], [0, 8]), ("x.lora_up.weight", [2, 1], [8, 16]))
PLACES = ("[-4, 0]", "[0, -4]", "[4, 0]", "[60, 68]", f"[{2**62}, {2**62 + 4}]", f"[{2**70}, {2**70 + 4}]", "")
PLACES += (
    "null",
    "[null, 4]",
    '["0", "4"]',
    '"04"',
    "[0.0, 4.0]",
    "[false, true]",
    "{}",
    '{"0": 0, "4": 4}',
    "[0, 2, 4]",
)
PLACES += ("[16, 16]", "[16, 18]", "4", "[[0], [4]]", "[1e999, 4]")
HEADERS = {f"at {place or 'no place'}": placed(place) for place in PLACES}
HEADERS |= {f"of type {kind}": placed("[16, 20]", kind) for kind in ('["F32"]', "null", "4", "{}")}
HEADERS["of endless shape"] = placed("[16, 20]").replace('"shape": []', '"shape": [1e999]')


@pytest.mark.parametrize("name", HEADERS)
def test_a_tensor_that_lies_nowhere_in_its_file_is_one_excluded_item(name, tmp_path):
    base = trained.stable_diffusion(tmp_path / "base")
    settings = ModelSettings(base=str(base))
    root = tmp_path / "series"
    root.mkdir()
    with_header(placed("[16, 20]"))(root / "face-step00000009.safetensors")
    path = root / "face-step00000007.safetensors"
    with_header(HEADERS[name])(path)
    discovery = discover(root, "a", settings)
    assert [one.step for one in discovery.found] == [9]
    ((excluded, reason),) = [(one.path, one.reason) for one in discovery.excluded]
    assert excluded == path and reason.startswith(f"{path.name} is corrupt: its header is ")
    (scanned,) = scan([root], settings)
    assert scanned.steps == (9,) and [one["reason"] for one in scanned.excluded] == [reason]
    path.rename(root / "face-step00000009.safetensors")
    with pytest.raises(AuditError, match="is corrupt: its header is "):
        scan([root], settings)


def test_a_step_of_more_digits_than_any_training_counts_is_no_step(tmp_path):
    """A table could not hold it; of 5,000 digits Python would not even read a number."""
    torch.save(trained.TinyNet().state_dict(), tmp_path / "model_9.pt")
    torch.save(trained.TinyNet().state_dict(), tmp_path / f"model_{'7' * 30}.pt")
    torch.save({"model": trained.TinyNet().state_dict(), "step": 10**40}, tmp_path / "last.pt")
    save_file(trained.TinyNet().state_dict(), tmp_path / "x.safetensors", {"ss_steps": "8" * 5000})
    discovery = discover(tmp_path, "a", PLAIN)
    assert [one.step for one in discovery.found] == [9]
    assert [one.reason for one in discovery.excluded] == ["no step in its name, nor in it"] * 3


def test_a_folder_that_cannot_be_listed_is_one_clear_error(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(names.os, "scandir", refused)
    with pytest.raises(AuditError, match="cannot be listed: .*Permission denied"):
        discover(tmp_path, "a", PLAIN)


def test_a_file_that_cannot_be_read_is_left_out(tmp_path, monkeypatch):
    torch.save(trained.TinyNet().state_dict(), tmp_path / "model_7.pt")
    torch.save(trained.TinyNet().state_dict(), tmp_path / "model_9.pt")
    opened = Path.open

    def refused(self, *given, **settings):
        if self.name == "model_7.pt":
            raise PermissionError(13, "Permission denied")
        return opened(self, *given, **settings)

    monkeypatch.setattr(Path, "open", refused)
    discovery = discover(tmp_path, "a", PLAIN)
    assert [one.step for one in discovery.found] == [9]
    assert "cannot be read: Permission denied" in discovery.excluded[0].reason


def test_links_to_folders_are_not_followed_so_that_loops_end(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "again").symlink_to(tmp_path, target_is_directory=True)
    torch.save(trained.TinyNet().state_dict(), tmp_path / "a" / "b" / "model_7.pt")
    discovery = discover(tmp_path, "a", PLAIN)
    assert discovery.root == tmp_path / "a" / "b" and discovery.found[0].step == 7


def test_a_search_without_end_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "MAX_ENTRIES", 10)
    for i in range(11):
        (tmp_path / f"{i}.png").write_text("")
    with pytest.raises(AuditError, match="stopped at 10 files"):
        discover(tmp_path, "a", PLAIN)


# ---------------------------------------------------------------------------
# Folders of diffusers
# ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return trained.stable_diffusion(tmp_path_factory.mktemp("malformed") / "base")


def unet_of(base: Path, tmp_path: Path) -> Path:
    return copied(base / "unet", tmp_path / "series" / "checkpoint-7" / "unet")


def read(unet: Path, base: Path | None) -> None:
    settings = ModelSettings(base=str(base) if base else None)
    checkpoint = Checkpoint("a", 7, unet, "diffusers", "raw", None)
    inspect(checkpoint, settings)


def shards(unet: Path, table: object) -> None:
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    (unet / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def edit(folder: Path, **changes: object) -> None:
    edit_json(folder / "config.json", **changes)


FOLDERS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "a shard outside the folder": (
        lambda unet, base: shards(unet, {"a": "../../secret.safetensors"}),
        "names no shards",
    ),
    "an absolute shard": (lambda unet, base: shards(unet, {"a": "/etc/passwd"}), "names no shards"),
    "no shards": (lambda unet, base: shards(unet, {}), "names no shards"),
    "shards as a list": (lambda unet, base: shards(unet, ["a"]), "names no shards"),
    "a shard missing": (
        lambda unet, base: shards(unet, {"a": "one.safetensors"}),
        "The shard one.safetensors does not",
    ),
    "ten million layers": (lambda unet, base: edit(unet, layers_per_block=10**7), "layers_per_block is 10000000"),
    "a configuration of gigabytes": (
        lambda unet, base: os.truncate(unet / "config.json", 2**33),
        "more than any configuration",
    ),
    "two text encoders": (lambda unet, base: edit(unet, addition_embed_type="text_time"), "more than one text encoder"),
    "another width of text": (lambda unet, base: edit(unet, cross_attention_dim=16), "do not fit config.json"),
    "an autoencoder of other latents": (
        lambda unet, base: edit(base / "vae", latent_channels=3),
        "takes 4 channels, the autoencoder 3",
    ),
    "an autoencoder of no class": (
        lambda unet, base: edit(base / "vae", _class_name="Other"),
        "The model class is Other",
    ),
    "no text encoder": (lambda unet, base: shutil.rmtree(base / "text_encoder"), "no text_encoder/ and tokenizer/"),
    "no autoencoder": (lambda unet, base: shutil.rmtree(base / "vae"), "no autoencoder is there"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_malformed_folder_is_one_clear_error(name, base, tmp_path):
    spoil, message = FOLDERS[name]
    own = copied(base, tmp_path / "base")
    unet = unet_of(base, tmp_path)
    spoil(unet, own)
    with pytest.raises(CheckpointError, match=message):
        read(unet, own)


def test_shards_and_half_precision_and_bin_give_the_same_network_as_one_file(base, tmp_path):
    from diffusers import UNet2DConditionModel
    from safetensors.torch import load_file

    network = UNet2DConditionModel.from_pretrained(base / "unet")
    series = tmp_path / "series"
    network.save_pretrained(series / "checkpoint-1" / "unet")
    network.save_pretrained(series / "checkpoint-2" / "unet", max_shard_size="10KB")
    network.save_pretrained(series / "checkpoint-3" / "unet", safe_serialization=False)
    network.half().save_pretrained(series / "checkpoint-4" / "unet", variant="fp16")
    assert (series / "checkpoint-2" / "unet" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    assert (series / "checkpoint-3" / "unet" / "diffusion_pytorch_model.bin").is_file()
    assert (series / "checkpoint-4" / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    case = Case(series, ModelSettings(base=str(base)))
    outputs = []
    for at in range(4):
        checkpoint = checkpoint_of("diffusers", case, at)
        model = load(checkpoint, scheduler_config(checkpoint, None, case.settings), "cpu", case.settings)
        x = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            outputs.append(model.network(x, torch.tensor([5, 500])))
        assert model_facts(checkpoint, case.settings).parameters == network.num_parameters()
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
    torch.testing.assert_close(outputs[0], outputs[3], rtol=5e-2, atol=5e-3)
    assert load_file(series / "checkpoint-4" / "unet" / "diffusion_pytorch_model.fp16.safetensors")


def test_a_lora_of_which_a_weight_finds_no_place_is_refused_not_filled_with_random_numbers(base, tmp_path):
    from safetensors.torch import load_file

    root = trained.lora(tmp_path / "a", base, 1)
    path = root / "checkpoint-2" / "pytorch_lora_weights.safetensors"
    tensors = load_file(path)
    name = next(each for each in tensors if "down" in each)
    tensors[name.replace("attn1", "attnX")] = tensors.pop(name)
    save_file(tensors, path)
    case = Case(root, ModelSettings(base=str(base)))
    with pytest.raises(CheckpointError, match="1 of 64 weights of the LoRA find no place|does not fit the base"):
        inspect(checkpoint_of("lora", case), case.settings)


# ---------------------------------------------------------------------------
# Random damage
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_random_damage_to_a_file_ends_in_an_error_of_ours_or_in_a_network(seed, tmp_path):
    rng = random.Random(seed)
    short = rng.choice(["dit", "lightning", "sit"])
    root = copied(FIXTURES / short, tmp_path / "series")
    settings = PLAIN if short == "lightning" else ModelSettings()
    path = next(one for one in root.iterdir() if one.suffix in (".pt", ".ckpt"))
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 4, 30])):
        data[rng.randrange(rng.choice([200, 4000, len(data)]))] ^= 1 << rng.randrange(8)
    path.write_bytes(data if rng.random() < 0.8 else data[: rng.randrange(len(data))])
    try:
        discovery = discover(root, "a", settings)
        for one in discovery.found:
            kind = next(iter(one.paths))
            checkpoint = Checkpoint("a", one.step, one.paths[kind], discovery.format, kind, None, unit=one.unit)
            model_facts(checkpoint, settings)
            config = scheduler_config(checkpoint, "ddpm" if settings.model else None, settings)
            load(inspect(checkpoint, settings), config, "cpu", settings)
    except AuditError as error:
        assert error.what


def test_the_interpreter_of_pickles_builds_what_torch_builds(tmp_path):
    content = {
        "model": trained.TinyNet().state_dict(),
        "step": 70_000,
        "lr": 0.5,
        "name": "x" * 300,
        "nested": {"list": [1, (2, 3), None, True], 5: "five"},
        "view": torch.arange(12.0).view(3, 4)[:, 1:3],
    }
    for old in (True, False):
        torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
        found = read_header(tmp_path / "x.pt").content
        assert {key: found[key] for key in ("step", "lr", "name", "nested")} == {
            "step": 70_000,
            "lr": 0.5,
            "name": "x" * 300,
            "nested": {"list": [1, (2, 3), None, True], 5: "five"},
        }
        shapes = {name: one.shape for name, one in found["model"].items()}
        assert shapes == {name: tuple(one.shape) for name, one in content["model"].items()}
        assert found["view"].shape == (3, 2) and found["view"].offset == 1
        (tmp_path / "x.pt").unlink()


def test_every_protocol_of_pickle_is_followed(tmp_path):
    content = {"a": [1, 2.5, "text", b"bytes", None, (True, False), {"x": {3}}], "b": 2**70, "c": -5}
    for protocol in range(6):
        (tmp_path / f"{protocol}.pkl").write_bytes(pickle.dumps(content, protocol))
        if protocol < 2:
            continue  # without a mark at their beginning these are no file of weights
        found = read_header(tmp_path / f"{protocol}.pkl").content
        assert found["b"] == 2**70 and found["c"] == -5
        assert found["a"][:6] == [1, 2.5, "text", found["a"][3], None, (True, False)]
