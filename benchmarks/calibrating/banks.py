"""Banks: what a world of planted copies is dealt from, searched once per image set and size of the halves.

A bank holds training images (some more than both halves take) and rows that may play samples or held-out images: real
images that nobody trained on, images of a smooth population, and for each way to hide a copy such copies of many
training images. For every row and space it keeps the training images nearest to it, by the project's own search. A
world is then index work: see calibrating/deals.py.

The files of a bank hold distances and numbers of images, no pictures, and lie where the command is told to keep them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import hidden_copies
import numpy as np

from auditor import spaces
from auditor.diffusion import gaussian
from auditor.images import near_duplicates
from auditor.neighbors import search
from auditor.records import Features, ImageSet
from auditor.registry import ALIGNED, WINDOWS
from auditor.spaces import SpaceSettings, aligned, open_space
from auditor.stages import controls

SPACES = ("pixel", "correlation", *ALIGNED, *WINDOWS)
VECTOR_SPACES = ("pixel", "correlation", *WINDOWS)
N_NEAR = 192  # training images kept per row: of either half there are then more than 50 among them
N_SOURCES = 400  # training images of which there are copies, of each kind others
N_POPULATION = 2000
N_COPIER = 1200
N_SMOOTH_ALIGNED = 2000  # images of the smooth reference where pictures are refined, which takes long
N_FRESH = 4500  # real images that nobody trained on, at most
PROPOSED, COMPARED = 77, 48  # training images that an aligned space looks at, and compares
SPARE = 1.2  # training images of a bank, as a multiple of what both halves take
LEAST_FRESH = 1400  # at which mirrored ones are added, so that samples are not the same few images again and again
BLOCK = 1000  # rows searched at once
CLAN = 4  # sources of a collage

Pictures = np.ndarray  # uint8 [n, h, w, c]
Maker = Callable[[Pictures, Pictures, np.random.Generator], Pictures]


def quarter(rng: np.random.Generator) -> tuple[slice, slice]:
    """Return one of the four quarters of a picture, in quarters of its sides."""
    row, column = 2 * rng.integers(2, size=2)
    return slice(row, row + 2), slice(column, column + 2)


def each_of(x: Pictures, y: Pictures, make: Callable[[Pictures, Pictures], Pictures]) -> Pictures:
    """Return what is made of every single picture of x and y."""
    return np.concatenate([make(x[[i]], y[[i]]) for i in range(len(x))])


def shifted(x: Pictures, rng: np.random.Generator, pixels: float) -> Pictures:
    """Return pictures shifted by so many pixels of 28, down or up, right or left, or both."""
    by = max(1, round(pixels * x.shape[1] / 28))
    ways = [(i, j) for i in (-by, 0, by) for j in (-by, 0, by) if (i, j) != (0, 0)]
    return each_of(x, x, lambda one, _: hidden_copies.shifted(one, *ways[rng.integers(len(ways))]))


def moved_part(x: Pictures, y: Pictures, rng: np.random.Generator) -> Pictures:
    """Return y with a quarter of x pasted into another quarter."""

    def make(one: Pictures, into: Pictures) -> Pictures:
        half = [size // 2 for size in one.shape[1:3]]
        rows, columns = (rng.permutation([0, size]) for size in half)
        made = into.copy()
        part = one[:, rows[0] : rows[0] + half[0], columns[0] : columns[0] + half[1]]
        made[:, rows[1] : rows[1] + half[0], columns[1] : columns[1] + half[1]] = part
        return made

    return each_of(x, y, make)


# What is made of training images x and as many fresh images y.
COPIES: dict[str, Maker] = {
    "verbatim": lambda x, y, rng: x,
    "mirrored": lambda x, y, rng: x[:, :, ::-1],
    "shifted 2 px": lambda x, y, rng: shifted(x, rng, 2),
    "zoomed to 90 %": lambda x, y, rng: each_of(
        x, y, lambda one, _: hidden_copies.moved(one, rng.choice([0.9, 1 / 0.9]))
    ),
    "rotated 5 to 10 degrees": lambda x, y, rng: each_of(
        x, y, lambda one, _: hidden_copies.moved(one, angle=rng.uniform(5, 10) * rng.choice([-1, 1]))
    ),
    "noise sd 16": lambda x, y, rng: with_noise(x, rng, 16),
    "negative": lambda x, y, rng: 255 - x,
    "blended half": lambda x, y, rng: hidden_copies.as_bytes(0.5 * x + 0.5 * y),
    "quarter pasted": lambda x, y, rng: each_of(x, y, lambda a, b: hidden_copies.pasted(a, b, *quarter(rng))),
    "quarter pasted, noise 8": lambda x, y, rng: with_noise(COPIES["quarter pasted"](x, y, rng), rng, 8),
    "quarter pasted, noise 16": lambda x, y, rng: with_noise(COPIES["quarter pasted"](x, y, rng), rng, 16),
    "center pasted": lambda x, y, rng: hidden_copies.pasted(x, y, slice(1, 3), slice(1, 3)),
    # what is said not to be looked for
    "eighth pasted": lambda x, y, rng: hidden_copies.pasted(x, y, slice(0, 2), slice(0, 1)),
    "quarter pasted elsewhere": moved_part,
    "shifted 5 px": lambda x, y, rng: shifted(x, rng, 5),
    "blended .3": lambda x, y, rng: hidden_copies.as_bytes(0.3 * x + 0.7 * y),
}
COLLAGE = "collage of quarters"  # of four training images of one half


def with_noise(x: Pictures, rng: np.random.Generator, sd: float) -> Pictures:
    """Return pictures with noise of this standard deviation in gray levels."""
    return hidden_copies.as_bytes(x + rng.normal(0, sd, x.shape))


def without_near_duplicates(images: Pictures) -> Pictures:
    """Return one image of each group of near-duplicates, so that every image is a group of its own."""
    ids = tuple(map(str, range(len(images))))
    features = near_duplicates.of_set(ImageSet("images", images, ids), np.arange(len(images)))
    pairs, _ = near_duplicates.near_pairs(features, near_duplicates.NEAR)
    return np.delete(images, np.unique(pairs.max(axis=1)), axis=0)


@dataclass(frozen=True)
class Size:
    """How large a bank is."""

    n: int  # images a half
    fresh: int = N_FRESH
    population: int = N_POPULATION
    sources: int = N_SOURCES
    collages: int = 4 * N_SOURCES
    copier: int = N_COPIER  # training images of which the copier, a control, draws
    strangers: int = 4  # deals whose smooth reference is kept, for all others
    smooth: int = controls.N_SMOOTH  # images of the smooth reference
    smooth_aligned: int = N_SMOOTH_ALIGNED
    train_aligned: bool = True  # whether training images are compared with each other where pictures are refined
    spaces: tuple[str, ...] = SPACES
    heldout: int = 1000  # at most half of the real images that nobody trained on


@dataclass(frozen=True)
class Rows:
    """What may play samples or held-out images: pictures, their kinds, and the training images in them."""

    pictures: Pictures
    kinds: np.ndarray  # of each row
    sources: np.ndarray  # int32 [rows, 4], training images, -1 where there are fewer

    @cached_property
    def of(self) -> dict[str, np.ndarray]:
        """The rows of each kind."""
        return {str(kind): np.flatnonzero(self.kinds == kind) for kind in np.unique(self.kinds)}


def dealt(images: Pictures, size: Size) -> tuple[Pictures, Pictures]:
    """Return training images of a bank, and the others: at least a fifth of all, for samples and held-out images."""
    order = np.random.default_rng([size.n, 1]).permutation(len(images))
    n_train = min(round(SPARE * 2 * size.n), max(2 * size.n, len(images) - LEAST_FRESH))
    assert n_train < len(images), f"{len(images)} images are too few for halves of {size.n}"
    return images[order[:n_train]], images[order[n_train : n_train + size.fresh]]


def rows_of(train: Pictures, fresh: Pictures, size: Size) -> Rows:
    """Return all rows of a bank, the same for the same images and size."""
    rng = np.random.default_rng([size.n, 2])
    own, none = np.arange(len(train)), np.full(len(fresh), -1)
    parts: list[tuple[str, Pictures, np.ndarray]] = [("train", train, own), ("fresh", fresh, none)]
    if len(fresh) <= LEAST_FRESH:
        parts.append(("fresh mirrored", fresh[:, :, ::-1], none))
    copied = own[: size.copier]
    parts.append(("copier", with_noise(train[copied], rng, controls.COPY_NOISE), copied))
    fitted = gaussian.fit(fresh)
    eps = rng.standard_normal((size.population, fresh[0].size))
    smooth = hidden_copies.as_bytes((gaussian.sample(fitted, eps) + 1) * 127.5).reshape(-1, *fresh.shape[1:])
    parts.append(("population", smooth, np.full(len(smooth), -1)))
    for kind, make in COPIES.items():
        sources = rng.permutation(len(train))[: size.sources]
        others = rng.integers(len(fresh), size=len(sources))
        parts.append((kind, make(train[sources], fresh[others], rng), sources))
    clans = np.array([rng.permutation(len(train))[:CLAN] for _ in range(size.collages)])
    quarters = [(slice(i, i + 2), slice(j, j + 2)) for i in (0, 2) for j in (0, 2)]
    collages = train[clans[:, 0]]
    for member, place in enumerate(quarters):
        collages = hidden_copies.pasted(train[clans[:, member]], collages, *place)
    sources = np.concatenate([columns_of(each) for _, _, each in parts] + [clans])
    kinds = np.repeat([kind for kind, *_ in parts] + [COLLAGE], [len(each) for _, each, _ in parts] + [len(collages)])
    return Rows(np.concatenate([each for _, each, _ in parts] + [collages]), kinds, sources.astype(np.int32))


def columns_of(sources: np.ndarray) -> np.ndarray:
    """Return single sources as rows of four."""
    return np.column_stack([sources, *[np.full(len(sources), -1)] * (CLAN - 1)])


@dataclass(frozen=True)
class Near:
    """The training images nearest to every row in one space, nearest first."""

    index: np.ndarray  # int16 [rows, N_NEAR]
    distance: np.ndarray  # float32


class Bank:
    """One image set at one size of the halves, in every space; what was searched before is read from ``cache``."""

    def __init__(self, name: str, images: Pictures, size: Size, cache: Path) -> None:
        self.name, self.size = name, size
        self.folder = cache / f"{name}-{size.n}"
        self.train, self.fresh = dealt(images, size)
        self.rows = rows_of(self.train, self.fresh, size)
        self._near: dict[str, Near] = {}

    @property
    def n_train(self) -> int:
        """Training images; both halves of a deal are among them."""
        return len(self.train)

    def features(self, space_name: str, pictures: Pictures) -> Features:
        """Return the vectors of pictures."""
        space = opened(space_name)
        ids = tuple(map(str, range(len(pictures))))
        return spaces.features(space, "set", spaces.embed(space, pictures), ids, pictures)

    def near(self, space_name: str) -> Near:
        """Return the training images nearest to every row, searched once."""
        if space_name not in self._near:
            path = self.folder / f"{opened(space_name).revision}.npz"
            if not path.exists():
                self.search(space_name, path)
            with np.load(path) as found:
                self._near[space_name] = Near(found["index"], found["distance"])
        return self._near[space_name]

    def search(self, space_name: str, path: Path) -> None:
        """Search every row in one space, and keep it."""
        reference, k = self.features(space_name, self.train), min(N_NEAR, self.n_train)
        rows = np.arange(len(self.rows.pictures))
        if space_name in ALIGNED:
            k = min(k, COMPARED)
            if not self.size.train_aligned:
                rows = np.setdiff1d(rows, self.rows.of["train"])
        index = np.zeros((len(self.rows.pictures), k), np.int16) + np.arange(k, dtype=np.int16)
        distance = np.full(index.shape, np.nan, np.float32)
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            with more_compared():
                found = search(self.features(space_name, self.rows.pictures[part]), reference, k)
            index[part], distance[part] = found.indices, found.distances
        keep(path, {"index": index, "distance": distance})

    @property
    def spaces_of_pool(self) -> tuple[str, ...]:
        """The spaces in which training images are compared with each other."""
        return tuple(space for space in self.size.spaces if self.size.train_aligned or space not in ALIGNED)


@contextmanager
def more_compared() -> Iterator[None]:
    """Compare as many pictures of both halves, and of the spare ones, as an audit does of one half, and some more."""
    before = aligned.PROPOSED, aligned.COMPARED
    aligned.PROPOSED, aligned.COMPARED = PROPOSED, COMPARED
    yield
    aligned.PROPOSED, aligned.COMPARED = before


def opened(space_name: str) -> spaces.Space:
    """Return a space of the project."""
    return open_space(space_name, SpaceSettings())


def keep(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays, so that a file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(part, **arrays)
    part.rename(path)


def as_rows(vectors: np.ndarray) -> np.ndarray:
    """Return float32 vectors as ``[n, d]``."""
    return np.ascontiguousarray(vectors.reshape(len(vectors), -1), np.float32)
