"""Everything an audit needs, read and checked: what stages are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from auditor import checkpoints, spaces
from auditor.config import AuditConfig, Budgets
from auditor.diffusion import denoising, sampling, schedules
from auditor.diffusion.scaling import Pixels
from auditor.inputs.samples import GivenSamples
from auditor.records import NOT_SAID, Facts, Flips, ImageSet, TwinPair
from auditor.scope import Scope
from auditor.stages import attack_scores

Say = Callable[[str, int], None]  # what is being done; network calls finished since the last word


@dataclass(frozen=True)
class Prepared:
    """Everything an audit needs, read and checked."""

    config: AuditConfig
    pair: TwinPair
    facts: Facts  # what the checkpoints say of the model
    settings: checkpoints.ModelSettings
    scheduler: Mapping[str, Any]
    sets: Mapping[str, ImageSet]  # train-a, train-b, heldout: those given
    digests: Mapping[str, tuple[str, ...]]  # per image
    set_digests: Mapping[str, str]  # per set: ids and images
    in_pool: Mapping[str, np.ndarray]  # train-a, train-b: bool per image
    notes: tuple[str, ...]  # what had to be assumed or left out, in sentences
    device: str
    batch_size: int
    sampling_steps: int
    spaces: Mapping[str, spaces.Space]
    budgets: Budgets
    pixels: Mapping[str, Pixels]  # twin -> how its training scaled pictures
    conditions: sampling.Conditions | None  # of samples, where the models are conditional
    groups: Mapping[str, np.ndarray]  # train-a, train-b: number of the group of each image
    given: GivenSamples | None = None  # samples that exist already; then there is no model
    classes: Mapping[str, np.ndarray] = field(default_factory=dict)  # per set: class of each image, where conditional
    preflight: Mapping[str, Any] = field(default_factory=dict)  # what was seen of the images, and of which
    class_pools: Mapping[str, np.ndarray] = field(default_factory=dict)  # train-a, train-b: compared within classes
    flips: Flips = NOT_SAID  # whether the trainings mirrored their images, and what says so

    @property
    def mirrored(self) -> bool:
        """Whether training images are looked for mirrored, too."""
        return bool(self.flips.mirrored)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c) of the pictures."""
        return self.facts.image_shape

    @property
    def unit(self) -> str:
        """What the steps are counted in."""
        return self.pair.a.checkpoints[0].unit

    @property
    def scope(self) -> Scope:
        """The axes of the run's tables."""
        c = self.config
        return Scope(
            self.pair.steps,
            () if c.quick else c.space_names,
            0 if c.quick else c.n_samples,
            c.seed,
            "train-a" in self.sets,
            "heldout" in self.sets,
            c.fpr,
            self.pair.twins,
            c.ckpts_a2 is not None,
        )

    def n_originals(self, name: str) -> int:
        """Return how many images of a set are no mirror images; these come first."""
        return len(self.sets[name]) // 2 if self.mirrored and name.startswith("train-") else len(self.sets[name])

    @property
    def pairs_samples(self) -> bool:
        """Whether samples of one seed come from the same noise in both twins."""
        return self.given is None or self.given.paired

    @property
    def with_losses(self) -> bool:
        """Whether denoising losses are measured: there are images, and a model."""
        return bool(self.sets) and self.given is None

    @property
    def with_attacks(self) -> bool:
        """Whether networks are asked about members and non-members; in a quick audit only where that can tell 1 %."""
        if not (self.with_losses and self.scope.with_train and self.scope.with_heldout):
            return False
        heldout = min(self.config.loss_images, self.n_originals("heldout"))
        return not self.config.quick or heldout >= attack_scores.WORTHWHILE

    @property
    def attack_times(self) -> dict[str, np.ndarray]:
        """Times at which membership attacks score images, by attack; none where there are none to attack."""
        if not self.with_attacks:
            return {}
        return attack_scores.attack_times(
            self.times, schedules.n_times(self.scheduler), with_steps=not self.config.quick
        )

    @property
    def compares_predictions(self) -> bool:
        """Whether the twins' networks see pictures alike, so that their predictions can be compared."""
        return self.scope.with_twin and self.with_losses and len({each.text for each in self.pixels.values()}) == 1

    @property
    def with_u_turns(self) -> bool:
        """Whether images are noised and denoised again."""
        return self.with_losses and self.config.u_turns > 0

    @property
    def with_trajectories(self) -> bool:
        """Whether the twins' predictions are compared where samples come from."""
        return self.compares_predictions and self.scope.with_train and self.config.trajectories > 0

    @property
    def times(self) -> np.ndarray:
        """Diffusion times of the loss cells; none without a model."""
        if self.given is not None:
            return np.empty(0, dtype=np.int64)
        if self.config.loss_strata == "log-snr":
            return denoising.snr_levels(self.config.loss_levels, schedules.log_snr(self.scheduler))
        return denoising.time_levels(self.config.loss_levels, schedules.n_times(self.scheduler))

    @property
    def level_shares(self) -> np.ndarray:
        """The share of uniform diffusion times that each of them stands for, float64 ``[n_levels]``."""
        if self.config.loss_strata == "log-snr":
            return denoising.shares_of(self.times, schedules.log_snr(self.scheduler))
        return np.full(len(self.times), 1 / max(len(self.times), 1))

    @property
    def level_log_snr(self) -> np.ndarray:
        """Their logarithmic signal-to-noise ratios, float64 ``[n_levels]``."""
        return schedules.log_snr(self.scheduler)[self.times] if len(self.times) else np.empty(0)
