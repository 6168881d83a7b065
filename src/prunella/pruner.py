"""The pruner: criterion, schedule and allocation riding on an optimizer through its step hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import is_
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, WeakSet, ref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from prunella.allocation import Global
from prunella.criteria.base import Criterion, View
from prunella.errors import Diverged, UsageError
from prunella.learner import ScoreLearner
from prunella.masks import Masks, Rest, check_copies
from prunella.optimizers import groups_of, is_rehearsal, overwrites_gradients, unwrap_optimizer
from prunella.prunable import Scopes, Summary, find_prunable, named_parameters, unwrap
from prunella.schedules import Schedule
from prunella.sharding import (
    is_sharded,
    local,
    nonzeros,
    part_of,
    put_away,
    shard_group,
    spread,
    whole,
)

_taken: WeakSet[Optimizer] = WeakSet()
# Who prunes a module's parameters.
_owners: WeakKeyDictionary[nn.Module, dict[str, ReferenceType[Pruner]]] = WeakKeyDictionary()


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
    with the next forward in training mode. Do neither between a forward and its backward. (Held
    and dormant weights are covered after every step; nothing need watch the model for that.)

    Where ``fully_shard`` has cut the parameters up, every process keeps the masks and scores of
    its part, and the masks are those of one process that holds everything. All processes must
    then take part wherever something is counted, saved or loaded.

    An optimizer takes one pruner. On a model that has one already, of another optimizer, the new
    one takes its place: the earlier one is detached.

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
        include_embeddings: prune the model's look-up tables too.
        hold: whether pruned weights stay zero between selections; None = as the criterion says.
        total_steps: optimizer steps of the run; needed where the schedule speaks in fractions.

    Attributes:
        step: successful optimizer steps so far; those that a gradient scaler skips do not count.
        frozen: names of parameters left out because they are not trained.
        is_outcome: whether sparsity is what comes of the criterion's threshold and penalty, and
            not what the schedule asks for.
        gradients: called at every step for gradients that the criterion is to see instead of the
            parameters' own, by name (see ``prunella.TaskGradients``); None = their own.

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
        include_embeddings: bool = False,
        hold: bool | None = None,
        total_steps: int | None = None,
    ):
        _check_type("criterion", criterion, Criterion, "PINS()")
        _check_type("schedule", schedule, Schedule, "Cubic(0.9, begin=200, end=2400)")
        _check_type("allocation", allocation, Global, "Global(NM(2, 4))")
        self.model = unwrap(model)
        self.optimizer = unwrap_optimizer(optimizer)
        self.criterion = criterion
        self.schedule = schedule.resolve(total_steps)
        self._first = self.schedule.first_update()
        self.allocation = allocation
        self.hold = criterion.hold if hold is None else hold
        self.step = 0
        self._prunable, self.frozen = find_prunable(
            self.model, parameters, include_biases, include_embeddings
        )
        self.scopes = Scopes.of(self.model, self._prunable)
        self._masks = Masks(self._prunable, self.rest, self._gate)
        self._check(model, hold)

        self._reads_before = _overrides(criterion, "before_step")
        self._reads_after = _overrides(criterion, "after_step")
        self._learns = _overrides(criterion, "learner") and self.schedule.final > 0
        self.is_outcome = self._learns and criterion.outcome(torch.zeros(1), 1.0) is not None
        self.gradients: Callable[[], Mapping[str, Tensor]] | None = None
        self._seen: dict[str, Tensor] = {}  # gradients of this step, where not the parameters' own
        self._stepping: list[Tensor | None] | None = None  # gradients, between a step's two hooks
        self._adopt()
        self._attach()

    # --- attaching ---------------------------------------------------------------------------

    @property
    def rest(self) -> Rest:
        """What becomes of pruned weights between two selections."""
        if self.criterion.gated and self.schedule.final:
            return "gated"
        if self.criterion.dormant:
            return "dormant"
        return "held" if self.hold else "free"

    def _check(self, model: nn.Module, hold: bool | None) -> None:
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
        if self.optimizer in _taken:
            raise UsageError(
                "the optimizer already has a pruner; detach() that one first, or give one pruner "
                "all the parameters"
            )
        if isinstance(model, nn.DataParallel):
            check_copies(self.rest)
        self.allocation.check(
            {n: tuple(p.oriented(p.parameter).shape) for n, p in self._prunable.items()},
            self.schedule.final,
        )
        self._check_layout()
        if self.schedule.final and self._first < self.criterion.evidence:
            raise UsageError(
                f"{self.criterion!r} has no evidence before step {self.criterion.evidence}, when "
                f"its first window closes, but masks are first selected at step {self._first}; "
                "begin later, or shorten the window"
            )

    def _check_layout(self) -> None:
        for prunable in self._prunable.values():
            if is_sharded(prunable.parameter):
                shard_group(prunable.parameter)

    def _attach(self) -> None:
        for prunable in self._prunable.values():
            owners = _owners.setdefault(prunable.module, {})
            earlier = owners.get(prunable.attribute, lambda: None)()
            if earlier is not None:
                earlier.detach()
            owners[prunable.attribute] = ref(self)
        _taken.add(self.optimizer)
        self._hooks: list[RemovableHandle] = [
            self.optimizer.register_step_pre_hook(self._before),
            self.optimizer.register_step_post_hook(self._after),
            *self._masks.watch(self.model, self._on_forward, self._on_save, self._on_load),
        ]

    @property
    def _is_attached(self) -> bool:
        return bool(self._hooks)

    def detach(self) -> None:
        """Remove all hooks; pruned weights are zero, and what they were beneath is gone."""
        if not self._is_attached:  # what was trained since is left alone
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        _taken.discard(self.optimizer)
        for prunable in self._prunable.values():
            _owners.get(prunable.module, {}).pop(prunable.attribute, None)
        if not self._is_replaced():
            self._move()
            self._masks.settle()

    def _adopt(self) -> None:
        """Take the parameters as they are now, with fresh masks and scores."""
        with torch.inference_mode(False):
            self._parameters = {name: p.parameter for name, p in self._prunable.items()}
            self._group = groups_of(self.optimizer, self._parameters)
            weights = {name: local(p).detach() for name, p in self._parameters.items()}
            self._masks.reset(weights)
            self._state = {name: self.criterion.init(weight) for name, weight in weights.items()}
            scores = {name: state["score"] for name, state in self._state.items() if self._learns}
            self._learner = ScoreLearner(self.criterion, scores, self._group) if scores else None

    def _follow(self) -> None:
        """Take up parameters that were moved or, before the first step, replaced since last time.

        ``fully_shard`` replaces them.
        """
        if self._is_replaced():
            if self.step:
                raise UsageError(
                    f"the model's parameters were replaced after step {self.step - 1}, and masks "
                    "and scores belong to the old ones; make the pruner anew and load_state_dict() "
                    "it"
                )
            self._check_layout()
            self._adopt()
        self._move()

    def _is_replaced(self) -> bool:
        if any(map(is_sharded, self._parameters.values())):
            put_away(self.model)
        return any(
            self._prunable[name].parameter is not known for name, known in self._parameters.items()
        )

    def _move(self) -> None:
        for name, parameter in self._parameters.items():
            device = local(parameter).device
            if self._masks.values[name].device != device:
                self._masks.move(name, device)
                for tensor in self._state[name].values():
                    tensor.data = tensor.data.to(device)
                if self._learner is not None:
                    self._learner.move(name, device)

    # --- one optimizer step ------------------------------------------------------------------

    @torch.no_grad()
    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs.get("closure", args[1] if len(args) > 1 else None) is not None:
            raise UsageError(
                "optimizer.step(closure) computes the gradients inside the step, where a pruner "
                "cannot see them; call backward() yourself and step() without a closure"
            )
        gradients = [prunable.parameter.grad for prunable in self._prunable.values()]
        # A subclass that calls its parent's step runs the hooks twice: the outer pair begins a
        # step, the inner one ends it. With other gradients it is a new step, the last one failed.
        if self._stepping is not None and all(map(is_, gradients, self._stepping)):
            return
        self._follow()
        self._masks.bare()
        given = {} if self.gradients is None else self.gradients()
        # Fused optimizers run their hooks even on steps that a gradient scaler makes them skip,
        # and unscale the gradients themselves, inside the step.
        found_inf = getattr(optimizer, "found_inf", None)
        if (found_inf is not None and bool(found_inf)) or is_rehearsal(optimizer):
            return
        self._stepping = gradients
        spoiled = self._spoiled_gradients(getattr(optimizer, "grad_scale", None))
        self._seen = {**spoiled, **given}
        if self._reads_before:
            for name in self._prunable:
                self.criterion.before_step(self._view(name))
        if self._learner is not None and not self._masks.settled:
            self._learn(self._learner)

    @torch.no_grad()
    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._stepping is not None:
            self._stepping = None
            if self._reads_after:
                for name in self._prunable:
                    self.criterion.after_step(self._view(name))
            self._seen = {}
            self._choose()
            self.step += 1
        if self._masks.settled or self.rest == "held":
            self._masks.zero()
        elif self.rest != "free":
            self._masks.dress(self._prunable, training=False)

    def _choose(self) -> None:
        """New masks, where the schedule says so or the criterion has its own."""
        if self.is_outcome:
            if not self._masks.settled:
                self._threshold(self._progress(self.step))
        elif self.schedule.updates(self.step):
            self._select(self.schedule.sparsity(self.step))
        if not self._masks.settled and self._is_settled(self.step):
            self._masks.settle()

    def _is_settled(self, step: int) -> bool:
        """Whether no mask changes after a step any more."""
        return self.schedule.final > 0 and self.schedule.frozen(step)

    def _learn(self, learner: ScoreLearner) -> None:
        """Let the scores take a step, and hide from the optimizer what the masks hide."""
        gradients = {}
        for name, prunable in self._prunable.items():
            view = self._view(name, since=self.step - 1)
            if self.rest == "gated":
                view.gate = self.criterion.gate(view, training=True)
            gradients[name] = self.criterion.gradient(view)
            if prunable.parameter.grad is not None:
                gradient = local(prunable.parameter.grad)
                if view.gate is not None:
                    gradient.mul_(view.gate)
                if self._hides(training=True):
                    gradient.mul_(self._masks.values[name])
        learner.step(gradients, self.optimizer.param_groups)

    def _gate(self, name: str, training: bool) -> Tensor:
        gate = self.criterion.gate(self._view(name, gradient=False), training)
        return gate.mul_(self._masks.values[name]) if self._hides(training) else gate

    def _hides(self, training: bool) -> bool:
        """Whether masks hide weights: not in training those of random gates that have no target."""
        opens = training and self.rest == "gated" and self.is_outcome
        return self._masks.chosen and not opens

    def _spoiled_gradients(self, scale: Tensor | None) -> dict[str, Tensor]:
        """Copies of the gradients that are scaled, or that the optimizer is going to overwrite."""
        copies = {}
        for name, prunable in self._prunable.items():
            if prunable.parameter.grad is None:
                continue
            gradient = local(prunable.parameter.grad)
            group = self.optimizer.param_groups[self._group[name]]
            if scale is not None and (self._reads_before or self._reads_after or self._learns):
                wide = torch.promote_types(gradient.dtype, torch.float32)  # or it may underflow
                copies[name] = gradient.to(wide) / scale.to(gradient.device)
            elif overwrites_gradients(group) and self._reads_after:
                copies[name] = gradient.clone()
        return copies

    def _view(self, name: str, gradient: bool = True, since: int | None = None) -> View:
        """A parameter now, with the progress that its mask is of: by default this step's."""
        parameter = self._prunable[name].parameter
        seen = self._seen.get(name, parameter.grad) if gradient else None
        return View(
            name=name,
            weight=local(parameter).detach(),
            gradient=None if seen is None else local(seen),
            step=self.step,
            state=self._state[name],
            group=self.optimizer.param_groups[self._group[name]],
            optimizer_state={
                key: local(value) if isinstance(value, Tensor) else value
                for key, value in self.optimizer.state.get(parameter, {}).items()
            },
            progress=self._progress(self.step if since is None else since),
            tensors=len(self._prunable),
            layout=parameter,
        )

    def _progress(self, step: int) -> float:
        """How far sparsity has come after a step, in [0, 1]; nowhere until the first selection."""
        if not self.schedule.final or step < self._first:
            return 0.0
        return self.schedule.sparsity(step) / self.schedule.final

    def _threshold(self, progress: float) -> None:
        """The criterion's own masks, matrix by matrix."""
        for name, state in self._state.items():
            if state["score"].isnan().any():
                raise Diverged(f"the scores of {name} hold NaN at step {self.step}")
            parameter = self._prunable[name].parameter
            mask = self.criterion.outcome(whole(spread(state["score"], parameter)), progress)
            assert mask is not None
            self._masks.values[name] = part_of(mask, parameter)
        self._masks.chosen = True

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
            self._masks.values[name] = mask if apart else part_of(mask, prunable.parameter)
        self._masks.chosen = True
        if self.rest == "free":
            self._masks.zero()

    def _rows_apart(self, name: str) -> bool:
        """Whether masks can be chosen by processes that see some rows of a matrix each."""
        return self.allocation.pattern.within_rows and not self._prunable[name].transposed

    # --- hooks of the model ------------------------------------------------------------------

    def _on_forward(self, names: Iterable[str], module: nn.Module) -> None:
        if module is self.model:
            self._follow()
        # Inside the forward of a sharded part its modules hold gathered copies, made when dressed.
        here = [n for n in names if self._prunable[n].parameter is self._parameters[n]]
        self._masks.dress(here, module.training)

    def _on_save(self, names: Iterable[str], module: nn.Module) -> None:
        self._follow()
        self._masks.dress(names, training=False)

    def _on_load(self, names: Iterable[str], module: nn.Module) -> None:
        self._masks.loaded(names)

    def _show(self) -> None:
        """Have the model show its pruned weights, as evaluated."""
        if self._is_attached:
            self._follow()
            self._masks.dress(self._prunable, training=False)

    # --- looking at it -----------------------------------------------------------------------

    @property
    def masks(self) -> dict[str, Tensor]:
        """name -> bool tensor of the parameter's shape and layout, True = kept."""
        return {n: spread(mask, self._parameters[n]) for n, mask in self._masks.values.items()}

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
        self._show()
        return Summary(
            self.step,
            self.scopes.count(dict(named_parameters(self.model))),
            tuple(self.frozen),
            self.is_outcome,
        )

    # --- saving ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs beside the model's and the optimizer's own state.

        Tensors are by parameter name, of the parameters' shapes and layouts, and mostly not
        copied. ``beneath`` holds the weights as they are beneath their masks, ``learner`` the state
        of the scores' optimizer.
        """
        self._show()
        state: dict[str, Any] = {
            "step": self.step,
            "settings": self._settings(),
            "settled": self._masks.settled,
            "masks": self.masks,
            "scores": {n: self._spread(n, tensors) for n, tensors in self._state.items()},
        }
        if self.rest != "held":
            state["beneath"] = {
                n: spread(self._masks.beneath(n), p) for n, p in self._parameters.items()
            }
        if self._learner is not None:
            state["learner"] = {
                n: self._spread(n, tensors) for n, tensors in self._learner.state_dict().items()
            }
        return state

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
                parameters. The schedule may change, as where training is to go on for longer, but
                not so that gates which are part of the weights by now would open again.
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
        settled = self._is_settled(state["step"] - 1)
        if state["settled"] and not settled and self.rest == "gated":
            raise UsageError(
                f"the gates became part of the weights when the saved run's schedule ended, before "
                f"step {state['step']}; with end={self.schedule.end} they would apply once more: "
                "keep the schedule it was saved with"
            )

        def ours(name: str, value: Any) -> Any:
            """Our part of a saved tensor, in memory of its own."""
            if not isinstance(value, Tensor):
                return value
            parameter = self._parameters[name]
            moved = whole(value).to(local(parameter).device) if value.dim() else value
            return (part_of(moved, parameter) if value.dim() else moved).clone()

        self.step = state["step"]
        self._masks.forget(self._prunable)
        self._masks.settled = False
        for name in self._prunable:
            self._masks.values[name] = ours(name, state["masks"][name])
            for key, tensor in state["scores"][name].items():
                self._state[name][key].copy_(ours(name, tensor))
        self._masks.chosen = any(nonzeros(mask) < mask.numel() for mask in self.masks.values())
        if self._learner is not None:
            self._learner.load_state_dict(
                {
                    name: {key: ours(name, value) for key, value in values.items()}
                    for name, values in state["learner"].items()
                }
            )
        self._masks.zero()
        if settled:
            self._masks.settled = True
            return
        for name, tensor in state.get("beneath", {}).items():
            self._masks.restore(name, ours(name, tensor))

    def __getstate__(self) -> dict[str, Any]:
        """For ``copy.deepcopy`` and pickle: without the hooks, which belong to this optimizer."""
        self._show()
        return self.__dict__ | {"_hooks": [], "attached": self._is_attached}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Ride on the copied optimizer of the copied model as on the original."""
        attached = state.pop("attached")
        self.__dict__.update(state)
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


def _check_type(name: str, value: object, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        raise UsageError(f"{name}={value!r} is no {kind.__name__}; give one, such as {example}")


def _overrides(criterion: Criterion, method: str) -> bool:
    return getattr(type(criterion), method) is not getattr(Criterion, method)
