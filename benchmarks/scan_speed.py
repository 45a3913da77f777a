"""How long ``audit scan`` takes on trees of 10,000 files: ``python benchmarks/scan_speed.py [--json] [--smoke]``.

Three trees: a training of the diffusers script (1,000 steps, ten files each), 200 files of denoising-diffusion-pytorch
(two copies of 200 weights each) beside 9,800 pictures, and 10,000 pictures without any checkpoint. Each is scanned by
the command in a fresh process, so the time is what a user waits, after one scan that is not counted.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILES, SCANS = 10_000, 3


def diffusers_tree(root: Path, n: int) -> None:
    """Write n / 10 checkpoint folders of ten files; the weights are copies of one small file."""
    from diffusers import DDPMScheduler, UNet2DModel

    one = root / "checkpoint-1"
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(4, 4),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    for name in ("unet", "unet_ema"):
        unet.save_pretrained(one / name)
    for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl", "scaler.pt", "log.txt", "note.txt"):
        (one / name).write_bytes(b"not read")
    for step in range(2, n // 10 + 1):
        shutil.copytree(one, root / f"checkpoint-{step}", copy_function=link)
    DDPMScheduler().save_pretrained(root / "scheduler")


def link(source: str, to: str) -> None:
    """Copy by a hard link: the scan does not see the difference, and the disk holds it."""
    Path(to).hardlink_to(source)


def flat_tree(root: Path, n: int) -> None:
    """Write n / 50 files of weights, the rest pictures."""
    import torch

    state = {f"model.block.{i}.weight": torch.zeros(4) for i in range(198)}
    state |= {"model.init_conv.weight": torch.zeros(4, 1, 7, 7), "model.final_conv.weight": torch.zeros(1, 4, 1, 1)}
    buffers = {name: torch.ones(50) for name in ("betas", "alphas_cumprod", "loss_weight")}
    ema = {f"ema_model.{name}": one for name, one in (state | buffers).items()}
    torch.save({"step": 1, "model": state | buffers, "ema": ema, "opt": {}}, root / "model-1.pt")
    for milestone in range(2, n // 50 + 1):
        shutil.copyfile(root / "model-1.pt", root / f"model-{milestone}.pt")
    (root / "model.json").write_text('{"dim": 4, "image_size": 8}')
    pictures(root / "samples", n - n // 50 - 1)


def pictures(root: Path, n: int) -> None:
    """Write files that are called pictures."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        (root / f"{i}.png").write_bytes(b"")


def seconds(root: Path, scans: int) -> tuple[float, float]:
    """Return the least wall and processor time of a scan in a process of its own."""
    command = [sys.executable, "-m", "auditor", "scan", str(root), "--json"]
    times = []
    for _ in range(scans + 1):
        started, used = time.perf_counter(), processor()
        subprocess.run(command, capture_output=True)
        times.append((time.perf_counter() - started, processor() - used))
    counted = times[1:] or times
    return min(wall for wall, _ in counted), min(cpu for _, cpu in counted)


def processor() -> float:
    """Return the processor seconds of finished children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Build the trees, scan them, print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--smoke", action="store_true", help="trees of 100 files, one scan each: does it start?")
    given = parser.parse_args()
    n, scans = (100, 0) if given.smoke else (FILES, SCANS)
    trees = {
        "diffusers script": diffusers_tree,
        "flat series": flat_tree,
        "pictures only": pictures,
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, build in trees.items():
            root = Path(folder) / name.replace(" ", "-")
            root.mkdir()
            build(root, n)
            files = sum(path.is_file() for path in root.rglob("*"))
            wall, cpu = seconds(root, scans)
            found[name] = {"files": files, "seconds": round(wall, 2), "processor_seconds": round(cpu, 2)}
    if given.json:
        print(json.dumps(found, indent=1))
    else:
        for name, each in found.items():
            times = f"{each['seconds']:6.2f} s, {each['processor_seconds']:.2f} s of processor"
            print(f"{name:20} {each['files']:7,} files {times}")


if __name__ == "__main__":
    main()
