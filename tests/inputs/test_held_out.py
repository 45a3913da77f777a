"""Is held-out held out? What files tell of it before anything is drawn."""

import os

import numpy as np
from PIL import Image

from auditor import images
from auditor.inputs.image_sets import unlike_files

DAY = 86_400


def folder(root, n, seed, size=24, quality=95, time=1_700_000_000.0):
    """Photographs of one camera and one session."""
    rng, root = np.random.default_rng(seed), root
    root.mkdir(parents=True)
    for i in range(n):
        picture = Image.fromarray(rng.integers(0, 255, (size, size), dtype=np.uint8))
        path = root / f"{i:03d}.jpg"
        picture.save(path, quality=int(quality + rng.integers(-3, 4)))
        os.utime(path, (time, time + rng.integers(0, DAY)))
    return images.read(root, root.name, (8, 8, 1))


def told(train, heldout) -> str:
    sets = {"train-a": train, "decoys": heldout}
    groups = {"train-a": np.arange(len(train)), "decoys": len(train) + np.arange(len(heldout))}
    return " ".join(unlike_files(sets, groups, 0))


def test_files_of_one_deal_are_not_told_apart_and_those_of_another_export_or_day_are(tmp_path):
    train = folder(tmp_path / "train", 80, 1)
    assert told(train, folder(tmp_path / "same", 40, 2)) == ""
    smaller = told(train, folder(tmp_path / "export", 40, 3, quality=60))
    assert "differ in size" in smaller and "differ in date" not in smaller
    later = told(train, folder(tmp_path / "later", 40, 4, time=1_700_000_000.0 + 30 * DAY))
    assert "differ in date" in later and "differ in size" not in later


def test_pictures_that_share_a_file_have_no_size_of_their_own(tmp_path):
    np.save(tmp_path / "all.npy", np.random.default_rng(0).integers(0, 255, (30, 8, 8), dtype=np.uint8))
    array = images.read(tmp_path / "all.npy", "train-a", (8, 8, 1))
    assert array.files is None and told(array, array) == ""
