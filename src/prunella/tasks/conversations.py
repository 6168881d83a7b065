"""Conversations as people keep them: in lists of messages, each with a role and a content.

Read are the columns `messages` (role and content), `conversations` (from and value, as ShareGPT has
them), and `prompt` beside `completion` or `response`, each a list of messages, of which the first
is only read; besides `tools` (schemas), `system` (a text) and `chat_template_kwargs`.
"""

from __future__ import annotations

import json
import logging
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
from datasets import Dataset, Features, IterableDataset, List, Value, load_from_disk

from prunella.tasks.base import Splits, TaskError
from prunella.tasks.holdout import with_dev
from prunella.tasks.parts import NAMES, Files, found_in, labelled, parts, shards
from prunella.tasks.reading import (
    READERS,
    at,
    decode,
    lines,
    parquet_columns,
    parsed,
)
from prunella.tasks.template import Message
from prunella.tasks.text import suffix_of

# What messages say, and all else as JSON, for Arrow would give each call the keys of all others.
ROW = Features(
    said=List(Value("string")),
    messages=Value("string"),
    tools=Value("string"),
    settings=Value("string"),
    given=Value("int64"),
)
_SAVED, _SPLITS = "state.json", "dataset_dict.json"  # of what `save_to_disk` wrote
SPOKEN = ("said",)  # columns that hold text
SUFFIXES = (".jsonl", ".json", ".parquet")
FORMS = (("messages",), ("conversations",), ("prompt", "completion"), ("prompt", "response"))
ROLES = {  # of ShareGPT
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "observation": "tool",
    **{role: role for role in ("user", "assistant", "system", "developer", "tool")},
}
# Columns that change what a conversation says, and that no template is given.
_UNREAD = ("images", "image", "audios", "audio", "videos", "video", "functions", "documents")

logger = logging.getLogger("prunella")


def load(
    data: Path,
    column: str | None,
    streaming: bool,
    test: Path | None = None,
    *,
    whole: bool = False,
) -> Splits:
    """Read conversations from a file, or from a folder of files for train, dev and test.

    Args:
        column: That of the lists of messages; by default one of `FORMS`.
        test: A file for test; by default that of the folder, if it has one.
        streaming: Whether training rows are read as they are needed; needs a dev file.
        whole: See `with_dev`.

    Raises:
        TaskError: It is not there or cannot be read, or a row is no conversation.
    """
    train, dev, there = _parts(data)
    found = None if dev is None else _rows(dev, column)
    judged = labelled(test or there, lambda path: _rows(path, column), asked=test is not None)
    if not streaming:
        rows = _rows(train, column)
        return with_dev(rows, found, train, texts=SPOKEN, test=judged, whole=whole)
    if found is None:
        raise TaskError(
            f"{data}: a stream has no end to cut a dev set off; give a folder with a dev file"
        )
    stream = IterableDataset.from_generator(
        _read, features=ROW, gen_kwargs={"path": str(train), "column": column}
    )
    if next(iter(stream), None) is None:
        raise TaskError(f"{train}: no rows; it must hold at least one.")
    return Splits(stream, {"dev": found}, judged)


def are_in(data: Path, column: str | None) -> bool:
    """Whether data holds conversations, judged by its first row; False where it cannot be read."""
    try:
        train = _parts(data).train
        _, first = next(_records(train))
    except (TaskError, StopIteration):
        return False
    if column is not None:
        return _messages_of(first.get(column)) is not None
    if "text" in first:
        return False
    return any(all(_messages_of(first.get(n)) is not None for n in names) for names in FORMS)


def _parts(data: Path) -> Files:
    """The parts of the data: files, or folders that `save_to_disk` wrote."""
    if (data / _SAVED).is_file():
        return Files(data)
    if not (data / _SPLITS).is_file():
        return parts(data, SUFFIXES)
    train, dev, test = (
        next((data / name for name in names if (data / name).is_dir()), None)
        for names in NAMES.values()
    )
    if train is None:
        raise TaskError(f"{data} has no split train; found was {found_in(data)}.")
    return Files(train, dev, test)


def _rows(path: Path, column: str | None) -> Dataset:
    rows = list(_read(str(path), column))
    if not rows:
        raise TaskError(f"{path}: no rows; it must hold at least one.")
    begun = sum(json.loads(row["messages"])[0]["role"] == "assistant" for row in rows)
    if begun:
        logger.warning(
            "%s: %d of %d conversations begin with the assistant; such an opening is read and not "
            "learnt, for nothing asks for it",
            path,
            begun,
            len(rows),
        )
    return Dataset.from_list(rows, features=ROW)


def _read(path: str, column: str | None) -> Iterator[dict[str, Any]]:
    for place, record in _records(Path(path)):
        yield _conversation(place, record, column)


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Whole rows and where each of them is, as they are needed."""
    if path.is_dir():
        try:
            saved: Any = load_from_disk(str(path))
        except (OSError, ValueError, LookupError, pa.ArrowException) as error:
            raise TaskError(f"{path}: not a sound set ({error}); write it again.") from error
        for number, row in enumerate(saved, start=1):
            yield f"{path}, row {number}", _without_nulls(row)
        return
    for file in shards(path):
        yield from _of_file(file)


def _of_file(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if suffix_of(path) == ".parquet":
        names = parquet_columns(path)
        for number, cells in READERS[".parquet"](path, names):
            # Arrow has a null for every key that another row has.
            yield at(path, number), _without_nulls(dict(zip(names, cells, strict=True)))
        return
    written = ((number, line) for number, line in lines(path) if line.strip())
    for number, line in written:
        if number == 1 and line.lstrip().startswith("["):
            yield from _entries(path)
            return
        yield at(path, number), parsed(path, number, line)


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of one list, as ShareGPT's files are."""
    try:
        found = json.loads(decode(path))
    except ValueError as error:
        raise TaskError(
            f"{path}: not a list of JSON objects ({error}); write it again, or one object per line."
        ) from error
    for number, entry in enumerate(found, start=1):
        if not isinstance(entry, dict):
            raise TaskError(
                f"{path}, entry {number}: {reprlib.repr(entry)} is no object; give one a row."
            )
        yield f"{path}, entry {number}", entry


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(held) for key, held in value.items() if held is not None}
    if isinstance(value, list):
        return [_without_nulls(held) for held in value]
    return value


def _conversation(place: str, record: Mapping[str, Any], column: str | None) -> dict[str, Any]:
    """A row: what is said, all else of it as JSON, and how many messages are only read."""
    for name in _UNREAD:
        if record.get(name):
            raise TaskError(
                f"{place}: column {name!r} holds {reprlib.repr(record[name])}, and only messages "
                "of text and tools are read; remove the column, or such rows"
            )
    given, messages = 0, list[Message]()
    for name in _columns(place, record, column):
        found = _messages_of(record[name])
        if found is None:
            raise _no_messages(place, name, record)
        given = len(messages)
        messages += [_message(f"{place}, message {n} of {name}", m) for n, m in enumerate(found, 1)]
    system = record.get("system")
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
        given += bool(given)
    return {
        "said": [message.pop("content", None) for message in messages],
        "messages": json.dumps(messages),
        "tools": json.dumps(_tools(place, record.get("tools"))),
        "settings": json.dumps(_settings(place, record.get("chat_template_kwargs"))),
        "given": given,
    }


def _columns(place: str, record: Mapping[str, Any], column: str | None) -> tuple[str, ...]:
    """The columns that make up a row's conversation."""
    forms = FORMS if column is None else ((column,),)
    for names in forms:
        if all(record.get(name) is not None for name in names):
            return names
    found = ", ".join(name for name in record if record[name] is not None) or "nothing"
    if {"chosen", "rejected"} <= record.keys():
        raise TaskError(
            f"{place}: pairs of which one is preferred (chosen, rejected) are no conversations to "
            "learn; keep the chosen messages alone, in a column messages"
        )
    wanted = ", or ".join(" and ".join(names) for names in forms)
    raise TaskError(
        f"{place}: no conversation: it needs {wanted}, and has {found}; name the column of the "
        "messages by --text-column, or use text2text for texts, with --source-column and "
        "--target-column"
    )


def _no_messages(place: str, name: str, record: Mapping[str, Any]) -> TaskError:
    value = record[name]
    remedy = "give each message a role and a content"
    if isinstance(value, str):
        target = next((n for n in ("completion", "response") if n in record), "TARGET")
        remedy = (
            f"give a list of messages, or read texts by --task text2text --source-column {name} "
            f"--target-column {target}"
        )
    return TaskError(
        f"{place}: column {name!r} holds {reprlib.repr(value)} where a list of messages is needed; "
        f"{remedy}"
    )


def _parsed(value: Any) -> Any:
    """What a text of JSON says; other values, and other texts, as they are."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _messages_of(value: Any) -> list[Message] | None:
    """A list of messages, also as JSON; None where it is none."""
    found = _parsed(value)
    if isinstance(found, list) and found and all(isinstance(each, dict) for each in found):
        keys = [each.keys() for each in found]
        return found if all("role" in held or {"from", "value"} <= held for held in keys) else None
    return None


def _message(place: str, given: Message) -> Message:
    """A message with a role, its text and its calls of tools, in the words of templates."""
    message = {key: value for key, value in given.items() if value is not None}
    if "role" not in message:
        name = message.pop("from")
        if name not in ROLES:
            raise TaskError(
                f"{place} is from {name!r}, and known are {', '.join(ROLES)}; rename it, or give "
                "role and content"
            )
        message = {"role": ROLES[name], "content": message.pop("value"), **message}
    if not isinstance(message["role"], str) or not message["role"].strip():
        raise TaskError(f"{place} has the role {message['role']!r}; give a name")
    if message.get("weight", 1) not in (0, 1):
        raise TaskError(f"{place} has the weight {message['weight']!r}; give 0 or 1")
    if "content" in message:
        message["content"] = _text(place, message["content"])
    if "tool_calls" in message:
        message["tool_calls"] = [_call(place, call) for call in message["tool_calls"]]
    if not message.get("content", "").strip() and not message.get("tool_calls"):
        raise TaskError(f"{place} ({message['role']}) says nothing; fill it in or remove the row")
    return message


def _text(place: str, content: Any) -> str:
    """The text of a message; parts of it are joined by line ends."""
    if isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else [content]:
        kind = type(part).__name__
        if isinstance(part, dict):
            kind = "text" if isinstance(part.get("text"), str) else kind
            kind = part.get("type", kind)
        if kind != "text" or not isinstance(part.get("text"), str):
            raise TaskError(
                f"{place} has content of the type {kind!r}, and only text is read; remove the row, "
                "or the part"
            )
        texts.append(part["text"])
    return "\n".join(texts)


def _call(place: str, call: Any) -> dict[str, Any]:
    """A call of a tool, its arguments an object, for templates write JSON of them."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise TaskError(
            f"{place} has the call {reprlib.repr(call)}, which names no function; give "
            "{'function': {'name': ..., 'arguments': {...}}}"
        )
    arguments = _parsed(function.get("arguments", {}))
    if not isinstance(arguments, dict):
        raise TaskError(
            f"{place} calls {function['name']} with {reprlib.repr(arguments)}; give the arguments "
            "as an object"
        )
    named = {**function, "arguments": arguments}
    return {**call, "type": "function", "function": named} if "function" in call else named


def _tools(place: str, value: Any) -> list[dict[str, Any]]:
    found = [_parsed(tool) for tool in _parsed(value) or []]
    if not all(isinstance(tool, dict) for tool in found):
        raise TaskError(
            f"{place}: column 'tools' holds {reprlib.repr(value)} where a list of JSON schemas is "
            "needed; correct it or remove the column"
        )
    return found


def _settings(place: str, value: Any) -> dict[str, Any]:
    found = _parsed(value) or {}
    if not isinstance(found, dict):
        raise TaskError(
            f"{place}: column 'chat_template_kwargs' holds {reprlib.repr(value)} where names and "
            "values are needed; correct it or remove the column"
        )
    return found
