"""Sets of sequences on disk: halves to train on and held-out sequences, as images of an audit."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase

import numpy as np

from auditor.errors import AuditError
from auditor.lab.grammar import Grammar, as_images, letters_of, read_grammar
from auditor.run.files import atomic, write_json

GRAMMAR, HELDOUT, RECORD = "grammar.json", "heldout.npz", "data.json"


def make(
    out: Path, grammar: Grammar, n_sets: int, n_train: int, n_heldout: int, data_seed: int = 0, distinct: bool = False
) -> dict[str, int]:
    """Write training blocks a, b, ..., held-out sequences and the grammar; return the size of each set.

    Parameters
    ----------
    out
        A folder; what an earlier call wrote there is replaced.
    n_sets, n_train, n_heldout
        Training blocks, sequences of each, and held-out sequences.
    data_seed
        Of the sequences; the rules have the grammar's own.
    distinct
        No two sets share a sequence. Without it sets are independent draws, and frequent
        sequences occur in several.
    """
    if not 1 <= n_sets <= len(ascii_lowercase):
        raise AuditError(f"{n_sets} training sets cannot be named.", "--sets", "Give 1 to 26.")
    sizes = {f"train-{name}": n_train for name in ascii_lowercase[:n_sets]} | {"heldout": n_heldout}
    drawn: list[np.ndarray] = []
    for index, n in enumerate(sizes.values()):
        drawn.append(grammar.new_block(index, n, drawn if distinct else (), data_seed))
    for name, sequences in zip(sizes, drawn, strict=True):
        write_images(out / f"{name}.npz", sequences, grammar.q)
    grammar.write(out / GRAMMAR)
    write_json(out / RECORD, {"data_seed": data_seed, "distinct": distinct, "sizes": sizes})
    return sizes


def write_images(path: Path, sequences: np.ndarray, q: int) -> None:
    """Write sequences as the images of an audit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, images=as_images(sequences, q))


def read_sequences(path: str | Path, grammar: Grammar) -> np.ndarray:
    """Return the sequences of a set, int64 ``[n, length]``.

    Raises
    ------
    AuditError
        If the file does not hold one-hot sequences of this grammar's length and letters.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            images = archive["images"]
    except (OSError, ValueError, KeyError) as problem:
        remedy = "Give a set that audit lab make wrote."
        raise AuditError(f"The sequences cannot be read: {problem}.", path, remedy) from problem
    if images.shape[1:] != (grammar.length, grammar.q, 1) or not ((images > 0).sum(axis=2) == 1).all():
        what = f"These are no sequences of {grammar.length} letters out of {grammar.q}: {list(images.shape)}."
        raise AuditError(what, path, "Give a set that audit lab make wrote.")
    return letters_of(images)


def read_folder(folder: Path) -> tuple[Grammar, dict[str, np.ndarray]]:
    """Return the grammar and the training sets of a folder by their names: a, b, ..."""
    grammar = read_grammar(folder / GRAMMAR)
    paths = {path.stem.removeprefix("train-"): path for path in sorted(folder.glob("train-*.npz"))}
    if not paths:
        raise AuditError("There are no training sets here.", folder, "Make them with audit lab make.")
    return grammar, {name: read_sequences(path, grammar) for name, path in paths.items()}


def is_distinct(folder: Path) -> bool:
    """Return whether no two sets of a folder share a sequence by construction."""
    from auditor.checkpoints.configs import read_json

    return bool(read_json(folder / RECORD).get("distinct"))


def audit_command(data: Path, runs: Path, distinct: bool) -> list[str]:
    """Return the arguments of ``audit run`` for the trainings on sets a and b."""
    command = ["audit", "run"]
    for twin in "ab":
        command += [f"--ckpts-{twin}", str(runs / twin), f"--train-{twin}", str(data / f"train-{twin}.npz")]
    command += ["--heldout", str(data / HELDOUT), "--grammar", str(data / GRAMMAR), "--spaces", "onehot,level-1"]
    return [*command, *([] if distinct else ["--allow-overlap"]), "--out", str(runs / "audit")]
