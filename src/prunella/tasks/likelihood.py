"""What tasks share that predict tokens and are scored by how likely the right ones were."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from prunella.regularizers import IGNORED
from prunella.tasks.base import Record, TaskError, finite, is_decoder

MAX_NATS = 700.0  # a token; e to that power, and the sum of many such, are finite


def check_decoder(name: str, config: PreTrainedConfig) -> None:
    """Raise TaskError unless models of a config predict each token from those before it alone."""
    kind = config.model_type
    if not is_decoder(config):
        masked = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and name == "lm/causal"
        raise TaskError(
            f"{name}: {kind} models are not made to predict each token from those before it alone; "
            f"give a decoder such as GPT-2 or Llama{', or use lm/masked' if masked else ''}"
        )


def padded(
    tokenizer: PreTrainedTokenizerBase, features: Sequence[dict[str, Any]]
) -> dict[str, Tensor]:
    """A batch, padded on the right: GPT-2 counts positions from the first column, whatever it is.

    What is padding is said by `attention_mask` and by labels, never by the token, which may be the
    one that ends a text.
    """
    paddings = {
        "input_ids": tokenizer.pad_token_id or 0,
        "attention_mask": 0,
        "labels": IGNORED,
    }
    return {
        name: pad_sequence(
            [torch.as_tensor(feature[name]) for feature in features],
            batch_first=True,
            padding_value=padding,
        )
        for name, padding in paddings.items()
        if name in features[0]
    }


def likelihoods(
    model: PreTrainedModel, batch: dict[str, Tensor], *, shift: bool
) -> list[tuple[float, int]]:
    """The negative log-likelihood of the targets of each row of a batch, in nats, and their number.

    Args:
        shift: Whether the model predicts of each token the next one.

    Raises:
        Diverged: It is not finite.
    """
    labels = batch["labels"]
    # Without labels, for with them models compute the loss in another copy of the logits.
    logits = model(**{name: batch[name] for name in batch if name != "labels"}).logits
    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
    counted = labels != IGNORED
    losses = [
        cross_entropy(scores[places].float(), wanted[places], reduction="sum")
        for scores, wanted, places in zip(logits, labels, counted, strict=True)
    ]
    nats: list[float] = finite(torch.stack(losses)).tolist()
    return list(zip(nats, counted.sum(dim=1).tolist(), strict=True))


def scored(name: str, record: Record) -> dict[str, Any]:
    """What a record says, for people: the perplexity, None where there is no token to predict."""
    value = perplexity(name, [record]) if record["tokens"] else None
    return {"prediction": value, "nll": record["nll"], "tokens": record["tokens"]}


def perplexity(name: str, records: Sequence[Record]) -> float:
    """The perplexity of the tokens of some records, at most e^700.

    Raises:
        TaskError: There are none.
    """
    tokens = sum(record["tokens"] for record in records)
    if tokens == 0:
        raise TaskError(f"{name}: the texts have no token to predict; give more or longer ones")
    nats = sum(record["nll"] for record in records) / tokens
    return math.exp(min(nats, MAX_NATS))


def by_frequency(
    records: Sequence[Record], labels: Iterable[Sequence[int]]
) -> Iterator[list[Record]]:
    """Records as of a model that knows how often each token comes, and nothing else."""
    counts = Counter(label for row in labels for label in row if label != IGNORED)
    whole = counts.total()
    if whole:
        nats = sum(n * math.log(whole / n) for n in counts.values()) / whole
        yield [{**record, "nll": nats * record["tokens"]} for record in records]
