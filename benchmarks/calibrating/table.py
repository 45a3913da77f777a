"""Counts of simulated audits and the Markdown made from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from auditor.stats.counts import clopper_pearson

RESULTS = Path(__file__).resolve().parents[1] / "calibration.json"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "statistics.md"
SECTIONS = (
    "False alarms",
    "Tests that must fail",
    "Gaussian twins",
    "Coverage",
    "Biased phase",
    "Power",
    "Unbiased audits that are called generalizing",
)
BEGIN, END = "<!-- calibration: begin -->", "<!-- calibration: end -->"


@dataclass(frozen=True)
class Row:
    """How often each thing happened among ``n`` simulated cases; the first count is the one that is judged.

    ``aim`` is ``at most`` (the 95 % lower limit of the rate may not exceed ``bound``), ``at least``
    (the rate itself) or ``reported``; ``beyond`` (the lower limit must exceed it) is for tests that must fail.
    """

    section: str
    case: str
    n: int
    counts: Mapping[str, int]
    aim: str
    bound: float = 0.0
    note: str = ""

    @property
    def rate(self) -> float:
        """The share that is judged."""
        return next(iter(self.counts.values())) / self.n

    @property
    def met(self) -> bool | None:
        """Whether the criterion is met, None where there is none."""
        low, _ = clopper_pearson(next(iter(self.counts.values())), self.n)
        return {
            "at most": low <= self.bound,
            "at least": self.rate >= self.bound,
            "beyond": low > self.bound,
            "reported": None,
        }[self.aim]

    @property
    def criterion(self) -> str:
        """The criterion in words, with its outcome."""
        if self.aim == "reported":
            return "reported"
        words = {"at most": "lower limit ≤", "at least": "≥", "beyond": "must fail: lower limit >"}[self.aim]
        return f"{words} {self.bound:.0%}: {'met' if self.met else '**not met**'}"


def stored() -> dict[str, Row]:
    """Return the rows of the last run of every case."""
    if not RESULTS.exists():
        return {}
    return {key: Row(**values) for key, values in json.loads(RESULTS.read_text()).items()}


def store(rows: list[Row]) -> None:
    """Put rows among the stored ones, each in place of its predecessor."""
    everything = stored() | {f"{row.section} / {row.case}": row for row in rows}
    RESULTS.write_text(json.dumps({key: asdict(row) for key, row in everything.items()}, indent=1, default=int) + "\n")


def share(count: int, n: int) -> str:
    """Return a rate with its interval."""
    low, high = clopper_pearson(count, n)
    return f"{count / n:.1%} [{low:.1%}, {high:.1%}]"


def markdown(rows: list[Row]) -> str:
    """Return one table per section."""
    parts = []
    for section in dict.fromkeys(row.section for row in rows):
        mine = [row for row in rows if row.section == section]
        columns = list(dict.fromkeys(name for row in mine for name in row.counts))
        lines = [
            f"### {section}",
            "",
            f"| case | n | {' | '.join(columns)} | criterion |",
            "|---" * (len(columns) + 3) + "|",
        ]
        for row in mine:
            cells = [share(row.counts[name], row.n) if name in row.counts else "" for name in columns]
            case = f"{row.case} ({row.note})" if row.note else row.case
            lines.append(f"| {case} | {row.n:,} | {' | '.join(cells)} | {row.criterion} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def write_page(rows: Iterable[Row]) -> None:
    """Put the tables between the markers of docs/statistics.md, in one order whatever the order of the runs."""
    place = {name: i for i, name in enumerate(SECTIONS)}
    rows = sorted(rows, key=lambda row: (place[row.section], row.case))
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{markdown(rows)}\n\n{END}{after}")
