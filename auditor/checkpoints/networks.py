"""Networks of diffusers from a folder: ``config.json`` beside weights in one file, in shards, or in half precision.

The network is built from its class and filled by us rather than by ``from_pretrained``: that prints advice at every
load, fills missing weights with random ones and only warns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from inspect import signature
from pathlib import Path
from typing import Any

from auditor.checkpoints import files, weights
from auditor.checkpoints.configs import absence, read_json
from auditor.checkpoints.headers import SAVE_AGAIN, read_header, tensors_in
from auditor.errors import CheckpointError

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
SHARDS = "diffusion_pytorch_model.safetensors.index.json"
# What may hold the weights, the best first.
SINGLE = (WEIGHTS, "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin")
INDEXED = (SHARDS, "diffusion_pytorch_model.fp16.safetensors.index.json", "diffusion_pytorch_model.bin.index.json")
UNET = ("in_channels", "out_channels", "block_out_channels", "down_block_types", "up_block_types", "layers_per_block")
# Without these a class falls back to the defaults of another network.
REQUIRED = {
    "UNet2DModel": UNET,
    "UNet2DConditionModel": (*UNET, "cross_attention_dim"),
    "DiTTransformer2DModel": (
        *("in_channels", "num_layers", "num_attention_heads", "attention_head_dim", "patch_size"),
        *("sample_size", "num_embeds_ada_norm"),
    ),
    "AutoencoderKL": (*UNET, "latent_channels"),
    "VQModel": (*UNET, "latent_channels"),
}
# EMAModel.save_pretrained writes its own state into the configuration of the network.
EMA_STATE = {"decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"}


@dataclass(frozen=True)
class Read:
    """A network's files, read whole: tensors that are finite and fit, and the sha256 over configuration and weights."""

    config: dict[str, Any]
    tensors: dict[str, Any]
    digest: str


INSTEAD = "Samples that its own pipeline draws can be audited: --samples-a, --samples-b."  # where no network can


def config_of(folder: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the configuration of a network of one of these classes, or raise saying why it cannot be used."""
    path = folder / CONFIG
    config = read_json(path, CheckpointError)
    name = config.get("_class_name")
    if name not in classes:
        raise CheckpointError(f"The model class is {name}; {', '.join(classes)} are supported here.", path, INSTEAD)
    missing = [key for key in REQUIRED[name] if config.get(key) is None]
    if missing:
        raise CheckpointError(f"{CONFIG} lacks {', '.join(missing)}.", path, "Save it with save_pretrained.")
    return config


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights of a folder: one, or shards in order."""
    for name in SINGLE:
        if (folder / name).is_file():
            return [folder / name]
    for name in INDEXED:
        if (folder / name).is_file():
            return _shards(folder / name)
    beside = sorted(one.name for one in folder.glob("*.safetensors*") if one != folder / WEIGHTS)
    also = f"; there is {', '.join(beside[:3])}, which is not understood" if beside else ""
    raise CheckpointError(f"{WEIGHTS} {absence(folder / WEIGHTS)}{also}.", folder)


def _shards(index: Path) -> list[Path]:
    table = read_json(index, CheckpointError).get("weight_map")
    names = sorted({str(one) for one in table.values()}) if isinstance(table, dict) else []
    if not names or any(Path(name).name != name for name in names):  # never a file outside the folder
        raise CheckpointError(f"{index.name} names no shards beside it.", index, SAVE_AGAIN)
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        raise CheckpointError(f"The shard {absent[0]} {absence(index.parent / absent[0])}.", index, SAVE_AGAIN)
    return [index.parent / name for name in names]


def header_problem(folder: Path) -> None:
    """Refuse weights that can be seen to be unusable from their headers."""
    for path in weight_files(folder):
        weights.require_safe(path, read_header(path), trusted=False)


def n_parameters(folder: Path) -> int | None:
    """Return the number of weights by the files' headers; None where they do not say it."""
    try:
        return sum(one.size for path in weight_files(folder) for one in tensors_in(read_header(path).content).values())
    except CheckpointError:
        return None


def read(folder: Path, classes: tuple[str, ...]) -> Read:
    """Return configuration, finite tensors that fit it, and the sha256 over the files."""
    config = config_of(folder, classes)
    tensors: dict[str, Any] = {}
    paths = weight_files(folder)
    try:
        digest = sha256((folder / CONFIG).read_bytes())
        for path in paths:
            digest.update(path.read_bytes())
    except OSError as problem:
        raise CheckpointError(f"The weights cannot be read: {problem.strerror}.", paths[0]) from problem
    for path in paths:
        tensors |= state_dict(path)
    strict(tensors, paths[0])
    _require_modest(config, len(tensors), folder / CONFIG)
    return Read(config, fit(blueprint(config, folder), tensors, paths[0]), digest.hexdigest())


def _require_modest(config: Mapping[str, Any], n_tensors: int, path: Path) -> None:
    """Refuse a configuration of more layers than there are weights: building it could take for ever."""
    for key in ("layers_per_block", "num_layers", "transformer_layers_per_block"):
        value = config.get(key)
        numbers = value if isinstance(value, list) else [value]
        if any(type(one) is int and one > n_tensors for one in numbers):
            raise CheckpointError(f"{key} is {value}, and there are {n_tensors} weights.", path, SAVE_AGAIN)


def state_dict(path: Path) -> dict[str, Any]:
    """Return the tensors of one weights file."""
    content = weights.payload(path)
    found = weights.state_of(content)
    if not found or len(found) != len(content):
        raise CheckpointError(f"{path.name} holds no state dict.", path, SAVE_AGAIN)
    return found


def strict(tensors: Mapping[str, Any], path: Path) -> None:
    """Refuse weights that are not finite floating point numbers: networks of diffusers have no others."""
    for name, tensor in tensors.items():
        if str(tensor.dtype) not in weights.DTYPES[:3]:
            allowed = ", ".join(weights.DTYPES[:3])
            raise CheckpointError(f"The weights {name} are {tensor.dtype}, not one of {allowed}.", path)
    weights.finite(tensors, path)


def build(config: Mapping[str, Any], folder: Path, device: str) -> Any:
    """Return the network that a configuration describes, weights not yet filled."""
    import diffusers

    kind = getattr(diffusers, config["_class_name"])
    known = signature(kind.__init__).parameters
    settings = {key: value for key, value in config.items() if key not in EMA_STATE and not key.startswith("_")}
    # A setting of a newer diffusers changes the network unless it is off.
    foreign = [key for key, value in settings.items() if key not in known and value not in (None, False)]
    if foreign:
        what = f"{CONFIG} has settings unknown to the installed diffusers: {', '.join(foreign)}."
        raise CheckpointError(what, folder / CONFIG, "Install the diffusers that wrote it.")
    settings = {key: value for key, value in settings.items() if key in known}
    failed, remedy = f"{CONFIG} describes no network that diffusers can build", "Save it with save_pretrained."
    return files.made(kind, settings, device, failed=failed, path=folder / CONFIG, remedy=remedy)


def blueprint(config: Mapping[str, Any], folder: Path) -> Any:
    """Return the network of a configuration on torch's meta device: names and shapes, built once for a whole series.

    It allocates nothing, whatever the configuration says.
    """
    try:
        return _blueprint(described(config))
    except CheckpointError as problem:
        raise CheckpointError(problem.what, folder / CONFIG, problem.remedy) from problem


def described(config: Mapping[str, Any]) -> str:
    """Return what of a configuration determines the network, as text: the same for all checkpoints of a series."""
    return json.dumps({k: v for k, v in config.items() if k == "_class_name" or (k not in EMA_STATE and k[:1] != "_")})


@lru_cache(maxsize=4)
def _blueprint(text: str) -> Any:
    return build(json.loads(text), Path(), "meta")


def fit(network: Any, tensors: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the tensors under the network's names, if names and shapes agree."""
    tensors = dict(tensors)
    expected = files.expected_of(network)
    tensors = weights.unwrapped(tensors, expected)
    network._fix_state_dict_keys_on_load(tensors)  # old diffusers called attention weights query, key, value
    problem = weights.misfit(tensors, expected)
    if problem:
        problem = problem.replace("in the network", "by the configuration")
        raise CheckpointError(f"The weights do not fit {CONFIG}: {problem}.", path, "Save both again from one model.")
    return tensors


def filled(found: Read, folder: Path, device: str) -> Any:
    """Return the network in float32 on a device, in evaluation mode and without gradients."""
    return files.fill(build(found.config, folder, "cpu"), found.tensors, device)


def require_forward(call: Callable[..., Any], shape: tuple[int, int, int], path: Path) -> None:
    """Refuse a configuration whose weights fit but that maps no image of its own size to an output like it.

    ``call(x, t)`` calls the network, which lies on torch's meta device and computes shapes only.
    """
    import torch

    height, width, channels = shape
    try:
        x = torch.empty(1, channels, height, width, device="meta")
        found = call(x, torch.zeros(1, dtype=torch.long, device="meta")).shape
    except Exception as problem:  # there is no common class
        what = f"The network of {path.name} fails on an image of its size {height} x {width}: {problem}."
        raise CheckpointError(what, path, "Save it with save_pretrained.") from problem
    if found != x.shape:
        raise CheckpointError(
            f"The network gives {tuple(found)} for {tuple(x.shape)}.", path, "It must keep the shape."
        )


def folder_digest(folder: Path) -> str:
    """Return the sha256 over the files of a folder, names included; read again only where a file changed."""
    inside = sorted(one for one in folder.iterdir() if one.is_file())
    states = ((one, one.stat()) for one in inside)
    return _digest_of(tuple((one, at.st_size, at.st_mtime_ns, at.st_ino, at.st_ctime_ns) for one, at in states))


@lru_cache(maxsize=64)
def _digest_of(inside: tuple[tuple[Path, int, int, int, int], ...]) -> str:
    total = sha256()
    for path, *_ in inside:
        total.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                total.update(chunk)
    return total.hexdigest()
