"""What is odd about the images is said, or refused, before the first network call."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from auditor.errors import AuditError
from auditor.inputs import preflight
from auditor.records import ImageSet


def films(n: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(20, 230, (n, 4, 4)).astype(np.uint8)
    fine = [np.asarray(Image.fromarray(each).resize((12, 12), Image.Resampling.BICUBIC)) for each in coarse]
    return np.stack(fine)[..., None]


def image_set(name: str, pixels: np.ndarray, labels: list[str] | None = None) -> ImageSet:
    return ImageSet(name, pixels, tuple(f"{name}/{i}" for i in range(len(pixels))), labels=tuple(labels or ()))


def said(allow_overlap: bool = False, **pixels: np.ndarray | ImageSet) -> list[str]:
    names = {"a": "train-a", "b": "train-b", "heldout": "heldout"}
    sets = {
        names[key]: each if isinstance(each, ImageSet) else image_set(names[key], each) for key, each in pixels.items()
    }
    return preflight.check(sets, 0, allow_overlap)


def changed(pixels: np.ndarray) -> np.ndarray:
    """The same pictures, brighter and noisier."""
    noise = np.random.default_rng(9).normal(0, 2, pixels.shape)
    return np.clip(pixels * 0.95 + 8 + noise, 0, 255).astype(np.uint8)


def test_unrelated_sets_give_no_sentence():
    assert said(a=films(300, 1), b=films(300, 2), heldout=films(250, 3)) == []


def test_near_duplicates_between_sets_are_counted_and_named():
    a, b = films(300, 1), films(300, 2)
    b[5], b[9] = changed(a[[7, 70]])
    (line,) = said(a=a, b=b)
    assert line.startswith("2 of 300 images of train-a that were looked at have a near-duplicate among 300 of train-b")
    assert "train-a/7 and train-b/5" in line and "audit split" in line


def test_near_duplicates_of_held_out_images_are_no_control():
    a, heldout = films(300, 1), films(250, 3)
    heldout[4] = changed(a[[7]])[0]
    (line,) = said(a=a, heldout=heldout)
    assert "1 of 250 images of heldout" in line and "such held-out images are no control" in line


def test_sets_that_are_mostly_near_duplicates_are_refused_unless_overlap_is_allowed():
    a = films(300, 1)
    b = np.concatenate([changed(a[:100]), films(200, 2)])
    with pytest.raises(AuditError, match="100 of 300 images of train-a") as caught:
        said(a=a, b=b)
    assert "audit split" in caught.value.remedy
    assert len(said(True, a=a, b=b)) == 1


def test_pictures_that_all_share_their_background_are_told_and_not_refused():
    shade = np.linspace(0, 200, 12)[:, None, None]
    (line,) = said(a=(films(300, 1) * 0.2 + shade).astype(np.uint8), b=(films(300, 2) * 0.2 + shade).astype(np.uint8))
    assert "have one among themselves" in line


def test_exact_copies_are_not_told_twice():
    """They are the business of --allow-overlap."""
    a, b = films(300, 1), films(300, 2)
    b[5] = a[7]
    assert said(a=a, b=b) == []


def test_fractions_cut_to_integers_and_blank_sets_are_refused():
    with pytest.raises(AuditError, match="Every pixel of train-b is 0 or 1 of 255"):
        said(a=films(50, 1), b=films(50, 2) // 128)
    blank = films(50, 2)
    blank[:30] = 7
    with pytest.raises(AuditError, match="30 of 50 images of train-b are blank"):
        said(a=films(50, 1), b=blank)


def test_some_blank_images_and_a_dark_set_are_said():
    pixels = films(300, 1)
    pixels[:3] = 100
    assert said(a=pixels) == ["3 of 300 images of train-a are blank."]
    assert "No pixel of train-a is brighter than 51" in said(a=films(300, 1) // 5)[-1]


def test_other_contrast_and_an_inverted_set_are_said():
    shaded = (films(300, 1) * 0.6 + np.linspace(0, 90, 12)[:, None, None]).astype(np.uint8)
    other = (films(300, 2) * 0.6 + np.linspace(0, 90, 12)[:, None, None]).astype(np.uint8)
    assert said(a=shaded, b=other) == []
    (line,) = said(a=shaded, b=255 - other)
    assert "each other's negative" in line
    assert "differ in contrast" in said(a=films(300, 1), b=films(300, 2) // 2)[0]


def test_uneven_halves_and_few_held_out_images_are_said():
    lines = said(a=films(300, 1), b=films(200, 2), heldout=films(100, 3))
    assert lines[0].startswith("The halves have 300 and 200 images") and "3.0% of real images" in lines[1]


def test_classes_that_are_spread_unevenly_are_said():
    a = image_set("train-a", films(300, 1), ["ill"] * 200 + ["well"] * 100)
    even = image_set("train-b", films(300, 2), ["ill"] * 190 + ["well"] * 110)
    odd = image_set("train-b", films(300, 2), ["ill"] * 100 + ["well"] * 200)
    assert said(a=a, b=even) == []
    assert "'ill' is 66.7% of one and 33.3% of the other" in said(a=a, b=odd)[0]


class InZeroToOne(torch.nn.Module):
    """A network that predicts pictures from 0 to 1, whatever it is told of their range."""

    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, t):
        return torch.sigmoid(20 * self.slope * (x - 0.5))


def test_samples_of_another_range_than_pictures_are_scaled_to_are_told_at_once_and_in_the_report(
    audit, audit_args, tmp_path
):
    for twin, slope in (("a", 1.0), ("b", 1.1)):
        (tmp_path / twin).mkdir()
        torch.save({"slope": torch.tensor(slope)}, tmp_path / twin / "step-10.pt")
    given = {"ckpts_a": tmp_path / "a", "ckpts_b": tmp_path / "b", "model": "test_preflight:InZeroToOne"}
    more = {"image_shape": "8x8x1", "prediction": "sample", "scheduler": "ddpm", "spaces": "pixel", "loss_levels": "2"}
    outcome = audit(*audit_args(**given, **more))
    assert outcome.status == 0, outcome.err
    said = [line for line in outcome.err.splitlines() if "warning: Samples" in line]
    assert len(said) == 1 and "--pixel-range 0,1 fits better" in said[0]
    assert "--pixel-range 0,1 fits better" in " ".join(outcome.out.split())
    fitting = audit(*audit_args(**given, **more, pixel_range="0,1", out=tmp_path / "fitting"))
    assert fitting.status == 0 and "warning: Samples" not in fitting.err


def test_what_was_seen_reaches_the_report_and_is_not_looked_at_again(
    audit, audit_args, tmp_path, saved_inputs, monkeypatch
):
    assert audit(*audit_args(spaces="pixel")).status == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert any("30 held-out images say little" in note for note in record["preflight"]["notes"])
    assert any("30 held-out images say little" in note for note in record["notes"])
    monkeypatch.setattr(preflight, "check", lambda *a: pytest.fail("the same images are looked at twice"))
    again = audit(*audit_args(spaces="pixel"))
    assert again.status == 0 and "30 held-out images say little" in " ".join(again.out.split())
