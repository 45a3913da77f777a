"""auditor: which checkpoint of a diffusion training on private images is safe to release.

The public names below are imported on first use, so that ``import auditor`` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "AuditConfig": "config",
    "AuditError": "errors",
    "Budgets": "config",
    "CheckpointError": "errors",
    "Estimate": "records",
    "Evidence": "records",
    "ImageSet": "records",
    "Metric": "records",
    "OpenedRun": "reports.opened",
    "Report": "reports",
    "RunDirectory": "run",
    "Scores": "records",
    "open_run": "reports.opened",
    "read_report": "reports",
}

__all__ = [*_HOME, "__version__"]  # noqa: PLE0604  names of the table


def __getattr__(name: str) -> Any:
    """Return a public name from the module that owns it."""
    if name not in _HOME:
        raise AttributeError(f"module 'auditor' has no attribute {name!r}")
    return getattr(import_module(f"auditor.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
