"""Training data that is read as it is needed, for sets larger than memory."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping

from datasets import Features, IterableDataset, Value

from prunella.tasks.base import TaskError
from prunella.tasks.own import Source
from prunella.tasks.rejects import Rejects


def streamed(
    source: Source, columns: Mapping[str, str], *, blank: bool, skip: bool = False
) -> IterableDataset:
    """Rows of texts from one part of the data.

    Args:
        source: the part.
        columns: what a column is to be called -> its name there; the lines of plain text are one,
            by any name.
        blank: whether rows without text are left out; otherwise they are an error.
        skip: whether rows that cannot be used are left out.

    Raises:
        TaskError: it cannot be read or lacks a column; or, once it is read so far, a row is
            malformed or has no text.
    """
    found = IterableDataset.from_generator(
        _texts,
        features=Features(**{name: Value("string") for name in columns}),
        gen_kwargs={"source": source, "columns": dict(columns), "blank": blank, "skip": skip},
    )
    if next(iter(found), None) is None:
        raise TaskError(f"{source}: no rows; it must hold at least one.")
    return found


def _texts(
    source: Source, columns: dict[str, str], blank: bool, skip: bool
) -> Iterator[dict[str, str]]:
    rejects, good = Rejects(str(source), skip=skip), 0
    for place, cells in source.cells(list(columns.values()), rejects, lazy=True):
        texts = dict(zip(columns, cells, strict=True))
        empty = [n for n, text in texts.items() if not (isinstance(text, str) and text.strip())]
        if empty and not blank:
            rejects.add(place, *no_text(columns[empty[0]], texts[empty[0]]))
        if not empty:
            good += 1
            yield {name: str(text) for name, text in texts.items()}
    rejects.settle(good)


def no_text(column: str, cell: object) -> tuple[str, str]:
    """Why a cell is no text, and the remedy."""
    found = reprlib.repr(cell)
    return f"column {column!r} holds {found} where text is needed", "fill it in or remove the row"
