"""What a user gives, read and checked before the first network call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from auditor import checkpoints, images, spaces
from auditor.config import SETS_SPACE, AuditConfig, budgets_from_file
from auditor.diffusion import device as machine
from auditor.diffusion.sampling import Conditions, resolve_steps
from auditor.diffusion.schedules import n_times
from auditor.inputs import classes as within_classes
from auditor.inputs import image_sets, mirroring, models, required, samples, twins
from auditor.inputs.prepared import Prepared, Say
from auditor.inputs.samples import GivenSamples
from auditor.records import Facts, TwinPair
from auditor.run import RunDirectory


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


def prepare(config: AuditConfig, run: RunDirectory, say: Say = lambda text, calls: None) -> Prepared:
    """Read and check checkpoints, images and feature weights.

    Raises
    ------
    AuditError
        For anything that would make the audit wrong or impossible, before any sampling.
    """
    required.require(config)
    config = replace(config, spaces=SETS_SPACE) if config.quick else config
    earlier = run.read_record().get("resolved", {}) if run.record.is_file() else {}
    budgets = budgets_from_file(config.budgets)
    device = machine.resolve_device(config.device, earlier.get("device"))
    say("opening the feature spaces", 0)  # first: a missing CLIP file must not cost an hour of sampling
    training = (lambda: image_sets.trained(sets)) if config.train_a is not None else None  # read below, used later
    space_settings = spaces.SpaceSettings(device, config.clip_model, config.clip_weights, config.grammar, training)
    opened = {name: spaces.open_space(name, space_settings) for name in config.space_names}
    settings = models.settings(config)
    if config.samples_a is not None:
        say("reading the samples", 0)
        origin = from_samples(config)
        config = replace(config, n_samples=origin.given.n, seed=origin.given.first_seed)
    else:
        say("reading the checkpoints", 0)
        origin = from_checkpoints(config, settings)
    facts = origin.facts
    flips = mirroring.resolve(config.flip_train, origin.pair, None if origin.given is not None else settings)
    mirrored = bool(flips.mirrored)
    say("reading the images", 0)
    sets = image_sets.read(config, facts.image_shape)
    plain = sets
    if mirrored:
        sets = image_sets.with_mirrored(sets, image_sets.scratch_of(config))
    shared, overlap_notes = image_sets.check_overlaps(sets, config.allow_overlap)
    sets = image_sets.without_leaks(sets, shared)
    image_sets.require_enough(sets)
    image_sets.require_calibration(config.fpr, sets)
    looked = image_sets.looked_at(image_sets.without_leaks(plain, shared), config, run, say)
    digests = {name: images.digests(each) for name, each in sets.items()}
    grouped = image_sets.grouped_with_mirrors(plain, digests, mirrored)
    left_out = {name: shared[name] | grouped.spanning.get(name, set()) for name in sets}
    pools = image_sets.pool_masks(sets, left_out, config.seed, mirrored)
    pixels = models.pixels(config, facts, sets, origin.pair.twins)
    classes = models.image_classes(facts, sets)
    class_pools = within_classes.class_pools(pools, classes, config.seed, mirrored)
    notes = (
        *(origin.given.notes if origin.given is not None else ()),
        *models.schedule_notes(origin.pair, config),
        *models.notes(config, facts, pixels, classes),
        *origin.notes,
        *(f"{name}: {note}" for name, each in sets.items() for note in each.notes),
        *overlap_notes,
        *looked["notes"],
        *image_sets.duplicate_notes(digests),
        *grouped.notes,
        *image_sets.pool_notes(pools),
        *within_classes.pool_notes(class_pools, classes, facts.n_classes or 0),
        *(mirroring.notes(flips, config.flip_train) if "train-a" in sets else []),
    )
    return Prepared(
        config=config,
        pair=origin.pair,
        facts=facts,
        settings=settings,
        scheduler=models.fitting_schedule(origin.scheduler, pixels),
        sets=sets,
        digests=digests,
        set_digests={name: images.set_digest(each) for name, each in sets.items()},
        in_pool=pools,
        notes=notes,
        device=device,
        batch_size=machine.resolve_batch_size(
            config.batch_size, device, earlier.get("batch_size"), facts.image_shape, config.quick
        ),
        sampling_steps=origin.sampling_steps,
        spaces=opened,
        budgets=budgets,
        pixels=pixels,
        conditions=origin.conditions,
        groups=grouped.numbers,
        given=origin.given,
        classes=classes,
        preflight=looked,
        class_pools=class_pools,
        flips=flips,
    )


def from_samples(config: AuditConfig) -> Origin:
    """Read samples that exist already; there is no model then."""
    given = samples.read(config, image_sets.reading_of(config), image_sets.scratch_of(config))
    return Origin(given.pair, Facts(given.image_shape, "none", None), {}, 0, None, given, ())


def from_checkpoints(config: AuditConfig, settings: checkpoints.ModelSettings) -> Origin:
    """Read and check the checkpoints of both twins."""
    pair = twins.usable(twins.discover(config, settings), settings)
    notes = twins.identical_notes(pair, config.allow_identical)
    facts, scheduler = checkpoints.check_compatible(pair, config.scheduler, settings)
    conditions = models.conditions(config, facts)
    required.require_levels(config.loss_levels, n_times(scheduler))
    steps = resolve_steps(config.sampler, config.sampling_steps, scheduler)
    return Origin(pair, facts, scheduler, steps, conditions, None, notes)
