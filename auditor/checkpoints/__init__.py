"""The checkpoint series of two twins: found, checked, and loaded; ``pairing.py`` aligns them.

A format is a class named in ``registry.FORMATS``, made from `ModelSettings`, with ``name``, ``REVISION`` and

- ``find(root) -> (found, unusable)``: names and headers only; never unpickles;
- ``facts(checkpoint) -> Facts``: what the headers say;
- ``schedule(checkpoint) -> dict | None``: the noise schedule saved with it, where there is one;
- ``flips(checkpoint) -> Flips``, where its trainer's files may say whether images were mirrored (``flips.py``);
- ``inspect(checkpoint) -> digest``: reads every byte that ``load`` reads, or raises ``CheckpointError``;
- ``load(checkpoint, scheduler_config, device) -> DiffusionModel``: the network as it was trained. `load` below puts
  it into the one convention inside (``schedules.convert``).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from reprlib import Repr
from typing import Any

from auditor.checkpoints import names
from auditor.diffusion import schedules
from auditor.diffusion.model import DiffusionModel
from auditor.diffusion.scaling import Codec
from auditor.diffusion.schedules import DDPM, SCHEDULE_KEYS
from auditor.errors import AuditError
from auditor.records import NOT_SAID, Checkpoint, Excluded, Facts, Flips, Found, TwinPair
from auditor.registry import FORMATS, lookup

SHORT = Repr()
SHORT.maxstring = 120  # characters of a value in a message
MAX_JSON = 16 * 2**20  # bytes of a configuration
LAYOUTS = (
    "Give a folder that holds one folder per step (checkpoint-500/unet/, checkpoint-500/config.json, or whole "
    "pipelines), or one file per step (.pt, .pth, .ckpt, .bin, .safetensors) with --model MODULE:FACTORY; "
    "docs/formats.md has the command for each trainer."
)


@dataclass(frozen=True)
class ModelSettings:
    """What the user says of the models, where their files do not; every format takes what concerns it."""

    format: str | None = None  # a name in the registry
    model: str | None = None  # package.module:factory
    model_config: str | None = None  # JSON file with the arguments of the network
    base: str | None = None  # folder of the pipeline that was fine-tuned
    autoencoder: str | None = None  # folder of the autoencoder of latent models
    prediction: str | None = None  # epsilon, v, sample, flow, edm
    image_shape: tuple[int, int, int] | None = None  # (h, w, c)
    trust_pickle: bool = False
    prompts: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.format is not None:
            lookup("format", self.format)
        if self.prediction is not None and self.prediction not in schedules.PREDICTIONS:
            choices = ", ".join(("epsilon", "v", "sample", *schedules.CONTINUOUS))
            raise AuditError(
                f"There is no prediction type {self.prediction!r}.", "--prediction", f"Choose from {choices}."
            )
        for name, given, holding in (
            ("--base", self.base, ("model_index.json", "unet", "transformer", "scheduler", "vae")),
            ("--autoencoder", self.autoencoder, ("config.json", "vae")),
        ):
            _require_holding(name, given, holding)


def _require_holding(option: str, given: str | None, names: Sequence[str]) -> None:
    """Refuse a folder that is not there, or that holds nothing of what one looks for in it."""
    folder = Path(given or ".").expanduser()
    if given is None or any((folder / name).exists() for name in names):
        return
    what = f"holds no {' and no '.join(names)}" if folder.is_dir() else absence(folder)
    remedy = f"Give a folder that diffusers' save_pretrained wrote, with {' or '.join(names)}."
    raise AuditError(f"The folder {given} {what}.", option, remedy)


@dataclass(frozen=True)
class Guide:
    """What docs/formats.md says of a format."""

    trainers: str  # whose files these are
    layout: str  # folders and files
    weights: str  # where raw weights and averages are
    schedule: str  # where the noise schedule and the prediction type come from
    command: str  # what to add to audit run
    tested: str  # on what files
    examples: tuple[tuple[str, str], ...] = (("", ""),)  # (for what, options to add): whole commands on the page


def open_format(name: str, settings: ModelSettings | None = None) -> Any:
    """Return the format called ``name``, told what the user says."""
    return lookup("format", name)(settings or ModelSettings())


Answers = dict[str, tuple[list[Found], list[tuple[int, Path, str]]]]  # by format: found, unusable


@dataclass(frozen=True)
class Discovery:
    """What was found under one twin's folder: usable steps, ascending, and the rest with reasons."""

    twin: str
    root: Path
    format: str
    found: tuple[Found, ...]
    excluded: tuple[Excluded, ...]

    @property
    def unit(self) -> str:
        """What the steps are counted in."""
        return self.found[0].unit


def discover(root: str | Path, twin: str, settings: ModelSettings | None = None) -> Discovery:
    """Return the checkpoints under ``root`` in ascending steps, reading names and headers only.

    Formats that are told apart by what the user says (``--format``, ``--model``) are asked alone. Where ``root`` itself
    holds no series, the one folder below that does is taken; several are an error that names them.

    Raises
    ------
    AuditError
        If ``root`` is no readable folder, holds no usable checkpoint, is claimed by two
        formats, or has two folders for one step.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise AuditError(f"The checkpoints of twin {twin} are not there: {root} {absence(root)}.", root, LAYOUTS)
    try:
        series = series_under(root, settings)
    except OSError as problem:
        raise AuditError(f"The checkpoints of twin {twin} cannot be listed: {problem}.", root, LAYOUTS) from problem
    claimed = [folder for folder, answers in series.items() if any(found for found, _ in answers.values())]
    if len(claimed) > 1:
        listed = ", ".join(folder.relative_to(root).as_posix() for folder in claimed[:6])
        more = f" and {len(claimed) - 6} more" if len(claimed) > 6 else ""
        what = f"Twin {twin} has several series under one folder: {listed}{more}."
        raise AuditError(what, root, "Give the folder of one of them.")
    answers = series[claimed[0]] if claimed else _together(series.values())
    root = claimed[0] if claimed else root
    name = _only_claim(answers, root, twin)
    found, unusable = answers[name]
    _refuse_shared_steps(found, root, twin)
    excluded = tuple(Excluded(twin, step, path, reason) for step, path, reason in unusable)
    return Discovery(twin, root, name, tuple(sorted(found, key=lambda one: one.step)), excluded)


def series_under(root: Path, settings: ModelSettings | None = None) -> dict[Path, Answers]:
    """Return what the formats found in ``root``; where none claims it, in every folder below that may hold a series."""
    answers = {root: _asked(root, settings)}
    if not any(found for found, _ in answers[root].values()):
        answers |= {folder: _asked(folder, settings) for folder in names.series_folders(root)}
    return answers


def _asked(folder: Path, settings: ModelSettings | None) -> Answers:
    answers = {name: open_format(name, settings).find(folder) for name in candidates(settings)}
    if "plain" in answers:  # it takes any file of weights: it speaks only of those that no other format knows
        known = {path for name, (_, unusable) in answers.items() if name != "plain" for _, path, _ in unusable}
        found, unusable = answers["plain"]
        answers["plain"] = found, [one for one in unusable if one[1] not in known]
    return answers


def _together(answers: Collection[Answers]) -> Answers:
    """Return what no format could use, of all folders."""
    return {name: ([], [one for each in answers for one in each[name][1]]) for name in next(iter(answers))}


def candidates(settings: ModelSettings | None) -> list[str]:
    """Return the formats to be asked: the one named, ``plain`` where a factory is given, else all."""
    if settings is not None and (settings.format or settings.model):
        return [settings.format or "plain"]
    return list(FORMATS)


def _only_claim(answers: Mapping[str, tuple], root: Path, twin: str) -> str:
    claims = [name for name, (found, _) in answers.items() if found]
    if len(claims) > 1:
        what = f"The checkpoints of twin {twin} can be read as {' and as '.join(claims)}."
        raise AuditError(what, root, "Choose one by --format NAME, or give a folder with one of them.")
    if not claims:
        reasons = _why_unusable(answers)
        more = [f"and {len(reasons) - 3} more"] if len(reasons) > 3 else []
        alone = f" for the format {next(iter(answers))}, the only one that was asked" if len(answers) == 1 else ""
        what = "; ".join([f"There is no usable checkpoint of twin {twin}{alone}", *reasons[:3], *more])
        raise AuditError(what.rstrip(".") + ".", root, LAYOUTS)
    return claims[0]


def _why_unusable(answers: Mapping[str, tuple]) -> list[str]:
    """Return the reasons why nothing can be used, each once, with the first path and how many more it concerns."""
    paths: dict[str, dict[Path, None]] = {}
    for _, unusable in answers.values():
        for _, path, reason in unusable:
            paths.setdefault(reason.replace(path.name, "it"), {})[path] = None
    return [
        f"{next(iter(of))}{f' and {len(of) - 1} more' if len(of) > 1 else ''}: {reason}" for reason, of in paths.items()
    ]


def _refuse_shared_steps(found: Sequence[Found], root: Path, twin: str) -> None:
    first: dict[int, Found] = {}
    for one in found:
        clash = first.setdefault(one.step, one)
        if clash is not one:
            both = " and ".join(str(a_path(each)) for each in (clash, one))
            raise AuditError(f"Twin {twin} has two checkpoints of step {one.step}: {both}.", root, "Move one away.")


def a_path(found: Found) -> Path:
    """Return one of the paths of what was found."""
    return next(iter(found.paths.values()))


def inspect(checkpoint: Checkpoint, settings: ModelSettings | None = None) -> Checkpoint:
    """Return the checkpoint with its digest, after reading every byte that ``load`` reads.

    Raises
    ------
    CheckpointError
        If a file is truncated or corrupt, the weights do not fit the configuration, or
        a weight is not finite. The rest of the series can still be audited.
    """
    return replace(checkpoint, digest=open_format(checkpoint.format, settings).inspect(checkpoint))


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
    return replace(facts, image_shape=facts.image_shape or given)


def flips_of(checkpoint: Checkpoint, settings: ModelSettings | None = None) -> Flips:
    """Return whether the training mirrored its images, as far as its files say it."""
    opened = open_format(checkpoint.format, settings)
    return opened.flips(checkpoint) if hasattr(opened, "flips") else NOT_SAID


def load(
    checkpoint: Checkpoint,
    scheduler_config: Mapping[str, Any],
    device: str,
    settings: ModelSettings | None = None,
    pixels: Codec | None = None,
) -> DiffusionModel:
    """Return the model in float32 on ``device``, in evaluation mode, without gradients, in the convention inside.

    Parameters
    ----------
    checkpoint, scheduler_config, settings
        What to load, its noise schedule, and what the user says of it.
    device
        A torch device.
    pixels
        How pictures are scaled for it; None leaves what the format says. Models with an autoencoder have their own.
    """
    model = open_format(checkpoint.format, settings).load(checkpoint, scheduler_config, device)
    own = model.conditioned
    return replace(
        model,
        network=schedules.convert(model.network, scheduler_config),
        conditioned=own and (lambda *given: schedules.convert(own(*given), scheduler_config)),
        codec=pixels if pixels is not None and model.latent_shape is None else model.codec,
    )


def scheduler_config(
    checkpoint: Checkpoint, override: str | None, settings: ModelSettings | None = None
) -> dict[str, Any]:
    """Return the configuration of a diffusers scheduler (diffusion/schedules.py); ``override`` wins over the saved one.

    Parameters
    ----------
    checkpoint
        What its format saved of the schedule is taken where ``override`` is None.
    override
        ``ddpm`` (1000 steps, linear beta 1e-4 to 0.02, epsilon), ``flow``, ``edm``, the path of a scheduler JSON,
        or None.
    settings
        Its ``prediction`` replaces what the schedule says that the network predicts.
    """
    prediction = schedules.PREDICTIONS.get(settings.prediction) if settings and settings.prediction else None
    where: object = "--scheduler"
    if override in schedules.NAMED:
        config = dict(schedules.NAMED[override])
    elif override is not None:
        path = where = Path(override).expanduser()
        if not path.is_file():
            what = f"The scheduler {override!r} is not there: it {absence(path)}."
            raise AuditError(what, "--scheduler", "Give ddpm, flow, edm, or the path of a scheduler_config.json.")
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
        raise AuditError(what, where, f"Pass --scheduler FILE.json with beta_schedule {known}, or with trained_betas.")
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


def absence(path: Path) -> str:
    """Return why ``path`` is not what it should be, as the end of a sentence."""
    if path.is_file():
        return "is a file, not a folder"
    if path.exists() and not path.is_dir():
        return "is no regular file"
    if path.is_dir():
        return "is a folder, not a file"
    return "is a symbolic link that leads nowhere" if path.is_symlink() else "does not exist"


def read_json(path: Path, error: type[AuditError] = AuditError) -> dict[str, Any]:
    """Return the object in a JSON file; whatever is wrong with it is raised as ``error``."""
    remedy = "Save it again."
    if not path.is_file():
        raise error(f"{path.name} {absence(path)}.", path, remedy)
    try:
        if path.stat().st_size > MAX_JSON:
            raise error(f"{path.name} has {path.stat().st_size:,} bytes, more than any configuration.", path, remedy)
        value = json.loads(path.read_bytes())
    except OSError as problem:
        raise error(f"{path.name} cannot be read: {problem.strerror}.", path, remedy) from problem
    except (ValueError, RecursionError) as problem:  # bad JSON, bad UTF-8, absurd nesting
        raise error(f"{path.name} is not valid JSON: {problem}.", path, remedy) from problem
    if not isinstance(value, dict):
        raise error(f"{path.name} holds a {type(value).__name__}, not an object.", path, remedy)
    return value
