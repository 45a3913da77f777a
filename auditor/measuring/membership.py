"""What networks say of single training images: whether membership is hidden, who is exposed, and what attacks find.

Members are the images that a model was trained on, non-members held-out images only: the
other half was trained on, too, by the twin that the comparison rests on (statistics 5.3 to 5.5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from auditor.config import LEVEL, Budgets
from auditor.measuring.facts import Membership
from auditor.measuring.series import Series
from auditor.records import TWINS, Evidence, LossTable, other_twin
from auditor.seeds import derived_seed
from auditor.stats import counts, intervals

STRICT, LOOSE = 0.01, 0.1  # false-positive rates at which the fixed scores are judged; the second makes no verdict
LEAST, ADVISED = 500, 1000  # members and non-members below which nothing is shown hidden, and how many to give
EXPOSED_RATE = 0.10  # false discovery rate of the list of exposed images
ROUNDING = 1e-9  # of a logarithm of losses: less has no sign
SMOOTH_MOST = float(np.log(2))  # of a log ratio that a smooth model is allowed to explain: half of the loss
TWIN_RATIO, OWN_LOSS, SIMA = "mean log twin ratio", "mean own loss", "mean SimA"
FIXED = (TWIN_RATIO, OWN_LOSS, SIMA)  # chosen before anything was looked at

RATES = (0.1, 0.01, 0.001)  # false-positive rates at which the best of many attacks is shown
HITS = 2  # non-members that a fold must be expected to flag; else the rate is withheld
LEAST_SCORE = 1e-30  # of SimA, PIA and SecMI: an error of exactly 0 has no logarithm
BEFOREHAND, BEST_OF_MANY = "beforehand", "best of many"  # how the attack of a row was chosen


# ---------------------------------------------------------------------------
# All of a run
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class ToldOfMembers:
    """What a run says of membership: by step, and the rows of its tables."""

    steps: Mapping[int, Membership]
    attacks: Sequence[Mapping[str, Any]] = field(default_factory=tuple)  # attacks.parquet
    exposure: Sequence[Mapping[str, Any]] = field(default_factory=tuple)  # exposure.parquet

    @property
    def record(self) -> list[dict[str, Any]]:
        """What run.json holds: the outcome at each step with its sentences."""
        return [
            {
                "step": step,
                "outcome": each.outcome,
                "reasons": list(each.exposed or each.missing or [each.shown]),
                "headline": each.headline,
            }
            for step, each in self.steps.items()
        ]


def told_of_members(series: Series, budgets: Budgets) -> ToldOfMembers:
    """Return what can be told of membership at every step where losses were measured on training images."""
    scope, groups = series.scope, groups_of(series)
    asked = {(step, twin): series.network(step, twin) for step in scope.steps for twin in scope.twins}
    networks = {at: without_images(each, series.near_heldout) for at, each in asked.items() if "own" in each.losses}
    scores = {at: fixed_scores(each, groups) for at, each in networks.items() if n_others(each)}
    looks = max(1, sum(map(len, scores.values())))
    steps, attacks, exposure = {}, [], []
    for step in dict.fromkeys(step for step, _ in networks):
        both = [networks[step, twin] for twin in scope.twins]
        found = [each for twin in scope.twins for each in scores.get((step, twin), [])]
        strict, loose = ([judged(each, rate) for each in found] for rate in (STRICT, LOOSE))
        listed = exposed_images(both, groups, series.linear) if scope.with_twin else None
        steps[step] = conclude(strict, loose, listed, looks, budgets)
        left_out = n_others(asked[step, scope.twins[0]]) - n_others(both[0])
        note = f"{left_out} held-out images that are nearly training images left out" if left_out else ""
        attacks += [fixed_row(step, each, looks, note) for each in (*loose, *strict)]
        attacks += [attack_row(each, rate, scope.seed) for each in both if n_others(each) for rate in RATES]
        exposure += [] if listed is None else exposure_rows(step, listed)
    return ToldOfMembers(steps, attacks, exposure)


def n_others(evidence: Evidence) -> int:
    """Return how many held-out images one network was asked about."""
    return len(evidence.losses["heldout"].ids) if "heldout" in evidence.losses else 0


def groups_of(series: Series) -> dict[tuple[str, str], int]:
    """Return which group each pool image belongs to, by half and id: duplicates, or images of one patient."""
    return {} if series.pool is None else dict(zip(series.pool.ids, series.pool.groups.tolist(), strict=True))


def without_images(evidence: Evidence, ids: frozenset[str]) -> Evidence:
    """Return what a network says of all images but these held-out ones."""
    if not ids:
        return evidence

    def kept(tables: Mapping[str, LossTable]) -> dict[str, LossTable]:
        return {role: fewer(each, ids) if role == "heldout" else each for role, each in tables.items()}

    return replace(
        evidence,
        losses=kept(evidence.losses),
        twin_losses=kept(evidence.twin_losses),
        attack_scores={name: kept(each) for name, each in evidence.attack_scores.items()},
    )


def fewer(table: LossTable, ids: frozenset[str]) -> LossTable:
    """Return a table without these images."""
    stays = np.array([each not in ids for each in table.ids], dtype=bool)
    return replace(table, ids=table.ids[stays], values=table.values[stays])


# ---------------------------------------------------------------------------
# Scores fixed beforehand (5.4)
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """One number per image, larger for members, of one training."""

    name: str
    twin: str
    members: np.ndarray  # float64 [n]
    others: np.ndarray  # float64 [m]
    member_ids: np.ndarray  # object [n]
    other_ids: np.ndarray  # object [m]
    units: int  # distinct groups among the members: what a share of them counts as

    @property
    def whose(self) -> str:
        """What the model is called."""
        return f"twin {self.twin}" if self.twin in TWINS else self.twin


def fixed_scores(evidence: Evidence, groups: Mapping[tuple[str, str], int]) -> list[Score]:
    """Return the scores of one training that were fixed beforehand, as far as they were made.

    - mean log twin ratio: mean over noise levels of ln(the twin's loss / the own loss)
    - mean own loss: minus the mean loss over diffusion times
    - mean SimA: minus the mean over times of ln SimA (auditor/stages/attack_scores.py)
    """
    own, heldout = evidence.losses["own"], evidence.losses["heldout"]
    values = {OWN_LOSS: (-own.means, -heldout.means)}
    if {"other", "heldout"} <= set(evidence.twin_losses):
        twins = evidence.twin_losses
        values[TWIN_RATIO] = (
            ratio_by_level(twins["other"], own).mean(1),
            ratio_by_level(twins["heldout"], heldout).mean(1),
        )
    if "SimA" in evidence.attack_scores:
        asked = evidence.attack_scores["SimA"]
        values[SIMA] = closeness(asked["own"]).mean(1), closeness(asked["heldout"]).mean(1)
    units = len({groups.get((evidence.twin, i), (i,)) for i in own.ids})
    return [Score(n, evidence.twin, *values[n], own.ids, heldout.ids, units) for n in FIXED if n in values]


def ratio_by_level(without: LossTable, trained: LossTable) -> np.ndarray:
    """Return ln(loss of the model without the image / of the model with it) at each noise level, ``[n, levels]``."""
    found: np.ndarray = np.log(without.values / trained.values)
    return found


def closeness(scored: LossTable) -> np.ndarray:
    """Return minus the logarithm of an attack's scores, so that no time outweighs the others; larger for members."""
    found: np.ndarray = -np.log(np.maximum(scored.values, LEAST_SCORE))
    return found


@dataclass(frozen=True)
class Judged:
    """What one score finds at a threshold that only non-members set: their ``rank``-th largest."""

    score: Score
    rate: float  # that false positives exceed with 95 % confidence, so that hits are at least those at this rate
    rank: int
    threshold: float
    hits: int

    @property
    def n(self) -> int:
        """Members."""
        return len(self.score.members)

    @property
    def m(self) -> int:
        """Non-members."""
        return len(self.score.others)

    @property
    def share(self) -> float:
        """Members that are flagged."""
        return self.hits / self.n

    @property
    def hit_units(self) -> float:
        """So many groups the hits stand for: their share of all groups."""
        return self.hits * self.score.units / self.n

    @cached_property
    def upper(self) -> float:
        """One-sided 95 % upper limit of that share, over groups."""
        return counts.upper_limit(self.hit_units, self.score.units)

    @cached_property
    def p(self) -> float:
        """Exact p that members are flagged more often than non-members; groups count once."""
        return counts.above_rank(self.hits * self.score.units // self.n, self.score.units, self.rank, self.m)

    def gain(self, looks: int, alpha: float) -> float:
        """Lower limit of true less false positives, at ``alpha`` over all looks."""
        return counts.gain_over_rank(self.hit_units, self.score.units, self.rank, self.m, 1 - alpha / looks)

    def found(self, looks: int, alpha: float) -> bool:
        """Whether members are flagged more often, after Bonferroni over all looks."""
        return self.p * looks <= alpha

    def sentence(self, looks: int, alpha: float) -> str:
        """Say the numbers of a finding."""
        false = counts.rank_limits(self.rank, self.m)[1]
        return (
            f"{self.score.name} recognizes {self.hits:,} of {self.n:,} training images of {self.score.whose} "
            f"({self.share:.1%}) at a threshold that at most {false:.1%} of held-out images exceed: at least "
            f"{self.gain(looks, alpha):.1%} more (corrected p {min(1.0, looks * self.p):.2g})"
        )


def judged(score: Score, rate: float) -> Judged:
    """Return what a score finds above the rank-th largest non-member; of equal numbers chance decides, by the ids."""
    rank = rank_of(len(score.others), rate)
    threshold = float(np.sort(score.others)[-rank])
    hits, tied = int((score.members > threshold).sum()), score.members == threshold
    if tied.any():  # an untrained network says the same of all: neither all nor none of them are members
        among = score.others == threshold
        room = rank - int((score.others > threshold).sum())
        limit = np.sort(draws("non-member", score.other_ids, among))[-room]
        hits += int((draws("member", score.member_ids, tied) > limit).sum())
    return Judged(score, rate, rank, threshold, hits)


@cache
def rank_of(m: int, rate: float) -> int:
    """Return the rank of the non-member that sets the threshold (5.4)."""
    return counts.least_rank(m, rate)


def draws(role: str, ids: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return a random number of each chosen image that depends on its id alone, uint64; sets may hold the same ids."""
    return np.array([derived_seed("tie", role, ids[i]) for i in np.flatnonzero(chosen)], dtype=np.uint64)


# ---------------------------------------------------------------------------
# The exposed list (5.5)
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class SignedList:
    """Training images of both halves, and how much better its own network knows each than its half suggests."""

    halves: np.ndarray  # object [N]
    ids: np.ndarray  # object [N]
    ratios: np.ndarray  # float64 [N], ln(loss of the model without the image / of the model with it)
    values: np.ndarray  # float64 [N], the same less its half's median: positive where the own network knows it better
    smooth: np.ndarray  # float64 [N], that of the linear denoisers of both halves; NaN where it is not known
    fdr: np.ndarray  # float64 [N], least false discovery rate of a list that its group is on; NaN where none is
    listed: np.ndarray  # bool [N], at most one image of a group

    @property
    def strongest(self) -> tuple[str, str, float]:
        """Half, id and value of the first image of the list."""
        first = int(np.where(self.listed, self.values, -np.inf).argmax())
        return str(self.halves[first]), str(self.ids[first]), float(self.values[first])

    def sentence(self) -> str:
        """Say the numbers."""
        half, name, value = self.strongest
        return (
            f"{int(self.listed.sum())} training images are better known to the network that saw them than chance "
            f"explains (exposed list, false discovery rate {EXPOSED_RATE:.0%}; most of all {name} of half {half}: "
            f"{np.exp(value):.2g} times lower a loss than the other network has, beyond what is usual in its half)"
        )


def exposed_images(
    both: Sequence[Evidence],
    groups: Mapping[tuple[str, str], int],
    linear: Mapping[str, Mapping[str, LossTable]] | None = None,
) -> SignedList | None:
    """Return the list of both halves; None where losses of a half's images are lacking in one of the networks.

    Parameters
    ----------
    linear
        Losses of the linear denoiser of each half, by half and role, at the same cells: what a smooth model shows.
    """
    if not all("own" in each.losses and "other" in each.twin_losses for each in both):
        return None
    parts = [mean_ratio(each.twin_losses["other"], each.losses["own"]) for each in both]
    halves = np.repeat(np.array([each.twin for each in both], dtype=object), [len(part) for part in parts])
    ids = np.concatenate([each.losses["own"].ids for each in both])
    values = np.concatenate([part - np.median(part) for part in parts])
    smooth = smooth_values(both, linear or {})
    known = [groups.get((half, i), (half, i)) for half, i in zip(halves, ids, strict=True)]
    number = {group: j for j, group in enumerate(dict.fromkeys(known))}
    fdr, listed = exposed_list(beyond_smooth(values, smooth), np.array([number[each] for each in known]))
    return SignedList(halves, ids, np.concatenate(parts), values, smooth, fdr, listed)


def smooth_values(both: Sequence[Evidence], linear: Mapping[str, Mapping[str, LossTable]]) -> np.ndarray:
    """Return the values of the linear denoisers of both halves, float64 ``[N]``; NaN where they were not measured."""
    parts = []
    for each in both:
        mine, others = linear.get(each.twin, {}), linear.get(other_twin(each.twin), {})
        known = {}
        if "own" in mine and "other" in others:
            known = dict(zip(mine["own"].ids, mean_ratio(others["other"], mine["own"]).tolist(), strict=True))
        ratios = np.array([known.get(i, intervals.NAN) for i in each.losses["own"].ids])
        parts.append(ratios - np.nanmedian(ratios) if known else ratios)
    return np.concatenate(parts)


def beyond_smooth(values: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """Return the values less what a smooth model shows of the same image, at most ``SMOOTH_MOST``, float64 ``[N]``.

    A picture unlike all others moves even a Gaussian that is fitted to its half. Wrong signs keep their values, for
    pictures that move it much are noisy, too: with both made smaller these alone would make a list.
    """
    allowed = np.clip(np.nan_to_num(smooth), 0, SMOOTH_MOST)
    return np.where(values > 0, np.maximum(0, values - allowed), values)


def mean_ratio(without: LossTable, trained: LossTable) -> np.ndarray:
    """Return ln(mean loss of the model without the image / that of the model with it), float64 ``[n]``."""
    return np.log(without.means / trained.means)


def exposed_list(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each image's false discovery rate, float64 ``[N]``, and who is listed, bool ``[N]``.

    Wrong signs stand for the right ones that chance makes: among halves that were dealt at random a
    group is as likely to stand out for the network that did not see it. Each group is ranked by its image
    of largest ``|v|``; FDR(k) = (1 + wrong signs in the first k) / right signs.
    """
    order = np.lexsort((values > 0, -np.abs(values)))  # of equal ones the wrong signs first
    order = order[np.abs(values[order]) > ROUNDING]  # no sign, no evidence
    _, first = np.unique(groups[order], return_index=True)
    ranked = order[np.sort(first)]  # one image of each group, the strongest group first
    right = values[ranked] > 0
    rates = (1 + np.cumsum(~right)) / np.maximum(1, np.cumsum(right))
    rates = np.minimum(1, np.minimum.accumulate(rates[::-1])[::-1])
    by_group = dict(zip(groups[ranked].tolist(), rates.tolist(), strict=True))
    listed = np.zeros(len(values), dtype=bool)
    listed[ranked[right & (rates <= EXPOSED_RATE)]] = True
    return np.array([by_group.get(each, intervals.NAN) for each in groups.tolist()]), listed


# ---------------------------------------------------------------------------
# What follows at one step
# ---------------------------------------------------------------------------


def conclude(
    strict: Sequence[Judged],
    loose: Sequence[Judged],
    listed: SignedList | None,
    looks: int,
    budgets: Budgets,
    listed_is_needed: bool = True,
) -> Membership:
    """Return whether membership is hidden, exposed or undecided at one step.

    Parameters
    ----------
    strict, loose
        What every fixed score of every training finds, at 1 and at 10 % false positives.
    listed
        The exposed list; None where it cannot be made.
    looks
        Scores times trainings times steps, over which findings are corrected.
    listed_is_needed
        Whether nothing is shown hidden without the list: there is none of a model that saw both halves.
    """
    alpha = budgets.alpha
    n_listed = 0 if listed is None else int(listed.listed.sum())
    found = [f"Membership: {listed.sentence()}."] if listed is not None and n_listed else []
    worst = most_found(strict, looks, budgets, budgets.membership_gain)
    found += [f"Membership: {worst.sentence(looks, alpha)}."] if worst is not None else []
    missing = [*unjudged(strict, listed is not None or not listed_is_needed), *not_hidden(strict, budgets)]
    hidden = not missing and not found
    noted = most_found(loose, looks, budgets, -1)
    return Membership(
        hidden=hidden,
        exposed=tuple(found),
        missing=tuple(missing),
        shown=hidden_sentence(strict, budgets) if hidden else "",
        headline=f"At {LOOSE:.0%} false positives {noted.sentence(looks, alpha)}." if noted is not None else "",
        listed=n_listed,
    )


def most_found(found: Iterable[Judged], looks: int, budgets: Budgets, gain: float) -> Judged | None:
    """Return the score that shows most members beyond ``gain``, significantly; None where none does."""
    shown = [x for x in found if x.found(looks, budgets.alpha) and x.gain(looks, budgets.alpha) > gain]
    return max(shown, key=lambda x: x.gain(looks, budgets.alpha), default=None)


def unjudged(strict: Sequence[Judged], with_list: bool) -> list[str]:
    """Return what of the rule could not be looked at, with what it takes."""
    start = "Membership cannot be shown hidden:"
    if not strict:
        return [f"{start} it takes held-out images; give {ADVISED:,} (--heldout)."]
    made = {each.score.name for each in strict}
    n, m = (min(getattr(each, name) for each in strict) for name in ("n", "m"))
    reasons = []
    if min(n, m) < LEAST:
        reasons.append(
            f"{start} {n:,} training images of a half and {m:,} held-out images were asked about, fewer than {LEAST} "
            f"of either; give {ADVISED:,} of each (--loss-images {ADVISED}, --heldout)."
        )
    if TWIN_RATIO not in made or not with_list:
        reasons.append(f"{start} what a twin knows of the same images takes a second training (--ckpts-b, --train-b).")
    if SIMA not in made and min(n, m) >= LEAST:
        reasons.append(
            f"{start} the networks were not asked for SimA, as runs of earlier versions were not; give the audit run "
            "command again with another --out."
        )
    return reasons


def not_hidden(strict: Sequence[Judged], budgets: Budgets) -> list[str]:
    """Return the worst score that is not shown to find few members, with the number of images that would show it."""
    over = [each for each in strict if each.upper > budgets.membership_hits]
    if not over:
        return []
    worst = max(over, key=lambda each: each.upper)
    others = f"; so do {len(over) - 1} of the other {len(strict) - 1}" if len(over) > 1 else ""
    needed = images_needed(worst, budgets.membership_hits)
    more = f"about {needed:,} of each half and held-out would settle it" if needed else "more images hardly settle it"
    return [
        f"Membership not shown hidden: {worst.score.name} recognizes {worst.hits:,} of {worst.n:,} training images of "
        f"{worst.score.whose} at {STRICT:.0%} false positives, at most {worst.upper:.1%} at 95%, accepted "
        f"{budgets.membership_hits:.1%}{others}; {more}."
    ]


def images_needed(found: Judged, accepted: float) -> int:
    """Return how many members and non-members would show this to be accepted; 0 where 10,000 would not.

    What members are flagged beyond false positives is taken to stay; false positives fall with the non-members.
    """
    beyond = max(0.0, found.share - found.rank / (found.m + 1))
    for size in (1000, 1500, 2000, 3000, 5000, 10_000):
        share = beyond + rank_of(size, found.rate) / (size + 1)
        if size > min(found.n, found.m) and counts.upper_limit(share * size, size) <= accepted:
            return size
    return 0


def hidden_sentence(strict: Sequence[Judged], budgets: Budgets) -> str:
    """Say by what membership is shown hidden."""
    worst = max(strict, key=lambda each: each.upper)
    return (
        f"Membership is shown hidden: of {len(strict)} scores fixed beforehand none recognizes more than "
        f"{worst.upper:.1%} of training images at {STRICT:.0%} false positives (95%, accepted "
        f"{budgets.membership_hits:.1%}; most {worst.score.name} of {worst.score.whose}: {worst.hits:,} of "
        f"{worst.n:,}), and no image is on the exposed list."
    )


def chance_hidden(n: int, m: int, budgets: Budgets, scores: int = 2 * len(FIXED)) -> float:
    """Return how often models that leak nothing are shown hidden, were their scores independent; 0 where never.

    Hits above the rank-th largest non-member are beta-binomial; all scores must pass.
    """
    if min(n, m) < LEAST:
        return 0.0
    most = next((h for h in range(n, -1, -1) if counts.upper_limit(h, n) <= budgets.membership_hits), -1)
    return float((1 - counts.above_rank(most + 1, n, rank_of(m, STRICT), m)) ** scores)


# ---------------------------------------------------------------------------
# Rows
# ---------------------------------------------------------------------------


def fixed_row(step: int, found: Judged, looks: int, note: str) -> dict[str, Any]:
    """Return the row of attacks.parquet of a score that was fixed beforehand."""
    low, high = counts.clopper_pearson(found.hit_units, found.score.units)
    fpr = counts.rank_limits(found.rank, found.m)
    return {
        "step": step,
        "twin": found.score.twin,
        "target_fpr": found.rate,
        "attack": found.score.name,
        "chosen": BEFOREHAND,
        "members": found.n,
        "non_members": found.m,
        "threshold": found.threshold,
        "hits": found.hits,
        "tpr": found.share,
        "tpr_low": low,
        "tpr_high": high,
        "tpr_upper": found.upper,
        "fpr": found.rank / (found.m + 1),
        "fpr_low": fpr[0],
        "fpr_high": fpr[1],
        "level": LEVEL,
        "p_value": found.p,
        "p_corrected": min(1.0, looks * found.p),
        "note": note,
    }


def exposure_rows(step: int, found: SignedList) -> list[dict[str, Any]]:
    """Return the rows of exposure.parquet of one step, in the order of the losses."""
    return [
        {
            "step": step,
            "half": str(found.halves[i]),
            "id": str(found.ids[i]),
            "ratio": float(found.ratios[i]),
            "value": float(found.values[i]),
            "smooth": float(found.smooth[i]),
            "fdr": float(found.fdr[i]),
            "listed": bool(found.listed[i]),
        }
        for i in range(len(found.ids))
    ]


# ---------------------------------------------------------------------------
# Attacks that are the best of many: shown, and no condition (5.4)
# ---------------------------------------------------------------------------


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


def attacks_on(evidence: Evidence) -> list[Attack]:
    """Return every attack on one model, by noise level and in the mean: its loss, its twin's loss over its own, and ...

    SimA, PIA and SecMI (auditor/stages/attack_scores.py) where the network was asked: by their logarithm, so that
    no time outweighs the others in the mean.
    """
    own, heldout = evidence.losses["own"], evidence.losses["heldout"]
    found = list(by_time("loss", own.times, -own.values, -heldout.values))
    if "other" in evidence.twin_losses and "heldout" in evidence.twin_losses:
        without = evidence.twin_losses["other"], evidence.twin_losses["heldout"]
        ratios = [ratio_by_level(twin, mine) for twin, mine in zip(without, (own, heldout), strict=True)]
        found += by_time("twin ratio", own.times, *ratios)
    for name, scored in evidence.attack_scores.items():
        members, others = (closeness(scored[role]) for role in ("own", "heldout"))
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


def attack_row(evidence: Evidence, rate: float, seed: int) -> dict[str, Any]:
    """Return one row: both directions counted together, or the reason why they are withheld."""
    own, heldout = evidence.losses["own"], evidence.losses["heldout"]
    row = {"step": evidence.step, "twin": evidence.twin, "target_fpr": rate, "attack": "", "level": LEVEL}
    row |= {"chosen": BEST_OF_MANY, "members": len(own.ids), "non_members": len(heldout.ids), "hits": -1}
    row |= dict.fromkeys(("threshold", "tpr_upper", "p_corrected"), intervals.NAN)  # of fixed scores alone
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
        "hits": hits,
        "tpr": hits / len(own.ids),
        "tpr_low": tpr[0],
        "tpr_high": tpr[1],
        "fpr": false_hits / len(heldout.ids),
        "fpr_low": fpr[0],
        "fpr_high": fpr[1],
        "p_value": min(1.0, 2 * min(x.p for x in both)),
        "note": "attack, noise level and threshold chosen on the other half of the images",
    }
