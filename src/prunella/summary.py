"""What is left of a model, and what of it a pruner does not touch: by name, and with its share."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunella.figures import percent
from prunella.prunable import (
    TABLES,
    Count,
    blocks_of,
    by_default,
    linear_weights,
    named_holders,
    named_parameters,
    unwrap,
)

UNNAMED = 0.01  # of a model's weights may be left dense without being named
_PACKED = (torch.int8, torch.uint8, torch.int32)  # what quantized weights are kept as in buffers


@dataclass(frozen=True)
class LeftDense:
    """Weights that are not pruned, in all modules of one place and kind.

    Attributes:
        form: names of the modules that hold them, ``layers.*.mixer``.
        kind: their class.
        weights: how many.
        share: fraction of the whole model's.
        reason: why they are not pruned.
    """

    form: str
    kind: str
    weights: int
    share: float
    reason: str

    def __str__(self) -> str:
        return f"{percent(self.share, 1)} in {self.form} ({self.kind}: {self.reason})"


def left_dense(model: nn.Module, prunable: Collection[str]) -> tuple[LeftDense, ...]:
    """What stays dense of a model's matrices, the largest first, until 1 % of it is unnamed.

    Args:
        model: any module.
        prunable: names of the parameters that are pruned.
    """
    model = unwrap(model)
    holders, reason = named_holders(model), _Reasons(model)
    sums: dict[tuple[str, str, str], int] = {}
    total = 0
    for name, tensor in _weights(model):
        total += tensor.numel()
        if name in prunable or tensor.ndim < 2 or name.endswith("bias"):
            continue
        prefix = name.rpartition(".")[0]
        kind = type(holders[prefix]).__name__
        key = re.sub(r"\b[0-9]+\b", "*", prefix) or kind, kind, reason(name, tensor)
        sums[key] = sums.get(key, 0) + tensor.numel()
    found, rest = [], sum(sums.values())
    for key, weights in sorted(sums.items(), key=lambda item: -item[1]):
        if rest <= UNNAMED * total:
            break
        form, kind, why = key
        found.append(LeftDense(form, kind, weights, weights / total, why))
        rest -= weights
    return tuple(found)


def told(left: Collection[LeftDense]) -> str:
    """All of it in one line; empty where nothing large is left dense."""
    return f"left dense: {', '.join(map(str, left))}" if left else ""


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters, and quantized weights, which are none."""
    yield from named_parameters(model)
    blocks = blocks_of(model)
    for name, buffer in model.named_buffers():
        if buffer.dtype in _PACKED and buffer.ndim > 1 and name.startswith(blocks):
            yield name, buffer


class _Reasons:
    """Why a weight of a model is not pruned."""

    def __init__(self, model: nn.Module):
        self._holders = named_holders(model)
        self._linears, self._chosen = linear_weights(model), by_default(model)
        self._inside = blocks_of(model)
        shared: dict[int, list[str]] = {}
        for name, parameter in named_parameters(model, remove_duplicate=False):
            shared.setdefault(id(parameter), []).append(name)
        self._names: Mapping[int, list[str]] = shared

    def __call__(self, name: str, tensor: Tensor) -> str:
        module = self._holders[name.rpartition(".")[0]]
        names = self._names.get(id(tensor), [name])
        if not tensor.is_floating_point():
            return "quantized"
        if isinstance(module, TABLES):
            return "a look-up table"
        if names[0] in self._chosen:
            return "not chosen" if tensor.requires_grad else "not trained"
        if not name.startswith(self._inside):
            return "outside the repeated blocks"
        if self._linears & set(names):
            return "used elsewhere too"
        for kinds, what in _KNOWN.items():
            if isinstance(module, kinds):
                return what
        return "no linear layer that is known"


_KNOWN = {
    (nn.RNNBase, nn.RNNCellBase): "recurrent",
    (nn.modules.conv._ConvNd,): "a convolution",
}


@dataclass(frozen=True)
class Summary:
    """What is left of a model: counts by scope (see ``Scopes``) after a number of steps.

    ``left_dense`` says which of its weights are not pruned at all (see ``prunella.left_dense``).
    """

    step: int
    counts: dict[str, Count]
    frozen: tuple[str, ...] = ()
    outcome: bool = False
    left_dense: tuple[LeftDense, ...] = ()

    def __str__(self) -> str:
        title = f"after {self.step} steps"
        rows = [f"{title:<20}{'non-zero':>15}{'of':>15}{'sparsity':>10}"]
        rows += [
            f"{scope:<20}{count.nonzero:>15,}{count.total:>15,}{percent(count.sparsity):>10}"
            for scope, count in self.counts.items()
        ]
        if self.outcome:
            rows.append("sparsity is an outcome of threshold and penalty: no target was set")
        rows += [f"left dense: {left}" for left in self.left_dense]
        if self.frozen:
            rows.append(f"not trained, not pruned: {len(self.frozen)} ({self.frozen[0]} …)")
        return "\n".join(rows)
