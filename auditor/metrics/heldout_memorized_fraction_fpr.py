"""The rate at which the rule of --fpr flags the held-out images that did not set it."""

import numpy as np

from auditor.metrics import over_heldout, with_ratio
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return 1 for a held-out image of the second fold that the rule would call a copy, else 0."""
    if evidence.heldout_own is None:
        return over_heldout(evidence, None)
    found = with_ratio(over_heldout, evidence, evidence.heldout_own[:, 0], evidence.heldout_own_outside)
    if evidence.heldout_judged is None:
        return found
    kept = np.flatnonzero(evidence.heldout_judged)
    return Scores(found.unit, found.ids[kept], found.values[kept], found.note)


METRIC = Metric(
    name="heldout_memorized_fraction_fpr",
    question="How often does the rule of --fpr flag real images that did not set its threshold?",
    unit="share",
    direction="larger means a less specific rule; near --fpr where both folds are alike",
    reference="mean_h 1{d1 = 0 or d1 < c d2}, h the held-out images of the other fold (docs/statistics.md 4.1)",
    k=8,
    twins=("a", "b"),
    interval="proportion",
    scores=scores,
)
