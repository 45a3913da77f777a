"""What every figure of a report shows, as plain data: curves, bands, spans, labels, and the same in words.

The page for a browser and the files for a paper draw the same charts; neither decides what is in them.
Colors are those of Okabe and Ito, which color-blind readers can tell apart; every curve differs from its
neighbors by dash and marker, too, so that a gray print loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

BLACK, GRAY = "#1a1a1a", "#6b6b6b"
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#aa4499", "#b87d00", "#3d8fc4"
COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
DASHES = ("solid", "dashed", "dotted", "dashdot")
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "plus")


@dataclass(frozen=True)
class Style:
    """How a curve is drawn."""

    color: str = BLACK
    dash: str = "solid"
    marker: str = "circle"  # "" for none


@dataclass(frozen=True)
class Curve:
    """One curve: values with their interval, and what hovering over a point says."""

    name: str
    x: np.ndarray  # float64 [n], steps or distances
    y: np.ndarray  # float64 [n], NaN where undefined
    style: Style
    low: np.ndarray | None = None  # float64 [n], the band drawn; NaN where there is none
    high: np.ndarray | None = None
    marked: np.ndarray | None = None  # bool [n], filled markers; None: all
    says: tuple[str, ...] = ()  # per point, the interval, n and what else to know
    definition: str = ""
    space: str = ""  # what it can be chosen by
    series: str = ""
    shown: bool = True  # drawn at first; the page can show the others
    is_control: bool = False  # kept in the background
    steps_like: bool = False  # a staircase: each y holds from its x to the next


@dataclass(frozen=True)
class Level:
    """A horizontal line: a reference that does not depend on the step."""

    name: str
    y: float
    style: Style
    space: str = ""


@dataclass(frozen=True)
class Span:
    """A range of steps, shaded over the whole height; from the middle before ``low`` to the middle after ``high``."""

    name: str
    low: int
    high: int
    color: str
    hatch: str = ""  # "/", "\\\\", "." or nothing
    is_between: bool = False  # from ``low`` to ``high`` themselves

    def ends(self, steps: Sequence[int], logarithmic: bool) -> tuple[float, float]:
        """Return where it begins and ends on an axis of ``steps``, in steps."""
        return (self.low, self.high) if self.is_between else edges(steps, self.low, self.high, logarithmic)


@dataclass(frozen=True)
class Mark:
    """A vertical line at one step."""

    name: str
    step: int
    style: Style


@dataclass(frozen=True)
class Bar:
    """One onset on a row of its own."""

    row: str
    low: int  # -1: open
    high: int
    found: bool
    says: str
    style: Style
    space: str = ""

    @property
    def known(self) -> list[int]:
        """The ends that are not open: none of an onset that is nowhere."""
        return [step for step in (self.low, self.high) if step >= 0]

    def ends(self, steps: Sequence[int], logarithmic: bool) -> tuple[float, float]:
        """Return where it begins and ends on an axis of ``steps``, in steps; an open end is that of the axis."""
        left, right = padded(steps, logarithmic)
        return (self.low if self.low >= 0 else left), (self.high if self.high >= 0 else right)


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    title: str
    label: str  # of the vertical axis
    curves: tuple[Curve, ...] = ()
    levels: tuple[Level, ...] = ()
    spans: tuple[Span, ...] = ()
    marks: tuple[Mark, ...] = ()
    bars: tuple[Bar, ...] = ()
    is_share: bool = False  # shown in percent
    from_zero: bool = False  # the vertical axis begins at 0
    is_logarithmic: bool = False  # the vertical axis
    note: str = ""  # shown where there is nothing to draw


@dataclass(frozen=True)
class Chart:
    """One figure: panels with a common horizontal axis."""

    key: str  # file name and anchor
    title: str
    words: str  # what the figure shows, with its numbers
    panels: tuple[Panel, ...]
    steps: tuple[int, ...] = ()  # of the horizontal axis; none: it is a distance
    label: str = "training step"
    counted: str = "step"  # what a whole number on the horizontal axis is
    is_stacked: bool = False  # panels lie over one another, on one axis
    note: str = ""  # how to read it

    @property
    def is_logarithmic(self) -> bool:
        """Whether steps are better shown on a logarithmic axis, to begin with."""
        return self.has_logarithm and self.steps[-1] >= 10 * self.steps[0]

    @property
    def has_logarithm(self) -> bool:
        """Whether steps can be shown on a logarithmic axis: there are several, all above 0."""
        return len(self.steps) > 1 and self.steps[0] > 0

    @property
    def curves(self) -> tuple[Curve, ...]:
        """All curves of all panels."""
        return tuple(curve for panel in self.panels for curve in panel.curves)

    @property
    def spaces(self) -> list[str]:
        """The spaces that a reader can choose from: none where each has a panel of its own."""
        per_panel = [{curve.space for curve in panel.curves if curve.space} for panel in self.panels]
        if all(len(each) < 2 for each in per_panel):
            return []
        return distinct(curve.space for curve in self.curves if curve.space)

    @property
    def series(self) -> list[str]:
        """The curves that a reader can choose from."""
        return distinct(curve.series for curve in self.curves if curve.series)


@dataclass(frozen=True)
class Heat:
    """A number per step and noise level, by color and in figures."""

    key: str  # file name and anchor
    title: str
    words: str  # what it shows, with its numbers
    steps: tuple[int, ...]  # rows
    times: tuple[int, ...]  # columns, diffusion times
    values: np.ndarray  # float64 [steps, times], NaN where unknown
    marked: np.ndarray  # bool [steps, times]
    limit: float  # the magnitude that has the full color
    note: str = ""  # how to read it
    mark: str = ""  # what the marks mean, in short

    @property
    def rows(self) -> list[tuple[int, list[tuple[str, str, bool]]]]:
        """Per step its cells: text, color, and whether it is marked."""
        return [
            (step, [(signed(value), self.color(value), bool(mark)) for value, mark in zip(*row, strict=True)])
            for step, *row in zip(self.steps, self.values, self.marked, strict=True)
        ]

    def color(self, value: float) -> str:
        """Return the color of a value: white at 0, orange above, blue below; black text can be read on all of them."""
        if not np.isfinite(value):
            return "#ffffff"
        return mixed(VERMILLION if value > 0 else BLUE, 0.7 * min(abs(value) / self.limit, 1.0))


def signed(value: float) -> str:
    """Return a number with its sign, or a dash where it is not known; what rounds to 0 has none."""
    if not np.isfinite(value):
        return "–"
    return "0.00" if abs(value) < 0.005 else f"{value:+.2f}".replace("-", "−")


def mixed(color: str, share: float) -> str:
    """Return a color mixed with white: ``share`` of it, 0 to 1."""
    parts = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in parts)


def distinct(values: Iterable[str]) -> list[str]:
    """Return the values without repetition, in order."""
    return list(dict.fromkeys(values))


def ticks(steps: Sequence[int], logarithmic: bool, most: int = 8) -> list[int]:
    """Return which steps to label: audited ones, spread evenly over the axis, the first and the last among them."""
    at = np.log(steps) if logarithmic else np.asarray(steps, float)
    least = (at[-1] - at[0]) / most if len(steps) > 1 else 0
    kept = [len(steps) - 1]
    for i in range(len(steps) - 2, -1, -1):
        if at[kept[-1]] - at[i] >= least and (i == 0 or at[i] - at[0] >= least):
            kept.append(i)
    if kept[-1] != 0:
        kept.append(0)
    return [int(steps[i]) for i in reversed(kept)]


def edges(steps: Sequence[int], low: int, high: int, logarithmic: bool) -> tuple[float, float]:
    """Return where a set of steps begins and ends on the axis: half way to the steps outside it."""
    forth, back = (np.log, np.exp) if logarithmic else (np.asarray, np.asarray)
    at = forth(np.asarray(steps, float))
    first, last = steps.index(low), steps.index(high)
    width = (at[-1] - at[0]) / max(len(at) - 1, 1) or 1.0
    before = (at[first] + at[first - 1]) / 2 if first else at[0] - width / 4
    after = (at[last] + at[last + 1]) / 2 if last + 1 < len(at) else at[-1] + width / 4
    return float(back(before)), float(back(after))


def padded(steps: Sequence[int], logarithmic: bool) -> tuple[float, float]:
    """Return the ends of the axis of steps, with room for markers."""
    if logarithmic:
        room = (steps[-1] / steps[0]) ** 0.04
        return steps[0] / room, steps[-1] * room
    room = (steps[-1] - steps[0]) * 0.04 or 1.0
    return steps[0] - room, steps[-1] + room
