"""A model as it was at some step: its zeros packed away, run in evaluation mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from prunella.adapters import layers_of
from prunella.bitmask import pack, unpack
from prunella.errors import UsageError
from prunella.prunable import layouts, unwrap
from prunella.sharding import is_sharded


class Snapshot:
    """A frozen copy of a model, taken anew whenever asked for.

    It shares the parameters that are not trained. Of linear layers, attention and experts it keeps
    the weights that are not zero and one bit for every weight, and unpacks them for the time of the
    module's forward: at 80 % sparsity 0.9 bytes a weight instead of 4.

    Args:
        model: the model to copy; wrappers of torch.compile and data-parallel training are looked
            through.

    Attributes:
        model: the copy, in evaluation mode; None until the first was taken.
    """

    def __init__(self, model: nn.Module):
        self.original = unwrap(model)
        self.model: nn.Module | None = None
        self._packed: dict[str, _Packed] = {}
        self._trained: list[str] = []  # names of the copy's own parameters

    def take(self) -> None:
        """Copy the model as it evaluates now.

        Raises:
            UsageError: it is sharded over processes.
        """
        if any(map(is_sharded, self.original.parameters())):
            raise UsageError(
                "a snapshot of a model that is sharded over processes cannot be taken; train with "
                "DistributedDataParallel, or distil from another model"
            )
        self._become(self.original.state_dict())

    def state_dict(self) -> dict[str, Tensor]:
        """What it does not share with the model, by name; empty before the first was taken."""
        if self.model is None:
            return {}
        own = self._own(self.model)
        return {n: self._packed[n].unpacked() if n in self._packed else own[n] for n in own}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up a saved snapshot, or that there was none."""
        self.model, self._packed = None, {}
        if state:
            self._become(state)

    @torch.no_grad()
    def _become(self, state: Mapping[str, Tensor]) -> None:
        if self.model is None:
            self._build()
        assert self.model is not None
        for name, tensor in self._own(self.model).items():
            if name in self._packed:
                self._packed[name].pack(state[name].to(tensor.device))
            else:
                tensor.copy_(state[name])

    def _build(self) -> None:
        """A copy of the modules, with the original's own frozen parameters."""
        bases = {  # which a pruner changes
            id(p) for layer in layers_of(self.original).values() for p in layer.parameters()
        }
        frozen = {
            id(p): p for p in self.original.parameters() if not (p.requires_grad or id(p) in bases)
        }
        self.model = deepcopy(self.original, dict(frozen)).eval()
        spare_cache(self.model)
        owners = Counter(id(p) for _, p in self.model.named_parameters(remove_duplicate=False))
        for name, holder, user in _used(self.model):
            attribute = name.rpartition(".")[2]
            weight = holder._parameters.get(attribute)
            if weight is not None and owners[id(weight)] == 1 and id(weight) not in frozen:
                self._packed[name] = _Packed(holder, attribute, user)
        self._trained = [n for n, p in self.model.named_parameters() if id(p) not in frozen]
        for parameter in self.model.parameters():
            if id(parameter) not in frozen:
                parameter.requires_grad_(False)

    def _own(self, copy: nn.Module) -> dict[str, Tensor]:
        state = copy.state_dict()
        buffers = state.keys() - dict(copy.named_parameters(remove_duplicate=False))
        return {name: state[name] for name in (*self._trained, *sorted(buffers))}


def spare_cache(teacher: nn.Module) -> None:
    """Have a language model of Transformers' kind keep nothing for tokens that never follow."""
    config: Any = getattr(teacher, "config", None)
    if config is not None:
        config.use_cache = False


def _used(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """Weights of linear maps by name, what holds them, and what alone computes with them.

    Subclasses of linear layers are left alone: who knows where their weights are used.
    """
    for prefix, module in model.named_modules():
        if not isinstance(module, nn.Linear) or type(module) is nn.Linear:
            for attribute in layouts(module):
                yield f"{prefix}.{attribute}".lstrip("."), module, module
        if isinstance(module, nn.MultiheadAttention):
            yield f"{prefix}.out_proj.weight".lstrip("."), module.out_proj, module


class _Packed:
    """A weight of linear maps: its non-zero values and the bits that say where they are."""

    def __init__(self, holder: nn.Module, attribute: str, module: nn.Module):
        self.parameter = holder.get_parameter(attribute)
        module.register_forward_pre_hook(lambda *_: self._show(self.unpacked()))
        module.register_forward_hook(lambda *_: self._hide())

    def pack(self, weight: Tensor) -> None:
        kept = weight != 0
        self.shape = weight.shape
        self.values = weight[kept]
        self.bits = pack(kept)
        self._hide()

    def unpacked(self) -> Tensor:
        kept = unpack(self.bits, self.shape.numel()).view(self.shape)
        return self.values.new_zeros(self.shape).masked_scatter_(kept, self.values)

    def _show(self, weight: Tensor) -> None:
        self.parameter.data = weight

    def _hide(self) -> None:
        self.parameter.data = self.values.new_empty(0)
