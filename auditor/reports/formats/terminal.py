"""The report on a terminal: readable at 80 columns, without color, in a log file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from auditor.records import QUALITIES, RISKS, UNITS, VERDICTS
from auditor.reports import Report, percent, printable, told_beside
from auditor.reports.charts.onsets import ONSETS, placed

WORDS = {"verdict": VERDICTS, "risk": RISKS, "quality": QUALITIES}
BARS = "▁▂▃▄▅▆▇█"
CROWDED = 3  # spaces from which on narrow tables have short headings
WIDE = 120  # from here on the table shows intervals and both twins


def render(report: Report, out: TextIO, width: int | None = None) -> None:
    """Write the report; ``width`` defaults to what the terminal offers."""
    console = Console(file=out, width=width, highlight=False)
    for part in (_heading, _conclusion, _table, _reasons, _curves, _onsets, _published, _excluded, _caveats, _footer):
        block = part(report, console.width)
        if block is not None:
            console.print(block)
            console.print()


def _heading(report: Report, width: int) -> Text:
    """What was audited, in two lines."""
    scope, resolved = report.scope, report.record["resolved"]
    sets = ", ".join(f"{name} {each['images']}" for name, each in sorted(report.record["sets"].items()))
    h, w, c = resolved["image_shape"]
    text = Text(f"Audit of {len(scope.steps)} checkpoints", style="bold")
    weights = report.weights
    weights += "" if (unit := resolved.get("unit", "step")) == "step" else f", steps are {UNITS[unit]}"
    seeds = f"{scope.n_samples} seeds each" if report.scope.with_samples else "no samples drawn"
    text.append(f" ({weights}), {h}x{w}x{c}, {seeds}\n", style="not bold")
    text.append(f"images: {sets or 'none given'}", style="dim")
    return text


def _conclusion(report: Report, width: int) -> Group:
    """The one sentence, who is exposed, and what to do now."""
    said = Text(report.conclusion, style="bold green" if report.recommended is not None else "bold yellow")
    return Group(said, *(Text(f"\n{each}") for each in told_beside(report.record)))


def _table(report: Report, width: int) -> Group:
    """One row per checkpoint with the few columns that matter."""
    wide = width >= WIDE
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1) if wide else (0, 0, 0, 1))
    columns = table_columns(report, wide)
    for name, _ in columns:
        grid.add_column(name, justify="left" if name in WORDS else "right", no_wrap=True, min_width=widest(name))
    for step in report.steps:
        style = "bold green" if step == report.recommended else ""
        grid.add_row(*(cells.get(step, "-") for _, cells in columns), style=style)
    return Group(grid, Text(legend(report), style="dim"))


def widest(name: str) -> int | None:
    """Return the width that a column must not fall below: words are never cut, names of spaces may be."""
    return max(map(len, WORDS[name])) if name in WORDS else None


def table_columns(report: Report, wide: bool) -> list[tuple[str, dict[int, str]]]:
    """Return the columns: a heading and a cell per step."""
    scope = report.scope
    crowded = not wide and len(report.shown_spaces) > CROWDED
    columns = [
        ("step", {step: f"{step:,}{' *' if step == report.recommended else ''}" for step in report.steps}),
        (
            "loss\nheld" if crowded else "held-out\nloss",
            _cells(report.estimates("loss_heldout", "both"), "{:.4f}", wide),
        ),
    ]
    if not scope.with_samples and (scope.with_twin or scope.decoys):  # what a quick audit has in their place
        distance, lean = (report.estimates(metric, "both") for metric in ("prediction_variance", "loss_lean"))
        if scope.with_twin:
            columns.append(("predictions\napart", _cells(distance, "{:.4f}", wide)))
        columns.append(("lean of\nlosses", _cells(lean, "{:.3f}", wide, report.alpha)))
    elif scope.with_twin:
        distance = report.estimates("twin_distance_ratio", "both", scope.headline_space)
        columns.append(("twin\ndist." if crowded else "twin\ndistance", _cells(distance, "{:.3f}", wide)))
    for space in report.shown_spaces if report.with_lean else ():
        share, within = (report.estimates(metric, "both", space) for metric in ("own_share", "own_share_in_class"))
        name = f"own share\n{space}" if wide else f"own\n{space[: 5 if crowded else 6]}"
        columns.append((name, _cells(share, "{:.2f}", wide, report.alpha)))
        if report.with_classes and wide:
            columns.append((f"own in class\n{space}", _cells(within, "{:.2f}", wide, report.alpha)))
    if report.with_copies:
        if not report.with_lean:
            shift = report.estimates("nn_shift", "a", scope.picture_space)
            columns.append((f"nearness\n{scope.picture_space}", _cells(shift, "{:.3f}", wide)))
        columns.append((f"copies\n{' / '.join(scope.twins)}" if wide else "copies", _copies(report, wide)))
    verdicts = report.tables["verdicts"].set_index("step")
    words = [name for name in ("risk", "quality") if wide and name in verdicts]  # runs of before have but one word
    return [*columns, *((name, verdicts[name].to_dict()) for name in ("verdict", *words))]


def _cells(rows: pd.DataFrame, form: str, with_interval: bool, alpha: float | None = None) -> dict[int, str]:
    """Return value (and interval) per step; with ``alpha`` marked by ! where the corrected p is at most that."""
    found = {}
    for step, row in rows.iterrows():
        has_interval = with_interval and not np.isnan(row.low)
        interval = f" [{form.format(row.low)}, {form.format(row.high)}]" if has_interval else ""
        value = "-" if np.isnan(row.value) else f"{form.format(row.value)}{interval}"
        mark = "" if alpha is None else "!" if row.p_corrected <= alpha else " "
        found[step] = f"{value}{mark}"
    return found


def _copies(report: Report, wide: bool) -> dict[int, str]:
    """Return the flagged share per step: of both twins, or of the twin with more."""
    scope = report.scope
    found = [report.estimates("memorized_fraction", twin, scope.picture_space).value for twin in scope.twins]
    if wide:
        return {step: " / ".join(percent(each[step]) for each in found) for step in found[0].index}
    return {step: percent(max(each[step] for each in found)) for step in found[0].index}


def legend(report: Report) -> str:
    """Say what the columns mean, in one paragraph."""
    lines = []
    if not report.scope.with_samples:
        apart = "predictions apart: half the squared difference of the twins' predictions on held-out images; "
        lower = "than on held-out images" if report.scope.decoys else "than the twin's"
        lines.append(
            f"{apart * report.scope.with_twin}lean of losses: lower on own training images {lower}, 0 = no lean; ! = "
            "more than chance by relabeling, corrected over checkpoints; a smooth model's lean may be, too."
        )
    elif report.scope.with_twin:
        lines.append(f"twin distance: in {report.scope.headline_space}, 1 = as far as different seeds.")
    if report.with_lean:
        whose = "to training than to held-out images" if report.scope.decoys else "to their own half, both twins"
        lines.append(
            f"own share: samples closer {whose}, 0.5 = no lean; ! = more than chance by "
            "relabeling, corrected over checkpoints and spaces; a smooth model's lean may be, too. "
            "Too much: beyond what is accepted."
        )
    if report.with_classes:
        lines.append(in_class_words(report))
    if report.with_copies:
        control = max_control(report)
        if not report.with_lean:
            lines.append(
                "nearness: AUC, samples nearer to training images than held-out ones are; blur raises it, too."
            )
        lines.append(
            f"copies: gap ratio 1/3 in {report.scope.picture_space}; real held-out images: {control}."
            f"{most_copied(report)}"
        )
    if report.recommended is not None:
        lines.append("* = recommended.")
    return " ".join(lines)


def most_copied(report: Report) -> str:
    """Say what the column of copies leaves out of a memorizing step: where most are found, or another rule."""
    verdicts = report.tables["verdicts"]
    steps, scope = verdicts.step[verdicts.verdict == "memorizing"], report.scope
    found = [
        (rows.value[step], space, step)
        for space in report.shown_spaces
        for twin in scope.twins
        for rows in [report.estimates("memorized_fraction", twin, space)]
        for step in steps
        if step in rows.index and not np.isnan(rows.value[step])
    ]
    share, space, step = max(found, default=(0.0, scope.picture_space, 0))
    said = "" if space == scope.picture_space else f" Most are found in {space}: {percent(share)} at step {step:,}."
    shown = [report.estimates("memorized_fraction", twin, scope.picture_space).value for twin in scope.twins]
    unseen = [at for at in steps if all(not each[at] > 0 for each in shown)]
    return said + (
        f" Step {unseen[0]:,} copies by another rule or in another space: see its reasons." if unseen else ""
    )


def in_class_words(report: Report) -> str:
    """Say how large the own share is within classes at the last step, in every space."""
    said = []
    for space in report.shown_spaces:
        rows = report.estimates("own_share_in_class", "both", space)
        mark = "!" if rows.p_corrected.iloc[-1] <= report.alpha else ""
        said.append(f"{rows.value.iloc[-1]:.2f}{mark} in {space}")
    return f"own share among images of the sample's class, at the last step: {', '.join(said)}; no part of the verdict."


def max_control(report: Report) -> str:
    """Return the rate at which held-out images are flagged, with its interval: the larger one of the trainings."""
    scope = report.scope
    found = [report.estimates("heldout_memorized_fraction", twin, scope.picture_space) for twin in scope.twins]
    rows = [each.iloc[0] for each in found if len(each) and not np.isnan(each.iloc[0].value)]
    if not rows:
        return "not known"
    worst = max(rows, key=lambda row: row.value)
    return f"{percent(worst.value)} ({percent(worst.low)} to {percent(worst.high)})"


def _reasons(report: Report, width: int) -> Table | None:
    """Why each checkpoint got its verdict: the first sentence, all of them where there is room."""
    if not report.scope.with_train:
        return None
    grid = Table.grid(padding=(0, 1))
    for row in report.tables["verdicts"].itertuples():
        sentences = row.reasons.split(". ")
        more = f". ({len(sentences) - 1} more in verdicts.parquet)" if len(sentences) > 1 and width < WIDE else ""
        said = row.reasons if width >= WIDE else sentences[0] + more
        grid.add_row(Text(f"{row.step:,}", justify="right"), Text(row.verdict), Text(said))
    return grid


def _curves(report: Report, width: int) -> Table:
    """Small curves over the series, least to largest value of each."""
    grid = Table.grid(padding=(0, 2))
    wanted = [("held-out loss", "loss_heldout", "")]
    if report.scope.with_samples and report.scope.with_twin:
        wanted.append(("twin distance", "twin_distance_ratio", report.scope.headline_space))
    elif report.scope.with_twin:
        wanted.append(("predictions apart", "prediction_variance", ""))
    if report.with_lean:
        wanted += [(f"own share {space}", "own_share", space) for space in report.shown_spaces]
    for label, metric, space in wanted:
        values = report.estimates(metric, "both", space).value.to_numpy()
        if len(values) and np.isfinite(values).any():
            grid.add_row(label, sparkline(values), f"{np.nanmin(values):.3f} to {np.nanmax(values):.3f}")
    return grid


def sparkline(values: Sequence[float]) -> str:
    """Return one bar per value, scaled from the least to the largest; a space where there is none."""
    x = np.asarray(values, dtype=float)
    span = np.nanmax(x) - np.nanmin(x)
    level = np.zeros(len(x)) if span == 0 else (x - np.nanmin(x)) / span * (len(BARS) - 1)
    return "".join(" " if np.isnan(each) else BARS[round(float(each))] for each in level)


def _onsets(report: Report, width: int) -> Group:
    """Where the curves have their minimum and the risks begin, as sets."""
    grid = Table.grid(padding=(0, 1))
    rows = report.told_onsets
    shown = [name for name, look in ONSETS.items() if report.scope.with_twin or not look.of_twins]
    for row in rows[rows.onset.isin(shown)].itertuples():  # by scale: a figure
        grid.add_row(Text(ONSETS[row.onset].name), Text(row.space), Text(placed(report, row)), Text(row.status))
    return Group(grid, Text(phase(report)))


def phase(report: Report) -> str:
    """Say whether held-out loss still falls while the twins diverge, or samples of a single training lean."""
    found = report.record["checks"].get("phase") or {}
    if "sentence" in found:
        return str(found["sentence"])
    if found.get("bootstrap_share") is None:
        return f"biased phase: not known ({found.get('note', 'the run is not finished')})"
    claim = "held-out loss still falls after the twins diverge" if found["claimed"] else "not shown"
    if found["ratio_low"] is None:
        share = f"least twin distance before least loss in {found['bootstrap_share']:.0%} of resamples"
        return f"biased phase: {claim} ({share}; {found['note']})"
    return (
        f"biased phase: {claim} (least loss at {found['ratio_low']:.2g} to {found['ratio_high']:.2g} times the step of "
        f"least twin distance; before it in {found['bootstrap_share']:.0%} of resamples)"
    )


def _published(report: Report, width: int) -> Group | None:
    """What the published protocol would have read off this run, beside what is read off it here."""
    rows = report.tables["protocol"]
    if rows.empty:
        return None
    head = Text("By the published protocol (for comparison, no part of the verdict)", style="bold")
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    grid.add_column("step", justify="right")
    quantities = {"distance": "twins, 1 - r", "loss": "held-out loss"}
    shown = {name: rows[rows.quantity == name].set_index("step") for name in quantities}
    shown = {name: each for name, each in shown.items() if len(each)}
    for name in shown:
        grid.add_column(f"{quantities[name]}\npublished", justify="right", no_wrap=True)
        grid.add_column("\nhere", justify="right", no_wrap=True)
    for step in report.steps:
        grid.add_row(f"{step:,}", *(cell for each in shown.values() for cell in published_cells(each, step)))
    words = "± one standard error as published; [ ] 95 % interval; < least, or in the 95 % set (no underfit steps)."
    found = [published_onset(rows[rows.quantity == name], *said) for name, said in PUBLISHED_ONSETS.items()]
    return Group(head, grid, Text(" ".join([words, *filter(None, found)]), style="dim"))


def published_cells(rows: pd.DataFrame, step: int) -> tuple[str, str]:
    """Return one quantity at one step as published and as here; a mark stands at the onset, and in its set."""
    if step not in rows.index:
        return "-", "-"
    row = rows.loc[step]
    there = f"{row.published:.4f} ±{row.published_error:.5f}{'<' if row.published_onset else ' '}"
    interval = "" if np.isnan(row.own_low) else f"[{row.own_low:.4f}, {row.own_high:.4f}]"
    return there, f"{interval or f'{row.own:.4f}'}{'<' if row.own_onset else ' '}"


PUBLISHED_ONSETS = {  # what is said of the rows that are no columns
    "nn_kl": ("Nearest distances (KL of 20 bins) are least different at", "no step: it is not known everywhere"),
    "copies": ("Copies reach 0.1 % at", "no step"),
}


def published_onset(rows: pd.DataFrame, says: str, none: str) -> str:
    """Return the onset of one quantity in words; nothing where it was not measured."""
    if rows.empty:
        return ""
    steps = sorted(set(rows.step[rows.published_onset]))
    return f"{says} {f'step {steps[0]:,}' if steps else none}."


def _excluded(report: Report, width: int) -> Text | None:
    """Checkpoints that were found and not audited, by reason."""
    rows = report.tables["checkpoints"]
    rows = rows[~rows.audited]
    if rows.empty:
        return None
    lines = [
        f"  {printable(reason)}: {', '.join(f'{row.twin}/{printable(row.path)}' for row in group.itertuples())}"
        for reason, group in rows.groupby("reason", sort=False)
    ]
    return Text("Not audited\n" + "\n".join(lines))


def _caveats(report: Report, width: int) -> Table:
    """What must not be concluded."""
    grid = Table.grid(padding=(0, 1))
    for sentence in report.caveats:
        grid.add_row("-", Text(sentence))
    return grid


def _footer(report: Report, width: int) -> Text:
    """Where the numbers lie."""
    return Text(f"tables: {report.root}/measurements.parquet, onsets.parquet, verdicts.parquet", style="dim")
