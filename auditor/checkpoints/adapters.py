"""What files of LoRA say of themselves: whether they are one, at what scale, and how their training differed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auditor.checkpoints.headers import Header, scalars, tensors_in

WRAPPED = ".base_layer."  # in the whole network of a training by peft, which accelerate saves beside its LoRA
DOWN = (".lora_A.", ".lora.down.", ".lora_down.")
MARKS = (*DOWN, ".lora_B.", ".lora.up.", ".lora_up.")
ALPHA = ".alpha"
# Of LyCORIS: products of Hadamard and Kronecker, rotations.
RELATIVES = (".hada_w", ".lokr_w", ".oft_blocks", ".oft_diag")
PREDICTIONS = {"v": "v_prediction", "epsilon": "epsilon"}


def is_adapter(header: Header) -> bool:
    """Whether a file holds LoRA weights, or weights of its relatives; no whole network has them."""
    state = tensors_in(header.content) if header.kind != "pickle" else {}
    return any(mark in name for name in state for mark in (*MARKS, *RELATIVES)) and not any(
        WRAPPED in name for name in state
    )


def foreign(header: Header) -> str:
    """Return why a file is more than a LoRA, which would be audited without the rest; empty where it is one."""
    others = [name for name in tensors_in(header.content) if not is_weight(name) and not name.endswith(ALPHA)]
    if not others:
        return ""
    said = f"{others[0]} is no weight"
    if len(others) > 1:
        said = f"{others[0]} and {len(others) - 1} more are no weights"
    return (
        f"{said} of a LoRA: LoHa, LoKr and other kinds of LyCORIS, DoRA, trained scalars and "
        "embeddings are not supported. Samples of theirs can be audited instead (--samples-a, --samples-b)"
    )


def is_weight(name: str) -> bool:
    """Whether a tensor is one of the two factors of a LoRA."""
    return any(mark in name for mark in MARKS)


def scale(path: Path, header: Header) -> str:
    """Return ranks and scales of a LoRA in words: from its own weights where it holds alphas, else from its header."""
    state = tensors_in(header.content)
    alphas = scalars(path, ALPHA) if header.kind == "safetensors" else {}
    kinds = Counter(
        (one.shape[0], alphas.get(f"{module}{ALPHA}"))
        for name, one in state.items()
        for module in [_module_of(name)]
        if module and one.shape
    )
    if alphas and kinds:
        return _in_words(kinds)
    stated = adapter_metadata(header)
    rank, alpha = header.metadata.get("ss_network_dim"), header.metadata.get("ss_network_alpha")
    if rank is None and stated:
        rank, alpha = (next((stated[key] for key in stated if key.endswith(end)), None) for end in ("r", "lora_alpha"))
    if rank is None:
        rank = "/".join(map(str, sorted({rank for rank, _ in kinds})))
    if any(name.endswith(ALPHA) for name in state):
        return f"LoRA of rank {rank}, at the scale that its alpha weights state."
    if alpha is None:
        return f"LoRA of rank {rank}; the file states no alpha, so its scale is taken as 1."
    try:
        return f"LoRA of rank {rank} and alpha {float(alpha):g}: scale {float(alpha) / float(rank):g}."
    except (ValueError, TypeError, ArithmeticError):
        return f"LoRA whose header states rank {rank!r} and alpha {alpha!r}, which are no numbers."


def _module_of(name: str) -> str:
    """Return the layer of which a tensor is the first factor; empty for any other tensor."""
    return next((name.partition(mark)[0] for mark in DOWN if mark in name), "")


def _in_words(kinds: Mapping[tuple[int, float | None], int]) -> str:
    parts = []
    for (rank, alpha), n in sorted(kinds.items(), key=lambda one: (-one[1], one[0][0], one[0][1] or 0)):
        stated = f"rank {rank} without alpha: scale 1" if alpha is None else ""
        stated = stated or f"rank {rank} and alpha {alpha:.4g}: scale {alpha / rank if rank else 0:.4g}"
        parts.append(f"{stated} ({n} layer{'s' if n > 1 else ''})" if len(kinds) > 1 else stated)
    return f"LoRA of {'; of '.join(parts)}."


def clip_skip(header: Header) -> int:
    """Return which layer of the text encoder, counted from the last (1), gave the prompts in kohya's training."""
    stated = header.metadata.get("ss_clip_skip", header.metadata.get("modelspec.encoder_layer", ""))
    return max(1, int(stated)) if stated.isdecimal() and len(stated) < 3 else 1


def schedule(base: Mapping[str, Any], header: Header) -> dict[str, Any]:
    """Return the schedule of the base as kohya's header changes it: what is predicted, and pure noise at the end."""
    changed = dict(base)
    if (stated := header.metadata.get("modelspec.prediction_type")) in PREDICTIONS:
        changed["prediction_type"] = PREDICTIONS[stated]
    if header.metadata.get("ss_zero_terminal_snr") == "True":
        changed["rescale_betas_zero_snr"] = True
    return changed


def adapter_metadata(header: Header) -> dict[str, Any]:
    """Return the settings of peft that newer training scripts write into the header."""
    try:
        found = json.loads(header.metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
