"""The named list says whom samples lead back to, and seldom anybody else (docs/statistics.md 4.5)."""

from __future__ import annotations

import numpy as np
import pytest

from auditor.stats.named import Competition, Nearest, compete, q_values

N, SEEDS = 60, 150  # pool images, the first half of them of half a; samples of each twin
LABELS = np.repeat([1.0, -1.0], N // 2)
ALONE = np.arange(N)


def named_by(images, strengths, twin, labels=LABELS, groups=ALONE, **more) -> Competition:
    """The competition of samples whose nearest image, gap and twin (+1 or -1) are given."""
    images, twin = np.asarray(images), np.asarray(twin)
    return compete(Nearest(images, labels[images] == twin, np.asarray(strengths, float)), groups, **more)


def private(rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples of both twins that land by hubs of their own and depend on no label."""
    images = np.concatenate([rng.choice(N, SEEDS, p=rng.dirichlet(np.full(N, 0.3))) for _ in range(2)])
    return images, rng.beta(1, 8, 2 * SEEDS), np.repeat([1, -1], SEEDS)


def with_copies(rng, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same, and each twin copies n of its own images."""
    images, gaps, twin = private(rng)
    copied = np.concatenate([np.arange(n), N // 2 + np.arange(n)])
    own_twin = np.where(LABELS[copied] > 0, 1, -1)
    return (
        np.concatenate([images, copied]),
        np.concatenate([gaps, rng.uniform(0.9, 1, 2 * n)]),
        np.concatenate([twin, own_twin]),
    )


def test_ten_copied_images_are_named_exactly_and_nine_cannot_be():
    for copied in (10, 15, 30):
        images = np.arange(copied)
        found = named_by(images, np.linspace(0.99, 0.9, copied), np.ones(copied, int))
        assert found.names.tolist() == images.tolist()
        assert found.q_value == pytest.approx(1 / copied)
    assert not named_by(np.arange(9), np.linspace(0.99, 0.9, 9), np.ones(9, int)).listed.any()


def test_copies_are_named_among_samples_that_copy_nothing():
    found = named_by(*with_copies(np.random.default_rng(1), 12))
    assert {*range(12), *range(30, 42)} <= set(found.names.tolist())
    assert len(found.names) <= 30  # few beside them
    images, gaps, twin = with_copies(np.random.default_rng(1), 4)
    assert not named_by(images, gaps, twin).listed.any()  # eight are too few to certify any


def test_the_estimate_is_that_of_a_case_worked_by_hand():
    target = np.array([True] * 10 + [False] + [True] * 9 + [False] * 3)
    strength = np.linspace(1, 0.5, len(target))
    q = q_values(strength, target)
    assert q[0] == q[9] == pytest.approx(1 / 10)  # (1 + 0) / 10
    assert q[10] == q[19] == pytest.approx(2 / 19)
    assert q[20:] == pytest.approx([3 / 19, 4 / 19, 5 / 19])
    assert q_values(strength, target, odds=2)[9] == pytest.approx(2 / 10)


def test_no_list_ends_between_equally_strong_groups():
    target = np.array([True] * 10 + [False] * 5)
    assert q_values(np.ones(15), target) == pytest.approx(6 / 10)
    assert q_values(np.r_[np.ones(10), np.zeros(5)], target)[0] == pytest.approx(1 / 10)
    assert len(q_values(np.empty(0), np.empty(0, bool))) == 0


def test_a_group_is_judged_once_by_its_strongest_sample():
    groups = np.array([0, 0, 1, 2])
    labels = np.array([1.0, 1.0, 1.0, -1.0])
    found = named_by([0, 1, 0, 2, 3], [0.5, 0.9, 0.7, 0.8, 0.6], [1, 1, -1, -1, -1], labels, groups)
    assert found.group.tolist() == [0, 1, 2]
    assert found.image.tolist() == [1, 2, 3] and found.sample.tolist() == [1, 3, 4]
    assert found.own.tolist() == [True, False, True]
    assert found.wins.tolist() == [2, 1, 1]


def test_ties_of_both_twins_and_what_names_nothing_are_dropped():
    images, twin = np.tile(np.arange(20), 2), np.repeat([1, -1], 20)
    assert len(named_by(images, np.tile(np.linspace(0.9, 0.8, 20), 2), twin).group) == 0  # identical twins
    assert len(named_by(np.arange(20), np.r_[np.zeros(10), np.full(10, np.nan)], np.ones(20, int)).group) == 0


def test_exchanged_halves_turn_every_target_into_a_decoy():
    images, gaps, twin = with_copies(np.random.default_rng(2), 12)
    right, wrong = named_by(images, gaps, twin), named_by(images, gaps, -twin)
    assert (right.own == ~wrong.own).all() and (right.group == wrong.group).all()
    assert right.listed.sum() >= 24 and not wrong.listed.any()


def test_with_permuted_labels_few_lists_hold_anybody():
    """Mean FDP is at most .10; without any copy every name is false, so that it is the share of lists that hold one."""
    rng = np.random.default_rng(3)
    held = [named_by(*private(rng), labels=rng.permutation(LABELS)).listed.any() for _ in range(400)]
    assert np.mean(held) <= 0.10 + 2 * np.sqrt(0.09 / 400)


@pytest.mark.parametrize(("copied", "power"), [(6, 0.4), (15, 0.85)])
def test_a_tenth_of_the_names_is_wrong_at_most(copied, power):
    """Both twins copy: the named groups beyond the copied ones are false, on average a tenth of the list at most."""
    rng, wrong, right = np.random.default_rng(copied), [], []
    for _ in range(300):
        true = [*range(copied), *range(N // 2, N // 2 + copied)]
        order = rng.permutation(N)  # who else is nearest, and how strongly, has nothing to do with labels
        images, gaps, twin = private(rng)
        images, gaps = np.r_[order[images], true], np.r_[gaps, rng.uniform(0.3, 1, 2 * copied)]
        twin = np.r_[twin, np.where(LABELS[true] > 0, 1, -1)]
        names = set(named_by(images, gaps, twin).names.tolist())
        wrong.append(len(names - set(true)) / max(1, len(names)))
        right.append(len(names & set(true)) / len(true))
    assert np.mean(wrong) <= 0.10
    assert np.mean(right) >= power


def test_where_decoys_are_fewer_the_estimate_carries_the_odds():
    """One decoy to nine targets: the plain count lists somebody in most worlds without any copy."""
    rng = np.random.default_rng(4)
    labels = np.where(np.arange(N) % 10 == 0, -1.0, 1.0)
    lists = {odds: 0 for odds in (1.0, 9.0)}
    for _ in range(200):
        images, gaps = rng.choice(N, SEEDS), rng.beta(1, 8, SEEDS)
        for odds in lists:
            found = named_by(images, gaps, np.ones(SEEDS, int), rng.permutation(labels), odds=odds)
            lists[odds] += bool(found.listed.any())
    assert lists[9.0] <= 200 * 0.10 + 8 < 100 < lists[1.0]
