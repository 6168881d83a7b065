"""Answers that are spans of a context, which may be too long to be read at once.

Sources: Rajpurkar et al. 2016 (https://arxiv.org/abs/1606.05250) and 2018
(https://arxiv.org/abs/1806.03822), whose evaluation scripts say what the metrics are; and Devlin et
al. 2019 (https://arxiv.org/abs/1810.04805, 4.2 and 4.3) for how a span is found, or none.

Rows have the columns `id`, `question`, `context` and `answers`: the lists `text` and `answer_start`
(in characters).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    AutoModelForQuestionAnswering,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prunella.tasks.base import Columns, Reader, Record, Task, TaskError, finite


@dataclass(frozen=True)
class Extraction(Task):
    """The span of a context that answers a question.

    A context longer than the room beside its question is read in windows. The first answer of a row
    is trained on; a window that does not hold all of it has its null position as the target: that
    of the CLS token, or 0 where there is none. The question and the special tokens may take half of
    a window; a question is cut to fit.

    A record has the columns `id`, `prediction` (a piece of the context without blanks around it, or
    ""), `answers` (the texts that are right), `score` (the sum of the span's two logits; None if no
    token of the context was read) and, where questions may be impossible, `no_answer`: by how much
    the null position beats the span (None likewise).

    Attributes:
        impossible: Whether there are questions without an answer.
        stride: Tokens of the context that two windows share; never more than a third of a window.
        max_answer: Tokens of a predicted answer, at most.
        threshold: The prediction is "" where `no_answer` is greater.
    """

    impossible: bool = False
    stride: int = 128
    max_answer: int = 30
    threshold: float = 0.0

    auto = AutoModelForQuestionAnswering
    length: ClassVar[int] = 384
    apart: ClassVar[str | None] = "context"
    texts: ClassVar[tuple[str, ...] | None] = ("question", "context")
    inputs: ClassVar[tuple[str, ...]] = ("question", "context")

    @property
    def metrics(self) -> tuple[str, ...]:
        metrics = ("f1", "exact_match")
        return (*metrics, "has_answer_f1", "no_answer_f1") if self.impossible else metrics

    def head(self) -> dict[str, Any]:
        return {"num_labels": 2}  # of starts and of ends, whatever the checkpoint was for

    def features(self, rows: Columns, reader: Reader, *, training: bool) -> Columns:
        """As `Task.features`, with an entry for every window.

        Returns:
            Besides what every task returns, in training `start_positions` and `end_positions`: the
            first and the last token of the answer. Otherwise `null_index`, the null position, and
            `offsets`: for every token its characters [start, end) in the context, or [-1, -1] if it
            is none of the context's.

        Raises:
            TaskError: The tokenizer does not tell where its tokens are, windows are too short, or a
                question would have to be cut and `reader.truncate` is off.
        """
        questions, cut = _fit(rows["question"], reader)
        columns, parents = self._windows(questions, rows["context"], reader)
        columns |= {
            "length": [len(ids) for ids in columns["input_ids"]],
            "cut": [cut[parent] for parent in parents],
            "row": [rows["row"][parent] for parent in parents],
        }
        if not training:
            return columns
        targets = [
            _target(rows["answers"][parent], offsets, null)
            for parent, offsets, null in zip(
                parents, columns.pop("offsets"), columns.pop("null_index"), strict=True
            )
        ]
        starts, ends = map(list, zip(*targets, strict=True))
        return columns | {"start_positions": starts, "end_positions": ends}

    def _windows(
        self, questions: list[str], contexts: list[str], reader: Reader
    ) -> tuple[Columns, list[int]]:
        """The windows' tokens, `offsets` and `null_index`; and of which text each is."""
        tokenizer = reader.tokenizer
        # XLNet, which pads on the left, was trained to read the context first. A decoder must not:
        # it would read it without knowing the question.
        place = 0 if tokenizer.padding_side == "left" and not reader.decoder_only else 1
        read = tokenizer(
            *((contexts, questions) if place == 0 else (questions, contexts)),
            truncation="only_first" if place == 0 else "only_second",
            max_length=reader.max_length,
            stride=min(self.stride, reader.max_length // 3),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        columns: Columns = dict(read)
        parents, spans = columns.pop("overflow_to_sample_mapping"), columns.pop("offset_mapping")
        sources = [read.sequence_ids(number) for number in range(len(parents))]
        columns["offsets"] = [
            [pair if source == place else (-1, -1) for pair, source in zip(*window, strict=True)]
            for window in zip(spans, sources, strict=True)
        ]
        columns["null_index"] = [
            _null_index(ids, source, tokenizer.cls_token_id)
            for ids, source in zip(columns["input_ids"], sources, strict=True)
        ]
        return columns, parents

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> Callable[[list[dict[str, Any]]], Mapping[str, Any]]:
        return partial(_collate, DataCollatorWithPadding(tokenizer))

    def outputs(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: dict[str, Tensor]
    ) -> list[Any]:
        """As `Task.outputs`: for every window an array `(2, length)`, logits of start and end."""
        said = model(**batch)
        # FNet takes no mask.
        mask = batch.get("attention_mask", batch["input_ids"] != tokenizer.pad_token_id).bool()
        logits = torch.stack((said.start_logits, said.end_logits), dim=1)
        logits = finite(logits.masked_fill(~mask[:, None], 0.0))
        return [window[:, kept].numpy() for window, kept in zip(logits, mask.cpu(), strict=True)]

    def records(self, rows: Dataset, features: Dataset, outputs: list[Any]) -> list[Record]:
        scores, nulls = np.full(len(rows), -np.inf), np.full(len(rows), np.inf)
        spans = np.zeros((len(rows), 2), dtype=int)
        columns = (features[name] for name in ("row", "offsets", "null_index"))
        for row, offsets, null, logits in zip(*columns, outputs, strict=True):
            chars = np.array(offsets)
            # What is not of the context has no extent, nor have tokens that a tokenizer adds to it.
            score, first, last = best_span(logits, chars[:, 0] < chars[:, 1], self.max_answer)
            if score > scores[row]:
                scores[row], spans[row] = score, (chars[first, 0], chars[last, 1])
            nulls[row] = min(nulls[row], logits[:, null].sum())
        return [
            self._record(row, span, float(score), float(null))
            for row, span, score, null in zip(rows, spans.tolist(), scores, nulls, strict=True)
        ]

    def _record(self, row: Mapping[str, Any], span: list[int], score: float, null: float) -> Record:
        found, (start, end) = score > -np.inf, span
        record = {
            "id": row["id"],
            "prediction": row["context"][start:end].strip(),
            "answers": row["answers"]["text"],
            "score": score if found else None,
        }
        if self.impossible:
            record["no_answer"] = null - score if found else None
            if null - score > self.threshold:
                record["prediction"] = ""
        return record

    def constants(
        self, records: Sequence[Record], labels: Iterable[Sequence[int]]
    ) -> Iterator[list[Record]]:
        yield [{**record, "prediction": ""} for record in records]

    def said(self, records: Sequence[Record]) -> tuple[set[str], set[str]]:
        return {repr(r["prediction"]) for r in records}, {repr(r["answers"]) for r in records}

    def prediction(self, record: Record) -> dict[str, Any]:
        """As `Task.prediction`: the answer, its logits' sum and, where there may be none, by how
        much that beats it."""
        names = ("id", "prediction", "score", "no_answer")
        return {name: record[name] for name in names if name in record}

    def score(self, records: Sequence[Record]) -> dict[str, float]:
        """As `Task.score`, in fractions of 1; 0.0 for the kind of question that is not there."""
        if not records:
            raise TaskError(f"{self.name}: no rows to evaluate; give at least one.")
        grades = np.array([self._grade(record) for record in records])
        values = grades.mean(axis=0).tolist()
        if self.impossible:
            answerable = np.array([bool(record["answers"]) for record in records])
            for kind in (answerable, ~answerable):
                values.append(float(grades[kind, 0].mean()) if kind.any() else 0.0)
        return dict(zip(self.metrics, values, strict=True))

    def _grade(self, record: Record) -> tuple[float, float]:
        """F1 and exact match of a prediction, with the answer that is best for each.

        As the scripts have it: an answer that is nothing but an article is no answer in 2.0; in 1.1
        it is one, which can be matched exactly but has an F1 of 0.
        """
        predicted = words(record["prediction"])
        answers = [words(text) for text in record["answers"]]
        if self.impossible:
            answers = [answer for answer in answers if answer]
            if not answers:
                return float(not predicted), float(not predicted)
        return (
            max(_f1(predicted, answer) for answer in answers),
            max(float(predicted == answer) for answer in answers),
        )


def best_span(logits: np.ndarray, inside: np.ndarray, longest: int) -> tuple[float, int, int]:
    """The span of tokens with the greatest sum of its start's and its end's logit.

    Args:
        logits: `(2, n)`, of start and end.
        inside: `(n,)`, whether a span may start and end at the token.
        longest: tokens of a span, at most.

    Returns:
        The sum, -inf if there is no span, and the numbers of the first and of the last token.
    """
    start, end = np.where(inside, logits, -np.inf)
    end = np.pad(end, (0, longest - 1), constant_values=-np.inf)
    # (n, longest): by the first token, and by how many more there are
    sums = start[:, None] + np.lib.stride_tricks.sliding_window_view(end, longest)
    first, more = map(int, np.unravel_index(sums.argmax(), sums.shape))
    return float(sums[first, more]), first, first + more


_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def words(text: str) -> list[str]:
    """The words by which SQuAD compares answers.

    >>> words("The U.S., a nation")
    ['us', 'nation']
    """
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _f1(predicted: list[str], answer: list[str]) -> float:
    same = (Counter(predicted) & Counter(answer)).total()
    return 2 * same / max(len(predicted) + len(answer), 1)


def _fit(questions: list[str], reader: Reader) -> tuple[list[str], list[bool]]:
    """The questions, cut so that half a window is left for the context; and whether each was."""
    tokenizer = reader.tokenizer
    if not tokenizer.is_fast:
        raise TaskError(
            f"{type(tokenizer).__name__} does not tell where in a text its tokens are; give a "
            "model with a fast tokenizer (a tokenizer.json)"
        )
    room = reader.max_length // 2 - tokenizer.num_special_tokens_to_add(pair=True)
    if room < 1:
        raise TaskError(
            f"--max-length {reader.max_length} leaves no room for a question; give a higher one"
        )
    # Blanks, of which some questions have thousands, are tokens to some tokenizers.
    fitted, cut = [question.strip() for question in questions], []
    read = tokenizer(fitted, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    for number, (question, chars) in enumerate(zip(fitted, read["offset_mapping"], strict=True)):
        cut.append(len(chars) > room)
        if cut[-1] and not reader.truncate:
            raise TaskError(
                f"the question {question[:60]!r} has {len(chars)} tokens, and {room} are allowed, "
                "so that half a window is left for the context; give a higher --max-length, "
                "shorten it, or let texts be cut (--truncate)"
            )
        if cut[-1]:
            fitted[number] = question[: chars[room][0]].rstrip()
    return fitted, cut


def _null_index(ids: list[int], sources: list[int | None], cls: int | None) -> int:
    """The position that means no answer. A text may spell the CLS token, too: it has a source."""
    tokens = enumerate(zip(ids, sources, strict=True))
    return next((place for place, token in tokens if token == (cls, None)), 0)


def _target(
    answers: dict[str, list[Any]], offsets: list[tuple[int, int]], null: int
) -> tuple[int, int]:
    """The first and the last token of the first answer, or else the null position twice."""
    context = [place for place, (start, _) in enumerate(offsets) if start >= 0]
    if not answers["text"] or not context:
        return null, null
    text, start = answers["text"][0], answers["answer_start"][0]
    end = start + len(text.rstrip())
    start += len(text) - len(text.lstrip())
    if offsets[context[0]][0] > start or offsets[context[-1]][1] < end:
        return null, null
    first = next(place for place in context if offsets[place][1] > start)
    last = next(place for place in reversed(context) if offsets[place][0] < end)
    return (first, last) if first <= last else (null, null)  # a tokenizer may drop characters


def _collate(pad: DataCollatorWithPadding, features: list[dict[str, Any]]) -> Mapping[str, Any]:
    """Pad, and move targets along with the tokens."""
    batch = pad(features)
    if pad.tokenizer.padding_side == "left":
        width = batch["input_ids"].shape[1]
        shift = torch.tensor([width - len(feature["input_ids"]) for feature in features])
        for name in {"start_positions", "end_positions"} & batch.keys():
            batch[name] += shift
    return batch
