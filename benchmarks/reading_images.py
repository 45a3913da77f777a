"""Time and memory of reading a folder of many small pictures, the first time and from the cache of contents.

    python benchmarks/reading_images.py [--n 200000] [--size 28] [--folder DIR]

Makes the pictures where they are not there yet (noise on a gradient, PNG, 100 folders), then reads them in a process of
its own each time, with an empty cache and with a full one. Memory is what the process holds itself (anonymous pages, by
/proc/self/status), beside what it maps from disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def make(folder: Path, n: int, size: int) -> None:
    """Write the pictures that are not there yet."""
    rng = np.random.default_rng(0)
    gradient = np.linspace(0, 200, size)[:, None] * np.ones((1, size))
    for i in range(n):
        path = folder / f"{i % 100:02d}" / f"{i:06d}.png"
        pixels = (gradient + rng.integers(0, 56, (size, size))).astype(np.uint8)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, compress_level=1)


def held() -> dict[str, int]:
    """Return the memory of this process in MiB: its own, mapped from files, and its largest total so far."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"own": "RssAnon", "mapped": "RssFile", "peak": "VmHWM"}
    return {name: int(lines[key].split()[0]) // 1024 for name, key in names.items()}


def read(folder: str, size: int) -> None:
    """Read the folder and print what it took."""
    from auditor import images

    before, started = held(), time.perf_counter()
    found = images.read(folder, "train-a", (size, size, 1), use_cache=True)
    digest = images.set_digest(found)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": round(seconds, 1), "before": before, "after": held(), "digest": digest[:12]}))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200_000)
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "auditor-many-pictures")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes in a folder of its own: does it start?")
    parser.add_argument("--read", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        return read(str(given.folder), given.size)
    if not given.smoke:
        return timed(given)
    with tempfile.TemporaryDirectory() as folder:
        given.folder, given.n = Path(folder), 100
        timed(given)


def timed(given: argparse.Namespace) -> None:
    """Make the pictures, and read them with an empty cache and with a full one."""
    make(given.folder, given.n, given.size)
    time.sleep(3)  # pictures that changed a moment ago are not remembered
    with tempfile.TemporaryDirectory() as cache:
        for name in ("first", "again"):
            command = [sys.executable, __file__, "--read", "--folder", str(given.folder), "--size", str(given.size)]
            done = subprocess.run(command, env={**os.environ, "XDG_CACHE_HOME": cache}, capture_output=True, check=True)
            print(name, done.stdout.decode().strip(), flush=True)
        print("cache", sum(path.stat().st_size for path in Path(cache).rglob("*")) // 2**20, "MiB")


if __name__ == "__main__":
    main()
