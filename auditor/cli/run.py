"""``audit run`` and ``audit demo``: parse, call, print."""

from __future__ import annotations

import dataclasses
import inspect
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from auditor import config as settings
from auditor.cli import report

if TYPE_CHECKING:
    from auditor.cli.console import Chatter, Progress
    from auditor.run import RunDirectory

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option per field of AuditConfig, in front of its own."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "given"]
    kinds = {
        "int": int,
        "int | None": int,
        "float | None": float,
        "float": float,
        "bool": bool,
        "bool | None": bool,
        "tuple[str, ...]": list[str],
    }
    made = [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                kinds.get(str(each.type), str) | None,
                typer.Option(flag_of(each), help=help_of(each), show_default=False),
            ],
        )
        for each in dataclasses.fields(settings.AuditConfig)
    ]
    names = [p.name for p in made]

    def wrapped(**given: Any) -> None:
        rest = {name: value for name, value in given.items() if name not in names}
        command(given={name: given[name] for name in names}, **rest)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*made, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own)]
    )
    return wrapped


def flag_of(each: dataclasses.Field[Any]) -> str:
    """Return the option of a setting; one that is on, off or neither has two."""
    name = settings.option(each.name)
    return f"{name}/--no-{name[2:]}" if str(each.type) == "bool | None" else name


def help_of(each: dataclasses.Field[Any]) -> str:
    """Return the help text of a setting with its default."""
    shown = "" if each.default in (None, False, ()) else f" [default: {each.default}]"
    return each.metadata["help"] + shown


PANELS = {  # the help's sections, in the order in which one fills them; "Rare" has the others
    "Trainings and images": (
        *("ckpts", "train", "heldout", "out", "ckpts_a", "ckpts_b", "train_a", "train_b", "final", "train_final"),
        *("samples_a", "samples_b", "ckpts_a2"),
    ),
    "Release": ("release", "release_size"),
    "How much": ("quick", "n_samples", "steps", "loss_images", "loss_levels", "spaces"),
    "Checkpoints": (
        *("weights", "pair", "scheduler", "format", "model", "model_config", "base", "autoencoder", "prediction"),
        *("image_shape", "pixel_range", "pixel_mean", "trust_pickle"),
    ),
    "Pictures": ("flip_train", "window", "convert_color", "skip_unreadable", "allow_overlap"),
    "Sampling": (
        *("sampler", "sampling_steps", "seed", "batch_size", "device", "labels", "prompts", "guidance_scale"),
        "protocol",
    ),
    "Rare": (),
    "This command": ("config", "dry_run", "remake", "shared", "help"),
}
RUN_EXAMPLE = """Audit the checkpoints of one training, or of two on disjoint halves; resume an audit that was stopped.

One: audit run --ckpts runs/a --train data/train --heldout data/heldout --out audits/first

Two: audit run --ckpts-a runs/a --ckpts-b runs/b --train-a data/half-a --train-b data/half-b
--heldout data/heldout --out audits/first

What it would do, and cost: the same with --dry-run. Example: audit run --ckpts runs/a --train data/train
--heldout data/heldout --out audits/first --dry-run
"""


class InPanels(TyperCommand):
    """A command whose many options stand in sections."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options section by section."""
        written = {str(each.name): each.get_help_record(ctx) for each in self.get_params(ctx)}
        named = {name for names in PANELS.values() for name in names}
        rest = tuple(name for name in written if name not in named)
        for title, names in PANELS.items():
            with formatter.section(title):
                formatter.write_dl([record for name in names or rest if (record := written.get(name))])


@app.command("run", cls=InPanels, no_args_is_help=True, help=RUN_EXAMPLE)
@with_settings
def run_command(
    given: dict[str, Any],
    config: Annotated[str | None, typer.Option("--config", help="TOML file with the same names.")] = None,
    remake: Annotated[bool, typer.Option("--remake", help="Discard finished artefacts that do not fit.")] = False,
    shared: Annotated[
        bool, typer.Option("--shared", help="Let others read the run, as the folder and the umask do.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be made, reused or remade, and why.")
    ] = False,
) -> None:
    run_audit(settings.resolve(given, config), remake, dry_run, shared)


def run_audit(config: settings.AuditConfig, remake: bool = False, dry_run: bool = False, shared: bool = False) -> None:
    """Prepare, plan, execute, and show the report; stopping leaves a run that resumes."""
    from auditor.cli.console import Chatter, shown

    signal.signal(signal.SIGTERM, stop)
    # Read when torch starts: OpenMP threads that spin while they wait make an audit ten times slower beside other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with Chatter() as chatter, shown() as say:
            say("loading the libraries", 0)
            from auditor.inputs import required
            from auditor.run import RunDirectory

            chatter.quiet_libraries()
            required.require(config)
            run = RunDirectory(config.out or "", shared)
            run.require_ours()
            carry_out = run_trainings if config.ckpts else run_twins
            if not carry_out(config, run, say=say, chatter=chatter, remake=remake, dry_run=dry_run):
                return
    except KeyboardInterrupt:
        print(f"stopped; to go on from the last finished batch: {resume_line()}", file=sys.stderr)
        sys.exit(130)
    report.show_report(run.root)
    print(f"wrote {run.report}", file=sys.stderr)


def run_twins(
    config: settings.AuditConfig, run: RunDirectory, say: Progress, chatter: Chatter, remake: bool, dry_run: bool
) -> bool:
    """Audit two trainings, or one; return whether there is something to report."""
    from auditor import inputs, pipeline
    from auditor.pipeline import final_model, trainings
    from auditor.pipeline.plan import plan, refuse_loss_of_work

    loaded = inputs.prepare(config, run, say)
    second = trainings.prepare_same_data(config, loaded, run, say) if config.ckpts_a2 else None
    final = final_model.prepare(config, loaded, run, say) if config.final else None
    tasks = plan(loaded.asked, run)
    if dry_run:
        show_plan(tasks, loaded, run, say)
        if second is not None:
            print("second training on half a:")
            show_plan(plan(second.asked, run.same_data), second, run.same_data, say)
        if final is not None:
            print("final model:")
            show_plan(plan(final.asked, run.final), final, run.final, say)
        return False
    refuse_loss_of_work(tasks, run, remake)
    with run.locked():
        chatter.open_file(run.log)
        if second is not None:
            trainings.audit_same_data(second, run, say, say.expect, remake)
            tasks = plan(loaded.asked, run)
        if final is not None:
            trainings.audit_part(final, run.final, "final model", say=say, expect=say.expect, remake=remake)
        say.expect(sum(task.calls for task in tasks))
        pipeline.audit(loaded, run, tasks, say)
    return True


def run_trainings(
    config: settings.AuditConfig, run: RunDirectory, say: Progress, chatter: Chatter, remake: bool, dry_run: bool
) -> bool:
    """Audit every pair of three or more trainings; return whether there is something to report."""
    from auditor.pipeline import trainings
    from auditor.pipeline.plan import plan

    pairs = trainings.prepare(config, run, say)
    if dry_run:
        for pair, loaded in pairs.items():
            print(f"{trainings.label(pair)}: (samples of a training are shared by its pairs)")
            show_plan(plan(loaded.asked, run.pair(*pair)), loaded, run.pair(*pair), say)
        return False
    with run.locked():
        chatter.open_file(run.log)
        trainings.audit(config, pairs, run, say, say.expect, remake)
    return True


def stop(number: int, frame: object) -> None:
    """Turn SIGTERM into an interrupt, so that stopping is one path."""
    raise KeyboardInterrupt


def resume_line() -> str:
    """Return the command that was given, as one would type it."""
    return shlex.join(["audit", *sys.argv[1:]])


def show_plan(tasks: list[Any], loaded: Any, run: RunDirectory, say: Progress) -> None:
    """Print what would be done and why, one line per kind of task and reason, what it costs, and what it can find."""
    from auditor.pipeline import forecast, power
    from auditor.records import DECOYS

    say("timing a few network calls and embeddings", 0)
    expected = forecast.forecast(loaded, run, tasks)
    say.close()
    groups: dict[tuple[str, str, str], list[Any]] = {}
    if loaded.pair.weights:
        each = " of each twin" if len(loaded.pair.twins) > 1 else ""
        print(f"{len(loaded.pair.steps)} checkpoints{each}, {loaded.pair.weights}")
    for task in tasks:
        groups.setdefault((task.word, task.action, task.reason), []).append(task)
    for (word, action, reason), members in groups.items():
        calls = sum(task.calls for task in members)
        cost = f", {calls:,} network calls" if calls else ""
        print(f"{action:7} {len(members):5} x {word.replace('-', ' ')}: {reason}{cost}")
    calls = sum(task.calls for task in tasks)
    asked = loaded.asked
    print(f"total {calls:,} network calls of {asked.batch_size} images on {asked.device}")
    print("\n".join(expected.sentences))
    scope = asked.scope
    n_heldout, n_tests = len(loaded.sets.get("heldout", ())), len(scope.steps) * len(scope.judged_spaces)
    asked_about = asked.members if scope.release != "samples" else None
    alone = (asked.sets["train-a"].pooled or 0, asked.sets[DECOYS].pooled or 0) if scope.decoys else None
    told = power.statement(scope.n_samples, n_heldout, n_tests, scope.with_lean, asked.budgets, asked_about, alone)
    for line in told:
        print(f"power: {line}")
    for note in loaded.notes:
        print(f"note: {note}")


@app.command(
    "demo", help="Audit the shipped twins on handwritten digits, a few minutes, no network. Example: audit demo"
)
def demo_command(
    out: Annotated[Path, typer.Option("--out", help="Where to write it.")] = Path("audit-demo"),
    retrain: Annotated[bool, typer.Option("--retrain", help="Train the twins anew, there, before auditing.")] = False,
) -> None:
    from auditor.cli.console import shown
    from auditor.demo import demo_config

    with shown() as say:
        config = demo_config(out, retrain, say)
    run_audit(config, remake=retrain)
