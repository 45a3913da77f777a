"""Copies in another position: mirrored, turned, zoomed, rotated, shifted, negated, in any combination.

Pictures are seen at 28 x 28 pixels. The distance is the least over the product of all positions that are looked at,
found in four looks, each at fewer pictures than the last: every reference picture at 7 x 7 cells, in the zooms alone;
a fifth of them in the rotations, too; the nearest of these in all zooms and rotations; its best few positions at
14 x 14 cells in every shift, of whole pixels and then of halves. A look at fewer positions can only find a pair
farther apart.

Pictures under 12 pixels a side are seen at 14 x 14, turned, mirrored and negated only, and all are compared: what a
shift, zoom or rotation leaves of them is no copy by any rule (docs/spaces.md).

All that is multiplied is whole numbers whose sums stay below 2**24, so float32 products are exact, and a distance
depends on its two pictures alone, not on the blocks of a search or the machine.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, partial
from hashlib import sha256
from typing import TypeVar

import numpy as np

from auditor.spaces import Space, SpaceSettings

T = TypeVar("T")

LEAST_SIDE = 12  # pixels of a picture that is compared in more than its symmetries
SIDE, CELLS, COARSE = 28, 14, 7  # pixels a side of the view, cells a side where it is compared exactly, and coarsely
REACH = 3  # pixels of the view by which pictures are shifted against each other, at most, in steps of half a pixel
HALF_STEPS = np.arange(-2 * REACH, 2 * REACH + 1)  # shifts along one axis, in half pixels
N_SHIFTS = len(HALF_STEPS)
WHOLE_SHIFTS = np.arange(N_SHIFTS**2).reshape(N_SHIFTS, N_SHIFTS)[::2, ::2].ravel()  # those of whole pixels, [49]
FIRST_OFFSETS = (-2.0, 0.0, 2.0)  # pixels, at the first look
COARSE_OFFSETS = (-2.5, -0.5, 0.5, 2.5)  # at those that follow: no shift is farther from one than cells of four feel
# A picture is seen smaller (its edge filled in around it), as it is, or its middle larger. .9 and 1.11 are both what
# is called 90 %: the picture made smaller, and nine tenths of it filling the frame.
ZOOMS, ANGLES = (0.8, 0.9, 1.0, 1.11, 1.25), (0, 5, -5, 10, -10)
COARSE_ZOOMS, COARSE_ANGLES = (0.85, 1.0, 1.18), (0, 7, -7)  # from each of the above to the nearest is next to nothing
SHARE_LOOKED = 5  # the second look is at one in so many reference pictures,
LEAST_LOOKED, MOST_LOOKED = 64, 1000  # within these
PROPOSED = 32  # those that are looked at in all zooms and rotations
COMPARED = 12  # those whose distance is found: more than the ranks that anything asks for
KEPT = 4  # of the 8 symmetries x 25 zooms and rotations, those in which a pair is compared exactly
LENGTH = 1000  # of a picture's vector of whole numbers
BLANK = 2.0  # gray levels: a picture of a lesser standard deviation shows nothing
LEAST_SHOWN = 0.1  # of a picture's variance: a part with less of it shows too little to be compared
PREPARED = 8192  # reference pictures, over channels, whose zooms and rotations are held in memory at once
REMEMBERED = 64  # searches whose positions are kept for the other part
QUERIES_AT_ONCE, SMALL_AT_ONCE = 8, 64


class AlignedSpace(Space):
    """sqrt(2 (1 - |r|)) with r the correlation of two pictures in the position in which they are most alike.

    One of the pictures is zoomed and rotated (bilinear, its edge filled in), the other turned or mirrored and shifted;
    r is Pearson's, of means over 2 x 2 pixels, colors together, each less its own mean. So 0 is the same picture in any
    of these positions, at any brightness and contrast, or its negative, and 1.414 what has nothing in common.
    *whole*: r over the whole picture, where what was filled in counts as well. *overlap*: r over the part that both
    cover: a shifted copy is alike there to the last bit, while its filled edge is not.

    A blank picture is alike in nothing: its distance is 1.414 from every picture, other blank ones too.
    """

    vectors = False

    def __init__(self, settings: SpaceSettings, part: str) -> None:
        """Need nothing of the settings; ``part`` is ``whole`` or ``overlap``."""
        self.overlap = part == "overlap"
        self.name = f"aligned-{part}"
        self.revision = f"{self.name}-2"
        where = "the part that both cover" if self.overlap else "the whole picture"
        self.metric_note = (
            f"sqrt(2 (1 - |r|)) with r the correlation over {where}, the most over mirroring, turns, zooms, rotations "
            "and shifts."
        )

    def fits(self, height: int, width: int) -> bool:
        """Tell whether pictures are shifted against each other: else both parts are the same."""
        return not self.overlap or min(height, width) >= LEAST_SIDE

    def left_out(self, height: int, width: int, n_images: int) -> str:
        """Return what pictures are too small for, or sets too large."""
        if min(height, width) < LEAST_SIDE:
            return (
                f"Pictures of {height}x{width} are compared mirrored, in quarter turns and as negatives, not shifted, "
                f"zoomed or rotated: under {LEAST_SIDE} pixels a side no rule tells such copies from other pictures."
            )
        if n_images // SHARE_LOOKED > MOST_LOOKED:
            return (
                f"Copies in another position are looked for among the {MOST_LOOKED:,} of {n_images:,} images that are "
                f"most alike at a first look, not a {SHARE_LOOKED}th of them: of pictures rotated, shifted and zoomed "
                "at once fewer are found."
            )
        return ""

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return the pictures at 28 x 28 pixels, float32 ``[n, 784 c]`` of whole numbers 0 to 255, for uint8 ones.

        Those under 12 pixels a side: at 14 x 14, ``[n, 196 c]``.
        """
        _, height, width, c = images.shape
        side = SIDE if min(height, width) >= LEAST_SIDE else CELLS
        down, across = (resizing(size, side) for size in (height, width))
        rows = (down @ image.reshape(height, width * c).astype(np.float64) for image in images)
        small = np.stack([across @ each.reshape(side, width, c) for each in rows])
        return np.rint(small).clip(0, 255).reshape(len(images), -1).astype(np.float32)

    def nearest(
        self, queries: np.ndarray, reference: np.ndarray, own: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return distances and numbers of the nearest among those that were compared, ``[n, m]``, in any order.

        Parameters
        ----------
        queries, reference
            What `embed` returned.
        own
            int64 ``[n]``, the number of the reference picture that each query must not find; -1 for none.
        k
            How many are wanted. Where shifts are looked at, 12 are compared, whatever is wanted.
        """
        if queries.shape[1] in (CELLS**2, 3 * CELLS**2):
            return nearest_turned(queries, reference, own, k)
        positions = remembered(_positions, positions_of, queries, reference, own)
        found = np.empty(positions.pictures.shape)
        in_every_position = among(reference)
        for rows in blocks(len(queries)):
            known, at = in_every_position(positions.pictures[rows])
            warps, turns = (each[rows].astype(np.intp) for each in (positions.warps, positions.symmetries))
            grid = shifted_cells(queries[rows].reshape(len(at), SIDE, SIDE, -1))
            shown = known.cells[at[:, :, None], warps]
            shown = np.take_along_axis(shown, turned_cells(grid.shape[-1])[turns], axis=3).astype(np.float32)
            found[rows] = most_alike(grid, shown, 8 * warps + turns, self.overlap)
        return np.sqrt(np.maximum(2 - 2 * found, 0)), positions.pictures


def nearest_turned(
    queries: np.ndarray, reference: np.ndarray, own: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `AlignedSpace.nearest` does for small pictures, in eight symmetries: all of them are compared."""
    known, asked = (small_pictures(each) for each in (reference, queries))
    turned = known[:, turned_cells(known.shape[1] // CELLS**2)].swapaxes(0, 1).reshape(-1, known.shape[1])  # [8 x n, d]
    lengths, others = (np.square(each).sum(axis=1, dtype=np.float64) for each in (asked, known))
    m = min(len(known), k + 1)  # the query itself may be among them
    distances, numbers = np.empty((len(asked), m)), np.empty((len(asked), m), np.int64)
    for start in range(0, len(asked), SMALL_AT_ONCE):
        rows = slice(start, start + SMALL_AT_ONCE)
        product = (asked[rows] @ turned.T).reshape(-1, 8, len(known))
        alike = np.maximum(product.max(axis=1), -product.min(axis=1)).astype(np.float64)
        r = alike / np.sqrt(np.maximum(lengths[rows, None] * others, 1))
        found = np.sqrt(np.maximum(2 - 2 * r, 0))
        numbers[rows] = np.argsort(found, axis=1, kind="stable")[:, :m]
        distances[rows] = np.take_along_axis(found, numbers[rows], axis=1)
    return distances, numbers


def small_pictures(vectors: np.ndarray) -> np.ndarray:
    """Return small pictures as vectors of length 1,000, whole numbers float32 ``[n, 196 c]``; zeros for blank ones."""
    pictures = vectors.reshape(len(vectors), CELLS, CELLS, -1).astype(np.int64)
    return standard(pictures, pictures, 1).reshape(len(vectors), -1).astype(np.float32)


@dataclass(frozen=True)
class Positions:
    """Which reference pictures are compared with each query, and in which positions."""

    pictures: np.ndarray  # int64 [n, m]
    warps: np.ndarray  # int8 [n, m, kept]: numbers of a zoom and rotation of the reference picture
    symmetries: np.ndarray  # int8 [n, m, kept]: numbers of a symmetry of the query


class Known:
    """Some reference pictures in every zoom and rotation."""

    def __init__(self, vectors: np.ndarray) -> None:
        pictures = vectors.reshape(len(vectors), SIDE, SIDE, -1)
        warps = [standard_cells(each) for each in warped(pictures, ZOOMS, ANGLES)]
        self.looks = np.stack([coarse_of_cells(each) for each in warps], axis=1)  # float32 [n, 25, 49]
        self.cells = np.stack([each.reshape(len(each), -1) for each in warps], axis=1)  # int16 [n, 25, 196 c]


class Coarse:
    """All reference pictures, as the first looks see them: float32 ``[n, 9, 49]``, rotations of a zoom together."""

    def __init__(self, vectors: np.ndarray) -> None:
        pictures = vectors.reshape(len(vectors), SIDE, SIDE, -1)
        seen = warped(pictures, COARSE_ZOOMS, COARSE_ANGLES)
        self.views = np.stack([coarse_of_cells(standard_cells(each)) for each in seen], axis=1)

    @cached_property
    def unrotated(self) -> np.ndarray:
        """Views of the zooms alone, float32 ``[3, 49, n]``."""
        return np.ascontiguousarray(self.views[:, :: len(COARSE_ANGLES)].transpose(1, 2, 0))


_known: OrderedDict[tuple[bytes, ...], Known] = OrderedDict()
_coarse: OrderedDict[tuple[bytes, ...], Coarse] = OrderedDict()
_positions: OrderedDict[tuple[bytes, ...], Positions] = OrderedDict()


def remembered(memory: OrderedDict[tuple[bytes, ...], T], make: Callable[..., T], *arrays: np.ndarray) -> T:
    """Return what ``make`` returns for these arrays, made once for equal contents as long as it is remembered.

    The two parts of the space ask for the same positions, and every checkpoint for the same reference pictures.
    """
    name = tuple(sha256(np.ascontiguousarray(each).tobytes()).digest() for each in arrays)
    if name not in memory:
        memory[name] = make(*arrays)
    memory.move_to_end(name)
    while len(memory) > REMEMBERED:
        memory.popitem(last=False)
    return memory[name]


def known_of(vectors: np.ndarray) -> Known:
    """Return reference pictures in every zoom and rotation; those that were asked for before are kept, if few."""
    found = remembered(_known, Known, vectors)
    while len(_known) > 1 and sum(each.cells.shape[2] * len(each.cells) for each in _known.values()) > PREPARED * 196:
        _known.popitem(last=False)
    return found


def among(reference: np.ndarray) -> Callable[[np.ndarray], tuple[Known, np.ndarray]]:
    """Return a function that returns reference pictures, all or those chosen, and where the chosen stand among them."""
    if reference.size <= PREPARED * SIDE**2:
        whole = known_of(reference)
        return lambda chosen: (whole, chosen)

    def some(chosen: np.ndarray) -> tuple[Known, np.ndarray]:
        each, at = np.unique(chosen, return_inverse=True)
        return Known(reference[each]), at.reshape(chosen.shape)

    return some


def blocks(n: int) -> Iterator[slice]:
    """Yield the rows of a few queries at a time."""
    for start in range(0, n, QUERIES_AT_ONCE):
        yield slice(start, min(start + QUERIES_AT_ONCE, n))


def positions_of(queries: np.ndarray, reference: np.ndarray, own: np.ndarray) -> Positions:
    """Return which reference pictures are to be compared with each query, and how; see the module's first lines."""
    coarse, in_every_position, found = remembered(_coarse, Coarse, reference), among(reference), []
    for rows in blocks(len(queries)):
        gray = shifted_cells(queries[rows].reshape(rows.stop - rows.start, SIDE, SIDE, -1)).sum(axis=3, keepdims=True)
        views = views_of_cells(gray, COARSE_OFFSETS)
        looked = proposed(views_of_cells(gray, FIRST_OFFSETS), views, coarse, own[rows])
        known, at = in_every_position(looked)
        alike = most_alike_views(views, known.looks[at].reshape(len(at), -1, COARSE**2))
        alike = alike.reshape(len(at), 8, looked.shape[1], -1).transpose(0, 2, 1, 3).reshape(*at.shape, -1)
        nearest = largest(alike.max(axis=2), COMPARED)  # of 8 symmetries x 25 zooms and rotations
        symmetry, warp = np.divmod(
            largest(np.take_along_axis(alike, nearest[:, :, None], axis=1), KEPT), len(ZOOMS) * len(ANGLES)
        )
        found.append((np.take_along_axis(looked, nearest, axis=1), warp.astype(np.int8), symmetry.astype(np.int8)))
    return Positions(*(np.concatenate(each) for each in zip(*found, strict=True)))


def proposed(first: np.ndarray, views: np.ndarray, coarse: Coarse, own: np.ndarray) -> np.ndarray:
    """Return the numbers of the reference pictures that come nearest in two looks, int64 ``[n, 32]`` or fewer.

    ``first`` and ``views`` are those of the queries, float32 ``[n, offsets x 8, 49]``, at few offsets and at more.
    """
    n = len(coarse.views)
    alike = np.zeros((len(first), n), np.float32)
    flat = first.reshape(-1, COARSE**2)
    for view in coarse.unrotated:
        product = (flat @ view).reshape(*first.shape[:2], -1)
        np.maximum(alike, np.maximum(product.max(axis=1), -product.min(axis=1)), out=alike)
    alike[np.flatnonzero(own >= 0), own[own >= 0]] = -1
    some = largest(alike, max(LEAST_LOOKED, min(MOST_LOOKED, n // SHARE_LOOKED)))
    if some.shape[1] > PROPOSED:
        seen = coarse.views[some].reshape(len(some), -1, COARSE**2)
        alike = most_alike_views(views, seen).max(axis=1).reshape(*some.shape, -1).max(axis=2)
        alike[some == own[:, None]] = -1
        some = np.take_along_axis(some, largest(alike, PROPOSED), axis=1)
    return some


def most_alike_views(views: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return the largest product over offsets, negated or not, float32 ``[n, 8, m]``.

    ``views`` is float32 ``[n, offsets x 8, 49]``, ``seen`` ``[n, m, 49]``.
    """
    product = (views @ seen.transpose(0, 2, 1)).reshape(len(views), -1, 8 * seen.shape[1])
    return np.maximum(product.max(axis=1), -product.min(axis=1)).reshape(len(views), 8, -1)


def largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the k largest along the last axis, in no order."""
    if k >= values.shape[-1]:
        return np.broadcast_to(np.arange(values.shape[-1]), values.shape).copy()
    return np.argpartition(-values, k - 1, axis=-1)[..., :k]


def most_alike(grid: np.ndarray, shown: np.ndarray, kind: np.ndarray, overlap: bool) -> np.ndarray:
    """Return the largest |r|, float64 ``[n, m]``: over positions and whole pixels, then half a pixel around the best.

    Parameters
    ----------
    grid
        One of `shifted_cells`, ``[n, 65, 65, c]``.
    shown
        Cells of what each query is compared with, turned as the query would be, float32 ``[n, m, kept, 196 c]``.
    kind
        Number of the zoom and rotation x 8 + number of the symmetry, int64 ``[n, m, kept]``.
    overlap
        Whether only those cells count that both cover.
    """
    (n, m, kept), c = kind.shape, grid.shape[-1]
    cells, flat = grid.reshape(n, -1, c), shown.reshape(n, m * kept, -1)
    within, covered = masks(c)
    moved = cells[:, shift_index()[WHOLE_SHIFTS]].reshape(n, len(WHOLE_SHIFTS), -1)
    covers = covered[kind.reshape(n, -1)] if overlap else None
    r2 = squared_correlation(moved, flat, within[WHOLE_SHIFTS] if overlap else None, covers, np.float32)
    best = r2.reshape(n, -1, m, kept).transpose(0, 2, 1, 3).reshape(n * m, -1).argmax(axis=1)  # [n m] of shifts x kept
    shifts, position = near_shifts()[best // kept], best % kept  # [n m, 9], [n m]
    rows = np.repeat(np.arange(n), m)
    moved = cells[rows[:, None, None], shift_index()[shifts]].reshape(n * m, shifts.shape[1], -1)
    flat = shown.reshape(n * m, kept, -1)[np.arange(n * m), position][:, None]
    covers = covered[kind.reshape(n * m, kept)[np.arange(n * m), position]][:, None] if overlap else None
    r2 = squared_correlation(moved, flat, within[shifts] if overlap else None, covers, np.float64)
    return np.sqrt(r2.max(axis=(1, 2))).reshape(n, m)


def squared_correlation(
    moved: np.ndarray, shown: np.ndarray, within: np.ndarray | None, covers: np.ndarray | None, kind: type
) -> np.ndarray:
    """Return r**2, ``[n, s, m]`` of type ``kind``, of cells ``[n, s, d]`` with cells ``[n, m, d]``.

    ``within``, ``[s, d]`` or ``[n, s, d]``, and ``covers``, ``[n, m, d]``, are 1 where cells count; None: all do. Where
    either shows too little, 0.
    """
    if within is None or covers is None:
        n = np.full((1, 1, 1), moved.shape[2], np.float32)
        total, squares = moved.sum(axis=2)[:, :, None], np.square(moved, dtype=np.float64).sum(axis=2)[:, :, None]
        other, other_squares = (each.sum(axis=2)[:, None] for each in (shown, np.square(shown)))
    else:
        across = covers.transpose(0, 2, 1)
        moved, shown, n = moved * within, shown * covers, within @ across
        total, squares = moved @ across, np.square(moved, dtype=np.float64) @ across
        other, other_squares = (within @ each.transpose(0, 2, 1) for each in (shown, np.square(shown)))
    n, total, other = (each.astype(kind) for each in (n, total, other))
    common = (n * (moved @ shown.transpose(0, 2, 1)).astype(kind) - total * other) ** 2
    spread = (n * squares - np.square(total, dtype=np.float64)).astype(kind)
    other_spread = n * other_squares.astype(kind) - other**2
    least = LEAST_SHOWN * LENGTH**2 * n
    shows = (spread > least) & (other_spread > least)
    return np.asarray(common / np.where(shows, spread * other_spread, np.inf))


@cache
def resizing(size: int, side: int) -> np.ndarray:
    """Return the weights of ``size`` pixels in ``side``, float64 ``[side, size]``: bilinear, over all a pixel covers.

    They are multiples of 2**-14: sums with pixels are exact, so no batch can change a bit of them.
    """
    scale = size / side
    centers = (np.arange(side) + 0.5) * scale - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(size) - centers[:, None]) / max(1, scale))
    return np.asarray(np.rint(weights / weights.sum(axis=1, keepdims=True) * 2**14) / 2**14)


@cache
def warp_table(zoom: float, angle: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where the pixels of a zoomed and rotated picture come from.

    Returns
    -------
    tuple
        Four pixels, int64 ``[4, 784]``, and their weights, float64 ``[4, 784]``, for each; and whether the picture
        covers it (bool ``[28, 28]``): outside, its edge is filled in.
    """
    middle = (SIDE - 1) / 2
    y, x = np.meshgrid(*[np.arange(SIDE) - middle] * 2, indexing="ij")
    turn = np.deg2rad(angle)
    from_y = (np.cos(turn) * y - np.sin(turn) * x) / zoom + middle
    from_x = (np.sin(turn) * y + np.cos(turn) * x) / zoom + middle
    covered = (np.minimum(from_y, from_x) > -0.5) & (np.maximum(from_y, from_x) < SIDE - 0.5)
    pixels, weights = [], []
    from_y, from_x = from_y.clip(0, SIDE - 1), from_x.clip(0, SIDE - 1)
    top, left = (np.minimum(np.floor(each), SIDE - 2).astype(np.int64) for each in (from_y, from_x))
    for row in (0, 1):
        for column in (0, 1):
            pixels.append(((top + row) * SIDE + left + column).ravel())
            weights.append(((1 - np.abs(from_y - top - row)) * (1 - np.abs(from_x - left - column))).ravel())
    return np.array(pixels), np.array(weights), covered


def warped(pictures: np.ndarray, zooms: tuple[float, ...], angles: tuple[float, ...]) -> Iterator[np.ndarray]:
    """Yield the pictures in every zoom and rotation, int32 ``[n, 28, 28, c]`` in sixteenths of a gray level."""
    flat = pictures.reshape(len(pictures), SIDE * SIDE, -1).astype(np.float32)
    for zoom in zooms:
        for angle in angles:
            pixels, weights, _ = warp_table(zoom, angle)
            weights = weights.astype(np.float32)[:, :, None]
            seen = sum(flat[:, each] * weight for each, weight in zip(pixels, weights, strict=True))
            yield np.rint(16 * seen).astype(np.int32).reshape(pictures.shape)


def standard_cells(pictures: np.ndarray) -> np.ndarray:
    """Return means over 2 x 2 pixels as a vector of length 1,000, int16 ``[n, 14, 14, c]``; zeros for blank ones."""
    n, side, _, c = pictures.shape
    cells = pictures.reshape(n, side // 2, 2, side // 2, 2, c).sum(axis=(2, 4), dtype=np.int64)
    return standard(cells, cells, 64).astype(np.int16)


def standard(values: np.ndarray, cells: np.ndarray, unit: int) -> np.ndarray:
    """Return values less the mean of a picture's cells in each channel, at a scale at which these have length 1,000.

    Both are int64 ``[n, h, w, c]``, and ``unit`` is a gray level in them. The result is float64 whole numbers, all zero
    where the cells are blank. Where values between the cells vary much more than these do, they are scaled down, so
    that no 196 of them are longer than 2**14.
    """
    size, c = cells.shape[1] * cells.shape[2], cells.shape[3]
    mean = cells.sum(axis=(1, 2), keepdims=True)
    centered = size * values - mean
    length = norm(size * cells - mean)
    blank = length < BLANK * unit * size * np.sqrt(size * c)
    between = norm(centered) * np.sqrt(size / (values.shape[1] * values.shape[2]))
    return np.rint(centered * np.where(blank, 0, LENGTH / np.maximum(np.maximum(length, between / 3), 1)))


def norm(values: np.ndarray) -> np.ndarray:
    """Return the length of each picture's values, float64 ``[n, 1, 1, 1]``, for int64 ``[n, h, w, c]``: exact sums."""
    return np.sqrt(np.square(values).sum(axis=(1, 2, 3), keepdims=True).astype(np.float64))


def shifted_cells(pictures: np.ndarray) -> np.ndarray:
    """Return means over 2 x 2 pixels at every half pixel, float32 ``[n, 65, 65, c]``, of the picture with edges filled.

    `shift_index` tells which of them are the cells of a shift. They are scaled as `standard_cells` are.
    """
    filled = np.pad(pictures.astype(np.int64), ((0, 0), (REACH, REACH), (REACH, REACH), (0, 0)), mode="edge")
    rows = filled[:, 1:] + filled[:, :-1]
    box = rows[:, :, 1:] + rows[:, :, :-1]
    for axis in (1, 2):
        box = halved(box, axis)
    plain = box[:, 2 * REACH : -2 * REACH : 4, 2 * REACH : -2 * REACH : 4]
    return standard(box, plain, 16).astype(np.float32)


def halved(values: np.ndarray, axis: int) -> np.ndarray:
    """Return twice the values along an axis, with the mean of two between them."""
    values = np.moveaxis(values, axis, 0)
    between = np.empty((2 * len(values) - 1, *values.shape[1:]), values.dtype)
    between[::2], between[1::2] = 2 * values, values[1:] + values[:-1]
    return np.moveaxis(between, 0, axis)


@cache
def shift_index() -> np.ndarray:
    """Return the places of a shift's cells among `shifted_cells`, int64 ``[169, 196]``."""
    along = 2 * REACH - HALF_STEPS[:, None] + 4 * np.arange(CELLS)  # [13, 14]
    side = 4 * (CELLS - 1) + N_SHIFTS
    places = along[:, None, :, None] * side + along[None, :, None, :]
    return places.reshape(N_SHIFTS**2, CELLS**2)


@cache
def near_shifts() -> np.ndarray:
    """Return for each shift by whole pixels those within half a pixel of it, int64 ``[49, 9]``."""
    down, right = np.divmod(WHOLE_SHIFTS, N_SHIFTS)
    steps = np.array([-1, 0, 1])
    down, right = ((each[:, None] + steps).clip(0, N_SHIFTS - 1) for each in (down, right))
    return (down[:, :, None] * N_SHIFTS + right[:, None]).reshape(len(WHOLE_SHIFTS), -1)


@cache
def masks(c: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which cells both of two pictures cover.

    Returns
    -------
    tuple
        The cells that a picture covers in each shift, float32 ``[169, 196 c]``, and those that a zoomed and rotated one
        covers that is turned as the other would be, ``[25 x 8, 196 c]``.
    """
    first = 2 * np.arange(CELLS) - HALF_STEPS[:, None] / 2  # [13, 14] rows of the picture
    inside = (first >= 0) & (first + 1 <= SIDE - 1)
    within = (inside[:, None, :, None] & inside[None, :, None, :]).reshape(N_SHIFTS**2, CELLS**2)
    tables = [warp_table(zoom, angle)[2] for zoom in ZOOMS for angle in ANGLES]
    covered = np.array([each.reshape(CELLS, 2, CELLS, 2).all(axis=(1, 3)).ravel() for each in tables])
    turned = covered[:, turned_cells(1)].reshape(-1, CELLS**2)
    first_cells, turned_too = (np.repeat(each.astype(np.float32), c, axis=1) for each in (within, turned))
    return first_cells, turned_too


@cache
def turned_cells(c: int) -> np.ndarray:
    """Return for each symmetry the places of a picture's cells once it is undone, int64 ``[8, 196 c]``."""
    places = np.arange(CELLS**2).reshape(CELLS, CELLS, 1)
    undone = np.array([np.argsort(each.ravel()) for each in symmetries(places)])
    return (undone[:, :, None] * c + np.arange(c)).reshape(8, -1)


def symmetries(pictures: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the eight symmetries of the square of ``[..., h, w, c]``."""
    for turned in (pictures, np.swapaxes(pictures, -3, -2)):
        for vertical in (1, -1):
            for horizontal in (1, -1):
                yield turned[..., ::vertical, ::horizontal, :]


def views_of_cells(gray: np.ndarray, offsets: tuple[float, ...]) -> np.ndarray:
    """Return the coarse views of gray `shifted_cells`: every offset in 8 symmetries, float32 ``[n, offsets x 8, 49]``.

    Offsets are the same in every direction, so that a view of a turned picture is a turned view of the picture.
    """
    along = [round(2 * (offset + REACH)) for offset in offsets]
    index = shift_index()[[down * N_SHIFTS + right for down in along for right in along]]
    views = coarse_of_cells(gray.reshape(len(gray), -1)[:, index])
    return views[:, :, turned_places()].reshape(len(gray), -1, COARSE**2)


@cache
def turned_places() -> np.ndarray:
    """Return for each symmetry where the parts of a coarse view come from, int64 ``[8, 49]``."""
    places = np.arange(COARSE**2).reshape(COARSE, COARSE, 1)
    return np.array([each.ravel() for each in symmetries(places)])


def coarse_of_cells(cells: np.ndarray) -> np.ndarray:
    """Return means over 2 x 2 cells, gray, as vectors of length 1,000.

    ``cells`` are whole numbers, ``[n, 14, 14, c]``, giving float32 ``[n, 49]``, or ``[n, views, 196]``, giving
    ``[n, views, 49]``.
    """
    shape = cells.shape[:-1] if cells.shape[-1] == CELLS**2 else cells.shape[:1]
    gray = cells if cells.shape[-1] == CELLS**2 else cells.sum(axis=3, dtype=np.float32)
    parts = gray.reshape(-1, COARSE, 2, COARSE, 2).astype(np.float32).sum(axis=(2, 4)).reshape(-1, COARSE**2)
    centered = COARSE**2 * parts - parts.sum(axis=1, keepdims=True)
    length = np.sqrt(np.square(centered, dtype=np.float64).sum(axis=1, keepdims=True))
    return np.rint(centered * (LENGTH / np.maximum(length, 1))).astype(np.float32).reshape(*shape, -1)


whole, overlap = partial(AlignedSpace, part="whole"), partial(AlignedSpace, part="overlap")
