"""``audit doctor``: whether this machine can audit, and what to do where it cannot."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import auditor
from auditor import spaces

if TYPE_CHECKING:
    from packaging.requirements import Requirement

SCHEMA_VERSION = 1  # of the JSON
REINSTALL = "Install the packages of constraints.txt anew: pip install -c constraints.txt ."
LEAST_DISK = 5 * 2**30  # bytes; an audit of some thousand samples needs less
TESTED_SEEDS, TESTED_STEPS = 8, 3


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: str  # ok, note (works, but), problem
    what: str
    remedy: str = ""


def examine(settings: spaces.SpaceSettings, folder: Path) -> list[Finding]:
    """Look at the installation, the hardware, weights and disk, and run a small audit's parts."""
    parts = (
        installation,
        faiss,
        hardware,
        lambda: clip_weights(settings),
        lambda: disk(folder),
        cache,
        self_test,
    )
    return [each for part in parts for each in guarded(part)]


def guarded(part: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what a part finds; what it raises is a problem of this machine, told like one."""
    try:
        yield from part()
    except Exception as error:
        name = getattr(part, "__name__", "examination").strip("<>").replace("_", " ")
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        yield Finding(name, "problem", said, REINSTALL)


def installation() -> Iterator[Finding]:
    """Yield versions, and requirements that are not met."""
    from packaging.requirements import Requirement

    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("auditor", "ok", f"auditor {auditor.__version__}, Python {python}")
    wanted = [Requirement(each) for each in metadata.requires("auditor") or []]
    lacking = [str(each) for each in wanted if (each.marker is None or each.marker.evaluate()) and not is_met(each)]
    if lacking:
        yield Finding("packages", "problem", f"not installed as required: {', '.join(lacking)}", "pip install auditor")
    else:
        yield Finding("packages", "ok", f"{len(wanted)} requirements are met")


def is_met(requirement: Requirement) -> bool:
    """Return whether a package is there in a version that fits; faiss-cpu stands for faiss-gpu."""
    for name in (requirement.name, "faiss-cpu" if requirement.name == "faiss-gpu" else requirement.name):
        try:
            if requirement.specifier.contains(metadata.version(name), prereleases=True):
                return True
        except metadata.PackageNotFoundError:
            continue
    return False


def faiss() -> Iterator[Finding]:
    """Yield whether faiss finds what a search by hand finds, and whether two copies of it are installed."""
    from auditor.neighbors import search
    from auditor.records import Features

    both = [name for name in ("faiss-gpu", "faiss-cpu") if is_installed(name)]
    if len(both) == 2:
        what = "faiss-gpu and faiss-cpu are both installed, into one folder: which of them is used is chance"
        remedy = "pip uninstall faiss-cpu faiss-gpu, then install the one that is wanted."
        yield Finding("faiss", "note", what, remedy)
    vectors = np.random.default_rng(0).normal(size=(300, 32)).astype(np.float32)
    points = Features("doctor", "x", vectors, tuple(map(str, range(300))))
    found = search(points, points, 2, exclude_self=True)
    distances = np.linalg.norm(vectors[:, None].astype(float) - vectors[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    if np.array_equal(found.indices[:, 0], distances.argmin(axis=1)):
        yield Finding("search", "ok", "faiss finds the nearest neighbors")
    else:
        yield Finding("search", "problem", "faiss finds other neighbors than a search by hand", "Reinstall faiss.")


def is_installed(name: str) -> bool:
    """Return whether a distribution is installed."""
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def hardware() -> Iterator[Finding]:
    """Yield which devices there are."""
    import faiss as library
    import torch

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            yield Finding(
                "GPU",
                "note",
                f"There is an NVIDIA driver, but torch {torch.__version__} sees no GPU",
                "Install a torch build for the driver's CUDA version, and check CUDA_VISIBLE_DEVICES.",
            )
        else:
            yield Finding("GPU", "ok", f"none: networks run on {torch.get_num_threads()} threads of the CPU")
        return
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Finding("GPU", "ok", ", ".join(names))
    if library.get_num_gpus() == 0:
        yield Finding("GPU search", "note", "faiss sees no GPU: searches run on the CPU", "pip install faiss-gpu")


def clip_weights(settings: spaces.SpaceSettings) -> Iterator[Finding]:
    """Yield whether the CLIP weights are here; nothing is asked of the network."""
    from auditor.errors import AuditError
    from auditor.spaces.clip import resolve

    os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported, which reads it once
    name = (
        settings.clip_model
        if settings.clip_model.startswith("local-dir:")
        else (f"{settings.clip_model} {settings.clip_weights}")
    )
    try:
        found = resolve(settings)
        yield Finding("CLIP weights", "ok", f"{name}: {found.weights}")
    except AuditError as error:
        away = "neither cached" in error.what
        what = "not on this machine; with a network, audit run fetches them" if away else error.what
        what += "; without them an audit looks in its other spaces and says so"
        yield Finding("CLIP weights", "note", f"{name}: {what}", error.remedy)


def disk(folder: Path) -> Iterator[Finding]:
    """Yield how much room there is for runs."""
    free = shutil.disk_usage(folder).free
    what = f"{free / 2**30:.1f} GiB free in {folder}"
    if free < LEAST_DISK:
        yield Finding("disk", "note", what, "Write runs elsewhere (--out); audit run --dry-run tells what one needs.")
    else:
        yield Finding("disk", "ok", what)


def cache() -> Iterator[Finding]:
    """Yield whether contents of images can be remembered."""
    from auditor.images.cache import folder

    path = folder()
    there = next(each for each in (path, *path.parents) if each.exists())
    if os.access(there, os.W_OK):
        yield Finding("cache", "ok", f"contents of images are remembered in {path}")
    else:
        yield Finding(
            "cache", "note", f"{path} cannot be written: images are decoded anew each time", "Set XDG_CACHE_HOME."
        )


def self_test() -> Iterator[Finding]:
    """Yield whether a shipped checkpoint is sampled, embedded and searched, twice alike."""
    from auditor import checkpoints
    from auditor.checkpoints import pairing
    from auditor.demo import shipped
    from auditor.diffusion import sampling
    from auditor.neighbors import search
    from auditor.records import Features
    from auditor.run.files import save_array

    started = time.perf_counter()
    first, second = (checkpoints.discover(shipped() / "twins" / twin, twin) for twin in "ab")
    pair = pairing.pair(first, second)
    _, scheduler = checkpoints.check_compatible(pair, None)
    model = checkpoints.load(pair.a.checkpoints[0], scheduler, "cpu")
    seeds = list(range(TESTED_SEEDS))
    drawn, again = (sampling.sample_batch(model, seeds, "ddim", TESTED_STEPS) for _ in range(2))
    space = spaces.open_space("correlation", spaces.SpaceSettings())
    vectors = spaces.embed(space, drawn, TESTED_SEEDS)
    samples = Features("correlation", "doctor", vectors, tuple(map(str, seeds)))
    nearest = search(samples, samples, 1)
    with tempfile.TemporaryDirectory() as folder:
        save_array(Path(folder) / "x.npy", drawn)
        kept = np.load(Path(folder) / "x.npy")
    seconds = time.perf_counter() - started
    if np.array_equal(drawn, again) and np.array_equal(kept, drawn) and not nearest.distances.any():
        yield Finding("self-test", "ok", f"a shipped checkpoint was sampled, embedded and searched in {seconds:.0f} s")
    else:
        yield Finding(
            "self-test",
            "problem",
            "the same seeds gave other samples, or a sample is not its own nearest neighbor",
            "Install the packages of constraints.txt; report it with the output of audit doctor --json.",
        )


def as_text(findings: list[Finding]) -> str:
    """Return one line per finding, and the remedy below where there is one."""
    lines = []
    for each in findings:
        lines.append(f"{each.status:8} {each.name}: {each.what}")
        lines += [f"{'':8} to do: {each.remedy}"] if each.remedy else []
    n = sum(each.status == "problem" for each in findings)
    lines.append("Ready to audit." if not n else f"{n} problem{'s' if n > 1 else ''} to be solved before an audit.")
    return "\n".join(lines)


def as_json(findings: list[Finding]) -> str:
    """Return the findings for programs."""
    ready = all(each.status != "problem" for each in findings)
    return json.dumps(
        {"schema": SCHEMA_VERSION, "ready": ready, "findings": [asdict(each) for each in findings]}, indent=2
    )
