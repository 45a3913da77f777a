"""Which half an image belongs to is the unit of chance: tests by relabeling (docs/statistics.md 1.2, 2 and 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from auditor.config import N_RELABELINGS
from auditor.stats.minima import resamples


@dataclass(frozen=True)
class Pool:
    """The images of both halves that take part in own-versus-other statistics.

    ``labels`` is +1 for half a and -1 for half b, or for decoys; images of one ``group``
    (duplicates, one patient) share a label and are relabeled together. Halves of two trainings
    are equally large; of decoys there may be fewer or more than training images, and shares are
    told on the balanced scale then (14.1).
    """

    ids: tuple[tuple[str, str], ...]  # (half, image id)
    labels: np.ndarray  # float64 [N], +1 or -1
    groups: np.ndarray  # int64 [N]

    @property
    def chance(self) -> float:
        """The share of the images that are in half a, n / (n + m): what chance lets land there."""
        return float((self.labels > 0).mean())

    @property
    def stretch(self) -> float:
        """N^2 / 4nm: by what a difference between unequal halves grows on the balanced scale; 1 for equal ones."""
        return 0.25 / (self.chance * (1 - self.chance))

    def balanced(self, share: float) -> float:
        """Return a share on own images as it would be with equally many others: its odds over n / m."""
        if self.chance == 0.5:
            return share
        own = share * (1 - self.chance)
        return own / (own + (1 - share) * self.chance)

    def balanced_slope(self, share: float) -> float:
        """Return the derivative of ``balanced``: what an error of a share is on that scale."""
        return self.chance * (1 - self.chance) / (share * (1 - self.chance) + (1 - share) * self.chance) ** 2


@dataclass(frozen=True)
class Relabeling:
    """R + 1 assignments of the pool's groups to the halves; row 0 is the true one."""

    labels: np.ndarray  # float32 [R + 1, N]
    mean: np.ndarray  # float64 [N], expected label of each image


def relabel(pool: Pool, seed: int, n: int = N_RELABELINGS, strata: np.ndarray | None = None) -> Relabeling:
    """Return ``n`` random assignments beside the true one, labels permuted among groups of equal size.

    This keeps the size profile of each half, and is exact when the halves were split at
    random by group. With ``strata``, int64 ``[N]``, labels stay in the stratum of a group's first image.
    """
    _, first, member = np.unique(pool.groups, return_index=True, return_inverse=True)
    sizes, label = np.bincount(member), pool.labels[first]
    rng = np.random.default_rng(seed)
    rows = np.tile(label.astype(np.float32), (n + 1, 1))
    mean = np.empty(len(label))
    stratum = np.zeros(len(label), np.int64) if strata is None else strata[first]
    kinds, kind = np.unique(np.column_stack([sizes, stratum]), axis=0, return_inverse=True)
    for number in range(len(kinds)):
        same = np.flatnonzero(kind.ravel() == number)
        rows[1:, same] = rng.permuted(rows[1:, same], axis=1)
        mean[same] = label[same].mean()
    return Relabeling(rows[:, member], mean[member])


@dataclass(frozen=True)
class RelabelingTest:
    """Statistics T = w.y under all relabelings, standardised."""

    value: np.ndarray  # float64 [M]: w.y minus its expectation
    sd: np.ndarray  # float64 [M]: over relabelings
    z: np.ndarray  # float64 [R + 1, M]
    p: np.ndarray  # float64 [M], one-sided


def relabeling_test(relabeling: Relabeling, weights: np.ndarray) -> RelabelingTest:
    """Test M linear statistics, rows of ``weights`` ``[M, N]``, for being larger than labels explain (2.3).

    p counts the true labelling itself, so it is never 0. A statistic that no relabeling
    changes (identical twins), or that is not defined, has z = 0 and p = 1.
    """
    t = relabeling.labels.astype(float) @ weights.T - weights @ relabeling.mean
    sd = t.std(axis=0)
    flat = ~(sd > 1e-12 * np.maximum(1, np.abs(weights).sum(axis=1)))  # NaN is flat, too
    z = np.where(flat, 0.0, t / np.where(flat, 1.0, sd))
    p = at_least(z, z[0]).mean(axis=0)
    return RelabelingTest(t[0], np.where(flat, 0.0, sd), z, p)


def relabeling_tests(relabeling: Relabeling, statistics: Mapping[str, np.ndarray]) -> dict[str, RelabelingTest]:
    """Return the tests of several sets of statistics by name, each ``[M, N]``: one product instead of many."""
    whole = relabeling_test(relabeling, np.vstack(list(statistics.values())))
    ends = np.cumsum([len(each) for each in statistics.values()])[:-1]
    parts = (np.split(each, ends, axis=-1) for each in (whole.value, whole.sd, whole.z, whole.p))
    return {name: RelabelingTest(*each) for name, each in zip(statistics, zip(*parts, strict=True), strict=True)}


def at_least(z: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Return z >= observed, rounding aside: relabelings that tie with the truth count."""
    return z >= observed - 1e-9


def step_down_max_t(z: np.ndarray) -> np.ndarray:
    """Return family-wise p values ``[M]`` of the statistics whose relabeled z are ``[R + 1, M]`` (7.1).

    Westfall and Young's step-down maximum: the joint distribution under relabeling is
    used as it is, so any dependence between checkpoints and spaces is covered.
    """
    order = np.argsort(-z[0], kind="stable")
    # running maximum over the statistics not yet rejected, from the least extreme upwards
    maxima = np.maximum.accumulate(z[:, order[::-1]], axis=1)[:, ::-1]
    p = at_least(maxima, z[0, order]).mean(axis=0)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(p)
    return adjusted


def effective_images(weights: np.ndarray) -> np.ndarray:
    """Return n_eff = (sum |w|)^2 / sum w^2 of each row: on how many images the evidence rests (2.4)."""
    total, squares = np.abs(weights).sum(-1) ** 2, (weights**2).sum(-1)
    return np.asarray(np.divide(total, squares, out=np.zeros_like(total), where=squares > 0))


def half_difference_test(relabeling: Relabeling, columns: np.ndarray, r: np.ndarray) -> RelabelingTest:
    """Test half the difference of the mean of ``r`` between the halves, for the pool images ``columns``.

    ``r`` is ``[n]``, or ``[n, M]`` for M statistics at once. The two-sample mean is taken anew
    under each relabeling, since a subset of the pool need not stay balanced.
    """
    r = r.reshape(len(r), -1)
    in_a = (relabeling.labels[:, columns] > 0).astype(float)
    n_a = in_a.sum(axis=1)[:, None]
    sum_a = in_a @ r
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (sum_a / n_a - (r.sum(axis=0) - sum_a) / (len(r) - n_a)) / 2
    t = np.nan_to_num(t)
    sd = t.std(axis=0)
    flat = ~(sd > 1e-12 * np.abs(r).max(axis=0, initial=0.0))  # rounding alone is no spread, nor is NaN
    z = np.where(flat, 0.0, t / np.where(flat, 1.0, sd))
    return RelabelingTest(t[0], np.where(flat, 0.0, sd), z, at_least(z, z[0]).mean(axis=0))


def half_difference_draws(r: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return bootstrap draws of half the difference between the halves; groups are drawn within halves.

    ``[draws]`` for ``r`` ``[n]``, ``[draws, M]`` for ``r`` ``[n, M]``.
    """
    parts = []
    for sign in (1, -1):
        _, member = np.unique(groups[labels == sign], return_inverse=True)
        sums, sizes = np.zeros((member.max() + 1, *r.shape[1:])), np.bincount(member)
        np.add.at(sums, member, r[labels == sign])
        counts = resamples(len(sizes), seed + sign)
        drawn = counts @ sizes
        parts.append((counts @ sums) / drawn.reshape(-1, *[1] * (r.ndim - 1)))
    return (parts[0] - parts[1]) / 2


def exchangeability(nearest: np.ndarray, relabeling: Relabeling) -> tuple[float, float]:
    """Return the share of pool images whose nearest image of another group is of their half, and its p.

    A share that is larger than relabeling explains says that the halves differ (site,
    time, preprocessing), so that leaning on a half need not be leaning on its images.
    """
    known = np.flatnonzero(nearest >= 0)
    labels = relabeling.labels
    same = (labels[:, known] == labels[:, nearest[known]]).mean(axis=1)
    return float(same[0]), float(at_least(same, same[0]).mean())


def two_sided_p(relabeling: Relabeling, x: np.ndarray) -> float:
    """Return the two-sided relabeling p that the halves differ in the mean of ``x``."""
    deviation = np.abs(relabeling.labels @ (x - x.mean()))
    return float(at_least(deviation, deviation[0] * (1 - 1e-6)).mean())
