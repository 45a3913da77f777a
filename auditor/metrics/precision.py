"""Share of samples inside the manifold of a set: within the radius of one of its images."""

from functools import partial

from auditor.metrics import SETS, over_blocks
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence, role: str) -> Scores:
    """Return the scores per block of seeds; their mean is the precision."""
    return over_blocks(evidence, role, "precision")


def precision_metric(role: str) -> Metric:
    """Return the metric against one set."""
    return Metric(
        name=f"precision_{role}",
        question=f"Which share of samples looks like {SETS[role]}?",
        unit="fraction of the samples",
        direction="larger means more plausible samples; copying raises it against own, so read it against held-out",
        reference="mean_s 1{exists x: d(s, x) < r_5(x)}, sets of equal size; Kynkaanniemi et al. 2019 (1904.06991)",
        k=5,
        twins=("a", "b"),
        interval="jackknife_share",
        scores=partial(scores, role=role),
    )


OWN, OTHER, HELDOUT = (precision_metric(role) for role in SETS)
