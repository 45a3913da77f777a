"""DICOM: each rule from stored values to the gray level that is shown, who belongs together, and what is refused."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import medical
import numpy as np
import pydicom
import pytest
from medical import dicom, film
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from auditor import images
from auditor.errors import AuditError
from auditor.images import Reading, unnamed
from auditor.split.items import Options, read_items

CT = film().astype(np.int16) - 1024  # Hounsfield units
HU = Reading((-1000.0, 1000.0))


def seen(folder: Path, reading: Reading | None = None) -> tuple[list[np.ndarray], Counter[str]]:
    """The pictures of a folder at their own size, and what was done to them."""
    source, tally = images.open_source(folder, reading), Counter()
    found = [np.asarray(each) for each in source.pictures(range(len(source.ids)), tally)]
    return found, +tally


def one(root: Path, reading: Reading | None = None, pixels: np.ndarray | None = None, **said) -> np.ndarray:
    """What one file is read as."""
    dicom(root / "set" / f"{len(list(root.rglob('*')))}.dcm", pixels, **said)
    found, _ = seen(root / "set", reading)
    (root / "set" / os.listdir(root / "set")[0]).unlink()
    return found[0]


def refusal(folder: Path, reading: Reading | None = None) -> AuditError:
    with pytest.raises(AuditError) as caught:
        seen(folder, reading)
    return caught.value


def linear(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def shipped(name: str) -> Path:
    """A file inside the package pydicom; nothing is downloaded."""
    found = Path(pydicom.__file__).parent / "data/test_files" / name
    assert found.exists() and get_testdata_file(name, download=False) == str(found)
    return found


# From stored values to gray levels


def test_an_explicit_window_is_in_units_after_rescaling(tmp_path):
    rescaled = one(tmp_path, HU, film(), bits=12, RescaleSlope=1, RescaleIntercept=-1024)
    assert np.array_equal(rescaled, linear(film() - 1024.0, -1000, 1000))
    assert np.array_equal(rescaled, one(tmp_path, HU, CT))  # the same values, stored as they are
    half = one(tmp_path, HU, film(), bits=12, RescaleSlope="0.5", RescaleIntercept="-1024.0")
    assert np.array_equal(half, linear(film() / 2 - 1024.0, -1000, 1000))


def test_a_modality_table_is_looked_up_before_the_window(tmp_path):
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4096, 0, 16], "US"
    table.add_new("LUTData", "US", (np.arange(4096) * 2).tolist())
    doubled = one(tmp_path, Reading((0.0, 8191.0)), film(), bits=12, ModalityLUTSequence=Sequence([table]))
    assert np.array_equal(doubled, linear(film() * 2.0, 0, 8191))


def test_without_an_explicit_window_the_files_own_is_used_and_told(tmp_path):
    said = {"WindowCenter": 40, "WindowWidth": 400}
    low, high = 40 - 0.5 - 399 / 2, 40 - 0.5 + 399 / 2  # PS3.3 C.11.2.1.2.1
    assert np.array_equal(one(tmp_path, None, CT, **said), linear(CT, low, high))
    assert np.array_equal(one(tmp_path, None, CT, **said, VOILUTFunction="LINEAR_EXACT"), linear(CT, -160, 240))
    sigmoid = np.rint(255 / (1 + np.exp(-4 * (CT - 40.0) / 400))).astype(np.uint8)
    assert np.array_equal(one(tmp_path, None, CT, **said, VOILUTFunction="SIGMOID"), sigmoid)
    several = one(tmp_path, None, CT, WindowCenter=[40, -600], WindowWidth=[400, 1500])
    assert np.array_equal(several, linear(CT, low, high))
    for name in "ab":
        dicom(tmp_path / f"set/{name}.dcm", CT, **said, PatientID=name)
    (note,) = images.read(tmp_path / "set", "train-a", (16, 16, 1)).notes
    assert note == "2 of 2 pictures were read through the window or table of their own file (VOI LUT) and rounded."


def test_an_explicit_window_comes_before_the_files_own(tmp_path):
    assert np.array_equal(one(tmp_path, HU, CT, WindowCenter=40, WindowWidth=400), linear(CT, -1000, 1000))


@pytest.mark.parametrize(("depth", "packed"), [(8, False), (12, False), (16, False), (8, True), (16, True)])
def test_a_table_of_the_file_comes_before_its_window(depth, packed, tmp_path):
    entries = np.round(np.linspace(0, 1, 4096) ** 2 * (2**depth - 1)).astype("<u2" if depth > 8 else np.uint8)
    table = Dataset()
    table.LUTDescriptor = [4096, 0, depth]
    table.add_new("LUTData", "OW" if packed else "US", entries.tobytes() if packed else entries.tolist())
    said = {"VOILUTSequence": Sequence([table]), "WindowCenter": 40, "WindowWidth": 400}
    shown = one(tmp_path, None, film(), bits=12, **said)
    assert np.array_equal(shown, linear(entries[film()], 0, 2**depth - 1))


def test_values_beyond_a_table_are_given_its_ends(tmp_path):
    table = Dataset()
    table.LUTDescriptor = [256, 1000, 8]
    table.add_new("LUTData", "US", list(range(256)))
    shown = one(tmp_path, None, film(), bits=12, VOILUTSequence=Sequence([table]))
    assert np.array_equal(shown, np.clip(film().astype(int) - 1000, 0, 255))


def test_more_than_8_bits_without_any_window_are_refused_and_8_bits_are_taken_as_they_are(tmp_path):
    small = film(high=256).astype(np.uint8)
    assert np.array_equal(one(tmp_path, None, small), small)
    for i, (pixels, said) in enumerate([(film(), {"bits": 12}), (CT, {}), (small, {"RescaleIntercept": -5})]):
        dicom(tmp_path / f"{i}/a.dcm", pixels, **said)
        error = refusal(tmp_path / str(i))
        assert "neither --window nor a window of its own" in error.what and "Hounsfield" in error.remedy


def test_monochrome1_is_inverted_after_the_window(tmp_path):
    said = {"bits": 12, "PhotometricInterpretation": "MONOCHROME1"}
    inverted = one(tmp_path, Reading((0.0, 4095.0)), film(), **said)
    assert np.array_equal(inverted, 255 - one(tmp_path, Reading((0.0, 4095.0)), film(), bits=12))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_whatever_is_dark(photometric, tmp_path):
    padded = CT.copy()
    padded[:3], padded[-1] = -2000, -1990
    said = {"PhotometricInterpretation": photometric, "PixelPaddingValue": -2000}
    shown = one(tmp_path, HU, padded, **said)
    assert not shown[:3].any() and shown[3:-1].any()
    assert shown[-1].min() == (255 if photometric == "MONOCHROME1" else 0)  # beyond the window, and not padding
    ranged = one(tmp_path, HU, padded, **said, PixelPaddingRangeLimit=-1990)
    assert not ranged[:3].any() and not ranged[-1].any()


def test_a_padding_value_that_was_stored_with_the_other_sign_is_the_same_bits(tmp_path):
    padded = CT.copy()
    padded[:3] = -2000
    path = dicom(tmp_path / "set/a.dcm", padded, PhotometricInterpretation="MONOCHROME1")
    data = pydicom.dcmread(path)
    data.add_new("PixelPaddingValue", "US", 2**16 - 2000)
    data.save_as(path)
    assert not seen(tmp_path / "set", HU)[0][0][:3].any()


def test_unused_high_bits_do_not_count(tmp_path):
    window = Reading((0.0, 4095.0))
    assert np.array_equal(one(tmp_path, window, film() | 0xF000, bits=12), one(tmp_path, window, film(), bits=12))


# Frames and color


def test_every_frame_is_a_picture_with_what_is_said_of_it(tmp_path):
    frames = np.stack([film(i) for i in range(3)])
    groups = [Dataset() for _ in frames]
    for i, group in enumerate(groups):
        window = Dataset()
        window.WindowCenter, window.WindowWidth = 1000 * (i + 1), 500
        group.FrameVOILUTSequence = Sequence([window])
    shared, rescale = Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 2, 0
    shared.PixelValueTransformationSequence = Sequence([rescale])
    said = {"PerFrameFunctionalGroupsSequence": Sequence(groups), "SharedFunctionalGroupsSequence": Sequence([shared])}
    dicom(tmp_path / "a.dcm", frames, 12, **said)
    source = images.open_source(tmp_path)
    assert [each.partition("/")[2] for each in source.ids] == ["0", "1", "2"]
    found, _ = seen(tmp_path)
    for i, each in enumerate(found):
        middle = 1000 * (i + 1) - 0.5
        assert np.array_equal(each, linear(2.0 * frames[i], middle - 249.5, middle + 249.5))
    assert np.array_equal(np.asarray(next(source.pictures([2], Counter()))), found[2])


def test_color_becomes_rgb_as_it_is(tmp_path):
    rgb = np.stack([film(i, high=256).astype(np.uint8) for i in range(3)], axis=-1)
    assert np.array_equal(one(tmp_path, None, rgb), rgb)
    planar = np.ascontiguousarray(np.moveaxis(rgb, -1, 0))
    dicom(tmp_path / "planar/a.dcm", rgb, PlanarConfiguration=1)
    data = pydicom.dcmread(tmp_path / "planar/a.dcm")
    data.PixelData = planar.tobytes()
    data.save_as(tmp_path / "planar/a.dcm")
    assert np.array_equal(seen(tmp_path / "planar")[0][0], rgb)


@pytest.mark.parametrize(
    "name",
    [
        *("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"),
        *("MR_small_expb.dcm", "MR_small_padded.dcm"),
    ],
)
def test_one_scan_is_one_picture_in_every_transfer_syntax(name, tmp_path):
    for each in ("MR_small.dcm", name):
        (tmp_path / each).mkdir()
        (tmp_path / each / "a.dcm").write_bytes(shipped(each).read_bytes())
    (first,), _ = seen(tmp_path / "MR_small.dcm")
    (second,), _ = seen(tmp_path / name)
    assert first.std() > 20 and np.array_equal(first, second)


@pytest.mark.parametrize("name", ["examples_palette.dcm", "SC_rgb_rle_2frame.dcm", "SC_ybr_full_422_uncompressed.dcm"])
def test_palettes_and_color_models_are_rgb(name, tmp_path):
    (tmp_path / "a.dcm").write_bytes(shipped(name).read_bytes())
    found, _ = seen(tmp_path)
    assert all(each.ndim == 3 and len(np.unique(each)) > 2 for each in found)
    assert len(found) == (2 if "2frame" in name else 1)


def test_a_file_that_is_deflated_as_a_whole_is_read_within_bounds(tmp_path):
    data = pydicom.dcmread(dicom(tmp_path / "plain/a.dcm", film(), 12))
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    (tmp_path / "deflated").mkdir()
    data.save_as(tmp_path / "deflated/a.dcm")
    window = Reading((0.0, 4095.0))
    assert np.array_equal(seen(tmp_path / "plain", window)[0][0], seen(tmp_path / "deflated", window)[0][0])


@pytest.mark.parametrize(
    ("name", "package"), [("MR_small_jpeg_ls_lossless.dcm", "pyjpegls"), ("SC_rgb_jpeg_gdcm.dcm", "pylibjpeg-libjpeg")]
)
def test_a_compression_without_its_plugin_is_refused_before_decoding_and_the_package_is_named(
    name, package, tmp_path, monkeypatch
):
    monkeypatch.setattr(pydicom.pixels.decoders.base.Decoder, "is_available", False)
    (tmp_path / "a.dcm").write_bytes(shipped(name).read_bytes())
    with pytest.raises(AuditError, match="which needs a plugin") as caught:
        images.open_source(tmp_path)
    assert f"pip install {package}" in caught.value.remedy or f" {package}" in caught.value.remedy
    assert "1.2.840" not in str(caught.value)


def test_a_variant_that_the_installed_plugins_do_not_know_is_told_as_such(tmp_path, monkeypatch):
    """JPEG of 12 bits, which Pillow does not read; with the package that is named it is read."""
    (tmp_path / "a.dcm").write_bytes(shipped("JPGExtended.dcm").read_bytes())
    decoder = pydicom.pixels.get_decoder(pydicom.uid.JPEGExtended12Bit)
    monkeypatch.setattr(decoder, "_available", {k: v for k, v in decoder._available.items() if k == "pillow"})
    error = refusal(tmp_path)
    assert "compressed by JPEG Extended" in error.what and "pip install pylibjpeg pylibjpeg-libjpeg" in error.remedy


# Which files


def test_files_without_suffix_and_those_named_by_uids_are_found_by_their_preamble(tmp_path):
    medical.patients(tmp_path, 2, 4)
    (tmp_path / "notes").write_text("no DICOM")
    (tmp_path / "1.2.3").write_text("no DICOM either")
    source = images.open_source(tmp_path)
    assert len(source.ids) == 8 and source.notes == ("Other files in the folder were ignored: 2.",)


def test_files_of_other_classes_than_images_are_left_out_and_counted(tmp_path):
    dicom(tmp_path / "a.dcm")
    for name in ("rtplan.dcm", "reportsi.dcm", "dicomdirtests/DICOMDIR", "rtdose.dcm", "liver_1frame.dcm"):
        (tmp_path / Path(name).name).write_bytes(shipped(name).read_bytes())
    source = images.open_source(tmp_path)
    assert len(source.ids) == 1 and "(directories, structures, doses, masks, reports): 5." in source.notes[0]


@pytest.mark.parametrize("name", ["a.dcm", "a", "1.2.840.7"])
def test_dicom_among_other_pictures_is_a_refusal_unless_it_is_to_be_left_out(name, tmp_path):
    dicom(tmp_path / name)
    Image.fromarray(film(high=256).astype(np.uint8)).save(tmp_path / "z.png")
    with pytest.raises(AuditError, match=r"1 \.dcm"):
        images.open_source(tmp_path)
    assert images.open_source(tmp_path, Reading(skip_unreadable=True)).ids == ["z.png"]


def test_a_single_file_is_refused_for_its_name_would_be_told(tmp_path):
    with pytest.raises(AuditError, match="read as a folder") as caught:
        images.open_source(dicom(tmp_path / "Smith.dcm"))
    assert "Smith" not in str(caught.value)


def test_ids_are_the_beginning_of_the_files_digests_and_do_not_follow_names(tmp_path):
    import hashlib

    paths = [dicom(tmp_path / f"one/{i}.dcm", film(i), 12) for i in range(6)]
    ids = list(images.open_source(tmp_path / "one").ids)
    assert ids == sorted(hashlib.sha256(each.read_bytes()).hexdigest()[:16] for each in paths)
    for i, each in enumerate(paths):
        (tmp_path / "two").mkdir(exist_ok=True)
        (tmp_path / f"two/{9 - i}.dcm").write_bytes(each.read_bytes())
    assert ids == list(images.open_source(tmp_path / "two").ids)
    (tmp_path / "two/again.dcm").write_bytes(paths[0].read_bytes())
    assert len(set(images.open_source(tmp_path / "two").ids)) == 7


def test_without_the_package_one_error_names_the_extra(tmp_path, monkeypatch):
    dicom(tmp_path / "a.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(AuditError, match="not installed") as caught:
        images.open_source(tmp_path)
    assert "auditor[medical]" in caught.value.remedy


def test_burned_in_text_is_a_warning_and_its_absence_is_not_told(tmp_path):
    dicom(tmp_path / "a.dcm", BurnedInAnnotation="NO")
    assert not images.open_source(tmp_path).notes
    dicom(tmp_path / "b.dcm", film(1), BurnedInAnnotation="YES")
    (note,) = images.open_source(tmp_path).notes
    assert note.startswith("Warning: 1 of 2 pictures say that text is burned into them")


# Who belongs together


def test_the_group_is_the_patient_and_is_the_same_in_every_set_of_one_audit(tmp_path):
    for name in ("one", "two"):
        medical.patients(tmp_path / name, 3, 2, seed=500 * (name == "two"))
    read = [images.read(tmp_path / name, name, (16, 16, 1)) for name in ("one", "two")]
    assert [len(set(each.groups)) for each in read] == [3, 3] and set(read[0].groups) == set(read[1].groups)
    assert not any("MRN" in group for each in read for group in each.groups)


@pytest.mark.parametrize(
    ("patient", "words"), [("", "empty in 4 of 4"), (None, "empty in"), ("ANON", "the same in all")]
)
def test_an_empty_or_constant_patient_is_refused_where_groups_matter_and_others_are_offered(patient, words, tmp_path):
    medical.patients(tmp_path, 2, 2, PatientID=patient)
    source = images.open_source(tmp_path)  # which a list of groups may name
    with pytest.raises(AuditError, match=words) as caught:
        images.read(tmp_path, "train-a", (16, 16, 1))
    assert "--group-by StudyInstanceUID" in caught.value.remedy and "path,source,group" in caught.value.remedy
    assert len(set(source.column("StudyInstanceUID"))) == 2


def test_one_picture_without_a_patient_is_enough_for_a_refusal(tmp_path):
    medical.patients(tmp_path, 3, 2)
    dicom(tmp_path / "x.dcm", film(9), 12, PatientID="  ")
    with pytest.raises(AuditError, match="PatientID is empty in 1 of 7"):
        images.read(tmp_path, "train-a", (16, 16, 1), Reading((0.0, 4095.0)))


def test_a_list_gives_groups_and_labels_by_file_and_its_ids_tell_no_file(tmp_path):
    medical.patients(tmp_path / "films", 2, 2, PatientID="")
    dicom(tmp_path / "films/cine.dcm", np.stack([film(i + 50) for i in range(3)]), 12, WindowCenter=9, WindowWidth=99)
    names = sorted(
        str(each.relative_to(tmp_path / "films")) for each in (tmp_path / "films").rglob("*") if each.is_file()
    )
    lines = [f"{name},films,g{'cine' in name:d},l{i}" for i, name in enumerate(names)]
    (tmp_path / "x.csv").write_text("\n".join(["path,source,group,label", *lines]), encoding="utf-8")
    found = images.read(tmp_path / "x.csv", "train-a", (16, 16, 1))
    assert sorted(found.ids) == sorted(images.open_source(tmp_path / "films").ids)
    assert Counter(found.groups) == {"g0": 4, "g1": 3} and len(set(found.labels)) == 5
    assert {group for each, group in zip(found.ids, found.groups) if "/" in each} == {"g1"}


def test_a_list_that_tells_no_groups_keeps_patients_together_all_the_same(tmp_path):
    medical.patients(tmp_path / "films", 30, 3)
    names = sorted(
        str(each.relative_to(tmp_path / "films")) for each in (tmp_path / "films").rglob("*") if each.is_file()
    )
    lines = [f"{name},films,l{i % 2}" for i, name in enumerate(names)]
    (tmp_path / "x.csv").write_text("\n".join(["path,source,label", *lines]), encoding="utf-8")
    found = images.read(tmp_path / "x.csv", "train-a", (16, 16, 1))
    assert sorted(Counter(found.groups).values()) == [3] * 30 and Counter(found.labels) == {"l0": 45, "l1": 45}
    for by, groups in ((None, 30), ("StudyInstanceUID", 30), ("label", 2)):
        assert len(set(read_items(Options(str(tmp_path / "x.csv"), group_by=by), tmp_path).groups)) == groups
    medical.patients(tmp_path / "films", 30, 3, PatientID="ANON")
    with pytest.raises(AuditError, match="PatientID is the same in all"):
        read_items(Options(str(tmp_path / "x.csv")), tmp_path)


@pytest.mark.parametrize("name", ["Smith.dcm", "Smith", "1.2.840.5"])
def test_a_list_of_dicom_files_without_their_folder_is_refused_and_names_none(name, tmp_path):
    dicom(tmp_path / "films" / name)
    (tmp_path / "x.csv").write_text(f"path\nfilms/{name}\n")
    with pytest.raises(AuditError, match="not read one by one") as caught:
        images.open_source(tmp_path / "x.csv")
    assert "column source" in caught.value.remedy and name not in str(caught.value)
    (tmp_path / "x.csv").write_text("path,source\nSmithson.dcm,films\n")
    with pytest.raises(AuditError, match="names no image and no file in films") as caught:
        images.open_source(tmp_path / "x.csv")
    assert "Smith" not in str(caught.value)


def test_files_that_settled_are_read_through_once_however_many_lists_name_their_folder(tmp_path, monkeypatch):
    medical.patients(tmp_path, 3, 2)
    read = Counter()

    def counted(path, folder):
        read[path] += 1
        return original(path, folder)

    original = unnamed.id_of
    monkeypatch.setattr(unnamed, "id_of", counted)
    for _ in range(2):  # written a moment ago: they may change again without a later time
        images.open_source(tmp_path)
    assert set(read.values()) == {2} and len(read) == 6
    monkeypatch.setattr(unnamed, "SETTLED", -60)
    for _ in range(3):
        images.open_source(tmp_path)
    assert set(read.values()) == {3}


@pytest.mark.parametrize("name", ["MR_small.dcm", "693_J2KI.dcm", "examples_overlay.dcm"])
def test_a_shipped_scan_is_shown_as_pydicom_shows_it(name, tmp_path):
    """pydicom's own windowing, an implementation that is not ours, up to rounding."""
    (tmp_path / "a.dcm").write_bytes(shipped(name).read_bytes())
    (found,), _ = seen(tmp_path)
    data = pydicom.dcmread(shipped(name))
    theirs = pydicom.pixels.apply_windowing(pydicom.pixels.apply_modality_lut(data.pixel_array, data), data)
    ends = pydicom.pixels.apply_windowing(pydicom.pixels.apply_modality_lut(np.array([-(2**14), 2**15]), data), data)
    expected = (theirs - ends[0]) / (ends[1] - ends[0]) * 255
    outside = padding_of(data)
    assert found.std() > 10 and np.abs(found[~outside] - expected[~outside]).max() <= 0.51


def padding_of(data: Dataset) -> np.ndarray:
    value = data.get("PixelPaddingValue")
    return np.zeros(data.pixel_array.shape, bool) if value is None else data.pixel_array == value
