"""Membership attacks that ask a network about an image itself: SimA, PIA, SecMI. Smaller scores are more member-like.

All are statistics of the noise f(x, t) that the network's output amounts to at input x and time
t, with x_t = alpha_t x_0 + sigma_t eps; means are over the d values of x. No noise is drawn.

- SimA (arXiv 2509.25003): mean |f(x_0, t)|^4, the image itself, not noised nor scaled. One call per
  image and time.
- PIA (arXiv 2305.18355): mean |e - f(alpha_t x_0 + sigma_t e, t)|^4 with e = f(x_0, 0). One call per
  image and time, and one at t = 0.
- SecMI (arXiv 2302.01316, its statistic without a second network): the t-error
  mean (psi(phi(x_t)) - x_t)^2, where phi is the deterministic DDIM step from t to t + k, psi the one
  back, and x_t is reached from x_0 by such steps. phi's next call is psi's, too, so that n errors
  take n calls and the one at t = 0, which is PIA's.

The published scores are sums or norms in place of means, hence of the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from auditor.diffusion import noise, schedules
from auditor.diffusion.denoising import as_noise
from auditor.diffusion.model import DiffusionModel
from auditor.errors import CheckpointError
from auditor.inputs.asked import Asked
from auditor.records import LossTable
from auditor.run import RunDirectory, tables
from auditor.run.columns import IMAGE, TIME, Column
from auditor.run.places import FilePlace
from auditor.stages import Cost, Stage, Task, chosen, keys
from auditor.stages.bench import Bench

REVISION = 1
POWER = 4  # of the norms of SimA and PIA, as published
ERRORS = 11  # t-errors of SecMI: at 0, 1, ..., 10 hundredths of the process, as published for 1,000 times
ENCODED_AT_ONCE = 32
WORTHWHILE = 400  # held-out images of a quick audit: with fewer no attack can be judged at a false-positive rate of 1 %

Times = Mapping[str, np.ndarray]  # attack -> int64 [n], the times that it scores, ascending

ATTACK_SCORES = (
    Column("set", "category", "own or heldout"),
    IMAGE,
    Column("attack", "category", "SimA, PIA or SecMI; docs/statistics.md 5.4"),
    Column("t", "int64", "diffusion time at which the image is scored", TIME),
    Column("score", "float64", "mean over pixels of a power of predicted noise or its error; smaller is a member's"),
)


def attack_times(levels: np.ndarray, train_steps: int, with_steps: bool = True) -> dict[str, np.ndarray]:
    """Return the times at which each attack scores an image.

    SimA and PIA: the lower half of the losses' times, where their authors found members to stand
    out; at all of them the attacks on a single training would cost more than its losses. SecMI: see
    ``ERRORS``, fewer in a short process; none without ``with_steps``, for its calls, one after the
    other, are more than all others of few images.
    """
    low = levels[: -(-len(levels) // 2)]
    stepped = {"SecMI": inversion_times(train_steps)[:-1]} if with_steps else {}
    return {"SimA": low, "PIA": low, **stepped}


def inversion_times(train_steps: int) -> np.ndarray:
    """Return the times of SecMI's steps, int64, ascending from 0: one more than it has t-errors."""
    times = max(1, train_steps // 100) * np.arange(ERRORS + 1)
    return times[times < train_steps]


def columns(times: Times) -> list[tuple[str, int]]:
    """Return attack and time of each column of scores."""
    return [(name, int(t)) for name, each in times.items() for t in each]


def n_calls(n_images: int, times: Times, batch_size: int) -> int:
    """Return how many network calls the scores of some images take: at t = 0, of SimA and PIA, of SecMI."""
    batches = -(-n_images // batch_size)
    apart = sum(len(each) for name, each in times.items() if name != "SecMI")
    return batches * (1 + len(times.get("SecMI", ()))) - (-n_images * apart // batch_size)


def scores(
    model: DiffusionModel,
    images: np.ndarray,
    times: Times,
    batch_size: int,
    device: str = "cpu",
    numbers: np.ndarray | None = None,
) -> np.ndarray:
    """Return every attack's score of each image, float64 ``[n_images, n_columns]``, 0 or more; smaller is a member's.

    Parameters
    ----------
    images
        uint8 ``[n, h, w, c]``, as for the losses (``denoising.predict``): so are codec, scaling and
        ``numbers``, the conditions. All calls have exactly ``batch_size`` rows.

    Raises
    ------
    CheckpointError
        If a score is not finite.
    """
    import torch

    with torch.inference_mode():
        parts = [images[i : i + ENCODED_AT_ONCE] for i in range(0, len(images), ENCODED_AT_ONCE)]
        x0 = torch.cat([model.codec.encode(part, device).cpu().double() for part in parts])
        ask = questions(model, batch_size, device, np.full(len(images), -1) if numbers is None else numbers)
        everyone = np.arange(len(images))
        first = ask(x0, everyone, np.zeros(len(images), dtype=np.int64))
        parts = [image_scores(ask, model, x0, first, times, batch_size)] if "SimA" in times else []
        found = np.hstack([*parts, step_errors(ask, model, x0, first)] if "SecMI" in times else parts)
    if not np.isfinite(found).all():
        raise CheckpointError("a membership score is not finite", "membership attacks", "Leave it out.")
    return found


Ask = Callable[[Any, np.ndarray, np.ndarray], Any]  # x [m, c, h, w], images [m], times [m] -> noise of x's shape


def questions(model: DiffusionModel, batch_size: int, device: str, numbers: np.ndarray) -> Ask:
    """Return a function that asks a network for noise, float64 on the CPU, in calls of ``batch_size`` rows."""
    import torch

    forward = schedules.forward_process(model.scheduler)

    def ask(x: Any, images: np.ndarray, times: np.ndarray) -> Any:
        said = []
        for start in range(0, len(x), batch_size):
            rows = np.minimum(np.arange(start, start + batch_size), len(x) - 1)  # the last row fills the batch
            inputs, t = x[rows].float().to(device), torch.from_numpy(times[rows]).to(device)
            output = model.given(numbers[images[rows]])(inputs, t)
            said.append(as_noise(forward, output, inputs, t)[: len(x) - start].double().cpu())
        return torch.cat(said)

    return ask


def image_scores(ask: Ask, model: DiffusionModel, x0: Any, first: Any, times: Times, batch_size: int) -> np.ndarray:
    """Return the scores of SimA and PIA, float64 ``[n_images, n_columns]``; ``first`` is f(x_0, 0)."""
    cells = [(i, name, int(t)) for i in range(len(x0)) for name in ("SimA", "PIA") for t in times[name]]
    found = []
    for start in range(0, len(cells), batch_size):
        i, t = (np.array([cell[axis] for cell in cells[start : start + batch_size]]) for axis in (0, 2))
        proximal = across(np.array([cell[1] == "PIA" for cell in cells[start : start + batch_size]], dtype=float))
        signal, sigma = map(across, levels(model, t))
        noised = signal * x0[i] + sigma * first[i]
        said = ask(proximal * noised + (1 - proximal) * x0[i], i, t)
        found.append((said - proximal * first[i]).abs().pow(POWER).flatten(1).mean(1).numpy())
    return np.concatenate(found).reshape(len(x0), -1)


def step_errors(ask: Ask, model: DiffusionModel, x0: Any, first: Any) -> np.ndarray:
    """Return SecMI's t-errors, float64 ``[n_images, n_times]``, at all times of the inversion but the last."""
    times = inversion_times(schedules.n_times(model.scheduler))
    everyone, signal, sigma = np.arange(len(x0)), *levels(model, times)

    def step(x: Any, said: Any, start: int, end: int) -> Any:
        return signal[end] * (x - sigma[start] * said) / signal[start] + sigma[end] * said

    x, said, found = x0, first, []
    for j in range(len(times) - 1):
        onwards = step(x, said, j, j + 1)
        said = ask(onwards, everyone, np.full(len(x0), times[j + 1]))
        found.append((step(onwards, said, j + 1, j) - x).square().flatten(1).mean(1).numpy())
        x = onwards
    return np.stack(found, axis=1)


def levels(model: DiffusionModel, times: np.ndarray) -> tuple[Any, Any]:
    """Return alpha_t and sigma_t, float64 tensors ``[n]``."""
    import torch

    abar = schedules.forward_process(model.scheduler).alphas_cumprod.double()[torch.from_numpy(times)]
    return abar.sqrt(), (1 - abar).sqrt()


def across(values: Any) -> Any:
    """Return one number per row as something to multiply ``[n, c, h, w]`` by."""
    import torch

    return torch.as_tensor(values).view(-1, 1, 1, 1)


class AttackScores(Stage):
    """One row per image, attack and time, of own and held-out images: SimA and PIA."""

    name, word, per = "attack_scores", "attack-scores", "checkpoint"
    places = (FilePlace("attack-scores"),)
    columns = ATTACK_SCORES
    network = True
    row_bytes = 12
    attacks: ClassVar[tuple[str, ...]] = ("SimA", "PIA")

    def applies(self, asked: Asked) -> bool:
        """Wherever there are members and others; in a quick audit only where that can tell 1 %."""
        return bool(self.times(asked))

    def times(self, asked: Asked) -> dict[str, np.ndarray]:
        """Return the times of these attacks, by attack."""
        return {name: each for name, each in all_times(asked).items() if name in self.attacks}

    def key(self, asked: Asked, of: str, space: str) -> dict[str, Any]:
        """Return what determines the scores: what determines the losses, at times of their own."""
        return scores_key(asked, of, self.times(asked))

    def rows(self, asked: Asked, of: str) -> int | None:
        """Return the number of images, attacks and times; a table of earlier versions has more."""
        return sum(asked_sets(asked, of).values()) * len(columns(self.times(asked)))

    def cost(self, asked: Asked, of: str, space: str, have: int) -> Cost:
        """Return the calls for all images, a batch at a time."""
        n, batch, times = sum(asked_sets(asked, of).values()), asked.batch_size, self.times(asked)
        return Cost(
            calls=sum(n_calls(min(batch, n - start), times, batch) for start in range(0, n, batch)),
            bytes=(self.rows(asked, of) or 0) * self.row_bytes,
        )

    def make(self, bench: Bench, task: Task) -> Iterator[int]:
        """Ask one checkpoint about the own and held-out images of its losses; a batch of images is a resumable part."""
        asked, loaded, times = bench.asked, bench.loaded, self.times(bench.asked)
        images = chosen.each_of(loaded, asked_sets(asked, task.of))

        def compute(rows: range) -> np.ndarray:
            some = images[rows.start : rows.stop]
            return scores(
                bench.network(task.of),
                chosen.pictures_of(loaded, some),
                times,
                asked.batch_size,
                device=asked.device,
                numbers=chosen.classes_of(loaded, some),
            )

        found = yield from bench.in_parts(task, range(0, len(images), asked.batch_size), compute)
        roles, scored = loaded.roles(task.twin), columns(times)
        bench.write(
            task,
            {
                "set": [roles[name] for name, _ in images for _ in scored],
                "id": [each for each in chosen.ids_of(loaded, images) for _ in scored],
                "attack": [attack for _ in images for attack, _ in scored],
                "t": [t for _ in images for _, t in scored],
                "score": np.concatenate(found).ravel(),
            },
        )

    def found(self, run: RunDirectory, asked: Asked, of: str, space: str) -> dict[str, Any] | None:
        """Return the key on disk; a table of earlier versions, which holds all attacks, is one of each stage."""
        together = run.key(run.place(STAGE.places[0], of)) or {}
        times = together.get("attack_times", {})
        if "SecMI" in times:
            return together | {"attack_times": {name: times[name] for name in self.attacks if name in times}}
        return super().found(run, asked, of, space)

    def read(self, run: RunDirectory, twin: str, step: int, space: str) -> dict[str, Any]:
        """Return the scores by attack and role."""
        return {"attack_scores": read_scores(run.place(self.places[0], f"{twin}/{step}"))}

    def resolved(self, asked: Asked) -> dict[str, Any]:
        """Return the times of all attacks."""
        return {"attack_times": {name: each.tolist() for name, each in all_times(asked).items()}}


class SteppedScores(AttackScores):
    """The same for SecMI, whose calls wait for one another: a quick audit leaves it out, and a full one adds it."""

    name, word = "stepped_scores", "stepped-scores"
    places = (FilePlace("attack-scores", part=".stepped"),)
    attacks = ("SecMI",)

    def resolved(self, asked: Asked) -> dict[str, Any]:
        """Return nothing: the other stage tells all times."""
        return {}


def scores_key(asked: Asked, of: str, times: Times) -> dict[str, Any]:
    """Return what determines scores at these times."""
    losses = {name: value for name, value in keys.network(asked, of).items() if name != "times"}
    told = {name: each.tolist() for name, each in times.items()}
    return losses | {"stage": "attack scores", "revision": [noise.REVISION, REVISION], "attack_times": told}


def all_times(asked: Asked) -> dict[str, np.ndarray]:
    """Return at which times images are scored, by attack; none where there are none to attack."""
    if not asked.whole and "attack_times" not in asked.earlier:  # made before attacks asked the network
        return {}
    if not (asked.with_losses and asked.scope.with_train and asked.scope.with_heldout):
        return {}
    quick = asked.config.quick
    if quick and min(asked.loss_images, asked.sets["heldout"].originals) < WORTHWHILE:
        return {}
    return attack_times_of(asked, with_steps=not quick)


def attack_times_of(asked: Asked, with_steps: bool) -> dict[str, np.ndarray]:
    """Return the times for the losses' levels and the models' process."""
    return attack_times(asked.times, schedules.n_times(asked.scheduler), with_steps)


def asked_sets(asked: Asked, of: str) -> dict[str, int]:
    """Return how many images of each set are scored: the model's own are members, held-out ones are not."""
    counted = chosen.loss_counts(asked)
    return {name: counted[name] for name in (f"train-{of.split('/')[0]}", "heldout")}


def read_scores(path: Path) -> dict[str, dict[str, LossTable]]:
    """Return what membership attacks say of own and held-out images, by attack; nothing where they were not made."""
    if not path.exists():
        return {}
    data = tables.arrays(path)
    found: dict[str, dict[str, LossTable]] = {}
    for attack in dict.fromkeys(data["attack"].values):
        for role in ("own", "heldout"):
            rows = (data["attack"].values == attack) & (data["set"].values == role)
            times = np.unique(data["t"][rows])
            values = data["score"][rows].reshape(-1, len(times))
            found.setdefault(attack, {})[role] = LossTable(data["id"].values[rows][:: len(times)], times, values)
    return found


STAGE, STEPPED = AttackScores(), SteppedScores()
