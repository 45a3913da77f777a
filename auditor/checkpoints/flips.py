"""Whether trainings mirrored their images left to right at random, as far as their files say it.

A model that was shown mirror images can draw them, so that copies of them must be looked for (docs/data.md). Only what
a trainer wrote is believed; what cannot be read says nothing, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from auditor.checkpoints.configs import read_json
from auditor.checkpoints.headers import Header
from auditor.errors import CheckpointError
from auditor.records import NOT_SAID, Flips

MAX_YAML = 2**20  # bytes of a configuration
MAX_LOGS = 50  # runs of one folder of logs that are looked into


def first_said(answers: Iterable[Flips]) -> Flips:
    """Return the first answer that is one, else the first reason why there is none."""
    every = list(answers)
    said = [one for one in every if one.mirrored is not None]
    return next(iter(said or [one for one in every if one.source]), NOT_SAID)


def of_kohya(header: Header) -> Flips:
    """Return what kohya sd-scripts wrote into a header: ``flip_aug`` of each subset, or of the whole training."""
    whole, sets = header.metadata.get("ss_flip_aug"), header.metadata.get("ss_datasets")
    if whole in ("True", "False"):
        return Flips(whole == "True", "ss_flip_aug in the header")
    if sets is None:
        return NOT_SAID
    try:
        said = [subset["flip_aug"] for each in json.loads(sets) for subset in each["subsets"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return Flips(None, "ss_datasets in the header cannot be read")
    return Flips(any(one is True for one in said), "flip_aug of ss_datasets in the header") if said else NOT_SAID


def of_edm(folder: Path) -> Flips:
    """Return what ``training_options.json`` of EDM and EDM2 says beside the snapshots: of its data, and of its pipe.

    Both lack ``xflip`` where the data were not mirrored; ``augment_kwargs`` mirror every image that the pipe changes.
    """
    path = folder / "training_options.json"
    if not path.exists():
        return NOT_SAID
    try:
        options = read_json(path, CheckpointError)
    except CheckpointError as error:
        return Flips(None, error.what.rstrip("."))
    data, pipe = options.get("dataset_kwargs"), options.get("augment_kwargs")
    if not isinstance(data, dict):
        return Flips(None, f"{path.name} holds no dataset_kwargs")
    if data.get("xflip") is True:
        return Flips(True, f"dataset_kwargs.xflip in {path.name}")
    if isinstance(pipe, dict) and pipe.get("xflip"):
        return Flips(True, f"augment_kwargs.xflip in {path.name}")
    return Flips(False, f"dataset_kwargs in {path.name}")


def of_ai_toolkit(folder: Path) -> Flips:
    """Return what ``config.yaml`` of ai-toolkit says beside the series: ``flip_x`` of each of its data sets."""
    path = next((folder / name for name in ("config.yaml", "config.yml") if (folder / name).is_file()), None)
    if path is None:
        return NOT_SAID
    content = _yaml(path)
    if isinstance(content, Flips):
        return content
    try:
        sets = [one for process in content["config"]["process"] for one in process.get("datasets") or []]
        said = [one.get("flip_x", False) for one in sets]
    except (TypeError, KeyError, AttributeError):
        return NOT_SAID  # of another program
    return Flips(any(one is True for one in said), f"flip_x in {path.name}") if said else NOT_SAID


def of_tracker(root: Path) -> Flips:
    """Return what diffusers' training scripts gave their tracker: ``random_flip`` in ``logs/NAME/TIME/hparams.yml``.

    A training that was resumed has several; it mirrored its images where one of them says so.
    """
    paths = sorted((root / "logs").glob("*/*/hparams.yml"))[-MAX_LOGS:]
    found = [_random_flip(path) for path in paths]
    return next((one for one in found if one.mirrored), first_said(found))


def _random_flip(path: Path) -> Flips:
    content = _yaml(path)
    if isinstance(content, Flips):
        return content
    value = content.get("random_flip") if isinstance(content, dict) else None
    return Flips(value, f"random_flip in {path.name}") if isinstance(value, bool) else NOT_SAID


def _yaml(path: Path) -> Any:
    """Return the content of a YAML file without making objects, or why nothing is known."""
    import yaml

    try:
        if path.stat().st_size > MAX_YAML:
            return Flips(None, f"{path.name} has {path.stat().st_size:,} bytes, more than any configuration")
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return Flips(None, f"{path.name} cannot be read")
