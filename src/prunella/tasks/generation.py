"""Text in, text out: data-to-text, summarization, translation and the like.

Rows have the columns `source` (a string) and `references` (a list of strings, at least one, each a
right answer). Encoder-decoder models (T5, BART) read the source and write the target; decoder-only
ones (GPT-2, Llama) read the source and a separator, and write on.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any, ClassVar

from datasets import Dataset, Features, List, Value
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from torch import Tensor
from torchmetrics.functional.text.rouge import rouge_score
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prunella.errors import Diverged, unknown
from prunella.regularizers import IGNORED
from prunella.tasks.base import (
    NOT_FINITE,
    USUAL,
    Columns,
    Reader,
    Record,
    Rows,
    Task,
    TaskError,
    is_decoder,
    positions,
)

ROW = Features(source=Value("string"), references=List(Value("string")))


@dataclass(frozen=True)
class Decoding:
    """How a model's answer is searched for: greedily or by beam search, always the same.

    Attributes:
        beams: kept in the search; 1 is greedy.
        max_new_tokens: of an answer, at most.
        length_penalty: above 1 for longer answers, below for shorter ones; needs beams.
        no_repeat_ngram: n-grams of that many tokens come once in an answer; 0 is no such rule.

    Raises:
        TaskError: a value makes no sense.
    """

    beams: int = 1
    max_new_tokens: int = 64
    length_penalty: float = 1.0
    no_repeat_ngram: int = 0

    def __post_init__(self) -> None:
        for name, least in (("beams", 1), ("max_new_tokens", 1), ("no_repeat_ngram", 0)):
            if getattr(self, name) < least:
                raise TaskError(
                    f"{name} is {getattr(self, name)}; give a whole number of at least {least}."
                )
        if not math.isfinite(self.length_penalty):
            raise TaskError(f"length_penalty is {self.length_penalty}; give a finite number.")
        if self.beams == 1 and self.length_penalty != 1.0:
            raise TaskError(
                f"length_penalty is {self.length_penalty}, and works on beams alone; give at least "
                "2 beams, or leave it at 1."
            )

    def settings(self) -> dict[str, Any]:
        """Arguments of `model.generate`, said in full, for a checkpoint brings settings of its own.

        What a model needs in order to write at all is left to it: the tokens that its output starts
        with, and those it may not write.
        """
        return {
            "do_sample": False,
            "num_beams": self.beams,
            "num_return_sequences": 1,
            "early_stopping": False,
            "length_penalty": self.length_penalty,
            "exponential_decay_length_penalty": None,
            "max_new_tokens": self.max_new_tokens,
            "max_length": None,
            "min_new_tokens": None,
            "min_length": 0,
            "forced_eos_token_id": None,
            "no_repeat_ngram_size": self.no_repeat_ngram,
            "encoder_no_repeat_ngram_size": 0,
            "repetition_penalty": 1.0,
            "encoder_repetition_penalty": 1.0,
            "remove_invalid_values": False,
            "use_cache": True,
            "return_dict_in_generate": False,
        }


@dataclass(frozen=True)
class Generation(Task):
    """A text for every row.

    Attributes:
        measures: Names among `bleu`, `chrf`, `rouge1`, `rouge2`, `rougeL`.
        prefix: Put before every source.
        separator: Put after every source, for decoder-only models.
        target_length: Tokens of a target to train on, the end-of-sequence token among them.
        decoding: How answers are searched for.
    """

    measures: tuple[str, ...]
    prefix: str = ""
    separator: str = "\n"
    target_length: int = 128
    decoding: Decoding = Decoding()

    auto = AutoModelForSeq2SeqLM  # of encoder-decoder models; see `architecture`
    length: ClassVar[int] = 256
    top: ClassVar[float] = 100.0
    inputs: ClassVar[tuple[str, ...]] = ("source",)

    def __post_init__(self) -> None:
        for name in self.measures:
            if name not in _METRICS:
                raise TaskError(f"{self.name}: {unknown('metric', name, _METRICS)}")

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.measures

    def architecture(self, config: PreTrainedConfig) -> Any:
        if type(config) in AutoModelForSeq2SeqLM._model_mapping:
            return AutoModelForSeq2SeqLM
        if not is_decoder(config):
            raise TaskError(
                f"{self.name}: generation with an encoder: models of the type {config.model_type} "
                "do not write text; give a decoder (such as GPT-2 or Llama) or an encoder-decoder "
                "(T5, BART)"
            )
        return AutoModelForCausalLM

    def features(self, rows: Columns, reader: Reader, *, training: bool) -> Columns:
        """Turn rows into model inputs: in training one a reference, otherwise one a row.

        What is too long is cut at its end: a target to `target_length`; a source to
        `reader.max_length` for an encoder, and for a decoder so that its sequence has that length
        with the target, or with room to write `decoding.max_new_tokens`.
        """
        places = list(range(len(rows["source"])))
        targets: list[list[int]] = [[] for _ in places]
        cut = [False for _ in places]
        if training:
            places = [place for place in places for _ in rows["references"][place]]
            texts = [text for references in rows["references"] for text in references]
            targets, cut = self._targets(texts, reader)
        sources = [self.prefix + rows["source"][place] for place in places]
        if reader.decoder_only:
            prompts, shortened = self._prompts(sources, targets, reader)
            inputs = [prompt + target for prompt, target in zip(prompts, targets, strict=True)]
            labels = [
                [IGNORED] * len(prompt) + target
                for prompt, target in zip(prompts, targets, strict=True)
            ]
        else:
            columns, shortened = reader.read(sources)
            inputs, labels = columns["input_ids"], targets
        return {
            "input_ids": inputs,
            "attention_mask": [[1] * len(ids) for ids in inputs],
            **({"labels": labels} if training else {}),
            "length": [len(ids) for ids in inputs],
            "cut": [any(parts) for parts in zip(cut, shortened, strict=True)],
            "row": [rows["row"][place] for place in places],
        }

    def ends(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        if tokenizer.eos_token_id is None:
            raise TaskError(
                f"{self.name}: the tokenizer has no end-of-sequence token, so that a model cannot "
                "learn where to stop; give a model that has one"
            )
        return [tokenizer.eos_token_id]

    def _targets(self, texts: list[str], reader: Reader) -> tuple[list[list[int]], list[bool]]:
        """The tokens to write for each text, up to end-of-sequence, and whether it was cut."""
        tokenizer = reader.tokenizer
        settings = {"add_special_tokens": not reader.decoder_only, "verbose": False}
        (eos,) = self.ends(tokenizer)
        end = [] if eos in tokenizer(text_target="", **settings)["input_ids"] else [eos]
        limit = self.target_length
        if reader.limit is not None and not reader.decoder_only:
            limit = min(limit, reader.limit)
        room = limit - len(end)
        targets = list(tokenizer(text_target=texts, **settings)["input_ids"])
        cut = [len(ids) > room for ids in targets]
        for number in (number for number, is_cut in enumerate(cut) if is_cut):
            if not reader.truncate:
                raise TaskError(
                    f"{self.name}: the target {texts[number][:60]!r} has "
                    f"{len(targets[number]) + len(end)} tokens, and {limit} are allowed; "
                    "give a higher --max-target-length, if the model has the positions, shorten "
                    "it, or let texts be cut (--truncate)"
                )
            limits = {"truncation": True, "max_length": room}
            targets[number] = tokenizer(text_target=texts[number], **settings, **limits).input_ids
        return [ids + end for ids in targets], cut

    def _prompts(
        self, sources: list[str], targets: list[list[int]], reader: Reader
    ) -> tuple[list[list[int]], list[bool]]:
        """What a decoder reads before each target, and whether the source was cut.

        The parts are tokenised one by one, so that no token spans what is read and what is written.
        """
        settings = {"add_special_tokens": False, "verbose": False}
        start = _start(reader.tokenizer)
        separator = reader.tokenizer(self.separator, **settings)["input_ids"]
        prompts, cut = [], []
        read = reader.tokenizer(sources, **settings)["input_ids"]
        for source, ids, target in zip(sources, read, targets, strict=True):
            written = len(target) or self.decoding.max_new_tokens
            room = reader.max_length - len(start) - len(separator) - written
            if room < 1:
                raise TaskError(
                    f"{self.name}: {written} tokens to write leave no room for a source among "
                    f"{reader.max_length}; give a higher --max-length, or less to write by "
                    "--max-target-length and --max-new-tokens"
                )
            if len(ids) > room and not reader.truncate:
                raise reader.too_long(source, reader.max_length - room + len(ids))
            prompts.append([*start, *ids[:room], *separator])
            cut.append(len(ids) > room)
        return prompts, cut

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> Callable[[list[dict[str, Any]]], Mapping[str, Any]]:
        collators = {}
        for side in ("left", "right"):
            padding = copy.copy(tokenizer)
            padding.padding_side = side
            collators[side] = DataCollatorForSeq2Seq(padding, model, label_pad_token_id=IGNORED)
        # A decoder writes on where its input ends; elsewhere positions count from the left.
        writing = "right" if model.config.is_encoder_decoder else "left"
        return partial(_collate, collators["right"], collators[writing])

    def outputs(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: dict[str, Tensor]
    ) -> list[Any]:
        """What the model writes, as text without special tokens and outer blanks."""
        given = 0 if model.config.is_encoder_decoder else batch["input_ids"].shape[1]
        settings = self.decoding.settings()
        limit = positions(model)
        if limit is not None:
            # Encoder-decoders write after a start token.
            settings["max_new_tokens"] = min(self.decoding.max_new_tokens, limit - (given or 1))
        if settings["max_new_tokens"] < 1:
            raise TaskError(
                f"{self.name}: an input of {given} tokens leaves no room to write in the model's "
                f"{limit} positions; give a lower --max-length"
            )
        writer: Any = model  # Transformers mixes `generate` in where types do not see it
        written = writer.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            logits_processor=LogitsProcessorList([_Finite()]),
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **settings,
        )
        texts = tokenizer.batch_decode(
            written[:, given:], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [text.strip() for text in texts]

    def records(self, rows: Dataset, features: Dataset, outputs: list[Any]) -> list[Record]:
        return [
            {"source": source, "prediction": text, "references": references}
            for source, text, references in zip(
                rows["source"], outputs, rows["references"], strict=True
            )
        ]

    def constants(
        self, records: Sequence[Record], labels: Iterable[Sequence[int]]
    ) -> Iterator[list[Record]]:
        yield [{**record, "prediction": ""} for record in records]

    def said(self, records: Sequence[Record]) -> tuple[set[str], set[str]]:
        return {repr(r["prediction"]) for r in records}, {repr(r["references"]) for r in records}

    def prediction(self, record: Record) -> dict[str, Any]:
        """As `Task.prediction`: the text that was written."""
        return {"prediction": record["prediction"]}

    def score(self, records: Sequence[Record]) -> dict[str, float]:
        """Score predictions, each against all references of its row, from 0 to 100.

        `bleu` and `chrf` are those of the corpus by sacreBLEU's defaults (Post 2018, "A Call for
        Clarity in Reporting BLEU Scores": 13a tokens, exponential smoothing; chrF2 of Popović
        2015); the others the means over rows of ROUGE's F1 (Lin 2004) against the nearest
        reference, by torchmetrics, on lower-case ASCII letters and digits and without stemming.
        """
        if not records:
            raise TaskError(f"{self.name}: no rows to evaluate; give at least one.")
        predictions = [record["prediction"] for record in records]
        references = [record["references"] for record in records]
        return {name: _METRICS[name](predictions, references) for name in self.measures}


def grouped(
    pairs: Iterable[tuple[str, str]], places: Iterable[str] = (), asked: Rows = USUAL
) -> Dataset:
    """Rows of sources and targets: a source that comes several times is one row.

    So it is generated for once, against all its references, and a cut by rows parts no source.

    Args:
        places: where each pair is, as errors name it; a row is where its source comes first.
        asked: what else is asked of the rows.
    """
    references: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    for (source, target), place in zip_longest(pairs, places):
        references.setdefault(source, []).append(target)
        first.setdefault(source, place)
    rows = {"source": list(references), "references": list(references.values())}
    return Dataset.from_dict(rows | asked.column(first.values()), features=asked.features(ROW))


def _start(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens before a text: one of Llama and OPT, none of GPT-2."""
    read = tokenizer("a", return_special_tokens_mask=True)
    special = read["special_tokens_mask"]
    return read["input_ids"][: special.index(0)]


def _collate(
    train: DataCollatorForSeq2Seq, write: DataCollatorForSeq2Seq, features: list[dict[str, Any]]
) -> dict[str, Any]:
    batch = (train if "labels" in features[0] else write)(features)
    return {name: values for name, values in batch.items() if values is not None}


class _Finite(LogitsProcessor):
    """Stops a search among numbers that are none; minus infinity is a token ruled out."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not bool((scores < math.inf).all()):
            raise Diverged(NOT_FINITE)
        return scores


def _sacrebleu(metric: BLEU | CHRF, predictions: list[str], references: list[list[str]]) -> float:
    # It takes the first reference of each row, the second of each, …; None where a row has fewer.
    streams: list[Any] = list(zip_longest(*references))
    return float(metric.corpus_score(predictions, streams).score)


def _rouge(key: str, predictions: list[str], references: list[list[str]]) -> float:
    return 100 * float(rouge_score(predictions, references, rouge_keys=key)[f"{key}_fmeasure"])


_METRICS: dict[str, Callable[[list[str], list[list[str]]], float]] = {
    "bleu": partial(_sacrebleu, BLEU(force=True)),  # else it warns of predictions in tokens
    "chrf": partial(_sacrebleu, CHRF()),
    **{key: partial(_rouge, key) for key in ("rouge1", "rouge2", "rougeL")},
}
