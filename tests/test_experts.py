"""Models of experts as Transformers 5 has them: pruned, saved, and run by the engine."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import prunella
from prunella import Cubic, Magnitude, Movement, PerMatrix, Pruner, UsageError
from prunella.prunable import find_prunable
from prunella.runtime import sparsify, variant
from prunella.runtime.bench import bench
from prunella.runtime.inspection import inspect
from prunella.runtime.linear import computed_densely, footprint, matrices_of

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 60,
    "num_experts_per_tok": 2,
}
MODELS = {
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4)),
    "qwen3-moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SIZES, num_experts=4, moe_intermediate_size=24)
    ),
    "gpt-oss": lambda: GptOssForCausalLM(GptOssConfig(**SIZES, num_local_experts=4)),
}
every_model = pytest.mark.parametrize("kind", MODELS)
needs_engine = pytest.mark.skipif(variant() is None, reason="there is no engine")
MATRICES = 2 * (4 + 2 * 4)  # of two layers: four of attention, two an expert


def built(kind):
    torch.manual_seed(0)
    model = MODELS[kind]()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "sinks" in name:
            torch.nn.init.normal_(parameter)
    return model


def tokens(rows=3, length=9):
    return torch.randint(3, 60, (rows, length), generator=torch.Generator().manual_seed(1))


def pruned(kind, criterion=None, allocation=None, steps=8):
    model = built(kind).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = Cubic(0.9, begin=1, end=6, every=1)
    options = () if allocation is None else (allocation,)
    pruner = Pruner(model, optimizer, criterion or Magnitude(), schedule, *options)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=tokens(), labels=tokens()).loss.backward()
        optimizer.step()
    return model.eval(), pruner


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@every_model
def test_it_prunes_to_what_it_says(kind):
    model, pruner = pruned(kind, Movement(), PerMatrix())
    count = pruner.summary().counts["prunable"]
    assert sum(prunable.matrices for prunable in pruner.prunable.values()) == MATRICES
    every = [p for name, p in model.named_parameters() if ".layers." in name and p.ndim > 1]
    assert count.total > 0.97 * sum(p.numel() for p in every)  # but for routers
    assert count.sparsity == pytest.approx(0.9, abs=0.002)
    for name, prunable in pruner.prunable.items():
        stack = prunable.oriented(model.get_parameter(name))
        for matrix in stack if stack.ndim > 2 else [stack]:
            zeros = int((matrix == 0).sum())
            assert zeros == round(0.9 * matrix.numel())


def test_biases_are_pruned_if_they_are_asked_for():
    model = built("gpt-oss")
    experts, _ = find_prunable(model, ["experts.*"])
    assert {name.rpartition(".")[2] for name in experts} == {"gate_up_proj", "down_proj"}
    found, _ = find_prunable(model, ["experts.*"], include_biases=True)
    biases = found.keys() - experts.keys()
    assert {name.rpartition(".")[2] for name in biases} == {"gate_up_proj_bias", "down_proj_bias"}
    assert all(len(found[name].shape) == 1 for name in biases)  # of no matrix


@needs_engine
@every_model
def test_it_runs_in_the_engine_as_saved(kind, tmp_path: Path):
    model, _ = pruned(kind)
    prunella.save(model, tmp_path)
    sparse = prunella.load(tmp_path)
    assert len(matrices_of(sparse)) == MATRICES
    assert footprint(sparse) < 0.5 * footprint(model)
    ids = tokens()
    with torch.inference_mode():
        close(sparse(input_ids=ids).logits, model(input_ids=ids).logits)
    written = sparse.generate(ids[:1], max_new_tokens=5, do_sample=False)
    assert torch.equal(written, model.generate(ids[:1], max_new_tokens=5, do_sample=False))
    dense = prunella.load(tmp_path, "dense").state_dict()
    assert dense.keys() == model.state_dict().keys()
    assert all(torch.equal(dense[name], value) for name, value in model.state_dict().items())
    assert sparse.state_dict().keys() == dense.keys()
    assert all(torch.equal(dense[name], value) for name, value in sparse.state_dict().items())


@needs_engine
@every_model
def test_copies_and_what_is_not_sparse(kind):
    model, _ = pruned(kind)
    torch.nn.init.normal_(model.model.layers[0].mlp.experts.down_proj, std=0.02)
    expected = model(input_ids=tokens()).logits
    before = model.config._experts_implementation
    sparse = sparsify(copy.deepcopy(model))
    assert len(matrices_of(sparse)) == MATRICES - 4
    assert sparse.config._experts_implementation == before  # saved configs are as they were
    for twin in (sparse, copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse))):
        close(twin(input_ids=tokens()).logits, expected)
    sparse.set_experts_implementation("eager")
    close(sparse(input_ids=tokens()).logits, expected)


@every_model
def test_files_of_another_layout_are_inspected_and_give_masks(kind, tmp_path: Path):
    model, pruner = pruned(kind)
    for folder, save in (("sparse", prunella.save), ("dense", lambda m, f: m.save_pretrained(f))):
        save(model, tmp_path / folder)
        found = inspect(tmp_path / folder)
        assert found.scopes == pruner.summary().counts
        assert found.left_dense == pruner.summary().left_dense
        masks = prunella.masks_from(tmp_path / folder, built(kind))
        assert masks.keys() == pruner.masks.keys()
        assert all(torch.equal(masks[name], mask) for name, mask in pruner.masks.items())
        stacks = [m for m in found.matrices if "experts" in m.name and "bias" not in m.name]
        assert all(m.prunable for m in stacks)


def short(tensor):
    return tensor[:5].clone()


@pytest.mark.parametrize(
    ("name", "change"),
    [("experts.3.w3", None), ("experts.3.w2", None), ("experts.1.w1", short), ("experts", None)],
)
def test_parts_that_are_missing_or_do_not_fit(name, change, tmp_path: Path):
    built("mixtral").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for key in [key for key in weights if f".0.block_sparse_moe.{name}." in key]:
        part = weights.pop(key)
        if change is not None:
            weights[key] = change(part)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match=r"lacks model.layers.0.mlp.experts.* in another shape"):
        prunella.masks_from(tmp_path, built("mixtral"))
    note = inspect(tmp_path).note
    assert note.startswith(
        "only the whole is counted: MixtralForCausalLM has model.layers.0.mlp.exp"
    )


@needs_engine
def test_bench_counts_the_experts(tmp_path: Path):
    model, _ = pruned("qwen3-moe")
    prunella.save(model, tmp_path)
    result = bench(tmp_path, length=8, seconds=0.1, rounds=2)
    assert result["sparse_matrices"] == MATRICES
    assert result["memory_bytes"]["sparse"] < 0.5 * result["memory_bytes"]["dense"]
    assert result["max_abs_diff"] < 1e-4 and result["computed_densely"] == {}


@needs_engine
def test_experts_outside_the_interface_are_pruned_and_computed_by_torch(tmp_path: Path):
    config = Llama4TextConfig(
        **SIZES, num_local_experts=4, intermediate_size_mlp=48, pad_token_id=0
    )
    model = Llama4ForCausalLM(config)
    found, _ = find_prunable(model)
    stack = found["model.layers.0.feed_forward.experts.gate_up_proj"]
    assert stack.transposed and stack.shape == (4, 96, 32)
    for prunable in found.values():
        prunable.parameter.data[torch.rand(prunable.parameter.shape) > 0.1] = 0
    prunella.save(model, tmp_path)
    with safe_open(tmp_path / "sparse.safetensors", "pt") as file:
        assert any("experts.gate_up_proj" in name for name in file.keys())  # noqa: SIM118
    sparse = prunella.load(tmp_path)
    forms = computed_densely(sparse)  # a router of a class of its own is among them
    assert forms["model.layers.*.feed_forward.experts.gate_up_proj"] == 2 * 4 * 96 * 32
    assert forms["model.layers.*.feed_forward.experts.down_proj"] == 2 * 4 * 32 * 48
    close(sparse(input_ids=tokens()).logits, model.eval()(input_ids=tokens()).logits)
