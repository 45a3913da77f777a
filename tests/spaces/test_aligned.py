"""Copies in another position are at distance nothing, and what is alike in nothing stays apart."""

from __future__ import annotations

from collections import OrderedDict
from itertools import product

import numpy as np
import pytest

from auditor import spaces
from auditor.neighbors import is_copy, search
from auditor.registry import ALIGNED
from auditor.spaces import SpaceSettings, aligned, open_space

PART = 1 / 3  # of the distance between unrelated pictures


def smooth(n=40, side=28, n_channels=1, seed=0):
    """Pictures of a few waves, uint8 [n, side, side, c]: like photographs, they hold little of fine detail."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(n, 5, 5, n_channels)) * (1 + np.hypot(*np.mgrid[:5, :5])[None, :, :, None]) ** -1.0
    at = np.cos(np.pi * (np.arange(side) + 0.5)[:, None] / side * np.arange(5))
    values = np.einsum("yi,xj,nijc->nyxc", at, at, waves)
    return np.clip(128 + 60 * values, 0, 255).round().astype(np.uint8)


def features(name, images):
    space = open_space(name, SpaceSettings())
    vectors = spaces.embed(space, images)
    return spaces.features(space, "set", vectors, tuple(map(str, range(len(images)))), images)


def distance(name, first, second):
    """Distances of pictures of equal rows."""
    pairs = zip(first, second, strict=True)
    return np.array([search(features(name, a[None]), features(name, b[None]), k=1).distances[0, 0] for a, b in pairs])


def shifted(images, down, right):
    rows, columns = (np.clip(np.arange(28) - each, 0, 27) for each in (down, right))
    return images[:, rows][:, :, columns]


def moved(images, zoom=1.0, angle=0.0):
    """Pictures zoomed and rotated about their middle by scipy, the edge filled in."""
    from scipy.ndimage import affine_transform

    turn = np.deg2rad(angle)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / zoom
    middle = (np.array(images.shape[1:3]) - 1) / 2
    layers = [
        [affine_transform(layer, matrix, middle - matrix @ middle, order=1, mode="nearest") for layer in each]
        for each in np.moveaxis(images, 3, 1).astype(float)
    ]
    return np.moveaxis(np.array(layers), 1, 3).round().astype(np.uint8)


def forget(monkeypatch):
    """Start without what earlier searches left."""
    for name in ("_known", "_coarse", "_positions"):
        monkeypatch.setattr(aligned, name, OrderedDict())


SYMMETRIES = {
    f"{turns} quarter turns{', mirrored' * mirrored}": (turns, mirrored) for turns in range(4) for mirrored in (0, 1)
}


@pytest.mark.parametrize("name", ALIGNED)
@pytest.mark.parametrize("turned", SYMMETRIES)
@pytest.mark.parametrize("n_channels", [1, 3])
def test_a_turned_or_mirrored_copy_is_at_distance_zero(name, turned, n_channels):
    images = smooth(6, n_channels=n_channels)
    turns, mirrored = SYMMETRIES[turned]
    copies = np.rot90(images[:, :, ::-1] if mirrored else images, turns, axes=(1, 2))
    np.testing.assert_array_equal(distance(name, copies, images), 0)


@pytest.mark.parametrize("name", ALIGNED)
def test_the_negative_and_another_brightness_or_contrast_are_at_distance_nothing(name):
    images = smooth(6)
    np.testing.assert_allclose(distance(name, 255 - images, images), 0, atol=0.01)
    np.testing.assert_allclose(distance(name, images // 2 + 40, images), 0, atol=0.05)


@pytest.mark.parametrize(("down", "right"), [(0, 1), (1, -1), (2, -2), (-3, 0), (3, 3), (-3, 2)])
def test_a_shifted_copy_is_at_distance_zero_where_both_show_the_picture(down, right):
    images = smooth(8)
    copies = shifted(images, down, right)
    np.testing.assert_allclose(distance("aligned-overlap", copies, images), 0, atol=0.02)
    assert (distance("aligned-whole", copies, images) < distance("aligned-whole", images[::-1], images)).all()


def test_filled_edges_count_in_the_whole_picture_alone():
    images = smooth(8)
    copies = shifted(images, 3, 3)
    assert distance("aligned-whole", copies, images).mean() > 10 * distance("aligned-overlap", copies, images).mean()


@pytest.mark.parametrize("name", ALIGNED)
@pytest.mark.parametrize(("zoom", "angle"), [*product((0.8, 0.9, 1.0, 1.11, 1.25), (0, 5, -10)), (1.0, 10), (0.9, -5)])
def test_a_zoomed_and_rotated_copy_is_nearest_to_its_source_and_a_copy_of_it(name, zoom, angle):
    reference = smooth(60)
    found = search(features(name, moved(reference[:6], zoom, angle)), features(name, reference), k=2)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(6))
    assert is_copy(*found.distances.T).all()


def test_everything_at_once_is_found_among_many():
    reference = smooth(500)
    copies = 255 - shifted(moved(reference[:20, :, ::-1], 0.9, 5), 1, -2)
    found = search(features("aligned-overlap", copies), features("aligned-overlap", reference), k=2)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(20))
    assert is_copy(*found.distances.T).mean() > 0.9


@pytest.mark.parametrize("name", ALIGNED)
def test_other_pictures_of_the_same_kind_are_no_copies(name):
    found = search(features(name, smooth(40, seed=1)), features(name, smooth(300)), k=2)
    assert not is_copy(*found.distances.T).any()


@pytest.mark.parametrize("name", ALIGNED)
def test_a_blank_picture_is_alike_in_nothing(name):
    images = smooth(5)
    images[1], images[2], images[3] = 0, 255, 128
    images[3, ::2] += 1  # what rounding leaves of nothing
    found = search(features(name, images), features(name, images), k=5)
    blank = np.array([False, True, True, True, False])
    assert not np.isnan(found.distances).any()
    np.testing.assert_allclose(found.distances[blank], np.sqrt(2), rtol=1e-6)
    assert not is_copy(*found.distances[blank, :2].T).any()
    np.testing.assert_array_equal(found.indices[~blank, 0], [0, 4])


@pytest.mark.parametrize("name", ALIGNED)
def test_a_pair_is_as_far_apart_alone_as_among_others(name):
    reference, queries = smooth(150, n_channels=3), smooth(9, n_channels=3, seed=3)
    together = search(features(name, queries), features(name, reference), k=5)
    few = search(features(name, queries[4:6]), features(name, reference), k=5)
    np.testing.assert_array_equal(together.indices[4:6], few.indices)
    np.testing.assert_array_equal(together.distances[4:6], few.distances)
    nearest = reference[together.indices[:, 0]]
    np.testing.assert_array_equal(distance(name, queries, nearest), together.distances[:, 0])


def test_a_look_at_few_pictures_at_a_time_changes_no_bit(monkeypatch):
    reference, queries = smooth(100), smooth(5, seed=3)
    whole = search(features("aligned-overlap", queries), features("aligned-overlap", reference), k=3)
    forget(monkeypatch)
    monkeypatch.setattr(aligned, "PREPARED", 70)
    parts = search(features("aligned-overlap", queries), features("aligned-overlap", reference), k=3)
    np.testing.assert_array_equal(whole.distances, parts.distances)


def test_both_parts_are_compared_in_the_same_positions_which_are_found_once(monkeypatch):
    forget(monkeypatch)
    looked = []
    positions_of = aligned.positions_of
    monkeypatch.setattr(aligned, "positions_of", lambda *sets: looked.append(sets) or positions_of(*sets))
    reference = smooth(40)
    for queries in (smooth(3, seed=3), smooth(3, seed=4)):
        numbers = [search(features(name, queries), features(name, reference), k=12).indices for name in ALIGNED]
        np.testing.assert_array_equal(*(np.sort(each, axis=1) for each in numbers))
    assert len(looked) == 2


def test_what_is_remembered_stays_small(monkeypatch):
    forget(monkeypatch)
    monkeypatch.setattr(aligned, "PREPARED", 70)
    monkeypatch.setattr(aligned, "REMEMBERED", 3)
    for seed in range(6):
        search(features("aligned-whole", smooth(1)), features("aligned-whole", smooth(30, seed=seed)), k=1)
    assert len(aligned._known) == 2 and len(aligned._positions) == len(aligned._coarse) == 3


def test_the_distance_is_hardly_more_than_the_least_over_every_position(monkeypatch):
    """Of 200 symmetries, zooms and rotations four are compared: all of them find next to nothing nearer."""
    images = smooth(8)
    copies = shifted(moved(images, 0.9, 5), 2, -1)
    few = distance("aligned-overlap", copies, images)
    forget(monkeypatch)
    monkeypatch.setattr(aligned, "KEPT", 200)
    every = distance("aligned-overlap", copies, images)
    assert (every <= few).all()
    np.testing.assert_allclose(few, every, atol=0.01)


@pytest.mark.parametrize("side", [12, 28, 32, 61, 224])
def test_pictures_of_any_size_from_12_on_are_seen_at_28_pixels(side):
    images = smooth(4, side=side)
    seen = open_space("aligned-overlap", SpaceSettings()).embed(images).reshape(4, 28, 28, 1)
    if side == 28:
        np.testing.assert_array_equal(seen, images)
    assert np.abs(seen - smooth(4)).mean() < 5  # the same waves


def test_a_constant_picture_stays_so_at_any_size():
    space = open_space("aligned-whole", SpaceSettings())
    for level, side in product((0, 7, 255), (5, 28, 100)):
        assert (space.embed(np.full((1, side, side, 3), level, np.uint8)) == level).all()


@pytest.mark.parametrize("side", [28, 57])
def test_views_are_whole_numbers_short_enough_for_exact_products(side):
    images = np.random.default_rng(0).integers(0, 2, size=(6, side, side, 3), dtype=np.uint8) * 255
    images[0] = 0
    images[1] = 255 * (np.indices((side, side)).sum(axis=0) % 4 // 2)[..., None]  # much between the cells
    images[2], images[2, 0, 0] = 0, 255  # a corner that a shift fills the edges with
    vectors = spaces.embed(open_space("aligned-whole", SpaceSettings()), images)
    grid = aligned.shifted_cells(vectors.reshape(6, 28, 28, 3))
    seen = aligned.views_of_cells(grid.sum(axis=3, keepdims=True), aligned.COARSE_OFFSETS)
    for views, n in ((seen, 128), (aligned.Coarse(vectors).views, 9), (aligned.Known(vectors).looks, 25)):
        assert views.shape == (6, n, 49) and views.dtype == np.float32
        assert (views == np.rint(views)).all() and np.square(views, dtype=np.float64).sum(axis=2).max() <= 2**22
    lengths = np.linalg.norm(grid.reshape(6, -1, 3)[:, aligned.shift_index()].astype(float), axis=(2, 3))
    assert lengths.max() <= 2**14


def test_views_of_a_turned_picture_are_turned_views_of_the_picture():
    pictures = smooth(3)
    plain = aligned.views_of_cells(aligned.shifted_cells(pictures), (-2.0, 0.0, 2.0)).reshape(3, 9, 8, 49)
    for s, turned in enumerate(aligned.symmetries(pictures)):
        again = aligned.views_of_cells(aligned.shifted_cells(turned), (-2.0, 0.0, 2.0)).reshape(3, 9, 8, 49)
        np.testing.assert_array_equal(np.sort(again[:, :, 0], axis=1), np.sort(plain[:, :, s], axis=1))


def test_the_images_are_not_read_again_for_the_vectors_hold_what_is_compared():
    images = smooth(30)
    space = open_space("aligned-whole", SpaceSettings())
    vectors = spaces.embed(space, images)
    ids = tuple(map(str, range(30)))
    blind = spaces.features(space, "set", vectors, ids, np.empty((30, 0, 0, 0), np.uint8))
    found = search(blind, blind, k=2, exclude_self=True)
    seen = search(features("aligned-whole", images), features("aligned-whole", images), k=2, exclude_self=True)
    np.testing.assert_array_equal(found.distances, seen.distances)
    some = np.array([3, 1, 9])
    kept = search(blind.rows(some), blind, k=1)
    np.testing.assert_array_equal(kept.indices[:, 0], some)
    assert (kept.distances == 0).all()


def test_the_pictures_that_are_compared_hold_the_source():
    """The first looks, over pictures of which the positions leave little that is their own."""
    reference = smooth(1000)
    copies = shifted(moved(reference[:30], 1.11, -7), 3, 3)
    found = search(features("aligned-overlap", copies), features("aligned-overlap", reference), k=aligned.COMPARED)
    assert (found.indices == np.arange(30)[:, None]).any(axis=1).mean() >= 0.95


# Pictures too small for more than symmetries


@pytest.mark.parametrize("name", ALIGNED)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (11, 30), (5, 7)])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_small_pictures_are_copies_turned_or_mirrored_or_as_negatives(name, height, width, n_channels):
    images = np.random.default_rng(0).integers(0, 256, (40, height, width, n_channels), dtype=np.uint8)
    for turned in (images[:, ::-1], images[:, :, ::-1], np.rot90(images, axes=(1, 2)), 255 - images):
        found = search(features(name, turned[:9]), features(name, images), k=50)
        np.testing.assert_array_equal(found.indices[:, 0], np.arange(9))
        assert (found.distances[:, 0] < 0.01).all() and (found.distances[:, 1] > 0.3).all()
        assert (found.indices[:, 40:] == -1).all() and (found.indices[:, :40] >= 0).all()


def test_of_small_pictures_all_are_compared_and_blocks_change_nothing(monkeypatch):
    images = smooth(90, side=8)
    whole = search(features("aligned-whole", images), features("aligned-whole", images), k=5, exclude_self=True)
    monkeypatch.setattr(aligned, "SMALL_AT_ONCE", 7)
    parts = search(features("aligned-whole", images), features("aligned-whole", images), k=5, exclude_self=True)
    np.testing.assert_array_equal(whole.distances, parts.distances)
    np.testing.assert_array_equal(whole.indices, parts.indices)
    assert (whole.indices != np.arange(90)[:, None]).all()
    seen = np.stack([each.reshape(90, -1) for each in aligned.symmetries(smooth(90, side=8).astype(float))])
    r = np.abs([[np.corrcoef(seen[0, i], seen[s, 7])[0, 1] for i in range(90)] for s in range(8)]).max(axis=0)
    assert whole.indices[7, 0] in np.argsort(-r)[1:4]  # resizing moves correlations a little


def test_a_small_blank_picture_is_alike_in_nothing():
    images = smooth(5, side=8)
    images[1], images[2] = 0, 255
    found = search(features("aligned-whole", images), features("aligned-whole", images), k=5)
    np.testing.assert_allclose(found.distances[1:3], np.sqrt(2), rtol=1e-6)
