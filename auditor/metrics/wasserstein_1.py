"""How far the nearest distances of samples are from those of held-out images, whatever the direction."""

import numpy as np

from auditor.metrics import beside_heldout
from auditor.records import Evidence, Metric, Scores


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


def scores(evidence: Evidence) -> Scores:
    """Return each sample's share of the transport; the mean is the distance."""
    return beside_heldout(evidence, transport)


METRIC = Metric(
    name="wasserstein_1",
    question="How different are the nearest distances of samples from those of real images?",
    unit="distance of the space",
    direction="larger means more different, nearer or farther; never 0: read it against the noise floor in the note",
    reference="W1 of d(s, own) and d(h, own), h held-out; noise floor: del Barrio, Gine and Matran 1999",
    k=1,
    twins=("a", "b"),
    interval="shown",
    scores=scores,
)
