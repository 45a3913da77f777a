"""What a person sees while work goes on: progress on stderr; the libraries' chatter goes to a log file."""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import MemoryHandler
from pathlib import Path
from types import TracebackType
from typing import Any

WARNING = "warning: "  # what is said with it must be read, and is no progress
QUIET_SECONDS = 10.0  # between progress lines where stderr is no terminal
DEBUG = "AUDITOR_DEBUG"  # where it is set, a fault of ours is shown as Python tells it
# Control characters but line ends and tabs, what turns the direction of writing, halves of characters.
UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]|\r(?!\n)"
)
log_in_use: Path | None = None  # of the run that is being written


def visible(text: str) -> str:
    """Return text with every character that would command a terminal as its escape: names of files may hold any."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Visible(io.TextIOBase):
    """A stream to which no name can send a command; ``is_progress``: one whose failing ends nothing."""

    def __init__(self, stream: Any, is_progress: bool) -> None:
        self.stream, self.is_progress = stream, is_progress

    def write(self, text: str) -> int:
        """Write text, what is not visible in it as escapes."""
        self.control(visible(text))
        return len(text)

    def control(self, text: str) -> None:
        """Write what is ours, commands to the terminal among it."""
        with self._lenient():
            self.stream.write(text)

    def flush(self) -> None:
        """Send what waits."""
        with self._lenient():
            self.stream.flush()

    def isatty(self) -> bool:
        """Return whether a person looks at it."""
        with suppress(OSError, ValueError):
            return bool(self.stream.isatty())
        return False

    @contextmanager
    def _lenient(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # ValueError: it was closed
            if not self.is_progress:
                raise
            silence(self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # of the stream below
        """The encoding of the stream."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """What the stream does with characters that it lacks."""
        return getattr(self.stream, "errors", None)

    def fileno(self) -> int:
        """Return the number of the file."""
        return int(self.stream.fileno())

    def writable(self) -> bool:
        """Return true."""
        return True


def silence(stream: Any) -> None:
    """Lead a stream that takes nothing any more to nowhere, so that neither a library nor the end meets its error."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def visible_streams() -> Iterator[None]:
    """Let nothing through stdout and stderr but what can be seen; a stream that is closed leads to nowhere."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes this number: else the next file would, and get what is printed
    before = sys.stdout, sys.stderr
    out, err = (open(os.devnull, "w") if each is None else each for each in before)  # noqa: SIM115
    sys.stdout, sys.stderr = Visible(out, is_progress=False), Visible(err, is_progress=True)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def unescaped(stream: Any) -> Any:
    """Return the stream below for what brings colors of its own and has made every name visible."""
    return stream.stream if isinstance(stream, Visible) else stream


def keep_traceback(error: BaseException) -> str:
    """Write a fault of ours to the run's log, else to a new file; return where it lies, or why nowhere."""
    told = visible("".join(traceback.format_exception(error)))
    if os.environ.get(DEBUG):
        sys.stderr.write(told)
    with suppress(OSError):
        if log_in_use is not None:
            with open(log_in_use, "a", encoding="utf-8") as log:
                log.write(told)
            return str(log_in_use)
    with suppress(OSError):
        with tempfile.NamedTemporaryFile("w", prefix="audit-", suffix=".txt", delete=False, encoding="utf-8") as file:
            file.write(told)
        return file.name
    return f"set {DEBUG}=1 to see it: no file can be written"


class OneLog(logging.FileHandler):
    """The log of a run: what cannot be written to it ends nothing."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text that can be looked at in a terminal."""
        return visible(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on without."""


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
        global log_in_use
        log_in_use = path
        self._file = OneLog(path, encoding="utf-8", errors="backslashreplace")
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
        stream = stream or sys.stderr or io.StringIO()
        self.stream = stream if isinstance(stream, Visible) else Visible(stream, is_progress=True)
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
        if is_terminal:
            self.stream.control("\r\x1b[2K")
        self.stream.write(text if is_terminal else f"{text}\n")
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
            self.stream.control("\r\x1b[2K")
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
