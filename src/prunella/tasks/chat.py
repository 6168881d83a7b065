"""Chat: write each answer of the assistant, given all that was said before it.

Conversations become text by the tokenizer's own chat template. An example is, token for token, what
a model reads and writes when it is asked; only answers have labels. Where the template of a longer
conversation goes on from that of a shorter one, answers share an example; where it does not (as it
drops earlier thinking, or moves the system's words), each has its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prunella.regularizers import IGNORED
from prunella.tasks import conversations
from prunella.tasks.base import (
    USUAL,
    Columns,
    Reader,
    Record,
    Rows,
    Splits,
    Task,
    TaskError,
)
from prunella.tasks.form import PLAIN, Form
from prunella.tasks.likelihood import (
    by_frequency,
    check_decoder,
    likelihoods,
    padded,
    perplexity,
    scored,
)
from prunella.tasks.template import Conversation, Example, examples, joined, read

PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@dataclass(frozen=True)
class Chat(Task):
    """Predict the tokens of answers, scored by their perplexity; see `Language`.

    Attributes:
        train_on: The assistant's tokens alone, in every answer, or all tokens of a conversation.
    """

    train_on: Literal["assistant", "all"] = "assistant"

    auto = AutoModelForCausalLM
    length = 1024
    minimize = True
    top = math.inf
    pads = False
    by_row = False
    texts = conversations.SPOKEN
    lacking = "an answer of the assistant within --max-length"

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("perplexity",)

    def aim(self, tokenizer: PreTrainedTokenizerBase) -> str:
        if self.train_on == "all":
            return "chat, by the tokenizer's template, with the loss on all tokens"
        (end,) = self.ends(tokenizer)
        return (
            "chat, by the tokenizer's template, with the loss on the assistant's tokens alone, up "
            f"to {tokenizer.convert_ids_to_tokens(end)}, which ends an answer"
        )

    def architecture(self, config: PreTrainedConfig) -> Any:
        check_decoder(self.name, config)
        return super().architecture(config)

    def ends(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """The token that ends an answer: the template's, or else that of the end of a text.

        Raises:
            TaskError: The tokenizer has no chat template, or nothing that ends an answer.
        """
        try:
            tokenizer.get_chat_template()
        except ValueError as error:
            raise TaskError(
                f"{self.name}: the tokenizer has no chat template, by which messages become text "
                "(or several, with no default among them); give a model made for chat, or put a "
                "template into the model's folder, as chat_template.jinja"
            ) from error
        try:
            turns = list(Conversation(PROBE, [], {}, 0, tokenizer, self.name).turns())
        except TaskError:  # it wants more than this, which rows may have
            turns = []
        for answer in examples(turns, tokenizer, tokenizer.added_tokens_decoder):
            return answer.ids[-1:]
        return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def features(self, rows: Columns, reader: Reader, *, training: bool) -> Columns:
        """Turn conversations into examples, one or several each; see `Task.features`.

        What is too long is cut at its end, and left out if that leaves it without an answer.

        Raises:
            TaskError: The template refuses a conversation, leaves out a part of it, or writes an
                answer in another way than it asks for it.
        """
        columns: Columns = {
            name: [] for name in ("input_ids", "attention_mask", "labels", "length", "cut", "row")
        }
        for row, text, example in self._examples(rows, reader.tokenizer):
            length = len(example.ids)
            if length > reader.max_length and not reader.truncate:
                raise reader.too_long(text, length)
            ids, labels = (part[: reader.max_length] for part in (example.ids, example.labels))
            if set(labels) == {IGNORED}:
                continue
            values = (ids, [1] * len(ids), labels, len(ids), length > len(ids), row)
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
        return columns

    def _examples(
        self, rows: Columns, tokenizer: PreTrainedTokenizerBase
    ) -> list[tuple[int, str, Example]]:
        """The examples of rows, with the number of the row and its text."""
        numbers = rows["row"]
        held = [Conversation.of(rows, n, tokenizer, self.name) for n in range(len(numbers))]
        if self.train_on == "all":
            texts = [conversation.whole() for conversation in held]
            return [
                (number, text, Example(ids, [IGNORED, *ids[1:]]))
                for number, text, ids in zip(numbers, texts, read(texts, tokenizer), strict=True)
            ]
        special = [n for n, token in tokenizer.added_tokens_decoder.items() if token.special]
        turns = [list(conversation.turns()) for conversation in held]
        every = [turn for each in turns for turn in each]
        made = iter(examples(every, tokenizer, {*special, *self.ends(tokenizer)}))
        return [
            (number, each[-1].prompt, example)
            for number, each in zip(numbers, turns, strict=True)
            for example in joined([next(made) for _ in each])
        ]

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> Callable[[list[dict[str, Any]]], Mapping[str, Any]]:
        return partial(padded, tokenizer)

    def outputs(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: dict[str, Tensor]
    ) -> list[tuple[float, int]]:
        """For each example the negative log-likelihood of its answers, and their tokens' number."""
        return likelihoods(model, batch, shift=True)

    def records(self, rows: Dataset, features: Dataset, outputs: list[Any]) -> list[Record]:
        """A record for every example, not row: `nll`, in nats, of so many `tokens`."""
        return [{"nll": nll, "tokens": tokens} for nll, tokens in outputs]

    def constants(
        self, records: Sequence[Record], labels: Iterable[Sequence[int]]
    ) -> Iterator[list[Record]]:
        yield from by_frequency(records, labels)

    def prediction(self, record: Record) -> dict[str, Any]:
        """As `Task.prediction`: how likely the answers are, as their perplexity."""
        return scored(self.name, record)

    def score(self, records: Sequence[Record]) -> dict[str, float]:
        return {"perplexity": perplexity(self.name, records)}


def chat(
    data: Path | str,
    *,
    name: str = "chat",
    column: str | None = None,
    streaming: bool = False,
    form: Form = PLAIN,
    test: Path | None = None,
    asked: Rows = USUAL,
) -> Chat:
    """Make a task of the user's own conversations, which are read at once.

    Args:
        data: JSON lines, a JSON list or Parquet; a folder of such files; a saved set or one on the
            hub (see `own.own`). Without a dev part a tenth of the conversations becomes the dev
            set.
        name: The task's name.
        column: That of the lists of messages; by default `messages`, `conversations`, or `prompt`
            with `completion` or `response`.
        streaming: Whether training rows are read as they are needed; needs a dev part.
        form: How files are written, and whether rows that are no conversation are left out.
        test: A file for test; by default what the data has for it.
        asked: What else is asked of the rows; no origins, for examples have none.

    Raises:
        TaskError: The data is not there or cannot be read, or a row is no conversation.
    """
    splits: Splits = conversations.load(data, column, streaming, test, form=form, whole=asked.whole)
    return Chat(name, load=lambda _: splits)
