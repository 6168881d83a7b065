"""HTML: everything that comes out of results is escaped here, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from typing import Any

from prunella.report.looks import Spec
from prunella.report.tables import Column, Kind, Table, shown

_NUMBERS: tuple[Kind, ...] = ("whole", "percent", "metric", "number", "spread")
_TOLD_ONCE: tuple[Kind, ...] = ("text", "percent", "whole")
_LONG = (
    *("command", "packages", "verdict", "stamps", "reason", "unequal", "source"),
    *("ties", "beaten", "path"),
)
_WHERE = ("task", "model")
_FOLDED = 12  # rows; a longer table is closed at first where it may be


def text(value: object) -> str:
    """Text, escaped for content and attributes."""
    return escape(str(value), quote=True)


def script(value: Any) -> str:
    """JSON for a script element, which ``</script>`` in a string does not end.

    >>> script({"model": "</script><!--"})
    '{"model":"\\\\u003c/script\\\\u003e\\\\u003c!--"}'
    """
    made = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        made = made.replace(character, f"\\u{ord(character):04x}")
    return made


def paragraph(words: str, kind: str = "") -> str:
    """A paragraph of text; empty where there are no words."""
    return f"<p{_class(kind)}>{text(words)}</p>" if words else ""


def bullets(items: Iterable[str], kind: str = "") -> str:
    """A list of texts."""
    rows = "".join(f"<li>{text(item)}</li>" for item in items)
    return f"<ul{_class(kind)}>{rows}</ul>" if rows else ""


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        key: Its anchor.
        title: Its heading.
        blocks: HTML.
    """

    key: str
    title: str
    blocks: Sequence[str]

    def html(self) -> str:
        return (
            f'<section id="{self.key}" aria-labelledby="{self.key}-title">'
            f'<h2 id="{self.key}-title">{text(self.title)}</h2>{"".join(self.blocks)}</section>'
        )

    def link(self) -> str:
        return f'<li><a href="#{self.key}">{text(self.title)}</a></li>'


def part(title: str, *blocks: str) -> str:
    """A part of a section with a heading of its own; empty where it has nothing."""
    return f"<h3>{text(title)}</h3>{''.join(blocks)}" if any(blocks) else ""


def row(*figures: str) -> str:
    """Figures side by side, as many as there is room for."""
    return f'<div class="row">{"".join(figures)}</div>' if any(figures) else ""


def _class(kind: str) -> str:
    return f' class="{text(kind)}"' if kind else ""


@dataclass
class Figures:
    """The charts of a page, by key.

    Attributes:
        specs: Vega-Lite, without looks.
    """

    specs: dict[str, Spec] = field(default_factory=dict)

    def add(self, key: str, spec: Spec, title: str = "", caption: str = "", more: str = "") -> str:
        """A chart with its caption.

        Args:
            key: Of the chart, unique on the page.
            title: Of the caption; small multiples have theirs inside.
            caption: What it shows, with the numbers in words.
            more: HTML below the caption.
        """
        assert key not in self.specs
        self.specs[key] = spec
        words = f"<b>{text(title)}.</b> " if title else ""
        shown = f"<figcaption>{words}{text(caption)}{more}</figcaption>"
        return (
            f'<figure><div class="chart" data-chart="{text(key)}"></div>'
            f"{shown if title or caption or more else ''}</figure>"
        )


# --- tables ----------------------------------------------------------------------------------


def table(made: Table, *, fold: bool = False, most: int | None = None) -> str:
    """A table that scrolls in its own box; empty where it has no rows.

    Rows are grouped by task and model, where these come first. Columns that are empty are left
    out, and what all rows share is said once, above.

    Args:
        fold: Whether a long one is closed at first.
        most: Rows that are shown, of more.
    """
    if not made.rows:
        return ""
    kept, common = _told_once(made)
    columns = [made.columns[place] for place in kept]
    head = "".join(
        f'<th scope="col"{_class(_align(column))}>{text(column.title)}</th>' for column in columns
    )
    bodies = "".join(
        f"<tbody>{_heading(name, len(columns))}"
        f"{''.join(_row(columns, [values[place] for place in kept]) for values in rows)}</tbody>"
        for name, rows in _groups(made, most)
    )
    note = " ".join(filter(None, (made.note, common, _cut(made, most))))
    title = "" if fold else f"<b>{text(made.title)}.</b> "
    inner = (
        f'<p class="caption">{title}{text(note)}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(made.title)}">'
        f'<table><caption class="hidden">{text(made.title)}</caption>'
        f"<thead><tr>{head}</tr></thead>{bodies}</table></div>"
    )
    if not fold:
        return f'<div id="table-{text(made.key)}">{inner}</div>'
    state = " open" if len(made.rows) <= _FOLDED else ""
    summary = f"<summary>{text(made.title)} ({len(made.rows):,} rows)</summary>"
    return f'<details id="table-{text(made.key)}"{state}>{summary}{inner}</details>'


def _cut(made: Table, most: int | None) -> str:
    if most is None or len(made.rows) <= most:
        return ""
    return f"The first {most:,} of {len(made.rows):,} rows; {made.key}.csv has all."


def _told_once(made: Table) -> tuple[list[int], str]:
    """Places of columns that are not empty and not the same in every row, and a sentence on these;
    task and model are told by `_groups`."""
    kept, said = [], []
    for place, column in enumerate(made.columns):
        values = {shown(values[place], column.kind) for values in made.rows}
        alike = len(values) == 1 and len(made.rows) > 1 and column.kind in _TOLD_ONCE
        if alike and values != {""}:
            said.append(f"{column.title} {values.pop()}")
        elif values != {""} and not (column.name in _WHERE and _is_grouped(made)):
            kept.append(place)
    return kept, f"In all rows: {'; '.join(said)}." if said else ""


def _is_grouped(made: Table) -> bool:
    return tuple(column.name for column in made.columns[:2]) == _WHERE and len(made.rows) > 1


def _groups(made: Table, most: int | None) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    """Rows by task and model, and the name of each group; "" where there is one."""
    if not _is_grouped(made):
        yield "", list(made.rows[:most])
        return
    groups = [(key, list(rows)) for key, rows in groupby(made.rows[:most], key=lambda r: r[:2])]
    tasks, models = ({values[place] for values in made.rows} for place in (0, 1))
    for (task, model), rows in groups:
        names = ((task, tasks), (model, models))
        yield ", ".join(str(name) for name, all_names in names if len(all_names) > 1), rows


def _heading(name: str, width: int) -> str:
    if not name:
        return ""
    return f'<tr class="group"><th scope="rowgroup" colspan="{width}">{text(name)}</th></tr>'


def _row(columns: Sequence[Column], values: Sequence[Any]) -> str:
    made = []
    for place, (column, value) in enumerate(zip(columns, values, strict=True)):
        words = text(shown(value, column.kind))
        kind = _class(_align(column))
        made.append(
            f'<th scope="row"{kind}>{words}</th>' if place == 0 else f"<td{kind}>{words}</td>"
        )
    return f"<tr>{''.join(made)}</tr>"


def _align(column: Column) -> str:
    if column.kind in _NUMBERS:
        return "number"
    return "wide" if column.name in _LONG else ""
