"""Images behind samples: targets are named as far as decoys say that they are not there by chance."""

import numpy as np
import pytest

from auditor.stats.named import FDR, compete


def copier(n_copied: int, n_plain: int = 200, seed: int = 0):
    """Samples of which ``n_copied`` lie on an own image each, the others anywhere between images of both halves."""
    rng = np.random.default_rng(seed)
    magnitude = np.concatenate([np.full(n_copied, 0.9), rng.uniform(0.01, 0.3, n_plain)])
    groups = np.concatenate([np.arange(n_copied), rng.integers(100, 200, n_plain)])
    own = np.concatenate([np.ones(n_copied), (groups[n_copied:] % 2 == 0).astype(float)])
    return magnitude, groups, own


def test_ten_copied_images_are_named_and_nine_cannot_be():
    """(1 + 0) / 10 is the rate of the list; with nine it is 1 / 9."""
    ten, nine = compete(*copier(10, n_plain=0)), compete(*copier(9, n_plain=0))
    assert sorted(ten.groups[ten.listed]) == list(range(10))
    assert nine.q_value.min() == pytest.approx(1 / 9) and not nine.listed.any()


def test_copied_images_are_named_among_samples_that_lie_between_images():
    result = compete(*copier(30))
    named = set(result.groups[result.listed])
    assert set(range(30)) <= named and len(named - set(range(30))) <= 9


def test_the_rate_of_a_hand_worked_list_counts_one_decoy_more_than_there_are():
    """Strongest first T T D T: 1/1, 1/2, 2/2, 2/3; monotone from the weakest on: 1/2, 1/2, 2/3, 2/3."""
    result = compete(np.array([0.9, 0.8, 0.7, 0.6]), np.arange(4), np.array([1.0, 1, 0, 1]))
    assert result.target.tolist() == [True, True, False, True]
    assert result.q_value == pytest.approx([1 / 2, 1 / 2, 2 / 3, 2 / 3])


def test_a_decoy_stands_for_more_where_there_are_fewer_of_them():
    result = compete(np.array([0.9, 0.8]), np.arange(2), np.array([1.0, 1.0]), decoys_per_target=0.25)
    assert result.q_value == pytest.approx([1, 1])  # 4 / 2 and above, at most 1
    assert compete(*copier(30, 0), 0.25).q_value[0] == pytest.approx(4 / 30)


def test_a_group_counts_once_by_its_strongest_sample():
    result = compete(np.array([0.2, 0.9, 0.5]), np.array([7, 7, 7]), np.array([0.0, 1.0, 0.0]))
    assert (result.groups.tolist(), result.strongest.tolist(), result.wins.tolist()) == ([7], [1], [3])
    assert result.target.all()


def test_what_ties_takes_no_part():
    assert len(compete(np.array([0.9, 0.9]), np.array([7, 7]), np.array([0.0, 1.0])).groups) == 0
    assert len(compete(np.array([0.9]), np.array([7]), np.array([0.5])).groups) == 0
    assert len(compete(np.array([0.0, np.nan]), np.array([7, 8]), np.ones(2)).groups) == 0


def test_equal_strength_favors_decoys():
    result = compete(np.full(2, 0.9), np.arange(2), np.array([1.0, 0.0]))
    assert result.target.tolist() == [False, True]


def test_labels_that_were_permuted_are_listed_falsely_at_most_as_often_as_promised():
    """Over 300 worlds of 60 images of which 30 are copied truly: the mean share of false ones among the listed."""
    false = []
    rng = np.random.default_rng(1)
    for _ in range(300):
        truly = np.arange(60) < 30
        own = np.where(truly, 1.0, rng.integers(0, 2, 60))
        magnitude = np.where(truly, rng.uniform(0.3, 1, 60), rng.uniform(0.2, 0.9, 60))
        result = compete(magnitude, np.arange(60), own)
        listed = result.groups[result.listed]
        false.append((listed >= 30).sum() / max(1, len(listed)))
    assert np.mean(false) <= FDR
    assert np.mean(false) > 0.01  # such worlds do list some


def test_samples_that_know_no_labels_name_nobody():
    rng = np.random.default_rng(2)
    empty = [
        not compete(
            rng.uniform(0.01, 1, 500), rng.integers(0, 400, 500), rng.integers(0, 2, 500).astype(float)
        ).listed.any()
        for _ in range(200)
    ]
    assert np.mean(empty) >= 0.9  # a list of any length has a chance of about 2^-9 at its start, more along it


def test_exchanged_halves_exchange_targets_and_decoys():
    magnitude, groups, own = copier(30)
    assert compete(magnitude, groups, own).listed.any() and not compete(magnitude, groups, 1 - own).listed.any()


def test_hubs_and_dependent_seeds_name_nobody_either():
    """Each twin prefers a few images of its own, whichever half they are of: few lists hold anybody."""
    rng = np.random.default_rng(3)
    held = []
    for _ in range(300):
        own = rng.permutation(np.repeat([1.0, -1.0], 30))
        groups = np.concatenate([rng.choice(60, 150, p=rng.dirichlet(np.full(60, 0.3))) for _ in "ab"])
        right = own[groups] == np.repeat([1.0, -1.0], 150)
        held.append(compete(rng.beta(1, 8, 300), groups, right.astype(float)).listed.any())
    assert np.mean(held) <= FDR
