"""`audit check`: what passes, what fails, what stays open, and that open is never taken for passed.

The runs are written by hand: five checkpoints whose verdicts and intervals can be read below.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from auditor.config import Budgets
from auditor.errors import AuditError
from auditor.records import VERDICTS
from auditor.reports import gate
from auditor.run import RunDirectory, columns, tables

DOCS = Path(__file__).parents[2] / "docs"
NAN = float("nan")
SERIES = {
    100: "underfit",
    200: "generalizing",
    300: "generalizing",
    400: "undecided",
    500: "generalizing",
    600: "biased",
}
FOUND = {"status": "found", "step": 200, "sentence": "Release step 200: all risks are within their budgets."}
NONE = {"status": "none", "step": -1, "sentence": "No checkpoint qualifies: already at step 200 it leans."}
UNDECIDED = {"status": "undecided", "step": -1, "sentence": "Not enough evidence for any checkpoint."}

# step, space, metric, twin: value, low, high, low_corrected, high_corrected
MEASURED = {
    (200, "", "loss_lean", "both"): (0.01, 0.0, 0.02, NAN, NAN),
    (200, "correlation", "own_share", "both"): (0.51, 0.48, 0.54, 0.46, 0.56),
    (200, "pixel", "memorized_fraction", "a"): (0.0, 0.0, 0.002, NAN, NAN),
    (200, "pixel", "memorized_fraction", "b"): (0.001, 0.0, 0.004, NAN, NAN),
    (200, "pixel", "own_share", "both"): (0.50, 0.47, 0.53, 0.45, 0.55),
    (200, "pixel", "twin_distance", "both"): (NAN, NAN, NAN, NAN, NAN),
    (200, "pixel", "wasserstein", "a"): (0.3, NAN, NAN, NAN, NAN),
    (600, "correlation", "own_share", "both"): (0.60, 0.57, 0.63, 0.55, 0.65),
    (600, "pixel", "memorized_fraction", "a"): (0.02, 0.012, 0.03, NAN, NAN),
    (600, "pixel", "memorized_fraction", "b"): (0.0, 0.0, 0.002, NAN, NAN),
    (600, "pixel", "own_share", "both"): (0.70, 0.67, 0.73, 0.65, 0.75),
}
COLUMNS = ("value", "low", "high", "low_corrected", "high_corrected")


def measurement(key: tuple, values: tuple) -> dict:
    row = dict(zip(("step", "space", "metric", "twin"), key, strict=True)) | dict(zip(COLUMNS, values, strict=True))
    rest = {"level": 0.95, "n": 2000, "unit": "seed", "method": "by hand", "p_value": NAN, "p_corrected": NAN}
    return row | rest | {"note": "samples are missing" if np.isnan(values[0]) else ""}


def verdict_row(step: int, verdict: str, recommended: bool) -> dict:
    return {"step": step, "verdict": verdict, "recommended": recommended, "reasons": f"Reasons of step {step}."}


@pytest.fixture
def write(tmp_path):
    """``write(...)`` makes a run directory of what a gate reads."""

    def write(series=SERIES, found=FOUND, status="complete", distrust=(), differ=(), wrong=(), **budgets) -> Path:
        run = RunDirectory(tmp_path / "run")
        checks = {"distrust": list(distrust), "not_exchangeable": list(differ), "recommendation": dict(found)}
        checks |= {"not_the_halves": list(wrong)} if wrong else {}  # runs made before do not have it
        record = {"status": status, "checks": checks, "budgets": asdict(Budgets(**budgets))}
        run.write_record(record | {"given": {}, "scope": {"steps": sorted(series)}})
        rows = [verdict_row(step, verdict, step == found["step"]) for step, verdict in series.items()]
        tables.write(run.table("verdicts"), columns.VERDICTS, rows)
        measured = [measurement(*each) for each in MEASURED.items()]
        tables.write(run.table("measurements"), columns.MEASUREMENTS, measured)
        return run.root

    return write


@pytest.fixture
def policy(tmp_path):
    """``policy(text)`` is the path of a policy file."""

    def write_policy(text: str) -> Path:
        path = tmp_path / "policy.toml"
        path.write_text(text)
        return path

    return write_policy


def outcomes(judgement: gate.Judgement) -> dict[str, str]:
    return {each.name: each.outcome for each in judgement.requirements}


# Without a step


@pytest.mark.parametrize(("found", "status"), [(FOUND, 0), (NONE, 3), (UNDECIDED, 4)])
def test_without_a_step_the_recommendation_is_the_exit_status(write, audit, found, status):
    outcome = audit("check", write(found=found))
    assert outcome.status == status
    assert found["sentence"] in outcome.out and outcome.out.count("\n") == 1 and outcome.err == ""


def test_a_run_that_is_not_finished_is_undecided(write, audit):
    outcome = audit("check", write(status="started"))
    assert (outcome.status, "not finished" in outcome.out) == (4, True)


@pytest.mark.parametrize("arguments", [(), ("--step", 200), ("--step", 600)])
def test_a_run_whose_controls_failed_is_undecided_whatever_else_it_says(write, audit, arguments):
    outcome = audit("check", write(distrust=["Control failed: copies are not found in pixel."]), *arguments)
    assert outcome.status == 4
    assert "not to be trusted" in outcome.out and "copies are not found in pixel" in outcome.out


def test_a_failed_control_is_no_pass_even_for_a_policy_that_is_met(write, policy):
    judgement = gate.check(write(distrust=["Control failed."]), policy("[budgets]\nown_share = 0.9"), 200)
    assert outcomes(judgement) == {"run": "undecided"}


def test_a_policy_also_applies_to_the_recommended_step(write, policy):
    root = write()
    assert gate.check(root, policy("[budgets]\nown_share = 0.6")).outcome == "pass"
    judgement = gate.check(root, policy("[budgets]\nloss_lean = -0.1"))
    assert (judgement.step, judgement.outcome) == (200, "fail")


def test_a_policy_recommends_nothing_where_nothing_is_recommended(write, policy):
    judgement = gate.check(write(found=NONE), policy('[require]\nverdict = ["biased"]'))
    assert (judgement.step, judgement.exit_status) == (None, 3)


def test_margins_that_are_not_the_defaults_are_told(write):
    assert "lean_safe 0.2 instead of 0.05" in gate.check(write(lean_safe=0.2)).paragraph
    assert "instead of" not in gate.check(write()).paragraph


# A step, without a policy


@pytest.mark.parametrize(
    ("step", "status", "why"),
    [
        (100, 3, "Its verdict is underfit"),
        (200, 0, "Release step 200"),
        (300, 0, "All candidates up to it passed; recommended is step 200"),
        (400, 4, "Its verdict is undecided"),
        (500, 4, "the walk over the checkpoints ended before it: step 400 is undecided"),
        (600, 3, "Its verdict is biased"),
    ],
)
def test_a_step_is_judged_by_its_verdict_and_by_those_before_it(write, audit, step, status, why):
    outcome = audit("check", write(), "--step", step)
    assert (outcome.status, why in outcome.out) == (status, True), outcome.out


@pytest.mark.parametrize("verdict", VERDICTS)
def test_only_generalizing_passes_beside_the_recommended_step(write, verdict):
    expected = {"generalizing": "pass", "undecided": "undecided"}.get(verdict, "fail")
    assert gate.check(write({200: "generalizing", 300: verdict}), step=300).outcome == expected


def test_underfit_checkpoints_do_not_end_the_walk(write):
    series = {200: "generalizing", 300: "underfit", 400: "generalizing"}
    assert gate.check(write(series), step=400).outcome == "pass"


def test_a_generalizing_step_is_undecided_where_no_step_is_recommended(write):
    judgement = gate.check(write(found=UNDECIDED), step=200)
    assert judgement.outcome == "undecided" and UNDECIDED["sentence"] in judgement.paragraph


def test_the_step_that_is_recommended_passes_by_name_as_it_does_without(write):
    root = write()
    named, unnamed = gate.check(root, step=200), gate.check(root)
    assert named.paragraph == unnamed.paragraph


def test_a_recommended_step_passes_but_a_verdict_against_it_is_told(write):
    """A lean can be significant, hence biased, and yet be shown to lie within its budget."""
    root = write({200: "biased"})
    for judgement in (gate.check(root), gate.check(root, step=200)):
        assert judgement.outcome == "pass"
        assert "It is recommended although its verdict is biased: Reasons of step 200." in judgement.paragraph


def test_a_step_that_was_not_audited_is_an_error_that_lists_the_steps(write, audit):
    outcome = audit("check", write(), "--step", 250)
    assert outcome.status == 1 and outcome.out == ""
    assert "Step 250 was not audited" in outcome.err and "100, 200, 300, 400, 500, 600" in outcome.err


# Budgets


def by_budget(root: Path, policy, key: str, limit: float, step: int = 200) -> gate.Judgement:
    return gate.check(root, policy(f'[budgets]\n"{key}" = {limit}'), step)


@pytest.mark.parametrize(
    ("limit", "outcome"), [(0.021, "pass"), (0.02, "pass"), (0.0199, "undecided"), (0.0, "undecided"), (-0.001, "fail")]
)
def test_a_budget_is_met_by_the_upper_end_of_the_interval_and_broken_by_the_lower(write, policy, limit, outcome):
    """loss_lean is .01, interval 0 to .02."""
    assert by_budget(write(), policy, "loss_lean", limit).outcome == outcome


@pytest.mark.parametrize(("limit", "outcome"), [(0.56, "pass"), (0.55, "undecided"), (0.45, "fail")])
def test_the_corrected_interval_counts_where_there_is_one(write, policy, limit, outcome):
    """own_share in correlation: .48 to .54, corrected .46 to .56; in pixel corrected .45 to .55."""
    assert by_budget(write(), policy, "own_share", limit).outcome == outcome


def test_every_row_of_the_metric_must_be_within_the_limit(write, policy):
    """Twin b has at most .004 copies, twin a .002."""
    root = write()
    assert by_budget(root, policy, "memorized_fraction", 0.003).outcome == "undecided"
    assert by_budget(root, policy, "memorized_fraction.a", 0.003).outcome == "pass"
    assert by_budget(root, policy, "memorized_fraction.pixel.a", 0.003).outcome == "pass"


def test_one_row_above_the_limit_fails_and_is_named(write, policy):
    judgement = by_budget(write(), policy, "memorized_fraction", 0.01, 600)
    assert judgement.outcome == "fail"
    assert "memorized_fraction is above its limit 0.01: a in pixel 0.02, 95% interval 0.012 to 0.03." in (
        judgement.paragraph
    )
    assert "b in pixel" not in judgement.paragraph


@pytest.mark.parametrize(
    ("key", "why"), [("twin_distance", "samples are missing"), ("wasserstein", "without interval")]
)
def test_what_has_no_interval_is_undecided_however_high_the_limit(write, policy, key, why):
    judgement = by_budget(write(), policy, key, 1000)
    assert (judgement.outcome, why in judgement.paragraph) == ("undecided", True)


def test_what_was_not_measured_at_the_step_is_undecided(write, policy):
    judgement = by_budget(write(), policy, "own_share", 0.9, 300)
    assert (judgement.outcome, "not measured at this step" in judgement.paragraph) == ("undecided", True)


def test_a_failure_outweighs_an_open_question_and_both_are_told(write, policy):
    text = "[budgets]\nown_share.pixel = 0.6\nown_share.correlation = 0.6"
    judgement = gate.check(write(), policy(text), 600)
    assert judgement.exit_status == 3
    assert outcomes(judgement) == {
        "run": "pass",
        "budget own_share.pixel": "fail",
        "budget own_share.correlation": "undecided",
    }
    assert "own_share.correlation is not shown to be within its limit 0.6" in judgement.paragraph


def test_a_dotted_key_means_the_same_with_and_without_quotes(policy):
    quoted, bare = (gate.read_policy(policy(f"[budgets]\n{key} = 1")) for key in ('"kid.pixel.a"', "kid.pixel.a"))
    assert quoted == bare and quoted.budgets == {"kid.pixel.a": 1.0}


def test_halves_that_differ_leave_a_met_policy_undecided(write, policy):
    judgement = gate.check(
        write(differ=["The halves are not exchangeable."]), policy("[budgets]\nown_share = 0.9"), 200
    )
    assert judgement.outcome == "undecided" and "not exchangeable" in judgement.paragraph


def test_halves_that_were_not_trained_on_leave_a_met_policy_undecided(write, policy):
    """Of exchanged halves own_share lies below one half, so that any limit is kept."""
    judgement = gate.check(write(wrong=["The halves look exchanged."]), policy("[budgets]\nown_share = 0.9"), 200)
    assert judgement.exit_status == 4 and "look exchanged" in judgement.paragraph


# Verdicts


def test_a_policy_may_accept_other_verdicts(write, policy):
    root, path = write(), policy('[require]\nverdict = ["generalizing", "biased"]')
    found = {step: gate.check(root, path, step).exit_status for step in SERIES}
    assert found == {100: 3, 200: 0, 300: 0, 400: 4, 500: 0, 600: 0}


def test_a_policy_without_verdicts_passes_any_but_says_which_it_is(write, policy):
    judgement = by_budget(write(), policy, "own_share", 0.9, 600)
    assert judgement.outcome == "pass" and "it is biased" in judgement.paragraph


# What is undecided and allowed

ALLOWED = "[allow]\nundecided = true\n"


def test_what_is_undecided_passes_where_the_policy_allows_it_and_is_told_all_the_same(write, policy):
    root = write()
    judgement = gate.check(root, policy(f"{ALLOWED}[budgets]\nloss_lean = 0.01"), 200)
    assert (judgement.outcome, judgement.exit_status) == ("undecided", 0)
    assert judgement.paragraph.startswith("Step 200 is undecided, which the policy allows. loss_lean is not shown")
    assert gate.check(root, policy(f"{ALLOWED}[budgets]\nloss_lean = -0.001"), 200).exit_status == 3


def test_an_allowance_alone_keeps_the_rule_of_the_tool(write, policy):
    path = policy(ALLOWED)
    assert {step: gate.check(write(), path, step).exit_status for step in (100, 200, 400, 500, 600)} == {
        100: 3,
        200: 0,
        400: 0,
        500: 0,
        600: 3,
    }
    assert [gate.check(write(found=found), path).exit_status for found in (FOUND, NONE, UNDECIDED)] == [0, 3, 0]


def test_what_was_said_not_to_be_allowed_is_not(write, policy):
    assert gate.check(write(), policy("[allow]\nundecided = false\n[budgets]\nloss_lean = 0.01"), 200).exit_status == 4


@pytest.mark.parametrize(
    "unsound",
    [
        {"status": "started"},
        {"distrust": ["A control failed."]},
        {"differ": ["They differ."]},
        {"wrong": ["They look exchanged."]},
    ],
)
def test_no_policy_allows_a_run_from_which_nothing_follows(write, policy, tmp_path, unsound):
    judgement = gate.check(write(**unsound), policy(f"{ALLOWED}[budgets]\nown_share = 0.9"), 200)
    gate.write_junit(judgement, tmp_path / "check.xml")
    assert judgement.exit_status == 4 and "allows" not in judgement.paragraph
    assert failures_of(tmp_path / "check.xml") == 1


def test_the_policy_that_is_documented_is_read(policy):
    page = (DOCS / "policies.md").read_text()
    found = gate.read_policy(policy(page.partition("```toml\n")[2].partition("```")[0]))
    assert found.allows_undecided and found.verdicts == ("generalizing",)
    assert found.budgets == {"own_share": 0.6, "memorized_fraction.pixel": 0.01}


# Mistakes in a policy

MISTAKES = {
    "an unknown table": ("[budget]\nkid = 1", "no policy table 'budget'", "Did you mean budgets?"),
    "an unknown requirement": (
        '[require]\nverdicts = ["biased"]',
        "no requirement 'verdicts'",
        "Did you mean verdict?",
    ),
    "an unknown verdict": ('[require]\nverdict = ["generalising"]', "no verdict 'generalising'", "generalizing?"),
    "an unknown metric": ("[budgets]\nown_shares = 1", "no metric 'own_shares'", "Did you mean own_share?"),
    "an unknown space": ("[budgets]\nown_share.pixels = 1", "own_share 'pixels'", "Did you mean pixel?"),
    "an unknown twin": ("[budgets]\nown_share.pixel.c = 1", "own_share 'c'", "Choose from: pixel, both"),
    "a text as limit": ('[budgets]\nkid = "1"', "kid = '1' is no number", "finite number"),
    "a truth as limit": ("[budgets]\nkid = true", "kid = True is no number", "finite number"),
    "NaN as limit": ("[budgets]\nkid = nan", "kid = nan is no number", "finite number"),
    "infinity as limit": ("[budgets]\nkid = inf", "kid = inf is no number", "finite number"),
    "one verdict without a list": ('[require]\nverdict = "biased"', "no list of verdicts", '["generalizing"]'),
    "no accepted verdict": ("[require]\nverdict = []", "no list of verdicts", '["generalizing"]'),
    "a key outside its table": ("kid = 1", "no policy table 'kid'", "budgets, require, allow"),
    "a value for a table": ("budgets = 1", "budgets = 1 is no table", "[budgets]"),
    "an unknown allowance": ("[allow]\nfail = true", "no allowance 'fail'", "undecided"),
    "a text as allowance": ('[allow]\nundecided = "yes"', "neither true nor false", "undecided = true"),
    "nothing": ("", "asks for nothing", "[budgets] metric = upper limit"),
    "empty tables": ("[budgets]\n[require]", "asks for nothing", "[budgets] metric = upper limit"),
    "no TOML": ("own_share < 0.6", "is no TOML", "n-samples"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_policy_is_an_error_and_never_a_pass(write, policy, audit, mistake):
    text, what, remedy = MISTAKES[mistake]
    outcome = audit("check", write(), "--policy", policy(text), "--step", 200)
    assert outcome.status == 1 and outcome.out == ""
    assert what in outcome.err and remedy in outcome.err, outcome.err


def test_a_policy_that_is_not_there_is_an_error(write, tmp_path):
    with pytest.raises(AuditError, match="cannot be read"):
        gate.check(write(), tmp_path / "none.toml")


# For programs


@pytest.mark.parametrize(("step", "status", "outcome"), [(200, 0, "pass"), (600, 3, "fail"), (400, 4, "undecided")])
def test_json_holds_the_outcome_and_every_requirement(write, audit, step, status, outcome):
    found = audit("check", write(), "--step", step, "--json")
    facts = json.loads(found.out)
    assert found.status == facts["exit_status"] == status
    assert (facts["schema"], facts["outcome"], facts["step"]) == (1, outcome, step)
    assert facts["requirements"][0] == {
        "name": "run",
        "outcome": "pass",
        "reason": "The audit is complete and its controls passed.",
    }
    assert facts["requirements"][-1]["reason"] in facts["reason"]


def failures_of(path: Path) -> int:
    """The number of failures that a JUnit file announces, which is that of its failed cases."""
    suite = ElementTree.parse(path).getroot().find("testsuite")
    assert int(suite.get("failures")) == len(suite.findall("testcase/failure"))
    assert int(suite.get("tests")) == len(suite.findall("testcase")) and suite.get("errors") == "0"
    return int(suite.get("failures"))


def test_junit_has_one_case_per_requirement_with_its_reason(write, policy, audit, tmp_path):
    text = "[budgets]\nown_share.pixel = 0.6\nown_share.correlation = 0.6\nmemorized_fraction.b = 0.01"
    path = tmp_path / "reports" / "check.xml"
    assert audit("check", write(), "--step", 600, "--policy", policy(text), "--junit", path).status == 3
    suite = ElementTree.parse(path).getroot().find("testsuite")
    assert failures_of(path) == 2 and suite.get("skipped") == "0"
    cases = {case.get("name"): [(child.tag, child.get("type")) for child in case] for case in suite}
    assert cases == {
        "run": [],
        "budget own_share.pixel": [("failure", "fail")],
        "budget own_share.correlation": [("failure", "undecided")],
        "budget memorized_fraction.b": [],
    }
    failed, undecided = (each.get("message") for each in suite.findall("testcase/failure"))
    assert "is above its limit 0.6" in failed
    assert undecided.startswith("undecided: ") and "is not shown to be within" in undecided


@pytest.mark.parametrize("found", [FOUND, NONE, UNDECIDED])
@pytest.mark.parametrize("allowed", [False, True])
def test_junit_and_the_exit_status_agree_whether_something_is_wrong(write, policy, audit, tmp_path, found, allowed):
    """Undecided is a failure, unless the policy allows it; then it is skipped, and the status is 0."""
    path, given = tmp_path / "check.xml", ["--policy", policy(ALLOWED)] if allowed else []
    status = audit("check", write(found=found), "--junit", path, *given).status
    assert bool(failures_of(path)) == (status != 0)
    skipped = ElementTree.parse(path).getroot().findall(".//skipped")
    assert len(skipped) == (allowed and found is UNDECIDED)


def test_junit_survives_reasons_with_markup_in_them(write, audit, tmp_path):
    path = tmp_path / "check.xml"
    found = UNDECIDED | {"sentence": 'own_share < 0.6 & "so on" <b>'}
    assert audit("check", write(found=found), "--junit", path).status == 4
    assert found["sentence"] in ElementTree.parse(path).getroot().find(".//failure").get("message")


def test_a_junit_file_that_cannot_be_written_is_an_error(write, audit, tmp_path):
    (tmp_path / "file").write_text("")
    outcome = audit("check", write(), "--junit", tmp_path / "file" / "check.xml")
    assert outcome.status == 1 and "Cannot write here" in outcome.err


# Runs of the command


def test_a_folder_that_is_no_run_is_an_error(audit, tmp_path):
    outcome = audit("check", tmp_path)
    assert outcome.status == 1 and "There is no audit here" in outcome.err


def test_a_real_run_of_twelve_seeds_is_undecided(finished, audit):
    outcome = audit("check", finished)
    assert outcome.status == 4, outcome.out


def test_a_run_without_training_images_is_undecided(without_training, audit):
    outcome = audit("check", without_training)
    assert outcome.status == 4, outcome.out


def test_checking_imports_neither_torch_nor_scipy(write, policy, tmp_path):
    path = policy('[budgets]\nown_share = 0.6\n[require]\nverdict = ["generalizing"]')
    arguments = ["check", str(write()), "--policy", str(path), "--junit", str(tmp_path / "x.xml"), "--json"]
    code = (
        "import sys; sys.argv = ['audit', *sys.argv[1:]]\n"
        "from auditor import cli\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert end.code in (None, 0), end.code\n"
        "assert not {'torch', 'scipy', 'faiss', 'diffusers'} & set(sys.modules), 'heavy imports'"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
