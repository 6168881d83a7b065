"""Of many runs, those whose traces are drawn; and how lines are called."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prunella.report.cells import Cell
from prunella.report.pictures import Shown
from prunella.report.places import qualifiers
from prunella.report.runs import Place

MOST = 10  # lines that can still be told apart


def labels(cells: Sequence[Cell]) -> dict[int, str]:
    """What the line of each cell is called, by its ``id``: its method, and its model where a task
    has several."""
    models: dict[str, set[str]] = defaultdict(set)
    for cell in cells:
        models[cell.task].add(cell.model)
    short = short_models(cells)
    return {
        id(cell): f"{cell.method} · {short[cell.model]}"
        if len(models[cell.task]) > 1
        else cell.method
        for cell in cells
    }


def short_models(cells: Sequence[Cell]) -> Mapping[str, str]:
    """Models without the folders they lie in, where that tells them apart."""
    names = list(dict.fromkeys(cell.model for cell in cells))
    short = {name: name.rstrip("/").rpartition("/")[2] or name for name in names}
    return short if len({*short.values()}) == len(names) else {name: name for name in names}


@dataclass(frozen=True, eq=False)
class Pick:
    """Runs that stand for their methods: at one task, model and sparsity, one a method.

    Attributes:
        apart: What tells the place from others of its task: see `places.qualifiers`.
        level: Sparsity; 0 where only dense runs have a trace.
        shown: In the order of methods, dense ones first.
        left: Labels of methods that are not shown, of too many.
        elsewhere: Places whose traces are not shown, in words.
    """

    place: Place
    apart: str
    level: float
    shown: tuple[Shown, ...]
    left: tuple[str, ...]
    elsewhere: tuple[str, ...]


def pick(cells: Sequence[Cell]) -> Pick | None:
    """The first seed of each method, at the task, model and sparsity with the most traces; None
    where no run has one."""
    named = labels(cells)
    traced = [cell for cell in cells if cell.chosen and any(run.trace for run in cell.runs)]
    if not traced:
        return None
    counts = Counter[Place]()
    for cell in traced:
        counts[cell.place] += cell.n
    place = max(counts, key=lambda key: counts[key])
    apart = qualifiers(counts)
    here = [cell for cell in traced if cell.place == place]
    levels = Counter(cell.sparsity for cell in here if not cell.dense)
    level = max(levels, key=lambda value: (levels[value], value), default=0.0)
    here = [cell for cell in here if cell.dense or cell.sparsity == level]
    first = sorted(here, key=lambda cell: (not cell.dense, len(cell.variant)))[:MOST]
    chosen = [cell for cell in here if any(cell is other for other in first)]
    return Pick(
        place=place,
        apart=apart[place],
        level=level,
        shown=tuple(_shown(cell, named[id(cell)]) for cell in chosen),
        left=tuple(named[id(cell)] for cell in here if not any(cell is c for c in chosen)),
        elsewhere=tuple(
            f"{other.task}, {other.model}{apart[other]}" for other in counts if other != place
        ),
    )


def _shown(cell: Cell, label: str) -> Shown:
    run = next(run for run in cell.runs if run.trace)
    assert run.trace is not None
    return Shown(label, run, run.trace)
