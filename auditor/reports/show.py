"""One sample on a terminal: its pictures in block characters, its numbers, and one sentence per twin."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from auditor.records import DECOYS
from auditor.reports import printable
from auditor.reports.album import Case, Picture, Side, in_color
from auditor.reports.formats.json import plain

RAMP = " .:-=+*#%@"  # dark to light on a dark terminal; what logs and pipes get
PICTURE_COLUMNS = 24  # three pictures beside each other fit into 80 columns


def render(case: Case, out: TextIO, width: int | None = None) -> None:
    """Write one case; color pictures where the terminal has colors, letters where it has not."""
    console = Console(file=out, width=width, highlight=False)
    colored = console.color_system is not None and console.encoding.startswith("utf")
    console.print(Text(title(case), style="bold"))
    for side in sides(case):
        console.print()
        console.print(strip(side, colored))
        console.print(Text(sentence(side)))
    if case.is_paired:
        console.print()
        console.print(Text(f"The two samples are {number(case.twin_distance)} apart."))


def sides(case: Case) -> tuple[Side, ...]:
    """Return both twins' parts, or that of a single training."""
    return (case.mine, case.theirs) if case.is_paired else (case.mine,)


def title(case: Case) -> str:
    """Return what the case is."""
    return f"Step {case.step:,}, seed {case.seed}, {case.space} space, twin {case.twin}"


def strip(side: Side, colored: bool) -> Table:
    """Return the three pictures of one twin beside each other, with what they are below."""
    grid = Table.grid(padding=(0, 2))
    for _ in side.pictures:
        grid.add_column(width=PICTURE_COLUMNS)
    grid.add_row(*(blocks(each) if colored else letters(each) for each in side.pictures))
    grid.add_row(*(Text(label, style="dim") for label in labels(side)))
    return grid


def labels(side: Side) -> tuple[str, str, str]:
    """Return what the three pictures of one twin are, in two lines each."""
    return (
        f"sample of {side.twin}",
        f"nearest own, {number(side.own_distance)}\n{printable(side.own.id)}",
        f"nearest {'held-out' if side.rival == DECOYS else 'other'}, {number(side.other_distance)}\n"
        f"{printable(side.other.id)}",
    )


def sentence(side: Side) -> str:
    """Return what the numbers of one twin's sample say."""
    if not side.own.id:
        return f"Twin {side.twin}: no training images were given."
    gap = f"d1/d2 {number(side.gap)}, {'' if side.is_copy else 'not '}below {number(side.copy_below)}"
    claim = (
        f"Twin {side.twin} drew {'a' if side.is_copy else 'no'} copy: its nearest own image is at "
        f"{number(side.own_distance)}, the next at {number(side.next_distance)} ({gap})."
    )
    if not side.other.id:
        return claim
    other = "held-out images" if side.rival == DECOYS else "the other half"
    lean = {True: "nearer to its own half", False: f"nearer to {other}", None: "a tie between the halves"}
    return f"{claim} Own to other distance: {number(side.ratio)}. It counts as {lean[side.is_closer_to_own]}."


def number(value: float) -> str:
    """Return a distance or ratio as text, with a dash where it is not known."""
    return "-" if math.isnan(value) else f"{value:.3g}"


def blocks(picture: Picture) -> Text:
    """Return a picture as half blocks: two pixels per character, the upper as its color, the lower behind it."""
    if picture.pixels is None:
        return Text(printable(picture.reason), style="dim")
    pixels = fitted(in_color(picture.pixels))
    if len(pixels) % 2:
        pixels = np.concatenate([pixels, pixels[-1:]])
    text = Text()
    for row, (above, below) in enumerate(zip(pixels[::2], pixels[1::2], strict=True)):
        text.append("\n" if row else "")
        for front, back in zip(above, below, strict=True):
            text.append("▀", Style.parse(f"rgb({','.join(map(str, front))}) on rgb({','.join(map(str, back))})"))
    return text


def letters(picture: Picture) -> Text:
    """Return a picture in ASCII, one letter per two pixels above each other, denser for lighter."""
    if picture.pixels is None:
        return Text(printable(picture.reason), style="dim")
    gray = fitted(in_color(picture.pixels)).mean(axis=2)
    rows = gray[: len(gray) // 2 * 2].reshape(-1, 2, gray.shape[1]).mean(axis=1) if len(gray) > 1 else gray
    return Text("\n".join("".join(RAMP[int(each * len(RAMP) / 256)] for each in row) for row in rows))


def fitted(pixels: np.ndarray) -> np.ndarray:
    """Return a picture that is at most ``PICTURE_COLUMNS`` wide: small ones enlarged, large ones averaged."""
    from PIL import Image

    height, width = pixels.shape[:2]
    if width <= PICTURE_COLUMNS:
        scale = PICTURE_COLUMNS // width
        return pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    size = (PICTURE_COLUMNS, max(1, round(height * PICTURE_COLUMNS / width)))
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BOX))


def as_json(case: Case) -> str:
    """Return the names and numbers of a case as JSON; NaN and infinities become null."""
    parts = {side.twin: dict(side_facts(side)) for side in sides(case)}
    facts = {"space": case.space, "step": case.step, "seed": case.seed, "twin_distance": plain(case.twin_distance)}
    return json.dumps(facts | parts, indent=2, allow_nan=False)


def side_facts(side: Side) -> Iterator[tuple[str, Any]]:
    """Yield the names and numbers of one twin's part."""
    yield "nearest_own", side.own.id or None
    yield "nearest_other", side.other.id or None
    for name in ("own_distance", "next_distance", "other_distance", "gap", "ratio"):
        yield name, plain(getattr(side, name))
    yield "is_copy", side.is_copy if side.own.id else None
    yield "copy_below", side.copy_below
    yield "is_closer_to_own", side.is_closer_to_own
