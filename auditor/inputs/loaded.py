"""What making needs beside what was asked: pictures, opened spaces, networks' files, samples that exist already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from auditor import checkpoints, spaces
from auditor.diffusion import sampling
from auditor.diffusion.scaling import Pixels
from auditor.inputs.asked import Asked
from auditor.inputs.samples import GivenSamples
from auditor.records import NOT_SAID, Facts, Flips, ImageSet, TwinPair

Say = Callable[[str, int], None]  # what is being done; network calls finished since the last word


@dataclass(frozen=True)
class Loaded:
    """What a process holds to make artifacts, read and checked."""

    asked: Asked
    pair: TwinPair
    facts: Facts  # what the checkpoints say of the model
    settings: checkpoints.ModelSettings
    sets: Mapping[str, ImageSet]  # train-a, train-b, heldout: those given
    digests: Mapping[str, tuple[str, ...]]  # per image
    in_pool: Mapping[str, np.ndarray]  # train-a, train-b: bool per image
    notes: tuple[str, ...]  # what had to be assumed or left out, in sentences
    spaces: Mapping[str, spaces.Space]
    pixels: Mapping[str, Pixels]  # twin -> how its training scaled pictures
    conditions: sampling.Conditions | None  # of samples, where the models are conditional
    groups: Mapping[str, np.ndarray]  # train-a, train-b: number of the group of each image
    given: GivenSamples | None = None  # samples that exist already; then there is no model
    classes: Mapping[str, np.ndarray] = field(default_factory=dict)  # per set: class of each image, where conditional
    preflight: Mapping[str, Any] = field(default_factory=dict)  # what was seen of the images, and of which
    class_pools: Mapping[str, np.ndarray] = field(default_factory=dict)  # train-a, train-b: compared within classes
    flips: Flips = NOT_SAID  # whether the trainings mirrored their images, and what says so

    @property
    def unit(self) -> str:
        """What the steps are counted in."""
        return self.pair.a.checkpoints[0].unit

    def roles(self, twin: str) -> dict[str, str]:
        """Return by image set its role for a twin: own, other, heldout."""
        return {f"train-{each}": "own" if each == twin else "other" for each in ("a", "b")} | {"heldout": "heldout"}
