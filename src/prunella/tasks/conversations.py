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

from datasets import Dataset, Features, IterableDataset, List, Value

from prunella.tasks.base import Splits, TaskError
from prunella.tasks.form import PLAIN, Form
from prunella.tasks.holdout import with_dev
from prunella.tasks.own import Source, own
from prunella.tasks.parts import labelled
from prunella.tasks.rejects import Rejects
from prunella.tasks.template import Message

# What messages say, and all else as JSON, for Arrow would give each call the keys of all others.
ROW = Features(
    said=List(Value("string")),
    messages=Value("string"),
    tools=Value("string"),
    settings=Value("string"),
    given=Value("int64"),
)
SPOKEN = ("said",)  # columns that hold text
SUFFIXES = (".jsonl", ".json", ".parquet")
FORMS = (("messages",), ("conversations",), ("prompt", "completion"), ("prompt", "response"))
ROLES = {  # of ShareGPT, and of messages in older words
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "observation": "tool",
    "function": "tool",
    **{role: role for role in ("user", "assistant", "system", "developer", "tool")},
}
# Columns that change what a conversation says, and that no template is given.
_UNREAD = ("images", "image", "audios", "audio", "videos", "video", "functions", "documents")

logger = logging.getLogger("prunella")


def load(
    data: Path | str,
    column: str | None,
    streaming: bool,
    test: Path | None = None,
    *,
    form: Form = PLAIN,
    whole: bool = False,
) -> Splits:
    """Read conversations from files, a saved set or one on the hub; see `own.own`.

    Args:
        column: That of the lists of messages; by default one of `FORMS`.
        test: A file for test; by default what the data has for it.
        streaming: Whether training rows are read as they are needed; needs a dev part.
        form: How files are written, and whether rows that are no conversation are left out.
        whole: See `with_dev`.

    Raises:
        TaskError: It is not there or cannot be read, or a row is no conversation.
    """
    train, dev, there = own(data, form, suffixes=SUFFIXES, test=test, streaming=streaming)

    def read(part: Source) -> Dataset:
        return _rows(part, column, form)

    found = None if dev is None else read(dev)
    judged = labelled(there, read, asked=test is not None)
    if not streaming:
        file = Path(str(train))
        return with_dev(read(train), found, file, texts=SPOKEN, test=judged, whole=whole)
    if found is None:
        raise TaskError(
            f"{data}: a stream has no end to cut a dev set off; give a folder with a dev file"
        )
    stream = IterableDataset.from_generator(
        _read,
        features=ROW,
        gen_kwargs={"source": train, "column": column, "skip": form.skip, "at_once": True},
    )
    if next(iter(stream), None) is None:
        raise _empty(train)
    return Splits(stream, {"dev": found}, judged)


def are_in(data: Path | str, column: str | None, form: Form = PLAIN) -> bool:
    """Whether data holds conversations, judged by its first row that can be read; False if none."""
    try:
        train = own(data, form, suffixes=SUFFIXES, streaming=True).train
        _, first = next(train.rows(Rejects(str(train), skip=True)))
    except (TaskError, StopIteration):
        return False
    if column is not None:
        return _messages_of(first.get(column)) is not None
    if "text" in first:
        return False
    held = {name for name, value in first.items() if value == [] or _messages_of(value) is not None}
    return any(held.issuperset(names) for names in FORMS)


def _empty(source: Source) -> TaskError:
    return TaskError(f"{source}: no rows; it must hold at least one.")


def _rows(source: Source, column: str | None, form: Form) -> Dataset:
    rows = list(_read(source, column, form.skip, at_once=False))
    if not rows:
        raise _empty(source)
    roles = [[message["role"] for message in json.loads(row["messages"])] for row in rows]
    if begun := sum(said[0] == "assistant" for said in roles):
        logger.warning(
            "%s: %d of %d conversations begin with the assistant; such an opening is read and not "
            "learnt, for nothing asks for it",
            source,
            begun,
            len(rows),
        )
    if mute := [said for said in roles if "assistant" not in said]:
        logger.warning(
            "%s: %d of %d conversations have no message of the assistant, the first only of %s",
            source,
            len(mute),
            len(rows),
            ", ".join(dict.fromkeys(mute[0])),
        )
    return Dataset.from_list(rows, features=ROW)


def _read(
    source: Source, column: str | None, skip: bool, at_once: bool
) -> Iterator[dict[str, Any]]:
    good, rejects = 0, Rejects(str(source), skip=skip, at_once=at_once)
    for place, record in source.rows(rejects):
        try:
            row = _conversation(record, column)
        except TaskError as error:
            reason, _, remedy = str(error).rpartition("; ")
            rejects.add(place, reason, remedy)
        else:
            good += 1
            yield row
    rejects.settle(good)


def _conversation(record: Mapping[str, Any], column: str | None) -> dict[str, Any]:
    """A row: what is said, all else of it as JSON, and how many messages are only read.

    Raises:
        TaskError: It is none; gives reason and remedy, and not the place.
    """
    for name in _UNREAD:
        if record.get(name):
            raise TaskError(
                f"column {name!r} holds {reprlib.repr(record[name])}, and only messages "
                "of text and tools are read; remove the column, or such rows"
            )
    given, messages = 0, list[Message]()
    for name in _columns(record, column):
        found = _messages_of(record[name])
        if found is None:
            raise _no_messages(name, record)
        given = len(messages)
        messages += [_message(f"message {n} of {name}", m) for n, m in enumerate(found, 1)]
    system = record.get("system") or ""
    if not isinstance(system, str):
        raise TaskError(
            f"column 'system' holds {reprlib.repr(system)} where text is needed; correct it or "
            "remove the column"
        )
    if system.strip() and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
        given += bool(given)
    return {
        "said": [message.pop("content", None) for message in messages],
        "messages": json.dumps(messages),
        "tools": json.dumps(_tools(record.get("tools"))),
        "settings": json.dumps(_settings(record.get("chat_template_kwargs"))),
        "given": given,
    }


def _columns(record: Mapping[str, Any], column: str | None) -> tuple[str, ...]:
    """The columns that make up a row's conversation."""
    forms = FORMS if column is None else ((column,),)
    for names in forms:
        if all(record.get(name) is not None for name in names):
            return names
    found = ", ".join(name for name in record if record[name] is not None) or "nothing"
    if {"chosen", "rejected"} <= record.keys():
        raise TaskError(
            "pairs of which one is preferred (chosen, rejected) are no conversations to "
            "learn; keep the chosen messages alone, in a column messages"
        )
    wanted = ", or ".join(" and ".join(names) for names in forms)
    raise TaskError(
        f"no conversation: it needs {wanted}, and has {found}; name the column of the "
        "messages by --text-column, or use text2text for texts, with --source-column and "
        "--target-column"
    )


def _no_messages(name: str, record: Mapping[str, Any]) -> TaskError:
    value = record[name]
    remedy = "give each message a role and a content"
    if isinstance(value, str):
        target = next((n for n in ("completion", "response") if n in record), "TARGET")
        remedy = (
            f"give a list of messages, or read texts by --task text2text --source-column {name} "
            f"--target-column {target}"
        )
    return TaskError(
        f"column {name!r} holds {reprlib.repr(value)} where a list of messages is needed; {remedy}"
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
    message["role"] = ROLES.get(message["role"].lower(), message["role"])
    if message.get("weight", 1) not in (0, 1):
        raise TaskError(f"{place} has the weight {message['weight']!r}; give 0 or 1")
    if "content" in message:
        message["content"] = _text(place, message["content"])
    if call := message.pop("function_call", None):  # as OpenAI had them before
        message.setdefault("tool_calls", [{"function": call}])
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


def _tools(value: Any) -> list[dict[str, Any]]:
    found = _parsed(value) or []
    tools = [_parsed(tool) for tool in found] if isinstance(found, list) else [found]
    if not (isinstance(found, list) and all(isinstance(tool, dict) for tool in tools)):
        raise TaskError(
            f"column 'tools' holds {reprlib.repr(value)} where a list of JSON schemas is "
            "needed; correct it or remove the column"
        )
    return tools


def _settings(value: Any) -> dict[str, Any]:
    found = _parsed(value) or {}
    if not isinstance(found, dict):
        raise TaskError(
            f"column 'chat_template_kwargs' holds {reprlib.repr(value)} where names and "
            "values are needed; correct it or remove the column"
        )
    return found
