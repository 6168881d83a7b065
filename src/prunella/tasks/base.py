"""What a task is: rows of text, the way to model inputs and back, and a metric.

A task family is a subclass of `Task`; a task is an object of it. Everything between the two files
of a run goes through five methods, in this order::

    load      files or hub   -> rows           (text, as people have it)
    features  rows           -> model inputs   (token ids; one row may make several, or share one)
    outputs   a batch        -> what the model says of each of its inputs
    records   rows, outputs  -> a record a row (what it says of each row, beside what is right)
    score     records        -> metrics

Records are plain JSON: `predictions.jsonl` holds them, and metrics can be had from it anew.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset, Features, IterableDataset, Value
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from prunella.errors import Diverged, UsageError

Columns = dict[str, list[Any]]
Record = dict[str, Any]

# The column of rows that says where each is: a file, and the line there by which errors name it (of
# formats without lines, the number of the row). It is no part of what a row says.
ORIGIN = "origin"
ORIGINS = {"file": Value("string"), "line": Value("int64")}
_PLACE = re.compile(r"(.+?)(?::|, (?:\S+ )?row )(\d+)", re.DOTALL)


def origin(place: str) -> dict[str, Any]:
    """Where a row is, of the words by which an error names it.

    >>> origin("a: b.csv:12"), origin("rows.parquet, row 3")
    ({'file': 'a: b.csv', 'line': 12}, {'file': 'rows.parquet', 'line': 3})
    """
    found = _PLACE.fullmatch(place)
    return {"file": found[1], "line": int(found[2])} if found else {"file": place, "line": None}


class TaskError(UsageError):
    """A bad task or bad data (a `ValueError`); says the value, the rule and the remedy."""


@dataclass(frozen=True)
class Splits:
    """The labelled parts of a task, as rows; which columns they have, the family says.

    `train` may be a stream. `dev` has the key `dev`; MNLI adds `dev_mismatched`. `test` is None
    where there is none with labels.
    """

    train: Dataset | IterableDataset
    dev: dict[str, Dataset]
    test: Dataset | None = None


@dataclass(frozen=True)
class Rows:
    """What is asked of rows of one's own, besides where they are.

    Attributes:
        classes: their names in the order of their indices, where they are known before.
        whole: whether nothing is trained on, so that all rows of a single file are dev.
        origins: whether rows say where they are, in the column `ORIGIN`.
    """

    classes: tuple[str, ...] | None = None
    whole: bool = False
    origins: bool = False

    def column(self, places: Iterable[str]) -> Columns:
        """The column `ORIGIN`, or none."""
        return {ORIGIN: [origin(place) for place in places]} if self.origins else {}

    def features(self, others: Mapping[str, Any]) -> Features:
        """Of rows with other columns and maybe `ORIGIN`."""
        return Features(**others, **({ORIGIN: ORIGINS} if self.origins else {}))


USUAL = Rows()


@dataclass(frozen=True)
class Reader:
    """How texts become tokens, for one model.

    Attributes:
        tokenizer: the model's.
        max_length: tokens of an input, at most.
        truncate: whether longer texts are cut; otherwise they are an error.
        decoder_only: whether the model predicts each token from those before it (GPT-2, Llama).
        limit: tokens that the model has positions for; None where they are relative.
        seed: of what is random in it.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    truncate: bool = True
    decoder_only: bool = False
    limit: int | None = None
    seed: int = 0

    def read(self, *texts: Sequence[str], **settings: Any) -> tuple[Columns, list[bool]]:
        """Tokenise texts, or pairs of texts, cutting what is longer than `max_length`.

        Args:
            *texts: one or two lists.
            **settings: of the tokenizer's call, besides.

        Returns:
            The tokenizer's columns, and for each text whether it was cut.

        Raises:
            TaskError: a text is longer, and `truncate` is off; quotes its beginning.
        """
        read = self.tokenizer(*texts, **settings, verbose=False)
        cut = [len(ids) > self.max_length for ids in read["input_ids"]]
        columns = {name: list(values) for name, values in read.items()}
        for number in (number for number, is_cut in enumerate(cut) if is_cut):
            if not self.truncate:
                raise self.too_long(texts[0][number], len(columns["input_ids"][number]))
            one = [[part[number]] for part in texts]
            limits = {"truncation": True, "max_length": self.max_length}
            for name, values in self.tokenizer(*one, **settings, **limits).items():
                columns[name][number] = values[0]
        return columns, cut

    def too_long(self, text: str, length: int) -> TaskError:
        """The error for a text that would have to be cut."""
        return TaskError(
            f"the text {text[:60]!r} has {length} tokens, and {self.max_length} are allowed; "
            "give a higher --max-length, shorten it, or let texts be cut (--truncate)"
        )


@dataclass(frozen=True)
class Task(ABC):
    """One fine-tuning task; a subclass is a family of them.

    Attributes:
        name: What `--task` calls it.
        load: Reads the data: from a folder or file, or with None from the task's own source. Raises
            `TaskError` if it cannot.
        auto: Transformers' `AutoModelFor…` of the models that do it.
        length: Tokens of an input, unless the user says otherwise.
        minimize: Whether the headline metric is better when lower.
        top: The value that no metric exceeds, which is what 100 % is; infinite if there is none.
        apart: The column of the rows of which no value is to be both in train and in the holdout.
        texts: The columns of the rows that hold text; None for all that hold strings.
        inputs: The columns of the rows that a model reads.
        ordered: Whether a row goes on from the one before, so that parts are cut off at the end.
        by_row: Whether records are of rows; otherwise of blocks, or examples, of several or parts.
        lacking: What a row may lack, and is then left out; None where none is.
        pads: Whether batches are padded with a token of the tokenizer's.
        classes: The class names in the order of their indices, for tasks that have a fixed set.
        numeric: Whether it is a regression.
    """

    name: str
    load: Callable[[Path | None], Splits] = field(repr=False)

    auto: ClassVar[Any]
    length: ClassVar[int] = 128
    minimize: ClassVar[bool] = False
    top: ClassVar[float] = 1.0
    apart: ClassVar[str | None] = None
    texts: ClassVar[tuple[str, ...] | None] = None
    inputs: ClassVar[tuple[str, ...]] = ()
    ordered: ClassVar[bool] = False
    by_row: ClassVar[bool] = True
    lacking: ClassVar[str | None] = None
    pads: ClassVar[bool] = True

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics; the first is the headline, by which choices are made."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        return None

    @property
    def numeric(self) -> bool:
        return False

    def architecture(self, config: PreTrainedConfig) -> Any:
        """The `AutoModelFor…` to load a model of this config with.

        Raises:
            TaskError: models of its kind cannot do the task.
        """
        if type(config) not in self.auto._model_mapping and self.auto.__name__ not in own(config):
            raise TaskError(
                f"{self.name}: Transformers has no {self.auto.__name__} of the type "
                f"{config.model_type}; give a model that has one, or another task"
            )
        return self.auto

    def about(self) -> dict[str, Any]:
        """Its settings, as JSON has them."""
        return {name: value for name, value in asdict(self).items() if name != "load"}

    def aim(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """What a run says of the task before it begins, where its name does not; else nothing."""
        return ""

    def ends(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """The tokens by which a model learns to end what it writes; none where it writes nothing.

        Raises:
            TaskError: the tokenizer lacks what the task needs.
        """
        return []

    def head(self) -> dict[str, Any]:
        """Settings of the model's config that the task's head needs."""
        return {}

    @abstractmethod
    def features(self, rows: Columns, reader: Reader, *, training: bool) -> Columns:
        """Turn some rows into model inputs.

        Args:
            rows: The columns of the rows, and `row`: their numbers in the split.
            reader: How texts become tokens.
            training: Whether they are to be trained on; otherwise the model is to say something of
                them, and targets are not needed.

        Returns:
            The model's inputs, as lists that are not padded; `labels` or the like where they are
            trained on; `length`, the number of tokens; `cut`, whether text was cut off; `row`, the
            number of the row each belongs to. The first three have a number of entries that may
            differ from that of the rows.
        """

    @abstractmethod
    def collator(
        self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> Callable[[list[dict[str, Any]]], Mapping[str, Any]]:
        """What makes a padded batch of tensors from features, with or without labels."""

    @abstractmethod
    def outputs(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: dict[str, Tensor]
    ) -> list[Any]:
        """What the model says of each input of a batch, on the CPU and without padding.

        Raises:
            Diverged: it is not finite.
        """

    @abstractmethod
    def records(self, rows: Dataset, features: Dataset, outputs: list[Any]) -> list[Record]:
        """A record for every row, in order: what the model says of it, beside what is right.

        Args:
            rows: A whole split.
            features: What `features` made of it, in order, in evaluation.
            outputs: Of `features`, in the same order.
        """

    @abstractmethod
    def prediction(self, record: Record) -> dict[str, Any]:
        """What the model says of a row, without what is right: `prediction`, as people call it,
        and its probabilities or scores, where these are defined."""

    @abstractmethod
    def score(self, records: Sequence[Record]) -> dict[str, float]:
        """The metrics of some records, by name, in the order of `metrics`; never NaN.

        Raises:
            TaskError: There are no records.
        """

    def by_class(self, records: Sequence[Record]) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and support of each class of some records, by name.

        Of none where rows have no classes.
        """
        return {}

    def constants(
        self, records: Sequence[Record], labels: Iterable[Sequence[int]]
    ) -> Iterator[list[Record]]:
        """Records as they would be of answers that look at nothing, such as one class for all.

        What is no better has learned nothing. By default none is known.

        Args:
            records: Of a model, for what is right.
            labels: Of a split's features, where they have such.
        """
        yield from ()

    def said(self, records: Sequence[Record]) -> tuple[set[str], set[str]]:
        """The different answers in records, and those that are right; empty if there is no such."""
        return set(), set()


def class_names(labels: Sequence[str]) -> dict[str, Any]:
    """Settings of a model's config that name its classes, in the order of their indices."""
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


# Models that Transformers lists as causal, besides encoders: they see later tokens, too, or need
# more than text, or their loss is not that of the next token.
_NOT_CAUSAL = (
    "bert-generation",
    "cpmant",
    "gemma4_assistant",
    "gemma4_unified_assistant",
    "git",
    "trocr",
    "xlm",
    "xlnet",
)


def own(config: PreTrainedConfig) -> Mapping[str, Any]:
    """The classes that come with a checkpoint as code, by the `AutoModelFor…` that loads them."""
    return getattr(config, "auto_map", None) or {}


def is_decoder(config: PreTrainedConfig) -> bool:
    """Whether models of a config were made to predict each token from those before it alone.

    Encoders such as BERT have a class for causal language models, too, but have not learned to be
    one.
    """
    kind = config.model_type
    if config.is_encoder_decoder or kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return False
    if "AutoModelForCausalLM" in own(config) and "AutoModelForMaskedLM" not in own(config):
        return True
    others = (*MODEL_FOR_MASKED_LM_MAPPING_NAMES, *_NOT_CAUSAL)
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in others


def positions(model: PreTrainedModel) -> int | None:
    """Tokens that a model has positions for; None where these are relative and have no end."""
    config = model.config.get_text_config(decoder=True)  # itself, unless it is made of several
    found: int | None = getattr(config, "max_position_embeddings", None)
    if found is None or found < 1:
        return None
    for module in model.modules():
        # RoBERTa's kin count positions from the one of padding on.
        if isinstance(module, nn.Embedding) and module.num_embeddings == found:
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            return found - first
    return found


NOT_FINITE = "the model's outputs hold NaN or infinite values; a lower learning rate may help"


def finite(logits: Tensor) -> Tensor:
    """A model's outputs, as float32 on the CPU.

    Raises:
        Diverged: one is NaN or infinite.
    """
    values = logits.detach().float().cpu()
    if not torch.isfinite(values).all():
        raise Diverged(NOT_FINITE)
    return values
