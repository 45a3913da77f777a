"""What a user gives, read and checked before the first network call."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from auditor import checkpoints, images, spaces
from auditor.config import LOSS_LEVELS, SETS_SPACE, AuditConfig, budgets_from_file
from auditor.diffusion import device as devices
from auditor.diffusion.sampling import Conditions, resolve_steps
from auditor.diffusion.scaling import Pixels
from auditor.diffusion.schedules import n_times
from auditor.errors import AuditError
from auditor.inputs import classes as within_classes
from auditor.inputs import feature_spaces, image_sets, loss_cells, mirroring, models, required, samples, twins
from auditor.inputs.asked import Asked, SpaceFacts, digest_of, set_facts
from auditor.inputs.loaded import Loaded, Say
from auditor.inputs.samples import GivenSamples
from auditor.records import DECOYS, Facts, Flips, ImageSet, TwinPair, is_half
from auditor.run import RunDirectory
from auditor.scope import Scope


@dataclass(frozen=True)
class Origin:
    """Where the samples of an audit come from: checkpoints, or files."""

    pair: TwinPair
    facts: Facts
    scheduler: Mapping[str, Any]  # empty where samples are given
    sampling_steps: int
    conditions: Conditions | None
    given: GivenSamples | None
    notes: tuple[str, ...]  # what had to be assumed to get there


@dataclass(frozen=True)
class Pictures:
    """The image sets of an audit, and what of them takes part in which statistic."""

    sets: Mapping[str, ImageSet]
    digests: Mapping[str, tuple[str, ...]]
    in_pool: Mapping[str, np.ndarray]
    groups: Mapping[str, np.ndarray]
    classes: Mapping[str, np.ndarray]
    class_pools: Mapping[str, np.ndarray]
    preflight: Mapping[str, Any]
    notes: tuple[str, ...]


def prepare(config: AuditConfig, run: RunDirectory, say: Say = lambda text, calls: None) -> Loaded:
    """Read and check checkpoints, images and feature weights.

    Raises
    ------
    AuditError
        For anything that would make the audit wrong or impossible, before any sampling.
    """
    required.require(config)
    config = replace(config, spaces=SETS_SPACE) if config.quick else config
    begun = run.earlier()
    earlier = begun.get("resolved", {})
    asked_for, config = config.spaces, feature_spaces.kept(config, begun)
    budgets = budgets_from_file(config.budgets)
    device = devices.resolve_device(config.device, earlier.get("device"))
    say("opening the feature spaces", 0)  # first: a missing CLIP file must not cost an hour of sampling
    sets: dict[str, ImageSet] = {}  # filled below, looked at when a space first embeds
    given = config.train_a is not None or bool(config.train)
    training = (lambda: image_sets.trained(sets)) if given else None
    space_settings = spaces.SpaceSettings(device, config.clip_model, config.clip_weights, config.grammar, training)
    opened = feature_spaces.opened(config, space_settings)
    settings = models.settings(config)
    say(f"reading the {'checkpoints' if config.samples_a is None else 'samples'}", 0)
    origin = from_checkpoints(config, settings, device) if config.samples_a is None else from_samples(config)
    if origin.given is not None:
        config = replace(config, n_samples=origin.given.n, seed=origin.given.first_seed)
    flips = mirroring.resolve(config.flip_train, origin.pair, None if origin.given is not None else settings)
    say("reading the images", 0)
    shape = origin.facts.image_shape
    assert shape is not None, "checkpoints whose shape nothing says are refused"
    pictures = read_pictures(config, origin, run, bool(flips.mirrored), say)
    sets.update(pictures.sets)
    n_images = max(map(len, pictures.sets.values()), default=0)
    opened = feature_spaces.fitting(opened, config, *shape[:2], n_images)
    keeps = feature_spaces.lacking(opened, *shape[:2], space_settings) if asked_for != config.spaces else ()
    config = replace(config, spaces=opened.names)
    pixels = models.pixels(config, origin.facts, pictures.sets, origin.pair.twins)
    facts_of = facts_of_sets(pictures, bool(flips.mirrored))
    config = loss_cells.with_loss_cells(config, begun.get("given", {}), facts_of)
    asked = Asked(
        config=config,
        scope=scope_of(config, origin.pair, pictures.sets, opened.spaces),
        budgets=budgets,
        device=device,
        batch_size=devices.resolve_batch_size(
            config.batch_size, device, earlier.get("batch_size"), origin.facts.image_shape, config.quick
        ),
        threads=devices.threads(),
        sampling_steps=origin.sampling_steps,
        image_shape=shape,
        scheduler=models.fitting_schedule(origin.scheduler, pixels),
        checkpoints=checkpoint_digests(origin.pair),
        sets=facts_of,
        spaces={
            name: SpaceFacts(
                revision=each.revision,
                dim=int(getattr(each, "dim", 0) or math.prod(shape)),
            )
            for name, each in opened.spaces.items()
        },
        scaling={twin: scaling_record(each) for twin, each in pixels.items() if not each.is_standard},
        conditions=conditions_record(origin.conditions, settings),
        with_model=origin.given is None,
        pairs_samples=origin.given is None or origin.given.paired,
        sees_alike=len({each.text for each in pixels.values()}) == 1,
        mirrored=bool(flips.mirrored),
    )
    return Loaded(
        asked=asked,
        pair=origin.pair,
        facts=origin.facts,
        settings=settings,
        sets=pictures.sets,
        digests=pictures.digests,
        in_pool=pictures.in_pool,
        notes=(*opened.notes, *keeps, *all_notes(config, origin, pictures, pixels, flips)),
        spaces=opened.spaces,
        pixels=pixels,
        conditions=origin.conditions,
        groups=pictures.groups,
        given=origin.given,
        classes=pictures.classes,
        preflight=pictures.preflight,
        class_pools=pictures.class_pools,
        flips=flips,
    )


def load(asked: Asked, run: RunDirectory, say: Say = lambda text, calls: None) -> Loaded:
    """Read again what a run was asked for: what another process needs to make a part of it.

    Raises
    ------
    AuditError
        If checkpoints, images, feature weights or resolved settings are no longer those of the run.
    """
    found = prepare(asked.config, run, say)
    for name in ("checkpoints", "sets", "spaces", "scheduler", "device", "batch_size"):
        if getattr(found.asked, name) != getattr(asked, name):
            raise AuditError(
                f"The {name.replace('_', ' ')} are not those that the run was asked for.",
                run.record,
                "Give the audit run command again, or put back the files that it read.",
            )
    return replace(found, asked=asked)


def read_pictures(config: AuditConfig, origin: Origin, run: RunDirectory, mirrored: bool, say: Say) -> Pictures:
    """Read the image sets, compare them with one another, and say what of them takes part in which statistic."""
    facts, scratch = origin.facts, image_sets.scratch_of(config)
    assert facts.image_shape is not None, "checkpoints whose shape nothing says are refused"
    plain = image_sets.read(config, facts.image_shape)
    sets = image_sets.with_mirrored(plain, scratch) if mirrored else plain
    shared, overlap_notes = image_sets.check_overlaps(sets, config.allow_overlap)
    plain, sets = image_sets.without_leaks(plain, shared), image_sets.without_leaks(sets, shared)
    image_sets.require_enough(sets)
    image_sets.require_calibration(config.fpr, sets)
    looked = image_sets.looked_at(plain, config, run, say)
    if len(origin.pair.twins) == 1 and {"train-a", "heldout"} <= set(sets):
        decoys = image_sets.decoys(plain)
        plain = {**plain, **decoys}
        sets = {**sets, **(image_sets.with_mirrored(decoys, scratch) if mirrored else decoys)}
    digests = {name: images.digests(each) for name, each in sets.items()}
    grouped = image_sets.grouped_with_mirrors(plain, digests, mirrored)
    left_out = {name: shared.get(name, set()) | grouped.spanning.get(name, set()) for name in sets}
    pools = image_sets.pool_masks(sets, left_out, config.seed, mirrored)
    classes = models.image_classes(facts, sets)
    class_pools = within_classes.class_pools(pools, classes, config.seed, mirrored)
    return Pictures(
        sets=sets,
        digests=digests,
        in_pool=pools,
        groups=grouped.numbers,
        classes=classes,
        class_pools=class_pools,
        preflight=looked,
        notes=(
            *(f"{name}: {note}" for name, each in sets.items() for note in each.notes),
            *overlap_notes,
            *looked["notes"],
            *image_sets.unlike_files(plain, grouped.numbers, config.seed),
            *image_sets.duplicate_notes(digests),
            *grouped.notes,
            *image_sets.pool_notes(pools),
            *within_classes.pool_notes(class_pools, classes, facts.n_classes or 0),
        ),
    )


def all_notes(
    config: AuditConfig, origin: Origin, pictures: Pictures, pixels: Mapping[str, Pixels], flips: Flips
) -> tuple[str, ...]:
    """Return what had to be assumed or left out, in sentences."""
    return (
        *(origin.given.notes if origin.given is not None else ()),
        *twins.progress_notes(origin.pair),
        *models.schedule_notes(origin.pair, config),
        *models.notes(config, origin.facts, pixels, pictures.classes),
        *origin.notes,
        *pictures.notes,
        *(mirroring.notes(flips, config.flip_train) if "train-a" in pictures.sets else []),
    )


def scope_of(
    config: AuditConfig, pair: TwinPair, sets: Mapping[str, ImageSet], opened: Mapping[str, spaces.Space]
) -> Scope:
    """Return the axes of the run's tables."""
    return Scope(
        steps=pair.steps,
        spaces=() if config.quick else config.space_names,
        n_samples=0 if config.quick else config.n_samples,
        seed=config.seed,
        with_train="train-a" in sets,
        with_heldout="heldout" in sets,
        fpr=config.fpr,
        twins=pair.twins,
        decoys=DECOYS in sets,
        progress=pair.progress,
        final=config.final is not None,
        same_data=config.ckpts_a2 is not None,
        distance_spaces=() if config.quick else tuple(n for n, each in opened.items() if not each.vectors),
        release=config.release,
        release_size=config.release_size,
        weights=pair.a.checkpoints[0].weights,
    )


def checkpoint_digests(pair: TwinPair) -> dict[str, str]:
    """Return the digest of every checkpoint, by twin/step."""
    return {f"{twin}/{c.step}": c.digest for twin in pair.twins for c in pair.series(twin).checkpoints}


def facts_of_sets(pictures: Pictures, mirrored: bool) -> dict[str, Any]:
    """Return what is known of every set without its pictures."""
    return {
        name: set_facts(
            each,
            originals=len(each) // 2 if mirrored and is_half(name) else len(each),
            in_pool=pictures.in_pool.get(name),
            groups=pictures.groups.get(name),
            classes=pictures.classes.get(name),
        )
        for name, each in pictures.sets.items()
    }


def scaling_record(pixels: Pixels) -> list[Any]:
    """Return how pictures are scaled for a network, as plain data: range, and mean or its digest."""
    return [pixels.low, pixels.high, pixels.mean if isinstance(pixels.mean, float) else digest_of(pixels.mean)]


def conditions_record(drawn: Conditions | None, settings: checkpoints.ModelSettings) -> dict[str, Any]:
    """Return under what samples are drawn, as plain data; nothing where the models are not conditional."""
    if drawn is None:
        return {}
    prompts = {"prompts": list(settings.prompts)} if settings.prompts else {}
    return {"conditions": list(drawn.numbers), "guidance_scale": drawn.guidance, **prompts}


def from_samples(config: AuditConfig) -> Origin:
    """Read samples that exist already; there is no model then."""
    given = samples.read(config, image_sets.reading_of(config), image_sets.scratch_of(config))
    return Origin(
        pair=given.pair,
        facts=Facts(given.image_shape, "none", None),
        scheduler={},
        sampling_steps=0,
        conditions=None,
        given=given,
        notes=(),
    )


def from_checkpoints(config: AuditConfig, settings: checkpoints.ModelSettings, device: str) -> Origin:
    """Read and check the checkpoints of both twins."""
    pair = twins.usable(twins.discover(config, settings), settings)
    models.require_used(pair.a.checkpoints[0].format, settings)
    notes = twins.identical_notes(pair, config.allow_identical)
    facts, scheduler = checkpoints.check_compatible(pair, config.scheduler, settings)
    conditions = models.conditions(config, facts)
    required.require_levels(config.loss_levels or LOSS_LEVELS, n_times(scheduler))
    if settings.model is not None:  # of other networks the files say on what they can be called
        models.require_call(pair.a.checkpoints[0], scheduler, device, settings, conditions)
    return Origin(
        pair=pair,
        facts=facts,
        scheduler=scheduler,
        sampling_steps=resolve_steps(config.sampler, config.sampling_steps, scheduler),
        conditions=conditions,
        given=None,
        notes=notes,
    )
