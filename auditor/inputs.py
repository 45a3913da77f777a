"""What a user gives, read and checked before the first network call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from auditor import checkpoints, denoising, images, noise, sampling, spaces
from auditor.config import AuditConfig, Budgets, budgets_from_file
from auditor.errors import AuditError, CheckpointError
from auditor.measuring import Scope
from auditor.records import TWINS, Excluded, ImageSet, TwinPair
from auditor.run import RunDirectory

LEAST_IMAGES = 10  # of every image set
Say = Callable[[str, int], None]  # what is being done; network calls finished since the last word


@dataclass(frozen=True)
class Prepared:
    """Everything an audit needs, read and checked."""

    config: AuditConfig
    pair: TwinPair
    image_shape: tuple[int, int, int]
    scheduler: Mapping[str, Any]
    sets: Mapping[str, ImageSet]  # train-a, train-b, heldout: those given
    digests: Mapping[str, tuple[str, ...]]  # per image
    set_digests: Mapping[str, str]  # per set: ids and images
    in_pool: Mapping[str, np.ndarray]  # train-a, train-b: bool per image
    notes: tuple[str, ...]  # what had to be assumed or left out, in sentences
    device: str
    batch_size: int
    sampling_steps: int
    spaces: Mapping[str, spaces.Space]
    budgets: Budgets

    @property
    def scope(self) -> Scope:
        """The axes of the run's tables."""
        c = self.config
        return Scope(
            self.pair.steps,
            c.space_names,
            c.n_samples,
            c.seed,
            "train-a" in self.sets,
            "heldout" in self.sets,
            c.fpr,
            self.pair.twins,
            c.ckpts_a2 is not None,
        )

    @property
    def times(self) -> np.ndarray:
        """Diffusion times of the loss cells."""
        return denoising.time_levels(self.config.loss_levels, int(self.scheduler["num_train_timesteps"]))


def prepare(config: AuditConfig, run: RunDirectory, say: Say = lambda text, calls: None) -> Prepared:
    """Read and check checkpoints, images and feature weights.

    Raises
    ------
    AuditError
        For anything that would make the audit wrong or impossible, before any sampling.
    """
    require(config)
    earlier = run.read_record().get("resolved", {}) if run.record.is_file() else {}
    budgets = budgets_from_file(config.budgets)
    device = resolve_device(config.device, earlier)
    say("opening the feature spaces", 0)  # first: a missing CLIP file must not cost an hour of sampling
    settings = spaces.SpaceSettings(device, config.clip_model, config.clip_weights)
    opened = {name: spaces.open_space(name, settings) for name in config.space_names}
    say("reading the checkpoints", 0)
    pair = usable(discover(config))
    image_shape, scheduler = checkpoints.check_compatible(pair, config.scheduler)
    require_levels(config.loss_levels, int(scheduler["num_train_timesteps"]))
    steps = sampling.resolve_steps(config.sampler, config.sampling_steps, scheduler)
    say("reading the images", 0)
    sets = read_sets(config, image_shape)
    shared, overlap_notes = check_overlaps(sets, config.allow_overlap)
    sets = without_leaks(sets, shared)
    require_enough(sets)
    require_calibration(config.fpr, sets)
    digests = {name: images.digests(each) for name, each in sets.items()}
    pools = pool_masks(sets, shared, config.seed)
    notes = (
        *scheduler_notes(pair, config),
        *(f"{name}: {note}" for name, each in sets.items() for note in each.notes),
        *overlap_notes,
        *duplicate_notes(digests),
        *pool_notes(pools),
    )
    batch_size = resolve_batch_size(config.batch_size, device, earlier)
    set_digests = {name: images.set_digest(each) for name, each in sets.items()}
    return Prepared(
        config,
        pair,
        image_shape,
        scheduler,
        sets,
        digests,
        set_digests,
        pools,
        notes,
        device,
        batch_size,
        steps,
        opened,
        budgets,
    )


def require(config: AuditConfig) -> None:
    """Refuse a command that lacks what every run needs."""
    for name in ("out",) if config.ckpts else ("ckpts_a", "out"):
        if getattr(config, name) is None:
            flag = "--" + name.replace("_", "-")
            raise AuditError(f"{flag} is missing.", flag, "audit run --ckpts-a DIR --ckpts-b DIR --out DIR at least.")
    if config.ckpts:
        return  # trainings.py checks what it splits into pairs
    if config.ckpts_b is None and config.ckpts_a2 is not None:
        raise AuditError("--ckpts-a2 is given without a twin.", "--ckpts-b", "Give the training on half b, too.")
    if config.ckpts_b is None:
        require_single(config)
    elif (config.train_a is None) != (config.train_b is None):
        given, lacking = ("a", "b") if config.train_a else ("b", "a")
        raise AuditError(
            f"--train-{given} is given and --train-{lacking} is not.",
            f"--train-{lacking}",
            "Give both: each half is the control of the other. Without both, only divergence is measured.",
        )


def require_single(config: AuditConfig) -> None:
    """Refuse a single training whose images are not given, or that comes with another half's."""
    if config.train_b is not None:
        raise AuditError(
            "--train-b is given and --ckpts-b is not.",
            "--ckpts-b",
            "Give the checkpoints trained on half b; without them, images that were not trained on are --heldout.",
        )
    if config.train_a is None or config.heldout is None:
        raise AuditError(
            "A single training can only be compared with real images that it did not see.",
            "--train-a, --heldout",
            "Give both, or the checkpoints of a twin by --ckpts-b.",
        )


def require_levels(n_levels: int, train_steps: int) -> None:
    """Refuse more noise levels than the schedule has noised times: two levels would be one."""
    if n_levels > train_steps - 1:
        raise AuditError(
            f"{n_levels} noise levels were asked for, the schedule has {train_steps - 1}.",
            "--loss-levels",
            f"Give at most {train_steps - 1}; 16 is the default.",
        )


def resolve_device(asked: str, earlier: Mapping[str, Any]) -> str:
    """Return the device: as asked, as before in this run, or cuda where there is one."""
    import torch

    available = torch.cuda.is_available()
    device = earlier.get("device") or ("cuda" if available else "cpu") if asked == "auto" else asked
    if device.split(":")[0] not in ("cpu", "cuda"):
        raise AuditError(f"The device {asked!r} is not known.", "--device", "Give cpu, cuda, cuda:1 or auto.")
    if device.startswith("cuda") and not available:
        raise AuditError("There is no CUDA device here.", f"--device {device}", "Give --device cpu, or auto.")
    if device.startswith("cuda"):  # TF32 would make the twins' difference depend on the card
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return device


def resolve_batch_size(asked: str, device: str, earlier: Mapping[str, Any]) -> int:
    """Return the batch size: as asked, as before in this run, 64 on a CPU and 256 on a GPU."""
    if asked != "auto":
        return int(asked)
    return int(earlier.get("batch_size") or (64 if device == "cpu" else 256))


def discover(config: AuditConfig) -> TwinPair:
    """Return the aligned series of both twins."""
    a = checkpoints.discover(config.ckpts_a, "a")
    b = checkpoints.discover(config.ckpts_b, "b") if config.ckpts_b is not None else None
    return checkpoints.pair(a, b, weights=config.weights, steps=config.step_numbers)


def usable(pair: TwinPair) -> TwinPair:
    """Return the pair with digests; a step whose file is broken in one twin leaves both, with the reason."""
    good: dict[str, list[Any]] = {twin: [] for twin in TWINS}
    excluded = list(pair.excluded)
    for step in pair.steps:
        inspected = []
        for twin in pair.twins:
            checkpoint = pair.series(twin).at(step)
            try:
                inspected.append(checkpoints.inspect(checkpoint))
            except CheckpointError as error:
                excluded.append(Excluded(twin, step, checkpoint.path, error.what))
        if len(inspected) == len(pair.twins):
            for checkpoint in inspected:
                good[checkpoint.twin].append(checkpoint)
        else:
            excluded += [
                Excluded(c.twin, step, c.path, "the twin's checkpoint of this step is not usable") for c in inspected
            ]
    if not good["a"]:
        reasons = "; ".join(f"{e.twin}/{e.step}: {e.reason}" for e in excluded[:4])
        raise AuditError(
            f"No checkpoint can be audited: {reasons}.", pair.a.checkpoints[0].path.parent, "Save them again."
        )
    series = [replace(pair.series(twin), checkpoints=tuple(good[twin])) for twin in TWINS]
    return TwinPair(*series, excluded=tuple(sorted(excluded, key=lambda e: (e.twin, e.step))))


def scheduler_notes(pair: TwinPair, config: AuditConfig) -> tuple[str, ...]:
    """Return what was assumed about the noise schedule."""
    if config.scheduler is None:
        return ()
    saved = any(c.scheduler for twin in TWINS for c in pair.series(twin).checkpoints)
    beside = "instead of the one saved with the checkpoints" if saved else "because none is saved with the checkpoints"
    return (f"The noise schedule is the one given by --scheduler {config.scheduler}, {beside}.",)


def read_sets(config: AuditConfig, image_shape: tuple[int, int, int]) -> dict[str, ImageSet]:
    """Return the image sets that were given, at the model's shape."""
    given = {"train-a": config.train_a, "train-b": config.train_b, "heldout": config.heldout}
    return {name: images.read(source, name, image_shape) for name, source in given.items() if source is not None}


def check_overlaps(sets: Mapping[str, ImageSet], allow: bool) -> tuple[dict[str, set[str]], tuple[str, ...]]:
    """Return the ids per set that some other set also holds; refuse them unless allowed."""
    shared: dict[str, set[str]] = {name: set() for name in sets}
    notes = []
    names = sorted(sets)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            pairs = images.check_overlap(sets[first], sets[second], allow)
            shared[first] |= {a for a, _ in pairs}
            shared[second] |= {b for _, b in pairs}
            if pairs:
                left = "held-out" if "heldout" in (first, second) else "every own-versus-other statistic"
                notes.append(
                    f"{first} and {second} share {len({a for a, _ in pairs})} images (--allow-overlap): "
                    f"they are left out of {left}."
                )
    return shared, tuple(notes)


def without_leaks(sets: Mapping[str, ImageSet], shared: Mapping[str, set[str]]) -> dict[str, ImageSet]:
    """Return the sets, held-out without images that a half also holds: a leaked one is no control."""
    kept = dict(sets)
    if shared.get("heldout"):
        whole = sets["heldout"]
        rows = [i for i, each in enumerate(whole.ids) if each not in shared["heldout"]]
        kept["heldout"] = replace(whole, images=whole.images[rows], ids=tuple(whole.ids[i] for i in rows))
    return kept


def require_enough(sets: Mapping[str, ImageSet]) -> None:
    """Refuse sets on which no statistic can rest."""
    for name, each in sets.items():
        if len(each) < LEAST_IMAGES:
            raise AuditError(
                f"{name} has {len(each)} images; no statistic can rest on so few.",
                f"--{name}",
                f"Give at least {LEAST_IMAGES}, better hundreds.",
            )


def require_calibration(fpr: float | None, sets: Mapping[str, ImageSet]) -> None:
    """Refuse a false-positive rate that the held-out images cannot set: each fold needs one expected hit."""
    if fpr is None:
        return
    needed = int(np.ceil(2 / fpr)) if fpr > 0 else 0
    have = len(sets.get("heldout", ()))
    if fpr <= 0 or "train-a" not in sets or have < needed:
        raise AuditError(
            f"A false-positive rate of {fpr} cannot be set with {have} held-out images.",
            "--fpr",
            f"Give --train-a, --train-b and at least {needed or 'some'} held-out images (2 / rate), or a larger rate.",
        )


def pool_masks(sets: Mapping[str, ImageSet], shared: Mapping[str, set[str]], seed: int) -> dict[str, np.ndarray]:
    """Return which training images take part in own-versus-other statistics.

    Not blank, not shared, and the larger half subsampled by the run seed to the size of
    the smaller (docs/statistics.md 1.1).
    """
    masks = {}
    for name in ("train-a", "train-b"):
        if name in sets:
            distinct = np.array([i not in shared[name] for i in sets[name].ids])
            masks[name] = distinct & ~images.is_blank(sets[name])
    size = min((mask.sum() for mask in masks.values()), default=0)
    if masks and size < LEAST_IMAGES:
        raise AuditError(
            f"{size} images of a half are left for own-versus-other statistics: others are blank or shared.",
            "--train-a, --train-b",
            f"Give two disjoint halves of at least {LEAST_IMAGES} images.",
        )
    return {name: subsample(mask, int(size), noise.derived_seed("pool", name, seed)) for name, mask in masks.items()}


def subsample(mask: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return the mask with ``size`` of its true entries kept, chosen by ``seed``."""
    if mask.sum() == size:
        return mask
    kept = np.random.default_rng(seed).choice(np.flatnonzero(mask), size, replace=False)
    chosen = np.zeros_like(mask)
    chosen[kept] = True
    return chosen


def duplicate_notes(digests: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return one sentence per set that holds exact duplicates."""
    return [
        f"{name} holds {len(each) - len(set(each))} exact duplicates of its own images, which count as one group."
        for name, each in digests.items()
        if len(set(each)) < len(each)
    ]


def pool_notes(pools: Mapping[str, np.ndarray]) -> list[str]:
    """Return one sentence per half of which not every image takes part in own-versus-other statistics."""
    return [
        f"{int(mask.sum())} of {len(mask)} images of {name} take part in own-versus-other statistics: "
        "without blank and shared images, halves of equal size."
        for name, mask in pools.items()
        if not mask.all()
    ]
