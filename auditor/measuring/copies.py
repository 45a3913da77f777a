"""Copies among samples: of whom, not only how many (docs/statistics.md 4).

Per space, half h and seed s, the sample of the twin that was trained on h is flagged on an image of h (own), and the
other twin's sample of the same seed may be, too (twin). What both flag is common to the data; what only one flags
speaks for copying, or by chance against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, log2
from typing import Any

import numpy as np

from auditor.config import COPY_RATIO
from auditor.measuring.facts import COPY_RULES, FINDING, Copying, Flagged
from auditor.neighbors import is_copy
from auditor.records import BEYOND_POOL, TWINS, Evidence, other_twin
from auditor.stats import counts

CARLINI_RATIO = 0.5  # to the mean distance of the 50 nearest (Carlini et al. 2023)
FIRST = 1000  # seeds that are tested by themselves, so that more seeds never take a finding back
RARE_FALSE_ALARMS = 0.0005  # share of held-out images that the rule of "shown rare" flags at most
LEAST_CALIBRATING = 2000  # held-out ratios d1 / d2 that a ratio is set by


def calibrated(evidence: Mapping[str, Evidence], fpr: float, seed: int) -> tuple[float, np.ndarray]:
    """Return the ratio d1 / d2 below which at most ``fpr`` of real images are flagged, and who may judge it (4.1).

    It is the quantile of d1 / d2 of held-out images to either half, over a random half of
    those images (fold 1); the others, a bool mask, tell the rate that the rule really has.
    """
    ids = evidence["a"].heldout_ids
    assert ids is not None, "a rule is set by held-out images"
    judged = np.random.default_rng(seed).permutation(len(ids)) % 2 == 1
    ratios = np.concatenate([ratio_of(each)[~judged] for each in evidence.values()])
    return float(np.sort(ratios)[int(fpr * len(ratios))]), judged


def ratio_of(evidence: Evidence) -> np.ndarray:
    """Return d1 / d2 of held-out images to the half of this twin, 0 where d1 is 0, float64 ``[H]``."""
    assert evidence.heldout_own is not None and evidence.heldout_own_outside is not None, "held-out images are given"
    nearest, outside = evidence.heldout_own[:, 0], evidence.heldout_own_outside
    return np.divide(nearest, outside, out=np.zeros_like(nearest), where=nearest > 0)


@dataclass(frozen=True)
class Flags:
    """Which samples are flagged as copies, of one twin in one space, and of which group of images."""

    own: np.ndarray  # bool [S], of an image of the own half
    other: np.ndarray | None  # bool [S], of an image of the other half: the control; None without a twin
    heldout: np.ndarray  # bool [H], held-out images of the own half
    own_group: np.ndarray  # int64 [S], of the nearest image of the own half
    other_group: np.ndarray | None = None  # int64 [S]


def flags(evidence: Evidence, rule: str = "gap", ratio: float | None = None) -> Flags:
    """Return the flags of one twin's samples and of held-out images against its half.

    ``rule`` is one of ``COPY_RULES``; ``ratio`` is c of the gap rule, None for that of --fpr, or else 1/3.
    """
    assert evidence.own is not None and evidence.own_group is not None, "copies are looked for in training images"
    ratio = evidence.copy_ratio if ratio is None else ratio

    def flagged(near: np.ndarray, outside: np.ndarray | None, mean_50: np.ndarray | None) -> np.ndarray:
        second, limit = (outside, ratio) if rule == "gap" else (mean_50, CARLINI_RATIO)
        assert second is not None, "the second distance is known where the nearest is"
        return is_copy(near[:, 0], second, limit)

    heldout = np.zeros(0, dtype=bool)
    if evidence.heldout_own is not None:
        heldout = flagged(evidence.heldout_own, evidence.heldout_own_outside, evidence.heldout_own_mean_50)
        if evidence.heldout_judged is not None:
            heldout = heldout[evidence.heldout_judged]
    copied = None
    if evidence.other is not None:
        copied = flagged(evidence.other, evidence.other_outside, evidence.other_mean_50)
    own = flagged(evidence.own, evidence.own_outside, evidence.own_mean_50)
    return Flags(own, copied, heldout, evidence.own_group, evidence.other_group)


# ---------------------------------------------------------------------------
# Own against twin (4.3)
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Discordant:
    """Pairs (seed, half) of which one of both samples is flagged, with the group that it is flagged on."""

    own_only: np.ndarray  # int64, groups of pairs that only the twin that was trained on the half flags
    twin_only: np.ndarray  # int64, groups of pairs that only the other twin flags

    @property
    def groups(self) -> tuple[int, int]:
        """Distinct groups flagged more often by the twin that saw them, and less often; ties count for neither."""
        names, member = np.unique(np.concatenate([self.own_only, self.twin_only]), return_inverse=True)
        own, twin = member[: len(self.own_only)], member[len(self.own_only) :]
        net = np.bincount(own, minlength=len(names)) - np.bincount(twin, minlength=len(names))
        return int((net > 0).sum()), int((net < 0).sum())

    def p(self, reverse: bool = False) -> float:
        """Return the larger p of McNemar's test over pairs and the sign test over distinct groups, one-sided.

        McNemar's alone alarms where the twins collapse onto, or prefer, different images; the unit of chance is
        which half an image is in, so that images have to agree. ``reverse``: the halves look exchanged.
        """
        pairs, groups = (len(self.own_only), len(self.twin_only)), self.groups
        if reverse:
            pairs, groups = pairs[::-1], groups[::-1]
        return max(counts.paired_hits(*pairs), counts.paired_hits(*groups))


def discordant(found: Mapping[str, Flags], n: int | None = None) -> Discordant:
    """Return what only one of both twins flags, over the first ``n`` seeds (None: all)."""
    own, twin = [], []
    for half in TWINS:
        mine, yours = found[half], found[other_twin(half)]
        assert yours.other is not None and yours.other_group is not None, "both twins are looked at in both halves"
        own.append(mine.own_group[:n][(mine.own & ~yours.other)[:n]])
        twin.append(yours.other_group[:n][(~mine.own & yours.other)[:n]])
    return Discordant(np.concatenate(own), np.concatenate(twin))


def copy_p(found: Mapping[str, Flags], n: int | None = None, chance: float | None = None) -> float:
    """Return p that samples copy, over the first ``n`` seeds: against the twin, or for one training beside held-out.

    Without a twin and without held-out images there is no control, and p is 1. ``chance`` is the share of the pool
    that a single training was trained on; None where held-out images are no decoys, and then Fisher's test is all.
    """
    if len(found) == len(TWINS):
        return discordant(found, n).p()
    alone = found["a"]
    if chance is None or alone.other is None or alone.other_group is None:
        own, control = alone.own[:n], alone.heldout
        return counts.more_hits(int(own.sum()), len(own), int(control.sum()), len(control)) if len(control) else 1.0
    return min(1.0, 2 * min(beside_heldout_p(alone, n), beside_decoys_p(alone, n, chance)))


def beside_heldout_p(alone: Flags, n: int | None = None) -> float:
    """Return Fisher's p that samples are flagged more often than held-out images, or as distinct groups; the larger."""
    own, control = alone.own[:n], alone.heldout
    if not len(control):
        return 1.0
    among = int(control.sum()), len(control)
    hits, groups = int(own.sum()), len(np.unique(alone.own_group[:n][own]))
    return max(counts.more_hits(each, len(own), *among) for each in (hits, groups))


def beside_decoys_p(alone: Flags, n: int | None, chance: float) -> float:
    """Return the binomial p that flags fall on pool images of the training rather than on decoys; the larger.

    Over flagged samples and over distinct groups: copies of few images are few tosses.
    """
    assert alone.other is not None and alone.other_group is not None, "decoys were searched"
    own = alone.own_group[:n][alone.own[:n] & (alone.own_group[:n] < BEYOND_POOL)]
    other = alone.other_group[:n][alone.other[:n] & (alone.other_group[:n] < BEYOND_POOL)]
    pairs = (len(own), len(other)), (len(np.unique(own)), len(np.unique(other)))
    return max(counts.paired_hits(*each, chance) for each in pairs)


def corrected(
    found: Mapping[tuple[tuple[int, str], str], Mapping[str, Flags]], chance: float | None = None
) -> dict[tuple[tuple[int, str], str], float]:
    """Return p by (step, space) and rule, corrected over all of them, and for being tested twice (4.3, 7.1).

    The first 1,000 seeds and all of them are tested at half the level each.
    """
    n = max(len(each["a"].own) for each in found.values())
    looks = []
    for first in (None, FIRST) if n > FIRST else (None,):
        p = [p_of_rule(rule, each, first, chance) for (_, rule), each in found.items()]
        looks.append(counts.holm(np.array(p)))
    return dict(zip(found, np.minimum(1.0, 2 * np.min(looks, axis=0)).tolist(), strict=True))


def p_of_rule(rule: str, found: Mapping[str, Flags], n: int | None, chance: float | None) -> float:
    """Return p of one rule. Carlini's is not asked whether flags fall on training images rather than on decoys.

    The mean of the 50 nearest is larger among fewer images, so that it flags more where there are fewer: on X-rays 17
    of 512 training images against 7 of 1,024 decoys, of samples that copy nobody. d1 / d2 knows no number.
    """
    if chance is not None and rule != "gap":
        return beside_heldout_p(found["a"], n)
    return copy_p(found, n, chance)


def groups_needed(n_cells: int) -> int:
    """Return how many distinct groups, all flagged by their own twin alone, a finding takes: 2^-k n <= alpha / 2."""
    return ceil(log2(2 * n_cells / FINDING))


# ---------------------------------------------------------------------------
# Every checkpoint and space
# ---------------------------------------------------------------------------


def copying_tests(
    evidence: Mapping[tuple[int, str], Mapping[str, Evidence]],
    rare_ratios: Mapping[str, float],
    chance: float | None = None,
) -> dict[tuple[int, str], Copying]:
    """Test copying at every checkpoint and space, and tell how rare it is; ``rare_ratios`` are fallbacks by space.

    ``chance`` is that of ``copy_p``.
    """
    found = {
        (cell, rule): {twin: flags(each, rule) for twin, each in twins.items()}
        for cell, twins in evidence.items()
        for rule in COPY_RULES
        if rule == "gap" or knows_50(twins)
    }
    p = corrected(found, chance)
    needed = groups_needed(len(found))
    told = {}
    for cell, twins in evidence.items():
        rule = min((rule for each, rule in found if each == cell), key=lambda rule: p[cell, rule])  # first of equals
        facts = copying(twins, found[cell, "gap"], p[cell, rule], rare_ratios[cell[1]], needed)
        told[cell] = replace(facts, most=flagged_by(rule, found[cell, rule]))
    return told


def knows_50(twins: Mapping[str, Evidence]) -> bool:
    """Tell whether the 50 nearest images are known; spaces that compare pictures look at fewer."""
    return all(each.own_mean_50 is not None and not np.isnan(each.own_mean_50).all() for each in twins.values())


def flagged_by(rule: str, found: Mapping[str, Flags]) -> Flagged:
    """Return what a rule flags, over all seeds."""
    groups = np.concatenate([each.own_group[each.own] for each in found.values()])
    apart = discordant(found) if len(found) == len(TWINS) else None
    return Flagged(
        rule=rule,
        hits=len(groups),
        own_only=0 if apart is None else len(apart.own_only),
        twin_only=0 if apart is None else len(apart.twin_only),
        images=len(np.unique(groups)),
    )


def copying(
    evidence: Mapping[str, Evidence], found: Mapping[str, Flags], p: float, rare_ratio: float, needed: int
) -> Copying:
    """Return the counts of one checkpoint and space."""
    own, control = (np.concatenate([getattr(each, name) for each in found.values()]) for name in ("own", "heldout"))
    groups = np.concatenate([each.own_group[each.own] for each in found.values()])
    facts = Copying(
        hits=int(own.sum()),
        n=len(own),
        control_hits=int(control.sum()),
        control_n=len(control),
        p_corrected=p,
        sources=len(np.unique(groups)),
        ratio=evidence["a"].copy_ratio,
        groups_needed=needed,
    )
    if len(found) == len(TWINS):
        return replace(facts, **of_pairs(evidence, rare_ratio))
    counted = np.unique(found["a"].own_group[found["a"].own], return_counts=True)[1]
    return replace(facts, revealed=flagged_images(evidence["a"], found["a"]), most_of_one=int(counted.max(initial=0)))


def of_pairs(evidence: Mapping[str, Evidence], ratio: float) -> dict[str, Any]:
    """Return the fields of Copying that compare the twins: who is reproduced only by the twin that saw the image."""
    ratio = calibrated_ratio(evidence, ratio)
    found = {twin: flags(each, ratio=ratio) for twin, each in evidence.items()}
    apart = discordant(found)
    shared = [(each.own_shared, found[twin].own) for twin, each in evidence.items() if each.own_shared is not None]
    control = [
        is_copy(each.heldout_own[:, 0], each.heldout_own_outside, ratio) & each.heldout_own_shared
        for each in evidence.values()
        if each.heldout_own is not None and each.heldout_own_outside is not None and each.heldout_own_shared is not None
    ]
    return {
        "own_only": len(apart.own_only),
        "twin_only": len(apart.twin_only),
        "most_of_one": int(np.unique(apart.own_only, return_counts=True)[1].max(initial=0)),
        "pairs": sum(len(each.own) for each in found.values()),
        "rare_ratio": ratio,
        "revealed": revealed(evidence, found),
        "shared_hits": sum(int((mask & own).sum()) for mask, own in shared),
        "shared_control_hits": sum(int(each.sum()) for each in control),
    }


def calibrated_ratio(evidence: Mapping[str, Evidence], fallback: float) -> float:
    """Return the ratio of "shown rare" (4.4): 1/3 where that flags at most .05 % of held-out images.

    Else the ratio that flags as many, if there are 2,000 ratios d1 / d2 of held-out images to set it by; with fewer,
    or without held-out images, ``fallback``, which is that of the space. With --fpr it is the ratio set there.
    """
    given = evidence["a"].copy_ratio
    if given is not None:
        return given
    known = [ratio_of(each) for each in evidence.values() if each.heldout_own is not None]
    ratios = np.sort(np.concatenate(known)) if known else np.empty(0)
    if len(ratios) and (ratios < COPY_RATIO).mean() <= RARE_FALSE_ALARMS:
        return COPY_RATIO
    return float(ratios[int(RARE_FALSE_ALARMS * len(ratios))]) if len(ratios) >= LEAST_CALIBRATING else fallback


def flagged_images(evidence: Evidence, found: Flags) -> tuple[str, ...]:
    """Return ids of images that samples of a single training are flagged on, one of a group, most often first."""
    names = np.asarray(evidence.own_nearest)
    seen: dict[int, list[str]] = {}
    for row in np.flatnonzero(found.own):
        seen.setdefault(int(found.own_group[row]), []).append(str(names[row]))
    return tuple(each[0] for each in sorted(seen.values(), key=lambda each: (-len(each), each[0])))


def revealed(evidence: Mapping[str, Evidence], found: Mapping[str, Flags]) -> tuple[str, ...]:
    """Return images that only the twin that saw them reproduces, as half/id, one of each group, most often first."""
    seen: dict[int, list[str]] = {}
    for half in TWINS:
        mine, yours = found[half], found[other_twin(half)]
        assert yours.other is not None, "both twins are looked at in both halves"
        names = np.asarray(evidence[half].own_nearest)
        for row in np.flatnonzero(mine.own & ~yours.other):
            seen.setdefault(int(mine.own_group[row]), []).append(f"{half}/{names[row]}")
    told = sorted(seen.values(), key=lambda each: (-len(each), each[0]))
    return tuple(each[0] for each in told)
