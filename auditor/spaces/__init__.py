"""Feature spaces: images in, vectors out, and Euclidean distance means something.

A space is a class with the attributes of `Space`, made from one `SpaceSettings`, in one
file of this folder and one line of the registry. Resizing and normalisation belong to
the space; batches are made here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from auditor.errors import AuditError
from auditor.registry import lookup


@dataclass(frozen=True)
class SpaceSettings:
    """What a space may need to know; each takes what concerns it."""

    device: str = "cpu"  # a torch device
    clip_model: str = "ViT-B-32"  # an open_clip model name, or local-dir:PATH
    clip_weights: str = "laion2b_s34b_b79k"  # a pretrained tag of that model, or a weights file
    grammar: str | None = None  # grammar.json of the sequences, for the level spaces
    training: Callable[[], Sequence[np.ndarray]] | None = None  # the halves' images, uint8 [n, h, w, c], for pca spaces
    instead: str = "run without this space: --spaces pixel,correlation"  # what else can be done where it cannot be had


class Space(Protocol):
    """What every space offers; its constructor takes `SpaceSettings`."""

    name: str
    revision: str  # changes whenever a vector would: weights digest and preprocessing version
    dim: int | None  # length of a vector; None where it follows from the image shape
    metric_note: str  # one sentence: what Euclidean distance means here

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return float32 ``[n, dim]`` for uint8 ``[n, h, w, c]``, 0 to 255.

        A vector depends on its own image only, not on the batch around it.
        """
        ...


def open_space(name: str, settings: SpaceSettings) -> Space:
    """Return the space called ``name``, ready to embed.

    Raises
    ------
    AuditError
        If there is no such space, or it cannot be had (weights missing or unfit). It is
        raised here, so open every space before any expensive step.
    """
    return lookup("space", name)(settings)


def embed_batches(space: Space, images: np.ndarray, batch_size: int = 256) -> Iterator[np.ndarray]:
    """Yield the vectors of consecutive batches, float32 ``[<= batch_size, dim]``.

    Parameters
    ----------
    space
        An opened space.
    images
        uint8 ``[n, h, w, c]``, 0 to 255; may be memory-mapped.
    batch_size
        Images per call of the space.

    Raises
    ------
    AuditError
        If a vector is not finite; the message names its row.
    """
    for start in range(0, len(images), batch_size):
        vectors = space.embed(np.asarray(images[start : start + batch_size]))
        _check_finite(space, vectors, start)
        yield vectors


def embed(space: Space, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Return the vectors of all images, float32 ``[n, dim]``; see `embed_batches`."""
    assert len(images), "there is nothing to embed"
    return np.concatenate(list(embed_batches(space, images, batch_size)))


def _check_finite(space: Space, vectors: np.ndarray, start: int) -> None:
    """Raise an error that names the first row without a finite vector."""
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        row = start + int(np.argmin(finite))
        raise AuditError(
            f"The {space.name} space gave a vector that is not finite for the image in row {row}.",
            f"space {space.name}, revision {space.revision}",
            "Check the weights of this space, or leave it out of --spaces.",
        )
