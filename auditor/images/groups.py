"""Which training images belong together: equal ones, near-duplicates, and those of one patient or source.

Statistics 1.1: every resample, fold and relabeling moves whole groups, and a group that has
images in both halves leaves every own-versus-other statistic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from auditor import images
from auditor.images import near_duplicates
from auditor.records import DECOYS, ImageSet, is_half

# Images of all sets together among which near-duplicates are sought; the search grows with their square.
SOUGHT = 50_000


@dataclass(frozen=True)
class Groups:
    """The groups of the training images."""

    numbers: Mapping[str, np.ndarray]  # set -> int64 [n], equal within a group
    spanning: Mapping[str, set[str]]  # set -> ids of images whose group has images in another set, too
    notes: tuple[str, ...]


def find(sets: Mapping[str, ImageSet], digests: Mapping[str, Sequence[str]]) -> Groups:
    """Return the groups of the training sets among ``sets``, and of decoys."""
    names = [name for name in sets if is_half(name)]
    if not names:
        return Groups({}, {}, ())
    sizes = [len(sets[name]) for name in names]
    n, of = sum(sizes), np.repeat(np.arange(len(names)), sizes)
    near = near_edges([sets[name] for name in names]) if n <= SOUGHT else np.empty((0, 2), np.int64)
    exact = equal([each for name in names for each in digests[name]])
    numbers = connected(n, [near, exact, *named_edges([sets[name] for name in names])])
    parts = dict(zip(names, np.split(numbers, np.cumsum(sizes)[:-1]), strict=True))
    wide = np.flatnonzero(np.bincount(np.unique(np.column_stack([numbers, of]), axis=0)[:, 0]) > 1)
    spanning = {name: {sets[name].ids[i] for i in np.flatnonzero(np.isin(part, wide))} for name, part in parts.items()}
    return Groups(parts, spanning, tuple(notes_on(parts, spanning, len(np.unique(near)), n)))


def near_edges(sets: Sequence[ImageSet]) -> np.ndarray:
    """Return pairs of near-duplicates over all sets, int64 ``[m, 2]``; blank pictures are alike in nothing."""
    pictures = np.concatenate([each.images for each in sets])
    kept = np.flatnonzero(~np.concatenate([images.is_blank(each) for each in sets]))
    if len(kept) < 2:
        return np.empty((0, 2), np.int64)
    features = near_duplicates.likeness("train", tuple(map(str, kept)), (pictures[i] for i in kept))
    return kept[near_duplicates.near_pairs(features, near_duplicates.NEAR)[0]]


def named_edges(sets: Sequence[ImageSet]) -> list[np.ndarray]:
    """Return pairs of images of one given group, over all sets; none where no groups are given."""
    if not any(each.groups for each in sets):
        return []
    alone = (f"\0{each.name}/{image}" for each in sets for image in each.ids)  # an image without a group is its own
    given = (group for each in sets for group in (each.groups or ("",) * len(each)))
    return [equal([group or own for group, own in zip(given, alone, strict=True)])]


def equal(names: Sequence[str]) -> np.ndarray:
    """Return edges int64 ``[m, 2]`` from each image to the first of the same name: a digest, or a patient."""
    numbers = images.duplicate_groups(names)
    first = np.unique(numbers, return_index=True)[1]
    return np.column_stack([np.arange(len(numbers)), first[numbers]])


def connected(n: int, edges: Sequence[np.ndarray]) -> np.ndarray:
    """Return the number of each image's group, int64 ``[n]``, where edges ``[m, 2]`` connect images of one group."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows, columns = np.concatenate(edges).T
    graph = coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def notes_on(parts: Mapping[str, np.ndarray], spanning: Mapping[str, set[str]], n_near: int, n: int) -> list[str]:
    """Return what was found, in sentences."""
    notes = []
    if n > SOUGHT:
        notes.append(f"Near-duplicates were not sought among {n:,} training images: only equal images are grouped.")
    elif n_near:
        which = "training and held-out" if DECOYS in parts else "training"
        notes.append(f"{n_near} {which} images are near-duplicates of others (correlation above .98): one group each.")
    for name, part in parts.items():
        if len(np.unique(part)) < len(part):
            notes.append(
                f"{len(part)} images of {plain_name(name)} form {len(np.unique(part))} groups, "
                "which are moved as a whole."
            )
    if any(spanning.values()):
        told = " and ".join(f"{len(ids)} of {plain_name(name)}" for name, ids in spanning.items())
        both = "on both sides" if DECOYS in parts else "in both halves"
        notes.append(
            f"{told} belong to groups with images {both} (near-duplicates, or one patient): they are left out "
            "of every own-versus-other statistic."
        )
    return notes


def plain_name(name: str) -> str:
    """Return what a reader calls an image set."""
    return "heldout" if name == DECOYS else name
