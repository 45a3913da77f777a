"""The command line, a file for each group of verbs. Parse, call, print; no arithmetic."""

from __future__ import annotations

import errno
import os
import sys

import typer

from auditor.cli import console, lab, prepare, report, run
from auditor.errors import AuditError

app = typer.Typer(
    help="Tells which checkpoint of a diffusion training on private images is safe to release.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
for verbs in (run, report, prepare):
    app.add_typer(verbs.app)
app.add_typer(lab.app, name="lab")


INTERNAL = 70  # exit status of a fault of ours; EX_SOFTWARE of sysexits.h


def main() -> None:
    """Run the command line; a user's mistake is three lines on stderr and exit status 1, a fault of ours status 70."""
    with console.visible_streams():
        try:
            try:
                refuse_empty(sys.argv[1:])
                app()
            finally:
                sys.stdout.flush()
        except AuditError as error:
            end(error, 1)
        except MemoryError as error:
            console.keep_traceback(error)
            end(AuditError("The memory does not suffice.", "", "Ask for less at once, or use a larger machine."), 1)
        except OSError as error:  # any look at a path may meet it, also at one whose folder may not be entered
            end(as_refusal(error), 1)
        except Exception as error:
            where = console.keep_traceback(error)
            what = f"A fault of auditor's own: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            end(AuditError(what, where, "Report it with this file; the same command resumes what was begun."), INTERNAL)


def end(error: AuditError, status: int) -> None:
    """Say an error and end with a status."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(status)


def as_refusal(error: OSError) -> AuditError:
    """Return what the system refuses as an error that says what and where."""
    if os.environ.get(console.DEBUG):
        console.keep_traceback(error)
    said = "Permission denied" if isinstance(error, PermissionError) else error.strerror or str(error)
    if error.filename is None and error.errno in (errno.ENOSPC, errno.EIO, errno.EPIPE):
        console.silence(sys.stdout)
    where = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else "what is read or written"
    return AuditError(f"{said}.", where, "Make it accessible, or give another path.")


def refuse_empty(arguments: list[str]) -> None:
    """Refuse an empty argument, as a shell's unset variable leaves: as a path it would be the current folder."""
    for before, argument in zip(["audit", *arguments], arguments, strict=False):
        if argument == "" or (argument.startswith("--") and argument.endswith("=")):
            where = argument or f"behind {before}"
            raise AuditError("An argument is empty.", where, "Give a value, or leave it out (is a variable not set?).")


if __name__ == "__main__":
    main()
