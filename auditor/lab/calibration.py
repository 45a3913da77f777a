"""Does the audit name the true phase? Whole audits of random fixtures, whose truth was built in.

Every fixture is another grammar, other sequences, another course of learning and remembering; half
of them never remember. Each goes through the very stages of ``audit run``: sampling, evidence,
controls, tests, verdicts. One file per fixture, so that a calibration can be stopped and extended.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from auditor.config import AuditConfig
from auditor.errors import AuditError
from auditor.lab.blend import Course
from auditor.lab.fixture import Fixture
from auditor.lab.grammar import Grammar
from auditor.records import VERDICTS
from auditor.run import RunDirectory
from auditor.run.files import atomic, write_json
from auditor.seeds import derived_seed
from auditor.stats.counts import clopper_pearson

if TYPE_CHECKING:
    from auditor.inputs.asked import Asked
    from auditor.measuring import Measured

TAUS = (2, 5, 8, 10, 12, 14, 17, 20)
N_HELDOUT = 1000
SAMPLING_STEPS = 20
# Of every audit here, as a command line gives them.
SETTINGS = {"spaces": "onehot", "sampling_steps": SAMPLING_STEPS, "batch_size": "256", "device": "cpu"}
ALARMS = ("biased", "overfit", "memorizing")
TRUTHS = ("underfit", "generalizing", "biased", "overfit")
MEMORIES = ((0.0, 0.02), (0.02, 0.05), (0.05, 0.15), (0.15, 0.4), (0.4, 1.0))
Result = dict[str, Any]


def drawn(index: int) -> Fixture:
    """Return the fixture of this number: odd ones remember, even ones never do."""
    rng = np.random.default_rng(derived_seed("lab calibration", index))
    q = int(rng.integers(4, 9))
    grammar = Grammar(index, q, 4, float(rng.uniform(0.5, 1.5)), int(rng.integers(3, q + 1)))
    course = Course(
        memory=float(np.exp(rng.uniform(np.log(0.05), np.log(0.8)))) * (index % 2),
        growth=float(rng.uniform(1, 2.5)),
        onset=float(rng.uniform(3, 11)),
        learned=float(rng.uniform(11, 18)),
    )
    n_train = int(np.exp(rng.uniform(np.log(500), np.log(3000))))
    return Fixture(grammar, course, n_train, N_HELDOUT, TAUS, seed=index)


def calibrate(
    out: Path,
    indices: Iterable[int],
    n_samples: int,
    say: Callable[[str], None] = lambda text: None,
    fixture: Callable[[int], Fixture] = drawn,
) -> list[Result]:
    """Audit these fixtures, but for those that are in ``out``; return the results of all that are there then.

    Several processes may share ``out`` if each has fixtures of its own.
    """
    out.mkdir(parents=True, exist_ok=True)
    for index in indices:
        path = out / f"{index:04}.json"
        if not path.exists():
            say(f"auditing fixture {index}")
            found = audited(fixture(index), out / f"work-{index:04}", n_samples)
            write_json(path, {"index": index, "n_samples": n_samples} | found)
    results = [json.loads(path.read_bytes()) for path in sorted(out.glob("[0-9]*.json"))]
    if {each["n_samples"] for each in results} != {n_samples}:
        what = f"Some fixtures here were audited with another number of samples than {n_samples}."
        raise AuditError(what, out, "Choose another --out, or the same --n-samples.")
    return results


def measured(
    fixture: Fixture, work: Path, n_samples: int, settings: Mapping[str, Any] = SETTINGS
) -> tuple[Measured, Asked]:
    """Audit a fixture by every stage of ``audit run`` under these settings; return what was measured, and from what."""
    from auditor import inputs, pipeline
    from auditor.pipeline.plan import plan

    shutil.rmtree(work, ignore_errors=True)
    run = RunDirectory(work / "audit")
    given = {**settings, **fixture.write(work / "fixture"), "out": str(run.root), "n_samples": n_samples}
    loaded = inputs.prepare(AuditConfig(**given, allow_overlap=True), run)
    with run.locked():
        found = pipeline.audit(loaded, run, plan(loaded.asked, run), lambda text, calls: None)
    shutil.rmtree(work)
    return found, loaded.asked


def audited(fixture: Fixture, work: Path, n_samples: int, settings: Mapping[str, Any] = SETTINGS) -> Result:
    """Return truth and verdict of every checkpoint of a fixture, and what was recommended."""
    found, asked = measured(fixture, work, n_samples, settings)
    memory = [fixture.course.memory_at(tau) for tau in fixture.taus]
    truths = fixture.phases(asked.times + 1, asked.budgets)
    rows = [
        {"tau": d.step, "memory": m, "truth": truth, "verdict": d.verdict}
        for d, m, truth in zip(found.decisions, memory, truths, strict=True)
    ]
    numbers = {"grammar": asdict(fixture.grammar), "course": asdict(fixture.course), "n_train": fixture.n_train}
    recommended = {"status": found.recommendation.status, "step": found.recommendation.step}
    trusted = not found.checks["distrust"] and not found.checks["not_exchangeable"]
    return numbers | {"rows": rows, "recommended": recommended, "trusted": trusted}


# ---------------------------------------------------------------------------
# The page
# ---------------------------------------------------------------------------

HEAD = """# Calibration against a known truth

{n} fixtures of the hierarchical grammar (docs/lab.md), audited whole: {seeds:,} samples per checkpoint, {steps}
sampling steps, space `onehot`, the default budgets. Each is another random grammar (4 to 8 letters, 3 or more rules
per letter, spread of the logits .5 to 1.5, 16 letters per sequence), other halves (500 to 3,000 sequences), and
another course: from which time on the model mixes in the empirical denoiser of its own half, how fast that grows, and
to what weight (.05 to .8). Even-numbered fixtures never do. This page is written by
`audit lab calibrate --out FOLDER --n {n} --report docs/lab-calibration.md`.

The truth is what was built in. A checkpoint is *generalizing* while the weight of its own half is 0, *biased* from
then on, *overfit* where the true loss has risen by more than the budget, and *underfit* before the least true loss
where it exceeds the budget's multiple of it. A weight of .01 makes a checkpoint biased here, though a lean that small
is within what the budgets accept; the last table therefore goes by the weight. No phase is called memorizing here:
copying has no threshold in the truth, and models of large weight do copy.
"""


def page(results: Sequence[Result]) -> str:
    """Return the calibration page, Markdown."""
    head = HEAD.format(n=len(results), seeds=results[0]["n_samples"], steps=SAMPLING_STEPS)
    return "\n".join([head, *headlines(results), "", *phase_table(results), "", *memory_table(results)]) + "\n"


def write_page(path: Path, text: str) -> None:
    """Write the page."""
    with atomic(path) as temporary:
        temporary.write_text(text)


def headlines(results: Sequence[Result]) -> list[str]:
    """Return the rates per fixture: fixtures are independent of one another, the checkpoints of one are not."""
    clean = [clean_rows(each) for each in results]
    null = [rows for each, rows in zip(results, clean, strict=True) if remembers_never(each)]
    alarmed = [any(row["verdict"] in ALARMS for row in rows) for rows in clean if rows]
    alarmed_null = [any(row["verdict"] in ALARMS for row in rows) for rows in null if rows]
    last = [each["rows"][-1] for each in results if not remembers_never(each)]
    strong = [row for row in last if row["memory"] >= 0.15]
    middle = [rows[-1] for each in results if (rows := [r for r in each["rows"] if 0.05 <= r["memory"] < 0.15])]
    released = [each for each in results if each["recommended"]["status"] == "found"]
    wrongly = [released_memory(each) >= 0.15 for each in released]
    lines = ["## Rates per fixture", "", "| | rate | 95 % Clopper-Pearson |", "|---|---|---|"]
    lines.append(line("a false alarm at any checkpoint without memory", alarmed))
    lines.append(line("the same, fixtures that never remember", alarmed_null))
    lines.append(line("last checkpoint, weight .15 or more: not alarmed", [r["verdict"] not in ALARMS for r in strong]))
    lines.append(line("the same: called generalizing", [row["verdict"] == "generalizing" for row in strong]))
    lines.append(line("last one of weight .05 to .15: not alarmed", [r["verdict"] not in ALARMS for r in middle]))
    lines.append(line("the same: called generalizing", [row["verdict"] == "generalizing" for row in middle]))
    lines.append(line("a released checkpoint has a weight of .15 or more", wrongly))
    lines.append(line("controls failed or halves called different", [not each["trusted"] for each in results]))
    return lines


def phase_table(results: Sequence[Result]) -> list[str]:
    """Return the checkpoints by true phase and verdict."""
    rows = [row for each in results for row in each["rows"]]
    counts = Counter((row["truth"], row["verdict"]) for row in rows)
    lines = ["## True phase against verdict, checkpoints", "", "| truth | " + " | ".join(VERDICTS) + " |"]
    lines.append("|---" * (len(VERDICTS) + 1) + "|")
    for truth in TRUTHS:
        lines.append(f"| {truth} | " + " | ".join(str(counts[truth, verdict]) for verdict in VERDICTS) + " |")
    return lines


def memory_table(results: Sequence[Result]) -> list[str]:
    """Return the verdicts on checkpoints that remember, by the weight of memory."""
    rows = [row for each in results for row in each["rows"] if row["memory"] > 0]
    lines = ["## Checkpoints that remember, by weight", ""]
    lines += [
        "| weight | checkpoints | alarmed | called generalizing | undecided or underfit |",
        "|---|---|---|---|---|",
    ]
    for low, high in MEMORIES:
        inside = [row["verdict"] for row in rows if low < row["memory"] <= high]
        n, alarmed = len(inside), sum(verdict in ALARMS for verdict in inside)
        safe = inside.count("generalizing")
        lines.append(f"| {low:g} to {high:g} | {n} | {alarmed} | {safe} | {n - alarmed - safe} |")
    return lines


def line(name: str, hits: Iterable[bool]) -> str:
    """Return one rate with its interval as a row of a table."""
    hits = list(hits)
    if not hits:
        return f"| {name} | none to count | |"
    low, high = clopper_pearson(sum(hits), len(hits))
    return f"| {name} | {sum(hits)} of {len(hits)} | {low:.3f} to {high:.3f} |"


def clean_rows(result: Result) -> list[dict[str, Any]]:
    """Return the checkpoints without memory."""
    return [row for row in result["rows"] if row["memory"] == 0 and row["truth"] != "overfit"]


def remembers_never(result: Result) -> bool:
    """Return whether a fixture has no memory at all."""
    return all(row["memory"] == 0 for row in result["rows"])


def released_memory(result: Result) -> float:
    """Return the weight of memory at the recommended step."""
    return next(row["memory"] for row in result["rows"] if row["tau"] == result["recommended"]["step"])
