"""Components that other packages offer: checkpoint formats and feature spaces, found through their entry points."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import invalidate_caches
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from auditor import registry
from auditor.errors import AuditError

MODULE = '''"""A format of one JSON file per step, and a space of one number."""

import json
from hashlib import sha256

import numpy as np

from auditor.checkpoints.formats import Guide
from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.schedules import DDPM
from auditor.records import NOT_SAID, Facts, Found
from auditor.spaces import Space


class ScaledFormat:
    """Networks that return what they are given, times a number."""

    name = "scaled"
    REVISION = 1
    guide = Guide("nobody", "`scale-5.json`", "raw", "DDPM", "nothing", "here")

    def __init__(self, settings=None):
        pass

    def find(self, root):
        paths = sorted(root.glob("scale-*.json"))
        return [Found(int(path.stem.partition("-")[2]), {"raw": path}, None) for path in paths], []

    def facts(self, checkpoint):
        return Facts((8, 8, 1), "a number", 1)

    def schedule(self, checkpoint):
        return dict(DDPM)

    def flips(self, checkpoint):
        return NOT_SAID

    def inspect(self, checkpoint):
        return sha256(checkpoint.path.read_bytes()).hexdigest()

    def load(self, checkpoint, scheduler_config, device):
        scale = json.loads(checkpoint.path.read_text())
        return DiffusionModel(lambda x, t: scale * x, dict(scheduler_config), (8, 8, 1), n_parameters=1)


class BrightnessSpace(Space):
    """The mean of the picture."""

    name, revision, dim = "brightness", "brightness-1", 1
    metric_note = "Difference of the mean brightness."

    def embed(self, images):
        return images.reshape(len(images), -1).mean(axis=1, keepdims=True).astype(np.float32)
'''
STRANGER = {"formats": {"scaled": "stranger:ScaledFormat"}, "spaces": {"brightness": "stranger:BrightnessSpace"}}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that installs a package which offers entry points, and makes the registry look again."""
    place = tmp_path / "site"
    place.mkdir()
    (place / "stranger.py").write_text(MODULE)
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "stranger", raising=False)

    def write(name: str, offered: dict[str, dict[str, str]], place: Path = place) -> Path:
        info = place / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"[auditor.{kind}]\n" + "".join(f"{k} = {v}\n" for k, v in of.items()) for kind, of in offered.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))
        invalidate_caches()
        look_again()
        return place

    yield write
    look_again()


def look_again() -> None:
    """Let both tables read the entry points at the next look."""
    for table in (registry.FORMATS, registry.SPACES):
        for name in ("offered", "data"):
            table.__dict__.pop(name, None)


def test_our_own_names_come_first_then_the_lab_then_those_of_other_packages(install, audit):
    install("stranger", STRANGER)
    assert [*registry.FORMATS][-2:] == ["lab", "scaled"]
    assert [*registry.SPACES][-5:] == ["onehot", "level-1", "level-2", "level-3", "brightness"]
    listed = dict(line.split(": ") for line in audit("list").out.splitlines())
    assert listed["format"].endswith(", plain, lab, scaled") and listed["space"].endswith(", level-3, brightness")


def test_a_series_in_the_format_of_another_package_is_scanned_and_audited_in_its_space(
    install, audit, audit_args, tmp_path
):
    install("stranger", STRANGER)
    for twin, scale in (("a", 0.9), ("b", 0.8)):
        folder = tmp_path / "series" / twin
        folder.mkdir(parents=True)
        for step in (2, 4):
            (folder / f"scale-{step}.json").write_text(json.dumps(scale + step / 100))
    series = tmp_path / "series"
    scanned = audit("scan", series / "a", series / "b", "--json")
    assert scanned.status == 0, scanned.err
    found = json.loads(scanned.out)["series"]
    assert [(one["format"], one["steps"]) for one in found] == [("scaled", [2, 4])] * 2
    outcome = audit(*audit_args(ckpts_a=series / "a", ckpts_b=series / "b", spaces="brightness"))
    assert outcome.status == 0, outcome.err
    rows = pd.read_parquet(tmp_path / "run" / "measurements.parquet")
    assert np.isfinite(rows.value[(rows.metric == "nearest_own") & (rows.space == "brightness")]).all()


@pytest.mark.parametrize(("kind", "taken"), [("formats", "plain"), ("formats", "lab"), ("spaces", "level-1")])
def test_a_package_that_offers_a_name_of_ours_is_refused(install, audit, kind, taken):
    install("stranger", {kind: {taken: "stranger:ScaledFormat"}})
    outcome = audit("list")
    assert outcome.status == 1
    assert f"The package stranger offers a {kind[:-1]} called '{taken}', and auditor has one." in outcome.err
    assert "pip uninstall stranger" in outcome.err and "Traceback" not in outcome.err


def test_two_packages_that_offer_one_name_are_refused(install):
    install("stranger", STRANGER)
    install("another", STRANGER)
    with pytest.raises(AuditError, match="The package stranger offers .* 'scaled', and another has one"):
        len(registry.FORMATS)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("nowhere.at_all:Format", "ModuleNotFoundError"),
        ("stranger:Absent", "AttributeError"),
        ("stranger", "TypeError"),
    ],
)
def test_a_format_that_cannot_be_loaded_is_told_with_the_package_that_ships_it(install, audit, tmp_path, value, said):
    install("stranger", {"formats": {"broken": value}})
    with pytest.raises(AuditError, match=f"format 'broken' cannot be loaded: ({said})") as error:
        registry.lookup("format", "broken")
    assert "the package stranger, which ships it" in error.value.remedy
    outcome = audit("scan", tmp_path, "--format", "broken")
    assert outcome.status == 1 and "stranger" in outcome.err and "Traceback" not in outcome.err


@pytest.mark.parametrize("first", ["older", "newer"])
def test_a_package_whose_metadata_lies_on_the_path_twice_counts_once(install, tmp_path, monkeypatch, first):
    older, newer = tmp_path / "older", tmp_path / "newer"
    install("Stran_Ger", {"formats": {"scaled": "stranger:ScaledFormat"}}, older)
    install("stran-ger", {"formats": {"scaled": "stranger:ScaledFormat", "more": "stranger:ScaledFormat"}}, newer)
    for place in (newer, older) if first == "older" else (older, newer):
        monkeypatch.syspath_prepend(place)
    look_again()
    assert [*registry.FORMATS][-2:] == ["more", "scaled"]


def test_entry_points_are_not_read_before_a_name_is_looked_for():
    code = "import sys, auditor.registry, auditor.cli; print('importlib.metadata' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
