"""Mean distance to the nearest training image: of samples in both halves, and of real images, its yardstick."""

from functools import partial

import numpy as np

from auditor.metrics import SETS, by_rule, over_classed_seeds, sides
from auditor.records import Evidence, Metric, Scores


def first(near: np.ndarray) -> np.ndarray:
    """Return the distance to the nearest image, of distances ``[n, 8]``."""
    return near[:, 0]


def scores_in_class(evidence: Evidence, role: str) -> Scores:
    """Return the distance to the nearest image of the sample's class, one per seed."""
    return over_classed_seeds(evidence, getattr(evidence, f"{role}_in_class"))


distance = partial(Metric, unit="distance of the space", k=1, twins=("a", "b"), interval="mean")
own_samples, own_heldout = sides(first, "own")


def in_class(role: str) -> Metric:
    """Return the metric of the own or the other half within the class of a sample."""
    return distance(
        name=f"nearest_{role}_in_class",
        question=f"How near do samples come to {SETS[role]} of their class?",
        direction=f"larger means farther from {SETS[role]} of the class; read own beside other",
        reference="mean_s min_i d(g_s, x_i) over images of the sample's class, of each class as many of either half",
        scores=partial(scores_in_class, role=role),
        needs_twin=True,
    )


NEAREST_OWN = distance(
    name="nearest_own",
    question="How near do samples come to the images their model was trained on?",
    direction="larger means farther from the own training set; read it beside nearest_other",
    reference="mean_s min_{x in own} d(g_s, x)",
    scores=own_samples,
)
NEAREST_OTHER = distance(
    name="nearest_other",
    question="How near do samples come to images of the same kind that their model never saw?",
    direction="larger means farther from the other training set",
    reference="mean_s min_{x in other} d(g_s, x)",
    scores=partial(by_rule, rule=first, names=("other",)),
    needs_twin=True,
)
NEAREST_HELDOUT = distance(
    name="nearest_heldout",
    question="How near do real images that were not trained on lie to the training set?",
    direction="larger means a sparser training set; the yardstick of nearest_own",
    reference="mean_h min_{x in own} d(h, x), h held-out",
    scores=own_heldout,
)
NEAREST_OWN_IN_CLASS, NEAREST_OTHER_IN_CLASS = in_class("own"), in_class("other")
