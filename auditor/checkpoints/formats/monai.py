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

import numpy as np

from auditor.checkpoints import Guide, ModelSettings, files, read_json, weights
from auditor.checkpoints.formats.diffusers import by_class
from auditor.checkpoints.formats.plain import count
from auditor.checkpoints.headers import Header, tensors_in
from auditor.diffusion import schedules
from auditor.diffusion.model import DiffusionModel
from auditor.errors import CheckpointError
from auditor.records import Checkpoint, Facts, Found

CLAIMED = ("conv_in.conv.weight", "time_embed.0.weight", "out.2.conv.weight")
BESIDE = "network.json"
HOW = f"Give --model-config FILE.json, or {BESIDE} beside the series, with the arguments of DiffusionModelUNet."
PREDICTIONS = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v_prediction"}


class MonaiFormat:
    """Two-dimensional diffusion U-Nets of MONAI, for pictures in [0, 1]."""

    name = "monai"
    REVISION = 1
    guide = Guide(
        "`DiffusionModelUNet` of MONAI and of MONAI GenerativeModels, two-dimensional",
        "`net_epoch=5.pt`, `net_iteration=400.pt`: state dicts, bare or under a key",
        "as saved",
        "the arguments of MONAI's `DDPMScheduler` under `scheduler` in the configuration, or `--scheduler`",
        "`--model-config network.json --image-shape 64x64x1`; pictures are taken to be scaled to [0, 1]",
        "of a training through MONAI's `DiffusionInferer`, saved as its tutorials do",
        (("", "--model-config network.json --image-shape 64x64x1"),),
    )

    def __init__(self, settings: ModelSettings | None = None) -> None:
        self.settings = settings or ModelSettings()

    def find(self, root: Path) -> tuple[list[Found], list[tuple[int, Path, str]]]:
        """Return the steps under ``root``."""
        return files.find(root, claims, self.settings)

    def facts(self, checkpoint: Checkpoint) -> Facts:
        """Return what the arguments of the network say; the size of the pictures is not among them."""
        arguments, _ = self._arguments(checkpoint)
        n_classes = arguments.get("num_class_embeds")
        kind = "none" if n_classes is None else "class"
        shape = self.settings.image_shape
        needs = kind == "class"
        n = count(checkpoint)
        return Facts(shape, "monai.DiffusionModelUNet", n, kind, n_classes, needs, pixels=(0.0, 1.0))

    def schedule(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        """Return the schedule of MONAI's scheduler, where its arguments are given beside those of the network."""
        _, scheduler = self._arguments(checkpoint)
        if scheduler is None:
            return None
        from monai.networks.schedulers import DDPMScheduler

        try:
            made = DDPMScheduler(**scheduler)
        except Exception as problem:  # a foreign class may raise anything for impossible arguments
            raise CheckpointError(f"MONAI's scheduler cannot be built: {problem}.", checkpoint.path, HOW) from problem
        kind = getattr(made.prediction_type, "value", made.prediction_type)
        return schedules.by_betas(made.betas.double().numpy(), PREDICTIONS[str(kind)], bool(made.clip_sample))

    def inspect(self, checkpoint: Checkpoint) -> str:
        """Return the sha256 over weights and arguments; the weights fit the network, and are finite."""
        return self._read(checkpoint)[2]

    def load(self, checkpoint: Checkpoint, scheduler_config: Mapping[str, Any], device: str) -> DiffusionModel:
        """Return the network."""
        network, tensors, digest = self._read(checkpoint)
        files.require_unchanged(checkpoint, digest)
        network = files.fill(network, tensors, device)
        n_classes = network.num_class_embeds

        def call(x: Any, t: Any, condition: Any = None) -> Any:
            return network(x, timesteps=t, class_labels=condition)[:, : x.shape[1]]

        conditioned = None if n_classes is None else partial(by_class, call, n_classes, None)
        free = call if conditioned is None else lambda x, t: conditioned(np.full(len(x), -1), 1.0)(x, t)
        n_parameters = sum(one.numel() for one in network.parameters())
        shape = self.settings.image_shape
        return DiffusionModel(free, dict(scheduler_config), shape, n_parameters, conditioned=conditioned)

    def _read(self, checkpoint: Checkpoint) -> tuple[Any, dict[str, Any], str]:
        arguments, _ = self._arguments(checkpoint)
        expected = files.expected_of(_network(arguments, checkpoint.path, "meta"))
        tensors = files.chosen(checkpoint, expected, self.settings.trust_pickle)
        network = _network(arguments, checkpoint.path, "cpu")  # of a size that the weights have shown to be real
        return network, tensors, weights.digest(tensors, sorted(arguments.items()))

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


def claims(path: Path, header: Header) -> bool:
    """Whether a file holds a U-Net of MONAI, bare or under a key."""
    content = header.content if isinstance(header.content, dict) else {}
    states = [tensors_in(content), *(tensors_in(content.get(key)) for key in (*weights.RAW_KEYS, *weights.EMA_KEYS))]
    return any(any(name.endswith(CLAIMED[0]) for name in state) and _has(state, CLAIMED[1]) for state in states)


def _has(state: Mapping[str, Any], name: str) -> bool:
    return any(each.endswith(name) for each in state)


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


def _network(arguments: Mapping[str, Any], path: Path, device: str) -> Any:
    import torch

    try:
        from monai.networks.nets import DiffusionModelUNet
    except ImportError as problem:
        raise CheckpointError("monai is not installed.", path, "pip install monai") from problem
    if arguments.get("spatial_dims") != 2 or arguments.get("with_conditioning"):
        what = (
            f"spatial_dims is {arguments.get('spatial_dims')}, with_conditioning {arguments.get('with_conditioning')}."
        )
        raise CheckpointError(what, path, "Two-dimensional networks, free or by class, are supported.")
    with torch.random.fork_rng(devices=[]), torch.device(device):
        try:
            return DiffusionModelUNet(**arguments)
        except Exception as problem:
            raise CheckpointError(f"DiffusionModelUNet cannot be built: {problem}.", path, HOW) from problem
