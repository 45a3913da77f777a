"""``network-snapshot-*.pkl`` of EDM and EDM2: pickles that hold the network's own source code and run it.

They are read only with ``--trust-pickle``, with EDM's packages (``torch_utils``, ``dnnlib``) importable from the
current directory. Everything else of EDM works without: its networks' state dicts through ``--model`` and
``--prediction edm``.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from auditor.checkpoints import files, flips, latent, weights
from auditor.checkpoints.conditions import Call, guided, unconditional
from auditor.checkpoints.formats import Guide, Unusable
from auditor.checkpoints.headers import Header
from auditor.checkpoints.names import a_path
from auditor.diffusion import schedules
from auditor.diffusion.model import DiffusionModel, Network
from auditor.diffusion.scaling import Codec, Pixels
from auditor.errors import CheckpointError
from auditor.records import Checkpoint, Facts, Flips, Found

WIDTH = re.compile(r"-(0\.[0-9]{3})$")  # how far back an average of EDM2 reaches, as a share of the training


class EdmFormat(files.WeightFiles):
    """Denoisers D(x, sigma) in pickles whose maker the user trusts."""

    name = "edm"
    uses = ("autoencoder",)
    REVISION = 2
    guide = Guide(
        trainers="snapshots of EDM and EDM2",
        layout="`network-snapshot-002500.pkl`, of EDM2 `network-snapshot-0002147-0.050.pkl` and "
        "`phema-0002147-0.085.pkl`; progress in thousand images",
        weights="averages only; of several widths (EDM2 saves 0.050 and 0.100) the one that most steps have, the "
        "narrowest of equals. To choose, put links to the files of one width into a folder of their own",
        schedule="EDM's: sigma from 0.002 to 80, the network is a denoiser D(x, sigma), asked in float32",
        command="`--trust-pickle`, started where `torch_utils` and `dnnlib` of EDM can be imported: the files run "
        "code; `--autoencoder FOLDER` (an `AutoencoderKL` saved by diffusers) for latents of EDM2",
        tested="of a denoiser of the same structure, saved by the same statements; and checked, free and by class, on "
        "snapshots that the own network, loss, averaging and persistence code of EDM and of EDM2 wrote at width 4 on a "
        "CPU, which are not kept: their pickles contain its source",
        examples=(("in the folder of EDM's code", "--trust-pickle"),),
    )

    def claims(self, header: Header) -> bool:
        """Whether a file is a pickle."""
        return header.kind == "pickle"

    def find(self, root: Path) -> tuple[list[Found], Unusable]:
        """Return the snapshots under ``root``, of one width; without --trust-pickle, what would run in each."""
        found, unusable = super().find(root)
        # The dictionary of EDM2 is of a class of its own, whose content a header does not show.
        found, others = _of_one_width([replace(one, paths={"ema": a_path(one)}) for one in found])
        return found, [*unusable, *others]

    def facts(self, checkpoint: Checkpoint) -> Facts:
        """Return what the network's attributes say."""
        network = self._network(checkpoint)
        size, channels, n_classes = (_whole(network, each) for each in ("img_resolution", "img_channels", "label_dim"))
        folder = self._autoencoder(checkpoint)
        shape = (size, size, channels) if size and channels else None
        if folder is not None and size:
            shape = latent.shape(folder, (size, size))
        width = width_of(checkpoint.path)
        return Facts(
            image_shape=shape,
            model=f"{type(network).__name__}{f', average {width}' if width else ''}",
            parameters=files.count(network),
            conditioning="class" if n_classes else "none",
            n_classes=n_classes or None,
            autoencoder=str(folder or ""),
        )

    def schedule(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return EDM's process."""
        return dict(schedules.EDM)

    def flips(self, checkpoint: Checkpoint) -> Flips:
        """Return what the options of the training say beside the snapshots."""
        return flips.of_edm(checkpoint.path.parent)

    def inspect(self, checkpoint: Checkpoint) -> str:
        """Return the sha256 over the file and the autoencoder; its weights are finite."""
        weights.finite(self._network(checkpoint).state_dict(), checkpoint.path)
        return self._digest(checkpoint)

    def load(self, checkpoint: Checkpoint, scheduler_config: Mapping[str, Any], device: str) -> DiffusionModel:
        """Return the denoiser."""
        files.require_unchanged(checkpoint, self._digest(checkpoint))
        facts = self.facts(checkpoint)
        network = self._network(checkpoint).float().to(device).eval().requires_grad_(False)
        network.use_fp16 = False  # else half precision on a GPU, and another denoiser than on a CPU

        def call(x: Any, sigma: Any, condition: Any = None) -> Any:
            return network(x, sigma) if condition is None else network(x, sigma, condition)

        conditioned = partial(_by_class, call, facts.n_classes) if facts.n_classes else None
        codec: Codec = Pixels()
        latents = None
        if facts.autoencoder:
            encoder = self._content(checkpoint)["encoder"]
            autoencoder = latent.load(Path(facts.autoencoder), device)
            # EDM2 gives its autoencoder pictures in [0, 1] and makes latents of deviation 0.5, channel by channel.
            codec = latent.standardized(autoencoder, encoder.scale, encoder.bias, Pixels(0.0, 1.0))
            latents = (network.img_resolution, network.img_resolution, network.img_channels)
        return DiffusionModel(
            network=call if conditioned is None else unconditional(conditioned),
            scheduler=dict(scheduler_config),
            image_shape=self.image_shape(checkpoint),
            n_parameters=files.count(network),
            codec=codec,
            latent_shape=latents,
            conditioned=conditioned,
        )

    def _digest(self, checkpoint: Checkpoint) -> str:
        digest = sha256(checkpoint.path.read_bytes()).hexdigest()
        return latent.with_autoencoder(digest, self._autoencoder(checkpoint))

    def _autoencoder(self, checkpoint: Checkpoint) -> Path | None:
        """Return the folder of the autoencoder of a training on latents, None for pictures."""
        content = self._content(checkpoint)
        channels = _whole(content["ema"], "img_channels")
        if not hasattr(content.get("encoder"), "scale"):  # EDM has no encoder, and that of pictures no scale
            if channels not in (0, 1, 3):
                what = f"The network takes {channels} channels, and no scale of latents is in the file."
                raise CheckpointError(what, checkpoint.path, "Give snapshots of EDM2 with their encoder.")
            return None
        return latent.required(channels, [checkpoint.path.parent], self.settings.autoencoder, checkpoint.path)

    def _network(self, checkpoint: Checkpoint) -> Any:
        return self._content(checkpoint)["ema"]

    def _content(self, checkpoint: Checkpoint) -> Mapping[str, Any]:
        if not self.settings.trust_pickle:
            raise CheckpointError("A pickle runs code when it is read.", checkpoint.path, weights.REFUSED)
        return _unpickled(checkpoint.path, checkpoint.path.stat().st_mtime_ns)


def width_of(path: Path) -> str:
    """Return the width of the average that the name of a file of EDM2 states, else an empty string."""
    stated = WIDTH.search(path.stem)
    return stated[1] if stated else ""


def _of_one_width(found: list[Found]) -> tuple[list[Found], Unusable]:
    """Return the averages of the width that most steps have, the narrowest of equals, and the others with the reason.

    Two widths are two models of one training; the narrowest says most of the step at which it was saved.
    """
    widths = {id(one): width_of(a_path(one)) for one in found}
    counts = Counter(widths.values())
    if len(counts) < 2:
        return found, []
    chosen = min(counts, key=lambda width: (-counts[width], not width, width))  # no width stated: last of equals
    said = f"averages of width {chosen}" if chosen else "averages whose names state no width"
    reason = f"{said} are audited; for another, put links to its files into a folder of their own"
    others = [(one.step, a_path(one), reason) for one in found if widths[id(one)] != chosen]
    return [one for one in found if widths[id(one)] == chosen], others


@lru_cache(maxsize=2)
def _unpickled(path: Path, mtime: int) -> Mapping[str, Any]:
    sys.path.insert(0, str(Path.cwd()))
    try:
        content = weights.payload(path, trusted=True)
    except CheckpointError:
        raise
    except Exception as problem:  # the code that runs may raise anything
        what = f"{path.name} cannot be unpickled: {type(problem).__name__}: {problem}."
        raise CheckpointError(what, path, "Start the audit where torch_utils and dnnlib of EDM are.") from problem
    finally:
        sys.path.remove(str(Path.cwd()))
    network = content.get("ema") if isinstance(content, Mapping) else None
    if not callable(network) or not hasattr(network, "state_dict"):
        raise CheckpointError(f"{path.name} holds no network under 'ema'.", path, "Give snapshots of EDM.")
    return content


def _whole(network: Any, name: str) -> int:
    value = getattr(network, name, 0)
    return value if type(value) is int else 0


def _by_class(call: Call, n_classes: int, numbers: np.ndarray, guidance: float) -> Network:
    """Return the denoiser for rows of these classes, as EDM takes them: one-hot, and zeros for none."""
    import torch

    table = torch.cat([torch.eye(n_classes), torch.zeros(1, n_classes)])
    rows = torch.from_numpy(np.where(np.asarray(numbers) < 0, n_classes, numbers)).long()
    return guided(call, table[rows], table[torch.full_like(rows, n_classes)], guidance)
