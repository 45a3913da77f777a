"""``network-snapshot-*.pkl`` of EDM and EDM2: pickles that hold the network's own source code and run it.

They are read only with ``--trust-pickle``, with EDM's packages (``torch_utils``, ``dnnlib``) importable from the
current directory. Everything else of EDM works without: its networks' state dicts through ``--model`` and
``--prediction edm``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from auditor import schedules
from auditor.checkpoints import Guide, ModelSettings, flips, series, weights
from auditor.checkpoints.headers import Header
from auditor.errors import CheckpointError
from auditor.records import Checkpoint, DiffusionModel, Facts, Flips, Found


class EdmFormat:
    """Denoisers D(x, sigma) in pickles whose maker the user trusts."""

    name = "edm"
    REVISION = 1
    guide = Guide(
        "snapshots of EDM and EDM2",
        "`network-snapshot-002500.pkl`; progress in thousand images",
        "averages only",
        "EDM's: sigma from 0.002 to 80, the network is a denoiser D(x, sigma)",
        "`--trust-pickle`, started where `torch_utils` and `dnnlib` of EDM can be imported: the files run code",
        "of a denoiser of the same structure, saved by the same statement; and checked, free and by class, on "
        "snapshots that EDM's own network, loss and persistence code wrote at width 4 on a CPU, which are not kept: "
        "their pickles contain its source. EDM2: not checked",
        (("in the folder of EDM's code", "--trust-pickle"),),
    )

    def __init__(self, settings: ModelSettings | None = None) -> None:
        self.settings = settings or ModelSettings()

    def find(self, root: Path) -> tuple[list[Found], list[tuple[int, Path, str]]]:
        """Return the snapshots under ``root``; without --trust-pickle, what would run in each."""
        return series.find(root, claims, self.settings)

    def facts(self, checkpoint: Checkpoint) -> Facts:
        """Return what the network's attributes say."""
        network = self._network(checkpoint)
        size, channels, n_classes = (_whole(network, each) for each in ("img_resolution", "img_channels", "label_dim"))
        shape = (size, size, channels) if size and channels else None
        n = sum(one.numel() for one in network.parameters())
        kind = "class" if n_classes else "none"
        return Facts(shape, type(network).__name__, n, kind, n_classes or None)

    def schedule(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Return EDM's process."""
        return dict(schedules.EDM)

    def flips(self, checkpoint: Checkpoint) -> Flips:
        """Return what the options of the training say beside the snapshots."""
        return flips.of_edm(checkpoint.path.parent)

    def inspect(self, checkpoint: Checkpoint) -> str:
        """Return the sha256 over the file; its weights are finite."""
        network = self._network(checkpoint)
        weights.finite(network.state_dict(), checkpoint.path)
        return sha256(checkpoint.path.read_bytes()).hexdigest()

    def load(self, checkpoint: Checkpoint, scheduler_config: Mapping[str, Any], device: str) -> DiffusionModel:
        """Return the denoiser."""
        series.require_unchanged(checkpoint, sha256(checkpoint.path.read_bytes()).hexdigest())
        facts = self.facts(checkpoint)
        network = self._network(checkpoint).float().to(device).eval().requires_grad_(False)

        def call(x: Any, sigma: Any, condition: Any = None) -> Any:
            return network(x, sigma) if condition is None else network(x, sigma, condition)

        conditioned = partial(_by_class, call, facts.n_classes) if facts.n_classes else None
        free = call if conditioned is None else lambda x, t: conditioned(np.full(len(x), -1), 1.0)(x, t)
        shape = facts.image_shape or self.settings.image_shape
        return DiffusionModel(free, dict(scheduler_config), shape, facts.parameters, conditioned=conditioned)

    def _network(self, checkpoint: Checkpoint) -> Any:
        if not self.settings.trust_pickle:
            raise CheckpointError("A pickle runs code when it is read.", checkpoint.path, weights.REFUSED)
        return _unpickled(checkpoint.path, checkpoint.path.stat().st_mtime_ns)


def claims(path: Path, header: Header) -> bool:
    """Whether a file is a pickle."""
    return header.kind == "pickle"


@lru_cache(maxsize=2)
def _unpickled(path: Path, mtime: int) -> Any:
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
    return network


def _whole(network: Any, name: str) -> int:
    value = getattr(network, name, 0)
    return value if type(value) is int else 0


def _by_class(call: Any, n_classes: int, numbers: np.ndarray, guidance: float) -> Any:
    """Return the denoiser for rows of these classes, as EDM takes them: one-hot, and zeros for none."""
    import torch

    from auditor.checkpoints.diffusers import guided

    table = torch.cat([torch.eye(n_classes), torch.zeros(1, n_classes)])
    rows = torch.from_numpy(np.where(np.asarray(numbers) < 0, n_classes, numbers)).long()
    return guided(call, table[rows], table[torch.full_like(rows, n_classes)], guidance)
