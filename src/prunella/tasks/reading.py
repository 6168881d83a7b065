"""Files of text, read so that an error names file and line.

Tables, by suffix: CSV and TSV with a header line, JSON Lines or one list of JSON objects, and
Parquet; all may be packed by gzip. CSV and TSV are both quoted as RFC 4180 has it: a quote that
opens a field must close it, and is an error otherwise.

>>> sorted(READERS)
['.csv', '.json', '.jsonl', '.parquet', '.tsv']
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
from datasets import ClassLabel, Features
from pyarrow import parquet

from prunella.errors import unknown
from prunella.tasks.base import TaskError
from prunella.tasks.form import PLAIN, Form
from prunella.tasks.rejects import Rejects
from prunella.tasks.text import decode as decode
from prunella.tasks.text import lines as lines
from prunella.tasks.text import looks_of, opened, suffix_of, texts

# The number of the line of a row, or `row 3` where it has none, by which an error names it; and
# the row's cells in the order asked for.
Number = int | str
Row = tuple[Number, list[Any]]

LONGEST = 2**31 - 1  # characters of a field


def _csv(
    path: Path,
    columns: Sequence[str],
    form: Form = PLAIN,
    rejects: Rejects | None = None,
    *,
    delimiter: str,
) -> Iterator[Row]:
    rejects = rejects or Rejects(str(path))
    written = texts(path, form)
    first = next(written, "")
    said = re.fullmatch(r'"?sep=(.)"?\s*', first)  # Excel's line before the header
    separator = form.separator or (said[1] if said else delimiter)
    if said and said[1] != separator:
        raise TaskError(
            f"{path}:1: the file says that fields are separated by {said[1]!r}; leave out "
            "--separator."
        )
    before = 1 if said else 0  # lines
    # Not by lines of the file alone: to `csv`, as to old Macs, \r ends a line, too.
    whole = written if said else _chained(first, written)
    ended = (line for text in whole for line in io.StringIO(text, newline=""))
    lines = csv.reader(ended, delimiter=separator, strict=True)
    width, places = 0, list[int]()
    start = 1 + before  # the first line of a row that may span several
    try:
        for cells in _unlimited(lines):
            if cells and not width:
                header = [cell.strip() for cell in cells]
                wanted = [column.strip() for column in columns]
                hint = partial(looks_of, path, form, separator)
                check_columns(path, header, wanted, hint)
                width, places = len(header), [header.index(column) for column in wanted]
            elif cells and len(cells) != width:  # a blank line has none
                rejects.add(
                    f"{path}:{start}",
                    f"{len(cells)} fields where the header names {width}",
                    f"quote a field that holds {separator!r} or a line end",
                )
            elif cells:
                yield start, [cells[place] for place in places]
            start = lines.line_num + 1 + before
    except csv.Error as error:
        raise TaskError(
            f"{path}:{start}: {error}; close each quote, and double those inside a quoted field"
            f"{looks_of(path, form, separator)}."
        ) from error


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _unlimited(lines: Iterator[list[str]]) -> Iterator[list[str]]:
    """Rows whose fields may be long, which the process's own limit, 128 KiB, refuses."""
    while True:
        limit = csv.field_size_limit(LONGEST)
        try:
            cells = next(lines, None)
        finally:
            csv.field_size_limit(limit)
        if cells is None:
            return
        yield cells


def objects(
    path: Path, form: Form = PLAIN, rejects: Rejects | None = None
) -> Iterator[tuple[Number, dict[str, Any]]]:
    """The objects of a file, with the numbers of their lines, as they are needed.

    They are one a line, blank lines being none; or one list, which may be the value of ``data`` in
    an object.

    Raises:
        TaskError: a line, or an entry of the list, is not a JSON object, or has a key twice.
    """
    written = ((number, line) for number, line in lines(path, form) if line.strip())
    first = next(written, None)
    if first is None:
        return
    try:
        head = json.loads(first[1])
    except (ValueError, RecursionError):
        head = None
    second = next(written, None) if isinstance(head, dict) else None
    if not isinstance(head, dict) or (second is None and _entries(head) is not None):
        found = _whole(path, form)
        if found is not None:
            yield from _listed(path, found, rejects)
            return
    for number, line in (first, *([second] if second else ()), *written):
        try:
            yield number, parsed(path, number, line)
        except TaskError as error:
            if rejects is None:
                raise
            rejects.add(*_reasons(error, f"{path}:{number}"))


def _reasons(error: TaskError, place: str) -> tuple[str, str, str]:
    """An error's place, reason and remedy."""
    reason, _, remedy = str(error).removeprefix(f"{place}: ").partition("; ")
    return place, reason, remedy.rstrip(".")


def _entries(value: Any) -> list[Any] | None:
    """The list of rows that a JSON value is, or holds as ``data``."""
    held = value.get("data") if isinstance(value, dict) else value
    return held if isinstance(held, list) else None


def _whole(path: Path, form: Form) -> list[Any] | None:
    """The list that a file holds; None where it is no JSON, or none of a list."""
    text = decode(path, form)
    try:
        return _entries(json.loads(text, object_pairs_hook=_object))
    except (ValueError, RecursionError):
        return None


def _listed(
    path: Path, found: list[Any], rejects: Rejects | None
) -> Iterator[tuple[Number, dict[str, Any]]]:
    for number, entry in enumerate(found, start=1):
        try:
            yield f"row {number}", _checked(entry)
        except ValueError as error:
            reasons = (f"{path}, row {number}", f"not a JSON object ({error})", "give one a row")
            (rejects or Rejects(str(path))).add(*reasons)


def parsed(path: Path, number: Number, line: str) -> dict[str, Any]:
    """The object in a line of JSON."""
    try:
        return _checked(json.loads(line, object_pairs_hook=_object))
    except (ValueError, RecursionError) as error:
        raise TaskError(
            f"{path}:{number}: not a JSON object ({error}); give one object per line."
        ) from error


def _checked(row: Any) -> dict[str, Any]:
    json.dumps(row, ensure_ascii=False).encode()  # refuses half a surrogate pair
    if not isinstance(row, dict):
        raise ValueError(f"a {type(row).__name__}")
    return row


def _json(
    path: Path, columns: Sequence[str], form: Form = PLAIN, rejects: Rejects | None = None
) -> Iterator[Row]:
    rows = list(objects(path, form, rejects))  # all, for the first may lack a column others have
    if rows:
        known = list(dict.fromkeys(key for _, row in rows for key in row))
        check_columns(path, known, columns, partial(_shape_of, rows))
    for number, row in rows:
        cells = [row.get(column) for column in columns]
        if cells and len(rows) == 1 and all(isinstance(cell, dict) for cell in cells):
            raise TaskError(f"{path}: no rows{_shape_of(rows)}.")
        yield number, cells


def _shape_of(rows: list[tuple[Number, dict[str, Any]]]) -> str:
    """What a file's one object is instead of a row."""
    values = list(rows[0][1].values()) if len(rows) == 1 else []
    if values and all(isinstance(value, dict) for value in values):
        return "; it holds columns, not rows: of pandas, write to_json(orient='records')"
    lists = [value for value in values if isinstance(value, list) and value]
    if any(isinstance(entry, dict) for value in lists for entry in value):
        return "; if rows are in a list there, write that alone, a file for each part of the data"
    return ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(row := dict(pairs)) < len(pairs):
        raise ValueError("an object has two keys of the same name")
    return row


def _parquet(
    path: Path, columns: Sequence[str], form: Form = PLAIN, rejects: Rejects | None = None
) -> Iterator[Row]:
    number = 0
    with opened(path) as raw:
        try:
            file = parquet.ParquetFile(raw)
            check_columns(path, file.schema_arrow.names, columns)
            known = _features(file.schema_arrow)
            decoders = [named(known.get(column)) for column in columns]
            for batch in file.iter_batches(batch_size=1000, columns=list(columns)):
                values = batch.select(list(columns)).to_pydict()
                for row in zip(*(values[column] for column in columns), strict=True):
                    number += 1
                    cells = zip(decoders, row, strict=True)
                    yield f"row {number}", [name(cell) for name, cell in cells]
        except TaskError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise TaskError(
                f"{path}: not a sound Parquet file ({reason}); write it again."
            ) from error


def parquet_columns(path: Path) -> list[str]:
    """The names of a Parquet file's columns."""
    list(_parquet(path, []))  # refuses what is not sound
    return list(parquet.read_schema(path).names)


def _features(schema: Any) -> dict[str, Any]:
    """The columns of a Parquet file as Datasets knows them, if that wrote it."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    return dict(Features.from_arrow_schema(schema))


def classes_of(path: Path, column: str) -> tuple[str, ...] | None:
    """The names of a column's classes in the order of their indices, if the file has them."""
    if suffix_of(path) != ".parquet":
        return None
    with opened(path) as raw:
        return names_of(_features(parquet.ParquetFile(raw).schema_arrow).get(column))


def names_of(feature: Any) -> tuple[str, ...] | None:
    """The names of the classes of a column, or of the entries of its lists."""
    kind = getattr(feature, "feature", feature)
    return tuple(kind.names) if isinstance(kind, ClassLabel) else None


def named(feature: Any) -> Callable[[Any], Any]:
    """What turns a cell with indices of classes into one with their names; -1 is no class."""
    names = names_of(feature)
    if names is None:
        return lambda cell: cell

    def name(index: Any) -> Any:
        return names[index] if isinstance(index, int) and 0 <= index < len(names) else None

    if isinstance(feature, ClassLabel):
        return name
    return lambda cell: None if cell is None else [name(index) for index in cell]


READERS: dict[str, Callable[..., Iterator[Row]]] = {
    ".csv": partial(_csv, delimiter=","),
    ".tsv": partial(_csv, delimiter="\t"),
    ".jsonl": _json,
    ".json": _json,
    ".parquet": _parquet,
}


def rows_of(
    path: Path, columns: Sequence[str], form: Form = PLAIN, rejects: Rejects | None = None
) -> list[Row]:
    """The rows of a table, with the cells of the columns asked for.

    Args:
        rejects: takes rows that are malformed; otherwise the first is an error.

    Raises:
        TaskError: it cannot be read, lacks a column, or is malformed; names the line, or the row.
    """
    return list(READERS[suffix_of(path)](path, columns, form, rejects))


def check_columns(
    path: Path | str,
    header: Sequence[str],
    columns: Sequence[str],
    hint: Callable[[], str] = str,
) -> None:
    """Raise TaskError unless the header names each column once.

    Columns without a name, as spreadsheets leave them, may be several.

    Args:
        hint: what to say besides of a header that lacks a column.
    """
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise TaskError(f"{path}: two columns are named {twice!r}; rename or remove one.")
    for column in columns:
        if column not in header:
            raise TaskError(
                f"{path}: {unknown('column', column, header)}; name one of these{hint()}."
            )


def at(path: Path, number: Number) -> str:
    """Where a row is, for an error."""
    return f"{path}:{number}" if isinstance(number, int) else f"{path}, {number}"
