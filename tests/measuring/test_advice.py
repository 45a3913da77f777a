"""Who is exposed, and what to do now: by outcome, and never only to accept more."""

from dataclasses import replace

import pytest
from test_verdict import BUDGETS, CONTEXT, COPIES, FLAT_LOSS, HIDDEN, LARGE, NO_COPIES, SMALL, facts

from auditor.measuring.advice import advice, advice_of_pairs, seeds_to_show_rare
from auditor.measuring.facts import Membership, Named
from auditor.measuring.together import judge_together, recommend_together
from auditor.measuring.verdict import judge, recommend

TRACES = replace(NO_COPIES, own_only=16, revealed=("a/1", "b/2", "b/3", "b/4", "b/5"), most_of_one=9)
OPEN = replace(SMALL, value=0.54, v_seed=0.0004)
COPYING = {"pixel": replace(COPIES, revealed=tuple(f"a/{i}" for i in range(30)), most_of_one=7)}

SETTLING = [(0, 0, 713), (1, 0, 1112), (3, 1, 3318), (8, 0, None)]  # 1.645 sqrt(3) / (2 x 713) = .0019981


def told(series, context=CONTEXT):
    """Return the advice on a series of checkpoints."""
    decisions = [judge(each, context, BUDGETS) for each in series]
    return advice(recommend(series, context, BUDGETS), decisions, series, context, BUDGETS)


def test_a_copying_checkpoint_is_told_with_the_people_the_rate_the_worst_and_the_ways_out():
    said = told([facts(copying=COPYING, named={"pixel": Named((("a", "1"), ("b", "2")))})])
    assert (
        "images of 30 people are reproduced only by the twin that saw them, by 80 of 4,000 samples (2.00%; pixel; the "
        "other way 0), one of them by 7" in said["exposed"]
    )
    assert "lead back to images of 2 people" in said["exposed"]
    assert "a/1" not in said["exposed"]  # names stand in the tables, where they can be hidden
    assert "de-duplicate" in said["what_now"] and "Differentially private" in said["what_now"]


def test_where_nobody_is_reproduced_the_rate_that_is_excluded_is_told():
    """1.645 sqrt(3) / 4000 = .071 %; of 10 more in 4,000 pairs the other way nothing is left, and that is no minus."""
    assert "nobody's image is reproduced more often" in told([facts()])["exposed"]
    assert "in every space more than 0.07% of samples is excluded" in told([facts()])["exposed"]
    other_way = {"pixel": replace(NO_COPIES, twin_only=40)}
    assert "more than 0.00% of samples" in told([facts(copying=other_way)])["exposed"]


def test_the_lean_is_told_of_the_space_where_it_exceeds_a_smooth_models_most():
    said = told([facts(lean={"pixel": replace(LARGE, reference=0.59), "correlation": SMALL, "clip": LARGE})])["exposed"]
    assert "60% of samples are nearest to an image of their own half (clip; 50% of a smooth model's" in said


def test_the_space_in_which_most_is_reproduced_is_told_beside_others_in_which_nothing_is():
    said = told([facts(copying={"pixel": NO_COPIES, "aligned": TRACES})])
    assert "images of 5 people" in said["exposed"] and "aligned" in said["exposed"]


@pytest.mark.parametrize(
    ("changes", "way"),
    [
        ({"lean": {"pixel": LARGE}}, "checkpoints before step 500"),
        ({"step": 800, "loss_rise": 0.2}, "denser checkpoints before step 800, where the held-out loss is least"),
        ({"loss": replace(FLAT_LOSS, high=0.045)}, "the lean of the losses"),
        ({"underfit": ("Underfit: it is.",), "copying": {"pixel": COPIES}}, "de-duplicate"),
        ({"membership": Membership(False, exposed=("Membership: known.",), listed=7)}, "--release samples"),
        ({"membership": Membership(False, missing=("Membership is undecided.",))}, "--loss-images 1000"),
        ({"lean": {"pixel": OPEN}}, "about 68,"),
        ({"copying": {"pixel": replace(NO_COPIES, shared_hits=80)}}, "de-duplicate"),
        ({"copying": {"pixel": replace(NO_COPIES, own_only=3, twin_only=1, pairs=2000, n=2000)}}, "--n-samples"),
        ({"copying": {"pixel": TRACES}}, "no number of seeds shows copies to be rare at this rate"),
        ({"named": {"pixel": Named((("a", "1"),))}}, "named.parquet"),
        ({"underfit": ("Underfit: it is.",)}, "Train on"),
        ({"lean": {}}, "a twin beside it"),
        ({"lean": {}, "copying": {}, "loss": None, "membership": None}, "--train-a, --train-b, --heldout"),
    ],
)
def test_every_outcome_has_a_way_on_that_is_no_larger_budget(changes, way):
    said = told([facts(**changes)])
    assert way in said["what_now"] and "budget" not in said["what_now"]


@pytest.mark.parametrize(
    ("changes", "way"),
    [
        ({"not_the_halves": ("The halves look exchanged.",)}, "the very images that it was trained on"),
        ({"not_exchangeable": ("They differ.",)}, "Deal all images anew"),
        ({"distrust": ("A control failed.",)}, "why a control fails"),
        ({"n_seeds": 500}, "Draw 1,000 seeds"),
        ({"n_seeds": 0}, "without --quick"),
        ({"with_heldout": False}, "--heldout"),
    ],
)
def test_what_keeps_a_run_from_being_judged_is_to_be_mended_by_its_kind(changes, way):
    assert way in told([facts()], replace(CONTEXT, **changes))["what_now"]


def test_a_release_says_what_it_is_of():
    assert told([facts()])["what_now"].startswith("Release what was judged")
    assert "Keep the weights" in told([facts()], replace(CONTEXT, release="samples"))["what_now"]


def test_with_samples_alone_no_way_on_speaks_of_losses_or_membership():
    open_ = facts(lean={"pixel": OPEN}, loss=replace(FLAT_LOSS, high=0.045), membership=Membership(False))
    said = told([open_], replace(CONTEXT, release="samples"))["what_now"]
    assert "losses" not in said and "--release" not in said and "--n-samples" in said


def test_the_sentences_are_of_the_step_that_the_decision_is_about():
    series = [facts(300, membership=HIDDEN), facts(400, lean={"pixel": LARGE})]
    assert told(series)["exposed"].startswith("At step 300")  # which is released
    assert told(series[1:])["exposed"].startswith("At step 400")
    late = [facts(300, lean={"pixel": OPEN}), series[1]]
    assert told(late)["exposed"].startswith("At step 300")  # which stops the walk
    biased = [facts(300, underfit=("Underfit: it is.",)), series[1]]
    assert "denser checkpoints between step 300 and 400" in told(biased)["what_now"]


def test_a_run_that_is_not_trusted_tells_no_numbers_but_those_of_what_was_found_all_the_same():
    doubted = replace(CONTEXT, distrust=("Control failed: here.",))
    assert told([facts()], doubted)["exposed"] == "Not told: Control failed: here."
    found = told([facts(copying=COPYING)], doubted)
    assert "images of 30 people" in found["exposed"]
    assert "why a control fails" in found["what_now"] and "de-duplicate" in found["what_now"]


@pytest.mark.parametrize(("own", "twin", "seeds"), SETTLING)
def test_the_seeds_that_would_show_copies_rare_do_so(own, twin, seeds):
    """The number is enough, and a little less is not, as the rule of 4.4 itself says; the rate stays as it was."""
    copying = replace(NO_COPIES, own_only=own, twin_only=twin, pairs=2000, n=2000)
    assert seeds_to_show_rare(copying, BUDGETS) == seeds
    if seeds is None:
        assert own - twin >= BUDGETS.copies_beyond_twin_few * 2000
        return

    def grown(n):
        times = 2 * n / 2000
        return replace(copying, own_only=own * times, twin_only=twin * times, pairs=2 * n, n=2 * n).is_rare(BUDGETS)

    assert grown(seeds) and not grown(seeds - 2)


def test_three_trainings_are_told_by_pair_and_advised_by_the_worst():
    series = {"x|y": [facts(300), facts(400)], "y|z": [facts(300), facts(400, copying=COPYING)]}
    contexts = dict.fromkeys(series, CONTEXT)
    recommendation = recommend_together(series, contexts, BUDGETS)
    steps = range(2)
    decisions = [judge_together({p: judge(f[i], CONTEXT, BUDGETS) for p, f in series.items()}) for i in steps]
    said = advice_of_pairs(recommendation, decisions, series, contexts, BUDGETS)
    assert said["exposed"].count("At step 300: nobody's image") == 2 and said["what_now"].startswith("Release what")
    late = {pair: each[1:] for pair, each in series.items()}
    said = advice_of_pairs(recommend_together(late, contexts, BUDGETS), decisions[1:], late, contexts, BUDGETS)
    assert "x|y: At step 400: nobody's image" in said["exposed"] and "y|z: At step 400: images of 30" in said["exposed"]
    assert "de-duplicate" in said["what_now"]
