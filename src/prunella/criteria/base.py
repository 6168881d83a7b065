"""What a criterion is: a score for every weight, from what one optimizer step shows of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class View:
    """One parameter as a criterion sees it around one optimizer step.

    Args:
        name: the parameter's name in the model.
        weight: its value now: θ before the optimizer's update, θ̂ after it.
        gradient: ∂L/∂θ of this step, unscaled, as it was before the step; None where the step had
            none, which to first order means zero, and None for ``Criterion.score``.
        step: successful optimizer steps before this one.
        state: the criterion's own tensors, as made by ``init``.
        group: the optimizer's parameter group that it belongs to; to be read only.
        optimizer_state: what the optimizer keeps for the parameter; to be read only.
    """

    name: str
    weight: Tensor
    gradient: Tensor | None
    step: int
    state: dict[str, Tensor]
    group: Mapping[str, Any] = field(default_factory=dict)
    optimizer_state: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lr(self) -> float:
        """The learning rate η of this step."""
        return float(self.group["lr"])

    def times_gradient(self) -> Tensor:
        """g·weight in at least float32 (a new tensor)."""
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        if self.gradient is None:
            return torch.zeros_like(self.weight, dtype=wide)
        return torch.mul(self.weight.to(wide), self.gradient.to(wide))


class Criterion:
    """A score for every prunable weight; the higher, the rather it is kept.

    A method needs ``score`` alone. One that gathers evidence over time also says what it keeps
    (``init``) and reads the gradient before or after the optimizer's update. Everything else, the
    loop, the masks and the checkpoints, lives in ``Pruner``.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"  # states are compared by it: no address in it

    hold: bool = True
    """Whether pruned weights stay zero between two selections, or grow freely as released."""

    @property
    def evidence(self) -> int:
        """The first step after which a score rests on anything."""
        return 0

    def init(self, weight: Tensor) -> dict[str, Tensor]:
        """The state to keep for a parameter: named tensors of the parameter's shape."""
        return {}

    def before_step(self, view: View) -> None:
        """Look at θ and its gradient before the optimizer's update."""

    def after_step(self, view: View) -> None:
        """Look at θ̂ after the optimizer's update, before pruned weights are zeroed again."""

    def score(self, view: View) -> Tensor:
        """Scores of the parameter's shape, from θ̂ and the state; all zero means no evidence."""
        raise NotImplementedError


def averages(weight: Tensor, *names: str) -> dict[str, Tensor]:
    """State of running averages: zeros of the weight's shape in at least float32."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return {name: torch.zeros_like(weight, dtype=wide) for name in names}
