"""Time the page of a large run: 100 checkpoints, 5,000 seeds, 3 spaces, under 10 s and 15 MB.

    .venv/bin/python benchmarks/report_speed.py [--run DIR] [--steps 100] [--seeds 5000] [--size 64] [--profile]

The run is made up by benchmarks/measuring_speed.py and measured by the project's own code; its
samples and training images are colored noise, which no PNG makes smaller. It is written once to DIR.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import measuring_speed
import numpy as np
from measuring_speed import LEVELS, SPACES, fabricate, identifiers

from auditor.config import AuditConfig, Budgets
from auditor.measuring import measure
from auditor.records import TWINS
from auditor.run import RunDirectory, columns, tables
from auditor.run.files import save_array
from auditor.run.places import IMAGES, SAMPLES
from auditor.scope import Scope


def complete(run: RunDirectory, scope: Scope, size: int) -> None:
    """Write what a report reads beside the evidence: tables, record, samples and training images."""
    rows = [
        {"twin": twin, "step": step, "path": f"checkpoint-{step}/unet", "format": "diffusers", "weights": "raw"}
        | {"audited": True, "reason": "", "digest": "0" * 64}
        for twin in TWINS
        for step in scope.steps
    ]
    tables.write(run.table("checkpoints"), columns.CHECKPOINTS, rows)
    checks = measure(run, scope, Budgets()).checks
    write_images(run, scope, size)
    resolved = {"weights": "raw", "image_shape": [size, size, 3], "steps": list(scope.steps), "scheduler": {}}
    sets = {name: {"images": measuring_speed.IMAGES, "digest": "0" * 64} for name in ("heldout", "train-a", "train-b")}
    resolved |= {"loss_times": list(range(LEVELS)), "loss_log_snr": np.linspace(6, -6, LEVELS).tolist()}
    run.write_record(
        {"status": "complete", "given": asdict(AuditConfig()), "resolved": resolved, "scope": asdict(scope)}
        | {"budgets": asdict(Budgets()), "sets": sets, "notes": [], "checks": checks, "versions": {"auditor": "0"}}
    )


def write_images(run: RunDirectory, scope: Scope, size: int) -> None:
    """Write training images, and samples: one file per twin, under the name of every step."""
    rng = np.random.default_rng(1)
    for twin in TWINS:
        key = {"ids": identifiers(measuring_speed.IMAGES).tolist(), "images": "made up"}
        with run.artifact(run.place(IMAGES, f"train-{twin}"), key) as temporary:
            save_array(temporary, rng.integers(0, 256, (measuring_speed.IMAGES, size, size, 3), np.uint8))
        first, *others = (run.place(SAMPLES, f"{twin}/{step}") for step in scope.steps)
        first.parent.mkdir(parents=True, exist_ok=True)
        save_array(first, rng.integers(0, 256, (scope.n_samples, size, size, 3), np.uint8))
        for path in others:
            os.link(first, path)


def main() -> None:
    """Time the page of a run of the size that is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("/tmp/report-speed"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5000)
    parser.add_argument("--size", type=int, default=64, help="Pixels per side of the images.")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes in a folder of its own: does it start?")
    given = parser.parse_args()
    if not given.smoke:
        return timed(given)
    with tempfile.TemporaryDirectory() as folder:
        given.run, given.steps, given.seeds, given.size = Path(folder), 2, 60, 8
        timed(given)


def timed(given: argparse.Namespace) -> None:
    """Write the run where it is missing, and time ``audit report --html`` as a command of its own."""
    run = RunDirectory(given.run / f"{given.steps}-{given.seeds}-{given.size}")
    scope = Scope(tuple(range(1000, 1000 * given.steps + 1, 1000)), SPACES, given.seeds, 0, True, True)
    if not run.record.exists():
        fabricate(run, scope)
        complete(run, scope, given.size)
    page = given.run / "report.html"
    profile = ["-m", "cProfile", "-s", "cumulative"] if given.profile else []
    started = time.perf_counter()
    subprocess.run([sys.executable, *profile, "-m", "auditor", "report", run.root, "--html", page], check=True)
    took, size = time.perf_counter() - started, page.stat().st_size
    print(f"{given.steps} checkpoints, {given.seeds} seeds, {len(SPACES)} spaces: {took:.1f} s, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
