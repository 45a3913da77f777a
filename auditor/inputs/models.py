"""What a user says of the models that their files do not say: settings, scaling of pictures, conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from auditor import checkpoints
from auditor.checkpoints import ModelSettings, calls
from auditor.checkpoints.formats import open_format
from auditor.checkpoints.recipe import without_clipping
from auditor.config import AuditConfig, option, shape_from
from auditor.diffusion.sampling import Conditions
from auditor.diffusion.scaling import Pixels
from auditor.diffusion.schedules import n_times
from auditor.errors import AuditError
from auditor.records import TWINS, Checkpoint, Facts, ImageSet, TwinPair

OWN = "own"  # --pixel-mean of each training half
AT_ONCE = 256  # pictures summed at once
MAX_DIGITS = 9  # of the number of a class
MAX_LINES = 1_000_000  # of a file of labels or prompts


def settings(config: AuditConfig) -> ModelSettings:
    """Return what the formats need to know."""
    return ModelSettings(
        format=config.format,
        model=config.model,
        model_config=config.model_config,
        base=config.base,
        autoencoder=config.autoencoder,
        prediction=config.prediction,
        image_shape=shape_from(config.image_shape),
        trust_pickle=config.trust_pickle,
        prompts=lines_of(config.prompts, "--prompts"),
    )


def lines_of(path: str | None, option: str) -> tuple[str, ...]:
    """Return the lines of a text file that are not empty."""
    if path is None:
        return ()
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise AuditError(f"The file cannot be read: {problem}.", path, f"Give {option} a text file.") from problem
    kept = tuple(line.strip() for line in lines if line.strip())
    if not kept or len(kept) > MAX_LINES:
        raise AuditError(f"The file has {len(kept)} lines.", path, f"Give {option} a file with one entry per line.")
    return kept


def conditions(config: AuditConfig, facts: Facts) -> Conditions | None:
    """Return under what samples are drawn: the same for both twins, a function of the seed.

    Class-conditional models are sampled in all their classes in turn unless ``--labels`` says otherwise.
    """
    refuse_foreign(config, facts)
    if facts.conditioning == "none":
        return None
    if facts.conditioning == "text":
        return Conditions(tuple(range(len(lines_of(config.prompts, "--prompts")))) or (-1,), config.guidance_scale)
    return Conditions(class_numbers(config.labels, facts.n_classes or 0), config.guidance_scale)


def require_call(
    checkpoint: Checkpoint,
    scheduler: Mapping[str, Any],
    device: str,
    settings: ModelSettings,
    drawn: Conditions | None,
) -> None:
    """Call a network once, as samples are drawn, so that one which cannot be called stops the audit at its start."""
    model = checkpoints.load(checkpoint, scheduler, device, settings)
    numbers, guidance = (None, 1.0) if drawn is None else (drawn.of([0]), drawn.guidance)
    calls.require_call(model, numbers, guidance, n_times(scheduler), device)


def refuse_foreign(config: AuditConfig, facts: Facts) -> None:
    """Refuse conditions that the models do not take."""
    wanted = {"--labels": config.labels and "class", "--prompts": config.prompts and "text"}
    for flag, kind in wanted.items():
        if kind and kind != facts.conditioning:
            what = f"{flag} is given, and the conditioning of the models is {facts.conditioning}."
            raise AuditError(what, flag, f"Leave {flag} out.")
    if facts.conditioning == "none" and config.guidance_scale != 1:
        raise AuditError("The models are not conditional.", "--guidance-scale", "Leave --guidance-scale out.")
    if not np.isfinite(config.guidance_scale):
        raise AuditError("The guidance scale is not finite.", "--guidance-scale", "Give 1, or 4, say.")


def class_numbers(given: str | None, n_classes: int) -> tuple[int, ...]:
    """Return the classes to sample in turn: all, the first N, or those of a file, in order."""
    if given is None or is_number(given):
        n = n_classes if given is None else int(given)
        numbers = tuple(range(n))
    else:
        texts = lines_of(given, "--labels")
        if not all(map(is_number, texts)):
            raise AuditError("A label is no class number.", given, "Give one whole number per line, from 0.")
        numbers = tuple(map(int, texts))
    if not numbers or max(numbers) >= n_classes:
        raise AuditError(
            f"--labels asks for class {max(numbers, default=-1)}; the models have classes 0 to {n_classes - 1}.",
            "--labels",
            "Give classes that they have.",
        )
    return numbers


def is_number(text: str) -> bool:
    """Whether a text is the number of a class; longer ones are names that have digits only."""
    return text.isdecimal() and len(text) <= MAX_DIGITS


def image_classes(facts: Facts, sets: Mapping[str, ImageSet]) -> dict[str, np.ndarray]:
    """Return the class number of every image of the sets whose labels are known, for class-conditional models.

    Labels that are all whole numbers are the numbers; others are numbered in alphabetical order over all sets, as
    torchvision and datasets number class folders.
    """
    if facts.conditioning != "class":
        return {}
    labeled = {name: each.labels for name, each in sets.items() if each.labels}
    bare = sorted(set(sets) - set(labeled))
    if bare and facts.needs_class:
        what = f"The network has no class that stands for none, and the classes of {', '.join(bare)} are not known."
        raise AuditError(what, f"--{bare[0]}", "Give pictures in class folders, or arrays with labels.")
    every = sorted({label for labels in labeled.values() for label in labels})
    numbers = {label: int(label) for label in every} if all(map(is_number, every)) else None
    numbers = numbers or {label: i for i, label in enumerate(every)}
    if every and max(numbers.values()) >= (facts.n_classes or 0):
        what = f"The images have class {max(numbers.values())}, the models classes 0 to {(facts.n_classes or 0) - 1}."
        raise AuditError(what, "--train-a", "Give the labels that training used.")
    return {name: np.array([numbers[label] for label in labels]) for name, labels in labeled.items()}


def pixels(config: AuditConfig, facts: Facts, sets: Mapping[str, ImageSet], twins: Sequence[str]) -> dict[str, Pixels]:
    """Return how pictures are scaled for each twin."""
    low, high = facts.pixels if config.pixel_range is None else range_from(config.pixel_range)
    return {twin: Pixels(low, high, mean_of(config, facts, sets, twin, (low, high))) for twin in twins}


def range_from(given: str) -> tuple[float, float]:
    """Return (low, high) from ``-1,1``."""
    try:
        low, high = (float(part) for part in given.split(","))
        fit = np.isfinite([low, high]).all() and low < high
    except ValueError:
        fit = False
    if not fit:
        raise AuditError(f"{given!r} is no range.", "--pixel-range", "Give two numbers: --pixel-range -1,1 or 0,1.")
    return low, high


def mean_of(
    config: AuditConfig, facts: Facts, sets: Mapping[str, ImageSet], twin: str, scale: tuple[float, float]
) -> Any:
    """Return the mean that training subtracted: 0, one number per channel, or a picture."""
    given = config.pixel_mean
    if given is None:
        return 0.0
    if given == OWN:
        if f"train-{twin}" not in sets:
            raise AuditError("The training images are not given.", "--pixel-mean own", "Give --train-a and --train-b.")
        return (scale[0] + (scale[1] - scale[0]) * mean_picture(sets[f"train-{twin}"]) / 255).astype(np.float32)
    mean = mean_from(given)
    assert facts.image_shape is not None, "the facts of a series have a shape"
    height, width, channels = facts.image_shape
    if mean.ndim == 1 and mean.size in (1, channels):
        return mean
    if mean.shape == (height, width, channels):
        return mean
    if mean.shape == (channels, height, width):
        return np.ascontiguousarray(mean.transpose(1, 2, 0))
    if mean.shape == (height, width) and channels == 1:
        return mean[..., None]
    what = f"The pixel mean has shape {list(mean.shape)}, the pictures {[height, width, channels]}."
    raise AuditError(what, "--pixel-mean", "Give one number per channel, or an array of the pictures' shape.")


def mean_picture(images: ImageSet) -> np.ndarray:
    """Return the mean of the pictures of a set, 0 to 255, float64 ``[h, w, c]``, in memory of a batch."""
    total = np.zeros(images.images.shape[1:])
    for start in range(0, len(images), AT_ONCE):
        total += np.asarray(images.images[start : start + AT_ONCE]).sum(axis=0, dtype=np.float64)
    return total / len(images)


def mean_from(given: str) -> np.ndarray:
    """Return the numbers or the array that ``--pixel-mean`` names, float32."""
    try:
        if given.endswith(".npy"):
            mean = np.load(Path(given).expanduser(), allow_pickle=False).astype(np.float32)
        else:
            mean = np.array([float(part) for part in given.split(",")], dtype=np.float32)
    except (OSError, ValueError, EOFError, MemoryError) as problem:
        remedy = "Give one number per channel, an .npy file, or own."
        raise AuditError(f"The pixel mean cannot be read: {problem}.", given, remedy) from problem
    mean = mean[0] if mean.ndim == 4 and len(mean) == 1 else mean
    if not np.isfinite(mean).all():
        raise AuditError("The pixel mean is not finite.", given, "Save it again.")
    return mean


def fitting_schedule(scheduler: Mapping[str, Any], given: Mapping[str, Pixels]) -> dict[str, Any]:
    """Return the schedule, without clipping to [-1, 1] where pictures exceed it."""
    widest = max(abs(bound) for one in given.values() for bound in (one.low, one.high))
    return without_clipping(scheduler) if widest > float(scheduler.get("clip_sample_range") or 1) else dict(scheduler)


def notes(
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


def require_used(name: str, settings: ModelSettings) -> None:
    """Refuse an option that this format does not look at: whoever gives it takes it for heard."""
    every = ("base", "autoencoder", "model", "model_config", "prompts")
    uses = getattr(open_format(name, settings), "uses", every)
    for each in every:
        if getattr(settings, each) and each not in uses:
            heard = " and ".join(option(other) for other in uses) or "none of these"
            raise AuditError(
                f"{option(each)} says nothing of {name} checkpoints, which have what it tells in their own files.",
                option(each),
                f"Leave it out ({name} looks at {heard}), or name another --format.",
            )


def schedule_notes(pair: TwinPair, config: AuditConfig) -> tuple[str, ...]:
    """Return what was assumed about the noise schedule."""
    if config.scheduler is None:
        return ()
    saved = any(c.scheduler for twin in TWINS for c in pair.series(twin).checkpoints)
    beside = "instead of the one saved with the checkpoints" if saved else "because none is saved with the checkpoints"
    return (f"The noise schedule is the one given by --scheduler {config.scheduler}, {beside}.",)
