"""Minima and onsets as every report names them, and as bars of a figure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from auditor.reports import Report, where
from auditor.reports.charts import BLACK, BLUE, ORANGE, PURPLE, VERMILLION, Bar, Style


@dataclass(frozen=True)
class OnsetLook:
    """How one kind of onset is called and drawn."""

    name: str
    row: str  # of the figure
    style: Style
    symbol: str = ""
    of_twins: bool = False  # a single training has none

    @property
    def full_name(self) -> str:
        """The name with its symbol."""
        return f"{self.name} ({self.symbol})" if self.symbol else self.name


ONSETS = {  # as onsets.parquet calls them; those by scale are in ``by_scale``
    "divergence": OnsetLook(
        "least twin distance", "least distance", Style(BLUE, "solid", "circle"), symbol="τ_div", of_twins=True
    ),
    "predictions": OnsetLook(
        "twins' predictions most alike", "alike predictions", Style(BLUE, "dashed", "plus"), of_twins=True
    ),
    "loss": OnsetLook("least held-out loss", "least loss", Style(BLACK, "solid", "square"), symbol="τ_loss"),
    "loss_bias": OnsetLook("losses lean too much", "losses leaning", Style(ORANGE, "solid", "inverted_triangle")),
    "bias": OnsetLook("samples lean too much", "leaning", Style(VERMILLION, "solid", "triangle")),
    "copying": OnsetLook("samples copy too much", "copying", Style(PURPLE, "solid", "diamond")),
}


MINIMA = {  # onsets that are the least of a curve -> its metric
    "divergence": "twin_distance_ratio",
    "predictions": "prediction_variance",
    "loss": "loss_heldout",
}


def placed(report: Report, row: Any) -> str:
    """Return the steps of one onset in words; of a minimum also why it is not where its curve has the least value.

    Where the twins are least apart is asked of the steps that are not underfit alone; its table and curve show all.
    """
    values = report.estimates(MINIMA[row.onset], "both", row.space).value if row.onset in MINIMA else pd.Series()
    if row.low < 0 or values.dropna().empty:
        return where(row)
    least = values.idxmin()
    if str(least) in str(row.steps).split(","):
        return where(row)
    verdicts = report.tables["verdicts"].set_index("step")
    underfit = "underfit" in (verdicts.verdict[least], verdicts.get("quality", verdicts.verdict)[least])
    return f"{where(row)} {'of those not underfit' if underfit else f'(the least value at step {least:,})'}"


def known_onsets(report: Report, names: Iterable[str]) -> Iterable[tuple[OnsetLook, pd.DataFrame]]:
    """Yield each named onset that a run can have, with its rows."""
    rows = report.told_onsets
    for name in names:
        if report.scope.with_twin or not ONSETS[name].of_twins:
            yield ONSETS[name], rows[rows.onset == name]


def bars(
    report: Report, rows: pd.DataFrame, name: str, style: Style, ends: dict[str, str] | None = None
) -> Iterable[Bar]:
    """Yield one bar per row of onsets.parquet, called by ``name`` and space; ``ends`` says what some spaces are."""
    for row in rows.itertuples():
        space = f"{row.space} ({ends[row.space]})" if ends and row.space in ends else row.space
        label = ", ".join(filter(None, (name, space)))
        found = row.status in ("found", "edge") and row.high >= 0
        says = f"{placed(report, row)} ({row.status})"
        yield Bar(label, int(row.low), int(row.high), found=found, says=says, style=style, space=row.space)
