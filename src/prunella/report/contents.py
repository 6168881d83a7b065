"""Which tables a report has, and what is in them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from statistics import mean, stdev
from typing import Any

from prunella.report import ladders, places
from prunella.report.cells import Cell
from prunella.report.evidence import Evidence
from prunella.report.overlap import overlaps
from prunella.report.provenance import command
from prunella.report.runs import SCOPES, Run, is_number
from prunella.report.settings import HYPER, METHODS, label, text
from prunella.report.tables import Column, Kind, Table

PLACE = Column("place", "place")  # that of a cell; see `_placed`
WHICH = (
    Column("method", "method"),
    Column("setting", "setting"),
    Column("sparsity", "sparsity", "percent"),
)


@lru_cache(maxsize=1)  # the page and the files beside it ask for the same
def tables(evidence: Evidence) -> tuple[Table, ...]:
    """All tables of a report, in the order in which they are shown; some may have no rows."""
    cells = evidence.cells
    names = places.odd(cell.place for cell in cells)
    made = _tables(evidence)
    return tuple(_placed(each, names) for each in made)


def _placed(table: Table, names: Sequence[str]) -> Table:
    """A table with the columns by which its rows' places are told apart, where it has places.

    Metrics and dev sets are columns only where one task has several.
    """
    if not table.columns or table.columns[0] is not PLACE:
        return table
    names = [name for name in names if all(name != column.name for column in table.columns)]
    return replace(
        table,
        columns=(*places.columns(names), *table.columns[1:]),
        rows=tuple((*places.values(row[0], names), *row[1:]) for row in table.rows),
    )


def _tables(evidence: Evidence) -> tuple[Table, ...]:
    cells = evidence.cells
    return (
        results(cells),
        metrics(cells),
        comparisons(evidence),
        sizes(cells),
        regularizers(cells),
        *choices(cells),
        search(cells),
        ladders.table(evidence.ladders),
        matrices(cells),
        masks(cells),
        runs(evidence),
        problems(evidence),
        published(evidence),
    )


# --- what came of it -------------------------------------------------------------------------


def results(cells: Sequence[Cell]) -> Table:
    """Every cell: how good, how sure, what to bear in mind."""
    columns = (
        PLACE,
        *WHICH,
        Column("metric", "metric"),
        Column("n", "n", "whole"),
        Column("mean", "dev", "metric"),
        Column("sd", "sd", "metric"),
        Column("values", "raw, by seed", "list"),
        Column("seeds", "seeds"),
        Column("holdout", "holdout", "metric"),
        Column("test", "test", "metric"),
        Column("steps", "steps", "whole"),
        Column("seconds", "seconds", "whole"),
        Column("chosen", "chosen", "mark"),
        Column("stamps", "to bear in mind"),
    )
    rows = (
        (
            *_where(cell),
            cell.metric,
            cell.n,
            cell.mean,
            cell.sd,
            cell.values,
            " ".join(map(str, cell.seeds)),
            cell.holdout_mean,
            cell.average("test"),
            cell.average("steps"),
            cell.average("seconds"),
            cell.chosen,
            "; ".join(cell.stamps),
        )
        for cell in cells
    )
    note = (
        "The headline metric of each task on dev, over seeds; sd is of the sample (n - 1). Of "
        "several settings the one that is best on the holdout is chosen, and stands for its method "
        "in charts and comparisons."
    )
    return Table("results", "Results", note, columns, tuple(rows))


def metrics(cells: Sequence[Cell]) -> Table:
    """Every metric on every split, of the cells that are chosen."""
    columns = (
        PLACE,
        *WHICH,
        Column("split", "split"),
        Column("measure", "of"),
        Column("n", "n", "whole"),
        Column("mean", "mean", "metric"),
        Column("sd", "sd", "metric"),
        Column("values", "raw, by seed", "list"),
    )
    rows = []
    for cell in cells:
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for run in cell.runs if cell.chosen else ():
            for split, name, value in run.figures():
                found[split, name].append(value)
        for where, values in found.items():
            sd = stdev(values) if len(values) > 1 else None
            rows.append((*_where(cell), *where, len(values), mean(values), sd, tuple(values)))
    note = (
        "Whatever the results hold, in each metric's own unit. Paired tests are made of the "
        "headline metric on dev, where it is made of parts of rows."
    )
    return Table("metrics", "All metrics on all splits", note, columns, tuple(rows))


def comparisons(evidence: Evidence) -> Table:
    """Every comparison that was made."""
    columns = (
        PLACE,
        Column("sparsity", "sparsity", "percent"),
        Column("a", "method"),
        Column("b", "against"),
        Column("sparsity_b", "its sparsity", "percent"),
        Column("kind", "why"),
        Column("metric", "metric"),
        Column("n", "n", "whole"),
        Column("rows", "rows", "whole"),
        Column("difference", "difference", "metric"),
        Column("low", "low", "metric"),
        Column("high", "high", "metric"),
        Column("p", "p", "number"),
        Column("p_adjusted", "p, corrected", "number"),
        Column("smallest", "smallest to be seen", "metric"),
        Column("significant", "significant", "mark"),
        Column("verdict", "verdict"),
        Column("unequal", "not equal"),
    )
    rows = []
    for each in evidence.comparisons:
        values = [getattr(each, column.name) for column in columns[:-1]]
        rows.append((*values, "; ".join(each.unequal)))
    note = (
        "Differences are method - against, in the metric's own unit, with 95 % intervals, from a "
        "bootstrap over the rows of dev and the seeds; p is corrected for all comparisons of this "
        "report by Holm's method. Not significant does not mean equal: see the smallest difference "
        "that would have been seen four times out of five."
    )
    return Table("comparisons", "Comparisons", note, columns, tuple(rows))


def sizes(cells: Sequence[Cell]) -> Table:
    """What each chosen model holds, costs and takes."""
    columns = (
        PLACE,
        *WHICH,
        Column("measured", "measured", "percent"),
        *(Column(f"nonzero_{scope}", f"non-zero, {scope}", "whole") for scope in SCOPES),
        *(Column(f"total_{scope}", f"of, {scope}", "whole") for scope in SCOPES),
        Column("held", "held in training", "whole"),
        Column("flops", "FLOPs", "whole"),
        Column("bytes", "bytes", "whole"),
        Column("latency_dense_ms", "ms, dense", "number"),
        Column("latency_ms", "ms, as saved", "number"),
        Column("speedup", "speed-up", "number"),
        Column("latency_of", "latency of"),
    )
    rows = (
        (
            *_where(cell),
            cell.average("measured"),
            *(cell.nonzero(scope) for scope in SCOPES),
            *(cell.runs[0].total(scope) for scope in SCOPES),
            cell.average("held"),
            cell.average("flops"),
            cell.average("size_bytes"),
            cell.latency_ms if cell.dense else cell.average("dense_latency_ms"),
            cell.latency_ms,
            cell.average("speedup"),
            cell.runs[0].speed_setting,
        )
        for cell in cells
        if cell.chosen
    )
    note = (
        "Parameters counted in the saved files: the prunable weights, the model without embeddings "
        "and head (backbone), all of it. Held in training: model, snapshot and teacher. FLOPs of "
        "one input as long as dev's longest, two a multiplication and addition, zeros skipped."
    )
    return Table("sizes", "Parameters, operations, bytes and time", note, columns, tuple(rows))


def _where(cell: Cell) -> tuple[Any, ...]:
    return cell.place, cell.method, cell.setting, cell.sparsity


def _spread(cell: Cell | None) -> tuple[float, float | None, int] | None:
    return None if cell is None else (cell.mean, cell.sd, cell.n)


# --- grids -----------------------------------------------------------------------------------


def regularizers(cells: Sequence[Cell]) -> Table:
    """Criterion × regularizer, where nothing else differs."""
    plain = [c for c in cells if c.chosen and c.variant == c.regularizers]
    terms = sorted({c.regularizers for c in plain}, key=lambda names: (len(names), names))
    columns = [Column(" + ".join(t) or "none", " + ".join(t) or "none", "spread") for t in terms]
    found: dict[tuple[Any, ...], dict[tuple[str, ...], Cell]] = defaultdict(dict)
    for cell in plain:
        criterion = METHODS.get(cell.criterion, cell.criterion)
        found[cell.place, cell.sparsity, criterion][cell.regularizers] = cell
    rows = [
        (*where, *(_spread(grid.get(names)) for names in terms)) for where, grid in found.items()
    ]
    note = "Mean on dev ± standard deviation over seeds (how many)."
    first = (PLACE, Column("sparsity", "sparsity", "percent"), Column("criterion", "criterion"))
    title = "Criterion and regularizer"
    return Table("regularizers", title, note, (*first, *columns), tuple(rows if terms[1:] else []))


def choices(cells: Sequence[Cell]) -> Iterator[Table]:
    """For every setting that was varied as a choice of method: what each of its values brings."""
    names = sorted({name for c in cells for name in c.settings} - {*HYPER, "teacher"})
    for name in names:
        found: dict[tuple[Any, ...], dict[str, Cell]] = defaultdict(dict)
        values: dict[str, Any] = {}
        for cell in cells:
            if cell.chosen and name in cell.settings:
                value = cell.settings[name]
                values[text(value)] = value
                others = tuple(part for part in cell.variant if part != label(name, value))
                where = (cell.place, cell.sparsity, cell.criterion, others)
                found[where][text(value)] = cell
        columns = [Column(label(name, values[v]), label(name, values[v]), "spread") for v in values]
        rows = [
            (
                *where[:2],
                ", ".join([METHODS.get(where[2], where[2]), *where[3]]),
                *(_spread(grid.get(v)) for v in values),
            )
            for where, grid in found.items()
            if len(grid) > 1
        ]
        first = (PLACE, Column("sparsity", "sparsity", "percent"), Column("method", "method"))
        title = f"Effect of {name.replace('_', ' ')}"
        note = "Mean on dev ± standard deviation over seeds (how many); all else is the same."
        yield Table(f"effect-{name}", title, note, (*first, *columns), tuple(rows))


def search(cells: Sequence[Cell]) -> Table:
    """All settings of the hyper-parameters that a method was tried with."""
    tried = [cell for cell in cells if cell.searched > 1]
    names = sorted({n for cell in tried for n in cell.settings if n in HYPER})
    columns = (
        PLACE,
        Column("method", "method"),
        Column("sparsity", "sparsity", "percent"),
        *(Column(name, name.replace("_", " "), "number") for name in names),
        Column("n", "n", "whole"),
        Column("holdout", "holdout", "metric"),
        Column("mean", "dev", "metric"),
        Column("sd", "sd", "metric"),
        Column("chosen", "chosen", "mark"),
    )
    rows = (
        (
            *(cell.place, cell.method, cell.sparsity),
            *(_numeric(cell.settings.get(name)) for name in names),
            *(cell.n, cell.holdout_mean, cell.mean, cell.sd, cell.chosen),
        )
        for cell in tried
    )
    note = "The choice is made on the holdout, over the seeds that all settings of a method have."
    return Table("search", "Learning rates and other settings tried", note, columns, tuple(rows))


def _numeric(value: Any) -> float | None:
    return float(value) if is_number(value) else None


# --- where the weights are -------------------------------------------------------------------


def matrices(cells: Sequence[Cell]) -> Table:
    """Sparsity of every matrix."""
    columns = (
        PLACE,
        Column("method", "method"),
        Column("sparsity", "sparsity", "percent"),
        Column("matrix", "matrix"),
        Column("shape", "shape"),
        Column("mean", "its sparsity", "percent"),
        Column("sd", "sd", "percent"),
        Column("n", "n", "whole"),
    )
    rows = []
    for cell in cells:
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for run in cell.runs if cell.chosen and not cell.dense else ():
            for entry in (run.trace or {}).get("matrices") or []:
                shape = " × ".join(map(str, entry["shape"]))
                found[entry["name"], shape].append(1 - entry["nonzero"] / entry["total"])
        for (name, shape), values in found.items():
            sd = stdev(values) if len(values) > 1 else None
            where = (cell.place, cell.method, cell.sparsity)
            rows.append((*where, name, shape, mean(values), sd, len(values)))
    return Table("matrices", "Sparsity of every matrix", "", columns, tuple(rows))


def masks(cells: Sequence[Cell]) -> Table:
    """How far masks agree, between seeds of a method and between methods."""
    columns = (
        PLACE,
        Column("sparsity", "sparsity", "percent"),
        Column("a", "method"),
        Column("b", "and"),
        Column("pairs", "pairs", "whole"),
        Column("overlap", "overlap", "percent"),
        Column("by_chance", "by chance", "percent"),
    )
    note = (
        "Weights that both masks keep, of those that one of them keeps (Jaccard's index), in a "
        "sample of the prunable weights, and what masks as dense and independent would have. "
        "Methods are compared at equal seeds; a method with itself between seeds."
    )
    return Table("masks", "Overlap of masks", note, columns, tuple(overlaps(cells)))


# --- what was run ----------------------------------------------------------------------------


def runs(evidence: Evidence) -> Table:
    """Every run: its command, code, hardware and cost."""
    columns: tuple[tuple[str, str, Kind], ...] = (
        ("run", "run", "text"),
        ("task", "task", "text"),
        ("model", "model", "text"),
        ("method", "method", "text"),
        ("setting", "setting", "text"),
        ("sparsity", "sparsity", "percent"),
        ("seed", "seed", "text"),
        ("metric", "metric", "text"),
        ("dev", "dev", "metric"),
        ("holdout", "holdout", "metric"),
        ("hours", "hours", "number"),
        ("command", "command", "text"),
        ("commit", "commit", "text"),
        ("hardware", "hardware", "text"),
        ("packages", "packages", "text"),
        ("dev_sha256", "dev's hash", "text"),
    )
    rows = [
        (
            *(run.name, run.task, run.model, cell.method, cell.setting, cell.sparsity, run.seed),
            *(run.metric, run.value, run.holdout),
            None if run.seconds is None else run.seconds / 3600,
            *(command(run), run.commit, run.hardware, packages(run), run.data("dev")[1]),
        )
        for cell in evidence.cells
        for run in cell.runs
    ]
    hours = sum(run.seconds or 0 for run in evidence.runs) / 3600
    note = f"{len(rows)} trainings, {hours:.1f} hours of training and measuring in all."
    made = tuple(Column(*column) for column in columns)
    return Table("runs", "What was run", note, made, tuple(rows))


def packages(run: Run) -> str:
    """Names and versions, such as "torch 2.13.0, numpy 2.4.6"."""
    return ", ".join(f"{name} {version}" for name, version in run.packages.items() if version)


def problems(evidence: Evidence) -> Table:
    """What was left out, and what is in doubt."""
    columns = (
        Column("path", "file or folder"),
        Column("left_out", "left out", "mark"),
        Column("reason", "reason"),
    )
    rows = ((str(each.path), each.left_out, each.reason) for each in evidence.problems)
    return Table("problems", "Left out, or in doubt", "", columns, tuple(rows))


def published(evidence: Evidence) -> Table:
    """Others' figures for the same tasks."""
    columns = (
        Column("task", "task"),
        Column("model", "model"),
        Column("method", "method"),
        Column("sparsity", "sparsity", "percent"),
        Column("metric", "metric"),
        Column("value", "dev", "metric"),
        Column("source", "source"),
    )
    note = (
        "Not ours, and not to be mixed with ours: budgets, teachers, and how the reported model "
        "was chosen differ from row to row."
    )
    rows = [tuple(getattr(each, column.name) for column in columns) for each in evidence.published]
    return Table("published", "Published figures", note, columns, tuple(rows))
