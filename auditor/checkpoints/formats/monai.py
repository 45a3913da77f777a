"""State dicts of MONAI's ``DiffusionModelUNet`` in two dimensions.

MONAI saves weights alone. ``--model-config``, or ``network.json`` beside the series, gives the arguments of the
network: as they are, or under ``network_def`` of a bundle. Bundles may hold Python expressions, which are not
evaluated: a value that is one is an error. ``scheduler`` in the same file gives the arguments of MONAI's
``DDPMScheduler``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from auditor.checkpoints import files, weights
from auditor.checkpoints.conditions import by_class, unconditional
from auditor.checkpoints.configs import read_json
from auditor.checkpoints.formats import Guide
from auditor.checkpoints.headers import Header, read_header, tensors_in
from auditor.diffusion import schedules
from auditor.diffusion.model import Conditioned, Network
from auditor.errors import CheckpointError
from auditor.records import Checkpoint, Facts

CLAIMED = ("conv_in.conv.weight", "time_embed.0.weight")
BESIDE = "network.json"
HOW = f"Give --model-config FILE.json, or {BESIDE} beside the series, with the arguments of DiffusionModelUNet."
SUPPORTED = "in two dimensions, free or by class, is supported"
VOLUMES = "docs/data.md, Medical data"
OTHERS = {  # what names of their tensors hold -> networks that take more than pictures, times and classes
    "controlnet_cond_embedding.": "ControlNet",
    "mlp_shared.": "SPADEDiffusionModelUNet",
    "spacing_layer.": "DiffusionModelUNetMaisi",
    "top_region_index_layer.": "DiffusionModelUNetMaisi",
}
PREDICTIONS = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v_prediction"}


class MonaiFormat(files.WeightFiles):
    """Two-dimensional diffusion U-Nets of MONAI, for pictures in [0, 1]."""

    name = "monai"
    uses = ("model_config",)
    REVISION = 1
    guide = Guide(
        trainers="`DiffusionModelUNet` of MONAI and of MONAI GenerativeModels, two-dimensional",
        layout="`net_epoch=5.pt`, `net_iteration=400.pt`: state dicts, bare or under a key",
        weights="as saved",
        schedule="the arguments of MONAI's `DDPMScheduler` under `scheduler` in the configuration, or `--scheduler`",
        command="`--model-config network.json --image-shape 64x64x1`; pictures are taken to be scaled to [0, 1]",
        tested="of a training through MONAI's `DiffusionInferer`, saved as its tutorials do",
        examples=(("", "--model-config network.json --image-shape 64x64x1"),),
    )

    def claims(self, header: Header) -> bool:
        """Whether a file holds a U-Net of MONAI, bare or under a key."""
        content = header.content if isinstance(header.content, dict) else {}
        places = (content, *(content.get(key) for key in (*weights.RAW_KEYS, *weights.EMA_KEYS)))
        states = [tuple(tensors_in(place)) for place in places]
        return any(all(any(name.endswith(one) for name in state) for one in CLAIMED) for state in states)

    def facts(self, checkpoint: Checkpoint) -> Facts:
        """Return what the arguments of the network say; the size of the pictures is not among them."""
        refuse_others(checkpoint)
        arguments, _ = self._arguments(checkpoint)
        n_classes = arguments.get("num_class_embeds")
        kind = "none" if n_classes is None else "class"
        return Facts(
            image_shape=self.settings.image_shape,
            model="monai.DiffusionModelUNet",
            parameters=files.n_values(checkpoint),
            conditioning=kind,
            n_classes=n_classes,
            needs_class=kind == "class",
            pixels=(0.0, 1.0),
        )

    def schedule(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        """Return the schedule of MONAI's scheduler, where its arguments are given beside those of the network."""
        _, scheduler = self._arguments(checkpoint)
        if scheduler is None:
            return None
        path, failed = checkpoint.path, "MONAI's scheduler cannot be built"
        of_class = files.foreign_class("monai.networks.schedulers", "DDPMScheduler", path)
        made = files.made(of_class, scheduler, "cpu", failed=failed, path=path, remedy=HOW)
        kind = getattr(made.prediction_type, "value", made.prediction_type)
        return schedules.by_betas(made.betas.double().numpy(), PREDICTIONS[str(kind)], bool(made.clip_sample))

    def built(self, checkpoint: Checkpoint, device: str) -> tuple[Any, object]:
        """Return the U-Net that the arguments describe, and the arguments."""
        arguments, path = self._arguments(checkpoint)[0], checkpoint.path
        of_class = files.foreign_class("monai.networks.nets", "DiffusionModelUNet", path)
        sides, by_more = (arguments.get(key) for key in ("spatial_dims", "with_conditioning"))
        if sides != 2 or by_more:
            what = f"spatial_dims is {sides}, with_conditioning {by_more}."
            raise CheckpointError(what, path, "Two-dimensional networks, free or by class, are supported.")
        failed = "DiffusionModelUNet cannot be built"
        return files.made(of_class, arguments, device, failed=failed, path=path, remedy=HOW), sorted(arguments.items())

    def called(self, network: Any) -> tuple[Network, Conditioned | None]:
        """Return the network without the half of its output that is a learned variance."""

        def call(x: Any, t: Any, condition: Any = None) -> Any:
            return network(x, timesteps=t, class_labels=condition)[:, : x.shape[1]]

        if network.num_class_embeds is None:
            return call, None
        conditioned = partial(by_class, call, network.num_class_embeds, None)
        return unconditional(conditioned), conditioned

    def _arguments(self, checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return the arguments of the network and, where they are given, of the scheduler."""
        given = self.settings.model_config
        path = Path(given).expanduser() if given else checkpoint.path.parent / BESIDE
        if not path.is_file():
            raise CheckpointError("The arguments of the network are not saved with it.", checkpoint.path, HOW)
        whole = read_json(path, CheckpointError)
        network, scheduler = (whole.get(key) for key in ("network_def", "scheduler"))
        network = network if isinstance(network, dict) else {k: v for k, v in whole.items() if k != "scheduler"}
        return _literal(network, path), _literal(scheduler, path) if isinstance(scheduler, dict) else None


def refuse_others(checkpoint: Checkpoint) -> None:
    """Refuse MONAI's other networks by their name, and those for volumes."""
    content = read_header(checkpoint.path).content
    content = content if isinstance(content, dict) else {}
    places = (content, *(content.get(key) for key in (*weights.RAW_KEYS, *weights.EMA_KEYS)))
    tensors = {name: tensor for place in places for name, tensor in tensors_in(place).items()}
    for part, network in OTHERS.items():
        if any(part in name for name in tensors):
            raise CheckpointError(f"This is a {network} of MONAI.", checkpoint.path, f"DiffusionModelUNet {SUPPORTED}.")
    if any(name.endswith(CLAIMED[0]) and len(tensor.shape) == 5 for name, tensor in tensors.items()):
        what = "This network of MONAI is three-dimensional."
        remedy = f"No network is called on volumes: give slices of its samples by --samples-a and -b ({VOLUMES})."
        raise CheckpointError(what, checkpoint.path, remedy)


def _literal(arguments: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return arguments without MONAI's own keys, refusing expressions that it would evaluate."""
    plain = {}
    for key, value in arguments.items():
        if key.startswith("_"):
            continue
        if isinstance(value, str) and value.startswith(("$", "@", "%")):
            what = f"{key} is the expression {value!r}, which would have to be run."
            raise CheckpointError(what, path, "Write its value.")
        plain["channels" if key == "num_channels" else key] = value  # the name in MONAI's earlier package
    return plain
