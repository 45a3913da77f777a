"""Whether the halves that were given are those that the networks were trained on (docs/statistics.md 1.4).

Every own-versus-other statistic believes the file names. Exchanged halves turn a lean around and a copy into one of
the twin; halves that were dealt anew after the training hide both. The networks know better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy.stats import rankdata

from auditor.config import Budgets
from auditor.measuring import copies, lean
from auditor.measuring.families import SeriesTests
from auditor.measuring.series import Series
from auditor.records import LossTable
from auditor.stats import counts

LEVEL = 0.01  # of everything told here, over all steps or cells
WIDER = 1.3  # times the interquartile range of held-out images, from which the training images are a mixture
FAR = 0.99  # quantile of held-out images beyond which an image is far
AS_MANY = 0.5  # of the images far to their own side, that are far to the wrong one
LIKE = 0.5  # of the distance to the held-out loss, within which own and other losses are alike
LEAST = 20  # images of a half, and held-out ones, on which a spread is judged

DEALT_ANEW = (
    "Give the split with which the trainings were started, or, if this is it, held-out images from the same source as "
    "the training images."
)
EXCHANGED_ALONE = "Training and held-out images look exchanged"
EXCHANGE_ALONE = "Give --train and --heldout the other way round, in a new folder (--out)."
EXCHANGE = "Give --train-a and --train-b the other way round, in a new folder (--out)."


@dataclass(frozen=True)
class Halves:
    """What speaks against the halves, in sentences."""

    wrong: tuple[str, ...] = ()  # they are not those that were trained on: no verdict but memorizing and exposed
    caveats: tuple[str, ...] = ()


def look_at(series: Series, tests: SeriesTests, budgets: Budgets) -> Halves:
    """Return what the networks say of the halves; nothing where there are not two of each."""
    if not series.scope.with_lean or series.pool is None:
        return Halves()
    if series.scope.decoys:
        shown = exchanged_by_lean(series, tests)
        return Halves((f"{EXCHANGED_ALONE}: {'; '.join(shown)}. {EXCHANGE_ALONE}",) if shown else ())
    wrong = exchanged(series, tests) or dealt_anew(series)
    if wrong:
        return Halves(tuple(wrong))
    return Halves((), (*unchecked(series, tests, budgets), *alike(series)))


# ---------------------------------------------------------------------------
# Exchanged: everything points to the other half
# ---------------------------------------------------------------------------


def exchanged(series: Series, tests: SeriesTests) -> list[str]:
    """Return that the halves look exchanged, with what shows it.

    Either samples reproduce images that only the other training was given, by pairs and by distinct groups (Holm over
    cells), or gap lean or loss lean point the other way, by the two-sided step-down maximum; both at .01. A count alone
    never decides: of private models half reproduce fewer of their own images than their twin does, by chance.
    """
    shown = [*exchanged_by_copies(series), *exchanged_by_lean(series, tests)]
    return [f"The halves look exchanged: {'; '.join(shown)}. {EXCHANGE}"] if shown else []


def exchanged_by_copies(series: Series) -> list[str]:
    """Return the cell in which most images of the other training are reproduced, if they are significantly many."""
    scope = series.scope
    cells = [(step, space) for step in scope.steps for space in scope.judged_spaces]
    found = {
        (step, space): copies.discordant({t: copies.flags(series.evidence[step, t, space]) for t in scope.twins})
        for step, space in cells
    }
    p = counts.holm(np.array([each.p(reverse=True) for each in found.values()])) if found else np.ones(1)
    if p.min() > LEVEL:
        return []
    step, space = cells[int(p.argmin())]
    own, twin = (len(each) for each in (found[step, space].own_only, found[step, space].twin_only))
    return [
        f"at step {step:,} in {space} {twin} samples reproduce what only the other training was given "
        f"({found[step, space].groups[1]} distinct images), and {own} what only their own was (corrected p "
        f"{p.min():.2g})"
    ]


def exchanged_by_lean(series: Series, tests: SeriesTests) -> list[str]:
    """Return where samples, and where losses, lean to the half of the other training, most significantly."""
    whose = "held-out images" if series.scope.decoys else "the images of the other training"
    gaps = {cell: each for cell, each in tests.lean.items() if cell[1] in series.scope.judged_spaces}
    samples = [(each.gap_p_two_sided, each.gap.value, *cell) for cell, each in gaps.items() if each.gap.value < 0]
    losses = [(each.p_two_sided, each.estimate.value, s) for s, each in tests.loss.items() if each.estimate.value < 0]
    shown = []
    if samples and min(samples)[0] <= LEVEL:
        p, value, step, space = min(samples)
        shown.append(
            f"at step {step:,} in {space} samples lean to {whose} (gap lean {value:.3f}, "
            f"own_share {gaps[step, space].share['both'].value:.2f}, corrected two-sided p {p:.2g})"
        )
    if losses and min(losses)[0] <= LEVEL:
        p, value, step = min(losses)
        shown.append(f"at step {step:,} losses lean to {whose} (loss lean {value:.3f}, corrected two-sided p {p:.2g})")
    return shown


# ---------------------------------------------------------------------------
# Dealt anew: single images point to either half
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """How r = ln(l_B / l_A), centered by half, spreads over training images, beside held-out ones."""

    ratio: float  # of both interquartile ranges
    p_wider: float  # one-sided, that training images lie farther out (Mann and Whitney)
    right: int  # training images far to the side of the half that they are given in
    wrong: int  # far to the other side
    p_wrong: float  # one-sided, that so many are far to the wrong side where 1 % of all are far
    n: int  # training images

    def is_mixture(self, n_looks: int) -> bool:
        """Tell whether each half holds images of both trainings; ``n_looks`` steps are looked at."""
        wider = self.ratio > WIDER and self.p_wider <= LEVEL / n_looks
        return bool(wider and self.wrong >= AS_MANY * self.right and self.p_wrong <= LEVEL / n_looks)


def spread_of(r: np.ndarray, labels: np.ndarray, heldout: np.ndarray) -> Spread:
    """Return the spread of r over training images ``[n]``, ``labels`` +1 (half a) or -1, and held-out ones ``[m]``.

    Centers are the middle of the quartiles: the median of a mixture lies in one of its parts, and a mean follows the
    few images that a network knows by heart.
    """
    centered = np.concatenate([sign * from_middle(r[labels == sign]) for sign in (1, -1)])
    apart = from_middle(heldout)
    far = float(np.quantile(np.abs(apart), FAR))
    right, wrong = int((centered > far).sum()), int((centered < -far).sum())
    wide, usual = range_of(centered), range_of(apart)
    return Spread(
        ratio=wide / usual if usual > 0 else float("nan"),
        p_wider=larger(np.abs(centered), np.abs(apart)),
        right=right,
        wrong=wrong,
        p_wrong=float(special.bdtrc(wrong - 1, len(centered), 1 - FAR)) if wrong else 1.0,
        n=len(centered),
    )


def from_middle(values: np.ndarray) -> np.ndarray:
    """Return values less the middle of their quartiles."""
    centered: np.ndarray = values - np.quantile(values, [0.25, 0.75]).mean()
    return centered


def range_of(values: np.ndarray) -> float:
    """Return the interquartile range."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high - low)


def larger(x: np.ndarray, y: np.ndarray) -> float:
    """Return Mann and Whitney's one-sided p, by its normal limit, that x are larger than y."""
    n, m = len(x), len(y)
    u = rankdata(np.concatenate([x, y]))[:n].sum() - n * (n + 1) / 2
    return float(special.ndtr((n * m / 2 - u) / np.sqrt(n * m * (n + m + 1) / 12)))


def spreads(series: Series) -> dict[int, Spread]:
    """Return the spread at every step whose losses tell it; one image stands for a group (duplicates, one person)."""
    pool, found = series.pool, {}
    assert pool is not None, "training images were given"
    for step in series.scope.steps:
        losses = series.losses(step)
        if not {"own", "other", "heldout"} <= set(losses["a"]):
            continue
        columns, r = lean.loss_scores(losses, pool)
        _, first = np.unique(pool.groups[columns], return_index=True)
        labels, r = pool.labels[columns][first], r[first]
        kept = ~is_near(losses["a"]["heldout"], series)
        heldout = np.log(losses["b"]["heldout"].means / losses["a"]["heldout"].means)[kept]
        enough = min((labels > 0).sum(), (labels < 0).sum(), len(heldout)) >= LEAST
        if enough and np.isfinite(r).all() and np.isfinite(heldout).all():
            found[step] = spread_of(r, labels, heldout)
    return found


def is_near(table: LossTable, series: Series) -> np.ndarray:
    """Return which images of a table are held-out near-duplicates of training images, bool ``[n]``."""
    return np.isin(table.ids.astype(object), list(series.near_heldout))


def dealt_anew(series: Series) -> list[str]:
    """Return that each half holds images that either training saw, with the step at which it is clearest."""
    known = spreads(series)
    mixed = {step: each for step, each in known.items() if each.is_mixture(len(known))}
    if not mixed:
        return []
    step = min(mixed, key=lambda each: mixed[each].p_wrong)
    found = mixed[step]
    return [
        "These do not look like the halves that were trained on: each seems to hold images of both trainings. At step "
        f"{step:,} ln(loss of b / loss of a) spreads {found.ratio:.1f} times as far over training images as over "
        f"held-out ones, and to either side: {found.wrong} of {found.n} images lie beyond 99% of held-out ones on the "
        f"side of the other half (1% expected, p {found.p_wrong:.2g}), {found.right} on that of their own. {DEALT_ANEW}"
    ]


# ---------------------------------------------------------------------------
# What cannot be told
# ---------------------------------------------------------------------------


def unchecked(series: Series, tests: SeriesTests, budgets: Budgets) -> list[str]:
    """Return that the halves could not be checked: networks that know no image cannot tell whose it is."""
    p = [each.gap_p_corrected for cell, each in tests.lean.items() if cell[1] in series.scope.judged_spaces]
    p += [each.p_corrected for each in tests.loss.values()]
    if min(p, default=1.0) <= budgets.alpha:
        return []
    return [
        "The halves could not be checked: no checkpoint leans on the images that it was trained on. If the split was "
        "dealt anew after the training, nothing here shows it; auditing a late checkpoint, too, would."
    ]


def alike(series: Series) -> list[str]:
    """Return that both trainings know both halves alike, and better than held-out images, at the first such step."""
    for step in series.scope.steps:
        losses = series.losses(step)
        if {"own", "other", "heldout"} <= set(losses["a"]) and knows_both(losses, series):
            own, other, held = (float(losses["a"][role].means.mean()) for role in ("own", "other", "heldout"))
            return [
                f"At step {step:,} the losses of both twins are alike on both halves and below those of held-out "
                f"images (of a {own:.4f}, {other:.4f} and {held:.4f}): both trainings saw both halves, or held-out "
                "images come from elsewhere, and then they are no control."
            ]
    return []


def knows_both(losses: Mapping[str, Mapping[str, LossTable]], series: Series) -> bool:
    """Tell whether each twin's mean losses on own and other images are alike, and both below that on held-out ones.

    Below: one-sided p at most .01 over steps; alike: apart by less than half of the way to the held-out mean.
    """
    limit = float(special.ndtri(1 - LEVEL / len(series.scope.steps)))
    for tables in losses.values():
        held = tables["heldout"].means[~is_near(tables["heldout"], series)]
        own, other = (tables[role].means for role in ("own", "other"))
        if min(len(own), len(other), len(held)) < LEAST:
            return False
        below = [np.log(held.mean() / each.mean()) for each in (own, other)]
        errors = [np.hypot(relative_error(held), relative_error(each)) for each in (own, other)]
        if any(way <= limit * error for way, error in zip(below, errors, strict=True)):
            return False
        if abs(below[0] - below[1]) >= LIKE * min(below):
            return False
    return True


def relative_error(values: Sequence[float] | np.ndarray) -> float:
    """Return the standard error of a mean, relative to it."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)) / np.mean(values))
