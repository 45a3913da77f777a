"""Images looked at before the first network call: what would make an audit wrong is refused, what limits it is said.

Each set is judged by at most 2,000 of its images, drawn by the run seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from auditor import images
from auditor.config import N_EXCHANGEABLE
from auditor.errors import AuditError
from auditor.images import near_duplicates
from auditor.records import Features, ImageSet
from auditor.seeds import derived_seed

REVISION = 1
LOOKED_AT = 2000  # images of each set
MOSTLY = 0.2  # share of near-duplicates in another set from which two sets are one
USUAL = 2  # times as many as within the set: pictures that share their background are all alike, and no copies
BLANK_SHARE = 0.5  # of a set, from which it is refused
UNEVEN = 1.1  # ratio of the halves' sizes
CONTRAST = 1.25  # ratio of the sets' contrasts
FEW_HELDOUT = 200
DARK = 64  # a largest pixel value below this is said


@dataclass(frozen=True)
class Look:
    """What is seen of one set."""

    name: str
    features: Features | None  # of those that are not flat, in space "likeness"; None where all are
    digests: tuple[str, ...]  # of the same
    mean: np.ndarray  # the mean picture, float64 [d]
    contrast: float  # mean standard deviation of a picture
    largest: int  # pixel value
    blank: int  # images, of the whole set


def check(sets: Mapping[str, ImageSet], seed: int, allow_overlap: bool) -> list[str]:
    """Return what should be known of the images, in sentences.

    Raises
    ------
    AuditError
        If pixel values are fractions cut to integers, a set is mostly blank, or two sets
        are mostly near-duplicates of each other.
    """
    looks = {name: look(each, seed) for name, each in sets.items()}
    for each in looks.values():
        refuse_unusable(each, len(sets[each.name]))
    return [
        *sizes(sets),
        *(line for each in looks.values() for line in of_one(each, len(sets[each.name]))),
        *(line for pair in combinations(looks.values(), 2) for line in scaled_differently(*pair)),
        *(line for pair in combinations(sorted(looks), 2) for line in near_overlap(looks, sets, pair, allow_overlap)),
        *classes(sets),
    ]


def look(image_set: ImageSet, seed: int) -> Look:
    """Look at some images of a set."""
    n = len(image_set)
    rng = np.random.default_rng(derived_seed("preflight", image_set.name, seed))
    rows = np.sort(rng.permutation(n)[:LOOKED_AT])
    some = np.asarray(image_set.images[rows])
    blank = images.is_blank(image_set)
    seen = rows[~blank[rows]]
    digests = images.digests(image_set)
    return Look(
        name=image_set.name,
        features=near_duplicates.of_set(image_set, seen) if len(seen) else None,
        digests=tuple(digests[i] for i in seen),
        mean=some.mean(axis=0, dtype=np.float64).ravel(),
        contrast=float(np.mean([each.std() for each in some])),
        largest=int(some.max()),
        blank=int(blank.sum()),
    )


def refuse_unusable(seen: Look, n: int) -> None:
    """Refuse sets whose pixels carry nothing."""
    if seen.largest <= 1:
        raise AuditError(
            f"Every pixel of {seen.name} is 0 or 1 of 255: fractions that were cut to integers.",
            f"--{seen.name}",
            "Save the pictures as uint8 from 0 to 255, or as floats from 0 to 1.",
        )
    if seen.blank > BLANK_SHARE * n:
        raise AuditError(
            f"{seen.blank} of {n} images of {seen.name} are blank (standard deviation below 2 of 255).",
            f"--{seen.name}",
            "Check the range of the pixel values, and --window if it is given.",
        )


def sizes(sets: Mapping[str, ImageSet]) -> Iterator[str]:
    """Yield what the sizes limit."""
    halves = [len(sets[name]) for name in ("train-a", "train-b") if name in sets]
    if len(halves) == 2 and max(halves) > UNEVEN * min(halves):
        yield (
            f"The halves have {halves[0]} and {halves[1]} images: own-versus-other statistics use equal numbers, but "
            "the model of the smaller half had fewer images to learn from."
        )
    heldout = len(sets.get("heldout", ()))
    if 0 < heldout < FEW_HELDOUT:
        yield (
            f"{heldout} held-out images say little of false alarms: a rule that flags none of them may still flag "
            f"{3 / heldout:.1%} of real images."
        )


def of_one(seen: Look, n: int) -> Iterator[str]:
    """Yield what is odd about one set."""
    if seen.blank:
        yield f"{seen.blank} of {n} images of {seen.name} are blank."
    if seen.largest < DARK:
        yield f"No pixel of {seen.name} is brighter than {seen.largest} of 255: is the range of its values right?"


def scaled_differently(first: Look, second: Look) -> Iterator[str]:
    """Yield that two sets look preprocessed differently."""
    ratio = max(first.contrast, second.contrast) / max(min(first.contrast, second.contrast), 1e-9)
    if ratio > CONTRAST:
        yield (
            f"Pictures of {first.name} and {second.name} differ in contrast ({first.contrast:.0f} and "
            f"{second.contrast:.0f} gray levels): were they preprocessed alike?"
        )
    deviations = first.mean - first.mean.mean(), second.mean - second.mean.mean()
    lengths = [np.linalg.norm(each) for each in deviations]
    if min(lengths) > len(first.mean) ** 0.5 and deviations[0] @ deviations[1] < -0.5 * lengths[0] * lengths[1]:
        yield f"The mean pictures of {first.name} and {second.name} are each other's negative: is one set inverted?"


def near_overlap(
    looks: Mapping[str, Look], sets: Mapping[str, ImageSet], names: tuple[str, str], allowed: bool
) -> Iterator[str]:
    """Yield how many images of one set have a near-duplicate in another that is no exact one."""
    first, second = (looks[name] for name in names)
    if first.features is None or second.features is None:
        return
    found = near_duplicates.near_between(first.features, second.features, near_duplicates.NEAR)
    pairs = [(i, int(j)) for i, j in enumerate(found) if j >= 0 and first.digests[i] != second.digests[int(j)]]
    if not pairs:
        return
    within, _ = near_duplicates.near_pairs(first.features, near_duplicates.NEAR)
    usual, (i, j) = len(np.unique(within)), pairs[0]
    said = (
        f"{len(pairs)} of {len(found)} images of {names[0]} that were looked at have a near-duplicate among "
        f"{len(second.digests)} of {names[1]} (correlation above .98; {usual} have one among themselves), such as "
        f"{first.features.ids[i]} and {second.features.ids[j]}"
    )
    if len(pairs) > MOSTLY * len(found) and len(pairs) > USUAL * usual and not allowed:
        raise AuditError(
            f"{said}.",
            f"--{names[0]}, --{names[1]}",
            "Draw the sets by audit split, which keeps near-duplicates together, or pass --allow-overlap.",
        )
    wrong = "such held-out images are no control" if "heldout" in names else "such images are in both halves, nearly"
    yield f"{said}: {wrong}. audit split keeps near-duplicates together."


def classes(sets: Mapping[str, ImageSet]) -> Iterator[str]:
    """Yield that classes are unevenly spread, by a test of independence."""
    from scipy.stats import chi2_contingency

    known = {name: Counter(each.labels) for name, each in sets.items() if each.labels}
    for first, second in combinations(sorted(known), 2):
        names = sorted({*known[first], *known[second]})
        if len(names) < 2:
            continue
        table = np.array([[known[each][name] for name in names] for each in (first, second)])
        p = float(chi2_contingency(table).pvalue)
        if p < N_EXCHANGEABLE:
            share = table / table.sum(axis=1, keepdims=True)
            worst = int(np.abs(share[0] - share[1]).argmax())
            yield (
                f"Classes are spread unevenly over {first} and {second} (p {p:.2g}): {names[worst]!r} is "
                f"{share[0, worst]:.1%} of one and {share[1, worst]:.1%} of the other."
            )
