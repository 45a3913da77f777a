"""The image sets of an audit: read, compared with one another, and what of them takes part in which statistic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from auditor import images
from auditor.config import N_EXCHANGEABLE, AuditConfig
from auditor.errors import AuditError
from auditor.images import groups, mirror, pixels
from auditor.inputs import preflight
from auditor.inputs.loaded import Say
from auditor.records import DECOYS, ImageSet, is_half, set_of
from auditor.run import RunDirectory
from auditor.seeds import derived_seed
from auditor.stats.relabeling import Pool, relabel, two_sided_p

LEAST_IMAGES = 10  # of every image set
N_FILE_RELABELINGS = 999  # of what is told and bars nothing


def read(config: AuditConfig, image_shape: tuple[int, int, int]) -> dict[str, ImageSet]:
    """Return the image sets that were given, at the model's shape."""
    given = {"train-a": config.train_a, "train-b": config.train_b, "heldout": config.heldout}
    named = dict(each.split("=", 1) for each in config.train)  # of one model that was trained on several sets

    def one(source: str, name: str) -> ImageSet:
        use_cache, scratch = not config.no_cache, scratch_of(config)
        return images.read(source, name, image_shape, reading_of(config), use_cache=use_cache, scratch=scratch)

    found = {name: one(source, name) for name, source in given.items() if source is not None}
    if named and not config.ckpts:
        found["train-a"] = as_one_set({half: one(source, set_of(half)) for half, source in named.items()}, "train-a")
    return found


def as_one_set(sets: Mapping[str, ImageSet], name: str) -> ImageSet:
    """Return several sets as one; ids become half/id, for halves may hold the same names."""
    every = list(sets.values())
    labels, groups = (
        sum((getattr(each, of) for each in every), ()) if all(getattr(each, of) for each in every) else ()
        for of in ("labels", "groups")
    )
    return ImageSet(
        name=name,
        images=np.concatenate([each.images for each in every]),
        ids=tuple(f"{half}/{i}" for half, each in sets.items() for i in each.ids),
        notes=tuple(dict.fromkeys(note for each in every for note in each.notes)),
        labels=labels,
        groups=groups,
        parts=tuple((each.name, len(each)) for each in every),
    )


def reading_of(config: AuditConfig) -> images.Reading:
    """Return what may be done to pictures."""
    return images.Reading(config.window_limits, config.convert_color, skip_unreadable=config.skip_unreadable)


def scratch_of(config: AuditConfig) -> Path:
    """Return the folder for memory maps, on the disk that the run will be on."""
    return pixels.scratch_near(Path(config.out or "."))


def trained(sets: Mapping[str, ImageSet]) -> list[np.ndarray]:
    """Return the images of the halves, uint8 ``[n, h, w, c]`` each, a's first."""
    return [sets[name].images for name in sorted(sets) if name.startswith("train-")]


def check_overlaps(sets: Mapping[str, ImageSet], allow: bool) -> tuple[dict[str, set[str]], tuple[str, ...]]:
    """Return the ids per set that some other set also holds; refuse them unless allowed."""
    shared: dict[str, set[str]] = {name: set() for name in sets}
    notes = []
    for first, second in combinations(sorted(sets), 2):
        pairs = images.check_overlap(sets[first], sets[second], allow)
        shared[first] |= {a for a, _ in pairs}
        shared[second] |= {b for _, b in pairs}
        if pairs:
            left = "held-out" if "heldout" in (first, second) else "every own-versus-other statistic"
            notes.append(
                f"{first} and {second} share {len({a for a, _ in pairs})} images (--allow-overlap): "
                f"they are left out of {left}."
            )
    return shared, tuple(notes)


def without_leaks(sets: Mapping[str, ImageSet], shared: Mapping[str, set[str]]) -> dict[str, ImageSet]:
    """Return the sets, held-out without images that a half also holds: a leaked one is no control."""
    kept = dict(sets)
    if shared.get("heldout"):
        whole = sets["heldout"]
        rows = [i for i, each in enumerate(whole.ids) if each not in shared["heldout"]]
        kept["heldout"] = whole.rows(rows)
    return kept


def looked_at(sets: Mapping[str, ImageSet], config: AuditConfig, run: RunDirectory, say: Say) -> dict[str, Any]:
    """Return what a look at the images says; the same images are not looked at twice in one run directory."""
    of = {name: images.set_digest(each) for name, each in sets.items()}
    key = {"of": of, "revision": preflight.REVISION, "allow_overlap": config.allow_overlap, "seed": config.seed}
    earlier = run.earlier().get("preflight", {})
    if {name: earlier.get(name) for name in key} == key:
        return earlier
    say("looking at the images", 0)
    return key | {"notes": preflight.check(sets, config.seed, config.allow_overlap)}


def require_enough(sets: Mapping[str, ImageSet]) -> None:
    """Refuse sets on which no statistic can rest."""
    for name, each in sets.items():
        if len(each) < LEAST_IMAGES:
            raise AuditError(
                f"{name} has {len(each)} images; no statistic can rest on so few.",
                f"--{name}",
                f"Give at least {LEAST_IMAGES}, better hundreds.",
            )


def require_calibration(fpr: float | None, sets: Mapping[str, ImageSet]) -> None:
    """Refuse a false-positive rate that the held-out images cannot set: each fold needs one expected hit."""
    if fpr is None:
        return
    needed = int(np.ceil(2 / fpr)) if fpr > 0 else 0
    have = len(sets.get("heldout", ()))
    if fpr <= 0 or "train-a" not in sets or have < needed:
        raise AuditError(
            f"A false-positive rate of {fpr} cannot be set with {have} held-out images.",
            "--fpr",
            f"Give --train-a, --train-b and at least {needed or 'some'} held-out images (2 / rate), or a larger rate.",
        )


def with_mirrored(sets: Mapping[str, ImageSet], scratch: Path) -> dict[str, ImageSet]:
    """Return the sets, those that were trained on with each image mirrored, too."""
    return {name: mirror.with_mirrored(each, scratch) if is_half(name) else each for name, each in sets.items()}


def decoys(sets: Mapping[str, ImageSet]) -> dict[str, ImageSet]:
    """Return the held-out images of a single training once more, in the place of a twin's half.

    As such they are mirrored where training images are, and near-duplicates leave the pool; as held-out images they
    stay the control that they are beside two trainings.
    """
    return {DECOYS: replace(sets["heldout"], name=DECOYS)}


def grouped_with_mirrors(
    plain: Mapping[str, ImageSet], digests: Mapping[str, tuple[str, ...]], mirrored: bool
) -> groups.Groups:
    """Return the groups of the training images; mirror images belong to their originals' groups."""
    if not mirrored:
        return groups.find(plain, digests)
    found = groups.find(plain, {name: mirror.either(each) for name, each in digests.items() if name != "heldout"})
    return replace(found, numbers={name: np.tile(each, 2) for name, each in found.numbers.items()})


def pool_masks(
    sets: Mapping[str, ImageSet], shared: Mapping[str, set[str]], seed: int, mirrored: bool = False
) -> dict[str, np.ndarray]:
    """Return which training images take part in own-versus-other statistics.

    Not blank, not shared, and the larger half subsampled by the run seed to the size of
    the smaller (docs/statistics.md 1.1); decoys beside a single training keep their number (14.1).
    Mirrored images go with their originals.
    """
    masks = {}
    for name in filter(is_half, sets):
        distinct = np.array([i not in shared[name] for i in sets[name].ids])
        masks[name] = distinct & ~images.is_blank(sets[name])
        if mirrored:
            masks[name] = masks[name].reshape(2, -1).all(axis=0)
    size = min((mask.sum() for mask in masks.values()), default=0)
    if masks and size < LEAST_IMAGES:
        raise AuditError(
            f"{size} images of a half are left for own-versus-other statistics: others are blank or shared.",
            "--train-a, --heldout" if DECOYS in masks else "--train-a, --train-b",
            f"Give two disjoint sets of at least {LEAST_IMAGES} images.",
        )
    if DECOYS in masks:
        return {name: np.tile(mask, 2) for name, mask in masks.items()} if mirrored else masks
    chosen = {name: subsample(mask, int(size), derived_seed("pool", name, seed)) for name, mask in masks.items()}
    return {name: np.tile(mask, 2) for name, mask in chosen.items()} if mirrored else chosen


def subsample(mask: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return the mask with ``size`` of its true entries kept, chosen by ``seed``."""
    if mask.sum() == size:
        return mask
    kept = np.random.default_rng(seed).choice(np.flatnonzero(mask), size, replace=False)
    chosen = np.zeros_like(mask)
    chosen[kept] = True
    return chosen


def unlike_files(sets: Mapping[str, ImageSet], groups_of: Mapping[str, np.ndarray], seed: int) -> list[str]:
    """Return that the files of training and held-out images differ in size or date, by relabeling (14.3).

    It is told and bars nothing: whoever copies one set after the other makes other dates.
    """
    both = [sets.get(name) for name in ("train-a", DECOYS)]
    if any(each is None or each.files is None for each in both):
        return []
    of, parts = [each for each in both if each is not None], []
    sizes = [len(each) for each in of]
    for each, name in zip(of, ("train-a", DECOYS), strict=True):
        parts.append(groups_of[name][: len(each)])
    _, member = np.unique(np.concatenate(parts), return_inverse=True)
    side = np.repeat([1.0, -1.0], sizes)
    pool = Pool(tuple((str(i), "") for i in range(sum(sizes))), side, 2 * member + (side > 0))  # groups on one side
    relabeling, said = relabel(pool, derived_seed("files", seed), N_FILE_RELABELINGS), []
    for column, what, unit in ((0, "size", "bytes"), (1, "date", "")):
        values = np.concatenate([each.files[:, column] for each in of if each.files is not None])
        p = two_sided_p(relabeling, rankdata(values))
        if p < N_EXCHANGEABLE:
            middle = [np.median(part) for part in np.split(values, sizes[:1])]
            shown = [f"{x:,.0f} {unit}" if unit else f"{datetime.fromtimestamp(x, UTC):%Y-%m-%d %H:%M}" for x in middle]
            said.append(
                f"Files of training and held-out images differ in {what} more than chance explains (medians {shown[0]} "
                f"and {shown[1]}, p {p:.2g}): if they were not held out at random from one set, they are no control."
            )
    return said


def duplicate_notes(digests: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return one sentence per set that holds exact duplicates."""
    return [
        f"{name} holds {len(each) - len(set(each))} exact duplicates of its own images, which count as one group."
        for name, each in digests.items()
        if len(set(each)) < len(each)
    ]


def pool_notes(pools: Mapping[str, np.ndarray]) -> list[str]:
    """Return one sentence per half of which not every image takes part in own-versus-other statistics."""
    sizes = "" if DECOYS in pools else ", halves of equal size"
    return [
        f"{int(mask.sum())} of {len(mask)} images of {'heldout' if name == DECOYS else name} take part in "
        f"own-versus-other statistics: without blank and shared images{sizes}."
        for name, mask in pools.items()
        if not mask.all()
    ]
