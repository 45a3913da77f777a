"""The figure of onsets by scale: does fine detail turn to the training images before coarse structure does?"""

from __future__ import annotations

from collections.abc import Iterable

from auditor.registry import HAAR, PCA, SCALES
from auditor.reports import Report, where
from auditor.reports.charts import BLUE, ORANGE, VERMILLION, Bar, Chart, Panel, Style

ONSETS = {  # onset -> panel, look
    "scale_predictions": ("Twins' predictions most alike", Style(BLUE, "dashed", "plus")),
    "scale_loss_bias": ("Losses begin to lean", Style(ORANGE, "solid", "inverted_triangle")),
    "divergence": ("Least distance of the twins' samples", Style(BLUE, "solid", "circle")),
    "bias": ("Samples begin to lean", Style(VERMILLION, "solid", "triangle")),
}
ENDS = {HAAR[0]: "coarse", HAAR[-1]: "fine", PCA[0]: "leading axes", PCA[-1]: "the rest"}


def charts(report: Report) -> list[Chart]:
    """Return the figure in a list, an empty one where the run knows nothing by scale."""
    panels = [
        Panel(title, "", bars=bars)
        for onset, (title, style) in ONSETS.items()
        if (bars := tuple(bars_of(report, onset, style)))
    ]
    if not panels:
        return []
    sampled = any(panel.title == ONSETS["bias"][0] for panel in panels)
    return [
        Chart(
            "onsets-by-scale",
            "Does fine detail turn to the training images first?",
            " ".join(words(report)),
            tuple(panels),
            tuple(report.steps),
            is_stacked=True,
            note=(
                "Haar wavelet bands from 0, an eighth of the resolution, to 3, the finest detail; principal subspaces "
                "of the training images from 0, the leading axes, to 3, what half of the axes leaves. Bars: steps that "
                "may hold the minimum (95% confidence sets), or from the first step not shown safe to the first "
                "finding. Each scale is measured per dimension. It makes no verdict"
                + ("." if sampled else "; --spaces pixel,correlation,clip,scales asks the samples, too.")
            ),
        )
    ]


def bars_of(report: Report, onset: str, style: Style) -> Iterable[Bar]:
    """Yield one bar per scale, coarse to fine."""
    rows = report.tables["onsets"]
    for row in rows[(rows.onset == onset) & rows.space.isin(SCALES)].sort_values("space").itertuples():
        found = row.status in ("found", "edge") and row.high >= 0
        label = f"{row.space} ({ENDS[row.space]})" if row.space in ENDS else row.space
        yield Bar(label, int(row.low), int(row.high), found, f"{where(row)} ({row.status})", style, row.space)


def words(report: Report) -> Iterable[str]:
    """Say for each onset where the coarsest and the finest scales have it."""
    rows = report.tables["onsets"]
    for onset, (title, _) in ONSETS.items():
        known = rows[rows.onset == onset].set_index("space")
        ends = [f"{where(known.loc[scale])} in {scale}" for scale in (*HAAR, *PCA) if scale in known.index]
        if ends:
            yield f"{title}: {'; '.join(ends)}."
