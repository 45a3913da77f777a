"""How often a sample lies nearer to the training set than a held-out image does."""

import numpy as np

from auditor.metrics import beside_heldout, shares_below
from auditor.records import Evidence, Metric, Scores


def placements(samples: np.ndarray, heldout: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Return the share of held-out images farther than each sample, and of samples nearer than each held-out image."""
    return 1 - shares_below(samples, heldout), shares_below(heldout, samples), ""


def scores(evidence: Evidence) -> Scores:
    """Return placement values over seeds and over held-out images; the mean of either is the AUC."""
    return beside_heldout(evidence, placements)


METRIC = Metric(
    name="nn_shift",
    question="Do samples lie nearer to the training images than real images do?",
    unit="probability",
    direction="larger means nearer than held-out images; 0.5 is alike. Blurred samples do, too: never a verdict alone",
    reference="AUC = P(d(s, own) < d(h, own)) + ties / 2, h held-out; Mann and Whitney 1947; DeLong et al. 1988",
    k=1,
    twins=("a", "b"),
    interval="auc",
    scores=scores,
)
