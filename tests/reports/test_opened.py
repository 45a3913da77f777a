"""A run opened from Python, and the recipes of docs/python.md, which are run as they stand."""

from __future__ import annotations

import dataclasses
import io
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from repository import DOCS

import auditor
from auditor import AuditError
from auditor.reports import gate

PAGE = (DOCS / "python.md").read_text()
RECIPES = dict(re.findall(r"^## (\d\. .*?)\n.*?```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def run(finished):
    return auditor.open_run(finished)


@pytest.fixture
def beside(finished, tmp_path, monkeypatch):
    """A folder that holds the run as audits/first."""
    (tmp_path / "audits").mkdir()
    (tmp_path / "audits" / "first").symlink_to(finished)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_five_recipes():
    assert len(RECIPES) == PAGE.count("```python") == 5


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_runs(name, beside, capsys):
    exec(compile(RECIPES[name], name, "exec"), {})
    printed = capsys.readouterr().out
    made = {path.name for path in beside.iterdir()} - {"audits"}
    assert printed or made, "it shows something"
    for file in re.findall(r'"([\w-]+\.(?:png|pdf))"', RECIPES[name]):
        assert (beside / file).stat().st_size > 50


@pytest.mark.parametrize(
    "table", ["measurements", "verdicts", "onsets", "checkpoints", "metrics", "attacks", "exposure", "profiles"]
)
def test_frames_are_the_tables_with_the_meaning_of_their_columns(run, finished, table):
    frame = getattr(run, table)
    pd.testing.assert_frame_equal(frame, pd.read_parquet(finished / f"{table}.parquet"))
    assert frame.attrs and set(frame.columns) == set(frame.attrs)


def test_changing_a_frame_changes_nothing_else(run):
    frame = run.measurements
    frame["value"] = 0.0
    assert (run.measurements.value != 0).any()


@pytest.mark.parametrize("fixture", ["finished", "without_training"])
def test_the_conclusion_is_that_of_the_command_line(fixture, request):
    root = request.getfixturevalue(fixture)
    run = auditor.open_run(root)
    assert run.verdict == gate.check(root).outcome in ("pass", "fail", "undecided")
    assert run.recommended_step is None and run.conclusion == run.report.conclusion
    assert run.caveats and str(root) in repr(run)


def test_evidence_of_one_table_is_that_table(run, finished):
    found = run.evidence("correlation", "b", 200)
    table = pd.read_parquet(finished / "evidence" / "correlation" / "b" / "200.parquet")
    pd.testing.assert_frame_equal(found.drop(columns=["space", "twin", "step"]), table)
    assert list(found.columns[:4]) == ["space", "twin", "step", "seed"]
    assert found.attrs == table.attrs != {}


def test_one_training_and_three_trainings_are_opened_too(single, three_audited):
    assert set(auditor.open_run(single).evidence("pixel", step=90).twin) == {"a"}
    three = auditor.open_run(three_audited)
    assert set(three.measurements.twin) >= {"x", "x|y", "both"}
    with pytest.raises(AuditError, match="lie in its pairs"):
        three.evidence("pixel")
    assert len(auditor.open_run(three.path / "pairs" / "x+y").evidence("pixel", "a", 90)) == 12


def test_evidence_that_is_not_narrowed_holds_every_seed_of_every_table(run):
    found = run.evidence(columns=["own_distance_1", "own_id_1"])
    assert list(found) == ["space", "twin", "step", "seed", "own_id_1", "own_distance_1"]
    counts = found.groupby(["space", "twin", "step"]).seed.nunique()
    assert len(counts) == 2 * 2 * 3 and (counts == 12).all()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"space": "clip"}, "Choose from: pixel, correlation."),
        ({"twin": "both"}, "Choose from: a, b."),
        ({"step": 91}, "Choose from: 90, 200, 1000."),
        ({"columns": ["own_distance"]}, "seed, own_id_1"),
    ],
)
def test_evidence_that_does_not_exist_is_an_error_that_names_what_does(run, asked, said):
    with pytest.raises(AuditError) as error:
        run.evidence(**asked)
    assert said in error.value.remedy


def test_a_figure_is_drawn_by_name(run):
    figure = run.plot()
    assert len(figure.axes) >= 2 and run.figures[0] == "divergence-and-loss"
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=40)
    assert np.asarray(Image.open(out).convert("L")).std() > 1
    with pytest.raises(AuditError, match="There is no figure 'nothing'"):
        run.plot("nothing")


@pytest.mark.parametrize("fixture", ["finished", "without_training"])
def test_a_notebook_shows_the_conclusion_the_table_and_a_figure(fixture, request):
    run = auditor.open_run(request.getfixturevalue(fixture))
    page = run._repr_html_()
    assert run.conclusion in page.replace("&#x27;", "'").replace("&quot;", '"')
    assert page.count("<tr>") == 1 + len(run.report.steps) and "data:image/png;base64," in page
    assert not re.search(r">nan<", page)


def test_a_notebook_shows_hostile_names_as_text(finished):
    report = auditor.read_report(finished)
    verdicts = report.tables["verdicts"].assign(verdict="<script>alert(1)</script>")
    changed = dataclasses.replace(report, tables={**report.tables, "verdicts": verdicts})
    page = auditor.OpenedRun(changed)._repr_html_()
    assert "<script" not in page and "&lt;script&gt;" in page


def test_a_run_is_opened_without_torch_and_scipy(finished):
    code = (
        f"import auditor, sys; run = auditor.open_run({str(finished)!r}); run.measurements, run.verdict, "
        "run.evidence('pixel', 'a', 90), run._repr_html_(); "
        "print([name for name in ('torch', 'scipy', 'diffusers', 'faiss') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


def test_what_is_no_run_is_one_error(tmp_path):
    with pytest.raises(AuditError, match="There is no audit here"):
        auditor.open_run(tmp_path)
