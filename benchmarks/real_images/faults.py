"""What published choices change on the trainings of ``make.py``: ``python benchmarks/real_images/faults.py OUT``.

Errors over pairs beside those over trainings; the loss of the last checkpoints on 50 held-out images at all times, with
errors over cells and over images, at time 0, and with the mean of another set subtracted.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from figure import distances, folder_of, jackknife
from make import SCHEDULER, abar
from safetensors.torch import load_file
from unet import make

from auditor.config import LEVEL
from auditor.run import RunDirectory
from auditor.stages import published_losses

TIMES = SCHEDULER["num_train_timesteps"]
EVERY = 10  # one time in so many stands for its neighbors; time 0 stands for itself


def main() -> None:
    """Print every comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--smoke", action="store_true", help="of an experiment at toy size: does it start?")
    out, smoke = folder_of(parser), parser.parse_args().smoke
    torch.set_num_threads(1)
    run = RunDirectory(out / "audit")
    record = json.loads(run.record.read_text())
    steps, names = record["scope"]["steps"], record["scope"]["twins"]
    print(errors(run, [tuple(pair) for pair in record["pairs"]], steps, names))
    print(losses(out, steps[-1], names, TIMES // 2 if smoke else EVERY))


def errors(run: RunDirectory, pairs: list[tuple[str, str]], steps: list[int], names: list[str]) -> str:
    """Published error bars of D beside the valid interval."""
    found, lines = distances(run, pairs, steps), []
    for i, step in enumerate(steps):
        values = np.array([each[i] for each in found.values()])
        over_pairs = values.std(ddof=1) / np.sqrt(len(values))
        valid = jackknife(found, i, names, LEVEL)
        ratio = (valid.high - valid.value) / (1.96 * over_pairs)
        lines.append(
            f"D at {step}: median {np.median(values):.4f}, error over pairs {over_pairs:.4f}; mean {valid.value:.4f} "
            f"[{valid.low:.4f}, {valid.high:.4f}], half of it {ratio:.2f} times 1.96 published errors"
        )
    return "\n".join(lines)


def losses(out: Path, step: int, names: list[str], spacing: int = EVERY) -> str:
    """The published loss of the last checkpoints, and what another mean and time 0 do to it."""
    pixels = {name: np.load(out / "data" / f"{name}.npz")["images"].astype(float) / 255 for name in (*names, "heldout")}
    means = {name: each.mean() for name, each in pixels.items()}
    chosen = pixels["heldout"][published_losses.loss_images(len(pixels["heldout"]))]
    network, lines = make(**json.loads((out / "network.json").read_text())).eval(), []
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        network.load_state_dict(load_file(out / "runs" / name / f"step-{step}.safetensors"))
        own = cells(network, chosen - means[name], spacing)
        wrong = cells(network, chosen - means[other], spacing)
        rest = own[1:].mean()
        every = (own[0].mean() + (TIMES - 1) * rest) / TIMES
        over_cells, by_image = own[1:].std(ddof=1) / np.sqrt(len(chosen) * TIMES), own[1:].mean(axis=0)
        lines.append(
            f"loss of {name} at {step}: {every:.5f} over all times, {rest:.5f} without time 0, at which it is "
            f"{own[0].mean():.3f}; error over cells {over_cells:.5f}, over images "
            f"{by_image.std(ddof=1) / np.sqrt(len(by_image)):.5f}; with the mean of {other} "
            f"({means[other] - means[name]:+.4f}) it changes by {wrong[1:].mean() - rest:+.6f}"
        )
    return "\n".join(lines)


def cells(network: torch.nn.Module, images: np.ndarray, spacing: int = EVERY) -> np.ndarray:
    """Return the squared errors at time 0 and at some others, float64 ``[times, images]``, one noise per cell."""
    x0 = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    found = []
    with torch.inference_mode():
        for t in (0, *range(spacing // 2, TIMES, spacing)):
            eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(t))
            x_t = abar()[t].sqrt() * x0 + (1 - abar()[t]).sqrt() * eps
            error = network(x_t, torch.full((len(x0),), t)) - eps
            found.append(error.double().square().flatten(1).mean(1).numpy())
    return np.array(found)


if __name__ == "__main__":
    main()
