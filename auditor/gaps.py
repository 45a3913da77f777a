"""What a pruned series of checkpoints leaves open: trainers delete them, and keep the last, or the best."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from auditor.records import UNITS


def gaps(steps: Sequence[int], unit: str) -> list[str]:
    """Return what a series that starts late or has holes leaves open.

    It starts late where the first step is more than 1.5 times the median distance between steps; a hole is a distance
    of at least 1.9 times both of its neighbours, or, at the end of an even series, 1.9 times all others.
    """
    steps = sorted(set(steps))  # a scan also shows series in which a step is there twice
    if len(steps) < 3:
        return []
    between = [late - early for early, late in pairwise(steps)]
    lines, counted = [], UNITS.get(unit, unit)
    if steps[0] > 1.5 * median(between):
        share = round(100 * steps[0] / steps[-1])
        lines.append(
            f"The series starts at {steps[0]:,} of {steps[-1]:,} {counted} ({share} %); earlier checkpoints were not "
            "saved, or were deleted: an earlier onset, and an earlier safe step, can be neither ruled in nor ruled out."
        )
    for i, width in enumerate(between):
        last = i + 1 == len(between)
        beside = between[:i] if last else between[i - 1 : i] + between[i + 1 : i + 2]
        if last and (len(beside) < 2 or max(beside) > 1.5 * min(beside)):
            continue  # the distances grow: nothing tells what the last one should be
        if i and width >= 1.9 * max(beside):
            lines.append(
                f"There is no checkpoint between {steps[i]:,} and {steps[i + 1]:,} {counted}, a hole of "
                f"{width / max(beside):.1f} times the usual distance: an onset inside it cannot be placed more exactly."
            )
    return lines
