"""A copied part is at distance zero in its own window, and a blank window is alike in nothing."""

from __future__ import annotations

import numpy as np
import pytest

from auditor import spaces
from auditor.config import AuditConfig
from auditor.errors import AuditError
from auditor.neighbors import is_copy, search
from auditor.registry import WINDOWS
from auditor.spaces import SpaceSettings, open_space
from auditor.spaces.windows import APART, PARTS, direction, inside

QUARTERS = ["top-left", "top-right", "bottom-left", "bottom-right", "center"]


def noise(n, height=28, width=28, n_channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size=(n, height, width, n_channels), dtype=np.uint8)


def found(part, images, reference, k=2):
    space = open_space(f"window-{part}", SpaceSettings())
    return search(*(of(space, each) for each in (images, reference)), k)


def of(space, images):
    return spaces.features(space, "set", spaces.embed(space, images), tuple(map(str, range(len(images)))), images)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("height", "width"), [(28, 28), (32, 32), (29, 41), (8, 8)])
def test_what_is_pasted_into_a_window_is_a_copy_there(part, height, width):
    reference, pictures = noise(200, height, width, 3), noise(20, height, width, 3, seed=1)
    place = inside(part, height, width)
    pictures[:, place] = reference[:20, place]
    near = found(part, pictures, reference)
    np.testing.assert_array_equal(near.indices[:, 0], np.arange(20))
    assert (near.distances[:, 0] == 0).all() and (near.distances[:, 1] > 0.5).all()


@pytest.mark.parametrize("part", QUARTERS)
def test_the_quarter_of_a_large_picture_is_seen_without_what_is_around_it(part):
    reference, pictures = noise(5, 116, 116).repeat(2, axis=1), noise(5, 116, 116, seed=1).repeat(2, axis=1)
    reference, pictures = reference.repeat(2, axis=2), pictures.repeat(2, axis=2)
    place = inside(part, 29, 29).repeat(8, axis=0).repeat(8, axis=1)  # a square of pixels is 8 wide
    pictures[:, place] = reference[:, place]
    assert (found(part, pictures, reference).distances[:, 0] == 0).all()
    assert open_space(f"window-{part}", SpaceSettings()).embed(pictures).shape == (5, 14 * 14 + APART)


def test_the_windows_are_a_quarter_of_the_picture_or_more():
    shares = {part: inside(part, 28, 28).mean() for part in PARTS}
    assert shares == {part: 0.25 for part in QUARTERS} | {"row": 0.5, "column": 0.5, "frame": 0.75}
    assert (sum(inside(part, 28, 28).astype(int) for part in QUARTERS[:4]) == 1).all()
    assert (inside("frame", 28, 28) != inside("center", 28, 28)).all()


@pytest.mark.parametrize("part", PARTS)
def test_only_the_window_counts(part):
    first, second = noise(30), noise(30, seed=1)
    place = inside(part, 28, 28)
    second[:, place] = first[:, place]
    embed = open_space(f"window-{part}", SpaceSettings()).embed
    np.testing.assert_array_equal(embed(first), embed(second))


@pytest.mark.parametrize("part", PARTS)
def test_a_blank_window_is_alike_in_nothing(part):
    """Black corners of X-rays are the same to the last pixel, and no copies of each other."""
    reference, pictures = noise(400, seed=2), noise(30, seed=3)
    place = inside(part, 28, 28)
    reference[:, place] = 0
    reference[:50, place] = 17
    pictures[:, place] = 0
    pictures[:5] = reference[:5] // 2  # whatever else is alike
    near = found(part, pictures, reference)
    assert np.isfinite(near.distances).all() and not is_copy(*near.distances.T, ratio=1 / 5).any()


def test_a_blank_window_is_far_from_one_that_is_not():
    reference, pictures = noise(10), noise(10, seed=1)
    pictures[:, :14, :14] = 200
    near = found("top-left", pictures, reference, k=10)
    np.testing.assert_allclose(near.distances, np.sqrt(2), rtol=1e-6)


def test_a_window_with_a_gray_level_of_noise_is_blank_and_one_with_some_contrast_is_not():
    reference = noise(300) % 2  # a standard deviation of half a gray level
    near = found("center", reference[:20].copy(), reference[100:])
    assert not is_copy(*near.distances.T, ratio=1 / 5).any()
    reference = noise(300) // 16  # of 4.6
    assert (found("center", reference[:20], reference).distances[:, 0] == 0).all()
    vectors = open_space("window-center", SpaceSettings()).embed(reference)
    assert (vectors[:, -APART:] == 0).all()


def test_one_channel_that_shows_something_suffices():
    images = noise(5, n_channels=3)
    images[..., 1:] = 9
    vectors = open_space("window-row", SpaceSettings()).embed(images)
    assert (vectors[:, -APART:] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


def test_directions_of_blank_windows_are_their_pictures_own():
    images = noise(500)
    drawn = np.array([direction(each) for each in images])
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(direction(images[3].copy()), drawn[3])
    alike = drawn @ drawn.T - np.eye(500)
    assert alike.max() < 0.98


def test_pictures_too_small_for_windows_are_an_error_that_says_what_to_leave_out():
    with pytest.raises(AuditError, match="no windows") as error:
        open_space("window-row", SpaceSettings()).embed(noise(2, 3, 8))
    assert error.value.where == "--spaces"


def test_one_name_stands_for_all_windows_and_one_for_both_aligned_spaces():
    assert AuditConfig(spaces="pixel,windows").space_names == ("pixel", *WINDOWS)
    assert AuditConfig(spaces="pixel,aligned").space_names == ("pixel", "aligned-whole", "aligned-overlap")
    assert "aligned" not in AuditConfig().spaces and "window" not in AuditConfig().spaces  # offered, not asked for
