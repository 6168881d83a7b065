"""Small random models of every family Prunella is tested on, each with a tokenizer of its own kind.

A model has two layers of 32 × 64, so that a step takes milliseconds; a tokenizer has a few hundred
entries and its family's special tokens, and pads, begins and ends texts as its family does.
"""

import json
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AlbertConfig,
    AlbertTokenizer,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BertConfig,
    BertTokenizer,
    DebertaV2Config,
    DebertaV2Tokenizer,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    GPT2Tokenizer,
    LlamaConfig,
    LlamaTokenizer,
    MBartConfig,
    MBartTokenizer,
    ModernBertConfig,
    MPNetConfig,
    MPNetTokenizer,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Tokenizer,
    RobertaConfig,
    RobertaTokenizer,
    T5Config,
    T5Tokenizer,
    XLNetConfig,
    XLNetTokenizer,
)

TEXT = (
    "the a an of to in and is was it not who what where when city river king won film good bad "
    "fine poor lovely awful warm cold question answer yes no one two three red green"
)
WORDS = tuple(TEXT.split())
SIGNS = tuple(string.ascii_letters + string.digits + ".,:;!?'\"()-/&%$")


@dataclass(frozen=True)
class Family:
    """What a family is made of.

    Attributes:
        config: of the sizes given; the vocabulary and its special tokens come from the tokenizer.
        sizes: as the config calls them.
        tokenizer: makes one.
        auto: the class of its pretrained checkpoints.
        tokens: further ids of its config, by the tokens they are of.
    """

    config: type[PreTrainedConfig]
    sizes: dict[str, Any]
    tokenizer: Callable[[], PreTrainedTokenizerBase]
    auto: Any = AutoModelForMaskedLM
    tokens: dict[str, str] = field(default_factory=dict)


# --- tokenizers ----------------------------------------------------------------------------------


def _wordpiece(*special: str) -> dict[str, int]:
    entries = [*special, *SIGNS, *(f"##{sign}" for sign in SIGNS), *WORDS[2:]]
    return {entry: index for index, entry in enumerate(entries)}


def _unigram(*special: str) -> list[tuple[str, float]]:
    words = [(f"▁{word}", -3.0) for word in WORDS]
    return [(s, 0.0) for s in special] + [("▁", -4.0)] + words + [(sign, -6.0) for sign in SIGNS]


def _bpe(*special: str, metaspace: bool = False) -> dict[str, Any]:
    """Vocabulary and merges that spell everything, and the words in one piece."""
    tokenizer = Tokenizer(models.BPE())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    if metaspace:
        alphabet = ["▁", *SIGNS]
        special = (*special, *(f"<0x{byte:02X}>" for byte in range(256)))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=480, initial_alphabet=alphabet, special_tokens=list(special), show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return {"vocab": tokenizer.get_vocab(), "merges": [tuple(pair) for pair in merges]}


BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FAIRSEQ_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
LANGUAGES = ("en_XX", "de_DE", "ro_RO")


def _bert() -> PreTrainedTokenizerBase:
    return BertTokenizer(vocab=_wordpiece(*BERT_TOKENS))


def _roberta() -> PreTrainedTokenizerBase:
    return RobertaTokenizer(**_bpe(*FAIRSEQ_TOKENS, "<mask>"))


def _deberta() -> PreTrainedTokenizerBase:
    return DebertaV2Tokenizer(vocab=_unigram("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"))


def _albert() -> PreTrainedTokenizerBase:
    return AlbertTokenizer(vocab=_unigram("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"))


def _xlnet() -> PreTrainedTokenizerBase:
    """Pads on the left; ``<sep> <cls>`` ends a text."""
    special = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>")
    return XLNetTokenizer(vocab=_unigram(*special))


def _mpnet() -> PreTrainedTokenizerBase:
    return MPNetTokenizer(vocab=_wordpiece("<s>", "<pad>", "</s>", "[UNK]", "<mask>"))


def _modernbert() -> PreTrainedTokenizerBase:
    """A byte-level BPE with BERT's special tokens."""
    tokenizer = GPT2Tokenizer(**_bpe(*BERT_TOKENS)).backend_tokenizer
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **dict(zip(names, BERT_TOKENS, strict=True))
    )


def _gpt2() -> PreTrainedTokenizerBase:
    """No padding token."""
    return GPT2Tokenizer(**_bpe("<|endoftext|>"))


def _opt() -> PreTrainedTokenizerBase:
    return GPT2Tokenizer(
        **_bpe(*FAIRSEQ_TOKENS),
        pad_token="<pad>",
        **dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>"),
        add_bos_token=True,
    )


def _llama() -> PreTrainedTokenizerBase:
    """No padding token; ``<s>`` begins a text."""
    return LlamaTokenizer(**_bpe("<unk>", "<s>", "</s>", metaspace=True), add_bos_token=True)


def _qwen2() -> PreTrainedTokenizerBase:
    """Ends and pads with the same token; made for chat."""
    template = (
        "{% for m in messages %}{{ m.role + '\n' + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}"
    )
    return Qwen2Tokenizer(**_bpe("<|endoftext|>"), chat_template=template)


def _t5() -> PreTrainedTokenizerBase:
    sentinels = [f"<extra_id_{number}>" for number in range(10)]
    vocab = _unigram("<pad>", "</s>", "<unk>") + [(token, 0.0) for token in reversed(sentinels)]
    return T5Tokenizer(vocab=vocab, extra_ids=10)


def _mbart() -> PreTrainedTokenizerBase:
    """``</s>`` and the language end a text."""
    vocab = [*_unigram(*FAIRSEQ_TOKENS), *((code, 0.0) for code in LANGUAGES), ("<mask>", 0.0)]
    return MBartTokenizer(vocab=vocab, src_lang="en_XX", tgt_lang="en_XX")


# --- families ------------------------------------------------------------------------------------

# Weights larger than usual: texts must look different to a model that is to learn in few steps.
_SIDES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.1,
}
_BERT = {**_SIDES, "intermediate_size": 64, "max_position_embeddings": 130}
_BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "init_std": 0.1,
}
_DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
_DEBERTA = {
    **_BERT,
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_buckets": 8,
    "conv_kernel_size": 3,
}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_inner": 64, "n_positions": 128}
_OPT = {"ffn_dim": 64, "word_embed_proj_dim": 16, "max_position_embeddings": 128, "init_std": 0.1}
_LLAMA = {**_BERT, "num_key_value_heads": 1}
_T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}

FAMILIES: dict[str, Family] = {
    "bert": Family(BertConfig, _BERT, _bert),
    "roberta": Family(RobertaConfig, _BERT, _roberta),
    "distilbert": Family(DistilBertConfig, _DISTILBERT | {"initializer_range": 0.1}, _bert),
    "electra": Family(ElectraConfig, _BERT | {"embedding_size": 16}, _bert),
    "deberta-v2": Family(DebertaV2Config, _DEBERTA, _deberta),
    "albert": Family(AlbertConfig, _BERT | {"embedding_size": 16}, _albert),
    "xlnet": Family(
        XLNetConfig,
        {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64, "initializer_range": 0.1},
        _xlnet,
        AutoModelForCausalLM,
    ),
    "mpnet": Family(MPNetConfig, _BERT, _mpnet),
    "modernbert": Family(
        ModernBertConfig,
        _BERT,
        _modernbert,
        tokens={
            "bos_token_id": "[CLS]",
            "cls_token_id": "[CLS]",
            "eos_token_id": "[SEP]",
            "sep_token_id": "[SEP]",
        },
    ),
    "gpt2": Family(GPT2Config, _GPT2 | {"initializer_range": 0.1}, _gpt2, AutoModelForCausalLM),
    "opt": Family(OPTConfig, _SIDES | _OPT, _opt, AutoModelForCausalLM),
    "llama": Family(LlamaConfig, _LLAMA, _llama, AutoModelForCausalLM),
    "qwen2": Family(
        Qwen2Config, _LLAMA | {"tie_word_embeddings": True}, _qwen2, AutoModelForCausalLM
    ),
    "t5": Family(T5Config, _T5, _t5, AutoModelForSeq2SeqLM, {"decoder_start_token_id": "<pad>"}),
    "bart": Family(BartConfig, _BART, _roberta, AutoModelForSeq2SeqLM),
    "mbart": Family(
        MBartConfig, _BART, _mbart, AutoModelForSeq2SeqLM, {"decoder_start_token_id": "en_XX"}
    ),
}


def tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A new tokenizer of a family."""
    return FAMILIES[name].tokenizer()


def build(name: str, auto: Any) -> PreTrainedModel:
    """A random model of a family, the same at every call.

    Args:
        name: a key of ``FAMILIES``.
        auto: its head, as a class of Transformers: ``AutoModelForTokenClassification``.
    """
    family, reader = FAMILIES[name], tokenizer(name)
    ids = {
        f"{kind}_token_id": getattr(reader, f"{kind}_token_id") for kind in ("pad", "bos", "eos")
    }
    ids |= {key: reader.convert_tokens_to_ids(token) for key, token in family.tokens.items()}
    known = {key: value for key, value in ids.items() if value is not None}
    config = family.config(vocab_size=len(reader), **known, **family.sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return auto.from_config(config)


def save(name: str, folder: Path) -> None:
    """Write what a pretrained checkpoint of the family holds: config, weights and tokenizer."""
    build(name, FAMILIES[name].auto).save_pretrained(folder)
    tokenizer(name).save_pretrained(folder)
