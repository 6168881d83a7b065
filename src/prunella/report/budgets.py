"""Whether methods that stand side by side had the same means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from prunella.report.cells import Cell
from prunella.report.places import qualifiers
from prunella.report.runs import Place, Run


def _of_runs(read: Callable[[Run], Any]) -> Callable[[Cell], str]:
    """What the runs of a cell have, as text: one value, or several."""
    return lambda cell: " and ".join(sorted({str(read(run)) for run in cell.runs}))


def _teacher(run: Run) -> str:
    return "with" if "distill" in run.regularizers else "without"


# What methods should have in common, by name, and how it is read off a cell.
MEANS: dict[str, Callable[[Cell], str]] = {
    "steps": _of_runs(lambda run: run.steps),
    "batch size": _of_runs(lambda run: run.config.get("batch_size")),
    "training rows": _of_runs(lambda run: run.data("train")[0]),
    "holdout": _of_runs(lambda run: run.data("holdout")[1][:8] or "unknown"),
    "teacher": _of_runs(_teacher),
    "settings tried": lambda cell: str(cell.searched),
    "seeds": lambda cell: str(cell.n),
    "dev": _of_runs(lambda run: "looked at" if run.used_dev else "not looked at"),
    "commit": _of_runs(lambda run: run.commit[:10] + "+" * run.commit.endswith("+")),
    "packages": _of_runs(lambda run: ", ".join(f"{n} {v}" for n, v in run.packages.items())),
    "hardware": _of_runs(lambda run: run.hardware),
}


def unequal(a: Cell, b: Cell) -> tuple[str, ...]:
    """What was not the same for two methods, such as "steps: 400 and 1000"."""
    ours, theirs = means(a), means(b)
    pairs = ((name, ours[name], theirs[name]) for name in MEANS)
    return tuple(f"{name}: {x} and {y}" for name, x, y in pairs if x != y)


@lru_cache(maxsize=4096)  # a cell takes part in many comparisons
def means(cell: Cell) -> dict[str, str]:
    """What the methods of a cell had, by name."""
    return {name: read(cell) for name, read in MEANS.items()}


def flags(cells: Sequence[Cell]) -> list[str]:
    """Sentences on what is not equal among the chosen cells of each task and model."""
    universes: dict[Place, list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.chosen:
            universes[cell.place].append(cell)
    found = list(_apart(universes))
    called = qualifiers(universes)
    for place, universe in universes.items():
        where = f"{place.task}, {place.model}{called[place]}"
        for name in MEANS:
            values: dict[str, list[str]] = defaultdict(list)
            for cell in universe:
                values[means(cell)[name]].append(cell.method)
            if len(values) > 1:
                parts = (f"{value} ({_some(methods)})" for value, methods in values.items())
                found.append(f"{where}: {name} not equal: {'; '.join(parts)}")
    return found


def _apart(places: Iterable[Place]) -> Iterator[str]:
    """Why runs of one task and model are not compared."""
    groups: dict[tuple[str, str], list[Place]] = defaultdict(list)
    for place in places:
        groups[place.task, place.model].append(place)
    kinds = (("data", "measured on", "dev sets"), ("metric", "judged by", "metrics"))
    for (task, model), group in groups.items():
        for name, how, what in (*kinds, ("pieces", "measured on dev in", "kinds of pieces")):
            if len(values := {getattr(place, name) for place in group}) > 1:
                yield (
                    f"{task}, {model}: runs were {how} {len(values)} different {what} and are "
                    "compared only within each"
                )


def _some(methods: Sequence[str]) -> str:
    """Names of methods, each once; the first few if they are many."""
    names = list(dict.fromkeys(methods))
    more = f" and {len(names) - 4} more" if len(names) > 5 else ""
    return " / ".join(names[:4] if more else names) + more  # names hold commas
