"""What is said of checkpoint folders: counted here once more from the models themselves."""

import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build
from huggingface_hub.errors import LocalEntryNotFoundError
from loops import same
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from prunella import UsageError, masks_from
from prunella.bitmask import bound_bytes, ideal_bytes
from prunella.prunable import SCOPES, Scopes, find_prunable
from prunella.runtime.files import FILE, write
from prunella.runtime.inspection import Inspection, inspect, table
from prunella.summary import left_dense

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT = BertConfig(**SIZES, vocab_size=50, intermediate_size=64, max_position_embeddings=16)
GPT2 = GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=50, n_positions=16)
T5 = T5Config(vocab_size=50, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2)
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "bert": lambda: BertForSequenceClassification(BERT),
    "bert-lm": lambda: BertForMaskedLM(BERT),  # its output layer is its embedding
    "gpt2": lambda: GPT2LMHeadModel(GPT2),
    "t5": lambda: T5ForConditionalGeneration(T5),
}
FORMS = ("dense", "sharded", "sparse")


def sparsified(kind: str) -> PreTrainedModel:
    """A random model, nine tenths of whose prunable weights are 0.0, and one is -0.0."""
    torch.manual_seed(0)
    model = MODELS[kind]()
    with torch.no_grad():
        for number, (_, prunable) in enumerate(find_prunable(model)[0].items()):
            weight = prunable.parameter
            weight.masked_fill_(torch.rand(weight.shape) > 0.1, 0)
            weight[0, number % 3] = -0.0
    return model


def save(model: PreTrainedModel, folder: Path, form: str) -> None:
    model.save_pretrained(folder, max_shard_size="20KB" if form == "sharded" else "1GB")
    if form == "sharded":
        assert len(list(folder.glob("*.safetensors"))) > 2
    if form == "sparse":
        dense = folder / "model.safetensors"
        write(load_file(dense), folder / FILE)
        dense.unlink()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", MODELS)
def test_what_is_counted(kind: str, form: str, tmp_path: Path) -> None:
    model = sparsified(kind)
    save(model, tmp_path, form)
    found = inspect(tmp_path)
    assert found.form == ("sparse" if form == "sparse" else "dense")
    assert found.architecture == type(model).__name__ and found.note == ""
    assert found.bytes == sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    # Tied tensors are counted once, in each scope.
    known = Scopes.of(model, find_prunable(model)[0]).count(dict(model.named_parameters()))
    assert found.scopes == known and list(found.scopes) == list(SCOPES)
    assert found.scopes["prunable"].sparsity == pytest.approx(0.9, abs=0.02)
    weights = model.state_dict()
    assert [matrix.name for matrix in found.matrices] == sorted(
        {matrix.name for matrix in found.matrices}
    )
    ideal = bound = 0.0
    for matrix in found.matrices:
        weight = weights[matrix.name]
        assert matrix.shape == weight.shape and matrix.dtype == "float32"
        assert matrix.count.total == weight.numel()
        assert matrix.count.nonzero == int((weight != 0).sum())
        kept = int((weight.view(torch.int32) != 0).sum())  # -0.0 is
        coded = -(-weight.numel() // 8) + 4 * kept
        if form == "sparse" and coded < weight.nbytes:
            assert matrix.bytes == coded
            ideal += ideal_bytes(weight.numel(), kept, 32)
            bound += bound_bytes(weight.numel(), kept, 32)
        else:
            assert matrix.bytes == weight.nbytes
    matrices = {p.data_ptr() for p in model.parameters() if p.ndim > 1}
    assert len(found.matrices) == len(matrices)
    if form == "sparse":
        assert found.coded is not None
        assert found.coded.ideal == ideal and found.coded.bound == pytest.approx(bound)
        assert ideal <= found.coded.bytes < 1.01 * ideal
    else:
        assert found.coded is None


def test_it_can_be_told_and_shown(tmp_path: Path) -> None:
    save(sparsified("bert"), tmp_path, "sparse")
    found = inspect(tmp_path)
    told = json.loads(json.dumps(found.as_dict()))
    assert told["scopes"]["prunable"]["sparsity"] == found.scopes["prunable"].sparsity
    (matrix,) = (m for m in told["matrices"] if m["name"].endswith("layer.1.output.dense.weight"))
    assert matrix["shape"] == [32, 64] and matrix["total"] == 2048
    assert matrix["sparsity"] == 1 - matrix["nonzero"] / 2048
    assert told["coded"]["bound"] < told["coded"]["ideal"] <= told["coded"]["bytes"]
    text = shown(found)
    for word in (matrix["name"], "32 × 64", "prunable", "MB of weights, sparse", "entropy bound"):
        assert word in text


def shown(found: Inspection) -> str:
    console = Console(width=150)
    with console.capture() as capture:
        console.print(table(found))
    return capture.get()


def test_layers_come_in_their_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(**{**GPT2.to_diff_dict(), "n_layer": 11})
    save(AutoModelForCausalLM.from_config(config), tmp_path, "dense")
    names = [matrix.name for matrix in inspect(tmp_path).matrices]
    layers = [int(name.split(".")[2]) for name in names if ".h." in name]
    assert layers == sorted(layers) and layers[-1] == 10


def renamed(folder: Path, change: Callable[[str], str]) -> None:
    """Save the tensors of a folder anew, with other names."""
    path = folder / "model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(path).items()}, path)


def test_names_of_older_checkpoints(tmp_path: Path) -> None:
    """Without the prefix of the base model, and with the layer norms' names of TensorFlow."""
    torch.manual_seed(0)
    BertModel(BERT).save_pretrained(tmp_path / "base")
    base = inspect(tmp_path / "base")
    config = json.loads((tmp_path / "base/config.json").read_text())
    for architecture, prefix in (("BertModel", "bert."), ("BertForSequenceClassification", "")):
        folder = tmp_path / architecture
        shutil.copytree(tmp_path / "base", folder)
        (folder / "config.json").write_text(
            json.dumps(config | {"architectures": [architecture]}), encoding="utf-8"
        )

        def older(name: str, prefix: str = prefix) -> str:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            return prefix + name.replace("LayerNorm.bias", "LayerNorm.beta")

        renamed(folder, older)
        found = inspect(folder)
        assert found.scopes == base.scopes
        head = "not in the file, nor counted: classifier.bias, classifier.weight"
        assert found.note == ("" if architecture == "BertModel" else head)


def test_tied_tensors_are_counted_once_though_stored_twice(tmp_path: Path) -> None:
    save(sparsified("bert-lm"), tmp_path, "dense")
    known = inspect(tmp_path).scopes
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    words = weights["bert.embeddings.word_embeddings.weight"]
    save_file(weights | {"cls.predictions.decoder.weight": words.clone()}, path)
    found = inspect(tmp_path)
    assert found.scopes == known and len(found.matrices) == len(weights_of_two_sides(path))


def weights_of_two_sides(path: Path) -> list[str]:
    return [name for name, weight in load_file(path).items() if weight.ndim > 1]


def test_other_dtypes(tmp_path: Path) -> None:
    model = sparsified("bert").to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    small = torch.tensor([[0.0, 1.0], [-0.0, 2.0]]).to(torch.float8_e4m3fn)
    save_file(weights | {"more": small, "position_ids": torch.zeros(2, 2).long()}, path)
    found = inspect(tmp_path)
    assert found.matrices[-1].as_dict() == {
        "name": "more",
        "shape": [2, 2],
        "dtype": "float8_e4m3fn",
        "total": 4,
        "nonzero": 2,
        "sparsity": 0.5,
        "bytes": 4,
        "prunable": False,
    }
    assert {matrix.dtype for matrix in found.matrices[:-1]} == {"bfloat16"}
    assert found.scopes["prunable"].sparsity == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "bert"}, "names the architecture None"),
        ({"model_type": "bert", "architectures": ["BertForNothing"]}, "BertForNothing"),
        (
            {"model_type": "bert", "architectures": ["BertConfig"]},
            "names the architecture 'BertConfig'",
        ),
        ({"model_type": "own", "architectures": ["BertModel"]}, "own"),
        ({"model_type": "bert", "architectures": 5}, "cannot be used"),
        ({**BERT.to_dict(), "hidden_size": -1, "architectures": ["BertModel"]}, "cannot build"),
        ({**GPT2.to_dict(), "architectures": ["GPT2Model"]}, "h.0.attn.c_attn.weight, which is"),
        ({**BERT.to_dict(), "hidden_size": 64, "architectures": ["BertModel"]}, "not in the file"),
        ([], "cannot be used"),
    ],
)
def test_an_unknown_model_is_counted_as_a_whole(
    config: dict[str, Any], words: str, tmp_path: Path
) -> None:
    model = sparsified("bert")
    save(model, tmp_path, "dense")
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = inspect(tmp_path)
    assert list(found.scopes) == ["model"]
    assert found.scopes["model"].total == model.num_parameters()
    assert found.note.startswith("only the whole is counted: ") and words in found.note
    assert found.note.replace(" ", "") in "".join(shown(found).split())


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        inspect(tmp_path / "missing")
    with pytest.raises(UsageError, match=r"has no config\.json"):
        inspect(tmp_path)
    config = tmp_path / "config.json"
    for content in (b"{", b"\xff", b"[" * 100_000):
        config.write_bytes(content)
        with pytest.raises(UsageError, match=r"config\.json cannot be read"):
            inspect(tmp_path)
    config.write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match="has no weights"):
        inspect(tmp_path)
    (tmp_path / "pytest.bin").write_bytes(b"")
    (tmp_path / "pytorch_model-00001-of-00002.bin").write_bytes(b"never looked at")
    with pytest.raises(UsageError, match=r"pickled \(pytorch_model-00001.*convert it to safeten"):
        inspect(tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_damaged_weights(form: str, tmp_path: Path) -> None:
    save(sparsified("bert"), tmp_path, form)
    path = sorted(tmp_path.glob("*.safetensors"))[-1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UsageError, match=rf"{path.name} (cannot be read|is damaged) \(Error"):
        inspect(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda places: [],
        lambda places: {"weight_map": []},
        lambda places: {"weight_map": places | {"w": 5}},
        lambda places: {"weight_map": places | {"w": "../model.safetensors"}},
        lambda places: {"weight_map": places | {"w": "/etc/passwd"}},
        lambda places: {"weight_map": places | {"w": ""}},
        lambda places: {"weight_map": places | {"w": "model-00001.safetensors"}},
        lambda places: {"weight_map": places | {"w": min(places.values())}},
    ],
)
def test_a_damaged_index(change: Callable[[dict[str, str]], Any], tmp_path: Path) -> None:
    save(sparsified("bert"), tmp_path, "sharded")
    index = tmp_path / "model.safetensors.index.json"
    places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    index.write_text(json.dumps(change(places)), encoding="utf-8")
    with pytest.raises(UsageError, match="safetensors"):
        inspect(tmp_path)


# --- what is to be pruned ------------------------------------------------------------------------


def test_it_says_what_is_prunable_before_any_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS["bert-lm"]()
    save(model, tmp_path, "dense")
    for choice in (
        {},
        {"parameters": ["encoder.*attention*"]},
        {"include_embeddings": True},
        {"parameters": ["layer.0"], "include_biases": True, "include_embeddings": True},
    ):
        found = inspect(tmp_path, **choice)  # type: ignore[arg-type]
        prunable = find_prunable(model, **choice)[0]  # type: ignore[arg-type]
        marked = {matrix.name for matrix in found.matrices if matrix.prunable}
        assert marked == {n for n, p in prunable.items() if p.parameter.ndim > 1}
        assert found.scopes == Scopes.of(model, prunable).count(dict(model.named_parameters()))
        assert found.scopes["prunable"].sparsity == 0 or "include_embeddings" in choice
    lines = [line.split() for line in shown(inspect(tmp_path)).splitlines()]
    rows = {line[0]: line[1] for line in lines if line and line[0].startswith("bert.")}
    assert rows["bert.encoder.layer.0.output.dense.weight"] == "yes"
    assert rows["bert.embeddings.word_embeddings.weight"] == "50"  # its shape


def test_patterns_that_cannot_be_previewed_are_refused(tmp_path: Path) -> None:
    save(sparsified("bert"), tmp_path, "dense")
    with pytest.raises(UsageError, match=r"'encodr' match no matrix of BertForSequenceClass"):
        inspect(tmp_path, parameters=["encodr"])
    (tmp_path / "config.json").write_text('{"model_type": "own"}', encoding="utf-8")
    assert all(matrix.prunable is None for matrix in inspect(tmp_path).matrices)
    with pytest.raises(UsageError, match="own"):
        inspect(tmp_path, parameters=["layer.0"])


def test_what_is_left_dense_is_told(tmp_path: Path) -> None:
    model = build("xlnet", AutoModelForCausalLM)
    model.save_pretrained(tmp_path)
    found = inspect(tmp_path)
    assert found.left_dense == left_dense(model, find_prunable(model)[0])
    total = 2 * (5 * 32 * 32 + 2 * 32)  # and seg_embed
    (attention,) = [left for left in found.left_dense if left.form.endswith("rel_attn")]
    assert (attention.form, attention.weights) == ("transformer.layer.*.rel_attn", total)
    assert str(attention).endswith("(XLNetRelativeAttention: no linear layer that is known)")
    assert str(attention) in table(found).caption
    assert found.as_dict()["left_dense"][0]["form"] == found.left_dense[0].form
    named = inspect(tmp_path, parameters=["rel_attn.*"])
    assert named.scopes["prunable"].total == total
    assert "not chosen" in {left.reason for left in named.left_dense}


def test_models_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sparsified("bert")
    save(model, tmp_path, "dense")
    asked: list[tuple[str, list[str]]] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert inspect("somebody/bert") == inspect(tmp_path)
    assert same(masks_from("somebody/bert", model), masks_from(tmp_path, model))
    ((name, patterns), _) = asked
    assert name == "somebody/bert" and "config.json" in patterns
    assert not any(fnmatch("pytorch_model.bin", p) or fnmatch("run.py", p) for p in patterns)

    def fail(name: str, allow_patterns: list[str]) -> str:
        raise LocalEntryNotFoundError("outgoing traffic has been disabled. To enable it, pay.")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    reason = r"somebody/bert, nor .* \(outgoing traffic has been disabled\); give the folder"
    with pytest.raises(UsageError, match=reason):
        inspect("somebody/bert")
