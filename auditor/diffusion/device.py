"""The device that networks run on, and how many images it gets at once."""

from __future__ import annotations

import math
import re

from auditor.errors import AuditError

SMALL = 32 * 32 * 3  # numbers in a picture up to which a CPU has more to do per call than per picture


def resolve_device(asked: str, earlier: str | None = None) -> str:
    """Return the device: as asked, else the ``earlier`` one of this run, else cuda where there is one."""
    import torch

    available = torch.cuda.is_available()
    device = earlier or ("cuda" if available else "cpu") if asked == "auto" else asked
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", device):
        raise AuditError(f"The device {device!r} is not known.", "--device", "Give cpu, cuda, cuda:1 or auto.")
    if device.startswith("cuda") and not available:
        raise AuditError("There is no CUDA device here.", f"--device {device}", "Give --device cpu, or auto.")
    if device.startswith("cuda:") and int(device[5:]) >= (n := torch.cuda.device_count()):
        raise AuditError(f"There are {n} CUDA devices here.", f"--device {device}", f"Give cuda:0 to cuda:{n - 1}.")
    if device.startswith("cuda"):  # TF32 would make the twins' difference depend on the card
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return device


def resolve_batch_size(
    asked: int | str, device: str, earlier: int | None, image_shape: tuple[int, int, int] | None, quick: bool
) -> int:
    """Return the batch size: as asked, else the ``earlier`` one of this run, else 64 on a CPU and 256 on a GPU.

    A quick audit, most of whose time is the overhead of calls, has 256 on a CPU, too, for small pictures.
    """
    if asked != "auto":
        return int(asked)
    small = image_shape is not None and math.prod(image_shape) <= SMALL
    return int(earlier or (256 if device != "cpu" or (quick and small) else 64))


def threads() -> int:
    """Return how many threads a network has on a CPU."""
    import torch

    return int(torch.get_num_threads())
