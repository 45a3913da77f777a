"""What the audit says of a world, by its own tests, controls and rules; and what others' measures say of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from auditor import measuring, registry
from auditor.config import Budgets
from auditor.measuring import families, halves, verdict
from auditor.measuring.facts import Context, Named, Reference
from auditor.measuring.families import SeriesTests
from auditor.measuring.named import listed_rows
from auditor.measuring.series import Series
from auditor.records import TWINS, Evidence
from auditor.stats import counts
from auditor.stats.minima import Onset
from calibrating.deals import STEP, World

LEVEL = 0.025  # one-sided, at which a peer's measure is called an alarm
FRACTIONS = {  # the metric of each rule, and its score of what the rule flags
    "AuthPct": ("authenticity", 0.0),
    "Carlini": ("memorized_fraction_carlini", 1.0),
    "1/3": ("memorized_fraction_cluster", 1.0),
}
NOWHERE = Onset("none", -1, ())


@dataclass(frozen=True)
class Answer:
    """What was said of a world."""

    risk: str
    verdict: str
    released: bool
    why: tuple[str, ...]  # what kept it from being released, or was found: "condition: space"
    reference: float  # own_share of the smooth reference, in the space where it leans most
    peers: Mapping[str, bool]  # whether a measure of others raises an alarm


def asked(world: World) -> Answer:
    """Return what the audit says of a world whose samples are to be released: of its first checkpoint, and at all."""
    series, budgets = world.series(with_controls=False), Budgets()
    references = measuring.smooth_references(series)
    tests = families.all_tests(series, world.deal.relabeling)
    context = replace(
        context_of(world, tests, references, budgets), not_the_halves=halves.look_at(series, tests, budgets).wrong
    )
    steps = series.scope.steps
    facts = measuring.step_facts(
        series, tests, references, named(series), dict.fromkeys(steps, ()), np.empty((len(steps), 0))
    )
    judged = verdict.judge(facts[0], context, budgets)
    released = verdict.recommend(facts, context, budgets).status == "found"
    assert len(steps) > 1 or released == (judged.verdict == "generalizing"), "two statements contradict each other"
    why = () if released else tuple(dict.fromkeys(map(condition, judged.reasons)))
    reference = max(each.share for each in references.values())
    return Answer(judged.risk, judged.verdict, released, why, reference, peers(series))


def named(series: Series) -> dict[tuple[int, str], Named]:
    """Return the named list that is a condition, of every checkpoint and space; the others take time and are shown."""
    found = {}
    for step, space in product(series.scope.steps, series.scope.judged_spaces):
        evidence, landings = ({t: each[step, t, space] for t in TWINS} for each in (series.evidence, series.landings))
        found[step, space] = Named(
            tuple((row["half"], row["id"]) for row in listed_rows(evidence, landings, series, "gap"))
        )
    return found


def context_of(world: World, tests: SeriesTests, references: Mapping[str, Reference], budgets: Budgets) -> Context:
    """Return what holds for a whole run: controls and exchangeability, once for all worlds that share them."""
    key = "context", world.n_samples, world.heldout.tobytes(), tuple(world.spaces), bool(world.others)
    steps = list(world.steps)
    if key not in world.deal.made:
        nowhere = dict.fromkeys(world.spaces, NOWHERE)
        located = measuring.Located(dict.fromkeys(steps, ()), [*range(len(steps))], steps, NOWHERE, nowhere, NOWHERE)
        context = measuring.context_of(world.series(), tests, world.deal.relabeling, references, located, budgets)
        world.deal.made[key] = context
    return world.deal.made[key]


def condition(reason: str) -> str:
    """Return which rule a reason names, and in which space, without its numbers."""
    rule, rest = re.match(r"([^:,;(]*)[:,;(]? ?(.*)", reason, re.DOTALL).groups()  # type: ignore[union-attr]
    named = re.match(r"[a-z][a-z-]*(?=: )", rest) or re.search(r"(?<= in )[a-z][a-z-]*$", rule)
    rule = rule.removesuffix(f" in {named[0]}") if named else rule
    said = re.sub(r"\d+", "n", rule).strip(" .")
    return f"{said}: {named[0]}" if named else said


def peers(series: Series) -> dict[str, bool]:
    """Return whether each measure of others alarms, at one-sided 2.5 %.

    C_T (Meehan et al. 2020), in one cell, below -1.96. The others each count what they flag among samples against what
    they flag among held-out images, by Fisher's test: samples that are not authentic (Alaa et al. 2022), l < 1 (Carlini
    et al. 2023), d1 < d2 / 3 (Yoon et al. 2023), and a correlation with a training image above the 95 % quantile of
    held-out images' (Dar et al. 2023).
    """
    pixel = [series.evidence[STEP, t, "pixel"] for t in TWINS]
    said = {"C_T": bool(min(scores("c_t", each).mean() for each in pixel) < -1.96)}
    for name, (rule, flagged) in FRACTIONS.items():
        found, control = (
            np.concatenate([scores(of + rule, each) for each in pixel]) == flagged for of in ("", "heldout_")
        )
        said[name] = more_flagged(found, control)
    alike = [series.evidence[STEP, t, "correlation"] for t in TWINS]
    near = [(each.own[:, 0], each.heldout_own[:, 0]) for each in alike]
    found, control = (np.concatenate([pair[i] < np.quantile(pair[1], 0.05) for pair in near]) for i in (0, 1))
    said["Dar"] = more_flagged(found, control)
    return said


def scores(name: str, evidence: Evidence) -> np.ndarray:
    """Return the scores of one of the project's metrics."""
    return np.asarray(registry.lookup("metric", name).scores(evidence).values)


def more_flagged(found: np.ndarray, control: np.ndarray) -> bool:
    """Return whether more samples are flagged than held-out images, by Fisher's test."""
    return counts.more_hits(int(found.sum()), len(found), int(control.sum()), len(control)) <= LEVEL
