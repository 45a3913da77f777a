"""How often is a model released that hides copies, and how often one that does not? (docs/calibration.md)

    python benchmarks/planted_copies.py --cache FOLDER [BLOCK ...] [--processes 2] [--minutes 60] [--write]

Worlds are dealt from banks of real images (calibrating/banks.py) and asked by the audit's own tests, controls and rules
for `--release samples`. What was asked is kept in FOLDER, under the rules that answered: the command goes on where it
stopped, and asks anew where a rule has changed. ``--write`` puts the counts of FOLDER into planted_copies.json beside
this file and writes docs/calibration.md from it. Banks take minutes each and are made once; they hold distances, no
pictures, and FOLDER must not lie in the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for a test that imports this file

import hidden_copies
from calibrating import asking, banks, page, planted
from calibrating.deals import Deal

WORLDS = 300  # of each row and rate
RULES = (  # what an answer depends on, beside the bank
    *(
        f"measuring/{name}.py"
        for name in ("controls", "copies", "facts", "families", "halves", "lean", "named", "tail")
    ),
    *("measuring/verdict.py", "measuring/__init__.py", "stats", "config.py", "neighbors.py"),
)
MADE_UP = "made-up"
LARGE = 2000  # images a half from which a bank holds fewer rows


@dataclass(frozen=True)
class Block:
    """Rows of one image set at one size that are asked together, deal after deal."""

    name: str
    images: str
    n: int  # images a half
    seeds: int  # samples a twin
    rows: tuple[str, ...] = ()  # the main ones, if none are named
    rates: tuple[float, ...] = ()  # of the rows that hide copies, instead of 1 and 2 %
    worlds: int = WORLDS

    def cells(self) -> list[tuple[planted.Row, float]]:
        """Return every row at each of its rates."""
        names = self.rows or MAIN
        rows = [planted.ROWS[name] for name in names]
        return [(row, rate) for row in rows for rate in (self.rates if row.rates == planted.LOW else ()) or row.rates]

    def is_asked(self, rows: list[dict[str, Any]]) -> bool:
        """Tell whether all of its worlds were asked."""
        where = self.images, self.n, self.seeds
        mine = [each for each in rows if (each["images"], each["n"], each["seeds"]) == where]
        known = {(each["row"], each["rate"]): each["all_worlds"] for each in mine}
        return all(known.get((row.name, rate), 0) >= self.worlds for row, rate in self.cells())


HIDDEN = planted.HIDDEN
PRIVATE = tuple(name for name in planted.ROWS if name.startswith("private: "))
MAIN = (*PRIVATE, *HIDDEN, "five people, verbatim", "halves exchanged, verbatim")
KEY = (  # the rows that are asked where a world takes long
    *("private: real images, other seeds", "private: real images, shared seeds", "private: a smooth population"),
    *("verbatim", "mirrored", "shifted 2 px", "noise sd 16", "blended half", "quarter pasted", "five people, verbatim"),
)
SERIES = tuple(name for name in planted.ROWS if name.endswith(planted.SERIES))
OTHERS = tuple(name for name in planted.ROWS if name not in (*MAIN, *SERIES, planted.SMOOTH))
BLOCKS = {
    block.name: block
    for block in (
        Block("x-rays", "x-rays", 500, 1000, rates=(0.02,)),
        Block("x-rays-low", "x-rays", 500, 1000, HIDDEN, (0.01,)),
        Block("x-rays-others", "x-rays", 500, 1000, OTHERS),
        Block("x-rays-4000", "x-rays", 500, 4000, KEY, (0.01,)),
        Block("x-rays-2000", "x-rays", 2000, 1000, KEY, (0.02,)),
        Block("hands", "hands", 500, 1000, rates=(0.02,)),
        Block("digits", "digits", 500, 1000, rates=(0.02,)),
        Block("x-rays-smooth", "x-rays", 500, 1000, (planted.SMOOTH,), worlds=1000),
        Block("x-rays-series", "x-rays", 500, 1000, SERIES, (0.02,)),
        Block("x-rays-more", "x-rays", 500, 1000, HIDDEN, (0.05, 0.005)),
        Block("x-rays-2000-4000", "x-rays", 2000, 4000, KEY, (0.01,)),
        Block("portraits", "portraits", 250, 1000, rates=(0.02,)),
        Block("cells", "cells", 500, 1000, rates=(0.02,)),
        Block("x-rays-much", "x-rays", 500, 1000, HIDDEN, (0.2, 1.0)),
        Block("x-rays-100", "x-rays", 100, 1000, rates=(0.02,)),
        Block("x-rays-2000-smooth", "x-rays", 2000, 1000, (planted.SMOOTH,)),
        Block("hands-smooth", "hands", 500, 1000, (planted.SMOOTH,)),
    )
}


def made_up() -> np.ndarray:
    """Return a few smooth pictures, uint8 ``[n, 28, 28, 1]``."""
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(160, 28, 28)), (0, 3, 3))
    return hidden_copies.as_bytes(127 + 300 * noise)[..., None]


@lru_cache(maxsize=1)
def bank_of(images: str, n: int, data: Path, cache: Path) -> banks.Bank:
    """Return the bank of one image set and size."""
    if images == MADE_UP:
        size = banks.Size(n, 100, 40, 40, 80, strangers=1, smooth=40, spaces=("pixel", "correlation", "window-center"))
        return banks.Bank(images, made_up(), size, cache)
    size = banks.Size(n)
    if n >= LARGE:  # the same in less time
        size = banks.Size(n, 4500, 1000, 200, 800, 600, strangers=2, smooth_aligned=1000, train_aligned=False)
    found = hidden_copies.images_of(images, data)
    if found is None:
        raise SystemExit(f"{images}: not in {data}")
    return banks.Bank(images, banks.without_near_duplicates(found), size, cache)


@lru_cache(maxsize=1)
def rules() -> str:
    """Return a digest of the rules that answer."""
    root = Path(asking.measuring.__file__).resolve().parents[1]
    files = [file for name in RULES for file in ([root / name] if "." in name else sorted((root / name).rglob("*.py")))]
    revisions = " ".join(banks.opened(name).revision for name in banks.SPACES)
    return sha256(revisions.encode() + b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def answers_of(block: Block, cache: Path) -> Path:
    """Return where the answers of a block lie."""
    return cache / "answers" / rules() / f"{block.images}-{block.n}-{block.seeds}"


def ask(block: Block, data: Path, cache: Path, until: float, number: int) -> int:
    """Ask every row of a block that was not asked of one deal; return how many were."""
    path = answers_of(block, cache) / f"{number}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    missing = [(row, rate) for row, rate in block.cells() if page.key(row.name, rate) not in known]
    if not missing or time.time() > until:
        return 0
    deal = Deal(bank_of(block.images, block.n, data, cache), number)
    for row, rate in missing:
        seed = int.from_bytes(sha256(page.key(row.name, rate).encode()).digest()[:4], "big")
        world = row.draw(deal, block.seeds, rate, np.random.default_rng([number, block.seeds, seed]))
        known[page.key(row.name, rate)] = asdict(asking.asked(world))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(known))
    part.rename(path)
    return len(missing)


def run(block: Block, data: Path, cache: Path, processes: int, until: float) -> None:
    """Ask a block, deal after deal, in several processes."""
    start, task = time.time(), partial(ask, block, data, cache, until)
    bank = bank_of(block.images, block.n, data, cache)  # made here, once; processes inherit it
    for space in bank.size.spaces:
        bank.near(space)
    if processes == 1:
        asked = sum(map(task, range(block.worlds)))
    else:
        with ProcessPoolExecutor(processes) as pool:
            asked = sum(pool.map(task, range(block.worlds)))
    print(f"{block.name}: {asked} worlds asked in {time.time() - start:.0f} s", flush=True)


def main() -> None:
    """Ask the blocks that are named, or all, and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("blocks", nargs="*", metavar="BLOCK", help=f"of {', '.join(BLOCKS)}; all, in this order")
    parser.add_argument("--data", type=Path, default=hidden_copies.SHARED, help="where the image sets lie")
    parser.add_argument("--cache", type=Path, help="where banks and answers are kept")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no deal after so many minutes")
    parser.add_argument("--write", action="store_true", help="write what is known into docs/calibration.md")
    parser.add_argument("--smoke", action="store_true", help="a few made-up images: does it start?")
    given = parser.parse_args()
    if given.smoke:
        with tempfile.TemporaryDirectory() as cache:
            block = Block(MADE_UP, MADE_UP, 50, 40, worlds=1)
            run(block, given.data, Path(cache), 1, np.inf)
            print(page.tables(page.counted(answers_of(block, Path(cache)), block.images, block.n, block.seeds)))
        return
    if given.cache is None:
        parser.error("--cache FOLDER is needed: where banks and answers are kept")
    until = time.time() + 60 * given.minutes
    chosen = [BLOCKS[name] for name in given.blocks or BLOCKS] if not given.write or given.blocks else []
    for block in chosen:
        run(block, given.data, given.cache, given.processes, until)
    if given.write:
        found = {(b.images, b.n, b.seeds): answers_of(b, given.cache) for b in BLOCKS.values()}
        rows = [row for (images, n, seeds), path in found.items() for row in page.counted(path, images, n, seeds)]
        page.store(rows, [block.name for block in BLOCKS.values() if not block.is_asked(rows)])
        page.write()


if __name__ == "__main__":
    main()
