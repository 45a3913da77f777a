"""The checkpoints of both twins: found, aligned, read through, and told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from auditor import checkpoints
from auditor.checkpoints import pairing
from auditor.config import AuditConfig
from auditor.errors import AuditError, CheckpointError
from auditor.records import TWINS, Checkpoint, Excluded, TwinPair


def discover(config: AuditConfig, settings: checkpoints.ModelSettings) -> TwinPair:
    """Return the aligned series of both twins."""
    assert config.ckpts_a is not None, "required.py asks for it"
    a = checkpoints.discover(config.ckpts_a, "a", settings)
    b = checkpoints.discover(config.ckpts_b, "b", settings) if config.ckpts_b is not None else None
    return pairing.pair(a, b, weights=config.weights, steps=config.step_numbers, paired=config.pair)


def usable(pair: TwinPair, settings: checkpoints.ModelSettings | None = None) -> TwinPair:
    """Return the pair with digests; a step whose file is broken in one twin leaves both, with the reason."""
    good: dict[str, list[Checkpoint]] = {twin: [] for twin in TWINS}
    excluded = list(pair.excluded)
    problems: dict[tuple[str, str], list[str]] = {}  # what is wrong and its remedy -> twins and steps
    for step in pair.steps:
        inspected = []
        for twin in pair.twins:
            checkpoint = pair.series(twin).at(step)
            try:
                inspected.append(checkpoints.inspect(checkpoint, settings))
            except CheckpointError as error:
                excluded.append(Excluded(twin, step, checkpoint.path, error.what))
                problems.setdefault((error.what, error.remedy), []).append(f"{twin}/{step}")
        if len(inspected) == len(pair.twins):
            for checkpoint in inspected:
                good[checkpoint.twin].append(checkpoint)
        else:
            excluded += [
                Excluded(c.twin, step, c.path, "the twin's checkpoint of this step is not usable") for c in inspected
            ]
    if not good["a"]:
        raise _nothing_usable(problems, pair)
    a, b = (replace(pair.series(twin), checkpoints=tuple(good[twin])) for twin in TWINS)
    excluded.sort(key=lambda e: (e.twin, e.step))
    return TwinPair(
        a,
        b,
        tuple(excluded),
        pair.weights,
        tuple(p for p in pair.progress if p[0] in {*(c.step for c in a.checkpoints)}),
    )


def progress_notes(pair: TwinPair) -> tuple[str, ...]:
    """Return which checkpoints were paired, and what that leaves open."""
    if not pair.progress:
        return ()
    told = ", ".join(f"{mine:,} of a with {own:,} of b" for mine, own in pair.progress)
    unlike = any(mine != own for mine, own in pair.progress)
    end = " Steps are those of a; of checkpoints of unlike progress no onset is claimed." if unlike else ""
    return (f"Checkpoints were paired (--pair): {told}.{end}",)


def _nothing_usable(problems: Mapping[tuple[str, str], Sequence[str]], pair: TwinPair) -> AuditError:
    """Return the error for a series of which no file could be read, with the remedies of what was found."""
    reasons = []
    for (what, _), places in list(problems.items())[:4]:
        others = f" and {len(places) - 1} more" if len(places) > 1 else ""
        reasons.append(f"{places[0]}{others}: {what.rstrip('.')}")
    remedies = dict.fromkeys(remedy for _, remedy in problems if remedy)
    remedy = " ".join(list(remedies)[:2]) or "Look at the first of them."
    return AuditError(f"No checkpoint can be audited: {'; '.join(reasons)}.", pair.a.checkpoints[0].path.parent, remedy)


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
