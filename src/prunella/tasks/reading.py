"""Files of text, read so that an error names file and line.

Tables, by suffix: CSV and TSV with a header line, JSON Lines, and Parquet. CSV and TSV are both
quoted as RFC 4180 has it: a quote that opens a field must close it, and is an error otherwise.

>>> sorted(READERS)
['.csv', '.json', '.jsonl', '.parquet', '.tsv']
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import parquet

from prunella.errors import unknown
from prunella.tasks.base import TaskError

# The number of a row, by which an error names it, and the row's cells in the order asked for.
Row = tuple[int, list[Any]]


def _csv(path: Path, columns: Sequence[str], *, delimiter: str) -> list[Row]:
    rows: list[Row] = []
    start = 1  # the first line of a row that may span several
    limit = csv.field_size_limit(2**31 - 1)  # the default refuses texts over 128 KiB
    try:
        # newline="" leaves the line ends inside quotes as they are
        lines = csv.reader(io.StringIO(decode(path), newline=""), delimiter=delimiter, strict=True)
        for cells in lines:
            if cells:  # a blank line has none
                rows.append((start, cells))
            start = lines.line_num + 1
    except csv.Error as error:
        raise TaskError(
            f"{path}:{start}: {error}; close each quote, and double those inside a quoted field."
        ) from error
    finally:
        csv.field_size_limit(limit)
    if not rows:
        return []
    (_, header), *rows = rows
    check_columns(path, header, columns)
    places = [header.index(column) for column in columns]
    for number, cells in rows:
        if len(cells) != len(header):
            raise TaskError(
                f"{path}:{number}: {len(cells)} fields where the header names {len(header)}; quote "
                f"a field that holds {delimiter!r} or a line end."
            )
    return [(number, [cells[place] for place in places]) for number, cells in rows]


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


def _json(path: Path, columns: Sequence[str]) -> list[Row]:
    rows = objects(path)
    if rows:
        check_columns(path, list(dict.fromkeys(key for _, row in rows for key in row)), columns)
    return [(number, [row.get(column) for column in columns]) for number, row in rows]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(row := dict(pairs)) < len(pairs):
        raise ValueError("an object has two keys of the same name")
    return row


def _parquet(path: Path, columns: Sequence[str]) -> list[Row]:
    raw = _bytes(path)
    try:
        file = parquet.ParquetFile(pa.BufferReader(raw))
        check_columns(path, file.schema_arrow.names, columns)
        values = file.read(columns=list(columns)).select(list(columns)).to_pydict()
    except TaskError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise TaskError(f"{path}: not a sound Parquet file ({reason}); write it again.") from error
    cells = zip(*(values[column] for column in columns), strict=True)
    return [(number, list(row)) for number, row in enumerate(cells, start=1)]


READERS: dict[str, Callable[[Path, Sequence[str]], list[Row]]] = {
    ".csv": partial(_csv, delimiter=","),
    ".tsv": partial(_csv, delimiter="\t"),
    ".jsonl": _json,
    ".json": _json,
    ".parquet": _parquet,
}


def decode(path: Path) -> str:
    """The text of a file in UTF-8, without the mark that some editors put first.

    Raises:
        TaskError: it is not there or not UTF-8; names the line.
    """
    raw = _bytes(path).removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise TaskError(
            f"{path}:{line}: byte {raw[error.start]:#04x} is not UTF-8; convert the file to UTF-8."
        ) from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TaskError(f"{path}: {error.strerror}; give a file that can be read.") from error


def lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file with their numbers, without their ends.

    Not by `str.splitlines`: a text may hold characters that Unicode counts as line ends.
    """
    parts = decode(path).split("\n")
    if parts[-1] == "":
        parts.pop()
    return [(number, line.removesuffix("\r")) for number, line in enumerate(parts, start=1)]


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
        there = ", ".join(path.name for path in paths) or "nothing"
        raise TaskError(f"{data} has no file train with a suffix of {formats}; found was {there}.")
    return found[0][0], found[1][0] if found[1] else None


def check_columns(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
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
