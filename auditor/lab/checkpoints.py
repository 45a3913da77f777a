"""Checkpoints of the hierarchical world, as an audit reads them: ``checkpoint-N/lab.json`` beside safetensors.

An average of the weights lies in ``checkpoint-N/ema/``, in the same two files.

A model of the lab takes noisy one-hots of values 0 and 1, so the audit scales its images to that
range; its network predicts x_0, and the schedule saved with it is the lab's. DDPM sampling of an
audit is then the lab's own reverse chain, from the same noise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.checkpoints.configs import absence, read_json
from auditor.checkpoints.formats import Guide, Unusable
from auditor.checkpoints.headers import read_header, tensors_in
from auditor.checkpoints.settings import ModelSettings
from auditor.diffusion import schedules
from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.scaling import Pixels
from auditor.errors import AuditError, CheckpointError
from auditor.lab.blend import Blend
from auditor.lab.diffusion import Denoiser, Diffusion
from auditor.lab.grammar import Grammar, from_numbers
from auditor.records import NOT_SAID, Checkpoint, Facts, Flips, Found
from auditor.run.files import atomic, write_json

if TYPE_CHECKING:
    import torch

CONFIG, WEIGHTS = "lab.json", "lab.safetensors"
AVERAGE = "ema"
SCHEDULER = "scheduler/scheduler_config.json"
REMEMBERED = "train"  # array of a blend: training sequences
RANGE = (0.0, 1.0)  # of a one-hot
KINDS = ("blend", "transformer")
STEP_NAME = re.compile(r"checkpoint-([0-9]+)")


class LabFormat:
    """Denoisers of the hierarchical world: trained transformers and blends of exact ones."""

    name = "lab"
    uses = ()
    REVISION = 1
    guide = Guide(
        trainers="`audit lab train`: transformers on sequences of the hierarchical grammar; `audit lab fixture`",
        layout="`checkpoint-500/lab.json` beside `lab.safetensors`",
        weights="raw; an average in `checkpoint-500/ema/`",
        schedule="in `scheduler/`, beside the checkpoints",
        command="nothing",
        tested="written by `audit lab`",
        examples=(("", "--spaces onehot,level-1"),),
    )

    def __init__(self, settings: ModelSettings | None = None) -> None:
        """Need nothing of the settings."""

    def find(self, root: Path) -> tuple[list[Found], Unusable]:
        """Return the usable steps under ``root``, and (step, path, reason) of what is not usable."""
        found: list[Found] = []
        unusable: Unusable = []
        for folder in sorted(root.iterdir()):
            step = STEP_NAME.fullmatch(folder.name)
            if step is None or not (folder / CONFIG).exists():
                continue
            paths = {"raw": folder} | ({"ema": folder / AVERAGE} if (folder / AVERAGE / CONFIG).exists() else {})
            try:
                for path in paths.values():
                    read_config(path)
                    require_file(path / WEIGHTS)
            except CheckpointError as error:
                unusable.append((int(step[1]), folder, f"{error.what} {error.remedy}".strip()))
            else:
                schedule = root / SCHEDULER
                found.append(Found(int(step[1]), paths, schedule if schedule.exists() else None))
        return found, unusable

    def facts(self, checkpoint: Checkpoint) -> Facts:
        """Return what the headers say; an image is (length, q, 1), of values 0 and 1 for the network."""
        config = read_config(checkpoint.path)
        grammar = grammar_of(config, checkpoint.path)
        tensors = tensors_in(read_header(checkpoint.path / WEIGHTS).content)
        # The sequences that a blend remembers are no parameters: their number differs between steps of one recipe.
        n_parameters = sum(each.size for name, each in tensors.items() if name != REMEMBERED)
        return Facts((grammar.length, grammar.q, 1), config["kind"], n_parameters, pixels=RANGE)

    def schedule(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        """Return the schedule saved beside the series."""
        return None if checkpoint.scheduler is None else read_json(checkpoint.scheduler)

    def flips(self, checkpoint: Checkpoint) -> Flips:
        """Return that nothing says it: sequences have no mirror images."""
        return NOT_SAID

    def inspect(self, checkpoint: Checkpoint) -> str:
        """Return the sha256 over both files, whose denoiser could be built."""
        read(checkpoint.path)
        return digest(checkpoint.path)

    def load(self, checkpoint: Checkpoint, scheduler_config: Mapping[str, Any], device: str) -> DiffusionModel:
        """Return the denoiser as a network that predicts images of values -1 to 1."""
        if checkpoint.digest not in ("", digest(checkpoint.path)):
            raise CheckpointError("The files changed after they were first read.", checkpoint.path, "Start again.")
        denoiser, diffusion, grammar, n_parameters = read(checkpoint.path, device)
        return as_model(denoiser, diffusion, grammar, scheduler_config, n_parameters)


def as_model(
    denoiser: Denoiser, diffusion: Diffusion, grammar: Grammar, scheduler_config: Mapping[str, Any], n_parameters: int
) -> DiffusionModel:
    """Return a denoiser of one-hots as the model of an audit; network times are 0 to n_steps - 1."""

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return denoiser(x[:, 0], t + 1)[:, None]

    shape = (grammar.length, grammar.q, 1)
    return DiffusionModel(network, dict(scheduler_config), shape, n_parameters, Pixels(*RANGE))


def schedule(diffusion: Diffusion) -> dict[str, Any]:
    """Return the configuration of the diffusers scheduler that goes with the checkpoints."""
    return schedules.by_betas(1 - diffusion.kept[1:] / diffusion.kept[:-1], "sample", clip=False)


# Files


def folder_of(root: Path, step: int, weights: str = "raw") -> Path:
    """Return the folder of one step's weights, or of their average (``ema``)."""
    folder = root / f"checkpoint-{step}"
    return folder / AVERAGE if weights == "ema" else folder


def write_series(root: Path, diffusion: Diffusion) -> None:
    """Write what belongs to all checkpoints of a training: the schedule."""
    (root / SCHEDULER).parent.mkdir(parents=True, exist_ok=True)
    write_json(root / SCHEDULER, schedule(diffusion))


def write_blend(root: Path, step: int, blend: Blend) -> None:
    """Write a blend as a checkpoint; the training sequences only where it remembers them."""
    numbers = {name: getattr(blend, name) for name in ("level", "memory", "initial")}
    arrays = {"weights": blend.weights} | ({REMEMBERED: blend.train.astype(np.uint8)} if blend.memory > 0 else {})
    write(folder_of(root, step), "blend", blend.grammar, blend.diffusion, numbers, arrays)


def write(
    folder: Path,
    kind: str,
    grammar: Grammar,
    diffusion: Diffusion,
    settings: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Write one checkpoint; a folder without ``lab.json``, which comes last, is none."""
    from dataclasses import asdict

    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / WEIGHTS) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)
    config = {"kind": kind, "grammar": asdict(grammar), "n_steps": diffusion.n_steps, "settings": dict(settings)}
    write_json(folder / CONFIG, config)


def read_config(folder: Path) -> dict[str, Any]:
    """Return ``lab.json``, its kind and grammar checked."""
    path = folder / CONFIG
    config = read_json(path, CheckpointError)
    if config.get("kind") not in KINDS:
        raise CheckpointError(f"The kind of model is {config.get('kind')!r}; known are {', '.join(KINDS)}.", path)
    if type(config.get("n_steps")) is not int or config["n_steps"] < 1 or not isinstance(config.get("settings"), dict):
        raise CheckpointError(f"{CONFIG} lacks n_steps or settings.", path, "Train again with audit lab train.")
    grammar_of(config, folder)
    return config


def grammar_of(config: Mapping[str, Any], folder: Path) -> Grammar:
    """Return the grammar of a checkpoint."""
    try:
        return from_numbers(config.get("grammar"), folder / CONFIG)
    except AuditError as error:
        raise CheckpointError(error.what, folder / CONFIG, error.remedy) from error


def read(folder: Path, device: str = "cpu") -> tuple[Denoiser, Diffusion, Grammar, int]:
    """Return the denoiser of a checkpoint, its diffusion and grammar, and its number of weights."""
    config = read_config(folder)
    arrays = read_arrays(folder / WEIGHTS)
    grammar, diffusion = grammar_of(config, folder), Diffusion(config["n_steps"])
    try:
        if config["kind"] == "blend":
            denoiser: Denoiser = blend_of(config["settings"], arrays, grammar, diffusion)
        else:
            from auditor.lab import transformer

            denoiser = transformer.restored(config["settings"], arrays, grammar, diffusion, device)
    except (KeyError, TypeError, ValueError, RuntimeError) as problem:
        what = f"The weights do not fit {CONFIG}: {str(problem).splitlines()[0]}."
        raise CheckpointError(what, folder, "Train again with audit lab train.") from problem
    return denoiser, diffusion, grammar, sum(each.size for name, each in arrays.items() if name != REMEMBERED)


def blend_of(
    settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray], grammar: Grammar, diffusion: Diffusion
) -> Blend:
    """Return a blend from its checkpoint."""
    level, memory, initial = (float(settings[name]) for name in ("level", "memory", "initial"))
    grammar.require_level(int(np.ceil(level)))
    train = arrays[REMEMBERED].astype(np.int64) if memory > 0 else np.empty((0, grammar.length), dtype=np.int64)
    d = grammar.length * grammar.q
    if arrays["weights"].shape != (d, d) or train.shape[1:] != (grammar.length,) or (train >= grammar.q).any():
        raise ValueError("an array has another shape than the grammar's")
    return Blend(
        grammar=grammar,
        diffusion=diffusion,
        level=level,
        memory=memory,
        initial=initial,
        train=train,
        weights=arrays["weights"],
    )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the finite arrays of a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    require_file(path)
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as problem:
        raise CheckpointError(f"{path.name} is corrupt: {problem}.", path, "Copy or save it again.") from problem
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            what = f"The weights {name} hold NaN or infinite values."
            raise CheckpointError(what, path, "The training diverged before this step.")
    return arrays


def require_file(path: Path) -> None:
    """Refuse a checkpoint without its weights."""
    if not path.is_file():
        raise CheckpointError(f"{path.name} {absence(path)}.", path, "Copy or save it again.")


def digest(folder: Path) -> str:
    """Return the sha256 over both files of a checkpoint."""
    total = sha256()
    for name in (CONFIG, WEIGHTS):
        total.update((folder / name).read_bytes())
    return total.hexdigest()
