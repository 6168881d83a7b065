"""How often the 95 % intervals of a report hold the truth, and how often its tests err.

    python benchmarks/coverage.py [--repeats 2000]

Differences between two methods are made up, row by row and seed by seed, with a mean of zero: a
part that all seeds share (sd 0.7), a part of row and seed (sd 1) and a part of the seed alone. The
sd of the last is given in units of the error that the second leaves in a seed's mean. Beside the
test of the report stands the plain bootstrap, which draws the seeds with replacement as well.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from prunella.report.statistics import paired

ROWS, DRAWS = 200, 1_000


def plain(drawn: np.ndarray, random: np.random.Generator) -> tuple[float, float]:
    """The interval of the bootstrap that draws seeds, too; ``drawn`` is ``(seeds, draws)``."""
    n = len(drawn)
    places = random.integers(n, size=drawn.shape)
    low, high = np.percentile(np.take_along_axis(drawn, places, axis=0).mean(axis=0), [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=2_000)
    repeats = parser.parse_args().repeats
    random = np.random.default_rng(0)
    places = [random.integers(ROWS, size=ROWS) for _ in range(DRAWS)]
    weights = np.stack([np.bincount(place, minlength=ROWS) for place in places]) / ROWS
    print("| seeds | their sd | interval holds | p < 0.05 | p < 0.01 | drawing seeds, too |")
    print("|---|---|---|---|---|---|")
    for n in (1, 2, 3, 5, 10):
        for sd in (0.0, 1.0, 3.0, 10.0) if n > 1 else (0.0,):
            counts = np.zeros(4)
            for repeat in range(repeats):
                values = 0.7 * random.normal(size=(ROWS, 1)) + random.normal(size=(ROWS, n))
                values += sd / math.sqrt(ROWS) * random.normal(size=n)
                drawn = (weights @ values).T
                found = paired(values.mean(axis=0).tolist(), drawn, ROWS, repeat)
                low, high = plain(drawn, random)
                counts += (found.low <= 0 <= found.high, found.p < 0.05, found.p < 0.01,
                           low <= 0 <= high)  # fmt: skip
            held, five, one, other = (f"{100 * part:.1f} %" for part in counts / repeats)
            print(f"| {n} | {sd:g} | {held} | {five} | {one} | {other} |", flush=True)


if __name__ == "__main__":
    main()
