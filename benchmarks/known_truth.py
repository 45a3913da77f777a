"""Are the verdicts of a whole audit right where the truth is known? (methods G0)

    python benchmarks/known_truth.py

Twins of the hierarchical grammar that learn until step 16 and remember from step 7 on, audited by every stage of
``audit run``: sampling, evidence, controls, tests, verdicts, at all 20 steps. Prints truth beside verdict; exits 1
where a step without memory is called anything but generalizing, or one whose own half has a weight of .05 or more is
not called biased, overfit or memorizing. Below that weight the lean is within what the budgets accept. About two
minutes of one core.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from auditor.lab.blend import Course
from auditor.lab.calibration import audited
from auditor.lab.fixture import Fixture

ALARMS = ("biased", "overfit", "memorizing")
ACCEPTED = 0.05  # weight of the own half up to which no verdict is asked for


def is_right(row: dict) -> bool:
    """Return whether a verdict is one that the truth allows."""
    if row["memory"] == 0:
        return row["verdict"] == "generalizing"
    return row["memory"] < ACCEPTED or row["verdict"] in ALARMS


def main() -> None:
    """Audit the fixture, print the table."""
    fixture = Fixture(course=Course(memory=0.5, growth=1.0), n_train=2000, n_heldout=1000, taus=tuple(range(1, 21)))
    with tempfile.TemporaryDirectory() as work:
        found = audited(fixture, Path(work) / "audit", n_samples=1000)
    print(f"{'step':>4}  {'weight':>6}  {'truth':<13} verdict")
    for row in found["rows"]:
        print(f"{row['tau']:>4}  {row['memory']:>6.2f}  {row['truth']:<13} {row['verdict']}")
    print(f"released: {found['recommended']}; controls passed: {found['trusted']}")
    sys.exit(not (all(map(is_right, found["rows"])) and found["trusted"]))


if __name__ == "__main__":
    main()
