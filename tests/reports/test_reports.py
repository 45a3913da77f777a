"""Reports: everything is said, nothing is wider than the screen, nothing undefined becomes a number."""

from __future__ import annotations

import io
import json
import math
import re

import pandas as pd
import pytest
from rich.cells import cell_len

from auditor import registry
from auditor.reports import percent, read_report
from auditor.reports.formats.terminal import sparkline
from auditor.run import columns, tables


def rendered(root, width=80, form="terminal") -> str:
    out = io.StringIO()
    registry.lookup("report", form)(read_report(root), out, width)
    return out.getvalue()


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def with_exclusions(saved_inputs, tmp_path_factory):
    """A complete run of two of the three steps."""
    from conftest import FAST, as_arguments, call

    out = tmp_path_factory.mktemp("excluded") / "run"
    outcome = call("run", *as_arguments({**saved_inputs.options, "out": str(out), **FAST, "steps": "90,1000"}))
    assert outcome.status == 0, outcome.err
    return out


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
@pytest.mark.parametrize("run", ["finished", "without_training", "with_exclusions"])
def test_no_line_is_wider_than_the_screen(run, width, request):
    lines = rendered(request.getfixturevalue(run), width).splitlines()
    assert max(cell_len(line) for line in lines) <= width


@pytest.mark.parametrize("width", [80, 160])
def test_every_audited_step_and_its_verdict_have_a_row(finished, width):
    text = rendered(finished, width)
    verdicts = pd.read_parquet(finished / "verdicts.parquet").set_index("step").verdict
    for step, verdict in verdicts.items():
        assert re.search(rf"^\s*{step:,}\b.*\b{verdict}\b", text, re.MULTILINE), (step, verdict)
    assert "…" not in text  # nothing was cut


def test_the_table_shows_the_numbers_of_the_measurements(finished):
    m = pd.read_parquet(finished / "measurements.parquet").set_index(["metric", "twin", "space", "step"])
    row = next(line for line in rendered(finished, 80).splitlines() if re.match(r"\s*90\b", line))
    assert f"{m.value['loss_heldout', 'both', '', 90]:.4f}" in row
    assert f"{m.value['twin_distance_ratio', 'both', 'correlation', 90]:.3f}" in row
    for space in ("pixel", "correlation"):
        assert f"{m.value['own_share', 'both', space, 90]:.2f}" in row


def test_intervals_are_shown_where_there_is_room(finished):
    m = pd.read_parquet(finished / "measurements.parquet").set_index(["metric", "twin", "space", "step"])
    low = m.low["loss_heldout", "both", "", 90]
    assert f"[{low:.4f}, " in rendered(finished, 160) and f"[{low:.4f}, " not in rendered(finished, 80)


def test_a_report_that_goes_to_no_terminal_has_no_color(finished, audit):
    assert "\x1b" not in audit("report", finished).out
    assert "\x1b" not in rendered(finished, 160)


def test_width_is_an_option(finished, audit):
    narrow, wide = (audit("report", finished, "--width", width).out for width in (60, 160))
    assert max(map(cell_len, narrow.splitlines())) <= 60 < max(map(cell_len, wide.splitlines()))


def test_excluded_steps_appear_with_their_reasons(with_exclusions):
    text = one_line(rendered(with_exclusions))
    assert "Not audited" in text and "not asked for (--steps)" in text
    assert "a/checkpoint-200" in text and "b/checkpoint-200" in text


def test_the_report_says_which_weights_sets_and_seeds_were_audited(finished):
    text = one_line(rendered(finished))
    assert "3 checkpoints (ema weights), 8x8x1, 12 seeds each" in text
    assert "heldout 30, train-a 40, train-b 40" in text


def test_the_conclusion_and_every_caveat_are_on_the_screen(finished):
    report, text = read_report(finished), one_line(rendered(finished))
    assert one_line(report.conclusion) in text
    for caveat in report.caveats:
        assert one_line(caveat) in text


def test_an_identity_that_does_not_hold_is_a_caveat(run_copy):
    def told():
        return [each for each in read_report(run_copy).caveats if each.startswith("A check of the program fails")]

    assert told() == []
    path = run_copy / "profiles.parquet"
    table = tables.read(path)
    of_identity = table.metric == "empirical_identity"
    assert of_identity.sum() == 12  # 3 steps, 2 twins, 2 noise levels
    table.loc[of_identity, ["value", "low", "high"]] += 1.0
    tables.write(path, columns.PROFILES, table.to_dict("records"))
    assert "in 12 of 12 cells" in told()[0]


def test_without_training_images_the_report_says_what_is_missing_and_claims_nothing_about_them(without_training):
    text = one_line(rendered(without_training))
    assert "No checkpoint can be recommended: without training images their risks are not known." in text
    assert "Without --train-a and --train-b" in text and "Without --heldout" in text
    table = text.split("twin distance: in")[0]
    for claim in ("copies", "lean", "own share", "%"):
        assert claim not in table


def test_what_is_not_known_never_looks_like_a_number(without_training, finished):
    for run in (without_training, finished):
        for width in (80, 160):
            assert not re.search(r"\bnan\b", rendered(run, width), re.IGNORECASE)
    verdicts = pd.read_parquet(without_training / "verdicts.parquet")
    assert not verdicts.reasons.str.contains("nan").any() and not verdicts.recommended.any()


def test_json_holds_the_same_facts_as_the_terminal(finished, audit):
    outcome = audit("report", finished, "--json")
    facts = json.loads(outcome.out)
    assert isinstance(facts["schema"], int)
    assert one_line(facts["conclusion"]) in one_line(rendered(finished))
    assert facts["recommended_step"] == read_report(finished).recommended
    assert [row["step"] for row in facts["verdicts"]] == [90, 200, 1000]
    assert len(facts["measurements"]) == len(pd.read_parquet(finished / "measurements.parquet"))


def test_json_has_null_where_a_value_is_unknown(without_training):
    facts = json.loads(rendered(without_training, form="json"), parse_constant=lambda name: pytest.fail(name))
    shares = [row for row in facts["measurements"] if row["metric"] == "own_share"]
    assert shares and all(row["value"] is None and row["note"] for row in shares)


def test_every_measurement_without_a_value_or_an_interval_says_why(finished, without_training):
    for run in (finished, without_training):
        m = pd.read_parquet(run / "measurements.parquet")
        unknown = m.value.isna() | m.low.isna() | m.high.isna()
        assert (m.note[unknown] != "").all()
        known = m[~unknown]
        assert ((known.low <= known.value) & (known.value <= known.high)).all()


def test_a_run_that_was_not_finished_says_so_and_recommends_nothing(run_copy):
    record = json.loads((run_copy / "run.json").read_text()) | {"status": "started", "checks": {}}
    (run_copy / "run.json").write_text(json.dumps(record))
    text = one_line(rendered(run_copy))
    assert "not finished" in text


def test_small_curves_scale_from_the_least_to_the_largest_value():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([2.0, math.nan, 3.0]) == "▁ █"
    assert sparkline([5, 5]) == "▁▁"


def test_a_share_that_is_not_defined_is_a_dash():
    assert percent(math.nan) == "-" and percent(0.0) == "0.0%"
