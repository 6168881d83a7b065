"""Which methods are held against each other, what the tests say, and in which words.

Every test costs all others some of their power, so they are few, and chosen without a look at
dev. At each task, model and sparsity:

- ``baseline``: every criterion against the baseline, with the same regularizers and settings;
- ``best``: the criterion that is best on the holdout against each of the others, likewise;
- ``dense``: the best one against the dense model: what was lost;
- ``ablation``: a method against those that lack just one of its regularizers or changes;
- ``memory``: a method that holds a snapshot while training, against the best other criterion
  without one at the next lower sparsity, whose training holds less.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from prunella.report.budgets import unequal
from prunella.report.cells import Cell, one_holdout, twin
from prunella.report.metrics import called, scale
from prunella.report.runs import Place
from prunella.report.statistics import (
    CRITICAL,
    LEAST_ROWS,
    POWER,
    Comparison,
    holm,
    paired,
    resampled,
)
from prunella.report.summands import Summands
from prunella.report.tables import share

ENOUGH_SEEDS = 5
Pair = tuple[Cell, Cell, str]


def compare(cells: Sequence[Cell], baseline: str | None) -> tuple[Comparison, ...]:
    """Test the pairs that are worth it, with Holm's correction over all of them.

    Args:
        cells: Of the report; those that are not chosen have no part in it.
        baseline: ``Cell.method`` of the baseline; None where there is none.
    """
    universes: dict[Place, list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.chosen:
            universes[cell.place].append(cell)
    found = [c for universe in universes.values() for c in _tested(universe, baseline)]
    tested = [place for place, c in enumerate(found) if c.p is not None]
    adjusted = holm([found[place].p or 0.0 for place in tested])
    for place, p in zip(tested, adjusted, strict=True):
        found[place] = replace(found[place], p_adjusted=p)
    return tuple(replace(c, verdict=verdict(c)) for c in found)


# --- which -----------------------------------------------------------------------------------


def pairs(universe: Sequence[Cell], baseline: str | None) -> Iterator[Pair]:
    """The pairs of chosen cells of one task and model that are compared, and why; each once."""
    seen: set[frozenset[int]] = set()
    for a, b, kind in _candidates(universe, baseline):
        if a is not b and frozenset({id(a), id(b)}) not in seen:
            seen.add(frozenset({id(a), id(b)}))
            yield a, b, kind


def _candidates(universe: Sequence[Cell], baseline: str | None) -> Iterator[Pair]:
    dense = [cell for cell in universe if cell.dense]
    levels = sorted({cell.sparsity for cell in universe if not cell.dense})
    for level in levels:
        here = [cell for cell in universe if cell.sparsity == level and not cell.dense]
        for cell in here:
            if (other := _baseline_of(cell, here, dense, baseline)) is not None:
                yield cell, other, "baseline"
        for variant in sorted({cell.variant for cell in here}):
            rivals = [cell for cell in here if cell.variant == variant]
            best = _best(rivals)
            if best is not None:
                yield from ((best, other, "best") for other in rivals)
        best = _best(here)
        if best is not None and (other := twin(best, dense)) is not None:
            yield best, other, "dense"
        for cell in here:
            yield from ((cell, parent, "ablation") for parent in _parents(cell, here))
    for lower, level in pairwise(levels):
        yield from _at_equal_memory(universe, lower, level)


def _at_equal_memory(universe: Sequence[Cell], lower: float, level: float) -> Iterator[Pair]:
    """Methods with a snapshot at a level, each with the best other one that held less for it."""
    plain = [cell for cell in universe if cell.sparsity == lower and not cell.variant]
    for cell in universe:
        if cell.sparsity == level and "self" in cell.regularizers:
            best = _best([c for c in plain if c.criterion != cell.criterion and not c.dense])
            if best is not None:
                yield cell, best, "memory"


def _baseline_of(
    cell: Cell, here: Sequence[Cell], dense: Sequence[Cell], baseline: str | None
) -> Cell | None:
    """The baseline of a cell: of the same variant, or the one that was named in full.

    A criterion without a plain form, such as one that needs more steps, has the plain baseline.
    """
    named = next((c for c in (*here, *dense) if c.method == baseline), None)
    if named is None:
        return None
    if named.dense:
        return twin(cell, dense)
    if named.variant:
        return named
    alike = [c for c in here if c.criterion == named.criterion and c.variant == cell.variant]
    if alike:
        return alike[0]
    has_plain = any(c.criterion == cell.criterion and not c.variant for c in here)
    return None if has_plain else named


def _best(cells: Sequence[Cell]) -> Cell | None:
    """The best on the holdout, so that dev has no say in what it is asked; None without one."""
    known = [cell for cell in cells if cell.holdout_mean is not None]
    if len(known) < len(cells) or not cells or not one_holdout(cells):
        return None
    return max(known, key=lambda c: (c.holdout_mean or 0.0) * (-1 if c.lower_is_better else 1))


def _parents(cell: Cell, here: Sequence[Cell]) -> list[Cell]:
    """The cells of a criterion whose variant is the largest part of a cell's."""
    own = {*cell.variant}
    parts = [c for c in here if c.criterion == cell.criterion and {*c.variant} < own]
    most = max((len(c.variant) for c in parts), default=0)
    return [c for c in parts if len(c.variant) == most]


# --- tests -----------------------------------------------------------------------------------


def _tested(universe: Sequence[Cell], baseline: str | None) -> list[Comparison]:
    """The comparisons of one task and model, before the correction."""
    chosen = list(pairs(universe, baseline))
    runs = {id(run): run for a, b, _ in chosen for cell in (a, b) for run in cell.runs}
    by_rows: dict[int, list[int]] = defaultdict(list)
    for key, run in runs.items():
        if run.summands is not None and len(run.summands.rows) >= LEAST_ROWS:
            by_rows[len(run.summands.rows)].append(key)
    drawn: dict[int, np.ndarray] = {}
    for keys in by_rows.values():
        metrics = resampled([_summands(runs[key]) for key in keys])
        drawn |= dict(zip(keys, metrics, strict=True))
    return [_comparison(a, b, kind, drawn) for a, b, kind in chosen]


def _summands(run: Any) -> Summands:
    assert run.summands is not None
    return run.summands


def _comparison(a: Cell, b: Cell, kind: str, drawn: Mapping[int, np.ndarray]) -> Comparison:
    ours, theirs = ({run.seed: run for run in cell.runs} for cell in (a, b))
    seeds = sorted(ours.keys() & theirs.keys())
    both = [(ours[seed], theirs[seed]) for seed in seeds]
    differences = [x.value - y.value for x, y in both]
    found = Comparison(
        task=a.task,
        model=a.model,
        metric=a.metric,
        data=a.place.data,
        pieces=a.place.pieces,
        lower_is_better=a.lower_is_better,
        sparsity=a.sparsity,
        sparsity_b=b.sparsity,
        a=a.method,
        b=b.method,
        kind=kind,
        n=len(seeds),
        rows=0,
        difference=float(np.mean(differences)) if seeds else a.mean - b.mean,
        low=None,
        high=None,
        p=None,
        p_adjusted=None,
        smallest=None,
        unequal=unequal(a, b),
        verdict=_obstacle(both, drawn),
    )
    if found.verdict:
        return found
    rows = [(_summands(x).rows, _summands(y).rows) for x, y in both]
    informative = np.any([np.any(x != y, axis=1) for x, y in rows], axis=0).sum()
    draws = np.stack([drawn[id(x)] - drawn[id(y)] for x, y in both])
    outcome = paired(differences, draws, int(informative))
    tested = {name: getattr(outcome, name) for name in ("low", "high", "p", "by_seeds")}
    found = replace(found, rows=len(rows[0][0]), **tested)
    assert found.error is not None
    return replace(found, smallest=(CRITICAL + POWER) * found.error)


def _obstacle(both: Sequence[tuple[Any, Any]], drawn: Mapping[int, np.ndarray]) -> str:
    """Why a pair cannot be tested; "" where it can."""
    if not both:
        return "no seed in common"
    runs = [run for pair in both for run in pair]
    if obstacle := next((run.unpaired for run in runs if run.summands is None), ""):
        return obstacle
    if any(id(run) not in drawn for run in runs):
        return f"dev has fewer than {LEAST_ROWS} rows"
    rows = [run.summands.rows for run in runs]
    blocks = [part[:, 1] if runs[0].metric == "perplexity" else len(part) for part in rows]
    if not all(np.array_equal(part, blocks[0]) for part in blocks):
        return "the runs read dev in other pieces"
    return ""


# --- words -----------------------------------------------------------------------------------


def verdict(found: Comparison) -> str:
    """A comparison in a sentence. For one that was not tested, `found.verdict` says why.

    ± is the standard error. "n = 5" counts seeds.
    """
    level, other = (share(s, 2, short=True) for s in (found.sparsity, found.sparsity_b))
    if found.kind != "memory" or found.sparsity_b == found.sparsity:
        who = f"{found.a} over {found.b} at {level}"
    else:
        who = f"{found.a} at {level} over {found.b} at {other}"
    if found.p is None or found.error is None or found.smallest is None:
        by = f"{_amount(found, found.difference, '+')} {_unit(found)}"
        return f"{who}: {by}, n = {found.n}, not tested: {found.verdict}"
    by = f"{_amount(found, found.difference, '+')} ± {_amount(found, found.error)} {_unit(found)}"
    p = 1.0 if found.p_adjusted is None else found.p_adjusted
    chance = f"p {'< 0.001' if p < 0.001 else f'= {p:.2g}'} after correction"
    if found.significant:
        said = f"significant ({chance})"
    else:
        least = f"{_amount(found, found.smallest)} {_unit(found)} would have been seen"
        said = f"not significant ({chance}; {least})"
    return f"{who}: {by}, n = {found.n}, {said}{_doubt(found)}"


def _doubt(found: Comparison) -> str:
    """What few seeds leave open."""
    if found.n == 1:
        return "; one seed says nothing of others"
    if found.n < ENOUGH_SEEDS and (found.by_seeds or 0) > 0.5:
        return "; seeds differ more than rows explain, and are too few to say how much"
    return ""


def _amount(found: Comparison, value: float, sign: str = "") -> str:
    shown = value * found.scale
    return f"{shown:{sign}.1f}" if scale(found.metric) == 100 else f"{shown:{sign}.3g}"


def _unit(found: Comparison) -> str:
    if scale(found.metric) == 100:
        return "points"
    unit = called(found.metric)
    return f"{unit} (lower is better)" if found.lower_is_better else unit
