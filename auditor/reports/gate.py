"""A run, and the policy of who releases, to pass, fail or undecided (docs/policies.md). It reads the run's files only.

Undecided is never a pass: not a run whose controls failed, not a number without an
interval, not an interval that reaches over its limit. The exit status and JUnit say so alike. A policy may
allow it, but not for a run that cannot be trusted, is not finished, or was given other halves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from auditor.config import Budgets, read_toml
from auditor.errors import AuditError
from auditor.records import VERDICTS
from auditor.reports import ADVICE, advice_of, printable, write_file
from auditor.run import RunDirectory, tables

PASS, FAIL, UNDECIDED = "pass", "fail", "undecided"
EXIT_STATUS = {PASS: 0, FAIL: 3, UNDECIDED: 4}
SCHEMA_VERSION = 1  # of the JSON
NEVER_ALLOWED = ("run", "halves")  # requirements without which no number means anything
SHOWN = 3  # rows of a budget that its sentence tells


@dataclass(frozen=True)
class Policy:
    """What a step must hold to be released."""

    path: str
    budgets: Mapping[str, float]  # metric, metric.space or metric.space.twin -> upper limit
    verdicts: tuple[str, ...]  # accepted ones; empty where the policy does not ask
    allows_undecided: bool = False

    @property
    def asks(self) -> bool:
        """Whether it asks for anything beside the tool's own rule."""
        return bool(self.budgets or self.verdicts)


@dataclass(frozen=True)
class Requirement:
    """One thing that was asked, whether it holds, and a sentence that says why."""

    name: str
    outcome: str  # pass, fail, undecided
    reason: str


@dataclass(frozen=True)
class Judgement:
    """The answer of the gate for one step, or for no step where none was named or recommended."""

    step: int | None
    requirements: tuple[Requirement, ...]
    note: str = ""
    allows_undecided: bool = False
    beside: Mapping[str, str] = field(default_factory=dict)  # who is exposed and what to do now, as every report has it

    @property
    def outcome(self) -> str:
        """The worst outcome of all requirements."""
        return worst(each.outcome for each in self.requirements)

    @property
    def exit_status(self) -> int:
        """0, 3 or 4; 0 also where all that is undecided is allowed."""
        return EXIT_STATUS[worst(PASS if self.is_allowed(each) else each.outcome for each in self.requirements)]

    def is_allowed(self, requirement: Requirement) -> bool:
        """Whether a requirement is undecided and the policy lets that pass."""
        allowable = self.allows_undecided and requirement.name not in NEVER_ALLOWED
        return requirement.outcome == UNDECIDED and allowable

    @property
    def paragraph(self) -> str:
        """The answer, then what decides it: all that holds, or what does not, failures first."""
        name = "This run" if self.step is None else f"Step {self.step:,}"
        allowed = ", which the policy allows" if self.exit_status == EXIT_STATUS[PASS] else ""
        head = {
            PASS: f"{name} passes.",
            FAIL: f"{name} does not pass.",
            UNDECIDED: f"{name} is undecided{allowed}.",
        }
        shown = (PASS,) if self.outcome == PASS else (FAIL, UNDECIDED)
        reasons = [each.reason for outcome in shown for each in self.requirements if each.outcome == outcome]
        return " ".join([head[self.outcome], *reasons, self.note]).strip()


def worst(outcomes: Iterable[str]) -> str:
    """Return fail where one fails, else undecided where one is open, else pass."""
    found = set(outcomes)
    return FAIL if FAIL in found else UNDECIDED if UNDECIDED in found else PASS


def check(root: str | Path, policy_path: str | Path | None = None, step: int | None = None) -> Judgement:
    """Judge a step of a run by a policy, or by the tool's own rule; without a step, the recommended one.

    A run that is not finished, or whose controls failed, is undecided whatever else it says.

    Raises
    ------
    AuditError
        If there is no run, the step was not audited, or the policy asks for what does not exist.
    """
    policy = Policy("", {}, ()) if policy_path is None else read_policy(policy_path)
    run = RunDirectory(root)
    record = run.read_record()
    sound = soundness(record)
    if sound.outcome != PASS:
        return Judgement(step, (sound,), beside=advice_of(record))
    verdicts = tables.read(run.table("verdicts")).set_index("step").sort_index()
    found, notes = [sound, *exchangeability(record)], [changed_budgets(record)]
    chosen = recommended_step(record)
    require_audited(chosen if step is None else step, verdicts, run.root)
    if step is None:
        found.append(recommendation(record))
        step = chosen
    elif not policy.asks:
        found += by_rule(step, record, verdicts)
    if step is not None and step == chosen and verdicts.verdict[step] != "generalizing":
        notes.append(f"It is recommended although its verdict is {verdicts.verdict[step]}: {verdicts.reasons[step]}")
    if policy.asks and step is not None:
        measurements = tables.read(run.table("measurements"))
        found += [judge_budget(measurements, step, *each, policy.path) for each in policy.budgets.items()]
        found += [accepted(verdicts.loc[step], policy.verdicts)] if policy.verdicts else []
        notes += [] if policy.verdicts else [f"The policy accepts any verdict; it is {verdicts.verdict[step]}."]
    return Judgement(step, tuple(found), " ".join(filter(None, notes)), policy.allows_undecided, advice_of(record))


# ---------------------------------------------------------------------------
# The policy
# ---------------------------------------------------------------------------


def read_policy(path: str | Path) -> Policy:
    """Return the policy of a TOML file.

    Raises
    ------
    AuditError
        If a key or a verdict does not exist, a limit is no number, or it asks for nothing.
    """
    given = read_toml(path)
    refuse_unknown("policy table", given, ("budgets", "require", "allow"), path)
    for name, value in given.items():
        if not isinstance(value, Mapping):
            raise AuditError(f"{name} = {value!r} is no table.", path, f"Write [{name}] and its keys below.")
    refuse_unknown("requirement", given.get("require", {}), ("verdict",), path)
    refuse_unknown("allowance", given.get("allow", {}), ("undecided",), path)
    allowed = given.get("allow", {}).get("undecided", False)
    if not isinstance(allowed, bool):
        raise AuditError(f"undecided = {allowed!r} is neither true nor false.", path, "Write [allow] undecided = true.")
    policy = Policy(
        str(path),
        dict(limits(given.get("budgets", {}), path)),
        accepted_verdicts(given.get("require", {}), path),
        allowed,
    )
    if not policy.asks and not policy.allows_undecided:
        raise AuditError(
            "The policy asks for nothing.", path, "Write [budgets] metric = upper limit or [require] verdict = [...]."
        )
    return policy


def limits(given: Mapping[str, Any], path: str | Path, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield key and limit of every budget; ``own_share.pixel = 0.6`` is the same with and without quotes."""
    for name, value in given.items():
        if isinstance(value, Mapping):
            yield from limits(value, path, f"{prefix}{name}.")
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise AuditError(f"The limit {prefix}{name} = {value!r} is no number.", path, "Give a finite number.")
        else:
            yield f"{prefix}{name}", float(value)


def accepted_verdicts(given: Mapping[str, Any], path: str | Path) -> tuple[str, ...]:
    """Return the accepted verdicts, none where the policy does not ask."""
    if "verdict" not in given:
        return ()
    value = given["verdict"]
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise AuditError(
            f"verdict = {value!r} is no list of verdicts.", path, 'Write, for instance: verdict = ["generalizing"]'
        )
    refuse_unknown("verdict", value, VERDICTS, path)
    return tuple(value)


def refuse_unknown(kind: str, names: Iterable[str], known: Iterable[str], path: object) -> None:
    """Raise an error for the first name that is not known, with close matches and the list."""
    known = list(known)
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]}? " if close else ""
            raise AuditError(f"There is no {kind} {name!r}.", path, f"{hint}Choose from: {', '.join(known)}.")


# ---------------------------------------------------------------------------
# Requirements of every run
# ---------------------------------------------------------------------------


def soundness(record: Mapping[str, Any]) -> Requirement:
    """Return whether the run is finished and its controls passed."""
    if record["status"] != "complete":
        return Requirement("run", UNDECIDED, "The audit is not finished: give the same audit run command again.")
    failed = record["checks"].get("distrust", [])
    if failed:
        return Requirement("run", UNDECIDED, " ".join(["The run is not to be trusted.", *failed]))
    return Requirement("run", PASS, "The audit is complete and its controls passed.")


def exchangeability(record: Mapping[str, Any]) -> list[Requirement]:
    """Return that the halves differ, or are not those trained on: then own and other cannot be compared."""
    reasons = [each for check in ("not_exchangeable", "not_the_halves") for each in record["checks"].get(check, [])]
    return [Requirement("halves", UNDECIDED, " ".join(reasons))] if reasons else []


def changed_budgets(record: Mapping[str, Any]) -> str:
    """Say which margins of the verdict are not the defaults."""
    given = record["budgets"]
    changed = [
        f"{each.name} {given[each.name]:g} instead of {each.default:g}"
        for each in fields(Budgets)
        if given.get(each.name, each.default) != each.default
    ]
    return f"The run was judged by changed margins: {', '.join(changed)}." if changed else ""


def require_audited(step: int | None, verdicts: pd.DataFrame, root: Path) -> None:
    """Refuse a step that the run does not hold."""
    if step is not None and step not in verdicts.index:
        steps = ", ".join(map(str, verdicts.index))
        raise AuditError(f"Step {step} was not audited.", root, f"Choose from: {steps}.")


# ---------------------------------------------------------------------------
# The tool's own rule (statistics 10 and 11)
# ---------------------------------------------------------------------------


def recommended_step(record: Mapping[str, Any]) -> int | None:
    """Return the recommended step, or None."""
    found = record["checks"]["recommendation"]
    return int(found["step"]) if found["status"] == "found" else None


def recommendation(record: Mapping[str, Any]) -> Requirement:
    """Return whether a step is recommended; where the model that is to be released was audited, whether that is."""
    found = record["checks"].get("final") or record["checks"]["recommendation"]
    outcome = {"found": PASS, "none": FAIL, "undecided": UNDECIDED}[found["status"]]
    return Requirement("recommendation", outcome, found["sentence"])


def by_rule(step: int, record: Mapping[str, Any], verdicts: pd.DataFrame) -> list[Requirement]:
    """Judge a step by its verdict and by whether the walk over the checkpoints came so far."""
    if step == recommended_step(record):
        return [recommendation(record)]
    verdict = accepted(verdicts.loc[step], ("generalizing",))
    return [verdict, reached(step, record, verdicts)] if verdict.outcome == PASS else [verdict]


def reached(step: int, record: Mapping[str, Any], verdicts: pd.DataFrame) -> Requirement:
    """Return whether every candidate up to this step passed.

    The walk that recommends stops at the first checkpoint that is not shown safe; only up
    to there is the chance of passing an unsafe one at most 5 %.
    """
    chosen = recommended_step(record)
    if chosen is None:
        reason = f"Its verdict is generalizing, but no step is recommended. {recommendation(record).reason}"
        return Requirement("earlier steps", UNDECIDED, reason)
    between = verdicts[(verdicts.index > chosen) & (verdicts.index < step)].verdict
    stops = between[~between.isin(("generalizing", "underfit"))]
    if len(stops):
        reason = (
            f"Its verdict is generalizing, but the walk over the checkpoints ended before it: step {stops.index[0]:,} "
            f"is {stops.iloc[0]}."
        )
        return Requirement("earlier steps", UNDECIDED, reason)
    return Requirement("earlier steps", PASS, f"All candidates up to it passed; recommended is step {chosen:,}.")


def accepted(row: Any, verdicts: tuple[str, ...]) -> Requirement:
    """Return whether the verdict of a step is one of those accepted."""
    if row.verdict in verdicts:
        return Requirement("verdict", PASS, f"Its verdict is {row.verdict}: {row.reasons}")
    outcome = UNDECIDED if row.verdict == "undecided" else FAIL
    return Requirement("verdict", outcome, f"Its verdict is {row.verdict}, not {' or '.join(verdicts)}: {row.reasons}")


# ---------------------------------------------------------------------------
# Budgets of a policy
# ---------------------------------------------------------------------------


def judge_budget(measurements: pd.DataFrame, step: int, key: str, limit: float, path: str) -> Requirement:
    """Compare the intervals of all rows that a key names with their upper limit."""
    rows = matching(measurements, key, path)
    rows = rows[rows.step == step].sort_values("high", ascending=False, kind="stable")
    judged = [(judge_interval(row, limit), describe(row)) for row in rows.itertuples()]
    outcome = worst(each for each, _ in judged) if judged else UNDECIDED
    decisive = [sentence for each, sentence in judged if each == outcome]
    more = [f"and {len(decisive) - SHOWN} more"] if len(decisive) > SHOWN else []
    says = {PASS: "is within", FAIL: "is above", UNDECIDED: "is not shown to be within"}[outcome]
    told = "; ".join([*decisive[:SHOWN], *more]) or "not measured at this step"
    return Requirement(f"budget {key}", outcome, f"{key} {says} its limit {limit:g}: {told}.")


def matching(measurements: pd.DataFrame, key: str, path: str) -> pd.DataFrame:
    """Return the rows that ``metric``, ``metric.space``, ``metric.twin`` or ``metric.space.twin`` names."""
    metric, *parts = key.split(".")
    refuse_unknown("metric", [metric], measurements.metric.unique(), path)
    rows = measurements[measurements.metric == metric]
    for part in parts:
        spaces, twins = (sorted(set(rows[column]) - {""}) for column in ("space", "twin"))
        refuse_unknown(f"space or twin of {metric}", [part], [*spaces, *twins], path)
        rows = rows[rows["space" if part in spaces else "twin"] == part]
    return rows


def interval(row: Any) -> tuple[float, float, str]:
    """Return the interval that counts: the corrected one where there is one."""
    if math.isnan(row.high_corrected):
        return row.low, row.high, "interval"
    return row.low_corrected, row.high_corrected, "corrected interval"


def judge_interval(row: Any, limit: float) -> str:
    """Return pass where the whole interval is at most the limit, fail where it is above; NaN is neither."""
    low, high, _ = interval(row)
    return PASS if high <= limit else FAIL if low > limit else UNDECIDED


def describe(row: Any) -> str:
    """Say one row of the measurements."""
    low, high, kind = interval(row)
    where = f"{row.twin} in {row.space}" if row.space else row.twin
    if math.isnan(row.value):
        return f"{where} is not known ({row.note or 'no value'})"
    if math.isnan(high):
        return f"{where} {row.value:.4g} without interval ({row.note or row.method or 'none is defined'})"
    return f"{where} {row.value:.4g}, {row.level:.0%} {kind} {low:.4g} to {high:.4g}"


def as_text(judgement: Judgement) -> str:
    """Return the answer as a terminal shows it: the paragraph, then who is exposed and what to do now, a line each."""
    beside = [f"{ADVICE[key]}: {said}" for key, said in judgement.beside.items()]
    return "\n".join([judgement.paragraph, *beside])


# ---------------------------------------------------------------------------
# For programs
# ---------------------------------------------------------------------------


def as_json(judgement: Judgement) -> str:
    """Return the judgement as one JSON object."""
    facts = {
        "schema": SCHEMA_VERSION,
        "outcome": judgement.outcome,
        "exit_status": judgement.exit_status,
        "step": judgement.step,
        "reason": judgement.paragraph,
        "sentences": dict(judgement.beside),
        "undecided_allowed": judgement.allows_undecided,
        "requirements": [asdict(each) for each in judgement.requirements],
    }
    return json.dumps(facts, indent=2)


def write_junit(judgement: Judgement, path: Path) -> None:
    """Write one test case per requirement: what fails or is undecided is a failure, with its reason.

    What is undecided and allowed is skipped, so that the file and the exit status agree.
    """
    suite = ElementTree.Element("testsuite", {"name": "audit check", "errors": "0"})
    counts = {"tests": 0, "failures": 0, "skipped": 0}
    for each in judgement.requirements:
        case = ElementTree.SubElement(suite, "testcase", classname="audit.check", name=printable(each.name))
        counts["tests"] += 1
        reason = printable(each.reason)
        if judgement.is_allowed(each):
            counts["skipped"] += 1
            ElementTree.SubElement(case, "skipped", message=f"undecided, which the policy allows: {reason}")
        elif each.outcome != PASS:
            counts["failures"] += 1
            said = f"undecided: {reason}" if each.outcome == UNDECIDED else reason
            ElementTree.SubElement(case, "failure", message=said, type=each.outcome).text = said
    suite.attrib.update({name: str(n) for name, n in counts.items()})
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    data = BytesIO()
    ElementTree.ElementTree(suites).write(data, encoding="utf-8", xml_declaration=True)
    write_file(path, data.getvalue() + b"\n", "Choose another --junit file.")
