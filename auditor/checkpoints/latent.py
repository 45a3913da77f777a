"""Autoencoders of latent models: one for both twins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from auditor.checkpoints import networks
from auditor.diffusion.scaling import Pixels
from auditor.errors import CheckpointError

CLASSES = ("AutoencoderKL", "VQModel")
FOLDERS = ("vae", "vqvae")
AT_ONCE = 8  # pictures per call of the autoencoder


@dataclass(frozen=True)
class Autoencoder:
    """Pictures to latents and back, as the pipelines of diffusers do it."""

    network: Any
    scaling: Any  # a number, or float32 [1, c, 1, 1]
    shift: Any
    pixels: Pixels = field(default_factory=Pixels)

    def encode(self, images: np.ndarray, device: str = "cpu") -> Any:
        """Return float32 ``[n, c, h, w]``: the mode of the encoder's distribution, scaled."""
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), AT_ONCE):
                found = self.network.encode(self.pixels.encode(images[start : start + AT_ONCE], device))
                latents = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents
                parts.append((latents - self.shift) * self.scaling)
        return torch.cat(parts)

    def decode(self, x: Any) -> np.ndarray:
        """Return uint8 ``[n, h, w, c]``."""
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(x), AT_ONCE):
                decoded = self.network.decode(x[start : start + AT_ONCE] / self.scaling + self.shift).sample
                parts.append(self.pixels.decode(decoded))
        return np.concatenate(parts)


def find(places: list[Path], given: str | None) -> Path | None:
    """Return the folder of the autoencoder: as given by --autoencoder, else the first beside the network."""
    if given is not None:
        folder = Path(given).expanduser()
        return folder if (folder / networks.CONFIG).is_file() else folder / "vae"
    return next(
        (place / name for place in places for name in FOLDERS if (place / name / networks.CONFIG).is_file()), None
    )


def required(n_channels: int, places: list[Path], given: str | None, path: Path) -> Path | None:
    """Return the folder of the autoencoder of a network that takes so many channels; None for pictures."""
    remedy = "Give the autoencoder of the training: --autoencoder FOLDER."
    folder = find(places, given)
    if folder is None and n_channels not in (1, 3):
        raise CheckpointError(f"The network takes {n_channels} channels, so it draws latents.", path, remedy)
    if folder is not None and channels(folder) != n_channels:
        what = f"The autoencoder has {channels(folder)} channels, the network {n_channels}."
        raise CheckpointError(what, folder, remedy)
    return folder


def shape(folder: Path, latent: tuple[int, int]) -> tuple[int, int, int]:
    """Return (h, w, c) of the pictures for latents of this size."""
    config = networks.config_of(folder, CLASSES)
    factor = 2 ** (len(config["block_out_channels"]) - 1)
    return latent[0] * factor, latent[1] * factor, int(config["out_channels"])


def channels(folder: Path) -> int:
    """Return how many channels the latents have."""
    return int(networks.config_of(folder, CLASSES)["latent_channels"])


def with_autoencoder(digest: str, folder: Path | None) -> str:
    """Return the sha256 over a network's digest and the files of its autoencoder; the digest alone for pictures."""
    return digest if folder is None else sha256(f"{digest}{networks.folder_digest(folder)}".encode()).hexdigest()


def load(folder: Path, device: str) -> Autoencoder:
    """Return the autoencoder in float32 on a device."""
    return _load(folder, networks.folder_digest(folder), device)


@lru_cache(maxsize=2)
def _load(folder: Path, digest: str, device: str) -> Autoencoder:
    found = networks.read(folder, CLASSES)
    config: Mapping[str, Any] = found.config
    scaling, shift = (config.get(key) for key in ("scaling_factor", "shift_factor"))
    scaling = 0.18215 if scaling is None else scaling  # what AutoencoderKL assumes
    if type(scaling) not in (int, float) or scaling <= 0:
        raise CheckpointError(f"scaling_factor {scaling} is no scale.", folder / networks.CONFIG)
    return Autoencoder(networks.filled(found, folder, device), float(scaling), float(shift or 0.0))


def standardized(autoencoder: Autoencoder, scale: Any, bias: Any, pixels: Pixels) -> Autoencoder:
    """Return an autoencoder whose latents are ``scale`` times what it gives plus ``bias``, both float32 [c]."""
    import torch

    device = next(autoencoder.network.parameters()).device
    scale, bias = (torch.as_tensor(np.asarray(one, np.float32)).view(1, -1, 1, 1).to(device) for one in (scale, bias))
    return replace(autoencoder, scaling=scale, shift=-bias / scale, pixels=pixels)
