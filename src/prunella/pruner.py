"""The pruner: criterion, schedule and allocation riding on an optimizer through its step hooks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, WeakSet, ref

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from prunella.allocation import Global
from prunella.bitmask import can_code
from prunella.criteria.base import Criterion, View, scored
from prunella.errors import UsageError
from prunella.evidence import Evidence, overrides
from prunella.given import Given, Start
from prunella.masks import Masks, Rest, check_copies
from prunella.merged import MergedGradients
from prunella.optimizers import is_rehearsal, is_running, unwrap_optimizer, with_closure
from prunella.prunable import (
    Prunable,
    Scopes,
    few,
    find_prunable,
    named_parameters,
    unwrap,
)
from prunella.schedules import Schedule
from prunella.selection import Selection
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
from prunella.summary import Summary, left_dense
from prunella.twins import counterparts

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
        parameters: names or ``fnmatch`` patterns of the matrices to prune; by default those of
            linear layers, attention and experts in the repeated blocks (see
            ``prunella.prunable.find_prunable``).
        include_biases: prune the biases of these layers too.
        include_embeddings: prune the model's look-up tables too.
        hold: whether pruned weights stay zero between selections; None = as the criterion says.
        total_steps: optimizer steps of the run; needed where the schedule speaks in fractions.
        masks: name -> bool tensor, True = kept, of a model that was pruned before (see
            ``prunella.masks_from``). What they remove is zero from now on and never selected
            again; the schedule counts it in. While it asks for less, masks stay as they are, as
            they do to the end if its final sparsity is within 0.1 % of theirs. With ``PerMatrix``
            a matrix that is sparser than its share keeps its mask. None = as the model shows by
            its zeros before the first step (see ``prunella.given.shown``), which the log then
            says. ``"afresh"`` = zeros may come back.

    Attributes:
        step: successful optimizer steps so far; those that a gradient scaler skips do not count.
        frozen: names of parameters left out because they are not trained.
        is_outcome: whether sparsity is what comes of the criterion's threshold and penalty, and
            not what the schedule asks for.
        gradients: called at every step for gradients that the criterion is to see instead of the
            parameters' own, by name (see ``prunella.TaskGradients``); None = their own.
        on_selection: called after every selection of masks, before pruned weights are covered,
            with the scores it went by (name -> [out, in], or [matrices, out, in] where several are
            stacked; each computed when asked for) and the masks before it; None = nobody looks.

    Raises:
        UsageError: nothing to prune, an optimizer that lacks a prunable parameter, steps inside
            backward or already has a pruner, a pattern that does not fit, a schedule that selects
            before the criterion has evidence or ends below the sparsity that the model has.
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
        masks: Start = None,
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
        learns = overrides(criterion, "learner") and self.schedule.final > 0
        self.is_outcome = learns and criterion.outcome(torch.zeros(1), 1.0) is not None
        for name, prunable in self._prunable.items():
            _check_values(name, prunable.parameter)
        self._check_adapters(model)
        for earlier in self._earlier():
            earlier._show()
        self._given = Given(masks, self._prunable)
        self._begun = False  # by a step, or by a state that is gone on from
        self._check(model, hold)

        self._masks = Masks(self._prunable, self.rest, self._gate)
        self._evidence = Evidence(criterion, self._prunable, self.optimizer, learns)
        self._selection = Selection(
            criterion, allocation, self._prunable, self._masks, self._given, self._score_view
        )
        self.gradients: Callable[[], Mapping[str, Tensor]] | None = None
        self.on_selection: Callable[[Selection, Mapping[str, Tensor]], None] | None = None
        self._merged = MergedGradients(
            self._prunable, self._masks, self._evidence.reads_before or self._evidence.reads_after
        )
        self._call: FrameType | None = None  # of the optimizer's step, while it runs
        self._awaits_closure = False
        self._stepping = False  # whether it is a step that counts
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
            {name: prunable.shape for name, prunable in self._prunable.items()},
            self.schedule.final,
        )
        self._check_layout()
        self._check_start()

    def _check_adapters(self, model: nn.Module) -> None:
        adapted = {n: p for n, p in self._prunable.items() if p.adapter is not None}
        if not adapted:
            return
        if self.rest != "held":
            raise UsageError(
                f"pruned weights beneath adapters are held at zero, and with {self.criterion!r} "
                f"they are {self.rest}; "
                + ("leave out hold=False" if self.rest == "free" else "use PINS() or Magnitude()")
            )
        if self.criterion.reads_optimizer:
            raise UsageError(
                f"{self.criterion!r} reads what an optimizer keeps for a weight, and beneath "
                "adapters it keeps nothing; use Sensitivity(), PINS() or Magnitude()"
            )
        apart = any(map(is_sharded, model.parameters())) or isinstance(model, nn.DataParallel)
        several = distributed.is_initialized() and distributed.get_world_size() > 1
        reads = overrides(self.criterion, "before_step") or overrides(self.criterion, "after_step")
        if apart or (several and reads):
            raise UsageError(
                "the gradients of weights beneath adapters are those of one process; train with "
                "one, or with Magnitude() and DistributedDataParallel"
            )
        for name, p in adapted.items():
            assert p.adapter is not None
            p.adapter.check(name, p.parameter, p.transposed)

    def _check_start(self) -> None:
        if not self.is_outcome:
            self._given.check(self.allocation, self.schedule.final)
        selects = not self._given.suffices(self.allocation, self.schedule.final)
        if self.schedule.final and selects and self._first < self.criterion.evidence:
            raise UsageError(
                f"{self.criterion!r} has no evidence before step {self.criterion.evidence}, when "
                f"its first window closes, but masks are first selected at step {self._first}; "
                f"raise begin={self.schedule.begin}, lower window={self.criterion.evidence}, or "
                "train longer (total_steps)"
            )

    def _check_layout(self) -> None:
        for prunable in self._prunable.values():
            if is_sharded(prunable.parameter):
                shard_group(prunable.parameter)

    def _earlier(self) -> list[Pruner]:
        """Who prunes these parameters now."""
        owners = dict.fromkeys(
            _owners.get(p.module, {}).get(p.attribute, lambda: None)()
            for p in self._prunable.values()
        )
        return [owner for owner in owners if owner is not None]

    def _attach(self) -> None:
        for earlier in self._earlier():
            earlier.detach()
        for prunable in self._prunable.values():
            _owners.setdefault(prunable.module, {})[prunable.attribute] = ref(self)
        _taken.add(self.optimizer)
        self._hooks: list[RemovableHandle] = [
            self.optimizer.register_step_pre_hook(self._before),
            self.optimizer.register_step_post_hook(self._after),
            *self._masks.watch(self.model, self._on_forward, self._on_save, self._on_load),
            *self._merged.watch(),
        ]
        self._masks.hold()  # once more, as the earlier one may have put its own weights back

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
            self._evidence.adopt()
            weights = {n: local(p).detach() for n, p in self._evidence.parameters.items()}
            self._masks.reset(weights, self._given.parts())

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

    def _begin(self) -> None:
        """Take up zeros that came with weights loaded before the first step, and say what stays."""
        self._begun = True
        if not self._given.follows:
            return
        if self._given.look():
            self._check_start()
            self._adopt()
        self._given.say()

    def _is_replaced(self) -> bool:
        parameters = self._evidence.parameters
        if any(map(is_sharded, parameters.values())):
            put_away(self.model)
        return any(self._prunable[n].parameter is not known for n, known in parameters.items())

    def _move(self) -> None:
        for name, parameter in self._evidence.parameters.items():
            device = local(parameter).device
            if self._masks.values[name].device != device:
                self._masks.move(name, device)
                self._evidence.move(name, device)

    # --- one optimizer step ------------------------------------------------------------------

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        # A subclass that calls its parent's step runs the hooks again, within its own.
        if self._call is not None and is_running(self._call):
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        self._call, self._stepping = sys._getframe(1), False
        self._awaits_closure = closure is not None
        if closure is None:
            self._open(optimizer)
            return None
        return with_closure(args, kwargs, self._opening(optimizer, closure))

    def _opening(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
        """A closure that computes gradients within the step, followed by what comes before it."""
        versions = [prunable.stepped._version for prunable in self._prunable.values()]

        def opening() -> Any:
            updated = versions != [p.stepped._version for p in self._prunable.values()]
            if updated or not self._awaits_closure:
                raise UsageError(
                    f"{type(optimizer).__name__} calls its closure "
                    f"{'after' if updated else 'more than once in'} an update, and a pruner needs "
                    "the one gradient that the update rests on; call backward() yourself and "
                    "step() without a closure"
                )
            loss = closure()
            self._awaits_closure = False
            self._open(optimizer)
            return loss

        return opening

    @torch.no_grad()
    def _open(self, optimizer: Optimizer) -> None:
        """Let the criterion see the gradients, and the optimizer the weights beneath masks."""
        scale = getattr(optimizer, "grad_scale", None)
        self._follow()
        self._masks.bare()
        given = self._merged.collect(scale)
        given |= {} if self.gradients is None else self.gradients()
        # Fused optimizers run their hooks even on steps that a gradient scaler makes them skip,
        # and unscale the gradients themselves, inside the step.
        found_inf = getattr(optimizer, "found_inf", None)
        if (found_inf is not None and bool(found_inf)) or is_rehearsal(optimizer):
            return
        if not self._begun:
            self._begin()
        self._stepping = True
        self._evidence.see(scale, given)
        if self._evidence.reads_before:
            for name in self._prunable:
                self.criterion.before_step(self._view(name))
        if self._evidence.learns and not self._masks.settled:
            self._learn()

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = self._call
        if call is None or (call is not sys._getframe(1) and is_running(call)):
            return
        self._call = None
        if self._awaits_closure:
            self._awaits_closure = False
            raise UsageError(
                f"{type(optimizer).__name__} did not call its closure; call backward() yourself "
                "and step() without one"
            )
        self._close()

    @torch.no_grad()
    def _close(self) -> None:
        """Let the criterion see what became of the weights, choose masks, and cover with them."""
        if self._stepping:
            self._stepping = False
            if self._evidence.reads_after:
                for name in self._prunable:
                    self.criterion.after_step(self._view(name))
            self._evidence.forget()
            self._choose()
            self.step += 1
        if self._masks.settled or self.rest == "held":
            self._masks.zero()
            return
        self._masks.hold()
        if self.rest != "free":
            self._masks.dress(self._prunable, training=False)

    def _choose(self) -> None:
        """New masks, where the schedule says so or the criterion has its own."""
        selects = self.schedule.updates(self.step)
        before = self.masks if selects and self.on_selection is not None else {}
        if self.is_outcome:
            if not self._masks.settled:
                self._selection.take_outcome()
        elif selects:
            self._selection.choose(self.schedule.sparsity(self.step), self.step)
        if selects and self.on_selection is not None:
            self.on_selection(self._selection, before)
        if selects and self.rest == "free":
            self._masks.zero()
        if not self._masks.settled and self._is_settled(self.step):
            self._masks.settle()

    def _is_settled(self, step: int) -> bool:
        """Whether no mask changes after a step any more."""
        return self.schedule.final > 0 and self.schedule.frozen(step)

    def _learn(self) -> None:
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
                    gradient.masked_fill_(~self._masks.values[name], 0.0)
        self._evidence.learn(gradients)

    def _gate(self, name: str, training: bool) -> Tensor:
        gate = self.criterion.gate(self._score_view(name), training)
        return gate.mul_(self._masks.values[name]) if self._hides(training) else gate

    def _hides(self, training: bool) -> bool:
        """Whether masks hide weights: not in training those of random gates that have no target."""
        opens = training and self.rest == "gated" and self.is_outcome
        return self._masks.chosen and not opens

    def _view(self, name: str, gradient: bool = True, since: int | None = None) -> View:
        """A parameter now, with the progress that its mask is of: by default this step's."""
        progress = self._progress(self.step if since is None else since)
        return self._evidence.view(name, self.step, progress, gradient)

    def _score_view(self, name: str) -> View:
        """A parameter as it is scored: without a gradient."""
        return self._view(name, gradient=False)

    def _progress(self, step: int) -> float:
        """How far sparsity has come after a step, in [0, 1]; nowhere until the first selection."""
        if not self.schedule.final or step < self._first:
            return 0.0
        return self.schedule.sparsity(step) / self.schedule.final

    # --- hooks of the model ------------------------------------------------------------------

    def _on_forward(self, names: Iterable[str], module: nn.Module) -> None:
        if module is self.model:
            self._follow()
        # Inside the forward of a sharded part its modules hold gathered copies, made when dressed.
        known = self._evidence.parameters
        here = [name for name in names if self._prunable[name].parameter is known[name]]
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
    def prunable(self) -> dict[str, Prunable]:
        """name -> the parameter that is pruned, as its module holds it."""
        return dict(self._prunable)

    @property
    def masks(self) -> dict[str, Tensor]:
        """name -> bool tensor of the parameter's shape and layout, True = kept."""
        parameters = self._evidence.parameters
        return {n: spread(mask, parameters[n]) for n, mask in self._masks.values.items()}

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
                name: spread(scored(self.criterion, self._score_view(name)).clone(), parameter)
                for name, parameter in self._evidence.parameters.items()
            }

    def summary(self) -> Summary:
        """Weights and non-zero weights of the pruned model, in three scopes; prints as a table.

        It names what else of the model is large and stays dense.
        """
        self._show()
        merged = {n: p.value() for n, p in self._prunable.items() if p.adapter is not None}
        return Summary(
            self.step,
            self.scopes.count(dict(named_parameters(self.model)) | merged),
            tuple(self.frozen),
            self.is_outcome,
            left_dense(self.model, self._prunable),
        )

    @torch.no_grad()
    def apply_to(self, module: nn.Module) -> None:
        """Set to zero in a twin of the model what is pruned here.

        ::

            average.update_parameters(model)  # torch.optim.swa_utils.AveragedModel(model)
            pruner.apply_to(average)

        A twin has parameters of the same names and shapes: an average, a teacher, a copy that a
        loss keeps, the merged form of a model with adapters. Wrappers around either, or around
        their parts, are looked through. It gets the masks as they are now, and no pruner: call
        this again when they have changed, or the twin has. (Of gates, it gets what they prune.)

        Raises:
            UsageError: it lacks a pruned weight, or has it in another shape.
        """
        twins = counterparts(unwrap(module), self._prunable)
        for name, mask in self.masks.items():
            there = twins[name].parameter
            if there.shape != mask.shape:
                raise UsageError(
                    f"{name} is {tuple(mask.shape)} in the pruned model and {tuple(there.shape)} "
                    f"in {type(module).__name__}; give a module of the pruned model's shape"
                )
        for name, mask in self.masks.items():
            there = twins[name].parameter
            twins[name].hide(part_of(whole(mask).to(local(there).device), there))

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
            **self._evidence.state_dict(),
        }
        parameters = self._evidence.parameters.items()
        if self.rest != "held":
            state["beneath"] = {n: spread(self._masks.beneath(n), p) for n, p in parameters}
        if self._given:
            state["given"] = {n: spread(self._masks.given[n], p) for n, p in parameters}
        return state

    def _settings(self) -> dict[str, str]:
        return {
            "criterion": repr(self.criterion),
            "allocation": repr(self.allocation),
            "hold": repr(self.hold),
            "masks": repr(self._given),
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state; the model's and the optimizer's may be loaded before or after.

        Tensors may be whole ones or sharded over any number of processes.

        Raises:
            UsageError: the state is of another criterion, allocation or ``hold``, of masks other
                than those given or of other parameters; it keeps weights that are gone beneath
                adapters. The schedule may change, as where training is to go on for longer, but
                not so that gates which are part of the weights by now would open again.
        """
        self._follow()
        given = self._given
        if given.follows:  # much that is zero by now was pruned by the saved run itself
            given = Given(state.get("given", {}), self._prunable)
        for setting, value in (self._settings() | {"masks": repr(given)}).items():
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

        part = self._evidence.part
        masks = {name: part(name, state["masks"][name]) for name in self._prunable}
        self._check_frozen(masks)

        self.step = state["step"]
        self._evidence.load_state_dict(state)
        self._begun = True
        if self._given.follows:
            self._given.take(state.get("given", {}))
        self._masks.given = self._given.parts()
        self._masks.forget(self._prunable)
        self._masks.settled = False
        self._masks.values = masks
        self._masks.chosen = bool(self._given) or any(
            nonzeros(mask) < mask.numel() for mask in self.masks.values()
        )
        self._masks.zero()
        if settled:
            self._masks.settled = True
            return
        for name, tensor in state.get("beneath", {}).items():
            self._masks.restore(name, part(name, tensor))

    def _check_frozen(self, masks: Mapping[str, Tensor]) -> None:
        """Raise UsageError where weights beneath adapters are gone that masks keep."""
        adapted = {n: p for n, p in self._prunable.items() if p.adapter is not None}
        gone = sum(int((masks[n] & ~p.kept()).count_nonzero()) for n, p in adapted.items())
        if gone > few(sum(masks[n].numel() for n in adapted)):
            raise UsageError(
                f"{gone} weights that the state keeps are zero beneath their adapters by now, for "
                "frozen ones do not come back; load the base model anew, then its adapters"
            )

    def __getstate__(self) -> dict[str, Any]:
        """For ``copy.deepcopy`` and pickle: without the hooks, which belong to this optimizer."""
        self._show()
        apart: dict[str, Any] = {"_hooks": [], "_call": None, "attached": self._is_attached}
        return self.__dict__ | apart

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Ride on the copied optimizer of the copied model as on the original."""
        attached = state.pop("attached")
        self.__dict__.update(state)
        if attached:
            self._attach()


def _check_values(name: str, parameter: nn.Parameter) -> None:
    if parameter.is_meta:
        raise UsageError(
            f"{name} is on the meta device and has no values yet; load or initialise the model "
            "before its optimizer and pruner are made"
        )
    kind = type(local(parameter).detach())
    if kind is not Tensor or not can_code(parameter.dtype):
        raise UsageError(
            f"{name} is {parameter.dtype} in a {kind.__name__}, as quantised weights are; load the "
            "model in float32, bfloat16 or float16 to prune it, and quantise what is left"
        )


def _check_type(name: str, value: object, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        raise UsageError(f"{name}={value!r} is no {kind.__name__}; give one, such as {example}")
