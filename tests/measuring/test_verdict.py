"""The ladder of verdicts and the recommendation, on facts whose numbers a reader can check by hand."""

from dataclasses import replace

import numpy as np
import pytest

from auditor.config import Budgets
from auditor.measuring.facts import Context, Copying, Lean, LossLean, StepFacts
from auditor.measuring.verdict import judge, recommend, risk_onset

BUDGETS = Budgets()
CONTEXT = Context(divergence=(200, 300), loss=(600, 700), n_seeds=2000)
# se = .005, so the one-sided 95 % bounds lie .0082 beside the value.
SMALL = Lean(0.51, v_seed=2.5e-5, v_hub=0.0, n_seeds=2000, p_corrected=0.4, reference=0.505)
LARGE = replace(SMALL, value=0.60, p_corrected=0.0005)
NO_COPIES = Copying(hits=0, n=4000, control_hits=0, control_n=1000, p_corrected=1.0, sources=0)
COPIES = replace(NO_COPIES, hits=80, p_corrected=0.001, sources=30)
FLAT_LOSS = LossLean(0.005, low=0.0, high=0.01, p_corrected=0.3, reference=0.004)
LEANING_LOSS = LossLean(0.2, low=0.18, high=0.22, p_corrected=0.0005, reference=0.004)


def facts(step=500, **changes) -> StepFacts:
    safe = StepFacts(
        step, {"pixel": SMALL, "correlation": SMALL}, FLAT_LOSS, {"pixel": NO_COPIES}, (), 0.0, np.zeros(2000)
    )
    return replace(safe, **changes)


def verdict(found: StepFacts, context: Context = CONTEXT) -> str:
    return judge(found, context, BUDGETS).verdict


def test_a_checkpoint_with_all_risks_shown_small_generalizes():
    assert verdict(facts()) == "generalizing"


def test_a_lean_beyond_a_smooth_models_is_bias_in_any_one_space():
    assert verdict(facts(lean={"pixel": SMALL, "correlation": LARGE})) == "biased"


def test_a_lean_that_a_smooth_model_also_shows_is_no_bias():
    smooth = replace(LARGE, reference=0.60)
    assert verdict(facts(lean={"pixel": smooth})) == "generalizing"


def test_a_large_lean_that_relabeling_explains_is_undecided():
    assert verdict(facts(lean={"pixel": replace(LARGE, p_corrected=0.2)})) == "undecided"


def test_a_loss_lean_is_bias_only_after_the_twins_diverged():
    assert verdict(facts(step=500, loss=LEANING_LOSS)) == "biased"
    assert verdict(facts(step=300, loss=LEANING_LOSS)) == "undecided"


def test_copies_come_before_every_other_verdict():
    copied = facts(step=900, copying={"pixel": COPIES}, loss_rise=0.5, underfit=("Underfit: it is.",))
    assert verdict(copied) == "memorizing"
    distrusted = replace(CONTEXT, distrust=("Control failed: here.",), not_exchangeable=("The halves differ.",))
    assert verdict(copied, distrusted) == "memorizing"


def test_copies_in_a_space_whose_rule_flags_real_images_make_no_verdict():
    unspecific = replace(COPIES, control_hits=30)  # 3 % of held-out images, where 1 % is allowed
    assert verdict(facts(copying={"clip": unspecific})) == "generalizing"
    assert verdict(facts(copying={"pixel": unspecific})) == "memorizing"


@pytest.mark.parametrize(
    "context",
    [
        replace(CONTEXT, distrust=("Control failed: here.",)),
        replace(CONTEXT, not_exchangeable=("The halves differ.",)),
        replace(CONTEXT, n_seeds=999),
    ],
)
def test_without_trust_or_seeds_there_is_no_verdict_and_no_recommendation(context):
    for found in (facts(), facts(lean={"pixel": LARGE}), facts(underfit=("Underfit: it is.",))):
        assert verdict(found, context) == "undecided"
    assert recommend([facts()], context, BUDGETS).status == "undecided"


def test_a_lean_within_the_error_of_the_smooth_reference_is_no_bias():
    """own_share .56 with a lower bound of .552 exceeds a reference of .55 only where that is known exactly."""
    lean = replace(SMALL, value=0.56, v_seed=0.005**2, p_corrected=0.001, reference=0.55)
    assert lean.is_bias(BUDGETS)
    assert not replace(lean, reference_se=0.005).is_bias(BUDGETS)
    floor = replace(lean, reference=0.51)  # then the margin is the budget's, which has no error
    assert floor.is_bias(BUDGETS) and replace(floor, reference_se=0.02).is_bias(BUDGETS)


def test_a_rise_of_the_loss_after_its_minimum_is_overfit_and_before_it_is_not():
    assert verdict(facts(step=800, loss_rise=0.02)) == "overfit"
    assert verdict(facts(step=800, loss_rise=0.002)) == "generalizing"
    assert verdict(facts(step=650, loss_rise=0.02)) == "generalizing"


def test_without_training_images_nothing_is_shown_safe_or_biased():
    assert verdict(facts(lean={}, loss=None, copying={})) == "undecided"


def test_an_undecided_lean_says_how_many_seeds_would_settle_it():
    """Margin .05, |T - 1/2| = .04: ((.05 - .04) / 2.93)^2 = 1.165e-5; .0002 * 1000 / 1.165e-5 = 17,170 seeds."""
    wide = replace(SMALL, value=0.54, v_seed=0.0002, n_seeds=1000)
    assert wide.seeds_needed(BUDGETS) == pytest.approx(17_170, rel=1e-3)
    assert "about 17,1" in " ".join(judge(facts(lean={"pixel": wide}), CONTEXT, BUDGETS).reasons)
    hubs = replace(wide, v_hub=2e-5)
    assert hubs.seeds_needed(BUDGETS) is None
    assert "more seeds cannot settle it" in " ".join(judge(facts(lean={"pixel": hubs}), CONTEXT, BUDGETS).reasons)


def test_no_copies_among_few_samples_are_not_yet_safe():
    assert not Copying(0, 200, 0, 10_000, 1.0, 0).is_safe(BUDGETS)  # 3 / 200 is far above .5 %
    assert Copying(0, 4000, 0, 10_000, 1.0, 0).is_safe(BUDGETS)


def test_the_earliest_step_of_equal_quality_is_recommended():
    series = [facts(step) for step in (300, 400, 500)]
    assert recommend(series, CONTEXT, BUDGETS).step == 300


def test_a_step_of_significantly_worse_quality_is_passed_over():
    worse = facts(300, quality=np.full(2000, 0.5) + np.random.default_rng(0).normal(0, 0.1, 2000))
    assert recommend([worse, facts(400), facts(500)], CONTEXT, BUDGETS).step == 400


def test_nothing_after_the_first_step_that_fails_is_recommended():
    leaning = facts(400, lean={"pixel": LARGE}, quality=np.full(2000, -1.0))
    better = facts(500, quality=np.full(2000, -2.0))
    found = recommend([facts(300), leaning, better], CONTEXT, BUDGETS)
    assert found.step == 300 and "400" in found.sentence


@pytest.mark.parametrize("bad", [{"copying": {"pixel": replace(COPIES, hits=7)}}, {"loss_rise": 0.2}])
def test_what_copies_or_overfits_is_never_recommended(bad):
    assert judge(facts(800, **bad), CONTEXT, BUDGETS).verdict in ("memorizing", "overfit")
    assert recommend([facts(800, **bad)], CONTEXT, BUDGETS).step == -1


def test_underfit_steps_are_no_candidates():
    underfit = facts(100, underfit=("Underfit: it is.",))
    assert recommend([underfit, facts(300)], CONTEXT, BUDGETS).step == 300
    assert recommend([underfit], CONTEXT, BUDGETS).status == "none"


def test_a_first_candidate_over_budget_means_none_and_says_what_it_would_take():
    """T + 1.645 se = .60 + .0082: a lean budget of .108 would accept it."""
    found = recommend([facts(300, lean={"pixel": LARGE})], CONTEXT, BUDGETS)
    assert found.status == "none" and "0.108 instead of 0.050" in found.sentence


def test_a_first_candidate_that_may_be_within_budget_means_undecided():
    wide = replace(SMALL, value=0.54, v_seed=0.0004)
    assert recommend([facts(300, lean={"pixel": wide})], CONTEXT, BUDGETS).status == "undecided"


def test_a_recommended_step_with_a_small_significant_lean_says_so():
    slight = replace(SMALL, value=0.535, p_corrected=0.001)
    found = recommend([facts(300, lean={"pixel": slight})], CONTEXT, BUDGETS)
    assert verdict(facts(300, lean={"pixel": slight})) == "biased"
    assert found.step == 300 and "do lean" in found.sentence


@pytest.mark.parametrize(
    ("safe", "found", "expected"),
    [
        ([True, True, True, True], [False] * 4, ("none", -1, -1)),
        ([True, False, False, False], [False, False, True, True], ("found", 200, 300)),
        ([False, False, False, False], [True, True, True, True], ("edge", 100, 100)),
        ([True, True, True, False], [False, False, False, True], ("found", 400, 400)),
        ([True, True, False, False], [False, False, True, False], ("undecided", 300, -1)),
        ([True, True, True, False], [False, True, True, True], ("found", 200, 200)),
    ],
)
def test_an_onset_runs_from_the_first_step_not_safe_to_the_first_of_two_findings(safe, found, expected):
    assert risk_onset([100, 200, 300, 400], safe, found) == expected
