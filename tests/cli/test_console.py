"""What reaches a terminal can be seen, what is only progress ends nothing, and a fault keeps its traceback."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from auditor import cli
from auditor.cli import console
from auditor.cli.console import Progress, Visible, visible
from auditor.errors import AuditError
from auditor.reports import gate


class Gone(io.StringIO):
    """A stream whose reader left."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize(
    "name", ["a\033]0;OWNED\007", "\x9b2J", "a\rb", "\u202egnp", "\u2066x\u2069", "\x7f", "\udcff"]
)
def test_no_name_reaches_a_terminal_as_a_command(name):
    out = io.StringIO()
    print(f"error: {name}", file=Visible(out, is_progress=False))
    assert out.getvalue().isprintable() or out.getvalue().rstrip("\n").isprintable()


@pytest.mark.parametrize("text", ["two\nlines\n", "tab\there", "a,b\r\n", "胸部X線 Καρδιά é — ▁▂", "\u200d\xa0"])
def test_what_can_be_seen_stays_as_it_is(text):
    assert visible(text) == text


def test_an_error_shows_names_as_text(audit, tmp_path):
    outcome = audit("scan", tmp_path / "a\033[2Jb")
    assert outcome.status == 1 and "\033" not in outcome.err and r"\x1b[2J" in outcome.err


def test_progress_goes_on_without_a_reader_a_terminal_or_a_stream(monkeypatch):
    for stream in (Gone(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        say = Progress()
        say.expect(3)
        say("warning: read me", 0)
        say("working", 1)
        say.close()


def test_results_that_cannot_be_written_are_three_lines(monkeypatch, capsys):
    full = io.StringIO()
    full.flush = lambda: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    monkeypatch.setattr(sys, "stdout", full)
    monkeypatch.setattr(sys, "argv", ["audit", "list"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1 and capsys.readouterr().err.startswith("error: No space left")


@pytest.mark.parametrize("error", [OSError(36, "File name too long", "d" * 300), OSError(30, "Read-only", "x")])
def test_what_the_system_refuses_is_told_with_its_place(audit, monkeypatch, error):
    def refuse(root):
        raise error

    monkeypatch.setattr("auditor.reports.read_report", refuse)
    outcome = audit("report", "x")
    assert outcome.status == 1 and error.filename in outcome.err and "Traceback" not in outcome.err


def test_a_fault_is_kept_in_the_log_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(console, "log_in_use", tmp_path / "log.txt")
    try:
        raise ZeroDivisionError("of\033 ours")
    except ZeroDivisionError as error:
        assert console.keep_traceback(error) == str(tmp_path / "log.txt")
    said = (tmp_path / "log.txt").read_text()
    assert "Traceback" in said and "\033" not in said


def test_junit_is_well_formed_whatever_names_hold(tmp_path):
    asked = gate.Requirement("a\x00\x1b\ufffe<&", "fail", "because \x0b of \udcff \u202e")
    judgement = gate.Judgement(None, (asked,))
    gate.write_junit(judgement, tmp_path / "x.xml")
    (case,) = ElementTree.parse(tmp_path / "x.xml").getroot().iter("testcase")
    assert case.get("name").startswith("a") and case.find("failure") is not None


def test_a_pipe_is_written_through_and_stays_and_a_link_leads_on(tmp_path):
    from auditor.reports import write_file

    (tmp_path / "link").symlink_to("target")
    write_file(tmp_path / "link", b"x", private=True)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == b"x"
    assert (tmp_path / "target").stat().st_mode & 0o077 == 0
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_file(tmp_path / "pipe", b"y")
    assert os.read(reader, 9) == b"y" and (tmp_path / "pipe").is_fifo()
    os.close(reader)
    with pytest.raises(AuditError, match="No space left"):
        write_file(Path("/dev/full"), b"z")
