"""What a person sees while work goes on: progress on stderr; the libraries' chatter goes to a log file."""

from __future__ import annotations

import logging
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from pathlib import Path
from types import TracebackType
from typing import Any

WARNING = "warning: "  # what is said with it must be read, and is no progress
QUIET_SECONDS = 10.0  # between progress lines where stderr is no terminal


class Chatter:
    """Keeps everything libraries log or warn away from the screen.

    Records wait in memory until :meth:`open_file` names the log, so that a command that
    fails before it has a run directory leaves nothing behind.
    """

    def __enter__(self) -> Chatter:
        self._root = logging.getLogger()
        self._before = list(self._root.handlers), self._root.level
        self._buffer = MemoryHandler(10_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
        self._file: logging.Handler | None = None
        self._root.handlers = [self._buffer]
        self._root.setLevel(logging.INFO)
        logging.captureWarnings(True)
        warnings.simplefilter("default")
        return self

    def open_file(self, path: Path) -> None:
        """Write what waits, and all that follows, to ``path``."""
        self._file = logging.FileHandler(path, encoding="utf-8")
        self._file.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s"))
        self._buffer.setTarget(self._file)
        self._buffer.flush()
        self._root.handlers = [self._file]

    def quiet_libraries(self) -> None:
        """Send the output of libraries that bring their own handlers to the log; call it after importing them."""
        for name in ("diffusers", "transformers", "huggingface_hub", "faiss", "open_clip"):
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.captureWarnings(False)
        self._root.handlers, level = self._before
        self._root.setLevel(level)
        for handler in (self._file, self._buffer):
            if handler is not None:
                handler.close()


class Progress:
    """Shows what is being done, how many network calls of how many, their rate and the time that remains."""

    def __init__(self, stream: Any = None) -> None:
        self.stream = stream or sys.stderr
        self.total = self.done = 0
        self._started = self._spoken = time.monotonic()
        self._label = ""

    def expect(self, calls: int) -> None:
        """Say how many network calls are to come."""
        self.total, self.done, self._started = calls, 0, time.monotonic()

    def __call__(self, label: str, calls: int) -> None:
        """Take note that ``calls`` more network calls are finished, while doing ``label``."""
        now = time.monotonic()
        if WARNING in label:
            self._keep(label)
            return
        if not self.done and not calls:
            self._started = now  # what comes before the first network call says nothing about their rate
        self.done += calls
        if label != self._label or now - self._spoken >= (0.2 if self.stream.isatty() else QUIET_SECONDS):
            self._show(label, now)

    def _keep(self, label: str) -> None:
        """Write a line that stays, whatever is said next."""
        self.close()
        self.stream.write(f"{label}\n")
        self.stream.flush()

    def _show(self, label: str, now: float) -> None:
        is_terminal = self.stream.isatty()
        if not is_terminal and now - self._spoken < QUIET_SECONDS and self._label:
            self._label = label
            return
        self._label, self._spoken = label, now
        text = f"{label}{self._counts(now)}"
        if is_terminal:  # a longer line would wrap and leave its first row behind
            text = text[: shutil.get_terminal_size().columns - 1]
        self.stream.write(f"\r\x1b[2K{text}" if is_terminal else f"{text}\n")
        self.stream.flush()

    def _counts(self, now: float) -> str:
        elapsed = now - self._started
        if not self.total or not self.done or elapsed <= 0:
            return ""
        rate = self.done / elapsed
        remaining = max(self.total - self.done, 0) / rate
        return f" | {self.done:,} of {self.total:,} network calls, {rate:.1f} per second, {clock(remaining)} left"

    def close(self) -> None:
        """Clear the progress line."""
        if self.stream.isatty():
            self.stream.write("\r\x1b[2K")
            self.stream.flush()


def clock(seconds: float) -> str:
    """Return a duration as h:mm:ss or m:ss."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


@contextmanager
def shown() -> Iterator[Progress]:
    """Yield a progress display that is cleared at the end, whatever happens."""
    progress = Progress()
    try:
        yield progress
    finally:
        progress.close()
