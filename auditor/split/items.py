"""The images of a data set as ``audit split`` needs them: looked at once, or twice with CLIP, and only vectors kept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from auditor import images, spaces
from auditor.diffusion.device import resolve_device
from auditor.errors import AuditError
from auditor.images import Reading, Source, captions, identity, near_duplicates, pictures, pixels
from auditor.records import Features

LEAST = 40  # images that can be split at all
SEEN_BY_CLIP = 224  # pixels a side, at most; it resizes what is smaller
EMBEDDED_AT_ONCE = 64


@dataclass(frozen=True)
class Options:
    """What ``audit split`` was asked for."""

    data: str
    seed: int = 0
    heldout: float = 0.2
    group_by: str | None = None
    near: float = near_duplicates.NEAR
    window: tuple[float, float] | None = None
    skip_unreadable: bool = False
    near_clip: float = 0.0  # none
    clip_model: str = spaces.SpaceSettings.clip_model
    clip_weights: str = spaces.SpaceSettings.clip_weights
    device: str = "auto"  # of CLIP
    trainings: int = 2  # or 1: one set to train on
    trainer: str | None = None  # for which folders are written, too


@dataclass(frozen=True)
class Items:
    """Every image of a data set, as far as splitting needs it."""

    source: Source
    features: Features  # space "likeness"
    digests: tuple[str, ...]  # of the decoded picture at its own size
    blank: np.ndarray  # bool [n]
    brightness: np.ndarray  # float64 [n], mean over pixels
    labels: tuple[str, ...]  # empty where not known
    groups: tuple[str, ...]  # the user's; empty where not given
    notes: tuple[str, ...]
    captions: tuple[str, ...] = ()  # empty where not every image has one
    repeats: tuple[float, ...] = ()  # how often each is shown per epoch; empty where that is not said
    clip: Features | None = None  # where near-duplicates are looked for there, too
    clip_revision: str = ""

    def __len__(self) -> int:
        return len(self.source.ids)


def read_items(options: Options, out: Path) -> Items:
    """Look at every image once; only small versions are kept."""
    reading = Reading(options.window, convert_color=True)  # small versions are compared, nothing is trained on them
    source = images.open_source(options.data, Reading(options.window, skip_unreadable=options.skip_unreadable))
    n = len(source.ids)
    if n < LEAST:
        raise AuditError(f"{n} images are too few to split.", options.data, f"Give at least {LEAST}, better hundreds.")
    words, repeats, told = captions_of(source, options)
    shape = no_larger(source, near_duplicates.SIDE)
    tally: Counter[str] = Counter()
    digests, blank, brightness = [], [], []

    def small() -> Any:
        for row, picture in zip(range(n), source.pictures(range(n), tally), strict=True):
            whole = np.asarray(picture)
            digests.append(identity.digest(whole))
            blank.append(identity.is_flat(whole))
            brightness.append(float(whole.mean()))
            yield pictures.fit(picture, shape, source.ids[row], reading, Counter())

    features = near_duplicates.likeness("data", tuple(source.ids), small(), pixels.scratch_near(out))
    notes = (*source.notes, *told, *pictures.notes(tally, n, shape, reading))
    return Items(
        source=source,
        features=features,
        digests=tuple(digests),
        blank=np.array(blank),
        brightness=np.array(brightness),
        labels=source.column(source.label),
        groups=groups_by(source, options.group_by),
        notes=notes,
        captions=words,
        repeats=repeats,
    )


def captions_of(source: Source, options: Options) -> tuple[tuple[str, ...], tuple[float, ...], tuple[str, ...]]:
    """Return captions, repeats and what is to be said of them.

    Where only lists are written, what is wrong with captions is said, and they are left out of the lists.
    """
    if not source.caption:
        return (), (), ()
    try:
        found = source.column(source.caption)
        problem = captions.incomplete(found, source.ids, options.data)
    except AuditError as error:
        problem = error
    if problem:
        if options.trainer:
            raise problem
        return (), (), (f"The lists have no captions. {problem.what}.",)
    repeats = tuple(map(float, source.column(captions.REPEATS))) if captions.REPEATS in source.columns else ()
    if not any(found):
        return (), repeats, ()
    return found, repeats, (f"Every image has a caption; {len(set(found)):,} of them are different.",)


def no_larger(source: Source, side: int) -> tuple[int, int, int]:
    """Return (h, w, c) of the first picture, at most ``side`` pixels high and wide."""
    height, width, channels = images.native_shape(source)
    return min(height, side), min(width, side), channels


def open_clip(options: Options) -> spaces.Space:
    """Return the CLIP space, or raise what is wrong with its weights."""
    settings = spaces.SpaceSettings(
        device=resolve_device(options.device),
        clip_model=options.clip_model,
        clip_weights=options.clip_weights,
        instead="leave --near-clip out",
    )
    return spaces.open_space("clip", settings)


def seen_by_clip(source: Source, clip: spaces.Space, options: Options, out: Path) -> Features:
    """Return CLIP's vectors of all images, in which distance is sqrt(2 (1 - cosine)); a batch is in memory at once.

    Pictures are decoded a second time: that takes little beside the network, and nothing else is kept of them.
    """
    shape, reading, n = no_larger(source, SEEN_BY_CLIP), Reading(options.window, convert_color=True), len(source.ids)

    def vectors() -> Iterator[np.ndarray]:
        found = source.pictures(range(n), Counter())
        fitted = (pictures.fit(each, shape, source.ids[i], reading, Counter()) for i, each in enumerate(found))
        while batch := list(islice(fitted, EMBEDDED_AT_ONCE)):
            yield from spaces.embed(clip, np.stack(batch), EMBEDDED_AT_ONCE)

    stored = pixels.stored(n, vectors(), pixels.scratch_near(out))
    return Features("clip", "data", stored, tuple(source.ids))


def groups_by(source: Source, asked: str | None) -> tuple[str, ...]:
    """Return the user's groups: a column, or what a regular expression finds in the ids."""
    if asked is None:
        return source.column(source.group)
    if asked in source.columns:
        return source.column(asked)
    columns = f"Columns here: {', '.join(source.columns) or 'none'}; the first id is {source.ids[0]!r}."
    try:
        pattern = re.compile(asked)
    except re.error as error:
        raise AuditError(
            f"{asked!r} is neither a column nor a regular expression: {error}.", "--group-by", columns
        ) from None
    groups = []
    for each in source.ids:
        match = pattern.search(each)
        if match is None:
            raise AuditError(f"{asked!r} is no column, and the id {each!r} does not match it.", "--group-by", columns)
        groups.append(match[1] if pattern.groups else match[0])
    return tuple(groups)
