"""Contents of unchanged files, recalled: digests and counts, never pixels or names.

An entry is found by a digest of all that it depends on: every file's place, size and time of change, and how it is
read. It lies in the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``; ``~/Library/Caches`` on macOS), mode
0700.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import astuple
from pathlib import Path

import numpy as np

from auditor.images import pictures
from auditor.images.pixels import Facts
from auditor.images.sources import Reading, Source

KEPT = 200  # entries; the oldest go first
SETTLED = 2.0  # seconds: a file that changed a moment ago may change again without a later time


def folder() -> Path:
    """Return where entries lie."""
    default = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or default) / "auditor" / "contents"


def key(source: str | Path, opened: Source, image_shape: tuple[int, int, int], reading: Reading) -> str:
    """Return the name of an entry: a digest of everything that its content depends on."""
    import PIL

    # The place, too: files unpacked together may have one size and time in every folder.
    read_so = [os.path.realpath(source), pictures.REVISION, PIL.__version__, image_shape, astuple(reading)]
    total = hashlib.sha256(json.dumps(read_so).encode())
    for stamp in opened.stamps:
        total.update(json.dumps(stamp).encode() + b"\n")
    total.update(str(len(opened.ids)).encode())
    return total.hexdigest()


def recall(name: str) -> Facts | None:
    """Return an entry, None where there is none or it is damaged."""
    if not name:
        return None
    try:
        with np.load(folder() / f"{name}.npz", allow_pickle=False) as entry:
            tally = Counter(json.loads(str(entry["tally"])))
            return Facts(tuple(row.tobytes().hex() for row in entry["digests"]), entry["blank"], tally, ())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def remember(name: str, facts: Facts, opened: Source) -> None:
    """Keep an entry, unless a file changed a moment ago; a cache that cannot be written changes nothing."""
    target = folder() / f"{name}.npz"
    changed = max((stamp[-1] for stamp in opened.stamps), default=0)  # stamps end with a time of change in nanoseconds
    if changed / 1e9 > time.time() - SETTLED or target.exists():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".tmp", delete=False) as handle:
            digests = np.frombuffer(bytes.fromhex("".join(facts.digests)), np.uint8).reshape(-1, 32)
            np.savez(handle, digests=digests, blank=facts.blank, tally=np.array(json.dumps(dict(facts.tally))))
        os.replace(handle.name, target)
        prune(target.parent)
    except OSError:
        return


def prune(entries: Path) -> None:
    """Remove the oldest entries beyond the number that is kept."""
    found = sorted(entries.glob("*.npz"), key=lambda path: path.stat().st_mtime)
    for path in found[: -KEPT or None]:
        path.unlink(missing_ok=True)
