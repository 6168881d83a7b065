"""Is one method better than another? Paired tests over the rows of dev and the seeds.

The rows of dev are a sample, and so are the seeds. What would another sample of rows have shown?
Rows are drawn with replacement, the same for both methods and all seeds, and the difference is
computed anew, many times over (a paired bootstrap). What would other seeds have shown? Where the
differences scatter over seeds by more than their rows explain, the excess is added to the error.

Drawing the seeds with replacement, too, would be the obvious thing, and far too sure of itself:
three seeds whose differences have one sign, as one time in four by chance, would always be
significant. A variance known from three seeds asks for Student's t instead; with how many degrees
of freedom, Welch's and Satterthwaite's rule says: as many as there are seeds, less one, where seeds
make all of the error, and many where rows make nearly all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from prunella.report.metrics import scale
from prunella.report.runs import Place
from prunella.report.summands import Summands

DRAWS = 10_000
LEVEL = 0.05
LEAST_ROWS = 10  # fewer are not tested
FEW = 10  # draws beyond zero; fewer are not counted
CRITICAL, POWER = 1.96, 0.84  # standard errors: two-sided 5 %, and four times out of five
_BLOCK = 2**24  # counts that are drawn at a time


@dataclass(frozen=True)
class Comparison:
    """One method against another on the same rows of dev, over the seeds that both have.

    Differences are a - b, in the metric's own unit: multiply by `scale` for what people read.

    Attributes:
        task, model, metric, data, pieces: Of the place of both.
        lower_is_better: Whether a negative difference is in favour of a.
        sparsity, sparsity_b: Asked of a and of b; the same but for comparisons at equal memory.
        a, b: `Cell.method` of each.
        kind: Why they are compared: "baseline", "best", "dense", "ablation" or "memory".
        n: Seeds that both have; 0 where there is none.
        rows: Of dev; 0 where nothing was tested.
        difference: Mean over these seeds.
        low, high: Of the 95 % interval; None where nothing was tested.
        p: Two-sided, before the correction; None likewise.
        p_adjusted: After Holm's correction over all comparisons of the report; None likewise.
        smallest: The smallest difference that the data could have shown, four times out of five,
            at 5 % before the correction; None likewise.
        unequal: What was not the same for both besides the method, such as "steps: 400 and 1000".
        verdict: All that in a sentence.
        by_seeds: The part of the variance that rows do not explain, but seeds; None where nothing
            was tested.
    """

    task: str
    model: str
    metric: str
    lower_is_better: bool
    sparsity: float
    sparsity_b: float
    a: str
    b: str
    kind: str
    n: int
    rows: int
    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None
    smallest: float | None
    unequal: tuple[str, ...]
    verdict: str
    by_seeds: float | None = None
    data: str = ""
    pieces: str = ""

    @property
    def place(self) -> Place:
        return Place(self.task, self.model, self.metric, self.data, self.pieces)

    @property
    def significant(self) -> bool:
        """At 5 %, after the correction."""
        return self.p_adjusted is not None and self.p_adjusted < LEVEL

    @property
    def error(self) -> float | None:
        """Standard error of the difference, as the interval has it; None where not tested."""
        if self.low is None or self.high is None:
            return None
        return (self.high - self.low) / (2 * CRITICAL)

    @property
    def scale(self) -> float:
        """100 where the metric is a fraction, so that differences are points; else 1."""
        return scale(self.metric)


# --- the bootstrap ---------------------------------------------------------------------------


def resampled(runs: Sequence[Summands], draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """The metric of each run on rows drawn with replacement, the same rows for all runs.

    Args:
        runs: With equally many rows each, which are the same rows of dev.
        draws: How often.
        seed: Of the draws.

    Returns:
        ``(runs, draws)``, float32.
    """
    rows = len(runs[0].rows)
    columns = np.concatenate([run.rows for run in runs], axis=1).astype(np.float32)
    ends = np.cumsum([run.rows.shape[1] for run in runs])
    found = np.empty((len(runs), draws), np.float32)
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK // rows)
    for start in range(0, draws, block):
        size = min(block, draws - start)
        # How often each row comes in each draw, as a matrix: the sums are then a product.
        places = random.integers(rows, size=(size, rows), dtype=np.int32)
        places += np.arange(0, size * rows, rows, dtype=np.int32)[:, None]
        counts = np.bincount(places.ravel(), minlength=size * rows).astype(np.float32)
        parts = np.split(counts.reshape(size, rows) @ columns, ends[:-1], axis=1)
        for number, (run, sums) in enumerate(zip(runs, parts, strict=True)):
            found[number, start : start + size] = run.metric(sums.astype(np.float64))
    return found


@dataclass(frozen=True)
class Outcome:
    """A paired test: the difference, its 95 % interval and the two-sided p-value.

    Attributes:
        by_seeds: The part of the variance that rows do not explain, but seeds.
    """

    difference: float
    low: float
    high: float
    p: float
    by_seeds: float


def paired(
    differences: Sequence[float], drawn: np.ndarray, informative: int, seed: int = 0
) -> Outcome:
    """Test whether a mean difference is zero.

    Args:
        differences: Between two methods, by seed.
        drawn: The same on rows drawn with replacement, ``(seeds, draws)``.
        informative: Rows that are not the same for both methods. With k of these no test of signs
            is below 2 to the 1 - k, and neither is this one.
        seed: Of what the excess over seeds is drawn by.

    One seed says nothing of others: there is no excess then, and the test is of rows alone.
    """
    observed = np.asarray(differences)
    n, draws = drawn.shape
    difference = float(observed.mean())
    means = drawn.mean(axis=0, dtype=np.float64)
    variance, freedom = float(means.var()), math.inf
    scatter = float(observed.var(ddof=1)) if n > 1 else 0.0
    excess = scatter - _by_rows(observed, drawn) if n > 1 else 0.0
    if excess > 0:
        variance += excess / n
        freedom = (n - 1) * (variance / (scatter / n)) ** 2
        random = np.random.default_rng(seed)
        means += random.normal(scale=math.sqrt(excess / n), size=draws)
        means = difference + (means - difference) * np.sqrt(
            freedom / random.chisquare(freedom, size=draws)
        )
    low, high = np.percentile(means, [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)])
    beyond = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    p = 2 * (beyond + 1) / (draws + 1)
    if beyond < FEW and variance > 0:
        # So few draws do not tell 1e-4 from 1e-6, which a correction for many has to know.
        p = min(p, 2 * tail(abs(difference) / math.sqrt(variance), freedom))
    p = max(p, 2.0 ** (1 - informative)) if informative else 1.0
    by_seeds = max(excess, 0) / n / variance if variance > 0 else 0.0
    return Outcome(difference, float(low), float(high), float(min(p, 1.0)), by_seeds)


def _by_rows(observed: np.ndarray, drawn: np.ndarray) -> float:
    """The variance of differences between seeds that their rows alone explain.

    Rows make the seeds' differences scatter about their mean in every draw by as much as they do
    in the data itself.
    """
    noise = drawn - observed[:, None]
    noise -= noise.mean(axis=0)
    return float(np.vdot(noise, noise)) / drawn.shape[1] / (len(observed) - 1)


def tail(t: float, freedom: float) -> float:
    """The probability that Student's t is above a positive one.

    >>> round(tail(2.776, 4), 4), round(tail(1.96, math.inf), 4)
    (0.025, 0.025)
    """
    if freedom > 1e4:
        return NormalDist().cdf(-t)
    # With t = √freedom · tan(angle), the density is a power of the cosine, which vanishes soon.
    root = math.sqrt(freedom)
    starts = (0.0, math.atan(t / root))
    angles = [np.linspace(a, min(math.pi / 2, a + 12 / root), 2_001) for a in starts]
    whole, above = (_area(angle, np.cos(angle) ** (freedom - 1)) for angle in angles)
    return above / whole / 2


def _area(x: np.ndarray, y: np.ndarray) -> float:
    """Under a curve, by trapezia of the same width."""
    return float((y.sum() - (y[0] + y[-1]) / 2) * (x[1] - x[0]))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction (1979): adjusted p-values, in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    worst = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, (len(p_values) - rank) * p_values[place])
        adjusted[place] = min(1.0, worst)
    return adjusted
