"""The ONNX file computes what the model computes, and holds its weights as they are."""

import copy
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForTokenClassification,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from prunella import UsageError
from prunella.prunable import is_conv1d
from prunella.runtime import sparsify
from prunella.runtime.onnx import export_onnx

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
INPUTS = ("input_ids", "attention_mask")


def bert():
    return BertForSequenceClassification(BertConfig(**SIZES, num_labels=3))


def roberta():
    return RobertaForTokenClassification(RobertaConfig(**SIZES, num_labels=5, type_vocab_size=1))


def distilbert():
    config = DistilBertConfig(vocab_size=99, dim=32, n_layers=1, n_heads=2, hidden_dim=64)
    return DistilBertForQuestionAnswering(config)


def gpt2():
    return GPT2LMHeadModel(GPT2Config(**gpt2_sizes()))


def gpt2_sizes():
    return {"vocab_size": 99, "n_embd": 32, "n_layer": 1, "n_head": 2} | dict.fromkeys(
        ("bos_token_id", "eos_token_id"), 1
    )


def t5():
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=99, decoder_start_token_id=0, **sizes))


def bart():
    parts = {"layers": 1, "attention_heads": 2, "ffn_dim": 64}
    sizes = {f"{side}_{k}": n for side in ("encoder", "decoder") for k, n in parts.items()}
    return BartForConditionalGeneration(BartConfig(vocab_size=99, d_model=32, **sizes))


def pruned(make):
    """A model at 80 % zeros, a few of them negative, in training mode."""
    torch.manual_seed(0)
    model = make()
    for module in linears(model).values():
        weight = module.weight.data
        weight[torch.rand_like(weight) < 0.8] = 0
        weight[0, weight[0] == 0] = -0.0
    return model.train()


def linears(model):
    return {n: m for n, m in model.named_modules() if type(m) is nn.Linear or is_conv1d(m)}


@pytest.mark.parametrize(
    ("make", "inputs", "outputs"),
    [
        (bert, (*INPUTS, "token_type_ids"), ["logits"]),
        (roberta, INPUTS, ["logits"]),
        (distilbert, INPUTS, ["start_logits", "end_logits"]),
        (gpt2, INPUTS, ["logits"]),
        (t5, (*INPUTS, "decoder_input_ids"), ["logits", "encoder_last_hidden_state"]),
        (bart, (*INPUTS, "decoder_input_ids"), ["logits", "encoder_last_hidden_state"]),
    ],
)
def test_file_equals_model(tmp_path, capsys, make, inputs, outputs):
    model = pruned(make)
    capsys.readouterr()
    before = copy.deepcopy(model.state_dict())
    caching = getattr(model.config, "use_cache", None)
    path = tmp_path / "model.onnx"

    assert export_onnx(model, path) < 1e-5

    assert list(tmp_path.iterdir()) == [path]
    assert capsys.readouterr() == ("", "")
    assert model.training and getattr(model.config, "use_cache", None) == caching
    assert "forward" not in vars(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    holds_the_weights(onnx.load(path).graph, model)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    axes = {tuple(tensor.shape) for tensor in session.get_inputs()}
    assert axes == {("batch", "sequence")} | (
        {("batch", "decoder_sequence")} if "decoder_input_ids" in inputs else set()
    )
    assert tuple(tensor.name for tensor in session.get_inputs()) == inputs
    assert [tensor.name for tensor in session.get_outputs()] == outputs
    model.eval()
    for batch, length in ((1, 1), (4, 21)):
        given = sentences(inputs, batch, length)
        with torch.no_grad():
            expected = model(**{name: torch.from_numpy(given[name]) for name in inputs})
        for name, found in zip(outputs, session.run(outputs, given), strict=True):
            np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-5)


def holds_the_weights(graph, model):
    """Those of the linear layers by their names, to the bit, and no other of them twice."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    tied = {id(p): n for n, p in model.named_parameters()}
    for name, module in linears(model).items():
        weight = module.weight.detach().numpy()
        found = stored.get(f"{name}.weight", stored.get(tied[id(module.weight)]))
        assert found.tobytes() == weight.tobytes(), name
    parameters = sum(p.numel() for p in model.parameters())
    constants = sum(b.numel() for b in model.buffers()) + 200
    assert sum(array.size for array in stored.values()) <= parameters + constants


def sentences(inputs, batch, length):
    """Sentences each three tokens shorter than the one before it, and padding that is masked."""
    generator = np.random.default_rng(1)
    mask = np.arange(length) < length - 3 * np.arange(batch)[:, None]
    every = {
        "input_ids": np.where(mask, generator.integers(2, 99, (batch, length)), 1),
        "attention_mask": mask.astype(np.int64),
        "token_type_ids": generator.integers(0, 2, (batch, length)),
        "decoder_input_ids": generator.integers(2, 99, (batch, length // 3 + 1)),
    }
    return {name: every[name] for name in inputs}


def test_tokenizer_tells_the_inputs(tmp_path, bert):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(bert, model_input_names=["input_ids"])
    model = BertForSequenceClassification.from_pretrained(bert)
    path = tmp_path / "model.onnx"
    export_onnx(model, path, tokenizer=tokenizer)
    assert [tensor.name for tensor in onnx.load(path).graph.input] == ["input_ids"]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_missing_packages(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"{package}.*pip install 'prunella\[onnx\]'"):
        export_onnx(bert(), tmp_path / "model.onnx")
    assert not any(tmp_path.iterdir())


def big():
    with torch.device("meta"):
        return BertModel(BertConfig(vocab_size=10**6))


class Branching(BertModel):
    def forward(self, input_ids=None, attention_mask=None):
        return super().forward(input_ids * 2 if input_ids.sum() % 2 else input_ids, attention_mask)


class Noisy(BertModel):
    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        outputs = super().forward(input_ids, attention_mask, **kwargs)
        outputs.last_hidden_state = outputs.last_hidden_state * torch.rand(32)
        return outputs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(2, 2), "is a Linear, and only Transformers models"),
        (lambda: ViTModel(ViTConfig(**SIZES)), "ViTModel takes no input_ids"),
        (lambda: sparsify(pruned(bert)), "runs sparse.*engine='dense'"),
        (big, "has 3.2 GiB of weights, and an ONNX file holds at most 2"),
        (
            lambda: GPT2ForSequenceClassification(GPT2Config(**gpt2_sizes())),
            "GPT2ForSequenceClassification cannot be exported.*no padding token is defined",
        ),
        (lambda: Branching(BertConfig(**SIZES)), "Branching cannot be exported.*data-dependent"),
        (lambda: bert().bfloat16(), r"ONNX Runtime does not run .*model\.float\(\)"),
        (lambda: Noisy(BertConfig(**SIZES)), "computes other last_hidden_state, off by"),
    ],
)
def test_refused(tmp_path, make, message):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"older")
    with pytest.raises(UsageError, match=message) as caught:
        export_onnx(make(), path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"older"


def test_paths_are_refused_at_once(tmp_path):
    with pytest.raises(UsageError, match="is a folder; name a file"):
        export_onnx(bert(), tmp_path)
    with pytest.raises(UsageError, match=r"the folder of .* is not there; make it first"):
        export_onnx(bert(), tmp_path / "missing" / "model.onnx")
