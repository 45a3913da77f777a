"""Own share among the samples for which one image stands out most: few copies among many samples (3.8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from auditor.measuring.facts import Tail
from auditor.measuring.lean import Lands
from auditor.records import TWINS
from auditor.run.columns import STEP, Column
from auditor.stats.counts import lower_limit
from auditor.stats.intervals import NAN
from auditor.stats.relabeling import Pool, Relabeling, RelabelingTest, relabeling_test

LEAST_TAIL = 40  # samples of both twins
TAIL_SHARE = 0.01  # of the samples of both twins, where that is more
TAILS = (
    STEP,
    Column("space", "string", "feature space"),
    Column("share", "float64", "share of the samples in the tail that land on their own half; 1/2 is no lean"),
    Column("low", "float64", "its one-sided lower limit at 95 %, over samples or over groups, the smaller"),
    Column("reference", "float64", "the same share of the smooth reference"),
    Column("n", "int64", "samples in the tail, of both twins"),
    Column("groups", "int64", "distinct groups of images that they land on"),
    Column("p_corrected", "float64", "one-sided p by relabelling, corrected over all checkpoints, spaces and losses"),
)


@dataclass(frozen=True)
class Standing:
    """The samples of both twins for which one pool image stands out most."""

    on_a: np.ndarray  # float64 [n], what each puts on its nearest image of half a: 1, 0, or 1/2 on ties
    nearest_a: np.ndarray  # int64 [n], pool index
    nearest_b: np.ndarray  # int64 [n]
    of_a: np.ndarray  # bool [n], whether twin a drew it

    @property
    def on_own(self) -> np.ndarray:
        """What each puts on the half that its twin was trained on, float64 ``[n]``."""
        return np.where(self.of_a, self.on_a, 1 - self.on_a)

    def weights(self, n_pool: int) -> np.ndarray:
        """Return w with share = 1/2 + w.y / 2: what a's samples put on each pool image less what b's do, ``[N]``."""
        signed = np.where(self.of_a, 1.0, -1.0) / max(len(self.on_a), 1)
        on_a = np.bincount(self.nearest_a, signed * self.on_a, n_pool)
        found: np.ndarray = on_a + np.bincount(self.nearest_b, signed * (1 - self.on_a), n_pool)
        return found


def tail_size(n_samples: int) -> int:
    """Return how many of ``n_samples`` samples of both twins make the tail: 1 %, and 40 at least."""
    return min(n_samples, max(LEAST_TAIL, int(np.ceil(TAIL_SHARE * n_samples))))


def standing_out(lands: Lands, share: float | None = None) -> Standing:
    """Return the samples of both twins with the largest gaps; all that equal the least of them are in, too.

    The gap is taken over the whole pool and sees no label. ``share`` is the share of all
    samples, by default that of ``tail_size``.
    """
    gap = np.nan_to_num(np.concatenate([lands[twin].gap for twin in TWINS]), nan=-1.0)
    n = tail_size(len(gap)) if share is None else int(np.ceil(share * len(gap)))
    rows = np.flatnonzero(gap >= np.partition(gap, len(gap) - n)[len(gap) - n])
    columns = (np.concatenate([getattr(lands[t], name) for t in TWINS]) for name in ("in_a", "nearest_a", "nearest_b"))
    on_a, nearest_a, nearest_b = (column[rows] for column in columns)
    return Standing(on_a, nearest_a, nearest_b, rows < len(lands["a"].gap))


def tail_statistics(pool: Pool, relabeling: Relabeling, lands: Mapping[tuple[int, str], Lands]) -> RelabelingTest:
    """Test every tail for landing on its own half more than labels explain; columns in the order of ``lands``."""
    n = len(pool.labels)
    return relabeling_test(
        relabeling, np.array([standing_out(each).weights(n) for each in lands.values()]).reshape(-1, n)
    )


def tail_facts(
    pool: Pool,
    lands: Mapping[tuple[int, str], Lands],
    p_corrected: np.ndarray,
    references: Mapping[str, Lands],
) -> dict[tuple[int, str], Tail]:
    """Return by step and space what the verdict needs of each tail.

    ``p_corrected`` is in the order of ``lands``. ``references`` holds by space where the smooth reference lands; its
    tail is the same share of its samples, which are more.
    """
    found, known = {}, {}
    for (cell, each), p in zip(lands.items(), p_corrected, strict=True):
        standing, n = standing_out(each), 2 * len(each["a"].gap)
        share, space = tail_size(n) / n, cell[1]
        if (space, share) not in known:
            known[space, share] = float(standing_out(references[space], share).on_own.mean())
        low, groups = lowest(standing, pool)
        value = float(standing.on_own.mean())
        found[cell] = Tail(value, low, float(p), known[space, share], len(standing.on_own), groups)
    return found


def lowest(standing: Standing, pool: Pool) -> tuple[float, int]:
    """Return the lower limit of a tail's own share, and how many distinct groups it lands on.

    Clopper-Pearson's one-sided 95 % over samples, and over groups, of which each counts for the side that
    puts more on it and half on ties: the smaller. One favored image is one toss of the coin.
    """
    own = standing.on_own
    if not np.isfinite(own).all():
        return NAN, 0
    landed = np.concatenate([standing.nearest_a, standing.nearest_b])
    on = np.concatenate([standing.on_a, 1 - standing.on_a])
    mine = np.concatenate([standing.of_a, ~standing.of_a])
    groups, member = np.unique(pool.groups[landed[on > 0]], return_inverse=True)
    balance = np.bincount(member, np.where(mine, on, -on)[on > 0])
    sides = float((balance > 0).sum() + (balance == 0).sum() / 2)
    return min(lower_limit(float(own.sum()), len(own)), lower_limit(sides, len(groups))), len(groups)


def tail_rows(found: Mapping[tuple[int, str], Tail]) -> list[dict[str, Any]]:
    """Return the rows of tails.parquet."""
    return [{"step": step, "space": space} | vars(each) for (step, space), each in sorted(found.items())]
