"""The report as JSON: the same facts as the terminal, for programs."""

from __future__ import annotations

import json
import math
from typing import Any, TextIO

from auditor.reports import Report, advice_of

SCHEMA_VERSION = 1
TABLES = (
    *("verdicts", "onsets", "checkpoints", "measurements"),
    *("metrics", "attacks", "profiles", "scales", "protocol"),
)


def render(report: Report, out: TextIO, width: int | None = None) -> None:
    """Write one JSON object; NaN becomes null. ``width`` has no meaning here."""
    out.write(json.dumps(facts(report), indent=2, allow_nan=False) + "\n")


def facts(report: Report) -> dict[str, Any]:
    """Return everything the report says."""
    return {
        "schema": SCHEMA_VERSION,
        "status": report.record["status"],
        "conclusion": report.conclusion,
        "sentences": {"decision": report.conclusion, **advice_of(report.record)},
        "recommended_step": report.recommended,
        "recommendation": report.record["checks"].get("recommendation"),
        "trusted": report.is_trusted,
        "weights": report.record["resolved"]["weights"],
        "weights_said": report.weights,
        "caveats": list(report.caveats),
        **{name: rows(report, name) for name in TABLES},
        "exposed": [row for row in rows(report, "exposure") if row["listed"]],
        "scope": report.record["scope"],
        "pairs": report.record.get("pairs", []),
        **{name: report.record[name] for name in ("resolved", "budgets", "checks", "sets", "versions")},
    }


def rows(report: Report, table: str) -> list[dict[str, Any]]:
    """Return a table as a list of objects."""
    return [{k: plain(v) for k, v in row.items()} for row in report.tables[table].to_dict("records")]


def plain(value: Any) -> Any:
    """Return a value JSON knows: NaN and infinities become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
