"""How far a network has gone from its twin towards the denoiser that only memorizes its half (arXiv 2510.01378)."""

from functools import partial

import numpy as np

from auditor.metrics import absent
from auditor.records import Evidence, Metric, Scores

NO_CELLS = "no loss cells of the twins were compared, or no training images are known"
NO_TRAJECTORIES = "no trajectories were followed (--trajectories), or no training images are known"


def scores(evidence: Evidence, role: str) -> Scores:
    """Return linearised scores of the ratio sum(along) / sum(reach), one per image; their mean is lambda."""
    table, unit = evidence.agreement.get(role), "image" if role in ("own", "heldout") else "trajectory"
    if table is None or not np.isfinite(table.reach).all():
        return absent(unit, NO_CELLS if unit == "image" else NO_TRAJECTORIES)
    along, reach = table.along.mean(axis=1), table.reach.mean(axis=1)
    if reach.mean() == 0:
        return Scores(unit, table.ids, np.full(len(along), np.nan), "the memorizer predicts what the twin does")
    share = along.mean() / reach.mean()
    return Scores(unit, table.ids, share + (along - share * reach) / reach.mean())


def share_metric(role: str, on: str) -> Metric:
    """Return the metric on one set."""
    return Metric(
        name=f"memorizer_share_{role}",
        question=f"How near are the predictions on {on} to those of a network that only memorized?",
        unit="fraction of the way",
        direction="larger means nearer to the memorizer of the own half than the twin is: 0 no nearer, 1 the memorizer",
        reference="sum <f - g, m - g> / sum ||m - g||^2 over cells; f model, g twin, m empirical denoiser of its half",
        k=0,
        twins=("a", "b", "both"),
        interval="mean",
        scores=partial(scores, role=role),
        per_space=False,
        needs_twin=True,
    )


OWN = share_metric("own", "the images it was trained on")
HELDOUT = share_metric("heldout", "held-out images")
TRAJECTORY = share_metric("trajectory", "the states of its own sampling")
SAMPLES = share_metric("samples", "its own samples, noised again")
