"""The formats of a report, each a file here and a line in the registry: texts, and folders of files.

``registry.REPORTS`` names what renders a text, ``registry.FOLDER_REPORTS`` what writes a folder. Either gets the report
as it was read and says nothing that is not in it; the same run gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from auditor.reports import Report


class TextFormat(Protocol):
    """A report as one text."""

    def __call__(self, report: Report, out: TextIO, width: int | None = None) -> None:
        """Write the report to ``out``; ``width`` is in columns, None for the terminal's own."""


class FolderFormat(Protocol):
    """A report as files in a folder."""

    def __call__(self, report: Report, folder: Path) -> list[Path]:
        """Write the files into ``folder``, which need not exist, and return their paths."""
