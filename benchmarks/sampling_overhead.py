"""What sampling costs beyond the network calls it must make: in time a ratio, in memory nothing that grows.

    python benchmarks/sampling_overhead.py

The sampling stage is what the pipeline does per checkpoint: noise, scheduler steps, batches
written, synced and joined. The bare calls are the same number of calls of the same network
on batches of the same shape. Both run in turns, batch by batch, so that other work on the
machine meets both.
The ratio must be at most 1.10, and the peak memory of 4 n samples that of n; memory is
measured in fresh processes on 64x64 color images with a network of zeros, so that holding
the samples would show (4 n of them are 48 MiB).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from auditor.run.places import SAMPLES

LIMIT = 1.10
PEAK_SAMPLES = 1024  # 12 MiB of images; four times as many are 48 MiB
WARM_SAMPLES = 128
GROWTH_LIMIT_MIB = 18  # half of what holding 3 n more samples would add; the allocator's noise is 10
SHIPPED = Path(__file__).parents[1] / "auditor" / "demo" / "shipped" / "twins" / "a"
WIDTHS = {"8x8, widths 16 32": (8, (16, 32)), "16x16, widths 32 64": (16, (32, 64))}
KEY = {"stage": "samples"}


def built(size: int, widths: tuple[int, ...]):
    """Return an untrained model of this size."""
    import torch
    from diffusers import UNet2DModel

    from auditor.diffusion.model import DiffusionModel
    from auditor.diffusion.schedules import DDPM

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


def stage(model, n: int, batch: int, steps: int) -> Iterator[int]:
    """Sample as the pipeline does, into a run directory of its own; yields after each batch."""
    from auditor.diffusion.sampling import sample_batch
    from auditor.run import RunDirectory

    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(folder)
        path = run.place(SAMPLES, "a/1")
        yield from run.build(path, KEY, n, batch, lambda rows: sample_batch(model, list(rows), "ddim", steps))


def bare_calls(model, n: int, batch: int, steps: int) -> Iterator[int]:
    """Make the network calls alone; yields after each batch."""
    import torch

    from auditor.diffusion.sampling import make_scheduler

    h, w, c = model.image_shape
    x = torch.randn(batch, c, h, w, generator=torch.Generator().manual_seed(0))
    times = [torch.full((batch,), int(t)) for t in make_scheduler("ddim", steps, model.scheduler).timesteps]
    for start in range(0, n, batch):  # all batches are full, as those of a run are
        with torch.inference_mode():
            for t in times:
                model.network(x, t)
        yield start + batch


class Clock:
    """Adds up wall and processor seconds of what runs inside it."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._start[0]
        self.processor += time.process_time() - self._start[1]


def in_turns(works: list[Iterator[int]]) -> list[Clock]:
    """Return the time of each work, which take turns batch by batch, the first one changing."""
    clocks, left = [Clock() for _ in works], list(range(len(works)))
    while left:
        for each in list(left):
            with clocks[each]:
                ended = next(works[each], None) is None
            if ended:
                left.remove(each)
        left.reverse()
    return clocks


def ratios(model, n: int, batch: int, steps: int, repetitions: int) -> dict[str, float]:
    """Return the median over repetitions of stage time divided by bare time."""
    for work in (stage, bare_calls):  # the first calls choose algorithms
        list(work(model, batch, batch, steps))
    wall, processor, seconds = [], [], []
    for _ in range(repetitions):
        whole, bare = in_turns([work(model, n, batch, steps) for work in (stage, bare_calls)])
        wall.append(whole.wall / bare.wall)
        processor.append(whole.processor / bare.processor)
        seconds.append(bare.wall)
    return {"wall": median(wall), "processor": median(processor), "bare_seconds": median(seconds)}


def sample_zeros(n: int) -> None:
    """Sample n large images with a network that costs nothing."""
    from auditor.diffusion.model import DiffusionModel
    from auditor.diffusion.schedules import DDPM

    list(stage(DiffusionModel(lambda x, t: x * 0, DDPM, (64, 64, 3), 0), n, 64, 4))


def own_peak_mib() -> float:
    """Return the peak resident memory of this process.

    Linux keeps ``ru_maxrss`` through exec, so a child would show the peak of its parent.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def peak_mib(n: int, repetitions: int = 3) -> float:
    """Return by how much sampling n images raises the peak resident memory of a fresh, warmed-up process."""
    command = [sys.executable, __file__, "--peak-of", str(n)]
    processes = (subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(repetitions))
    raised = [float(each.stdout) for each in processes]
    return median(raised)


def main() -> None:
    """Measure every model and say whether the limits hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=128, help="samples per repetition")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--peak-of", type=int, help="only sample N images and print the peak memory in MiB")
    parser.add_argument("--smoke", action="store_true", help="a few samples, no limit: does it start?")
    given = parser.parse_args()
    if given.peak_of:
        sample_zeros(WARM_SAMPLES)  # what libraries and one batch take differs between processes by 20 MiB and more
        before = own_peak_mib()
        sample_zeros(given.peak_of)
        print(own_peak_mib() - before)
        return
    if given.smoke:
        given.n, given.batch, given.steps, given.repetitions = 8, 4, 2, 1
    worst = 0.0
    for name, make in models().items():
        found = ratios(make(), given.n, given.batch, given.steps, given.repetitions)
        worst = max(worst, found["wall"])
        print(json.dumps({"model": name} | {key: round(value, 3) for key, value in found.items()}), flush=True)
    if given.smoke:
        print(json.dumps({"peak_raised_by_mib": {WARM_SAMPLES: peak_mib(WARM_SAMPLES, repetitions=1)}}))
        return
    peaks = {n: peak_mib(n) for n in (PEAK_SAMPLES, 4 * PEAK_SAMPLES)}
    growth = peaks[4 * PEAK_SAMPLES] - peaks[PEAK_SAMPLES]
    print(
        json.dumps(
            {"peak_raised_by_mib": {n: round(peak, 1) for n, peak in peaks.items()}, "growth_mib": round(growth, 1)}
        )
    )
    holds = worst <= LIMIT and growth <= GROWTH_LIMIT_MIB
    print("within the limits" if holds else f"over a limit: ratio {LIMIT}, growth {GROWTH_LIMIT_MIB} MiB")
    sys.exit(not holds)


if __name__ == "__main__":
    main()
