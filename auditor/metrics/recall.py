"""Share of a set inside the manifold of the samples: within the radius of one of them."""

from functools import partial

from auditor.metrics import SETS, over_blocks
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence, role: str) -> Scores:
    """Return the scores per block of seeds; their mean is the recall."""
    return over_blocks(evidence, role, "recall")


def recall_metric(role: str) -> Metric:
    """Return the metric against one set."""
    return Metric(
        name=f"recall_{role}",
        question=f"Which share of {SETS[role]} could the model have drawn?",
        unit="fraction of the set",
        direction="larger means more varied samples",
        reference="mean_x 1{exists s: d(x, s) < r_5(s)}, sets of equal size; Kynkaanniemi et al. 2019 (1904.06991)",
        k=5,
        twins=("a", "b"),
        interval="jackknife_share",
        scores=partial(scores, role=role),
    )


OWN, OTHER, HELDOUT = (recall_metric(role) for role in SETS)
