"""The pruner: criterion, schedule and allocation riding on an optimizer through its step hooks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from prunella.allocation import Global
from prunella.criteria.base import Criterion, View
from prunella.errors import Diverged, UsageError
from prunella.masks import Count, Scopes, find_prunable, unwrap
from prunella.schedules import Schedule

_attached: WeakSet[Optimizer] = WeakSet()


class Pruner:
    """Prunes a model while an optimizer trains it; the training loop stays as it was.

    One optimizer step is all there is to it::

        before  the criterion may look at θ and its gradient
                the optimizer's own update
        after   the criterion may look at θ̂; when the schedule says so, scores become masks;
                pruned weights are zeroed

    Between two selections pruned weights are held at zero, or (``hold=False``) grow freely; then
    they are hidden, not lost, whenever a module runs in evaluation mode or gives its state, and
    return with the next forward in training mode. Do neither between a forward and its backward.

    Args:
        model: any module; wrappers of torch.compile and data-parallel training are looked through.
        optimizer: a ``torch.optim`` optimizer of the model's parameters, or a wrapper with such an
            ``optimizer`` inside (Accelerate's).
        criterion: what a weight is worth.
        schedule: how sparse the model is at each step.
        allocation: how scores become masks.
        parameters: names or ``fnmatch`` patterns of the matrices to prune; by default the linear
            layers' in the repeated blocks (see ``prunella.masks.find_prunable``).
        include_biases: prune the biases of these layers too.
        hold: whether pruned weights stay zero between selections; None = as the criterion says.
        total_steps: optimizer steps of the run; needed where the schedule speaks in fractions.

    Attributes:
        step: successful optimizer steps so far; those that a gradient scaler skips do not count.
        masks: name -> bool tensor of the parameter's shape, True = kept.
        frozen: names of parameters left out because they are not trained.

    Raises:
        UsageError: nothing to prune, an optimizer that lacks a prunable parameter or already has
            a pruner, a pattern that does not fit, or a schedule that selects before the criterion
            has evidence.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        criterion: Criterion,
        schedule: Schedule,
        allocation: Global = Global(),
        *,
        parameters: Sequence[str] | None = None,
        include_biases: bool = False,
        hold: bool | None = None,
        total_steps: int | None = None,
    ):
        _check_type("criterion", criterion, Criterion, "PINS()")
        _check_type("schedule", schedule, Schedule, "Cubic(0.9, begin=200, end=2400)")
        _check_type("allocation", allocation, Global, "Global(NM(2, 4))")
        self.model = unwrap(model)
        self.optimizer = _unwrap_optimizer(optimizer)
        self.criterion = criterion
        self.schedule = schedule.resolve(total_steps)
        self.allocation = allocation
        self.hold = criterion.hold if hold is None else hold
        self.step = 0
        self._prunable, self.frozen = find_prunable(self.model, parameters, include_biases)
        self.scopes = Scopes.of(self.model, self._prunable)
        self._group = self._groups()
        self._check()

        self.masks = {
            name: torch.ones_like(p.parameter, dtype=torch.bool, requires_grad=False)
            for name, p in self._prunable.items()
        }
        self._state = {n: criterion.init(p.parameter.detach()) for n, p in self._prunable.items()}
        self._reads_before = _overrides(criterion, "before_step")
        self._reads_after = _overrides(criterion, "after_step")
        self._copies: dict[str, Tensor] = {}  # of this step's gradients, where they are needed
        self._open = False  # between the two hooks of a step that counts
        self._pruned = False  # masks are all True until the first selection
        self._hidden: dict[str, Tensor] = {}  # grown values of pruned weights, set aside

        self._hooks: list[RemovableHandle] = [
            self.optimizer.register_step_pre_hook(self._before),
            self.optimizer.register_step_post_hook(self._after),
        ]
        if not self.hold:
            self._hooks += self._watch()
        _attached.add(self.optimizer)

    # --- attaching ---------------------------------------------------------------------------

    def _groups(self) -> dict[str, int]:
        """The optimizer's parameter group of each prunable parameter, by index."""
        where = {
            id(parameter): index
            for index, group in enumerate(self.optimizer.param_groups)
            for parameter in group["params"]
        }
        missing = [n for n, p in self._prunable.items() if id(p.parameter) not in where]
        if missing:
            raise UsageError(
                f"the optimizer lacks {len(missing)} of the {len(self._prunable)} prunable "
                f"parameters, {missing[0]} to begin with; build it from this model's parameters, "
                "or choose among those it holds with parameters=[...]"
            )
        return {name: where[id(p.parameter)] for name, p in self._prunable.items()}

    def _check(self) -> None:
        if self.optimizer in _attached:
            raise UsageError(
                "the optimizer already has a pruner; detach() that one first, or give one pruner "
                "all the parameters"
            )
        self.allocation.check(
            {n: tuple(p.oriented(p.parameter).shape) for n, p in self._prunable.items()},
            self.schedule.final,
        )
        first = self.schedule.first_update()
        if self.schedule.final and first < self.criterion.evidence:
            raise UsageError(
                f"{self.criterion!r} has no evidence before step {self.criterion.evidence}, when "
                f"its first window closes, but masks are first selected at step {first}; begin "
                "later, or shorten the window"
            )

    def detach(self) -> None:
        """Remove all hooks; pruned weights are zero, and what had grown there is gone."""
        if self._hooks:  # a second call leaves what was trained since alone
            self._zero()
        self._hidden = {}
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        _attached.discard(self.optimizer)

    # --- one optimizer step ------------------------------------------------------------------

    @torch.no_grad()
    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs.get("closure", args[1] if len(args) > 1 else None) is not None:
            raise UsageError(
                "optimizer.step(closure) computes the gradients inside the step, where a pruner "
                "cannot see them; call backward() yourself and step() without a closure"
            )
        # A subclass that calls its parent's step may run the hooks twice: the inner pair counts.
        if self._open:
            return
        self._show(self._prunable)
        # Fused optimizers run their hooks even on steps that a gradient scaler makes them skip,
        # and unscale the gradients themselves, inside the step.
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None and bool(found_inf):
            return
        self._open = True
        self._copies = self._spoiled_gradients(getattr(optimizer, "grad_scale", None))
        if self._reads_before:
            for name in self._prunable:
                self.criterion.before_step(self._view(name))

    @torch.no_grad()
    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._open:
            return
        self._open = False
        if self._reads_after:
            for name in self._prunable:
                self.criterion.after_step(self._view(name))
        self._copies = {}
        if self.schedule.updates(self.step):
            self._select(self.schedule.sparsity(self.step))
        elif self.hold or self.schedule.frozen(self.step):
            self._zero()
        self.step += 1

    def _spoiled_gradients(self, scale: Tensor | None) -> dict[str, Tensor]:
        """Copies of the gradients that are scaled, or that the optimizer is going to overwrite."""
        copies = {}
        for name, prunable in self._prunable.items():
            gradient = prunable.parameter.grad
            group = self.optimizer.param_groups[self._group[name]]
            if gradient is None:
                continue
            if scale is not None and (self._reads_before or self._reads_after):
                copies[name] = gradient / scale.to(gradient.device)
            # Of torch's optimizers only SGD's foreach Nesterov writes into gradients.
            elif group.get("nesterov") and not group.get("fused") and self._reads_after:
                copies[name] = gradient.clone()
        return copies

    def _view(self, name: str, gradient: bool = True) -> View:
        parameter = self._prunable[name].parameter
        return View(
            name=name,
            weight=parameter.detach(),
            gradient=self._copies.get(name, parameter.grad) if gradient else None,
            step=self.step,
            state=self._state[name],
            group=self.optimizer.param_groups[self._group[name]],
            optimizer_state=self.optimizer.state.get(parameter, {}),
        )

    def _select(self, sparsity: float) -> None:
        if sparsity == 0:
            return
        scores = _Scores(self)
        if not any(scores[name].any() for name in scores):
            raise UsageError(
                f"every score of {self.criterion!r} is zero at step {self.step}: no gradient has "
                "reached the prunable parameters, so there is nothing to choose by; prune those "
                "that are trained"
            )
        try:
            masks = self.allocation.masks(scores, sparsity)
        except Diverged as error:
            raise Diverged(f"no masks can be selected at step {self.step}: {error}") from None
        self.masks = {
            name: self._prunable[name].oriented(mask).contiguous() for name, mask in masks.items()
        }
        self._pruned = True
        self._zero()

    @torch.no_grad()
    def _zero(self) -> None:
        """Set pruned weights to zero."""
        if self._pruned:
            for name, mask in self.masks.items():
                self._prunable[name].parameter.mul_(mask)

    # --- weights that grow between selections ------------------------------------------------

    def _watch(self) -> Iterator[RemovableHandle]:
        """Hooks on every module that holds a prunable parameter, and on the model as a whole.

        The whole is needed for modules whose weights are used without their own forward
        (``nn.MultiheadAttention.out_proj``), the parts for whoever calls or saves only them.
        """
        names: dict[nn.Module, list[str]] = {self.model: list(self._prunable)}
        for name, prunable in self._prunable.items():
            names.setdefault(prunable.module, []).append(name)
        for module, held in names.items():
            yield module.register_forward_pre_hook(partial(self._on_forward, held))
            yield module.register_state_dict_pre_hook(partial(self._on_state_dict, held))

    def _on_forward(self, names: Iterable[str], module: nn.Module, args: Any) -> None:
        if module.training:
            self._show(names)
        else:
            self._hide(names)

    def _on_state_dict(self, names: Iterable[str], *_: Any) -> None:
        self._hide(names)

    @torch.no_grad()
    def _hide(self, names: Iterable[str]) -> None:
        """Set what pruned weights have grown to aside, so that the model is as sparse as masked."""
        if not self._hooks or not self._pruned:  # detached, or nothing is pruned yet
            return
        for name in names:
            parameter, mask = self._prunable[name].parameter, self.masks[name]
            if name not in self._hidden:
                self._hidden[name] = parameter.detach()[~mask]
            parameter.mul_(mask)

    @torch.no_grad()
    def _show(self, names: Iterable[str]) -> None:
        """Undo ``_hide``."""
        for name in names:
            if name in self._hidden:
                values = self._hidden.pop(name)
                self._prunable[name].parameter.masked_scatter_(~self.masks[name], values)

    # --- looking at it -----------------------------------------------------------------------

    @property
    def sparsity(self) -> float:
        """Fraction of the prunable weights that the masks remove."""
        kept = sum(int(mask.count_nonzero()) for mask in self.masks.values())
        return 1 - kept / sum(mask.numel() for mask in self.masks.values())

    def scores(self) -> dict[str, Tensor]:
        """Scores by parameter name, of the parameters' shapes; higher = keep.

        Raises:
            UsageError: the criterion has no evidence yet.
        """
        if self.step <= self.criterion.evidence:
            raise UsageError(
                f"{self.criterion!r} has no evidence after {self.step} steps; its scores mean "
                f"something from step {self.criterion.evidence + 1} on"
            )
        with torch.no_grad():
            return {
                name: self.criterion.score(self._view(name, gradient=False)).clone()
                for name in self._prunable
            }

    def summary(self) -> Summary:
        """Weights and non-zero weights of the pruned model, in three scopes; prints as a table."""
        if not self.hold:
            self._hide(self._prunable)
        return Summary(
            self.step, self.scopes.count(dict(self.model.named_parameters())), tuple(self.frozen)
        )

    # --- saving ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs beside the model's and the optimizer's own state.

        Tensors are by parameter name, full and not copied; ``grown`` holds what free weights have
        at their pruned places alone.
        """
        state = {
            "step": self.step,
            "settings": self._settings(),
            "masks": dict(self.masks),
            "scores": {name: dict(tensors) for name, tensors in self._state.items()},
        }
        if not self.hold:
            self._hide(self._prunable)
            state["grown"] = dict(self._hidden)
        return state

    def _settings(self) -> dict[str, str]:
        return {
            "criterion": repr(self.criterion),
            "allocation": repr(self.allocation),
            "hold": repr(self.hold),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state; the model's and the optimizer's may be loaded before or after.

        Raises:
            UsageError: the state is of another criterion, allocation or ``hold``, or of other
                parameters. The schedule may change, as where training is to go on for longer.
        """
        for setting, value in self._settings().items():
            if state["settings"][setting] != value:
                raise UsageError(
                    f"the state was saved with {setting} {state['settings'][setting]}, the pruner "
                    f"has {value}; resume with what it was saved with"
                )
        ours, theirs = (
            {name: tuple(mask.shape) for name, mask in masks.items()}
            for masks in (self.masks, state["masks"])
        )
        if ours != theirs:
            odd = sorted(name for name, _ in set(ours.items()) ^ set(theirs.items()))
            raise UsageError(
                f"the state was saved for other parameters; {odd[0]} and {len(odd) - 1} more are "
                "in one of the two only, or of another shape"
            )
        self.step = state["step"]
        for name, prunable in self._prunable.items():
            device = prunable.parameter.device
            self.masks[name] = state["masks"][name].to(device, copy=True)
            for key, tensor in state["scores"][name].items():
                self._state[name][key].copy_(tensor)
        self._pruned = not all(mask.all() for mask in self.masks.values())
        self._zero()
        if not self.hold:
            self._hidden = {name: values.clone() for name, values in state["grown"].items()}


class _Scores(Mapping[str, Tensor]):
    """Scores as [out, in], each computed whenever it is asked for, so that few are held at once."""

    def __init__(self, pruner: Pruner):
        self.pruner = pruner

    def __getitem__(self, name: str) -> Tensor:
        score = self.pruner.criterion.score(self.pruner._view(name, gradient=False))
        return self.pruner._prunable[name].oriented(score)

    def __iter__(self) -> Iterator[str]:
        return iter(self.pruner._prunable)

    def __len__(self) -> int:
        return len(self.pruner._prunable)


@dataclass(frozen=True)
class Summary:
    """What is left of a model: counts by scope (see ``Scopes``) after a number of steps."""

    step: int
    counts: dict[str, Count]
    frozen: tuple[str, ...] = ()

    def __str__(self) -> str:
        title = f"after {self.step} steps"
        rows = [f"{title:<20}{'non-zero':>15}{'of':>15}{'sparsity':>10}"]
        rows += [
            f"{scope:<20}{count.nonzero:>15,}{count.total:>15,}{count.sparsity:>10.2%}"
            for scope, count in self.counts.items()
        ]
        if self.frozen:
            rows.append(f"not trained, not pruned: {len(self.frozen)} ({self.frozen[0]} …)")
        return "\n".join(rows)


def _check_type(name: str, value: object, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        raise UsageError(f"{name}={value!r} is no {kind.__name__}; give one, such as {example}")


def _overrides(criterion: Criterion, method: str) -> bool:
    return getattr(type(criterion), method) is not getattr(Criterion, method)


def _unwrap_optimizer(optimizer: Any) -> Optimizer:
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, Optimizer):
        raise UsageError(
            f"{type(optimizer).__name__} is no torch.optim optimizer; the pruner works through "
            "the step hooks that those have"
        )
    return optimizer
