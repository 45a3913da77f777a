"""Which hidden copies each space finds, and at what cost: ``python benchmarks/hidden_copies.py [SET ...] [--smoke]``.

Copies of known images are made: mirrored, shifted, zoomed, rotated, negated, noisy, blended, and parts of them pasted
into other images. A cell tells three shares of them, per space: whose source is the nearest image; where it is nearest
and d1 / d2 is below 1/3 (in windows 1/5); and, where a few images are compared, whose source is one of them. The last
row are images that are no copies: nothing of them should be flagged. Times are of the processor.

Images are those in ../shared/data (see its README.md) where they are, and the digits of scikit-learn. Copies are made
by scipy at the images' own size, not by the code that looks for them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auditor import spaces
from auditor.config import WINDOW_RATIO
from auditor.neighbors import is_copy, search
from auditor.records import Features
from auditor.registry import ALIGNED, WINDOWS
from auditor.spaces import SpaceSettings, open_space

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
FILES = {  # file, and the keys of its arrays
    "x-rays": ("pneumoniamnist/pneumoniamnist.npz", ("train_images", "val_images", "test_images")),
    "hands": ("sign-language-digits/sign_digits_rgb32.npz", ("images",)),
    "cells": ("bccd-cells/bccd_cells_rgb32.npz", ("images",)),
    "portraits": ("portraits-gpo/portraits_gpo_gray32.npz", ("images",)),
    "clothes": ("fashion-mnist/fashion_t10k_prefix.npz", ("images",)),
}
PLAIN = ("pixel", "correlation")
N_REFERENCE, N_COPIES, N_TIMED = 1000, 200, 1000
K = 2


def images_of(name: str, data: Path) -> np.ndarray | None:
    """Return a set in an order of its own, uint8 ``[n, h, w, c]``, without exact copies; None where it is not there."""
    if name == "digits":
        from sklearn.datasets import load_digits

        found = (load_digits().images * 255 / 16).round().astype(np.uint8)
    else:
        path, keys = data / FILES[name][0], FILES[name][1]
        if not path.exists():
            return None
        with np.load(path) as arrays:
            found = np.concatenate([arrays[key] for key in keys])
    found = found[..., None] if found.ndim == 3 else found
    _, first = np.unique(found.reshape(len(found), -1), axis=0, return_index=True)
    return found[np.random.default_rng(0).permutation(np.sort(first))]


def moved(images: np.ndarray, zoom: float = 1, angle: float = 0) -> np.ndarray:
    """Return images zoomed and rotated about their middle, bilinear, with edges filled in."""
    from scipy.ndimage import affine_transform

    turn = np.deg2rad(angle)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / zoom
    middle = (np.array(images.shape[1:3]) - 1) / 2
    offset = middle - matrix @ middle
    channels = np.moveaxis(images, 3, 1).reshape(-1, *images.shape[1:3]).astype(np.float64)
    turned = np.stack([affine_transform(each, matrix, offset, order=1, mode="nearest") for each in channels])
    return as_bytes(np.moveaxis(turned.reshape(len(images), -1, *images.shape[1:3]), 1, 3))


def shifted(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Return images shifted by whole pixels, with edges filled in."""
    rows, columns = (
        np.clip(np.arange(size) - by, 0, size - 1) for size, by in zip(images.shape[1:3], (down, right), strict=True)
    )
    return images[:, rows][:, :, columns]


def noisy(images: np.ndarray, sd: float) -> np.ndarray:
    """Return images with noise of this standard deviation in gray levels."""
    return as_bytes(images + np.random.default_rng(1).normal(0, sd, images.shape))


def pasted(images: np.ndarray, into: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """Return other images with a part of these in its own place; rows and columns in quarters."""
    quarters = [np.linspace(0, size, 5).round().astype(int) for size in images.shape[1:3]]
    bands = [slice(q[each.start], q[each.stop]) for q, each in zip(quarters, (rows, columns), strict=True)]
    mixed = into.copy()
    mixed[:, bands[0], bands[1]] = images[:, bands[0], bands[1]]
    return mixed


def as_bytes(values: np.ndarray) -> np.ndarray:
    """Return values as gray levels."""
    return values.round().clip(0, 255).astype(np.uint8)


# What is made of images x and as many others y.
COPIES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "verbatim": lambda x, y: x,
    "mirrored": lambda x, y: x[:, :, ::-1],
    "a quarter turn": lambda x, y: np.rot90(x, axes=(1, 2)),
    "negative": lambda x, y: 255 - x,
    "shifted (0, 1)": lambda x, y: shifted(x, 0, 1),
    "shifted (1, 1)": lambda x, y: shifted(x, 1, 1),
    "shifted (2, 0)": lambda x, y: shifted(x, 2, 0),
    "shifted (2, -2)": lambda x, y: shifted(x, 2, -2),
    "shifted (0, 3)": lambda x, y: shifted(x, 0, 3),
    "shifted (3, 3)": lambda x, y: shifted(x, 3, 3),
    "zoomed .8": lambda x, y: moved(x, 0.8),
    "zoomed .9": lambda x, y: moved(x, 0.9),
    "zoomed 1.11": lambda x, y: moved(x, 1.11),
    "zoomed 1.25": lambda x, y: moved(x, 1.25),
    "rotated 5": lambda x, y: moved(x, angle=5),
    "rotated 7": lambda x, y: moved(x, angle=7),
    "rotated 10": lambda x, y: moved(x, angle=10),
    "noise of sd 16": lambda x, y: noisy(x, 16),
    "mirrored, (2, 1), noise 8": lambda x, y: noisy(shifted(x[:, :, ::-1], 2, 1), 8),
    "mirrored, .9, 5 degrees, (1, -2)": lambda x, y: shifted(moved(x[:, :, ::-1], 0.9, 5), 1, -2),
    "blended .6": lambda x, y: as_bytes(0.6 * x + 0.4 * y),
    "a quarter pasted": lambda x, y: pasted(x, y, slice(0, 2), slice(2, 4)),
    "the same, noise 8": lambda x, y: noisy(pasted(x, y, slice(0, 2), slice(2, 4)), 8),
    "the center pasted": lambda x, y: pasted(x, y, slice(1, 3), slice(1, 3)),
    "a half pasted": lambda x, y: pasted(x, y, slice(0, 4), slice(0, 2)),
    "all around the center": lambda x, y: pasted(y, x, slice(1, 3), slice(1, 3)),
    "held out, no copies": lambda x, y: y,
}


@dataclass(frozen=True)
class Shares:
    """Shares of one kind of copies in one space."""

    nearest: float  # whose source is the nearest image
    flagged: float  # and so much nearer than the second that it is a copy
    proposed: float  # whose source was compared with them; NaN where all are

    def __str__(self) -> str:
        told = f"{self.nearest:.2f} {self.flagged:.2f}"
        return told if np.isnan(self.proposed) else f"{told} ({self.proposed:.2f})"


class Finder:
    """One space, with the images among which sources are looked for."""

    def __init__(self, name: str, reference: np.ndarray) -> None:
        self.space = open_space(name, SpaceSettings())
        self.reference = self.features(reference)
        self.ratio = WINDOW_RATIO if name in WINDOWS else None

    def features(self, images: np.ndarray) -> Features:
        """Return the vectors of images."""
        ids = tuple(map(str, range(len(images))))
        return spaces.features(self.space, "set", spaces.embed(self.space, images), ids, images)

    def found(self, copies: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Return whose source is nearest, which are flagged, bool ``[n]``, and the share that was proposed."""
        queries = self.features(copies)
        near = search(queries, self.reference, K)
        nearest = near.indices[:, 0] == np.arange(len(copies))
        return nearest, is_copy(*near.distances[:, :K].T, ratio=self.ratio), self.proposed(queries)

    def proposed(self, queries: Features) -> float:
        """Return the share of copies whose source is compared with them; NaN where all images are."""
        if self.reference.nearest is None:
            return np.nan
        near = search(queries, self.reference, len(self.reference.ids))
        return float((near.indices == np.arange(len(queries.ids))[:, None]).any(axis=1).mean())

    def seconds(self, queries: np.ndarray) -> float:
        """Return processor seconds for embedding these and searching them."""
        started = time.process_time()
        search(self.features(queries), self.reference, 50)
        return time.process_time() - started


def table(images: np.ndarray, n_reference: int, n_copies: int) -> dict[str, dict[str, Shares]]:
    """Return the shares by kind of copy and space; ``windows`` is what any of the eight finds."""
    reference, others = images[:n_reference], images[n_reference : n_reference + n_copies]
    sources = reference[: len(others)]
    finders = {name: Finder(name, reference) for name in (*PLAIN, *ALIGNED, *WINDOWS)}
    found: dict[str, dict[str, Shares]] = {}
    for kind, make in COPIES.items():
        is_none = kind.startswith("held out")
        each = {name: finder.found(make(sources, others)) for name, finder in finders.items()}
        found[kind] = {name: shares(*each[name][:2], each[name][2], is_none) for name in each if name not in WINDOWS}
        nearest, flagged = (np.array([each[name][i] for name in WINDOWS]) for i in (0, 1))
        right = flagged if is_none else nearest & flagged
        found[kind]["windows"] = Shares(
            np.nan if is_none else float(nearest.any(axis=0).mean()), float(right.any(axis=0).mean()), np.nan
        )
    return found


def shares(nearest: np.ndarray, flagged: np.ndarray, proposed: float, is_none: bool) -> Shares:
    """Return shares; of images that are no copies, what is flagged at all."""
    if is_none:
        return Shares(np.nan, float(flagged.mean()), np.nan)
    return Shares(float(nearest.mean()), float((nearest & flagged).mean()), proposed)


def show(name: str, found: dict[str, dict[str, Shares]]) -> None:
    """Print a table."""
    columns = (*PLAIN, *ALIGNED, "windows")
    print(f"\n| {name} | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for kind, by_space in found.items():
        print(f"| {kind} | {' | '.join(str(by_space[each]) for each in columns)} |", flush=True)


def show_times(images: np.ndarray, n_reference: int, n_timed: int) -> None:
    """Print what a search costs in each space."""
    reference, queries = images[:n_reference], images[-n_timed:]
    print(f"\nProcessor seconds for {len(queries)} queries among {len(reference)} images:")
    for name in (*PLAIN, *ALIGNED, *WINDOWS):
        print(f"{name:20} {Finder(name, reference).seconds(queries):6.2f}", flush=True)


def main() -> None:
    """Print a table for each set that is there, and the times on the first of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join((*FILES, 'digits'))}; all by default")
    parser.add_argument("--data", type=Path, default=SHARED, help="where the image sets lie")
    parser.add_argument("--smoke", action="store_true", help="a few digits: does it start?")
    given = parser.parse_args()
    sizes = (60, 5, 20) if given.smoke else (N_REFERENCE, N_COPIES, N_TIMED)
    timed = False
    for name in ["digits"] if given.smoke else given.sets or [*FILES, "digits"]:
        images = images_of(name, given.data)
        if images is None:
            print(f"{name}: not in {given.data}", file=sys.stderr)
            continue
        n_reference = min(sizes[0], len(images) - sizes[1])
        show(name, table(images, n_reference, sizes[1]))
        if not timed:
            show_times(images, n_reference, sizes[2])
        timed = True


if __name__ == "__main__":
    main()
