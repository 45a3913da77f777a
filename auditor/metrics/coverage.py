"""Share of a set with a sample within its radius."""

from functools import partial

from auditor.metrics import SETS, over_blocks
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence, role: str) -> Scores:
    """Return the scores per block of seeds; their mean is the coverage."""
    return over_blocks(evidence, role, "coverage")


def coverage_metric(role: str) -> Metric:
    """Return the metric against one set."""
    return Metric(
        name=f"coverage_{role}",
        question=f"Which share of {SETS[role]} has a sample like it?",
        unit="fraction of the set",
        direction="larger means more varied samples; it grows with their number, and copying raises it against own",
        reference="mean_x 1{min_s d(x, s) < r_5(x)}, sets of equal size; Naeem et al. 2020 (2002.09797)",
        k=5,
        twins=("a", "b"),
        interval="jackknife_share",
        scores=partial(scores, role=role),
    )


OWN, OTHER, HELDOUT = (coverage_metric(role) for role in SETS)
