"""An audit from its plan to its report: carry out what is missing, measure, write the tables and the page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from auditor import images, measuring
from auditor.inputs.loaded import Loaded, Say
from auditor.measuring import Measured, published
from auditor.pipeline import spot_checks
from auditor.pipeline.execute import Executor
from auditor.pipeline.record import checkpoint_rows, record
from auditor.reports.caveats import pixel_range
from auditor.run import RunDirectory, columns, tables
from auditor.stages import Task, stages
from auditor.stages.bench import Bench


def audit(loaded: Loaded, run: RunDirectory, tasks: Sequence[Task], say: Say) -> Measured:
    """Carry out a plan, write the run's tables, and return what they say. The caller holds the lock."""
    run.write_record(record(loaded, "started", {}, {}))
    tables.write(run.table("checkpoints"), columns.CHECKPOINTS, checkpoint_rows(loaded))
    bench = Bench(loaded, run)
    executor = Executor(bench, say)
    with_samples = loaded.asked.scope.with_samples
    ranges = spot_checks.ranges(bench) if with_samples else None
    for sentence in pixel_range({"checks": {"pixel_range": ranges}}):
        say(f"warning: {sentence}", 0)
    executor.execute(tasks, lambda: warn_of_images(loaded, run, say))
    for each in loaded.sets.values():  # also where everything is up to date, and nothing has looked at them
        images.look_again(each)
    kinds = stages().values()
    run.sweep(
        (place.folder for kind in kinds for place in kind.transient),
        {place.folder for kind in kinds for place in kind.places},
    )
    loaded = bench.loaded  # without the checkpoints that failed
    tables.write(run.table("checkpoints"), columns.CHECKPOINTS, checkpoint_rows(loaded))
    started = time.perf_counter()
    checks: dict[str, Any] = {}
    if with_samples and loaded.given is None:
        checks["redraw"] = spot_checks.redrawn(bench)
    checks |= {"pixel_range": ranges} if ranges is not None else {}
    scope = loaded.asked.scope
    measured = measuring.measure(run, scope, loaded.asked.budgets, lambda text: say(text, 0))
    checks |= measured.checks
    published.write(run, loaded.asked.config, scope, {scope.twins: run})
    executor.seconds["measuring"] = time.perf_counter() - started
    run.write_record(record(loaded, "complete", executor.seconds, checks) | {"tables": run.table_digests()})
    say("drawing the report", 0)
    write_page(run)
    return measured


def warn_of_images(loaded: Loaded, run: RunDirectory, say: Say) -> None:
    """Tell before any network is asked what images alone show: that they are no control, or too few."""
    scope = loaded.asked.scope
    for sentence in (*measuring.unlike_sets(run, scope), *measuring.too_few_images(run, scope, loaded.asked.budgets)):
        say(f"warning: {sentence}", 0)


def write_page(run: RunDirectory) -> None:
    """Write the report as a page beside the tables it is made from."""
    from auditor.reports import read_report, write_reports

    write_reports(read_report(run.root), {"html": run.report})
