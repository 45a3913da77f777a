"""The command line, a file for each group of verbs. Parse, call, print; no arithmetic."""

from __future__ import annotations

import sys

import typer

from auditor.cli import lab, prepare, report, run
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


def main() -> None:
    """Run the command line; a user's mistake is three lines on stderr and exit status 1."""
    try:
        refuse_empty(sys.argv[1:])
        app()
    except AuditError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except PermissionError as error:  # any look at a path may meet it, also at one whose folder may not be entered
        refused = AuditError("Permission denied.", error.filename or "", "Make it accessible, or give another path.")
        print(f"error: {refused}", file=sys.stderr)
        sys.exit(1)


def refuse_empty(arguments: list[str]) -> None:
    """Refuse an empty argument, as a shell's unset variable leaves: as a path it would be the current folder."""
    for before, argument in zip(["audit", *arguments], arguments, strict=False):
        if argument == "" or (argument.startswith("--") and argument.endswith("=")):
            where = argument or f"behind {before}"
            raise AuditError("An argument is empty.", where, "Give a value, or leave it out (is a variable not set?).")


if __name__ == "__main__":
    main()
