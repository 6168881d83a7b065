"""A linear layer whose weight the engine holds, and putting it where linear layers were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import torch
from torch import Tensor, nn

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
            bias = nn.Parameter(bias.detach().float().contiguous(), requires_grad=False)
        self.register_parameter("bias", bias)
        self.eval()

    @property
    def weight(self) -> Tensor:
        """The weight's shape and dtype, without values, for code that asks for them (T5's)."""
        shape = self.matrix.shape
        return torch.empty(shape[::-1] if self.transposed else shape, device="meta")

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            raise UsageError(f"{_INFERENCE_ONLY}, and its input asks for a gradient; {_LOAD_DENSE}")
        return self.matrix.linear(x, self.bias)

    def train(self, mode: bool = True) -> Self:
        if mode:
            raise UsageError(f"{_INFERENCE_ONLY}, so it cannot be trained; {_LOAD_DENSE}")
        return super().train(mode)

    def extra_repr(self) -> str:
        kept = self.matrix.nonzero / (self.in_features * self.out_features)
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, sparsity={1 - kept:.4f}"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        probe = fn(torch.empty(0))
        if probe.dtype != torch.float32 or probe.device.type != "cpu":
            raise UsageError(
                "a model with sparse matrices runs in float32 on the CPU, and cannot be moved to "
                f"{probe.device} as {probe.dtype}; {_LOAD_DENSE}"
            )
        return super()._apply(fn, recurse)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        weight = self.matrix.dense()
        destination[f"{prefix}weight"] = weight.t().contiguous() if self.transposed else weight
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *args: Any) -> None:
        raise UsageError(f"the weights of a sparse matrix do not change; {_LOAD_DENSE}")


_INFERENCE_ONLY = "a model with sparse matrices is for inference"
_LOAD_DENSE = "load it with prunella.load(..., engine='dense')"


class DenseLinear(nn.Linear):
    """A large layer that stays dense, such as the output layer of a language model.

    One token alone is a matter of memory bandwidth, of which the engine gets more than torch does
    (benchmarks/README.md). All else is torch's.
    """

    def forward(self, input: Tensor) -> Tensor:
        tensors = [t for t in (input, self.weight, self.bias) if t is not None]
        plain = all(t.dtype == torch.float32 and t.is_cpu and t.is_contiguous() for t in tensors)
        graph = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        if plain and not graph and input.numel() == self.in_features:
            return engine.dense_linear(input, self.weight, self.bias)
        return super().forward(input)


def linears(model: nn.Module) -> dict[str, Any]:
    """The linear layers that may be replaced, by name: not those whose weight has other uses.

    Subclasses of ``nn.Linear`` are left alone: who knows what they do with their weights.
    """
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return {
        name: module
        for name, module in model.named_modules()
        if (type(module) is nn.Linear or is_conv1d(module)) and uses[id(module.weight)] == 1
    }


def replace(model: nn.Module, coded: Mapping[str, Coded]) -> None:
    """Put sparse layers in place of the linear layers named, whose weights are given coded.

    Large ones that stay become ``DenseLinear``.
    """
    modules: list[Any] = [model.get_submodule(name) for name in coded]
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
    if engine.variant() is not None:
        coded = {}
        for name, module in linears(model).items():
            weight = module.weight
            if weight.count_nonzero() <= (1 - WORTH) * weight.numel():
                coded[name] = encode(weight)
        replace(model, coded)
    return model
