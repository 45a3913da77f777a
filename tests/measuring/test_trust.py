"""Which controls a run can be asked to pass: none that even its best outcome would fail."""

from types import SimpleNamespace

import pytest

from auditor.measuring import controls


def series(n_samples: int, n_heldout: int, twins: int = 2) -> SimpleNamespace:
    """What the question depends on: numbers of seeds, of held-out images, and of trainings."""
    scope = SimpleNamespace(n_samples=n_samples, twins=("a", "b")[:twins], with_twin=twins == 2)
    return SimpleNamespace(scope=scope, heldout=range(n_heldout))


@pytest.mark.parametrize(
    ("n_samples", "n_heldout", "asked"), [(1000, 350, True), (100, 5000, False), (1000, 20, False)]
)
def test_two_percent_of_copies_are_asked_for_only_where_they_could_be_found(n_samples, n_heldout, asked):
    """With 100 seeds two samples of each twin are copies: four against none has p = 1/16, however many are held out."""
    assert controls.could_be_found(series(n_samples, n_heldout), level=0.025 / 3) == asked


def test_a_single_training_is_asked_by_its_heldout_images_alone():
    assert controls.could_be_found(series(100, 5000, twins=1), level=0.025 / 3)
