"""On how many images and at how many noise levels losses are measured where that was not said."""

import pytest

from auditor.config import AuditConfig
from auditor.inputs.asked import SetFacts
from auditor.inputs.loss_cells import with_loss_cells


def cells(n: int, begun: dict | None = None, **given) -> tuple[int | None, int | None]:
    """Return images and levels for sets of ``n`` images each."""
    sets = {name: SetFacts(n, n, "", pooled_originals=n) for name in ("train-a", "train-b", "heldout")}
    found = with_loss_cells(AuditConfig(**given), begun or {}, sets)
    return found.loss_images, found.loss_levels


def test_weights_take_a_thousand_images_and_are_assumed_where_nothing_is_said():
    assert cells(5000) == cells(5000, release="weights") == (1000, 8)
    assert cells(5000, release="samples") == (256, 16)


@pytest.mark.parametrize(("n", "levels"), [(100, 16), (512, 16), (513, 8)])
def test_levels_are_fewer_only_where_so_many_images_cost_more_than_twice_256_of_them(n, levels):
    assert cells(n) == (1000, levels)


def test_what_is_asked_for_is_taken_and_leaves_the_other_as_it_was():
    assert cells(5000, loss_images=400) == (400, 16)
    assert cells(5000, loss_levels=5) == (1000, 5)
    assert cells(5000, release="samples", loss_levels=5) == (256, 5)


def test_a_run_that_was_begun_keeps_its_numbers_unless_others_are_asked_for():
    begun = {"loss_images": 256, "loss_levels": 16}
    assert cells(5000, begun) == cells(5000, begun, release="weights") == (256, 16)
    assert cells(5000, begun, loss_images=1000) == (1000, 16)
    assert cells(5000, {"loss_images": None}) == (1000, 8)
