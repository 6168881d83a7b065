"""A linear layer whose weight the engine holds, and putting it where linear layers were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from prunella.bitmask import Coded, encode
from prunella.errors import UsageError
from prunella.prunable import is_conv1d
from prunella.runtime import engine
from prunella.runtime.engine import Matrix

# From this sparsity on the engine's form is the smaller one (5 bytes a non-zero weight against 4
# a weight), and the faster one as well (benchmarks/README.md).
WORTH = 0.2
LARGE = 2**20  # weights of a dense layer that is read from memory, not from the caches


class SparseLinear(nn.Module):
    """x Wᵀ + b with a matrix of the engine, for inference in float32 on the CPU.

    Its ``state_dict`` has the dense weight, laid out as it was.

    Args:
        matrix: [out, in].
        bias: [out], or None.
        transposed: the layer it stands for was Conv1D, whose weight is [in, out].
    """

    bias: nn.Parameter | None

    def __init__(self, matrix: Matrix, bias: Tensor | None, transposed: bool = False):
        super().__init__()
        self.matrix = matrix
        self.transposed = transposed
        self.out_features, self.in_features = matrix.shape
        if bias is not None:
            if bias.shape != (self.out_features,):
                raise UsageError(
                    f"a bias {list(bias.shape)} does not fit a matrix of {self.out_features} rows; "
                    f"give [{self.out_features}]"
                )
            bias = nn.Parameter(bias.detach().float().contiguous(), requires_grad=False)
        self.register_parameter("bias", bias)
        self.eval()

    @property
    def weight(self) -> Tensor:
        """The dense weight, made when something computes with it; T5 asks only for its dtype."""
        return _Weight(self)

    def dense(self) -> Tensor:
        """The dense weight, laid out as it was."""
        weight = self.matrix.dense()
        return weight.t().contiguous() if self.transposed else weight

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            raise UsageError(f"{_INFERENCE_ONLY}, and its input asks for a gradient; {_LOAD_DENSE}")
        return self.matrix.linear(x, self.bias)

    def train(self, mode: bool = True) -> Self:
        _check_mode(mode)
        return super().train(mode)

    def extra_repr(self) -> str:
        kept = self.matrix.nonzero / (self.in_features * self.out_features)
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, sparsity={1 - kept:.4f}"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        _check_move(fn)
        return super()._apply(fn, recurse)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[f"{prefix}weight"] = self.dense()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *args: Any) -> None:
        _load_state_dict(self)


_INFERENCE_ONLY = "a model with sparse matrices is for inference"
_LOAD_DENSE = "load it with prunella.load(..., engine='dense')"


class _Weight(Tensor):
    """A weight that has a shape and a dtype, and values once something computes with it."""

    layer: SparseLinear

    @staticmethod
    def __new__(cls, layer: SparseLinear) -> _Weight:
        shape = layer.matrix.shape
        side = shape[::-1] if layer.transposed else shape
        weight: Any = cls._make_wrapper_subclass(
            cls, side, dtype=torch.float32, device=torch.device("cpu")
        )
        weight.layer = layer
        return weight

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map_only(_Weight, lambda w: w.layer.dense(), (args, kwargs or {}))
        return func(*args, **kwargs)


class DenseLinear(nn.Linear):
    """A large layer that stays dense, such as the output layer of a language model.

    One token alone is a matter of memory bandwidth, of which the engine gets more than torch does
    (benchmarks/README.md). All else is torch's.
    """

    @torch.compiler.disable
    def forward(self, input: Tensor) -> Tensor:
        tensors = [t for t in (input, self.weight, self.bias) if t is not None]
        plain = all(engine.has_values(t) and engine.plain(t) and not t.is_neg() for t in tensors)
        graph = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        one = input.numel() == self.in_features and input.shape[-1] == self.in_features
        if plain and one and not graph:
            return engine.dense_linear(input, self.weight, self.bias)
        return super().forward(input)


def linears(model: nn.Module) -> dict[str, Any]:
    """The linear layers that may be replaced, by name: not those whose weight has other uses.

    Subclasses of ``nn.Linear`` are left alone, who knows what they do with their weights, and so
    are layers with hooks, and the model where it is one itself.
    """
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return {
        name: module
        for name, module in model.named_modules()
        if (type(module) is nn.Linear or is_conv1d(module))
        and name
        and isinstance(module._parameters.get("weight"), nn.Parameter)
        and module.weight.numel()
        and uses[id(module.weight)] == 1
        and not (module._forward_hooks or module._forward_pre_hooks)
    }


def replace(model: nn.Module, coded: Mapping[str, Coded]) -> None:
    """Put sparse layers in place of the linear layers named, whose weights are given coded.

    Large ones that stay become ``DenseLinear``. The model refuses to be trained, moved or given
    other weights from then on.

    Raises:
        UsageError: a weight is not of its layer's shape.
    """
    modules: list[Any] = [model.get_submodule(name) for name in coded]
    for module, (name, weight) in zip(modules, coded.items(), strict=True):
        if weight.shape != tuple(module.weight.shape):
            raise UsageError(
                f"the weight of {name} is {list(weight.shape)}, but the config asks for "
                f"{list(module.weight.shape)}; give the config that the model was saved with"
            )
    transposed = [is_conv1d(module) for module in modules]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        matrices = pool.map(Matrix, coded.values(), transposed)
        for name, module, matrix, turned in zip(coded, modules, matrices, transposed, strict=True):
            parent, _, attribute = name.rpartition(".")
            sparse = SparseLinear(matrix, module.bias, turned)
            setattr(model.get_submodule(parent), attribute, sparse)
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.numel() >= LARGE:
            module.__class__ = DenseLinear
    if coded:
        # On the model itself: its parts would be changed before a sparse layer could refuse.
        attributes: Any = model
        attributes.train = partial(_train, model)
        attributes._apply = partial(_apply, model)
        attributes.load_state_dict = partial(_load_state_dict, model)


def _train(model: nn.Module, mode: bool = True) -> nn.Module:
    _check_mode(mode)
    return type(model).train(model, mode)


def _apply(model: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    _check_move(fn)
    return type(model)._apply(model, fn, recurse)


def _load_state_dict(model: nn.Module, *args: Any, **kwargs: Any) -> None:
    raise UsageError(f"the weights of a sparse matrix do not change; {_LOAD_DENSE}")


def _check_mode(mode: bool) -> None:
    if mode:
        raise UsageError(f"{_INFERENCE_ONLY}, so it cannot be trained; {_LOAD_DENSE}")


def _check_move(fn: Callable[[Tensor], Tensor]) -> None:
    probe = fn(torch.empty(0, dtype=torch.float32, device="cpu"))
    if probe.dtype != torch.float32 or probe.device.type != "cpu":
        raise UsageError(
            "a model with sparse matrices runs in float32 on the CPU, and cannot be moved to "
            f"{probe.device} as {probe.dtype}; {_LOAD_DENSE}"
        )


def footprint(model: nn.Module) -> int:
    """Bytes of a model's parameters, buffers and matrices of the engine, shared ones once."""
    held = {id(t): t for t in (*model.parameters(), *model.buffers())}
    matrices = {id(m.matrix): m.matrix for m in model.modules() if isinstance(m, SparseLinear)}
    return sum(t.nbytes for t in held.values()) + sum(m.nbytes for m in matrices.values())


def sparsify(model: nn.Module) -> nn.Module:
    """Let the engine compute the linear layers that are sparse enough, in place.

    Works on any module. The model is for inference from then on: in evaluation mode, in float32,
    on the CPU, its parameters frozen.

    Args:
        model: a module on the CPU; bfloat16, float16 and float64 become float32.

    Returns:
        the same module.

    Raises:
        UsageError: it is not on the CPU.
    """
    if any(p.device.type != "cpu" for p in model.parameters()):
        raise UsageError("the engine runs on the CPU; move the model there: model.to('cpu')")
    model.eval().float().requires_grad_(False)
    coded = {}
    if engine.variant() is not None:
        for name, module in linears(model).items():
            weight = module.weight
            if weight.count_nonzero() <= (1 - WORTH) * weight.numel():
                coded[name] = encode(weight)
        replace(model, coded)
    return model
