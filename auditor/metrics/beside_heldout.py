"""The nearest distances of samples beside those of held-out images: shifts, divergences, and Meehan's statistic."""

from collections.abc import Callable
from functools import partial
from math import erfc, sqrt

import numpy as np

from auditor.metrics import ABSENT_HELDOUT, ABSENT_TRAIN, absent, shares_below
from auditor.records import Evidence, Metric, Scores

N_BINS, LEAST = 20, 1e-8  # of nn_kl_paper
MORE_THAN = 20  # samples that a cell of c_t needs to count

Compared = tuple[np.ndarray | None, np.ndarray | None, str]  # scores of samples, of held-out images, note


def beside_heldout(evidence: Evidence, compare: Callable[[np.ndarray, np.ndarray], Compared]) -> Scores:
    """Return scores that compare samples with held-out images by the distance to the nearest own image.

    ``compare`` takes the distances of samples and of held-out images and returns the samples' scores (None
    where there is nothing to compare), the held-out images' (or None), and a note.
    """
    if evidence.own is None:
        return absent("seed", ABSENT_TRAIN)
    if evidence.heldout_own is None:
        return absent("seed", ABSENT_HELDOUT)
    samples, heldout = evidence.own[:, 0], evidence.heldout_own[:, 0]
    if np.isnan(samples).any() or np.isnan(heldout).any():
        return Scores("seed", evidence.seeds, np.full(len(samples), np.nan), "some distances are not defined")
    values, second, note = compare(samples, heldout)
    return absent("seed", note) if values is None else Scores("seed", evidence.seeds, values, note, second)


def placements(samples: np.ndarray, heldout: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Return the share of held-out images farther than each sample, and of samples nearer than each held-out image.

    The mean of either is the AUC.
    """
    return 1 - shares_below(samples, heldout), shares_below(heldout, samples), ""


def differences(samples: np.ndarray, heldout: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Return the differences from the mean of the other set, over samples and over held-out images."""
    return heldout.mean() - samples, heldout - samples.mean(), ""


# ---------------------------------------------------------------------------
# Divergences
# ---------------------------------------------------------------------------


def transport(samples: np.ndarray, heldout: np.ndarray) -> tuple[np.ndarray, None, str]:
    """Return how far each sample's distance is moved by the least transport to the held-out distances.

    Both sorted, the sample of rank i meets the held-out quantiles from i / m to (i + 1) / m.
    """
    m, n = len(samples), len(heldout)
    order, y = np.argsort(samples, kind="stable"), np.sort(heldout)
    ends = np.union1d(np.arange(m + 1) * n, np.arange(n + 1) * m)  # on a grid of 1 / (m n), so that no rounding enters
    i, j = ends[:-1] // n, ends[:-1] // m
    moved = np.bincount(i, np.diff(ends) * np.abs(samples[order][i] - y[j]), m) / n
    _, value_of, counts = np.unique(samples[order], return_inverse=True, return_counts=True)
    values = np.empty(m)
    values[order] = (np.bincount(value_of, moved) / counts)[value_of]  # equal distances share what they are moved
    return values, None, f"noise floor {noise_floor(y, m):.4g}: about what as many real images would show"


def noise_floor(heldout: np.ndarray, m: int) -> float:
    """Return the mean distance between samples of sizes m and n of the held-out distances: sorted ``[n]``.

    E|F_m - F_n| is that of a Brownian bridge: sqrt(2 / pi) sqrt(F (1 - F)) sqrt(1 / m + 1 / n).
    """
    n = len(heldout)
    below = np.arange(1, n) / n
    spread = np.sum(np.diff(heldout) * np.sqrt(below * (1 - below)))
    return float(np.sqrt(2 / np.pi * (1 / m + 1 / n)) * spread)


def divergence(samples: np.ndarray, heldout: np.ndarray) -> tuple[np.ndarray, None, str]:
    """Return ln(p / q) of each sample's bin, p of samples and q of held-out images, both clipped to [1e-8, 1].

    Bins that hold no sample add their part to all scores alike: 1e-8 ln(1e-8 / q).
    """
    edges = np.linspace(0, max(samples.max(), heldout.max()), N_BINS + 1)
    bins = [np.clip(np.searchsorted(edges, d, "right") - 1, 0, N_BINS - 1) for d in (samples, heldout)]
    counts = [np.bincount(each, minlength=N_BINS) for each in bins]
    p, q = (np.clip(count / count.sum(), LEAST, 1) for count in counts)
    ratio = np.log(p / q)
    empty = LEAST * ratio[counts[0] == 0].sum()
    return ratio[bins[0]] + empty, None, histogram_note(*counts)


def histogram_note(samples: np.ndarray, heldout: np.ndarray) -> str:
    """Return the noise floor for these counts per bin, and how many bins hold no held-out image."""
    floor = ((heldout > 0).sum() - 1) / 2 * (1 / samples.sum() + 1 / heldout.sum())
    text = f"noise floor {floor:.4g}: about what as many real images would show"
    alone = int(((heldout == 0) & (samples > 0)).sum())
    return text + (
        f"; {alone} bins hold samples and no held-out image, their part depends on the clip" if alone else ""
    )


# ---------------------------------------------------------------------------
# Data copying, cell by cell
# ---------------------------------------------------------------------------


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
    return np.asarray(n * (shares_below(samples, heldout) - 0.5) / np.sqrt(variance))


def copying_scores(evidence: Evidence) -> Scores:
    """Return each sample's part of C_T; the mean is C_T.

    Every k-means cell of the own half with more than 20 samples and a held-out image
    counts, by its share of the held-out images.
    """

    def compare(samples: np.ndarray, heldout: np.ndarray) -> Compared:
        own_cell, heldout_cell = np.asarray(evidence.own_cell), np.asarray(evidence.heldout_own_cell)
        values, weights = np.zeros(len(samples)), []
        for cell in np.unique(own_cell[~np.isnan(own_cell)]):
            mine, real = own_cell == cell, heldout_cell == cell
            if mine.sum() > MORE_THAN and real.any():
                weights.append(real.mean())
                values[mine] = weights[-1] * cell_scores(samples[mine], heldout[real])
        if not weights:
            return None, None, f"no cell has more than {MORE_THAN} samples and a held-out image"
        weight = np.array(weights)
        values *= len(samples) / weight.sum()
        sd = sqrt((weight**2).sum()) / weight.sum()
        return values, None, copying_note(float(values.mean()), sd)

    return beside_heldout(evidence, compare)


def copying_note(value: float, sd: float) -> str:
    """Return the null spread and the p of copying that goes with it."""
    p = erfc(-value / sd / sqrt(2)) / 2
    return f"standard deviation {sd:.2f} around 0 if samples are as real images; uncorrected p of copying {p:.3g}"


beside = partial(Metric, k=1, twins=("a", "b"))

NN_SHIFT = beside(
    name="nn_shift",
    question="Do samples lie nearer to the training images than real images do?",
    unit="probability",
    direction="larger means nearer than held-out images; 0.5 is alike. Blurred samples do, too: never a verdict alone",
    reference="AUC = P(d(s, own) < d(h, own)) + ties / 2, h held-out; Mann and Whitney 1947; DeLong et al. 1988",
    interval="auc",
    scores=partial(beside_heldout, compare=placements),
)
NN_MEAN_SHIFT = beside(
    name="nn_mean_shift",
    question="By how much do samples lie nearer to the training images than real images do?",
    unit="distance of the space",
    direction="larger means nearer than held-out images; 0 is alike, below 0 farther",
    reference="mean_h d(h, own) - mean_s d(s, own), h held-out",
    interval="two_sample",
    scores=partial(beside_heldout, compare=differences),
)
WASSERSTEIN_1 = beside(
    name="wasserstein_1",
    question="How different are the nearest distances of samples from those of real images?",
    unit="distance of the space",
    direction="larger means more different, nearer or farther; never 0: read it against the noise floor in the note",
    reference="W1 of d(s, own) and d(h, own), h held-out; noise floor: del Barrio, Gine and Matran 1999",
    interval="shown",
    scores=partial(beside_heldout, compare=transport),
)
NN_KL_PAPER = beside(
    name="nn_kl_paper",
    question="How different are the nearest distances of samples from those of real images, as the paper has it?",
    unit="nats",
    direction="larger means more different, nearer or farther; never 0: read it against the noise floor in the note",
    reference="KL(p || q) over 20 bins from 0 to the largest distance, clipped to [1e-8, 1]; arXiv 2603.03469",
    interval="shown",
    scores=partial(beside_heldout, compare=divergence),
)
C_T = beside(
    name="c_t",
    needs_vectors=True,
    question="Are samples nearer to the training images than real images of their kind are?",
    unit="standard normal scores",
    direction="larger means farther than held-out images (underfit), far below 0 copying",
    reference="sum_pi P(pi) Z_U(pi) / sum_pi P(pi), 3 k-means cells, P held-out; Meehan et al. 2020 (2004.05675)",
    interval="shown",
    scores=copying_scores,
)
