"""What sampling costs beyond the network calls it must make: in time a ratio, in memory nothing that grows.

    python benchmarks/sampling_overhead.py

The sampling stage is what the pipeline does per checkpoint: noise, scheduler steps, batches
written, synced and joined. The bare calls are the same number of calls of the same network
on batches of the same shape. Both run in turns, so that other work on the machine meets both.
The ratio must be at most 1.10, and the peak memory of 4 n samples that of n; memory is
measured in fresh processes on 64x64 color images with a network of zeros, so that holding
the samples would show (4 n of them are 48 MiB).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

LIMIT = 1.10
PEAK_SAMPLES = 1024  # 12 MiB of images; four times as many are 48 MiB
GROWTH_LIMIT_MIB = 8  # of peak memory from n to 4 n samples: the allocator's noise, less than the arrays
SHIPPED = Path(__file__).parents[1] / "auditor" / "demo" / "shipped" / "twins" / "a"
WIDTHS = {"8x8, widths 16 32": (8, (16, 32)), "16x16, widths 32 64": (16, (32, 64))}
KEY = {"stage": "samples"}


def built(size: int, widths: tuple[int, ...]):
    """Return an untrained model of this size."""
    import torch
    from diffusers import UNet2DModel

    from auditor.checkpoints import DDPM
    from auditor.records import DiffusionModel

    depth = len(widths)
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=size,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) * depth,
        up_block_types=("UpBlock2D",) * depth,
        norm_num_groups=4,
        add_attention=False,
    )
    unet.eval().requires_grad_(False)
    return DiffusionModel(lambda x, t: unet(x, t, return_dict=False)[0], DDPM, (size, size, 1), 0)


def shipped():
    """Return the last checkpoint of the demo's twin a."""
    from auditor import checkpoints

    discovery = checkpoints.discover(SHIPPED, "a")
    found = discovery.found[-1]
    kind = next(iter(found.paths))
    one = checkpoints.Checkpoint("a", found.step, found.paths[kind], discovery.format, kind, found.scheduler)
    return checkpoints.load(one, checkpoints.scheduler_config(one, None), "cpu")


def models() -> dict[str, Callable[[], object]]:
    """Return the models to measure by name."""
    chosen = {"the demo's twins": shipped} if SHIPPED.is_dir() else {}
    sizes = dict(list(WIDTHS.items())[1:]) if chosen else WIDTHS
    return chosen | {name: lambda size=size: built(*size) for name, size in sizes.items()}


def stage(model, n: int, batch: int, steps: int) -> None:
    """Sample as the pipeline does, into a run directory of its own."""
    from auditor.run import RunDirectory
    from auditor.sampling import sample_batch

    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(folder)
        for _ in run.build(
            run.samples("a", 1), KEY, n, batch, lambda rows: sample_batch(model, list(rows), "ddim", steps)
        ):
            pass


def bare_calls(model, n: int, batch: int, steps: int) -> None:
    """Make the network calls alone."""
    import torch

    from auditor.sampling import batches, make_scheduler

    h, w, c = model.image_shape
    x = torch.randn(batch, c, h, w, generator=torch.Generator().manual_seed(0))
    times = [torch.full((batch,), int(t)) for t in make_scheduler("ddim", steps, model.scheduler).timesteps]
    with torch.inference_mode():
        for _ in batches(n, batch):
            for t in times:
                model.network(x, t)


def clocked(work: Callable[[], None]) -> tuple[float, float]:
    """Return wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def ratios(model, n: int, batch: int, steps: int, repetitions: int) -> dict[str, float]:
    """Return the median over interleaved repetitions of stage time divided by bare time."""
    size = (model, n, batch, steps)
    bare_calls(model, batch, batch, steps)  # the first calls choose algorithms
    stage(model, batch, batch, steps)
    wall, processor, seconds = [], [], []
    for turn in range(repetitions):
        works = [stage, bare_calls] if turn % 2 else [bare_calls, stage]
        spent = {work: clocked(lambda work=work: work(*size)) for work in works}
        wall.append(spent[stage][0] / spent[bare_calls][0])
        processor.append(spent[stage][1] / spent[bare_calls][1])
        seconds.append(spent[bare_calls][0])
    return {"wall": median(wall), "processor": median(processor), "bare_seconds": median(seconds)}


def sample_zeros(n: int) -> None:
    """Sample n large images with a network that costs nothing."""
    from auditor.checkpoints import DDPM
    from auditor.records import DiffusionModel

    stage(DiffusionModel(lambda x, t: x * 0, DDPM, (64, 64, 3), 0), n, 64, 4)


def peak_mib(n: int) -> float:
    """Return the peak resident memory of a fresh process that samples n images."""
    command = [sys.executable, __file__, "--peak-of", str(n)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure every model and say whether the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=128, help="samples per repetition")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--peak-of", type=int, help="only sample N images and print the peak memory in MiB")
    given = parser.parse_args()
    if given.peak_of:
        sample_zeros(given.peak_of)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    worst = 0.0
    for name, make in models().items():
        found = ratios(make(), given.n, given.batch, given.steps, given.repetitions)
        worst = max(worst, found["wall"])
        print(json.dumps({"model": name} | {key: round(value, 3) for key, value in found.items()}), flush=True)
    peaks = {n: peak_mib(n) for n in (PEAK_SAMPLES, 4 * PEAK_SAMPLES)}
    growth = peaks[4 * PEAK_SAMPLES] - peaks[PEAK_SAMPLES]
    print(json.dumps({"peak_mib": {n: round(peak, 1) for n, peak in peaks.items()}, "growth_mib": round(growth, 1)}))
    holds = worst <= LIMIT and growth <= GROWTH_LIMIT_MIB
    print("within the limits" if holds else f"over a limit: ratio {LIMIT}, growth {GROWTH_LIMIT_MIB} MiB")
    sys.exit(not holds)


if __name__ == "__main__":
    main()
