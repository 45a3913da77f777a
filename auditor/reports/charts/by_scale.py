"""The figure of onsets by scale: does fine detail turn to the training images before coarse structure does?"""

from __future__ import annotations

from collections.abc import Iterable

from auditor.registry import HAAR, PCA, SCALES
from auditor.reports import Report, where
from auditor.reports.charts import BLUE, ORANGE, VERMILLION, Chart, Panel, Style
from auditor.reports.charts.onsets import bars

PANELS = {  # onset -> panel, look
    "scale_predictions": ("Twins' predictions most alike", Style(BLUE, "dashed", "plus")),
    "scale_loss_bias": ("Losses lean too much", Style(ORANGE, "solid", "inverted_triangle")),
    "divergence": ("Least distance of the twins' samples", Style(BLUE, "solid", "circle")),
    "bias": ("Samples lean too much", Style(VERMILLION, "solid", "triangle")),
}
ENDS = {HAAR[0]: "coarse", HAAR[-1]: "fine", PCA[0]: "leading axes", PCA[-1]: "the rest"}


def charts(report: Report) -> list[Chart]:
    """Return the figure in a list, an empty one where the run knows nothing by scale."""
    rows = report.tables["onsets"]
    rows = rows[rows.space.isin(SCALES)].sort_values("space")  # coarse to fine
    panels = [
        Panel(title, "", bars=drawn)
        for onset, (title, style) in PANELS.items()
        if (drawn := tuple(bars(report, rows[rows.onset == onset], "", style, ENDS)))
    ]
    if not panels:
        return []
    sampled = any(panel.title == PANELS["bias"][0] for panel in panels)
    return [
        Chart(
            "onsets-by-scale",
            "Does fine detail turn to the training images first?",
            " ".join(words(report)),
            tuple(panels),
            report.steps,
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


def words(report: Report) -> Iterable[str]:
    """Say for each onset where the coarsest and the finest scales have it."""
    rows = report.tables["onsets"]
    for onset, (title, _) in PANELS.items():
        known = rows[rows.onset == onset].set_index("space")
        ends = [f"{where(known.loc[scale])} in {scale}" for scale in (*HAAR, *PCA) if scale in known.index]
        if ends:
            yield f"{title}: {'; '.join(ends)}."
