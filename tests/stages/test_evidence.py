"""Own and other, half a and half b are never exchanged on the way from features through files to values.

Five samples per twin and six training images in the plane, placed so that an exchange anywhere changes a number:

    a:  0001 (0, 0)   0002 (4, 0)   0003 (4, 0), its duplicate   0004 (0, 20), not in the pool
    b:  0001 (10, 0)  0002 (10, 7)  0003 (16.5, 0)

The file names of both halves are the same. Pool images are numbered a's first: 0 1 2 | 3 4 5.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from auditor import registry
from auditor.errors import AuditError
from auditor.measuring import reading
from auditor.measuring.reading import EvidenceReader
from auditor.records import TWINS, Features, other_twin
from auditor.run import RunDirectory, columns, tables
from auditor.run.places import EVIDENCE
from auditor.scope import Scope
from auditor.stages import halves, losses, nearest, sets, stages
from auditor.stages.halves import Reference
from auditor.stats.landing import own_share_both, own_share_one

SPACE, STEP = "pixel", 300
SEEDS = np.arange(5, 10)
TRAIN = {"a": [(0, 0), (4, 0), (4, 0), (0, 20)], "b": [(10, 0), (10, 7), (16.5, 0)]}
IN_POOL = {"a": [True, True, True, False], "b": [True, True, True]}
CLUSTERS = {"a": [0, 1, 1, 2], "b": [0, 1, 2]}  # the numbers of both halves overlap
SAMPLES = {
    "a": [(1, 0), (4, 1), (10, 1), (0, 19), (0, -2)],  # on a, a, b, b (a's nearest is not in the pool), a
    "b": [(10, 1), (15.5, 0), (16.5, 1), (7, 0), (0, 1)],  # on b, b, b, half way, a
}
HELDOUT = [(0.5, 0), (10, 2), (10.5, 0), (16, 0.5), (0, 14)]  # on a, b, b, b, b (a's nearest is not in the pool)


def features(of: str, points) -> Features:
    names = {"samples": [str(seed) for seed in SEEDS], "heldout": [f"h{i}.png" for i in range(len(points))]}
    ids = names.get(of.split("-")[0], [f"{i + 1:04d}.png" for i in range(len(points))])
    return Features(SPACE, of, np.array(points, dtype=np.float32), tuple(ids))


def reference(half: str) -> Reference:
    return Reference(features(f"train-{half}", TRAIN[half]), np.array(IN_POOL[half]), np.array(CLUSTERS[half]))


def scope_of(n_samples: int, with_train: bool = True, with_heldout: bool = True) -> Scope:
    return Scope((STEP,), (SPACE,), n_samples, 0, with_train, with_heldout)


def write_run(root, with_train: bool = True, with_heldout: bool = True) -> RunDirectory:
    """Write the evidence as the pipeline does: own is the half of the twin's own name."""
    run = RunDirectory(root)
    halves = {half: reference(half) for half in TWINS}
    heldout = features("heldout", HELDOUT) if with_heldout else None
    for twin in TWINS:
        mine, twins = (features(f"samples-{t}", SAMPLES[t]) for t in (twin, other_twin(twin)))
        references = {"own": halves[twin], "other": halves[other_twin(twin)]} if with_train else {}
        rows = nearest.sample_rows(mine, twins, references, heldout, SEEDS)
        tables.write(run.place(EVIDENCE, f"{twin}/{STEP}", SPACE), columns.EVIDENCE, rows)
    if with_train:
        pixels = {half: dict.fromkeys(("brightness", "saturated"), np.zeros(len(TRAIN[half]))) for half in TWINS}
        tables.write(run.place(EVIDENCE, "pool", SPACE), sets.POOL_IMAGES, sets.pool_rows(halves, pixels, heldout))
        for half, each in halves.items():
            digests = [f"{half}{cluster}" for cluster in CLUSTERS[half]]
            rows = sets.train_rows(each, digests, each.clusters)
            tables.write(run.place(EVIDENCE, f"train-{half}", SPACE), sets.TRAIN, rows)
    if with_train and with_heldout:
        tables.write(run.place(EVIDENCE, "heldout", SPACE), sets.HELDOUT, sets.heldout_rows(heldout, halves))
    return run


@dataclass(frozen=True)
class Written:
    """A run on disk and what was read back from it."""

    run: RunDirectory
    reader: EvidenceReader
    found: dict
    landings: dict

    def value(self, name: str, twin: str) -> float:
        return registry.lookup("metric", name).scores(self.found[twin]).values.mean()


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Written:
    run = write_run(tmp_path_factory.mktemp("run"))
    reader = EvidenceReader(run, SPACE, scope_of(len(SEEDS)))
    read = {twin: reader.read(twin, STEP) for twin in TWINS}
    return Written(run, reader, *({twin: pair[i] for twin, pair in read.items()} for i in (0, 1)))


def to_points(queries, points) -> np.ndarray:
    """All distances, sorted: float64 [n, points]."""
    queries, points = np.asarray(queries, float), np.asarray(points, float)
    return np.sort(np.linalg.norm(queries[:, None] - points[None], axis=2), axis=1)


# ---------------------------------------------------------------------------
# Pool and landings
# ---------------------------------------------------------------------------


def test_the_pool_keeps_files_of_the_same_name_in_both_halves_apart(written):
    names = ("0001.png", "0002.png", "0003.png")
    assert written.reader.pool.ids == (*(("a", n) for n in names), *(("b", n) for n in names))
    np.testing.assert_array_equal(written.reader.pool.labels, [1, 1, 1, -1, -1, -1])


def test_duplicates_share_a_group_and_halves_never_do(written):
    groups = written.reader.pool.groups
    assert groups[1] == groups[2]
    assert len(np.unique(groups)) == 5
    assert not set(groups[:3]) & set(groups[3:])


def test_samples_of_twin_a_land_on_the_images_they_are_nearest_to(written):
    landing = written.landings["a"]
    np.testing.assert_array_equal(landing.in_a, [1, 1, 0, 0, 1])
    np.testing.assert_array_equal(landing.nearest_a, [0, 1, 1, 0, 0])
    np.testing.assert_array_equal(landing.nearest_b, [3, 3, 3, 4, 3])


def test_samples_of_twin_b_land_on_the_images_they_are_nearest_to(written):
    """For twin b, own is half b: what is own there must come out as not in a."""
    landing = written.landings["b"]
    np.testing.assert_array_equal(landing.in_a, [0, 0, 0, 0.5, 1])
    np.testing.assert_array_equal(landing.nearest_a, [1, 1, 1, 1, 0])
    np.testing.assert_array_equal(landing.nearest_b, [3, 5, 5, 3, 3])


def test_gaps_pass_over_duplicates_and_take_the_next_image_of_either_half(written):
    """(d2 - d1) / (d2 + d1), with d1 and d2 read off the drawing; the second of twin a has its duplicate at d1, too."""
    first = {"a": [1, 1, 1, np.hypot(10, 12), 2], "b": [1, 1, 1, 3, 1]}
    second = {
        "a": [3, np.hypot(4, 1), 6, 19, np.hypot(4, 2)],
        "b": [6, 5.5, np.hypot(6.5, 1), 3, np.hypot(4, 1)],
    }
    for twin in TWINS:
        d1, d2 = np.array(first[twin]), np.array(second[twin])
        np.testing.assert_allclose(written.landings[twin].gap, (d2 - d1) / (d2 + d1), rtol=1e-6)
        np.testing.assert_array_equal(written.found[twin].gap, written.landings[twin].gap)


def test_landing_weights_lie_on_the_images_of_the_drawing(written):
    np.testing.assert_allclose(written.landings["a"].weights(6), [0.4, 0.2, 0, 0.2, 0.2, 0])
    np.testing.assert_allclose(written.landings["b"].weights(6), [0.2, 0.1, 0, 0.3, 0, 0.4])


def test_nearest_pool_images_of_another_group_pass_over_duplicates(written):
    np.testing.assert_array_equal(written.reader.nearest_in_pool(), [1, 0, 0, 1, 3, 3])


# ---------------------------------------------------------------------------
# Values of both twins
# ---------------------------------------------------------------------------


def test_distances_are_those_to_own_other_and_heldout(written):
    for twin in TWINS:
        found, other = written.found[twin], other_twin(twin)
        own_points, other_points = TRAIN[twin], TRAIN[other]
        np.testing.assert_allclose(
            found.own[:, : len(own_points)], to_points(SAMPLES[twin], own_points), rtol=1e-6, atol=1e-6
        )
        np.testing.assert_allclose(
            found.other[:, : len(other_points)], to_points(SAMPLES[twin], other_points), rtol=1e-6, atol=1e-6
        )
        np.testing.assert_allclose(found.heldout_own[:, : len(own_points)], to_points(HELDOUT, own_points), rtol=1e-6)
        np.testing.assert_allclose(found.heldout_distance, to_points(SAMPLES[twin], HELDOUT)[:, 0], rtol=1e-6)


def test_ranks_beyond_the_size_of_a_half_are_nan(written):
    assert np.isnan(written.found["a"].own[:, 4:]).all() and np.isnan(written.found["a"].other[:, 3:]).all()
    assert np.isfinite(written.found["a"].own[:, :4]).all()


def test_the_pool_excludes_what_was_subsampled_away_and_copies_do_not(written):
    """The fourth sample of a is at 1 from an image of a that is not in the pool."""
    found = written.found["a"]
    assert found.own[3, 0] == pytest.approx(1)
    assert found.pool_own[3] == pytest.approx(19)
    assert found.pool_other[3] == pytest.approx(np.hypot(10, 12))


def test_twin_distances_pair_the_same_seed_and_compare_with_all_others(written):
    a, b = (np.array(SAMPLES[twin], float) for twin in TWINS)
    apart = np.linalg.norm(a[:, None] - b[None], axis=2)
    np.testing.assert_allclose(written.found["a"].twin_distance, np.diag(apart))
    np.testing.assert_array_equal(written.found["b"].twin_distance, written.found["a"].twin_distance)
    np.testing.assert_allclose(written.found["a"].different_seed_distance, (apart.sum(axis=1) - np.diag(apart)) / 4)
    np.testing.assert_allclose(written.found["b"].different_seed_distance, (apart.sum(axis=0) - np.diag(apart)) / 4)


@pytest.mark.parametrize(
    ("name", "a", "b"),
    [
        ("own_share", 3 / 5, 3.5 / 5),
        ("heldout_share", 1 / 5, 4 / 5),
        ("memorized_fraction", 1 / 5, 3 / 5),  # a: the near copy of 0004
        ("heldout_memorized_fraction", 1 / 5, 2 / 5),
        ("memorized_fraction_cluster", 2 / 5, 3 / 5),  # a: that of 0002 = 0003, too
        ("heldout_memorized_fraction_cluster", 1 / 5, 2 / 5),
    ],
)
def test_shares_of_either_twin_are_those_of_the_drawing(written, name, a, b):
    assert (written.value(name, "a"), written.value(name, "b")) == pytest.approx((a, b))


def test_the_lean_of_both_twins_is_the_average_of_theirs(written):
    both = own_share_both(written.landings["a"], written.landings["b"], written.reader.pool)[0]
    assert both.value == pytest.approx((0.6 + 0.7) / 2)
    for twin, sign, share in (("a", 1.0, 0.6), ("b", -1.0, 0.7)):
        assert own_share_one(written.landings[twin], written.reader.pool, sign, 0.1).value == pytest.approx(share)


def test_the_relabeled_statistic_is_the_lean_that_is_reported(written):
    pool, weights = written.reader.pool, [written.landings[twin].weights(6) for twin in TWINS]
    assert 0.5 + pool.labels @ (weights[0] - weights[1]) / 4 == pytest.approx(0.65)


def test_evidence_is_in_the_order_of_its_seeds(written):
    np.testing.assert_array_equal(written.found["b"].seeds, SEEDS)


def test_copies_of_own_images_read_back_as_copies(tmp_path):
    """A copier of each half, through the files: every extreme, for both twins."""
    run = RunDirectory(tmp_path)
    halves = {half: reference(half) for half in TWINS}
    write_run(tmp_path)
    for twin in TWINS:
        copies = features("samples", (TRAIN[twin][:3] * 2)[:5])
        rows = nearest.sample_rows(
            copies, copies, {"own": halves[twin], "other": halves[other_twin(twin)]}, None, SEEDS
        )
        tables.write(run.place(EVIDENCE, f"{twin}/1", SPACE), columns.EVIDENCE, rows)
    reader = EvidenceReader(run, SPACE, scope_of(5))
    read = {twin: reader.read(twin, 1) for twin in TWINS}
    for twin, (found, landing) in read.items():
        value = {
            m: registry.lookup("metric", m).scores(found).values.mean()
            for m in ("own_share", "memorized_fraction", "nearest_own", "nearest_other")
        }
        assert (value["own_share"], value["memorized_fraction"], value["nearest_own"]) == (1, 1, 0)
        assert value["nearest_other"] > 0
        np.testing.assert_array_equal(landing.in_a, 1.0 if twin == "a" else 0.0)
        np.testing.assert_array_equal(landing.gap, 1)
    assert own_share_both(read["a"][1], read["b"][1], reader.pool)[0].value == 1


# ---------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------


def test_the_table_names_the_nearest_images_and_their_roles(written):
    frame = pd.read_parquet(written.run.place(EVIDENCE, f"a/{STEP}", SPACE))
    assert list(frame.seed) == list(SEEDS)
    assert list(frame.own_id_1) == ["0001.png", "0002.png", "0002.png", "0004.png", "0001.png"]
    assert list(frame.own_id_2[:2]) == ["0002.png", "0003.png"]  # of equal distances the smaller id
    assert list(frame.other_id_1) == ["0001.png", "0001.png", "0001.png", "0002.png", "0001.png"]
    assert list(frame.pool_id_1) == ["0001.png", "0002.png", "0001.png", "0002.png", "0001.png"]
    assert list(frame.pool_role_1) == ["own", "own", "other", "other", "own"]
    assert (frame.own_id_5 == "").all() and frame.own_distance_5.isna().all()
    assert (frame.pool_id_7 == "").all() and frame.pool_distance_7.isna().all()


def test_pool_distances_ascend_and_begin_with_the_nearer_half(written):
    for twin in TWINS:
        frame = pd.read_parquet(written.run.place(EVIDENCE, f"{twin}/{STEP}", SPACE))
        pool = frame[[f"pool_distance_{j}" for j in range(1, 7)]].to_numpy()
        assert (np.diff(pool, axis=1) >= 0).all()
        np.testing.assert_array_equal(pool[:, 0], frame[["pool_own_distance", "pool_other_distance"]].min(axis=1))


def test_the_memorized_column_is_the_metric(written):
    for twin in TWINS:
        frame = pd.read_parquet(written.run.place(EVIDENCE, f"{twin}/{STEP}", SPACE))
        scores = registry.lookup("metric", "memorized_fraction").scores(written.found[twin]).values
        np.testing.assert_array_equal(frame.memorized, scores == 1)


def test_a_training_table_has_identity_and_neighbors_within_its_half(written):
    frame = pd.read_parquet(written.run.place(EVIDENCE, "train-a", SPACE))
    assert list(frame.id) == ["0001.png", "0002.png", "0003.png", "0004.png"]
    assert list(frame.in_pool) == IN_POOL["a"] and list(frame.cluster) == CLUSTERS["a"]
    assert list(frame.own_id_1) == ["0002.png", "0003.png", "0002.png", "0001.png"]  # never itself
    np.testing.assert_allclose(frame.own_distance_1, [4, 0, 0, 20])


def table_layouts() -> dict:
    """Every table: those that reports read, as run/columns names them, and those of stages, by the stages' files."""
    modules = {columns, *(sys.modules[type(each).__module__] for each in stages().values())}
    return {
        f"{module.__name__}.{name}": layout
        for module in sorted(modules, key=lambda module: module.__name__)
        for name, layout in vars(module).items()
        if isinstance(layout, tuple) and layout and isinstance(layout[0], columns.Column)
    }


@pytest.mark.parametrize("name", table_layouts())
def test_pandas_reads_every_table_with_its_meaning_and_units(name, tmp_path):
    layout = table_layouts()[name]
    tables.write(tmp_path / "table.parquet", layout, [])
    frame = pd.read_parquet(tmp_path / "table.parquet")
    assert list(frame.columns) == [c.name for c in layout]
    assert frame.attrs.keys() == {c.name for c in layout}
    for c in layout:
        assert c.description and frame.attrs[c.name].startswith(c.description)
        assert frame.attrs[c.name].endswith(f"[{c.unit}]") or not c.unit


def test_the_written_tables_have_their_units(written):
    attrs = pd.read_parquet(written.run.place(EVIDENCE, f"a/{STEP}", SPACE)).attrs
    assert attrs["twin_distance"].endswith("[distance of the space]")
    assert attrs["own_distance_8"].endswith("[distance of the space]")


def test_equal_evidence_is_equal_bytes(written, tmp_path):
    again = write_run(tmp_path)
    for of in (f"a/{STEP}", f"b/{STEP}", "pool", "heldout", "train-a", "train-b"):
        assert again.place(EVIDENCE, of, SPACE).read_bytes() == written.run.place(EVIDENCE, of, SPACE).read_bytes()


# ---------------------------------------------------------------------------
# What is missing
# ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_samples", [4, 6])
def test_a_table_without_exactly_the_seeds_asked_for_is_refused(written, n_samples):
    reader = EvidenceReader(written.run, SPACE, scope_of(n_samples))
    with pytest.raises(AuditError, match=f"5 of {n_samples} seeds"):
        reader.read("a", STEP)


def test_a_missing_table_is_an_error_that_says_what_to_do(written):
    with pytest.raises(AuditError, match="audit run"):
        written.reader.read("a", STEP + 1)


def test_without_training_images_neighbors_are_nan_and_unnamed(tmp_path):
    run = write_run(tmp_path, with_train=False)
    frame = pd.read_parquet(run.place(EVIDENCE, f"a/{STEP}", SPACE))
    about_train = [c for c in frame if c.startswith(("own_", "other_", "pool_"))]
    for column in about_train:
        missing = frame[column] == "" if "_id" in column or "_role_" in column else frame[column].isna()
        assert missing.all(), column
    assert np.isfinite(frame[["twin_distance", "different_seed_distance", "heldout_distance"]]).all(axis=None)


def test_without_training_images_nothing_about_them_is_read(tmp_path):
    run = write_run(tmp_path, with_train=False)
    found, landing = EvidenceReader(run, SPACE, scope_of(5, with_train=False)).read("a", STEP)
    assert landing is None and found.own is None and found.gap is None and found.heldout_own is None
    scores = registry.lookup("metric", "nearest_heldout").scores(found)
    assert "no training images" in scores.note  # held-out images were given


def test_without_heldout_images_controls_are_absent_and_the_rest_is_the_same(tmp_path, written):
    run = write_run(tmp_path, with_heldout=False)
    found, landing = EvidenceReader(run, SPACE, scope_of(5, with_heldout=False)).read("b", STEP)
    assert found.heldout_ids is None and found.heldout_own is None and found.kid_scores is None
    np.testing.assert_array_equal(found.own, written.found["b"].own)
    np.testing.assert_array_equal(landing.in_a, written.landings["b"].in_a)


# ---------------------------------------------------------------------------
# Ties and clusters
# ---------------------------------------------------------------------------


def circle(n: int) -> list[tuple[float, float]]:
    """Different points at distance exactly 5 from the origin."""
    return [(5, 0), (-5, 0), (0, 5), (0, -5), (3, 4), (3, -4), (-3, 4), (-3, -4), (4, 3), (4, -3)][:n]


def test_a_tie_of_both_halves_lands_on_both_however_many_images_tie(tmp_path):
    """Nine images of a filled the eight ranks, and half of the sample was counted on pool image 0 in place of b's."""
    run, samples = RunDirectory(tmp_path), Features(SPACE, "samples", np.zeros((1, 2), np.float32), ("0",))
    halves = {"a": Reference(features("train-a", [(50, 50), *circle(9)]), np.ones(10, bool), np.arange(10))}
    far = [(90 + i, 90) for i in range(9)]
    halves["b"] = Reference(features("train-b", [circle(10)[-1], *far]), np.ones(10, bool), np.arange(10))
    for half, each in halves.items():
        rows = sets.train_rows(each, ["x"] * 10, np.arange(10))
        tables.write(run.place(EVIDENCE, f"train-{half}", SPACE), sets.TRAIN, rows)
    pixels = {half: dict.fromkeys(("brightness", "saturated"), np.zeros(10)) for half in TWINS}
    tables.write(run.place(EVIDENCE, "pool", SPACE), sets.POOL_IMAGES, sets.pool_rows(halves, pixels, None))
    for twin in TWINS:
        references = {"own": halves[twin], "other": halves[other_twin(twin)]}
        rows = nearest.sample_rows(samples, samples, references, None, np.arange(1))
        tables.write(run.place(EVIDENCE, f"{twin}/1", SPACE), columns.EVIDENCE, rows)
        reader = EvidenceReader(run, SPACE, scope_of(1, with_heldout=False))
        landing = reader.read(twin, 1)[1]
        assert landing.in_a[0] == 0.5
        np.testing.assert_array_equal(np.flatnonzero(landing.weights(20)), [1, 10])


def test_a_copy_has_gap_one_even_of_a_duplicate_and_equal_distances_have_none():
    distances = np.array([[0, 0, 3.0], [2.0, 2.0, 2.0], [1.0, 1.0, 3.0]])
    groups = np.array([[0, 0, 1], [0, 1, 2], [4, 4, 4]])
    np.testing.assert_allclose(reading.gaps(distances, groups), [1, 0, 0.5])  # one group: the farthest stands for d2


def test_gaps_ignore_ranks_that_do_not_exist():
    distances = np.array([[1.0, 1.0, np.nan], [1.0, np.nan, np.nan]])
    np.testing.assert_array_equal(reading.gaps(distances, np.array([[3, 3, 0], [3, 0, 0]])), [0, 0])


@pytest.mark.parametrize(
    ("points", "clusters", "expected"),
    [
        ([(1, 0), (1, 0), (5, 0)], [0, 0, 1], 5),  # the duplicate is passed over
        ([(1, 0), (2, 0), (5, 0)], [0, 1, 2], 2),
        ([(1, 0), (1, 0)], [0, 0], 1),  # only duplicates: the farthest stands for it
        ([(1, 0)], [0], np.nan),  # one image has no second
    ],
)
def test_the_nearest_image_outside_a_cluster(points, clusters, expected):
    samples = Features(SPACE, "samples", np.zeros((1, 2), np.float32), ("0",))
    each = Reference(features("train-a", points), np.ones(len(points), bool), np.array(clusters))
    rows = nearest.sample_rows(samples, samples, {"own": each, "other": each}, None, np.arange(1))
    np.testing.assert_allclose(rows["own_outside_distance"], [expected])


# ---------------------------------------------------------------------------
# Losses
# ---------------------------------------------------------------------------


def test_losses_read_back_by_role_image_and_time(tmp_path):
    path = RunDirectory(tmp_path).root / f"losses/a/{STEP}.parquet"
    roles, ids = ["own"] * 4 + ["other"] * 4 + ["heldout"] * 2, ["x", "x", "y", "y", "x", "x", "z", "z", "h", "h"]
    columns = {"set": roles, "id": ids, "t": [10, 90] * 5, "loss": np.arange(10.0), "share": [0.5] * 10}
    tables.write(path, losses.LOSSES, columns)
    found = losses.read_losses(path)
    assert list(found) == ["own", "other", "heldout"]
    np.testing.assert_array_equal(found["own"].values, [[0, 1], [2, 3]])
    np.testing.assert_array_equal(found["other"].values, [[4, 5], [6, 7]])
    assert list(found["other"].ids) == ["x", "z"] and list(found["heldout"].times) == [10, 90]
    np.testing.assert_array_equal(found["own"].means, [0.5, 2.5])


def test_losses_of_levels_with_different_shares_are_weighted_and_earlier_tables_have_equal_ones(tmp_path):
    path = RunDirectory(tmp_path).root / f"losses/a/{STEP}.parquet"
    columns = {"set": ["own"] * 2, "id": ["x"] * 2, "t": [10, 90], "loss": [1.0, 3.0]}
    tables.write(path, losses.LOSSES, columns | {"share": [0.25, 0.75]})
    assert losses.read_losses(path)["own"].means.tolist() == [2.5]
    pd.read_parquet(path).drop(columns="share").to_parquet(path)
    assert losses.read_losses(path)["own"].means.tolist() == [2.0]


def test_losses_that_were_not_measured_are_absent(tmp_path):
    assert losses.read_losses(RunDirectory(tmp_path).root / f"losses/a/{STEP}.parquet") == {}


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_the_nearest_pool_images_are_those_that_a_search_of_the_pool_alone_finds(mirrored, share):
    """Whether the neighbors among all images hold enough of the pool, or it has to be searched again."""
    rng = np.random.default_rng(int(100 * share))
    in_pool = rng.uniform(size=150) < share
    in_pool = np.concatenate([in_pool, in_pool])  # an image and its mirror image are in it together
    known = Reference(features("train-a", rng.integers(0, 30, (300, 2))), in_pool, mirrored=mirrored)
    queries = features("heldout", rng.integers(0, 30, (40, 2)))
    found = halves.in_pool(queries, known, halves.nearest_images(queries, known, 50))
    direct = halves.nearest_images(queries, known, 8, pool=True)
    np.testing.assert_array_equal(found.indices[:, :8], direct.indices)
    np.testing.assert_array_equal(found.distances[:, :8], direct.distances)
    assert found.reference_ids == direct.reference_ids
