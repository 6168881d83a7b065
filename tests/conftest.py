"""Tiny checkpoints and tiny GLUE folders, made on the spot: no test needs a network."""

import gc
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
)

from prunella.runtime import engine

# Models here are tiny: a second thread would only be waited for.
torch.set_num_threads(1)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
GOOD, BAD = ("good", "fine", "lovely", "warm"), ("bad", "poor", "awful", "cold")
FILLERS = tuple(f"word{n}" for n in range(290))


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokenised rows are kept where the tests are, also by processes that these start."""
    folder = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        patch.setenv("HF_DATASETS_CACHE", folder)
        yield


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of every later collection, which each training asks for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _unsynced() -> Iterator[None]:
    """Nobody pulls the plug here, so no test waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers with a WordPiece tokenizer: 16,384 prunable weights."""
    folder = tmp_path_factory.mktemp("models") / "bert"
    tokenizer = _tokenizer()
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,  # texts must look different to it, or it learns nothing in few steps
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2, whose linears are ``Conv1D`` [in, out], without a padding token."""
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    tokenizer = _tokenizer(pad_token=None, eos_token="[SEP]")
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_inner=64, n_positions=64
    )
    config.eos_token_id = config.bos_token_id = tokenizer.eos_token_id
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sst2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``glue/sst2`` in GLUE's layout: 120 rows to train on, of which 12 are held out, and 40."""
    return _glue(tmp_path_factory, "SST-2", "sentence\tlabel", lambda n: f"{_text(n)}\t{n % 2}")


@pytest.fixture(scope="session")
def stsb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``glue/stsb``: pairs and scores."""

    def line(n: int) -> str:
        return f"{n}\t{_text(n)}\t{_text(n + n % 2)}\t{4.5 - 4 * (n % 2) + n % 5 / 10:.3f}"

    return _glue(tmp_path_factory, "STS-B", "index\tsentence1\tsentence2\tscore", line)


@pytest.fixture(scope="session")
def cola(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``glue/cola``: no header."""
    return _glue(tmp_path_factory, "CoLA", None, lambda n: f"gj04\t{n % 2}\t*\t{_text(n)}")


def _tokenizer(**special: str | None) -> PreTrainedTokenizerFast:
    words = [*SPECIAL, *GOOD, *BAD, *FILLERS]
    model = Tokenizer(
        WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]")
    )
    model.normalizer = BertNormalizer()
    model.pre_tokenizer = BertPreTokenizer()
    model.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", words.index("[CLS]")), ("[SEP]", words.index("[SEP]"))],
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=model, **names | special)


def _glue(
    factory: pytest.TempPathFactory, name: str, header: str | None, line: Callable[[int], str]
) -> Path:
    folder = factory.mktemp("glue") / name
    folder.mkdir()
    for file, numbers in (("train.tsv", range(120)), ("dev.tsv", range(1000, 1040))):
        lines = [*([header] if header else []), *map(line, numbers)]
        (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _text(n: int) -> str:
    """Words most of which tell the sentiment: positive where n is odd."""
    source = random.Random(n)
    words = (*(GOOD if n % 2 else BAD), *source.sample(FILLERS, 2))
    return " ".join(source.choice(words) for _ in range(source.randint(4, 9)))


@pytest.fixture(params=engine.variants())
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every variant of the engine's kernels that this machine runs, in turn."""
    before = engine.variant()
    assert engine._native.choose(request.param)
    yield request.param
    engine._native.choose(before)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
