"""A user's own set of one or two sentences and a label, read from a table without code.

Formats, by suffix: CSV and TSV with a header line, JSON Lines, and Parquet. CSV and TSV are both
quoted as RFC 4180 has it: a quote that opens a field must close it, and is an error otherwise.

>>> sorted(_READERS)
['.csv', '.json', '.jsonl', '.parquet', '.tsv']
"""

import codecs
import csv
import io
import json
import logging
import math
import reprlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from datasets import ClassLabel, Dataset, Features, Value
from pyarrow import parquet

from prunella.errors import unknown
from prunella.tasks.base import Splits, Task, TaskError, cut_holdout

MAX_CLASSES = 1000
MIN_ROWS = 20  # enough to cut a tenth off twice: the dev set here, a holdout later
DEV_SEED = 0
MAX_SCORE = float(np.finfo(np.float32).max)

logger = logging.getLogger("prunella")

# The number of a row, by which an error names it, and the row's cells in the order asked for.
_Row = tuple[int, list[Any]]


def table(
    kind: Literal["classification", "regression"],
    data: Path,
    *,
    text: str,
    pair: str | None,
    label: str,
) -> Task:
    """Make a task of the user's own table, which is read at once.

    Classes are the labels of the training file: in order of value if all are numbers, else in that
    of their names. A whole float is the class of that integer. A number where text is asked for is
    read as its text; an empty cell in a column asked for is an error.

    Args:
        kind: The task's name. Classification is scored by accuracy, and by f1 of class 1 if there
            are two; regression by the correlations of Pearson and Spearman.
        data: The training file; or a folder that holds `train` and maybe `dev` or `validation`,
            each with the suffix of a format. Without a dev file a tenth of the training rows, at
            most 1000, becomes the dev set: always the same ones, stratified by class if possible.
        text: The column of the (first) sentence.
        pair: The column of the second sentence; None for single sentences.
        label: The column of the class, or of the score to regress.

    Returns:
        A task whose `load` returns the rows read here, whatever it is given.

    Raises:
        TaskError: The files are not there or cannot be read, a column is not in them, a row is
            malformed or incomplete, or the labels do not fit the kind of task.
    """
    columns = [text, label] if pair is None else [text, pair, label]
    if len(set(columns)) < len(columns):
        raise TaskError(
            f"columns {', '.join(map(repr, columns))}: one is named twice; give each its own."
        )
    try:
        train_file, dev_file = _find(data)
        train_rows = _read(train_file, columns)
        dev_rows = _read(dev_file, columns) if dev_file else []
    except OSError as error:
        raise TaskError(f"{data}: {error}; give a file or folder that can be read.") from error

    labels: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = ("pearson", "spearman")
    if kind == "classification":
        labels = _classes(train_file, label, train_rows)
        metrics = ("accuracy", "f1") if len(labels) == 2 else ("accuracy",)
    task = Task(kind, labels, metrics, pair is not None, lambda _: splits)
    train = _dataset(train_file, train_rows, task)
    if dev_file:
        dev = _dataset(dev_file, dev_rows, task)
    elif len(train) < MIN_ROWS:
        raise TaskError(
            f"{train_file}: {len(train)} rows are too few to cut a dev set off; give at least "
            f"{MIN_ROWS}, or a folder with a dev file."
        )
    else:
        train, dev = cut_holdout(train, task, DEV_SEED)
        rows = len(train_rows)
        logger.warning("%s: no dev file, so %d of %d rows become the dev set", data, len(dev), rows)
    splits = Splits(train, {"dev": dev})
    return task


def texts(path: Path, columns: list[str]) -> Dataset:
    """Read texts without labels: the lines of a .txt file, or columns of a table.

    Args:
        path: The file; of a .txt, every line that is not blank is a text.
        columns: The column of the texts, and for pairs that of the second sentences.

    Returns:
        A dataset with the columns `text` and, for pairs, `pair`.

    Raises:
        TaskError: The file is not there or cannot be read, has no rows, or does not hold pairs.
    """
    names = ("text", "pair")[: len(columns)]
    try:
        if path.suffix.lower() == ".txt" and len(columns) == 1:
            lines = _decode(path).split("\n")  # not splitlines: see _json
            cells = [[line.removesuffix("\r")] for line in lines if line.strip()]
        elif path.suffix.lower() in _READERS:
            cells = [cells for _, cells in _read(path, columns)]
        else:
            raise TaskError(
                f"{path}: texts come in {'.txt, ' if len(columns) == 1 else ''}"
                f"{', '.join(_READERS)}; give one of these."
            )
    except OSError as error:
        raise TaskError(f"{path}: {error}; give a file that can be read.") from error
    if not cells:
        raise TaskError(f"{path}: no texts; the file must hold at least one.")
    return Dataset.from_dict(dict(zip(names, map(list, zip(*cells, strict=True)), strict=True)))


def _find(data: Path) -> tuple[Path, Path | None]:
    """Return the training file and, from a folder that has one, the dev file."""
    formats = ", ".join(_READERS)
    if not data.is_dir():
        if not data.exists():
            raise TaskError(f"there is no file or folder {data}; give the table to train on.")
        if data.suffix.lower() not in _READERS:
            raise TaskError(
                f"{data}: suffix {data.suffix!r} names no format known; give one of {formats}."
            )
        return data, None
    paths = sorted(data.iterdir())
    tables = [path for path in paths if path.suffix.lower() in _READERS and path.is_file()]
    train = [path for path in tables if path.stem == "train"]
    dev = [path for path in tables if path.stem in ("dev", "validation")]
    for part in (train, dev):
        if len(part) > 1:
            names = " and ".join(path.name for path in part)
            raise TaskError(f"{data}: {names} are the same part of the data; keep one of them.")
    if not train:
        found = ", ".join(path.name for path in paths) or "nothing"
        raise TaskError(f"{data} has no file train with a suffix of {formats}; found was {found}.")
    return train[0], dev[0] if dev else None


def _read(path: Path, columns: list[str]) -> list[_Row]:
    """Read the columns, the label last, every cell as a string that is not blank."""
    rows = _READERS[path.suffix.lower()](path, columns)
    if not rows:
        raise TaskError(f"{path}: no rows; the file must hold at least one.")
    for number, cells in rows:
        if isinstance(cells[-1], float) and cells[-1].is_integer():
            cells[-1] = int(cells[-1])
        for place, (column, cell) in enumerate(zip(columns, cells, strict=True)):
            cells[place] = str(cell)
            # Only NaN, the missing value of pandas, differs from itself.
            if not isinstance(cell, str | int | float) or cell != cell or not cells[place].strip():
                raise TaskError(
                    f"{_at(path, number)}: column {column!r} holds {reprlib.repr(cell)} where text "
                    "or a number is needed; fill it in or remove the row."
                )
    return rows


def _csv(path: Path, columns: list[str], *, delimiter: str) -> list[_Row]:
    rows: list[_Row] = []
    start = 1  # the first line of a row that may span several
    limit = csv.field_size_limit(2**31 - 1)  # the default refuses texts over 128 KiB
    try:
        # newline="" leaves the line ends inside quotes as they are
        lines = csv.reader(io.StringIO(_decode(path), newline=""), delimiter=delimiter, strict=True)
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
    _check_columns(path, header, columns)
    places = [header.index(column) for column in columns]
    for number, cells in rows:
        if len(cells) != len(header):
            raise TaskError(
                f"{path}:{number}: {len(cells)} fields where the header names {len(header)}; quote "
                f"a field that holds {delimiter!r} or a line end."
            )
    return [(number, [cells[place] for place in places]) for number, cells in rows]


def _json(path: Path, columns: list[str]) -> list[_Row]:
    rows: list[tuple[int, dict[str, Any]]] = []
    # Not by `str.splitlines`: a text may hold characters that Unicode counts as line ends.
    for number, line in enumerate(_decode(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_object)
            json.dumps(row, ensure_ascii=False).encode()  # refuses half a surrogate pair
            if not isinstance(row, dict):
                raise ValueError(f"a {type(row).__name__}")
        except (ValueError, RecursionError) as error:
            raise TaskError(
                f"{path}:{number}: not a JSON object ({error}); give one object per line."
            ) from error
        rows.append((number, row))
    if rows:
        _check_columns(path, list(dict.fromkeys(key for _, row in rows for key in row)), columns)
    return [(number, [row.get(column) for column in columns]) for number, row in rows]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(row := dict(pairs)) < len(pairs):
        raise ValueError("an object has two keys of the same name")
    return row


def _parquet(path: Path, columns: list[str]) -> list[_Row]:
    raw = path.read_bytes()
    try:
        file = parquet.ParquetFile(pa.BufferReader(raw))
        _check_columns(path, file.schema_arrow.names, columns)
        values = file.read(columns=columns).select(columns).to_pydict()
    except TaskError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise TaskError(f"{path}: not a sound Parquet file ({reason}); write it again.") from error
    cells = zip(*(values[column] for column in columns), strict=True)
    return [(number, list(row)) for number, row in enumerate(cells, start=1)]


_READERS: dict[str, Callable[[Path, list[str]], list[_Row]]] = {
    ".csv": partial(_csv, delimiter=","),
    ".tsv": partial(_csv, delimiter="\t"),
    ".jsonl": _json,
    ".json": _json,
    ".parquet": _parquet,
}


def _decode(path: Path) -> str:
    raw = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise TaskError(
            f"{path}:{line}: byte {raw[error.start]:#04x} is not UTF-8; convert the file to UTF-8."
        ) from error


def _check_columns(path: Path, header: list[str], columns: list[str]) -> None:
    if len(set(header)) < len(header):
        name = next(name for name in header if header.count(name) > 1)
        raise TaskError(f"{path}: two columns are named {name!r}; rename or remove one.")
    for column in columns:
        if column not in header:
            raise TaskError(f"{path}: {unknown('column', column, header)}; name one of these.")


def _at(path: Path, number: int) -> str:
    return f"{path}, row {number}" if path.suffix.lower() == ".parquet" else f"{path}:{number}"


def _classes(path: Path, column: str, rows: list[_Row]) -> tuple[str, ...]:
    """Return the class names in the order of their indices."""
    names = sorted({cells[-1] for _, cells in rows})
    numeric = not any(math.isnan(_number(name)) for name in names)
    if numeric:
        names.sort(key=_number)
    if len(names) < 2:
        raise TaskError(
            f"{path}: column {column!r} holds {names[0]!r} in every row; classification needs at "
            "least two classes."
        )
    fractions = [name for name in names if numeric and not _number(name).is_integer()]
    if fractions or len(names) > MAX_CLASSES or len(names) == len(rows):
        raise TaskError(
            f"{path}: column {column!r} holds {len(names)} different labels in {len(rows)} rows, "
            f"such as {(fractions or names)[0]!r}; classes are at most {MAX_CLASSES}, fewer than "
            "the rows, and no fractions: choose regression or name another column."
        )
    return tuple(names)


def _dataset(path: Path, rows: list[_Row], task: Task) -> Dataset:
    """Turn rows, the label last, into the columns of `Splits`."""
    indices = {name: index for index, name in enumerate(task.labels or ())}
    values: list[float] = []
    for number, (*_, label) in rows:
        value = indices.get(label, math.nan) if task.labels else _number(label)
        if math.isnan(value):
            rule = f"label {label!r} is not a finite 32-bit number"
            raise TaskError(
                f"{_at(path, number)}: {unknown('label', label, indices) if indices else rule}; "
                "correct or remove the row."
            )
        values.append(value)
    *texts, _ = map(list, zip(*(cells for _, cells in rows), strict=True))
    names = ("text", "pair")[: len(texts)]
    kind = ClassLabel(names=list(task.labels)) if task.labels else Value("float32")
    return Dataset.from_dict(
        dict(zip((*names, "label"), (*texts, values), strict=True)),
        features=Features(**{name: Value("string") for name in names} | {"label": kind}),
    )


def _number(cell: str) -> float:
    """Return the number that a cell holds, NaN if it holds none that is finite in float32."""
    try:
        number = float(cell)
    except ValueError:
        return math.nan
    return number if abs(number) <= MAX_SCORE else math.nan
