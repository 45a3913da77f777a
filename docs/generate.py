"""Writes what docs say of the code from the code itself: ``python docs/generate.py``. A test compares.

docs/metrics.md and docs/report.schema.json are whole; in docs/formats.md the sections on formats are made.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import auditor
from auditor import registry
from auditor.config import RELEASES
from auditor.records import QUALITIES, RISKS, VERDICTS
from auditor.reports.formats.json import SCHEMA_VERSION
from auditor.run import columns

HEAD = """# Metrics

Each row of `measurements.parquet` is one metric at one step, for one twin (`a`, `b`, or `both`) and one space. `own`
are the images a model was trained on, `other` those of its twin, `heldout` those of neither. This page is made from the
code by `python docs/generate.py`. How to read what comes from the networks, and what it does not show:
[networks](networks.md).

"""

ATTACKS = """
## Membership attacks

What would somebody find who has the checkpoint and asks which images it was trained on?

`attacks.parquet` holds, per step, model and false-positive rate, what three means fixed beforehand find (`chosen` is
*beforehand*: those of the twin ratio, the loss and SimA; conclusions rest on them), and what the best of all these
scores finds on images that did not choose it (*best of many*; docs/statistics.md 5.4). Members are images of the own
half, the others held-out images. f(x, t) is the noise that the network's output amounts to at input x and time t, x_t
= α_t x_0 + σ_t ε, d the number of values of x. A smaller score is more member-like; the larger twin ratio is. A query
is one image in one network call.

- **loss**: mean over ±ε of ‖target - output‖²/d, at all L noise levels of the losses; no further query. arXiv
  1709.01604 for classifiers, `NaiveAttacker` in the code of arXiv 2305.18355.
- **twin ratio**: ln(l_B/l_A), how much worse the twin is, which never saw the image (docs/statistics.md 5.1); likewise.
- **SimA**: ‖f(x_0, t)‖₄⁴/d, the noise seen in the image itself, to which none was added, at the lower half of these
  levels; L/2 queries. arXiv 2509.25003.
- **PIA**: ‖e - f(α_t x_0 + σ_t e, t)‖₄⁴/d with e = f(x_0, 0), at the same levels; L/2 + 1 queries. arXiv 2305.18355.
- **SecMI**: ‖ψ(φ(x_t)) - x_t‖²/d, φ being the DDIM step without noise from t to t + k, ψ the one back, k = T/100, and
  x_t reached from x_0 by such steps; t = 0, k, ..., 10 k; 12 queries, the one at t = 0 with them. arXiv 2302.01316, its
  statistic; no second network is trained on the differences.

At L = 16 that is 29 queries for each own and held-out image, 58 in all, while the losses take 32 for
each own, other and held-out image, 96: the attacks add 60 % to them (91 % for a single training). SimA and PIA stop at
half of the process: their authors, too, score images where there is little noise, and with all levels the attacks on a
single training would cost more than its losses. k and 10 k are those of SecMI's authors. Images, classes, scaling and
autoencoder are those of the losses; the scores of every image are in `attack-scores/`, SecMI's in files of their own,
so that a quick audit can be completed. These three take part wherever there are training and held-out images and a
model. A quick audit leaves SecMI out, whose calls, each of which waits for the one before, would take longer than the
losses; and SimA and PIA where fewer than 400 held-out images are measured, since then no attack can be judged at a
false-positive rate of 1 %, and membership cannot be shown hidden.

An attack that finds few does not show that none would find more. SecMI at its later times does not tell a network that
has memorized everything: from any image its path is straight until another training image is nearer, so that
nothing is lost on the way back. That attack and time are chosen on other images keeps the best of many from being a
lucky one.
"""

INTERVALS = {
    "mean": "Student's t over units",
    "proportion": "Clopper-Pearson",
    "lean": "two-way over seeds and the hubs of the split (both); spread under relabelling (a, b)",
    "lean_in_class": "as own_share's, labels permuted within classes",
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
    return HEAD + "\n".join(section(registry.lookup("metric", name)) for name in registry.METRICS) + ATTACKS


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


BEGIN, END = "<!-- made by docs/generate.py -->\n", "<!-- end -->\n"


def formats_page(page: str) -> str:
    """Return docs/formats.md with its sections on formats made anew."""
    before, _, rest = page.partition(BEGIN)
    return (
        before + BEGIN + "\n" + "\n".join(map(format_section, registry.FORMATS)) + "\n" + END + rest.partition(END)[2]
    )


def format_section(name: str) -> str:
    """Return the part on one checkpoint format."""
    guide = registry.lookup("format", name).guide
    return (
        f"## `{name}`\n\n{guide.trainers[0].upper()}{guide.trainers[1:]}.\n\n"
        f"- files: {guide.layout}\n"
        f"- weights: {guide.weights}\n"
        f"- schedule: {guide.schedule}\n"
        f"- add: {guide.command}\n"
        f"- tested on files {guide.tested}\n" + "".join(map(_example, guide.examples))
    )


RUN = (
    "audit run --ckpts-a runs/a --ckpts-b runs/b \\\n"
    "  --train-a data/half-a --train-b data/half-b --heldout data/test --out audits/first"
)


def _example(example: tuple[str, str]) -> str:
    """Return one whole command."""
    purpose, options = example
    head = f"{purpose[0].upper()}{purpose[1:]}:\n\n" if purpose else ""
    more = f" \\\n  {options}" if options else ""
    return f"\n{head}```\n{RUN}{more}\n```\n"


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
        "sentences": {
            "type": "object",
            "properties": {
                "decision": TEXT,
                "exposed": TEXT | {"description": "who is exposed: how many, at what rate, the worst"},
                "what_now": TEXT | {"description": "what to do, by outcome"},
            },
            "required": ["decision"],
            "description": "what every report and audit check begin with; runs of before have the decision alone",
        },
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
        "weights_said": {"type": "string", "description": "which were audited, and of raw ones why, in words"},
        "caveats": TEXTS | {"description": "what must not be concluded, the most limiting first"},
        "verdicts": rows(
            columns.VERDICTS,
            verdict={"enum": list(VERDICTS)},
            risk={"enum": list(RISKS)},
            quality={"enum": list(QUALITIES)},
            later=("risk", "quality"),
        ),
        "onsets": rows(columns.ONSETS, status={"enum": ["found", "edge", "undecided", "none"]}),
        "checkpoints": rows(columns.CHECKPOINTS),
        "measurements": rows(columns.MEASUREMENTS),
        "metrics": rows(columns.METRICS),
        "attacks": rows(columns.ATTACKS),
        "profiles": rows(columns.PROFILES),
        "scales": rows(columns.SCALES),
        "protocol": rows(columns.PROTOCOL),
        "exposed": rows(columns.EXPOSURE) | {"description": "of exposure.parquet, the images that are listed"},
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
            },
            optional={
                "distance_spaces": TEXTS | {"description": "spaces that have distances to images alone"},
                "decoys": {"type": "boolean", "description": "held-out images stand for the half of a twin"},
                "progress": {"type": "array", "description": "step of a and b's own, where twins were paired"},
                "final": {"type": "boolean", "description": "the model that is to be released was audited, too"},
                "release": {"enum": list(RELEASES), "description": "what is to be released, where it was said"},
                "release_size": {"type": "integer", "description": "samples that are to be released, likewise"},
                "weights": {"enum": ["raw", "ema"], "description": "of the networks"},
            },
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


def record(properties: dict[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the schema of an object that has these properties, perhaps the optional ones, and no others."""
    return {
        "type": "object",
        "properties": properties | dict(optional or {}),
        "required": list(properties),
        "additionalProperties": False,
    }


def nullable(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an object that may be missing, and may say more."""
    return {"type": ["object", "null"], "properties": properties, "required": ["status", "sentence"]}


def rows(columns: Sequence[columns.Column], later: Sequence[str] = (), **known: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a table as a list of objects; ``known`` says more on a column, ``later`` old runs lack."""
    each = {
        c.name: (known.get(c.name) or TYPES[c.type])
        | {"description": f"{c.description} [{c.unit}]" if c.unit else c.description}
        for c in columns
    }
    always = {name: value for name, value in each.items() if name not in later}
    return {"type": "array", "items": record(always, {name: each[name] for name in later})}


def architecture_page(page: str) -> str:
    """Return docs/architecture.md with its table of rooms made anew: the first line of each room's docstring."""
    root = Path(auditor.__file__).parent
    hall = sorted(path for path in root.glob("*.py") if not path.name.startswith("__"))
    rooms = sorted(path for path in root.glob("*/__init__.py"))
    lines = ["| room | what it owns |", "|---|---|"]
    for path in (*hall, *rooms):
        name = path.name if path in hall else f"{path.parent.name}/"
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        lines.append(f"| `{name}` | {first.strip().rstrip('.').replace('``', '`')} |")
    before, rest = page.split("<!-- rooms -->")
    after = rest.split("<!-- end of rooms -->")[1]
    return before + "<!-- rooms -->\n" + "\n".join(lines) + "\n<!-- end of rooms -->" + after


if __name__ == "__main__":
    rooms = Path(__file__).with_name("architecture.md")
    rooms.write_text(architecture_page(rooms.read_text()))
    Path(__file__).with_name("metrics.md").write_text(page())
    formats = Path(__file__).with_name("formats.md")
    formats.write_text(formats_page(formats.read_text()))
    Path(__file__).with_name("report.schema.json").write_text(schema())
