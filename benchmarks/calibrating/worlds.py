"""Real images, their neighbors once for all, and random splits of them: a series of audits is then index work.

A world is one image set. Each variant of it (blurred, other contrast, slightly noisy) has a
table of the nearest original images of every image, made by the project's own search. A
split says which images are half a, half b, held out, and free to play samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from auditor.diffusion import gaussian
from auditor.measuring import lean
from auditor.measuring.facts import Reference
from auditor.measuring.reading import gaps
from auditor.metrics import closer
from auditor.neighbors import search
from auditor.records import TWINS, Evidence, Features
from auditor.spaces import SpaceSettings, open_space
from auditor.stages import controls
from auditor.stats.landing import Landing
from auditor.stats.relabeling import Pool, Relabeling, relabel

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"  # image sets beside the repository, where present
N_NEAR = 320  # neighbors kept per image: so many that two groups of each half are among them, and mostly 50 images
N_ENOUGH = 200  # of the pool alone
N_MEAN = 50  # nearest images of a half whose mean distance is known
N_LISTED = 8  # pool neighbors of a sample in an evidence table
N_RELABELINGS_KEPT = 8  # relabelings shared by the series of one kind of split
AXES = 8  # principal axes along which the weighting of a training may tilt

VARIANTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "plain": lambda x: x,
    "blurred": lambda x: gaussian_filter(x, (0, 0.5, 0.5, 0)),
    "pale": lambda x: 127.5 + 0.95 * (x - 127.5),
    "bold": lambda x: 127.5 + 1.05 * (x - 127.5),
    "saturated": lambda x: 127.5 + 4 * (x - 127.5),
    "copied": lambda x: x + np.random.default_rng(1).normal(0, controls.COPY_NOISE, x.shape),
}


class EdgesSpace:
    """Differences of neighboring pixels: a third space that needs no weights, in place of a deep one."""

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return float32 ``[n, d]`` for uint8 ``[n, h, w, 1]``."""
        x = images.astype(np.float32) / 255
        parts = [np.diff(x, axis=1).reshape(len(x), -1), np.diff(x, axis=2).reshape(len(x), -1)]
        return np.hstack(parts) / np.float32(np.sqrt(x[0].size))


def space(name: str) -> object:
    """Return a space of the project, or the stand-in for a deep one."""
    return EdgesSpace() if name == "edges" else open_space(name, SpaceSettings())


@dataclass(frozen=True)
class World:
    """One image set with lazily made neighbor tables."""

    name: str
    images: np.ndarray  # uint8 [M, h, w, 1]
    n: int  # images per half, unless a simulation asks for another number
    made: dict = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def variant(self, name: str) -> np.ndarray:
        """Return all images in one variant, uint8."""
        return as_images(VARIANTS[name](self.images.astype(float)))

    def features(self, space_name: str, variant: str = "plain") -> Features:
        """Return the vectors of all images of one variant in one space."""
        key = "features", space_name, variant
        if key not in self.made:
            self.made[key] = features(space_name, self.variant(variant))
        return self.made[key]

    def table(self, space_name: str, variant: str) -> tuple[np.ndarray, np.ndarray]:
        """Return index and distance ``[M, 320]`` of the original images nearest to each image of a variant."""
        key = "table", space_name, variant
        if key not in self.made:
            found = search(self.features(space_name, variant), self.features(space_name), N_NEAR)
            self.made[key] = found.indices.astype(np.int32), found.distances
        return self.made[key]

    @property
    def scores(self) -> np.ndarray:
        """Standardised leading principal scores, ``[M, 8]``."""
        if "scores" not in self.made:
            x = self.features("pixel").vectors.astype(float)
            u = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[0]
            self.made["scores"] = u[:, :AXES] * np.sqrt(len(x))
        return self.made["scores"]

    def families(self, smallest: int, largest: int) -> np.ndarray:
        """Return group numbers ``[M]``: look-alike images, ``smallest`` to ``largest`` of them per group."""
        key = "families", smallest, largest
        if key not in self.made:
            rng, near = np.random.default_rng(largest), self.table("pixel", "plain")[0]
            group = np.full(len(self), -1)
            for number, image in enumerate(rng.permutation(len(self))):
                if group[image] < 0:
                    alone = near[image][group[near[image]] < 0]
                    group[alone[: rng.integers(smallest, largest + 1)]] = number
            self.made[key] = group
        return self.made[key]


def as_images(x: np.ndarray) -> np.ndarray:
    """Return gray levels rounded and clipped, uint8."""
    return np.clip(np.round(x), 0, 255).astype(np.uint8)


def features(space_name: str, images: np.ndarray) -> Features:
    """Return the vectors of images in a space."""
    return Features(space_name, "images", space(space_name).embed(images), tuple(map(str, range(len(images)))))


@lru_cache(maxsize=2)
def digits() -> World:
    """Return the digits of scikit-learn, 8x8: they come with the dependency."""
    from sklearn.datasets import load_digits

    return World("digits", as_images(load_digits().images[..., None] * (255 / 16)), 400)


def halved(images: np.ndarray) -> np.ndarray:
    """Return images at half the resolution, ``[n, h/2, w/2, 1]``."""
    n, h, w = images.shape
    return as_images(images.reshape(n, h // 2, 2, w // 2, 2).mean(axis=(2, 4)))[..., None]


@lru_cache(maxsize=2)
def portraits() -> World | None:
    """Return official portraits at 16x16, where the file is present."""
    path = SHARED / "portraits-gpo" / "portraits_gpo_gray32.npz"
    return World("portraits", halved(np.load(path)["images"]), 250) if path.exists() else None


@lru_cache(maxsize=2)
def xrays(n_images: int = 2000) -> World | None:
    """Return chest X-rays at 14x14 without exact copies, where the file is present."""
    path = SHARED / "pneumoniamnist" / "pneumoniamnist.npz"
    if not path.exists():
        return None
    images = np.unique(np.load(path)["train_images"], axis=0)
    return World("X-rays", halved(np.random.default_rng(0).permutation(images)[:n_images]), 400)


def smaller(world: World, n_images: int, n: int) -> World:
    """Return the world of the first images alone, with ``n`` per half."""
    return World(world.name, world.images[:n_images], n)


def worlds() -> tuple[World, ...]:
    """Return every world whose images are present; digits always are."""
    return tuple(world for world in (digits(), portraits(), xrays()) if world is not None)


# ---------------------------------------------------------------------------
# Splits
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """One random division of a world."""

    world: World
    pool: Pool
    images: np.ndarray  # int64 [N], image number of each pool position, a's first
    heldout: np.ndarray  # the audit's held-out images
    free: np.ndarray  # images that play samples
    relabeling: Relabeling
    references: dict[str, Reference] = field(default_factory=dict)  # own_share of the smooth reference, where made

    @property
    def label_of(self) -> np.ndarray:
        """+1 for images of half a, -1 for b, 0 outside the pool, ``[M]``."""
        label = np.zeros(len(self.world))
        label[self.images] = self.pool.labels
        return label

    @property
    def position_of(self) -> np.ndarray:
        """Pool position of each image, 0 where it is in neither half, ``[M]``."""
        position = np.zeros(len(self.world), dtype=np.int64)
        position[self.images] = np.arange(len(self.images))
        return position


def random_split(world: World, rng: np.random.Generator, n: int | None = None) -> Split:
    """Return halves of ``n`` images each, image by image at random; two fifths of the rest are held out."""
    n = world.n if n is None else n
    order = rng.permutation(len(world))
    return divided(world, order[:n], order[n : 2 * n], order[2 * n :], np.arange(2 * n), rng)


def random_split_of_groups(world: World, rng: np.random.Generator, groups: np.ndarray) -> Split:
    """Return halves that groups were dealt to at random, equally many of each size."""
    numbers, sizes = np.unique(groups, return_counts=True)
    share = 2 * world.n / len(world)
    dealt: tuple[list[int], list[int]] = ([], [])
    for size in np.unique(sizes):
        same = rng.permutation(numbers[sizes == size])
        pairs = int(share * len(same) / 2)
        dealt[0].extend(same[:pairs])
        dealt[1].extend(same[pairs : 2 * pairs])
    members = {number: np.flatnonzero(groups == number) for number in (*dealt[0], *dealt[1])}
    a, b = (np.concatenate([members[number] for number in half]) for half in dealt)
    rest = rng.permutation(np.setdiff1d(np.arange(len(world)), np.concatenate([a, b])))
    sizes_in_order = [len(members[number]) for half in dealt for number in half]
    return divided(world, a, b, rest, np.repeat(np.arange(len(sizes_in_order)), sizes_in_order), rng)


def divided(
    world: World, a: np.ndarray, b: np.ndarray, rest: np.ndarray, groups: np.ndarray, rng: np.random.Generator
) -> Split:
    """Return the split; relabelings are drawn from a few that all splits of this shape share.

    That is possible since positions, not images, are relabeled, and images come to
    positions at random.
    """
    labels = np.repeat([1.0, -1.0], [len(a), len(b)])
    images = np.concatenate([a, b])
    ids = tuple((half, str(i)) for half, members in zip(TWINS, (a, b), strict=True) for i in members)
    pool = Pool(ids, labels, groups)
    key = "relabeling", groups.tobytes(), int(rng.integers(N_RELABELINGS_KEPT))
    if key not in world.made:
        world.made[key] = relabel(pool, key[2])
    n_heldout = len(rest) * 2 // 5
    return Split(world, pool, images, rest[:n_heldout], rest[n_heldout:], world.made[key])


# ---------------------------------------------------------------------------
# Where samples land
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Lookup:
    """Nearest pool images of many candidate samples in one space; a sample is a row number."""

    nearest_a: np.ndarray  # pool position
    nearest_b: np.ndarray
    in_a: np.ndarray
    gap: np.ndarray
    to_a: np.ndarray  # distances: nearest image of half a, and nearest of another group than that
    outside_a: np.ndarray
    to_b: np.ndarray
    outside_b: np.ndarray
    mean_a: np.ndarray  # mean distance to the 50 nearest images of the half, NaN where fewer are known
    mean_b: np.ndarray
    group_a: np.ndarray  # of the nearest image of half a
    group_b: np.ndarray

    def landing(self, rows: np.ndarray) -> Landing:
        """Return where samples land that are these candidates."""
        return Landing(self.nearest_a[rows], self.nearest_b[rows], self.in_a[rows], self.gap[rows])

    def evidence(self, twin: str, step: int, name: str, rows: np.ndarray, heldout: np.ndarray) -> Evidence:
        """Return what the copying test reads of one twin; ``heldout`` are the rows of held-out images."""
        half = {
            "a": (self.to_a, self.outside_a, self.mean_a, self.group_a, self.nearest_a),
            "b": (self.to_b, self.outside_b, self.mean_b, self.group_b, self.nearest_b),
        }
        own, own_outside, own_mean, own_group, own_nearest = half[twin]
        other, other_outside, other_mean, other_group, _ = half["b" if twin == "a" else "a"]
        empty = np.full(len(rows), np.nan)
        return Evidence(
            twin,
            step,
            name,
            np.arange(len(rows)),
            empty,
            empty,
            own=own[rows, None],
            other=other[rows, None],
            own_nearest=own_nearest[rows],
            own_group=own_group[rows],
            other_group=other_group[rows],
            own_outside=own_outside[rows],
            other_outside=other_outside[rows],
            own_mean_50=own_mean[rows],
            other_mean_50=other_mean[rows],
            heldout_ids=heldout,
            heldout_own=own[heldout, None],
            heldout_own_outside=own_outside[heldout],
            heldout_own_mean_50=own_mean[heldout],
        )


def look_up(split: Split, index: np.ndarray, distance: np.ndarray) -> Lookup:
    """Return the lookup of candidates whose nearest images of the world are given, nearest first."""
    distance = distance.astype(float)
    label, group_of = split.label_of[index], split.pool.groups[split.position_of[index]]
    position = split.position_of[index]
    rows = np.arange(len(index))[:, None]
    listed = np.argsort(label == 0, axis=1, kind="stable")[:, :N_LISTED]
    far = np.where(label == 0, np.nan, distance)  # beyond the pool images that are known: NaN, as in the tables
    parts = {}
    for half, sign in (("a", 1), ("b", -1)):
        mine = label == sign
        first = mine.argmax(axis=1)[:, None]
        outside = mine & (group_of != group_of[rows, first])
        assert outside.any(axis=1).all(), "a candidate has too few known neighbors of one half"
        second = outside.argmax(axis=1)[:, None]
        rank = np.cumsum(mine, axis=1)
        mean = np.where(mine & (rank <= N_MEAN), distance, 0).sum(axis=1) / N_MEAN
        mean = np.where(rank[:, -1] >= N_MEAN, mean, np.nan)
        near = (each[rows, first][:, 0] for each in (position, distance, group_of))
        parts[half] = *near, distance[rows, second][:, 0], mean
    (first_a, to_a, group_a, outside_a, mean_a), (first_b, to_b, group_b, outside_b, mean_b) = parts["a"], parts["b"]
    gap = gaps(far[rows, listed], group_of[rows, listed])
    in_a, in_b = (to_a, outside_a), (to_b, outside_b)
    return Lookup(first_a, first_b, closer(to_a, to_b), gap, *in_a, *in_b, mean_a, mean_b, group_a, group_b)


def look_up_variants(
    split: Split, space_name: str, variants: Sequence[str], images: np.ndarray | None = None
) -> Lookup:
    """Return the lookup in which image i of the v-th variant is row v M + i; pool images find themselves.

    Rows of images other than those asked for (held out and free unless said) hold zeros.
    """
    images = np.concatenate([split.heldout, split.free]) if images is None else images
    tables = [split.world.table(space_name, variant) for variant in variants]
    found = look_up(split, *(np.concatenate([table[part][images] for table in tables]) for part in (0, 1)))
    m = len(split.world)
    rows = (m * np.arange(len(variants))[:, None] + images).ravel()
    return Lookup(*(spread(getattr(found, name), rows, m * len(variants)) for name in Lookup.__dataclass_fields__))


def spread(values: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """Return values at their rows, zeros elsewhere."""
    everywhere = np.zeros(n, dtype=values.dtype)
    everywhere[rows] = values
    return everywhere


def look_up_images(split: Split, space_name: str, images: np.ndarray) -> Lookup:
    """Return the lookup of new images, by a plain float32 search of the pool: no copy is among them."""
    near = squared_distances(split, space_name, images)
    rows = np.arange(len(images))[:, None]
    index = np.argpartition(near, N_ENOUGH - 1, axis=1)[:, :N_ENOUGH]
    index = index[rows, np.argsort(near[rows, index], axis=1)]
    return look_up(split, split.images[index], np.sqrt(np.maximum(near[rows, index], 0)))


def joined(first: Lookup, second: Lookup) -> Lookup:
    """Return a lookup in which the rows of the second follow those of the first."""
    names = Lookup.__dataclass_fields__
    return Lookup(*(np.concatenate([getattr(first, name), getattr(second, name)]) for name in names))


def nearest_in_pool(split: Split, space_name: str) -> np.ndarray:
    """Return the pool position of each pool image's nearest image of another group (statistics 1.2)."""
    index = split.world.table(space_name, "plain")[0][split.images]
    group_of = np.where(split.label_of == 0, -1, split.pool.groups[split.position_of])
    other = (group_of[index] >= 0) & (group_of[index] != split.pool.groups[:, None])
    return np.where(other.any(axis=1), split.position_of[index[np.arange(len(index)), other.argmax(axis=1)]], -1)


# ---------------------------------------------------------------------------
# The smooth reference (statistics 3.5)
# ---------------------------------------------------------------------------


@lru_cache(maxsize=8)
def smooth_noise(dim: int, n: int = controls.N_SMOOTH, seed: int = 0) -> np.ndarray:
    """Return the noise from which the reference is drawn, the same for both halves."""
    return np.random.default_rng(seed).standard_normal((n, dim))


def gaussian_twins(split: Split, eps: np.ndarray) -> dict[str, np.ndarray]:
    """Return per twin images of the Gaussian fitted to its half, uint8."""
    found = {}
    for twin, sign in (("a", 1), ("b", -1)):
        half = split.world.images[split.images[split.pool.labels == sign]]
        x = gaussian.sample(gaussian.fit(half), eps)
        found[twin] = as_images((x + 1) * 127.5).reshape(len(eps), *half.shape[1:])
    return found


def smooth_reference(split: Split, spaces: Sequence[str]) -> dict[str, Reference]:
    """Return the own_share of the smooth reference by space; made once per split."""
    missing = [name for name in spaces if name not in split.references]
    if missing:
        images = gaussian_twins(split, smooth_noise(split.world.images[0].size))
        for name in missing:
            lands = {twin: nearest_halves(split, name, images[twin]) for twin in TWINS}
            split.references[name] = lean.reference_share(lands, split.pool)
    return {name: split.references[name] for name in spaces}


def nearest_halves(split: Split, space_name: str, images: np.ndarray) -> Landing:
    """Return where images land, by a plain float32 search: quick, and enough for a mean of thousands."""
    near = squared_distances(split, space_name, images)
    n_a = int((split.pool.labels > 0).sum())
    first_a, first_b = near[:, :n_a].argmin(axis=1), n_a + near[:, n_a:].argmin(axis=1)
    rows = np.arange(len(images))
    in_a = closer(near[rows, first_a], near[rows, first_b])
    return Landing(first_a, first_b, in_a, np.ones(len(rows)))


def squared_distances(split: Split, space_name: str, images: np.ndarray) -> np.ndarray:
    """Return squared distances of new images to the pool, float32 ``[n, N]``."""
    reference = split.world.features(space_name).vectors[split.images]
    queries = space(space_name).embed(images)
    return (queries**2).sum(axis=1)[:, None] + (reference**2).sum(axis=1) - 2 * (queries @ reference.T)


def with_groups(split: Split, groups: np.ndarray, relabeling: Relabeling) -> Split:
    """Return the same split under other groups: what ignoring the true ones would do."""
    return replace(split, pool=replace(split.pool, groups=groups), relabeling=relabeling)
