"""Models as tasks load them: nothing but the task's head is ever made up, from no form of file."""

import json
from types import SimpleNamespace

import bitmasks
import families
import pytest
import torch
from folders import assert_refused
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertModel,
)

import prunella
from prunella import UsageError
from prunella.cli import main
from prunella.experiments import models

AUTOS = {
    "classes": AutoModelForSequenceClassification,
    "tags": AutoModelForTokenClassification,
    "answers": AutoModelForQuestionAnswering,
    "causal": AutoModelForCausalLM,
    "masked": AutoModelForMaskedLM,
    "sequences": families.AutoModelForSeq2SeqLM,
}


def task(auto, **head):
    """As much of a task as loading asks for."""
    return SimpleNamespace(
        architecture=lambda config: auto,
        head=lambda: head,
        ends=lambda tokenizer: [],
        pads=False,
        classes=None,
        numeric=False,
    )


CLASSES = task(AutoModelForSequenceClassification, num_labels=2)


def change(folder, name, tensor=None):
    """Take a tensor out of a checkpoint, or put another one in its place."""
    stored = load_file(folder / "model.safetensors")
    (key,) = (key for key in stored if key.endswith(name))
    stored.pop(key)
    stored |= (
        {} if tensor is None else {key: tensor(*load_file(folder / "model.safetensors")[key].shape)}
    )
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    return key


@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_head_is_put_on_a_sparse_checkpoint_as_on_a_dense_one(family, tmp_path):
    dense, sparse = tmp_path / "dense", tmp_path / "sparse"
    families.save(family, dense)
    prunella.export(dense, sparse, "sparse")
    config = AutoConfig.from_pretrained(dense)
    tried = 0
    for auto in AUTOS.values():
        if type(config) not in auto._model_mapping:
            continue
        if config.is_encoder_decoder and auto is AutoModelForCausalLM:
            continue  # see below
        tried += 1
        loaded = []
        for folder in (dense, sparse):
            torch.manual_seed(3)  # of the head
            loaded.append(models.load(str(folder), task(auto))[0])
        states = [model.state_dict() for model in loaded]
        assert type(loaded[0]) is type(loaded[1]) and states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert tried >= 2


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_a_table_that_a_class_calls_otherwise_is_not_made_up(tmp_path, form):
    """The decoder of BART alone has a table of its own, which the whole model calls ``shared``."""
    families.save("bart", tmp_path / "dense")
    prunella.export(tmp_path / "dense", tmp_path / "sparse", "sparse")
    with pytest.raises(UsageError, match="embed_tokens"):
        models.load(str(tmp_path / form), task(AutoModelForCausalLM))


def test_names_of_old_checkpoints_are_read_from_a_sparse_one_too(tmp_path):
    families.save("bert", tmp_path / "dense")
    expected = models.load(str(tmp_path / "dense"), CLASSES)[0].bert.state_dict()
    stored = load_file(tmp_path / "dense" / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in stored.items()
    }
    save_file(old, tmp_path / "dense" / "model.safetensors", {"format": "pt"})
    prunella.export(tmp_path / "dense", tmp_path / "sparse", "sparse")
    for form in ("dense", "sparse"):
        state = models.load(str(tmp_path / form), CLASSES)[0].bert.state_dict()
        kept = [name for name in state if "pooler" not in name]
        assert all(torch.equal(state[name], expected[name]) for name in kept)


# --- what must not be made up --------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("bert", "word_embeddings.weight"),
        ("bert", "position_embeddings.weight"),
        ("bert", "embeddings.LayerNorm.weight"),
        ("bert", "layer.1.output.LayerNorm.bias"),
        ("bert", "layer.0.attention.self.query.bias"),
        ("electra", "embeddings_project.weight"),
        ("gpt2", "ln_f.weight"),
        ("gpt2", "wte.weight"),
        ("llama", "model.norm.weight"),
        ("t5", "encoder.final_layer_norm.weight"),
        ("t5", "shared.weight"),
        ("xlnet", "mask_emb"),
    ],
)
def test_whatever_the_backbone_lacks_is_an_error(tmp_path, family, name, sparse, monkeypatch):
    folder = tmp_path / "dense"
    families.save(family, folder)
    key = change(folder, name)
    if sparse:
        prunella.export(folder, tmp_path / "sparse", "sparse")
        folder = tmp_path / "sparse"
    with pytest.raises(UsageError, match=r"lacks .*give a whole checkpoint") as error:
        models.load(str(folder), CLASSES)
    if family != "t5":  # which calls it by another name too
        assert key.rpartition(".")[0].rpartition(".")[2] in str(error.value)
    for engine in ("dense", "sparse"):
        with pytest.raises(UsageError, match="lack"):
            prunella.load(folder, engine)


@pytest.mark.parametrize("name", ["word_embeddings.weight", "position_embeddings.weight"])
@pytest.mark.parametrize("sparse", [False, True])
def test_tables_of_another_shape_are_an_error(tmp_path, name, sparse):
    folder = tmp_path / "dense"
    families.save("bert", folder)
    change(folder, name, lambda rows, columns: torch.zeros(rows + 3, columns))
    if sparse:
        prunella.export(folder, tmp_path / "sparse", "sparse")
        folder = tmp_path / "sparse"
    with pytest.raises(UsageError, match=f"lacks .*{name}.*which is there as"):
        models.load(str(folder), CLASSES)
    for engine in ("dense", "sparse"):
        with pytest.raises(UsageError):
            prunella.load(folder, engine)


def test_a_config_of_other_sizes_is_an_error_by_command(bert, sst2, tmp_path, capfd):
    folder = tmp_path / "bert"
    AutoModelForSequenceClassification.from_pretrained(bert).save_pretrained(folder)
    AutoTokenizer.from_pretrained(bert).save_pretrained(folder)
    bitmasks.configure(folder, vocab_size=400)
    flags = ["--task", "glue/sst2", "--data", str(sst2), "--output", str(tmp_path / "out")]
    capfd.readouterr()
    assert main(["prune", "--model", str(folder), *flags]) == 2
    assert_refused(capfd, ["word_embeddings", "config.json describes"])


def test_poolers_are_new_where_the_checkpoints_class_has_none(tmp_path):
    families.save("bert", tmp_path)  # of masked language modelling
    assert models.load(str(tmp_path), CLASSES)[0].bert.pooler is not None
    families.build("bert", AutoModelForSequenceClassification).save_pretrained(tmp_path)
    model, _ = models.load(str(tmp_path), task(AutoModelForSequenceClassification, num_labels=5))
    assert model.config.num_labels == 5  # a head of another shape is a new one
    change(tmp_path, "pooler.dense.weight")
    with pytest.raises(UsageError, match=r"lacks bert.pooler.dense.weight"):
        models.load(str(tmp_path), CLASSES)


def test_a_checkpoint_that_names_no_class_must_be_whole(tmp_path):
    families.save("bert", tmp_path)
    bitmasks.configure(tmp_path, architectures=None)
    with pytest.raises(UsageError, match=r"lacks bert.pooler.*name the class it was saved from"):
        models.load(str(tmp_path), CLASSES)
    masked = task(AutoModelForMaskedLM)
    assert models.load(str(tmp_path), masked)[0].num_parameters() > 0


def test_a_backbone_alone_gets_any_head(tmp_path):
    families.save("bert", tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    BertModel(config).save_pretrained(tmp_path)
    for auto in (AutoModelForSequenceClassification, AutoModelForQuestionAnswering):
        assert models.load(str(tmp_path), task(auto))[0].num_parameters() > 0


@pytest.mark.parametrize("labels", [2, 3])
def test_a_teacher_is_whole_or_refused(tmp_path, labels):
    families.save("bert", tmp_path / "student")
    student, tokenizer = models.load(str(tmp_path / "student"), CLASSES)
    families.build("bert", AutoModelForSequenceClassification).save_pretrained(tmp_path)
    families.tokenizer("bert").save_pretrained(tmp_path)
    change(tmp_path, "classifier.weight", None if labels == 2 else lambda _, n: torch.zeros(3, n))
    with pytest.raises(UsageError, match="teacher"):
        models.load_teacher(str(tmp_path), student, tokenizer, CLASSES)


# --- tokenizers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("special", [False, True])
def test_a_tokenizer_larger_than_the_embeddings_is_refused(tmp_path, special, bert, sst2, capfd):
    families.save("bert", tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    rows = len(tokenizer)
    if special:
        tokenizer.add_special_tokens({"pad_token": "<new>"})
    else:
        tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "model")
    flags = ["--task", "glue/sst2", "--data", str(sst2), "--output", str(tmp_path / "out")]
    capfd.readouterr()
    assert main(["prune", "--model", str(tmp_path / "model"), *flags]) == 2
    assert_refused(capfd, ["<new>", f"for {rows} tokens", "resize_token_embeddings"])
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match="resize_token_embeddings"):
        models.tokenizer(tmp_path / "model", model)
    model.resize_token_embeddings(rows + 1)
    model.save_pretrained(tmp_path / "model")
    assert models.load(str(tmp_path / "model"), CLASSES)[1].get_vocab()["<new>"] == rows


def test_padded_vocabularies_are_fine(tmp_path):
    families.save("bert", tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(tmp_path)
    model.resize_token_embeddings(pad_to_multiple_of=64)
    model.save_pretrained(tmp_path)
    assert models.load(str(tmp_path), CLASSES)[0].config.vocab_size % 64 == 0


# --- dtypes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "told"),
    [("bfloat16", True), ("float16", True), ("float64", True), ("float32", False)],
)
def test_the_first_line_says_that_float32_comes_out(bert, sst2, tmp_path, dtype, told, capsys):
    folder, out = tmp_path / "model", tmp_path / "out"
    AutoModelForSequenceClassification.from_pretrained(bert).to(
        getattr(torch, dtype)
    ).save_pretrained(folder)
    AutoTokenizer.from_pretrained(bert).save_pretrained(folder)
    if dtype == "float16":  # its file alone says so
        bitmasks.configure(folder, dtype=None)
    flags = ["--task", "glue/sst2", "--data", str(sst2), "--output", str(out), "--batch-size", "4"]
    more = ["--criterion", "dense", "--max-steps", "4", "--check-every", "4"]
    assert main(["prune", "--model", str(folder), *flags, *more]) == 0
    words = f"the {dtype} weights of the checkpoint are trained and saved in float32"
    assert (words in " ".join(capsys.readouterr().out.split())) == told
    assert prunella.load(out, "dense").dtype == torch.float32
    assert json.loads((out / "config.json").read_text())["dtype"] == "float32"
    back = prunella.load(out, "dense").to(getattr(torch, dtype))
    prunella.save(back, tmp_path / "back")
    assert prunella.load(tmp_path / "back", "dense").dtype == getattr(torch, dtype)
