"""Twin trainings without training: two blends on disjoint halves, whose true phase is known at every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from auditor.config import LOSS_LEVELS, Budgets
from auditor.diffusion.denoising import time_levels
from auditor.errors import AuditError
from auditor.lab import exact
from auditor.lab.blend import Blend, Course, initial_weights
from auditor.lab.checkpoints import write_blend, write_series
from auditor.lab.data import write_images
from auditor.lab.diffusion import Diffusion
from auditor.lab.grammar import Grammar
from auditor.records import TWINS
from auditor.seeds import derived_seed

SETS = {"a": "train-a", "b": "train-b", "heldout": "heldout"}
N_TRUTH = 1000  # fresh sequences behind the true loss


def steps_from(text: str) -> tuple[int, ...]:
    """Return the taus of a list such as ``3,5,6``, ascending; all from 1 to 20 of an empty one."""
    try:
        taus = tuple(sorted({int(each) for each in text.split(",")})) if text else tuple(range(1, 21))
    except ValueError:
        taus = (-1,)
    if taus[0] < 0 or taus[-1] > Course().end:
        remedy = "Give whole numbers from 0 to 20: --steps 3,5,6."
        raise AuditError(f"{text!r} are no steps of a fixture.", "--steps", remedy)
    return taus


@dataclass(frozen=True)
class Fixture:
    """Two trainings that follow one course on two blocks of one grammar; steps are the taus of the course."""

    grammar: Grammar = field(default_factory=Grammar)
    course: Course = field(default_factory=Course)
    n_train: int = 5000  # sequences per half
    n_heldout: int = 1500
    taus: tuple[int, ...] = tuple(range(21))
    seed: int = 0
    diffusion: Diffusion = field(default_factory=Diffusion)

    @cached_property
    def sequences(self) -> dict[str, np.ndarray]:
        """Both halves and the held-out sequences: independent draws, so some occur in two of them."""
        sizes = {"a": self.n_train, "b": self.n_train, "heldout": self.n_heldout}
        return {name: self.grammar.block(i, n, self.seed) for i, (name, n) in enumerate(sizes.items())}

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """The initialization of each training."""
        return {twin: initial_weights(self.grammar, self.seed, twin) for twin in TWINS}

    def model(self, twin: str, tau: float) -> Blend:
        """Return the model of one training at tau."""
        return self.course.blend(tau, self.grammar, self.sequences[twin], self.weights[twin], self.diffusion)

    def write(self, root: Path) -> dict[str, str]:
        """Write checkpoints, images and grammar; return them as settings of an audit."""
        for twin in TWINS:
            write_series(root / twin, self.diffusion)
            for tau in self.taus:
                write_blend(root / twin, tau, self.model(twin, tau))
        for name, sequences in self.sequences.items():
            write_images(root / f"{SETS[name]}.npz", sequences, self.grammar.q)
        self.grammar.write(root / "grammar.json")
        given = {f"ckpts_{twin}": str(root / twin) for twin in TWINS}
        given |= {name.replace("-", "_"): str(root / f"{name}.npz") for name in SETS.values()}
        return given | {"grammar": str(root / "grammar.json")}

    def true_losses(self, times: np.ndarray, n: int = N_TRUTH) -> np.ndarray:
        """Return the mean loss of both trainings on new sequences, float64 ``[taus]``, nearly without noise.

        The squared error of the predicted letters, as an audit measures it, at the times given
        (1 ... n_steps). Given x_t, E|x_0 - p|^2 = E|x_0 - mu|^2 + |mu - p|^2, and the first term
        is sum mu (1 - mu), the same for every model: no x_0 is drawn.
        """
        import torch

        fresh = exact.as_one_hot(self.grammar.block(len(SETS), n, self.seed), self.grammar.q, torch.float32)
        generator = torch.Generator().manual_seed(derived_seed("lab truth", self.seed))
        t = torch.as_tensor(np.resize(times, n))
        x_t = self.diffusion.noisy(fresh, t, torch.randn(fresh.shape, generator=generator))
        with torch.inference_mode():
            mu = exact.denoiser(self.grammar, self.diffusion)(x_t, t)
            left_open = float((mu * (1 - mu)).mean())
            found = [[(self.model(twin, tau)(x_t, t) - mu).square().mean() for twin in TWINS] for tau in self.taus]
        return left_open + np.array(found, dtype=np.float64).mean(axis=1)

    def phases(self, times: np.ndarray | None = None, budgets: Budgets | None = None) -> list[str]:
        """Return the true phase of each checkpoint, its loss taken at these times of the noise (1 ... n_steps).

        Without times: at those of an audit by default.
        """
        if times is None:
            times = time_levels(LOSS_LEVELS, self.diffusion.n_steps) + 1
        budgets = budgets or Budgets()
        remembers = np.array([self.course.memory_at(tau) > 0 for tau in self.taus])
        return true_phases(self.true_losses(times), remembers, budgets.underfit_loss, budgets.overfit_rise)


def true_phases(losses: np.ndarray, remembers: np.ndarray, underfit: float, rise: float) -> list[str]:
    """Return the true phase of each checkpoint, from what was built in and not from what is measured.

    Parameters
    ----------
    losses
        True loss, float64 ``[checkpoints]``.
    remembers
        Whether the model mixes in its own training sequences, bool ``[checkpoints]``.
    underfit
        Multiple of the least loss above which an earlier checkpoint is underfit.
    rise
        Relative rise above the least loss beyond which a later checkpoint is overfit.
    """
    least = int(losses.argmin())
    phases = []
    for i, loss in enumerate(losses):
        if i < least and loss > underfit * losses[least]:
            phases.append("underfit")
        elif i > least and loss > (1 + rise) * losses[least]:
            phases.append("overfit")
        else:
            phases.append("biased" if remembers[i] else "generalizing")
    return phases
