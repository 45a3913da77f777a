"""Mean distance from samples to the nearest own, or other, training image of their class."""

from functools import partial

from auditor.metrics import SETS, over_classed_seeds
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence, role: str) -> Scores:
    """Return the distance to the nearest image of the sample's class, one per seed."""
    return over_classed_seeds(evidence, getattr(evidence, f"{role}_in_class"))


def nearest_metric(role: str) -> Metric:
    """Return the metric of the own or the other half."""
    return Metric(
        name=f"nearest_{role}_in_class",
        question=f"How near do samples come to {SETS[role]} of their class?",
        unit="distance of the space",
        direction=f"larger means farther from {SETS[role]} of the class; read own beside other",
        reference="mean_s min_i d(g_s, x_i) over images of the sample's class, of each class as many of either half",
        k=1,
        twins=("a", "b"),
        interval="mean",
        scores=partial(scores, role=role),
        needs_twin=True,
    )


OWN, OTHER = nearest_metric("own"), nearest_metric("other")
