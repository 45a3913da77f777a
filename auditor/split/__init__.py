"""``audit split``: two disjoint, equal, exchangeable halves and a held-out set, with a card of what was done.

Or, for one training, its images and a held-out set.

What belongs together stays together: exact duplicates, near-duplicates, and the user's groups. These clusters are the
units that are drawn. Held-out ones are drawn evenly over classes and cluster sizes; the others are paired with one of
the same class and size, and a coin says which of a pair goes to which half: given classes and sizes, every labelling is
as likely as its mirror image, which is what the audit's tests by relabeling assume.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from auditor.errors import AuditError
from auditor.images import groups, near_duplicates
from auditor.records import Features
from auditor.seeds import derived_seed
from auditor.split import trainers
from auditor.split.items import LEAST, Items, Options, open_clip, read_items, seen_by_clip

SETS = (*trainers.HALVES, "heldout")
ALONE = ("train", "heldout")  # for one training


@dataclass(frozen=True)
class Clusters:
    """What belongs together."""

    of: np.ndarray  # int64 [n], number of each image's cluster
    exact: int  # images that repeat another one exactly
    near: int  # images that have a near-duplicate which is no exact one
    next_distance: float  # least distance of two images that are not near-duplicates
    near_clip: int = 0  # images that have a near-duplicate in CLIP space which is no exact one
    next_clip_distance: float = float("nan")


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
    clip = open_clip(options) if options.near_clip > 0 else None  # first: reading may take long
    say("reading the images")
    items = read_items(options, out)
    if options.trainer:
        trainers.check_items(items, options)
    if clip is not None:
        say("embedding the images by CLIP")
        items = replace(items, clip=seen_by_clip(items.source, clip, options, out), clip_revision=clip.revision)
    say("looking for duplicates")
    clusters = find_clusters(items, options.near, options.near_clip)
    say("drawing the halves")
    of = assign(clusters.of, items.labels, options)
    return Split(options, items, clusters, of)


def sets_of(options: Options) -> tuple[str, ...]:
    """Return the names of the sets, those to train on first."""
    return ALONE if options.trainings == 1 else SETS


def check(options: Options, out: Path) -> None:
    """Refuse what cannot be asked for, and to overwrite halves that somebody may be training on."""
    if not 0 <= options.heldout < 1:
        raise AuditError(f"A held-out share of {options.heldout} is none.", "--heldout", "Give 0 to 0.9, such as 0.2.")
    if not 0 <= options.near < 1:
        raise AuditError(f"{options.near} is no distance.", "--near", "Give 0 (only exact duplicates) to 0.9.")
    if not 0 <= options.near_clip < 1:
        raise AuditError(f"{options.near_clip} is no distance.", "--near-clip", "Give 0 (do not look) to 0.9.")
    if options.trainings not in (1, 2):
        what = f"A split for {options.trainings} trainings is not known."
        raise AuditError(what, "--trainings", "Give 1 (images and held-out ones) or 2 (two halves and held-out ones).")
    if options.trainings == 1 and not options.heldout:
        what = "One training is audited beside images that were held out, and none are asked for."
        raise AuditError(what, "--heldout", "Give a share, such as 0.2.")
    there = [name for name in sorted({*SETS, *ALONE}) if (out / f"{name}.csv").exists()]
    if there:
        raise AuditError(
            f"There is a split already: {there[0]}.csv.", out, "Give another --out, or remove it if nothing uses it."
        )
    if options.trainer:
        trainers.check(options.trainer, out)
    if out.exists() and not out.is_dir():
        raise AuditError("The folder to write to is a file.", out, "Give another --out.")
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise AuditError(f"{str(out)!a} is no name in UTF-8.", "--out", "Give another --out.") from None


def find_clusters(items: Items, threshold: float, clip_threshold: float = 0.0) -> Clusters:
    """Return what belongs together: duplicates, near-duplicates and groups, and whatever these connect."""
    exact = groups.equal(items.digests)
    rows = np.flatnonzero(~items.blank)  # flat pictures are alike in nothing but being flat
    unique = rows[np.unique(exact[rows, 1], return_index=True)[1]]
    alike, apart = near_in(items.features, unique, threshold)
    in_clip, apart_in_clip = near_in(items.clip, unique, clip_threshold)
    given = [groups.equal(items.groups)] if items.groups else []
    return Clusters(
        of=groups.connected(len(items), [alike, in_clip, exact, *given]),
        exact=len(items) - len(set(items.digests)),
        near=len(np.unique(alike)),
        next_distance=apart,
        near_clip=len(np.unique(in_clip)),
        next_clip_distance=apart_in_clip,
    )


def near_in(features: Features | None, rows: np.ndarray, threshold: float) -> tuple[np.ndarray, float]:
    """Return the near-duplicates among some images, int64 ``[m, 2]``, and the least distance of two that are none."""
    if features is None or threshold <= 0 or len(rows) < 2:
        return np.empty((0, 2), np.int64), float("nan")
    pairs, nearest = near_duplicates.near_pairs(features.rows(rows), threshold)
    apart = nearest[np.isfinite(nearest) & (nearest >= threshold)]
    return rows[pairs], float(apart.min()) if len(apart) else float("nan")


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
    if options.trainings == 1:
        of[order[~held]] = "train"
    else:
        of[order[~held]] = paired(sizes[order[~held]], rng)
        balance(of, sizes, order)
    named = of[clusters]
    found = Counter(named)
    trained = [found[name] for name in sets_of(options)[:-1]]
    if min(trained) < LEAST // 4:
        raise AuditError(
            f"The {'halves' if len(trained) > 1 else 'training'} would have {' and '.join(map(str, trained))} images.",
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
    """Return the half of each cluster: neighbors in the order are paired, a coin decides, the last odd one waits.

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
