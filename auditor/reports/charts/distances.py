"""How far samples lie from training images, and whether the spaces agree: read from the evidence tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from auditor.neighbors import is_copy
from auditor.reports import Report
from auditor.reports.album import copy_ratios
from auditor.reports.charts import BLACK, BLUE, VERMILLION, Chart, Curve, Panel, Style
from auditor.run import RunDirectory, tables
from auditor.run.places import EVIDENCE

N_BINS = 40
SAMPLE_COLUMNS = ("own_id_1", "own_distance_1", "other_distance_1", "own_outside_distance")
HELDOUT_COLUMNS = ("a_distance_1", "b_distance_1")
LOOKS = {
    "samples to own": Style(VERMILLION, "solid", ""),
    "samples to other": Style(BLUE, "dashed", ""),
    "held-out to own": Style(BLACK, "dotted", ""),
}


@dataclass(frozen=True)
class Nearest:
    """Distances of a run's samples and held-out images to training images; each table is read once."""

    report: Report

    @cached_property
    def _read(self) -> dict[tuple[str, str, int], Mapping[str, Any]]:
        return {}

    def samples(self, space: str, twin: str, step: int) -> Mapping[str, Any]:
        """Return the columns of one evidence table."""
        key = (space, twin, step)
        if key not in self._read:
            path = RunDirectory(self.report.root).place(EVIDENCE, f"{twin}/{step}", space)
            self._read[key] = tables.arrays(path, SAMPLE_COLUMNS)
        return self._read[key]

    def heldout(self, space: str) -> np.ndarray:
        """Return the distances from held-out images to the nearest image of each half; empty where none were given."""
        if not self.report.scope.with_heldout:
            return np.empty(0)
        found = tables.arrays(RunDirectory(self.report.root).place(EVIDENCE, "heldout", space), HELDOUT_COLUMNS)
        return np.concatenate([found[f"{twin}_distance_1"] for twin in self.report.scope.twins])

    def by_role(self, space: str, step: int) -> dict[str, np.ndarray]:
        """Return the nearest distances of both twins' samples to own and to other, and of held-out images."""
        both = [self.samples(space, twin, step) for twin in self.report.scope.twins]
        found = {
            "samples to own": np.concatenate([each["own_distance_1"] for each in both]),
            "samples to other": np.concatenate([each["other_distance_1"] for each in both]),
            "held-out to own": self.heldout(space),
        }
        return {name: values[np.isfinite(values)] for name, values in found.items()}


def charts(report: Report, nearest: Nearest) -> list[Chart]:
    """Return one chart per key step: a histogram of nearest distances per space."""
    if not report.scope.with_train or not report.has_samples:
        return []
    return [chart(report, nearest, step, name) for step, name in report.key_steps.items()]


def chart(report: Report, nearest: Nearest, step: int, name: str) -> Chart:
    """Return the histograms of one step."""
    found = {space: nearest.by_role(space, step) for space in report.drawn_spaces}
    panels = tuple(histogram(space, roles) for space, roles in found.items())
    return Chart(
        f"nearest-distances-step-{step}",
        f"Distances to the nearest training image, step {step:,} ({name})",
        " ".join(words(space, roles) for space, roles in found.items()),
        panels,
        label="distance to the nearest training image",
        note=(
            "Samples of every training to their own half and to the other, and real held-out images to each half. "
            "Copies would show as a hump near 0 that held-out images do not have; a lean as a gap between the first "
            "two curves."
        ),
    )


def histogram(space: str, roles: Mapping[str, np.ndarray]) -> Panel:
    """Return the shares per bin of equal width, from 0 to the largest distance."""
    largest = max((values.max() for values in roles.values() if len(values)), default=0.0)
    edges = np.linspace(0, largest or 1.0, N_BINS + 1)
    curves = []
    for name, values in roles.items():
        if not len(values):
            continue
        shares = np.append(np.histogram(values, edges)[0] / len(values), 0.0)
        says = *(f"{low:.4g} to {high:.4g}; n = {len(values):,}" for low, high in pairwise(edges)), ""
        means, look = f"share of distances per bin, {space}", LOOKS[name]
        curves.append(Curve(name, edges, shares, look, says=says, definition=means, series=name, steps_like=True))
    return Panel(space, "share per bin", tuple(curves), is_share=True, from_zero=True)


def words(space: str, roles: Mapping[str, np.ndarray]) -> str:
    """Say the medians."""
    medians = ", ".join(f"{name} {np.median(values):.3g}" for name, values in roles.items() if len(values))
    return f"Median distances in {space}: {medians}."


@dataclass(frozen=True)
class Agreement:
    """How far another space agrees with the one in which copies are counted, at one step."""

    space: str
    same_nearest: float  # share of samples whose nearest own image is the same in both
    flagged: int  # samples that the gap ratio flags in this space
    flagged_in_both: int


def agreements(report: Report, nearest: Nearest, step: int) -> Iterable[Agreement]:
    """Yield per space how far it agrees with that of copies, over both twins' samples."""
    base = report.scope.picture_space
    for space in report.drawn_spaces:
        pairs = [(nearest.samples(base, twin, step), nearest.samples(space, twin, step)) for twin in report.scope.twins]
        same = np.concatenate([one["own_id_1"].values == two["own_id_1"].values for one, two in pairs])
        first = np.concatenate([copied(report, base, one) for one, _ in pairs])
        second = np.concatenate([copied(report, space, two) for _, two in pairs])
        yield Agreement(space, float(same.mean()), int(second.sum()), int((first & second).sum()))


def copied(report: Report, space: str, found: Mapping[str, Any]) -> np.ndarray:
    """Return which samples the copying rule of this run flags in a space."""
    return is_copy(found["own_distance_1"], found["own_outside_distance"], copy_ratios(report.record).get(space))
