"""The twins' series aligned on their common steps and one kind of weights; what is left out has its reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from auditor.checkpoints.discovery import Discovery, checkpoint_of
from auditor.checkpoints.names import a_path, is_average, stem_of
from auditor.checkpoints.weights import UNREAD_AVERAGES
from auditor.errors import AuditError
from auditor.records import TWINS, UNITS, CheckpointSeries, Excluded, Found, TwinPair

WEIGHTS = ("auto", "ema", "raw")
FoundByTwin = Mapping[str, Mapping[int, Found]]  # twin -> step -> what was found


def pair(
    a: Discovery,
    b: Discovery | None,
    weights: str = "auto",
    steps: Collection[int] | None = None,
    paired: str | None = None,
) -> TwinPair:
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
    paired
        ``last``, ``best`` or ``43:57,...``: which checkpoints belong together though their steps differ. Those of b
        then go by the steps of a; None where equal steps belong together.
    """
    if b is not None and a.root.resolve() == b.root.resolve():
        raise AuditError("Both twins are the same folder, so they cannot differ.", a.root, "Give two trainings.")
    if b is not None:
        _refuse_unlike(a, b)
    progress: tuple[tuple[int, int], ...] = ()
    if paired is not None:
        if b is None:
            raise AuditError("There is no twin to pair with.", "--pair", "Leave --pair out, or give --ckpts-b.")
        progress = _paired_steps(a, b, paired)
        a, b = _by_pairs(a, {mine: mine for mine, _ in progress}), _by_pairs(b, {own: mine for mine, own in progress})
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
    kept_pairs = tuple(each for each in progress if each[0] in {c.step for c in series["a"].checkpoints})
    return TwinPair(series["a"], series["b"], tuple(excluded), _said(found, common, kind, excluded), kept_pairs)


def _paired_steps(a: Discovery, b: Discovery, how: str) -> tuple[tuple[int, int], ...]:
    """Return which steps of a and of b belong together, ascending in both."""
    if how in ("last", "best"):
        choose = _best if how == "best" else (lambda one: one.found[-1].step)
        return ((choose(a), choose(b)),)
    try:
        pairs = tuple((int(mine), int(own)) for mine, own in (each.split(":") for each in how.split(",")))
    except ValueError:
        what = f"{how!r} pairs no checkpoints."
        raise AuditError(what, "--pair", "Give last, best, or steps of both twins: --pair 43:57,86:114.") from None
    for i, one in enumerate((a, b)):
        steps, known = [each[i] for each in pairs], {each.step for each in one.found}
        missing = sorted(set(steps) - known)
        if missing:
            what = f"Twin {one.twin} has no usable checkpoint at step {_shortened(missing)}."
            raise AuditError(what, "--pair", f"Choose from {_shortened(known)}.")
        if steps != sorted(set(steps)):
            what = f"The steps of twin {one.twin} do not ascend: {_listed(steps)}."
            raise AuditError(what, "--pair", "Pair each checkpoint once, in the order of the trainings.")
    return pairs


def _best(one: Discovery) -> int:
    """Return the step of the only checkpoint, or of the one that is called best."""
    named = [each.step for each in one.found if any("best" in path.name.lower() for path in each.paths.values())]
    kept = [each.step for each in one.found] if len(one.found) == 1 else named
    if len(kept) != 1:
        what = f"Twin {one.twin} has {len(one.found)} checkpoints, of which {len(named)} are called best."
        raise AuditError(what, one.root, "Name the steps that belong together: --pair STEP_OF_A:STEP_OF_B.")
    return kept[0]


def _by_pairs(one: Discovery, label: Mapping[int, int]) -> Discovery:
    """Return what was found with the checkpoints that are paired, by the steps of a; others are left out."""
    kept = tuple(replace(each, step=label[each.step]) for each in one.found if each.step in label)
    left = [Excluded(one.twin, e.step, a_path(e), "not paired (--pair)") for e in one.found if e.step not in label]
    return replace(one, found=kept, excluded=(*one.excluded, *left))


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps))


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
        remedy = (
            "Save both twins at the same steps, or pair them: --pair last, --pair best, or --pair STEP_OF_A:STEP_OF_B."
        )
        raise AuditError(f"The twins have no step in common{asked}: {lists}.", "", remedy)
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
