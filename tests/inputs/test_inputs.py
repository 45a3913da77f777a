"""What is checked and left out before the first network call."""

import numpy as np
import pytest

from auditor.errors import AuditError
from auditor.inputs import image_sets
from auditor.records import ImageSet


def image_set(name: str, values) -> ImageSet:
    """Four-pixel pictures, one per value; equal values are equal pictures, 0 is a blank one."""
    pixels = np.array([[[[0], [v]], [[v], [0]]] for v in values], dtype=np.uint8)
    return ImageSet(name, pixels, tuple(f"{name}/{i}" for i in range(len(values))))


def test_held_out_images_that_a_half_also_holds_are_no_control():
    sets = {"train-a": image_set("train-a", [10, 20, 30]), "heldout": image_set("heldout", [40, 20, 50])}
    shared, notes = image_sets.check_overlaps(sets, allow=True)
    kept = image_sets.without_leaks(sets, shared)
    assert kept["heldout"].ids == ("heldout/0", "heldout/2")
    assert kept["heldout"].images[:, 0, 1, 0].tolist() == [40, 50]
    assert len(kept["train-a"]) == 3 and "left out of held-out" in notes[0]


def test_images_that_both_halves_hold_leave_the_pool_of_both():
    sets = {"train-a": image_set("train-a", range(10, 25)), "train-b": image_set("train-b", range(24, 39))}
    shared, _ = image_sets.check_overlaps(sets, allow=True)
    pools = image_sets.pool_masks(sets, shared, seed=0)
    assert not pools["train-a"][14] and not pools["train-b"][0]
    assert pools["train-a"].sum() == pools["train-b"].sum() == 14


def test_blank_images_leave_the_pool_and_the_larger_half_is_cut_to_the_smaller():
    sets = {"train-a": image_set("train-a", [0, *range(10, 40)]), "train-b": image_set("train-b", range(50, 62))}
    pools = image_sets.pool_masks(sets, {name: set() for name in sets}, seed=0)
    assert not pools["train-a"][0]
    assert pools["train-a"].sum() == pools["train-b"].sum() == 12
    again = image_sets.pool_masks(sets, {name: set() for name in sets}, seed=0)
    other = image_sets.pool_masks(sets, {name: set() for name in sets}, seed=1)
    assert (again["train-a"] == pools["train-a"]).all() and (other["train-a"] != pools["train-a"]).any()


def test_sets_on_which_no_statistic_can_rest_are_refused():
    with pytest.raises(AuditError, match="heldout has 9 images"):
        image_sets.require_enough({"heldout": image_set("heldout", range(10, 19))})
    sets = {"train-a": image_set("train-a", [0] * 30), "train-b": image_set("train-b", range(50, 80))}
    with pytest.raises(AuditError, match="0 images of a half are left"):
        image_sets.pool_masks(sets, {name: set() for name in sets}, seed=0)
