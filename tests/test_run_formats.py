"""Whole audits from the command line of what trainers of class-conditional, latent and text-to-image models write."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import smooth_images

STEPS = (2, 4)
CLASSES = 3


def labelled(root: Path, name: str, seed: int, n: int = 45) -> Path:
    """Write pictures with a class each, the classes in turn."""
    path = root / f"{name}.npz"
    np.savez(path, images=smooth_images(n, seed), labels=np.arange(n) % CLASSES)
    return path


@pytest.fixture
def data(tmp_path) -> dict[str, Path]:
    """Two halves and held-out pictures, all with labels."""
    return {name: labelled(tmp_path, name, seed) for seed, name in enumerate(("train_a", "train_b", "heldout"), 1)}


def class_unets(root: Path, seed: int) -> Path:
    """Train a class-conditional UNet2DModel of pixels for a few steps, saved as train_unconditional.py does."""
    from conftest import tiny_unet
    from diffusers import DDPMScheduler, UNet2DModel

    scheduler = DDPMScheduler()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DModel(**{**tiny_unet(seed).config, "num_class_embeds": CLASSES})
        optimizer = torch.optim.Adam(unet.parameters(), 1e-3)
        for step in range(1, max(STEPS) + 1):
            x, noise, t = torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8), torch.randint(0, 1000, (4,))
            found = unet(scheduler.add_noise(x, noise, t), t, torch.randint(0, CLASSES, (4,))).sample
            optimizer.zero_grad()
            (found - noise).square().mean().backward()
            optimizer.step()
            if step in STEPS:
                unet.save_pretrained(root / f"checkpoint-{step}" / "unet")
    scheduler.save_pretrained(root / "scheduler")
    return root


def run(audit, audit_args, tmp_path: Path, a: Path, b: Path, **more) -> tuple[dict, pd.DataFrame]:
    """Audit two series in pixel space; return the run's record and its measurements."""
    outcome = audit(*audit_args(ckpts_a=a, ckpts_b=b, spaces="pixel", **more))
    assert outcome.status == 0, outcome.err
    root = tmp_path / "run"
    verified = audit("verify", root)
    assert verified.status == 0, verified.err
    assert audit("report", root).status == 0
    return json.loads((root / "run.json").read_text()), pd.read_parquet(root / "measurements.parquet")


def values(rows: pd.DataFrame, metric: str, twin: str) -> np.ndarray:
    return rows.value[(rows.metric == metric) & (rows.twin == twin)].to_numpy()


def test_class_conditional_networks_are_audited_within_classes(audit, audit_args, tmp_path, data):
    a, b = (class_unets(tmp_path / twin, seed) for seed, twin in enumerate("ab", 1))
    record, rows = run(audit, audit_args, tmp_path, a, b, **data)
    assert record["resolved"]["model"]["conditioning"] == "class"
    said = " ".join(record["notes"])
    assert "the same class per seed" in said and "given the classes of heldout, train-a, train-b" in said
    drawn = pd.read_parquet(tmp_path / "run" / "evidence" / "pixel" / "a" / "4.parquet")
    np.testing.assert_array_equal(drawn["class"], drawn.seed % CLASSES)
    assert (drawn.own_class_distance >= drawn.pool_own_distance).all()
    for twin in ("a", "b", "both"):
        share = rows[(rows.metric == "own_share_in_class") & (rows.twin == twin)]
        assert len(share) == len(STEPS) and (share.low <= share.value).all() and (share.value <= share.high).all()
        assert share.n.tolist() == [12, 12] and share.p_value.notna().all()
    assert (values(rows, "nearest_own_in_class", "a") >= values(rows, "nearest_own", "a")).all()
    card, page = tmp_path / "card.md", tmp_path / "page.html"
    outcome = audit("report", tmp_path / "run", "--markdown", card, "--html", page)
    assert outcome.status == 0, outcome.err
    assert "own in class" in card.read_text() and "own_share_in_class" in card.read_text()
    assert "own share in class, pixel" in page.read_text()


def test_without_labels_a_class_conditional_network_of_pixels_is_refused(audit, audit_args, tmp_path):
    a, b = (class_unets(tmp_path / twin, seed) for seed, twin in enumerate("ab", 1))
    outcome = audit(*audit_args(ckpts_a=a, ckpts_b=b, spaces="pixel"))
    assert outcome.status == 1
    assert "no class that stands for none" in outcome.err and "class folders, or arrays with labels" in outcome.err
