"""The gradient of what a frozen weight and its adapter come to (see ``prunella.adapters``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prunella.adapters import Adapter
from prunella.masks import Masks
from prunella.prunable import Prunable


class MergedGradients:
    """Gradients of merged weights, and those of adapters without what is pruned.

    Args:
        weights: by name; those without an adapter are left alone.
        masks: theirs.
        asked: whether a criterion reads them.
    """

    def __init__(self, weights: Mapping[str, Prunable], masks: Masks, asked: bool):
        self._weights = {name: w for name, w in weights.items() if w.adapter is not None}
        self._masks = masks
        self._asked = asked
        self._sums: dict[str, Tensor] = {}

    def watch(self) -> Iterator[RemovableHandle]:
        """Hooks on the frozen layers."""
        for name in self._weights:
            base = self._adapter(name).layer.base_layer
            yield base.register_forward_pre_hook(_Hook(self._fit, name))
            yield base.register_forward_hook(_Hook(self._see, name))

    def _adapter(self, name: str) -> Adapter:
        adapter = self._weights[name].adapter
        assert adapter is not None
        return adapter

    def collect(self, scale: Tensor | None) -> dict[str, Tensor]:
        """The sums of a step, which begin anew."""
        sums, self._sums = self._sums, {}
        return sums if scale is None else {n: g / scale.to(g.device) for n, g in sums.items()}

    def _fit(self, name: str, module: nn.Module, inputs: Any) -> None:
        adapter = self._adapter(name)
        if adapter.is_on and adapter.fitted not in (None, adapter.version()):  # as by loading
            self._weights[name].hide(self._masks.values[name])

    def _see(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        adapter = self._adapter(name)
        if not (torch.is_grad_enabled() and adapter.is_on and (self._asked or self._masks.chosen)):
            return None
        # A step begins where gradients are gone, also after one that was skipped.
        if all(p.grad is None or not p.grad.any() for p in adapter.trained):
            self._sums.pop(name, None)

        def keep(gradient: Tensor) -> None:
            if self._asked:
                known = self._sums.get(name)
                self._sums[name] = gradient if known is None else known + gradient

        mask, transposed = self._masks.values[name], self._weights[name].transposed
        result: Tensor = _Merged.apply(output, inputs[0], adapter.delta(), mask, transposed, keep)
        return result


class _Merged(torch.autograd.Function):
    """A linear layer's output as it is; backward brings out the gradient of the merged weight."""

    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        inputs: Tensor,
        delta: Tensor,
        mask: Tensor,
        transposed: bool,
        keep: Callable[[Tensor], None],
    ) -> Tensor:
        ctx.save_for_backward(inputs, mask)
        ctx.transposed, ctx.keep, ctx.dtype = transposed, keep, delta.dtype
        return output.clone()  # a view could not be added to in place, as some adapters do

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        (slope,) = outer
        inputs, mask = ctx.saved_tensors
        rows, columns = slope.flatten(0, -2), inputs.flatten(0, -2).to(slope.dtype)
        gradient = (columns.t() @ rows if ctx.transposed else rows.t() @ columns).to(ctx.dtype)
        ctx.keep(gradient)
        return slope, None, -gradient.masked_fill(mask, 0), None, None, None


class _Hook:
    """A hook that calls a method as long as its object lives, and is without effect in a copy."""

    def __init__(self, act: Callable[..., Any] | None, name: str = ""):
        self._name = name
        self._act: Callable[[], Callable[..., Any] | None] = lambda: None
        if act is not None:
            self._act = WeakMethod(act)
            self._run = torch.compiler.disable(self._run)  # type: ignore[method-assign]

    def __call__(self, module: nn.Module, *arguments: Any) -> Any:
        return self._run(module, *arguments)

    def _run(self, module: nn.Module, *arguments: Any) -> Any:
        act = self._act()
        return None if act is None else act(self._name, module, *arguments)

    def __reduce__(self) -> tuple[type[_Hook], tuple[None]]:
        return _Hook, (None,)
