"""What a run compares: twins, steps, spaces; and what a pruned series of checkpoints leaves open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from auditor.config import COPY_RATIO, HEADLINE_SPACE, WINDOW_RATIO
from auditor.records import DECOYS, TWINS, UNITS, other_twin
from auditor.registry import SCALES, WINDOWS

SELDOM = (
    "distance_spaces",
    "final",
    "progress",
    "decoys",
    "release",
    "release_size",
    "weights",
)  # fields that few runs have, or that came later


@dataclass(frozen=True)
class Scope:
    """What a run was asked to look at: the axes of every table."""

    steps: tuple[int, ...]
    spaces: tuple[str, ...]
    n_samples: int
    seed: int
    with_train: bool
    with_heldout: bool
    fpr: float | None = None  # false-positive rate that the copying rule is set to; None: the ratio 1/3
    twins: tuple[str, ...] = TWINS  # a alone for a single training
    same_data: bool = False  # whether a second training on half a was audited, too
    distance_spaces: tuple[str, ...] = ()  # spaces that have distances to images alone, and no vectors
    release: str | None = None  # weights or samples; None: not said, and weights are assumed
    release_size: int | None = None  # samples that are to be released; None: not said
    weights: str = ""  # of the networks: ema or raw; empty where samples were given
    progress: tuple[tuple[int, int], ...] = ()  # steps of a, and b's own progress there, where twins were paired
    final: bool = False  # whether the model that is to be released was audited, too, in a run within this one
    decoys: bool = False  # whether held-out images stand for the half of a twin: those of a single training do

    def as_record(self) -> dict[str, Any]:
        """Return what run.json holds of it: what few runs have only where there is some."""
        return {name: value for name, value in asdict(self).items() if name not in SELDOM or value}

    @property
    def with_twin(self) -> bool:
        """Whether there are two trainings to compare."""
        return len(self.twins) > 1

    @property
    def with_lean(self) -> bool:
        """Whether samples can be asked which half they lean on: a twin's, or held-out images in its place."""
        return self.with_train and (self.with_twin or self.decoys)

    @property
    def unlike_progress(self) -> bool:
        """Whether twins were paired at checkpoints of different progress: then no onset is claimed."""
        return any(a != b for a, b in self.progress)

    @property
    def halves(self) -> tuple[str, ...]:
        """The sets that take part in own-versus-other statistics: those of the twins, or a's and the decoys."""
        return (*self.twins, DECOYS) if self.decoys else self.twins

    def rival(self, twin: str) -> str:
        """Return the half that samples of a twin must not know: the other twin's, or the decoys."""
        return DECOYS if self.decoys else other_twin(twin)

    @property
    def with_images(self) -> bool:
        """Whether there is any image set to compare samples with."""
        return self.with_train or self.with_heldout

    @property
    def with_samples(self) -> bool:
        """Whether samples were drawn or given; a quick audit has none, and then no spaces."""
        return bool(self.spaces)

    @property
    def judged_spaces(self) -> tuple[str, ...]:
        """The spaces that verdicts rest on: all but those of one scale, which say where in a picture, not whether."""
        return tuple(space for space in self.spaces if space not in SCALES)

    @property
    def scale_spaces(self) -> tuple[str, ...]:
        """The spaces of one scale each."""
        return tuple(space for space in self.spaces if space in SCALES)

    @property
    def vector_spaces(self) -> tuple[str, ...]:
        """The spaces in which the twins' samples and distributions are compared, too."""
        return tuple(space for space in self.spaces if space not in self.distance_spaces)

    @property
    def first_space(self) -> str:
        """The first space, with vectors if any has them; the empty name where there is none."""
        return next(iter((*self.vector_spaces, *self.spaces)), "")

    @property
    def compared_spaces(self) -> tuple[str, ...]:
        """The spaces in which samples are compared with held-out images, too: quality and underfit are told there."""
        return self.vector_spaces or (self.first_space,)

    @property
    def headline_space(self) -> str:
        """Where tau_div is taken: correlation, else the first space."""
        return HEADLINE_SPACE if HEADLINE_SPACE in self.spaces else self.first_space

    @property
    def picture_space(self) -> str:
        """Where underfit is judged: pixel, else the first space."""
        return "pixel" if "pixel" in self.spaces else self.first_space

    @property
    def quality_space(self) -> str:
        """Where KID decides between checkpoints: clip, else pixel, else the first space."""
        return "clip" if "clip" in self.spaces else self.picture_space


def rare_ratio(space: str) -> float:
    """Return the copy ratio by which copies in a space are shown rare: less for parts, which honestly come near."""
    return WINDOW_RATIO if space in WINDOWS else COPY_RATIO


def control_names(scope: Scope) -> tuple[str, ...]:
    """Return the controls of a run that stand for a twin."""
    if not scope.with_train or not scope.with_samples:
        return ()
    return (*(("smooth",) if scope.with_lean else ()), "copier", *(("heldout",) if scope.with_heldout else ()))


def gaps(steps: Sequence[int], unit: str) -> list[str]:
    """Return what a series that starts late or has holes leaves open.

    It starts late where the first step is more than 1.5 times the median distance between steps; a hole is a distance
    of at least 1.9 times both of its neighbors, or, at the end of an even series, 1.9 times all others.
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
