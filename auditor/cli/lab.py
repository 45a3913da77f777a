"""``audit lab``: the hierarchical world on the command line. Parse, call, print."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Sequences whose true denoiser is known: make them, train on them, hold the audit against the truth.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Out = Annotated[Path, typer.Option("--out", help="Where to write it.")]
Seed = Annotated[int, typer.Option("--seed", min=0)]


@app.command("make", help="Draw a grammar and its sequences. Example: audit lab make --out data --n-train 2000")
def make_command(
    out: Out,
    sets: Annotated[int, typer.Option("--sets", help="Training sets: a, b, ...")] = 2,
    n_train: Annotated[int, typer.Option("--n-train", help="Sequences of each.", min=10)] = 5000,
    n_heldout: Annotated[int, typer.Option("--n-heldout", help="Held-out sequences.", min=10)] = 2000,
    q: Annotated[int, typer.Option("--q", help="Letters.")] = 6,
    depth: Annotated[int, typer.Option("--depth", help="Levels; a sequence has 2^depth letters.")] = 4,
    sigma: Annotated[float, typer.Option("--sigma", help="Spread of the rules' logits.")] = 1.0,
    q_eff: Annotated[int, typer.Option("--q-eff", help="Rules per letter.")] = 4,
    grammar_seed: Annotated[int, typer.Option("--grammar-seed", help="Of the rules.")] = 0,
    data_seed: Annotated[int, typer.Option("--data-seed", help="Of the sequences.")] = 0,
    distinct: Annotated[bool, typer.Option("--distinct", help="No two sets share a sequence.")] = False,
) -> None:
    from auditor.lab import data
    from auditor.lab.grammar import Grammar

    grammar = Grammar(grammar_seed, q, depth, sigma, q_eff)
    sizes = data.make(out, grammar, sets, n_train, n_heldout, data_seed, distinct)
    for name, n in sizes.items():
        print(f"{out / name}.npz: {n:,} sequences of {grammar.length} letters out of {grammar.q}")
    print(f"next: audit lab train {shlex.quote(str(out))} --out {shlex.quote(str(out / 'runs'))}")


TRAIN_EXAMPLE = """Train a transformer on every training set; give the same command again to go on after a stop.

Example: audit lab train data --out runs --steps 20000 --width 128 --layers 4
"""


@app.command("train", help=TRAIN_EXAMPLE)
def train_command(
    data: Annotated[Path, typer.Argument(help="A folder that audit lab make wrote.")],
    out: Out,
    steps: Annotated[int, typer.Option("--steps", help="Optimizer steps.", min=1)] = 20_000,
    checkpoints: Annotated[int, typer.Option("--checkpoints", help="Saved, at equal ratios.", min=1)] = 16,
    first: Annotated[int, typer.Option("--first", help="Step of the first one.", min=1)] = 100,
    repeats: Annotated[int, typer.Option("--repeats", help="Trainings per set; a2 is the second on a.", min=1)] = 1,
    width: Annotated[int, typer.Option("--width", min=1)] = 128,
    layers: Annotated[int, typer.Option("--layers", min=1)] = 4,
    heads: Annotated[int, typer.Option("--heads", min=1)] = 4,
    feedforward: Annotated[int, typer.Option("--feedforward", min=1)] = 256,
    dropout: Annotated[float, typer.Option("--dropout", min=0, max=0.9)] = 0.1,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 512,
    learning_rate: Annotated[float, typer.Option("--learning-rate", min=0)] = 3e-4,
    times: Annotated[
        str | None, typer.Option("--times", help="LEAST,LARGEST time of the noise to train; samples need all.")
    ] = None,
    average: Annotated[
        float,
        typer.Option("--average", help="Relative width of an average of weights to save too, such as 0.1; 0: none."),
    ] = 0.0,
    seed: Seed = 0,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 or auto.")] = "auto",
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Compute in that type; weights stay float32.")] = False,
) -> None:
    from auditor.cli.console import shown
    from auditor.lab.training import Recipe, log_spaced, times_from, train_all
    from auditor.lab.transformer import Shape

    shape = Shape(width, layers, heads, feedforward, dropout)
    saved = log_spaced(first, steps, checkpoints)
    recipe = Recipe(
        steps=saved,
        shape=shape,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        bfloat16=bfloat16,
        times=times_from(times),
        average=average,
    )
    with interruptible(), shown() as say:
        train_all(data, out, recipe, repeats, device, lambda text: say(text, 0))
    from auditor.lab.data import audit_command, is_distinct

    print(f"next: {shlex.join(audit_command(data, out, is_distinct(data)))}")


@app.command(
    "oracle", help="Compare the checkpoints of a run with the exact denoiser. Example: audit lab oracle runs/audit"
)
def oracle_command(
    run: Annotated[Path, typer.Argument(help="A run directory that audit run wrote from checkpoints of the lab.")],
    time: Annotated[int, typer.Option("--time", help="Of the noise, of 500 steps.", min=1)] = 75,
    n: Annotated[int, typer.Option("--n", help="Sequences of each set.", min=2)] = 1000,
    seed: Seed = 0,
) -> None:
    from auditor.cli.console import Chatter, shown

    with interruptible(), Chatter(), shown() as say:
        from auditor.lab import oracle

        path = oracle.write(run, time, n, seed, say)
    print(path)


@app.command("figures", help="Draw the published figures from a run. Example: audit lab figures runs/audit")
def figures_command(
    run: Annotated[Path, typer.Argument(help="A run directory that audit run wrote from checkpoints of the lab.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where to write them [default: RUN/figures].")] = None,
    time: Annotated[int, typer.Option("--time", help="Of the noise, of 500 steps; for the curves over steps.")] = 75,
    n: Annotated[int, typer.Option("--n", help="Sequences of each set.", min=2)] = 300,
    seed: Seed = 0,
) -> None:
    from auditor.cli.console import Chatter, shown

    with interruptible(), Chatter(), shown() as say:
        from auditor.lab import figures

        paths = figures.write(run, out or run / "figures", time, n, seed, say)
    for path in paths:
        print(path)


FIXTURE_EXAMPLE = """Write twins whose phases are known: exact denoisers that begin to remember their halves.

Example: audit lab fixture --out fixture --memory 0.4
"""


@app.command("fixture", help=FIXTURE_EXAMPLE)
def fixture_command(
    out: Out,
    memory: Annotated[float, typer.Option("--memory", help="Weight of the own half in the end.", min=0, max=1)] = 0.1,
    growth: Annotated[
        float, typer.Option("--growth", help="Exponent with which it grows from step 6 on.", min=0)
    ] = 1.5,
    n_train: Annotated[int, typer.Option("--n-train", help="Sequences per half.", min=10)] = 5000,
    n_heldout: Annotated[int, typer.Option("--n-heldout", help="Held-out sequences.", min=10)] = 1500,
    steps: Annotated[str, typer.Option("--steps", help="Checkpoints, of 0 to 20: 3,5,6 [default: all from 1].")] = "",
    seed: Seed = 0,
) -> None:
    from auditor.lab.blend import Course
    from auditor.lab.data import audit_command
    from auditor.lab.fixture import Fixture, steps_from

    course = Course(memory=memory, growth=growth)
    fixture = Fixture(course=course, n_train=n_train, n_heldout=n_heldout, taus=steps_from(steps), seed=seed)
    fixture.write(out)
    for step, phase in zip(fixture.taus, fixture.phases(), strict=True):
        print(f"step {step}: {phase}")
    print(f"next: {shlex.join(audit_command(out, out, distinct=False))}")


CALIBRATE_EXAMPLE = """Audit many random grammars whose true phases are known; write what the verdicts were.

Example: audit lab calibrate --out calibration --n 100 --report docs/lab-calibration.md
"""


@app.command("calibrate", help=CALIBRATE_EXAMPLE)
def calibrate_command(
    out: Out,
    n: Annotated[int, typer.Option("--n", help="Fixtures; those there already are kept.", min=1)] = 100,
    first: Annotated[int, typer.Option("--first", help="Number of the first one.", min=0)] = 0,
    report: Annotated[Path | None, typer.Option("--report", help="Write the table to this page.")] = None,
    seeds: Annotated[int, typer.Option("--n-samples", help="Samples per checkpoint.", min=2)] = 1000,
) -> None:
    from auditor.cli.console import Chatter, shown

    with interruptible(), Chatter(), shown() as say:
        from auditor.lab import calibration

        results = calibration.calibrate(out, range(first, first + n), seeds, lambda text: say(text, 0))
    page = calibration.page(results)
    if report is not None:
        calibration.write_page(report, page)
    print(page)


@contextmanager
def interruptible() -> Iterator[None]:
    """Tell how to go on where work is stopped; what is finished is kept."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as for audit run: threads that spin stop all other work
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        print(f"stopped; to go on: {shlex.join(['audit', *sys.argv[1:]])}", file=sys.stderr)
        raise typer.Exit(130) from None
