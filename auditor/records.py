"""The frozen values that flow through an audit (see docs/architecture.md).

Identity is the seed or the image id, never the position. The roles of image sets
are ``own``, ``other`` and ``heldout``; twins are ``a`` and ``b``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

TWINS = ("a", "b")
DECOYS = "decoys"  # the held-out images where they take the place of another half: beside a single training
BEYOND_POOL = 10**9  # groups of images outside the pool are numbered from here on, of half b from twice as much
# What trainers count, and what one says of it.
UNITS = {
    "step": "optimizer steps",
    "epoch": "epochs",
    "milestone": "milestones",
    "kimg": "thousand images",
}
VERDICTS = ("underfit", "generalizing", "biased", "overfit", "memorizing", "undecided")
RISKS = ("memorizing", "biased", "exposed", "undecided", "shown small")  # of training images; the first that holds
QUALITIES = ("underfit", "overfit", "unknown", "good")  # of the model; the first that holds


def other_twin(twin: str) -> str:
    """Return ``b`` for ``a`` and ``a`` for ``b``."""
    return {"a": "b", "b": "a"}[twin]


def set_of(half: str) -> str:
    """Return the name of the image set of a half: ``train-a``, ``train-b``, ``decoys``."""
    return half if half == DECOYS else f"train-{half}"


def is_half(name: str) -> bool:
    """Tell whether an image set takes part in own-versus-other statistics: training images, and decoys."""
    return name == DECOYS or name.startswith("train-")


@dataclass(frozen=True)
class Checkpoint:
    """One set of saved weights of one twin at one point of its training."""

    twin: str
    step: int  # progress of the training, in `unit`
    path: Path  # what load() reads: a folder with config.json and weights, or a file
    format: str
    weights: str  # "raw" or "ema"
    scheduler: Path | None  # scheduler_config.json found for it
    digest: str = ""  # sha256 over what load() reads; "" until read
    unit: str = "step"  # what progress is counted in: a key of UNITS


@dataclass(frozen=True)
class Found:
    """One step that a format found under a root, before raw or EMA is chosen."""

    step: int
    paths: Mapping[str, Path]  # "raw" and/or "ema" -> what load() reads
    scheduler: Path | None
    unit: str = "step"


@dataclass(frozen=True)
class Facts:
    """What the headers of a checkpoint say of its model."""

    image_shape: tuple[int, int, int] | None  # (h, w, c) of the pictures; None where no header says it
    model: str  # class of the network
    parameters: int | None  # of the network, where a header says it
    conditioning: str = "none"  # none, class or text
    n_classes: int | None = None
    needs_class: bool = False  # there is no class that stands for none
    autoencoder: str = ""  # folder of what decodes latents; empty for pixel models
    pixels: tuple[float, float] = (-1.0, 1.0)  # range to which this trainer scales pictures unless told otherwise
    notes: tuple[str, ...] = ()  # what had to be assumed, in sentences
    lora: str = ""  # ranks, scales and text encoding of a LoRA, in sentences


@dataclass(frozen=True)
class Flips:
    """Whether a training mirrored its images left to right at random, and what says so."""

    mirrored: bool | None  # None where nothing says it
    source: str  # what says it, or why it is not known; empty where nothing could have said it


NOT_SAID = Flips(None, "")


@dataclass(frozen=True)
class Excluded:
    """A checkpoint that was found and not audited, and why."""

    twin: str
    step: int
    path: Path
    reason: str


@dataclass(frozen=True)
class CheckpointSeries:
    """The checkpoints of one twin, steps strictly increasing."""

    twin: str
    checkpoints: tuple[Checkpoint, ...]

    def __post_init__(self) -> None:
        steps = [c.step for c in self.checkpoints]
        assert steps == sorted(set(steps)), f"steps of twin {self.twin} do not increase strictly: {steps}"

    def at(self, step: int) -> Checkpoint:
        """Return the checkpoint of this step."""
        return next(c for c in self.checkpoints if c.step == step)


@dataclass(frozen=True)
class TwinPair:
    """Two series aligned on their common steps, ``b`` empty for a single training; what is left out, with reasons."""

    a: CheckpointSeries
    b: CheckpointSeries
    excluded: tuple[Excluded, ...] = ()
    weights: str = ""  # which are audited, in words, and of raw ones why; empty where samples are given
    progress: tuple[tuple[int, int], ...] = ()  # step of a, and b's own, where the user paired them; b is told by a's

    @property
    def steps(self) -> tuple[int, ...]:
        """The common steps, ascending."""
        return tuple(c.step for c in self.a.checkpoints)

    @property
    def twins(self) -> tuple[str, ...]:
        """``a`` and ``b``, or ``a`` alone."""
        return TWINS if self.b.checkpoints else TWINS[:1]

    def series(self, twin: str) -> CheckpointSeries:
        """Return the series of twin ``a`` or ``b``."""
        return {"a": self.a, "b": self.b}[twin]


@dataclass(frozen=True)
class ImageSet:
    """Images with identity: training images, held-out images, or samples.

    ``images`` is uint8 ``[n, h, w, c]``, 0 to 255; ``ids`` are unique strings. For
    samples the ids are the seeds.
    """

    name: str
    images: np.ndarray
    ids: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what reading had to do: resized, cropped, converted
    labels: tuple[str, ...] = ()  # class of each image; empty where not known
    groups: tuple[str, ...] = ()  # patient, slide, identity, duplicates: whatever belongs together; empty likewise
    digests: tuple[str, ...] = ()  # sha256 of each image; empty where not computed yet
    blank: np.ndarray | None = None  # bool [n], images without content; None where not computed yet
    files: np.ndarray | None = None  # float64 [n, 2], bytes and time of each file; None where several share one
    parts: tuple[tuple[str, int], ...] = ()  # sets that it was joined from, with their sizes

    def __post_init__(self) -> None:
        assert self.images.dtype == np.uint8 and self.images.ndim == 4, "images are uint8 [n, h, w, c]"
        assert len(self.ids) == len(self.images), "one id per image"
        assert len(set(self.ids)) == len(self.ids), "ids are unique"
        for each in (self.labels, self.groups, self.digests):
            assert len(each) in (0, len(self.ids)), "one fact per image, or none"

    def rows(self, kept: Sequence[int]) -> ImageSet:
        """Return the set with these images only."""
        ids, labels, groups, digests = (
            tuple(each[i] for i in kept) if each else () for each in (self.ids, self.labels, self.groups, self.digests)
        )
        blank = None if self.blank is None else self.blank[list(kept)]
        images, files = self.images[list(kept)], None if self.files is None else self.files[list(kept)]
        return replace(
            self, images=images, ids=ids, labels=labels, groups=groups, digests=digests, blank=blank, files=files
        )

    def __len__(self) -> int:
        return len(self.ids)


# Vectors of queries and of a reference, the number of the reference that each query must not find (-1: none), and how
# many are wanted -> float64 distances and int64 numbers, [n, m], of those that were compared, in any order.
Nearest = Callable[[np.ndarray, np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Features:
    """Vectors of one image set in one space; what `neighbors.search` makes of them is *the* distance there.

    That is the Euclidean distance; of several views, the least one between equal views; in a space that refines, what
    ``refine`` says of the pictures that these propose; in one that looks for the nearest itself, what it finds.
    """

    space: str
    of: str
    vectors: np.ndarray  # float32 [n, d], or [n, views, d] where a picture has several; finite
    ids: tuple[str, ...]
    pictures: Callable[[np.ndarray], np.ndarray] | None = None  # rows int64 [m] -> uint8 [m, h, w, c]; with refine
    refine: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None  # that of the space; see spaces.Space
    nearest: Nearest | None = None  # likewise
    points: bool = True  # whether vectors may be used by themselves: ``vectors`` of the space

    @property
    def are_points(self) -> bool:
        """Whether a picture is one vector whose distance from others is *the* distance, so that vectors can be used."""
        return self.points and self.vectors.ndim == 2 and self.refine is None and self.nearest is None

    def rows(self, kept: np.ndarray) -> Features:
        """Return the features of these images only, by their numbers."""
        pictures = self.pictures
        chosen = None if pictures is None else lambda rows: pictures(kept[rows])
        return replace(self, vectors=self.vectors[kept], ids=tuple(self.ids[i] for i in kept), pictures=chosen)

    @classmethod
    def joined(cls, parts: Sequence[Features], of: str) -> Features:
        """Return several sets of one space as one, with numbers as ids: two halves may hold the same ids."""
        vectors = np.concatenate([part.vectors for part in parts])
        ids = tuple(map(str, range(len(vectors))))
        whole = replace(parts[0], of=of, vectors=vectors, ids=ids, pictures=None)
        if whole.refine is None:
            return whole
        starts = np.cumsum([0, *(len(part.ids) for part in parts)])

        def pictures(rows: np.ndarray) -> np.ndarray:
            at = np.searchsorted(starts, rows, side="right") - 1
            known = zip((parts[i].pictures for i in at), rows - starts[at], strict=True)
            return np.concatenate([each(np.array([row])) for each, row in known if each is not None])

        return replace(whole, pictures=pictures)


@dataclass(frozen=True)
class Neighbors:
    """The k nearest images of one reference set for each query, nearest first.

    ``indices`` point into the reference set whose ids are ``reference_ids``;
    ``distances`` ascend along the second axis, in the units of the space.
    """

    space: str
    queries: str
    reference: str
    distances: np.ndarray  # float32 [n, k], computed in float64
    indices: np.ndarray  # int64 [n, k]
    reference_ids: tuple[str, ...] = field(repr=False)

    @property
    def ids(self) -> np.ndarray:
        """Ids of the neighbors, object ``[n, k]``; the empty id where there are fewer images than ranks."""
        values: np.ndarray = np.asarray([*self.reference_ids, ""], dtype=object)[self.indices]  # index -1 is the last
        return values


@dataclass(frozen=True)
class Scores:
    """What a metric gives: one number per unit; their mean is the value.

    A comparison of samples with held-out images is a mean over either: its ``second``
    holds the same value's parts over the held-out images.
    """

    unit: str  # "seed", "image" or "block of seeds": what is resampled; "set" where nothing is
    ids: np.ndarray  # [n]
    values: np.ndarray  # float64 [n]
    note: str = ""  # why the values are NaN, where they are; for values shown without an interval, their noise
    second: np.ndarray | None = None  # float64 [n of the other sample], of the same mean


@dataclass(frozen=True)
class Estimate:
    """A value with its interval.

    ``low <= value <= high``. Where no honest interval exists, low and high are NaN and
    the note says why; where the value is undefined, all three are.
    """

    value: float
    low: float
    high: float
    level: float
    n: int
    unit: str
    method: str
    note: str = ""

    def __post_init__(self) -> None:
        if np.isnan(self.value) or np.isnan(self.low) or np.isnan(self.high):
            assert self.note, "an estimate without a value or an interval says why"
        else:
            assert self.low <= self.value <= self.high, f"{self.low} <= {self.value} <= {self.high}"


@dataclass(frozen=True)
class LossTable:
    """Denoising losses of one image set at fixed cells, or an attack's scores of its images."""

    ids: np.ndarray  # object [n_images]
    times: np.ndarray  # int64 [n_levels], diffusion times, ascending
    values: np.ndarray  # float64 [n_images, n_levels]
    shares: np.ndarray | None = None  # float64 [n_levels], of uniform t, that a level stands for; None: equal

    @property
    def means(self) -> np.ndarray:
        """The mean over uniform diffusion times of each image, float64 ``[n_images]``."""
        values: np.ndarray = self.values.mean(axis=1) if self.shares is None else self.values @ self.shares
        return values


@dataclass(frozen=True)
class Agreement:
    """How the predictions of one model compare with its twin's and with the memorizer of its half, on one image set.

    float64 ``[n_images, n_levels]`` each: the cosine of both predictions, half their squared
    difference, and numerator and denominator of the projection lambda (auditor/stages/agreement.py).
    """

    ids: np.ndarray  # object [n_images]
    times: np.ndarray  # int64 [n_levels]
    cosine: np.ndarray
    half_squared: np.ndarray
    noise_loss: np.ndarray
    error: np.ndarray
    along: np.ndarray
    reach: np.ndarray
    spread: np.ndarray
    sharing: np.ndarray
    largest: np.ndarray
    shell: np.ndarray


@dataclass(frozen=True)
class UTurns:
    """What comes back of the images of one set that one model noised and denoised again."""

    ids: np.ndarray  # object [n_images]
    times: np.ndarray  # int64 [n_times], where they turn
    distance: np.ndarray  # float64 [n_images, n_times], mean squared difference, pixels in [0, 1]
    returned: np.ndarray  # bool [n_images, n_times], whether no other known image is nearer


@dataclass(frozen=True)
class CellScales:
    """The twins' predictions by scale of the pictures, at one step; in the tables a scale stands where a time would."""

    names: tuple[str, ...]  # of the scales
    losses: Mapping[str, Mapping[str, LossTable]]  # by twin and role, [n_images, n_scales]
    half_squared: Mapping[str, LossTable]  # by image set


@dataclass(frozen=True)
class Evidence:
    """What is known of one twin at one step in one space; a metric's only input.

    Arrays over seeds follow ``seeds``, arrays over held-out images follow
    ``heldout_ids``. Whatever was not given (training images, held-out images) is None.
    """

    twin: str
    step: int
    space: str
    seeds: np.ndarray  # int64 [S]
    twin_distance: np.ndarray  # float64 [S], to the twin's sample of the same seed
    different_seed_distance: np.ndarray  # float64 [S], mean to the twin's samples of other seeds
    same_data_distance: np.ndarray | None = None  # float64 [S], from a's sample to that of a second training on half a
    own: np.ndarray | None = None  # float64 [S, 8], distances to the nearest own images
    other: np.ndarray | None = None  # float64 [S, 8]
    pool_own: np.ndarray | None = None  # float64 [S], nearest own image in the equal-size pool
    pool_other: np.ndarray | None = None  # float64 [S]
    heldout_ids: np.ndarray | None = None  # object [H]
    heldout_own: np.ndarray | None = None  # float64 [H, 8], held-out images to their nearest own images
    heldout_pool_own: np.ndarray | None = None  # float64 [H]
    heldout_pool_other: np.ndarray | None = None  # float64 [H]
    own_nearest: np.ndarray | None = None  # object [S], id of the nearest own image
    own_group: np.ndarray | None = None  # int64 [S], its number among images that count as one (duplicates, a person)
    own_shared: np.ndarray | None = None  # bool [S], whether all halves hold it: it is in no pool then
    other_group: np.ndarray | None = None  # int64 [S], the same of the nearest image of the other half
    other_shared: np.ndarray | None = None  # bool [S]
    heldout_own_group: np.ndarray | None = None  # int64 [H], the same of held-out images' nearest own image
    heldout_own_shared: np.ndarray | None = None  # bool [H]
    pool_classed: np.ndarray | None = None  # bool [S], samples whose class has images enough; None: no classes
    own_in_class: np.ndarray | None = None  # float64 [S], nearest own image of the sample's class; equal numbers
    other_in_class: np.ndarray | None = None  # float64 [S]
    heldout_classed: np.ndarray | None = None  # bool [H]
    heldout_own_in_class: np.ndarray | None = None  # float64 [H]
    heldout_other_in_class: np.ndarray | None = None  # float64 [H]
    own_outside: np.ndarray | None = None  # float64 [S], nearest own image outside the duplicates of the nearest
    other_outside: np.ndarray | None = None  # float64 [S]
    heldout_own_outside: np.ndarray | None = None  # float64 [H]
    copy_ratio: float | None = None  # d1 / d2 below which --fpr flags a copy in this space; None without --fpr
    heldout_judged: np.ndarray | None = None  # bool [H], held-out images that did not set copy_ratio; None: all
    own_cluster_size: np.ndarray | None = None  # float64 [S], own images equal to the nearest one, itself included
    own_mean_50: np.ndarray | None = None  # float64 [S], mean distance to the 50 nearest own images
    other_mean_50: np.ndarray | None = None  # float64 [S]
    heldout_own_mean_50: np.ndarray | None = None  # float64 [H]
    own_spacing: np.ndarray | None = None  # float64 [S], from the nearest own image to its nearest that is no duplicate
    heldout_own_spacing: np.ndarray | None = None  # float64 [H]
    own_cell: np.ndarray | None = None  # float64 [S], number of the k-means cell of the own half
    heldout_own_cell: np.ndarray | None = None  # float64 [H]
    heldout_distance: np.ndarray | None = None  # float64 [S], samples to their nearest held-out image
    saturated: np.ndarray | None = None  # float64 [S], share of the sample's pixels that are 0 or 255
    kid_scores: np.ndarray | None = None  # float64 [S], linearized shares of KID to held-out
    gap: np.ndarray | None = None  # float64 [S] in [0, 1], how much the nearest pool image stands out
    own_quality: Mapping[str, np.ndarray] | None = None  # statistic -> float64 [B], scores per block of seeds
    other_quality: Mapping[str, np.ndarray] | None = None
    heldout_quality: Mapping[str, np.ndarray] | None = None  # with frechet, float64 [1]
    losses: Mapping[str, LossTable] = field(default_factory=dict)  # own, other, heldout
    twin_losses: Mapping[str, LossTable] = field(default_factory=dict)  # the twin's, by its own roles
    attack_scores: Mapping[str, Mapping[str, LossTable]] = field(default_factory=dict)  # attack -> own, heldout
    agreement: Mapping[str, Agreement] = field(default_factory=dict)  # own, other, heldout; trajectory, samples
    twin_agreement: Mapping[str, Agreement] = field(default_factory=dict)  # the twin's, by its own roles
    same_data_agreement: Agreement | None = None  # of a and a second training on half a, on held-out images
    u_turns: Mapping[str, UTurns] = field(default_factory=dict)  # own, other, heldout
    twin_u_turns: Mapping[str, UTurns] = field(default_factory=dict)  # the twin's, by its own roles
    more: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # stage -> what else it gives, by name


@dataclass(frozen=True)
class Metric:
    """A metric: what it asks, how to read it, and its scores.

    ``interval`` names how the Estimate is made: a key of ``stats.intervals.INTERVALS``, where
    ``lean`` and ``loss_lean`` stand for the tests by relabeling (docs/statistics.md 2 to 5).
    ``twins`` lists what is reported; ``both`` beside ``a`` and ``b`` is their average.
    """

    name: str
    question: str
    unit: str  # of the value
    direction: str  # what larger means
    reference: str  # formula and source
    k: int  # neighbors it needs
    twins: tuple[str, ...]
    interval: str
    scores: Callable[[Evidence], Scores]
    per_space: bool = True  # False: about the network, not about a feature space
    needs_twin: bool = False  # it compares two trainings, or their halves
    needs_vectors: bool = False  # it computes with vectors, which some spaces do not have
