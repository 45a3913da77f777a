"""Comparisons within the class of a sample: who takes part, what is nearest there, and what it says of a run."""

from __future__ import annotations

import numpy as np
import pytest

from auditor import registry
from auditor.inputs.classes import class_pools, pool_notes
from auditor.measuring import lean as leaning
from auditor.measuring.reading import EvidenceReader
from auditor.metrics import LEAST_IN_CLASS
from auditor.records import TWINS, Features, other_twin
from auditor.run import RunDirectory, columns, tables
from auditor.run.places import EVIDENCE
from auditor.scope import Scope
from auditor.stages import classes as classwise
from auditor.stages import halves, nearest, sets
from auditor.stages.halves import Reference
from auditor.stats.relabeling import Pool, relabel

HALVES = ("train-a", "train-b")


def points(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 2)).astype(np.float32)


def features(of: str, vectors: np.ndarray) -> Features:
    return Features("pixel", of, vectors, tuple(f"{i:04d}" for i in range(len(vectors))))


def brute(queries, numbers, reference, counted) -> np.ndarray:
    """The distance to the nearest point of the same class, over all pairs; NaN where there is none."""
    d = np.linalg.norm(queries[:, None].astype(float) - reference[None], axis=2)
    d[numbers[:, None] != counted[None]] = np.inf
    d[:, counted < 0] = np.inf
    return np.where(np.isinf(d.min(axis=1)), np.nan, d.min(axis=1))


# ---------------------------------------------------------------------------
# Who takes part
# ---------------------------------------------------------------------------


def pools_of(a: list[int], b: list[int], **masks: np.ndarray) -> tuple[dict, dict]:
    """Masks and classes of halves with so many images of class 0, 1, ..."""
    classes = {name: np.repeat(np.arange(len(n)), n) for name, n in zip(HALVES, (a, b), strict=True)}
    pools = {name: np.ones(len(each), dtype=bool) for name, each in classes.items()} | masks
    return pools, classes


def counts(masks: dict, classes: dict) -> list[list[int]]:
    return [np.bincount(classes[name][masks[name]], minlength=3).tolist() for name in HALVES]


def test_of_each_class_as_many_images_of_either_half_take_part():
    pools, classes = pools_of([30, 12, 20], [25, 18, 20])
    assert counts(class_pools(pools, classes, seed=0), classes) == [[25, 12, 20], [25, 12, 20]]


def test_a_class_with_too_few_images_in_a_half_takes_no_part_and_is_named():
    pools, classes = pools_of([30, LEAST_IN_CLASS - 1, 20], [25, 18, 20])
    masks = class_pools(pools, classes, seed=0)
    assert counts(masks, classes) == [[25, 0, 20], [25, 0, 20]]
    assert pool_notes(masks, classes, 3) == [
        "Classes with fewer than 10 images in a half (1) are left out of comparisons within classes."
    ]


def test_images_outside_the_pool_take_no_part_within_classes_either():
    outside = np.arange(40) >= 5
    pools, classes = pools_of([20, 20], [20, 20], **{"train-a": outside})
    masks = class_pools(pools, classes, seed=0)
    assert not masks["train-a"][:5].any() and masks["train-a"].sum() == masks["train-b"].sum() == 35


def test_mirror_images_go_with_their_originals():
    pools, classes = pools_of([20, 14], [16, 20])
    twice = lambda values: {name: np.tile(each, 2) for name, each in values.items()}  # noqa: E731
    masks = class_pools(twice(pools), twice(classes), seed=0, mirrored=True)
    for mask in masks.values():
        np.testing.assert_array_equal(*mask.reshape(2, -1))
        assert mask.sum() == 2 * (16 + 14)


def test_without_the_classes_of_a_half_nobody_takes_part():
    pools, classes = pools_of([20], [20])
    assert class_pools(pools, {"train-a": classes["train-a"]}, seed=0) == {}
    assert class_pools({"train-a": pools["train-a"]}, classes, seed=0) == {}


# ---------------------------------------------------------------------------
# What is nearest
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 50])
def test_the_nearest_of_the_class_is_that_of_all_pairs_however_few_neighbors_were_found(k):
    reference, queries = points(1, 300), points(2, 60)
    counted = np.random.default_rng(3).integers(-1, 12, 300)
    counted[counted == 4] = -1  # a class that queries ask for and nobody is of
    numbers = np.random.default_rng(4).integers(-1, 12, 60)
    whole = Reference(features("train-a", reference), np.ones(300, dtype=bool))
    found = halves.nearest_images(features("samples", queries), whole, k)
    index, distance = classwise.nearest_in_class(features("samples", queries), numbers, whole.features, counted, found)
    expected = brute(queries, numbers, reference, counted)
    np.testing.assert_allclose(distance, expected, rtol=1e-6)
    assert (index < 0).tolist() == np.isnan(expected).tolist() == np.isin(numbers, [-1, 4]).tolist()
    assert (counted[index[index >= 0]] == numbers[index >= 0]).all()


# ---------------------------------------------------------------------------
# What it says of a run
# ---------------------------------------------------------------------------

CLASSES, PER_CLASS, N = 3, 20, 90
STYLE = 50.0  # classes lie this far apart


def class_points(seed: int, numbers: np.ndarray) -> np.ndarray:
    return points(seed, len(numbers)) + np.column_stack([numbers * STYLE, np.zeros(len(numbers))]).astype(np.float32)


def write_run(root, samples: dict[str, np.ndarray], drawn: np.ndarray | None, few: bool = False) -> EvidenceReader:
    """Write the evidence of two halves of three classes as the pipeline does, and open it."""
    run, numbers = RunDirectory(root), np.repeat(np.arange(CLASSES), PER_CLASS)
    pools = {name: np.ones(len(numbers), dtype=bool) for name in HALVES}
    if few:  # of class 2, all but three images of half a are blank
        pools["train-a"][-17:] = False
    masks = class_pools(pools, dict.fromkeys(HALVES, numbers), seed=0)
    halves = {
        twin: Reference(
            features(f"train-{twin}", class_points(i, numbers)),
            pools[f"train-{twin}"],
            np.arange(len(numbers)),
            classes=numbers,
            in_class_pool=masks[f"train-{twin}"],
        )
        for i, twin in enumerate(TWINS)
    }
    heldout = features("heldout", class_points(7, numbers))
    for twin in TWINS:
        mine, twins = (features("samples", samples[t]) for t in (twin, other_twin(twin)))
        references = {"own": halves[twin], "other": halves[other_twin(twin)]}
        rows = nearest.sample_rows(mine, twins, references, heldout, np.arange(N), classes=drawn)
        tables.write(run.place(EVIDENCE, f"{twin}/100", "pixel"), columns.EVIDENCE, rows)
        within = sets.train_rows(halves[twin], list(map(str, numbers)), halves[twin].clusters)
        tables.write(run.place(EVIDENCE, f"train-{twin}", "pixel"), sets.TRAIN, within)
    pixels = {half: dict.fromkeys(("brightness", "saturated"), np.zeros(len(numbers))) for half in TWINS}
    tables.write(run.place(EVIDENCE, "pool", "pixel"), sets.POOL_IMAGES, sets.pool_rows(halves, pixels, heldout))
    known = numbers if drawn is not None else None
    tables.write(
        run.place(EVIDENCE, "heldout", "pixel"), sets.HELDOUT, sets.heldout_rows(heldout, halves, classes=known)
    )
    return EvidenceReader(run, "pixel", Scope((100,), ("pixel",), N, 0, with_train=True, with_heldout=True))


DRAWN = np.arange(N) % CLASSES


def copier(twin: str) -> np.ndarray:
    """Samples that are training images of the own half, of the class that they were drawn as."""
    numbers = np.repeat(np.arange(CLASSES), PER_CLASS)
    own = class_points("ab".index(twin), numbers)
    return np.array([own[c * PER_CLASS + i % PER_CLASS] for i, c in enumerate(DRAWN)]) + np.float32(1e-3)


def lean(reader: EvidenceReader) -> dict:
    lands = {(100, "pixel"): {twin: reader.read(twin, 100)[1] for twin in TWINS}}
    return leaning.class_tests(reader.pool, reader.strata, lands, seed=1)


def score(name: str, reader: EvidenceReader, twin: str = "a"):
    return registry.lookup("metric", name).scores(reader.read(twin, 100)[0])


def test_a_copier_within_classes_leans_entirely_and_significantly(tmp_path):
    reader = write_run(tmp_path / "run", {twin: copier(twin) for twin in TWINS}, DRAWN)
    found = lean(reader)[100, "pixel"]
    assert {twin: each.value for twin, each in found.share.items()} == {"a": 1, "b": 1, "both": 1}
    assert found.p_corrected == pytest.approx(1 / 2001)
    assert (
        score("nearest_own_in_class", reader).values.max() < 0.01 < score("nearest_other_in_class", reader).values.min()
    )


def test_samples_of_another_class_than_they_were_asked_for_are_compared_with_the_class_asked_for(tmp_path):
    """All samples are images of class 0; only those drawn as class 0 lie near an image of their class."""
    own = {twin: np.tile(class_points("ab".index(twin), np.zeros(PER_CLASS, int)), (5, 1))[:N] for twin in TWINS}
    reader = write_run(tmp_path / "run", own, DRAWN)
    near = score("nearest_own_in_class", reader).values < STYLE / 2
    np.testing.assert_array_equal(near, DRAWN == 0)
    assert score("nearest_own", reader).values.max() < STYLE / 2


def test_random_samples_of_the_classes_do_not_lean(tmp_path):
    samples = {twin: class_points(20 + i, DRAWN) for i, twin in enumerate(TWINS)}
    reader = write_run(tmp_path / "run", samples, DRAWN)
    found = lean(reader)[100, "pixel"]
    assert found.share["both"].low < 0.5 < found.share["both"].high
    assert found.p_corrected > 0.01
    shares = [score("heldout_share_in_class", reader, twin).values.mean() for twin in TWINS]
    assert sum(shares) == pytest.approx(1)


def test_samples_of_a_class_with_too_few_images_are_left_out_and_counted(tmp_path):
    reader = write_run(tmp_path / "run", {twin: copier(twin) for twin in TWINS}, DRAWN, few=True)
    assert lean(reader)[100, "pixel"].share["both"].n == 60
    scores = score("own_share_in_class", reader)
    assert scores.note == "30 of 90 are left out: too few images of their classes"
    np.testing.assert_array_equal(scores.ids, np.flatnonzero(DRAWN != 2))


def test_without_classes_there_is_a_reason_and_no_number(tmp_path):
    reader = write_run(tmp_path / "run", {twin: copier(twin) for twin in TWINS}, None)
    assert lean(reader) == {}
    for name in ("own_share_in_class", "nearest_own_in_class", "nearest_other_in_class", "heldout_share_in_class"):
        scores = score(name, reader)
        assert len(scores.values) == 0 and "not class-conditional" in scores.note


def test_labels_are_permuted_within_classes_alone():
    pool = Pool(tuple(("a", str(i)) for i in range(8)), np.repeat([1.0, -1.0, 1.0, -1.0], 2), np.arange(8))
    relabeling = relabel(pool, 0, 50, strata=np.repeat([0, 1], 4))
    assert (relabeling.labels[:, :4].sum(axis=1) == 0).all() and (relabeling.labels[:, 4:].sum(axis=1) == 0).all()
    whole = relabel(pool, 0, 50)
    assert (whole.labels[:, :4].sum(axis=1) != 0).any()
