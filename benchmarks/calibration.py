"""Measure the error rates, coverage and power of the audit's own statistics on simulated audits.

Usage: python benchmarks/calibration.py [--only N3,power] [--series 500] [--quick] [--write]

Every simulated audit starts from neighbor tables of real images and runs through the
project's own tests and verdict rules; see docs/statistics.md, section 13. The results of the
last run of each case are kept in calibration.json beside this file; ``--write`` puts all of
them into docs/statistics.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for a test that imports this file

from calibrating import coverage, nulls, power, rerun, table

CASES: dict[str, Callable[[nulls.Size], Iterator[table.Row]]] = {
    **{name: lambda size, name=name: nulls.rows(name, size) for name in nulls.GENERATORS},
    "N9": nulls.smooth_rows,
    "coverage": coverage.rows,
    "power": power.rows,
    "generalizing": power.generalizing_rows,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen simulations, print their tables, and keep the results. Return 1 if a criterion is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"comma-separated beginnings of: {', '.join(CASES)}; or none")
    parser.add_argument("--series", type=int, help="simulated audits per case [default: 2,000 for N1 to N3, else 500]")
    parser.add_argument("--quick", action="store_true", help="few series of few checkpoints, nothing is kept: a check")
    parser.add_argument("--smoke", action="store_true", help="one audit of one case on few images: does it start?")
    parser.add_argument("--run", type=Path, help="N6 alone: a finished run directory, whose evidence is relabeled")
    parser.add_argument("--write", action="store_true", help="put all kept results into docs/statistics.md")
    chosen = parser.parse_args(arguments)
    if chosen.smoke:
        chosen.quick, chosen.series = True, 1
    size = nulls.Size(chosen.series, chosen.quick)
    cases: dict[str, Callable[[nulls.Size], Iterator[table.Row]]] = CASES
    if chosen.run:
        cases = {"N6": lambda size: rerun.rows(chosen.run, size)}
    if chosen.smoke:
        cases = {"N1 coupled": lambda size: nulls.rows("N1 coupled", size, (nulls.small_digits(),))}
    rows = []
    for name in (name for name in cases if not chosen.only or name.startswith(tuple(chosen.only.split(",")))):
        start = time.monotonic()
        found = list(cases[name](size))
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        rows += found
        if not chosen.quick:
            table.store(found)
    print(table.markdown(rows))
    if chosen.write:
        table.write_page(table.stored().values())
    return int(not chosen.quick and any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
