"""Who is exposed, and what to do now: by outcome, and never only to accept more."""

from dataclasses import replace

import pytest
from test_verdict import BUDGETS, CONTEXT, COPIES, FLAT_LOSS, HIDDEN, LARGE, NO_COPIES, SMALL, facts

from auditor.measuring.advice import advice
from auditor.measuring.facts import Membership, Named
from auditor.measuring.verdict import judge, recommend


def told(series, context=CONTEXT):
    """Return the advice on a series of checkpoints."""
    decisions = [judge(each, context, BUDGETS) for each in series]
    return advice(recommend(series, context, BUDGETS), decisions, series, context, BUDGETS)


def test_a_copying_checkpoint_is_told_with_the_images_and_the_ways_out():
    copying = {"pixel": replace(COPIES, revealed=tuple(f"a/{i}" for i in range(30)))}
    said = told([facts(copying=copying, named={"pixel": Named((("a", "1"), ("b", "2")))})])
    assert "30 images are reproduced only by the twin that saw them, in 80 of 4000 samples" in said["exposed"]
    assert "lead back to 2 training images" in said["exposed"]
    assert "a/1" not in said["exposed"]  # names stand in the tables, where they can be hidden
    assert "De-duplicate" in said["what_now"] and "differentially private" in said["what_now"].lower()


@pytest.mark.parametrize(
    ("changes", "way"),
    [
        ({"lean": {"pixel": LARGE}}, "earlier checkpoints"),
        ({"step": 800, "loss_rise": 0.2}, "before the held-out loss rises"),
        ({"loss": replace(FLAT_LOSS, high=0.045)}, "the losses lean"),
        ({"underfit": ("Underfit: it is.",), "copying": {"pixel": COPIES}}, "De-duplicate"),
        ({"membership": Membership(False, exposed=("Membership: known.",), listed=7)}, "--release samples"),
        ({"membership": Membership(False, missing=("Membership is undecided.",))}, "--loss-images"),
        ({"lean": {"pixel": replace(SMALL, value=0.54, v_seed=0.0004)}}, "about 68,"),
        ({"copying": {"pixel": replace(NO_COPIES, shared_hits=80)}}, "de-duplicate"),
        ({"underfit": ("Underfit: it is.",)}, "Train on"),
    ],
)
def test_every_outcome_has_a_way_on_that_is_no_larger_budget(changes, way):
    said = told([facts(**changes)])
    assert way in said["what_now"] and "budget" not in said["what_now"]


def test_a_release_and_a_run_that_cannot_be_judged_are_told_what_they_mean():
    assert told([facts()])["what_now"].startswith("Release what was judged")
    assert "Keep the weights" in told([facts()], replace(CONTEXT, release="samples"))["what_now"]
    wrong = replace(CONTEXT, not_the_halves=("The halves look exchanged.",))
    assert told([facts()], wrong)["what_now"].startswith("First mend")


def test_the_sentences_are_of_the_step_that_the_decision_is_about():
    series = [facts(300, membership=HIDDEN), facts(400, lean={"pixel": LARGE})]
    assert told(series)["exposed"].startswith("At step 300")  # which is released
    assert told(series[1:])["exposed"].startswith("At step 400")
    late = [facts(300, lean={"pixel": replace(SMALL, value=0.54, v_seed=0.0004)}), series[1]]
    assert told(late)["exposed"].startswith("At step 300")  # which stops the walk
    biased = [facts(300, underfit=("Underfit: it is.",)), series[1]]
    assert "denser checkpoints before step 400" in told(biased)["what_now"]


def test_a_run_that_is_not_trusted_tells_no_numbers():
    doubted = replace(CONTEXT, distrust=("Control failed: here.",))
    assert told([facts()], doubted)["exposed"] == "Not told: Control failed: here."
