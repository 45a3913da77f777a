"""Pictures and numbers of single samples, read from a run's files: what galleries, film strips and audit show show.

A *case* is one seed at one step in one space: the sample of a twin with its nearest own
and nearest other training image, and the same of the other twin's sample from the same
noise. Rows are found by seed and image id, never by position; arrays are memory-mapped.
A picture that the run does not hold is None, with the reason.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.config import COPY_RATIO
from auditor.errors import AuditError
from auditor.neighbors import is_copy
from auditor.records import DECOYS, TWINS, other_twin, set_of
from auditor.run import RunDirectory, restored, tables
from auditor.run.places import EVIDENCE, IMAGES, SAMPLES
from auditor.scope import Scope

if TYPE_CHECKING:
    from PIL import Image

    from auditor.reports.names import Names

SHOWN, LEFT_OUT = "shown", "left out"  # what a report does with pictures
SIDE_DISTANCES = {  # field of Side -> column of the evidence
    "own_distance": "own_distance_1",
    "other_distance": "other_distance_1",
    "next_distance": "own_outside_distance",
    "pool_own_distance": "pool_own_distance",
    "pool_other_distance": "pool_other_distance",
}
COLUMNS = ("seed", "own_id_1", "other_id_1", "twin_distance", *SIDE_DISTANCES.values())


@dataclass(frozen=True)
class Picture:
    """One image of a run, by name; never only by its place in a file."""

    id: str  # training image id, or the seed; as the user named it, so it may hold anything: escape it
    pixels: np.ndarray | None  # uint8 [h, w, c]; None where the run does not hold it
    reason: str = ""  # why there are no pixels

    def in_state(self, state: str) -> Picture:
        """Return the picture as it is (SHOWN) or without its pixels (LEFT_OUT)."""
        return self if state == SHOWN else replace(self, pixels=None, reason="pictures are left out of this report")

    def named(self, names: Names | None) -> Picture:
        """Return the picture with its name hidden, where names are."""
        return self if names is None else replace(self, id=names.hidden(self.id))

    def png(self, scale: int = 1) -> bytes | None:
        """Return the picture as PNG bytes, each pixel drawn ``scale`` times ``scale``; None without pixels."""
        return None if self.pixels is None else png(self.pixels, scale)


@dataclass(frozen=True)
class Side:
    """One twin's part of a case: its sample and the training images nearest to it, in the unit of the space.

    Without training images ``own`` and ``other`` have no id and no pixels, and all
    distances are NaN.
    """

    twin: str
    sample: Picture
    own: Picture  # nearest training image of this twin
    other: Picture  # nearest training image of the other twin, or held-out image beside a single training
    own_distance: float  # d1
    other_distance: float
    next_distance: float  # d2: the next own image that is no duplicate of the nearest
    pool_own_distance: float  # own_share compares these: halves subsampled to equal size
    pool_other_distance: float
    copy_below: float = COPY_RATIO  # d1 / d2 below which a sample counts as a copy in this run and space
    rival: str = ""  # the half that ``other`` is of: the other twin's, or the decoys

    @property
    def ratio(self) -> float:
        """Own distance over other distance: below 1 the nearest training image is the twin's own; NaN unknown."""
        return quotient(self.own_distance, self.other_distance)

    @property
    def gap(self) -> float:
        """d1 / d2: how far the nearest own image stands out; below ``copy_below`` the sample counts as a copy."""
        return quotient(self.own_distance, self.next_distance)

    @property
    def is_copy(self) -> bool:
        """Whether d1 is 0 or d1 / d2 is below ``copy_below`` (docs/statistics.md 4.1); False where d1 is unknown."""
        return bool(is_copy(self.own_distance, self.next_distance, self.copy_below))

    @property
    def is_closer_to_own(self) -> bool | None:
        """How the sample counts in ``own_share``; None on ties and without training images."""
        if math.isnan(self.pool_own_distance) or self.pool_own_distance == self.pool_other_distance:
            return None
        return self.pool_own_distance < self.pool_other_distance

    @property
    def pictures(self) -> tuple[Picture, Picture, Picture]:
        """Sample, nearest own, nearest other."""
        return self.sample, self.own, self.other

    def in_state(self, state: str) -> Side:
        """Return this part with every picture shown or left out."""
        sample, own, other = (picture.in_state(state) for picture in self.pictures)
        return replace(self, sample=sample, own=own, other=other)

    def named(self, names: Names | None) -> Side:
        """Return this part with the names of training images hidden, where names are."""
        return replace(self, own=self.own.named(names), other=self.other.named(names))


NO_TRAINING = "no training images were given"
NO_TWIN = "there is no twin: a single training was audited"
UNPAIRED = "the twins' samples do not share their noise"


def absent(reason: str) -> Side:
    """Return the part of a twin whose sample of the same noise does not exist."""
    nothing = Picture("", None, reason)
    return Side("", nothing, nothing, nothing, math.nan, math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Case:
    """One seed at one step in one space, of both twins; ``mine`` is the twin that was asked for."""

    space: str
    step: int
    seed: int
    mine: Side
    theirs: Side  # the other twin's sample from the same noise; nothing but the reason where there is none
    twin_distance: float  # between the two samples; NaN where they are not paired

    @property
    def twin(self) -> str:
        """The twin that was asked for."""
        return self.mine.twin

    @property
    def is_paired(self) -> bool:
        """Whether there is another twin's sample from the same noise."""
        return bool(self.theirs.twin)

    def in_state(self, state: str) -> Case:
        """Return the case with every picture shown or left out; the numbers stay."""
        return replace(self, mine=self.mine.in_state(state), theirs=self.theirs.in_state(state))

    def named(self, names: Names | None) -> Case:
        """Return the case with the names of training images hidden, where names are."""
        return replace(self, mine=self.mine.named(names), theirs=self.theirs.named(names))


@dataclass(frozen=True)
class Album:
    """The pictures of one run. It holds names only; every call reads what it needs."""

    run: RunDirectory
    scope: Scope
    pictures: str = SHOWN  # or LEFT_OUT: every case that leaves the album is in this state
    copy_below: Mapping[str, float] = field(default_factory=dict)  # by space, where it is not 1/3
    names: Names | None = None  # what hides the names of training images, where they are not to be seen

    def case(self, space: str, twin: str, step: int, seed: int) -> Case:
        """Return one seed of one twin at one step.

        Raises
        ------
        AuditError
            If the space, twin, step or seed was not audited; the message names what was.
        """
        return self.cases(space, twin, step, [seed])[0]

    def pick(self, space: str | None, twin: str | None, step: int, seed: int | None) -> Case:
        """Return the case of what is given: else the pixel space, the worst sample of the step, twin a."""
        space = space or self.scope.picture_space
        if seed is None:
            return self.worst(space, step, 1, None if twin is None else (twin,))[0]
        return self.case(space, twin or "a", step, seed)

    def cases(self, space: str, twin: str, step: int, seeds: Iterable[int]) -> list[Case]:
        """Return several seeds of one twin at one step, in the order given; each table is read once."""
        return self.chosen(space, step, [(twin, int(seed)) for seed in seeds])

    def chosen(self, space: str, step: int, picks: Iterable[tuple[str, int]]) -> list[Case]:
        """Return several twins' seeds at one step, in the order given; each table is read once."""
        wanted = list(picks)
        for twin in {twin for twin, _ in wanted}:
            self._require(space, twin, step)
        data = {each: self._evidence(space, each, step) for each in self.scope.twins}
        return [self._case(space, twin, step, seed, data) for twin, seed in wanted]

    def film(self, space: str, twin: str, seed: int) -> tuple[Case, ...]:
        """Return one seed through training: a case per audited step, ascending."""
        return self.films(space, twin, [seed])[seed]

    def films(self, space: str, twin: str, seeds: Sequence[int]) -> dict[int, tuple[Case, ...]]:
        """Return several seeds through training, by seed; each table is read once."""
        strips = [self.cases(space, twin, step, seeds) for step in self.scope.steps]
        return {seed: tuple(cases[i] for cases in strips) for i, seed in enumerate(seeds)}

    def worst(self, space: str, step: int, n: int, twins: Sequence[str] | None = None) -> list[Case]:
        """Return the ``n`` samples that tell most against a release, worst first.

        Copies (d1 = 0, or d1 / d2 below 1/3 or the ratio of --fpr) come first. Within copies, and
        within the rest, those come first whose nearest own image is nearest compared with what
        comes next in either half: least d1 / min(d2, nearest other). Ties go to the smaller
        seed, then to twin a. Without training images: the samples farthest from the twin's
        sample of the same noise. A sample with an undefined order comes last.
        """
        wanted = self.scope.twins if twins is None else twins
        for twin in wanted:
            self._require(space, twin, step)
        data = {twin: self._evidence(space, twin, step) for twin in self.scope.twins}
        ranked = sorted(
            (*order, int(seed), twin)
            for twin in wanted
            for seed, order in zip(data[twin]["seed"], self._orders(space, data[twin]), strict=True)
        )
        return [self._case(space, twin, step, seed, data) for *_, seed, twin in ranked[:n]]

    def _orders(self, space: str, data: Mapping[str, Any]) -> list[tuple[bool, float]]:
        """Return what samples are ordered by, the worst least."""
        if not self.scope.with_train:
            return [(False, order) for order in np.nan_to_num(-data["twin_distance"], nan=np.inf).tolist()]
        nearest, second = data["own_distance_1"], data["own_outside_distance"]
        following = np.fmin(second, data["other_distance_1"])
        with np.errstate(divide="ignore", invalid="ignore"):
            order = np.where(nearest == 0, 0.0, nearest / following)
        no_copy = ~is_copy(nearest, second, self.copy_below.get(space))
        return list(zip(no_copy.tolist(), np.nan_to_num(order, nan=np.inf).tolist(), strict=True))

    def _require(self, space: str, twin: str, step: int) -> None:
        """Refuse what was not audited, naming what was."""
        if not self.scope.with_samples:
            what = "There is no sample in this run: a quick audit draws none."
            raise AuditError(what, self.run.root, "Give the audit run command again without --quick.")
        asked: dict[str, tuple[object, tuple[object, ...]]] = {
            "space": (space, self.scope.spaces),
            "twin": (twin, self.scope.twins),
            "step": (step, self.scope.steps),
        }
        for kind, (value, known) in asked.items():
            if value not in known:
                remedy = f"Choose --{kind} from: {', '.join(map(str, known))}."
                raise AuditError(f"There is no {kind} {value} in this run.", self.run.root, remedy)

    def _evidence(self, space: str, twin: str, step: int) -> dict[str, Any]:
        """Return the columns of one evidence table that cases are made of."""
        return tables.arrays(self.run.place(EVIDENCE, f"{twin}/{step}", space), COLUMNS)

    def _case(self, space: str, twin: str, step: int, seed: int, data: Mapping[str, Mapping[str, Any]]) -> Case:
        rows = {each: self._row(found["seed"], seed) for each, found in data.items()}
        sides = {each: self._side(space, each, step, seed, data[each], rows[each]) for each in rows}
        distance = float(data[twin]["twin_distance"][rows[twin]])
        paired = sides.get(other_twin(twin), absent(NO_TWIN))
        apart = distance
        if (
            space in self.scope.distance_spaces
        ):  # it has no distance of the twins' samples; another space tells of pairs
            apart = float(self._evidence(self.scope.first_space, twin, step)["twin_distance"][rows[twin]])
        mine, theirs = sides[twin], absent(UNPAIRED) if paired.twin and math.isnan(apart) else paired
        case = Case(space=space, step=step, seed=seed, mine=mine, theirs=theirs, twin_distance=distance)
        return case.in_state(self.pictures).named(self.names)

    def _row(self, seeds: np.ndarray, seed: int) -> int:
        """Return in which row of a table a seed stands."""
        found = np.flatnonzero(seeds == seed)
        if not len(found):
            raise AuditError(
                f"There is no seed {seed} in this run.",
                self.run.root,
                f"Choose --seed from {seeds.min()} to {seeds.max()}.",
            )
        return int(found[0])

    def _side(self, space: str, twin: str, step: int, seed: int, data: Mapping[str, Any], row: int) -> Side:
        ids = {role: data[f"{role}_id_1"] for role in ("own", "other")}
        names = {role: str(each.names[each.codes[row]]) for role, each in ids.items()}
        return Side(
            twin=twin,
            sample=self._sample(twin, step, seed),
            own=self._training_image(twin, names["own"]),
            other=self._training_image(self.scope.rival(twin), names["other"]),
            rival=self.scope.rival(twin),
            **{field: float(data[column][row]) for field, column in SIDE_DISTANCES.items()},
            copy_below=self.copy_below.get(space, COPY_RATIO),
        )

    def _sample(self, twin: str, step: int, seed: int) -> Picture:
        """Return a sample; row i of a sample file has seed ``first seed + i``."""
        path, row = self.run.place(SAMPLES, f"{twin}/{step}"), seed - self.scope.seed
        images, reason = self._open(path)
        if images is not None and not 0 <= row < len(images):
            images, reason = None, f"{self._name(path)} holds no seed {seed}"
        return Picture(str(seed), None if images is None else np.array(images[row]), reason)

    def training_image(self, half: str, image_id: str) -> Picture:
        """Return a training image by half and id, without pixels where the run does not keep it."""
        return self._training_image(half, image_id).in_state(self.pictures).named(self.names)

    def _training_image(self, half: str, image_id: str) -> Picture:
        """Return a training image by id, of those that the run keeps."""
        if not image_id:
            return Picture("", None, NO_TRAINING if half in self.scope.halves else NO_TWIN)
        path = self.run.place(IMAGES, set_of(half))
        images, reason = self._open(path)
        row = self._rows[half].get(image_id)
        if images is not None and (row is None or row >= len(images)):
            images, reason = None, f"{self._name(path)} does not hold this image"
        return Picture(image_id, None if images is None else np.array(images[row]), reason)

    @cached_property
    def _rows(self) -> dict[str, dict[str, int]]:
        """The row of each kept training image, by half and id."""
        keys = {half: self.run.key(self.run.place(IMAGES, set_of(half))) or {} for half in (*TWINS, DECOYS)}
        return {half: {name: row for row, name in enumerate(key.get("ids", ()))} for half, key in keys.items()}

    def _open(self, path: Path) -> tuple[np.ndarray | None, str]:
        """Return an array of images, memory-mapped, or why there is none."""
        try:
            return np.load(path, mmap_mode="r"), ""
        except FileNotFoundError:
            return None, f"the run does not hold {self._name(path)}"
        except (OSError, ValueError, EOFError):
            return None, f"{self._name(path)} cannot be read"

    def _name(self, path: Path) -> str:
        return path.relative_to(self.run.root).as_posix()


def open_album(root: str | Path, pictures: str = SHOWN) -> Album:
    """Return the pictures of a run: shown as they are, or left out.

    Raises
    ------
    AuditError
        If there is no run here, or one of three or more trainings: their samples lie in the pairs.
    """
    run = RunDirectory(root)
    return album_of(run, run.read_record(), pictures)


def album_of(run: RunDirectory, record: Mapping[str, Any], pictures: str = SHOWN) -> Album:
    """Return the pictures of a run whose record has been read."""
    refuse_pairs(run, record)
    return Album(run, restored(Scope, record["scope"], run.record), pictures, copy_ratios(record))


def copy_ratios(record: Mapping[str, Any]) -> dict[str, float]:
    """Return by space d1 / d2 below which a sample counts as a copy in a run, where --fpr has set it; else 1/3."""
    return {space: ratio for space, ratio in (record["checks"].get("copy_ratio") or {}).items() if ratio}


def refuse_pairs(run: RunDirectory, record: Mapping[str, Any]) -> None:
    """Refuse to look for samples in a run of three or more trainings: its pairs are runs of their own."""
    if record.get("pairs"):
        folders = ", ".join(run.pair(*pair).root.relative_to(run.root).as_posix() for pair in record["pairs"])
        raise AuditError("The samples of this run lie in its pairs.", run.root, f"Choose one of them: {folders}.")


def quotient(above: float, below: float) -> float:
    """Return above / below; 0 for 0 / 0, infinite where only ``below`` is 0."""
    if below == 0:
        return 0.0 if above == 0 else math.inf if above > 0 else math.nan
    return above / below


def png(pixels: np.ndarray, scale: int = 1) -> bytes:
    """Return uint8 ``[h, w, c]`` as PNG bytes, each pixel drawn ``scale`` times ``scale``; the same bytes each time."""
    from PIL import Image

    image, out = as_image(pixels), io.BytesIO()
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(out, "PNG")
    return out.getvalue()


def png_pixels(pixels: np.ndarray) -> np.ndarray:
    """Return the channels that a PNG can hold.

    One is gray, two are gray and opacity, three are color, four are color and opacity; of
    more the first three are shown.
    """
    return pixels if pixels.shape[2] <= 4 else pixels[..., :3]


def as_image(pixels: np.ndarray) -> Image.Image:
    """Return uint8 ``[h, w, c]`` as an image of Pillow with the channels that a PNG can hold."""
    from PIL import Image

    shown = png_pixels(pixels)
    return Image.fromarray(np.ascontiguousarray(shown[..., 0] if shown.shape[2] == 1 else shown))


def in_color(pixels: np.ndarray) -> np.ndarray:
    """Return uint8 ``[h, w, c]`` as uint8 ``[h, w, 3]``: gray thrice, opacity left out."""
    shown = png_pixels(pixels)
    return np.repeat(shown[..., :1], 3, axis=2) if shown.shape[2] < 3 else shown[..., :3]
