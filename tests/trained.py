"""Checkpoints that real trainers wrote, made by running them for a few steps on tiny networks."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image

UNET = {"dim": 8, "dim_mults": [1, 2], "channels": 1, "attn_heads": 1, "attn_dim_head": 4}


def quietly(function):
    """Run a trainer without its progress bars and advice."""

    def wrapped(*given, **settings):
        said = io.StringIO()
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.random.fork_rng(devices=[]):
                try:
                    return function(*given, **settings)
                finally:
                    logging.disable(level)

    return wrapped


@quietly
def denoising_diffusion_pytorch(
    root: Path, seed: int = 0, steps: int = 2, objective: str = "pred_v", **diffusion
) -> Path:
    """Run the Trainer of denoising-diffusion-pytorch: one milestone every two steps."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet

    root.mkdir(parents=True)
    pictures = root.parent / f"{root.name}-pictures"
    pictures.mkdir()
    rng = np.random.default_rng(seed)
    for i in range(100):
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(pictures / f"{i}.png")
    torch.manual_seed(seed)
    unet = Unet(**{**UNET, "dim_mults": tuple(UNET["dim_mults"])})
    diffusion = {"image_size": 8, "timesteps": 50, "sampling_timesteps": 2, "objective": objective, **diffusion}
    trainer = Trainer(
        GaussianDiffusion(unet, **diffusion),
        str(pictures),
        train_batch_size=16,
        train_num_steps=steps * 2,
        save_and_sample_every=2,
        num_samples=1,
        ema_update_every=1,
        results_folder=str(root),
        calculate_fid=False,
    )
    trainer.train()
    (root / "model.json").write_text(json.dumps({**UNET, "image_size": 8}))
    return root


class TinyNet(torch.nn.Module):
    """A network of some hundred weights that tells times apart; the factory of these tests."""

    def __init__(self, width: int = 8, channels: int = 1):
        super().__init__()
        self.first = torch.nn.Conv2d(channels, width, 3, padding=1)
        self.time = torch.nn.Linear(1, width)
        self.last = torch.nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x, t):
        when = self.time(t.float().view(-1, 1) / 1000)[:, :, None, None]
        return self.last(torch.nn.functional.silu(self.first(x) + when))


def _normed(n_in: int, n_out: int) -> torch.nn.ModuleDict:
    convolution = torch.nn.Conv2d(n_in, n_out, 3, padding=1)
    return torch.nn.ModuleDict({"norm": torch.nn.GroupNorm(8, n_in), "conv": convolution})


def _convolved(part: torch.nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
    return part["conv"](torch.nn.functional.silu(part["norm"](x)))


class _TimedBlock(torch.nn.Module):
    """Two convolutions with the time between them, added to the input; attention over pixels where asked."""

    def __init__(self, n_in: int, width: int, attends: bool = False):
        super().__init__()
        self.block1, self.block2 = _normed(n_in, width), _normed(width, width)
        self.dense = torch.nn.Linear(4 * width, width)
        self.res_conv = torch.nn.Conv2d(n_in, width, 1) if n_in != width else torch.nn.Identity()
        if attends:
            heads = torch.nn.MultiheadAttention(width, 4, batch_first=True)
            self.attention = torch.nn.ModuleDict({"group_norm": torch.nn.GroupNorm(8, width), "mhsa": heads})

    def forward(self, x, when):
        h = _convolved(self.block1, x) + self.dense(torch.nn.functional.silu(when))[:, :, None, None]
        h = _convolved(self.block2, h) + self.res_conv(x)
        if not hasattr(self, "attention"):
            return h
        pixels = self.attention["group_norm"](h).flatten(2).transpose(1, 2)
        return h + self.attention["mhsa"](pixels, pixels, pixels)[0].transpose(1, 2).reshape(h.shape)


class OneLevelUnet(torch.nn.Module):
    """A network of one resolution whose weights have the names of the authors' U-Net; the factory for their layout."""

    def __init__(self, width: int = 8):
        super().__init__()
        times = torch.nn.Sequential(
            torch.nn.Embedding(1000, width),
            torch.nn.Linear(width, 4 * width),
            torch.nn.GELU(),
            torch.nn.Linear(4 * width, 4 * width),
        )
        self.time_embeddings = torch.nn.ModuleDict({"time_mlp": times})
        self.init_conv = torch.nn.Conv2d(1, width, 3, padding=1)
        self.encoder_blocks = torch.nn.ModuleList([_TimedBlock(width, width)])
        self.bottleneck_blocks = torch.nn.ModuleList([_TimedBlock(width, width, attends) for attends in (True, False)])
        self.decoder_blocks = torch.nn.ModuleList([_TimedBlock(2 * width, width) for _ in range(2)])
        self.final_block = _normed(width, 1)

    def forward(self, x, t):
        when = self.time_embeddings["time_mlp"](t.long())
        first = self.init_conv(x)
        skipped = [first, self.encoder_blocks[0](first, when)]
        h = skipped[-1]
        for block in self.bottleneck_blocks:
            h = block(h, when)
        for block in self.decoder_blocks:
            h = block(torch.cat([h, skipped.pop()], dim=1), when)
        return _convolved(self.final_block, h)


@quietly
def lightning(root: Path, seed: int = 0, steps: int = 4, ema: bool = False) -> Path:
    """Run lightning's Trainer with its ModelCheckpoint, every two steps, and ``last.ckpt``."""
    import lightning
    from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

    class Training(lightning.LightningModule):
        def __init__(self, width: int):
            super().__init__()
            self.save_hyperparameters()
            self.model = TinyNet(width)

        def training_step(self, batch, index):
            return (self.model(batch[0], torch.zeros(len(batch[0]))) - batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-2)

    torch.manual_seed(seed)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(8, 1, 8, 8)), batch_size=4)
    saving = ModelCheckpoint(root, every_n_train_steps=2, save_top_k=-1, save_last=True, filename="{epoch}-{step}")
    callbacks = [saving, EMAWeightAveraging()] if ema else [saving]
    trainer = lightning.Trainer(
        max_steps=steps,
        callbacks=callbacks,
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Training(8), data)
    return root


MONAI = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 1,
    "channels": [8, 8],
    "attention_levels": [False, True],
    "num_res_blocks": 1,
    "num_head_channels": 4,
    "norm_num_groups": 4,
}


@quietly
def monai(root: Path, seed: int = 0, steps: tuple[int, ...] = (1, 2)) -> Path:
    """Train MONAI's network through MONAI's inferer, and save its state dict per epoch, as its tutorials do."""
    from monai.inferers import DiffusionInferer
    from monai.networks.nets import DiffusionModelUNet
    from monai.networks.schedulers import DDPMScheduler

    root.mkdir(parents=True)
    torch.manual_seed(seed)
    network = DiffusionModelUNet(**MONAI)
    scheduler = DDPMScheduler(num_train_timesteps=50)
    inferer, optimizer = DiffusionInferer(scheduler), torch.optim.Adam(network.parameters(), 1e-2)
    for epoch in range(1, max(steps) + 1):
        images, noise = torch.rand(4, 1, 8, 8), torch.randn(4, 1, 8, 8)
        times = torch.randint(0, 50, (4,))
        found = inferer(inputs=images, diffusion_model=network, noise=noise, timesteps=times)
        optimizer.zero_grad()
        (found - noise).square().mean().backward()
        optimizer.step()
        if epoch in steps:
            torch.save(network.state_dict(), root / f"net_epoch={epoch}.pt")
    whole = {"network_def": {"_target_": "DiffusionModelUNet", **MONAI}, "scheduler": {"num_train_timesteps": 50}}
    (root / "network.json").write_text(json.dumps(whole))
    return root


def autoencoder(root: Path, channels: int = 1, latents: int = 4) -> Path:
    """Save an untrained AutoencoderKL that halves each side."""
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(4, 4),
            norm_num_groups=2,
            latent_channels=latents,
            sample_size=8,
        ).save_pretrained(root)
    return root


VOCABULARY = [
    "<|startoftext|>",
    "<|endoftext|>",
    *"abcdefghijklmnopqrstuvwxyz",
    *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz"),
]


def stable_diffusion(root: Path, seed: int = 0, text_layers: int = 1) -> Path:
    """Save a Stable Diffusion pipeline of untrained tiny parts, by diffusers' own statement."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    words = root.parent / f"{root.name}-words"
    words.mkdir(parents=True)
    (words / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(VOCABULARY)}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    autoencoder(words / "vae")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = CLIPTextConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=text_layers,
            num_attention_heads=2,
            max_position_embeddings=8,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
        unet = UNet2DConditionModel(
            sample_size=4,
            in_channels=4,
            out_channels=4,
            block_out_channels=(4, 8),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=8,
            attention_head_dim=2,
            norm_num_groups=2,
        )
        StableDiffusionPipeline(
            vae=AutoencoderKL.from_pretrained(words / "vae"),
            text_encoder=CLIPTextModel(text),
            tokenizer=CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=8),
            unet=unet,
            scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(root)
    return root


def fine_tuned(root: Path, base: Path, seed: int, steps: tuple[int, ...] = (2, 4)) -> Path:
    """Fine-tune the U-Net of a pipeline for a few steps and save it as train_text_to_image.py does."""
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_pretrained(base / "unet")
        optimizer = torch.optim.Adam(unet.parameters(), 1e-3)
        for step in range(1, max(steps) + 1):
            _one_step(unet, optimizer)
            if step in steps:
                unet.save_pretrained(root / f"checkpoint-{step}" / "unet")
    return root


def _one_step(unet, optimizer) -> None:
    latents, noise, prompt = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4), torch.randn(2, 8, 8)
    loss = (unet(latents + noise, torch.randint(0, 1000, (2,)), prompt).sample - noise).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@quietly
def lora(
    root: Path, base: Path, seed: int, steps: tuple[int, ...] = (2, 4), layout: str = "diffusers", **header: str
) -> Path:
    """Train a LoRA by peft and save it as train_text_to_image_lora.py, kohya sd-scripts or ai-toolkit does."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    unet.requires_grad_(False)
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights="gaussian", target_modules=targets))
    optimizer = torch.optim.Adam([one for one in unet.parameters() if one.requires_grad], 1e-1)
    root.mkdir(parents=True)
    for step in range(1, max(steps) + 1):
        _one_step(unet, optimizer)
        if step not in steps:
            continue
        layers = get_peft_model_state_dict(unet)
        if layout == "diffusers":
            layers = convert_state_dict_to_diffusers(layers)
            StableDiffusionPipeline.save_lora_weights(root / f"checkpoint-{step}", unet_lora_layers=layers)
            continue
        tensors = convert_state_dict_to_kohya({f"unet.{name}": each for name, each in layers.items()})
        if layout == "kohya":
            said = {"ss_steps": str(step), "ss_epoch": str(step // 2), "ss_network_dim": "2", "ss_network_alpha": "2"}
            save_file(tensors, root / f"face-{step // 2:06d}.safetensors", {**said, **header})
            continue
        tensors = {name: one.half() for name, one in tensors.items()}
        info = {"software": '{"name": "ai-toolkit"}', "ss_base_model_version": "sd_1.5", "ss_output_name": "art"}
        info["training_info"] = json.dumps({"step": step, "epoch": 0})
        number = f"_{step:09d}" if step < max(steps) else ""  # the last has none
        save_file(tensors, root / f"art{number}.safetensors", {**info, **header})
    if layout == "ai-toolkit":
        (root / "config.yaml").write_text(
            "config:\n  process:\n  - datasets:\n    - folder_path: data\n      flip_x: true\n"
        )
        torch.save(optimizer.state_dict(), root / "optimizer.pt")
    return root


class Denoiser(torch.nn.Module):
    """What EDM pickles: a denoiser D(x, sigma, class_labels) with its sizes as attributes.

    That of EDM2 computes in half precision on a GPU where ``use_fp16`` is set; this one does so everywhere.
    """

    def __init__(self, label_dim: int = 0, channels: int = 1, use_fp16: bool = False):
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim, self.use_fp16 = 8, channels, label_dim, use_fp16
        self.model = TinyNet(channels=channels)

    def forward(self, x, sigma, class_labels=None):
        x = x.half().float() if self.use_fp16 else x
        shift = 0 if class_labels is None else class_labels.argmax(1).view(-1, 1, 1, 1) / 10
        return x / (1 + sigma.view(-1, 1, 1, 1) ** 2) + self.model(x, sigma * 100) * 0.1 + shift


def edm(root: Path, seed: int = 0, label_dim: int = 0, kimg: tuple[int, ...] = (0, 2500)) -> Path:
    """Pickle snapshots by the save statement of EDM's training loop."""
    import pickle

    root.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for done in kimg:
            data = {"ema": Denoiser(label_dim), "loss_fn": None, "augment_pipe": None, "dataset_kwargs": {}}
            with (root / f"network-snapshot-{done:06d}.pkl").open("wb") as file:
                pickle.dump(data, file)
    return root


class Attributes(dict):
    """A dictionary whose items are attributes, as EDM2 pickles one."""

    __getattr__, __setattr__ = dict.__getitem__, dict.__setitem__


class OfPictures:
    """The encoder of EDM2 for pictures, which states nothing."""


class OfLatents:
    """The encoder of EDM2 for latents, which states how they were made: of deviation 0.5, channel by channel."""

    def __init__(self) -> None:
        deviation, mean = np.float32([4, 5, 3, 2]), np.float32([5, 3, 0, -2])
        self.scale = np.float32(0.5) / deviation
        self.bias = -mean * self.scale


def edm2(
    root: Path, seed: int = 0, label_dim: int = 0, nimg: tuple[int, ...] = (0, 1 << 20), latents: bool = False
) -> Path:
    """Train for a step per snapshot; pickle two averages of it in half precision by EDM2's save statement, and a state.

    Its averages of width 0.050 and 0.100 weigh the weights at t by t^exponent, exponents 16.97 and 6.94.
    """
    import copy
    import pickle

    root.mkdir(parents=True)
    exponents = {"0.050": 16.97, "0.100": 6.94}
    encoder = OfLatents() if latents else OfPictures()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Denoiser(label_dim, 4 if latents else 1, use_fp16=True)
        averages = {width: copy.deepcopy(network) for width in exponents}
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        for i, done in enumerate(nimg):
            if done:
                clean, sigma = torch.randn(4, network.img_channels, 8, 8), torch.rand(4) + 0.1
                found = network(clean + sigma.view(-1, 1, 1, 1) * torch.randn_like(clean), sigma)
                optimizer.zero_grad()
                (found - clean).square().mean().backward()
                optimizer.step()
            for width, average in averages.items():
                kept = (nimg[i - 1] / done) ** (exponents[width] + 1) if done else 1.0
                for mine, new in zip(average.parameters(), network.parameters()):
                    mine.data.lerp_(new.data, 1 - kept)
                data = Attributes(encoder=encoder, dataset_kwargs=Attributes(), loss_fn=None)
                data.ema = copy.deepcopy(average).cpu().eval().requires_grad_(False).to(torch.float16)
                with (root / f"network-snapshot-{done // 1000:07d}-{width}.pkl").open("wb") as file:
                    pickle.dump(data, file)
        state = {"state": {"cur_nimg": nimg[-1]}, "net": network.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, root / f"training-state-{nimg[-1] // 1000:07d}.pt")
    return root


if __name__ == "__main__":
    lightning(Path(__file__).with_name("fixtures") / "lightning", seed=1, steps=2, ema=True)
