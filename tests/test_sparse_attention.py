"""nn.MultiheadAttention in the engine computes what torch does."""

import copy
import pickle

import pytest
import torch
from torch import nn

from prunella import UsageError
from prunella.runtime import sparsify, variant
from prunella.runtime.attention import SparseAttention
from prunella.runtime.linear import computed_densely, footprint, matrices_of

pytestmark = pytest.mark.skipif(variant() is None, reason="there is no engine")


@pytest.fixture(autouse=True)
def unfused():
    """Torch's fused path gives other values where nothing is to be seen: at the padding."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def thin(model, seed=0, keep=0.2):
    """The model with most of its matrices' weights zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data *= torch.rand(parameter.shape, generator=generator) < keep
        else:
            parameter.data.normal_(generator=generator)
    return model.eval().requires_grad_(False)


def attention(**options):
    torch.manual_seed(0)
    return thin(nn.MultiheadAttention(16, 4, **options))


def same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, equal_nan=True)


PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False, True] * 2 + [False]])
CAUSAL = torch.ones(5, 5, dtype=torch.bool).triu(1)
MASKS = {
    "none": {},
    "padding": {"key_padding_mask": PADDING},
    "causal": {"attn_mask": CAUSAL},
    "both": {"key_padding_mask": PADDING, "attn_mask": CAUSAL},
    "hinted": {"attn_mask": CAUSAL, "is_causal": True},
    "added": {
        "key_padding_mask": torch.randn(3, 5, generator=torch.Generator().manual_seed(1)),
        "attn_mask": torch.randn(5, 5, generator=torch.Generator().manual_seed(2)),
    },
    "every head's own": {"attn_mask": CAUSAL.flip(0, 1).tril(0).repeat(12, 1, 1)},
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("weights", [{"need_weights": False}, {}, {"average_attn_weights": False}])
def test_it_equals_torch(mask, batch_first, weights):
    dense = attention(batch_first=batch_first)
    sparse = sparsify(copy.deepcopy(dense))
    assert type(sparse) is SparseAttention and len(matrices_of(sparse)) == 4
    x = torch.randn(3, 5, 16) if batch_first else torch.randn(5, 3, 16)
    expected, ours = (m(x, x, x, **MASKS[mask], **weights) for m in (dense, sparse))
    if weights.get("need_weights", True):
        same(ours, expected)
    else:
        assert ours[1] is None
        same(ours[:1], expected[:1])


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 12, "vdim": 20}])
def test_other_keys_and_values_and_no_batch(options):
    dense = attention(**options)
    sparse = sparsify(copy.deepcopy(dense))
    assert len(matrices_of(sparse)) == 4
    sides = (16, options.get("kdim", 16), options.get("vdim", 16))
    inputs = [torch.randn(n, 2, side) for n, side in zip((5, 7, 7), sides, strict=True)]
    same(sparse(*inputs), dense(*inputs))
    inputs = [x[:, 0] for x in inputs]
    padding = torch.tensor([False] * 4 + [True] * 3)
    same(sparse(*inputs), dense(*inputs))
    same(sparse(*inputs, key_padding_mask=padding), dense(*inputs, key_padding_mask=padding))
    with torch.inference_mode():
        same(sparse(*inputs), dense(*inputs))


@pytest.mark.parametrize("part", ["in_proj_weight", "out_proj"])
def test_only_one_of_the_two_is_sparse(part):
    dense = attention()
    weight = dense.in_proj_weight if part == "out_proj" else dense.out_proj.weight
    nn.init.normal_(weight)
    sparse = sparsify(copy.deepcopy(dense))
    assert len(matrices_of(sparse)) == (1 if part == "out_proj" else 3)
    x = torch.randn(5, 3, 16)
    same(sparse(x, x, x), dense(x, x, x))
    assert footprint(sparse) < footprint(dense)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_transformers_of_torch(norm_first, padded, monkeypatch):
    torch.backends.mha.set_fastpath_enabled(True)  # it would read the weights themselves
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=norm_first)
    dense = thin(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    sparse = sparsify(copy.deepcopy(dense))
    assert len(matrices_of(sparse)) == 2 * 6
    x, padding = torch.randn(3, 5, 16), PADDING if padded else None
    with torch.no_grad(), monkeypatch.context() as patch:
        expected = dense(x, src_key_padding_mask=padding)
        for matrix in matrices_of(sparse):  # nobody asks for dense values
            patch.setattr(type(matrix), "dense", None)
        ours = sparse(x, src_key_padding_mask=padding)
    seen = ~PADDING if padded else torch.ones(3, 5, dtype=torch.bool)
    same([ours[seen]], [expected[seen]])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("norm", [None, nn.LayerNorm(16)])
def test_padding_comes_out_as_torch_leaves_it(norm):
    torch.backends.mha.set_fastpath_enabled(True)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    dense = thin(nn.TransformerEncoder(layer, 2, norm))
    nn.init.normal_(dense.layers[0].linear1.weight)
    sparse = sparsify(copy.deepcopy(dense))
    x = torch.randn(3, 5, 16)
    behind = torch.arange(5) >= torch.tensor([[5], [3], [1]])
    for padding in (behind, behind.float() * -1e9, behind.flip(1), PADDING, None):
        seen = padding == 0 if padding is not None and padding is not behind else slice(None)
        ours, theirs = (m(x, src_key_padding_mask=padding)[seen] for m in (sparse, dense))
        same([ours], [theirs])
    for twin in (copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse))):
        same([twin(x, src_key_padding_mask=behind)], [dense(x, src_key_padding_mask=behind)])


def test_decoders_of_torch():
    layer = nn.TransformerDecoderLayer(16, 4, 32, batch_first=True)
    dense = thin(nn.TransformerDecoder(layer, 1))
    sparse = sparsify(copy.deepcopy(dense))
    assert len(matrices_of(sparse)) == 2 * 4 + 2
    x, memory = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    same([sparse(x, memory, tgt_mask=CAUSAL)], [dense(x, memory, tgt_mask=CAUSAL)])


def test_its_state_is_the_dense_one():
    dense = nn.ModuleList([attention(), attention(kdim=12, vdim=20)])
    state = dense.state_dict()
    sparse = sparsify(copy.deepcopy(dense))
    ours = sparse.state_dict()
    assert ours.keys() == state.keys()
    assert all(torch.equal(ours[name], state[name]) for name in state)
    assert torch.equal(sparse[0].in_proj_weight + 0, state["0.in_proj_weight"])
    assert sparse[0].in_proj_weight.shape == (48, 16) and sparse[1].in_proj_weight is None
    assert footprint(sparse) < 0.6 * footprint(dense)


def test_copies():
    sparse = sparsify(attention())
    x = torch.randn(5, 3, 16)
    for twin in (copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse))):
        assert len(matrices_of(twin)) == 4
        same(twin(x, x, x), sparse(x, x, x))


def test_what_it_refuses():
    sparse = sparsify(attention())
    x = torch.randn(5, 3, 16)
    for act in (sparse.train, sparse.half, lambda: sparse.load_state_dict(sparse.state_dict())):
        with pytest.raises(UsageError, match="engine='dense'"):
            act()
    with pytest.raises(UsageError, match="asks for a gradient"):
        sparse(x.clone().requires_grad_(), x, x)
    with pytest.raises(UsageError, match="is_causal is a hint"):
        sparse(x, x, x, is_causal=True)


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_what_it_cannot_compute_stays_torchs(options):
    dense = attention(**options)
    sparse = sparsify(nn.ModuleList([copy.deepcopy(dense)]))
    assert not matrices_of(sparse)
    assert computed_densely(sparse).keys() >= {"*.in_proj_weight", "*.out_proj.weight"}
    x = torch.randn(5, 3, 16)
    same(sparse[0](x, x, x), dense(x, x, x))
