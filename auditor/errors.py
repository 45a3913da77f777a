"""Errors a user can act on: what happened, where, what to do."""

from __future__ import annotations


class AuditError(Exception):
    """A mistake or an obstacle on the user's side, told in three sentences.

    Parameters
    ----------
    what
        What happened, with the offending value.
    where
        The path, option, twin or step it concerns.
    remedy
        What the user can do about it.
    """

    def __init__(self, what: str, where: object = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.remedy = what, str(where), remedy

    def __str__(self) -> str:
        parts = [self.what, self.where and f"where: {self.where}", self.remedy and f"to do: {self.remedy}"]
        return "\n".join(part for part in parts if part)


class CheckpointError(AuditError):
    """One checkpoint cannot be audited; the rest of its series can."""


class RunExists(AuditError):
    """The run directory holds artifacts that the command would discard."""
