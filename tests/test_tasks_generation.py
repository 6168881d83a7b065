"""Generation: what models read and write, how they search, and the scores."""

import dataclasses
import logging
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import sacrebleu
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    CLIPConfig,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    T5Config,
    T5ForConditionalGeneration,
    WhisperConfig,
    XLMConfig,
    XLNetConfig,
)

from prunella.errors import Diverged
from prunella.tasks import Reader, Splits, TaskError
from prunella.tasks.generation import Decoding, Generation, grouped

MEASURES = ("bleu", "rougeL", "chrf", "rouge1", "rouge2")
WORDS = ("the", "a", "cat", "dog", "bird", "sat", "ran", "on", "under", "hill", ",", ".", "red")
PAD, BOS, EOS = 0, 1, 2
LETTERS = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]  # the last are blank and line end
VOCABULARY = 3 + len(LETTERS)
DECODERS = ("gpt2", "llama", "opt")


def make(**settings: Any) -> Generation:
    return Generation(
        "test",
        load=lambda _: Splits(Dataset.from_dict({}), {}),
        **{"measures": MEASURES} | settings,
    )


@cache
def tokenizer(template: str = "$A", pad: str = "<pad>") -> PreTrainedTokenizerFast:
    """One of letters; the template says which special tokens it adds."""
    special = {"<pad>": PAD, "<s>": BOS, "</s>": EOS}
    vocabulary = special | {letter: 3 + place for place, letter in enumerate(LETTERS)}
    model = Tokenizer(models.BPE(vocabulary, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    model.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=list(special.items())
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=model, bos_token="<s>", eos_token="</s>", pad_token=pad
    )


def ids(text: str) -> list[int]:
    return tokenizer()(text)["input_ids"]


SHARED = {
    **{"vocab_size": VOCABULARY, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD},
    **{"decoder_start_token_id": PAD, "max_position_embeddings": 128},
}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
HALVES = ("encoder", "decoder")
# Model, config, settings by which answers depend on what is read, and the tokenizer's template.
MODELS: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "gpt2": (GPT2LMHeadModel, GPT2Config, SIZES | {"initializer_range": 0.3}, "$A"),
    "llama": (
        LlamaForCausalLM,
        LlamaConfig,
        SIZES | {"intermediate_size": 64, "initializer_range": 0.3},
        "<s> $A",
    ),
    "opt": (
        OPTForCausalLM,
        OPTConfig,
        SIZES | {"ffn_dim": 64, "word_embed_proj_dim": 32, "init_std": 0.3},
        "</s> $A",
    ),
    "t5": (
        T5ForConditionalGeneration,
        T5Config,
        {"d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 2, "d_kv": 16}
        | {"initializer_factor": 3.0},
        "$A </s>",
    ),
    "bart": (
        BartForConditionalGeneration,
        BartConfig,
        {"d_model": 32, "init_std": 0.5, "tie_word_embeddings": False}
        | {f"{half}_layers": 2 for half in HALVES}
        | {f"{half}_attention_heads": 2 for half in HALVES}
        | {f"{half}_ffn_dim": 64 for half in HALVES},
        "<s> $A </s>",
    ),
}


def build(kind: str, **changes: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, Reader]:
    """A random model of two layers, its tokenizer, and how it reads; GPT-2 pads with the end."""
    model, config, settings, template = MODELS[kind]
    torch.manual_seed(0)
    network = model(config(**SHARED | settings | changes)).eval()
    tokens = tokenizer(template, "</s>" if kind == "gpt2" else "<pad>")
    return network, tokens, Reader(tokens, 128, decoder_only=kind in DECODERS)


def texts(count: int, words: int, seed: int) -> list[str]:
    source = random.Random(seed)
    return [" ".join(source.choices(WORDS, k=source.randint(2, words))) for _ in range(count)]


def rows(*pairs: tuple[str, list[str]]) -> dict[str, list[Any]]:
    sources, references = zip(*pairs, strict=True)
    return {"source": list(sources), "references": list(references), "row": list(range(len(pairs)))}


def examples(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Features as the collator gets them: without the columns that no model takes."""
    names = ("input_ids", "attention_mask", *(["labels"] if "labels" in columns else []))
    return [
        dict(zip(names, values, strict=True))
        for values in zip(*(columns[name] for name in names), strict=True)
    ]


def write(task: Generation, kind: str, sources: list[str], size: int, **changes: Any) -> list[str]:
    """What a random model writes, in batches of that size."""
    model, tokens, reader = build(kind, **changes)
    said = task.features(rows(*((source, ["-"]) for source in sources)), reader, training=False)
    collate, features = task.collator(tokens, model), examples(said)
    with torch.no_grad():
        return [
            text
            for start in range(0, len(sources), size)
            for text in task.outputs(model, tokens, collate(features[start : start + size]))
        ]


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What Transformers logs, which does not reach the root logger."""
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_rows_of_one_source_are_one() -> None:
    dataset = grouped([("a", "x"), ("b", "y"), ("a", "z"), ("a", "x")])
    assert dataset.to_dict() == {"source": ["a", "b"], "references": [["x", "z", "x"], ["y"]]}


@pytest.mark.parametrize(
    ("config", "auto"),
    [
        (GPT2Config(), AutoModelForCausalLM),
        (LlamaConfig(), AutoModelForCausalLM),
        (OPTConfig(), AutoModelForCausalLM),
        (T5Config(), AutoModelForSeq2SeqLM),
        (BartConfig(), AutoModelForSeq2SeqLM),
        (MarianConfig(), AutoModelForSeq2SeqLM),
    ],
)
def test_models_that_write(config: Any, auto: Any) -> None:
    assert make().architecture(config) is auto


@pytest.mark.parametrize(
    "config",
    [BertConfig(), RobertaConfig(), XLNetConfig(), XLMConfig(), WhisperConfig(), CLIPConfig()],
)
def test_models_that_do_not_write(config: Any) -> None:
    with pytest.raises(
        TaskError, match=rf"generation with an encoder: .* type {config.model_type} .* give a dec"
    ):
        make().architecture(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beams": 0}, r"beams is 0; give a whole number of at least 1"),
        ({"max_new_tokens": 0}, r"max_new_tokens is 0"),
        ({"no_repeat_ngram": -1}, r"no_repeat_ngram is -1; give .* at least 0"),
        ({"beams": 2, "length_penalty": float("nan")}, r"length_penalty is nan; give a finite"),
        ({"length_penalty": 0.9}, r"length_penalty is 0\.9, and works on beams alone"),
    ],
)
def test_decoding_that_makes_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        Decoding(**settings)


def test_metrics_and_their_names() -> None:
    assert make(measures=("chrf", "bleu")).metrics == ("chrf", "bleu")
    with pytest.raises(TaskError, match=r"unknown metric 'rouge': did you mean rouge"):
        make(measures=("rouge",))


def test_a_decoder_reads_and_writes_one_sequence() -> None:
    for kind, start in (("gpt2", []), ("llama", [BOS]), ("opt", [EOS])):
        _, _, reader = build(kind)
        task = make(prefix="do ", separator=" =")
        two = rows(("ab", ["cd", "e"]), ("f", ["g"]))
        said = task.features(two, reader, training=True)
        prompt = start + ids("do ab =")
        assert said["input_ids"][0] == prompt + ids("cd") + [EOS]
        assert said["labels"][0] == [-100] * len(prompt) + ids("cd") + [EOS]
        assert said["labels"][1] == [-100] * len(prompt) + ids("e") + [EOS]
        assert (said["row"], said["cut"]) == ([0, 0, 1], [False] * 3)
        assert said["length"] == [len(line) for line in said["input_ids"]]
        assert said["attention_mask"] == [[1] * length for length in said["length"]]
        asked = task.features(two, reader, training=False)
        assert asked["input_ids"] == [prompt, start + ids("do f =")]
        assert "labels" not in asked and asked["row"] == [0, 1]


def test_a_decoder_keeps_the_start_and_drops_the_end_of_its_tokenizer() -> None:
    reader = Reader(tokenizer("<s> $A </s>"), 64, decoder_only=True)
    said = make().features(rows(("ab", ["c"])), reader, training=True)
    assert said["input_ids"] == [[BOS, *ids("ab\nc"), EOS]]


@pytest.mark.parametrize("template", ["$A", "$A </s>"])
def test_an_encoder_decoder_reads_one_and_writes_another(template: str) -> None:
    reader = Reader(tokenizer(template), 64)
    two = rows(("ab", ["cd", "e"]), ("f", ["g"]))
    said = make(prefix="do ").features(two, reader, training=True)
    end = [EOS] if template.endswith("</s>") else []
    assert said["input_ids"] == [ids(f"do {text}") + end for text in ("ab", "ab", "f")]
    # the end is learned whether or not the tokenizer adds it
    assert said["labels"] == [[*ids(text), EOS] for text in ("cd", "e", "g")]
    assert said["row"] == [0, 0, 1]


def test_what_is_too_long_is_cut_and_counted() -> None:
    pairs = rows(("abcdefgh", ["xyz", "x" * 9]), ("a", ["x"]))
    task = make(target_length=5, decoding=Decoding(max_new_tokens=6))
    decoder = Reader(tokenizer("<s> $A"), 10, decoder_only=True)
    said = task.features(pairs, decoder, training=True)
    assert said["input_ids"] == [
        [BOS, *ids("abcd\nxyz"), EOS],  # room for four beside start, separator and target
        [BOS, *ids("abc\nxxxx"), EOS],
        [BOS, *ids("a\nx"), EOS],
    ]
    assert said["labels"][1] == [-100] * 5 + ids("xxxx") + [EOS]
    assert said["cut"] == [True, True, False]
    asked = task.features(pairs, decoder, training=False)
    assert asked["input_ids"] == [[BOS, *ids("ab\n")], [BOS, *ids("a\n")]]
    assert asked["cut"] == [True, False]
    said = task.features(pairs, Reader(tokenizer("$A </s>"), 6), training=True)
    assert said["input_ids"] == [[*ids("abcde"), EOS]] * 2 + [[*ids("a"), EOS]]
    assert said["labels"] == [[*ids(text), EOS] for text in ("xyz", "xxxx", "x")]
    assert said["cut"] == [True, True, False]


@pytest.mark.parametrize("decoder_only", [True, False])
def test_what_may_not_be_cut_is_an_error(decoder_only: bool) -> None:
    reader = Reader(tokenizer(), 12, truncate=False, decoder_only=decoder_only)
    task = make(target_length=5, decoding=Decoding(max_new_tokens=4))
    fits = task.features(rows(("abc", ["xyz"])), reader, training=True)
    assert fits["cut"] == [False]
    with pytest.raises(TaskError, match=r"target 'vwxyz' has 6 tokens, and 5 are allowed"):
        task.features(rows(("abc", ["vwxyz"])), reader, training=True)
    for training in (True, False):
        length = 13 + (1 + 4 if decoder_only else 0)
        with pytest.raises(TaskError, match=rf"text 'a{{13}}' has {length} tokens, and 12 are"):
            task.features(rows(("a" * 13, ["xyz"])), reader, training=training)


def test_no_room_and_no_end() -> None:
    reader = Reader(tokenizer(), 5, decoder_only=True)
    with pytest.raises(TaskError, match=r"64 tokens to write leave no room .* among 5; give a hi"):
        make().features(rows(("abc", ["x"])), reader, training=False)
    tokens = PreTrainedTokenizerFast(tokenizer_object=tokenizer().backend_tokenizer)
    with pytest.raises(TaskError, match=r"no end-of-sequence token"):
        make().features(rows(("abc", ["x"])), Reader(tokens, 64), training=True)


@pytest.mark.parametrize("kind", MODELS)
def test_batches(kind: str) -> None:
    model, tokens, reader = build(kind)
    task, two = make(), rows(("abc", ["x"]), ("a", ["xyz", "xy"]))
    train = task.features(two, reader, training=True)
    collate = task.collator(tokens, model)
    batch = collate(examples(train))
    for line, labels, mask, width in zip(
        train["input_ids"], batch["labels"], batch["attention_mask"], train["length"], strict=True
    ):
        assert mask.tolist() == [1] * width + [0] * (len(mask) - width)
        assert EOS in labels and labels[labels != -100][-1] == EOS
        assert len(line) == width
    loss = model(**batch).loss
    assert torch.isfinite(loss)
    asked = task.features(two, reader, training=False)
    batch = collate(examples(asked))
    assert set(batch) == {"input_ids", "attention_mask"}
    masks = batch["attention_mask"].tolist()
    assert masks[1] == (sorted(masks[1]) if kind in DECODERS else sorted(masks[1], reverse=True))
    assert 0 in masks[1]
    assert tokens.padding_side == "right"


def test_the_end_is_learned_though_it_also_pads() -> None:
    model, tokens, reader = build("gpt2")
    assert tokens.pad_token_id == tokens.eos_token_id
    task = make()
    said = task.features(rows(("abc", ["x", "xyz"])), reader, training=True)
    labels = task.collator(tokens, model)(examples(said))["labels"]
    assert labels[0].tolist() == [-100] * 4 + ids("x") + [EOS] + [-100] * 2
    assert labels[1].tolist() == [-100] * 4 + ids("xyz") + [EOS]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("beams", [1, 3])
def test_a_batch_writes_as_each_alone(
    kind: str, beams: int, warnings: pytest.LogCaptureFixture
) -> None:
    task = make(decoding=Decoding(beams=beams, max_new_tokens=12))
    sources = texts(8, 7, seed=1)
    alone = write(task, kind, sources, 1)
    assert write(task, kind, sources, 8) == write(task, kind, sources, 3) == alone
    assert len(set(alone)) > 4
    # it does not go on with the source, nor keep special tokens
    assert not any(token in text for text in alone for token in ("<pad>", "</s>", "<s>"))
    assert not [record for record in warnings.records if record.name.startswith("transformers.gen")]


@pytest.mark.parametrize("kind", MODELS)
def test_the_cache_is_used_and_changes_nothing(kind: str) -> None:
    task = make(decoding=Decoding(max_new_tokens=10))
    model, tokens, reader = build(kind)
    model.config.use_cache = model.generation_config.use_cache = False
    widths: list[int] = []

    def note(_: Any, __: Any, given: dict[str, Any]) -> None:
        name = "input_ids" if kind in DECODERS else "decoder_input_ids"
        widths.append(given[name].shape[1])

    model.register_forward_pre_hook(note, with_kwargs=True)
    said = task.features(rows(*((t, ["-"]) for t in texts(4, 6, 2))), reader, training=False)
    batch = task.collator(tokens, model)(examples(said))
    cached = task.outputs(model, tokens, batch)
    assert set(widths[1:]) == {1}
    given = batch["input_ids"].shape[1] if kind in DECODERS else 0
    slow = model.generate(**batch, **task.decoding.settings() | {"use_cache": False})
    assert widths[-1] > 1
    plain = [tokens.decode(line[given:], skip_special_tokens=True).strip() for line in slow]
    assert cached == plain
    assert model.config.use_cache is False


@pytest.mark.parametrize("kind", ["gpt2", "bart"])
def test_settings_of_the_checkpoint_do_not_count(
    kind: str, warnings: pytest.LogCaptureFixture
) -> None:
    task = make(decoding=Decoding(max_new_tokens=9))
    sources = texts(4, 6, seed=3)
    expected = write(task, kind, sources, 4)
    model, tokens, reader = build(kind)
    model.generation_config = GenerationConfig(
        **{"num_beams": 4, "min_length": 40, "max_length": 50, "length_penalty": 2.0},
        **{"no_repeat_ngram_size": 1, "do_sample": True, "temperature": 0.2, "top_k": 3},
        **{"repetition_penalty": 4.0, "encoder_no_repeat_ngram_size": 2, "early_stopping": True},
        **{"min_new_tokens": 30, "num_return_sequences": 2, "encoder_repetition_penalty": 0.2},
        **{"exponential_decay_length_penalty": (1, 0.1), "remove_invalid_values": True},
        **{"use_cache": False, "return_dict_in_generate": True, "eos_token_id": [5, 6]},
        **{"forced_eos_token_id": 8},
        **{"decoder_start_token_id": PAD, "bos_token_id": BOS, "pad_token_id": 7},
    )
    before = model.generation_config.to_dict()
    said = task.features(rows(*((t, ["-"]) for t in sources)), reader, training=False)
    batch = task.collator(tokens, model)(examples(said))
    warnings.clear()
    assert task.outputs(model, tokens, batch) == expected
    assert not warnings.records
    assert model.generation_config.to_dict() == before


def test_what_a_model_needs_to_write_is_left_to_it() -> None:
    task = make(decoding=Decoding(max_new_tokens=5))
    model, tokens, reader = build("bart")
    model.generation_config.forced_bos_token_id = ids("q")[0]
    said = task.features(rows(("abc", ["-"])), reader, training=False)
    (text,) = task.outputs(model, tokens, task.collator(tokens, model)(examples(said)))
    assert text.startswith("q")


def test_each_setting_of_the_search_has_an_effect() -> None:
    sources = texts(6, 6, seed=4)
    base = Decoding(beams=3, max_new_tokens=16)

    def said(**changes: Any) -> list[str]:
        decoding = dataclasses.replace(base, **changes)
        # so that it repeats itself, and stops of itself
        return write(make(decoding=decoding), "gpt2", sources, 6, initializer_range=0.15)

    plain = said()
    assert plain != said(beams=1)
    assert max(map(len, plain)) > 4 >= max(map(len, said(max_new_tokens=4)))
    shown = said(no_repeat_ngram=2)
    assert any(_repeats(text) for text in plain) and not any(_repeats(text) for text in shown)
    settings = dataclasses.replace(base, length_penalty=0.5).settings()
    assert settings["length_penalty"] == 0.5


def _repeats(text: str) -> bool:
    pairs = list(zip(ids(text), ids(text)[1:], strict=False))
    return len(set(pairs)) < len(pairs)


@pytest.mark.parametrize("kind", ["gpt2", "opt", "bart"])
def test_no_model_writes_past_its_positions(kind: str) -> None:
    task = make(decoding=Decoding(max_new_tokens=64))
    model, tokens, _ = build(kind, max_position_embeddings=32)
    sizes: list[int] = []
    generate = model.generate

    def spy(**settings: Any) -> torch.Tensor:
        written: torch.Tensor = generate(**settings)
        sizes.append(written.shape[1])
        return written

    model.generate = spy
    model.lm_head.weight.data[EOS] = 0  # it does not stop of itself
    batch = {"input_ids": torch.full((2, 24), 9), "attention_mask": torch.ones(2, 24).long()}
    assert len(task.outputs(model, tokens, batch)) == 2
    assert sizes == [32]
    if kind != "bart":
        full = {"input_ids": torch.full((2, 32), 9), "attention_mask": torch.ones(2, 32).long()}
        with pytest.raises(TaskError, match=r"32 tokens leaves no room .* 32 positions; give a lo"):
            task.outputs(model, tokens, full)


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
@pytest.mark.parametrize("decoding", [Decoding(no_repeat_ngram=2), Decoding(beams=2)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_model_writes_nothing(kind: str, decoding: Decoding, value: float) -> None:
    task = make(decoding=decoding)
    model, tokens, reader = build(kind)
    said = task.features(rows(("abc", ["-"]), ("a", ["-"])), reader, training=False)
    batch = task.collator(tokens, model)(examples(said))
    task.outputs(model, tokens, batch)
    model.lm_head.register_forward_hook(lambda _, __, logits: logits + value)
    with pytest.raises(Diverged, match="a lower learning rate may help"):
        task.outputs(model, tokens, batch)


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_a_model_learns_two_answers_by_heart(kind: str) -> None:
    task = make(decoding=Decoding(max_new_tokens=30), prefix="say: ")
    model, tokens, reader = build(
        kind, **({"initializer_range": 0.05} if kind == "gpt2" else {"initializer_factor": 1.0})
    )
    pairs = rows(("a cat, red", ["The cat is red."]), ("a dog", ["It's a dog!"]))
    batch = task.collator(tokens, model)(examples(task.features(pairs, reader, training=True)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(100):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    asked = task.features(pairs, reader, training=False)
    said = task.outputs(model, tokens, task.collator(tokens, model)(examples(asked)))
    assert said == ["The cat is red.", "It's a dog!"]
    dataset = grouped(
        (source, texts[0])
        for source, texts in zip(pairs["source"], pairs["references"], strict=True)
    )
    records = task.records(dataset, Dataset.from_dict(asked), said)
    assert records[1] == {"source": "a dog", "prediction": said[1], "references": ["It's a dog!"]}
    assert task.score(records) == pytest.approx(dict.fromkeys(MEASURES, 100.0))


def records(count: int, references: int) -> list[dict[str, Any]]:
    """Predictions near one of their references, of which rows have different numbers."""
    source = random.Random(count)
    made = []
    for number in range(count):
        answers = texts(source.randint(1, references), 12, seed=1000 + number)
        words = source.choice(answers).split()
        words[source.randrange(len(words))] = source.choice(WORDS)
        made.append({"source": "", "prediction": " ".join(words), "references": answers})
    return made


@pytest.mark.parametrize("references", [1, 5])
def test_bleu_and_chrf_are_sacrebleus(references: int) -> None:
    made = records(60, references)
    scores = make().score(made)
    # A reference that is there twice counts once: so rows come to have as many as each other.
    streams = [
        [record["references"][min(n, len(record["references"]) - 1)] for record in made]
        for n in range(references)
    ]
    predictions = [record["prediction"] for record in made]
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(predictions, streams).score)
    assert scores["chrf"] == pytest.approx(sacrebleu.corpus_chrf(predictions, streams).score)
    assert 10 < scores["bleu"] < 100 and 10 < scores["chrf"] < 100
    assert list(scores) == list(MEASURES)


def longest(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """The length of a longest common subsequence, straight from its definition."""

    @cache
    def at(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        return at(i + 1, j + 1) + 1 if a[i] == b[j] else max(at(i + 1, j), at(i, j + 1))

    return at(0, 0)


def test_rouge_by_its_definition() -> None:
    made = records(40, 4)
    total = 0.0
    for record in made:
        said = tuple(word for word in record["prediction"].split() if word.isalnum())
        best = 0.0
        for reference in record["references"]:
            words = tuple(word for word in reference.split() if word.isalnum())
            if shared := longest(said, words):
                precision, recall = shared / len(said), shared / len(words)
                best = max(best, 2 * precision * recall / (precision + recall))
        total += best
    scores = make().score(made)
    assert scores["rougeL"] == pytest.approx(100 * total / len(made), abs=1e-3)
    assert scores["rouge1"] >= scores["rougeL"] > scores["rouge2"] > 0
    line = [{"prediction": "the Cat sat!", "references": ["a cat sat down", "dogs"]}]
    assert make().score(line)["rouge1"] == pytest.approx(100 * 4 / 7, abs=1e-3)
    assert make().score(line)["rouge2"] == pytest.approx(100 * 2 / 5, abs=1e-3)


def test_empty_predictions_are_worth_nothing(caplog: pytest.LogCaptureFixture) -> None:
    nothing = [{"prediction": "", "references": ["a cat", "cats"]}] * 3
    assert make().score(nothing) == dict.fromkeys(MEASURES, 0.0)
    five = "a cat sat under trees"
    some = make().score([*nothing, {"prediction": five, "references": [five]}])
    assert some["rouge1"] == pytest.approx(25, abs=1e-4) and 0 < some["bleu"] < 100
    in_tokens = [{"prediction": "a cat .", "references": ["a cat ."]}] * 200
    make().score(in_tokens)
    assert not caplog.records
    with pytest.raises(TaskError, match="no rows to evaluate; give at least one"):
        make().score([])
