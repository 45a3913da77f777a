"""One sample as a contact sheet: a PNG with its pictures, what they are, and their distances."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from auditor.reports import printable, shortened
from auditor.reports.album import Case, Picture, Side, as_image
from auditor.reports.show import labels, number, sentence, sides, title

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

SIDE = 256  # pixels of a picture on the sheet: small ones are enlarged by whole factors, large ones are reduced
MARGIN = 24
TEXT, LINE = 15, 20  # font size and line height
INK, PALE, PAPER, COPY = "#1a1a1a", "#5c5c5c", "#ffffff", "#b3261e"
LABEL_LETTERS = 34  # that fit below a picture


def sheet(case: Case) -> bytes:
    """Return a case as PNG bytes: one row of pictures per twin; the same bytes for the same case."""
    from PIL import Image, ImageDraw

    width = 3 * SIDE + 4 * MARGIN
    row = SIDE + 5 * LINE + MARGIN
    parts = sides(case)
    image = Image.new("RGB", (width, len(parts) * row + 4 * LINE + MARGIN), PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((MARGIN, MARGIN), title(case), INK, font(TEXT + 5))
    for i, side in enumerate(parts):
        draw_side(image, pen, side, MARGIN + 2 * LINE + i * row)
    both = f"The two samples come from the same noise and are {number(case.twin_distance)} apart."
    last = both if case.is_paired else ""
    pen.text((MARGIN, MARGIN + 2 * LINE + len(parts) * row), last, INK, font(TEXT))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def draw_side(image: Image.Image, pen: ImageDraw.ImageDraw, side: Side, top: int) -> None:
    """Draw the pictures of one twin with their labels, and what they say."""
    for i, (picture, label) in enumerate(zip(side.pictures, labels(side), strict=True)):
        left = MARGIN + i * (SIDE + MARGIN)
        draw_picture(image, pen, picture, left, top)
        if side.is_copy and i < 2:
            pen.rectangle((left - 4, top - 4, left + SIDE + 3, top + SIDE + 3), outline=COPY, width=3)
        for j, line in enumerate(label.split("\n")):
            shown = drawable(shortened(line, LABEL_LETTERS))
            pen.text((left, top + SIDE + 6 + j * LINE), shown, INK if j == 0 else PALE, font(TEXT))
    for j, line in enumerate(wrapped(sentence(side), 100)):
        below = top + SIDE + 6 + (2 + j) * LINE
        pen.text((MARGIN, below), drawable(line), COPY if side.is_copy else INK, font(TEXT))


def draw_picture(image: Image.Image, pen: ImageDraw.ImageDraw, picture: Picture, left: int, top: int) -> None:
    """Draw one picture into its square, or a frame and the reason why there is none."""
    from PIL import Image

    if picture.pixels is None:
        pen.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), outline=PALE)
        for j, line in enumerate(wrapped(picture.reason, 30)):
            pen.text((left + 12, top + 12 + j * LINE), drawable(line), PALE, font(TEXT))
        return
    drawn = as_image(picture.pixels).convert("RGB")
    small = max(drawn.size) <= SIDE
    scale = SIDE // max(drawn.size) if small else SIDE / max(drawn.size)
    size = tuple(max(1, round(each * scale)) for each in drawn.size)
    kind = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    image.paste(drawn.resize(size, kind), (left + (SIDE - size[0]) // 2, top + (SIDE - size[1]) // 2))


def wrapped(text: str, letters: int) -> list[str]:
    """Return text in lines of at most so many letters."""
    import textwrap

    return textwrap.wrap(printable(text), letters)


def drawable(text: str) -> str:
    """Return text in which every letter that the font lacks is an escape, so that it can still be read."""
    return "".join(c if ord(c) in glyphs() else c.encode("unicode_escape").decode() for c in printable(text))


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font of the sheet: DejaVu Sans, which comes with matplotlib."""
    from PIL import ImageFont

    return ImageFont.truetype(str(font_file()), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def glyphs() -> frozenset[int]:
    """Return the characters that the font can draw."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(font_file())).get_charmap())


def font_file() -> Path:
    """Return the file of the font."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
