"""How alike the twins predict the noise in the same noised images, and where they differ.

Agreement is Fig. 2 of arXiv 2603.03469. Where the twins differ is asked after arXiv 2504.12532: the target of denoising
is a noisy stand-in for the score; its covariance at a noised picture is that of the empirical posterior. Networks that
smooth over it differ by chance, and most where it is large. Networks that memorize differ most where it is nearly zero:
where one training image alone explains the picture.
"""

from functools import partial

import numpy as np

from auditor.metrics import absent, network_metric
from auditor.records import Agreement, Evidence, Scores

ALONE = 1.5  # images that share the posterior, below which one of them stands alone
NO_CELLS = "no loss cells of the twins were compared"
NO_POSTERIOR = "no loss cells of the twins were compared on held-out images, or no training images are known"
SAME_DATA = "no second training on the same half was given (--ckpts-a2), or no held-out images"

# ---------------------------------------------------------------------------
# Agreement and variance
# ---------------------------------------------------------------------------


def over_images(evidence: Evidence, role: str, column: str) -> Scores:
    """Return one number per image of a set, the mean over noise levels."""
    table = evidence.agreement.get(role)
    if table is None:
        return absent("image", NO_CELLS)
    return Scores("image", table.ids, getattr(table, column).mean(axis=1))


def of_training_images(evidence: Evidence) -> Scores:
    """Return the cosine on the images of both halves."""
    parts = [over_images(evidence, role, "cosine") for role in ("own", "other")]
    if not all(len(part.ids) for part in parts):
        return parts[0]
    ids = [f"{role}/{i}" for role, part in zip(("own", "other"), parts, strict=True) for i in part.ids]
    return Scores("image", np.array(ids, dtype=object), np.concatenate([part.values for part in parts]))


def variance_part(evidence: Evidence, of_data: bool) -> Scores:
    """Return the variance between trainings on the same images per held-out image, or the twins' beyond it."""
    whole, same = over_images(evidence, "heldout", "half_squared"), evidence.same_data_agreement
    if not len(whole.ids):
        return whole
    if same is None:
        return absent("image", SAME_DATA)
    seed = same.half_squared.mean(axis=1)
    return Scores("image", whole.ids, whole.values - seed if of_data else seed)


compared = partial(network_metric, twins=("both",))
agreement = partial(
    compared,
    unit="cosine",
    direction="larger means more alike; 1 is the same. Below that on held-out images, each fits its own half",
    reference="mean over (image, t, eps) cells of cos(eps_A(x_t), eps_B(x_t)), flattened, uncentred",
)
variance = partial(compared, unit="squared noise per pixel")

PREDICTION_AGREEMENT_HELDOUT = agreement(
    name="prediction_agreement_heldout",
    question="Do the twins predict the same noise in noised held-out images?",
    scores=partial(over_images, role="heldout", column="cosine"),
)
PREDICTION_AGREEMENT_TRAIN = agreement(
    name="prediction_agreement_train",
    question="Do the twins predict the same noise in noised training images of either half?",
    scores=of_training_images,
)
PREDICTION_VARIANCE = variance(
    name="prediction_variance",
    question="How much do the predictions depend on which half was trained on, or on the seed?",
    direction="larger means more dependent; 0 if both networks are the same function on held-out images",
    reference="1/2 mean ||eps_A - eps_B||^2 / d over cells of held-out images: the variance over trainings",
    scores=partial(over_images, role="heldout", column="half_squared"),
)
PREDICTION_VARIANCE_SEED = variance(
    name="prediction_variance_seed",
    question="How much do the predictions differ between trainings on the same images?",
    direction="larger means that predictions depend more on initialisation and batch order",
    reference="1/2 mean ||eps_A - eps_A2||^2 / d over cells of held-out images, A2 a second training on half a",
    scores=partial(variance_part, of_data=False),
)
PREDICTION_VARIANCE_DATA = variance(
    name="prediction_variance_data",
    question="How much of the predictions' variance comes from which half was trained on?",
    direction="larger means that predictions depend more on the training images; 0 if the halves do not matter",
    reference="prediction_variance - prediction_variance_seed, images paired; negative values are chance",
    scores=partial(variance_part, of_data=True),
)

# ---------------------------------------------------------------------------
# Where the target is noisy, and where one image stands alone
# ---------------------------------------------------------------------------


def at_cells(evidence: Evidence) -> tuple[Agreement, np.ndarray, np.ndarray, np.ndarray] | None:
    """Return the held-out cells, and both quantities less their mean at each noise level, ``[n_images, n_levels]``.

    First the disagreement 1/2 ||eps_A - eps_B||^2 / d, then the target's noise: the trace of its
    covariance, alpha^2 / sigma^2 Var[x_0 | x_t] per pixel, mean of both halves; at last the mean disagreement.
    """
    mine, twins = evidence.agreement.get("heldout"), evidence.twin_agreement.get("heldout")
    if mine is None or twins is None or not known(mine, twins):
        return None
    spread = (mine.spread + twins.spread) / 2
    apart = mine.half_squared
    return mine, apart - apart.mean(axis=0), spread - spread.mean(axis=0), apart.mean()


def known(mine: Agreement, twins: Agreement) -> bool:
    """Return whether everything that is compared is known at all cells."""
    return bool(np.isfinite(mine.spread + twins.spread + mine.half_squared + mine.sharing + twins.sharing).all())


def correlation(evidence: Evidence) -> Scores:
    """Return linearized scores of the correlation over cells, one per image; their mean is the correlation."""
    found = at_cells(evidence)
    if found is None:
        return absent("image", NO_POSTERIOR)
    table, apart, spread, _ = found
    products, squares, spreads = ((x * y).sum(axis=1) for x, y in ((apart, spread), (apart, apart), (spread, spread)))
    scale = np.sqrt(squares.sum() * spreads.sum())
    if scale == 0:
        return Scores("image", table.ids, np.full(len(table.ids), np.nan), "disagreement or target noise is constant")
    r = products.sum() / scale
    influence = products / scale - r / 2 * (squares / squares.sum() + spreads / spreads.sum())
    return Scores("image", table.ids, r + len(table.ids) * influence)


def excess_alone(evidence: Evidence) -> Scores:
    """Return linearized scores of the mean residual where one image stands alone, over the mean disagreement."""
    found = at_cells(evidence)
    if found is None:
        return absent("image", NO_POSTERIOR)
    table, apart, spread, mean = found
    twins = evidence.twin_agreement["heldout"]
    alone = np.minimum(table.sharing, twins.sharing) < ALONE
    mixed = alone.any(axis=0) & ~alone.all(axis=0)  # noise levels at which some pictures have such an image
    if not mixed.any() or mean == 0:
        why = "at no noise level do some pictures have one training image alone, and others not"
        return Scores("image", table.ids, np.full(len(table.ids), np.nan), why)
    total = np.square(spread).sum()
    residual = apart - (spread * apart).sum() / total * spread if total > 0 else apart
    residual, alone = residual[:, mixed], alone[:, mixed]
    above, below = (residual * alone).sum(axis=1) / mean, alone.sum(axis=1)
    ratio = above.sum() / below.sum()
    return Scores("image", table.ids, ratio + (above - ratio * below) / below.mean())


TARGET_NOISE_CORRELATION = compared(
    name="target_noise_correlation",
    question="Do the twins disagree where the training target is noisy?",
    unit="correlation",
    direction="larger means that disagreement goes with target noise, as networks that smooth have it; 0 or below: not",
    reference="Pearson r over held-out cells, within noise levels, of 1/2 ||eps_A - eps_B||^2 and "
    "alpha^2 / sigma^2 Var[x_0 | x_t] of the empirical posteriors (arXiv 2504.12532)",
    scores=correlation,
)
LONE_DISAGREEMENT = compared(
    name="lone_disagreement",
    question="Do the twins disagree more than target noise explains where one training image stands alone?",
    unit="fraction of the mean disagreement",
    direction="larger means that disagreement gathers where one image holds a posterior, as memorizing does; 0 is none",
    reference="mean residual of the regression on target noise over held-out cells with n_eff < 1.5 in either half, "
    "over the mean disagreement",
    scores=excess_alone,
)
