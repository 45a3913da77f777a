"""Copies in another position: mirrored, turned, zoomed, rotated, shifted, negated, in any combination.

Pictures are seen at 28 x 28 pixels. The distance is the least over the product of all positions that are looked at,
found in three looks, each at fewer candidates than the last: every reference picture at 7 x 7 cells, in 9 of the zooms
and rotations (`auditor.neighbors` does this, with `Views`); each of the nearest at 7 x 7 cells in all of them; its best
few at 14 x 14 cells in every shift of half a pixel. A look at fewer positions can only find a pair farther apart.

All that is multiplied is whole numbers whose sums stay below 2**24, so float32 products are exact, and a distance
depends on its two pictures alone, not on the blocks of a search or the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

import numpy as np

from auditor.records import Views
from auditor.spaces import Space, SpaceSettings

SIDE, CELLS, COARSE = 28, 14, 7  # pixels a side of the view, cells a side where it is compared exactly, and coarsely
REACH = 3  # pixels of the view by which pictures are shifted against each other, at most, in steps of half a pixel
HALF_STEPS = np.arange(-2 * REACH, 2 * REACH + 1)  # shifts along one axis, in half pixels
N_SHIFTS = len(HALF_STEPS)
COARSE_OFFSETS = (-2.5, -0.5, 0.5, 2.5)  # pixels: no shift is farther from one than cells of four would feel
# A picture is seen smaller (its edge filled in around it), as it is, or its middle larger. .9 and 1.11 are both what
# is called 90 %: the picture made smaller, and nine tenths of it filling the frame.
ZOOMS, ANGLES = (0.8, 0.9, 1.0, 1.11, 1.25), (0, 5, -5, 10, -10)
COARSE_ZOOMS, COARSE_ANGLES = (0.85, 1.0, 1.18), (0, 7, -7)  # from each of the above to the nearest is next to nothing
PROPOSED = 64  # reference pictures looked at more closely
KEPT = 6  # of the 8 symmetries x 25 zooms and rotations, those in which a pair is compared exactly
LENGTH = 1000  # of a picture's vector of whole numbers
BLANK = 2.0  # gray levels: a picture of a lesser standard deviation shows nothing
LEAST_SHOWN = 0.1  # of a picture's variance: a part with less of it shows too little to be compared
PREPARED = 8192  # reference pictures, over channels, whose zooms and rotations are held in memory at once


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
        self.revision = f"{self.name}-1"
        where = "the part that both cover" if self.overlap else "the whole picture"
        self.metric_note = (
            f"sqrt(2 (1 - |r|)) with r the correlation over {where}, the most over mirroring, turns, zooms, rotations "
            "and shifts."
        )
        self.views = Views(query_views, reference_views, proposed=PROPOSED)

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return the pictures at 28 x 28 pixels, float32 ``[n, 784 c]`` of whole numbers 0 to 255, for uint8 ones."""
        down, across = (resizing(size) for size in images.shape[1:3])
        _, height, width, c = images.shape
        rows = (down @ image.reshape(height, width * c).astype(np.float64) for image in images)
        small = np.stack([across @ each.reshape(SIDE, width, c) for each in rows])
        return np.rint(small).clip(0, 255).reshape(len(images), -1).astype(np.float32)

    def as_pictures(self, vectors: np.ndarray) -> np.ndarray:
        """Return what `embed` made vectors of, uint8 ``[n, 28, 28, c]``: all that is compared."""
        return np.asarray(vectors, np.uint8).reshape(len(vectors), SIDE, SIDE, -1)

    def refine(self, queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Return the distance of each query to its own candidates, float64 ``[n, m]``.

        Parameters
        ----------
        queries, candidates
            uint8 ``[n, 28, 28, c]`` and ``[n, m, 28, 28, c]``, as `as_pictures` gives them.
        """
        n, m = candidates.shape[:2]
        unique, which = distinct_parts(candidates.reshape(n * m, *candidates.shape[2:]))
        if n > 1 and len(unique) * queries.shape[3] > PREPARED:
            halves = (slice(None, n // 2), slice(n // 2, None))
            return np.concatenate([self.refine(queries[each], candidates[each]) for each in halves])
        positions = np.stack([standard_cells(each) for each in warped(unique, ZOOMS, ANGLES)], axis=1)
        coarse = np.stack([coarse_of_cells(positions[:, w]) for w in range(positions.shape[1])])
        shifted = shifted_cells(queries)
        looked = views_of_cells(shifted)
        rows = zip(shifted, looked, which.reshape(n, m), strict=True)
        return np.stack([self.nearest(grid, look, positions, coarse, own) for grid, look, own in rows])

    def nearest(
        self, grid: np.ndarray, look: np.ndarray, positions: np.ndarray, coarse: np.ndarray, own: np.ndarray
    ) -> np.ndarray:
        """Return the distance of one query to its candidates, float64 ``[m]``.

        ``grid`` is one of `shifted_cells`, ``look`` of `views_of_cells`; ``positions``, int16 ``[n, 25, 14, 14, c]``,
        and ``coarse``, float32 ``[25, n, 49]``, are the references in every zoom and rotation, ``own`` the candidates.
        """
        alike = np.abs(look @ coarse[:, own].transpose(0, 2, 1))  # [25, views, m]
        best = alike.reshape(len(coarse), 8, -1, len(own)).max(axis=2).reshape(-1, len(own))  # [25 x 8, m]
        chosen = np.argpartition(-best, KEPT, axis=0)[:KEPT]
        warp, symmetry = np.divmod(chosen, 8)
        found = np.zeros(chosen.shape)
        for s, turned in enumerate(symmetries(grid)):
            at = np.nonzero(symmetry == s)
            if len(at[0]):
                found[at] = self.most_alike(turned, positions[own[at[1]], warp[at]], warp[at])
        return np.sqrt(np.maximum(2 - 2 * found.max(axis=0), 0))

    def most_alike(self, grid: np.ndarray, known: np.ndarray, warp: np.ndarray) -> np.ndarray:
        """Return the largest |r| over all shifts, float64 ``[m]``, of one query and ``known``, int16 [m, 14, 14, c]."""
        c = grid.shape[-1]
        shift_masks, of_shift, warp_masks = masks(self.overlap)
        within, covered = np.repeat(shift_masks, c, axis=1), np.repeat(warp_masks, c, axis=1)
        moved = grid.reshape(-1, c)[shift_index()].reshape(len(of_shift), -1) * within[of_shift]
        shown = known.reshape(len(known), -1) * covered[warp]
        product = moved @ shown.T  # [169, m], as all that follows; float32 suffices to choose the shift
        n = (within @ covered.T)[:, warp][of_shift]
        sums, squares = moved @ covered.T, np.square(moved, dtype=np.float64) @ covered.T
        other_sums, other_squares = within @ shown.T, within @ np.square(shown).T
        spread = (squares - sums.astype(np.float64) ** 2 / (within @ covered.T)[of_shift]).astype(np.float32)[:, warp]
        other_spread = (other_squares - other_sums**2 / (within @ covered.T)[:, warp])[of_shift]
        common = product - sums[:, warp] * other_sums[of_shift] / n
        least = LEAST_SHOWN * LENGTH**2
        r2 = common**2 / np.where(np.minimum(spread, other_spread) > least, spread * other_spread, np.inf)
        best, rows = r2.argmax(axis=0), np.arange(len(known))
        shown_enough = r2[best, rows] > 0
        n, total, other = (
            each.astype(np.float64) for each in (n[best, rows], sums[best, warp], other_sums[of_shift[best], rows])
        )
        common = n * product[best, rows] - total * other
        spreads = (n * squares[best, warp] - total**2) * (n * other_squares[of_shift[best], rows] - other**2)
        return np.where(shown_enough, np.abs(common) / np.sqrt(np.where(shown_enough, spreads, 1)), 0)


def query_views(vectors: np.ndarray) -> np.ndarray:
    """Return 128 views of each picture, float32 ``[n, 128, 49]``: 8 symmetries, each at 16 offsets."""
    return views_of_cells(shifted_cells(vectors.reshape(len(vectors), SIDE, SIDE, -1)))


def reference_views(vectors: np.ndarray) -> np.ndarray:
    """Return 9 views of each picture, float32 ``[n, 9, 49]``: 3 zooms, each in 3 rotations."""
    seen = warped(vectors.reshape(len(vectors), SIDE, SIDE, -1), COARSE_ZOOMS, COARSE_ANGLES)
    return np.stack([coarse_of_cells(standard_cells(each)) for each in seen], axis=1)


@cache
def resizing(size: int) -> np.ndarray:
    """Return the weights of ``size`` pixels in 28, float64 ``[28, size]``: bilinear, over all that a pixel covers.

    They are multiples of 2**-14: sums with pixels are exact, so no batch can change a bit of them.
    """
    scale = size / SIDE
    centers = (np.arange(SIDE) + 0.5) * scale - 0.5
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
def masks(overlap: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which cells count in a comparison: all of them, unless only the overlap does.

    Returns
    -------
    tuple
        The cells that a shifted picture covers, float32 ``[kinds, 196]``; of which kind each shift is, int64 ``[169]``;
        and the cells that a zoomed and rotated picture covers, float32 ``[25, 196]``.
    """
    first = 2 * np.arange(CELLS) - HALF_STEPS[:, None] / 2  # [13, 14] rows of the picture
    inside = (first >= 0) & (first + 1 <= SIDE - 1)
    within = (inside[:, None, :, None] & inside[None, :, None, :]).reshape(N_SHIFTS**2, CELLS**2)
    tables = [warp_table(zoom, angle)[2] for zoom in ZOOMS for angle in ANGLES]
    covered = np.array([each.reshape(CELLS, 2, CELLS, 2).all(axis=(1, 3)).ravel() for each in tables])
    if not overlap:
        within, covered = np.ones_like(within), np.ones_like(covered)
    kinds, of_shift = np.unique(within, axis=0, return_inverse=True)
    return kinds.astype(np.float32), of_shift.ravel(), covered.astype(np.float32)


def symmetries(pictures: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the eight symmetries of the square of ``[..., h, w, c]``."""
    for turned in (pictures, np.swapaxes(pictures, -3, -2)):
        for vertical in (1, -1):
            for horizontal in (1, -1):
                yield turned[..., ::vertical, ::horizontal, :]


def views_of_cells(grid: np.ndarray) -> np.ndarray:
    """Return the coarse views of `shifted_cells`: 8 symmetries, each at 16 offsets, float32 ``[n, 128, 49]``."""
    gray = grid.sum(axis=3, keepdims=True)
    along = [round(2 * (offset + REACH)) for offset in COARSE_OFFSETS]
    at = [down * N_SHIFTS + right for down in along for right in along]
    index = shift_index()[at]
    views = [coarse_of_cells(each.reshape(len(grid), -1)[:, index]) for each in symmetries(gray)]
    return np.concatenate(views, axis=1)


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


def distinct_parts(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pictures once each, and for every one its place among them, int64 ``[n]``."""
    places: dict[bytes, int] = {}
    which = np.array([places.setdefault(each.tobytes(), len(places)) for each in pictures])
    first = np.unique(which, return_index=True)[1]
    return pictures[first], which


whole, overlap = partial(AlignedSpace, part="whole"), partial(AlignedSpace, part="overlap")
