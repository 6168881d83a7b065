"""A user's own set of one or two sentences and a label, read from a table without code."""

import math
import reprlib
from pathlib import Path
from typing import Literal

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value

from prunella.errors import unknown
from prunella.tasks.base import TaskError
from prunella.tasks.classification import Classification
from prunella.tasks.holdout import with_dev
from prunella.tasks.reading import READERS, Row, at, lines, parts, rows_of

MAX_CLASSES = 1000
MAX_SCORE = float(np.finfo(np.float32).max)


def table(
    kind: Literal["classification", "regression"],
    data: Path,
    *,
    text: str,
    pair: str | None,
    label: str,
) -> Classification:
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
    train_file, dev_file = parts(data, tuple(READERS))
    train_rows = _read(train_file, columns)
    dev_rows = _read(dev_file, columns) if dev_file else []
    labels: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = ("pearson", "spearman")
    if kind == "classification":
        labels = _classes(train_file, label, train_rows)
        metrics = ("accuracy", "f1") if len(labels) == 2 else ("accuracy",)
    task = Classification(
        kind, load=lambda _: splits, labels=labels, measures=metrics, pair=pair is not None
    )
    train = _dataset(train_file, train_rows, task)
    dev = _dataset(dev_file, dev_rows, task) if dev_file else None
    splits = with_dev(train, dev, train_file)
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
    if path.suffix.lower() == ".txt" and len(columns) == 1:
        cells = [[line] for _, line in lines(path) if line.strip()]
    elif path.suffix.lower() in READERS:
        cells = [cells for _, cells in _read(path, columns)]
    else:
        raise TaskError(
            f"{path}: texts come in {'.txt, ' if len(columns) == 1 else ''}"
            f"{', '.join(READERS)}; give one of these."
        )
    if not cells:
        raise TaskError(f"{path}: no texts; the file must hold at least one.")
    return Dataset.from_dict(dict(zip(names, map(list, zip(*cells, strict=True)), strict=True)))


def _read(path: Path, columns: list[str]) -> list[Row]:
    """Read the columns, the label last, every cell as a string that is not blank."""
    rows = rows_of(path, columns)
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
                    f"{at(path, number)}: column {column!r} holds {reprlib.repr(cell)} where text "
                    "or a number is needed; fill it in or remove the row."
                )
    return rows


def _classes(path: Path, column: str, rows: list[Row]) -> tuple[str, ...]:
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


def _dataset(path: Path, rows: list[Row], task: Classification) -> Dataset:
    """Turn rows, the label last, into the columns of `Splits`."""
    indices = {name: index for index, name in enumerate(task.labels or ())}
    values: list[float] = []
    for number, (*_, label) in rows:
        value = indices.get(label, math.nan) if task.labels else _number(label)
        if math.isnan(value):
            rule = f"label {label!r} is not a finite 32-bit number"
            raise TaskError(
                f"{at(path, number)}: {unknown('label', label, indices) if indices else rule}; "
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
