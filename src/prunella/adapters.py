"""Adapters over frozen weights: where a model computes with W + ΔW, and only ΔW is trained.

What is pruned there is the sum, as merging leaves it, for zeros of W alone would be filled in. The
frozen weight holds -ΔW wherever the sum is pruned, anew after every step. So evaluation and merging
need nothing of a pruner, and zeros are exact. Autograd would still train ΔW for what is pruned: a
hook (``prunella.merged``) takes that part out of its gradient, which is then of M⊙(W + ΔW), and
brings out ∂L/∂(W + ΔW) for criteria.

Layers of adapters are known by their form, which is that of PEFT's: ``base_layer``,
``get_delta_weight(name)`` and ``active_adapters``. That they add, and do nothing else, is tried.

Source: masked adapters as MaskLoRA of Zimmer et al. 2023 (PERP, arXiv 2312.15230). Differs from it
in that masks may grow in training, and in that dropout, where adapters have one, reaches what ΔW
adds to pruned weights in training: its mean there is zero.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from prunella.errors import UsageError

REMEDY = (
    "use LoRA without variants (its layers add ΔW to a weight of floats, and nothing else), or "
    "merge the adapters and prune the merged model with all its weights trained"
)


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """Prefix of a wrapped layer's own name -> the layer of adapters around it."""
    return {
        f"{prefix}.base_layer".lstrip("."): module
        for prefix, module in model.named_modules()
        if isinstance(getattr(module, "base_layer", None), nn.Module)
    }


def added(model: nn.Module) -> set[int]:
    """Ids of the parameters that are gone once merged: of adapters, and of what is replaced."""
    own = {
        id(parameter)
        for layer in layers_of(model).values()
        for name, parameter in layer.named_parameters()
        if not name.startswith("base_layer.")
    }
    replaced = [module.original_module for module in _replacing(model)]
    return own | {id(p) for module in replaced for p in module.parameters()}


def replaced(model: nn.Module) -> set[int]:
    """Ids of the parameters of whole modules trained in another's place (``modules_to_save``)."""
    return {id(parameter) for module in _replacing(model) for parameter in module.parameters()}


def _replacing(model: nn.Module) -> list[Any]:
    modules = model.modules()
    return [m for m in modules if isinstance(getattr(m, "original_module", None), nn.Module)]


def adapted(model: nn.Module) -> nn.Module:
    """The model inside PEFT's wrapper; the model itself where it has none, adapters or not."""
    inside: Any = getattr(model, "get_base_model", None)
    return model if inside is None else inside()


class Adapter:
    """What is added to one frozen weight.

    Args:
        layer: the layer of adapters around the weight's module.
    """

    def __init__(self, layer: nn.Module):
        self.layer: Any = layer
        self.fitted: tuple[Any, ...] | None = None  # the version that the frozen weight fits

    @property
    def trained(self) -> list[nn.Parameter]:
        """Its trained parameters."""
        named = self.layer.named_parameters()
        return [p for n, p in named if p.requires_grad and not n.startswith("base_layer.")]

    @property
    def is_on(self) -> bool:
        """Whether the layer adds ΔW when it is called."""
        return not (self.layer.merged or self.layer.disable_adapters)

    def delta(self) -> Tensor:
        """ΔW, of the weight's shape."""
        (active,) = self.layer.active_adapters
        delta: Tensor = self.layer.get_delta_weight(active)
        return delta

    def version(self) -> tuple[Any, ...]:
        """Another one whenever ΔW may be."""
        parameters = tuple((id(p), p._version) for p in self.layer.parameters())
        scaling = getattr(self.layer, "scaling", {})
        return (*parameters[1:], tuple(self.layer.active_adapters), str(scaling))

    def check(self, name: str, weight: Tensor, transposed: bool) -> None:
        """Raise UsageError where the layer does anything else than add ΔW to the weight."""
        kind = type(self.layer).__name__
        if not hasattr(self.layer, "get_delta_weight"):
            raise UsageError(f"the adapter {kind} over {name} adds nothing to a weight; {REMEDY}")
        if len(self.layer.active_adapters) != 1:
            raise UsageError(
                f"{name} has {len(self.layer.active_adapters)} active adapters; merge all but the "
                "one that is trained, or switch to that one with set_adapter"
            )
        if self.layer.merged or self.layer.disable_adapters:
            raise UsageError(
                f"the adapter over {name} is merged or off; switch it on "
                "(unmerge_adapter, enable_adapter_layers) to train it"
            )
        if weight.requires_grad:
            raise UsageError(
                f"{name} is trained itself beneath its adapter; freeze it, or train it without one"
            )
        if not self._adds(weight, transposed):
            raise UsageError(
                f"the adapter {kind} over {name} does not come to W + ΔW once merged; {REMEDY}"
            )
        delta = self.delta()
        if delta.dtype != weight.dtype:
            raise UsageError(
                f"the adapter over {name} is {delta.dtype}, the weight {weight.dtype}: merging "
                "would round, and zeros would not stay; give both one dtype, as by "
                "get_peft_model(..., autocast_adapter_dtype=False)"
            )

    def _adds(self, weight: Tensor, transposed: bool) -> bool:
        """Try it, in a copy whose adapter is no longer what it was at the start."""
        generator = torch.Generator().manual_seed(0)
        trial = copy.deepcopy(self.layer).float().cpu().eval()
        for name, parameter in trial.named_parameters():
            if not name.startswith("base_layer."):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data = parameter.data + 0.1 * noise
        try:
            with torch.no_grad():
                merged = trial.base_layer.weight + Adapter(trial).delta()
                if merged.shape != weight.shape or merged.ndim != 2:
                    return False
                merged = merged if transposed else merged.t()
                inputs = torch.randn(4, merged.shape[0], generator=generator)
                outputs = trial(inputs) - trial(torch.zeros_like(inputs))  # without biases
                return torch.allclose(outputs, inputs @ merged, rtol=1e-3, atol=1e-3)
        except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError):
            return False
