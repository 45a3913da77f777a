"""How the twins' predictions compare at shared cells: with each other, and with what memorizing alone would predict.

At a cell (image, t, eps) both networks predict the noise in the same x_t. Their difference is
due to their halves and their seeds; the empirical denoiser of a half (empirical.py) says what a
network that only memorized it would predict. Sources: arXiv 2603.03469, Fig. 2 (cosine); arXiv
2510.01378 (supervision region); docs/statistics.md 5.7.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from auditor.diffusion import denoising, empirical
from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.schedules import forward_process
from auditor.images import scales
from auditor.inputs.asked import Asked
from auditor.records import TWINS, Agreement, CellScales, LossTable, other_twin
from auditor.registry import SCALES
from auditor.run import RunDirectory, tables
from auditor.run.columns import CELL_TIME, IMAGE, Column
from auditor.run.places import FilePlace
from auditor.stages import Cost, Item, Stage, Task, chosen, keys, losses, step_of
from auditor.stages.bench import Bench

REVISION = 2
HALVES = ("a", "b")
ENCODED_AT_ONCE = 64
BY_SCALE = FilePlace("agreement", part=".scales", by_step=True)  # one row per image and scale
MEMORIZER = ("noise_loss", "error", "along", "reach", "spread", "sharing", "largest", "shell")
COLUMNS = (
    "cosine",
    "half_squared",
    *(f"{name}_{twin}" for twin in HALVES for name in MEMORIZER),
)

AGREEMENT = (
    Column("set", "category", "train-a, train-b, heldout; trajectory-a, ... and samples-a, ... of each twin"),
    Column("id", "category", "image, or seed"),
    CELL_TIME,
    Column("cosine", "float64", "cosine of the twins' noise predictions"),
    Column("half_squared", "float64", "half the squared difference of the twins' noise predictions, mean over pixels"),
    *(
        Column(f"{name}_{twin}", "float64", f"{says} of twin {twin}")
        for twin in "ab"
        for name, says in (
            ("noise_loss", "squared error of the noise prediction"),
            ("error", "squared difference to the empirical denoiser of the own half,"),
            ("along", "numerator of lambda, the projection onto the empirical denoiser,"),
            ("reach", "denominator of lambda"),
            ("spread", "least noise loss that any network has on the half"),
            ("sharing", "training images that share the posterior, of the half"),
            ("largest", "weight of the likeliest training image in the posterior, of the half"),
            ("shell", "relative distance to the nearest shell of noised training images, 1 on it, of the half"),
        )
    ),
)

CELL_SCALES = (
    Column("set", "category", "train-a, train-b or heldout"),
    IMAGE,
    Column("scale", "category", "haar-0 to haar-3 and pca-0 to pca-3, coarse to fine; auditor/scales.py"),
    Column("loss_a", "float64", "squared error of the noise prediction of twin a in this scale, per dimension"),
    Column("loss_b", "float64", "that of twin b"),
    Column("half_squared", "float64", "half the squared difference of the twins' predictions in it, per dimension"),
)


def cell_columns(
    noise: Mapping[str, np.ndarray], eps: Any, x_t: Any, halves: Mapping[str, Any], abar: np.ndarray
) -> dict[str, np.ndarray]:
    """Return per image and noise level how the twins' predictions compare, each float64 ``[n_images, n_levels]``.

    Everything is a mean over the antithetic pair (or what else the third axis has) and, where
    squared, over the d pixels.

    Parameters
    ----------
    noise
        By twin, float32 ``[n_images, n_levels, 2, d]``, the predicted noise.
    eps, x_t
        The true noise ``[n_images, n_levels, d]``, None where there is none (states of a trajectory), and
        the noised images, float64 tensor of the shape of ``noise``.
    halves
        By twin, its training images as the network sees them, tensor ``[n, d]``; none where they are not known.
    abar
        float64 ``[n_levels]``.
    """
    a, b = (noise[twin].astype(np.float64) for twin in HALVES)
    found = {"cosine": cosine(a, b).mean(axis=2), "half_squared": ((a - b) ** 2).mean(axis=3).mean(axis=2) / 2}
    for twin, own, other in (("a", a, b), ("b", b, a)):
        if eps is not None:
            found[f"noise_loss_{twin}"] = ((own - np.stack([eps, -eps], axis=2)) ** 2).mean(axis=3).mean(axis=2)
        if twin in halves:
            against = memorizer_columns(own, other, x_t, halves[twin], abar)
            found |= {f"{name}_{twin}": values for name, values in against.items()}
    unknown = np.full(found["cosine"].shape, np.nan)
    return {name: found.get(name, unknown) for name in COLUMNS}


def scale_columns(
    noise: Mapping[str, np.ndarray], eps: np.ndarray, shape: tuple[int, int, int], axes: scales.Axes | None
) -> dict[str, dict[str, np.ndarray]]:
    """Return by column and scale each image's mean over noise levels and the antithetic pair, float64 ``[n_images]``.

    ``noise`` and ``eps`` are those of :func:`cell_columns`; ``shape`` is (c, h, w) of what the
    network sees, ``axes`` spans its principal subspaces.
    """
    a, b = (noise[twin].astype(np.float64) for twin in HALVES)
    both = np.stack([eps, -eps], axis=2)
    parts = {"loss_a": a - both, "loss_b": b - both, "half_squared": (a - b) / np.sqrt(2)}
    found = {
        column: scales.energies(difference.reshape(-1, difference.shape[-1]), shape, axes)
        for column, difference in parts.items()
    }
    return {
        column: {name: each.reshape(len(a), -1).mean(axis=1) for name, each in by_scale.items()}
        for column, by_scale in found.items()
    }


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine of vectors along the last axis; NaN where one is zero."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    values: np.ndarray = np.divide((a * b).sum(axis=-1), lengths, out=np.full(lengths.shape, np.nan), where=lengths > 0)
    return values


def memorizer_columns(
    own: np.ndarray, other: np.ndarray, x_t: Any, images: Any, abar: np.ndarray
) -> dict[str, np.ndarray]:
    """Return how a network's predictions compare with those of the empirical denoiser of its half.

    ``error`` is the mean squared difference E_P; ``along`` / ``reach`` is the projection
    lambda = <f - g, m - g> / ||m - g||^2 of the network f, its twin g and the memorizer m: 0 no
    nearer to its own data than the twin, 1 the memorizer; ``spread`` is the least noise loss
    that any network can have on the half, alpha^2 / sigma^2 Var[x_0 | x_t]; ``sharing`` how many
    training images share the posterior, ``largest`` the weight of the likeliest; ``shell`` r*, the
    relative distance to the nearest shell of a noised training image, 1 on it.
    """
    shape = own.shape[:3]
    found = {name: np.empty(shape) for name in MEMORIZER[1:]}
    for j, kept in enumerate(abar):
        signal, sigma = float(np.sqrt(kept)), float(np.sqrt(1 - kept))
        z = x_t[:, j].reshape(-1, x_t.shape[-1])
        posterior = empirical.posterior(z, signal, sigma, images)
        m = empirical.noise_prediction(z, posterior.mean, signal, sigma).cpu().numpy()
        f, g = (each[:, j].reshape(len(m), -1) for each in (own, other))
        values = {
            "error": ((f - m) ** 2).mean(axis=1),
            "along": ((f - g) * (m - g)).mean(axis=1),
            "reach": ((m - g) ** 2).mean(axis=1),
            "spread": signal**2 / sigma**2 * posterior.variance.cpu().numpy(),
            "sharing": posterior.n_effective.cpu().numpy(),
            "largest": posterior.largest.cpu().numpy(),
            "shell": posterior.shell.cpu().numpy(),
        }
        for name, each in values.items():
            found[name][:, j] = each.reshape(shape[0], shape[2])
    return {name: values.mean(axis=2) for name, values in found.items()}


class AgreementStage(Stage):
    """One row per image and noise level, and beside it one per image and scale of the pictures."""

    name, word, per = "agreement", "agreement", "step"
    places = (FilePlace("agreement", by_step=True), BY_SCALE)
    columns = AGREEMENT
    row_bytes = 140

    def applies(self, asked: Asked) -> bool:
        """Wherever the networks of both twins see pictures alike."""
        return asked.compares_predictions

    def needs(self, asked: Asked, of: str, space: str) -> Iterator[Item]:
        """Yield the losses of both twins, whose predictions are compared."""
        yield from (Item("losses", f"{twin}/{step_of(of)}") for twin in asked.scope.twins)

    def key(self, asked: Asked, of: str, space: str) -> dict[str, Any]:
        """Return what determines how the twins' predictions compare."""
        trained = {name: keys.image_set(asked, name) for name, each in asked.sets.items() if each.pooled is not None}
        mirrored = {"halves": trained} if asked.mirrored else {}  # else the losses' key has them
        return {
            "stage": "agreement",
            "revision": [REVISION, scales.REVISION],
            "losses": losses_of_both(asked, of),
            **mirrored,
        }

    def rows(self, asked: Asked, of: str) -> int | None:
        """Return the number of images and noise levels."""
        return sum(chosen.loss_counts(asked).values()) * len(asked.times)

    def cost(self, asked: Asked, of: str, space: str, have: int) -> Cost:
        """Return the bytes of the tables: no network is called."""
        n = sum(chosen.loss_counts(asked).values())
        return Cost(bytes=n * self.row_bytes * (len(asked.times) + len(SCALES)))

    def make(self, bench: Bench, task: Task) -> Iterator[int]:
        """Compare the twins' predictions at every cell, and drop them."""
        asked, loaded, twins = bench.asked, bench.loaded, bench.asked.scope.twins
        places = {twin: bench.run.place(losses.PREDICTIONS, f"{twin}/{task.step}") for twin in twins}
        stored = {twin: np.load(each, mmap_mode="r") for twin, each in places.items()}
        model = bench.network(f"{twins[-1]}/{task.step}")  # at hand; both see pictures alike
        halves = {twin: seen(bench, f"train-{twin}", model) for twin in twins if f"train-{twin}" in loaded.sets}
        abar = np.asarray(forward_process(asked.scheduler).alphas_cumprod.double())[asked.times]
        h, w, c = model.x_shape
        axes = scales.principal_axes(np.concatenate([each.numpy() for each in halves.values()])) if halves else None
        columns: dict[str, Any] = {name: [] for name in ("set", "id", "t", *COLUMNS)}
        by_scale: dict[str, Any] = {column.name: [] for column in CELL_SCALES}
        at, n_levels = 0, len(asked.times)
        for name, start in losses.part_list(asked):
            pictures, ids, eps = losses.cell_inputs(loaded, name, start, model)
            rows = slice(at, at := at + len(ids))
            noise_of = {twin: each[rows].reshape(len(ids), n_levels, 2, -1) for twin, each in stored.items()}
            x_t = denoising.noised(model, pictures, eps, asked.times, asked.device)
            flat = eps.flatten(2).double().numpy()
            in_scales = scale_columns(noise_of, flat, (c, h, w), axes)
            for scale in in_scales["loss_a"]:
                add_rows(by_scale, name, ids, [scale], {key: values[scale] for key, values in in_scales.items()})
            add_rows(columns, name, ids, asked.times.tolist(), cell_columns(noise_of, flat, x_t, halves, abar))
        bench.write(task, as_columns(columns), as_columns(by_scale), columns=[AGREEMENT, CELL_SCALES])
        for place in places.values():
            bench.run.drop(place)
        yield 0

    def read(self, run: RunDirectory, twin: str, step: int, space: str) -> dict[str, Any]:
        """Return how one model's predictions compare, by role: own, other, heldout."""
        return {"agreement": read_agreement(run.place(self.places[0], f"a/{step}"), twin)}


def losses_of_both(asked: Asked, of: str) -> dict[str, Any]:
    """Return what determines the losses of both twins at the step of ``of``."""
    return {twin: keys.network(asked, f"{twin}/{step_of(of)}") for twin in asked.scope.twins}


def seen(bench: Bench, name: str, model: DiffusionModel) -> Any:
    """Return a training set as the network sees it, tensor ``[n, d]``; encoded once per set."""
    import torch

    def encoded() -> Any:
        pictures = bench.loaded.sets[name].images
        parts = [
            model.codec.encode(pictures[i : i + ENCODED_AT_ONCE], bench.asked.device).flatten(1).cpu()
            for i in range(0, len(pictures), ENCODED_AT_ONCE)
        ]
        return torch.cat(parts)

    return bench.once("encoded", name, make=encoded)


def add_rows(
    columns: dict[str, Any], name: str, ids: list[str], along: list[Any], found: Mapping[str, np.ndarray]
) -> None:
    """Add the rows of some images at some times or scales; ``found`` are ``[n_images, n_along]`` by column."""
    columns["set"] += [name] * (len(ids) * len(along))
    columns["id"] += [each for each in ids for _ in along]
    columns["scale" if "scale" in columns else "t"] += along * len(ids)
    for each, values in found.items():
        columns[each].append(values.ravel())


def as_columns(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns with their parts joined; those of names and times are whole."""
    return {
        name: np.concatenate(values) if len(values) and isinstance(values[0], np.ndarray) else values
        for name, values in columns.items()
    }


def role_of(name: str, twin: str) -> str:
    """Return what an image set is to a model: own, other or heldout; trajectory and samples where they are its own."""
    own = {f"train-{twin}": "own", f"trajectory-{twin}": "trajectory", f"samples-{twin}": "samples"}
    return (own | {f"train-{other_twin(twin)}": "other"}).get(name, name)


def read_agreement(path: Path, twin: str) -> dict[str, Agreement]:
    """Return how one model's predictions compare, by role: own, other, heldout, ...; nothing where they were not."""
    if not path.exists():
        return {}
    data = tables.arrays(path)
    plain = {name: name for name in ("cosine", "half_squared")}
    columns = plain | {name: f"{name}_{twin}" for name in MEMORIZER}
    found = {}
    for rows, name in tables.runs_of(data["set"]):
        if role_of(name, twin) in (f"trajectory-{other_twin(twin)}", f"samples-{other_twin(twin)}"):
            continue
        times = np.unique(data["t"][rows])
        values = {
            field: data[column][rows].reshape(-1, len(times)) for field, column in columns.items() if column in data
        }
        unknown = np.full(values["cosine"].shape, np.nan)  # of columns that earlier versions did not write
        values |= {field: unknown for field in columns if field not in values}
        found[role_of(name, twin)] = Agreement(data["id"].values[rows][:: len(times)], times, **values)
    return found


def read_cell_scales(run: RunDirectory, step: int) -> CellScales | None:
    """Return what the twins' predictions are at each scale of the pictures; None where they were not compared."""
    path = run.place(BY_SCALE, f"a/{step}")
    if not path.exists():
        return None
    data = tables.arrays(path)
    parts: dict[str, dict[str, dict[str, np.ndarray]]] = {}  # by set, scale and column
    ids: dict[str, np.ndarray] = {}
    for rows, name, scale in tables.runs_of(data["set"], data["scale"]):
        found = parts.setdefault(name, {}).setdefault(scale, {})
        for column in ("loss_a", "loss_b", "half_squared", "id"):
            values = data[column].values if column == "id" else data[column]
            found[column] = np.concatenate([found[column], values[rows]]) if column in found else values[rows]
        ids[name] = found["id"]
    names = tuple(next(iter(parts.values())))

    def table(name: str, column: str) -> LossTable:
        values = np.column_stack([parts[name][scale][column] for scale in names])
        return LossTable(ids[name], np.arange(len(names)), values)

    losses = {twin: {role_of(name, twin): table(name, f"loss_{twin}") for name in parts} for twin in TWINS}
    return CellScales(names, losses, {name: table(name, "half_squared") for name in parts})


STAGE = AgreementStage()
