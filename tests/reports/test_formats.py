"""Markdown, CSV and JSON: the numbers of the run, names as text, the same bytes each time."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import io
import json
import re
import sys
from pathlib import Path

import jsonschema
import pandas as pd
import pytest
import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results
from markdown_it import MarkdownIt
from repository import DOCS

from auditor import registry
from auditor.cli import report
from auditor.reports import Report, formats, printable, read_report, text_of, write_reports
from auditor.reports.charts.onsets import ONSETS
from auditor.reports.formats import FolderFormat, TextFormat, markdown

RUNS = ("finished", "without_training", "single", "three_audited")
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a|b `c` ``d *e* _f_ ~~g~~ [h](javascript:alert(1)) [i]: http://x",
    '=HYPERLINK("http://x")',
    "+1-2@SUM(A1)",
    "line\nbreak\r\n\tand \x1b[31mcolor\x07",
    "https://example.org www.example.org @someone #12 :smile:",
    "图片 фото عربي \u202eevil é 🖼",
    "x" * 3000,
    "1. item",
    "- item",
    "$a$ &amp; &lt;b&gt; \\ \\|",
    "",
)


@pytest.fixture(scope="module")
def schema():
    return json.loads((DOCS / "report.schema.json").read_text())


def hostile_report(root) -> Report:
    """The report of a run whose checkpoints, reasons, notes and images are called hostile names."""
    report = read_report(root)
    row = report.tables["checkpoints"].iloc[0]
    excluded = [
        row.to_dict() | {"step": 10_000 + i, "path": name, "reason": name, "audited": False}
        for i, name in enumerate(HOSTILE)
    ]
    verdicts = report.tables["verdicts"].assign(reasons=list(HOSTILE[: len(report.steps)]), verdict=HOSTILE[3])
    changed = {"checkpoints": pd.DataFrame(excluded), "verdicts": verdicts}
    return dataclasses.replace(report, tables={**report.tables, **changed}, caveats=HOSTILE)


def written(report, form) -> str:
    return text_of(report, form).decode()


def parsed(text):
    """Return the block and inline tokens of Markdown as GitHub reads it: with HTML, tables and links."""
    reader = MarkdownIt("gfm-like", {"html": True, "linkify": False})
    blocks = reader.parse(text)
    return [token for block in blocks for token in (block, *(block.children or ()))]


def words(tokens) -> str:
    return " ".join(token.content for token in tokens if token.type in ("text", "code_inline", "text_special"))


# All formats


@pytest.mark.parametrize("kind", ["report", "folder report"])
def test_every_format_is_called_as_its_protocol_says(kind):
    protocol = TextFormat if kind == "report" else FolderFormat
    wanted = list(inspect.signature(protocol.__call__).parameters.values())[1:]
    for name in registry.TABLES[kind]:
        found = inspect.signature(registry.lookup(kind, name)).parameters
        assert [(p.name, p.default) for p in found.values()] == [(p.name, p.default) for p in wanted], name


def test_every_file_of_formats_is_in_the_registry_and_the_other_way_round():
    named = {value.split(":")[0].split(".")[-1] for value in (registry.REPORTS | registry.FOLDER_REPORTS).values()}
    folder = Path(formats.__file__).parent
    assert named == {path.stem for path in folder.glob("*.py")} - {"__init__"}


def test_a_format_that_is_added_to_the_registry_gets_its_option(monkeypatch):
    monkeypatch.setitem(registry.REPORTS, "one-line", "auditor.reports.formats.csv:render")
    asked = []

    def command(run: Path, targets: dict[str, Path]) -> None:
        asked.append(targets)

    with_option = report.with_formats(command)
    assert "one_line" in inspect.signature(with_option).parameters
    every = dict.fromkeys(inspect.signature(with_option).parameters)
    with_option(**every | {"run": Path("run"), "one_line": Path("-")})
    assert asked == [{"one-line": Path("-")}]


@pytest.mark.parametrize("form", [name for name in registry.REPORTS if name not in ("terminal", "html")])
@pytest.mark.parametrize("run", RUNS)
def test_the_same_run_gives_the_same_bytes(run, form, request):
    root = request.getfixturevalue(run)
    first = text_of(read_report(root), form)
    assert first == text_of(read_report(root), form) and b"\r" not in first and first.endswith(b"\n")


@pytest.mark.parametrize("form", ["markdown", "pull-request", "csv"])
def test_nothing_undefined_looks_like_a_number(without_training, form):
    assert not re.search(r"\bnan\b", written(read_report(without_training), form), re.IGNORECASE)


def test_several_formats_are_written_by_one_command(finished, audit, tmp_path):
    files = {name: tmp_path / name for name in ("markdown", "json", "csv", "pull-request")}
    outcome = audit("report", finished, *(part for name, path in files.items() for part in (f"--{name}", path)))
    assert outcome.out == "" and all(str(path) in outcome.err for path in files.values())
    for name, path in files.items():
        assert path.read_bytes() == text_of(read_report(finished), name)


def test_a_text_goes_to_stdout_where_its_file_is_a_dash(finished, audit):
    report = read_report(finished)
    assert audit("report", finished, "--csv", "-").out == written(report, "csv")
    both = audit("report", finished, "--markdown", "-", "--json").out
    assert both == written(report, "markdown") + written(report, "json")


def test_if_one_file_cannot_be_written_the_error_names_it(finished, audit, tmp_path):
    (tmp_path / "file").touch()
    outcome = audit("report", finished, "--markdown", tmp_path / "file" / "r.md")
    assert outcome.status == 1 and "Cannot write here" in outcome.err and "r.md" in outcome.err


def test_nothing_is_written_if_one_format_fails(finished, tmp_path, monkeypatch):
    report = dataclasses.replace(read_report(finished), caveats=(1,))  # no format can write this
    with pytest.raises(TypeError):
        write_reports(report, {"csv": tmp_path / "a.csv", "markdown": tmp_path / "b.md"})
    assert list(tmp_path.iterdir()) == []


# Markdown


def test_the_metadata_is_what_the_hub_reads(finished):
    text = written(read_report(finished), "markdown")
    block = yaml.safe_load(text.split("---\n")[1])
    name, results = model_index_to_eval_results(block["model-index"])
    assert name == "audited diffusion model"
    assert {each.task_type for each in results} == {"unconditional-image-generation"}
    m = pd.read_parquet(finished / "measurements.parquet").set_index(["metric", "twin", "space", "step"])
    values = [each for each in results if each.metric_type != "audit_verdict"]
    assert {each.metric_type for each in values} >= {"own_share", "twin_distance_ratio", "loss_heldout"}
    for each in values:
        row = m.loc[each.metric_type, each.metric_args["twin"], each.metric_args.get("space", ""), 1000]
        assert (each.metric_value, each.metric_args["low"]) == (row.value, row.low)


def test_the_metadata_of_a_run_without_numbers_still_has_the_verdict(without_training):
    block = yaml.safe_load(written(read_report(without_training), "markdown").split("---\n")[1])
    _, results = model_index_to_eval_results(block["model-index"])
    assert results[0].metric_type == "audit_verdict" and results[0].metric_args["recommended"] is False


def test_the_metadata_of_three_trainings_names_each(three_audited):
    block = yaml.safe_load(written(read_report(three_audited), "markdown").split("---\n")[1])
    _, results = model_index_to_eval_results(block["model-index"])
    assert {each.metric_args["twin"] for each in results if each.metric_type == "memorized_fraction"} == {*"xyz"}


def test_a_recommended_step_is_the_one_of_the_metadata(finished):
    report = read_report(finished)
    verdicts = report.tables["verdicts"].assign(recommended=[False, True, False])
    chosen = dataclasses.replace(report, tables={**report.tables, "verdicts": verdicts})
    block = yaml.safe_load(markdown.metadata(chosen))
    assert {m["args"]["step"] for r in block["model-index"][0]["results"] for m in r["metrics"]} == {200}


def test_a_pull_request_gets_the_same_text_without_metadata(finished):
    report = read_report(finished)
    card, body = written(report, "markdown"), written(report, "pull-request")
    assert card.endswith(body) and body.startswith("# Audit of 3 checkpoints")
    assert card == f"---\n{markdown.metadata(report)}---\n\n{body}"


def test_the_page_has_the_conclusion_every_step_and_every_caveat(finished):
    report = read_report(finished)
    tokens = parsed(written(report, "pull-request"))
    shown = " ".join(words(tokens).split())
    assert report.conclusion in shown
    assert all(caveat in shown for caveat in report.caveats)
    assert [t.content for t in tokens if t.type == "text"].count("twin distance") >= 1
    rows = sum(token.type == "tr_open" for token in tokens)
    assert rows >= len(report.steps) + report.tables["onsets"].onset.isin(ONSETS).sum()  # by scale: a figure


def test_hostile_names_are_text_in_markdown(finished):
    text = written(hostile_report(finished), "pull-request")
    tokens = parsed(text)
    kinds = {token.type for token in tokens}
    assert not kinds & {
        "html_inline",
        "html_block",
        "link_open",
        "image",
        "em_open",
        "s_open",
        "fence",
        "ordered_list_open",
    }
    shown = words(tokens).split()
    for name in HOSTILE:
        for word in printable(name).split():
            assert word in " ".join(shown) or set(word) <= set("|")
    assert "\x1b" not in text and "\u202e" not in text


def test_a_bar_in_a_cell_does_not_end_it():
    table = "\n".join(markdown.grid(["a|b", "c"], [["`|`", "\\|"]]))
    assert [t.content for t in parsed(table) if t.type == "inline"] == ["a|b", "c", "\\`|\\`", "\\\\|"]
    assert sum(t.type == "td_open" for t in parsed(table)) == 2


# CSV


def table_of(report) -> list[list[str]]:
    return list(csv.reader(io.StringIO(written(report, "csv"))))


@pytest.mark.parametrize("run", RUNS)
def test_the_wide_table_holds_every_measurement(run, request):
    root = request.getfixturevalue(run)
    wide = pd.read_csv(io.BytesIO(text_of(read_report(root), "csv")), index_col="step")
    m = pd.read_parquet(root / "measurements.parquet")
    for row in m.itertuples():
        name = ".".join(filter(None, (row.metric, row.twin, row.space)))
        for column, value in ((name, row.value), (f"{name}.low", row.low), (f"{name}.high", row.high)):
            found = wide[column][row.step]
            assert found == value or (pd.isna(found) and pd.isna(value))
    assert wide.shape == (3, 2 + 3 * (len(m) // 3))


def test_steps_are_rows_with_their_verdicts(finished):
    head, *rows = table_of(read_report(finished))
    assert head[:3] == ["step", "verdict", "recommended"] and [row[0] for row in rows] == ["90", "200", "1000"]
    verdicts = pd.read_parquet(finished / "verdicts.parquet").verdict
    assert [row[1] for row in rows] == list(verdicts)


def test_no_cell_of_the_sheet_is_a_formula(finished):
    report = hostile_report(finished)
    m = report.tables["measurements"]
    report.tables["measurements"]["metric"] = m.metric.where(m.metric != "kid", "=1+1")
    cells = [cell for row in table_of(report) for cell in row]
    numbers = [cell for cell in cells if re.fullmatch(r"-?[\d.]+(e[-+]\d+)?", cell)]
    assert any(cell.startswith("'=1+1") for cell in cells) and f"'{HOSTILE[3]}" in cells
    assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in set(cells) - set(numbers))


# JSON


@pytest.mark.parametrize("run", RUNS)
def test_json_follows_its_schema(run, request, schema):
    facts = json.loads(written(read_report(request.getfixturevalue(run)), "json"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(facts, schema)


def test_json_of_a_run_that_is_not_finished_follows_the_schema(run_copy, schema):
    record = json.loads((run_copy / "run.json").read_text()) | {"status": "started", "checks": {}}
    (run_copy / "run.json").write_text(json.dumps(record))
    jsonschema.validate(json.loads(written(read_report(run_copy), "json")), schema)


@pytest.mark.parametrize("change", [{"schema": 2}, {"weights": "mine"}, {"verdicts": [{"step": "90"}]}, {"extra": 1}])
def test_the_schema_refuses_what_the_report_is_not(finished, schema, change):
    facts = json.loads(written(read_report(finished), "json")) | change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(facts, schema)


def test_the_schema_is_made_from_the_tables():
    """Remade by ``python docs/generate.py``."""
    sys.path.insert(0, str(DOCS))
    try:
        import generate
    finally:
        sys.path.remove(str(DOCS))
    assert (DOCS / "report.schema.json").read_text() == generate.schema()


def test_a_run_of_before_has_no_rows_of_what_it_does_not_hold(run_copy, schema):
    for name in ("metrics", "attacks", "exposure", "profiles"):
        (run_copy / f"{name}.parquet").unlink()
    facts = json.loads(written(read_report(run_copy), "json"))
    jsonschema.validate(facts, schema)
    assert facts["metrics"] == facts["attacks"] == facts["exposed"] == []


def test_hostile_names_come_back_from_json_as_they_were(finished):
    facts = json.loads(written(hostile_report(finished), "json"))
    assert [row["path"] for row in facts["checkpoints"]] == list(HOSTILE)
    assert facts["caveats"] == list(HOSTILE)


def test_json_may_stand_alone_or_name_a_file(finished, audit, tmp_path):
    expected = written(read_report(finished), "json")
    for arguments in (
        ("report", finished, "--json"),
        ("report", "--json", finished),
        ("report", finished, "--json", "-"),
        ("report", finished, "--json", "--width", "80"),
    ):
        assert audit(*arguments).out == expected, arguments
    assert audit("report", finished, "--json", tmp_path / "r.json").out == ""
    assert (tmp_path / "r.json").read_text() == expected
