"""Mean distance from held-out images to their nearest own training image: how near real images lie by chance."""

from auditor.metrics import over_heldout
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return the distance from each held-out image to the nearest training image of this twin."""
    return over_heldout(evidence, None if evidence.heldout_own is None else evidence.heldout_own[:, 0])


METRIC = Metric(
    name="nearest_heldout",
    question="How near do real images that were not trained on lie to the training set?",
    unit="distance of the space",
    direction="larger means a sparser training set; the yardstick of nearest_own",
    reference="mean_h min_{x in own} d(h, x), h held-out",
    k=1,
    twins=("a", "b"),
    interval="mean",
    scores=scores,
)
