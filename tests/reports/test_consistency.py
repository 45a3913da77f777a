"""No two statements of one report contradict each other, and every form begins with the same sentences."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import call

from auditor import registry
from auditor.config import Budgets
from auditor.measuring.advice import advice
from auditor.measuring.facts import Context, Copying, Lean, LossLean, Membership, Named, StepFacts, Tail
from auditor.measuring.onsets import onset_rows
from auditor.measuring.verdict import NOT_LOOKED_FOR, judge, recommend
from auditor.reports import Report, read_report, text_of
from auditor.reports.charts.divergence import divergence_words
from auditor.reports.charts.onsets import ONSETS, placed
from auditor.reports.sections import onset_rows as onset_table
from auditor.stats.minima import Onset

FORMS = ("markdown", "json")  # beside the terminal; the page, which takes seconds to draw, where it is asked for
BUDGETS = Budgets()


def plain(text: str) -> str:
    """Return a report's text as a reader sees it: without markup, escapes and line breaks."""
    text = re.sub(r"<style>.*?</style>|<script.*?</script>|<[^>]+>", "", text, flags=re.S) if "<html" in text else text
    return " ".join(html.unescape(text).replace("\\", "").replace("*", "").split())


def texts(report: Report, *more: str) -> dict[str, str]:
    """Return the forms of a report."""
    wide = io.StringIO()
    registry.lookup("report", "terminal")(report, wide, 400)  # no cell of a table is broken into lines
    found = {form: text_of(report, form).decode() for form in (*FORMS, *more)}
    return {form: plain(text) for form, text in (("terminal", wide.getvalue()), *found.items())}


def contradictions(report: Report, said: dict[str, str]) -> list[str]:
    """Return what of a report, and of its texts by form, does not fit together."""
    found, verdicts = [], report.tables["verdicts"]
    for row in report.tables["onsets"].itertuples():
        if row.onset not in ONSETS:
            continue
        told = placed(report, row)
        if row.onset in ("divergence", "predictions", "loss") and row.low >= 0:
            metric = {"divergence": "twin_distance_ratio", "predictions": "prediction_variance"}.get(row.onset)
            least = report.estimates(metric or "loss_heldout", "both", row.space).value.idxmin()
            explained = "not underfit" in told or "the least value at" in told
            if (str(least) in row.steps.split(",")) == explained:
                found.append(f"{row.onset}: {told}, and the least value is at {least}")
            if row.onset == "loss" and not explained and f"least held-out loss {told}" not in said["terminal"]:
                found.append(f"{told} is not in the text")
        for risk, word, begins in (("bias", "biased", "Leans"), ("copying", "memorizing", "Copies")):
            judged = verdicts[verdicts.verdict == word]
            of_space = judged.reasons.str.contains(f"{begins}: {re.escape(row.space)}:", regex=True)
            if row.onset == risk and row.status == "none" and (of_space & (judged.quality != "underfit")).any():
                found.append(f"{risk} in {row.space}: nowhere, and a verdict says {word}")
    for form, text in said.items():
        if re.search(r"begin to (lean|copy)\W+\w*\W*nowhere", text):
            found.append(f"{form}: a lean that is marked ! may stand beside 'begin ... nowhere'")
    if report.recommended is not None:
        chosen = verdicts.set_index("step").loc[report.recommended]
        if chosen.verdict != "generalizing" or not report.conclusion.startswith(f"Release step {report.recommended:,}"):
            found.append("what is recommended is not what the conclusion says, or is not generalizing")
    elif report.conclusion.startswith("Release step"):
        found.append("a release without a recommended step")
    return found


@pytest.mark.parametrize("run", ["finished", "single", "without_training", "three_audited", "everything"])
def test_every_form_and_the_gate_say_the_same_sentences_and_nothing_against_them(run, request):
    found = request.getfixturevalue(run)
    root = found.root / "run" if run == "everything" else found
    report = read_report(root)
    said = texts(report, *(["html"] if run == "single" else []))
    assert contradictions(report, said) == []
    decision, exposed, now = json.loads(text_of(report, "json"))["sentences"].values()
    for form, text in said.items():
        assert decision.split(". ")[0] in text and exposed in text and now in text, form
    gate = call("check", root)
    assert f"\nWho is exposed: {exposed}\nWhat now: {now}\n" in gate.out
    assert json.loads(call("check", root, "--json").out)["sentences"] == {"exposed": exposed, "what_now": now}


@pytest.fixture
def edited(finished, tmp_path):
    """``edited(change)`` is the report of a copy of a run whose tables ``change(frames)`` changed, and its texts."""

    def make(change) -> tuple[Report, dict[str, str]]:
        root = Path(shutil.copytree(finished, tmp_path / "run"))
        frames = {name: pd.read_parquet(root / f"{name}.parquet") for name in ("measurements", "onsets", "verdicts")}
        change(SimpleNamespace(**frames))
        for name, frame in frames.items():
            frame.to_parquet(root / f"{name}.parquet")
        report = read_report(root)
        return report, texts(report)

    return make


def test_a_least_value_at_an_underfit_step_is_no_contradiction_to_the_set_that_leaves_it_out(edited):
    def change(tables):
        tables.verdicts.loc[tables.verdicts.step == 90, ["verdict", "quality"]] = "underfit"
        m, o = tables.measurements, tables.onsets
        rows = (m.metric == "twin_distance_ratio") & (m.space == "correlation") & (m.twin == "both")
        m.loc[rows, "value"] = m.step[rows].map({90: 0.1, 200: 0.2, 1000: 0.3})
        columns = ["status", "step", "low", "high", "steps"]
        o.loc[(o.onset == "divergence") & (o.space == "correlation"), columns] = ["edge", 200, 200, 200, "200"]

    report, said = edited(change)
    assert contradictions(report, said) == []
    for text in (said["terminal"], said["markdown"], divergence_words(report), str(onset_table(report))):
        assert "step 200 of those not underfit" in text


def test_a_marked_lean_stands_beside_a_wording_that_allows_it(edited):
    def change(tables):
        m, o = tables.measurements, tables.onsets
        m.loc[m.metric == "own_share", "p_corrected"] = 0.001
        o.loc[o.onset == "bias", ["status", "step", "low", "high"]] = ["none", -1, -1, -1]

    report, said = edited(change)
    assert contradictions(report, said) == []
    text = said["terminal"]
    assert "!" in text and "samples lean too much pixel nowhere" in text
    assert "a smooth model's lean may be, too" in text


def test_copies_in_a_space_that_the_table_does_not_show_are_told_below_it(edited):
    def change(tables):
        m, v = tables.measurements, tables.verdicts
        m.loc[m.metric == "memorized_fraction", "value"] = 0.0
        rows = (m.metric == "memorized_fraction") & (m.space == "correlation") & (m.step == 1000)
        m.loc[rows, "value"] = 0.25
        v.loc[v.step == 1000, "verdict"] = "memorizing"

    said = edited(change)[1]["terminal"]
    assert "Most are found in correlation: 25.0% at step 1,000." in said
    assert "Step 1,000 copies by another rule or in another space: see its reasons." in said


# ---------------------------------------------------------------------------
# Decisions, onsets and advice of many worlds
# ---------------------------------------------------------------------------

SMALL = Lean(0.51, v_seed=2.5e-5, v_hub=0.0, n_seeds=2000, p_corrected=0.4, reference=0.505)
RARE = Copying(hits=0, n=4000, control_hits=0, control_n=1000, p_corrected=1.0, sources=0, pairs=4000)
SAFE = StepFacts(
    0,
    lean={"pixel": SMALL},
    loss=LossLean(0.005, low=0.0, high=0.01, p_corrected=0.3, reference=0.004),
    copying={"pixel": RARE},
    loss_rise=0.0,
    membership=Membership(True),
)
WORLDS = (
    {},
    {"underfit": ("Underfit: it is.",)},
    {"loss_rise": 0.3},
    {"lean": {"pixel": replace(SMALL, value=0.6, p_corrected=0.001)}},
    {"lean": {"pixel": replace(SMALL, value=0.56, v_seed=0.0004, p_corrected=0.001)}},  # marked, and not decided
    {"lean": {"pixel": replace(SMALL, value=0.525, p_corrected=0.001)}},  # marked, and accepted
    {"tails": {"pixel": Tail(0.95, 0.85, 0.001, 0.55, 40, 30)}},
    {"leaning_classes": ("Leans: class 3.",)},
    {"copying": {"pixel": replace(RARE, hits=80, own_only=80, p_corrected=0.001, revealed=("a/1",) * 30)}},
    {"copying": {"pixel": replace(RARE, own_only=16, revealed=("a/1", "b/2"))}},
    {"named": {"pixel": Named((("a", "1"),))}},
    {"membership": Membership(False, exposed=("Membership: known.",), listed=3)},
    {"membership": Membership(False, missing=("Membership is undecided.",))},
)
CONTEXTS = tuple(
    Context(divergence=(200,), loss=(600,), n_seeds=n, release=release, distrust=distrust)
    for n, release, distrust in product((2000, 0), ("weights", "samples"), ((), ("A control failed.",)))
)


def test_verdicts_onsets_decision_and_advice_fit_together_in_every_world():
    """Of 400 series of three checkpoints, each of any world, released as weights or samples."""
    draw, unknown = Random(0), Onset("undecided", -1, ())
    for _ in range(400):
        context = draw.choice(CONTEXTS)
        series = [replace(SAFE, step=step, **draw.choice(WORLDS)) for step in (500, 800, 900)]
        if not context.n_seeds:
            series = [replace(f, lean={}, copying={}, tails={}, named={}, leaning_classes=()) for f in series]
        decisions = [judge(each, context, BUDGETS) for each in series]
        chosen = recommend(series, context, BUDGETS)
        said = advice(chosen, decisions, series, context, BUDGETS)
        rows = {r["onset"]: r for r in onset_rows({}, unknown, unknown, series, BUDGETS)}
        at = {d.step: d for d in decisions}
        judged = [d for d in decisions if d.quality != "underfit"]
        if chosen.status == "found":
            assert (at[chosen.step].verdict, at[chosen.step].risk) == ("generalizing", "shown small")
            assert chosen.sentence.endswith(NOT_LOOKED_FOR) and said["what_now"].startswith("Release what")
            assert (
                f"At step {chosen.step}" in said["exposed"] and "give away" not in said["exposed"]
            ) or context.release
        else:
            assert chosen.step == -1 and "Release what" not in said["what_now"]
        for risk, reason in (("bias", "Leans: "), ("copying", "Copies: ")):
            if rows.get(risk, {}).get("status") == "none":
                assert not any(each.startswith(reason) for d in judged for each in d.reasons)
        about = at[int(re.findall(r"At step ([0-9]+)", said["exposed"])[0])] if "At step" in said["exposed"] else None
        if about is not None and "nobody's image is reproduced" in said["exposed"]:
            assert about.risk != "memorizing"
        assert "budget" not in said["what_now"] and said["what_now"] and "see its reasons" not in said["what_now"]


def test_a_group_of_spaces_is_told_as_one_from_the_first_doubt_to_the_first_finding():
    rows = pd.DataFrame(
        [
            ("bias", "window-center", "edge", 100, 100, 400, "100,200,400"),
            ("bias", "window-frame", "found", 300, 200, 300, "200,300"),
            ("bias", "pixel", "none", -1, -1, -1, ""),
            ("copying", "window-frame", "none", -1, -1, -1, ""),
            ("copying", "window-center", "undecided", -1, 300, -1, "300,400"),
        ],
        columns=["onset", "space", "status", "step", "low", "high", "steps"],
    )
    told = Report(Path(), {}, {"onsets": rows}, ()).told_onsets.set_index(["onset", "space"])
    assert told.loc["bias", "windows"][["status", "low", "high"]].tolist() == ["edge", 100, 300]
    assert told.loc["copying", "windows"][["status", "low", "high"]].tolist() == ["undecided", 300, -1]
    assert told.loc["bias", "pixel"].status == "none" and len(told) == 3
