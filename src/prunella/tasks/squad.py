"""SQuAD 1.1, and 2.0 with questions that have no answer, from their files or the hub.

Source: https://rajpurkar.github.io/SQuAD-explorer; the columns are those of the hub sets
`rajpurkar/squad` and `rajpurkar/squad_v2`.
"""

from __future__ import annotations

import json
import logging
import reprlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from prunella.tasks.base import Splits, TaskError
from prunella.tasks.extraction import Extraction
from prunella.tasks.form import PLAIN, Form
from prunella.tasks.parts import labelled
from prunella.tasks.reading import decode
from prunella.tasks.rejects import SKIP, Rejects
from prunella.tasks.sources import first_of, from_folder, from_hub

Row = dict[str, Any]

FEATURES = Features(
    id=Value("string"),
    question=Value("string"),
    context=Value("string"),
    answers={"text": List(Value("string")), "answer_start": List(Value("int64"))},
)

FILES = "SQuAD's JSON files"

logger = logging.getLogger("prunella")


def _load(
    name: str,
    hub: str,
    version: str,
    folder: Path | None,
    form: Form = PLAIN,
    test: Path | None = None,
) -> Splits:
    """Read the parts of a set, from the hub if no folder is given."""
    dataset = partial(Dataset.from_list, features=FEATURES)
    needed = name if version == "1.1" else None

    def judged(file: Path) -> Dataset:
        return dataset(questions(file, form, needed=needed))

    if folder is None:
        hub_parts = from_hub(name, FILES, hub)
        parts = (hub_parts[split] for split in ("train", "validation"))
        train, dev = (part.select_columns(list(FEATURES)) for part in parts)
        return Splits(train, {"dev": dev}, labelled(test, judged, asked=True))
    train_file, dev_file = (_find(name, folder, part, version) for part in ("train", "dev"))
    rows = _in_place(train_file, questions(train_file, form, needed=needed), form.skip)
    there = first_of(folder, _names("test", version)) if test is None else test
    tested = labelled(there, judged, asked=test is not None)
    return Splits(dataset(rows), {"dev": judged(dev_file)}, tested)


def _names(part: str, version: str) -> tuple[str, str]:
    return f"{part}-v{version}.json", f"{part}.json"


def _find(name: str, folder: Path, part: str, version: str) -> Path:
    """The file of a part, by SQuAD's name for it or the plain one."""
    names = _names(part, version)
    there = [file for file in names if (folder / file).is_file()]
    if len(there) > 1:
        raise TaskError(
            f"{folder}: {' and '.join(there)} are the same part of the data; keep one of them."
        )
    (path,) = from_folder(name, FILES, folder, ([file] for file in names))
    return path


def questions(
    path: Path, form: Form = PLAIN, *, answers: bool = True, needed: str | None = None
) -> list[Row]:
    """The questions of a file, each a row of its own, whatever its id.

    Args:
        answers: whether they are read.
        needed: the task that needs some of every question.
    """
    rejects = Rejects(str(path), skip=form.skip, at_once=False)
    rows: list[Row] = []
    for place, made in _questions(path, form, answers):
        try:
            row = made()
        except _Unfit as error:
            rejects.add(str(path), *error.args)
            continue
        if needed and not row["answers"]["text"]:
            rejects.add(
                str(path),
                f"{place}: the question has no answers, and {needed} needs one",
                "remove it, or take qa/squad_v2",
            )
        else:
            rows.append(row | {"id": str(len(rows)) if row["id"] is None else row["id"]})
    rejects.settle(len(rows))
    if not rows:
        raise TaskError(f"{path}: no questions; the file must hold at least one.")
    return rows


class _Unfit(ValueError):
    """A part of the file is not as needed; says where, the rule and the remedy."""


def _questions(path: Path, form: Form, answers: bool) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Where in a file each question is, and what makes its row."""
    try:
        file = json.loads(decode(path, form))
        json.dumps(file, ensure_ascii=False).encode()  # refuses half a surrogate pair
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise TaskError(f"{path}{line}: no sound JSON ({error}); get the file anew.") from error
    try:
        whole = {"data": file} if isinstance(file, list) else file
        for article, a in _each(whole, "$", "data"):
            for paragraph, p in _each(article, a, "paragraphs"):
                context = _take(paragraph, p, "context", str)
                for question, q in _each(paragraph, p, "qas"):
                    yield q, partial(_row, question, q, context, answers)
    except _Unfit as error:  # of what holds questions, which cannot be skipped
        reason, remedy = error.args
        raise TaskError(f"{path}: {reason}; {remedy}.") from error


def _row(question: Any, place: str, context: str, answers: bool) -> Row:
    """A row; its id may be None."""
    given = question.get("id") if isinstance(question, dict) else None
    text = _take(question, place, "question", str)
    if not text.strip():
        raise _Unfit(f"{place}.question is blank", "fill it in or remove the question")
    return {
        "id": given if given is None else str(given),
        "question": text,
        "context": context,
        "answers": _answers(question, place) if answers else {"text": [], "answer_start": []},
    }


def _answers(question: dict[str, Any], place: str) -> dict[str, list[Any]]:
    """Texts and places, from a list of both or, as the hub has it, from two lists."""
    found = question.get("answers")
    if isinstance(found, dict):
        lists = [_take(found, f"{place}.answers", key, list) for key in ("text", "answer_start")]
        if len(lists[0]) != len(lists[1]):
            remedy = "give each text its start"
            raise _Unfit(f"{place}.answers has not as many starts as texts", remedy)
        pairs = [{"text": t, "answer_start": n} for t, n in zip(*lists, strict=True)]
        question = question | {"answers": pairs}
    elif found is None and question.get("is_impossible") is True:
        question = question | {"answers": []}
    answers = list(_each(question, place, "answers"))
    return {
        key: [_take(answer, at, key, kind) for answer, at in answers]
        for key, kind in (("text", str), ("answer_start", int))
    }


def _each(node: Any, place: str, key: str) -> Iterator[tuple[Any, str]]:
    for number, child in enumerate(_take(node, place, key, list)):
        yield child, f"{place}.{key}[{number}]"


def _take(node: Any, place: str, key: str, kind: type) -> Any:
    """A value of a JSON object.

    Raises:
        _Unfit: it is not there, of another kind or too large.
    """
    value: Any = node.get(key) if isinstance(node, dict) else None
    if kind is int and isinstance(value, float) and value.is_integer():  # as pandas leaves them
        value = int(value)
    if type(value) is not kind or (type(value) is int and abs(value) >= 2**31):
        found = "missing" if value is None else reprlib.repr(value)
        raise _Unfit(
            f"{place}.{key} is {found} and must be of type {kind.__name__}",
            "give the file in SQuAD's own layout",
        )
    return value


def _in_place(path: Path, rows: list[Row], skip: bool) -> list[Row]:
    """The rows whose answers are where they say; skips others if they are few, and logs it.

    Args:
        skip: Skip them if they are many, too.
    """
    good = [_is_in_place(row) for row in rows]
    if all(good):
        return rows
    first, bad = rows[good.index(False)]["id"], good.count(False)
    if bad == len(rows) or (100 * bad >= len(rows) and not skip):
        raise TaskError(
            f"{path}: the answer of question {first!r} is not at its answer_start in the context, "
            f"and so in {bad} of {len(rows)} questions; count characters, not bytes, from 0, or "
            f"have such rows left out by {SKIP}."
        )
    logger.warning(
        "%s: skipped %d of %d questions whose answer is not at its answer_start, the first %r",
        path,
        bad,
        len(rows),
        first,
    )
    return [row for row, is_good in zip(rows, good, strict=True) if is_good]


def _is_in_place(row: Row) -> bool:
    answers = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
    return all(
        text.strip() and start >= 0 and row["context"].startswith(text, start)
        for text, start in answers
    )


SQUAD = (
    Extraction("qa/squad", load=partial(_load, "qa/squad", "rajpurkar/squad", "1.1")),
    Extraction(
        "qa/squad_v2",
        load=partial(_load, "qa/squad_v2", "rajpurkar/squad_v2", "2.0"),
        impossible=True,
    ),
)
