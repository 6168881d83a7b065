"""How far the masks of runs agree, in the sample of weights that their traces hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from prunella.report.cells import Cell
from prunella.report.runs import Place, Run
from prunella.report.traces import sample


def overlaps(cells: Sequence[Cell]) -> Iterator[tuple[Any, ...]]:
    """Place, sparsity, two methods, pairs of runs, their mean overlap, and that by chance.

    Of the chosen cells of each place and sparsity: a method with itself between seeds, and
    with each other one at equal seeds. Only masks of the same weights are compared.
    """
    groups: dict[tuple[Place, float], list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.chosen and not cell.dense:
            groups[cell.place, cell.sparsity].append(cell)
    for (place, sparsity), group in groups.items():
        owners = [(cell, run) for cell in group for run in cell.runs]
        for a, b, values in _between(owners):
            overlap, chance = np.mean(values, axis=0).tolist()
            yield place, sparsity, a, b, len(values), overlap, chance


def _between(
    owners: Sequence[tuple[Cell, Run]],
) -> Iterator[tuple[str, str, list[tuple[float, float]]]]:
    """For two methods, or one twice: overlap and that by chance of every pair of runs."""
    samples = [(cell, run, found) for cell, run in owners if (found := sample(run)) is not None]
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    by_key: dict[str, list[tuple[Cell, Run, np.ndarray]]] = defaultdict(list)
    for cell, run, found in samples:
        by_key[found.key].append((cell, run, found.kept))
    for same in by_key.values():
        kept = np.stack([bits for _, _, bits in same]).astype(np.float32)
        both = kept @ kept.T  # how many weights each two keep
        for i, j in combinations(range(len(same)), 2):
            (a, one, _), (b, other, _) = same[i], same[j]
            if a is b or one.seed == other.seed:
                agreement = _jaccard(both[i, j], both[i, i], both[j, j], kept.shape[1])
                pairs[a.method, b.method].append(agreement)
    for (first, second), values in pairs.items():
        yield first, second, values


def _jaccard(both: float, a: float, b: float, size: int) -> tuple[float, float]:
    """The part of what one of two masks keeps that both keep; and that of independent masks.

    Two masks that keep nothing are the same.
    """
    expected = a * b / size
    return (
        both / (a + b - both) if a + b else 1.0,
        expected / (a + b - expected) if a + b else 1.0,
    )
