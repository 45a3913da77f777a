"""How alike the twins predict the noise in the same noised images (Fig. 2 of arXiv 2603.03469)."""

from functools import partial

import numpy as np

from auditor.metrics import absent
from auditor.records import Evidence, Metric, Scores

ABSENT = "no loss cells of the twins were compared"
SAME_DATA = "no second training on the same half was given (--ckpts-a2), or no held-out images"


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


def parts(evidence: Evidence, of_data: bool) -> Scores:
    """Return the variance between trainings on the same images per held-out image, or the twins' beyond it."""
    whole, same = over_images(evidence, "heldout", "half_squared"), evidence.same_data_agreement
    if not len(whole.ids):
        return whole
    if same is None:
        return absent("image", SAME_DATA)
    seed = same.half_squared.mean(axis=1)
    return Scores("image", whole.ids, whole.values - seed if of_data else seed)


def part_metric(name: str, question: str, direction: str, reference: str, of_data: bool) -> Metric:
    """Return one part of the variance of the predictions."""
    return Metric(
        name=name,
        question=question,
        unit="squared noise per pixel",
        direction=direction,
        reference=reference,
        k=0,
        twins=("both",),
        interval="mean",
        scores=partial(parts, of_data=of_data),
        per_space=False,
        needs_twin=True,
    )


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
VARIANCE_SEED = part_metric(
    "prediction_variance_seed",
    "How much do the predictions differ between trainings on the same images?",
    "larger means that predictions depend more on initialisation and batch order",
    "1/2 mean ||eps_A - eps_A2||^2 / d over cells of held-out images, A2 a second training on half a",
    of_data=False,
)
VARIANCE_DATA = part_metric(
    "prediction_variance_data",
    "How much of the predictions' variance comes from which half was trained on?",
    "larger means that predictions depend more on the training images; 0 if the halves do not matter",
    "prediction_variance - prediction_variance_seed, images paired; negative values are chance",
    of_data=True,
)
