"""The ladder of verdicts and the recommendation, on facts whose numbers a reader can check by hand."""

from dataclasses import replace

import numpy as np
import pytest

from auditor.config import Budgets
from auditor.measuring.facts import Context, Copying, Lean, LossLean, Membership, Named, StepFacts, Tail
from auditor.measuring.onsets import copy_state, lean_state
from auditor.measuring.verdict import NOT_LOOKED_FOR, judge, recommend, risk_onset

BUDGETS = Budgets()
CONTEXT = Context(divergence=(200, 300), loss=(600, 700), n_seeds=2000)
# se = .005, so the one-sided 95 % bounds lie .0082 beside the value.
SMALL = Lean(0.51, v_seed=2.5e-5, v_hub=0.0, n_seeds=2000, p_corrected=0.4, reference=0.505)
LARGE = replace(SMALL, value=0.60, p_corrected=0.0005)
NO_COPIES = Copying(hits=0, n=4000, control_hits=0, control_n=1000, p_corrected=1.0, sources=0, pairs=4000)
COPIES = replace(NO_COPIES, hits=80, own_only=80, p_corrected=0.001, sources=30)
HIDDEN = Membership(True)
FLAT_LOSS = LossLean(0.005, low=0.0, high=0.01, p_corrected=0.3, reference=0.004)
LEANING_LOSS = LossLean(0.2, low=0.18, high=0.22, p_corrected=0.0005, reference=0.004)


def facts(step=500, **changes) -> StepFacts:
    safe = StepFacts(
        step,
        lean={"pixel": SMALL, "correlation": SMALL},
        loss=FLAT_LOSS,
        copying={"pixel": NO_COPIES},
        loss_rise=0.0,
        kid=np.zeros(2000),
        membership=HIDDEN,
    )
    return replace(safe, **changes)


def verdict(found: StepFacts, context: Context = CONTEXT) -> str:
    return judge(found, context, BUDGETS).verdict


def test_a_checkpoint_with_all_risks_shown_small_generalizes():
    assert verdict(facts()) == "generalizing"


def test_a_lean_beyond_a_smooth_models_is_bias_in_any_one_space():
    assert verdict(facts(lean={"pixel": SMALL, "correlation": LARGE})) == "biased"


def test_a_lean_that_a_smooth_model_also_shows_is_no_bias_and_is_accepted_up_to_a_cap():
    """The smooth model's .55 + .04 for few seeds would be .59; a smooth .60 would accept .64, and .60 is the cap."""
    smooth = replace(SMALL, value=0.565, p_corrected=0.0005, reference=0.56)
    assert verdict(facts(lean={"pixel": smooth})) == "generalizing"
    assert verdict(facts(lean={"pixel": replace(LARGE, reference=0.60)})) == "undecided"


def test_the_accepted_lean_is_narrower_where_there_are_many_seeds():
    margins = [replace(SMALL, reference=0.53, n_seeds=n).safe_margin(BUDGETS) for n in (3999, 4000)]
    assert margins == pytest.approx([0.07, 0.06])


def test_each_of_many_spaces_has_to_lean_more_to_be_called_biased():
    """.53 lies two standard errors above the margin of .52: enough for one space (1.96), not for ten (2.81)."""
    lean = replace(SMALL, value=0.53, p_corrected=0.001, reference=0.5)
    assert lean.is_bias(BUDGETS) and not replace(lean, n_spaces=10).is_bias(BUDGETS)


def test_an_image_that_stands_out_too_often_is_bias_although_the_share_is_small():
    """Gap lean .004 with an error of .001 is three errors above the smooth reference's 0 plus .001; 1.645 suffice."""
    tail = replace(SMALL, p_corrected=0.001, gap=0.004, gap_se=0.001)
    assert verdict(facts(lean={"pixel": tail})) == "biased"
    assert verdict(facts(lean={"pixel": replace(tail, gap_reference=0.004)})) == "generalizing"
    assert verdict(facts(lean={"pixel": replace(tail, p_corrected=0.1)})) == "generalizing"


def test_a_tail_beyond_that_of_a_smooth_model_is_bias():
    tail = Tail(0.95, low=0.80, p_corrected=0.001, reference=0.60, n=40, groups=30)
    assert verdict(facts(tails={"pixel": tail})) == "biased"
    assert verdict(facts(tails={"pixel": replace(tail, reference=0.72)})) == "generalizing"
    assert verdict(facts(tails={"pixel": replace(tail, low=0.74)})) == "generalizing"


def test_images_that_samples_lead_back_to_keep_a_checkpoint_from_being_safe():
    assert verdict(facts(named={"pixel": Named(())})) == "generalizing"
    assert verdict(facts(named={"pixel": Named((("a", "x"),))})) == "undecided"


def test_a_large_lean_that_relabeling_explains_is_undecided():
    assert verdict(facts(lean={"pixel": replace(LARGE, p_corrected=0.2)})) == "undecided"


def test_a_loss_lean_is_bias_only_after_the_twins_diverged():
    assert verdict(facts(step=500, loss=LEANING_LOSS)) == "biased"
    assert verdict(facts(step=300, loss=LEANING_LOSS)) == "undecided"


def test_a_loss_lean_is_bias_where_the_least_twin_distance_is_not_located():
    assert verdict(facts(step=300, loss=LEANING_LOSS), replace(CONTEXT, divergence=())) == "biased"
    assert verdict(facts(step=300), replace(CONTEXT, divergence=())) == "generalizing"


def test_where_samples_alone_are_released_losses_and_membership_decide_nothing():
    shown = Membership(False, exposed=("Membership: an image is known.",))
    leaning = facts(loss=LEANING_LOSS, membership=shown)
    assert judge(leaning, CONTEXT, BUDGETS).risk == "biased"
    assert judge(leaning, replace(CONTEXT, release="samples"), BUDGETS).risk == "shown small"
    copied = replace(leaning, copying={"pixel": COPIES})
    assert judge(copied, replace(CONTEXT, release="samples"), BUDGETS).risk == "memorizing"


def test_weights_are_assumed_and_take_a_membership_that_is_shown_hidden():
    for release in (None, "weights"):
        context = replace(CONTEXT, release=release)
        assert judge(facts(), context, BUDGETS).risk == "shown small"
        assert judge(facts(membership=None), context, BUDGETS).risk == "undecided"
        few = Membership(False, missing=("Membership is undecided: give 1,000 images.",))
        assert judge(facts(membership=few), context, BUDGETS).risk == "undecided"
        shown = Membership(False, exposed=("Membership: an image is known.",))
        decision = judge(facts(membership=shown), context, BUDGETS)
        assert (decision.risk, decision.verdict) == ("exposed", "biased")
        assert decision.reasons[0].startswith("Membership:")
    said = recommend([facts()], CONTEXT, BUDGETS).sentence
    assert "assumed" in said and "assumed" not in recommend([facts()], context, BUDGETS).sentence


def test_quality_hides_no_risk_and_risk_no_quality():
    known = Membership(False, exposed=("Membership: an image is known.",))
    decision = judge(facts(underfit=("Underfit: it is.",), membership=known), CONTEXT, BUDGETS)
    assert (decision.risk, decision.quality, decision.verdict) == ("exposed", "underfit", "biased")
    said = recommend([facts(underfit=("Underfit: it is.",), membership=known)], CONTEXT, BUDGETS).sentence
    assert said.startswith("Every checkpoint is underfit") and "exposed: Membership" in said
    overfit = judge(facts(800, loss_rise=0.2), CONTEXT, BUDGETS)
    assert (overfit.risk, overfit.quality, overfit.verdict) == ("shown small", "overfit", "overfit")


def test_without_heldout_images_nothing_generalizes():
    decision = judge(facts(fit_judged=False), replace(CONTEXT, with_heldout=False, loss=()), BUDGETS)
    assert (decision.risk, decision.quality, decision.verdict) == ("undecided", "unknown", "undecided")


def test_images_that_only_one_twin_reproduces_come_first_where_it_is_undecided():
    """(16 - 0 + 1.645 sqrt(19)) / 8,000 = .0029 of samples, where .001 is accepted."""
    seen = replace(NO_COPIES, n=8000, pairs=8000, hits=16, own_only=16, p_corrected=0.2, groups_needed=15)
    seen = replace(seen, revealed=tuple(f"a/{i}" for i in range(5)))
    decision = judge(facts(copying={"pixel": seen}), CONTEXT, BUDGETS)
    assert decision.risk == "undecided"
    assert decision.reasons[0].startswith("5 images are reproduced only by the twin that saw them: a/0, a/1")
    assert "15 distinct images" in decision.reasons[0]
    by_chance = replace(seen, own_only=0, twin_only=16, revealed=())
    assert judge(facts(copying={"pixel": by_chance}), CONTEXT, BUDGETS).risk == "shown small"


def test_images_that_both_halves_hold_are_not_to_be_reproduced():
    both = replace(NO_COPIES, shared_hits=80)
    decision = judge(facts(copying={"pixel": both}), CONTEXT, BUDGETS)
    assert decision.risk == "undecided" and "de-duplicate" in decision.reasons[0]
    usual = replace(both, shared_hits=8, shared_control_hits=20)  # as held-out images resemble them, too
    assert judge(facts(copying={"pixel": usual}), CONTEXT, BUDGETS).risk == "shown small"


def test_halves_that_were_not_trained_on_withhold_every_verdict_but_copying_and_exposure():
    wrong = replace(CONTEXT, not_the_halves=("The halves look exchanged.",))
    assert recommend([facts()], wrong, BUDGETS).sentence.startswith("The halves look exchanged.")
    assert judge(facts(), wrong, BUDGETS).verdict == "undecided"
    assert judge(facts(lean={"pixel": LARGE}), wrong, BUDGETS).verdict == "undecided"
    assert judge(facts(copying={"pixel": COPIES}), wrong, BUDGETS).verdict == "memorizing"
    known = Membership(False, exposed=("Membership: an image is known.",))
    assert judge(facts(membership=known), wrong, BUDGETS).risk == "exposed"


def test_what_an_attack_finds_at_many_false_positives_is_told_whatever_is_released():
    told = replace(HIDDEN, headline="At 10% false positives 30% are found.", shown="Membership is shown hidden: .03.")
    for release in ("weights", "samples"):
        said = recommend([facts(300), facts(membership=told)], replace(CONTEXT, release=release), BUDGETS)
        assert said.step == 300 and "false positives" not in said.sentence  # of another step than is released
        said = recommend([facts(membership=told)], replace(CONTEXT, release=release), BUDGETS).sentence
        told_last, end = said.split(" Not looked for: ")
        assert told_last.endswith("At 10% false positives 30% are found.") and end.endswith("mixtures below one half.")
    assert "Membership is shown hidden: .03." in judge(facts(membership=told), CONTEXT, BUDGETS).reasons


def test_a_release_says_what_was_judged_and_what_was_not():
    context = replace(CONTEXT, release="samples", release_size=100_000, weights="ema")
    said = recommend([facts()], context, BUDGETS).sentence
    assert said.startswith("Release step 500 (samples of the twins' ema weights, not of your final model; the weights")
    assert "Not judged: membership" in said and said.endswith(NOT_LOOKED_FOR)
    assert "at most 72 among 100,000 samples" in said  # 1.645 sqrt(3) / 4,000


def test_copies_come_before_every_other_verdict():
    copied = facts(step=900, copying={"pixel": COPIES}, loss_rise=0.5, underfit=("Underfit: it is.",))
    assert verdict(copied) == "memorizing"
    distrusted = replace(CONTEXT, distrust=("Control failed: here.",), not_exchangeable=("The halves differ.",))
    assert verdict(copied, distrusted) == "memorizing"


def test_copies_of_one_training_make_no_verdict_in_a_space_whose_rule_flags_real_images():
    unspecific = replace(COPIES, control_hits=30, pairs=0)  # 3 % of held-out images, where 1 % is allowed
    assert verdict(facts(copying={"clip": unspecific})) != "memorizing"
    assert verdict(facts(copying={"pixel": unspecific})) == "memorizing"
    assert verdict(facts(copying={"clip": replace(unspecific, pairs=4000)})) == "memorizing"  # the twin is the control


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
    """1.645 sqrt(3) / 400 = .007 of samples might be copies; of 4,000 .0007."""
    assert not replace(NO_COPIES, pairs=400).is_safe(BUDGETS)
    assert NO_COPIES.is_safe(BUDGETS)
    assert not Copying(0, 200, 0, 10_000, 1.0, 0).is_safe(BUDGETS)  # one training: 3 / 200 is far above .5 %
    assert Copying(0, 4000, 0, 10_000, 1.0, 0).is_safe(BUDGETS)


def test_the_earliest_step_of_equal_quality_is_recommended():
    series = [facts(step) for step in (300, 400, 500)]
    assert recommend(series, CONTEXT, BUDGETS).step == 300


def test_a_step_of_significantly_worse_quality_is_passed_over():
    worse = facts(300, kid=np.full(2000, 0.5) + np.random.default_rng(0).normal(0, 0.1, 2000))
    assert recommend([worse, facts(400), facts(500)], CONTEXT, BUDGETS).step == 400


def test_nothing_after_the_first_step_that_fails_is_recommended():
    leaning = facts(400, lean={"pixel": LARGE}, kid=np.full(2000, -1.0))
    better = facts(500, kid=np.full(2000, -2.0))
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


def test_a_first_candidate_with_a_risk_that_is_found_means_none():
    found = recommend([facts(300, lean={"pixel": LARGE})], CONTEXT, BUDGETS)
    assert found.status == "none" and "already step 300" in found.sentence and "biased" in found.sentence


def test_a_first_candidate_that_may_be_within_budget_means_undecided():
    wide = replace(SMALL, value=0.54, v_seed=0.0004)
    assert recommend([facts(300, lean={"pixel": wide})], CONTEXT, BUDGETS).status == "undecided"


def test_a_biased_step_is_never_recommended_however_small_its_lean():
    slight = replace(SMALL, value=0.535, p_corrected=0.001)
    assert verdict(facts(300, lean={"pixel": slight})) == "biased"
    assert recommend([facts(300, lean={"pixel": slight})], CONTEXT, BUDGETS).status == "none"


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


def test_an_onset_has_the_findings_that_the_verdict_has():
    """A biased checkpoint is never beside "nowhere": not where the tail leans alone, nor where a class does."""
    tail = Tail(share=0.95, low=0.85, p_corrected=0.001, reference=0.55, n=40, groups=30)
    for changes, state in [
        ({}, (True, False)),
        ({"lean": {"pixel": LARGE}}, (False, True)),
        ({"tails": {"pixel": tail}}, (True, True)),
        ({"leaning_classes": ("Leans: class 3.",)}, (False, False)),
    ]:
        assert lean_state(facts(**changes), "pixel", BUDGETS) == state
        assert (verdict(facts(**changes)) == "biased") == (state != (True, False))
    assert copy_state(facts(copying={"pixel": COPIES}), "pixel", BUDGETS) == (False, True)
    assert copy_state(facts(), "pixel", BUDGETS) == (True, False)
