"""The random hierarchical grammar: its rules, its sequences, and the grammars that forget its upper levels.

Every letter of one level gives two letters of the level below by one of its rules, down
from a uniform root. A pair of letters belongs to one parent, so a sequence has one parse.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from auditor.errors import AuditError
from auditor.seeds import derived_seed

LEAST_ACCEPTED = 0.02  # share of drawn sequences that must be new for a content-disjoint set


@dataclass(frozen=True)
class Grammar:
    """A grammar, a function of its five numbers.

    Parameters
    ----------
    seed
        Of the rules. With the other defaults 0 is the grammar of arXiv 2603.03469.
    q
        Letters, the same at every level; at least 2.
    depth
        Levels below the root; a sequence has ``2 ** depth`` letters.
    sigma
        Standard deviation of the logits of a letter's rules; 0 makes them equally likely.
    q_eff
        Rules per letter, 1 to q.
    """

    seed: int = 0
    q: int = 6
    depth: int = 4
    sigma: float = 1.0
    q_eff: int = 4

    def __post_init__(self) -> None:
        ranges = {"seed": (0, 2**32 - 1), "q": (2, 64), "depth": (1, 12), "sigma": (0, 100), "q_eff": (1, self.q)}
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                option = "--" + name.replace("_", "-")
                raise AuditError(f"{name} is {getattr(self, name)}.", option, f"Give {low} to {high}.")

    @property
    def length(self) -> int:
        """Letters of a sequence."""
        return 2**self.depth

    @cached_property
    def rules(self) -> np.ndarray:
        """M, float64 ``[parent, left, right]``: how often a parent has these two children; each parent sums to 1.

        The q^2 pairs are shuffled and dealt out, q to each parent; a parent uses the first
        q_eff of its pairs.
        """
        random = np.random.RandomState(self.seed)  # the published grammar is its seed 0
        pairs = np.array([(left, right) for left in range(self.q) for right in range(self.q)])
        random.shuffle(pairs)
        m = np.zeros((self.q,) * 3)
        for parent in range(self.q):
            weights = np.exp(self.sigma * random.randn(self.q_eff))
            left, right = pairs[parent * self.q : parent * self.q + self.q_eff].T
            m[parent, left, right] = weights / weights.sum()
        return m

    @cached_property
    def owner(self) -> np.ndarray:
        """The parent of each pair, int64 ``[left, right]``; -1 where no rule makes it."""
        return np.where(self.rules.any(axis=0), self.rules.argmax(axis=0), -1)

    @cached_property
    def children(self) -> np.ndarray:
        """The pairs of each parent, int64 ``[parent, q_eff, 2]``, ascending."""
        return np.argwhere(self.rules > 0)[:, 1:].reshape(self.q, self.q_eff, 2)

    def channels(self, k: int) -> np.ndarray:
        """Return p(node j of level k | root), float64 ``[2^k, root, letter]``.

        The product of left and right marginals of the rules along the path to the node.
        """
        self.require_level(k)
        paths = np.eye(self.q)[None]
        for _ in range(k):
            down = [paths @ self.rules.sum(axis=2), paths @ self.rules.sum(axis=1)]  # left, right
            paths = np.stack(down, axis=1).reshape(-1, self.q, self.q)
        return paths

    def require_level(self, k: int) -> None:
        """Refuse a level that the grammar does not have."""
        if not 0 <= k <= self.depth:
            raise AuditError(f"There is no level {k} in a grammar of depth {self.depth}.", "", f"0 to {self.depth}.")

    def draw(self, n: int, rng: np.random.Generator, k: int = 0) -> np.ndarray:
        """Return n sequences, int64 ``[n, length]``, of the grammar whose top k levels are forgotten.

        There the 2^k nodes of level k hang on the root by independent channels; k = 0 is the
        grammar itself.
        """
        roots = rng.integers(self.q, size=(n, 1))
        letters = self._down_channels(roots[:, 0], rng, k) if k else roots
        cumulated = np.cumsum(self.rules[np.arange(self.q)[:, None], *self.children.transpose(2, 0, 1)], axis=1)
        cumulated /= cumulated[:, -1:]
        for _ in range(self.depth - k):
            chosen = (rng.random((*letters.shape, 1)) >= cumulated[letters]).sum(axis=2)
            letters = self.children[letters, chosen].reshape(n, -1)
        return letters

    def _down_channels(self, roots: np.ndarray, rng: np.random.Generator, k: int) -> np.ndarray:
        cumulated = self.channels(k).cumsum(axis=2)
        cumulated /= cumulated[:, :, -1:]
        return (rng.random((len(roots), 2**k, 1)) >= cumulated[:, roots].swapaxes(0, 1)).sum(axis=2)

    def parents(self, letters: np.ndarray) -> np.ndarray:
        """Return the letters one level up, int64 ``[n, nodes / 2]``; q where no rule makes the pair."""
        known = np.full((self.q + 1, self.q + 1), self.q)
        known[:-1, :-1] = np.where(self.owner < 0, self.q, self.owner)
        pairs = np.minimum(letters, self.q)[:, : letters.shape[1] // 2 * 2].reshape(len(letters), -1, 2)
        return known[pairs[..., 0], pairs[..., 1]]

    def level(self, sequences: np.ndarray, k: int) -> np.ndarray:
        """Return the letters k levels above the leaves, int64 ``[n, length / 2^k]``; q where there is no parse."""
        for _ in range(k):
            sequences = self.parents(sequences)
        return sequences

    # Sets of sequences

    def block(self, index: int, n: int, data_seed: int = 0) -> np.ndarray:
        """Return block ``index`` of n sequences; blocks are independent of one another and of their number."""
        return self.draw(n, np.random.default_rng(derived_seed("lab block", data_seed, index)))

    def new_block(self, index: int, n: int, others: Sequence[np.ndarray], data_seed: int = 0) -> np.ndarray:
        """Return n sequences none of which occurs in ``others``.

        These are no independent draws of the grammar any more: frequent sequences are in
        ``others`` and so are missing here, and mean values move by as much.
        """
        known = {row.tobytes() for each in others for row in np.asarray(each, dtype=np.int64)}
        rng = np.random.default_rng(derived_seed("lab block", data_seed, index))
        found: list[np.ndarray] = []
        drawn = 0
        while len(found) < n:
            candidates = self.draw(max(n, 1000), rng)
            found += [row for row in candidates if row.tobytes() not in known]
            drawn += len(candidates)
            if len(found) < LEAST_ACCEPTED * drawn:
                what = f"Only {len(found)} of {drawn} drawn sequences are not in the other sets."
                raise AuditError(what, "--distinct", "Draw fewer sequences, or from a larger grammar.")
        return np.array(found[:n])

    # Files

    def write(self, path: Path) -> None:
        """Write the five numbers as JSON."""
        from auditor.run.files import write_json

        write_json(path, asdict(self))


def read_grammar(path: str | Path) -> Grammar:
    """Return the grammar of a JSON file."""
    try:
        return from_numbers(json.loads(Path(path).read_bytes()), path)
    except (OSError, ValueError) as problem:
        raise AuditError(f"The grammar cannot be read: {problem}.", path, "Write it with audit lab make.") from problem


def from_numbers(numbers: Any, where: object) -> Grammar:
    """Return the grammar of these numbers, or say what is wrong with them."""
    names = {each.name for each in fields(Grammar)}
    numbers = numbers if isinstance(numbers, dict) and numbers.keys() == names else {}
    if not numbers or any(type(one) not in (int, float) for one in numbers.values()):
        what = f"A grammar has the numbers {', '.join(sorted(names))}."
        raise AuditError(what, where, "Write it with audit lab make.")
    whole = {name: int(value) for name, value in numbers.items() if name != "sigma"}
    if any(numbers[name] != value for name, value in whole.items()):
        raise AuditError("seed, q, depth and q_eff are whole numbers.", where, "Write it with audit lab make.")
    return Grammar(**whole, sigma=float(numbers["sigma"]))


def one_hot(sequences: np.ndarray, q: int) -> np.ndarray:
    """Return float64 ``[n, length, q]``."""
    return np.eye(q)[sequences]


def as_images(sequences: np.ndarray, q: int) -> np.ndarray:
    """Return the images of an audit, uint8 ``[n, length, q, 1]``: 255 at the letter."""
    return (255 * np.eye(q, dtype=np.uint8))[sequences][..., None]


def letters_of(images: np.ndarray) -> np.ndarray:
    """Return the letter of each position, int64 ``[n, length]``: the largest entry, channels added up.

    For images ``[n, length, q, c]`` and one-hots ``[n, length, q]``.
    """
    return (images.sum(axis=3) if images.ndim == 4 else images).argmax(axis=2)
