"""Rows without labels, of a file of one's own: what a fine-tuned model is asked about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from prunella.tasks.base import ORIGIN, ORIGINS, Task, TaskError, origin
from prunella.tasks.classification import Classification
from prunella.tasks.conll import sentences
from prunella.tasks.extraction import Extraction
from prunella.tasks.form import PLAIN, Form
from prunella.tasks.generation import Generation
from prunella.tasks.lm import Language
from prunella.tasks.multilabel import Multilabel
from prunella.tasks.own import TEXTS, File, is_plain, own
from prunella.tasks.reading import READERS
from prunella.tasks.rejects import Rejects
from prunella.tasks.squad import FEATURES, questions
from prunella.tasks.streaming import no_text
from prunella.tasks.tagging import SUFFIXES, TABLES, WORDS, Tagging, column_of, number_of
from prunella.tasks.text import suffix_of

_INDICES = List(Value("int64"))  # of classes

# Where a row is, and the text in each column asked for.
Cells = Iterator[tuple[str, list[Any]]]


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are read, by name; of ner/columns the number of the words'."""

    text: str | None = None
    pair: str | None = None
    source: str | None = None


def unlabelled(task: Task, path: Path, columns: Columns, form: Form = PLAIN) -> Dataset:
    """The rows of a file, each with where it is, for a task whose labels are not known.

    The columns of `Splits` that hold what is right are there and say nothing. Read are tables of
    the formats of `READERS`; and, by task, files of plain text, a text a line; of words, one a
    line, or a sentence a line, told by blanks; and SQuAD's JSON, its answers left out.

    Raises:
        TaskError: The file is not there or cannot be read, lacks a column, or has a row without
            text; or the task takes no such file.
    """
    kind = next((kind for kind in _READERS if isinstance(task, kind)), None)
    if kind is None:
        raise TaskError(f"{task.name} has no rows that could be read without their labels.")
    if not path.is_file():
        raise TaskError(f"there is no file {path}; give the rows to say something of.")
    places, rows, features = _READERS[kind](task, File(path, form), columns)
    if not places:
        raise TaskError(f"{path}: no rows; the file must hold at least one.")
    return Dataset.from_dict(
        rows | {ORIGIN: [origin(place) for place in places]},
        features=Features(**features, **{ORIGIN: ORIGINS}),
    )


_Read = tuple[list[str], dict[str, list[Any]], dict[str, Any]]


def _texts(task: Classification | Multilabel, file: File, columns: Columns) -> _Read:
    names = [columns.text or "text"] + [columns.pair or "pair"] * task.pair
    places, cells = _columns(_cells(file, names), len(names))
    rows = dict(zip(("text", "pair"), cells, strict=False))
    kinds = {name: Value("string") for name in rows}
    if isinstance(task, Multilabel):
        return places, rows | {"label": [[] for _ in places]}, kinds | {"label": _INDICES}
    label = Value("float32" if task.numeric else "int64")
    return places, rows | {"label": [0] * len(places)}, kinds | {"label": label}


def _sources(task: Generation, file: File, columns: Columns) -> _Read:
    places, (sources,) = _columns(_cells(file, [columns.source or "source"]), 1)
    kinds = {"source": Value("string"), "references": List(Value("string"))}
    return places, {"source": sources, "references": [[] for _ in sources]}, kinds


def _running(task: Language, file: File, columns: Columns) -> _Read:
    places, (texts,) = _columns(_cells(file, [columns.text or "text"]), 1)
    return places, {"text": texts}, {"text": Value("string")}


def _sentences(task: Tagging, file: File, columns: Columns) -> _Read:
    suffix = suffix_of(file.path)
    if suffix in SUFFIXES and suffix not in TEXTS:
        word = number_of(file, columns.text, 0, "--text-column")
        read = sentences(file.path, word=word, tag=None, form=file.form)
        found = [(sentence.place(file.path), sentence.words) for sentence in read]
    else:
        cells = _cells(file, [_words_column(file, columns.text)], _words_of)
        found = [(place, words) for place, (words,) in cells]
    rows: dict[str, list[Any]] = {"words": [words for _, words in found]}
    rows["tags"] = [[0] * len(words) for _, words in found]
    kinds = {"words": List(Value("string")), "tags": _INDICES}
    return [place for place, _ in found], rows, kinds


def _words_column(file: File, name: str | None) -> str:
    """The column of the words; where none is named, one of those that tables to train on have."""
    suffix = suffix_of(file.path)
    if name is not None or suffix not in TABLES:
        return name or "text"
    return column_of(file, None, (*WORDS, "text"), file.columns(), "--text-column")


def _questions(task: Extraction, file: File, columns: Columns) -> _Read:
    if suffix_of(file.path) == ".json":
        rows = questions(file.path, file.form, answers=False)
        places = [f"{file}" for _ in rows]
    else:
        names = ["question", columns.text or "context"]
        nothing: dict[str, list[Any]] = {"text": [], "answer_start": []}
        cells = list(_cells(file, names))
        places = [place for place, _ in cells]
        rows = [
            {"id": place, "question": question, "context": context, "answers": nothing}
            for place, (question, context) in cells
        ]
    return places, {name: [row[name] for row in rows] for name in FEATURES}, dict(FEATURES)


_READERS: dict[type[Task], Callable[[Any, File, Columns], _Read]] = {
    Classification: _texts,
    Multilabel: _texts,
    Generation: _sources,
    Language: _running,
    Tagging: _sentences,
    Extraction: _questions,
}


def _columns(cells: Cells, width: int) -> tuple[list[str], list[list[Any]]]:
    """Places, and the cells column by column."""
    found = list(cells)
    return [place for place, _ in found], [[row[n] for _, row in found] for n in range(width)]


def _text(cell: Any) -> str:
    """A cell as text; "" where it holds none. Only NaN differs from itself."""
    return str(cell) if isinstance(cell, str | int | float) and cell == cell else ""


def _words_of(cell: Any) -> list[str]:
    """The words in a cell, a list or a text of words told by blanks."""
    words = [_text(word) for word in cell] if isinstance(cell, list) else _split(_text(cell))
    return words if all(word.strip() for word in words) else []


def _split(text: str) -> list[str]:
    return [word for word in text.split(" ") if word]


def _cells(file: File, columns: Sequence[str], read: Callable[[Any], Any] = _text) -> Cells:
    """The cells of a table; or the lines of a text, where one column is asked for."""
    own(file.path, file.form, suffixes=(*TEXTS * (len(columns) == 1), *READERS))
    rejects, good = Rejects(str(file), skip=file.form.skip, at_once=False), 0
    for place, cells in file.cells(columns, rejects):
        if is_plain(file) and not cells[0].strip():
            continue
        found = [read(cell) for cell in cells]
        triples = zip(columns, cells, found, strict=True)
        empty = [(c, cell) for c, cell, value in triples if not _holds(value)]
        if empty:
            rejects.add(place, *no_text(*empty[0]))
        else:
            good += 1
            yield place, found
    rejects.settle(good)


def _holds(value: Any) -> bool:
    return bool(value.strip() if isinstance(value, str) else value)
