"""``audit split``: two disjoint, equal, exchangeable halves and a held-out set, with a card of what was done.

What belongs together stays together: exact duplicates, near-duplicates (``nearness.py``), and the user's groups. These
clusters are the units that are drawn. Held-out ones are drawn evenly over classes and cluster sizes; the others are
paired with one of the same class and size, and a coin says which of a pair goes to which half: given classes and sizes,
every labelling is as likely as its mirror image, which is what the audit's tests by relabelling assume.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auditor import images, nearness
from auditor.errors import AuditError
from auditor.images import Reading, Source, identity, pictures
from auditor.noise import derived_seed
from auditor.records import Features

SETS = ("train-a", "train-b", "heldout")
LEAST = 40  # images that can be split at all


@dataclass(frozen=True)
class Options:
    """What ``audit split`` was asked for."""

    data: str
    seed: int = 0
    heldout: float = 0.2
    group_by: str | None = None
    near: float = nearness.NEAR
    window: tuple[float, float] | None = None


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

    def __len__(self) -> int:
        return len(self.source.ids)


@dataclass(frozen=True)
class Clusters:
    """What belongs together."""

    of: np.ndarray  # int64 [n], number of each image's cluster
    exact: int  # images that repeat another one exactly
    near: int  # images that have a near-duplicate which is no exact one
    next_distance: float  # least distance of two images that are not near-duplicates


@dataclass(frozen=True)
class Split:
    """Who goes where."""

    options: Options
    items: Items
    clusters: Clusters
    of: np.ndarray  # object [n], the set of each image


def split(options: Options, out: Path, say: Callable[[str], None] = lambda text: None) -> Split:
    """Return halves and held-out images of a data set; nothing is written.

    Raises
    ------
    AuditError
        For data that cannot be read or split, or a folder that holds a split already.
    """
    check(options, out)
    say("reading the images")
    items = read_items(options, out)
    say("looking for duplicates")
    clusters = find_clusters(items, options.near)
    say("drawing the halves")
    of = assign(clusters.of, items.labels, options)
    return Split(options, items, clusters, of)


def check(options: Options, out: Path) -> None:
    """Refuse what cannot be asked for, and to overwrite halves that somebody may be training on."""
    if not 0 <= options.heldout < 1:
        raise AuditError(f"A held-out share of {options.heldout} is none.", "--heldout", "Give 0 to 0.9, such as 0.2.")
    if not 0 <= options.near < 1:
        raise AuditError(f"{options.near} is no distance.", "--near", "Give 0 (only exact duplicates) to 0.9.")
    there = [name for name in SETS if (out / f"{name}.csv").exists()]
    if there:
        raise AuditError(
            f"There is a split already: {there[0]}.csv.", out, "Give another --out, or remove it if nothing uses it."
        )
    if out.exists() and not out.is_dir():
        raise AuditError("The folder to write to is a file.", out, "Give another --out.")


# What there is


def read_items(options: Options, out: Path) -> Items:
    """Look at every image once; only small versions are kept."""
    reading = Reading(options.window, convert_color=True)  # small versions are compared, nothing is trained on them
    source = images.open_source(options.data, Reading(options.window))
    n = len(source.ids)
    if n < LEAST:
        raise AuditError(f"{n} images are too few to split.", options.data, f"Give at least {LEAST}, better hundreds.")
    height, width, channels = images.native_shape(options.data, Reading(options.window))
    shape = (min(height, nearness.SIDE), min(width, nearness.SIDE), channels)
    tally: Counter[str] = Counter()
    digests, blank, brightness = [], [], []

    def small() -> Any:
        for row, picture in zip(range(n), source.pictures(range(n), tally), strict=True):
            whole = np.asarray(picture)
            digests.append(identity.digest(whole))
            blank.append(bool(whole.std() < identity.BLANK_BELOW))
            brightness.append(float(whole.mean()))
            yield pictures.fit(picture, shape, source.ids[row], reading, Counter())

    scratch = next(each for each in (out.absolute(), *out.absolute().parents) if each.is_dir())
    features = nearness.likeness("data", tuple(source.ids), small(), scratch)
    notes = (*source.notes, *pictures.notes(tally, n, shape, reading))
    groups = groups_by(source, options.group_by)
    labels = source.column(source.label)
    return Items(source, features, tuple(digests), np.array(blank), np.array(brightness), labels, groups, notes)


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
    found = [pattern.search(each) for each in source.ids]
    if None in found:
        without = source.ids[found.index(None)]
        raise AuditError(f"{asked!r} is no column, and the id {without!r} does not match it.", "--group-by", columns)
    return tuple(match[1] if pattern.groups else match[0] for match in found)


def find_clusters(items: Items, threshold: float) -> Clusters:
    """Return what belongs together: duplicates, near-duplicates and groups, and whatever these connect."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    exact = identity.duplicate_groups(items.digests)
    pairs, nearest = np.empty((0, 2), np.int64), np.array([np.inf])
    rows = np.flatnonzero(~items.blank)  # flat pictures are alike in nothing but being flat
    if threshold > 0 and len(rows) > 1:
        unique = rows[np.unique(exact[rows], return_index=True)[1]]
        features = Features("likeness", "data", items.features.vectors[unique], tuple(map(str, unique)))
        pairs, nearest = nearness.near_pairs(features, threshold)
        pairs = unique[pairs]
    joined = [pairs, same(exact)]
    if items.groups:
        joined.append(same(identity.duplicate_groups(items.groups)))
    edges = np.concatenate(joined)
    n = len(items)
    graph = coo_matrix((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(n, n))
    apart = nearest[np.isfinite(nearest) & (nearest >= threshold)]
    return Clusters(
        connected_components(graph, directed=False)[1].astype(np.int64),
        n - len(set(items.digests)),
        len(np.unique(pairs)),
        float(apart.min()) if len(apart) else float("nan"),
    )


def same(groups: np.ndarray) -> np.ndarray:
    """Return edges int64 ``[m, 2]`` from each member of a group to its first."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.column_stack([np.arange(len(groups)), first[inverse]])


# Who goes where


def assign(clusters: np.ndarray, labels: Sequence[str], options: Options) -> np.ndarray:
    """Return the set of each image, object ``[n]``."""
    rng = np.random.default_rng(derived_seed("split", options.seed))
    members = grouped(clusters)
    sizes = np.array([len(each) for each in members])
    classes = np.array([Counter(labels[i] for i in each).most_common(1)[0][0] if labels else "" for each in members])
    chance = rng.permutation(len(members))
    order = np.array(sorted(range(len(members)), key=lambda c: (classes[c], -sizes[c], chance[c])))
    held = held_out(len(order), options.heldout, float(rng.random()))
    of = np.empty(len(members), dtype=object)
    of[order[held]] = "heldout"
    of[order[~held]] = paired(sizes[order[~held]], rng)
    balance(of, sizes, order)
    named = of[clusters]
    halves = Counter(named)
    if min(halves["train-a"], halves["train-b"]) < LEAST // 4:
        raise AuditError(
            f"The halves would have {halves['train-a']} and {halves['train-b']} images.",
            options.data,
            "Give more images, smaller groups, or a smaller --heldout.",
        )
    return named


def grouped(clusters: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each cluster."""
    order = np.argsort(clusters, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(clusters[order])) + 1)


def held_out(n: int, share: float, start: float) -> np.ndarray:
    """Return bool per cluster in their order: every so many a one is held out, from a random start."""
    ends = np.arange(1, n + 1) * share + start
    return np.floor(ends) > np.floor(ends - share)


def paired(sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the half of each cluster: neighbours in the order are paired, a coin decides, the last odd one waits.

    Where the two of a pair differ in size, the larger goes to the half that has fewer images so far.
    """
    of = np.full(len(sizes), "heldout", dtype=object)  # an odd last one is left
    ahead = 0  # images of train-a beyond those of train-b
    for i in range(0, len(sizes) - 1, 2):
        difference = int(sizes[i] - sizes[i + 1])
        first_to_a = bool(rng.integers(2))
        if difference and ahead:
            first_to_a = (ahead < 0) == (difference > 0)
        of[i], of[i + 1] = ("train-a", "train-b") if first_to_a else ("train-b", "train-a")
        ahead += difference if first_to_a else -difference
    return of


def balance(of: np.ndarray, sizes: np.ndarray, order: np.ndarray) -> None:
    """Move clusters of the larger half to held-out until the halves are equal, as far as their sizes allow."""
    totals = {name: int(sizes[of == name].sum()) for name in SETS[:2]}
    larger = max(totals, key=lambda name: totals[name])
    surplus = totals[larger] - min(totals.values())
    for c in order[::-1]:
        if of[c] == larger and sizes[c] <= surplus:
            of[c] = "heldout"
            surplus -= sizes[c]
        if not surplus:
            return
