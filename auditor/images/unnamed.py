"""Files of which neither name nor place may be told: they are known by their content.

Folders and files of medical pictures are named after people, dates and accession numbers. An id is therefore the
beginning of the sha256 of the file's bytes, which ``sha256sum`` finds again for whoever has the files and nobody else,
and pictures are in the order of these ids. What a file says of a person becomes a digest under a key that ends with the
process, so that two sets of one audit can be compared and nothing be looked up. Libraries that read such files quote
them in warnings and errors: neither is passed on.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from auditor.errors import AuditError
from auditor.images import sources
from auditor.images.cache import SETTLED
from auditor.images.sources import SUFFIXES, Place, Reading

LETTERS = 16  # of the sha256 of a file
LEAVE_OUT = "Replace it by an intact copy, or take it out of the folder."
INSTALL = "Install it: pip install 'auditor[medical]'."
T = TypeVar("T")
_KEY = secrets.token_bytes(32)
_KNOWN: dict[tuple[str, str, tuple[int, ...]], Any] = {}


class File(NamedTuple):
    """One file: where it lies, which is not told, what it is called instead, and what changes with its content."""

    path: str
    name: str  # relative to the folder; not told
    id: str
    state: tuple[int, ...]


def entries_in(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield what lies under a folder; a folder inside it that cannot be listed is not named."""
    try:
        yield from sources.below(folder)
    except AuditError:
        what = "This folder, or one inside it, cannot be listed"
        raise AuditError(what, folder, "Make it readable.") from None


def hold(folder: Path, wanted: Callable[[os.DirEntry[str]], bool]) -> bool:
    """Return whether a folder holds files that are wanted, at any depth, and no pictures of the usual kinds."""
    if not folder.is_dir():
        return False
    found = False
    for _, entry in entries_in(folder):
        if sources.suffix_of(entry.name) in SUFFIXES:
            return False
        found = found or wanted(entry)
    return found


def files_in(
    folder: Path, wanted: Callable[[os.DirEntry[str]], bool], reading: Reading
) -> tuple[list[File], list[str]]:
    """Return the files that are wanted, in the order of their ids, and sentences on what was left out, without names.

    Every file is read through once. Of files with the same bytes the second is ``ID-2``.
    """
    found, others, left = [], Counter[str](), 0
    for name, entry in sorted(entries_in(folder)):
        if sources.is_linked_folder(entry) or (state := sources.entry_state(entry)) is None:
            left += 1
        elif not wanted(entry):
            others[sources.suffix_of(name)] += 1
        else:
            path = os.path.join(folder, name)
            found.append(File(path, name, once("id", path, state, lambda: id_of(path, folder)), state))
    sources.refuse_left_out(others, len(found), reading, folder)
    seen = Counter[str]()
    numbered = []
    for each in found:
        seen[each.id] += 1
        numbered.append(each._replace(id=f"{each.id}-{seen[each.id]}") if seen[each.id] > 1 else each)
    notes = [f"Other files in the folder were ignored: {others.total()}."] if others else []
    if left:
        notes.append(f"Linked folders, pipes, sockets and devices were left out: {left}.")
    return sorted(numbered, key=lambda each: each.id), notes


def id_of(path: str, folder: Path) -> str:
    """Return the id of a file."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:LETTERS]
    except OSError as error:
        raise AuditError(f"A file cannot be read: {error.strerror}", folder, LEAVE_OUT) from None


def once(what: str, path: str, state: tuple[int, ...], make: Callable[[], T]) -> T:
    """Return what is made of a file, made once in a process unless the file changed or may be changing.

    Three lists of one folder open it three times.
    """
    if (what, path, state) in _KNOWN:
        return cast(T, _KNOWN[what, path, state])
    found = make()
    if max(state[1::2]) / 1e9 < time.time() - SETTLED:
        _KNOWN[what, path, state] = found
    return found


def hidden(fact: str) -> str:
    """Return what stands for a fact of a person, the same for the same fact as long as the process lives."""
    return hmac.new(_KEY, fact.encode(errors="replace"), "sha256").hexdigest()


def reader(package: str, what: str, where: object) -> Any:
    """Return a package of the extra ``medical``, or refuse."""
    try:
        return import_module(package)
    except ImportError:
        raise AuditError(f"{what} are read by {package}, which is not installed", where, INSTALL) from None


def unreadable(what: str, folder: object, file_id: str, remedy: str = LEAVE_OUT) -> AuditError:
    """Return the error of one file, named by its id."""
    find = f"Its id begins its sha256: sha256sum FILES | grep ^{file_id.split('-')[0].split('/')[0]} finds it."
    return AuditError(what, f"{folder}: {file_id}", f"{remedy} {find}")


@contextmanager
def untold(kind: str, logger: str, folder: object, file_id: str, remedy: str = LEAVE_OUT) -> Iterator[None]:
    """Turn what a library raises about a file into one error that quotes nothing of it; drop its warnings."""
    from PIL import Image

    log = logging.getLogger(logger)
    before, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except AuditError:
        raise
    except Exception as error:  # of damaged files these libraries raise whatever Python can
        what = f"This {kind} cannot be read: it is damaged, or not as the standard says ({type(error).__name__})"
        raise unreadable(what, folder, file_id, remedy) from None
    finally:
        log.disabled = before


def stamps_of(files: Sequence[File], package: Any) -> list[tuple[Any, ...]]:
    """Return what pictures depend on: names and states of the files, and the version of what reads them."""
    return [(each.name, *each.state) for each in files] + [(package.__name__, package.__version__, 0)]


def one_folder(place: Place, kind: str) -> None:
    """Refuse a single file: its name would be told wherever the set is named."""
    if not place.path.is_dir():
        raise AuditError(
            f"{kind} files are read as a folder, of which no names are told", place.path.parent, "Give it."
        )
