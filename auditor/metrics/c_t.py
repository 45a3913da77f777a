"""Data-copying statistic of Meehan: are samples nearer to the training set than held-out images, cell by cell?"""

from math import erfc, sqrt

import numpy as np

from auditor.metrics import ABSENT_HELDOUT, ABSENT_TRAIN, absent, shares_below
from auditor.records import Evidence, Metric, Scores

MORE_THAN = 20  # samples that a cell needs to count


def cell_scores(samples: np.ndarray, heldout: np.ndarray) -> np.ndarray:
    """Return each sample's part of Z = (U - m n / 2) / sd, U the pairs in which the sample is farther; ties one half.

    0 where all distances of the cell are equal.
    """
    m, n = len(samples), len(heldout)
    ties = np.unique(np.concatenate([samples, heldout]), return_counts=True)[1].astype(float)
    total = m + n
    variance = m * n / 12 * (total + 1 - np.sum(ties**3 - ties) / (total * (total - 1)))
    if variance <= 0:
        return np.zeros(m)
    return n * (shares_below(samples, heldout) - 0.5) / np.sqrt(variance)


def scores(evidence: Evidence) -> Scores:
    """Return each sample's part of C_T; the mean is C_T.

    Every k-means cell of the own half with more than 20 samples and a held-out image
    counts, by its share of the held-out images.
    """
    if evidence.own is None:
        return absent("seed", ABSENT_TRAIN)
    if evidence.heldout_own is None:
        return absent("seed", ABSENT_HELDOUT)
    samples, heldout = evidence.own[:, 0], evidence.heldout_own[:, 0]
    if np.isnan(samples).any() or np.isnan(heldout).any():
        return Scores("seed", evidence.seeds, np.full(len(samples), np.nan), "some distances are not defined")
    values, weights = np.zeros(len(samples)), []
    for cell in np.unique(evidence.own_cell[~np.isnan(evidence.own_cell)]):
        mine, real = evidence.own_cell == cell, evidence.heldout_own_cell == cell
        if mine.sum() > MORE_THAN and real.any():
            weights.append(real.mean())
            values[mine] = weights[-1] * cell_scores(samples[mine], heldout[real])
    if not weights:
        return absent("seed", f"no cell has more than {MORE_THAN} samples and a held-out image")
    weight = np.array(weights)
    values *= len(samples) / weight.sum()
    return Scores("seed", evidence.seeds, values, note(float(values.mean()), sqrt((weight**2).sum()) / weight.sum()))


def note(value: float, sd: float) -> str:
    """Return the null spread and the p of copying that goes with it."""
    p = erfc(-value / sd / sqrt(2)) / 2
    return f"standard deviation {sd:.2f} around 0 if samples are as real images; uncorrected p of copying {p:.3g}"


METRIC = Metric(
    name="c_t",
    question="Are samples nearer to the training images than real images of their kind are?",
    unit="standard normal scores",
    direction="larger means farther than held-out images (underfit), far below 0 copying",
    reference="sum_pi P(pi) Z_U(pi) / sum_pi P(pi), 3 k-means cells, P held-out; Meehan et al. 2020 (2004.05675)",
    k=1,
    twins=("a", "b"),
    interval="shown",
    scores=scores,
)
