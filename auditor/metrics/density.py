"""How many images of a set have a sample within their radius, per sample and neighbor."""

from functools import partial

from auditor.metrics import SETS, over_blocks
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence, role: str) -> Scores:
    """Return the scores per block of seeds; their mean is the density."""
    return over_blocks(evidence, role, "density")


def density_metric(role: str) -> Metric:
    """Return the metric against one set."""
    return Metric(
        name=f"density_{role}",
        question=f"How densely do samples lie among {SETS[role]}?",
        unit="expected count",
        direction="larger means more typical samples; about 1 for real images, above it for prototypes",
        reference="1/5 mean_s #{x: d(s, x) < r_5(x)}, sets of equal size; Naeem et al. 2020 (2002.09797)",
        k=5,
        twins=("a", "b"),
        interval="jackknife",
        scores=partial(scores, role=role),
    )


OWN, OTHER, HELDOUT = (density_metric(role) for role in SETS)
