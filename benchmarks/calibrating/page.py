"""Counts of asked worlds, kept in planted_copies.json, and the page docs/calibration.md made from them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from auditor.stats.counts import clopper_pearson, upper_limit
from calibrating import planted

RESULTS = Path(__file__).resolve().parents[1] / "planted_copies.json"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "calibration.md"
PEERS = ("C_T", "AuthPct", "Carlini", "1/3", "Dar")
LEAST_WORLDS = 300
RISKS = ("memorizing", "biased", "undecided")
N_CONDITIONS = 3  # conditions that a row of the table names
WIDE_REFERENCE = 0.57  # own_share of the smooth reference up to which smooth twins are to be released
INTRODUCTION = """# Calibration: how often copies are released, and private models are not

The worlds below are dealt, not trained: real images in two halves, samples that are real images (or images of a smooth
population) which nobody was trained on, and among them copies of training images, hidden in a known way at a known
rate. Each is asked by the audit's own tests, controls and rules, for `--release samples`, with the spaces pixel,
correlation, aligned and windows. This page is written by

    python benchmarks/planted_copies.py --cache FOLDER --write

from `benchmarks/planted_copies.json`. What the rates say about models whose truth is built in, see
[lab-calibration.md](lab-calibration.md); how often the tests alone err, [statistics.md](statistics.md) 13.

How a world is made: halves of n images are dealt at random from a few more; samples, S a twin, and 1,000 held-out
images (fewer where the set is small) from those that are left. In every other deal the twins draw four of five seeds
alike. A rate is the share of *samples* that are copies, in each twin, of images of its own half, each of another image
as long as there are enough. "Shifted" is by 2 pixels of 28 in any of eight directions, "zoomed" to .9 or 1/.9,
"blended half" half a training image and half a real image; parts are pasted in their own place into real images.
Images that are near-duplicates (correlation above .98) are left out beforehand, so that every image is a group of its
own. The smooth reference of a world is that of another deal of the same images: its spread is right, its hubs are not.
*Not covered here*: losses, membership (`--release weights`), quality, series of several checkpoints, deep spaces.

*Released* is what the audit recommends to release. Where it must not be, this is the wrong release rate, with its
one-sided upper 95 % limit; where it must be, the rate with its 95 % Clopper-Pearson interval. "(few)" are fewer than
300 worlds. Rows "not looked for" hide copies in ways that every release sentence excludes. *Decided by* counts the
worlds in which a condition failed or a finding was made, with the space where it did most often. **Peers** raise an
alarm in this share of the worlds: C_T (Meehan et al. 2020), AuthPct below that of held-out images (Alaa et al. 2022),
Carlini et al.'s ratio, the gap ratio of 1/3, and Dar et al.'s correlation, each at 2.5 % against held-out images; in
private worlds this is a false alarm.
"""
GOALS = """## Goals

| worlds | goal |
|---|---|
| copies, S = 2,000 and more, from 1 % on | released in at most 1 % |
| copies, S = 1,000, from 2 % on | released in at most 1 % |
| five people at .2 % | released in at most 5 % |
| private; smooth twins where the smooth reference is at most .57 in every space | released in at least 80 % |
| smooth twins | called biased in at most 5 % (upper limit, 1,000 worlds) |
"""


def key(row: str, rate: float) -> str:
    """Return the name of a row at a rate among answers."""
    return f"{row} | {rate:g}"


def counted(folder: Path, images: str, n: int, seeds: int) -> list[dict[str, Any]]:
    """Return the counts of every row and rate that was asked, in the order of the rows."""
    answers: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json"), key=lambda each: int(each.stem)):
        for name, answer in json.loads(path.read_text()).items():
            row, rate = name.rsplit(" | ", 1)
            answers.setdefault((row, float(rate)), []).append(answer)
    place = {name: i for i, name in enumerate(planted.ROWS)}
    found = []
    for row, rate in sorted(answers, key=lambda each: (place[each[0]], each[1])):
        mine = answers[row, rate]
        where = {"images": images, "n": n, "seeds": seeds, "row": row, "rate": rate}
        found.append(where | counts_of(row, mine))
    return found


def counts_of(row: str, answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what was said of the worlds of one row and rate; smooth twins count where they lean little."""
    few = [a for a in answers if row != planted.SMOOTH or a["reference"] <= WIDE_REFERENCE]
    return {
        "worlds": len(few),
        "released": sum(a["released"] for a in few),
        "all_worlds": len(answers),
        "risks": dict(Counter(a["risk"] for a in answers)),
        "why": by_rule([a["why"] for a in few]),
        "peers": {name: sum(a["peers"][name] for a in answers) for name in PEERS},
    }


def tables(rows: Iterable[dict[str, Any]]) -> str:
    """Return one table per image set and size."""
    parts, rows = [], list(rows)
    for where in dict.fromkeys((row["images"], row["n"], row["seeds"]) for row in rows):
        mine = [row for row in rows if (row["images"], row["n"], row["seeds"]) == where]
        images, n, seeds = where
        lines = [f"## {images}, {n:,} images a half, {seeds:,} seeds", ""]
        lines += [
            f"| samples | rate | worlds | released | goal | {' | '.join(RISKS)} | decided by | {' | '.join(PEERS)} |"
        ]
        lines += ["|---" * (6 + len(RISKS) + len(PEERS)) + "|"]
        parts.append("\n".join(lines + [line(row) for row in mine]))
    return "\n\n".join(parts)


def summary(rows: Iterable[dict[str, Any]]) -> str:
    """Return how many rows meet their goal, and which do not."""
    judged = [(row, goal(row, planted.ROWS[row["row"]].wanted)) for row in rows]
    judged = [(row, said) for row, said in judged if said]
    missed = [
        f"- {row['images']}, n = {row['n']:,}, S = {row['seeds']:,}: {row['row']}"
        f"{told(row['rate'])}: released in {row['released']} of {row['worlds']:,}"
        for row, said in judged
        if said.endswith("**")
    ]
    met = f"{len(judged) - len(missed)} of {len(judged)} rows and rates meet their goal."
    return "\n".join([met, *(["Not met:", "", *missed] if missed else [])])


def told(rate: float) -> str:
    """Return a rate in words; nothing for none."""
    return f" at {100 * rate:g} %" if rate else ""


def line(row: dict[str, Any]) -> str:
    """Return a row of a table."""
    wanted, n = planted.ROWS[row["row"]].wanted, row["worlds"]
    rate = f"{100 * row['rate']:g} %" if row["rate"] else ""
    risks = [f"{row['risks'].get(name, 0) / row['all_worlds']:.2f}" for name in RISKS]
    why = ", ".join(f"{name} {count}" for name, count in list(row["why"].items())[:N_CONDITIONS])
    peers = [f"{row['peers'][name] / row['all_worlds']:.2f}" for name in PEERS]
    name = row["row"] if wanted != planted.NOT_LOOKED_FOR else f"{row['row']} (not looked for)"
    cells = [name, rate, f"{n:,}{'' if n >= LEAST_WORLDS else ' (few)'}", released(row, wanted), goal(row, wanted)]
    return f"| {' | '.join([*cells, *risks, why, *peers])} |"


def by_rule(why: list[list[str]]) -> dict[str, int]:
    """Return in how many worlds each rule was met, with the space in which it was met most often."""
    worlds: Counter[str] = Counter()
    spaces: dict[str, Counter[str]] = {}
    for conditions in why:
        parts = [each.partition(": ") for each in conditions]
        worlds.update({rule for rule, *_ in parts})
        for rule, _, space in parts:
            spaces.setdefault(rule, Counter()).update([space])
    most = {rule: max(spaces[rule], key=lambda space, rule=rule: spaces[rule][space]) for rule in worlds}
    return {f"{rule} ({most[rule]})" if most[rule] else rule: n for rule, n in worlds.most_common()}


def released(row: dict[str, Any], wanted: str) -> str:
    """Return the rate of releases with its limits."""
    hits, n = row["released"], row["worlds"]
    if not n:
        return "none that count"
    if wanted == planted.RELEASED:
        low, high = clopper_pearson(hits, n)
        return f"{hits} ({hits / n:.3f} [{low:.3f}, {high:.3f}])"
    return f"{hits} ({hits / n:.3f}, at most {upper_limit(hits, n):.3f})"


def goal(row: dict[str, Any], wanted: str) -> str:
    """Return the goal of a row and whether the rate meets it; empty where there is none."""
    if not row["worlds"] or wanted == planted.NOT_LOOKED_FOR:
        return ""
    if row["row"] == planted.ANEW:
        return "told by losses"
    rate = row["released"] / row["worlds"]
    if wanted == planted.RELEASED:
        return f"≥ .80: {'met' if rate >= 0.8 else '**not met**'}"
    if "verbatim" in row["row"] and "people" in row["row"]:
        return f"≤ .05: {'met' if rate <= 0.05 else '**not met**'}"
    if row["rate"] >= (0.01 if row["seeds"] >= 2000 else 0.02):
        return f"≤ .01: {'met' if rate <= 0.01 else '**not met**'}"
    return ""


def store(rows: list[dict[str, Any]], not_asked: list[str]) -> None:
    """Keep the counts, and which blocks of worlds were asked in part or not at all."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    RESULTS.write_text(f'{{"not_asked": {json.dumps(not_asked)}, "rows": [\n{lines}\n]}}\n')


def write() -> None:
    """Write the page from the counts that are kept."""
    kept = json.loads(RESULTS.read_text())
    open_ = ", ".join(kept["not_asked"])
    left = (
        f"Blocks of worlds that are not asked yet, or in part: {open_}."
        if open_
        else "Every block of worlds was asked."
    )
    parts = (INTRODUCTION, GOALS, f"{summary(kept['rows'])}\n\n{left}\n", tables(kept["rows"]))
    PAGE.write_text("\n".join(parts) + "\n")
