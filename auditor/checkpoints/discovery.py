"""The series of checkpoints under a folder: which format claims it, its steps, and why other files are no steps."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from auditor.checkpoints import foreign, names
from auditor.checkpoints.configs import absence
from auditor.checkpoints.formats import Unusable, open_format
from auditor.checkpoints.names import a_path
from auditor.checkpoints.settings import ModelSettings
from auditor.errors import AuditError
from auditor.records import Checkpoint, Excluded, Found
from auditor.registry import FORMATS

LAYOUTS = (
    "Give a folder that holds one folder per step (checkpoint-500/unet/, checkpoint-500/config.json, or whole "
    "pipelines), or one file per step (.pt, .pth, .ckpt, .bin, .safetensors) with --model MODULE:FACTORY; "
    "docs/formats.md has the command for each trainer."
)
Answers = dict[str, tuple[list[Found], Unusable]]  # by format: found, unusable


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


def _only_claim(answers: Answers, root: Path, twin: str) -> str:
    claims = [name for name, (found, _) in answers.items() if found]
    if len(claims) > 1:
        what = f"The checkpoints of twin {twin} can be read as {' and as '.join(claims)}."
        raise AuditError(what, root, "Choose one by --format NAME, or give a folder with one of them.")
    if not claims:
        if other := foreign.refusal(root):
            raise AuditError(f"There is no usable checkpoint of twin {twin}. {other}.", root, foreign.INSTEAD)
        reasons = _why_unusable(answers)
        more = [f"and {len(reasons) - 3} more"] if len(reasons) > 3 else []
        alone = f" for the format {next(iter(answers))}, the only one that was asked" if len(answers) == 1 else ""
        what = "; ".join([f"There is no usable checkpoint of twin {twin}{alone}", *reasons[:3], *more])
        raise AuditError(what.rstrip(".") + ".", root, LAYOUTS)
    return claims[0]


def _why_unusable(answers: Answers) -> list[str]:
    """Return the reasons why nothing can be used, each once, with the first path and how many more it concerns."""
    paths: dict[str, dict[Path, None]] = {}
    for _, unusable in answers.values():
        for _, path, reason in unusable:
            named = re.compile(rf"(?<![\w-]){re.escape(path.name)}(?![\w-])")
            paths.setdefault(named.sub("it", reason), {})[path] = None
    return [
        f"{next(iter(of))}{f' and {len(of) - 1} more' if len(of) > 1 else ''}: {reason}" for reason, of in paths.items()
    ]


def checkpoint_of(found: Found, twin: str, form: str, kind: str) -> Checkpoint:
    """Return the weights of one kind, ``raw`` or ``ema``, of a step that a format found."""
    return Checkpoint(
        twin, found.step, found.paths[kind], format=form, weights=kind, scheduler=found.scheduler, unit=found.unit
    )


def _refuse_shared_steps(found: Sequence[Found], root: Path, twin: str) -> None:
    first: dict[int, Found] = {}
    for one in found:
        clash = first.setdefault(one.step, one)
        if clash is not one:
            both = " and ".join(str(a_path(each)) for each in (clash, one))
            raise AuditError(f"Twin {twin} has two checkpoints of step {one.step}: {both}.", root, "Move one away.")
