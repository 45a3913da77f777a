"""What an audit of a folder would find: headers only, no torch, nothing unpickled without --trust-pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from auditor import checkpoints
from auditor.checkpoints import ModelSettings, foreign
from auditor.checkpoints.configs import absence
from auditor.checkpoints.discovery import LAYOUTS, checkpoint_of, series_under
from auditor.checkpoints.formats import Unusable, open_format
from auditor.checkpoints.pairing import automatic
from auditor.errors import AuditError
from auditor.inputs.mirroring import as_text
from auditor.records import NOT_SAID, UNITS, Excluded, Facts, Flips, Found
from auditor.scope import gaps


@dataclass(frozen=True)
class Scanned:
    """One series as its names and headers describe it; empty texts and None are not known."""

    path: str
    excluded: tuple[dict[str, Any], ...]  # step (-1: none), path, reason
    format: str = ""
    unit: str = ""
    steps: tuple[int, ...] = ()
    weights: dict[str, int] = field(default_factory=dict)  # raw and ema -> how many steps have them
    chosen: str = ""  # the weights that auto takes for this series alone; empty where it refuses
    model: str = ""
    parameters: int | None = None
    image_shape: tuple[int, int, int] | None = None
    conditioning: str = ""
    n_classes: int | None = None
    autoencoder: str = ""
    scheduler: str = ""
    prediction: str = ""
    pixels: tuple[float, float] | None = None
    flips: Flips = NOT_SAID  # whether the training mirrored its images
    lora: str = ""
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()  # what audit run would stop at


def scan(paths: Sequence[Path], settings: ModelSettings | None = None, scheduler: str | None = None) -> list[Scanned]:
    """Return every series in or under the given folders, in order.

    Raises
    ------
    AuditError
        If a path is no folder, or no usable checkpoint is found under any of them.
    """
    found = [one for path in paths for one in _under(path.expanduser(), settings, scheduler)]
    if not any(one.steps for one in found):
        for path in paths:
            if other := foreign.refusal(path.expanduser()):
                raise AuditError(f"There is no usable checkpoint. {other}.", path, foreign.INSTEAD)
        reasons = "; ".join(dict.fromkeys(each["reason"] for one in found for each in one.excluded))
        what = f"There is no usable checkpoint{f': {reasons[:600]}' if reasons else ''}".rstrip(".") + "."
        raise AuditError(what, ", ".join(map(str, paths)), LAYOUTS)
    return found


def _under(root: Path, settings: ModelSettings | None, scheduler: str | None) -> list[Scanned]:
    if not root.is_dir():
        raise AuditError(f"{root} {absence(root)}.", root, LAYOUTS)
    scanned = []
    for folder, answers in series_under(root, settings).items():
        claims = {name: each for name, each in answers.items() if each[0]}
        for name, (found, unusable) in claims.items():
            rivals = [other for other in claims if other != name]
            scanned.append(_described(folder, name, found, unusable, rivals, settings, scheduler))
        if not claims and any(unusable for _, unusable in answers.values()):
            unusable = list(dict.fromkeys(one for _, each in answers.values() for one in each))
            scanned.append(Scanned(str(folder), _as_dicts(unusable)))
    return scanned


def _described(
    folder: Path,
    name: str,
    found: list[Found],
    unusable: Unusable,
    rivals: list[str],
    settings: ModelSettings | None,
    scheduler: str | None,
) -> Scanned:
    """Return what headers say of a series, by its first checkpoint."""
    found = sorted(found, key=lambda one: one.step)
    steps = tuple(one.step for one in found)
    held = {kind: sum(kind in one.paths for one in found) for kind in ("ema", "raw")}
    unread = [Excluded("", step, path, reason) for step, path, reason in unusable]
    chosen, mixed = automatic({"": {one.step: one for one in found}}, steps, unread)
    first = next(one for one in found if chosen in one.paths)
    checkpoint = checkpoint_of(first, "a", name, chosen)
    facts, unknown = _tried(lambda: checkpoints.model_facts(checkpoint, settings))
    if facts is None:  # all else is worth showing where only the size of the pictures is not known
        facts, _ = _tried(lambda: open_format(name, settings).facts(checkpoint))
    schedule, no_schedule = _tried(lambda: checkpoints.scheduler_config(checkpoint, scheduler, settings))
    flips, _ = _tried(lambda: checkpoints.flips_of(checkpoint, settings))
    ambiguous = f"{' and '.join(rivals)} can read it as well: choose by --format." if rivals else ""
    twice = next((f"There are two checkpoints of step {step}." for step in steps if steps.count(step) > 1), "")
    facts = facts or Facts(None, "", None, "")
    return Scanned(
        path=str(folder),
        excluded=_as_dicts(unusable),
        format=name,
        unit=first.unit,
        steps=steps,
        weights={kind: n for kind, n in held.items() if n},
        chosen="" if mixed else chosen,
        model=facts.model,
        parameters=facts.parameters,
        image_shape=facts.image_shape,
        conditioning=facts.conditioning,
        n_classes=facts.n_classes,
        autoencoder=facts.autoencoder,
        scheduler=schedule["_class_name"] if schedule else "",
        prediction=schedule["prediction_type"] if schedule else "",
        pixels=facts.pixels if facts.model else None,
        flips=flips or NOT_SAID,
        lora=facts.lora,
        notes=(*facts.notes, *gaps(steps, first.unit)),
        problems=tuple(dict.fromkeys(one for one in (ambiguous, twice, mixed, unknown, no_schedule) if one)),
    )


def _tried(read: Callable[[], Any]) -> tuple[Any, str]:
    """Return what a reader gives, or why it gives nothing."""
    try:
        return read(), ""
    except AuditError as error:
        return None, f"{error.what} {error.remedy}".strip()


def _as_dicts(unusable: Unusable) -> tuple[dict[str, Any], ...]:
    return tuple({"step": step, "path": str(path), "reason": reason} for step, path, reason in unusable)


def common(scanned: Sequence[Scanned]) -> str:
    """Return whether two series can be audited as twins, in one sentence; empty unless there are two."""
    series = [one for one in scanned if one.steps]
    if len(series) != 2:
        return ""
    a, b = series
    for what in ("format", "unit", "image_shape", "model", "lora", "conditioning", "n_classes", "prediction"):
        if getattr(a, what) != getattr(b, what):
            return f"They are no twins: {what} is {getattr(a, what)} and {getattr(b, what)}."
    if a.chosen != b.chosen and a.chosen and b.chosen:
        return "One has EMA weights, the other has not: of both only raw ones can be audited (--weights raw)."
    steps = sorted(set(a.steps) & set(b.steps))
    if not steps:
        return "They have no step in common."
    alone = len(set(a.steps) ^ set(b.steps))
    return f"As twins they have {len(steps)} steps in common, {steps[0]} to {steps[-1]}; {alone} stand alone."


def write_json(scanned: Sequence[Scanned], out: TextIO) -> None:
    """Write the series as JSON."""
    json.dump({"series": [asdict(one) for one in scanned], "twins": common(scanned)}, out, indent=1)
    out.write("\n")


def write_table(scanned: Sequence[Scanned], out: TextIO) -> None:
    """Write one block per series, then whether two of them are twins."""
    console = Console(file=out, highlight=False, soft_wrap=False)
    for one in scanned:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        for name, value in lines_of(one):
            grid.add_row(name, Text(value))
        console.print(Text(one.path, style="bold"))
        console.print(grid)
        console.print()
    if sentence := common(scanned):
        console.print(Text(sentence))


def lines_of(one: Scanned) -> list[tuple[str, str]]:
    """Return what is known of a series, name and text."""
    lines = []
    if one.steps:
        shape = "x".join(map(str, one.image_shape)) if one.image_shape else "not known"
        parameters = f"{one.parameters:,} parameters" if one.parameters else ""
        classes = f" ({one.n_classes} classes)" if one.n_classes else ""
        weights = ", ".join(f"{kind} at {n}" for kind, n in one.weights.items())
        scaled = f", scaled to [{one.pixels[0]:g}, {one.pixels[1]:g}]" if one.pixels else ""
        lines = [
            ("format", one.format),
            ("steps", f"{len(one.steps)} {UNITS[one.unit]}: {shortened(one.steps)}"),
            ("weights", f"{weights}; auto {f'takes {one.chosen}' if one.chosen else 'refuses it (--weights)'}"),
            ("model", ", ".join(part for part in (one.model, parameters) if part)),
            ("pictures", shape + scaled),
            ("mirrored", as_text(one.flips)),
            ("schedule", f"{one.scheduler}, predicts {one.prediction}" if one.scheduler else "not known"),
            ("conditioning", f"{one.conditioning}{classes}"),
            ("autoencoder", one.autoencoder),
        ]
    lines += [("note", note) for note in one.notes] + [("problem", problem) for problem in one.problems]
    groups: dict[str, list[str]] = {}
    for each in one.excluded:
        groups.setdefault(each["reason"], []).append(os.path.relpath(each["path"], one.path))
    lines += [("left out", f"{', '.join(names[:4])}{more(names)}: {reason}") for reason, names in groups.items()]
    return [(name, value) for name, value in lines if value]


def more(names: Sequence[str]) -> str:
    """Return how many names beyond four there are."""
    return f" and {len(names) - 4} more" if len(names) > 4 else ""


def shortened(steps: Sequence[int]) -> str:
    """Return up to eight steps, or both ends of more."""
    texts = [f"{step:,}" for step in steps]
    return " ".join(texts if len(texts) <= 8 else [*texts[:4], "...", *texts[-2:]])
