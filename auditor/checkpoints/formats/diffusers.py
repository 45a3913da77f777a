"""Checkpoints as diffusers writes them: folders with ``config.json`` beside weights.

One folder per step, and in it ``unet/`` and ``unet_ema/`` or ``transformer/`` (the training scripts), the same beside
``model_index.json`` (whole pipelines), or the files themselves (``save_pretrained``). What a training keeps fixed
(autoencoder, text encoder, scheduler) is looked for in the step's folder, then in that of the series, then in
``--base``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from auditor.checkpoints import files, flips, latent, names, networks, text
from auditor.checkpoints.conditions import by_class, by_text, unconditional
from auditor.checkpoints.configs import LONGEST_SIDE, absence, read_json
from auditor.checkpoints.formats import Guide, Unusable
from auditor.checkpoints.networks import CONFIG, Read
from auditor.checkpoints.settings import ModelSettings
from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.scaling import Pixels
from auditor.diffusion.schedules import CONTINUOUS
from auditor.errors import CheckpointError
from auditor.records import Checkpoint, Facts, Flips, Found

MODELS = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel")
COMPONENTS = {"raw": ("unet", "transformer"), "ema": ("unet_ema", "transformer_ema")}
NAMES = tuple(name for names in COMPONENTS.values() for name in names)
STEP_NAME = re.compile(r"(?:(?:checkpoint|step)[-_]?)?[0-9]+")
NUMBERED = re.compile(r".*?([0-9]+)")
LORA = "pytorch_lora_weights.safetensors"  # of another format
TOKENS = 77  # of CLIP's text encoders


@dataclass(frozen=True)
class Parts:
    """What belongs to one network: itself, and the fixed components around it."""

    config: Mapping[str, Any]
    autoencoder: Path | None
    text: tuple[Path, Path] | None  # the text encoder and its tokenizer, of a network that is conditioned on text

    @property
    def kind(self) -> str:
        """Class of the network."""
        return str(self.config["_class_name"])

    @property
    def conditioning(self) -> str:
        """none, class or text."""
        if self.text is not None:
            return "text"
        return "class" if self.n_classes is not None else "none"

    @property
    def n_classes(self) -> int | None:
        """Number of classes, None without."""
        return self.config.get("num_embeds_ada_norm" if self.kind == "DiTTransformer2DModel" else "num_class_embeds")

    @property
    def x_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of what is diffused."""
        size = self.config["sample_size"]
        sides = size if isinstance(size, list) else [size, size]
        return sides[0], sides[1], self.config["in_channels"]

    @property
    def latent_shape(self) -> tuple[int, int, int] | None:
        """(h, w, c) of latents; None where pictures are diffused."""
        return None if self.autoencoder is None else self.x_shape

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of the pictures."""
        return self.x_shape if self.autoencoder is None else latent.shape(self.autoencoder, self.x_shape[:2])

    @property
    def fixed(self) -> list[Path]:
        """The folders of the fixed components."""
        return [*([] if self.autoencoder is None else [self.autoencoder]), *(self.text or ())]


class DiffusersFormat:
    """U-Nets and transformers in the folders of diffusers: pixels or latents; free, by class or by text."""

    name = "diffusers"
    uses = ("base", "autoencoder", "prompts")
    REVISION = 2
    guide = Guide(
        trainers="training scripts and pipelines of diffusers: unconditional, class-conditional (`UNet2DModel`, "
        "`DiTTransformer2DModel`), latent diffusion, full fine-tunes of Stable Diffusion 1 and 2",
        layout="`checkpoint-500/unet/`, `checkpoint-500/transformer/`, `checkpoint-500/config.json`, or whole "
        "pipelines per step; safetensors in one file, in shards or as `fp16` variant, or `.bin`",
        weights="`unet_ema/` and `transformer_ema/` beside `unet/` and `transformer/`",
        schedule="`scheduler/scheduler_config.json` in the step's folder, in that of the series, or in `--base`",
        command="nothing; `--base PIPELINE` where autoencoder and text encoder are not beside the series",
        tested="that `train_unconditional.py` wrote in a run of six steps (`--use_ema`, `--checkpoints_total_limit`); "
        "checked on what `train_text_to_image.py` wrote, too large to keep; fine-tunes of Stable Diffusion, "
        "class-conditional networks and pipelines: saved by diffusers' own `save_pretrained`, the fine-tunes after a "
        "few optimizer steps",
        examples=(
            ("`train_unconditional.py`, and whole pipelines per step", ""),
            (
                "`train_text_to_image.py` (once it has ended, without `--base`: the rest of the pipeline lies beside)",
                "--base models/stable-diffusion-v1-5 --prompts prompts.txt --guidance-scale 7.5",
            ),
        ),
    )

    def __init__(self, settings: ModelSettings | None = None) -> None:
        self.settings = settings or ModelSettings()

    def find(self, root: Path) -> tuple[list[Found], Unusable]:
        """Return the usable steps under ``root``, and (step or -1, path, reason) of what is not usable."""
        folders, unusable = _step_folders(root)
        found = []
        for folder in folders:
            step = _number(folder)
            paths, problems = self._weights_in(folder)
            unusable += [(step, path, reason) for path, reason in problems]
            if paths:
                found.append(Found(step, paths, self._scheduler_for(folder, root)))
        return found, unusable

    def facts(self, checkpoint: Checkpoint) -> Facts:
        """Return what the configurations of the network and of its autoencoder say."""
        parts = self._parts(checkpoint.path)
        saved = self.schedule(checkpoint) or {}
        exploding = str(saved.get("_class_name")).startswith(CONTINUOUS["ve"])
        return Facts(
            image_shape=parts.image_shape,
            model=parts.kind,
            parameters=networks.n_parameters(checkpoint.path),
            conditioning=parts.conditioning,
            n_classes=parts.n_classes,
            needs_class=parts.kind == "UNet2DModel" and parts.conditioning == "class",
            autoencoder=str(parts.autoencoder or ""),
            pixels=(0.0, 1.0) if exploding else (-1.0, 1.0),  # as its pipeline, after score_sde
        )

    def schedule(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        """Return the scheduler configuration saved beside the series."""
        return None if checkpoint.scheduler is None else read_json(checkpoint.scheduler)

    def flips(self, checkpoint: Checkpoint) -> Flips:
        """Return what a training script gave its tracker; the unconditional one gives it nothing."""
        return flips.first_said(map(flips.of_tracker, around(checkpoint.path, ModelSettings())))

    def inspect(self, checkpoint: Checkpoint) -> str:
        """Return the sha256 over configuration, weights and fixed components, which fit each other and are finite."""
        return self._read(checkpoint.path)[2]

    def load(self, checkpoint: Checkpoint, scheduler_config: Mapping[str, Any], device: str) -> DiffusionModel:
        """Return the network in float32 on ``device``, in evaluation mode and without gradients."""
        path = checkpoint.path
        found, parts, digest = self._read(path)
        files.require_unchanged(checkpoint, digest)
        return assembled(networks.filled(found, path, device), parts, scheduler_config, device, self.settings)

    def _read(self, folder: Path) -> tuple[Read, Parts, str]:
        """Return the network's files, its components, and the sha256 over all of them."""
        parts = self._parts(folder)
        found = networks.read(folder, MODELS)
        require_call(found.config, folder)
        digest = found.digest
        if parts.fixed:
            digest = sha256("".join([digest, *map(networks.folder_digest, parts.fixed)]).encode()).hexdigest()
        return found, parts, digest

    def _parts(self, folder: Path) -> Parts:
        """Return the network's configuration and the components around it, or raise saying why it cannot be audited."""
        return parts_of(folder, around(folder, self.settings), self.settings)

    def _weights_in(self, folder: Path) -> tuple[dict[str, Path], list[tuple[Path, str]]]:
        """Return the usable "raw" and "ema" folders of one step, and (path, reason) of the others."""
        if not folder.is_dir():
            return {}, [(folder, f"it {absence(folder)}")]
        places = _places(folder)
        if not places:
            lora = "it holds LoRA weights only: give --base PIPELINE" if (folder / LORA).is_file() else ""
            return {}, [(folder, lora or f"no {COMPONENTS['raw'][0]}/ and no {CONFIG} in it")]
        usable, problems = {}, []
        for kind, place in places.items():
            try:
                self._parts(place)
                networks.header_problem(place)
            except CheckpointError as error:
                problems.append((place, f"{error.what} {error.remedy}".strip()))
            else:
                usable[kind] = place
        return usable, problems

    def _scheduler_for(self, folder: Path, root: Path) -> Path | None:
        """Return the scheduler saved with this step, else that of the whole series, else that of --base, else None."""
        places = [folder / "scheduler", folder, root / "scheduler", root]
        if self.settings.base:
            places.append(Path(self.settings.base).expanduser() / "scheduler")
        paths = (place / "scheduler_config.json" for place in places)
        return next((path for path in paths if os.path.lexists(path)), None)  # a broken one must not pass unseen


def around(folder: Path, settings: ModelSettings) -> list[Path]:
    """Return where fixed components may lie: with the step, with the series, in --base."""
    beside = [folder.parent, folder.parent.parent] if folder.name in NAMES else [folder, folder.parent]
    return [*beside, Path(settings.base).expanduser()] if settings.base else beside


def parts_of(folder: Path, places: list[Path], settings: ModelSettings) -> Parts:
    """Return a network's configuration and its components, or raise saying why it cannot be audited."""
    config = networks.config_of(folder, MODELS)
    _require_known_conditioning(config, folder / CONFIG)
    _require_shape(config, folder / CONFIG)
    autoencoder = latent.find(places, settings.autoencoder)
    if autoencoder is not None and latent.channels(autoencoder) != config["in_channels"]:
        given = f"The network takes {config['in_channels']} channels, the autoencoder {latent.channels(autoencoder)}."
        raise CheckpointError(given, autoencoder, "Give the autoencoder of this training: --autoencoder FOLDER.")
    if autoencoder is None and config["in_channels"] not in (1, 3):
        what = (
            f"The network takes {config['in_channels']} channels, which are no picture's, and no autoencoder is there."
        )
        raise CheckpointError(what, folder, "Give the pipeline that was fine-tuned: --base FOLDER.")
    if config["_class_name"] != "UNet2DConditionModel":
        return Parts(config, autoencoder, None)
    encoder, tokenizer = (text.find(places, name) for name in (text.ENCODER, text.TOKENIZER))
    if encoder is None or tokenizer is None:
        what = "The network is conditioned on text, and no text_encoder/ and tokenizer/ are there."
        raise CheckpointError(what, folder, "Give the pipeline that was fine-tuned: --base FOLDER.")
    return Parts(config, autoencoder, (encoder, tokenizer))


def _require_known_conditioning(config: Mapping[str, Any], path: Path) -> None:
    if config["_class_name"] == "UNet2DModel" and config.get("class_embed_type") is not None:
        what = f"The network is conditioned by class_embed_type {config['class_embed_type']}, which is not supported."
        raise CheckpointError(what, path)
    if config["_class_name"] == "UNet2DConditionModel":
        more = [key for key in ("addition_embed_type", "class_embed_type", "num_class_embeds") if config.get(key)]
        if more:
            what = f"The network is conditioned by more than one text encoder's output: {', '.join(more)}."
            raise CheckpointError(what, path, f"Stable Diffusion 1 and 2 are supported. {networks.INSTEAD}")
    n = config.get("num_class_embeds", config.get("num_embeds_ada_norm"))
    if n is not None and (type(n) is not int or n < 1):
        raise CheckpointError(f"{n} is no number of classes.", path)


def _require_shape(config: Mapping[str, Any], path: Path) -> None:
    size, n_in, n_out = config.get("sample_size"), config["in_channels"], config.get("out_channels") or 0
    if size is None:
        what = f"sample_size is not set in {CONFIG}, so the size of the images is unknown."
        raise CheckpointError(what, path, f"Write it into {CONFIG}.")
    sides = size if isinstance(size, list) else [size, size]
    fit = all(type(one) is int and 0 < one <= LONGEST_SIDE for one in (*sides, n_in))  # True is no size
    if len(sides) != 2 or not fit:
        raise CheckpointError(f"sample_size {size} with in_channels {n_in} is no image shape.", path)
    if n_out not in (n_in, 2 * n_in) and not (n_out == 0 and config["_class_name"] == "DiTTransformer2DModel"):
        raise CheckpointError(f"The network gives {n_out} channels for {n_in}, which is not supported.", path)


def require_call(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse a network that cannot be called on its own size; tried once for the checkpoints of a series."""
    try:
        _require_call(networks.described(config))
    except CheckpointError as problem:
        raise CheckpointError(problem.what, folder / CONFIG, problem.remedy) from problem


@lru_cache(maxsize=4)
def _require_call(described: str) -> None:
    import torch

    config = json.loads(described)
    by_text = config["_class_name"] == "UNet2DConditionModel"
    parts, network = Parts(config, None, (Path(), Path()) if by_text else None), networks.blueprint(config, Path())
    numbers = torch.zeros(1, dtype=torch.long, device="meta") if parts.conditioning == "class" else None
    if by_text:
        numbers = torch.empty(1, TOKENS, int(config["cross_attention_dim"]), device="meta")
    networks.require_forward(partial(called(network, parts), condition=numbers), parts.x_shape, Path(CONFIG))


def called(network: Any, parts: Parts) -> Callable[..., Any]:
    """Return ``(x, t, condition) -> output`` of a network; the half of it that is a learned variance is dropped."""
    channels = parts.x_shape[2]
    name = {"class": "class_labels", "text": "encoder_hidden_states"}.get(parts.conditioning)

    def call(x: Any, t: Any, condition: Any = None) -> Any:
        given = {} if name is None else {name: condition}
        return network(x, timestep=t, return_dict=False, **given)[0][:, :channels]

    return call


def assembled(
    network: Any,
    parts: Parts,
    scheduler_config: Mapping[str, Any],
    device: str,
    settings: ModelSettings,
    text_encoder: Any = None,
) -> DiffusionModel:
    """Return a filled network with its components as a model."""
    call, conditioned = called(network, parts), None
    if parts.text is not None:
        encoder = text_encoder or text.load_encoder(parts.text[0], device)
        conditioned = partial(by_text, call, text.encode(encoder, parts.text[1], settings.prompts, device))
    elif parts.n_classes is not None:
        null = parts.n_classes if parts.kind == "DiTTransformer2DModel" else None
        conditioned = partial(by_class, call, parts.n_classes, null)
    return DiffusionModel(
        network=call if conditioned is None else unconditional(conditioned),
        scheduler=dict(scheduler_config),
        image_shape=parts.image_shape,
        n_parameters=files.count(network),
        codec=Pixels() if parts.autoencoder is None else latent.load(parts.autoencoder, device),
        latent_shape=parts.latent_shape,
        conditioned=conditioned,
    )


def _step_folders(root: Path) -> tuple[list[Path], Unusable]:
    """Return the folders that are steps, and the model folders that are not, with reasons."""
    children = sorted(child for child in root.iterdir() if not child.name.startswith("."))
    named = [child for child in children if STEP_NAME.fullmatch(child.name)]
    # In a pipeline the other folders are its components: text_encoder_2 is not step 2.
    others = [] if (root / "model_index.json").exists() else [child for child in children if child not in named]
    models = [child for child in others if child.name not in NAMES and _holds_model(child)]
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
    return names.number(match[1]) if match else -1


def _places(folder: Path) -> dict[str, Path]:
    """Return the folders that should hold a configuration and weights: "raw" and/or "ema"."""
    places: dict[str, Path] = {}
    for kind, called in COMPONENTS.items():
        here = [folder / name for name in called if (folder / name).is_dir()]
        places |= {kind: here[0]} if here else {}
    if not places and os.path.lexists(folder / CONFIG):
        places = {"raw": folder}
    return places


def _holds_model(folder: Path) -> bool:
    return bool(_places(folder)) or (folder / "model_index.json").is_file()
