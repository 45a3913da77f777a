"""What belongs together is moved together: equal images, near-duplicates, given groups, and what these connect."""

from dataclasses import replace

import numpy as np
import pandas as pd
from conftest import smooth_images

from auditor import images
from auditor.images import groups
from auditor.records import ImageSet


def image_set(name: str, pictures: np.ndarray, given: tuple[str, ...] = ()) -> ImageSet:
    return ImageSet(name, pictures[..., None], tuple(f"{name}/{i}" for i in range(len(pictures))), groups=given)


def find(*sets: ImageSet) -> groups.Groups:
    named = {each.name: each for each in sets}
    return groups.find(named, {name: images.digests(each) for name, each in named.items()})


def brighter(pictures: np.ndarray) -> np.ndarray:
    return np.clip(pictures.astype(int) + 9, 0, 255).astype(np.uint8)


def halves() -> tuple[np.ndarray, np.ndarray]:
    return smooth_images(20, 1, 16), smooth_images(20, 2, 16)


def test_images_that_differ_are_groups_of_their_own():
    a, b = halves()
    found = find(image_set("train-a", a), image_set("train-b", b))
    everyone = np.concatenate(list(found.numbers.values()))
    assert len(np.unique(everyone)) == 40 and not any(found.spanning.values()) and found.notes == ()


def test_a_brighter_copy_is_of_the_group_of_its_original():
    a, b = halves()
    found = find(image_set("train-a", np.concatenate([a, brighter(a[3:4])])), image_set("train-b", b))
    numbers = found.numbers["train-a"]
    assert numbers[20] == numbers[3] and len(np.unique(numbers)) == 20
    assert any("near-duplicates" in note for note in found.notes)


def test_a_near_duplicate_across_the_halves_leaves_both():
    a, b = halves()
    b[7] = brighter(a[:1])[0]
    found = find(image_set("train-a", a), image_set("train-b", b))
    assert found.spanning == {"train-a": {"train-a/0"}, "train-b": {"train-b/7"}}
    assert any("both halves" in note for note in found.notes)


def test_images_of_one_patient_are_one_group_and_connect_their_duplicates():
    a, b = halves()
    pictures = np.concatenate([a, brighter(a[5:6])])
    patients = ("p", "p", *map(str, range(2, 20)), "q")  # 0 and 1 one patient; 20 a copy of 5 under another name
    numbers = find(image_set("train-a", pictures, patients), image_set("train-b", b)).numbers["train-a"]
    assert numbers[0] == numbers[1] and numbers[5] == numbers[20]
    assert len(np.unique(numbers)) == 19


def test_a_patient_in_both_halves_leaves_both_with_all_images():
    a, b = halves()
    names = [f"a{i}" for i in range(20)], [f"b{i}" for i in range(20)]
    names[0][2] = names[0][9] = names[1][4] = "one"
    found = find(*(image_set(f"train-{t}", x, tuple(n)) for t, x, n in zip("ab", (a, b), names, strict=True)))
    assert found.spanning == {"train-a": {"train-a/2", "train-a/9"}, "train-b": {"train-b/4"}}


def test_images_without_a_group_are_not_one_group():
    a, b = halves()
    found = find(image_set("train-a", a, ("",) * 20), image_set("train-b", b))
    assert len(np.unique(found.numbers["train-a"])) == 20


def test_blank_pictures_are_no_near_duplicates_of_each_other():
    a, b = halves()
    a[:3] = np.array([10, 20, 30])[:, None, None]
    assert len(np.unique(find(image_set("train-a", a), image_set("train-b", b)).numbers["train-a"])) == 20


def test_among_too_many_images_near_duplicates_are_not_sought_and_it_is_said(monkeypatch):
    monkeypatch.setattr(groups, "SOUGHT", 30)
    a, b = halves()
    found = find(image_set("train-a", np.concatenate([a, brighter(a[:1])])), image_set("train-b", b))
    assert len(np.unique(found.numbers["train-a"])) == 21
    assert "not sought among 41" in found.notes[0]


def test_a_run_moves_groups_as_a_whole(audit, audit_args, inputs, tmp_path):
    """A near copy shares its original's cluster and pool group, and a sample nearest to both has its d2 elsewhere."""
    path = inputs.options["train-a"]
    pictures = np.load(path)["images"]
    np.savez(path, images=np.concatenate([pictures, brighter(pictures[:1])]))
    outcome = audit(*audit_args(replace(inputs)))
    assert outcome.status == 0, outcome.err
    run = tmp_path / "run"
    train = pd.read_parquet(run / "evidence/pixel/train-a.parquet")
    assert train.cluster.iloc[0] == train.cluster.iloc[-1] and train.cluster.nunique() == len(train) - 1
    pool = pd.read_parquet(run / "evidence/pixel/pool.parquet")
    assert pool.groupby("group").half.nunique().max() == 1
    assert "near-duplicates" in audit("report", run).out
