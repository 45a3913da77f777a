"""What a user says of the models where their files do not: the settings from which every format is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from auditor.checkpoints.configs import absence
from auditor.diffusion import schedules
from auditor.errors import AuditError
from auditor.registry import lookup


@dataclass(frozen=True)
class ModelSettings:
    """What the user says of the models, where their files do not; every format takes what concerns it."""

    format: str | None = None  # a name in the registry
    model: str | None = None  # package.module:factory
    model_config: str | None = None  # JSON file with the arguments of the network
    base: str | None = None  # folder of the pipeline that was fine-tuned
    autoencoder: str | None = None  # folder of the autoencoder of latent models
    prediction: str | None = None  # epsilon, v, sample, flow, edm, ve
    image_shape: tuple[int, int, int] | None = None  # (h, w, c)
    trust_pickle: bool = False
    prompts: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.format is not None:
            lookup("format", self.format)
        if self.prediction is not None and self.prediction not in schedules.PREDICTIONS:
            choices = ", ".join(("epsilon", "v", "sample", *schedules.CONTINUOUS))
            raise AuditError(
                f"There is no prediction type {self.prediction!r}.", "--prediction", f"Choose from {choices}."
            )
        for name, given, holding in (
            ("--base", self.base, ("model_index.json", "unet", "transformer", "scheduler", "vae")),
            ("--autoencoder", self.autoencoder, ("config.json", "vae")),
        ):
            _require_holding(name, given, holding)


def _require_holding(option: str, given: str | None, names: Sequence[str]) -> None:
    """Refuse a folder that is not there, or that holds nothing of what one looks for in it."""
    folder = Path(given or ".").expanduser()
    if given is None or any((folder / name).exists() for name in names):
        return
    what = f"holds no {' and no '.join(names)}" if folder.is_dir() else absence(folder)
    remedy = f"Give a folder that diffusers' save_pretrained wrote, with {' or '.join(names)}."
    raise AuditError(f"The folder {given} {what}.", option, remedy)
