"""Language modelling: predict each next token of running text, or tokens that are masked in it.

Rows have the column `text`. Texts that are read together are joined, each ended by the token that
ends a document (`eos_token`, else `sep_token`, if the tokenizer has one), and cut into blocks of
the input's length; so nothing of a text is lost, and little is padded. Around a block stand the
tokens that the tokenizer puts around a text: `[CLS]` and `[SEP]` for BERT, `<s>` before it for
Llama, none for GPT-2.

The last tokens read together make a shorter block. What has nothing to predict is left out: a
block of special tokens only or, for the causal task, of a single token.
"""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from datasets import Dataset
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from prunella.regularizers import IGNORED
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
from prunella.tasks.holdout import with_dev
from prunella.tasks.likelihood import (
    by_frequency,
    check_decoder,
    likelihoods,
    padded,
    perplexity,
    scored,
)
from prunella.tasks.own import TEXTS, Source, is_plain, named_test, own
from prunella.tasks.parts import labelled
from prunella.tasks.reading import READERS
from prunella.tasks.rejects import Rejects
from prunella.tasks.sources import from_hub
from prunella.tasks.streaming import no_text, streamed

HUB_SET = ("Salesforce/wikitext", "wikitext-2-raw-v1")
FILES = "WikiText-2's files, or take texts of your own,"

MASK_RATE, MASKED, CHANGED = 0.15, 0.8, 0.1

logger = logging.getLogger("prunella")


@dataclass(frozen=True)
class Language(Task):
    """Predict the tokens of running text, scored by perplexity.

    Perplexity is e to the mean negative log-likelihood of a token; of all tokens in the causal task
    (the pseudo-perplexity of a fixed 15 % in the masked one). It is that of the tokenizer's tokens
    and of the block length: compare models of one vocabulary only, at one `max_length`.

    Without a stride, tokens early in a block are predicted from little context, and the first from
    none, so that it is not scored (unless the tokenizer puts a token before it).

    Attributes:
        masked: Whether masked tokens are predicted, from both sides, or each token from those
            before it.
        stride: Tokens that a block repeats of the one before (causal only). They are context there,
            not targets, so that every token is predicted once, from at least as many others.
    """

    masked: bool
    stride: int = 0

    length = 256
    minimize = True
    top = math.inf
    ordered = True
    pads = False
    by_row = False
    inputs: ClassVar[tuple[str, ...]] = ("text",)

    def __post_init__(self) -> None:
        if self.stride < 0 or (self.masked and self.stride):
            raise TaskError(
                f"{self.name}: a stride of {self.stride} cannot be; it is 0 or more tokens, and "
                "lm/masked, which reads both ways, has none: leave --stride out"
            )

    @property
    def auto(self) -> Any:
        return AutoModelForMaskedLM if self.masked else AutoModelForCausalLM

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("perplexity",)

    def aim(self, tokenizer: PreTrainedTokenizerBase) -> str:
        bare = tokenizer.eos_token_id is None and tokenizer.sep_token_id is None
        return "texts are joined as they are: no token of the tokenizer ends one" if bare else ""

    def architecture(self, config: PreTrainedConfig) -> Any:
        kind = config.model_type
        if config.is_encoder_decoder or kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
            example = "an encoder such as BERT" if self.masked else "a decoder such as GPT-2"
            raise TaskError(
                f"{self.name}: {kind} models are encoder-decoders, which write one text from "
                f"another; give {example}"
            )
        if not self.masked:
            check_decoder(self.name, config)
        if self.masked and getattr(config, "is_decoder", False):
            raise TaskError(
                f"{self.name}: this {kind} model reads from left to right (is_decoder in its "
                "config.json), where masked tokens need both sides; give an encoder"
            )
        return super().architecture(config)

    def features(self, rows: Columns, reader: Reader, *, training: bool) -> Columns:
        """Cut the joined texts of these rows into blocks; see `Task.features`.

        Causal blocks have `labels`, for the model to shift. Masked ones have them in evaluation,
        with masks that depend on `reader.seed` and the rows only; in training the collator masks.

        Raises:
            TaskError: A block has no room for text, or the tokenizer has no mask token.
        """
        blocks = list(self._blocks(rows, reader, training))
        columns: Columns = {
            "input_ids": [ids for ids, _, _ in blocks],
            "attention_mask": [[1] * len(ids) for ids, _, _ in blocks],
            "length": [len(ids) for ids, _, _ in blocks],
            "cut": [False] * len(blocks),
            "row": [row for _, _, row in blocks],
        }
        if not (self.masked and training):
            columns["labels"] = [labels for _, labels, _ in blocks]
        return columns

    def _blocks(
        self, rows: Columns, reader: Reader, training: bool
    ) -> Iterator[tuple[list[int], list[int], int]]:
        """The tokens of each block, its labels, and the row of its first token."""
        tokenizer, (before, after) = reader.tokenizer, self._around(reader)
        special = set(tokenizer.all_special_ids)
        ids, owners = _joined(rows, tokenizer)
        width = reader.max_length - len(before) - len(after)
        starts = range(0, max(len(ids) - self.stride, 1), width - self.stride)
        for number, start in enumerate(starts):
            block = [*before, *ids[start : start + width], *after]
            # Nothing is predicted from nothing, so that the first token is no target.
            context = max(1, len(before) + (self.stride if start else 0))
            labels = [IGNORED] * context + block[context:]
            if self.masked:
                labels = [IGNORED if token in special else token for token in block]
            if set(labels) == {IGNORED}:
                continue
            if self.masked and not training:
                rng = np.random.default_rng((reader.seed, rows["row"][0], number))
                block, labels = _mask(block, tokenizer, rng)
            yield block, labels, owners[start]

    def _around(self, reader: Reader) -> tuple[list[int], list[int]]:
        """The special tokens before and after a block, once there is room for text beside them."""
        tokenizer = reader.tokenizer
        if self.masked and tokenizer.mask_token_id is None:
            raise TaskError(
                f"{self.name}: the tokenizer has no mask token, with which the task hides what is "
                "to be predicted; give a model that was trained with one, or use lm/causal"
            )
        read = tokenizer("a", return_special_tokens_mask=True)
        ids, special = read["input_ids"], read["special_tokens_mask"]
        text = [place for place, is_special in enumerate(special) if not is_special] or [len(ids)]
        # Nothing comes after a causal block: it may end within a text.
        before, after = ids[: text[0]], ids[text[-1] + 1 :] if self.masked else []
        least = max(2, len(before) + len(after) + self.stride + 1)
        if reader.max_length < least:
            raise TaskError(
                f"{self.name}: blocks of {reader.max_length} tokens have no room for new text "
                f"beside {len(before) + len(after)} special tokens and a stride of {self.stride}; "
                f"give a --max-length of at least {least}"
            )
        return before, after

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> Callable[[list[dict[str, Any]]], Mapping[str, Any]]:
        """See `Task.collator`. Blocks without `labels` are masked anew in every batch.

        The masks depend on the tokens of the batch only, so that they are the same for a run that
        is resumed, and others in an epoch that makes up its batches in another way.
        """
        return partial(_collate, tokenizer)

    def outputs(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: dict[str, Tensor]
    ) -> list[tuple[float, int]]:
        """For each block the negative log-likelihood of its targets, in nats, and their number."""
        return likelihoods(model, batch, shift=not self.masked)

    def records(self, rows: Dataset, features: Dataset, outputs: list[Any]) -> list[Record]:
        """A record for every block, not row: `nll`, in nats, of so many `tokens`."""
        return [{"nll": nll, "tokens": tokens} for nll, tokens in outputs]

    def constants(
        self, records: Sequence[Record], labels: Iterable[Sequence[int]]
    ) -> Iterator[list[Record]]:
        yield from by_frequency(records, labels)

    def prediction(self, record: Record) -> dict[str, Any]:
        """As `Task.prediction`: how likely the text is, as its perplexity."""
        return scored(self.name, record)

    def score(self, records: Sequence[Record]) -> dict[str, float]:
        """The perplexity, at most e^700, for JSON knows no infinity; see `Task.score`."""
        return {"perplexity": perplexity(self.name, records)}


def language(
    name: Literal["lm/causal", "lm/masked"],
    data: Path | str | None,
    *,
    column: str = "text",
    stride: int = 0,
    streaming: bool = False,
    form: Form = PLAIN,
    test: Path | None = None,
    asked: Rows = USUAL,
) -> Language:
    """Make a task of running text, which is read when the task's `load` is called.

    Args:
        name: The task's name.
        data: Where `load` reads if it is given no other place. A text file (.txt, .md, .tokens,
            .raw), of which every line that is not blank is a text; a table; a folder of files for
            train, dev and test of these kinds, WikiText's `wiki.train.tokens` and the like among
            them; a saved set or one on the hub (see `own.own`); None for WikiText-2 (raw) from the
            hub.
            Without a dev file the last tenth of the texts becomes the dev set: of running text, a
            random tenth would have its neighbours in train.
        column: The column of a table that holds the texts; rows without one are left out.
        stride: See `Language`.
        streaming: Whether training texts are read as they are needed; needs a dev file.
        form: How files are written.
        test: A file for test, instead of what the data has.
        asked: What else is asked of the rows; no classes and no origins, for blocks have none.

    Raises:
        TaskError: The stride is negative, or is given for `lm/masked`; `load` raises it where the
            text is not there or cannot be read.
    """
    masked = name == "lm/masked"
    where = None if data is None else Path(data)
    load = partial(_load, name, where, column, streaming, form, test, asked.whole)
    return Language(name, load=load, masked=masked, stride=stride)


def _joined(rows: Columns, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The tokens of the texts, one after another, and for each the number of its row."""
    end = tokenizer.eos_token_id
    end = tokenizer.sep_token_id if end is None else end
    boundary = [] if end is None else [end]
    read = tokenizer(rows["text"], add_special_tokens=False, verbose=False)["input_ids"]
    texts = [[*ids, *boundary] for ids in read]
    owners = [row for row, ids in zip(rows["row"], texts, strict=True) for _ in ids]
    return [token for ids in texts for token in ids], owners


def _mask(
    ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Hide some tokens of a block that has others than special ones.

    Each that is not special is a target with probability 0.15, and one is in any case, for a batch
    without has no loss. Of the targets, eight in ten are hidden, one is replaced by any token, and
    one stays (Devlin et al. 2019, "BERT", section 3.1).

    Returns:
        The tokens to read, and the labels.
    """
    tokens, draws = np.asarray(ids), rng.random(len(ids))
    draws[np.isin(tokens, tokenizer.all_special_ids)] = 1.0
    target = draws < MASK_RATE
    target[draws.argmin()] = True
    fate, others = rng.random(len(ids)), rng.integers(len(tokenizer), size=len(ids))
    read = np.where(target & (fate < MASKED), tokenizer.mask_token_id, tokens)
    read = np.where(target & (fate >= 1 - CHANGED), others, read)
    return read.tolist(), np.where(target, tokens, IGNORED).tolist()


def _collate(
    tokenizer: PreTrainedTokenizerBase, features: list[dict[str, Any]]
) -> dict[str, Tensor]:
    if "labels" not in features[0]:
        # The state of no generator need be saved with a run.
        known = np.concatenate([feature["input_ids"] for feature in features])
        rng = np.random.default_rng(zlib.crc32(known.astype(np.int64).tobytes()))
        masked = [_mask(feature["input_ids"], tokenizer, rng) for feature in features]
        features = [
            feature | {"input_ids": ids, "labels": labels}
            for feature, (ids, labels) in zip(features, masked, strict=True)
        ]
    return padded(tokenizer, features)


def _load(
    name: str,
    given: Path | None,
    column: str,
    streaming: bool,
    form: Form,
    test: Path | None,
    whole: bool,
    data: Path | None,
) -> Splits:
    """Read texts from `data`, else from `given`, else from the hub."""
    where, suffixes = data or given, (*TEXTS, *READERS)
    if where is None:
        splits = _from_hub(name, streaming)
        if test is None:
            return splits
        return replace(splits, test=_rows(_read(named_test(test, form, suffixes), column, form)))
    train, dev_part, test_part = own(where, form, suffixes=suffixes, test=test, streaming=streaming)

    def read(part: Source) -> Dataset:
        return _rows(_read(part, column, form))

    dev = None if dev_part is None else read(dev_part)
    tested = labelled(test_part, read, asked=test is not None)
    if not streaming:
        rows, file = read(train), Path(str(train))
        return with_dev(rows, dev, file, ordered=True, test=tested, whole=whole)
    if dev is None:
        raise TaskError(
            f"{where}: a stream has no end to cut a dev set off; give a folder with a dev file"
        )
    stream = streamed(train, {"text": column}, blank=True, skip=form.skip)
    return Splits(stream, {"dev": dev}, tested)


def _from_hub(name: str, streaming: bool) -> Splits:
    splits = from_hub(name, FILES, *HUB_SET)
    train, dev, test = (
        _rows([text.removesuffix("\n") for text in splits[split]["text"] if text.strip()])
        for split in ("train", "validation", "test")
    )
    return Splits(train.to_iterable_dataset() if streaming else train, {"dev": dev}, test)


def _rows(texts: list[str]) -> Dataset:
    return Dataset.from_dict({"text": texts})


def _read(part: Source, column: str, form: Form) -> list[str]:
    """The texts of one part of the data; cells that are blank are none."""
    rejects = Rejects(str(part), skip=form.skip, at_once=False)
    texts, blank = [], 0
    for place, (cell,) in part.cells([column], rejects):
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            blank += 1
        elif isinstance(cell, str):
            texts.append(cell)
        else:
            rejects.add(place, *no_text(column, cell))
    rejects.settle(len(texts))
    if not texts:
        raise TaskError(f"{part}: no texts; the file must hold at least one that is not blank.")
    if blank and not is_plain(part):
        rows = len(texts) + blank
        logger.warning("%s: skipped %d of %d rows without text", part, blank, rows)
    return texts
