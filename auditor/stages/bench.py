"""Tasks that ask networks: samples, losses, attacks, U-turns, trajectories; the controls that stand beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from auditor import checkpoints, neighbors, spaces
from auditor.diffusion import denoising, gaussian, sampling
from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.schedules import forward_process
from auditor.diffusion.schedules import n_times as n_times_of
from auditor.images import scales
from auditor.inputs.prepared import Prepared
from auditor.records import Features, other_twin
from auditor.run import RunDirectory, drop_parts, key_path, part_path, save_array, tables
from auditor.seeds import derived_seed
from auditor.spaces.pixel import PixelSpace
from auditor.stages import agreement, attack_scores, controls, published_losses, trajectories, u_turns
from auditor.stages.base import Stages
from auditor.stages.keys import Keys
from auditor.stages.task import LOSS_IMAGES_AT_ONCE, Task, attacked_sets, loss_counts, turned_counts

DRAWN_AT_ONCE = 64  # images of a control, and images that are encoded
SEARCHED_AT_ONCE = 8192  # images that U-turns are searched among, a block at a time


class Asking(Stages):
    """Carries out the tasks that ask networks; holds the one in use."""

    def __init__(self, prepared: Prepared, run: RunDirectory, keys: Keys) -> None:
        super().__init__(prepared, run, keys)
        self.work = {
            "control": self._control,
            "control-losses": self._losses,
            "samples": self._samples,
            "losses": self._losses,
            "published-losses": self._published_losses,
            "attack-scores": self._attack_scores,
            "agreement": self._agreement,
            "u-turns": self._u_turns,
            "trajectories": self._trajectories,
        }
        self._model: tuple[str, DiffusionModel] | None = None
        self._gaussians: dict[str, gaussian.Gaussian] = {}
        self._encoded: dict[str, Any] = {}  # by training set

    def model(self, of: str) -> DiffusionModel:
        """Return the model of ``twin/step``, loaded once."""
        if self._model is None or self._model[0] != of:
            self._model = (of, self._load(of))
        return self._model[1]

    def _load(self, of: str) -> DiffusionModel:
        p = self.prepared
        twin, _, step = of.partition("/")
        if not step:
            return self._linear(of[-1])
        return checkpoints.load(p.pair.series(twin).at(int(step)), p.scheduler, p.device, p.settings, p.pixels[twin])

    def _linear(self, twin: str) -> DiffusionModel:
        """Return the linear reference of one twin, in the coordinates of its network."""
        p = self.prepared
        training = p.sets[f"train-{twin}"].images
        if not p.facts.autoencoder and p.pixels[twin].is_standard:
            return gaussian.linear_denoiser(self._gaussian(twin), p.image_shape, p.scheduler)
        like = self.model(f"{twin}/{p.pair.steps[0]}")
        encoded = [
            like.codec.encode(training[start : start + DRAWN_AT_ONCE], p.device).permute(0, 2, 3, 1).cpu().numpy()
            for start in range(0, len(training), DRAWN_AT_ONCE)
        ]
        vectors = np.concatenate(encoded).reshape(len(training), -1).astype(np.float64)
        linear = gaussian.linear_denoiser(gaussian.fit_vectors(vectors), like.x_shape, p.scheduler)
        return replace(linear, image_shape=p.image_shape, codec=like.codec, latent_shape=like.latent_shape)

    def _gaussian(self, twin: str) -> gaussian.Gaussian:
        """Return the Gaussian of one half, fitted once."""
        if twin not in self._gaussians:
            self._gaussians[twin] = gaussian.fit(self.prepared.sets[f"train-{twin}"].images)
        return self._gaussians[twin]

    def _control(self, task: Task) -> Iterator[int]:
        """Draw the images of a control from one training half."""
        path, key, n = self.target(task)
        seed, training = self.prepared.config.seed, self.prepared.sets[f"train-{task.of[-1]}"]

        def compute(rows: range) -> np.ndarray:
            if task.of.startswith("copier"):
                return controls.copied_images(training, rows, seed)
            return controls.smooth_images(self._gaussian(task.of[-1]), rows, self.prepared.image_shape, seed)

        for _ in self.run.build(path, key, n, DRAWN_AT_ONCE, compute):
            yield 0

    def _samples(self, task: Task) -> Iterator[int]:
        """Sample one checkpoint from the shared noise."""
        p = self.prepared
        path, key, n = self.target(task)

        def compute(rows: range) -> np.ndarray:
            if p.given is not None:
                return np.asarray(p.given.sets[task.twin, task.step].images[rows.start : rows.stop])
            seeds = [p.config.seed + i for i in rows]
            how = (p.config.sampler, p.sampling_steps, p.device, p.conditions)
            return sampling.sample_batch(self.model(task.of), seeds, *how)

        for _ in self.run.build(path, key, n, p.batch_size, compute):
            yield p.sampling_steps  # network calls: none where samples were given

    def _losses(self, task: Task) -> Iterator[int]:
        """Measure the losses of one checkpoint on every set."""
        path, key, _ = self.target(task)
        cells = self._cells()

        def compute(rows: range) -> np.ndarray:
            return self._loss_part(task.of, *cells[rows.start])

        for done in self.run.make_parts(path, key, range(0, len(cells)), compute):
            yield task.calls * done // len(cells) - task.calls * (done - 1) // len(cells)
        parts = [np.load(part_path(path, i), mmap_mode="r") for i in range(len(cells))]
        if task.kind == "losses" and self.prepared.compares_predictions:
            self._keep_predictions(self.run.predictions(task.twin, task.step), key, parts)
        with self.run.artefact(path, key) as temporary:
            columns = self._loss_columns(task, cells, [np.asarray(part[..., 0], float) for part in parts])
            tables.write_here(temporary, tables.LOSSES, columns)
        drop_parts(path)

    def _cells(self) -> list[tuple[str, int]]:
        """Return set and first image of each batch of loss cells."""
        return [
            (name, start)
            for name, n in loss_counts(self.prepared).items()
            for start in range(0, n, LOSS_IMAGES_AT_ONCE)
        ]

    def _keep_predictions(self, path: Path, key: Mapping[str, Any], parts: list[np.ndarray]) -> None:
        """Write the noise predictions of all cells, until those of the twin are there to be compared."""
        with self.run.artefact(path, key) as temporary:
            save_array(temporary, np.concatenate([part[..., 1:].astype(np.float32) for part in parts]))

    def _cell_inputs(self, name: str, start: int, model: DiffusionModel) -> tuple[np.ndarray, list[str], Any]:
        """Return images, ids and noise of a few images of one set."""
        p = self.prepared
        chosen = self._loss_images(name)[start : start + LOSS_IMAGES_AT_ONCE]
        h, w, c = model.x_shape
        ids = [p.sets[name].ids[i] for i in chosen]
        return p.sets[name].images[chosen], ids, denoising.cell_noise(p.config.seed, ids, name, len(p.times), (c, h, w))

    def _loss_part(self, of: str, name: str, start: int) -> np.ndarray:
        """Return losses and noise predictions of a few images of one set, ``[n_images, n_levels, 1 + 2 d]``."""
        p, model = self.prepared, self.model(of)
        pictures, _, eps = self._cell_inputs(name, start, model)
        classes = p.classes[name][self._loss_images(name)[start : start + len(pictures)]] if name in p.classes else None
        found = denoising.predict(model, pictures, eps, p.times, p.batch_size, p.device, classes)
        noise_of = found.noise.reshape(*found.losses.shape, -1)
        return np.concatenate([found.losses[..., None], noise_of], axis=2)

    def _loss_images(self, name: str) -> np.ndarray:
        """Return which images of a set the loss is measured on, ascending: a function of the run seed."""
        return self._chosen(name, loss_counts(self.prepared)[name])

    def _chosen(self, name: str, n: int) -> np.ndarray:
        """Return n images of a set, ascending: a function of the run seed, fewer being some of more."""
        p = self.prepared
        rng = np.random.default_rng(derived_seed("loss images", name, p.config.seed))
        order = rng.permutation(p.n_originals(name))
        eligible = order[p.in_pool[name][order]] if name in p.in_pool else order
        return np.sort(eligible[:n])

    def _loss_columns(self, task: Task, cells: list[tuple[str, int]], parts: list[np.ndarray]) -> dict[str, Any]:
        """Return the columns of the loss table: sets named by their role for this twin."""
        p = self.prepared
        twin = task.of[-1] if task.kind == "control-losses" else task.twin
        role = {f"train-{twin}": "own", f"train-{other_twin(twin)}": "other", "heldout": "heldout"}
        columns: dict[str, Any] = {"set": [], "id": [], "t": [], "loss": np.concatenate([x.ravel() for x in parts])}
        for (name, start), part in zip(cells, parts, strict=True):
            chosen = self._loss_images(name)[start : start + len(part)]
            columns["set"] += [role[name]] * part.size
            columns["id"] += [p.sets[name].ids[i] for i in chosen for _ in p.times]
            columns["t"] += p.times.tolist() * len(part)
        return columns | {"share": np.tile(p.level_shares, len(columns["t"]) // len(p.times))}

    def _published_losses(self, task: Task) -> Iterator[int]:
        """Measure the held-out loss of one checkpoint by the published protocol; some times are a resumable part."""
        path, key, _ = self.target(task)
        p = self.prepared
        n_times, chosen = n_times_of(p.scheduler), published_losses.loss_images(p.n_originals("heldout"))
        pictures = p.sets["heldout"].images[chosen]
        classes = p.classes["heldout"][chosen] if "heldout" in p.classes else None
        parts, told = range(0, n_times, published_losses.TIMES_AT_ONCE), 0

        def compute(rows: range) -> np.ndarray:
            times = np.arange(rows.start, min(rows.stop, n_times))
            return published_losses.losses(self.model(task.of), pictures, times, p.batch_size, p.device, classes)

        for done in self.run.make_parts(path, key, parts, compute):
            yield task.calls * done // n_times - told
            told = task.calls * done // n_times
        found = np.concatenate([np.load(part_path(path, start)) for start in parts])
        columns = {
            "id": [p.sets["heldout"].ids[i] for _ in range(n_times) for i in chosen],
            "t": np.repeat(np.arange(n_times), len(chosen)),
            "loss": found.ravel(),
        }
        yield from self.write(task, tables.PUBLISHED_LOSSES, columns)
        drop_parts(path)

    def _attack_scores(self, task: Task) -> Iterator[int]:
        """Ask one checkpoint about the own and held-out images of its losses; a batch of images is a resumable part."""
        path, key, _ = self.target(task)
        p, roles = self.prepared, attacked_sets(task.of)
        asked = [(name, i) for name in roles for i in self._loss_images(name)]
        parts = range(0, len(asked), p.batch_size)

        def compute(rows: range) -> np.ndarray:
            chosen = asked[rows.start : rows.stop]
            pictures = np.stack([p.sets[name].images[i] for name, i in chosen])
            classes = np.array([p.classes[name][i] for name, i in chosen]) if p.classes else None
            return attack_scores.scores(self.model(task.of), pictures, p.attack_times, p.batch_size, p.device, classes)

        told = 0
        for done in self.run.make_parts(path, key, parts, compute):
            yield task.calls * done // len(asked) - told
            told = task.calls * done // len(asked)
        found = np.concatenate([np.load(part_path(path, start)) for start in parts])
        scored = attack_scores.columns(p.attack_times)
        columns = {
            "set": [roles[name] for name, _ in asked for _ in scored],
            "id": [p.sets[name].ids[i] for name, i in asked for _ in scored],
            "attack": [attack for _ in asked for attack, _ in scored],
            "t": [t for _ in asked for _, t in scored],
            "score": found.ravel(),
        }
        yield from self.write(task, tables.ATTACK_SCORES, columns)
        drop_parts(path)

    def _agreement(self, task: Task) -> Iterator[int]:
        """Compare the twins' predictions at every cell, and drop them."""
        p = self.prepared
        of = {twin: self.run.predictions(twin, task.step) for twin in p.pair.twins}
        stored = {twin: np.load(each, mmap_mode="r") for twin, each in of.items()}
        model = self.model(f"{p.pair.twins[-1]}/{task.step}")  # at hand; both see pictures alike
        halves = {twin: self._seen(f"train-{twin}", model) for twin in p.pair.twins if f"train-{twin}" in p.sets}
        abar = np.asarray(forward_process(p.scheduler).alphas_cumprod.double())[p.times]
        h, w, c = model.x_shape
        axes = scales.principal_axes(np.concatenate([each.numpy() for each in halves.values()])) if halves else None
        columns: dict[str, Any] = {name: [] for name in ("set", "id", "t", *agreement.COLUMNS)}
        by_scale: dict[str, Any] = {column.name: [] for column in tables.CELL_SCALES}
        at = 0
        for name, start in self._cells():
            pictures, ids, eps = self._cell_inputs(name, start, model)
            rows = slice(at, at := at + len(ids))
            noise_of = {twin: each[rows].reshape(len(ids), len(p.times), 2, -1) for twin, each in stored.items()}
            x_t = denoising.noised(model, pictures, eps, p.times, p.device)
            flat = eps.flatten(2).double().numpy()
            found = agreement.cell_columns(noise_of, flat, x_t, halves, abar)
            in_scales = agreement.scale_columns(noise_of, flat, (c, h, w), axes)
            for scale in in_scales["loss_a"]:
                by_scale["set"] += [name] * len(ids)
                by_scale["id"] += ids
                by_scale["scale"] += [scale] * len(ids)
                for column, values in in_scales.items():
                    by_scale[column].append(values[scale])
            columns["set"] += [name] * (len(ids) * len(p.times))
            columns["id"] += [each for each in ids for _ in p.times]
            columns["t"] += p.times.tolist() * len(ids)
            for each, values in found.items():
                columns[each].append(values.ravel())
        scaled = {name: np.concatenate(each) if name in in_scales else each for name, each in by_scale.items()}
        with self.run.artefact(self.run.cell_scales(task.step), self.target(task)[1]) as temporary:
            tables.write_here(temporary, tables.CELL_SCALES, scaled)
        joined = {name: np.concatenate(values) if name in found else values for name, values in columns.items()}
        yield from self.write(task, tables.AGREEMENT, joined)
        for each in of.values():
            each.unlink(missing_ok=True)
            key_path(each).unlink(missing_ok=True)

    def _seen(self, name: str, model: DiffusionModel) -> Any:
        """Return a training set as the network sees it, tensor ``[n, d]``; encoded once per set."""
        import torch

        if name not in self._encoded:
            pictures = self.prepared.sets[name].images
            parts = [
                model.codec.encode(pictures[i : i + DRAWN_AT_ONCE], self.prepared.device).flatten(1).cpu()
                for i in range(0, len(pictures), DRAWN_AT_ONCE)
            ]
            self._encoded[name] = torch.cat(parts)
        return self._encoded[name]

    def _u_turns(self, task: Task) -> Iterator[int]:
        """Noise images of every set and denoise them again by one checkpoint; a batch is a resumable part."""
        path, key, _ = self.target(task)
        p, counts = self.prepared, turned_counts(self.prepared)
        role = {f"train-{task.twin}": "own", f"train-{other_twin(task.twin)}": "other", "heldout": "heldout"}
        asked = [(name, i) for name in counts for i in self._chosen(name, counts[name])]
        times, (h, w, c) = u_turns.turning_times(p.scheduler), self.model(task.of).x_shape
        parts = range(0, len(asked), p.batch_size)

        def compute(rows: range) -> np.ndarray:
            chosen = asked[rows.start : rows.stop]
            pictures = np.stack([p.sets[name].images[i] for name, i in chosen])
            classes = np.array([p.classes[name][i] for name, i in chosen]) if p.classes else None
            names = [f"{name}/{p.sets[name].ids[i]}" for name, i in chosen]
            eps = denoising.cell_noise(p.config.seed, names, "u-turn", len(times), (c, h, w))
            back = u_turns.come_back(self.model(task.of), pictures, eps, p.batch_size, p.device, classes)
            return np.stack([u_turns.distances(pictures, back), self._is_nearest(pictures, back)], axis=2)

        told = 0
        for done in self.run.make_parts(path, key, parts, compute):
            yield task.calls * done // len(asked) - told
            told = task.calls * done // len(asked)
        found = np.concatenate([np.load(part_path(path, start)) for start in parts])
        columns = {
            "set": [role[name] for name, _ in asked for _ in times],
            "id": [p.sets[name].ids[i] for name, i in asked for _ in times],
            "t": times.tolist() * len(asked),
            "distance": found[..., 0].ravel(),
            "returned": found[..., 1].ravel() > 0,
        }
        yield from self.write(task, tables.U_TURNS, columns)
        drop_parts(path)

    def _is_nearest(self, images: np.ndarray, returned: np.ndarray) -> np.ndarray:
        """Return whether no image of any set is nearer to what came back than its source, bool ``[n, n_times]``."""
        space, n_times = PixelSpace(spaces.SpaceSettings()), returned.shape[1]
        vectors = space.embed(returned.reshape(-1, *images.shape[1:]))
        mine = Features(space.name, "u-turns", vectors, tuple(map(str, range(len(vectors)))))
        source = neighbors.paired_distance(vectors, np.repeat(space.embed(images), n_times, axis=0))
        nearest = np.full(len(vectors), np.inf)
        for name, each in self.prepared.sets.items():
            known = self.run.features(space.name, name)
            embedded = np.load(known, mmap_mode="r") if space.name in self.prepared.config.space_names else None
            for start in range(0, len(each), SEARCHED_AT_ONCE):
                rows = slice(start, start + SEARCHED_AT_ONCE)
                block = space.embed(np.asarray(each.images[rows])) if embedded is None else embedded[rows]
                found = neighbors.search(mine, Features(space.name, name, block, each.ids[rows]), 1)
                nearest = np.minimum(nearest, found.distances[:, 0])
        near = source <= nearest * (1 + np.finfo(np.float32).eps)  # a duplicate of the source is the source
        return near.reshape(len(images), n_times)

    def _trajectories(self, task: Task) -> Iterator[int]:
        """Compare both networks' predictions along the trajectories of both, and on their samples noised again."""
        p, step = self.prepared, task.step
        seeds = [p.config.seed + i for i in range(p.config.trajectories)]
        numbers = p.conditions.of(seeds) if p.conditions else np.full(len(seeds), -1)
        times = trajectories.state_times(p.times, p.scheduler)
        abar = np.asarray(forward_process(p.scheduler).alphas_cumprod.double())
        followed = {
            twin: trajectories.follow(self.model(f"{twin}/{step}"), seeds, times, p.batch_size, p.device, p.conditions)
            for twin in p.pair.twins
        }
        model = self.model(f"{p.pair.twins[-1]}/{step}")
        h, w, c = model.x_shape
        eps = denoising.cell_noise(p.config.seed, list(map(str, seeds)), "samples", len(p.times), (c, h, w))
        on_the_way, again = {}, {}
        for twin in reversed(p.pair.twins):  # the last one is loaded
            network = self.model(f"{twin}/{step}")
            for of, each in followed.items():
                asked = (p.batch_size, p.device, numbers)
                on_the_way[of, twin] = trajectories.answers(network, each.states, times, *asked)
                again[of, twin] = denoising.predict(network, each.samples, eps, p.times, *asked).noise
        columns: dict[str, Any] = {name: [] for name in ("set", "id", "t", *agreement.COLUMNS)}
        for twin, each in followed.items():
            halves = {twin: self._seen(f"train-{twin}", model)}
            states = each.states.flatten(2).double()[:, :, None]
            x_t = denoising.noised(model, each.samples, eps, p.times, p.device)
            for name, said, noise_of, z, at in (
                ("trajectory", on_the_way, None, states, times),
                ("samples", again, eps.flatten(2).double().numpy(), x_t, p.times),
            ):
                predictions = {other: said[twin, other] for other in p.pair.twins}
                found = agreement.cell_columns(predictions, noise_of, z, halves, abar[at])
                columns["set"] += [f"{name}-{twin}"] * (len(seeds) * len(at))
                columns["id"] += [str(seed) for seed in seeds for _ in at]
                columns["t"] += at.tolist() * len(seeds)
                for column, values in found.items():
                    columns[column].append(values.ravel())
        joined = {name: np.concatenate(values) if name in found else values for name, values in columns.items()}
        yield from self.write(task, tables.AGREEMENT, joined)
        yield task.calls
