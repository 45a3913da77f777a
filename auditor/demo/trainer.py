"""A small trainer of unconditional diffusion models, for the demo and the benchmarks.

It writes the layout of the diffusers training scripts:
``OUT/checkpoint-N/unet_ema/{config.json,diffusion_pytorch_model.safetensors}`` and
``OUT/scheduler/scheduler_config.json``.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

if TYPE_CHECKING:
    import torch
    from diffusers import DDPMScheduler, UNet2DModel

Progress = Callable[[int, int, float], None]  # (step, steps in all, mean loss since the last call)
TRAIN_TIMESTEPS = 1000
LOG = "log.jsonl"


@dataclass(frozen=True)
class TrainSettings:
    """A recipe. Twins share all of it but the seed, as two real trainings do.

    ``steps`` are the optimizer steps at which a checkpoint is written, ascending; the last
    one ends the training. ``widths`` are the channels per resolution, divisible by
    ``norm_groups``; each resolution is half the one before, so the image sides must be
    divisible by ``2 ** (len(widths) - 1)``.

    What is saved is the exponential moving average of the weights: at a constant learning
    rate the raw weights jitter from step to step, and the jitter would show as noise
    between neighboring checkpoints. ``ema_decay`` is reached slowly: the average
    reaches back about a ninth of the training so far, so that a checkpoint does not
    remember the one before it.

    ``bfloat16`` computes the network in that type and keeps weights and updates in
    float32, as the diffusers scripts do with ``--mixed_precision bf16``: nearly twice as
    fast where the processor has instructions for it, slower elsewhere.
    """

    steps: tuple[int, ...]
    widths: tuple[int, ...] = (16, 28)
    layers_per_block: int = 1
    norm_groups: int = 4
    batch_size: int = 64
    learning_rate: float = 1e-3
    ema_decay: float = 0.995
    bfloat16: bool = False
    seed: int = 0
    log_every: int = 100


def train(images: np.ndarray, out: Path, settings: TrainSettings, progress: Progress | None = None) -> None:
    """Train an epsilon-predicting U-Net on ``images`` and write its checkpoints to ``out``.

    Parameters
    ----------
    images
        uint8 ``[n, h, w, c]``, 0 to 255; mapped to [-1, 1]. There is no augmentation, no
        dropout and no weight decay: nothing hides what the model takes from its images.
    out
        Folder of the series; ``log.jsonl`` beside the checkpoints has the mean training
        loss and the seconds since the start, every ``log_every`` steps.
    settings
        The recipe. The weights depend on it, on the images and on nothing else, as long as
        the machine and the number of threads stay the same.
    progress
        Called as often as the log is written.

    References
    ----------
    Ho, Jain, Abbeel (2020), arXiv 2006.11239, algorithm 1.
    """
    import torch

    data = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
    network, scheduler = new_network(images.shape[1:], settings), new_scheduler()
    average = copy.deepcopy(network).requires_grad_(False)
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate)
    batches = index_batches(len(data), settings.batch_size, generator)

    scheduler.save_pretrained(out / "scheduler")
    with open(out / LOG, "w", encoding="utf-8") as log:
        record = Record(log, settings.steps[-1], settings.log_every, progress)
        for step in range(1, settings.steps[-1] + 1):
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16):
                loss = denoising_loss(network, scheduler, data[next(batches)], generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            update_average(average, network, settings.ema_decay, step)
            record.add(step, loss.item())
            if step in settings.steps:
                save_checkpoint(average, out / f"checkpoint-{step}")


def new_network(shape: tuple[int, int, int], settings: TrainSettings) -> UNet2DModel:
    """Return an untrained U-Net for ``(h, w, c)`` images; its weights depend on the seed alone."""
    import torch
    from diffusers import UNet2DModel

    height, width, channels = shape
    depth = len(settings.widths)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return UNet2DModel(
            sample_size=height if height == width else (height, width),
            in_channels=channels,
            out_channels=channels,
            layers_per_block=settings.layers_per_block,
            block_out_channels=settings.widths,
            down_block_types=("DownBlock2D",) * depth,
            up_block_types=("UpBlock2D",) * depth,
            norm_num_groups=settings.norm_groups,
            add_attention=False,
        ).train()


def new_scheduler() -> DDPMScheduler:
    """Return the noise schedule of DDPM: 1000 steps, linear, epsilon prediction."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(num_train_timesteps=TRAIN_TIMESTEPS, beta_schedule="linear", prediction_type="epsilon")


def index_batches(n_images: int, batch_size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield batches of image positions for ever: whole epochs, each in a new order."""
    import torch

    waiting = torch.empty(0, dtype=torch.int64)
    while True:
        while len(waiting) < batch_size:
            waiting = torch.cat([waiting, torch.randperm(n_images, generator=generator)])
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


def denoising_loss(
    network: UNet2DModel, scheduler: DDPMScheduler, images: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Return the mean squared error of the predicted noise at one random time per image."""
    import torch

    t = torch.randint(TRAIN_TIMESTEPS, (len(images),), generator=generator)
    noise = torch.randn(images.shape, generator=generator)
    prediction = network(scheduler.add_noise(images, noise, t), t).sample
    return torch.nn.functional.mse_loss(prediction.float(), noise)


def update_average(average: UNet2DModel, network: UNet2DModel, decay: float, step: int) -> None:
    """Move the averaged weights towards the current ones; early steps forget the start faster."""
    import torch

    decay = min(decay, step / (step + 9))
    with torch.no_grad():
        for old, new in zip(average.parameters(), network.parameters(), strict=True):
            old.lerp_(new, 1 - decay)


def save_checkpoint(average: UNet2DModel, folder: Path) -> None:
    """Write the weights in float16 under a temporary name, then rename: no half checkpoint is ever found."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    copy.deepcopy(average).half().save_pretrained(partial / "unet_ema")
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)


class Record:
    """The training log: every so often the mean loss since the last line, and the seconds since the start."""

    def __init__(self, log: TextIO, n_steps: int, every: int, progress: Progress | None = None) -> None:
        self.log, self.n_steps, self.every, self.progress = log, n_steps, every, progress
        self.losses: list[float] = []
        self.start = time.monotonic()

    def add(self, step: int, loss: float) -> None:
        """Take the loss of one step; write a line where one is due."""
        self.losses.append(loss)
        if step % self.every and step != self.n_steps:
            return
        mean, self.losses = float(np.mean(self.losses)), []
        seconds = round(time.monotonic() - self.start, 1)
        self.log.write(json.dumps({"step": step, "loss": round(mean, 6), "seconds": seconds}) + "\n")
        self.log.flush()
        if self.progress:
            self.progress(step, self.n_steps, mean)
