"""Worlds whose held-out images come from elsewhere: another scanner, class or size, or near the training images.

Nobody was trained on any sample. What is called biased or memorizing is so by the held-out images alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hidden_copies import as_bytes
from scipy.ndimage import gaussian_filter, zoom

from auditor.images import near_duplicates
from auditor.records import ImageSet
from calibrating.alone import DISTANCES, STRANGERS, DealAlone, WorldAlone, answered
from calibrating.banks import Rows, Size, without_near_duplicates

SPACES = ("pixel", "correlation", "window-center", "window-frame")
N, M, SEEDS, N_COPIER = 400, 200, 1000, 200
Pictures = np.ndarray  # uint8 [n, h, w, c]

ALTERED: dict[str, Callable[[Pictures], Pictures]] = {
    "of the same deal": lambda x: x,
    "of another scanner (softer)": lambda x: as_bytes(gaussian_filter(x.astype(float), (0, 0.5, 0.5, 0))),
    "of another scanner (contrast 90 %)": lambda x: as_bytes(127.5 + 0.9 * (x - 127.5)),
    "of another size (half, enlarged)": lambda x: as_bytes(
        zoom(zoom(x.astype(float), (1, 0.5, 0.5, 1), order=1), (1, 2, 2, 1), order=1)[:, : x.shape[1], : x.shape[2]]
    ),
}
CLASS, NEAR = "of another class", "half of them near-duplicates of training images"
KINDS = (*ALTERED, CLASS, NEAR)


@dataclass
class Pile:
    """Training and held-out images, samples and a copier's, as one bank of this one world."""

    train: Pictures
    rows: Rows
    size: Size
    folder: Path
    n_train: int
    spaces_of_pool: tuple[str, ...] = SPACES


class DealGiven(DealAlone):
    """Training and held-out images as they are given."""

    def __init__(self, pile: Pile, number: int, n: int, m: int) -> None:
        self.bank, self.number, self.n, self.m = pile, number, n, m  # type: ignore[assignment]
        self.images, self.shared = np.arange(n + m), np.empty(0, np.int64)
        self.label = np.repeat([1, -1], [n, m]).astype(np.int8)
        self.position, self.ids = np.arange(n + m), np.arange(n + m).astype(str).astype(object)
        self.heldout, self._seen, self.made = np.arange(n, n + m), {}, {}

    def smooth(self, space: str) -> dict:
        """Return where the Gaussian of these very images lands."""
        images = self.gaussian_images(SEEDS)
        return {"a": self.near_images(space, images).landing(np.arange(SEEDS))}


def pile_of(train: Pictures, heldout: Pictures, samples: Pictures, number: int) -> tuple[DealGiven, np.ndarray]:
    """Return the deal of these sets, without what is nearly in both, and the rows that play samples."""
    both = np.concatenate([train, heldout])
    ids = tuple(map(str, range(len(both))))
    pairs, _ = near_duplicates.near_pairs(
        near_duplicates.of_set(ImageSet("both", both, ids), np.arange(len(both))), near_duplicates.NEAR
    )
    spanning = pairs[(pairs < len(train)).sum(axis=1) == 1]
    kept = np.setdiff1d(np.arange(len(both)), spanning)
    n, m = int((kept < len(train)).sum()), int((kept >= len(train)).sum())
    rng = np.random.default_rng(number)
    copied = rng.choice(n, N_COPIER)
    copies = as_bytes(both[kept][copied] + rng.normal(0, 2, (N_COPIER, *both.shape[1:])))
    kinds = np.repeat(["train", "fresh", "copier"], [n + m, len(samples), N_COPIER])
    sources = np.full((len(kinds), 4), -1, np.int32)
    sources[: n + m, 0], sources[-N_COPIER:, 0] = np.arange(n + m), copied
    rows = Rows(np.concatenate([both[kept], samples, copies]), kinds, sources)
    pile = Pile(both[kept], rows, Size(n, spaces=SPACES), Path(f"world-{number}"), n + m)
    return DealGiven(pile, number, n, m), rows.of["fresh"]


def world(kind: str, images: Pictures, classes: np.ndarray, number: int) -> WorldAlone:
    """Return a world whose held-out images are of this kind; samples are like the training images."""
    rng = np.random.default_rng([number, KINDS.index(kind)])
    order = rng.permutation(len(images))
    if kind == CLASS:
        common = np.bincount(classes).argmax()
        mine, others = order[classes[order] == common], order[classes[order] != common]
        train, held, rest = mine[:N], others[:M], mine[N:]
    else:
        train, held, rest = order[:N], order[N : N + M], order[N + M :]
    heldout = ALTERED.get(kind, lambda x: x)(images[held])
    if kind == NEAR:
        twins = as_bytes(images[train[: M // 2]] + rng.normal(0, 2, images[train[: M // 2]].shape))
        heldout = np.concatenate([twins, heldout[M // 2 :]])
    deal, rows = pile_of(images[train], heldout, images[rng.choice(rest, SEEDS, replace=len(rest) < SEEDS)], number)
    return WorldAlone(deal, {"a": rows}, deal.heldout, SPACES)


def asked(images: Pictures, classes: np.ndarray, number: int) -> dict[str, dict[str, object]]:
    """Return what is found in a world of every kind."""
    found = {}
    for kind in KINDS if len(np.unique(classes)) > 1 else [each for each in KINDS if each != CLASS]:
        found[f"held-out images {kind}"] = answered(world(kind, images, classes, number), with_controls=True)
        DISTANCES.clear()
        STRANGERS.clear()
    return found


def films(data: Path) -> tuple[Pictures, np.ndarray] | None:
    """Return X-rays without near-duplicates and their classes; None where they are not there."""
    path = data / "pneumoniamnist" / "pneumoniamnist.npz"
    if not path.exists():
        return None
    with np.load(path) as arrays:
        images, classes = arrays["train_images"][..., None], arrays["train_labels"].ravel().astype(int)
    known = {each.tobytes(): label for each, label in zip(images, classes, strict=True)}
    kept = without_near_duplicates(images)
    return kept, np.array([known[each.tobytes()] for each in kept])
