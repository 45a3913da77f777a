"""`audit verify`: an untouched run agrees with its evidence, and one changed value is named."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from edits import change_json

from auditor import measuring
from auditor.config import Budgets
from auditor.errors import AuditError
from auditor.pipeline import verify
from auditor.pipeline.verify import same
from auditor.run import RunDirectory
from auditor.run.files import key_path
from auditor.scope import Scope


def change(path: Path, column: str, value, **where) -> None:
    """Set one column of a table where others have these values; types and metadata stay."""
    table = pq.read_table(path)
    mask = np.ones(len(table), dtype=bool)
    for name, wanted in where.items():
        mask &= pc.equal(table[name].cast(pa.string()), str(wanted)).to_numpy()
    assert mask.any(), f"no row of {path} has {where}"
    values = [value if chosen else old for old, chosen in zip(table[column].to_pylist(), mask, strict=True)]
    field = table.schema.field(column)
    new = pa.array(values, pa.string()).dictionary_encode().cast(field.type) if is_category(field) else None
    table = table.set_column(table.schema.get_field_index(column), field, new or pa.array(values, field.type))
    pq.write_table(table, path)


def is_category(field: pa.Field) -> bool:
    return pa.types.is_dictionary(field.type)


def keep(path: Path, rows) -> None:
    """Keep these rows of a table, in this order."""
    pq.write_table(pq.read_table(path).take(list(rows)), path)


def as_earlier(run: RunDirectory) -> None:
    """Leave bare keys beside artifacts and no ``asked`` in run.json, as earlier versions did: nothing proves bytes."""
    for path in run.root.rglob("*.key.json"):
        if "key" in (beside := json.loads(path.read_text())):
            path.write_text(json.dumps(beside["key"]))
    change_json(run.record, lambda record: record.pop("asked", None))


def stamps(root: Path) -> dict[str, tuple[int, int]]:
    return {p.as_posix(): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(root.rglob("*"))}


@pytest.fixture
def disk(run_copy) -> RunDirectory:
    """A copy of the complete run that a test may damage."""
    return RunDirectory(run_copy)


@pytest.fixture(scope="session")
def measured(finished):
    """What the evidence of the complete run says."""
    record = RunDirectory(finished).read_record()
    scope, budgets = (verify.restored(kind, record[kind.__name__.lower()], finished) for kind in (Scope, Budgets))
    return measuring.compute(RunDirectory(finished), scope, budgets)


@pytest.fixture
def same_evidence(monkeypatch, disk, measured):
    """The damaged run where the test leaves the evidence alone, so that it is measured once for all of them."""
    monkeypatch.setattr(measuring, "compute", lambda *rest: measured)
    return disk


# An untouched run


def test_an_untouched_run_agrees_and_is_not_touched(finished, audit):
    before = stamps(finished)
    outcome = audit("verify", finished)
    assert outcome.status == 0, outcome.err
    assert "values in 9 tables and run.json agree with the evidence" in outcome.out
    assert stamps(finished) == before


def test_a_run_without_training_images_agrees(without_training, audit):
    outcome = audit("verify", without_training)
    assert outcome.status == 0, outcome.err
    assert not (without_training / "attack-scores").exists()  # there is no member, nor anybody else


def test_runs_from_before_attacks_asked_the_network_agree(same_evidence):
    change_json(same_evidence.record, lambda record: record["resolved"].pop("attack_times"))
    as_earlier(same_evidence)
    shutil.rmtree(same_evidence.root / "attack-scores")
    assert verify.verify(same_evidence.root).agrees


def test_every_value_of_every_table_is_compared(finished):
    run = RunDirectory(finished)
    expected = sum(
        len(frame) * (len(frame.column_names) - len(keys))
        for name, keys in verify.KEYS.items()
        if name != "protocol"  # not every run has it; test_protocol.py changes a value of it
        for frame in [pq.read_table(run.table(name))]
    )
    checks = {k: v for k, v in run.read_record()["checks"].items() if k not in verify.NOT_RECOMPUTED}
    assert verify.verify(finished).values == expected + len(list(verify.leaves(checks)))


def test_the_order_of_rows_on_disk_does_not_matter(same_evidence):
    path = same_evidence.table("measurements")
    keep(path, reversed(range(pq.read_metadata(path).num_rows)))
    found = verify.verify(same_evidence.root)
    assert found.differences == () and found.changed == ("measurements.parquet",)  # other bytes, the same numbers


def test_a_moved_run_agrees(disk, audit, tmp_path):
    disk.root.rename(tmp_path / "elsewhere")
    assert audit("verify", tmp_path / "elsewhere").status == 0


# One changed value of a table

ROW = {"step": 200, "space": "pixel", "metric": "own_share", "twin": "both"}


@pytest.mark.parametrize(
    ("table", "column", "value", "where"),
    [
        ("measurements", "value", 0.126, ROW),
        ("measurements", "high", 0.51, ROW),
        ("measurements", "high_corrected", float("nan"), ROW),
        ("measurements", "p_corrected", 0.12345, ROW),
        ("measurements", "n", 2000, ROW),
        ("measurements", "note", "all is well", ROW),
        ("measurements", "value", 0.875, ROW | {"metric": "memorized_fraction", "twin": "a", "space": "correlation"}),
        ("onsets", "step", 91, {"onset": "loss"}),
        ("onsets", "status", "certain", {"onset": "divergence", "space": "correlation"}),
        ("verdicts", "verdict", "generalizing", {"step": 200}),
        ("verdicts", "recommended", True, {"step": 200}),
        ("verdicts", "reasons", "It is safe.", {"step": 200}),
    ],
)  # fmt: skip
def test_a_changed_value_of_a_table_is_named_with_both_values(same_evidence, table, column, value, where):
    change(same_evidence.table(table), column, value, **where)
    (found,) = verify.verify(same_evidence.root).differences
    assert (found.table, found.column) == (table, column)
    assert {**found.key, **where} == dict(found.key)
    assert found.stored == value or math.isnan(found.stored)
    assert verify.brief(found.recomputed) in found.sentence


def test_the_command_names_the_row_and_exits_with_1(same_evidence, audit):
    change(same_evidence.table("measurements"), "value", 0.126, **ROW)
    outcome = audit("verify", same_evidence.root)
    assert outcome.status == 1 and outcome.out == ""
    assert "step 200, space pixel, metric own_share, twin both: value is 0.126, the evidence gives" in outcome.err
    assert outcome.err.count("error:") == 1 and "to do:" in outcome.err


def test_a_value_changed_beyond_rounding_is_found_and_one_within_is_not(same_evidence):
    path = same_evidence.table("measurements")
    (old,) = [row["value"] for row in pq.read_table(path).to_pylist() if ROW.items() <= row.items()]
    change(path, "value", old * (1 + 1e-14), **ROW)
    assert verify.verify(same_evidence.root).differences == ()
    change(path, "value", old * (1 + 1e-10), **ROW)
    assert len(verify.verify(same_evidence.root).differences) == 1


@pytest.mark.parametrize(("column", "other"), [("sentence", "Release step 200."), ("step", 200)])
def test_a_changed_recommendation_in_run_json_is_named(same_evidence, column, other):
    change_json(same_evidence.record, lambda record: record["checks"]["recommendation"].update({column: other}))
    (found,) = verify.verify(same_evidence.root).differences
    assert (found.table, found.column, found.stored) == ("run.json", f"checks.recommendation.{column}", other)


def test_a_control_that_was_talked_away_is_named(same_evidence):
    change_json(same_evidence.record, lambda record: record["checks"].update(distrust=["Control failed: by hand."]))
    assert not verify.verify(same_evidence.root).agrees


def test_rows_that_are_gone_or_there_twice_are_named(same_evidence):
    path = same_evidence.table("verdicts")
    keep(path, [0, 0, 1])
    found = {(each.key["step"], each.stored, each.recomputed) for each in verify.verify(same_evidence.root).differences}
    assert found == {(90, "there 2 times", "one"), (1000, "missing", "there")}


def test_json_lists_every_difference(same_evidence, audit):
    change(same_evidence.table("measurements"), "n", 1_000_000, metric="own_share")
    outcome = audit("verify", same_evidence.root, "--json")
    facts = json.loads(outcome.out)
    assert outcome.status == 1 and not facts["agrees"]
    assert len(facts["differences"]) == 3 * 2 * 3  # steps, spaces, twins
    assert facts["differences"][0] == {
        "table": "measurements",
        "step": 90,
        "space": "correlation",
        "metric": "own_share",
        "twin": "a",
        "column": "n",
        "stored": 1_000_000,
        "recomputed": 12,
    }
    assert "and 8 more" in outcome.err


# Changed evidence


@pytest.mark.parametrize(
    ("path", "column", "value", "metric"),
    [
        ("evidence/pixel/a/200.parquet", "own_distance_1", 0.5, "nearest_own"),
        ("evidence/pixel/a/200.parquet", "twin_distance", 0.5, "twin_distance"),
        ("evidence/correlation/a/200.parquet", "kid_score", 9.0, "kid"),
        ("evidence/pixel/a/200.parquet", "pool_own_distance", 0.0, "own_share"),
        ("evidence/pixel/heldout.parquet", "a_distance_1", 0.0, "nearest_heldout"),
        ("losses/a/200.parquet", "loss", 0.25, "loss_own"),
    ],
)
def test_one_changed_number_of_the_evidence_changes_what_is_recomputed(disk, path, column, value, metric):
    table = disk.root / path
    first = {name: pq.read_table(table)[name][0].as_py() for name in ("seed", "id", "set", "t") if name in names(table)}
    change(table, column, value, **first)
    assert f"{path} has other bytes than when it was made" in problems(disk)
    as_earlier(disk)
    found = [each for each in verify.verify(disk.root).differences if each.table == "measurements"]
    assert metric in {each.key["metric"] for each in found}


def names(path: Path) -> list[str]:
    return pq.read_schema(path).names


# What is missing or foreign


def problems(disk: RunDirectory) -> str:
    found = verify.verify(disk.root)
    assert not found.agrees and found.values == 0
    return " | ".join(found.problems)


EVIDENCE = "evidence/pixel/a/200.parquet"


@pytest.mark.parametrize(
    "path",
    [
        EVIDENCE,
        "evidence/correlation/b/90.coverage.parquet",
        "evidence/pixel/pool.parquet",
        "evidence/pixel/heldout-a.parquet",
        "evidence/pixel/copier-b.parquet",
        "evidence/correlation/train-b.parquet",
        "samples/a/200.npy",
        "features/pixel/a/200.npy",
        "features/pixel/heldout.npy",
        "features/correlation/smooth-a.npy",
        "losses/b/1000.parquet",
        "losses/linear-a.parquet",
        "attack-scores/b/90.parquet",
    ],
)
def test_a_missing_artifact_or_key_is_named_before_anything_is_computed(disk, path):
    key_path(disk.root / path).unlink()
    assert problems(disk) == f"{path} has no readable key beside it"
    (disk.root / path).unlink()
    assert problems(disk) == f"{path} is missing"


@pytest.mark.parametrize("rows", [range(11), [*range(11), 0], list(reversed(range(12)))])
def test_evidence_of_fewer_or_other_seeds_is_named(disk, rows):
    keep(disk.root / EVIDENCE, rows)
    assert f"{EVIDENCE} has other bytes than when it was made" in problems(disk)
    as_earlier(disk)
    if len(rows) < 12:
        assert problems(disk) == f"{EVIDENCE} has {len(rows)} of 12 cells"
    else:
        with pytest.raises(AuditError, match="12 seeds"):
            verify.verify(disk.root)


def test_losses_that_were_cut_are_named(disk):
    path = disk.root / "losses/a/200.parquet"
    keep(path, range(10))
    assert "losses/a/200.parquet has 10 of 36 cells" in problems(disk)
    as_earlier(disk)
    assert problems(disk) == "losses/a/200.parquet has 10 of 36 cells"


@pytest.mark.parametrize("of", ["samples", "features/pixel"])
def test_arrays_shorter_than_the_seeds_are_named(disk, of):
    path = disk.root / of / "a" / "200.npy"
    np.save(path, np.load(path)[:7])
    assert f"{of}/a/200.npy has 7 of 12 rows" in problems(disk)
    as_earlier(disk)
    assert problems(disk) == f"{of}/a/200.npy has 7 of 12 rows"


def test_evidence_of_other_samples_than_those_on_disk_is_named(disk):
    change_json(key_path(disk.root / EVIDENCE), lambda beside: beside["key"]["samples"]["of"].update(first_seed=7))
    assert f"{EVIDENCE} was made of something else: samples.of.first_seed: 7 -> 0" in problems(disk)
    as_earlier(disk)  # whose keys cannot be made anew
    assert f"{EVIDENCE} was made from other samples or features than those on disk" in problems(disk)


@pytest.mark.parametrize("path", ["samples/a/200.npy", "losses/a/200.parquet"])
def test_what_another_checkpoint_gave_is_named(disk, path):
    change_json(key_path(disk.root / path), lambda beside: beside["key"].update(checkpoint="0" * 64))
    assert f"{path} is of another checkpoint than checkpoints.parquet names" in problems(disk)


def test_the_command_says_how_many_problems_there_are(disk, audit):
    for step in (90, 200):
        (disk.root / f"losses/a/{step}.parquet").unlink()
    outcome = audit("verify", disk.root)
    assert outcome.status == 1
    assert "not whole (2 problems)" in outcome.err and "losses/a/90.parquet is missing" in outcome.err


# What cannot be verified


def test_a_run_that_is_not_finished_is_an_error(disk):
    change_json(disk.record, lambda record: record.update(status="started"))
    with pytest.raises(AuditError, match="not finished"):
        verify.verify(disk.root)


def test_a_budget_of_another_version_is_an_error_that_says_so(disk):
    change_json(disk.record, lambda record: record["budgets"].update(lean_tomorrow=1))
    with pytest.raises(AuditError, match="lean_tomorrow") as caught:
        verify.verify(disk.root)
    assert "version of auditor" in caught.value.remedy


def test_a_torn_table_is_an_error_that_names_it(disk, audit):
    disk.table("onsets").write_bytes(b"PAR1 torn")
    outcome = audit("verify", disk.root)
    assert outcome.status == 1 and "onsets.parquet" in outcome.err


def test_differing_versions_are_told_beside_the_differences(same_evidence):
    change_json(same_evidence.record, lambda record: record["versions"].update(numpy="1.0"))
    change(same_evidence.table("measurements"), "value", 0.126, **ROW)
    with pytest.raises(AuditError) as caught:
        verify.verify(same_evidence.root).require()
    assert "numpy 1.0 then" in caught.value.remedy


def test_a_long_sentence_is_cut_where_it_is_told():
    long = "Underfit: samples cover few held-out images. " * 9
    sentence = verify.Difference("verdicts", {"step": 1}, "reasons", long, "").sentence
    assert sentence.endswith("..., the evidence gives empty") and len(sentence) < 130


# Values

NAN = float("nan")


@pytest.mark.parametrize(
    ("stored", "recomputed", "expected"),
    [
        (NAN, NAN, True),
        (NAN, 0.0, False),
        (0.0, NAN, False),
        (0.0, 1e-17, True),
        (1.0, 1.0 + 1e-13, True),
        (1.0, 1.0 + 1e-11, False),
        (1e-9, 1e-9 * (1 + 1e-4), False),
        (1, 1, True),
        (1, 2, False),
        ("", "", True),
        ("a", "b", False),
        (None, 0.5, False),
        (True, False, False),
    ],
)
def test_numbers_agree_up_to_rounding_and_everything_else_exactly(stored, recomputed, expected):
    assert same(stored, recomputed) is expected
