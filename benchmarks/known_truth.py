"""Are the verdicts of a whole audit right where the truth is known and lies outside the margins? (methods G0)

    python benchmarks/known_truth.py

Twins of the hierarchical grammar that learn until step 16 and remember from step 7 on, audited by every stage of
``audit run``: sampling, evidence, controls, tests, verdicts. Prints truth beside verdict; exits 1 where one is wrong.
Samples copy once the weight of the own half is large, and copying goes before overfitting on the ladder.
About a minute of one core.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from auditor.lab.blend import Course
from auditor.lab.calibration import audited
from auditor.lab.fixture import Fixture

RIGHT = {"generalizing": ("generalizing",), "biased": ("biased",), "overfit": ("overfit", "memorizing")}
STEPS = (3, 5, 6, 9, 10, 17, 20)  # the weights of 7 and 8 are within the accepted lean


def main() -> None:
    """Audit the fixture, print the table."""
    fixture = Fixture(course=Course(memory=0.5, growth=1.0), n_train=2000, n_heldout=1000, taus=STEPS)
    with tempfile.TemporaryDirectory() as work:
        found = audited(fixture, Path(work) / "audit", n_samples=1000)
    print(f"{'step':>4}  {'weight':>6}  {'truth':<13} verdict")
    for row in found["rows"]:
        print(f"{row['tau']:>4}  {row['memory']:>6.2f}  {row['truth']:<13} {row['verdict']}")
    print(f"released: {found['recommended']}; controls passed: {found['trusted']}")
    sys.exit(any(row["verdict"] not in RIGHT[row["truth"]] for row in found["rows"]) or not found["trusted"])


if __name__ == "__main__":
    main()
