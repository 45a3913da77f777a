"""Worlds whose samples hide copies in a known way, beside worlds that must be released: one row per way and rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from auditor.records import TWINS, other_twin
from calibrating.banks import COLLAGE, COPIES, VECTOR_SPACES
from calibrating.deals import BOTH, Deal, World, gaussian_twins, landing_of, near_images

SHARED = 0.8  # share of seeds from which coupled twins draw the same image
N_STEPS = 10
NEAR_DUPLICATES = 0.03  # share of held-out images that are near-duplicates of training images, in one row
RELEASED, WITHHELD, NOT_LOOKED_FOR = "released", "withheld", "not looked for"  # what is wanted of a row
Rows = dict[str, np.ndarray]
Draw = Callable[[Deal, int, float, np.random.Generator], World]


@dataclass(frozen=True)
class Row:
    """One way in which worlds are made."""

    name: str
    wanted: str
    draw: Draw
    rates: tuple[float, ...] = (0.0,)


def chosen(rng: np.random.Generator, rows: np.ndarray, n: int) -> np.ndarray:
    """Return ``n`` of these rows, each once if there are as many."""
    return rng.choice(rows, n, replace=n > len(rows))


def private(deal: Deal, n: int, rng: np.random.Generator, shared: float, kind: str = "") -> Rows:
    """Return samples that nobody was trained on: real images, or those of one kind; some from shared seeds."""
    rows = deal.bank.rows.of[kind] if kind else deal.free
    both = chosen(rng, rows, 2 * n)
    same = rng.uniform(size=n) < shared
    return {"a": both[:n], "b": np.where(same, both[:n], both[n:])}


def base(deal: Deal, n: int, rng: np.random.Generator) -> Rows:
    """Return private samples among which copies are planted: twins are coupled in every other deal."""
    return private(deal, n, rng, SHARED * (deal.number % 2))


def world(deal: Deal, rows: Rows, heldout: np.ndarray | None = None) -> World:
    """Return a world in every space of the bank."""
    return World(deal, rows, deal.heldout if heldout is None else heldout, deal.bank.size.spaces)


def with_copies(deal: Deal, rows: Rows, copies: Mapping[str, np.ndarray], rng: np.random.Generator) -> Rows:
    """Return samples of which some, at random seeds, are these."""
    found = {}
    for t in TWINS:
        found[t] = rows[t].copy()
        found[t][rng.permutation(len(rows[t]))[: len(copies[t])]] = copies[t]
    return found


def planted(*kinds: tuple[str, float]) -> Draw:
    """Return how worlds are drawn that hold copies of these kinds, each at its multiple of the rate."""

    def draw(deal: Deal, n: int, rate: float, rng: np.random.Generator) -> World:
        copies = {
            t: np.concatenate([chosen(rng, deal.copies(kind, t), round(times * rate * n)) for kind, times in kinds])
            for t in TWINS
        }
        return world(deal, with_copies(deal, base(deal, n, rng), copies, rng))

    return draw


def of_few(n_people: int) -> Draw:
    """Return how worlds are drawn in which only a few people are copied; the rate is that of all samples."""

    def draw(deal: Deal, n: int, rate: float, rng: np.random.Generator) -> World:
        known = {t: deal.copies("verbatim", t) for t in TWINS}
        people = chosen(rng, np.concatenate(list(known.values())), n_people)
        copies = rng.permutation(np.resize(people, round(rate * 2 * n)))
        mine = {t: copies[np.isin(copies, known[t])] for t in TWINS}
        return world(deal, with_copies(deal, base(deal, n, rng), mine, rng))

    return draw


def exchanged(deal: Deal, n: int, rate: float, rng: np.random.Generator) -> World:
    """Return a world whose twins, which copy, were given each other's half."""
    rows = planted(("verbatim", 1.0))(deal, n, rate, rng).rows
    return world(deal, {t: rows[other_twin(t)] for t in TWINS})


def dealt_anew(deal: Deal, n: int, rate: float, rng: np.random.Generator) -> World:
    """Return a world whose halves were dealt anew after training: either twin copies images of both."""
    known = np.concatenate([deal.copies("verbatim", t) for t in TWINS])
    copies = {t: chosen(rng, known, round(rate * n)) for t in TWINS}
    return world(deal, with_copies(deal, base(deal, n, rng), copies, rng))


def beside_near_duplicates(deal: Deal, n: int, rate: float, rng: np.random.Generator) -> World:
    """Return a world with verbatim copies, some of whose held-out images are near-duplicates of training images."""
    rows = planted(("verbatim", 1.0))(deal, n, rate, rng).rows
    near = np.concatenate([deal.copies("copier", t) for t in TWINS])
    heldout = deal.heldout.copy()
    k = round(NEAR_DUPLICATES * len(heldout))
    heldout[rng.permutation(len(heldout))[:k]] = chosen(rng, near, k)
    return world(deal, rows, heldout)


def both_hold(deal: Deal, n: int, rate: float, rng: np.random.Generator) -> World:
    """Return a world whose twins copy images that both halves hold, which are in no pool."""
    of = deal.sharing
    rows = of.bank.rows.of["verbatim"]
    known = rows[of.label[of.bank.rows.sources[rows, 0]] == BOTH]
    copies = {t: chosen(rng, known, round(rate * n)) for t in TWINS}
    return world(of, with_copies(of, base(of, n, rng), copies, rng))


def smooth(deal: Deal, n: int, rate: float, rng: np.random.Generator) -> World:
    """Return Gaussian twins, each fitted to its half, and their own reference: in the spaces of vectors."""
    spaces = tuple(space for space in deal.bank.size.spaces if space in VECTOR_SPACES)
    samples = gaussian_twins(deal, n, 1)
    reference = gaussian_twins(deal, deal.bank.size.smooth, 2)
    found = {space: {t: near_images(deal, space, samples[t]) for t in TWINS} for space in spaces}
    lands = {space: {t: landing_of(deal, space, reference[t]) for t in TWINS} for space in spaces}
    return World(deal, dict.fromkeys(TWINS, np.arange(n)), deal.heldout, spaces, found, lands)


def in_series(draw: Draw) -> Draw:
    """Return how worlds of ten checkpoints are drawn, each from this: ten times as many tests stand together."""

    def drawn(deal: Deal, n: int, rate: float, rng: np.random.Generator) -> World:
        first, *later = (draw(deal, n, rate, rng) for _ in range(N_STEPS))
        return replace(first, later=tuple(each.rows for each in later))

    return drawn


def drawn(**options: object) -> Draw:
    """Return how private worlds are drawn."""
    return lambda deal, n, rate, rng: world(deal, private(deal, n, rng, **options))  # type: ignore[arg-type]


LOW = (0.01, 0.02)
HIDDEN = (
    *("verbatim", "mirrored", "shifted 2 px", "zoomed to 90 %", "rotated 5 to 10 degrees", "noise sd 16", "negative"),
    *(
        "blended half",
        "quarter pasted",
        "quarter pasted, noise 8",
        "quarter pasted, noise 16",
        "center pasted",
        COLLAGE,
    ),
)
SMOOTH, SERIES = "smooth twins", "ten checkpoints"
ANEW = "halves dealt anew, verbatim"  # which the losses of networks tell, and samples alone do not
UNSOUGHT = ("eighth pasted", "quarter pasted elsewhere", "shifted 5 px", "blended .3")
assert set(HIDDEN) | set(UNSOUGHT) == {*COPIES, COLLAGE}

IN_SERIES = ("verbatim", "mirrored", "noise sd 16", "blended half", "quarter pasted, noise 8")
ROWS = {
    row.name: row
    for row in (
        Row("private: real images, other seeds", RELEASED, drawn(shared=0.0)),
        Row("private: real images, shared seeds", RELEASED, drawn(shared=SHARED)),
        Row("private: identical samples", RELEASED, drawn(shared=1.0)),
        Row("private: a smooth population", RELEASED, drawn(shared=0.0, kind="population")),
        Row("private: a smooth population, shared seeds", RELEASED, drawn(shared=SHARED, kind="population")),
        Row(SMOOTH, RELEASED, smooth),
        *(Row(kind, WITHHELD, planted((kind, 1.0)), LOW) for kind in HIDDEN),
        Row(f"private, {SERIES}", RELEASED, in_series(drawn(shared=SHARED))),
        *(Row(f"{kind}, {SERIES}", WITHHELD, in_series(planted((kind, 1.0))), LOW) for kind in IN_SERIES),
        Row("five people, verbatim", WITHHELD, of_few(5), (0.002,)),
        Row("one person, verbatim", WITHHELD, of_few(1), (0.002,)),
        Row("halves exchanged, verbatim", WITHHELD, exchanged, (0.05,)),
        Row(ANEW, WITHHELD, dealt_anew, (0.05,)),
        Row("verbatim, of images that both halves hold", WITHHELD, both_hold, (0.02,)),
        Row("verbatim, held-out images with near-duplicates", WITHHELD, beside_near_duplicates, (0.02,)),
        Row(
            "mirrored, shifted (half as many), zoomed, noisy (half as many)",
            WITHHELD,
            planted(("mirrored", 1.0), ("shifted 2 px", 0.5), ("zoomed to 90 %", 1.0), ("noise sd 16", 0.5)),
            (0.1,),
        ),
        *(Row(kind, NOT_LOOKED_FOR, planted((kind, 1.0)), (0.05,)) for kind in UNSOUGHT),
    )
}
