"""Every kind of source on disk, written by its real writer, against the same pictures in a folder."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import medical
import numpy as np
import pytest
from PIL import Image

from auditor import images, registry
from auditor.errors import AuditError
from auditor.images import cache, pixels, sources
from auditor.images import pictures as pictures_module
from auditor.images.sources import Kind, Source

GRAY = (8, 8, 1)
N = 6
CLASSES = ("benign", "malign")


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Six small gray pictures."""
    return np.random.default_rng(0).integers(0, 256, (N, 8, 8), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path, pictures) -> Path:
    """The pictures in class folders."""
    for i, each in enumerate(pictures):
        path = tmp_path / "folder" / CLASSES[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(path)
    return tmp_path / "folder"


def read(source: object, **options) -> images.ImageSet:
    return images.read(source, "train-a", GRAY, **options)


def by_content(found: images.ImageSet) -> dict[str, str]:
    """The label of each picture, by its digest."""
    return dict(zip(images.digests(found), found.labels, strict=True))


def as_zip(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder))
    return target


def as_tar(folder: Path, target: Path, mode: str = "w") -> Path:
    with tarfile.open(target, mode) as archive:
        archive.add(folder, ".")
    return target


def as_hub(pictures: np.ndarray):
    """The pictures as a data set of the ``datasets`` library."""
    datasets = pytest.importorskip("datasets", reason="the datasets library is a development dependency")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=list(CLASSES)),
            "patient": datasets.Value("string"),
        }
    )
    rows = {
        "image": [{"bytes": png(each), "path": None} for each in pictures],
        "label": [i % 2 for i in range(len(pictures))],
        "patient": [f"p{i // 2}" for i in range(len(pictures))],
    }
    return datasets, datasets.Dataset.from_dict(rows, features=features)


def test_class_folders_keep_their_labels(folder):
    assert read(folder).labels == ("benign",) * 3 + ("malign",) * 3


def test_folders_without_classes_have_no_labels(folder):
    (folder / "benign/0.png").rename(folder / "0.png")
    assert read(folder).labels == ()


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.tar.xz"])
def test_an_archive_gives_the_same_pictures_and_labels_as_the_folder_it_was_made_of(folder, tmp_path, name):
    mode = {".zip": "", ".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz"}.get(Path(name).suffix, "w")
    path = as_tar(folder, tmp_path / name, mode) if mode else as_zip(folder, tmp_path / name)
    assert by_content(read(path)) == by_content(read(folder))


def test_ids_in_a_zip_are_member_names_and_what_systems_add_is_left_out(folder, tmp_path):
    path = as_zip(folder, tmp_path / "x.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/benign/._0.png", b"not a picture")
        archive.writestr("readme.txt", "hello")
    found = read(path)
    assert found.ids == read(folder).ids
    assert found.notes == ("Members that are not pictures were ignored: 1 .txt.",)


def test_labels_in_the_dataset_json_of_a_zip_win_over_its_folders(pictures, tmp_path):
    with zipfile.ZipFile(tmp_path / "edm.zip", "w") as archive:
        names = [f"0000{i % 2}/img{i:08d}.png" for i in range(N)]
        for name, each in zip(names, pictures, strict=True):
            archive.writestr(name, png(each))
        archive.writestr("dataset.json", json.dumps({"labels": [[name, 7 + i] for i, name in enumerate(names)]}))
    found = read(tmp_path / "edm.zip")
    assert dict(zip(found.ids, found.labels, strict=True)) == {name: str(7 + i) for i, name in enumerate(names)}


def test_webdataset_shards_in_a_folder_are_one_set_with_labels_from_their_cls_members(pictures, tmp_path):
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / f"shards/{shard:04d}.tar", "w") as archive:
            for i in range(3 * shard, 3 * shard + 3):
                for suffix, content in (("png", png(pictures[i])), ("cls", str(i % 2).encode())):
                    member = tarfile.TarInfo(f"sample{i:06d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    found = read(tmp_path / "shards")
    assert found.ids[3] == "0001.tar/sample000003.png"
    assert found.labels == tuple(str(i % 2) for i in range(N))
    assert np.array_equal(found.images[..., 0], pictures)


def test_links_and_devices_inside_a_tar_are_not_followed(pictures, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in (
            ("link.png", tarfile.SYMTYPE),
            ("device.png", tarfile.CHRTYPE),
            ("fifo.png", tarfile.FIFOTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo("real.png")
        member.size = len(png(pictures[0]))
        archive.addfile(member, io.BytesIO(png(pictures[0])))
    assert read(tmp_path / "x.tar").ids == ("real.png",)


def test_names_that_lead_out_of_an_archive_are_left_out_and_counted(pictures, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("../outside.png", "/root.png", "a/../../b.png", "inside.png"):
            archive.writestr(name, png(pictures[0]))
    found = read(tmp_path / "x.zip")
    assert found.ids == ("inside.png",)
    assert found.notes == ("Members whose names lead out of the archive were left out: 3.",)
    assert not (tmp_path.parent / "outside.png").exists()


@pytest.mark.parametrize("as_saved", [lambda t: t, lambda t: {"images": t, "labels": t[:, 0, 0, 0].long() % 2}])
def test_tensors_are_read_as_they_were_saved(pictures, tmp_path, as_saved):
    import torch

    torch.save(as_saved(torch.from_numpy(pictures)[:, None] / 255), tmp_path / "x.pt")
    found = read(tmp_path / "x.pt")
    assert np.array_equal(found.images[..., 0], pictures)
    assert found.notes == ("6 of 6 pictures had values from 0 to 1: multiplied by 255 and rounded.",)
    assert found.labels in ((), tuple(str(v % 2) for v in (pictures[:, 0, 0] / 255).astype(int)))


def test_labels_of_medmnist_belong_to_the_keys_that_were_asked_for(pictures, tmp_path):
    arrays = {}
    for split, rows in {"train": [0, 1, 2], "val": [3, 4], "test": [5]}.items():
        arrays[f"{split}_images"] = pictures[rows]
        arrays[f"{split}_labels"] = np.array(rows, np.uint8)[:, None]
    np.savez(tmp_path / "m.npz", **arrays)
    assert read(f"{tmp_path / 'm.npz'}:train_images+val_images").labels == ("0", "1", "2", "3", "4")
    assert read(f"{tmp_path / 'm.npz'}:test_images").labels == ("5",)


def test_arr_1_beside_arr_0_holds_labels(pictures, tmp_path):
    np.savez(tmp_path / "samples.npz", pictures, np.arange(N))
    assert read(tmp_path / "samples.npz").labels == tuple(map(str, range(N)))


def test_rows_of_a_compressed_array_in_fortran_order_are_the_same_pictures(pictures, tmp_path):
    np.savez_compressed(tmp_path / "x.npz", images=np.asfortranarray(pictures))
    assert np.array_equal(read(tmp_path / "x.npz").images[..., 0], pictures)


def test_a_saved_hugging_face_data_set_keeps_class_names_and_groups(pictures, folder, tmp_path):
    datasets, data = as_hub(pictures)
    data.save_to_disk(tmp_path / "hub")
    found = read(tmp_path / "hub")
    assert by_content(found) == by_content(read(folder))
    assert found.groups == ("p0", "p0", "p1", "p1", "p2", "p2")
    datasets.DatasetDict({"train": data, "test": data.select([1])}).save_to_disk(tmp_path / "splits")
    assert by_content(read(f"{tmp_path / 'splits'}:train")) == by_content(found)
    assert len(read(f"{tmp_path / 'splits'}:test")) == 1
    with pytest.raises(AuditError, match="Several splits could be the images"):
        read(tmp_path / "splits")


def test_parquet_files_are_read_alone_or_as_a_folder(pictures, folder, tmp_path):
    _, data = as_hub(pictures)
    (tmp_path / "hub").mkdir()
    data.select(range(4)).to_parquet(tmp_path / "hub/0.parquet")
    data.select(range(4, N)).to_parquet(tmp_path / "hub/1.parquet")
    assert by_content(read(tmp_path / "hub")) == by_content(read(folder))
    assert read(tmp_path / "hub/1.parquet").labels == ("benign", "malign")


def test_a_hugging_face_image_folder_is_read_as_a_folder(folder):
    (folder / "metadata.csv").write_text("file_name,text\nbenign/0.png,a film\n")
    found = read(folder)
    assert len(found) == N and found.notes == ("Files that are not pictures were ignored: 1 .csv.",)


def write_list(path: Path, rows: list[dict[str, str]]) -> Path:
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_list_of_paths_gives_its_pictures_with_labels_and_groups(folder, tmp_path, pictures):
    rows = [{"path": f"folder/{CLASSES[i % 2]}/{i}.png", "label": f"l{i}", "group": f"g{i}"} for i in (4, 1)]
    found = read(write_list(tmp_path / "half.csv", rows))
    assert found.ids == ("folder/benign/4.png", "folder/malign/1.png")
    assert found.labels == ("l4", "l1") and found.groups == ("g4", "g1")
    assert np.array_equal(found.images[..., 0], pictures[[4, 1]])


def test_a_list_can_name_images_inside_an_array_or_archive(folder, tmp_path, pictures):
    np.savez(tmp_path / "x.npz", images=pictures)
    as_zip(folder, tmp_path / "x.zip")
    rows = [
        {"path": "images/5", "source": "x.npz:images", "label": "a"},
        {"path": "benign/2.png", "source": "x.zip", "label": "b"},
        {"path": "images/1", "source": "x.npz:images", "label": "c"},
    ]
    found = read(write_list(tmp_path / "half.csv", rows))
    assert dict(zip(found.ids, found.labels, strict=True)) == {"images/1": "c", "images/5": "a", "benign/2.png": "b"}
    expected = {"images/1": 1, "images/5": 5, "benign/2.png": 2}
    for image_id, image in zip(found.ids, found.images, strict=True):
        assert np.array_equal(image[..., 0], pictures[expected[image_id]])


def test_every_kind_of_source_is_tried_here(folder, tmp_path, pictures):
    np.save(tmp_path / "x.npy", pictures)
    _, data = as_hub(pictures)
    data.to_parquet(tmp_path / "x.parquet")
    write_list(tmp_path / "x.csv", [{"path": "folder/benign/0.png"}])
    medical.dicom(tmp_path / "films/a.dcm")
    medical.nifti(tmp_path / "volumes/a.nii.gz")
    (tmp_path / "x.toml").touch()  # tests/images/test_trainer_configurations.py
    claimed = set()
    files = ("x.npy", "x.parquet", "x.csv", "x.toml", "films", "volumes")
    for path in (folder, as_zip(folder, tmp_path / "x.zip"), *(tmp_path / name for name in files)):
        claimed |= {name for name in registry.SOURCES if registry.lookup("source", name).claims(path)}
    assert claimed == set(registry.SOURCES)


# The cache of contents


@pytest.fixture
def settled(monkeypatch):
    """Let files count as old as those of a data set usually are: their time of change cannot be set."""
    monkeypatch.setattr(cache, "SETTLED", -100.0)


def test_unchanged_files_are_recalled_without_being_decoded_until_pixels_are_wanted(
    settled, folder, monkeypatch, pictures
):
    first = read(folder, use_cache=True)
    decoded = Counter()
    plain = pictures_module.decode
    monkeypatch.setattr(pictures_module, "decode", lambda *a: decoded.update(["decoded"]) or plain(*a))
    again = read(folder, use_cache=True)
    assert again.digests == first.digests and again.notes == first.notes and again.ids == first.ids
    assert images.is_blank(again).tolist() == images.is_blank(first).tolist()
    assert not decoded
    assert np.array_equal(np.asarray(again.images), first.images)
    assert again.images[2:4].shape == (2, *GRAY) and decoded["decoded"] == N


def test_a_file_that_changes_is_decoded_anew(settled, folder):
    first = read(folder, use_cache=True)
    Image.fromarray(np.full((8, 8), 9, np.uint8)).save(folder / "benign/0.png")
    os.utime(folder / "benign/0.png", (time.time() - 50,) * 2)
    assert read(folder, use_cache=True).digests[0] != first.digests[0]


def test_folders_whose_files_have_the_same_names_sizes_and_times_are_told_apart(tmp_path):
    for value, name in ((10, "a"), (200, "b")):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / name / "0.bmp")
        os.utime(tmp_path / name / "0.bmp", (1e9, 1e9))
    first, second = (read(tmp_path / name, use_cache=True) for name in "ab")
    assert (tmp_path / "a/0.bmp").stat().st_size == (tmp_path / "b/0.bmp").stat().st_size
    assert first.digests != second.digests


def test_files_that_changed_a_moment_ago_are_not_remembered(folder):
    read(folder, use_cache=True)
    opened = images.open_source(folder)
    assert cache.recall(cache.key(folder, opened, GRAY, images.Reading())) is None


def test_another_file_of_the_same_size_and_time_of_modification_is_decoded_anew(settled, folder):
    """As archives, rsync and cp -p leave it."""
    first, path = read(folder, use_cache=True), folder / "benign/0.png"
    before = path.stat()
    content = png(np.full((8, 8), 7, np.uint8))
    path.write_bytes(content + b"\0" * (before.st_size - len(content)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert read(folder, use_cache=True).digests[0] != first.digests[0]


def test_pixels_that_change_behind_the_cache_are_noticed(settled, folder, monkeypatch):
    """A file system may tell of a file no more than its size and one time for all."""
    monkeypatch.setattr(sources, "file_state", lambda found: (found.st_size, 0))
    read(folder, use_cache=True)
    path = folder / "benign/0.png"
    before = path.stat()
    content = png(np.full((8, 8), 7, np.uint8))
    path.write_bytes(content + b"\0" * (before.st_size - len(content)))
    with pytest.raises(AuditError, match="have changed although"):
        np.asarray(read(folder, use_cache=True).images)


def test_a_damaged_cache_or_one_that_cannot_be_written_changes_nothing(settled, folder, tmp_path, monkeypatch):
    expected = read(folder).digests
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    read(folder, use_cache=True)
    for entry in cache.folder().iterdir():
        entry.write_bytes(b"damaged")
    assert read(folder, use_cache=True).digests == expected
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert read(folder, use_cache=True).digests == expected


def test_the_cache_holds_neither_pixels_nor_names(settled, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = read(folder, use_cache=True)
    (entry,) = cache.folder().iterdir()
    assert b"benign" not in entry.read_bytes() and found.images[0].tobytes() not in entry.read_bytes()
    assert cache.folder().stat().st_mode & 0o077 == 0


def test_a_large_set_is_mapped_from_a_file_that_leaves_no_trace(folder, tmp_path, monkeypatch, pictures):
    monkeypatch.setattr(pixels, "IN_MEMORY", 100)
    (tmp_path / "scratch").mkdir()
    found = read(folder, scratch=tmp_path / "scratch")
    assert isinstance(found.images, np.memmap)
    assert np.array_equal(found.images[..., 0], pictures[[0, 2, 4, 1, 3, 5]])
    assert not list((tmp_path / "scratch").iterdir())


# A kind of source that nobody knew


KIND = Kind(
    claims=lambda path: (path / "tones.txt").is_file(),
    open=lambda place, reading: Source(
        ids=(tones := (place.path / "tones.txt").read_text().split()),
        stamps=[["tones.txt", place.path.stat().st_mtime_ns]],
        pictures=lambda rows, tally: (Image.new("L", (2, 2), int(tones[row])) for row in rows),
    ),
)


def test_a_new_kind_of_source_takes_one_file_and_one_line_of_the_registry(tmp_path, monkeypatch):
    """It may claim a folder, which is then no folder of pictures."""
    (tmp_path / "tones.txt").write_text("7 250 90")
    with pytest.raises(AuditError, match="holds no pictures"):
        images.read(tmp_path, "train-a", (2, 2, 1))
    monkeypatch.setitem(registry.SOURCES, "tones", f"{__name__}:KIND")
    found = images.read(tmp_path, "train-a", (2, 2, 1))
    assert found.ids == ("7", "250", "90") and found.images[:, 0, 0, 0].tolist() == [7, 250, 90]
