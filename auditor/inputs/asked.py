"""What a run was asked for, as plain data: every setting, every resolved value, and digests of what was read.

It needs neither pictures nor networks. Plans, keys, forecasts and `verify` are made from it alone; run.json holds it,
and a process that is to make something builds `Loaded` from the same settings and compares the digests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from typing import Any

import numpy as np

from auditor import images
from auditor.config import AuditConfig, Budgets, kept_budgets
from auditor.diffusion import denoising, schedules
from auditor.records import DECOYS, ImageSet
from auditor.run import RunDirectory, restored
from auditor.run.files import as_json
from auditor.scope import Scope


@dataclass(frozen=True)
class SetFacts:
    """What is known of an image set without its pictures."""

    images: int  # rows, mirror images among them
    originals: int  # rows that are no mirror images; these come first
    digest: str  # of ids and pictures
    originals_digest: str = ""  # the same of the originals alone
    pooled: int | None = None  # rows that take part in own-versus-other statistics; None: no training set
    pooled_originals: int | None = None  # originals among them
    pool: str = ""  # digest of who of the originals does; empty where all do
    groups: str = ""  # digest of the group of each image; empty where there are none
    classes: str = ""  # digest of the class of each image; empty where they are not known
    parts: int = 1  # sets that it was joined from: of each as many are asked about

    def asked_about(self, n: int) -> int:
        """Return how many images networks are asked about where ``n`` are wanted: no mirrored, shared or blank ones."""
        return min(self.parts * n, self.originals if self.pooled_originals is None else self.pooled_originals)


@dataclass(frozen=True)
class SpaceFacts:
    """What is known of an opened feature space."""

    revision: Any  # changes whenever a vector would
    dim: int  # numbers per picture


@dataclass(frozen=True)
class Asked:
    """What a run was asked for; see the module's first lines."""

    config: AuditConfig
    scope: Scope
    budgets: Budgets
    device: str
    batch_size: int
    threads: int  # of torch on a CPU
    sampling_steps: int
    image_shape: tuple[int, int, int]  # (h, w, c) of pictures
    scheduler: Mapping[str, Any]  # empty where samples were given
    checkpoints: Mapping[str, str]  # twin/step -> digest
    sets: Mapping[str, SetFacts]  # train-a, train-b, heldout: those given; decoys beside a single training
    spaces: Mapping[str, SpaceFacts]
    scaling: Mapping[str, Any] = field(default_factory=dict)  # twin -> low, high, mean; of those not scaled to [-1, 1]
    conditions: Mapping[str, Any] = field(default_factory=dict)  # under what samples are drawn; empty: none
    with_model: bool = True  # samples that exist already have none
    pairs_samples: bool = True  # samples of one seed come from the same noise in both twins
    sees_alike: bool = True  # the twins' networks see a picture as the same numbers
    mirrored: bool = False  # training images are looked for mirrored, too
    whole: bool = True  # run.json of an earlier version lacks what keys are made from; then it holds
    earlier: Mapping[str, Any] = field(default_factory=dict)  # what was resolved

    @property
    def n_samples(self) -> int:
        """Samples per checkpoint."""
        return self.config.n_samples

    @property
    def seeds(self) -> np.ndarray:
        """The seed of every sample, int64 ``[n_samples]``: row i of an array of samples has the i-th."""
        return self.config.seed + np.arange(self.config.n_samples)

    @property
    def loss_images(self) -> int:
        """Images per set on which losses are measured: resolved when the run started."""
        assert self.config.loss_images is not None, "resolved by inputs/loss_cells.py"
        return self.config.loss_images

    @property
    def loss_levels(self) -> int:
        """Noise levels of the losses, likewise."""
        assert self.config.loss_levels is not None, "resolved by inputs/loss_cells.py"
        return self.config.loss_levels

    @property
    def with_losses(self) -> bool:
        """Whether denoising losses are measured: there are images, and a model."""
        return bool(self.sets) and self.with_model

    @property
    def sets_asked_about(self) -> Mapping[str, SetFacts]:
        """The sets whose images networks are asked about: decoys are held-out images, and these are asked about."""
        return {name: each for name, each in self.sets.items() if name != DECOYS}

    @property
    def members(self) -> tuple[int, int] | None:
        """How many images of a half, and how many held-out ones, networks are asked about; None where none are."""
        if not self.with_losses or not self.scope.with_train:
            return None
        asked = {name: each.asked_about(self.loss_images) for name, each in self.sets_asked_about.items()}
        return min(n for name, n in asked.items() if name != "heldout"), asked.get("heldout", 0)

    @property
    def compares_predictions(self) -> bool:
        """Whether the twins' networks see pictures alike, so that their predictions can be compared."""
        return self.scope.with_twin and self.with_losses and self.sees_alike

    @property
    def times(self) -> np.ndarray:
        """Diffusion times of the loss cells, int64 ``[n_levels]``, ascending; none without a model."""
        if not self.with_model:
            return np.empty(0, dtype=np.int64)
        if self.config.loss_strata == "log-snr":
            return denoising.snr_levels(self.loss_levels, schedules.log_snr(self.scheduler))
        return denoising.time_levels(self.loss_levels, schedules.n_times(self.scheduler))

    @property
    def level_shares(self) -> np.ndarray:
        """The share of uniform diffusion times that each of them stands for, float64 ``[n_levels]``."""
        times = self.times
        if self.config.loss_strata == "log-snr":
            return denoising.shares_of(times, schedules.log_snr(self.scheduler))
        return np.full(len(times), 1 / max(len(times), 1))

    @property
    def level_log_snr(self) -> np.ndarray:
        """Their logarithmic signal-to-noise ratios, float64 ``[n_levels]``."""
        return schedules.log_snr(self.scheduler)[self.times] if self.with_model else np.empty(0)


IN_RECORD = ("config", "scope", "budgets")  # what run.json holds under names of their own


def as_record(asked: Asked) -> dict[str, Any]:
    """Return what run.json holds of it beside the settings, the scope and the budgets."""
    return {name: as_json(value) for name, value in asdict(asked).items() if name not in IN_RECORD}


def from_record(run: RunDirectory, record: Mapping[str, Any], digests: Mapping[str, str]) -> Asked:
    """Return what a run was asked for from its run.json; ``digests`` are those of its checkpoints, twin/step.

    Runs of earlier versions lack what keys are made from: ``whole`` is false then, and keys cannot be compared.
    """
    where = run.record
    known = {each.name for each in fields(AuditConfig)}
    given = {name: value for name, value in record["given"].items() if name in known}
    beside: dict[str, Any] = {
        "config": restored(AuditConfig, given, where),
        "scope": restored(Scope, record["scope"], where),
        "budgets": restored(Budgets, kept_budgets(record["budgets"]), where),
    }
    if "asked" in record:
        kept = dict(record["asked"])
        kept["sets"] = {name: restored(SetFacts, each, where) for name, each in kept["sets"].items()}
        kept["spaces"] = {name: restored(SpaceFacts, each, where) for name, each in kept["spaces"].items()}
        return restored(Asked, beside | kept, where)
    resolved = record["resolved"]
    return Asked(
        **beside,
        device=resolved["device"],
        batch_size=resolved["batch_size"],
        threads=0,
        sampling_steps=resolved["sampling_steps"],
        image_shape=tuple(resolved["image_shape"]),
        scheduler=resolved.get("scheduler", {}),
        checkpoints=digests,
        sets={
            name: SetFacts(each["images"], each["images"], each["digest"], pooled_originals=None)
            for name, each in record["sets"].items()
        },
        spaces={name: SpaceFacts("", 0) for name in resolved["spaces"]},
        with_model=bool(resolved.get("scheduler")),
        sees_alike=len(set(resolved.get("pixels", {}).values())) < 2,
        mirrored=bool(resolved.get("flips", {}).get("mirrored")),
        whole=False,
        earlier=resolved,
    )


def set_facts(
    images_of: ImageSet,
    originals: int,
    in_pool: np.ndarray | None,
    groups: np.ndarray | None,
    classes: np.ndarray | None,
) -> SetFacts:
    """Return what is known of a set without its pictures; masks, groups and classes are ``[n]``, None where unknown."""
    digest = images.set_digest(images_of)
    kept = None if in_pool is None else in_pool[:originals]
    return SetFacts(
        images=len(images_of),
        originals=originals,
        digest=digest,
        originals_digest=digest if originals == len(images_of) else images.set_digest(images_of.rows(range(originals))),
        pooled=None if in_pool is None else int(in_pool.sum()),
        pooled_originals=None if kept is None else int(kept.sum()),
        pool="" if in_pool is None or in_pool.all() else digest_of(kept),
        groups="" if groups is None else digest_of(groups),
        classes="" if classes is None else digest_of(classes),
        parts=max(1, len(images_of.parts)),
    )


def digest_of(values: Any) -> str:
    """Return the sha256 of an array's bytes."""
    return sha256(values.tobytes()).hexdigest()
