"""Checkpoint formats, one per file: what each offers, and what docs/formats.md says of it.

A format is a class named in ``registry.FORMATS``, or offered by another package as an entry point of the group
``auditor.formats``. It is made from `ModelSettings` and keeps to `Format`; ``files.WeightFiles`` has what formats of
one weight file per step share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from auditor.checkpoints.settings import ModelSettings
from auditor.diffusion.model import DiffusionModel
from auditor.records import Checkpoint, Facts, Flips, Found
from auditor.registry import lookup

Unusable = list[tuple[int, Path, str]]  # step (-1: none), path, reason


@dataclass(frozen=True)
class Guide:
    """What docs/formats.md says of a format."""

    trainers: str  # whose files these are
    layout: str  # folders and files
    weights: str  # where raw weights and averages are
    schedule: str  # where the noise schedule and the prediction type come from
    command: str  # what to add to audit run
    tested: str  # on what files
    examples: tuple[tuple[str, str], ...] = (("", ""),)  # (for what, options to add): whole commands on the page


class Format(Protocol):
    """What every format offers; its constructor takes `ModelSettings`, or nothing.

    Whatever is wrong with a file is a ``CheckpointError`` that names it: the rest of the series can still be audited.
    """

    name: str  # as in the registry
    uses: tuple[str, ...]  # of base, autoencoder, model, model_config and prompts; a format that does not say uses all
    REVISION: int  # raised whenever the samples of a checkpoint would change
    guide: Guide

    def find(self, root: Path) -> tuple[list[Found], Unusable]:
        """Return the usable steps directly under ``root``, and what is not usable with reasons.

        It reads names and headers, imports no torch and never unpickles. What it does not know it passes over: a
        folder without any of its files gives two empty lists. A folder above a series is found by the suffixes in
        ``names.WEIGHT_SUFFIXES`` alone; a format of other files is asked about the folder that the user gives.
        """
        ...

    def facts(self, checkpoint: Checkpoint) -> Facts:
        """Return what the headers say of the model."""
        ...

    def schedule(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        """Return the noise schedule saved with it, as a scheduler configuration (diffusion/schedules.py), or None."""
        ...

    def flips(self, checkpoint: Checkpoint) -> Flips:
        """Return whether the training mirrored its images, as its files say it (``flips.py``)."""
        ...

    def inspect(self, checkpoint: Checkpoint) -> str:
        """Return the digest over every byte that ``load`` reads; weights that are not finite or do not fit are refused.

        Two checkpoints of equal digest are one network.
        """
        ...

    def load(self, checkpoint: Checkpoint, scheduler_config: Mapping[str, Any], device: str) -> DiffusionModel:
        """Return the network as it was trained, in float32 on ``device``, in evaluation mode and without gradients.

        It predicts what ``scheduler_config`` says, in the units of its own process; ``checkpoints.load`` puts it into
        the one convention inside. Files of another digest than the checkpoint's, where it has one, are refused.
        """
        ...


def open_format(name: str, settings: ModelSettings | None = None) -> Format:
    """Return the format called ``name``, told what the user says."""
    opened: Format = lookup("format", name)(settings or ModelSettings())
    return opened
