"""The model that is to be released: judged beside the twins, one of which never saw an image, and told by digest."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import FAST, as_arguments, audited, call

from auditor.measuring import final
from auditor.measuring.series import read_series
from auditor.pipeline import final_model
from auditor.run import RunDirectory, restored
from auditor.scope import Scope

TOP = ("measurements", "onsets", "verdicts", "profiles", "attacks", "exposure", "named", "classes", "scales")


@pytest.fixture(scope="session")
def shipped(saved_inputs, made_once) -> Path:
    """Twins, and twin a in the place of a final model that was trained on both halves."""
    options = saved_inputs.options
    given = {**options, **FAST, "final": options["ckpts-a"]}
    return made_once("shipped", lambda folder: audited(given, folder / "run")) / "run"


def said(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())["checks"]["final"]


def test_the_release_sentence_names_the_file_and_its_digest(shipped, audit):
    found = said(shipped)
    row = pd.read_parquet(shipped / "final" / "checkpoints.parquet").query("audited").iloc[0]
    assert (found["file"], found["sha256"], found["step"]) == (row.path, row.digest, row.step)
    assert row.step == max(json.loads((shipped / "run.json").read_text())["scope"]["steps"])  # the last one counts
    outcome = audit("report", shipped)
    told = " ".join(outcome.out.split())
    assert f"the final model {row.path} (sha256 {row.digest})" in told and "The trainings beside it:" in told
    for form in ("--markdown", "--json", "--html"):
        assert audit("report", shipped, form, shipped.parent / "out").status == 0
        assert row.digest in (shipped.parent / "out").read_text()


def test_the_twins_keep_their_tables_to_the_last_byte(shipped, finished):
    for name in TOP:
        assert (shipped / f"{name}.parquet").read_bytes() == (finished / f"{name}.parquet").read_bytes(), name


def test_it_is_verified_gated_and_purged_with_the_run_it_belongs_to(shipped, audit, tmp_path):
    import shutil

    assert audit("verify", shipped).status == 0
    outcome = audit("check", shipped)
    assert outcome.status == {"found": 0, "none": 3, "undecided": 4}[said(shipped)["status"]]
    assert said(shipped)["sentence"][:60] in outcome.out
    run = shutil.copytree(shipped, tmp_path / "run")
    path = next((run / "final" / "samples").rglob("*.npy"))
    array = np.load(path)
    array[0] ^= 1
    np.save(path, array)
    assert "final/" in audit("verify", run).err
    assert audit("purge", run).status == 0 and not list((run / "final").rglob("*.npy"))


def test_membership_compares_with_the_twin_that_never_saw_the_image(shipped):
    run = RunDirectory(shipped)
    scope = restored(Scope, run.read_record()["scope"], run.record)
    inner = restored(Scope, run.final.read_record()["scope"], run.final.record)
    beside, series = read_series(run, scope), read_series(run.final, inner)
    losses = series.network(inner.steps[0], "a").losses
    score = final.twin_ratio(run, losses, beside, {})
    step = final.reference_step(beside)
    tables = {t: pd.read_parquet(shipped / "losses" / t / f"{step}.parquet") for t in "ab"}
    own = dict(zip(losses["own"].ids, losses["own"].values, strict=True))
    assert len(score.members) == len(own)  # the very images that the twins were asked about
    for image, value in list(zip(score.member_ids, score.members, strict=True))[:6]:
        half, name = image.split("/", 1)
        other = tables["b" if half == "a" else "a"]  # what half a holds, twin b never saw
        rows = other[(other.set == "other") & (other.id == name)].sort_values("t")
        assert value == pytest.approx(np.log(rows.loss.to_numpy() / own[image]).mean())
    assert len(score.others) == len(losses["heldout"].ids)


def test_its_images_are_those_of_both_halves_unless_others_are_given(shipped, saved_inputs):
    record = json.loads((shipped / "final" / "run.json").read_text())
    halves = json.loads((shipped / "run.json").read_text())["sets"]
    assert record["sets"]["train-a"]["images"] == halves["train-a"]["images"] + halves["train-b"]["images"]
    assert record["scope"]["decoys"] and record["scope"]["twins"] == ["a"]
    options = {**saved_inputs.options, **FAST}
    options |= {"final": options["ckpts-a"], "train-final": options["train-a"], "out": shipped.parent / "other"}
    outcome = call("run", *as_arguments(options), "--dry-run")
    assert outcome.status == 0 and "final model:" in outcome.out, outcome.err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"train_final": "x.npz"}, "--train-final is given and --final is not"),
        ({"final": "x", "samples_a": "y"}, "are both given"),
        ({"final": "x", "heldout": None}, "A final model is judged by"),
    ],
)
def test_what_a_final_model_cannot_be_judged_by_is_refused(audit, audit_args, options, told):
    outcome = audit(*audit_args(**options))
    assert outcome.status == 1 and told in outcome.err


def test_a_final_model_of_another_kind_is_one_clear_error(shipped, monkeypatch):
    from types import SimpleNamespace

    from auditor.config import AuditConfig

    def kind(shape=(8, 8, 1), parameters=1000):
        facts = SimpleNamespace(parameters=parameters, conditioning="none")
        return SimpleNamespace(asked=SimpleNamespace(image_shape=shape), facts=facts)

    monkeypatch.setattr(final_model, "config_of", lambda *_: None)
    for found, words in ((kind(shape=(16, 16, 1)), "16x16x1"), (kind(parameters=2000), "2,000")):
        monkeypatch.setattr(final_model.inputs, "prepare", lambda *_, found=found: found)
        with pytest.raises(final_model.AuditError, match=words):
            final_model.prepare(AuditConfig(final="x"), kind(), RunDirectory(shipped), lambda *_: None)


def test_without_names_no_report_tells_where_the_final_model_lies(shipped, saved_inputs, audit):
    where = Path(saved_inputs.options["ckpts-a"])
    for form in ("--html", "--json", "--markdown"):
        out = shipped.parent / "hidden"
        assert audit("report", shipped, form, out, "--no-pictures").status == 0
        assert where.as_posix() not in out.read_text() and said(shipped)["file"] not in out.read_text()
