"""Small real checkpoints, image sets and finished runs; the command line called in this process.

The networks are tiny and untrained: what is tested here is what the audit does with
networks, not what training does to them.
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported: no test waits for a network
os.environ.setdefault("OMP_NUM_THREADS", "1")  # these networks are too small for more, and runs are compared by bytes

import atexit
import tempfile

import numpy as np
import pytest

from auditor import config as settings

# Before any command runs, in this process or in a child: no test reads or writes the user's cache.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="auditor-cache-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

STEPS = (90, 200, 1000)  # as text they would sort otherwise
FAST = {
    "spaces": "pixel,correlation",
    "n-samples": "12",
    "batch-size": "5",  # does not divide 12: the last batch is padded
    "sampling-steps": "4",
    "loss-images": "6",
    "loss-levels": "2",
}
HOSTILE_NAMES = (
    "<script>window.hacked=1<.png",
    '"><img src=x onerror=window.hacked=1>.png',
    "'quotes' & {{ 7*7 }} @{x} $\\frac.png",
    "</script><b>.png",
    "x" * 200 + ".png",
    "胸部X線 Καρδιά снимок.png",
    "\u202egnp.exe.png",
)
SMALL_CONTROLS = {"N_SMOOTH": 70, "N_COPIES": 40}  # images of the controls; a batch is 64


def tiny_unet(seed: int, size: int = 8, channels: int = 1):
    """Return an untrained network of some 10,000 weights, a function of the seed."""
    import torch
    from diffusers import UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DModel(
            sample_size=size,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            add_attention=False,
        ).eval()


def write_series(root: Path, seed: int, steps: tuple[int, ...] = STEPS, size: int = 8, channels: int = 1) -> Path:
    """Write what the diffusers training script writes: raw and EMA weights per step, the scheduler beside."""
    from diffusers import DDPMScheduler

    for i, step in enumerate(steps):
        for kind, offset in (("unet", 0), ("unet_ema", 500)):
            tiny_unet(1000 * seed + i + offset, size, channels).save_pretrained(root / f"checkpoint-{step}" / kind)
    DDPMScheduler(num_train_timesteps=1000).save_pretrained(root / "scheduler")
    return root


def smooth_images(n: int, seed: int, size: int = 8) -> np.ndarray:
    """Return uint8 ``[n, size, size]``: coarse random pictures, enlarged."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (n, size // 2 + 1, size // 2 + 1))
    fine = coarse.repeat(2, axis=1).repeat(2, axis=2)
    return ((fine[:, 1:-1, 1:-1] + fine[:, :-2, :-2]) / 2).astype(np.uint8)[:, :size, :size]


@dataclass(frozen=True)
class Inputs:
    """Two series of checkpoints and the images of their trainings."""

    root: Path

    @property
    def options(self) -> dict[str, str]:
        """The options that give all of them."""
        names = {"ckpts-a": "a", "ckpts-b": "b"} | {name: f"{name}.npz" for name in ("train-a", "train-b", "heldout")}
        return {name: str(self.root / path) for name, path in names.items()}


def write_inputs(root: Path) -> Inputs:
    """Write both series and the three image sets."""
    for seed, twin in enumerate("ab", start=1):
        write_series(root / twin, seed)
    for seed, (name, n) in enumerate({"train-a": 40, "train-b": 40, "heldout": 30}.items()):
        np.savez(root / f"{name}.npz", images=smooth_images(n, seed))
    return Inputs(root)


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str


def make_fast(patch: pytest.MonkeyPatch) -> None:
    """Leave out what costs seconds and is tested on its own: controls' size, waiting for the disk, the page."""
    from auditor import pipeline
    from auditor.run import files
    from auditor.stages import controls

    for name, value in SMALL_CONTROLS.items():
        patch.setattr(controls, name, value)
    patch.setattr(files, "sync", lambda path: None)  # a killed process loses nothing that it has written
    patch.setattr(pipeline, "write_page", lambda run: None)  # test_html.py writes it at the end of a run


def call(*arguments: object) -> Outcome:
    """Return the outcome of ``audit ARGUMENTS``, run in this process as the installed command runs it."""
    from auditor import cli

    before = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = ["audit", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            redirect_stdout(out),
            redirect_stderr(err),
            warnings.catch_warnings(),
            pytest.MonkeyPatch.context() as patch,
        ):
            make_fast(patch)
            cli.main()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.argv = before[0]
        signal.signal(signal.SIGTERM, before[1])
    return Outcome(status, out.getvalue(), err.getvalue())


def as_arguments(options: dict[str, str | None]) -> list[str]:
    """Return options as one types them; None leaves an option out, an empty text makes it a flag."""
    given = [(f"--{name}", value) for name, value in options.items() if value is not None]
    return [part for name, value in given for part in ((name, value) if value != "" else (name,))]


SLOWEST = (  # files that take longest, longest first; one left to the end would keep one process waiting for the other
    "test_checkpoint_formats",
    "test_html",
    "test_smoke",
    "test_resume",
    "test_protocol",
    "test_run_formats",
    "test_cli",
    "test_verify",
    "test_lab",
    "test_networks",
    "test_scales",
    "test_real_images",
    "test_trainings",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the slowest files first; --no-loadscope-reorder keeps this order among processes."""
    rank = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(SLOWEST)))


def config_of(options: dict[str, str | None], **more: object):
    """Return options of the command line as settings."""
    from auditor.config import AuditConfig

    kinds = {each.name: str(each.type) for each in fields(AuditConfig)}
    given = {name.replace("-", "_"): value for name, value in options.items() if value is not None}
    return AuditConfig(**{name: int(v) if kinds[name].startswith("int") else v for name, v in given.items()}, **more)


def audited(options: dict[str, str | None], out: Path) -> Path:
    """Return ``out`` after a complete run into it."""
    outcome = call("run", *as_arguments({**options, "out": str(out)}))
    assert outcome.status == 0, outcome.err
    return out


def arguments_of_run(saved: Inputs, out: Path, settings: dict[str, str]) -> Callable[..., list[str]]:
    """Return a function that returns the arguments of ``audit run``; keywords change or (None) remove an option."""

    def build(inputs: Inputs = saved, **changes: object) -> list[str]:
        plain = {name.replace("_", "-"): None if value is None else str(value) for name, value in changes.items()}
        return ["run", *as_arguments({**inputs.options, "out": str(out), **settings, **plain})]

    return build


def measurements(run: Path):
    """Return the measurements of a run."""
    import pandas as pd

    return pd.read_parquet(run / "measurements.parquet")


def planned_calls(dry_run: Outcome) -> int:
    """Return how many network calls a plan announces."""
    total = next(line for line in dry_run.out.splitlines() if line.startswith("total"))
    return int(total.split()[1].replace(",", ""))


@pytest.fixture
def network_calls(monkeypatch) -> list[int]:
    """The batch sizes of all calls of networks so far, in order."""
    from diffusers import UNet2DModel

    calls = []
    forward = UNet2DModel.forward

    def counted(self, x, *more, **settings):
        calls.append(len(x))
        return forward(self, x, *more, **settings)

    monkeypatch.setattr(UNet2DModel, "forward", counted)
    return calls


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """``made_once(name, make)`` returns a folder that ``make`` filled once for all processes of this run of pytest."""
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = root / f"made-once-{name}", root / f"made-once-{name}.done"
        with open(root / f"made-once-{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def saved_inputs(made_once) -> Inputs:
    """The inputs, made once; read them only."""
    return Inputs(made_once("inputs", write_inputs))


@pytest.fixture
def inputs(saved_inputs, tmp_path) -> Inputs:
    """A copy of the inputs that a test may damage."""
    return Inputs(Path(shutil.copytree(saved_inputs.root, tmp_path / "inputs")))


@pytest.fixture
def audit() -> Callable[..., Outcome]:
    """``audit("report", path)`` is the command of that name; returns status, stdout and stderr."""
    return call


@pytest.fixture
def audit_args(saved_inputs, tmp_path) -> Callable[..., list[str]]:
    """The arguments of a fast ``audit run`` into ``tmp_path/run``; keywords change or (None) remove an option."""
    return arguments_of_run(saved_inputs, tmp_path / "run", FAST)


@pytest.fixture(scope="session")
def finished(saved_inputs, made_once) -> Path:
    """A complete run; read it only."""
    options = {**saved_inputs.options, **FAST}
    return made_once("finished", lambda folder: audited(options, folder / "run")) / "run"


@pytest.fixture(scope="session")
def without_training(saved_inputs, made_once) -> Path:
    """A complete run with neither training nor held-out images; read it only."""
    options = {name: saved_inputs.options[name] for name in ("ckpts-a", "ckpts-b")}
    return made_once("alone", lambda folder: audited({**options, **FAST}, folder / "run")) / "run"


@pytest.fixture(scope="session")
def single(saved_inputs, made_once) -> Path:
    """A complete run of one training, that on half a; read it only."""
    options = {name: saved_inputs.options[name] for name in ("ckpts-a", "train-a", "heldout")}
    return made_once("single", lambda folder: audited({**options, **FAST}, folder / "run")) / "run"


SHORT = 16  # times of a noise schedule that the published losses can go through in no time
EVERYTHING = {
    **FAST,
    "sampling-steps": None,
    "protocol": "paper",
    "steps": "90,200",
    **{settings.option(each.name)[2:]: "4" for each in fields(settings.AuditConfig) if each.metadata.get("extra")},
}


def write_everything(root: Path) -> None:
    """Write both series with a short noise schedule, the three image sets, and a run with everything switched on."""
    from diffusers import DDPMScheduler

    inputs = write_inputs(root)
    for twin in "ab":
        DDPMScheduler(num_train_timesteps=SHORT).save_pretrained(root / twin / "scheduler")
    audited({**inputs.options, **EVERYTHING}, root / "run")


@pytest.fixture(scope="session")
def everything(made_once) -> Inputs:
    """The inputs of a complete run with everything switched on, which lies beside them: ``run``; read it only."""
    return Inputs(made_once("everything", write_everything))


def write_three(root: Path) -> None:
    """Write the checkpoints and images of three trainings, x, y and z."""
    for seed, name in enumerate("xyz", start=20):
        write_series(root / name, seed)
        np.savez(root / f"{name}.npz", smooth_images(40, seed))


@pytest.fixture(scope="session")
def three(saved_inputs, made_once) -> tuple[Path, list[str]]:
    """Where three trainings, x, y and z, and their images lie, and the options that name them."""
    root = made_once("three", write_three)
    options = ["--heldout", saved_inputs.options["heldout"]]
    for name in "xyz":
        options += ["--ckpts", f"{name}={root / name}", "--train", f"{name}={root / name}.npz"]
    return root, options


@pytest.fixture(scope="session")
def three_audited(three, made_once) -> Path:
    """A complete run of three trainings; read it only."""

    def audit_all(folder: Path) -> None:
        outcome = call("run", *three[1], *as_arguments({**FAST, "out": str(folder / "run")}))
        assert outcome.status == 0, outcome.err

    return made_once("three-audited", audit_all) / "run"


@pytest.fixture(scope="session")
def hostile(saved_inputs, made_once) -> Path:
    """A complete run whose image and folder names try to be markup; read it only."""
    from PIL import Image

    def audit_hostile(root: Path) -> None:
        given = {}
        for seed, half in enumerate("ab", start=7):
            folder = root / f"<i onclick=x>{half}"
            folder.mkdir()
            given[f"train-{half}"] = str(folder)
            for i, pixels in enumerate(smooth_images(40, seed)):
                name = f"{i}{HOSTILE_NAMES[i % len(HOSTILE_NAMES)].replace('/', '∕')}"
                Image.fromarray(pixels).save(folder / name, "PNG")
        audited({**saved_inputs.options, **given, **FAST}, root / "run")

    return made_once("hostile", audit_hostile) / "run"


@pytest.fixture(scope="session")
def hostile_page(hostile, tmp_path_factory) -> Path:
    """The page of that run, as a file."""
    from auditor.reports import read_report
    from auditor.reports.formats import html

    path = tmp_path_factory.mktemp("hostile") / "report.html"
    path.write_text(html.page(read_report(hostile)))
    return path


@pytest.fixture
def run_copy(finished, tmp_path) -> Path:
    """A copy of the complete run, where ``audit_args`` would write it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@dataclass(frozen=True)
class Child:
    """A started command: ``process.kill()`` is a real ``kill -9``."""

    process: BaseProcess
    log: Path

    def wait_for(self, is_true: Callable[[], bool], seconds: float = 60) -> None:
        """Return when something is true of the disk; it must come true before the command ends."""
        end = time.monotonic() + seconds
        while not is_true():
            assert self.process.is_alive(), f"the command ended too early:\n{self.log.read_text()}"
            assert time.monotonic() < end, "it never came true"
            time.sleep(0.0005)

    def status(self) -> int:
        """Return the exit status once the command has ended; a signal is its negative number."""
        self.process.join(120)
        assert self.process.exitcode is not None, "the command hangs"
        return self.process.exitcode


def die_at_rename(number: int) -> None:
    """Make this process kill itself by SIGKILL around its n-th renaming of a file: before if n is odd, else after.

    Renaming is what makes a file part of a run, so these are the moments between two states of it.
    """
    replace, left = os.replace, [number]

    def counted(old, new):
        left[0] -= 1
        if left[0] == 0 and number % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(old, new)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counted


def in_child(arguments: list[str], log: Path, kill_at: int | None) -> None:
    """Run ``audit ARGUMENTS`` as the whole work of a process; what it prints goes to ``log``."""
    from auditor import cli

    make_fast(pytest.MonkeyPatch())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background of a script ignores it
    if kill_at:
        die_at_rename(kill_at)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["audit", *arguments]
    cli.main()


@pytest.fixture(scope="session")
def spawn(tmp_path_factory):
    """``spawn(arguments, kill_at)`` starts ``audit ARGUMENTS`` in a process of its own, which may be killed.

    The processes are forked from one that has imported the libraries already, because that takes seconds.
    """
    context = get_context("forkserver")
    heavy = ["diffusers", "diffusers.models.unets.unet_2d", "faiss", "pandas", "pyarrow.parquet", "scipy.stats"]
    context.set_forkserver_preload([*heavy, "auditor.pipeline", "auditor.reports.formats.terminal"])
    logs = tmp_path_factory.mktemp("logs")

    def start(arguments: list[str], kill_at: int | None = None) -> Child:
        log = logs / f"{len(list(logs.iterdir()))}.txt"
        log.touch()
        process = context.Process(target=in_child, args=(arguments, log, kill_at))
        process.start()
        return Child(process, log)

    return start
