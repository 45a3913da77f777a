"""Kernel distance between samples and held-out images: quality, so that "safe" is not bought by "bad"."""

import numpy as np

from auditor.metrics import ABSENT_HELDOUT, absent, over_seeds
from auditor.records import Evidence, Metric, Scores

BLOCK = 1024  # rows of a kernel matrix held at once


def kernel_means(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the mean over y of k(x_i, y_j) = (x_i . y_j / d + 1)^3 for every x_i, float64 ``[n]``."""
    d = x.shape[1]
    blocks = [
        ((x[i : i + BLOCK].astype(float) @ y.T.astype(float) / d + 1) ** 3).mean(1) for i in range(0, len(x), BLOCK)
    ]
    return np.concatenate(blocks)


def kernel_self(x: np.ndarray) -> np.ndarray:
    """Return k(x_i, x_i), float64 ``[n]``."""
    return np.asarray(((x.astype(float) ** 2).sum(1) / x.shape[1] + 1) ** 3)


def without_self(x: np.ndarray) -> np.ndarray:
    """Return the mean of k(x_i, x_j) over j != i, float64 ``[n]``."""
    return np.asarray((kernel_means(x, x) * len(x) - kernel_self(x)) / (len(x) - 1))


def heldout_scale(heldout: np.ndarray) -> float:
    """Return the root mean square of held-out features, which gives the kernel the same meaning in every space."""
    return float(np.sqrt((heldout.astype(float) ** 2).mean()))


def heldout_term(heldout: np.ndarray) -> float:
    """Return the mean kernel between different held-out images: the same for all checkpoints, and the slowest part."""
    return float(without_self(heldout / heldout_scale(heldout)).mean()) if len(heldout) > 1 else float("nan")


def seed_scores(samples: np.ndarray, heldout: np.ndarray, term: float | None = None) -> np.ndarray:
    """Return one score per seed whose mean is the unbiased squared MMD (KID).

    The scores are the U-statistic's linear part, KID + 2 (a_s - mean a) - 2 (b_s - mean b),
    a_s the mean kernel to the other samples, b_s to the held-out images; their spread is
    that of the estimate over seeds. ``term`` is ``heldout_term(heldout)`` where it is known.
    """
    if len(samples) < 2 or len(heldout) < 2:
        return np.full(len(samples), np.nan)
    scale = heldout_scale(heldout)
    x, y = samples / scale, heldout / scale
    a, b = without_self(x), kernel_means(x, y)
    kid = a.mean() + (heldout_term(heldout) if term is None else term) - 2 * b.mean()
    return np.asarray(kid + 2 * (a - a.mean()) - 2 * (b - b.mean()))


def scores(evidence: Evidence) -> Scores:
    """Return the linearized per-seed scores."""
    if evidence.kid_scores is None:
        return absent("seed", ABSENT_HELDOUT)
    return over_seeds(evidence, evidence.kid_scores)


KID = Metric(
    name="kid",
    needs_vectors=True,
    question="How far is the distribution of the samples from that of held-out images?",
    unit="squared kernel distance",
    direction="larger means worse samples; about 0 is as good as real images",
    reference="unbiased MMD^2 with (x.y/d + 1)^3 over all samples; Binkowski et al. 2018 (arXiv 1801.01401)",
    k=0,
    twins=("a", "b", "both"),
    interval="mean",
    scores=scores,
)
