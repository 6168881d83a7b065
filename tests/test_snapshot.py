"""Snapshots: what they evaluate to, what they share, and what they cost."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, MixtralConfig, MixtralForCausalLM

from prunella import L0, PINS, Cubic, Magnitude, Movement, Pruner, SelfRegularization
from prunella.criteria import Criterion
from prunella.snapshot import Snapshot


def load(folder: Path) -> nn.Module:
    return AutoModelForSequenceClassification.from_pretrained(folder).eval()


def said(model: nn.Module | None) -> torch.Tensor:
    assert model is not None
    tokens = torch.arange(10, 34).reshape(2, 12)
    with torch.no_grad():
        return model(input_ids=tokens).logits


def sparse(model: nn.Module, density: float) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and (".layer." in name or ".h." in name):
                weight.mul_(torch.rand_like(weight) < density)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
def test_it_says_what_the_model_said(
    family: str, density: float, request: pytest.FixtureRequest
) -> None:
    model = load(request.getfixturevalue(family))
    model.config.pad_token_id = 0
    sparse(model, density)
    snapshot = Snapshot(model)
    snapshot.take()
    before = said(model)
    assert torch.equal(said(snapshot.model), before)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1)
    assert torch.equal(said(snapshot.model), before)
    saved = snapshot.state_dict()
    other = Snapshot(model)
    other.load_state_dict(saved)
    assert torch.equal(said(other.model), before)
    assert all(torch.equal(other.state_dict()[name], saved[name]) for name in saved)
    snapshot.take()  # anew, into the same copy
    assert torch.equal(said(snapshot.model), said(model))
    other.load_state_dict({})
    assert other.model is None and other.state_dict() == {}


def held(module: nn.Module, without: nn.Module) -> int:
    """Bytes of a snapshot that the model does not have as well."""
    known = {p.data_ptr() for p in without.parameters()}
    return sum(p.nbytes for p in module.parameters() if p.data_ptr() not in known)


def test_it_keeps_only_what_it_must(bert: Path) -> None:
    model = load(bert)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("embeddings" not in name)
    sparse(model, 0.1)
    snapshot = Snapshot(model)
    snapshot.take()
    assert snapshot.model is not None
    words = snapshot.model.get_parameter("bert.embeddings.word_embeddings.weight")
    assert words is model.get_parameter("bert.embeddings.word_embeddings.weight")
    packed = [store for name, store in snapshot._packed.items() if ".layer." in name]
    weights = sum(store.shape.numel() for store in packed)
    bytes_kept = sum(store.values.nbytes + store.bits.nbytes for store in packed)
    assert bytes_kept < weights * (4 * 0.12 + 1 / 8)
    said(snapshot.model)
    # Nothing stays unpacked after a forward.
    assert held(snapshot.model, model) < 0.35 * held(snapshot.original, nn.Linear(1, 1))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_attention_and_experts_are_packed_too() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    config = MixtralConfig(
        **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 30},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 3},
    )
    x, padding = torch.randn(2, 5, 16), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    for model, run in (
        (nn.TransformerEncoder(layer, 2), lambda m: m(x, src_key_padding_mask=padding)),
        (MixtralForCausalLM(config), lambda m: m(input_ids=torch.arange(8)[None]).logits),
    ):
        model.eval()
        snapshot = Snapshot(model)
        snapshot.take()
        assert snapshot.model is not None
        with torch.no_grad():
            torch.testing.assert_close(run(snapshot.model), run(model))
        stacks = [p for p in snapshot.model.parameters() if p.ndim > 1 and p.numel()]
        assert all(min(p.shape) < 10 or len(p) == 30 for p in stacks)  # a router, tables


@pytest.mark.parametrize(
    "criterion", [Magnitude(), replace(PINS.released(), window=2), Movement(), L0(target=0.6)]
)
def test_it_is_the_pruned_model_as_evaluated(bert: Path, criterion: Criterion) -> None:
    """Free, dormant and gated weights are covered in it, and training goes on untouched."""
    runs = []
    for takes in (False, True):
        torch.manual_seed(0)
        model = load(bert).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        Pruner(model, optimizer, criterion, Cubic(0.6, begin=2, end=8, every=2))
        term = SelfRegularization(model, every=3 if takes else None)
        for step in range(1, 7):
            tokens = torch.randint(5, 300, (4, 8))
            loss = model(input_ids=tokens, labels=torch.tensor([0, 1, 0, 1])).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            term.after_step(step)
            if takes and step == 6:
                plain = copy.deepcopy(model).eval()
                plain.load_state_dict(model.state_dict())
                assert torch.equal(said(term.snapshot.model), said(model.eval()))
                stores = term.snapshot._packed.values()
                zeros = [(store.unpacked() == 0).float().mean() for store in stores]
                assert max(zeros) > 0.3
        runs.append([tensor.clone() for tensor in model.state_dict().values()])
    assert all(map(torch.equal, *runs))
