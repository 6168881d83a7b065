"""Weights that the engine holds where modules had parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from prunella.errors import UsageError
from prunella.runtime.engine import Matrix

INFERENCE_ONLY = "a model with sparse matrices is for inference"
LOAD_DENSE = "load it with prunella.load(..., engine='dense')"


class Held(Protocol):
    """What can give a dense weight."""

    def dense(self) -> Tensor: ...


class Weight(Tensor):
    """A weight that has a shape and a dtype, and values once something computes with it."""

    holder: Held

    @staticmethod
    def __new__(cls, holder: Held, shape: Sequence[int]) -> Weight:
        weight: Any = cls._make_wrapper_subclass(
            cls, shape, dtype=torch.float32, device=torch.device("cpu")
        )
        weight.holder = holder
        return weight

    # Torch's fused layers of transformers, which would ask for all values at every pass, leave
    # alone whatever has this.
    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map_only(Weight, lambda w: w.holder.dense(), (args, kwargs or {}))
        return func(*args, **kwargs)


class Sparse(nn.Module):
    """A module whose weights the engine holds: it is not trained, moved, or given others.

    Attributes:
        matrices: of the engine.
    """

    matrices: tuple[Matrix, ...]

    def train(self, mode: bool = True) -> Self:
        check_mode(mode)
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        check_move(fn)
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any) -> None:
        refuse_weights(self)


class SparseWeight(Sparse):
    """A parameter of several matrices, each held by the engine, under the parameter's name.

    The ``state_dict`` has the dense parameter, laid out as it was.

    Args:
        matrices: [out, in] each.
        shape: of the parameter, whose matrices are stacked along its first axis.
        transposed: each is stored [in, out].
    """

    def __init__(self, matrices: Sequence[Matrix], shape: Sequence[int], transposed: bool = False):
        super().__init__()
        self.matrices = tuple(matrices)
        self.shape = torch.Size(shape)
        self.transposed = transposed
        self.eval()

    def __len__(self) -> int:
        return len(self.matrices)

    def dense(self) -> Tensor:
        """The dense parameter."""
        stack = torch.stack([matrix.dense() for matrix in self.matrices])
        return (stack.mT if self.transposed else stack).reshape(self.shape).contiguous()

    def tensor(self) -> Tensor:
        """The parameter for who reads it as such; its values are made when they are used."""
        return Weight(self, self.shape)

    def linear(self, place: int, x: Tensor, bias: Tensor | None) -> Tensor:
        """x Wᵀ + bias with one of the matrices."""
        return self.matrices[place].linear(x, bias)

    def extra_repr(self) -> str:
        kept = sum(matrix.nonzero for matrix in self.matrices) / self.shape.numel()
        return f"{list(self.shape)}, matrices={len(self)}, sparsity={1 - kept:.4f}"

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[prefix.removesuffix(".")] = self.dense()


def refuse_weights(model: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Raise UsageError: other weights were offered."""
    raise UsageError(f"the weights of a sparse matrix do not change; {LOAD_DENSE}")


def check_mode(mode: bool) -> None:
    """Raise UsageError where a sparse module is to be trained."""
    if mode:
        raise UsageError(f"{INFERENCE_ONLY}, so it cannot be trained; {LOAD_DENSE}")


def check_move(fn: Callable[[Tensor], Tensor]) -> None:
    """Raise UsageError where what is applied to all tensors would move or convert them."""
    probe = fn(torch.empty(0, dtype=torch.float32, device="cpu"))
    if probe.dtype != torch.float32 or probe.device.type != "cpu":
        raise UsageError(
            "a model with sparse matrices runs in float32 on the CPU, and cannot be moved to "
            f"{probe.device} as {probe.dtype}; {LOAD_DENSE}"
        )


def check_graph(x: Tensor) -> None:
    """Raise UsageError where a gradient is asked for."""
    if x.requires_grad and torch.is_grad_enabled():
        raise UsageError(f"{INFERENCE_ONLY}, and its input asks for a gradient; {LOAD_DENSE}")
