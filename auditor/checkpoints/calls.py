"""Networks as they are called: whatever the code of a network raises becomes one error that says what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from auditor.checkpoints.settings import ModelSettings
from auditor.diffusion.model import Conditioned, DiffusionModel, Network
from auditor.errors import AuditError
from auditor.records import Checkpoint

NO_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")  # said by torch without a class of its own
LONGEST = 300  # letters of what the network said


def told(model: DiffusionModel, checkpoint: Checkpoint, settings: ModelSettings | None) -> DiffusionModel:
    """Return a model whose calls raise nothing but `AuditError`, which names the checkpoint and what was asked."""
    own = model.conditioned
    conditioned: Conditioned | None = own and (lambda *given: _told(own(*given), checkpoint, settings))
    return replace(model, network=_told(model.network, checkpoint, settings), conditioned=conditioned)


def _told(network: Network, checkpoint: Checkpoint, settings: ModelSettings | None) -> Network:
    def call(x: Any, t: Any) -> Any:
        try:
            return network(x, t)
        except (AuditError, MemoryError):
            raise
        except Exception as problem:  # the user's code, or a library's, may raise anything
            raise _error(problem, x, checkpoint, settings) from problem

    return call


def _error(problem: Exception, x: Any, checkpoint: Checkpoint, settings: ModelSettings | None) -> AuditError:
    """Return what went wrong when a network was called on ``x``, ``[n, c, h, w]``, and what to do about it."""
    import torch

    n, channels, height, width = x.shape
    said = " ".join(str(problem).split())[:LONGEST]
    if isinstance(problem, torch.OutOfMemoryError) or any(each in said.lower() for each in NO_MEMORY):
        what = f"The memory of {x.device} does not suffice for {n} pictures at once: {said}."
        return AuditError(what, checkpoint.path, "Give a smaller --batch-size and another --out.")
    kind = type(problem).__name__
    what = f"The network fails on {n} pictures of {height} x {width} with {channels} channels: {kind}: {said}."
    if settings is None or settings.model is None:
        return AuditError(what, checkpoint.path, "Look whether the checkpoint is of the network that its files say.")
    remedy = (
        f"Call the network of {settings.model} on such a picture in Python. If it was trained on others, give their "
        "--image-shape HEIGHTxWIDTHxCHANNELS; forward(x, t) must take numbers of x's type and device."
    )
    return AuditError(what, checkpoint.path, remedy)


def require_call(model: DiffusionModel, numbers: Any, guidance: float, times: int, device: str) -> None:
    """Call a network once on one picture of noise, so that one which cannot be called stops the audit at its start.

    ``numbers`` are the conditions of the picture, int64 ``[1]``, or None; ``times`` is the number of diffusion times.
    """
    import torch

    height, width, channels = model.x_shape
    x = torch.zeros(1, channels, height, width, device=device)
    with torch.inference_mode():
        model.given(numbers, guidance)(x, torch.full((1,), times - 1, dtype=torch.int64, device=device))
