"""Whether the twins disagree where the training target is noisy, or where one image stands alone (arXiv 2504.12532).

The target of denoising is a noisy stand-in for the score; its covariance at a noised picture is that
of the empirical posterior. Networks that smooth over it differ by chance, and most where it is
large. Networks that memorize differ most where it is nearly zero: where one training image alone
explains the picture.
"""

import numpy as np

from auditor.metrics import absent
from auditor.records import Agreement, Evidence, Metric, Scores

ALONE = 1.5  # images that share the posterior, below which one of them stands alone
ABSENT = "no loss cells of the twins were compared on held-out images, or no training images are known"


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
    """Return linearised scores of the correlation over cells, one per image; their mean is the correlation."""
    found = at_cells(evidence)
    if found is None:
        return absent("image", ABSENT)
    table, apart, spread, _ = found
    products, squares, spreads = ((x * y).sum(axis=1) for x, y in ((apart, spread), (apart, apart), (spread, spread)))
    scale = np.sqrt(squares.sum() * spreads.sum())
    if scale == 0:
        return Scores("image", table.ids, np.full(len(table.ids), np.nan), "disagreement or target noise is constant")
    r = products.sum() / scale
    influence = products / scale - r / 2 * (squares / squares.sum() + spreads / spreads.sum())
    return Scores("image", table.ids, r + len(table.ids) * influence)


def excess_alone(evidence: Evidence) -> Scores:
    """Return linearised scores of the mean residual where one image stands alone, over the mean disagreement."""
    found = at_cells(evidence)
    if found is None:
        return absent("image", ABSENT)
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


CORRELATION = Metric(
    name="target_noise_correlation",
    question="Do the twins disagree where the training target is noisy?",
    unit="correlation",
    direction="larger means that disagreement goes with target noise, as networks that smooth have it; 0 or below: not",
    reference="Pearson r over held-out cells, within noise levels, of 1/2 ||eps_A - eps_B||^2 and "
    "alpha^2 / sigma^2 Var[x_0 | x_t] of the empirical posteriors (arXiv 2504.12532)",
    k=0,
    twins=("both",),
    interval="mean",
    scores=correlation,
    per_space=False,
    needs_twin=True,
)

ALONE_EXCESS = Metric(
    name="lone_disagreement",
    question="Do the twins disagree more than target noise explains where one training image stands alone?",
    unit="fraction of the mean disagreement",
    direction="larger means that disagreement gathers where one image holds a posterior, as memorizing does; 0 is none",
    reference="mean residual of the regression on target noise over held-out cells with n_eff < 1.5 in either half, "
    "over the mean disagreement",
    k=0,
    twins=("both",),
    interval="mean",
    scores=excess_alone,
    per_space=False,
    needs_twin=True,
)
