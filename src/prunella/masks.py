"""What lies over a model's weights, and the weights beneath it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from prunella.prunable import Prunable
from prunella.sharding import local


class Covers:
    """Covers laid over weights; what a weight is beneath is set aside until the cover is lifted.

    A cover is a bool mask (False = pruned), or a gate, a number for every weight. Of a masked
    weight only what the mask hides is set aside.
    """

    def __init__(self, prunable: Mapping[str, Prunable]):
        self._prunable = prunable
        self._worn: dict[str, tuple[str, Tensor | None]] = {}  # the kind of cover, and its mask
        self._aside: dict[str, Tensor] = {}

    @torch.no_grad()
    def lay(self, name: str, kind: str, make: Callable[[], Tensor]) -> None:
        """Lay a cover over a weight in place of the one it may have.

        A cover of the kind that is worn already stays; a mask is applied once more, to what may
        have been loaded into the model since.
        """
        weight = local(self._prunable[name].parameter)
        if name in self._worn and self._worn[name][0] == kind:
            mask = self._worn[name][1]
            if mask is not None:
                weight.mul_(mask)
            return
        self.lift(name)
        cover = make()
        if cover.dtype == torch.bool:
            self._worn[name], self._aside[name] = (kind, cover), weight[~cover]
        else:
            self._worn[name], self._aside[name] = (kind, None), weight.clone()
        weight.mul_(cover)

    @torch.no_grad()
    def lift(self, name: str) -> None:
        """Give a weight back what it is beneath its cover."""
        if name not in self._worn:
            return
        weight = local(self._prunable[name].parameter)
        (_, mask), values = self._worn.pop(name), self._aside.pop(name)
        if mask is None:
            weight.copy_(values)
        else:
            weight.masked_scatter_(~mask, values)

    def drop(self) -> None:
        """Forget what is beneath the covers: the weights are what the model shows."""
        self._worn, self._aside = {}, {}

    def beneath(self, name: str) -> Tensor:
        """All of a weight as it is beneath its cover (a new tensor)."""
        weight = local(self._prunable[name].parameter).detach().clone()
        if name not in self._worn:
            return weight
        mask, values = self._worn[name][1], self._aside[name]
        return values.clone() if mask is None else weight.masked_scatter_(~mask, values)

    def restore(self, name: str, kind: str, mask: Tensor | None, beneath: Tensor) -> None:
        """Take up a saved state: the model shows, or is going to be given, covered weights."""
        self._worn[name] = (kind, mask)
        self._aside[name] = beneath.clone() if mask is None else beneath[~mask]


class Watch:
    """A hook that calls a pruner as long as there is one, and is without effect in a copy.

    So that copying or pickling a model does not take its pruner and optimizer along.
    """

    def __init__(self, act: Callable[..., None] | None, names: Iterable[str] = ()):
        self._owner = None if act is None else ref(act.__self__)  # type: ignore[attr-defined]
        self._method = None if act is None else act.__name__
        self._names = list(names)

    def __call__(self, module: nn.Module, *_: Any) -> None:
        owner = None if self._owner is None else self._owner()
        if owner is not None and self._method is not None:
            getattr(owner, self._method)(self._names, module)

    def __reduce__(self) -> tuple[type[Watch], tuple[None]]:
        return Watch, (None,)
