"""The checkpoints of a training: found, read through, and loaded; ``pairing.py`` aligns those of two twins.

What a format offers stands in ``formats/__init__.py``, what a user may say of the models in ``settings.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from auditor.checkpoints import calls
from auditor.checkpoints.discovery import Discovery, discover
from auditor.checkpoints.formats import open_format
from auditor.checkpoints.recipe import check_compatible, model_facts, scheduler_config
from auditor.checkpoints.settings import ModelSettings
from auditor.diffusion import schedules
from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.scaling import Codec
from auditor.records import Checkpoint, Flips

__all__ = [
    "Discovery",
    "ModelSettings",
    "check_compatible",
    "discover",
    "flips_of",
    "inspect",
    "load",
    "model_facts",
    "open_format",
    "scheduler_config",
]


def inspect(checkpoint: Checkpoint, settings: ModelSettings | None = None) -> Checkpoint:
    """Return the checkpoint with its digest, after reading every byte that ``load`` reads.

    Raises
    ------
    CheckpointError
        If a file is truncated or corrupt, the weights do not fit the configuration, or
        a weight is not finite. The rest of the series can still be audited.
    """
    return replace(checkpoint, digest=open_format(checkpoint.format, settings).inspect(checkpoint))


def flips_of(checkpoint: Checkpoint, settings: ModelSettings | None = None) -> Flips:
    """Return whether the training mirrored its images, as far as its files say it."""
    return open_format(checkpoint.format, settings).flips(checkpoint)


def load(
    checkpoint: Checkpoint,
    scheduler_config: Mapping[str, Any],
    device: str,
    settings: ModelSettings | None = None,
    pixels: Codec | None = None,
) -> DiffusionModel:
    """Return the model in float32 on ``device``, in evaluation mode, without gradients, in the convention inside.

    Parameters
    ----------
    checkpoint, scheduler_config, settings
        What to load, its noise schedule, and what the user says of it.
    device
        A torch device.
    pixels
        How pictures are scaled for it; None leaves what the format says. Models with an autoencoder have their own.
    """
    model = calls.told(
        open_format(checkpoint.format, settings).load(checkpoint, scheduler_config, device), checkpoint, settings
    )
    own = model.conditioned
    return replace(
        model,
        network=schedules.convert(model.network, scheduler_config),
        conditioned=own and (lambda *given: schedules.convert(own(*given), scheduler_config)),
        codec=pixels if pixels is not None and model.latent_shape is None else model.codec,
    )
