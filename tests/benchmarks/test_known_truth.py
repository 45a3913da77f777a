"""The rule by which benchmarks/known_truth.py calls a verdict right, on values worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import known_truth
import numpy as np
import pytest

from auditor.config import Budgets
from auditor.lab.blend import Course
from auditor.lab.fixture import Fixture
from auditor.lab.grammar import Grammar
from auditor.measuring.facts import Lean, LossLean, StepFacts

# The margins that follow: bias above .52 and safe below .55 by samples, .01 and .04 by losses.
FACTS = StepFacts(1, {"onehot": Lean(0.5, 0, 0, 1000, 1, 0.5)}, LossLean(0, 0, 0, 1, 0.005))
CLEAN = known_truth.Truth(0.5, 0.0, 0.0, 0.0, 0.0, own_share_se=0.002, copies_se=0.0001, loss_lean_se=0.0005)


@pytest.mark.parametrize(
    ("truth", "loss", "right"),
    [
        ({}, "", {"generalizing"}),
        ({"own_share": 0.513}, "", {"generalizing"}),
        ({"own_share": 0.515}, "", {"generalizing", "biased"}),  # within three standard errors of the margin
        ({"own_share": 0.535}, "", {"generalizing", "biased"}),
        ({"own_share": 0.555}, "", {"generalizing", "biased"}),
        ({"own_share": 0.557}, "", {"biased"}),
        ({"loss_lean": 0.02}, "", {"generalizing", "biased"}),
        ({"loss_lean": 0.042}, "", {"biased"}),
        ({"own_share": 0.6}, "overfit", {"overfit"}),
        ({}, "underfit", {"underfit"}),
        ({"copies": 0.0002}, "", {"generalizing"}),
        ({"copies": 0.001}, "", {"generalizing", "memorizing"}),
        ({"copies": 0.006}, "overfit", {"memorizing"}),
        ({"copies": 0.006, "copies_other": 0.006}, "", {"generalizing"}),
        ({"copies": 0.006, "copies_heldout": 0.003}, "", {"generalizing", "memorizing"}),
    ],
)
def test_a_verdict_is_right_if_the_ladder_gives_it_for_the_true_values(truth, loss, right):
    assert known_truth.right_verdicts(replace(CLEAN, **truth), FACTS, loss, Budgets()) == right


def test_the_nearest_sequence_is_found_letter_by_letter():
    among = np.array([[0, 1, 2], [2, 2, 2]])
    assert known_truth.nearest(np.array([[0, 1, 2], [2, 1, 2], [1, 0, 0]]), among).tolist() == [0, 1, 3]


def test_what_occurs_in_two_sets_is_left_out_of_both():
    sets = {"a": np.array([[0, 1], [1, 1]]), "b": np.array([[1, 1], [2, 1]]), "heldout": np.array([[2, 1], [0, 0]])}
    kept = known_truth.without_shared(sets)
    assert {name: each.tolist() for name, each in kept.items()} == {"a": [[0, 1]], "b": [], "heldout": [[0, 0]]}


def test_equal_models_lean_nowhere_and_models_that_remember_lean_on_their_own(monkeypatch):
    monkeypatch.setattr(known_truth, "BATCH", 100)
    monkeypatch.setattr(known_truth, "SAMPLING_STEPS", 10)
    grammar = Grammar(seed=1, q=5, depth=3, q_eff=4)
    course = Course(memory=0.9, growth=1.0, onset=10, initial=0.0)
    fixture = Fixture(grammar, course, n_train=12, n_heldout=30, taus=(5, 20))
    times = np.array([20, 100, 250])
    before, after = (known_truth.counted(fixture, tau, times, 100) for tau in fixture.taus)
    assert before.own_share == 0.5 and before.loss_lean == 0.0
    assert after.own_share > 0.5 + 4 * after.own_share_se
    assert after.copies > after.copies_other
    assert after.loss_lean > 4 * after.loss_lean_se
