"""Training data that is read as it is needed, for sets larger than memory."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Features, IterableDataset, Value, load_dataset

from prunella.tasks.base import TaskError
from prunella.tasks.reading import READERS, at, check_columns, lines, parsed

TEXTS = (".txt", ".md", ".tokens", ".raw")  # of files whose every line is a text

# Where a row is, and its cells in the order asked for.
_Rows = Iterator[tuple[str, Sequence[Any]]]


def streamed(source: Path | str, columns: Mapping[str, str], *, blank: bool) -> IterableDataset:
    """Rows of texts from a file, or from the part `train` of a set on the hub.

    Args:
        source: the file; or the hub's name, `owner/name` or `owner/name:configuration`.
        columns: what a column is to be called -> its name there; the lines of plain
            text are one, by any name.
        blank: whether rows without text are left out; otherwise they are an error.

    Raises:
        TaskError: it cannot be read or lacks a column; or, once it is read so far, a row is
            malformed or has no text.
    """
    found = IterableDataset.from_generator(
        _texts,
        features=Features(**{name: Value("string") for name in columns}),
        gen_kwargs={"source": str(source), "columns": dict(columns), "blank": blank},
    )
    if next(iter(found), None) is None:
        raise TaskError(f"{source}: no rows; it must hold at least one.")
    return found


def _texts(source: str, columns: dict[str, str], blank: bool) -> Iterator[dict[str, str]]:
    read = _file if Path(source).is_file() else _hub
    for place, cells in read(source, list(columns.values())):
        texts = dict(zip(columns, cells, strict=True))
        empty = [n for n, text in texts.items() if not (isinstance(text, str) and text.strip())]
        if empty and not blank:
            found = reprlib.repr(texts[empty[0]])
            raise TaskError(
                f"{place}: column {columns[empty[0]]!r} holds {found} where text is needed; fill "
                "it in or remove the row."
            )
        if not empty:
            yield {name: str(text) for name, text in texts.items()}


def _file(source: str, columns: list[str]) -> _Rows:
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix in TEXTS:
        return ((at(path, number), [line]) for number, line in lines(path))
    if suffix in (".json", ".jsonl"):
        rows = ((n, parsed(path, n, line)) for n, line in lines(path) if line.strip())
        return _cells(source, columns, ((at(path, number), row) for number, row in rows))
    return ((at(path, number), cells) for number, cells in READERS[suffix](path, columns))


def _hub(source: str, columns: list[str]) -> _Rows:
    name, _, configuration = source.partition(":")
    try:
        rows = load_dataset(name, configuration or None, split="train", streaming=True)
        numbered = ((f"{source}, row {n}", row) for n, row in enumerate(rows, start=1))
        yield from _cells(source, columns, numbered)
    except TaskError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise TaskError(
            f"{source} cannot be streamed ({reason}); mend it or name another"
        ) from error


def _cells(source: str, columns: list[str], rows: Iterable[tuple[str, Mapping[str, Any]]]) -> _Rows:
    """The cells asked for; the first row says which columns there are."""
    for number, (place, row) in enumerate(rows):
        if number == 0:
            check_columns(source, list(row), columns)
        yield place, [row.get(column) for column in columns]
