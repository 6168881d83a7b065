"""Every family of models: what is prunable in it, and that it is trained, saved and run pruned."""

import copy

import pytest
import torch
from families import FAMILIES, build
from loops import same
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    MixtralConfig,
    MixtralForCausalLM,
)

import prunella
from prunella import L0, PINS, Criterion, Cubic, Magnitude, Movement, Pruner, UsageError
from prunella.prunable import Scopes, embedding_names, find_prunable

# Matrices of a block, by the block's name in the family's pretrained model.
BERT = "attention.self.query attention.self.key attention.self.value attention.output.dense"
PROJECTIONS = "q_proj k_proj v_proj"
T5_ATTENTION = " ".join(f"layer.0.SelfAttention.{side}" for side in "qkvo")
T5_CROSS = " ".join(f"layer.1.EncDecAttention.{side}" for side in "qkvo")
ATTENTION = " ".join(f"self_attn.{side}" for side in (*PROJECTIONS.split(), "out_proj"))
CROSS = ATTENTION.replace("self_attn", "encoder_attn")
LLAMA = f"{ATTENTION.replace('out_proj', 'o_proj')} mlp.gate_proj mlp.up_proj mlp.down_proj"
BART = {
    "model.encoder.layers.{}": f"{ATTENTION} fc1 fc2",
    "model.decoder.layers.{}": f"{ATTENTION} {CROSS} fc1 fc2",
}
BLOCKS = {
    "bert": {"bert.encoder.layer.{}": f"{BERT} intermediate.dense output.dense"},
    "roberta": {"roberta.encoder.layer.{}": f"{BERT} intermediate.dense output.dense"},
    "distilbert": {
        "distilbert.transformer.layer.{}": "attention.q_lin attention.k_lin attention.v_lin "
        "attention.out_lin ffn.lin1 ffn.lin2"
    },
    "electra": {"electra.encoder.layer.{}": f"{BERT} intermediate.dense output.dense"},
    "deberta-v2": {
        "deberta.encoder.layer.{}": "attention.self.query_proj attention.self.key_proj "
        "attention.self.value_proj attention.self.pos_key_proj attention.self.pos_query_proj "
        "attention.output.dense intermediate.dense output.dense"
    },
    "albert": {  # both layers are the same
        "albert.encoder.albert_layer_groups.0.albert_layers.0": "attention.query attention.key "
        "attention.value attention.dense ffn ffn_output"
    },
    "xlnet": {"transformer.layer.{}": "ff.layer_1 ff.layer_2"},  # the attention is no matrices
    "mpnet": {
        "mpnet.encoder.layer.{}": "attention.attn.q attention.attn.k attention.attn.v "
        "attention.attn.o intermediate.dense output.dense"
    },
    "modernbert": {"model.layers.{}": "attn.Wqkv attn.Wo mlp.Wi mlp.Wo"},
    "gpt2": {"transformer.h.{}": "attn.c_attn attn.c_proj mlp.c_fc mlp.c_proj"},
    "opt": {"model.decoder.layers.{}": f"{ATTENTION} fc1 fc2"},
    "llama": {"model.layers.{}": LLAMA},
    "qwen2": {"model.layers.{}": LLAMA},
    "t5": {
        "encoder.block.{}": f"{T5_ATTENTION} layer.1.DenseReluDense.wi layer.1.DenseReluDense.wo",
        "decoder.block.{}": f"{T5_ATTENTION} {T5_CROSS} layer.2.DenseReluDense.wi "
        "layer.2.DenseReluDense.wo",
    },
    "bart": BART,
    "mbart": BART,
}
TIED = set(FAMILIES) - {"llama"}
GENERATIVE = ("t5", "bart", "mbart", "gpt2", "opt", "llama")
CRITERIA = {
    "pins": PINS(window=2),
    "movement": Movement(),
    "l0": L0(target=0.5),
    "magnitude": Magnitude(),
}
every_family = pytest.mark.parametrize("name", FAMILIES)


def matrices_of(name):
    """What a model of the family is to be pruned of, in full."""
    return {
        f"{block.format(layer)}.{matrix}.weight"
        for block, matrices in BLOCKS[name].items()
        for layer in (0, 1)
        for matrix in matrices.split()
    }


def pretrained(name):
    return build(name, FAMILIES[name].auto)


# --- what is prunable ----------------------------------------------------------------------------


@every_family
def test_the_matrices_of_attention_and_feed_forward_are_prunable(name):
    model = pretrained(name)
    found, frozen = find_prunable(model)
    assert found.keys() == matrices_of(name) and frozen == []
    assert all(prunable.transposed is (name == "gpt2") for prunable in found.values())
    scopes = Scopes.of(model, found)
    assert scopes.prunable < scopes.backbone < scopes.model
    assert not scopes.backbone & set(embedding_names(model))
    counts = scopes.count(dict(model.named_parameters()))
    assert counts["model"].total == model.num_parameters()  # tied ones once
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied is (name in TIED)


@every_family
@pytest.mark.parametrize(
    "auto",
    [
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        AutoModelForQuestionAnswering,
        AutoModelForMultipleChoice,
    ],
    ids=lambda auto: auto.__name__.removeprefix("AutoModelFor"),
)
def test_no_other_head_adds_to_them(name, auto):
    try:
        model = build(name, auto)
    except ValueError as error:
        assert "Unrecognized configuration class" in str(error)
        pytest.skip("the family has no such head")
    ours, theirs = (f"{m.base_model_prefix}." for m in (model, pretrained(name)))
    found = {matrix.removeprefix(ours) for matrix in find_prunable(model)[0]}
    known = {matrix.removeprefix(theirs) for matrix in matrices_of(name)}
    if name == "t5" and auto is AutoModelForTokenClassification:  # has an encoder alone
        known = {matrix for matrix in known if matrix.startswith("encoder.")}
    assert found == known


@every_family
def test_frozen_matrices_are_left_out_and_listed(name):
    model = pretrained(name)
    first = min(matrices_of(name))
    model.get_parameter(first).requires_grad_(False)
    found, frozen = find_prunable(model)
    assert frozen == [first] and found.keys() == matrices_of(name) - {first}


@every_family
def test_look_up_tables_may_be_pruned_too(name):
    model = pretrained(name)
    found, frozen = find_prunable(model, include_embeddings=True)
    assert found.keys() == matrices_of(name) | set(embedding_names(model)) and not frozen
    words = model.get_input_embeddings().weight
    assert sum(prunable.parameter is words for prunable in found.values()) == 1
    only, _ = find_prunable(model, [min(matrices_of(name))], include_embeddings=True)
    assert only.keys() == {min(matrices_of(name)), *embedding_names(model)}


@pytest.mark.parametrize(
    ("name", "patterns", "number"),
    [
        ("bert", "encoder.*attention*", 8),
        ("bert", "bert.encoder.layer.0.attention.self.query.weight", 1),
        ("bert", "encoder.layer.0.attention.self.query", 1),
        ("bert", "layer.1", 6),
        ("bert", ["query", "key"], 4),
        ("bert", "layer.[01].intermediate.*", 2),
        ("bert", "word_embeddings", 1),
        ("roberta", "encoder.*attention*", 8),
        ("gpt2", "mlp", 4),
        ("t5", "decoder.*EncDecAttention*", 8),
        ("bart", "encoder.layers", 12),
        ("bart", "encoder_attn", 8),
        ("xlnet", "rel_attn.[qkvor]", 10),
    ],
)
def test_patterns_may_leave_out_what_stands_around_them(name, patterns, number):
    found, _ = find_prunable(pretrained(name), patterns)
    assert len(found) == number


def test_patterns_that_match_nothing_come_with_the_nearest_names():
    model = pretrained("bert")
    with pytest.raises(UsageError) as refused:
        find_prunable(model, ["encoder.*attn*", "query", "pooler.densse"])
    message = str(refused.value)
    assert message.startswith("the patterns 'encoder.*attn*', 'pooler.densse' match no matrix of")
    assert "layer.*." in message and "'query'" not in message


def test_experts_are_prunable_and_other_stacks_are_not():
    rel = [f"transformer.layer.{layer}.rel_attn.{side}" for layer in (0, 1) for side in "qkvor"]
    xlnet = pretrained("xlnet")  # of q, k and v the first side is the inputs', of o the outputs'
    assert not find_prunable(xlnet)[0].keys() & set(rel)
    sides = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 50}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = MixtralConfig(**sides, **heads, num_local_experts=2)
    experts = [f"model.layers.0.mlp.experts.{side}" for side in ("gate_up_proj", "down_proj")]
    model = MixtralForCausalLM(config)
    found, _ = find_prunable(model)
    assert len(found) == 4 + 2  # the attention, the experts; no router
    assert [found[name].shape for name in experts] == [(2, 128, 32), (2, 32, 64)]
    assert list(find_prunable(model, ["experts.*"])[0]) == experts


# --- trained, saved, run -------------------------------------------------------------------------


def inputs_of(model, seed=0):
    """Three texts of ten tokens, whose answer they are."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, model.config.vocab_size - 30, (3, 10), generator=generator)
    return {"input_ids": tokens, "labels": tokens}


def train(model, optimizer, steps, each=lambda step: None):
    model.train()
    for step in steps:
        optimizer.zero_grad()
        model(**inputs_of(model, step)).loss.backward()
        optimizer.step()
        each(step)


def pruned(model, criterion: Criterion, **options):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = Cubic(0.5, begin=2, end=6, every=1)
    return optimizer, Pruner(model, optimizer, criterion, schedule, **options)


def logits_of(model):
    model.eval()
    with torch.no_grad():
        return model(**inputs_of(model)).logits


@every_family
@pytest.mark.parametrize("method", CRITERIA)
def test_it_is_pruned_to_the_very_weight_saved_and_run(name, method, tmp_path):
    torch.manual_seed(0)
    model = pretrained(name)
    optimizer, pruner = pruned(model, CRITERIA[method])
    train(model, optimizer, range(8))
    weights = {n: w for n, w in model.state_dict().items() if n in matrices_of(name)}
    total = sum(weight.numel() for weight in weights.values())
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    assert zeros == total - round(0.5 * total)
    counts = pruner.summary().counts
    assert (counts["prunable"].nonzero, counts["prunable"].total) == (total - zeros, total)
    logits = logits_of(model)
    prunella.save(model, tmp_path)
    for engine in ("sparse", "dense"):
        loaded = prunella.load(tmp_path, engine)
        torch.testing.assert_close(logits_of(loaded), logits, rtol=1e-5, atol=1e-5)
    state = loaded.state_dict()
    assert all(torch.equal(state[n], weight) for n, weight in weights.items())
    scopes = Scopes.of(loaded, find_prunable(loaded)[0])
    assert scopes.count(dict(loaded.named_parameters())) == counts


@every_family
@pytest.mark.parametrize("method", ["pins", "l0"])
def test_pruned_look_up_tables_stay_tied(name, method, tmp_path):
    torch.manual_seed(0)
    model = pretrained(name)
    optimizer, pruner = pruned(model, CRITERIA[method], include_embeddings=True)
    train(model, optimizer, range(8))
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied is (name in TIED)
    counts = pruner.summary().counts
    total = counts["prunable"].total
    assert total == sum(
        p.numel()
        for n, p in model.named_parameters()
        if n in matrices_of(name) | set(embedding_names(model))
    )
    assert counts["prunable"].nonzero == total - round(0.5 * total)
    logits = logits_of(model)
    prunella.save(model, tmp_path)
    for engine in ("sparse", "dense"):
        loaded = prunella.load(tmp_path, engine)
        torch.testing.assert_close(logits_of(loaded), logits, rtol=1e-5, atol=1e-5)
    assert Scopes.of(loaded, pruner.masks).count(dict(loaded.named_parameters())) == counts


@pytest.mark.parametrize("method", CRITERIA)
def test_weights_that_are_no_matrices_are_pruned_if_they_are_named(method, tmp_path):
    torch.manual_seed(0)
    model = pretrained("xlnet")
    optimizer, pruner = pruned(model, CRITERIA[method], parameters=["rel_attn.[qkvor]", "ff"])
    train(model, optimizer, range(8))
    counts = pruner.summary().counts
    assert counts["prunable"].total == 2 * (5 * 32 * 32 + 2 * 32 * 64)
    assert counts["prunable"].sparsity == 0.5
    logits = logits_of(model)
    prunella.save(model, tmp_path)
    for engine in ("sparse", "dense"):
        loaded = prunella.load(tmp_path, engine)
        torch.testing.assert_close(logits_of(loaded), logits, rtol=1e-5, atol=1e-5)
    assert same(prunella.masks_from(tmp_path, model, list(pruner.masks)), pruner.masks)


@pytest.mark.parametrize("name", GENERATIVE)
@pytest.mark.parametrize("options", [{}, {"include_embeddings": True}], ids=["blocks", "all"])
def test_it_generates_what_it_will_be_saved_as(name, options):
    """In the middle of training gates are random in training and fixed in evaluation.

    ``generate`` calls an encoder without the whole model's forward.
    """
    torch.manual_seed(0)
    model = pretrained(name)
    optimizer, _ = pruned(model, L0(target=0.5), **options)
    train(model, optimizer, range(5))
    plain = copy.deepcopy(pretrained(name))
    plain.load_state_dict(model.state_dict())
    plain.eval()
    if model.config.is_encoder_decoder:
        with torch.no_grad():
            model(**inputs_of(model))  # random gates, until a part is evaluated
            parts = [m.eval().get_encoder()(inputs_of(m)["input_ids"])[0] for m in (model, plain)]
            assert torch.equal(*parts)
    model.train()
    model(**inputs_of(model)).loss.backward()
    model.eval()
    expected = None
    for each in (model, plain):
        for use_cache in (True, False):
            tokens = each.generate(
                inputs_of(model)["input_ids"],
                attention_mask=torch.ones(3, 10).long(),
                max_new_tokens=8,
                min_new_tokens=8,
                do_sample=False,
                use_cache=use_cache,
                pad_token_id=1,
            )
            expected = tokens if expected is None else expected
            assert torch.equal(tokens, expected)
