"""Feature spaces of sequences: their letters, and the letters of the levels above them."""

from __future__ import annotations

from dataclasses import astuple
from functools import partial

import numpy as np

from auditor.errors import AuditError
from auditor.lab.grammar import letters_of, read_grammar
from auditor.spaces import Space, SpaceSettings


class OneHotSpace(Space):
    """Letters, rounded: squared Euclidean distance is the number of letters that differ.

    The letter of a position is its largest entry, so soft samples and exact sequences compare.
    """

    name = "onehot"
    revision = "onehot-1"
    metric_note = "Square root of the number of letters that differ (Hamming distance)."

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return float32 ``[n, h*w]`` for uint8 ``[n, h, w, c]``: a row is a position, a column a letter."""
        return vectors(letters_of(images), images.shape[2])


class LevelSpace(Space):
    """Letters of one level above the leaves, by the grammar: coarser structure, whatever its details."""

    def __init__(self, settings: SpaceSettings, k: int) -> None:
        self.name, self.k = f"level-{k}", k
        self.metric_note = f"Square root of the number of letters that differ {k} levels above the sequence."
        if settings.grammar is None:
            what = f"The space {self.name} needs the grammar of the sequences."
            raise AuditError(what, "--grammar", "Give the grammar.json that audit lab make wrote.")
        self.grammar = read_grammar(settings.grammar)
        self.grammar.require_level(k)
        self.revision = f"{self.name}-1 of {astuple(self.grammar)}"

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return float32 ``[n, nodes (q + 1)]`` for uint8 ``[n, h, w, c]``; "no parse" is one more letter."""
        letters = np.minimum(letters_of(images), self.grammar.q)
        return vectors(self.grammar.level(letters, self.k), self.grammar.q + 1)


# The letters one, two and three levels above the sequence.
level_1, level_2, level_3 = (partial(LevelSpace, k=k) for k in (1, 2, 3))


def vectors(letters: np.ndarray, q: int) -> np.ndarray:
    """Return float32 ``[n, nodes q]``, 1/sqrt(2) at each node's letter: two different letters are 1 apart."""
    return (np.eye(q, dtype=np.float32)[letters] * np.float32(np.sqrt(0.5))).reshape(len(letters), -1)
