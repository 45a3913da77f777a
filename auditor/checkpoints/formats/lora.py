"""LoRA series on a Stable Diffusion pipeline given by ``--base``.

``checkpoint-N/pytorch_lora_weights.safetensors`` of the diffusers training scripts, or a flat series of
``.safetensors`` as kohya sd-scripts and ai-toolkit write it, with step or epoch from the header, else from the name.
The weights are put into the base network by diffusers and peft, at the scale that the file states (``adapters.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from auditor.checkpoints import adapters, files, flips, networks, text, weights
from auditor.checkpoints.configs import read_json
from auditor.checkpoints.formats import Guide, Unusable
from auditor.checkpoints.formats.diffusers import MODELS, Parts, assembled, parts_of, require_call
from auditor.checkpoints.headers import Header, read_header, tensors_in
from auditor.checkpoints.names import a_path
from auditor.diffusion.model import DiffusionModel
from auditor.errors import CheckpointError
from auditor.records import Checkpoint, Facts, Flips, Found

OF_TEXT = ("text_encoder.", "lora_te_", "lora_te1_")
ADAPTER = "audited"  # what peft calls the LoRA
BASE = "Give the pipeline that was fine-tuned: --base FOLDER, with unet/, vae/, text_encoder/, tokenizer/, scheduler/."


class LoraFormat(files.WeightFiles):
    """Low-rank changes of a text-conditional U-Net, and of its text encoder."""

    name = "lora"
    uses = ("base", "autoencoder", "prompts")
    REVISION = 2  # each layer at the scale of its own alpha
    guide = Guide(
        trainers="LoRA of the diffusers training scripts, of kohya sd-scripts and of ai-toolkit, on Stable Diffusion 1 "
        "and 2",
        layout="`checkpoint-500/pytorch_lora_weights.safetensors` (the `model.safetensors` of accelerate beside it is "
        "passed over), or flat: `NAME-000010.safetensors`, `NAME-step00001000.safetensors` of kohya, "
        "`NAME_000000250.safetensors` of ai-toolkit (which keeps the last few only: raise `max_step_saves_to_keep`), "
        "and the last, `NAME.safetensors`; the step is that of the header. kohya's `--no_metadata` leaves it out: then "
        "epochs count, and the last file is passed over",
        weights="as saved (of ai-toolkit the average, where it keeps one); rank and scale (alpha over rank) of the "
        "layers are reported, and twins must agree in them (of safetensors; alphas in files of torch are followed, not "
        "compared). Prompts are encoded with the clip skip that a header of kohya states (`ss_clip_skip`). LoHa, LoKr, "
        "DoRA, trained scalars and embeddings are refused",
        schedule="the scheduler of `--base`; in a header of kohya `modelspec.prediction_type` and "
        "`ss_zero_terminal_snr` go before it",
        command="`--base PIPELINE --prompts prompts.txt`",
        tested="that `train_text_to_image_lora.py` wrote in a run of four steps; kohya: trained and saved by its "
        "network class, `train_network.py` itself not run; ai-toolkit: saved as its code does, its training process "
        "not run. From the last two, what is loaded equals the base plus alpha / rank times up times down, the text "
        "encoder included",
        examples=(("", "--base models/stable-diffusion-v1-5 --prompts prompts.txt --guidance-scale 7.5"),),
    )

    def claims(self, header: Header) -> bool:
        """Whether a file holds LoRA weights, or weights of its relatives."""
        return adapters.is_adapter(header)

    def find(self, root: Path) -> tuple[list[Found], Unusable]:
        """Return the steps under ``root``; all are unusable without --base."""
        found, unusable = super().find(root)
        reasons = [(one, _reason(a_path(one))) for one in found]
        unusable += [(one.step, a_path(one), reason) for one, reason in reasons if reason]
        found = [one for one, reason in reasons if not reason]
        if self.settings.base is None:
            reason = f"LoRA weights change a pipeline, which is not known. {BASE}"
            return [], [*unusable, *((one.step, a_path(one), reason) for one in found)]
        return found, unusable

    def facts(self, checkpoint: Checkpoint) -> Facts:
        """Return what the base says, and the scale of the LoRA."""
        parts = self._parts()
        header = read_header(checkpoint.path)
        scale, skip = adapters.scale(checkpoint.path, header), adapters.clip_skip(header)
        skipped = f"Prompts are encoded with clip skip {skip}, as in training." if skip > 1 else ""
        said = tuple(one for one in (scale, skipped) if one)
        return Facts(
            image_shape=parts.image_shape,
            model=f"{parts.kind} with LoRA",
            parameters=sum(one.size for one in tensors_in(header.content).values()),
            conditioning=parts.conditioning,
            n_classes=parts.n_classes,
            autoencoder=str(parts.autoencoder or ""),
            lora=" ".join(said),
            notes=said,
        )

    def schedule(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        """Return the scheduler of the base, as the header of kohya changes it."""
        path = self._base() / "scheduler" / "scheduler_config.json"
        return adapters.schedule(read_json(path), read_header(checkpoint.path)) if path.is_file() else None

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
        files.require_unchanged(checkpoint, digest)
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
        if parts.text is None:
            raise CheckpointError("The U-Net of the base is not conditioned on text.", folder, BASE)
        tensors = weights.payload(checkpoint.path)
        weights.finite(tensors, checkpoint.path)
        found = networks.read(folder, MODELS)
        require_call(found.config, folder)
        network = networks.filled(found, folder, device)
        encoder = text.load_encoder(parts.text[0], device)
        header = read_header(checkpoint.path)
        with torch.random.fork_rng(devices=[]):  # peft draws initial weights
            _insert(network, encoder, tensors, header, checkpoint.path)
        skip = adapters.clip_skip(header)
        text.skip_layers(encoder, skip, checkpoint.path)  # only now: a LoRA may have weights for the layers skipped
        said = [one for one in (header.stated(adapters.PEFT), skip if skip > 1 else 0) if one]
        digests = [weights.digest(tensors, *said), found.digest, *map(networks.folder_digest, parts.fixed)]
        return network.float().eval(), encoder.eval(), sha256("".join(digests).encode()).hexdigest()


def _reason(path: Path) -> str:
    """Return why a file cannot be audited as a LoRA; empty where it can."""
    header = read_header(path)
    if reason := adapters.foreign(header):
        return reason
    try:
        adapters.scale(path, header)
    except CheckpointError as error:
        return f"{error.what} {error.remedy}"
    return ""


def _insert(network: Any, encoder: Any, tensors: dict[str, Any], header: Header, path: Path) -> None:
    """Put LoRA weights into a U-Net and its text encoder; every weight must find its place."""
    from diffusers import StableDiffusionPipeline as Pipeline

    weighed = adapters.folded(tensors, path)
    # What the header says of peft is for files without alpha weights; without either, the scale is 1.
    stated = header.stated(adapters.PEFT) if len(weighed) == len(tensors) else {}
    of_unet, of_text = (adapters.of_part(stated, part) or None for part in adapters.PARTS)
    try:
        state, _ = Pipeline.lora_state_dict(dict(weighed), unet_config=network.config)
        Pipeline.load_lora_into_unet(state, None, network, adapter_name=ADAPTER, metadata=of_unet)
        if any(name.startswith(OF_TEXT) for name in state):
            Pipeline.load_lora_into_text_encoder(state, None, encoder, adapter_name=ADAPTER, metadata=of_text)
    except Exception as problem:  # diffusers and peft raise what they like for weights that do not fit
        said = str(problem).split("\n", 1)[0][:200]
        raise CheckpointError(f"The LoRA does not fit the base: {said}.", path, BASE) from problem
    _require_placed(weighed, (network, encoder), path)
    _require_scale_one([one for one, said in ((network, of_unet), (encoder, of_text)) if said is None], path)


def _require_placed(tensors: Mapping[str, Any], networks: Collection[Any], path: Path) -> None:
    """Refuse a LoRA of which a weight found no place: peft leaves random numbers where one is missing, and warns."""
    sought = Counter(_value(one) for name, one in tensors.items() if adapters.is_weight(name))
    placed = Counter(
        _value(one) for network in networks for name, one in network.named_parameters() if ".lora_" in name
    )
    if placed != sought:
        what = f"{(sought - placed).total()} of {sought.total()} weights of the LoRA find no place in the base"
        what += f", and {(placed - sought).total()} places in it find no weight."
        raise CheckpointError(what, path, BASE)


def _require_scale_one(networks: Collection[Any], path: Path) -> None:
    """Refuse a LoRA that peft would scale once more: of mixed ranks, versions of diffusers tell it different things."""
    scalings = [getattr(one, "scaling", None) for network in networks for one in network.modules()]
    others = {one[ADAPTER] for one in scalings if isinstance(one, dict) and ADAPTER in one} - {1}
    if others:
        what = f"The installed diffusers and peft load layers at {sorted(others)} times the scale that the file states."
        raise CheckpointError(what, path, "Install newer versions of diffusers and peft.")


def _value(tensor: Any) -> str:
    """Return the sha256 of a weight's numbers as float32."""
    return sha256(tensor.detach().float().cpu().contiguous().numpy().tobytes()).hexdigest()
