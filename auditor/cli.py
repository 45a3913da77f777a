"""The command line: parse, call, print. No arithmetic."""

from __future__ import annotations

import dataclasses
import inspect
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from auditor import cli_lab
from auditor import config as settings
from auditor.errors import AuditError

app = typer.Typer(
    help="Tells which checkpoint of a diffusion training on private images is safe to release.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)


app.add_typer(cli_lab.app, name="lab")


def main() -> None:
    """Run the command line; a user's mistake is three lines on stderr and exit status 1."""
    try:
        app()
    except AuditError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option per field of AuditConfig, in front of its own."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "given"]
    kinds = {
        "int": int,
        "int | None": int,
        "float | None": float,
        "float": float,
        "bool": bool,
        "tuple[str, ...]": list[str],
    }
    made = [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                kinds.get(str(each.type), str) | None,
                typer.Option(settings.option(each.name), help=help_of(each), show_default=False),
            ],
        )
        for each in dataclasses.fields(settings.AuditConfig)
    ]
    names = [p.name for p in made]

    def wrapped(**given: Any) -> None:
        rest = {name: value for name, value in given.items() if name not in names}
        command(given={name: given[name] for name in names}, **rest)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__signature__ = inspect.Signature([*made, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own)])
    return wrapped


def help_of(each: dataclasses.Field[Any]) -> str:
    """Return the help text of a setting with its default."""
    shown = "" if each.default in (None, False, ()) else f" [default: {each.default}]"
    return each.metadata["help"] + shown


RUN_EXAMPLE = """Audit two series of checkpoints trained on disjoint halves; resume an audit that was stopped.

Example: audit run --ckpts-a runs/a --ckpts-b runs/b --train-a data/half-a --train-b data/half-b
--heldout data/test --out audits/first
"""


@app.command("run", help=RUN_EXAMPLE)
@with_settings
def run_command(
    given: dict[str, Any],
    config: Annotated[str | None, typer.Option("--config", help="TOML file with the same names.")] = None,
    remake: Annotated[bool, typer.Option("--remake", help="Discard finished artefacts that do not fit.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be made, reused or remade, and why.")
    ] = False,
) -> None:
    run_audit(settings.resolve(given, config), remake, dry_run)


def run_audit(config: settings.AuditConfig, remake: bool = False, dry_run: bool = False) -> None:
    """Prepare, plan, execute, and show the report; stopping leaves a run that resumes."""
    from auditor.console import Chatter, shown

    signal.signal(signal.SIGTERM, stop)
    # Read when torch starts: OpenMP threads that spin while they wait make an audit ten times slower beside other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with Chatter() as chatter, shown() as say:
            say("loading the libraries", 0)
            from auditor import inputs
            from auditor.run import RunDirectory

            chatter.quiet_libraries()
            inputs.require(config)
            run = RunDirectory(config.out)
            carry_out = run_trainings if config.ckpts else run_twins
            if not carry_out(config, run, say, chatter, remake, dry_run):
                return
    except KeyboardInterrupt:
        print(f"stopped; to go on from the last finished batch: {resume_line()}", file=sys.stderr)
        sys.exit(130)
    show_report(run.root)
    print(f"wrote {run.report}", file=sys.stderr)


def run_twins(config: settings.AuditConfig, run: Any, say: Any, chatter: Any, remake: bool, dry_run: bool) -> bool:
    """Audit two trainings, or one; return whether there is something to report."""
    from auditor import inputs, pipeline, trainings

    prepared = inputs.prepare(config, run, say)
    second = trainings.prepare_same_data(config, prepared, run, say) if config.ckpts_a2 else None
    tasks = pipeline.plan(prepared, run)
    if dry_run:
        show_plan(tasks, prepared, run, say)
        if second is not None:
            print("second training on half a:")
            show_plan(pipeline.plan(second, run.same_data), second, run.same_data, say)
        return False
    pipeline.refuse_loss_of_work(tasks, run, remake)
    with run.locked():
        chatter.open_file(run.log)
        if second is not None:
            trainings.audit_same_data(second, run, say, remake)
            tasks = pipeline.plan(prepared, run)
        say.expect(sum(task.calls for task in tasks))
        pipeline.audit(prepared, run, tasks, say)
    return True


def run_trainings(config: settings.AuditConfig, run: Any, say: Any, chatter: Any, remake: bool, dry_run: bool) -> bool:
    """Audit every pair of three or more trainings; return whether there is something to report."""
    from auditor import pipeline, trainings

    pairs = trainings.prepare(config, run, say)
    if dry_run:
        for pair, prepared in pairs.items():
            print(f"{trainings.label(pair)}: (samples of a training are shared by its pairs)")
            show_plan(pipeline.plan(prepared, run.pair(*pair)), prepared, run.pair(*pair), say)
        return False
    with run.locked():
        chatter.open_file(run.log)
        trainings.audit(config, pairs, run, say, remake)
    return True


def stop(number: int, frame: object) -> None:
    """Turn SIGTERM into an interrupt, so that stopping is one path."""
    raise KeyboardInterrupt


def resume_line() -> str:
    """Return the command that was given, as one would type it."""
    return shlex.join(["audit", *sys.argv[1:]])


def show_plan(tasks: list[Any], prepared: Any, run: Any, say: Any) -> None:
    """Print what would be done and why, one line per kind of task and reason, what it costs, and what it can find."""
    from auditor import forecast, power

    say("timing a few network calls and embeddings", 0)
    expected = forecast.forecast(prepared, run, tasks)
    say.close()
    groups: dict[tuple[str, str, str], list[Any]] = {}
    for task in tasks:
        groups.setdefault((task.kind, task.action, task.reason), []).append(task)
    for (kind, action, reason), members in groups.items():
        calls = sum(task.calls for task in members)
        cost = f", {calls:,} network calls" if calls else ""
        print(f"{action:7} {len(members):5} x {kind.replace('-', ' ')}: {reason}{cost}")
    calls = sum(task.calls for task in tasks)
    print(f"total {calls:,} network calls of {prepared.batch_size} images on {prepared.device}")
    print("\n".join(expected.sentences))
    scope = prepared.scope
    n_heldout, n_tests = len(prepared.sets.get("heldout", ())), len(scope.steps) * len(scope.judged_spaces)
    for line in power.statement(scope.n_samples, n_heldout, n_tests, scope.with_lean, prepared.budgets):
        print(f"power: {line}")
    for note in prepared.notes:
        print(f"note: {note}")


SCAN_EXAMPLE = """Show what would be audited in folders, from names and headers alone: format, steps, weights, schedule.

Example: audit scan runs/a runs/b
"""


@app.command("scan", help=SCAN_EXAMPLE)
def scan_command(
    paths: Annotated[list[Path], typer.Argument(help="Folders of checkpoints, or of several series.")],
    json: Annotated[bool, typer.Option("--json", help="The same facts as JSON.")] = False,
    format: Annotated[str | None, typer.Option("--format", help="Checkpoint format; audit list names them.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="As for audit run.")] = None,
    model_config: Annotated[str | None, typer.Option("--model-config", help="As for audit run.")] = None,
    base: Annotated[str | None, typer.Option("--base", help="As for audit run.")] = None,
    autoencoder: Annotated[str | None, typer.Option("--autoencoder", help="As for audit run.")] = None,
    prediction: Annotated[str | None, typer.Option("--prediction", help="As for audit run.")] = None,
    image_shape: Annotated[str | None, typer.Option("--image-shape", help="As for audit run.")] = None,
    scheduler: Annotated[str | None, typer.Option("--scheduler", help="As for audit run.")] = None,
) -> None:
    from auditor import scan
    from auditor.checkpoints import ModelSettings

    shape = settings.shape_from(image_shape)
    told = ModelSettings(format, model, model_config, base, autoencoder, prediction, shape)
    found = scan.scan(paths, told, scheduler)
    (scan.write_json if json else scan.write_table)(found, sys.stdout)


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


@app.command("report", help=REPORT_EXAMPLE, cls=WithJson)
def report_command(
    run: Annotated[Path, typer.Argument(help="A run directory that audit run wrote.")],
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it as a model card, with metadata; - is stdout.")
    ] = None,
    pull_request: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The same Markdown without metadata.")
    ] = None,
    json: Annotated[
        str | None, typer.Option(metavar="[FILE]", help="The same facts as JSON: to a file, or to stdout.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every measurement, one row per step.")] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one page for a browser, complete in itself.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write every figure as PNG and SVG, for a paper.")
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write event files with curves and galleries; needs tensorboard."),
    ] = None,
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help="Leave every picture out.")] = False,
    blur: Annotated[bool, typer.Option("--blur", help="Make every picture unrecognisable.")] = False,
    width: Annotated[int | None, typer.Option("--width", help="Columns [default: of the terminal].", min=40)] = None,
) -> None:
    from auditor.reports import read_report, write_reports
    from auditor.reports.pictures import BLURRED, LEFT_OUT, SHOWN

    files = {"markdown": markdown, "pull-request": pull_request, "json": json and Path(json), "csv": csv}
    files |= {"html": html, "figures": figures, "tensorboard": tensorboard}
    targets = {form: path for form, path in files.items() if path is not None}
    if not targets:
        show_report(run, width)
        return
    replace_unprintable()
    write_reports(read_report(run, LEFT_OUT if no_pictures else BLURRED if blur else SHOWN), targets)
    written = [str(path) for path in targets.values() if str(path) != "-"]
    if written:
        print(f"wrote {', '.join(written)}", file=sys.stderr)


def show_report(root: Path, width: int | None = None) -> None:
    """Show the report of a run on the terminal."""
    from auditor import registry
    from auditor.reports import read_report

    replace_unprintable()
    registry.lookup("report", "terminal")(read_report(root), sys.stdout, width)


SHOW_EXAMPLE = """Show the pictures and numbers of one sample: what was drawn, and the training images nearest to it.

Example: audit show audits/first --step 4000 --seed 17 --out seed-17.png
"""


@app.command("show", help=SHOW_EXAMPLE)
def show_command(
    run: Annotated[Path, typer.Argument(help="A run directory that audit run wrote.")],
    step: Annotated[int, typer.Option("--step", help="The checkpoint.")],
    seed: Annotated[int | None, typer.Option("--seed", help="The sample [default: the worst of this step].")] = None,
    twin: Annotated[str | None, typer.Option("--twin", help="a or b [default: a, or that of the worst].")] = None,
    space: Annotated[
        str | None, typer.Option("--space", help="Feature space [default: pixel, else the first].")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write a contact sheet, too: a PNG file.")] = None,
    blur: Annotated[bool, typer.Option("--blur", help="Make every picture unrecognisable.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The numbers as JSON, without pictures.")] = False,
) -> None:
    from auditor.reports import pictures, sheet, show, write_file

    case = pictures.open_album(run).pick(space, twin, step, seed)
    case = case.blurred() if blur else case
    if out is not None:
        write_file(out, sheet.sheet(case, "Pictures are blurred." if blur else ""))
        if not blur:
            print(f"{out} shows training images: it is as private as they are.", file=sys.stderr)
    if json:
        print(show.as_json(case))
    else:
        replace_unprintable()
        show.render(case, sys.stdout)


def replace_unprintable() -> None:
    """Let a terminal without block characters still get the numbers."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")


@app.command(
    "demo", help="Audit the shipped twins on handwritten digits, a few minutes, no network. Example: audit demo"
)
def demo_command(
    out: Annotated[Path, typer.Option("--out", help="Where to write it.")] = Path("audit-demo"),
    retrain: Annotated[bool, typer.Option("--retrain", help="Train the twins anew, there, before auditing.")] = False,
) -> None:
    from auditor.console import shown
    from auditor.demo import demo_config

    with shown() as say:
        config = demo_config(out, retrain, say)
    run_audit(config, remake=retrain)


CHECK_EXAMPLE = """Judge a run, or one of its steps, for a release pipeline; the reason is one paragraph.

Exit status 0: a step is recommended, or the step meets the policy; 3: none is, or it does not; 4: undecided.

Example: audit check audits/first --step 4000 --policy release.toml --junit check.xml
"""


@app.command("check", help=CHECK_EXAMPLE)
def check_command(
    run: Annotated[Path, typer.Argument(help="A run directory that audit run wrote.")],
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="TOML file: [budgets] METRIC = upper limit, [require] verdict = [...]."),
    ] = None,
    step: Annotated[int | None, typer.Option("--step", help="The step to judge [default: the recommended].")] = None,
    json: Annotated[bool, typer.Option("--json", help="The judgement as JSON.")] = False,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write a JUnit XML file, too.")] = None,
) -> None:
    from auditor import gate

    judgement = gate.check(run, policy, step)
    if junit is not None:
        gate.write_junit(judgement, junit)
    print(gate.as_json(judgement) if json else judgement.paragraph)
    raise typer.Exit(judgement.exit_status)


@app.command(
    "verify", help="Recompute a run's tables from its evidence and compare. Example: audit verify audits/first"
)
def verify_command(
    run: Annotated[Path, typer.Argument(help="A run directory that audit run wrote.")],
    json: Annotated[bool, typer.Option("--json", help="Every difference, as JSON.")] = False,
) -> None:
    from auditor.console import Chatter, shown

    with Chatter(), shown() as say:
        from auditor import verify

        found = verify.verify(run, lambda text: say(text, 0))
    if json:
        print(found.as_json())
    found.require()
    if not json:
        print(found.sentence)


SPLIT_EXAMPLE = """Split images into two exchangeable halves to train twins on, and a held-out set.

Duplicates, near-duplicates and groups stay together. Writes train-a.csv, train-b.csv and heldout.csv, which audit run
takes, and a card of what was done (split.md, split.json).

Example: audit split data/films --out splits/first --group-by '^(patient[0-9]+)_'
"""


@app.command("split", help=SPLIT_EXAMPLE)
def split_command(
    data: Annotated[str, typer.Argument(help="Images: whatever --train-a of audit run takes.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the lists and the card.")],
    seed: Annotated[int, typer.Option("--seed", help="Of the drawing.")] = 0,
    heldout: Annotated[float, typer.Option("--heldout", help="Share of images that neither half gets.")] = 0.2,
    group_by: Annotated[
        str | None,
        typer.Option("--group-by", help="Column, or regular expression on ids whose first group names the patient."),
    ] = None,
    near: Annotated[
        float, typer.Option("--near", help="Distance below which images are near-duplicates; 0: exact ones only.")
    ] = 0.2,
    window: Annotated[str | None, typer.Option("--window", help="LOW,HIGH for pictures of 16 bits or floats.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    from auditor.console import Chatter, shown

    limits = settings.window_from(window) if window else None
    with Chatter(), shown() as say:
        from auditor import split_card, splitting

        options = splitting.Options(data, seed, heldout, group_by, near, limits)
        done = splitting.split(options, out, lambda text: say(text, 0))
        say("checking the halves", 0)
        card = split_card.write(done, out)
    print(split_card.as_json(card) if json else split_card.as_markdown(card))


DOCTOR_EXAMPLE = """Look whether this machine can audit: packages, GPU, faiss, CLIP weights, disk, a short self-test.

Nothing is asked of the network. Exit status 1 where something must be solved first. Example: audit doctor
"""


@app.command("doctor", help=DOCTOR_EXAMPLE)
def doctor_command(
    clip_model: Annotated[str, typer.Option("--clip-model", help="As in audit run.")] = "ViT-B-32",
    clip_weights: Annotated[str, typer.Option("--clip-weights", help="As in audit run.")] = "laion2b_s34b_b79k",
    json: Annotated[bool, typer.Option("--json", help="The findings as JSON.")] = False,
) -> None:
    from auditor.console import Chatter, shown

    os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
    with Chatter(), shown() as say:
        say("looking at this machine", 0)
        from auditor import doctor
        from auditor.spaces import SpaceSettings

        findings = doctor.examine(SpaceSettings("cpu", clip_model, clip_weights), Path.cwd())
    print(doctor.as_json(findings) if json else doctor.as_text(findings))
    raise typer.Exit(int(any(each.status == "problem" for each in findings)))


@app.command("list", help="List checkpoint formats, feature spaces, metrics and reports. Example: audit list")
def list_command() -> None:
    from auditor import registry

    for kind, table in registry.TABLES.items():
        print(f"{kind}: {', '.join(table)}")


if __name__ == "__main__":
    main()
