"""Malformed DICOM and NIfTI: one clear error each that quotes nothing of a file; no traceback, hang or much memory."""

from __future__ import annotations

import gzip
import logging
import random
import struct
import time
import tracemalloc
import warnings
import zlib
from collections import Counter
from pathlib import Path

import medical
import numpy as np
import pydicom
import pytest
from medical import dicom, film, nifti
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from auditor import images
from auditor.errors import AuditError
from auditor.images import Reading

SECONDS, MEMORY = 10, 300 * 2**20
WINDOW = Reading((0.0, 4095.0))
SECRETS = [*medical.identity(0).values(), "Smith", "1.2.840", "1.2.826"]


def read(source: object) -> None:
    opened = images.open_source(source, WINDOW)
    assert all(picture.width for picture in opened.pictures(range(len(opened.ids)), Counter()))


def refusal(source: object) -> AuditError:
    """The one error, which came in time, in little memory, without warnings, and quotes nothing."""
    tracemalloc.start()
    begin = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(AuditError) as caught:
                read(source)
        assert time.monotonic() - begin < SECONDS and tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    said = str(caught.value)
    assert caught.value.what and caught.value.where and caught.value.remedy
    assert not [each for each in SECRETS if each in said], said
    return caught.value


# DICOM

WHOLE = {
    "no rows": {"Rows": None},
    "no columns": {"Columns": None},
    "0 rows": {"Rows": 0},
    "0 columns": {"Columns": 0},
    "65535 x 65535": {"Rows": 65535, "Columns": 65535},
    "more rows than pixels": {"Rows": 400},
    "0 frames": {"NumberOfFrames": "0"},
    "-3 frames": {"NumberOfFrames": "-3"},
    "2 frames of one": {"NumberOfFrames": "2"},
    "fewer rows than pixels": {"Rows": 8},
    "two thousand million frames": {"NumberOfFrames": "2000000000"},
    "no depth": {"BitsAllocated": None},
    "a depth of 0": {"BitsAllocated": 0},
    "a depth of 13": {"BitsAllocated": 13},
    "a depth of 4096": {"BitsAllocated": 4096},
    "more bits stored than there are": {"BitsStored": 40},
    "no sign": {"PixelRepresentation": None},
    "a sign of 7": {"PixelRepresentation": 7},
    "no samples": {"SamplesPerPixel": None},
    "0 samples": {"SamplesPerPixel": 0},
    "3 samples of gray": {"SamplesPerPixel": 3},
    "color of one sample": {"PhotometricInterpretation": "RGB"},
    "no photometric interpretation": {"PhotometricInterpretation": None},
    "an unknown photometric interpretation": {"PhotometricInterpretation": "SMITH"},
    "a retired color model": {"PhotometricInterpretation": "CMYK", "SamplesPerPixel": 4},
    "a palette without colors": {"PhotometricInterpretation": "PALETTE COLOR"},
    "a slope of 0": {"RescaleSlope": 0, "RescaleIntercept": 0},
    "a slope without end": {"RescaleSlope": "1e999", "RescaleIntercept": 0},
    "an empty modality table": {"ModalityLUTSequence": [{}]},
    "a modality table without entries": {"ModalityLUTSequence": [{"LUTDescriptor": [256, 0, 16]}]},
}
OWN_WINDOW = {
    "a window of no width": {"WindowCenter": 100, "WindowWidth": 0},
    "a negative window": {"WindowCenter": 100, "WindowWidth": -5},
    "a window without center": {"WindowWidth": 100},
    "an endless window": {"WindowCenter": "1e999", "WindowWidth": 1},
    "an empty table": {"VOILUTSequence": [{}]},
    "a table without entries": {"VOILUTSequence": [{"LUTDescriptor": [256, 0, 8]}]},
    "a table of two descriptors": {"VOILUTSequence": [{"LUTDescriptor": [256, 0]}]},
}


def with_sequences(said: dict) -> dict:
    """Values of which lists of dictionaries are sequences."""

    def item(fields: dict) -> Dataset:
        made = Dataset()
        for name, value in fields.items():
            setattr(made, name, value)
        return made

    is_sequence = {name for name, value in said.items() if isinstance(value, list) and isinstance(value[0], dict)}
    return {name: Sequence(map(item, v)) if name in is_sequence else v for name, v in said.items()}


@pytest.mark.parametrize("what", WHOLE)
def test_a_header_that_is_no_pictures_is_one_error(what, tmp_path):
    with pydicom.config.disable_value_validation():
        dicom(tmp_path / "Smith^John.dcm", film(), 12, **with_sequences(WHOLE[what]))
    refusal(tmp_path)


@pytest.mark.parametrize("what", OWN_WINDOW)
def test_a_window_that_is_none_is_one_error_without_an_explicit_one_and_harmless_beside_one(what, tmp_path):
    with pydicom.config.disable_value_validation():
        dicom(tmp_path / "Smith^John.dcm", film(), 12, **with_sequences(OWN_WINDOW[what]))
    read(tmp_path)
    with pytest.raises(AuditError) as caught:
        next(iter(images.open_source(tmp_path).pictures([0], Counter())))
    assert not [each for each in SECRETS if each in str(caught.value)]


def intact() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as root:
        return dicom(Path(root) / "a.dcm", film(), 12).read_bytes()


PARTS = {
    "nothing": 0,
    "the preamble": 132,
    "a part of the meta": 200,
    "meta": 340,
    "half": 0.5,
    "most": 0.9,
    "all but one byte": -1,
}


@pytest.mark.parametrize("part", PARTS)
def test_a_file_that_ends_early_is_one_error(part, tmp_path):
    content, at = intact(), PARTS[part]
    end = int(at * len(content)) if isinstance(at, float) else at
    (tmp_path / "Smith^John.dcm").write_bytes(content[:end])
    refusal(tmp_path)


def syntax(root: Path, uid: str, pixels: bytes, rows: int = 16) -> Path:
    """A file whose pixels are compressed, or are said to be."""
    data = pydicom.dcmread(dicom(root / "x.dcm", film(), 12, Rows=rows, Columns=rows))
    data.file_meta.TransferSyntaxUID = UID(uid)
    data.PixelData = encapsulate([pixels]) if pixels else b""
    data["PixelData"].is_undefined_length = True
    data.save_as(root / "x.dcm", enforce_file_format=False, implicit_vr=False, little_endian=True)
    return root


COMPRESSED = {
    "a private syntax": ("1.2.826.0.1.99", b"abcd"),
    "video": ("1.2.840.10008.1.2.4.100", b"abcd"),
    "JPEG that is none": (JPEGBaseline8Bit, b"abcd"),
    "JPEG 2000 that is none": (JPEG2000Lossless, b"\xff\x4f\xff\x51" + bytes(60)),
    "JPEG that ends early": (JPEGBaseline8Bit, b"\xff\xd8\xff\xe0" + bytes(100)),
    "RLE without segments": (RLELossless, bytes(64)),
    "RLE with 2^32 segments": (RLELossless, b"\xff" * 64),
    "RLE that ends early": (RLELossless, struct.pack("<16I", 2, 64, 70, *[0] * 13) + b"\x05ab"),
    "an empty frame": (RLELossless, b"  "),
}


@pytest.mark.parametrize("what", COMPRESSED)
def test_compressed_pixels_that_are_none_are_one_error(what, tmp_path):
    refusal(syntax(tmp_path, *COMPRESSED[what]))


@pytest.mark.parametrize("offsets", [True, False])
@pytest.mark.parametrize("frames", [None, 1, 3, 400])
def test_another_number_of_compressed_frames_than_the_header_tells_is_one_error(frames, offsets, tmp_path):
    shipped = Path(pydicom.__file__).parent / "data/test_files/SC_rgb_rle_2frame.dcm"
    data = pydicom.dcmread(shipped)
    parts = list(pydicom.encaps.generate_frames(data.PixelData, number_of_frames=2))
    data.PixelData = encapsulate(parts, has_bot=offsets)
    data.save_as(tmp_path / "x.dcm")
    read(tmp_path)
    data.NumberOfFrames = frames
    data.save_as(tmp_path / "x.dcm")
    assert "does not hold as many" in refusal(tmp_path).what


def test_a_compressed_picture_of_absurd_size_is_refused_before_it_is_unpacked(tmp_path):
    assert "65000x65000" in refusal(syntax(tmp_path, RLELossless, bytes(64), rows=65000)).what


def test_a_deflated_file_that_unpacks_to_gigabytes_is_refused(tmp_path):
    head = pydicom.dcmread(dicom(tmp_path / "x.dcm", film(), 12))
    head.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    head.save_as(tmp_path / "x.dcm")
    content = (tmp_path / "x.dcm").read_bytes()
    length = struct.unpack("<I", content[140:144])[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(400)) + packer.flush()
    (tmp_path / "x.dcm").write_bytes(content[: 144 + length] + bomb)
    assert "unpacks to more" in refusal(tmp_path).what
    (tmp_path / "x.dcm").write_bytes(content[: 144 + length] + b"no deflate")
    refusal(tmp_path)


def test_sequences_in_one_another_without_end_are_one_error_or_read(tmp_path):
    content = intact()
    deep = b"".join(
        struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
        for _ in range(3000)
    )
    at = content.index(b"\xe0\x7f\x10\x00")
    (tmp_path / "x.dcm").write_bytes(
        content[:at].replace(b"\x28\x00\x02\x00US", deep + b"\x28\x00\x02\x00US") + content[at:]
    )
    refusal(tmp_path)


@pytest.mark.parametrize("seed", range(2))
def test_changed_bytes_of_dicom_give_pictures_or_one_error(seed, tmp_path, capfd):
    whole, rng, refused = intact(), random.Random(seed), 0
    where = Path(tmp_path / "x.dcm")
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 1, 4))):
            content[rng.randrange(128, len(whole) - 512)] = rng.randrange(256)
        where.write_bytes(content)
        try:
            read(tmp_path)
        except AuditError as error:
            refused += 1
            assert not [each for each in SECRETS[:12] if each in str(error)], error
    assert refused
    logging.shutdown()
    assert capfd.readouterr() == ("", "")


# NIfTI

FIELDS = {
    "no dimensions": {"dim": [0] * 8},
    "9 dimensions": {"dim": [9, 8, 8, 4, 1, 1, 1, 1]},
    "a negative side": {"dim": [3, -8, 8, 4, 1, 1, 1, 1]},
    "no slices": {"dim": [3, 8, 8, 0, 1, 1, 1, 1]},
    "one dimension": {"dim": [1, 256, 1, 1, 1, 1, 1, 1]},
    "four dimensions": {"dim": [4, 4, 4, 4, 4, 1, 1, 1]},
    "absurd dimensions": {"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]},
    "more than there is": {"dim": [3, 800, 800, 4, 1, 1, 1, 1]},
    "an unknown type": {"datatype": 7777},
    "complex values": {"datatype": 32, "bitpix": 64},
    "color": {"datatype": 128, "bitpix": 24},
    "bits": {"datatype": 1, "bitpix": 1},
    "a type of another width": {"datatype": 16, "bitpix": 8},
    "values in the header": {"vox_offset": 10},
    "values far away": {"vox_offset": 1e30},
    "values nowhere": {"vox_offset": np.nan},
    "values before the file": {"vox_offset": -400},
    "no orientation": {"sform_code": 0, "qform_code": 0},
    "a singular affine": {"srow_x": [0] * 4},
    "an affine of NaN": {"srow_y": [np.nan] * 4},
    "an endless slope": {"scl_slope": np.inf},
    "another magic": {"magic": b"ni1"},
    "no magic": {"magic": b""},
}
HARMLESS = {"an endless slope"}  # which is none, as NIfTI says of 0


def header_of(content: bytes, fields: dict) -> bytes:
    """A file with other fields in its header, whatever nibabel thinks of them."""
    import nibabel

    raw = np.frombuffer(content[:348], nibabel.nifti1.header_dtype).copy()
    for name, value in fields.items():
        raw[name] = value
    return raw.tobytes() + content[348:]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("what", FIELDS)
def test_a_header_that_is_no_volumes_is_one_error(what, packed, tmp_path):
    path = nifti(tmp_path / "Smith_John.nii")
    content = header_of(path.read_bytes(), FIELDS[what])
    path.write_bytes(content)
    if packed:
        path.unlink()
        (tmp_path / "Smith_John.nii.gz").write_bytes(gzip.compress(content))
    if what in HARMLESS:
        read(f"{tmp_path}:z=1-2")
    else:
        refusal(f"{tmp_path}:z=1-2")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("end", [0, 3, 100, 347, 352, 400, -1])
def test_a_volume_that_ends_early_is_one_error(end, packed, tmp_path):
    path = nifti(tmp_path / "Smith_John.nii")
    content = path.read_bytes()[:end]
    path.write_bytes(content)
    if packed:
        path.unlink()
        (tmp_path / "Smith_John.nii.gz").write_bytes(gzip.compress(content))
    refusal(f"{tmp_path}:z")


def test_a_gz_that_is_damaged_or_none_is_one_error(tmp_path):
    path = nifti(tmp_path / "Smith_John.nii.gz")
    whole = path.read_bytes()
    for content in (b"no gzip", whole[:12], whole[: len(whole) // 2], whole[:-9], b"\x1f\x8b" + bytes(500)):
        path.write_bytes(content)
        refusal(f"{tmp_path}:z")


@pytest.mark.parametrize("fields", [{"dim": [3, 1000, 1000, 1000, 1, 1, 1, 1]}, {"vox_offset": 1e9}])
def test_a_gz_bomb_is_refused_before_it_is_unpacked(fields, tmp_path):
    path = nifti(tmp_path / "Smith_John.nii")
    with gzip.open(tmp_path / "x.nii.gz", "wb", compresslevel=9) as stream:
        stream.write(header_of(path.read_bytes(), fields))
        for _ in range(300):
            stream.write(bytes(2**20))
    path.unlink()
    assert "times what is stored" in refusal(f"{tmp_path}:z=1-2").what


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_changed_bytes_of_nifti_give_pictures_or_one_error(suffix, tmp_path, capfd):
    path = nifti(tmp_path / f"a{suffix}")
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(200):
        content = bytearray(whole)
        content[rng.randrange(min(352, len(whole)))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            read(f"{tmp_path}:z=1-2")
        except AuditError:
            refused += 1
    assert refused
    assert capfd.readouterr() == ("", "")
