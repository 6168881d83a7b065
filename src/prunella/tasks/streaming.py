"""Training data that is read as it is needed, for sets larger than memory."""

from __future__ import annotations

import csv
import reprlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
from datasets import Features, IterableDataset, Value, load_dataset
from pyarrow import parquet

from prunella.errors import unknown
from prunella.tasks.base import TaskError
from prunella.tasks.reading import at, check_columns, parsed

_Rows = Iterator[tuple[str, Mapping[str, Any]]]  # where a row is, and its cells


def streamed(source: Path | str, columns: Mapping[str, str], *, blank: bool) -> IterableDataset:
    """Rows of texts from a file, or from the part `train` of a set on the hub.

    Args:
        source: the file; or the hub's name, `owner/name` or `owner/name:configuration`.
        columns: what a column is to be called -> its name there; of plain text it is `text`.
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
    path = Path(source)
    rows = _READERS[path.suffix.lower()](path) if path.is_file() else _hub(source)
    known = False
    for place, row in rows:
        if not known:
            _check(source, list(row), columns)
            known = True
        texts = {name: row.get(column) for name, column in columns.items()}
        empty = [n for n, text in texts.items() if not (isinstance(text, str) and text.strip())]
        if empty and not blank:
            found = reprlib.repr(texts[empty[0]])
            raise TaskError(
                f"{place}: column {columns[empty[0]]!r} holds {found} where text is needed; fill "
                "it in or remove the row."
            )
        if not empty:
            yield {name: str(text) for name, text in texts.items()}


def _check(source: str, header: list[str], columns: dict[str, str]) -> None:
    for column in columns.values():
        if column not in header:
            raise TaskError(f"{source}: {unknown('column', column, header)}; name one of these.")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise TaskError(
                    f"{path}:{number}: byte {raw[error.start]:#04x} is not UTF-8; convert the file "
                    "to UTF-8."
                ) from error


def _plain(path: Path) -> _Rows:
    for number, line in _lines(path):
        yield at(path, number), {"text": line}


def _json(path: Path) -> _Rows:
    for number, line in _lines(path):
        if line.strip():
            yield at(path, number), parsed(path, number, line)


def _csv(path: Path, delimiter: str) -> _Rows:
    lines = csv.reader((f"{line}\n" for _, line in _lines(path)), delimiter=delimiter, strict=True)
    header: list[str] = []
    start = 1  # the first line of a row that may span several
    try:
        for cells in lines:
            if cells and not header:
                header = cells
                check_columns(path, header, ())
            elif cells and len(cells) != len(header):
                raise TaskError(
                    f"{path}:{start}: {len(cells)} fields where the header names {len(header)}; "
                    f"quote a field that holds {delimiter!r} or a line end."
                )
            elif cells:
                yield at(path, start), dict(zip(header, cells, strict=True))
            start = lines.line_num + 1
    except csv.Error as error:
        raise TaskError(
            f"{path}:{start}: {error}; close each quote, and double those inside a quoted field."
        ) from error


def _parquet(path: Path) -> _Rows:
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(batch_size=1000):
            for row in batch.to_pylist():
                number += 1
                yield at(path, number), row
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise TaskError(f"{path}: not a sound Parquet file ({reason}); write it again.") from error


def _hub(source: str) -> _Rows:
    name, _, configuration = source.partition(":")
    try:
        rows = load_dataset(name, configuration or None, split="train", streaming=True)
        for number, row in enumerate(rows, start=1):
            yield f"{source}, row {number}", row
    except TaskError:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise TaskError(
            f"{source} cannot be streamed ({reason}); mend it or name another"
        ) from error


_READERS: dict[str, Callable[[Path], _Rows]] = {
    **dict.fromkeys((".txt", ".md", ".tokens", ".raw"), _plain),
    **dict.fromkeys((".json", ".jsonl"), _json),
    ".csv": partial(_csv, delimiter=","),
    ".tsv": partial(_csv, delimiter="\t"),
    ".parquet": _parquet,
}
