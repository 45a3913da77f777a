"""Prompts for text-conditional networks: encoded once, by the text encoder that lies with the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditor.errors import CheckpointError

ENCODER, TOKENIZER = "text_encoder", "tokenizer"


@dataclass(frozen=True)
class Prompts:
    """Embeddings of the prompts in order, and of the empty prompt as the last."""

    embeddings: Any  # float32 [n + 1, tokens, width]

    def rows(self, numbers: Any) -> Any:
        """Return the embeddings of condition numbers; -1 is the empty prompt."""
        return self.embeddings[numbers]


def find(places: list[Path], name: str) -> Path | None:
    """Return the folder of a component, the first beside the network."""
    return next((place / name for place in places if (place / name).is_dir()), None)


def load_encoder(folder: Path, device: str) -> Any:
    """Return the CLIP text encoder of a pipeline."""
    from transformers import CLIPTextModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError("The text encoder has no safetensors weights.", folder, "Save it again with safetensors.")
    try:
        encoder = CLIPTextModel.from_pretrained(str(folder), use_safetensors=True, local_files_only=True)
    except Exception as problem:  # transformers raises what it likes for damaged files
        what = f"The text encoder cannot be read: {str(problem).splitlines()[0][:200]}."
        raise CheckpointError(what, folder, "Copy or save it again.") from problem
    return encoder.float().to(device).eval().requires_grad_(False)


def skip_layers(encoder: Any, skip: int, path: Path) -> None:
    """Let an encoder end at its layer ``skip`` from the last, as trainers with a clip skip do; 1 leaves it whole."""
    inner = getattr(encoder, "text_model", encoder).encoder
    if skip > len(inner.layers):
        what = f"The text encoder has {len(inner.layers)} layers, and the training skipped {skip - 1}."
        raise CheckpointError(what, path, "Give the pipeline that was fine-tuned: --base FOLDER.")
    inner.layers = inner.layers[: len(inner.layers) - (skip - 1)]


def encode(encoder: Any, tokenizer_folder: Path, prompts: Sequence[str], device: str) -> Prompts:
    """Return the embeddings of the prompts as Stable Diffusion 1 and 2 use them: the last hidden state."""
    import torch
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(tokenizer_folder), local_files_only=True)
    except Exception as problem:
        what = f"The tokenizer cannot be read: {str(problem).splitlines()[0][:200]}."
        raise CheckpointError(what, tokenizer_folder, "Copy or save it again.") from problem
    length = min(int(tokenizer.model_max_length), int(encoder.config.max_position_embeddings))
    options = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
    with torch.inference_mode():
        parts = [encoder(tokenizer([each], **options).input_ids.to(device))[0] for each in (*prompts, "")]
    return Prompts(torch.cat(parts))
