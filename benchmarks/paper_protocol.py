"""What known faults of the published protocol change: ``python benchmarks/paper_protocol.py``.

Every line is one fault, held against the choice of this project on the same samples or the same simulated curves.
Seconds on one core; nothing is trained. ``--run RUN`` reads a run made with ``--protocol paper`` instead, ``--demo``
draws samples of the demo's twins with and without re-used starting noise (minutes).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import special

from auditor.diffusion import denoising, noise, sampling
from auditor.lab import exact, sweeps
from auditor.lab.blend import Course, initial_weights
from auditor.lab.decomposition import decompose, divergence
from auditor.lab.diffusion import Diffusion
from auditor.lab.grammar import Grammar
from auditor.stats import intervals, minima

GRAMMAR, DIFFUSION, T = Grammar(), Diffusion(), 75


def main() -> None:
    """Print every comparison, or those on a run or on the demo's twins."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run made with --protocol paper")
    parser.add_argument("--demo", action="store_true", help="re-used noise in samples of the demo's twins")
    parser.add_argument("--smoke", action="store_true", help="few simulations: does it start?")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.run is not None:
        print(of_run(given.run))
        return
    if given.demo:
        print(colliding_samples())
        return
    for each in (pair_error, argmin_alone, colliding_noise, bins, floor, contamination, uturn_ratio):
        few = {"repeats": 5} if given.smoke and each in (pair_error, argmin_alone) else {}
        print(f"{each.__doc__.splitlines()[0]}\n  {each(**few)}")


def pair_error(k: int = 15, repeats: int = 2000) -> str:
    """Standard error over pairs of trainings, as if pairs were independent."""
    rng = np.random.default_rng(0)
    first, second = np.triu_indices(k, 1)
    names = [str(i) for i in range(k)]
    hits = np.zeros(2)
    for _ in range(repeats):
        model = rng.normal(size=k)
        pairs = (model[first] + model[second]) / 2 + 0.3 * rng.normal(size=len(first)) / 2
        half = 1.96 * pairs.std(ddof=1) / np.sqrt(len(pairs))
        keyed = {(names[i], names[j]): value for i, j, value in zip(first, second, pairs, strict=True)}
        jackknife = intervals.node_jackknife(keyed, names)
        hits += [abs(pairs.mean()) <= half, jackknife.low <= 0 <= jackknife.high]
    over_pairs, over_nodes = hits / repeats
    return f"{k} trainings: a 95 % interval covers {over_pairs:.0%} over pairs, {over_nodes:.0%} by the node jackknife"


def argmin_alone(repeats: int = 300) -> str:
    """The minimum of a curve as one step, without a set."""
    steps = np.arange(20)
    truth = 0.002 * (steps - 9) ** 2 / 10
    rng, single, within, size = np.random.default_rng(0), 0, 0, []
    draws = minima.resamples(200, 0, 500)
    for _ in range(repeats):
        curve = truth[:, None] + 0.1 * rng.normal(size=200) + 0.05 * rng.normal(size=(20, 200))
        inside = minima.argmin_set(curve, draws, 1)
        single += int(curve.mean(axis=1).argmin() == 9)
        within += bool(inside[9])
        size.append(int(inside.sum()))
    right, held = single / repeats, within / repeats
    by_set = f"the 95 % set holds it in {held:.0%}, with {np.mean(size):.1f} steps"
    return f"the argmin is the true step in {right:.0%}; {by_set}"


def colliding_noise() -> str:
    """x_T and the first step's noise from generators of one seed."""
    a = float(np.sqrt(0.02))  # of the first reverse step's noise; x_T is nearly all noise and keeps sqrt(1 - a^2)
    first = torch.randn(1000, 1024, generator=torch.Generator().manual_seed(0))
    again = torch.randn(1000, 1024, generator=torch.Generator().manual_seed(0))
    apart = torch.randn(1000, 1024, generator=torch.Generator().manual_seed(1))
    keeps = np.sqrt(1 - a**2)
    equal, independent = (float((keeps * first + a * other).std()) for other in (again, apart))
    return f"after one step the noise has standard deviation {equal:.3f} instead of {independent:.3f}"


def bins() -> str:
    """Histograms of whole-numbered distances on bins of another width."""
    train, new = GRAMMAR.block(0, 1500), GRAMMAR.block(1, 1500)
    shift = np.where(np.random.default_rng(0).random(1500) < 0.3, 1, 0)
    nearest = (new[:, None] != train[None]).sum(axis=2).min(axis=1)
    moved = np.maximum(nearest - shift, 0)
    found = {n: kl_of_histograms(moved, nearest, np.linspace(0, 16, n + 1)) for n in (20, 16, 10, 8)}
    values = ", ".join(f"{n} bins {value:.4f}" for n, value in found.items())
    auc = np.mean(moved[:, None] < nearest) + np.mean(moved[:, None] == nearest) / 2
    farther = kl_of_histograms(nearest + shift, nearest, np.linspace(0, 16, 21))
    return f"KL {values}; {farther:.4f} where as many are *farther*; the signed AUC {auc:.3f} tells the two apart"


def kl_of_histograms(first: np.ndarray, second: np.ndarray, edges: np.ndarray) -> float:
    """Return KL of two histograms, clipped as published."""
    p, q = (np.clip(np.histogram(each, edges)[0] / len(each), 1e-8, 1) for each in (first, second))
    return float(special.rel_entr(p, q).sum())


def floor() -> str:
    """A floor of 1e-16 in place of forbidden pairs."""
    letters = np.random.default_rng(0).integers(6, size=(300, 16))
    x0 = exact.as_one_hot(letters, 6, torch.float32)
    strict = exact.denoiser(GRAMMAR, DIFFUSION)
    found = sweeps.uturn(strict, DIFFUSION, x0, 25, 0).mean()
    recovers = f"recovers {found:.3f} of the letters"
    return f"the exact denoiser on random sequences at t = 25 {recovers}; published with a floor: .833"


def contamination() -> str:
    """Test rows that are among the training rows of a model."""
    train, new = GRAMMAR.block(0, 2000), GRAMMAR.block(1, 1000)
    blend = Course(memory=0.1).blend(20, GRAMMAR, train, initial_weights(GRAMMAR, 0, "a"), DIFFUSION)
    found = {}
    for name, sequences in (("held-out", new), ("trained on", train[:1000])):
        x0 = exact.as_one_hot(sequences, 6, torch.float32)
        x_t = DIFFUSION.noisy(x0, T, sweeps.normal(x0, 0))
        t = torch.full((len(x0),), T)
        mu, p = exact.posterior(x_t, DIFFUSION.fields[T], GRAMMAR), blend(x_t, t)
        parts = decompose(p, x0, mu)
        found[name] = (float(divergence(mu, p).mean()), float(parts.loss.mean()), float(parts.adjusted_excess.mean()))
    texts = [f"{name}: KL {kl:.3f}, loss {loss:.3f}, excess {rest:+.3f}" for name, (kl, loss, rest) in found.items()]
    return "a model that remembers a tenth; " + "; ".join(texts)


def uturn_ratio() -> str:
    """The ratio of a model's U-turn to the exact one's as a sign of memory."""
    x0 = exact.as_one_hot(GRAMMAR.block(2, 400), 6, torch.float32)
    truth = exact.denoiser(GRAMMAR, DIFFUSION)

    def sure(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        sharp = truth(x_t, t) ** 4
        return sharp / sharp.sum(dim=2, keepdim=True)

    ratios = []
    for t in (42, 60, 75):
        mine, exact_one = (sweeps.uturn(each, DIFFUSION, x0, t, 0).mean() for each in (sure, truth))
        ratios.append(f"{mine / exact_one:.3f} at t = {t}")
    return f"a model without any training sequences that is too sure of itself has ratios {', '.join(ratios)}"


def of_run(root: Path) -> str:
    """Onsets and error bars of one run, as published and as here."""
    rows, lines = pd.read_parquet(root / "protocol.parquet"), []
    for (quantity, twin), each in rows.groupby(["quantity", "twin"], sort=True):
        there, here = ([int(s) for s in each.step[each[name]]] for name in ("published_onset", "own_onset"))
        half = (each.own_high - each.own_low) / 2
        wide = half / (1.96 * each.published_error)
        ratio = (
            f"; half an interval here is {wide.median():.2f} times 1.96 published errors" if wide.notna().any() else ""
        )
        lines.append(f"{quantity} ({twin}): published onset {there}, set here {here}{ratio}")
    record = json.loads((root / "run.json").read_text())
    where = root / "pairs" / "+".join(record["pairs"][0]) if "pairs" in record else root
    for path in sorted(where.glob("losses/a/*.published.parquet"), key=lambda p: int(p.name.split(".")[0])):
        cells = pd.read_parquet(path)
        by_image = cells.groupby("id", observed=True).loss.mean()
        naive = cells.loss.std(ddof=1) / np.sqrt(len(cells))
        image = by_image.std(ddof=1) / np.sqrt(len(by_image))
        first, last = cells.loss[cells.t == 0].mean(), int(cells.t.max()) + 1
        levels = {n: cells.loss[cells.t.isin(denoising.time_levels(n, last))].mean() for n in (8, 16, 32)}
        at_levels = ", ".join(f"{value:.4f} at {n}" for n, value in levels.items())
        lines.append(
            f"loss at {path.name.split('.')[0]}: {cells.loss.mean():.4f}, error over cells {naive:.5f}, over images "
            f"{image:.5f}; at time 0 {first:.3f}, without it {cells.loss[cells.t > 0].mean():.4f}; "
            f"the same cells at this project's levels of the noise alone {at_levels}"
        )
    return "\n".join(lines)


def colliding_samples(step: int = 1390, n: int = 64) -> str:
    """Distance of the demo's twins where the first step's noise is the starting noise again, and where it is not."""
    from auditor import checkpoints, inputs
    from auditor.demo.recipe import shipped
    from auditor.diffusion.scaling import Pixels
    from auditor.spaces import SpaceSettings
    from auditor.spaces.correlation import CorrelationSpace

    settings, space, found = checkpoints.ModelSettings(), CorrelationSpace(SpaceSettings()), {}
    series = (checkpoints.discover(shipped() / "twins" / twin, twin, settings) for twin in "ab")
    pair = inputs.usable(checkpoints.pair(*series, steps=[step]))
    _, schedule = checkpoints.check_compatible(pair, None, settings)
    models = [checkpoints.load(each.at(step), schedule, "cpu", settings, Pixels()) for each in (pair.a, pair.b)]
    for again in (False, True):
        drawn = [space.embed(chain(model, n, again)) for model in models]
        r = (drawn[0] * drawn[1]).sum(axis=1)
        found[again] = (1 - r.mean(), r.std(ddof=1) / np.sqrt(n))
    apart, used = (f"{value:.4f} ± {error:.4f}" for value, error in (found[False], found[True]))
    return f"1 - r of the twins at step {step}, {n} seeds: {apart}; with the starting noise used again {used}"


def chain(model, n: int, again: bool) -> np.ndarray:
    """Return samples of the published chain; ``again``: the noise of its first step is the starting noise."""
    h, w, c = model.x_shape
    stepper = sampling.make_scheduler("published", 1000, model.scheduler)
    streams = noise.generators(range(n))
    with torch.inference_mode():
        x = noise.draw(streams, (c, h, w))
        if again:
            streams = noise.generators(range(n))
        for t in stepper.timesteps:
            output = model.network(x, torch.full((n,), int(t)))
            x = stepper.step(output, t, x, generator=streams).prev_sample
    return model.codec.decode(x)


if __name__ == "__main__":
    main()
