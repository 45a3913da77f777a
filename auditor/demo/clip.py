"""A very small CLIP for the demo and the benchmarks, trained by open_clip on captioned images.

It exists so that the real open_clip path runs without a download. It knows nothing but its
captions; its distances say little about images of another kind.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.demo.trainer import LOG, Progress, Record
from auditor.run.files import atomic

if TYPE_CHECKING:
    import torch
    from open_clip import CLIP

WEIGHTS = "open_clip_model.safetensors"  # the name open_clip looks for
# The vocabulary is that of open_clip's own tokenizer; at text width 32 it is nine tenths of the file.
MODEL: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 64, "head_width": 16, "layers": 3},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PREPROCESS = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


@dataclass(frozen=True)
class ClipSettings:
    """A recipe. A batch is ``groups`` times one image of each caption.

    Within a group all captions differ, so the contrastive loss has no false negatives.
    Images are shifted by up to ``shift`` pixels of 16.
    """

    steps: int = 600
    groups: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    shift: int = 2
    seed: int = 0
    log_every: int = 50


def train(
    images: np.ndarray, captions: Sequence[str], out: Path, settings: ClipSettings, progress: Progress | None = None
) -> None:
    """Train a CLIP on captioned images and write it to ``out``, for open_clip's ``local-dir:``.

    Parameters
    ----------
    images
        uint8 ``[n, h, w, c]``, 0 to 255, c of 1 or 3.
    captions
        One caption per image; the distinct ones are what the model learns to tell apart.
    out
        Folder of ``open_clip_config.json``, ``open_clip_model.safetensors`` (float16) and
        ``log.jsonl``.
    settings
        The recipe.
    progress
        Called as often as the log is written.

    References
    ----------
    Radford et al. (2021), arXiv 2103.00020.
    """
    import torch
    from open_clip import ClipLoss

    model = new_model(settings.seed)
    pixels = preprocess(images)
    words, classes = np.unique(np.asarray(captions), return_inverse=True)
    tokens, contrast = tokenize(words.tolist()), ClipLoss()
    members = [torch.from_numpy(np.flatnonzero(classes == c)) for c in range(len(words))]
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)

    out.mkdir(parents=True, exist_ok=True)
    with open(out / LOG, "w", encoding="utf-8") as log:
        record = Record(log, settings.steps, settings.log_every, progress)
        for step in range(1, settings.steps + 1):
            batch = torch.stack([draw(positions, settings.groups, generator) for positions in members], dim=1)
            shifted = shift(pixels[batch.flatten()], settings.shift, generator)
            seen = model.encode_image(shifted, normalize=True).unflatten(0, batch.shape)
            said, scale = model.encode_text(tokens, normalize=True), model.logit_scale.exp()
            loss = torch.stack([contrast(group, said, scale) for group in seen]).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            record.add(step, loss.item())
    save(model, tokens, out)


def new_model(seed: int) -> CLIP:
    """Return an untrained CLIP; its weights depend on the seed alone."""
    import torch
    from open_clip import CLIP

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIP(**MODEL).train()


def preprocess(images: np.ndarray) -> torch.Tensor:
    """Return the images as this CLIP takes them: float32 ``[n, 3, 16, 16]``, -1 to 1."""
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    transform = image_transform_v2(PreprocessCfg(size=MODEL["vision_cfg"]["image_size"], **PREPROCESS), is_train=False)
    colored = np.broadcast_to(images, (*images.shape[:3], 3))
    return torch.stack([transform(Image.fromarray(image)) for image in np.ascontiguousarray(colored)])


def tokenize(captions: Sequence[str]) -> torch.Tensor:
    """Return open_clip's tokens of the captions, int64 ``[n, context_length]``."""
    from open_clip import SimpleTokenizer

    return SimpleTokenizer(context_length=MODEL["text_cfg"]["context_length"])(list(captions))


def draw(positions: torch.Tensor, n: int, generator: torch.Generator) -> torch.Tensor:
    """Return ``n`` of the positions, drawn with replacement."""
    import torch

    return positions[torch.randint(len(positions), (n,), generator=generator)]


def shift(pixels: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
    """Return each image shifted by up to ``most`` pixels each way; its border is repeated."""
    import torch

    size = pixels.shape[-1]
    padded = torch.nn.functional.pad(pixels, (most,) * 4, mode="replicate")
    corners = torch.randint(2 * most + 1, (len(pixels), 2), generator=generator).tolist()
    moved = [image[:, y : y + size, x : x + size] for image, (y, x) in zip(padded, corners, strict=True)]
    return torch.stack(moved)


def save(model: CLIP, tokens: torch.Tensor, out: Path) -> None:
    """Write configuration and float16 weights, the weights last and by renaming.

    The embeddings of tokens that no caption uses were never trained; they are written as
    zeros, which states that and compresses to nothing.
    """
    import torch
    from safetensors.torch import save_file

    weights = {name: tensor.to(torch.float16).contiguous() for name, tensor in model.state_dict().items()}
    used = torch.zeros(len(weights["token_embedding.weight"]), 1, dtype=torch.float16)
    used[tokens.unique()] = 1
    weights["token_embedding.weight"] *= used
    config = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    with atomic(out / WEIGHTS) as temporary:
        save_file(weights, temporary)


def zero_shot(folder: Path, images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """Return the position of the best of the captions for each image, int64 ``[n]``.

    The model is loaded the way open_clip's users do, so this also checks the folder.
    """
    import open_clip
    import torch

    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    with torch.no_grad():
        seen = model.eval().encode_image(preprocess(images), normalize=True)
        said = model.encode_text(tokenize(captions), normalize=True)
    return (seen @ said.T).argmax(dim=1).numpy()
