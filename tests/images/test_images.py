"""Reading pictures: each rule of auditor/images/pictures.py on folders and arrays that can be checked by hand."""

from __future__ import annotations

import builtins
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from repository import SHARED

from auditor import images
from auditor.errors import AuditError
from auditor.records import ImageSet

GRAY = (8, 8, 1)
CONVERT = images.Reading(convert_color=True)
COLOR = (8, 8, 3)
PNEUMONIA = SHARED / "data/pneumoniamnist/pneumoniamnist.npz"


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def image_set(name: str, pixels: list[int], ids: tuple[str, ...] | None = None) -> ImageSet:
    """One flat 2x2 picture per value; the ids are name0, name1, ... unless given."""
    arrays = np.array(pixels, np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    return ImageSet(name, arrays, ids or tuple(f"{name}{i}" for i in range(len(pixels))))


def refusal(source: object, shape: tuple[int, int, int] = GRAY, reading: images.Reading | None = None) -> AuditError:
    """The error of reading ``source``, which must say where it happened and what to do."""
    with pytest.raises(AuditError) as caught:
        images.read(source, "train-a", shape, reading)
    assert caught.value.where, "an error names its place"
    assert caught.value.remedy, "an error says what to do"
    return caught.value


# Folders


def test_a_picture_of_the_right_size_is_passed_through_bit_exactly(tmp_path):
    pixels = noise(8, 8, 3)
    save(tmp_path / "x.png", pixels)
    result = images.read(tmp_path, "train-a", COLOR)
    assert np.array_equal(result.images[0], pixels)
    assert result.name == "train-a"
    assert result.notes == ()


def test_folder_ids_are_relative_posix_paths_in_sorted_order_at_any_depth(tmp_path):
    for name in ("b.PNG", "a/z.bmp", "a/deep/c.TiFf", "0.webp"):
        save(tmp_path / name, noise(8, 8))
    assert images.read(str(tmp_path), "train-a", GRAY).ids == ("0.webp", "a/deep/c.TiFf", "a/z.bmp", "b.PNG")


def test_every_id_belongs_to_its_own_picture(tmp_path):
    for value in (30, 10, 20):
        save(tmp_path / f"{value}.png", np.full((8, 8), value, np.uint8))
    result = images.read(tmp_path, "train-a", GRAY)
    assert {name: int(image[0, 0, 0]) for name, image in zip(result.ids, result.images, strict=True)} == {
        "10.png": 10,
        "20.png": 20,
        "30.png": 30,
    }


@pytest.mark.parametrize("suffix", images.SUFFIXES)
def test_every_listed_suffix_is_read(tmp_path, suffix):
    save(tmp_path / f"x{suffix}", np.full((8, 8), 77, np.uint8))
    assert np.abs(images.read(tmp_path, "train-a", GRAY).images.astype(int) - 77).max() <= 2  # jpg, webp are lossy


def test_other_files_are_counted_by_suffix_and_hidden_ones_are_left_out(tmp_path):
    save(tmp_path / "x.png", noise(8, 8))
    save(tmp_path / ".ipynb_checkpoints/x-checkpoint.png", noise(8, 8))
    for name in ("a.csv", "b.CSV", "LICENSE", "._x.png", ".hidden.png"):
        (tmp_path / name).write_text("no picture")
    result = images.read(tmp_path, "train-a", GRAY)
    assert result.ids == ("x.png",)
    assert result.notes == ("Files that are not pictures were ignored: 2 .csv, 1 no suffix.",)


def test_linked_folders_are_not_followed_so_a_loop_ends_and_the_notes_say_so(tmp_path):
    save(tmp_path / "inside/x.png", noise(8, 8))
    (tmp_path / "inside/loop").symlink_to(tmp_path, target_is_directory=True)
    result = images.read(tmp_path, "train-a", GRAY)
    assert result.ids == ("inside/x.png",)
    assert result.notes == ("Linked folders were not followed: 1.",)


def test_linked_files_are_read(tmp_path):
    save(tmp_path / "store/x.png", noise(8, 8))
    (tmp_path / "half-a").mkdir()
    (tmp_path / "half-a/y.png").symlink_to(tmp_path / "store/x.png")
    assert images.read(tmp_path / "half-a", "train-a", GRAY).ids == ("y.png",)


def test_no_picture_file_stays_open(tmp_path, monkeypatch):
    opened, plain_open = [], builtins.open

    def watched_open(*arguments, **options):
        opened.append(plain_open(*arguments, **options))
        return opened[-1]

    save(tmp_path / "a.png", noise(8, 8))
    save(tmp_path / "b.tif", noise(8, 8), save_all=True, append_images=[Image.fromarray(noise(8, 8))])
    (tmp_path / "c.png").write_bytes(b"no picture")
    monkeypatch.setattr(builtins, "open", watched_open)
    refusal(tmp_path)
    assert {Path(file.name).name for file in opened} >= {"a.png", "b.tif", "c.png"}
    assert all(file.closed for file in opened)


# Sizes


def test_other_sizes_are_resized_and_cropped_and_counted(tmp_path):
    for name, shape in {"same": (8, 8), "large": (16, 16), "wide": (8, 12), "small": (4, 4)}.items():
        save(tmp_path / f"{name}.png", noise(*shape))
    result = images.read(tmp_path, "train-a", GRAY)
    assert result.images.shape == (4, 8, 8, 1)
    assert result.notes == (
        "3 of 4 pictures had another size than 8x8: resized (shorter side, bilinear, antialiased) and center-cropped.",
        "1 of 4 pictures had fewer pixels than 8x8 along a side and were enlarged.",
    )


def test_only_the_longer_side_is_cropped_and_at_the_center(tmp_path):
    pixels = noise(8, 14)
    save(tmp_path / "wide.png", pixels)
    save(tmp_path / "tall.png", pixels.T)
    tall, wide = images.read(tmp_path, "train-a", GRAY).images[..., 0]
    assert np.array_equal(wide, pixels[:, 3:11])
    assert np.array_equal(tall, pixels[:, 3:11].T)


def test_shrinking_is_antialiased(tmp_path):
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255  # without a filter each pixel would be 0 or 255
    save(tmp_path / "x.png", stripes)
    inner = images.read(tmp_path, "train-a", GRAY).images[0, :, 1:-1, 0].astype(int)
    assert np.abs(inner - 127.5).max() < 4


@pytest.mark.parametrize("size", [(20, 31), (31, 20), (9, 8), (5, 7), (100, 33)])
def test_resizing_equals_torchvision_resize_and_center_crop(tmp_path, size):
    transforms = pytest.importorskip("torchvision.transforms")
    path = save(tmp_path / "x.png", noise(*size, 3))
    twin = transforms.Compose([transforms.Resize(8), transforms.CenterCrop(8)])
    with Image.open(path) as picture:
        expected = np.asarray(twin(picture.convert("RGB")))
    assert np.array_equal(images.read(tmp_path, "train-a", COLOR).images[0], expected)


def test_a_model_that_is_not_square_gets_the_largest_part_that_fits(tmp_path):
    pixels = noise(6, 10)
    save(tmp_path / "x.png", pixels)
    result = images.read(tmp_path, "train-a", (4, 10, 1))
    assert np.array_equal(result.images[0, ..., 0], pixels[1:5])


# Modes


def test_color_becomes_itu_601_luma_for_a_gray_model(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = (255, 0, 0)
    pixels[4:] = (0, 255, 0)
    save(tmp_path / "x.png", pixels)
    error = refusal(tmp_path)
    assert "is color and the model is gray" in error.what and "--convert-color" in error.remedy
    result = images.read(tmp_path, "train-a", GRAY, CONVERT)
    assert (result.images[0, 0, 0, 0], result.images[0, 7, 0, 0]) == (76, 150)  # .299 and .587 of 255
    assert result.notes == (
        "1 of 1 pictures had three color channels and the model has one: converted by the ITU-R 601 luma.",
    )


def test_gray_stored_as_color_keeps_its_values_for_a_gray_model(tmp_path):
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    save(tmp_path / "x.png", np.stack([gray] * 3, axis=-1))
    result = images.read(tmp_path, "train-a", (16, 16, 1))
    assert np.array_equal(result.images[0, ..., 0], gray)
    assert result.notes == ("1 of 1 pictures were stored in color with three equal channels and read as gray.",)


def test_gray_is_repeated_for_a_color_model(tmp_path):
    pixels = noise(8, 8)
    save(tmp_path / "x.png", pixels)
    assert "is gray and the model is color" in refusal(tmp_path, COLOR).what
    result = images.read(tmp_path, "train-a", COLOR, CONVERT)
    assert np.array_equal(result.images[0], np.stack([pixels] * 3, axis=-1))
    assert result.notes == ("1 of 1 pictures had one channel and the model has three: it was repeated.",)


def test_transparency_is_ignored_as_training_scripts_do(tmp_path):
    pixels = noise(8, 8, 4)
    save(tmp_path / "x.png", pixels)
    result = images.read(tmp_path, "train-a", COLOR)
    assert np.array_equal(result.images[0], pixels[..., :3])
    assert result.notes == ("1 of 1 pictures had transparency, which was ignored: the stored colors were kept.",)


def test_palette_pictures_become_their_colors_without_a_warning(tmp_path):
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.save(tmp_path / "x.png", transparency=b"\x80\xff")  # this form makes Pillow warn on convert("RGB")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = images.read(tmp_path, "train-a", COLOR)
    assert result.images[0, 0, 0].tolist() == [10, 20, 30]
    assert result.notes == ("1 of 1 pictures had transparency, which was ignored: the stored colors were kept.",)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_read_through_the_window_that_is_given_and_never_clipped_in_silence(tmp_path, suffix):
    pixels = np.full((8, 8), 1100, np.uint16)
    pixels[0, 0], pixels[0, 1] = 65535, 1000
    save(tmp_path / f"x{suffix}", pixels)
    error = refusal(tmp_path)
    assert "more than 8 bits per value, here 1000 to 65535" in error.what and "--window" in error.remedy
    result = images.read(tmp_path, "train-a", GRAY, images.Reading(window=(1000, 1510)))
    assert result.images[0, 0, :3, 0].tolist() == [255, 0, 50]
    assert result.notes == (
        "1 of 1 pictures had more than 8 bits per value: read through the window 1000 to 1510 and rounded.",
    )


@pytest.mark.parametrize(("dtype", "low", "high"), [(np.int32, -1000, 3000), (np.float32, -0.5, 1.5)])
def test_integers_of_32_bits_and_floats_are_read_through_a_window_only(tmp_path, dtype, low, high):
    pixels = np.linspace(low, high, 64).reshape(8, 8).astype(dtype)
    save(tmp_path / "x.tif", pixels)
    assert "no window says" in refusal(tmp_path).what
    result = images.read(tmp_path, "train-a", GRAY, images.Reading(window=(low, high)))
    assert np.abs(result.images[0, ..., 0].ravel() - np.linspace(0, 255, 64)).max() <= 0.6


def test_a_window_leaves_pictures_of_8_bits_alone_and_refuses_nan(tmp_path):
    pixels = noise(8, 8)
    save(tmp_path / "x.png", pixels)
    window = images.Reading(window=(0, 10))
    assert np.array_equal(images.read(tmp_path, "train-a", GRAY, window).images[0, ..., 0], pixels)
    save(tmp_path / "x.tif", np.full((8, 8), np.nan, np.float32))
    assert "contain NaN" in refusal(tmp_path, GRAY, window).what


def test_arrays_of_more_than_8_bits_are_read_through_the_same_window(tmp_path):
    np.save(tmp_path / "x.npy", np.full((2, 8, 8), 2048, np.int16))
    assert "outside 0 to 255" in refusal(tmp_path / "x.npy").what
    result = images.read(tmp_path / "x.npy", "train-a", GRAY, images.Reading(window=(0, 4096)))
    assert (result.images == 128).all()


def test_color_of_16_bits_keeps_its_upper_8_and_the_notes_say_so(tmp_path):
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">3H", 0x1234, 0x5678, 0x9ABC) * 8
    head = struct.pack(">2I5B", 8, 8, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row * 8)) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    result = images.read(tmp_path, "train-a", COLOR)
    assert result.images[0, 0, 0].tolist() == [0x12, 0x56, 0x9A]
    assert result.notes == ("1 of 1 pictures had 16 bits per color value: the upper 8 were kept.",)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    pixels = noise(8, 8)
    save(tmp_path / "x.png", pixels, exif=exif)
    result = images.read(tmp_path, "train-a", GRAY)
    assert np.array_equal(result.images[0, ..., 0], np.rot90(pixels, -1))
    assert result.notes == ("1 of 1 pictures had an EXIF orientation, which was applied.",)


def test_of_several_frames_the_first_is_read_and_the_notes_say_so(tmp_path):
    first, second = noise(8, 8), noise(8, 8, seed=1)
    save(tmp_path / "x.tif", first, save_all=True, append_images=[Image.fromarray(second)])
    result = images.read(tmp_path, "train-a", GRAY)
    assert np.array_equal(result.images[0, ..., 0], first)
    assert result.notes == ("1 of 1 pictures had several frames: only the first was read.",)


# What is refused in folders


def test_a_missing_path_is_refused(tmp_path):
    error = refusal(tmp_path / "nowhere")
    assert "nowhere" in error.what and "Check the path" in error.remedy


def test_a_folder_without_pictures_is_refused_and_what_it_holds_is_named(tmp_path):
    (tmp_path / "scan.heic").write_text("")
    error = refusal(tmp_path)
    assert error.what == "The folder holds no pictures. Files that are not pictures were ignored: 1 .heic."
    assert error.where == str(tmp_path) and ".png" in error.remedy


def test_an_unknown_suffix_is_refused(tmp_path):
    path = save(tmp_path / "x.png", noise(8, 8))
    error = refusal(path)
    assert "not read from .png" in error.what and error.where == str(path) and "folder of pictures" in error.remedy


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_a_truncated_picture_is_refused_by_name(tmp_path, suffix):
    path = save(tmp_path / f"x{suffix}", noise(64, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    error = refusal(tmp_path)
    assert "cannot be read" in error.what and error.where == str(path) and "intact copy" in error.remedy


def test_a_file_that_is_no_picture_or_a_dead_link_is_refused_by_name(tmp_path):
    (tmp_path / "x.png").write_text("<html>404</html>")
    assert refusal(tmp_path).where == str(tmp_path / "x.png")
    (tmp_path / "x.png").unlink()
    (tmp_path / "x.png").symlink_to(tmp_path / "gone.png")
    assert refusal(tmp_path).where == str(tmp_path / "x.png")


@pytest.mark.parametrize("limit", [40, 20])
def test_decompression_bombs_are_refused_by_name(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # 64 pixels: Pillow warns beyond 40 and raises beyond 2 * 20
    path = save(tmp_path / "x.png", noise(8, 8))
    error = refusal(tmp_path)
    assert "too large to be opened safely" in error.what and error.where == str(path) and "smaller" in error.remedy


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path):
    try:
        with open(os.fsencode(tmp_path) + b"/\xff.png", "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    error = refusal(tmp_path)
    assert "not UTF-8" in error.what and "Rename" in error.remedy
    assert str(error).isprintable() or "\\udcff" in str(error)  # the message itself can be printed


def test_a_folder_that_may_not_be_listed_is_refused_rather_than_skipped(tmp_path, monkeypatch):
    save(tmp_path / "x.png", noise(8, 8))
    (tmp_path / "locked").mkdir()
    plain_scandir = os.scandir

    def scandir(folder):  # a mode of 000 would not stop root, which runs the tests in containers
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied", folder)
        return plain_scandir(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    error = refusal(tmp_path)
    assert "cannot be listed: Permission denied" in error.what and error.where == str(tmp_path / "locked")


# Arrays


def save_npz(tmp_path: Path, **arrays: np.ndarray) -> Path:
    np.savez(tmp_path / "x.npz", **arrays)
    return tmp_path / "x.npz"


def save_npy(tmp_path: Path, array: np.ndarray) -> Path:
    np.save(tmp_path / "x.npy", array)
    return tmp_path / "x.npy"


def test_npy_ids_are_the_stem_and_the_index(tmp_path):
    pixels = noise(2, 8, 8)
    result = images.read(save_npy(tmp_path, pixels), "train-a", GRAY)
    assert result.ids == ("x/0", "x/1")
    assert np.array_equal(result.images[..., 0], pixels)


def test_a_bare_npz_needs_no_key_and_labels_are_not_images(tmp_path):
    pixels = noise(2, 8, 8, 3)
    path = save_npz(tmp_path, labels=np.zeros((2, 1)), names=np.array(["u", None], object), arr_0=pixels)
    result = images.read(path, "train-a", COLOR)
    assert result.ids == ("arr_0/0", "arr_0/1")
    assert np.array_equal(result.images, pixels)


def test_several_image_arrays_without_a_key_are_refused_and_listed(tmp_path):
    path = save_npz(tmp_path, train_labels=np.zeros(3), train_images=noise(3, 8, 8), val_images=noise(2, 8, 8))
    error = refusal(path)
    assert "train_images [3, 8, 8], val_images [2, 8, 8]" in error.what
    assert error.where == str(path) and f"{path}:train_images" in error.remedy


def test_keys_are_joined_in_the_order_given(tmp_path):
    path = save_npz(tmp_path, val=noise(1, 8, 8), train=noise(2, 8, 8, seed=1))
    result = images.read(f"{path}:train+val", "train-a", GRAY)
    assert result.ids == ("train/0", "train/1", "val/0")
    assert np.array_equal(result.images[2, ..., 0], noise(1, 8, 8)[0])


def test_one_key_reads_that_array_only(tmp_path):
    path = save_npz(tmp_path, val=noise(1, 8, 8), train=noise(2, 8, 8, seed=1))
    assert images.read(f"{path}:val", "train-a", GRAY).ids == ("val/0",)


@pytest.mark.parametrize("key", ["test", "train+test", "train+", ""])
def test_an_unknown_key_is_refused_and_the_keys_are_listed(tmp_path, key):
    path = save_npz(tmp_path, train=noise(2, 8, 8))
    error = refusal(f"{path}:{key}")
    assert "There is no array" in error.what and "train [2, 8, 8]" in error.what and f"{path}:train" in error.remedy


def test_a_key_given_twice_is_refused(tmp_path):
    assert "'train' is asked for twice" in refusal(f"{save_npz(tmp_path, train=noise(2, 8, 8))}:train+train").what


def test_a_path_that_contains_a_colon_is_not_split(tmp_path):
    folder = tmp_path / "set.npz:v2"
    save(folder / "x.png", noise(8, 8))
    assert images.read(folder, "train-a", GRAY).ids == ("x.png",)


def test_channels_first_is_accepted_when_it_can_be_nothing_else(tmp_path):
    pixels = noise(2, 8, 8, 3)
    result = images.read(save_npy(tmp_path, np.moveaxis(pixels, -1, 1)), "train-a", COLOR)
    assert np.array_equal(result.images, pixels)


@pytest.mark.parametrize("shape", [(2, 3, 8, 3), (2, 1, 8, 1), (2, 8, 8, 4), (8, 8, 3), (8, 8, 1)])
def test_an_unclear_channel_axis_is_refused(tmp_path, shape):
    error = refusal(save_npy(tmp_path, noise(*shape)))
    assert str(list(shape)) in error.what and "[n, h, w, c]" in error.remedy and error.where.endswith("x.npy")


def test_arrays_of_another_size_and_color_are_fitted_like_files(tmp_path):
    pixels = noise(2, 12, 20, 3)
    save(tmp_path / "folder/0.png", pixels[0])
    save(tmp_path / "folder/1.png", pixels[1])
    from_files = images.read(tmp_path / "folder", "train-a", GRAY, CONVERT)
    from_array = images.read(save_npy(tmp_path, pixels), "train-a", GRAY, CONVERT)
    assert np.array_equal(from_array.images, from_files.images)
    assert from_array.notes == from_files.notes and len(from_files.notes) == 2


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_from_0_to_1_give_back_the_bytes_they_were_made_from(tmp_path, dtype):
    pixels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    result = images.read(save_npy(tmp_path, (pixels / 255).astype(dtype)), "train-a", GRAY)
    assert np.array_equal(result.images[..., 0], pixels)
    assert result.notes == ("4 of 4 pictures had values from 0 to 1: multiplied by 255 and rounded.",)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int64])
def test_other_integers_from_0_to_255_are_pixels(tmp_path, dtype):
    pixels = noise(2, 8, 8)
    assert np.array_equal(images.read(save_npy(tmp_path, pixels.astype(dtype)), "train-a", GRAY).images[..., 0], pixels)


@pytest.mark.parametrize(
    ("value", "dtype", "found"),
    [
        (-1.0, np.float32, "(float32) run from -1 to 0, outside 0 to 1"),
        (255.0, np.float64, "(float64) run from 0 to 255, outside 0 to 1"),
        (np.inf, np.float32, "(float32) run from 0 to inf, outside 0 to 1"),
        (np.nan, np.float32, "(float32) contain NaN"),
        (4095, np.uint16, "(uint16) run from 0 to 4095, outside 0 to 255"),
        (-1, np.int64, "(int64) run from -1 to 0, outside 0 to 255"),
    ],
)
def test_a_wrong_range_is_refused_with_the_range_found(tmp_path, value, dtype, found):
    pixels = np.zeros((2, 8, 8), dtype)
    pixels[1, 3, 4] = value
    error = refusal(f"{save_npz(tmp_path, train=pixels)}:train")
    assert found in error.what and error.where.endswith("x.npz:train") and "uint8 from 0 to 255" in error.remedy


@pytest.mark.parametrize("dtype", [bool, np.complex64, "U1"])
def test_types_that_are_no_pixels_are_refused(tmp_path, dtype):
    error = refusal(save_npy(tmp_path, np.zeros((2, 8, 8), dtype)))
    assert str(np.dtype(dtype)) in error.what and error.where.endswith("x.npy")


@pytest.mark.parametrize("writer", [save_npy, lambda folder, array: save_npz(folder, train=array)])
def test_ragged_arrays_are_refused_and_never_unpickled(tmp_path, writer):
    ragged = np.empty(2, object)
    ragged[:] = [noise(8, 8), noise(9, 9)]
    source = writer(tmp_path, ragged)
    error = refusal(f"{source}:train" if source.suffix == ".npz" else source)
    assert "ragged" in error.what and "pickle" in error.what
    assert error.where.startswith(str(source)) and "folder" in error.remedy


@pytest.mark.parametrize("shape", [(), (8, 8), (2, 2, 8, 8, 3)])
def test_a_wrong_number_of_axes_is_refused(tmp_path, shape):
    error = refusal(save_npy(tmp_path, np.zeros(shape, np.uint8)))
    assert str(list(shape)) in error.what and "n = 1" in error.remedy and error.where.endswith("x.npy")


@pytest.mark.parametrize("shape", [(0, 8, 8), (2, 0, 8)])
def test_an_empty_array_is_refused(tmp_path, shape):
    error = refusal(save_npy(tmp_path, noise(*shape)))
    assert "empty" in error.what and str(list(shape)) in error.what and "at least one" in error.remedy


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("damage", ["truncated", "text", "nothing"])
def test_a_damaged_array_file_is_refused_by_name(tmp_path, name, damage):
    path = save_npy(tmp_path, noise(4, 8, 8)) if name == "x.npy" else save_npz(tmp_path, train=noise(4, 8, 8))
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "text": b"not an array", "nothing": b""}[damage])
    error = refusal(path)
    assert "not an intact file of arrays" in error.what and error.where == str(path) and "numpy.save" in error.remedy


def test_one_flipped_byte_in_an_npz_is_noticed(tmp_path):
    path = save_npz(tmp_path, train=noise(4, 8, 8))
    content = bytearray(path.read_bytes())
    content[300] ^= 1  # in the middle of the pixels: only the archive's checksum can tell
    path.write_bytes(content)
    assert "CRC" in refusal(path).what


# Identity by content


def test_equal_pixels_have_equal_digests_whatever_the_file_format(tmp_path):
    pixels = noise(8, 8)
    save(tmp_path / "a.png", pixels)
    save(tmp_path / "b.bmp", pixels)
    save(tmp_path / "c.png", pixels ^ 1)
    a, b, c = images.digests(images.read(tmp_path, "train-a", GRAY))
    assert a == b != c
    assert len(a) == 64


def test_the_shape_is_part_of_the_digest():
    wide = ImageSet("wide", np.zeros((1, 2, 8, 1), np.uint8), ("x",))
    tall = ImageSet("tall", np.zeros((1, 8, 2, 1), np.uint8), ("x",))
    assert images.digests(wide) != images.digests(tall)


def test_the_set_digest_changes_with_ids_contents_and_order_but_not_with_the_name():
    reference = images.set_digest(image_set("a", [1, 2], ("x", "y")))
    assert reference == images.set_digest(image_set("b", [1, 2], ("x", "y")))
    changed = [([1, 2], ("x", "z")), ([1, 3], ("x", "y")), ([2, 1], ("y", "x"))]
    assert reference not in [images.set_digest(image_set("a", pixels, ids)) for pixels, ids in changed]


def test_duplicate_groups_are_numbered_by_first_appearance():
    groups = images.duplicate_groups(["v", "u", "v", "w", "u"])
    assert groups.tolist() == [0, 1, 0, 2, 1]
    assert groups.dtype == np.int64


def test_shared_names_every_image_that_both_sets_hold():
    first, second = image_set("f", [7, 1, 7, 7, 2]), image_set("s", [9, 7, 2, 7])
    assert images.shared(first, second) == (("f0", "s1"), ("f2", "s3"), ("f3", "s1"), ("f4", "s2"))
    assert images.shared(second, first) == (("s1", "f0"), ("s3", "f2"), ("s1", "f3"), ("s2", "f4"))


def test_overlap_is_refused_with_the_ids_and_the_total():
    first, second = image_set("train-a", list(range(7))), image_set("train-b", list(range(7)))
    with pytest.raises(AuditError) as caught:
        images.check_overlap(first, second, allow_overlap=False)
    error = caught.value
    assert "7 pairs" in error.what and "train-a4 = train-b4, ..." in error.what and "train-a5" not in error.what
    assert "train-a" in error.where and "train-b" in error.where
    assert "--allow-overlap" in error.remedy and "Remove duplicates" in error.remedy


def test_allowed_overlap_is_returned():
    pairs = images.check_overlap(image_set("a", [1, 2]), image_set("b", [2, 3]), allow_overlap=True)
    assert pairs == (("a1", "b0"),)


def test_disjoint_sets_pass():
    assert images.check_overlap(image_set("a", [1, 2]), image_set("b", [3]), allow_overlap=False) == ()


def test_a_picture_is_blank_below_two_gray_levels_of_standard_deviation():
    halves = np.zeros((3, 2, 2, 1), np.uint8)
    halves[1, 0], halves[2, 0] = 3, 4  # standard deviations 0, 1.5 and exactly 2
    assert images.is_blank(ImageSet("a", halves, ("0", "1", "2"))).tolist() == [True, True, False]


@pytest.mark.shared_data
@pytest.mark.skipif(not PNEUMONIA.exists(), reason=f"the shared X-rays are not at {PNEUMONIA}")
def test_the_exact_copies_among_the_real_x_rays_are_found():
    """The data's README counts 29 redundant copies in its three splits; 3 of them need the test split."""
    pool = images.read(f"{PNEUMONIA}:train_images+val_images", "pool", (28, 28, 1))
    every = images.read(f"{PNEUMONIA}:train_images+val_images+test_images", "every", (28, 28, 1))
    redundant = [len(one) - len(set(images.duplicate_groups(images.digests(one)))) for one in (pool, every)]
    assert redundant == [26, 29]
