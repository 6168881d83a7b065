"""The engine's products against loops in double precision, on every variant this machine runs."""

import copy
import os
import pickle
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

from prunella import UsageError
from prunella.bitmask import encode
from prunella.runtime import engine
from prunella.runtime.engine import Matrix
from prunella.runtime.linear import DenseLinear, SparseLinear, footprint, sparsify

pytestmark = pytest.mark.usefixtures("two_threads")

SHAPES = [(1, 1), (3, 5), (16, 16), (17, 33), (64, 257), (100, 96), (33, 600), (257, 1030)]
TOKENS = [1, 2, 15, 16, 17, 33, 48, 64, 65, 130]


def test_this_machine_runs_the_engine():
    assert engine.variants()[-1] == "portable"
    assert engine.variant() in engine.variants()


def sparse(rows, cols, density, seed=0):
    """A matrix of such a density, one of its rows and one of its columns empty."""
    noise = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, cols, generator=noise)
    weight[torch.rand(rows, cols, generator=noise) >= density] = 0
    if 0 < density < 1:
        weight[rows // 2], weight[:, cols // 2] = 0, 0
    return weight


def close(out, x, weight, bias):
    """Whether out is x Wᵀ + b to the rounding of sums of float32 numbers."""
    exact = x.double() @ weight.double().T
    size = x.double().abs() @ weight.double().abs().T  # a sum's rounding goes with its terms
    if bias is not None:
        exact, size = exact + bias.double(), size + bias.double().abs()
    longest = max(int((weight != 0).sum(1).max()), 1)
    return bool(((out.double() - exact).abs() <= size * 2**-24 * (longest + 4) + 1e-30).all())


@pytest.mark.parametrize("rows, cols", SHAPES)
@pytest.mark.parametrize("density", [0.0, 0.02, 0.1, 0.5, 1.0])
def test_products_equal_a_double_precision_loop(variant, rows, cols, density):
    weight, bias = sparse(rows, cols, density), torch.randn(rows)
    matrix = Matrix(encode(weight))
    assert matrix.shape == (rows, cols)
    assert matrix.nonzero == weight.count_nonzero()
    assert torch.equal(matrix.dense(), weight)
    for tokens in TOKENS:
        x = torch.randn(tokens, cols)
        for given in (bias, None):
            assert close(matrix.linear(x, given), x, weight, given), tokens


def test_products_of_panels(variant):
    weight, x = sparse(70, 45, 0.3), torch.randn(3, 45, engine.PANEL)
    out = Matrix(encode(weight)).product(x)
    for given, told in zip(x, out, strict=True):
        assert close(told.T, given.T, weight, None)


def test_more_tokens_than_are_worked_on_at_a_time(variant):
    weight = sparse(40, 70, 0.2)
    x = torch.randn(2500, 70)
    assert close(Matrix(encode(weight)).linear(x, None), x, weight, None)


def test_crowded_columns_and_dead_rows(variant):
    weight = torch.zeros(300, 500)
    weight[:7, :] = torch.randn(7, 500)
    weight[:, 3:6] = torch.randn(300, 3)
    weight[40:200] = 0
    for tokens in (1, 70):
        x = torch.randn(tokens, 500)
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            assert close(Matrix(encode(weight)).linear(x, None), x, weight, None)


def test_stored_transposed(variant):
    weight = sparse(70, 45, 0.3)
    x = torch.randn(20, 45)
    matrix = Matrix(encode(weight.T.contiguous()), transposed=True)
    assert torch.equal(matrix.dense(), weight)
    assert close(matrix.linear(x, None), x, weight, None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_taken_as_float32(dtype):
    weight = sparse(20, 30, 0.4).to(dtype)
    assert torch.equal(Matrix(encode(weight)).dense(), weight.float())


def test_negative_zeros_take_no_room():
    weight = sparse(20, 30, 0.5)
    matrix = Matrix(encode(torch.where(weight == 0, -0.0, weight)))
    assert matrix.nonzero == weight.count_nonzero()
    assert torch.equal(matrix.dense(), weight)


def test_inputs_of_any_layout():
    weight = sparse(20, 30, 0.4)
    matrix = Matrix(encode(weight))
    x = torch.randn(30, 8, 5).permute(2, 1, 0)
    out = matrix.linear(x, None)
    assert out.shape == (5, 8, 20)
    assert close(out.reshape(40, 20), x.reshape(40, 30), weight, None)
    assert close(matrix.linear(x[0, 0], None)[None], x[0, 0][None], weight, None)
    assert matrix.linear(torch.randn(0, 30), None).shape == (0, 20)


def test_bytes_of_a_weight():
    matrix = Matrix(encode(sparse(768, 768, 0.1)))
    assert matrix.nbytes <= 1.05 * 5 * matrix.nonzero


@pytest.mark.parametrize(
    "x, words",
    [
        (torch.ones(2, 31), r"\[2, 31\]"),
        (torch.ones(2, 30).double(), "float64"),
        (torch.ones(2, 30, device="meta"), "meta"),
        (torch.tensor(1.0), r"\[\]"),
    ],
)
def test_inputs_it_does_not_take(x, words):
    with pytest.raises(UsageError, match=words):
        Matrix(encode(sparse(20, 30, 0.4))).linear(x, None)


def layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 40), nn.ReLU(), nn.Linear(40, 7, bias=False)).eval()
    for layer in (model[0], model[2]):
        layer.weight.data.masked_fill_(torch.rand_like(layer.weight) < 0.8, 0)
    return model


def test_sparsify_any_module():
    model = layers()
    dense, x = copy.deepcopy(model), torch.randn(9, 30)
    assert sparsify(model) is model
    assert [type(layer) for layer in model] == [SparseLinear, nn.ReLU, SparseLinear]
    assert torch.allclose(model(x), dense(x), atol=1e-6)
    assert not model(x).requires_grad
    for name, tensor in dense.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert footprint(model) < footprint(dense)
    assert "sparsity=0.8" in repr(model)


def test_what_is_left_dense():
    model = layers()
    nn.init.normal_(model[0].weight)  # nothing gained
    tied = nn.Linear(30, 40)
    tied.weight = model[0].weight
    model.append(tied)
    assert [type(m) for m in sparsify(model)] == [nn.Linear, nn.ReLU, SparseLinear, nn.Linear]


@pytest.mark.parametrize("rows, cols", [(1, 1), (7, 63), (40, 64), (300, 200), (33, 1030)])
def test_one_token_of_a_dense_matrix(variant, rows, cols):
    weight, x, bias = torch.randn(rows, cols), torch.randn(1, 1, cols), torch.randn(rows)
    for given in (bias, None):
        out = engine.dense_linear(x, weight, given)
        assert out.shape == (1, 1, rows)
        assert close(out[0], x[0], weight, given)


def test_large_layers_that_stay_dense():
    model = nn.Sequential(nn.Linear(1024, 1024)).eval()
    x = torch.randn(3, 1, 1024)
    expected = model(x).detach()
    assert [type(m) for m in sparsify(model)] == [DenseLinear]
    assert torch.allclose(model(x[:1]), expected[:1], atol=1e-5)
    assert torch.equal(model(x), expected)
    assert torch.allclose(model.bfloat16()(x[:1].bfloat16()).float(), expected[:1], atol=0.05)
    asks = x[:1].bfloat16().requires_grad_()
    assert model(asks).requires_grad
    assert torch.equal(copy.deepcopy(model)(x.bfloat16()), model(x.bfloat16()))


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.train(),
        lambda model: model.double(),
        lambda model: model.to("meta"),
        lambda model: model.load_state_dict(layers().state_dict()),
        lambda model: model(torch.ones(1, 30, requires_grad=True)),
    ],
)
def test_what_a_sparse_model_refuses(use):
    with pytest.raises(UsageError, match="engine='dense'"):
        use(sparsify(layers()))


def test_what_others_do_with_the_weight():
    model = sparsify(layers())
    dense, x = layers(), torch.randn(3, 30)
    weight = model[0].weight
    assert weight.dtype == torch.float32 and weight.shape == (40, 30)
    assert torch.equal(nn.functional.linear(x, weight), nn.functional.linear(x, dense[0].weight))
    assert torch.equal(weight.t() @ weight, dense[0].weight.t() @ dense[0].weight)


def test_shapes_that_do_not_fit():
    with pytest.raises(UsageError, match="does not fit"):
        SparseLinear(Matrix(encode(sparse(20, 30, 0.4))), torch.zeros(3))
    with pytest.raises(UsageError, match="bias"):
        Matrix(encode(sparse(20, 30, 0.4))).linear(torch.ones(2, 30), torch.zeros(3))
    large = sparsify(nn.Sequential(nn.Linear(1024, 1024)))
    with pytest.raises(RuntimeError):
        large(torch.ones(1024, 1))


def test_layers_with_hooks_or_without_weights_are_left_alone():
    model = nn.Sequential(nn.Linear(30, 40), nn.Linear(4, 4), nn.Linear(4, 4))
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[2].weight)
    model[0].register_forward_hook(lambda *_: None)
    model[1].weight = nn.Parameter(torch.empty(4, 0))
    assert [type(m) for m in sparsify(model)] == [nn.Linear, nn.Linear, SparseLinear]
    alone = nn.Linear(4, 4)
    assert sparsify(alone).state_dict().keys() == {"weight", "bias"}


def test_what_is_not_a_number_stays_so(variant):
    weight = torch.zeros(3, 4)
    weight[0] = 1
    x = torch.tensor([[1.0, float("nan"), 0, 0], [float("inf"), 1, 1, 1]])
    out = Matrix(encode(weight)).linear(x, None)
    assert out[0, 0].isnan() and out[1, 0].isinf() and torch.equal(out[:, 1:], torch.zeros(2, 2))


def test_moving_to_where_it_is_changes_nothing():
    model = sparsify(layers())
    x = torch.randn(3, 30)
    assert torch.equal(model(x), model.to("cpu").float().eval()(x))


def test_copies():
    model = sparsify(layers())
    x = torch.randn(3, 30)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))


def test_several_python_threads():
    model = sparsify(layers())
    inputs = [torch.randn(70, 30) for _ in range(4)]
    expected = [model(x) for x in inputs]
    wrong = []

    def work(x, y):
        for _ in range(200):
            if not torch.equal(model(x), y):
                wrong.append(x)

    workers = [
        threading.Thread(target=work, args=pair) for pair in zip(inputs, expected, strict=True)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


FORK = """
import os, torch
from prunella.bitmask import encode
from prunella.runtime.engine import Matrix
torch.set_num_threads(2)
matrix = Matrix(encode(torch.randn(500, 300).masked_fill_(torch.rand(500, 300) < .8, 0)))
x = torch.randn(130, 300)
out = matrix.linear(x, None)
before = out.numpy().tobytes()
child = os.fork()
if child == 0:
    # torch's own parallel operations hang here, so it is not asked to compare.
    os._exit(0 if matrix.linear(x, None).numpy().tobytes() == before else 1)
assert os.waitpid(child, 0)[1] == 0
assert torch.equal(matrix.linear(x, None), out)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process():
    done = run(FORK)
    assert done.returncode == 0, done.stderr


VARIANT = "from prunella.runtime import variant; print(variant())"


@pytest.mark.parametrize("name", [*engine.variants(), "off"])
def test_the_variable_chooses_a_variant(name):
    done = run(VARIANT, PRUNELLA_ENGINE=name)
    assert done.stdout.strip() == ("None" if name == "off" else name), done.stderr


def test_a_variant_this_machine_does_not_run():
    done = run(VARIANT, PRUNELLA_ENGINE="cray")
    assert "PRUNELLA_ENGINE=cray, but this machine runs" in done.stderr


def test_without_an_engine_everything_is_dense(monkeypatch):
    monkeypatch.setattr(engine, "_native", None)
    engine.variant.cache_clear()
    try:
        with pytest.warns(UserWarning, match="no engine"):
            assert engine.variant() is None
        assert engine.variant() is None  # said once
        model = layers()
        assert [type(m) for m in sparsify(model)] == [nn.Linear, nn.ReLU, nn.Linear]
        monkeypatch.setenv("PRUNELLA_ENGINE", "avx2")
        engine.variant.cache_clear()
        with pytest.raises(UsageError, match="install a C\\+\\+ compiler"):
            engine.variant()
    finally:
        engine.variant.cache_clear()
