"""What networks tell of single training images, as plain data: whether membership is hidden, attacks, who is exposed.

Runs of earlier versions have no outcome, no scores fixed beforehand, and a list made by p values among held-out images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from auditor.reports import Report, printable
from auditor.reports.gallery import Shown, number, shown
from auditor.reports.sections import Cell

RATES = (0.01, 0.1)  # false-positive rates that are shown, the stricter first
LISTED = 20  # images named per step
PICTURED = 10  # of them shown


@dataclass(frozen=True)
class Concluded:
    """Whether membership is hidden at one step, and the sentences behind it."""

    step: int
    outcome: str  # hidden, exposed or undecided
    reasons: tuple[str, ...]


def outcomes(report: Report) -> list[Concluded]:
    """Return what is concluded at each step; nothing in a run of an earlier version."""
    found = report.record["checks"].get("membership", [])
    return [
        Concluded(each["step"], each["outcome"], (*each["reasons"], *([each["headline"]] if each["headline"] else [])))
        for each in found
    ]


@dataclass(frozen=True)
class Attacked:
    """What a score or the best attack found on one model at one step, or why that is withheld."""

    step: int
    twin: str
    attack: str
    hits: Cell
    false_alarms: Cell
    p: str
    reason: str = ""


@dataclass(frozen=True)
class Rate:
    """All attacks, or all scores that were fixed beforehand, at one false-positive rate."""

    name: str  # in percent
    rows: tuple[Attacked, ...]  # none where all are withheld
    reason: str  # why all of them are withheld


def rates(report: Report, chosen: str = "best of many") -> list[Rate]:
    """Return what attacks found, by false-positive rate: the best of many, or scores fixed ``beforehand``."""
    table = report.tables["attacks"]
    how = table.chosen if "chosen" in table else pd.Series("best of many", index=table.index)  # of an earlier version
    table = table[how == chosen]
    found = [(f"{rate:.0%}", table[table.target_fpr == rate]) for rate in RATES]
    return [rate_of(name, rows) for name, rows in found if len(rows)]


def rate_of(name: str, rows: pd.DataFrame) -> Rate:
    """Return one rate: its rows, or what all of them say in their place."""
    reasons = rows.note[rows.tpr.isna()].unique()
    if rows.tpr.isna().all() and len(reasons) == 1:
        return Rate(name, (), str(reasons[0]).removeprefix("withheld: "))
    return Rate(name, tuple(attacked(row) for row in rows.sort_values(["step", "twin"]).itertuples()), "")


def attacked(row: Any) -> Attacked:
    """Return one row of attacks.parquet as text."""
    if pd.isna(row.tpr):
        return Attacked(int(row.step), printable(row.twin), "–", Cell("–"), Cell("–"), "–", row.note)
    return Attacked(
        int(row.step),
        printable(row.twin),
        row.attack,
        Cell(f"{row.tpr:.1%}", f"{row.tpr_low:.1%} to {row.tpr_high:.1%}"),
        Cell(f"{row.fpr:.1%}", f"{row.fpr_low:.1%} to {row.fpr_high:.1%}"),
        "< .001" if row.p_value < 0.001 else f"{row.p_value:.3f}".removeprefix("0"),
    )


def no_attacks(report: Report) -> str:
    """Say why there are no attacks at all; empty where there are some."""
    scope = report.scope
    if not report.tables["attacks"].empty:
        return ""
    lacking = [name for name, given in (("training", scope.with_train), ("held-out", scope.with_heldout)) if not given]
    if lacking:
        return f"An attack is judged on training and held-out images; no {' and no '.join(lacking)} images were given."
    return "This run holds no attacks (attacks.parquet)."


# ---------------------------------------------------------------------------
# The most exposed images
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Exposed:
    """One training image of the list."""

    half: str
    id: str
    ratio: str  # of an earlier version its own; else beyond the median of its half
    p: str  # of an earlier version the p among held-out images; else the false discovery rate


@dataclass(frozen=True)
class Exposure:
    """The most exposed images of one step."""

    step: int
    name: str
    listed: int
    images: int
    rows: tuple[Exposed, ...]  # at most ``LISTED``, the most exposed first
    pictures: tuple[Shown, ...]  # of those that the run keeps; none where pictures are left out


def exposures(report: Report) -> list[Exposure]:
    """Return the most exposed images of the recommended step, if any, and of the last."""
    table = report.tables["exposure"]
    steps = {report.steps[-1]: "last"} | ({} if report.recommended is None else {report.recommended: "recommended"})
    return [exposure(report, table[table.step == step], step, steps[step]) for step in sorted(steps) if len(table)]


def exposure(report: Report, images: pd.DataFrame, step: int, name: str) -> Exposure:
    """Return the list of one step, with pictures where there are any."""
    of = ["value", "fdr"] if by_signs(report) else ["ratio", "p_value"]
    listed = images[images.listed.astype(bool)].sort_values(
        [of[1], of[0], "half", "id"], ascending=[True, False, True, True]
    )
    first = listed.head(LISTED)
    rows = tuple(
        Exposed(printable(r.half), printable(r.id), f"{getattr(r, of[0]):.2f}", f"{getattr(r, of[1]):.3f}")
        for r in first.itertuples()
    )
    return Exposure(step, name, len(listed), len(images), rows, tuple(pictured(report, first))[:PICTURED])


def by_signs(report: Report) -> bool:
    """Return whether the list was made by wrong signs (5.5), and not, as earlier, by p values among held-out images."""
    return "value" in report.tables["exposure"]


def pictured(report: Report, listed: pd.DataFrame) -> Iterator[Shown]:
    """Yield the pictures of listed images that the run keeps."""
    if report.record.get("pairs"):
        return
    album = report.album
    for row in listed.itertuples():
        picture = album.training_image(row.half, row.id)
        if picture.pixels is not None:
            yield shown(picture, f"half {printable(row.half)}", row.id, (f"ratio {number(row.ratio)}",))


def counts(report: Report) -> list[tuple[int, list[tuple[str, int]]]]:
    """Return per step how many images of each half are listed."""
    found = listed_counts(report)
    return [(int(step), [(printable(half), int(n)) for half, n in row.items()]) for step, row in found.iterrows()]


def listed_counts(report: Report) -> pd.DataFrame:
    """Return how many images are listed, by step and half: int64 ``[steps, halves]``; empty where it is not known."""
    table = report.tables["exposure"]
    if table.empty:
        return pd.DataFrame()
    return table.astype({"listed": int}).pivot_table(index="step", columns="half", values="listed", aggfunc="sum")


def no_exposure(report: Report) -> str:
    """Say why nobody is listed as exposed at any step; empty where there is a list, be it without an entry."""
    scope = report.scope
    if not report.tables["exposure"].empty:
        return ""
    if not report.scope.with_twin:
        return "A single training was audited: how exposed an image is takes a twin that was trained without it."
    if not scope.with_train or not scope.with_heldout:
        return "How exposed an image is takes training images and networks that can be asked about them."
    return "This run holds no list of exposed images (exposure.parquet)."
