"""SQuAD 1.1, and 2.0 with questions that have no answer, from their files or the hub.

Source: https://rajpurkar.github.io/SQuAD-explorer; the columns are those of the hub sets
`rajpurkar/squad` and `rajpurkar/squad_v2`.
"""

from __future__ import annotations

import json
import logging
import reprlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from prunella.tasks.base import Splits, TaskError
from prunella.tasks.extraction import Extraction
from prunella.tasks.reading import decode
from prunella.tasks.sources import from_folder, from_hub

Row = dict[str, Any]

FEATURES = Features(
    id=Value("string"),
    question=Value("string"),
    context=Value("string"),
    answers={"text": List(Value("string")), "answer_start": List(Value("int64"))},
)

FILES = "SQuAD's JSON files"

logger = logging.getLogger("prunella")


def _load(name: str, hub: str, version: str, folder: Path | None) -> Splits:
    """Read the training and development parts, from the hub if no folder is given."""
    if folder is None:
        hub_parts = from_hub(name, FILES, hub)
        parts = (hub_parts[split] for split in ("train", "validation"))
        train, dev = (part.select_columns(list(FEATURES)) for part in parts)
        return Splits(train, {"dev": dev})
    train_file, dev_file = (_find(name, folder, part, version) for part in ("train", "dev"))
    rows = _in_place(train_file, _read(train_file, name, version))
    dataset = partial(Dataset.from_list, features=FEATURES)
    return Splits(dataset(rows), {"dev": dataset(_read(dev_file, name, version))})


def _find(name: str, folder: Path, part: str, version: str) -> Path:
    """The file of a part, by SQuAD's name for it or the plain one."""
    names = (f"{part}-v{version}.json", f"{part}.json")
    there = [file for file in names if (folder / file).is_file()]
    if len(there) > 1:
        raise TaskError(
            f"{folder}: {' and '.join(there)} are the same part of the data; keep one of them."
        )
    (path,) = from_folder(name, FILES, folder, ([file] for file in names))
    return path


def _read(path: Path, name: str, version: str) -> list[Row]:
    rows: dict[str, Row] = {}
    for place, row in _questions(path):
        if version == "1.1" and not row["answers"]["text"]:
            raise TaskError(
                f"{place}: the question has no answers, and {name} needs one; remove it, or take "
                "qa/squad_v2."
            )
        if row["id"] in rows:
            raise TaskError(
                f"{place}: the id {row['id']!r} is that of another question, too; give each its "
                "own."
            )
        rows[row["id"]] = row
    if not rows:
        raise TaskError(f"{path}: no questions; the file must hold at least one.")
    return list(rows.values())


def _questions(path: Path) -> Iterator[tuple[str, Row]]:
    """The rows of a file, and where in it each is."""
    try:
        file = json.loads(decode(path))
        json.dumps(file, ensure_ascii=False).encode()  # refuses half a surrogate pair
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise TaskError(f"{path}{line}: no sound JSON ({error}); get the file anew.") from error
    for article, a in _each(file, f"{path}: $", "data"):
        for paragraph, p in _each(article, a, "paragraphs"):
            context = _take(paragraph, p, "context", str)
            for question, q in _each(paragraph, p, "qas"):
                answers = list(_each(question, q, "answers"))
                yield (
                    q,
                    {
                        "id": _take(question, q, "id", str),
                        "question": _take(question, q, "question", str),
                        "context": context,
                        "answers": {
                            key: [_take(answer, place, key, kind) for answer, place in answers]
                            for key, kind in (("text", str), ("answer_start", int))
                        },
                    },
                )


def _each(node: Any, place: str, key: str) -> Iterator[tuple[Any, str]]:
    for number, child in enumerate(_take(node, place, key, list)):
        yield child, f"{place}.{key}[{number}]"


def _take(node: Any, place: str, key: str, kind: type) -> Any:
    """A value of a JSON object; a `TaskError` if it is not there, of another kind or too large."""
    value: Any = node.get(key) if isinstance(node, dict) else None
    if type(value) is not kind or (type(value) is int and abs(value) >= 2**31):
        found = "missing" if value is None else reprlib.repr(value)
        raise TaskError(
            f"{place}.{key} is {found} and must be of type {kind.__name__}; give the file in "
            "SQuAD's own layout."
        )
    return value


def _in_place(path: Path, rows: list[Row]) -> list[Row]:
    """The rows whose answers are where they say; skips others if they are few, and logs it."""
    good = [_is_in_place(row) for row in rows]
    if all(good):
        return rows
    first, bad = rows[good.index(False)]["id"], good.count(False)
    if 100 * bad >= len(rows):
        raise TaskError(
            f"{path}: the answer of question {first!r} is not at its answer_start in the context, "
            f"and so in {bad} of {len(rows)} questions; count characters, not bytes, from 0."
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
