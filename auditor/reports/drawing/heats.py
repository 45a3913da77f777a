"""Maps over steps and noise levels as figures for a paper, by matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.reports import Report
from auditor.reports.charts import BLACK, Heat, networks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, ROW, FRAME = 7.2, 0.24, 1.0  # inches: width, a row, and what lies above and below
MOST_ROWS, MOST_COLUMNS = 40, 12  # of more, cells hold marks only


def drawn(report: Report) -> dict[str, Figure]:
    """Return every map of a report as a matplotlib figure, by name."""
    return {each.key: draw(each) for each in networks.heats(report)}


def draw(heat: Heat) -> Figure:
    """Return a map: a row per step, a column per noise level, numbers in the cells while they can be read."""
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    n, m = heat.values.shape
    row = ROW if n <= MOST_ROWS else ROW * MOST_ROWS / n
    height = n * row + FRAME
    figure = Figure(figsize=(WIDTH, height))
    ax = figure.add_axes((0.11, 0.6 / height, 0.86, n * row / height))
    ax.imshow([[to_rgb(heat.color(value)) for value in each] for each in heat.values], aspect="auto")
    for i, (_, cells) in enumerate(heat.rows):
        for j, (said, _, marked) in enumerate(cells):
            label = (said if is_legible(n, m) else "") + ("!" if marked else "")
            ax.text(
                j, i, label, ha="center", va="center", color=BLACK, weight="bold" if marked else "normal", fontsize=7
            )
    every = max(1, -(-n // MOST_ROWS)), max(1, -(-m // MOST_COLUMNS))
    ax.set_yticks(range(0, n, every[0]), [f"{step:,}" for step in heat.steps[:: every[0]]])
    ax.set_xticks(range(0, m, every[1]), [str(t) for t in heat.times[:: every[1]]])
    ax.tick_params(length=0)
    ax.set_xlabel("; ".join(filter(None, (networks.TIME, heat.mark))))
    ax.set_ylabel("training step")
    ax.set_title(heat.title)
    return figure


def is_legible(n: int, m: int) -> bool:
    """Return whether numbers fit into the cells of a map."""
    return n <= MOST_ROWS and m <= MOST_COLUMNS
