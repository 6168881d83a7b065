"""From runs to cells: runs that are the same but for the seed, named, chosen and stamped."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any, TypeVar

from prunella.experiments.config import LEARNED
from prunella.figures import percent
from prunella.report.cells import Cell, one_holdout
from prunella.report.runs import Place, Run, part
from prunella.report.settings import HYPER, differing, label, method, order, settings_of, text

CONVERGED = 5_000  # steps; learned scores need more than the 2,000 that were tried
OFF_TARGET = 0.001  # of sparsity, measured against asked
SAME = 1e-6  # metrics are computed in float32

Key = tuple[Any, ...]
T = TypeVar("T")


def cells_of(runs: Sequence[Run]) -> tuple[tuple[Cell, ...], list[str]]:
    """The cells that runs make up, sorted; and what is to be said of runs that came twice."""
    settings = {id(run): settings_of(run) for run in runs}
    groups: dict[Key, list[Run]] = defaultdict(list)
    for run in runs:
        keys = sorted((name, text(value)) for name, value in settings[id(run)].items())
        groups[run.place, run.sparsity, run.criterion, run.regularizers, *keys].append(run)
    once, said = _once(groups.values(), Counter(run.commit for run in runs))
    cells: list[Cell] = []
    for universe in _split(once, lambda group: (group[0].place, group[0].dense)):
        given = differing([(settings[id(group[0])], len(group)) for group in universe])
        named = [_named(group, settings[id(group[0])], given) for group in universe]
        for rivals in _split(named, lambda cell: (cell.sparsity, cell.method)):
            cells += _chosen(rivals)
    cells = [replace(cell, stamps=_stamps(cell)) for cell in _with_latency(cells)]
    return tuple(sorted(cells, key=sort_key)), said


def sort_key(cell: Cell) -> Key:
    """By task, model, sparsity and method; dense runs first."""
    first = (cell.place, not cell.dense, cell.sparsity)
    return (*first, order(cell.criterion), cell.regularizers, cell.label)


def _split(items: Iterable[T], key: Callable[[T], Key]) -> Iterator[list[T]]:
    """Items with the same key, together."""
    found: dict[Key, list[T]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    yield from found.values()


# --- one run a seed --------------------------------------------------------------------------


def _once(
    groups: Iterable[Sequence[Run]], commits: Counter[str]
) -> tuple[list[list[Run]], list[str]]:
    """One run a seed and group, in order of seed, and what became of the others.

    A seed that is there twice is no second observation. Kept is the run with predictions, made by
    the code that made most runs, and of several such the first by name. A copy of a folder says the
    same to the last digit, the seconds that it took included; a run that was made anew does not.
    """
    found, said = [], []
    repeats: list[str] = []
    copies: list[str] = []
    twins = 0
    for group in groups:
        kept: dict[int, Run] = {}
        ranked = sorted(
            group,
            key=lambda r: (r.summands is None, r.twin, -commits[r.commit], str(r.folder)),
        )
        for run in ranked:
            first = kept.setdefault(run.seed, run)
            if first is run:
                continue
            name, other = _told_apart(run, first)
            if run.result == first.result:
                copies += [f"{name} is a copy of {other}"] * (not run.twin)
            elif not math.isclose(first.value, run.value, rel_tol=SAME, abs_tol=SAME):
                said.append(
                    f"the same settings and seed came to {first.value:.6g} in {other} "
                    f"(commit {first.commit[:10]}) and to {run.value:.6g} in {name} "
                    f"(commit {run.commit[:10]}); the first is used"
                )
            elif run.twin:
                twins += 1
            else:
                repeats.append(f"{name} repeats {other}")
        found.append([kept[seed] for seed in sorted(kept)])
    if repeats:
        what = f"{_plural(len(repeats), 'run')} with settings and seed of another"
        said.append(f"{what} left aside: {_first(repeats)}")
    if copies:
        said.append(f"counted once: {_first(copies)}")
    if twins:
        said.append(
            f"{_plural(twins, 'dense twin')} left aside that came to the same as another of the "
            "same settings and seed"
        )
    return found, said


def _told_apart(run: Run, other: Run) -> tuple[str, str]:
    """What two runs are called: by their folders' names, or paths where these are the same."""
    if run.name != other.name:
        return run.name, other.name
    return str(run.folder), str(other.folder)


def _first(words: Sequence[str]) -> str:
    more = f" and {len(words) - 3} more" if len(words) > 3 else ""
    return f"{'; '.join(words[:3])}{more}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' if count != 1 else ''}"


# --- names and choices -----------------------------------------------------------------------


def _named(runs: Sequence[Run], settings: Mapping[str, Any], given: Mapping[str, Any]) -> Cell:
    """A cell, named by the settings in which it is not as what goes without saying."""
    own = {name: settings[name] for name in given if name in settings}
    odd = [name for name in own if text(own[name]) != text(given[name])]
    labels = [label(name, own[name]) for name in odd if name not in HYPER]
    first = runs[0]
    return Cell(
        place=first.place,
        lower_is_better=first.lower_is_better,
        sparsity=first.sparsity,
        criterion=first.criterion,
        regularizers=first.regularizers,
        method=method(first.criterion, first.regularizers, labels),
        setting=", ".join(label(name, own[name]) for name in odd if name in HYPER),
        settings=own,
        runs=tuple(runs),
        variant=(*first.regularizers, *labels),
    )


def _chosen(cells: Sequence[Cell]) -> list[Cell]:
    """Cells that differ in hyper-parameters alone, the one that is best on the holdout marked.

    They are held against each other on the seeds that all of them have, so that a setting tried
    with one lucky seed does not win over one with five; where there is none, on all seeds. Where
    they held out different rows, only those with the rows that most runs held out can be chosen.
    """
    rivals = _with_one_holdout(cells)
    seeds = set.intersection(*({*cell.seeds} for cell in rivals))

    def merit(cell: Cell) -> tuple[float, int]:
        values = [run.holdout for run in cell.runs if run.seed in seeds or not seeds]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return -math.inf, cell.n
        return mean(known) * (-1 if cell.lower_is_better else 1), cell.n

    best = max(rivals, key=merit)
    return [replace(cell, chosen=cell is best, searched=len(cells)) for cell in cells]


def _with_one_holdout(cells: Sequence[Cell]) -> Sequence[Cell]:
    if one_holdout(cells):
        return cells
    counts = Counter(run.data("holdout")[1] for cell in cells for run in cell.runs)
    usual = max(counts, key=lambda known: (counts[known], known))
    return [cell for cell in cells if cell.held_out == {usual}] or cells[:1]


def _with_latency(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, dense ones with what pruned models took when computed densely."""
    measured: dict[Place, list[Run]] = defaultdict(list)
    for cell in cells:
        measured[cell.place] += [run for run in cell.runs if run.dense_latency_ms is not None]
    found = []
    for cell in cells:
        runs = measured[cell.place]
        alike = len({run.speed_setting for run in runs}) == 1  # inputs of one length, or of none
        times = [run.dense_latency_ms or 0.0 for run in runs if alike]
        found.append(replace(cell, dense_latency_ms=mean(times)) if cell.dense and times else cell)
    return found


# --- stamps ----------------------------------------------------------------------------------


def _stamps(cell: Cell) -> tuple[str, ...]:
    """What to bear in mind when reading the cell."""
    runs = cell.runs
    found = []
    if cell.searched > 1:
        found.append(f"{'best' if cell.chosen else 'not the best'} of {cell.searched} by holdout")
    if any(run.used_dev for run in runs):
        found.append("chosen on dev")
    fewest = min(run.steps for run in runs)
    if cell.criterion in LEARNED and fewest < CONVERGED:
        found.append(f"not converged: learned scores after {fewest:,} steps")
    if any(run.result.get("sparsity_is") == "outcome" for run in runs):
        found.append("sparsity is an outcome")
    measured = [run.measured for run in runs if run.measured is not None and not run.dense]
    furthest = max(measured, key=lambda value: abs(value - cell.sparsity), default=cell.sparsity)
    if abs(furthest - cell.sparsity) > OFF_TARGET:
        found.append(f"{percent(furthest)} measured where {percent(cell.sparsity)} was asked for")
    if any(part(run.result.get("teacher"), "same_holdout") is False for run in runs):
        found.append("the teacher was trained on rows of the holdout")
    mixed = {
        "commits": {run.commit for run in runs},
        "packages": {text(run.packages) for run in runs},
        "hardware": {run.hardware for run in runs},
        "training rows": {run.data("train")[1] for run in runs},
        "holdouts": {run.data("holdout")[1] for run in runs} - {""},
    }
    found += [f"mixed {name}" for name, values in mixed.items() if len(values) > 1]
    return tuple(found)
