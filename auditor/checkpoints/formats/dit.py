"""``0050000.pt`` of the training scripts of DiT and SiT: ``model``, ``ema``, ``opt`` and the command line ``args``.

The transformer is rebuilt as diffusers' ``DiTTransformer2DModel``; sizes follow from the shapes of the weights, the
number of heads from the model's name in ``args``, which is read from the pickle's structure without unpickling it.
Two constants of diffusers' class differ from DiT's code and are set to DiT's: the time embedding (a frequency shift
of 1 instead of 0, which changes the output by more than 100 % at late times) and the epsilon of the second layer
norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from auditor.checkpoints import files, latent, networks, weights
from auditor.checkpoints.conditions import by_class, unconditional
from auditor.checkpoints.formats import Guide
from auditor.checkpoints.headers import Header, Opaque, Tensor, read_header, tensors_in
from auditor.diffusion import schedules
from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.scaling import Pixels
from auditor.errors import CheckpointError
from auditor.records import Checkpoint, Facts, Flips

HEADS = {"XL": 16, "L": 16, "B": 12, "S": 6}
CLAIMED = ("x_embedder.proj.weight", "y_embedder.embedding_table.weight", "final_layer.linear.weight", "pos_embed")
BLOCK = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
WHOLE = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.linear": "proj_out_2",
    "final_layer.adaLN_modulation.1": "proj_out_1",
}
# DiT has these once, diffusers' class once per block.
REPEATED = {
    "t_embedder.mlp.0": "norm1.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "norm1.emb.timestep_embedder.linear_2",
    "y_embedder.embedding_table": "norm1.emb.class_embedder.embedding_table",
}


class DitFormat(files.WeightFiles):
    """Class-conditional transformers of DiT (noise prediction) and SiT (velocity on the linear path)."""

    name = "dit"
    uses = ("base", "autoencoder")
    REVISION = 1
    guide = Guide(
        trainers="`train.py` of DiT and of SiT (linear path, velocity)",
        layout="`checkpoints/0050000.pt` with `model`, `ema`, `opt` and `args`",
        weights="`ema` and `model`",
        schedule="DiT: 1000 linear steps, noise; SiT: the linear path, velocity, as `args` says",
        command="`--autoencoder FOLDER` (an `AutoencoderKL` saved by diffusers) for latents; `--labels`, "
        "`--guidance-scale`",
        tested="that are saved by its code, not trained: its model class at width 12, two steps on noise, its save "
        "statement",
        examples=(("", "--autoencoder models/sd-vae-ft-mse --labels 10 --guidance-scale 4"),),
    )

    def claims(self, header: Header) -> bool:
        """Whether a file holds a transformer of DiT or SiT."""
        return all(name in state_of(header) for name in CLAIMED)

    def facts(self, checkpoint: Checkpoint) -> Facts:
        """Return what shapes and command line say."""
        header = read_header(checkpoint.path)
        config, arguments = config_of(header, checkpoint.path), arguments_of(header)
        folder = self._autoencoder(config, checkpoint.path)
        size = (config["sample_size"], config["sample_size"])
        shape = (*size, config["in_channels"]) if folder is None else latent.shape(folder, size)
        return Facts(
            image_shape=shape,
            model=str(arguments.get("model", "DiT")),
            parameters=sum(one.size for one in state_of(header).values()),
            conditioning="class",
            n_classes=config["num_embeds_ada_norm"],
            autoencoder=str(folder or ""),
        )

    def schedule(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return DiT's schedule (1000 linear steps, noise), or SiT's linear path, as the command line says."""
        arguments = arguments_of(read_header(checkpoint.path))
        if not is_sit(arguments):
            return schedules.DDPM | {"clip_sample": False}
        path, kind = arguments.get("path_type", "Linear"), arguments.get("prediction", "velocity")
        if (path, kind) != ("Linear", "velocity"):
            what = f"SiT with path {path} and prediction {kind} is not supported; Linear and velocity are."
            raise CheckpointError(what, checkpoint.path)
        return schedules.FLOW | {"num_train_timesteps": 1}

    def flips(self, checkpoint: Checkpoint) -> Flips:
        """Return that images were mirrored: the transform of both training scripts is fixed."""
        trainer = "SiT" if is_sit(arguments_of(read_header(checkpoint.path))) else "DiT"
        return Flips(True, f"the fixed transform of {trainer}'s train.py")

    def load(self, checkpoint: Checkpoint, scheduler_config: Mapping[str, Any], device: str) -> DiffusionModel:
        """Return the transformer, converted."""
        config, tensors, digest = self.read(checkpoint)
        files.require_unchanged(checkpoint, digest)
        table = tensors.pop("pos_embed")
        network = networks.build(config, checkpoint.path, "cpu")
        network = files.fill(network, converted(tensors, config["num_layers"]), device)
        network.pos_embed.pos_embed = table.float().to(device)
        for block in network.transformer_blocks:
            block.norm1.emb.time_proj.downscale_freq_shift = 0
        side, channels, n_classes = (config[key] for key in ("sample_size", "in_channels", "num_embeds_ada_norm"))
        plain = partial(called, network, channels)
        call = partial(mirrored, plain) if is_sit(arguments_of(read_header(checkpoint.path))) else plain
        conditioned = partial(by_class, call, n_classes, n_classes)
        folder = self._autoencoder(config, checkpoint.path)
        return DiffusionModel(
            network=unconditional(conditioned),
            scheduler=dict(scheduler_config),
            image_shape=self.image_shape(checkpoint),
            n_parameters=files.count(network),
            codec=Pixels() if folder is None else latent.load(folder, device),
            latent_shape=None if folder is None else (side, side, channels),
            conditioned=conditioned,
        )

    def read(self, checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, Any], str]:
        """Return the transformer's configuration, the weights that fit it, and the sha256 with the autoencoder's."""
        config = config_of(read_header(checkpoint.path), checkpoint.path)
        expected = {name: one.shape for name, one in state_of(read_header(checkpoint.path)).items()}
        tensors = files.chosen(checkpoint, expected, self.settings.trust_pickle)
        network = networks.build(config, checkpoint.path, "meta")
        given = converted({name: one for name, one in tensors.items() if name != "pos_embed"}, config["num_layers"])
        problem = weights.misfit(given, files.expected_of(network))
        if problem:
            raise CheckpointError(f"The weights do not fit a transformer of DiT: {problem}.", checkpoint.path)
        digest = latent.with_autoencoder(
            weights.digest(tensors, networks.described(config)), self._autoencoder(config, checkpoint.path)
        )
        return config, tensors, digest

    def _autoencoder(self, config: Mapping[str, Any], path: Path) -> Path | None:
        """Return the folder of the autoencoder, None for pictures."""
        places = [Path(self.settings.base).expanduser()] if self.settings.base else []
        places += [path.parent, path.parent.parent]
        return latent.required(config["in_channels"], places, self.settings.autoencoder, path)


def state_of(header: Header) -> dict[str, Tensor]:
    """Return the shapes of the raw weights, or of the average where they were left out."""
    content = header.content if isinstance(header.content, dict) else {}
    places = (content.get("model"), content.get("ema"), content)
    return next((found for found in map(tensors_in, places) if found), {})


def arguments_of(header: Header) -> dict[str, Any]:
    """Return the command line that a file holds, by the structure of its pickle."""
    content = header.content if isinstance(header.content, dict) else {}
    arguments = content.get("args")
    return arguments.attributes if isinstance(arguments, Opaque) else {}


def is_sit(arguments: Mapping[str, Any]) -> bool:
    """Whether the training was SiT's."""
    return str(arguments.get("model", "")).startswith("SiT")


def config_of(header: Header, path: Path) -> dict[str, Any]:
    """Return the configuration of the same transformer in diffusers."""
    try:
        return _config_of(header, path)
    except (ValueError, IndexError, KeyError, ArithmeticError) as problem:
        what = f"The shapes of the weights are not those of a transformer of DiT: {problem}."
        raise CheckpointError(what, path) from problem


def _config_of(header: Header, path: Path) -> dict[str, Any]:
    shapes = {name: one.shape for name, one in state_of(header).items()}
    hidden, channels, patch, _ = shapes["x_embedder.proj.weight"]
    side = math.isqrt(shapes["pos_embed"][1])
    heads = _heads(arguments_of(header), hidden, path)
    n_blocks = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    return {
        "_class_name": "DiTTransformer2DModel",
        "num_attention_heads": heads,
        "attention_head_dim": hidden // heads,
        "in_channels": channels,
        "out_channels": shapes["final_layer.linear.weight"][0] // patch**2,
        "num_layers": n_blocks,
        "attention_bias": True,
        "sample_size": side * patch,
        "patch_size": patch,
        "num_embeds_ada_norm": shapes["y_embedder.embedding_table.weight"][0] - 1,  # the last row stands for no class
        "norm_eps": 1e-6,
    }


def _heads(arguments: Mapping[str, Any], hidden: int, path: Path) -> int:
    name = str(arguments.get("model", ""))
    size = name.split("-")[-1].split("/")[0]
    if size not in HEADS:
        what = f"The number of attention heads is not known: the file names the model {name or 'not at all'!r}."
        raise CheckpointError(what, path, "Save it with its args, as train.py of DiT does.")
    if hidden % HEADS[size]:
        raise CheckpointError(f"{name} has {HEADS[size]} heads, which do not divide its width {hidden}.", path)
    return HEADS[size]


def converted(tensors: Mapping[str, Any], n_blocks: int) -> dict[str, Any]:
    """Return weights of DiT under the names of diffusers' class."""
    found = {}
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        if stem in WHOLE:
            found[f"{WHOLE[stem]}.{kind}"] = tensor
        elif stem in REPEATED:
            found |= {f"transformer_blocks.{i}.{REPEATED[stem]}.{kind}": tensor for i in range(n_blocks)}
        elif stem.startswith("blocks."):
            _, number, part = stem.split(".", 2)
            prefix = f"transformer_blocks.{number}."
            if part == "attn.qkv":
                thirds = zip("qkv", tensor.chunk(3), strict=True)
                found |= {f"{prefix}attn1.to_{letter}.{kind}": third for letter, third in thirds}
            else:
                found[f"{prefix}{BLOCK.get(part, part)}.{kind}"] = tensor
        else:
            found[name] = tensor
    return found


def called(network: Any, channels: int, x: Any, t: Any, condition: Any) -> Any:
    """Call the transformer; the half of its output that is a learned variance is dropped."""
    return network(x, timestep=t, class_labels=condition, return_dict=False)[0][:, :channels]


def mirrored(call: Callable[..., Any], x: Any, t: Any, condition: Any) -> Any:
    """Return SiT's velocity as that of a flow with the noise at time 1: SiT has the picture there, and x_0 - eps."""
    return -call(x, 1 - t, condition)
