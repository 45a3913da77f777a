"""Pictures as figures for a paper: the worst samples of a step, and single seeds through training, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from auditor.reports import Report, printable, shortened
from auditor.reports.album import LEFT_OUT, Case, Picture
from auditor.reports.gallery import chosen, number, ratio, strips, worst_cases

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS, FRAMES = 4, 9
SIDE = 1.15  # inches
NAMES = ("sample", "nearest own", "nearest other", "twin, same noise", "its nearest own")


def plates(report: Report) -> dict[str, Figure]:
    """Return the plates of a run by file name: none where no pictures are at hand."""
    if report.pictures == LEFT_OUT or not report.has_samples:
        return {}
    made = {f"evidence-step-{step}": evidence(cases) for step, _, cases in worst_cases(report, ROWS)}
    return made | {"seeds-through-training": films(report, strips(report))}


def evidence(cases: Sequence[Case]) -> Figure:
    """Return one row per case: the sample, its nearest images, the twin's sample from the same noise."""
    rows = [columns(case) for case in cases]
    figure, axes = board(len(rows), max(map(len, rows)))
    for at, (case, row) in enumerate(zip(cases, rows, strict=True)):
        side, numbers = case.mine, [f"seed {case.seed}, twin {case.twin.upper()}"]
        if side.own.id:
            numbers.append(f"nearest / next {ratio(side.gap)}")
        if side.other.id:
            numbers.append(f"own / other {ratio(side.ratio)}")
        axes[at, 0].set_ylabel("\n".join(numbers), rotation=0, ha="right", va="center", fontsize=7)
        for ax, (name, picture, below) in zip(axes[at], row, strict=False):
            show(ax, picture, below)
            if at == 0:
                ax.set_title(name, fontsize=7.5, weight="normal", loc="center")
    return figure


def columns(case: Case) -> list[tuple[str, Picture, str]]:
    """Return what stands side by side: name, picture, and its id and distance."""
    mine, theirs = case.mine, case.theirs
    found = [
        (mine.sample, ""),
        (mine.own, caption(mine.own, mine.own_distance)),
        (mine.other, caption(mine.other, mine.other_distance)),
        (theirs.sample, f"distance {number(case.twin_distance)}"),
        (theirs.own, caption(theirs.own, theirs.own_distance)),
    ]
    return [(name, picture, below) for name, (picture, below) in zip(NAMES, found, strict=True) if picture.id]


def caption(picture: Picture, distance: float) -> str:
    """Return id and distance of a training image."""
    return f"{shortened(printable(picture.id), 18)}\ndistance {number(distance)}"


def films(report: Report, seeds: Sequence[Sequence[Case]]) -> Figure:
    """Return one row per seed, and as many of the steps as have room; copies are framed."""
    every = chosen(report, seeds[0])
    steps = [every[i] for i in np.unique(np.linspace(0, len(every) - 1, min(FRAMES, len(every))).round().astype(int))]
    figure, axes = board(len(seeds), len(steps), SIDE * 0.72)
    for at, strip in enumerate(seeds):
        cases = {case.step: case for case in strip}
        name = f"seed {strip[0].seed}\ntwin {strip[0].twin.upper()}"
        axes[at, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
        for ax, step in zip(axes[at], steps, strict=True):
            side = cases[step].mine
            show(ax, side.sample, f"{ratio(side.gap)}{' copy' if side.is_copy else ''}" if side.own.id else "")
            for spine in ax.spines.values():
                spine.set(linewidth=2.2 if side.is_copy else 0.5, visible=True)
            if at == 0:
                ax.set_title(f"step {step:,}", fontsize=7, weight="normal", loc="center")
    return figure


def board(rows: int, columns: int, side: float = SIDE) -> tuple[Figure, np.ndarray]:
    """Return a figure of empty squares."""
    from matplotlib.figure import Figure

    left, height = 1.25, rows * (side + 0.4) + 0.3
    width = left + columns * (side + 0.12)
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(left / width, 0.4 / height, 0.99, 1 - 0.25 / height, wspace=0.1, hspace=0.4 / side)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes


def show(ax: Axes, picture: Picture, below: str) -> None:
    """Show one picture, or why there is none, with what stands below it."""
    ax.set_axis_on()
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(linewidth=0.5, visible=True)
    ax.set_xlabel(below, fontsize=6.5, parse_math=False)
    if picture.pixels is None:
        ax.text(0.5, 0.5, "no picture", transform=ax.transAxes, ha="center", va="center", fontsize=6.5)
        return
    gray = picture.pixels.shape[2] < 3
    pixels = picture.pixels[..., 0] if gray else picture.pixels[..., :3]
    ax.imshow(pixels, cmap="gray" if gray else None, vmin=0, vmax=255, interpolation="nearest")
