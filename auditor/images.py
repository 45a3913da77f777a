"""Pictures on disk -> ImageSet: read, brought to the model's shape, identified by their content.

The rule, for every picture, in this order:

1. The EXIF orientation is applied; of a file with several frames the first is read.
2. Values become 8 bits: 16-bit gray is divided by 257, fractions from 0 to 1 are multiplied by 255, both rounded.
   (Pillow itself reduces 16-bit *color* files to their upper 8 bits.)
3. Palettes and other color models become RGB. Transparency is ignored and the stored colors are kept, as
   ``convert("RGB")`` does in the training scripts of diffusers.
4. For a gray model color becomes ITU-R 601 luma; for a color model gray is repeated three times.
5. Another size than the model's is resized so that the picture just covers the model's (the shorter side fits, for
   square models; bilinear, antialiased), then cropped at the center. This is torchvision's ``Resize`` and
   ``CenterCrop`` to the pixel, hence what most diffusers trainings saw. A picture of the model's size stays as it is.

What was done to how many pictures is told in ``ImageSet.notes``.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from auditor.errors import AuditError
from auditor.records import ImageSet

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
BLANK_BELOW = 2.0  # standard deviation of a picture's pixels, in gray levels of 255 (docs/statistics.md 1.1)

_NOTES = {  # what was done to a picture -> the rest of the sentence "12 of 400 pictures ..."
    "frames": "had several frames: only the first was read.",
    "turned": "had an EXIF orientation, which was applied.",
    "sixteen": "had 16 bits per value: divided by 257 and rounded.",
    "fractions": "had values from 0 to 1: multiplied by 255 and rounded.",
    "transparent": "had transparency, which was ignored: the stored colors were kept.",
    "grayed": "had three color channels and the model has one: converted by the ITU-R 601 luma.",
    "colored": "had one channel and the model has three: it was repeated.",
    "resized": "had another size than {h}x{w}: resized (shorter side, bilinear, antialiased) and center-cropped.",
    "enlarged": "had fewer pixels than {h}x{w} along a side and were enlarged.",
}
# What Pillow 13 and NumPy 2.4 raised on some 10,000 damaged files, beside Pillow's DecompressionBombError.
_UNREADABLE_PICTURE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error)
_UNREADABLE_ARRAY = (OSError, ValueError, EOFError, RuntimeError, TokenError, zipfile.BadZipFile, zlib.error)
_RANGE_REMEDY = (
    "Save the pictures as uint8 from 0 to 255 or as floats from 0 to 1 "
    "(values from -1 to 1: (x + 1) / 2; from 0 to 65535: x / 65535; NaN: repair or drop these pictures)."
)
_SHAPE_REMEDY = "Save the pictures as [n, h, w] or [n, h, w, c] with c 1 or 3 (no alpha); n = 1 for a single one."


class _Source(NamedTuple):
    """Pictures that are decoded one by one, so that never all are held at their full size."""

    ids: list[str]
    pictures: Iterator[Image]  # mode L or RGB, any size
    notes: tuple[str, ...] = ()


def read(source: str | Path, name: str, image_shape: tuple[int, int, int]) -> ImageSet:
    """Return the pictures of a folder, ``.npy`` or ``.npz`` at the model's shape.

    Parameters
    ----------
    source
        A folder of pictures (any nesting; hidden files and folders are left out, linked folders are not followed),
        ``PATH.npy``, ``PATH.npz``, ``PATH.npz:KEY`` or ``PATH.npz:KEY+KEY``. Without KEY the npz must hold one array
        of three or four axes. Arrays are ``[n, h, w]``, ``[n, h, w, c]`` or ``[n, c, h, w]`` with c 1 or 3; integers
        from 0 to 255 or floats from 0 to 1.
    name
        Name of the set, such as ``train-a``.
    image_shape
        (h, w, c) of the model, in pixels; c is 1 or 3.

    Returns
    -------
    ImageSet
        uint8 ``[n, h, w, c]``, 0 to 255, n >= 1. Ids are relative POSIX paths, in sorted order, for a folder,
        ``KEY/index`` for an npz, ``STEM/index`` for a npy.

    Raises
    ------
    AuditError
        For a missing path, an empty set, a file that cannot be read, or values that are no pixels; nothing is guessed.
    """
    height, width, channels = image_shape
    assert channels in (1, 3), f"models of pictures have 1 or 3 channels, not {channels}"
    tally: Counter[str] = Counter()
    ids, pictures, notes = _open(str(source), tally)
    images = np.empty((len(ids), height, width, channels), np.uint8)
    for row, picture in zip(images, pictures, strict=True):
        row[...] = _fit(picture, image_shape, tally)
    done = (f"{tally[key]} of {len(ids)} pictures {_NOTES[key]}" for key in _NOTES if tally[key])
    return ImageSet(name, images, tuple(ids), (*notes, *(note.format(h=height, w=width) for note in done)))


def digests(image_set: ImageSet) -> tuple[str, ...]:
    """Return the sha256 of each picture's shape and pixels at the model's shape, as hex digits."""
    shape = "x".join(map(str, image_set.images.shape[1:])).encode()
    return tuple(hashlib.sha256(shape + b":" + image.tobytes()).hexdigest() for image in image_set.images)


def set_digest(image_set: ImageSet) -> str:
    """Return one sha256 over the ids and contents of the pictures, in order; the set's name does not count."""
    total = hashlib.sha256()
    for image_id, digest in zip(image_set.ids, digests(image_set), strict=True):
        total.update(f"{image_id}\0{digest}\0".encode())  # NUL is in no file name, so no two sets give one text
    return total.hexdigest()


def duplicate_groups(digest_list: Sequence[str]) -> np.ndarray:
    """Return the group of each image, int64 ``[n]``: equal digests share a group, numbered by first appearance."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(digest, len(first)) for digest in digest_list], dtype=np.int64)


def shared(first: ImageSet, second: ImageSet) -> tuple[tuple[str, str], ...]:
    """Return pairs (id in first, id in second) of images with equal content.

    Every shared image of either set is in at least one pair. Copies within a set are paired one to one and the rest
    with the other set's first copy, so the number of pairs grows with the images and not with their square.
    """
    in_first, in_second = _ids_by_digest(first), _ids_by_digest(second)
    common = [(ids, in_second[digest]) for digest, ids in in_first.items() if digest in in_second]
    return tuple((one or ones[0], two or twos[0]) for ones, twos in common for one, two in zip_longest(ones, twos))


def check_overlap(first: ImageSet, second: ImageSet, allow_overlap: bool) -> tuple[tuple[str, str], ...]:
    """Return the pairs of :func:`shared`, which may be some only if ``allow_overlap``.

    Raises
    ------
    AuditError
        If the sets share images and ``allow_overlap`` is False; it names up to five pairs and the total.
    """
    pairs = shared(first, second)
    if pairs and not allow_overlap:
        named = ", ".join(f"{one} = {two}" for one, two in pairs[:5]) + (", ..." if len(pairs) > 5 else "")
        raise AuditError(
            f"{len(pairs)} pairs of images are in both {first.name} and {second.name}: {named}",
            f"{first.name} and {second.name}, compared by their pixels at the model's shape",
            "Remove duplicates before splitting the images, or pass --allow-overlap, which excludes the shared images "
            "from every own-versus-other statistic.",
        )
    return pairs


def is_blank(image_set: ImageSet) -> np.ndarray:
    """Return bool ``[n]``: the standard deviation of the pixels is below 2 of 255 gray levels.

    Blank pictures carry no information on which set they came from (docs/statistics.md 1.1).
    """
    return np.array([image.std() < BLANK_BELOW for image in image_set.images], dtype=bool)


def _ids_by_digest(image_set: ImageSet) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {}
    for digest, image_id in zip(digests(image_set), image_set.ids, strict=True):
        ids.setdefault(digest, []).append(image_id)
    return ids


def _open(source: str, tally: Counter[str]) -> _Source:
    path, keys = _split_keys(source)
    if not os.path.exists(path):  # unlike Path.exists, it does not raise where a parent folder is closed
        raise AuditError(
            f"There is no readable file or folder {path}", source, "Check the path, or run from another folder."
        )
    if path.is_dir():
        return _open_folder(path, tally)
    if path.suffix.lower() == ".npy":
        return _open_arrays(path, {path.stem: _read_npy(path)}, tally)
    if path.suffix.lower() == ".npz":
        return _open_arrays(path, _read_npz(path, keys), tally)
    raise AuditError(
        f"Images are not read from {path.suffix or 'a file without suffix'}",
        path,
        f"Give a folder of pictures ({' '.join(SUFFIXES)}), a .npy, or a .npz (PATH.npz:KEY picks an array).",
    )


def _split_keys(source: str) -> tuple[Path, tuple[str, ...]]:
    """Split ``PATH.npz:KEY+KEY``; a path that exists as written is never split."""
    match = re.fullmatch(r"(.+\.npz):(.*)", source, flags=re.IGNORECASE | re.DOTALL)
    if match is None or Path(source).exists():
        return Path(source), ()
    return Path(match[1]), tuple(match[2].split("+"))


# Folders


def _open_folder(folder: Path, tally: Counter[str]) -> _Source:
    ids, notes = _list_pictures(folder)
    if not ids:
        raise AuditError(
            " ".join(("The folder holds no pictures.", *notes)),
            folder,
            f"Give a folder with {' '.join(SUFFIXES)} files at any depth, a .npy or a .npz.",
        )
    for image_id in ids:
        try:
            image_id.encode()
        except UnicodeEncodeError as error:  # ids go into Parquet, which takes UTF-8 only
            raise AuditError(f"A file name is not UTF-8: {image_id!a}", folder, "Rename this file.") from error
    return _Source(ids, (_decode(folder / image_id, tally) for image_id in ids), notes)


def _list_pictures(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    """Return relative POSIX paths, sorted, and sentences on what was left out."""
    pictures, links, others = [], 0, Counter()
    for parent, folders, files in os.walk(folder, onerror=_refuse_folder):  # does not follow links, so cannot loop
        folders[:] = [entry for entry in folders if not entry.startswith(".")]
        links += sum(Path(parent, entry).is_symlink() for entry in folders)
        for path in (Path(parent, file) for file in files if not file.startswith(".")):
            if path.suffix.lower() in SUFFIXES:
                pictures.append(path.relative_to(folder).as_posix())
            else:
                others[path.suffix.lower() or "no suffix"] += 1
    notes = []
    if others:
        kinds = ", ".join(f"{others[suffix]} {suffix}" for suffix in sorted(others))
        notes.append(f"Files that are not pictures were ignored: {kinds}.")
    if links:
        notes.append(f"Linked folders were not followed: {links}.")
    return sorted(pictures), tuple(notes)


def _refuse_folder(error: OSError) -> None:
    raise AuditError(f"This folder cannot be listed: {error.strerror}", error.filename, "Make it readable.") from error


def _decode(path: Path, tally: Counter[str]) -> Image:
    from PIL import Image, ImageOps

    with _told_as_unreadable(path), Image.open(path) as picture:
        tally["frames"] += getattr(picture, "n_frames", 1) > 1
        tally["turned"] += picture.getexif().get(0x0112) in range(2, 9)
        tally["transparent"] += picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info
        return _eight_bits(ImageOps.exif_transpose(picture), path, tally)


@contextmanager
def _told_as_unreadable(path: Path) -> Iterator[None]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise AuditError(f"This picture is too large to be opened safely: {error}", path, "Save it smaller.") from error
    except _UNREADABLE_PICTURE as error:
        remedy = "Replace the file by an intact copy, or remove it from the folder."
        raise AuditError(f"This picture cannot be read: {error}", path, remedy) from error


def _eight_bits(picture: Image, path: Path, tally: Counter[str]) -> Image:
    from PIL import Image

    if picture.mode == "F":
        tally["fractions"] += 1
        return Image.fromarray(_from_fractions(_in_range(np.asarray(picture), 1, path)))
    if picture.mode.startswith("I"):  # I;16, I;16B or I: convert() would clip all above 255 to white
        tally["sixteen"] += 1
        return Image.fromarray(np.rint(_in_range(np.asarray(picture), 65535, path) / 257).astype(np.uint8))
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")  # straight to RGB warns when palette entries are transparent
    return picture.convert("L" if picture.mode in ("1", "L", "LA") else "RGB")


# Arrays


def _open_arrays(path: Path, arrays: dict[str, np.ndarray], tally: Counter[str]) -> _Source:
    ids, checked = [], []
    for key, array in arrays.items():
        where = f"{path}:{key}" if path.suffix.lower() == ".npz" else str(path)
        checked.append(_in_range(_channels_last(array, where), 1 if array.dtype.kind == "f" else 255, where))
        ids += [f"{key}/{index}" for index in range(len(array))]
    return _Source(ids, (_from_pixels(pixels, tally) for array in checked for pixels in array))


def _read_npy(path: Path) -> np.ndarray:
    with _told_as_no_array(path):
        with path.open("rb") as stream:
            _check_header(_header(stream), path)
        return np.load(path, mmap_mode="r", allow_pickle=False)


def _read_npz(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    with _told_as_no_array(path), zipfile.ZipFile(path) as archive:
        headers = {}
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as stream:
                    headers[member.removesuffix(".npy")] = _header(stream)
        arrays = {}
        for key in _choose_keys(path, headers, keys):
            _check_header(headers[key], f"{path}:{key}")
            with archive.open(f"{key}.npy") as stream:
                arrays[key] = np.lib.format.read_array(stream, allow_pickle=False)
        return arrays


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype


def _header(stream: Any) -> _Header:
    """Read shape and type alone, so that choosing among large arrays loads none of them."""
    old = np.lib.format.read_magic(stream) == (1, 0)
    read_rest = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_rest(stream)
    return _Header(shape, dtype)


def _choose_keys(path: Path, headers: dict[str, _Header], keys: tuple[str, ...]) -> tuple[str, ...]:
    listed = ", ".join(f"{key} {list(header.shape)}" for key, header in headers.items()) or "none"
    candidates = [key for key, header in headers.items() if len(header.shape) in (3, 4)]
    remedy = f"Write {path}:{(candidates or list(headers) or ['KEY'])[0]} to pick an array, KEY+KEY to join several."
    if not keys and len(candidates) == 1:
        return (candidates[0],)
    if not keys:
        raise AuditError(f"{len(candidates)} arrays could be the images; the file holds: {listed}", path, remedy)
    for key in keys:
        if key not in headers:
            raise AuditError(f"There is no array {key!r}; the file holds: {listed}", path, remedy)
        if keys.count(key) > 1:
            raise AuditError(f"The array {key!r} is asked for twice", path, remedy)
    return keys


def _check_header(header: _Header, where: object) -> None:
    if header.dtype.hasobject:
        raise AuditError(
            "The array holds Python objects: it is ragged (pictures of several sizes) or needs pickle, which is never "
            "loaded because it can run code",
            where,
            "Save the pictures as files in a folder, or bring them to one size and save one uint8 [n, h, w, c] array.",
        )
    if header.dtype.kind not in "uif":
        raise AuditError(f"The array's type is {header.dtype}, not a pixel type", where, _RANGE_REMEDY)
    if 0 in header.shape:
        remedy = "Give an array with at least one picture; check the script that wrote it."
        raise AuditError(f"The array is empty: its shape is {list(header.shape)}", where, remedy)


@contextmanager
def _told_as_no_array(path: Path) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE_ARRAY as error:
        remedy = "Write it again with numpy.save or numpy.savez (pickles are never loaded), or copy it again."
        raise AuditError(f"This is not an intact NumPy file: {error}", path, remedy) from error


def _channels_last(array: np.ndarray, where: str) -> np.ndarray:
    """Return a view ``[n, h, w, c]`` with c 1 or 3."""
    if array.ndim == 3 and array.shape[2] not in (1, 3):  # those look like one picture [h, w, c]
        return array[..., None]
    if array.ndim == 4:
        first, last = (array.shape[axis] in (1, 3) for axis in (1, 3))
        if first != last:
            return array if last else np.moveaxis(array, 1, -1)
    raise AuditError(
        f"It is unclear which axes of the shape {list(array.shape)} are images, height, width and channels",
        where,
        _SHAPE_REMEDY,
    )


def _in_range(values: np.ndarray, limit: int, where: object) -> np.ndarray:
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= limit):  # so that NaN, which min and max pass on, is refused
        found = "contain NaN" if np.isnan(low) else f"run from {low:g} to {high:g}, outside 0 to {limit}"
        raise AuditError(f"The pixel values ({values.dtype}) {found}", where, _RANGE_REMEDY)
    return values


def _from_fractions(values: np.ndarray) -> np.ndarray:
    return np.rint(values * 255).astype(np.uint8)


def _from_pixels(pixels: np.ndarray, tally: Counter[str]) -> Image:
    from PIL import Image

    is_float = pixels.dtype.kind == "f"
    tally["fractions"] += is_float
    values = _from_fractions(pixels) if is_float else pixels.astype(np.uint8)  # [h, w, c]
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


# The model's shape


def _fit(picture: Image, image_shape: tuple[int, int, int], tally: Counter[str]) -> np.ndarray:
    height, width, channels = image_shape
    mode = "L" if channels == 1 else "RGB"
    if picture.mode != mode:
        tally["grayed" if channels == 1 else "colored"] += 1
        picture = picture.convert(mode)
    if picture.size != (width, height):
        tally["resized"] += 1
        tally["enlarged"] += picture.width < width or picture.height < height
        picture = _resize_and_crop(picture, height, width)
    return np.asarray(picture).reshape(image_shape)


def _resize_and_crop(picture: Image, height: int, width: int) -> Image:
    """Scale until both sides just cover (height, width), then cut out the center; rounding as in torchvision."""
    from PIL import Image

    if height * picture.width >= width * picture.height:  # the height is the side that fits
        size = (height * picture.width // picture.height, height)
    else:
        size = (width, width * picture.height // picture.width)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    resized = picture.resize(size, Image.Resampling.BILINEAR)  # Pillow antialiases whenever it shrinks
    return resized.crop((left, top, left + width, top + height))
