"""Which training images samples lead back to, by target-decoy competition (docs/statistics.md 4.5).

Images of the other half are the decoys: had samples nothing to do with which half was trained on, each named group
would be of the own half or the other by the toss of a fair coin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NAME_FDR = 0.1  # expected share of the list that is there wrongly, at most
ROUNDING = 1e-12


@dataclass(frozen=True)
class Nearest:
    """The pool image that each sample names, and how strongly."""

    image: np.ndarray  # int64 [S], pool index
    own: np.ndarray  # bool [S], whether the model that drew the sample was trained on it
    strength: np.ndarray  # float64 [S] >= 0, in which labels must not be seen; 0 or NaN: names nothing


@dataclass(frozen=True)
class Competition:
    """The groups that samples name, strongest first, and which of them are listed."""

    group: np.ndarray  # int64 [K], number of the group
    image: np.ndarray  # int64 [K], pool index of the image that its strongest sample is nearest to
    sample: np.ndarray  # int64 [K], row of that sample
    own: np.ndarray  # bool [K], target (True) or decoy
    strength: np.ndarray  # float64 [K], descending
    wins: np.ndarray  # int64 [K], samples that name it, own ones of a target, others of a decoy
    q_value: np.ndarray  # float64 [K] in (0, 1], least FDR at which it is listed
    listed: np.ndarray  # bool [K], targets with q_value up to the FDR

    @property
    def names(self) -> np.ndarray:
        """Pool indices of the listed images, strongest first, int64."""
        found: np.ndarray = self.image[self.listed]
        return found


def compete(nearest: Nearest, groups: np.ndarray, fdr: float = NAME_FDR, odds: float = 1.0) -> Competition:
    """Return the groups that samples name, each a target or a decoy by its strongest sample, and the list.

    FDR^(k) = odds (1 + decoys in the first k) / max(1, targets in the first k); the list is the targets
    among the largest k at which it is at most ``fdr``. A group that a sample of the own model and one of
    another name equally strongly is dropped; of groups that are equally strong all are counted or none.
    ``odds`` is the number of possible targets over that of possible decoys. ``groups`` is int64 ``[N]``,
    the group of each pool image; exact if groups were dealt at random and ``strength`` and ``image``
    depend on no label (4.5).
    """
    rows = np.flatnonzero(nearest.strength > 0)
    strength, own = nearest.strength[rows], nearest.own[rows]
    numbers, member = np.unique(groups[nearest.image[rows]], return_inverse=True)
    best = {side: np.full(len(numbers), -np.inf) for side in (True, False)}
    for side, each in best.items():
        np.maximum.at(each, member[own == side], strength[own == side])
    target, most = best[True] > best[False], np.maximum(best[True], best[False])
    winning = own == target[member]
    wins = np.bincount(member[winning], minlength=len(numbers))
    first = np.full(len(numbers), len(rows))
    strongest = np.flatnonzero(winning & (strength == most[member]))
    np.minimum.at(first, member[strongest], strongest)
    kept = np.flatnonzero(best[True] != best[False])
    order = kept[np.argsort(-most[kept], kind="stable")]
    q_value = q_values(most[order], target[order], odds)
    sample = rows[first[order]]
    return Competition(
        group=numbers[order],
        image=nearest.image[sample],
        sample=sample,
        own=target[order],
        strength=most[order],
        wins=wins[order],
        q_value=q_value,
        listed=target[order] & (q_value <= fdr + ROUNDING),
    )


def q_values(strength: np.ndarray, target: np.ndarray, odds: float = 1.0) -> np.ndarray:
    """Return the least estimated FDR of a list that reaches as far as each group, ``[K]`` in (0, 1].

    ``strength`` descends. A list ends nowhere between equally strong groups, whose order says nothing.
    """
    decoys, targets = np.cumsum(~target), np.cumsum(target)
    estimate = odds * (1 + decoys) / np.maximum(1, targets)
    inside = np.append(strength[1:] == strength[:-1], False)[: len(strength)]
    estimate = np.where(inside, np.inf, estimate)
    least: np.ndarray = np.minimum(1.0, np.minimum.accumulate(estimate[::-1])[::-1])
    return least
