"""Writes docs/metrics.md and docs/report.schema.json from the code: ``python docs/generate.py``. A test compares."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from auditor import registry, tables
from auditor.records import VERDICTS
from auditor.reports.json import SCHEMA_VERSION

HEAD = """# Metrics

Each row of `measurements.parquet` is one metric at one step, for one twin (`a`, `b`, or `both`) and one space. `own`
are the images a model was trained on, `other` those of its twin, `heldout` those of neither. This page is made from the
code by `python docs/generate.py`.

"""

INTERVALS = {
    "mean": "Student's t over units",
    "proportion": "Clopper-Pearson",
    "lean": "two-way over seeds and the hubs of the split (both); spread under relabelling (a, b)",
    "loss_lean": "bootstrap of groups within halves",
    "percent": "Clopper-Pearson",
    "jackknife": "delete-block jackknife over seeds",
    "jackknife_share": "delete-block jackknife over seeds",
    "two_sample": "Welch, over samples and held-out images",
    "auc": "DeLong on the logit scale; Clopper-Pearson over pairs where the samples do not overlap",
    "quantile_99": "order statistics",
    "maximum": "none: a resample cannot exceed it",
    "shown": "none: the note carries its noise",
}


def page() -> str:
    """Return docs/metrics.md."""
    return HEAD + "\n".join(section(registry.lookup("metric", name)) for name in registry.METRICS)


def section(metric) -> str:
    """Return the part on one metric."""
    where = "each space" if metric.per_space else "no space"
    return (
        f"## `{metric.name}`\n\n{metric.question}\n\n"
        f"- definition: {metric.reference}\n"
        f"- unit: {metric.unit}; {metric.direction}\n"
        f"- given for: {', '.join(metric.twins)}, in {where}\n"
        f"- interval: {INTERVALS.get(metric.interval, metric.interval)}\n"
    )


TYPES = {
    "int64": {"type": "integer"},
    "float64": {"type": ["number", "null"]},
    "bool": {"type": "boolean"},
    "string": {"type": "string"},
}
NUMBER, TEXT, TEXTS = {"type": "number"}, {"type": "string"}, {"type": "array", "items": {"type": "string"}}


def schema() -> str:
    """Return docs/report.schema.json: what ``audit report --json`` writes, as a JSON Schema."""
    properties = {
        "schema": {"const": SCHEMA_VERSION, "description": "raised when a field is renamed, removed or means another"},
        "status": {"enum": ["started", "complete", "failed"], "description": "of the run"},
        "conclusion": TEXT | {"description": "the one sentence a decision-maker reads"},
        "recommended_step": {"type": ["integer", "null"], "description": "the checkpoint to release by the rule"},
        "recommendation": nullable(
            {
                "status": {"enum": ["found", "none", "undecided"]},
                "step": {"type": ["integer", "null"]},
                "sentence": TEXT,
            }
        ),
        "trusted": {"type": "boolean", "description": "whether the run's own controls passed"},
        "weights": {"enum": ["raw", "ema", ""], "description": "which were audited; empty where samples were given"},
        "caveats": TEXTS | {"description": "what must not be concluded, the most limiting first"},
        "verdicts": rows(tables.VERDICTS, verdict={"enum": list(VERDICTS)}),
        "onsets": rows(tables.ONSETS, status={"enum": ["found", "edge", "undecided", "none"]}),
        "checkpoints": rows(tables.CHECKPOINTS),
        "measurements": rows(tables.MEASUREMENTS),
        "metrics": rows(tables.METRICS),
        "attacks": rows(tables.ATTACKS),
        "profiles": rows(tables.PROFILES),
        "exposed": rows(tables.EXPOSURE) | {"description": "of exposure.parquet, the images that are listed"},
        "scope": record(
            {
                "steps": {"type": "array", "items": {"type": "integer"}},
                "spaces": TEXTS,
                "n_samples": {"type": "integer"},
                "seed": {"type": "integer"},
                "with_train": {"type": "boolean"},
                "with_heldout": {"type": "boolean"},
                "fpr": {"type": ["number", "null"], "description": "rate that the copying rule is set to"},
                "twins": {"type": "array", "items": TEXT, "description": "a and b, a alone, or the trainings' names"},
                "same_data": {"type": "boolean", "description": "with a second training on half a"},
            }
        )
        | {"description": "what was looked at"},
        "pairs": {"type": "array", "items": TEXTS, "description": "of three or more trainings; else empty"},
        "resolved": {"type": "object", "description": "settings as the run used them"},
        "budgets": {"type": "object", "additionalProperties": NUMBER, "description": "margins of the verdict"},
        "checks": {"type": "object", "description": "the run's controls and tests of the whole series"},
        "sets": {
            "type": "object",
            "additionalProperties": record({"images": {"type": "integer"}, "digest": TEXT}),
            "description": "the image sets by name, with a digest of their pixels",
        },
        "versions": {"type": "object", "additionalProperties": TEXT, "description": "packages that made the numbers"},
    }
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Report of an audit",
        "description": "What audit report --json writes. null is a number that is not known; its note says why.",
    }
    return json.dumps(head | record(properties), indent=2) + "\n"


def record(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object that has these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def nullable(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object that may be missing, and may say more."""
    return {"type": ["object", "null"], "properties": properties, "required": ["status", "sentence"]}


def rows(columns: Sequence[tables.Column], **known: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a table as a list of objects; ``known`` says more on a column."""
    each = {
        c.name: (known.get(c.name) or TYPES[c.type])
        | {"description": f"{c.description} [{c.unit}]" if c.unit else c.description}
        for c in columns
    }
    return {"type": "array", "items": record(each)}


if __name__ == "__main__":
    Path(__file__).with_name("metrics.md").write_text(page())
    Path(__file__).with_name("report.schema.json").write_text(schema())
