"""What a criterion gathers about the parameters while they are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from prunella.criteria.base import Criterion, View
from prunella.learner import ScoreLearner
from prunella.optimizers import groups_of, overwrites_gradients
from prunella.prunable import Prunable
from prunella.sharding import local, part_of, spread, whole


class Evidence:
    """A criterion's state for every parameter, and what it is shown of them.

    Args:
        criterion: whose state it is.
        prunable: the parameters by name.
        optimizer: of the parameters.
        learns: whether the criterion's scores are trained.

    Attributes:
        parameters: name -> the parameter that the state belongs to.
        state: name -> the criterion's own tensors.
        reads_before, reads_after: whether the criterion looks at a step before and after it.

    Raises:
        UsageError: the optimizer lacks a parameter (from ``adopt``).
    """

    def __init__(
        self,
        criterion: Criterion,
        prunable: Mapping[str, Prunable],
        optimizer: Optimizer,
        learns: bool,
    ):
        self.reads_before = overrides(criterion, "before_step")
        self.reads_after = overrides(criterion, "after_step")
        self._criterion = criterion
        self._prunable = prunable
        self._optimizer = optimizer
        self._learns = learns
        self._seen: Mapping[str, Tensor] = {}  # gradients, where not the parameters' own

    def adopt(self) -> None:
        """Take the parameters as they are now, with fresh state."""
        parameters = {name: p.parameter for name, p in self._prunable.items()}
        stepped = {name: p.stepped for name, p in self._prunable.items()}
        self._group = groups_of(self._optimizer, stepped)
        self.parameters = parameters
        weights = {name: local(p).detach() for name, p in parameters.items()}
        self.state = {name: self._criterion.init(weight) for name, weight in weights.items()}
        scores = {name: state["score"] for name, state in self.state.items() if self._learns}
        self._learner = ScoreLearner(self._criterion, scores, self._group) if scores else None

    def move(self, name: str, device: torch.device) -> None:
        """Follow a parameter to another device."""
        for tensor in self.state[name].values():
            tensor.data = tensor.data.to(device)
        if self._learner is not None:
            self._learner.move(name, device)

    # --- what is seen ------------------------------------------------------------------------

    def see(self, scale: Tensor | None, given: Mapping[str, Tensor]) -> None:
        """Keep the gradients of a step that the parameters' own will not do for.

        Args:
            scale: what a gradient scaler has multiplied them by and the optimizer will undo.
            given: those that the criterion is to see instead.
        """
        self._seen = {**self._spoiled(scale), **given}

    def forget(self) -> None:
        """Drop the gradients of a step that is over."""
        self._seen = {}

    def _spoiled(self, scale: Tensor | None) -> dict[str, Tensor]:
        """Copies of the gradients that are scaled, or that the optimizer is going to overwrite."""
        copies = {}
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            gradient = local(parameter.grad)
            group = self._optimizer.param_groups[self._group[name]]
            if scale is not None and (self.reads_before or self.reads_after or self._learns):
                wide = torch.promote_types(gradient.dtype, torch.float32)  # or it may underflow
                copies[name] = gradient.to(wide) / scale.to(gradient.device)
            elif overwrites_gradients(group) and self.reads_after:
                copies[name] = gradient.clone()
        return copies

    def view(self, name: str, step: int, progress: float, gradient: bool = True) -> View:
        """A parameter now, at a step and a progress of the schedule, with its gradient or not."""
        parameter = self._prunable[name].parameter
        seen = self._seen.get(name, parameter.grad) if gradient else None
        return View(
            name=name,
            weight=self._prunable[name].value(),
            gradient=None if seen is None else local(seen),
            step=step,
            state=self.state[name],
            group=self._optimizer.param_groups[self._group[name]],
            optimizer_state={
                key: local(value) if isinstance(value, Tensor) else value
                for key, value in self._optimizer.state.get(parameter, {}).items()
            },
            progress=progress,
            tensors=sum(prunable.matrices for prunable in self._prunable.values()),
            slices=self._prunable[name].matrices,
            layout=parameter,
        )

    # --- learned scores ----------------------------------------------------------------------

    @property
    def learns(self) -> bool:
        """Whether scores are trained beside the weights."""
        return self._learner is not None

    def learn(self, gradients: Mapping[str, Tensor | None]) -> None:
        """Let the scores take a step on ∂loss/∂score."""
        assert self._learner is not None
        self._learner.step(gradients, self._optimizer.param_groups)

    # --- saving ------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Scores, and the state of their optimizer, laid out as the parameters are."""
        state = {"scores": {n: self._spread(n, tensors) for n, tensors in self.state.items()}}
        if self._learner is not None:
            learned = self._learner.state_dict()
            state["learner"] = {n: self._spread(n, tensors) for n, tensors in learned.items()}
        return state

    def _spread(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Laid out as the parameter is, where they are of its shape."""
        parameter = self.parameters[name]
        return {
            key: spread(value, parameter) if isinstance(value, Tensor) and value.dim() else value
            for key, value in values.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        for name, tensors in self.state.items():
            for key, saved in state["scores"][name].items():
                tensors[key].copy_(self.part(name, saved))
        if self._learner is not None:
            self._learner.load_state_dict(
                {
                    name: {key: self.part(name, value) for key, value in values.items()}
                    for name, values in state["learner"].items()
                }
            )

    def part(self, name: str, value: Any) -> Any:
        """Our part of a saved tensor, whole or sharded, in memory of its own."""
        if not isinstance(value, Tensor):
            return value
        if not value.dim():
            return value.clone()
        parameter = self.parameters[name]
        return part_of(whole(value).to(local(parameter).device), parameter).clone()


def overrides(criterion: Criterion, method: str) -> bool:
    """Whether a criterion has a method of its own."""
    return getattr(type(criterion), method) is not getattr(Criterion, method)
