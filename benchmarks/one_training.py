"""One training beside held-out images: how often it is found to lean by chance, and copies are released.

    python benchmarks/one_training.py --cache FOLDER [PART ...] [--minutes 60] [--write]

``nulls``: the same samples, which nobody was trained on, while training and held-out images are dealt anew: every
finding is chance. ``planted``: among samples are copies of training images, hidden in a known way. ``elsewhere``:
held-out images of another scanner, class or size, or near the training images, and nobody copies. Banks are those of
planted_copies.py. What was asked is kept in FOLDER and gone on with; ``--write`` puts the counts into one_training.json
beside this file, and the tables made from them into docs/statistics.md 14.7.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for a test that imports this file

import hidden_copies
from calibrating import banks, elsewhere, planted
from calibrating.alone import DealAlone, WorldAlone, answered, difficulty
from planted_copies import MADE_UP, bank_of, rules

from auditor.stats.counts import clopper_pearson

WRITTEN = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"
BEGIN, END = "<!-- one training: begin -->", "<!-- one training: end -->"
SEEDS = 1000
FINDINGS = ("lean", "tail", "windows", "losses", "named", "copies", "called biased", "called memorizing")
PRIVATE = {"real images": "", "a smooth population": "population"}
NULL_SPACES = ("pixel", "correlation", "aligned-whole", "window-center", "window-frame")
HIDDEN = ("verbatim", "mirrored", "shifted 2 px", "zoomed to 90 %", "noise sd 16", "quarter pasted")


@dataclass(frozen=True)
class Block:
    """Deals of one image set with n training and m held-out images that are asked the same."""

    part: str
    images: str
    bank: int  # images a half of the bank
    n: int
    m: int
    deals: int

    @property
    def name(self) -> str:
        """What its answers are kept under."""
        return f"{self.part}-{self.images}-{self.n}-{self.m}"


NULLS = tuple(
    Block("nulls", images, n, n, m, 500)
    for images, n in (("digits", 500), ("x-rays", 500), ("portraits", 250))
    for m in (n, n // 4, n // 8)
)
PLANTED = tuple(Block("planted", "x-rays", 500 if m < 1000 else 850, 500, m, 100) for m in (200, 500, 1000))
ELSEWHERE = (Block("elsewhere", "x-rays", 0, elsewhere.N, elsewhere.M, 100),)
BLOCKS = (*NULLS, *PLANTED, *ELSEWHERE)


def played(bank: banks.Bank, kind: str, n: int) -> np.ndarray:
    """Return the rows that play the samples of every deal: of one kind, real images by default, drawn once."""
    rows = bank.rows.of[kind or "fresh"]
    if not kind and "fresh mirrored" in bank.rows.of:
        rows = np.concatenate([rows, bank.rows.of["fresh mirrored"]])
    return np.random.default_rng(7).choice(rows, n, replace=n > len(rows))


def ask(block: Block, bank: banks.Bank, number: int, seeds: int = SEEDS) -> dict[str, dict[str, object]]:
    """Return what is found in every world of one deal."""
    deal = DealAlone(bank, number, block.m, block.n)
    spaces, found = tuple(each for each in bank.size.spaces if block.part != "nulls" or each in NULL_SPACES), {}
    if block.part == "nulls":
        losses = difficulty(bank)[deal.images]
        for name, kind in PRIVATE.items():
            world = WorldAlone(deal, {"a": played(bank, kind, seeds)}, deal.heldout, spaces)
            found[name] = answered(world, losses)
        return found
    kinds = [(f"{kind}, {rate:.0%}", kind, rate) for kind in HIDDEN for rate in planted.LOW]
    for name, kind, rate in (
        *((f"private: {name}", kind, 0.0) for name, kind in PRIVATE.items()),
        *kinds,
        ("five people, verbatim, 0.2%", "verbatim", 0.002),
    ):
        rng = np.random.default_rng([number, seeds, len(name)])
        rows = planted.chosen(rng, bank.rows.of[kind] if name.startswith("private") and kind else deal.free, seeds)
        if rate:
            known = deal.copies(kind, "a")
            copies = planted.chosen(rng, known[:5] if name.startswith("five") else known, round(rate * seeds))
            if name.startswith("five"):
                copies = np.resize(planted.chosen(rng, known, 5), max(5, round(rate * seeds)))
            rows = planted.with_copies(deal, {"a": rows, "b": rows}, {"a": copies, "b": copies[:0]}, rng)["a"]
        found[name] = answered(WorldAlone(deal, {"a": rows}, deal.heldout, spaces))
    return found


@lru_cache(maxsize=1)
def cached(images: str, n: int, data: Path, cache: Path) -> banks.Bank:
    """Return the bank of one image set and size, with every space searched."""
    bank = bank_of(images, n, data, cache)
    for space in bank.size.spaces:
        bank.near(space)
    return bank


@lru_cache(maxsize=1)
def films(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return X-rays and their classes."""
    found = elsewhere.films(data)
    if found is None:
        raise SystemExit(f"x-rays: not in {data}")
    return found


def folder_of(block: Block, cache: Path) -> Path:
    """Return where the answers of a block lie, under the rules that answered."""
    return cache / "alone" / rules() / block.name


def run(block: Block, data: Path, cache: Path, until: float, seeds: int = SEEDS) -> None:
    """Ask the deals of a block that were not asked."""
    folder = folder_of(block, cache)
    folder.mkdir(parents=True, exist_ok=True)
    start, asked = time.time(), 0
    for number in range(block.deals):
        path = folder / f"{number}.json"
        if path.exists() or time.time() > until:
            continue
        part = path.with_suffix(f".{os.getpid()}.part")
        if block.part == "elsewhere":
            found = elsewhere.asked(*films(data), number)
        else:
            found = ask(block, cached(block.images, block.bank, data, cache), number, seeds)
        part.write_text(json.dumps(found))
        part.rename(path)
        asked += 1
    print(f"{block.name}: {asked} deals asked in {time.time() - start:.0f} s", flush=True)


def counted(block: Block, cache: Path) -> list[dict[str, object]]:
    """Return for each kind of world how many deals showed what."""
    answers = [json.loads(path.read_text()) for path in sorted(folder_of(block, cache).glob("*.json"))]
    rows = []
    for world in answers[0] if answers else ():
        mine = [each[world] for each in answers]
        counts = {name: sum(bool(each[name]) for each in mine) for name in mine[0] if name != "why"}
        why: dict[str, int] = {}
        for each in mine:
            for reason in each["why"]:
                why[reason] = why.get(reason, 0) + 1
        told = dict(sorted(why.items(), key=lambda item: -item[1])[:3])
        where = {"part": block.part, "images": block.images, "n": block.n, "m": block.m, "world": world}
        rows.append(where | {"deals": len(mine)} | counts | {"why": told})
    return rows


def rate(hits: int, n: int) -> str:
    """Return a rate with its 95 % Clopper-Pearson interval."""
    low, high = clopper_pearson(hits, n)
    return f"{hits / n:.1%} [{low:.1%}, {high:.1%}]"


def tables(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the tables of both parts in Markdown."""
    nulls, copies, others = ([row for row in rows if row["part"] == part] for part in ("nulls", "planted", "elsewhere"))
    shown = [name for name in FINDINGS if name != "called memorizing"]
    lines = [
        "| images | n | m | samples | deals | " + " | ".join(shown) + " | told not to be one deal |",
        "|---|---:|---:|---|---:|" + "---|" * (len(shown) + 1),
    ]
    for row in nulls:
        cells = [rate(row[name], row["deals"]) for name in (*shown, "told not to be one deal")]
        lines.append(
            f"| {row['images']} | {row['n']} | {row['m']} | {row['world']} | {row['deals']} | {' | '.join(cells)} |"
        )
    lines += [
        "",
        "| samples | m | worlds | released | memorizing | biased | decided by |",
        "|---|---:|---:|---|---|---|---|",
    ]
    for row in sorted(
        copies, key=lambda each: (not str(each["world"]).startswith("private"), each["world"], each["m"])
    ):
        why = ", ".join(f"{reason} {n}" for reason, n in row["why"].items())
        found = [rate(row[name], row["deals"]) for name in ("released", "called memorizing", "called biased")]
        lines.append(f"| {row['world']} | {row['m']:,} | {row['deals']} | {' | '.join(found)} | {why} |")
    lines += [
        "",
        "| held-out images | worlds | told not to be one deal | called biased | called memorizing | released |",
    ]
    lines.append("|---|---:|---|---|---|---|")
    for row in others:
        found = [rate(row[name], row["deals"]) for name in ("told not to be one deal", *shown[-1:])]
        found += [rate(row[name], row["deals"]) for name in ("called memorizing", "released")]
        kind = str(row["world"]).removeprefix("held-out images ")
        lines.append(f"| {kind} | {row['deals']} | {' | '.join(found)} |")
    return lines


def write(rows: list[dict[str, Any]]) -> None:
    """Write the counts, and the tables into the page."""
    WRITTEN.write_text(json.dumps(rows, indent=1) + "\n")
    head, rest = PAGE.read_text().split(BEGIN)
    _, tail = rest.split(END)
    PAGE.write_text(head + "\n".join([BEGIN, "", *tables(rows), "", END]) + tail)


def main() -> None:
    """Ask the parts that are named, or all, and write what is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="nulls, planted, elsewhere, or a block such as nulls-digits-500-125"
    )
    parser.add_argument("--data", type=Path, default=hidden_copies.SHARED, help="where the image sets lie")
    parser.add_argument("--cache", type=Path, help="where banks and answers are kept")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no deal after so many minutes")
    parser.add_argument("--write", action="store_true", help="write what is known into one_training.json")
    parser.add_argument("--smoke", action="store_true", help="a few made-up images: does it start?")
    given = parser.parse_args()
    if given.smoke:
        with tempfile.TemporaryDirectory() as cache:
            for block in (Block(part, MADE_UP, 50, 50, 20, 1) for part in ("nulls", "planted")):
                run(block, given.data, Path(cache), np.inf, 40)
                print(*(f"{row['world']}: {row['called biased']}" for row in counted(block, Path(cache))), sep="\n")
        return
    if given.cache is None:
        parser.error("--cache FOLDER is needed: where banks and answers are kept")
    until = time.time() + 60 * given.minutes
    for block in BLOCKS:
        if not given.write and (not given.parts or {block.part, block.name} & set(given.parts)):
            run(block, given.data, given.cache, until)
    if given.write:
        write([row for block in BLOCKS for row in counted(block, given.cache)])


if __name__ == "__main__":
    main()
