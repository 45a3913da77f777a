"""LoRA series on a Stable Diffusion pipeline given by ``--base``.

``checkpoint-N/pytorch_lora_weights.safetensors`` of the diffusers training scripts, or a flat series of
``.safetensors`` as kohya sd-scripts and ai-toolkit write it, with step or epoch from the header, else from the name.
The weights are put into the base network by diffusers and peft, at the scale that the file states.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from auditor.checkpoints import Guide, ModelSettings, flips, latent, networks, read_json, series, text, weights
from auditor.checkpoints.diffusers import MODELS, Parts, assembled, parts_of, require_call
from auditor.checkpoints.headers import Header, read_header, tensors_in
from auditor.errors import CheckpointError
from auditor.records import Checkpoint, DiffusionModel, Facts, Flips, Found

WRAPPED = ".base_layer."  # in the whole network of a training by peft, which accelerate saves beside its LoRA
MARKS = (".lora_A.", ".lora_B.", ".lora.down.", ".lora.up.", ".lora_down.", ".lora_up.")
OF_TEXT = ("text_encoder.", "lora_te_", "lora_te1_")
BASE = "Give the pipeline that was fine-tuned: --base FOLDER, with unet/, vae/, text_encoder/, tokenizer/, scheduler/."


class LoraFormat:
    """Low-rank changes of a text-conditional U-Net, and of its text encoder."""

    name = "lora"
    REVISION = 1
    guide = Guide(
        "LoRA of the diffusers training scripts, of kohya sd-scripts and of ai-toolkit, on Stable Diffusion 1 and 2",
        "`checkpoint-500/pytorch_lora_weights.safetensors` (the `model.safetensors` of accelerate beside it is passed "
        "over), or flat `NAME-000010.safetensors`, step in the header",
        "as saved; the scale (alpha over rank) is reported",
        "the scheduler of `--base`; `modelspec.prediction_type` in a header of kohya goes before it",
        "`--base PIPELINE --prompts prompts.txt`",
        "that `train_text_to_image_lora.py` wrote in a run of four steps; kohya: trained and saved by its network "
        "class, `train_network.py` itself not run; ai-toolkit: saved as its code does, its training process not run. "
        "From the last two, what is loaded equals the base plus alpha / rank times up times down",
        (("", "--base models/stable-diffusion-v1-5 --prompts prompts.txt --guidance-scale 7.5"),),
    )

    def __init__(self, settings: ModelSettings | None = None) -> None:
        self.settings = settings or ModelSettings()

    def find(self, root: Path) -> tuple[list[Found], list[tuple[int, Path, str]]]:
        """Return the steps under ``root``; all are unusable without --base."""
        found, unusable = series.find(root, claims, self.settings)
        if self.settings.base is None:
            reason = f"LoRA weights change a pipeline, which is not known. {BASE}"
            return [], [*unusable, *((one.step, next(iter(one.paths.values())), reason) for one in found)]
        return found, unusable

    def facts(self, checkpoint: Checkpoint) -> Facts:
        """Return what the base says, and the scale of the LoRA."""
        parts = self._parts()
        height, width, _ = parts.x_shape
        shape = parts.x_shape if parts.autoencoder is None else latent.shape(parts.autoencoder, (height, width))
        header = read_header(checkpoint.path)
        n = sum(one.size for one in tensors_in(header.content).values())
        autoencoder = str(parts.autoencoder or "")
        return Facts(
            shape,
            f"{parts.kind} with LoRA",
            n,
            parts.conditioning,
            parts.n_classes,
            autoencoder=autoencoder,
            notes=(scale(header),),
        )

    def schedule(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        """Return the scheduler of the base; the header of kohya says where noise is not what is predicted."""
        path = self._base() / "scheduler" / "scheduler_config.json"
        if not path.is_file():
            return None
        stated = read_header(checkpoint.path).metadata.get("modelspec.prediction_type")
        known = {"v": "v_prediction", "epsilon": "epsilon"}
        config = read_json(path)
        return {**config, "prediction_type": known[stated]} if stated in known else config

    def flips(self, checkpoint: Checkpoint) -> Flips:
        """Return what the header of kohya says, ai-toolkit's configuration, or the tracker of diffusers' scripts."""
        path = checkpoint.path
        in_header = flips.of_kohya(read_header(path))
        return flips.first_said([in_header, flips.of_ai_toolkit(path.parent), flips.of_tracker(path.parent.parent)])

    def inspect(self, checkpoint: Checkpoint) -> str:
        """Return the sha256 over the LoRA and its base; all its weights are finite and find their place."""
        return self._loaded(checkpoint, "cpu")[2]

    def load(self, checkpoint: Checkpoint, scheduler_config: Mapping[str, Any], device: str) -> DiffusionModel:
        """Return the base network with the LoRA in it."""
        network, encoder, digest = self._loaded(checkpoint, device)
        series.require_unchanged(checkpoint, digest)
        return assembled(network, self._parts(), scheduler_config, device, self.settings, encoder)

    def _base(self) -> Path:
        if self.settings.base is None:
            raise CheckpointError("The pipeline that the LoRA changes is not known.", "--base", BASE)
        return Path(self.settings.base).expanduser()

    def _parts(self) -> Parts:
        base = self._base()
        return parts_of(base / "unet", [base], self.settings)

    def _loaded(self, checkpoint: Checkpoint, device: str) -> tuple[Any, Any, str]:
        """Return the base network and its text encoder with the LoRA, and the sha256 over everything."""
        import torch

        parts, folder = self._parts(), self._base() / "unet"
        tensors = weights.payload(checkpoint.path)
        weights.finite(tensors, checkpoint.path)
        found = networks.read(folder, MODELS)
        require_call(found.config, folder)
        network = networks.filled(found, folder, device)
        encoder = text.load_encoder(parts.text_encoder, device)
        with torch.random.fork_rng(devices=[]):  # peft draws initial weights
            _insert(network, encoder, tensors, read_header(checkpoint.path), checkpoint.path)
        digests = [weights.digest(tensors), found.digest, *map(networks.folder_digest, parts.fixed)]
        return network.float().eval(), encoder.eval(), sha256("".join(digests).encode()).hexdigest()


def claims(path: Path, header: Header) -> bool:
    """Whether a file holds LoRA weights."""
    state = tensors_in(header.content) if header.kind == "safetensors" else {}
    return any(mark in name for name in state for mark in MARKS) and not any(WRAPPED in name for name in state)


def scale(header: Header) -> str:
    """Return the rank and scale of a LoRA in words, from its header."""
    metadata = header.metadata
    rank, alpha = metadata.get("ss_network_dim"), metadata.get("ss_network_alpha")
    stated = adapter_metadata(header)
    if rank is None and stated:
        rank, alpha = (next((stated[key] for key in stated if key.endswith(end)), None) for end in ("r", "lora_alpha"))
    if rank is None:
        pairs = [one for name, one in tensors_in(header.content).items() if any(mark in name for mark in MARKS)]
        rank = "/".join(map(str, sorted({min(one.shape[:2], default=0) for one in pairs})))
    if alpha is None and any(name.endswith(".alpha") for name in tensors_in(header.content)):
        return f"LoRA of rank {rank}, at the scale that its alpha weights state."
    if alpha is None:
        return f"LoRA of rank {rank}; the file states no alpha, so its scale is taken as 1."
    try:
        return f"LoRA of rank {rank} and alpha {float(alpha):g}: scale {float(alpha) / float(rank):g}."
    except (ValueError, TypeError, ArithmeticError):
        return f"LoRA whose header states rank {rank!r} and alpha {alpha!r}, which are no numbers."


def adapter_metadata(header: Header) -> dict[str, Any]:
    """Return the settings of peft that newer training scripts write into the header."""
    try:
        found = json.loads(header.metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _insert(network: Any, encoder: Any, tensors: dict[str, Any], header: Header, path: Path) -> None:
    """Put LoRA weights into a U-Net and its text encoder; every weight must find its place."""
    from diffusers import StableDiffusionPipeline as Pipeline

    try:
        state, alphas = Pipeline.lora_state_dict(dict(tensors), unet_config=network.config)
        metadata = adapter_metadata(header) or None
        Pipeline.load_lora_into_unet(state, alphas, network, adapter_name="audited", metadata=metadata)
        if any(name.startswith(OF_TEXT) for name in state):
            Pipeline.load_lora_into_text_encoder(state, alphas, encoder, adapter_name="audited", metadata=metadata)
    except Exception as problem:  # diffusers and peft raise what they like for weights that do not fit
        said = str(problem).split("\n", 1)[0][:200]
        raise CheckpointError(f"The LoRA does not fit the base: {said}.", path, BASE) from problem
    _require_placed(tensors, (network, encoder), path)


def _require_placed(tensors: Mapping[str, Any], networks: Collection[Any], path: Path) -> None:
    """Refuse a LoRA of which a weight found no place: peft leaves random numbers where one is missing, and warns."""
    sought = Counter(_value(one) for name, one in tensors.items() if any(mark in name for mark in MARKS))
    placed = Counter(
        _value(one) for network in networks for name, one in network.named_parameters() if ".lora_" in name
    )
    if placed != sought:
        what = f"{(sought - placed).total()} of {sought.total()} weights of the LoRA find no place in the base"
        what += f", and {(placed - sought).total()} places in it find no weight."
        raise CheckpointError(what, path, BASE)


def _value(tensor: Any) -> str:
    """Return the sha256 of a weight's numbers as float32."""
    return sha256(tensor.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()
