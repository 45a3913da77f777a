"""What is done to every picture, in this order.

1. The EXIF orientation is applied; of a file with several frames the first is read.
2. Values become 8 bits. Pictures of 16 bits and of floats are read through an explicit window only (``Reading``);
   arrays of floats from 0 to 1 are multiplied by 255 and rounded. (Pillow itself reduces 16-bit *color* files to their
   upper 8 bits, which is counted.)
3. Palettes and other color models become RGB. Transparency is ignored and the stored colors are kept, as
   ``convert("RGB")`` does in the training scripts of diffusers.
4. For a gray model, color pictures whose channels are equal are gray; other ones become ITU-R 601 luma if that is asked
   for. For a color model, gray is repeated three times if that is asked for.
5. Another size than the model's is resized so that the picture just covers the model's (the shorter side fits, for
   square models; bilinear, antialiased), then cropped at the center. This is torchvision's ``Resize`` and
   ``CenterCrop`` to the pixel, hence what most diffusers trainings saw. A picture of the model's size stays as it is.

What was done to how many pictures is told in ``ImageSet.notes``.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from auditor.errors import AuditError
from auditor.images.sources import Decoder, Reading

if TYPE_CHECKING:
    from PIL.Image import Image

REVISION = 2  # raised when a picture would be read otherwise; 2: windows, color conversion on request
LARGEST_FILE = 2**28  # bytes of one picture inside an archive or a table
LARGEST_RESIZED = 2**27  # pixels: a picture one pixel wide must not become an endless strip
# A suffix does not make a picture: Pillow would hand a file that is PostScript to Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "AVIF")

_NOTES = {  # what was done to a picture -> the rest of the sentence "12 of 400 pictures ..."
    "frames": "had several frames: only the first was read.",
    "turned": "had an EXIF orientation, which was applied.",
    "windowed": "had more than 8 bits per value: read through the window {low:g} to {high:g} and rounded.",
    "own_window": "were read through the window or table of their own file (VOI LUT) and rounded.",
    "inverted": "stored high values as dark (MONOCHROME1): inverted.",
    "padded": "had padding, which was made black.",
    "deep_color": "had 16 bits per color value: the upper 8 were kept.",
    "fractions": "had values from 0 to 1: multiplied by 255 and rounded.",
    "transparent": "had transparency, which was ignored: the stored colors were kept.",
    "gray_in_color": "were stored in color with three equal channels and read as gray.",
    "grayed": "had three color channels and the model has one: converted by the ITU-R 601 luma.",
    "colored": "had one channel and the model has three: it was repeated.",
    "resized": "had another size than {h}x{w}: resized (shorter side, bilinear, antialiased) and center-cropped.",
    "enlarged": "had fewer pixels than {h}x{w} along a side and were enlarged.",
}
# What Pillow 13 raised on some 10,000 damaged files, beside its DecompressionBombError.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error)
_WINDOW_REMEDY = (
    "Give --window LOW,HIGH in the files' own units, such as --window 0,4095: values up to LOW become black, from HIGH "
    "on white."
)
RANGE_REMEDY = (
    "Save the pictures as uint8 from 0 to 255 or as floats from 0 to 1 (values from -1 to 1: (x + 1) / 2; NaN: repair "
    "or drop these pictures), or give --window LOW,HIGH: values up to LOW become black, from HIGH on white."
)


def notes(tally: Counter[str], n: int, image_shape: tuple[int, int, int], reading: Reading) -> tuple[str, ...]:
    """Return one sentence per thing that was done to some of ``n`` pictures."""
    low, high = reading.window or (0, 0)
    values = {"h": image_shape[0], "w": image_shape[1], "low": low, "high": high}
    return tuple(f"{tally[key]} of {n} pictures {_NOTES[key].format(**values)}" for key in _NOTES if tally[key])


def decode(stream: str | BinaryIO, where: object, reading: Reading, tally: Counter[str]) -> Image:
    """Return one picture file as mode L or RGB, upright, at its own size."""
    from PIL import Image, ImageOps

    with _told_as_unreadable(where), Image.open(stream, formats=FORMATS) as picture:
        tally["deep_color"] += picture.mode in ("RGB", "RGBA") and "16" in str([tile[3] for tile in picture.tile])
        tally["frames"] += getattr(picture, "n_frames", 1) > 1
        tally["turned"] += picture.getexif().get(0x0112) in range(2, 9)
        tally["transparent"] += picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info
        return _eight_bits(ImageOps.exif_transpose(picture), where, reading, tally)


def of_files(places: Sequence[str], reading: Reading) -> Decoder:
    """Return what decodes picture files."""

    def decoded(rows: Sequence[int], tally: Counter[str]) -> Iterator[Image]:
        for row in rows:
            yield decode(places[row], places[row], reading, tally)

    return decoded


@contextmanager
def _told_as_unreadable(where: object) -> Iterator[None]:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise AuditError(
            f"This picture is too large to be opened safely: {error}", where, "Save it smaller."
        ) from error
    except (*_UNREADABLE, MemoryError) as error:
        remedy = "Replace the file by an intact copy, or remove it from the set."
        said = "it is in no known format" if isinstance(error, UnidentifiedImageError) else error
        raise AuditError(f"This picture cannot be read: {said}", where, remedy) from error


def _eight_bits(picture: Image, where: object, reading: Reading, tally: Counter[str]) -> Image:
    from PIL import Image

    if picture.mode == "F" or picture.mode.startswith("I"):  # I;16, I;16B or I: convert() would clip all above 255
        kind = "floats" if picture.mode == "F" else "more than 8 bits per value"
        values = np.asarray(picture)
        if reading.window is None:
            found = f"{np.min(values):g} to {np.max(values):g}"
            raise AuditError(
                f"This picture holds {kind}, here {found}, and no window says which values are black and white",
                where,
                _WINDOW_REMEDY,
            )
        tally["windowed"] += 1
        return Image.fromarray(windowed(values, reading.window, where))
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")  # straight to RGB warns when palette entries are transparent
    return picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")


def windowed(values: np.ndarray, window: tuple[float, float], where: object) -> np.ndarray:
    """Return values seen through a window, uint8."""
    low, high = window
    if np.isnan(values.min()):
        raise AuditError(f"The pixel values ({values.dtype}) contain NaN", where, RANGE_REMEDY)
    return np.rint(np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def of_values(values: np.ndarray, where: object, reading: Reading, tally: Counter[str]) -> list[Image]:
    """Return pictures of an array ``[n, h, w, c]`` with c 1 or 3, as mode L or RGB."""
    from PIL import Image

    if values.dtype != np.uint8 and reading.window is not None:
        tally["windowed"] += len(values)
        values = windowed(values, reading.window, where)
    is_float = values.dtype.kind == "f"
    _require_range(values, 1 if is_float else 255, where)
    if is_float:
        tally["fractions"] += len(values)
        values = np.rint(values * 255)
    values = values.astype(np.uint8)
    return [Image.fromarray(each[..., 0] if each.shape[2] == 1 else each) for each in values]


def _require_range(values: np.ndarray, limit: int, where: object) -> None:
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= limit):  # so that NaN, which min and max pass on, is refused
        found = "contain NaN" if np.isnan(low) else f"run from {low:g} to {high:g}, outside 0 to {limit}"
        raise AuditError(f"The pixel values ({values.dtype}) {found}", where, RANGE_REMEDY)


# The model's shape


def fit(
    picture: Image, image_shape: tuple[int, int, int], where: object, reading: Reading, tally: Counter[str]
) -> np.ndarray:
    """Return a picture at the model's shape, uint8 ``[h, w, c]``."""
    height, width, channels = image_shape
    if picture.mode != ("L" if channels == 1 else "RGB"):
        picture = _recolored(picture, channels, where, reading, tally)
    if picture.size != (width, height):
        if reading.exact_size:
            found = f"{picture.height}x{picture.width}"
            raise AuditError(
                f"This picture is {found}, others are {height}x{width}", where, "Give pictures of one size."
            )
        tally["resized"] += 1
        tally["enlarged"] += picture.width < width or picture.height < height
        picture = _resize_and_crop(picture, height, width, where)
    return np.asarray(picture).reshape(image_shape)


def _recolored(picture: Image, channels: int, where: object, reading: Reading, tally: Counter[str]) -> Image:
    if channels == 1:
        red, *others = picture.split()
        if all(red.tobytes() == other.tobytes() for other in others):
            tally["gray_in_color"] += 1
            return red
    if not reading.convert_color:
        has, wants = ("color", "gray") if channels == 1 else ("gray", "color")
        raise AuditError(
            f"This picture is {has} and the model is {wants}",
            where,
            "Check that these are the images the model was trained on; --convert-color converts them "
            "(color to ITU-R 601 luma, gray to three equal channels).",
        )
    tally["grayed" if channels == 1 else "colored"] += 1
    return picture.convert("L" if channels == 1 else "RGB")


def _resize_and_crop(picture: Image, height: int, width: int, where: object) -> Image:
    """Scale until both sides just cover (height, width), then cut out the center; rounding as in torchvision."""
    from PIL import Image

    if height * picture.width >= width * picture.height:  # the height is the side that fits
        size = (height * picture.width // picture.height, height)
    else:
        size = (width, width * picture.height // picture.width)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    if size[0] * size[1] > LARGEST_RESIZED:
        raise AuditError(
            f"This picture of {picture.width}x{picture.height} would become {size[0]}x{size[1]}",
            where,
            "Remove it, or crop it: its sides are too different.",
        )
    resized = picture.resize(size, Image.Resampling.BILINEAR)  # Pillow antialiases whenever it shrinks
    return resized.crop((left, top, left + width, top + height))
