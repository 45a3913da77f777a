"""The twins' series aligned on their common steps and one kind of weights; what is left out has its reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from auditor.checkpoints.discovery import Discovery, checkpoint_of
from auditor.checkpoints.names import a_path
from auditor.errors import AuditError
from auditor.records import TWINS, UNITS, CheckpointSeries, Excluded, Found, TwinPair

WEIGHTS = ("auto", "ema", "raw")
FoundByTwin = Mapping[str, Mapping[int, Found]]  # twin -> step -> what was found


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
    if b is not None:
        _refuse_unlike(a, b)
    given = [a] if b is None else [a, b]
    found = {one.twin: {each.step: each for each in one.found} for one in given}
    wanted = _wanted_steps(found, steps)
    kind = _kind_of_weights(found, _common_steps(found, wanted), weights)
    excluded = [each for one in given for each in one.excluded]
    series = {twin: CheckpointSeries(twin, ()) for twin in TWINS}
    for one in given:
        reasons = {step: _left_out(found, one.twin, step, wanted, kind) for step in found[one.twin]}
        kept = [each for each in one.found if not reasons[each.step]]
        checkpoints = tuple(checkpoint_of(each, one.twin, one.format, kind) for each in kept)
        series[one.twin] = CheckpointSeries(one.twin, checkpoints)
        left_out = [each for each in one.found if reasons[each.step]]
        excluded += [Excluded(one.twin, each.step, a_path(each), reasons[each.step]) for each in left_out]
    excluded.sort(key=lambda one: (one.twin, one.step, str(one.path)))
    return TwinPair(series["a"], series["b"], tuple(excluded))


def _refuse_unlike(a: Discovery, b: Discovery) -> None:
    """Refuse twins that count their progress differently, or that different trainers wrote."""
    if a.found and b.found and a.unit != b.unit:
        counted = " and ".join(f"{one.twin} in {UNITS[one.unit]}" for one in (a, b))
        raise AuditError(f"The twins count their progress differently: {counted}.", b.root, "Name both alike.")
    if a.format != b.format:
        raise AuditError(f"Twin a is {a.format} and twin b is {b.format}.", b.root, "Compare one recipe only.")


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


def _shortened(steps: Collection[int]) -> str:
    """Return steps for a message: all of them up to eight, else both ends and the count."""
    texts = [str(step) for step in sorted(steps)]
    if len(texts) <= 8:
        return ", ".join(texts) or "none"
    return f"{', '.join(texts[:4])} ... {', '.join(texts[-2:])} ({len(texts)} steps)"
