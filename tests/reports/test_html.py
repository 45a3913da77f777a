"""The page for a browser: everything is said without its script, nothing is loaded, no name is taken for markup."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from edits import edit_json
from page import Page

from auditor import pipeline, registry
from auditor.reports import gallery, read_report, sections
from auditor.reports.album import LEFT_OUT, png
from auditor.reports.charts import BLACK, COLORS, GRAY, curves, distances, divergence, edges, networks, ticks
from auditor.reports.drawing import interactive, plates, printed
from auditor.reports.formats import figures, html
from auditor.run import RunDirectory, columns, tables


@pytest.fixture(scope="module")
def text(finished) -> str:
    """The page of a complete run."""
    return html.page(read_report(finished))


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def sentences(text: str) -> str:
    return " ".join(text.split())


def test_the_page_says_the_conclusion_every_verdict_and_every_caveat(finished, page):
    report = read_report(finished)
    said = page.text.lower()
    for part in html.split_sentence(report.conclusion):
        assert sentences(part).lower() in said
    for row in report.tables["verdicts"].itertuples():
        assert f"Step {row.step:,}: {row.verdict} {sentences(row.reasons)}".lower() in said
    for caveat in report.caveats:
        assert sentences(caveat).lower() in said


def test_the_page_defines_every_metric_in_the_words_of_its_declaration(page):
    for name in registry.METRICS:
        metric = registry.lookup("metric", name)
        assert sentences(metric.question) in page.text and sentences(metric.reference) in page.text, name


def test_the_page_shows_the_numbers_of_the_measurements(finished, page):
    m = pd.read_parquet(finished / "measurements.parquet").set_index(["metric", "twin", "space", "step"])
    assert f"{m.value['loss_heldout', 'both', '', 90]:.4f}" in page.text
    assert f"{m.value['own_share', 'both', 'pixel', 90]:.1%}" in page.text


def test_the_page_holds_settings_versions_digests_and_the_command_that_makes_the_run(finished, page):
    record = json.loads((finished / "run.json").read_text())
    for each in [*record["versions"].values(), *(s["digest"] for s in record["sets"].values())]:
        assert each in page.text
    assert re.search(r"audit run --ckpts-a \S+ --ckpts-b \S+", page.text)
    assert "--n-samples 12" in page.text and "--seed" not in sections.command(record["given"])


def test_the_command_that_makes_the_run_is_quoted_for_a_shell():
    given = {"ckpts_a": "my runs/a; rm -rf x", "n_samples": 2000, "allow_overlap": True, "steps": None}
    assert sections.command(given) == "audit run --ckpts-a 'my runs/a; rm -rf x' --allow-overlap"


def test_nothing_is_loaded_from_anywhere(text, page):
    policy = next(each["content"] for each in page.of("meta") if "http-equiv" in each)
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy
    for _, attributes in page.elements:
        for name in ("src", "href"):
            if name in attributes:
                assert attributes[name].startswith(("data:", "#")), attributes
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style


def test_only_the_scripts_of_the_page_itself_are_allowed_to_run(text, page):
    policy = next(each["content"] for each in page.of("meta") if "http-equiv" in each)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 2 and all(interactive.digest(script) in policy for script in scripts)
    assert "'unsafe-inline'" not in policy.split("script-src")[1]


def test_every_figure_has_a_still_picture_and_words_with_numbers_for_readers_without_script(page):
    stills = [each for each in page.of("img") if each["src"].startswith("data:image/svg+xml")]
    assert len(stills) == len([each for each in page.of("figure") if each.get("class") == "chart"]) > 4
    for each in stills:
        assert re.search(r"\d", each["alt"]) and len(each["alt"]) > 60
        ElementTree.fromstring(base64.b64decode(each["src"].split(",")[1]))


def test_every_picture_has_a_text_alternative(page):
    assert all(each.get("alt") for each in page.of("img"))


def test_headings_come_in_order(page):
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_the_page_is_small(text):
    assert len(text) < 3 * 2**20


def test_evidence_is_shown_for_every_step_that_a_decision_turns_on(finished, page):
    report = read_report(finished)
    assert report.steps[-1] in report.key_steps
    for step, name in report.key_steps.items():
        assert f"Step {step:,}: {name}" in page.text
    assert len([each for each in page.of("img") if "png" in each["src"][:20]]) > 8 * 5


def test_the_page_warns_that_it_is_as_private_as_the_training_images(page):
    assert "This page contains training images." in page.text.split("The verdict on every checkpoint")[0]


def pictures(page: Page) -> set[str]:
    return {each["src"] for each in page.of("img") if each["src"].startswith("data:image/png")}


def test_large_pictures_are_reduced():
    pixels = np.zeros((300, 200, 3), np.uint8)
    assert len(gallery.data_uri(pixels, 72)) < len(base64.b64encode(png(pixels)))
    from io import BytesIO

    from PIL import Image

    assert Image.open(BytesIO(base64.b64decode(gallery.data_uri(pixels, 72).split(",")[1]))).size == (48, 72)


def test_hostile_names_are_text(hostile_page):
    text = hostile_page.read_text()
    page = Page(text)
    assert len(page.of("script")) == 3
    assert not [a for _, a in page.elements if "onerror" in a or "onclick" in a]
    assert not page.of("i") or all("onclick" not in each for each in page.of("i"))
    for name in (
        "<script>window.hacked=1<.png",
        '"><img src=x onerror=',
        "'quotes' & {{ 7*7 }} @{x}",
        "胸部X線 Καρδιά снимок",
    ):
        assert name in page.text, name
    assert "\u202e" not in text and r"\u202e" in page.text  # it would turn the direction of writing
    assert "x" * 60 not in page.text  # the middle of a very long name is left out
    assert "<i onclick=x>a" in page.text  # the folder, in the settings


def test_without_training_images_the_page_says_what_is_not_known(without_training):
    page = Page(html.page(read_report(without_training, LEFT_OUT)))
    front = page.text.split("The verdict on every checkpoint")[0]
    assert "No training images were given" in front and "No held-out images were given" in front
    assert "Pictures are left out" in front
    headings = re.findall(r"h-(\w+)", " ".join(each.get("id", "") for each in page.of("h2")))
    assert "conclusion" in headings and not {"leaning", "copies", "distances"} & set(headings)
    assert "sample of B, same noise" in page.text
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)


def test_an_unfinished_run_of_one_space_and_one_checkpoint_says_so_first(audit_args, audit, tmp_path):
    outcome = audit(*audit_args(spaces="pixel", steps="200"))
    assert outcome.status == 0, outcome.err
    edit_json(tmp_path / "run" / "run.json", status="started", checks={})
    page = Page(html.page(read_report(tmp_path / "run")))
    front = page.text.split("The verdict on every checkpoint")[0]
    assert "This audit is not finished" in front and "Controls not known" in front
    assert "Only one feature space was looked at (pixel)" in front
    assert "logarithmic" not in page.text


def test_a_single_training_is_reported_without_what_needs_a_twin(single):
    page = Page(html.page(read_report(single)))
    assert "held-out images stand in the place of another half" in page.text
    assert "twin distance" not in " ".join(each.get("alt", "").lower() for each in page.of("img"))
    assert "Share of samples that lie closer to a training image than to a held-out one" in page.text
    assert "nearest in own half (A)" in page.text and "nearest in other half" not in page.text
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)


def test_of_three_trainings_all_are_shown_and_the_evidence_is_said_to_lie_in_the_pairs(three_audited):
    page = Page(html.page(read_report(three_audited)))
    assert "pairs/x+y/report.html" in page.text and "copies, twin z" in page.text
    assert re.search(r"audit run --ckpts x=\S+ --ckpts y=\S+ --ckpts z=", page.text)


def test_nothing_undefined_looks_like_a_number(page):
    assert not re.search(r"\b(nan|inf|None)\b", page.text)


def test_a_page_that_cannot_be_written_is_one_error(finished, audit, tmp_path):
    (tmp_path / "file").touch()
    outcome = audit("report", finished, "--html", tmp_path / "file" / "r.html")
    assert outcome.status == 1 and outcome.err.startswith("error: ") and "Traceback" not in outcome.err


def test_a_run_that_is_not_to_be_trusted_says_so_first(run_copy):
    edit_json(
        run_copy / "run.json",
        checks={"distrust": ["Control failed: copies are not found."], "not_exchangeable": ["Site."]},
    )
    report = read_report(run_copy)
    assert "not to be trusted: a control failed. Control failed: copies" in sections.warnings(report)[0]
    assert "Site." in sections.warnings(report)
    assert {row[1] for row in sections.controls(report)[:2]} == {"failed"}


def test_excluded_checkpoints_are_listed_by_their_reason(run_copy):
    path = RunDirectory(run_copy).table("checkpoints")
    rows = tables.read(path).to_dict("records")
    for row in rows[:2]:
        row |= {"audited": False, "reason": "no weights"}
    tables.write(path, columns.CHECKPOINTS, rows)
    found = sections.excluded(read_report(run_copy))
    assert found == [("no weights", ["a/checkpoint-90/unet_ema (step 90)", "a/checkpoint-200/unet_ema (step 200)"])]


def test_a_run_without_definitions_points_to_the_documentation(run_copy):
    (run_copy / "metrics.parquet").unlink()
    cards = sections.cards(read_report(run_copy))
    assert cards and all("see docs/metrics.md" in card.question for card in cards)


def assert_without_pictures(other: Page, page: Page) -> None:
    """No picture is left, the page says so, and the numbers are the same."""
    assert not pictures(other) and pictures(page)
    assert "Pictures are left out" in other.text.split("The verdict on every checkpoint")[0]
    numbers = re.findall(r"nearest / next own [\d.]+", page.text)
    assert numbers and numbers == re.findall(r"nearest / next own [\d.]+", other.text)


def test_the_command_writes_page_and_figures_without_torch_and_scipy(finished, page, tmp_path):
    code = (
        "import sys; from auditor import cli\n"
        "try: cli.main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "print([name for name in ('torch', 'scipy', 'diffusers', 'faiss') if name in sys.modules])"
    )
    targets = ["--html", tmp_path / "r.html", "--figures", tmp_path / "f", "--no-pictures"]
    done = subprocess.run([sys.executable, "-c", code, "report", finished, *targets], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    written = (tmp_path / "r.html").read_text()
    hidden = html.page(read_report(finished, LEFT_OUT, with_names=False))
    assert written == hidden  # the same page in another process
    assert_without_pictures(Page(written), page)
    report = read_report(finished)
    drawn = [*figures.charts(report), *networks.heats(report)]
    names = sorted(path.name for path in (tmp_path / "f").iterdir())
    assert names == sorted(f"{chart.key}.{suffix}" for chart in drawn for suffix in ("png", "svg"))
    for suffix in ("png", "svg"):  # the same bytes in another process
        assert (tmp_path / "f" / f"{drawn[0].key}.{suffix}").read_bytes() == printed.picture(drawn[0], suffix)


def test_the_end_of_a_run_writes_the_page(run_copy, monkeypatch):
    monkeypatch.setattr(html, "page", lambda report: f"the page of {report.root}")
    pipeline.write_page(RunDirectory(run_copy))
    assert (run_copy / "report.html").read_text() == f"the page of {run_copy}"


# ---------------------------------------------------------------------------
# Charts
# ---------------------------------------------------------------------------


def test_pictures_are_figures_too_unless_they_are_left_out(finished, three_audited):
    found = plates.plates(read_report(finished))
    steps = read_report(finished).key_steps
    assert set(found) == {*(f"evidence-step-{step}" for step in steps), "seeds-through-training"}
    assert plates.plates(read_report(finished, LEFT_OUT)) == {} == plates.plates(read_report(three_audited))


def test_a_hostile_name_is_no_formula_in_a_figure(hostile):
    drawn = next(iter(plates.plates(read_report(hostile)).values()))
    assert printed.saved(drawn, "svg").startswith(b"<?xml")


def test_no_shaded_span_depends_on_the_opacity_of_its_hatch(finished):
    """In SVG such a hatch vanishes, in print it is black."""
    svg = printed.picture(curves.charts(read_report(finished))[0], "svg").decode()
    spans = re.findall(r"style=\"(fill: url\(#h[^\"]*)\"", svg)
    assert spans and not [style for style in spans if "opacity" in style]


def test_every_curve_differs_from_those_beside_it_in_more_than_color(finished):
    report = read_report(finished)
    for chart in figures.charts(report):
        for panel in chart.panels:
            looks = [(c.style.dash, c.style.marker, c.series) for c in panel.curves]
            assert len(set(looks)) == len(looks), (chart.key, panel.title, looks)


def test_the_biased_phase_is_shaded_only_where_it_is_claimed(run_copy):
    report = read_report(run_copy)
    onsets = report.tables["onsets"].copy()
    at = {"divergence": (90, 90), "loss": (1000, 1000)}
    for onset, (low, high) in at.items():
        onsets.loc[onsets.onset == onset, ["low", "high"]] = low, high
    for claimed in (True, False):
        checks = {**report.record["checks"], "phase": {"claimed": claimed}}
        shown = replace(report, record={**report.record, "checks": checks}, tables={**report.tables, "onsets": onsets})
        spans = {span.name: (span.low, span.high) for span in divergence.minima(shown)}
        assert spans.get("biased phase") == ((90, 1000) if claimed else None)


def test_every_color_stands_out_from_white_paper():
    """Contrast of 3 to 1, as WCAG asks of graphics."""

    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for color in (*COLORS, BLACK, GRAY):
        assert 1.05 / (luminance(color) + 0.05) >= 3, color


def test_ticks_are_audited_steps_with_both_ends_and_room_between():
    steps = [100 * 2**i for i in range(12)]
    found = ticks(steps, True, 5)
    assert found[0] == steps[0] and found[-1] == steps[-1] and set(found) <= set(steps) and len(found) <= 6
    assert ticks([7], False) == [7]


def test_a_set_of_steps_is_shaded_to_half_way_to_its_neighbors():
    assert edges([0, 10, 20, 40], 10, 20, False) == (5.0, 30.0)
    assert edges([1, 100, 10000], 100, 100, True) == pytest.approx((10.0, 1000.0))


def test_a_histogram_counts_every_distance_once(finished):
    report = read_report(finished)
    for chart in distances.charts(report, distances.Nearest(report)):
        for curve in chart.curves:
            assert curve.y.sum() == pytest.approx(1)


def test_a_series_that_begins_at_step_zero_has_no_logarithmic_axis(finished):
    chart = replace(curves.charts(read_report(finished))[0], steps=(0, 10, 200))
    assert not chart.is_logarithmic and not chart.has_logarithm
