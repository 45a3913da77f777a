"""A folder of DICOM files, at any depth: ``.dcm``, ``.dicom``, ``.ima``, and names without suffix (or whose suffix is a
number, as of UIDs) that begin with the preamble. Every frame is a picture.

Gray values are turned into what a viewer shows, in the order of PS3.3 (C.11.1, C.11.2, C.7.6.3.1.2): modality LUT or
rescale, then ``--window`` or else the file's own VOI LUT or window (the first of several), then MONOCHROME1 is
inverted, and padding is black. Enhanced multi-frame files may say all of it per frame. What says none of it and has
other than 8 bits is refused. The group is the patient; nothing that is said of a person, and no UID, leaves this file.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from auditor.errors import AuditError
from auditor.images import pictures, unnamed
from auditor.images.sources import Kind, Place, Reading, Source, begins_as_dicom, has_preamble, require_room, suffix_of
from auditor.images.unnamed import File, once

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".dcm", ".dicom", ".ima")
GROUPS = ("PatientID", "StudyInstanceUID")
VALUES = (
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
)
READ = (
    *("SOPClassUID", *GROUPS, "BurnedInAnnotation", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", *VALUES),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(f"{c}PaletteColorLookupTable{part}" for c in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")),
    *(f"Segmented{c}PaletteColorLookupTableData" for c in ("Red", "Green", "Blue")),
)
GRAY = ("MONOCHROME1", "MONOCHROME2")
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # all become RGB
PALETTE = "PALETTE COLOR"
PLUGINS = (  # what a name of a syntax holds -> what reads it
    ("JPEG-LS", "pyjpegls"),
    ("JPEG 2000", "pylibjpeg pylibjpeg-openjpeg"),
    ("JPEG", "pylibjpeg pylibjpeg-libjpeg"),
)
_WINDOW_REMEDY = (
    "Give --window LOW,HIGH in the files' own units after rescaling (Hounsfield units for CT): up to LOW black, from "
    "HIGH on white."
)


class Held(NamedTuple):
    """What is kept of a file that holds pictures."""

    frames: int
    groups: tuple[str, ...]  # GROUPS, hidden; "" where the file does not say
    burned_in: bool  # whether it says that text is burned into its pixels


def is_dicom(entry: os.DirEntry[str]) -> bool:
    """Return whether a file is DICOM by its suffix or, where it has none, by its preamble."""
    return suffix_of(entry.name) in SUFFIXES or begins_as_dicom(entry.path)


def claims(path: Path) -> bool:
    """Return whether this is a folder of DICOM files without other pictures, or such a file."""
    return unnamed.hold(path, is_dicom) or (suffix_of(path.name) in SUFFIXES and not path.is_dir())


def open_dicom(place: Place, reading: Reading) -> Source:
    """Return every frame of the DICOM files of a folder."""
    unnamed.one_folder(place, "DICOM")
    folder = place.path
    if place.part is not None:
        raise AuditError(f"A folder of DICOM files has no part {place.part!r}", place, f"Give {folder}.")
    pydicom = unnamed.reader("pydicom", "DICOM files", folder)
    every, notes = unnamed.files_in(folder, is_dicom, reading)
    of_file = {each: once("header", each.path, each.state, lambda: held_by(each, folder)) for each in every}
    headers = {file: held for file, held in of_file.items() if held is not None}
    if len(headers) < len(every):
        left = len(every) - len(headers)
        notes.append(f"DICOM files that are no images (directories, structures, doses, masks, reports): {left}.")
    if not headers:
        raise AuditError(" ".join(("The folder holds no DICOM pictures.", *notes)), folder, "Give another folder.")
    require_room(sum(each.frames for each in headers.values()), sum(each.state[0] for each in every), folder)
    rows = [(file, frame) for file, header in headers.items() for frame in range(header.frames)]
    ids = [file.id if headers[file].frames == 1 else f"{file.id}/{frame}" for file, frame in rows]
    if burned := sum(headers[file].burned_in for file, _ in rows):
        notes.append(
            f"Warning: {burned} of {len(rows)} pictures say that text is burned into them (BurnedInAnnotation YES), "
            "which may name a person and is shown wherever they are."
        )

    def decoded(wanted: Sequence[int], tally: Counter[str]) -> Iterator[Image]:
        for file, group in groupby((rows[row] for row in wanted), key=lambda each: each[0]):
            yield from frames_of(file, [frame for _, frame in group], folder, reading, tally)

    def column(at: int) -> Callable[[], Sequence[str]]:
        return lambda: require_groups([headers[file].groups[at] for file, _ in rows], at, folder)

    files: dict[str, list[int]] = {}
    for row, (file, _) in enumerate(rows):
        files.setdefault(file.name, []).append(row)
    return Source(
        ids,
        [*unnamed.stamps_of(every, pydicom), ("plugins", installed_plugins(), 0)],
        decoded,
        tuple(notes),
        columns={name: column(at) for at, name in enumerate(GROUPS)},
        group=GROUPS[0],
        files=files,
    )


def require_groups(found: Sequence[str], at: int, folder: Path) -> Sequence[str]:
    """Return groups, unless they do not tell patients apart: files that were made anonymous say one thing of all."""
    empty, name = found.count(""), GROUPS[at]
    if not empty and len(set(found)) > 1:
        return found
    what = f"{name} is empty in {empty} of {len(found)} pictures" if empty else f"{name} is the same in all pictures"
    by_study = f"group by study (audit split --group-by {GROUPS[1]}), if no patient has two; or " if at == 0 else ""
    raise AuditError(
        f"{what}, so that it does not tell which belong to one patient",
        folder,
        f"Either {by_study}write a CSV with the columns path,source,group: path of each file within this folder, this "
        "folder, and whatever stands for the patient.",
    )


# What a file says


def held_by(file: File, folder: Path) -> Held | None:
    """Return what is needed of a file's header; None where its class is not that of an image."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    with unnamed.untold("DICOM file", "pydicom", folder, file.id):
        said, begin, stored = header_of(file, folder)
        shape = said.get("Rows"), said.get("Columns")
        meta = said.file_meta
        kind = getattr(said.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID"), "name", "")
        if "Storage" in kind and "Image" not in kind:  # doses and masks have rows and columns, too
            return None

        def refused(what: str, remedy: str = unnamed.LEAVE_OUT) -> AuditError:
            return unnamed.unreadable(what, folder, file.id, remedy)

        samples, bits = said.get("SamplesPerPixel"), said.get("BitsAllocated")
        frames = 1 if said.get("NumberOfFrames") is None else int(said.NumberOfFrames)
        if not all(isinstance(each, int) and each > 0 for each in (*shape, samples, bits, frames)):
            raise refused(
                "This DICOM file holds no picture: its size, its depth or its number of frames is 0 or missing"
            )
        photometric = said.get("PhotometricInterpretation")
        if photometric not in (*GRAY, *COLOR, PALETTE) or samples != (3 if photometric in COLOR else 1):
            raise refused("This DICOM picture is neither gray nor of a palette, RGB or YBR_FULL", "Convert it.")
        size = shape[0] * shape[1] * samples * bits // 8
        if size > pictures.LARGEST_FILE or shape[0] * shape[1] > pictures.LARGEST_RESIZED:
            raise refused(f"This DICOM picture claims {shape[1]}x{shape[0]} pixels, more than are read", "Crop it.")
        syntax = meta.get("TransferSyntaxUID")
        if syntax is None or not syntax.is_transfer_syntax or syntax.is_private:
            raise refused("This DICOM file tells no known transfer syntax")
        if not syntax.is_compressed or syntax == DeflatedExplicitVRLittleEndian:
            needed = frames * size * (2 if photometric == "YBR_FULL_422" else 3) // 3
            if not needed <= stored < needed + size:
                raise refused(f"This DICOM file has {stored:,} bytes of pixels and tells of {needed:,}")
        else:
            require_plugin(syntax, get_decoder, refused)
            require_room(frames, stored, f"{folder}: {file.id}")
            if not frames_at(file, begin, syntax, frames):
                raise refused(f"This DICOM file tells of {frames} frames and does not hold as many")
        groups = tuple(str(said.get(name) or "").strip() for name in GROUPS)
        burned_in = str(said.get("BurnedInAnnotation", "")).strip().upper() == "YES"
        return Held(frames, tuple(each and unnamed.hidden(each) for each in groups), burned_in)


def header_of(file: File, folder: Path) -> tuple[Any, int, int]:
    """Return what a file says before its pixels, where these begin, and how many bytes they have."""
    import pydicom
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    if not has_preamble(file.path):
        raise unnamed.unreadable("This file does not begin as DICOM does (no DICM preamble)", folder, file.id)
    meta = pydicom.filereader.read_file_meta_info(file.path)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        refuse_deflated_bomb(file, int(meta.FileMetaInformationGroupLength), folder)
        said = pydicom.dcmread(file.path)
        return said, 0, len(said.get("PixelData") or b"")
    with open(file.path, "rb") as stream:
        said = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(READ))
        start = stream.tell()
        element = stream.read(12)  # tag, kind and length of the pixels; of files with implicit kinds tag and length
        implicit, little = said.original_encoding
        head = 8 if implicit else 12
        claimed = int.from_bytes(element[head - 4 : head], "little" if little else "big")
        return said, start + head, max(0, min(claimed, os.fstat(stream.fileno()).st_size - start - head))


def refuse_deflated_bomb(file: File, length: int, folder: Path) -> None:
    """Refuse a file, deflated as a whole after ``length`` bytes of file meta, that would fill the memory."""
    with open(file.path, "rb") as stream:
        stream.seek(132 + 12 + length)  # the preamble and the group length itself lie before
        unpacker, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while block := stream.read(2**16):
            while block and not unpacker.eof:
                size += len(unpacker.decompress(block, 2**20))
                block = unpacker.unconsumed_tail
                if size > pictures.LARGEST_FILE:
                    raise unnamed.unreadable("This deflated DICOM file unpacks to more than is read", folder, file.id)


def frames_at(file: File, begin: int, syntax: Any, frames: int) -> bool:
    """Return whether compressed pixels can be as many frames; a frame may be in several pieces, except by RLE."""
    from pydicom.encaps import parse_basic_offsets, parse_fragments
    from pydicom.uid import RLELossless

    with open(file.path, "rb") as stream:
        stream.seek(begin)
        told = parse_basic_offsets(stream)
        pieces, _ = parse_fragments(stream)
    return pieces >= frames and (len(told) or (pieces if syntax == RLELossless else frames)) == frames


def require_plugin(syntax: Any, get_decoder: Callable[[Any], Any], refused: Callable[..., AuditError]) -> None:
    """Refuse a compression that nothing installed can undo, naming what would."""
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise refused(
            f"No plugin reads the transfer syntax {syntax.name}", "Convert it to an uncompressed one."
        ) from None
    if not decoder.is_available:
        what = f"This DICOM picture is compressed by {syntax.name}, which needs a plugin"
        raise refused(what, f"pip install {plugin_of(syntax)}, or decompress it.")


@cache
def installed_plugins() -> list[str]:
    """Return what decodes compressed pixels beside Pillow: decoders of lossy files differ by a gray level."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("gdcm", "python-gdcm", "pyjpegls", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found


def plugin_of(syntax: Any) -> str:
    """Return the packages that read a compressed syntax best."""
    return next((packages for part, packages in PLUGINS if part in syntax.name), "pylibjpeg")


# Pixels


def frames_of(
    file: File, frames: Sequence[int], folder: Path, reading: Reading, tally: Counter[str]
) -> Iterator[Image]:
    """Yield some frames of a file, as mode L or RGB."""
    from pydicom import dcmread
    from pydicom.pixels import iter_pixels
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    remedy = unnamed.LEAVE_OUT
    kind = "DICOM picture"
    with unnamed.untold(kind, "pydicom", folder, file.id):
        said, *_ = header_of(file, folder)
        syntax = said.file_meta.TransferSyntaxUID
        if syntax.is_encapsulated:
            kind = f"DICOM picture, compressed by {syntax.name},"
            remedy = (
                f"Where the file is intact, its variant needs another plugin: pip install {plugin_of(syntax)}. {remedy}"
            )
        # pydicom looks for the pixels of files that are deflated as a whole in what is deflated
        whole = file.path if said.file_meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian else dcmread(file.path)
        values = iter_pixels(whole, indices=list(frames))
    for frame in frames:
        # Not around the yield: what the caller raises there is no damage of this file.
        with unnamed.untold(kind, "pydicom", folder, file.id, remedy):
            picture = as_picture(next(values), of_frame(said, frame), f"{folder}: {file.id}", reading, tally)
        yield picture


def of_frame(said: Any, frame: int) -> Any:
    """Return a header in which what the functional groups of enhanced files say of one frame stands at the top."""
    from pydicom.dataset import Dataset

    shared = said.get("SharedFunctionalGroupsSequence") or []
    per_frame = said.get("PerFrameFunctionalGroupsSequence") or []
    found = Dataset()
    found.update({each.tag: each for each in said})
    for group in (*shared[:1], *per_frame[frame : frame + 1]):
        for sequence in group:
            for item in list(sequence.value or [])[:1] if sequence.VR == "SQ" else []:
                found.update({each.tag: each for each in item if each.keyword in VALUES})
    return found


def as_picture(values: np.ndarray, said: Any, where: str, reading: Reading, tally: Counter[str]) -> Image:
    """Return one frame ``[h, w]`` or ``[h, w, 3]`` as 8 bits."""
    from PIL import Image
    from pydicom.pixels import apply_color_lut

    photometric = said.PhotometricInterpretation
    if photometric in GRAY:
        return Image.fromarray(as_shown(values, said, where, reading, tally))
    bits = int(said.BitsStored)
    if photometric == PALETTE:
        values = apply_color_lut(values, said)
        bits = 8 * values.dtype.itemsize
    if bits > 8:
        tally["deep_color"] += 1
        values = values >> (bits - 8)
    return Image.fromarray(np.ascontiguousarray(values.astype(np.uint8)))


def as_shown(stored: np.ndarray, said: Any, where: str, reading: Reading, tally: Counter[str]) -> np.ndarray:
    """Return gray values as a viewer shows them, uint8."""
    values = in_units(stored, said)
    center, width = (first_of(said.get(name)) for name in ("WindowCenter", "WindowWidth"))
    table = (said.get("VOILUTSequence") or [None])[0]
    if reading.window is not None:
        tally["windowed"] += 1
        pixels = pictures.windowed(values, reading.window, where)
    elif table is not None:
        tally["own_window"] += 1
        pixels = pictures.windowed(looked_up(values, table), (0, 2 ** table.LUTDescriptor[2] - 1), where)
    elif center is not None and width is not None:
        tally["own_window"] += 1
        pixels = own_window(values, float(center), float(width), str(said.get("VOILUTFunction") or "LINEAR"), where)
    elif values is stored and stored.dtype == np.uint8 and said.BitsStored == 8:
        pixels = stored
    else:
        raise AuditError(
            f"This DICOM picture has {said.get('BitsStored', 32)} bits, here {values.min():g} to {values.max():g}, and "
            "neither --window nor a window of its own says which values are black and white",
            where,
            _WINDOW_REMEDY,
        )
    if said.PhotometricInterpretation == "MONOCHROME1":
        tally["inverted"] += 1
        pixels = 255 - pixels
    padding = padding_in(stored, said)
    if padding.any():
        tally["padded"] += 1
        pixels = np.where(padding, 0, pixels).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def first_of(value: Any) -> Any:
    """Return the first of several values, None where there is none."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        return None if value in ("", b"") else value
    return value[0] if len(value) else None


def in_units(stored: np.ndarray, said: Any) -> np.ndarray:
    """Return stored values in the units of the modality; the same array where they are these."""
    table = (said.get("ModalityLUTSequence") or [None])[0]
    if table is not None:
        return looked_up(stored, table)
    slope, intercept = (first_of(said.get(name)) for name in ("RescaleSlope", "RescaleIntercept"))
    slope, intercept = float(1 if slope is None else slope), float(0 if intercept is None else intercept)
    if not (np.isfinite(slope) and slope and np.isfinite(intercept)):
        raise ValueError("a rescale slope of 0")
    return stored if (slope, intercept) == (1, 0) else stored * slope + intercept


def looked_up(values: np.ndarray, table: Any) -> np.ndarray:
    """Return what a table of PS3.3 C.11.1.1 gives for values; those beyond its ends are given its ends."""
    n, start, _ = table.LUTDescriptor
    entries = table.LUTData
    if isinstance(entries, bytes):
        entries = np.frombuffer(entries, "u1" if len(entries) < 2 * (n or 2**16) else "<u2")
    entries = np.asarray(entries)[: n or 2**16]
    return entries[np.clip(np.rint(values).astype(np.int64) - start, 0, len(entries) - 1)]


def own_window(values: np.ndarray, center: float, width: float, function: str, where: str) -> np.ndarray:
    """Return values through a window as PS3.3 C.11.2.1.2 and C.11.2.1.3 define it, uint8."""
    if not (np.isfinite(center) and np.isfinite(width) and width >= (1 if function == "LINEAR" else 1e-9)):
        raise ValueError("a window of no width")
    if function == "SIGMOID":
        return pictures.windowed(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700))), (0, 1), where)
    half, middle = (width / 2, center) if function == "LINEAR_EXACT" else ((width - 1) / 2, center - 0.5)
    return pictures.windowed(values, (middle - half, middle + max(half, 1e-9)), where)


def padding_in(stored: np.ndarray, said: Any) -> np.ndarray:
    """Return where pixels were added to fill the frame, bool; a padding value of the other sign is the same bits."""
    ends = [said.get("PixelPaddingValue"), said.get("PixelPaddingRangeLimit")]
    if ends[0] is None or stored.dtype.kind not in "iu":
        return np.zeros(stored.shape, bool)
    wide, signed = 8 * stored.dtype.itemsize, stored.dtype.kind == "i"
    bits = [int(value) % 2**wide for value in ends if value is not None]
    low, *_, high = sorted(each - 2**wide * (signed and each >= 2 ** (wide - 1)) for each in (*bits, bits[0]))
    return (stored >= low) & (stored <= high)


KIND = Kind(claims, open_dicom)
