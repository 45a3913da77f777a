"""Names of images and files in a report that leaves: each becomes a keyed digest, which the run's key file maps back.

Without the key nobody can find out by trying whether a name that he has is meant.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import PurePath
from typing import Any

import pandas as pd

from auditor.records import DECOYS, TWINS, set_of
from auditor.run import RunDirectory
from auditor.run.files import write_json
from auditor.run.places import IMAGES

LETTERS = 12  # of a digest
HIDDEN = re.compile(rf"#[0-9a-f]{{{LETTERS}}}")
COLUMNS = {"exposure": ("id",), "named": ("id",), "checkpoints": ("path",)}  # of the top tables: names and nothing else
TEXTS = {"checkpoints": ("reason",), "measurements": ("note",), "verdicts": ("reasons",)}  # names may be in them
PATHS = (
    *(
        "ckpts_a",
        "ckpts_b",
        "ckpts_a2",
        "ckpts",
        "train_a",
        "train_b",
        "train",
        "heldout",
        "out",
        "final",
        "train_final",
    ),
    *("samples_a", "samples_b", "model_config", "base", "autoencoder", "prompts", "budgets"),
)  # settings that are paths
SOMETIMES = ("labels", "scheduler", "pixel_mean", "grammar", "clip_weights", "clip_model")  # settings that may be


class Names:
    """Hides names: the same one always becomes the same digest of one run."""

    def __init__(self, key: bytes, known: Iterable[str]) -> None:
        self.key, self.known = key, set(known) - {""}

    def hidden(self, name: str) -> str:
        """Return what stands for a name; nothing for nothing."""
        if not name or HIDDEN.fullmatch(name):
            return name
        return "#" + hmac.new(self.key, name.encode(errors="surrogateescape"), "sha256").hexdigest()[:LETTERS]

    def within(self, text: str) -> str:
        """Return a text in which every known name is hidden; one of digits alone only as the whole text."""
        if text in self.known:
            return self.hidden(text)
        return self._pattern.sub(lambda found: self.hidden(found[0]), text) if self._pattern.pattern else text

    def everywhere(self, value: Any) -> Any:
        """Return a value of JSON with known names hidden in all its texts."""
        if isinstance(value, Mapping):
            return {self.within(str(name)): self.everywhere(each) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.everywhere(each) for each in value]
        return self.within(value) if isinstance(value, str) else value

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """What finds the names within a text, the longest first."""
        words = sorted((each for each in self.known if not each.isdigit() and len(each) > 1), key=len, reverse=True)
        inner = "|".join(map(re.escape, words))
        return re.compile(rf"(?<![\w])(?:{inner})(?![\w])" if inner else "")


def names_of(run: RunDirectory, record: Mapping[str, Any], frames: Mapping[str, pd.DataFrame]) -> Names:
    """Return what hides the names of a run, and keep its key with the run, where that can be written."""
    key = bytes.fromhex(_kept(run).get("key", "")) or secrets.token_bytes(32)
    found = Names(key, known_names(run, record, frames))
    try:
        write_json(run.names, {"key": key.hex(), "names": {found.hidden(each): each for each in sorted(found.known)}})
        run.names.chmod(0o600)
    except OSError:  # a run that may only be read: then nothing maps back
        pass
    return found


def _kept(run: RunDirectory) -> dict[str, str]:
    """Return the key file, nothing where there is none that can be read."""
    try:
        found = json.loads(run.names.read_bytes())
        bytes.fromhex(found["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return dict(found)


def known_names(run: RunDirectory, record: Mapping[str, Any], frames: Mapping[str, pd.DataFrame]) -> set[str]:
    """Return every name of an image or a path that a report of the run may show."""
    paths = [each for name in (*PATHS, *SOMETIMES) for each in _texts(record["given"].get(name))]
    paths = [each.partition("=")[2] or each for each in paths if "/" in each or "." in each]
    known = {each for path in paths for each in (path, PurePath(path).name) if len(each) > 2}
    for name, columns in COLUMNS.items():
        for column in columns:
            known |= set(frames[name][column].astype(str)) if name in frames and column in frames[name] else set()
    runs = [run.pair(*pair) for pair in record.get("pairs", [])] or [run]
    for each in runs:
        for half in (*TWINS, DECOYS):
            known |= set((each.key(each.place(IMAGES, set_of(half))) or {}).get("ids", ()))
    return {each for each in known if isinstance(each, str)}


def _texts(value: Any) -> list[str]:
    return [each for each in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(each, str)]


def hidden_in(record: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Return run.json with names hidden: paths among the settings, and whatever is named in its sentences."""
    kept = {name: record[name] for name in ("scope", "pairs", "versions", "sets", "tables") if name in record}
    given = {name: _given(name, value, names) for name, value in record["given"].items()}
    return {**names.everywhere(record), **kept, "given": given}


def _given(name: str, value: Any, names: Names) -> Any:
    """Return a setting, hidden where it is a path."""
    if isinstance(value, (list, tuple)):
        return [_given(name, each, names) for each in value]
    is_path = name in PATHS or (name in SOMETIMES and isinstance(value, str) and ("/" in value or "." in value))
    return names.hidden(value) if is_path and isinstance(value, str) else names.everywhere(value)


def hide_in(names: Names, frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the tables with names hidden."""
    changed = {}
    for name, frame in frames.items():
        new = {
            column: frame[column].astype(str).map(names.hidden) for column in COLUMNS.get(name, ()) if column in frame
        }
        new |= {
            column: frame[column].astype(str).map(names.within) for column in TEXTS.get(name, ()) if column in frame
        }
        changed[name] = frame.assign(**new) if new else frame
        changed[name].attrs = frame.attrs
    return changed
