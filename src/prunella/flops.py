"""How much arithmetic a forward pass takes, dense and with the zeros left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from prunella.prunable import linear_weights, named_parameters

aten = torch.ops.aten
_PRODUCTS = (aten.mm, aten.addmm, aten.bmm, aten.baddbmm)  # of their last two arguments


def count(model: nn.Module, forward: Callable[[], object]) -> dict[str, int]:
    """Floating-point operations of a forward pass, two for each multiplication and addition.

    Matrix products and convolutions are counted, by torch's own counter. An engine that skips
    zeros does one multiplication less for every zero weight of a linear map (see
    ``prunella.prunable.layouts``) and every vector that it is given, however often it is used.

    Args:
        model: whose linear maps hold the zeros.
        forward: one pass through it. Attention must be plain products
            (``attn_implementation="eager"``), and experts too (``experts_implementation="eager"``):
            torch does not count its fused ones on a CPU.

    Returns:
        ``dense`` and ``sparse``.

    >>> layer = nn.Linear(4, 3, bias=False)
    >>> layer.weight.data[0] = 0
    >>> count(layer, lambda: layer(torch.ones(2, 4)))
    {'dense': 48, 'sparse': 32}
    """
    # The counter would follow gradients through the modules, and stumbles over views of parameters.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        model.requires_grad_(False)
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad(), _Zeros(model) as zeros, FlopCounterMode(display=False) as counter:
            forward()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for parameter in trained:
            parameter.requires_grad_(True)
    dense = counter.get_total_flops()
    return {"dense": dense, "sparse": dense - zeros.skipped}


class _Zeros(TorchDispatchMode):
    """Counts what products with weights of linear maps, or with parts of them, need not do."""

    def __init__(self, model: nn.Module):
        super().__init__()
        names = linear_weights(model)
        every = named_parameters(model, remove_duplicate=False)
        self._weights = {_place(p) for name, p in every if name in names}
        self.skipped = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in _PRODUCTS:
            left, right = args[-2:]
            if _place(right) in self._weights:
                self.skipped += 2 * _zeros(right) * left.shape[-2]
            elif _place(left) in self._weights:
                self.skipped += 2 * _zeros(left) * right.shape[-1]
        return func(*args, **kwargs or {})


def _place(tensor: Tensor) -> int:
    """Where a tensor lies in memory, be it the whole or a view."""
    return tensor.untyped_storage().data_ptr()


def _zeros(tensor: Tensor) -> int:
    return tensor.numel() - int(tensor.count_nonzero())
