"""The evidence that people look at: the worst samples of the steps that matter, and single seeds through training."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass

import numpy as np

from auditor.records import other_twin
from auditor.reports import Report, printable, shortened
from auditor.reports.album import Case, Picture, Side, png

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
class Frame:
    """One checkpoint of a film."""

    step: int
    is_copy: bool
    picture: Shown


@dataclass(frozen=True)
class Film:
    """One seed of one twin through training."""

    title: str
    words: str
    frames: tuple[Frame, ...]
    end: Shown  # the nearest own image at the last step


def walls(report: Report) -> list[Wall]:
    """Return the worst samples, worst first, of every step that a decision turns on."""
    space = report.copy_space
    if report.record.get("pairs") or not report.with_samples:
        return []  # their samples lie in the pairs; or there are none
    return [
        Wall(step, name, tuple(row(case) for case in report.album.worst(space, step, ROWS)))
        for step, name in report.key_steps.items()
    ]


def row(case: Case) -> Row:
    """Return the five pictures of a case with their numbers."""
    mine, theirs = case.mine, case.theirs
    a, b = mine.twin.upper(), theirs.twin.upper()
    numbers = (f"nearest / next own {ratio(mine.gap)}",) if mine.own.id else ()
    numbers = (f"own / other {ratio(mine.ratio)}", *numbers) if mine.other.id else numbers
    pictures = [shown(mine.sample, f"sample of {a}", f"seed {case.seed}", numbers)]
    if mine.own.id:
        pictures.append(shown(mine.own, f"nearest in own half ({a})", mine.own.id, (distance(mine.own_distance),)))
    if mine.other.id:
        other = f"nearest in other half ({other_twin(mine.twin).upper()})"
        pictures.append(shown(mine.other, other, mine.other.id, (distance(mine.other_distance),)))
    if not case.is_paired:
        return Row(f"Seed {case.seed}, twin {a}", mine.is_copy, tuple(pictures))
    beside = (f"twin distance {number(case.twin_distance)}", f"own / other {ratio(theirs.ratio)}")
    pictures.append(shown(theirs.sample, f"sample of {b}, same noise", f"seed {case.seed}", beside))
    if theirs.own.id:
        pictures.append(
            shown(theirs.own, f"its nearest in own half ({b})", theirs.own.id, (distance(theirs.own_distance),))
        )
    return Row(f"Seed {case.seed}, twin {a}", mine.is_copy, tuple(pictures))


def films(report: Report) -> list[Film]:
    """Return the seeds that are worst at the last step, through training."""
    if report.record.get("pairs") or not report.with_samples:
        return []
    space, last = report.copy_space, report.steps[-1]
    worst = report.album.worst(space, last, FILMS)
    picks = [(case.twin, case.seed) for case in worst]
    steps = [report.album.chosen(space, step, picks) for step in report.steps]
    return [
        film(case, {each.step: each for each in cases}, chosen(report, cases))
        for case, cases in zip(worst, zip(*steps, strict=True), strict=True)
    ]


def chosen(report: Report, cases: tuple[Case, ...]) -> list[int]:
    """Return the steps that a film shows: evenly many, those that matter, and the first copy."""
    evenly = np.linspace(0, len(cases) - 1, min(FRAMES, len(cases))).round().astype(int)
    first = [each.step for each in cases if each.mine.is_copy][:1]
    return sorted({*(cases[i].step for i in evenly), *report.key_steps, *first})


def film(case: Case, cases: dict[int, Case], steps: list[int]) -> Film:
    """Return one seed through training."""
    frames = tuple(frame(cases[step]) for step in steps)
    left_out = f" {len(steps)} of {len(cases)} checkpoints are shown." if len(steps) < len(cases) else ""
    end = shown(case.mine.own, f"nearest in own half at step {case.step:,}", case.mine.own.id, ())
    return Film(f"Seed {case.seed}, twin {case.twin.upper()}", became(cases) + left_out, frames, end)


def became(cases: dict[int, Case]) -> str:
    """Say when a seed became a copy, and how its distance to its own half went."""
    sides = {step: each.mine for step, each in cases.items()}
    if math.isnan(next(iter(sides.values())).own_distance):
        return "Without training images it is not known whether this seed became a copy."
    flagged = [step for step, side in sides.items() if side.is_copy]
    said = (
        f"A copy by the gap ratio from step {flagged[0]:,}." if flagged else "Not a copy by the gap ratio at any step."
    )
    if flagged and any(step > flagged[0] and not side.is_copy for step, side in sides.items()):
        said = f"A copy by the gap ratio at {len(flagged)} steps, first at {flagged[0]:,}."
    first, last = next(iter(sides)), list(sides)[-1]
    return (
        f"{said} Distance to the nearest own image {number(sides[first].own_distance)} at step {first:,}, "
        f"{number(sides[last].own_distance)} at step {last:,}."
    )


def frame(case: Case) -> Frame:
    """Return one checkpoint of a film."""
    side: Side = case.mine
    numbers = (f"ratio {ratio(side.gap)}",) if side.own.id else ()
    return Frame(case.step, side.is_copy, shown(side.sample, f"step {case.step:,}", "", numbers, LARGEST_FRAME))


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
