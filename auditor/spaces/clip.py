"""CLIP features through open_clip: how alike two images look to a vision-language model.

`resolve` finds and checks the weights; it is quick, so that a run fails before its first
sample and not after its last. Whatever the source (tag, file or folder), the weights are
then loaded from a path, strictly: a network with random weights is never used.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from statistics import mode
from threading import Thread
from typing import Any

import numpy as np

from auditor.errors import AuditError
from auditor.spaces import Space, SpaceSettings

REVISION = 1  # raise it when the code below changes a vector
REQUEST_SECONDS = 5.0
LOCAL_DIR = "local-dir:"
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True)
class ResolvedClip:
    """A CLIP model whose weights lie on this disk."""

    model: str  # what open_clip calls it, or local-dir:PATH
    weights: Path
    preprocess: Mapping[str, Any]  # the values of PREPROCESSING; empty: open_clip's default, or the folder's own
    revision: str  # clip-<REVISION>/<model>/<sha256 of the weights, 16 digits>/<of the preprocessing, 8 digits>


class ClipSpace(Space):
    """Unit vectors of the image tower of a CLIP model.

    Pictures go through the model's own preprocessing: usually the shorter side is resized
    to the input size (bicubic) and the center cropped, so the border of a picture that is
    not square is lost; some models squash instead. Gray is repeated to RGB.

    Raises
    ------
    AuditError
        On construction, if the weights cannot be found or do not fit the model.
    """

    name = "clip"
    metric_note = "sqrt(2 (1 - cos)) with cos the cosine similarity of two CLIP image embeddings."

    def __init__(self, settings: SpaceSettings) -> None:
        resolved = resolve(settings)
        self.revision = resolved.revision
        self._device = settings.device
        self._tower, self._transform = _load(resolved, settings)

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return unit vectors, float32 ``[n, d]``, for uint8 ``[n, h, w, 1 or 3]``, 0 to 255."""
        import torch

        batch = torch.stack([self._transform(picture) for picture in _pictures(images)])
        # TF32 convolutions would move the vectors, and differently for each batch size.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features = self._tower(batch.to(self._device))
        features = features[0] if isinstance(features, tuple) else features  # CoCa also returns its tokens
        return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()


def resolve(settings: SpaceSettings) -> ResolvedClip:
    """Return the model with its weights on disk, downloaded if need be.

    Parameters
    ----------
    settings
        ``clip_model`` is an open_clip model name and ``clip_weights`` one of its tags or a
        weights file; or ``clip_model`` is ``local-dir:PATH``, a folder with
        ``open_clip_config.json`` and weights, and ``clip_weights`` is not looked at.

    Raises
    ------
    AuditError
        If model, tag, file or folder is unknown; if the weights were trained with another
        activation than the model has; if they are neither cached nor to be downloaded. The
        last takes one request of at most 5 seconds, none where ``HF_HUB_OFFLINE`` is set.

    Notes
    -----
    A file whose hash open_clip publishes is treated as its tag. Any other file gets the
    preprocessing most common among the tags of its model, and whether its activation fits
    cannot be checked; ``local-dir:`` is exact in both.
    """
    import open_clip

    model, weights = settings.clip_model, settings.clip_weights
    if model.startswith(LOCAL_DIR):
        return _resolve_folder(settings)
    if model not in open_clip.list_models():
        raise _refusal(settings, f"open_clip has no model {model!r}.", "Pass a name from open_clip.list_models()")
    trained = open_clip.get_pretrained_cfg(model, weights)
    if trained:
        _check_activation(settings, trained)
        path = _cached(trained) or _downloaded(settings, trained)
        return _resolved(model, path, _digest(path), trained)
    path = Path(weights).resolve()  # absolute, so that open_clip cannot take it for a tag
    if not path.is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        what = f"{weights!r} is neither a weights file nor a pretrained tag of {model}."
        raise _refusal(settings, what, f"Pass --clip-weights FILE or one of its tags ({tags})")
    digest = _digest(path)
    trained = _published_as(digest) or _usual_preprocessing(model)
    _check_activation(settings, trained)
    return _resolved(model, path, digest, trained)


def _resolve_folder(settings: SpaceSettings) -> ResolvedClip:
    """Return the model of a folder as open_clip and the Hub lay it out."""
    # Private, but it is what create_model will load.
    from open_clip.factory import _find_checkpoint_in_dir

    folder = Path(settings.clip_model.removeprefix(LOCAL_DIR))
    config = folder / "open_clip_config.json"
    with _root_logging_left_alone():
        weights = _find_checkpoint_in_dir(folder)
    if not config.is_file() or weights is None:
        missing = "weights file" if config.is_file() else config.name
        remedy = f"Name a folder with {config.name} and open_clip_model.safetensors"
        raise _refusal(settings, f"There is no {missing} in {folder}.", remedy)
    return _resolved(settings.clip_model, Path(weights), _digest(Path(weights)), {}, config.read_text())


def _resolved(
    model: str, weights: Path, digest: str, trained: Mapping[str, Any], folder_config: str = ""
) -> ResolvedClip:
    preprocess = {name: trained[name] for name in PREPROCESSING if name in trained}
    settings = sha256((json.dumps(preprocess) + folder_config).encode()).hexdigest()
    name = "local-dir" if model.startswith(LOCAL_DIR) else model  # a moved folder is still the same model
    return ResolvedClip(model, weights, preprocess, f"clip-{REVISION}/{name}/{digest[:16]}/{settings[:8]}")


def _check_activation(settings: SpaceSettings, trained: Mapping[str, Any]) -> None:
    """Refuse weights trained with QuickGELU in a model with GELU: open_clip would load them and be wrong."""
    import open_clip

    model, weights = settings.clip_model, settings.clip_weights
    if trained.get("quick_gelu") and not open_clip.get_model_config(model).get("quick_gelu"):
        what = f"The weights {weights} were trained with QuickGELU, which {model} does not use."
        raise _refusal(settings, what, f"Pass --clip-model {model}-quickgelu")


def _published_as(digest: str) -> Mapping[str, Any]:
    """Return what open_clip knows of the file with this sha256, which some of its download addresses contain."""
    import open_clip

    for model, tag in open_clip.list_pretrained():
        hashes = re.findall(
            r"(?<=[/-])[0-9a-f]{64}(?=/)|(?<=-)[0-9a-f]{8}(?=\.)", open_clip.get_pretrained_url(model, tag)
        )
        if any(digest.startswith(published) for published in hashes):
            return open_clip.get_pretrained_cfg(model, tag)
    return {}


def _usual_preprocessing(model: str) -> Mapping[str, Any]:
    """Return the preprocessing of most tags of a model; nothing, which means open_clip's default, without tags."""
    import open_clip

    tags = [open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)]
    return dict(zip(PREPROCESSING, mode(tuple(tag[name] for name in PREPROCESSING) for tag in tags))) if tags else {}


def _hub_files(trained: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the Hub repository of a tag and the files that may hold its weights, the preferred one first."""
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository, name = os.path.split(trained["hf_hub"])  # "owner/name/" or "owner/name/file"
    if name:
        return repository, [str(Path(name).with_suffix(".safetensors")), name]
    return repository, [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]


def _cached(trained: Mapping[str, Any]) -> Path | None:
    """Return the weights of a tag from the Hugging Face cache, if they are there."""
    from huggingface_hub import try_to_load_from_cache

    repository, names = _hub_files(trained)
    found = [try_to_load_from_cache(repository, name) for name in names]
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _downloaded(settings: SpaceSettings, trained: Mapping[str, Any]) -> Path:
    """Return the weights of a tag after downloading them; ask first, for open_clip would retry for a minute."""
    import open_clip
    from huggingface_hub import hf_hub_url, is_offline_mode

    repository, names = _hub_files(trained)
    reason = "HF_HUB_OFFLINE is set" if is_offline_mode() else _no_answer(hf_hub_url(repository, names[0]))
    if not reason:
        try:
            with _root_logging_left_alone():
                return Path(open_clip.download_pretrained(trained))
        except (OSError, RuntimeError, ValueError) as error:
            reason = _first_lines(error)
    raise _refusal(
        settings,
        f"The CLIP weights are neither cached nor to be downloaded: {reason}.",
        f"Fetch {names[0]} from https://huggingface.co/{repository} on a machine with network, put it anywhere on "
        "this one and pass --clip-weights FILE",
    )


def _no_answer(url: str) -> str:
    """Return why a server does not answer one HEAD request within `REQUEST_SECONDS`; empty where it does."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    answer = [f"no answer from {url} within {REQUEST_SECONDS:g} s"]

    def ask() -> None:
        try:
            with urlopen(Request(url, method="HEAD"), timeout=REQUEST_SECONDS):
                answer[0] = ""
        except HTTPError as error:  # 404: the server is there, the preferred file is not; open_clip tries the other
            answer[0] = "" if error.code == 404 else f"{url} answers {error.code}"
        except OSError as error:
            answer[0] = f"{url} cannot be reached ({error})"

    # In a thread, because the limit of urlopen does not cover the name look-up.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REQUEST_SECONDS)
    return answer[0]


def _load(resolved: ResolvedClip, settings: SpaceSettings) -> tuple[Any, Any]:
    """Return image tower and picture transform; the text tower is dropped."""
    from pickle import UnpicklingError
    from struct import error as StructError

    import open_clip
    from safetensors import SafetensorError

    # What open_clip, torch, pickle and safetensors raise on a file that holds other weights, or none.
    python = (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, StopIteration)
    preprocess = {f"image_{name}": value for name, value in resolved.preprocess.items()}
    try:
        with _root_logging_left_alone():
            model, transform = open_clip.create_model_from_pretrained(
                resolved.model, str(resolved.weights), weights_only=True, **preprocess
            )
    except (*python, UnpicklingError, StructError, SafetensorError) as error:
        what = f"{resolved.weights} does not hold weights of {resolved.model}: {_first_lines(error)}"
        remedy = "Pass the --clip-model of these weights; of OpenAI's TorchScript archives, the safetensors version"
        raise _refusal(settings, what, remedy) from error
    return model.visual.eval().to(settings.device), transform


def _pictures(images: np.ndarray) -> Iterator[Any]:
    """Yield PIL pictures, gray or RGB."""
    from PIL import Image

    assert images.shape[-1] in (1, 3), "CLIP takes gray or RGB images"
    for image in images:
        yield Image.fromarray(image[:, :, 0] if image.shape[-1] == 1 else image)


def _refusal(settings: SpaceSettings, what: str, remedy: str) -> AuditError:
    where = f"--clip-model {settings.clip_model}"
    if not settings.clip_model.startswith(LOCAL_DIR):
        where += f" --clip-weights {settings.clip_weights}"
    return AuditError(what, where, f"{remedy}, or {settings.instead}.")


@contextmanager
def _root_logging_left_alone() -> Iterator[None]:
    """Keep open_clip, which logs through the root logger, from installing a handler that prints."""
    guard = logging.NullHandler()
    logging.getLogger().addHandler(guard)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(guard)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _first_lines(error: Exception) -> str:
    """Return the start of an error of torch, which lists every tensor of a network."""
    return " ".join(line.strip() for line in str(error).splitlines()[:2])[:200]
