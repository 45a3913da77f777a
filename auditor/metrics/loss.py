"""Denoising loss on own training, other training and held-out images, at cells shared by all checkpoints."""

from collections.abc import Callable

import numpy as np

from auditor.metrics import SETS, absent
from auditor.records import Evidence, Metric, Scores, other_twin


def scores_on(role: str) -> Callable[[Evidence], Scores]:
    """Return the function that gives the loss per image of one set, averaged over noise levels."""

    def scores(evidence: Evidence) -> Scores:
        table = evidence.losses.get(role)
        if table is None:
            return absent("image", f"no loss was measured on {SETS[role]}")
        half = {"own": evidence.twin, "other": other_twin(evidence.twin), "heldout": "heldout"}[role]
        ids = np.array([f"{half}/{i}" for i in table.ids], dtype=object)  # halves may use the same file names
        return Scores("image", ids, table.means)

    return scores


def loss_metric(role: str) -> Metric:
    """Return the metric of the denoising loss on one set."""
    return Metric(
        name=f"loss_{role}",
        question=f"How well does the model denoise {SETS[role]}?",
        unit="squared error per pixel",
        direction="larger means a worse denoiser; the image is the unit, averaged over its cells first",
        reference="mean over (image, t, eps) cells of ||f(x_t, t) - target||^2 / dim, unweighted (docs/metrics.md)",
        k=0,
        twins=("a", "b", "both"),
        interval="mean",
        scores=scores_on(role),
        per_space=False,
        needs_twin=role == "other",
    )


OWN, OTHER, HELDOUT = (loss_metric(role) for role in ("own", "other", "heldout"))
