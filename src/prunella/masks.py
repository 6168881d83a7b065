"""Masks on a model: what lies over its weights, what the weights are beneath, and what is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal
from weakref import WeakMethod

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prunella.errors import UsageError
from prunella.prunable import Prunable
from prunella.sharding import local

Rest = Literal["held", "free", "dormant", "gated"]
Cover = Literal["mask", "random gate", "fixed gate"]


class Masks:
    """The masks on a model's weights, as this process's parts.

    What becomes of pruned weights is their ``rest``. *Held*: they are zero. *Free*: covered by the
    mask only in evaluation. *Dormant*: covered always but while the optimizer steps. *Gated*: as
    dormant, and all weights are multiplied by a gate, which is another one in training.

    Args:
        prunable: the parameters by name.
        rest: see above.
        gate: (name, whether in training) -> what a gated weight is multiplied by, mask included.

    Attributes:
        values: name -> bool tensor, True = kept.
        given: those that the run began with, if any; what they remove is zero whatever the rest.
        chosen: whether masks were given or selected; until then all values are True.
        settled: whether no mask changes any more; pruned weights are then held, whatever they were.
    """

    def __init__(
        self, prunable: Mapping[str, Prunable], rest: Rest, gate: Callable[[str, bool], Tensor]
    ):
        self.rest = rest
        self.values: dict[str, Tensor] = {}
        self.given: Mapping[str, Tensor] = {}
        self.chosen = False
        self.settled = False
        self._prunable = prunable
        self._gate = gate
        self._covers: dict[str, Cover] = {}
        self._aside: dict[str, Tensor] = {}  # weights as they are beneath their covers
        self._versions: dict[str, int] = {}  # of weights, when their covers were laid
        self._restored = False  # from a saved state, whose weights may yet be loaded

    def reset(self, weights: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
        """Of these weights nothing is pruned, but for what the given masks remove."""
        everything = {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()}
        self.given, self.values = given, everything | dict(given)
        self.chosen = bool(given)
        self.forget(list(self._covers))
        self.hold()

    def choose(self, name: str, mask: Tensor) -> None:
        """Take a new mask of a weight."""
        stays = self._stays(name)
        self.values[name] = mask if stays is None else mask & stays
        self.chosen = True

    def shut(self, name: str, score: Tensor) -> Tensor:
        """A weight's scores, the lowest possible for what stays pruned."""
        stays = self._stays(name)
        return score if stays is None else score.masked_fill(~stays, -torch.inf)

    def _stays(self, name: str) -> Tensor | None:
        """The mask of what may still be kept; None = anything."""
        if self._prunable[name].adapter is not None:  # for what was frozen there is gone
            return self.values[name]
        return self.given[name] if self.given else None

    def _weight(self, name: str) -> Tensor:
        return local(self._prunable[name].parameter)

    # --- what is seen ------------------------------------------------------------------------

    @torch.no_grad()
    def dress(self, names: Iterable[str], training: bool) -> None:
        """Have the model show its weights as they are to be seen in a mode."""
        if self.settled or self.rest == "held":
            return
        for name in names:
            if self.rest == "gated":
                self._lay(name, "random gate" if training else "fixed gate")
            elif training and self.rest == "free":
                self._lift(name)
            elif self.chosen:
                self._lay(name, "mask")

    @torch.no_grad()
    def bare(self) -> None:
        """Have the parameters hold what they are beneath, for the optimizer."""
        self._restored = False
        for name in list(self._covers):
            self._lift(name)

    @torch.no_grad()
    def zero(self) -> None:
        """Set pruned weights to zero."""
        if self.chosen:
            for name, mask in self.values.items():
                self._prunable[name].hide(mask)

    @torch.no_grad()
    def hold(self) -> None:
        """Set to zero what the given masks remove, of weights that are bare."""
        for name, mask in self.given.items():
            self._prunable[name].hide(mask)

    def settle(self) -> None:
        """Make what evaluation sees the weights themselves."""
        self.dress(self._prunable, training=False)
        self.forget(list(self._covers))
        self.zero()
        self.settled = True

    def _lay(self, name: str, cover: Cover) -> None:
        weight = self._weight(name)
        if self._covers.get(name) != cover:
            self._lift(name)
            self._covers[name], self._aside[name] = cover, weight.clone()
            _hide(weight, self._cover(name))
        elif cover == "mask" and weight._version != self._versions[name]:  # as by loading
            _hide(weight, self.values[name])
        self._versions[name] = weight._version

    def _cover(self, name: str) -> Tensor:
        cover = self._covers[name]
        return self.values[name] if cover == "mask" else self._gate(name, cover == "random gate")

    def _lift(self, name: str) -> None:
        if name in self._covers:
            self._weight(name).copy_(self._beneath(name))
            self.forget([name])

    # --- what is beneath ---------------------------------------------------------------------

    def _beneath(self, name: str) -> Tensor:
        if name not in self._covers:
            return self._weight(name)
        if self._covers[name] == "mask":  # kept weights are seen as they are
            return torch.where(self.values[name], self._weight(name), self._aside[name])
        return self._aside[name]

    def beneath(self, name: str) -> Tensor:
        """A copy of a weight as it is beneath its cover."""
        return self._beneath(name).detach().clone()

    def restore(self, name: str, beneath: Tensor) -> None:
        """Take up what a saved weight was beneath; its covered form is loaded before or after."""
        if self.rest == "gated" or self.chosen:
            self._covers[name] = "fixed gate" if self.rest == "gated" else "mask"
            self._aside[name], self._versions[name] = beneath, -1
            self._restored = True

    def forget(self, names: Iterable[str]) -> None:
        """What is seen of these weights is what they are."""
        for name in names:
            for kept in (self._covers, self._aside, self._versions):
                kept.pop(name, None)

    def loaded(self, names: Iterable[str]) -> None:
        """Weights were loaded into the model: of gated ones, what they are beneath."""
        if self.rest == "gated" and not self._restored:
            self.forget(names)

    def move(self, name: str, device: torch.device) -> None:
        """Follow a weight to another device."""
        self.values[name] = self.values[name].to(device)
        if self.given:
            self.given = {**self.given, name: self.given[name].to(device)}
        if name in self._aside:
            self._aside[name] = self._aside[name].to(device)

    # --- hooks -------------------------------------------------------------------------------

    def watch(
        self,
        model: nn.Module,
        on_forward: Callable[[list[str], nn.Module], None],
        on_save: Callable[[list[str], nn.Module], None],
        on_load: Callable[[list[str], nn.Module], None],
    ) -> Iterator[RemovableHandle]:
        """Hooks on every module that holds a prunable parameter, and on the model as a whole.

        The whole is needed for modules whose weights are used without their own forward
        (``nn.MultiheadAttention.out_proj``), the parts for whoever calls or saves only them, as
        ``generate`` does with encoders.
        """
        if self.rest not in ("free", "gated"):
            return
        names: dict[nn.Module, list[str]] = {model: list(self._prunable)}
        ours = {id(prunable.parameter): name for name, prunable in self._prunable.items()}
        for module in model.modules():  # a tied one is held by several
            held = [ours[id(p)] for p in module.parameters(recurse=False) if id(p) in ours]
            if held and module is not model:
                names[module] = held
        for module, held in names.items():
            # Before fully_shard's own, which gathers the weights.
            yield module.register_forward_pre_hook(_Watch(on_forward, held), prepend=True)
            yield module.register_state_dict_pre_hook(_Watch(on_save, held))
            yield module.register_load_state_dict_post_hook(_Watch(on_load, held))


class _Watch:
    """A hook that calls a method as long as its object lives, and is without effect in a copy.

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

    def __reduce__(self) -> tuple[type[_Watch], tuple[None]]:
        return _Watch, (None,)


def check_copies(rest: Rest) -> None:
    """Raise UsageError where a model that is copied in every forward would not be covered."""
    if rest in ("free", "gated"):
        raise UsageError(
            f"DataParallel copies the weights before hooks can cover {rest} ones; use "
            "DistributedDataParallel (start with torchrun or accelerate launch), or one device"
        )


def _hide(weight: Tensor, cover: Tensor) -> None:
    # A product with 0 may be NaN, or -0.0, whose bits are not zero.
    if cover.dtype != torch.bool:
        weight.mul_(cover)
    weight.masked_fill_(cover == 0, 0.0)
