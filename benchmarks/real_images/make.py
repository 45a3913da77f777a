"""The published figures 1a and 2 on real images: K trainings on disjoint sets, every pair of them audited, K valid.

    python benchmarks/real_images/make.py plan DATA OUT                    # checks the full scale without training
    python benchmarks/real_images/make.py all DATA OUT --device cuda       # one GPU; the same command goes on
    python benchmarks/real_images/make.py all DATA OUT --scale small       # two cores, about two hours

DATA is any source of images that ``audit run`` reads: a folder, ``FILE.npz:KEY+KEY``, a CSV. ``prepare``, ``train``,
``audit`` and ``figure`` are the parts of ``all``. The recipe is that of arXiv 2603.03469: pictures in [0, 1] less the
mean of the own training set, Adam at a constant rate, times 1 to 999, dropout; at full scale no averaging of weights.
Duplicates and near-duplicates are removed first. OUT must lie outside the repository.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import sys
import tempfile
import time
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # for the factory, whoever imports this file

from auditor import images, split  # noqa: E402
from auditor.config import PUBLISHED_SAMPLER  # noqa: E402
from auditor.errors import AuditError  # noqa: E402
from auditor.images import Reading  # noqa: E402
from auditor.lab.training import (  # noqa: E402
    Record,
    follow,
    kept_share,
    load_state,
    log_spaced,
    own_random_state,
    require_same,
    save_state,
)
from auditor.run.files import atomic, write_json  # noqa: E402
from auditor.seeds import derived_seed  # noqa: E402

VERBS = ("plan", "prepare", "train", "audit", "figure", "all")
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "steps_offset": 1,
    "clip_sample": False,
}
LEAST_TRAININGS = 3
SAVED_EVERY = 500  # steps after which at most a stopped training is set back
TINY = 4  # pictures of the batch that ``plan`` tries


@dataclass(frozen=True)
class Experiment:
    """Everything that the numbers depend on, but the images."""

    side: int  # pixels; divisible by 4
    width: int  # channels of the network at full resolution
    n_train: int  # images per training
    n_heldout: int
    batch_size: int
    learning_rate: float
    steps: tuple[int, ...]  # optimizer steps at which a checkpoint is written
    n_samples: int
    sampler: str  # of ``audit run``
    sampling_steps: int
    loss_images: int
    loss_levels: int
    average: float = 0.0  # relative width of the average of weights that is saved in place of the last ones; 0: none
    trainings: int = 4
    channels: int = 1
    seed: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The trainings."""
        return tuple(f"s{i}" for i in range(self.trainings))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, c) of the pictures."""
        return self.side, self.side, self.channels


SCALES = {
    "full": Experiment(32, 32, 1024, 1024, 512, 1e-4, log_spaced(200, 10_000, 20), 512, "published", 1000, 256, 16),
    # Fewer images and a higher rate: the twins turn to their images within what two cores can train. At that rate
    # weights jitter by as much as the twins part, so averages are saved. Networks this short of training leave noise
    # in most samples of DDIM; DDPM takes it out.
    "small": Experiment(16, 16, 128, 1024, 32, 1e-3, log_spaced(150, 8000, 10), 128, "ddpm", 100, 64, 8, 0.1),
}


def main(arguments: list[str] | None = None) -> None:
    """Carry out one verb."""
    if "--smoke" in (sys.argv[1:] if arguments is None else arguments):
        from make import smoke  # this file as the others import it: what it makes is made once

        print(f"made {sum(1 for _ in smoke().rglob('*'))} files")
        return
    given = parsed(arguments)
    verbs = ("prepare", "train", "audit", "figure") if given.verb == "all" else (given.verb,)
    try:
        experiment = wanted(given)
        for verb in verbs:
            carry_out(verb, experiment, given)
    except AuditError as error:
        sys.exit(f"{error.what}\n  where: {error.where}\n  to do: {error.remedy}")


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("data", help="the images")
    parser.add_argument("out", type=Path)
    parser.add_argument("--scale", choices=tuple(SCALES), default="full")
    parser.add_argument("--trainings", type=int, default=4, help="how many, at least 3")
    parser.add_argument("--n-train", type=int, help="images per training")
    parser.add_argument("--last-step", type=int, help="of the trainings; a longer one goes on from a shorter")
    parser.add_argument("--steps", help="audit these checkpoints only, comma-separated")
    parser.add_argument("--color", action="store_true", help="three channels instead of one")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--smoke", action="store_true", help="alone: all of it on noise, at toy size: does it start?")
    return parser.parse_args(arguments)


def wanted(given: argparse.Namespace) -> Experiment:
    """Return the experiment that the options ask for.

    Raises
    ------
    AuditError
        If it cannot be done so, or OUT holds another one.
    """
    scale = SCALES[given.scale]
    steps = scale.steps
    if given.last_step is not None:
        steps = log_spaced(min(steps[0], given.last_step), given.last_step, len(steps))
    experiment = replace(
        scale,
        steps=steps,
        trainings=given.trainings,
        n_train=given.n_train or scale.n_train,
        channels=3 if given.color else 1,
    )
    if given.trainings < LEAST_TRAININGS:
        what = f"{given.trainings} trainings carry no interval over trainings."
        raise AuditError(what, "--trainings", f"Give at least {LEAST_TRAININGS}, better 4 or more.")
    return experiment


def carry_out(verb: str, experiment: Experiment, given: argparse.Namespace) -> None:
    """Carry out one part; a part that is done already is not done again."""
    if verb == "plan":
        plan(experiment, given.data, given.out, given.device)
    elif verb == "prepare":
        prepare(experiment, given.data, given.out)
    elif verb == "train":
        for name in experiment.names:
            train(experiment, given.out, name, given.device)
    elif verb == "audit":
        audit(experiment, given.out, given.device, given.steps)
    else:
        from figure import write

        write(given.out)


# Images


def prepare(experiment: Experiment, data: str, out: Path) -> None:
    """Write ``out/data/s0.npz``, ..., ``heldout.npz`` (key ``images``), drawn together, and what the audit is told."""
    drawn = {
        name: getattr(experiment, name) for name in ("side", "channels", "trainings", "n_train", "n_heldout", "seed")
    }
    require_same(made(out / "data"), {**drawn, "data": data})
    if (out / "data" / "heldout.npz").exists():
        return
    pictures = distinct(experiment, data, out)
    sizes = dict.fromkeys(experiment.names, experiment.n_train) | {"heldout": experiment.n_heldout}
    order = np.random.default_rng(derived_seed("real images", experiment.seed)).permutation(len(pictures))
    for (name, n), end in zip(sizes.items(), np.cumsum(list(sizes.values())), strict=True):
        with atomic(out / "data" / f"{name}.npz") as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, images=pictures[np.sort(order[end - n : end])])
    write_json(out / "scheduler.json", SCHEDULER)
    write_json(out / "network.json", {"channels": experiment.channels, "width": experiment.width})


def distinct(experiment: Experiment, data: str, out: Path) -> np.ndarray:
    """Return the pictures at the network's size, one of each cluster of duplicates, uint8 ``[n, h, w, c]``."""
    say(f"reading {data}")
    items = split.read_items(split.Options(data), out)
    clusters = split.find_clusters(items, split.Options(data).near).of
    first = np.sort(np.unique(clusters, return_index=True)[1])
    whole = images.read(data, "data", experiment.shape, Reading(convert_color=True), scratch=out)
    # Some become equal when they shrink.
    unique = np.sort(first[np.unique([whole.digests[i] for i in first], return_index=True)[1]])
    kept = np.asarray(whole.images[unique[~np.asarray(whole.blank)[unique]]])
    say(f"{len(whole):,} images; {len(kept):,} are left without duplicates, near-duplicates and blank ones")
    asked = experiment.trainings * experiment.n_train + experiment.n_heldout
    if len(kept) < asked:
        what = f"{len(kept):,} images are too few: {experiment.trainings} trainings and held-out take {asked:,}."
        raise AuditError(what, data, "Give more images, or a smaller --n-train or --trainings.")
    return kept


# Trainings


def train(experiment: Experiment, out: Path, name: str, device: str) -> None:
    """Train one network into ``out/runs/NAME``; its state lies in ``out/training/NAME``.

    Times, noise and dropout of a step depend on the training and the step alone, so a training that was stopped goes on
    to the same weights, on the same machine, as one that never was.
    """
    import torch
    from unet import make

    pixels = np.load(out / "data" / f"{name}.npz")["images"]
    state, seed = made(out / "training" / name), derived_seed("real images", experiment.seed, name)
    recipe = {key: getattr(experiment, key) for key in ("width", "channels", "batch_size", "learning_rate")}
    recipe |= {"average": experiment.average} if experiment.average else {}
    require_same(state, {**recipe, "seed": seed, "images": sha256(pixels.tobytes()).hexdigest()})
    with own_random_state(device):
        torch.manual_seed(seed)
        network = make(experiment.channels, experiment.width).to(device).train()
        optimizer = torch.optim.Adam(network.parameters(), experiment.learning_rate)
        networks = {"network": network} | ({"average": deepcopy(network)} if experiment.average else {})
        start = load_state(state, networks, optimizer)
        x0 = as_seen(pixels).to(device)
        record = Record(state / "log.jsonl", Logged(experiment.steps), start, lambda *at: say(progress(name, *at)))
        for step in range(start + 1, experiment.steps[-1] + 1):
            torch.manual_seed(derived_seed("real images", seed, step))
            rows = batch(len(x0), experiment.batch_size, seed, step)
            record.add(step, one_step(network, optimizer, x0[rows]))
            if experiment.average:
                follow(networks["average"], network, kept_share(step, experiment.average))
            if step in experiment.steps:
                saved = networks.get("average", network)
                write_checkpoint(saved, out / "runs" / name / f"step-{step}.safetensors")
            if step in experiment.steps or step % SAVED_EVERY == 0:
                save_state(state, step, networks, optimizer)


@dataclass(frozen=True)
class Logged:
    """When the log gets a line."""

    steps: tuple[int, ...]
    log_every: int = 100


def as_seen(pixels: np.ndarray) -> Any:
    """Return pictures as the network sees them, float32 ``[n, c, h, w]``: in [0, 1], less their mean per channel."""
    import torch

    scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return (scaled - scaled.double().mean(dim=(0, 2, 3), keepdim=True).float()).contiguous()


def batch(n: int, size: int, seed: int, step: int) -> np.ndarray:
    """Return the rows of one batch: whole epochs, each in an order of its own, the last batch of one may be smaller."""
    per_epoch = -(-n // size)
    epoch, part = divmod(step - 1, per_epoch)
    order = np.random.default_rng(derived_seed("real images epoch", seed, epoch)).permutation(n)
    return order[part * size : (part + 1) * size]


def one_step(network: Any, optimizer: Any, x0: Any) -> Any:
    """Take one optimizer step on the noise prediction; return its loss."""
    import torch

    t = torch.randint(1, SCHEDULER["num_train_timesteps"], (len(x0),), device=x0.device)
    kept = abar().to(x0.device)[t].view(-1, 1, 1, 1)
    noise = torch.randn_like(x0)
    loss = torch.nn.functional.mse_loss(network(kept.sqrt() * x0 + (1 - kept).sqrt() * noise, t), noise)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def abar() -> Any:
    """Return what is left of the signal's variance at every time, float32 ``[1000]``."""
    import torch

    betas = torch.linspace(SCHEDULER["beta_start"], SCHEDULER["beta_end"], SCHEDULER["num_train_timesteps"])
    return torch.cumprod(1 - betas, dim=0)


def write_checkpoint(network: Any, path: Path) -> None:
    """Write the weights of one step."""
    from safetensors.torch import save_file

    with atomic(path) as temporary:
        save_file({key: each.detach().cpu().contiguous() for key, each in network.state_dict().items()}, temporary)


# The audit


def audit(experiment: Experiment, out: Path, device: str, steps: str | None = None) -> None:
    """Audit all pairs into ``out/audit``; an audit that was stopped goes on."""
    from auditor.cli import app

    command = [*audit_command(experiment, out.resolve(), device), *(["--steps", steps] if steps else [])]
    say("audit " + " ".join(command))
    code = app(command, standalone_mode=False)
    if code:
        sys.exit(code)


def audit_command(experiment: Experiment, out: Path, device: str) -> list[str]:
    """Return the arguments of ``audit``; given by hand, start it in the folder of ``unet.py``."""
    command = ["run"]
    for name in experiment.names:
        command += ["--ckpts", f"{name}={out / 'runs' / name}", "--train", f"{name}={out / 'data' / name}.npz"]
    sampled = {"sampler": experiment.sampler, "sampling-steps": experiment.sampling_steps}
    if experiment.sampler == PUBLISHED_SAMPLER:
        sampled = {"protocol": "paper"}
    settings = {
        "heldout": out / "data" / "heldout.npz",
        "model": "unet:make",
        "model-config": out / "network.json",
        "scheduler": out / "scheduler.json",
        "image-shape": "x".join(map(str, experiment.shape)),
        "prediction": "epsilon",
        "pixel-range": "0,1",
        "pixel-mean": "own",
        "spaces": "pixel,correlation",
        "n-samples": experiment.n_samples,
        **sampled,
        "loss-images": experiment.loss_images,
        "loss-levels": experiment.loss_levels,
        "device": device,
        "out": out / "audit",
    }
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    return command


# The plan


def plan(experiment: Experiment, data: str, out: Path, device: str) -> None:
    """Print the experiment, and check what can be without training: images, network, one small step, time."""
    import torch
    from unet import make

    for name, value in as_json(experiment).items():
        print(f"{name:>16}: {value}")
    distinct(experiment, data, made(out))
    with own_random_state(device):
        network = make(experiment.channels, experiment.width).to(device).train()
        optimizer = torch.optim.Adam(network.parameters(), experiment.learning_rate)
        n, side = min(TINY, experiment.batch_size), experiment.side
        x0 = torch.randn(n, experiment.channels, side, side, device=device)
        seconds = []
        for _ in range(4):
            began = time.perf_counter()
            loss = float(one_step(network, optimizer, x0))
            seconds.append(time.perf_counter() - began)
    if not np.isfinite(loss):
        raise AuditError(f"The loss of one step is {loss}.", device, "Try another device.")
    weights = sum(each.numel() for each in network.parameters())
    steps, each = experiment.steps[-1] * experiment.trainings, min(seconds) / n * experiment.batch_size
    print(f"{'network':>16}: {weights:,} weights, {side}x{side} pictures, loss {loss:.3f}")
    print(
        f"{'trainings':>16}: {steps:,} steps on {device}, at most about {steps * each / 3600:.1f} hours, reckoned from"
    )
    print(f"{'':>16}  steps on {n} pictures (a GPU takes larger batches much better)")
    print(f"{'audit':>16}: audit {' '.join(audit_command(experiment, out.resolve(), device))}")


# Does it start?


@cache
def smoke() -> Path:
    """Return the folder of a whole experiment at toy size, on colored noise, which goes when the process ends."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    out = Path(folder.name) / "out"
    toy = Experiment(8, 8, 10, 10, 5, 1e-3, (1, 2), 4, "ddim", 1, 2, 1, 0.1, trainings=LEAST_TRAININGS)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    np.savez(Path(folder.name) / "data.npz", images=pixels)
    given = argparse.Namespace(data=str(Path(folder.name) / "data.npz"), out=out, device="cpu", steps=None)
    for verb in ("prepare", "train", "audit", "figure"):
        carry_out(verb, toy, given)
    return out


# Small things


def as_json(value: Any) -> Any:
    """Return what JSON makes of a value."""
    return json.loads(json.dumps(asdict(value) if isinstance(value, Experiment) else value))


def made(folder: Path) -> Path:
    """Return a folder that exists."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def progress(name: str, step: int, steps: int, loss: float) -> str:
    """Return how far a training is."""
    return f"training {name}: step {step:,} of {steps:,}, loss {loss:.4f}"


def say(text: str) -> None:
    """Print one line of progress to stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = "1"  # the last digits of the weights depend on it
    main()
