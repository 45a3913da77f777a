"""A folder of NIfTI volumes, ``.nii`` and ``.nii.gz`` at any depth: each slice across one axis is a picture.

Volumes are turned to the closest canonical orientation (RAS+). ``DIR:axial=40-120`` (or coronal, sagittal) gives those
slices as DICOM shows them: superior or anterior at the top, the patient's right (sagittal: anterior) at the left.
``DIR:z=40-120`` (or x, y) gives the same slices as they lie in the canonical array, rows along its first other axis,
as trainings see them that cut arrays. Slices count from 0 along the axis (from inferior, posterior, left) and both ends
belong; ``30%-70%`` takes those whose middle lies there. The group is the file.
"""

from __future__ import annotations

import gzip
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from auditor.errors import AuditError
from auditor.images import pictures, unnamed
from auditor.images.sources import Kind, Place, Reading, Source, refuse_bomb, require_room, suffix_of
from auditor.images.unnamed import File

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".nii", ".nii.gz")
UPRIGHT = ("sagittal", "coronal", "axial")  # across the axes x, y, z of the canonical array
AS_STORED = ("x", "y", "z")
LARGEST = 2**31  # bytes of a volume
LONGEST_HEADER = 540  # bytes
_BAND = re.compile(rf"({'|'.join((*UPRIGHT, *AS_STORED))})(?:=(\d{{1,5}})(%?)-(\d{{1,5}})(%?))?")


class Band(NamedTuple):
    """Which slices of every volume are pictures."""

    name: str  # of UPRIGHT or AS_STORED
    first: int = 0
    last: int = 100
    percent: bool = True

    @property
    def axis(self) -> int:
        """The axis of the canonical array that is cut across."""
        return (UPRIGHT if self.name in UPRIGHT else AS_STORED).index(self.name)

    def slices(self, depth: int) -> list[int]:
        """Return the slices of a volume of ``depth`` slices."""
        if self.percent:
            return [i for i in range(depth) if self.first <= 100 * (i + 0.5) / depth <= self.last]
        return list(range(self.first, self.last + 1))


class Volume(NamedTuple):
    """What is known of a volume before its values are read."""

    depth: int  # slices across the axis that is asked for
    turned: np.ndarray  # nibabel's orientation: int-valued float64 [3, 2]
    end: int  # bytes of the file, unpacked, that are looked at


def claims(path: Path) -> bool:
    """Return whether this is a folder of NIfTI files without other pictures, or such a file."""
    return unnamed.hold(path, is_nifti) or (suffix_of(path.name) in SUFFIXES and not path.is_dir())


def is_nifti(entry: os.DirEntry[str]) -> bool:
    """Return whether the name says so."""
    return suffix_of(entry.name) in SUFFIXES


def open_nifti(place: Place, reading: Reading) -> Source:
    """Return the slices of the NIfTI files of a folder."""
    unnamed.one_folder(place, "NIfTI")
    folder = place.path
    band = band_of(place)
    nibabel = unnamed.reader("nibabel", "NIfTI files", folder)
    files, notes = unnamed.files_in(folder, is_nifti, reading)
    volumes = {file: volume_of(file, folder, band) for file in files}
    rows = [(file, each) for file, volume in volumes.items() for each in slices_of(file, volume, band, folder)]
    if not rows:
        raise AuditError("No slice of any volume lies in this band", place, "Give a wider one.")
    require_room(len(rows), sum(each.state[0] for each in files), folder)

    def decoded(wanted: Sequence[int], tally: Counter[str]) -> Iterator[Image]:
        for file, group in groupby((rows[row] for row in wanted), key=lambda each: each[0]):
            yield from cut(file, [each for _, each in group], volumes[file], band, folder, reading, tally)

    at: dict[str, list[int]] = {}
    for row, (file, _) in enumerate(rows):
        at.setdefault(file.name, []).append(row)
    return Source(
        [f"{file.id}/{band.name}-{each}" for file, each in rows],
        unnamed.stamps_of(files, nibabel),
        decoded,
        tuple(notes),
        columns={"file": lambda: [file.id for file, _ in rows]},
        group="file",
        files=at,
    )


def band_of(place: Place) -> Band:
    """Return the slices that are asked for; nothing is guessed."""
    found = _BAND.fullmatch(place.part or "")
    if found is None:
        what = "A volume is no picture: nothing says" if place.part is None else f"{place.part!r} does not say"
        raise AuditError(
            f"{what} which slices across which axis are the pictures",
            place,
            f"Write {place.path}:axial=40-120 or :axial=30%-70% or :axial; coronal and sagittal likewise, or x, y, z "
            "for slices as they lie in the canonical array.",
        )
    name, first, of_first, last, of_last = found.groups()
    if first is None:
        return Band(name)
    if of_first != of_last or int(first) > int(last) or (of_last and int(last) > 100):
        raise AuditError(f"{place.part!r} is no band of slices", place, "Write 40-120 or 30%-70%, the lower end first.")
    return Band(name, int(first), int(last), bool(of_last))


def slices_of(file: File, volume: Volume, band: Band, folder: Path) -> list[int]:
    """Return the slices of one volume, which must have all of them."""
    found = band.slices(volume.depth)
    if found and found[-1] >= volume.depth:
        what = f"This volume has {volume.depth} slices across {band.name}, not {band.last + 1}"
        raise unnamed.unreadable(what, folder, file.id, "Give a band that all volumes have, such as 30%-70%.")
    return found


# Volumes


def unpacked(path: str) -> IO[bytes]:
    """Return a stream of the file's content, unpacked."""
    return gzip.open(path, "rb") if path.lower().endswith(".gz") else open(path, "rb")  # type: ignore[return-value]


def volume_of(file: File, folder: Path, band: Band) -> Volume:
    """Return what the header says, which must be whole, of three dimensions, and tell an orientation."""
    import nibabel

    def refused(what: str, remedy: str = unnamed.LEAVE_OUT) -> AuditError:
        return unnamed.unreadable(what, folder, file.id, remedy)

    with unnamed.untold("NIfTI file", "nibabel.global", folder, file.id):
        with unpacked(file.path) as stream:
            block = stream.read(LONGEST_HEADER)
        header = kind_of(block)(block[: header_size(block)])
        if not bytes(header["magic"]).startswith(b"n+"):
            raise refused("The header of this NIfTI file says that its values lie in another file", "Write one file.")
        shape, dtype = three_sides(header.get_data_shape()), header.get_data_dtype()
        if shape is None:
            what = f"This NIfTI file has the dimensions {list(header.get_data_shape())[:8]}, not those of one volume"
            raise refused(what, "Write every volume to a file of its own.")
        if dtype.kind not in "iuf" or dtype.itemsize > 8:
            raise refused(f"The values of this NIfTI file are of the type {dtype.name}, not gray values", "Convert it.")
        start = float(header["vox_offset"])
        size = math.prod(shape) * dtype.itemsize
        if size > LARGEST:
            raise refused(f"This volume claims {size / 2**30:,.1f} GiB, more than is read", "Crop it.")
        if not header_size(block) <= start <= LARGEST:
            raise refused("The values of this NIfTI file lie within its header or nowhere")
        packed = os.stat(file.path).st_size
        if file.path.lower().endswith(".gz"):
            refuse_bomb(packed, int(start) + size, Path(f"{folder}: {file.id}"))
        elif packed < start + size:
            raise refused(f"This NIfTI file has {packed:,} bytes and claims {int(start) + size:,}")
        if not (header["sform_code"] or header["qform_code"]):
            raise refused("This NIfTI file tells no orientation (sform and qform codes are 0)", "Write it with one.")
        turned = nibabel.orientations.io_orientation(header.get_best_affine())
        if not np.isfinite(turned).all():
            raise refused("The affine of this NIfTI file is singular: it tells no orientation", "Write it with one.")
        return Volume(shape[int(np.flatnonzero(turned[:, 0] == band.axis)[0])], turned, int(start) + size)


def header_size(block: bytes) -> int:
    """Return the size of the header as its first number says it, 348 or 540; anything else is no NIfTI."""
    size = min(int.from_bytes(block[:4], "little"), int.from_bytes(block[:4], "big"))
    if size not in (348, LONGEST_HEADER) or len(block) < size:
        raise ValueError("no NIfTI header")
    return size


def kind_of(block: bytes) -> Any:
    """Return the class of the header."""
    import nibabel

    return nibabel.Nifti1Header if header_size(block) == 348 else nibabel.Nifti2Header


def three_sides(shape: Sequence[int]) -> tuple[int, int, int] | None:
    """Return the three dimensions of a volume without what is 1 beyond them, None where there are others."""
    sizes = [int(each) for each in shape]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    sizes += [1] * (3 - len(sizes)) if len(sizes) >= 2 else []
    return (sizes[0], sizes[1], sizes[2]) if len(sizes) == 3 and min(sizes) > 0 else None


def cut(
    file: File, slices: Sequence[int], volume: Volume, band: Band, folder: Path, reading: Reading, tally: Counter[str]
) -> Iterator[Image]:
    """Yield some slices of a volume, mode L."""
    import nibabel

    where = f"{folder}: {file.id}"
    with unnamed.untold("NIfTI file", "nibabel.global", folder, file.id):
        with unpacked(file.path) as stream:
            content = stream.read(LONGEST_HEADER)
            of_class = nibabel.Nifti1Image if header_size(content) == 348 else nibabel.Nifti2Image
            if isinstance(stream, gzip.GzipFile):
                content += stream.read(volume.end - len(content))
                stream.read(1)  # at its end the checksum is compared
                proxy = of_class.from_bytes(content).dataobj
            else:
                proxy = of_class.from_filename(file.path).dataobj
        stored = np.asanyarray(proxy.get_unscaled())
        stored = stored.reshape(three_sides(stored.shape) or stored.shape)
        turned = nibabel.orientations.apply_orientation(stored, volume.turned)
    for each in slices:
        with unnamed.untold("NIfTI file", "nibabel.global", folder, file.id):
            values = np.take(turned, each, axis=band.axis)
            if (proxy.slope, proxy.inter) != (1, 0):
                values = values * float(proxy.slope) + float(proxy.inter)
            if band.name in UPRIGHT:
                values = values[::-1, ::-1].T
            (picture,) = pictures.of_values(np.ascontiguousarray(values)[None, ..., None], where, reading, tally)
        yield picture


KIND = Kind(claims, open_nifti)
