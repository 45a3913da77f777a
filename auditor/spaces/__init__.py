"""Feature spaces: images in, vectors out, and the distance of vectors means something.

A space is a class derived from `Space` and made from one `SpaceSettings`, in one file of
this folder and one line of the registry. Resizing and normalization belong to the space;
batches are made here, and `auditor.neighbors` alone makes distances of the vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from auditor.errors import AuditError
from auditor.records import Features, Nearest
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
    """What every space offers; it is made from `SpaceSettings`."""

    name: str
    revision: str  # changes whenever a vector or what refines would: weights digest and preprocessing version
    metric_note: str  # one sentence: what distance means here
    # Whether vectors mean something by themselves: twin distance, KID, cells and quality exist then (NaN otherwise).
    # A space of several views, one that refines or one that looks for the nearest itself has distances alone.
    vectors: bool = True
    # How far each query is from its own candidates as pictures: uint8 [n, h, w, c] and [n, m, h, w, c] -> finite
    # float64 [n, m]. Where a space has it, vectors only propose what is near, and this says how near it is.
    refine: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    # Where a space looks for the nearest itself: vectors alone say nothing then.
    nearest: Nearest | None = None

    def __init__(self, settings: SpaceSettings) -> None:
        """Need nothing of the settings, unless the space says otherwise."""

    def fits(self, height: int, width: int) -> bool:
        """Tell whether it shows of pictures of this size what no other space of the default does."""
        return True

    def left_out(self, height: int, width: int, n_images: int) -> str:
        """Return what it does not look for in pictures of this size and sets of so many, as a sentence, or nothing."""
        return ""

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return float32 ``[n, views, d]``, or ``[n, d]`` for a single view, for uint8 ``[n, h, w, c]``, 0 to 255.

        The distance of two images is the least Euclidean distance between equal views. A
        vector depends on its own image only, not on the batch around it.
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
    opened: Space = lookup("space", name)(settings)
    return opened


def embed(space: Space, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Return the vectors of all images, float32 ``[n, d]``, or ``[n, views, d]`` where there are several views.

    Parameters
    ----------
    space
        An opened space.
    images
        uint8 ``[n, h, w, c]``, 0 to 255, n >= 1; may be memory-mapped.
    batch_size
        Images per call of the space.

    Raises
    ------
    AuditError
        If a vector is not finite; the message names its row.
    """
    assert len(images), "there is nothing to embed"
    batches = []
    for start in range(0, len(images), batch_size):
        vectors = space.embed(np.asarray(images[start : start + batch_size]))
        _check_finite(space, vectors, start)
        batches.append(vectors[:, 0] if vectors.ndim == 3 and vectors.shape[1] == 1 else vectors)
    found = np.concatenate(batches)
    assert found.ndim == 2 or not space.vectors, f"the {space.name} space has several views, hence distances alone"
    return found


def features(space: Space, of: str, vectors: np.ndarray, ids: tuple[str, ...], images: np.ndarray) -> Features:
    """Return the vectors of a set as what is searched; a space that refines will look at the images.

    Parameters
    ----------
    space
        The opened space that embedded the images.
    of
        Name of the set.
    vectors
        What `embed` returned for the images; may be memory-mapped.
    ids
        One id per image.
    images
        uint8 ``[n, h, w, c]``, 0 to 255; may be memory-mapped, and is read only where the space refines.
    """
    found = Features(space.name, of, vectors, ids, nearest=space.nearest, points=space.vectors)
    if space.refine is None:
        return found
    return replace(found, pictures=lambda rows: np.asarray(images[rows]), refine=space.refine)


def _check_finite(space: Space, vectors: np.ndarray, start: int) -> None:
    """Raise an error that names the first row without a finite vector."""
    finite = np.isfinite(vectors).reshape(len(vectors), -1).all(axis=1)
    if not finite.all():
        row = start + int(np.argmin(finite))
        raise AuditError(
            f"The {space.name} space gave a vector that is not finite for the image in row {row}.",
            f"space {space.name}, revision {space.revision}",
            "Check the weights of this space, or leave it out of --spaces.",
        )
