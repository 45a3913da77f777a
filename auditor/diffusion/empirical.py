"""The empirical denoiser of a training set: what a network that only memorized would predict (arXiv 2510.01378).

For z = alpha x_0 + sigma eps with x_0 uniform over the training images x_1 ... x_n, the
posterior over them is exact: w_i = softmax_i(-||z - alpha x_i||^2 / (2 sigma^2)). Its mean is
the best denoiser on the training set, and no other reaches its loss there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

EXACT = 100_000  # images up to which the sum runs over all of them
NEAREST = 4096  # images that it runs over beyond
AT_ONCE = 4096  # images per block of the sum


@dataclass(frozen=True)
class Posterior:
    """What the training set says of noised images z, one row each; float64 tensors on the device of z."""

    mean: torch.Tensor  # [m, d], E[x_0 | z]: the empirical denoiser
    variance: torch.Tensor  # [m], trace of Cov[x_0 | z] over d: per pixel, in squared units of x
    n_effective: torch.Tensor  # [m], exp of the entropy of w: how many images share the weight; 1 = one image alone
    largest: torch.Tensor  # [m] in (0, 1], weight of the likeliest image
    omitted: torch.Tensor  # [m] in [0, 1], bound on the weight of images that were left out; 0 where none were
    shell: torch.Tensor  # [m], r*: of all ||z - alpha x_i|| / (sigma sqrt d) the one nearest to 1, where noised x_i lie


def posterior(
    z: torch.Tensor, alpha: float, sigma: float, images: torch.Tensor, nearest: int | None = None
) -> Posterior:
    """Return the posterior over training images given noised ones.

    Parameters
    ----------
    z
        ``[m, d]``, noised images; alpha x_0 + sigma eps with sigma > 0.
    images
        ``[n, d]``, the training images in the same units as x_0.
    nearest
        Sum over this many likeliest images only; None means all up to ``EXACT``, and
        ``NEAREST`` of more. ``omitted`` then bounds what is missing: n - k images, each
        less likely than the k-th.
    """
    import torch

    z, images = z.double(), images.double()
    if nearest is None and len(images) > EXACT:
        nearest = NEAREST
    shell = Shell(z, sigma)
    if nearest is None or nearest >= len(images):
        return replace(summed(blocks(z, alpha, sigma, images, shell)), shell=shell.nearest)
    values, rows = likeliest(z, alpha, sigma, images, nearest, shell)
    left = len(images) - nearest
    omitted = left * torch.exp(values[:, -1] - torch.logsumexp(values, dim=1))
    return replace(summed([(values, images[rows])]), omitted=omitted.clamp(max=1.0), shell=shell.nearest)


class Shell:
    """r* as the sum goes over blocks of images: how far z is from the nearest shell on which noised images lie.

    1 on a shell; noised images of the set itself lie within about 1 / sqrt(2 d) of it. Larger
    than 1: outside of all shells, where no training ever supervised the network.
    """

    def __init__(self, z: torch.Tensor, sigma: float) -> None:
        self.squared, self.sigma, self.d = z.square().sum(1, keepdim=True), sigma, z.shape[1]
        self.nearest: torch.Tensor | None = None

    def add(self, log_likelihoods: torch.Tensor) -> None:
        """Take the log likelihoods of z under a block of images, ``[m, n]``."""
        import torch

        distances = (self.squared - 2 * self.sigma**2 * log_likelihoods).clamp(min=0) / (self.sigma**2 * self.d)
        r = distances.sqrt()
        found = r.gather(1, (r - 1).abs().argmin(1, keepdim=True))[:, 0]
        old = found if self.nearest is None else self.nearest
        self.nearest = torch.where((found - 1).abs() < (old - 1).abs(), found, old)


def log_likelihood(z: torch.Tensor, alpha: float, sigma: float, images: torch.Tensor) -> torch.Tensor:
    """Return ln p(z | x_i) up to what does not depend on i, ``[m, n]``."""
    return (alpha * (z @ images.T) - alpha**2 / 2 * images.square().sum(1)) / sigma**2


def blocks(
    z: torch.Tensor, alpha: float, sigma: float, images: torch.Tensor, shell: Shell
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield log likelihoods and images, a block of the training set at a time; the shell is told of each."""
    for start in range(0, len(images), AT_ONCE):
        block = images[start : start + AT_ONCE]
        found = log_likelihood(z, alpha, sigma, block)
        shell.add(found)
        yield found, block


def likeliest(
    z: torch.Tensor, alpha: float, sigma: float, images: torch.Tensor, k: int, shell: Shell
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the k largest log likelihoods, descending, and their images' rows, both ``[m, k]``."""
    import torch

    values = torch.empty((len(z), 0), dtype=z.dtype, device=z.device)
    rows = torch.empty((len(z), 0), dtype=torch.long, device=z.device)
    at = 0
    for found, block in blocks(z, alpha, sigma, images, shell):
        index = torch.arange(at, at := at + len(block), device=z.device).expand_as(found)
        values, rows = torch.cat([values, found], dim=1), torch.cat([rows, index], dim=1)
        values, order = values.topk(min(k, values.shape[1]), dim=1)
        rows = rows.gather(1, order)
    return values, rows


def summed(parts: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Posterior:
    """Return the posterior from log likelihoods ``[m, n]`` and images ``[n, d]`` or ``[m, n, d]``, in blocks.

    All sums run relative to the largest log likelihood met so far, so none overflows.
    """
    import torch

    top: torch.Tensor | None = None
    total: Any = None  # sums of weights, weighted images, weighted squares, weighted log likelihoods
    for values, images in parts:
        peak = values.max(dim=1).values
        new = peak if top is None else torch.maximum(top, peak)
        weights = torch.exp(values - new[:, None])
        moment = weights @ images if images.ndim == 2 else (weights[:, None] @ images).squeeze(1)
        squares = (weights * images.square().sum(-1)).sum(1)
        # ln w_i averaged over w needs the sum of weight times log likelihood
        sums = (weights.sum(1), moment, squares, (weights * (values - new[:, None])).sum(1))
        if top is None:
            total = sums
        else:
            shift = torch.exp(top - new)
            moved = total[3] + total[0] * (top - new)  # log likelihoods are now relative to a larger one
            old = (total[0], total[1], total[2], moved)
            scale = [shift, shift[:, None], shift, shift]
            total = tuple(a * s + b for a, s, b in zip(old, scale, sums, strict=True))
        top = new
    weight, moment, squares, logs = total
    mean = moment / weight[:, None]
    variance = (squares / weight - mean.square().sum(1)).clamp(min=0.0) / mean.shape[1]
    entropy = torch.log(weight) - logs / weight
    unknown = torch.full_like(weight, torch.nan)
    return Posterior(
        mean=mean,
        variance=variance,
        n_effective=torch.exp(entropy),
        largest=1 / weight,
        omitted=torch.zeros_like(weight),
        shell=unknown,
    )


def noise_prediction(z: torch.Tensor, mean: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
    """Return the noise that a prediction of x_0 amounts to: (z - alpha x_0) / sigma."""
    return (z - alpha * mean) / sigma
