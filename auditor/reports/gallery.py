"""The evidence that people look at: the worst samples of the steps that matter, and single seeds through training."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from auditor.records import DECOYS
from auditor.reports import Report, printable, shortened
from auditor.reports.album import Case, Picture, png

ROWS = 8  # samples shown per step
FILMS = 3  # seeds shown through training
FRAMES = 24  # checkpoints of a film; of a longer series, evenly many
LARGEST, LARGEST_FRAME = 112, 72  # pixels a side; larger pictures are reduced


@dataclass(frozen=True)
class Shown:
    """One picture of the page."""

    caption: str  # what it is
    name: str  # its id, as the user named it
    numbers: tuple[str, ...]  # distances and ratios
    uri: str  # data:image/png, or empty where there is no picture
    reason: str  # why there is none
    alt: str
    is_copy: bool = False  # marked as a copy; in films


@dataclass(frozen=True)
class Row:
    """One sample with its nearest training images, and the other twin's sample from the same noise."""

    title: str
    is_copy: bool
    pictures: tuple[Shown, ...]


@dataclass(frozen=True)
class Wall:
    """The worst samples of one step."""

    step: int
    name: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Film:
    """One seed of one twin through training."""

    title: str
    words: str
    frames: tuple[Shown, ...]  # one per checkpoint
    end: Shown  # the nearest own image at the last step


def walls(report: Report) -> list[Wall]:
    """Return the worst samples, worst first, of every step that a decision turns on."""
    return [Wall(step, name, tuple(map(row, cases))) for step, name, cases in worst_cases(report, ROWS)]


def worst_cases(report: Report, n: int) -> Iterator[tuple[int, str, list[Case]]]:
    """Yield every step that a decision turns on, why it does, and its ``n`` worst samples, in the space of copies."""
    if report.has_samples:
        for step, name in report.key_steps.items():
            yield step, name, report.album.worst(report.scope.picture_space, step, n)


def strips(report: Report) -> list[tuple[Case, ...]]:
    """Return the seeds that are worst at the last step, each through training: a case per step."""
    if not report.has_samples:
        return []
    space, album = report.scope.picture_space, report.album
    picks = [(case.twin, case.seed) for case in album.worst(space, report.steps[-1], FILMS)]
    return list(zip(*(album.chosen(space, step, picks) for step in report.steps), strict=True))


def row(case: Case) -> Row:
    """Return the five pictures of a case with their numbers; fewer where there are no training images, or no twin."""
    mine, theirs, seed = case.mine, case.theirs, f"seed {case.seed}"
    a, b = mine.twin.upper(), theirs.twin.upper()
    numbers = [f"own / other {ratio(mine.ratio)}"] if mine.other.id else []
    numbers += [f"nearest / next own {ratio(mine.gap)}"] if mine.own.id else []
    beside = (f"twin distance {number(case.twin_distance)}", f"own / other {ratio(theirs.ratio)}")
    other = "nearest held-out image" if mine.rival == DECOYS else f"nearest in other half ({mine.rival.upper()})"
    found = (
        (mine.sample, f"sample of {a}", seed, tuple(numbers)),
        (mine.own, f"nearest in own half ({a})", mine.own.id, (distance(mine.own_distance),)),
        (mine.other, other, mine.other.id, (distance(mine.other_distance),)),
        (theirs.sample, f"sample of {b}, same noise", seed, beside),
        (theirs.own, f"its nearest in own half ({b})", theirs.own.id, (distance(theirs.own_distance),)),
    )
    pictures = tuple(shown(picture, caption, name, says) for picture, caption, name, says in found if picture.id)
    return Row(f"Seed {case.seed}, twin {a}", mine.is_copy, pictures)


def films(report: Report) -> list[Film]:
    """Return the seeds that are worst at the last step, through training."""
    return [film(cases, chosen(report, cases)) for cases in strips(report)]


def chosen(report: Report, cases: Sequence[Case]) -> list[int]:
    """Return the steps that a film shows: evenly many, those that matter, and the first copy."""
    evenly = np.linspace(0, len(cases) - 1, min(FRAMES, len(cases))).round().astype(int)
    first = [each.step for each in cases if each.mine.is_copy][:1]
    return sorted({*(cases[i].step for i in evenly), *report.key_steps, *first})


def film(cases: Sequence[Case], steps: list[int]) -> Film:
    """Return one seed through training, of which some steps are shown."""
    last = cases[-1]
    frames = tuple(frame_of(case) for case in cases if case.step in steps)
    left_out = f" {len(steps)} of {len(cases)} checkpoints are shown." if len(steps) < len(cases) else ""
    end = shown(last.mine.own, f"nearest in own half at step {last.step:,}", last.mine.own.id, ())
    return Film(f"Seed {last.seed}, twin {last.twin.upper()}", became(cases) + left_out, frames, end)


def frame_of(case: Case) -> Shown:
    """Return one checkpoint of a film."""
    side = case.mine
    numbers = (f"ratio {ratio(side.gap)}",) if side.own.id else ()
    picture = shown(side.sample, f"step {case.step:,}", "", numbers, LARGEST_FRAME)
    return replace(picture, is_copy=side.is_copy)


def became(cases: Sequence[Case]) -> str:
    """Say when a seed became a copy, and how its distance to its own half went."""
    first, last = cases[0], cases[-1]
    if math.isnan(first.mine.own_distance):
        return "Without training images it is not known whether this seed became a copy."
    copied = [case.step for case in cases if case.mine.is_copy]
    said = f"A copy by the gap ratio from step {copied[0]:,}." if copied else "Not a copy by the gap ratio at any step."
    if copied and any(case.step > copied[0] and not case.mine.is_copy for case in cases):
        said = f"A copy by the gap ratio at {len(copied)} steps, first at {copied[0]:,}."
    return (
        f"{said} Distance to the nearest own image {number(first.mine.own_distance)} at step {first.step:,}, "
        f"{number(last.mine.own_distance)} at step {last.step:,}."
    )


def shown(picture: Picture, caption: str, name: str, numbers: tuple[str, ...], largest: int = LARGEST) -> Shown:
    """Return a picture with its words."""
    named = shortened(printable(name), 48)
    uri = "" if picture.pixels is None else data_uri(picture.pixels, largest)
    return Shown(caption, named, numbers, uri, picture.reason, f"{caption}: {named}" if named else caption)


def data_uri(pixels: np.ndarray, largest: int) -> str:
    """Return a picture as a data URI, reduced where it is larger than the page shows it."""
    from PIL import Image

    side = max(pixels.shape[:2])
    if side > largest and pixels.shape[2] <= 4:
        size = [max(1, round(each * largest / side)) for each in pixels.shape[1::-1]]
        layers = [Image.fromarray(pixels[..., c]).resize(size, Image.Resampling.BOX) for c in range(pixels.shape[2])]
        pixels = np.stack([np.asarray(each) for each in layers], axis=2)
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def number(value: float) -> str:
    """Return a distance as text, or a dash where it is not known."""
    return "–" if math.isnan(value) else f"{value:.3g}"


def distance(value: float) -> str:
    """Return a distance with its name."""
    return f"distance {number(value)}"


def ratio(value: float) -> str:
    """Return a ratio as text."""
    return "–" if math.isnan(value) else "∞" if math.isinf(value) else f"{value:.2f}"
