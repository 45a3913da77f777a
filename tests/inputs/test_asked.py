"""What a run was asked for survives run.json; another process builds from it what making needs, or is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import EVERYTHING, FAST, Inputs, config_of, make_fast, smooth_images, tiny_unet
from edits import change_json, edit_json

from auditor import inputs
from auditor.config import AuditConfig
from auditor.errors import AuditError
from auditor.inputs.asked import as_record, from_record
from auditor.inputs.loaded import Loaded
from auditor.pipeline.record import record
from auditor.pipeline.verify import asked_of
from auditor.run import RunDirectory


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The small controls of the finished runs."""
    make_fast(monkeypatch)


def settings(given: dict[str, str], out: Path, **changes: str | None) -> AuditConfig:
    """Return the settings of a small audit into a folder."""
    plain = {name.replace("_", "-"): value for name, value in changes.items()}
    return config_of({**given, **FAST, **plain, "out": str(out)})


def of_everything(everything: Inputs) -> AuditConfig:
    """Return the settings of the run with everything switched on."""
    return config_of({**everything.options, **EVERYTHING, "out": str(everything.root / "run")})


def with_samples(everything: Inputs, root: Path) -> AuditConfig:
    """Return the settings of an audit of the samples that a run drew."""
    given = {}
    for twin in "ab":
        folder = root / "drawn" / twin
        folder.mkdir(parents=True)
        for step in (90, 200):
            shutil.copyfile(everything.root / f"run/samples/{twin}/{step}.npy", folder / f"step-{step}.npy")
        given[f"samples-{twin}"] = str(folder)
    kept = {name: path for name, path in everything.options.items() if not name.startswith("ckpts")}
    return settings({**given, **kept}, root / "run")


def of_one_training(everything: Inputs, root: Path) -> AuditConfig:
    """Return the settings of an audit of one training."""
    given = {name: everything.options[name] for name in ("ckpts-a", "train-a", "heldout")}
    return settings(given, root / "run")


def of_classes(root: Path) -> AuditConfig:
    """Return the settings of an audit of class-conditional networks that were never trained."""
    from diffusers import DDPMScheduler, UNet2DModel

    given = {f"ckpts-{twin}": str(root / twin) for twin in "ab"}
    for seed, twin in enumerate("ab", 1):
        unet = UNet2DModel(**{**tiny_unet(seed).config, "num_class_embeds": 3})
        unet.save_pretrained(root / twin / "checkpoint-2" / "unet")
        DDPMScheduler().save_pretrained(root / twin / "scheduler")
    for seed, name in enumerate(("train-a", "train-b", "heldout")):
        np.savez(root / f"{name}.npz", images=smooth_images(45, seed), labels=np.arange(45) % 3)
        given[name] = str(root / f"{name}.npz")
    return settings(given, root / "run", labels="3", guidance_scale=None)


@pytest.fixture(params=["everything", "samples", "one training", "classes"])
def loaded(request, everything, tmp_path) -> Loaded:
    """Audits of every kind, read and checked."""
    config = {
        "everything": lambda: of_everything(everything),
        "samples": lambda: with_samples(everything, tmp_path),
        "one training": lambda: of_one_training(everything, tmp_path),
        "classes": lambda: of_classes(tmp_path),
    }[request.param]()
    return inputs.prepare(config, RunDirectory(config.out))


def test_what_was_asked_for_is_the_same_after_run_json(loaded, tmp_path):
    run = RunDirectory(tmp_path / "kept")
    run.root.mkdir()
    run.write_record(record(loaded, "started", {}, {}))
    told = from_record(run, run.read_record(), {})
    assert told == loaded.asked and told.whole
    assert as_record(told) == as_record(loaded.asked) == json.loads(json.dumps(as_record(loaded.asked)))
    for name in ("scaling", "conditions", "scheduler", "sets", "spaces", "checkpoints", "image_shape"):
        assert type(getattr(told, name)) is type(getattr(loaded.asked, name)), name
    assert told.times.tolist() == loaded.asked.times.tolist()


def test_the_kinds_of_audits_are_told_apart(everything, tmp_path):
    configs = (with_samples(everything, tmp_path / "1"), of_one_training(everything, tmp_path / "2"))
    given, single = (inputs.prepare(config, RunDirectory(config.out)).asked for config in configs)
    assert not given.with_model and given.pairs_samples and given.scheduler == {} and given.times.size == 0
    assert not single.scope.with_twin and set(single.checkpoints) == {f"a/{step}" for step in (90, 200, 1000)}


def test_a_finished_run_says_what_it_was_asked_for(everything):
    run, config = RunDirectory(everything.root / "run"), of_everything(everything)
    assert asked_of(run, run.read_record()) == inputs.prepare(config, run).asked


def test_another_process_builds_the_same_from_what_run_json_says(everything):
    run = RunDirectory(everything.root / "run")
    asked = asked_of(run, run.read_record())
    loaded = inputs.load(asked, run)
    assert loaded.asked == asked
    assert {name: len(each) for name, each in loaded.sets.items()} == {"train-a": 40, "train-b": 40, "heldout": 30}
    assert [c.step for c in loaded.pair.b.checkpoints] == [90, 200] and set(loaded.spaces) == {"pixel", "correlation"}


def test_another_number_of_threads_does_not_stand_in_the_way(everything):
    """Threads are told, and no key has them: another process may have others."""
    run = RunDirectory(everything.root / "run")
    asked = replace(asked_of(run, run.read_record()), threads=99)
    assert inputs.load(asked, run).asked.threads == 99


def other_checkpoint(root: Path) -> None:
    shutil.copytree(root / "b/checkpoint-1000/unet_ema", root / "b/checkpoint-90/unet_ema", dirs_exist_ok=True)


def other_images(root: Path) -> None:
    np.savez(root / "heldout.npz", images=smooth_images(30, 77))


def other_scheduler(root: Path) -> None:
    for twin in "ab":
        edit_json(root / twin / "scheduler" / "scheduler_config.json", beta_end=0.03)


@pytest.mark.parametrize(
    ("change", "named"),
    [(other_checkpoint, "checkpoints"), (other_images, "sets"), (other_scheduler, "scheduler")],
)
def test_what_changed_since_is_named_and_nothing_is_made(everything, tmp_path, change, named):
    root = Path(shutil.copytree(everything.root, tmp_path / "inputs"))
    config = of_everything(Inputs(root))
    run = RunDirectory(config.out)
    asked = inputs.prepare(config, run).asked
    change(root)
    with pytest.raises(AuditError, match=f"^The {named} are not those that the run was asked for") as refused:
        inputs.load(asked, run)
    assert refused.value.where == str(run.record)


def test_the_record_of_an_earlier_version_tells_what_it_can(everything, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.root.mkdir()
    shutil.copyfile(everything.root / "run/run.json", run.record)
    asked = from_record(run, run.read_record(), {})
    change_json(run.record, lambda kept: kept.pop("asked"))
    digests = dict(asked.checkpoints)
    earlier = from_record(run, run.read_record(), digests)
    assert asked.whole and not earlier.whole
    for name in ("config", "scope", "budgets", "device", "batch_size", "scheduler", "checkpoints", "image_shape"):
        assert getattr(earlier, name) == getattr(asked, name), name
    assert set(earlier.sets) == set(asked.sets) and earlier.times.tolist() == asked.times.tolist()
    assert earlier.with_model and earlier.sees_alike and not earlier.mirrored
