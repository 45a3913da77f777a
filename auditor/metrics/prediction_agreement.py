"""How alike the twins predict the noise in the same noised images (Fig. 2 of arXiv 2603.03469)."""

from functools import partial

import numpy as np

from auditor.metrics import absent
from auditor.records import Evidence, Metric, Scores

ABSENT = "no loss cells of the twins were compared"


def over_images(evidence: Evidence, role: str, column: str) -> Scores:
    """Return one number per image of a set, the mean over noise levels."""
    table = evidence.agreement.get(role)
    if table is None:
        return absent("image", ABSENT)
    return Scores("image", table.ids, getattr(table, column).mean(axis=1))


def of_training_images(evidence: Evidence) -> Scores:
    """Return the cosine on the images of both halves."""
    parts = [over_images(evidence, role, "cosine") for role in ("own", "other")]
    if not all(len(part.ids) for part in parts):
        return parts[0]
    ids = [f"{role}/{i}" for role, part in zip(("own", "other"), parts, strict=True) for i in part.ids]
    return Scores("image", np.array(ids, dtype=object), np.concatenate([part.values for part in parts]))


def agreement_metric(name: str, on: str, scores: object) -> Metric:
    """Return the cosine on one kind of images."""
    return Metric(
        name=name,
        question=f"Do the twins predict the same noise in noised {on}?",
        unit="cosine",
        direction="larger means more alike; 1 is the same. Below that on held-out images, each fits its own half",
        reference="mean over (image, t, eps) cells of cos(eps_A(x_t), eps_B(x_t)), flattened, uncentred",
        k=0,
        twins=("both",),
        interval="mean",
        scores=scores,
        per_space=False,
        needs_twin=True,
    )


HELDOUT = agreement_metric(
    "prediction_agreement_heldout", "held-out images", partial(over_images, role="heldout", column="cosine")
)
TRAIN = agreement_metric("prediction_agreement_train", "training images of either half", of_training_images)
VARIANCE = Metric(
    name="prediction_variance",
    question="How much do the predictions depend on which half was trained on, or on the seed?",
    unit="squared noise per pixel",
    direction="larger means more dependent; 0 if both networks are the same function on held-out images",
    reference="1/2 mean ||eps_A - eps_B||^2 / d over cells of held-out images: the variance over trainings",
    k=0,
    twins=("both",),
    interval="mean",
    scores=partial(over_images, role="heldout", column="half_squared"),
    per_space=False,
    needs_twin=True,
)
