"""The tail: whose images the samples lead to for which one image stands out most (docs/statistics.md 3.8)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from auditor.measuring.facts import Tail
from auditor.stats.counts import lower_limit
from auditor.stats.landing import Landing
from auditor.stats.relabeling import Pool

LEAST = 40  # samples of the tail
SHARE = 0.01  # of the samples of both twins, where that is more


def tail_rows(lands: Mapping[str, Landing]) -> dict[str, np.ndarray]:
    """Return which samples of each twin are in the tail: those with the largest gap over both, indices by twin.

    The gap sees no labels. All samples whose gap equals the least in the tail are in it: were some of them chosen by
    their order, twin a's would fill it, and the halves' difference in style would not cancel.
    """
    gaps = np.concatenate([np.nan_to_num(each.gap, nan=-1.0) for each in lands.values()])
    n = min(len(gaps), max(LEAST, int(np.ceil(SHARE * len(gaps)))))
    largest = np.flatnonzero(gaps >= np.partition(gaps, len(gaps) - n)[len(gaps) - n])
    starts = np.cumsum([0, *(len(each.gap) for each in lands.values())])
    return {
        twin: largest[(largest >= start) & (largest < end)] - start
        for twin, start, end in zip(lands, starts, starts[1:], strict=False)
    }


def tail_weights(lands: Mapping[str, Landing], n_pool: int) -> np.ndarray:
    """Return w ``[N]``: the number of tail samples of twin a that land on each image, less that of twin b.

    w.y is the number of tail samples on own images less the number on others, and so a statistic for relabeling.
    """
    total = np.zeros(n_pool)
    for twin, rows in tail_rows(lands).items():
        land, sign = lands[twin], 1.0 if twin == "a" else -1.0
        for nearest, on in ((land.nearest_a, land.in_a), (land.nearest_b, 1 - land.in_a)):
            total += sign * np.bincount(nearest[rows], on[rows], n_pool)
    return total


def tail_share(lands: Mapping[str, Landing]) -> float:
    """Return the share of the tail that lands on own images, in [0, 1]; 1/2 is no lean."""
    return float(np.mean(np.concatenate(list(on_own(lands).values()))))


def on_own(lands: Mapping[str, Landing]) -> dict[str, np.ndarray]:
    """Return by twin whether each of its tail samples lands on its own half: 1, 0, or 1/2 on ties."""
    rows = tail_rows(lands)
    return {twin: (land.in_a if twin == "a" else 1 - land.in_a)[rows[twin]] for twin, land in lands.items()}


def tail_fact(lands: Mapping[str, Landing], pool: Pool, p_corrected: float, reference: float) -> Tail:
    """Return what the verdict needs of one tail.

    The lower bound is the smaller of Clopper-Pearson's over samples and over distinct groups, a group counting for the
    side that its tail samples are on more often: a few favored images are no more than a few tosses of a coin.
    All shares are on the balanced scale.
    """
    rows, own = tail_rows(lands), on_own(lands)
    groups = np.concatenate([pool.groups[land.first[rows[twin]]] for twin, land in lands.items()])
    mine = np.concatenate(list(own.values()))
    _, member = np.unique(groups, return_inverse=True)
    side = np.bincount(member, mine - 0.5)
    by_group = float((side > 0).sum() + 0.5 * (side == 0).sum())
    low = min(lower_limit(mine.sum(), len(mine)), lower_limit(by_group, len(side)))
    share, low = pool.balanced(float(mine.mean())), pool.balanced(low)
    return Tail(share, low, p_corrected, pool.balanced(reference), len(mine), len(side))
