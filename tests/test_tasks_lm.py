"""Language modelling: blocks, masks, perplexity, and the text that is read."""

import json
import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from prunella.errors import Diverged
from prunella.experiments.models import locate
from prunella.tasks import Reader, TaskError, sources
from prunella.tasks import lm as module
from prunella.tasks.lm import IGNORED, Language, language

CAUSAL, MASKED = language("lm/causal", None), language("lm/masked", None)
PAD, UNK, CLS, SEP, MASK, BOS, EOS = range(7)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>")
VOCABULARY = (*SPECIAL, *(f"w{n}" for n in range(57)))
NAMES = {"pad": PAD, "unk": UNK, "cls": CLS, "sep": SEP, "mask": MASK, "bos": BOS, "eos": EOS}


def tokenizer(*names: str, template: str = "$A", **special: str) -> PreTrainedTokenizerFast:
    """One token a word, with those special tokens and around a text those of the template."""
    model = Tokenizer(WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    model.pre_tokenizer = WhitespaceSplit()
    model.post_processor = TemplateProcessing(
        single=template, special_tokens=list(zip(SPECIAL, range(7), strict=True))
    )
    known = {f"{name}_token": SPECIAL[NAMES[name]] for name in names}
    return PreTrainedTokenizerFast(tokenizer_object=model, **known | special)


GPT = tokenizer("eos", pad_token="</s>")  # pads with what ends a text, as GPT-2 does
LLAMA = tokenizer("eos", "bos", template="<s> $A")
BERT = tokenizer("pad", "unk", "cls", "sep", "mask", template="[CLS] $A [SEP]")


def texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        " ".join(f"w{n}" for n in rng.integers(57, size=rng.integers(1, 9))) for _ in [0] * count
    ]


def features(
    task: Language,
    reader: Reader,
    rows: list[str],
    *,
    training: bool = False,
    first: int = 0,
) -> dict[str, Any]:
    numbers = list(range(first, first + len(rows)))
    return task.features({"text": rows, "row": numbers}, reader, training=training)


def inputs(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """The features one by one, with what a model takes."""
    names = [name for name in ("input_ids", "attention_mask", "labels") if name in columns]
    return [
        dict(zip(names, values, strict=True))
        for values in zip(*(columns[name] for name in names), strict=True)
    ]


def stream(rows: list[str], end: list[int]) -> list[int]:
    return [token for row in rows for token in (*map(VOCABULARY.index, row.split()), *end)]


def gpt2(seed: int = 0) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    size = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128}
    ends = {"bos_token_id": EOS, "eos_token_id": EOS}
    # so that its predictions differ from each other
    return GPT2LMHeadModel(GPT2Config(**size, **ends, initializer_range=0.3)).eval()


def bert(seed: int = 0) -> BertForMaskedLM:
    torch.manual_seed(seed)
    size = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.3}
    return BertForMaskedLM(BertConfig(**size, **more)).eval()


@torch.no_grad()
def perplexity(
    task: Language, model: PreTrainedModel, reader: Reader, rows: list[str], batch: int = 4
) -> float:
    columns = features(task, reader, rows)
    made, collate = inputs(columns), task.collator(reader.tokenizer, model)
    outputs = [
        output
        for start in range(0, len(made), batch)
        for output in task.outputs(
            model, reader.tokenizer, dict(collate(made[start : start + batch]))
        )
    ]
    records = task.records(Dataset.from_dict({"text": rows}), Dataset.from_dict(columns), outputs)
    assert len(records) == len(made)
    assert json.loads(json.dumps(records)) == records
    assert all(type(r["nll"]) is float and type(r["tokens"]) is int for r in records)
    scores = task.score(records)
    assert list(scores) == list(task.metrics) == ["perplexity"]
    return scores["perplexity"]


@torch.no_grad()
def nats(model: PreTrainedModel, context: list[int], token: int) -> float:
    return -float(model(torch.tensor([context])).logits[0, -1].double().log_softmax(-1)[token])


def test_task() -> None:
    assert (CAUSAL.name, CAUSAL.masked, CAUSAL.stride) == ("lm/causal", False, 0)
    assert (MASKED.name, MASKED.masked, MASKED.stride) == ("lm/masked", True, 0)
    assert CAUSAL.minimize and MASKED.minimize
    assert (CAUSAL.classes, CAUSAL.numeric, CAUSAL.head()) == (None, False, {})
    assert CAUSAL.auto is AutoModelForCausalLM and MASKED.auto is AutoModelForMaskedLM
    assert "partial" not in repr(CAUSAL)  # it names what is kept on disk


@pytest.mark.parametrize(
    ("name", "stride"), [("lm/causal", -1), ("lm/masked", 1), ("lm/masked", -1)]
)
def test_strides_that_cannot_be(name: Any, stride: int) -> None:
    with pytest.raises(TaskError, match=rf"{name}: a stride of {stride} cannot be"):
        language(name, None, stride=stride)


# Blocks of the causal task


def test_causal_blocks_hold_every_token_once() -> None:
    rows = ["w1 w2 w3", "w4", "w5 w6 w7 w8", "w9"]
    made = features(CAUSAL, Reader(GPT, 5), rows, first=40)
    known = stream(rows, [EOS])
    assert len(known) == 13
    assert made["input_ids"] == [known[:5], known[5:10], known[10:]]
    assert made["labels"] == [[IGNORED, *ids[1:]] for ids in made["input_ids"]]
    assert made["attention_mask"] == [[1] * 5, [1] * 5, [1] * 3]
    assert made["length"] == [5, 5, 3]
    assert made["row"] == [40, 41, 42]  # w1, the end of w4's row, w8
    assert made["cut"] == [False] * 3
    assert made == features(CAUSAL, Reader(GPT, 5), rows, first=40, training=True)


def test_a_block_of_one_token_is_left_out() -> None:
    made = features(CAUSAL, Reader(GPT, 4), ["w1 w2 w3", "w4 w5", "w6"])
    assert made["input_ids"] == [[8, 9, 10, EOS], [11, 12, EOS, 13]]
    assert features(CAUSAL, Reader(tokenizer(), 4), ["w1"])["input_ids"] == []
    assert len(features(CAUSAL, Reader(LLAMA, 4), [""])["input_ids"]) == 1  # the end of the text


@pytest.mark.parametrize("length", [2, 5, 8, 100])
@pytest.mark.parametrize("stride", [1, 3, 4])
@pytest.mark.parametrize("reads", [GPT, LLAMA, tokenizer()], ids=["gpt", "llama", "plain"])
def test_a_stride_scores_every_token_once(
    reads: PreTrainedTokenizerFast, stride: int, length: int
) -> None:
    before = [BOS] if reads is LLAMA else []
    if length <= stride + len(before):
        return
    rows, task = texts(20), language("lm/causal", None, stride=stride)
    made = features(task, Reader(reads, length), rows)
    known = stream(rows, [EOS] if reads.eos_token else [])
    scored: list[int] = []
    for number, (ids, labels) in enumerate(zip(made["input_ids"], made["labels"], strict=True)):
        assert ids[: len(before)] == before and len(ids) <= length
        at = next(place for place, label in enumerate(labels) if label != IGNORED)
        assert at == (len(before) + stride if number else max(1, len(before)))
        assert labels[at:] == ids[at:]
        repeated = ids[len(before) : at]
        assert not number or repeated == (known[: len(scored) + (not before)])[-stride:]
        scored += labels[at:]
    assert scored == (known if before else known[1:])


def test_without_a_stride_all_but_the_first_of_a_block_are_scored() -> None:
    rows = texts(49)
    known = stream(rows, [EOS])
    assert len(known) % 9 > 1
    made = features(CAUSAL, Reader(GPT, 9), rows)
    assert [token for ids in made["input_ids"] for token in ids] == known
    targets = [token for labels in made["labels"] for token in labels if token != IGNORED]
    assert targets == [token for place, token in enumerate(known) if place % 9]
    # A token that the tokenizer puts before a text makes the first a target, too.
    made = features(CAUSAL, Reader(LLAMA, 9), rows)
    assert {labels[0] for labels in made["labels"]} == {IGNORED}
    assert [token for labels in made["labels"] for token in labels[1:]] == known


def test_ends_of_texts_are_targets_though_they_pad() -> None:
    assert GPT.pad_token_id == GPT.eos_token_id == EOS
    rows = ["w1 w2", "w3"]
    made = features(CAUSAL, Reader(GPT, 4), rows)
    assert made["labels"] == [[IGNORED, 9, EOS, 10]]
    batch = CAUSAL.collator(GPT, gpt2())(inputs(features(CAUSAL, Reader(GPT, 3), rows)))
    assert batch["input_ids"].tolist() == [[8, 9, EOS], [10, EOS, EOS]]
    assert batch["labels"].tolist() == [[IGNORED, 9, EOS], [IGNORED, EOS, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_a_decoders_blocks_have_nothing_after_them() -> None:
    reads = tokenizer("eos", "bos", template="<s> $A </s>")
    made = features(CAUSAL, Reader(reads, 4), ["w1 w2 w3"])
    assert made["input_ids"] == [[BOS, 8, 9, 10], [BOS, EOS]]


# Perplexity


@pytest.mark.parametrize("reads", [GPT, LLAMA, tokenizer()], ids=["gpt", "llama", "plain"])
def test_perplexity_of_one_block(reads: PreTrainedTokenizerFast) -> None:
    model, rows = gpt2(), texts(12)
    known = [BOS] * (reads is LLAMA) + stream(rows, [EOS] if reads.eos_token else [])
    total = sum(nats(model, known[:place], known[place]) for place in range(1, len(known)))
    found = perplexity(CAUSAL, model, Reader(reads, 128), rows)
    assert found == pytest.approx(math.exp(total / (len(known) - 1)), rel=1e-5)


@pytest.mark.parametrize(("length", "stride"), [(6, 0), (6, 1), (7, 4), (9, 8)])
def test_perplexity_of_many_blocks(length: int, stride: int) -> None:
    model, rows = gpt2(), texts(12)
    known, step = stream(rows, [EOS]), length - stride
    losses = []
    for place in range(1, len(known)):
        # The first block that holds the token as a new one.
        start = max(0, math.ceil((place - length + 1) / step)) * step
        if place > start:
            losses.append(nats(model, known[start:place], known[place]))
            assert place - start >= min(stride, place)
    task = language("lm/causal", None, stride=stride)
    found = perplexity(task, model, Reader(GPT, length), rows)
    assert found == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)


@torch.no_grad()
def test_perplexity_of_masked_tokens() -> None:
    model, rows = bert(), texts(30)
    made = features(MASKED, Reader(BERT, 20), rows)
    losses = []
    for ids, labels in zip(made["input_ids"], made["labels"], strict=True):
        scores = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        losses += [
            -float(scores[place, label]) for place, label in enumerate(labels) if label != IGNORED
        ]
    found = perplexity(MASKED, model, Reader(BERT, 20), rows)
    assert found == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("task", [CAUSAL, MASKED], ids=["causal", "masked"])
def test_padding_changes_nothing(task: Language, side: str) -> None:
    if task.masked:
        reads, model = tokenizer(*NAMES, template="[CLS] $A [SEP]"), bert()
    else:
        reads, model = tokenizer("eos", pad_token="</s>"), gpt2()
    reads.padding_side = side
    reader, rows = Reader(reads, 30), texts(29)
    lengths = features(task, reader, rows)["length"]
    assert 2 < lengths[-1] < 30
    alone = perplexity(task, model, reader, rows, batch=1)
    assert perplexity(task, model, reader, rows, batch=8) == pytest.approx(alone, rel=1e-5)
    assert reads.padding_side == side


@pytest.mark.parametrize("task", [CAUSAL, MASKED], ids=["causal", "masked"])
def test_a_uniform_model_is_as_perplexed_as_its_vocabulary_is_large(task: Language) -> None:
    reads, model = (BERT, bert()) if task.masked else (GPT, gpt2())
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(torch.zeros_like(head.weight))
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    assert perplexity(task, model, Reader(reads, 11), texts(20)) == pytest.approx(64, rel=1e-5)


def test_scores_add_up_and_stay_finite() -> None:
    records = [{"nll": 3 * math.log(8), "tokens": 3}, {"nll": math.log(2), "tokens": 1}]
    assert CAUSAL.score(records)["perplexity"] == pytest.approx((8**3 * 2) ** (1 / 4))
    worst = CAUSAL.score([{"nll": 1e30, "tokens": 2}])["perplexity"]
    assert 1e300 < worst < 1e305
    assert CAUSAL.score([{"nll": 0.0, "tokens": 2}])["perplexity"] == 1.0


@pytest.mark.parametrize("records", [[], [{"nll": 0.0, "tokens": 0}]])
def test_no_token_to_predict(records: list[dict[str, Any]]) -> None:
    with pytest.raises(TaskError, match="lm/masked: the texts have no token to predict"):
        MASKED.score(records)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_not_finite(value: float) -> None:
    model = gpt2()
    nn.init.constant_(model.transformer.ln_f.bias, value)
    with pytest.raises(Diverged, match="NaN or infinite"):
        perplexity(CAUSAL, model, Reader(GPT, 8), texts(4))


# Masks


def test_masked_blocks() -> None:
    rows = ["w1 w2 w3", "w4", "w5 w6 w7 w8"]
    made = features(MASKED, Reader(BERT, 6), rows, training=True, first=7)
    assert "labels" not in made
    known = [8, 9, 10, SEP, 11, SEP, 12, 13, 14, 15, SEP]
    assert made["input_ids"] == [[CLS, *known[n : n + 4], SEP] for n in (0, 4, 8)]
    assert made["row"] == [7, 8, 9]
    assert made["length"] == [6, 6, 5]
    assert made["cut"] == [False] * 3
    read = features(MASKED, Reader(BERT, 6), rows, first=7)
    assert all(read[name] == made[name] for name in ("attention_mask", "length", "cut", "row"))
    for plain, ids, labels in zip(
        made["input_ids"], read["input_ids"], read["labels"], strict=True
    ):
        assert set(labels) != {IGNORED}
        for true, token, label in zip(plain, ids, labels, strict=True):
            assert label in (true, IGNORED)
            assert label != IGNORED or token == true


def test_a_block_of_special_tokens_is_left_out() -> None:
    rows = ["w1 w2 w3", "[UNK] novel [SEP]"]
    for training in (True, False):
        made = features(MASKED, Reader(BERT, 6), rows, training=training)
        assert made["row"] == [0]


def test_masks_of_the_evaluation_are_fixed_by_seed_and_rows() -> None:
    rows = texts(40)
    made = features(MASKED, Reader(BERT, 16), rows)
    torch.manual_seed(3)
    np.random.seed(3)
    assert features(MASKED, Reader(BERT, 16), rows) == made
    assert features(MASKED, Reader(BERT, 16, seed=1), rows)["labels"] != made["labels"]
    assert features(MASKED, Reader(BERT, 16), rows, first=1000)["labels"] != made["labels"]


def test_what_is_masked() -> None:
    rows = [f"{text} [UNK]" for text in texts(6000)]
    plain = features(MASKED, Reader(BERT, 64), rows, training=True)
    made = features(MASKED, Reader(BERT, 64), rows)
    fates: Counter[str] = Counter()
    replaced: set[int] = set()
    total = 0
    for before, ids, labels in zip(
        plain["input_ids"], made["input_ids"], made["labels"], strict=True
    ):
        total += sum(token not in BERT.all_special_ids for token in before)
        for true, token, label in zip(before, ids, labels, strict=True):
            if label == IGNORED:
                assert token == true
                continue
            assert label == true and true not in BERT.all_special_ids
            fates["masked" if token == MASK else "kept" if token == true else "changed"] += 1
            replaced.add(token)
    targets = fates.total()
    assert total > 25_000
    assert targets / total == pytest.approx(0.15, abs=0.01)
    # One replacement in 64 is by the same token, and one is by the mask.
    assert fates["masked"] / targets == pytest.approx(0.8 + 0.1 / 64, abs=0.02)
    assert fates["changed"] / targets == pytest.approx(0.1 * 62 / 64, abs=0.02)
    assert fates["kept"] / targets == pytest.approx(0.1 + 0.1 / 64, abs=0.02)
    assert len(replaced) > 60


def test_short_blocks_have_a_target() -> None:
    made = features(MASKED, Reader(BERT, 3), texts(200))
    assert len(made["labels"]) > 500
    assert {sum(label != IGNORED for label in labels) for labels in made["labels"]} == {1}


def test_training_masks_depend_on_the_batch_alone() -> None:
    made = inputs(features(MASKED, Reader(BERT, 16), texts(60), training=True))
    collate, again = MASKED.collator(BERT, bert()), MASKED.collator(BERT, bert())
    first = collate(made[:8])
    collate(made[8:16])
    torch.manual_seed(5)
    np.random.seed(5)
    state = torch.get_rng_state()
    for other in (collate(made[:8]), again(made[:8])):
        assert all(torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)
    assert made[0].keys() == {"input_ids", "attention_mask"}
    # In another company the same blocks are masked in another way.
    mixed = collate([*made[4:8], *made[16:20]])
    assert not torch.equal(first["labels"][4:], mixed["labels"][:4])
    for row, plain in enumerate(made[:8]):
        ids, labels = first["input_ids"][row], first["labels"][row]
        true = torch.tensor(plain["input_ids"])
        assert torch.equal(torch.where(labels == IGNORED, ids, labels), true)
        assert (labels != IGNORED).any()


def test_labelled_blocks_are_not_masked_again() -> None:
    made = inputs(features(MASKED, Reader(BERT, 16), texts(60)))[-3:]
    batch = MASKED.collator(BERT, bert())(made)
    for row, feature in enumerate(made):
        size = len(feature["input_ids"])
        assert batch["input_ids"][row].tolist() == feature["input_ids"] + [PAD] * (16 - size)
        assert batch["labels"][row].tolist() == feature["labels"] + [IGNORED] * (16 - size)
        assert batch["attention_mask"][row].tolist() == [1] * size + [0] * (16 - size)


def test_the_tokens_of_a_real_tokenizer() -> None:
    reads = AutoTokenizer.from_pretrained(locate("demo"))
    made = features(MASKED, Reader(reads, 12), ["A tower of glass. " * 5], training=True)
    ids = made["input_ids"]
    assert {(block[0], block[-1]) for block in ids} == {(reads.cls_token_id, reads.sep_token_id)}
    inner = [token for block in ids for token in block[1:-1]]
    assert inner == [*reads("A tower of glass. " * 5)["input_ids"][1:-1], reads.sep_token_id]


# Refusals of a tokenizer or model


def test_no_mask_token() -> None:
    with pytest.raises(TaskError, match=r"lm/masked: the tokenizer has no mask token.*lm/causal"):
        features(MASKED, Reader(GPT, 8), ["w1"])


@pytest.mark.parametrize(
    ("task", "reads", "least"),
    [
        (CAUSAL, GPT, 2),
        (CAUSAL, LLAMA, 2),
        (MASKED, BERT, 3),
        (language("lm/causal", None, stride=6), GPT, 7),
        (language("lm/causal", None, stride=6), LLAMA, 8),
    ],
)
def test_blocks_without_room(task: Language, reads: PreTrainedTokenizerFast, least: int) -> None:
    with pytest.raises(TaskError, match=rf"{least - 1} tokens.*--max-length of at least {least}"):
        features(task, Reader(reads, least - 1), ["w1 w2"])
    assert features(task, Reader(reads, least), ["w1 w2"])["length"][0] <= least


DECODERS = ("gpt2", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2")
DECODERS += ("phi", "phi3", "bloom", "falcon", "gptj", "mpt", "openai-gpt", "modernbert-decoder")
ENCODERS = ("bert", "roberta", "albert", "distilbert", "electra", "deberta-v2", "xlm-roberta")
ENCODERS += ("modernbert", "camembert", "mpnet", "xlm")
BOTH = ("bart", "mbart", "mvp")  # encoder-decoders


def config(kind: str, **settings: Any) -> Any:
    return CONFIG_MAPPING[kind](**settings)


@pytest.mark.parametrize("kind", DECODERS)
def test_decoders_do_the_causal_task(kind: str) -> None:
    assert CAUSAL.architecture(config(kind)) is AutoModelForCausalLM
    with pytest.raises(TaskError, match=rf"no AutoModelForMaskedLM of the type {kind};"):
        MASKED.architecture(config(kind))


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders_do_the_masked_task(kind: str) -> None:
    assert MASKED.architecture(config(kind)) is AutoModelForMaskedLM
    with pytest.raises(TaskError, match=rf"lm/causal: {kind} models are not.*or use lm/masked$"):
        CAUSAL.architecture(config(kind))


@pytest.mark.parametrize("kind", ["bert-generation", "cpmant", "git", "trocr", "xlnet"])
def test_models_listed_as_causal_that_are_not(kind: str) -> None:
    with pytest.raises(TaskError, match=rf"lm/causal: {kind} models are not.*GPT-2 or Llama$"):
        CAUSAL.architecture(config(kind))


@pytest.mark.parametrize("kind", [*BOTH, "t5", "pegasus", "marian", "whisper"])
@pytest.mark.parametrize("task", [CAUSAL, MASKED], ids=["causal", "masked"])
def test_encoder_decoders_do_neither(task: Language, kind: str) -> None:
    with pytest.raises(TaskError, match=f"{task.name}: {kind} models are encoder-decoders"):
        task.architecture(config(kind))
    if kind in BOTH:  # said to be one half only
        with pytest.raises(TaskError, match="are encoder-decoders"):
            task.architecture(config(kind, is_encoder_decoder=False))


def test_an_encoder_that_is_used_as_a_decoder() -> None:
    with pytest.raises(TaskError, match="this bert model reads from left to right"):
        MASKED.architecture(config("bert", is_decoder=True))


def test_models_without_a_language_head() -> None:
    with pytest.raises(TaskError, match="vit models are not made to predict each token"):
        CAUSAL.architecture(config("vit"))


def test_every_kind_of_model_does_one_task_at_most() -> None:
    done: dict[Language, set[str]] = {CAUSAL: set(), MASKED: set()}
    for task, kinds in (
        (CAUSAL, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        (MASKED, MODEL_FOR_MASKED_LM_MAPPING_NAMES),
    ):
        for kind in kinds:
            known = CONFIG_MAPPING[kind]
            bare = known.__new__(known)  # some configs cannot be made without settings
            try:
                task.architecture(bare)
                done[task].add(kind)
            except TaskError:
                pass
    assert not done[CAUSAL] & set(MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    assert done[CAUSAL] >= set(DECODERS) and done[MASKED] >= set(ENCODERS)


# A step of training, and tied weights


@pytest.mark.parametrize("task", [CAUSAL, MASKED], ids=["causal", "masked"])
def test_training_lowers_perplexity(task: Language) -> None:
    reads, model = (BERT, bert()) if task.masked else (GPT, gpt2())
    rows = ["w1 w2 w3 w4 w5 w6 w7"] * 16
    reader = Reader(reads, 16)
    before = perplexity(task, model, reader, rows)
    made = inputs(features(task, reader, rows, training=True))
    collate = task.collator(reads, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    model.train()
    for step in range(40):
        batch: dict[str, Tensor] = dict(collate(made[step % 2 :: 2]))
        loss = model(**batch).loss
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = perplexity(task, model.eval(), reader, rows)
    assert after < before / 4
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


# Where text comes from

LINES = ("one", " = Two = ", "", "three\u2028four", "  ", "café", '"five', "six\x0bseven")
KEPT = [line for line in LINES if line.strip()]


def parts(data: Path | None, **settings: Any) -> tuple[list[str], list[str]]:
    splits = language("lm/causal", data, **settings).load(None)
    assert list(splits.dev) == ["dev"]
    assert splits.train.column_names == splits.dev["dev"].column_names == ["text"]
    return list(splits.train["text"]), list(splits.dev["dev"]["text"])


def write(path: Path, texts: list[Any], column: str = "text") -> Path:
    """A file of the suffix's format with those texts."""
    if path.suffix in module.TEXTS:
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    elif path.suffix == ".parquet":
        Dataset.from_dict({column: texts}).to_parquet(path)
    elif path.suffix in (".json", ".jsonl"):
        rows = [json.dumps({"id": 1, column: text}) for text in texts]
        path.write_text("\n".join(rows), encoding="utf-8")
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        cells = ["" if text is None else '"' + text.replace('"', '""') + '"' for text in texts]
        rows = [f"1{mark}{cell}\n" for cell in cells]
        path.write_text(f"id{mark}{column}\n" + "".join(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("dev", ["dev", "validation", "valid"])
@pytest.mark.parametrize("suffix", [*module.TEXTS, ".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_every_format_gives_the_same_texts(
    tmp_path: Path, suffix: str, dev: str, caplog: pytest.LogCaptureFixture
) -> None:
    train = write(tmp_path / f"train{suffix}", list(LINES))
    write(tmp_path / f"{dev}{suffix}", KEPT[:3])
    write(tmp_path / f"test{suffix}", ["never read"])
    with caplog.at_level(logging.WARNING, "prunella"):
        assert parts(tmp_path) == (KEPT, KEPT[:3])
    skipped = [f"{train}: skipped 2 of 8 rows without text"]
    assert caplog.messages == ([] if suffix in module.TEXTS else skipped)


def test_another_column_and_rows_without_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for suffix in ("csv", "jsonl", "parquet"):
        write(tmp_path / f"dev.{suffix}", ["x"], "body")
        file = write(tmp_path / f"train.{suffix}", ["one", None, "two"], "body")
        assert parts(tmp_path, column="body") == (["one", "two"], ["x"])
        assert caplog.messages == [f"{file}: skipped 1 of 3 rows without text"]
        caplog.clear()
        with pytest.raises(TaskError, match=r"unknown column 'text'.*name one of these"):
            parts(tmp_path)
        file.unlink()
        (tmp_path / f"dev.{suffix}").unlink()


@pytest.mark.parametrize("suffix", ["tokens", "raw"])
def test_wikitext_as_it_was_published(tmp_path: Path, suffix: str) -> None:
    for part in ("train", "valid", "test"):
        write(tmp_path / f"wiki.{part}.{suffix}", [" ", f" = {part} = ", " ", " A <unk> . "])
    kept = ([" = train = ", " A <unk> . "], [" = valid = ", " A <unk> . "])
    assert parts(tmp_path) == kept


@pytest.mark.parametrize("name", ["book.txt", "wiki.train.tokens", "rows.jsonl"])
def test_without_a_dev_file_the_end_is_cut_off(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [f"line {n}" for n in range(59)]
    file = write(tmp_path / name, rows)
    assert parts(file) == (rows[:54], rows[54:])
    assert caplog.messages == [f"{file}: no dev file, so the last 5 of 59 rows become the dev set"]


def test_load_reads_where_it_is_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for part in ("train", "dev"):
            write(tmp_path / name / f"{part}.txt", [f"{name} {part}"])
    task = language("lm/masked", str(tmp_path / "a"))
    assert task.load(None).train["text"][0] == "a train"
    assert task.load(tmp_path / "b").train["text"][0] == "b train"
    assert MASKED.load(tmp_path / "b").dev["dev"]["text"][0] == "b dev"


def test_text_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def loaded(*names: str) -> DatasetDict:
        asked.append(names)
        rows = ["", " = Title = \n", "", " Words of {} \n"]
        parts = ("train", "validation", "test")
        return DatasetDict(
            {
                part: datasets.Dataset.from_dict({"text": [row.format(part) for row in rows]})
                for part in parts
            }
        )

    monkeypatch.setattr(sources, "load_dataset", loaded)
    train, dev = parts(None)
    assert asked == [("Salesforce/wikitext", "wikitext-2-raw-v1")]
    assert train == [" = Title = ", " Words of train "]
    assert dev == [" = Title = ", " Words of validation "]


def test_the_hub_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*names: str) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(sources, "load_dataset", refused)
    with pytest.raises(TaskError, match=r"cannot read Salesforce/wikitext.*no route.*--data"):
        parts(None)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def refused(data: Path, *words: str) -> None:
        with pytest.raises(TaskError) as caught:
            parts(data)
        for word in (str(data), *words):
            assert word in str(caught.value)

    refused(tmp_path / "absent.txt", "there is no file or folder")
    write(tmp_path / "book.txt", ["one"]).rename(tmp_path / "book.pdf")
    refused(tmp_path / "book.pdf", "suffix '.pdf'", ".txt, .md, .tokens, .raw, .csv")
    refused(tmp_path, "has no file train", "found was book.pdf")
    refused(write(tmp_path / "blank.txt", ["", "  "]), "no texts")
    refused(write(tmp_path / "blank.jsonl", ["", None]), "no texts")
    refused(write(tmp_path / "empty.md", []), "no texts")
    refused(write(tmp_path / "short.txt", ["one"] * 19), "19 rows are too few", "at least 20")
    refused(write(tmp_path / "number.jsonl", ["one", 2]), ":2: column 'text' holds 2")
    refused(write(tmp_path / "number.parquet", [1, 2]), ", row 1: column 'text' holds 1")
    (tmp_path / "latin.txt").write_bytes(b"one\ncaf\xe9\n")
    refused(tmp_path / "latin.txt", ":2: byte 0xe9 is not UTF-8")
    (tmp_path / "odd.parquet").write_bytes(b"PAR1")
    refused(tmp_path / "odd.parquet", "not a sound Parquet file")


def test_a_part_of_the_data_twice(tmp_path: Path) -> None:
    write(tmp_path / "train.txt", ["one"])
    write(tmp_path / "dev.txt", ["one"])
    write(tmp_path / "wiki.valid.raw", ["one"])
    with pytest.raises(TaskError, match=r"dev.txt and wiki.valid.raw are the same part"):
        parts(tmp_path)
    write(tmp_path / "train.csv", ["one"])
    with pytest.raises(TaskError, match=r"train.csv and train.txt are the same part"):
        parts(tmp_path)


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "train.txt").mkdir()
    with pytest.raises(TaskError, match=r"has no file train.*found was train.txt"):
        parts(tmp_path)
