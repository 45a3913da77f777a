"""What the losses say of single training images: attacks judged on images never trained on, and who is most exposed.

Members are the images that a model was trained on, non-members held-out images only: the
other half was trained on, too, by the twin that the comparison rests on (statistics 5.3 to 5.5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from auditor.config import LEVEL
from auditor.measuring.series import Series
from auditor.records import Evidence, LossTable
from auditor.seeds import derived_seed
from auditor.stats import counts, intervals

RATES = (0.1, 0.01, 0.001)  # false-positive rates at which attacks are judged
HITS = 2  # non-members that a fold must be expected to flag; else the rate is withheld
LEAST_SCORE = 1e-30  # of SimA, PIA and SecMI: an error of exactly 0 has no logarithm
LISTED = 0.10  # false discovery rate of the list of exposed images


@dataclass(frozen=True)
class Attack:
    """A score per image, larger for members, from the losses or answers of the model and perhaps losses of its twin."""

    name: str
    time: int  # diffusion time; -1 for the mean over all
    members: np.ndarray  # float64 [n]
    others: np.ndarray  # float64 [m]


@dataclass(frozen=True)
class Outcome:
    """Hits of one direction: chosen on one fold, counted on the other."""

    attack: Attack
    hits: int
    n_members: int
    false_hits: int
    n_others: int

    @property
    def p(self) -> float:
        """One-sided Fisher p that members are flagged more often than non-members."""
        return counts.more_hits(self.hits, self.n_members, self.false_hits, self.n_others)


# ---------------------------------------------------------------------------
# Attacks (5.4)
# ---------------------------------------------------------------------------


def attacks_on(evidence: Evidence) -> list[Attack]:
    """Return every attack on one model, by noise level and in the mean: its loss, its twin's loss over its own, and ...

    SimA, PIA and SecMI (auditor/stages/attack_scores.py) where the network was asked: by their logarithm, so that
    no time outweighs the others in the mean.
    """
    own, heldout = evidence.losses["own"], evidence.losses["heldout"]
    found = list(by_time("loss", own.times, -own.values, -heldout.values))
    if "other" in evidence.twin_losses and "heldout" in evidence.twin_losses:
        without = evidence.twin_losses["other"], evidence.twin_losses["heldout"]
        ratios = [np.log(twin.values / mine.values) for twin, mine in zip(without, (own, heldout), strict=True)]
        found += by_time("twin ratio", own.times, *ratios)
    for name, scored in evidence.attack_scores.items():
        members, others = (-np.log(np.maximum(scored[role].values, LEAST_SCORE)) for role in ("own", "heldout"))
        found += by_time(name, scored["own"].times, members, others)
    return found


def by_time(name: str, times: np.ndarray, members: np.ndarray, others: np.ndarray) -> Iterator[Attack]:
    """Yield an attack per noise level, and one by the mean over them."""
    for j, t in enumerate(times):
        yield Attack(name, int(t), members[:, j], others[:, j])
    yield Attack(name, -1, members.mean(axis=1), others.mean(axis=1))


def folds(ids: Iterable[str], of: str, seed: int) -> np.ndarray:
    """Return a random half of the images, bool ``[n]``, that depends on their ids and not on their order."""
    draws = np.array([derived_seed("fold", of, seed, i) for i in ids], dtype=np.uint64)
    half = np.zeros(len(draws), dtype=bool)
    half[np.argsort(draws)[: len(draws) // 2]] = True
    return half


def one_direction(attacks: Sequence[Attack], members: np.ndarray, others: np.ndarray, rate: float) -> Outcome:
    """Choose attack and threshold on the images that are marked, count hits on those that are not.

    The threshold flags at most the ``rate`` of marked non-members; of the attacks the one is
    taken that then flags most marked members, the first of equals.
    """
    limits = [np.sort(each.others[others])[::-1][int(rate * others.sum())] for each in attacks]
    found = [(each.members[members] > limit).sum() for each, limit in zip(attacks, limits, strict=True)]
    best = int(np.argmax(found))
    attack, limit = attacks[best], limits[best]
    hits, false_hits = attack.members[~members] > limit, attack.others[~others] > limit
    return Outcome(attack, int(hits.sum()), len(hits), int(false_hits.sum()), len(false_hits))


def attack_rows(series: Series) -> list[dict[str, Any]]:
    """Return the rows of attacks.parquet: per step, twin and false-positive rate what an attacker would find."""
    rows = []
    for step in series.scope.steps:
        for twin in series.scope.twins:
            evidence = series.network(step, twin)
            if "own" in evidence.losses and "heldout" in evidence.losses:
                rows += [attack_row(evidence, rate, series.scope.seed) for rate in RATES]
    return rows


def upper_limits(rows: Sequence[Mapping[str, Any]]) -> dict[int, dict[float, float]]:
    """Return by step and false-positive rate the larger upper limit of both models' hits, where not withheld."""
    found: dict[int, dict[float, float]] = {}
    for row in rows:
        if not np.isnan(row["tpr"]):
            limits = found.setdefault(row["step"], {})
            limits[row["target_fpr"]] = max(row["tpr_high"], limits.get(row["target_fpr"], 0.0))
    return found


def attack_row(evidence: Evidence, rate: float, seed: int) -> dict[str, Any]:
    """Return one row: both directions counted together, or the reason why they are withheld."""
    own, heldout = evidence.losses["own"], evidence.losses["heldout"]
    row = {"step": evidence.step, "twin": evidence.twin, "target_fpr": rate, "attack": "", "level": LEVEL}
    row |= {"members": len(own.ids), "non_members": len(heldout.ids)}
    if len(heldout.ids) // 2 < HITS / rate or len(own.ids) < 2:
        needed = round(2 * HITS / rate)
        unknown = dict.fromkeys(("tpr", "tpr_low", "tpr_high", "fpr", "fpr_low", "fpr_high", "p_value"), intervals.NAN)
        return row | unknown | {"note": f"withheld: it takes {needed:,} held-out images (--loss-images, --heldout)"}
    attacks = attacks_on(evidence)
    members, others = folds(own.ids, evidence.twin, seed), folds(heldout.ids, "heldout", seed)
    both = [one_direction(attacks, *chosen, rate) for chosen in ((members, others), (~members, ~others))]
    hits, false_hits = sum(x.hits for x in both), sum(x.false_hits for x in both)
    tpr, fpr = counts.clopper_pearson(hits, len(own.ids)), counts.clopper_pearson(false_hits, len(heldout.ids))
    names = dict.fromkeys(f"{x.attack.name}{f' at t={x.attack.time}' if x.attack.time >= 0 else ''}" for x in both)
    return row | {
        "attack": " / ".join(names),
        "tpr": hits / len(own.ids),
        "tpr_low": tpr[0],
        "tpr_high": tpr[1],
        "fpr": false_hits / len(heldout.ids),
        "fpr_low": fpr[0],
        "fpr_high": fpr[1],
        "p_value": min(1.0, 2 * min(x.p for x in both)),
        "note": "attack, noise level and threshold chosen on the other half of the images",
    }


# ---------------------------------------------------------------------------
# The most exposed images (5.5)
# ---------------------------------------------------------------------------


def exposure_rows(series: Series) -> list[dict[str, Any]]:
    """Return the rows of exposure.parquet: training images whose loss ratio no held-out image comes near."""
    rows = []
    for step in series.scope.steps if series.scope.with_twin else ():
        found = [each for twin in series.scope.twins for each in exposures(series, step, twin)]
        listed = benjamini_hochberg(np.array([each["p_value"] for each in found]), LISTED)
        rows += [each | {"listed": bool(flag)} for each, flag in zip(found, listed, strict=True)]
    return rows


def exposures(series: Series, step: int, twin: str) -> list[dict[str, Any]]:
    """Return one half's images with their loss ratio and conformal p."""
    evidence = series.network(step, twin)
    if "own" not in evidence.losses or "heldout" not in evidence.losses:
        return []
    own = mean_ratio(evidence.twin_losses["other"], evidence.losses["own"])
    heldout = mean_ratio(evidence.twin_losses["heldout"], evidence.losses["heldout"])
    p = conformal(own, heldout)
    ids = evidence.losses["own"].ids
    return [
        {"step": step, "half": twin, "id": str(i), "ratio": float(r), "p_value": float(q)}
        for i, r, q in zip(ids, own, p, strict=True)
    ]


def mean_ratio(without: LossTable, trained: LossTable) -> np.ndarray:
    """Return ln(mean loss of the model without the image / that of the model with it), float64 ``[n]``."""
    return np.log(without.means / trained.means)


def conformal(scores: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Return (1 + number of controls at least as large) / (m + 1): p that a score is one of the controls'."""
    ordered = np.sort(control)
    return (1 + len(ordered) - np.searchsorted(ordered, scores, "left")) / (len(ordered) + 1)


def benjamini_hochberg(p: np.ndarray, rate: float) -> np.ndarray:
    """Return which hypotheses are rejected at this false discovery rate, bool ``[n]``."""
    order = np.argsort(p, kind="stable")
    below = np.flatnonzero(p[order] <= rate * np.arange(1, len(p) + 1) / max(len(p), 1))
    rejected = np.zeros(len(p), dtype=bool)
    if len(below):
        rejected[order[: below[-1] + 1]] = True
    return rejected
