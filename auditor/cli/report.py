"""``audit report``, ``show``, ``check`` and ``verify``: what a finished run says. Parse, call, print."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
RunFolder = Annotated[Path, typer.Argument(help="A run directory that audit run wrote.")]


class WithJson(TyperCommand):
    """A command whose ``--json`` may stand alone, then writing to stdout, or be followed by a file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Complete a bare ``--json`` before parsing; the run directory is never taken for its file."""
        given = list(args)
        for i in reversed([i for i, each in enumerate(args) if each == "--json"]):
            following = args[i + 1] if i + 1 < len(args) else "--"
            if (following.startswith("-") and following != "-") or Path(following).is_dir():
                given.insert(i + 1, "-")
        return super().parse_args(ctx, given)


REPORT_EXAMPLE = """Show the report of a run on the terminal, or write it in other formats, several at once.

Example: audit report audits/first --html report.html --figures figures --csv report.csv
"""


FORMS = {  # report format -> what its option takes, and help; others that the registry names have a plain option
    "markdown": ("FILE", "Write it as a model card, with metadata; - is stdout."),
    "pull-request": ("FILE", "The same Markdown without metadata."),
    "json": ("[FILE]", "The same facts as JSON: to a file, or to stdout."),
    "csv": ("FILE", "Write every measurement, one row per step."),
    "html": ("FILE", "Write one page for a browser, complete in itself."),
    "figures": ("FOLDER", "Write every figure as PNG and SVG, for a paper."),
    "tensorboard": ("FOLDER", "Write event files with curves and galleries; needs tensorboard."),
}


def with_formats(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option per report format of the registry; it gets those asked for as ``targets``."""
    from auditor import registry

    others = [form for form in (*registry.REPORTS, *registry.FOLDER_REPORTS) if form not in ("terminal", *FORMS)]
    plain = {form: ("FILE" if form in registry.REPORTS else "FOLDER", f"Write it as {form}.") for form in others}
    made = {form.replace("-", "_"): (form, metavar, text) for form, (metavar, text) in (FORMS | plain).items()}
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[Path | None, typer.Option(f"--{form}", metavar=metavar, help=text)],
        )
        for name, (form, metavar, text) in made.items()
    ]
    run, *own = (p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "targets")

    def wrapped(**given: Any) -> None:
        asked = {form: given.pop(name) for name, (form, *_) in made.items()}
        command(targets={form: path for form, path in asked.items() if path is not None}, **given)

    parameters = [run, *options, *own]
    wrapped.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    )
    return wrapped


@app.command("report", help=REPORT_EXAMPLE, cls=WithJson)
@with_formats
def report_command(
    run: RunFolder,
    targets: dict[str, Path],
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Leave every picture out, and hide names of images and files.")
    ] = False,
    ids: Annotated[bool, typer.Option("--ids", help="With --no-pictures: show the names.")] = False,
    width: Annotated[int | None, typer.Option("--width", help="Columns [default: of the terminal].", min=40)] = None,
) -> None:
    from auditor.reports import read_report, write_reports
    from auditor.reports.album import LEFT_OUT, SHOWN

    if not targets:
        show_report(run, width)
        return
    replace_unprintable()
    report = read_report(run, LEFT_OUT if no_pictures else SHOWN, with_names=ids or not no_pictures)
    write_reports(report, targets)
    written = [str(path) for path in targets.values() if str(path) != "-"]
    if written:
        print(f"wrote {', '.join(written)}", file=sys.stderr)


def show_report(root: Path, width: int | None = None) -> None:
    """Show the report of a run on the terminal."""
    from auditor import registry
    from auditor.cli.console import unescaped
    from auditor.reports import read_report

    replace_unprintable()
    registry.lookup("report", "terminal")(read_report(root), unescaped(sys.stdout), width)


SHOW_EXAMPLE = """Show the pictures and numbers of one sample: what was drawn, and the training images nearest to it.

Example: audit show audits/first --step 4000 --seed 17 --out seed-17.png
"""


@app.command("show", help=SHOW_EXAMPLE)
def show_command(
    run: RunFolder,
    step: Annotated[int, typer.Option("--step", help="The checkpoint.")],
    seed: Annotated[int | None, typer.Option("--seed", help="The sample [default: the worst of this step].")] = None,
    twin: Annotated[str | None, typer.Option("--twin", help="a or b [default: a, or that of the worst].")] = None,
    space: Annotated[
        str | None, typer.Option("--space", help="Feature space [default: pixel, else the first].")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write a contact sheet, too: a PNG file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="The numbers as JSON, without pictures.")] = False,
) -> None:
    from auditor.cli.console import unescaped
    from auditor.reports import album, show, write_file
    from auditor.reports.drawing import sheet

    case = album.open_album(run).pick(space, twin, step, seed)
    if out is not None:
        write_file(out, sheet.sheet(case), private=True)
        print(f"{out} shows training images: it is as private as they are.", file=sys.stderr)
    if json:
        print(show.as_json(case))
    else:
        replace_unprintable()
        show.render(case, unescaped(sys.stdout))


def replace_unprintable() -> None:
    """Let a terminal without block characters still get the numbers."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")


CHECK_EXAMPLE = """Judge a run, or one of its steps, for a release pipeline; the reason is one paragraph.

Exit status 0: a step is recommended, or the step meets the policy; 3: none is, or it does not; 4: undecided, which is
a failure in JUnit, too.

A policy is a TOML file of up to three tables (docs/policies.md): [budgets] METRIC, METRIC.SPACE or METRIC.SPACE.TWIN =
upper limit that the whole interval must keep; [require] verdict = ["generalizing", ...], those accepted; [allow]
undecided = true, which lets pass what no evidence speaks against, but no run that cannot be trusted.

Example: audit check audits/first --step 4000 --policy release.toml --junit check.xml
"""


@app.command("check", help=CHECK_EXAMPLE)
def check_command(
    run: RunFolder,
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy", help="TOML file: [budgets] METRIC = limit, [require] verdict = [...], [allow] undecided = true."
        ),
    ] = None,
    step: Annotated[int | None, typer.Option("--step", help="The step to judge [default: the recommended].")] = None,
    json: Annotated[bool, typer.Option("--json", help="The judgement as JSON.")] = False,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write a JUnit XML file, too; undecided fails.")] = None,
) -> None:
    from auditor.reports import gate

    judgement = gate.check(run, policy, step)
    if junit is not None:
        gate.write_junit(judgement, junit)
    print(gate.as_json(judgement) if json else gate.as_text(judgement))
    raise typer.Exit(judgement.exit_status)


@app.command(
    "verify", help="Recompute a run's tables from its evidence and compare. Example: audit verify audits/first"
)
def verify_command(
    run: RunFolder,
    json: Annotated[bool, typer.Option("--json", help="Every difference, as JSON.")] = False,
) -> None:
    from auditor.cli.console import Chatter, shown

    with Chatter(), shown() as say:
        from auditor.pipeline import verify

        found = verify.verify(run, lambda text: say(text, 0))
    if json:
        print(found.as_json())
    found.require()
    if not json:
        print(found.sentence)


@app.command(
    "purge",
    help="Delete everything of a run from which an image or a person follows; keep its decision and numbers. "
    "Example: audit purge audits/first",
)
def purge_command(run: RunFolder) -> None:
    from auditor.cli.console import Chatter, shown

    with Chatter(), shown() as say:
        say("removing what shows anybody", 0)
        from auditor.pipeline import purge

        done = purge.purge(run)
    print(done.sentence)
