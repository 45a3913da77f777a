"""Mirrored training images: a mirror image is its original, for the rank, for duplicates and for the halves."""

from __future__ import annotations

import json

import numpy as np
import pytest

from auditor import images
from auditor.images import mirror
from auditor.inputs.image_sets import pool_masks
from auditor.records import Features, ImageSet
from auditor.run import tables
from auditor.stages import halves


def pictures(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 6, 6, 1), dtype=np.uint8)


def image_set(pixels: np.ndarray, name: str = "train-a") -> ImageSet:
    return ImageSet(name, pixels, tuple(f"{i}.png" for i in range(len(pixels))), labels=("x",) * len(pixels))


def features(pixels: np.ndarray, ids: tuple[str, ...] | None = None) -> Features:
    vectors = pixels.reshape(len(pixels), -1).astype(np.float32)
    return Features("pixel", "x", vectors, ids or tuple(map(str, range(len(pixels)))))


def reference(found: ImageSet, in_pool: np.ndarray | None = None) -> halves.Reference:
    chosen = np.ones(len(found), dtype=bool) if in_pool is None else in_pool
    clusters = np.tile(images.duplicate_groups(mirror.either(images.digests(found))), 2)
    return halves.Reference(features(found.images, found.ids), chosen, clusters, None, True)


def test_every_image_is_followed_by_its_mirror_image_under_its_id():
    both = mirror.with_mirrored(image_set(pictures(3)))
    assert both.ids == ("0.png", "1.png", "2.png", "0.png (mirrored)", "1.png (mirrored)", "2.png (mirrored)")
    assert np.array_equal(both.images[3:], pictures(3)[:, :, ::-1])
    assert images.digests(both) == images.digests(ImageSet("x", np.asarray(both.images), both.ids))
    assert both.labels == ("x",) * 6


def test_an_image_its_mirror_image_and_copies_of_either_are_one_family():
    pixels = pictures(4)
    pixels[2], pixels[3] = pixels[0, :, ::-1], pixels[1]
    both = mirror.with_mirrored(image_set(pixels))
    assert images.duplicate_groups(mirror.either(both.digests)).tolist() == [0, 1, 0, 1]


def test_ranks_are_those_of_a_search_by_hand_over_originals():
    """By definition: the distance to an image is that to the nearer of it and its mirror image."""
    both, queries = mirror.with_mirrored(image_set(pictures(9))), pictures(5, seed=1)
    plain = features(queries).vectors[:, None] - features(np.asarray(both.images)).vectors[None]
    distances = np.linalg.norm(plain, axis=2).reshape(5, 2, 9).min(axis=1)
    found = halves.nearest_images(features(queries), reference(both), 4)
    assert np.allclose(found.distances, np.sort(distances, axis=1)[:, :4])
    assert np.array_equal(found.indices % 9, np.argsort(distances, axis=1)[:, :4])


def test_the_second_nearest_is_never_the_mirror_image_of_the_nearest():
    pixels = pictures(8)
    pixels[0, :, 3:] = pixels[0, :, 2::-1]  # equal to its mirror image but for one pixel
    pixels[0, 0, 0] ^= 1
    both = mirror.with_mirrored(image_set(pixels))
    found = halves.nearest_images(features(pixels[:1]), reference(both), 2)
    assert found.distances[0, 0] == 0 and found.indices[0, 1] % 8 != 0
    without = halves.outside_distance(features(pixels[:1]), reference(both), found)
    assert without[0] == found.distances[0, 1] > 100


def test_a_mirrored_copy_is_found_and_within_a_set_no_image_finds_itself():
    both = mirror.with_mirrored(image_set(pictures(8)))
    copies = np.ascontiguousarray(pictures(8)[[3], :, ::-1])
    found = halves.nearest_images(features(copies), reference(both), 1)
    assert found.distances[0, 0] == 0 and found.ids[0, 0] == "3.png (mirrored)"
    within = halves.nearest_images(reference(both).features, reference(both), 7, exclude_self=True)
    assert not np.isnan(within.distances).any()
    assert (np.sort(within.indices[0] % 8) == np.arange(1, 8)).all()
    more = halves.nearest_images(reference(both).features, reference(both), 8, exclude_self=True)
    assert np.isnan(more.distances[:, 7]).all() and (more.indices[:, 7] == -1).all()


def test_one_of_many_copies_still_has_a_neighbor_outside():
    pixels = np.concatenate([np.repeat(pictures(1), 60, axis=0), pictures(3, seed=2)])
    both = mirror.with_mirrored(image_set(pixels))
    full = reference(both)
    found = halves.nearest_images(features(pixels[:1]), full, 50)
    assert (found.distances == 0).all()
    plain = features(np.asarray(both.images)).vectors - features(pixels[:1]).vectors
    outside = full.clusters != full.clusters[0]
    expected = np.linalg.norm(plain[outside], axis=1).min()
    assert halves.outside_distance(features(pixels[:1]), full, found)[0] == pytest.approx(expected)
    assert halves.cluster_sizes(found, full)[0] == 60


def test_mirror_images_are_in_the_pool_with_their_originals_and_halves_stay_equal():
    sets = {
        f"train-{half}": mirror.with_mirrored(image_set(pictures(n, n), f"train-{half}"))
        for half, n in (("a", 30), ("b", 20))
    }
    masks = pool_masks(sets, {"train-a": {"4.png (mirrored)"}, "train-b": set()}, seed=0, mirrored=True)
    assert masks["train-a"].sum() == masks["train-b"].sum() == 40
    assert np.array_equal(masks["train-a"][:30], masks["train-a"][30:]) and not masks["train-a"][4]


def test_a_run_finds_mirrored_copies_and_says_that_it_looked_for_them(
    audit, audit_args, finished, tmp_path, saved_inputs
):
    """One training image is the mirror image of a sample: only --flip-train finds it."""
    for name in ("train-a", "train-b", "heldout"):
        with np.load(saved_inputs.root / f"{name}.npz") as found:
            pixels = found["images"]
        if name == "train-a":
            pixels[7] = np.load(finished / "samples/a/200.npy")[3, :, ::-1, 0]
        np.savez(tmp_path / f"{name}.npz", images=pixels)
    given = {name.replace("-", "_"): tmp_path / f"{name}.npz" for name in ("train-a", "train-b", "heldout")}
    plain = audit(*audit_args(**given, spaces="pixel"))
    assert plain.status == 0, plain.err
    path = tmp_path / "run/evidence/pixel/a/200.parquet"
    assert tables.read(path).own_distance_1[3] > 0
    flipped = audit(*audit_args(**given, spaces="pixel", flip_train=""))
    assert flipped.status == 0, flipped.err
    row = tables.read(path).iloc[3]
    assert row.own_distance_1 == 0 and row.own_id_1 == "images/7 (mirrored)" and row.memorized
    assert "--flip-train" in " ".join(flipped.out.split())
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["sets"]["train-a"]["images"] == 40 and record["given"]["flip_train"]
    losses = tables.read(tmp_path / "run/losses/a/200.parquet")
    assert not losses.id.astype(str).str.contains("mirrored").any()
    assert audit("verify", tmp_path / "run").status == 0


def test_finished_samples_are_kept_when_mirror_images_join_and_nothing_is_refused(audit, audit_args, run_copy):
    plan = audit(*audit_args(flip_train=""), "--dry-run")
    assert plan.status == 0, plan.err
    lines = [line for line in plan.out.splitlines() if " x samples" in line]
    assert lines and all(line.startswith("reuse") for line in lines)
    outcome = audit(*audit_args(flip_train=""))
    assert outcome.status == 0, outcome.err
