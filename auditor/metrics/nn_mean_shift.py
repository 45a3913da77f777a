"""How much nearer to the training set samples lie than held-out images, on average."""

import numpy as np

from auditor.metrics import beside_heldout
from auditor.records import Evidence, Metric, Scores


def differences(samples: np.ndarray, heldout: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Return the differences from the mean of the other set, over samples and over held-out images."""
    return heldout.mean() - samples, heldout - samples.mean(), ""


def scores(evidence: Evidence) -> Scores:
    """Return mean distance of held-out images less that of each sample; the difference of means over either."""
    return beside_heldout(evidence, differences)


METRIC = Metric(
    name="nn_mean_shift",
    question="By how much do samples lie nearer to the training images than real images do?",
    unit="distance of the space",
    direction="larger means nearer than held-out images; 0 is alike, below 0 farther",
    reference="mean_h d(h, own) - mean_s d(s, own), h held-out",
    k=1,
    twins=("a", "b"),
    interval="two_sample",
    scores=scores,
)
