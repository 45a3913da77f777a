"""The order of an audit: plan what is missing, execute the plan, measure.

``plan`` is pure: it compares what is on disk with what is asked. Only this file knows the
order of the stages.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import numpy as np

from auditor import checkpoints, denoising, evidence, images, measuring, noise, sampling, spaces, tables
from auditor.errors import RunExists
from auditor.inputs import Prepared, Say
from auditor.keys import Keys
from auditor.records import TWINS, DiffusionModel, Features, other_twin
from auditor.run import RunDirectory, as_json, differences, drop_parts, n_rows, part_path

LOSS_IMAGES_AT_ONCE = 32  # images whose cells make one resumable batch of the loss stage
EMBEDDED_AT_ONCE = 64
REDRAWN = 4  # seeds drawn again at another batch size
VERSIONED = ("torch", "diffusers", "open_clip_torch", "faiss-gpu", "faiss-cpu", "numpy", "pandas", "pyarrow", "auditor")

# ---------------------------------------------------------------------------
# Plan
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """One artefact of a run: what must be done for it, and why."""

    kind: str  # features, set-evidence, samples, losses, sample-features, evidence
    of: str  # an image set, or twin/step
    space: str
    action: str  # make, extend, reuse, remake
    reason: str
    calls: int  # network calls it still needs

    @property
    def twin(self) -> str:
        """Twin of a checkpoint's task."""
        return self.of.split("/")[0]

    @property
    def step(self) -> int:
        """Step of a checkpoint's task."""
        return int(self.of.split("/")[1])


def plan(prepared: Prepared, run: RunDirectory) -> list[Task]:
    """Return every artefact of the run in the order of making, each with what is to be done and why."""
    keys, tasks = Keys(prepared), []
    for space in prepared.config.space_names:
        tasks += [plan_task(prepared, run, keys, "features", name, space) for name in prepared.sets]
        if prepared.scope.with_train:
            tasks += [plan_task(prepared, run, keys, "set-evidence", name, space) for name in prepared.sets]
    for step in prepared.pair.steps:
        for twin in TWINS:
            of = f"{twin}/{step}"
            tasks.append(plan_task(prepared, run, keys, "samples", of))
            if prepared.sets:
                tasks.append(plan_task(prepared, run, keys, "losses", of))
            tasks += [plan_task(prepared, run, keys, "sample-features", of, s) for s in prepared.config.space_names]
        tasks += [
            plan_task(prepared, run, keys, "evidence", f"{twin}/{step}", s)
            for s in prepared.config.space_names
            for twin in TWINS
        ]
    return tasks


def artefact(
    prepared: Prepared, run: RunDirectory, keys: Keys, kind: str, of: str, space: str
) -> tuple[Any, Any, int | None]:
    """Return path, key and the rows asked for (None: the key says all) of one artefact."""
    twin, _, step = of.partition("/")
    n = prepared.config.n_samples
    if kind == "features":
        return run.features(space, of), keys.features(space, keys.image_set(of)), len(prepared.sets[of])
    if kind == "set-evidence":
        return run.evidence(space, of), keys.set_evidence(space, of), None
    if kind == "samples":
        return run.samples(twin, int(step)), keys.samples(twin, int(step)), n
    if kind == "losses":
        return run.losses(twin, int(step)), keys.losses(twin, int(step)), None
    if kind == "sample-features":
        return run.features(space, of), keys.features(space, keys.samples(twin, int(step))), n
    return run.evidence(space, of), keys.evidence(space, twin, int(step)), None


def plan_task(prepared: Prepared, run: RunDirectory, keys: Keys, kind: str, of: str, space: str = "") -> Task:
    """Compare one artefact on disk with what is asked."""
    path, key, rows = artefact(prepared, run, keys, kind, of, space)
    old = run.key(path)
    have = 0
    if old is None:
        action, reason = "make", "not there"
    elif old != as_json(key):
        action, reason = "remake", "; ".join(differences(old, as_json(key))[:3])
    elif rows is not None and n_rows(path) < rows:
        have = n_rows(path)
        action, reason = "extend", f"{have} of {rows} rows are there"
    else:
        return Task(kind, of, space, "reuse", "up to date", 0)
    return Task(kind, of, space, action, reason, calls_of(prepared, kind, have))


def calls_of(prepared: Prepared, kind: str, have: int) -> int:
    """Return how many network calls an artefact needs, ``have`` rows being there."""
    batch = prepared.batch_size
    if kind == "samples":
        whole = have // batch * batch
        return -(-(prepared.config.n_samples - whole) // batch) * prepared.sampling_steps
    if kind == "losses":
        return sum(
            -(-min(LOSS_IMAGES_AT_ONCE, n - start) * prepared.config.loss_levels * 2 // batch)
            for n in loss_counts(prepared).values()
            for start in range(0, n, LOSS_IMAGES_AT_ONCE)
        )
    return 0


def loss_counts(prepared: Prepared) -> dict[str, int]:
    """Return on how many images of each set the loss is measured."""
    return {name: min(prepared.config.loss_images, len(each)) for name, each in prepared.sets.items()}


def refuse_loss_of_work(tasks: list[Task], run: RunDirectory, remake: bool) -> None:
    """Stop before finished network results would be thrown away, unless --remake says so."""
    lost = [t for t in tasks if t.action == "remake" and t.kind in ("samples", "losses")]
    if lost and not remake:
        raise RunExists(
            f"This command would discard {len(lost)} finished artefacts; the first is {lost[0].kind} {lost[0].of} "
            f"({lost[0].reason}).",
            run.root,
            "Add --remake to make them anew, or choose another --out.",
        )


# ---------------------------------------------------------------------------
# Execute
# ---------------------------------------------------------------------------


class Executor:
    """Carries out the tasks of a plan; holds the model in use and the features of the sets."""

    def __init__(self, prepared: Prepared, run: RunDirectory, say: Say) -> None:
        self.prepared, self.run, self.say = prepared, run, say
        self.keys = Keys(prepared)
        self.seconds: dict[str, float] = {}
        self._model: tuple[str, DiffusionModel] | None = None

    def execute(self, tasks: list[Task]) -> None:
        """Do what is not up to date, in the order given."""
        work = {
            "features": self._features,
            "set-evidence": self._set_evidence,
            "samples": self._samples,
            "losses": self._losses,
            "sample-features": self._features,
            "evidence": self._evidence,
        }
        todo = [task for task in tasks if task.action != "reuse"]
        for number, task in enumerate(todo, 1):
            where = f"{task.of} in {task.space}" if task.space else task.of
            label = f"{task.kind.replace('-', ' ')} of {where} ({number} of {len(todo)})"
            self.say(label, 0)
            started = time.perf_counter()
            for calls in work[task.kind](task):
                self.say(label, calls)
            self.seconds[task.kind] = self.seconds.get(task.kind, 0.0) + time.perf_counter() - started

    def model(self, of: str) -> DiffusionModel:
        """Return the model of ``twin/step``, loaded once."""
        if self._model is None or self._model[0] != of:
            twin, _, step = of.partition("/")
            checkpoint = self.prepared.pair.series(twin).at(int(step))
            self._model = (of, checkpoints.load(checkpoint, self.prepared.scheduler, self.prepared.device))
        return self._model[1]

    def _target(self, task: Task) -> tuple[Any, Any, int | None]:
        return artefact(self.prepared, self.run, self.keys, task.kind, task.of, task.space)

    def _samples(self, task: Task) -> Iterator[int]:
        """Sample one checkpoint from the shared noise."""
        p = self.prepared
        path, key, n = self._target(task)

        def compute(rows: range) -> np.ndarray:
            seeds = [p.config.seed + i for i in rows]
            return sampling.sample_batch(self.model(task.of), seeds, p.config.sampler, p.sampling_steps, p.device)

        for _ in self.run.build(path, key, n, p.batch_size, compute):
            yield p.sampling_steps

    def _losses(self, task: Task) -> Iterator[int]:
        """Measure the losses of one checkpoint on every set."""
        path, key, _ = self._target(task)
        cells = [
            (name, start)
            for name, n in loss_counts(self.prepared).items()
            for start in range(0, n, LOSS_IMAGES_AT_ONCE)
        ]

        def compute(rows: range) -> np.ndarray:
            return self._loss_part(task.of, *cells[rows.start])

        for done in self.run.make_parts(path, key, range(0, len(cells)), compute):
            yield task.calls * done // len(cells) - task.calls * (done - 1) // len(cells)
        parts = [np.load(part_path(path, i)) for i in range(len(cells))]
        with self.run.artefact(path, key) as temporary:
            tables.write_here(temporary, tables.LOSSES, self._loss_columns(task, cells, parts))
        drop_parts(path)

    def _loss_part(self, of: str, name: str, start: int) -> np.ndarray:
        """Return the losses of a few images of one set."""
        p = self.prepared
        chosen = self._loss_images(name)[start : start + LOSS_IMAGES_AT_ONCE]
        h, w, c = p.image_shape
        ids = [p.sets[name].ids[i] for i in chosen]
        eps = denoising.cell_noise(p.config.seed, ids, name, len(p.times), (c, h, w))
        return denoising.losses(self.model(of), p.sets[name].images[chosen], eps, p.times, p.batch_size, p.device)

    def _loss_images(self, name: str) -> np.ndarray:
        """Return which images of a set the loss is measured on, ascending: a function of the run seed."""
        n, size = len(self.prepared.sets[name]), loss_counts(self.prepared)[name]
        rng = np.random.default_rng(noise.derived_seed("loss images", name, self.prepared.config.seed))
        return np.sort(rng.permutation(n)[:size])

    def _loss_columns(self, task: Task, cells: list[tuple[str, int]], parts: list[np.ndarray]) -> dict[str, Any]:
        """Return the columns of the loss table: sets named by their role for this twin."""
        p = self.prepared
        role = {f"train-{task.twin}": "own", f"train-{other_twin(task.twin)}": "other", "heldout": "heldout"}
        columns: dict[str, Any] = {"set": [], "id": [], "t": [], "loss": np.concatenate([x.ravel() for x in parts])}
        for (name, start), part in zip(cells, parts, strict=True):
            chosen = self._loss_images(name)[start : start + len(part)]
            columns["set"] += [role[name]] * part.size
            columns["id"] += [p.sets[name].ids[i] for i in chosen for _ in p.times]
            columns["t"] += p.times.tolist() * len(part)
        return columns

    def _features(self, task: Task) -> Iterator[int]:
        """Embed the samples of one checkpoint, or one image set."""
        path, key, n = self._target(task)
        space = self.prepared.spaces[task.space]
        source = self._images(task)

        def compute(rows: range) -> np.ndarray:
            return spaces.embed(space, source[rows.start : rows.stop], EMBEDDED_AT_ONCE)

        for _ in self.run.build(path, key, n, EMBEDDED_AT_ONCE, compute):
            yield 0

    def _images(self, task: Task) -> np.ndarray:
        if task.kind == "features":
            return self.prepared.sets[task.of].images
        return np.load(self.run.samples(task.twin, task.step), mmap_mode="r")[: self.prepared.config.n_samples]

    def _set_evidence(self, task: Task) -> Iterator[int]:
        """Write the table of held-out images, or of one training half."""
        path, key, _ = self._target(task)
        references = {twin: self._reference(task.space, f"train-{twin}") for twin in TWINS}
        if task.of == "heldout":
            columns, data = tables.HELDOUT, evidence.heldout_rows(self._set_features(task.space, "heldout"), references)
        else:
            digests = self.prepared.digests[task.of]
            clusters = images.duplicate_groups(digests)
            columns, data = tables.TRAIN, evidence.train_rows(references[task.of[-1]], digests, clusters)
        with self.run.artefact(path, key) as temporary:
            tables.write_here(temporary, columns, data)
        yield 0

    def _evidence(self, task: Task) -> Iterator[int]:
        """Write the evidence of one twin, step and space."""
        p = self.prepared
        path, key, _ = self._target(task)
        seeds = p.config.seed + np.arange(p.config.n_samples)
        own, other = (
            self._sample_features(task.space, f"{t}/{task.step}", seeds) for t in (task.twin, other_twin(task.twin))
        )
        references = {}
        if p.scope.with_train:
            references["own"] = self._reference(task.space, f"train-{task.twin}")
            references["other"] = self._reference(task.space, f"train-{other_twin(task.twin)}")
        heldout = self._set_features(task.space, "heldout") if p.scope.with_heldout else None
        data = evidence.sample_rows(own, other, references, heldout, seeds)
        with self.run.artefact(path, key) as temporary:
            tables.write_here(temporary, tables.EVIDENCE, data)
        yield 0

    def _sample_features(self, space: str, of: str, seeds: np.ndarray) -> Features:
        vectors = np.load(self.run.features(space, of), mmap_mode="r")[: len(seeds)]
        return Features(space, of, vectors, tuple(map(str, seeds)))

    def _set_features(self, space: str, name: str) -> Features:
        vectors = np.load(self.run.features(space, name), mmap_mode="r")
        return Features(space, name, vectors, self.prepared.sets[name].ids)

    def _reference(self, space: str, name: str) -> evidence.Reference:
        return evidence.Reference(self._set_features(space, name), self.prepared.in_pool[name])

    def redraw(self) -> dict[str, Any]:
        """Draw a few seeds again at another batch size; return how far they are from the run's samples."""
        p = self.prepared
        of = f"a/{p.pair.steps[-1]}"
        n = min(REDRAWN, p.config.n_samples)
        seeds = [p.config.seed + i for i in range(n)]
        again = sampling.sample_batch(self.model(of), seeds, p.config.sampler, p.sampling_steps, p.device)
        drawn = np.load(self.run.samples("a", p.pair.steps[-1]), mmap_mode="r")[:n]
        deviation = np.abs(again.astype(int) - drawn.astype(int))
        return {
            "of": of,
            "seeds": n,
            "batch_size": n,
            "largest_deviation": int(deviation.max()),
            "unit": "grey levels of 255",
        }


def keep_neighbour_images(prepared: Prepared, run: RunDirectory) -> None:
    """Write the training images that are some sample's nearest or second nearest, with their ids."""
    wanted: dict[str, set[str]] = {f"train-{twin}": set() for twin in TWINS}
    columns = [f"{role}_id_{j}" for role in ("own", "other") for j in (1, 2)]
    for space in prepared.config.space_names:
        for step in prepared.pair.steps:
            for twin in TWINS:
                frame = tables.read(run.evidence(space, f"{twin}/{step}"), columns)
                for role, half in (("own", twin), ("other", other_twin(twin))):
                    wanted[f"train-{half}"] |= {i for j in (1, 2) for i in frame[f"{role}_id_{j}"].unique()} - {""}
    for name, ids in wanted.items():
        kept = [i for i, each in enumerate(prepared.sets[name].ids) if each in ids]
        key = {"ids": [prepared.sets[name].ids[i] for i in kept], "images": prepared.set_digests[name]}
        with run.artefact(run.images(name), key) as temporary, open(temporary, "wb") as handle:
            np.save(handle, prepared.sets[name].images[kept])


# ---------------------------------------------------------------------------
# The audit
# ---------------------------------------------------------------------------


def checkpoint_rows(prepared: Prepared) -> list[dict[str, Any]]:
    """Return one row per checkpoint found, sorted by twin and step."""
    rows = []
    for twin in TWINS:
        for c in prepared.pair.series(twin).checkpoints:
            rows.append(checkpoint_row(c.twin, c.step, c.path, "", prepared, c))
    rows += [checkpoint_row(e.twin, e.step, e.path, e.reason, prepared) for e in prepared.pair.excluded]
    return sorted(rows, key=lambda row: (row["twin"], row["step"], row["path"]))


def checkpoint_row(
    twin: str, step: int, path: Any, reason: str, prepared: Prepared, checkpoint: Any = None
) -> dict[str, Any]:
    """Return one row of checkpoints.parquet; paths are relative to the series, so a run can be moved."""
    root = {"a": prepared.config.ckpts_a, "b": prepared.config.ckpts_b}[twin]
    try:
        shown = path.relative_to(root).as_posix()
    except ValueError:
        shown = path.name
    return {
        "twin": twin,
        "step": step,
        "path": shown,
        "format": checkpoint.format if checkpoint else "",
        "weights": checkpoint.weights if checkpoint else "",
        "audited": checkpoint is not None,
        "reason": reason,
        "digest": checkpoint.digest if checkpoint else "",
    }


def record(prepared: Prepared, status: str, seconds: Mapping[str, float], checks: Mapping[str, Any]) -> dict[str, Any]:
    """Return run.json: the configuration as given and as resolved, versions, digests, times."""
    p = prepared
    return {
        "status": status,
        "given": asdict(p.config),
        "resolved": {
            "device": p.device,
            "batch_size": p.batch_size,
            "sampling_steps": p.sampling_steps,
            "weights": p.pair.a.checkpoints[0].weights,
            "steps": list(p.pair.steps),
            "spaces": list(p.config.space_names),
            "image_shape": list(p.image_shape),
            "scheduler": dict(p.scheduler),
            "loss_times": p.times.tolist(),
        },
        "scope": asdict(p.scope),
        "sets": {name: {"images": len(each), "digest": p.set_digests[name]} for name, each in p.sets.items()},
        "notes": list(p.notes),
        "checks": dict(checks),
        "versions": versions(),
        "seconds": {kind: round(value, 2) for kind, value in seconds.items()},
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that make the numbers."""
    installed = {}
    for name in VERSIONED:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def audit(prepared: Prepared, run: RunDirectory, tasks: list[Task], say: Say) -> None:
    """Carry out a plan and write the run's tables. The caller holds the lock."""
    run.write_record(record(prepared, "started", {}, {}))
    tables.write(run.table("checkpoints"), tables.CHECKPOINTS, checkpoint_rows(prepared))
    executor = Executor(prepared, run, say)
    executor.execute(tasks)
    started = time.perf_counter()
    checks = {"redraw": executor.redraw()}
    if prepared.scope.with_train:
        keep_neighbour_images(prepared, run)
    measuring.measure(run, prepared.scope, lambda text: say(text, 0))
    executor.seconds["measuring"] = time.perf_counter() - started
    run.write_record(record(prepared, "complete", executor.seconds, checks))
