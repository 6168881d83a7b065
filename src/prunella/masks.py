"""What lies over a model's weights, and the weights beneath it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor, nn

from prunella.prunable import Prunable
from prunella.sharding import local


class Covers:
    """Covers laid over weights; what a weight is beneath is set aside until the cover is lifted.

    A cover is a bool mask (False = pruned), or a gate, a number for every weight. Where a mask
    keeps a weight, it is what the model shows, so that it may be loaded anew beneath its cover.
    """

    def __init__(self, prunable: Mapping[str, Prunable]):
        self._prunable = prunable
        self._worn: dict[str, str] = {}  # the kind of cover
        self._masks: dict[str, Tensor] = {}
        self._aside: dict[str, Tensor] = {}

    @torch.no_grad()
    def lay(self, name: str, kind: str, make: Callable[[], Tensor]) -> None:
        """Lay a cover over a weight in place of the one it may have.

        A cover of the kind that is worn already stays; a mask is applied once more, to what may
        have been loaded into the model since.
        """
        weight = local(self._prunable[name].parameter)
        if self._worn.get(name) == kind:
            if name in self._masks:
                weight.mul_(self._masks[name])
            return
        self.lift(name)
        cover = make()
        self._wear(name, kind, cover, weight.clone())
        weight.mul_(cover)

    def _wear(self, name: str, kind: str, cover: Tensor | None, beneath: Tensor) -> None:
        self._worn[name] = kind
        self._aside[name] = beneath
        if cover is not None and cover.dtype == torch.bool:
            self._masks[name] = cover

    @torch.no_grad()
    def lift(self, name: str) -> None:
        """Give a weight back what it is beneath its cover."""
        if name in self._worn:
            weight = local(self._prunable[name].parameter)
            weight.copy_(self._beneath(name))
            del self._worn[name], self._aside[name]
            self._masks.pop(name, None)

    def beneath(self, name: str) -> Tensor:
        """A copy of a weight as it is beneath its cover."""
        if name in self._worn:
            return self._beneath(name).clone()
        return local(self._prunable[name].parameter).detach().clone()

    def _beneath(self, name: str) -> Tensor:
        aside = self._aside[name]
        if name not in self._masks:
            return aside
        return torch.where(self._masks[name], local(self._prunable[name].parameter), aside)

    def drop(self) -> None:
        """Forget what is beneath the covers: the weights are what the model shows."""
        self._worn, self._masks, self._aside = {}, {}, {}

    def restore(self, name: str, kind: str, mask: Tensor | None, beneath: Tensor) -> None:
        """Take up a saved state: the model shows, or is going to be given, covered weights."""
        self._wear(name, kind, mask, beneath)


class Watch:
    """A hook that calls a pruner as long as there is one, and is without effect in a copy.

    So that copying or pickling a model does not take its pruner and optimizer along.
    """

    def __init__(self, act: Callable[..., None] | None, names: Iterable[str] = ()):
        self._names = list(names)
        self._act: Callable[[], Callable[..., None] | None] = lambda: None
        if act is not None:
            self._act = WeakMethod(act)
            # torch.compile would trace the hook into the model's graph.
            self._run = torch.compiler.disable(self._run)  # type: ignore[method-assign]

    def __call__(self, module: nn.Module, *_: Any) -> None:
        self._run(module)

    def _run(self, module: nn.Module) -> None:
        act = self._act()
        if act is not None:
            act(self._names, module)

    def __reduce__(self) -> tuple[type[Watch], tuple[None]]:
        return Watch, (None,)
