"""What a user gives, read and checked before the first network call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from auditor import (
    attacks,
    checkpoints,
    classwise,
    denoising,
    given_samples,
    groups,
    images,
    models,
    noise,
    preflight,
    sampling,
    schedules,
    spaces,
)
from auditor.config import SETS_SPACE, AuditConfig, Budgets, budgets_from_file
from auditor.errors import AuditError, CheckpointError
from auditor.given_samples import GivenSamples
from auditor.images import mirror
from auditor.measuring import Scope
from auditor.pixels import Pixels
from auditor.records import TWINS, Checkpoint, Excluded, Facts, ImageSet, TwinPair
from auditor.run import RunDirectory

SMALL = 32 * 32 * 3  # numbers in a picture up to which a CPU has more to do per call than per picture
LEAST_IMAGES = 10  # of every image set
MIRRORED_NOTE = (
    "Training images were looked for mirrored, too (--flip-train): an image and its mirror image are one, and the "
    "nearer of the two counts."
)
Say = Callable[[str, int], None]  # what is being done; network calls finished since the last word


@dataclass(frozen=True)
class Prepared:
    """Everything an audit needs, read and checked."""

    config: AuditConfig
    pair: TwinPair
    facts: Facts  # what the checkpoints say of the model
    settings: checkpoints.ModelSettings
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
    pixels: Mapping[str, Pixels]  # twin -> how its training scaled pictures
    conditions: sampling.Conditions | None  # of samples, where the models are conditional
    groups: Mapping[str, np.ndarray]  # train-a, train-b: number of the group of each image
    given: GivenSamples | None = None  # samples that exist already; then there is no model
    classes: Mapping[str, np.ndarray] = field(default_factory=dict)  # per set: class of each image, where conditional
    preflight: Mapping[str, Any] = field(default_factory=dict)  # what was seen of the images, and of which
    class_pools: Mapping[str, np.ndarray] = field(default_factory=dict)  # train-a, train-b: compared within classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of the pictures."""
        return self.facts.image_shape

    @property
    def unit(self) -> str:
        """What the steps are counted in."""
        return self.pair.a.checkpoints[0].unit

    @property
    def scope(self) -> Scope:
        """The axes of the run's tables."""
        c = self.config
        return Scope(
            self.pair.steps,
            () if c.quick else c.space_names,
            0 if c.quick else c.n_samples,
            c.seed,
            "train-a" in self.sets,
            "heldout" in self.sets,
            c.fpr,
            self.pair.twins,
            c.ckpts_a2 is not None,
        )

    def n_originals(self, name: str) -> int:
        """Return how many images of a set are no mirror images; these come first."""
        mirrored = self.config.flip_train and name.startswith("train-")
        return len(self.sets[name]) // 2 if mirrored else len(self.sets[name])

    @property
    def pairs_samples(self) -> bool:
        """Whether samples of one seed come from the same noise in both twins."""
        return self.given is None or self.given.paired

    @property
    def with_losses(self) -> bool:
        """Whether denoising losses are measured: there are images, and a model."""
        return bool(self.sets) and self.given is None

    @property
    def with_attacks(self) -> bool:
        """Whether networks are asked about members and non-members; in a quick audit only where that can tell 1 %."""
        if not (self.with_losses and self.scope.with_train and self.scope.with_heldout):
            return False
        heldout = min(self.config.loss_images, self.n_originals("heldout"))
        return not self.config.quick or heldout >= attacks.WORTHWHILE

    @property
    def attack_times(self) -> dict[str, np.ndarray]:
        """Times at which membership attacks score images, by attack; none where there are none to attack."""
        if not self.with_attacks:
            return {}
        return attacks.attack_times(self.times, schedules.n_times(self.scheduler), with_steps=not self.config.quick)

    @property
    def compares_predictions(self) -> bool:
        """Whether the twins' networks see pictures alike, so that their predictions can be compared."""
        return self.scope.with_twin and self.with_losses and len({each.text for each in self.pixels.values()}) == 1

    @property
    def with_u_turns(self) -> bool:
        """Whether images are noised and denoised again."""
        return self.with_losses and self.config.u_turns > 0

    @property
    def with_trajectories(self) -> bool:
        """Whether the twins' predictions are compared where samples come from."""
        return self.compares_predictions and self.scope.with_train and self.config.trajectories > 0

    @property
    def times(self) -> np.ndarray:
        """Diffusion times of the loss cells; none without a model."""
        if self.given is not None:
            return np.empty(0, dtype=np.int64)
        if self.config.loss_strata == "log-snr":
            return denoising.snr_levels(self.config.loss_levels, schedules.log_snr(self.scheduler))
        return denoising.time_levels(self.config.loss_levels, schedules.n_times(self.scheduler))

    @property
    def level_shares(self) -> np.ndarray:
        """The share of uniform diffusion times that each of them stands for, float64 ``[n_levels]``."""
        if self.config.loss_strata == "log-snr":
            return denoising.shares_of(self.times, schedules.log_snr(self.scheduler))
        return np.full(len(self.times), 1 / max(len(self.times), 1))

    @property
    def level_log_snr(self) -> np.ndarray:
        """Their logarithmic signal-to-noise ratios, float64 ``[n_levels]``."""
        return schedules.log_snr(self.scheduler)[self.times] if len(self.times) else np.empty(0)


def prepare(config: AuditConfig, run: RunDirectory, say: Say = lambda text, calls: None) -> Prepared:
    """Read and check checkpoints, images and feature weights.

    Raises
    ------
    AuditError
        For anything that would make the audit wrong or impossible, before any sampling.
    """
    require(config)
    config = replace(config, spaces=SETS_SPACE) if config.quick else config
    earlier = run.read_record().get("resolved", {}) if run.record.is_file() else {}
    budgets = budgets_from_file(config.budgets)
    device = resolve_device(config.device, earlier)
    say("opening the feature spaces", 0)  # first: a missing CLIP file must not cost an hour of sampling
    training = (lambda: trained_images(sets)) if config.train_a is not None else None  # read below, used once they are
    space_settings = spaces.SpaceSettings(device, config.clip_model, config.clip_weights, config.grammar, training)
    opened = {name: spaces.open_space(name, space_settings) for name in config.space_names}
    settings, given, identical, conditions = models.settings(config), None, (), None
    if config.samples_a is not None:
        say("reading the samples", 0)
        given = given_samples.read(config, reading_of(config), scratch_of(config))
        config = replace(config, n_samples=given.n, seed=given.first_seed)
        pair, facts, scheduler, steps = given.pair, Facts(given.image_shape, "none", None), {}, 0
    else:
        say("reading the checkpoints", 0)
        pair = usable(discover(config, settings), settings)
        identical = identical_notes(pair, config.allow_identical)
        facts, scheduler = checkpoints.check_compatible(pair, config.scheduler, settings)
        conditions = models.conditions(config, facts)
        require_levels(config.loss_levels, schedules.n_times(scheduler))
        steps = sampling.resolve_steps(config.sampler, config.sampling_steps, scheduler)
    say("reading the images", 0)
    sets = read_sets(config, facts.image_shape)
    plain = sets
    if config.flip_train:
        sets = with_mirrored(sets, scratch_of(config))
    shared, overlap_notes = check_overlaps(sets, config.allow_overlap)
    sets = without_leaks(sets, shared)
    require_enough(sets)
    require_calibration(config.fpr, sets)
    looked = looked_at(without_leaks(plain, shared), config, run, say)
    digests = {name: images.digests(each) for name, each in sets.items()}
    grouped = grouped_with_mirrors(plain, digests, config.flip_train)
    left_out = {name: shared[name] | grouped.spanning.get(name, set()) for name in sets}
    pools = pool_masks(sets, left_out, config.seed, config.flip_train)
    pixels = models.pixels(config, facts, sets, pair.twins)
    scheduler = models.fitting_schedule(scheduler, pixels)
    classes = models.image_classes(facts, sets)
    class_pools = classwise.class_pools(pools, classes, config.seed, config.flip_train)
    notes = (
        *(given.notes if given is not None else ()),
        *scheduler_notes(pair, config),
        *model_notes(config, facts, pixels, classes),
        *identical,
        *(f"{name}: {note}" for name, each in sets.items() for note in each.notes),
        *overlap_notes,
        *looked["notes"],
        *duplicate_notes(digests),
        *grouped.notes,
        *pool_notes(pools),
        *classwise.pool_notes(class_pools, classes, facts.n_classes or 0),
        *([MIRRORED_NOTE] if config.flip_train and "train-a" in sets else []),
    )
    batch_size = resolve_batch_size(config, device, earlier, facts)
    set_digests = {name: images.set_digest(each) for name, each in sets.items()}
    return Prepared(
        config,
        pair,
        facts,
        settings,
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
        pixels,
        conditions,
        grouped.numbers,
        given,
        classes,
        looked,
        class_pools,
    )


def require(config: AuditConfig) -> None:
    """Refuse a command that lacks what every run needs."""
    if config.quick:
        require_networks(config)
    if config.samples_a is not None or config.samples_b is not None:
        require_samples_alone(config)
    for name in ("out",) if config.ckpts or config.samples_a else ("ckpts_a", "out"):
        if getattr(config, name) is None:
            flag = "--" + name.replace("_", "-")
            raise AuditError(f"{flag} is missing.", flag, "audit run --ckpts-a DIR --ckpts-b DIR --out DIR at least.")
    if config.ckpts:
        return  # trainings.py checks what it splits into pairs
    has_twin = config.ckpts_b is not None or config.samples_b is not None
    if not has_twin and config.ckpts_a2 is not None:
        raise AuditError("--ckpts-a2 is given without a twin.", "--ckpts-b", "Give the training on half b, too.")
    if not has_twin:
        require_single(config)
    elif (config.train_a is None) != (config.train_b is None):
        given, lacking = ("a", "b") if config.train_a else ("b", "a")
        raise AuditError(
            f"--train-{given} is given and --train-{lacking} is not.",
            f"--train-{lacking}",
            "Give both: each half is the control of the other. Without both, only divergence is measured.",
        )


def require_networks(config: AuditConfig) -> None:
    """Refuse a quick audit of what has no network, of more than a pair, or without images to ask about."""
    for name in ("samples_a", "samples_b", "ckpts", "ckpts_a2", "fpr"):
        if getattr(config, name):
            flag = "--" + name.replace("_", "-")
            remedy = "Leave one of both out: a quick audit asks the networks of two trainings, or of one."
            raise AuditError(f"--quick and {flag} are both given.", flag, remedy)
    if config.train_a is None and config.heldout is None:
        remedy = "Give the training images of both halves and held-out images."
        raise AuditError("A quick audit has no images to ask about.", "--train-a, --train-b, --heldout", remedy)


def require_samples_alone(config: AuditConfig) -> None:
    """Refuse samples beside checkpoints, and samples of twin b alone."""
    if config.samples_a is None:
        raise AuditError(
            "--samples-b is given and --samples-a is not.", "--samples-a", "Give both, or --samples-a alone."
        )
    for name in ("ckpts_a", "ckpts_b", "ckpts_a2", "ckpts", "scheduler"):
        if getattr(config, name):
            flag = "--" + name.replace("_", "-")
            raise AuditError(
                f"{flag} and --samples-a are both given.", flag, "Give checkpoints to be sampled, or samples, not both."
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


def resolve_batch_size(config: AuditConfig, device: str, earlier: Mapping[str, Any], facts: Facts) -> int:
    """Return the batch size: as asked, as before in this run, 64 on a CPU and 256 on a GPU.

    A quick audit, most of whose time is the overhead of calls, has 256 on a CPU, too, for small pictures.
    """
    if config.batch_size != "auto":
        return int(config.batch_size)
    many = device != "cpu" or (config.quick and math.prod(facts.image_shape) <= SMALL)
    return int(earlier.get("batch_size") or (256 if many else 64))


def trained_images(sets: Mapping[str, ImageSet]) -> list[np.ndarray]:
    """Return the images of the halves, uint8 ``[n, h, w, c]`` each, a's first."""
    return [sets[name].images for name in sorted(sets) if name.startswith("train-")]


def discover(config: AuditConfig, settings: checkpoints.ModelSettings) -> TwinPair:
    """Return the aligned series of both twins."""
    a = checkpoints.discover(config.ckpts_a, "a", settings)
    b = checkpoints.discover(config.ckpts_b, "b", settings) if config.ckpts_b is not None else None
    return checkpoints.pair(a, b, weights=config.weights, steps=config.step_numbers)


def usable(pair: TwinPair, settings: checkpoints.ModelSettings | None = None) -> TwinPair:
    """Return the pair with digests; a step whose file is broken in one twin leaves both, with the reason."""
    good: dict[str, list[Any]] = {twin: [] for twin in TWINS}
    excluded = list(pair.excluded)
    for step in pair.steps:
        inspected = []
        for twin in pair.twins:
            checkpoint = pair.series(twin).at(step)
            try:
                inspected.append(checkpoints.inspect(checkpoint, settings))
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


def identical_notes(pair: TwinPair, allow: bool) -> tuple[str, ...]:
    """Refuse checkpoints that are the same, in one series or in both: copies say nothing of a training."""
    first: dict[str, Checkpoint] = {}
    same = []
    for checkpoint in pair.a.checkpoints + pair.b.checkpoints:
        earlier = first.setdefault(checkpoint.digest, checkpoint)
        if earlier is not checkpoint:
            same.append(" and ".join(f"{one.twin}/{one.step}" for one in (earlier, checkpoint)))
    if not same:
        return ()
    more = f" and {len(same) - 4} more" if len(same) > 4 else ""
    what = f"Some checkpoints are the same: {'; '.join(same[:4])}{more}."
    if not allow:
        remedy = "Check the folders: twins are two trainings. --allow-identical goes on."
        raise AuditError(what, pair.a.checkpoints[-1].path.parent, remedy)
    return (f"{what[:-1]} (--allow-identical).",)


def model_notes(
    config: AuditConfig, facts: Facts, pixels: Mapping[str, Pixels], classes: Mapping[str, np.ndarray]
) -> tuple[str, ...]:
    """Return what was assumed about the networks, where a user said it or a format had to."""
    said = []
    if config.pixel_range is not None or config.pixel_mean is not None:
        said.append(f"Pictures are scaled to {pixels['a'].text} (--pixel-range, --pixel-mean).")
    elif not pixels["a"].is_standard:
        said.append(f"Pictures are taken to be scaled to {pixels['a'].text}, as networks of {facts.model} expect them.")
    if config.trust_pickle:
        said.append("Code in the checkpoints was allowed to run (--trust-pickle).")
    if facts.conditioning == "class":
        said.append(
            "Samples of both twins have the same class per seed; neighbours are sought among all classes, for the "
            "metrics that end in _in_class among images of the class."
        )
        known = (
            f"the classes of {', '.join(sorted(classes))}" if classes else "no class, for those of images are not known"
        )
        said.append(f"Losses are measured given {known}.")
    if facts.conditioning == "text":
        prompts = f"the prompts of {config.prompts}" if config.prompts else "the empty prompt"
        said.append(f"Samples of both twins have the same prompt per seed ({prompts}); losses are at the empty prompt.")
    return (*said, *facts.notes)


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
    return {
        name: images.read(source, name, image_shape, reading_of(config), not config.no_cache, scratch_of(config))
        for name, source in given.items()
        if source is not None
    }


def reading_of(config: AuditConfig) -> images.Reading:
    """Return what may be done to pictures."""
    return images.Reading(config.window_limits, config.convert_color)


def scratch_of(config: AuditConfig) -> Path:
    """Return the folder for memory maps: the disk that the run will be on, of which something exists already."""
    out = Path(config.out).absolute()
    return next(each for each in (out, *out.parents) if each.is_dir())


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
        kept["heldout"] = whole.rows(rows)
    return kept


def looked_at(sets: Mapping[str, ImageSet], config: AuditConfig, run: RunDirectory, say: Say) -> dict[str, Any]:
    """Return what a look at the images says; the same images are not looked at twice in one run directory."""
    of = {name: images.set_digest(each) for name, each in sets.items()}
    key = {"of": of, "revision": preflight.REVISION, "allow_overlap": config.allow_overlap, "seed": config.seed}
    earlier = run.read_record().get("preflight", {}) if run.record.is_file() else {}
    if {name: earlier.get(name) for name in key} == key:
        return earlier
    say("looking at the images", 0)
    return key | {"notes": preflight.check(sets, config.seed, config.allow_overlap)}


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


def with_mirrored(sets: Mapping[str, ImageSet], scratch: Path) -> dict[str, ImageSet]:
    """Return the sets, those that were trained on with each image mirrored, too."""
    return {
        name: mirror.with_mirrored(each, scratch) if name.startswith("train-") else each for name, each in sets.items()
    }


def grouped_with_mirrors(
    plain: Mapping[str, ImageSet], digests: Mapping[str, tuple[str, ...]], mirrored: bool
) -> groups.Groups:
    """Return the groups of the training images; mirror images belong to their originals' groups."""
    if not mirrored:
        return groups.find(plain, digests)
    found = groups.find(plain, {name: mirror.either(each) for name, each in digests.items() if name != "heldout"})
    return replace(found, numbers={name: np.tile(each, 2) for name, each in found.numbers.items()})


def pool_masks(
    sets: Mapping[str, ImageSet], shared: Mapping[str, set[str]], seed: int, mirrored: bool = False
) -> dict[str, np.ndarray]:
    """Return which training images take part in own-versus-other statistics.

    Not blank, not shared, and the larger half subsampled by the run seed to the size of
    the smaller (docs/statistics.md 1.1). Mirrored images go with their originals.
    """
    masks = {}
    for name in ("train-a", "train-b"):
        if name in sets:
            distinct = np.array([i not in shared[name] for i in sets[name].ids])
            masks[name] = distinct & ~images.is_blank(sets[name])
            if mirrored:
                masks[name] = masks[name].reshape(2, -1).all(axis=0)
    size = min((mask.sum() for mask in masks.values()), default=0)
    if masks and size < LEAST_IMAGES:
        raise AuditError(
            f"{size} images of a half are left for own-versus-other statistics: others are blank or shared.",
            "--train-a, --train-b",
            f"Give two disjoint halves of at least {LEAST_IMAGES} images.",
        )
    chosen = {name: subsample(mask, int(size), noise.derived_seed("pool", name, seed)) for name, mask in masks.items()}
    return {name: np.tile(mask, 2) for name, mask in chosen.items()} if mirrored else chosen


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
