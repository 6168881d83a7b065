"""All that a report is made of, read from folders of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prunella.errors import UsageError, unknown
from prunella.report import budgets
from prunella.report.cells import Cell
from prunella.report.comparisons import compare
from prunella.report.grouping import cells_of
from prunella.report.ladders import Ladder, ladders_of
from prunella.report.published import Published, published
from prunella.report.reading import read
from prunella.report.runs import Problem, Run
from prunella.report.settings import METHODS
from prunella.report.statistics import Comparison


@dataclass(frozen=True, eq=False)
class Evidence:
    """Runs, what they say together, and what to bear in mind.

    Attributes:
        runs: In order of task, model, sparsity, method and seed; dense twins are runs of their own.
        problems: What was left out, or is in doubt, and why.
        cells: Runs that differ in the seed alone; in order of task, model, sparsity and method.
        comparisons: Tests between chosen cells.
        ladders: Of runs that sought how sparse they could get, those without a model included.
        flags: Sentences on what is not equal between runs that stand side by side.
        published: Others' figures for the tasks and metrics of the report.
        baseline: `Cell.method` that others are compared with; None where there is no such method.
    """

    runs: tuple[Run, ...]
    problems: tuple[Problem, ...]
    cells: tuple[Cell, ...]
    comparisons: tuple[Comparison, ...]
    ladders: tuple[Ladder, ...]
    flags: tuple[str, ...]
    published: tuple[Published, ...]
    baseline: str | None

    @classmethod
    def read(cls, paths: Sequence[Path], baseline: str | None = None) -> Evidence:
        """Read folders of runs, folders of such to any depth, or single result files.

        Args:
            paths: At least one.
            baseline: The method that others are compared with, by label or criterion; by default
                magnitude where it was run, else the first.

        Raises:
            UsageError: a path is not there, holds no run that can be read, or no run is of the
                method named.
        """
        runs, problems = read(paths)
        if not runs:
            wrong = "".join(f"; {problem.path}: {problem.reason}" for problem in problems[:3])
            raise UsageError(
                f"there is no run that can be read in {', '.join(map(str, paths))}{wrong}; name "
                "folders that hold a result.json, at any depth"
            )
        cells, said = cells_of(runs)
        method = _baseline(cells, baseline)
        return cls(
            runs=tuple(run for cell in cells for run in cell.runs),
            problems=tuple(problems),
            cells=cells,
            comparisons=compare(cells, method),
            ladders=ladders_of(runs),
            flags=(*said, *budgets.flags(cells)),
            published=tuple(published({(cell.task, cell.metric) for cell in cells})),
            baseline=method,
        )


def _baseline(cells: Sequence[Cell], name: str | None) -> str | None:
    """The method that is called so, or by default magnitude, or else the first that prunes."""
    chosen = [cell for cell in cells if cell.chosen]
    if name is None:
        plain = [cell.method for cell in chosen if not cell.dense]
        return METHODS["magnitude"] if METHODS["magnitude"] in plain else next(iter(plain), None)
    for cell in chosen:
        names = {cell.method, cell.label} | ({cell.criterion} if not cell.variant else set())
        if name.lower() in {each.lower() for each in names}:
            return cell.method
    known = list(dict.fromkeys(cell.method for cell in chosen))
    raise UsageError(unknown("method", name, known) + "; name one of these with --baseline")
