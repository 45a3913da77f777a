"""The report as Markdown: for model cards (with metadata that the Hugging Face Hub reads) and for pull requests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

import numpy as np

from auditor.reports import Report, members, printable, told_beside
from auditor.reports.charts.onsets import ONSETS, placed
from auditor.reports.formats.terminal import legend, phase, table_columns

TASK = "unconditional-image-generation"
ACTIVE = re.compile(  # what Markdown, or GitHub on top of it, takes for more than a letter
    r"[\\`*<>|~&$@#]|\](?=[(:])|^\[(?=[ xX]\])"
    r"|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # within a word it stands for itself
    r"|:(?=//|[\w+-]+:)|(?<=www)\."  # links, emoji
    r"|^[-+=](?=.)|(?<=^\d)[.)](?=\s)|(?<=^\d\d)[.)](?=\s)"  # lists and underlines
)
CARD_METRICS = (  # metric, twins (none: each training), per space
    ("own_share", ("both",), True),
    ("own_share_in_class", ("both",), True),
    ("memorized_fraction", (), True),
    ("twin_distance_ratio", ("both",), True),
    ("loss_heldout", ("both",), False),
)


def render(report: Report, out: TextIO, width: int | None = None) -> None:
    """Write the report with the ``model-index`` metadata in front. ``width`` has no meaning here."""
    out.write(f"---\n{metadata(report)}---\n\n")
    render_body(report, out)


def render_body(report: Report, out: TextIO, width: int | None = None) -> None:
    """Write the report without metadata, as it is pasted into a pull request."""
    parts = {title: list(part(report)) for title, part in SECTIONS.items()}
    texts = ["\n".join([f"## {title}", "", *lines]) for title, lines in parts.items() if lines]
    out.write("\n\n".join(["\n".join(_heading(report)), "\n".join(_table(report)), *texts]) + "\n")


# ---------------------------------------------------------------------------
# Metadata of a model card
# ---------------------------------------------------------------------------


def metadata(report: Report) -> str:
    """Return the ``model-index`` block: what the audit measured at the recommended step, else at the last one.

    Its schema is that of the Hugging Face Hub (papers-with-code): task, dataset, and metrics
    with type, name and value; step, twin, space and interval go into the metrics' ``args``.
    Undefined values are left out, since the schema has no place for their reasons.
    """
    from huggingface_hub import ModelCardData

    return ModelCardData(model_name="audited diffusion model", eval_results=list(_results(report))).to_yaml() + "\n"


def _results(report: Report) -> Iterator[Any]:
    """Yield one evaluation result per metric, twin and space; where no value is known at all, that nothing is."""
    from huggingface_hub import EvalResult

    step = report.steps[-1] if report.recommended is None else report.recommended
    verdict = report.tables["verdicts"].set_index("step").verdict[step]
    sets = report.record["sets"]
    images = ", ".join(f"{name} {sets[name]['images']}" for name in sorted(sets)) or "no image set given"
    common = {"task_type": TASK, "dataset_type": "private", "dataset_name": f"images of the audit ({images})"}
    yield EvalResult(
        **common,
        metric_type="audit_verdict",
        metric_value=verdict,
        metric_name=f"verdict at step {step} ({'recommended' if step == report.recommended else 'not recommended'})",
        metric_args={"step": step, "recommended": step == report.recommended},
    )
    for metric, twins, per_space in CARD_METRICS:
        for space in report.scope.spaces if per_space else ("",):
            for twin in twins or report.scope.twins:
                rows = report.estimates(metric, twin, space)
                if step in rows.index and np.isfinite(rows.value[step]):
                    args = {"step": step, "twin": twin} | ({"space": space} if space else {})
                    yield EvalResult(
                        **common,
                        metric_type=metric,
                        metric_value=float(rows.value[step]),
                        metric_name=" ".join(filter(None, (metric, twin, space))),
                        metric_args=args | _interval(rows.loc[step]),
                    )


def _interval(row: Any) -> dict[str, float | int]:
    """Return the ends of an interval with its level and count, nothing where there is none."""
    if not np.isfinite(row.low) or not np.isfinite(row.high):
        return {}
    return {"low": float(row.low), "high": float(row.high), "level": float(row.level), "n": int(row.n)}


# ---------------------------------------------------------------------------
# The body
# ---------------------------------------------------------------------------


def _heading(report: Report) -> Iterator[str]:
    """What was audited, and the conclusion."""
    scope, resolved = report.scope, report.record["resolved"]
    sets = ", ".join(f"{name} {each['images']}" for name, each in sorted(report.record["sets"].items()))
    h, w, c = resolved["image_shape"]
    weights = escaped(report.weights)
    yield f"# Audit of {len(scope.steps)} checkpoints"
    yield ""
    yield f"**{escaped(report.conclusion)}**"
    yield ""
    for said in told_beside(report.record):
        yield escaped(said)
        yield ""
    yield (
        f"{weights}, {h}x{w}x{c}, {scope.n_samples:,} seeds per checkpoint and twin; "
        f"images: {escaped(sets or 'none given')}."
    )


def _table(report: Report) -> Iterator[str]:
    """One row per checkpoint, with intervals."""
    columns = table_columns(report, wide=True)
    yield from grid(
        [name.replace("\n", " ") for name, _ in columns],
        ([cells.get(step, "-") for _, cells in columns] for step in report.steps),
        right=len(columns) - 1,
    )
    yield ""
    yield escaped(legend(report))


def _reasons(report: Report) -> Iterator[str]:
    """Why each checkpoint got its verdict."""
    if not report.scope.with_train:
        return
    for row in report.tables["verdicts"].itertuples():
        chosen = ", recommended" if row.recommended else ""
        yield f"- Step {row.step:,}: **{row.verdict}**{chosen}. {escaped(row.reasons)}"


def _onsets(report: Report) -> Iterator[str]:
    """Where the curves have their minimum and the risks begin, as sets."""
    rows = report.told_onsets
    rows = rows[rows.onset.isin(ONSETS)].itertuples()  # by scale: a figure
    yield from grid(
        ["onset", "space", "steps", "status"],
        ([ONSETS[row.onset].name, row.space or "-", placed(report, row), row.status] for row in rows),
    )
    yield ""
    yield escaped(phase(report))


def _membership(report: Report) -> Iterator[str]:
    """Whether membership is hidden, what attacks find, and how many training images are exposed, per checkpoint."""
    concluded = {each.step: each.outcome for each in members.outcomes(report)}
    found, listed = members.rates(report), members.listed_counts(report)
    columns = [
        (f"hits at {rate.name} false positives, {row.twin}", rate, row.twin)
        for rate in found
        for row in {row.twin: row for row in rate.rows}.values()
    ]
    if not columns and listed.empty and (not concluded or report.tables["attacks"].empty):
        return
    yield from grid(
        [
            "step",
            *(["membership"] if concluded else []),
            *(name for name, *_ in columns),
            *(f"exposed images, half {half}" for half in listed),
        ],
        (
            [
                f"{step:,}",
                *([concluded.get(step, "-")] if concluded else []),
                *(attack_cell(rate, twin, step) for _, rate, twin in columns),
                *(str(int(listed[half].get(step, 0))) for half in listed),
            ]
            for step in report.steps
        ),
        right=1 + bool(concluded) + len(columns) + listed.shape[1],
    )
    yield ""
    withheld = [f"Attacks at {rate.name} false positives are withheld: {rate.reason}." for rate in found if rate.reason]
    said = [
        *(["Membership: by scores fixed beforehand, and the exposed list."] if concluded else []),
        f"Hits: training images that the best {'of many attacks' if concluded else 'loss attack'} recognizes, with 95% "
        "intervals, at the false positives that really came of it.",
        "Exposed: listed at a false discovery rate of 10%; about one in ten is listed wrongly.",
    ]
    yield escaped(" ".join((*said, *withheld)))
    yield from (f"- Step {each.step:,}: {escaped(' '.join(each.reasons))}" for each in members.outcomes(report)[-1:])


def attack_cell(rate: members.Rate, twin: str, step: int) -> str:
    """Return the hits on one model at one step with their interval, and the realised false positives."""
    rows = [row for row in rate.rows if (row.step, row.twin) == (step, twin)]
    if not rows or rows[0].reason:
        return "withheld" if rows else "-"
    hits, false = rows[0].hits, rows[0].false_alarms
    return f"{hits.value} [{hits.interval.replace(' to ', ', ')}] at {false.value}"


def _excluded(report: Report) -> Iterator[str]:
    """Checkpoints that were found and not audited, by reason."""
    rows = report.tables["checkpoints"]
    rows = rows[~rows.audited]
    if rows.empty:
        return
    for reason, group in rows.groupby("reason", sort=False):
        yield f"- {escaped(reason)}: {', '.join(code(f'{row.twin}/{row.path}') for row in group.itertuples())}"


def _caveats(report: Report) -> Iterator[str]:
    """What must not be concluded."""
    yield from (f"- {escaped(sentence)}" for sentence in report.caveats)


def _settings(report: Report) -> Iterator[str]:
    """What made the numbers: settings, image sets by digest, versions."""
    record = report.record
    given = record["given"]
    facts = {
        "first seed": record["scope"]["seed"],
        "sampler": f"{given['sampler']}, {record['resolved']['sampling_steps']} steps",
        "scheduler": record["resolved"]["scheduler"].get("_class_name", "-"),
        "batch size": record["resolved"]["batch_size"],
        **{f"sha256 of {name}": each["digest"] for name, each in sorted(record["sets"].items())},
        **{name: version for name, version in sorted(record["versions"].items())},
    }
    yield from grid(["", ""], ([name, str(value)] for name, value in facts.items()))


def grid(names: Sequence[str], rows: Iterable[Sequence[str]], right: int = 0) -> Iterator[str]:
    """Yield a table of GitHub's Markdown, all cells escaped; the first ``right`` columns are aligned to the right."""
    yield f"| {' | '.join(map(escaped, names))} |"
    yield f"|{'|'.join('---:' if i < right else '---' for i in range(len(names)))}|"
    for row in rows:
        yield f"| {' | '.join(map(escaped, row))} |"


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is: no markup, HTML, table bar, link or mention in it is active."""
    return ACTIVE.sub(r"\\\g<0>", printable(text).strip())


def code(name: str) -> str:
    """Return a name as a code span, whatever it holds; for table cells, use ``escaped``."""
    shown = printable(name)
    fence = "`" * (1 + max((len(each) for each in re.findall("`+", shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") or not shown.strip() else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


SECTIONS = {  # heading -> its lines; one without lines is left out
    "Verdicts": _reasons,
    "Onsets": _onsets,
    "What the networks tell": _membership,
    "Not audited": _excluded,
    "What must not be concluded": _caveats,
    "Settings and versions": _settings,
}
