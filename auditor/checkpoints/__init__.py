"""The checkpoint series of two twins: found, aligned on common steps, checked, and loaded.

A format is a class named in ``registry.FORMATS`` with ``name``, ``REVISION`` and

- ``find(root) -> (found, unusable)``: names and headers only; never unpickles;
- ``facts(checkpoint) -> dict``: what the headers say, at least ``image_shape`` (h, w, c);
- ``inspect(checkpoint) -> digest``: reads every byte that ``load`` reads, or raises ``CheckpointError``;
- ``load(checkpoint, scheduler_config, device) -> DiffusionModel``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as shorten
from typing import Any

from auditor.errors import AuditError
from auditor.records import TWINS, Checkpoint, CheckpointSeries, DiffusionModel, Excluded, Found, TwinPair
from auditor.registry import FORMATS, lookup

WEIGHTS = ("auto", "ema", "raw")
LAYOUTS = (
    "Give a folder that holds one folder per step: checkpoint-500/unet/ (diffusers training scripts), "
    "checkpoint-500/config.json beside .safetensors weights (save_pretrained), "
    "or checkpoint-500/model_index.json (whole pipelines); step-500 and 500 are understood as well."
)
# The configuration of diffusers' DDPMScheduler(), spelled out so that a later default cannot change an audit.
DDPM = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "variance_type": "fixed_small",
    "clip_sample": True,
    "prediction_type": "epsilon",
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "clip_sample_range": 1.0,
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
}
SCHEDULE_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)
# What DDIMScheduler, DDPMScheduler and DPMSolverMultistepScheduler of diffusers 0.42 all accept.
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")

FoundByTwin = Mapping[str, Mapping[int, Found]]  # twin -> step -> what was found


@dataclass(frozen=True)
class Discovery:
    """What was found under one twin's folder: usable steps, ascending, and the rest with reasons."""

    twin: str
    root: Path
    format: str
    found: tuple[Found, ...]
    excluded: tuple[Excluded, ...]


def discover(root: str | Path, twin: str) -> Discovery:
    """Return the checkpoints under ``root`` in ascending steps, reading names and headers only.

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
        answers = {name: lookup("format", name)().find(root) for name in FORMATS}
    except OSError as problem:
        raise AuditError(f"The checkpoints of twin {twin} cannot be listed: {problem}.", root, LAYOUTS) from problem
    name = _only_claim(answers, root, twin)
    found, unusable = answers[name]
    _refuse_shared_steps(found, root, twin)
    excluded = tuple(Excluded(twin, step, path, reason) for step, path, reason in unusable)
    return Discovery(twin, root, name, tuple(sorted(found, key=lambda one: one.step)), excluded)


def _only_claim(answers: Mapping[str, tuple], root: Path, twin: str) -> str:
    claims = [name for name, (found, _) in answers.items() if found]
    if len(claims) > 1:
        what = f"The checkpoints of twin {twin} can be read as {' and as '.join(claims)}."
        raise AuditError(what, root, "Give a folder that holds the checkpoints of one format only.")
    if not claims:
        reasons = [f"{path}: {reason}" for _, unusable in answers.values() for _, path, reason in unusable]
        more = [f"and {len(reasons) - 3} more"] if len(reasons) > 3 else []
        what = "; ".join([f"There is no usable checkpoint of twin {twin}", *reasons[:3], *more])
        raise AuditError(what.rstrip(".") + ".", root, LAYOUTS)
    return claims[0]


def _refuse_shared_steps(found: Sequence[Found], root: Path, twin: str) -> None:
    first: dict[int, Found] = {}
    for one in found:
        clash = first.setdefault(one.step, one)
        if clash is not one:
            both = " and ".join(str(_a_path(each)) for each in (clash, one))
            raise AuditError(f"Twin {twin} has two checkpoints of step {one.step}: {both}.", root, "Move one away.")


def pair(a: Discovery, b: Discovery | None, weights: str = "auto", steps: Collection[int] | None = None) -> TwinPair:
    """Return the twins aligned on their common steps, and what is left out with its reason.

    Parameters
    ----------
    a, b
        What was found for the twins; ``b`` is None for a single training.
    weights
        ``ema`` and ``raw`` insist. ``auto`` takes the kind that most common steps of both
        twins have, and EMA where that is equal, because EMA weights are what is shipped.
    steps
        Only these steps; None means all.
    """
    if weights not in WEIGHTS:
        raise AuditError(f"There are no weights called {weights!r}.", "--weights", f"Choose from {', '.join(WEIGHTS)}.")
    if b is not None and a.root.resolve() == b.root.resolve():
        raise AuditError("Both twins are the same folder, so they cannot differ.", a.root, "Give two trainings.")
    given = [a] if b is None else [a, b]
    found = {one.twin: {each.step: each for each in one.found} for one in given}
    wanted = _wanted_steps(found, steps)
    kind = _kind_of_weights(found, _common_steps(found, wanted), weights)
    excluded = [each for one in given for each in one.excluded]
    series = {twin: CheckpointSeries(twin, ()) for twin in TWINS}
    for one in given:
        reasons = {step: _left_out(found, one.twin, step, wanted, kind) for step in found[one.twin]}
        kept = [each for each in one.found if not reasons[each.step]]
        checkpoints = [
            Checkpoint(one.twin, each.step, each.paths[kind], one.format, kind, each.scheduler) for each in kept
        ]
        series[one.twin] = CheckpointSeries(one.twin, tuple(checkpoints))
        left_out = [each for each in one.found if reasons[each.step]]
        excluded += [Excluded(one.twin, each.step, _a_path(each), reasons[each.step]) for each in left_out]
    excluded.sort(key=lambda one: (one.twin, one.step, str(one.path)))
    return TwinPair(series["a"], series["b"], tuple(excluded))


def _wanted_steps(found: FoundByTwin, steps: Collection[int] | None) -> set[int]:
    available = set().union(*found.values())
    unknown = sorted(set(steps or ()) - available)
    if unknown:
        what = f"No twin has a usable checkpoint at step {_shortened(unknown)}."
        raise AuditError(what, "--steps", f"Choose from {_shortened(available)}.")
    return available if steps is None else set(steps)


def _common_steps(found: FoundByTwin, wanted: set[int]) -> list[int]:
    common = sorted(wanted.intersection(*found.values()))
    if not common:
        lists = "; ".join(f"{twin} has {_shortened(found[twin])}" for twin in found)
        asked = "" if wanted >= set().union(*found.values()) else f" among {_shortened(wanted)}"
        raise AuditError(f"The twins have no step in common{asked}: {lists}.", "", "Save both twins at the same steps.")
    return common


def _kind_of_weights(found: FoundByTwin, common: list[int], weights: str) -> str:
    cover = {kind: [s for s in common if all(kind in twin[s].paths for twin in found.values())] for kind in WEIGHTS[1:]}
    if weights == "auto":
        best = max(cover, key=lambda kind: len(cover[kind]))  # the first of equals: ema
        if not cover[best]:
            raise AuditError("At no common step do both twins have EMA weights, or both raw weights.", "--weights auto")
        return best
    for step in common:
        for twin in found:
            if weights not in found[twin][step].paths:
                what = f"Twin {twin} has no {weights} weights at step {step}."
                raise AuditError(what, f"--weights {weights}", "Take --weights auto, or leave the step out by --steps.")
    return weights


def _left_out(found: FoundByTwin, twin: str, step: int, wanted: set[int], kind: str) -> str:
    """Return why this step of this twin is not audited, or an empty string where it is."""
    if step not in wanted:
        return "not asked for (--steps)"
    for other in found:
        if step not in found[other]:
            return f"no checkpoint at step {step} in twin {other}"
    own_first = [twin, *(other for other in found if other != twin)]
    lacking = [each for each in own_first if kind not in found[each][step].paths]
    return f"no {kind} weights at step {step} in twin {lacking[0]}" if lacking else ""


def _a_path(found: Found) -> Path:
    return next(iter(found.paths.values()))


def _shortened(steps: Collection[int]) -> str:
    """Return steps for a message: all of them up to eight, else both ends and the count."""
    texts = [str(step) for step in sorted(steps)]
    if len(texts) <= 8:
        return ", ".join(texts) or "none"
    return f"{', '.join(texts[:4])} ... {', '.join(texts[-2:])} ({len(texts)} steps)"


def inspect(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with its digest, after reading every byte that ``load`` reads.

    Raises
    ------
    CheckpointError
        If a file is truncated or corrupt, the weights do not fit the configuration, or
        a weight is not finite. The rest of the series can still be audited.
    """
    return replace(checkpoint, digest=lookup("format", checkpoint.format)().inspect(checkpoint))


def model_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what the headers say of the model: ``image_shape`` (h, w, c) and ``model``, its class."""
    return lookup("format", checkpoint.format)().facts(checkpoint)


def load(checkpoint: Checkpoint, scheduler_config: Mapping[str, Any], device: str) -> DiffusionModel:
    """Return the model in float32 on ``device``, in evaluation mode and without gradients."""
    return lookup("format", checkpoint.format)().load(checkpoint, scheduler_config, device)


def scheduler_config(checkpoint: Checkpoint, override: str | None) -> dict[str, Any]:
    """Return the configuration of a diffusers scheduler; ``override`` wins over the saved one.

    Parameters
    ----------
    checkpoint
        Its ``scheduler`` is the saved ``scheduler_config.json``, if there is one.
    override
        ``ddpm`` (1000 steps, linear beta 1e-4 to 0.02, epsilon), the path of a scheduler JSON, or None.
    """
    if override == "ddpm":
        return dict(DDPM)
    if override is None and checkpoint.scheduler is None:
        raise AuditError(
            f"No noise scheduler is saved with the checkpoints of twin {checkpoint.twin} (step {checkpoint.step}).",
            checkpoint.path,
            "Pass --scheduler FILE.json, or --scheduler ddpm, which assumes the 1000-step linear DDPM schedule.",
        )
    path = checkpoint.scheduler if override is None else Path(override).expanduser()
    if override is not None and not path.is_file():
        what = f"The scheduler {override!r} is not there: it {absence(path)}."
        raise AuditError(what, "--scheduler", "Give ddpm, or the path of a scheduler_config.json.")
    return _checked_schedule(read_json(path), path)


def _checked_schedule(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the configuration, refusing what the samplers would take for the DDPM schedule in silence."""
    # Old diffusers wrote predict_epsilon, and where that was true often no prediction type at all.
    predicts = "epsilon" if config.pop("predict_epsilon", True) else "sample"
    config.setdefault("prediction_type", predicts)
    problem = _schedule_problem(config)
    if problem:
        what = f"The noise schedule of {config.get('_class_name')} is not supported: {problem}."
        remedy = f"Pass --scheduler FILE.json with beta_schedule {', '.join(BETA_SCHEDULES)}, or with trained_betas."
        raise AuditError(what, path, remedy)
    return config


def _schedule_problem(config: Mapping[str, Any]) -> str:
    n_steps, betas = config.get("num_train_timesteps"), config.get("trained_betas")
    if type(n_steps) is not int or n_steps < 1:  # True is no number of steps
        return f"num_train_timesteps is {n_steps}"
    if config["prediction_type"] not in PREDICTION_TYPES:
        return f"prediction_type is {config['prediction_type']}"
    if betas is None:
        if config.get("beta_schedule") not in BETA_SCHEDULES:
            return f"beta_schedule is {config.get('beta_schedule')}"
        betas = [config.get(key, DDPM[key]) for key in ("beta_start", "beta_end")]
    elif not isinstance(betas, list) or len(betas) != n_steps:
        return f"trained_betas is no list of {n_steps} numbers"
    wrong = [beta for beta in betas if type(beta) not in (int, float) or not 0 < beta <= 1]
    return f"a beta is {wrong[0]}, not in (0, 1]" if wrong else ""


def check_compatible(pair: TwinPair, override: str | None) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """Return the image shape (h, w, c) and the scheduler configuration that all checkpoints share.

    Raises
    ------
    AuditError
        If an image shape, a noise schedule or a prediction type differs; it names twin, step and both values.
    """
    first, *rest = pair.a.checkpoints + pair.b.checkpoints
    shape, config = model_facts(first)["image_shape"], scheduler_config(first, override)
    for checkpoint in rest:
        _refuse_difference("image_shape", first, shape, checkpoint, model_facts(checkpoint)["image_shape"])
        other = scheduler_config(checkpoint, override)
        for key in SCHEDULE_KEYS:
            _refuse_difference(key, first, config.get(key, DDPM[key]), checkpoint, other.get(key, DDPM[key]))
    return shape, config


def _refuse_difference(key: str, first: Checkpoint, value: Any, other: Checkpoint, other_value: Any) -> None:
    if value != other_value:
        here, there = (f"{one.twin}/step-{one.step}" for one in (first, other))
        what = f"The checkpoints differ in {key}: {shorten(value)} at {here}, {shorten(other_value)} at {there}."
        remedy = "Only trainings of one recipe can be compared; a wrongly saved schedule is replaced by --scheduler."
        raise AuditError(what, other.path, remedy)


def absence(path: Path) -> str:
    """Return why ``path`` is not what it should be, as the end of a sentence."""
    if path.is_file():
        return "is a file, not a folder"
    if path.is_dir():
        return "is a folder, not a file"
    return "is a symbolic link that leads nowhere" if path.is_symlink() else "does not exist"


def read_json(path: Path, error: type[AuditError] = AuditError) -> dict[str, Any]:
    """Return the object in a JSON file; whatever is wrong with it is raised as ``error``."""
    remedy = "Save it again."
    if not path.is_file():
        raise error(f"{path.name} {absence(path)}.", path, remedy)
    try:
        value = json.loads(path.read_bytes())
    except OSError as problem:
        raise error(f"{path.name} cannot be read: {problem.strerror}.", path, remedy) from problem
    except (ValueError, RecursionError) as problem:  # bad JSON, bad UTF-8, absurd nesting
        raise error(f"{path.name} is not valid JSON: {problem}.", path, remedy) from problem
    if not isinstance(value, dict):
        raise error(f"{path.name} holds a {type(value).__name__}, not an object.", path, remedy)
    return value
