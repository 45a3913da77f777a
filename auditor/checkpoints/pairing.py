"""The twins' series aligned on their common steps and one kind of weights; what is left out has its reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from auditor.checkpoints.discovery import Discovery, checkpoint_of
from auditor.checkpoints.names import a_path, is_average, stem_of
from auditor.checkpoints.weights import UNREAD_AVERAGES
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
        ``ema`` and ``raw`` insist. ``auto`` takes EMA weights, which are what is shipped, where every common step of
        both twins has them, and raw weights where none has; anything between is refused, so that one missing file
        never changes what is audited.
    steps
        Only these steps; None means all.
    """
    if b is not None and a.root.resolve() == b.root.resolve():
        raise AuditError("Both twins are the same folder, so they cannot differ.", a.root, "Give two trainings.")
    if b is not None:
        _refuse_unlike(a, b)
    given = [a] if b is None else [a, b]
    found = {one.twin: {each.step: each for each in one.found} for one in given}
    wanted = _wanted_steps(found, steps)
    common = _common_steps(found, wanted)
    excluded = [each for one in given for each in one.excluded]
    if weights == "auto":
        kind, problem = automatic(found, common, excluded)
        if problem:
            raise AuditError(problem, "--weights auto", _remedy(found, common))
    else:
        kind = weights
        _require_kind(found, common, kind)
    series = {twin: CheckpointSeries(twin, ()) for twin in TWINS}
    for one in given:
        reasons = {step: _left_out(found, one.twin, step, wanted, kind) for step in found[one.twin]}
        kept = [each for each in one.found if not reasons[each.step]]
        checkpoints = tuple(checkpoint_of(each, one.twin, one.format, kind) for each in kept)
        series[one.twin] = CheckpointSeries(one.twin, checkpoints)
        left_out = [each for each in one.found if reasons[each.step]]
        excluded += [Excluded(one.twin, each.step, a_path(each), reasons[each.step]) for each in left_out]
    excluded.sort(key=lambda one: (one.twin, one.step, str(one.path)))
    return TwinPair(series["a"], series["b"], tuple(excluded), _said(found, common, kind, excluded))


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


def automatic(found: FoundByTwin, common: Collection[int], excluded: Sequence[Excluded] = ()) -> tuple[str, str]:
    """Return which weights are taken where the user does not say, ``ema`` or ``raw``, and why none can be, else "".

    EMA weights that are there and cannot be used (``excluded``) count as there.
    """
    held = {twin: [step for step in common if "ema" in steps[step].paths] for twin, steps in found.items()}
    if all(len(each) == len(common) for each in held.values()):
        return "ema", ""
    unread = [each for each in excluded if each.step in common and is_of_average(each)]
    if not any(held.values()):
        if not unread:
            return "raw", ""
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        return (
            "raw",
            f"EMA weights are there and cannot be used: {unread[0].path}{more}: {unread[0].reason.rstrip('.')}.",
        )
    told = ", ".join(
        f"twin {twin} at {len(each)} of {len(common)} steps"
        + (f" (not at {_shortened(set(common) - set(each))})" if 0 < len(each) < len(common) else "")
        for twin, each in held.items()
    )
    return "ema", f"Some checkpoints have EMA weights and some have not: {told}."


def is_of_average(excluded: Excluded) -> bool:
    """Whether what was left out is EMA weights, by what it is called or by the reason."""
    called = is_average(stem_of(excluded.path)) or excluded.path.parent.name == "ema"
    return called or excluded.reason.startswith(UNREAD_AVERAGES)


def _remedy(found: FoundByTwin, common: Collection[int]) -> str:
    """Return what can be done where some of the common steps lack EMA weights."""
    of_all = [step for step in common if all("ema" in twin[step].paths for twin in found.values())]
    raw = all("raw" in twin[step].paths for twin in found.values() for step in common)
    ways = [
        "Put the missing EMA weights there",
        *([f"leave the steps without them out (--steps {','.join(map(str, of_all))})"] if of_all else []),
        *(["audit the raw weights (--weights raw)"] if raw else []),
    ]
    return f"{', or '.join(ways)}."


def _require_kind(found: FoundByTwin, common: Collection[int], kind: str) -> None:
    """Refuse steps that lack the kind of weights that was asked for."""
    if kind not in WEIGHTS:
        raise AuditError(f"There are no weights called {kind!r}.", "--weights", f"Choose from {', '.join(WEIGHTS)}.")
    for step in common:
        for twin in found:
            if kind not in found[twin][step].paths:
                other = {"ema": "raw", "raw": "ema"}[kind]
                remedy = f"Leave the step out by --steps, or take --weights {other}."
                raise AuditError(f"Twin {twin} has no {kind} weights at step {step}.", f"--weights {kind}", remedy)


def _said(found: FoundByTwin, common: Collection[int], kind: str, excluded: Sequence[Excluded]) -> str:
    """Say which weights are audited, and of raw ones why."""
    if kind == "ema":
        return "ema weights"
    n = sum("ema" in twin[step].paths for twin in found.values() for step in common)
    if not n:
        beside = any(is_of_average(each) for each in excluded)
        more = "; files left out may hold averages" if beside else ""
        return f"raw weights: no audited checkpoint holds EMA weights{more}"
    of = len(common) * len(found)
    return (
        f"raw weights, as asked; EMA weights, which are what is usually shipped, are there at {n} of {of} checkpoints"
    )


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
