"""What a report says of the networks themselves: losses by noise level, attacks, exposed images; and why not."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
from edits import edit_json
from page import Page
from repository import SAMPLE_RUN

from auditor.reports import members, read_report, text_of
from auditor.reports.album import LEFT_OUT
from auditor.reports.caveats import withheld_attacks
from auditor.reports.charts import networks
from auditor.reports.drawing import heats
from auditor.reports.formats import html

SETS_COMPARED = ["images of half a", "images of half b", "held-out images"]


@pytest.fixture(scope="module")
def report():
    """The demo's report."""
    return read_report(SAMPLE_RUN)


def section(report) -> str:
    """Return the page's section as a browser gets it."""
    return html.page(report).split('<section id="networks"')[1].split("</section>")[0]


def with_table(report, name, change):
    """Return the report with a changed table."""
    return replace(report, tables={**report.tables, name: change(report.tables[name].copy())})


@pytest.fixture(scope="module")
def exposed(report):
    """The demo's report as if 20 images of either half were listed at the last step, those of the largest ratio.

    The demo lists none there: its networks know every image by heart, and none beyond what is usual in its half.
    """

    def last(table):
        rank = table.groupby(["step", "half"]).ratio.rank(ascending=False)
        return table.assign(listed=(table.step == 18000) & (rank <= 20))

    return with_table(report, "exposure", last)


def test_losses_are_shown_of_every_training_at_the_steps_that_matter(report):
    chart = networks.charts(report)[0]
    assert [panel.title for panel in chart.panels] == [f"step {s}, twin {t}" for t in "ab" for s in ("4,500", "18,000")]
    table = report.tables["profiles"].set_index(["step", "twin", "metric"]).loc[18000, "b", "loss_own"]
    own = chart.panels[-1].curves[0]
    assert own.name == "own images" and own.y.tolist() == table.value.tolist()
    resolved = report.record["resolved"]
    assert own.x.tolist() == resolved.get("loss_log_snr", resolved["loss_times"])
    assert "Step 18,000 (last), twin b, at t = 63: 0.127 on own images" in chart.words


def test_predictions_are_compared_on_either_half_and_on_heldout_images_at_several_noises(report):
    chart = next(each for each in networks.charts(report) if each.key == "agreement-by-noise")
    assert [panel.title for panel in chart.panels] == ["t = 63", "t = 313", "t = 687", "t = 937"]
    assert all([each.name for each in panel.curves] == SETS_COMPARED for panel in chart.panels)
    table = report.tables["profiles"]
    table = table[(table.metric == "agreement_heldout") & (table.t == 63)].sort_values("step")
    assert chart.panels[0].curves[2].y.tolist() == table.value.tolist()
    assert f"most alike at step {table.set_index('step').value.idxmax():,}" in chart.words


def test_shares_of_the_memorizer_stand_between_the_twin_and_the_memorizer_by_region(report):
    chart = next(each for each in networks.charts(report) if each.key == "memorizer-share-by-region")
    (panel,) = chart.panels
    assert [(level.name, level.y) for level in panel.levels] == [("the twin", 0.0), ("the memorizer", 1.0)]
    own = panel.curves[0]
    assert own.name == "own images" and own.y[-1] > own.y[0]


def test_the_page_has_every_chart_of_what_the_networks_tell(report):
    said = section(report)
    assert all(f'id="figure-{chart.key}"' in said for chart in networks.charts(report))


def test_a_significant_cell_of_the_map_is_marked_in_more_than_color(report):
    lean = networks.heats(report)[0]
    table = report.tables["profiles"]
    p = table[table.metric == "loss_lean"].pivot(index="step", columns="t", values="p_corrected")
    assert (lean.marked == (p < 0.05).to_numpy()).all() and 0 < lean.marked.sum() < lean.marked.size
    found = section(report).split("loss-lean-by-noise")[1].split("</table>")[0]
    assert found.count('class="marked"') == found.count(">!</b>") == lean.marked.sum()
    drawn = [each.get_text() for each in heats.draw(lean).axes[0].texts]
    assert sum(each.endswith("!") for each in drawn) == lean.marked.sum()


def test_every_cell_of_a_map_can_be_read(report):
    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    lean = networks.heats(report)[0]
    for value in (-2 * lean.limit, -lean.limit / 2, 0.0, lean.limit, float("nan")):
        assert (luminance(lean.color(value)) + 0.05) / (luminance("#1a1a1a") + 0.05) >= 4.5


def test_an_attack_stands_with_its_intervals_or_with_the_reason_why_it_is_withheld(report):
    strict, loose = members.rates(report)
    assert strict.name == "1%" and not strict.rows and strict.reason.startswith("it takes 400 held-out images")
    assert loose.name == "10%" and len(loose.rows) == 20
    last = loose.rows[-2]
    assert (last.step, last.twin, last.hits.value, last.hits.interval) == (18000, "a", "99.2%", "95.7% to 100.0%")
    assert (last.false_alarms.value, last.false_alarms.interval, last.p) == ("11.7%", "6.7% to 18.6%", "< .001")
    said = Page(section(report)).text
    assert "Withheld at every step: it takes 400 held-out images" in said and "twin ratio at t=63" in said


def test_the_most_exposed_images_are_named_first_and_counted_by_step_and_half(exposed):
    (last,) = members.exposures(exposed)
    table = exposed.tables["exposure"]
    listed = table[(table.step == 18000) & table.listed]
    assert (last.listed, last.images, len(last.rows)) == (len(listed), 256, members.LISTED)
    assert last.rows[0].id in set(listed.id)
    assert (18000, [("a", 20), ("b", 20)]) in members.counts(exposed)
    assert "Most exposed" in section(exposed)


def test_a_step_at_which_nobody_stands_out_is_counted_as_such(report):
    assert (18000, [("a", 0), ("b", 0)]) in members.counts(report)
    listed = report.tables["exposure"].groupby("step").listed.sum()
    assert listed[14000] == 12 and listed[18000] == 0


def test_pictures_of_exposed_images_are_shown_or_left_out_as_asked(exposed):
    as_they_are, none = (
        members.exposures(replace(exposed, pictures=state))[0].pictures for state in (exposed.pictures, LEFT_OUT)
    )
    assert len(as_they_are) == members.PICTURED and none == ()
    assert "<img" not in section(replace(exposed, pictures=LEFT_OUT)).split('id="exposed"')[1]


def test_the_name_of_an_exposed_image_is_text(exposed):
    hostile = with_table(exposed, "exposure", lambda table: table.assign(id="<script>alert(1)</script>\u202e"))
    found = section(hostile)
    assert "<script" not in found and "\u202e" not in found and "&lt;script&gt;" in found


def test_a_rate_that_is_withheld_at_some_steps_only_says_so_there(report):
    def unknown(table):
        table.loc[(table.step == 120) & (table.target_fpr == 0.1), ["tpr", "note"]] = float("nan"), "withheld: too few"
        return table

    rows = members.rates(with_table(report, "attacks", unknown))[1].rows
    assert [row.reason for row in rows[:3]] == ["withheld: too few", "withheld: too few", ""]


@pytest.mark.parametrize("form", ["markdown", "pull-request"])
def test_markdown_tells_hits_and_exposed_images_of_every_checkpoint(report, form):
    said = text_of(report, form).decode().split("## What the networks tell")[1]
    assert "| 18,000 | exposed | 99.2% [95.7%, 100.0%] at 11.7% | 100.0% [97.2%, 100.0%] at 12.5% | 0 | 0 |" in said
    assert "Attacks at 1% false positives are withheld: it takes 400 held-out images" in said


def test_a_run_without_the_tables_says_so_and_shows_the_rest(run_copy):
    for name in ("profiles", "attacks", "exposure"):
        (run_copy / f"{name}.parquet").unlink()
    older = read_report(run_copy)
    said = Page(section(older)).text
    assert "This run holds no losses by noise level (profiles.parquet)" in said and "Most exposed" not in said
    assert networks.charts(older) == [] and "What the networks tell" not in text_of(older, "markdown").decode()


def test_what_a_run_cannot_know_of_its_networks_has_its_reason(without_training, single, three_audited, run_copy):
    assert "Neither training nor held-out images were given" in section(read_report(without_training))
    alone = Page(section(read_report(single))).text
    assert "A single training was audited: how exposed an image is takes a twin" in alone
    assert "on held-out images" in alone and "Where do the losses lean" in alone
    assert "The page of each pair shows what its networks tell." in section(read_report(three_audited))
    record = json.loads((run_copy / "run.json").read_text())
    edit_json(run_copy / "run.json", resolved={**record["resolved"], "weights": ""})
    (run_copy / "profiles.parquet").unlink()
    assert "Samples were given, and no networks that could be asked." in section(read_report(run_copy))


# By scores fixed beforehand ------------------------------------------------------


def concluded(report, outcome, reason):
    """Return the report of a run as it is made now, whose last step came out so; of the demo's tables."""
    membership = [{"step": 18000, "outcome": outcome, "reasons": [reason], "headline": "At 10%, the headline."}]
    attacks = report.tables["attacks"]
    attacks = attacks[attacks.chosen == "best of many"]
    fixed = attacks[attacks.target_fpr == 0.1].assign(chosen="beforehand", attack="mean own loss", p_value=0.5)
    exposure = report.tables["exposure"].drop(columns="p_value", errors="ignore").assign(value=0.5, fdr=0.01)
    made = with_table(report, "attacks", lambda _: pd.concat([attacks, fixed]))
    made = with_table(made, "exposure", lambda _: exposure)
    checks = {**report.record["checks"], "membership": membership}
    return replace(made, record={**report.record, "checks": checks})


def test_the_page_says_what_is_concluded_and_labels_the_best_of_many(exposed):
    now = concluded(exposed, "exposed", "Membership: 12 training images <b>\u202e")
    found = section(now)
    said = Page(found).text
    assert "exposed" in said and "At 10%, the headline." in said and "mean own loss" in said
    assert "\u202e" not in found and "<b>\\u202e" not in found
    assert said.index("Scores fixed beforehand, at 10% false positives") < said.index("The best of many attacks")
    assert "wrong signs" in said and "FDR" in said and "0.010" in said
    assert len(members.rates(now)[1].rows) == len(members.rates(now, "beforehand")[0].rows) == 20


def test_markdown_says_what_is_concluded_at_every_step(report):
    said = text_of(concluded(report, "hidden", "Membership is shown hidden"), "markdown").decode()
    assert "| step | membership | hits at 10% false positives, a |" in said and "| 18,000 | hidden | 99.2%" in said
    assert "- Step 18,000: Membership is shown hidden At 10%, the headline." in said


def test_what_leaves_membership_undecided_at_every_step_is_a_caveat(report):
    def said(*outcomes, release=None):
        steps = [{"step": i, "outcome": x, "reasons": ["Few.", f"{i}"], "headline": ""} for i, x in enumerate(outcomes)]
        scope = {"steps": list(range(len(outcomes))), "release": release}
        return withheld_attacks({"checks": {"membership": steps}, "scope": scope})

    assert said("undecided", "undecided") == ["Few."] and said("undecided", "hidden") == []
    assert said("undecided", release="samples")[0].startswith("The weights themselves must not be released")
    assert said("hidden", release="samples") == []
