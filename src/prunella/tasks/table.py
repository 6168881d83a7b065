"""A user's own set of one or two sentences and a label, read from a table without code."""

from __future__ import annotations

import ast
import json
import logging
import math
import reprlib
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from datasets import ClassLabel, Dataset, List, Value

from prunella.errors import unknown
from prunella.tasks.base import USUAL, Rows, TaskError
from prunella.tasks.classification import MEASURES, Classification
from prunella.tasks.form import PLAIN, Form, comma
from prunella.tasks.holdout import with_dev
from prunella.tasks.multilabel import Multilabel
from prunella.tasks.own import TEXTS, File, Source, own
from prunella.tasks.parts import check_format, labelled
from prunella.tasks.reading import READERS
from prunella.tasks.rejects import Rejects
from prunella.tasks.text import suffix_of

MAX_CLASSES = 1000
MAX_SCORE = float(np.finfo(np.float32).max)
FILL = "fill it in or remove the row"

logger = logging.getLogger("prunella")


class _Row(NamedTuple):
    """Where a row is, its texts, and its label: a class, a score, or several classes."""

    place: str
    texts: list[str]
    label: Any


class _Unfit(ValueError):
    """A row cannot be used; says the reason and the remedy.

    Attributes:
        final: whether no row like it can, so that there is nothing to skip.
    """

    def __init__(
        self, reason: str, remedy: str = "correct or remove the row", *, final: bool = False
    ) -> None:
        super().__init__(reason, remedy)
        self.final = final


def table(
    kind: Literal["classification", "regression", "multilabel"],
    data: Path | str,
    *,
    text: str,
    pair: str | None,
    label: str,
    separator: str | None = None,
    positive: str | None = None,
    form: Form = PLAIN,
    test: Path | None = None,
    asked: Rows = USUAL,
) -> Classification | Multilabel:
    """Make a task of the user's own table, which is read at once.

    Classes are the labels of the training part: as the set names them, if it does; in order of
    value if all are numbers, where 1.0 is 1; else in that of their names. A number where text is
    asked for is read as its text; an empty cell in a column asked for is an error.

    Args:
        kind: The task's name: one class a row, a score, or any number of labels.
        data: Files, a saved set or one on the hub (see `own.own`). Without a dev part a tenth of
            the training rows, at most 1000, becomes the dev set: always the same ones, stratified
            by class if possible.
        text: The column of the (first) sentence.
        pair: The column of the second sentence; None for single sentences.
        label: The column of the class, of the score to regress, or of lists of labels.
        separator: What stands between the labels of a cell that is no list; an empty cell then has
            none.
        positive: Of two classes the one that `f1` is of; by default the second.
        form: How files are written.
        test: A file for test, instead of what the data has.
        asked: What else is asked of the rows.

    Returns:
        A task whose `load` returns the rows read here, whatever it is given.

    Raises:
        TaskError: The data is not there or cannot be read, a column is not in it, rows are
            malformed or incomplete, or the labels do not fit the kind of task.
    """
    columns = [text, label] if pair is None else [text, pair, label]
    if len(set(columns)) < len(columns):
        raise TaskError(
            f"columns {', '.join(map(repr, columns))}: one is named twice; give each its own."
        )
    readers: dict[str, Callable[[Any], Any]] = {
        "classification": partial(_class, label),
        "regression": partial(_score, label, form),
        "multilabel": partial(_several, label, separator),
    }
    read = readers[kind]
    train, dev, tested = own(data, form, test=test)
    rejects = Rejects(str(train), skip=form.skip, at_once=False)
    rows = _rows(train, columns, read, rejects)
    rejects.settle(len(rows))
    if not rows:
        raise TaskError(f"{train}: no rows; the file must hold at least one.")
    _warn_of_contradictions(train, rows)
    names = _names(kind, train, label, rows, form, positive, asked)

    def made(part: Source, rows: list[Any], rejects: Rejects) -> Dataset:
        found = _dataset(rows, names, form, rejects, asked)
        rejects.settle(len(found))
        if not len(found):
            raise TaskError(f"{part}: no rows; the file must hold at least one.")
        return found

    def judged(part: Source) -> Dataset:
        rejects = Rejects(str(part), skip=form.skip, at_once=False)
        return made(part, _rows(part, columns, read, rejects), rejects)

    splits = with_dev(
        made(train, rows, Rejects(str(train), skip=form.skip, at_once=False)),
        None if dev is None else judged(dev),
        Path(str(train)),
        test=labelled(tested, judged, asked=test is not None),
        whole=asked.whole,
    )
    if kind == "multilabel":
        assert names is not None
        return Multilabel(kind, load=lambda _: splits, labels=names, pair=pair is not None)
    measures = ("pearson", "spearman") if names is None else MEASURES[len(names) == 2]
    return Classification(
        kind, load=lambda _: splits, labels=names, measures=measures, pair=pair is not None
    )


def texts(path: Path, columns: list[str], form: Form = PLAIN) -> Dataset:
    """Read texts without labels: the lines of a .txt file, or columns of a table.

    Args:
        path: The file; of a .txt, every line that is not blank is a text.
        columns: The column of the texts, and for pairs that of the second sentences.
        form: How the file is written.

    Returns:
        A dataset with the columns `text` and, for pairs, `pair`.

    Raises:
        TaskError: The file is not there or cannot be read, has no rows, or does not hold pairs.
    """
    names = ("text", "pair")[: len(columns)]
    plain = suffix_of(path) in TEXTS and len(columns) == 1
    if not plain and suffix_of(path) not in READERS:
        check_format(path, (".txt", *READERS) if len(columns) == 1 else tuple(READERS))
    rejects = Rejects(str(path), skip=form.skip, at_once=False)
    found: list[list[str]] = []
    for place, cells in File(path, form).cells(columns, rejects):
        if plain and not cells[0].strip():
            continue
        try:
            found.append([_text(*cell) for cell in zip(columns, cells, strict=True)])
        except _Unfit as error:
            rejects.add(place, *error.args)
    rejects.settle(len(found))
    if not found:
        raise TaskError(f"{path}: no texts; the file must hold at least one.")
    return Dataset.from_dict(dict(zip(names, map(list, zip(*found, strict=True)), strict=True)))


# --- cells -------------------------------------------------------------------------------------


def _rows(
    part: Source, columns: Sequence[str], read: Callable[[Any], Any], rejects: Rejects
) -> list[_Row]:
    """The rows that can be used; the label's column is the last."""
    rows = []
    for place, (*cells, label) in part.cells(columns, rejects):
        try:
            found = [_text(*cell) for cell in zip(columns[:-1], cells, strict=True)]
            rows.append(_Row(place, found, read(label)))
        except _Unfit as error:
            if error.final:
                raise TaskError(f"{place}: {'; '.join(error.args)}.") from error
            rejects.add(place, *error.args)
    return rows


def _text(column: str, cell: Any) -> str:
    """The text of a cell that holds text or a number.

    Raises:
        _Unfit: it is blank, or of another kind.
    """
    text = str(cell)
    # Only NaN, the missing value of pandas, differs from itself.
    if not isinstance(cell, str | int | float) or cell != cell or not text.strip():
        found = reprlib.repr(cell)
        raise _Unfit(f"column {column!r} holds {found} where text or a number is needed", FILL)
    if "\0" in text:
        raise _Unfit(f"column {column!r} holds a NUL character, which is no text")
    return text


def _class(column: str, cell: Any) -> str:
    if isinstance(cell, list | tuple):
        raise _Unfit(
            f"column {column!r} holds {reprlib.repr(cell)} where text or a number is needed",
            "several labels a row are for --task multilabel",
            final=True,
        )
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return _text(column, cell).strip()


def _score(column: str, form: Form, cell: Any) -> float:
    text = _class(column, cell)
    value = _number(text, form)
    if math.isnan(value):
        raise _Unfit(f"label {text!r} is not a finite 32-bit number{comma(text, form)}")
    return value


def _several(column: str, separator: str | None, cell: Any) -> list[str]:
    """The labels of a cell, in the order given."""
    cell = _listed(cell)
    if isinstance(cell, str) and separator is not None:
        labels = [part.strip() for part in cell.split(separator) if part.strip()]
    elif isinstance(cell, list | tuple):
        labels = [_class(column, part) for part in cell]
    else:
        raise _Unfit(
            f"column {column!r} holds {reprlib.repr(cell)} where a list of labels is needed",
            f"{FILL}, or say by --label-separator what stands between labels",
        )
    if len(set(labels)) < len(labels):
        raise _Unfit(
            f"column {column!r} names a label twice in {reprlib.repr(cell)}",
            "list the labels that a row has by name, not a 0 or 1 for each",
        )
    return labels


def _listed(cell: Any) -> Any:
    """The list that a text spells, in JSON or as Python writes it; others as they are."""
    if isinstance(cell, str) and cell.strip().startswith("[") and cell.strip().endswith("]"):
        for read in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError):
                return read(cell.strip())
    return cell


def _number(cell: str, form: Form) -> float:
    """The number that a cell holds, NaN if it holds none that is finite in float32."""
    try:
        number = form.number(cell)
    except ValueError:
        return math.nan
    return number if abs(number) <= MAX_SCORE else math.nan


# --- labels ------------------------------------------------------------------------------------


def _names(
    kind: str,
    part: Source,
    column: str,
    rows: list[_Row],
    form: Form,
    positive: str | None,
    asked: Rows,
) -> tuple[str, ...] | None:
    """The class names in the order of their indices; None for scores."""
    if kind == "regression":
        if len({row.label for row in rows}) == 1 and len(rows) > 1 and not asked.whole:
            raise TaskError(
                f"{part}: column {column!r} holds {rows[0].label:g} in every row; regression needs "
                "at least two different scores."
            )
        return None
    several = kind == "multilabel"
    given = [row.label for row in rows]
    known = part.classes(column) or ()
    labels = _flat(given) if several else given
    names = asked.classes or _classes(part, column, labels, known, form, several)
    if positive is None:
        return names
    if len(names) != 2 or positive not in names:
        why = unknown("class", positive, names) if len(names) == 2 else f"there are {len(names)}"
        raise TaskError(
            f"--positive-class {positive} must be one of two classes: {why}; leave it out or "
            "correct it."
        )
    return (*(name for name in names if name != positive), positive)


def _flat(lists: Collection[list[str]]) -> list[str]:
    return [label for labels in lists for label in labels]


def _classes(
    part: Source, column: str, labels: list[str], known: tuple[str, ...], form: Form, several: bool
) -> tuple[str, ...]:
    """The names of classes, of which one a row has one or, if several, any number."""
    names = sorted(set(labels))
    numeric = not any(math.isnan(_number(name, form)) for name in names)
    if numeric:
        names = sorted({form.whole(name) for name in names})
        names.sort(key=partial(_number, form=form))
    if len(names) < 2:
        found = f"holds {names[0]!r} in every row" if names else "holds no label"
        found = f"holds the label {names[0]!r} alone" if several and names else found
        raise TaskError(
            f"{part}: column {column!r} {found}; {'labels' if several else 'classification'} "
            f"{'must be' if several else 'needs'} at least two{'' if several else ' classes'}."
        )
    # Numbers alone: names may be versions or the like.
    fractions = [name for name in names if numeric and not _number(name, form).is_integer()]
    alone = not several and len(names) == len(labels)
    if fractions or len(names) > MAX_CLASSES or (alone and not known):
        raise TaskError(
            f"{part}: column {column!r} holds {len(names)} different labels in {len(labels)} rows, "
            f"such as {(fractions or names)[0]!r}; classes are at most {MAX_CLASSES}, fewer than "
            "the rows, and no fractions: choose regression or name another column."
        )
    return known if set(names) <= set(known) else tuple(names)


def _dataset(
    rows: list[_Row],
    names: tuple[str, ...] | None,
    form: Form,
    rejects: Rejects,
    asked: Rows,
) -> Dataset:
    """Turn rows into the columns of `Splits`.

    Args:
        rejects: takes rows with a label that is not among the names.
    """
    indices = {name: index for index, name in enumerate(names or ())}
    several = bool(rows) and isinstance(rows[0].label, list)
    kept, values = list[_Row](), list[Any]()
    for row in rows:
        labels = row.label if several else [row.label]
        if names is not None:
            labels = [label if label in indices else form.whole(label) for label in labels]
            if odd := [label for label in labels if label not in indices]:
                rejects.add(row.place, unknown("label", odd[0], indices))
                continue
            labels = [indices[label] for label in labels]
        kept.append(row)
        values.append(sorted(labels) if several else labels[0])
    width = len(rows[0].texts) if rows else 1
    cells = [[row.texts[place] for row in kept] for place in range(width)]
    texts: dict[str, list[Any]] = dict(zip(("text", "pair"), cells, strict=False))
    kind = Value("float32") if names is None else ClassLabel(names=list(names))
    kinds = {name: Value("string") for name in texts} | {"label": List(kind) if several else kind}
    columns = texts | {"label": values} | asked.column(row.place for row in kept)
    return Dataset.from_dict(columns, features=asked.features(kinds))


def _warn_of_contradictions(part: Source, rows: list[_Row]) -> None:
    """Log how many texts come with different labels."""
    known: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        known.setdefault(tuple(row.texts), set()).add(repr(row.label))
    odd = [texts for texts, labels in known.items() if len(labels) > 1]
    if odd:
        logger.warning(
            "%s: %d texts come several times with different labels, the first %s",
            part,
            len(odd),
            reprlib.repr(odd[0][0]),
        )
