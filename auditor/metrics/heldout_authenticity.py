"""The authenticity of real held-out images: what it is for samples that copy nothing."""

from auditor.metrics import over_heldout
from auditor.metrics.authenticity import authentic
from auditor.records import Evidence, Metric, Scores


def scores(evidence: Evidence) -> Scores:
    """Return 100 for an authentic held-out image, else 0."""
    if evidence.heldout_own is None:
        return over_heldout(evidence, None)
    return over_heldout(evidence, authentic(evidence.heldout_own[:, 0], evidence.heldout_own_spacing))


METRIC = Metric(
    name="heldout_authenticity",
    question="How many real images are no nearer to a training image than training images are to one another?",
    unit="percent",
    direction="larger means a sparser training set; the control of authenticity",
    reference="100 mean_h 1{d(h, x) > min d(x, x')}, x nearest to h, x' no duplicate of x, h held-out",
    k=1,
    twins=("a", "b"),
    interval="percent",
    scores=scores,
)
