"""How often right halves are doubted, and wrong ones are told: ``python benchmarks/right_halves.py [--run RUN]``.

Simulated r = ln(l_B / l_A) of n images a half and m held-out ones: normal, standard deviation .1, moved by the loss
lean to the side of the half that was trained on, and by 1 for images known by heart. With ``--run`` the losses of a
finished run are resampled. 1 % of samples are flagged by chance, on 1,000 images (docs/statistics.md 1.4).
"""

import argparse
from pathlib import Path

import numpy as np

from auditor.measuring import lean, read_series
from auditor.measuring.copies import Discordant
from auditor.measuring.halves import LEVEL, spread_of
from auditor.run import RunDirectory, restored
from auditor.scope import Scope

SIZES = ((128, 128), (500, 500), (500, 1000))
CASES = [(x, 0.0) for x in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.8)] + [(0.0, 0.02), (0.0, 0.05)]  # lean, known by heart
STEPS = 10  # for which the rule allows


def simulated(n, m, leans, by_heart, rng):
    """Return r, labels and r of held-out images."""
    labels = np.repeat([1.0, -1.0], n)
    known = labels * (leans + (rng.random(2 * n) < by_heart))
    return known + rng.normal(0, 0.1, 2 * n), labels, rng.normal(0, 0.1, m)


def resampled(r, labels, held, rng):
    """Return the same of the images of a run, drawn with replacement."""
    rows = np.concatenate([rng.choice(np.flatnonzero(labels == sign), (labels == sign).sum()) for sign in (1, -1)])
    return r[rows], labels[rows], rng.choice(held, len(held))


def losses_of(root):
    """Yield a name, r, labels and r of held-out images at every step of a run."""
    run = RunDirectory(root)
    series = read_series(run, restored(Scope, run.read_record()["scope"], run.record))
    for step in series.scope.steps:
        columns, r = lean.loss_scores(series.losses(step), series.pool)
        tables, labels = series.losses(step), series.pool.labels[columns]
        held = np.log(tables["b"]["heldout"].means / tables["a"]["heldout"].means)
        yield f"step {step:,}, loss lean {r @ labels / len(r):.3f}", r, labels, held


def dealt_anew(draw, worlds):
    """Return how often halves are told to be dealt anew: right ones, and those that are."""
    found = np.zeros((worlds, 2))
    for i, rng in enumerate(map(np.random.default_rng, range(worlds))):
        r, labels, held = draw(rng)
        found[i] = [spread_of(r, each, held).is_mixture(STEPS) for each in (labels, rng.permutation(labels))]
    return found.mean(axis=0)


def exchanged(copied, worlds, seeds=1000):
    """Return how often halves are told to be exchanged by the flags of one cell: right ones, and those that are."""
    found = np.zeros((worlds, 2))
    for i, rng in enumerate(map(np.random.default_rng, range(worlds))):
        groups = [rng.integers(0, 1000, rng.binomial(2 * seeds, rate)) for rate in (0.01 + copied, 0.01)]
        found[i] = [Discordant(*each).p(reverse=True) <= LEVEL for each in (groups, groups[::-1])]
    return found.mean(axis=0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--run", type=Path, help="a finished run of two trainings")
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args()
    worlds = 3 if given.smoke else given.worlds
    print("| halves | right ones told | wrong ones told |\n|---|---|---|")
    for (n, m), case in ((size, case) for size in SIZES for case in CASES):
        name = f"dealt anew, n {n}, m {m}, loss lean {case[0]}, {case[1]:.0%} known by heart"
        print("| {} | {:.3f} | {:.3f} |".format(name, *dealt_anew(lambda rng: simulated(n, m, *case, rng), worlds)))
    for name, *known in losses_of(given.run) if given.run else ():
        print("| {} | {:.3f} | {:.3f} |".format(name, *dealt_anew(lambda rng: resampled(*known, rng), worlds)))
    for copied in (0.0, 0.005, 0.01, 0.02, 0.05):
        print("| exchanged, {:.1%} copies | {:.3f} | {:.3f} |".format(copied, *exchanged(copied, worlds)))
