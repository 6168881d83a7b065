"""Other people's checkpoints: compressed-tensors' bitmasks are read, every other form is named."""

import json
import shutil
from types import SimpleNamespace

import bitmasks
import families
import pytest
import torch
from folders import assert_refused
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

import prunella
from prunella import UsageError, masks_from
from prunella.bitmask import decode
from prunella.cli import main
from prunella.experiments import models
from prunella.runtime import compressed, inspection
from prunella.runtime.checkpoint import from_pretrained


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


HEAD = task(AutoModelForSequenceClassification, num_labels=2)


@pytest.fixture
def sparse(tmp_path):
    """A Llama with 85 % zeros in its layers, as Transformers saves it."""
    folder = tmp_path / "sparse"
    return make("llama", folder)


def make(family, folder, dtype=torch.float32):
    families.save(family, folder)
    model = families.FAMILIES[family].auto.from_pretrained(folder)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and ".layer" in name:
            parameter.data.masked_fill_(torch.rand_like(parameter) < 0.85, 0)
    model.to(dtype).save_pretrained(folder)
    return folder


def twin(folder, **options):
    """The same model in bitmask form."""
    other = folder.with_name(f"{folder.name}-bitmask")
    shutil.copytree(folder, other)
    bitmasks.compress(other, **options)
    return other


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(5, 7), (6, 16), (3, 1), (9,), (2, 3, 10), (0, 8), (4, 0)])
def test_bitmasks_of_every_shape_are_read_to_the_bit(shape, dtype):
    torch.manual_seed(len(shape))
    weight = (torch.randn(shape) * (torch.rand(shape) < 0.3)).to(dtype)
    read = decode(compressed.coded("m", bitmasks.parts("m", weight).__getitem__))
    assert read.dtype == dtype and torch.equal(read, weight)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chosen": lambda name: "layers" in name},
        {"shards": 3},
        {"block": None},
        {"block": {"sparsity_config": bitmasks.BLOCK["sparsity_config"]}},
    ],
    ids=["all", "some", "shards", "no-config", "older"],
)
def test_a_bitmask_checkpoint_is_the_model_it_was(sparse, options, capsys):
    other = twin(sparse, **options)
    for engine in ("dense", "sparse"):
        loaded = prunella.load(other, engine)
        assert same(loaded, prunella.load(sparse, engine))
        assert not hasattr(loaded.config, "quantization_config")
    found, known = inspection.inspect(other), inspection.inspect(sparse)
    assert found.scopes == known.scopes and found.form == "sparse-bitmask of compressed-tensors"
    assert found.coded is not None and found.coded.kept < found.coded.count
    assert main(["info", str(other)]) == 0
    assert "sparse-bitmask" in capsys.readouterr().out


def test_masks_models_and_teachers_come_from_bitmasks(sparse):
    other = twin(sparse)
    model, _ = models.load(str(other), HEAD)
    expected, tokenizer = models.load(str(sparse), HEAD)
    assert same(model.model, expected.model)
    assert not hasattr(model.config, "quantization_config")
    masks, known = masks_from(other, model), masks_from(sparse, expected)
    assert masks.keys() == known.keys() and all(torch.equal(masks[n], known[n]) for n in known)
    teacher, _ = models.load_teacher(str(other), expected, tokenizer, task(AutoModelForCausalLM))
    assert same(teacher, AutoModelForCausalLM.from_pretrained(sparse))


def test_a_run_starts_from_bitmasks_throughout(bert, sst2, tmp_path):
    labels = {0: "negative", 1: "positive"}
    teacher = AutoModelForSequenceClassification.from_pretrained(bert, id2label=labels)
    for name, parameter in teacher.named_parameters():
        if parameter.ndim == 2 and ".layer." in name:
            parameter.data.masked_fill_(torch.rand_like(parameter) < 0.5, 0)
    folder = tmp_path / "bert"
    shutil.copytree(bert, folder)
    teacher.save_pretrained(folder)
    other = str(twin(folder))
    sources = ["--model", other, "--teacher", other, "--regularize", "distill"]
    sources += ["--masks-from", other, "--criterion", "magnitude", "--sparsity", "0.6"]
    flags = ["--task", "glue/sst2", "--data", str(sst2), "--output", str(tmp_path / "out")]
    steps = ["--max-steps", "12", "--batch-size", "4", "--check-every", "12", "--save", "dense"]
    assert main(["prune", *sources, *flags, *steps]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["sparsity"]["prunable"] == pytest.approx(0.6, abs=1e-3)
    assert result["held"]["teacher"] == teacher.num_parameters()
    assert "compressed-tensors" not in (tmp_path / "out" / "config.json").read_text()
    weights = load_file(tmp_path / "out" / "model.safetensors")
    zeros = load_file(folder / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.weight"
    assert not weights[name][zeros[name] == 0].any()


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bitmasks_are_exported(tmp_path, form, dtype):
    folder = make("qwen2", tmp_path / "qwen2", dtype)
    other, out = twin(folder), tmp_path / "out"
    prunella.export(other, out, form)
    assert "compressed-tensors" not in (out / "config.json").read_text()
    assert (
        AutoConfig.from_pretrained(out).vocab_size == AutoConfig.from_pretrained(other).vocab_size
    )
    assert same(prunella.load(out, "dense"), prunella.load(folder, "dense"))
    if form == "dense":  # by Transformers alone
        own = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
        assert same(own, AutoModelForCausalLM.from_pretrained(folder, dtype="auto"))


def test_unquantized_weights_under_such_a_config_are_read(sparse):
    block = {"quant_method": "compressed-tensors", "format": "dense", "config_groups": {}}
    expected = prunella.load(sparse, "dense")
    bitmasks.configure(sparse, quantization_config=block)
    assert same(prunella.load(sparse, "dense"), expected)
    assert same(from_pretrained(AutoModelForCausalLM, sparse), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, n: t.pop(f"{n}.compressed"), "lacks"),
        (lambda t, n: t.pop(f"{n}.shape"), "lacks"),
        (lambda t, n: t.update({f"{n}.shape": torch.tensor([3, 5])}), "does not fit"),
        (lambda t, n: t.update({f"{n}.shape": torch.tensor([-1, 5])}), "does not fit"),
        (lambda t, n: t.update({f"{n}.shape": torch.tensor([2**40, 2**40])}), "does not fit"),
        (lambda t, n: t.update({f"{n}.compressed": t[f"{n}.compressed"][1:]}), "keeps"),
        (lambda t, n: t.update({f"{n}.compressed": t[f"{n}.compressed"].int()}), "cannot be kept"),
    ],
)
def test_damaged_bitmasks_are_refused(sparse, change, words):
    other = twin(sparse)
    tensors = load_file(other / "model.safetensors")
    change(tensors, "model.layers.0.mlp.up_proj")
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    for use in (prunella.load, inspection.inspect):
        with pytest.raises(UsageError, match=words):
            use(other)


@pytest.mark.parametrize("form", ["dense", "bitmask", "sparse"])
def test_models_of_the_hub_are_read_from_the_cache(sparse, tmp_path, monkeypatch, form):
    """As they lie there, without a network."""
    folder = twin(sparse) if form == "bitmask" else sparse
    if form == "sparse":
        prunella.export(sparse, tmp_path / "coded", "sparse")
        folder = tmp_path / "coded"
    cache = tmp_path / "hub" / "models--owner--llama"
    commit = "a" * 40
    shutil.copytree(folder, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    for module in ("huggingface_hub.constants", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = from_pretrained(AutoModelForCausalLM, "owner/llama", cache_dir=str(tmp_path / "hub"))
    assert same(model, AutoModelForCausalLM.from_pretrained(sparse))


# --- forms that are not read ---------------------------------------------------------------------

GROUPS = {"group_0": {"weights": {"num_bits": 4}, "targets": ["Linear"]}}
COMPRESSED = {"quant_method": "compressed-tensors", "config_groups": GROUPS}
QUANTIZED = {
    "sparse-24-bitmask": {
        "quant_method": "compressed-tensors",
        "sparsity_config": {"format": "sparse-24-bitmask"},
    },
    **{
        form: COMPRESSED | {"format": form}
        for form in (
            "pack-quantized",
            "marlin-24",
            "float-quantized",
            "int-quantized",
            "nvfp4-pack-quantized",
            "naive-quantized",
        )
    },
    "quantized weights": COMPRESSED | {"format": "dense"},
    "transforms": {"quant_method": "compressed-tensors", "transform_config": {"a": {}}},
    "GPTQ": {"quant_method": "gptq", "bits": 4},
    "AWQ": {"quant_method": "awq", "bits": 4},
    "bitsandbytes": {"load_in_4bit": True},
    "bitsandbytes ": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "torchao": {"quant_method": "torchao", "quant_type": "int4_weight_only"},
    "hqq": {"quant_method": "hqq"},
    "an unknown quantization_config": {"some": "thing"},
}


@pytest.mark.parametrize("form", QUANTIZED)
def test_quantized_checkpoints_are_named(sparse, tmp_path, form, capfd):
    bitmasks.configure(sparse, quantization_config=QUANTIZED[form])
    assert main(["info", str(sparse)]) == 2
    assert_refused(capfd, [form.strip(), "quantized"])
    uses = [
        prunella.load,
        lambda folder: models.load(str(folder), HEAD),
        lambda folder: prunella.export(folder, tmp_path / "out", "dense"),
    ]
    for use in uses:
        with pytest.raises(UsageError, match=form.strip()):
            use(sparse)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (["qweight", "qzeros", "scales"], "GPTQ or AWQ"),
        (["weight_packed", "weight_scale", "weight_shape"], "pack-quantized"),
        (["weight", "SCB"], "bitsandbytes"),
        (["bitmask", "compressed", "shape"], "sparse-24-bitmask"),
        (["weight", "weight_scale", "input_scale"], "int-quantized"),
        (["weight", "weight_scale_inv"], "8-bit floats with a scale a block"),
        (["W_q", "scale", "zero"], "HQQ"),
        (["weight_orig", "weight_mask"], r"torch.nn.utils.prune .* remove\(module, 'weight'\)"),
    ],
)
def test_quantized_weights_are_named_where_no_config_tells(sparse, tensors, words):
    stored = load_file(sparse / "model.safetensors")
    module = "model.layers.0.mlp.up_proj"
    del stored[f"{module}.weight"]
    shape = (
        families.FAMILIES["llama"].auto.from_pretrained(sparse).get_parameter(f"{module}.weight")
    )
    stored |= {f"{module}.{name}": torch.ones(shape.shape, dtype=torch.int8) for name in tensors}
    save_file(stored, sparse / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=words):
        inspection.inspect(sparse)
    with pytest.raises(UsageError, match=words):  # Transformers takes codes for the weights
        from_pretrained(AutoModelForCausalLM, sparse)


ADAPTERS = json.dumps({"base_model_name_or_path": "owner/base", "peft_type": "LORA"})
FILES = {
    "adapters": ({"adapter_config.json": ADAPTERS, "adapter_model.safetensors": ""}, "owner/base"),
    "makers'": ({"consolidated.safetensors": "", "params.json": "{}"}, "makers"),
    "Meta's": ({"consolidated.00.pth": ""}, "makers"),
    "shards": ({"model-00001-of-00002.safetensors": ""}, "no model.safetensors.index.json"),
    "gguf": ({"model-Q4_K_M.gguf": ""}, "GGUF"),
    "tensorflow": ({"tf_model.h5": ""}, "TensorFlow"),
    "tensorflow 1": ({"bert_model.ckpt.index": ""}, "TensorFlow"),
    "flax": ({"flax_model.msgpack": ""}, "Flax"),
    "openvino": ({"openvino_model.xml": "", "openvino_model.bin": ""}, "OpenVINO"),
    "onnx": ({"model.onnx": ""}, "ONNX"),
    "onnx below": ({"onnx/model_quantized.onnx": ""}, "ONNX"),
    "renamed": ({"weights.safetensors": ""}, "weights.safetensors"),
}


@pytest.mark.parametrize("form", FILES)
@pytest.mark.parametrize("config", [True, False], ids=["config", "no-config"])
def test_files_that_hold_no_weights_we_read_are_named(sparse, tmp_path, form, config, capfd):
    made, words = FILES[form]
    (sparse / "model.safetensors").unlink()
    if not config:
        (sparse / "config.json").unlink()
    for name, text in made.items():
        (sparse / name).parent.mkdir(exist_ok=True)
        (sparse / name).write_text(text)
    for command in (
        ["info", sparse],
        ["bench", "--model", sparse],
        ["export", sparse, tmp_path / "o"],
    ):
        assert main([str(word) for word in command]) == 2
        assert_refused(capfd, [words, ";"])
    with pytest.raises(UsageError, match=words):
        models.load(str(sparse), HEAD)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("below", ["0_Transformer", "checkpoint-500", "snapshots/0a1b"])
def test_a_model_in_a_subfolder_is_named(sparse, tmp_path, below):
    parent = tmp_path / "parent"
    (parent / "1_Pooling").mkdir(parents=True)
    (parent / "1_Pooling" / "config.json").write_text("{}")
    shutil.copytree(sparse, parent / below)
    for use in (prunella.load, inspection.inspect, lambda f: models.load(str(f), HEAD)):
        with pytest.raises(UsageError, match=f"give {parent / below}"):
            use(parent)


def test_missing_shards_are_named(sparse):
    model = AutoModelForCausalLM.from_pretrained(sparse)
    model.save_pretrained(sparse, max_shard_size="60KB")
    (sparse / "model.safetensors").unlink()
    lost = sorted(sparse.glob("model-*"))[1]
    lost.unlink()
    for use in (prunella.load, inspection.inspect, lambda f: models.load(str(f), HEAD)):
        with pytest.raises(UsageError, match=f"lacks {lost.name}, and 1 of its "):
            use(sparse)


def test_what_transformers_reads_of_pickled_weights_is_left_to_it(tmp_path):
    families.save("bert", tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(stored, tmp_path / "pytorch_model.bin")
    assert isinstance(models.load(str(tmp_path), HEAD)[0].num_parameters(), int)
    with pytest.raises(UsageError, match="pickled"):
        prunella.load(tmp_path)
