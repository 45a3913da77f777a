"""Whole audits from the command line of what trainers of class-conditional, latent and text-to-image models write."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import trained
from conftest import smooth_images

STEPS = (2, 4)
CLASSES = 3


def labeled(root: Path, name: str, seed: int, n: int = 45) -> Path:
    """Write pictures with a class each, the classes in turn."""
    path = root / f"{name}.npz"
    np.savez(path, images=smooth_images(n, seed), labels=np.arange(n) % CLASSES)
    return path


@pytest.fixture
def data(tmp_path) -> dict[str, Path]:
    """Two halves and held-out pictures, all with labels."""
    return {name: labeled(tmp_path, name, seed) for seed, name in enumerate(("train_a", "train_b", "heldout"), 1)}


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
    reference = pd.read_parquet(tmp_path / "run" / "evidence" / "pixel" / "pool.classes.parquet")
    assert reference["class"].tolist() == list(range(CLASSES)) and set(reference.images) == {15}
    assert ((reference.own_share > 0.5) & (reference.own_share <= 1)).all()  # of so few images even a Gaussian leans
    assert pd.read_parquet(tmp_path / "run" / "classes.parquet").empty  # four samples of a class are too few
    caveats = " ".join(record["checks"]["caveats"])
    assert "fewer than 20 samples of a twin were drawn as them: class 0, class 1, class 2." in caveats
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


# ---------------------------------------------------------------------------
# Whole pipelines per step: class-conditional transformers and latent diffusion
# ---------------------------------------------------------------------------


def dit_pipeline(root: Path, seed: int) -> Path:
    """Save a DiTPipeline per step, its AutoencoderKL in it."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    vae = AutoencoderKL.from_pretrained(trained.autoencoder(root.parent / "vae"))
    shape = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1, "sample_size": 4, "patch_size": 2}
    for step in STEPS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(10 * seed + step)
            network = DiTTransformer2DModel(
                **shape, in_channels=4, out_channels=8, num_embeds_ada_norm=CLASSES, norm_num_groups=2
            )
        schedule = DDIMScheduler(clip_sample=False)
        DiTPipeline(transformer=network, vae=vae, scheduler=schedule).save_pretrained(root / f"step-{step}")
    return root


def ldm_pipeline(root: Path, seed: int) -> Path:
    """Save an unconditional LDMPipeline per step, its VQModel in it."""
    from diffusers import DDIMScheduler, LDMPipeline, UNet2DModel, VQModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)  # one for both twins
        vae = VQModel(
            in_channels=1,
            out_channels=1,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(4, 4),
            norm_num_groups=2,
            latent_channels=3,
            num_vq_embeddings=16,
            sample_size=8,
        )
        for step in STEPS:
            torch.manual_seed(10 * seed + step)
            unet = UNet2DModel(
                sample_size=4,
                in_channels=3,
                out_channels=3,
                block_out_channels=(8, 16),
                layers_per_block=1,
                norm_num_groups=4,
                down_block_types=("DownBlock2D",) * 2,
                up_block_types=("UpBlock2D",) * 2,
                add_attention=False,
            )
            schedule = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)
            LDMPipeline(vqvae=vae, unet=unet, scheduler=schedule).save_pretrained(root / f"step-{step}")
    return root


def drawn_by(pipeline: str, folder: Path, seed: int, **more) -> np.ndarray:
    """The picture that diffusers' own pipeline draws from a seed, uint8 [h, w, c]."""
    import diffusers

    opened = getattr(diffusers, pipeline).from_pretrained(folder)
    opened.set_progress_bar_config(disable=True)
    generator = [torch.Generator().manual_seed(seed)]
    found = opened(generator=generator, num_inference_steps=4, output_type="np", **more).images[0]
    return np.round(255 * np.asarray(found)).astype(np.uint8)


def test_a_series_of_dit_pipelines_is_audited_as_the_pipeline_draws(audit, audit_args, tmp_path, data):
    a, b = (dit_pipeline(tmp_path / twin, seed) for seed, twin in enumerate("ab", 1))
    record, rows = run(audit, audit_args, tmp_path, a, b, **data)
    assert record["resolved"]["model"]["class"] == "DiTTransformer2DModel"
    assert record["resolved"]["image_shape"] == [8, 8, 1]
    assert np.isfinite(values(rows, "own_share_in_class", "both")).all()
    samples = np.load(tmp_path / "run" / "samples" / "a" / "4.npy")
    for seed in (0, 4):
        expected = drawn_by("DiTPipeline", a / "step-4", seed, class_labels=[seed % CLASSES], guidance_scale=1.0)
        np.testing.assert_allclose(samples[seed].astype(int), expected.reshape(8, 8, 1), atol=1)  # one gray level


def test_a_series_of_latent_diffusion_pipelines_is_audited_as_the_pipeline_draws(audit, audit_args, tmp_path):
    a, b = (ldm_pipeline(tmp_path / twin, seed) for seed, twin in enumerate("ab", 1))
    record, rows = run(audit, audit_args, tmp_path, a, b)
    assert record["resolved"]["model"]["class"] == "UNet2DModel"
    assert record["resolved"]["image_shape"] == [8, 8, 1] and (values(rows, "twin_distance", "both") > 0).all()
    samples = np.load(tmp_path / "run" / "samples" / "a" / "4.npy")
    for seed in (0, 4):
        expected = drawn_by("LDMPipeline", a / "step-4", seed)
        np.testing.assert_allclose(samples[seed].astype(int), expected.reshape(8, 8, 1), atol=1)


# ---------------------------------------------------------------------------
# LoRA
# ---------------------------------------------------------------------------


def test_a_series_of_ai_toolkit_is_audited_with_its_configuration_beside(audit, audit_args, tmp_path):
    base = trained.stable_diffusion(tmp_path / "base")
    a, b = (trained.lora(tmp_path / twin, base, seed, layout="ai-toolkit") for seed, twin in enumerate("ab", 1))
    record, rows = run(audit, audit_args, tmp_path, a, b, base=base)
    assert record["scope"]["steps"] == list(STEPS) and record["resolved"]["unit"] == "step"
    assert record["resolved"]["image_shape"] == [8, 8, 1] and (values(rows, "twin_distance", "both") > 0).all()
    said = " ".join(record["notes"])
    assert "LoRA of rank 2 and alpha 2: scale 1." in said and "flip_x in config.yaml" in said


# ---------------------------------------------------------------------------
# Refused
# ---------------------------------------------------------------------------


def large(name: str) -> tuple[str, object]:
    """The folder and a tiny network of a family of text-to-image models."""
    import diffusers

    heads = {"num_layers": 1, "num_attention_heads": 2, "joint_attention_dim": 8, "pooled_projection_dim": 8}
    if name == "Flux":
        network = diffusers.FluxTransformer2DModel(
            patch_size=1, in_channels=4, num_single_layers=1, attention_head_dim=16, axes_dims_rope=(4, 4, 8), **heads
        )
        return "transformer", network
    if name == "Stable Diffusion 3":
        network = diffusers.SD3Transformer2DModel(
            sample_size=4, in_channels=4, out_channels=4, attention_head_dim=4, caption_projection_dim=8, **heads
        )
        return "transformer", network
    network = diffusers.UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(4, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=2,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=32,
    )
    return "unet", network


@pytest.mark.parametrize(
    ("name", "said"),
    {
        "SDXL": "more than one text encoder's output",
        "Stable Diffusion 3": "The model class is SD3Transformer2DModel",
        "Flux": "The model class is FluxTransformer2DModel",
    }.items(),
)
def test_larger_text_to_image_models_are_refused_with_the_way_that_remains(name, said, audit, audit_args, tmp_path):
    from diffusers import FlowMatchEulerDiscreteScheduler

    folder, network = large(name)
    for step in STEPS:
        network.save_pretrained(tmp_path / "a" / f"checkpoint-{step}" / folder)
    FlowMatchEulerDiscreteScheduler().save_pretrained(tmp_path / "a" / "scheduler")
    outcome = audit(*audit_args(ckpts_a=tmp_path / "a", ckpts_b=tmp_path / "a", spaces="pixel"))
    assert outcome.status == 1 and outcome.err.count("error: ") == 1 and "Traceback" not in outcome.err
    assert said in outcome.err and "--samples-a, --samples-b" in outcome.err
