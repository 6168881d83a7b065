"""Nothing large stays dense unnamed."""

import pytest
import torch
from loops import Attention, Mixture, adamw, net
from torch import nn

from prunella import Magnitude, OneShot, Pruner, left_dense
from prunella.prunable import find_prunable


class Wrapped(nn.Module):
    """A block: something, and a linear layer."""

    def __init__(self, inner, width=8):
        super().__init__()
        self.inner, self.linear = inner, nn.Linear(width, width)


class Own(nn.Module):
    """A linear layer of another class, as of tensor parallelism."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))


class Quantized(nn.Module):
    """A weight that is no parameter any more."""

    def __init__(self):
        super().__init__()
        self.register_buffer("qweight", torch.zeros(8, 8, dtype=torch.int8))
        self.register_buffer("causal", torch.ones(8, 8, dtype=torch.bool))


def stacked(make):
    return nn.ModuleDict(
        {"table": nn.Embedding(1, 1), "layers": nn.ModuleList([Wrapped(make()) for _ in "ab"])}
    )


def of(model, **options):
    return left_dense(model, find_prunable(model, **options)[0])


@pytest.mark.parametrize(
    ("make", "kind", "reason"),
    [
        (lambda: nn.LSTM(8, 8), "LSTM", "recurrent"),
        (lambda: nn.GRU(8, 8), "GRU", "recurrent"),
        (lambda: nn.LSTMCell(8, 8), "LSTMCell", "recurrent"),
        (lambda: nn.Conv1d(8, 8, 3), "Conv1d", "a convolution"),
        (lambda: nn.Bilinear(8, 8, 8), "Bilinear", "no linear layer that is known"),
        (Own, "Own", "no linear layer that is known"),
        (Quantized, "Quantized", "quantized"),
        (lambda: nn.Embedding(8, 8), "Embedding", "a look-up table"),
        (lambda: nn.EmbeddingBag(8, 8), "EmbeddingBag", "a look-up table"),
        (lambda: nn.Linear(8, 8).requires_grad_(False), "Linear", "not trained"),
    ],
)
def test_it_says_what_and_why(make, kind, reason):
    model = stacked(make)
    (left,) = of(model)
    assert (left.form, left.kind, left.reason) == ("layers.*.inner", kind, reason)
    weights = [t for t in make().parameters() if t.ndim > 1] or [torch.zeros(8, 8)]
    assert left.weights == 2 * sum(weight.numel() for weight in weights)
    total = sum(p.numel() for p in model.parameters()) + (kind == "Quantized") * 2 * 64
    assert left.share == left.weights / total


def test_all_but_one_percent_is_named():
    def model(width):
        linear = Wrapped(nn.Linear(8, width))
        small = nn.ModuleDict({name: Wrapped(Own()) for name in ("one", "two", "three")})
        return nn.ModuleDict({"layers": nn.ModuleList([linear]), "others": nn.ModuleList([small])})

    assert len(of(model(10))) == 3
    (named,) = of(model(1600))  # each has 0.4 %, and two of them less than 1 %
    assert named.form == "others.*.one.inner" and named.share < 0.01
    assert of(model(3000)) == ()


def test_what_else_may_be_left():
    model = stacked(lambda: nn.Linear(8, 8))
    model["head"] = nn.Linear(8, 50)
    model["layers"].append(Wrapped(nn.Linear(8, 50)))
    model["layers"][2].inner.weight = model["head"].weight  # tied
    reasons = {left.form: left.reason for left in of(model)}
    assert reasons == {"layers.*.inner": "used elsewhere too"}
    reasons = {left.form: left.reason for left in of(model, parameters=["layers.0.linear"])}
    assert reasons["layers.*.linear"] == "not chosen"
    del model["layers"][2]
    assert [left.reason for left in of(model)] == ["outside the repeated blocks"]


def test_a_summary_names_it():
    model = net(block=Mixture)
    model.blocks[0].experts.down_proj.requires_grad_(False)
    optimizer = adamw(model)
    pruner = Pruner(model, optimizer, Magnitude(), OneShot(0.5, 1))
    summary = pruner.summary()
    assert summary.left_dense == left_dense(model, pruner.prunable)
    lines = str(summary).splitlines()
    assert any(
        line.startswith("left dense: ") and "in blocks.*.experts (Experts: not trained)" in line
        for line in lines
    )
    assert "Attention" not in str(
        left_dense(net(block=Attention), find_prunable(net(block=Attention))[0])
    )
