"""What a report says first: what was run, what came of it, in sentences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prunella.report.cells import Cell, twin
from prunella.report.evidence import Evidence
from prunella.report.looks import figure
from prunella.report.metrics import called, scale
from prunella.report.picks import short_models
from prunella.report.places import qualifiers
from prunella.report.runs import Place
from prunella.report.statistics import Comparison
from prunella.report.tables import share

_EACH = 3  # sentences on each question

QUESTIONS = {
    "best": "The best on the holdout, against the others",
    "baseline": "Against the baseline",
    "ablation": "What each part brings",
    "dense": "What pruning cost, against dense",
    "memory": "With a snapshot, against what holds as much while training",
}


def percent(sparsity: float) -> str:
    """A sparsity as people say it.

    >>> percent(0.8), percent(0.975), percent(0.99999)
    ('80 %', '97.5 %', '99.999 %')
    """
    return share(sparsity, 2, short=True)


def several(words: Iterable[str]) -> str:
    """
    >>> several(["a"]), several(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "run"), counted(1200, "run")
    ('1 run', '1,200 runs')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def spread(cell: Cell) -> str:
    """A cell's mean ± sd over seeds, as people read it: "82.3 ± 0.4 (n = 3)"."""
    sd = "" if cell.sd is None else f" ± {figure(cell.metric, cell.sd)}"
    return f"{figure(cell.metric, cell.mean)}{sd} (n = {cell.n})"


def on_dev(metric: str) -> str:
    """A metric with the unit that `figure` has.

    >>> on_dev("accuracy"), on_dev("perplexity"), on_dev("exact_match")
    ('Accuracy on dev, %', 'Perplexity on dev', 'Exact match on dev, %')
    """
    name = called(metric)
    return f"{name[:1].upper()}{name[1:]} on dev{', %' if scale(metric) == 100 else ''}"


def some(names: Sequence[str], most: int = 5) -> str:
    """
    >>> some(["a", "b", "c", "d"], 3), some(["a", "b", "c"], 3), some([])
    ('a, b and 2 more', 'a, b and c', '')
    """
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return several(names) if names else ""


# --- what was run ----------------------------------------------------------------------------


def heading(evidence: Evidence) -> str:
    """The page's title."""
    tasks = several(dict.fromkeys(cell.task for cell in evidence.cells))
    methods = list(dict.fromkeys(cell.method for cell in evidence.cells if not cell.dense))
    if len(methods) > 1:
        return f"{len(methods)} ways to prune, on {tasks}"
    if not methods:
        return f"Dense, on {tasks}"
    levels = sorted({cell.sparsity for cell in evidence.cells if not cell.dense})
    at = f" at {percent(levels[0])}" if len(levels) == 1 else ""
    return f"{methods[0]}{at}, on {tasks}"


def summary(evidence: Evidence) -> str:
    """What was run, in a sentence."""
    cells = evidence.cells
    models = list(short_models(cells).values())
    levels = sorted({cell.sparsity for cell in cells if not cell.dense})
    methods = {cell.method for cell in cells if not cell.dense}
    dense = sum(cell.n for cell in cells if cell.dense)
    most, least = max(cell.n for cell in cells), min(cell.n for cell in cells)
    hours = sum(run.seconds or 0.0 for run in evidence.runs) / 3600
    of = f"model{'s' if len(models) > 1 else ''} {several(models)}"
    parts = [f"{counted(len(evidence.runs), 'run')}, {of}"]
    if levels:
        parts.append(
            f"{counted(len(methods), 'method')} at {several(map(percent, levels))} of the prunable "
            "weights removed"
        )
    if dense and levels:
        parts.append(f"{counted(dense, 'dense run')} beside them")
    parts.append(
        counted(most, "seed") + " each" if most == least else f"{least} to {most} seeds each"
    )
    parts.append(f"{hours:.3g} hours in all" if hours >= 1 else f"{60 * hours:.3g} minutes in all")
    return "; ".join(parts) + "."


# --- what came of it -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Best:
    """The cell with the best mean on dev at a task, model and sparsity.

    Attributes:
        dense: The dense cell that is most like it; None where there is none.
        of: Cells that it is the best of.
        beaten: Methods that it is significantly better than.
        ties: Methods that were tested against it and are not told apart.
    """

    cell: Cell
    dense: Cell | None
    of: int
    beaten: tuple[str, ...]
    ties: tuple[str, ...]


def bests(evidence: Evidence) -> list[Best]:
    """At each task, model and sparsity, in this order."""
    groups: dict[tuple[Place, float], list[Cell]] = defaultdict(list)
    dense: dict[Place, list[Cell]] = defaultdict(list)
    for cell in evidence.cells:
        if cell.chosen and cell.dense:
            dense[cell.place].append(cell)
        elif cell.chosen:
            groups[cell.place, cell.sparsity].append(cell)
    found = []
    for (place, _), cells in groups.items():
        best = max(cells, key=lambda c: c.mean * (-1 if c.lower_is_better else 1))
        beaten, ties = _rivals(best, evidence.comparisons)
        found.append(Best(best, twin(best, dense[place]), len(cells), beaten, ties))
    return found


def _rivals(
    best: Cell, comparisons: Sequence[Comparison]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    beaten: list[str] = []
    ties: list[str] = []
    for c in comparisons:
        here = (c.place, c.sparsity, c.sparsity_b)
        names = {c.a, c.b} - {best.method}
        if here != (best.place, best.sparsity, best.sparsity) or len(names) != 1:
            continue
        if c.p is not None:
            (beaten if c.significant else ties).append(names.pop())
    return tuple(dict.fromkeys(beaten)), tuple(dict.fromkeys(ties))


def headline(best: Sequence[Best]) -> str:
    """The best method where most was compared, in a sentence; "" where nothing was pruned."""
    if not best:
        return ""
    first = max(best, key=lambda each: (each.of, each.cell.sparsity))
    cell, dense = first.cell, first.dense
    words = (
        f"At {percent(cell.sparsity)} on {cell.task}, {cell.label} "
        f"{f'is the best of {first.of}' if first.of > 1 else 'was run'}: "
        f"{called(cell.metric)} on dev {spread(cell)}"
    )
    if dense is not None:
        words += f"; dense has {spread(dense)}"
    words += f".{_kept(cell)}"
    if first.beaten:
        words += f" It is significantly better than {some(first.beaten)}."
    if first.ties:
        words += f" It is not told apart from {some(first.ties)}."
    return words


def _kept(cell: Cell) -> str:
    """What is left of a model, as far as it was measured."""
    left, size = cell.nonzero("prunable"), cell.average("size_bytes")
    whole, speedup = cell.nonzero("model"), cell.average("speedup")
    parts = []
    if left is not None and whole is not None:
        parts.append(f"{left:,.0f} prunable weights remain, {whole:,.0f} parameters in all")
    if size is not None:
        parts.append(f"it takes {size / 1e6:,.3g} MB on disk")
    if speedup is not None:
        parts.append(f"it runs {speedup:.3g}× as fast as dense ({cell.runs[0].speed_setting})")
    return f" {'; '.join(parts)}." if parts else ""


def tally(comparisons: Sequence[Comparison]) -> str:
    """How many differences are significant, in a sentence; "" where none was looked for."""
    tested = [c for c in comparisons if c.p is not None]
    if not comparisons:
        return ""
    if not tested:
        return (
            f"None of {counted(len(comparisons), 'comparison')} could be tested: "
            f"{comparisons[0].verdict.rpartition('not tested: ')[2]}."
        )
    sure = sum(c.significant for c in tested)
    if len(tested) == 1:
        return f"The one difference tested is {'' if sure else 'not '}significant at 5 %."
    return (
        f"{sure} of {len(tested):,} differences tested {'is' if sure == 1 else 'are'} significant "
        "at 5 % after correction for all of them."
    )


def _dullness(c: Comparison) -> float:
    """What to tell last: rivals that are far behind, baselines that win, parts that do nothing."""
    gain = -c.difference if c.lower_is_better else c.difference
    return {"best": abs(gain), "baseline": -gain}.get(c.kind, -abs(gain))


def verdicts(evidence: Evidence) -> list[tuple[str, list[tuple[str, bool]], int]]:
    """By question: its title, some sentences with whether each is significant, these first, and how
    many more there are."""
    places = {c.place for c in evidence.comparisons}
    apart = qualifiers(places) if len(places) > 1 else None
    found = []
    for kind, title in QUESTIONS.items():
        group = [c for c in evidence.comparisons if c.kind == kind]
        group.sort(key=lambda c: (not c.significant, c.p is None, _dullness(c)))
        told = [
            (
                c.verdict if apart is None else f"{c.task}{apart[c.place]}: {c.verdict}",
                c.significant,
            )
            for c in group[:_EACH]
        ]
        if kind == "baseline" and evidence.baseline is not None:
            title = f"{title}, {evidence.baseline}"
        if told:
            found.append((title, told, len(group) - len(told)))
    return found
