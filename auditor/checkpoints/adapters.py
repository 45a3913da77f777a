"""What files of LoRA say of themselves: whether they are one, at what scale, and how their training differed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auditor.checkpoints.headers import SAVE_AGAIN, Header, scalars, tensors_in
from auditor.errors import CheckpointError

WRAPPED = ".base_layer."  # in the whole network of a training by peft, which accelerate saves beside its LoRA
DOWN = (".lora_A.", ".lora.down.", ".lora_down.")
UP = (".lora_B.", ".lora.up.", ".lora_up.")
MARKS = (*DOWN, *UP)
ALPHA = ".alpha"
PEFT = "lora_adapter_metadata"  # settings of peft that newer training scripts write into the header
PARTS = ("unet", "text_encoder")  # of a pipeline: the networks that a LoRA may change
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
    """Return ranks and scales of a LoRA in words, as they are loaded; a ``CheckpointError`` where they are no numbers.

    A layer's alpha weight states its scale, else the settings of peft in the header do, else it is 1.
    """
    state = tensors_in(header.content)
    alphas = scalars(path, ALPHA) if header.kind == "safetensors" else {}
    layers = {module: (rank, alphas.get(f"{module}{ALPHA}")) for module, rank in ranks(state).items()}
    for module, (rank, alpha) in layers.items():
        if rank == 0 or not math.isfinite(alpha or 0):
            raise _no_scale(f"The LoRA layer {module} is of rank {rank}", alpha, path)
    every = "/".join(map(str, sorted({rank for rank, _ in layers.values()})))
    if any(name.endswith(ALPHA) and name not in alphas for name in state):  # of torch, or of a type that is no number's
        return f"LoRA of rank {every}, at the scale that its alpha weights state."
    if alphas:
        return _in_words(Counter(layers.values()))
    stated = header.stated(PEFT)
    said = dict.fromkeys(_of_peft(one, path) for part in PARTS if (one := of_part(stated, part)))
    return " ".join(said) or f"LoRA of rank {every}; the file states no alpha, so its scale is taken as 1."


def _of_peft(stated: Mapping[str, Any], path: Path) -> str:
    """Return rank and scale in words, as the settings of peft state them."""
    stated = {name.partition(".")[2]: one for name, one in stated.items()}
    rank: Any = stated.get("r")
    alpha: Any = stated.get("lora_alpha")
    try:
        scale = float(alpha) / float(rank)
    except (ValueError, TypeError, ArithmeticError):
        scale = math.nan
    if not math.isfinite(scale):
        raise _no_scale(f"The header states a LoRA of rank {rank!r:.40}", f"{alpha!r:.40}", path)
    changed = ", ".join(one for one in ("use_rslora", "rank_pattern", "alpha_pattern") if stated.get(one))
    more = f", changed by its {changed}" if changed else ""
    return f"LoRA of rank {rank} and alpha {float(alpha):g}: scale {scale:g}{more}."


def ranks(tensors: Mapping[str, Any]) -> dict[str, int]:
    """Return the rank of every layer: the first side of its first factor."""
    modules = {name: next((name.partition(mark)[0] for mark in DOWN if mark in name), "") for name in tensors}
    return {module: int(tensors[name].shape[0]) for name, module in modules.items() if module and tensors[name].shape}


def folded(tensors: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the weights in float32 without alphas, the second factor of each layer times its alpha over its rank.

    All layers then have scale 1. What is handed alphas apart (diffusers with peft) takes one of them for all layers.
    """
    found = {name: one.float() for name, one in tensors.items() if not name.endswith(ALPHA)}
    alphas = {name.removesuffix(ALPHA): one for name, one in tensors.items() if name.endswith(ALPHA)}
    of = ranks(tensors)
    for module, alpha in alphas.items():
        if module not in of or alpha.numel() != 1:
            what = f"{module}{ALPHA} is no number of a layer of the LoRA"
            raise CheckpointError(f"{what}: it has {alpha.numel()} values.", path, SAVE_AGAIN)
    for name, one in found.items():
        module = next((name.partition(mark)[0] for mark in UP if mark in name), "")
        if module in alphas:
            found[name] = one * (float(alphas[module]) / of[module])
    return found


def _no_scale(said: str, alpha: Any, path: Path) -> CheckpointError:
    stated = "" if alpha is None else f" and alpha {alpha}"
    return CheckpointError(f"{said}{stated}: no scale follows.", path, "Its training failed, or the file is damaged.")


def _in_words(kinds: Mapping[tuple[int, float | None], int]) -> str:
    parts = []
    for (rank, alpha), n in sorted(kinds.items(), key=lambda one: (-one[1], one[0][0], one[0][1] or 0)):
        scale = "without alpha: scale 1" if alpha is None else f"and alpha {alpha:.4g}: scale {alpha / rank:.4g}"
        stated = f"rank {rank} {scale}"
        parts.append(f"{stated} ({n} layer{'s' if n > 1 else ''})" if len(kinds) > 1 else stated)
    return f"LoRA of {'; of '.join(parts)}."


def of_part(stated: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return the settings of peft for one network of the pipeline."""
    return {name: one for name, one in stated.items() if name.startswith(f"{part}.")}


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
