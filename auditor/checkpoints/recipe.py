"""What all checkpoints of a training share: the facts of its model, and its noise schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from reprlib import Repr
from typing import Any

from auditor.checkpoints.configs import LONGEST_SIDE, absence, read_json
from auditor.checkpoints.formats import open_format
from auditor.checkpoints.settings import ModelSettings
from auditor.diffusion import schedules
from auditor.diffusion.schedules import DDPM, SCHEDULE_KEYS
from auditor.errors import AuditError
from auditor.records import Checkpoint, Facts, TwinPair

SHORT = Repr()
SHORT.maxstring = 120  # characters of a value in a message


def model_facts(checkpoint: Checkpoint, settings: ModelSettings | None = None) -> Facts:
    """Return what the headers say of the model; no image shape is an error that says how to give it."""
    facts = open_format(checkpoint.format, settings).facts(checkpoint)
    given = settings.image_shape if settings else None
    if given and facts.image_shape and given != facts.image_shape:
        shapes = " and ".join("x".join(map(str, shape)) for shape in (facts.image_shape, given))
        raise AuditError(f"The pictures are {shapes} by the checkpoint and by --image-shape.", checkpoint.path)
    if facts.image_shape is None and given is None:
        what = "The size of the pictures is nowhere in the checkpoint."
        raise AuditError(what, checkpoint.path, "Give --image-shape HEIGHTxWIDTHxCHANNELS, such as 32x32x1.")
    shape = facts.image_shape or given
    if not all(type(side) is int and 0 < side <= LONGEST_SIDE for side in shape or ()):
        what = f"The pictures are {SHORT.repr(shape)} (height, width, channels) by the checkpoint: no size of pictures."
        raise AuditError(what, checkpoint.path, f"Sides are at most {LONGEST_SIDE}; correct its configuration.")
    return replace(facts, image_shape=shape)


def scheduler_config(
    checkpoint: Checkpoint, override: str | None, settings: ModelSettings | None = None
) -> dict[str, Any]:
    """Return the configuration of a diffusers scheduler (diffusion/schedules.py); ``override`` wins over the saved one.

    Parameters
    ----------
    checkpoint
        What its format saved of the schedule is taken where ``override`` is None.
    override
        ``ddpm`` (1000 steps, linear beta 1e-4 to 0.02, epsilon), ``flow``, ``edm``, ``ve``, the path of a JSON file,
        or None.
    settings
        Its ``prediction`` replaces what the schedule says that the network predicts.
    """
    prediction = schedules.PREDICTIONS.get(settings.prediction) if settings and settings.prediction else None
    config: dict[str, Any] | None
    where: object = "--scheduler"
    if override in schedules.NAMED:
        config = dict(schedules.NAMED[override])
    elif override is not None:
        path = where = Path(override).expanduser()
        if not path.is_file():
            what = f"The scheduler {override!r} is not there: it {absence(path)}."
            raise AuditError(what, "--scheduler", "Give ddpm, flow, edm, ve, or the path of a scheduler_config.json.")
        config = read_json(path)
    else:
        config = open_format(checkpoint.format, settings).schedule(checkpoint)
        where = checkpoint.scheduler or checkpoint.path
        if config is None and prediction in schedules.CONTINUOUS:
            config = dict(schedules.NAMED[prediction])
    if config is None:
        raise AuditError(
            f"No noise scheduler is saved with the checkpoints of twin {checkpoint.twin} (step {checkpoint.step}).",
            checkpoint.path,
            "Pass --scheduler FILE.json, or --scheduler ddpm, which assumes the 1000-step linear DDPM schedule.",
        )
    config = schedules.completed(config, prediction)
    if problem := schedules.problem(config):
        what = f"The noise schedule of {config.get('_class_name')} is not supported: {problem}."
        known = ", ".join(schedules.BETA_SCHEDULES)
        remedy = f"Pass --scheduler FILE.json with beta_schedule {known}, or with trained_betas."
        if problem.startswith("it"):  # a schedule by betas would be a wrong one
            remedy = "Say what the network predicts (--prediction), or audit samples: --samples-a, --samples-b."
        raise AuditError(what, where, remedy)
    return config


def check_compatible(
    pair: TwinPair, override: str | None, settings: ModelSettings | None = None
) -> tuple[Facts, dict[str, Any]]:
    """Return the facts and the scheduler configuration that all checkpoints share.

    Raises
    ------
    AuditError
        If an image shape, a size of the network, a scaling of pictures, a noise schedule, a prediction type, a
        conditioning or an autoencoder differs; it names twin, step and both values.
    """
    first, *rest = pair.a.checkpoints + pair.b.checkpoints
    facts, config = model_facts(first, settings), scheduler_config(first, override, settings)
    for checkpoint in rest:
        found = model_facts(checkpoint, settings)
        for key in ("image_shape", "model", "lora", "parameters", "conditioning", "n_classes", "pixels"):
            _refuse_difference(key, first, getattr(facts, key), checkpoint, getattr(found, key))
        both = (_content(one.autoencoder) for one in (facts, found))
        _refuse_difference("autoencoder", first, next(both), checkpoint, next(both))
        other = scheduler_config(checkpoint, override, settings)
        for key in SCHEDULE_KEYS:
            _refuse_difference(key, first, config.get(key, DDPM.get(key)), checkpoint, other.get(key, DDPM.get(key)))
    return facts, without_clipping(config) if facts.autoencoder else config


def _content(folder: str) -> str:
    """Return the sha256 over the files of a folder, for two copies of one autoencoder are one."""
    from auditor.checkpoints.networks import folder_digest

    return folder_digest(Path(folder)) if folder else ""


def without_clipping(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schedule whose steps do not clip to [-1, 1], where pictures of that range are not what is diffused."""
    return {**config, "clip_sample": False} if config.get("clip_sample") else dict(config)


def _refuse_difference(key: str, first: Checkpoint, value: Any, other: Checkpoint, other_value: Any) -> None:
    if value != other_value:
        here, there = (f"{one.twin}/step-{one.step}" for one in (first, other))
        what = f"The checkpoints differ in {key}: {SHORT.repr(value)} at {here}, {SHORT.repr(other_value)} at {there}."
        remedy = "Only trainings of one recipe can be compared; a wrongly saved schedule is replaced by --scheduler."
        raise AuditError(what, other.path, remedy)
