"""The report's tables as plain rows, and as CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal[
    "text",  # str
    "whole",  # a count, or the mean of counts: 2,123,366
    "percent",  # fraction of 1: 80.0 %
    "metric",  # in the metric's own unit, four decimals
    "number",  # other numbers, three figures
    "list",  # tuple of metrics: every raw value
    "spread",  # (mean, standard deviation or None, n) of a metric
    "mark",  # bool
]


@dataclass(frozen=True)
class Column:
    """A column: `name` in CSV, `title` for people, and how its values are written for them."""

    name: str
    title: str
    kind: Kind = "text"


@dataclass(frozen=True)
class Table:
    """A table of the report.

    Attributes:
        key: Its file's name without the suffix, and its anchor on the page.
        title: For people.
        note: What to know when reading it, in one or two sentences; or "".
        columns: At least one.
        rows: Values as `Column.kind` says, or None where there is none; may be empty.
    """

    key: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]


def share(fraction: float, decimals: int = 1, *, short: bool = False) -> str:
    """A fraction of 1 as a percentage that reads as 0 or 100 only where it is.

    Args:
        short: Whether zeros at the end are left out.

    >>> share(0.8), share(0.9999), share(1.0), share(0.975, 3, short=True)
    ('80.0 %', '99.99 %', '100.0 %', '97.5 %')
    """
    value = 100 * fraction
    while round(value, decimals) in (0, 100) and value not in (0, 100) and decimals < 9:
        decimals += 1
    said = f"{value:.{decimals}f}"
    return f"{said.rstrip('0').rstrip('.') if short and '.' in said else said} %"


def shown(value: Any, kind: Kind) -> str:
    """A value for people; "" for None.

    >>> shown(0.8, "percent"), shown(2123366.0, "whole"), shown((0.8379, 0.0069, 3), "spread")
    ('80.0 %', '2,123,366', '0.8379 ± 0.0069 (3)')
    """
    if value is None:
        return ""
    match kind:
        case "whole":
            return f"{round(value):,}"
        case "percent":
            return share(value)
        case "metric":
            return f"{value:.4f}"
        case "number":
            return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
        case "list":
            return " ".join(f"{each:.4f}" for each in value)
        case "spread":
            mean, sd, n = value
            return f"{mean:.4f}{'' if sd is None else f' ± {sd:.4f}'} ({n})"
        case "mark":
            return "yes" if value else ""
    return str(value)


def to_csv(table: Table) -> str:
    """For programs: full precision, lists separated by blanks, "spread" as people see it."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([column.name for column in table.columns])
    for row in table.rows:
        writer.writerow(
            [_plain(value, column.kind) for value, column in zip(row, table.columns, strict=True)]
        )
    return file.getvalue()


def _plain(value: Any, kind: Kind) -> Any:
    if value is None:
        return ""
    if kind == "list":
        return " ".join(repr(each) for each in value)
    return shown(value, kind) if kind in ("spread", "mark") else value


def to_markdown(tables: Sequence[Table]) -> str:
    """All tables that have rows, one below the other."""
    return "\n".join(_markdown(table) for table in tables if table.rows)


def _markdown(table: Table) -> str:
    right = [column.kind not in ("text", "list", "mark") for column in table.columns]
    lines = [
        f"## {table.title}\n",
        *([f"{table.note}\n"] if table.note else []),
        _line([column.title for column in table.columns]),
        _line(["---:" if is_right else "---" for is_right in right]),
    ]
    for row in table.rows:
        pairs = zip(row, table.columns, strict=True)
        lines.append(_line([_escaped(shown(value, column.kind)) for value, column in pairs]))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Text that ends no cell and begins no tag."""
    flat = " ".join(text.split())
    return flat.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
