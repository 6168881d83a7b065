"""Files of text, read so that an error names file and line.

Tables, by suffix: CSV and TSV with a header line, JSON Lines, and Parquet. CSV and TSV are both
quoted as RFC 4180 has it: a quote that opens a field must close it, and is an error otherwise.

>>> sorted(READERS)
['.csv', '.json', '.jsonl', '.parquet', '.tsv']
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import parquet

from prunella.errors import unknown
from prunella.tasks.base import TaskError

# The number of a row, by which an error names it, and the row's cells in the order asked for.
Row = tuple[int, list[Any]]

LONGEST = 2**31 - 1  # characters of a field


def _csv(path: Path, columns: Sequence[str], *, delimiter: str) -> Iterator[Row]:
    # Not by lines of the file alone: to `csv`, as to old Macs, \r ends a line, too.
    ended = (line for text in _texts(path) for line in io.StringIO(text, newline=""))
    lines = csv.reader(ended, delimiter=delimiter, strict=True)
    width, places = 0, list[int]()
    start = 1  # the first line of a row that may span several
    try:
        for cells in _unlimited(lines):
            if cells and not width:
                check_columns(path, cells, columns)
                width, places = len(cells), [cells.index(column) for column in columns]
            elif cells and len(cells) != width:  # a blank line has none
                raise TaskError(
                    f"{path}:{start}: {len(cells)} fields where the header names {width}; quote a "
                    f"field that holds {delimiter!r} or a line end."
                )
            elif cells:
                yield start, [cells[place] for place in places]
            start = lines.line_num + 1
    except csv.Error as error:
        raise TaskError(
            f"{path}:{start}: {error}; close each quote, and double those inside a quoted field."
        ) from error


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


def objects(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines, with the numbers of their lines; blank ones are none.

    Raises:
        TaskError: a line is not a JSON object, or has a key twice.
    """
    return [(number, parsed(path, number, line)) for number, line in lines(path) if line.strip()]


def parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    """The object in a line of JSON."""
    try:
        row = json.loads(line, object_pairs_hook=_object)
        json.dumps(row, ensure_ascii=False).encode()  # refuses half a surrogate pair
        if not isinstance(row, dict):
            raise ValueError(f"a {type(row).__name__}")
    except (ValueError, RecursionError) as error:
        raise TaskError(
            f"{path}:{number}: not a JSON object ({error}); give one object per line."
        ) from error
    return row


def _json(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    rows = objects(path)  # all, for the first may lack a column that others have
    if rows:
        check_columns(path, list(dict.fromkeys(key for _, row in rows for key in row)), columns)
    for number, row in rows:
        yield number, [row.get(column) for column in columns]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(row := dict(pairs)) < len(pairs):
        raise ValueError("an object has two keys of the same name")
    return row


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    number = 0
    with _opened(path) as raw:
        try:
            file = parquet.ParquetFile(raw)
            check_columns(path, file.schema_arrow.names, columns)
            for batch in file.iter_batches(batch_size=1000, columns=list(columns)):
                values = batch.select(list(columns)).to_pydict()
                for row in zip(*(values[column] for column in columns), strict=True):
                    number += 1
                    yield number, list(row)
        except TaskError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise TaskError(
                f"{path}: not a sound Parquet file ({reason}); write it again."
            ) from error


READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[Row]]] = {
    ".csv": partial(_csv, delimiter=","),
    ".tsv": partial(_csv, delimiter="\t"),
    ".jsonl": _json,
    ".json": _json,
    ".parquet": _parquet,
}


def rows_of(path: Path, columns: Sequence[str]) -> list[Row]:
    """The rows of a table, with the cells of the columns asked for.

    Raises:
        TaskError: it cannot be read, lacks a column, or is malformed; names the line, or the row.
    """
    return list(READERS[path.suffix.lower()](path, columns))


def decode(path: Path) -> str:
    """The text of a file in UTF-8, without the mark that some editors put first.

    Raises:
        TaskError: it is not there or not UTF-8; names the line.
    """
    return "".join(_texts(path))


def _texts(path: Path) -> Iterator[str]:
    """The text of a file, line by line, with the line ends."""
    with _opened(path) as file:
        for number, raw in enumerate(file, start=1):
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise TaskError(
                    f"{path}:{number}: byte {error.object[error.start]:#04x} is not UTF-8; convert "
                    "the file to UTF-8."
                ) from error


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise TaskError(f"{path}: {error.strerror}; give a file that can be read.") from error


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers, without their ends, as they are needed.

    Not by `str.splitlines`: a text may hold characters that Unicode counts as line ends.
    """
    for number, line in enumerate(_texts(path), start=1):
        yield number, line.removesuffix("\n").removesuffix("\r")


def parts(
    data: Path,
    suffixes: tuple[str, ...],
    *,
    train: tuple[str, ...] = ("train",),
    dev: tuple[str, ...] = ("dev", "validation"),
) -> tuple[Path, Path | None]:
    """The training file and, from a folder that has one, the dev file.

    Args:
        data: a file to train on, or a folder with a file ``train`` and maybe one for dev.
        suffixes: that the files may have.
        train, dev: names that the files may have, before their suffix.

    Raises:
        TaskError: there is no such file, or several.
    """
    formats = ", ".join(suffixes)
    if not data.is_dir():
        if not data.exists():
            raise TaskError(f"there is no file or folder {data}; give the data to train on.")
        if data.suffix.lower() not in suffixes:
            raise TaskError(
                f"{data}: suffix {data.suffix!r} names no format known; give one of {formats}."
            )
        return data, None
    try:
        paths = sorted(data.iterdir())
    except OSError as error:
        raise TaskError(f"{data}: {error.strerror}; give a folder that can be read.") from error
    known = [path for path in paths if path.suffix.lower() in suffixes and path.is_file()]
    found = [[path for path in known if path.stem in names] for names in (train, dev)]
    for part in found:
        if len(part) > 1:
            names = " and ".join(path.name for path in part)
            raise TaskError(f"{data}: {names} are the same part of the data; keep one of them.")
    if not found[0]:
        there = found_in(data)
        raise TaskError(f"{data} has no file train with a suffix of {formats}; found was {there}.")
    return found[0][0], found[1][0] if found[1] else None


def found_in(folder: Path) -> str:
    """What lies in a folder, for an error."""
    return ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"


def check_columns(path: Path | str, header: Sequence[str], columns: Sequence[str]) -> None:
    """Raise TaskError unless the header names each column once."""
    if len(set(header)) < len(header):
        name = next(name for name in header if header.count(name) > 1)
        raise TaskError(f"{path}: two columns are named {name!r}; rename or remove one.")
    for column in columns:
        if column not in header:
            raise TaskError(f"{path}: {unknown('column', column, header)}; name one of these.")


def at(path: Path, number: int) -> str:
    """Where a row is, for an error."""
    return f"{path}, row {number}" if path.suffix.lower() == ".parquet" else f"{path}:{number}"
