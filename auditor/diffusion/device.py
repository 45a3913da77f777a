"""The device that networks run on, and how many images it gets at once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from auditor.config import AuditConfig
from auditor.errors import AuditError
from auditor.records import Facts

SMALL = 32 * 32 * 3  # numbers in a picture up to which a CPU has more to do per call than per picture


def resolve_device(asked: str, earlier: Mapping[str, Any]) -> str:
    """Return the device: as asked, as before in this run, or cuda where there is one."""
    import torch

    available = torch.cuda.is_available()
    device = earlier.get("device") or ("cuda" if available else "cpu") if asked == "auto" else asked
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


def resolve_batch_size(config: AuditConfig, device: str, earlier: Mapping[str, Any], facts: Facts) -> int:
    """Return the batch size: as asked, as before in this run, 64 on a CPU and 256 on a GPU.

    A quick audit, most of whose time is the overhead of calls, has 256 on a CPU, too, for small pictures.
    """
    if config.batch_size != "auto":
        return int(config.batch_size)
    many = device != "cpu" or (config.quick and math.prod(facts.image_shape) <= SMALL)
    return int(earlier.get("batch_size") or (256 if many else 64))


def threads() -> int:
    """Return how many threads a network has on a CPU."""
    import torch

    return int(torch.get_num_threads())
