"""Seeds of random numbers: one for every purpose, the same in every process."""

from __future__ import annotations

import hashlib


def derived_seed(*parts: object) -> int:
    """Return a seed in [0, 2^63) that depends on every part and on nothing else.

    Made by sha256 of the parts' text, so it is the same in every process and version of
    Python (``hash()`` is not).
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
