"""Makes a small model without knowledge, with a tokenizer of its own, to be trained from scratch.

python benchmarks/from_scratch.py gpt2 d2t/e2e --data e2e --output small
prunella prune --criterion dense --model small --task d2t/e2e --data e2e ...
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from prunella import tasks

VOCABULARY = 2000
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def tokenizer(rows: Dataset, ends: bool) -> PreTrainedTokenizerFast:
    """Byte pairs of the texts; ``ends``: every text is closed by the end token, as T5's are."""

    def texts() -> Iterator[str]:
        for row in rows:
            yield row["source"]
            yield from row["references"]

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END, UNKNOWN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts(), trainer)
    if ends:
        backend.post_processor = processors.TemplateProcessing(
            single=f"$A {END}", special_tokens=[(END, backend.token_to_id(END))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, eos_token=END, unk_token=UNKNOWN
    )


def gpt2(vocabulary: int) -> PreTrainedModel:
    """2.2 million parameters, of them 1.8 in the blocks."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_embd=192,
            n_layer=4,
            n_head=4,
            n_positions=256,
            bos_token_id=1,
            eos_token_id=1,
            pad_token_id=0,
        )
    )


def t5(vocabulary: int) -> PreTrainedModel:
    """As wide, with three blocks on either side."""
    begins: Any = {"decoder_start_token_id": 0}  # which its signature does not tell
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary,
            d_model=192,
            d_kv=48,
            d_ff=768,
            num_layers=3,
            num_heads=4,
            pad_token_id=0,
            eos_token_id=1,
            **begins,
        )
    )


SHAPES = {"gpt2": gpt2, "t5": t5}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("task", help="a task with sources and references, such as d2t/e2e")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    rows = tasks.get(options.task).load(options.data).train
    assert isinstance(rows, Dataset)
    made = tokenizer(rows, ends=options.shape == "t5")
    set_seed(0)
    SHAPES[options.shape](len(made)).save_pretrained(options.output)
    made.save_pretrained(options.output)


if __name__ == "__main__":
    main()
