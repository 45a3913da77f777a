"""Which images stand behind samples, by target-decoy competition (docs/statistics.md 4.5).

As in proteomics and with knockoffs: an image that a model was trained on is a target, one of the other half a decoy.
If samples do not depend on which images were trained on, the strongest evidence of each image is as likely to come
from either model, so that decoys among the strongest images tell how many targets are there by chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FDR = 0.10  # false discovery rate of the list


@dataclass(frozen=True)
class Competition:
    """The groups of images that win any sample, strongest first."""

    groups: np.ndarray  # int64 [G]
    strongest: np.ndarray  # int64 [G], row of the sample that speaks most for the group
    wins: np.ndarray  # int64 [G], samples that are nearest to the group
    target: np.ndarray  # bool [G], whether the strongest sample is of a model that was trained on the group
    q_value: np.ndarray  # float64 [G], the least false discovery rate at which the group is on the list

    @property
    def listed(self) -> np.ndarray:
        """Targets with a q-value up to ``FDR``, bool ``[G]``; below 1 / FDR targets nothing can be listed."""
        return self.target & (self.q_value <= FDR)


def compete(magnitude: np.ndarray, groups: np.ndarray, own: np.ndarray, decoys_per_target: float = 1.0) -> Competition:
    """Return the competition of groups for samples.

    Parameters
    ----------
    magnitude
        How much its nearest image stands out for each sample, float64 ``[S]``; larger is stronger. It must not know
        which images were trained on. Samples whose magnitude is 0 or unknown take no part.
    groups
        Group of the nearest image of each sample, int64 ``[S]``.
    own
        Whether the sample's model was trained on that image, float64 ``[S]`` or bool; 1/2 (a tie) takes no part.
    decoys_per_target
        m / n where there are m decoys and n targets in all: a decoy then stands for n / m chance targets.

    Returns
    -------
    Competition
        FDR(k) = (1 + decoys in the first k) (n / m) / max(1, targets in the first k), made monotone from the weakest
        on. Of groups with equal magnitude decoys stand first; a group that both kinds of models show equally is left
        out.
    """
    taken = np.flatnonzero((magnitude > 0) & (np.asarray(own, dtype=float) != 0.5))
    strength, group, mine = magnitude[taken], groups[taken], np.asarray(own, dtype=float)[taken] == 1
    order = np.lexsort((mine, -strength, group))  # by group, strongest first, of equals the decoy first
    names, first, wins = np.unique(group[order], return_index=True, return_counts=True)
    best = order[first]
    # the strongest of the other kind, where it is as strong, makes the group a tie
    tied = np.zeros(len(names), dtype=bool)
    second = first + 1
    there = second < np.append(first[1:], len(order))
    rivals = order[np.where(there, second, first)]
    tied = there & (strength[rivals] == strength[best]) & (mine[rivals] != mine[best])
    names, best, wins = names[~tied], best[~tied], wins[~tied]
    ranked = np.lexsort((mine[best], -strength[best]))
    names, best, wins = names[ranked], best[ranked], wins[ranked]
    target = mine[best]
    rate = (1 + np.cumsum(~target)) / decoys_per_target / np.maximum(1, np.cumsum(target))
    q_value = np.minimum(1.0, np.minimum.accumulate(rate[::-1])[::-1])
    return Competition(names, taken[best], wins, target, q_value)
