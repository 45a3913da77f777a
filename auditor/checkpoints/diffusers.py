"""Checkpoints as diffusers writes them: folders with ``config.json`` and safetensors weights.

One folder per step, and in it ``unet/`` and ``unet_ema/`` (the training scripts), ``unet/``
beside ``model_index.json`` (whole pipelines), or the files themselves (``save_pretrained``).

The network is built from its class and filled by us rather than by ``from_pretrained``:
that prints advice at every load, fills missing weights with random ones and only warns.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from hashlib import sha256
from inspect import signature
from pathlib import Path
from typing import Any

from auditor.checkpoints import absence, read_json
from auditor.errors import CheckpointError
from auditor.records import Checkpoint, DiffusionModel, Found

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
MODELS = ("UNet2DModel",)
COMPONENTS = {"raw": "unet", "ema": "unet_ema"}
STEP_NAME = re.compile(r"(?:(?:checkpoint|step)[-_]?)?[0-9]+")
NUMBERED = re.compile(r".*?([0-9]+)")
# Without these the class falls back to the defaults of another network.
REQUIRED = (
    "in_channels",
    "out_channels",
    "block_out_channels",
    "down_block_types",
    "up_block_types",
    "layers_per_block",
)
# EMAModel.save_pretrained writes its own state into the configuration of the network.
EMA_STATE = {"decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power"}
DTYPES = ("torch.float16", "torch.bfloat16", "torch.float32")
# What torch and diffusers raise for impossible settings, as found by trying them; there is no common class.
IMPOSSIBLE = (
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    NameError,
    AssertionError,
    RuntimeError,
)
SAVE_AGAIN = "Copy or save it again (a file of some 130 bytes is a git-lfs pointer: run git lfs pull)."


class DiffusersFormat:
    """Unconditional ``UNet2DModel`` checkpoints in the folders of diffusers."""

    name = "diffusers"
    REVISION = 1

    def find(self, root: Path) -> tuple[list[Found], list[tuple[int, Path, str]]]:
        """Return the usable steps under ``root``, and (step or -1, path, reason) of what is not usable."""
        folders, unusable = _step_folders(root)
        found = []
        for folder in folders:
            step = _number(folder)
            paths, problems = _weights_in(folder)
            unusable += [(step, path, reason) for path, reason in problems]
            if paths:
                found.append(Found(step, paths, _scheduler_for(folder, root)))
        return found, unusable

    def facts(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return ``image_shape`` (h, w, c) and ``model``, the class of the network, from ``config.json``."""
        config = _config(checkpoint.path)
        return {"image_shape": _image_shape(config, checkpoint.path), "model": config["_class_name"]}

    def inspect(self, checkpoint: Checkpoint) -> str:
        """Return the sha256 over ``config.json`` and the weights, which fit each other and are finite."""
        return _read(checkpoint.path)[2]

    def load(self, checkpoint: Checkpoint, scheduler_config: Mapping[str, Any], device: str) -> DiffusionModel:
        """Return the network in float32 on ``device``, in evaluation mode and without gradients."""
        path = checkpoint.path
        config, tensors, digest = _read(path)
        if checkpoint.digest not in ("", digest):
            raise CheckpointError("The files changed after they were first read.", path, "Start the audit again.")
        unet = _network(config, path, "cpu")
        unet.load_state_dict(tensors)  # copies into the float32 of the network, whatever the file has
        unet.to(device).eval().requires_grad_(False)

        def network(x: Any, t: Any) -> Any:
            return unet(x, t, return_dict=False)[0]

        n_parameters = sum(one.numel() for one in unet.parameters())
        return DiffusionModel(network, dict(scheduler_config), _image_shape(config, path), n_parameters)


def _step_folders(root: Path) -> tuple[list[Path], list[tuple[int, Path, str]]]:
    """Return the folders that are steps, and the model folders that are not, with reasons."""
    children = sorted(child for child in root.iterdir() if not child.name.startswith("."))
    named = [child for child in children if STEP_NAME.fullmatch(child.name)]
    # In a pipeline the other folders are its components: text_encoder_2 is not step 2.
    others = [] if (root / "model_index.json").exists() else [child for child in children if child not in named]
    models = [child for child in others if child.name not in COMPONENTS.values() and _holds_model(child)]
    itself = [root] if _holds_model(root) else []
    chosen = named or [one for one in models if _number(one) >= 0] or [one for one in itself if _number(one) >= 0]
    unused = [one for one in itself + models if one not in chosen]
    return chosen, [(-1, next(iter(_places(one).values()), one), _why_no_step(one, root)) for one in unused]


def _why_no_step(folder: Path, root: Path) -> str:
    if folder == root or _number(folder) < 0:
        return "no step in its name"
    return "the number in its name may not be a step: it is not called checkpoint-N, step-N or N as others here"


def _number(folder: Path) -> int:
    """Return the number at the end of the folder's name, -1 without one."""
    match = NUMBERED.fullmatch(folder.absolute().name)  # the name of "." is that of the current folder
    return int(match[1]) if match else -1


def _places(folder: Path) -> dict[str, Path]:
    """Return the folders that should hold a configuration and weights: "raw" and/or "ema"."""
    places = {kind: folder / name for kind, name in COMPONENTS.items() if (folder / name).is_dir()}
    if not places and os.path.lexists(folder / CONFIG):
        places = {"raw": folder}
    return places


def _holds_model(folder: Path) -> bool:
    return bool(_places(folder)) or (folder / "model_index.json").is_file()


def _weights_in(folder: Path) -> tuple[dict[str, Path], list[tuple[Path, str]]]:
    """Return the usable "raw" and "ema" folders of one step, and (path, reason) of the others."""
    if not folder.is_dir():
        return {}, [(folder, f"it {absence(folder)}")]
    places = _places(folder)
    if not places:
        return {}, [(folder, f"no {COMPONENTS['raw']}/ and no {CONFIG} in it")]
    usable, problems = {}, []
    for kind, place in places.items():
        try:
            _config(place)
            _require_weights(place)
        except CheckpointError as error:
            problems.append((place, f"{error.what} {error.remedy}".strip()))
        else:
            usable[kind] = place
    return usable, problems


def _require_weights(folder: Path) -> None:
    path = folder / WEIGHTS
    if path.is_file():
        return
    if any(folder.glob("diffusion_pytorch_model*.bin")):
        raise CheckpointError(
            "The weights are a pickle (.bin), which can execute code when it is read, so it is not.",
            folder,
            "Save them again with safe_serialization=True (safetensors).",
        )
    beside = sorted(one.name for one in folder.glob("*.safetensors*") if one != path)
    also = f"; there is {', '.join(beside[:3])}, which is not understood" if beside else ""
    raise CheckpointError(f"{WEIGHTS} {absence(path)}{also}.", folder)


def _scheduler_for(folder: Path, root: Path) -> Path | None:
    """Return the scheduler saved with this step, else that of the whole series, else None."""
    places = (folder / "scheduler", folder, root / "scheduler", root)
    paths = (place / "scheduler_config.json" for place in places)
    return next((path for path in paths if os.path.lexists(path)), None)  # a broken one must not pass unseen


def _config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a network that can be audited, or raise saying why it cannot."""
    path = folder / CONFIG
    config = read_json(path, CheckpointError)
    name = config.get("_class_name")
    if name not in MODELS:
        raise CheckpointError(f"The model class is {name}; only {', '.join(MODELS)} is supported yet.", path)
    missing = [key for key in REQUIRED if config.get(key) is None]
    if missing:
        raise CheckpointError(f"{CONFIG} lacks {', '.join(missing)}.", path, "Save it with save_pretrained.")
    if config.get("num_class_embeds") is not None or config.get("class_embed_type") is not None:
        raise CheckpointError("The network is class-conditional, which is not supported yet.", path)
    *_, n_in = _image_shape(config, folder)
    n_out = config["out_channels"]
    if n_out != n_in:
        note = " (learned sigma)" if n_out == 2 * n_in else ""
        what = f"The network gives {n_out} channels for {n_in}{note}, which is not supported yet."
        raise CheckpointError(what, path)
    return config


def _image_shape(config: Mapping[str, Any], folder: Path) -> tuple[int, int, int]:
    """Return (h, w, c) as the configuration says."""
    size = config.get("sample_size")
    if size is None:
        what = f"sample_size is not set in {CONFIG}, so the size of the images is unknown."
        raise CheckpointError(what, folder / CONFIG, f"No option gives it yet: write it into {CONFIG}.")
    sides = size if isinstance(size, list) else [size, size]
    numbers = [*sides, config["in_channels"]]
    if len(sides) != 2 or not all(type(one) is int and one > 0 for one in numbers):  # True is no size
        what = f"sample_size {size} with in_channels {config['in_channels']} is no image shape."
        raise CheckpointError(what, folder / CONFIG)
    return tuple(numbers)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return the configuration, the finite tensors that fit it, and the sha256 over both files."""
    config = _config(folder)
    _require_weights(folder)
    path = folder / WEIGHTS
    try:
        data = path.read_bytes()
        digest = sha256((folder / CONFIG).read_bytes())
    except OSError as problem:
        raise CheckpointError(f"The weights cannot be read: {problem.strerror}.", path) from problem
    digest.update(data)
    tensors = _finite(_tensors(data, path), path)
    network = _network(config, folder, "meta")  # allocates nothing, whatever the configuration says
    tensors = _fit(network, tensors, path)
    _require_forward(network, _image_shape(config, folder), folder / CONFIG)
    return config, tensors, digest.hexdigest()


def _tensors(data: bytes, path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    header = int.from_bytes(data[:8], "little")  # the format: header length, header, tensors
    if len(data) < 8 or header > len(data) - 8:
        what = f"{path.name} is truncated or no safetensors file: {len(data)} bytes, with a header of {header} bytes."
        raise CheckpointError(what, path, SAVE_AGAIN)
    try:
        return load(data)
    except (SafetensorError, KeyError) as problem:  # KeyError: a type of number that torch lacks
        raise CheckpointError(f"{path.name} is corrupt: {problem}.", path, SAVE_AGAIN) from problem


def _finite(tensors: dict[str, Any], path: Path) -> dict[str, Any]:
    for name, tensor in tensors.items():
        if str(tensor.dtype) not in DTYPES:
            raise CheckpointError(f"The weights {name} are {tensor.dtype}, not one of {', '.join(DTYPES)}.", path)
        if not tensor.isfinite().all():
            what = f"The weights {name} hold NaN or infinite values."
            raise CheckpointError(what, path, "The training diverged before this step.")
    return tensors


def _network(config: Mapping[str, Any], folder: Path, device: str) -> Any:
    """Return the network that the configuration describes, weights not yet filled."""
    import torch
    from diffusers import UNet2DModel

    known = signature(UNet2DModel.__init__).parameters
    settings = {key: value for key, value in config.items() if key not in EMA_STATE and not key.startswith("_")}
    # A setting of a newer diffusers changes the network unless it is off.
    foreign = [key for key, value in settings.items() if key not in known and value not in (None, False)]
    if foreign:
        what = f"{CONFIG} has settings unknown to the installed diffusers: {', '.join(foreign)}."
        raise CheckpointError(what, folder / CONFIG, "Install the diffusers that wrote it.")
    # Building draws initial weights; the global generator must not notice.
    with torch.random.fork_rng(devices=[]), torch.device(device):
        try:
            return UNet2DModel(**{key: value for key, value in settings.items() if key in known})
        except IMPOSSIBLE as problem:
            what = f"{CONFIG} describes no network that diffusers can build: {problem}."
            raise CheckpointError(what, folder / CONFIG, "Save it with save_pretrained.") from problem


def _fit(network: Any, tensors: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the tensors under the network's names, if names and shapes agree."""
    tensors = dict(tensors)
    network._fix_state_dict_keys_on_load(tensors)  # old diffusers called attention weights query, key, value
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    differing = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
    if differing:
        name = differing[0]
        what = f"The weights do not fit {CONFIG}: {name} is {given.get(name, 'absent')} in the file and "
        what += f"{expected.get(name, 'absent')} by the configuration ({len(differing)} such weights)."
        raise CheckpointError(what, path, "Save both again from one model.")
    return tensors


def _require_forward(network: Any, image_shape: tuple[int, int, int], path: Path) -> None:
    """Refuse a configuration whose weights fit but that maps no image of its own size to an output like it."""
    import torch

    height, width, channels = image_shape
    x = torch.empty(1, channels, height, width, device="meta")
    try:
        shape = network(x, torch.zeros(1, dtype=torch.long, device="meta"), return_dict=False)[0].shape
    except IMPOSSIBLE as problem:
        what = f"The network of {CONFIG} fails on an image of its size {height} x {width}: {problem}."
        raise CheckpointError(what, path, "Save it with save_pretrained.") from problem
    if shape != x.shape:
        raise CheckpointError(
            f"The network gives {tuple(shape)} for {tuple(x.shape)}.", path, "It must keep the shape."
        )
