"""How much arithmetic a forward pass takes, dense and with the zeros left out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from prunella.prunable import is_conv1d


def count(model: nn.Module, forward: Callable[[], object]) -> dict[str, int]:
    """Floating-point operations of a forward pass, two for each multiplication and addition.

    Matrix products and convolutions are counted, by torch's own counter. An engine that skips
    zeros does one multiplication less for every zero weight of a linear layer and every vector
    that the layer is given, however often a shared layer is used.

    Args:
        model: whose linear layers hold the zeros.
        forward: one pass through it. Attention must be plain products
            (``attn_implementation="eager"``): torch does not count its fused ones on a CPU.

    Returns:
        ``dense`` and ``sparse``.

    >>> layer = nn.Linear(4, 3, bias=False)
    >>> layer.weight.data[0] = 0
    >>> count(layer, lambda: layer(torch.ones(2, 4)))
    {'dense': 48, 'sparse': 32}
    """
    skipped = 0

    def skip(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal skipped
        weight = module.weight
        assert isinstance(weight, Tensor)
        vectors = output.numel() // output.shape[-1]
        skipped += 2 * vectors * (weight.numel() - int(weight.count_nonzero()))

    linears = [m for m in model.modules() if isinstance(m, nn.Linear) or is_conv1d(m)]
    hooks = [linear.register_forward_hook(skip) for linear in linears]
    # The counter would follow gradients through the modules, and stumbles over views of parameters.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.requires_grad_(False)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            forward()
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in trained:
            parameter.requires_grad_(True)
    dense = counter.get_total_flops()
    return {"dense": dense, "sparse": dense - skipped}
