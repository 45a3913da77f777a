"""What transformers learn of a grammar, in which order, and when they turn to their own sequences (methods G2 and G5).

Takes the trainings of ``audit lab train DATA --out RUNS --repeats 2`` (a, b on disjoint sets, a2 and b2 again
on the same ones) and compares every checkpoint with the exact denoiser of the grammar, with the filtered ones,
with its twin and with the second training on its own set, at one time of the noise:

    python benchmarks/learned.py DATA RUNS --out benchmarks/learned

writes ``learned/curves.csv`` (means over sequences with 95 % intervals), ``learned/onsets.csv`` (steps that may hold
each minimum, at 95 %), ``learned/order.csv`` (is the split minimum before the oracle's? docs/statistics.md 6.4 for
this pair of curves) and ``learned/training.csv`` (the training loss by step).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from auditor.lab import oracle
from auditor.lab.checkpoints import folder_of, read
from auditor.lab.data import read_folder, read_sequences
from auditor.measuring import phase
from auditor.seeds import derived_seed
from auditor.stats import minima

PAIRS = {"split": ("a", "b"), "split, again": ("a2", "b2"), "same data": ("a", "a2"), "same data, b": ("b", "b2")}
MINIMA = (*(f"oracle_kl_{k}" for k in range(5)), "split_kl", "split_kl_own", "cross_entropy_heldout")


def steps_of(runs: Path, pair: tuple[str, str]) -> list[int]:
    """Return the steps that both trainings of a pair have."""
    found = [{int(p.name.split("-")[1]) for p in (runs / name).glob("checkpoint-*")} for name in pair]
    return sorted(set.intersection(*found))


def sets_of(data: Path, pair: tuple[str, str], grammar, diffusion, time: int, n: int) -> dict[str, oracle.Noised]:
    """Return the noised sequences that a pair of trainings is asked about: own of each, and held-out."""
    _, training = read_folder(data)
    heldout = read_sequences(data / "heldout.npz", grammar)
    known = {"a": training[pair[0][0]], "b": training[pair[1][0]], "heldout": heldout}
    return {name: oracle.noised(each[:n], grammar, diffusion, time, 0, name) for name, each in known.items()}


def main() -> None:
    """Compare the trainings that are given, or a few short ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("runs", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/learned"))
    parser.add_argument("--n", type=int, default=2000, help="sequences of each set")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="averages, or the weights themselves")
    parser.add_argument("--time", type=int, default=75, help="of the noise, of 500")
    parser.add_argument("--smoke", action="store_true", help="four short trainings of its own: does it start?")
    given = parser.parse_args()
    if given.smoke:
        with tempfile.TemporaryDirectory() as folder:
            given.data, given.runs, given.out = (Path(folder) / name for name in ("data", "runs", "out"))
            given.n = 20
            train_little(given.data, given.runs)
            return compare(given)
    if given.data is None or given.runs is None:
        parser.error("DATA and RUNS are needed")
    compare(given)


def train_little(data: Path, runs: Path) -> None:
    """Train the smallest transformers for a few steps, as the command line does."""
    from auditor.cli import app

    sizes = {"q": 3, "q-eff": 3, "depth": 4, "n-train": 40}
    recipe = {"width": 8, "layers": 1, "heads": 2, "feedforward": 16, "batch-size": 20, "average": 0.1}
    recipe |= {"steps": 6, "first": 2, "checkpoints": 3, "repeats": 2}
    for start, options in ((["make", "--out", data], sizes), (["train", data, "--out", runs], recipe)):
        given = [part for name, value in options.items() for part in (f"--{name}", value)]
        app(["lab", *map(str, [*start, *given])], standalone_mode=False)


def compare(given: argparse.Namespace) -> None:
    """Measure all checkpoints and write the tables."""
    series = {name: steps_of(given.runs, pair) for name, pair in PAIRS.items()}
    _, diffusion, grammar, _ = read(folder_of(given.runs / "a", series["split"][0]))
    curves, values = [], {}
    for name, pair in PAIRS.items():
        steps = series[name]
        sets = sets_of(given.data, pair, grammar, diffusion, given.time, given.n)
        for step in steps:
            folders = dict(zip("ab", (folder_of(given.runs / each, step, given.weights) for each in pair), strict=True))
            found = oracle.step_values({twin: read(folder)[0] for twin, folder in folders.items()}, sets)
            of_both = {key: each for key, each in found.items() if key[1] == "both"}
            curves += [{"pair": name} | row for row in oracle.rows_of(step, of_both)]
            for metric in MINIMA:
                values.setdefault((name, metric), []).append(found[metric, "both"].astype(float))
            print(f"{name}: step {step:,}", flush=True)
    onsets = [onset_row(name, metric, np.array(found), series[name]) for (name, metric), found in values.items()]
    orders = [order_row(name, values[name, "split_kl"], values[name, "oracle_kl_0"], series[name]) for name in PAIRS]
    logs = [read_log(given.runs / name, name) for name in ("a", "b", "a2", "b2")]
    given.out.mkdir(parents=True, exist_ok=True)
    columns = ["pair", "step", "metric", "value", "low", "high", "n"]
    pd.DataFrame(curves)[columns].to_csv(given.out / "curves.csv", index=False, float_format="%.5g")
    pd.DataFrame(onsets).to_csv(given.out / "onsets.csv", index=False)
    pd.DataFrame(orders).to_csv(given.out / "order.csv", index=False, float_format="%.4g")
    pd.concat(logs).to_csv(given.out / "training.csv", index=False)


def onset_row(pair: str, metric: str, values: np.ndarray, steps: list[int]) -> dict[str, object]:
    """Return where a curve may have its minimum; ``values`` are ``[steps, sequences]``."""
    draws = minima.resamples(values.shape[1], derived_seed("learned", pair))
    found = minima.locate_minimum(values, steps, draws, derived_seed("learned", pair, metric))
    ends = {"step": found.step, "low": min(found.steps, default=-1), "high": max(found.steps, default=-1)}
    return {"pair": pair, "metric": metric, "status": found.status} | ends | {"note": found.note}


def order_row(pair: str, split: list[np.ndarray], oracle_kl: list[np.ndarray], steps: list[int]) -> dict[str, object]:
    """Return whether the twins part before the exact denoiser is nearest, with and without jitter of the weights."""
    curves, seeds = (np.array(split), np.array(oracle_kl)), derived_seed("learned", "order", pair)
    found = phase.find(*curves, steps, (seeds, seeds + 1), seeds + 2)
    jitters = [minima.jitter_of(each) or minima.NO_JITTER for each in curves]
    return {
        "pair": pair,
        "claimed": found.claimed,
        "ratio_low": found.ratio_low,
        "ratio_high": found.ratio_high,
        "p": found.p,
        "p_without_jitter": phase.cross_fitted(*curves, 0.0, 0.0, seeds + 2),
        "jitter_sd_split": jitters[0].v ** 0.5,
        "jitter_sd_oracle": jitters[1].v ** 0.5,
    }


def read_log(folder: Path, name: str) -> pd.DataFrame:
    """Return the training loss of one training, every thousand steps."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return pd.DataFrame([{"training": name} | line for line in lines if line["step"] % 1000 == 0])


if __name__ == "__main__":
    main()
