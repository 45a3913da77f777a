"""How far a network has gone towards the denoiser that only memorizes its half, and when that takes hold.

Both are of arXiv 2510.01378.
"""

from functools import partial

import numpy as np

from auditor.metrics import absent, network_metric
from auditor.records import Evidence, Metric, Scores

NO_CELLS = "no loss cells of the twins were compared, or no training images are known"
NO_TRAJECTORIES = "no trajectories were followed (--trajectories), or no training images are known"
HELD = 0.99  # weight of one image in the posterior from which on it holds it


def share(evidence: Evidence, role: str) -> Scores:
    """Return linearized scores of the ratio sum(along) / sum(reach), one per image; their mean is lambda."""
    table, unit = evidence.agreement.get(role), "image" if role in ("own", "heldout") else "trajectory"
    if table is None or not np.isfinite(table.reach).all():
        return absent(unit, NO_CELLS if unit == "image" else NO_TRAJECTORIES)
    along, reach = table.along.mean(axis=1), table.reach.mean(axis=1)
    if reach.mean() == 0:
        return Scores(unit, table.ids, np.full(len(along), np.nan), "the memorizer predicts what the twin does")
    value = along.mean() / reach.mean()
    return Scores(unit, table.ids, value + (along - value * reach) / reach.mean())


def collapse(evidence: Evidence) -> Scores:
    """Return per seed the largest time at which one training image has more than .99 of the posterior; 0 if at none."""
    table = evidence.agreement.get("trajectory")
    if table is None or not np.isfinite(table.largest).all():
        return absent("trajectory", NO_TRAJECTORIES)
    return Scores("trajectory", table.ids, np.where(table.largest > HELD, table.times, 0).max(axis=1).astype(float))


def share_metric(role: str, on: str) -> Metric:
    """Return the metric on one set."""
    return network_metric(
        name=f"memorizer_share_{role}",
        question=f"How near are the predictions on {on} to those of a network that only memorized?",
        unit="fraction of the way",
        direction="larger means nearer to the memorizer of the own half than the twin is: 0 no nearer, 1 the memorizer",
        reference="sum <f - g, m - g> / sum ||m - g||^2 over cells; f model, g twin, m empirical denoiser of its half",
        twins=("a", "b", "both"),
        scores=partial(share, role=role),
    )


MEMORIZER_SHARE_OWN = share_metric("own", "the images it was trained on")
MEMORIZER_SHARE_HELDOUT = share_metric("heldout", "held-out images")
MEMORIZER_SHARE_TRAJECTORY = share_metric("trajectory", "the states of its own sampling")
MEMORIZER_SHARE_SAMPLES = share_metric("samples", "its own samples, noised again")
COLLAPSE_TIME = network_metric(
    name="collapse_time",
    question="From which noise on does one training image alone explain where sampling is?",
    unit="training time steps",
    direction="larger means earlier on the way from noise to a sample; a property of the trajectories, not of copying",
    reference="per seed the largest t with max_i w_i > .99 in the posterior over the own half, at the state there",
    twins=("a", "b", "both"),
    scores=collapse,
)
