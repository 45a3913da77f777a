"""Every checkpoint format on files that its real trainer wrote (tests/trained.py), or that its code saved."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trained
from repository import FIXTURES
from safetensors.torch import load_file, save_file
from series import FACTORY, SHAPE, Case, checkpoint_of, copied

from auditor import registry
from auditor.checkpoints import (
    ModelSettings,
    check_compatible,
    discover,
    load,
    model_facts,
    open_format,
    scheduler_config,
)
from auditor.checkpoints.formats.lora import LoraFormat
from auditor.checkpoints.pairing import pair
from auditor.diffusion import schedules
from auditor.errors import AuditError, CheckpointError
from auditor.lab.fixture import Fixture
from auditor.lab.grammar import Grammar


@pytest.fixture(scope="session")
def cases(tmp_path_factory) -> dict[str, Case]:
    """One series per format, made once."""
    root = tmp_path_factory.mktemp("formats")
    base = trained.stable_diffusion(root / "base")
    plain = root / "plain"
    plain.mkdir()
    for step in (2, 4):
        torch.manual_seed(step)
        torch.save({"model": trained.TinyNet().state_dict(), "step": step}, plain / f"net_{step}.pt")
    on_base = ModelSettings(base=str(base))
    shaped = ModelSettings(image_shape=SHAPE)
    both = ("ema", "raw")
    trusted = ModelSettings(trust_pickle=True)
    return {
        "diffusers": Case(trained.fine_tuned(root / "diffusers", base, 1), on_base),
        "denoising-diffusion-pytorch": Case(
            trained.denoising_diffusion_pytorch(root / "lucid"), steps=(2, 4), kinds=both
        ),
        "dit": Case(copied(FIXTURES / "dit", root / "dit"), steps=(2,), kinds=both),
        "monai": Case(trained.monai(root / "monai"), shaped, steps=(1, 2), unit="epoch"),
        "lora": Case(trained.lora(root / "lora", base, 1), on_base),
        "edm": Case(trained.edm(root / "edm"), trusted, steps=(0, 2500), unit="kimg", kinds=("ema",)),
        "lab": Case(blends(root / "lab")),
        "plain": Case(plain, replace(shaped, model=FACTORY), "ddpm"),
        "diffusers: train_unconditional": Case(
            FIXTURES / "train_unconditional", steps=(4, 6), kinds=("raw", "ema"), shape=(8, 8, 3)
        ),
        "lora: train_text_to_image_lora": Case(FIXTURES / "text_to_image_lora", on_base),
        "lora: kohya": Case(FIXTURES / "kohya", on_base),
        "lora: ai-toolkit": Case(FIXTURES / "ai-toolkit", on_base),
        "edm: EDM2": Case(trained.edm2(root / "edm2"), trusted, steps=(0, 1048), unit="kimg", kinds=("ema",)),
        "edm: EDM2, latents": Case(
            trained.edm2(root / "edm2-latents", latents=True),
            replace(trusted, autoencoder=str(trained.autoencoder(root / "autoencoder"))),
            steps=(0, 1048),
            unit="kimg",
            kinds=("ema",),
            shape=(16, 16, 1),
        ),
        "plain: the paper's": Case(
            FIXTURES / "paper", replace(shaped, model="trained:OneLevelUnet"), "ddpm", steps=(10,), unit="epoch"
        ),
    }


def blends(root: Path) -> Path:
    """Write two exact denoisers of 8 letters out of 8."""
    fixture = Fixture(Grammar(q=8, depth=3), n_train=20, taus=(2, 4))
    fixture.write(root)
    return root / "a"


@pytest.fixture
def case(request, cases, tmp_path) -> Case:
    """A copy of a format's series that a test may damage."""
    found = cases[request.param]
    return replace(found, root=copied(found.root, tmp_path / "series"))


def loaded(name: str, case: Case, at: int = 0, kind: str | None = None):
    checkpoint = checkpoint_of(name, case, at, kind)
    config = scheduler_config(checkpoint, case.scheduler, case.settings)
    return load(checkpoint, config, "cpu", case.settings)


def random_input(model, n: int = 2):
    height, width, channels = model.x_shape
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------------
# The contract of every format in the registry
# ---------------------------------------------------------------------------

WRITTEN = (  # by trainers that no test can run: kept in tests/fixtures, or of networks of the same structure
    *("diffusers: train_unconditional", "lora: train_text_to_image_lora", "lora: kohya", "lora: ai-toolkit"),
    *("plain: the paper's", "edm: EDM2", "edm: EDM2, latents"),
)
EVERY = pytest.mark.parametrize(
    ("name", "case"), [(each.partition(":")[0], each) for each in (*registry.FORMATS, *WRITTEN)], indirect=["case"]
)


@EVERY
def test_a_format_finds_the_steps_that_its_trainer_wrote_and_no_other_format_claims_them(name, case):
    discovery = discover(case.root, "a", case.settings)
    assert discovery.format == name
    assert tuple(one.step for one in discovery.found) == case.steps
    assert {one.unit for one in discovery.found} == {case.unit}
    assert all(tuple(one.paths) == case.kinds for one in discovery.found)


@EVERY
def test_a_format_loads_a_deterministic_network_in_float32_and_leaves_the_random_state_alone(name, case):
    checkpoint = checkpoint_of(name, case)
    facts = model_facts(checkpoint, case.settings)
    assert facts.image_shape == case.shape and facts.parameters > 0
    format = open_format(name, case.settings)
    state = torch.get_rng_state()
    checkpoint = replace(checkpoint, digest=format.inspect(checkpoint))
    config = scheduler_config(checkpoint, case.scheduler, case.settings)
    model = load(checkpoint, config, "cpu", case.settings)
    assert torch.equal(torch.get_rng_state(), state)
    x = random_input(model)
    with torch.no_grad():
        first, second = (model.network(x, torch.tensor([5, 40])) for _ in range(2))
    assert first.shape == x.shape and first.dtype == torch.float32 and not first.requires_grad
    assert torch.equal(first, second) and first.isfinite().all()
    assert model.image_shape == case.shape and model.n_parameters > 0
    pictures = np.resize(np.arange(256, dtype=np.uint8), (2, *case.shape))
    assert model.codec.encode(pictures).shape == x.shape
    assert model.codec.decode(x).shape == pictures.shape


@EVERY
def test_different_steps_have_different_digests_and_the_same_file_has_the_same(name, case):
    format = open_format(name, case.settings)
    found = [format.inspect(checkpoint_of(name, case, at)) for at in range(len(case.steps))]
    assert len(set(found)) == len(case.steps)
    assert format.inspect(checkpoint_of(name, case)) == found[0]


@EVERY
def test_a_file_that_changed_after_inspection_is_noticed(name, case):
    checkpoint = replace(checkpoint_of(name, case), digest="0" * 64)
    config = scheduler_config(checkpoint, case.scheduler, case.settings)
    with pytest.raises(CheckpointError, match="changed after"):
        load(checkpoint, config, "cpu", case.settings)


def weight_file(path: Path) -> Path:
    return path if path.is_file() else next(path.glob("*.safetensors"))


@EVERY
@pytest.mark.parametrize("keep", [0, 9, 300, -40])
def test_a_truncated_file_leaves_the_rest_of_the_series(name, case, keep):
    checkpoint = checkpoint_of(name, case)
    path = weight_file(checkpoint.path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(AuditError):
        open_format(name, case.settings).inspect(checkpoint)
    if len(case.steps) > 1:
        assert case.steps[1] in [one.step for one in discover(case.root, "a", case.settings).found]


@EVERY
def test_weights_that_are_not_finite_are_one_bad_checkpoint(name, case):
    checkpoint = checkpoint_of(name, case, kind=case.kinds[-1])
    path = weight_file(checkpoint.path)
    spoil_a_weight(path)
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        open_format(name, case.settings).inspect(checkpoint)


def spoil_a_weight(path: Path) -> None:
    """Write one NaN into the first weight matrix of a file."""
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        first_matrix(tensors).view(-1)[0] = float("nan")
        save_file(tensors, path, {"format": "pt"})
    elif path.suffix == ".pkl":
        content = pickle.loads(path.read_bytes())
        first_matrix(content["ema"].state_dict()).view(-1)[0] = float("nan")
        path.write_bytes(pickle.dumps(content))
    else:
        content = torch.load(path, weights_only=False)
        state = content.get("model", content)
        matrices = {key: one for key, one in state.items() if key.endswith("weight")}
        first_matrix(matrices).view(-1)[0] = float("nan")
        torch.save(content, path)


def first_matrix(state: dict[str, Any]) -> torch.Tensor:
    return next(one for one in state.values() if one.ndim > 1)


# ---------------------------------------------------------------------------
# What each trainer means
# ---------------------------------------------------------------------------


def test_the_network_of_denoising_diffusion_pytorch_is_its_average_with_its_own_schedule(cases, monkeypatch):
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    case = cases["denoising-diffusion-pytorch"]
    checkpoint = checkpoint_of("denoising-diffusion-pytorch", case, 1, "ema")
    whole = torch.load(checkpoint.path, weights_only=True)
    arguments = {**trained.UNET, "dim_mults": tuple(trained.UNET["dim_mults"])}
    theirs = GaussianDiffusion(Unet(**arguments), image_size=8, timesteps=50).eval()
    prefix = "ema_model."
    state = {key.removeprefix(prefix): one for key, one in whole["ema"].items() if key.startswith(prefix)}
    theirs.load_state_dict(state)
    model = loaded("denoising-diffusion-pytorch", case, 1, "ema")
    forward = schedules.forward_process(model.scheduler)
    torch.testing.assert_close(forward.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-5, atol=1e-7)
    assert model.scheduler["prediction_type"] == "v_prediction"  # its default objective
    x, t = random_input(model), torch.tensor([3, 40])
    with torch.no_grad():
        assert torch.equal(model.network(x, t), theirs.model(x, t))
        x0, eps = random_input(model), random_input(model).flip(0)
        torch.testing.assert_close(forward.get_velocity(x0, eps, t), theirs.predict_v(x0, t, eps), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize(
    ("objective", "kind"), [("pred_noise", "epsilon"), ("pred_x0", "sample"), ("pred_v", "v_prediction")]
)
@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
def test_what_that_trainer_predicts_follows_from_its_loss_weights(objective, kind, clipped, schedule):
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    from auditor.checkpoints.formats.denoising_diffusion_pytorch import predicted

    network = Unet(8, dim_mults=(1,), channels=1)
    options = {"objective": objective, "min_snr_loss_weight": clipped, "beta_schedule": schedule}
    theirs = GaussianDiffusion(network, image_size=8, timesteps=100, **options)
    found = predicted(theirs.alphas_cumprod.double().numpy(), theirs.loss_weight.double().numpy(), Path("x"))
    assert found == kind


def test_the_steps_of_that_trainer_are_those_in_the_file_not_the_milestones(cases):
    names = {one.step: one.paths["ema"].name for one in discover(cases["denoising-diffusion-pytorch"].root, "a").found}
    assert names == {2: "model-1.pt", 4: "model-2.pt"}


def test_without_the_arguments_of_the_network_the_error_says_how_to_give_them(cases, tmp_path):
    root = copied(cases["denoising-diffusion-pytorch"].root, tmp_path / "a")
    (root / "model.json").unlink()
    with pytest.raises(CheckpointError, match="--model-config FILE"):
        model_facts(checkpoint_of("denoising-diffusion-pytorch", Case(root)))


@pytest.mark.parametrize("short", ["dit", "sit"])
def test_a_converted_transformer_returns_what_the_original_class_returned(short):
    """At late times a diffusers transformer with its own time embedding would differ by more than 100 %."""
    case = Case(FIXTURES / short, steps=(2,))
    model = loaded("dit", case, kind="ema")
    reference = {name: torch.from_numpy(each) for name, each in np.load(FIXTURES / short / "reference.npz").items()}
    x, t, y, output = (reference[name] for name in ("x", "t", "y", "output"))
    numbers = np.where(y.numpy() == 3, -1, y.numpy())
    format = open_format("dit")
    native = format.load(checkpoint_of("dit", case, kind="ema"), model.scheduler, "cpu").conditioned(numbers, 1.0)
    with torch.no_grad():
        found = native(x, t) if short == "dit" else -native(x, 1 - t)  # a flow has its noise at time 1
    # The reference was computed in float32 on another processor, whose sums round otherwise: by some 2e-5 of the
    # output, which is 2 on average. A wrong time embedding would differ by more than all of it.
    torch.testing.assert_close(found, output[:, :1], rtol=1e-4, atol=1e-4)


def test_dit_and_sit_are_told_apart_by_the_command_line_in_the_file():
    kinds = {}
    for short in ("dit", "sit"):
        checkpoint = checkpoint_of("dit", Case(FIXTURES / short))
        kinds[short] = scheduler_config(checkpoint, None)["prediction_type"]
        facts = model_facts(checkpoint)
        assert (facts.conditioning, facts.n_classes) == ("class", 3)
    assert kinds == {"dit": "epsilon", "sit": "flow"}


def test_guidance_moves_from_no_class_towards_the_class():
    model = loaded("dit", Case(FIXTURES / "dit"), kind="raw")
    x, t = random_input(model), torch.tensor([100, 900])
    numbers = np.array([1, 1])
    with torch.no_grad():
        free, given, guided = (
            model.given(each, scale)(x, t) for each, scale in ((np.array([-1, -1]), 1), (numbers, 1), (numbers, 3))
        )
        assert torch.equal(free, model.network(x, t))
    assert not torch.allclose(free, given)
    torch.testing.assert_close(guided, free + 3 * (given - free))


def test_a_class_that_the_network_lacks_is_an_error():
    model = loaded("dit", Case(FIXTURES / "dit"))
    with pytest.raises(CheckpointError, match="There is no class 3"):
        model.given(np.array([3]))


def test_the_average_of_lightning_is_in_its_state_dict_and_the_raw_weights_beside():
    settings = ModelSettings(model=FACTORY, image_shape=SHAPE)
    case = Case(FIXTURES / "lightning", settings, "ddpm")
    whole = torch.load(next(case.root.glob("*.ckpt")), weights_only=True)
    for kind, place in (("ema", "state_dict"), ("raw", "current_model_state")):
        found = loaded("plain", case, kind=kind)
        network = trained.TinyNet()
        network.load_state_dict({key.removeprefix("model."): one for key, one in whole[place].items()})
        x, t = random_input(found), torch.tensor([3, 40])
        with torch.no_grad():
            assert torch.equal(found.network(x, t), network(x, t))
    assert discover(case.root, "a", settings).found[0].step == 2


def test_monai_networks_give_what_monai_gives_and_expect_pictures_in_zero_to_one(cases):
    from monai.networks.nets import DiffusionModelUNet
    from monai.networks.schedulers import DDPMScheduler

    case = cases["monai"]
    checkpoint = checkpoint_of("monai", case, 1)
    theirs = DiffusionModelUNet(**trained.MONAI).eval()
    theirs.load_state_dict(torch.load(checkpoint.path, weights_only=True))
    model = loaded("monai", case, 1)
    x, t = random_input(model), torch.tensor([3, 40])
    with torch.no_grad():
        torch.testing.assert_close(model.network(x, t), theirs(x, timesteps=t))
    scheduler = DDPMScheduler(num_train_timesteps=50)
    found = schedules.forward_process(model.scheduler).alphas_cumprod
    torch.testing.assert_close(found, scheduler.alphas_cumprod, rtol=1e-5, atol=1e-7)
    assert model_facts(checkpoint, case.settings).pixels == (0.0, 1.0)


def test_an_expression_in_a_bundle_of_monai_is_never_evaluated(cases, tmp_path):
    root = copied(cases["monai"].root, tmp_path / "a")
    whole = {"network_def": {**trained.MONAI, "channels": "$__import__('os').mkdir('executed')"}}
    (root / "network.json").write_text(json.dumps(whole))
    with pytest.raises(CheckpointError, match="is the expression"):
        model_facts(checkpoint_of("monai", Case(root)), cases["monai"].settings)


def test_lora_files_of_diffusers_and_of_kohya_from_one_training_give_one_network(cases, tmp_path):
    case = cases["lora"]
    base = Path(case.settings.base)
    kohya = replace(case, root=trained.lora(tmp_path / "kohya", base, 1, layout="kohya"))
    models = [loaded("lora", each, 1) for each in (case, kohya)]
    plain = loaded("diffusers", Case(fresh(base, tmp_path), case.settings))
    x, t = random_input(models[0]), torch.tensor([3, 400])
    with torch.no_grad():
        first, second, without = (each.network(x, t) for each in (*models, plain))
    assert torch.equal(first, second) and not torch.allclose(first, without)
    assert [one.step for one in discover(kohya.root, "a", case.settings).found] == [2, 4]  # ss_steps, not the epoch
    assert model_facts(checkpoint_of("lora", kohya), case.settings).notes == ("LoRA of rank 2 and alpha 2: scale 1.",)


def fresh(base: Path, tmp_path: Path) -> Path:
    return copied(base / "unet", tmp_path / "series" / "checkpoint-1" / "unet").parent.parent


def test_lora_weights_without_their_base_are_not_audited_and_the_reason_says_what_to_give(cases):
    with pytest.raises(AuditError, match="--base FOLDER"):
        discover(cases["lora"].root, "a")


def test_what_the_training_script_of_diffusers_wrote_is_read_as_it_lies(cases):
    from diffusers import UNet2DModel

    case = cases["diffusers: train_unconditional"]
    discovery = discover(case.root, "a")
    assert [(one.path.name, one.reason) for one in discovery.excluded] == [("unet", "no step in its name")]
    assert {one.scheduler for one in discovery.found} == {case.root / "scheduler" / "scheduler_config.json"}
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 400])
    for kind, folder in (("raw", "checkpoint-6/unet"), ("ema", "unet")):  # it ends by saving the average of that step
        theirs = UNet2DModel.from_pretrained(case.root / folder).eval()
        with torch.no_grad():
            assert torch.equal(loaded("diffusers", case, 1, kind).network(x, t), theirs(x, t).sample)


def test_beside_a_lora_the_state_of_accelerate_and_the_last_file_are_no_further_checkpoints(cases, tmp_path):
    case = cases["lora: train_text_to_image_lora"]
    root = copied(case.root, tmp_path / "face-3")  # a number in the name of the folder is no step
    discovery = discover(root, "a", case.settings)
    assert [one.paths["raw"].name for one in discovery.found] == ["pytorch_lora_weights.safetensors"] * 2
    assert (root / "checkpoint-2" / "model.safetensors").is_file()
    last = (root / "pytorch_lora_weights.safetensors", "no step in its name, nor in it")
    assert [(one.path, one.reason) for one in discovery.excluded] == [last]


@pytest.mark.parametrize(("trainer", "scale"), [("kohya", "alpha 1: scale 0.25"), ("ai-toolkit", "alpha 4: scale 1")])
def test_a_lora_changes_the_base_by_alpha_over_rank_times_up_times_down(trainer, scale, cases):
    case = cases[f"lora: {trainer}"]
    case = replace(case, settings=replace(case.settings, prompts=("a cat", "a dog")))
    assert scale in model_facts(checkpoint_of("lora", case, 1), case.settings).notes[0]
    pipeline = by_hand(case.settings.base, load_file(checkpoint_of("lora", case, 1).path))
    model = loaded("lora", case, 1)
    x, t = random_input(model), torch.tensor([3, 400])
    prompts, _ = pipeline.encode_prompt(["a cat", "a dog"], "cpu", 1, False)
    with torch.no_grad():
        expected = pipeline.unet(x, t, prompts).sample
        torch.testing.assert_close(model.given(np.array([0, 1]))(x, t), expected, rtol=1e-4, atol=1e-5)


def two_alphas(layers: list[str], tensors: dict[str, torch.Tensor]) -> None:
    tensors.update({f"{one}.alpha": torch.tensor(3.0) for one in layers[::2]})


def one_other_alpha(layers: list[str], tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{layers[-1]}.alpha"] = torch.tensor(2, dtype=torch.int64)


def alphas_missing(layers: list[str], tensors: dict[str, torch.Tensor]) -> None:
    for one in layers[1::2]:
        del tensors[f"{one}.alpha"]


def all_alphas_missing(layers: list[str], tensors: dict[str, torch.Tensor]) -> None:
    for one in layers:
        del tensors[f"{one}.alpha"]


def other_ranks(layers: list[str], tensors: dict[str, torch.Tensor]) -> None:
    for one in layers[::3]:
        tensors[f"{one}.lora_down.weight"] = tensors[f"{one}.lora_down.weight"][:3].clone()
        tensors[f"{one}.lora_up.weight"] = tensors[f"{one}.lora_up.weight"][:, :3].clone()


def other_ranks_without_alphas(layers: list[str], tensors: dict[str, torch.Tensor]) -> None:
    other_ranks(layers, tensors)
    all_alphas_missing(layers, tensors)


def in_bfloat16(layers: list[str], tensors: dict[str, torch.Tensor]) -> None:
    other_ranks(layers, tensors)
    two_alphas(layers, tensors)
    tensors.update({name: one.bfloat16() for name, one in tensors.items()})


def in_float16(layers: list[str], tensors: dict[str, torch.Tensor]) -> None:
    alphas_missing(layers, tensors)
    tensors.update({name: one.half() for name, one in tensors.items()})


def convolutions(layers: list[str], tensors: dict[str, torch.Tensor]) -> None:
    tensors["lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight"] = torch.randn(2, 4, 3, 3)
    tensors["lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight"] = torch.randn(4, 2, 1, 1)
    tensors["lora_unet_down_blocks_0_resnets_0_conv1.alpha"] = torch.tensor(5.0)


CHANGES = (two_alphas, one_other_alpha, alphas_missing, all_alphas_missing, other_ranks, other_ranks_without_alphas)
CHANGES += (in_bfloat16, in_float16, convolutions)


@pytest.mark.parametrize("change", CHANGES)
def test_every_layer_of_a_lora_is_loaded_at_the_scale_of_its_own_alpha(change, cases, tmp_path):
    settings = cases["lora: kohya"].settings
    tensors = load_file(FIXTURES / "kohya" / "face.safetensors")
    of_unet, of_text = (
        [n.removesuffix(".alpha") for n in tensors if n.startswith(one) and n.endswith(".alpha")]
        for one in ("lora_unet_", "lora_te_")
    )
    for layers in (of_unet, of_text):
        change(layers, tensors)
    save_file(tensors, tmp_path / "face-000001.safetensors", {**KOHYA, "ss_steps": "2"})
    case = Case(tmp_path, settings)
    assert_merged(case, by_hand(settings.base, tensors))


def test_without_alphas_the_settings_of_peft_in_the_header_give_the_scale(cases, tmp_path):
    settings = cases["lora"].settings
    (source,) = trained.lora(tmp_path / "peft", Path(settings.base), 1, (2,)).glob("*/*.safetensors")
    (same,) = trained.lora(tmp_path / "kohya", Path(settings.base), 1, (2,), "kohya").iterdir()
    stated = {"unet.r": 2, "unet.lora_alpha": 8, "unet.target_modules": ["to_k", "to_q", "to_v", "to_out.0"]}
    save_file(load_file(source), source, {"lora_adapter_metadata": json.dumps(stated)})
    case = Case(tmp_path / "peft", settings)
    assert model_facts(checkpoint_of("lora", case), settings).notes == ("LoRA of rank 2 and alpha 8: scale 4.",)
    of_alpha_8 = {name: torch.tensor(8.0) if name.endswith(".alpha") else one for name, one in load_file(same).items()}
    assert_merged(case, by_hand(settings.base, of_alpha_8))
    save_file(load_file(source), source, {"ss_network_dim": "2", "ss_network_alpha": "8"})  # which no loader follows
    (said,) = model_facts(checkpoint_of("lora", case), settings).notes
    assert said == "LoRA of rank 2; the file states no alpha, so its scale is taken as 1."
    assert_merged(case, by_hand(settings.base, {name: one for name, one in of_alpha_8.items() if one.ndim}))


LAYER = "lora_unet_mid_block_attentions_0_proj_in"
WITHOUT_SCALE = {
    "rank 4 and alpha nan": ({f"{LAYER}.alpha": torch.tensor(float("nan"))}, {}),
    "rank 4 and alpha inf": ({f"{LAYER}.alpha": torch.tensor(float("inf"))}, {}),
    "rank 0 and alpha 1.0": ({f"{LAYER}.lora_down.weight": torch.zeros(0, 8)}, {}),
    "rank 4 and alpha NaN": ({}, {"unet.r": 4, "unet.lora_alpha": float("nan")}),
    "rank 0 and alpha 4": ({}, {"unet.r": 0, "unet.lora_alpha": 4}),
    "rank None and alpha 4": ({}, {"unet.lora_alpha": 4}),
    "rank 'x' and alpha 4": ({}, {"unet.r": "x", "unet.lora_alpha": 4}),
}


@pytest.mark.parametrize("said", WITHOUT_SCALE)
def test_a_lora_whose_rank_and_alpha_give_no_scale_is_left_out_and_says_so(said, cases, tmp_path):
    more, stated = WITHOUT_SCALE[said]
    tensors = {**load_file(FIXTURES / "kohya" / "face.safetensors"), **more}
    if stated:
        tensors = {name: one for name, one in tensors.items() if not name.endswith(".alpha")}
    save_file(tensors, tmp_path / "face-000001.safetensors", {"lora_adapter_metadata": json.dumps(stated)})
    with pytest.raises(AuditError, match=f"{said.replace('NaN', 'nan')}: no scale follows"):
        discover(tmp_path, "a", cases["lora: kohya"].settings)


def assert_merged(case: Case, expected: Any) -> None:
    """Compare every weight that is loaded, with the LoRA in it, with that of a pipeline."""
    *networks, _ = LoraFormat(case.settings)._loaded(checkpoint_of("lora", case), "cpu")
    for network, theirs in zip(networks, (expected.unet, expected.text_encoder), strict=True):
        found = dict(network.named_modules())
        for name, module in theirs.named_modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                mine = found[name]
                weight = mine.weight + (mine.get_delta_weight("audited") if hasattr(mine, "lora_A") else 0)
                torch.testing.assert_close(weight, module.weight, rtol=1e-5, atol=1e-6)


KOHYA = {  # what its header keeps with --no_metadata
    "ss_v2": "False",
    "ss_base_model_version": "sd_v1",
    "ss_network_module": "networks.lora",
    "ss_network_dim": "4",
    "ss_network_alpha": "1.0",
    "modelspec.prediction_type": "epsilon",
}


def saved(root: Path, names: dict[str, dict[str, str]], **more: torch.Tensor) -> Path:
    """Save kohya's weights under names and with headers."""
    for name, header in names.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        save_file({**load_file(FIXTURES / "kohya" / "face.safetensors"), **more}, root / name, header)
    return root


def test_without_metadata_the_files_of_kohya_are_counted_in_epochs(cases, tmp_path):
    names = ("face-000001.safetensors", "face-000002.safetensors", "face.safetensors")
    discovery = discover(saved(tmp_path, dict.fromkeys(names, KOHYA)), "a", cases["lora: kohya"].settings)
    assert [(one.step, one.unit) for one in discovery.found] == [(1, "epoch"), (2, "epoch")]
    assert [(one.path.name, one.reason) for one in discovery.excluded] == [
        ("face.safetensors", "no step in its name, nor in it")
    ]


def test_of_two_files_of_kohya_at_one_step_that_named_by_the_step_is_taken_and_states_are_passed_over(cases, tmp_path):
    steps = {"face-000001": 100, "face-000002": 200, "face-step00000100": 100, "face-step00000150": 150, "face": 250}
    files = {f"{name}.safetensors": {**KOHYA, "ss_steps": str(step)} for name, step in steps.items()}
    files["face-step00000100-state/model.safetensors"] = {}
    discovery = discover(saved(tmp_path, files), "a", cases["lora: kohya"].settings)
    assert {one.step: one.paths["raw"].stem for one in discovery.found} == {
        100: "face-step00000100",
        150: "face-step00000150",
        200: "face-000002",
        250: "face",
    }
    assert [one.path.stem for one in discovery.excluded] == ["face-000001"]


def test_files_called_like_a_state_are_read_and_folders_called_so_are_passed_over(cases, tmp_path):
    files = {f"step-{step}-state.safetensors": {**KOHYA, "ss_steps": str(step)} for step in (100, 200)}
    root = saved(tmp_path, {**files, "step-00000300-state/model.safetensors": {}})
    discovery = discover(root, "a", cases["lora: kohya"].settings)
    assert [one.step for one in discovery.found] == [100, 200] and not discovery.excluded
    with pytest.raises(AuditError, match="step-100-state.safetensors and .* these may be the weights of a network"):
        discover(root, "a", ModelSettings(format="plain"))


@pytest.mark.parametrize(
    "name", ["emb_params", "lora_unet_x.scalar", "lora_unet_x.dora_scale", "lora_unet_x.hada_w1_a"]
)
def test_what_is_no_lora_or_more_than_one_is_refused_by_name(name, cases, tmp_path):
    saved(tmp_path / "more", {"face-000001.safetensors": KOHYA}, **{name: torch.zeros(2, 2)})
    with pytest.raises(AuditError, match=f"{name} is no weight of a LoRA.*--samples-a"):
        discover(tmp_path / "more", "a", cases["lora: kohya"].settings)


def test_lora_of_lycoris_alone_is_refused_as_such(cases, tmp_path):
    weights = {f"lora_unet_mid_block.hada_w{i}": torch.zeros(2, 2) for i in ("1_a", "1_b", "2_a", "2_b")}
    save_file({**weights, "lora_unet_mid_block.alpha": torch.tensor(1.0)}, tmp_path / "face-000001.safetensors", KOHYA)
    with pytest.raises(AuditError, match=r"hada_w1_a and 3 more are no weights of a LoRA"):
        discover(tmp_path, "a", cases["lora: kohya"].settings)


def test_layers_of_other_rank_and_alpha_are_told_apart_and_twins_of_other_scale_refused(cases, tmp_path):
    settings = cases["lora: kohya"].settings
    steps = {"face-000001.safetensors": {**KOHYA, "ss_steps": "2"}}
    convolution = {
        "lora_unet_conv.lora_down.weight": torch.zeros(2, 4, 3, 3),
        "lora_unet_conv.lora_up.weight": torch.zeros(4, 2, 1, 1),
        "lora_unet_conv.alpha": torch.tensor(1.0, dtype=torch.bfloat16),
    }
    mixed = Case(saved(tmp_path / "mixed", steps, **convolution), settings)
    (said,) = model_facts(checkpoint_of("lora", mixed), settings).notes
    assert said == ("LoRA of rank 4 and alpha 1: scale 0.25 (54 layers); of rank 2 and alpha 1: scale 0.5 (1 layer).")
    saved(tmp_path / "a", steps)
    strong = {name: one * 4 for name, one in load_file(tmp_path / "a" / "face-000001.safetensors").items()}
    saved(tmp_path / "b", steps, **{name: one for name, one in strong.items() if name.endswith(".alpha")})
    twins = pair(*(discover(tmp_path / twin, twin, settings) for twin in "ab"))
    said = (
        "differ in lora: 'LoRA of rank 4 and alpha 1: scale 0.25.' at a/step-2, 'LoRA of rank 4 and alpha 4: scale 1.'"
    )
    with pytest.raises(AuditError, match=said):
        check_compatible(twins, None, settings)


def test_prompts_skip_the_layers_and_noise_ends_as_the_header_of_kohya_says(tmp_path):
    from diffusers import StableDiffusionPipeline

    base = trained.stable_diffusion(tmp_path / "base", text_layers=3)
    settings = ModelSettings(base=str(base), prompts=("a cat", "a dog"))
    header = {"ss_clip_skip": "2", "ss_zero_terminal_snr": "True", "modelspec.prediction_type": "v"}
    case = Case(trained.lora(tmp_path / "a", base, 1, (2,), "kohya", **header), settings)
    plain = Case(trained.lora(tmp_path / "b", base, 1, (2,), "kohya"), settings)
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipeline.load_lora_weights(load_file(checkpoint_of("lora", case).path))
    model, whole = loaded("lora", case), loaded("lora", plain)
    assert "clip skip 2" in model_facts(checkpoint_of("lora", case), settings).notes[1]
    assert (model.scheduler["prediction_type"], model.scheduler["rescale_betas_zero_snr"]) == ("v_prediction", True)
    assert schedules.forward_process(model.scheduler).alphas_cumprod[-1] < 1e-6
    tokens = pipeline.tokenizer(["a cat", "a dog"], padding="max_length", max_length=8, return_tensors="pt").input_ids
    x, t = random_input(model), torch.tensor([3, 400])
    with torch.no_grad():
        last = pipeline.text_encoder(tokens, output_hidden_states=True)
        skipped = pipeline.text_encoder.final_layer_norm(last.hidden_states[-2])
        for found, prompts in ((model, skipped), (whole, last[0])):
            expected = pipeline.unet(x, t, prompts).sample
            torch.testing.assert_close(found.given(np.array([0, 1]))(x, t), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(skipped, last[0], atol=1e-2)
    with pytest.raises(CheckpointError, match="has 3 layers, and the training skipped 4"):
        loaded("lora", Case(trained.lora(tmp_path / "c", base, 1, (2,), "kohya", ss_clip_skip="5"), settings))


def by_hand(base: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Return the pipeline with the changes of a file of kohya added to its weights."""
    from diffusers import StableDiffusionPipeline

    pipeline, left = StableDiffusionPipeline.from_pretrained(base, safety_checker=None), dict(tensors)
    merge(left, {f"lora_unet_{name}": each for name, each in pipeline.unet.named_modules()})
    encoders = {name.removeprefix("text_model."): each for name, each in pipeline.text_encoder.named_modules()}
    merge(left, {f"lora_te_text_model_{name}": each for name, each in encoders.items()})
    assert not left
    return pipeline


def merge(tensors: dict[str, torch.Tensor], modules: dict[str, torch.nn.Module]) -> None:
    """Add the changes that a file has for these modules to their weights, and take them out of it."""
    for name, module in modules.items():
        name = name.replace(".", "_")
        if f"{name}.lora_down.weight" in tensors:
            up, down = (tensors.pop(f"{name}.lora_{part}.weight").float() for part in ("up", "down"))
            alpha = tensors.pop(f"{name}.alpha", torch.tensor(len(down))).float()  # without: scale 1
            change = alpha / len(down) * up.flatten(1) @ down.flatten(1)
            module.weight.data += change.view_as(module.weight)


def test_the_authors_weights_are_found_below_their_folder_and_give_what_their_class_gave(cases):
    case = cases["plain: the paper's"]
    assert discover(case.root, "a", case.settings).root == case.root / "Models"
    reference = {name: torch.from_numpy(each) for name, each in np.load(case.root / "reference.npz").items()}
    with torch.no_grad():
        found = loaded("plain", case).network(reference["x"], reference["t"])
    torch.testing.assert_close(found, reference["output"], rtol=1e-4, atol=1e-5)


def test_a_stable_diffusion_series_is_encoded_and_decoded_by_the_autoencoder_of_its_base(cases):
    from diffusers import AutoencoderKL

    model = loaded("diffusers", cases["diffusers"])
    assert model.latent_shape == (4, 4, 4) and model.image_shape == SHAPE
    theirs = AutoencoderKL.from_pretrained(Path(cases["diffusers"].settings.base) / "vae").eval()
    pictures = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 1), dtype=np.uint8)
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        latents = theirs.encode(x).latent_dist.mode() * theirs.config.scaling_factor
        picture = (theirs.decode(latents / theirs.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(model.codec.encode(pictures), latents)
    found = model.codec.decode(latents)
    assert np.abs(found - (picture.permute(0, 2, 3, 1) * 255).round().numpy()).max() <= 1


def test_a_prompt_is_encoded_as_the_pipeline_encodes_it(cases):
    from diffusers import StableDiffusionPipeline

    case = cases["diffusers"]
    case = replace(case, settings=replace(case.settings, prompts=("a cat", "dog")))
    model = loaded("diffusers", case)
    checkpoint = checkpoint_of("diffusers", case)
    pipeline = StableDiffusionPipeline.from_pretrained(case.settings.base, safety_checker=None)
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(checkpoint.path).eval()
    x, t = random_input(model), torch.tensor([3, 400])
    prompts, empty = pipeline.encode_prompt(["a cat", "dog"], "cpu", 1, True)
    with torch.no_grad():
        with_prompt, without = (unet(x, t, each, return_dict=False)[0] for each in (prompts, empty))
        found = model.given(np.array([0, 1]), 7.5)(x, t)
        assert torch.allclose(model.network(x, t), without, atol=1e-6)
    torch.testing.assert_close(found, without + 7.5 * (with_prompt - without), rtol=1e-4, atol=1e-5)


def test_a_pickle_of_edm_is_read_only_when_trusted_and_gives_its_denoiser(cases):
    case = cases["edm"]
    with pytest.raises(AuditError, match=r"it calls trained\.Denoiser.*--trust-pickle"):
        discover(case.root, "a")
    model = loaded("edm", case)
    theirs = pickle.loads((case.root / "network-snapshot-000000.pkl").read_bytes())["ema"]
    x, t = random_input(model), torch.tensor([700, 400])
    abar = schedules.forward_process(model.scheduler).alphas_cumprod[t].double()
    sigma = ((1 - abar) / abar).sqrt().float()
    a, s = (each.sqrt().float().view(-1, 1, 1, 1) for each in (abar, 1 - abar))
    with torch.no_grad():
        denoised = theirs(x / a, sigma)
        v = model.network(x, t)
    torch.testing.assert_close(a * x - s * v, denoised, rtol=1e-3, atol=1e-4)


def test_of_equally_many_averages_of_edm2_those_whose_names_state_a_width_are_audited(cases, tmp_path):
    case = cases["edm: EDM2"]
    for path in case.root.glob("*.pkl"):
        (tmp_path / path.name.replace("-0.100", "")).symlink_to(path)
    discovery = discover(tmp_path, "a", case.settings)
    assert all(one.paths["ema"].stem.endswith("-0.050") for one in discovery.found)
    assert len(discovery.found) == len(discovery.excluded) == 2


def test_of_two_averages_of_edm2_at_each_step_the_narrower_is_audited(cases, tmp_path):
    case = cases["edm: EDM2"]
    discovery = discover(case.root, "a", case.settings)
    names = [f"network-snapshot-{kimg}-0.{{}}.pkl" for kimg in ("0000000", "0001048")]
    assert [one.paths["ema"].name for one in discovery.found] == [name.format("050") for name in names]
    assert [one.path.name for one in discovery.excluded] == [name.format("100") for name in names]
    assert "averages of width 0.050 are audited" in discovery.excluded[0].reason
    assert model_facts(checkpoint_of("edm", case), case.settings).model == "Denoiser, average 0.050"
    wide = tmp_path / "wide"  # as the reason says
    wide.mkdir()
    for path in case.root.glob("*-0.100.pkl"):
        (wide / path.name).symlink_to(path)
    (wide / "phema-0002097-0.085.pkl").symlink_to(next(case.root.glob("*-0.100.pkl")))
    other = discover(wide, "b", case.settings)
    assert [one.step for one in other.found] == [0, 1048]
    assert [(one.step, one.path.name) for one in other.excluded] == [(2097, "phema-0002097-0.085.pkl")]
    with pytest.raises(AuditError, match=r"differ in model: 'Denoiser, average 0.050'.*'Denoiser, average 0.100'"):
        check_compatible(pair(discovery, other), None, case.settings)


def test_the_denoiser_of_edm2_is_asked_in_full_precision_and_takes_classes_one_hot(tmp_path):
    case = Case(trained.edm2(tmp_path / "a", label_dim=3), ModelSettings(trust_pickle=True))
    checkpoint = checkpoint_of("edm", case, 1)
    theirs = pickle.loads(checkpoint.path.read_bytes()).ema
    assert theirs.model.first.weight.dtype == torch.float16 and theirs.use_fp16
    theirs = theirs.float()
    theirs.use_fp16 = False
    format = open_format("edm", case.settings)
    model = format.load(checkpoint, format.schedule(checkpoint), "cpu")
    x, sigma = 3 * random_input(model, 4), torch.tensor([0.002, 0.5, 2.0, 80.0])
    one_hot = torch.cat([torch.eye(3), torch.zeros(1, 3)])
    with torch.no_grad():
        found = model.given(np.array([2, 0, 1, -1]))(x, sigma)
        assert torch.equal(found, theirs(x, sigma, one_hot[[2, 0, 1, 3]]))


def test_latents_of_edm2_are_those_of_its_encoder_on_pictures_in_zero_to_one(cases):
    from diffusers import AutoencoderKL

    case = cases["edm: EDM2, latents"]
    model, encoder = loaded("edm", case), trained.OfLatents()
    assert model.latent_shape == (8, 8, 4)
    theirs = AutoencoderKL.from_pretrained(case.settings.autoencoder).eval()
    pictures = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 1), dtype=np.uint8)
    scale, bias = (torch.from_numpy(one).view(1, -1, 1, 1) for one in (encoder.scale, encoder.bias))
    with torch.no_grad():
        latents = theirs.encode(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255).latent_dist.mode() * scale + bias
        picture = theirs.decode((latents - bias) / scale).sample.clamp(0, 1) * 255
    torch.testing.assert_close(model.codec.encode(pictures), latents)
    assert np.abs(model.codec.decode(latents) - picture.permute(0, 2, 3, 1).round().numpy()).max() <= 1
    without = replace(case, settings=ModelSettings(trust_pickle=True))
    with pytest.raises(CheckpointError, match=r"(?s)takes 4 channels, so it draws latents.*--autoencoder FOLDER"):
        loaded("edm", without)


def test_a_trusted_pickle_whose_code_is_not_there_says_where_to_start_the_audit(tmp_path, monkeypatch):
    root, absent = tmp_path / "a", tmp_path / "absent"
    absent.mkdir()
    (absent / "code_of_edm.py").write_text("from trained import Denoiser as Base\nclass Denoiser(Base): pass\n")
    monkeypatch.syspath_prepend(absent)
    import code_of_edm

    monkeypatch.setattr(trained, "Denoiser", code_of_edm.Denoiser)
    trained.edm(root)
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "code_of_edm")
    case = Case(root, ModelSettings(trust_pickle=True))
    with pytest.raises(CheckpointError, match=r"No module named 'code_of_edm'; start the audit in the folder"):
        loaded("edm", case)


# ---------------------------------------------------------------------------
# Bare weights
# ---------------------------------------------------------------------------

PLAIN = ModelSettings(model=FACTORY, image_shape=SHAPE)
NET = trained.TinyNet()


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in NET.state_dict().items()}


LAYOUTS = {
    "a bare state dict": lambda: prefixed(""),
    "module.": lambda: prefixed("module."),
    "_orig_mod.": lambda: prefixed("_orig_mod."),
    "both": lambda: prefixed("module._orig_mod."),
    "model": lambda: {"model": prefixed(""), "optimizer": {"state": {}}, "epoch": 3},
    "state_dict of lightning": lambda: {"state_dict": {**prefixed("model."), "loss.scale": torch.ones(1)}},
    "model_state_dict": lambda: {"model_state_dict": prefixed("module.")},
    "half precision": lambda: {name: one.half() for name, one in prefixed("").items()},
}


@pytest.mark.parametrize("folder", ["checkpoint_{}", "step_{}", "epoch_{}", "{}"])
def test_the_states_that_accelerate_saves_per_step_are_read(folder, tmp_path):
    for step in (0, 1):  # checkpoints/checkpoint_0 where accelerate names them itself
        state = tmp_path / "checkpoints" / folder.format(step)
        state.mkdir(parents=True)
        save_file(prefixed(""), state / "model.safetensors")
        torch.save({"state": {}}, state / "optimizer.bin")
    assert [one.step for one in discover(tmp_path, "a", PLAIN).found] == [0, 1]
    assert loaded("plain", Case(tmp_path, PLAIN, "ddpm"), 1).n_parameters
    for path in tmp_path.glob("checkpoints/*/model.safetensors"):
        path.rename(path.with_name("model-00001-of-00002.safetensors"))
    with pytest.raises(AuditError, match=r"its weights are in shards, which are not read: .* there is model-00001"):
        discover(tmp_path / "checkpoints", "a", PLAIN)


SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", "")


@pytest.mark.parametrize(
    ("layout", "suffix"), [(each, ".pt") for each in LAYOUTS] + [("model", s) for s in SUFFIXES[1:]]
)
def test_bare_weights_are_found_under_every_usual_key_prefix_and_suffix(layout, suffix, tmp_path):
    torch.save(LAYOUTS[layout](), tmp_path / f"Model_500{suffix}")
    model = loaded("plain", Case(tmp_path, PLAIN, "ddpm"), kind="raw")
    x, t = random_input(model), torch.tensor([3, 400])
    with torch.no_grad():
        torch.testing.assert_close(model.network(x, t), NET(x, t), rtol=2e-2, atol=2e-3)


AVERAGES = {
    "ema": lambda ema: {"model": prefixed(""), "ema": ema("")},
    "ema_model of ema_pytorch": lambda ema: {
        "model": prefixed(""),
        "ema": {**ema("ema_model."), **prefixed("online_model.")},
    },
    "within one state dict": lambda ema: {"state_dict": {**prefixed("model."), **ema("model_ema.")}},
    "shadow": lambda ema: {"net": prefixed("module."), "model_ema": {"shadow": ema("module."), "decay": 0.99}},
}


@pytest.mark.parametrize("layout", AVERAGES)
def test_averages_are_told_from_raw_weights(layout, tmp_path):
    torch.save(AVERAGES[layout](lambda prefix: {k: v + 1 for k, v in prefixed(prefix).items()}), tmp_path / "net_7.pt")
    case = Case(tmp_path, PLAIN, "ddpm")
    assert set(discover(tmp_path, "a", PLAIN).found[0].paths) == {"ema", "raw"}
    average = trained.TinyNet()
    average.load_state_dict({name: one + 1 for name, one in NET.state_dict().items()})
    for kind, network in (("raw", NET), ("ema", average)):
        model = loaded("plain", case, kind=kind)
        x, t = random_input(model), torch.tensor([3, 400])
        with torch.no_grad():
            assert torch.equal(model.network(x, t), network(x, t))


@pytest.mark.parametrize("layout", AVERAGES)
def test_one_state_dict_without_its_averages_never_switches_a_series_to_raw_weights(layout, tmp_path):
    whole = AVERAGES[layout](lambda prefix: {k: v + 1 for k, v in prefixed(prefix).items()})
    alone = {k: v for k, v in whole.items() if not k.startswith(("ema", "model_ema"))}
    alone |= {"state_dict": prefixed("model.")} if "state_dict" in whole else {}
    for step, content in ((10, whole), (20, alone), (30, whole)):
        torch.save(content, tmp_path / f"net_{step}.pt")
    found = discover(tmp_path, "a", PLAIN)
    with pytest.raises(AuditError, match=r"twin a at 2 of 3 steps \(not at 20\)"):
        pair(found, None)
    assert pair(found, None, steps=[10, 30]).weights == "ema weights"
    for step in (10, 30):
        torch.save(alone, tmp_path / f"net_{step}.pt")
    assert pair(discover(tmp_path, "a", PLAIN), None).weights == "raw weights: no audited checkpoint holds EMA weights"


def test_averages_that_fit_no_network_are_not_taken_for_absent(tmp_path):
    torch.save({"model": prefixed(""), "ema": {k: v for k, v in list(prefixed("").items())[1:]}}, tmp_path / "net_7.pt")
    with pytest.raises(AuditError, match=r"EMA weights are there and cannot be used: .*averages are under ema"):
        pair(discover(tmp_path, "a", PLAIN), None)


def test_twins_whose_networks_differ_in_size_or_scale_pictures_differently_are_refused(cases, tmp_path):
    name = "denoising-diffusion-pytorch"
    a, b = cases[name], copied(cases[name].root, tmp_path / "b")
    arguments = json.loads((b / "model.json").read_text())
    (b / "model.json").write_text(json.dumps(arguments | {"auto_normalize": False}))
    twins = pair(discover(a.root, "a", a.settings), discover(b, "b", a.settings))
    with pytest.raises(AuditError, match=r"differ in pixels: \(-1.0, 1.0\) at a/step-\d+, \(0.0, 1.0\) at b/step"):
        check_compatible(twins, None, a.settings)
    for twin, width in (("c", 8), ("d", 9)):
        (tmp_path / twin).mkdir()
        torch.save(trained.TinyNet(width).state_dict(), tmp_path / twin / "step-1.pt")
    told = ModelSettings(model=FACTORY, image_shape=(8, 8, 1))
    assert discover(tmp_path / "c", "a", told).found
    with pytest.raises(AuditError, match=r"first.bias is \(9,\) in the file and \(8,\) in the network"):
        discover(tmp_path / "d", "b", told)


def test_averages_in_files_of_their_own_belong_to_the_step(tmp_path):
    torch.save(prefixed(""), tmp_path / "model010000.pt")
    torch.save(prefixed(""), tmp_path / "ema_0.9999_010000.pt")
    torch.save({"state": {}}, tmp_path / "opt010000.pt")
    (found,) = discover(tmp_path, "a", PLAIN).found
    assert found.step == 10000 and set(found.paths) == {"ema", "raw"}
    assert loaded("plain", Case(tmp_path, PLAIN, "ddpm"), kind="ema").n_parameters


NAMES = {
    "epoch=9-step=1000.ckpt": (1000, "step"),
    "Model_500": (500, "step"),
    "Model_epoch_3": (3, "epoch"),
    "0050000.pt": (50000, "step"),
    "net_epoch=5.pt": (5, "epoch"),
    "net_iteration=400.pt": (400, "step"),
    "unet-step00001000.safetensors": (1000, "step"),
    "unet_000000250.safetensors": (250, "step"),
    "k_00010000.pth": (10000, "step"),
}


@pytest.mark.parametrize("name", NAMES)
def test_progress_and_its_unit_are_read_from_the_names_that_trainers_give(name, tmp_path):
    if name.endswith(".safetensors"):
        save_file(prefixed(""), tmp_path / name)
    else:
        torch.save(prefixed(""), tmp_path / name)
    (found,) = discover(tmp_path, "a", PLAIN).found
    assert (found.step, found.unit) == NAMES[name]


def test_two_units_in_one_folder_keep_the_one_that_most_files_have(tmp_path):
    for name in ("Model_10", "Model_20", "Model_30", "Model_epoch_1", "Model_epoch_2"):
        torch.save(prefixed(""), tmp_path / name)
    discovery = discover(tmp_path, "a", PLAIN)
    assert [one.step for one in discovery.found] == [10, 20, 30]
    assert {one.reason for one in discovery.excluded} == {
        "it is counted in epochs, and most files here in optimizer steps"
    }


def test_several_series_under_one_folder_are_refused_with_the_choices(tmp_path):
    for version in ("version_0", "version_1"):
        (tmp_path / version / "checkpoints").mkdir(parents=True)
        torch.save(prefixed(""), tmp_path / version / "checkpoints" / "step=5.ckpt")
    with pytest.raises(AuditError, match=r"several series.*: version_0/checkpoints, version_1/checkpoints\."):
        discover(tmp_path, "a", PLAIN)
    shutil.rmtree(tmp_path / "version_1")
    assert discover(tmp_path, "a", PLAIN).found[0].step == 5


def test_the_factory_takes_its_arguments_from_the_model_configuration(tmp_path):
    torch.save(trained.TinyNet(width=5).state_dict(), tmp_path / "net_1.pt")
    (tmp_path / "model.json").write_text('{"width": 5}')
    settings = replace(PLAIN, model_config=str(tmp_path / "model.json"))
    assert loaded("plain", Case(tmp_path, settings, "ddpm")).n_parameters
    with pytest.raises(AuditError, match=r"first.bias is \(5,\) in the file and \(8,\) in the network"):
        loaded("plain", Case(tmp_path, PLAIN, "ddpm"))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("trained", "does not name a factory"),
        ("no_such_module:make", "cannot be imported: ModuleNotFoundError"),
        ("trained:no_such_name", "cannot be imported: AttributeError"),
        ("trained:MONAI", "is no function"),
        ("trained:copied", "cannot be imported"),
        ("trained:autoencoder", "failed: TypeError"),
        ("builtins:dict", "returned dict, not an nn.Module"),
    ],
)
def test_a_factory_that_gives_no_network_is_one_clear_error(factory, message, tmp_path):
    torch.save(prefixed(""), tmp_path / "net_1.pt")
    with pytest.raises(AuditError, match=message):
        loaded("plain", Case(tmp_path, replace(PLAIN, model=factory), "ddpm"))


def test_a_factory_is_imported_from_the_current_directory_which_stays_out_of_the_path(tmp_path, monkeypatch):
    (tmp_path / "my_network_of_this_test.py").write_text("from trained import TinyNet as make\n")
    torch.save(prefixed(""), tmp_path / "net_1.pt")
    monkeypatch.chdir(tmp_path)
    settings = replace(PLAIN, model="my_network_of_this_test:make")
    assert loaded("plain", Case(tmp_path, settings, "ddpm")).n_parameters
    assert str(tmp_path) not in sys.path


def test_twins_of_different_formats_or_units_are_refused(cases):
    a, b = (
        discover(cases[name].root, twin, cases[name].settings) for name, twin in (("diffusers", "a"), ("plain", "b"))
    )
    with pytest.raises(AuditError, match="Twin a is diffusers and twin b is plain"):
        pair(a, b)
    with pytest.raises(AuditError, match="count their progress differently: a in optimizer steps and b in epochs"):
        pair(a, discover(cases["monai"].root, "b"))


# ---------------------------------------------------------------------------
# Folders of diffusers: classes, latents, transformers
# ---------------------------------------------------------------------------


def class_conditional(root: Path, step: int = 1) -> Path:
    """Save a class-conditional network of pixels and its scheduler."""
    from conftest import tiny_unet
    from diffusers import DDPMScheduler, UNet2DModel

    plain = tiny_unet(step)
    torch.manual_seed(step)
    UNet2DModel(**{**plain.config, "num_class_embeds": 3}).save_pretrained(root / f"checkpoint-{step}" / "unet")
    DDPMScheduler().save_pretrained(root / "scheduler")
    return root


def test_a_class_conditional_network_is_called_with_the_class_of_each_row(tmp_path):
    from diffusers import UNet2DModel

    case = Case(class_conditional(tmp_path), steps=(1,))
    model = loaded("diffusers", case)
    theirs = UNet2DModel.from_pretrained(tmp_path / "checkpoint-1" / "unet").eval()
    x, t = random_input(model), torch.tensor([3, 400])
    with torch.no_grad():
        expected = theirs(x, t, class_labels=torch.tensor([2, 0])).sample
        assert torch.equal(model.given(np.array([2, 0]))(x, t), expected)
    with pytest.raises(CheckpointError, match="no class that stands for none"):
        model.network(x, t)
    facts = model_facts(checkpoint_of("diffusers", case))
    assert (facts.conditioning, facts.n_classes, facts.needs_class) == ("class", 3, True)


def test_a_pipeline_of_dit_draws_latents_by_class_and_keeps_the_time_embedding_of_diffusers(tmp_path):
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    trained.autoencoder(tmp_path / "vae")
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=4,
        num_embeds_ada_norm=5,
    ).eval()
    torch.nn.init.normal_(transformer.proj_out_2.weight)
    vae = AutoencoderKL.from_pretrained(tmp_path / "vae")
    scheduler = DDIMScheduler(clip_sample=False)
    DiTPipeline(transformer, vae, scheduler).save_pretrained(tmp_path / "series" / "step-3")
    case = Case(tmp_path / "series")
    model = loaded("diffusers", case)
    assert model.latent_shape == (4, 4, 4) and model.image_shape == SHAPE
    x, t = random_input(model), torch.tensor([3, 700])
    with torch.no_grad():
        expected = transformer(x, t, class_labels=torch.tensor([1, 5])).sample[:, :4]  # 5 stands for no class
        assert torch.equal(model.given(np.array([1, -1]))(x, t), expected)


def test_a_pipeline_of_latent_diffusion_is_decoded_by_its_vqvae(tmp_path):
    from diffusers import DDIMScheduler, LDMPipeline, UNet2DModel, VQModel

    torch.manual_seed(0)
    blocks = {"norm_num_groups": 2, "block_out_channels": (4, 4)}
    vqvae = VQModel(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        **blocks,
    )
    unet = UNet2DModel(
        sample_size=4,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        attention_head_dim=2,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        **blocks,
    )
    LDMPipeline(vqvae, unet, DDIMScheduler(clip_sample=False)).save_pretrained(tmp_path / "series" / "step-3")
    model = loaded("diffusers", Case(tmp_path / "series"))
    assert model.latent_shape == (4, 4, 3) and model.image_shape == SHAPE
    pictures = np.random.default_rng(0).integers(0, 255, (2, 8, 8, 1), dtype=np.uint8)
    with torch.no_grad():
        latents = vqvae.eval().encode(torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1).latents
    torch.testing.assert_close(model.codec.encode(pictures), latents * vqvae.config.scaling_factor)


def test_the_step_that_ai_toolkit_writes_into_its_header_is_read(cases, tmp_path):
    (source,) = [p for p in trained.lora(tmp_path / "a", Path(cases["lora"].settings.base), 1, (2,), "kohya").iterdir()]
    info = {"training_info": json.dumps({"step": 250, "epoch": 3})}
    (tmp_path / "b").mkdir()
    save_file(load_file(source), tmp_path / "b" / "art_000000250.safetensors", info)
    (found,) = discover(tmp_path / "b", "a", cases["lora"].settings).found
    assert (found.step, found.unit) == (250, "step")


# ---------------------------------------------------------------------------
# Whole audits
# ---------------------------------------------------------------------------


def audited(audit_args, audit, tmp_path, a: Path, b: Path, **more: object):
    """Run a small audit of two series and return the report as a record."""
    outcome = audit(*audit_args(ckpts_a=a, ckpts_b=b, spaces="pixel", **more))
    assert outcome.status == 0, outcome.err
    return json.loads((tmp_path / "run" / "run.json").read_text()), outcome


def test_class_conditional_transformers_are_audited_with_one_class_per_seed(audit_args, audit, tmp_path):
    b = copied(FIXTURES / "dit", tmp_path / "b")
    path = b / "0000002.pt"
    content = torch.load(path, weights_only=False)
    content["ema"] = {name: one * 1.1 for name, one in content["ema"].items()}
    torch.save(content, path)
    more = {"labels": "2", "guidance_scale": "2"}
    record, outcome = audited(audit_args, audit, tmp_path, FIXTURES / "dit", b, **more)
    assert record["resolved"]["model"]["conditioning"] == "class" and record["resolved"]["weights"] == "ema"
    key = json.loads((tmp_path / "run" / "samples" / "a" / "2.npy.key.json").read_text())["key"]
    assert key["conditions"] == [0, 1] and key["guidance_scale"] == 2
    assert "the same class per seed" in " ".join(record["notes"])
    outcome = audit("verify", tmp_path / "run")
    assert outcome.status == 0, outcome.err


def test_snapshots_of_edm_are_audited_from_their_first_before_any_training(audit_args, audit, tmp_path):
    a, b = (trained.edm(tmp_path / twin, seed, kimg=(0, 100, 200)) for twin, seed in (("a", 1), ("b", 2)))
    record, outcome = audited(audit_args, audit, tmp_path, a, b, trust_pickle="")
    assert record["scope"]["steps"] == [0, 100, 200] and record["resolved"]["unit"] == "kimg"
    assert "steps are thousand images" in outcome.out


def test_snapshots_of_edm2_are_audited_of_one_width(audit_args, audit, tmp_path):
    a, b = (trained.edm2(tmp_path / twin, seed) for seed, twin in enumerate("ab", 1))
    record, outcome = audited(audit_args, audit, tmp_path, a, b, trust_pickle="")
    assert record["scope"]["steps"] == [0, 1048] and record["resolved"]["model"]["class"] == "Denoiser, average 0.050"
    assert "averages of width 0.050 are audited" in " ".join(outcome.out.split())


def test_where_no_file_is_usable_the_remedy_is_that_of_the_reason(audit_args, audit, tmp_path):
    a, b = (trained.edm2(tmp_path / twin, seed, latents=True) for seed, twin in enumerate("ab", 1))
    outcome = audit(*audit_args(ckpts_a=a, ckpts_b=b, spaces="pixel", trust_pickle=""))
    assert outcome.status == 1 and "a/0 and 3 more: The network takes 4 channels" in outcome.err
    assert "to do: Give the autoencoder of the training: --autoencoder FOLDER." in outcome.err
    assert "Save them again" not in outcome.err


def test_flows_on_pictures_minus_their_mean_are_audited(audit_args, audit, tmp_path):
    for twin, seed in (("a", 1), ("b", 2)):
        (tmp_path / twin).mkdir()
        for epoch in (1, 2):
            torch.manual_seed(10 * seed + epoch)
            torch.save(trained.TinyNet().state_dict(), tmp_path / twin / f"Model_epoch_{epoch}")
    more = {"model": FACTORY, "image_shape": "8x8x1", "prediction": "flow", "pixel_range": "0,1", "pixel_mean": "own"}
    record, outcome = audited(audit_args, audit, tmp_path, tmp_path / "a", tmp_path / "b", **more)
    assert record["resolved"]["unit"] == "epoch" and record["resolved"]["scheduler"]["prediction_type"] == "flow"
    assert record["resolved"]["pixels"] == {"a": "[0, 1] minus a mean", "b": "[0, 1] minus a mean"}
    assert "steps are epochs" in outcome.out


def test_latent_models_are_audited_by_prompt_and_different_autoencoders_are_refused(audit_args, audit, tmp_path, cases):
    case = cases["diffusers"]
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n")
    b = trained.fine_tuned(tmp_path / "b", Path(case.settings.base), 2)
    more = {"base": case.settings.base, "prompts": tmp_path / "prompts.txt", "guidance_scale": "3"}
    record, _ = audited(audit_args, audit, tmp_path, case.root, b, **more)
    assert record["resolved"]["image_shape"] == [8, 8, 1] and len(record["scope"]["steps"]) == 2
    vae = copied(Path(case.settings.base) / "vae", b / "vae")
    tensors = load_file(vae / "diffusion_pytorch_model.safetensors")
    first_matrix(tensors).mul_(2)
    save_file(tensors, vae / "diffusion_pytorch_model.safetensors")
    outcome = audit(*audit_args(ckpts_a=case.root, ckpts_b=b, spaces="pixel", out=tmp_path / "other", **more))
    assert outcome.status == 1 and "differ in autoencoder" in outcome.err
