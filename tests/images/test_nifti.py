"""NIfTI: orientation, which slices are pictures, values, who belongs together, and what is refused."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
from medical import nifti

from auditor import images
from auditor.errors import AuditError
from auditor.images import Reading

# Every voxel tells where it lies: 40 x + 8 y + z, x to the right, y to the front, z up.
SHAPE = (5, 6, 7)
X, Y, Z = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
BODY = (40 * X + 8 * Y + Z).astype(np.uint8)


def seen(source: object, reading: Reading | None = None) -> dict[str, np.ndarray]:
    """Pictures by what follows the file in their ids."""
    opened = images.open_source(source, reading)
    found = opened.pictures(range(len(opened.ids)), Counter())
    return {each.partition("/")[2]: np.asarray(picture) for each, picture in zip(opened.ids, found, strict=True)}


def turned(order: tuple[int, ...], signs: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The body as a scanner with other axes stores it, and its affine."""
    stored, affine = BODY.transpose(order), np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign
        if sign < 0:
            stored = np.flip(stored, axis)
            affine[world, 3] = SHAPE[world] - 1
    return np.ascontiguousarray(stored), affine


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_every_stored_orientation_gives_the_same_pictures(order, tmp_path):
    for i, signs in enumerate(product((1, -1), repeat=3)):
        nifti(tmp_path / f"{i}/a.nii", *turned(order, signs))
        assert np.array_equal(seen(f"{tmp_path / str(i)}:z=2-2")["z-2"], BODY[:, :, 2]), signs


def test_named_planes_are_upright_as_dicom_shows_them(tmp_path):
    nifti(tmp_path / "a.nii.gz", BODY)
    axial = seen(f"{tmp_path}:axial=2-2")["axial-2"]
    assert axial.shape == (6, 5) and axial[0, 0] == BODY[4, 5, 2]  # front at the top, right at the left
    coronal = seen(f"{tmp_path}:coronal=1-1")["coronal-1"]
    assert coronal.shape == (7, 5) and coronal[0, 0] == BODY[4, 1, 6]  # up at the top, right at the left
    sagittal = seen(f"{tmp_path}:sagittal=3-3")["sagittal-3"]
    assert sagittal.shape == (7, 6) and sagittal[0, 0] == BODY[3, 5, 6] and sagittal[0, -1] == BODY[3, 0, 6]


@pytest.mark.parametrize(("axis", "cut"), [("x", BODY[3]), ("y", BODY[:, 3]), ("z", BODY[:, :, 3])])
def test_letters_give_slices_as_they_lie_in_the_canonical_array(axis, cut, tmp_path):
    nifti(tmp_path / "a.nii", BODY)
    assert np.array_equal(seen(f"{tmp_path}:{axis}=3-3")[f"{axis}-3"], cut)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_letters_give_what_a_training_through_monai_sees(signs, tmp_path):
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientation

    path = nifti(tmp_path / "a.nii.gz", *turned((2, 0, 1), signs))
    load = Compose([LoadImage(image_only=True), EnsureChannelFirst(), Orientation(axcodes="RAS", labels=None)])
    theirs = np.asarray(load(path))[0]
    for name, picture in seen(f"{tmp_path}:z").items():
        assert np.array_equal(picture, theirs[:, :, int(name.partition("-")[2])])


@pytest.mark.parametrize(
    ("band", "slices"),
    [("axial", range(7)), ("axial=2-4", (2, 3, 4)), ("axial=30%-70%", (2, 3, 4)), ("axial=0%-100%", range(7))],
)
def test_a_band_says_which_slices_are_pictures(band, slices, tmp_path):
    nifti(tmp_path / "a.nii", BODY)
    assert list(seen(f"{tmp_path}:{band}")) == [f"axial-{i}" for i in slices]


@pytest.mark.parametrize(
    ("band", "words"),
    [
        ("", "nothing says which slices"),
        (":axial=4-2", "no band"),
        (":axial=10-20%", "no band"),
        (":axial=10%-120%", "no band"),
        (":oblique", "does not say"),
        (":axial=2", "does not say"),
        (":axial=5-7", "has 7 slices across axial, not 8"),
        (":axial=40%-41%", "No slice"),
    ],
)
def test_no_slice_is_guessed_or_missing(band, words, tmp_path):
    nifti(tmp_path / "a.nii", BODY)
    with pytest.raises(AuditError, match=words) as caught:
        images.open_source(f"{tmp_path}{band}")
    assert caught.value.remedy


def test_scaled_values_are_what_the_window_is_in(tmp_path):
    volume = nibabel.Nifti1Image((BODY.astype(np.float32) * 3.1 - 100), np.eye(4))
    volume.header.set_data_dtype(np.int16)
    nibabel.save(volume, tmp_path / "a.nii.gz")
    assert nibabel.load(tmp_path / "a.nii.gz").dataobj.slope != 1
    found = seen(f"{tmp_path}:z=1-1", Reading((0.0, 300.0)))["z-1"]
    true = nibabel.load(tmp_path / "a.nii.gz").get_fdata()[:, :, 1]
    assert np.array_equal(found, np.rint(np.clip(true / 300, 0, 1) * 255).astype(np.uint8))
    with pytest.raises(AuditError, match="outside 0 to 1"):
        seen(f"{tmp_path}:z=1-1")


def test_volumes_that_were_normalized_are_read_without_a_window(tmp_path):
    nifti(tmp_path / "a.nii.gz", (BODY / 255).astype(np.float32))
    assert np.array_equal(seen(f"{tmp_path}:z=1-1")["z-1"], BODY[:, :, 1])


def test_the_group_is_the_file_or_what_a_list_says_by_file(tmp_path):
    for i in range(3):
        nifti(tmp_path / f"bids/sub-{i}/anat/sub-{i}_T1w.nii.gz", BODY // (i + 1))
    found = images.read(f"{tmp_path / 'bids'}:axial=2-3", "train-a", (6, 5, 1))
    assert sorted(Counter(found.groups).values()) == [2, 2, 2]
    lines = [f"sub-{i}/anat/sub-{i}_T1w.nii.gz,bids:axial=2-3,{'one' if i else 'two'}" for i in range(3)]
    (tmp_path / "x.csv").write_text("\n".join(["path,source,group", *lines]))
    listed = images.read(tmp_path / "x.csv", "train-a", (6, 5, 1))
    assert Counter(listed.groups) == {"one": 4, "two": 2} and set(listed.ids) == set(found.ids)


def test_ids_are_the_beginning_of_the_files_digests(tmp_path):
    path = nifti(tmp_path / "Smith_John.nii.gz", BODY)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    assert list(images.open_source(f"{tmp_path}:axial=1-1").ids) == [f"{digest}/axial-1"]


def test_without_the_package_one_error_names_the_extra(tmp_path, monkeypatch):
    nifti(tmp_path / "a.nii")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(AuditError, match="not installed") as caught:
        images.open_source(f"{tmp_path}:axial")
    assert "auditor[medical]" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("anatomical.nii", ""),
        ("example4d.nii.gz", "not those of one volume"),
        ("example_nifti2.nii.gz", "not those of one volume"),
        ("reoriented_anat_moved.nii", ""),
        ("row_major.dconn.nii", "not those of one volume"),
    ],
)
def test_volumes_inside_the_package_are_read_and_those_of_four_dimensions_refused(name, words, tmp_path):
    (tmp_path / name).write_bytes((Path(nibabel.__file__).parent / "tests/data" / name).read_bytes())
    if words:
        with pytest.raises(AuditError, match=words):
            images.open_source(f"{tmp_path}:axial")
        return
    found = seen(f"{tmp_path}:axial=40%-60%", Reading((0.0, 255.0)))
    canonical = nibabel.as_closest_canonical(nibabel.load(tmp_path / name)).get_fdata()
    assert found
    for each, picture in found.items():
        true = canonical[::-1, ::-1, int(each.partition("-")[2])].T
        assert np.array_equal(picture, np.rint(np.clip(true, 0, 255)).astype(np.uint8))
