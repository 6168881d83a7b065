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
from prunella.learner import ScoreLearner
from prunella.masks import Covers, Watch
from prunella.prunable import Count, Scopes, find_prunable, named_parameters, unwrap
from prunella.schedules import Schedule
from prunella.sharding import is_sharded, local, nonzeros, part_of, shard_group, spread, whole

_attached: WeakSet[Optimizer] = WeakSet()


class Pruner:
    """Prunes a model while an optimizer trains it; the training loop stays as it was.

    One optimizer step is all there is to it::

        before  weights are what they are beneath their masks; the criterion may look at θ and g
                the optimizer's own update
        after   the criterion may look at θ̂; when the schedule says so, scores become masks;
                pruned weights are covered

    What becomes of a pruned weight between two selections, the criterion says. *Held* at zero, it
    restarts from there if it is selected again. *Free* (``hold=False``), it grows from zero.
    *Dormant* (movement pruning), it keeps its value and can come back with it. Whatever is not
    zero is set aside whenever a module runs in evaluation mode or gives its state, and returns
    with the next forward in training mode. Do neither between a forward and its backward.

    Where ``fully_shard`` has cut the parameters up, every process keeps the masks and scores of
    its part, and the masks are those of one process that holds everything.

    Args:
        model: any module; wrappers of torch.compile and data-parallel training are looked through.
        optimizer: a ``torch.optim`` optimizer of the model's parameters, or a wrapper with such an
            ``optimizer`` inside (Accelerate's, prepared or not).
        criterion: what a weight is worth.
        schedule: how sparse the model is at each step.
        allocation: how scores become masks.
        parameters: names or ``fnmatch`` patterns of the matrices to prune; by default the linear
            layers' in the repeated blocks (see ``prunella.prunable.find_prunable``).
        include_biases: prune the biases of these layers too.
        hold: whether pruned weights stay zero between selections; None = as the criterion says.
        total_steps: optimizer steps of the run; needed where the schedule speaks in fractions.

    Attributes:
        step: successful optimizer steps so far; those that a gradient scaler skips do not count.
        frozen: names of parameters left out because they are not trained.

    Raises:
        UsageError: nothing to prune, an optimizer that lacks a prunable parameter, steps inside
            backward or already has a pruner, a pattern that does not fit, or a schedule that
            selects before the criterion has evidence.
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
        self._check(hold)

        self._reads_before = _overrides(criterion, "before_step")
        self._reads_after = _overrides(criterion, "after_step")
        self._learns = _overrides(criterion, "learner") and self.schedule.final > 0
        self._gated = criterion.gated and self.schedule.final > 0
        self._copies: dict[str, Tensor] = {}  # of this step's gradients, where they are needed
        self._open = False  # between the two hooks of a step that counts
        self._pruned = False  # masks are all True until the first selection
        self._covers = Covers(self._prunable)
        self._adopt()
        self._attach()

    # --- attaching ---------------------------------------------------------------------------

    def _attach(self) -> None:
        self._hooks: list[RemovableHandle] = [
            self.optimizer.register_step_pre_hook(self._before),
            self.optimizer.register_step_post_hook(self._after),
        ]
        if self._gated or not self.hold:
            self._hooks += self._watch()
        _attached.add(self.optimizer)

    def _adopt(self) -> None:
        """Take the parameters as they are now, with fresh masks and scores."""
        self._parameters = {name: p.parameter for name, p in self._prunable.items()}
        self._group = self._groups()
        weights = {name: local(parameter).detach() for name, parameter in self._parameters.items()}
        self._masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
        self._state = {name: self.criterion.init(weight) for name, weight in weights.items()}
        scores = {name: state["score"] for name, state in self._state.items() if self._learns}
        self._learner = ScoreLearner(self.criterion, scores, self._group) if scores else None

    def _follow(self) -> None:
        """Take up parameters that were swapped since the last step, as ``fully_shard`` does."""
        if any(map(is_sharded, self._parameters.values())):
            for module in self.model.modules():
                if isinstance(module, _fsdp_module()):  # may have left gathered copies in place
                    module.reshard()
        if all(
            self._prunable[name].parameter is known and local(known).device == mask.device
            for (name, known), mask in zip(
                self._parameters.items(), self._masks.values(), strict=True
            )
        ):
            return
        if self.step:
            raise UsageError(
                f"the model's parameters were replaced or moved after step "
                f"{self.step - 1}, and masks and scores belong to the old ones; make the pruner "
                "anew and load_state_dict() it"
            )
        self._check_layout()
        self._adopt()

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
                f"parameters, {missing[0]} to begin with; build it from this model's parameters "
                "as they are now (after sharding, or with accelerator.prepare), or choose among "
                "those it holds with parameters=[...]"
            )
        return {name: where[id(p.parameter)] for name, p in self._prunable.items()}

    def _check(self, hold: bool | None) -> None:
        if self.criterion.dormant and hold is not None:
            raise UsageError(
                f"hold={hold} does not apply to {self.criterion!r}, whose pruned weights lie "
                "dormant; leave it out"
            )
        if self.criterion.target not in (None, self.schedule.final):
            raise UsageError(
                f"{self.criterion!r} is to reach {self.criterion.target}, but the schedule ends "
                f"at {self.schedule.final}; give both the same sparsity"
            )
        if self.optimizer in _attached:
            raise UsageError(
                "the optimizer already has a pruner; detach() that one first, or give one pruner "
                "all the parameters"
            )
        self.allocation.check(
            {n: tuple(p.oriented(p.parameter).shape) for n, p in self._prunable.items()},
            self.schedule.final,
        )
        self._check_layout()
        first = self.schedule.first_update()
        if self.schedule.final and first < self.criterion.evidence:
            raise UsageError(
                f"{self.criterion!r} has no evidence before step {self.criterion.evidence}, when "
                f"its first window closes, but masks are first selected at step {first}; begin "
                "later, or shorten the window"
            )

    def _check_layout(self) -> None:
        for prunable in self._prunable.values():
            if is_sharded(prunable.parameter):
                shard_group(prunable.parameter)

    def detach(self) -> None:
        """Remove all hooks; pruned weights are zero, and what they were beneath is gone."""
        if self._hooks:  # a second call leaves what was trained since alone
            self._follow()
            self._dress(self._prunable, training=False)
            self._zero()
        self._covers.drop()
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
        self._follow()
        for name in self._prunable:
            self._covers.lift(name)
        # Fused optimizers run their hooks even on steps that a gradient scaler makes them skip,
        # and unscale the gradients themselves, inside the step.
        found_inf = getattr(optimizer, "found_inf", None)
        if (found_inf is not None and bool(found_inf)) or self._is_rehearsal():
            return
        self._open = True
        self._copies = self._spoiled_gradients(getattr(optimizer, "grad_scale", None))
        if self._reads_before:
            for name in self._prunable:
                self.criterion.before_step(self._view(name))
        if self._learner is not None and not self._settled(self.step - 1):
            self._learn(self._learner)

    @torch.no_grad()
    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._open:
            self._open = False
            if self._reads_after:
                for name in self._prunable:
                    self.criterion.after_step(self._view(name))
            self._copies = {}
            self._choose()
            self.step += 1
        if self._settled(self.step - 1) or (self.hold and not self.criterion.dormant):
            self._zero()
        elif self.criterion.dormant:
            self._dress(self._prunable, training=False)

    def _is_rehearsal(self) -> bool:
        """Whether this is the empty step by which torch's checkpoints make an optimizer's state."""
        if any(float(group["lr"]) for group in self.optimizer.param_groups):
            return False
        gradients = [p.parameter.grad for p in self._prunable.values()]
        return not any(g is not None and local(g).any() for g in gradients)

    def _settled(self, step: int) -> bool:
        """Whether no mask changes after a step any more; weights are then plain ones, held."""
        return self.schedule.final > 0 and self.schedule.frozen(step)

    def _choose(self) -> None:
        """New masks, where the schedule says so or the criterion has its own."""
        if self.is_outcome:
            if not self._settled(self.step - 1):
                self._threshold(self._progress(self.step))
        elif self.schedule.updates(self.step):
            self._select(self.schedule.sparsity(self.step))
        if self._settled(self.step) and self.criterion.dormant and not self._settled(self.step - 1):
            self._dress(self._prunable, training=False)
            self._covers.drop()

    def _learn(self, learner: ScoreLearner) -> None:
        """Let the scores take a step, and hide from the optimizer what the masks hide."""
        gradients = {}
        for name, prunable in self._prunable.items():
            view = self._view(name, since=self.step - 1)
            if self._gated:
                view.gate = self.criterion.gate(view, training=True)
            gradients[name] = self.criterion.gradient(view)
            if prunable.parameter.grad is not None:
                gradient = local(prunable.parameter.grad)
                if view.gate is not None:
                    gradient.mul_(view.gate)
                if self._is_masked(training=True):
                    gradient.mul_(self._masks[name])
        learner.step(gradients, self.optimizer.param_groups)

    def _spoiled_gradients(self, scale: Tensor | None) -> dict[str, Tensor]:
        """Copies of the gradients that are scaled, or that the optimizer is going to overwrite."""
        copies = {}
        for name, prunable in self._prunable.items():
            if prunable.parameter.grad is None:
                continue
            gradient = local(prunable.parameter.grad)
            group = self.optimizer.param_groups[self._group[name]]
            if scale is not None and (self._reads_before or self._reads_after or self._learns):
                copies[name] = gradient / scale.to(gradient.device)
            # Of torch's optimizers only SGD's foreach Nesterov writes into gradients.
            elif group.get("nesterov") and not group.get("fused") and self._reads_after:
                copies[name] = gradient.clone()
        return copies

    def _view(self, name: str, gradient: bool = True, since: int | None = None) -> View:
        """A parameter now, with the progress that its mask is of: by default this step's."""
        parameter = self._prunable[name].parameter
        state = self.optimizer.state.get(parameter, {})
        if gradient and name not in self._copies and parameter.grad is not None:
            seen: Tensor | None = local(parameter.grad)
        else:
            seen = self._copies.get(name) if gradient else None
        return View(
            name=name,
            weight=local(parameter).detach(),
            gradient=seen,
            step=self.step,
            state=self._state[name],
            group=self.optimizer.param_groups[self._group[name]],
            optimizer_state={k: local(v) if isinstance(v, Tensor) else v for k, v in state.items()},
            progress=self._progress(self.step if since is None else since),
            tensors=len(self._prunable),
            layout=parameter,
        )

    def _progress(self, step: int) -> float:
        """How far sparsity has come after a step, in [0, 1]."""
        if step < 0 or not self.schedule.final:
            return 0.0
        return self.schedule.sparsity(step) / self.schedule.final

    def _threshold(self, progress: float) -> None:
        """The criterion's own masks, matrix by matrix."""
        for name, state in self._state.items():
            parameter = self._prunable[name].parameter
            mask = self.criterion.outcome(whole(spread(state["score"], parameter)), progress)
            assert mask is not None
            self._masks[name] = part_of(mask, parameter)
        self._pruned = True

    def _select(self, sparsity: float) -> None:
        if sparsity == 0:
            return
        scores = _Scores(self)
        if not any(nonzeros(scores[name]) for name in scores):
            raise UsageError(
                f"every score of {self.criterion!r} is zero at step {self.step}: no gradient has "
                "reached the prunable parameters, so there is nothing to choose by; prune those "
                "that are trained"
            )
        try:
            masks = self.allocation.masks(scores, sparsity)
        except Diverged as error:
            raise Diverged(f"no masks can be selected at step {self.step}: {error}") from None
        for name, mask in masks.items():
            prunable = self._prunable[name]
            mask = prunable.oriented(mask).contiguous()
            apart = is_sharded(prunable.parameter) and self._rows_apart(name)
            self._masks[name] = mask if apart else part_of(mask, prunable.parameter)
        self._pruned = True
        if not self.criterion.dormant:
            self._zero()

    def _rows_apart(self, name: str) -> bool:
        """Whether masks can be chosen by processes that see some rows of a matrix each."""
        return self.allocation.pattern.within_rows and not self._prunable[name].transposed

    @torch.no_grad()
    def _zero(self) -> None:
        """Set pruned weights to zero."""
        if self._pruned:
            for name, mask in self._masks.items():
                local(self._prunable[name].parameter).mul_(mask)

    # --- what the model sees of its weights --------------------------------------------------

    def _watch(self) -> Iterator[RemovableHandle]:
        """Hooks on every module that holds a prunable parameter, and on the model as a whole.

        The whole is needed for modules whose weights are used without their own forward
        (``nn.MultiheadAttention.out_proj``), the parts for whoever calls or saves only them.
        """
        names: dict[nn.Module, list[str]] = {self.model: list(self._prunable)}
        for name, prunable in self._prunable.items():
            names.setdefault(prunable.module, []).append(name)
        for module, held in names.items():
            # Before fully_shard's own, which gathers the weights.
            yield module.register_forward_pre_hook(Watch(self._on_forward, held), prepend=True)
            yield module.register_state_dict_pre_hook(Watch(self._on_state_dict, held))

    def _on_forward(self, names: Iterable[str], module: nn.Module) -> None:
        if module is self.model:
            self._follow()
        # Inside the forward of a sharded part its modules hold gathered copies, made when dressed.
        here = [n for n in names if self._prunable[n].parameter is self._parameters[n]]
        self._dress(here, module.training)

    def _on_state_dict(self, names: Iterable[str], module: nn.Module) -> None:
        self._follow()
        self._dress(names, training=False)

    @torch.no_grad()
    def _dress(self, names: Iterable[str], training: bool) -> None:
        """Cover weights as they are to be seen: free ones not at all in training."""
        if not self._hooks or self._settled(self.step - 1):  # detached, or plain weights by now
            return
        for name in names:
            if self._gated:
                kind = f"gate of step {self.step}" if training else "fixed gate"
                self._covers.lay(name, kind, partial(self._gate, name, training))
            elif training and not self.criterion.dormant:
                self._covers.lift(name)
            elif self._pruned:
                self._covers.lay(name, "mask", partial(self._masks.__getitem__, name))

    def _gate(self, name: str, training: bool) -> Tensor:
        gate = self.criterion.gate(self._view(name, gradient=False), training)
        return gate.mul_(self._masks[name]) if self._is_masked(training) else gate

    def _is_masked(self, training: bool) -> bool:
        """Whether masks hide weights: not in training those of random gates that have no target."""
        return self._pruned and not (training and self._gated and self.is_outcome)

    # --- looking at it -----------------------------------------------------------------------

    @property
    def masks(self) -> dict[str, Tensor]:
        """name -> bool tensor of the parameter's shape and layout, True = kept."""
        return {n: spread(mask, self._parameters[n]) for n, mask in self._masks.items()}

    @property
    def sparsity(self) -> float:
        """Fraction of the prunable weights that the masks remove."""
        masks = self.masks.values()
        return 1 - sum(map(nonzeros, masks)) / sum(mask.numel() for mask in masks)

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
                name: spread(self.criterion.score(self._view(name, gradient=False)).clone(), known)
                for name, known in self._parameters.items()
            }

    def summary(self) -> Summary:
        """Weights and non-zero weights of the pruned model, in three scopes; prints as a table."""
        self._follow()
        self._dress(self._prunable, training=False)
        return Summary(
            self.step,
            self.scopes.count(dict(named_parameters(self.model))),
            tuple(self.frozen),
            self.is_outcome,
        )

    @property
    def is_outcome(self) -> bool:
        """Whether sparsity is what came of threshold and penalty, and not what was asked for."""
        return self._learns and self.criterion.outcome(torch.zeros(1), 1.0) is not None

    # --- saving ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs beside the model's and the optimizer's own state.

        Tensors are by parameter name, of the parameters' shapes and layouts, and mostly not
        copied. ``beneath`` holds the weights as they are beneath their masks, ``learner`` the state
        of the scores' optimizer.
        """
        self._follow()
        self._dress(self._prunable, training=False)
        state: dict[str, Any] = {
            "step": self.step,
            "settings": self._settings(),
            "masks": self.masks,
            "scores": {n: self._spread(n, tensors) for n, tensors in self._state.items()},
        }
        if self._sets_aside:
            state["beneath"] = {
                n: spread(self._covers.beneath(n), p) for n, p in self._parameters.items()
            }
        if self._learner is not None:
            state["learner"] = {
                n: self._spread(n, tensors) for n, tensors in self._learner.state_dict().items()
            }
        return state

    @property
    def _sets_aside(self) -> bool:
        return self._gated or self.criterion.dormant or not self.hold

    def _spread(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Laid out as the parameter is, where they are of its shape."""
        parameter = self._parameters[name]
        return {
            key: spread(value, parameter) if isinstance(value, Tensor) and value.dim() else value
            for key, value in values.items()
        }

    def _settings(self) -> dict[str, str]:
        return {
            "criterion": repr(self.criterion),
            "allocation": repr(self.allocation),
            "hold": repr(self.hold),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state; the model's and the optimizer's may be loaded before or after.

        Tensors may be whole ones or sharded over any number of processes.

        Raises:
            UsageError: the state is of another criterion, allocation or ``hold``, or of other
                parameters. The schedule may change, as where training is to go on for longer.
        """
        self._follow()
        for setting, value in self._settings().items():
            if state["settings"][setting] != value:
                raise UsageError(
                    f"the state was saved with {setting} {state['settings'][setting]}, the pruner "
                    f"has {value}; resume with what it was saved with"
                )
        here, there = (
            {name: tuple(mask.shape) for name, mask in masks.items()}
            for masks in (self.masks, state["masks"])
        )
        if here != there:
            odd = sorted(name for name, _ in set(here.items()) ^ set(there.items()))
            raise UsageError(
                f"the state was saved for other parameters; {odd[0]} and {len(odd) - 1} more are "
                "in one of the two only, or of another shape"
            )
        self.step = state["step"]
        self._covers.drop()

        def ours(name: str, value: Any) -> Any:
            """Our part of a saved tensor, in memory of its own."""
            if not isinstance(value, Tensor):
                return value
            parameter = self._parameters[name]
            moved = whole(value).to(local(parameter).device) if value.dim() else value
            return (part_of(moved, parameter) if value.dim() else moved).clone()

        for name in self._prunable:
            self._masks[name] = ours(name, state["masks"][name])
            for key, tensor in state["scores"][name].items():
                self._state[name][key].copy_(ours(name, tensor))
        self._pruned = any(nonzeros(mask) < mask.numel() for mask in self.masks.values())
        if self._learner is not None:
            self._learner.load_state_dict(
                {
                    name: {key: ours(name, value) for key, value in values.items()}
                    for name, values in state["learner"].items()
                }
            )
        self._zero()
        beneath = {} if self._settled(self.step - 1) else state.get("beneath", {})
        for name, tensor in beneath.items():
            if self._gated:
                self._covers.restore(name, "fixed gate", None, ours(name, tensor))
            elif self._pruned:
                self._covers.restore(name, "mask", self._masks[name], ours(name, tensor))

    def __getstate__(self) -> dict[str, Any]:
        """For ``copy.deepcopy`` and pickle: without the hooks, which belong to this optimizer."""
        self._dress(self._prunable, training=False)
        return {k: v for k, v in self.__dict__.items() if k != "_hooks"} | {
            "attached": bool(self._hooks)
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Ride on the copied optimizer of the copied model as on the original."""
        attached = state.pop("attached")
        self.__dict__.update(state)
        self._hooks = []
        if attached:
            self._attach()


class _Scores(Mapping[str, Tensor]):
    """Scores as [out, in], each computed whenever it is asked for, so that few are held at once."""

    def __init__(self, pruner: Pruner):
        self.pruner = pruner

    def __getitem__(self, name: str) -> Tensor:
        view = self.pruner._view(name, gradient=False)
        prunable = self.pruner._prunable[name]
        score = spread(self.pruner.criterion.score(view), prunable.parameter)
        if self.pruner._rows_apart(name):
            return score
        return prunable.oriented(whole(score))

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
    outcome: bool = False

    def __str__(self) -> str:
        title = f"after {self.step} steps"
        rows = [f"{title:<20}{'non-zero':>15}{'of':>15}{'sparsity':>10}"]
        rows += [
            f"{scope:<20}{count.nonzero:>15,}{count.total:>15,}{count.sparsity:>10.2%}"
            for scope, count in self.counts.items()
        ]
        if self.outcome:
            rows.append("sparsity is an outcome of threshold and penalty: no target was set")
        if self.frozen:
            rows.append(f"not trained, not pruned: {len(self.frozen)} ({self.frozen[0]} …)")
        return "\n".join(rows)


def _check_type(name: str, value: object, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        raise UsageError(f"{name}={value!r} is no {kind.__name__}; give one, such as {example}")


def _fsdp_module() -> type[Any]:
    from torch.distributed.fsdp import FSDPModule

    return FSDPModule


def _overrides(criterion: Criterion, method: str) -> bool:
    return getattr(type(criterion), method) is not getattr(Criterion, method)


def _unwrap_optimizer(optimizer: Any) -> Optimizer:
    inner = optimizer
    while True:
        kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(inner).__mro__}
        if any("deepspeed" in kind.lower() for kind in kinds):
            raise UsageError(
                f"{type(optimizer).__name__} is DeepSpeed's, which steps inside its engine and "
                "keeps the weights itself; shard with fully_shard (FSDP2) instead"
            )
        if not isinstance(getattr(inner, "optimizer", None), Optimizer):
            break
        inner = inner.optimizer
    if not isinstance(inner, Optimizer):
        raise UsageError(
            f"{type(inner).__name__} is no torch.optim optimizer; the pruner works through "
            "the step hooks that those have"
        )
    if hasattr(inner, "optimizer_dict"):  # Transformers' LayerWiseDummyOptimizer
        raise UsageError(
            f"{type(inner).__name__} stands for optimizers that step inside backward, before a "
            "pruner can see the gradients; use one that steps when step() is called"
        )
    return inner
