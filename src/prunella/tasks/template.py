"""What a tokenizer's chat template makes of a conversation, and which part of it is an answer.

Templates differ in all they do: they add words of the system, move them, strip blanks, drop earlier
thinking, write other words around the last message. So nothing is looked for in one long text.
For each answer the template is asked twice, as it is where a model writes: for the messages before
it with a prompt for an answer, and for these with the answer. What the second has more is learnt.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from prunella.regularizers import IGNORED
from prunella.tasks.base import Columns, TaskError

Message = dict[str, Any]

REASONING = ("reasoning_content", "reasoning", "thinking")
OURS = ("weight",)  # keys of a message that are not the template's


@dataclass(frozen=True)
class Turn:
    """An answer in its conversation.

    Attributes:
        prompt: What a model reads when it is asked for the answer.
        before: What stands before the answer where it is given: the prompt, mostly.
        answer: What the template makes of it.
    """

    prompt: str
    before: str
    answer: str


@dataclass(frozen=True)
class Example:
    """Tokens to read, and which of them are to be predicted."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Conversation:
    """Messages, and the template that makes text of them.

    Attributes:
        messages: At least one.
        tools: Schemas that the template is given.
        settings: Further names that it is given.
        given: So many messages first are no answers to learn.
        tokenizer: The template's.
        task: Its name, for errors.
    """

    messages: list[Message]
    tools: list[dict[str, Any]]
    settings: Mapping[str, Any]
    given: int
    tokenizer: PreTrainedTokenizerBase
    task: str

    @classmethod
    def of(
        cls, rows: Columns, place: int, tokenizer: PreTrainedTokenizerBase, task: str
    ) -> Conversation:
        """That of a row of `prunella.tasks.conversations`."""
        messages, tools, settings = (
            json.loads(rows[name][place]) for name in ("messages", "tools", "settings")
        )
        for message, text in zip(messages, rows["said"][place], strict=True):
            if text is not None:
                message["content"] = text
        return cls(messages, tools, settings, rows["given"][place], tokenizer, task)

    def whole(self) -> str:
        """All messages as text.

        Raises:
            TaskError: The template refuses them, or leaves out one.
        """
        text = self._text(len(self.messages))
        self._check_kept(text, len(self.messages))
        return text

    def turns(self) -> Iterator[Turn]:
        """The answers to learn, in order: the assistant's, less those of weight 0.

        What the assistant says first of all is no answer, for nothing asks for it.

        Raises:
            TaskError: The template refuses the messages, leaves out a part of them, or writes an
                answer in another way than it asks for it.
        """
        places = [
            place
            for place, message in enumerate(self.messages)
            if message["role"] == "assistant" and message.get("weight", 1) and place
        ]
        for place in (place for place in places if place >= self.given):
            prompt, text = self._text(place, ask=True), self._text(place + 1)
            turn = self._turn(place, prompt, text)
            self._check_answer(self.messages[place], turn.answer)
            if place == places[-1]:
                self._check_kept(turn.prompt + turn.answer, place)
            yield turn

    def _turn(self, place: int, prompt: str, text: str) -> Turn:
        if text.startswith(prompt):
            return Turn(prompt, prompt, text[len(prompt) :])
        # A template may write a message in another way once it is not the last.
        asked = self.messages[place - 1].get("content", "").strip()
        end = prompt.rfind(asked) + len(asked)
        asking = asked + prompt[end:]
        if asked and end >= len(asked) and asking in text:
            start = text.rindex(asking) + len(asking)
            return Turn(prompt, text[:start], text[start:])
        same = next(n for n, sign in enumerate(prompt) if n >= len(text) or text[n] != sign)
        raise self._error(
            f"asks for an answer by {prompt[max(0, same - 20) :][-60:]!r} and writes it as "
            f"{text[max(0, same - 20) :][:60]!r}, so that what is learnt would not be what is "
            "asked; put one whose prompt begins the answer into the model's folder, as "
            "chat_template.jinja"
        )

    def _text(self, count: int, *, ask: bool = False, without: int | None = None) -> str:
        """The first messages as text; `ask` adds the prompt for an answer."""
        messages = [
            {key: value for key, value in message.items() if key not in OURS}
            for place, message in enumerate(self.messages[:count])
            if place != without
        ]
        try:
            tools: Any = self.tools or None
            text: Any = self.tokenizer.apply_chat_template(
                messages,
                tools=tools,
                tokenize=False,
                add_generation_prompt=ask,
                **self.settings,
            )
        except Exception as error:  # templates raise what they like
            reason = " ".join(str(error).split())
            raise self._error(f"refuses it ({reason}); correct or remove the row") from error
        return str(text)

    def _check_answer(self, message: Message, answer: str) -> None:
        """Raise TaskError where the template leaves out a part of what is to be learnt."""
        said = {name: message[name] for name in ("content", *REASONING) if name in message}
        lost = [name for name, text in said.items() if _dense(str(text)) not in _dense(answer)]
        calls = message.get("tool_calls", ())
        names = [call.get("function", call)["name"] for call in calls]
        lost += ["tool_calls"] * any(name not in answer for name in names)
        if lost:
            raise self._error(
                f"leaves out {lost[0]} of an answer, or a part of it, and makes of it "
                f"{answer[:60]!r}; remove it from the row, or give a template that keeps it"
            )

    def _check_kept(self, text: str, count: int) -> None:
        """Raise TaskError where the template leaves out tools, or what another says."""
        names = [tool.get("function", tool).get("name", "") for tool in self.tools]
        if any(name not in text for name in names):
            raise self._error("has no place for tools; remove the column, or give one that has")
        written = _dense(text)
        for place, message in enumerate(self.messages[:count]):
            if message["role"] == "assistant" or _dense(message.get("content", "")) in written:
                continue
            try:
                unread = self._text(count, without=place) == self._text(count)
            except TaskError:  # so it is looked at
                continue
            if unread:
                raise self._error(
                    f"leaves out what the role {message['role']!r} says; remove such messages, or "
                    "give a template that keeps them"
                )

    def _error(self, what: str) -> TaskError:
        begun = next((m["content"] for m in self.messages if m.get("content")), "")
        return TaskError(
            f"{self.task}: of the conversation {begun[:60]!r} the chat template {what}"
        )


def read(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The tokens of texts that a template made, which has written what begins a text, too."""
    if not texts:
        return []
    ids: Any = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return [list(each) for each in ids]


def examples(
    turns: Sequence[Turn], tokenizer: PreTrainedTokenizerBase, closing: Collection[int]
) -> list[Example]:
    """An example an answer: the prompt's tokens as a model reads them, then those of the answer.

    Blanks at the answer's end are left out. If it then ends with none of the tokens `closing`, the
    end of a text is added.

    Raises:
        TaskError: The tokenizer has no end of a text where one is needed, or answers cannot be
            parted from what stands before them.
    """
    texts = [text for t in turns for text in (t.prompt, t.before, t.before + t.answer)]
    once = list(dict.fromkeys(texts))  # what stands before an answer is the prompt, mostly
    known = dict(zip(once, read(once, tokenizer), strict=True))
    made = []
    for turn in turns:
        prompt, before, whole = (
            known[text] for text in (turn.prompt, turn.before, turn.before + turn.answer)
        )
        wanted = whole[len(before) :]
        if whole[: len(before)] != before:  # a token reaches across
            (alone,) = read([turn.answer], tokenizer)
            if tokenizer.decode(before + alone) != tokenizer.decode(whole):
                raise TaskError(
                    f"the chat template's prompt {turn.prompt[-30:]!r} and the answer "
                    f"{turn.answer[:30]!r} share a token, so that no model could write it; give a "
                    "template whose prompt does not end with a blank"
                )
            wanted = alone
        while wanted and not str(tokenizer.decode(wanted[-1:])).strip():
            wanted = wanted[:-1]
        if not wanted or wanted[-1] not in closing:
            if tokenizer.eos_token_id is None:
                raise TaskError(
                    "neither the chat template nor the tokenizer has a token that ends an answer, "
                    "so that a model cannot learn where to stop; give a model that has one"
                )
            wanted = [*wanted, tokenizer.eos_token_id]
        made.append(Example(prompt + wanted, [IGNORED] * len(prompt) + wanted))
    return made


def joined(answers: Sequence[Example]) -> list[Example]:
    """The same in as few examples as can be: one goes on where it begins with all of the last."""
    made: list[Example] = []
    for answer in answers:
        size = len(made[-1].ids) if made else 0
        if size and answer.ids[:size] == made[-1].ids and set(answer.labels[:size]) == {IGNORED}:
            last = made.pop()
            answer = Example(answer.ids, last.labels + answer.labels[size:])
        made.append(answer)
    return made


def _dense(text: str) -> str:
    """A text without blanks, which templates strip and add."""
    return "".join(text.split())
