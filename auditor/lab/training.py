"""Training of the learned denoiser: cross-entropy of the letters, log-spaced checkpoints, resumable.

The sequences of a batch, their times and noise and the dropout of step s depend on the training's
seed and s alone. A training that was stopped goes on to the same weights, on the same
machine, as one that never was.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.checkpoints.configs import read_json
from auditor.diffusion.device import resolve_device
from auditor.errors import AuditError
from auditor.lab import checkpoints, transformer
from auditor.lab.data import read_folder
from auditor.lab.diffusion import Diffusion
from auditor.lab.grammar import Grammar
from auditor.lab.transformer import Shape
from auditor.run.files import atomic, write_json
from auditor.seeds import derived_seed

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, int, float], None]  # step, steps in all, mean loss since the last call
Networks = Mapping[str, "torch.nn.Module"]  # "network" and, where it is kept, "average"
IDENTITY, STATE, LOG = "training.json", "state.safetensors", "log.jsonl"
WARM_EPOCHS = 50  # the learning rate falls linearly to one half over these, then by a cosine to a tenth


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Twins share all of it but the seed."""

    steps: tuple[int, ...]  # optimizer steps at which a checkpoint is written; the last one ends the training
    shape: Shape = field(default_factory=Shape)
    batch_size: int = 512
    learning_rate: float = 3e-4
    seed: int = 0
    bfloat16: bool = False  # networks in that type on a GPU; weights stay float32
    times: tuple[int, int] | None = None  # least and largest time of the noise that is trained on; None: all
    average: float = 0.0  # relative width of an average of weights that is saved beside them; 0: none
    save_every: int = 1000  # steps after which at most a stopped training is set back
    log_every: int = 100

    def __post_init__(self) -> None:
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or self.steps[0] < 1:
            raise AuditError(f"The steps {self.steps} do not increase from 1.", "--steps", "Give, say, 10000.")
        if self.shape.width % self.shape.heads:
            what = f"The width {self.shape.width} is no multiple of {self.shape.heads} heads."
            raise AuditError(what, "--width", "Give another width.")
        if self.times is not None and not 1 <= self.times[0] <= self.times[1]:
            raise AuditError(f"{self.times} are no times.", "--times", "Give two, the lower first: --times 50,100.")
        if not 0 <= self.average <= 0.25:
            raise AuditError(f"An average cannot be {self.average:g} wide.", "--average", "Give 0 to 0.25.")


def log_spaced(first: int, last: int, n: int) -> tuple[int, ...]:
    """Return up to n different whole steps from ``first`` to ``last`` at equal ratios."""
    return tuple(sorted({int(step) for step in np.rint(np.geomspace(min(first, last), last, n))}))


def times_from(text: str | None) -> tuple[int, int] | None:
    """Return LEAST,LARGEST as two times of the noise, None for all."""
    if text is None:
        return None
    try:
        least, largest = map(int, text.split(","))
    except ValueError:
        raise AuditError(f"{text!r} are no times.", "--times", "Give two, the lower first: --times 50,100.") from None
    return least, largest


def train(
    sequences: np.ndarray,
    grammar: Grammar,
    diffusion: Diffusion,
    recipe: Recipe,
    out: Path,
    device: str = "cpu",
    progress: Progress | None = None,
) -> None:
    """Train on these sequences and write checkpoints, state and log to ``out``; go on where it was stopped.

    Raises
    ------
    AuditError
        If ``out`` holds a training of another recipe, grammar or set of sequences, or there are no such times.
    """
    import torch

    if recipe.times is not None and recipe.times[1] > diffusion.n_steps:
        raise AuditError(f"There is no time {recipe.times[1]}.", "--times", f"Give at most {diffusion.n_steps}.")
    identity = identity_of(sequences, grammar, diffusion, recipe)
    require_same(out, identity)
    checkpoints.write_series(out, diffusion)
    network = transformer.new_network(grammar, recipe.shape, derived_seed("lab network", recipe.seed)).to(device)
    networks = {"network": network} | ({"average": deepcopy(network)} if recipe.average else {})
    optimizer = torch.optim.Adam(network.parameters(), recipe.learning_rate)
    start = load_state(out, networks, optimizer)
    letters = torch.as_tensor(sequences, dtype=torch.int64, device=device)
    record = Record(out / LOG, recipe, start, progress)
    with own_random_state(device):
        for step in range(start + 1, recipe.steps[-1] + 1):
            for group in optimizer.param_groups:
                group["lr"] = rate(step, len(letters), recipe)
            loss = one_step(network, optimizer, letters, grammar, diffusion, recipe, step)
            record.add(step, loss)
            if recipe.average:
                follow(networks["average"], network, kept_share(step, recipe.average))
            if step in recipe.steps:
                write_checkpoint(out, step, networks, grammar, diffusion, recipe)
            if step in recipe.steps or step % recipe.save_every == 0:
                save_state(out, step, networks, optimizer)


def train_all(
    data: Path, out: Path, recipe: Recipe, repeats: int, device: str, say: Callable[[str], None] = lambda text: None
) -> list[Path]:
    """Train on every set of a folder, ``repeats`` times each; return the folders: a, b, ..., a2, b2, ...

    Each training has a seed of its own, derived from the recipe's, its set and its repeat.
    """
    grammar, sets = read_folder(data)
    where = resolve_device(device)
    folders = []
    for repeat in range(1, repeats + 1):
        for name, sequences in sets.items():
            folder = out / (name if repeat == 1 else f"{name}{repeat}")
            own = replace(recipe, seed=derived_seed("lab training", recipe.seed, name, repeat))
            line = f"training {folder.name}: step {{:,}} of {{:,}}, loss {{:.4f}}".format
            train(sequences, grammar, Diffusion(), own, folder, where, lambda *at, line=line: say(line(*at)))
            folders.append(folder)
    return folders


def one_step(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    letters: torch.Tensor,
    grammar: Grammar,
    diffusion: Diffusion,
    recipe: Recipe,
    step: int,
) -> torch.Tensor:
    """Take one optimizer step; return its loss, nats per letter."""
    import torch

    torch.manual_seed(derived_seed("lab step", recipe.seed, step))  # dropout, too
    network.train()
    x0_letters = letters[batch(len(letters), recipe, step)]
    x0 = torch.nn.functional.one_hot(x0_letters, grammar.q).float()
    least, largest = recipe.times or (1, diffusion.n_steps)
    t = torch.randint(least, largest + 1, (len(x0),), device=x0.device)
    x_t = diffusion.noisy(x0, t, torch.randn_like(x0))
    with torch.autocast(x0.device.type, torch.bfloat16, enabled=recipe.bfloat16):
        logits = network(x_t, t)
    loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), x0_letters.flatten())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def batch(n: int, recipe: Recipe, step: int) -> np.ndarray:
    """Return the rows of one batch: whole epochs, each in a new order that depends on the seed and its number."""
    size = min(recipe.batch_size, n)
    per_epoch = math.ceil(n / size)
    epoch, part = divmod(step - 1, per_epoch)
    order = np.random.default_rng(derived_seed("lab epoch", recipe.seed, epoch)).permutation(n)
    return order[part * size : (part + 1) * size]


def rate(step: int, n: int, recipe: Recipe) -> float:
    """Return the learning rate of a step: constant over an epoch."""
    per_epoch = math.ceil(n / min(recipe.batch_size, n))
    epoch, epochs = (step - 1) // per_epoch, max(math.ceil(recipe.steps[-1] / per_epoch), 1)
    warm = min(WARM_EPOCHS, epochs)
    if epoch < warm:
        factor = 1 - 0.5 * epoch / warm
    else:
        factor = 0.1 + 0.4 * (1 + math.cos(math.pi * (epoch - warm) / max(epochs - warm, 1))) / 2
    return recipe.learning_rate * factor


def kept_share(step: int, width: float) -> float:
    """Return the share of the old average that a step keeps, (1 - 1/step)^(g + 1); 0 at the first step.

    The average then weighs the weights of step s by s^g (a power-function average, arXiv 2312.02696, eq. 3), whose
    standard deviation is ``width`` times the step: sqrt((g + 1) / (g + 3)) / (g + 2) = ``width``, a cubic in g.
    """
    inverse = width**-2
    g = np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max()
    return float((1 - 1 / step) ** (g + 1))


def follow(average: torch.nn.Module, network: torch.nn.Module, kept: float) -> None:
    """Move an average towards the weights."""
    import torch

    with torch.no_grad():
        for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
            mean.lerp_(weight, 1 - kept)


@contextmanager
def own_random_state(device: str) -> Iterator[None]:
    """Leave torch's generators as they were."""
    import torch

    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
        yield


# Files


def write_checkpoint(
    out: Path, step: int, networks: Networks, grammar: Grammar, diffusion: Diffusion, recipe: Recipe
) -> None:
    """Write the weights of one step, and their average before them: a checkpoint that is there is whole."""
    settings = asdict(recipe.shape)
    for name, weights in (("average", "ema"), ("network", "raw")):
        if (network := networks.get(name)) is None:
            continue
        where = checkpoints.folder_of(out, step, weights)
        checkpoints.write(where, "transformer", grammar, diffusion, settings, transformer.arrays_of(network))


def identity_of(sequences: np.ndarray, grammar: Grammar, diffusion: Diffusion, recipe: Recipe) -> dict[str, Any]:
    """Return what the weights depend on, as JSON has it."""
    # Without an average the identity is that of trainings from before there were any: they can be gone on with.
    left_out = ("save_every", "log_every", *([] if recipe.average else ["average"]))
    parts = {
        "recipe": {k: v for k, v in asdict(recipe).items() if k not in left_out},
        "grammar": asdict(grammar),
        "n_steps": diffusion.n_steps,
        "sequences": sha256(np.ascontiguousarray(sequences, dtype=np.int64).tobytes()).hexdigest(),
    }
    return json.loads(json.dumps(parts))


def require_same(out: Path, identity: dict[str, Any]) -> None:
    """Refuse a folder that holds another training; mark an empty one as this training's."""
    path = out / IDENTITY
    if not path.exists():
        write_json(path, identity)
    there = read_json(path)
    if there != identity:
        differing = ", ".join(name for name in identity if there.get(name) != identity[name])
        what = f"Another training is here, with another {differing}."
        raise AuditError(what, out, "Choose another folder, or give the same options again.")


def save_state(out: Path, step: int, networks: Networks, optimizer: torch.optim.Optimizer) -> None:
    """Write weights, their average and optimizer, and the step they are of."""
    from safetensors.torch import save_file

    tensors = {f"{key}.{name}": each for key, of in networks.items() for name, each in of.state_dict().items()}
    names = [name for name, _ in networks["network"].named_parameters()]
    for name, state in zip(names, optimizer.state_dict()["state"].values(), strict=True):
        tensors |= {f"{key}.{name}": each for key, each in state.items()}
    with atomic(out / STATE) as temporary:
        metadata = {"step": str(step)}
        save_file({key: each.detach().cpu().contiguous() for key, each in tensors.items()}, temporary, metadata)


def load_state(out: Path, networks: Networks, optimizer: torch.optim.Optimizer) -> int:
    """Restore weights, their average and optimizer; return the step they are of, 0 where there is no state."""
    from safetensors import safe_open

    if not (out / STATE).exists():
        return 0
    with safe_open(out / STATE, "pt") as stored:
        step = int(stored.metadata()["step"])
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118  it is no dict
    for key, network in networks.items():
        network.load_state_dict({name: tensors[f"{key}.{name}"] for name in network.state_dict()})
    kinds, names = ("step", "exp_avg", "exp_avg_sq"), [name for name, _ in networks["network"].named_parameters()]
    states = [{kind: tensors[f"{kind}.{name}"] for kind in kinds} for name in names]
    optimizer.load_state_dict(optimizer.state_dict() | {"state": dict(enumerate(states))})
    return step


class Record:
    """The training log: every so often the mean loss since the last line, and the seconds of this start."""

    def __init__(self, path: Path, recipe: Recipe, start: int, progress: Progress | None) -> None:
        self.path, self.recipe, self.progress = path, recipe, progress
        self.losses: list[torch.Tensor] = []
        self.began = time.monotonic()
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if line.startswith("{") and json.loads(line)["step"] <= start]
        path.write_text("".join(f"{line}\n" for line in kept))

    def add(self, step: int, loss: torch.Tensor) -> None:
        """Take the loss of one step; write a line where one is due."""
        self.losses.append(loss)
        if step % self.recipe.log_every and step != self.recipe.steps[-1]:
            return
        mean, self.losses = float(sum(self.losses) / len(self.losses)), []
        line = {"step": step, "loss": round(mean, 6), "seconds": round(time.monotonic() - self.began, 1)}
        with open(self.path, "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        if self.progress:
            self.progress(step, self.recipe.steps[-1], mean)
