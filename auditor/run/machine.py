"""What only some systems have: file locks, and how much memory a process took at most."""

from __future__ import annotations

import sys
from typing import IO, Any

FAR = 1 << 30  # a byte that no file here has: Windows locks ranges, and others must still read what there is


def lock(handle: IO[Any]) -> None:
    """Hold a file for this process until it is closed.

    Raises
    ------
    BlockingIOError
        If another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        handle.seek(FAR)
        try:
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError as error:
            raise BlockingIOError(str(error)) from None
        return
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def peak_memory() -> int | None:
    """Return the most memory that this process has had, in bytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit
