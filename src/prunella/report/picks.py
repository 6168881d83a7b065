"""Of many runs, those whose traces are drawn; and how lines are called."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prunella.report.cells import Cell
from prunella.report.pictures import Shown

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
        level: Sparsity; 0 where only dense runs have a trace.
        shown: In the order of methods, dense ones first.
        left: Labels of methods that are not shown, of too many.
        elsewhere: Tasks and models whose traces are not shown.
    """

    task: str
    model: str
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
    counts = Counter[tuple[str, str, str, str]]()
    for cell in traced:
        counts[_where(cell)] += cell.n
    place = max(counts, key=lambda key: counts[key])
    here = [cell for cell in traced if _where(cell) == place]
    levels = Counter(cell.sparsity for cell in here if not cell.dense)
    level = max(levels, key=lambda value: (levels[value], value), default=0.0)
    here = [cell for cell in here if cell.sparsity in (0.0, level)]
    first = sorted(here, key=lambda cell: (not cell.dense, len(cell.variant)))[:MOST]
    chosen = [cell for cell in here if any(cell is other for other in first)]
    return Pick(
        task=place[0],
        model=place[1],
        level=level,
        shown=tuple(_shown(cell, named[id(cell)]) for cell in chosen),
        left=tuple(named[id(cell)] for cell in here if not any(cell is c for c in chosen)),
        elsewhere=tuple(
            f"{task}, {model}" for task, model, *_ in counts if (task, model) != place[:2]
        ),
    )


def _where(cell: Cell) -> tuple[str, str, str, str]:
    return cell.task, cell.model, cell.metric, cell.data


def _shown(cell: Cell, label: str) -> Shown:
    run = next(run for run in cell.runs if run.trace)
    assert run.trace is not None
    return Shown(label, run, run.trace)
