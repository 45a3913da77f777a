"""Whether a run can be trusted: its controls, and whether the halves were exchangeable (docs/statistics.md 1.2, 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from auditor.config import N_EXCHANGEABLE, Budgets
from auditor.measuring import copies
from auditor.measuring.facts import COPY_RULES, is_specific
from auditor.measuring.series import Series
from auditor.records import TWINS, other_twin
from auditor.scope import control_names
from auditor.seeds import derived_seed
from auditor.stages.features import HELDOUT_FOLDS as THIRDS
from auditor.stats import counts
from auditor.stats.landing import Landing
from auditor.stats.relabeling import Relabeling, at_least, exchangeability, relabeling_test, two_sided_p

COPIER_SHARE = 50  # one held-out image in 50 is replaced by a copy: the 2 % control
CUTS = 100  # random cuts of the held-out images
NAMED = 5  # images that a sentence names
NOT_ONE_DEAL = "Training and held-out images do not come from one deal"
DEAL_AGAIN = (
    "Held-out images of another source are no control, and only copies are judged: hold images out at random before "
    "training (audit split --trainings 1)."
)


def failed_controls(series: Series, relabeling: Relabeling | None, budgets: Budgets) -> list[str]:
    """Return which controls fail: then no verdict but "memorizing" is given (statistics 10, rule 0).

    ``relabeling`` is None for a single training, whose lean is not tested.
    """
    failures = []
    level = budgets.alpha / max(len(series.scope.judged_spaces), 1)
    for space in series.scope.judged_spaces:
        copier = {twin: copies.flags(series.evidence["copier", twin, space]) for twin in series.scope.twins}
        rate = control_rate(series, space)
        if (
            is_specific(space, rate, budgets)
            and copies.copy_p(with_heldout(series, copier, space), chance=series.chance) > level
        ):
            failures.append(f"Control failed: a model that draws only copies is not found to copy in {space}.")
        if "heldout" not in control_names(series.scope):
            continue
        if rate <= 0.004 and could_be_found(series, level, rate) and mixed_p(series, copier, space) > level:
            failures.append(f"Control failed: 2% copies among held-out images are not found in {space}.")
        if relabeling is not None and series.scope.with_twin:  # decoys are held-out images themselves
            failures += leaning_heldout(series, relabeling, space, level)
        failures += copied_heldout(series, space, level)
    return failures


def could_be_found(series: Series, level: float, rate: float) -> bool:
    """Return whether 2 % copies are significant at all with this many seeds and held-out images.

    Beside a single training these are all there is to compare with, so that those of them that are flagged (``rate``)
    count: one of 348 is enough for 2 % of 1,000 to be no finding in many spaces.
    """
    n, twins = series.scope.n_samples, len(series.scope.twins)
    n_copies = max(1, n // COPIER_SHARE)
    assert series.heldout is not None, "copies are mixed into held-out images"
    flagged = 0 if series.scope.with_twin else round(rate * len(series.heldout))
    p = counts.more_hits(twins * n_copies, twins * n, flagged, twins * len(series.heldout))
    if series.scope.with_twin:  # the twin's samples must be fewer, too
        p = max(p, counts.paired_hits(twins * n_copies, 0))
    return p <= level


def control_rate(series: Series, space: str) -> float:
    """Return the share of held-out images that the copying rule flags."""
    if not series.scope.with_heldout:
        return 0.0
    return float(np.concatenate([each.heldout for each in real_flags(series, space).values()]).mean())


def real_flags(series: Series, space: str) -> dict[str, copies.Flags]:
    """Return by twin the flags of a checkpoint, of which those of held-out images are the same for all."""
    first = series.scope.steps[0]
    return {twin: copies.flags(series.evidence[first, twin, space]) for twin in series.scope.twins}


def with_heldout(series: Series, found: Mapping[str, copies.Flags], space: str) -> dict[str, copies.Flags]:
    """Return a control's flags with those of real held-out images beside them."""
    return {twin: replace(found[twin], heldout=real.heldout) for twin, real in real_flags(series, space).items()}


def mixed_p(series: Series, copier: Mapping[str, copies.Flags], space: str) -> float:
    """Return the copying p of held-out images of which one in 50 is a copy, as many as the run has seeds."""
    real = with_heldout(series, copier, space)
    n = series.scope.n_samples
    n_copies = max(1, n // COPIER_SHARE)
    mixed = {}
    for twin, flags in real.items():
        honest = -1 - np.arange(n)  # a group of its own for each held-out image
        own_group, other_group = honest.copy(), honest.copy()
        own_group[:n_copies] = np.resize(copier[twin].own_group, n_copies)
        own = np.resize(flags.heldout, n).copy()
        own[:n_copies] = np.resize(flags.own, n_copies)
        other = None
        if series.scope.with_twin and flags.other is not None:
            other = np.resize(real[other_twin(twin)].heldout, n).copy()
            other[:n_copies] = np.resize(flags.other, n_copies)
            other_group[:n_copies] = np.resize(np.asarray(copier[twin].other_group), n_copies)
        mixed[twin] = copies.Flags(own, other, flags.heldout, own_group, other_group)
    return copies.copy_p(mixed)


def leaning_heldout(series: Series, relabeling: Relabeling, space: str, level: float) -> list[str]:
    """Return whether real held-out images, taken as samples, lean to a half, by the median p of random cuts."""
    p = heldout_lean_p(series, relabeling, space)
    if not len(p) or np.median(p) > level:
        return []
    return [
        f"Control failed: real held-out images, taken as samples, lean to a half in {space} (median p "
        f"{np.median(p):.2g} of {CUTS} random cuts)."
    ]


def heldout_lean_p(series: Series, relabeling: Relabeling, space: str) -> np.ndarray:
    """Return the two-sided p of the gap lean of each random cut of the held-out images; none of fewer than four.

    Two equal parts stand for samples of a and of b. Which part is whose is chance, so that the p are two-sided.
    """
    pool, ids = series.pool, {twin: heldout_third(series, twin, space) for twin in TWINS}
    assert pool is not None, "images were relabeled"
    kept = {twin: np.flatnonzero(~np.isin(ids[twin], list(series.near_heldout))) for twin in TWINS}
    whole = one_landing([some_landings(series.landings["heldout", twin, space], kept[twin]) for twin in TWINS])
    cuts = random_cuts(len(whole.in_a), 2, derived_seed("heldout halves", series.scope.seed))
    if len(cuts[0][0]) < 2:
        return np.empty(0)
    n = len(pool.labels)
    gaps = [some_landings(whole, a).weights(n, True) - some_landings(whole, b).weights(n, True) for a, b in cuts]
    z = np.abs(relabeling_test(relabeling, np.array(gaps)).z)
    p: np.ndarray = at_least(z, z[0]).mean(axis=0)
    return p


def heldout_third(series: Series, twin: str, space: str) -> np.ndarray:
    """Return the ids of the held-out images that the control of a twin consists of (stages/features.py)."""
    ids = np.asarray(series.evidence["heldout", twin, space].heldout_ids, dtype=object)
    return ids[TWINS.index(twin) :: THIRDS][: len(ids) // THIRDS]


def one_landing(parts: Sequence[Landing]) -> Landing:
    """Return several landings as one, without what is known within classes."""
    return Landing(
        nearest_a=np.concatenate([each.nearest_a for each in parts]),
        nearest_b=np.concatenate([each.nearest_b for each in parts]),
        in_a=np.concatenate([each.in_a for each in parts]),
        gap=np.concatenate([each.gap for each in parts]),
    )


def some_landings(land: Landing, rows: np.ndarray) -> Landing:
    """Return where some of the samples land."""
    return Landing(land.nearest_a[rows], land.nearest_b[rows], land.in_a[rows], land.gap[rows])


def random_cuts(n: int, parts: int, seed: int) -> list[tuple[np.ndarray, ...]]:
    """Return 100 random cuts of n images into equal parts, as row numbers; a remainder is left out."""
    rng, size = np.random.default_rng(seed), n // parts
    orders = [rng.permutation(n) for _ in range(CUTS)]
    return [tuple(order[i * size : (i + 1) * size] for i in range(parts)) for order in orders]


def copied_heldout(series: Series, space: str, level: float) -> list[str]:
    """Return whether real held-out images, taken as samples, are called copies.

    They are cut into thirds at random, 100 times: as if generated by a, as if generated by b, and their control. The
    median p counts, for one cut, such as that by the order of files, may put look-alikes of one half together.
    """
    p = float(np.median(heldout_copy_p(series, space)))
    if p > level:
        return []
    return [
        f"Control failed: real held-out images, taken as samples, are called copies in {space} (median p {p:.2g} of "
        f"{CUTS} random cuts)."
    ]


def heldout_copy_p(series: Series, space: str) -> np.ndarray:
    """Return the two-sided copying p of each random cut of the held-out images, corrected for both rules; ``[100]``.

    Near-duplicates of training images, and images that have set the rule of --fpr, take no part. Which part stands for
    whose samples is chance, so that only two-sided p can be small.
    """
    first = series.evidence[series.scope.steps[0], "a", space]
    known = ~np.isin(np.asarray(first.heldout_ids, dtype=object), list(series.near_heldout))
    known &= True if first.heldout_judged is None else first.heldout_judged
    kept = np.flatnonzero(known)
    cuts = random_cuts(len(kept), THIRDS, derived_seed("heldout thirds", series.scope.seed))
    p = []
    for rule in COPY_RULES:
        of, group = {}, {}
        for twin in series.scope.twins:
            evidence = series.evidence[series.scope.steps[0], twin, space]
            of[twin] = copies.flags(replace(evidence, heldout_judged=None), rule).heldout[kept]
            group[twin] = np.asarray(evidence.heldout_own_group)[kept]
        for cut in cuts:
            turned = (cut[1], cut[0], cut[2]) if len(of) > 1 else cut[::-1]
            p += [min(copies.copy_p(as_samples(of, group, each)) for each in (cut, turned))]
    return np.minimum(1.0, 4 * np.min(np.reshape(p, (len(COPY_RULES), -1)), axis=0))


def as_samples(
    of: Mapping[str, np.ndarray], group: Mapping[str, np.ndarray], cut: Sequence[np.ndarray]
) -> dict[str, copies.Flags]:
    """Return the flags of held-out images of which two thirds stand for samples of the twins.

    ``of`` says by half which are flagged on an image of it, bool ``[n]``, and ``group`` on which group.
    """
    found = {}
    for twin, rows in zip(of, cut, strict=False):
        other = other_twin(twin) if len(of) > 1 else None
        found[twin] = copies.Flags(
            own=of[twin][rows],
            other=of[other][rows] if other else None,
            heldout=of[twin][cut[-1]],
            own_group=group[twin][rows],
            other_group=group[other][rows] if other else None,
        )
    return found


def near_heldout_told(series: Series) -> list[str]:
    """Return which held-out images are near-duplicates of training images, and what that does to the rates of copies.

    Findings of copies (4) keep them: whoever plants look-alikes among held-out images must not hide copies.
    """
    ids = sorted(series.near_heldout)
    if not ids or series.heldout is None:
        return []
    rates = []
    for space in series.scope.judged_spaces:
        flagged = np.concatenate([each.heldout for each in real_flags(series, space).values()])
        near = np.concatenate([near_among_flagged(series, t, space) for t in series.scope.twins])
        if flagged[near].any():
            rates.append(f"{space} {flagged.mean():.2%} with them and {flagged[~near].mean():.2%} without")
    told = "; ".join(rates) or "none of them in any space"
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return [
        f"{len(ids)} of {len(series.heldout)} held-out images are near-duplicates of training images ("
        f"{', '.join(ids[:NAMED])}{more}): they are no non-members and leave the control of held-out images. The "
        f"copying rule flags of held-out images: {told}."
    ]


def near_among_flagged(series: Series, twin: str, space: str) -> np.ndarray:
    """Return which of the held-out images whose flags count are near-duplicates of training images, bool ``[H]``."""
    evidence = series.evidence[series.scope.steps[0], twin, space]
    near = np.isin(np.asarray(evidence.heldout_ids, dtype=object), list(series.near_heldout))
    return near if evidence.heldout_judged is None else near[evidence.heldout_judged]


def differing_halves(
    nearest_in_pool: Mapping[str, np.ndarray], brightness: np.ndarray, relabeling: Relabeling, decoys: bool
) -> list[str]:
    """Return why the halves, or training and held-out images, may not be exchangeable (statistics 1.2).

    ``nearest_in_pool`` holds by space the pool index of each image's nearest image of another group, ``brightness`` the
    mean of each, ``[N]``. No sample and no network is needed.
    """
    reasons = []
    for space, nearest in nearest_in_pool.items():
        share, p = exchangeability(nearest, relabeling)
        if p < N_EXCHANGEABLE / len(nearest_in_pool):
            reasons.append(
                f"in {space} {share:.1%} of them have their nearest image in their own set, p {p:.3g}"
                if decoys
                else "The halves are not exchangeable (site, time, preprocessing?): "
                f"in {space} {share:.1%} of training images have their nearest image in their own half, p {p:.3g}."
            )
    p = two_sided_p(relabeling, brightness)
    if p < N_EXCHANGEABLE:
        reasons.append(
            f"they differ in mean brightness more than chance explains, p {p:.3g}"
            if decoys
            else f"The halves differ in mean brightness more than chance explains, p {p:.3g}."
        )
    return [f"{NOT_ONE_DEAL} ({'; '.join(reasons)}). {DEAL_AGAIN}"] if reasons and decoys else reasons
