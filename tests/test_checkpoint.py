"""Saved and loaded models against their dense twins, for the families the engine knows or not."""

import copy
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig, pipeline

import prunella
from prunella import UsageError
from prunella.runtime import SparseLinear, checkpoint, engine
from prunella.runtime.encoder import FusedEncoder
from prunella.runtime.linear import footprint

pytestmark = pytest.mark.usefixtures("two_threads")

BERT = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 100,
    "max_position_embeddings": 1300,
    "vocab_size": 100,
}
SEQ2SEQ = {
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "vocab_size": 100,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
T5 = {
    "d_model": 48,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 2,
    "d_kv": 16,
    "vocab_size": 100,
    "decoder_start_token_id": 0,
}
GPT2 = {"n_embd": 48, "n_layer": 2, "n_head": 3, "vocab_size": 100}
DISTIL = {"dim": 48, "hidden_dim": 100, "n_layers": 2, "n_heads": 3, "vocab_size": 100}
FAMILIES = {
    "BertForSequenceClassification": BERT,
    "BertForMaskedLM": BERT,
    "RobertaForTokenClassification": BERT,
    "ElectraForSequenceClassification": {**BERT, "embedding_size": 32},
    "XLMRobertaForQuestionAnswering": BERT,
    "DistilBertForQuestionAnswering": DISTIL,
    "GPT2LMHeadModel": {**GPT2, "bos_token_id": 0, "eos_token_id": 0},
    "T5ForConditionalGeneration": T5,
    "BartForConditionalGeneration": SEQ2SEQ,
}
FUSED = ("Bert", "Roberta", "Electra", "XLMRoberta", "DistilBert")


def build(name, **more):
    """A random model with 85 % zeros in the linear layers of its blocks."""
    torch.manual_seed(0)
    architecture = getattr(transformers, name)
    config = architecture.config_class(**{**FAMILIES[name], **more})
    model = architecture(config).eval()
    for key, parameter in model.named_parameters():
        if parameter.ndim == 2 and any(part in key for part in (".layer", ".h.", ".block.")):
            parameter.data.mul_(4).masked_fill_(torch.rand_like(parameter) < 0.85, 0)
    return model


def batch(model, length=21):
    """Sentences of several lengths, padded behind."""
    torch.manual_seed(1)
    ids = torch.randint(3, 100, (4, length))
    mask = (torch.arange(length) < torch.tensor([[length], [length // 2], [1], [17]])).long()
    inputs = {"input_ids": ids, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        inputs |= {"decoder_input_ids": ids[:, :5]}
    return inputs


def outputs(model, inputs):
    """The first output, where it is not padding's."""
    with torch.no_grad():
        out = model(**inputs)[0]
    if out.shape[:2] == inputs["input_ids"].shape and not model.config.is_encoder_decoder:
        out = out[inputs["attention_mask"].bool()]
    return out


def close(a, b):
    return torch.allclose(a, b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


@pytest.fixture
def bert(tmp_path):
    model = build("BertForSequenceClassification")
    prunella.save(model, tmp_path / "bert")
    return model, tmp_path / "bert"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_loaded_model_equals_its_dense_twin(name, variant, tmp_path):
    model = build(name)
    prunella.save(model, tmp_path / "sparse")
    assert {p.name for p in (tmp_path / "sparse").iterdir()} <= {
        "config.json",
        "generation_config.json",
        "sparse.safetensors",
    }
    sparse, dense = prunella.load(tmp_path / "sparse"), prunella.load(tmp_path / "sparse", "dense")
    assert type(sparse) is type(dense) is type(model)
    state = dense.state_dict()
    assert state.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[key]) and torch.equal(tensor, sparse.state_dict()[key])
    assert sum(isinstance(m, SparseLinear) for m in sparse.modules()) >= 8
    fused = sum(isinstance(m, FusedEncoder) for m in sparse.modules())
    assert fused == name.startswith(FUSED)
    for length in (21, 70):
        inputs = batch(model, length)
        assert close(outputs(sparse, inputs), outputs(model, inputs))
        assert torch.equal(outputs(dense, inputs), outputs(model, inputs))


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 63, 64, 65, 200, 1100])
def test_sentences_of_any_length(length, variant, bert):
    model, folder = bert
    ids = torch.randint(3, 100, (1 if length > 1000 else 3, length))
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        with torch.no_grad():
            assert close(prunella.load(folder)(ids).logits, model(ids).logits)


def test_more_sentences_than_are_worked_on_at_a_time(bert):
    model, folder = bert
    inputs = {"input_ids": torch.randint(3, 100, (40, 90))}
    inputs["attention_mask"] = (torch.arange(90) < torch.randint(1, 90, (40, 1))).long()
    assert close(outputs(prunella.load(folder), inputs), outputs(model, inputs))


@pytest.mark.parametrize("activation", ["relu", "gelu_new", "gelu_pytorch_tanh", "silu"])
def test_activations(activation, variant, tmp_path):
    model = build("BertForSequenceClassification", hidden_act=activation)
    prunella.save(model, tmp_path)
    sparse = prunella.load(tmp_path)
    fused = any(isinstance(m, FusedEncoder) for m in sparse.modules())
    assert fused == (activation != "silu")  # which the engine does not have
    assert close(outputs(sparse, batch(model)), outputs(model, batch(model)))


def test_more_than_the_last_hidden_state(bert):
    model, folder = bert
    sparse, inputs = prunella.load(folder), batch(bert[0])
    with torch.no_grad():
        ours = sparse(**inputs, output_hidden_states=True)
        theirs = model(**inputs, output_hidden_states=True)
        assert len(ours.hidden_states) == 3
        for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True):
            assert close(a, b)
    sparse.set_attn_implementation("eager")
    assert len(sparse(**inputs, output_attentions=True).attentions) == 2
    assert close(outputs(sparse, inputs), outputs(model, inputs))


def test_hooks_inside_a_fused_encoder_are_heard(bert):
    sparse, seen = prunella.load(bert[1]), []
    sparse.bert.encoder.layer[1].register_forward_hook(lambda *_: seen.append(1))
    outputs(sparse, batch(bert[0]))
    assert seen == [1]


def test_padding_in_front_and_holes(bert):
    model, folder = bert
    inputs = batch(model)
    inputs["attention_mask"][1] = inputs["attention_mask"][1].flip(0)
    inputs["attention_mask"][3, 4:7] = 0
    assert close(outputs(prunella.load(folder), inputs), outputs(model, inputs))


def test_what_a_fused_encoder_leaves_to_its_layers(bert):
    """Inputs that its call would misread, and settings that it does not know."""
    model, folder = bert
    encoder = prunella.load(folder).bert.encoder
    hidden = torch.randn(2, 5, 48)
    with torch.no_grad():
        expected = model.bert.encoder(hidden).last_hidden_state
        assert close(encoder(hidden).last_hidden_state, expected)
        causal = model.bert.encoder(hidden, is_causal=True).last_hidden_state
        assert close(encoder(hidden, is_causal=True).last_hidden_state, causal)
        negative = torch._neg_view(-hidden)
        assert close(encoder(negative).last_hidden_state, expected)
        for odd in (hidden[:, :, :10], hidden.to("meta"), hidden.double()):
            with pytest.raises((UsageError, RuntimeError)):
                encoder(odd)
    encoder.layer[0].output.LayerNorm.weight.requires_grad_()
    with pytest.raises(UsageError, match="gradient"):
        encoder(hidden)


def test_hidden_states_do_not_slow_what_follows(bert):
    sparse, inputs = prunella.load(bert[1]), batch(bert[0])
    calls = []
    run = FusedEncoder.run
    sparse.bert.encoder.run = lambda *args: calls.append(1) or run(sparse.bert.encoder, *args)
    outputs(sparse, inputs)
    with torch.no_grad():
        assert len(sparse(**inputs, output_hidden_states=True).hidden_states) == 3
        assert len(calls) == 1
    outputs(sparse, inputs)
    assert len(calls) == 2


def test_compiled_and_traced(bert):
    model, folder = bert
    sparse, inputs = prunella.load(folder), batch(model)
    with torch.no_grad():
        out = torch.compile(sparse, backend="eager")(**inputs).logits
        assert close(out, outputs(model, inputs))
        with pytest.warns(DeprecationWarning), pytest.raises(UsageError, match="traced"):
            torch.jit.trace(sparse.bert.encoder.layer[0].output.dense, torch.randn(1, 100))


def test_other_default_dtypes_and_devices(bert):
    model, folder = bert
    sparse, inputs = prunella.load(folder), batch(model)
    expected = outputs(model, inputs)
    for dtype in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            state = sparse.state_dict()
            out = outputs(sparse.to("cpu"), inputs)
        finally:
            torch.set_default_dtype(torch.float32)
        assert all(torch.equal(state[n], t) for n, t in model.state_dict().items())
        assert close(out, expected)
    with torch.device("meta"):
        assert close(outputs(sparse, inputs), expected)


@pytest.mark.parametrize(
    "use",
    [
        lambda model, state: model.train(),
        lambda model, state: model.half(),
        lambda model, state: model.to("meta"),
        lambda model, state: model.load_state_dict(state),
    ],
)
def test_what_is_refused_changes_nothing(use, bert):
    model, folder = bert
    sparse, inputs = prunella.load(folder), batch(model)
    twin = copy.deepcopy(sparse)
    for each in (sparse, twin, pickle.loads(pickle.dumps(sparse))):
        with pytest.raises(UsageError, match="engine='dense'"):
            use(each, {n: t + 1 for n, t in model.state_dict().items()})
        assert not any(m.training for m in each.modules())
        assert close(outputs(each, inputs), outputs(model, inputs))


def test_masks_that_differ_from_query_to_query(bert):
    model, folder = bert
    ids = torch.randint(3, 100, (2, 12))
    mask = torch.ones(2, 12, 12).tril()
    with torch.no_grad():
        ours = prunella.load(folder)(ids, attention_mask=mask[:, None].bool()).logits
        theirs = model(ids, attention_mask=mask[:, None].bool()).logits
    assert close(ours, theirs)


def test_generation(tmp_path):
    for name in ("GPT2LMHeadModel", "T5ForConditionalGeneration", "BartForConditionalGeneration"):
        model = build(name)
        model.generation_config.max_new_tokens = 7
        prunella.save(model, tmp_path / name)
        sparse = prunella.load(tmp_path / name)
        assert sparse.generation_config.max_new_tokens == 7
        prompt = torch.randint(3, 100, (2, 5))
        for beams in (1, 3):
            asked = {"num_beams": beams, "do_sample": False, "attention_mask": prompt > 0}
            assert torch.equal(sparse.generate(prompt, **asked), model.generate(prompt, **asked))


def test_a_pipeline(bert, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: at for at, word in enumerate(["[UNK]", "[PAD]", "good", "bad", "film"])}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(
            tokenizers.models.WordLevel(words, unk_token="[UNK]")
        ),
        unk_token="[UNK]",
        pad_token="[PAD]",
    )
    tokenizer.backend_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model, folder = bert
    prunella.save(model, folder, tokenizer=tokenizer)
    judge = pipeline("text-classification", model=prunella.load(folder), tokenizer=tokenizer)
    expected = pipeline("text-classification", model=model, tokenizer=tokenizer)
    for ours, theirs in zip(judge(["good film"] * 2), expected(["good film"] * 2), strict=True):
        assert ours["label"] == theirs["label"]
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
    prunella.export(folder, folder.with_name("dense"), "dense")
    assert transformers.AutoTokenizer.from_pretrained(folder.with_name("dense"))("bad").input_ids


def test_copies(bert):
    sparse, inputs = prunella.load(bert[1]), batch(bert[0])
    expected = outputs(sparse, inputs)
    for twin in (copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse))):
        assert torch.equal(outputs(twin, inputs), expected)


def test_a_sparse_model_can_be_saved_again(bert, tmp_path):
    model, folder = bert
    sparse = prunella.load(folder)
    sparse.save_pretrained(tmp_path / "dense")
    prunella.save(sparse, tmp_path / "again")
    again = type(model).from_pretrained(tmp_path / "dense")
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)
    written = [(f / "sparse.safetensors").read_bytes() for f in (folder, tmp_path / "again")]
    assert written[0] == written[1]


def test_saving_replaces_what_was_there(bert):
    model, folder = bert
    model.save_pretrained(folder)
    prunella.save(model, folder)
    assert not (folder / "model.safetensors").exists()
    prunella.export(folder, folder.with_name("there"), "dense")
    prunella.export(folder, folder.with_name("there"), "sparse", overwrite=True)
    assert [p.name for p in folder.with_name("there").glob("*.safetensors")] == [
        "sparse.safetensors"
    ]


def test_exports_are_the_same_model(bert):
    model, folder = bert
    dense = folder.with_name("dense")
    prunella.export(folder, dense, "dense")
    own = type(model).from_pretrained(dense)
    inputs = batch(model)
    assert torch.equal(outputs(own.eval(), inputs), outputs(model, inputs))
    # A dense folder is loaded sparse as well.
    sparse = prunella.load(dense)
    assert any(isinstance(m, FusedEncoder) for m in sparse.modules())
    assert close(outputs(sparse, inputs), outputs(model, inputs))
    assert footprint(sparse) < footprint(model)


def test_exports_take_all_other_files_along(bert):
    folder, target = bert[1], bert[1].with_name("out")
    (folder / "bpe.codes").write_text("a b")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("{{ 1 }}")
    (folder / "optimizer.pt").write_text("of the training")
    target.mkdir()
    (target / "mine.pt").write_text("not a model")
    for old in ("pytorch_model.bin", "model-00001-of-00002.safetensors"):
        (target / old).write_text("of another model")
    for _ in range(2):
        prunella.export(folder, target, "sparse", overwrite=True)
        assert {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()} == {
            "bpe.codes",
            "config.json",
            "mine.pt",
            "additional_chat_templates/tool.jinja",
            "sparse.safetensors",
        }
    assert (target / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    with pytest.raises(UsageError, match=r"no config\.json"):
        prunella.export(folder.parent, target, "dense")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_coarse_weights_on_disk(dtype, tmp_path):
    model = build("BertForSequenceClassification").to(dtype)
    prunella.save(model, tmp_path)
    kept = prunella.load(tmp_path, "dense")
    assert kept.dtype == dtype
    for key, tensor in model.state_dict().items():
        assert torch.equal(kept.state_dict()[key], tensor)
    sparse = prunella.load(tmp_path)
    assert sparse.dtype == torch.float32
    inputs = batch(model)
    assert close(outputs(sparse, inputs), outputs(model.float(), inputs))


def test_weights_of_other_names_are_loaded_by_transformers(bert):
    """As of a headless checkpoint under a model with a head: slower, and right."""
    from prunella.runtime import files

    model, folder = bert
    renamed = {n.replace("bert.", "", 1): t for n, t in model.state_dict().items()}
    files.write(renamed, folder / "sparse.safetensors")
    sparse = prunella.load(folder)
    assert any(isinstance(m, FusedEncoder) for m in sparse.modules())
    assert close(outputs(sparse, batch(model)), outputs(model, batch(model)))


def test_without_an_engine_a_sparse_file_gives_a_dense_model(bert, monkeypatch):
    model, folder = bert
    monkeypatch.setenv("PRUNELLA_ENGINE", "off")
    engine.variant.cache_clear()
    try:
        loaded = prunella.load(folder)
    finally:
        engine.variant.cache_clear()
    assert not any(isinstance(m, SparseLinear) for m in loaded.modules())
    assert torch.equal(outputs(loaded, batch(model)), outputs(model, batch(model)))


def _config(**changes):
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def _index(file: str):
    def change(folder: Path) -> None:
        (folder / "sparse.safetensors").unlink()
        index = {"weight_map": {"classifier.weight": file}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda f: shutil.rmtree(f), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be used"),
        (lambda f: (f / "sparse.safetensors").unlink(), "has no weights"),
        (_config(architectures=None), "architecture None"),
        (_config(architectures=["logging"]), "logging"),
        (_config(num_hidden_layers=1), "more than fits"),
        (_config(intermediate_size=64), "config|cannot be loaded"),
        (_config(num_attention_heads=5), "config|cannot be loaded"),
        (lambda f: shutil.copy(f / "sparse.safetensors", f / "model.safetensors"), "remove one"),
        (_index("weights.bin"), "no safetensors file"),
        (_config(architectures=["SomebodysModel"]), "SomebodysModel"),
        (_config(num_hidden_layers=3), "lack"),
        (lambda f: os.truncate(f / "sparse.safetensors", 9000), "sparse.safetensors"),
    ],
)
@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_folders_that_cannot_be_loaded(damage, words, kind, bert):
    damage(bert[1])
    with pytest.raises(UsageError, match=words):
        prunella.load(bert[1], kind)


def test_bad_arguments(bert, tmp_path):
    model, folder = bert
    with pytest.raises(UsageError, match="engine is 'gpu'"):
        prunella.load(folder, "gpu")
    with pytest.raises(UsageError, match="format is 'pt'"):
        prunella.export(folder, tmp_path / "out", "pt")
    with pytest.raises(UsageError, match="over itself"):
        prunella.export(folder, folder, "dense")
    with pytest.raises(UsageError, match="not a model of Transformers"):
        prunella.save(nn.Linear(3, 3), tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(prunella.Unsaved, match="file"):
        prunella.save(model, tmp_path / "file")


def test_who_zeroed_with_a_product_is_told(bert, tmp_path):
    model, folder = bert
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.copy_(torch.where(parameter == 0, -0.0, parameter))
    with pytest.warns(UserWarning, match="weights are -0.0"):
        prunella.save(model, tmp_path / "large")
    assert checkpoint.size(tmp_path / "large") > checkpoint.size(folder)
    state = prunella.load(tmp_path / "large", "dense").state_dict()
    assert all(torch.equal(t.signbit(), state[n].signbit()) for n, t in model.state_dict().items())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.0
    prunella.save(model, tmp_path / "small")
    assert checkpoint.size(tmp_path / "small") == checkpoint.size(folder)


def test_nothing_half_written(bert, monkeypatch):
    """A process that breaks off while saving leaves the model that was there."""
    folder = bert[1]
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.files, "write", full)
    other = build("BertForSequenceClassification", hidden_act="relu")
    with pytest.raises(prunella.Unsaved, match="No space left"):
        prunella.save(other, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert AutoConfig.from_pretrained(folder).hidden_act == "gelu"


def test_the_command(bert, capfd):
    from prunella.cli import main

    folder = bert[1]
    figures = folder.with_name("bench.json")
    asked = ["bench", "--model", str(folder), "--length", "9", "--batch", "2"]
    assert main([*asked, "--threads", "1", "--seconds", "1", "--json", str(figures)]) == 0
    told = json.loads(figures.read_text())
    assert told["speedup"] == told["latency_ms"]["dense"] / told["latency_ms"]["sparse"]
    assert told["max_abs_diff"] < 1e-5 and told["threads"] == 1
    assert told["memory_bytes"]["sparse"] < told["memory_bytes"]["dense"]
    assert "speed-up" in capfd.readouterr().out
    assert main(["info", str(folder), "--json", str(figures)]) == 0
    assert json.loads(figures.read_text())["form"] == "sparse"
    assert main(["export", str(folder), str(folder.with_name("out")), "--format", "dense"]) == 0
    assert "MB of weights" in capfd.readouterr().out
    assert main(["bench", "--model", str(folder), "--length", "4000"]) == 2
    assert "the model takes 1300 tokens" in capfd.readouterr().err
    assert main(["bench", "--model", str(folder), "--decode", "3"]) == 2
    assert "token by token" in capfd.readouterr().err
    assert main(["info", str(folder.with_name("nowhere"))]) == 2


def test_bench_of_decoding(tmp_path):
    from prunella.runtime import bench

    prunella.save(build("GPT2LMHeadModel", bos_token_id=0, eos_token_id=0), tmp_path)
    told = bench.bench(tmp_path, length=12, decode=4, batch=2, seconds=1)
    assert told["decode"] == 4 and told["max_abs_diff"] < 1e-4
